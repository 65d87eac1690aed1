"""Pointwise results that read with another axis contiguous: square blocks through scratch.

A read whose last index is not the result's last axis walks memory in steps. A program takes a block
of both axes: it copies the block of such a read as it lies, row by row, into scratch, and computes
the result from there, so that every line of memory is touched once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opwright.compiler.buffers import Memory
from opwright.compiler.evaluate import Resolved, Unsupported
from opwright.compiler.strategies.emitter import Emitter
from opwright.compiler.strategies.group import Group, is_pointwise, same_range
from opwright.ir.dtypes import DType
from opwright.ir.expr import (
    TRUE,
    ZERO,
    Expr,
    call,
    cdiv,
    const,
    free_vars,
    minimum,
    pid,
    read_parts,
    substitute,
    var,
    walk,
)
from opwright.ir.op import OpAxis
from opwright.ir.tile import Axis, Buffer, Kernel, Placement, Value

PAD = 16  # elements between rows of scratch, so that a column of it is not in one set of a cache


@dataclass(frozen=True, slots=True)
class Form:
    """`other` is the position of the axis that `turned` reads have last; reads are in the axes of
    the first member."""

    group: Group
    axes: tuple[OpAxis, ...]
    other: int
    turned: tuple[Expr, ...]


def recognise(group: Group) -> Form:
    """Raises Unsupported with the reason when nothing is turned, or not pointwise."""
    first = group.members[0]
    if len(first.axes) < 2:
        raise Unsupported(f"{first.name} has fewer than two axes")
    reads: dict[Expr, None] = {}
    for t in group.members:
        same = len(t.axes) == len(first.axes) and all(map(same_range, t.axes, first.axes))
        if not is_pointwise(t) or t.role != "output" or not same:
            raise Unsupported(f"{t.name} is no pointwise result of these axes")
        assert t.body is not None
        names = {var(a.name): var(b.name) for a, b in zip(t.axes, first.axes, strict=True)}
        body = substitute(group.expand(t.body), names)
        reads |= {x: None for x in walk(body) if x.op == "read"}
    if any(a.lo is not ZERO or free_vars(a.hi) for a in first.axes):
        raise Unsupported(f"{first.name} has an axis that depends on another")
    found: dict[int, list[Expr]] = {}
    for x in reads:
        n = _turned(x, first.axes)
        if n is not None:
            found.setdefault(n, []).append(x)
    if not found:
        raise Unsupported(f"{first.name} reads nothing with another axis last")
    other = max(found, key=lambda n: len(found[n]))
    return Form(group, first.axes, other, tuple(found[other]))


def _turned(x: Expr, axes: Sequence[OpAxis]) -> int | None:
    """The position of the axis that a read has last, if each of the two moves along one index."""
    _, index, fill = read_parts(x)
    if fill is not None or len(index) < 2 or any(y.op == "read" for i in index for y in walk(i)):
        return None
    last = axes[-1].name
    n = next((n for n, a in enumerate(axes[:-1]) if index[-1] is var(a.name)), None)
    if n is None or [i for i in index if last in free_vars(i)] != [var(last)]:
        return None
    return n if sum(axes[n].name in free_vars(i) for i in index) == 1 else None


@dataclass(frozen=True, slots=True)
class TurnSchedule:
    """Blocks of `rows` along the other axis by `columns` along the last one."""

    rows: int = 64
    columns: int = 64
    vec: int = 16
    stream: bool = False
    threads: str = "static"


def lower(
    name: str, form: Form, memory: Memory, s: TurnSchedule, real: DType
) -> tuple[Kernel, Placement]:
    """One launch over blocks."""
    if s.rows % s.vec or s.columns % s.vec:
        raise Unsupported("blocks are not multiples of the vector")
    return _Emitter(name, form, memory, s, real).blocks()


class _Emitter(Emitter):
    def __init__(self, name: str, form: Form, memory: Memory, s: TurnSchedule, real: DType) -> None:
        super().__init__(form.group, memory, real)
        self.name, self.f, self.s = name, form, s
        self.p, self.q = Axis("p", s.rows), Axis("q", s.columns)
        self.kept: dict[tuple[str, tuple[Expr, ...]], Value] = {}

    def resolve(self, name: str, index: tuple[Expr, ...], mask: Expr) -> Resolved:
        return self.kept.get((name, index)) or super().resolve(name, index, mask)

    def blocks(self) -> tuple[Kernel, Placement]:
        f, s = self.f, self.s
        up, along = f.axes[f.other], f.axes[-1]
        rest = [a for n, a in enumerate(f.axes[:-1]) if n != f.other]
        grid = [cdiv(along.hi, s.columns), cdiv(up.hi, s.rows), *(a.hi for a in rest[:1])]
        self.open(self.name, grid)
        left, top = pid(0) * s.columns, pid(1) * s.rows

        def one(at: dict[Expr, Expr]) -> None:
            whole = call("le", left + s.columns, along.hi) & call("le", top + s.rows, up.hi)
            self.b.branch(
                whole,
                lambda: self.block(at, top, left, True),
                lambda: self.block(at, top, left, False),
            )

        self.over(rest[1:], {var(a.name): pid(2) for a in rest[:1]}, one)
        return self.b.kernel(), Placement(
            axes={"p": ("vec", s.vec), "q": ("vec", s.vec)},
            stream=("out*",) if s.stream else (),
            threads=s.threads,
        )

    def block(self, at: dict[Expr, Expr], top: Expr, left: Expr, whole: bool) -> None:
        f, s = self.f, self.s
        up, along = f.axes[f.other], f.axes[-1]
        scratch: dict[Expr, Buffer] = {}
        for n, x in enumerate(f.turned):
            row = top + self.p.lane
            under = TRUE if whole else call("lt", row, up.hi)

            def copy(
                v: Expr, n: int = n, x: Expr = x, row: Expr = row, under: Expr = under
            ) -> None:
                self.e.enter()
                column = left + v
                mask = under if whole else under & call("lt", column, along.hi)
                here = {**at, var(up.name): row, var(along.name): column}
                held = self.e.value(substitute(x, here), mask)
                if x not in scratch:
                    shape = (const(s.columns), const(s.rows + PAD))
                    scratch[x] = Buffer(f"turned_{n}", "program", held.dtype, shape)
                self.b.store(scratch[x], v, self.p.lane, held)
                self.e.leave()

            self.b.loop("v", ZERO, const(s.columns), 1, (), copy)
        count = const(s.rows) if whole else minimum(s.rows, up.hi - top)
        column = left + self.q.lane
        mask = TRUE if whole else call("lt", column, along.hi)

        def row_of(u: Expr) -> None:
            self.e.enter()
            here = {**at, var(up.name): top + u, var(along.name): column}
            for x in f.turned:
                name, index, _ = read_parts(substitute(x, here))
                self.kept[name, index] = self.b.load(scratch[x], self.q.lane, u)
            for t in f.group.members:
                assert t.body is not None
                index = tuple(here[var(a.name)] for a in f.axes)
                body = substitute(
                    t.body, {var(a.name): i for a, i in zip(t.axes, index, strict=True)}
                )
                buffer = self.memory.of(t.name)
                v = self.e.spread(self.e.value(body, mask), (self.q,))
                self.b.store(buffer, *index, self.b.cast(v, buffer.dtype), mask=mask, name="out")
            self.kept.clear()
            self.e.leave()

        self.b.loop("u", ZERO, count, 1, (), row_of)
