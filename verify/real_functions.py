"""Values, order and functions in the normal form over the reals.

exp turns sums into products, a root is a power, odd functions carry their sign outside. An infinity
stands for the value of an empty maximum only.
"""

from __future__ import annotations

import math
from fractions import Fraction

from opwright.ir.expr import (
    FALSE,
    TRUE,
    ZERO,
    Expr,
    Fold,
    call,
    conjuncts,
    const,
    rebuild,
    substitute,
    var,
    walk,
)
from opwright.verify.algebra import (
    UNIT,
    Algebra,
    Monomial,
    Poly,
    finite_number,
    infinite,
    scaled,
)

ODD = {"sin", "tan", "sinh", "tanh", "asin", "atan", "erf"}
EVEN = {"cos", "cosh"}
# values at minus and plus infinity, where a function has them
LIMITS = {"exp": (0.0, None), "exp2": (0.0, None), "tanh": (-1.0, 1.0), "erf": (-1.0, 1.0),
          "sigmoid": (0.0, 1.0), "expm1": (-1.0, None)}  # fmt: skip
SINGLES = {"f32", "f16", "bf16"}
LARGEST = (2 - 2**-23) * 2.0**127  # number in single precision
POSITIVE = {"exp", "exp2", "cosh", "sqrt", "abs"}


class Functions(Algebra):
    """What is known of a value, and functions of values."""

    def sorted(self, p: Poly) -> Poly:
        out: Poly = {}
        for m, c in p.items():
            out = self.add(out, {self.monomial(dict(m)): c})
        return out

    def finite(self, e: Expr) -> bool:
        """Whether a value is a real number: no infinity in it, no maximum of nothing."""
        for x in walk(e):
            if x.op == "const" and x.kind == "real" and not finite_number(x):
                return False
            if x.op == "fold" and Fold(x).kind in ("max", "min") and not self._nonempty(Fold(x)):
                return False
        return True

    def _nonempty(self, f: Fold) -> bool:
        """Whether some index is in range and allowed: the first or the last one, or the last one
        that a comparison allows."""
        lo, hi = f.ranges[0]
        own = var(f.binders[0])
        places = [lo, hi - 1]
        for part in conjuncts(self.normal(f.guard)):
            c = part.args[0] if part.op == "not" else part
            if c.op != "le" or c.args[0] is not ZERO:
                continue
            p = self.poly(c.args[1])
            slope = p.get(((own, 1),))
            if slope in (1, -1) and sum(any(a is own for a, _ in m) for m in p) == 1:
                past = 1 if part.op == "not" else 0
                places.append(self.normal(own - int(slope) * (c.args[1] + past)))
        inside = f.guard & call("le", lo, own) & call("lt", own, hi)
        return any(
            self.normal(substitute(inside, {own: place})) is TRUE
            for place in places
            if f.binders[0] not in self.variables(place)
        )

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

    def extreme_beyond(self, f: Fold, c: Fraction) -> bool:
        """Whether a maximum is of something and at least c; a minimum at most c."""
        if f.kind not in ("max", "min") or len(f.binders) != 1 or not self._nonempty(f):
            return False
        sign = 1 if f.kind == "max" else -1
        name, old = f.binders[0], self.ranges.get(f.binders[0])
        self.ranges[name] = f.ranges[0]
        try:
            p = scaled(self.add(self.poly(f.term), {(): c} if c else {}, -1), Fraction(sign))
            return self.at_least_zero_by_cases(p) or self._least_real(p) >= 0
        finally:
            if old is None:
                self.ranges.pop(name, None)
            else:
                self.ranges[name] = old

    def _least_real(self, p: Poly) -> Fraction | float:
        """What a sum of inputs with bounds is at least; minus infinity where that is not known."""
        total: Fraction | float = Fraction(0)
        for m, c in p.items():
            low: Fraction | float = -math.inf
            if not m:
                low = c
            elif c > 0 and all(n % 2 == 0 or self._not_negative(a) for a, n in m):
                low = Fraction(0)
            elif len(m) == 1 and m[0][1] == 1 and m[0][0].op == "read":
                low, high = self._real_range(m[0][0].attr[0])
                end = low if c > 0 else high
                low = c * Fraction(end) if math.isfinite(end) else -math.inf
            if not isinstance(low, Fraction):
                return -math.inf
            total += low
        return total

    def _real_range(self, name: str) -> tuple[float, float]:
        """Between which numbers all elements of an input are: as required, or as finite numbers
        of its type."""
        low, high = self.real_bounds.get(name, (-math.inf, math.inf))
        t = self.tensors.get(name)
        if t is not None and t.body is None and name.isidentifier() and t.dtype.name in SINGLES:
            low, high = max(low, -LARGEST), min(high, LARGEST)
        return low, high

    def at_least_zero_by_cases(self, p: Poly) -> bool:
        """The same where one comparison with 0 in it holds and where it fails."""
        if self.at_least_zero(p):
            return True
        for a in {a for m in p for a, _ in m if self.is_indicator(a)}:
            c = a.args[0]
            if c.op != "lt" or c.args[0].kind != "real" or c.args[0].attr != 0:
                continue
            says = self.poly(c.args[1])  # 0 < says where it holds, says <= 0 where it fails
            for value, sign in ((1, 1), (0, -1)):
                rest: Poly = {}
                for m, k in p.items():
                    if value or all(x is not a for x, _ in m):
                        left = tuple((x, n) for x, n in m if x is not a)
                        rest = self.add(rest, {left: k})
                times = [rest[m] / k for m, k in says.items() if m in rest]
                shares = [t for t in times if t * sign > 0]
                if not self.at_least_zero(rest) and not any(
                    self.at_least_zero(self.add(rest, scaled(says, -t))) for t in shares
                ):
                    break
            else:
                return True
        return False

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


def piecewise(e: Expr) -> bool:
    """A choice that stays one because a branch is infinite."""
    return (
        e.op == "select"
        and e.kind == "real"
        and not (finite_number(e.args[1]) and finite_number(e.args[2]))
    )
