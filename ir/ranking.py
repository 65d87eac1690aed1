"""Ranks: how many elements come before one, read off a sort instead of a double loop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opwright.ir.expr import Expr, Fold, call, free_vars, substitute, var
from opwright.ir.labelled import Array, Labelled


@dataclass(frozen=True, slots=True)
class Rank:
    """How many l come before `element`: larger (or smaller) `key`, or an equal one and l first.

    `key` is over the index variable `other`, which the fold binds.
    """

    key: Expr
    other: str
    element: str
    descending: bool


def recognise(f: Fold) -> Rank | None:
    """The rank that a fold counts, or None; NaN keys must be left to the literal count."""
    if f.kind != "sum" or len(f.binders) != 1 or f.guard.op != "or":
        return None
    if f.term.op != "const" or f.term.kind != "int":
        return None
    other = f.binders[0]
    for before, tie in (f.guard.args, f.guard.args[::-1]):
        if before.op != "lt" or tie.op != "and":
            continue
        for equal, first in (tie.args, tie.args[::-1]):
            if first.op != "lt" or first.args[0] is not var(other) or first.args[1].op != "var":
                continue
            element = first.args[1].attr
            for key, own, descending in ((before.args[1], before.args[0], True),
                                         (before.args[0], before.args[1], False)):  # fmt: skip
                same = substitute(key, {var(other): var(element)}) is own
                ties = equal in (call("eq", key, own), call("eq", own, key))
                if same and ties and element not in free_vars(key) and other in free_vars(key):
                    return Rank(key, other, element, descending)
    return None


def ranks(keys: Labelled, name: str, descending: bool) -> Array | None:
    """Ranks along the axis `name`, which moves last; None when a key is NaN."""
    data = np.moveaxis(keys.data, keys.names.index(name), -1)
    if data.dtype.kind == "f":
        if np.isnan(data).any():
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
