"""How a loop's state is carried: what it combines, and by what a sum moves when its anchors do."""

from __future__ import annotations

from collections.abc import Mapping

from opwright.ir.expr import (
    FALSE,
    TRUE,
    Expr,
    Fold,
    call,
    const,
    neutral,
    rebuild,
    reduction,
    show,
    substitute,
    transform,
    var,
    walk,
)
from opwright.ir.semantics import MONOIDS
from opwright.verify.nests import nonzero

CHOICES = 8  # of conditions that are known at once


class NotCarried(Exception):
    """No reduction that is known makes the state, in words."""


def combined(y: Expr, own: Expr) -> tuple[str, Expr]:
    """(monoid, term) with y = own combined with the term."""
    for kind in ("sum", "max", "min", "prod", "any", "all"):
        if (kind in ("any", "all")) != (y.kind == "bool"):
            continue
        term = _peeled(y, own, kind)
        if term is not None:
            return kind, term
    raise NotCarried(f"{own.attr.partition('.')[0]} is carried by no plain reduction")


def _peeled(y: Expr, own: Expr, kind: str) -> Expr | None:
    if y is own:
        return neutral(kind, y.kind)
    if all(x is not own for x in walk(y)):
        return None

    def without(e: Expr) -> bool:
        return all(x is not own for x in walk(e))

    if (choice := _choice(y)) is not None and without(choice[0]):
        c, *both = choice
        one, two = (_peeled(a, own, kind) for a in both)
        if one is not None and two is not None:
            return (c & one) | (~c & two)
    if y.op == "select" and without(y.args[0]):
        sides = [_peeled(a, own, kind) for a in y.args[1:]]
        if sides[0] is not None and sides[1] is not None:
            return call("select", y.args[0], sides[0], sides[1])
    if y.op == MONOIDS[kind].row:
        for a, b in (y.args, y.args[::-1]):
            if without(b):
                inner = _peeled(a, own, kind)
                if inner is not None:
                    return b if inner is neutral(kind, y.kind) else call(y.op, inner, b)
    if kind == "sum" and y.op == "sub" and without(y.args[1]):
        inner = _peeled(y.args[0], own, kind)
        return None if inner is None else call("sub", inner, y.args[1])
    if kind == "sum" and y.op == "fma" and without(y.args[0]) and without(y.args[1]):
        inner = _peeled(y.args[2], own, kind)
        product = call("mul", y.args[0], y.args[1])
        if inner is not None:
            return product if inner is neutral(kind, y.kind) else call("add", inner, product)
    if y.op == "select" and y.args[0].op in ("lt", "le") and kind in ("max", "min"):
        a, b = y.args[0].args
        chosen, other = y.args[1:]
        if {a, b} == {chosen, other} and own in (a, b):
            larger = chosen is b  # a < b chooses b
            if larger == (kind == "max"):
                return b if a is own else a
    return None


def _choice(y: Expr) -> tuple[Expr, Expr, Expr] | None:
    """(c, a, b) of a choice of truth values: c and a, or not c and b."""
    if y.op != "or" or any(x.op != "and" for x in y.args):
        return None
    (c, a), (d, b) = (x.args for x in y.args)
    return (c, a, b) if d is call("not", c) else None


def guards(kind: str, e: Expr) -> set[Expr]:
    """Conditions without which an element counts for nothing, whatever its index is called."""
    found = nonzero(kind, e)
    while e.op == "fold" and Fold(e).kind == kind and len(Fold(e).binders) == 1:
        f = Fold(e)
        e = substitute(f.term, {var(f.binders[0]): var("?")})
        found += nonzero(kind, e)
    return {_sorted(c) for c in found}


def guarded(e: Expr) -> Expr:
    """An extreme with the conditions of its elements as its guard."""
    if e.op != "fold" or Fold(e).kind not in ("max", "min"):
        return e
    f = Fold(e)
    assert f.kind is not None
    guard, term = f.guard, f.term
    while term.op == "select" and term.args[2] is neutral(f.kind, term.kind):
        guard, term = guard & term.args[0], term.args[1]
    return reduction(f.kind, f.binders, f.ranges, term, guard)


