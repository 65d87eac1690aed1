"""Choices that are extremes; values that masks make 0 and that are never negative, whose
extremes are those of what masks leave."""

from __future__ import annotations

from opwright.ir.expr import Expr, call, conjunction, conjuncts, const


def masked_extreme(kind: str, e: Expr) -> Expr | None:
    """The terms of a maximum that are 0 where a mask fails, and at least 0 where it holds, with
    nothing where it fails; the maximum of these and of 0 is the same, if there are any terms. The
    other way round for a minimum. None where no mask does that."""
    if kind not in ("max", "min") or e.kind != "real" or not signed(e, kind == "max"):
        return None
    conditions = list(dict.fromkeys(zero_without(e)))
    if not conditions:
        return None
    nothing = const(float("-inf") if kind == "max" else float("inf"))
    return call("select", conjunction(conditions), e, nothing)


def zero_without(e: Expr) -> list[Expr]:
    """Conditions without each of which a value is 0."""
    if e.op in ("abs", "neg", "cast", "sqrt"):
        return zero_without(e.args[0])
    if e.op == "select" and _zero(e.args[2]):
        return [*conjuncts(e.args[0]), *zero_without(e.args[1])]
    if e.op == "mul":
        return [c for a in e.args for c in zero_without(a)]
    if e.op == "div":
        return zero_without(e.args[0])
    if e.op in ("max", "min") and any(_zero(a) for a in e.args):
        return [c for a in e.args for c in zero_without(a)]
    return []


def signed(e: Expr, up: bool) -> bool:
    """Whether a value is seen to be at least 0; at most 0 where not `up`."""
    if e.op == "const":
        return e.kind == "real" and (e.attr >= 0 if up else e.attr <= 0)
    if e.op == "neg":
        return signed(e.args[0], not up)
    if e.op == "select":
        return all(signed(a, up) for a in e.args[1:])
    if e.op in ("max", "min"):
        some = any if (e.op == "max") == up else all
        return some(signed(a, up) for a in e.args)
    if e.op in ("add", "fma"):
        parts = e.args if e.op == "add" else (call("mul", *e.args[:2]), e.args[2])
        return all(signed(a, up) for a in parts)
    if e.op == "mul":
        a, b = e.args
        if a is b:
            return up
        return any(signed(a, x) and signed(b, x == up) for x in (True, False))
    if not up:
        return False
    if e.op == "cast":
        return signed(e.args[0], up)
    return e.op in ("abs", "exp", "exp2", "sqrt")


def choice_as_extreme(e: Expr) -> Expr | None:
    """A choice of the larger (or the smaller) of two numbers, however its comparison is written, as
    the extreme that it is."""
    if e.op != "select" or e.kind != "real":
        return None
    cond, one, two = e.args
    holds = True
    if cond.op == "not":
        cond, holds = cond.args[0], False
    if cond.op not in ("lt", "le") or cond.args[0].kind != "real":
        return None
    a, b = cond.args
    low, high = (one, two) if holds else (two, one)  # where a <= b, and where b <= a
    if at_most(low, high, a, b) and at_most(high, low, b, a):
        return call("min", one, two)
    if at_most(high, low, a, b) and at_most(low, high, b, a):
        return call("max", one, two)
    return None


def at_most(x: Expr, y: Expr, a: Expr, b: Expr) -> bool:
    """Whether x <= y is seen, where a <= b."""
    if x is y or (x is a and y is b):
        return True
    if x.op == "const" and y.op == "const":
        return bool(x.attr <= y.attr)
    if x.op == "max" and all(at_most(z, y, a, b) for z in x.args):
        return True
    if x.op == "min" and any(at_most(z, y, a, b) for z in x.args):
        return True
    if y.op == "min" and all(at_most(x, z, a, b) for z in y.args):
        return True
    return y.op == "max" and any(at_most(x, z, a, b) for z in y.args)


def _zero(e: Expr) -> bool:
    return e.op == "const" and e.kind == "real" and e.attr == 0


__all__ = ["choice_as_extreme", "masked_extreme", "signed", "zero_without"]
