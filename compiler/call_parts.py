"""Parts of a call of an operator: its interface, what was matched, copies of its definitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from opwright.compiler.scope import (
    Interval,
    Whole,
    from_affine,
)
from opwright.compiler.terms import Terms
from opwright.grammar import ast
from opwright.grammar.ast import Span
from opwright.grammar.format_expr import format_expr
from opwright.ir.dtypes import BOOL, DTYPES, F32, F64, I64, DType
from opwright.ir.expr import (
    TRUE,
    Expr,
    affine,
    cast,
    free_vars,
    leaves,
    param,
    read,
    read_parts,
    reduction,
    rename,
    show,
    substitute,
    transform,
    var,
    walk,
)
from opwright.ir.op import Clause, LawCall, OpAxis, Operator, Param, Recurrence, Tensor


@dataclass(frozen=True, slots=True)
class Interface:
    """What a caller sees of an operator."""

    name: str
    sizes: tuple[str, ...]
    params: tuple[Param, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class CallSite:
    """A precondition of a called operator at the place of the call, in the caller's terms."""

    op: str
    span: Span
    what: str  # as it is written in the called operator
    condition: Expr
    over_values: bool = False  # a `requires`; otherwise a `where`


@dataclass(slots=True)
class Sink:
    """Where the tensors and preconditions of calls go."""

    tensors: list[Tensor] = field(default_factory=list)
    sites: list[CallSite] = field(default_factory=list)
    origin: dict[str, tuple[Span, str]] = field(default_factory=dict)
    calls: list[LawCall] = field(default_factory=list)
    busy: frozenset[str] = frozenset()  # tensors of the recurrence being defined


@dataclass(frozen=True, slots=True)
class Bound:
    """A call whose arguments were matched: `sizes` and `params` map the callee's leaves."""

    args: Mapping[str, Whole]
    leaves: Mapping[Expr, Expr | None]
    params: Mapping[str, Expr]


class Copier:
    """Copies a callee's definitions: fresh indices, sizes and reads in the caller's terms."""

    def __init__(
        self,
        terms: Terms,
        names: Mapping[str, tuple[str, tuple[Expr, ...]]],
        known: Mapping[Expr, Expr | None],
        lifted: Sequence[tuple[str, Interval]],
    ) -> None:
        self.terms, self.names, self.lifted = terms, names, lifted
        self.known = {k: v for k, v in known.items() if v is not None}

    def fresh(self, *parts: Expr, axes: Sequence[str] = ()) -> dict[str, str]:
        bound = {b: None for p in parts for x in walk(p) if x.op == "fold" for b in x.attr.binders}
        return {n: self.terms.index(n, None) for n in (*axes, *bound)}

    def expression(
        self,
        e: Expr,
        names: Mapping[str, str] | None = None,
        outer: Mapping[Expr, Expr] | None = None,
    ) -> Expr:
        names = self.fresh(e) if names is None else names
        e = substitute(rename(e, names), {**self.known})

        def rule(x: Expr) -> Expr | None:
            if x.op != "read":
                return None
            name, index, fill = read_parts(x)
            new, prefix = self.names[name]
            return read(new, (*(substitute(p, outer or {}) for p in prefix), *index), x.kind, fill)

        return transform(e, rule)

    def _outer(self) -> tuple[list[OpAxis], dict[Expr, Expr]]:
        axes, outer = [], {}
        for n, (lo, hi) in self.lifted:
            copy = self.terms.index(self.terms.display.get(n, n), (lo, hi))
            axes.append(OpAxis(copy, lo, hi))
            outer[var(n)] = var(copy)
        return axes, outer

    def tensor(self, t: Tensor, name: str) -> Tensor:
        assert t.body is not None
        axes, outer = self._outer()
        init = () if t.recurrence is None else (t.recurrence.init,)
        names = self.fresh(t.body, *init, axes=[a.name for a in t.axes])
        for a in t.axes:
            lo, hi = (substitute(b, self.known) for b in (a.lo, a.hi))
            self.terms.ranges[names[a.name]] = (lo, hi)
            axes.append(OpAxis(names[a.name], lo, hi))
        # the callee's sizes may themselves depend on outer indices
        body = substitute(self.expression(t.body, names, outer), outer)
        recurrence = None
        if t.recurrence is not None:
            recurrence = Recurrence(
                names[t.recurrence.axis],
                substitute(self.expression(t.recurrence.init, names, outer), outer),
                tuple(self.names[n][0] for n in t.recurrence.group),
            )
        return Tensor(name, t.dtype, tuple(axes), body, recurrence=recurrence)

    def closed(self, clause: Clause) -> Expr:
        assert clause.expr is not None
        axes, outer = self._outer()
        e = substitute(self.expression(clause.expr, None, outer), outer)
        if not axes:
            return e
        ranges = tuple((a.lo, a.hi) for a in axes)
        return reduction("all", tuple(a.name for a in axes), ranges, e, TRUE)


