"""A chain: reductions over the same indices that read each other's results, in sympy's terms.

What depends on the indices and on no result is an element; what depends on neither is a parameter;
a value of results alone that is more than a result gets a name of its own (a `Let`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import mul
from typing import Any

from opwright.compiler.normalize import extract_folds, reads_of
from opwright.ir.expr import (
    TRUE,
    Expr,
    Fold,
    call,
    canonical_binders,
    conjunction,
    conjuncts,
    free_vars,
    read_parts,
    rebuild,
    show,
    substitute,
    var,
    walk,
)
from opwright.ir.extents import same_extent
from opwright.ir.op import Operator, Tensor
from opwright.ir.semantics import ARG_FOLDS

Sympy = Any
COUNT = "n"  # how many elements there are; of a guarded chain, those that the guard lets in
STAGES = ("sum", "prod", "max", "min", "argmax", "argmin")


@dataclass(frozen=True, slots=True)
class Stage:
    """`name` = monoid over the indices of `body`, where `guard` holds."""

    name: str
    monoid: str
    body: Sympy
    guard: Expr = TRUE


@dataclass(frozen=True, slots=True)
class Let:
    """`name` = a value of earlier results alone, as in mean = S / n."""

    name: str
    expr: Sympy


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """Stages and lets in order of dependency; the last stage is the one the chain is named after.

    `tensors` are the definitions that stages came from, with the indices they are read at.
    """

    name: str
    binders: tuple[str, ...]
    ranges: tuple[tuple[Expr, Expr], ...]
    steps: tuple[Stage | Let, ...]
    elements: Mapping[Sympy, Expr]
    params: Mapping[Sympy, Expr]
    tensors: Mapping[str, tuple[str, tuple[Expr, ...]]] = field(default_factory=dict)
    accumulator: Any = None  # the least accumulator that the last stage asks for

    @property
    def results(self) -> list[Sympy]:
        return [symbol(COUNT), *(symbol(s.name) for s in self.steps)]

    @property
    def key(self) -> str:
        """The algebra of the chain: equal for chains that differ in types and places alone."""
        signs = [(str(x), x.is_positive) for x in (*self.elements, *self.params)]
        parts = [(s.name, str(s.expr if isinstance(s, Let) else (s.monoid, s.body, show(s.guard))))
                 for s in self.steps]  # fmt: skip
        return repr((self.name, signs, parts))

    @property
    def stages(self) -> list[Stage]:
        return [s for s in self.steps if isinstance(s, Stage)]


class NotAChain(Exception):
    """Why reductions do not make a chain: the message names the definition."""


def symbol(name: str, **assumptions: bool) -> Sympy:
    import sympy

    return sympy.Symbol(name, **({"real": True} | assumptions))


def chains(op: Operator, every: bool = False) -> Iterator[Chain | NotAChain]:
    """The chains of an operator that end in a reduction no other chain reads over its index (with
    `every`, in any), in the order of the text; a NotAChain where one is broken by what the pass has
    to read."""
    made = extract_folds(op)
    found: list[Chain | NotAChain] = []
    for t in made:
        if not is_stage(t):
            continue
        try:
            chain = _Builder(op, made, t).chain()
        except NotAChain as e:
            found.append(e)
            continue
        if len(chain.stages) > 1:
            found.append(chain)
    inner = {
        name
        for c in found
        if isinstance(c, Chain)
        for key, (name, _) in c.tensors.items()
        if key != c.name
    }
    for c in found:
        if every or isinstance(c, NotAChain) or c.name not in inner:
            yield c


def is_stage(t: Tensor) -> bool:
    """Whether a definition is one plain reduction."""
    if t.body is None or t.body.op != "fold" or t.recurrence is not None:
        return False
    return Fold(t.body).kind in STAGES


class _Builder:
    """Reads the chain of one reduction in the coordinates of its axes."""

    def __init__(self, op: Operator, tensors: Sequence[Tensor], last: Tensor) -> None:
        self.op, self.last = op, last
        self.known = {t.name: t for t in (*op.inputs, *tensors)}
        assert last.body is not None
        f = Fold(last.body)
        self.binders, self.ranges = f.binders, f.ranges
        extents = [hi - lo for lo, hi in f.ranges]
        self.count = reduce(mul, extents)
        self.steps: list[Stage | Let] = []
        self.atoms: dict[Expr, Sympy] = {}
        self.elements: dict[Sympy, Expr] = {}
        self.params: dict[Sympy, Expr] = {}
        self.results: dict[tuple[str, tuple[Expr, ...]], Sympy] = {}
        self.lets: dict[Expr, Sympy] = {}
        self.tensors: dict[str, tuple[str, tuple[Expr, ...]]] = {}
        self.used = {COUNT}
        self.late: dict[str, bool] = {}
        self.guard = TRUE

    def chain(self) -> Chain:
        at = tuple(var(a.name) for a in self.last.axes)
        self._stage(self.last, at)
        assert self.last.body is not None
        return Chain(
            self.last.name,
            self.binders,
            self.ranges,
            tuple(self.steps),
            self.elements,
            self.params,
            self.tensors,
            Fold(self.last.body).attr.acc,
        )

    # -- stages

    def _fresh(self, hint: str) -> str:
        name, n = hint, 0
        while name in self.used:
            n += 1
            name = f"{hint}{n}"
        self.used.add(name)
        return name

    def _stage(self, t: Tensor, at: tuple[Expr, ...]) -> Sympy:
        key = (t.name, at)
        if key in self.results:
            return self.results[key]
        assert t.body is not None
        f = Fold(t.body)
        mapping = {var(a.name): i for a, i in zip(t.axes, at, strict=True)}
        mapping |= {var(b): var(own) for b, own in zip(f.binders, self.binders, strict=True)}
        term, guard = self._inlined(substitute(f.term, mapping)), substitute(f.guard, mapping)
        conditions = conjuncts(guard)
        if f.kind == "sum":
            more, term = _conditions(term)
            conditions += [c for c in more if c not in conditions]
        outer, self.guard = self.guard, conjunction(conditions)
        for c in conditions:
            if self._depends(c):
                raise NotAChain(f"{t.name}: which elements count depends on {self._first(c)}")
        body = self.value(term)
        name = self._fresh(t.name)
        self.steps.append(Stage(name, str(f.kind), body, self.guard))
        self.guard = outer
        self.tensors[name] = key
        self.results[key] = symbol(name)
        return self.results[key]

    def _inlined(self, e: Expr) -> Expr:
        """Pointwise definitions of elements that depend on results, written out."""
        if e.op == "read":
            name, index, fill = read_parts(e)
            t = self.known[name]
            has = any(map(self._has, index))
            if not has or fill is not None or t.body is None or t.recurrence is not None:
                return e
            if t.body.op == "fold" or not self._late(t):
                return e
            mapping = {var(a.name): i for a, i in zip(t.axes, index, strict=True)}
            return self._inlined(substitute(t.body, mapping))
        return rebuild(e, tuple(self._inlined(a) for a in e.args)) if e.args else e

    def _is_result(self, t: Tensor, index: tuple[Expr, ...]) -> bool:
        """Whether a read gives a reduction over the chain's own range, at one place for all."""
        if not is_stage(t) or any(map(self._has, index)):
            return False
        assert t.body is not None
        f = Fold(t.body)
        if len(f.binders) != len(self.binders):
            return False
        mapping = {var(a.name): i for a, i in zip(t.axes, index, strict=True)}
        mapping |= {var(b): var(own) for b, own in zip(f.binders, self.binders, strict=True)}
        return all(
            same_extent(substitute(a, mapping), b)
            for mine, own in zip(f.ranges, self.ranges, strict=True)
            for a, b in zip(mine, own, strict=True)
        )

    def _has(self, e: Expr) -> bool:
        """Whether an expression differs from element to element."""
        return not free_vars(e).isdisjoint(self.binders)

    # -- what depends on results

    def _depends(self, e: Expr) -> bool:
        return any(x.op == "read" and self._late_read(x) for x in walk(e))

    def _first(self, e: Expr) -> str:
        return next(show(x) for x in walk(e) if x.op == "read" and self._late_read(x))

    def _late_read(self, x: Expr) -> bool:
        name, index, _ = read_parts(x)
        t = self.known[name]
        return self._is_result(t, index) or self._late(t)

    def _late(self, t: Tensor) -> bool:
        """Whether a definition reads a reduction over the chain's range as a whole."""
        if t.name not in self.late:
            self.late[t.name] = False
            if t.body is not None and not is_stage(t):
                self.late[t.name] = any(self._could(self.known[n]) for n in reads_of(t))
            elif is_stage(t):
                assert t.body is not None
                over = self._alike(Fold(t.body))
                inner = any(self._could(self.known[n]) for n in reads_of(t))
                self.late[t.name] = inner and not over
        return self.late[t.name]

    def _could(self, t: Tensor) -> bool:
        if is_stage(t):
            assert t.body is not None
            return self._alike(Fold(t.body)) or self._late(t)
        return self._late(t)

    def _alike(self, f: Fold) -> bool:
        """Whether a reduction may run over the chain's elements at some place."""
        mine, own = [hi for _, hi in f.ranges], [hi for _, hi in self.ranges]
        return len(mine) == len(own) and all(
            same_extent(a, b) or bool(free_vars(a) or free_vars(b))
            for a, b in zip(mine, own, strict=True)
        )

    # -- values

    def value(self, e: Expr) -> Sympy:
        """An expression as sympy; casts between reals are the identity over the reals."""
        import sympy

        if e.op == "const":
            return _number(e.attr)
        has = self._has(e)
        late = self._depends(e)
        if not late:
            return self._structure(e) if has and _algebraic(e) else self._atom(e, has)
        if e.op == "cast" or e.op == "toreal":
            return self.value(e.args[0])
        if e.op == "read":
            return self._read(e, has)
        if not has and not _leafy(e):
            return self._let(e)
        if e.op == "select":
            test = self._test(e.args[0])
            return sympy.Piecewise((self.value(e.args[1]), test), (self.value(e.args[2]), True))
        return self._structure(e)

    def _structure(self, e: Expr) -> Sympy:
        import sympy

        a = [self.value(x) for x in e.args]
        match e.op:
            case "add":
                return a[0] + a[1]
            case "sub":
                return a[0] - a[1]
            case "mul":
                return a[0] * a[1]
            case "div":
                return a[0] / a[1]
            case "neg":
                return -a[0]
            case "exp":
                return sympy.exp(a[0])
            case "log":
                return sympy.log(a[0])
            case "sqrt":
                return sympy.sqrt(a[0])
            case "rsqrt":
                return 1 / sympy.sqrt(a[0])
            case "abs":
                return sympy.Abs(a[0])
            case "sin":
                return sympy.sin(a[0])
            case "cos":
                return sympy.cos(a[0])
            case "pow" if a[1].is_Integer:
                return a[0] ** a[1]
            case "cast":
                return a[0]
        return sympy.Function(e.op, real=True)(*a)

    def _read(self, e: Expr, has: bool) -> Sympy:
        name, index, fill = read_parts(e)
        t = self.known[name]
        if self._is_result(t, index) and fill is None:
            return self._stage(t, index)
        if t.body is None or t.recurrence is not None or t.body.op == "fold" or fill is not None:
            raise NotAChain(f"{self.last.name}: {show(e)} needs a pass of its own")
        mapping = {var(a.name): i for a, i in zip(t.axes, index, strict=True)}
        body = substitute(t.body, mapping)
        if has or _leafy(body):
            return self.value(body)
        return self._let(body, t.name)

    def _let(self, e: Expr, hint: str = "r") -> Sympy:
        if e not in self.lets:
            body = self._structure(e) if e.op != "read" else self.value(e)
            name = self._fresh(hint)
            self.steps.append(Let(name, body))
            self.lets[e] = symbol(name)
        return self.lets[e]

    def _atom(self, e: Expr, has: bool) -> Sympy:
        """An element, a parameter, or the number of elements."""
        plain = e
        while plain.op in ("cast", "toreal"):
            plain = plain.args[0]
        if plain.kind == "int" and self.guard is TRUE and same_extent(plain, self.count):
            return symbol(COUNT)
        known = canonical_binders(plain if plain.kind == "real" else e)
        if known not in self.atoms:
            name = plain.attr[0] if plain.op == "read" else "e" if has else "c"
            if plain.op in ("param", "size"):
                name = str(plain.attr)
            positive = {"positive": True} if self._positive(plain) else {}
            made = symbol(self._fresh(name), **positive)
            self.atoms[known] = made
            (self.elements if has else self.params)[made] = e
        return self.atoms[known]

    def _positive(self, e: Expr) -> bool:
        facts = [*self.op.facts, *(c.expr for c in self.op.requires if c.expr is not None)]
        parts = [x for f in facts for x in conjuncts(f)]
        return any(f.op == "lt" and f.args[1] is e and _least(f.args[0]) >= 0 for f in parts)

    def _test(self, c: Expr) -> Sympy:
        import sympy

        compare = {"lt": sympy.Lt, "le": sympy.Le, "gt": sympy.Gt, "ge": sympy.Ge}
        if c.op in compare and c.args[0].kind == "real":
            return compare[c.op](self.value(c.args[0]), self.value(c.args[1]))
        if self._depends(c):
            raise NotAChain(f"{self.last.name}: which value counts depends on {self._first(c)}")
        return sympy.Gt(self._atom(call("select", c, 1.0, 0.0), True), 0)


