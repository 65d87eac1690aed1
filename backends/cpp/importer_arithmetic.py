"""Conversions and operators of C++ numbers, read symbolically."""

from __future__ import annotations

from typing import Any

import numpy as np

from opwright.backends.cpp.clang import CType
from opwright.backends.cpp.importer_polynomials import apart, tidy
from opwright.backends.cpp.importer_values import WIDE, C, Elements, Pointer, Values, dtype_of
from opwright.ir.dtypes import BOOL, DTYPES, F32, I64, integer_range
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
)
from opwright.ir.tile import Value, lanes


class Arithmetic(Values):
    """What casts and operators make of values."""

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
        if c.type.kind == "array" and to.kind == "pointer":
            return C(to, c.what)
        if isinstance(c.what, Pointer) and old is not None and to.of is not None:
            if to.of.kind == "void":
                return C(CType("pointer", c.type.bits, old), c.what)
            if old == to.of or old.kind == "void":
                return C(to, c.what)
            arrays = "array" in (old.kind, to.of.kind) or self.holds_vectors(c.what)
            if old.scalar == to.of.scalar and not arrays:
                return C(to, c.what)
        raise self.refuse(f"a {c.type} as a {to}: type punning is not understood")

    def holds_vectors(self, p: Pointer) -> bool:
        """Whether a pointer steps through an array of vectors."""
        return False

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
        e = self.number(c)
        low, high = integer_range(dtype_of(kind))
        a, b = self.interval(e)
        if self.contract and not (low <= a and b <= high):
            v = self.materialise(e, dtype_of(kind))  # what is printed so wraps
            return leaf("value", v, "int")
        return self.fits(e, kind, "a conversion")

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
            return self.logic(op, a, b, type_)
        if type_.scalar.kind == "real":
            return C(type_, self.real_binary(op, a, b, type_))
        return C(type_, self.integer(op, self.number(a), self.number(b), type_))

    def logic(self, op: str, a: C, b: C, type_: CType) -> C:
        """&, | and ^ where one side at least is a truth value."""
        if not self.is_truth(a) or not self.is_truth(b):
            return self.masked(op, a, b, type_)
        x, y = self.truth(a), self.truth(b)
        if op == "^":
            both = call("and", x, call("not", y)), call("and", call("not", x), y)
            return (
                C(type_, call("or", *both))
                if a.type.kind == "vector"
                else self.as_int(call("or", *both), type_)
            )
        e = call("and" if op == "&" else "or", x, y)
        if any(c.what is const(1) for c in (a, b)) and op == "&":  # mask & 1
            return C(type_, call("select", e, 1, 0))
        return C(type_, e) if a.type.kind == "vector" else self.as_int(e, type_)

    def is_truth(self, c: C) -> bool:
        """Whether a number is one of the two that truth values are."""
        if self.kind(c) == "bool":
            return True
        e = c.what
        return isinstance(e, Expr) and (
            e in ((ZERO, const(-1)) if c.type.kind == "vector" else (ZERO, const(1)))
            or (e.op == "select" and e.args[1:] == (const(1), ZERO) and c.type.kind != "vector")
        )

    def masked(self, op: str, a: C, b: C, type_: CType) -> C:
        """A number and a truth value, which is all ones in a vector and 1 outside of one."""
        if self.kind(a) == "bool":
            a, b = b, a
        if isinstance(a.what, Value) or isinstance(b.what, Value):
            raise self.refuse(f"{op} on {type_}")
        x, cond = self.number(a), self.truth(b)
        if type_.kind == "vector":
            other = {"&": ZERO, "|": const(-1), "^": -x - 1}[op]
            kept, gone = (x, other) if op == "&" else (other, x)
            if op != "&" and type_.scalar.kind == "uint":
                raise self.refuse(f"{op} of an unsigned number and a comparison")
            return C(type_, call("select", cond, kept, gone))
        if op == "&":
            return C(type_, call("select", cond, call("mod", x, 2), 0))
        raise self.refuse(f"{op} of a number and a truth value")

    def as_int(self, e: Expr, t: CType) -> C:
        return C(t, e if t.kind == "bool" else call("select", e, 1, 0))

    def kind(self, c: C) -> str:
        return c.what.kind if isinstance(c.what, Expr) else "real"

    def pointer_arithmetic(self, op: str, a: C, b: C, type_: CType) -> C:
        if isinstance(b.what, Pointer) and op == "+":
            a, b = b, a
        p, q = a.what, b.what
        if isinstance(p, Pointer) and isinstance(q, Pointer):
            if (p.buffer, p.lead) != (q.buffer, q.lead):
                raise self.refuse("comparing or subtracting pointers into different memory")
            if op == "-" and self.elements(p, a.type) > 1:
                raise self.refuse("the difference of pointers to vectors")
            if op == "-":
                return C(type_, tidy(p.offset - q.offset))
            x, y = apart(p.offset, q.offset)
            return self.binary(op, C(WIDE, x), C(WIDE, y), type_)
        if not isinstance(p, Pointer) or op not in "+-":
            raise self.refuse("a pointer where a number is needed")
        e = self.number(b) * self.elements(p, a.type)
        return C(a.type, Pointer(p.buffer, p.lead, p.offset + e if op == "+" else p.offset - e))

    def elements(self, p: Pointer, t: CType) -> int:
        """How many elements a pointer of a type passes in one step."""
        return t.of.count if t.of is not None and t.of.kind == "vector" else 1

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
        if isinstance(a.what, Elements) or isinstance(b.what, Elements):
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
