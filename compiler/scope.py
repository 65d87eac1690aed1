"""What a name means at one place of a spec, and the values that are not single numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from opwright.grammar.ast import NO_SPAN, Span
from opwright.ir.dtypes import DType
from opwright.ir.expr import Expr
from opwright.ir.extents import Interval, bounding, from_affine, same_extent

__all__ = [
    "Binding", "Hidden", "Index", "Interval", "ModuleName", "OperatorName", "Quantity", "Results",
    "Scope", "TensorName", "TypeName", "Whole", "bounding", "from_affine", "role_of",
    "same_extent",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Index:
    """A bound index: the expression it stands for, and one more than its largest value if known."""

    expr: Expr
    extent: Expr | None = None


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
        self.literal = False  # the indices of a tensor literal: a text of its own
        self.names: dict[str, Binding] = {}

    def find(self, name: str) -> Binding | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.outer
        return None

    def nearby(self, name: str) -> Binding | None:
        """As `find`, but an index outside of the tensor literal around is not seen."""
        scope: Scope | None = self
        crossed = False
        while scope is not None:
            b = scope.names.get(name)
            if b is not None:
                return None if crossed and isinstance(b, Index) else b
            crossed = crossed or scope.literal
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
