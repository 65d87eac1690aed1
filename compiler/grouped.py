"""Sums over a group and along what every member of it walks over, as a sum of sums.

Where the elements of a sum over several indices depend on one of them, or on it and an index of the
result, as one index `e` of what they read, the sum over the others is made for every `e` first: it
has one walk, and its results are as few as those of the members together.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from opwright.compiler.normalize import extract_folds, unused
from opwright.ir.expr import (
    TRUE,
    ZERO,
    Expr,
    Fold,
    free_vars,
    read,
    read_parts,
    reduction,
    substitute,
    var,
    walk,
)
from opwright.ir.op import OpAxis, Operator, Tensor


def grouped(op: Operator) -> Operator | None:
    """The operator with such sums as two; None where there are none."""
    made = _Grouped(op)
    tensors = tuple(u for t in made.tensors for u in made.definition(t))
    return replace(op, tensors=tensors) if len(tensors) > len(made.tensors) else None


class _Grouped:
    def __init__(self, op: Operator) -> None:
        self.op, self.tensors = op, extract_folds(op)
        self.known = {t.name: t for t in (*op.inputs, *self.tensors)}
        self.used = set(self.known)
        self.shapes = [Counter(map(str, t.shape)) for t in (*op.inputs, *op.outputs)]

    def definition(self, t: Tensor) -> list[Tensor]:
        """A definition, after the one that it now reads where it is such a sum."""
        if t.recurrence is not None or t.body is None or t.body.op != "fold":
            return [t]
        f = Fold(t.body)
        if f.kind != "sum" or f.guard is not TRUE or len(f.binders) < 2:
            return [t]
        for n, binder in enumerate(f.binders):
            inner = {b for k, b in enumerate(f.binders) if k != n}
            if any(binder in free_vars(x) for k, r in enumerate(f.ranges) if k != n for x in r):
                continue
            if any(free_vars(x) & inner for x in f.ranges[n]):
                continue  # its range is another one for each of the others
            for e, axis in self._indices(f, binder):
                if not free_vars(e) & inner:
                    found = self._split(t, f, n, e, axis)
                    if found is not None:
                        return found
        return [t]

    def _indices(self, f: Fold, binder: str) -> list[tuple[Expr, OpAxis]]:
        """Indices of what is read that hold the binder, with the axis that they are along."""
        found: dict[Expr, OpAxis] = {}
        for x in walk(f.term):
            if x.op == "read":
                name, index, fill = read_parts(x)
                for i, a in zip(index, self.known[name].axes, strict=True):
                    if binder in free_vars(i) and fill is None:
                        found[i] = a
        return list(found.items())

    def _split(self, t: Tensor, f: Fold, n: int, e: Expr, axis: OpAxis) -> list[Tensor] | None:
        if axis.lo is not ZERO or free_vars(axis.hi):
            return None
        name = unused("each", {b for x in walk(f.term) for b in free_vars(x)})
        term = substitute(f.term, {e: var(name)})
        gone = free_vars(e)
        if free_vars(term) & gone:
            return None
        axes = [a for a in t.axes if a.name not in gone]
        place = next((k for k, a in enumerate(t.axes) if a.name in gone), 0)
        axes.insert(place, OpAxis(name, axis.lo, axis.hi))
        merged = len(axes) == len(t.axes)
        shape = Counter(str(a.hi) for a in axes)
        if not merged and not any(shape <= s for s in self.shapes):
            return None
        rest = [k for k in range(len(f.binders)) if k != n]
        ranges = tuple(f.ranges[k] for k in rest)
        if any(free_vars(x) & gone for r in ranges for x in r):
            return None
        part = unused(f"{t.name}_each", self.used)
        body = reduction("sum", tuple(f.binders[k] for k in rest), ranges, term, TRUE, f.attr.acc)
        made = Tensor(
            part, t.dtype if t.role == "local" else f.attr.acc or t.dtype, tuple(axes), body
        )
        at = tuple(e if a.name == name else var(a.name) for a in axes)
        whole = reduction(
            "sum", (f.binders[n],), (f.ranges[n],), read(part, at, "real"), TRUE, f.attr.acc
        )
        return [made, replace(t, body=whole)]
