"""Extents and ranges of index variables: equality by affine form, extremes over outer indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opwright.ir.expr import ZERO, Expr, affine, call, const, free_vars
from opwright.ir.expr import var as variable

Interval = tuple[Expr, Expr]  # half-open


def from_affine(form: Mapping[Expr | None, int]) -> Expr:
    """The expression of an affine form, terms in their order, the constant last."""
    out: Expr | None = None
    for leaf, factor in form.items():
        if leaf is None or factor == 0:
            continue
        size = leaf if abs(factor) == 1 else leaf * abs(factor)
        if out is None:
            out = size if factor > 0 else const(0) - size
        else:
            out = out + size if factor > 0 else out - size
    last = form.get(None, 0)
    if out is None:
        return const(last)
    return out + last if last >= 0 else out - (-last)


def same_extent(a: Expr, b: Expr) -> bool:
    """Whether two integer expressions are equal by their affine forms."""
    if a is b:
        return True
    x, y = affine(a), affine(b)
    if x is None or y is None:
        return False
    return {k: c for k, c in x.items() if c} == {k: c for k, c in y.items() if c}


def bounding(e: Expr, ranges: Mapping[str, Interval | None], upper: bool) -> Expr | None:
    """The largest (or smallest) value of an affine expression as its index variables run."""
    for _ in range(64):
        loose = free_vars(e)
        if not loose:
            return e
        form = affine(e)
        if form is None:
            return None
        name = next((n for n in sorted(loose) if variable(n) in form), None)
        if name is None or any(
            name in free_vars(x) for x in form if x is not None and x is not variable(name)
        ):
            return None
        interval = ranges.get(name)
        if interval is None:
            return None
        factor = form.pop(variable(name))
        edge = interval[1] - 1 if (factor > 0) == upper else interval[0]
        total = dict(form)
        for leaf, c in (affine(edge) or {edge: 1}).items():
            total[leaf] = total.get(leaf, 0) + factor * c
        e = from_affine({k: c for k, c in total.items() if c or k is None})
    return None


def digit_range(
    e: Expr,
    index: str,
    extent: Expr,
    ranges: Mapping[str, Interval | None],
    facts: Sequence[Expr] = (),
) -> Expr | None:
    """The upper end of an index (from 0) that `e` takes over 0..extent without gap or overlap.

    `e` is `index // A`, or `index * A + rest` where the rest runs over 0..A and A divides the
    extent; None for any other.
    """
    i = variable(index)
    if e.op == "floordiv" and e.args[0] is i and index not in free_vars(e.args[1]):
        return extent * e.args[1]
    form = affine(e)
    if form is None:
        return None
    terms = [x for x in form if x is not None and index in free_vars(x)]
    if len(terms) != 1 or terms[0] is e:
        return None
    (term,) = terms
    factor = form.pop(term)
    if term is i:
        stride = const(factor)
    elif term.op == "mul" and i in term.args and factor == 1:
        stride = term.args[1] if term.args[0] is i else term.args[0]
    else:
        return None
    rest = from_affine(form) if form else ZERO
    least, most = bounding(rest, ranges, False), bounding(rest, ranges, True)
    whole = most is not None and same_extent(most + 1, stride)
    if least is not ZERO or not whole or index in free_vars(stride):
        return None
    return _quotient(extent, stride, facts)


def _quotient(extent: Expr, divisor: Expr, facts: Sequence[Expr]) -> Expr | None:
    """extent / divisor where it is known to be an integer."""
    if extent.op == "mul" and divisor in extent.args:
        return extent.args[1] if extent.args[0] is divisor else extent.args[0]
    if divisor.op == "floordiv" and same_extent(divisor.args[0], extent):
        other = divisor.args[1]
        if call("eq", call("mod", extent, other), 0) in facts:
            return other
    form = affine(extent)
    if divisor.op == "const" and form and all(c % divisor.attr == 0 for c in form.values()):
        return from_affine({x: c // divisor.attr for x, c in form.items()})
    if call("eq", call("mod", extent, divisor), 0) in facts:
        return extent // divisor
    return None
