"""The quickstart with each product as a TPU's default computes it, on a CPU: what that changes.

    python tests/support/one_bf16_pass.py runs/one_bf16_pass

`model.matmul_precision=default` is one pass of a TPU's matrix unit: both operands rounded to
bfloat16, products and sums in float32. A CPU has no such pass; here operands are rounded where JAX
lowers a product, in the backward pass too, and evaluation reads what such a model answers. Nothing
else differs from `experiments/quickstart.py`. The workdir is one like all others, and resumes; ten
minutes on two quiet cores. At the end `experiments/results/accelerators/precision.csv` and its
picture get these runs beside those of `experiments/results/quickstart`.
"""

import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import pandas as pd
from jax.extend.core import primitives
from jax.interpreters import mlir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

from grokjax import Results, load, load_experiment, train_and_evaluate
from grokjax.base import names
from grokjax.runtime.devices import setup_devices

DOT = primitives.dot_general_p
RESULTS = pathlib.Path(__file__).parents[2] / "experiments" / "results"
ROUNDED, EXACT = "one bf16 pass", "float32"
SHOWN = {
    names.TRAINING_ACCURACY: "training accuracy",
    f"{names.TEST_INFERRED_IID}/{names.ANSWER_ACCURACY}": "held-out ID accuracy",
    names.OOD_ACCURACY: "OOD accuracy",
}


def round_operands() -> None:
    """From here on a product's float operands have bfloat16's eight bits of mantissa."""

    def rounded(ctx: Any, x: Any, y: Any, **params: Any) -> Any:
        (left, right), (left_batch, right_batch) = params["dimension_numbers"]
        axes = stablehlo.DotDimensionNumbers.get(
            lhs_batching_dimensions=list(left_batch), rhs_batching_dimensions=list(right_batch),
            lhs_contracting_dimensions=list(left), rhs_contracting_dimensions=list(right),
        )  # fmt: skip
        if jnp.issubdtype(ctx.avals_in[0].dtype, jnp.floating):
            x, y = (
                stablehlo.reduce_precision(operand, mlir.i32_attr(8), mlir.i32_attr(7))
                for operand in (x, y)
            )
        element = ir.RankedTensorType(x.type).element_type
        result = ir.RankedTensorType.get(ctx.avals_out[0].shape, element)
        return [stablehlo.dot_general(result, x, y, axes)]

    mlir.register_lowering(DOT, rounded, platform="cpu")


def curves_of(results: Results, products: str) -> pd.DataFrame:
    runs = results.runs[["run_id", "regime", "seeds.data"]]
    curves = results.curves[["run_id", "step", *SHOWN]].rename(columns=SHOWN)
    return runs.merge(curves, on="run_id").drop(columns="run_id").assign(products=products)


def draw(both: pd.DataFrame) -> plt.Figure:
    """OOD accuracy of each run, a panel for each regime."""
    regimes = list(dict.fromkeys(both.regime))
    figure, axes = plt.subplots(1, len(regimes), figsize=(9, 2.6), sharey=True, layout="tight")
    for axis, regime in zip(axes, regimes, strict=True):
        for products, colour, style in ((EXACT, "black", "-"), (ROUNDED, "#d55e00", "--")):
            own = both[(both.regime == regime) & (both.products == products)]
            for seed, run in own.groupby("seeds.data"):
                label = products if seed == own["seeds.data"].min() else None
                axis.plot(run.step / 1000, run["OOD accuracy"], style, color=colour, label=label)
        axis.set(title=f"{regime} (n = 4)", xlabel="training step (thousands)", ylim=(-0.02, 1.02))
    axes[0].set_ylabel("OOD accuracy")
    axes[0].legend(frameon=False)
    return figure


def main(workdir: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    setup_devices()
    round_operands()
    rounded = train_and_evaluate(load_experiment("experiments/quickstart.py"), workdir)
    exact = load(RESULTS / "quickstart")
    both = pd.concat([curves_of(exact, EXACT), curves_of(rounded, ROUNDED)], ignore_index=True)
    folder = RESULTS / "accelerators"
    draw(both).savefig(folder / "precision.png", dpi=150)
    last = both[both.step == both.step.max()].drop(columns="step").round(4)
    columns = ["products", "regime", "seeds.data", *SHOWN.values()]
    last[columns].to_csv(folder / "precision.csv", index=False, lineterminator="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
