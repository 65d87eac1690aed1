"""Extents and ranges of index variables: equality by affine form, extremes over outer indices."""

from __future__ import annotations

from collections.abc import Mapping

from opwright.ir.expr import Expr, affine, const, free_vars
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
