"""The place of an extreme as two reductions: the extreme, then the least place that attains it.

A pass that keeps both carries a 64-bit place beside every element; two passes over a row that a
cache holds cost less. The second compares with what the first found, so that this is done only
where an element is read and not computed: two computations of one number may round differently.
"""

from __future__ import annotations

from dataclasses import replace

from opwright.compiler.evaluate import compute_dtype
from opwright.compiler.normalize import extract_folds, unused
from opwright.ir.dtypes import I64
from opwright.ir.expr import (
    Expr,
    Fold,
    call,
    const,
    neutral,
    read,
    reduction,
    rename,
    var,
    walk,
)
from opwright.ir.op import Operator, Tensor
from opwright.ir.semantics import ARG_FOLDS

_EXACT = frozenset(("read", "var", "size", "param", "const", "cast", "neg", "abs", "min", "max"))


def placed(op: Operator) -> Operator | None:
    """The operator with such pairs; None where there is none."""
    tensors = extract_folds(op)
    used = {t.name for t in (*op.inputs, *tensors)}
    made = tuple(u for t in tensors for u in _pair(op, t, used))
    return replace(op, tensors=made) if len(made) > len(tensors) else None


def _pair(op: Operator, t: Tensor, used: set[str]) -> list[Tensor]:
    if t.body is None or t.body.op != "fold" or t.recurrence is not None:
        return [t]
    f = Fold(t.body)
    if f.kind not in ARG_FOLDS:
        return [t]
    x, binder = f.term, f.binders[0]
    if not all(_exact(e) for e in walk(x)):
        return [t]
    real = x.kind == "real"
    own = tuple(var(a.name) for a in t.axes)
    best = unused(f"{t.name}_best", used)
    first = unused(f"{t.name}_first", used)
    extreme = reduction(ARG_FOLDS[str(f.kind)], f.binders, f.ranges, x, f.guard)
    top = read(best, own, x.kind)
    hit = call("eq", x, top)
    if real:
        hit = call("or", hit, call("isnan", x))
    guard = call("and", f.guard, hit)
    place = rename(
        reduction("min", f.binders, f.ranges, var(binder), guard), {binder: f"{binder}_{first}"}
    )
    none = neutral("min", "int")
    at = read(first, own, "int")
    body = call("select", call("eq", at, none), const(-1), at)
    dtype = compute_dtype(op) if real else I64
    return [
        Tensor(best, dtype, t.axes, extreme),
        Tensor(first, I64, t.axes, place),
        replace(t, body=body),
    ]


def _exact(e: Expr) -> bool:
    return e.op in _EXACT or (e.kind == "int" and e.op in ("add", "sub", "mul"))
