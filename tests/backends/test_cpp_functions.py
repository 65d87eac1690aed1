"""Functions of reals: claimed error, edges, scalars against vectors, random expressions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opwright.backends.cpp.vocabulary import ULP
from opwright.ir.dtypes import BOOL, F32, F64, I64, DType
from opwright.ir.expr import Expr, const, size
from opwright.ir.semantics import ROWS
from opwright.ir.tile import Axis, Buffer, Builder, Kernel, Placement, TileProgram, Value

N = size("N")
UNARY = [f for f in ULP if ROWS[f].arity == 1]
EXTRA = ["abs", "neg"]
TINY = float(np.finfo(np.float32).tiny)
LARGE = float(np.finfo(np.float32).max)


def kernel(name: str, body: Any, width: int = 8) -> Kernel:
    """body(builder, index, mask) over 0..N."""
    k, c = Builder(name, (const(1),)), Axis("c", width)
    k.split("n", 0, N, c, [], lambda n, m: body(k, n + c, m))
    return k.kernel()


def functions(d: DType, names: list[str], width: int = 8) -> TileProgram:
    x = Buffer("x", "in", d, (N,))
    outs = {f: Buffer(f"y_{f}", "out", d, (N,)) for f in names}

    def body(k: Builder, at: Expr, m: Expr) -> None:
        v = k.load(x, at, mask=m)
        for f in names:
            k.store(outs[f], at, k.ew(f, v), mask=m)

    place = Placement({"c": ("vec", width) if width > 1 else "unroll"})
    return TileProgram("functions", (kernel("functions", body, max(2, width)),), (place,))


def samples() -> np.ndarray:
    """Every 4001st bit pattern, NaN and infinities too, and the ranges where functions bend."""
    rng = np.random.default_rng(11)
    bits = np.arange(0, 2**32, 4001, dtype=np.uint64).astype(np.uint32).view(np.float32)
    parts = [
        bits,
        rng.uniform(-100, 100, 60000),
        rng.uniform(-10, 10, 120000),
        rng.uniform(-1.1, 1.1, 120000),
    ]
    parts += [1 + rng.uniform(-0.01, 0.01, 30000), rng.uniform(-7e4, 7e4, 30000)]
    edges = [0.0, -0.0, np.inf, -np.inf, np.nan, TINY, -TINY, 1e-45, LARGE, -LARGE, 1.0, -1.0]
    edges += [
        88.72283,
        88.73,
        -87.33,
        -87.34,
        -103.9,
        128.0,
        127.9999,
        -126.0,
        -149.0,
        -150.0,
        0.5,
        -0.5,
        2.0,
    ]
    edges += [1e9, -1e20]
    with np.errstate(invalid="ignore"):
        return np.concatenate([*parts, edges]).astype(np.float32)


def check(name: str, x: np.ndarray, got: np.ndarray) -> None:
    """Same NaN and infinities, small results small, normal ones within the claim."""
    with np.errstate(all="ignore"):
        exact = np.asarray(ROWS[name].concrete(x.astype(np.float64)), np.float64)
        want = exact.astype(np.float32)
        assert (np.isnan(got) == np.isnan(want)).all(), (
            name,
            x[np.isnan(got) != np.isnan(want)][:4],
        )
        assert (got[np.isinf(want)] == want[np.isinf(want)]).all(), name
        small = np.abs(exact) < TINY
        assert (np.abs(got[small]) <= TINY).all(), name
        normal = np.isfinite(want) & ~small
        error = np.abs(got.astype(np.float64) - exact)[normal]
        ulp = error / np.spacing(np.abs(want[normal])).astype(np.float64)
    worst = int(np.argmax(ulp))
    assert ulp[worst] <= ULP.get(name, 0.0), (name, ulp[worst], x[normal][worst])


@pytest.mark.filterwarnings("ignore:overflow")
def test_f32_functions_keep_their_claims(cpp: Any, level: str) -> None:
    width = {"portable": 4, "x86-64-v3": 8, "x86-64-v4": 16}[level]
    names = [*UNARY, *EXTRA]
    lib = cpp.library(functions(F32, names, width), level)
    x = samples()
    got = {f"y_{f}": np.full(len(x), 7.0, np.float32) for f in names}
    lib.run({"x": x}, got)
    for f in names:
        check(f, x, got[f"y_{f}"])


def test_claims_are_not_wider_than_the_table() -> None:
    for f, claim in ULP.items():
        assert claim <= ROWS[f].ulp, f


@pytest.mark.parametrize("width", [1, 4])
def test_f64_functions(cpp: Any, width: int) -> None:
    names = [*UNARY, *EXTRA]
    lib = cpp.library(functions(F64, names, width))
    rng = np.random.default_rng(5)
    x = np.concatenate(
        [rng.uniform(-40, 40, 500), rng.uniform(-1, 1, 500), [0, np.inf, -np.inf, np.nan, 1e-300]]
    )
    got = {f"y_{f}": np.zeros(len(x)) for f in names}
    lib.run({"x": x}, got)
    for f in names:
        np.testing.assert_allclose(
            got[f"y_{f}"], ROWS[f].concrete(x), rtol=4e-15, atol=1e-300, err_msg=f
        )


@pytest.mark.parametrize("width", [1, 8])
@pytest.mark.parametrize("d", [F32, F64], ids=str)
def test_rounding_power_and_predicates(cpp: Any, d: DType, width: int) -> None:
    x, z = Buffer("x", "in", d, (N,)), Buffer("z", "in", d, (N,))
    rounding = ["floor", "ceil", "trunc", "nearest"]
    outs = {f: Buffer(f"y_{f}", "out", I64, (N,)) for f in rounding}
    tests = {f: Buffer(f"y_{f}", "out", BOOL, (N,)) for f in ("isnan", "isinf", "lt", "eq")}
    power, back = Buffer("power", "out", d, (N,)), Buffer("back", "out", d, (N,))

    def body(k: Builder, at: Expr, m: Expr) -> None:
        v, w = k.load(x, at, mask=m), k.load(z, at, mask=m)
        for f in rounding:
            k.store(outs[f], at, k.ew(f, v), mask=m)
        for f, b in tests.items():
            k.store(b, at, k.ew(f, *(w, v)[: ROWS[f].arity]), mask=m)
        k.store(power, at, k.ew("pow", k.ew("abs", v), w), mask=m)
        real = k.ew("toreal", k.ew("floor", v))
        k.store(back, at, k.cast(real, d), mask=m)

    place = Placement({"c": ("vec", 8) if width == 8 else "unroll"})
    lib = cpp.library(TileProgram("rounding", (kernel("rounding", body),), (place,)))
    rng = np.random.default_rng(6)
    a = np.concatenate([rng.uniform(-9, 9, 60), np.arange(-4, 4, 0.5), [8388607.5, -3e9, -0.0]])
    b = rng.uniform(-3, 3, len(a))
    b[:6] = [np.nan, np.inf, -np.inf, 0.0, 2.0, 0.5]
    b[30:33] = a[30:33]
    a, b = a.astype(d.storage), b.astype(d.storage)
    got = {
        o.name: np.zeros(len(a), o.dtype.storage)
        for o in (*outs.values(), *tests.values(), power, back)
    }
    lib.run({"x": a, "z": b}, got)
    for f in rounding:
        np.testing.assert_array_equal(got[f"y_{f}"], ROWS[f].concrete(a), err_msg=f)
    for f in tests:
        want = ROWS[f].concrete(*(b, a)[: ROWS[f].arity])
        np.testing.assert_array_equal(got[f"y_{f}"], want, err_msg=f)
    np.testing.assert_array_equal(got["back"], np.floor(a))
    with np.errstate(divide="ignore"):
        want = np.abs(a) ** b
    np.testing.assert_allclose(got["power"], want, rtol=1e-6 if d is F32 else 1e-14)


# -- random expressions --------------------------------------------------------------------------

POOL = [
    "add",
    "sub",
    "mul",
    "div",
    "neg",
    "abs",
    "min",
    "max",
    "fma",
    "exp",
    "log1p",
    "sqrt",
    "tanh",
    "erf",
]
POOL += ["sigmoid", "sin", "select", "atan", "expm1"]


@st.composite
def dags(draw: Any) -> list[tuple[str, tuple[int, ...]]]:
    """Rows with operand numbers: 0 and 1 are inputs, 2 is a uniform scalar, 3 a constant."""
    count = draw(st.integers(2, 9))
    out: list[tuple[str, tuple[int, ...]]] = []
    for n in range(count):
        op = draw(st.sampled_from(POOL))
        arity = 4 if op == "select" else ROWS[op].arity
        out.append((op, tuple(draw(st.integers(0, 3 + n)) for _ in range(arity))))
    return out


def build_dag(dag: list[tuple[str, tuple[int, ...]]]) -> TileProgram:
    x, z = Buffer("x", "in", F32, (N,)), Buffer("z", "in", F32, (N,))

    def made(name: str) -> Kernel:
        y = Buffer(name, "out", F32, (N,))

        def body(k: Builder, at: Expr, m: Expr) -> None:
            vs: list[Value] = [k.load(x, at, mask=m), k.load(z, at, mask=m)]
            vs += [k.load(z, const(0)), k.full(0.75)]
            for op, args in dag:
                a = [vs[i] for i in args]
                if op == "select":
                    vs.append(k.ew("select", k.ew("lt", a[0], a[1]), a[2], a[3]))
                else:
                    vs.append(k.ew(op, *a))
            total = k.ew("add", k.ew("mul", vs[-1], 1.0), k.ew("mul", vs[0], 0.0))
            k.store(y, at, k.ew("select", k.ew("isnan", total), total, vs[-1]), mask=m)

        return kernel(f"to_{name}", body)

    places = (Placement({"c": ("vec", 8)}), Placement({"c": "unroll"}))
    return TileProgram("dag", (made("wide"), made("flat")), places)


def reference(
    dag: list[tuple[str, tuple[int, ...]]], x: np.ndarray, z: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(value in f64, bound of the f32 error by moving every operand within its own bound)."""
    values = [x, z, np.full_like(x, z[0]), np.full_like(x, 0.75)]
    errors = [np.zeros_like(v) for v in values]
    for op, args in dag:
        vs, es = [values[i] for i in args], [errors[i] for i in args]

        def f(a: list[np.ndarray], op: str = op) -> np.ndarray:
            if op == "select":
                return np.where(a[0] < a[1], a[2], a[3])
            return np.asarray(ROWS[op].concrete(*a), np.float64)

        y = f(vs)
        spread = np.zeros_like(y)
        for i, e in enumerate(es):
            for s in (-1, 1):
                moved = f([v + s * e if i == j else v for j, v in enumerate(vs)])
                same = np.isnan(moved) == np.isnan(y)
                gap = np.where(moved == y, 0.0, np.abs(moved - y))
                spread += np.where(same, np.where(np.isnan(gap), 0.0, gap), np.inf)
        claim = 2 * max(ULP.get(op, 0.5), 0.5) * 2.0**-23
        unsure = (np.abs(y) > 1e37) & np.isfinite(y) | (np.abs(y) < 1e-30) & (y != 0)
        values.append(y)
        errors.append(
            np.where(
                unsure,
                np.inf,
                spread * 1.5 + np.where(np.isfinite(y), np.abs(y), 0) * claim + 1e-37,
            )
        )
    bad = np.any([np.isinf(e) for e in errors], 0)
    total = values[-1]
    total = np.where(np.isnan(total * 1.0 + values[0] * 0.0), np.nan, total)
    return total, np.where(bad, np.inf, errors[-1])


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(dag=dags())
def test_random_expressions(cpp: Any, dag: list[tuple[str, tuple[int, ...]]]) -> None:
    lib = cpp.library(build_dag(dag))
    rng = np.random.default_rng(len(dag))
    x = (rng.standard_normal(203) * 2).astype(np.float32)
    z = (rng.standard_normal(203) * 2).astype(np.float32)
    x[:6] = [0.0, np.inf, -np.inf, np.nan, 1.0, -1.0]
    z[100:104] = [np.nan, np.inf, 0.0, -np.inf]
    out = {"wide": np.zeros(203, np.float32), "flat": np.zeros(203, np.float32)}
    lib.run({"x": x, "z": z}, out)
    with np.errstate(all="ignore"):
        want, error = reference(dag, x.astype(np.float64), z.astype(np.float64))
    for name, got in out.items():
        sure = np.isfinite(error)
        with np.errstate(all="ignore"):
            close = (np.abs(got - want) <= error) | (got == want) | (np.isnan(got) & np.isnan(want))
        wrong = np.flatnonzero(sure & ~close)
        assert not len(wrong), (
            name,
            dag,
            wrong[:3],
            got[wrong[:3]],
            want[wrong[:3]],
            x[wrong[:3]],
            z[wrong[:3]],
        )
    assert math.isfinite(float(np.min(error)))
