"""Normal form of index notation: integers, conditions and what both share with the reals.

Values are polynomials over atoms. A condition is a conjunction of atoms and negated atoms, and its
indicator (1 where it holds, else 0) is an atom of polynomials, so that a choice is
`[c] a + (1 - [c]) b`. The reals and the folds are in `opwright.verify.reals`. Two values with one
normal form are equal over the reals where both are defined; the converse does not hold.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction

from opwright.ir.expr import (
    FALSE,
    LEAVES,
    ONE,
    TRUE,
    ZERO,
    Expr,
    Fold,
    call,
    conjunction,
    conjuncts,
    const,
    free_vars,
    read,
    read_parts,
    substitute,
    toreal,
    transform,
    var,
    walk,
)
from opwright.ir.op import Clause, Operator, Tensor

Monomial = tuple[tuple[Expr, int], ...]  # atoms and powers, in the order of their keys
Poly = dict[Monomial, Fraction]
Range = tuple[Expr, Expr]  # half-open

UNIT: Poly = {(): Fraction(1)}
SIZE_LIMIT = 4000  # monomials of one polynomial
SIGN_LIMIT = 80  # questions about signs that one may lead to
# operations whose normal form no assumption changes
INDIFFERENT = LEAVES | {"add", "sub", "mul", "neg", "fma", "div", "cast", "and", "or", "not",
                        "select", "exp", "log", "sqrt", "rsqrt", "tanh"}  # fmt: skip
STEP_LIMIT = 200_000  # expressions in their contexts and questions about signs: some seconds


class TooLarge(Exception):
    """The normal form grows beyond what is worth comparing."""


def finite_number(e: Expr) -> bool:
    return e.op == "const" and not (isinstance(e.attr, float) and not math.isfinite(e.attr))


def infinite(e: Expr) -> int:
    """The sign of an infinite literal, else 0."""
    if e.op == "const" and isinstance(e.attr, float) and math.isinf(e.attr):
        return 1 if e.attr > 0 else -1
    return 0


class Algebra:
    """Normal forms under facts about sizes, bounds of index tensors and ranges of variables."""

    def __init__(
        self, facts: Iterable[Expr], requires: Sequence[Clause], tensors: Mapping[str, Tensor]
    ) -> None:
        self.tensors = dict(tensors)
        self.ranges: dict[str, Range] = {}
        self.least: dict[str, int] = {}
        self.bounds: dict[str, tuple[list[_Bound], list[_Bound]]] = {}
        self.steps = 0
        self.until = math.inf  # of the process's time
        self._keys: dict[Expr, str] = {}
        self._shapes: dict[Expr, str] = {}
        self._asking: set[Expr] = set()
        self.real_bounds: dict[str, tuple[float, float]] = {}  # of all elements of an input
        self.permutations: dict[str, Expr] = {}  # integer tensors that permute 0..extent
        self.assumed: tuple[Expr, ...] = ()  # conditions of the branch at hand
        self.path: list[Poly] = []  # what they say: polynomials >= 0
        self._memo: dict[tuple[Expr, Context], Expr] = {}
        self._polys: dict[tuple[Expr, Context], Poly] = {}
        self._vars: dict[Expr, tuple[str, ...]] = {}
        self._heights: dict[Expr, int] = {}
        self._decided: dict[Expr, bool] = {}
        self._signs: dict[tuple[object, ...], bool] = {}
        self._failed: set[tuple[object, ...]] = set()
        self._asked = 0  # questions about signs on the way to an answer
        self.facts: list[Poly] = []
        for fact in facts:
            self._fact(fact)
        self._least_of_facts()
        for c in requires:
            if c.expr is not None:
                self._clause(c.expr)

    # -- what is known ----------------------------------------------------------------------------

    def _fact(self, fact: Expr) -> None:
        for part in conjuncts(fact):
            if part.op not in ("le", "lt", "eq") or part.args[0].kind != "int":
                continue
            a, b = part.args
            if a.op == "const" and b.op == "size":
                low = int(a.attr) + (part.op == "lt")
                self.least[b.attr] = max(self.least.get(b.attr, 0), low)
            found = self.poly(b - a if part.op != "lt" else b - a - 1)
            self.facts.append(found if part.op == "eq" else _tightened(found))
            if part.op == "eq":
                self.facts.append(scaled(found, Fraction(-1)))

    def _least_of_facts(self) -> None:
        """Least values of sizes that are at least what others make."""
        for _ in range(2):
            for p in self.facts:
                for m, c in p.items():
                    if len(m) != 1 or m[0][1] != 1 or c != 1 or m[0][0].op != "size":
                        continue
                    low = self._least_value({n: -d for n, d in p.items() if n != m})
                    name = m[0][0].attr
                    if low is not None and low > self.least.get(name, 0):
                        self.least[name] = low

    def _least_value(self, p: Poly) -> int | None:
        """What a sum of products of sizes is at least."""
        total = Fraction(0)
        for m, c in p.items():
            if (m and c < 0) or any(a.op != "size" or n < 0 for a, n in m):
                return None
            total += c * math.prod(self.least.get(a.attr, 0) ** n for a, n in m)
        return math.ceil(total)

    def _clause(self, e: Expr) -> None:
        """Bounds of all elements of an integer input."""
        binders: dict[str, Range] = {}
        while e.op == "fold" and Fold(e).kind == "all" and Fold(e).guard is TRUE:
            f = Fold(e)
            binders |= dict(zip(f.binders, f.ranges, strict=True))
            e = f.term
        for part in conjuncts(e):
            if part.op in ("le", "lt") and part.args[0].kind == "real":
                self._real_clause(part, binders)
            if part.op not in ("le", "lt") or part.args[0].kind != "int":
                continue
            for k, x in enumerate(part.args):
                if x.op != "read" or x.attr[0] not in self.tensors:
                    continue
                name, index, _ = read_parts(x)
                axes = self.tensors[name].axes
                whole = all(
                    i.op == "var" and binders.get(i.attr) == (a.lo, a.hi)
                    for i, a in zip(index, axes, strict=True)
                )
                if not whole or len(set(index)) != len(index):
                    continue
                low, high = self.bounds.setdefault(name, ([], []))
                other = part.args[1 - k]
                if any(y.op == "read" for y in walk(other)):
                    continue
                if k == 0:  # x < other
                    high.append((index, other if part.op == "lt" else other + 1))
                else:
                    low.append((index, other if part.op == "le" else other + 1))

    def _real_clause(self, part: Expr, binders: Mapping[str, Range]) -> None:
        """The same of a real input and a number."""
        for k, x in enumerate(part.args):
            other = part.args[1 - k]
            if x.op != "read" or x.attr[0] not in self.tensors or not finite_number(other):
                continue
            name, index, _ = read_parts(x)
            t = self.tensors[name]
            whole = len(set(index)) == len(index) and all(
                i.op == "var" and binders.get(i.attr) == (a.lo, a.hi)
                for i, a in zip(index, t.axes, strict=True)
            )
            if whole and t.body is None:
                low, high = self.real_bounds.get(name, (-math.inf, math.inf))
                if k == 0:
                    high = min(high, float(other.attr))
                else:
                    low = max(low, float(other.attr))
                self.real_bounds[name] = low, high

    # -- keys and variables -----------------------------------------------------------------------

    def key(self, e: Expr) -> str:
        """An order of expressions that depends on their structure alone."""
        if e not in self._keys:
            from hashlib import sha256

            parts = "\0".join((e.op, e.kind, repr(e.attr), *(self.key(a) for a in e.args)))
            self._keys[e] = sha256(parts.encode()).hexdigest()
        return self._keys[e]

    def variables(self, e: Expr) -> tuple[str, ...]:
        """Free index variables."""
        if e not in self._vars:
            self._vars[e] = tuple(sorted(free_vars(e)))
        return self._vars[e]

    def height(self, e: Expr) -> int:
        """How deep folds are nested."""
        if e not in self._heights:
            inner = max((self.height(a) for a in e.args), default=0)
            self._heights[e] = inner + (e.op == "fold")
        return self._heights[e]

    def _context(self, e: Expr) -> Context:
        own = tuple(self.ranges.get(v) for v in self.variables(e))
        return (*own, *self.assumed) if self.assumed and self._decides(e) else own

    def _decides(self, e: Expr) -> bool:
        """Whether an assumption may change a normal form."""
        if e not in self._decided:
            if e.op == "read":
                t = self.tensors.get(e.attr[0])
                own = len(e.args) > e.attr[1] or t is None or t.body is not None
            else:
                own = e.op not in INDIFFERENT
            self._decided[e] = own or any(self._decides(a) for a in e.args)
        return self._decided[e]

    def _step(self) -> None:
        self.steps += 1
        if self.steps > STEP_LIMIT or (not self.steps % 64 and time.process_time() > self.until):
            raise TooLarge

    # -- polynomials ------------------------------------------------------------------------------

    def poly(self, e: Expr) -> Poly:
        """The polynomial of a number."""
        at = (e, self._context(e))
        if at not in self._polys:
            self._step()
            self._polys[at] = self._integer(e) if e.kind == "int" else self._real(e)
        return self._polys[at]

    def normal(self, e: Expr) -> Expr:
        """The normal form of an expression of any kind."""
        at = (e, self._context(e))
        if at not in self._memo:
            if e.kind == "bool":
                found = self._condition(e)
            else:
                p = self.poly(e)
                found = self.expression(p, e.kind)
                # a normal form is its own: a sum may be written with what it implies
                self._polys[found, self._context(found)] = p
            self._memo[at] = found
            self._memo[found, self._context(found)] = found
        return self._memo[at]

    def _real(self, e: Expr) -> Poly:
        raise AssertionError(f"{type(self).__name__} has no reals: {e}")

    def fold(self, e: Expr) -> Poly:
        raise AssertionError(f"{type(self).__name__} has no folds: {e}")

    def fold_condition(self, e: Expr) -> Expr:
        raise AssertionError(f"{type(self).__name__} has no folds: {e}")

    def expression(self, p: Poly, kind: str) -> Expr:
        """The expression of a polynomial, terms in one order."""
        zero: Expr = ZERO if kind == "int" else const(0.0)
        out: Expr | None = None
        for m in sorted(p, key=self._order):
            term = self._term(m, p[m], kind)
            out = term if out is None else call("add", out, term)
        return zero if out is None else out

    def _order(self, m: Monomial) -> tuple[int, list[tuple[str, int]]]:
        return len(m), [(self.key(a), n) for a, n in m]

    def _term(self, m: Monomial, c: Fraction, kind: str) -> Expr:
        top: Expr | None = None
        bottom: Expr | None = None
        for a, n in m:
            for _ in range(abs(n)):
                if n > 0:
                    top = a if top is None else call("mul", top, a)
                else:
                    bottom = a if bottom is None else call("mul", bottom, a)
        if kind == "int":
            return const(int(c)) if top is None else call("mul", int(c), top)
        number = const(float(c))
        if Fraction(float(c)) != c:
            number = call("div", float(c.numerator), float(c.denominator))
        if top is None and bottom is None:
            return number
        if top is None:
            out = number
        else:
            out = top if c == 1 else call("mul", number, top)
        return out if bottom is None else call("div", out, bottom)

    def atom(self, e: Expr) -> Poly:
        return {((e, 1),): Fraction(1)}

    def number(self, c: int | float | Fraction) -> Poly:
        return {(): Fraction(c)} if c else {}

    def add(self, a: Poly, b: Poly, factor: int = 1) -> Poly:
        out = dict(a)
        for m, c in b.items():
            total = out.get(m, Fraction(0)) + factor * c
            if total:
                out[m] = total
            else:
                out.pop(m, None)
        if len(out) > SIZE_LIMIT:
            raise TooLarge
        return out

    def multiply(self, a: Poly, b: Poly) -> Poly:
        if len(a) * len(b) > SIZE_LIMIT * 4:
            raise TooLarge
        out: Poly = {}
        for m, c in a.items():
            for n, d in b.items():
                out = self.add(out, scaled(self.product(m, n), c * d))
        return out

    def product(self, m: Monomial, n: Monomial) -> Poly:
        """The product of two monomials; an indicator is its own square."""
        if not m or not n:
            return {m or n: Fraction(1)}
        powers = dict(m)
        for a, k in n:
            powers[a] = powers.get(a, 0) + k
        return {self.monomial(powers): Fraction(1)}

    def monomial(self, powers: Mapping[Expr, int]) -> Monomial:
        kept = {a: 1 if k > 0 and self.is_indicator(a) else k for a, k in powers.items() if k}
        return tuple(sorted(kept.items(), key=lambda r: self.key(r[0])))

    def is_indicator(self, a: Expr) -> bool:
        """An atom that is 1 where a condition holds, else 0."""
        return a.op == "select" and finite_number(a.args[1]) and finite_number(a.args[2])

    def leading(self, p: Poly) -> Fraction:
        """The coefficient that decides the sign of a normal form: where there is one, of a term
        that no bound index names, so that the sign does not change when it is named; else of one
        that is first whatever the indices are called."""
        terms = [m for m in p if m]
        fixed = [m for m in terms if all(self._outer(a) for a, _ in m)]
        if fixed or terms:
            return p[min(fixed or terms, key=lambda m: (self._nameless(m), self._order(m)))]
        return p.get((), Fraction(0))

    def _outer(self, a: Expr) -> bool:
        return all(v.startswith("@") and "%" not in v for v in self.variables(a))

    def _nameless(self, m: Monomial) -> list[str]:
        """A monomial's place in an order that knows no names of indices."""
        return sorted(f"{self._shape(a)} {n}" for a, n in m)

    def _shape(self, e: Expr) -> str:
        """As `key`, but the same for any names of indices."""
        if e not in self._shapes:
            from hashlib import sha256

            own = "" if e.op == "var" else Fold(e).kind if e.op == "fold" else e.attr
            parts = "\0".join((e.op, e.kind, repr(own), *sorted(map(self._shape, e.args))))
            self._shapes[e] = sha256(parts.encode()).hexdigest()
        return self._shapes[e]

    # -- integers ---------------------------------------------------------------------------------

    def _integer(self, e: Expr) -> Poly:
        if e.op == "const":
            return self.number(e.attr)
        if e.op in LEAVES:
            return self.atom(e)
        if e.op in ("add", "sub"):
            a, b = (self.poly(x) for x in e.args)
            return self.add(a, b, 1 if e.op == "add" else -1)
        if e.op == "mul":
            return self.multiply(*(self.poly(x) for x in e.args))
        if e.op == "neg":
            return scaled(self.poly(e.args[0]), Fraction(-1))
        if e.op == "cast":
            return self.poly(e.args[0])
        if e.op == "floordiv":
            return self._quotient(*(self.poly(x) for x in e.args))
        if e.op == "mod":
            a, b = (self.poly(x) for x in e.args)
            return self.add(a, self.multiply(self._quotient(a, b), b), -1)
        if e.op in ("min", "max"):
            return self._extreme(e.op, *(self.poly(x) for x in e.args))
        if e.op == "abs":
            p = self.poly(e.args[0])
            return self._extreme("max", p, scaled(p, Fraction(-1)))
        if e.op == "select":
            return self.choice(e)
        if e.op == "read":
            return self.element(e)
        if e.op == "fold":
            return self.fold(e)
        args = tuple(self.normal(a) for a in e.args)
        if e.op in ("floor", "ceil", "trunc", "nearest") and args[0].op == "toreal":
            return self.poly(args[0].args[0])
        return self.atom(call(e.op, *args))

    def _quotient(self, a: Poly, b: Poly) -> Poly:
        """floor(a / b) for a positive b: multiples of b go out, a rest in 0..b vanishes."""
        if b == UNIT:
            return a
        if len(b) == 1:
            ((m, c),) = b.items()
            whole: Poly = {}
            rest: Poly = {}
            for n, d in a.items():
                left = self.without(n, m)
                q, r = divmod(d, c)
                if left is None:
                    rest[n] = d
                    continue
                if q:
                    whole = self.add(whole, {left: Fraction(q)})
                if r:
                    rest[n] = r
            room = self.add(self.add(b, rest, -1), UNIT, -1)
            if self.nonnegative(rest) and self.nonnegative(room):
                return whole
            if whole:
                return self.add(whole, self._quotient(rest, b))
            if not m and c > 0:  # a quotient rises with what is divided
                for n, d in a.items():
                    x = n[0][0] if len(n) == 1 and n[0][1] == 1 and abs(d) == 1 else None
                    if x is not None and x.op in ("min", "max"):
                        rest = {k: v for k, v in a.items() if k != n}
                        op = x.op if d == 1 else {"min": "max", "max": "min"}[x.op]
                        one, two = (
                            self._quotient(self.add(rest, scaled(self.poly(y), d)), b)
                            for y in x.args
                        )
                        return self._extreme(op, one, two)
        return self.atom(call("floordiv", self.expression(a, "int"), self.expression(b, "int")))

    def without(self, m: Monomial, divisor: Monomial) -> Monomial | None:
        """A monomial divided by another; None where that leaves a rest."""
        powers = dict(m)
        for a, n in divisor:
            if powers.get(a, 0) < n:
                return None
            powers[a] -= n
        return self.monomial(powers)

    def _extreme(self, op: str, a: Poly, b: Poly) -> Poly:
        difference = self.add(a, b, -1)
        if self.nonnegative(difference):
            return a if op == "max" else b
        if self.nonnegative(scaled(difference, Fraction(-1))):
            return b if op == "max" else a
        args = sorted((self.expression(x, "int") for x in (a, b)), key=self.key)
        return self.atom(call(op, *args))

    # -- choices and reads ------------------------------------------------------------------------

    def choice(self, e: Expr) -> Poly:
        """[c] a + (1 - [c]) b, each branch under what its condition says."""
        c = self.normal(e.args[0])
        if c is TRUE or c is FALSE:
            return self.poly(e.args[1] if c is TRUE else e.args[2])
        a = self.assuming(self.normal(e.args[1]), c, True)
        b = self.assuming(self.normal(e.args[2]), c, False)
        if a is b:
            return self.poly(a)
        return self.mixed(c, a, b)

    def mixed(self, c: Expr, a: Expr, b: Expr) -> Poly:
        chosen = self.indicator(c, a.kind)
        other = self.add(UNIT, chosen, -1)
        return self.add(self.multiply(chosen, self.poly(a)), self.multiply(other, self.poly(b)))

    def indicator(self, c: Expr, kind: str) -> Poly:
        """The polynomial that is 1 where a condition in normal form holds, else 0."""
        if c is TRUE or c is FALSE:
            return UNIT if c is TRUE else {}
        if c.op == "not":
            return self.add(UNIT, self.indicator(c.args[0], kind), -1)
        if c.op == "and":
            out = UNIT
            for part in conjuncts(c):
                out = self.multiply(out, self.indicator(part, kind))
            return out
        one, zero = (ONE, ZERO) if kind == "int" else (const(1.0), const(0.0))
        return self.atom(call("select", c, one, zero))

    def assuming(self, e: Expr, c: Expr, truth: bool) -> Expr:
        """A normal form simplified by a condition in normal form."""
        known: dict[Expr, Expr] = {}
        if truth:
            for part in conjuncts(c):
                negated = part.op == "not"
                known[part.args[0] if negated else part] = FALSE if negated else TRUE
        elif c.op == "not":
            for part in conjuncts(c.args[0]):
                negated = part.op == "not"
                known[part.args[0] if negated else part] = FALSE if negated else TRUE
        elif c.op != "and":
            known[c] = FALSE
        if known and any(x in known for x in walk(e)):
            e = self.normal(transform(e, known.get))
        says = [p for x, v in known.items() for p in self._inequality(x, v is TRUE)]
        if not says or not self._decides(e):
            return e
        before = self.assumed, self.path
        self.assumed, self.path = (*self.assumed, c if truth else ~c), [*self.path, *says]
        try:
            return self.normal(e)
        finally:
            self.assumed, self.path = before

    @contextmanager
    def under(self, c: Expr) -> Iterator[None]:
        """What is asked meanwhile is asked where a condition in normal form holds."""
        says = []
        for part in conjuncts(c):
            negated = part.op == "not"
            says += self._inequality(part.args[0] if negated else part, not negated)
        before = self.assumed, self.path
        self.assumed, self.path = (*self.assumed, c), [*self.path, *says]
        try:
            yield
        finally:
            self.assumed, self.path = before

    def _inequality(self, c: Expr, truth: bool) -> list[Poly]:
        """Polynomials that are >= 0 where a comparison of integers holds, or does not."""
        if c.op not in ("le", "eq") or c.args[0] is not ZERO:
            return []
        p = self.poly(c.args[1])
        opposite = scaled(p, Fraction(-1))
        if c.op == "eq":
            return [p, opposite] if truth else []
        return [p] if truth else [self.add(opposite, UNIT, -1)]

    def element(self, e: Expr) -> Poly:
        """A read of an input; a fill is a choice, any other tensor its definition."""
        name, index, fill = read_parts(e)
        t = self.tensors[name]
        if fill is not None:
            inside = [
                x
                for i, a in zip(index, t.axes, strict=True)
                for x in (call("le", a.lo, i), call("lt", i, a.hi))
            ]
            plain = read(name, index, e.kind)
            return self.choice_of(conjunction(inside), plain, fill)
        at = tuple(self.normal(i) for i in index)
        if t.body is None or t.recurrence is not None:
            return self.atom(read(name, at, e.kind))
        mapping = {var(a.name): i for a, i in zip(t.axes, at, strict=True)}
        return self.poly(substitute(t.body, mapping))

    def choice_of(self, c: Expr, a: Expr, b: Expr) -> Poly:
        made = call("select", c, a, b)
        return self.poly(made)

    # -- conditions -------------------------------------------------------------------------------

    def _condition(self, e: Expr) -> Expr:
        if e.op == "const":
            return e
        if e.op in ("and", "or"):
            negate = e.op == "or"
            parts = [self.normal(a if not negate else ~a) for a in e.args]
            found = self._both(parts)
            return self._negated(found) if negate else found
        if e.op == "not":
            return self._negated(self.normal(e.args[0]))
        if e.op in ("lt", "le", "eq", "ne", "approx"):
            numeric = e.args[0].kind
            return self._compared(e) if numeric == "int" else self.compared_reals(e)
        if e.op == "read":
            name, index, fill = read_parts(e)
            t = self.tensors[name]
            at = tuple(self.normal(i) for i in index)
            if t.body is None or fill is not None or t.recurrence is not None:
                return read(name, at, "bool", None if fill is None else self.normal(fill))
            mapping = {var(a.name): i for a, i in zip(t.axes, at, strict=True)}
            return self.normal(substitute(t.body, mapping))
        if e.op == "fold":
            return self.fold_condition(e)
        if e.op == "select":
            c, a, b = e.args
            return self.normal((c & a) | (~c & b))
        if e.op in LEAVES:
            return e
        if e.op in ("isnan", "isinf"):
            return self.special(e)
        return call(e.op, *(self.normal(a) for a in e.args))

    def special(self, e: Expr) -> Expr:
        raise AssertionError(f"{type(self).__name__} has no reals: {e}")

    def compared_reals(self, e: Expr) -> Expr:
        raise AssertionError(f"{type(self).__name__} has no reals: {e}")

    def _negated(self, c: Expr) -> Expr:
        if c is TRUE or c is FALSE:
            return FALSE if c is TRUE else TRUE
        return c.args[0] if c.op == "not" else call("not", c)

    def _both(self, parts: Sequence[Expr]) -> Expr:
        """A conjunction: parts once and in one order, false where one contradicts another."""
        flat = {p for x in parts for p in (conjuncts(x) if x.op == "and" else [x])} - {TRUE}
        if FALSE in flat or any(self._negated(p) in flat for p in flat):
            return FALSE
        return conjunction(sorted(flat, key=self.key))

    def _compared(self, e: Expr) -> Expr:
        """0 <= p or 0 == p, with a positive leading coefficient."""
        a, b = (self.poly(x) for x in e.args)
        if e.op in ("eq", "ne", "approx"):
            p = self.add(b, a, -1)
            if self.leading(p) < 0:
                p = scaled(p, Fraction(-1))
            p = self._same_place(p)
            if not p:
                found = TRUE
            elif self.nonnegative(self.add(p, UNIT, -1)) or self.nonnegative(
                self.add(scaled(p, Fraction(-1)), UNIT, -1)
            ):
                found = FALSE
            else:
                found = call("eq", ZERO, self.expression(p, "int"))
            return self._negated(found) if e.op == "ne" else found
        p = self.add(b, a, -1)
        if e.op == "lt":
            p = self.add(p, UNIT, -1)
        p = _tightened(p)
        opposite = self.add(scaled(p, Fraction(-1)), UNIT, -1)
        if self.nonnegative(p):
            return TRUE
        if self.nonnegative(opposite):
            return FALSE
        if self._turned(p):
            return call("not", call("le", ZERO, self.expression(opposite, "int")))
        return call("le", ZERO, self.expression(p, "int"))

    def _same_place(self, p: Poly) -> Poly:
        """A permutation has equal values at equal places alone: p[i] - p[j] vanishes as i - j."""
        reads = [a for m in p if len(m) == 1 for a, n in m if n == 1 and a.op == "read"]
        if len(p) != 2 or len(reads) != 2 or sorted(p.values()) != [-1, 1]:
            return p
        if reads[0].attr != reads[1].attr or reads[0].attr[0] not in self.permutations:
            return p
        found = self.add(self.poly(reads[0].args[0]), self.poly(reads[1].args[0]), -1)
        return scaled(found, Fraction(-1)) if self.leading(found) < 0 else found

    def _turned(self, p: Poly) -> bool:
        """Which of a comparison and its opposite is the atom: the one that bounds the innermost
        index from above."""
        inner = [(a, c) for m, c in p.items() for a, n in m if a.op == "var" and m == ((a, 1),)]
        bound = [(a, c) for a, c in inner if not a.attr.startswith("@")]
        if not bound:
            return self.leading(p) < 0
        return min(bound, key=lambda r: (_level(r[0].attr), self.key(r[0])))[1] > 0

    # -- signs of integers ------------------------------------------------------------------------

    def nonnegative(self, p: Poly, depth: int = 3) -> bool:
        """Whether a polynomial of integers is provably >= 0."""
        if all(not m for m in p):
            return p.get((), Fraction(0)) >= 0
        if self._asked:
            at = (frozenset(p.items()), depth)
            if self._asked > SIGN_LIMIT or at in self._failed:
                return False
            self._asked += 1
            self._step()
            found = self._not_below(p, depth)
            if not found:
                self._failed.add(at)
            return found
        key = self._question(p, depth)
        if key not in self._signs:
            self._step()
            try:
                for most in range(min(depth, 1), depth + 1):
                    self._asked = 1
                    self._failed = set()
                    found = self._not_below(p, most)
                    if found:
                        break
            finally:
                self._asked = 0
            self._signs[key] = found
        return self._signs[key]

    def _question(self, p: Poly, depth: int) -> tuple[object, ...]:
        """What the sign of a polynomial depends on."""
        names = sorted({v for m in p for a, _ in m for v in self.variables(a)})
        spans = tuple(self.ranges.get(v) for v in names)
        return frozenset(p.items()), depth, spans, *(frozenset(q.items()) for q in self.path)

    def _not_below(self, p: Poly, depth: int) -> bool:
        p = _tightened(p)
        cut = self._cut(p)
        if cut is not None:
            return all(self.nonnegative(q, depth) for q in cut)
        for v in self._ranged(p):
            rest, slope = self._linear(p, v)
            if slope is None or depth < 0:
                continue
            low, high = self._limits(v)
            rises = bool(low) and self.nonnegative(slope, depth - 1)
            falls = bool(high) and self.nonnegative(scaled(slope, Fraction(-1)), depth - 1)
            for x in low if rises else high if falls else []:
                if self.nonnegative(self.add(rest, self.multiply(slope, x)), depth):
                    return True
            if rises or falls:
                break
        if self._sizes_positive(p):
            return True
        if depth <= 0:
            return False
        negative = [m for m, c in p.items() if c < 0 and m]
        for known in (*self.path, *self.facts):
            shares = {p[m] / known[m] for m in negative if known.get(m, 0) < 0}
            said = known in self.path  # what is as large as what the path says, or of a param
            shares |= {c / known[m] for m, c in p.items() if known.get(m, 0) * c > 0
                       and m and (said or any(a.op == "param" for a, _ in m))}  # fmt: skip
            for share in sorted(shares | ({Fraction(1)} if shares else set())):
                if self.nonnegative(self.add(p, scaled(known, -share)), depth - 1):
                    return True
        return False

    def _cut(self, p: Poly) -> list[Poly] | None:
        """Polynomials that are all >= 0 exactly where p is, with one quotient or one extreme
        less."""
        if any(c.denominator != 1 for c in p.values()):
            return None
        for m, c in p.items():
            if len(m) != 1 or m[0][1] != 1:
                continue
            a = m[0][0]
            rest = {n: d for n, d in p.items() if n != m}
            if any(x is a for n in rest for x, _ in n):
                continue
            if a.op == "floordiv" and abs(c) == 1 and a.args[1].op == "const":
                k = int(a.args[1].attr)
                if k < 1:
                    continue
                above, more = self._apart_from_path(a.args[0]), scaled(rest, Fraction(k))
                if c == 1:  # floor(a / k) >= -rest
                    return [self.add(above, more)]
                return [self.add(self.add(more, above, -1), self.number(k - 1))]
            if a.op in ("min", "max") and (c > 0) == (a.op == "min"):
                return [self.add(rest, scaled(self._apart_from_path(x), c)) for x in a.args]
        return None

    def _apart_from_path(self, e: Expr) -> Poly:
        """The polynomial of a part of an atom: what the path says of it would ask for it again."""
        before = self.assumed, self.path
        self.assumed, self.path = (), []
        try:
            return self.poly(e)
        finally:
            self.assumed, self.path = before

    def _ranged(self, p: Poly) -> list[Expr]:
        """Atoms with bounds, those first whose bounds speak of others."""
        found = {a for m in p for a, _ in m if self._limits(a) != ([], [])}

        def order(a: Expr) -> tuple[int, bool, bool, str]:
            ends = self.ranges.get(a.attr, ()) if a.op == "var" else ()
            apart = bool(ends) and all(e.op == "const" for e in ends)
            return -self._rank(a), not apart, a.op != "var", self.key(a)

        return sorted(found, key=order)

    def _rank(self, a: Expr, most: int = 8) -> int:
        """How many bounds stand between an atom and sizes alone."""
        names = list(self.variables(a))
        if a.op == "var":
            names = [v for e in self.ranges.get(a.attr, ()) for v in self.variables(e)]
        if not names or not most:
            return 0
        return 1 + max(self._rank(var(v), most - 1) for v in names)

    def _linear(self, p: Poly, v: Expr) -> tuple[Poly, Poly | None]:
        """p = rest + slope * v; slope None where v occurs otherwise."""
        rest: Poly = {}
        slope: Poly = {}
        for m, c in p.items():
            powers = dict(m)
            n = powers.pop(v, 0)
            if n not in (0, 1):
                return p, None
            if n:
                slope[self.monomial(powers)] = c
            else:
                rest[m] = c
        return rest, slope

    def _limits(self, a: Expr) -> tuple[list[Poly], list[Poly]]:
        """Values that an atom is at least, and at most."""
        if a.op == "var" and a.attr in self.ranges:
            if a in self._asking:  # what is known of its end speaks of it
                return [], []
            self._asking.add(a)
            try:
                lo, hi = self.ranges[a.attr]
                return [self.poly(lo)], [self.add(self.poly(hi), UNIT, -1)]
            finally:
                self._asking.discard(a)
        if self.is_indicator(a):
            return [{}], [UNIT]
        if a.op == "mod":
            return [{}], [self.add(self.poly(a.args[1]), UNIT, -1)]
        if a.op == "floordiv":
            if a in self._asking:  # a fact about a quotient would ask for it once more
                return [], []
            self._asking.add(a)
            try:
                above = self._apart_from_path(a.args[0])
                low: list[Poly] = [{}] if self.nonnegative(above, 1) else []
                if a.args[1].op != "const" or a.args[1].attr < 1:
                    return low, []
                share = Fraction(1, int(a.args[1].attr))  # q is in (a - c) / c .. a / c
                first = self.add(above, self.number(int(a.args[1].attr) - 1), -1)
                return [*low, scaled(first, share)], [scaled(above, share)]
            finally:
                self._asking.discard(a)
        if a.op in ("max", "min"):
            if a.kind != "int" or a in self._asking:
                return [], []
            self._asking.add(a)
            try:
                found = [self._apart_from_path(x) for x in a.args]
            finally:
                self._asking.discard(a)
            return (found, []) if a.op == "max" else ([], found)
        if a.op == "fold" and Fold(a).kind in ("argmax", "argmin") and Fold(a).guard is TRUE:
            lo, hi = Fold(a).ranges[0]
            last = self.add(self.poly(hi), UNIT, -1)
            if self.nonnegative(self.add(last, self.poly(lo), -1), 1):  # else it is -1
                return [self.poly(lo)], [last]
        if a.op == "read" and a.attr[0] in self.permutations:
            end = self.poly(self.permutations[a.attr[0]])
            return [{}], [self.add(end, UNIT, -1)]
        if a.op == "read" and a.attr[0] in self.bounds:
            _, index, _ = read_parts(a)
            sides: tuple[list[Poly], list[Poly]] = ([], [])
            for side, bounds in enumerate(self.bounds[a.attr[0]]):
                for pattern, bound in bounds:
                    there = substitute(bound, dict(zip(pattern, index, strict=True)))
                    value = self.poly(there)
                    sides[side].append(value if side == 0 else self.add(value, UNIT, -1))
            return sides
        return [], []

    def _sizes_positive(self, p: Poly) -> bool:
        """Whether every coefficient is >= 0 once sizes are counted from their least values."""
        moved: Poly = {}
        for m, c in p.items():
            term: Poly = {(): c}
            for a, n in m:
                if a.op != "size" or n < 0:
                    return False
                shifted = self.add(self.atom(a), self.number(self.least.get(a.attr, 0)))
                for _ in range(n):
                    term = self.multiply(term, shifted)
            moved = self.add(moved, term)
        return all(c >= 0 for c in moved.values())


