"""Integer terms and predicates for proofs: polynomials over atoms, with intervals, simplified as
built.

An atom is a size, a program id, a loop counter, a lane, an element of an input, or the result of a
division, minimum, maximum or selection; what the latter mean is an axiom that goes with the atom
into every query. Sums and products are normalised here, so that most equalities are syntactic, and
a query that reaches a solver is linear but for products of atoms. Nothing here knows a solver.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

Monomial = tuple[int, ...]  # numbers of atoms, sorted; () is 1
Interval = tuple[int | None, int | None]


@dataclass(eq=False, slots=True)
class Atom:
    """An unknown integer with constant bounds and the facts that define it.

    `function` and `arguments` name what it is the value of, for congruence.
    """

    number: int
    name: str
    lo: int | None
    hi: int | None
    axioms: list[Formula] = field(default_factory=list)
    function: str = ""
    arguments: tuple[Poly, ...] = ()
    quotient: tuple[Poly, int] | None = None  # (numerator, divisor) of a division by a constant


class Poly:
    """A polynomial with integer coefficients; interned, equality is identity."""

    __slots__ = ("atoms", "items")

    def __init__(self, items: tuple[tuple[Monomial, int], ...]) -> None:
        self.items = items
        self.atoms = frozenset(a for m, _ in items for a in m)

    @property
    def constant(self) -> int | None:
        """Its value if it has no atoms."""
        if not self.items:
            return 0
        return self.items[0][1] if len(self.items) == 1 and self.items[0][0] == () else None


class Formula:
    """A predicate: ge0 (poly >= 0), eq0, bool (an unknown), and, or, not, true, false; interned."""

    __slots__ = ("args", "atoms", "number", "op")
    atoms: frozenset[int]

    def __init__(self, op: str, args: tuple[Poly | Formula | str, ...], number: int = 0) -> None:
        self.op, self.args = op, args
        self.number = number  # in order of making
        found: set[int] = set()
        for a in args:
            if isinstance(a, Poly | Formula):
                found |= a.atoms
        self.atoms = frozenset(found)


YES, NO = Formula("true", ()), Formula("false", ())


class Terms:
    """Makes and owns the terms of one program's proofs."""

    def __init__(self) -> None:
        self.atoms: list[Atom] = []
        self._polys: dict[tuple[tuple[Monomial, int], ...], Poly] = {}
        self._formulas: dict[tuple[object, ...], Formula] = {}
        self._made: dict[tuple[object, ...], Poly] = {}
        self.limits: dict[Monomial, int] = {}  # upper bounds of products, from facts
        self.named: dict[Poly, Poly] = {}  # atoms for sums that are factors of products

    # -- polynomials
    def poly(self, items: dict[Monomial, int]) -> Poly:
        key = tuple(sorted((m, c) for m, c in items.items() if c))
        found = self._polys.get(key)
        if found is None:
            found = self._polys[key] = Poly(key)
        return found

    def const(self, n: int) -> Poly:
        return self.poly({(): n})

    def atom(
        self,
        name: str,
        lo: int | None = None,
        hi: int | None = None,
        function: str = "",
        arguments: tuple[Poly, ...] = (),
    ) -> Atom:
        a = Atom(len(self.atoms), name, lo, hi, [], function, arguments)
        self.atoms.append(a)
        return a

    def of(self, a: Atom) -> Poly:
        return self.poly({(a.number,): 1})

    def fresh(self, name: str, lo: int | None = None, hi: int | None = None) -> Poly:
        return self.of(self.atom(name, lo, hi))

    def add(self, a: Poly, b: Poly, sign: int = 1) -> Poly:
        out = dict(a.items)
        for m, c in b.items:
            out[m] = out.get(m, 0) + sign * c
        return self.poly(out)

    def sub(self, a: Poly, b: Poly) -> Poly:
        return self.add(a, b, -1)

    def scale(self, a: Poly, n: int) -> Poly:
        return self.poly({m: c * n for m, c in a.items})

    def shift(self, a: Poly, n: int) -> Poly:
        return self.add(a, self.const(n))

    def mul(self, a: Poly, b: Poly) -> Poly:
        if a.constant is None and b.constant is None:
            a, b = self._factor(a), self._factor(b)
        out: dict[Monomial, int] = {}
        for m, c in a.items:
            for n, d in b.items:
                k = tuple(sorted(m + n))
                out[k] = out.get(k, 0) + c * d
        return self.poly(out)

    def _factor(self, p: Poly) -> Poly:
        """A polynomial as a factor: one that has products itself becomes an atom, since products of
        three are more than the lemmas about products reach."""
        found = self.named.get(p)
        if found is not None or len(p.items) < 2 or all(len(m) < 2 for m, _ in p.items):
            return found or p
        atom = self.atom(f"factor{len(self.atoms)}", *self.interval(p))
        name = self.named[p] = self.of(atom)
        atom.axioms.append(self.formula("eq0", self.sub(name, p)))
        return name

    # -- intervals
    def interval(self, p: Poly) -> Interval:
        """Constant bounds of a polynomial that follow from those of its atoms."""
        lo: int | None = 0
        hi: int | None = 0
        for m, c in p.items:
            a, b = self.of_monomial(m)
            a, b = (_times(a, c), _times(b, c)) if c > 0 else (_times(b, c), _times(a, c))
            lo = None if lo is None or a is None else lo + a
            hi = None if hi is None or b is None else hi + b
        return lo, hi

    def of_monomial(self, m: Monomial) -> Interval:
        lo: int | None = 1
        hi: int | None = 1
        for n in m:
            a = self.atoms[n]
            lo, hi = _product((lo, hi), (a.lo, a.hi))
        if len(m) > 1 and self.limits and lo is not None and lo >= 0:
            hi = self._limited(m, hi)
        return lo, hi

    def _limited(self, m: Monomial, hi: int | None) -> int | None:
        for part, bound in self.limits.items():
            rest = _without(m, part)
            if rest is not None:
                for n in rest:
                    top = self.atoms[n].hi
                    if top is None:
                        break
                    bound *= max(top, 0)
                else:
                    hi = bound if hi is None else min(hi, bound)
        return hi

    # -- integer operations
    def divide(self, a: Poly, d: Poly) -> tuple[Poly, Poly]:
        """Floor quotient and remainder; their meaning holds where the divisor is positive."""
        n = d.constant
        if n is not None and n > 0:
            return self._divide_constant(a, n)
        whole: dict[Monomial, int] = {}
        rest: dict[Monomial, int] = {}
        if len(d.items) == 1 and d.items[0][1] == 1:
            for m, c in a.items:
                cut = _without(m, d.items[0][0])
                (rest if cut is None else whole)[m if cut is None else cut] = c
        else:
            rest = dict(a.items)
        g, r = self.poly(whole), self.poly(rest)
        if r.constant == 0:
            return g, r
        key = ("div", r, d)
        q = self._made.get(key)
        if q is None:
            lo, hi = self.interval(r)
            positive = lo is not None and lo >= 0
            atom = self.atom(f"quotient{len(self.atoms)}", 0 if positive else None, hi)
            if not positive and (lo is None or hi is None):
                atom.hi = None
            elif not positive:
                assert lo is not None and hi is not None
                atom.lo, atom.hi = min(lo, 0), max(hi, 0)
            q = self._made[key] = self.of(atom)
            left = self.sub(r, self.mul(q, d))
            sane = self.both(self.ge0(left), self.ge0(self.shift(self.sub(d, left), -1)))
            atom.axioms.append(self.either(self.lt(d, self.const(1)), sane))
            self._name_remainder(left, d)
        return self.add(g, q), self.sub(r, self.mul(q, d))

    def _name_remainder(self, left: Poly, d: Poly) -> None:
        """An atom that stands for a remainder in products, where its sum would be multiplied out.
        Its divisor is positive, or the atom means nothing."""
        hi = self.interval(d)[1]
        atom = self.atom(f"remainder{len(self.atoms)}", 0, None if hi is None else max(hi - 1, 0))
        name = self.named[left] = self.of(atom)
        sane = self.all((self.formula("eq0", self.sub(name, left)), self.lt(name, d)))
        atom.axioms.append(self.either(self.lt(d, self.const(1)), sane))

    def _divide_constant(self, a: Poly, n: int) -> tuple[Poly, Poly]:
        whole = {m: c // n for m, c in a.items}
        rest = self.poly({m: c % n for m, c in a.items})
        g = self.poly(whole)
        lo, hi = self.interval(rest)
        if lo is not None and hi is not None and lo // n == hi // n:
            return self.shift(g, lo // n), self.shift(rest, -(lo // n) * n)
        key = ("div", rest, n)
        q = self._made.get(key)
        if q is None:
            low = None if lo is None else lo // n
            high = None if hi is None else hi // n
            atom = self.atom(f"quotient{len(self.atoms)}", low, high)
            atom.quotient = (rest, n)
            q = self._made[key] = self.of(atom)
            left = self.sub(rest, self.scale(q, n))
            atom.axioms += [
                self.raw_ge0(left),
                self.raw_ge0(self.shift(self.scale(left, -1), n - 1)),
            ]
        return self.add(g, q), self.sub(rest, self.scale(q, n))

    def smaller(self, a: Poly, b: Poly) -> Poly:
        """Minimum."""
        lo, hi = self.interval(self.sub(a, b))
        if hi is not None and hi <= 0:
            return a
        if lo is not None and lo >= 0:
            return b
        key = ("min", *sorted((a, b), key=id))
        found = self._made.get(key)
        if found is None:
            (al, ah), (bl, bh) = self.interval(a), self.interval(b)
            low = None if al is None or bl is None else min(al, bl)
            high = bh if ah is None else ah if bh is None else min(ah, bh)
            atom = self.atom(f"minimum{len(self.atoms)}", low, high)
            found = self._made[key] = self.of(atom)
            atom.axioms += [self.raw_ge0(self.sub(a, found)), self.raw_ge0(self.sub(b, found))]
            atom.axioms.append(self.either(self.eq(found, a), self.eq(found, b)))
        return found

    def larger(self, a: Poly, b: Poly) -> Poly:
        """Maximum."""
        return self.scale(self.smaller(self.scale(a, -1), self.scale(b, -1)), -1)

    def choose(self, c: Formula, a: Poly, b: Poly) -> Poly:
        """a where c holds, else b."""
        if c is YES or a is b:
            return a
        if c is NO:
            return b
        key = ("choose", c, a, b)
        found = self._made.get(key)
        if found is None:
            (al, ah), (bl, bh) = self.interval(a), self.interval(b)
            low = None if al is None or bl is None else min(al, bl)
            high = None if ah is None or bh is None else max(ah, bh)
            atom = self.atom(f"choice{len(self.atoms)}", low, high)
            found = self._made[key] = self.of(atom)
            atom.axioms.append(self.either(self.no(c), self.eq(found, a)))
            atom.axioms.append(self.either(c, self.eq(found, b)))
        return found

    # -- predicates
    def formula(self, op: str, *args: Poly | Formula | str) -> Formula:
        key = (op, *args)
        found = self._formulas.get(key)
        if found is None:
            found = self._formulas[key] = Formula(op, args, len(self._formulas) + 2)
        return found

    def boolean(self, name: str) -> Formula:
        """An unknown truth value."""
        return self.formula("bool", name)

    def raw_ge0(self, p: Poly) -> Formula:
        """p >= 0, never decided by intervals: for axioms that intervals were taken from."""
        return self.formula("ge0", p)

    def ge0(self, p: Poly) -> Formula:
        n = p.constant
        if n is not None:
            return YES if n >= 0 else NO
        divisor = math.gcd(*(c for m, c in p.items if m))
        if divisor > 1:  # tighten: a multiple of the divisor
            p = self.poly({m: c // divisor for m, c in p.items})
        lo, hi = self.interval(p)
        if lo is not None and lo >= 0:
            return YES
        if hi is not None and hi < 0:
            return NO
        return self.formula("ge0", p)

    def eq0(self, p: Poly) -> Formula:
        n = p.constant
        if n is not None:
            return YES if n == 0 else NO
        divisor = math.gcd(*(c for m, c in p.items if m))
        constant = dict(p.items).get((), 0)
        if constant % divisor:
            return NO
        if p.items[-1][1] < 0:
            divisor = -divisor
        if divisor != 1:
            p = self.poly({m: c // divisor for m, c in p.items})
        lo, hi = self.interval(p)
        if (lo is not None and lo > 0) or (hi is not None and hi < 0) or self._between(p):
            return NO
        return self.formula("eq0", p)

    def lt(self, a: Poly, b: Poly) -> Formula:
        return self.ge0(self.shift(self.sub(b, a), -1))

    def le(self, a: Poly, b: Poly) -> Formula:
        return self.ge0(self.sub(b, a))

    def _between(self, p: Poly) -> bool:
        """Whether a sum is never 0 because what is left of it, without multiples of some number,
        lies between two of those multiples: 64 a + 4 b + 32 for b below 8."""
        for d in {abs(c) for m, c in p.items if m and abs(c) > 1}:
            rest = {m: c for m, c in p.items if c % d}
            if rest and len(rest) < len(p.items):
                lo, hi = self.interval(self.poly(rest))
                if lo is not None and hi is not None and hi // d == (lo - 1) // d:
                    return True
        return False

    def eq(self, a: Poly, b: Poly) -> Formula:
        return self.eq0(self.sub(a, b))

    def no(self, f: Formula) -> Formula:
        if f is YES or f is NO:
            return NO if f is YES else YES
        if f.op == "not":
            inner = f.args[0]
            assert isinstance(inner, Formula)
            return inner
        if f.op == "ge0":
            p = f.args[0]
            assert isinstance(p, Poly)
            return self.ge0(self.shift(self.scale(p, -1), -1))
        return self.formula("not", f)

    def all(self, parts: Iterable[Formula]) -> Formula:
        return self._join("and", parts, YES, NO)

    def any(self, parts: Iterable[Formula]) -> Formula:
        return self._join("or", parts, NO, YES)

    def both(self, a: Formula, b: Formula) -> Formula:
        return self.all((a, b))

    def either(self, a: Formula, b: Formula) -> Formula:
        return self.any((a, b))

    def _join(
        self, op: str, parts: Iterable[Formula], neutral: Formula, absorbing: Formula
    ) -> Formula:
        out: dict[Formula, None] = {}
        for p in parts:
            if p is absorbing:
                return absorbing
            if p.op == op:
                out |= dict.fromkeys(x for x in p.args if isinstance(x, Formula))
            elif p is not neutral:
                out[p] = None
        if not out:
            return neutral
        if len(out) == 1:
            return next(iter(out))
        return self.formula(op, *out)

    def parts(self, f: Formula) -> list[Formula]:
        """Conjuncts."""
        if f is YES:
            return []
        return [x for x in f.args if isinstance(x, Formula)] if f.op == "and" else [f]

    # -- decisions without a solver
    def implied(self, facts: Iterable[Formula], goal: Formula) -> bool:
        """Whether each part of the goal is a fact or follows from one or two by intervals."""
        facts = list(facts)
        known = set(facts)
        rows = [f.args[0] for f in facts if f.op == "ge0"]
        for g in self.parts(goal):
            if g in known or (g.op == "or" and any(x in known for x in g.args)):
                continue
            if g.op != "ge0" or not self._bounded(g.args[0], rows):
                return False
        return True

    def _bounded(self, p: Poly | Formula | str, rows: list[Poly | Formula | str]) -> bool:
        assert isinstance(p, Poly)
        near = [r for r in rows if isinstance(r, Poly) and r.atoms & p.atoms]
        for n, r in enumerate(near):
            left = self.sub(p, r)
            if _at_least(self.interval(left)[0], 0):
                return True
            for s in near[n + 1 :]:
                if s.atoms & left.atoms and _at_least(self.interval(self.sub(left, s))[0], 0):
                    return True
        return False


def _at_least(x: int | None, n: int) -> bool:
    return x is not None and x >= n


def _times(x: int | None, c: int) -> int | None:
    return None if x is None else x * c


def _product(x: Interval, y: Interval) -> Interval:
    (a, b), (c, d) = x, y
    if a is not None and c is not None and a >= 0 and c >= 0:
        return a * c, None if b is None or d is None else b * d
    if a is None or b is None or c is None or d is None:
        return None, None
    corners = (a * c, a * d, b * c, b * d)
    return min(corners), max(corners)


def _without(m: Monomial, part: Monomial) -> Monomial | None:
    """m / part, or None if it does not divide."""
    rest = list(m)
    for n in part:
        if n not in rest:
            return None
        rest.remove(n)
    return tuple(rest)
