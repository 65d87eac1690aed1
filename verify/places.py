"""Loops that keep an extreme and its place, and what is made of these: the place of the extreme of
all.

A place is a minimum: of the places of the elements that are as large as the largest, `BIG` where
there is none. So lanes and parts of a range are put together like any minimum. Numbers are real
numbers, and nothing is not a number.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from opwright.ir.expr import (
    FALSE,
    TRUE,
    ZERO,
    Expr,
    Fold,
    call,
    conjunction,
    conjuncts,
    const,
    free_vars,
    neutral,
    rebuild,
    reduction,
    substitute,
    transform,
    var,
    walk,
)
from opwright.verify.algebra import infinite
from opwright.verify.carried import guarded, settled
from opwright.verify.nests import Index, Joiner, Nest

BIG = neutral("min", "int")
KINDS = {"max": "argmax", "min": "argmin"}


@dataclass(frozen=True, slots=True)
class Kept:
    """The least `place` among elements `x` of a nest where `mask` holds that are `best`, the
    extreme of these; `none` where there are none."""

    kind: str
    nest: Nest
    mask: Expr
    x: Expr
    place: Expr
    best: Expr
    none: Expr


@dataclass(frozen=True, slots=True)
class Taken:
    """A step of a loop that takes x for its extreme where it beats it, and a place with it."""

    kind: str
    mask: Expr
    x: Expr
    place: Expr
    first: bool  # also where nothing was taken before: its place is negative then


def numbers(e: Expr) -> Expr:
    """An expression of numbers: none of them is not a number."""

    def rule(x: Expr) -> Expr | None:
        if x.op == "isnan":
            return FALSE
        if x.op in ("ne", "eq") and x.args[0] is x.args[1]:
            return FALSE if x.op == "ne" else TRUE
        return None

    return transform(e, rule)


def taken(best: Expr, place: Expr, y: Expr, z: Expr) -> Taken | None:
    """How a step makes y of the extreme and z of its place; None where it does something else."""
    y, z = (settled(settled(numbers(e))) for e in (y, z))
    mask: list[Expr] = []
    states = {best, place}
    while y.op == "select" and z.op == "select" and y.args[0] is z.args[0]:
        c, one, other = y.args
        if other is not best or z.args[2] is not place:
            return None
        if states & set(walk(c)):
            break
        mask.append(c)
        y, z = one, z.args[1]
    if y.op != "select" or z.op != "select" or y.args[2] is not best or z.args[2] is not place:
        return None
    cond, x, where = y.args[0], y.args[1], z.args[1]
    if z.args[0] is not cond or states & (set(walk(x)) | set(walk(where))):
        return None
    sides = _alternatives(cond)
    first = call("lt", place, ZERO) in sides
    sides = [c for c in sides if c is not call("lt", place, ZERO)]
    for kind, beats in (("max", call("lt", best, x)), ("min", call("lt", x, best))):
        if sides == [beats]:
            while x.op == "select" and x.args[2] is neutral(kind, x.kind) and x.kind == "real":
                mask.append(x.args[0])  # what is left out never beats anything
                x = x.args[1]
                if first:
                    return None
            return Taken(kind, conjunction(mask), x, where, first)
    return None


def _alternatives(c: Expr) -> list[Expr]:
    return [y for x in c.args for y in _alternatives(x)] if c.op == "or" else [c]


class Places:
    """Places of extremes over the nests of one program."""

    def __init__(self, join: Joiner) -> None:
        self.join, self.algebra = join, join.algebra

    # -- loops ----------------------------------------------------------------------------------

    def ends(
        self,
        index: Index,
        states: tuple[Expr, Expr],
        inits: tuple[Expr, Expr],
        yields: tuple[Expr, Expr],
    ) -> tuple[Expr, Expr] | None:
        """What an extreme and its place are after a loop."""
        step = taken(*states, *yields)
        if step is None or inits[0] is not neutral(step.kind, inits[0].kind):
            return None
        own, join = var(index.name), self.join
        with self.algebra.binding(index.name, (ZERO, index.count)):
            if not self._increases(step.place, own):
                return None
            if step.first and not (_negative(inits[1]) and self._at_least(step.place, ZERO)):
                return None
            if not step.first and (step.x.kind != "real" or not self._finite(step.x)):
                return None  # an element that beats nothing may be there
        if {*states} & {x for e in inits for x in walk(e)}:
            return None
        if own.attr in free_vars(inits[1]):
            return None
        nothing = neutral(step.kind, step.x.kind)
        best = join.over(step.kind, index, _where(step.mask, step.x, nothing))
        same = step.mask & call("eq", step.x, best)
        least = join.over("min", index, call("select", same, step.place, BIG))
        return best, call("select", call("eq", least, BIG), inits[1], least)

    def _increases(self, place: Expr, own: Expr) -> bool:
        return self._at_least(substitute(place, {own: own + 1}), place + 1)

    def _at_least(self, a: Expr, b: Expr) -> bool:
        return self.algebra.nonnegative(self.algebra.poly(a - b))

    def _finite(self, x: Expr) -> bool:
        return self.algebra.finite(x) and not any(infinite(y) for y in walk(x))

    # -- what a value is ------------------------------------------------------------------------

    def kept(self, e: Expr) -> Kept | None:
        """The place that a value is, if it is one."""
        none, least = BIG, e
        if e.op == "select" and e.args[0] is call("eq", e.args[2], BIG):
            none, least = e.args[1], e.args[2]
        nest = self.join.inner("min", least) if least.kind == "int" else None
        if nest is None or nest.kind != "min" or nest.term.op != "select":
            return None
        cond, place, other = nest.term.args
        names = {i.name for i in nest.indices}
        if other is not BIG or none.kind != "int" or free_vars(none) & names:
            return None
        parts = conjuncts(cond)
        for c in parts:
            if c.op != "eq":
                continue
            mask = conjunction([p for p in parts if p is not c])
            for x, best in (c.args, c.args[::-1]):
                if free_vars(best) & names or not free_vars(x) & names:
                    continue
                for kind in KINDS:
                    one = Kept(kind, nest, mask, x, place, best, none)
                    if self._same(self._extreme(one), best):
                        return one
        return None

    def _extreme(self, k: Kept) -> Expr:
        """The extreme of the elements that a place is of."""
        term = _where(k.mask, k.x, neutral(k.kind, k.x.kind))
        return self.join.fold(Nest(k.kind, k.nest.indices, term))

    def _same(self, a: Expr, b: Expr) -> bool:
        return a is b or (a.kind == b.kind and self.algebra.normal(a) is self.algebra.normal(b))

    def _natural(self, k: Kept) -> bool:
        """Whether a negative number stands for nothing, and for nothing else."""
        if not _negative(k.none):
            return False
        with ExitStack() as inside:
            for i in k.nest.indices:
                inside.enter_context(self.algebra.binding(i.name, (ZERO, i.count)))
            return self._at_least(k.place, ZERO)

    def _at(self, k: Kept, best: Expr, *more: Index) -> Nest:
        """The nest of the same elements, where they are another extreme; over more indices."""
        same = k.mask & call("eq", k.x, best)
        term = call("select", same, k.place, BIG)
        return Nest("min", (*more, *k.nest.indices), term)

    # -- lanes ----------------------------------------------------------------------------------

    def least(self, lane: Index, e: Expr) -> Expr | None:
        """The minimum over lanes of their places, of those whose extreme is that of all: the place
        of the extreme of all. An element that is as large as all are is what its lane's is."""
        if e.op != "select" or e.args[2] is not BIG or e.kind != "int":
            return None
        k = self.kept(e.args[1])
        if k is None:
            return self._elements(lane, e)
        parts = set(conjuncts(numbers(e.args[0])))
        some = call("le", ZERO, e.args[1])
        if some in parts:
            with self.algebra.binding(lane.name, (ZERO, lane.count)):
                if not self._natural(k):
                    return None
            parts.discard(some)
        else:
            some = TRUE
        if len(parts) != 1:
            return None
        (c,) = parts
        if c.op != "eq":
            return None
        for own, best in (c.args, c.args[::-1]):
            if lane.name in free_vars(best) or not self._same(own, k.best):
                continue
            if not self._same(self.join.over(k.kind, lane, k.best), best):
                continue
            if some is TRUE and (k.x.kind != "real" or not self.algebra.finite(guarded(best))):
                return None  # a lane of nothing may have a place
            return self.join.fold(self._at(k, best, lane))
        return None

    def _elements(self, lane: Index, e: Expr) -> Expr | None:
        """The same where every lane is one element, infinite where it is left out."""
        parts = conjuncts(settled(numbers(e.args[0])))
        for c in parts:
            if c.op != "eq" or c.args[0].kind != "real":
                continue
            for x, best in (c.args, c.args[::-1]):
                if lane.name in free_vars(best) or not self.algebra.finite(guarded(best)):
                    continue
                mask = [p for p in parts if p is not c]
                while x.op == "select" and infinite(x.args[2]):
                    mask.append(x.args[0])
                    x = x.args[1]
                made = call("select", conjunction(mask) & call("eq", x, best), e.args[1], BIG)
                return self.join.over("min", lane, made)
        return None

    # -- parts ----------------------------------------------------------------------------------

    def chosen(self, cond: Expr, a: Expr, b: Expr) -> Expr | None:
        """A choice between two extremes, or their places, by which beats which: that of both. Where
        neither does, it is the one whose places come first."""
        parts = conjuncts(numbers(cond))
        if len(parts) != 2:
            return None
        for some, sides in (parts, parts[::-1]):
            if some.op != "le" or some.args[0] is not ZERO:
                continue
            two = self.kept(some.args[1])
            found = _alternatives(sides)
            if two is None or len(found) != 2:
                continue
            for nothing, beats in (found, found[::-1]):
                if nothing.op != "lt" or nothing.args[1] is not ZERO or beats.op != "lt":
                    continue
                one = self.kept(nothing.args[0])
                if one is None or one.kind != two.kind:
                    continue
                made = self._both(one, two, beats)
                if made is None:
                    continue
                best, place = made
                if self._same(a, some.args[1]) and self._same(b, nothing.args[0]):
                    return place
                if self._same(a, two.best) and self._same(b, one.best):
                    return best
        return None

    def _both(self, one: Kept, two: Kept, beats: Expr) -> tuple[Expr, Expr] | None:
        """The extreme and its place of two parts, the first of which comes first."""
        old, new = beats.args if one.kind == "max" else beats.args[::-1]
        if not self._same(old, one.best) or not self._same(new, two.best):
            return None
        if one.none is not two.none or not self._natural(one) or not self._natural(two):
            return None
        if {i.name for i in one.nest.indices} & {i.name for i in two.nest.indices}:
            return None
        with ExitStack() as inside:
            for i in (*one.nest.indices, *two.nest.indices):
                inside.enter_context(self.algebra.binding(i.name, (ZERO, i.count)))
            if not self._at_least(two.place, one.place + 1):
                return None
        join = self.join
        best = join.combined(one.kind, [one.best, two.best], one.best.kind)
        least = [join.fold(self._at(k, best)) for k in (one, two)]
        both = join.combined("min", least, "int")
        return best, call("select", call("eq", both, BIG), one.none, both)

    # -- in words of specs ----------------------------------------------------------------------

    def named(self, e: Expr) -> Expr:
        """The expression with places of extremes as such."""
        memo: dict[Expr, Expr] = {}

        def go(x: Expr, memo: dict[Expr, Expr]) -> Expr:
            if x not in memo:
                made = self._named(x) if x.kind == "int" and x.op in ("select", "fold") else None
                if made is not None:
                    memo[x] = made
                elif x.op == "fold":
                    f = Fold(x)
                    with ExitStack() as inside:
                        for name, span in zip(f.binders, f.ranges, strict=True):
                            inside.enter_context(self.algebra.binding(name, span))
                        own: dict[Expr, Expr] = {}
                        memo[x] = rebuild(x, tuple(go(a, own) for a in x.args))
                else:
                    memo[x] = rebuild(x, tuple(go(a, memo) for a in x.args)) if x.args else x
            return memo[x]

        return go(e, memo) if any(x is BIG for x in walk(e)) else e

    def _named(self, e: Expr) -> Expr | None:
        none, least = BIG, e
        if e.op == "select" and e.args[0] is call("eq", e.args[2], BIG):
            none, least = e.args[1], e.args[2]
        if least.op != "fold" or Fold(least).kind != "min" or len(Fold(least).binders) != 1:
            return None
        f = Fold(least)
        (name,), (span,) = f.binders, f.ranges
        if f.term.op != "select" or f.term.args[2] is not BIG or free_vars(none) & {name}:
            return None
        parts = [y for x in (f.guard, f.term.args[0]) for y in conjuncts(settled(numbers(x)))]
        offset = self.algebra.normal(f.term.args[1] - var(name))
        if name in free_vars(offset):
            return None
        for c in parts:
            if c.op != "eq":
                continue
            mask = conjunction([p for p in parts if p is not c and p is not TRUE])
            for x, best in (c.args, c.args[::-1]):
                if name in free_vars(best) or name not in free_vars(x):
                    continue
                for kind, places in KINDS.items():
                    nothing = neutral(kind, x.kind)
                    of = reduction(kind, (name,), (span,), _where(mask, x, nothing))
                    if not self._same(of, best):
                        continue
                    at = reduction(places, (name,), (span,), x, mask)
                    if none is const(-1) and offset is ZERO:
                        return at
                    if self.algebra.finite(reduction(kind, (name,), (span,), x, mask)):
                        return at + offset
        return None


def _where(mask: Expr, x: Expr, nothing: Expr) -> Expr:
    return x if mask is TRUE else call("select", mask, x, nothing)


def _negative(e: Expr) -> bool:
    return e.op == "const" and e.kind == "int" and e.attr < 0


__all__ = ["Kept", "Places", "Taken", "numbers", "taken"]