def _conditions(term: Expr) -> tuple[list[Expr], Expr]:
    """The conditions under which a summand is not zero, and the summand there."""
    if term.op == "cast" and term.kind == "real":
        return _conditions(term.args[0])
    if term.op == "select" and term.args[2].op == "const" and term.args[2].attr == 0.0:
        more, rest = _conditions(term.args[1])
        return [*conjuncts(term.args[0]), *more], rest
    if term.op == "mul":
        (a, x), (b, y) = _conditions(term.args[0]), _conditions(term.args[1])
        return [*a, *b], x * y
    if term.op == "div":
        a, x = _conditions(term.args[0])
        return a, call("div", x, term.args[1])
    return [], term


def _algebraic(e: Expr) -> bool:
    """Whether the algebra may look inside an expression of elements."""
    return e.kind == "real" and e.op in (
        "add", "sub", "mul", "div", "neg", "exp", "log", "sqrt", "rsqrt", "abs", "cast", "pow",
    ) and not (e.op == "cast" and e.args[0].op == "read")  # fmt: skip


def _leafy(e: Expr) -> bool:
    while e.op in ("cast", "toreal"):
        e = e.args[0]
    return e.op == "read"


def _least(e: Expr) -> float:
    return float(e.attr) if e.op == "const" else -1.0


def _number(value: float | int | bool) -> Sympy:
    import sympy

    if isinstance(value, float) and value in (float("inf"), -float("inf")):
        return sympy.oo if value > 0 else -sympy.oo
    return sympy.Rational(value) if value == value else sympy.nan


__all__ = ["ARG_FOLDS", "COUNT", "Chain", "Let", "NotAChain", "Stage", "chains", "symbol"]
