"""OpIR: what is computed. A graph of tensor definitions in index notation over symbolic sizes.

An `Operator` is monomorphic: type variables of the spec are bound before it is built. Every tensor
is defined once; definitions stand in dependency order. Checked at construction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from opwright.ir.dtypes import DType
from opwright.ir.expr import TRUE, Expr, ExprError, free_vars, read_parts, show, walk

DEFAULT_DIM_LIMIT = 2**31 - 1  # every dim without an upper bound in `where`
ELEMENT_LIMIT = 2**40  # elements per tensor


@dataclass(frozen=True, slots=True)
class OpAxis:
    """An index variable of a definition with its half-open range."""

    name: str
    lo: Expr
    hi: Expr


@dataclass(frozen=True, slots=True)
class Recurrence:
    """`t` is the axis that runs in order; reads of the group's tensors at t-1 see `init` at t =
    lo."""

    axis: str
    init: Expr
    group: tuple[str, ...]  # tensors that recur together, in evaluation order at one t


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor: an input (no body), an output or a local of `def`.

    `axes` give index names and ranges (0..extent for inputs and outputs); a rank-0 tensor has none.
    `guard` restricts where a local is defined.
    """

    name: str
    dtype: DType
    axes: tuple[OpAxis, ...]
    body: Expr | None = None
    role: str = "local"  # input | output | local
    recurrence: Recurrence | None = None
    updates: str | None = None  # input whose memory the output replaces
    layout: str | None = None
    guard: Expr = TRUE

    @property
    def shape(self) -> tuple[Expr, ...]:
        return tuple(a.hi - a.lo for a in self.axes)

    @property
    def kind(self) -> str:
        return self.dtype.kind


@dataclass(frozen=True, slots=True)
class Param:
    """A run-time attribute; `default` is over sizes and earlier params."""

    name: str
    dtype: DType
    default: Expr | None


@dataclass(frozen=True, slots=True)
class Clause:
    """A named statement of the contract: requires, ensures or a law (its `source` is a `Law`)."""

    name: str
    kind: str  # requires | ensures | law
    expr: Expr | None
    within: Mapping[str, float] | None = None
    by: str = "proof_or_test"
    source: Any = None


@dataclass(frozen=True, slots=True)
class LawArg:
    """What a law is stated for: a sampled value or tensor, a permutation, or an index.

    `sample` has elements of `dtype` from `lo` to `hi` where given, over `shape`; `perm` is a
    permutation of 0..hi (an integer tensor of one axis), `index` an integer in 0..hi.
    """

    name: str
    kind: str  # sample | perm | index
    dtype: DType
    shape: tuple[Expr, ...] = ()
    lo: Expr | None = None
    hi: Expr | None = None


@dataclass(frozen=True, slots=True)
class LawCall:
    """A call of the operator inside a law; the claim reads its results as tensors `name.output`.

    `inputs` define the transformed inputs by expressions over the inputs, outputs, arguments and
    earlier calls of the law; `params` and `sizes` are what the call is made with.
    """

    name: str
    inputs: tuple[Tensor, ...]
    params: Mapping[str, Expr]
    sizes: Mapping[str, Expr]


@dataclass(frozen=True, slots=True)
class Law:
    """A law in executable form: draw `args`, define `tensors`, make `calls`, judge the claim.

    `tensors` are what the calls of other operators inside the law stand for, in dependency order
    among themselves; a tensor may read earlier calls. `ast` is the law as it was written.
    """

    args: tuple[LawArg, ...]
    calls: tuple[LawCall, ...]
    tensors: tuple[Tensor, ...]
    ast: Any


@dataclass(frozen=True, slots=True)
class Workload:
    """Named sizes, params and input distributions {tensor: (family, (numbers...))} that count."""

    name: str
    weight: float
    sizes: Mapping[str, int]
    params: Mapping[str, float | int | bool]
    types: Mapping[str, str]
    values: Mapping[str, tuple[str, tuple[float, ...]]]


