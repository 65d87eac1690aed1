"""Normal form of index notation over the reals: functions, folds, recurrences.

Sums are linear: what does not depend on the index goes out of them, and a sum over an equality is
the element that it picks. exp turns sums into products, a root is a power, odd functions carry
their sign outside. An infinity stands for the value of an empty maximum only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import permutations

from opwright.ir.expr import (
    FALSE,
    LEAVES,
    TRUE,
    ZERO,
    Expr,
    Fold,
    call,
    conjunction,
    conjuncts,
    const,
    neutral,
    read,
    read_parts,
    rebuild,
    reduction,
    substitute,
    transform,
    var,
    walk,
)
from opwright.ir.op import Tensor
from opwright.ir.semantics import ARG_FOLDS
from opwright.verify.algebra import (
    UNIT,
    Algebra,
    Monomial,
    Poly,
    Range,
    TooLarge,
    as_real,
    finite_number,
    infinite,
    scaled,
)

ODD = {"sin", "tan", "sinh", "tanh", "asin", "atan", "erf"}
EVEN = {"cos", "cosh"}
# values at minus and plus infinity, where a function has them
LIMITS = {"exp": (0.0, None), "exp2": (0.0, None), "tanh": (-1.0, 1.0), "erf": (-1.0, 1.0),
          "sigmoid": (0.0, 1.0), "expm1": (-1.0, None)}  # fmt: skip
POSITIVE = {"exp", "exp2", "cosh", "sqrt", "abs"}


class Reals(Algebra):
    """The real half of the normal form."""

    def _real(self, e: Expr) -> Poly:
        if e.op == "const":
            return self.number(e.attr) if finite_number(e) else self.atom(e)
        if e.op == "toreal":
            return self.sorted(as_real(self.poly(e.args[0])))
        if e.op in LEAVES:
            return self.atom(e)
        if e.op == "cast":
            return self.poly(e.args[0])
        if e.op == "read":
            return self.element(e)
        if e.op == "fold":
            return self.fold(e)
        if e.op == "select":
            return self.choice(e)
        args = [self.normal(a) for a in e.args]
        lifted = self._lifted(e, args)
        if lifted is not None:
            return lifted
        return self._function(e.op, args, e)

    def sorted(self, p: Poly) -> Poly:
        out: Poly = {}
        for m, c in p.items():
            out = self.add(out, {self.monomial(dict(m)): c})
        return out

    # -- infinities -------------------------------------------------------------------------------

    def mixed(self, c: Expr, a: Expr, b: Expr) -> Poly:
        if a.kind == "real" and (infinite(a) or infinite(b) or piecewise(a) or piecewise(b)):
            if c.op == "not":
                c, a, b = c.args[0], b, a
            return self.atom(call("select", c, a, b))
        return super().mixed(c, a, b)

    def _lifted(self, e: Expr, args: list[Expr]) -> Poly | None:
        """A function of a choice with an infinite branch is a choice of its values."""
        for n, a in enumerate(args):
            if piecewise(a):
                c, yes, no = a.args
                sides = [rebuild(e, (*args[:n], x, *args[n + 1 :])) for x in (yes, no)]
                return self.choice_of(c, *sides)
        return None

    def finite(self, e: Expr) -> bool:
        """Whether a value is a real number: no infinity in it, no maximum of nothing."""
        for x in walk(e):
            if x.op == "const" and x.kind == "real" and not finite_number(x):
                return False
            if x.op == "fold" and Fold(x).kind in ("max", "min") and not self._nonempty(Fold(x)):
                return False
        return True

    def _nonempty(self, f: Fold) -> bool:
        """Whether some index is in range and allowed: the first or the last one."""
        lo, hi = f.ranges[0]
        if not self.nonnegative(self.add(self.poly(hi - lo), UNIT, -1)):
            return False
        ends = (lo, hi - 1)
        own = var(f.binders[0])
        return any(self.normal(substitute(f.guard, {own: end})) is TRUE for end in ends)

    def special(self, e: Expr) -> Expr:
        x = self.normal(e.args[0])
        return FALSE if e.op == "isnan" or self.finite(x) else call(e.op, x)

    def compared_reals(self, e: Expr) -> Expr:
        a, b = (self.normal(x) for x in e.args)
        for n, x in enumerate((a, b)):
            if piecewise(x):
                c, yes, no = x.args
                sides = [rebuild(e, (y, b) if n == 0 else (a, y)) for y in (yes, no)]
                return self.normal((c & sides[0]) | (~c & sides[1]))
        op = "eq" if e.op == "approx" else e.op
        left, right = infinite(a), infinite(b)
        if (left or self.finite(a)) and (right or self.finite(b)) and (left or right):
            holds = {"lt": left < right, "le": left <= right, "eq": left == right,
                     "ne": left != right}[op]  # fmt: skip
            return TRUE if holds else FALSE
        p = self.add(self.poly(b), self.poly(a), -1)
        if op in ("eq", "ne"):
            p = self._unit(p)
            if all(not m for m in p):
                same = TRUE if not p else FALSE
            else:
                same = call("eq", const(0.0), self.expression(p, "real"))
            return same if op == "eq" else self._negated(same)
        if op == "le":
            return self._negated(self._positive(scaled(p, Fraction(-1))))
        return self._positive(p)

    def _positive(self, p: Poly) -> Expr:
        """0 < p, scaled by a positive number."""
        if all(not m for m in p):
            return TRUE if p.get((), Fraction(0)) > 0 else FALSE
        if p.get((), Fraction(0)) > 0 and self.at_least_zero(self.add(p, {(): p[()]}, -1)):
            return TRUE
        if self._all_positive(p):
            return TRUE
        size = abs(self.leading(p))
        return call("lt", const(0.0), self.expression(scaled(p, 1 / size), "real"))

    def _unit(self, p: Poly) -> Poly:
        """Scaled to a leading coefficient of 1."""
        c = self.leading(p)
        return scaled(p, 1 / c) if c else p

    def _all_positive(self, p: Poly) -> bool:
        """Whether a sum is > 0: no negative term, some positive one."""
        if not self.at_least_zero(p):
            return False
        return any(all(self._above_zero(a) for a, _ in m) for m in p)

    def _above_zero(self, a: Expr) -> bool:
        if a.op == "toreal":
            return a.args[0].op == "size" and self.least.get(a.args[0].attr, 0) >= 1
        return a.op in ("exp", "exp2", "cosh")

    def at_least_zero(self, p: Poly) -> bool:
        """Whether a value is provably >= 0."""
        return all(c > 0 and all(n % 2 == 0 or self._not_negative(a) for a, n in m)
                   for m, c in p.items())  # fmt: skip

    def _not_negative(self, a: Expr) -> bool:
        if a.op == "fold" and Fold(a).kind == "sum":
            return self.at_least_zero(self.poly(Fold(a).term))
        if a.op == "div" and a.args[0].op == "const":
            return bool(a.args[0].attr > 0) and self.at_least_zero(self.poly(a.args[1]))
        if a.op == "toreal":
            return self.nonnegative(self.poly(a.args[0]))
        return a.op in POSITIVE or self.is_indicator(a)

    # -- functions --------------------------------------------------------------------------------

    def _function(self, op: str, args: list[Expr], e: Expr) -> Poly:
        signs = [infinite(a) for a in args]
        if any(signs):
            found = self._at_infinity(op, args, signs)
            return found if found is not None else self.atom(rebuild(e, tuple(args)))
        p = [self.poly(a) if a.kind != "bool" else {} for a in args]
        if op in ("add", "sub"):
            return self.add(p[0], p[1], 1 if op == "add" else -1)
        if op == "mul":
            return self.multiply(p[0], p[1])
        if op == "fma":
            return self.add(self.multiply(p[0], p[1]), p[2])
        if op == "neg":
            return scaled(p[0], Fraction(-1))
        if op == "div":
            return self.multiply(p[0], self.inverse(p[1]))
        if op in ("max", "min"):
            return self._greater(op, p[0], p[1])
        if op == "exp":
            return self.exponential(p[0])
        if op == "expm1":
            return self.add(self.exponential(p[0]), UNIT, -1)
        if op == "log":
            return self.logarithm(p[0])
        if op == "log1p":
            return self.logarithm(self.add(p[0], UNIT))
        if op == "sqrt":
            return self.root(p[0])
        if op == "rsqrt":
            return self.inverse(self.root(p[0]))
        if op == "sigmoid":
            return self.inverse(self.add(UNIT, self.exponential(scaled(p[0], Fraction(-1)))))
        if op == "pow":
            found = self._power(p[0], p[1])
            if found is not None:
                return found
        if op == "abs":
            if self.at_least_zero(p[0]):
                return p[0]
            return self._greater("max", p[0], scaled(p[0], Fraction(-1)))
        if op in ODD or op in EVEN:
            if not p[0]:
                return {} if op in ODD else dict(UNIT)
            turned = self.leading(p[0]) < 0
            x = scaled(p[0], Fraction(-1)) if turned else p[0]
            out = self.atom(call(op, self.expression(x, "real")))
            return scaled(out, Fraction(-1)) if turned and op in ODD else out
        return self.atom(rebuild(e, tuple(args)))

    def _at_infinity(self, op: str, args: list[Expr], signs: list[int]) -> Poly | None:
        """What is left of a function of an infinity and finite values."""
        if op in ("max", "min"):
            neutral_sign = -1 if op == "max" else 1
            rest = [a for a, s in zip(args, signs, strict=True) if s != neutral_sign]
            if len(rest) < 2:
                return self.poly(rest[0] if rest else args[0])
        if not all(s or self.finite(a) for s, a in zip(signs, args, strict=True)):
            return None
        if op in LIMITS:
            value = LIMITS[op][signs[0] > 0]
            return None if value is None else self.number(value)
        big = [a for a, s in zip(args, signs, strict=True) if s]
        if op in ("max", "min"):
            return self.atom(big[0])
        if op == "neg":
            return self.atom(const(-float(args[0].attr)))
        if op == "sub":
            signs = [signs[0], -signs[1]]
            op = "add"
        if op == "add" and len({s for s in signs if s}) == 1:
            return self.atom(const(max(signs, key=abs) * float("inf")))
        if op == "div" and not signs[0]:
            return {}
        if op == "mul" and all(s or finite_number(a) for s, a in zip(signs, args, strict=True)):
            sign = 1
            for a in args:
                sign *= 1 if a.attr > 0 else -1 if a.attr < 0 else 0
            return self.atom(const(sign * float("inf"))) if sign else None
        return None

    def _greater(self, op: str, a: Poly, b: Poly) -> Poly:
        """max(a, b) = b + [a > b] (a - b), so that it equals the choice that it is."""
        difference = self.add(a, b, -1)
        if self.leading(difference) < 0:
            a, b, difference = b, a, scaled(difference, Fraction(-1))
        above = self.indicator(self._positive(difference), "real")
        step = self.multiply(above, difference)
        return self.add(b, step) if op == "max" else self.add(a, step, -1)

    def _power(self, a: Poly, b: Poly) -> Poly | None:
        if any(b_mono for b_mono in b):
            return None
        n = b.get((), Fraction(0))
        if n.denominator == 1 and abs(n) <= 8:
            out = dict(UNIT)
            for _ in range(abs(int(n))):
                out = self.multiply(out, a)
            return out if n >= 0 else self.inverse(out)
        if n.denominator == 2 and abs(n) <= 4:
            out = self.root(a)
            for _ in range((abs(n.numerator) - 1) // 2):
                out = self.multiply(out, a)
            return out if n > 0 else self.inverse(out)
        return None

    def inverse(self, p: Poly) -> Poly:
        if len(p) == 1:
            ((m, c),) = p.items()
            out: Poly = {(): 1 / c}
            for a, n in m:
                if a.op == "exp":
                    part = self.exponential(scaled(self.poly(a.args[0]), Fraction(-n)))
                elif a.op == "div" and a.args[0].op == "const" and n > 0:
                    part = dict(UNIT)
                    for _ in range(n):
                        part = self.multiply(part, self.poly(a.args[1]))
                elif self.is_indicator(a):
                    part = self.atom(call("div", const(1.0), a))
                else:
                    part = {((a, -n),): Fraction(1)}
                out = self.multiply(out, part)
            return out
        if not p:
            return self.atom(call("div", const(1.0), const(0.0)))
        # a common monomial and the leading coefficient go out
        c = self.leading(p)
        whole = scaled(p, 1 / c)
        return {((call("div", const(1.0), self.expression(whole, "real")), 1),): 1 / c}

    def exponential(self, p: Poly) -> Poly:
        if not p:
            return dict(UNIT)
        out: Poly = dict(UNIT)
        rest: Poly = {}
        for m, c in p.items():
            if len(m) == 1 and m[0][1] == 1 and m[0][0].op == "log" and c.denominator == 1:
                x = self.poly(m[0][0].args[0])
                for _ in range(abs(int(c))):
                    out = self.multiply(out, x if c > 0 else self.inverse(x))
            else:
                rest[m] = c
        if rest:
            atom = call("exp", self.expression(rest, "real"))
            out = self.multiply(out, {((atom, 1),): Fraction(1)})
        return out

    def logarithm(self, p: Poly) -> Poly:
        """log of a product with an exponential: the exponent goes out."""
        if p == UNIT:
            return {}
        if len(p) == 1:
            ((m, c),) = p.items()
            powers = [a for a, _ in m if a.op == "exp"]
            if powers:
                rest = {tuple((a, n) for a, n in m if a.op != "exp"): c}
                exponent = self.poly(powers[0].args[0])
                return self.add(exponent, self.logarithm(rest))
        return self.atom(call("log", self.expression(p, "real")))

    def root(self, p: Poly) -> Poly:
        if all(not m for m in p):
            c = p.get((), Fraction(0))
            for n in (c.numerator, c.denominator):
                if n < 0 or int(n**0.5 + 0.5) ** 2 != n:
                    break
            else:
                return self.number(Fraction(int(c.numerator**0.5 + 0.5),
                                            int(c.denominator**0.5 + 0.5)))  # fmt: skip
        return self.atom(call("sqrt", self.expression(p, "real")))

    def product(self, m: Monomial, n: Monomial) -> Poly:
        """Exponentials are joined, and squares of roots are what is below them."""
        if not m or not n:
            return {m or n: Fraction(1)}
        powers = dict(m)
        for a, k in n:
            powers[a] = powers.get(a, 0) + k
        exponent: Poly = {}
        extra: list[Poly] = []
        for a in [x for x in powers if x.op in ("exp", "sqrt")]:
            k = powers[a]
            if a.op == "exp":
                del powers[a]
                exponent = self.add(exponent, scaled(self.poly(a.args[0]), Fraction(k)))
            elif abs(k) >= 2:
                half, powers[a] = divmod(abs(k), 2)
                powers[a] *= 1 if k > 0 else -1
                below = self.poly(a.args[0])
                extra += [below if k > 0 else self.inverse(below)] * half
        out: Poly = {self.monomial(powers): Fraction(1)}
        if exponent:
            atom = call("exp", self.expression(exponent, "real"))
            extra_powers = dict(next(iter(out)))
            extra_powers[atom] = 1
            out = {self.monomial(extra_powers): Fraction(1)}
        for x in extra:
            out = self.multiply(out, x)
        return out

    # -- folds ------------------------------------------------------------------------------------

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
        f = self._apart(f)
        return self._sum(f) if f.kind == "sum" else self._best(f)

    def fold_condition(self, e: Expr) -> Expr:
        f = Fold(e)
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
        first, last = self._edge(lo, False), self._edge(hi, True)
        more = []
        if first is not lo:
            more.append(call("le", lo, name))
        if last is not hi:
            more.append(call("lt", name, hi))
        return (first, last), more

    def _edge(self, e: Expr, upper: bool) -> Expr:
        """The extreme value of a bound as index variables run; itself where it is not known."""
        p = self.poly(e)
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
            while value.op == "select" and (value.args[2] is empty) and f.kind in ("max", "min"):
                condition = self._both([condition, value.args[0]])
                value = self.assuming(value.args[1], condition, True)
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
        if name not in self.ranges:
            return f
        assert f.kind is not None
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

    # -- recurrences ------------------------------------------------------------------------------

    def element(self, e: Expr) -> Poly:
        name, index, fill = read_parts(e)
        t = self.tensors[name]
        if t.recurrence is None or fill is not None or self._inside(t):
            return super().element(e)
        known = self.recurrence(t)
        when = [a.name for a in t.axes].index(t.recurrence.axis)
        at = [self.normal(i) for i in index]
        order = [at[when], *at[:when], *at[when + 1 :]]
        return self.atom(read(known, tuple(order), e.kind))

    def _inside(self, t: Tensor) -> bool:
        return getattr(self, "_running", None) is not None and t.name in self._running

    _running: frozenset[str] = frozenset()

    def recurrence(self, t: Tensor) -> str:
        """A name made of what the recurrence computes, the same for equal ones."""
        assert t.recurrence is not None
        group = [self.tensors[n] for n in t.recurrence.group]
        signatures: dict[str, str] = {}
        self._running = frozenset(u.name for u in group)
        try:
            for u in group:
                signatures[u.name] = self._signature(u, group, signatures)
        finally:
            self._running = frozenset()
        name = f"%{signatures[t.name][:24]}"
        if name not in self.tensors:
            when = [a.name for a in t.axes].index(t.recurrence.axis)
            axes = (t.axes[when], *t.axes[:when], *t.axes[when + 1 :])
            self.tensors[name] = Tensor(name, t.dtype, axes)
        return name

    def _signature(self, t: Tensor, group: list[Tensor], done: dict[str, str]) -> str:
        assert t.recurrence is not None and t.body is not None
        when = [a.name for a in t.axes].index(t.recurrence.axis)
        order = [t.axes[when], *t.axes[:when], *t.axes[when + 1 :]]
        names = {var(a.name): var(f"@{k}") for k, a in enumerate(order)}
        body = substitute(self._presents(t, group), names)
        init = substitute(t.recurrence.init, names)
        olds = dict(self.ranges)
        for k, a in enumerate(order):
            self.ranges[f"@{k}"] = (a.lo, a.hi)
        try:
            found = self.normal(body)
            start = self.normal(init)
            extents = [self.normal(a.hi - a.lo) for a in order]
        finally:
            self.ranges = olds
        bodies = {u.name: u for u in group}

        def rule(x: Expr) -> Expr | None:
            if x.op != "read" or x.attr[0] not in bodies:
                return None
            u = bodies[x.attr[0]]
            assert u.recurrence is not None
            where = [a.name for a in u.axes].index(u.recurrence.axis)
            _, index, _ = read_parts(x)
            moved = (index[where], *index[:where], *index[where + 1 :])
            own = "@self" if u.name == t.name or self._alike(u, t) else f"@{u.name}"
            return read(own, moved, x.kind)

        found = transform(found, rule)
        uses_itself = any(x.op == "read" and x.attr[0] == "@self" for x in walk(found))
        parts = [self.key(found), *(self.key(x) for x in extents)]
        parts += [self.key(start)] if uses_itself or not extents else []
        from hashlib import sha256

        return sha256("\0".join(parts).encode()).hexdigest()

    def _presents(self, t: Tensor, group: list[Tensor]) -> Expr:
        """The body with reads at the same step replaced by what they read."""
        assert t.body is not None and t.recurrence is not None
        bodies = {u.name: u for u in group}
        step = var(t.recurrence.axis)

        def rule(x: Expr) -> Expr | None:
            if x.op != "read" or x.attr[0] not in bodies:
                return None
            u = bodies[x.attr[0]]
            assert u.recurrence is not None
            where = [a.name for a in u.axes].index(u.recurrence.axis)
            _, index, _ = read_parts(x)
            if self.poly(index[where] - step):
                return None
            mapping = {var(a.name): i for a, i in zip(u.axes, index, strict=True)}
            return substitute(self._presents(u, group), mapping)

        return transform(t.body, rule)

    def _alike(self, u: Tensor, t: Tensor) -> bool:
        """Two members of a group with one body hold the same values."""
        assert u.recurrence is not None and t.recurrence is not None
        if u.body is None or t.body is None or len(u.axes) != len(t.axes):
            return False
        names = {var(a.name): var(b.name) for a, b in zip(u.axes, t.axes, strict=True)}
        return substitute(u.body, names) is t.body


def piecewise(e: Expr) -> bool:
    """A choice that stays one because a branch is infinite."""
    return (
        e.op == "select"
        and e.kind == "real"
        and not (finite_number(e.args[1]) and finite_number(e.args[2]))
    )


def equal_reals(algebra: Reals, a: Poly, b: Poly) -> bool:
    """Whether a - b vanishes once denominators are multiplied out."""
    difference = algebra.add(a, b, -1)
    for _ in range(6):
        if not difference:
            return True
        below = [
            (x, n) for m in difference for x, n in m
            if x.op == "div" and x.args[0].op == "const" and n > 0
        ]  # fmt: skip
        if not below:
            return False
        atom = max(below, key=lambda r: algebra.key(r[0]))[0]
        power = max(n for x, n in below if x is atom)
        bottom = algebra.poly(atom.args[1])
        out: Poly = {}
        for m, c in difference.items():
            powers = dict(m)
            n = powers.pop(atom, 0)
            term: Poly = {algebra.monomial(powers): c}
            for _ in range(power - n):
                term = algebra.multiply(term, bottom)
            out = algebra.add(out, term)
        difference = out
    return not difference


__all__ = ["Reals", "TooLarge", "equal_reals", "piecewise"]
