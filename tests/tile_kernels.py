"""Tile programs by hand, for tests of the IR and of the prover."""

from __future__ import annotations

import math
from collections.abc import Callable

from opwright.ir.dtypes import F32, I64
from opwright.ir.expr import (
    TRUE,
    Expr,
    ExprLike,
    cdiv,
    leaf,
    lift,
    maximum,
    minimum,
    param,
    pid,
    size,
)
from opwright.ir.tile import Axis, Buffer, Builder, Placement, TileProgram, Value

INF = math.inf
V8 = {"c": ("vec", 8), "z": ("vec", 8)}
R, C, M, N, K = (size(n) for n in "RCMNK")


def buf(name: str, role: str, *shape: ExprLike, dtype=F32, **more) -> Buffer:
    return Buffer(name, role, dtype, tuple(lift(s) for s in shape), **more)


def gelu(k: Builder, x: Value) -> Value:
    """tanh form, as x / (1 + exp(-2u))."""
    u = k.ew("mul", k.ew("fma", k.ew("mul", x, x), 1.5957691216 * 0.044715, 1.5957691216), x)
    return k.ew("div", x, k.ew("add", k.ew("exp", k.ew("neg", u)), 1.0))


def gelu_tanh(width: int = 32, block: int = 32768) -> TileProgram:
    n, c, p = size("n"), Axis("c", width), pid(0)
    k = Builder("gelu_tanh", (cdiv(n, block),))
    x, y = buf("X", "in", n), buf("Y", "out", n)

    def body(n0, mask):
        k.store(y, n0 + c, gelu(k, k.load(x, n0 + c, mask=mask)), mask=mask)

    k.split("n0", p * block, minimum(p * block + block, n), c, [], body)
    return TileProgram("gelu_tanh", (k.kernel(),), (Placement({"c": ("vec", 8)}),))


def softmax(
    width: int = 32,
    tail: int = 8,
    bound: Callable[[Expr, Expr], Expr] = lambda a, b: a < b,
    home: bool = False,
    fill: float | None = -INF,
) -> TileProgram:
    """Row in three passes through a scratch row: wide tiles, then narrow masked ones."""
    wide, narrow, r = Axis("c", width), Axis("z", tail), pid(0)
    k = Builder("softmax", (R,))
    x, y, e = buf("X", "in", R, C), buf("Y", "out", R, C), buf("E", "program", C)
    end = C // width * width

    def both(name, start, combine, body):
        parts = []
        for c, lo, hi in ((wide, lift(0), end), (narrow, end, C)):
            full = c is wide
            init = [] if start is None else [k.full(start, F32, c)]
            state = k.loop(
                name,
                lo,
                hi,
                c.extent,
                init,
                lambda n, *s, c=c, full=full: body(
                    n + c, TRUE if full else bound(n + c, C), None if full else fill, *s
                ),
            )
            parts += [k.reduce(combine, s, c) for s in state]
        return k.ew("max" if combine == "max" else "add", *parts) if parts else None

    m = both(
        "n0",
        -INF,
        "max",
        lambda at, mask, f, m: [k.ew("max", m, k.load(x, r, at, mask=mask, other=f))],
    )

    def second(at, mask, f, s):
        p = k.ew("exp", k.ew("sub", k.load(x, r, at, mask=mask, other=f), m))
        k.store(e, at, p, mask=mask)
        return [k.ew("add", s, p)]

    w = k.ew("div", k.full(1.0), both("n1", 0.0, "sum", second), name="w")

    def last(at, mask, f):
        k.store(y, r, at, k.ew("mul", k.load(e, at, mask=mask), w), mask=mask)

    both("n2", None, None, last)
    place = Placement(V8, home={"E": ("Y", (r,))} if home else {})
    return TileProgram("softmax", (k.kernel(),), (place,))


