"""Integer index expressions of kernels: bounds that show without a solver, quotients of what splits
(a thread index is 32 times its warp and its lane)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from opwright.ir.expr import ZERO, Expr, call, const
from opwright.ir.op import DEFAULT_DIM_LIMIT
from opwright.ir.polynomial import Polynomial, expression, polynomial

Range = tuple[int | None, int | None]
GRID = 2**31 - 1  # programs along an axis


def bounds(e: Expr, known: Mapping[Expr, Range]) -> Range:
    """Constant bounds of an expression, None where there is none."""
    if e in known:
        return known[e]
    if e.op == "const":
        return (int(e.attr), int(e.attr))
    if e.op == "lane":
        return 0, e.attr.extent - 1
    if e.op == "pid":
        return 0, GRID - 1
    if e.op == "size":
        return 0, DEFAULT_DIM_LIMIT
    if e.op in ("add", "sub", "mul", "neg"):
        return _sums(polynomial(e), known)
    if e.op in ("min", "max", "floordiv", "mod", "select"):
        args = [bounds(a, known) for a in e.args if a.kind == "int"]
        return _others(e.op, args)
    return None, None


def _others(op: str, args: list[Range]) -> Range:
    (a, b), (c, d) = args
    if op == "min":
        return (None if a is None or c is None else min(a, c)), _least(b, d)
    if op == "max":
        known = [x for x in (a, c) if x is not None]
        return (max(known) if known else None), (None if b is None or d is None else max(b, d))
    if op == "select":
        low = None if a is None or c is None else min(a, c)
        return low, (None if b is None or d is None else max(b, d))
    if op == "mod":
        if c is None or c <= 0:
            return None, None
        small = a is not None and a >= 0
        return 0, _least(None if d is None else d - 1, b if small else None)
    if c is None or c <= 0:
        return None, None
    if a is not None and a >= 0:
        return 0, None if b is None else b // c
    if c == d:
        return (None if a is None else a // c), (None if b is None else b // c)
    return None, None


def _least(a: int | None, b: int | None) -> int | None:
    found = [x for x in (a, b) if x is not None]
    return min(found) if found else None


def _sums(p: Polynomial, known: Mapping[Expr, Range]) -> Range:
    low: int | None = 0
    high: int | None = 0
    for m, c in p.items():
        a: int | None = 1
        b: int | None = 1
        for f in m:
            x, y = bounds(f, known) if f.op not in ("add", "sub", "mul", "neg") else (None, None)
            if x is None or x < 0 or a is None:
                a = None
                b = None if x is None or x < 0 else b
                if len(m) == 1:
                    a, b = x, y
                continue
            a, b = a * x, (None if b is None or y is None else b * y)
        if c < 0:
            a, b = b, a
        low = None if low is None or a is None else low + c * a
        high = None if high is None or b is None else high + c * b
    return low, high


def _split(a: Expr, c: int, known: Mapping[Expr, Range]) -> tuple[Expr, Expr]:
    """q and r with a == c * q + r, the part of a that c divides in q."""
    whole: Polynomial = {}
    rest: Polynomial = {}
    for m, k in polynomial(a).items():
        q = k // c
        if m == ():
            whole, rest = ({**whole, m: q} if q else whole), ({**rest, m: k % c} if k % c else rest)
        elif k % c == 0:
            whole[m] = q
        else:
            rest[m] = k
    return expression(whole), expression(rest)


def divide(a: Expr, b: Expr, known: Mapping[Expr, Range]) -> Expr:
    """a / b, rounded down."""
    if b.op != "const" or b.attr <= 0:
        return a // b
    q, r = _split(a, b.attr, known)
    low, high = bounds(r, known)
    if low is not None and low >= 0 and high is not None and high < b.attr:
        return q
    return q + r // b


def remainder(a: Expr, b: Expr, known: Mapping[Expr, Range]) -> Expr:
    """a modulo b, which is not negative."""
    if b.op != "const" or b.attr <= 0:
        return a % b
    _, r = _split(a, b.attr, known)
    low, high = bounds(r, known)
    if low is not None and low >= 0 and high is not None and high < b.attr:
        return r
    return r % b if r is not ZERO else ZERO


def bits_of(a: Expr, c: int, known: Mapping[Expr, Range]) -> Iterator[tuple[int, Expr]]:
    """The bits of a number at which a constant has ones."""
    for n in range(c.bit_length()):
        if c >> n & 1:
            yield n, remainder(divide(a, const(1 << n), known), const(2), known)


def ceiling(a: Expr, b: Expr, known: Mapping[Expr, Range]) -> Expr:
    """a / b, rounded up; b is positive."""
    return divide(call("add", a, b - 1), b, known)
