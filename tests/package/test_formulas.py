"""Printed formulas: the Python text means what the expression means, and checks of values agree."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from package import toys

from opwright.compiler import package_code as code
from opwright.ir.dtypes import DTYPES, decode, encode
from opwright.ir.expr import Expr, call, const, evaluate, param, read, reduction, size, var
from opwright.ir.op import Clause, Operator
from opwright.ir.semantics import ROWS
from opwright.runtime import describe, formulas, machine, selftest
from opwright.runtime.arrays import family
from opwright.runtime.describe import Formula

NAMES = ("N", "in", "f", "lambda")
INTEGERS = st.recursive(
    st.sampled_from([size(n) for n in NAMES]) | st.integers(-9, 9).map(const),
    lambda inner: st.tuples(
        st.sampled_from(["add", "sub", "mul", "min", "max", "neg", "abs", "select"]),
        st.lists(inner, min_size=3, max_size=3),
    ).map(lambda p: build(p[0], p[1])),
    max_leaves=6,
)
TRUTHS = st.recursive(
    st.tuples(st.sampled_from(["lt", "le", "eq", "ne"]), INTEGERS, INTEGERS).map(
        lambda p: call(p[0], p[1], p[2])
    ),
    lambda inner: st.tuples(st.sampled_from(["and", "or", "not"]), inner, inner).map(
        lambda p: call(p[0], *p[1:][: ROWS[p[0]].arity])
    ),
    max_leaves=5,
)


def build(name: str, args: list[Expr]) -> Expr:
    if name == "select":
        return call("select", call("lt", args[0], args[1]), args[1], args[2])
    return call(name, *args[: ROWS[name].arity])


def printed(e: Expr) -> Formula:
    made: Formula = eval(code.formula(e), {"Formula": Formula, "f": formulas})
    return made


@given(INTEGERS | TRUTHS, st.lists(st.integers(0, 40), min_size=4, max_size=4))
def test_printed_formula_is_the_expression(e: Expr, values: list[int]) -> None:
    env = dict(zip(NAMES, values, strict=True))
    assert printed(e)(env) == evaluate(e, env)


@given(INTEGERS, st.integers(1, 7), st.integers(0, 50))
def test_division_is_floor(e: Expr, divisor: int, n: int) -> None:
    env = dict.fromkeys(NAMES, n)
    for name in ("floordiv", "mod"):
        whole = call(name, e, divisor)
        assert printed(whole)(env) == evaluate(whole, env)


@pytest.mark.parametrize("value", [-2.5, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, 1e3, math.inf])
@pytest.mark.parametrize("name", [r.name for r in ROWS.values() if r.kinds == "r:r"])
def test_real_functions_agree_with_the_semantics_table(name: str, value: float) -> None:
    e = call(name, param("v", "real"))
    got, wanted = printed(e)({"v": value}), float(evaluate(e, {"v": np.float64(value)}))
    assert got == pytest.approx(wanted, rel=1e-12, abs=1e-12, nan_ok=True)


def test_a_fact_that_divides_by_zero_does_not_hold() -> None:
    f = printed(call("eq", size("N") % size("f"), 0))
    assert f.holds({"N": 6, "f": 3}) and not f.holds({"N": 6, "f": 0})
    with pytest.raises(ValueError, match=r"N % f == 0 divides by zero \(N = 6, f = 0\)"):
        f({"N": 6, "f": 0})


@given(st.floats(width=64), st.sampled_from(["f32", "f16"]))
def test_params_are_rounded_to_their_type(value: float, of: str) -> None:
    wanted = decode(encode(np.asarray(value), DTYPES[of]), DTYPES[of])[()]
    got = describe.rounded(value, of)
    assert got == wanted or (math.isnan(got) and math.isnan(wanted))


@pytest.mark.parametrize("of", ["bf16", "f8e4m3", "f8e5m2", "f8e4m3fnuz", "f8e5m2fnuz"])
def test_stored_bits_are_decoded(of: str) -> None:
    codes = np.arange(1 << DTYPES[of].bits, dtype=DTYPES[of].storage)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        wanted = decode(codes, DTYPES[of])
    np.testing.assert_array_equal([selftest.decode(int(c), of) for c in codes], wanted)


# -- preconditions ------------------------------------------------------------------------------


def with_requires(term: Expr, guard: Expr | None = None, *binders: str) -> Operator:
    op = toys.pick_rows()
    ranges = tuple((const(0), size("N")) for _ in binders)
    more = () if guard is None else (guard,)
    clause = Clause("rule", "requires", reduction("all", binders, ranges, term, *more))
    return Operator(op.name, op.version, None, {}, op.sizes, {}, (), (), op.inputs, op.tensors,
                    (clause,))  # fmt: skip


def masks(op: Operator, ids: list[int], library: str) -> list[bool]:
    """Truth of every part of the printed check."""
    (_, source, tensors) = code.preconditions(op).functions[0]
    scope: dict[str, Any] = {"f": formulas}
    exec(source, scope)
    check: Callable[..., Any] = scope["_requires_0"]
    lib = family(library)
    x = lib.integers(lib.from_values(ids, (len(ids),), "i32"))
    env = {"N": len(ids), "V": 10, "D": 1}
    return [bool(mask.all()) for _, mask, _ in check(lib, dict.fromkeys(tensors, x), env)]


n, m, V, N = var("n"), var("m"), size("V"), size("N")
ID = read("i", (n,), "int")
RULES = {
    "range": (with_requires(call("and", call("le", 0, ID), call("lt", ID, V)), None, "n"),
              lambda ids: all(0 <= v < 10 for v in ids)),
    "guard": (with_requires(call("eq", ID, 0), call("lt", n, 2), "n"),
              lambda ids: all(v == 0 for v in ids[:2])),
    "not": (with_requires(call("not", call("or", call("eq", ID % 3, 1), call("lt", ID, n))),
                          None, "n"),
            lambda ids: all(v % 3 != 1 and v >= k for k, v in enumerate(ids))),
    "select": (with_requires(call("le", call("min", ID, n), call("select", call("lt", n, 2), 1, V)),
                             None, "n"),
               lambda ids: all(min(v, k) <= (1 if k < 2 else 10) for k, v in enumerate(ids))),
    "mirror": (with_requires(call("eq", ID, read("i", (N - 1 - n,), "int")), None, "n"),
               lambda ids: ids == ids[::-1]),
}  # fmt: skip


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("rule", RULES)
def test_printed_checks_are_the_clause(rule: str, library: str) -> None:
    op, truth = RULES[rule]
    for ids in ([], [0], [0, 0, 5, 3], [2, 5, 8], [1, 0, 1], [0, 0, 12], [-1, 4], [3, 2, 2, 3]):
        assert masks(op, ids, library) == [truth(ids)], ids


def test_what_costs_too_much_is_assumed() -> None:
    apart = call("or", call("eq", n, m), call("ne", ID, read("i", (m,), "int")))
    table = read("a", (ID, const(0)), "real")
    for op, text in (
        (with_requires(apart, None, "n", "m"), "rule: all[n: N, m: N]"),
        (with_requires(call("lt", 0.0, table), None, "n"), "rule: all[n: N](0.0 < a[i[n], 0])"),
    ):
        found = code.preconditions(op)
        assert not found.functions and found.assumed[0].startswith(text)
    sizes = Clause("even", "requires", call("eq", size("N") % 2, 0))
    op = toys.pick_rows()
    op = Operator(op.name, op.version, None, {}, op.sizes, {}, (), (), op.inputs, op.tensors,
                  (sizes,))  # fmt: skip
    assert code.preconditions(op).scalar == (("N % 2 == 0 (requires even)", sizes.expr),)


# -- the processor ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "wanted", "found"),
    [
        ("", None, ["portable"]),
        (machine.LEVELS["x86-64-v3"], None, ["x86-64-v3", "portable"]),
        (" ".join(machine.LEVELS.values()), None, ["x86-64-v4", "x86-64-v3", "portable"]),
        (" ".join(machine.LEVELS.values()), "x86-64-v3", ["x86-64-v3", "portable"]),
        (machine.LEVELS["x86-64-v4"], None, ["portable"]),
        (machine.LEVELS["x86-64-v3"], "portable", ["portable"]),
    ],
)
def test_levels_follow_the_flags(
    monkeypatch: pytest.MonkeyPatch, flags: str, wanted: str | None, found: list[str]
) -> None:
    monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset(flags.split()))
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    assert list(machine.levels(wanted)) == found


def test_a_level_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset(("avx2", "fma")))
    with pytest.raises(RuntimeError, match="this processor lacks abm, avx"):
        machine.levels("x86-64-v3")
    with pytest.raises(RuntimeError, match="levels are x86-64-v4, x86-64-v3, portable"):
        machine.levels("avx1024")


def test_threads_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert machine.default_threads("TOY_THREADS") == (machine.processors(), False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert machine.default_threads("TOY_THREADS") == (3, False)
    monkeypatch.setenv("TOY_THREADS", "5")
    assert machine.default_threads("TOY_THREADS") == (5, True)
    monkeypatch.setenv("TOY_THREADS", "many")
    with pytest.raises(RuntimeError, match="TOY_THREADS must be a positive whole number"):
        machine.default_threads("TOY_THREADS")
