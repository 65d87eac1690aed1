"""Hash-consed graph of pure values for normal forms: no names, no order, axes by position.

A node is a function of its axes, which have positions in order of first appearance among its
operands; a reference says which axes of a program stand at these positions. Nodes are identified by
a digest of what they are made of, and operands of commutative operations stand in the order of
their digests. Integers are exact: sums of products over what is neither, comparisons against zero.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from opwright.ir.dtypes import DTYPES, DType, decode, encode
from opwright.ir.semantics import ROWS
from opwright.ir.tile import Axis


@dataclass(frozen=True, slots=True)
class Ref:
    """A node at axes of a program."""

    node: int
    axes: tuple[Axis, ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    """`args` are nodes with the position of each of their axes; a bound axis (of a reduction) has
    a negative one. `shape` are extents of the node's own axes, `bound` those of the bound ones."""

    op: str
    attr: str
    args: tuple[tuple[int, tuple[int, ...]], ...]
    shape: tuple[int, ...]
    bound: tuple[int, ...]
    digest: str


_FOLDED: dict[str, Callable[[float, float], float]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv,
    "min": min, "max": max,
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[[float], float]] = {
    "exp": math.exp, "exp2": lambda x: 2.0**x, "log": math.log, "log2": math.log2,
    "sqrt": math.sqrt, "rsqrt": lambda x: 1 / math.sqrt(x), "sin": math.sin, "cos": math.cos,
    "erf": math.erf,
}  # fmt: skip
_COMPARED: dict[str, Callable[[float, float], bool]] = {
    "lt": operator.lt, "le": operator.le, "eq": operator.eq, "ne": operator.ne,
}  # fmt: skip
Terms = dict[tuple[Ref, ...], int]


