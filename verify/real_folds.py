"""Folds in the normal form over the reals.

Sums are linear: what does not depend on the index goes out of them, a sum over an equality is the
element that it picks, and a sum through a permutation is the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import permutations

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
    neutral,
    rebuild,
    reduction,
    substitute,
    transform,
    var,
    walk,
)
from opwright.ir.semantics import ARG_FOLDS
from opwright.verify.algebra import (
    UNIT,
    Monomial,
    Poly,
    Range,
    as_real,
    scaled,
)
from opwright.verify.real_functions import Functions, piecewise


class Folds(Functions):
    """Sums, extremes, products, places of extremes and conditions over ranges."""

    @contextmanager
    def binding(self, name: str, span: Range) -> Iterator[None]:
        old = self.ranges.get(name)
        self.ranges[name] = span
        try:
            yield
        finally:
            if old is None:
                self.ranges.pop(name, None)
            else:
                self.ranges[name] = old

    def fold(self, e: Expr) -> Poly:
        f = Fold(e)
        if f.kind is None or len(f.attr.states) > 2:
            return self.atom(rebuild(e, tuple(self.normal(a) for a in e.args)))
        if len(f.binders) > 1:
            inner = reduction(f.kind, f.binders[1:], f.ranges[1:], f.term, f.guard, f.attr.acc)
            return self.poly(reduction(f.kind, f.binders[:1], f.ranges[:1], inner))
        if not f.binders:
            return self.poly(call("select", f.guard, f.term, neutral(f.kind, f.term.kind)))
        f = self._apart(f)
        return self._sum(f) if f.kind == "sum" else self._best(f)

    def fold_condition(self, e: Expr) -> Expr:
        f = Fold(e)
        if not f.binders:
            return self.normal(f.guard & f.term if f.kind == "any" else ~f.guard | f.term)
        if len(f.binders) > 1:
            assert f.kind is not None
            inner = reduction(f.kind, f.binders[1:], f.ranges[1:], f.term, f.guard)
            return self.normal(reduction(f.kind, f.binders[:1], f.ranges[:1], inner))
        if f.kind == "all":
            some = reduction("any", f.binders, f.ranges, ~f.term, f.guard)
            return self._negated(self.normal(some))
        f = self._apart(f)
        span, more = self._span(f)
        name = f.binders[0]
        term = conjunction([*conjuncts(f.guard), *more]) & f.term
        return self._named(f, name, span, lambda at: self.normal(substitute(term, at)), TRUE)

    def _span(self, f: Fold) -> tuple[Range, list[Expr]]:
        """A range that no index variable moves, and the conditions that moved it."""
        name = var(f.binders[0])
        lo, hi = (self.normal(x) for x in f.ranges[0])
        more = []
        lows, highs = self._bounds("max", lo), self._bounds("min", hi)
        if len(highs) > 1 or len(lows) > 1:
            lo = next((x for x in lows if not self.variables(self._edge(x, False))), lo)
            hi = next((x for x in highs if not self.variables(self._edge(x, True))), hi)
            more += [call("le", x, name) for x in lows if x is not lo and lo in lows]
            more += [call("lt", name, x) for x in highs if x is not hi and hi in highs]
        first, last = self._edge(lo, False), self._edge(hi, True)
        if first is not lo:
            more.append(call("le", lo, name))
        if last is not hi:
            more.append(call("lt", name, hi))
        return (first, last), more

    def _bounds(self, op: str, e: Expr) -> list[Expr]:
        """What an extreme that is a bound is the extreme of."""
        if not self.variables(e):
            return [e]
        p = self.poly(e)
        for m, c in p.items():
            if len(m) == 1 and m[0][1] == 1 and c == 1 and m[0][0].op == op:
                rest = {n: d for n, d in p.items() if n != m}
                parts = [self.add(rest, self.poly(x)) for x in m[0][0].args]
                return [y for x in parts for y in self._bounds(op, self.expression(x, "int"))]
        return [e]

    def _needed(self, conditions: Sequence[Expr]) -> list[Expr]:
        """Conditions without those that the others imply."""
        kept = list(conditions)
        for c in conditions:
            part, truth = (c.args[0], False) if c.op == "not" else (c, True)
            if part.op != "le" or part.args[0] is not ZERO:
                continue
            (says,) = self._inequality(part, truth)
            others = [x for x in kept if x is not c]
            before = self.assumed, self.path
            self.assumed, self.path = (*self.assumed, *others), [*self.path]
            for x in others:
                negated = x.op == "not"
                self.path += self._inequality(x.args[0] if negated else x, not negated)
            try:
                implied = self.nonnegative(says)
            finally:
                self.assumed, self.path = before
            if implied:
                kept = others
        return kept

    def _edge(self, e: Expr, upper: bool) -> Expr:
        """A constant end of a bound as index variables run: what a condition says, or the extreme
        value; itself where it is not known."""
        p = self.poly(e)
        if e.kind == "int" and self.variables(e):
            for known in self.path:  # that is >= 0 where this is asked
                said = self.expression(self.add(p, known, 1 if upper else -1), "int")
                if not self.variables(said):
                    return said
        for _ in range(8):
            moving = [a for m in p for a, _ in m if a.op == "var" and a.attr in self.ranges]
            if not moving:
                break
            v = moving[0]
            rest, slope = self._linear(p, v)
            if slope is None:
                return e
            lo, hi = self.ranges[v.attr]
            rises = self.nonnegative(slope)
            if not rises and not self.nonnegative(scaled(slope, Fraction(-1))):
                return e
            end = self.add(self.poly(hi), UNIT, -1) if rises == upper else self.poly(lo)
            p = self.add(rest, self.multiply(slope, end))
        found = self.expression(p, "int")
        return e if self.variables(found) else found

    def _sum(self, f: Fold) -> Poly:
        name = f.binders[0]
        kind = f.term.kind
        (lo, hi), more = self._span(f)
        count = self.normal(hi - lo)
        zero = ZERO if kind == "int" else const(0.0)
        term = call("select", conjunction([*conjuncts(f.guard), *more]), f.term, zero)
        if lo is not ZERO:
            term = substitute(term, {var(name): var(name) + lo})
        with self.binding(name, (ZERO, count)):
            whole = self.poly(term)
            if piecewise(self.expression(whole, kind)):
                return self._opaque(f, name, (ZERO, count), term)
            out: Poly = {}
            for m, c in whole.items():
                out = self.add(out, scaled(self._summed(m, name, count, kind), c))
        return out

    def _opaque(self, f: Fold, name: str, span: Range, term: Expr) -> Poly:
        made = self._named(f, name, span, lambda at: self.normal(substitute(term, at)), TRUE)
        return self.atom(made)

    def _summed(self, m: Monomial, name: str, count: Expr, kind: str) -> Poly:
        """The sum of one monomial."""
        outside: Poly = dict(UNIT)
        inside: list[tuple[Expr, int]] = []
        for a, n in m:
            if name not in self.variables(a):
                outside = self.multiply(outside, {((a, n),): Fraction(1)})
            elif a.op == "exp":
                # exp(p + q) = exp(p) exp(q), of which one may go out
                moving: Poly = {}
                still: Poly = {}
                for t, c in self.poly(a.args[0]).items():
                    here = any(name in self.variables(x) for x, _ in t)
                    (moving if here else still)[t] = c
                outside = self.multiply(outside, self.exponential(still))
                inside.append((call("exp", self.expression(moving, "real")), n))
            else:
                inside.append((a, n))
        said = [a for a, _ in inside if self.is_indicator(a)]
        if len(said) > 1:
            kept = self._needed([a.args[0] for a in said])
            inside = [(a, n) for a, n in inside if a not in said or a.args[0] in kept]
        for a, _ in inside:
            outside = self.multiply(outside, self._possible(a, name, count, kind))
        if not inside:
            size = self.poly(call("max", count, 0))
            return self.multiply(outside, self.sorted(as_real(size)) if kind == "real" else size)
        picked = self._picked(inside, name, count, kind)
        if picked is not None:
            return self.multiply(outside, picked)
        straight = self._unpermuted([a for a, _ in inside], name, count)
        if straight is not None:
            rest: Poly = dict(UNIT)
            for a, (_, n) in zip(straight, inside, strict=True):
                part = self.poly(a) if n > 0 else self.inverse(self.poly(a))
                for _ in range(abs(n)):
                    rest = self.multiply(rest, part)
            if len(rest) == 1:
                ((made, c),) = rest.items()
                return self.multiply(outside, scaled(self._summed(made, name, count, kind), c))
        body = self.expression({self.monomial(dict(inside)): Fraction(1)}, kind)
        return self.multiply(outside, self._sum_atom(body, name, count, kind))

    def _unpermuted(self, parts: Sequence[Expr], name: str, count: Expr) -> list[Expr] | None:
        """Terms of a fold over 0..count with `p[k]` replaced by `k`, where `k` occurs in it alone
        and p permutes that range; None where there is nothing to replace."""
        own = var(name)
        found: set[Expr] = set()
        memo: dict[Expr, bool] = {}

        def only(x: Expr) -> bool:
            if x not in memo:
                if x.op == "read" and x.attr[0] in self.permutations and x.args[0] is own:
                    found.add(x)
                    memo[x] = True
                else:
                    memo[x] = x is not own and all(only(a) for a in x.args)
            return memo[x]

        if not all(only(x) for x in parts) or len(found) != 1:
            return None
        (place,) = found
        if self.normal(self.permutations[place.attr[0]]) is not self.normal(count):
            return None
        rule = {place: own}
        return [transform(x, rule.get) for x in parts]

    def _possible(self, a: Expr, name: str, count: Expr, kind: str) -> Poly:
        """The indicator that some index satisfies 0 <= p: a sum over it is zero elsewhere."""
        if not self.is_indicator(a) or a.args[0].op != "le" or a.args[0].args[0] is not ZERO:
            return UNIT
        rest, slope = self._linear(self.poly(a.args[0].args[1]), var(name))
        if slope is None or list(slope) != [()]:
            return UNIT
        last = self.add(self.poly(count), UNIT, -1)
        best = rest if slope[()] < 0 else self.add(rest, self.multiply(slope, last))
        holds = self.normal(call("le", ZERO, self.expression(best, "int")))
        return self.indicator(holds, kind)

    def _picked(
        self, inside: list[tuple[Expr, int]], name: str, count: Expr, kind: str
    ) -> Poly | None:
        """A sum over an equality of its index is the element that the equality picks."""
        v = var(name)
        for k, (a, _) in enumerate(inside):
            if not self.is_indicator(a) or a.args[0].op != "eq" or a.args[0].args[0] is not ZERO:
                continue
            rest, slope = self._linear(self.poly(a.args[0].args[1]), v)
            if slope is None or list(slope) != [()] or abs(slope[()]) != 1:
                continue
            place = self.expression(scaled(rest, -slope[()]), "int")
            bound = {b for x, _ in inside for y in walk(x) if y.op == "fold"
                     for b in y.attr.binders}  # fmt: skip
            if name in self.variables(place) or bound & set(self.variables(place)):
                continue
            others = {self.monomial(dict(inside[:k] + inside[k + 1 :])): Fraction(1)}
            value = self.poly(substitute(self.expression(others, kind), {v: place}))
            legal = self.normal(call("le", 0, place) & call("lt", place, count))
            return self.multiply(self.indicator(legal, kind), value)
        return None

    def _sum_atom(self, body: Expr, name: str, count: Expr, kind: str) -> Poly:
        """A sum whose index has its name from the depth of what is summed; nested sums in one
        order."""
        nest: list[tuple[str, Expr]] = [(name, count)]
        while body.op == "fold" and Fold(body).kind == "sum" and len(nest) < 5:
            f = Fold(body)
            inner = f.ranges[0][1]
            if any(n in self.variables(inner) for n, _ in nest):
                break
            fresh = f"#{len(nest)}"
            nest.append((fresh, inner))
            body = substitute(f.term, {var(f.binders[0]): var(fresh)})
        best: tuple[str, Expr, Fraction] | None = None
        for order in permutations(nest):
            made, factor = self._nested(body, order, kind)
            if made is None:
                return self._split(body, nest, kind)
            if best is None or self.key(made) < best[0]:
                best = self.key(made), made, factor
        assert best is not None
        return {((best[1], 1),): best[2]}

    def _nested(
        self, body: Expr, order: Sequence[tuple[str, Expr]], kind: str
    ) -> tuple[Expr | None, Fraction]:
        """Sums in this order, the first outermost; None where renaming changes their form."""
        level = self._level([body], [n for n, _ in order], len(order)) - 1
        factor = Fraction(1)
        named = {n: f"${level + len(order) - k}" for k, (n, _) in enumerate(order)}
        renamed = substitute(body, {var(n): var(m) for n, m in named.items()})
        spans = [(named[n], (ZERO, c)) for n, c in order]
        olds = {n: self.ranges.get(n) for n, _ in spans}
        self.ranges.update(spans)
        try:
            p = self.poly(renamed)
        finally:
            for n, old in olds.items():
                if old is None:
                    self.ranges.pop(n, None)
                else:
                    self.ranges[n] = old
        if len(p) != 1:
            return None, factor
        ((m, factor),) = p.items()
        out = self.expression({m: Fraction(1)}, kind)
        for n, (_, count) in reversed(spans):
            out = reduction("sum", (n,), ((ZERO, count),), out)
        return out, factor

    def _split(self, body: Expr, nest: Sequence[tuple[str, Expr]], kind: str) -> Poly:
        """A sum that cannot be put in order: kept as it stands."""
        level = self._level([body], [n for n, _ in nest], len(nest)) - 1
        named = {n: f"${level + len(nest) - k}" for k, (n, _) in enumerate(nest)}
        out = substitute(body, {var(n): var(m) for n, m in named.items()})
        for n, count in reversed(nest):
            out = reduction("sum", (named[n],), ((ZERO, count),), out)
        return self.atom(out)

    def _best(self, f: Fold) -> Poly:
        """Maxima, minima, products and places of extremes."""
        assert f.kind is not None
        name = f.binders[0]
        (lo, hi), more = self._span(f)
        count = self.normal(hi - lo)
        guard = conjunction([*conjuncts(f.guard), *more])
        term = f.term
        place = f.kind in ARG_FOLDS
        if lo is not ZERO and not place:
            shift = {var(name): var(name) + lo}
            term, guard = substitute(term, shift), substitute(guard, shift)
        elif place:
            count = hi
        span = (ZERO if not place else lo, count)
        if f.kind == "prod" and guard is not TRUE:
            term = call("select", guard, term, neutral("prod", term.kind))
            guard = TRUE
        with self.binding(name, span):
            condition = self.normal(guard)
            value = self.assuming(self.normal(term), condition, True)
            empty = neutral(ARG_FOLDS.get(f.kind, f.kind), term.kind)
            while value.op == "select" and empty in value.args[1:] and f.kind in ("max", "min"):
                some, yes, no = value.args
                some = some if no is empty else self._negated(some)
                condition = self._both([condition, some])
                value = self.assuming(yes if no is empty else no, condition, True)
            if place and value.op == "select" and value.args[2] is empty:
                # elements that are not left out are numbers, and there is one
                allowed = self._both([condition, value.args[0]])
                inner = self.assuming(value.args[1], allowed, True)
                some = reduction("max", (name,), (span,), value, allowed)
                if self.finite(inner) and not piecewise(inner) and self._nonempty(Fold(some)):
                    value, condition = inner, allowed
            condition = self._both(self._needed(conjuncts(condition)))
            if not place:
                straight = self._unpermuted([value, condition], name, count)
                if straight is not None:
                    value, condition = (self.normal(x) for x in straight)
            outside: Poly = {}
            if f.kind in ("max", "min", *ARG_FOLDS) and not piecewise(value):
                p = self.poly(value)
                inside = {m: c for m, c in p.items()
                          if any(name in self.variables(a) for a, _ in m)}  # fmt: skip
                outside = {m: c for m, c in p.items() if m not in inside}
                if inside or place:
                    value = self.expression(inside, term.kind)
                else:
                    nonempty = self.nonnegative(self.add(self.poly(count), UNIT, -1))
                    if condition is TRUE and nonempty:
                        return outside
                    outside = {}
        made = self._named(f, name, span, lambda at: self.normal(substitute(value, at)), condition)
        return self.atom(made) if place else self.add(outside, self.atom(made))

    def _level(self, bodies: Sequence[Expr], own: Sequence[str], count: int) -> int:
        """The first of `count` numbers above all folds inside that name nothing else there."""
        used: set[str] = set()
        for e in bodies:
            used |= set(self.variables(e)) - set(own)
            for x in walk(e):
                used |= set(x.attr.binders) if x.op == "fold" else set()
        level = max(self.height(e) for e in bodies) + 1
        while any(f"${level + k}" in used for k in range(count)):
            level += 1
        return level

    def _apart(self, f: Fold) -> Fold:
        """The fold with an index that is not in scope already."""
        name = f.binders[0]
        if name not in self.ranges and not name.startswith("@"):
            return f
        assert f.kind is not None
        own = f"~{name}"  # names of what is bound outside begin with @
        if own in self.ranges:
            self._count += 1
            own = f"~{self._count}"
        at = {var(name): var(own)}
        return Fold(reduction(f.kind, (own,), f.ranges, substitute(f.term, at),
                              substitute(f.guard, at), f.attr.acc))  # fmt: skip

    _count = 0

    def _named(
        self, f: Fold, name: str, span: Range, term: Callable[[dict[Expr, Expr]], Expr], guard: Expr
    ) -> Expr:
        """The fold with its index named by depth, so that equal folds are the same node."""
        assert f.kind is not None
        with self.binding(name, span):
            first = term({})
        own = f"${self._level([first, guard], [name], 1)}"
        with self.binding(own, span):
            at = {var(name): var(own)}
            body = term(at)
            condition = self.normal(substitute(guard, at)) if guard is not TRUE else TRUE
        kind = "any" if f.kind == "all" else f.kind
        if kind == "any" and span[0] is ZERO:
            with self.binding(own, span):
                straight = self._unpermuted([body], own, span[1])
                body = body if straight is None else self.normal(straight[0])
        if kind == "any" and body is FALSE:
            return FALSE
        return reduction(kind, (own,), (span,), body, condition)
