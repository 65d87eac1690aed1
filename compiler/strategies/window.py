"""Sums of products over several indices, the column factor read where it lies.

As in a contraction, one factor varies over a result index (the rows) and the other over the last
one (the columns); here the second may be read at shifted places, with a value outside its range,
and packing it would copy every element many times. Only the row factor is packed. Params that
scale the column index, and how far the sum goes, may be fixed to a value, which becomes a fact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from opwright.compiler.buffers import Memory
from opwright.compiler.evaluate import Unsupported
from opwright.compiler.strategies.contraction import check_epilogue, parts_of, sum_of
from opwright.compiler.strategies.emitter import Emitter
from opwright.compiler.strategies.group import Group
from opwright.ir.dtypes import DType
from opwright.ir.expr import (
    ONE,
    TRUE,
    ZERO,
    Expr,
    call,
    cdiv,
    const,
    free_vars,
    pid,
    substitute,
    var,
    walk,
)
from opwright.ir.op import OpAxis, Tensor
from opwright.ir.tile import Axis, Buffer, Kernel, Placement, Value


@dataclass(frozen=True, slots=True)
class Form:
    """`rows` is a position in the result's axes (-1: the first factor varies over none alone), its
    last axis the columns, `batch` the others; `scales` are integer params that multiply an index
    in a read of the second factor, and extents of the sum but for the first."""

    group: Group
    result: Tensor
    depth: tuple[OpAxis, ...]
    rows: int
    batch: tuple[int, ...]
    left: Expr
    right: Expr
    epilogue: tuple[Tensor, ...]
    scales: tuple[Expr, ...]


def recognise(group: Group, rowless: bool = False) -> Form:
    """Raises Unsupported with the reason when the group is not such a sum with pointwise
    readers."""
    t, *rest = group.members
    f = sum_of(t)
    if len(f.binders) < (1 if rowless else 2):
        raise Unsupported(f"{t.name} is no sum over several indices")
    depth = tuple(OpAxis(b, lo, hi) for b, (lo, hi) in zip(f.binders, f.ranges, strict=True))
    p = parts_of(group, t, f, rowless)
    check_epilogue(group, t, rest)
    batch = tuple(n for n in range(len(t.axes) - 1) if n != p.rows)
    scales = (*_scales(p.right), *(a.hi for a in depth[0 if p.rows < 0 else 1 :]))
    scales = tuple(dict.fromkeys(x for x in scales if x.op in ("param", "size")))
    return Form(group, t, depth, p.rows, batch, p.left, p.right, tuple(rest), scales)


def recognise_rowless(group: Group) -> Form:
    """The same where no result index belongs to the first factor alone."""
    form = recognise(group, True)
    if form.rows >= 0:
        raise Unsupported(f"{form.result.name} has rows")
    return form


def _scales(e: Expr) -> tuple[Expr, ...]:
    found: dict[Expr, None] = {}
    for x in walk(e):
        if x.op == "mul" and x.kind == "int" and any(a.op == "var" for a in x.args):
            found |= {a: None for a in x.args if a.op == "param"}
    return tuple(found)


def fixed(form: Form, values: Mapping[str, int]) -> tuple[Form, list[Expr]]:
    """The form with params and extents at these values, and the facts that say so."""
    at: dict[Expr, Expr] = {p: const(values[p.attr]) for p in form.scales if p.attr in values}
    depth = tuple(replace(a, hi=substitute(a.hi, at)) for a in form.depth)
    return replace(form, right=substitute(form.right, at), depth=depth), [
        call("eq", p, v) for p, v in at.items()
    ]


@dataclass(frozen=True, slots=True)
class WindowSchedule:
    """Register tile `mr` rows by `nr` columns of `vec`-wide vectors."""

    mr: int = 8
    nr: int = 32
    vec: int = 16
    threads: str = "dynamic"


def lower(
    name: str, form: Form, memory: Memory, s: WindowSchedule, real: DType
) -> list[tuple[Kernel, Placement]]:
    """Two launches: pack the row factor by groups of rows; then register tiles."""
    if s.nr % s.vec:
        raise Unsupported("the tile is not a multiple of the vector")
    emitter = WindowEmitter(name, form, memory, s, real)
    return [emitter.pack(), emitter.multiply()]


class WindowEmitter(Emitter):
    """Packs the row factor; register tiles read the other one where it lies."""

    def __init__(
        self, name: str, form: Form, memory: Memory, s: WindowSchedule, real: DType
    ) -> None:
        super().__init__(form.group, memory, real)
        self.name, self.f, self.s = name, form, s
        t = form.result
        self.axes = t.axes
        self.m, self.n = t.axes[form.rows].hi if form.rows >= 0 else ONE, t.axes[-1].hi
        over = free_vars(form.left)
        self.shared = [b for b in form.batch if t.axes[b].name in over]
        lead = tuple(t.axes[b].hi for b in self.shared)
        self.groups = cdiv(self.m, s.mr)
        shape = (*lead, self.groups, *(a.hi for a in form.depth), const(s.mr))
        self.packed = Buffer(f"{t.name}_pa", "plan", real, shape)
        self.r, self.c = Axis("r", s.mr), Axis("c", s.nr)
        self.one = self.r.lane if form.rows >= 0 else ZERO
        self.both = (self.r, self.c) if form.rows >= 0 else (self.c,)

    def value(self, e: Expr, at: Mapping[Expr, Expr], mask: Expr, *axes: Axis) -> Value:
        """A factor at a point, 0 outside the mask, over all lanes of the axes."""
        v = self.e.value(substitute(e, at), mask)
        if mask is not TRUE:
            v = self.b.ew("select", self.b.index(mask), v, self.b.full(0.0, self.real))
        return self.e.spread(v, axes)

    def with_row(self, at: Mapping[Expr, Expr], row: Expr) -> dict[Expr, Expr]:
        """A point with the index of the rows, if there is one."""
        return {**at, var(self.axes[self.f.rows].name): row} if self.f.rows >= 0 else {**at}

    def pack(self) -> tuple[Kernel, Placement]:
        f, s = self.f, self.s
        lead = [self.axes[b] for b in self.shared]
        first, *rest = f.depth
        self.open(f"{self.name}_pack", [self.groups, first.hi, *(a.hi for a in lead[:1])])
        at = {var(first.name): pid(1)} | {var(a.name): pid(2) for a in lead[:1]}
        row = pid(0) * s.mr + self.one

        def one(at: dict[Expr, Expr]) -> None:
            before = [at[var(a.name)] for a in lead]
            place = [at[var(a.name)] for a in f.depth]

            def copy(mask: Expr) -> None:
                point = self.with_row(at, row)
                v = self.value(f.left, point, mask, *self.both[:-1])
                self.b.store(self.packed, *before, pid(0), *place, self.one, v)

            whole = call("le", pid(0) * s.mr + s.mr, self.m)
            inside = call("lt", row, self.m)
            self.b.branch(whole, lambda: copy(TRUE), lambda: copy(inside))

        self.over([*lead[1:], *rest], at, one)
        return self.b.kernel(), Placement(axes={"r": "unroll"})

    def multiply(self) -> tuple[Kernel, Placement]:
        f, s = self.f, self.s
        batch = [self.axes[b] for b in f.batch]
        self.open(self.name, [cdiv(self.n, s.nr), *(a.hi for a in batch[:2])])
        at = {var(a.name): pid(1 + n) for n, a in enumerate(batch[:2])}
        left = pid(0) * s.nr

        def one(at: dict[Expr, Expr]) -> None:
            self.b.loop("g", ZERO, self.groups, 1, (), lambda g: self.tiles(at, g, left))

        self.over(batch[2:], at, one)
        place: dict[str, str | tuple[str, int]] = {"r": "unroll", "c": ("vec", s.vec)}
        return self.b.kernel(), Placement(axes=place, deep=("*",), threads=s.threads)

    def tiles(self, at: Mapping[Expr, Expr], g: Expr, left: Expr) -> None:
        """The tiles of one group of rows."""
        column = left + self.c.lane
        inside = call("lt", column, self.n)

        def tile(mask: Expr) -> None:
            point = {**at, var(self.axes[-1].name): column}
            acc = self.summed(point, g, mask)
            row = g * self.s.mr + self.one
            under = call("and", call("lt", row, self.m), mask)
            self.b.branch(
                call("le", g * self.s.mr + self.s.mr, self.m),
                lambda: self.finish(point, row, acc, mask),
                lambda: self.finish(point, row, acc, under),
            )

        whole = call("le", left + self.s.nr, self.n)
        self.b.branch(whole, lambda: tile(TRUE), lambda: tile(inside))

    def second(self, here: Mapping[Expr, Expr], mask: Expr) -> Value:
        """The column factor at a point, for all columns of a tile."""
        return self.value(self.f.right, here, mask, self.c)

    def summed(self, point: Mapping[Expr, Expr], g: Expr, mask: Expr) -> Value:
        """One register tile over the whole depth."""
        f = self.f
        lead = [point[var(self.axes[b].name)] for b in self.shared]

        def nest(axes: Sequence[OpAxis], here: Mapping[Expr, Expr], acc: Value) -> list[Value]:
            if not axes:
                place = [here[var(a.name)] for a in f.depth]
                x = self.b.load(self.packed, *lead, g, *place, self.one, name="a")
                y = self.second(here, mask)
                return [self.b.ew("fma", x, y, acc)]

            def inner(v: Expr, acc: Value) -> list[Value]:
                self.e.enter()
                out = nest(axes[1:], {**here, var(axes[0].name): v}, acc)
                self.e.leave()
                return out

            return list(self.b.loop(axes[0].name, ZERO, axes[0].hi, 1, [acc], inner))

        (acc,) = nest(f.depth, point, self.b.full(0.0, self.real, *self.both, name="acc"))
        return acc

    def finish(self, at: Mapping[Expr, Expr], row: Expr, acc: Value, mask: Expr) -> None:
        f, t = self.f, self.f.result
        where = self.with_row(at, row)
        index = [where[var(a.name)] for a in t.axes]
        self.e.enter()
        self.held[t.name] = acc
        if t.role == "output" or t.name in self.memory.kept:
            buffer = self.memory.of(t.name)
            self.b.store(buffer, *index, self.b.cast(acc, buffer.dtype), mask=mask)
        for u in f.epilogue:
            assert u.body is not None
            point = {var(a.name): x for a, x in zip(u.axes, index, strict=True)}
            buffer = self.memory.of(u.name)
            v = self.e.spread(self.e.value(substitute(u.body, point), mask), self.both)
            self.b.store(buffer, *index, self.b.cast(v, buffer.dtype), mask=mask)
        del self.held[t.name]
        self.e.leave()
