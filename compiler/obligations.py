"""The spec's own obligations: what its text must guarantee for every size and param it allows.

Reads without a fill are in range, maxima are not empty, divisors are positive, extents are not
negative, calls meet the constraints of what they call, and `where` can be satisfied. This file
lists them; `opwright.compiler.decide` decides them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opwright.compiler.elaborate import Elaborated
from opwright.compiler.scope import Interval, same_extent
from opwright.grammar.ast import Span
from opwright.ir.expr import (
    FALSE,
    TRUE,
    ZERO,
    Expr,
    Fold,
    call,
    conjunction,
    conjuncts,
    free_vars,
    read_parts,
    show,
    size,
    substitute,
)
from opwright.ir.op import Law, Operator, Tensor

NONEMPTY = ("max", "min", "argmax", "argmin")
DOMAINS = {
    "log": "a positive argument",
    "log2": "a positive argument",
    "log1p": "an argument above -1",
    "sqrt": "an argument that is not negative",
    "rsqrt": "a positive argument",
    "pow": "a base and exponent in the domain of the power",
}


@dataclass(frozen=True, slots=True)
class Obligation:
    """`assume` and the ranges of the index variables in scope imply `goal`.

    `exists` are ranges of which some element must satisfy `goal` (a guarded reduction is not
    empty). `undecided` is why nothing is asked.
    """

    id: str
    kind: str  # range | empty | divisor | real | domain | extent | call | where
    owner: str
    span: Span
    subject: Expr | None  # the node: a read, a fold, a quotient
    axis: int
    assume: tuple[Expr, ...]
    ranges: Mapping[str, Interval]
    goal: Expr
    exists: tuple[tuple[str, Interval], ...] = ()
    undecided: str = ""
    what: str = ""


def collect(e: Elaborated) -> list[Obligation]:
    """Every obligation of one operator that inspection of the text does not settle at once."""
    return _Collector(e).run()


class _Collector:
    def __init__(self, e: Elaborated) -> None:
        self.e, self.op = e, e.operator
        self.out: list[Obligation] = []
        self.count: dict[str, int] = {}
        self.shapes: dict[str, tuple[Interval, ...]] = {}
        for t in (*self.op.inputs, *self.op.tensors):
            self.shapes[t.name] = tuple((a.lo, a.hi) for a in t.axes)
        self.owner, self.place = "", e.syntax.name_span
        self.declaring = True
        self.declared: set[tuple[Any, ...]] = set()  # what declarations oblige to, once for all

    def run(self) -> list[Obligation]:
        for name, value in self.op.lets.items():
            self._begin(f"let {name}", self.e.places.get(name))
            self._visit(value, (), {}, ())
        first = next((w.span for w in self.e.syntax.wheres), None)
        for n, f in enumerate(self.op.facts):
            self._begin("where", self.e.places.get(f"where {n}", first))
            self._visit(f, (), {}, ())
        for t in (*self.op.inputs, *self.op.tensors):
            self._begin(f"shape of {t.name}", self.e.places.get(t.name))
            for a in t.axes:
                self._visit(a.hi, (), {}, ())
        self.declaring = False
        for t in self.op.tensors:
            self._tensor(t)
        for p in self.op.params:
            if p.default is not None:
                self._begin(f"param {p.name}", self.e.places.get(p.name))
                self._visit(p.default, (), {}, ())
        self._contract()
        for site in self.e.calls:
            self._begin(f"call of {site.op}", site.span)
            closed = not free_vars(site.condition)
            reason = "a precondition on values: not decided by this version"
            self._add(
                "call",
                None,
                site.condition if closed and not site.over_values else TRUE,
                (),
                {},
                undecided=reason if site.over_values or not closed else "",
                what=site.what,
            )
        return self.out

    def _begin(self, owner: str, place: Span | None) -> None:
        self.owner = owner
        self.place = self.e.syntax.name_span if place is None else place

    def _add(
        self,
        kind: str,
        subject: Expr | None,
        goal: Expr,
        assume: Sequence[Expr],
        ranges: Mapping[str, Interval],
        axis: int = 0,
        exists: tuple[tuple[str, Interval], ...] = (),
        undecided: str = "",
        what: str = "",
    ) -> None:
        if subject is not None and (kind, subject, axis, goal) in self.declared:
            return
        if self.declaring and not assume and not ranges:
            self.declared.add((kind, subject, axis, goal))
        base = f"spec.{kind}.{self.owner.replace(' ', '.')}"
        n = self.count[base] = self.count.get(base, 0) + 1
        span = self.place
        if subject is not None:
            span = self.e.spans.get((self.owner, subject), span)
        self.out.append(
            Obligation(
                f"{base}.{n}",
                kind,
                self.owner,
                span,
                subject,
                axis,
                tuple(assume),
                dict(ranges),
                goal,
                exists,
                undecided,
                what,
            )
        )

    # -- where expressions stand ------------------------------------------------------------------

    def _tensor(self, t: Tensor) -> None:
        origin = self.e.origin.get(t.name)
        self._begin(t.name, origin[0] if origin else self.e.places.get(t.name))
        ranges = {a.name: (a.lo, a.hi) for a in t.axes}
        place = self.place
        self.place = self.e.places.get(f"shape of {t.name}", place)
        for k, a in enumerate(t.axes):
            if a.lo.op == "const" and a.hi.op in ("size", "const"):
                continue
            self._add("extent", None, call("le", a.lo, a.hi), (), {}, axis=k)
        self.place = place
        assert t.body is not None
        group: tuple[Tensor, ...] = ()
        if t.recurrence is not None:
            group = tuple(self.op.tensor(n) for n in t.recurrence.group)
            first = {n: r for n, r in ranges.items() if n != t.recurrence.axis}
            starts = call("lt", *ranges[t.recurrence.axis])  # there is a first step
            self._visit(t.recurrence.init, (starts,), first, ())
        self._visit(t.body, (), ranges, group)

    def _contract(self) -> None:
        for c in self.op.clauses:
            if c.expr is None:
                continue
            self._begin(c.name, c.source.ast.span if c.kind == "law" else c.source.span)
            shapes = dict(self.shapes)
            if isinstance(c.source, Law):
                for arg in c.source.args:
                    self.shapes[arg.name] = tuple((ZERO, s) for s in arg.shape)
                for made in c.source.calls:
                    mapping = {x: s for x, s in _sizes(made.sizes).items()}
                    for t in self.op.outputs:
                        self.shapes[f"{made.name}.{t.name}"] = tuple(
                            (a.lo, substitute(a.hi, mapping)) for a in t.axes
                        )
                for t in c.source.tensors:
                    self.shapes[t.name] = tuple((a.lo, a.hi) for a in t.axes)
                inside = [t for made in c.source.calls for t in made.inputs]
                for t in (*c.source.tensors, *inside):
                    if t.body is not None:
                        self._visit(t.body, (), {a.name: (a.lo, a.hi) for a in t.axes}, ())
            self._visit(c.expr, (), {}, ())
            self.shapes = shapes

    # -- what expressions oblige to ---------------------------------------------------------------

    def _visit(
        self,
        e: Expr,
        path: tuple[Expr, ...],
        ranges: Mapping[str, Interval],
        group: tuple[Tensor, ...],
    ) -> None:
        if e.op == "select":
            c, a, b = e.args
            self._visit(c, path, ranges, group)
            self._visit(a, (*path, c), ranges, group)
            self._visit(b, (*path, ~c), ranges, group)
            return
        if e.op == "fold":
            self._fold(e, path, ranges, group)
            return
        for a in e.args:
            self._visit(a, path, ranges, group)
        if e.op == "read":
            self._read(e, path, ranges, group)
        elif e.op in ("floordiv", "mod"):
            if not (e.args[1].op == "const" and e.args[1].attr > 0):
                self._add("divisor", e, call("lt", 0, e.args[1]), path, ranges)
        elif e.op == "div":
            self._quotient(e, path, ranges)
        elif e.op in DOMAINS:
            self._domain(e, path, ranges)

    def _fold(
        self,
        e: Expr,
        path: tuple[Expr, ...],
        ranges: Mapping[str, Interval],
        group: tuple[Tensor, ...],
    ) -> None:
        f = Fold(e)
        inner = dict(ranges)
        for b, (lo, hi) in zip(f.binders, f.ranges, strict=True):
            self._visit(lo, path, inner, group)
            self._visit(hi, path, inner, group)
            inner[b] = (lo, hi)
        self._visit(f.guard, path, inner, group)
        if f.kind in NONEMPTY:
            self._nonempty(e, f, path, ranges)
        guarded = path if f.guard is TRUE else (*path, f.guard)
        tail = e.args[2 * len(f.binders) + 1 :]
        for part in tail:
            self._visit(part, guarded, inner, group)

    def _nonempty(
        self, e: Expr, f: Fold, path: tuple[Expr, ...], ranges: Mapping[str, Interval]
    ) -> None:
        if f.guard is TRUE:
            goal = conjunction([call("lt", lo, hi) for lo, hi in f.ranges])
            if goal is not TRUE:
                self._add("empty", e, goal, path, ranges)
            return
        exists = tuple(zip(f.binders, f.ranges, strict=True))
        self._add("empty", e, f.guard, path, ranges, exists=exists)

    def _read(
        self,
        e: Expr,
        path: tuple[Expr, ...],
        ranges: Mapping[str, Interval],
        group: tuple[Tensor, ...],
    ) -> None:
        name, index, fill = read_parts(e)
        shape = self.shapes.get(name)
        if fill is not None or shape is None:
            return
        recurring = next((t for t in group if t.name == name), None)
        for k, (i, (lo, hi)) in enumerate(zip(index, shape, strict=True)):
            if recurring is not None and recurring.recurrence is not None:
                if recurring.axes[k].name == recurring.recurrence.axis:
                    continue  # t or t - 1, which `init` covers
            own = ranges.get(i.attr) if i.op == "var" else None
            if own is not None and own[0] is lo and same_extent(own[1], hi):
                continue
            goal = call("le", lo, i) & call("lt", i, hi)
            if goal is not TRUE:
                self._add("range", e, goal, path, ranges, axis=k)

    def _quotient(self, e: Expr, path: tuple[Expr, ...], ranges: Mapping[str, Interval]) -> None:
        divisor = e.args[1]
        if divisor.op == "const":
            if divisor.attr == 0:
                self._add("divisor", e, FALSE, path, ranges)
            return
        whole = integer_part(divisor)
        if whole is not None:
            self._add("divisor", e, call("ne", whole, 0), path, ranges)
            return
        what = f"the divisor of {show(e)} is not 0"
        self._add("real", e, call("ne", divisor, 0), path, ranges, what=what)

    def _domain(self, e: Expr, path: tuple[Expr, ...], ranges: Mapping[str, Interval]) -> None:
        x = e.args[0]
        if x.op == "const" and e.op != "pow" and x.attr > 0:
            return
        whole = integer_part(x)
        if whole is not None and e.op != "pow":
            goal = {"log1p": call("le", 0, whole), "sqrt": call("le", 0, whole)}.get(
                e.op, call("lt", 0, whole)
            )
            self._add("divisor", e, goal, path, ranges)
            return
        what = f"{show(e)} has {DOMAINS[e.op]}"
        goal = call("lt", {"log1p": -1}.get(e.op, 0), x)
        if e.op == "sqrt":
            goal = call("le", 0, x)
        elif e.op == "pow":
            n = e.args[1]
            whole_power = n.op == "const" and float(n.attr).is_integer()
            if whole_power and n.attr >= 0:
                return
            if whole_power:
                goal = call("ne", x, 0)
            elif n.op == "const" and n.attr > 0:
                goal = call("le", 0, x)
        self._add("domain", e, goal, path, ranges, what=what)


def integer_part(e: Expr) -> Expr | None:
    """The integer expression that a real one is, casts aside."""
    while e.op == "cast" and e.kind == "real":
        e = e.args[0]
    return e.args[0] if e.op == "toreal" else None


def _sizes(sizes: Mapping[str, Expr]) -> dict[Expr, Expr]:
    return {size(name): e for name, e in sizes.items()}


def requirements(op: Operator) -> list[tuple[str, Expr]]:
    """The parts of every `requires`, by name."""
    return [
        (c.name, part)
        for c in op.requires
        if c.expr is not None
        for part in conjuncts(c.expr) or [c.expr]
    ]
