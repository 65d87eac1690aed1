"""Anchors: tensors that results read and none depends on, as a maximum that is subtracted before
exponentials are summed and divided by their sum.

The adjoint of such a tensor is zero however it is computed, so reverse mode need not carry it. The
proof is forward mode along any direction of the tensor, taken as a free function of its indices.
The derivative of each expression is kept as `scale * expression + rest`: a sum whose scale knows
nothing of the summed indices keeps it, a quotient subtracts scales, a logarithm turns a scale into
a rest. Both are polynomials with exact coefficients over reads; a result does not depend on the
tensor when its derivative is the zero polynomial. What these rules do not reach is not an anchor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite

from opwright.compiler.normalize import reads_of
from opwright.ir.expr import (
    Expr,
    Fold,
    free_vars,
    param,
    read,
    read_parts,
    substitute,
    var,
)
from opwright.ir.op import Tensor

Monomial = frozenset[tuple[Expr, int]]  # atoms with their powers, none of them zero
MAX_TERMS = 64
_UNIT: Monomial = frozenset()
_LN2 = param("~ln2", "real")


class _Unknown(Exception):
    """The rules do not reach an expression."""


@dataclass(frozen=True, slots=True)
class Poly:
    """A sum of monomials, of negative powers too, with exact coefficients."""

    terms: Mapping[Monomial, Fraction]

    def __add__(self, other: Poly) -> Poly:
        out = dict(self.terms)
        for m, c in other.terms.items():
            out[m] = out.get(m, Fraction(0)) + c
        return _poly(out)

    def __mul__(self, other: Poly) -> Poly:
        out: dict[Monomial, Fraction] = {}
        for m, c in self.terms.items():
            for n, d in other.terms.items():
                both = _joined(m, n)
                out[both] = out.get(both, Fraction(0)) + c * d
        return _poly(out)

    def scaled(self, factor: Fraction | int) -> Poly:
        return _poly({m: c * factor for m, c in self.terms.items()})

    def inverse(self) -> Poly | None:
        """1 / self of a single monomial."""
        if len(self.terms) != 1:
            return None
        ((m, c),) = self.terms.items()
        return Poly({frozenset((a, -n) for a, n in m): 1 / c})

    @property
    def zero(self) -> bool:
        return not self.terms

    def names(self) -> set[str]:
        """Index variables that it depends on."""
        return {v for m in self.terms for a, _ in m for v in free_vars(a)}


def _poly(terms: Mapping[Monomial, Fraction]) -> Poly:
    kept = {m: c for m, c in terms.items() if c}
    if len(kept) > MAX_TERMS:
        raise _Unknown
    return Poly(kept)


def _joined(m: Monomial, n: Monomial) -> Monomial:
    powers = dict(m)
    for a, k in n:
        powers[a] = powers.get(a, 0) + k
    return frozenset((a, k) for a, k in powers.items() if k)


def _atom(e: Expr) -> Poly:
    return Poly({frozenset(((e, 1),)): Fraction(1)})


NOTHING = Poly({})


def polynomial(e: Expr) -> Poly:
    """An expression over the reals; what is no sum, product or quotient is an atom."""
    match e.op:
        case "cast" | "toreal":
            return polynomial(e.args[0])
        case "const" if isfinite(e.attr):
            return _poly({_UNIT: Fraction(e.attr)})
        case "add":
            return polynomial(e.args[0]) + polynomial(e.args[1])
        case "sub":
            return polynomial(e.args[0]) + polynomial(e.args[1]).scaled(-1)
        case "neg":
            return polynomial(e.args[0]).scaled(-1)
        case "mul":
            return polynomial(e.args[0]) * polynomial(e.args[1])
        case "div":
            return polynomial(e.args[0]) * _inverse(e.args[1])
    return _atom(e)


def _inverse(e: Expr) -> Poly:
    found = polynomial(e)
    if found.zero:
        raise _Unknown
    return found.inverse() or Poly({frozenset(((e, -1),)): Fraction(1)})


@dataclass(frozen=True, slots=True)
class Tangent:
    """The derivative of an expression e: `scale * e + rest`."""

    scale: Poly = NOTHING
    rest: Poly = NOTHING

    @property
    def zero(self) -> bool:
        return self.scale.zero and self.rest.zero

    def of(self, e: Expr) -> Poly:
        return self.scale * polynomial(e) + self.rest if self.scale.terms else self.rest


CONSTANT = Tangent()


def anchors(tensors: Sequence[Tensor], outputs: Iterable[str]) -> set[str]:
    """Names of real definitions that no real output depends on, by what reads them."""
    real = {n for n in outputs if any(t.name == n and t.kind == "real" for t in tensors)}
    return {t.name for t in tensors if t.kind == "real" and _is_anchor(t, tensors, real)}


def _is_anchor(anchor: Tensor, tensors: Sequence[Tensor], outputs: set[str]) -> bool:
    readers = _readers({anchor.name}, tensors)
    if not readers or (anchor.recurrence is not None and len(anchor.recurrence.group) > 1):
        return False
    try:
        found = _Forward(anchor, [t for t in tensors if t.name in readers]).run()
    except _Unknown:
        return False
    return all(
        found[t.name].of(t.body).zero
        for t in tensors
        if t.name in outputs and t.name in found and t.body is not None
    )


def _readers(names: set[str], tensors: Sequence[Tensor]) -> set[str]:
    """Real definitions that read one of the names, directly or not, but for the names."""
    down = set(names)
    while True:
        more = {t.name for t in tensors if t.kind == "real" and reads_of(t) & down} - down
        if not more:
            return down - names
        down |= more


class _Forward:
    """Derivatives of definitions along any direction of one tensor."""

    def __init__(self, anchor: Tensor, readers: Sequence[Tensor]) -> None:
        self.anchor, self.readers = anchor, readers
        self.known: dict[str, Tangent] = {}
        self.axes: dict[str, tuple[Expr, ...]] = {}
        self.missing: str | None = None  # a recurrence whose scale is being guessed
        self._dependent: dict[Expr, bool] = {}

    def run(self) -> Mapping[str, Tangent]:
        for t in self.readers:
            assert t.body is not None
            self._dependent = {}
            self.axes[t.name] = tuple(var(a.name) for a in t.axes)
            if t.recurrence is None:
                self.known[t.name] = self._closed(t, self.tangent(t.body))
            else:
                self._recurrence(t)
        return self.known

    def _closed(self, t: Tensor, found: Tangent | None) -> Tangent:
        if found is None:
            raise _Unknown
        own = {a.name for a in t.axes}
        if not found.scale.names() | found.rest.names() <= own:
            raise _Unknown
        return found

    def _recurrence(self, t: Tensor) -> None:
        """By induction over the steps: what the other summands have is assumed of the step
        before, and has to come out again. The first step starts from zero."""
        assert t.body is not None and t.recurrence is not None
        init = t.recurrence.init
        if len(t.recurrence.group) > 1 or init.op != "const" or init.attr != 0:
            raise _Unknown
        self.missing = t.name
        guess = self._closed(t, self.tangent(t.body))
        self.missing = None
        if not guess.rest.zero:
            raise _Unknown
        self.known[t.name], self._dependent = guess, {}
        if self.tangent(t.body) != guess:
            raise _Unknown

    # -- expressions: None where it is whatever is asked for, as of the constant zero

    def tangent(self, e: Expr) -> Tangent | None:
        if e.op == "const" and e.attr == 0:
            return None
        if e.kind != "real" or not self._depends(e):
            return CONSTANT
        match e.op:
            case "read":
                return self._read(e)
            case "fold":
                return self._fold(e)
            case "cast":
                return self.tangent(e.args[0])
            case "neg":
                a = self.tangent(e.args[0])
                return a and Tangent(a.scale, a.rest.scaled(-1))
            case "select":
                return self._same([self.tangent(x) for x in e.args[1:]])
            case "min" | "max":
                return self._same([self._certain(x) for x in e.args])
            case "add":
                return self._add(e.args, 1)
            case "sub":
                return self._add(e.args, -1)
            case "mul":
                return self._mul(e.args)
            case "div":
                return self._div(e.args)
        return self._function(e, self._certain(e.args[0]))

    def _depends(self, e: Expr) -> bool:
        """Whether a read below is of the anchor or a known reader of it."""
        if e not in self._dependent:
            name = e.attr[0] if e.op == "read" else None
            mine = name is not None and (
                name in (self.anchor.name, self.missing) or name in self.known
            )
            self._dependent[e] = mine or any(map(self._depends, e.args))
        return self._dependent[e]

    def _certain(self, e: Expr) -> Tangent:
        return self.tangent(e) or CONSTANT

    def _read(self, e: Expr) -> Tangent | None:
        name, index, fill = read_parts(e)
        if fill is not None and fill.op != "const":
            raise _Unknown
        if name == self.missing:
            return None
        if name == self.anchor.name:
            # the direction is zero out of range, as the derivative of a fill is
            return Tangent(rest=_atom(read("~", index, "real")))
        found = self.known[name]
        if fill is not None and not (found.zero or (fill.attr == 0 and found.rest.zero)):
            raise _Unknown
        mapping = dict(zip(self.axes[name], index, strict=True))
        return Tangent(_placed(found.scale, mapping), _placed(found.rest, mapping))

    def _fold(self, e: Expr) -> Tangent | None:
        f = Fold(e)
        if f.kind not in ("sum", "min", "max"):
            raise _Unknown
        found = self.tangent(f.term)
        if found is None or found.zero:
            return found
        if f.kind == "sum" and not found.rest.zero:
            found = Tangent(found.scale + found.rest * _inverse(f.term))
        if (found.scale.names() | found.rest.names()) & set(f.binders):
            raise _Unknown
        return found

    def _same(self, parts: Sequence[Tangent | None]) -> Tangent | None:
        """Of one of several expressions, whichever it is."""
        sure = [p for p in parts if p is not None]
        if any(p != sure[0] for p in sure):
            raise _Unknown
        if len(sure) < len(parts) and sure and not sure[0].rest.zero:
            raise _Unknown
        return sure[0] if sure else None

    def _add(self, args: Sequence[Expr], sign: int) -> Tangent | None:
        a, b = (self.tangent(x) for x in args)
        if a is None or b is None:
            only = a if b is None else b
            if only is None or only is a or sign == 1 or only.rest.zero:
                return only
            return Tangent(only.scale, only.rest.scaled(-1))
        if a.scale == b.scale:
            return Tangent(a.scale, a.rest + b.rest.scaled(sign))
        return Tangent(rest=a.of(args[0]) + b.of(args[1]).scaled(sign))

    def _mul(self, args: Sequence[Expr]) -> Tangent | None:
        a, b = (self.tangent(x) for x in args)
        if a is None or b is None:
            return None
        rest = NOTHING
        if not a.rest.zero:
            rest = rest + a.rest * polynomial(args[1])
        if not b.rest.zero:
            rest = rest + b.rest * polynomial(args[0])
        return Tangent(a.scale + b.scale, rest)

    def _div(self, args: Sequence[Expr]) -> Tangent | None:
        a, b = self.tangent(args[0]), self._certain(args[1])
        if a is None:
            return None
        below = _inverse(args[1])
        down = b.scale if b.rest.zero else b.scale + b.rest * below
        return Tangent(a.scale + down.scaled(-1), a.rest * below)

    def _function(self, e: Expr, a: Tangent) -> Tangent:
        if e.op == "fma":
            product = e.args[0] * e.args[1]
            return self.tangent(product + e.args[2]) or CONSTANT
        if e.op == "pow":
            power = e.args[1]
            if a.rest.zero and power.op == "const" and isfinite(power.attr):
                return Tangent(a.scale.scaled(Fraction(power.attr)))
        elif a.zero and len(e.args) == 1:
            return CONSTANT
        match e.op:
            case "exp":
                return Tangent(a.of(e.args[0]))
            case "exp2":
                return Tangent(a.of(e.args[0]) * _atom(_LN2))
            case "log" | "log2":
                found = a.scale
                if not a.rest.zero:
                    found = found + a.rest * _inverse(e.args[0])
                return Tangent(rest=found if e.op == "log" else found * _inverse(_LN2))
            case "sqrt" if a.rest.zero:
                return Tangent(a.scale.scaled(Fraction(1, 2)))
            case "rsqrt" if a.rest.zero:
                return Tangent(a.scale.scaled(Fraction(-1, 2)))
            case "abs" if a.rest.zero:
                return a
            case "round" if a.scale.zero:  # straight through, as reverse mode takes it
                return a
        raise _Unknown


def _placed(p: Poly, mapping: Mapping[Expr, Expr]) -> Poly:
    """With index variables replaced."""
    out: dict[Monomial, Fraction] = {}
    for m, c in p.terms.items():
        moved = _UNIT
        for a, n in m:
            moved = _joined(moved, frozenset(((substitute(a, mapping), n),)))
        out[moved] = out.get(moved, Fraction(0)) + c
    return _poly(out)
