"""Integers and truth values of imported kernels as index expressions, and what they rest on.

An integer of TTIR is a number modulo 2^bits. Here it is an exact expression. Sums, differences and
products agree with it modulo 2^bits whatever their size (`raw`), so that only where such a number
is observed (compared, divided, widened, added to an address) must it lie in the range of its type:
that is a `Need`, which becomes a Check where the number is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from opwright.ir.dtypes import integer_range
from opwright.ir.expr import (
    FALSE,
    TRUE,
    ZERO,
    Expr,
    call,
    const,
    leaves,
    substitute,
)
from opwright.ir.polynomial import polynomial
from opwright.ir.tile import Axis, Value

Interval = tuple[int | None, int | None]
Dims = tuple[Axis | None, ...]
WIDE = 64


@dataclass(frozen=True, slots=True, eq=False)
class Need:
    """`cond` must hold where a number is used; `deps` first."""

    cond: Expr
    kind: str
    reason: str
    line: int
    deps: tuple[Need, ...] = ()
    moved: tuple[tuple[Expr, Expr], ...] = ()  # leaves replaced in it and in what it rests on


@dataclass(slots=True, eq=False)
class Sym:
    """An integer or truth value at every lane. `dims` are positional, None where the extent is
    1 (and for a scalar there are none); `bits` is 1 for a truth value."""

    expr: Expr
    dims: Dims
    bits: int
    needs: tuple[Need, ...] = ()
    raw: bool = False
    line: int = 0
    seen: Sym | None = field(default=None, repr=False)  # the same number after it was observed
    said: str = ""  # the source's words for it


def both(a: Expr, b: Expr) -> Expr:
    return call("and", a, b)


def choose(c: Expr, a: Expr, b: Expr) -> Expr:
    """Selection between integers or between truth values."""
    if a.kind == "bool":
        if c is TRUE or a is b:
            return a
        if c is FALSE:
            return b
        return call("or", both(c, a), both(~c, b))
    return call("select", c, a, b)


def join(*parts: tuple[Need, ...]) -> tuple[Need, ...]:
    """Needs without repetition."""
    filled = [p for p in parts if p]
    if len(filled) == 1:
        return filled[0]
    return tuple(dict.fromkeys(n for p in filled for n in p))


def move(needs: tuple[Need, ...], mapping: Iterable[tuple[Expr, Expr]]) -> tuple[Need, ...]:
    """Needs of a number whose leaves were replaced."""
    pairs = tuple(mapping)
    if not pairs:
        return needs
    return tuple(Need(n.cond, n.kind, n.reason, n.line, n.deps, (*n.moved, *pairs)) for n in needs)


def moved(e: Expr, pairs: tuple[tuple[Expr, Expr], ...]) -> Expr:
    """Replacements one after the other."""
    for a, b in pairs:
        if a is not b:
            e = substitute(e, {a: b})
    return e


class Ranges:
    """Constant bounds of expressions that follow from those of their leaves."""

    def __init__(self) -> None:
        self.known: dict[Expr, Interval] = {}

    def bound(self, e: Expr, lo: int | None, hi: int | None) -> None:
        if e.op != "const":
            self.known[e] = (lo, hi)

    def of(self, e: Expr) -> Interval:
        found = self.known.get(e)
        if found is None:
            found = self.known[e] = self._of(e)
        return found

    def _of(self, e: Expr) -> Interval:
        if e.op == "const":
            return int(e.attr), int(e.attr)
        if e.op == "lane":
            return 0, e.attr.extent - 1
        if e.op == "pid":
            return 0, 2**31 - 1
        if e.op in ("size", "stride"):
            return 0, None
        if e.op == "value" and isinstance(e.attr, Value) and e.kind == "int":
            return integer_range(e.attr.dtype)
        if e.op in ("add", "sub", "mul", "neg", "min", "max", "floordiv", "mod", "select"):
            args = [self.of(a) for a in e.args if a.kind == "int"]
            return _combine(e.op, args)
        return None, None

    def natural(self, e: Expr) -> bool:
        lo = self.of(e)[0]
        return lo is not None and lo >= 0

    def inside(self, e: Expr, bits: int, signed: bool = True) -> Expr:
        """What is left to show of: the expression fits a type of so many bits."""
        lo, hi = self.of(e)
        least, most = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        out = TRUE
        if lo is None or lo < least:
            out = both(out, call("le", const(least), e))
        if hi is None or hi > most:
            out = both(out, call("le", e, const(most)))
        return out


def _combine(op: str, args: list[Interval]) -> Interval:
    if op == "neg":
        ((lo, hi),) = args
        return (None if hi is None else -hi), (None if lo is None else -lo)
    (a, b), (c, d) = args
    if op == "add":
        return _plus(a, c), _plus(b, d)
    if op == "sub":
        return _plus(a, None if d is None else -d), _plus(b, None if c is None else -c)
    if op == "mul":
        return _product((a, b), (c, d))
    if op == "min":
        tops = [x for x in (b, d) if x is not None]
        return (None if a is None or c is None else min(a, c)), min(tops, default=None)
    if op == "max":
        lows = [x for x in (a, c) if x is not None]
        return max(lows, default=None), (None if b is None or d is None else max(b, d))
    if op == "select":
        low = None if a is None or c is None else min(a, c)
        return low, (None if b is None or d is None else max(b, d))
    if op == "mod":
        top = None if d is None else max(d - 1, 0)
        if a is not None and a >= 0 and b is not None:
            top = b if top is None else min(top, b)
        return 0, top
    if op == "floordiv":
        if a is not None and a >= 0:
            return 0, (None if b is None else b // max(c or 1, 1))
        if a is not None and b is not None:
            return min(a, 0), max(b, 0)
    return None, None


def _plus(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a + b


def _product(x: Interval, y: Interval) -> Interval:
    (a, b), (c, d) = x, y
    if a is not None and b is not None and c is not None and d is not None:
        ends = [a * c, a * d, b * c, b * d]
        return min(ends), max(ends)
    if a is not None and a >= 0 and c is not None and c >= 0:
        return a * c, (None if b is None or d is None else b * d)
    return None, None


class Arithmetic:
    """Operations of TTIR on integers and truth values, without any statement."""

    def __init__(self) -> None:
        self.ranges = Ranges()
        self.cut: dict[Expr, tuple[str, Expr, Expr]] = {}  # quotients and remainders towards zero

    def observe(self, x: Sym, line: int = 0) -> Sym:
        """The number in the range of its type, which is now needed."""
        if not x.raw:
            return x
        if x.seen is None:
            cond = self.ranges.inside(x.expr, x.bits)
            needs = x.needs
            if cond is not TRUE:
                what = f"`{x.said}`" if x.said else "the integer"
                reason = f"{what} fits {x.bits} bits"
                needs = (Need(cond, "wrap", reason, x.line or line, x.needs),)
            x.seen = Sym(x.expr, x.dims, x.bits, needs, False, x.line)
        return x.seen

    def ring(self, name: str, a: Sym, b: Sym, dims: Dims, line: int) -> Sym:
        """add, sub and mul agree modulo 2^bits whatever the operands are."""
        e = call(name, a.expr, b.expr)
        raw = a.bits < WIDE and self.ranges.inside(e, a.bits) is not TRUE
        return Sym(e, dims, a.bits, join(a.needs, b.needs), raw, line)

    def exact(self, e: Expr, bits: int, dims: Dims, line: int, *operands: Sym) -> Sym:
        return Sym(e, dims, bits, join(*(o.needs for o in operands)), False, line)

    def divide(self, name: str, a: Sym, b: Sym, dims: Dims, line: int) -> Sym:
        """Quotient and remainder cut towards zero; the divisor is positive by obligation, or a
        negative constant."""
        a, b = self.observe(a, line), self.observe(b, line)
        if b.expr.op == "const" and b.expr.attr < 0:
            over = Sym(const(-b.expr.attr), b.dims, b.bits, b.needs)
            found = self.divide(name, a, over, dims, line)
            turned = found.expr if name.startswith("rem") else call("neg", found.expr)
            return self.exact(turned, a.bits, dims, line, a, found)
        row = "floordiv" if name.startswith("div") else "mod"
        e = call(row, a.expr, b.expr)
        if not self.ranges.natural(a.expr):
            negative = call("neg", call(row, call("neg", a.expr), b.expr))
            e = call("select", call("lt", a.expr, 0), negative, e)
        self.cut[e] = (row, a.expr, b.expr)
        return self.exact(e, a.bits, dims, line, a, b)

    def floored(self, c: Expr, a: Expr, b: Expr) -> Expr | None:
        """Floor division or its remainder by a positive number, where a selection makes one out of
        those that are cut towards zero; None where it does not."""
        if c.op != "lt" or c.args[1] is not ZERO or a.kind != "int":
            return None
        rest, own = self.cut.get(c.args[0]), self.cut.get(b)
        if rest is None or own is None or rest[0] != "mod" or rest[1:] != own[1:]:
            return None
        if b is c.args[0] and polynomial(a - b) == polynomial(rest[2]):
            return call("mod", *rest[1:])
        if own[0] == "floordiv" and polynomial(b - a) == polynomial(const(1)):
            return call("floordiv", *rest[1:])
        return None

    def unsigned(self, x: Sym) -> Expr:
        """The number that the bits stand for without a sign."""
        e, half = x.expr, 1 << x.bits - 1
        if self.ranges.natural(e):
            return e
        if e.op == "select" and e.args[0] is call("lt", e.args[1], half):
            if e.args[2] is e.args[1] - 2 * half:  # it came without one
                return e.args[1]
        return call("select", call("lt", x.expr, 0), x.expr + (1 << x.bits), x.expr)

    def signed(self, e: Expr, bits: int) -> Expr:
        """The number with a sign of an unsigned one."""
        hi = self.ranges.of(e)[1]
        if hi is not None and hi < 1 << bits - 1:
            return e
        return call("select", call("lt", e, 1 << bits - 1), e, e - (1 << bits))

    def compare(self, predicate: str, a: Sym, b: Sym, dims: Dims, line: int) -> Sym:
        a, b = self.observe(a, line), self.observe(b, line)
        x, y = a.expr, b.expr
        if a.bits == 1:
            x, y = call("select", x, 1, 0), call("select", y, 1, 0)
        elif predicate[0] == "u":
            x, y = self.unsigned(a), self.unsigned(b)
        kind = predicate[-2:]
        if kind in ("eq", "ne") and y is ZERO and is_flag(x):  # a truth value in memory
            return self.exact(x.args[0] if kind == "ne" else ~x.args[0], 1, dims, line, a, b)
        made = {
            "eq": lambda: call("eq", x, y),
            "ne": lambda: call("ne", x, y),
            "lt": lambda: call("lt", x, y),
            "le": lambda: call("le", x, y),
            "gt": lambda: call("lt", y, x),
            "ge": lambda: call("le", y, x),
        }[kind]()
        return self.exact(made, 1, dims, line, a, b)

    def select(self, c: Sym, a: Sym, b: Sym, dims: Dims, line: int) -> Sym:
        whole = self.floored(c.expr, a.expr, b.expr)
        if whole is not None:
            return self.exact(whole, a.bits, dims, line, c, a, b)
        out = self.exact(choose(c.expr, a.expr, b.expr), a.bits, dims, line, c, a, b)
        out.raw = a.raw or b.raw
        return out

    def logic(self, name: str, a: Sym, b: Sym, dims: Dims, line: int) -> Sym:
        x, y = a.expr, b.expr
        if name == "andi":
            e = both(x, y)
        elif name == "ori":
            e = call("or", x, y)
        elif y is TRUE:
            e = ~x
        else:
            e = call("or", both(x, ~y), both(~x, y))
        return self.exact(e, 1, dims, line, a, b)

    def bits(self, name: str, a: Sym, b: Sym, dims: Dims, line: int) -> Sym | None:
        """Bit operations that are arithmetic; None for others."""
        if b.expr.op != "const":
            if a.expr.op != "const" or name not in ("andi", "ori", "xori"):
                return None
            a, b = b, a
        n = int(b.expr.attr)
        if name == "shli" and 0 <= n < a.bits:
            factor = Sym(const(1 << n), (), a.bits)
            return self.ring("mul", a, factor, dims, line)
        a = self.observe(a, line)
        if name == "shrsi" and 0 <= n < a.bits:
            return self.exact(a.expr // (1 << n), a.bits, dims, line, a)
        if name == "shrui" and 0 < n < a.bits:
            return self.exact(self.unsigned(a) // (1 << n), a.bits, dims, line, a)
        if name == "andi" and n >= 0 and n & (n + 1) == 0:
            return self.exact(a.expr % (n + 1), a.bits, dims, line, a)
        if name == "andi" and n < 0 and -n & (-n - 1) == 0:
            return self.exact(a.expr - a.expr % -n, a.bits, dims, line, a)
        if name in ("ori", "xori") and n == 0:
            return a
        if name == "xori" and n == -1:
            return self.exact(const(-1) - a.expr, a.bits, dims, line, a)
        return None

    def widen(self, x: Sym, bits: int, signed: bool, line: int) -> Sym:
        """extsi, extui; a truth value becomes 1 or 0 (-1 with a sign)."""
        if x.bits == 1:
            e = call("select", x.expr, -1 if signed else 1, 0)
            return self.exact(e, bits, x.dims, line, x)
        x = self.observe(x, line)
        e = x.expr if signed else self.unsigned(x)
        return self.exact(e, bits, x.dims, line, x)

    def narrow(self, x: Sym, bits: int, line: int) -> Sym:
        """trunci: the same number modulo 2^bits."""
        if bits == 1:
            low = call("ne", x.expr % 2, 0)
            if x.expr.op == "select" and x.expr.args[1:] == (const(1), ZERO):
                low = x.expr.args[0]
            return self.exact(low, 1, x.dims, line, x)
        raw = self.ranges.inside(x.expr, bits) is not TRUE
        return Sym(x.expr, x.dims, bits, x.needs, raw, line)


def is_flag(e: Expr) -> bool:
    """Whether a number is 1 or 0 for a truth value."""
    return e.op == "select" and e.args[1:] == (const(1), ZERO)


def values_in(e: Expr) -> list[Value]:
    """Values that occur in an expression."""
    return [x.attr for x in leaves(e, "value")]
