"""Counts of HLO text against sums made by hand, and of compiled programs whose FLOPs are known."""

# ruff: noqa: E501 (HLO is written as compilers write it)

import jax
import jax.numpy as jnp
import pytest

from grokjax.instruments.hlo import Program

TPU = """HloModule jit_chunk, is_scheduled=true, entry_computation_layout={()->f32[8,4]{1,0}}

%fused (param_0: f32[8,16], param_1: f32[16,4]) -> f32[8,4] {
  %param_0 = f32[8,16]{1,0:T(8,128)S(1)} parameter(0)
  %param_1 = f32[16,4]{1,0:T(8,128)} parameter(1)
  ROOT %dot.1 = f32[8,4]{1,0:T(8,128)} dot(%param_0, %param_1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (carry: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %carry = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)S(1)}) parameter(0)
  %left = f32[8,16]{1,0:T(8,128)S(1)} get-tuple-element(%carry), index=1
  %weights = f32[16,4]{1,0:T(8,128)} custom-call(), custom_call_target="AllocateBuffer"
  %fusion.1 = f32[8,4]{1,0:T(8,128)} fusion(%left, %weights), kind=kOutput, calls=%fused, backend_config={"window_config":{"estimated_cycles":"70"}}
  %gathered = f32[32,4]{1,0:T(8,128)} all-gather(%fusion.1), channel_id=1, dimensions={0}
  ROOT %out = (s32[], f32[8,16]{1,0:T(8,128)S(1)}) tuple(%left, %left)
}

%condition (carry.1: (s32[], f32[8,16])) -> pred[] {
  %carry.1 = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)S(1)}) parameter(0)
  %limit = s32[]{:T(128)} constant(LIMIT)
  %count = s32[]{:T(128)} get-tuple-element(%carry.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%count, %limit), direction=LT
}

ENTRY %main () -> f32[8,4] {
  %start = (s32[], f32[8,16]{1,0:T(8,128)S(1)}) tuple()
  %while.1 = (s32[], f32[8,16]{1,0:T(8,128)S(1)}) while(%start), condition=%condition, body=%body
  ROOT %end = f32[8,4]{1,0:T(8,128)} get-tuple-element(%while.1), index=1
}
"""


def test_a_loop_counts_as_often_as_it_runs():
    step = Program(TPU.replace("LIMIT", "10")).counts().per(10)
    assert step.flops == 2 * 8 * 4 * 16
    # The condition's comparison is a kernel of its own, of two numbers and a truth value.
    in_fusion, in_gather, in_compare = (
        4 * (8 * 16 + 16 * 4 + 8 * 4),
        4 * (8 * 4 + 32 * 4),
        4 + 4 + 1,
    )
    assert step.bytes == in_fusion + in_gather + in_compare
    assert step.bytes_off_chip == step.bytes - 4 * 8 * 16
    assert step.kernels == 3 and step.cycles == 70
    assert step.collectives == [("all-gather", "f32[32,4]", pytest.approx(1.0))]
    assert step.collective_bytes == pytest.approx(4 * 32 * 4)
    assert step.unknown_loops == step.host_transfers == 0


def test_a_loop_of_unknown_length_is_told_and_counts_once():
    text = TPU.replace("constant(LIMIT)", "get-tuple-element(%carry.1), index=0")
    counts = Program(text).counts()
    assert counts.unknown_loops == counts.host_transfers == 1
    assert counts.flops == 2 * 8 * 4 * 16


def test_a_batched_product_written_as_a_convolution_counts_no_padding():
    """As a v5e's compiler writes a product of 8 runs: base-dilated, one place of the kernel each."""
    text = """HloModule m

ENTRY %main (a: bf16[8,320,64], b: bf16[8,64,64]) -> bf16[8,320,64] {
  %a = bf16[8,320,64]{2,1,0} parameter(0)
  %b = bf16[8,64,64]{2,1,0} parameter(1)
  ROOT %c = bf16[8,320,64]{2,1,0} convolution(%a, %b), window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0io->0bf
}
"""
    assert Program(text).counts().flops == 2 * 8 * 320 * 64 * 64


@pytest.mark.parametrize("num_steps", [1, 7])
def test_flops_of_a_compiled_scan(num_steps):
    """XLA's own count takes the body once."""

    def scan(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=num_steps)[0]

    shapes = jax.ShapeDtypeStruct((32, 64), "float32"), jax.ShapeDtypeStruct((64, 64), "float32")
    counts = Program(jax.jit(scan).lower(*shapes).compile().as_text()).counts()
    assert counts.flops == num_steps * 2 * 32 * 64 * 64
    assert counts.unknown_loops == 0


def test_a_search_has_no_known_length():
    def search(x):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 100, lambda x: x * 2, x)

    shape = jax.ShapeDtypeStruct((8,), "float32")
    assert Program(jax.jit(search).lower(shape).compile().as_text()).counts().unknown_loops == 1


def test_other_text_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        Program("module @jit_f {}")
