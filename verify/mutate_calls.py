"""Faults put around a right function of arrays, so that no source of it is needed.

A mutant calls the function with what it was given, or nearly, and hands back what came out, or
nearly: what kernels do that are wrong only past the last full block, on ties, on NaN, on a square,
on memory that is not dense, on the second call. Arrays may be those of numpy, torch or JAX.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.ir.op import Operator, Tensor
from opwright.verify.inputs import Case, plant
from opwright.verify.mutate_arrays import (
    Change,
    as_dense,
    behind,
    clipped,
    early,
    first_only,
    library,
    like,
    negative,
    numbers,
    repeated_last,
    replaced,
    reverse,
    rising,
    shaped,
    single,
    through,
    tiny,
    turned,
    without_last,
    without_tail,
    writable,
    zero,
)

Function = Callable[..., Any]  # inputs by position, params and free sizes by name

BLOCKS = (16, 32, 128)
LARGE = (1000, 20000)


@dataclass(frozen=True, slots=True, eq=False)
class CallMutant:
    """`wrap` makes a wrong function of a right one; a fresh one each time, since some have a
    state."""

    kind: str
    what: str
    wrap: Callable[[Function], Function]


def call_mutants(
    op: Operator, legal: Sequence[str] = ("nan", "inf"), mutable: bool = True
) -> list[CallMutant]:
    """Wrong functions of an operator, as wrappers of a right one, in a fixed order. `legal` are the
    special values that its contract lets in: without them some faults are none. So it is with
    memory where arrays are not `mutable`."""
    return list(_Mutators(op, legal).all(mutable))


def legal_specials(op: Operator, cases: Sequence[Case]) -> tuple[str, ...]:
    """Which of NaN and infinity an operator's inputs may hold, as far as one case can tell."""
    return tuple(
        s for s in ("nan", "inf") if any(plant(op, c, s, 5) is not None for c in cases[:2])
    )


