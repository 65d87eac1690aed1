"""The text form of tile programs: round trip, digest, messages."""

from __future__ import annotations

import math

import pytest
import tile_kernels
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opwright.ir.dtypes import BOOL, DTYPES, F32, I64
from opwright.ir.expr import TRUE, call, const, leaf, param, pid, size, stride, var
from opwright.ir.tile import Axis, Buffer, Builder, Placement, TileProgram
from opwright.ir.tilecheck import check_program
from opwright.ir.tiletext import ParseError, digest, parse_program, show_program


def same(a: TileProgram, b: TileProgram) -> None:
    assert show_program(a) == show_program(b)
    assert a.placements == b.placements
    assert a.facts == b.facts
    assert a.buffers() == b.buffers()
    assert [k.grid for k in a.kernels] == [k.grid for k in b.kernels]


@pytest.mark.parametrize("name", tile_kernels.SMALL)
def test_kernels_round_trip(name):
    program = tile_kernels.SMALL[name]()
    check_program(program)
    text = show_program(program)
    back = parse_program(text)
    check_program(back)
    same(program, back)
    assert digest(back) == digest(program)


def test_text_of_a_small_kernel():
    text = show_program(tile_kernels.prefix_sum())
    assert text == (
        "program prefix_sum\n"
        "sizes C, R\n"
        "kernel prefix_sum\n"
        "  grid R, C\n"
        "  in X: f32[R, C]\n"
        "  out Y: f32[R, C]\n"
        "  body\n"
        "    t: f32 = full 0.0\n"
        "    for s in 0 .. p1 + 1 by 1 carry t_c = t -> t_r:\n"
        "      x: f32 = load X[p0, s]\n"
        "      t_1: f32 = add t_c x\n"
        "      next t_1\n"
        "    st_y: store Y[p0, p1] = t_r\n"
    )


def test_every_hint_and_a_name_of_two_things():
    n, c = size("n"), Axis("c", 8)
    k = Builder("odd", (n, stride("X", 0)))
    x = Buffer("X", "in", F32, (n, n), (stride("X", 0), const(1)))
    e = Buffer("E", "program", F32, (n,))
    z = Buffer("Z", "plan", I64, (n,), None, "zero")
    y = Buffer("Y", "out", F32, (n, n))

    def body(i):  # the loop is called n, as the size is
        k.store(
            e, i + c, k.load(x, pid(0), i + c, mask=i + c < n, other=-0.0, name="n"), mask=i + c < n
        )

    k.loop("n", 0, n, 8, [], body)
    v = k.load(z, pid(0), name="c")
    k.store(y, pid(0), leaf("value", v), k.index(param("eps", "real"), name="eps"))
    place = Placement(
        {"c": ("vec", 8)},
        pin=("n", "t_*"),
        stream=("st_y",),
        prefetch={"n*": ("n", 4)},
        unroll={"n": 2},
        deep=("*",),
        home={"E": ("Y", (pid(0) + 1,))},
        threads="dynamic",
    )
    facts = (call("eq", n % 8, 0), param("aligned(X, 32)", "bool"), call("eq", stride("X", 0), n))
    program = TileProgram("odd", (k.kernel(),), (place,), facts)
    back = parse_program(show_program(program))
    same(program, back)
    assert "loop.n" in show_program(program) or "n_1" in show_program(program)


@pytest.mark.parametrize(
    "value", [math.inf, -math.inf, math.nan, -0.0, 0.0, 1e-300, 0.1, 7, -7, True]
)
def test_constants_keep_type_and_sign(value):
    k = Builder("k", (const(1),))
    d = BOOL if value is True else F32
    k.full(value, d)
    program = TileProgram("k", (k.kernel(),), (Placement(),))
    back = parse_program(show_program(program)).kernels[0].body[0].value.attr
    assert type(back) is type(value)
    assert repr(back) == repr(value)