def _level(name: str) -> int:
    """How far out an index variable is bound; those not yet named are innermost."""
    return int(name[1:]) if name.startswith("$") else 0


Context = tuple[Range | Expr | None, ...]
_Bound = tuple[tuple[Expr, ...], Expr]


def _tightened(p: Poly) -> Poly:
    """0 <= g q + c as 0 <= q + floor(c / g)."""
    factors = [c for m, c in p.items() if m]
    if not factors or any(c.denominator != 1 for c in p.values()):
        return p
    g = math.gcd(*(int(c) for c in factors))
    if g <= 1:
        return p
    out = {m: c / g for m, c in p.items() if m}
    last = Fraction(int(p.get((), Fraction(0))) // g)
    if last:
        out[()] = last
    return out


def scaled(p: Poly, c: Fraction) -> Poly:
    return {m: c * d for m, d in p.items()} if c else {}


def tensors_of(op: Operator) -> dict[str, Tensor]:
    return {t.name: t for t in (*op.inputs, *op.tensors)}


def as_real(p: Poly) -> Poly:
    """An integer polynomial with its atoms read as reals."""
    out: Poly = {}
    for m, c in p.items():
        out[tuple((real_atom(a), n) for a, n in m)] = c
    return out


def real_atom(a: Expr) -> Expr:
    if a.op == "select" and finite_number(a.args[1]):
        return call("select", a.args[0], const(1.0), const(0.0))
    return toreal(a)
