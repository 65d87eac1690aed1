"""Bounds that follow from an operator: readable, finite, above what right kernels do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import operators as ops

from opwright.benchmarks.bounds import Tally, one
from opwright.benchmarks.rounded import FAULTS, ORDERS, Way
from opwright.compiler.elaborate import load_spec, parse_spec
from opwright.ir.dtypes import dtype, encode
from opwright.ir.op import Operator, show_operator
from opwright.ir.reference import reference
from opwright.verify.bounds import Errors, derive, error_operator, errors
from opwright.verify.inputs import Case
from opwright.verify.numeric import Bound, bounds, farthest, spread, wrong

LIBRARY = Path(__file__).resolve().parents[2] / "specs"
U = 2.0**-24


def spec(body: str, tolerance: str = "", extra: str = "", out: str = "f32[B, N]") -> Operator:
    text = f"""opwright "0.1"

op case @ 1.0 {{
  dims  B, N
  input x: f32[B, N]
  output y: {out}
  {extra}
  def {{
    {body}
  }}
  {tolerance}
}}
"""
    return parse_spec(text, "case.op").operator("case", {})


def library(name: str, **types: str) -> Operator:
    found = load_spec(LIBRARY / f"{name}.op")
    (own,) = found.names
    binding = next(b for b in found.bindings(own) if types.items() <= b.items())
    return found.operator(own, binding)


def evaluated(op: Operator, x: object) -> Errors:
    a = np.asarray(x, np.float64)
    return errors(op, {"x": a}, {}, {"B": a.shape[0], "N": a.shape[1]})


def judged(op: Operator, x: object, family: str = "normal", hard: bool = False) -> dict[str, Bound]:
    a = np.asarray(x, np.float32)
    sizes = {"B": a.shape[0], "N": a.shape[1]}
    case = Case("c", family, sizes, {}, {"x": a}, hard)
    return bounds(op, case, lambda i, s, p: reference(op, i, p, {}))


def test_a_sum_is_bounded_by_its_terms() -> None:
    d = derive(ops.row_sum())
    assert set(d.bound) == set(d.scale) == {"y"}
    text = show_operator(d.op)
    assert "local y__0__1: f64[b: B] = sum[k: N](abs(x[b, k]))" in text
    assert "output y__err: f64[b: B] = y__0__err[b]" in text
    assert "max(real(N) - 1.0, 0.0)" in text and "sqrt(max(real(N) - 1.0, 0.0))" in text
    x = np.array([[1.0, -2.0, 3.0, 4.0]])
    found = errors(ops.row_sum(), {"x": x}, {}, {"B": 1, "N": 4})
    assert found.reason == ""
    assert found.bound["y"] == pytest.approx([3 * 10 * 2.0**-24])
    assert found.scale["y"] == pytest.approx([np.sqrt(3) * 10 * 2.0**-24])


def test_storing_rounds_to_the_type() -> None:
    x = np.array([[1.0, -2.0]])
    found = errors(ops.scaled("f16"), {"x": x}, {}, {"B": 1, "N": 2})
    # the doubling is exact, the sum rounds in f32, the result in f16
    wanted = 2.0**-24 * np.array([[3.0, 5.0]]) + 2.0**-11 * np.array([[3.0, 3.0]])
    assert found.bound["y"] == pytest.approx(wanted)


def test_what_is_read_exactly_has_no_error() -> None:
    d = derive(ops.row_argmax())
    assert not d.bound and not d.doubt
    assert [t.name for t in error_operator(ops.row_argmax()).outputs] == ["i"]


def test_products_stay_contractions() -> None:
    text = show_operator(error_operator(library("linalg/matmul", T="f32")))
    assert "sum[k: K](abs(a[i, k]) * abs(b[k, j]))" in text
    # one sum of magnitudes serves both bounds
    assert text.count("sum[k: K]") == 1


def test_a_masked_element_has_no_error() -> None:
    op = spec(
        """s[b, n] = if n == 0 then -inf else x[b, n]
    m[b] = max[k: N](s[b, k])
    e[b, n] = exp(s[b, n] - m[b])
    y[b, n] = e[b, n] / sum.f32[k: N](e[b, k])"""
    )
    found = evaluated(op, [[9.0, 1.0, 2.0], [0.0, -3.0, -3.0]]).bound["y"]
    assert (found[:, 0] == 0).all() and np.isfinite(found).all()
    assert (found[:, 1:] > U / 4).all() and (found < 64 * U).all()


def test_a_wholly_masked_row_is_left_to_the_corner_rules() -> None:
    op = spec(
        """s[b, n] = if x[b, n] < 0 then -inf else x[b, n]
    m[b] = max[k: N](s[b, k])
    y[b, n] = exp(s[b, n] - m[b])"""
    )
    (t,) = op.outputs
    bound = judged(op, [[-1.0, -2.0], [1.0, -2.0]])["y"]
    assert np.isnan(bound.reference[0]).all()
    right = encode(bound.reference, t.dtype).reshape(2, 2)
    assert not wrong(t, right, bound)[0].any()
    bad = np.array([[0.0, 0.0], [1.0, 0.0]], np.float32)
    assert wrong(t, bad, bound)[0].tolist() == [[True, True], [False, False]]


def test_a_branch_that_hangs_on_rounding_may_go_either_way() -> None:
    op = spec("""s[b] = sum.f32[k: N](x[b, k])
    y[b, n] = if s[b] < 1 then 0.0 else 5 + s[b]""")
    third = [0.1, 0.2, 0.7]
    found = evaluated(op, [third, [1.0, 1.0, 1.0]]).bound["y"]
    assert (found[0] > 5.9).all() and (found[1] < 1e-5).all()


def test_integers_may_differ_by_what_rounding_explains() -> None:
    op = spec("y[b, n] = nearest(10 * x[b, n] / sum.f32[k: N](x[b, k]))", out="i32[B, N]")
    (t,) = op.outputs
    bound = judged(op, [[0.25, 0.75], [0.3, 0.7]])["y"]  # 2.5 and 7.5 are ties
    assert bound.unclear.tolist() == [[True, True], [False, False]]
    for stored, bad in (([[3, 7], [3, 7]], [[0, 0], [0, 0]]), ([[4, 7], [3, 8]], [[1, 0], [0, 1]])):
        found, _ = wrong(t, np.array(stored, np.int32), bound)
        assert found.astype(int).tolist() == bad


def test_the_place_of_an_extreme_of_rounded_values() -> None:
    op = spec(
        """s[b, n] = sum.f32[k: N](x[b, k]) * x[b, n]
    y[b] = argmax[n: N](s[b, n])""",
        out="i64[B]",
    )
    close = 1 + 2.0**-23
    bound = judged(op, [[1.0, close, 0.5], [1.0, 1.5, 0.5]])["y"]
    assert bound.unclear.tolist() == [True, False]


def test_errors_recur() -> None:
    op = spec("rec n: y[b, n] = y[b, n - 1] * 0.5 + x[b, n] init 0")
    found = evaluated(op, np.ones((1, 40))).bound["y"][0]
    assert found[0] == pytest.approx(U)
    assert found[-1] == pytest.approx(4 * U, rel=1e-3)  # e = e / 2 + u (y / 2 + x), y = 2


def test_a_cast_marks_the_precision_from_there_on() -> None:
    narrow = evaluated(spec("y[b, n] = 3 * bf16(x[b, n] + 1)"), [[1.25]]).bound["y"]
    wide = evaluated(spec("y[b, n] = 3 * (x[b, n] + 1)"), [[1.25]]).bound["y"]
    assert narrow > 100 * wide


def test_the_written_tolerance_stays_binding() -> None:
    tight = spec("y[b, n] = x[b, n] + 1", "tolerance versus f64 { f32: abs 1e-9 }")
    loose = spec("y[b, n] = x[b, n] + 1", "tolerance versus f64 { f32: abs 1e-2 }")
    x = [[0.25, 0.5]]
    assert (judged(tight, x)["y"].allowed == 1e-9).all()
    bound = judged(loose, x)["y"]
    assert bound.allowed is not None and (bound.allowed < 1e-6).all()
    assert "within the derived bound" in bound.basis
    assert bound.tolerance is not None and (bound.tolerance == 1e-2).all()


def test_a_bound_that_is_not_derived_says_why() -> None:
    op = spec("y[b, n] = prod[k: N](floor(x[b, k] * 1.5))", out="i32[B, N]")
    assert "product of integers" in evaluated(op, [[1.0, 2.0]]).reason


def test_how_far_independent_errors_go() -> None:
    assert 5 < farthest(1) < farthest(10**6) < 8
    op = spec("y[b, n] = x[b, n] + 1")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 64)).astype(np.float32)
    bound = judged(op, x)["y"]
    (t,) = op.outputs
    right = (x + np.float32(1)).astype(np.float32)
    share, most = spread(t, right, bound)
    assert 0 < share < most
    coarse = encode(bound.reference, dtype("bf16")).astype(np.uint32) << 16
    share, most = spread(t, coarse.view(np.float32), bound)
    assert share > 100 * most
    # equal values have equal roundings, which add up
    assert judged(op, x, "constant")["y"].scale is None


@pytest.mark.parametrize(
    "name",
    ["linalg/matmul", "nn/softmax", "nn/layernorm", "reduce/variance", "reduce/cumsum",
     "recurrent/rnn", "loss/cross_entropy", "nn/causal_attention"],
)  # fmt: skip
def test_right_evaluations_pass_in_every_order(name: str) -> None:
    tallies = {str(Way(o)): Tally() for o in ORDERS}
    one(library(name, T="f32") if name.startswith(("linalg", "nn")) else library(name), 3,
        [Way(o) for o in ORDERS], tallies, 5)  # fmt: skip
    for name, t in tallies.items():
        assert t.runs == 1 and not t.rejected, (name, t.reasons)
        assert t.largest < 1 and t.typical < 1


@pytest.mark.parametrize("name", ["linalg/matmul", "nn/layernorm"])
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_precision_are_caught(name: str, fault: str) -> None:
    tallies = {fault: Tally()}
    one(library(name, T="f32"), 5, [Way(fault=fault)], tallies, 6)
    t = tallies[fault]
    assert t.rejected == t.runs, t
