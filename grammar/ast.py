"""The untyped syntax tree of the language: what a text says, before any name or type is resolved.

Every node carries the span of its text; spans, comments and file names take no part in equality,
so two trees compare by structure. Nothing here is checked beyond what the grammar checks:
names, types and shapes belong to the elaborator.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import TypeAlias, TypeVar


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open range of a text; offsets count characters from 0, lines and columns from 1."""

    start: int
    end: int
    line: int
    col: int
    end_line: int
    end_col: int

    def to(self, other: Span) -> Span:
        """Return the span from the start of this one to the end of `other`."""
        return Span(self.start, other.end, self.line, self.col, other.end_line, other.end_col)


NO_SPAN = Span(0, 0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Node:
    """The base of every node; a node that no text produced has `NO_SPAN`."""

    span: Span = field(default=NO_SPAN, compare=False, repr=False, kw_only=True)


# ---- expressions --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Expr(Node):
    """The base of every expression."""


@dataclass(frozen=True, slots=True)
class Number(Expr):
    """A literal: an `int` when written with digits alone, else a `float`; `text` is as written."""

    value: int | float
    text: str


@dataclass(frozen=True, slots=True)
class Name(Expr):
    """A reference to a size, param, tensor, index or type by name."""

    name: str


@dataclass(frozen=True, slots=True)
class Bool(Expr):
    """`true` or `false`."""

    value: bool


@dataclass(frozen=True, slots=True)
class Inf(Expr):
    """Positive infinity."""


@dataclass(frozen=True, slots=True)
class Unary(Expr):
    """`-x` or `not x`; `op` is `-` or `not`."""

    op: str
    x: Expr


@dataclass(frozen=True, slots=True)
class Binary(Expr):
    """`a op b` with `op` one of `or and + - * / // %`."""

    op: str
    a: Expr
    b: Expr


@dataclass(frozen=True, slots=True)
class Compare(Expr):
    """`operands[0] ops[0] operands[1] ops[1] ...`, a conjunction of neighbours as in `0 <= i < n`.

    `ops` are of `== != ~= <= >= < >`; `len(operands) == len(ops) + 1 >= 2`.
    """

    ops: tuple[str, ...]
    operands: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Member(Expr):
    """`x in {options}`."""

    x: Expr
    options: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Cond(Expr):
    """`if c then a else b`."""

    c: Expr
    a: Expr
    b: Expr


@dataclass(frozen=True, slots=True)
class All(Node):
    """`:` in an index list: the whole axis."""


@dataclass(frozen=True, slots=True)
class Splat(Node):
    """`name...`: any number of axes bound to one name."""

    name: str


@dataclass(frozen=True, slots=True)
class Read(Expr):
    """`base[indices]`, or `base[indices] ?? fill`: the fill is the value of a read out of range."""

    base: Expr
    indices: tuple[Expr | All | Splat, ...]
    fill: Expr | None = None


@dataclass(frozen=True, slots=True)
class Field(Expr):
    """`base.name`: one of the results of a call."""

    base: Expr
    name: str


@dataclass(frozen=True, slots=True)
class NamedArg(Node):
    """`name = value` in a call."""

    name: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Call(Expr):
    """`func(args, kwargs)`.

    `is_reducer` says that `func` is a reducer's word, as in `max(a, 0)`. A named argument may
    stand before a positional one; positional ones keep their order among themselves.
    """

    func: str
    args: tuple[Expr, ...]
    kwargs: tuple[NamedArg, ...] = ()
    is_reducer: bool = False


@dataclass(frozen=True, slots=True)
class Cast(Expr):
    """`dtype(x)`."""

    dtype: str
    x: Expr


@dataclass(frozen=True, slots=True)
class Round(Expr):
    """`round.dtype(x)`: a rounding that is part of the meaning."""

    dtype: str
    x: Expr


@dataclass(frozen=True, slots=True)
class Binder(Node):
    """`name: hi` is `0..hi` (then `lo` is None), `name: lo..hi` is half-open."""

    name: str
    lo: Expr | None
    hi: Expr


@dataclass(frozen=True, slots=True)
class Reduce(Expr):
    """`kind.acc[binders | guard](body)`; kind: `sum prod max min any all argmax argmin`."""

    kind: str
    acc: str | None
    binders: tuple[Binder, ...]
    guard: Expr | None
    body: Expr


@dataclass(frozen=True, slots=True)
class TensorLambda(Expr):
    """`[binders => body]`: a tensor literal."""

    binders: tuple[Binder, ...]
    body: Expr


Index: TypeAlias = Expr | All | Splat
Extent: TypeAlias = Expr | Splat

# ---- interface ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DtypeName(Node):
    """A concrete element type such as `f32`."""

    name: str


@dataclass(frozen=True, slots=True)
class TypeRef(Node):
    """A type variable by name, as `T` after `type T in {f32, bf16}`."""

    name: str


ScalarType: TypeAlias = DtypeName | TypeRef


@dataclass(frozen=True, slots=True)
class Item(Node):
    """The base of what may stand in an operator's braces."""


@dataclass(frozen=True, slots=True)
class Dim(Node):
    """A size; a variadic one (`batch...`) stands for any number of leading axes."""

    name: str
    variadic: bool = False


@dataclass(frozen=True, slots=True)
class Dims(Item):
    """`dims B, N`."""

    dims: tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class Where(Item):
    """`where c, c`: constraints on sizes and params."""

    constraints: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class TypeDecl(Item):
    """`type name in {options}`."""

    name: str
    options: tuple[DtypeName, ...]


@dataclass(frozen=True, slots=True)
class Let(Item):
    """`let name = value`: a derived size."""

    name: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Param(Item):
    """`param name: type = default`."""

    name: str
    type: ScalarType
    default: Expr | None = None


@dataclass(frozen=True, slots=True)
class TensorDecl(Node):
    """`name: type[shape] layout l updates u`; `shape` is empty for a scalar.

    `updates` (the input whose storage the output takes over) is set on outputs only.
    """

    name: str
    type: ScalarType
    shape: tuple[Extent, ...] = ()
    layout: str | None = None
    updates: str | None = None


@dataclass(frozen=True, slots=True)
class Inputs(Item):
    """`input t, t`."""

    tensors: tuple[TensorDecl, ...]


@dataclass(frozen=True, slots=True)
class Outputs(Item):
    """`output t, t`."""

    tensors: tuple[TensorDecl, ...]


# ---- meaning ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stmt(Node):
    """The base of what may stand in `def` and in a written gradient."""


@dataclass(frozen=True, slots=True)
class LhsIndex(Node):
    """A free index on the left of an equation; a variadic one runs over any number of axes."""

    name: str
    variadic: bool = False


@dataclass(frozen=True, slots=True)
class Lhs(Node):
    """`name[indices]` on the left of an equation; no indices for a scalar."""

    name: str
    indices: tuple[LhsIndex, ...] = ()


@dataclass(frozen=True, slots=True)
class Equation(Stmt):
    """`lhs, lhs = rhs`."""

    lhs: tuple[Lhs, ...]
    rhs: Expr


@dataclass(frozen=True, slots=True)
class Recurrence(Stmt):
    """`rec axis: name[indices] = rhs init init`."""

    axis: str
    name: str
    indices: tuple[Extent, ...]
    rhs: Expr
    init: Expr


@dataclass(frozen=True, slots=True)
class Def(Item):
    """`def { statements }`."""

    statements: tuple[Stmt, ...]


# ---- contract -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tol(Node):
    """`abs 1e-3`, `rel 1e-3` or `ulp 2`."""

    kind: str
    value: Number


@dataclass(frozen=True, slots=True)
class Requires(Item):
    """`requires name: condition`; the name may be absent."""

    name: str | None
    condition: Expr


@dataclass(frozen=True, slots=True)
class Ensures(Item):
    """`ensures name: claim within ... by ...`; `by` is `proof`, `test`, `proof_or_test` or None."""

    name: str
    claim: Expr
    within: tuple[Tol, ...] = ()
    by: str | None = None


@dataclass(frozen=True, slots=True)
class SampleArg(Node):
    """`name: type[shape] in lo..hi`: a sampled scalar (empty shape) or tensor."""

    name: str
    type: ScalarType
    shape: tuple[Extent, ...] = ()
    lo: Expr | None = None
    hi: Expr | None = None


@dataclass(frozen=True, slots=True)
class PermArg(Node):
    """`name: perm(size)`: a permutation of 0..size."""

    name: str
    size: Expr


@dataclass(frozen=True, slots=True)
class IndexArg(Node):
    """`name: index(size)`: an integer in 0..size."""

    name: str
    size: Expr


LawArg: TypeAlias = SampleArg | PermArg | IndexArg


@dataclass(frozen=True, slots=True)
class Law(Item):
    """`law name(args): claim within ... by ...`."""

    name: str
    args: tuple[LawArg, ...]
    claim: Expr
    within: tuple[Tol, ...] = ()
    by: str | None = None


@dataclass(frozen=True, slots=True)
class TolRule(Node):
    """`type: abs 1e-3 rel 1e-3`, keyed by the type of an output."""

    type: ScalarType
    bounds: tuple[Tol, ...]


@dataclass(frozen=True, slots=True)
class Tolerance(Item):
    """`tolerance versus f64 { rules }`."""

    versus: DtypeName
    rules: tuple[TolRule, ...]


@dataclass(frozen=True, slots=True)
class GradAuto(Node):
    """`auto`: derived from `def`."""


@dataclass(frozen=True, slots=True)
class GradNone(Node):
    """`none`: not differentiable, by declaration."""


@dataclass(frozen=True, slots=True)
class GradDef(Node):
    """`{ statements }`: written, and checked against the derived one."""

    statements: tuple[Stmt, ...]


GradBody: TypeAlias = GradAuto | GradNone | GradDef


@dataclass(frozen=True, slots=True)
class Grad(Item):
    """`grad x, y body`."""

    names: tuple[Name, ...]
    body: GradBody


# ---- what "best" means --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BindValue(Node):
    """`name = value`."""

    name: str
    value: Expr


@dataclass(frozen=True, slots=True)
class BindDtype(Node):
    """`name = f32`."""

    name: str
    dtype: DtypeName


@dataclass(frozen=True, slots=True)
class BindRandom(Node):
    """`name ~ distribution(args)`."""

    name: str
    distribution: str
    args: tuple[Expr, ...]


Binding: TypeAlias = BindValue | BindDtype | BindRandom


@dataclass(frozen=True, slots=True)
class Workload(Item):
    """`workload name weight w { bindings }`."""

    name: str
    weight: Number
    bindings: tuple[Binding, ...]


@dataclass(frozen=True, slots=True)
class TraceWorkload(Item):
    """`workload "path" weight w`: observed shapes."""

    path: str
    weight: Number


@dataclass(frozen=True, slots=True)
class Term(Node):
    """`weight * metric`; the weight may be absent."""

    weight: Number | None
    metric: str


@dataclass(frozen=True, slots=True)
class Quantity(Node):
    """`64 MiB`; units: `us ms MiB GiB mJ J` or none."""

    value: Number
    unit: str | None = None


@dataclass(frozen=True, slots=True)
class Bound(Node):
    """`metric op quantity`."""

    metric: str
    op: str
    quantity: Quantity


@dataclass(frozen=True, slots=True)
class Objective(Item):
    """`minimize terms subject to bounds`."""

    terms: tuple[Term, ...]
    bounds: tuple[Bound, ...] = ()


@dataclass(frozen=True, slots=True)
class Target(Item):
    """`target name(arch) via backends`."""

    name: str
    arch: str | None
    backends: tuple[str, ...]


# ---- modules ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Comment(Node):
    """`# text` up to the end of its line; `text` keeps the `#`."""

    text: str
    own_line: bool = True


@dataclass(frozen=True, slots=True)
class ImportModule(Node):
    """`import a.b as c`."""

    path: tuple[str, ...]
    alias: str | None = None


@dataclass(frozen=True, slots=True)
class ImportedName(Node):
    """`name @1.0`; the version may be absent."""

    name: str
    version: str | None = None


@dataclass(frozen=True, slots=True)
class ImportNames(Node):
    """`from a.b import names`."""

    path: tuple[str, ...]
    names: tuple[ImportedName, ...]


Import: TypeAlias = ImportModule | ImportNames

ItemT = TypeVar("ItemT", bound=Item)


@dataclass(frozen=True, slots=True)
class Op(Node):
    """`op name @ version "doc" { items }`; the properties pick items out, in source order."""

    name: str
    version: str
    doc: str | None
    items: tuple[Item, ...]
    name_span: Span = field(default=NO_SPAN, compare=False, repr=False, kw_only=True)

    def of(self, kind: type[ItemT]) -> tuple[ItemT, ...]:
        """Return the items of one class."""
        return tuple(item for item in self.items if isinstance(item, kind))

    @property
    def dims(self) -> tuple[Dim, ...]:
        """Every declared size."""
        return tuple(dim for item in self.of(Dims) for dim in item.dims)

    @property
    def wheres(self) -> tuple[Expr, ...]:
        """Every constraint on sizes and params."""
        return tuple(expr for item in self.of(Where) for expr in item.constraints)

    @property
    def types(self) -> tuple[TypeDecl, ...]:
        """Every type variable."""
        return self.of(TypeDecl)

    @property
    def lets(self) -> tuple[Let, ...]:
        """Every derived size."""
        return self.of(Let)

    @property
    def params(self) -> tuple[Param, ...]:
        """Every attribute."""
        return self.of(Param)

    @property
    def inputs(self) -> tuple[TensorDecl, ...]:
        """Every input."""
        return tuple(tensor for item in self.of(Inputs) for tensor in item.tensors)

    @property
    def outputs(self) -> tuple[TensorDecl, ...]:
        """Every output."""
        return tuple(tensor for item in self.of(Outputs) for tensor in item.tensors)

    @property
    def defs(self) -> tuple[Stmt, ...]:
        """Every statement of every `def`."""
        return tuple(stmt for item in self.of(Def) for stmt in item.statements)

    @property
    def requires(self) -> tuple[Requires, ...]:
        """Every precondition."""
        return self.of(Requires)

    @property
    def ensures(self) -> tuple[Ensures, ...]:
        """Every promise about the outputs."""
        return self.of(Ensures)

    @property
    def laws(self) -> tuple[Law, ...]:
        """Every law between calls."""
        return self.of(Law)

    @property
    def tolerance(self) -> Tolerance | None:
        """The first written tolerance; a second one is the elaborator's to report."""
        return next(iter(self.of(Tolerance)), None)

    @property
    def grads(self) -> tuple[Grad, ...]:
        """Every gradient declaration."""
        return self.of(Grad)

    @property
    def workloads(self) -> tuple[Workload | TraceWorkload, ...]:
        """Every workload, traces included."""
        return tuple(item for item in self.items if isinstance(item, Workload | TraceWorkload))

    @property
    def objective(self) -> Objective | None:
        """The first objective; a second one is the elaborator's to report."""
        return next(iter(self.of(Objective)), None)

    @property
    def targets(self) -> tuple[Target, ...]:
        """Every target."""
        return self.of(Target)


@dataclass(frozen=True, slots=True)
class Module(Node):
    """One file."""

    version: str
    imports: tuple[Import, ...]
    ops: tuple[Op, ...]
    comments: tuple[Comment, ...] = field(default=(), compare=False, repr=False)
    filename: str = field(default="<string>", compare=False, repr=False)


def number(value: int | float) -> Expr:
    """Return a finite value as an expression; a negative one is a `Unary`, as when parsed."""
    text = repr(abs(value))
    literal = Number(abs(value), text)
    return Unary("-", literal) if value < 0 else literal


def children(node: Node) -> Iterator[Node]:
    """Yield the direct child nodes in source order."""
    for part in fields(node):
        value = getattr(node, part.name)
        if isinstance(value, Node):
            yield value
        elif isinstance(value, tuple):
            for element in value:
                if isinstance(element, Node):
                    yield element


def walk(node: Node) -> Iterator[Node]:
    """Yield the node and every node below it, in source order."""
    stack = [node]
    while stack:
        top = stack.pop()
        yield top
        stack.extend(reversed(list(children(top))))
