"""Gate G5 where memory and running states carry values across iterations: what is proved, and the
near misses that are not; and the signs that these proofs stand on."""

from __future__ import annotations

import random

import pytest
from support.shipped import SPECS

from opwright.compiler import spaces
from opwright.compiler.elaborate import load_spec, parse_spec
from opwright.ir.expr import TRUE, ZERO, Expr, call, const, evaluate, size, substitute, var
from opwright.ir.op import Operator
from opwright.ir.tile import TileProgram
from opwright.ir.tiletext import parse_program, show_program
from opwright.verify.reals import Reals
from opwright.verify.tile_function import tile_function


def operator(name: str) -> Operator:
    (path,) = SPECS.rglob(f"{name}.op")
    return load_spec(path).operator()


def program(op: Operator, space: str) -> TileProgram:
    (one,) = [s for s in spaces.spaces(op, 16) if s.name == space]
    return one.instantiate(one.preferred()[0])


def statuses(p: TileProgram, op: Operator) -> set[str]:
    return {r.status for r in tile_function(p, op)}


PROVED = [
    ("matmul", "contraction"),
    ("pointwise_conv2d", "contraction"),
    ("cumsum", "scan"),
    ("cummax", "scan"),
    ("reverse_cumsum", "fallback"),
    ("masked_cumsum", "scan"),
    ("causal_attention", "walk"),
    ("max_pool1d", "row"),
    ("frobenius_norm", "inner_pointwise"),
    ("bce", "row"),
    ("row_any", "row"),
    ("row_all", "row"),
]


@pytest.mark.parametrize(("name", "space"), PROVED)
def test_what_memory_carries_is_the_spec_for_all_sizes(name: str, space: str) -> None:
    op = operator(name)
    assert statuses(program(op, space), op) == {"PROVED"}


PACKED = [  # parts that begin with something, are left out, are kept twice, are another panel's
    ("if 0 < k0 else 0.0", "if 0 < k0 else 1.0"),
    ("if 0 < k0 else 0.0", "if 256 < k0 else 0.0"),
    ("t_4: f32[i, j] = add acc_r part", "t_4: f32[i, j] = max acc_r part"),
    ("if K <= k0 + 256:", "if K <= k0 + 512:"),
    ("max(K, 1) by 256:", "max(K, 1) by 512:"),
    ("for depth in 0 .. min(256, K - k0)", "for depth in 0 .. min(255, K - k0)"),
    ("for depth in 0 .. min(256, K - k0)", "for depth in 1 .. min(256, K - k0)"),
    ("st_c_part: store c_part[jp, iq, i, j]", "st_c_part: store c_part[0, iq, i, j]"),
    ("load a[p0 * 224 + ip * 14 + i, k0 + k]", "load a[p0 * 224 + ip * 14 + i, k]"),
    ("load c_pa[iq, depth, i]", "load c_pa[0, depth, i]"),
    ("c_pb[k0 // 256, p1 * 16 + jp, depth, j]", "c_pb[0, p1 * 16 + jp, depth, j]"),
]


@pytest.mark.parametrize(("right", "wrong"), PACKED)
def test_faults_in_packed_products_are_not_proved(right: str, wrong: str) -> None:
    op = operator("matmul")
    text = show_program(program(op, "contraction"))
    assert right in text
    assert statuses(parse_program(text.replace(right, wrong, 1)), op) == {"UNKNOWN"}


RUNNING = [
    ("cumsum", "fallback", "t_4: f32 = cast t_3", "t_4: f32 = cast t_c"),
    ("cumsum", "fallback", "next t_3", "next t_2"),
    ("cumsum", "scan", "t_3: f32[c] = add t_2 t_1", "t_3: f32[c] = add t_2 x"),
    ("cumsum", "scan", "t_6: f64 = add t_c t_5", "t_6: f64 = add t_c t_c"),
    ("cummax", "scan", "t: f32 = full -inf", "t: f32 = full 0.0"),
    ("causal_attention", "walk", "st_k0_s_sum_rows_1: store k0_s_sum_rows[n1, x]",
     "st_k0_s_sum_rows_1: store k0_s_sum_rows[n1 + 1, x]"),
    ("causal_attention", "walk", "load k0_s_sum_rows[n1, x]", "load k0_s_sum_rows[0, x]"),
    ("max_pool1d", "row", "full -inf", "full 0.0"),
    ("row_any", "row", "t_7: bool[z8] = not t_5", "t_7: bool[z8] = not t_4"),
    ("row_any", "row", "and t_7 t_3_c", "and t_5 t_3_c"),
    ("row_any", "row", "t_5: bool[z8] = index n0_1 + z8 < N",
     "t_5: bool[z8] = index n0_1 + z8 < N - 1"),
    ("row_any", "row", "full false", "full true"),
    ("row_all", "row", "t_5: bool[z8] = index n0_1 + z8 < N",
     "t_5: bool[z8] = index n0_1 + z8 < N + 1"),
    ("row_all", "row", "reduce all t_r", "reduce any t_r"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "space", "right", "wrong"), RUNNING)