def interface_of(op: Operator) -> Interface:
    return Interface(op.name, op.sizes, op.params, op.inputs, op.outputs)


def local_dtype(e: Expr) -> DType:
    """The type of a local: what its outermost cast says, else f32, or f64 where an operand is."""
    if e.kind == "int":
        return I64
    if e.kind == "bool":
        return BOOL
    if e.op in ("cast", "round"):
        marked: DType = e.attr
        return marked
    for x in walk(e):
        mark = x.attr.acc if x.op == "fold" else x.attr
        if x.op in ("cast", "round", "fold") and mark == F64:
            return F64
    return F32


def chosen_type(options: Sequence[str], wanted: DType | None) -> str:
    """The option that an argument's type asks for: itself, else the narrowest that holds it."""
    if wanted is not None and wanted.name in options:
        return wanted.name
    precision = wanted.mantissa if wanted is not None else F32.mantissa
    wide = [o for o in options if DTYPES[o].mantissa >= precision]
    return min(wide, key=lambda o: DTYPES[o].bits) if wide else max(
        options, key=lambda o: DTYPES[o].mantissa
    )  # fmt: skip


def constant(e: Expr, node: ast.Expr) -> Whole:
    """A single value as a tensor without axes."""

    def at(index: tuple[Expr, ...], fill: Expr | None, span: Span) -> Expr | None:
        return e

    return Whole(f"`{format_expr(node)}`", (), e.kind, None, at)


def loose_indices(t: Tensor) -> set[str]:
    assert t.body is not None
    return free_vars(t.body) - {a.name for a in t.axes}


def param_values(callee: Interface, params: Mapping[str, Expr]) -> dict[Expr, Expr | None]:
    out: dict[Expr, Expr | None] = {}
    for p in callee.params:
        if p.name in params:
            e, leaf = params[p.name], param(p.name, p.dtype.kind)
            out[leaf] = cast(e, p.dtype) if p.dtype.kind == "real" and e is not leaf else e
    return out


def in_caller(e: Expr, known: Mapping[Expr, Expr | None]) -> Expr | None:
    """An expression over a callee's sizes in the caller's terms; None where one is not known."""
    mapping = {}
    for x in leaves(e, "size", "param"):
        found = known.get(x)
        if found is None:
            return None
        mapping[x] = found
    return substitute(e, mapping)


def solve_extent(extent: Expr, actual: Expr | None, known: dict[Expr, Expr | None]) -> None:
    """Find one unknown size of an affine extent such as 2 * D."""
    form = affine(extent)
    unknown = [x for x in leaves(extent, "size") if x not in known]
    if form is None or actual is None or len(unknown) != 1 or unknown[0] not in form:
        return
    total: dict[Expr | None, int] = dict(affine(actual) or {})
    if not total:
        total[actual] = 1
    for x, c in form.items():
        if x is unknown[0]:
            continue
        value = x if x is None else in_caller(x, known)
        if x is not None and value is None:
            return
        inner: Mapping[Expr | None, int] = {None: 1}
        if value is not None:
            form_of_value = affine(value)
            inner = {value: 1} if form_of_value is None else form_of_value
        for y, d in inner.items():
            total[y] = total.get(y, 0) - c * d
    factor = form[unknown[0]]
    if all(c % factor == 0 for c in total.values()):
        known[unknown[0]] = from_affine({k: c // factor for k, c in total.items()})


def shape_text(shape: Sequence[Expr | None]) -> str:
    return ", ".join("?" if s is None else show(s) for s in shape)
