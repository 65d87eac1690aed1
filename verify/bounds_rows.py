"""Errors of the rows of the semantics table: rounding, and what the operands' errors become."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from opwright.ir.dtypes import F32
from opwright.ir.expr import Expr, call, const, toreal
from opwright.verify.bounds_terms import (
    NOTHING,
    UNBOUNDED,
    is_number,
    plus,
    power_of_two,
    times,
    unit,
)

if TYPE_CHECKING:
    from opwright.verify.bounds_rules import Rules

Rule = Callable[["Rules", Expr, str], Expr]


def _sum(r: Rules, x: Expr, mode: str) -> Expr:
    a, b = x.args
    parts = [r.operand(x, 0, mode), r.operand(x, 1, mode)]
    if x.kind == "real" and not (is_number(a, 0.0) or is_number(b, 0.0)):
        parts.append(r.rounding(x, plus([r.magnitude(a), r.magnitude(b)])))
    return plus(parts)


def _mul(r: Rules, x: Expr, mode: str) -> Expr:
    a, b = x.args
    ea, eb = r.operand(x, 0, mode), r.operand(x, 1, mode)
    p, q = (toreal(n) if n.kind == "int" else n for n in (a, b))
    parts = [times(r.magnitude(p), eb), times(r.magnitude(q), ea)]
    if ea is not NOTHING and eb is not NOTHING and "const" not in (ea.op, eb.op):
        parts.append(times(ea, eb))
    if x.kind == "real" and not (power_of_two(a) or power_of_two(b)):
        parts.append(r.rounding(x))
    return plus(parts)


def _div(r: Rules, x: Expr, mode: str) -> Expr:
    b = x.args[1]
    ea, eb = r.operand(x, 0, mode), r.operand(x, 1, mode)
    own = NOTHING if power_of_two(b) else r.rounding(x)
    if eb is NOTHING:
        return plus([NOTHING if ea is NOTHING else call("div", ea, r.magnitude(b)), own])
    size = r.magnitude(b)
    moved = call("div", plus([ea, times(r.magnitude(x), eb)]), size - eb)
    if b.op == "const":
        return plus([moved, own])
    return plus([call("select", call("lt", eb, size), moved, UNBOUNDED), own])


def _fma(r: Rules, x: Expr, mode: str) -> Expr:
    a, b, c = x.args
    ea, eb, ec = (r.operand(x, n, mode) for n in range(3))
    product = times(r.magnitude(a), r.magnitude(b))
    return plus([times(r.magnitude(a), eb), times(r.magnitude(b), ea), ec,
                  r.rounding(x, plus([product, r.magnitude(c)]))])  # fmt: skip


def _same(r: Rules, x: Expr, mode: str) -> Expr:
    return r.error(x.args[0], mode)


def _larger(r: Rules, x: Expr, mode: str) -> Expr:
    a, b = r.operand(x, 0, mode), r.operand(x, 1, mode)
    if a is NOTHING or a is b:
        return b
    return a if b is NOTHING else call("max", a, b)


def _grown(factor: float, offset: float) -> Rule:
    """exp and its kin: e^(a + e) - e^a = e^a (e^e - 1); what is 0 stays 0."""

    def rule(r: Rules, x: Expr, mode: str) -> Expr:
        e = r.operand(x, 0, mode)
        size = x if offset == 0 else x + offset
        parts = [r.rounding(x)]
        if e is not NOTHING:
            parts.insert(0, times(size, call("expm1", times(const(factor), e))))
        found = plus(parts)
        if e is NOTHING or e.op == "const" or offset:
            return found
        return call("select", call("eq", x, 0.0), NOTHING, found)

    return rule


def _log(factor: float, offset: float) -> Rule:
    """log(a) - log(a - e) = -log(1 - e / a)."""

    def rule(r: Rules, x: Expr, mode: str) -> Expr:
        e = r.operand(x, 0, mode)
        if e is NOTHING:
            return r.rounding(x)
        a = x.args[0] if offset == 0 else x.args[0] + offset
        moved = times(const(factor), -call("log1p", -call("div", e, a)))
        return plus([call("select", call("lt", e, a), moved, UNBOUNDED), r.rounding(x)])

    return rule


def _sqrt(r: Rules, x: Expr, mode: str) -> Expr:
    a, e = x.args[0], r.operand(x, 0, mode)
    if e is NOTHING:
        return r.rounding(x)
    moved = call("div", e, x + call("sqrt", a - e))
    return plus([call("select", call("lt", e, a), moved, call("sqrt", e)), r.rounding(x)])


def _rsqrt(r: Rules, x: Expr, mode: str) -> Expr:
    a, e = x.args[0], r.operand(x, 0, mode)
    if e is NOTHING:
        return r.rounding(x)
    moved = call("rsqrt", a - e) - x
    return plus([call("select", call("lt", e, a), moved, UNBOUNDED), r.rounding(x)])


def _slope(bound: Callable[[Expr, Expr, Expr], Expr], most: float = math.inf) -> Rule:
    """A smooth function: the error times the largest slope nearby, from (x, argument, error); no
    more than how far values lie apart at all."""

    def rule(r: Rules, x: Expr, mode: str) -> Expr:
        e = r.operand(x, 0, mode)
        moved = NOTHING if e is NOTHING else times(bound(x, x.args[0], e), e)
        if moved is not NOTHING and e.op != "const" and most < math.inf:
            moved = call("min", moved, most)
        return plus([moved, r.rounding(x)])

    return rule


def _nearest_to_zero(a: Expr, e: Expr) -> Expr:
    return call("max", call("abs", a) - e, 0.0)


def _square(x: Expr) -> Expr:
    return call("mul", x, x)


def _bell(s: Expr) -> Expr:
    """s (1 - s), for an s that is small where the product is."""
    return call("mul", s, 1.0 - s)


def _arc(r: Rules, x: Expr, mode: str) -> Expr:
    """asin and acos, whose slope has no bound at 1."""
    a, e = x.args[0], r.operand(x, 0, mode)
    if e is NOTHING:
        return r.rounding(x)
    far = call("abs", a) + e
    inside = call("mul", e, call("rsqrt", 1.0 - _square(far)))
    edge = call("mul", math.pi, call("sqrt", e))
    return plus([call("select", call("lt", far, 1.0), inside, edge), r.rounding(x)])


def _pow(r: Rules, x: Expr, mode: str) -> Expr:
    """Also by way of a logarithm, whose product with the exponent is rounded."""
    a, b = x.args
    ea, eb = r.operand(x, 0, mode), r.operand(x, 1, mode)
    size = call("abs", x)
    if b.op == "const" and float(b.attr).is_integer() and 0 < b.attr <= 4:
        parts = [r.rounding(x)]
    else:
        scale = const(8 * unit(r.precision(x) or F32))
        power = call("abs", call("mul", b, call("log", call("abs", a))))
        parts = [times(size, times(scale, power)), r.rounding(x)]
        if eb is not NOTHING:
            parts.append(times(size, times(call("abs", call("log", call("abs", a))), eb)))
    if ea is not NOTHING:
        rest = call("abs", call("mul", b, call("pow", call("abs", a), b - 1.0)))
        parts.append(times(rest, ea))
    found = plus(parts)
    return call("select", call("eq", a, 0.0), ea, found) if a.op != "const" else found


def _normal(r: Rules, x: Expr, mode: str) -> Expr:
    return r.rounding(x, call("max", call("abs", x), 1.0), 4.0)


def _none(r: Rules, x: Expr, mode: str) -> Expr:
    return NOTHING


ROW_RULES: dict[str, Rule] = {
    "add": _sum,
    "sub": _sum,
    "mul": _mul,
    "div": _div,
    "fma": _fma,
    "neg": _same,
    "abs": _same,
    "min": _larger,
    "max": _larger,
    "pow": _pow,
    "exp": _grown(1.0, 0.0),
    "exp2": _grown(math.log(2), 0.0),
    "expm1": _grown(1.0, 1.0),
    "log": _log(1.0, 0.0),
    "log2": _log(1 / math.log(2), 0.0),
    "log1p": _log(1.0, 1.0),
    "sqrt": _sqrt,
    "rsqrt": _rsqrt,
    "sin": _slope(lambda x, a, e: const(1.0), 2.0),
    "cos": _slope(lambda x, a, e: const(1.0), 2.0),
    "tan": _slope(lambda x, a, e: call("exp", 2.0 * e * (call("abs", x) + 1.0))
                  * (_square(x) + 1.0)),
    "sinh": _slope(lambda x, a, e: (call("abs", x) + 1.0) * call("exp", e)),
    "cosh": _slope(lambda x, a, e: call("mul", x, call("exp", e))),
    "tanh": _slope(
        lambda x, a, e: 1.0 - _square(call("tanh", _nearest_to_zero(a, e))), 2.0),
    "asin": _arc,
    "acos": _arc,
    "atan": _slope(
        lambda x, a, e: call("div", 1.0, 1.0 + _square(_nearest_to_zero(a, e))), math.pi),
    "erf": _slope(lambda x, a, e: call(
        "mul", 2 / math.sqrt(math.pi), call("exp", -_square(_nearest_to_zero(a, e)))), 2.0),
    "sigmoid": _slope(lambda x, a, e: _bell(call("sigmoid", -_nearest_to_zero(a, e))), 1.0),
    "randn": _normal,
    "rand": _none,
}  # fmt: skip
