"""Counts of indices that others of the same nest move: how often a program comes round that takes
every so many-th element, for all programs alike, where what it would take beyond is nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from opwright.ir.expr import ZERO, Expr, free_vars, substitute, var
from opwright.verify.algebra import UNIT, Poly, scaled
from opwright.verify.reals import Reals

if TYPE_CHECKING:
    from opwright.verify.nests import Nest


def widened(algebra: Reals, nest: Nest, tidy: Callable[[Expr], Expr]) -> Nest:
    """The nest with counts that no other index of it moves, as far as that is shown."""
    names = {i.name for i in nest.indices}
    if not any(free_vars(i.count) & (names - {i.name}) for i in nest.indices):
        return nest
    from opwright.verify.nests import nonzero

    out = []
    with ExitStack() as inside:
        for i in nest.indices:
            inside.enter_context(algebra.binding(i.name, (ZERO, i.count)))
        conditions = nonzero(nest.kind, tidy(nest.term))
        for i in nest.indices:
            moving = free_vars(i.count) & (names - {i.name})
            if moving and any(_ends(algebra, i.name, i.count, c) for c in conditions):
                most = substitute(i.count, {var(n): ZERO for n in moving})
                if _at_least(algebra, most, i.count):
                    i = replace(i, count=algebra.normal(most), unit=0, first=ZERO, reach=ZERO)
            out.append(i)
    return replace(nest, indices=tuple(out))


def _ends(algebra: Reals, name: str, count: Expr, cond: Expr) -> bool:
    """Whether a condition fails from `count` on: with count = c + B // S, a k that is not below is
    at least (B + 1) / S + c - 1, and the condition says S * k <= R."""
    found = _quotient(algebra, count)
    if found is None or cond.op not in ("lt", "le") or cond.args[0].kind != "int":
        return False
    more, top, step = found
    room = algebra.poly(cond.args[1] - cond.args[0] - (1 if cond.op == "lt" else 0))
    rest, slope = algebra._linear(room, var(name))
    if slope is None or algebra.add(slope, step):
        return False
    reached = algebra.add(top, UNIT)
    reached = algebra.add(reached, algebra.multiply(step, algebra.add(more, UNIT, -1)))
    return algebra.nonnegative(algebra.add(algebra.add(reached, rest, -1), UNIT, -1))


def _quotient(algebra: Reals, count: Expr) -> tuple[Poly, Poly, Poly] | None:
    """(c, B, S) with count = c + B // S and S > 0."""
    p = algebra.poly(count)
    for m, k in p.items():
        if len(m) == 1 and m[0][1] == 1 and k == 1 and m[0][0].op == "floordiv":
            top, step = (algebra.poly(x) for x in m[0][0].args)
            return {n: d for n, d in p.items() if n != m}, top, step
    return None


def _at_least(algebra: Reals, a: Expr, b: Expr) -> bool:
    """a >= b, also of quotients by one number."""
    one, two = _quotient(algebra, a), _quotient(algebra, b)
    if one is None or two is None or algebra.add(one[2], two[2], -1):
        return algebra.nonnegative(algebra.poly(a - b))
    # c + B // S is (B + S c) // S
    tops = [algebra.add(top, algebra.multiply(step, more)) for more, top, step in (one, two)]
    return algebra.nonnegative(algebra.add(tops[0], tops[1], -1))


def natural(algebra: Reals, e: Expr) -> bool:
    """Whether a count is seen not to be negative."""
    return all(
        c > 0 and all(_natural(algebra, a) for a, _ in m) for m, c in algebra.poly(e).items()
    )


def _natural(algebra: Reals, a: Expr) -> bool:
    if a.op in ("min", "max"):
        return (all if a.op == "min" else any)(natural(algebra, x) for x in a.args)
    return a.op == "size" or algebra.nonnegative(algebra.atom(a))


def reaches(algebra: Reals, end: Expr, wanted: Expr) -> bool:
    """Whether end >= wanted, or both are at most 0, where the end is a number of rounds of a number
    of elements each: S * (B // S) >= B - S + 1 for S > 0."""
    difference = algebra.poly(end - wanted)
    for m, c in difference.items():
        for a, n in m:
            if a.op != "floordiv" or n != 1 or c <= 0:
                continue
            step = algebra.poly(a.args[1])
            if len(step) != 1:
                continue
            ((by, d),) = step.items()
            if algebra.without(m, by) != ((a, 1),) or (c / d).denominator != 1:
                continue
            low = algebra.add(algebra.add(algebra.poly(a.args[0]), step, -1), UNIT)
            rest = {k: v for k, v in difference.items() if k != m}
            if algebra.nonnegative(algebra.add(rest, scaled(low, c / d))):
                return all(_starts(algebra, x, wanted) for x, _ in by)
    return False


def _starts(algebra: Reals, a: Expr, wanted: Expr) -> bool:
    """Whether a number of programs is at least 1 wherever something is wanted."""
    if a.op == "min":
        return all((x.op == "const" and x.attr > 0) or _starts(algebra, x, wanted) for x in a.args)
    if a.op == "floordiv" and a.args[1].op == "const" and a.args[1].attr > 0:
        above = algebra.poly(a.args[0] - a.args[1] + 1 - wanted)
        return algebra.nonnegative(above)
    return algebra.nonnegative(algebra.add(algebra.atom(a), UNIT, -1))


__all__ = ["natural", "reaches", "widened"]
