"""Claims written out over inputs alone: definitions put in, folds named alike, simple bounds.

An expanded expression reads inputs and recurrences only. Folds that are equal but for the name of
their index are one node; factors that a sum's index does not move stand outside of it. Unlike a
normal form it keeps squares, quotients and differences as they were written, which is what shows
the sign of a term.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import NamedTuple

from opwright.ir.expr import (
    FALSE,
    LEAVES,
    TRUE,
    Expr,
    Fold,
    call,
    conjunction,
    conjuncts,
    const,
    free_vars,
    neutral,
    read,
    read_parts,
    rebuild,
    reduction,
    substitute,
    toreal,
    var,
    walk,
)
from opwright.ir.op import Tensor
from opwright.verify.algebra import finite_number, infinite
from opwright.verify.reals import Reals, piecewise

DEPTH = 40
NODES = 60_000


class Opaque(Exception):
    """A form that is not expanded here, in words."""


class Expansion:
    """Expands expressions over one set of definitions."""

    def __init__(self, algebra: Reals) -> None:
        self.algebra = algebra
        self.tensors: Mapping[str, Tensor] = algebra.tensors
        self.memo: dict[Expr, Expr] = {}
        self.heights: dict[Expr, int] = {}
        self.count = 0

    def __call__(self, e: Expr) -> Expr:
        found = self.memo.get(e)
        if found is None:
            self.count += 1
            if self.count > NODES:
                raise Opaque("the claim is too large when its definitions are put in")
            found = self.memo[e] = self._expand(e)
            self.memo[found] = found
        return found

    def _expand(self, e: Expr) -> Expr:
        if e.op in LEAVES:
            return e
        if e.op == "read":
            return self._read(e)
        if e.op == "fold":
            return self._fold(e)
        if e.op == "cast":
            return self(e.args[0])
        if e.op == "select":
            c = self(e.args[0])
            if c is TRUE or c is FALSE:
                return self(e.args[1] if c is TRUE else e.args[2])
            return call("select", c, self(e.args[1]), self(e.args[2]))
        args = [self(a) for a in e.args]
        for n, a in enumerate(args):
            if piecewise(a) and (infinite(a.args[1]) or infinite(a.args[2]) or _mixed(a)):
                c, yes, no = a.args
                sides = [self(rebuild(e, (*args[:n], x, *args[n + 1 :]))) for x in (yes, no)]
                return call("select", c, *sides)
        if any(infinite(a) for a in args):
            return self._at_infinity(e, args)
        out = rebuild(e, tuple(args))
        return self.integer(out) if out.kind == "int" else out

    def integer(self, e: Expr) -> Expr:
        """An integer without reads in its normal form."""
        if any(x.op in ("read", "fold") for x in walk(e)):
            return e
        return self.algebra.normal(e)

    def _at_infinity(self, e: Expr, args: list[Expr]) -> Expr:
        """A function of infinities and values that are finite."""
        found = self.algebra._at_infinity(e.op, args, [infinite(a) for a in args])
        if found is None and e.op in ("lt", "le", "eq", "ne", "approx"):
            a, b = args
            left, right = (float(x.attr) if infinite(x) else 0.0 for x in args)
            if not (infinite(a) and infinite(b)):
                holds = {"lt": left < right, "le": left < right, "ne": True}.get(e.op, False)
                return TRUE if holds else FALSE
        if found is None:
            raise Opaque("a function of an infinite value")
        return self.algebra.expression(found, e.kind)

    def _read(self, e: Expr) -> Expr:
        name, index, fill = read_parts(e)
        t = self.tensors.get(name)
        if t is None:
            raise Opaque(f"`{name}` has no definition here")
        at = tuple(self(i) for i in index)
        if fill is not None:
            inside = [
                x
                for i, a in zip(at, t.axes, strict=True)
                for x in (call("le", a.lo, i), call("lt", i, a.hi))
            ]
            within = self.algebra.normal(conjunction(inside)) if not any(
                x.op in ("read", "fold") for i in at for x in walk(i)
            ) else conjunction(inside)  # fmt: skip
            return self(call("select", within, read(name, at, e.kind), fill))
        if t.body is None or t.recurrence is not None:
            return read(name, at, e.kind)
        mapping = {var(a.name): i for a, i in zip(t.axes, at, strict=True)}
        return self(substitute(t.body, mapping))

    # -- folds ------------------------------------------------------------------------------------

    def height(self, e: Expr) -> int:
        if e not in self.heights:
            inner = max((self.height(a) for a in e.args), default=0)
            self.heights[e] = inner + (e.op == "fold")
        return self.heights[e]

    def _fold(self, e: Expr) -> Expr:
        f = Fold(e)
        if f.kind is None:
            raise Opaque("a derived fold")
        spans = []
        for b, (lo, hi) in zip(f.binders, f.ranges, strict=True):
            spans.append((self(lo), self(hi)))
            self.algebra.ranges.setdefault(b, spans[-1])
        ranges = tuple(spans)
        guard, term = self(f.guard), self(f.term)
        hidden = False
        if guard is FALSE:
            return neutral(f.kind, e.kind) if f.kind in ("sum", "prod", "any", "all") else e
        if f.kind in ("max", "min"):
            empty = neutral(f.kind, term.kind)
            hidden = term.op == "select" and term.args[2] is empty
            while term.op == "select" and term.args[2] is empty:
                guard, term = guard & term.args[0], term.args[1]
        if f.kind == "all":
            guard, term = TRUE, term | ~guard
        if f.kind == "any":
            guard, term = TRUE, term & guard
        outside: list[Expr] = []
        if f.kind == "sum":
            if guard is not TRUE:
                zero = const(0.0) if term.kind == "real" else const(0)
                guard, term = TRUE, call("select", guard, term, zero)
            outside, term = self._factors(term, set(f.binders))
        level = max(self.height(term), self.height(guard)) + 1
        mapping: dict[Expr, Expr] = {}
        spans = []
        for k, (b, (lo, hi)) in enumerate(zip(f.binders, ranges, strict=True)):
            spans.append((substitute(lo, mapping), substitute(hi, mapping)))
            key = "".join(self.algebra.key(x)[:6] for x in spans[-1])
            mapping[var(b)] = var(f"%{level}.{k}.{key}")  # the name tells the range
            self.algebra.ranges[mapping[var(b)].attr] = spans[-1]
        names = tuple(x.attr for x in mapping.values())
        term, guard = substitute(term, mapping), substitute(guard, mapping)
        made = reduction(f.kind, names, tuple(spans), term, guard)
        if hidden and not self._some(Fold(made)):
            raise Opaque("a maximum that may be of nothing")
        for x in outside:
            made = call("mul", x, made)
        return made

    def _some(self, f: Fold) -> bool:
        """Whether some index of a guarded fold is certainly allowed."""
        own = var(f.binders[0])
        lo, hi = f.ranges[0]
        tries = [lo, hi - 1, *(var(v) for v in sorted(free_vars(f.guard)) if v != own.attr)]
        for at in tries if len(f.binders) == 1 else ():
            inside = call("le", lo, at) & call("lt", at, hi)
            if self.algebra.normal(inside & substitute(f.guard, {own: at})) is TRUE:
                return True
        return False

    def _factors(self, term: Expr, own: set[str]) -> tuple[list[Expr], Expr]:
        """What goes out of a sum, and the term that is left."""
        if term.kind != "real":
            return [], term
        top, bottom = factors(term)
        out = [x for x in top if not free_vars(x) & own]
        out += [call("div", const(1.0), x) for x in bottom if not free_vars(x) & own]
        if not out:
            return [], term
        left = product_of([x for x in top if free_vars(x) & own],
                          [x for x in bottom if free_vars(x) & own])  # fmt: skip
        return out, left


def _mixed(e: Expr) -> bool:
    """A choice below which an infinite branch is."""
    return any(infinite(b) or (piecewise(b) and _mixed(b)) for b in e.args[1:])


def factors(e: Expr) -> tuple[list[Expr], list[Expr]]:
    """Factors above and below of a product, signs and quotients included."""
    if e.op == "mul":
        (a, b), (c, d) = factors(e.args[0]), factors(e.args[1])
        return [*a, *c], [*b, *d]
    if e.op == "div":
        (a, b), (c, d) = factors(e.args[0]), factors(e.args[1])
        return [*a, *d], [*b, *c]
    if e.op == "neg":
        a, b = factors(e.args[0])
        return [const(-1.0), *a], b
    if e.op == "const" and e.attr == 1.0:
        return [], []
    return [e], []


def product_of(top: list[Expr], bottom: list[Expr]) -> Expr:
    """The product of factors; 1.0 of none."""

    def times(parts: list[Expr]) -> Expr:
        out: Expr | None = None
        for x in parts:
            out = x if out is None else call("mul", out, x)
        return const(1.0) if out is None else out

    return times(top) if not bottom else call("div", times(top), times(bottom))


# -- bounds that the form of a term gives ----------------------------------------------------------


class Bounds(NamedTuple):
    """lo <= value <= hi, None for none; strict where the end is not taken."""

    lo: Fraction | None = None
    hi: Fraction | None = None
    above: bool = False  # lo < value
    below: bool = False  # value < hi

    @property
    def nonnegative(self) -> bool:
        return self.lo is not None and self.lo >= 0

    @property
    def positive(self) -> bool:
        return self.lo is not None and (self.lo > 0 or (self.lo == 0 and self.above))

    @property
    def nonpositive(self) -> bool:
        return self.hi is not None and self.hi <= 0

    @property
    def negative(self) -> bool:
        return self.hi is not None and (self.hi < 0 or (self.hi == 0 and self.below))

    @property
    def nonzero(self) -> bool:
        return self.positive or self.negative


ANY = Bounds()
ZERO, ONE = Fraction(0), Fraction(1)
SLACK = Fraction(1, 10**9)  # widens what is computed with floats
RANGES = {
    "sigmoid": Bounds(ZERO, ONE, True, True),
    "tanh": Bounds(-ONE, ONE, True, True),
    "erf": Bounds(-ONE, ONE, True, True),
    "sin": Bounds(-ONE, ONE),
    "cos": Bounds(-ONE, ONE),
    "cosh": Bounds(ONE, None),
    "atan": Bounds(Fraction(-2), Fraction(2), True, True),
}
RISING: dict[str, Callable[[float], float]] = {
    "exp": math.exp, "exp2": lambda x: 2.0**x, "tanh": math.tanh, "erf": math.erf,
    "log": math.log, "log2": math.log2, "log1p": math.log1p, "sqrt": math.sqrt,
    "expm1": math.expm1, "sinh": math.sinh, "atan": math.atan,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
}  # fmt: skip
AT_ZERO = {"exp": 1, "exp2": 1, "tanh": 0, "erf": 0, "sqrt": 0, "expm1": 0, "log1p": 0,
           "sinh": 0, "atan": 0}  # fmt: skip
OPEN_BELOW = {"exp": ZERO, "exp2": ZERO, "expm1": -ONE, "sqrt": ZERO}


class Signs:
    """Bounds of expanded expressions from their form, and from bounds of inputs and params."""

    def __init__(self, algebra: Reals, known: Mapping[str, Bounds]) -> None:
        self.algebra, self.known = algebra, known
        self.memo: dict[Expr, Bounds] = {}

    def __call__(self, e: Expr) -> Bounds:
        if e not in self.memo:
            self.memo[e] = self._bounds(e)
        return self.memo[e]

    def _bounds(self, e: Expr) -> Bounds:
        if e.op == "const":
            if e.kind == "bool" or not finite_number(e):
                return ANY
            return Bounds(Fraction(e.attr), Fraction(e.attr))
        if e.op in ("param", "read"):
            return self.known.get(e.attr if e.op == "param" else e.attr[0], ANY)
        if e.kind == "int" and e.op not in ("fold", "select", "floor", "ceil", "nearest"):
            return self._integer(e)
        if e.op == "toreal":
            return self(e.args[0])
        if e.op == "fold":
            return self._fold(Fold(e))
        if e.op == "select":
            return self._select(e)
        args = [self(a) for a in e.args]
        return self._function(e, args)

    def _integer(self, e: Expr) -> Bounds:
        if any(x.op == "fold" and x.attr.kind not in ("argmax", "argmin") for x in walk(e)):
            args = [self(a) for a in e.args]
            return self._function(e, args)
        try:
            p = self.algebra.poly(e)
            for low in (1, 0):
                if self.algebra.nonnegative(self.algebra.add(p, self.algebra.number(low), -1)):
                    return Bounds(Fraction(low), None)
        except (AssertionError, KeyError):
            pass
        return ANY

    def _select(self, e: Expr) -> Bounds:
        a, b = (self(x) for x in e.args[1:])
        lows = [x for x in (a.lo, b.lo) if x is not None]
        highs = [x for x in (a.hi, b.hi) if x is not None]
        lo = min(lows) if len(lows) == 2 else None
        hi = max(highs) if len(highs) == 2 else None
        above = all(x.above or x.lo != lo for x in (a, b)) and lo is not None
        below = all(x.below or x.hi != hi for x in (a, b)) and hi is not None
        return Bounds(lo, hi, above, below)

    def _fold(self, f: Fold) -> Bounds:
        if f.kind in ("argmax", "argmin"):
            return self._integer(f.node)
        t = self(f.term)
        full = f.guard is TRUE and self.nonempty(f)
        if f.kind in ("max", "min"):
            return t  # of nothing there is no value
        if f.kind == "sum":
            return Bounds(
                ZERO if t.nonnegative else None,
                ZERO if t.nonpositive else None,
                t.positive and full,
                t.negative and full,
            )
        if f.kind == "prod" and t.nonnegative:
            small = t.hi is not None and t.hi <= 1
            return Bounds(ZERO, ONE if small else None, t.positive, False)
        return ANY

    def nonempty(self, f: Fold) -> bool:
        """Whether every range of a fold has an element, whatever the outer indices."""
        try:
            return all(
                self.algebra.nonnegative(self.algebra.poly(hi - lo - 1)) for lo, hi in f.ranges
            )
        except (AssertionError, KeyError):
            return False

    def _function(self, e: Expr, args: list[Bounds]) -> Bounds:
        op = e.op
        a = args[0] if args else ANY
        b = args[1] if len(args) > 1 else ANY
        if op == "neg":
            return _negated(a)
        if op == "add":
            return _added(a, b)
        if op == "sub":
            return _added(a, _negated(b))
        if op == "mul":
            if e.args[0] is e.args[1]:
                return _square(a)
            return _product(a, b)
        if op == "fma":
            return _added(_product(a, b), args[2])
        if op == "div":
            return _product(a, _inverse(b))
        if op == "rsqrt":
            top = None if a.lo is None or a.lo <= 0 else _up(1 / math.sqrt(a.lo))
            return Bounds(ZERO, top, True, False)
        if op == "abs":
            if a.nonnegative:
                return a
            ends = [abs(x) for x in (a.lo, a.hi) if x is not None]
            return Bounds(ZERO, max(ends) if len(ends) == 2 else None, a.negative, False)
        if op in ("max", "min"):
            return _extreme(op, a, b)
        if op == "pow":
            return self._power(e, a)
        if op in RISING:
            return _rising(op, a)
        if op in RANGES:
            return RANGES[op]
        if op in ("floor", "ceil", "nearest", "trunc"):
            return Bounds(ZERO if a.nonnegative else None, ZERO if a.nonpositive else None)
        return ANY

    def _power(self, e: Expr, a: Bounds) -> Bounds:
        n = e.args[1]
        if a.positive:
            return Bounds(ZERO, None, True, False)
        if n.op == "const" and float(n.attr).is_integer() and int(n.attr) % 2 == 0:
            return Bounds(ZERO, None)
        return Bounds(ZERO, None) if a.nonnegative else ANY


def _up(x: float) -> Fraction:
    return Fraction(x) + SLACK * (1 + abs(Fraction(x)))


def _down(x: float) -> Fraction:
    return Fraction(x) - SLACK * (1 + abs(Fraction(x)))


def _negated(a: Bounds) -> Bounds:
    lo, hi = a.hi, a.lo
    return Bounds(None if lo is None else -lo, None if hi is None else -hi, a.below, a.above)


def _added(a: Bounds, b: Bounds) -> Bounds:
    lo = None if a.lo is None or b.lo is None else a.lo + b.lo
    hi = None if a.hi is None or b.hi is None else a.hi + b.hi
    return Bounds(
        lo, hi, lo is not None and (a.above or b.above), hi is not None and (a.below or b.below)
    )


def _square(a: Bounds) -> Bounds:
    ends = [x * x for x in (a.lo, a.hi) if x is not None]
    hi = max(ends) if len(ends) == 2 else None
    lo = ZERO
    if a.positive and a.lo is not None:
        lo = a.lo * a.lo
    elif a.negative and a.hi is not None:
        lo = a.hi * a.hi
    return Bounds(lo, hi, a.nonzero and lo == 0, False)


def _product(a: Bounds, b: Bounds) -> Bounds:
    if a.lo is not None and a.lo == a.hi and a.lo == 1:
        return b
    if b.lo is not None and b.lo == b.hi and b.lo == 1:
        return a
    if None not in (a.lo, a.hi, b.lo, b.hi):
        ends = [x * y for x in (a.lo, a.hi) for y in (b.lo, b.hi)]  # type: ignore[operator]
        lo, hi = min(ends), max(ends)
        signed = a.nonzero and b.nonzero
        return Bounds(lo, hi, lo == 0 and signed, hi == 0 and signed)
    strict = a.nonzero and b.nonzero
    if (a.nonnegative and b.nonnegative) or (a.nonpositive and b.nonpositive):
        low = ZERO
        if a.nonnegative and a.lo is not None and b.lo is not None:
            low = a.lo * b.lo
        return Bounds(low, None, strict and low == 0, False)
    if (a.nonnegative and b.nonpositive) or (a.nonpositive and b.nonnegative):
        return Bounds(None, ZERO, False, strict)
    return ANY


def _inverse(b: Bounds) -> Bounds:
    if b.positive:
        lo = ZERO if b.hi is None else 1 / b.hi
        hi = None if b.lo is None or b.lo == 0 else 1 / b.lo
        return Bounds(lo, hi, b.hi is None or b.below, hi is not None and b.above)
    if b.negative:
        return _negated(_inverse(_negated(b)))
    return ANY


def _extreme(op: str, a: Bounds, b: Bounds) -> Bounds:
    if op == "min":
        return _negated(_extreme("max", _negated(a), _negated(b)))
    lows = [(x.lo, x.above) for x in (a, b) if x.lo is not None]
    lo, above = max(lows, default=(None, False))
    if a.hi is None or b.hi is None:
        return Bounds(lo, None, above, False)
    hi = max(a.hi, b.hi)
    below = all(x.below or x.hi != hi for x in (a, b))
    return Bounds(lo, hi, above, below)


def _rising(op: str, a: Bounds) -> Bounds:
    """The image under a function that rises, widened by its rounding."""
    whole = RANGES.get(op, ANY)
    lo, hi, above, below = whole
    if op in OPEN_BELOW and lo is None:
        lo, above = OPEN_BELOW[op], op != "sqrt"
    f = RISING[op]

    def at(x: Fraction) -> Fraction | None:
        if x == 0 and op in AT_ZERO:
            return Fraction(AT_ZERO[op])
        if x == 1 and op in ("log", "log2"):
            return ZERO
        try:
            found = f(float(x))
        except (OverflowError, ValueError):
            return None
        return Fraction(found) if math.isfinite(found) else None

    def plain(x: Fraction) -> bool:
        return (x == 0 and op in AT_ZERO) or (x == 1 and op in ("log", "log2"))

    if a.lo is not None and (value := at(a.lo)) is not None:
        value = value if plain(a.lo) else _down(float(value))
        if lo is None or value >= lo:
            lo, above = value, (a.above and plain(a.lo)) or (above and value == lo)
    if a.hi is not None and (value := at(a.hi)) is not None:
        value = value if plain(a.hi) else _up(float(value))
        if hi is None or value <= hi:
            hi, below = value, (a.below and plain(a.hi)) or (below and value == hi)
    return Bounds(lo, hi, above, below)


__all__ = ["ANY", "Bounds", "Expansion", "Opaque", "Signs", "conjuncts", "factors", "product_of",
           "toreal"]  # fmt: skip
