"""Real numbers as elements of finite fields: a second reading of the semantics table, in which
equality over the reals is equality of numbers, but for an error of known probability.

A number holds residues modulo a few safe primes p = 2q + 1, the residues modulo q that an
exponential of it needs, and a float64 beside them that decides order and nothing else. exp maps
onto the subgroup of order q and log back, so that their laws hold; a root is a power of the same
group. Roots and logarithms of what is no square there have the wrong sign: such residues are known
not to be exact, and are compared only where there are no others. Other functions are random
functions of the residues. Inputs are random points: what float64
calls equal are equal ones. An infinity and an undefined value are classes of their own.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.ir.semantics import ROWS

Array = NDArray[Any]

PRIMES = 3
BITS = 20  # of the order of the subgroup
FINITE, PLUS, MINUS, NONE = 0, 1, 2, 3  # classes
RES, EXPONENT, FIRM = 1, 2, 4  # what is known: the residues, those of exponents, the float's order
KNOWN = RES | EXPONENT | FIRM

REAL = np.dtype(
    [
        ("v", "f8"),
        ("r", "i8", (PRIMES,)),
        ("e", "i8", (PRIMES,)),
        ("k", "i1"),
        ("s", "i1"),
        ("x", "i1"),
    ]
)

EXACT = (1 << 2 * PRIMES) - 1  # every residue is that of the number, by prime: r, then e
BITS_R = np.array([1 << n for n in range(PRIMES)], np.int8)
BITS_E = np.array([1 << (PRIMES + n) for n in range(PRIMES)], np.int8)
SHADOW = np.array([0.0, math.inf, -math.inf, math.nan])
SIMPLE = 64  # inputs that are quarters up to this are the numbers that they are


@cache
def primes() -> tuple[Array, Array]:
    """The moduli p and q."""
    found: list[int] = []
    q = (1 << BITS) - 1
    while len(found) < PRIMES:
        if _prime(q) and _prime(2 * q + 1):
            found.append(q)
        q -= 2
    order = np.array(found, np.int64)
    return 2 * order + 1, order


def _prime(n: int) -> bool:
    return n > 1 and n % 2 == 1 and all(n % d for d in range(3, math.isqrt(n) + 1, 2))


@cache
def tables() -> tuple[list[Array], list[Array]]:
    """Powers of 4, which generates the squares, and of every residue the exponent of it or of its
    negative, whichever is a square."""
    powers, logs = [], []
    for p, q in zip(*primes(), strict=True):
        power = np.ones(1, np.int64)
        while len(power) < q:
            power = np.concatenate([power, power * (int(power[-1]) * 4 % p) % p])
        power = power[:q]
        log = np.zeros(p, np.int32)
        log[power] = log[p - power] = np.arange(q)
        powers.append(power.astype(np.int32))
        logs.append(log)
    return powers, logs


def is_real(x: Any) -> bool:
    """Whether data are numbers of this module."""
    return getattr(x, "dtype", None) == REAL


# -- making numbers --------------------------------------------------------------------------------


def _mixed(x: Array) -> Array:
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def _seeded(name: str, point: int) -> np.uint64:
    digest = hashlib.sha256(f"{name}:{point}".encode()).digest()
    return np.uint64(int.from_bytes(digest[:8], "little"))


def _spread(code: Array, moduli: Array) -> Array:
    """Residues for each modulus, as good as random, of one code."""
    with np.errstate(over="ignore"):
        steps = np.arange(1, PRIMES + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        codes = _mixed(code[..., None] + steps + moduli.astype(np.uint64))
    return np.asarray((codes % moduli.astype(np.uint64)).astype(np.int64))


def _coded(x: Array, name: str, point: int) -> Array:
    """A code of each number, equal for equal ones."""
    p, _ = primes()
    known = (x["s"] & RES) > 0
    parts = np.where(known[..., None], x["r"], x["e"] + p)
    code = np.full(x.shape, _seeded(name, point))
    for n in range(PRIMES):
        code = _mixed(code ^ (parts[..., n].astype(np.uint64) + np.uint64(n + 1)))
    return code


def rational(value: Fraction) -> tuple[Array, Array]:
    """Residues of a fraction."""
    out = []
    for moduli in primes():
        out.append([value.numerator * pow(value.denominator, -1, int(m)) % int(m) for m in moduli])
    return np.array(out[0], np.int64), np.array(out[1], np.int64)


class Reals:
    """Numbers at one random point: literals, inputs and every operation on them."""

    def __init__(self, point: int = 0, literals: Sequence[float] = ()) -> None:
        self.point, self.literals = point, literals
        self.p, self.q = primes()
        self.power, self.log = tables()
        self._literals: dict[float, Array] = {}
        self._symbols: dict[str, Array] = {}

    def literal(self, number: float | int | bool) -> Array:
        """A number of a text. Literals that f32 does not tell apart are one, by the simplest
        fraction that they may stand for; logarithms of 2, pi and roots are what they stand for."""
        value = float(number)
        found = self._literals.get(value)
        if found is None:
            found = self._literal(number)
            self._literals[value] = found
        return found

    def _literal(self, number: float | int) -> Array:
        out = np.zeros((), REAL)
        out["v"], out["s"], out["x"] = float(number), KNOWN, EXACT
        if isinstance(number, int) or (float(number).is_integer() and abs(number) < 2**53):
            out["r"], out["e"] = rational(Fraction(int(number)))
            return out
        if not math.isfinite(number):
            out["k"] = NONE if math.isnan(number) else PLUS if number > 0 else MINUS
            return out
        simple = _simplest(number) or _near(number, 256)
        if simple is not None:
            out["r"], out["e"] = rational(simple)
            return out
        named = self._named(abs(number))
        named = self._product(abs(number)) if named is None else named
        if named is not None:
            named = self.neg(named) if number < 0 else named.copy()
            named["v"] = number
            return named
        out["r"], out["e"] = rational(_near(number, 4096) or Fraction(number))
        return out

    def _symbol(self, name: str, value: float) -> Array:
        if name not in self._symbols:
            out = np.zeros((), REAL)
            code = np.full((), _seeded(f"symbol {name}", self.point))
            out["v"], out["s"], out["x"] = value, KNOWN, EXACT
            out["r"], out["e"] = _spread(code, self.p), _spread(_mixed(code), self.q)
            self._symbols[name] = out
        return self._symbols[name]

    def _named(self, value: float) -> Array | None:
        """What a long literal stands for: a multiple of ln 2 or pi, or a root."""
        ln2, pi = self._symbol("ln2", math.log(2)), self._symbol("pi", math.pi)
        for symbol, number in ((ln2, math.log(2)), (pi, math.pi)):
            for inverse in (False, True):
                factor = value * number if inverse else value / number
                near = Fraction(factor).limit_denominator(360)
                if near and abs(float(near) - factor) <= 1.2e-7 * factor:
                    scale = self._literal_of(near)
                    return self.div(scale, symbol) if inverse else self.mul(scale, symbol)
        for inside, number in (
            (self.literal(1), 1.0),
            (pi, math.pi),
            (self.inverse(pi), 1 / math.pi),
        ):
            square = value * value / number
            near = Fraction(square).limit_denominator(1024)
            if near and abs(float(near) - square) <= 1.5e-7 * square:
                return self.function("sqrt", self.mul(self._literal_of(near), inside))
        return None

    def _product(self, value: float) -> Array | None:
        """A product or a quotient of two literals of the operator."""
        if value in self.literals or len(self.literals) > 8:
            return None
        for a in self.literals:
            for b in self.literals:
                if abs(a * b - value) <= 1.2e-7 * value:
                    return self.mul(self.literal(a), self.literal(b))
                if abs(a / b - value) <= 1.2e-7 * value:
                    return self.div(self.literal(a), self.literal(b))
        return None

    def _literal_of(self, value: Fraction) -> Array:
        out = np.zeros((), REAL)
        out["v"], out["s"], out["x"] = float(value), KNOWN, EXACT
        out["r"], out["e"] = rational(value)
        return out

    def full(self, shape: Sequence[int], number: float | int | bool) -> Array:
        return np.broadcast_to(self.literal(number), tuple(shape)).copy()

    def whole(self, x: Any) -> Array:
        """Integers as numbers."""
        x = np.asarray(x)
        out = np.zeros(x.shape, REAL)
        out["v"], out["s"], out["x"] = x, KNOWN, EXACT
        out["r"], out["e"] = x[..., None] % self.p, x[..., None] % self.q
        return out

    def given(self, x: Any) -> Array:
        """Inputs: random points, equal ones where the floats are equal, but for simple numbers."""
        if is_real(x):
            return np.asarray(x)
        x = np.asarray(x, np.float64) + 0.0  # -0.0 is 0.0
        out = np.zeros(x.shape, REAL)
        out["v"], out["s"], out["x"] = x, KNOWN, EXACT
        code = _mixed(np.array(x, order="C").view(np.uint64) ^ _seeded("input", self.point))
        code = code.reshape(x.shape)
        out["r"], out["e"] = _spread(code, self.p), _spread(_mixed(code), self.q)
        with np.errstate(invalid="ignore"):
            quarters = np.where(np.abs(x) <= SIMPLE, x * 4, 0.5)
        simple = quarters == np.floor(quarters)
        if simple.any():
            n = np.where(simple, quarters, 0).astype(np.int64)[..., None]
            for field, moduli in (("r", self.p), ("e", self.q)):
                quarter = np.array([pow(4, -1, int(m)) for m in moduli], np.int64)
                out[field] = np.where(simple[..., None], n * quarter % moduli, out[field])
        classes = np.where(np.isnan(x), NONE, np.where(x > 0, PLUS, MINUS))
        out["k"] = np.where(np.isfinite(x), FINITE, classes)
        return out

    # -- arithmetic --------------------------------------------------------------------------------

    def shadow(self, x: Array) -> Array:
        """The float beside each number."""
        return np.where(x["k"] == FINITE, x["v"], SHADOW[x["k"]])

    def _made(self, v: Array, r: Array, e: Array, s: Any, k: Any, x: Any) -> Array:
        """A number of its parts. What is 0 in every field is 0; a float that left its range is
        not to be relied on."""
        out = np.empty(v.shape, REAL)
        s = np.broadcast_to(s, v.shape).astype(np.int8)
        known = np.where((s & RES) > 0, (r == 0).all(-1), (e == 0).all(-1))
        zero = known & ((s & (RES | EXPONENT)) > 0)
        lost = ~np.isfinite(v) | ((v == 0) & ~zero)
        out["v"], out["r"], out["e"] = np.where(zero, 0.0, v), r, e
        out["k"], out["s"], out["x"] = k, np.where(lost, s & ~FIRM, s), x
        return out

    def _classed(self, like: Array, *args: Array) -> Array:
        """Where operands are infinite or undefined, the class of the result by floats."""
        if not any(a["k"].any() for a in args):
            return np.zeros(like.shape, np.int8)
        special = np.zeros(like.shape, bool)
        for a in args:
            special = special | (a["k"] != FINITE)
        return np.where(special, _classes(like), FINITE).astype(np.int8)

    def _settled(self, out: Array, like: Array) -> Array:
        """A finite result of infinite operands is the number that the float is."""
        there = (out["k"] == FINITE) & np.isfinite(like)
        if there.any():
            out[there] = self.given(like[there])
        return out

    def _special(self, *args: Array) -> bool:
        return any(bool(a["k"].any()) for a in args)

    def _floats(self, op: str, *args: Array) -> Array:
        """What floats make of infinities: signs instead of finite numbers."""
        with np.errstate(all="ignore"):
            like = [np.where(a["k"] == FINITE, np.sign(a["v"]), SHADOW[a["k"]]) for a in args]
            return np.asarray(ROWS[op].concrete(*like), np.float64)

    def neg(self, a: Array) -> Array:
        out = np.array(a)
        out["v"], out["r"], out["e"] = -a["v"], -a["r"] % self.p, -a["e"] % self.q
        out["k"] = np.array([FINITE, MINUS, PLUS, NONE], np.int8)[a["k"]]
        return out

    def add(self, a: Array, b: Array) -> Array:
        with np.errstate(all="ignore"):
            v = np.asarray(a["v"] + b["v"])
        r, e = (a["r"] + b["r"]) % self.p, (a["e"] + b["e"]) % self.q
        k: Any = FINITE
        if self._special(a, b):
            k = self._classed(self._floats("add", a, b), a, b)
        return self._made(v, r, e, a["s"] & b["s"], k, a["x"] & b["x"])

    def sub(self, a: Array, b: Array) -> Array:
        return self.add(a, self.neg(b))

    def mul(self, a: Array, b: Array) -> Array:
        with np.errstate(all="ignore"):
            v = np.asarray(a["v"] * b["v"])
        r, e = a["r"] * b["r"] % self.p, a["e"] * b["e"] % self.q
        s, x = a["s"] & b["s"], a["x"] & b["x"]
        none = (_zero(a) & (b["k"] == FINITE)) | (_zero(b) & (a["k"] == FINITE))
        if none.any():
            r, e = np.where(none[..., None], 0, r), np.where(none[..., None], 0, e)
            s, v = np.where(none, KNOWN, s), np.where(none, 0.0, v)
            x = np.where(none, EXACT, x)
        k: Any = FINITE
        if self._special(a, b):
            k = self._classed(self._floats("mul", a, b), a, b)
        return self._made(v, r, e, s, k, x)

    def inverse(self, a: Array) -> Array:
        """1 / a, infinite of 0."""
        out = np.empty(a.shape, REAL)
        zero = _zero(a)
        with np.errstate(all="ignore"):
            out["v"] = np.where(zero, math.inf, 1 / a["v"])
        for n, q in enumerate(self.q):
            sign, at = self._logarithm(a["r"][..., n], n)
            back = self.power[n][(q - at) % q].astype(np.int64)
            out["r"][..., n] = back * sign % self.p[n]
            out["e"][..., n] = _powered(a["e"][..., n], int(q) - 2, int(q))
        s = a["s"].copy()
        s &= np.where((a["r"] == 0).any(-1), ~RES, -1).astype(np.int8)
        s &= np.where((a["e"] == 0).any(-1), ~EXPONENT, -1).astype(np.int8)
        s &= np.where(np.isfinite(out["v"]) & (out["v"] != 0), -1, ~FIRM).astype(np.int8)
        out["s"], out["x"] = s, a["x"]
        out["k"] = np.where(zero, PLUS, a["k"])
        gone = (a["k"] == PLUS) | (a["k"] == MINUS)
        if gone.any():
            out[gone] = self.literal(0)
        return out

    def div(self, a: Array, b: Array) -> Array:
        out = self.mul(a, self.inverse(b))
        with np.errstate(all="ignore"):
            v = np.asarray(a["v"] / b["v"])
        finite = (out["k"] == FINITE) & np.isfinite(v)
        out["v"] = np.where(finite & ~_zero(out), v, out["v"])
        return out

    def _logarithm(self, r: Array, n: int) -> tuple[Array, Array]:
        """Sign and exponent of residues of one prime."""
        at = self.log[n][r].astype(np.int64)
        return np.where(self.power[n][at] == r, 1, -1), at

    # -- order -------------------------------------------------------------------------------------

    def _matched(self, a: Array, b: Array) -> tuple[Array, Array]:
        """Whether residues that both have agree, and whether exact ones say so."""
        both, exact = a["s"] & b["s"], a["x"] & b["x"]
        same = np.zeros(both.shape, bool)
        told = np.zeros(both.shape, bool)
        for field, bits, known in (("r", BITS_R, RES), ("e", BITS_E, EXPONENT)):
            equal = a[field] == b[field]
            sure = (exact[..., None] & bits) > 0
            any_sure, there = sure.any(-1), (both & known) > 0
            here = np.where(any_sure, (equal | ~sure).all(-1), equal.all(-1))
            same |= there & here
            told |= there & any_sure
        return same, told

    def equal(self, a: Array, b: Array) -> Array:
        known = ((a["s"] & b["s"]) & (RES | EXPONENT)) > 0
        same = np.where(known, self._matched(a, b)[0], a["v"] == b["v"])
        finite = (a["k"] == FINITE) & (b["k"] == FINITE)
        return np.asarray(np.where(finite, same, (a["k"] == b["k"]) & (a["k"] != NONE)))

    def less(self, a: Array, b: Array) -> Array:
        return np.asarray(~self.equal(a, b) & (self.shadow(a) < self.shadow(b)))

    def better(self, op: str, a: Array, b: Array) -> Array:
        """The larger or the smaller one; what is undefined stays so."""
        first = self.less(b, a) if op == "max" else self.less(a, b)
        first = (first | (a["k"] == NONE)) & (b["k"] != NONE) | (a["k"] == NONE)
        return np.asarray(np.where(first, a, b))

    # -- functions ---------------------------------------------------------------------------------

    def random(self, name: str, a: Array, odd: int = 0) -> tuple[Array, Array]:
        """Residues of a random function, odd (1), even (-1) or neither (0)."""
        code = _coded(a, name, self.point)
        r, e = _spread(code, self.p), _spread(_mixed(code), self.q)
        if odd:
            turned = _coded(self.neg(a), name, self.point)
            r = (r - odd * _spread(turned, self.p)) % self.p
            e = (e - odd * _spread(_mixed(turned), self.q)) % self.q
        return r, e

    def function(self, op: str, a: Array) -> Array:
        """A row of one real operand and a real result."""
        rewrite = REWRITTEN.get(op)
        like = self._shadowed(op, a)
        if rewrite is not None:
            out = rewrite(self, a)
            firm = (out["k"] == FINITE) & np.isfinite(like) & ~_zero(out)
            out = np.array(out)
            out["v"] = np.where(firm, like, out["v"])
        else:
            r, e, s, x = self._residues(op, a)
            out = self._made(like, r, e, s, _outside(op, a, like), x)
        return self._points(op, a, out, like)

    def _shadowed(self, op: str, a: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(ROWS[op].concrete(self.shadow(a)), np.float64)

    def _points(self, op: str, a: Array, out: Array, like: Array) -> Array:
        """Values at 0 and at infinities are what they are; roots of squares, too."""
        at = ((a["k"] == PLUS) | (a["k"] == MINUS) | _zero(a)) & np.isfinite(like)
        if op == "sqrt":
            near = (like * 4 == np.floor(like * 4)) & (like * like == a["v"]) & (like <= 4096)
            if near.any():
                n = np.where(near, a["v"] * 16, 0).astype(np.int64)[..., None]
                sixteenth = np.array([pow(16, -1, int(m)) for m in self.p], np.int64)
                at = at | (near & (n * sixteenth % self.p == a["r"]).all(-1))
        if op == "log":
            at = at | (_zero(self.sub(a, np.broadcast_to(self.literal(1), a.shape))))
            like = np.where(at & (a["k"] == FINITE), 0.0, like)
        if at.any():
            out = np.array(np.broadcast_to(out, at.shape))
            out[at] = self._exactly(like[at])
        undefined = (a["k"] == NONE) | ((a["k"] != FINITE) & np.isnan(like))
        infinite = (a["k"] != FINITE) & np.isinf(like)
        if undefined.any() or infinite.any():
            out["k"] = np.where(undefined, NONE, np.where(infinite, _classes(like), out["k"]))
        return out

    def _exactly(self, values: Array) -> Array:
        flat = [self.literal(float(x)) for x in values.reshape(-1)]
        return np.array(flat, REAL).reshape(values.shape) if flat else np.zeros(values.shape, REAL)

    def _residues(self, op: str, a: Array) -> tuple[Array, Array, Array, Array]:
        r, e = self.random(op, a, 1 if op in ODD else -1 if op in EVEN else 0)
        s = np.where(a["s"] & (RES | EXPONENT), KNOWN, 0).astype(np.int8)
        keys = np.where(a["s"] & RES, EXACT & int(BITS_R.sum()), EXACT & int(BITS_E.sum()))
        x = np.where((a["x"] & keys) == keys, EXACT, 0).astype(np.int8)
        if op == "exp":
            known = (a["s"] & EXPONENT) > 0
            s = np.where(known, s & ~EXPONENT, s)
            x = np.where(known, (a["x"] >> PRIMES) & int(BITS_R.sum()), x)
            for n in range(PRIMES):
                r[..., n] = np.where(known, self.power[n][a["e"][..., n]], r[..., n])
        elif op == "log":
            known = (a["s"] & RES) > 0
            x = np.where(known, EXACT & int(BITS_E.sum()), x).astype(np.int8)
            for n in range(PRIMES):
                sign, at = self._logarithm(a["r"][..., n], n)
                e[..., n] = np.where(known, at, e[..., n])
                sure = (sign > 0) & ((a["x"] & BITS_R[n]) > 0)
                x &= np.where(~known | sure, -1, ~BITS_E[n]).astype(np.int8)
        elif op == "sqrt":
            known = (a["s"] & RES) > 0
            x = np.where(known, EXACT & int(BITS_R.sum()), x).astype(np.int8)
            for n, q in enumerate(self.q):
                sign, at = self._logarithm(a["r"][..., n], n)
                half = (int(q) + 1) // 2
                root = self.power[n][at * half % q].astype(np.int64)
                sure = (sign > 0) & ((a["x"] & BITS_R[n]) > 0)
                bits = np.where(sure, BITS_R[n], 0).astype(np.int8)
                x = np.where(known, (x & ~BITS_R[n]) | bits, x)
                root = np.where(a["r"][..., n] == 0, 0, root)
                r[..., n] = np.where(known, root, r[..., n])
        return r, e, s, x

    def pow(self, a: Array, b: Array) -> Array:
        """A whole or half power by products and roots; else exp(b log a)."""
        shape = np.broadcast_shapes(a.shape, b.shape)
        a, b = np.broadcast_to(a, shape), np.broadcast_to(b, shape)
        twice = np.unique(b["v"] * 2) if b.size else np.zeros(0)
        if b.size and not self._special(b) and len(twice) <= 4:
            plain = [float(t) for t in twice if float(t).is_integer() and abs(t) <= 128]
            exact = all(
                bool(self.equal(b[b["v"] * 2 == t], self._literal_of(Fraction(int(t), 2))).all())
                for t in plain
            )
            if len(plain) == len(twice) and exact:
                out = np.zeros(shape, REAL)
                for t in plain:
                    here = b["v"] * 2 == t
                    out[here] = self._half_power(a[here], int(t))
                return self._power_shadow(a, b, out)
        found = self.function("exp", self.mul(b, self.function("log", a)))
        return self._power_shadow(a, b, found)

    def _half_power(self, a: Array, twice: int) -> Array:
        out = np.broadcast_to(self.literal(1), a.shape)
        base, n = a, abs(twice) // 2
        while n:
            out = self.mul(out, base) if n & 1 else out
            base, n = (self.mul(base, base), n >> 1) if n > 1 else (base, 0)
        if twice % 2:
            out = self.mul(out, self.function("sqrt", a))
        return self.inverse(out) if twice < 0 else np.array(out)

    def _power_shadow(self, a: Array, b: Array, out: Array) -> Array:
        with np.errstate(all="ignore"):
            like = np.power(self.shadow(a), self.shadow(b))
        firm = (out["k"] == FINITE) & np.isfinite(like) & ~_zero(out)
        out = np.array(out)
        out["v"] = np.where(firm, like, out["v"])
        return out

    # -- rows --------------------------------------------------------------------------------------

    def row(self, op: str, args: Sequence[Any]) -> Any:
        """The meaning of a row on numbers of this module, integers and truth values."""
        row = ROWS[op]
        reals = [is_real(a) or (isinstance(a, float) and k in "nr")
                 for a, k in zip(args, row.kinds, strict=False)]  # fmt: skip
        if op == "toreal":
            return args[0] if reals[0] else self.whole(args[0])
        if row.result == "r" or any(reals):
            args = [
                self.number(a) if k in "nr" else a for a, k in zip(args, row.kinds, strict=False)
            ]
        if not any(reals) and row.result != "r":
            return row.concrete(*args)
        if op in ("rand", "randn"):
            return self.given(row.concrete(*args))
        if op == "select":
            return np.where(*args)
        if op in ("add", "sub", "mul", "div", "neg", "pow"):
            found: Array = getattr(self, op)(*args)
            return found
        if op in ("min", "max"):
            return self.better(op, *args)
        if op == "fma":
            return self.add(self.mul(args[0], args[1]), args[2])
        if op == "abs":
            return np.where(self.shadow(args[0]) < 0, self.neg(args[0]), args[0])
        if op in ("lt", "le", "eq", "ne", "approx"):
            return self._compared(op, *args)
        if op in ("isnan", "isinf"):
            k = args[0]["k"]
            return k == NONE if op == "isnan" else (k == PLUS) | (k == MINUS)
        if op in ("floor", "ceil", "trunc", "nearest"):
            return row.concrete(_near_whole(self.shadow(args[0])))
        return self.function(op, args[0])

    def _compared(self, op: str, a: Array, b: Array) -> Array:
        if op in ("eq", "ne", "approx"):
            return np.asarray(self.equal(a, b) if op != "ne" else ~self.equal(a, b))
        return np.asarray(self.less(a, b) if op == "lt" else self.less(a, b) | self.equal(a, b))

    def number(self, x: Any) -> Array:
        """Anything as numbers: Python's are literals, arrays of integers whole numbers."""
        if is_real(x):
            return np.asarray(x)
        if isinstance(x, bool | int | float):
            return self.literal(x)
        x = np.asarray(x)
        return self.given(x) if x.dtype.kind == "f" else self.whole(x.astype(np.int64))

    # -- reductions --------------------------------------------------------------------------------

    def reduce(self, monoid: str, x: Array, axis: int) -> Array:
        """Combination of all entries along an axis; the neutral element of none."""
        x = np.moveaxis(x, axis, 0)
        if not len(x):
            return self.full(x.shape[1:], NEUTRAL[monoid])
        if monoid == "sum" and not self._special(x):
            with np.errstate(all="ignore"):
                v = x["v"].sum(0)
            r, e = x["r"].sum(0) % self.p, x["e"].sum(0) % self.q
            s, exact = (np.bitwise_and.reduce(x[n], axis=0) for n in ("s", "x"))
            return self._made(v, r, e, s, FINITE, exact)
        while len(x) > 1:
            half = len(x) // 2
            joined = self.combined(monoid, x[:half], x[half : 2 * half])
            x = np.concatenate([joined, x[2 * half :]]) if len(x) % 2 else joined
        return np.array(x[0])

    def combined(self, monoid: str, a: Array, b: Array) -> Array:
        if monoid in ("max", "min"):
            return self.better(monoid, a, b)
        return self.add(a, b) if monoid == "sum" else self.mul(a, b)

    def running(self, monoid: str, x: Array, axis: int) -> Array:
        """Combination of the entries up to each one along an axis."""
        out = np.moveaxis(np.array(x), axis, 0)
        for n in range(1, len(out)):
            out[n] = self.combined(monoid, out[n - 1], out[n])
        return np.moveaxis(out, 0, axis)

    def contract(self, text: str, a: Array, b: Array) -> Array | None:
        """An einsum of two operands; None where one holds an infinity."""
        if self._special(a, b):
            return None
        sides, result = text.split("->")
        left, right = sides.split(",")
        with np.errstate(all="ignore"):
            v = np.einsum(text, a["v"], b["v"])
        many = f"{left}Z,{right}Z->{result}Z"
        r = np.einsum(many, a["r"], b["r"]) % self.p
        e = np.einsum(many, a["e"], b["e"]) % self.q
        s, exact = (self._joint(text, a[n], b[n]) for n in ("s", "x"))
        return self._made(np.asarray(v), r, e, s, FINITE, exact)

    def _joint(self, text: str, a: Array, b: Array) -> Array:
        """The bits that all parts of the sums of a contraction have."""
        everyone = int(np.bitwise_and.reduce(a, axis=None) & np.bitwise_and.reduce(b, axis=None))
        some = int(np.bitwise_or.reduce(a, axis=None) & np.bitwise_or.reduce(b, axis=None))
        out: Any = np.int8(everyone)
        ones = np.ones(a.shape, np.int64), np.ones(b.shape, np.int64)
        for bit in (1 << n for n in range(7)):
            if some & bit and not everyone & bit:
                left, right = ((x & bit) == 0 for x in (a, b))
                lost = np.einsum(text, left * ones[0], ones[1])
                lost = lost + np.einsum(text, ones[0], right * ones[1])
                out = out | np.where(lost == 0, bit, 0).astype(np.int8)
        return np.asarray(out, np.int8)

    def extreme(self, fold: str, x: Array, at: Array, allowed: Array, nobody: int) -> Array:
        """The smallest of the indices `at` where the allowed entries along the last axis are
        extreme; `nobody` where none is allowed."""
        better = self.less if fold == "argmin" else (lambda a, b: self.less(b, a))
        best, place = x[..., 0], np.where(allowed[..., 0], at[..., 0], nobody)
        held = allowed[..., 0]
        for n in range(1, x.shape[-1]):
            y, ok, i = x[..., n], allowed[..., n], at[..., n]
            first = ok & (~held | better(y, best))
            tie = ok & held & self.equal(y, best) & (i < place)
            best, held = np.where(first, y, best), held | ok
            place = np.where(first | tie, i, place)
        return place

    def scatter(self, monoid: str, memory: Array, at: tuple[Array, ...], data: Array) -> None:
        """memory[at] = combine(memory[at], data), for all lanes, in place."""
        if monoid == "sum" and not self._special(data, memory):
            with np.errstate(all="ignore"):
                np.add.at(memory["v"], at, data["v"])
            for field, moduli in (("r", self.p), ("e", self.q)):
                np.add.at(memory[field], at, data[field])
                memory[field] %= moduli
            for field in ("s", "x"):
                np.bitwise_and.at(memory[field], at, data[field])
            return
        for n in range(len(data)):
            here = tuple(i[n] for i in at)
            memory[here] = self.combined(monoid, memory[here], data[n])

    def agree(self, a: Array, b: Array) -> tuple[Array, Array]:
        """(equal, not comparable) for each pair: by the residues that both have, exact ones where
        there are any."""
        known = ((a["s"] & b["s"]) & (RES | EXPONENT)) > 0
        same, told = self._matched(a, b)
        finite = (a["k"] == FINITE) & (b["k"] == FINITE)
        unknown = (finite & (~known | (~same & ~told))) | (a["k"] == NONE)
        return np.where(finite, same, a["k"] == b["k"]), unknown


