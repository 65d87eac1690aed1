"""Which axes of a dense buffer a text does not keep apart.

A plan may declare scratch as [S, 4] and its text run through it by 16 elements at a time, or as
[8, 8, 24] and fill it in one loop. Such memory is read with the two axes as one, so that what has
to be in bounds is the place in memory and not a column. Only what can hardly be right otherwise
counts: an access that leaves its axis where its loops take it, and whose conditions, if any, speak
of sizes. Where that is wrong of a text its bounds are refuted with either reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from opwright.ir.expr import TRUE, Expr, leaves, substitute
from opwright.ir.polynomial import Polynomial, polynomial
from opwright.ir.tile import Buffer, Def, For, If, Kernel, Stmt, Store, element_count

Ranges = Mapping[str, tuple[int, int] | None]


def joined_axes(
    kernels: Iterable[Kernel], buffers: Mapping[str, Buffer], known: Mapping[Expr, Expr]
) -> dict[str, Buffer]:
    """Buffers with two neighbouring axes as one, where an access runs over the end of the inner
    one; one pair of each buffer at a time."""
    out: dict[str, Buffer] = {}
    for k in kernels:
        for buffer, index, ranges in _plain(k.body, {}, known):
            b = buffers.get(buffer.name)
            if b is None or b is not buffer or b.strides is not None or b.name in out:
                continue
            for d in range(len(b.shape) - 1, 0, -1):
                extent = substitute(b.shape[d], known)
                at = polynomial(substitute(index[d], known))
                if extent.op == "const" and _leaves(at, int(extent.attr), ranges):
                    merged = element_count(b.shape[d - 1 : d + 1])
                    shape = (*b.shape[: d - 1], merged, *b.shape[d + 1 :])
                    out[b.name] = replace(b, shape=shape)
                    break
    return out


def _plain(
    body: Iterable[Stmt], ranges: Ranges, known: Mapping[Expr, Expr]
) -> Iterator[tuple[Buffer, tuple[Expr, ...], Ranges]]:
    """Accesses under no condition on counters alone, with the ranges of loop variables."""

    def open_(condition: Expr) -> bool:
        return condition is TRUE or bool(leaves(substitute(condition, known), "size", "param"))

    for s in body:
        if isinstance(s, For):
            lo, hi = substitute(s.lo, known), substitute(s.hi, known)
            found = None
            if lo.op == hi.op == "const" and s.step > 0 and lo.attr < hi.attr:
                trips = (int(hi.attr) - 1 - int(lo.attr)) // s.step
                found = (int(lo.attr), int(lo.attr) + trips * s.step)
            yield from _plain(s.body, {**ranges, s.variable: found}, known)
        elif isinstance(s, Store):
            if open_(s.mask):
                yield s.buffer, s.index, ranges
        elif isinstance(s, If):
            if open_(s.cond):
                yield from _plain((*s.then, *s.other), ranges, known)
        elif isinstance(s, Def) and s.value.op == "load" and open_(s.value.attr.mask):
            yield s.value.attr.buffer, s.value.attr.index, ranges


def _leaves(at: Polynomial, extent: int, ranges: Ranges) -> bool:
    """Whether an index takes values beyond an axis whatever else it depends on."""
    top = 0
    for monomial, c in at.items():
        if not monomial:
            top += c
            continue
        x = monomial[0]
        span: tuple[int, int] | None = None
        if len(monomial) == 1 and x.op == "lane":
            span = (0, x.attr.extent - 1)
        elif len(monomial) == 1 and x.op == "var":
            span = ranges.get(x.attr)
        if span is None:
            return False
        top += max(c * span[0], c * span[1])
    return top >= extent
