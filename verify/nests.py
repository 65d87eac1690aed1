"""Folds over blocks and lanes as folds over one index.

A program runs over `lo, lo + S, ...` and over lanes of a tile; what it combines is one reduction
over `lo <= j < hi`, with a mask where a block hangs over. Two indices join where the term knows
them through `E * outer + inner` alone, and reductions over ranges that touch become one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

from opwright.ir.expr import (
    FALSE,
    ONE,
    TRUE,
    ZERO,
    Expr,
    Fold,
    call,
    conjuncts,
    free_vars,
    neutral,
    reduction,
    rename,
    substitute,
    transform,
    var,
    walk,
)
from opwright.ir.semantics import MONOIDS
from opwright.verify.algebra import infinite
from opwright.verify.interleaved import interleaved
from opwright.verify.reals import Reals
from opwright.verify.strides import natural, reaches, widened

JOINED = 6  # indices of one nest


@dataclass(frozen=True, slots=True)
class Index:
    """One index of a nest: 0 <= name < count. Where it numbers blocks, they begin at `first`, are
    `unit` long and cover at least `reach` elements."""

    name: str
    count: Expr
    first: Expr = ZERO
    unit: int = 0
    reach: Expr = ZERO

    def renamed(self, names: Mapping[str, str]) -> Index:
        """The index with other names, also where its ends speak of them."""
        count, first, reach = (rename(e, names) for e in (self.count, self.first, self.reach))
        return Index(names[self.name], count, first, self.unit, reach)


@dataclass(frozen=True, slots=True)
class Nest:
    """kind over all `indices` of `term`."""

    kind: str
    indices: tuple[Index, ...]
    term: Expr


class Joiner:
    """Builds reductions for one kernel's values; `algebra` knows the ranges of what is free."""

    def __init__(self, algebra: Reals) -> None:
        self.algebra = algebra
        self.numbers = count()
        self.nests: dict[Expr, Nest] = {}  # of the folds that were made here

    def fresh(self, hint: str = "j") -> str:
        """An index that nothing else has."""
        return f"@{hint}%{next(self.numbers)}"

    # -- making ---------------------------------------------------------------------------------

    def over(self, kind: str, index: Index, e: Expr) -> Expr:
        """kind over an index of an expression: part by part where the monoid allows."""
        if e.op == "select" and neutral(kind, e.kind) not in e.args:
            if index.name not in free_vars(e.args[0]):  # a choice that is one for all
                sides = (self.over(kind, index, x) for x in e.args[1:])
                return call("select", e.args[0], *sides)
        parts = [x for x in self.parts(kind, e) if x is not neutral(kind, e.kind)]
        if kind in ("sum", "max", "min", "prod"):
            made = [self._one(kind, index, p) for p in parts]
            return self.combined(kind, made, e.kind)
        return self._one(kind, index, e)

    def _one(self, kind: str, index: Index, e: Expr) -> Expr:
        if e.op == "const" and kind in ("max", "min") and self._at_least(index.count, ONE):
            return e
        inner = self.inner(kind, e)
        if inner is not None and inner.kind == kind and len(inner.indices) < JOINED:
            return self.fold(Nest(kind, (index, *inner.indices), inner.term))
        return self.fold(Nest(kind, (index,), e))

    def inner(self, kind: str, e: Expr) -> Nest | None:
        """The nest that a fold is, also where a condition holds and nothing is there elsewhere."""
        found = self.nests.get(e) or _nest(kind, e)
        if found is not None or e.op != "select" or e.args[2] is not neutral(kind, e.kind):
            return found
        below = self.inner(kind, e.args[1])
        if below is None or below.kind != kind:
            return None
        if free_vars(e.args[0]) & {i.name for i in below.indices}:
            return None
        return replace(below, term=call("select", e.args[0], below.term, e.args[2]))

    def fold(self, nest: Nest) -> Expr:
        """The fold of a nest, joined as far as it goes."""
        own = {i.name: self.fresh() for i in nest.indices}
        nest = Nest(nest.kind, tuple(i.renamed(own) for i in nest.indices), rename(nest.term, own))
        nest = widened(self.algebra, nest, self.tidy)
        changed = True
        while changed and len(nest.indices) > 1:
            changed = False
            for a in nest.indices:
                for b in nest.indices:
                    joined = self._joined(nest, a, b) if a is not b else None
                    if joined is not None:
                        nest, changed = joined, True
                        break
                if changed:
                    break
        term = nest.term
        out: Expr | None = None
        if len(nest.indices) == 1 and nest.indices[0].unit in (0, 1):
            out = self._single(nest.kind, nest.indices[0], term)
        else:
            out = term
            for i in reversed(nest.indices):
                out = reduction(nest.kind, (i.name,), ((ZERO, i.count),), out)
        self.nests.setdefault(out, nest)
        return out

    def _joined(self, nest: Nest, outer: Index, inner: Index) -> Nest | None:
        """The nest with two indices as one, where the term knows E * outer + inner alone."""
        if any(
            {outer.name, inner.name} & free_vars(e)
            for i in nest.indices
            for e in (i.count, i.first, i.reach)
        ):
            return None
        old, extent = outer, inner.count
        if extent.op != "const":
            if not natural(self.algebra, extent):
                return None
            outer = self._cut(nest, outer)
        elif outer.unit % _int(inner):  # one element each, of which there are as many as counted
            outer = self._cut(nest, outer)
        name = self.fresh()
        place = var(name) - extent * var(outer.name)
        with self.algebra.binding(outer.name, (ZERO, outer.count)):
            with self.algebra.binding(name, (ZERO, extent * outer.count)):
                term = self.tidy(substitute(nest.term, {var(inner.name): place}))
        if {outer.name, inner.name} & free_vars(term):
            return None
        unit = outer.unit // _int(inner) if outer.unit else 0
        made = replace(outer, name=name, count=extent * outer.count, unit=unit)
        rest = [i for i in nest.indices if i not in (old, inner)]
        return Nest(nest.kind, (made, *rest), term)

    def _cut(self, nest: Nest, i: Index) -> Index:
        """An index that numbers elements, up to where a condition ends it."""
        own = var(i.name)
        if i.unit != 1 or i.first is not ZERO:
            return replace(i, unit=0)
        with self.algebra.binding(i.name, (ZERO, i.count)):
            conditions = nonzero(nest.kind, self.tidy(nest.term))
        others = {x.name for x in nest.indices}
        ends = [e for c in conditions if (e := self._end(c, own)) is not None]
        ends = [e for e in ends if not free_vars(e) & others]
        if ends and self._covers(self.algebra.normal(i.reach), ends):
            return Index(i.name, self.algebra.normal(min(ends, key=lambda e: len(free_vars(e)))))
        return replace(i, unit=0)

    def _single(self, kind: str, i: Index, term: Expr) -> Expr:
        """One index: from where its blocks begin, to where masks end it."""
        if i.count.op == "max" and ZERO in i.count.args:  # a range that runs backwards is empty
            i = replace(i, count=next(x for x in i.count.args if x is not ZERO))
        lo, hi = ZERO, i.count
        own = var(i.name)
        if i.unit == 1:
            lo = i.first
            term = substitute(term, {own: own - lo})
            hi = lo + i.count
        span = (lo, self.algebra.normal(hi))
        with self.algebra.binding(i.name, span):
            term = self.tidy(term)
            conditions = nonzero(kind, term)
        covered = self.algebra.normal(i.reach + lo if i.unit == 1 else hi)
        above = [e for c in conditions if (e := self._end(c, own)) is not None]
        below = [e for c in conditions if (e := self._begin(c, own)) is not None]
        if above and self._covers(covered, above):
            hi = min(above, key=lambda e: len(free_vars(e)))  # beyond it a condition fails
        first = self.algebra.normal(lo)
        if first is not ZERO and self._at_least(first, ZERO):
            if below and all(
                any(self._at_least(e, r) for e in below) for r in _operands("max", first)
            ):
                lo = ZERO  # before it a condition fails
        span = (self.algebra.normal(lo), self.algebra.normal(hi))
        with self.algebra.binding(i.name, span):
            term = self.tidy(term)
        return self._forwards(kind, i.name, span, term)

    def _forwards(self, kind: str, name: str, span: tuple[Expr, Expr], term: Expr) -> Expr:
        """A fold whose index is what it reads at, where all that it reads is at E - index."""
        own, ends = var(name), set()
        for x in walk(term):
            for i in x.args if x.op == "read" else ():
                if i.kind == "int" and name in free_vars(i):
                    ends.add(self.algebra.normal(i + own))
        if len(ends) == 1 and kind in ("sum", "max", "min", "prod"):
            (end,) = ends
            if name not in free_vars(end):
                lo, hi = span
                span = (self.algebra.normal(end - hi + 1), self.algebra.normal(end - lo + 1))
                with self.algebra.binding(name, span):
                    term = self.tidy(substitute(term, {own: end - own}))
        return reduction(kind, (name,), (span,), term)

    def _covers(self, end: Expr, conditions: Sequence[Expr]) -> bool:
        """Whether some of the ends that conditions state is at most this one."""
        if end.op in ("min", "max"):
            every = all if end.op == "min" else any
            return every(self._covers(x, conditions) for x in end.args)
        return any(self._at_least(end, e) or reaches(self.algebra, end, e) for e in conditions)

    def _at_least(self, a: Expr, b: Expr) -> bool:
        """Whether a >= b."""
        return self.algebra.nonnegative(self.algebra.poly(a - b))

    def _begin(self, c: Expr, own: Expr) -> Expr | None:
        """B where a condition says B <= own."""
        c = _straight(c)
        if c.op not in ("lt", "le") or c.args[0].kind != "int":
            return None
        above = c.args[1] - c.args[0] - (1 if c.op == "lt" else 0)  # 0 <= above
        p = self.algebra.poly(above)
        if p.get(((own, 1),)) != 1 or sum(any(a is own for a, _ in m) for m in p) != 1:
            return None
        begin = self.algebra.normal(own - above)
        return None if own.attr in free_vars(begin) else begin

    def _end(self, c: Expr, own: Expr) -> Expr | None:
        """E where a condition says own < E."""
        c = _straight(c)
        if c.op not in ("lt", "le") or c.args[0].kind != "int":
            return None
        above = c.args[1] - c.args[0] - (1 if c.op == "lt" else 0)  # 0 <= above
        p = self.algebra.poly(above)
        slope = p.get(((own, 1),))
        if slope != -1 or sum(any(a is own for a, _ in m) for m in p) != 1:
            return None
        end = self.algebra.normal(above + own + 1)
        return None if own.attr in free_vars(end) else end

    # -- combining --------------------------------------------------------------------------------

    def parts(self, kind: str, e: Expr) -> list[Expr]:
        """Operands of the monoid's own operation."""
        row = MONOIDS[kind].row
        if e.op == row:
            return [x for a in e.args for x in self.parts(kind, a)]
        if e.op == "select" and e.args[1].op == row and e.args[2] is neutral(kind, e.kind):
            inner = self.parts(kind, e.args[1])
            return [call("select", e.args[0], x, e.args[2]) for x in inner]
        return [e]

    def combined(self, kind: str, parts: Sequence[Expr], of: str) -> Expr:
        """The parts as one expression; folds over ranges that touch as one fold."""
        left = [x for p in parts for x in self.parts(kind, p)]
        left = [x for x in left if x is not neutral(kind, of)]
        while (beside := interleaved(self.algebra, kind, left, self.fresh)) is not None:
            gone, made, (name, count, term) = beside
            left = [*(x for x in left if x not in gone), made]
            self.nests[made] = Nest(kind, (Index(name, count),), term)
        merged = True
        while merged:
            merged = False
            for a in left:
                for b in left:
                    one = self._touching(kind, a, b) if a is not b else None
                    if one is not None:
                        left = [x for x in left if x is not a and x is not b]
                        left.append(one)
                        merged = True
                        break
                if merged:
                    break
        out: Expr | None = None
        for x in left:
            out = x if out is None else call(MONOIDS[kind].row, out, x)
        return neutral(kind, of) if out is None else out

    def _touching(self, kind: str, a: Expr, b: Expr) -> Expr | None:
        """a over lo..m and b over m..hi as one fold over lo..hi; b may be one element, or be
        counted from elsewhere."""
        if not self._plain(kind, a):
            return None
        f = Fold(a)
        if _tensors(f.term) != _tensors(b):
            return None
        ((lo, middle),) = f.ranges
        if not self._plain(kind, b):
            return self._beside(kind, a, b)
        g = Fold(b)
        ((start, hi),) = g.ranges
        if self._cut_off(lo, middle, start, hi):
            shift = ZERO
        else:
            shift = self.algebra.normal(middle - start)  # what b's index is moved by
            hi = self.algebra.normal(hi + shift)
            if not self._at_least(middle, lo) or not self._at_least(hi, middle):
                return None  # one of them may run backwards, and be empty
        name = self.fresh()
        span = (lo, hi)
        own = var(name)
        with self.algebra.binding(name, span):
            first = substitute(f.term, {var(f.binders[0]): own})
            second = substitute(g.term, {var(g.binders[0]): own - shift})
            if self.algebra.normal(first) is not self.algebra.normal(second):
                return None
        return self._ranging(kind, name, span, first)

    def _cut_off(self, lo: Expr, middle: Expr, start: Expr, hi: Expr) -> bool:
        """Whether lo..min(start, E) and start..hi, with hi at most E, are lo..hi: where E is below
        start, the second is empty and E is where both end."""
        if middle is start or not self._at_least(start, lo):
            return False
        ends = _lesser(self.algebra, middle)
        if len(ends) != 2 or self.algebra.normal(start) not in ends:
            return False
        (end,) = (e for e in ends if e is not self.algebra.normal(start))
        last = _lesser(self.algebra, hi)
        return end in last and all(e is end or self._at_least(e, start) for e in last)

    def _plain(self, kind: str, e: Expr) -> bool:
        """Whether an expression is a fold over one index with no guard."""
        if e.op != "fold":
            return False
        f = Fold(e)
        return f.kind == kind and len(f.binders) == 1 and f.guard is TRUE

    def _beside(self, kind: str, a: Expr, b: Expr) -> Expr | None:
        """A fold and its next element, or the one before its first, as one fold."""
        f = Fold(a)
        ((lo, hi),) = f.ranges
        if not self._at_least(hi, lo):
            return None
        own = var(f.binders[0])
        if b.op == "select" and b.args[2] is neutral(kind, b.kind):  # there if the range goes on
            end = self._next_end(hi, b.args[0])
            if end is None:
                return None
            with self.algebra.under(self.algebra.normal(b.args[0])):
                found = self.algebra.normal(b.args[1])
                here = self.algebra.normal(substitute(f.term, {own: hi}))
            if here is not found:
                return None
            name = self.fresh()
            return self._ranging(kind, name, (lo, end), substitute(f.term, {own: var(name)}))
        found = self.algebra.normal(b)
        for place, span in ((hi, (lo, hi + 1)), (lo - 1, (lo - 1, hi))):
            if self.algebra.normal(substitute(f.term, {own: place})) is found:
                name = self.fresh()
                ends = (self.algebra.normal(span[0]), self.algebra.normal(span[1]))
                return self._ranging(kind, name, ends, substitute(f.term, {own: var(name)}))
        return None

    def _next_end(self, hi: Expr, cond: Expr) -> Expr | None:
        """E, which is hi or hi + 1, where a condition says that hi is below it."""
        c = _straight(cond)
        if c.op not in ("lt", "le") or c.args[0].kind != "int":
            return None
        above = c.args[1] - c.args[0] - (1 if c.op == "lt" else 0)  # 0 <= above
        end = self.algebra.normal(hi + above + 1)
        if self._at_least(end, hi) and self._at_least(self.algebra.normal(hi + 1), end):
            return end
        return None

    def _ranging(self, kind: str, name: str, span: tuple[Expr, Expr], term: Expr) -> Expr:
        """A fold over lo..hi, known as a nest."""
        lo, hi = span
        made = reduction(kind, (name,), (span,), term)
        self.nests[made] = Nest(kind, (Index(name, hi - lo, lo, 1, hi - lo),),
                                substitute(term, {var(name): var(name) + lo}))  # fmt: skip
        return made

    def regrouped(self, e: Expr) -> Expr:
        """An expression with folds that touch as one."""
        kinds = {m.row: m.name for m in MONOIDS.values()}

        def rule(x: Expr) -> Expr | None:
            kind = kinds.get(x.op)
            if x.op == "select":
                return self._dropped(*x.args)
            if x.op == "fold" and Fold(x).kind in ("sum", "prod"):
                nest = _nest(Fold(x).kind or "", x)
                made = self.fold(nest) if nest is not None and len(nest.indices) > 1 else x
                return None if made.op == "fold" and Fold(made).term.op == "fold" else made
            if kind is None:
                return None
            parts = self.parts(kind, x)
            if len(parts) > JOINED or not any(self._plain(kind, p) for p in parts):
                return None
            return self.combined(kind, parts, x.kind)

        return transform(e, rule)

    def _dropped(self, cond: Expr, e: Expr, other: Expr) -> Expr | None:
        """A fold where a condition holds, and nothing elsewhere, where it is empty anyway."""
        inner = e
        while inner.op == "select" and inner.args[0].kind == "bool":
            with self.algebra.under(self.algebra.normal(cond)):
                known = self.algebra.normal(inner.args[0])
            if known not in (TRUE, FALSE):
                break
            inner = inner.args[1 if known is TRUE else 2]
        made = None if inner is e else call("select", cond, inner, other)
        if inner.op != "fold":
            return made
        f = Fold(inner)
        if f.kind is None or not self._plain(f.kind, inner):
            return made
        if other is not neutral(f.kind, inner.kind):
            return made
        ((lo, hi),) = f.ranges
        with self.algebra.under(self.algebra.normal(~cond)):
            return inner if self._at_least(lo, hi) else made

    def tidy(self, e: Expr) -> Expr:
        """The expression with its integers and its conditions on them in normal form."""

        def plain(x: Expr) -> bool:
            return not any(y.op in ("read", "fold", "state") or y.kind == "real" for y in walk(x))

        def rule(x: Expr) -> Expr | None:
            if x.kind == "int" and x.op not in ("const", "var", "size") and plain(x):
                return self.algebra.normal(x)
            if x.op in ("eq", "ne") and x.args[0].kind == "int":
                x = told(x)
            if x.kind == "bool" and x.op in ("lt", "le", "eq", "ne") and plain(x):
                found = self.algebra.normal(x)
                # two sides may have had an index in common
                known = found in (TRUE, FALSE) or free_vars(found) < free_vars(x)
                return found if known else x
            return x

        return transform(e, rule)


