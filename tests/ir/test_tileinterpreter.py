"""The interpreter against numpy, and what it traps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tile_kernels
from tile_kernels import buf

from opwright.ir.dtypes import F32, I64
from opwright.ir.expr import TRUE, Expr, cdiv, leaf, lift, pid, size
from opwright.ir.interpreter import Trap, run, traps
from opwright.ir.tile import Axis, Builder, Placement, TileProgram
from opwright.ir.tilecheck import check_program
from opwright.ir.tiletext import parse_program

RNG = np.random.default_rng(0)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def normal(*shape):
    return RNG.standard_normal(shape)


def softmaxed(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def cases(name):
    small = tile_kernels.SMALL[name]()
    if name == "gelu_tanh":
        for n in (0, 1, 31, 33, 200):
            yield small, {"n": n}, {"X": (x := normal(n))}, {}, gelu(x)
    elif name.startswith("softmax"):
        for r, c in ((1, 1), (3, 32), (2, 72), (2, 31)):
            yield small, {"R": r, "C": c}, {"X": (x := normal(r, c))}, {}, softmaxed(x)
    elif name == "layernorm":
        for r, c in ((1, 1), (3, 32), (2, 72)):
            x, g, b = normal(r, c), normal(c), normal(c)
            want = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * g + b
            yield small, {"R": r, "C": c}, {"X": x, "G": g, "B": b}, {"eps": 1e-5}, want
    elif name == "sum_dim0":
        for r, c in ((0, 5), (1, 1), (7, 70), (130, 3)):
            yield small, {"R": r, "C": c}, {"X": (x := normal(r, c))}, {}, x.sum(0)
    elif name == "matmul":
        for m, n, k in ((1, 1, 1), (7, 17, 9), (13, 35, 20), (3, 4, 0)):
            a, b, v = normal(m, k), normal(k, n), normal(n)
            yield small, {"M": m, "N": n, "K": k}, {"A": a, "B": b, "BIAS": v}, {}, gelu(a @ b + v)
    elif name == "attention":
        for h, s in ((1, 1), (2, 7), (1, 37)):
            q, k, v = normal(h, s, 16), normal(h, s, 16), normal(h, s, 16)
            see = np.tril(np.ones((s, s), bool))
            w = softmaxed(np.where(see, q @ k.transpose(0, 2, 1) / 4, -np.inf))
            yield small, {"H": h, "S": s}, {"Q": q, "K": k, "V": v}, {}, w @ v
    elif name == "prefix_sum":
        yield small, {"R": 2, "C": 9}, {"X": (x := normal(2, 9))}, {}, x.cumsum(1)
    elif name == "recurrence":
        a, x = normal(2, 9), normal(2, 9)
        h = np.zeros((2, 10))
        for t in range(9):
            h[:, t] = a[:, t] * h[:, t - 1] + x[:, t]
        yield small, {"R": 2, "C": 9}, {"A": a, "X": x}, {}, h[:, :9]
    elif name == "gather":
        ids, t = RNG.integers(0, 5, 7), normal(5, 11)
        yield small, {"N": 7, "V": 5, "D": 11}, {"IDS": ids, "T": t}, {}, t[ids]
    elif name == "flat":
        x = normal(2, 70, 3)
        yield small, {"B": 2, "H": 3, "N": 70}, {"X": x}, {}, x.transpose(0, 2, 1) + 1
    elif name == "elementwise":
        x, g = normal(2, 3, 5), normal(5)
        yield small, {"A": 2, "B": 3, "C": 5}, {"X": x, "G": g}, {}, x * g
    elif name == "diagonal":
        yield small, {"N": 4}, {"X": (x := normal(4, 4))}, {}, np.tril(x)


@pytest.mark.parametrize("name", tile_kernels.SMALL)
def test_against_numpy(name):
    for program, sizes, arrays, params, want in cases(name):
        assert traps(program, sizes, arrays, params) == []
        for order in (None, 1):
            (got,) = run(program, sizes, arrays, params, order=order).values()
            np.testing.assert_allclose(got, want, atol=1e-9)


n, c, p = size("n"), Axis("c", 8), pid(0)


def one(grid, body, *buffers, place=None):
    k = Builder("k", grid if isinstance(grid, tuple) else (grid,))
    body(k, *buffers)
    axes = place or Placement({"c": "unroll", "d": "unroll"})
    return TileProgram("k", (k.kernel(),), (axes,))


X, Y, S = buf("X", "in", n), buf("Y", "out", n), buf("S", "program", 8)


def copy(at, mask, load_mask=None, other=None):
    def body(k):
        k.store(
            Y,
            at,
            k.load(X, at, mask=mask if load_mask is None else load_mask, other=other),
            mask=mask,
        )

    return body


TRAPS = {
    "mask is <=": (cdiv(n, 8), copy(p * 8 + c, p * 8 + c <= n), "bounds", "x"),
    "no mask": (cdiv(n, 8), copy(p * 8 + c, TRUE), "bounds", "x"),
    "grid rounds down": (n // 8, copy(p * 8 + c, p * 8 + c < n), "missing", ""),
    "programs overlap": (cdiv(n, 8), copy(p * 4 + c, p * 4 + c < n), "twice", "st_y"),
    "negative index": (n, copy(p - 1, TRUE), "bounds", "x"),
    "poison stored": (
        cdiv(n, 8),
        copy(p * 8 + c, p * 8 + c < n, p * 8 + c + 1 < n),
        "poison",
        "st_y",
    ),
    "poison reduced": (
        n,
        lambda k: k.store(Y, p, k.reduce("sum", k.load(X, c, mask=c.lane < p), c)),
        "poison",
        "t",
    ),
    "scratch is not written": (
        n,
        lambda k: k.store(Y, p, k.load(S, 0)),
        "unwritten",
        "s",
    ),
    "reads another program's output": (
        n,
        lambda k: (
            k.store(Y, p, k.full(1.0)),
            k.reduce("sum", k.load(Y, c, mask=c.lane < p, other=0.0), c),
        ),
        "race",
        "y",
    ),
    "two lanes of one store": (
        n,
        lambda k: (k.store(S, c.lane // 2, k.full(0.0, F32, c)), k.store(Y, p, k.full(0.0))),
        "twice",
        "st_s",
    ),
    "divisor": (n, copy(p // (n - 11), TRUE), "divisor", "x"),
    "wrap": (n, copy(p + (n * 2**62 - n * 2**62), TRUE), "wrap", "x"),
    "carried poison": (
        n,
        lambda k: k.store(
            Y,
            p,
            k.loop("i", 0, 2, 1, [k.full(0.0)], lambda i, s: [k.load(X, p, mask=p < 0)])[0],
        ),
        "poison",
        "i",
    ),
    "endless": (n, lambda k: k.loop("i", 0, 2**40, 1, [], lambda i: None), "limit", "i"),
}


@pytest.mark.parametrize("name", TRAPS)
def test_traps(name):
    grid, body, kind, statement = TRAPS[name]
    program = one(grid, body)
    arrays = {"X": normal(11)}
    with pytest.raises(Trap) as e:
        run(program, {"n": 11}, arrays, limit=5000)
    assert (e.value.kind, e.value.statement) == (kind, statement)
    assert kind in [t.kind for t in traps(program, {"n": 11}, arrays, limit=5000)]


def test_a_trap_says_where():
    with pytest.raises(
        Trap, match=r"x, kernel k, program \(1,\): X\[11\]: 11 is outside \[0, 11\)"
    ) as e:
        run(one(cdiv(n, 8), copy(p * 8 + c, TRUE)), {"n": 11}, {"X": normal(11)})
    assert e.value.index == (11,) and e.value.lane == {"c": 3} and e.value.program == (1,)


def test_poison_outside_the_mask_is_harmless():
    def body(k):
        v = k.load(X, p * 8 + c, mask=p * 8 + c < n)
        kept = k.ew("select", k.index(p * 8 + c < n), v, 0.0)
        k.reduce("sum", kept, c)
        k.store(Y, p * 8 + c, k.ew("add", v, 1.0), mask=p * 8 + c < n)

    got = run(one(cdiv(n, 8), body), {"n": 11}, {"X": (x := normal(11))})["Y"]
    np.testing.assert_allclose(got, x + 1)


def test_plan_scratch_zeroed_and_accumulated_by_one_program():
    z = buf("Z", "plan", 4, dtype=I64, init="zero")
    y = buf("Y", "out", 4, dtype=I64)
    first, second = Builder("count", (lift(1),)), Builder("copy", (lift(4),))
    ids = buf("IDS", "in", n, dtype=I64)

    def add(i):
        at: Expr = leaf("value", first.load(ids, i))
        first.store(z, at, first.ew("add", first.load(z, at), 1))

    first.loop("i", 0, n, 1, [], add)
    second.store(y, pid(0), second.load(z, pid(0)))
    program = TileProgram("count", (first.kernel(), second.kernel()), (Placement(),) * 2)
    values = np.array([1, 3, 3, 0, 3])
    got = run(program, {"n": 5}, {"IDS": values})["Y"]
    assert got.dtype == np.int64 and list(got) == list(np.bincount(values, minlength=4))


def test_a_wrong_home_is_seen():
    program = tile_kernels.softmax(home=True)
    x = {"X": normal(2, 9)}
    wrong = Placement(program.placements[0].axes, home={"E": ("Y", (lift(0),))})
    broken = TileProgram("softmax", program.kernels, (wrong,))
    assert traps(program, {"R": 2, "C": 9}, x) == []
    assert [t.kind for t in traps(broken, {"R": 2, "C": 9}, x)] == ["home"]


def test_a_rank_zero_output_is_written_once():
    y = buf("Y", "out")
    good = one(lift(1), lambda k: k.store(y, k.full(2.0)))
    assert run(good, {}, {})["Y"].shape == ()
    with pytest.raises(Trap, match="second time"):
        run(one(lift(2), lambda k: k.store(y, k.full(2.0))), {}, {})


# -- what imported kernels bring -------------------------------------------------------------------


def parsed(body, head="", sizes="N"):
    text = f"program k\nsizes {sizes}\nkernel k\n  grid 1\n{head}  body\n"
    return parse_program(text + "".join(f"    {line}\n" for line in body.strip().splitlines()))


BLOCK = """\
  in X: f32[8, 4]
  in I: i32[8]
  out Y: f32[8, 4]
  axis a = 8
  axis b = 4
  axis k = 4
  axis f = 32
