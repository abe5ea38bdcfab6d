"""What differs between the targets of one source, chosen where a program is made for a mesh.

Numbers are the same but for rounding. Each choice with the counts of both ways, of one optimiser
step as `grokjax compile` has them (jax 0.10.2, libtpu 0.0.42; quickstart at precision "default",
its bytes, kernels and cycles of one run of 64 on sm_90, of 8 on v5e where nothing else is said):

| choice | model, target | without | with |
|---|---|---|---|
| attention by rows | quickstart, sm_90 | 63.9 MB, 260 kernels | 54.9 MB, 200 kernels |
| attention in columns | quickstart, v5e | 225 k cycles (rows: 198 k) | 164 k cycles |
| kernel for channels | quickstart, sm_90 | 54.9 MB, 200 kernels | 33.0 MB, 148 kernels |
| kernel for positions | paper, sm_90 | 207 GB, 21 GiB of temporaries | 64 GB, 5.4 GiB |
| blocks of channels | paper, v5e | needs 22.1 of 15.75 GiB | 5.0 GiB, 24.4 TFLOP, 553 M cycles |
| unflattened products | paper in blocks of `remat`, v5e | 1.74 G cycles | 0.81 G cycles |
| runs in groups of 16 | quickstart, v5e, 64 and 256 runs | 390 k and 500 k cycles | 147 k at both |
| one evaluation group | quickstart, v5e, 64 runs | 3.2 GB of temporaries | 0.01 GB |
| a batch divided by hand | paper on four v5e | 12.1 TFLOP, 270 M cycles each | 6.11 TFLOP, 124 M |

With the gated MLP of channels on flat rows throughout, the 147 k are 124 k. At precision "highest"
the step has as many bytes and kernels on sm_90; a float32 product is six passes of a TPU's matrix
unit. There a run of 64 costs a v5e 186 k cycles, on flat rows 162 k, and 145 k with queries, keys
and values of the columns each a product of rows, turned. One product of all three, which turns its
result itself, is sliced and has the slices' gradients added, is the 162 k; at "default" the two are
131 k and 124 k.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from grokjax.model import Layout, ModelConfig
from grokjax.model.layers import CHANNELS

_ON_CHIP = 100e6  # bytes of a TPU's vector memory for the activations of a group of runs
_FEW_POSITIONS = 8
_NARROW = 64  # what a program of the gated MLP's kernel holds in registers


def choose_layout(
    model: ModelConfig, platform: str, batch_size: int, whole: bool = True
) -> ModelConfig:
    """The model as a target computes it best.

    Args:
      model: of a population.
      platform: of the devices that compute it, as JAX names it.
      batch_size: rows of one run on one device.
      whole: whether a program is of one device; or XLA divides the batch, and knows no kernels.
    """
    if model.is_stack:
        return model
    has_kernel = _has_kernel(model, model.hidden_size, platform, whole)
    layout = Layout(
        flat=_is_flat(model, platform, whole),
        attention=_attention(model, platform),
        mixer=_mixer(model, platform, whole, batch_size),
        mlp="kernel" if has_kernel else "products",
    )
    return dataclasses.replace(model, layout=layout)


def _is_flat(model: ModelConfig, platform: str, whole: bool) -> bool:
    return whole and (platform != "tpu" or model.hidden_size < CHANNELS)


def _attention(model: ModelConfig, platform: str) -> str:
    if platform == "cpu" or model.length > _FEW_POSITIONS:
        return "products"
    return "columns" if platform == "tpu" and model.positions != "rotary" else "rows"


def _mixer(model: ModelConfig, platform: str, whole: bool, batch_size: int) -> str:
    if _has_kernel(model, model.length, platform, whole):
        return "kernel"
    inner = batch_size * model.inner_size(model.length) * model.hidden_size
    is_large = inner * jnp.dtype(model.dtype).itemsize > _ON_CHIP
    divides = whole and model.hidden_size % CHANNELS == 0
    return "blocks" if platform != "cpu" and is_large and divides else "products"


def _has_kernel(model: ModelConfig, width: int, platform: str, whole: bool) -> bool:
    fits = width <= _NARROW and model.dtype != "float64"
    return platform == "gpu" and whole and fits


def runs_at_once(platform: str, bytes_of_a_run: float) -> int | None:
    """Runs of a device that are computed together; None: all."""
    if platform != "tpu":
        return None
    return max(int(_ON_CHIP / bytes_of_a_run), 1)


def training_bytes(model: ModelConfig, batch_size: int) -> float:
    """About what a run's forward pass keeps for the backward one."""
    cycles = model.gradient_cycles or model.H_cycles
    blocks = cycles * (model.L_cycles + 1) * model.num_layers
    if model.is_stack:
        blocks = model.num_loops * model.num_layers
    width = 6 * model.hidden_size + 4 * model.inner_size(model.hidden_size)
    return float(batch_size * model.length * width * blocks * jnp.dtype(model.dtype).itemsize)


def evaluation_bytes(model: ModelConfig, batch_size: int) -> float:
    """About what the lens reads: states and logits of every stage."""
    numbers = 2 * model.hidden_size + 2 * model.vocab_size
    return float(4 * len(model.evaluation_stages) * batch_size * model.length * numbers)