@dataclass(frozen=True, slots=True)
class Objective:
    """Weighted terms (metric, weight) and hard bounds (metric, comparison, value in SI base
    units)."""

    terms: tuple[tuple[str, float], ...] = (("latency", 1.0),)
    bounds: tuple[tuple[str, str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    family: str  # cpu | gpu
    arch: str | None
    backends: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Operator:
    """One operator at one binding of its type variables."""

    name: str
    version: str
    doc: str | None
    types: Mapping[str, str]  # type variable -> dtype name bound here
    sizes: tuple[str, ...]  # dims, in order of declaration
    lets: Mapping[str, Expr]  # derived sizes, already substituted everywhere else
    params: tuple[Param, ...]
    facts: tuple[Expr, ...]  # where-clauses and default bounds, over sizes and params
    inputs: tuple[Tensor, ...]
    tensors: tuple[Tensor, ...]  # locals and outputs in dependency order
    clauses: tuple[Clause, ...] = ()
    tolerance: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    workloads: tuple[Workload, ...] = ()
    objective: Objective = Objective()
    targets: tuple[Target, ...] = ()
    gradients: tuple[tuple[str, str], ...] = ()  # (input, auto | none | def)
    variadic: tuple[str, ...] = ()  # sizes that stand for any number of leading axes, flattened
    source: str = ""  # canonical text of the spec's operator
    digest: str = ""  # sha256:... of the canonical text
    declared: tuple[str, ...] = ()  # names of the outputs in the order of the text

    def __post_init__(self) -> None:
        verify(self)

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """Outputs as they were declared (`declared` names them), else in dependency order."""
        found = {t.name: t for t in self.tensors if t.role == "output"}
        order = [n for n in self.declared if n in found]
        return tuple(found[n] for n in dict.fromkeys((*order, *found)))

    @property
    def requires(self) -> tuple[Clause, ...]:
        return tuple(c for c in self.clauses if c.kind == "requires")

    def tensor(self, name: str) -> Tensor:
        for t in (*self.inputs, *self.tensors):
            if t.name == name:
                return t
        raise KeyError(name)

    @property
    def free_sizes(self) -> tuple[str, ...]:
        """Sizes that no input's shape fixes; the caller passes them by name."""
        fixed = {a.hi.attr for t in self.inputs for a in t.axes if a.hi.op == "size"}
        return tuple(s for s in self.sizes if s not in fixed)


def verify(op: Operator) -> None:
    """Raise ExprError when a definition reads something undefined, later, or with a wrong rank."""
    known: dict[str, Tensor] = {t.name: t for t in op.inputs}
    if len(known) != len(op.inputs):
        raise ExprError(f"{op.name}: two inputs share a name")
    sizes, params = set(op.sizes), {p.name for p in op.params}
    for t in op.tensors:
        if t.name in known:
            raise ExprError(f"{t.name} is defined twice")
        own = {a.name for a in t.axes}
        group = set(t.recurrence.group) if t.recurrence else set()
        if t.body is None:
            raise ExprError(f"{t.name} has no definition")
        if t.body.kind != t.kind:
            raise ExprError(f"{t.name} is {t.dtype}, its definition is {t.body.kind}")
        for e in walk(t.body):
            if e.op == "read":
                name, index, _ = read_parts(e)
                source = known.get(name)
                if source is None and name in group:
                    source = op.tensor(name)
                if source is None:
                    raise ExprError(f"{t.name} reads {name} before it is defined")
                if len(index) != len(source.axes):
                    raise ExprError(f"{show(e)}: {name} has {len(source.axes)} axes")
            elif e.op == "size" and e.attr not in sizes:
                raise ExprError(f"unknown size {e.attr} in {t.name}")
            elif e.op == "param" and e.attr not in params:
                raise ExprError(f"unknown param {e.attr} in {t.name}")
        loose = free_vars(t.body) - own
        if loose:
            raise ExprError(f"{t.name}: index {', '.join(sorted(loose))} is not bound")
        known[t.name] = t


def show_operator(op: Operator) -> str:
    """The text that `opwright show --stage op` prints."""
    types = ", ".join(f"{k} = {v}" for k, v in op.types.items())
    lines = [f"operator {op.name} @ {op.version} ({types})"]
    lines += [f"  size {s}" for s in op.sizes]
    lines += [
        f"  param {p.name}: {p.dtype}" + (f" = {show(p.default)}" if p.default is not None else "")
        for p in op.params
    ]
    lines += [f"  fact {show(f)}" for f in op.facts]
    for t in op.inputs:
        lines.append(f"  input {t.name}: {t.dtype}[{', '.join(show(s) for s in t.shape)}]")
    for t in op.tensors:
        axes = ", ".join(
            f"{a.name}: {show(a.hi)}"
            if show(a.lo) == "0"
            else f"{a.name}: {show(a.lo)}..{show(a.hi)}"
            for a in t.axes
        )
        head = f"  {t.role} {t.name}: {t.dtype}" + (f"[{axes}]" if axes else "")
        assert t.body is not None
        tail = f" rec {t.recurrence.axis} init {show(t.recurrence.init)}" if t.recurrence else ""
        lines.append(f"{head} = {show(t.body)}{tail}")
    lines += [f"  {c.kind} {c.name}: {show(c.expr)}" for c in op.clauses if c.expr is not None]
    return "\n".join(lines)