def _sorted(c: Expr) -> Expr:
    """A comparison of integers with the terms of its sides in one order."""

    def rule(x: Expr) -> Expr | None:
        if x.op == "add" and x.kind == "int":
            terms = sorted(_terms(x), key=show)
            out = terms[0]
            for t in terms[1:]:
                out = out + t
            return out
        return None

    return transform(c, rule)


def _terms(e: Expr) -> list[Expr]:
    return [t for a in e.args for t in _terms(a)] if e.op == "add" else [e]


def masked(moved: Mapping[Expr, Expr]) -> dict[Expr, dict[Expr, Expr]]:
    """By condition, what new anchors are written as where it holds."""
    out: dict[Expr, dict[Expr, Expr]] = {}
    for step, after in moved.items():
        if step.op == "select":
            out.setdefault(step.args[0], {})[step.args[1]] = after
    return out


def settled(e: Expr, written: Mapping[Expr, Mapping[Expr, Expr]] | None = None) -> Expr:
    """The branches of choices under what their conditions say; `written` has values that are known
    by another name where a condition holds."""
    memo: dict[tuple[Expr, frozenset[tuple[Expr, Expr]]], Expr] = {}

    def go(x: Expr, known: frozenset[tuple[Expr, Expr]]) -> Expr:
        at = (x, known)
        if at not in memo:
            found = next((v for c, v in known if c is x), None)
            if found is not None:
                memo[at] = found
            elif x.op == "select" and len(known) < CHOICES:
                c = go(x.args[0], known)
                sides = []
                for b, truth in zip(x.args[1:], (TRUE, FALSE), strict=True):
                    if truth is TRUE and written and c in written:
                        b = transform(b, written[c].get)
                    sides.append(go(b, known | {(c, truth)}) if c.op != "const" else go(b, known))
                memo[at] = call("select", c, *sides)
            else:
                memo[at] = rebuild(x, tuple(go(a, known) for a in x.args))
        return memo[at]

    return go(e, frozenset())


def linear_in(y: Expr, own: Expr) -> tuple[Expr, Expr] | None:
    """(c, d) with y = own * c + d and both free of own."""
    one, zero = const(1.0), const(0.0)

    def times(a: Expr, b: Expr) -> Expr:
        return zero if zero in (a, b) else b if a is one else call("mul", a, b)

    def plus(a: Expr, b: Expr) -> Expr:
        return b if a is zero else a if b is zero else call("add", a, b)

    if y is own:
        return one, zero
    if all(x is not own for x in walk(y)):
        return zero, y
    sides = [linear_in(a, own) for a in y.args]
    if y.op in ("add", "sub") and None not in sides:
        (a, b), (c, d) = sides  # type: ignore[misc]
        if y.op == "sub":
            c, d = call("neg", c), call("neg", d)
        return plus(a, c), plus(b, d)
    if y.op == "neg" and sides[0] is not None:
        return call("neg", sides[0][0]), call("neg", sides[0][1])
    if y.op in ("mul", "fma"):
        for n in (0, 1):
            side, other = sides[n], y.args[1 - n]
            if side is None or any(x is own for x in walk(other)):
                continue
            c, d = (times(x, other) for x in side)
            if y.op == "mul":
                return c, d
            last = sides[2]
            return None if last is None else (plus(c, last[0]), plus(d, last[1]))
        return None
    if y.op == "div" and sides[0] is not None and all(x is not own for x in walk(y.args[1])):
        return call("div", sides[0][0], y.args[1]), call("div", sides[0][1], y.args[1])
    if y.op == "select" and all(x is not own for x in walk(y.args[0])):
        if sides[1] is None or sides[2] is None:
            return None
        c, d = (call("select", y.args[0], sides[1][k], sides[2][k]) for k in (0, 1))
        return c, d
    return None
