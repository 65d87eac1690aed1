"""Sums of products as tiles of block programs: a loop over the depth that feeds a dot, with any
pointwise prologue on the factors and any pointwise epilogue on the accumulator."""

from __future__ import annotations

from dataclasses import dataclass

from opwright.compiler.buffers import Memory
from opwright.compiler.evaluate import Resolved, Unsupported
from opwright.compiler.strategies.block_rows import Made
from opwright.compiler.strategies.block_tiles import SMALL_GRID, Tiles, alignment
from opwright.compiler.strategies.contraction import Form
from opwright.ir.dtypes import F32, DType
from opwright.ir.expr import (
    TRUE,
    ZERO,
    Expr,
    call,
    cdiv,
    conjuncts,
    const,
    minimum,
    pid,
    substitute,
    var,
)
from opwright.ir.op import OpAxis
from opwright.ir.tile import Axis, Buffer, Dot, Kernel, Placement, Value, lanes


@dataclass(frozen=True, slots=True)
class DotSchedule:
    """Decisions: tile rows x columns x depth; group: so many tiles of rows share columns before the
    next ones (0: the grid has two dimensions); split: so many programs share a depth, and a second
    kernel adds their sums; even: tiles divide their ranges; aligned: rows start
    at full vectors of memory."""

    rows: int = 64
    columns: int = 64
    depth: int = 32
    group: int = 0
    even: bool = False
    aligned: bool = False
    warps: int = 4
    stages: int = 3
    split: int = 1


def lower(name: str, form: Form, memory: Memory, s: DotSchedule, real: DType) -> Made:
    """One kernel with its placement and facts; Unsupported when the schedule does not fit."""
    if real is not F32:
        raise Unsupported("a dot accumulates in f32")
    emitter = _Dot(name, form, memory, s, real)
    kernels = [emitter.kernel()] if s.split == 1 else [emitter.partial(), emitter.whole()]
    facts = list(dict.fromkeys(emitter.facts))
    if s.aligned:
        op = form.group.normal.op
        facts += alignment((*op.inputs, *op.outputs), 16)
    return kernels, Placement(launch={"num_warps": s.warps, "num_stages": s.stages}), facts


