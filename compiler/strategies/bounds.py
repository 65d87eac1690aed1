"""Where along a folded index a term counts: guards that bound it, as ends of loops.

A fold's own guard, and in a sum a factor that is 0 unless a condition holds, leave the rest of the
range without effect. A condition `k <= e` with an e that grows with the row index ends the range
of a whole tile of rows at the end of its last row.
"""

from __future__ import annotations

from collections.abc import Sequence

from opwright.ir.expr import (
    ZERO,
    Expr,
    affine,
    call,
    conjuncts,
    maximum,
    minimum,
    substitute,
    var,
    walk,
)
from opwright.ir.op import OpAxis


def nonzero(term: Expr) -> list[Expr]:
    """Conditions outside of which a term is 0: those of its factors."""
    if term.op == "mul":
        return nonzero(term.args[0]) + nonzero(term.args[1])
    if term.op in ("cast", "neg"):
        return nonzero(term.args[0])
    if term.op == "select" and term.args[2].op == "const" and term.args[2].attr == 0:
        return conjuncts(term.args[0]) + nonzero(term.args[1])
    return []


def end(axis: OpAxis, under: Sequence[Expr], row: str, last: Expr) -> Expr:
    """An upper bound, from 0 to the axis' end, of the indices at which all conditions can hold for
    rows up to `last`; the axis' own end where nothing is known."""
    out = axis.hi
    for c in dict.fromkeys(under):
        found = _below(c, axis, row, last)
        if found is not None:
            out = minimum(out, found)
    return out if out is axis.hi else maximum(ZERO, out)


def begin(axis: OpAxis, under: Sequence[Expr], row: str, first: Expr) -> Expr:
    """A lower bound of the indices at which all conditions can hold for rows from `first` on; 0
    where nothing is known."""
    out: Expr = ZERO
    for c in dict.fromkeys(under):
        found = _above(c, axis, row, first)
        if found is not None:
            out = maximum(out, found)
    return out


def _above(c: Expr, axis: OpAxis, row: str, first: Expr) -> Expr | None:
    if c.op == "or":
        for free, rest in (c.args, c.args[::-1]):
            if _known(free):
                found = _above(rest, axis, row, first)
                return None if found is None else call("select", free, ZERO, found)
        return None
    if c.op not in ("le", "lt") or c.args[0].kind != "int":
        return None
    low, high = c.args
    form = affine(high - low)
    if form is None or form.get(var(axis.name)) != 1 or form.get(var(row), 0) > 0:
        return None
    if not all(_known(x) for x in form if x not in (None, var(axis.name), var(row))):
        return None
    # axis + a row's part >= 0 (or > 0): the first row of a tile asks for the least
    rest = substitute(low - high, {var(axis.name): ZERO, var(row): first})
    return rest if c.op == "le" else rest + 1


def _below(c: Expr, axis: OpAxis, row: str, last: Expr) -> Expr | None:
    if c.op == "or":
        for free, rest in (c.args, c.args[::-1]):
            if _known(free):
                found = _below(rest, axis, row, last)
                return None if found is None else call("select", free, axis.hi, found)
        return None
    if c.op not in ("le", "lt") or c.args[0].kind != "int":
        return None
    low, high = c.args
    form = affine(high - low)
    if form is None or form.get(var(axis.name)) != -1 or form.get(var(row), 0) < 0:
        return None
    if not all(_known(x) for x in form if x not in (None, var(axis.name), var(row))):
        return None
    rest = substitute(high - low, {var(axis.name): ZERO, var(row): last})
    return rest + 1 if c.op == "le" else rest


def _known(e: Expr | None) -> bool:
    """Whether a number is the same for all rows and known before memory is read."""
    return e is not None and all(x.op not in ("var", "read", "fold", "state") for x in walk(e))
