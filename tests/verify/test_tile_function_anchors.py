"""Gate G5 of sums that are kept at the largest element so far: what is proved, and the near misses
that are not."""

from __future__ import annotations

import functools

import pytest
from support.schedules import plain
from support.shipped import SPECS

from opwright.compiler import block_spaces, spaces
from opwright.compiler.elaborate import load_spec, parse_spec
from opwright.ir.op import Operator
from opwright.ir.tile import TileProgram
from opwright.ir.tiletext import parse_program, show_program
from opwright.verify.tile_function import tile_function


@functools.cache
def operator(name: str) -> Operator:
    (path,) = SPECS.rglob(f"{name}.op")
    return load_spec(path).operator()


@functools.cache
def program(name: str, space: str) -> TileProgram:
    op = operator(name)
    found = spaces.spaces(op, 16) if not space.endswith("loop") else block_spaces.spaces(op)
    (one,) = [s for s in found if s.name == space]
    return one.instantiate(plain(one))


def statuses(p: TileProgram, op: Operator) -> set[str]:
    return {r.status for r in tile_function(p, op)}


PROVED = [
    ("softmax", "once_row"),
    ("logsumexp", "once_loop"),
    ("label_smoothing", "once_row"),
    ("matmul_logsumexp_mish", "once_contraction_row"),
]


@pytest.mark.parametrize(("name", "space"), PROVED)
def test_sums_at_the_largest_element_are_the_spec_for_all_sizes(name: str, space: str) -> None:
    assert statuses(program(name, space), operator(name)) == {"PROVED"}


WRONG = [
    ("t_24: f32[c64] = sub t_r t_23", "t_24: f32[c64] = sub t_23 t_r"),
    ("t_26: f32[c64] = mul t_1_r t_25", "t_26: f32[c64] = mul t_1_r t_r"),
    ("t_26: f32[c64] = mul t_1_r t_25", "t_26: f32[c64] = add t_1_r t_25"),
    # what is left out of one, but not of the other
    ("t_45: bool[z8] = index n0_1 + z8 < N", "t_45: bool[z8] = index n0_1 + z8 < N - 1"),
    ("t_46: f32[z8] = select t_45 t_30 t_28_c", "t_46: f32[z8] = max t_28_c t_30"),
    ("t_47: f32[z8] = select t_45 t_44 t_29_c", "t_47: f32[z8] = add t_44 t_29_c"),
    ("next t_2, t_18", "next t_2, t_17"),
    ("next t_2, t_18", "next t_c, t_18"),
    ("next t_2, t_18", "next x, t_18"),
    ("t_11: f32[c64] = mul t_1_c t_10", "t_11: f32[c64] = add t_1_c t_10"),
    ("t_85: f32 = mul t_54 t_84", "t_85: f32 = mul t_54 t_77"),
    ("t_78: f32 = mul t_27 t_77", "t_78: f32 = mul t_54 t_77"),
    ("reduce max t_r over", "reduce min t_r over"),
    # a part of which there may be nothing has no largest element
    ("t_23: f32 = select t_21 t_22 t_19", "t_23: f32 = max t_19 t_19"),
    ("t_50: f32 = select t_49 t_22 t_48", "t_50: f32 = max t_48 t_48"),
    ("t_24: f32[c64] = sub t_r t_23", "t_24: f32[c64] = sub t_22 t_23"),
]


@pytest.mark.parametrize(("right", "wrong"), WRONG)
def test_faults_in_sums_at_the_largest_element_are_not_proved(right: str, wrong: str) -> None:
    text = show_program(program("softmax", "once_row"))
    assert text.count(right) == 1
    found = statuses(parse_program(text.replace(right, wrong)), operator("softmax"))
    assert found == {"UNKNOWN"}


SPEC = """opwright "0.1"
op kept @ 1.0 {
  dims B, N
  where N >= 2
  input x: f32[B, N]
  output y: f32[B]
  requires finite: all[b: B, j: N](-inf < x[b, j] < inf)
  def { y[b] = sum[j: N | 1 <= j](exp(x[b, j])) }
}"""
TEXT = """program kept
sizes B, N
kernel k0
  grid B
  in x: f32[B, N]
  out y: f32[B]
  body
    t: f32 = full -inf
    t_1: f32 = full 0.0
    for j in 0 .. N by 1 carry m = t, s = t_1 -> m_r, s_r:
      x: f32 = load x[p0, j]
      there: bool = index 1 <= j
      e: f32 = select there x t
      big: f32 = max m e
      none: bool = eq big t
      g: f32 = select none t_1 big
      d: f32 = sub m g
      c: f32 = exp d
      moved: f32 = mul s c
      d_1: f32 = sub e g
      one: f32 = exp d_1
      more: f32 = add moved one
      next big, more
    l: f32 = exp m_r
    all: f32 = mul l s_r
    st_y: store y[p0] = all
"""
UNASKED = [
    ("", ""),
    ("g: f32 = select none t_1 big", "g: f32 = max big big"),  # nothing so far: -inf - -inf
    ("none: bool = eq big t", "none: bool = eq big t_1"),
    ("e: f32 = select there x t", "e: f32 = select there x t_1"),
    ("1 <= j", "2 <= j"),
]


@pytest.mark.parametrize(("right", "wrong"), UNASKED)
def test_an_anchor_that_may_be_infinite_is_asked(right: str, wrong: str) -> None:
    op = parse_spec(SPEC).operator("kept", {})
    assert right in TEXT
    wanted = "PROVED" if not right else "UNKNOWN"
    assert statuses(parse_program(TEXT.replace(right, wrong)), op) == {wanted}
