"""How often loops run at most: what memory that every trip has of its own is sized by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from opwright.backends.cpp.importer_polynomials import exact, tidy
from opwright.ir.expr import ZERO, Expr, call, leaves, maximum, substitute, walk
from opwright.ir.polynomial import polynomial


@dataclass(frozen=True, slots=True)
class Trip:
    """A loop that is being read: `variable` = lo, lo + step, ... below hi."""

    variable: Expr
    lo: Expr
    hi: Expr
    step: int = 1


def most(trip: Trip, around: Sequence[Trip]) -> Expr | None:
    """A number of trips of a loop that no trip of the loops around exceeds; None if none is
    evident."""
    found: Expr | None = trip.hi - trip.lo
    for outer in reversed(around):
        found = None if found is None else _extreme(found, outer, True)
    if found is None or leaves(found, "value", "lane"):
        return None
    return maximum(tidy(found), ZERO)


def stays(cond: Expr, trips: Sequence[Trip], natural: Callable[[Expr], bool]) -> bool:
    """Whether a condition that holds in one trip of nested loops holds in all that follow.

    `natural` says what is evidently not negative."""
    if cond.op == "or":
        return all(stays(c, trips, natural) for c in cond.args)
    if cond.op == "not" and cond.args[0].op in ("lt", "le"):
        b, a = cond.args[0].args
    elif cond.op in ("lt", "le"):
        a, b = cond.args
    else:
        return False
    gap = tidy(b - a)  # that it does not shrink is enough
    for n, trip in enumerate(trips):
        first, last = gap, gap
        for inner in reversed(trips[n + 1 :]):
            first = substitute(first, {inner.variable: inner.lo})
            whole = exact(inner.hi - inner.lo, inner.step) is not None
            end = inner.hi - (inner.step if whole else 1)
            last = substitute(last, {inner.variable: end})
        after = substitute(first, {trip.variable: trip.variable + trip.step})
        if not natural(tidy(after - last)):
            return False
        rises = substitute(gap, {trip.variable: trip.variable + trip.step})
        if not natural(tidy(rises - gap)):
            return False
    return True


def _extreme(e: Expr, trip: Trip, up: bool) -> Expr | None:
    """A bound of an expression from above (`up`) or below over all trips of a loop."""
    v = trip.variable
    if v not in walk(e):
        return e
    p = polynomial(e)
    for m, c in p.items():
        for x in m:
            if x is v or v not in walk(x):
                continue
            grows = (c > 0) == up
            if len(m) > 1:
                return None
            if x.op in ("min", "max"):
                sides = [_extreme(substitute(e, {x: a}), trip, up) for a in x.args]
                if (x.op == "min") == grows:  # the expression is within either side
                    known = [s for s in sides if s is not None]
                    return next((s for s in known if s.op == "const"), known[0] if known else None)
                if sides[0] is None or sides[1] is None:
                    return None
                return call("max" if up else "min", sides[0], sides[1])
            if x.op == "floordiv" and x.args[1].op == "const":
                inner = _extreme(x.args[0], trip, grows)
                if inner is None:
                    return None
                inner = call("floordiv", inner, x.args[1])
                return _extreme(substitute(e, {x: inner}), trip, up)
            return None
    weight = p.get((v,), 0)
    if any(v in m and len(m) > 1 for m in p):
        return None
    end = trip.hi - 1 if (weight > 0) == up else trip.lo
    return tidy(substitute(e, {v: end}))