@pytest.mark.parametrize(
    "old, new, line, part",
    [
        ("add t_c x", "plus t_c x", 11, "plus"),
        ("add t_c x", "add t_c q", 11, "q"),
        ("load X[p0, s]", "load X[p0, w]", 10, "w"),
        ("load X[p0, s]", "load Q[p0, s]", 10, "Q"),
        ("      next t_1\n", "", 9, "next"),
        ("in X: f32", "in X: f33", 5, "f33"),
        ("  body\n", "", 7, "body"),
        ("by 1", "by x", 9, "write"),
    ],
)
def test_messages_name_the_place(old, new, line, part):
    text = show_program(tile_kernels.prefix_sum()).replace(old, new, 1)
    with pytest.raises(ParseError) as e:
        parse_program(text)
    assert e.value.line == line and part in str(e.value) and e.value.cure


def test_column_of_a_bad_name():
    text = show_program(tile_kernels.prefix_sum()).replace("load X[p0, s]", "load X[p0, w]")
    with pytest.raises(ParseError) as e:
        parse_program(text)
    line = text.splitlines()[e.value.line - 1]
    assert line[e.value.column - 1] == "w"


# -- random programs -------------------------------------------------------------------------------

AXES = (Axis("a", 4), Axis("b", 8))


@st.composite
def integers(draw, leaves, depth=2):
    if depth == 0 or draw(st.booleans()):
        return draw(st.sampled_from([*leaves, const(3), const(-2)]))
    x, y = (draw(integers(leaves, depth - 1)) for _ in range(2))
    op = draw(
        st.sampled_from(["add", "sub", "mul", "min", "max", "floordiv", "mod", "select", "neg"])
    )
    if op in ("floordiv", "mod"):
        return call(op, x, draw(st.integers(1, 9)))
    if op == "neg":
        return call(op, x)
    if op == "select":
        return call(op, call(draw(st.sampled_from(["lt", "le", "eq"])), x, y), x, y)
    return call(op, x, y)


@st.composite
def masks(draw, leaves):
    x, y = draw(integers(leaves)), draw(integers(leaves))
    mask = call(draw(st.sampled_from(["lt", "le", "ne"])), x, y)
    if draw(st.booleans()):
        mask = call(draw(st.sampled_from(["and", "or"])), mask, ~call("lt", y, x))
    return mask


@st.composite
def programs(draw):
    n, m = size("n"), size("m")
    kernels = []
    x = Buffer("X", "in", F32, (n, m), draw(st.sampled_from([None, (stride("X", 0), const(1))])))
    y, e = Buffer("Y", "out", F32, (n, m)), Buffer("E", "program", F32, (m,))
    for name in ("first", "second")[: draw(st.integers(1, 2))]:
        k = Builder(name, (n, m + 1)[: draw(st.integers(1, 2))])
        uniform = [n, m, pid(0), param("flag", "int")]

        def block(depth, loops, k=k, uniform=uniform):
            scope = [*uniform, *(var(v) for v in loops)]
            for _ in range(draw(st.integers(1, 3))):
                what = draw(st.sampled_from(["load", "store", "ew", "loop", "if", "index"]))
                leaves = [*scope, *(a.lane for a in AXES)]
                mask = draw(masks(leaves)) if draw(st.booleans()) else TRUE
                if what == "load":
                    other = draw(st.sampled_from([None, 0.0, -math.inf, 2.5]))
                    k.load(
                        x, draw(integers(leaves)), draw(integers(leaves)), mask=mask, other=other
                    )
                elif what == "store":
                    v = k.full(draw(st.floats(allow_nan=False, width=32)))
                    k.store(draw(st.sampled_from([e])), draw(integers(leaves)), v, mask=mask)
                elif what == "ew":
                    v = k.full(draw(st.floats(width=32)), F32, *AXES)
                    v = k.ew(draw(st.sampled_from(["add", "max", "mul"])), v, 2.0)
                    k.reduce(draw(st.sampled_from(["sum", "max"])), v, AXES[0])
                elif what == "index":
                    k.cast(
                        k.index(draw(integers(leaves))),
                        draw(st.sampled_from([F32, I64, DTYPES["i32"]])),
                    )
                elif depth and what == "loop":
                    init = k.full(0.0, F32, AXES[1])

                    def body(v, s, depth=depth, loops=loops):
                        block(depth - 1, (*loops, v.attr))
                        return [k.ew("add", s, 1.0)]

                    k.loop(
                        "i",
                        draw(integers(scope)),
                        draw(integers(scope)),
                        draw(st.integers(1, 9)),
                        [init],
                        body,
                    )
                elif depth and what == "if":
                    k.branch(
                        draw(masks(scope)),
                        lambda depth=depth, loops=loops: block(depth - 1, loops),
                        lambda depth=depth, loops=loops: block(depth - 1, loops),
                    )

        block(2, ())
        k.buffer(y)
        kernels.append(k.kernel())
    place = Placement({"a": draw(st.sampled_from(["unroll", ("vec", 4)])), "b": "unroll"})
    facts = tuple(draw(st.lists(masks([n, m]), max_size=2)))
    return TileProgram("random", tuple(kernels), (place,) * len(kernels), facts)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(programs())