def layernorm(width: int = 32, stream: bool = False) -> TileProgram:
    c, r = Axis("c", width), pid(0)
    k = Builder("layernorm", (R,))
    x, g, b = buf("X", "in", R, C), buf("G", "in", C), buf("B", "in", C)
    y = buf("Y", "out", R, C)

    def summed(n0, mask, s):
        other = None if mask is TRUE else 0.0
        return [k.ew("add", s, k.load(x, r, n0 + c, mask=mask, other=other))]

    (s,) = k.split("n0", 0, C, c, [k.full(0.0, F32, c, name="s")], summed)
    count = k.index(C, F32, name="count")
    mu = k.ew("div", k.reduce("sum", s, c), count, name="mu")

    def square(n0, mask, q):
        d = k.ew("sub", k.load(x, r, n0 + c, mask=mask), mu)
        if mask is not TRUE:
            d = k.ew("select", k.index(mask), d, 0.0)
        return [k.ew("fma", d, d, q)]

    (q,) = k.split("n1", 0, C, c, [k.full(0.0, F32, c, name="q")], square)
    eps = k.index(param("eps", "real"), name="eps")
    rs = k.ew("rsqrt", k.ew("add", k.ew("div", k.reduce("sum", q, c), count), eps), name="rs")

    def last(n0, mask):
        d = k.ew("mul", k.ew("sub", k.load(x, r, n0 + c, mask=mask), mu), rs)
        out = k.ew("fma", d, k.load(g, n0 + c, mask=mask), k.load(b, n0 + c, mask=mask))
        k.store(y, r, n0 + c, out, mask=mask)

    k.split("n2", 0, C, c, [], last)
    place = Placement({"c": ("vec", 8)}, stream=("st_y",) if stream else ())
    return TileProgram("layernorm", (k.kernel(),), (place,))


def sum_dim0(
    width: int = 32, strip: int = 512, rows_at_once: int = 4, level: int = 64
) -> TileProgram:
    """Column strips; some rows at once; partial sums in one scratch strip, then a second."""
    p, c, r = pid(0), Axis("c", width), Axis("r", rows_at_once)
    k = Builder("sum_dim0", (cdiv(C, strip),))
    x, y = buf("X", "in", R, C), buf("Y", "out", C)
    a, t = buf("A", "program", strip), buf("T", "program", strip)
    base = p * strip
    k.loop("z", 0, strip, width, [], lambda c0: k.store(t, c0 + c, k.full(0.0, F32, c)))

    def strips(full):
        def inner(i0, row_mask, block):
            def column(c0):
                mask = row_mask if full else row_mask & (base + c0 + c < C)
                other = None if mask is TRUE else 0.0
                v = k.reduce("sum", k.load(x, i0 + r, base + c0 + c, mask=mask, other=other), r)
                old = k.load(a, c0 + c, mask=block < i0, other=0.0)
                k.store(a, c0 + c, k.ew("add", old, v))

            k.loop("c0", 0, strip, width, [], column)

        def outer(b0):
            k.split("i0", b0, minimum(b0 + level, R), r, [], lambda i0, mask: inner(i0, mask, b0))

            def fold(c0):
                k.store(t, c0 + c, k.ew("add", k.load(t, c0 + c), k.load(a, c0 + c)))

            k.loop("c1", 0, strip, width, [], fold)

        k.loop("b0", 0, R, level, [], outer)

        def final(c0):
            mask = TRUE if full else base + c0 + c < C
            k.store(y, base + c0 + c, k.load(t, c0 + c, mask=mask), mask=mask)

        k.loop("c2", 0, strip, width, [], final)

    k.branch(base + strip <= C, lambda: strips(True), lambda: strips(False))
    return TileProgram("sum_dim0", (k.kernel(),), (Placement({**V8, "r": "unroll"}),))


