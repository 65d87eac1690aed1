"""What a name means at one place of a spec, and the values that are not single numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from opwright.grammar.ast import NO_SPAN, Span
from opwright.ir.dtypes import DType
from opwright.ir.expr import Expr, affine, const, free_vars
from opwright.ir.expr import var as variable

Interval = tuple[Expr, Expr]  # half-open


@dataclass(frozen=True, slots=True)
class Index:
    """A bound index: the expression it stands for."""

    expr: Expr


@dataclass(frozen=True, slots=True)
class Quantity:
    """A size, a derived size or a param; `role` is the word for it."""

    expr: Expr
    role: str


@dataclass(slots=True)
class TensorName:
    """A tensor that may be read; `kind` is None where its own definition is wrong."""

    name: str
    rank: int
    kind: str | None
    dtype: DType | None
    role: str
    ranges: list[Interval | None] = field(default_factory=list)
    variadic: bool = False
    span: Span = NO_SPAN


@dataclass(frozen=True, slots=True)
class TypeName:
    """A type variable and what it is bound to here."""

    name: str
    dtype: DType


@dataclass(frozen=True, slots=True)
class OperatorName:
    """An operator that may be called: `key` identifies it in the library."""

    name: str
    key: object


@dataclass(frozen=True, slots=True)
class ModuleName:
    """An imported module; its operators by name."""

    name: str
    operators: Mapping[str, OperatorName]


@dataclass(frozen=True, slots=True)
class Hidden:
    """A name of another part of the operator, which may not be used here; `role` says which."""

    role: str


Binding = Index | Quantity | TensorName | TypeName | OperatorName | ModuleName | Hidden

ROLES: dict[type, str] = {
    Index: "an index",
    TypeName: "a type variable",
    OperatorName: "an operator",
    ModuleName: "a module",
}


def role_of(b: Binding) -> str:
    """The word for what a name is, with its article."""
    if isinstance(b, Quantity | TensorName | Hidden):
        return f"{'an' if b.role[0] in 'aeiou' else 'a'} {b.role}"
    return ROLES[type(b)]


class Scope:
    """Names visible at one place; inner ones hide outer ones."""

    def __init__(self, outer: Scope | None = None) -> None:
        self.outer = outer
        self.names: dict[str, Binding] = {}

    def find(self, name: str) -> Binding | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.outer
        return None

    def inner(self, names: Mapping[str, Binding] | None = None) -> Scope:
        out = Scope(self)
        out.names.update(names or {})
        return out

    def all_names(self) -> list[str]:
        out: dict[str, None] = {}
        scope: Scope | None = self
        while scope is not None:
            out.update(dict.fromkeys(scope.names))
            scope = scope.outer
        return list(out)


@dataclass(frozen=True, slots=True)
class Whole:
    """A tensor as a value: its elements are `at(index, fill, span)`.

    `tensor` is set when it is a defined tensor as it stands; `shape` holds one extent per axis,
    None where it is not known yet.
    """

    what: str
    shape: tuple[Expr | None, ...]
    kind: str | None
    dtype: DType | None
    at: Callable[[tuple[Expr, ...], Expr | None, Span], Expr | None]
    tensor: str | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """What a call returns: its outputs by name."""

    op: str
    outputs: Mapping[str, Whole]


# -- extents --------------------------------------------------------------------------------------


def from_affine(form: Mapping[Expr | None, int]) -> Expr:
    """The expression of an affine form, terms in their order, the constant last."""
    out: Expr | None = None
    for leaf, factor in form.items():
        if leaf is None or factor == 0:
            continue
        size = leaf if abs(factor) == 1 else leaf * abs(factor)
        if out is None:
            out = size if factor > 0 else const(0) - size
        else:
            out = out + size if factor > 0 else out - size
    last = form.get(None, 0)
    if out is None:
        return const(last)
    return out + last if last >= 0 else out - (-last)


def same_extent(a: Expr, b: Expr) -> bool:
    """Whether two integer expressions are equal by their affine forms."""
    if a is b:
        return True
    x, y = affine(a), affine(b)
    if x is None or y is None:
        return False
    return {k: c for k, c in x.items() if c} == {k: c for k, c in y.items() if c}


def bounding(e: Expr, ranges: Mapping[str, Interval | None], upper: bool) -> Expr | None:
    """The largest (or smallest) value of an affine expression as its index variables run."""
    for _ in range(64):
        loose = free_vars(e)
        if not loose:
            return e
        form = affine(e)
        if form is None:
            return None
        name = next((n for n in sorted(loose) if variable(n) in form), None)
        if name is None or any(
            name in free_vars(x) for x in form if x is not None and x is not variable(name)
        ):
            return None
        interval = ranges.get(name)
        if interval is None:
            return None
        factor = form.pop(variable(name))
        edge = interval[1] - 1 if (factor > 0) == upper else interval[0]
        total = dict(form)
        for leaf, c in (affine(edge) or {edge: 1}).items():
            total[leaf] = total.get(leaf, 0) + factor * c
        e = from_affine({k: c for k, c in total.items() if c or k is None})
    return None