"""
LOADS = "x: f32[a, b] = load X[a, b]\n"
MEANINGS = {
    "scan": ("y: f32[a, b] = scan sum x over a", lambda x: x.cumsum(0)),
    "reverse": (
        "y: f32[a, b] = scan max x over b reverse",
        lambda x: np.maximum.accumulate(x[:, ::-1], 1)[:, ::-1],
    ),
    "dot": (
        "w: f32[k, b] = view x at a = k\ny: f32[a, b] = dot z w over k".replace(
            "y:", "z: f32[a, k] = view x at b = k\ny:"
        ),
        lambda x: x @ x[:4],
    ),
    "view": (
        "s: f32[f] = view x at a = f // 4, b = f % 4\ny: f32[a, b] = view s at f = b * 8 + a",
        lambda x: x.reshape(4, 8).T,
    ),
    "argreduce": (
        "i: i64[a] = index a\nm: i64[b] = argreduce argmin x i over a\n"
        "r: f32[b] = cast m\ny: f32[a, b] = add x r",
        lambda x: x + x.argmin(0),
    ),
}


@pytest.mark.parametrize("name", MEANINGS)
def test_meaning_of_tile_operations(name):
    body, meaning = MEANINGS[name]
    program = parsed(LOADS + body + "\nst: store Y[a, b] = y", BLOCK)
    check_program(program)
    x = normal(8, 4)
    got = run(program, {}, {"X": x, "I": np.zeros(8, int)})["Y"]
    np.testing.assert_allclose(got, meaning(x))


def test_a_nan_wins_and_ties_go_to_the_smallest_index():
    body = "i: i64[a] = index a\nm: i64[b] = argreduce argmax x i over a\n"
    body += "y: f32[b] = cast m\nst: store Y[0, b] = y\nst_1: store Y[a, b] if 0 < a = x"
    x = np.zeros((8, 4))
    x[3, 0], x[2, 1], x[6, 1] = math.nan, 5, 5
    got = run(parsed(LOADS + body, BLOCK), {}, {"X": x, "I": np.zeros(8, int)})["Y"]
    assert list(got[0]) == [3, 2, 0, 0]


def test_poison_scanned_before_a_lane_that_counts():
    def program(mask):
        body = f"x: f32[a] = load X[a, 0] if {mask}\ny: f32[a] = scan sum x over a\n"
        body += f"st: store Y[a, 0] if {mask} = y"
        return parsed(body, BLOCK)

    arrays = {"X": normal(8, 4), "I": np.zeros(8, int)}
    assert [t.kind for t in traps(program("a < 3"), {}, arrays)] == ["missing"]
    (first, *_) = traps(program("3 < a"), {}, arrays)
    assert (first.kind, first.statement) == ("poison", "y")


def test_checks_and_lines():
    head = BLOCK + '  line c_1 "kernel.py:7"\n  line st "kernel.py:8"\n'
    body = LOADS + 'c_1: check wrap a * N < 16 because "a * N wraps i32"\nst: store Y[a, b] = x'
    arrays = {"X": normal(8, 4), "I": np.zeros(8, int)}
    assert traps(parsed(body, head), {"N": 2}, arrays) == []
    (trap,) = traps(parsed(body, head), {"N": 3}, arrays)
    assert (trap.kind, trap.lane, trap.line) == ("wrap", {"a": 6}, "kernel.py:7")
    assert str(trap).startswith("kernel.py:7, c_1, kernel k") and "wraps i32" in str(trap)


def test_atomics_are_combined_and_need_a_start():
    head = "  in I: i64[6]\n  plan H: f32[4]{}\n  out Y: f32[4]\n  axis a = 6\n  axis b = 4\n"
    body = "i: i64[a] = load I[a]\none: f32[a] = full 1.0\nat: atomic sum H[i] = one"
    last = "\nh: f32[b] = load H[b]\nst: store Y[b] = h"
    arrays = {"I": np.array([0, 3, 3, 1, 3, 0])}
    good = parsed(body + last, head.format(" init zero"))
    assert list(run(good, {}, arrays)["Y"]) == [2, 1, 0, 3]
    bad = traps(parsed(body + last, head.format("")), {}, arrays)
    assert (bad[0].kind, bad[0].statement) == ("unwritten", "at")


@pytest.mark.parametrize(
    ("order", "second", "expected"),
    [
        ("statement", "y: f32[a] = load S[7 - a]", []),
        ("lane", "y: f32[a] = load S[7 - a]", ["race"]),
        ("lane", "y: f32[a] = load S[a]", []),
        ("lane", "q: f32[b] = full 0.0\nst_2: store S[b] = q\ny: f32[a] = load X[a]", ["race"]),
        ("lane", "st_2: store S[7 - a] = x\ny: f32[a] = load X[a]", ["race"]),
        ("statement", "st_2: store S[7 - a] = x\ny: f32[a] = load X[a]", []),
    ],
)
def test_what_orders_the_effects_of_a_program(order, second, expected):
    head = "  in X: f32[8]\n  out Y: f32[8]\n  program S: f32[8]\n  axis a = 8\n  axis b = 4\n"
    body = f"x: f32[a] = load X[a]\nst: store S[a] = x\n{second}\nst_1: store Y[a] = y"
    program = parsed(body, head + f"  order {order}\n")
    assert [t.kind for t in traps(program, {}, {"X": normal(8)})] == expected


def test_lanes_that_agree_write_one_element():
    head = "  in X: f32[8]\n  out Y: f32[4]\n  axis a = 8\n  order {}\n"
    body = "x: f32[a] = load X[{}]\nst: store Y[a // 2] = x"
    arrays = {"X": normal(8)}
    assert traps(parsed(body.format("a // 2"), head.format("lane")), {}, arrays) == []
    for own, order in (("a", "lane"), ("a // 2", "statement")):
        (trap, *_) = traps(parsed(body.format(own), head.format(order)), {}, arrays)
        assert trap.kind == "twice"


def test_what_follows_from_an_unknown_function_is_a_guess():
    head = "  in I: i64[4]\n  out Y: f32[4]\n  axis b = 4\n"
    body = 'i: i64[b] = load I[b]\nj: i64[b] = opaque "mix" i\nz: f32 = full 1.0\n'
    body += "z_1: f32[b] = index b\nst: store Y[value.j + 9] = z_1"
    arrays = {"I": np.arange(4)}
    found = traps(parsed(body.replace("value.j + 9", "b + 9"), head), {}, arrays)
    assert found and not any(t.guessed for t in found)
    found = traps(parsed(body, head), {}, arrays)
    assert found and all(t.guessed for t in found)
