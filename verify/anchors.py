"""Sums that are kept at an anchor, such as the largest element so far, and are moved to another.

`exp(m - M)` moves a sum of `exp(x - m)` from m to M. Where m is the largest of the elements that
are summed, it is a number wherever there is one: the factor goes into the sum, where m cancels. A
sum of nothing is 0 at any anchor, so that the factor may be that of nothing there.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from opwright.ir.expr import (
    FALSE,
    TRUE,
    ZERO,
    Expr,
    Fold,
    call,
    conjunction,
    const,
    free_vars,
    read_parts,
    substitute,
    transform,
    var,
    walk,
)
from opwright.verify.algebra import infinite, scaled
from opwright.verify.carried import guarded
from opwright.verify.nests import Joiner, Nest, nonzero

PLACES = 16  # elements that are tried as one of which an extreme is
EXTREMES = ("max", "min")


def signed(e: Expr, sign: int = 1) -> list[tuple[int, Expr]]:
    """The terms of a sum with their signs."""
    if e.op == "cast" and e.kind == "real":
        return signed(e.args[0], sign)
    if e.op == "add":
        return signed(e.args[0], sign) + signed(e.args[1], sign)
    if e.op == "sub":
        return signed(e.args[0], sign) + signed(e.args[1], -sign)
    if e.op == "neg":
        return signed(e.args[0], -sign)
    return [(sign, e)]


def asks_if_empty(c: Expr) -> Expr | None:
    """The extreme of which a condition asks whether it is infinite, as it is of nothing."""
    if c.op != "eq":
        return None
    for a, b in (c.args, c.args[::-1]):
        if infinite(b) and not infinite(a):
            return a
    return None


class Anchors:
    """Sums at anchors in the values of one program."""

    def __init__(self, join: Joiner) -> None:
        self.join, self.algebra = join, join.algebra

    def moved(self, a: Expr, b: Expr) -> Expr | None:
        """The product of a sum and what moves it as one sum; None for any other product."""
        for total, factor in ((a, b), (b, a)):
            if factor.op != "exp" or total.op not in ("fold", "select"):
                continue
            if not any(x.op == "fold" and Fold(x).kind in EXTREMES for x in walk(factor)):
                continue
            nest = self.join.inner("sum", total)
            if nest is None or nest.kind != "sum":
                continue
            made = self._inside(nest, factor)
            if made is not None:
                return made
        return None

    def _inside(self, nest: Nest, factor: Expr) -> Expr | None:
        """A sum with a factor that is a number, whether the sum is empty or not, in its terms."""
        names = {i.name for i in nest.indices}
        terms = signed(factor.args[0])
        if free_vars(factor) & names or not all(self._below(s, t) for s, t in terms):
            return None
        with ExitStack() as inside:
            for i in nest.indices:
                inside.enter_context(self.algebra.binding(i.name, (ZERO, i.count)))
            conditions = nonzero("sum", nest.term)
            inside.enter_context(self.algebra.under(self.algebra.normal(conjunction(conditions))))
            made = self._times(nest.term, terms, nest.term)
        return None if made is None else self.join.fold(Nest("sum", nest.indices, made))

    def _below(self, sign: int, t: Expr) -> bool:
        """Whether a term of an exponent is a number or minus infinity, so that exp is a number."""
        if self._real(t):
            return True
        kind = "max" if sign > 0 else "min"
        return self._least(t, kind)

    def _least(self, t: Expr, kind: str) -> bool:
        """An extreme of numbers, or of none of them."""
        if t.op == kind:
            return all(infinite(x) * (1 if kind == "max" else -1) < 0 or self._real(x)
                       or self._least(x, kind) for x in t.args)  # fmt: skip
        if t.op != "fold" or Fold(t).kind != kind:
            return False
        plain = Fold(guarded(t))
        return not any(infinite(x) for x in walk(plain.term)) and self._plain(plain.term)

    def _plain(self, e: Expr) -> bool:
        return not any(x.op == "fold" and Fold(x).kind in EXTREMES for x in walk(e))

    def _real(self, e: Expr) -> bool:
        """Whether a value is a number in any case."""
        if e.op == "select" and (m := asks_if_empty(e.args[0])) is not None:
            if self._same(e.args[2], m) and any(self._least(m, k) for k in EXTREMES):
                return self._real(e.args[1])
        if e.op == "fold" and Fold(e).kind in EXTREMES:
            return self.algebra.finite(guarded(e))
        if e.op in EXTREMES:
            return all(self._real(x) for x in e.args)
        if e.op in ("add", "sub", "mul", "neg", "cast", "exp"):
            return all(self._real(x) for x in e.args)
        return not infinite(e) and self._plain(e) and all(not infinite(x) for x in walk(e))

    def _times(self, e: Expr, terms: Sequence[tuple[int, Expr]], whole: Expr) -> Expr | None:
        """An element times exp of the terms, where the element is there."""
        if e.op == "select":
            c, one, other = e.args
            if other is not const(0.0):
                return None
            made = self._times(one, terms, whole)
            return None if made is None else call("select", c, made, other)
        if e.op == "cast":
            return self._times(e.args[0], terms, whole)
        if e.op == "exp":
            left = [*signed(self.present(e.args[0], whole))]
            more = [(s, self.present(t, whole)) for s, t in terms]
            return call("exp", self._total(self._cancelled([*left, *more], whole)))
        if e.op in ("mul", "div"):
            made = self._times(e.args[0], terms, whole)
            if made is not None:
                return call(e.op, made, e.args[1])
            if e.op == "mul" and (made := self._times(e.args[1], terms, whole)) is not None:
                return call("mul", e.args[0], made)
        return None

    def _cancelled(self, terms: Sequence[tuple[int, Expr]], whole: Expr) -> list[tuple[int, Expr]]:
        """Terms without those that are there with both signs, and are numbers."""
        flat = [y for s, t in terms for y in signed(t, s)]
        out: list[tuple[int, Expr]] = []
        for s, t in flat:
            back = next((k for k, (r, u) in enumerate(out) if r == -s and self._same(t, u)), None)
            if back is not None and (self._real(t) or self._somewhere(t, whole)):
                del out[back]
            else:
                out.append((s, t))
        return out

    def _same(self, a: Expr, b: Expr) -> bool:
        if a is b:
            return True
        folds = a.op in ("fold", *EXTREMES) and b.op in ("fold", *EXTREMES)
        return folds and self.algebra.normal(a) is self.algebra.normal(b)

    def _total(self, terms: Sequence[tuple[int, Expr]]) -> Expr:
        out: Expr | None = None
        for s, t in sorted(terms, key=lambda r: -r[0]):
            if out is None:
                out = t if s > 0 else call("neg", t)
            else:
                out = call("add" if s > 0 else "sub", out, t)
        return const(0.0) if out is None else out

    # -- what is left out -----------------------------------------------------------------------

    def opened(self, e: Expr) -> Expr:
        """exp of minus infinity where an element is left out as 0 there."""
        return transform(e, lambda x: self._opened(x) if x.op == "exp" else None)

    def _opened(self, e: Expr) -> Expr | None:
        if not any(infinite(x) for x in walk(e)) or any(x.op == "state" for x in walk(e)):
            return None
        terms = signed(e.args[0])
        for n, (s, t) in enumerate(terms):
            if s < 0 or t.op != "select" or infinite(t.args[2]) >= 0 or infinite(t.args[1]):
                continue
            rest = [*terms[:n], *terms[n + 1 :]]
            if not all(self._real(x) for _, x in rest):
                return None  # an infinity less an infinity is no number
            there = call("exp", self._total([*terms[:n], (1, t.args[1]), *terms[n + 1 :]]))
            return call("select", t.args[0], self._opened(there) or there, const(0.0))
        return None

    # -- what is there --------------------------------------------------------------------------

    def asked(self, e: Expr) -> Expr:
        """An expression with what asks if an extreme is of nothing, where it never is."""

        def rule(x: Expr) -> Expr | None:
            m = asks_if_empty(x)
            return FALSE if m is not None and self._real(m) else None

        return transform(e, rule)

    def present(self, e: Expr, whole: Expr) -> Expr:
        """An expression where an element is there: extremes of elements with it are of something.
        `whole` is the element, whose conditions hold."""

        def rule(x: Expr) -> Expr | None:
            m = asks_if_empty(x)
            return FALSE if m is not None and self._somewhere(m, whole) else None

        return transform(e, rule)

    def _somewhere(self, m: Expr, whole: Expr) -> bool:
        """Whether an extreme is of something where an element is: of that element, say."""
        if m.op in EXTREMES:
            return any(self._somewhere(x, whole) for x in m.args) and all(
                self._least(x, m.op) or self._real(x) for x in m.args
            )
        if m.op != "fold" or Fold(m).kind not in EXTREMES or len(Fold(m).binders) != 1:
            return False
        f = Fold(guarded(m))
        (name,), ((lo, hi),) = f.binders, f.ranges
        own = var(name)
        if any(infinite(x) for x in walk(f.term)) or not self._plain(f.term):
            return False
        inside = f.guard & call("le", lo, own) & call("lt", own, hi)
        for place in self._places(f.term, name, whole):
            if self.algebra.normal(substitute(inside, {own: place})) is TRUE:
                return True
        return False

    def _places(self, term: Expr, name: str, whole: Expr) -> list[Expr]:
        """Where an element that reads what another one reads may be."""
        own = var(name)
        found: dict[Expr, None] = {}
        mine = [x for x in walk(term) if x.op == "read" and name in free_vars(x)]
        others = [x for x in walk(whole) if x.op == "read"]
        for r in mine:
            for q in others:
                if q.attr[0] != r.attr[0] or len(found) >= PLACES:
                    continue
                for i, j in zip(read_parts(r)[1], read_parts(q)[1], strict=True):
                    if name not in free_vars(i):
                        continue
                    rest, slope = self.algebra._linear(self.algebra.poly(i), own)
                    if slope is None or list(slope) != [()]:
                        continue
                    by = 1 / slope[()]
                    at = scaled(self.algebra.add(self.algebra.poly(j), rest, -1), by)
                    if all(c.denominator == 1 for c in at.values()):
                        place = self.algebra.expression(at, "int")
                        if name not in free_vars(place):
                            found.setdefault(place)
        return list(found)


__all__ = ["Anchors", "asks_if_empty", "signed"]
