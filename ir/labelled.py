"""Arrays with named axes: broadcasting by name, reductions and contractions over names.

The numpy half of the reference evaluator; it knows nothing of operators or sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.ir.semantics import MONOIDS

Array = NDArray[Any]

ACCUMULATE: dict[str, np.ufunc] = {
    "sum": np.add,
    "prod": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "any": np.logical_or,
    "all": np.logical_and,
}


@dataclass(frozen=True, slots=True)
class Labelled:
    """An array whose axis k runs over the index variable `names[k]`; names are distinct."""

    names: tuple[str, ...]
    data: Array

    def extent(self, name: str) -> int:
        return int(self.data.shape[self.names.index(name)])


def scalar(value: Any) -> Labelled:
    return Labelled((), np.asarray(value))


def union(parts: Iterable[Labelled]) -> tuple[str, ...]:
    """All names in order of first appearance."""
    return tuple(dict.fromkeys(n for p in parts for n in p.names))


def expand(x: Labelled, names: Sequence[str]) -> Array:
    """The data with axes in the order of `names`; missing ones have extent 1."""
    data = x.data
    order = [x.names.index(n) for n in names if n in x.names]
    if order != list(range(data.ndim)):
        data = data.transpose(order)
    shape = iter(data.shape)
    return data.reshape([next(shape) if n in x.names else 1 for n in names])


def apply(function: Callable[..., Any], *args: Labelled) -> Labelled:
    """An elementwise function over the union of the names."""
    names = union(args)
    return Labelled(names, np.asarray(function(*(expand(a, names) for a in args))))


def neutral_value(kind: str, dtype: Any) -> Any:
    """The neutral element of a monoid in a numpy type (extremes of i64 for integers)."""
    value = MONOIDS[kind].neutral
    if np.issubdtype(dtype, np.integer) and isinstance(value, float):
        return np.iinfo(np.int64).min if value < 0 else np.iinfo(np.int64).max
    return np.asarray(value).astype(dtype)[()]


def reduce_names(kind: str, x: Labelled, extents: dict[str, int]) -> Labelled:
    """Reduce the named axes away; one that `x` lacks repeats its value `extents[name]` times."""
    axes = tuple(i for i, n in enumerate(x.names) if n in extents)
    names = tuple(n for n in x.names if n not in extents)
    if 0 in extents.values():
        shape = [s for i, s in enumerate(x.data.shape) if i not in axes]
        return Labelled(names, np.full(shape, neutral_value(kind, x.data.dtype), x.data.dtype))
    data = MONOIDS[kind].concrete(x.data, axis=axes) if axes else x.data
    repeats = 1
    for n, extent in extents.items():
        repeats *= 1 if n in x.names else extent
    if repeats > 1 and kind == "sum":
        data = data * repeats
    elif repeats > 1 and kind == "prod":
        data = data**repeats
    return Labelled(names, np.asarray(data))


def accumulate(kind: str, x: Labelled, name: str, reverse: bool = False) -> Labelled:
    """Prefix (or suffix) results along a name with the neutral element added: extent + 1 entries.

    Entry k of a prefix combines the elements before k, entry k of a suffix those from k on.
    """
    axis = x.names.index(name)
    data = np.moveaxis(x.data, axis, 0)
    first = np.full((1, *data.shape[1:]), neutral_value(kind, data.dtype), data.dtype)
    if reverse:
        data = data[::-1]
    out = np.concatenate([first, ACCUMULATE[kind].accumulate(data, axis=0)])
    if reverse:
        out = out[::-1]
    return Labelled((name, *(n for n in x.names if n != name)), out)


def take(x: Labelled, name: str, at: Labelled) -> Labelled:
    """Replace the axis `name` of `x` by integer positions; names that both have are matched."""
    shared = tuple(n for n in x.names if n in at.names)
    rest = tuple(n for n in x.names if n != name and n not in shared)
    source = expand(x, (*shared, name, *rest))
    names = (*shared, *(n for n in at.names if n not in shared))
    positions = expand(at, names)
    index: list[Array] = []
    for k, n in enumerate(shared):
        shape = [1] * len(names)
        shape[k] = x.extent(n)
        index.append(np.arange(x.extent(n)).reshape(shape))
    return Labelled((*names, *rest), source[(*index, positions)])


def contract(factors: list[Labelled], extents: dict[str, int]) -> Labelled:
    """Sum over the names of `extents` of the product of the factors, through matrix products."""
    pending = [_presum(f, factors, k, extents) for k, f in enumerate(factors)]
    while len(pending) > 1:
        a, b = min(
            ((i, j) for i in range(len(pending)) for j in range(i)),
            key=lambda ij: _volume(pending[ij[0]], pending[ij[1]], extents, pending),
        )
        x, y = pending[a], pending[b]
        rest = [p for k, p in enumerate(pending) if k not in (a, b)]
        gone = {
            n for n in (*x.names, *y.names) if n in extents and not any(n in p.names for p in rest)
        }
        pending = [*rest, _pair(x, y, gone)]
    out = pending[0]
    absent = {n: e for n, e in extents.items() if not any(n in f.names for f in factors)}
    left = {n: extents[n] for n in out.names if n in extents}
    return reduce_names("sum", out, {**left, **absent})


def _presum(f: Labelled, factors: list[Labelled], k: int, extents: dict[str, int]) -> Labelled:
    """Sum out what no other factor has, unless the sum would meet an infinity later."""
    others = {n for i, g in enumerate(factors) if i != k for n in g.names}
    own = {n: extents[n] for n in f.names if n in extents and n not in others}
    return reduce_names("sum", f, own) if own else f


def _volume(
    x: Labelled, y: Labelled, extents: dict[str, int], pending: list[Labelled]
) -> tuple[int, int]:
    sizes = dict(zip(x.names, x.data.shape, strict=True))
    sizes.update(zip(y.names, y.data.shape, strict=True))
    rest = [p for p in pending if p is not x and p is not y]
    out = work = 1
    for n, s in sizes.items():
        work *= s
        out *= 1 if n in extents and not any(n in p.names for p in rest) else s
    return out, work


def _pair(x: Labelled, y: Labelled, gone: set[str]) -> Labelled:
    """One product summed over the names in `gone`: an elementwise product or a matrix product."""
    summed = [n for n in x.names if n in gone and n in y.names]
    batch = [n for n in x.names if n in y.names and n not in gone]
    left = [n for n in x.names if n not in y.names]
    right = [n for n in y.names if n not in x.names]
    if not summed:
        names = union((x, y))
        return Labelled(names, expand(x, names) * expand(y, names))

    def shape(lab: Labelled, names: list[str]) -> list[int]:
        return [lab.extent(n) for n in names]

    def flat(lab: Labelled, *groups: list[str]) -> Array:
        order = [n for g in groups for n in g]
        data = expand(lab, order)
        return data.reshape([int(np.prod(shape(lab, g), dtype=np.int64)) for g in groups])

    product = np.matmul(flat(x, batch, left, summed), flat(y, batch, summed, right))
    out_shape = shape(x, batch) + shape(x, left) + shape(y, right)
    return Labelled((*batch, *left, *right), product.reshape(out_shape))