def told(x: Expr) -> Expr:
    """A comparison of a choice of numbers with a number as the condition that it asks for."""
    if x.op not in ("eq", "ne"):
        return x
    a, b = x.args
    if a.op == "const":
        a, b = b, a
    if a.op != "select" or b.op != "const" or a.args[2].op != "const":
        return x
    c, one, two = a.args
    last = (two.attr == b.attr) == (x.op == "eq")
    first = told(call(x.op, one, b))
    if last:
        return call("or", call("not", c), first)
    return call("and", c, first)


def _nest(kind: str, e: Expr) -> Nest | None:
    """The nest that a fold is by its form."""
    indices: list[Index] = []
    while e.op == "fold" and Fold(e).kind == kind and len(Fold(e).binders) == 1:
        f = Fold(e)
        (name,), ((lo, hi),) = f.binders, f.ranges
        if f.guard is not TRUE or free_vars(hi) & {i.name for i in indices}:
            break
        indices.append(Index(name, hi - lo))
        e = f.term if lo is ZERO else substitute(f.term, {var(name): var(name) + lo})
    return Nest(kind, tuple(indices), e) if indices else None


def _straight(c: Expr) -> Expr:
    """A negated comparison as the opposite one; the condition itself otherwise."""
    if c.op != "not" or c.args[0].op not in ("lt", "le") or c.args[0].args[0].kind != "int":
        return c
    a, b = c.args[0].args
    return call("le" if c.args[0].op == "lt" else "lt", b, a)


