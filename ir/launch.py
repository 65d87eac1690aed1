"""A launch plan with its expressions read: what each kernel's arguments stand for.

Importers get kernels whose parameters are buffers and scalars of the spec, not text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from opwright.ir.delinearize import stated_values
from opwright.ir.dtypes import DTYPES, F64, I32, I64, DType
from opwright.ir.expr import Expr, ExprError, call, param, show, size, stride, substitute
from opwright.ir.op import DEFAULT_DIM_LIMIT, Operator
from opwright.ir.plan import Launch, Plan, PlanError
from opwright.ir.text import parse_expr
from opwright.ir.tile import Buffer

ROOM = 2**31 - 2**20  # what is counted in 32 bits may overshoot by a tile


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


def with_room(plan: Plan, op: Operator) -> Plan:
    """A plan whose facts keep what its kernels count in 32 bits away from the end of the type.

    Program ids, lanes and loops over them are 32 bits wide in block languages, and what a plan
    passes as `i32(e)` is: within a tile of 2^31 a mask or a loop's last step would wrap. Sizes
    that nothing but the default limit bounds, and numbers passed in 32 bits, get an upper bound,
    which is a guard like every fact. Other languages count in 64 bits but for `i32(e)`.
    """
    names = operator_names(op)
    known = [*op.facts, *(_expression(f, names, "facts") for f in plan.facts)]
    asked: dict[str, Expr] = {}
    for n, c in enumerate(plan.launches):
        for text in (a.strip() for a in c.args):
            inner = text[4:-1] if text.startswith("i32(") and text.endswith(")") else ""
            if inner:
                asked[inner] = _expression(inner, names, f"launches[{n}].args")
            if plan.backend == "triton":
                asked |= {x: size(x) for x in op.sizes if re.search(rf"\b{x}\b", text)}
        if plan.backend == "triton":
            whole = " ".join(c.grid)
            asked |= {x: size(x) for x in op.sizes if re.search(rf"\b{x}\b", whole)}
    values = stated_values(known)
    for text, e in list(asked.items()):  # a stride that equations give the value of is that value
        value = substitute(e, values)
        if value is not e and e.kind == "int":
            del asked[text]
            asked[show(value)] = value
    wide = {size(x) for x in op.sizes if call("le", size(x), DEFAULT_DIM_LIMIT) not in op.facts}
    more = [
        f"{text} <= {ROOM}" if text.isidentifier() or text.endswith(")") else f"({text}) <= {ROOM}"
        for text, e in asked.items()
        if e.op != "const" and e.kind == "int" and e not in wide and not _below(e, known)
    ]
    return replace(plan, facts=(*plan.facts, *more)) if more else plan


def _below(e: Expr, facts: Sequence[Expr]) -> bool:
    """Whether a fact keeps an expression below the end of 32 bits."""
    return any(
        f.op in ("le", "lt", "eq")
        and f.args[0] is e
        and f.args[1].op == "const"
        and f.args[1].attr <= ROOM
        for f in facts
    )


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
    if e.op == "cast" and isinstance(e.attr, DType):  # f32(scale)
        return Scalar(e.args[0] if _exact(e.args[0], e.attr, op) else e, e.attr)
    return Scalar(e, DTYPES["bool"] if e.kind == "bool" else F64)


def _exact(e: Expr, kind: DType, op: Operator) -> bool:
    """Whether an expression is a param of this type already."""
    return any(e is param(p.name, p.dtype.kind) and p.dtype is kind for p in op.params)


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
