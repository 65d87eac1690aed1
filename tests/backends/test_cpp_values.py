"""Types, masks, indices and operations through the C++ backend, each against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from opwright.backends.cpp.plan import make_plan
from opwright.backends.cpp.printer import PrintError, print_program
from opwright.ir.dtypes import (
    BOOL,
    DTYPES,
    F32,
    F64,
    I32,
    I64,
    DType,
    decode,
    encode,
    integer_range,
)
from opwright.ir.expr import TRUE, Expr, call, cdiv, const, leaf, param, pid, size, stride
from opwright.ir.op import Param
from opwright.ir.plan import from_json
from opwright.ir.semantics import ROWS
from opwright.ir.tile import Axis, Buffer, Builder, Kernel, Placement, TileProgram, Value

N, R, C = size("N"), size("R"), size("C")
RNG = np.random.default_rng(3)
VEC = Placement({"c": ("vec", 8), "r": "unroll"})
FLAT = Placement({"c": "unroll", "r": "unroll"})


def over(name: str, n: Expr, body: Any, width: int = 8) -> Kernel:
    """body(builder, index, mask) over 0..n in one program."""
    k, c = Builder(name, (const(1),)), Axis("c", width)
    k.split("n", 0, n, c, [], lambda n0, m: body(k, n0 + c, m))
    return k.kernel()


def program(*kernels: Kernel, place: Placement = VEC) -> TileProgram:
    return TileProgram(kernels[0].name, kernels, (place,) * len(kernels))


def value_leaf(v: Value, kind: str = "int") -> Expr:
    return leaf("value", v, kind)


STORED = [d for d in DTYPES.values() if d.kind == "real" and d.name not in ("tf32",)]


def test_every_float_converts_exactly(cpp: Any, level: str) -> None:
    """Widening gives the value of the bits; narrowing rounds to nearest even and keeps NaN."""
    width = 16 if level == "x86-64-v4" else 8
    kernels = []
    for d in STORED:
        s = Buffer(f"s_{d}", "in", d, (N,))
        w, b = Buffer(f"w_{d}", "out", F64, (N,)), Buffer(f"b_{d}", "out", d, (N,))
        v, x = Buffer(f"v_{d}", "out", d, (N,)), Buffer("x", "in", F32, (N,))
        z, u = Buffer("z", "in", F64, (N,)), Buffer(f"u_{d}", "out", d, (N,))

        def convert(
            k: Builder,
            at: Expr,
            m: Expr,
            bs: tuple[Buffer, ...] = (s, w, b, x, v, z, u),
            d: DType = d,
        ) -> None:
            s, w, b, x, v, z, u = bs
            loaded = k.load(s, at, mask=m)
            k.store(w, at, k.cast(loaded, F64), mask=m)
            k.store(b, at, loaded, mask=m)
            k.store(v, at, k.cast(k.load(x, at, mask=m), d), mask=m)
            k.store(u, at, k.cast(k.load(z, at, mask=m), d), mask=m)

        kernels.append(over(f"convert_{d}", N, convert, width))
    n = 65536 + 3
    codes = np.arange(n)
    inputs, outputs = {}, {}
    x = RNG.standard_normal(n).astype(np.float32) * np.exp2(RNG.integers(-30, 20, n)).astype("f4")
    x[:9] = [0.0, -0.0, np.inf, -np.inf, np.nan, 3e38, -1e-40, 65520.0, 448.0]
    halves = (np.arange(512) / 2.0**12).astype(np.float32)  # ties of the small formats
    x[16 : 16 + 512] = halves
    x[1000 : 1000 + 512] = halves * 4096 + 0.5
    z = x.astype(np.float64) * (1 + 2.0**-30 * RNG.integers(-1, 2, n))
    inputs["x"], inputs["z"] = x, z
    for d in STORED:
        bits = max(8, d.bits)
        raw = (codes % 2 ** min(d.bits, 16)).astype(f"u{bits // 8}")
        if d.bits > 16:
            raw = encode(z, d).view(f"u{bits // 8}")
        inputs[f"s_{d}"] = raw.view(d.storage)
        outputs[f"w_{d}"] = np.zeros(n)
        for name in "bvu":
            outputs[f"{name}_{d}"] = np.zeros(n, d.storage)
    place = Placement({"c": ("vec", width)})
    lib = cpp.library(program(*kernels, place=place), level)
    lib.run(inputs, outputs)
    for d in STORED:
        stored = inputs[f"s_{d}"]
        np.testing.assert_array_equal(outputs[f"w_{d}"], decode(stored, d), err_msg=str(d))
        raw = f"u{max(1, d.bits // 8)}"
        assert (outputs[f"b_{d}"].view(raw) == stored.view(raw)).all()
        for name, source in (("v", x), ("u", z)):
            got = outputs[f"{name}_{d}"]
            if d.finite == "none":
                source, got = np.delete(source, 4), np.delete(got, 4)  # no NaN in this format
            want = encode(source, d)
            np.testing.assert_array_equal(decode(got, d), decode(want, d), err_msg=f"{name} {d}")


INTS = [d for d in DTYPES.values() if d.kind == "int"]


@pytest.mark.parametrize("place", [VEC, FLAT], ids=["vec", "flat"])
def test_integers_convert_and_count(cpp: Any, place: Placement) -> None:
    kernels = []
    for d in INTS:
        s, y = Buffer(f"s_{d}", "in", d, (N,)), Buffer(f"y_{d}", "out", d, (N,))
        w, r = Buffer(f"w_{d}", "out", I64, (N,)), Buffer(f"r_{d}", "out", F32, (N,))

        def body(k: Builder, at: Expr, m: Expr, bs: tuple[Buffer, ...] = (s, y, w, r)) -> None:
            s, y, w, r = bs
            v = k.load(s, at, mask=m)
            k.store(w, at, k.cast(v, I64), mask=m)
            k.store(y, at, k.cast(k.cast(v, I64), s.dtype), mask=m)
            k.store(r, at, k.cast(k.cast(v, I32), F32), mask=m)

        kernels.append(over(f"ints_{d}", N, body))
    lib = cpp.library(program(*kernels, place=place))
    n = 77
    inputs, outputs = {}, {}
    for d in INTS:
        lo, hi = integer_range(d)
        lo, hi = max(lo, -(2**31)), min(hi, 2**31 - 1)
        inputs[f"s_{d}"] = RNG.integers(lo, hi, n, endpoint=True).astype(d.storage)
        outputs |= {f"y_{d}": np.zeros(n, d.storage), f"w_{d}": np.zeros(n, np.int64)}
        outputs[f"r_{d}"] = np.zeros(n, np.float32)
    lib.run(inputs, outputs)
    for d in INTS:
        s = inputs[f"s_{d}"]
        np.testing.assert_array_equal(outputs[f"y_{d}"], s)
        np.testing.assert_array_equal(outputs[f"w_{d}"], s.astype(np.int64))
        np.testing.assert_array_equal(outputs[f"r_{d}"], s.astype(np.float32))


@pytest.mark.parametrize("place", [VEC, FLAT], ids=["vec", "flat"])
def test_truth_values_convert(cpp: Any, place: Placement) -> None:
    x, back = Buffer("x", "in", F32, (N,)), Buffer("back", "out", BOOL, (N,))
    kinds = [F32, F64, I64, I32, DTYPES["bf16"], DTYPES["i8"]]
    outs = [Buffer(f"y_{d}", "out", d, (N,)) for d in kinds]

    def body(k: Builder, at: Expr, m: Expr) -> None:
        truth = k.cast(k.load(x, at, mask=m), BOOL)
        k.store(back, at, truth, mask=m)
        for b in outs:
            k.store(b, at, k.cast(truth, b.dtype), mask=m)

    made = program(over("truth", N, body), place=place)
    lib = cpp.library(made)
    a = np.array([0, 1, -2, np.nan, -0.0, 0.5, np.inf, 0, 0, 3, 0], np.float32)
    got = {b.name: np.zeros(len(a), b.dtype.storage) for b in (*outs, back)}
    lib.run({"x": a}, got)
    np.testing.assert_array_equal(got["back"], a != 0)
    for b in outs:
        np.testing.assert_array_equal(decode(got[b.name], b.dtype), (a != 0) * 1)
    plan = make_plan(made, lib.op)
    assert from_json(plan.to_json()) == plan


INTEGER_ROWS = ["add", "sub", "mul", "neg", "abs", "min", "max", "floordiv", "mod"]
PREDICATES = ["lt", "le", "eq", "ne"]


@pytest.mark.parametrize("d", [I64, I32], ids=str)
@pytest.mark.parametrize("place", [VEC, FLAT], ids=["vec", "flat"])
def test_integer_rows(cpp: Any, d: DType, place: Placement) -> None:
    a, b = Buffer("a", "in", d, (N,)), Buffer("b", "in", d, (N,))
    outs = {op: Buffer(f"y_{op}", "out", d, (N,)) for op in INTEGER_ROWS}
    outs |= {op: Buffer(f"y_{op}", "out", BOOL, (N,)) for op in PREDICATES}
    outs["select"] = Buffer("y_select", "out", d, (N,))

    def body(k: Builder, at: Expr, m: Expr) -> None:
        x, y = k.load(a, at, mask=m), k.load(b, at, mask=m, other=1)
        for op in (*INTEGER_ROWS, *PREDICATES):
            args = (x, y)[: ROWS[op].arity]
            v = k.ew(op, *args)
            k.store(outs[op], at, v if v.dtype is BOOL else k.cast(v, d), mask=m)
        both = k.ew("and", k.ew("lt", x, y), k.ew("not", k.ew("eq", y, 3)))
        k.store(
            outs["select"], at, k.ew("select", k.ew("or", both, k.ew("eq", x, 2)), x, y), mask=m
        )

    lib = cpp.library(program(over("rows", N, body), place=place))
    n = 101
    x, y = RNG.integers(-9, 9, n), RNG.integers(-5, 5, n)
    y[y == 0] = 7
    store = d.storage
    got = {b.name: np.zeros(n, b.dtype.storage) for b in outs.values()}
    lib.run({"a": x.astype(store), "b": y.astype(store)}, got)
    for op in (*INTEGER_ROWS, *PREDICATES):
        want = ROWS[op].concrete(*(x, y)[: ROWS[op].arity])
        np.testing.assert_array_equal(got[f"y_{op}"], want, err_msg=op)
    pick = ((x < y) & (y != 3)) | (x == 2)
    np.testing.assert_array_equal(got["y_select"], np.where(pick, x, y))


@pytest.mark.parametrize("d", [F32, F64, I64, I32], ids=str)
def test_reductions(cpp: Any, d: DType) -> None:
    """Over lanes and over unrolled copies, of numbers and of truth values."""
    k, c, r = Builder("reductions", (R,)), Axis("c", 16), Axis("r", 3)
    x = Buffer("x", "in", d, (R, const(3), const(16)))
    names = ["sum", "prod", "max", "min"]
    outs = {n: Buffer(f"y_{n}", "out", d, (R,)) for n in names}
    rows = Buffer("rows", "out", d, (R, const(16)))
    logic = {n: Buffer(f"y_{n}", "out", BOOL, (R,)) for n in ("any", "all")}
    v = k.load(x, pid(0), r.lane, c.lane)
    for n in names:
        k.store(outs[n], pid(0), k.reduce(n, k.reduce(n, v, c), r))
    k.store(rows, pid(0), c.lane, k.reduce("max", v, r))
    for n, bound in (("any", 2), ("all", -2)):
        above = k.ew("lt", k.full(bound, d), v)
        k.store(logic[n], pid(0), k.reduce(n, k.reduce(n, above, r), c))
    lib = cpp.library(program(k.kernel()))
    a = RNG.choice([-2, -1, -1, 0, 1, 1, 1, 3], (50, 3, 16)).astype(d.storage)
    a[:25][(a[:25] == 0) | (a[:25] == -2)] = 1
    a[:20] = np.where(a[:20] == 3, RNG.choice([1, 1, 1, 3], a[:20].shape), a[:20])
    got = {b.name: np.zeros((50, 16) if b is rows else 50, b.dtype.storage)
           for b in (*outs.values(), rows, *logic.values())}  # fmt: skip
    lib.run({"x": a}, got)
    for n, f in (("sum", np.sum), ("prod", np.prod), ("max", np.max), ("min", np.min)):
        np.testing.assert_allclose(got[f"y_{n}"], f(a, (1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(got["rows"], a.max(1))
    np.testing.assert_array_equal(got["y_any"], (a > 2).any((1, 2)))
    np.testing.assert_array_equal(got["y_all"], (a > -2).all((1, 2)))


def test_nan_and_infinity_in_max_and_min(cpp: Any, level: str) -> None:
    k, c = Builder("corners", (R,)), Axis("c", 16)
    x, top = Buffer("x", "in", F32, (R, const(16))), Buffer("top", "out", F32, (R,))
    low, pair = Buffer("low", "out", F32, (R,)), Buffer("pair", "out", F32, (R, const(16)))
    v = k.load(x, pid(0), c.lane)
    k.store(top, pid(0), k.reduce("max", v, c))
    k.store(low, pid(0), k.reduce("min", v, c))
    k.store(pair, pid(0), c.lane, k.ew("max", v, k.ew("min", v, 0.5)))
    lib = cpp.library(program(k.kernel()), level)
    a = np.tile(RNG.standard_normal(16).astype(np.float32), (20, 1))
    for n in range(16):
        a[n, n] = np.nan
    a[16, 3], a[17, 4], a[18] = np.inf, -np.inf, -np.inf
    got = {"top": np.zeros(20, "f4"), "low": np.zeros(20, "f4"), "pair": np.zeros((20, 16), "f4")}
    lib.run({"x": a}, got)
    np.testing.assert_array_equal(got["top"], a.max(1))
    np.testing.assert_array_equal(got["low"], a.min(1))
    np.testing.assert_array_equal(got["pair"], np.maximum(a, np.minimum(a, np.float32(0.5))))


def test_masks_of_every_form(cpp: Any, level: str) -> None:
    """Prefixes, lower bounds, both, disjunctions, remainders and loaded truth values."""
    c = Axis("c", 8)
    at = c.lane
    flags, x = Buffer("flags", "in", BOOL, (N,)), Buffer("x", "in", F32, (N,))
    forms: dict[str, Any] = {
        "prefix": lambda n, v: n + at < 13,
        "reverse": lambda n, v: call("lt", 20 - at, n + 5),
        "from": lambda n, v: 3 <= n + at,
        "band": lambda n, v: (3 <= n + at) & (n + at < 13) & (n < 16),
        "outside": lambda n, v: (n + at < 3) | ~(n + at < 13),
        "even": lambda n, v: call("eq", (n + at) % 2, 0),
        "twice": lambda n, v: 2 * (n + at) < 25,
        "loaded": lambda n, v: value_leaf(v, "bool") & (2 <= n + at),
        "never": lambda n, v: n + at < -1,
    }
    outs = {name: Buffer(f"y_{name}", "out", F32, (N,)) for name in forms}
    k = Builder("masks", (const(1),))

    def body(n: Expr) -> None:
        flag = k.load(flags, n + at)
        for name, form in forms.items():
            m = form(n, flag)
            v = k.load(x, n + at, mask=m, other=-1.0)
            seen = k.ew("select", k.index(m), v, 7.0)
            k.store(outs[name], n + at, k.ew("add", v, seen), mask=m)

    k.loop("n", 0, N, 8, [], body)
    lib = cpp.library(program(k.kernel()), level)
    n, i = 24, np.arange(24)
    a, f = RNG.standard_normal(n).astype(np.float32), RNG.integers(0, 2, n).astype(bool)
    got = {b.name: np.full(n, 5.0, np.float32) for b in outs.values()}
    lib.run({"flags": f, "x": a}, got)
    masks = {
        "prefix": i < 13, "reverse": 20 - i % 8 < i - i % 8 + 5, "from": i >= 3,
        "band": (i >= 3) & (i < 13), "outside": (i < 3) | (i >= 13), "even": i % 2 == 0,
        "twice": 2 * i < 25, "loaded": f & (i >= 2), "never": i < -1,
    }  # fmt: skip
    for name, m in masks.items():
        np.testing.assert_array_equal(got[f"y_{name}"], np.where(m, a + a, 5.0), err_msg=name)


def test_gather_scatter_and_arithmetic_on_lanes(cpp: Any, level: str) -> None:
    c = Axis("c", 8)
    ids, table = Buffer("ids", "in", I64, (N,)), Buffer("table", "in", F32, (R, C))
    x = Buffer("x", "in", F32, (N,))
    rows, cells = Buffer("rows", "out", F32, (N, C)), Buffer("cells", "out", F32, (N,))
    back, folded = Buffer("back", "out", F32, (N,)), Buffer("folded", "out", F32, (N,))
    spread = Buffer("spread", "out", I64, (N, const(2)))
    k = Builder("gather", (const(1),))

    def one(n: Expr) -> None:
        row = value_leaf(k.load(ids, n))
        k.split(
            "d",
            0,
            C,
            c,
            [],
            lambda d, m: k.store(rows, n, d + c, k.load(table, row, d + c, mask=m), mask=m),
        )

    def many(n: Expr, m: Expr) -> None:
        at = n + c
        found = value_leaf(k.load(ids, at, mask=m, other=0))
        k.store(cells, at, k.load(table, found, found % 3, mask=m, other=0.0), mask=m)
        k.store(back, N - 1 - at, k.load(x, at, mask=m), mask=m)
        k.store(folded, at, k.load(x, (at // 3 + at % 3) % N, mask=m), mask=m)
        k.store(spread, at, const(1), k.index(at * 3 + 1), mask=m)
        k.store(spread, at, const(0), k.index(at // 2 - at % 3), mask=m)

    k.loop("n", 0, N, 1, [], one)
    k.split("m", 0, N, c, [], many)
    lib = cpp.library(program(k.kernel()), level)
    n, r, w = 21, 9, 11
    index, t = RNG.integers(0, r, n), RNG.standard_normal((r, w)).astype(np.float32)
    a, i = RNG.standard_normal(n).astype(np.float32), np.arange(n)
    got = {"rows": np.zeros((n, w), "f4"), "spread": np.zeros((n, 2), np.int64)}
    got |= {name: np.zeros(n, "f4") for name in ("cells", "back", "folded")}
    lib.run({"ids": index, "table": t, "x": a}, got)
    np.testing.assert_array_equal(got["rows"], t[index])
    np.testing.assert_array_equal(got["cells"], t[index, index % 3])
    np.testing.assert_array_equal(got["back"], a[::-1])
    np.testing.assert_array_equal(got["folded"], a[(i // 3 + i % 3) % n])
    np.testing.assert_array_equal(got["spread"], np.stack([i // 2 - i % 3, i * 3 + 1], 1))


def copy_kernel(known: bool = False) -> TileProgram:
    """y = x over strides that are arguments; `known` states that rows are contiguous."""
    c, k = Axis("c", 8), Builder("copy", (R,))
    x = Buffer("x", "in", F32, (R, C), (stride("x", 0), stride("x", 1)))
    y = Buffer("y", "out", F32, (R, C), (stride("y", 0), stride("y", 1)))
    k.split(
        "n",
        0,
        C,
        c,
        [],
        lambda n, m: k.store(y, pid(0), n + c, k.load(x, pid(0), n + c, mask=m), mask=m),
    )
    facts = tuple(call("eq", stride(b, 1), 1) for b in "xy") if known else ()
    return TileProgram("copy", (k.kernel(),), (VEC,), facts)


def test_strided_buffers(cpp: Any) -> None:
    assert "v_load" in print_program(copy_kernel(known=True), "x86-64-v3")
    assert "v_load" not in print_program(copy_kernel(), "x86-64-v3")
    lib = cpp.library(copy_kernel())
    a = RNG.standard_normal((10, 40)).astype(np.float32)
    for view in (a, a[:, ::2], a[::-1, ::-3], a.T, a[1:, 3:20]):
        out = np.zeros((view.shape[1], view.shape[0]), np.float32).T
        lib.run({"x": view}, {"y": out})
        np.testing.assert_array_equal(out, view)
    tight = cpp.library(copy_kernel(known=True))
    out = np.zeros((10, 31), np.float32)
    tight.run({"x": a[:, :31]}, {"y": out})
    np.testing.assert_array_equal(out, a[:, :31])


def test_names_are_injective_and_no_words_of_cpp(cpp: Any) -> None:
    k = Builder("exp", (R,))
    f, c = Axis("c", 16), Axis("v_exp", 1)
    x, y = Buffer("float", "in", F32, (R, const(16))), Buffer("pid0", "out", F32, (R, const(16)))
    t16 = [k.load(x, pid(0), f.lane, name="t") for _ in range(17)]
    total = k.load(x, pid(0), f.lane, name="v_exp")
    for v in t16:
        total = k.ew("add", total, k.ew("exp", k.ew("mul", v, 0.0)), name="t__1")
    k.store(y, pid(0), f.lane, total)
    lib = cpp.library(TileProgram("exp", (k.kernel(),), (Placement({"c": "unroll"}),)))
    a, out = RNG.standard_normal((2, 16)).astype(np.float32), np.zeros((2, 16), np.float32)
    lib.run({"float": a}, {"pid0": out})
    np.testing.assert_allclose(out, a + 17, rtol=1e-6)
    assert c.extent == 1


def test_states_that_swap_and_params_of_every_kind(cpp: Any) -> None:
    """The next state is read before any of it is overwritten."""
    k = Builder("swap", (const(1),))
    y = Buffer("y", "out", F64, (const(3),))
    n, s, w = param("n", "int"), param("s", "real"), param("w", "real")
    one, two = k.full(1.0, F64), k.full(2.0, F64)

    def body(_: Expr, a: Value, b: Value, t: Value) -> list[Value]:
        return [b, a, k.ew("add", t, a)]

    a, b, t = k.loop("i", 0, n, 1, [one, two, k.full(0.0, F64)], body)
    scale = k.index(s * w + 0.25, F64)
    k.branch(param("on", "bool"), lambda: k.store(y, const(0), k.ew("mul", a, scale)))
    k.store(y, const(1), b)
    k.store(y, const(2), t)
    params = (
        Param("n", I64, None),
        Param("s", F32, const(2.0)),
        Param("on", BOOL, TRUE),
        Param("w", F64, param("s", "real") * const(2.0)),
    )
    lib = cpp.library(program(k.kernel()), params=params)
    out = np.zeros(3)
    lib.run({}, {"y": out}, {"n": 3})
    np.testing.assert_array_equal(out, [2 * 8.25, 1.0, 1 + 2 + 1])
    lib.run({}, {"y": out}, {"n": 2, "on": False})
    np.testing.assert_array_equal(out, [2 * 8.25, 2.0, 3])


def test_hints_change_text_and_not_results(cpp: Any) -> None:
    k, c = Builder("hints", (cdiv(N, 64),)), Axis("c", 32)
    x, y = Buffer("x", "in", F32, (N,)), Buffer("y", "out", F32, (N,))

    def body(n: Expr, m: Expr) -> None:
        v = k.load(x, n + c, mask=m, name="x")
        k.store(y, n + c, k.ew("mul", v, v), mask=m, name="st")

    k.split("n", pid(0) * 64, call("min", pid(0) * 64 + 64, N), c, [], body)
    hints = Placement(
        {"c": ("vec", 8)}, pin=("x*",), stream=("st",), prefetch={"x": ("n", 2)}, unroll={"n": 2},
        deep=("*",), threads="dynamic",
    )  # fmt: skip
    made = program(k.kernel(), place=hints)
    text = print_program(made, "x86-64-v3")
    for word in ("asm(", "v_stream", "sfence", "__builtin_prefetch(x + (n + 64", "GCC unroll 2"):
        assert word in text, word
    lib = cpp.library(made)
    a = RNG.standard_normal(72).astype(np.float32)
    space = np.zeros(72 + 16, np.float32)
    out = space[(-space.ctypes.data % 64) // 4 :][:72]
    lib.run({"x": a}, {"y": out})
    np.testing.assert_array_equal(out, a * a)


def test_what_cannot_be_printed_is_said(cpp: Any) -> None:
    def made(place: Placement, op: str = "add", d: DType = F32) -> TileProgram:
        k, c, r = Builder("bad", (const(1),)), Axis("c", 8), Axis("r", 8)
        x = Buffer("x", "in", d, (const(8), const(8)))
        y = Buffer("y", "out", d, (const(8), const(8)))
        v = k.load(x, r.lane, c.lane)
        k.store(y, r.lane, c.lane, k.ew(op, v, v))
        return program(k.kernel(), place=place)

    both = Placement({"c": ("vec", 8), "r": ("vec", 8)})
    with pytest.raises(PrintError, match="both vec"):
        print_program(made(both), "portable")
    with pytest.raises(PrintError, match="no placement"):
        print_program(made(Placement({"c": ("vec", 8)})), "portable")
    with pytest.raises(PrintError, match="cannot be vec 3"):
        print_program(made(Placement({"c": ("vec", 3), "r": "unroll"})), "portable")
    with pytest.raises(PrintError, match="storage type"):
        print_program(made(VEC, d=DTYPES["bf16"]), "portable")
    with pytest.raises(ValueError, match="unknown instruction set"):
        print_program(made(VEC), "mips")
