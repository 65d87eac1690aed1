"""Bounds of what loops count."""

from __future__ import annotations

import pytest

from opwright.ir.dtypes import I32, I64
from opwright.ir.expr import call, const, leaf, size
from opwright.ir.tile import Axis, Buffer, Builder, For, Placement, TileProgram, statements
from opwright.verify.spans import Spans

N = size("N")
C = Axis("c", 8)
X = Buffer("x", "in", I64, (N,))
MOST = 1000
WHOLE = (-(2**63), 2**63 - 1)


def span(body, dtype=I64, init=0, then=None):
    """The bounds of what a loop of at most 1000 trips leaves."""
    k = Builder("k", (const(1),))
    start = k.full(init, dtype, C)
    (r,) = k.loop("i", 0, N, 1, [start], lambda v, s: [body(k, v, s)])
    r = r if then is None else then(k, r)
    program = TileProgram("t", (k.kernel(),), (Placement(),))
    return Spans(program).of(r, lambda s: MOST)


def test_a_count_is_bounded_by_its_trips():
    def count(k, v, s):
        return k.ew("select", k.index(call("lt", v, 3)), k.ew("add", s, 1), s)

    assert span(count) == (0, MOST)
    assert span(count, then=lambda k, r: k.reduce("sum", r, C)) == (0, 8 * MOST)
    assert span(count, then=lambda k, r: k.ew("max", r, 5)) == (5, MOST)


@pytest.mark.parametrize(
    "body, found",
    [
        (lambda k, v, s: k.ew("add", s, 3), (0, 3 * MOST)),
        (lambda k, v, s: k.ew("sub", s, 3), (-3 * MOST, 0)),
        (lambda k, v, s: k.ew("max", s, k.ew("add", s, 2)), (0, 2 * MOST)),
        (lambda k, v, s: s, (0, 0)),
        (lambda k, v, s: k.ew("mul", s, 2), WHOLE),  # no step of a known length
        (lambda k, v, s: k.ew("add", s, s), WHOLE),
        (lambda k, v, s: k.ew("add", s, 2**62), WHOLE),
        (lambda k, v, s: k.ew("add", s, k.load(X, v)), WHOLE),
    ],
)
def test_steps_add_up(body, found):
    assert span(body) == found


def number(v):
    return leaf("value", v, "int")


@pytest.mark.parametrize(
    "made, found",
    [
        (lambda k, v, s: s + 3, (0, 3 * MOST)),
        (lambda k, v, s: 3 + s - 4, (-MOST, 0)),
        (lambda k, v, s: s + C.lane * 2, (0, 14 * MOST)),
        (lambda k, v, s: call("select", call("lt", v, 3), s + 1, s), (0, MOST)),
        (lambda k, v, s: call("max", s, s + 2), (0, 2 * MOST)),
        (lambda k, v, s: call("max", s, 2), WHOLE),
        (lambda k, v, s: s * 2, WHOLE),
        (lambda k, v, s: s + s * 1, WHOLE),
        (lambda k, v, s: 5 - s, WHOLE),
        (lambda k, v, s: s + 2**41, WHOLE),
        (lambda k, v, s: s + N, WHOLE),
        (lambda k, v, s: s + v, WHOLE),
        (lambda k, v, s: s + number(k.load(X, v)), WHOLE),
        (lambda k, v, s: s + (number(k.load(X, v)) - number(k.load(X, v))), WHOLE),
    ],
)
def test_index_expressions_are_bounded_as_values_are(made, found):
    assert span(lambda k, v, s: k.index(made(k, v, number(s)))) == found


def test_narrow_counts_that_may_wrap_have_no_bound():
    assert span(lambda k, v, s: k.ew("add", s, 1), I32) == (0, MOST)
    assert span(lambda k, v, s: k.ew("add", s, 1 << 20), I32) == (-(2**31), 2**31 - 1)


def test_counts_of_inner_loops_add_up():
    def outer(k, v, s):
        (r,) = k.loop("j", 0, N, 1, [s], lambda w, t: [k.ew("add", t, 2)])
        return r

    assert span(outer) == (0, 2 * MOST * MOST)
    k = Builder("k", (const(1),))
    k.loop("i", 0, N, 1, [k.full(0, I64)], lambda v, s: [k.ew("add", s, 1)])
    (loop,) = (s for s in statements(k.kernel().body) if isinstance(s, For))
    program = TileProgram("t", (k.kernel(),), (Placement(),))
    assert Spans(program).of(loop.results[0], lambda s: None) == WHOLE
