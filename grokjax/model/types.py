"""What describes a model and what passes through it: settings, traces, interventions, outputs."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from grokjax.base.names import DECODER, POSITIONS, RECURSIVE
from grokjax.settings.own_functions import is_stack

Params = dict[str, Any]
Buffers = dict[str, Array]

# What a block adds to its stream, and each attention head's mix of values before that.
BLOCK_COMPONENTS = ("heads", "mixer", "mlp")


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the recursive model's numbers are computed, never which: `training/choices.py` chooses.

    Attributes:
      flat: whether products over the last axis see [S, B, I] as a matrix.
      attention: "products" (batched), or sums of elementwise products with the channels innermost
        ("rows") or the batch ("columns", not with rotary positions).
      mixer: of the gated MLP over positions: "products", "blocks" (some channels after the others,
        and anew in the backward pass), or "kernel" (one of a GPU's).
      mlp: of the gated MLP over channels: "products" or "kernel".
      interpret: whether kernels run as plain JAX: tests, on a CPU.
    """

    flat: bool = True
    attention: str = "products"
    mixer: str = "products"
    mlp: str = "products"
    interpret: bool = False


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What shapes the program. Hashable, so that it can be closed over or passed as static."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    H_cycles: int
    L_cycles: int
    kind: str = RECURSIVE
    seq_len: int = 5
    token_names: tuple[str, ...] = POSITIONS  # of the T tokens
    gradient_cycles: int = 1  # trailing H cycles with gradient; 0 means all
    mixer: str = "mlp"
    positions: str = "none"
    num_heads: int = 1
    expansion: float = 4.0
    mlp_multiple: int = 256
    num_registers: int = 0
    register_size: int = 0
    num_identifiers: int = 1
    tied_head: bool = False  # the output head is the embedding; always so in the decoder
    halt_max_steps: int = 1  # forward passes a sequence may take, its state carried over
    halt_exploration: float = 0.1
    num_loops: int = 1  # of a stack: times that its layers run
    dropout: float = 0.0  # of the decoder
    dtype: str = "float32"
    matmul_precision: str = "highest"  # of products of float32 numbers
    remat: str = "none"  # "blocks": a backward pass computes what is inside of them anew
    layout: Layout = Layout()

    @property
    def length(self) -> int:
        """S: positions of a state, registers first."""
        return self.num_registers + self.seq_len

    @property
    def is_stack(self) -> bool:
        """Whether one stream of states passes layers, `num_loops` times."""
        return is_stack(self.kind)

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of what the lens and patches see in one forward pass, in order."""
        if self.is_stack:
            return decoder_stage_names(self.num_loops, self.num_layers)
        return stage_names(self.H_cycles, self.L_cycles)

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the U applications of a block in one forward pass, in order."""
        if self.is_stack:
            return self.stages[1:]
        return tuple(f"{s}_Layer{i}" for s in self.stages[1:] for i in range(self.num_layers))

    @property
    def evaluation_stages(self) -> tuple[str, ...]:
        """The same for an evaluation, which takes every halting step."""
        if self.halt_max_steps == 1:
            return self.stages
        steps = range(self.halt_max_steps)
        return tuple(f"S{step}_{stage}" for step in steps for stage in self.stages)

    @property
    def evaluation_blocks(self) -> tuple[str, ...]:
        """Block applications of an evaluation."""
        if self.halt_max_steps == 1:
            return self.blocks
        steps = range(self.halt_max_steps)
        return tuple(f"S{step}_{block}" for step in steps for block in self.blocks)

    @property
    def predicts_input(self) -> bool:
        """Whether every position is predicted at once, the question included; or the rest only."""
        return self.kind != DECODER

    @property
    def precision(self) -> str:
        """Of the computation's products; bfloat16 numbers are multiplied exactly as they are."""
        return "default" if self.dtype == "bfloat16" else self.matmul_precision

    @property
    def param_dtype(self) -> Any:
        return jnp.float64 if self.dtype == "float64" else jnp.float32

    def inner_size(self, width: int) -> int:
        """The gated MLP's inner width over an axis of `width`, rounded up to `mlp_multiple`."""
        wanted = round(self.expansion * width * 2 / 3)
        return -(-wanted // self.mlp_multiple) * self.mlp_multiple


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trace:
    """Both states after every stage, [G, B, S, D], and the stages' names.

    A model with one stream of states has it in z_H, and None in z_L.
    """

    z_H: Float[Array, "G B S D"]
    z_L: Float[Array, "G B S D"] | None
    stages: tuple[str, ...] = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Patch:
    """An intervention as data: some states become those of another run as the network computes.

    Both fields are keyed by component; one that `share` lacks is left alone. The streams are "z_H"
    and "z_L", after each stage, and "embedding", which the recursive model injects again in every L
    update, from stage g on; the decoder has z_H alone. Inside of blocks: BLOCK_COMPONENTS.

    A share of 0 keeps the state and 1 replaces it exactly; in between it interpolates, so that the
    derivative at 0 is attribution patching.
    """

    # Streams [G, B, S, D], the embedding [B, S, D], blocks [U, B, S, D], heads [U, B, S, H, K].
    source: dict[str, Array]
    # [G, S]; blocks [U, S]; heads [U, S, H].
    share: dict[str, Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Output:
    """One forward pass; `logits[:, t]` are about token t.

    `carry` is (z_H, z_L), [B, S, D] each, for models that continue from it, else (). `q_logits` are
    zeros for models without a halting head.
    """

    logits: Float[Array, "B T V"]
    q_logits: Float[Array, "B 2"]
    carry: tuple[Array, ...]
    embedding: Float[Array, "B S D"]
    trace: Trace
    internals: dict[str, Array]  # "mixer", "mlp" [U, B, S, D], with attention "heads"

    def states(self) -> dict[str, Array]:
        """All that a `Patch` can take from this pass, by component."""
        states = {"z_H": self.trace.z_H} | self.internals
        if self.trace.z_L is not None:
            states |= {"z_L": self.trace.z_L, "embedding": self.embedding}
        return states


def stage_names(H_cycles: int, L_cycles: int) -> tuple[str, ...]:
    """`Init`, then `H{i}_L{j}_Thinking` after each z_L and `H{i}_Commit` after each z_H update."""
    names = ["Init"]
    for h in range(H_cycles):
        names += [f"H{h}_L{j}_Thinking" for j in range(L_cycles)] + [f"H{h}_Commit"]
    return tuple(names)


def decoder_stage_names(num_loops: int, num_layers: int) -> tuple[str, ...]:
    """`Init` (the embedding), then `Loop{i}_Layer{j}` after each layer."""
    return (
        "Init",
        *(f"Loop{i}_Layer{j}" for i in range(num_loops) for j in range(num_layers)),
    )
