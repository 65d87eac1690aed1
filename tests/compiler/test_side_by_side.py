"""Rows walked side by side, recurrences with a state in every lane, places in two passes, and what
is asked of memory ahead: all mean the spec, at odd sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from opwright.backends.cpp.printer import print_program
from opwright.compiler.candidates import printed
from opwright.compiler.elaborate import parse_spec
from opwright.compiler.importing import static_gates
from opwright.compiler.placed import placed
from opwright.compiler.spaces import spaces
from opwright.ir.interpreter import run
from opwright.ir.op import Operator
from opwright.ir.reference import reference
from opwright.ir.tilecheck import check_program
from opwright.ir.tiletext import parse_program, show_program
from opwright.search.space import Decision, IllegalSchedule, Space

ROWS = """opwright "0.1"
op shares @ 1.0 {
  dims B, N
  input x: f32[B, N], w: f32[N]
  output y: f32[B, N], top: f32[B]
  def {
    m[b] = max[j: N](x[b, j])
    e[b, j] = exp(x[b, j] - m[b]) * w[j]
    y[b, j] = e[b, j] / (1 + sum[k: N](abs(e[b, k])))
    top[b] = m[b] + 1
  }
}
"""
PLACES = """opwright "0.1"
op places @ 1.0 {
  dims B, N
  input x: f32[B, N], k: i64[B, N]
  output i: i64[B], j: i64[B], s: i64[B]
  def {
    i[b] = argmax[n: N](x[b, n])
    j[b] = argmin[n: N](k[b, n])
    s[b] = argmin[n: N | k[b, n] > 2](-x[b, n])
  }
}
"""
ALONG = """opwright "0.1"
op gated @ 1.0 {
  dims B, N
  input a: f32[B, N], x: f32[B, N], s: f32[B]
  output h: f32[B, N], c: f32[B, N]
  def {
    rec t: c[b, t] = a[b, t] * c[b, t - 1] + h[b, t - 1] init s[b]
    rec t: h[b, t] = max(h[b, t - 1], x[b, t]) + c[b, t] / 2 init -1
  }
}
"""
DOWN = """opwright "0.1"
op kept @ 1.0 {
  dims B, N, D
  input a: f32[D], x: f32[B, N, D]
  output y: f32[B, N]
  def {
    rec t: h[b, t, d] = exp(a[d]) * h[b, t - 1, d] + x[b, t, d] init 0
    y[b, t] = sum[d: D](h[b, t, d])
  }
}
"""
OTHER = """opwright "0.1"
op shifted @ 1.0 {
  dims B, N
  input x: f32[B, N]
  output h: f32[B, N]
  def { rec t: h[b, t] = (h[B - 1 - b, t - 1] ?? 0) + x[b, t] init 0 }
}
"""


def operator(text: str) -> Operator:
    return parse_spec(text).operator()


def space(op: Operator, name: str, native: int = 8) -> Space:
    (found,) = [s for s in spaces(op, native) if s.name == name]
    return found


def program(op: Operator, name: str, **decisions: Decision) -> Any:
    own = space(op, name)
    schedule = own.preferred()[0]
    for key, value in decisions.items():
        schedule = schedule.changed(key, value)
    made = own.instantiate(schedule)
    check_program(made)
    assert show_program(parse_program(show_program(made))) == show_program(made)
    return made


def drawn(op: Operator, sizes: dict[str, int], seed: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    out: dict[str, np.ndarray] = {}
    for t in op.inputs:
        shape = tuple(sizes[str(a.hi.attr)] for a in t.axes)
        if t.kind == "int":
            out[t.name] = rng.integers(0, 5, shape)
        else:
            out[t.name] = np.round(rng.standard_normal(shape), 1).astype(np.float32)
    return out


def agrees(op: Operator, made: Any, sizes: dict[str, int], given: dict[str, np.ndarray]) -> None:
    want = reference(op, given, {}, sizes)
    got = run(made, sizes, given)
    for t in op.outputs:
        np.testing.assert_allclose(got[t.name], want[t.name], rtol=1e-4, atol=1e-5, err_msg=t.name)


@pytest.mark.parametrize("save", ["no", "scratch"])
@pytest.mark.parametrize("rows", [2, 4])
def test_rows_side_by_side_mean_the_spec(rows: int, save: str) -> None:
    op = operator(ROWS)
    made = program(op, "row", rows=rows, save=save, width=16, near=1024, next=True)
    for sizes in ({"B": 5, "N": 37}, {"B": 1, "N": 3}, {"B": 8, "N": 16}):
        agrees(op, made, sizes, drawn(op, sizes))


def test_rows_side_by_side_have_no_home() -> None:
    op = operator(ROWS)
    with pytest.raises(IllegalSchedule, match="side by side"):
        program(op, "row", rows=2, save="home")


def test_what_is_asked_ahead_is_printed_and_reads_back() -> None:
    op = operator(ROWS)
    made = program(op, "row", width=16, near=1024, next=True, save="no")
    (hints,) = [p.prefetch for p in made.placements]
    assert sorted(hints.values()) == [("n0", 16), ("n2", 16), ("pid0", 1)]
    text = print_program(made, "x86-64-v3")
    assert "__builtin_prefetch(x + ((pid0 * N) + (n0 + 256)))" in text
    assert "__builtin_prefetch(x + (((pid0 + 1) * N) + n1))" in text
    assert "__builtin_prefetch(y + ((pid0 * N) + (n2 + 256)), 1)" in text
    found = static_gates(printed(made, op, "x86-64-v3"), op)
    assert found.safe and found.gate("G1") == "PROVED"


def test_places_in_two_passes_mean_the_spec() -> None:
    op = operator(PLACES)
    made = program(op, "placed_row", width=16)
    sizes = {"B": 6, "N": 21}
    given = drawn(op, sizes)
    given["x"][1, 7] = given["x"][1, 9] = np.nan
    given["x"][2] = -np.inf
    given["x"][3, 20] = np.inf
    given["k"][4] = 1  # nothing is in the guard
    agrees(op, made, sizes, given)
    agrees(op, made, {"B": 2, "N": 0}, drawn(op, {"B": 2, "N": 0}))


def test_places_in_two_passes_are_proved() -> None:
    op = operator(PLACES.replace(", s: i64[B]", "").replace("    s[b] =", "    # "))
    found = static_gates(printed(program(op, "placed_row"), op, "x86-64-v3"), op)
    assert found.safe and found.gate("G5") == "PROVED"


def test_what_is_computed_is_not_compared_with_itself() -> None:
    op = operator(PLACES.replace("argmax[n: N](x[b, n])", "argmax[n: N](x[b, n] * x[b, n] + 1)"))
    apart = placed(op)
    assert apart is not None
    names = {t.name for t in apart.tensors}
    assert {"j_best", "s_best"} <= names and "i_best" not in names


@pytest.mark.parametrize("text", [ALONG, DOWN])
@pytest.mark.parametrize("start", [0, 1])
def test_recurrences_keep_their_state_in_lanes(text: str, start: int) -> None:
    op = operator(text)
    own = next(s for s in spaces(op, 8) if s.name.startswith("recurrence"))
    made = own.instantiate(own.preferred()[start])
    for sizes in ({"B": 9, "N": 6, "D": 19}, {"B": 3, "N": 1, "D": 8}, {"B": 2, "N": 0, "D": 1}):
        kept = {k: v for k, v in sizes.items() if k in op.sizes}
        agrees(op, made, kept, drawn(op, kept))
    found = static_gates(printed(made, op, "x86-64-v3"), op)
    assert found.safe


def test_a_state_of_another_lane_is_no_recurrence_of_lanes() -> None:
    assert all(not s.name.startswith("recurrence") for s in spaces(operator(OTHER), 8))
