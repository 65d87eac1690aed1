"""Inputs that a spec requires to be finite everywhere."""

from __future__ import annotations

import math
from collections.abc import Iterator

from opwright.ir.expr import TRUE, Expr, Fold, conjuncts, read_parts
from opwright.ir.op import Operator, Tensor

Ranges = dict[str, tuple[Expr, Expr]]


def finite_inputs(op: Operator) -> frozenset[str]:
    """Names of inputs of which no element may be NaN or infinite; integers are finite always."""
    low: set[str] = set()
    high: set[str] = set()
    for c in op.requires:
        if c.expr is None:
            continue
        for side, name in _bounded(op, c.expr, {}):
            (low if side == "low" else high).add(name)
    return frozenset(low & high) | {t.name for t in op.inputs if t.kind != "real"}


def _bounded(op: Operator, e: Expr, ranges: Ranges) -> Iterator[tuple[str, str]]:
    """(side, input) of every bound that holds for all elements."""
    for c in conjuncts(e):
        if c.op == "fold" and Fold(c).kind == "all" and Fold(c).guard is TRUE:
            f = Fold(c)
            inner = dict(zip(f.binders, f.ranges, strict=True))
            yield from _bounded(op, f.term, {**ranges, **inner})
        elif c.op in ("lt", "le"):
            small, large = c.args
            if _keeps_out(small, c.op, -math.inf):
                yield from (("low", n) for n in _whole(op, large, ranges))
            if _keeps_out(large, c.op, math.inf):
                yield from (("high", n) for n in _whole(op, small, ranges))
                if small.op == "abs":
                    whole = list(_whole(op, small.args[0], ranges))
                    yield from ((side, n) for n in whole for side in ("low", "high"))


def _keeps_out(e: Expr, op: str, infinite: float) -> bool:
    """Whether what this bounds is not infinite."""
    if e.op == "neg":
        return _keeps_out(e.args[0], op, -infinite)
    if e.op != "const" or isinstance(e.attr, bool) or math.isnan(e.attr):
        return False
    return math.isfinite(e.attr) or (op == "lt" and bool(e.attr == infinite))


def _whole(op: Operator, e: Expr, ranges: Ranges) -> Iterator[str]:
    """The input whose elements, all of them, an expression stands for."""
    while e.op in ("cast", "toreal"):
        e = e.args[0]
    if e.op != "read":
        return
    name, index, fill = read_parts(e)
    t: Tensor | None = next((t for t in op.inputs if t.name == name), None)
    if t is None or fill is not None or len({*index}) != len(index):
        return
    for i, a in zip(index, t.axes, strict=True):
        if i.op != "var" or ranges.get(i.attr) != (a.lo, a.hi):
            return
    yield name
