"""C++ values read symbolically: integers and truth values are index expressions, reals are tiles.

An integer keeps exact meaning; what could leave the width of its C++ type is stated as a check.
Vectors of the printer's vocabulary are tiles over one lane axis per number of lanes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from opwright.backends.cpp.clang import CType
from opwright.ir.dtypes import BOOL, DTYPES, I64, DType, integer_range
from opwright.ir.expr import (
    TRUE,
    Expr,
    call,
    leaf,
    leaves,
    walk,
)
from opwright.ir.launch import ImportRefusal
from opwright.ir.semantics import ROWS
from opwright.ir.tile import Axis, Buffer, Builder, Value

T = TypeVar("T")
Interval = tuple[float, float]
WIDE = CType("int", 64)
F32T, F64T = CType("real", 32), CType("real", 64)
TRUTH = CType("bool", 8)


@dataclass(frozen=True, slots=True)
class Pointer:
    """An element of a buffer: subscripts that were written one by one, then a flat offset."""

    buffer: Buffer
    lead: tuple[Expr, ...]
    offset: Expr


@dataclass(frozen=True, slots=True)
class Place:
    """What can be assigned: a variable, an element of one, or an element in memory (of a type in
    memory)."""

    variable: int = 0
    pointer: Pointer | None = None
    lane: Expr | None = None


@dataclass(frozen=True, slots=True)
class C:
    """A C++ value: an Expr, a tile, a pointer, a lambda (its syntax), a Place, or nothing yet."""

    type: CType
    what: Any

    @property
    def known(self) -> bool:
        return self.what is not None


@dataclass(frozen=True, slots=True)
class Elements:
    """A vector of which only some elements were assigned."""

    known: tuple[tuple[int, C], ...]


def dtype_of(t: CType) -> DType:
    """The element type of a C++ number."""
    t = t.scalar
    if t.kind == "bool":
        return BOOL
    return DTYPES[f"{ {'int': 'i', 'uint': 'u', 'real': 'f'}[t.kind] }{t.bits}"]


def vector(of: CType, like: CType) -> CType:
    """The element type in as many lanes as another type has."""
    return CType("vector", of=of, count=like.count) if like.kind == "vector" else of


class Values:
    """Arithmetic on C++ values inside one kernel."""

    def __init__(self, builder: Builder, file: str) -> None:
        self.k, self.file = builder, file
        self.contract = False  # whether the text is the printer's, which joins and splits rows
        self.line = 0
        self.path: Expr = TRUE  # under which the current statement runs; stores carry it as mask
        self.quiet = 0
        self.unknown: Expr | None = None  # checks that speak of it are made where it is known
        self.axes: dict[int, Axis] = {}
        self.scopes: list[dict[tuple[Any, ...], Any]] = [{}]
        self.bounds: dict[Expr, Interval] = {}
        self.narrow: dict[Expr, tuple[int, int]] = {}
        self.whole: dict[Value, Expr] = {}  # reals that hold a whole number
        self.kept: set[Value] = set()  # tiles that a variable of the text holds
        self.fillers: dict[Value, Any] = {}  # what loads give where they do not read
        self.hint = ""
        self.dealing = False  # inside a loop whose trips are programs
        self.reducing = False  # inside a loop whose trips run in any order
        self.muted = False  # what is written is left to another launch
        self.written: set[str] = set()
        self.written_outside = False  # of such a loop
        self.read_outside: set[str] = set()
        self.own: set[str] = set()  # arrays of a trip

    # -- diagnostics and scopes
    def refuse(self, what: str, line: int | None = None) -> ImportRefusal:
        return ImportRefusal(what, self.file, self.line if line is None else line)

    def at(self, line: int) -> None:
        self.line = line
        self.k.line = f"{self.file}:{line}"

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Values made inside are not seen after it."""
        self.scopes.append({})
        try:
            yield
        finally:
            self.scopes.pop()

    @contextmanager
    def under(self, cond: Expr) -> Iterator[None]:
        """What runs only where `cond` holds."""
        old = self.path
        self.path = call("and", old, cond)
        try:
            yield
        finally:
            self.path = old

    def once(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        for s in self.scopes:
            if key in s:
                return s[key]  # type: ignore[no-any-return]
        found = make()
        self.scopes[-1][key] = found
        return found

    def axis(self, count: int) -> Axis:
        """The lane axis of vectors with that many lanes."""
        if count not in self.axes:
            self.axes[count] = Axis(f"l{count}", count)
        return self.axes[count]

    # -- checks
    def check(self, cond: Expr, kind: str, reason: str) -> None:
        if self.quiet or cond is TRUE or (self.unknown is not None and self.unknown in walk(cond)):
            return
        if self.path is not TRUE:
            cond = call("or", call("not", self.path), cond)
        key = ("check", cond, kind)
        if not any(key in s for s in self.scopes):
            self.scopes[-1][key] = True
            self.k.check(cond, kind, reason)

    def sound(self, *exprs: Expr) -> None:
        """Checks of narrow arithmetic on loaded integers, once it reaches an index or a bound."""
        if not self.narrow:
            return
        for e in exprs:
            for x in walk(e):
                if x in self.narrow:
                    low, high = self.narrow[x]
                    inside = call("and", call("le", low, x), call("le", x, high))
                    self.check(inside, "wrap", f"an integer of {low} to {high}")

    def fits(self, e: Expr, t: CType, what: str) -> Expr:
        """`e` as a number of type `t`: checked where its range is not evident."""
        t = t.scalar
        low, high = integer_range(dtype_of(t))
        a, b = self.interval(e)
        if (low <= a and b <= high) or t == WIDE:
            return e
        if leaves(e, "value") and self.contract:  # what is printed so wraps
            return leaf("value", self.materialise(e, dtype_of(t)), "int")
        if leaves(e, "value"):
            self.narrow[e] = (low, high)
            return e
        inside = TRUE if low <= a else call("le", low, e)
        if b > high and t.bits < 64:
            inside = call("and", inside, call("le", e, high))
        self.check(inside, "wrap", f"{what} keeps within {t}")
        return e

    def interval(self, e: Expr) -> Interval:
        """Evident bounds of an integer expression."""
        inf = math.inf
        if e in self.bounds:
            return self.bounds[e]
        if e.op == "const":
            return float(e.attr), float(e.attr)
        if e.op in ("size", "pid", "stride"):
            return 0.0, 2.0**63 - 1
        if e.op == "lane":
            return 0.0, float(e.attr.extent - 1)
        if e.op == "value" and e.kind == "int":
            low, high = integer_range(e.attr.dtype)
            return float(low), float(high)
        args = [self.interval(a) if a.kind == "int" else (-inf, inf) for a in e.args]
        if e.op == "add":
            return args[0][0] + args[1][0], args[0][1] + args[1][1]
        if e.op == "sub":
            return args[0][0] - args[1][1], args[0][1] - args[1][0]
        if e.op == "neg":
            return -args[0][1], -args[0][0]
        if e.op == "mul":
            products = [0.0 if 0 in (x, y) else x * y for x in args[0] for y in args[1]]
            return min(products), max(products)
        if e.op == "select":
            return min(args[1][0], args[2][0]), max(args[1][1], args[2][1])
        if e.op == "min":
            return min(args[0][0], args[1][0]), min(args[0][1], args[1][1])
        if e.op == "max":
            return max(args[0][0], args[1][0]), max(args[0][1], args[1][1])
        if e.op == "mod" and args[1][0] > 0:
            return 0.0, min(args[1][1] - 1, args[0][1] if args[0][0] >= 0 else inf)
        if e.op == "floordiv" and args[1][0] > 0 and args[0][0] >= 0:
            return 0.0, args[0][1]
        if e.op == "abs":
            return 0.0, max(abs(args[0][0]), abs(args[0][1]))
        return -inf, inf

    def natural(self, e: Expr) -> bool:
        return self.interval(e)[0] >= 0

    # -- integers and truth values
    def number(self, c: C) -> Expr:
        """An integer; a truth value counts as 0 and 1, in a vector as 0 and -1."""
        e = c.what
        if e is None:
            raise self.refuse("a value that was never assigned is used")
        if not isinstance(e, Expr) or e.kind == "real":
            raise self.refuse(f"a {c.type} where an integer is needed")
        if e.kind == "bool":
            return call("select", e, -1 if c.type.kind == "vector" else 1, 0)
        return e

    def truth(self, c: C) -> Expr:
        """Whether a value is not zero."""
        e = c.what
        if isinstance(e, Value):
            if e.dtype is BOOL:
                return leaf("value", e, "bool")
            return leaf("value", self.k.ew("ne", e, 0.0), "bool")
        if e is None:
            raise self.refuse("a value that was never assigned is used")
        if not isinstance(e, Expr):
            raise self.refuse(f"a {c.type} where a truth value is needed")
        if e.kind == "bool":
            return e
        return self.nonzero(e) if e.kind == "int" else call("ne", e, 0.0)

    def nonzero(self, e: Expr) -> Expr:
        if e.op == "neg":
            return self.nonzero(e.args[0])
        if e.op == "select" and all(a.op == "const" for a in e.args[1:]):
            a, b = (bool(x.attr) for x in e.args[1:])
            if a and not b:
                return e.args[0]
        return call("ne", e, 0)

    def materialise(self, e: Expr, dtype: DType) -> Value:
        """An integer or truth value as a tile: rows where it holds tiles, else an index."""
        if e.op == "value":
            v: Value = e.attr
            return (
                v
                if v.dtype == dtype
                else self.once(("cast", v, dtype), lambda: self.k.cast(v, dtype))
            )
        key = ("value", e, dtype)
        return self.once(key, lambda: self._materialise(e, dtype))

    def _materialise(self, e: Expr, dtype: DType) -> Value:
        if e.op == "const":
            return self.k.full(e.attr, dtype, name=self.hint or None)
        if not leaves(e, "value"):
            return self.k.index(e, dtype, name=self.hint or None)
        row = ROWS[e.op]
        common = self.common(e, dtype)
        args = [self.materialise(a, BOOL if a.kind == "bool" else common) for a in e.args]
        if any(a.kind == "real" for a in e.args):
            args = [
                self.real(C(F64T, a)) if a.kind == "real" else v
                for a, v in zip(e.args, args, strict=True)
            ]
        found = self.k.ew(row.name, *args, name=self.hint or None)
        return self.k.cast(found, dtype) if found.dtype != dtype else found

    def common(self, e: Expr, dtype: DType) -> DType:
        """The type in which an operation on integers is done: i64 holds what an expression means;
        a narrower one only where all operands have it, and the result, too."""
        inner = [a for a in e.args if a.kind == "int" and a.op != "const"]
        found = {a.attr.dtype if a.op == "value" else I64 for a in inner}
        if len(found) != 1 or (e.kind == "int" and found != {dtype}):
            return I64
        return found.pop()

    # -- reals
    def real(self, c: C) -> Value:
        """A real number as a tile of its type."""
        e, d = c.what, dtype_of(c.type)
        if isinstance(e, Value):
            return e
        if not isinstance(e, Expr):
            raise self.refuse("a value that was never assigned is used")
        if e.kind != "real":
            return self.materialise(e if e.kind == "int" else call("select", e, 1, 0), d)
        if e.op == "const":
            return self.once(("full", e, d), lambda: self.k.full(e.attr, d, name=self.hint or None))
        return self.once(("real", e, d), lambda: self.k.index(e, d, name=self.hint or None))

    def spread(self, v: Value, axis: Axis) -> Value:
        """The same number in every lane."""
        if axis in v.axes:
            return v
        if v.op == "full":
            return self.k.full(v.attr, v.dtype, axis, *v.axes, name=self.hint or None)
        everywhere = self.k.full(True, BOOL, axis)
        return self.k.ew("select", everywhere, v, v)

    def value(self, c: C) -> Value:
        """Any number as a tile, in all lanes of its type."""
        e = c.what
        v = self.real(c) if c.type.scalar.kind == "real" or isinstance(e, Value) else None
        if v is None:
            d = BOOL if isinstance(e, Expr) and e.kind == "bool" else dtype_of(c.type)
            if not isinstance(e, Expr):
                raise self.refuse("a value that was never assigned is used")
            v = self.materialise(e, d)
        return self.spread(v, self.axis(c.type.count)) if c.type.kind == "vector" else v
