"""Sums of products over several indices, the column factor read where it lies.

As in a contraction, one factor varies over a result index (the rows) and the other over the last
one (the columns); here the second may be read at shifted places, with a value outside its range,
and packing it would copy every element many times. Only the row factor is packed. Params that
scale the column index may be fixed to a value, which becomes a fact.
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
    """`rows` is a position in the result's axes, its last axis the columns, `batch` the others;
    `scales` are integer params that multiply the column index in a read."""

    group: Group
    result: Tensor
    depth: tuple[OpAxis, ...]
    rows: int
    batch: tuple[int, ...]
    left: Expr
    right: Expr
    epilogue: tuple[Tensor, ...]
    scales: tuple[Expr, ...]


def recognise(group: Group) -> Form:
    """Raises Unsupported with the reason when the group is not such a sum with pointwise
    readers."""
    t, *rest = group.members
    f = sum_of(t)
    if len(f.binders) < 2:
        raise Unsupported(f"{t.name} is no sum over several indices")
    depth = tuple(OpAxis(b, lo, hi) for b, (lo, hi) in zip(f.binders, f.ranges, strict=True))
    p = parts_of(group, t, f)
    check_epilogue(group, t, rest)
    batch = tuple(n for n in range(len(t.axes) - 1) if n != p.rows)
    scales = _scales(p.right, t.axes[-1].name)
    return Form(group, t, depth, p.rows, batch, p.left, p.right, tuple(rest), scales)


def _scales(e: Expr, column: str) -> tuple[Expr, ...]:
    found: dict[Expr, None] = {}
    for x in walk(e):
        if x.op == "mul" and x.kind == "int" and var(column) in x.args:
            found |= {a: None for a in x.args if a.op == "param"}
    return tuple(found)


def fixed(form: Form, values: Mapping[str, int]) -> tuple[Form, list[Expr]]:
    """The form with params at these values, and the facts that say so."""
    at: dict[Expr, Expr] = {p: const(values[p.attr]) for p in form.scales if p.attr in values}
    return replace(form, right=substitute(form.right, at)), [
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
    emitter = _Emitter(name, form, memory, s, real)
    return [emitter.pack(), emitter.multiply()]


class _Emitter(Emitter):
    def __init__(
        self, name: str, form: Form, memory: Memory, s: WindowSchedule, real: DType
    ) -> None:
        super().__init__(form.group, memory, real)
        self.name, self.f, self.s = name, form, s
        t = form.result
        self.axes = t.axes
        self.m, self.n = t.axes[form.rows].hi, t.axes[-1].hi
        over = free_vars(form.left)
        self.shared = [b for b in form.batch if t.axes[b].name in over]
        lead = tuple(t.axes[b].hi for b in self.shared)
        self.groups = cdiv(self.m, s.mr)
        shape = (*lead, self.groups, *(a.hi for a in form.depth), const(s.mr))
        self.packed = Buffer(f"{t.name}_pa", "plan", real, shape)
        self.r, self.c = Axis("r", s.mr), Axis("c", s.nr)

    def value(self, e: Expr, at: Mapping[Expr, Expr], mask: Expr, axis: Axis) -> Value:
        """A factor at a point, 0 outside the mask, over all lanes of the axis."""
        v = self.e.value(substitute(e, at), mask)
        if mask is not TRUE:
            v = self.b.ew("select", self.b.index(mask), v, self.b.full(0.0, self.real))
        return v if axis in v.axes else self.b.ew("add", v, self.b.full(0.0, self.real, axis))

    def pack(self) -> tuple[Kernel, Placement]:
        f, s = self.f, self.s
        lead = [self.axes[b] for b in self.shared]
        first, *rest = f.depth
        self.open(f"{self.name}_pack", [self.groups, first.hi, *(a.hi for a in lead[:1])])
        at = {var(first.name): pid(1)} | {var(a.name): pid(2) for a in lead[:1]}
        row = pid(0) * s.mr + self.r.lane

        def one(at: dict[Expr, Expr]) -> None:
            before = [at[var(a.name)] for a in lead]
            place = [at[var(a.name)] for a in f.depth]

            def copy(mask: Expr) -> None:
                point = {**at, var(self.axes[f.rows].name): row}
                v = self.value(f.left, point, mask, self.r)
                self.b.store(self.packed, *before, pid(0), *place, self.r.lane, v)

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
        column = left + self.c.lane
        inside = call("lt", column, self.n)

        def one(at: dict[Expr, Expr]) -> None:
            def group(g: Expr) -> None:
                whole = call("le", left + s.nr, self.n)
                self.b.branch(
                    whole,
                    lambda: self.tile(at, g, column, TRUE),
                    lambda: self.tile(at, g, column, inside),
                )

            self.b.loop("g", ZERO, self.groups, 1, (), group)

        self.over(batch[2:], at, one)
        place: dict[str, str | tuple[str, int]] = {"r": "unroll", "c": ("vec", s.vec)}
        return self.b.kernel(), Placement(axes=place, deep=("*",), threads=s.threads)

    def tile(self, at: Mapping[Expr, Expr], g: Expr, column: Expr, mask: Expr) -> None:
        """One register tile over the whole depth, then what its readers make of it."""
        f, s = self.f, self.s
        lead = [at[var(self.axes[b].name)] for b in self.shared]
        point = {**at, var(self.axes[-1].name): column}

        def nest(axes: Sequence[OpAxis], here: dict[Expr, Expr], acc: Value) -> list[Value]:
            if not axes:
                y = self.value(f.right, here, mask, self.c)
                place = [here[var(a.name)] for a in f.depth]
                x = self.b.load(self.packed, *lead, g, *place, self.r.lane, name="a")
                return [self.b.ew("fma", x, y, acc)]

            def inner(v: Expr, acc: Value) -> list[Value]:
                self.e.enter()
                out = nest(axes[1:], {**here, var(axes[0].name): v}, acc)
                self.e.leave()
                return out

            return list(self.b.loop(axes[0].name, ZERO, axes[0].hi, 1, [acc], inner))

        (acc,) = nest(f.depth, point, self.b.full(0.0, self.real, self.r, self.c, name="acc"))
        row = g * s.mr + self.r.lane
        under = call("and", call("lt", row, self.m), mask)
        self.b.branch(
            call("le", g * s.mr + s.mr, self.m),
            lambda: self.finish(point, row, acc, mask),
            lambda: self.finish(point, row, acc, under),
        )

    def finish(self, at: Mapping[Expr, Expr], row: Expr, acc: Value, mask: Expr) -> None:
        f, t = self.f, self.f.result
        where = {**at, var(self.axes[f.rows].name): row}
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
            v = self.e.spread(self.e.value(substitute(u.body, point), mask), (self.r, self.c))
            self.b.store(buffer, *index, self.b.cast(v, buffer.dtype), mask=mask)
        del self.held[t.name]
        self.e.leave()
