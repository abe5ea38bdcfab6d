"""The quickstart with each product as a TPU's default computes it, on a CPU: what that changes.

    python tests/support/one_bf16_pass.py runs/one_bf16_pass [--config.SECTION.NAME=VALUE ...]

`model.matmul_precision=default` is one pass of a TPU's matrix unit: both operands rounded to
bfloat16, products and sums in float32. A CPU has no such pass; here operands are rounded where JAX
lowers a product, in the backward pass too, and evaluation reads what such a model answers. Nothing
else differs from `experiments/quickstart.py`. The workdir is one like all others, and resumes.
"""

import sys
from typing import Any

import jax
import jax.numpy as jnp
from jax._src.interpreters import mlir as lowerings  # has no public way to wrap a rule
from jax.extend.core import primitives
from jax.interpreters import mlir
from jaxlib.mlir.dialects import stablehlo

from grokjax import load_experiment, train_and_evaluate
from grokjax.runtime.devices import setup_devices

DOT = primitives.dot_general_p


def round_operands() -> None:
    """From here on a product's float operands have bfloat16's eight bits of mantissa."""
    exact = lowerings._platform_specific_lowerings["cpu"][DOT].rule

    def rounded(ctx: Any, x: Any, y: Any, **params: Any) -> Any:
        if jnp.issubdtype(ctx.avals_in[0].dtype, jnp.floating):
            x, y = (
                stablehlo.reduce_precision(operand, mlir.i32_attr(8), mlir.i32_attr(7))
                for operand in (x, y)
            )
        return exact(ctx, x, y, **params)

    mlir.register_lowering(DOT, rounded, platform="cpu")


def main(workdir: str, *overrides: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    setup_devices()
    round_operands()
    train_and_evaluate(load_experiment("experiments/quickstart.py", overrides), workdir)


if __name__ == "__main__":
    main(*sys.argv[1:])
