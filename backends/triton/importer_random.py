"""Random numbers in imported kernels: Philox4x32-10 as a front end inlines it, known by its rounds.

A word of 32 bits is a term over what the kernel makes it of. The terms of an inlined generator are
compared with those that ten rounds over the same seed, position and stream give: an equal term is
that word, whatever the order of the text; anything else (a multiplier, a round less, another
counter) is not known as a random number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from opwright.backends.triton.ttir import Function, Op
from opwright.ir.dtypes import dtype
from opwright.ir.graph import nearest
from opwright.ir.philox import MULTIPLIERS, ROUNDS, STEPS

Term = int  # an entry of `Words`
WORD = 1 << 32
A, B = MULTIPLIERS
UNIT, TURN = 2.0**-24, 2 * math.pi * 2.0**-24
_SHAPES = ("tt.splat",)
_ROOTS = ("arith.mulf", "arith.truncf")


@dataclass(frozen=True, slots=True)
class Source:
    """An integer that a generator starts from: a value by name, of which only the low word counts
    if it is `cut`, or a number."""

    name: str
    number: int = 0
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Draw:
    """What one operation computes: a row of the table and its operands."""

    row: str  # rand | randn
    seed: Source
    position: Source
    stream: Source


def draws(f: Function) -> tuple[dict[str, Draw], set[str]]:
    """Results that are random numbers, and results that nothing else than those needs."""
    ops = list(_all(f))
    if not any(op.name == "tt.mulhiui" for op in ops):
        return {}, set()
    return _Reader(ops).found()


def _all(f: Function) -> Iterator[Op]:
    for b in f.blocks:
        for op in b.ops:
            yield op
            yield from op.inner()


@dataclass(frozen=True, slots=True)
class Key:
    """A term: a number, a leaf by name, or an operation on terms."""

    kind: str  # number | leaf | lower | upper | sign | high | low | plus | xor
    name: str = ""
    number: int = 0
    terms: frozenset[Term] = frozenset()

    @property
    def term(self) -> Term:
        """The operand, where there is one."""
        (only,) = self.terms
        return only


class Words:
    """Terms modulo 2^32: equal ones are one number. Constants are folded, exclusive ors are sets,
    sums are a term and a constant."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.known: dict[Key, Term] = {}

    def make(self, key: Key) -> Term:
        if key not in self.known:
            self.known[key] = len(self.keys)
            self.keys.append(key)
        return self.known[key]

    def leaf(self, kind: str, name: str) -> Term:
        return self.make(Key(kind, name))

    def constant(self, n: int) -> Term:
        return self.make(Key("number", number=n % WORD))

    def number(self, t: Term) -> int | None:
        key = self.keys[t]
        return key.number if key.kind == "number" else None

    def high(self, m: int, t: Term) -> Term:
        """The upper word of a product with a constant."""
        n = self.number(t)
        if n is not None:
            return self.constant(m * n >> 32)
        return self.make(Key("high", number=m, terms=frozenset((t,))))

    def low(self, m: int, t: Term) -> Term:
        """The lower word of it."""
        n = self.number(t)
        if n is not None:
            return self.constant(m * n)
        return self.make(Key("low", number=m, terms=frozenset((t,))))

    def plus(self, n: int, t: Term) -> Term:
        held, key = self.number(t), self.keys[t]
        if held is not None:
            return self.constant(held + n)
        if key.kind == "plus":
            t, n = key.term, key.number + n
        if n % WORD == 0:
            return t
        return self.make(Key("plus", number=n % WORD, terms=frozenset((t,))))

    def parts(self, t: Term) -> tuple[frozenset[Term], int]:
        """The terms and the constant of an exclusive or."""
        key = self.keys[t]
        if key.kind in ("xor", "number"):
            return key.terms, key.number
        return frozenset((t,)), 0

    def xor(self, *of: Term) -> Term:
        terms: frozenset[Term] = frozenset()
        rest = 0
        for t in of:
            inner, n = self.parts(t)
            terms, rest = terms ^ inner, rest ^ n
        if not terms:
            return self.constant(rest)
        if len(terms) == 1 and not rest:
            return next(iter(terms))
        return self.make(Key("xor", number=rest, terms=terms))

    def factor(self, t: Term, kind: str, m: int) -> Term | None:
        """The x of the product with m that is one of the terms, if one is."""
        keys = [self.keys[p] for p in self.parts(t)[0]]
        found = [k.term for k in keys if k.kind == kind and k.number == m]
        return found[0] if len(found) == 1 else None

    def philox(self, seed: tuple[Term, Term], counter: Sequence[Term]) -> tuple[Term, ...]:
        """The four words of ten rounds."""
        (k0, k1), (c0, c1, c2, c3) = seed, counter
        for _ in range(ROUNDS):
            c0, c1, c2, c3 = (
                self.xor(self.high(B, c2), c1, k0),
                self.low(B, c2),
                self.xor(self.high(A, c0), c3, k1),
                self.low(A, c0),
            )
            k0, k1 = self.plus(STEPS[0], k0), self.plus(STEPS[1], k1)
        return c0, c1, c2, c3

    def origin(self, before: Term) -> tuple[tuple[Term, Term], tuple[Term, ...]] | None:
        """Seed and counter, of word 2 before the last round: what they are if it is one."""
        even = {ROUNDS - 1: before}  # after n rounds word 0 where n is even, else word 2
        for n in range(ROUNDS - 2, -1, -1):
            t = self.factor(even[n + 1], "high", B if n % 2 else A)
            if t is None:
                return None
            even[n] = t
        other = self.factor(even[ROUNDS - 2], "low", B)
        odd: dict[int, Term] = {}  # the other one
        for n in range(ROUNDS - 4, 0, -1):
            if other is None:
                return None
            odd[n] = other
            other = self.factor(other, "high", B if n % 2 else A)
        k0 = self.key(even[ROUNDS - 2], B, (ROUNDS - 3) * STEPS[0])
        k1 = self.key(even[ROUNDS - 1], A, (ROUNDS - 2) * STEPS[1])
        if k0 is None or k1 is None:
            return None
        rest = self.xor(even[2], self.high(B, even[1]), self.plus(STEPS[0], k0))
        stream = self.factor(rest, "low", B)
        whole = self.number(rest)
        if whole is not None:
            stream = self.constant(whole * pow(B, -1, WORD))
        if stream is None:
            return None
        top = self.xor(odd[1], self.high(B, stream), k0)
        return (k0, k1), (even[0], top, stream, self.constant(0))

    def key(self, t: Term, m: int, ahead: int) -> Term | None:
        """The key that the round of a word came to after it went on by `ahead`."""
        high, low = self.factor(t, "high", m), self.factor(t, "low", m)
        if high is None or low is None:
            return None
        return self.plus(-ahead, self.xor(t, self.high(m, high), self.low(m, low)))


