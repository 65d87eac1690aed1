"""What real numbers are when a tile program runs: floats, or elements of finite fields.

An interpreter asks a reading for everything that is done to a real number; integers, truth values,
memory and lanes are its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.ir.dtypes import DType, decode, encode, integer_range
from opwright.ir.field import Reals, is_real
from opwright.ir.semantics import MONOIDS, ROWS
from opwright.ir.tile import Axis, Scan, Value
from opwright.ir.tileops import KINDS, argreduce, dot, running, spread

Array = NDArray[Any]


class Floats:
    """Real numbers are float64."""

    def full(self, shape: Sequence[int], number: float | int | bool, kind: str) -> Array:
        return np.full(tuple(shape), number, KINDS[kind])

    def rubbish(self, shape: Sequence[int], kind: str) -> Array:
        """What memory holds before anything is written; never looked at without a trap."""
        return self.full(shape, np.nan if kind == "real" else 1, kind)

    def given(self, x: Any, kind: str) -> Array:
        """An array of the caller, copied."""
        return np.array(x).astype(KINDS[kind])

    def number(self, x: Any, kind: str) -> Any:
        """A literal or a param."""
        return x

    def typed(self, x: Any, kind: str) -> Array:
        """Data of a kind."""
        return np.asarray(x).astype(KINDS[kind])

    def row(self, op: str, args: Sequence[Any]) -> Any:
        return ROWS[op].concrete(*args)

    def reduce(self, monoid: str, data: Array, axis: int) -> Array:
        return np.asarray(MONOIDS[monoid].concrete(data, axis=axis))

    def dot(self, v: Value, a: Array, b: Array) -> Array:
        return dot(v, a, b)

    def argreduce(self, v: Value, values: Array, indices: Array) -> Array:
        return argreduce(v, values, indices)

    def running(self, what: Scan, data: Array, axes: tuple[Axis, ...]) -> Array:
        return running(what, data, axes)

    def combine(self, monoid: str, memory: Array, at: tuple[Array, ...], data: Array) -> None:
        """memory[at] = combine(memory[at], data), for all lanes, in place."""
        MONOIDS[monoid].ufunc.at(memory, at, data)

    def same(self, a: Array, b: Array) -> NDArray[np.bool_]:
        """Where elements are equal, NaN to NaN."""
        return np.asarray((a == b) | ((a != a) & (b != b)))

    def rounded(self, x: Array, dtype: DType) -> Array:
        """A rounding that is meant."""
        return decode(encode(x, dtype), dtype)


class Fields(Floats):
    """Real numbers are elements of finite fields."""

    def __init__(self, reals: Reals) -> None:
        self.reals = reals

    def full(self, shape: Sequence[int], number: float | int | bool, kind: str) -> Array:
        if kind != "real":
            return super().full(shape, number, kind)
        return self.reals.full(shape, number)

    def given(self, x: Any, kind: str) -> Array:
        if kind != "real":
            return super().given(x, kind)
        return np.array(self.reals.given(x))

    def number(self, x: Any, kind: str) -> Any:
        return self.reals.number(x) if kind == "real" else x

    def typed(self, x: Any, kind: str) -> Array:
        return self.reals.number(x) if kind == "real" else super().typed(x, kind)

    def row(self, op: str, args: Sequence[Any]) -> Any:
        return self.reals.row(op, args)

    def reduce(self, monoid: str, data: Array, axis: int) -> Array:
        if not is_real(data):
            return super().reduce(monoid, data, axis)
        return self.reals.reduce(monoid, data, axis)

    def dot(self, v: Value, a: Array, b: Array) -> Array:
        if not (is_real(a) and is_real(b)):
            return self.typed(super().dot(v, a, b), v.dtype.kind)
        axes = (*v.axes, v.attr.axis)
        named = {u: chr(97 + n) for n, u in enumerate(axes)}
        left, right = ("".join(named[u] for u in arg.axes) for arg in v.args)
        out = self.reals.contract(f"{left},{right}->{''.join(named[u] for u in v.axes)}", a, b)
        if out is not None:
            return out
        x, y = (spread(d, u.axes, axes) for d, u in zip((a, b), v.args, strict=True))
        return self.reals.reduce("sum", self.reals.mul(x, y), len(axes) - 1)

    def argreduce(self, v: Value, values: Array, indices: Array) -> Array:
        if not is_real(values):
            return super().argreduce(v, values, indices)
        fold, axis = v.attr
        axes = (*v.axes, axis)
        full = [a.extent for a in axes]
        x, at = (
            np.broadcast_to(spread(d, u.axes, axes), full)
            for d, u in zip((values, indices), v.args, strict=True)
        )
        nobody = integer_range(v.dtype)[1]
        return self.reals.extreme(fold, x, at, np.ones(full, bool), nobody)

    def running(self, what: Scan, data: Array, axes: tuple[Axis, ...]) -> Array:
        if not is_real(data):
            return super().running(what, data, axes)
        at = axes.index(what.axis)
        ordered = np.flip(data, at) if what.reverse else data
        out = self.reals.running(what.monoid, ordered, at)
        return np.flip(out, at) if what.reverse else out

    def combine(self, monoid: str, memory: Array, at: tuple[Array, ...], data: Array) -> None:
        if not is_real(memory):
            super().combine(monoid, memory, at, data)
        else:
            self.reals.scatter(monoid, memory, at, data)

    def same(self, a: Array, b: Array) -> NDArray[np.bool_]:
        if not is_real(a):
            return super().same(a, b)
        return np.asarray(self.reals.equal(a, b) | ((a["k"] == 3) & (b["k"] == 3)))

    def rounded(self, x: Array, dtype: DType) -> Array:
        shadow = self.reals.shadow(self.reals.number(x))
        return self.reals.given(decode(encode(shadow, dtype), dtype).reshape(shadow.shape))
