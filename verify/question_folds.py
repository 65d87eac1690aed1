"""Facts about folds: elements, sums against bounds and counts, two folds against each other."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from itertools import product

from opwright.ir.expr import (
    FALSE,
    TRUE,
    Expr,
    Fold,
    call,
    conjunction,
    const,
    free_vars,
    reduction,
    substitute,
    toreal,
    var,
    walk,
)
from opwright.verify.algebra import TooLarge
from opwright.verify.expansion import Opaque, factors, product_of
from opwright.verify.question_terms import ATOMS, Terms


class Folds(Terms):
    """What is known of the folds among the atoms of a question."""

    def _fold(self, e: Expr, round_: int) -> None:
        f = Fold(e)
        if f.kind in ("argmax", "argmin"):
            self.places.setdefault(e, None)
        if f.kind in ("max", "min") and self.once("attained", e):
            self._attained(e, f)
        if f.kind == "sum" and self.once("sum", e):
            self._sum(e, f)
        if f.kind in ("sum", "prod", "max", "min") and self.once("single", e):
            self._single(e, f)
        if f.kind == "all" and self.once("some", e):
            self._counterexample(e, f)
        if f.kind == "any" and self.once("some", e):
            self._witness(e, f)
        for at in self._candidates(f):
            if not self.once("at", e, tuple(at.values())):
                continue
            self._instance(e, f, at)

    def _candidates(self, f: Fold) -> list[dict[Expr, Expr]]:
        """Indices at which a fold's element is looked at."""
        choices = []
        for b, (lo, hi) in zip(f.binders, f.ranges, strict=True):
            found: dict[Expr, None] = {}
            for p in self.places:
                span = self._range(p)
                if span is not None and (span[0] is lo and span[1] is hi):
                    found[p] = None
            for p in self.places:
                if self._range(p) is None or len(self.places) <= 4:
                    found.setdefault(p, None)
            if not (free_vars(lo) | free_vars(hi)) & set(f.binders):
                found.setdefault(self.expand.integer(hi - 1), None)
                found.setdefault(lo, None)
            choices.append([(var(b), x) for x in list(found)[:6]])
        return [dict(pick) for pick in list(product(*choices))[:16]]

    def _range(self, p: Expr) -> tuple[Expr, Expr] | None:
        """The range of an index, or of the place of an extreme."""
        if p.op == "var":
            return self.algebra.ranges.get(p.attr)
        if p.op == "fold" and Fold(p).kind in ("argmax", "argmin"):
            return Fold(p).ranges[0]
        return None

    def _allowed(self, f: Fold, at: Mapping[Expr, Expr]) -> Expr:
        inside = [call("le", lo, var(b)) & call("lt", var(b), hi)
                  for b, (lo, hi) in zip(f.binders, f.ranges, strict=True)]  # fmt: skip
        return substitute(conjunction([*inside, f.guard]), at)

    def _instance(self, e: Expr, f: Fold, at: Mapping[Expr, Expr]) -> None:
        allowed, t = self._allowed(f, at), substitute(f.term, at)
        if len(self.atoms) > ATOMS:
            return
        if f.kind == "max":
            self.fact(call("le", t, e) | ~allowed)
        elif f.kind == "min":
            self.fact(call("le", e, t) | ~allowed)
        elif f.kind in ("argmax", "argmin"):
            best = substitute(f.term, {var(f.binders[0]): e})
            pair = (t, best) if f.kind == "argmax" else (best, t)
            self.fact(call("le", *pair) | ~allowed)
            inside = self._allowed(f, {var(f.binders[0]): e})
            self.fact(inside | ~allowed)
            # the first of those that are as good
            self.fact(call("lt", *pair) | call("le", e, next(iter(at.values()))) | ~allowed)
        elif f.kind == "sum" and e.kind in ("real", "int"):
            s = self.signs(f.term)
            if s.nonnegative or (self.depth == 0 and self._pointwise(f, f.term, "le")):
                self.fact(call("le", t, e) | ~allowed)
            elif s.nonpositive:
                self.fact(call("le", e, t) | ~allowed)
        elif f.kind == "all":
            self.axioms.append(
                self.z3.Implies(
                    self.z3.And(self.terms[e], self.condition(self.expand(allowed))),
                    self.condition(self.expand(t)),
                )
            )
        elif f.kind == "any":
            self.axioms.append(
                self.z3.Implies(
                    self.z3.And(self.condition(self.expand(t)),
                                self.condition(self.expand(allowed))),
                    self.terms[e],
                )
            )  # fmt: skip

    def _skolem(self, f: Fold) -> dict[Expr, Expr]:
        at: dict[Expr, Expr] = {}
        for b, (lo, hi) in zip(f.binders, f.ranges, strict=True):
            self.fresh += 1
            fresh = var(f"!{self.depth}.{self.fresh}")
            self.algebra.ranges[fresh.attr] = (substitute(lo, at), substitute(hi, at))
            at[var(b)] = fresh
        return at

    def _attained(self, e: Expr, f: Fold) -> None:
        """An extreme is one of the elements, where there are any."""
        at = self._skolem(f)
        for fresh in at.values():
            self.places.setdefault(fresh, None)
        some: Expr = FALSE
        for pick in self._candidates(f):
            if not set(pick.values()) & set(at.values()):
                some = some | self._allowed(f, pick)
        holds = self._allowed(f, at) & call("eq", e, substitute(f.term, at))
        self.fact(holds | ~some)

    def _counterexample(self, e: Expr, f: Fold) -> None:
        at = self._skolem(f)
        wrong = self._allowed(f, at) & ~substitute(f.term, at)
        self.axioms.append(self.z3.Or(self.terms[e], self.condition(self.expand(wrong))))

    def _witness(self, e: Expr, f: Fold) -> None:
        at = self._skolem(f)
        right = self._allowed(f, at) & substitute(f.term, at)
        self.axioms.append(self.z3.Implies(self.terms[e], self.condition(self.expand(right))))

    def count(self, f: Fold) -> Expr:
        """How many elements a fold has, where its ranges are not empty, as a real."""
        out: Expr = const(1)
        for lo, hi in f.ranges:
            out = call("mul", out, hi - lo)
        return toreal(out)

    def _sum(self, e: Expr, f: Fold) -> None:
        if any((free_vars(lo) | free_vars(hi)) & set(f.binders) for lo, hi in f.ranges):
            return
        z3 = self.z3
        nonempty = conjunction([call("le", lo, hi) for lo, hi in f.ranges])
        premise = self.condition(self.expand(nonempty))
        n, v = self.term(self.expand(self.count(f))), self.terms[e]
        b = self.signs(f.term)
        if b.lo is not None:
            self.axioms.append(z3.Implies(premise, v >= n * z3.Q(b.lo.numerator, b.lo.denominator)))
        if b.hi is not None:
            self.axioms.append(z3.Implies(premise, v <= n * z3.Q(b.hi.numerator, b.hi.denominator)))
        if f.term.op in ("add", "sub") and e.kind == "real" and self.once("linear", e):
            parts = [self.expand(_sum_of(f, x)) for x in f.term.args]
            self.fact(call("eq", e, call(f.term.op, *parts)))
        if not free_vars(f.term) & set(f.binders):
            self.axioms.append(z3.Implies(premise, v == n * self.term(f.term)))
        if b.lo is None and b.hi is None:
            if self.depth == 0 and self._pointwise(f, f.term, "le"):
                self.axioms.append(v >= 0)

    def _single(self, e: Expr, f: Fold) -> None:
        """A fold over one element is that element, one over none is the neutral element."""
        if len(f.binders) != 1 or f.guard is not TRUE:
            return
        lo, hi = f.ranges[0]
        count = self.algebra.poly(hi - lo) if _plain(hi - lo) else None
        if count is not None and set(count) - {()} and not free_vars(hi - lo):
            return  # a size: one element is a case of no interest
        element = substitute(f.term, {var(f.binders[0]): lo})
        if count is None or count.get((), 1) == 1:
            self.fact(call("eq", e, element) | ~call("eq", hi, lo + 1))
        if f.kind in ("sum", "prod"):
            nothing = (0.0 if f.kind == "sum" else 1.0) if e.kind == "real" else f.kind != "sum"
            empty = const(nothing if e.kind == "real" else int(nothing))
            self.fact(call("eq", e, empty) | ~call("le", hi, lo))

    def _pointwise(self, f: Fold, term: Expr, op: str) -> bool:
        """Whether 0 <= term for every element of a fold, by a question of its own."""
        key = ("pointwise", f.node, term)
        if key in self.cache:
            return self.cache[key]
        self.cache[key] = False
        if self.depth >= 1 or len(self.cache) > 12 or term.kind != "real":
            return False
        ranges = dict(self.ranges)
        for p in self.places:
            if p.op == "var" and p.attr.startswith("!"):
                ranges[p.attr] = self.algebra.ranges[p.attr]
        for b, span in zip(f.binders, f.ranges, strict=True):
            ranges[b] = span
        if any(
            v not in ranges for lo, hi in ranges.values() for v in free_vars(lo) | free_vars(hi)
        ):
            return False
        inner = type(self)(self.prover, ranges, [], self)
        try:
            self.cache[key], _ = inner.ask(call("le", const(0.0), term) | ~f.guard, 2)
        except (Opaque, TooLarge):
            pass
        return self.cache[key]

    def _two_folds(self, a: Expr, b: Expr) -> None:
        """Sums and extremes over one range, or over ranges that differ at the end."""
        f, g = Fold(a), Fold(b)
        if not self.once("two", a, b):
            return
        if f.kind == "sum" and g.kind == "sum" and a.kind == b.kind == "real":
            if f.ranges == g.ranges and f.binders == g.binders:
                self._compared(a, f, b, g)
                self._weighted(a, f, b, g)
            self._prefix(a, f, b, g)
        elif f.kind == "prod" and g.kind == "prod":
            self._prefix(a, f, b, g)
        elif f.kind in ("max", "min") and f.kind == g.kind:
            self._prefix(a, f, b, g)
            if f.ranges == g.ranges and f.binders == g.binders and f.guard is g.guard:
                if self._pointwise(g, call("sub", g.term, f.term), "le"):
                    self.fact(call("le", a, b))
        elif f.kind == "sum" and g.kind in ("max", "min") and a.kind == "real":
            self._average(a, f, b, g)

    def _compared(self, a: Expr, f: Fold, b: Expr, g: Fold) -> None:
        """a <= b where every element of a is at most that of b."""
        difference = call("sub", g.term, f.term)
        s = self.signs(difference)
        if s.nonnegative or self._pointwise(g, difference, "le"):
            self.fact(call("le", a, b))
        total = call("add", f.term, g.term)
        if self.once("total", *sorted((a, b), key=self.algebra.key)):
            if self.signs(total).nonnegative or self._pointwise(g, total, "le"):
                self.fact(call("le", const(0.0), call("add", a, b)))

    def _ratio(self, f: Fold, g: Fold) -> Expr | None:
        """What f's element is as a multiple of g's, None where it is not one."""
        top, bottom = factors(f.term)
        over, under = factors(g.term)
        for x in over:
            if x not in top:
                return None
            top.remove(x)
        for x in under:
            if x not in bottom:
                return None
            bottom.remove(x)
        return product_of(top, bottom) if top or bottom else None

    def _weighted(self, a: Expr, f: Fold, b: Expr, g: Fold) -> None:
        """sum w r against sum w for w >= 0: between the bounds of r."""
        if not self.signs(g.term).nonnegative:
            return
        r = self._ratio(f, g)
        if r is None or not free_vars(r) & set(f.binders):
            return
        s = self.signs(r)
        for bound, upper in ((s.lo, False), (s.hi, True)):
            if bound is not None:
                edge = call("mul", const(float(bound)), b) if bound == Fraction(float(bound)) \
                    else None  # fmt: skip
                if edge is not None:
                    self.fact(call("le", a, edge) if upper else call("le", edge, a))
        for e in list(self.atoms):
            if e.op != "fold" or Fold(e).kind not in ("max", "min", "sum"):
                continue
            h = Fold(e)
            if h.kind == "sum" and not self.signs(h.term).nonnegative:
                continue
            if h.guard is not TRUE or len(h.binders) != len(f.binders) or h.ranges != f.ranges:
                continue
            at = {var(x): var(y) for x, y in zip(h.binders, f.binders, strict=True)}
            if self.expand(substitute(h.term, at)) is r:
                edge = call("mul", e, b)
                self.fact(call("le", edge, a) if h.kind == "min" else call("le", a, edge))

    def _average(self, a: Expr, f: Fold, b: Expr, g: Fold) -> None:
        """A sum against the count times an extreme of the same elements."""
        if g.guard is not TRUE or f.ranges != g.ranges or len(f.binders) != len(g.binders):
            return
        at = {var(x): var(y) for x, y in zip(g.binders, f.binders, strict=True)}
        if substitute(g.term, at) is not f.term:
            return
        nonempty = conjunction([call("lt", lo, hi) for lo, hi in f.ranges])
        edge = call("mul", self.count(f), b)
        claim = call("le", a, edge) if g.kind == "max" else call("le", edge, a)
        self.fact(claim | ~nonempty)

    def _prefix(self, a: Expr, f: Fold, b: Expr, g: Fold) -> None:
        """Folds of the same elements over ranges of which one holds the other."""
        if len(f.binders) != 1 or len(g.binders) != 1 or f.ranges == g.ranges:
            return
        own = {var(g.binders[0]): var(f.binders[0])}
        if substitute(g.term, own) is not f.term or substitute(g.guard, own) is not f.guard:
            return
        (lo, hi), (low, high) = f.ranges[0], g.ranges[0]
        legal = call("le", lo, hi) & call("le", low, high)
        inside = call("le", low, lo) & call("le", hi, high) & legal
        if f.kind == "max":
            self.fact(call("le", a, b) | ~(inside & call("lt", lo, hi)))
            return
        if f.kind == "min":
            self.fact(call("le", b, a) | ~(inside & call("lt", lo, hi)))
            return
        join = "mul" if f.kind == "prod" else "add"
        if f.kind == "sum" and self.signs(f.term).nonnegative:
            self.fact(call("le", a, b) | ~inside)
        last = substitute(f.term, {var(f.binders[0]): hi})
        longer = call("eq", low, lo) & call("eq", high, hi + 1) & call("le", lo, hi)
        self.fact(call("eq", b, call(join, a, last)) | ~longer)
        first = substitute(f.term, {var(f.binders[0]): low})
        earlier = call("eq", high, hi) & call("eq", lo, low + 1) & call("le", lo, hi)
        self.fact(call("eq", b, call(join, a, first)) | ~earlier)
        self.fact(call("eq", b, a) | ~(call("eq", low, lo) & call("eq", high, hi)))


def _plain(e: Expr) -> bool:
    return not any(x.op in ("read", "fold") for x in walk(e))


def _sum_of(f: Fold, term: Expr) -> Expr:
    return reduction("sum", f.binders, f.ranges, term, f.guard)
