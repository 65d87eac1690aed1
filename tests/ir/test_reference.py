"""The vectorised reference against the literal meaning, form by form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opwright.ir.evaluator
import opwright.ir.folding
import opwright.ir.frames
from opwright.ir.dtypes import DTYPES
from opwright.ir.expr import (
    TRUE,
    Expr,
    call,
    cast,
    const,
    fold,
    leaf,
    param,
    read,
    reduction,
    rounded,
    size,
    toreal,
    var,
)
from opwright.ir.op import Clause, OpAxis, Operator, Param, Recurrence, Tensor
from opwright.ir.reference import InputError, evaluate_clause, reference
from opwright.ir.scalar import evaluate_scalar

ZERO = const(0)
B, N, M, K = (size(n) for n in "BNMK")
b, i, j, k, s, t, u, v = (var(n) for n in "bijkstuv")


def axes(**ranges: Expr | tuple[Expr, Expr]) -> tuple[OpAxis, ...]:
    return tuple(
        OpAxis(n, *r) if isinstance(r, tuple) else OpAxis(n, ZERO, r) for n, r in ranges.items()
    )


def source(name: str, dtype: str, *extents: Expr) -> Tensor:
    at = tuple(OpAxis(f"{name}_{n}", ZERO, e) for n, e in enumerate(extents))
    return Tensor(name, DTYPES[dtype], at, role="input")


def output(name: str, dtype: str, at: tuple[OpAxis, ...], body: Expr, **more: Any) -> Tensor:
    return Tensor(name, DTYPES[dtype], at, body, role=more.pop("role", "output"), **more)


def operator(inputs: list[Tensor], tensors: list[Tensor], **more: Any) -> Operator:
    names: dict[str, None] = {}
    for x in inputs:
        for a in x.axes:
            if a.hi.op == "size":
                names[a.hi.attr] = None
    more.setdefault("sizes", tuple(names))
    more.setdefault("lets", {})
    more.setdefault("params", ())
    more.setdefault("facts", ())
    return Operator("probe", "1.0", None, {}, inputs=tuple(inputs), tensors=tuple(tensors), **more)


def x_at(*index: Expr, name: str = "x", kind: str = "real", fill: Expr | None = None) -> Expr:
    return read(name, index, kind, fill)


def total(binders: Mapping[str, Any], term: Expr, guard: Expr = TRUE, kind: str = "sum") -> Expr:
    ranges = tuple(r if isinstance(r, tuple) else (ZERO, r) for r in binders.values())
    return reduction(kind, tuple(binders), ranges, term, guard)


def agree(op: Operator, inputs: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    fast, slow = reference(op, inputs, **more), evaluate_scalar(op, inputs, **more)
    assert fast.keys() == slow.keys()
    for name in fast:
        assert fast[name].dtype == slow[name].dtype
        np.testing.assert_allclose(fast[name], slow[name], rtol=1e-12, atol=1e-12)
    return fast


def numbers(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def softmax() -> Operator:
    x = source("x", "bf16", B, N)
    m = output("m", "f32", axes(b=B), total({"j": N}, x_at(b, j), kind="max"), role="local")
    c = var("c")
    shifted = x_at(c, i) - read("m", (c,), "real")
    e = output("e", "f32", axes(c=B, i=N), call("exp", shifted), role="local")
    row = total({"k": N}, read("e", (var("d"), k), "real"))
    y = output("y", "bf16", axes(d=B, t=N), read("e", (var("d"), t), "real") / row)
    return operator([x], [m, e, y], facts=(call("le", 1, N),))


def test_dependent_rows() -> None:
    op, x = softmax(), numbers(0, 3, 7)
    y = agree(op, {"x": x})["y"]
    np.testing.assert_allclose(y.sum(axis=1), 1)


def test_sizes_follow_from_shapes_and_must_agree() -> None:
    op = softmax()
    with pytest.raises(InputError, match="1 <= N does not hold for N = 0"):
        reference(op, {"x": np.zeros((2, 0))})
    with pytest.raises(InputError, match="input x is missing"):
        reference(op, {})
    with pytest.raises(InputError, match="no input z"):
        reference(op, {"x": np.zeros((1, 1)), "z": 0})
    with pytest.raises(InputError, match="x has 2 axes, the array has 1"):
        reference(op, {"x": np.zeros(3)})
    two = operator(
        [source("x", "f32", N), source("w", "f32", N)],
        [output("y", "f32", axes(j=N), x_at(j) + x_at(j, name="w"))],
    )
    with pytest.raises(InputError, match="N is 3 by axis 0 of x, but axis 0 of w is 4"):
        reference(two, {"x": np.zeros(3), "w": np.zeros(4)})


def test_affine_extents_are_solved() -> None:
    op = operator(
        [source("x", "f32", 2 * N + 1)],
        [output("y", "f32", axes(j=N), x_at(2 * j + 1))],
        sizes=("N",),
    )
    assert agree(op, {"x": np.arange(7.0)})["y"].tolist() == [1, 3, 5]
    with pytest.raises(InputError, match="size N follows from no input"):
        reference(op, {"x": np.arange(6.0)})


def test_free_size_is_passed_by_name() -> None:
    op = operator([], [output("y", "i64", axes(j=N), j * j)], sizes=("N",))
    assert agree(op, {}, sizes={"N": 4})["y"].tolist() == [0, 1, 4, 9]
    with pytest.raises(InputError, match="pass it by name"):
        reference(op, {})


def test_params_default_and_are_rounded_to_their_type() -> None:
    eps = Param("eps", DTYPES["f32"], const(0.1))
    scale = Param("scale", DTYPES["f64"], call("rsqrt", N))
    body = x_at(j) * param("scale", "real") + param("eps", "real")
    op = operator(
        [source("x", "f32", N)], [output("y", "f32", axes(j=N), body)], params=(eps, scale)
    )
    y = agree(op, {"x": np.ones(4)})["y"]
    assert y[0] == 0.5 + float(np.float32(0.1))
    y = agree(op, {"x": np.ones(4)}, params={"scale": 2.0})["y"]
    assert y[0] == 2.0 + float(np.float32(0.1))
    with pytest.raises(InputError, match="no param z"):
        reference(op, {"x": np.ones(4)}, params={"z": 1})


def test_variadic_leading_axes_are_flattened() -> None:
    op = operator(
        [source("x", "f32", B, N)],
        [output("y", "f32", axes(b=B), total({"j": N}, x_at(b, j)))],
        variadic=("B",),
    )
    x = numbers(1, 2, 3, 4)
    np.testing.assert_allclose(reference(op, {"x": x})["y"], x.sum(-1).ravel())
    assert reference(op, {"x": x[0, 0]})["y"].shape == (1,)


def test_contraction_of_three_factors() -> None:
    term = x_at(i, k) * x_at(k, s, name="w") * x_at(s, name="z") * const(0.5)
    op = operator(
        [source("x", "f32", M, K), source("w", "f32", K, N), source("z", "f32", N)],
        [output("y", "f32", axes(i=M), total({"k": K, "s": N}, cast(term, DTYPES["f32"])))],
    )
    x, w, z = numbers(1, 3, 4), numbers(2, 4, 5), numbers(3, 5)
    y = agree(op, {"x": x, "w": w, "z": z})["y"]
    np.testing.assert_allclose(y, 0.5 * x @ w @ z)


@pytest.mark.parametrize("poison", [0.0, math.inf])
def test_guarded_contraction(poison: float) -> None:
    term = x_at(i, k) * x_at(k, j, name="w")
    body = total({"k": K}, term, call("le", k, i))
    op = operator(
        [source("x", "f32", M, K), source("w", "f32", K, N)],
        [output("y", "f32", axes(i=M, j=N), body)],
    )
    w = numbers(2, 3, 2)
    w[2, 1] = poison  # read under the guard only
    agree(op, {"x": numbers(1, 3, 3), "w": w})


def test_window_with_fill_and_stride() -> None:
    read_x = x_at(2 * i + k - 1, fill=const(0.0))
    body = total({"k": K}, read_x * x_at(k, name="w"))
    op = operator(
        [source("x", "f32", N), source("w", "f32", K)],
        [output("y", "f32", axes(i=(N - K + 2) // 2 + 1), body)],
    )
    agree(op, {"x": numbers(0, 9), "w": numbers(1, 3)})


KINDS = ["sum", "prod", "max", "min"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["prefix", "exclusive", "suffix", "constant"])
def test_scans(kind: str, name: str) -> None:
    bounds = {
        "prefix": (ZERO, t + 1),
        "exclusive": (ZERO, t),
        "suffix": (t, N),
        "constant": (ZERO, t + 1),
    }
    term = const(2.0) if name == "constant" else x_at(b, s)
    body = total({"s": bounds[name]}, term, kind=kind)
    op = operator([source("x", "f32", B, N)], [output("y", "f32", axes(b=B, t=N), body)])
    agree(op, {"x": numbers(3, 2, 6)})


def test_guarded_integer_scan_and_boolean_scan() -> None:
    guard = call("lt", const(0.0), x_at(b, s))
    count = total({"s": (ZERO, t + 1)}, const(1), guard)
    seen = total({"s": (ZERO, t + 1)}, guard, kind="any")
    op = operator(
        [source("x", "f32", B, N)],
        [output("y", "i64", axes(b=B, t=N), count),
         output("z", "bool", axes(b=B, t=N), seen)],
    )  # fmt: skip
    agree(op, {"x": numbers(3, 2, 6)})


@pytest.mark.parametrize("kind", KINDS)
def test_bound_that_the_term_depends_on(kind: str) -> None:
    body = total({"k": (i, j + 1)}, x_at(i, k) * x_at(k, j), kind=kind)
    op = operator([source("x", "f32", N, N)], [output("y", "f32", axes(i=N, j=N), body)])
    agree(op, {"x": numbers(4, 5, 5)})


def csr(kind: str = "sum") -> Operator:
    row = (read("ptr", (i,), "int"), read("ptr", (i + 1,), "int"))
    term = x_at(s, name="val") * x_at(read("col", (s,), "int"), u)
    body = total({"s": row}, term, kind=kind)
    return operator(
        [source("ptr", "i32", M + 1), source("col", "i32", K), source("val", "f32", K),
         source("x", "f32", N, B)],
        [output("y", "f32", axes(i=M, u=B), body)],
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_ragged_rows(kind: str) -> None:
    rng = np.random.default_rng(5)
    lengths = rng.integers(0, 4, 200)
    lengths[7] = 90
    ptr = np.concatenate([[0], np.cumsum(lengths)])
    inputs = {
        "ptr": ptr, "col": rng.integers(0, 5, ptr[-1]), "val": rng.standard_normal(ptr[-1]),
        "x": rng.standard_normal((5, 2)),
    }  # fmt: skip
    agree(csr(kind), inputs)


def test_ragged_rows_of_nothing() -> None:
    inputs = {"ptr": [0, 0], "col": np.zeros(0, int), "val": np.zeros(0), "x": np.ones((1, 2))}
    assert agree(csr(), inputs)["y"].tolist() == [[0, 0]]


@pytest.mark.parametrize("kind", [*KINDS, "any"])
def test_scatter(kind: str) -> None:
    guard = call("eq", read("ids", (b, s), "int"), v + 1)
    extra = call("and", guard, call("lt", const(-1.0), x_at(b, s, u)))
    term = call("lt", const(0.0), x_at(b, s, u)) if kind == "any" else x_at(b, s, u)
    body = total({"s": N}, term, extra, kind)
    op = operator(
        [source("ids", "i32", B, N), source("x", "f32", B, N, K), source("w", "f32", M)],
        [output("y", "bool" if kind == "any" else "f32", axes(b=B, v=M, u=K), body)],
    )
    rng = np.random.default_rng(6)
    inputs = {"ids": rng.integers(-1, 9, (2, 30)), "x": numbers(7, 2, 30, 2), "w": np.zeros(6)}
    agree(op, inputs)


def test_two_dimensional_histogram() -> None:
    guard = call(
        "and", call("eq", read("a", (s,), "int"), i), call("eq", j, read("c", (s,), "int"))
    )
    op = operator(
        [source("a", "i64", N), source("c", "i64", N)],
        [output("y", "i64", axes(i=const(3), j=const(4)), total({"s": N}, const(1), guard))],
    )
    rng = np.random.default_rng(8)
    agree(op, {"a": rng.integers(0, 3, 50), "c": rng.integers(0, 4, 50)})


def test_gather_refuses_what_is_out_of_range() -> None:
    op = operator(
        [source("x", "f32", M, K), source("ids", "i32", N)],
        [output("y", "f32", axes(i=N, u=K), x_at(read("ids", (i,), "int"), u))],
    )
    table = numbers(0, 4, 3)
    agree(op, {"x": table, "ids": np.array([3, 0, 3])})
    with pytest.raises(InputError, match=r"read x\[4, 0\] outside 0\.\.4, 0\.\.3"):
        reference(op, {"x": table, "ids": np.array([3, 4])})


def test_a_read_under_a_false_condition_is_not_checked() -> None:
    body = call("select", call("lt", i, M), x_at(i), x_at(i - M, name="w"))
    op = operator(
        [source("x", "f32", M), source("w", "f32", N)], [output("y", "f32", axes(i=M + N), body)]
    )
    y = agree(op, {"x": np.arange(2.0), "w": np.arange(3.0)})["y"]
    assert y.tolist() == [0, 1, 0, 1, 2]
    assert agree(op, {"x": np.zeros(0), "w": np.arange(3.0)})["y"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", ["argmax", "argmin"])
@pytest.mark.parametrize(
    "row",
    [[3.0, 1, 3, 1], [1, math.nan, 5, math.nan], [-math.inf] * 3, [math.inf, -math.inf, math.inf]],
)
def test_arg_folds(kind: str, row: list[float]) -> None:
    op = operator(
        [source("x", "f32", N)],
        [output("y", "i64", (), reduction(kind, ("j",), ((ZERO, N),), x_at(j))),
         output("z", "i64", axes(i=N), reduction(kind, ("k",), ((ZERO, i + 1),), x_at(k))),
         output("g", "i64", axes(t=N), reduction(
             kind, ("s",), ((ZERO, N),), x_at(s), call("lt", t, s + 1)))],
    )  # fmt: skip
    agree(op, {"x": np.array(row)})


def test_nan_and_empty_reductions() -> None:
    op = operator(
        [source("x", "f32", N)],
        [output("a", "f32", (), total({"j": N}, x_at(j), kind="max")),
         output("c", "f32", (), total({"i": N}, x_at(i))),
         output("d", "bool", (), total({"k": N}, call("lt", const(0.0), x_at(k)), kind="all")),
         output("e", "i64", (), reduction("argmax", ("s",), ((ZERO, N),), x_at(s)))],
    )  # fmt: skip
    out = agree(op, {"x": np.zeros(0)})
    assert out["a"] == -math.inf and out["c"] == 0 and out["d"] and out["e"] == -1
    assert np.isnan(agree(op, {"x": np.array([1.0, math.nan])})["a"])


def test_empty_outputs() -> None:
    op = softmax()
    assert reference(op, {"x": np.zeros((0, 3))})["y"].shape == (0, 3)
    empty = csr()
    inputs = {"ptr": [0], "col": np.zeros(0, int), "val": np.zeros(0), "x": np.ones((1, 2))}
    assert reference(empty, inputs)["y"].shape == (0, 2)


def test_recurrence_of_two_tensors() -> None:
    def before(name: str, at: tuple[Expr, Expr]) -> Expr:
        return read(name, (at[0], at[1] - 1), "real")

    h = x_at(b, t) * before("h", (b, t)) + before("c", (b, t))
    c = call("tanh", read("h", (i, s), "real") + before("c", (i, s)))
    group = ("h", "c")
    first = x_at(b, ZERO) * const(0.5)
    op = operator(
        [source("x", "f32", B, N)],
        [output("h", "f32", axes(b=B, t=N), h, recurrence=Recurrence("t", first, group)),
         output("c", "f32", axes(i=B, s=N), c, recurrence=Recurrence("s", const(1.0), group))],
    )  # fmt: skip
    agree(op, {"x": numbers(9, 2, 5)})


def test_recurrence_over_nothing() -> None:
    body = read("h", (t - 1,), "real") + x_at(t)
    op = operator(
        [source("x", "f32", N)],
        [output("h", "f32", axes(t=N), body, recurrence=Recurrence("t", const(0.0), ("h",)))],
    )
    assert agree(op, {"x": np.zeros(0)})["h"].shape == (0,)


def test_recurrence_through_a_contraction() -> None:
    inner = total({"k": K}, x_at(i, k, name="w") * read("h", (t - 1, k), "real"))
    body = call("tanh", inner + x_at(t, i))
    op = operator(
        [source("x", "f32", N, K), source("w", "f32", K, K)],
        [output("h", "f32", axes(t=N, i=K), body, recurrence=Recurrence("t", const(0.0), ("h",)))],
    )
    agree(op, {"x": numbers(1, 4, 3), "w": numbers(2, 3, 3)})


def test_derived_fold() -> None:
    m, z = leaf("state", "m", "real"), leaf("state", "z", "real")
    mo, zo = leaf("state", "m~", "real"), leaf("state", "z~", "real")
    new = call("max", m, x_at(b, j))
    step = (new, z * call("exp", m - new) + call("exp", x_at(b, j) - new))
    top = call("max", m, mo)
    merge = (top, z * call("exp", m - top) + zo * call("exp", mo - top))
    body = fold(("j",), ((ZERO, b + 1),), call("ne", j, 1), ("m", "z"),
                (const(-1e30), const(0.0)), step, merge, m + call("log", z))  # fmt: skip
    op = operator([source("x", "f32", B, N)], [output("y", "f32", axes(b=B), body)])
    x = numbers(3, 4, 4)
    y = agree(op, {"x": x})["y"]
    keep = np.array([0, 2, 3])
    np.testing.assert_allclose(y[3], np.log(np.exp(x[3, keep]).sum()))


def test_rounding_is_meaning_and_a_cast_is_not() -> None:
    op = operator(
        [source("x", "f32", N)],
        [output("y", "f32", axes(j=N), cast(x_at(j), DTYPES["bf16"])),
         output("z", "f32", axes(i=N), rounded(x_at(i), DTYPES["bf16"]))],
    )  # fmt: skip
    out = agree(op, {"x": np.array([1.001])})
    assert out["y"][0] == 1.001 and out["z"][0] == 1.0


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("poison", [0.0, math.inf, math.nan])
def test_ranks(descending: bool, poison: float) -> None:
    first = x_at(b, s), x_at(b, j)
    before = call("lt", *(first[::-1] if descending else first))
    guard = before | (call("eq", *first) & call("lt", s, j))
    rank = total({"s": N}, const(2), guard)
    op = operator([source("x", "f32", B, N)], [output("y", "i64", axes(b=B, j=N), rank)])
    x = np.array([[1.0, 2.0, 1.0, -0.0, 0.0, poison], [3, 3, 3, 3, 3, 3]])
    found = agree(op, {"x": x})["y"]
    assert found[1].tolist() == [0, 2, 4, 6, 8, 10]


@st.composite
def dense_folds(draw: st.DrawFn) -> tuple[Operator, dict[str, Any]]:
    """A reduction over one or two binders with drawn bounds, guard and product term."""
    kind = draw(st.sampled_from(KINDS))
    bound = draw(st.sampled_from([(ZERO, N), (ZERO, i + 1), (i, N), (i, i + 2), (j, i), (i, i)]))
    second = draw(st.sampled_from([None, (ZERO, K), (ZERO, k), (k, N), (j, i + 1)]))
    at = call("max", ZERO, call("min", var("k"), N - 1))
    factors = [
        x_at(i, at), x_at(at, j), x_at(i, j), x_at(i, k - 1, fill=const(0.5)), toreal(k + j),
        read("ids", (at,), "int"),
    ]  # fmt: skip
    if second is not None:
        factors += [x_at(call("min", s, N - 1), at), toreal(s - i)]
    term: Expr = const(1.0)
    for f in draw(st.lists(st.sampled_from(factors), min_size=1, max_size=3)):
        term = term * f
    guards = [
        TRUE, call("le", k, i), call("lt", const(0.0), x_at(i, at)), call("eq", k, j),
        call("eq", read("ids", (at,), "int"), j),
        call("and", call("eq", read("ids", (at,), "int"), i), call("ne", k, 0)),
    ]  # fmt: skip
    guard = draw(st.sampled_from(guards))
    binders = {"k": bound} | ({"s": second} if second is not None else {})
    body = total(binders, term, guard, kind)
    n = draw(st.integers(1, 5))
    op = operator(
        [source("x", "f64", N, N), source("ids", "i64", N), source("w", "f64", K)],
        [output("y", "f64", axes(i=N, j=N), body)],
    )
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    inputs = {"x": rng.standard_normal((n, n)), "ids": rng.integers(0, n, n), "w": np.zeros(2)}
    return op, inputs


@settings(max_examples=150, deadline=None, derandomize=True)
@given(dense_folds(), st.sampled_from([1, 7, 64, 2**22]))
def test_recognised_forms_agree_with_the_literal_meaning(
    case: tuple[Operator, dict[str, Any]], block: int
) -> None:
    op, inputs = case
    modules = (opwright.ir.frames, opwright.ir.folding)
    before = opwright.ir.frames.BLOCK
    for module in modules:
        setattr(module, "BLOCK", block)  # noqa: B010
    try:
        agree(op, inputs)
    finally:
        for module in modules:
            setattr(module, "BLOCK", before)  # noqa: B010


def test_large_locals_are_computed_where_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opwright.ir.evaluator, "RESIDENT", 1)
    monkeypatch.setattr(opwright.ir.frames, "BLOCK", 8)
    op, x = softmax(), numbers(0, 3, 7)
    agree(op, {"x": x})


def test_clauses_report_the_worst_place() -> None:
    op = softmax()
    x = numbers(0, 3, 5)
    y = reference(op, {"x": x})["y"]
    mass = total({"j": N}, x_at(i, j, name="y"))
    claim = total({"i": B}, call("approx", mass, const(1.0)), kind="all")
    clause = Clause("mass", "ensures", claim, {"abs": 1e-6})
    assert evaluate_clause(op, clause, {"x": x}, {"y": y}).holds
    assert evaluate_clause(op, clause, {"x": x}).holds  # the reference's own outputs
    y[1, 2] += 0.25
    found = evaluate_clause(op, clause, {"x": x}, {"y": y})
    assert not found.holds and found.where == {"i": 1}
    assert found.violation == pytest.approx(0.25, abs=1e-5)
    y[2, 0] = math.nan
    found = evaluate_clause(op, clause, {"x": x}, {"y": y})
    assert found.violation == math.inf and found.where == {"i": 2}


def test_clause_comparisons_take_within_and_dependent_binders() -> None:
    op = operator([source("x", "f32", N)], [output("y", "f32", axes(j=N), x_at(j))])
    rising = total({"i": N, "k": (i, N)}, call("le", x_at(i), x_at(k)), kind="all")
    strict = total({"i": N}, call("lt", const(0.0), x_at(i)), kind="all")
    x = {"x": np.array([1.0, 2.0, 1.9, 3.0])}
    assert not evaluate_clause(op, Clause("up", "requires", rising), x).holds
    assert evaluate_clause(op, Clause("up", "requires", rising, {"abs": 0.2}), x).holds
    at = evaluate_clause(op, Clause("up", "requires", rising), x)
    assert at.where == {"i": 1, "k": 2}
    assert evaluate_clause(op, Clause("pos", "requires", strict), x).holds
    assert not evaluate_clause(op, Clause("pos", "requires", strict), {"x": np.zeros(2)}).holds
    both = call("and", strict, rising)
    assert not evaluate_clause(op, Clause("both", "requires", both), x).holds


def test_clause_with_inner_quantifier_and_tolerance_of_the_output() -> None:
    op = operator(
        [source("x", "f32", N)],
        [output("y", "bf16", axes(j=N), x_at(j))],
        tolerance={"bf16": {"abs": 0.0, "rel": 0.01}},
    )
    near = call("approx", x_at(i, name="y"), x_at(k))
    found = total({"i": N}, total({"k": N}, near, kind="any"), kind="all")
    x = {"x": np.array([1.0, 2.0])}
    clause = Clause("among", "ensures", found)
    assert evaluate_clause(op, clause, x, {"y": np.array([2.01, 1.0])}).holds
    assert evaluate_clause(op, clause, x, {"y": np.array([2.1, 1.0])}).where == {"i": 0}


def test_millions_of_elements() -> None:
    op = softmax()
    y = reference(op, {"x": np.zeros((1000, 2000))})["y"]
    assert y.shape == (1000, 2000) and y[0, 0] == 1 / 2000