NEUTRAL: dict[str, float] = {"sum": 0.0, "prod": 1.0, "max": -math.inf, "min": math.inf}
ODD = {"sin", "atan", "asin", "erf"}
EVEN = {"cos"}
POLES = {"log", "rsqrt"}  # infinite at 0


def _zero(x: Array) -> Array:
    return np.asarray((x["k"] == FINITE) & (x["v"] == 0.0) & ((x["s"] & FIRM) > 0))


def _classes(like: Array) -> Array:
    finite = np.where(np.isfinite(like), FINITE, NONE)
    return np.where(like == math.inf, PLUS, np.where(like == -math.inf, MINUS, finite))


def _outside(op: str, a: Array, like: Array) -> Array:
    """The class of a function's value at finite places: a pole, or nothing."""
    none = np.where(np.isnan(like) & (a["k"] == FINITE), NONE, FINITE)
    if op in POLES:
        pole = PLUS if op == "rsqrt" else MINUS
        return np.where(_zero(a), pole, none)
    return np.asarray(none)


def _powered(x: Array, n: int, modulus: int) -> Array:
    out = np.ones_like(x)
    while n:
        if n & 1:
            out = out * x % modulus
        x, n = x * x % modulus, n >> 1
    return out


def _near_whole(x: Array) -> Array:
    """Floats that are whole but for rounding, as whole ones."""
    with np.errstate(invalid="ignore"):
        near = np.rint(x)
        return np.where(np.abs(x - near) <= 1e-12 * np.maximum(np.abs(x), 1), near, x)


