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
    minimum,
    pid,
    substitute,
    var,
)
from opwright.ir.tile import Axis, Dot, Kernel, Placement, Value, lanes


@dataclass(frozen=True, slots=True)
class DotSchedule:
    """Decisions: tile rows x columns x depth; group: so many tiles of rows share columns before the
    next ones (0: the grid has two dimensions); even: tiles divide their ranges; aligned: rows start
    at full vectors of memory."""

    rows: int = 64
    columns: int = 64
    depth: int = 32
    group: int = 0
    even: bool = False
    aligned: bool = False
    warps: int = 4
    stages: int = 3


def lower(name: str, form: Form, memory: Memory, s: DotSchedule, real: DType) -> Made:
    """One kernel with its placement and facts; Unsupported when the schedule does not fit."""
    if real is not F32:
        raise Unsupported("a dot accumulates in f32")
    emitter = _Dot(name, form, memory, s, real)
    kernel = emitter.kernel()
    facts = list(emitter.facts)
    if s.aligned:
        op = form.group.normal.op
        facts += alignment((*op.inputs, *op.outputs), 16)
    return [kernel], Placement(launch={"num_warps": s.warps, "num_stages": s.stages}), facts


class _Dot(Tiles):
    def __init__(self, name: str, form: Form, memory: Memory, s: DotSchedule, real: DType) -> None:
        super().__init__(name, form.group, memory, real, s.even)
        self.f, self.s = form, s
        self.m, self.n, self.k = Axis("m", s.rows), Axis("n", s.columns), Axis("k", s.depth)

    def kernel(self) -> Kernel:
        f, t = self.f, self.f.result
        batch = [t.axes[n] for n in f.batch]
        rows, columns = t.axes[f.rows], t.axes[f.columns]
        self.open([(rows, self.m), (columns, self.n)], batch)
        if self.s.group:
            self.grouped(rows.hi, columns.hi)
        self.acc: Value | None = None
        start = self.b.full(0.0, F32, self.m, self.n, name="acc")
        self.row, self.col = self.point[rows.name], self.point[columns.name]
        (self.acc,) = self.b.loop("start", ZERO, f.depth.hi, self.k.extent, [start], self.step)
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