def test_faults_in_running_states_are_not_proved(
    name: str, space: str, right: str, wrong: str
) -> None:
    op = operator(name)
    text = show_program(program(op, space))
    assert right in text
    assert statuses(parse_program(text.replace(right, wrong, 1)), op) == {"UNKNOWN"}


SPEC = """opwright "0.1"
op kept @ 1.0 {
  dims B, N
  where N >= 1
  input x: f32[B, N], w: f32[B, N]
  output y: f32[B]
  requires finite: all[b: B, j: N](-inf < x[b, j] < inf)
  def { y[b] = %s }
}"""
HEAD = """program kept
sizes B, N
kernel k0
  grid B
  in x: f32[B, N]
  in w: f32[B, N]
  program s: f32[16]
  out y: f32[B]
  body
"""
ADDED = """    for j in 0 .. N by 1:
      x: f32 = load x[p0, j]
      s: f32 = load s[%s] if 0 < j else 0.0
      t: f32 = add s x
      st_s: store s[0] = t
      if N <= j + %d:
        st_y: store y[p0] = t
"""
TWICE = """    for n in 0 .. 8 by 1:
      x: f32 = load x[p0, 0]
      st_s: store s[n] = x
      w: f32 = load w[p0, 0]
      st_s_1: store s[n + 1] = w
    r: f32 = load s[%d]
    st_y: store y[p0] = r
"""
STATES = """    a: f32 = full 0.0
    for n in 0 .. 8 by 1 carry a_c = a -> a_r:
      x: f32 = load x[p0, 0]
      t: f32 = add a_c x
      st_s: store s[n] = a_c
      next t
    u: f32 = load s[%d]
    v: f32 = load s[3]
    r: f32 = sub u v
    st_y: store y[p0] = r
"""
KEPT = [  # what was added up is stored by the last iteration alone; of two stores the later
    # iteration's counts; a running state is another one in every iteration
    ("sum[j: N](x[b, j])", ADDED % ("0", 1), "PROVED"),
    ("sum[j: N](x[b, j])", ADDED % ("0", 2), "UNKNOWN"),
    ("sum[j: N](x[b, j])", ADDED % ("1", 1), "UNKNOWN"),
    ("w[b, 0]", TWICE % 8, "PROVED"),
    ("w[b, 0]", TWICE % 1, "UNKNOWN"),
    ("x[b, 0]", STATES % 4, "PROVED"),
    ("x[b, 0] - x[b, 0]", STATES % 4, "UNKNOWN"),
    ("0.0", STATES % 4, "UNKNOWN"),
]


@pytest.mark.parametrize(("body", "text", "status"), KEPT)
def test_what_an_iteration_keeps_is_told_from_what_another_keeps(
    body: str, text: str, status: str
) -> None:
    op = parse_spec(SPEC % body).operator("kept", {})
    assert statuses(parse_program(HEAD + text), op) == {status}


def number(draw: random.Random, depth: int) -> Expr:
    """A random index expression."""
    if depth == 0 or draw.random() < 0.2:
        return draw.choice([const(draw.randint(-9, 9)), size("N"), var("@p"), var("@r")])
    a, b = number(draw, depth - 1), number(draw, depth - 1)
    kind = draw.choice(["add", "sub", "min", "max", "floordiv", "mul"])
    if kind in ("floordiv", "mul"):
        return call(kind, a, draw.randint(1, 9))
    return call(kind, a, b)


def test_what_is_said_to_be_no_less_than_zero_is_not() -> None:
    draw = random.Random(7)
    said = 0
    n, p, r = size("N"), var("@p"), var("@r")
    for _ in range(300):
        algebra = Reals([call("le", 1, n)], (), {})
        algebra.ranges["@p"] = (ZERO, (n + 7) // 8)
        algebra.ranges["@r"] = (ZERO, call("min", 8, n - 8 * p))
        e, cond = number(draw, 3), call("le", ZERO, number(draw, 2))
        with algebra.under(algebra.normal(cond)):
            holds = algebra.nonnegative(algebra.poly(e))
            inside = algebra.normal(call("le", ZERO, e))
        outside = algebra.normal(call("le", ZERO, e))
        said += holds
        for sized in range(1, 20):
            for block in range((sized + 7) // 8):
                for lane in range(min(8, sized - 8 * block)):
                    at = {n: const(sized), p: const(block), r: const(lane)}
                    value, met, two, three = (
                        evaluate(substitute(x, at), {}) for x in (e, cond, inside, outside)
                    )
                    assert (value >= 0) == three
                    if met:
                        assert value >= 0 or not holds
                        assert (value >= 0) == two
    assert said > 30


def test_what_holds_under_a_condition_is_not_remembered_without_it() -> None:
    algebra = Reals([], (), {})
    algebra.ranges["@n"] = (ZERO, size("N"))
    asked = call("lt", 0, var("@n"))
    with algebra.under(algebra.normal(call("lt", 4, var("@n")))):
        assert algebra.normal(asked) is TRUE
    assert algebra.normal(asked) is not TRUE
