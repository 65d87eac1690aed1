"""Tiles that are multiplied: which of them are made where they are put into shared memory, and
which axes of a kernel share its threads.

A factor of a contraction lies in shared memory, the axis that is contracted first. Where nothing of
it needs what threads hold (loads and arithmetic on them), it is made there, by all threads in the
order of memory; else by those that hold it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from opwright.ir.semantics import ROWS
from opwright.ir.tile import (
    Atomic,
    Axis,
    Def,
    For,
    If,
    Kernel,
    Stmt,
    Store,
    Value,
    access_axes,
    statements,
)
from opwright.ir.tileops import inside, operands

PURE = {*ROWS, "load", "index", "full", "cast", "round"}


@dataclass(frozen=True, slots=True)
class Staged:
    """Factors of contractions: over which axis; what of the kernel is made nowhere else."""

    factors: dict[Value, Axis] = field(default_factory=dict)
    remade: dict[Value, tuple[Value, ...]] = field(default_factory=dict)  # with what it is made of
    only: frozenset[Value] = frozenset()
    tiles: tuple[frozenset[Axis], ...] = ()  # axes of what threads hold

    def together(self, a: Axis, b: Axis) -> bool:
        """Whether threads hold a tile with both axes."""
        return any(a in t and b in t for t in self.tiles)


def staged_of(kernel: Kernel) -> Staged:
    """The factors of a kernel's contractions."""
    factors: dict[Value, Axis] = {}
    written = set()
    for s in statements(kernel.body):
        if isinstance(s, Store | Atomic):
            written.add(s.buffer.name)
        if isinstance(s, Def) and s.value.op == "dot":
            for x in s.value.args:
                factors[x] = s.value.attr.axis
    if not factors:
        return Staged()
    remade = {}
    for v in factors:
        chain = _chain(v, written)
        if chain is not None:
            remade[v] = chain
    only = _only(kernel, remade)
    tiles: dict[frozenset[Axis], None] = {}
    for s in statements(kernel.body):
        if isinstance(s, Def) and s.value not in only:
            tiles[frozenset(s.value.axes)] = None
        elif isinstance(s, Store | Atomic):
            tiles[frozenset(access_axes(s))] = None
    return Staged(factors, remade, only, tuple(tiles))


def _chain(v: Value, written: set[str]) -> tuple[Value, ...] | None:
    """What a value is made of, over axes, first things first; None where that is more than loads
    and arithmetic."""
    out: dict[Value, None] = {}

    def visit(u: Value) -> bool:
        if not u.axes or u in out:
            return True  # all threads hold what has no axes
        if u.op not in PURE or (u.op == "load" and u.attr.buffer.name in written):
            return False
        if u.op == "load" and u.attr.buffer.role not in ("in", "plan"):
            return False
        if not all(map(visit, operands(u))):
            return False
        out[u] = None
        return True

    return tuple(out) if visit(v) else None


def _only(kernel: Kernel, remade: dict[Value, tuple[Value, ...]]) -> frozenset[Value]:
    """Values that nothing but remade factors is made of."""
    inner = {u for chain in remade.values() for u in chain}
    todo: list[Value] = []
    for s in statements(kernel.body):
        if not isinstance(s, Def):
            todo += _read(s)
        elif s.value not in inner:
            v = s.value
            todo += [x for x in operands(v) if not (v.op == "dot" and x in remade)]
    needed: set[Value] = set()
    while todo:
        v = todo.pop()
        if v not in needed:
            needed.add(v)
            todo += operands(v) if v in inner else ()
    return frozenset(inner - needed)


def _read(s: Stmt) -> Iterable[Value]:
    if isinstance(s, Store | Atomic):
        return [s.value, *inside(*s.index, s.mask)]
    if isinstance(s, For):
        return [*s.inits, *s.yields, *inside(s.lo, s.hi)]
    if isinstance(s, If):
        return inside(s.cond)
    return []


def slots_of(staged: Staged, axes: tuple[Axis, ...]) -> list[list[Axis]]:
    """Axes that share their threads: no thread holds a tile with two of them. Last ones first."""
    out: list[list[Axis]] = []
    for a in reversed(axes):
        if not any(a in t for t in staged.tiles):
            continue
        for slot in out:
            if not any(staged.together(a, b) for b in slot):
                slot.append(a)
                break
        else:
            out.append([a])
    return out
