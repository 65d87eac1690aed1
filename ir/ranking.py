"""Ranks: how many elements come before one, read off a sort instead of a double loop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opwright.ir.expr import Expr, Fold, call, free_vars, substitute, var
from opwright.ir.labelled import Array, Labelled


@dataclass(frozen=True, slots=True)
class Rank:
    """How many l come before `element`: larger (or smaller) `key`, or an equal one and l first.

    `key` is over the index variable `other`, which the fold binds. With `nan` a NaN is larger than
    every number and equal to a NaN; without, NaN keys must be left to the literal count.
    """

    key: Expr
    other: str
    element: str
    descending: bool
    nan: bool = False


def recognise(f: Fold) -> Rank | None:
    """The rank that a fold counts, or None."""
    if f.kind != "sum" or len(f.binders) != 1 or f.guard.op != "or":
        return None
    if f.term.op != "const" or f.term.kind != "int":
        return None
    other = f.binders[0]
    for before, tie in (f.guard.args, f.guard.args[::-1]):
        if tie.op != "and":
            continue
        nan = before.op == "or"
        strict = next((x for x in before.args if x.op == "lt"), before) if nan else before
        if strict.op != "lt":
            continue
        for equal, first in (tie.args, tie.args[::-1]):
            if first.op != "lt" or first.args[0] is not var(other) or first.args[1].op != "var":
                continue
            element = first.args[1].attr
            for key, own, descending in ((strict.args[1], strict.args[0], True),
                                         (strict.args[0], strict.args[1], False)):  # fmt: skip
                same = substitute(key, {var(other): var(element)}) is own
                if not same or element in free_vars(key) or other not in free_vars(key):
                    continue
                greater, lesser = (key, own) if descending else (own, key)
                wanted = _greatest(greater, lesser) if nan else strict
                if before in (wanted, _turned(wanted)) and equal in _equal(key, own, nan):
                    return Rank(key, other, element, descending, nan)
    return None


def _turned(e: Expr) -> Expr:
    return call(e.op, *e.args[::-1]) if e.op in ("or", "and") else e


def _greatest(a: Expr, b: Expr) -> Expr:
    """a > b, where a NaN is the greatest."""
    if a.kind != "real":
        return call("lt", b, a)
    odd = call("and", call("isnan", a), call("not", call("isnan", b)))
    return call("or", call("lt", b, a), odd)


def _equal(a: Expr, b: Expr, nan: bool) -> list[Expr]:
    """The ways to write that two keys are equal."""
    plain = [call("eq", a, b), call("eq", b, a)]
    if not nan:
        return plain
    both = [call("and", call("isnan", x), call("isnan", y)) for x, y in ((a, b), (b, a))]
    made = [call("or", p, q) for p in plain for q in both]
    return [*made, *(_turned(m) for m in made)]


def ranks(keys: Labelled, name: str, descending: bool, nan: bool = False) -> Array | None:
    """Ranks along the axis `name`, which moves last; None when a key is NaN and none may be."""
    data = np.moveaxis(keys.data, keys.names.index(name), -1)
    if data.dtype.kind == "f" and not nan and np.isnan(data).any():
        return None
    if descending:
        # reversed twice, so that equal elements keep their order
        order = data.shape[-1] - 1 - np.argsort(data[..., ::-1], axis=-1, kind="stable")[..., ::-1]
    else:
        order = np.argsort(data, axis=-1, kind="stable")
    out = np.empty(data.shape, np.int64)
    places = np.broadcast_to(np.arange(data.shape[-1]), data.shape)
    np.put_along_axis(out, order, places, axis=-1)
    return out
