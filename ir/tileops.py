"""Concrete meaning of the tile operations that are no rows of the semantics table: contractions,
running and extreme-of reductions, moved lanes, functions of which nothing is known.

Operands are numpy arrays over the axes of their values; results are over the axes of the result.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.ir.dtypes import DType, integer_range
from opwright.ir.expr import Expr, leaves
from opwright.ir.semantics import MONOIDS
from opwright.ir.tile import (
    Atomic,
    Axis,
    Def,
    For,
    If,
    Kernel,
    Scan,
    Stmt,
    Store,
    TileProgram,
    Value,
    statements,
)

Array = NDArray[Any]
KINDS: dict[str, Any] = {"real": np.float64, "int": np.int64, "bool": np.bool_}


def spread(data: Array, own: tuple[Axis, ...], axes: tuple[Axis, ...]) -> Array:
    """An array over its own axes transposed and expanded to others (extent 1 where it has none)."""
    order = [own.index(a) for a in axes if a in own]
    shape = [a.extent if a in own else 1 for a in axes]
    return data.transpose(order).reshape(shape)


def dot(v: Value, a: Array, b: Array) -> Array:
    """Sum of products over the contracted axis; axes that both operands have stay apart."""
    axis = v.attr.axis
    axes = (*v.axes, axis)
    with np.errstate(all="ignore"):
        x, y = (spread(d, u.axes, axes) for d, u in zip((a, b), v.args, strict=True))
        full = [u.extent for u in axes]
        if v.dtype.kind == "real":
            letters = "".join(chr(97 + n) for n in range(len(axes)))
            named = {u: c for u, c in zip(axes, letters, strict=True)}
            sides = ["".join(named[u] for u in arg.axes) for arg in v.args]
            out = np.einsum(f"{sides[0]},{sides[1]}->{letters[:-1]}", a, b)
            return np.asarray(out, np.float64)
        return np.asarray(np.broadcast_to(x * y, full).sum(axis=-1), np.int64)


def running(what: Scan, data: Array, axes: tuple[Axis, ...]) -> Array:
    """Combination of the lanes up to each one, in the order of the scan."""
    at = axes.index(what.axis)
    ordered = np.flip(data, at) if what.reverse else data
    with np.errstate(all="ignore"):
        out = MONOIDS[what.monoid].ufunc.accumulate(ordered, axis=at)
    return np.flip(out, at) if what.reverse else np.asarray(out)


def signature(axes: tuple[Axis, ...]) -> Array:
    """A number for each lane of a tile, equal for equal lanes of equal axes."""
    ordered = tuple(sorted(axes, key=lambda a: a.name))
    names = ",".join(a.name for a in ordered)
    base = int.from_bytes(hashlib.sha256(names.encode()).digest()[:4], "little") << 28
    own = np.arange(int(np.prod([a.extent for a in ordered], dtype=np.int64)))
    return spread(base + own.reshape([a.extent for a in ordered]), ordered, axes)


def holes(what: Scan, poison: Array, axes: tuple[Axis, ...]) -> Array:
    """Lanes that hold a value while one that is scanned before them does not."""
    before = running(Scan("any", what.axis, what.reverse), poison, axes)
    return before & ~poison


def argreduce(v: Value, values: Array, indices: Array) -> Array:
    """Smallest of the indices where the values are extreme; a NaN is more extreme than anything."""
    fold, axis = v.attr
    axes = (*v.axes, axis)
    full = [a.extent for a in axes]
    x, at = (
        np.broadcast_to(spread(d, u.axes, axes), full)
        for d, u in zip((values, indices), v.args, strict=True)
    )
    best = (np.max if fold == "argmax" else np.min)(x, axis=-1, keepdims=True)
    hit = (x == best) | (np.isnan(x) & np.isnan(best)) if x.dtype.kind == "f" else x == best
    return np.asarray(np.where(hit, at, integer_range(v.dtype)[1]).min(axis=-1), np.int64)


def opaque(what: str, to: DType, shape: list[int], args: list[Array]) -> Array:
    """Arbitrary numbers, equal for equal names and operands."""
    seed = int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], "little")
    code = np.full(shape, seed, np.uint64)
    with np.errstate(over="ignore"):
        for a in args:
            bits = np.broadcast_to(np.asarray(a, np.float64), shape) + 0.0  # -0.0 is 0.0
            code = code ^ np.array(bits, np.float64, order="C").view(np.uint64)
            code = code * np.uint64(0x9E3779B97F4A7C15)
            code = code ^ (code >> np.uint64(29))
    if to.kind == "bool":
        return np.asarray(code & np.uint64(1), bool)
    small = (code >> np.uint64(40)).astype(np.int64)
    if to.kind == "int":
        return np.asarray(small % min(1 + integer_range(to)[1], 1 << 20))
    return np.asarray(small / 2.0**24)


def guesses(program: TileProgram) -> frozenset[Value]:
    """Values that depend on an opaque one, through memory and loops too: what a run says of them is
    a guess."""
    found: set[Value] = set()
    stored: set[str] = set()
    count = -1
    while count != len(found) + len(stored):
        count = len(found) + len(stored)
        for k in program.kernels:
            for s in statements(k.body):
                if isinstance(s, Def):
                    v = s.value
                    read = v.op == "load" and v.attr.buffer.name in stored
                    if v.op == "opaque" or read or not found.isdisjoint(operands(v)):
                        found.add(v)
                elif isinstance(s, (Store, Atomic)):
                    if not found.isdisjoint((s.value, *inside(*s.index, s.mask))):
                        stored.add(s.buffer.name)
                elif isinstance(s, For):
                    bounds = inside(s.lo, s.hi)
                    for i, p, y, r in zip(s.inits, s.params, s.yields, s.results, strict=True):
                        if not found.isdisjoint((i, y, *bounds)):
                            found |= {p, r}
    return frozenset(found)


def shared(kernel: Kernel) -> dict[str, bool]:
    """Buffers of which the order of statements may matter: one statement writes, and it or another
    accesses it again. Says of each whether it is read, too."""
    reads: Counter[str] = Counter()
    writes: Counter[str] = Counter()

    def visit(body: Iterable[Stmt], times: int) -> None:
        for s in body:
            if isinstance(s, Def) and s.value.op == "load":
                reads[s.value.attr.buffer.name] += times
            elif isinstance(s, (Store, Atomic)):
                writes[s.buffer.name] += times
            elif isinstance(s, For):
                bounded = s.lo.op == s.hi.op == "const"
                visit(s.body, 2 * times if not bounded or s.lo.attr < s.hi.attr else 0)
            elif isinstance(s, If):
                visit(s.then, times)
                visit(s.other, times)

    visit(kernel.body, 1)
    return {n: reads[n] > 0 for n in writes if writes[n] + reads[n] > 1}


def inside(*es: Expr) -> list[Value]:
    """Values that index expressions speak of."""
    return [x.attr for e in es for x in leaves(e, "value")]


def operands(v: Value) -> list[Value]:
    """Every value that a value is made of directly, those in its index expressions included."""
    if v.op == "index":
        return inside(v.attr)
    if v.op == "load":
        return inside(*v.attr.index, v.attr.mask)
    return list(v.args)
