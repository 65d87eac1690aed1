"""Folds whose elements each go to the one result that they name: `sum[n: N | key[n] == v](x[n])`.

Instead of trying every element for every result, a program takes the elements once, in their order,
and combines each with the result it belongs to. The results are kept in the program's own memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from opwright.compiler.evaluate import Evaluator
from opwright.ir.dtypes import F64, I64
from opwright.ir.expr import (
    TRUE,
    ZERO,
    Expr,
    Fold,
    affine,
    call,
    conjunction,
    conjuncts,
    const,
    free_vars,
    substitute,
    var,
    walk,
)
from opwright.ir.op import Tensor
from opwright.ir.semantics import MONOIDS
from opwright.ir.tile import Buffer, Builder, Value

KINDS = ("sum", "prod", "max", "min")


@dataclass(frozen=True, slots=True)
class Scatter:
    """The axis of a tensor that `key` names the place on, and what else the guard asks for."""

    axis: int
    key: Expr
    rest: Expr


def scatter_of(t: Tensor) -> Scatter | None:
    """The form of a definition that is one fold, guarded by `key == axis` for a key that is
    data."""
    if t.body is None or t.body.op != "fold" or t.body.attr.kind not in KINDS:
        return None
    f = Fold(t.body)
    parts = conjuncts(f.guard)
    for n, a in enumerate(t.axes):
        if a.lo is not ZERO:
            continue
        for part in parts:
            key = _solved(part, a.name)
            if key is None or not free_vars(key) & set(f.binders):
                continue
            if not any(x.op in ("read", "fold") for x in walk(key)):
                continue
            others = [p for p in parts if p is not part]
            inside = (f.term, key, *others, *(e for r in f.ranges for e in r))
            if not any(a.name in free_vars(x) for x in inside):
                return Scatter(n, key, conjunction(others))
    return None


def _solved(part: Expr, axis: str) -> Expr | None:
    """The key of a condition `key == axis`."""
    if part.op != "eq" or part.args[0].kind != "int":
        return None
    form = affine(part.args[0] - part.args[1])
    own = var(axis)
    if form is None or abs(form.get(own, 0)) != 1:
        return None
    sign = -form.pop(own)
    key: Expr = const(sign * form.pop(None, 0))
    for leaf, factor in form.items():
        assert leaf is not None
        key = key + leaf * (sign * factor)
    return key


def scattered(
    b: Builder,
    e: Evaluator,
    t: Tensor,
    form: Scatter,
    at: Mapping[Expr, Expr],
    store: Callable[[Expr, Value], None],
) -> None:
    """Emit the results along the axis of the form at one point of the other axes."""
    axis = t.axes[form.axis]
    assert t.body is not None
    f = Fold(substitute(t.body, at))
    kind = I64 if t.kind == "int" else F64
    own = Buffer(f"{t.name}_own", "program", kind, (axis.hi,))

    def scoped(body: Callable[[Expr], None]) -> Callable[[Expr], None]:
        def inner(v: Expr) -> None:
            e.enter()
            body(v)
            e.leave()

        return inner

    def begin(v: Expr) -> None:
        b.store(own, v, b.cast(e.value(f.init[0]), kind))

    def combine(bound: Mapping[Expr, Expr]) -> None:
        key, rest = (substitute(substitute(x, at), bound) for x in (form.key, form.rest))
        place = e.index(key)
        wanted = call("and", call("le", 0, place), call("lt", place, axis.hi))
        if rest is not TRUE:
            wanted = call("and", wanted, e.index(rest))

        def body() -> None:
            e.enter()
            new = b.cast(e.value(substitute(f.term, bound)), kind)
            row = MONOIDS[str(f.kind)].row
            b.store(own, place, b.ew(row, b.load(own, place), new))
            e.leave()

        b.branch(wanted, body, lambda: None)

    def nest(depth: int, bound: dict[Expr, Expr]) -> None:
        if depth == len(f.binders):
            combine(bound)
            return
        lo, hi = (e.index(substitute(x, bound)) for x in f.ranges[depth])
        name = f.binders[depth]
        b.loop(name, lo, hi, 1, (), scoped(lambda v: nest(depth + 1, {**bound, var(name): v})))

    b.loop(axis.name, ZERO, axis.hi, 1, (), scoped(begin))
    nest(0, {})
    b.loop(axis.name, ZERO, axis.hi, 1, (), scoped(lambda v: store(v, b.load(own, v))))
