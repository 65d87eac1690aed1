"""An operator over dense arrays as one over a single axis, where every access is the element
itself: pointwise definitions, and folds over all elements."""

from __future__ import annotations

from dataclasses import replace

from opwright.ir.expr import (
    ZERO,
    Expr,
    ExprError,
    Fold,
    free_vars,
    read,
    read_parts,
    rebuild,
    reduction,
    var,
    walk,
)
from opwright.ir.op import OpAxis, Operator, Tensor
from opwright.ir.semantics import MONOIDS
from opwright.ir.tile import element_count


def flatten(op: Operator) -> Operator | None:
    """The flat operator, or None when some access is not the element itself or the rank is below
    2."""
    first = max((*op.inputs, *op.outputs), key=lambda t: len(t.axes))
    if len(first.axes) < 2:
        return None
    flat = _Flat(op, tuple(a.hi for a in first.axes))
    try:
        inputs = tuple(flat.tensor(t) for t in op.inputs)
        tensors = tuple(flat.tensor(t) for t in op.tensors)
        return replace(op, inputs=inputs, tensors=tensors, clauses=())
    except (ExprError, _Shaped):
        return None


class _Shaped(Exception):
    """The operator's meaning depends on the separate axes."""


class _Flat:
    def __init__(self, op: Operator, extents: tuple[Expr, ...]) -> None:
        self.op, self.extents = op, extents
        self.axis = OpAxis("element", ZERO, element_count(extents))
        self.folds = 0

    def tensor(self, t: Tensor) -> Tensor:
        if t.axes and not self.is_full([(a.lo, a.hi) for a in t.axes]):
            raise _Shaped
        if t.recurrence is not None:
            raise _Shaped
        body = t.body
        if body is not None:
            own = tuple(var(a.name) for a in t.axes)
            body = self.expr(body, own, var(self.axis.name) if own else None)
            if free_vars(body) - {self.axis.name}:
                raise _Shaped
        return replace(t, axes=(self.axis,), body=body) if t.axes else replace(t, body=body)

    def is_full(self, ranges: list[tuple[Expr, Expr]]) -> bool:
        return len(ranges) == len(self.extents) and all(
            lo is ZERO and hi is e for (lo, hi), e in zip(ranges, self.extents, strict=True)
        )

    def expr(self, e: Expr, own: tuple[Expr, ...], at: Expr | None) -> Expr:
        """An expression whose indices `own` are one element `at`."""
        if e.op == "fold":
            return self.fold(e, own, at)
        args = tuple(self.expr(a, own, at) for a in e.args) if e.op != "read" else e.args
        if e.op != "read" or not self.op.tensor(e.attr[0]).axes:
            return rebuild(e, args)
        name, index, fill = read_parts(e)
        if index != own or fill is not None or at is None:
            raise _Shaped
        return read(name, (at,), e.kind)

    def fold(self, e: Expr, own: tuple[Expr, ...], at: Expr | None) -> Expr:
        """A fold over all elements, which no index around it changes."""
        f = Fold(e)
        if at is not None and any(x in own for x in walk(e) if x.op == "var"):
            raise _Shaped
        if f.kind not in MONOIDS or not self.is_full(list(f.ranges)):
            raise _Shaped
        self.folds += 1
        binder = f"{self.axis.name}{self.folds}"
        inner = tuple(var(b) for b in f.binders)
        term, guard = (self.expr(x, inner, var(binder)) for x in (f.term, f.guard))
        if (free_vars(term) | free_vars(guard)) - {binder}:
            raise _Shaped
        whole = ((self.axis.lo, self.axis.hi),)
        return reduction(str(f.kind), (binder,), whole, term, guard, f.attr.acc)
