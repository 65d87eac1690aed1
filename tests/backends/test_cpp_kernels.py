"""Whole kernels through the C++ backend: row and column folds, packed products, at every level."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from opwright.ir.dtypes import F32, DType
from opwright.ir.expr import (
    TRUE,
    ZERO,
    Expr,
    call,
    cdiv,
    const,
    maximum,
    minimum,
    param,
    pid,
    size,
)
from opwright.ir.op import Param
from opwright.ir.tile import Axis, Buffer, Builder, Placement, Scan, TileProgram, Value

INF = math.inf
RNG = np.random.default_rng(7)
N = size("N")
R, C = size("R"), size("C")
M, K = size("M"), size("K")


# -- builders ----------------------------------------------------------------------------------


def gelu(k: Builder, x: Value) -> Value:
    inner = k.ew("fma", k.ew("mul", x, x), 1.5957691216 * 0.044715, 1.5957691216)
    return k.ew("div", x, k.ew("add", k.ew("exp", k.ew("neg", k.ew("mul", inner, x))), 1.0))


def pointwise(width: int = 32, block: int = 4096, dtype: DType = F32) -> TileProgram:
    c, k = Axis("c", width), Builder("pointwise", (cdiv(N, block),))
    x, y = Buffer("x", "in", dtype, (N,)), Buffer("y", "out", dtype, (N,))

    def body(n0: Expr, mask: Expr) -> None:
        v = k.cast(k.load(x, n0 + c, mask=mask), F32)
        k.store(y, n0 + c, k.cast(gelu(k, v), dtype), mask=mask)

    lo = pid(0) * block
    k.split("n0", lo, minimum(lo + block, N), c, [], body)
    return TileProgram("pointwise", (k.kernel(),), (Placement({"c": ("vec", 8)}),))


def row_fold(width: int = 32, tail: int = 8, place: Placement | None = None) -> TileProgram:
    """Three passes over a row through a program scratch."""
    wide, narrow, row = Axis("c", width), Axis("z", tail), pid(0)
    k = Builder("row_fold", (R,))
    x, y = Buffer("x", "in", F32, (R, C)), Buffer("y", "out", F32, (R, C))
    e = Buffer("e", "program", F32, (C,))
    end = C // width * width

    def both(name: str, start: float | None, combine: str | None, body: Any) -> Value | None:
        parts = []
        for c, lo, hi in ((wide, ZERO, end), (narrow, end, C)):
            full = c is wide
            inits = [] if start is None else [k.full(start, F32, c)]
            states = k.loop(
                name, lo, hi, c.extent, inits,
                lambda n, *s, c=c, full=full: body(
                    n + c, TRUE if full else call("lt", n + c, C), None if full else -INF, *s
                ),
            )  # fmt: skip
            parts += [k.reduce(str(combine), s, c) for s in states]
        return k.ew("max" if combine == "max" else "add", *parts) if parts else None

    best = both(
        "n0", -INF, "max",
        lambda at, m, fill, s: [k.ew("max", s, k.load(x, row, at, mask=m, other=fill))],
    )  # fmt: skip
    assert best is not None

    def second(at: Expr, mask: Expr, fill: float | None, s: Value) -> list[Value]:
        p = k.ew("exp", k.ew("sub", k.load(x, row, at, mask=mask, other=fill), best))
        k.store(e, at, p, mask=mask)
        return [k.ew("add", s, p)]

    total = both("n1", 0.0, "sum", second)
    assert total is not None
    w = k.ew("div", 1.0, total, name="w")
    both(
        "n2", None, None,
        lambda at, m, fill: k.store(y, row, at, k.ew("mul", k.load(e, at, mask=m), w), mask=m),
    )  # fmt: skip
    default = Placement({"c": ("vec", 8), "z": ("vec", 8)}, home={"e": ("y", (row,))})
    return TileProgram("row_fold", (k.kernel(),), (place or default,))


def normalise(width: int = 32) -> TileProgram:
    c, row, k = Axis("c", width), pid(0), Builder("normalise", (R,))
    x, g = Buffer("x", "in", F32, (R, C)), Buffer("g", "in", F32, (C,))
    b, y = Buffer("b", "in", F32, (C,)), Buffer("y", "out", F32, (R, C))

    def add(n0: Expr, m: Expr, s: Value) -> list[Value]:
        return [k.ew("add", s, k.load(x, row, n0 + c, mask=m, other=None if m is TRUE else 0.0))]

    (s,) = k.split("n0", 0, C, c, [k.full(0.0, F32, c, name="s")], add)
    count = k.index(call("toreal", C), name="count")
    mu = k.ew("div", k.reduce("sum", s, c), count, name="mu")

    def square(n0: Expr, m: Expr, q: Value) -> list[Value]:
        d = k.ew("sub", k.load(x, row, n0 + c, mask=m), mu)
        d = d if m is TRUE else k.ew("select", k.index(m), d, 0.0)
        return [k.ew("fma", d, d, q)]

    (q,) = k.split("n1", 0, C, c, [k.full(0.0, F32, c, name="q")], square)
    var_ = k.ew("div", k.reduce("sum", q, c), count)
    rs = k.ew("rsqrt", k.ew("add", var_, k.index(param("eps", "real"))), name="rs")

    def last(n0: Expr, m: Expr) -> None:
        d = k.ew("mul", k.ew("sub", k.load(x, row, n0 + c, mask=m), mu), rs)
        out = k.ew("fma", d, k.load(g, n0 + c, mask=m), k.load(b, n0 + c, mask=m))
        k.store(y, row, n0 + c, out, mask=m)

    k.split("n2", 0, C, c, [], last)
    return TileProgram("normalise", (k.kernel(),), (Placement({"c": ("vec", 8)}),))


def column_fold(
    width: int = 32, strip: int = 64, rows: int = 4, level: int = 16, place: Placement | None = None
) -> TileProgram:
    p, c, r = pid(0), Axis("c", width), Axis("r", rows)
    k = Builder("column_fold", (cdiv(C, strip),))
    x, y = Buffer("x", "in", F32, (R, C)), Buffer("y", "out", F32, (C,))
    a, t = (
        Buffer("a", "program", F32, (const(strip),)),
        Buffer("t", "program", F32, (const(strip),)),
    )
    base = p * strip
    k.loop("z", 0, strip, width, [], lambda c0: k.store(t, c0 + c, k.full(0.0, F32, c)))

    def strips(full: bool) -> None:
        def inner(i0: Expr, row_mask: Expr, block: Expr) -> None:
            def column(c0: Expr) -> None:
                mask = row_mask if full else row_mask & (base + c0 + c < C)
                other = None if mask is TRUE else 0.0
                v = k.load(x, i0 + r, base + c0 + c, mask=mask, other=other)
                old = k.load(a, c0 + c, mask=block < i0, other=0.0)
                k.store(a, c0 + c, k.ew("add", old, k.reduce("sum", v, r)))

            k.loop("c0", 0, strip, width, [], column)

        def outer(b0: Expr) -> None:
            k.split("i0", b0, minimum(b0 + level, R), r, [], lambda i, m: inner(i, m, b0))
            k.loop(
                "c1", 0, strip, width, [],
                lambda c0: k.store(t, c0 + c, k.ew("add", k.load(t, c0 + c), k.load(a, c0 + c))),
            )  # fmt: skip

        k.loop("b0", 0, R, level, [], outer)

        def final(c0: Expr) -> None:
            mask = TRUE if full else base + c0 + c < C
            k.store(y, base + c0 + c, k.load(t, c0 + c, mask=mask), mask=mask)

        k.loop("c2", 0, strip, width, [], final)

    k.branch(base + strip <= C, lambda: strips(True), lambda: strips(False))
    default = Placement({"c": ("vec", 8), "r": "unroll"})
    return TileProgram("column_fold", (k.kernel(),), (place or default,))


def product(
    mr: int = 6,
    nr: int = 16,
    kc: int = 256,
    mc: int = 96,
    nc: int = 512,
    vec: int = 8,
    epilogue: bool = True,
) -> TileProgram:
    """Two launches: pack b into panels, then register tiles over packed a with an epilogue."""
    i, j = Axis("i", mr), Axis("j", nr)
    panels, blocks, mp, np_ = cdiv(N, nr), cdiv(K, kc), mc // mr, nc // nr
    pack = Builder("pack_b", (panels, blocks))
    b = Buffer("b", "in", F32, (K, N))
    pb = Buffer("pb", "plan", F32, (blocks, panels, const(kc), const(nr)))
    jp, kb = pid(0), pid(1)

    def copy_b(full: bool) -> None:
        mask = TRUE if full else jp * nr + j < N
        pack.loop(
            "k", 0, minimum(kc, K - kb * kc), 1, [],
            lambda k: pack.store(
                pb, kb, jp, k, j.lane,
                pack.load(b, kb * kc + k, jp * nr + j, mask=mask, other=None if full else 0.0),
            ),
        )  # fmt: skip

    pack.branch(jp * nr + nr <= N, lambda: copy_b(True), lambda: copy_b(False))

    t = Builder("product", (cdiv(M, mc), cdiv(N, nc)))
    a, bias = Buffer("a", "in", F32, (M, K)), Buffer("bias", "in", F32, (N,))
    y = Buffer("y", "out", F32, (M, N))
    pa = Buffer("pa", "program", F32, (const(mp), const(kc), const(mr)))
    part = Buffer("part", "program", F32, (const(np_), const(mp), const(mr), const(nr)))
    i_base, j_base = pid(0) * mc, pid(1) * np_
    i_count, j_count = minimum(mp, cdiv(M - i_base, mr)), minimum(np_, panels - j_base)

    def k_block(k0: Expr) -> None:
        depth = minimum(kc, K - k0)

        def copy_a(ip: Expr) -> None:
            row = i_base + ip * mr

            def copy(mask: Expr) -> None:
                t.loop(
                    "k", 0, depth, 1, [],
                    lambda k: t.store(
                        pa, ip, k, i.lane,
                        t.load(a, row + i, k0 + k, mask=mask, other=None if mask is TRUE else 0.0),
                    ),
                )  # fmt: skip

            t.branch(row + mr <= M, lambda: copy(TRUE), lambda: copy(row + i < M))

        t.loop("ip", 0, i_count, 1, [], copy_a)

        def register_tile(jp: Expr, ip: Expr) -> None:
            def step(k: Expr, acc: Value) -> list[Value]:
                x = t.load(pa, ip, k, i.lane, name="a")
                return [t.ew("fma", x, t.load(pb, k0 // kc, j_base + jp, k, j.lane, name="b"), acc)]

            (acc,) = t.loop("k", 0, depth, 1, [t.full(0.0, F32, i, j, name="acc")], step)
            old = t.load(part, jp, ip, i.lane, j.lane, mask=0 < k0, other=0.0)
            acc = t.ew("add", acc, old)
            row, col = i_base + ip * mr, (j_base + jp) * nr

            def write(mi: Expr, mj: Expr) -> None:
                z = acc
                if epilogue:
                    z = gelu(
                        t,
                        t.ew(
                            "add",
                            acc,
                            t.load(bias, col + j, mask=mj, other=None if mj is TRUE else 0.0),
                        ),
                    )
                t.store(y, row + i, col + j, z, mask=mi & mj)

            def finish() -> None:
                inside = (row + mr <= M) & (col + nr <= N)
                t.branch(inside, lambda: write(TRUE, TRUE), lambda: write(row + i < M, col + j < N))

            t.branch(K <= k0 + kc, finish, lambda: t.store(part, jp, ip, i.lane, j.lane, acc))

        t.loop(
            "jp",
            0,
            j_count,
            1,
            [],
            lambda jp: t.loop("iq", 0, i_count, 1, [], lambda ip: register_tile(jp, ip)) and None,
        )

    t.loop("k0", 0, maximum(K, 1), kc, [], k_block)
    v = ("vec", vec)
    deep = ("t", "t_*", "bias*", "part*", "st_y*") if epilogue else ()
    tiles = Placement({"i": "unroll", "j": v}, pin=("b",), deep=deep, threads="dynamic")
    return TileProgram("product", (pack.kernel(), t.kernel()), (Placement({"j": v}), tiles))


# -- operators and references ------------------------------------------------------------------

EPS = Param("eps", F32, const(1e-5))


def ref_gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def ref_rows(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def test_pointwise(level: str, cpp: Any) -> None:
    lib = cpp.library(pointwise(), level)
    for n in (0, 1, 7, 8, 31, 32, 33, 4096, 5000, 40001):
        x, y = f32(n), np.full(n, np.nan, np.float32)
        lib.run({"x": x}, {"y": y})
        np.testing.assert_allclose(y, ref_gelu(x.astype(float)), rtol=2e-5, atol=1e-6)


def test_row_fold(level: str, cpp: Any) -> None:
    lib = cpp.library(row_fold(), level)
    for r, c in ((0, 3), (1, 1), (3, 32), (2, 72), (2, 31), (130, 333)):
        x, y = f32(r, c), np.full((r, c), np.nan, np.float32)
        lib.run({"x": x}, {"y": y})
        np.testing.assert_allclose(y, ref_rows(x.astype(float)) if r else y, rtol=1e-5, atol=1e-7)


def test_column_fold(cpp: Any) -> None:
    lib = cpp.library(column_fold())
    for r, c in ((0, 5), (1, 1), (7, 70), (70, 64), (130, 3), (333, 257)):
        x, y = f32(r, c), np.full(c, np.nan, np.float32)
        lib.run({"x": x}, {"y": y})
        np.testing.assert_allclose(y, x.astype(float).sum(0), rtol=1e-5, atol=1e-4)


def test_normalise(cpp: Any) -> None:
    lib = cpp.library(normalise(), params=(EPS,))
    for r, c in ((1, 1), (3, 32), (2, 72), (5, 31)):
        x, g, b, y = f32(r, c), f32(c), f32(c), np.full((r, c), np.nan, np.float32)
        lib.run({"x": x, "g": g, "b": b}, {"y": y}, {"eps": 1e-3})
        w = x.astype(float)
        want = (w - w.mean(1, keepdims=True)) / np.sqrt(w.var(1, keepdims=True) + 1e-3) * g + b
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("vec", [8, 16])
def test_product(vec: int, cpp: Any) -> None:
    lib = cpp.library(product(kc=8, mc=12, nc=32, vec=vec))
    for m, n, k in ((1, 1, 1), (7, 17, 9), (13, 35, 20), (6, 16, 8), (3, 4, 0), (70, 80, 90)):
        a, b, v, y = f32(m, k), f32(k, n), f32(n), np.full((m, n), np.nan, np.float32)
        lib.run({"a": a, "b": b, "bias": v}, {"y": y})
        np.testing.assert_allclose(y, ref_gelu(a.astype(float) @ b + v), rtol=1e-4, atol=1e-5)


SCANS = {
    "sum": np.add.accumulate,
    "prod": np.multiply.accumulate,
    "max": np.maximum.accumulate,
    "min": np.minimum.accumulate,
}


@pytest.mark.parametrize("place", ["unroll", ("vec", 4), ("vec", 8), ("vec", 32)])
def test_running_reductions_in_registers(level: str, place: Any, cpp: Any) -> None:
    """Within one vector, from vector to vector, from scalar to scalar, both ways."""
    k, c = Builder("scans", (const(1),)), Axis("c", 32)
    x = Buffer("x", "in", F32, (const(32),))
    v = k.load(x, c)
    for kind in SCANS:
        for back in (False, True):
            y = Buffer(f"{kind}{int(back)}", "out", F32, (const(32),))
            k.store(y, c, k.scan(v, Scan(kind, c, back)))
    program = TileProgram("scans", (k.kernel(),), (Placement({"c": place}, deep=("*",)),))
    given = (1 + RNG.random(32)).astype(np.float32)
    given[5] = -3
    outs = {f"{kind}{n}": np.empty(32, np.float32) for kind in SCANS for n in (0, 1)}
    cpp.library(program, level).run({"x": given}, outs)
    for kind, accumulate in SCANS.items():
        want = accumulate(given.astype(np.float64))
        np.testing.assert_allclose(outs[f"{kind}0"], want, rtol=1e-5, err_msg=kind)
        want = accumulate(given[::-1].astype(np.float64))[::-1]
        np.testing.assert_allclose(outs[f"{kind}1"], want, rtol=1e-5, err_msg=f"{kind} back")
