"""Scopes of the vectorised evaluator: index variables, path conditions, blocks of index space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from opwright.ir.expr import TRUE, Expr, free_vars
from opwright.ir.labelled import Labelled

BLOCK = 2**22  # elements of one intermediate array: 32 MB
RESIDENT = (
    2**24
)  # elements of a local kept whole: 128 MB; larger ones are computed where they are read
NUMPY_KIND = {"real": np.float64, "int": np.int64, "bool": np.bool_}


@dataclass(frozen=True, slots=True)
class Range:
    """A variable that runs over lo..hi as an axis of its own."""

    lo: int
    hi: int


@dataclass(slots=True)
class Frame:
    """Index variables in scope, the path condition of the present expression, fold states."""

    variables: dict[str, Range | Labelled]
    path: tuple[tuple[Expr, bool], ...] = ()
    states: dict[str, Labelled] = field(default_factory=dict)
    memo: dict[tuple[Expr, Any], Labelled] = field(default_factory=dict)
    shared: frozenset[Expr] = frozenset()

    def bind(self, variables: Mapping[str, Range | Labelled], guard: Expr = TRUE) -> Frame:
        path = self.path if guard is TRUE else (*self.path, (guard, True))
        return Frame({**self.variables, **variables}, path, self.states)

    def extents(self, *parts: Expr, without: tuple[str, ...] = ()) -> dict[str, int]:
        """Extent of every axis that the free variables of some expressions bring."""
        out: dict[str, int] = {}
        for name in sorted(set().union(*map(free_vars, parts)) - set(without)):
            v = self.variables[name]
            if isinstance(v, Range):
                out[name] = v.hi - v.lo
            else:
                out.update(zip(v.names, v.data.shape, strict=True))
        return out


def blocks(extents: list[tuple[int, int]], outer: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Cut ranges into boxes of at most BLOCK // outer points, the last ranges whole if possible."""
    room = max(1, BLOCK // max(1, outer))
    steps: list[int] = []
    for lo, hi in reversed(extents):
        step = max(1, min(hi - lo, room))
        steps.append(step)
        room = max(1, room // step)
    cuts = [
        [(a, min(a + s, hi)) for a in range(lo, hi, s)]
        for (lo, hi), s in zip(extents, reversed(steps), strict=True)
    ]
    yield from product(*cuts)
