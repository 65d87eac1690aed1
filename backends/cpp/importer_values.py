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

import numpy as np

from opwright.backends.cpp.clang import CType
from opwright.ir.dtypes import BOOL, DTYPES, F32, I64, DType, integer_range
from opwright.ir.expr import (
    FALSE,
    TRUE,
    ZERO,
    Expr,
    call,
    const,
    leaf,
    leaves,
    toreal,
    walk,
)
from opwright.ir.launch import ImportRefusal
from opwright.ir.semantics import ROWS
from opwright.ir.tile import Axis, Buffer, Builder, Value, lanes

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
    """What can be assigned: a variable, or an element in memory (of a type in memory)."""

    variable: int = 0
    pointer: Pointer | None = None


@dataclass(frozen=True, slots=True)
class C:
    """A C++ value: an Expr, a tile, a pointer, a lambda (its syntax), a Place, or nothing yet."""

    type: CType
    what: Any

    @property
    def known(self) -> bool:
        return self.what is not None


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
        self.axes: dict[int, Axis] = {}
        self.scopes: list[dict[tuple[Any, ...], Any]] = [{}]
        self.bounds: dict[Expr, Interval] = {}
        self.narrow: dict[Expr, tuple[int, int]] = {}
        self.whole: dict[Value, Expr] = {}  # reals that hold a whole number
        self.kept: set[Value] = set()  # tiles that a variable of the text holds
        self.fillers: dict[Value, Any] = {}  # what loads give where they do not read
        self.hint = ""

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
        if self.quiet or cond is TRUE:
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

    # -- conversions
    def convert(self, c: C, to: CType, line: int = 0) -> C:
        if c.type == to:
            return c
        if isinstance(c.what, Pointer) or to.kind == "pointer":
            return self.pointer_cast(c, to)
        if to.kind == "vector" and to.count != c.type.count and c.type.kind == "vector":
            raise self.refuse(f"a {c.type} as a {to}")
        kind, old = to.scalar, c.type.scalar
        e = c.what
        if to.kind == "void" or kind.kind in ("other", "reference"):
            return C(to, e)
        if e is None:
            return C(to, None)
        if kind.kind == "bool":
            return C(to, self.truth(c))
        if kind.is_integer:
            return C(to, self.to_integer(c, kind))
        if kind.kind == "real" and isinstance(e, Value) and e.dtype.kind == "real":
            d = dtype_of(kind)
            return C(to, e if e.dtype == d else self.k.cast(e, d, name=self.hint or None))
        if kind.kind == "real":
            return C(to, self.to_real(c, kind, old))
        raise self.refuse(f"a {c.type} as a {to}")

    def pointer_cast(self, c: C, to: CType) -> C:
        old = c.type.of
        plain = to.of is not None and (to.of.kind == "void" or old == to.of)
        if c.type.kind == "array" and to.kind == "pointer":
            return C(to, c.what)
        if isinstance(c.what, Pointer) and (plain or (old is not None and old.kind == "void")):
            return C(CType("pointer", of=old) if plain else to, c.what)
        raise self.refuse(f"a {c.type} as a {to}: type punning is not understood")

    def to_integer(self, c: C, kind: CType) -> Any:
        e = c.what
        if isinstance(e, Value) and e.dtype.kind == "real":
            if not dtype_of(c.type).kind == "real":
                return e  # the bits of a storage type
            if e not in self.whole:
                self.whole[e] = leaf("value", self.k.ew("trunc", e), "int")
            e = self.whole[e]
            return self.fits(e, kind, "a conversion")
        if isinstance(e, Expr) and e.kind == "real":
            e = call("trunc", e)
            return self.fits(e, kind, "a conversion")
        if isinstance(e, Expr) and e.kind == "bool":
            return e if c.type.kind == "vector" else call("select", e, 1, 0)
        return self.fits(self.number(c), kind, "a conversion")

    def to_real(self, c: C, kind: CType, old: CType) -> Any:
        e: Expr = c.what if isinstance(c.what, Expr) and c.what.kind == "real" else self.number(c)
        d = dtype_of(kind)
        if e.kind == "real":
            if e.op == "const":
                return const(float(np.float32(e.attr)) if d is F32 else float(e.attr))
            if kind.bits == 64 or e.op == "param":
                return e
            return self.real(C(kind, e))
        if e.op == "const":
            exact = float(e.attr)
            return const(float(np.float32(exact)) if d is F32 else exact)
        if leaves(e, "value"):
            width = DTYPES[f"i{old.bits}"] if old.kind in ("int", "uint") else I64
            return self.k.cast(self.materialise(e, width), d, name=self.hint or None)
        if kind.bits == 64 and not lanes(e):
            return toreal(e)
        return self.once(("index", e, d), lambda: self.k.index(e, d, name=self.hint or None))

    # -- operators
    def binary(self, op: str, a: C, b: C, type_: CType) -> C:
        if isinstance(a.what, Pointer) or isinstance(b.what, Pointer):
            return self.pointer_arithmetic(op, a, b, type_)
        for c in (a, b):
            if c.what is None:
                raise self.refuse("a value that was never assigned is used")
        if op in ("<", ">", "<=", ">=", "==", "!="):
            return C(type_, self.compare(op, a, b))
        if op in ("&&", "||"):
            return C(type_, call("and" if op == "&&" else "or", self.truth(a), self.truth(b)))
        if op in ("&", "|", "^") and "bool" in (self.kind(a), self.kind(b)):
            x, y = self.truth(a), self.truth(b)
            if op == "^":
                both = call("and", x, call("not", y)), call("and", call("not", x), y)
                return (
                    C(type_, call("or", *both))
                    if a.type.kind == "vector"
                    else self.as_int(call("or", *both), type_)
                )
            e = call("and" if op == "&" else "or", x, y)
            if self.kind(a) != self.kind(b) and op == "&":  # mask & 1
                return C(type_, call("select", e, 1, 0))
            return C(type_, e) if a.type.kind == "vector" else self.as_int(e, type_)
        if type_.scalar.kind == "real":
            return C(type_, self.real_binary(op, a, b, type_))
        return C(type_, self.integer(op, self.number(a), self.number(b), type_))

    def as_int(self, e: Expr, t: CType) -> C:
        return C(t, e if t.kind == "bool" else call("select", e, 1, 0))

    def kind(self, c: C) -> str:
        return c.what.kind if isinstance(c.what, Expr) else "real"

    def pointer_arithmetic(self, op: str, a: C, b: C, type_: CType) -> C:
        if isinstance(b.what, Pointer) and op == "+":
            a, b = b, a
        if not isinstance(a.what, Pointer) or isinstance(b.what, Pointer) or op not in "+-":
            raise self.refuse("comparing or subtracting pointers")
        e = self.number(b)
        p: Pointer = a.what
        return C(a.type, Pointer(p.buffer, p.lead, p.offset + e if op == "+" else p.offset - e))

    def real_binary(self, op: str, a: C, b: C, type_: CType) -> Any:
        names = {"+": "add", "-": "sub", "*": "mul", "/": "div"}
        if op not in names:
            raise self.refuse(f"{op} on {type_}")
        exprs = isinstance(a.what, Expr) and isinstance(b.what, Expr)
        if op == "/" and self.contract and isinstance(b.what, Value):
            found = self.inverse(a, b.what)
            if found is not None:
                return found
        if exprs and type_.scalar.bits == 64:
            return call(names[op], toreal(a.what), toreal(b.what))
        x, y = self.real(a), self.real(b)
        return self.k.ew(names[op], x, y, name=self.hint or None)

    def inverse(self, a: C, v: Value) -> Value | None:
        """1 / sqrt(x) and 1 / (1 + exp(-x)), as the printer writes two functions of f64."""
        if v in self.kept or not isinstance(a.what, Expr) or a.what is not const(1.0):
            return None
        if v.op == "sqrt":
            return self.k.ew("rsqrt", v.args[0], name=self.hint or None)
        if v.op == "add" and v.args[0].op == "full" and v.args[0].attr == 1.0:
            e = v.args[1]
            if e.op == "exp" and e.args[0].op == "neg" and e not in self.kept:
                return self.k.ew("sigmoid", e.args[0].args[0], name=self.hint or None)
        return None

    def compare(self, op: str, a: C, b: C) -> Expr:
        rows = {"<": "lt", ">": "lt", "<=": "le", ">=": "le", "==": "eq", "!=": "ne"}
        if op in (">", ">="):
            a, b = b, a
        if a.type.scalar.kind == "real" or b.type.scalar.kind == "real":
            if isinstance(a.what, Expr) and isinstance(b.what, Expr):
                return call(rows[op], toreal(a.what), toreal(b.what))
            made = self.k.ew(rows[op], self.real(a), self.real(b), name=self.hint or None)
            return leaf("value", made, "bool")
        if self.kind(a) == self.kind(b) == "bool":
            x, y = self.truth(a), self.truth(b)
            same = call("or", call("and", x, y), call("and", call("not", x), call("not", y)))
            if op in ("==", "!="):
                return same if op == "==" else call("not", same)
        x, y = self.number(a), self.number(b)
        if op in ("==", "!=") and y is ZERO and self.kind(a) == "bool":
            return self.nonzero(x) if op == "!=" else call("not", self.nonzero(x))
        if op == "!=" and y is ZERO:
            return self.nonzero(x)
        return call(rows[op], x, y)

    def integer(self, op: str, a: Expr, b: Expr, t: CType) -> Expr:
        if op in ("+", "-", "*"):
            e = call({"+": "add", "-": "sub", "*": "mul"}[op], a, b)
            return self.fits(e, t, f"{op}")
        if op in ("/", "%"):
            return self.quotient(op, a, b)
        if op == "<<" and b.op == "const" and 0 <= b.attr < 63:
            return self.fits(a * (1 << b.attr), t, "<<")
        if op == ">>" and b.op == "const" and 0 <= b.attr < 63:
            return call("floordiv", a, 1 << int(b.attr))
        if op == "&":
            for x, y in ((a, b), (b, a)):
                if y.op == "const":
                    n = int(y.attr)
                    if n >= 0 and n & (n + 1) == 0:
                        return call("mod", x, n + 1)
                    if n < 0 and -n & (-n - 1) == 0:
                        return x - x % -n
        if all(x.op == "const" for x in (a, b)) and op in ("|", "^", "&"):
            m, n = int(a.attr), int(b.attr)
            return const({"|": m | n, "^": m ^ n, "&": m & n}[op])
        raise self.refuse(f"the integer operator {op} is not understood here")

    def quotient(self, op: str, a: Expr, b: Expr) -> Expr:
        """C++ truncates: the same as floor where the dividend is not negative."""
        self.sound(b)
        if not self.interval(b)[0] > 0:
            self.check(call("lt", 0, b), "divisor", "the divisor is positive")
        down, rest = call("floordiv", a, b), call("mod", a, b)
        if self.natural(a):
            return down if op == "/" else rest
        up = call("neg", call("floordiv", call("neg", a), b))
        if op == "/":
            return call("select", call("le", 0, a), down, up)
        return call("select", call("le", 0, a), rest, a - up * b)

    def unary(self, op: str, c: C, type_: CType) -> C:
        if op == "!":
            return C(type_, call("not", self.truth(c)))
        if op == "+":
            return C(type_, c.what)
        if c.what is None:
            raise self.refuse("a value that was never assigned is used")
        if op == "~":
            if self.kind(c) == "bool":
                return C(type_, call("not", self.truth(c)))
            return C(type_, self.fits(-self.number(c) - 1, type_, op))
        if op == "-" and type_.scalar.kind == "real":
            if isinstance(c.what, Expr) and (c.what.op == "const" or type_.scalar.bits == 64):
                return C(
                    type_, const(-c.what.attr) if c.what.op == "const" else call("neg", c.what)
                )
            return C(type_, self.k.ew("neg", self.real(c), name=self.hint or None))
        if op == "-":
            return C(type_, self.fits(call("neg", self.number(c)), type_, op))
        raise self.refuse(f"the operator {op} is not understood here")

    def choose(self, cond: Expr, a: C, b: C, type_: CType) -> C:
        """cond ? a : b, lane by lane."""
        if cond is TRUE or cond is FALSE:
            return C(type_, (a if cond is TRUE else b).what)
        if a.what is b.what:
            return C(type_, a.what)
        if a.what is None or b.what is None:
            return C(type_, None)
        if isinstance(a.what, Pointer) or isinstance(b.what, Pointer):
            return self.choose_pointer(cond, a, b, type_)
        if all(isinstance(x.what, Expr) and x.what.kind == "bool" for x in (a, b)):
            return C(type_, self.choose_truth(cond, a.what, b.what))
        storage = any(isinstance(x.what, Value) and x.what.dtype.kind == "real" for x in (a, b))
        if type_.scalar.kind == "real" or storage:
            x, y = self.real(a), self.real(b)
            if x.dtype != y.dtype:
                raise self.refuse(f"a choice between {x.dtype} and {y.dtype}")
            where = self.materialise(cond, BOOL)
            return C(type_, self.k.ew("select", where, x, y, name=self.hint or None))
        return C(type_, smaller(cond, self.number(a), self.number(b)))

    def choose_truth(self, cond: Expr, a: Expr, b: Expr) -> Expr:
        if b is FALSE:
            return call("and", cond, a)
        if a is TRUE:
            return call("or", cond, b)
        return call("or", call("and", cond, a), call("and", call("not", cond), b))

    def choose_pointer(self, cond: Expr, a: C, b: C, type_: CType) -> C:
        p, q = a.what, b.what
        same = isinstance(p, Pointer) and isinstance(q, Pointer) and p.buffer == q.buffer
        if not same or p.lead != q.lead:
            raise self.refuse("a pointer that may point into one buffer or another")
        return C(type_, Pointer(p.buffer, p.lead, smaller(cond, p.offset, q.offset)))


def smaller(cond: Expr, a: Expr, b: Expr) -> Expr:
    """A choice between integers; a minimum or maximum where it is one."""
    if cond.op in ("lt", "le"):
        if cond.args == (a, b):
            return call("min", a, b)
        if cond.args == (b, a):
            return call("max", a, b)
    return call("select", cond, a, b)
