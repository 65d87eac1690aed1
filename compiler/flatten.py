"""A pointwise operator over dense arrays as one over a single axis, where every access is the
element itself."""

from __future__ import annotations

from dataclasses import replace

from opwright.ir.expr import (
    ZERO,
    Expr,
    ExprError,
    free_vars,
    read,
    read_parts,
    transform,
    var,
    walk,
)
from opwright.ir.op import OpAxis, Operator, Tensor
from opwright.ir.tile import element_count


def flatten(op: Operator) -> Operator | None:
    """The flat operator, or None when some access is not the element itself or the rank is below
    2."""
    first = op.outputs[0]
    if len(first.axes) < 2:
        return None
    extents = tuple(a.hi for a in first.axes)
    axis = OpAxis("element", ZERO, element_count(extents))
    try:
        inputs = tuple(_flat_input(t, extents, axis) for t in op.inputs)
        tensors = tuple(_flat_body(op, t, extents, axis) for t in op.tensors)
        return replace(op, inputs=inputs, tensors=tensors, clauses=())
    except (ExprError, _Shaped):
        return None


class _Shaped(Exception):
    """The operator's meaning depends on the separate axes."""


def _full(t: Tensor, extents: tuple[Expr, ...]) -> bool:
    return len(t.axes) == len(extents) and all(
        a.lo is ZERO and a.hi is e for a, e in zip(t.axes, extents, strict=True)
    )


def _flat_input(t: Tensor, extents: tuple[Expr, ...], axis: OpAxis) -> Tensor:
    if not t.axes:
        return t
    if not _full(t, extents):
        raise _Shaped
    return replace(t, axes=(axis,))


def _flat_body(op: Operator, t: Tensor, extents: tuple[Expr, ...], axis: OpAxis) -> Tensor:
    assert t.body is not None
    if t.recurrence is not None or any(x.op == "fold" for x in walk(t.body)):
        raise _Shaped
    if not t.axes:
        return t
    if not _full(t, extents):
        raise _Shaped
    own = tuple(var(a.name) for a in t.axes)

    def rule(e: Expr) -> Expr | None:
        if e.op != "read" or not op.tensor(e.attr[0]).axes:
            return None
        name, index, fill = read_parts(e)
        if index != own or fill is not None:
            raise _Shaped
        return read(name, (var(axis.name),), e.kind)

    body = transform(t.body, rule)
    if free_vars(body) - {axis.name}:
        raise _Shaped
    return replace(t, axes=(axis,), body=body)
