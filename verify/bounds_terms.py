"""Expressions of error bounds: sums and products that drop what is neutral, units of rounding.

Sums are kept flat and constants in front, so that a bound reads like a formula and a sum of it is
split into contractions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from opwright.ir.dtypes import DType, decode, encode
from opwright.ir.expr import Expr, call, const

ERR, DEV = "err", "dev"
NOTHING = const(0.0)
UNBOUNDED = const(math.inf)
# units in the last place that a fast implementation may need beside the row's own
GENEROUS = {"div": 2.0, "sqrt": 1.0}
WHOLE = 2**24  # integers up to here are exact in f32
JUMPS = ("floor", "ceil", "trunc", "nearest")
NONNEGATIVE = ("exp", "exp2", "sqrt", "rsqrt", "sigmoid", "cosh", "abs", "rand")


class NotDerivable(ValueError):
    """Why no bound follows from an operator."""


def unit(d: DType) -> float:
    """Largest relative error of one rounding to nearest."""
    return 2.0 ** -(d.mantissa + 1)


def storage(d: DType, bits: int, value: Expr) -> Expr:
    """What storing a value costs that was computed with more fraction bits."""
    if d.kind != "real" or bits <= d.mantissa:
        return NOTHING
    relative = times(const(unit(d)), call("abs", value))
    if d.exponent >= 8:
        return relative
    return call("max", relative, 2.0 ** (-d.bias - d.mantissa))


def is_number(x: Expr, value: float) -> bool:
    return x.op == "const" and x.kind == "real" and x.attr == value


def times(a: Expr, b: Expr) -> Expr:
    """A product without zeros and ones, its constants in front."""
    if a is NOTHING or b is NOTHING:
        return NOTHING
    if is_number(a, 1.0):
        return b
    if is_number(b, 1.0):
        return a
    if b.op == "const" and a.op != "const":
        a, b = b, a
    if a.op == "const" and b.op == "const":
        return const(a.attr * b.attr)
    if a.op == "const" and b.op == "mul" and b.args[0].op == "const":
        return call("mul", const(a.attr * b.args[0].attr), b.args[1])
    if b.op == "mul" and b.args[0].op == "const":
        return call("mul", b.args[0], call("mul", a, b.args[1]))
    if a.op == "mul" and a.args[0].op == "const":
        return call("mul", a.args[0], times(a.args[1], b))
    return call("mul", a, b)


def plus(parts: Iterable[Expr]) -> Expr:
    """A sum without zeros; equal terms are counted."""
    shares: dict[Expr, float] = {}
    for p in parts:
        for s in summands(p):
            factor, rest = split(s)
            shares[rest] = shares.get(rest, 0.0) + factor
    out: Expr | None = None
    for rest, factor in shares.items():
        term = times(const(factor), rest)
        if term is not NOTHING:
            out = term if out is None else call("add", out, term)
    return NOTHING if out is None else out


def split(x: Expr) -> tuple[float, Expr]:
    if x.op == "const":
        return float(x.attr), const(1.0)
    if x.op == "mul" and x.args[0].op == "const":
        return float(x.args[0].attr), x.args[1]
    return 1.0, x


def summands(x: Expr) -> list[Expr]:
    if x.op == "add":
        return [*summands(x.args[0]), *summands(x.args[1])]
    return [] if x is NOTHING else [x]


def factors(x: Expr) -> list[Expr]:
    return [*factors(x.args[0]), *factors(x.args[1])] if x.op == "mul" else [x]


def product(parts: Iterable[Expr]) -> Expr:
    out = const(1.0)
    for p in parts:
        out = times(out, p)
    return out


def either(a: Expr, b: Expr) -> Expr:
    return call("or", a, b)


def exactly(value: float, d: DType) -> bool:
    if not math.isfinite(value):
        return True
    return float(decode(encode(np.array([value]), d), d)[0]) == value


def power_of_two(x: Expr) -> bool:
    return x.op == "const" and x.attr != 0 and abs(math.frexp(float(x.attr))[0]) == 0.5


def wider(a: DType | None, b: DType) -> DType:
    return b if a is None or a.mantissa < b.mantissa else a