def matmul(
    mr: int = 6, nr: int = 16, kc: int = 256, mc: int = 96, nc: int = 512, epilogue: bool = True
) -> TileProgram:
    """Two launches: pack B into panels; per block pack A, register tiles, epilogue on the tile."""
    i, j = Axis("i", mr), Axis("j", nr)
    panels, blocks, mp, np_ = cdiv(N, nr), cdiv(K, kc), mc // mr, nc // nr

    pack = Builder("pack_b", (panels, blocks))
    b, pb = buf("B", "in", K, N), buf("PB", "plan", blocks, panels, kc, nr)
    jp, kb = pid(0), pid(1)

    def copy_b(full):
        mask = TRUE if full else jp * nr + j < N
        other = None if full else 0.0
        pack.loop(
            "k",
            0,
            minimum(kc, K - kb * kc),
            1,
            [],
            lambda k: pack.store(
                pb,
                kb,
                jp,
                k,
                j.lane,
                pack.load(b, kb * kc + k, jp * nr + j, mask=mask, other=other),
            ),
        )

    pack.branch(jp * nr + nr <= N, lambda: copy_b(True), lambda: copy_b(False))

    t = Builder("matmul", (cdiv(M, mc), cdiv(N, nc)))
    a, bias, y = buf("A", "in", M, K), buf("BIAS", "in", N), buf("Y", "out", M, N)
    pa, part = buf("PA", "program", mp, kc, mr), buf("PART", "program", np_, mp, mr, nr)
    i_base, j_base = pid(0) * mc, pid(1) * np_
    i_count, j_count = minimum(mp, cdiv(M - i_base, mr)), minimum(np_, panels - j_base)

    def k_block(k0):
        depth = minimum(kc, K - k0)

        def copy_a(ip):
            row = i_base + ip * mr

            def copy(mask):
                other = None if mask is TRUE else 0.0
                t.loop(
                    "k",
                    0,
                    depth,
                    1,
                    [],
                    lambda k: t.store(
                        pa, ip, k, i.lane, t.load(a, row + i, k0 + k, mask=mask, other=other)
                    ),
                )

            t.branch(row + mr <= M, lambda: copy(TRUE), lambda: copy(row + i < M))

        t.loop("ip", 0, i_count, 1, [], copy_a)

        def register_tile(jp, ip):
            (acc,) = t.loop(
                "k",
                0,
                depth,
                1,
                [t.full(0.0, F32, i, j, name="acc")],
                lambda k, acc: [
                    t.ew(
                        "fma",
                        t.load(pa, ip, k, i.lane, name="a"),
                        t.load(pb, k0 // kc, j_base + jp, k, j.lane, name="b"),
                        acc,
                    )
                ],
            )
            old = t.load(part, jp, ip, i.lane, j.lane, mask=lift(0) < k0, other=0.0)
            acc = t.ew("add", acc, old)
            row, col = i_base + ip * mr, (j_base + jp) * nr

            def finish():
                def write(mi, mj):
                    z = acc
                    if epilogue:
                        other = None if mj is TRUE else 0.0
                        z = gelu(t, t.ew("add", acc, t.load(bias, col + j, mask=mj, other=other)))
                    t.store(y, row + i, col + j, z, mask=mi & mj)

                t.branch(
                    (row + mr <= M) & (col + nr <= N),
                    lambda: write(TRUE, TRUE),
                    lambda: write(row + i < M, col + j < N),
                )

            t.branch(K <= k0 + kc, finish, lambda: t.store(part, jp, ip, i.lane, j.lane, acc))

        def columns(jp):
            t.loop("iq", 0, i_count, 1, [], lambda ip: register_tile(jp, ip))

        t.loop("jp", 0, j_count, 1, [], columns)

    t.loop("k0", 0, maximum(K, 1), kc, [], k_block)
    places = (
        Placement({"j": ("vec", 8)}),
        Placement(
            {"i": "unroll", "j": ("vec", 8)}, pin=("b",), deep=("t_*", "bias*", "part*", "st_y*")
        ),
    )
    return TileProgram("matmul", (pack.kernel(), t.kernel()), places)


def attention(
    depth: int = 64, bq: int = 60, bk: int = 128, mr: int = 6, nr: int = 16
) -> TileProgram:
    """Causal attention, one (query block, head) per program; scores and state in scratch."""
    S, H, D = size("S"), size("H"), depth
    i, j, u, e = Axis("i", mr), Axis("j", nr), Axis("u", nr), Axis("e", nr)
    c = Axis("c", min(32, bk))
    t = Builder("attention", (cdiv(S, bq), H))
    q, k, v, y = (
        buf(n, r, H, S, D) for n, r in (("Q", "in"), ("K", "in"), ("V", "in"), ("Y", "out"))
    )
    qt, kt = buf("QT", "program", bq // mr, D, mr), buf("KT", "program", bk // nr, D, nr)
    sc, acc = buf("SC", "program", mr, bk), buf("ACC", "program", bq // mr, mr, D)
    top, tot, shrink = (buf(n, "program", bq // mr, mr) for n in ("TOP", "TOT", "SHRINK"))
    base, h = pid(0) * bq, pid(1)
    tiles = minimum(bq // mr, cdiv(S - base, mr))

    def start(ip):
        row = base + ip * mr
        t.loop(
            "d",
            0,
            D,
            1,
            [],
            lambda d: t.store(
                qt,
                ip,
                d,
                i.lane,
                t.ew("mul", t.load(q, h, row + i, d, mask=row + i < S, other=0.0), depth**-0.5),
            ),
        )
        t.loop("d", 0, D, nr, [], lambda d: t.store(acc, ip, i.lane, d + e, t.full(0.0, F32, i, e)))
        t.store(top, ip, i.lane, t.full(-INF, F32, i))
        t.store(tot, ip, i.lane, t.full(0.0, F32, i))

    t.loop("ip", 0, tiles, 1, [], start)

    def block(k0):
        def copy(jp):
            key = k0 + jp * nr

            def one(mask):
                other = None if mask is TRUE else 0.0
                t.loop(
                    "d",
                    0,
                    D,
                    1,
                    [],
                    lambda d: t.store(
                        kt, jp, d, u.lane, t.load(k, h, key + u, d, mask=mask, other=other)
                    ),
                )

            t.branch(key + nr <= S, lambda: one(TRUE), lambda: one(key + u < S))

        t.loop("jp", 0, bk // nr, 1, [], copy)

        def rows(ip):
            row = base + ip * mr

            def scores(jp):
                (s,) = t.loop(
                    "d",
                    0,
                    D,
                    1,
                    [t.full(0.0, F32, i, j)],
                    lambda d, s: [
                        t.ew(
                            "fma",
                            t.load(qt, ip, d, i.lane),
                            t.load(kt, jp, d, j.lane, name="kt"),
                            s,
                        )
                    ],
                )
                key = k0 + jp * nr

                def masked():
                    see = t.index(key + j < minimum(row + i + 1, S), name="see")
                    t.store(sc, i.lane, jp * nr + j, t.ew("select", see, s, -INF))

                t.branch(key + nr <= row, lambda: t.store(sc, i.lane, jp * nr + j, s), masked)

            t.loop("jp", 0, bk // nr, 1, [], scores)

            def line(r):
                (m,) = t.loop(
                    "n",
                    0,
                    bk,
                    c.extent,
                    [t.full(-INF, F32, c)],
                    lambda n, m: [t.ew("max", m, t.load(sc, r, n + c))],
                )
                old = t.load(top, ip, r)
                new = t.ew("max", old, t.reduce("max", m, c))

                def weigh(n, s):
                    p = t.ew("exp", t.ew("sub", t.load(sc, r, n + c), new))
                    t.store(sc, r, n + c, p)
                    return [t.ew("add", s, p)]

                (s,) = t.loop("n", 0, bk, c.extent, [t.full(0.0, F32, c)], weigh)
                a = t.ew("exp", t.ew("sub", old, new))
                t.store(top, ip, r, new)
                t.store(shrink, ip, r, a)
                total = t.ew("mul", t.load(tot, ip, r), a)
                t.store(tot, ip, r, t.ew("add", total, t.reduce("sum", s, c)))

            t.loop("r", 0, mr, 1, [], line)

            def mix(d):
                first = t.ew("mul", t.load(acc, ip, i.lane, d + e), t.load(shrink, ip, i.lane))
                (z,) = t.loop(
                    "key",
                    0,
                    minimum(bk, S - k0),
                    1,
                    [first],
                    lambda n, z: [
                        t.ew(
                            "fma",
                            t.load(sc, i.lane, n),
                            t.load(v, h, k0 + n, d + e, name="v"),
                            z,
                        )
                    ],
                )
                t.store(acc, ip, i.lane, d + e, z)

            t.loop("d", 0, D, nr, [], mix)

        t.loop("iq", 0, tiles, 1, [], rows)

    t.loop("k0", 0, minimum(S, base + bq), bk, [], block)

    def finish(ip):
        def write(d):
            mask = base + ip * mr + i < S
            out = t.ew("div", t.load(acc, ip, i.lane, d + e), t.load(tot, ip, i.lane))
            t.store(y, h, base + ip * mr + i, d + e, out, mask=mask)

        t.loop("d", 0, D, nr, [], write)

    t.loop("io", 0, tiles, 1, [], finish)
    place = Placement({"i": "unroll", "u": "unroll", **{a: ("vec", 8) for a in "jce"}})
    return TileProgram("attention", (t.kernel(),), (place,))


def prefix_sum() -> TileProgram:
    """y[r, t] = sum of x[r, 0..t + 1], literally: a loop with a dependent bound."""
    k = Builder("prefix_sum", (R, C))
    x, y = buf("X", "in", R, C), buf("Y", "out", R, C)
    r, t = pid(0), pid(1)
    (s,) = k.loop(
        "s", 0, t + 1, 1, [k.full(0.0)], lambda s, acc: [k.ew("add", acc, k.load(x, r, s))]
    )
    k.store(y, r, t, s)
    return TileProgram("prefix_sum", (k.kernel(),), (Placement(),))


def recurrence(first: int = 0) -> TileProgram:
    """h[r, t] = a[r, t] * h[r, t - 1] + x[r, t], read back from the output."""
    k = Builder("recurrence", (R,))
    a, x, h = buf("A", "in", R, C), buf("X", "in", R, C), buf("H", "out", R, C)
    r = pid(0)

    def step(t):
        old = k.load(h, r, t - 1, mask=lift(first) < t, other=0.0)
        k.store(h, r, t, k.ew("fma", k.load(a, r, t), old, k.load(x, r, t)))

    k.loop("t", 0, C, 1, [], step)
    return TileProgram("recurrence", (k.kernel(),), (Placement(),))


def gather(width: int = 8, clamp: bool = False) -> TileProgram:
    """y[n, d] = table[ids[n], d], ids in [0, V)."""
    n, d, v, c = size("N"), size("D"), size("V"), Axis("c", width)
    k = Builder("gather", (n,))
    ids, table, y = buf("IDS", "in", n, dtype=I64), buf("T", "in", v, d), buf("Y", "out", n, d)
    at = k.load(ids, pid(0), name="at")
    row: Expr = leaf("value", at)
    if clamp:
        row = maximum(minimum(row, v - 1), 0)

    def body(d0, mask):
        k.store(y, pid(0), d0 + c, k.load(table, row, d0 + c, mask=mask), mask=mask)

    k.split("d0", 0, d, c, [], body)
    return TileProgram("gather", (k.kernel(),), (Placement({"c": ("vec", 8)}),))


def flat(block: int = 64) -> TileProgram:
    """y[b, h, n] = x[b, n, h] + 1 over a flat program id that stands for (b, h)."""
    b, h, n, c = size("B"), size("H"), size("N"), Axis("c", 8)
    k = Builder("flat", (b * h, cdiv(n, block)))
    x, y = buf("X", "in", b, n, h), buf("Y", "out", b, h, n)
    at, head = pid(0) // h, pid(0) % h

    def body(n0, mask):
        v = k.load(x, at, n0 + c, head, mask=mask)
        k.store(y, at, head, n0 + c, k.ew("add", v, 1.0), mask=mask)

    lo = pid(1) * block
    k.split("n0", lo, minimum(lo + block, n), c, [], body)
    return TileProgram("flat", (k.kernel(),), (Placement({"c": ("vec", 8)}),))


def elementwise(width: int = 8) -> TileProgram:
    """y[i, j, k] = x[i, j, k] * g[k] over one flat axis that is taken apart by division."""
    a, b, c, lane = size("A"), size("B"), size("C"), Axis("l", width)
    k = Builder("elementwise", (cdiv(a * b * c, width),))
    x, g, y = buf("X", "in", a, b, c), buf("G", "in", c), buf("Y", "out", a, b, c)
    at = pid(0) * width + lane
    index = (at // (b * c), at // c % b, at % c)
    mask = at < a * b * c
    v = k.ew("mul", k.load(x, *index, mask=mask), k.load(g, at % c, mask=mask))
    k.store(y, *index, v, mask=mask)
    return TileProgram("elementwise", (k.kernel(),), (Placement({"l": "unroll"}),))


def diagonal() -> TileProgram:
    """A square output written by two stores under two branches, one program per row."""
    n = size("N")
    k = Builder("diagonal", (n, n))
    x, y = buf("X", "in", n, n), buf("Y", "out", n, n)
    i, j = pid(0), pid(1)
    k.branch(
        j <= i,
        lambda: k.store(y, i, j, k.load(x, i, j)),
        lambda: k.store(y, i, j, k.full(0.0)),
    )
    return TileProgram("diagonal", (k.kernel(),), (Placement(),))


SMALL: dict[str, Callable[[], TileProgram]] = {
    "gelu_tanh": lambda: gelu_tanh(block=64),
    "softmax": softmax,
    "softmax_home": lambda: softmax(home=True),
    "layernorm": layernorm,
    "sum_dim0": lambda: sum_dim0(strip=64),
    "matmul": lambda: matmul(kc=8, mc=12, nc=32),
    "attention": lambda: attention(depth=16, bq=12, bk=16),
    "prefix_sum": prefix_sum,
    "recurrence": recurrence,
    "gather": gather,
    "flat": flat,
    "elementwise": elementwise,
    "diagonal": diagonal,
}