class _Mutators:
    def __init__(self, op: Operator, legal: Sequence[str]) -> None:
        self.op, self.legal = op, legal
        self.inputs, self.outputs = op.inputs, op.outputs

    def all(self, mutable: bool) -> Iterator[CallMutant]:
        yield from self.tails()
        yield from self.values()
        yield from self.precision()
        yield from self.orders()
        yield from self.rows()
        if mutable:
            yield from self.memory()
        yield from self.states(mutable)
        yield from self.sizes()

    # -- makers -----------------------------------------------------------------------------------

    def on_output(self, kind: str, what: str, n: int, change: Change) -> CallMutant:
        """`change` is applied to a copy of one output."""

        def wrap(function: Function) -> Function:
            def wrong(*args: Any, **named: Any) -> Any:
                found = function(*args, **named)
                outs = list(found) if isinstance(found, tuple | list) else [found]
                outs[n] = change(outs[n])
                return tuple(outs) if isinstance(found, tuple | list) else outs[0]

            return wrong

        return CallMutant(kind, f"{self.outputs[n].name}: {what}", wrap)

    def on_input(self, kind: str, what: str, n: int, change: Change) -> CallMutant:
        """`change` is applied to one input before the call; it must not write to it."""

        def wrap(function: Function) -> Function:
            def wrong(*args: Any, **named: Any) -> Any:
                given = list(args)
                if n < len(given):
                    given[n] = change(given[n])
                return function(*given, **named)

            return wrong

        return CallMutant(kind, f"{self.inputs[n].name}: {what}", wrap)

    def ranked(self, tensors: Sequence[Tensor], rank: int = 1) -> Iterator[tuple[int, Tensor]]:
        return ((n, t) for n, t in enumerate(tensors) if len(t.axes) >= rank)

    def real(self, tensors: Sequence[Tensor], rank: int = 0) -> Iterator[tuple[int, Tensor]]:
        return ((n, t) for n, t in self.ranked(tensors, rank) if t.kind == "real")

    # -- kinds ------------------------------------------------------------------------------------

    def tails(self) -> Iterator[CallMutant]:
        for n, _ in self.ranked(self.outputs):
            for block in BLOCKS:
                what = f"zero after the last full block of {block}"
                yield self.on_output("tail", what, n, partial(without_tail, block=block, axis=-1))
            yield self.on_output("tail", "the last one is the one before", n, repeated_last)
        for n, _ in self.ranked(self.outputs, 2):
            what = "zero after the last full block of 4 of the first axis"
            yield self.on_output("tail", what, n, partial(without_tail, block=4, axis=0))
        for n, t in self.ranked(self.inputs):
            if t.kind == "int":
                continue
            for block in (8, 64):
                what = f"what is after the last full block of {block} is not read"
                yield self.on_input("tail", what, n, partial(without_tail, block=block, axis=-1))
            yield self.on_input("tail", "the last one is not read", n, without_last)

    def values(self) -> Iterator[CallMutant]:
        for n, _ in self.real(self.inputs):
            if "nan" in self.legal:
                yield self.on_input("nan", "NaN read as 0", n, lambda x: replaced(x, np.isnan, 0.0))
                what = "NaN read as the lowest number"
                yield self.on_input("nan", what, n, lambda x: replaced(x, np.isnan, -math.inf))
            if "inf" in self.legal:
                what = "infinities read as large numbers"
                yield self.on_input("nan", what, n, lambda x: clipped(x, 1e30))
            what = "numbers beyond 8 read as 8"
            yield self.on_input("range", what, n, lambda x: clipped(x, 8.0))
            what = "numbers below a thousandth read as 0"
            yield self.on_input("range", what, n, lambda x: replaced(x, tiny, 0.0))
        for n, _ in self.real(self.outputs) if self.legal else ():
            yield self.on_output("nan", "NaN becomes 0", n, lambda x: replaced(x, np.isnan, 0.0))
        for n, t in self.real(self.inputs):
            if len(self.inputs) > 1:
                yield self.on_input("dropped", "taken for 0", n, zero)
            if len(t.axes) >= 1:
                yield self.on_input("dropped", "only its first one is used", n, first_only)
        for p in self.op.params:
            if p.default is not None:
                yield CallMutant("dropped", f"{p.name}: not passed on", _without(p.name))

    def precision(self) -> Iterator[CallMutant]:
        for name, bits in (("f16", 10), ("tf32", 10), ("bf16", 7)):
            for n, t in self.real(self.inputs):
                if t.dtype.mantissa > bits and not (name == "f16" and t.dtype.exponent <= 5):
                    change = through(name)
                    yield self.on_input("precision", f"read as {name}", n, change)
            for n, t in self.real(self.outputs):
                if t.dtype.mantissa > bits:
                    yield self.on_output("precision", f"rounded to {name}", n, through(name))

    def orders(self) -> Iterator[CallMutant]:
        for n, t in self.ranked(self.outputs):
            if t.kind == "int":
                for k, _ in self.real(self.inputs, 1):
                    for axis in range(len(self.inputs[k].axes)):
                        what = f"the last of equal ones along axis {axis}"
                        yield CallMutant("tie", f"{t.name}: {what}", self.last_tie(n, k, axis))
        for n, _ in self.ranked(self.outputs, 2):
            yield self.on_output("axis", "transposed where it is square", n, turned)
        for n, _ in self.ranked(self.inputs, 2):
            yield self.on_input("axis", "transposed where it is square", n, turned)
            yield self.on_input("axis", "rows in reverse", n, lambda x: reverse(x, 0))
        for n, _ in self.ranked(self.inputs):
            yield self.on_input("axis", "the last axis in reverse", n, lambda x: reverse(x, -1))

    def last_tie(self, n: int, k: int, axis: int) -> Callable[[Function], Function]:
        def wrap(function: Function) -> Function:
            def wrong(*args: Any, **named: Any) -> Any:
                given = list(args)
                x = given[k]
                given[k] = reverse(x, axis)
                found = function(*given, **named)
                outs = list(found) if isinstance(found, tuple | list) else [found]
                right = function(*args, **named)
                rights = list(right) if isinstance(right, tuple | list) else [right]
                rights[n] = x.shape[axis] - 1 - outs[n]
                return tuple(rights) if isinstance(found, tuple | list) else rights[0]

            return wrong

        return wrap

    def rows(self) -> Iterator[CallMutant]:
        """Where the largest element of a row is decides what goes wrong with the row."""
        for k, t in self.real(self.inputs, 1):
            for n, o in self.real(self.outputs):
                outer = [a.hi for a in t.axes[:-1]]  # rows of the input are rows of the output
                if outer != [a.hi for a in o.axes[: len(outer)]] or len(o.axes) > len(t.axes):
                    continue
                for block in (16, 64):
                    what = f"not rescaled where {t.name} is largest after {block} columns"
                    yield self.by_rows("rescale", what, n, k, partial(behind, block=block))
                what = f"the running maximum of {t.name} starts at 0"
                yield self.by_rows("rescale", what, n, k, negative)
                what = f"the sum over {t.name} is not moved where it rises at the end"
                yield self.by_rows("rescale", what, n, k, rising)

    def by_rows(
        self, kind: str, what: str, n: int, k: int, factor: Callable[[NDArray[Any]], NDArray[Any]]
    ) -> CallMutant:
        def wrap(function: Function) -> Function:
            def wrong(*args: Any, **named: Any) -> Any:
                found = function(*args, **named)
                x = numbers(args[k])
                outs = list(found) if isinstance(found, tuple | list) else [found]
                y = numbers(outs[n])
                if x.ndim and x.shape[-1] and y.shape[: x.ndim - 1] == x.shape[:-1]:
                    with np.errstate(all="ignore"):
                        f = factor(x)
                        f = f.reshape(f.shape + (1,) * (y.ndim - f.ndim))
                        changed = np.where(f != 1, y * f, y)
                    outs[n] = like(changed, outs[n])
                return tuple(outs) if isinstance(found, tuple | list) else outs[0]

            return wrong

        return CallMutant(kind, f"{self.outputs[n].name}: {what}", wrap)

    def memory(self) -> Iterator[CallMutant]:
        for n, _ in self.ranked(self.inputs):
            yield self.on_input("stride", "memory read as if it were dense", n, as_dense)
            what = "memory read from the start of its storage"
            yield self.on_input("stride", what, n, lambda x: as_dense(x, True))
        for n, _ in self.ranked(self.inputs):
            yield CallMutant(
                "inputs", f"{self.inputs[n].name}: its last element is overwritten", _writes(n)
            )

    def states(self, mutable: bool) -> Iterator[CallMutant]:
        yield CallMutant("stale_output", "results kept by the address of the inputs", _kept(True))
        yield CallMutant("stale_output", "results kept by the shapes of the inputs", _kept(False))
        yield CallMutant("stale_output", "every second call gives the result before", _alternating)
        if mutable:
            yield CallMutant("stale_output", "one buffer for all results of a shape", _one_buffer)
        yield CallMutant("determinism", "the third call differs by a thousandth", _wavering)

    def sizes(self) -> Iterator[CallMutant]:
        for n, _ in self.ranked(self.outputs):
            for count in LARGE:
                what = f"elements after the first {count} are not written"
                yield self.on_output("large", what, n, partial(early, count=count))
            yield self.on_output("small", "wrong where an axis has one element", n, single)


