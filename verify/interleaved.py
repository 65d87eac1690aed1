"""Sums of every so many-th element, one beside the other, as one sum; sizes as multiples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from opwright.ir.expr import (
    TRUE,
    ZERO,
    Expr,
    Fold,
    call,
    conjuncts,
    free_vars,
    leaf,
    rebuild,
    reduction,
    transform,
    var,
    walk,
)
from opwright.verify.algebra import Poly, scaled
from opwright.verify.reals import Reals

WIDTHS = (2, 4, 8)


def interleaved(
    algebra: Reals, kind: str, parts: Sequence[Expr], fresh: Callable[[], str]
) -> tuple[list[Expr], Expr, tuple[str, Expr, Expr]] | None:
    """Folds over 0..E of f(C i), ..., f(C i + C - 1), one fold over 0..C E of f(j) instead, with
    its index, range and term; None where there are none."""
    groups: dict[Expr, list[Expr]] = {}
    for x in parts:
        if x.op == "fold" and Fold(x).kind == kind and len(Fold(x).binders) == 1:
            f = Fold(x)
            ((lo, hi),) = f.ranges
            if lo is ZERO and f.guard is TRUE:
                groups.setdefault(algebra.normal(hi), []).append(x)
    for end, folds in groups.items():
        if len(folds) not in WIDTHS:
            continue
        width, name = len(folds), fresh()
        span = (ZERO, algebra.normal(end * width))
        with algebra.binding(name, span):
            term = _common(algebra, folds, width, name)
        if term is not None:
            return folds, reduction(kind, (name,), (span,), term), (name, span[1], term)
    return None


def beside(algebra: Reals, e: Expr, fresh: Callable[[], str]) -> Expr:
    """The expression with sums of several elements at a time as sums of one."""

    def rule(x: Expr) -> Expr | None:
        if x.op != "fold" or Fold(x).kind != "sum" or len(Fold(x).binders) != 1:
            return None
        f = Fold(x)
        terms = _terms(f.term)
        if len(terms) not in WIDTHS or f.guard is not TRUE:
            return None
        folds = [reduction("sum", f.binders, f.ranges, t) for t in terms]
        found = interleaved(algebra, "sum", folds, fresh)
        return None if found is None else found[1]

    return transform(e, rule)


def _terms(e: Expr) -> list[Expr]:
    if e.op == "fma":
        return [call("mul", *e.args[:2]), *_terms(e.args[2])]
    return [t for a in e.args for t in _terms(a)] if e.op == "add" else [e]


def _common(algebra: Reals, folds: Sequence[Expr], width: int, name: str) -> Expr | None:
    """f(j), where the folds are over f(C i + r) for all r."""
    for r in range(width):
        first = _moved(algebra, folds[0], width, r, name)
        if first is None:
            return None
        wanted, left = algebra.normal(first), set(range(width)) - {r}
        for x in folds[1:]:
            for q in sorted(left):
                other = _moved(algebra, x, width, q, name)
                if other is not None and algebra.normal(other) is wanted:
                    left.discard(q)
                    break
            else:
                break
        if not left:
            return first
    return None


def _moved(algebra: Reals, x: Expr, width: int, r: int, name: str) -> Expr | None:
    """The term of a fold over i where C i + r is j."""
    f = Fold(x)
    own = f.binders[0]
    failed = False

    def go(e: Expr) -> Expr:
        nonlocal failed
        if own not in free_vars(e):
            return e
        if e.kind == "int" and not any(y.op in ("read", "fold", "select") for y in walk(e)):
            p = algebra.poly(e)
            rest, slope = algebra._linear(p, var(own))
            if slope is None or any((c / width).denominator != 1 for c in slope.values()):
                failed = True
                return e
            share: Poly = scaled(slope, Fraction(1, width))
            made = algebra.add(rest, algebra.multiply(share, algebra.poly(var(name) - r)))
            out = algebra.expression(made, "int")
            failed = failed or own in free_vars(out)
            return out
        if not e.args:
            failed = True
            return e
        return rebuild(e, tuple(go(a) for a in e.args))

    with algebra.binding(own, f.ranges[0]):
        out = go(f.term)
    return None if failed or own in free_vars(out) else out


def multiples(facts: Sequence[Expr]) -> dict[Expr, Expr]:
    """Sizes that facts say are multiples of a number, as that number times another size."""
    out: dict[Expr, Expr] = {}
    for fact in facts:
        for c in conjuncts(fact):
            if c.op != "eq" or c.args[0].op != "mod" or c.args[1] is not ZERO:
                continue
            size, by = c.args[0].args
            if size.op == "size" and by.op == "const" and by.attr > 1 and size not in out:
                out[size] = leaf("size", f"{size.attr}/{by.attr}") * int(by.attr)
    return out


__all__ = ["beside", "interleaved", "multiples"]