class Graph:
    """Makes and owns nodes."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._known: dict[str, int] = {}
        self._ranges: dict[int, tuple[int | None, int | None]] = {}

    def digest(self, r: Ref) -> str:
        return self.nodes[r.node].digest

    def ordered(self, refs: Iterable[Ref]) -> list[Ref]:
        return sorted(refs, key=lambda r: (self.digest(r), [(a.extent, a.name) for a in r.axes]))

    def make(
        self,
        op: str,
        attr: object = "",
        args: Sequence[Ref] = (),
        bound: Sequence[Axis] = (),
        own: Sequence[Axis] = (),
    ) -> Ref:
        """A node over operands. `own` are axes that come first, `bound` those that it takes
        away."""
        place: dict[Axis, int] = {}
        axes: list[Axis] = []
        taken: list[int] = []
        for a in (*own, *(x for r in args for x in r.axes)):
            if a in place:
                continue
            if a in bound:
                taken.append(a.extent)
                place[a] = -len(taken)
            else:
                place[a] = len(axes)
                axes.append(a)
        taken += sorted(a.extent for a in bound if a not in place)
        parts = tuple((r.node, tuple(place[a] for a in r.axes)) for r in args)
        shape = tuple(a.extent for a in axes)
        made_of = [(self.nodes[n].digest, at) for n, at in parts]
        text = repr((op, str(attr), made_of, shape, tuple(taken)))
        digest = hashlib.sha256(text.encode()).hexdigest()
        found = self._known.get(digest)
        if found is None:
            found = self._known[digest] = len(self.nodes)
            self.nodes.append(Node(op, str(attr), parts, shape, tuple(taken), digest))
        return Ref(found, tuple(axes))

    def parts(self, r: Ref) -> list[Ref]:
        """Operands of a reference whose node binds no axis."""
        n = self.nodes[r.node]
        return [Ref(i, tuple(r.axes[p] for p in at)) for i, at in n.args]

    def op(self, r: Ref) -> str:
        return self.nodes[r.node].op

    # -- leaves
    def number(self, n: int | bool) -> Ref:
        return self.make("true" if n else "false") if isinstance(n, bool) else self.make("int", n)

    def lane(self, a: Axis) -> Ref:
        return self.make("lane", own=(a,))

    def constant(self, r: Ref) -> int | bool | None:
        n = self.nodes[r.node]
        if n.op in ("true", "false"):
            return n.op == "true"
        return int(n.attr) if n.op == "int" else None

    # -- integers
    def terms(self, r: Ref) -> Terms:
        """A reference as a sum of products."""
        n = self.nodes[r.node]
        if n.op == "int":
            return {(): int(n.attr)} if int(n.attr) else {}
        if n.op != "sum":
            return {(r,): 1}
        out: Terms = {}
        parts = iter(self.parts(r))
        for word in n.attr.split():
            c, _, count = word.partition("*")
            out[tuple(next(parts) for _ in range(int(count)))] = int(c)
        return out

    def total(self, terms: Terms) -> Ref:
        live = [(m, c) for m, c in terms.items() if c]
        if not live:
            return self.number(0)
        if len(live) == 1:
            (m, c) = live[0]
            if not m:
                return self.number(c)
            if c == 1 and len(m) == 1:
                return m[0]
        live.sort(key=lambda x: ([self.digest(r) for r in x[0]], x[1]))
        attr = " ".join(f"{c}*{len(m)}" for m, c in live)
        return self.make("sum", attr, [r for m, _ in live for r in m])

    def plus(self, a: Terms, b: Terms, times: int = 1) -> Terms:
        out = dict(a)
        for m, c in b.items():
            out[m] = out.get(m, 0) + times * c
        return {m: c for m, c in out.items() if c}

    def times(self, a: Terms, b: Terms) -> Terms:
        out: Terms = {}
        for m, c in a.items():
            for n, d in b.items():
                k = tuple(self.ordered((*m, *n)))
                out[k] = out.get(k, 0) + c * d
        return {m: c for m, c in out.items() if c}

    def know(self, r: Ref, lo: int, hi: int) -> None:
        """Bounds of an integer that its type gives."""
        self._ranges[r.node] = lo, hi

    def interval(self, r: Ref) -> tuple[int | None, int | None]:
        """Constant bounds of an integer that follow from extents and from what cannot be
        negative."""
        if r.node not in self._ranges:
            self._ranges[r.node] = self._interval(r)
        return self._ranges[r.node]

    def _interval(self, r: Ref) -> tuple[int | None, int | None]:
        n = self.nodes[r.node]
        if n.op == "int":
            return int(n.attr), int(n.attr)
        if n.op == "lane":
            return 0, n.shape[0] - 1
        if n.op in ("size", "pid", "stride"):
            return 0, None
        if n.op == "sum":
            return self.bounds(self.terms(r))
        if n.op == "floordiv":
            a, b = self.parts(r)
            (low, top), d = self.interval(a), self.constant(b)
            if low is not None and low >= 0:
                return 0, None if top is None or not d else top // int(d)
        if n.op in ("max", "min", "select"):
            ends = [self.interval(x) for x in self.parts(r)[n.op == "select" :]]
            lows = [a for a, _ in ends if a is not None]
            tops = [b for _, b in ends if b is not None]
            whole = len(lows) == len(ends), len(tops) == len(ends)
            if n.op == "max":
                return max(lows, default=None), max(tops) if whole[1] else None
            if n.op == "min":
                return min(lows) if whole[0] else None, min(tops, default=None)
            return min(lows) if whole[0] else None, max(tops) if whole[1] else None
        return None, None

    def bounds(self, terms: Terms) -> tuple[int | None, int | None]:
        lo: int | None = 0
        hi: int | None = 0
        for m, c in terms.items():
            a: int | None = 1
            b: int | None = 1
            for f in m:
                x, y = self.interval(f)
                if x is None or x < 0:
                    return None, None
                a = None if a is None else a * x
                b = None if b is None or y is None else b * y
            low, high = (a, b) if c > 0 else (b, a)
            lo = None if lo is None or low is None else lo + c * low
            hi = None if hi is None or high is None else hi + c * high
        return lo, hi

    def quotient(self, a: Ref, b: Ref) -> Ref:
        """Floor quotient for a positive divisor: multiples of it come out in front."""
        divisor = self.terms(b)
        whole: Terms = {}
        rest = self.terms(a)
        if len(divisor) == 1:
            ((part, size),) = divisor.items()
            for m, c in self.terms(a).items():
                left, times = quotient(m, part), abs(c) // abs(size) * (1 if c > 0 else -1)
                if left is not None and times and size > 0:
                    whole = self.plus(whole, {left: times})
                    rest = self.plus(rest, {m: -times * size})
            lo, hi = self.bounds(rest)
            if not part and lo is not None and hi is not None and lo // size == hi // size:
                return self.total(self.plus(whole, {(): lo // size} if lo // size else {}))
        if not rest:
            return self.total(whole)
        small = self.make("floordiv", "", [self.total(rest), b])
        return self.total(self.plus(whole, {(small,): 1}))

    # -- truth values
    def positive(self, terms: Terms) -> Ref:
        """Whether a sum is at least zero."""
        rest = {m: c for m, c in terms.items() if m}
        constant = terms.get((), 0)
        if not rest:
            return self.number(constant >= 0)
        divisor = math.gcd(*rest.values())
        rest = {m: c // divisor for m, c in rest.items()}
        whole = self.plus(rest, {(): constant // divisor} if constant // divisor else {})
        lo, hi = self.bounds(whole)
        if lo is not None and lo >= 0:
            return self.number(True)
        if hi is not None and hi < 0:
            return self.number(False)
        return self.make("ge0", "", [self.total(whole)])

    def zero(self, terms: Terms) -> Ref:
        if not [m for m in terms if m]:
            return self.number(not terms)
        a, b = self.total(terms), self.total({m: -c for m, c in terms.items()})
        return self.make("eq0", "", [min((a, b), key=self.digest)])

    def negation(self, r: Ref) -> Ref:
        n = self.nodes[r.node]
        known = self.constant(r)
        if known is not None:
            return self.number(not known)
        if n.op == "not":
            return self.parts(r)[0]
        if n.op == "ge0":
            (p,) = self.parts(r)
            return self.positive(self.plus({(): -1}, self.terms(p), -1))
        return self.make("not", "", [r])

    def join(self, op: str, refs: Iterable[Ref]) -> Ref:
        """Conjunction or disjunction."""
        absorbing = op == "or"
        found: dict[Ref, None] = {}
        for r in refs:
            known = self.constant(r)
            if known is not None:
                if known is absorbing:
                    return r
            else:
                found |= dict.fromkeys(self.parts(r) if self.op(r) == op else [r])
        if not found:
            return self.number(not absorbing)
        return next(iter(found)) if len(found) == 1 else self.make(op, "", self.ordered(found))

    # -- operations
    def exact(self, op: str, args: list[Ref], dtype: str = "") -> Ref:
        """A row of the semantics table over integers and truth values."""
        if op in ("add", "sub"):
            sign = 1 if op == "add" else -1
            return self.total(self.plus(self.terms(args[0]), self.terms(args[1]), sign))
        if op == "neg":
            return self.total({m: -c for m, c in self.terms(args[0]).items()})
        if op == "mul":
            return self.total(self.times(self.terms(args[0]), self.terms(args[1])))
        if op == "abs":
            return self.extreme("max", [args[0], self.exact("neg", args)])
        if op in ("min", "max"):
            return self.extreme(op, args)
        if op == "floordiv":
            return self.quotient(*args)
        if op == "mod":
            whole = self.times(self.terms(self.quotient(*args)), self.terms(args[1]))
            return self.total(self.plus(self.terms(args[0]), whole, -1))
        if op in ("lt", "le"):
            gap = self.plus(self.terms(args[1]), self.terms(args[0]), -1)
            return self.positive(self.plus(gap, {(): -1}) if op == "lt" else gap)
        if op in ("eq", "ne"):
            same = self.zero(self.plus(self.terms(args[0]), self.terms(args[1]), -1))
            return same if op == "eq" else self.negation(same)
        if op == "not":
            return self.negation(args[0])
        if op in ("and", "or"):
            return self.join(op, args)
        return self.make(op, dtype, args)

    def extreme(self, op: str, args: list[Ref]) -> Ref:
        found: dict[Ref, None] = {}
        numbers: list[int] = []
        for r in args:
            for x in self.parts(r) if self.op(r) == op else [r]:
                n = self.constant(x)
                if n is None:
                    found[x] = None
                else:
                    numbers.append(int(n))
        least = [self.number((min if op == "min" else max)(numbers))] if numbers else []
        parts = [*self.ordered(found), *least]
        return parts[0] if len(parts) == 1 else self.make(op, "", parts)

    def choice(self, c: Ref, a: Ref, b: Ref, dtype: str, truth: bool) -> Ref:
        """Selection; of truth values in terms of and, or, not."""
        a, b = self.side(c, a, True), self.side(c, b, False)
        known = self.constant(c)
        if known is not None:
            return a if known else b
        if a == b:
            return a
        if truth:
            return self.join("or", [self.join("and", [c, a]),
                                    self.join("and", [self.negation(c), b])])  # fmt: skip
        if self.op(c) == "ge0" and dtype == "int":  # the larger or the smaller one
            (gap,) = (self.terms(p) for p in self.parts(c))
            for name, x, y in (("max", a, b), ("min", b, a)):
                more = self.plus(self.terms(x), self.terms(y), -1)
                if gap in (more, self.plus(more, {(): -1})):
                    return self.extreme(name, [a, b])
        if self.digest(self.negation(c)) < self.digest(c):
            c, a, b = self.negation(c), b, a
        return self.make("select", dtype, [c, a, b])

    def side(self, c: Ref, r: Ref, taken: bool) -> Ref:
        """What a selection by the same condition is where that is known."""
        while self.op(r) == "select":
            inner, a, b = self.parts(r)
            if inner == c:
                r = a if taken else b
            elif inner == self.negation(c):
                r = b if taken else a
            else:
                break
        return r

    def real(self, op: str, args: list[Ref], dtype: str) -> Ref:
        """A row of the semantics table over floats: neutral elements go, operands are sorted."""
        if op == "fma":
            return self.real("add", [self.real("mul", args[:2], dtype), args[2]], dtype)
        numbers = [self.literal(a) for a in args]
        x, *more = numbers
        if op in _COMPARED and x is not None and more[0] is not None:
            return self.number(_COMPARED[op](x, more[0]))
        if op == "abs" and x is not None:
            return self.constant_of(abs(x), dtype)
        if op in _FUNCTIONS and x is not None:
            try:
                return self.constant_of(_FUNCTIONS[op](x), dtype)
            except (ValueError, OverflowError, ZeroDivisionError):
                pass  # what it is there depends on who computes it
        if op in _FOLDED and x is not None and more[0] is not None and (more[0] or op != "div"):
            return self.constant_of(_FOLDED[op](x, more[0]), dtype)
        if op in ("add", "mul"):
            neutral = 0.0 if op == "add" else 1.0
            for n, number in enumerate(numbers):
                if number == neutral:
                    return args[1 - n]
        if op in ("min", "max") and args[0] == args[1]:
            return args[0]
        kind = dtype.split()[0]
        if op in ("eq", "ne") and args[0] == args[1]:  # only a NaN differs from itself
            odd = self.make("isnan", f"{kind} bool", args[:1])
            return odd if op == "ne" else self.negation(odd)
        if op == "isinf":
            size = self.real("abs", args, f"{kind} {kind}")
            return self.real("eq", [size, self.constant_of(math.inf, kind)], f"{kind} bool")
        if op == "sub" and numbers[1] == 0:
            return args[0]
        if op in ("add", "sub"):  # x + -y, x - -y
            signs = [self.op(a) == "neg" for a in args]
            if signs[1] and (op == "sub" or not signs[0]):
                other = "add" if op == "sub" else "sub"
                return self.real(other, [args[0], self.parts(args[1])[0]], dtype)
            if op == "add" and signs == [True, False]:
                return self.real("sub", [args[1], self.parts(args[0])[0]], dtype)
        if op == "sub" and numbers[0] == 0:
            return self.real("neg", args[1:], dtype)
        if op == "div" and numbers[1] == 1:
            return args[0]
        if op == "abs" and self.op(args[0]) in ("abs", "neg"):
            return self.real("abs", self.parts(args[0]), dtype)
        if op == "neg":
            if self.op(args[0]) == "neg":
                return self.parts(args[0])[0]
            if x is not None:
                return self.constant_of(-x, dtype)
        row = ROWS[op]
        return self.make(op, dtype, self.ordered(args) if row.commutative else args)

    def constant_of(self, number: float, dtype: str) -> Ref:
        """A float constant of the type that the last word names."""
        own = DTYPES[dtype.split()[-1]]
        return self.make("full", f"{own} {nearest(number, own)!r}")

    def literal(self, r: Ref) -> float | None:
        n = self.nodes[r.node]
        return float(n.attr.split()[1]) if n.op == "full" else None


def nearest(number: float, d: DType) -> float:
    """The number of a float type that is next to another."""
    return number if d.name == "f64" else float(decode(encode(np.array([number]), d), d)[0])


def quotient(m: tuple[Ref, ...], part: tuple[Ref, ...]) -> tuple[Ref, ...] | None:
    """m / part, or None if it does not divide."""
    rest = list(m)
    for f in part:
        if f not in rest:
            return None
        rest.remove(f)
    return tuple(rest)