def test_random_programs_round_trip(program):
    check_program(program)
    back = parse_program(show_program(program))
    check_program(back)
    same(program, back)


def test_launch_numbers_are_part_of_the_digest():
    from dataclasses import replace

    one = tile_kernels.prefix_sum()
    four = replace(one, placements=(Placement(launch={"num_warps": 4, "num_stages": 2}),))
    check_program(four)
    assert "  launch num_stages = 2\n  launch num_warps = 4\n" in show_program(four)
    same(four, parse_program(show_program(four)))
    assert digest(four) != digest(one)


IMPORTED = """\
program imported
sizes K, N
fact K <= 64
assume "zero \\"fill\\" of masked loads"
kernel k
  grid (N + 7) // 8
  in A: f32[N, K]
  in B: f32[K, 16]
  out Y: f32[N, 16]
  plan H: i32[4] init zero
  axis m = 8
  axis k = 64
  axis j = 16
  axis q = 2
  axis r = 8
  order lane
  line a "kernel.py:12"
  line st_y "kernel.py:19"
  body
    a: f32[m, k] = load A[p0 * 8 + m, k] if p0 * 8 + m < N and k < K else 0.0
    b: f32[k, j] = load B[k, j] if k < K else 0.0
    c_1: check wrap p0 * 8 + m <= 2147483647 because "a = b: i32 if \\"wide\\" because so"
    acc: f32[m, j] = dot a b over k as tf32
    run: f32[m, j] = scan sum acc over j reverse
    run_1: f32[m, j] = scan max run over j
    i: i32[j] = index j
    top: i32[m] = argreduce argmax run_1 i over j
    t: f32[m, q, r] = view run_1 at j = q * 8 + r
    u: f32[m, j] = view t at q = j // 8, r = j % 8
    bits: i32[m] = opaque "arith.xori" top top
    one: i32 = full 1
    at_h: atomic sum H[value.bits % 4] if p0 * 8 + m < N = one
    st_y: store Y[p0 * 8 + m, j] if p0 * 8 + m < N = u
"""


def test_imported_kernels_round_trip():
    program = parse_program(IMPORTED)
    check_program(program)
    assert parse_program(show_program(program)).kernels[0].lines == program.kernels[0].lines
    same(program, parse_program(show_program(program)))
    assert program.assumes == ('zero "fill" of masked loads',)
    k = program.kernels[0]
    assert (k.order, k.lines["a"]) == ("lane", "kernel.py:12")
    assert k.body[2].reason == 'a = b: i32 if "wide" because so'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dot a b over k as tf32", "dot a b k", "cannot read the dot"),
        ("scan sum acc over j reverse", "scan total acc over j", "cannot read the scan"),
        ("argreduce argmax run_1 i over j", "argreduce max run_1 i over j", "cannot read the arg"),
        ("view run_1 at j = q * 8 + r", "view run_1 j", "cannot read the view"),
        ('opaque "arith.xori" top', "opaque xori top", "cannot read the operation"),
        ('"zero \\"fill\\" of masked loads"', "zero", "no text in quotes"),
    ],
)
def test_mistakes_in_imported_kernels(old, new, message):
    assert old in IMPORTED
    with pytest.raises(ParseError, match=message):
        parse_program(IMPORTED.replace(old, new))
