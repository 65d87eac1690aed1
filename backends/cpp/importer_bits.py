"""Numbers by their bits: reinterpretation, shifts and logic that no index expression says.

What such an operation gives is a function of its operands with the meaning that C++ has, of which
nothing else is known: its name and type are all that proofs see. Exact are the operations whose
meaning is one of numbers (a sign that is cleared, a choice between two bit patterns).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from opwright.backends.cpp.clang import CType
from opwright.backends.cpp.importer_arithmetic import Arithmetic
from opwright.backends.cpp.importer_values import C, dtype_of
from opwright.ir.dtypes import I64, integer_range
from opwright.ir.expr import Expr, call, const, leaf, leaves
from opwright.ir.tile import Builder, Value


class Bits(Arithmetic):
    """Operators on bit patterns."""

    def __init__(self, builder: Builder, file: str) -> None:
        super().__init__(builder, file)
        self.patterns: dict[Expr, Value] = {}  # integers that are the bits of a real
        self.wild: set[Value] = set()  # integers with the meaning of a named function

    # -- the same bytes as another type
    def reinterpret(self, c: C, to: CType) -> C:
        """The same bytes as a type of the same size, element by element."""
        old, new = c.type.scalar, to.scalar
        if c.type == to:
            return c
        same = (c.type.count, c.type.kind == "vector") == (to.count, to.kind == "vector")
        numbers = all(t.kind in ("int", "uint", "real") for t in (old, new))
        if not same or not numbers or old.bits != new.bits:
            raise self.refuse(f"the bytes of a {c.type} as a {to}")
        if c.what is None:
            return C(to, None)
        if old.kind == "real" and new.kind == "real":
            return C(to, c.what)
        if old.kind == "real":
            return C(to, self.bits_of(c, to))
        if new.kind == "real":
            return C(to, self.real_of(self.number(c), c.type, to))
        e = c.what
        if isinstance(e, Expr) and e.kind == "bool":
            return C(to, e)
        e = self.number(c)
        low, high = integer_range(dtype_of(new))
        a, b = self.interval(e)
        if low <= a and b <= high:
            return C(to, e)
        if e in self.patterns:
            return C(to, self.bits_of(C(_real(c.type), self.patterns[e]), to))
        return C(to, self.named(f"bits as {new}", [e], to))

    def bits_of(self, c: C, to: CType) -> Expr:
        if isinstance(c.what, Expr) and c.what.op == "const":
            return const(_pattern(float(c.what.attr), to))
        v = self.real(c)
        if v.op == "full":
            return const(_pattern(float(v.attr), to))
        e = leaf("value", self.k.opaque(f"bits as {to.scalar}", [v], dtype_of(to)), "int")
        self.wild.add(e.attr)
        self.patterns[e] = v
        return e

    def real_of(self, e: Expr, old: CType, to: CType) -> Any:
        """The real with these bits."""
        if e in self.patterns:
            return self.patterns[e]
        if e.op == "const":
            return const(_number(int(e.attr), old))
        if e.op == "select" and (leaves(e.args[1], "value") or leaves(e.args[2], "value")):
            a, b = (C(to, self.real_of(x, old, to)) for x in e.args[1:])
            return self.choose(e.args[0], a, b, to).what
        return self.k.opaque(f"real of bits {old.scalar}", [self.word(e)], dtype_of(to))

    # -- operators
    def integer(self, op: str, a: Expr, b: Expr, t: CType) -> Expr:
        if self.is_wild(a) or self.is_wild(b):
            return self.by_bits(op, a, b, t)
        if op not in ("<<", ">>", "&", "|", "^"):
            return super().integer(op, a, b, t)
        if op in ("<<", ">>") and b.op == "const" and 0 <= b.attr < min(63, t.scalar.bits):
            return super().integer(op, a, b, t)
        if a.op == "const" and b.op == "const" and op in ("&", "|", "^"):
            return super().integer(op, a, b, t)
        for x in (a, b):
            if op == "&" and x.op == "const":
                n = int(x.attr)
                if (n >= 0 and n & (n + 1) == 0) or (n < 0 and -n & (-n - 1) == 0):
                    return super().integer(op, a, b, t)
        for x, y in ((a, b), (b, a)):
            if op == "&" and y.op == "const" and y.attr > 0:
                low = int(y.attr) & -int(y.attr)
                high = int(y.attr) + low
                if high & (high - 1) == 0:  # bits that stand side by side
                    return call("mod", x, high) - call("mod", x, low)
        return self.by_bits(op, a, b, t)

    def by_bits(self, op: str, a: Expr, b: Expr, t: CType) -> Expr:
        """An operation as a function with a name; of bits of reals what it does to the real."""
        for x, y in ((a, b), (b, a)):
            v = self.patterns.get(x)
            if v is None or y.op != "const":
                continue
            sign = 1 << (t.scalar.bits - 1)
            n = int(y.attr) % (1 << t.scalar.bits)
            row = {("&", sign - 1): "abs", ("^", sign): "neg"}.get((op, n))
            if row is not None:
                return self.bits_of(C(_real(t), self.k.ew(row, v)), t)
        if op in ("<<", ">>"):
            bits = t.scalar.bits
            low, high = self.interval(b)
            if not (low >= 0 and high < bits) and not leaves(b, "value"):
                inside = call("and", call("le", 0, b), call("lt", b, bits))
                self.check(inside, "wrap", f"{op} by less than {bits} bits")
        return self.named(f"{op} on {t.scalar}", [a, b], t)

    def named(self, name: str, operands: list[Expr], t: CType) -> Expr:
        v = self.k.opaque(name, [self.word(e) for e in operands], dtype_of(t))
        self.wild.add(v)
        return leaf("value", v, "int")

    def word(self, e: Expr) -> Value:
        """An integer as an operand: what it is as a number, whatever type it has."""
        if e.op == "value":
            held: Value = e.attr
            return held
        return self.materialise(e, I64)

    def is_wild(self, e: Expr) -> bool:
        return any(x.attr in self.wild for x in leaves(e, "value"))

    def unary(self, op: str, c: C, type_: CType) -> C:
        e = c.what
        if op in ("~", "-") and isinstance(e, Expr) and e.kind == "int" and self.is_wild(e):
            if op == "~":
                return C(type_, self.by_bits("^", e, const(-1), type_))
            return C(type_, self.by_bits("-", const(0), e, type_))
        return super().unary(op, c, type_)

    def fits(self, e: Expr, t: CType, what: str) -> Expr:
        if self.wild and e.op != "select" and self.is_wild(e):
            low, high = integer_range(dtype_of(t.scalar))
            a, b = self.interval(e)
            if not (low <= a and b <= high):
                return self.named(f"{what} to {t.scalar}", [e], t)
        return super().fits(e, t, what)


def _real(t: CType) -> CType:
    """The real type in the place of an integer one."""
    of = CType("real", t.scalar.bits)
    return CType("vector", of=of, count=t.count) if t.kind == "vector" else of


def _pattern(x: float, t: CType) -> int:
    bits = t.scalar.bits
    kind = "i" if t.scalar.kind == "int" else "u"
    return int(np.asarray([x], f"f{bits // 8}").view(f"{kind}{bits // 8}")[0])


def _number(n: int, t: CType) -> float:
    bits = t.scalar.bits
    word = np.asarray([n % (1 << bits)], f"u{bits // 8}")
    return float(word.view(f"f{bits // 8}")[0])
