"""Offsets back to logical indices: an identity under facts, and flat views of dense buffers."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from opwright.ir.delinearize import (
    flat_view,
    is_dense,
    logical_index,
    same_memory,
    settled,
    split_accesses,
    stated_values,
    views,
)
from opwright.ir.dtypes import F32
from opwright.ir.expr import TRUE, call, const, evaluate, pid, size, stride, var
from opwright.ir.polynomial import divide, expression, polynomial
from opwright.ir.tile import Axis, Buffer, element_count

B, N, H, p, i = size("B"), size("N"), size("H"), pid(0), var("i")
c, r = Axis("c", 64), Axis("r", 32)


def tensor(*shape, name="x", strides=True):
    steps = tuple(stride(name, n) for n in range(len(shape))) if strides else None
    return Buffer(name, "in", F32, shape, steps)


X = tensor(B, N)
s0, s1 = stride("x", 0), stride("x", 1)
INNER = (call("eq", s1, 1),)
DENSE = (*INNER, call("eq", s0, N))


@pytest.mark.parametrize(
    ("offset", "buffer", "facts", "expected"),
    [
        (p * s0 + i + c.lane, X, INNER, ("p0", "i + c")),
        (p * s0 + (i + c.lane) * s1, X, (), ("p0", "i + c")),
        (p * N + c.lane, X, DENSE, ("p0", "c")),
        ((p * 4 + r.lane) * N + c.lane - 1, X, DENSE, ("p0 * 4 + r", "c - 1")),
        (p * s0 + i, X, (), None),
        (p * N + i, X, INNER, ("0", "p0 * N + i")),
        (c.lane * s1 + s0 * i, X, (), ("i", "c")),
        (p * 64 + c.lane, tensor(B, const(64), strides=False), (), ("p0", "c")),
        (p * 1024 + i, X, (*DENSE, call("eq", N, 1024)), ("p0", "i")),
        ((p * N + i) * 64 + c.lane, tensor(B, N, const(64), strides=False), (), ("p0", "i", "c")),
        (p * (N + 1) + i, tensor(B, N + 1, strides=False), (), ("p0", "i")),
        (p % N * s0 + (p // N), X, INNER, ("p0 % N", "p0 // N")),
        (s0 * 0, X, (), ("0", "0")),
        (p * N + i, tensor(B, const(1), N, strides=False), (), ("p0", "0", "i")),
        (i, Buffer("y", "out", F32, ()), (), None),
        (const(0), Buffer("y", "out", F32, ()), (), ()),
    ],
)
def test_an_offset_is_split_by_strides(offset, buffer, facts, expected):
    found = logical_index(offset, buffer, facts)
    if expected is None:
        assert found is None
        return
    env = {"B": 3, "N": 5, ("x", 0): 7, ("x", 1): 2, c: 11, r: 3, "i": 4, 0: 6}
    if facts:
        env[s1] = env["x", 1] = 1
    for x, e in stated_values(facts).items():
        env[x] = evaluate(e, env)
        env[x.attr] = env[x]
    steps = buffer.strides or logical_steps(buffer)
    assert found is not None and len(found) == len(expected)
    total = sum(evaluate(x, env) * evaluate(y, env) for x, y in zip(found, steps, strict=True))
    assert total == evaluate(offset, env)
    for x, text in zip(found, expected, strict=True):
        assert polynomial(x) == polynomial(parse(text))


def logical_steps(buffer):
    from opwright.ir.tile import row_major

    return row_major(buffer.shape)


def parse(text):
    from opwright.ir.text import parse_expr

    names = {"B": B, "N": N, "i": i, "c": c.lane, "r": r.lane, "p0": p}
    return parse_expr(text, names)


def test_values_stated_by_facts():
    facts = (call("eq", s0, N * H), call("and", call("eq", 128, N), call("eq", s1, s0)))
    known = stated_values(facts)
    assert known[N] is const(128) and polynomial(known[s0]) == polynomial(H * 128)
    assert polynomial(known[s1]) == polynomial(H * 128)
    assert stated_values((call("eq", N, H), call("eq", H, N))) in ({N: H}, {H: N})
    assert stated_values((call("eq", N, N + B), call("lt", N, 3))) == {}


def test_flat_views_of_dense_buffers_only():
    assert is_dense(X, DENSE) and not is_dense(X, INNER) and is_dense(tensor(B, N, strides=False))
    flat = flat_view(X, DENSE)
    assert flat is not None and flat.shape == (B * N,) and flat.strides is None
    assert flat_view(X, INNER) is None
    assert same_memory(flat, X, DENSE) and same_memory(X, X) and not same_memory(flat, X)


def test_one_view_for_all_accesses_of_a_buffer():
    offset = p * 64 + c.lane
    assert split_accesses(X, [offset], INNER) == (X, [(const(0), offset)])
    flat = flat_view(X, DENSE)
    assert split_accesses(X, [offset], DENSE) == (flat, [(offset,)])
    rows = p * s0 + c.lane
    assert split_accesses(X, [rows], DENSE) == (X, [(p, c.lane)])
    assert split_accesses(X, [rows, s0 * 0], DENSE) == (X, [(p, c.lane), (const(0), const(0))])
    found = split_accesses(X, [p * N + i], INNER)
    assert found is not None and found[0] == X and found[1][0][0] is const(0)
    assert split_accesses(X, [p * N + i]) is None


def test_neighbouring_axes_are_seen_as_one_where_accesses_run_through_them():
    x = Buffer("x", "in", F32, (B, H, N), None)
    inner = p * (H * N) + i
    assert [len(v.shape) for v in views(x)] == [2, 2, 1]
    found = split_accesses(x, [inner])
    assert found is not None and found[1] == [(p, i)]
    assert found[0] == Buffer("x", "in", F32, (B, element_count((H, N))), None)
    assert same_memory(found[0], x)
    found = split_accesses(x, [i * N + c.lane])
    assert found is not None and found[1] == [(i, c.lane)]
    assert found[0].shape == (element_count((B, H)), N)


def test_rows_that_the_mask_says_are_part_of_the_inner_index():
    known = stated_values(DENSE)
    offset = p * N + c.lane - N
    index = logical_index(offset, X, (), known)
    assert index == (p - 1, c.lane)
    mask = call("le", N, c.lane)
    assert settled(index, X, known, mask) == (p, c.lane - N)
    assert settled(index, X, known, TRUE) == index
    assert settled(index, X, known, call("and", mask, call("lt", c.lane, N))) == index


def test_division_is_an_identity():
    rng = Random(3)
    unknowns = [B, N, H, p, i]
    for _ in range(60):
        e, d = (
            sum(
                (
                    rng.randint(-9, 9) * a * b
                    for a, b in itertools.islice(
                        zip(rng.sample(unknowns, 5), rng.sample(unknowns, 5), strict=True), 3
                    )
                ),
                const(rng.randint(-9, 9)),
            )
            for _ in range(2)
        )
        if not polynomial(d):
            continue
        q, rest = divide(polynomial(e), polynomial(d))
        env = {x: rng.randint(1, 9) for x in unknowns}
        left = evaluate(expression(q), env) * evaluate(d, env) + evaluate(expression(rest), env)
        assert left == evaluate(e, env) == evaluate(expression(polynomial(e)), env)
