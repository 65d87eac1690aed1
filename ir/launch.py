"""A launch plan with its expressions read: what each kernel's arguments stand for.

Importers get kernels whose parameters are buffers and scalars of the spec, not text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from opwright.ir.dtypes import DTYPES, F64, I32, I64, DType
from opwright.ir.expr import Expr, ExprError, param, size, stride
from opwright.ir.op import Operator
from opwright.ir.plan import Launch, Plan, PlanError
from opwright.ir.text import parse_expr
from opwright.ir.tile import Buffer


class ImportRefusal(ValueError):
    """Text that an importer does not understand: `what` it is, and the line of the source."""

    def __init__(self, what: str, file: str = "", line: int = 0) -> None:
        where = f"{file}:{line}: " if file and line else f"{file}: " if file else ""
        super().__init__(f"{where}{what}")
        self.what, self.file, self.line = what, file, line


@dataclass(frozen=True, slots=True)
class Scalar:
    """A scalar argument: its value, and the type in which it is passed."""

    expr: Expr
    dtype: DType


Argument = Buffer | Scalar


@dataclass(frozen=True, slots=True)
class BoundLaunch:
    """One launch with arguments in the order of the kernel's parameters."""

    kernel: str
    grid: tuple[Expr, ...]
    args: tuple[Argument, ...]
    const: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = "static"


@dataclass(frozen=True, slots=True)
class BoundPlan:
    """A plan at one binding of the operator's types. Inputs and outputs have symbolic strides;
    `facts` state what the plan assumes of them and of sizes."""

    plan: Plan
    buffers: Mapping[str, Buffer]
    launches: tuple[BoundLaunch, ...]
    facts: tuple[Expr, ...]


def operator_names(op: Operator) -> Mapping[str, Expr]:
    """What names in facts and plan expressions stand for."""
    sizes = {s: size(s) for s in op.sizes}
    return {**sizes, **{p.name: param(p.name, p.dtype.kind) for p in op.params}}


def bind_plan(plan: Plan, op: Operator) -> BoundPlan:
    """Read every expression of a plan; PlanError names the field that is wrong."""
    names = operator_names(op)
    buffers = {t.name: _tensor(t.name, t.role, t.dtype, t.shape) for t in op.inputs}
    buffers |= {t.name: _tensor(t.name, "output", t.dtype, t.shape) for t in op.outputs}
    for name, s in plan.scratch.items():
        at = f"scratch.{name}"
        if name in buffers or name in names:
            raise PlanError(f"candidate.json: {at}: the operator has something of that name")
        kind = DTYPES.get(op.types.get(s.dtype, s.dtype))
        if kind is None:
            raise PlanError(f"candidate.json: {at}: unknown dtype {s.dtype!r}")
        shape = tuple(_integer(text, names, f"{at}.shape") for text in s.shape)
        buffers[name] = Buffer(name, s.scope, kind, shape, None, s.init)
    facts = tuple(_expression(f, names, "facts") for f in plan.facts)
    for text, f in zip(plan.facts, facts, strict=True):
        if f.kind != "bool":
            raise PlanError(f"candidate.json: facts: {text!r} is not a truth value")
    launches = tuple(
        _launch(c, f"launches[{n}]", names, buffers, op) for n, c in enumerate(plan.launches)
    )
    return BoundPlan(plan, buffers, launches, facts)


def _tensor(name: str, role: str, kind: DType, shape: tuple[Expr, ...]) -> Buffer:
    steps = tuple(stride(name, n) for n in range(len(shape)))
    return Buffer(name, "in" if role == "input" else "out", kind, shape, steps)


def _launch(
    c: Launch, at: str, names: Mapping[str, Expr], buffers: Mapping[str, Buffer], op: Operator
) -> BoundLaunch:
    grid = tuple(_integer(g, names, f"{at}.grid") for g in c.grid)
    args = tuple(_argument(a, names, buffers, op, f"{at}.args") for a in c.args)
    return BoundLaunch(c.kernel, grid, args, c.const, c.extra, c.schedule)


def _argument(
    text: str, names: Mapping[str, Expr], buffers: Mapping[str, Buffer], op: Operator, at: str
) -> Argument:
    if text in buffers:
        return buffers[text]
    inner, narrow = text.strip(), False
    if inner.startswith("i32(") and inner.endswith(")"):
        inner, narrow = inner[4:-1], True
    e = _expression(inner, names, at)
    if e.kind == "int":
        return Scalar(e, I32 if narrow else I64)
    if narrow:
        raise PlanError(f"candidate.json: {at}: {text!r} is not an integer")
    for p in op.params:
        if p.name == inner:
            return Scalar(e, p.dtype)
    return Scalar(e, DTYPES["bool"] if e.kind == "bool" else F64)


def _expression(text: str, names: Mapping[str, Expr], at: str) -> Expr:
    try:
        return parse_expr(text, names)
    except (ExprError, ValueError) as e:
        raise PlanError(f"candidate.json: {at}: {e}") from None


def _integer(text: str, names: Mapping[str, Expr], at: str) -> Expr:
    e = _expression(text, names, at)
    if e.kind != "int":
        raise PlanError(f"candidate.json: {at}: {text!r} is not an integer")
    return e
