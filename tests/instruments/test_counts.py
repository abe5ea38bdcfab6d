"""Counts of HLO text against sums made by hand, and of compiled programs whose FLOPs are known."""

# ruff: noqa: E501 (HLO is written as compilers write it)

import jax
import jax.numpy as jnp
import pytest

from grokjax.instruments.counts import Program

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


FUSED = """HloModule m

%fused (p0: f32[100,8,4], p1: s32[], p2: f32[100,4]) -> f32[100,4] {
  %p0 = f32[100,8,4]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %p2 = f32[100,4]{1,0} parameter(2)
  %zero = s32[] constant(0)
  %cut = f32[1,8,4]{2,1,0} dynamic-slice(%p0, %p1, %zero, %zero), dynamic_slice_sizes={1,8,4}
  %row = f32[1,4]{1,0} reduce(%cut, %zero), dimensions={1}, to_apply=%add
  ROOT %put = f32[100,4]{1,0} dynamic-update-slice(%p2, %row, %p1, %zero)
}

ENTRY %main (a: f32[100,8,4], i: s32[], b: f32[100,4]) -> f32[100,4] {
  %a = f32[100,8,4]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %b = f32[100,4]{1,0} parameter(2)
  ROOT %fusion = f32[100,4]{1,0} fusion(%a, %i, %b), kind=kLoop, calls=%fused
}
"""


def test_of_what_is_sliced_the_slice_moves():
    """A scan's fusion reads one step of its inputs and writes one of its outputs."""
    counts = Program(FUSED).counts()
    assert counts.bytes == 4 * (100 * 8 * 4 + 1 + 100 * 4 + 100 * 4)
    assert counts.bytes_moved == 4 * (8 * 4 + 1 + 4)
    whole = Program(FUSED.replace("reduce(%cut", "reduce(%p0")).counts()
    assert whole.bytes_moved == 4 * (100 * 8 * 4 + 1 + 4)


MOSAIC = """HloModule m

ENTRY %main (a: f32[256,128]) -> f32[256,128] {
  %a = f32[256,128]{1,0} parameter(0)
  ROOT %k = f32[256,128]{1,0} custom-call(%a), custom_call_target="tpu_custom_call", metadata={op_name="jit(f)/own/pallas_call"}, backend_config={"custom_call_config":{"cost_estimate":{"flops":"12345","transcendentals":"7","bytes_accessed":"6789"}}}
}
"""
TRITON = (
    MOSAIC.replace("tpu_custom_call", "__gpu$xla.gpu.triton").split(", backend_config")[0] + "\n}\n"
)


@pytest.mark.parametrize(("text", "declared"), [(MOSAIC, {}), (TRITON, {"own": (12345, 6789)})])
def test_a_custom_kernel_is_priced_by_what_it_declares(text, declared):
    counts = Program(text, declared).counts()
    assert counts.flops == counts.declared_flops == 12345
    assert counts.bytes == counts.bytes_moved == counts.declared_bytes == 6789
    assert counts.custom_kernels == counts.kernels == 1


@pytest.mark.parametrize("quote", ['"', r"\22"])
def test_a_kernel_may_declare_what_each_program_of_its_grid_computes(quote):
    said = "{grid_x = 3 : i32, grid_y = 2 : i32, grid_z = 1 : i32, "
    said += f"metadata = '{{{quote}flops_of_a_program{quote}: {quote}700{quote}}}'}}"
    text = TRITON.replace("\n}\n", f", backend_config={said}\n}}\n")
    counts = Program(text).counts()
    assert counts.flops == counts.declared_flops == 700 * 6 and counts.custom_kernels == 1
    assert counts.bytes == 2 * 4 * 256 * 128


def test_one_that_declares_nothing_has_its_operands_alone():
    counts = Program(TRITON).counts()
    assert counts.custom_kernels == 1 and counts.flops == counts.declared_bytes == 0
    assert counts.bytes == counts.bytes_moved == 2 * 4 * 256 * 128


def test_a_collective_within_a_fusion_counts():
    text = """HloModule m

%inside (p0: f32[8]) -> f32[8] {
  %p0 = f32[8]{0} parameter(0)
  ROOT %sum = f32[8]{0} all-reduce(%p0), to_apply=%add
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  ROOT %f = f32[8]{0} fusion(%a), kind=kCustom, calls=%inside
}
"""
    assert Program(text).counts().collectives == [("all-reduce", "f32[8]", 1)]


def test_an_asynchronous_start_makes_one_array():
    text = """HloModule m

ENTRY %main (a: f32[8]) -> f32[32] {
  %a = f32[8]{0} parameter(0)
  %s = (f32[8]{0}, f32[32]{0}) all-gather-start(%a), dimensions={0}
  ROOT %d = f32[32]{0} all-gather-done(%s)
}
"""
    counts = Program(text).counts()
    assert counts.collectives == [("all-gather", "f32[32]", 1)] and counts.kernels == 1
    assert counts.bytes == 4 * (8 + 32) and counts.largest_gather == 4 * 32


def test_a_loop_that_starts_late_and_takes_two_at_a_time():
    text = TPU.replace("LIMIT", "10")
    text = text.replace("tuple(%left, %left)", "tuple(%next, %left)").replace(
        "  %weights = ", "  %two = s32[] constant(2)\n  %at = s32[] get-tuple-element(%carry), index=0\n"
        "  %next = s32[] add(%at, %two)\n  %weights = "
    )  # fmt: skip
    text = text.replace("S(1)}) tuple()", "S(1)}) tuple(%four, %four)").replace(
        "  %start =", "  %four = s32[] constant(4)\n  %start ="
    )
    assert Program(text).counts().flops == 3 * 2 * 8 * 4 * 16


def test_other_text_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        Program("module @jit_f {}")