def _simplest(number: float) -> Fraction | None:
    """The fraction that a short literal is."""
    with np.errstate(over="ignore"):
        single = np.float32(number)
    if not np.isfinite(single) or not single:
        return None
    text = np.format_float_scientific(single, unique=True, trim="-")
    digits = text.partition("e")[0].replace(".", "").replace("-", "").strip("0")
    if len(digits) <= 6:
        return Fraction(text)
    return None


def _near(number: float, largest: int) -> Fraction | None:
    """A fraction of a small denominator that single precision does not tell from a number."""
    near = Fraction(number).limit_denominator(largest)
    return near if near and abs(float(near) - number) <= 6e-8 * abs(number) else None


def _one(m: Reals, a: Array) -> Array:
    return np.broadcast_to(m.literal(1), a.shape)


def _tanh(m: Reals, a: Array) -> Array:
    power = m.function("exp", m.add(a, a))
    return m.div(m.sub(power, _one(m, a)), m.add(power, _one(m, a)))


def _hyperbolic(sign: int) -> Callable[[Reals, Array], Array]:
    def call(m: Reals, a: Array) -> Array:
        up, down = m.function("exp", a), m.function("exp", m.neg(a))
        return m.mul(m.literal(0.5), m.add(up, down if sign > 0 else m.neg(down)))

    return call


def _ln2(m: Reals) -> Array:
    return m._symbol("ln2", math.log(2))


REWRITTEN: dict[str, Callable[[Reals, Array], Array]] = {
    "exp2": lambda m, a: m.function("exp", m.mul(a, _ln2(m))),
    "expm1": lambda m, a: m.sub(m.function("exp", a), _one(m, a)),
    "log2": lambda m, a: m.div(m.function("log", a), _ln2(m)),
    "log1p": lambda m, a: m.function("log", m.add(a, _one(m, a))),
    "rsqrt": lambda m, a: m.inverse(m.function("sqrt", a)),
    "sigmoid": lambda m, a: m.inverse(m.add(_one(m, a), m.function("exp", m.neg(a)))),
    "tanh": _tanh,
    "sinh": _hyperbolic(-1),
    "cosh": _hyperbolic(1),
    "tan": lambda m, a: m.div(m.function("sin", a), m.function("cos", a)),
    "acos": lambda m, a: m.sub(
        m.mul(m.literal(0.5), m._symbol("pi", math.pi)), m.function("asin", a)
    ),
}
