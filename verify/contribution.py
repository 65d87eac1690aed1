"""Memory that programs combine into: every contribution counts once, on what was there before.

What an element holds then is what it held, combined with a reduction over all programs, iterations
and lanes whose index it is. That nothing reads it meanwhile, and that it held something, is G3's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from opwright.ir.expr import (
    ZERO,
    Expr,
    call,
    conjunction,
    conjuncts,
    const,
    free_vars,
    neutral,
    rename,
    substitute,
    var,
    walk,
)
from opwright.ir.tile import Atomic, access_axes
from opwright.verify.carried import NotCarried
from opwright.verify.given import pinned
from opwright.verify.nests import Index

if TYPE_CHECKING:
    from opwright.verify.lift_memory import Memory


@dataclass(frozen=True, slots=True)
class Contribution:
    """element `index` = monoid(element, value) where `cond` holds, once for all `variables`: lanes
    first, then loops from the inner one, then programs. `loops` are the loops around it."""

    name: str
    monoid: str
    index: tuple[Expr, ...]
    value: Expr
    cond: Expr
    variables: Mapping[str, Expr]
    loops: tuple[str, ...]
    kernel: str


def contribution(lift: Memory, s: Atomic, value: Expr) -> Contribution:
    """What an atomic operation adds, where the program is now. Every thread does it, those of axes
    that it does not speak of too."""
    axes = dict.fromkeys((*access_axes(s), *lift.kernel.threads))
    variables: dict[str, Expr] = {}
    for a in axes:
        lift.lane(a)
        variables[lift.lanes[a]] = const(a.extent)
    variables |= dict(reversed(lift.loops))
    variables |= lift.pids
    cond = conjunction([*lift.path, lift.index(s.mask)])
    index = tuple(lift.index(i) for i in s.index)
    loops = tuple(n for n, _ in lift.loops)
    if any(x.op == "state" for e in (*index, value, cond) for x in walk(e)):
        raise NotCarried(f"{s.name} combines what a loop carries")
    return Contribution(s.name, s.monoid, index, value, cond, variables, loops, lift.kernel.name)


def contributed(lift: Memory, c: Contribution, index: tuple[Expr, ...], inside: bool) -> Expr:
    """All that is combined into an element. `inside`: the element is the program's own."""
    kept = {n for n, _ in lift.loops} & set(c.loops)
    if c.kernel == lift.kernel.name:
        if not inside:
            raise NotCarried(f"{c.name} is read in the launch that combines")
        kept |= set(lift.pids)
    wanted = {n: e for n, e in c.variables.items() if n not in kept}
    if any(free_vars(e) & set(wanted) & set(list(wanted)[: k + 1])
           for k, e in enumerate(wanted.values())):  # fmt: skip
        raise NotCarried(f"{c.name}: how often it runs depends on what runs inside of it")
    # an index may speak of variables with the names of those that are summed over
    own = {n: f"{n}'" for n in wanted}
    wanted = {own[n]: rename(e, own) for n, e in wanted.items()}
    c = replace(
        c,
        index=tuple(rename(i, own) for i in c.index),
        value=rename(c.value, own),
        cond=rename(c.cond, own),
    )
    for n, e in wanted.items():
        lift.algebra.ranges[n] = (ZERO, e)
    try:
        solved, conditions = lift.solve(c.index, index, wanted)
    except NotCarried:
        solved = {}
        conditions = [call("eq", a, b) for a, b in zip(c.index, index, strict=True)]
    solved |= {n: e for n, e in pinned(lift.algebra, c.cond).items()
               if n in wanted and n not in solved}  # fmt: skip
    at = {var(n): e for n, e in solved.items()}
    conditions = [*conditions, substitute(c.cond, at)]
    for n, e in solved.items():
        conditions += [call("le", 0, e), call("lt", e, substitute(wanted[n], at))]
    value = substitute(c.value, at)
    nothing = neutral(c.monoid, value.kind)
    left = [n for n in wanted if n not in solved]
    names = {n: lift.join.fresh() for n in left}
    counts = {n: lift.join.tidy(rename(substitute(wanted[n], at), names)) for n in left}
    olds = {m: lift.algebra.ranges.get(m) for m in names.values()}
    for n, m in names.items():
        lift.algebra.ranges[m] = (ZERO, counts[n])
    try:
        cond = lift.join.tidy(rename(conjunction(conditions), names))
        summed = set(names.values())
        inner = [x for x in conjuncts(cond) if free_vars(x) & summed]
        outer = [x for x in conjuncts(cond) if not free_vars(x) & summed]
        out = call("select", conjunction(inner), rename(value, names), nothing)
        out = lift.join.tidy(out)
        for n in reversed(left):  # lanes first, programs last
            out = lift.join.over(c.monoid, Index(names[n], counts[n]), out)
        out = call("select", conjunction(outer), out, nothing)
    finally:
        for m, old in olds.items():
            if old is None:
                lift.algebra.ranges.pop(m, None)
    return out


def begins_anew(held: Sequence[object], c: Contribution, lift: Memory) -> bool:
    """Whether a store in a loop that is over may begin a sum anew in every iteration, or another
    combination comes between."""
    over = set(c.loops) - {n for n, _ in lift.loops}
    for w in held:
        if isinstance(w, Contribution):
            if w.monoid != c.monoid:
                return True
        elif over & set(getattr(w, "loops", ())):
            return True
    return False


__all__ = ["Contribution", "begins_anew", "contributed", "contribution"]
