"""Array code at the edges: no steps, values that are no numbers, ranges that data bound."""

from __future__ import annotations

import numpy as np
import pytest

from opwright.compiler.elaborate import parse_spec
from opwright.compiler.pure import arrays_candidate
from opwright.compiler.stored import stored_form
from opwright.ir.dtypes import encode
from opwright.ir.reference import reference

pytest.importorskip("jax")
from opwright.backends.jax.run import Process

SPEC = """opwright "0.1"
op backwards @ 1.0 {
  dims B, T
  input x: f32[B, T]
  output y: f32[B, T]
  def {
    rec t: g[b, t] = max(0.75 * g[b, t - 1], x[b, T - 1 - t]) init 0
    y[b, t] = g[b, T - 1 - t]
  }
}
op largest @ 1.0 {
  dims B, N
  where N >= 3
  input x: f32[B, N]
  output i: i64[B, 3]
  def { i = topk(x, 3).indices }
}
op pages @ 1.0 {
  dims B, P, K, M
  where K >= 1
  input c: f32[P, K], t: i32[B, M], n: i32[B]
  output y: f32[B]
  def { y[b] = sum.f32[j: 0..n[b]](c[t[b, j // K], j % K]) }
  requires known: all[b: B, m: M](0 <= t[b, m] and t[b, m] < P)
  requires lengths: all[b: B](0 <= n[b] and n[b] <= M * K)
}
"""
NAN, INF = np.nan, np.inf
CASES = [
    ("backwards", {"x": np.array([[1.0, -2, 4, 0], [0, 3, 0, -1]])}),
    ("backwards", {"x": np.zeros((2, 0))}),
    ("largest", {"x": np.array([[1, NAN, 3, NAN, 2], [INF, 5, NAN, 5, -INF], [1, 2, 2, 1, 2]])}),
    ("pages", {"c": np.arange(8.0).reshape(4, 2), "t": np.array([[0, 3, 1], [2, 2, 0]]),
               "n": np.array([5, 0])}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "inputs"), CASES)
def test_results_are_those_of_the_reference(name, inputs):  # type: ignore[no-untyped-def]
    op = stored_form(parse_spec(SPEC).operator(name, {}))
    c = arrays_candidate(op)
    stored = {t.name: encode(inputs[t.name], t.dtype) for t in op.inputs}
    wanted = reference(op, inputs)
    with Process(c.source, c.plan, op) as process:
        found = process.call(stored, {}, {})
    for t in op.outputs:
        np.testing.assert_allclose(found[t.name], wanted[t.name], 1e-6)
