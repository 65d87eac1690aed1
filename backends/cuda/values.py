"""Symbolic values of one kernel, for all of its threads at once.

An integer or a truth value is an index expression (over thread axes, block indices, sizes, loaded
values), a real number is a tile value. Every operation on integers of 32 bits or less states that
it does not wrap.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from opwright.backends.cpp.clang import CType
from opwright.backends.cuda.numbers import bits_of, bounds, divide, remainder
from opwright.ir.dtypes import BF16, BOOL, DTYPES, I64, DType, integer_range
from opwright.ir.expr import TRUE, Expr, call, conjunction, conjuncts, const, leaf, leaves
from opwright.ir.launch import ImportRefusal
from opwright.ir.tile import Axis, Buffer, Builder, Value


@dataclass(frozen=True, slots=True)
class Pointer:
    """An address: an element of a buffer (for shared memory the leading indices stand alone), seen
    as `unit`s; `dims` are the extents of what it points to, where that is an array."""

    buffer: Buffer
    offset: Expr
    unit: CType
    prefix: tuple[Expr, ...] = ()
    aligned: int = 0  # bytes that the buffer is known to be aligned to


@dataclass(frozen=True, slots=True)
class Vector:
    """The components of a vector type, or elements that are only copied (`raw`)."""

    parts: tuple[Sym, ...]
    type: CType
    raw: bool = False


@dataclass(frozen=True, slots=True)
class Cells:
    """A local array, of which constant indices are known; `None` is not written yet."""

    parts: tuple[Sym, ...]
    type: CType  # of one part


class Lost:
    """What a variable holds is not known: asking for it is refused."""


LOST = Lost()
Sym = Lost | Expr | Value | Pointer | Vector | Cells | None
COMBINED = {"add": "sum", "mul": "prod", "max": "max", "min": "min"}
PLAIN = {"real": "f", "int": "i", "uint": "u"}


def dtype_of(t: CType) -> DType:
    """The element type of a scalar C++ type; KeyError for one that has none."""
    if t.kind == "bool":
        return BOOL
    if t.kind == "real" and t.name == "bf16":
        return BF16
    return DTYPES[f"{PLAIN[t.kind]}{t.bits}"]


class Values:
    """What expressions make: arithmetic with its obligations, under the path of conditions."""

    def __init__(self, file: str, kernel: str, builder: Builder, threads: tuple[Axis, ...]) -> None:
        self.file, self.kernel, self.builder, self.threads = file, kernel, builder, threads
        self.path: list[Expr] = []
        self.line = 0
        self.ranges: dict[Expr, tuple[int | None, int | None]] = {}
        self.undefined: dict[DType, Value] = {}
        self.lane: Axis | None = None  # the axis of a warp's lanes
        # values that another lane of the warp held, at which distance; what such exchanges combine
        self.exchanges: dict[Value, tuple[Value, int]] = {}
        self.butterflies: dict[tuple[Value, str], tuple[Value, frozenset[int]]] = {}

    # -- places
    def refuse(self, what: str, line: int = 0) -> ImportRefusal:
        return ImportRefusal(what, self.file, line or self.line)

    def at(self, line: int) -> None:
        if line > 0:
            self.line = line
            self.builder.line = f"{self.file}:{line}"

    def mask(self) -> Expr:
        """The condition of the threads that are here."""
        return conjunction(list(dict.fromkeys(c for p in self.path for c in conjuncts(p))))

    def check(self, cond: Expr, kind: str, reason: str) -> None:
        """An obligation of the threads that are here."""
        if cond is not TRUE:
            self.builder.check(call("or", ~self.mask(), cond), kind, reason)

    def bounds(self, e: Expr) -> tuple[int | None, int | None]:
        return bounds(e, self.ranges)

    # -- integers
    def fitting(self, e: Expr, t: CType) -> Expr:
        """The same number, which must be one of the type. What wraps in 64 bits shows where it is
        used."""
        if t.kind == "bool" or t.bits >= 64:
            if t.kind == "uint" and (self.bounds(e)[0] or 0) < 0:
                self.check(call("le", 0, e), "wrap", "a number without sign is not negative")
            return e
        low, high = integer_range(dtype_of(t))
        a, b = self.bounds(e)
        parts = []
        if a is None or a < low:
            parts.append(call("le", low, e))
        if b is None or b > high:
            parts.append(call("le", e, high))
        self.check(conjunction(parts), "wrap", f"a number of {low} to {high}")
        return e

    def wrapped(self, e: Expr) -> Expr:
        """A negative number as one of 32 bits without sign."""
        low = self.bounds(e)[0]
        if low is not None and low >= 0:
            return e
        return call("select", call("lt", e, 0), e + 2**32, e)

    def quotient(self, a: Expr, b: Expr, t: CType, rest: bool) -> Expr:
        """a / b or a % b of C, which rounds towards zero."""
        if (self.bounds(b)[0] or 0) <= 0:
            self.check(call("lt", 0, b), "divisor", "the divisor is positive")
        low = self.bounds(a)[0]
        if t.kind == "uint" or (low is not None and low >= 0):
            return remainder(a, b, self.ranges) if rest else divide(a, b, self.ranges)
        up, down = divide(a, b, self.ranges), -divide(-a, b, self.ranges)
        q = call("select", call("le", 0, a), up, down)
        return a - q * b if rest else q

    def integers(self, op: str, a: Expr, b: Expr, t: CType) -> Expr:
        """An operation on two integers of one type."""
        if op in ("+", "-", "*"):
            out = a + b if op == "+" else a - b if op == "-" else a * b
            if op == "-" and t.kind == "uint" and t.bits == 32:
                out = self.wrapped(out)
            return self.fitting(out, t)
        if op in ("/", "%"):
            return self.quotient(a, b, t, op == "%")
        if op == "<<" and b.op == "const" and 0 <= b.attr < 63:
            return self.fitting(a * (1 << b.attr), t)
        if op == ">>" and b.op == "const" and 0 <= b.attr < 63:
            return divide(a, const(1 << b.attr), self.ranges)
        if op in ("&", "|", "^"):
            if a.op == "const":
                a, b = b, a
            if b.op == "const":
                return self.with_bits(op, a, b.attr)
            return self.bitwise(op, a, b)
        raise self.refuse(f"the operator {op}")

    def bitwise(self, op: str, a: Expr, b: Expr) -> Expr:
        """An operation on the bits of two small numbers."""
        tops = [self.bounds(x) for x in (a, b)]
        if any(low is None or low < 0 or top is None or top >= 64 for low, top in tops):
            raise self.refuse(f"{op} of two variables")
        most = max(top or 0 for _, top in tops)
        out: Expr = const(0)
        ones = (1 << most.bit_length()) - 1
        pairs = zip(bits_of(a, ones, self.ranges), bits_of(b, ones, self.ranges), strict=True)
        for (n, x), (_, y) in pairs:
            same = call("eq", x, y)
            bit = {"^": call("select", same, 0, 1), "&": call("min", x, y), "|": call("max", x, y)}
            out = out + bit[op] * (1 << n)
        return out

    def with_bits(self, op: str, a: Expr, c: int) -> Expr:
        """An operation on bits with a constant."""
        if a.op == "const" and a.attr >= 0 and c >= 0:
            return const({"&": a.attr & c, "|": a.attr | c, "^": a.attr ^ c}[op])
        if op == "&" and c >= 0 and (c + 1) & c == 0:
            return remainder(a, const(c + 1), self.ranges)
        low = self.bounds(a)[0]
        if low is None or low < 0 or c < 0 or c.bit_count() > 8:
            raise self.refuse(f"{op} of a number that may be negative")
        out: Expr = const(0) if op == "&" else a
        for n, bit in bits_of(a, c, self.ranges):
            out = (
                out + bit * (1 << n)
                if op == "&"
                else out + (1 << n) - bit * (1 << (n + (op == "^")))
            )
        return out

    # -- truth values and values
    def truth(self, x: Sym, t: CType) -> Expr:
        if isinstance(x, Expr):
            return x if x.kind == "bool" else call("ne", x, 0)
        if isinstance(x, Value):
            return self.leaf(self.builder.ew("ne", x, 0.0))
        raise self.refuse("a condition that is no number")

    def leaf(self, v: Value) -> Expr:
        """A value of integers or truth values as an index expression."""
        return leaf("value", v, v.dtype.kind)

    def settled(self, cond: Expr) -> Expr:
        """A condition whose values count for the threads that are here alone."""
        mask = self.mask()
        if mask is TRUE:
            return cond
        out = []
        for c in conjuncts(cond):
            if leaves(c, "value") and c not in conjuncts(mask):
                b, held = self.builder, call("select", c, 1, 0)
                c = call("ne", self.leaf(b.ew("select", b.index(mask), b.index(held), 0)), 0)
            out.append(c)
        return conjunction(out)

    def value(self, x: Sym, to: DType) -> Value:
        """A scalar as a tile value of a type."""
        b = self.builder
        if x is None:
            return self.nothing(to)
        if isinstance(x, Value):
            if x.dtype == to:
                return x
            if x.op == "full" and to.kind == "real":
                return b.full(float(x.attr), to)
            return b.cast(x, to)
        if isinstance(x, Expr):
            if x.kind == "bool" and to.kind != "bool":
                x = call("select", x, 1, 0)
            if x.op == "const" and to.kind == "real":
                return b.full(float(x.attr), to)
            if x.kind == "real" and to.kind == "real":
                return b.index(x, to)
            if x.kind == "int" and to.kind == "bool":
                x = call("ne", x, 0)
            if x.kind == to.kind or (x.kind, to.kind) == ("int", "real"):
                if x.op == "value" and x.attr.dtype == to:
                    return x.attr  # type: ignore[no-any-return]
                return b.index(x, to)
        raise self.refuse(f"a value of {to} is wanted")

    def nothing(self, to: DType) -> Value:
        """What a variable holds before it is written: poison."""
        name = f"{self.kernel}_unset_{to}"
        buffer = Buffer(name, "program", to, (const(1),))
        return self.builder.load(buffer, 0, mask=const(False), name="unset")

    def read(self, x: Sym, t: CType) -> Sym:
        """A scalar that may not have been written."""
        if x is None and t.kind in ("real", "int", "uint", "bool"):
            v = self.nothing(dtype_of(t))
            return v if t.kind == "real" else self.leaf(v)
        return x

    # -- conversions
    def convert(self, x: Sym, old: CType, new: CType) -> Sym:
        if old == new or new.kind == "void" or new.kind == "reference":
            return x
        x = self.read(x, old)
        if isinstance(x, Pointer) and new.kind in ("pointer", "array"):
            return replace(x, unit=new.of or x.unit)
        if new.kind == "bool":
            return self.truth(x, old)
        if isinstance(x, Expr) and x.kind == "bool" and new.is_integer:
            return call("select", x, 1, 0)
        if new.is_integer and isinstance(x, Expr) and x.kind == "int":
            if new.kind == "uint" and old.kind == "int" and new.bits == 32:
                x = self.wrapped(x)
            return self.fitting(x, new)
        if new.is_integer and isinstance(x, Value):
            return self.truncated(x, "trunc", new)
        if new.kind == "real":
            return self.value(x, dtype_of(new))
        if new.kind == "vector" and isinstance(x, Vector) and new == x.type:
            return x
        raise self.refuse(f"a conversion of {old} to {new}")

    def truncated(self, x: Value, how: str, new: CType) -> Expr:
        """A real number as an integer; out of range, the device's conversion saturates."""
        v = self.builder.ew(how, x)
        to = dtype_of(new)
        return self.leaf(v if to == I64 else self.builder.cast(v, to))

    # -- choice
    def choose(self, cond: Expr, a: Sym, b: Sym, t: CType) -> Sym:
        """a where the condition holds, else b."""
        if a is b or (isinstance(a, Expr) and isinstance(b, Expr) and a is b):
            return a
        if cond.op == "const":
            return a if cond.attr else b
        if a is None and b is None:
            return None
        if isinstance(a, Pointer) and isinstance(b, Pointer):
            same = a.buffer == b.buffer and a.unit == b.unit and a.prefix == b.prefix
            if not same:
                raise self.refuse("an address of one of several buffers")
            return replace(a, offset=call("select", cond, a.offset, b.offset))
        if isinstance(a, Vector | Cells) or isinstance(b, Vector | Cells):
            return self.choose_parts(cond, a, b, t)
        if isinstance(a, Expr) and isinstance(b, Expr) and a.kind == b.kind == "bool":
            return call("or", call("and", cond, a), call("and", ~cond, b))
        loaded = any(leaves(x, "value") for x in (a, b) if isinstance(x, Expr))
        if isinstance(a, Expr) and isinstance(b, Expr) and a.kind == b.kind == "int":
            if not loaded:  # an expression would hold what is undefined on the side not taken
                return call("select", cond, a, b)
        if t.kind not in ("real", "int", "uint", "bool"):
            raise self.refuse(f"a choice of {t}")
        to = dtype_of(t)
        x, y = self.value(a, to), self.value(b, to)
        out = self.picked(self.builder.index(cond), x, y)
        return out if to.kind == "real" else self.leaf(out)

    def picked(self, c: Value, x: Value, y: Value) -> Value:
        """x where c holds, else y; truth values, too."""
        b = self.builder
        if x.dtype.kind != "bool":
            return b.ew("select", c, x, y)
        one, other = (b.index(call("select", self.leaf(v), 1, 0)) for v in (x, y))
        return b.index(call("ne", self.leaf(b.ew("select", c, one, other)), 0))

    def choose_parts(self, cond: Expr, a: Sym, b: Sym, t: CType) -> Sym:
        whole = a if isinstance(a, Vector | Cells) else b
        assert isinstance(whole, Vector | Cells)
        empty: tuple[Sym, ...] = (None,) * len(whole.parts)
        x = a.parts if isinstance(a, Vector | Cells) else empty
        y = b.parts if isinstance(b, Vector | Cells) else empty
        of = whole.type if isinstance(whole, Cells) else (whole.type.of or whole.type)
        if isinstance(whole, Vector) and whole.raw:
            of = CType("real", 32)
            known = [p for p in (*x, *y) if isinstance(p, Value)]
            if known:
                of = ctype_of(known[0].dtype)
        parts = tuple(self.choose(cond, p, q, of) for p, q in zip(x, y, strict=True))
        return replace(whole, parts=parts)

    # -- reals
    def seen(self, v: Value) -> Value:
        """A value for the threads that are here; others hold a number that nobody sees."""
        mask = self.mask()
        if mask is TRUE or v.op == "full":
            return v
        some: float | int | bool = {"real": 0.0, "int": 0, "bool": False}[v.dtype.kind]
        if v.dtype.kind == "bool":
            return self.builder.ew("and", self.builder.index(mask), v)
        return self.builder.ew("select", self.builder.index(mask), v, some)

    def combined(self, row: str, a: Value, b: Value) -> Value:
        """A row of two values. Where each of a warp's lanes has combined with those at all
        distances of a power of two, all of them hold what the warp's lanes give together: sums of
        floats, too, since both partners of an exchange add the same two numbers."""
        out = self.builder.ew(row, a, b)
        for x, y in ((a, b), (b, a)):
            if row not in COMBINED or self.exchanges.get(y, (None, 0))[0] is not x:
                continue
            start, known = self.butterflies.get((x, row), (x, frozenset()))
            far = known | {self.exchanges[y][1]}
            if len(far) == len(known):
                continue
            self.butterflies[out, row] = (start, far)
            axis = self.lane
            if axis is not None and far == {1 << n for n in range(axis.extent.bit_length() - 1)}:
                return self.builder.reduce(COMBINED[row], self.seen(start), axis)
        return out

    def reals(self, op: str, a: Value, b: Value) -> Value:
        names = {"+": "add", "-": "sub", "*": "mul", "/": "div"}
        if op not in names:
            raise self.refuse(f"the operator {op} on real numbers")
        return self.combined(names[op], a, b)

    def spread(self, v: Value, axes: Iterable[Axis]) -> Value:
        """A value with more axes, along which it does not change."""
        missing = tuple(a for a in axes if a not in v.axes)
        if not missing:
            return v
        b = self.builder
        if v.op == "full":
            return b.full(v.attr, v.dtype, *dict.fromkeys((*v.axes, *missing)))
        here = b.full(True, BOOL, *missing)
        return b.ew("and", here, v) if v.dtype.kind == "bool" else b.ew("select", here, v, v)


def ctype_of(d: DType) -> CType:
    """A C++ type with these elements."""
    if d == BF16:
        return CType("real", 16, name="bf16")
    kind = {"f": "real", "i": "int", "u": "uint", "b": "bool"}[d.name[0]]
    return CType(kind, d.bits)
