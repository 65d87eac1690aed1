"""Work and traffic formulas at concrete sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.shipped import some

from opwright.compiler.elaborate import load_spec, parse_spec
from opwright.ir.expr import evaluate, leaves
from opwright.ir.formulas import compulsory_bytes, flops
from opwright.ir.op import Operator

ROOT = Path(__file__).resolve().parents[2]


def one(text: str) -> Operator:
    return parse_spec(f'opwright "0.1"\nop f @ 1.0 {{\n{text}\n}}').operator()


def test_a_contraction() -> None:
    op = one("""dims M, N, K
      input a: bf16[M, K], b: f32[K, N]
      output c: f32[M, N]
      def { c[i, j] = sum[k: K](a[i, k] * b[k, j]) }""")
    sizes = {"M": 3, "N": 5, "K": 7}
    assert evaluate(flops(op), sizes) == 2 * 3 * 5 * 7
    assert evaluate(compulsory_bytes(op), sizes) == 2 * 21 + 4 * 35 + 4 * 15


def test_nothing_is_counted_twice() -> None:
    op = one("""dims B, N
      where N >= 1
      input x: f32[B, N]
      output y: f32[B, N]
      def {
        m[b] = max[j: N](x[b, j])
        y[b, j] = (x[b, j] - m[b]) / sum[k: N](x[b, k] - m[b])
      }""")
    sizes = {"B": 3, "N": 5}
    # max, sub, sum's sub, sum's add and a division of weight 4
    assert evaluate(flops(op), sizes) == 15 * (1 + 1 + 1 + 1 + 4)
    assert evaluate(compulsory_bytes(op), sizes) == 2 * 4 * 15


@pytest.mark.parametrize(("bounds", "steps"), [("0..t + 1", 15), ("0..t", 12), ("t..N", 15)])
def test_a_scan_is_one_step_an_element(bounds: str, steps: int) -> None:
    op = one(f"""dims B, N
      input x: f32[B, N]
      output y: f32[B, N]
      def {{ y[b, t] = sum[s: {bounds}](x[b, s]) }}""")
    assert evaluate(flops(op), {"B": 3, "N": 5}) == steps


def test_dependent_ranges_count_by_their_bound() -> None:
    op = one("""dims N
      input x: f32[N, N]
      output y: f32[N]
      def { y[t] = sum[s: 0..t + 1](x[t, s]) }""")
    assert evaluate(flops(op), {"N": 6}) == 36


def test_scatter_gather_and_ragged_rows() -> None:
    scatter = one("""dims V, D, N
      input g: f32[N, D], ids: i32[N]
      output y: f32[V, D]
      def { y[v, d] = sum[n: N | ids[n] == v](g[n, d]) }""")
    sizes = {"V": 1000, "D": 4, "N": 6}
    assert evaluate(flops(scatter), sizes) == 24
    gather = one("""dims V, D, N
      input table: f32[V, D], ids: i32[N]
      output y: f32[N, D]
      def { y[n, d] = table[ids[n], d] }""")
    assert evaluate(compulsory_bytes(gather), sizes) == 4 * (24 + 6 + 24)
    assert evaluate(compulsory_bytes(gather), sizes | {"V": 2}) == 4 * (8 + 6 + 24)
    ragged = one("""dims R, Z, D, C
      input ptr: i32[R + 1], col: i32[Z], val: f32[Z], x: f32[C, D]
      output y: f32[R, D]
      def { y[i, d] = sum[p: ptr[i]..ptr[i + 1]](val[p] * x[col[p], d]) }""")
    assert evaluate(flops(ragged), {"R": 100, "Z": 30, "D": 4, "C": 9}) == 2 * 30 * 4


@pytest.mark.parametrize(
    "path", some(sorted((ROOT / "specs").rglob("*.op")), 4), ids=lambda p: p.stem
)
def test_every_spec_has_formulas_over_its_sizes(path: Path) -> None:
    op = load_spec(path).operator()
    for formula in (flops(op), compulsory_bytes(op)):
        assert formula.kind == "int"
        assert {x.attr for x in leaves(formula, "size")} <= set(op.sizes)
        assert not leaves(formula, "var")