# -- functions with a state ------------------------------------------------------------------------


def _writes(n: int) -> Callable[[Function], Function]:
    def wrap(function: Function) -> Function:
        def wrong(*args: Any, **named: Any) -> Any:
            found = function(*args, **named)
            if library(args[n]) == "jax":
                return found
            if shaped(args[n]) and 0 not in args[n].shape:
                last = (-1,) * len(args[n].shape)
                value = args[n][last]
                args[n][last] = (not value) if str(value.dtype).endswith("bool") else value + 1
            return found

        return wrong

    return wrap


def _key(args: Sequence[Any], named: Mapping[str, Any], address: bool) -> tuple[Any, ...]:
    found: list[Any] = [tuple(sorted((k, str(v)) for k, v in named.items()))]
    for x in args:
        found.append(tuple(getattr(x, "shape", ())))
        if address and library(x) == "torch":
            found.append(x.data_ptr())
        elif address and library(x) == "numpy" and isinstance(x, np.ndarray):
            found.append(x.__array_interface__["data"][0])
        elif address:
            found.append(id(x))
    return tuple(found)


def _kept(address: bool) -> Callable[[Function], Function]:
    def wrap(function: Function) -> Function:
        known: dict[tuple[Any, ...], Any] = {}

        def wrong(*args: Any, **named: Any) -> Any:
            key = _key(args, named, address)
            if key not in known:
                known[key] = function(*args, **named)
            return known[key]

        return wrong

    return wrap


def _alternating(function: Function) -> Function:
    before: dict[tuple[Any, ...], Any] = {}
    calls = [0]

    def wrong(*args: Any, **named: Any) -> Any:
        key = _key(args, named, False)
        calls[0] += 1
        found = before.get(key) if calls[0] % 2 == 0 else None
        before[key] = function(*args, **named)
        return before[key] if found is None else found

    return wrong


def _one_buffer(function: Function) -> Function:
    buffers: dict[tuple[Any, ...], Any] = {}

    def wrong(*args: Any, **named: Any) -> Any:
        found = function(*args, **named)
        outs = list(found) if isinstance(found, tuple | list) else [found]
        for n, y in enumerate(outs):
            if library(y) == "jax" or not shaped(y):
                continue
            key = (n, tuple(y.shape), str(y.dtype))
            kept: Any = buffers.setdefault(key, writable(y))
            kept[...] = y
            outs[n] = kept
        return tuple(outs) if isinstance(found, tuple | list) else outs[0]

    return wrong


def _wavering(function: Function) -> Function:
    calls = [0]

    def wrong(*args: Any, **named: Any) -> Any:
        found = function(*args, **named)
        calls[0] += 1
        if calls[0] % 3:
            return found
        outs = list(found) if isinstance(found, tuple | list) else [found]
        values = numbers(outs[0])
        changed = values * 1.001 if values.dtype == np.float64 else values ^ (values == values)
        outs[0] = like(changed, outs[0])
        return tuple(outs) if isinstance(found, tuple | list) else outs[0]

    return wrong


def _without(name: str) -> Callable[[Function], Function]:
    def wrap(function: Function) -> Function:
        def wrong(*args: Any, **named: Any) -> Any:
            return function(*args, **{k: v for k, v in named.items() if k != name})

        return wrong

    return wrap
