"""Sums over several indices with shifted reads: meaning at odd sizes, safety, fixed params."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from opwright.backends.cpp.run import Library
from opwright.compiler.elaborate import elaborate
from opwright.compiler.spaces import spaces
from opwright.compiler.toolbox import evaluation_tools
from opwright.grammar.parser import parse
from opwright.ir.expr import show
from opwright.ir.op import Operator
from opwright.ir.reference import reference
from opwright.search.space import Space
from opwright.verify.context import Context
from opwright.verify.gates import safety

SPEC = """
opwright "0.1"
op slid @ 1.0 {
  dims N, C, H, K, R
  param step: i32 = 1
  param pad: i32 = 0
  where C >= 1, R >= 1, 1 <= step, step <= 64, 0 <= pad, pad <= 64, H + 2 * pad >= R
  let P = (H + 2 * pad - R) // step + 1
  input x: f32[N, C, H], w: f32[K, C, R], b: f32[K]
  output y: f32[N, K, P]
  def {
    a[n, k, p] = sum.f32[c: C, r: R]((x[n, c, p * step + r - pad] ?? 0) * w[k, c, r])
    y[n, k, p] = max(a[n, k, p] + b[k], 0)
  }
  workload one weight 0.5 { N = 1, C = 2, H = 40, K = 9, R = 3, step = 1, pad = 1 }
  workload two weight 0.5 { N = 1, C = 2, H = 40, K = 9, R = 3, step = 2, pad = 1 }
}
"""


PLANE = """
opwright "0.1"
op plane @ 1.0 {
  dims N, G, H, W, S
  param step: i32 = 2
  where S >= 1, 1 <= step, step <= 64, H >= 2 * (S - 1) + 1, W + 3 >= 2 * (S - 1) + 1
  let P = H - 2 * (S - 1)
  let Q = (W + 3 - 2 * (S - 1) - 1) // step + 1
  input x: f32[N, H, W, G], w: f32[G, S, S]
  output y: f32[N, G, P, Q]
  def {
    y[n, g, p, q] = sum.f32[r: S, s: S](
      max(x[n, p + 2 * (S - 1 - r), q * step + s * 2 - 1, g] ?? 0.0, -1) * w[g, r, s])
  }
  workload one weight 1.0 { N = 1, G = 3, H = 9, W = 40, S = 3 }
}
"""


def operator(source: str = SPEC, name: str = "slid") -> Operator:
    return elaborate(parse(source, "slid.op"), name, filename="slid.op", source=source)


def window_space(op: Operator, native: int) -> Space:
    (found,) = [s for s in spaces(op, native) if s.name == "window"]
    return found


def test_windows_mean_the_spec() -> None:
    op = operator()
    space = window_space(op, 8)
    kit = evaluation_tools(op, "x86-64-v3").tools
    rng = np.random.default_rng(6)
    seen = set()
    for schedule in space.preferred():
        library = Library(kit.build(kit.emit(space.instantiate(schedule))).path, op)
        told = dict(schedule["fixed"])  # type: ignore[arg-type]
        for (n, c, h, k, r), step, pad in product(
            [(2, 3, 41, 9, 3), (1, 1, 16, 4, 1), (1, 2, 5, 1, 5)], (1, 2), (0, 2)
        ):
            if told.get("step", step) != step or told.get("R", r) != r:
                continue
            given = {
                "x": rng.standard_normal((n, c, h)).astype(np.float32),
                "w": rng.standard_normal((k, c, r)).astype(np.float32),
                "b": rng.standard_normal(k).astype(np.float32),
            }
            params = {"step": step, "pad": pad}
            want = reference(op, given, params, {})["y"]
            got = np.full(want.shape, np.nan, np.float32)
            library.run(given, {"y": got}, params)
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4, err_msg=str(schedule))
            seen.add((schedule["reads"], told.get("step"), step))
    fixed = {(reads, n, n) for reads, n in product(("staged", "direct"), (1, 2))}
    assert seen == (fixed | {("direct", None, 1), ("direct", None, 2)}) - {("direct", 2, 2)}


def test_planes_without_rows_are_copied_with_columns_innermost() -> None:
    op = operator(PLANE, "plane")
    space = window_space(op, 8)
    schedule = space.preferred()[0]
    assert schedule["fixed"] == (("step", 2), ("S", 3))
    program = space.instantiate(schedule)
    assert {r.status for r in safety(program, Context.of(op))} == {"PROVED"}
    kit = evaluation_tools(op, "x86-64-v3").tools
    library = Library(kit.build(kit.emit(program)).path, op)
    rng = np.random.default_rng(7)
    for n, g, h, w in [(2, 3, 7, 41), (1, 1, 5, 2), (1, 2, 6, 33)]:
        given = {
            "x": rng.standard_normal((n, h, w, g)).astype(np.float32),
            "w": rng.standard_normal((g, 3, 3)).astype(np.float32),
        }
        want = reference(op, given, {"step": 2}, {})["y"]
        got = np.full(want.shape, np.nan, np.float32)
        library.run(given, {"y": got}, {"step": 2})
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("native", [8, 16])
def test_windows_are_safe_for_all_shapes(native: int) -> None:
    op = operator()
    space = window_space(op, native)
    for schedule in space.preferred():
        program = space.instantiate(schedule)
        assert {r.status for r in safety(program, Context.of(op))} == {"PROVED"}


def test_a_fixed_param_is_a_fact() -> None:
    op = operator()
    space = window_space(op, 8)
    first = space.instantiate(space.preferred()[0])
    assert "step == 1" in [show(f) for f in first.facts]