class _Dot(Tiles):
    def __init__(self, name: str, form: Form, memory: Memory, s: DotSchedule, real: DType) -> None:
        super().__init__(name, form.group, memory, real, s.even)
        self.f, self.s = form, s
        self.m, self.n, self.k = Axis("m", s.rows), Axis("n", s.columns), Axis("k", s.depth)
        self.acc: Value | None = None

    def kernel(self) -> Kernel:
        self.start_program([])
        self.products(ZERO, self.k.extent)
        self.finish()
        return self.b.kernel()

    def start_program(self, share: list[OpAxis]) -> None:
        """A builder whose programs have a tile of the result, or a share of its depth."""
        f, t = self.f, self.f.result
        batch = [t.axes[n] for n in f.batch]
        rows, columns = t.axes[f.rows], t.axes[f.columns]
        self.known, self.acc = {}, None
        self.open([(rows, self.m), (columns, self.n)], [*share, *batch])
        if self.s.group:
            self.grouped(rows.hi, columns.hi)
        self.row, self.col = self.point[rows.name], self.point[columns.name]

    def products(self, first: Expr, step: int) -> None:
        """The sum of the products of this program's part of the depth."""
        start = self.b.full(0.0, F32, self.m, self.n, name="acc")
        made = self.b.loop("start", first, self.f.depth.hi, step, [start], self.step)
        (self.acc,) = made

    def partial(self) -> Kernel:
        """Every program takes every so-manieth tile of the depth and leaves its sum in memory."""
        t, split = self.f.result, self.s.split
        label, self.name = self.name, f"{self.name}_parts"
        self.start_program([OpAxis("@part", ZERO, const(split))])
        part = self.point["@part"]
        self.products(part * self.k.extent, self.k.extent * split)
        assert self.acc is not None
        shape = (*(a.hi for a in t.axes), const(split))
        self.parts = Buffer(f"{t.name}_parts", "plan", F32, shape)
        at = [self.point[a.name] for a in t.axes]
        self.b.store(self.parts, *at, part, self.acc, mask=self.mask)
        self.name = label
        return self.b.kernel()

    def whole(self) -> Kernel:
        """The sums of a tile's programs added, one after the other."""
        self.start_program([])
        at = [self.point[a.name] for a in self.f.result.axes]
        other = None if self.mask is TRUE else 0.0

        def step(part: Expr, acc: Value) -> list[Value]:
            made = self.b.load(self.parts, *at, part, mask=self.mask, other=other)
            return [self.b.ew("add", acc, made)]

        start = self.b.full(0.0, F32, self.m, self.n, name="acc")
        (self.acc,) = self.b.loop("part", ZERO, const(self.s.split), 1, [start], step)
        self.finish()
        return self.b.kernel()

    def grouped(self, rows: Expr, columns: Expr) -> None:
        """One dimension for both kinds of tiles: `group` rows of tiles, column by column."""
        t, f = self.f.result, self.f
        down, across = cdiv(rows, self.m.extent), cdiv(columns, self.n.extent)
        width = self.s.group * across
        first = pid(0) // width * self.s.group
        here = minimum(down - first, self.s.group)
        row = first + pid(0) % width % here
        col = pid(0) % width // here
        at = dict(self.point)
        at[t.axes[f.rows].name] = row * self.m.extent + self.m.lane
        at[t.axes[f.columns].name] = col * self.n.extent + self.n.lane
        grid = (down * across, *self.b.grid[2:])
        shift = {pid(n): pid(n - 1) for n in range(2, len(self.b.grid))}
        self.facts = [x for x in self.facts if not (x.op == "le" and x.args[1].attr == SMALL_GRID)]
        self.facts += [call("le", d, SMALL_GRID) for d in grid[1:]]
        masks: list[Expr] = []
        if not self.even:
            masks = [
                call("lt", at[t.axes[f.rows].name], rows),
                call("lt", at[t.axes[f.columns].name], columns),
            ]
        self.point = {n: substitute(e, shift) if e is self.point[n] else e for n, e in at.items()}
        self.b.grid = grid
        self.b.ragged = set(masks)
        self.mask = call("and", masks[0], masks[1]) if masks else TRUE
        for a in t.axes:
            if not lanes(self.point[a.name]):
                self.b.ranges[self.point[a.name]] = ZERO, a.hi

    def step(self, v: Expr, acc: Value) -> list[Value]:
        f, b = self.f, self.b
        self.e.enter()
        depth = v + self.k.lane
        masks = self.inside(depth, f.depth.hi, self.k)
        b.ragged |= set(masks)
        live = masks[0] if masks else TRUE
        mask = call("and", self.mask, live)
        left = self.factor(f.left, depth, mask, live, (self.m, self.k))
        right = self.factor(f.right, depth, mask, live, (self.k, self.n))
        one, two = self.narrow(left), self.narrow(right)
        if one.dtype == two.dtype:
            left, right = one, two
        made = b.dot(left, right, Dot(self.k), F32)
        out = b.ew("add", acc, made)
        self.e.leave()
        return [out]

    def factor(
        self, e: Expr, depth: Expr, mask: Expr, live: Expr, axes: tuple[Axis, Axis]
    ) -> Value:
        """A factor over its two axes; 0 past the end of the depth."""
        at = {var(a.name): self.point[a.name] for a in self.f.result.axes}
        v = self.e.value(substitute(e, {**at, var(self.f.depth.name): depth}), mask)
        if set(v.axes) != set(axes):
            raise Unsupported("a factor does not vary over its rows and the depth")
        if live is not TRUE and not _zero_outside(v, live):
            v = self.b.ew("select", self.b.index(live), v, self.b.full(0.0, v.dtype))
        return v

    def narrow(self, v: Value) -> Value:
        """What a factor was before it was widened: its products are exact in f32."""
        if v.op == "cast" and v.args[0].dtype.name in ("bf16", "f16"):
            return v.args[0]
        return v

    def resolve(self, name: str, index: tuple[Expr, ...], mask: Expr) -> Resolved:
        if self.acc is not None and name == self.f.result.name:
            return self.acc
        return super().resolve(name, index, mask)

    def finish(self) -> None:
        """Store the result, or what its pointwise readers make of it."""
        f, t = self.f, self.f.result
        assert self.acc is not None
        index = [self.point[a.name] for a in t.axes]
        if self.is_kept(t):
            self.write(t, index, self.acc, self.mask)
        for u in f.epilogue:
            assert u.body is not None
            point = {var(a.name): x for a, x in zip(u.axes, index, strict=True)}
            v = self.e.value(substitute(u.body, point), self.mask)
            self.write(u, index, self.spread(v), self.mask)

    def spread(self, v: Value) -> Value:
        return self.e.spread(v, (self.m, self.n))


def _zero_outside(v: Value, live: Expr) -> bool:
    """Whether lanes outside of `live` hold 0 already, as masked loads do."""
    while v.op == "cast":
        v = v.args[0]
    return v.op == "load" and v.attr.other == 0 and live in conjuncts(v.attr.mask)