class _Reader:
    """Finds draws in the operations of a function."""

    def __init__(self, ops: Sequence[Op]) -> None:
        self.ops = ops
        self.made = {r: op for op in ops for r in op.results}
        self.words = Words()
        self.terms: dict[str, Term] = {}
        self.cone: set[str] = set()

    def found(self) -> tuple[dict[str, Draw], set[str]]:
        out: dict[str, Draw] = {}
        for op in self.ops:
            if op.name in _ROOTS:
                drawn = self.uniform(op) or self.normal(op)
                if drawn is not None:
                    out[op.results[0]] = drawn
        return out, self.idle(out) if out else set()

    def idle(self, drawn: dict[str, Draw]) -> set[str]:
        """What only draws were made of."""
        needed: set[str] = set()
        for d in drawn.values():
            needed |= {s.name for s in (d.seed, d.position, d.stream) if s.name}
        for op in reversed(self.ops):
            if op.results and op.results[0] in drawn:
                continue
            inside = len(op.results) == 1 and op.results[0] in self.cone and not op.regions
            if not inside or op.results[0] in needed:
                needed |= set(op.operands)
        return self.cone - needed - set(drawn)

    # -- floats
    def uniform(self, op: Op) -> Draw | None:
        """(word 0 >> 8) * 2^-24"""
        bits = self.scaled(op.results[0], UNIT, "f32")
        if bits is None:
            return None
        return self.draw("rand", [self.fraction(bits, 0)])

    def normal(self, op: Op) -> Draw | None:
        """sqrt(-2 log(((word 0 >> 8) + 1) * 2^-24)) * cos((word 1 >> 8) * 2 pi 2^-24)"""
        if op.name != "arith.truncf" or op.types()[0].element != "f32":
            return None
        for a, b in self.pair(op.operands[0], "arith.mulf"):
            root, turn = self.inner(a, "math.sqrt", "tt.precise_sqrt"), self.inner(b, "math.cos")
            inside = None if root is None else self.scaled(root, -2.0, "f64")
            log = None if inside is None else self.inner(inside, "math.log")
            whole = None if log is None else self.scaled(log, UNIT, "f64")
            first = None if whole is None else self.with_constant(whole, "arith.addf", 1.0)
            second = None if turn is None else self.scaled(turn, TURN, "f64")
            if first is not None and second is not None:
                return self.draw("randn", [self.fraction(first, 0), self.fraction(second, 1)])
        return None

    def inner(self, name: str, *wanted: str) -> str | None:
        op = self.made.get(name)
        if op is None or op.name not in wanted or len(op.operands) != 1:
            return None
        self.cone.add(name)
        return op.operands[0]

    def pair(self, name: str, wanted: str) -> list[tuple[str, str]]:
        """Both orders of the operands."""
        op = self.made.get(name)
        if op is None or op.name != wanted:
            return []
        self.cone.add(name)
        a, b = op.operands
        return [(a, b), (b, a)]

    def scaled(self, name: str, by: float, kind: str) -> str | None:
        op = self.made.get(name)
        if op is None or op.types()[0].element != kind:
            return None
        return self.with_constant(name, "arith.mulf", by)

    def with_constant(self, name: str, wanted: str, by: float) -> str | None:
        by = nearest(by, dtype(self.made[name].types()[0].element)) if name in self.made else by
        for a, b in self.pair(name, wanted):
            if self.real(b) == by:
                return a
        return None

    def real(self, name: str) -> float | None:
        """The number of a float constant."""
        op = self.constant_of(name)
        kind = "" if op is None else op.types()[0].element
        if op is None or kind not in ("f32", "f64") or _literal(op).startswith("0x"):
            return None
        return nearest(float(_literal(op)), dtype(kind))  # printed with few digits

    def constant_of(self, name: str) -> Op | None:
        op = self.made.get(name)
        while op is not None and op.name in _SHAPES:
            op = self.made.get(op.operands[0])
        return op if op is not None and op.name == "arith.constant" else None

    def fraction(self, name: str, which: int) -> tuple[int, Term] | None:
        """The upper 24 bits of a word as a float."""
        bits = self.inner(name, "arith.uitofp", "arith.sitofp")
        op = self.made.get(bits or "")
        if (
            bits is None
            or op is None
            or op.name != "arith.shrui"
            or self.whole(op.operands[1]) != 8
        ):
            return None
        if op.types()[0].element != "i32":
            return None
        self.cone.add(bits)
        return which, self.word(op.operands[0])

    # -- words
    def draw(self, row: str, parts: Sequence[tuple[int, Term] | None]) -> Draw | None:
        origin = None
        for part in parts:
            if part is None:
                return None
            which, t = part
            before = self.words.factor(t, "low" if which == 1 else "high", B)
            found = None if before is None else self.words.origin(before)
            if found is None or self.words.philox(*found)[which] != t:
                return None
            if origin is not None and origin != found:
                return None
            origin = found
        if origin is None:
            return None
        (k0, k1), (low, high, stream, _) = origin
        seed, position = self.integer(low=k0, high=k1), self.integer(low=low, high=high)
        number = self.source(stream)
        if seed is None or position is None or number is None:
            return None
        return Draw(row, seed, position, number)

    def integer(self, low: Term, high: Term) -> Source | None:
        """The integer that two words are."""
        a, b = self.words.keys[low], self.words.keys[high]
        if a.kind == b.kind == "number":
            n = a.number + WORD * b.number
            return Source("", n - (1 << 64) if n >> 63 else n)
        if (b.kind, b.number) == ("number", 0):
            found = self.source(low)
            return None if found is None else Source(found.name, 0, True)
        if (a.kind, b.kind) in (("lower", "upper"), ("leaf", "sign")) and a.name == b.name:
            return Source(a.name)
        return None

    def source(self, t: Term) -> Source | None:
        key = self.words.keys[t]
        if key.kind == "number":
            return Source("", key.number)
        return Source(key.name) if key.kind in ("leaf", "lower") else None

    def word(self, name: str) -> Term:
        if name not in self.terms:
            self.terms[name] = self._word(name)
        return self.terms[name]

    def _word(self, name: str) -> Term:
        """A value of 32 bits as a term."""
        w, op = self.words, self.made.get(name)
        n = self.whole(name)
        if n is not None:
            return w.constant(n)
        if op is None or len(op.results) != 1:
            return w.leaf("leaf", name)
        a, b = ([*op.operands, "", ""])[:2]
        made: Term | None = None
        if op.name in ("tt.splat", "arith.bitcast", "tt.bitcast"):
            made = self.word(a) if self.bits(op) == 32 else None
        elif op.name == "arith.trunci":
            made = self.lower(a) if op.ins and op.ins[0].element == "i64" else None
        elif op.name == "arith.xori":
            made = w.xor(self.word(a), self.word(b))
        elif op.name in ("arith.addi", "arith.muli", "tt.mulhiui"):
            x, m = (a, self.whole(b)) if self.whole(b) is not None else (b, self.whole(a))
            if m is not None:
                use = {"arith.addi": w.plus, "arith.muli": w.low, "tt.mulhiui": w.high}
                made = use[op.name](m % WORD, self.word(x))
        if made is None:
            return w.leaf("leaf", name)
        self.cone.add(name)
        return made

    def bits(self, op: Op) -> int:
        """The width of what an operation is given."""
        kind = op.ins[0].element if op.ins else ""
        return int(kind[1:]) if re.fullmatch(r"i\d+", kind) else 0

    def lower(self, name: str) -> Term:
        """The low word of a value of 64 bits."""
        w, op = self.words, self.made.get(name)
        n = self.whole(name)
        if n is not None:
            return w.constant(n)
        made: Term | None = None
        if op is not None and op.operands:
            a, b = ([*op.operands, ""])[:2]
            if op.name == "tt.splat":
                made = self.lower(a)
            elif op.name in ("arith.extsi", "arith.extui") and self.bits(op) == 32:
                made = self.word(a)
            elif op.name in ("arith.shrui", "arith.shrsi") and self.whole(b) == 32:
                made = self.upper(a)
            elif op.name == "arith.andi":
                x, m = (a, self.whole(b)) if self.whole(b) is not None else (b, self.whole(a))
                made = self.lower(x) if m is not None and m % WORD == WORD - 1 else None
        if made is None:
            return w.leaf("lower", name)
        self.cone.add(name)
        return made

    def upper(self, name: str) -> Term:
        """The high word of a value of 64 bits."""
        w, op = self.words, self.made.get(name)
        n = self.whole(name)
        if n is not None:
            return w.constant(n >> 32)
        made: Term | None = None
        if op is not None and op.operands:
            if op.name == "tt.splat":
                made = self.upper(op.operands[0])
            elif op.name == "arith.extui" and self.bits(op) == 32:
                made = w.constant(0)
            elif op.name == "arith.extsi" and self.bits(op) == 32:
                key = w.keys[self.word(op.operands[0])]
                made = w.leaf("sign", key.name) if key.kind == "leaf" else None
        if made is None:
            return w.leaf("upper", name)
        self.cone.add(name)
        return made

    def whole(self, name: str) -> int | None:
        """The number of an integer constant."""
        op = self.constant_of(name)
        if op is None or not re.fullmatch(r"i\d+", op.types()[0].element):
            return None
        text = _literal(op)
        return int(text, 0) if re.fullmatch(r"-?\d+|0x[0-9A-Fa-f]+", text) else None


def _literal(op: Op) -> str:
    """The number in `dense<8> : tensor<1024xi32>` or `8 : i32`."""
    text = op.rest
    if text.startswith("dense<"):
        text = text[len("dense<") :].rsplit(">", 1)[0]
    return text.split(" : ")[0].strip()