def _lesser(algebra: Reals, e: Expr) -> list[Expr]:
    """What a bound is the least of."""
    p = algebra.poly(e)
    for m, c in p.items():
        if len(m) == 1 and m[0][1] == 1 and c == 1 and m[0][0].op == "min":
            rest = {n: d for n, d in p.items() if n != m}
            parts = [algebra.add(rest, algebra.poly(x)) for x in m[0][0].args]
            return [y for x in parts for y in _lesser(algebra, algebra.expression(x, "int"))]
    return [algebra.normal(e)]


def _tensors(e: Expr) -> set[str]:
    return {x.attr[0] for x in walk(e) if x.op == "read"}


def _operands(op: str, e: Expr) -> list[Expr]:
    return [x for a in e.args for x in _operands(op, a)] if e.op == op else [e]


def _int(i: Index) -> int:
    return int(i.count.attr)


def nonzero(kind: str, e: Expr) -> list[Expr]:
    """Conditions without which a term is the monoid's neutral element."""
    if kind == "any":
        return conjuncts(e)
    if kind == "all":  # not c or ...
        return [c for p in _operands("or", e) for c in conjuncts(call("not", p))]
    if e.op == "cast":
        return nonzero(kind, e.args[0])
    if e.op == "select" and e.args[2] is neutral(kind, e.kind):
        return [*conjuncts(e.args[0]), *nonzero(kind, e.args[1])]
    if e.op == "select" and e.args[1] is neutral(kind, e.kind):
        return [call("not", e.args[0]), *nonzero(kind, e.args[2])]
    if kind == "sum" and e.op == "mul":
        return [c for a in e.args for c in nonzero(kind, a)]
    if kind == "sum" and e.op in ("div", "neg", "abs", "sqrt", "tanh"):
        return nonzero(kind, e.args[0])
    if kind == "sum" and e.op in ("add", "sub", "max", "min"):  # zero where both sides are
        first, *others = (nonzero(kind, a) for a in e.args)
        return [c for c in first if all(c in o for o in others)]
    if kind == "sum" and e.op == "exp":
        return _bounded_below(e.args[0])
    if e.op == "fold" and Fold(e).kind == kind:  # of neutral elements alone
        f = Fold(e)
        return [c for c in nonzero(kind, f.term) if not free_vars(c) & set(f.binders)]
    return []


def _bounded_below(e: Expr) -> list[Expr]:
    """Conditions without which a value is minus infinity, where what is taken off it is finite."""
    if e.op in ("cast", "sub"):
        return _bounded_below(e.args[0])
    if e.op == "select" and infinite(e.args[2]) < 0:
        return [*conjuncts(e.args[0]), *_bounded_below(e.args[1])]
    return []


__all__ = ["Index", "Joiner", "Nest", "nonzero"]
