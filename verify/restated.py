"""Other ways of writing values that are compared: functions by one function, folds without ends.

Two values that are equal may differ in which function is named and in which of two bounds, a range
or a condition, ends a fold. Here both are written in one way, which is compared once more.
"""

from __future__ import annotations

from opwright.ir.expr import ZERO, Expr, Fold, call, const, reduction, transform, var
from opwright.ir.semantics import ARG_FOLDS
from opwright.verify.reals import Reals

END = var("@end")  # of a range that conditions end: at least whatever they allow


def restated(algebra: Reals, e: Expr) -> Expr:
    """The value with tanh as exponentials, integers that are extremes as real ones, and ranges of
    folds as conditions."""

    def rule(x: Expr) -> Expr | None:
        if x.op == "tanh":  # 1 - 2 / (exp(2 a) + 1)
            below = call("add", call("exp", call("mul", const(2.0), x.args[0])), const(1.0))
            return call("sub", const(1.0), call("div", const(2.0), below))
        if x.op == "toreal" and x.args[0].op in ("max", "min"):
            return call(x.args[0].op, *(call("toreal", a) for a in x.args[0].args))
        if x.op == "fold":
            return unended(x)
        return None

    return algebra.normal(transform(algebra.normal(e), rule))


def unended(x: Expr) -> Expr | None:
    """A fold over 0..hi as one over all indices that are below hi."""
    f = Fold(x)
    if f.kind is None or f.kind not in ("sum", "max", "min", *ARG_FOLDS) or len(f.binders) != 1:
        return None
    ((lo, hi),) = f.ranges
    if lo is not ZERO or hi is END:
        return None
    guard = f.guard & call("lt", var(f.binders[0]), hi)
    return reduction(f.kind, f.binders, ((ZERO, END),), f.term, guard, f.attr.acc)


__all__ = ["restated"]
