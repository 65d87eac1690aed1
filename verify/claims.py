"""Proves claims of a contract by normal forms: what is equal there is equal for all sizes.

Over the reals, for finite inputs, and where every term has a value: that is what the obligations of
the operator establish, and who asks has to see to it that they are proved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from opwright.ir.expr import TRUE, ZERO, Expr, Fold, conjunction, conjuncts, substitute, var
from opwright.ir.op import Operator
from opwright.verify.reals import Reals, TooLarge, equal_reals
from opwright.verify.setting import Setting

FINITE = "over the reals: inputs are finite, nothing is rounded"


@dataclass(frozen=True, slots=True)
class Part:
    """One conjunct of a claim under its index ranges and guards."""

    ranges: Mapping[str, tuple[Expr, Expr]]
    assume: tuple[Expr, ...]
    goal: Expr


def parts(e: Expr) -> list[Part]:
    """The conjuncts of a claim, out of the `all`s around them."""
    return list(_parts(e, {}, ()))


def _parts(
    e: Expr, ranges: Mapping[str, tuple[Expr, Expr]], assume: tuple[Expr, ...]
) -> Iterable[Part]:
    for x in conjuncts(e) or [e]:
        if x.op == "fold" and Fold(x).kind == "all":
            f = Fold(x)
            inner = {**ranges, **dict(zip(f.binders, f.ranges, strict=True))}
            yield from _parts(f.term, inner, (*assume, *conjuncts(f.guard)))
        else:
            yield Part(ranges, assume, x)


def algebra_of(op: Operator, where: Setting) -> Reals:
    """Normal forms over the definitions of a clause."""
    algebra = Reals(op.facts, where.requires, where.tensors)
    algebra.permutations = dict(where.permutations)
    for a in where.arguments:
        if a.kind == "index" and a.hi is not None:
            algebra.bounds[a.name] = ([((), ZERO)], [((), a.hi)])
    return algebra


def by_normal_form(op: Operator, where: Setting, claim: Sequence[Part]) -> list[bool]:
    """Which parts of a claim hold because both sides have one normal form."""
    out = []
    for part in claim:
        algebra = algebra_of(op, where)
        try:
            out.append(_holds(algebra, part))
        except (TooLarge, RecursionError):
            out.append(False)
    return out


def _holds(algebra: Reals, part: Part) -> bool:
    # outer indices are named apart from those that folds bind
    outer = {var(name): var(f"@{k}") for k, name in enumerate(part.ranges)}
    for name, (lo, hi) in part.ranges.items():
        span = (substitute(lo, outer), substitute(hi, outer))
        algebra.ranges[outer[var(name)].attr] = (algebra.normal(span[0]), algebra.normal(span[1]))
    goal = substitute(part.goal, outer)
    known = algebra.normal(substitute(conjunction(part.assume), outer))
    if goal.op in ("approx", "eq") and goal.args[0].kind == "real":
        a, b = (algebra.assuming(algebra.normal(x), known, True) for x in goal.args)
        if a is b or equal_reals(algebra, algebra.poly(a), algebra.poly(b)):
            return True
    return algebra.assuming(algebra.normal(goal), known, True) is TRUE
