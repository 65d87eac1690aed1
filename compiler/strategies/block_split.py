"""Folds along rows in two launches: every row in several programs, then their states as one.

For few long rows: a program takes every so-manieth block of a row and leaves its state in memory;
the second launch loads the states of a row as lanes and combines them as lanes are combined
anywhere. Where elements of the row are written, its programs split the row again.
"""

from __future__ import annotations

from opwright.compiler.buffers import Memory
from opwright.compiler.evaluate import Unsupported
from opwright.compiler.strategies.block_rows import Made, Rows, RowSchedule
from opwright.compiler.strategies.block_tiles import alignment
from opwright.compiler.strategies.lanes import Analysis
from opwright.ir.dtypes import DType
from opwright.ir.expr import ZERO, Expr, Fold, call, const
from opwright.ir.op import OpAxis, Tensor
from opwright.ir.tile import Axis, Buffer, Kernel, Placement, Value


def lower(name: str, a: Analysis, memory: Memory, s: RowSchedule, real: DType, split: int) -> Made:
    """Two kernels; Unsupported when folds need several passes or the schedule does not fit."""
    if a.row is None or s.persistent:
        raise Unsupported("there is nothing to split")
    if any(a.phase[t.name] for t in a.group.members if t.body is not None and t.body.op == "fold"):
        raise Unsupported("a fold waits for another one")
    emitter = _Split(name, a, memory, s, real, split)
    kernels = [emitter.partial(), emitter.whole()]
    facts = list(dict.fromkeys(emitter.facts))
    if s.aligned:
        op = a.group.normal.op
        facts += alignment((*op.inputs, *op.outputs), 16)
    return kernels, Placement(launch={"num_warps": s.warps, "num_stages": s.stages}), facts


class _Split(Rows):
    def __init__(
        self, name: str, a: Analysis, memory: Memory, s: RowSchedule, real: DType, split: int
    ) -> None:
        super().__init__(name, a, memory, s, real)
        if not self.folds:
            raise Unsupported("there is no fold")
        self.label, self.split = name, split
        self.part: Expr = ZERO
        self.parts: dict[object, list[Buffer]] = {}

    def start_program(self, name: str, split: bool) -> None:
        """A builder whose programs have a tile of rows, or, split, a share of these."""
        self.name, self.known = name, {}
        *outer, last = self.a.shared or (None,)
        rest = [x for x in outer if x is not None]
        part = [OpAxis("@part", ZERO, const(self.split))] if split else []
        self.open([] if last is None else [(last, self.m)], [*part, *rest])
        self.part = self.point["@part"] if split else ZERO
        self.index = [self.point[x.name] for x in self.a.shared]

    def walk(self) -> tuple[Expr, Expr, int]:
        """Every so-manieth block."""
        row = self.a.row
        assert row is not None
        return self.part * self.n.extent, row.hi, self.n.extent * self.split

    def partial(self) -> Kernel:
        self.start_program(f"{self.label}_parts", True)
        views = [self.view(t) for t in self.folds]
        ends = self.sweep(self.folds, views, [])
        shape = tuple(x.hi for x in self.a.shared)
        for t, state in zip(self.folds, ends, strict=True):
            key = self.key(t)
            if key in self.parts:
                continue
            self.parts[key] = [
                Buffer(f"{t.name}_part{k}", "plan", v.dtype, (*shape, const(self.split)))
                for k, v in enumerate(state)
            ]
            for b, v in zip(self.parts[key], state, strict=True):
                self.b.store(b, *self.index, self.part, v, mask=self.mask)
        return self.b.kernel()

    def key(self, t: Tensor) -> object:
        """Equal for folds that carry the same state."""
        assert t.body is not None
        return Fold(t.body).state_key

    def whole(self) -> Kernel:
        rows = [t for t in self.outs if self.a.position[t.name] >= 0]
        self.start_program(self.label, bool(rows))
        self.merge()
        first = call("eq", self.part, 0) if rows else None
        whole = self.mask
        if first is not None:
            self.mask = call("and", whole, first)
        for t in self.folds:
            if self.is_kept(t):
                self.write(t, self.index, self.known[t.name], self.mask)
        for t in self.outs:
            if self.a.position[t.name] < 0:
                self.finish_row(t)
        self.mask = whole
        if rows:
            self.sweep([], [], rows)
        return self.b.kernel()

    def merge(self) -> None:
        """The states of a row's programs as lanes, combined."""
        own, self.n = self.n, Axis("p", self.split)
        done: dict[object, list[Value]] = {}
        for t in self.folds:
            key = self.key(t)
            if key not in done:
                other = None if self.mask.op == "const" else 0
                state = [
                    self.b.load(b, *self.index, self.n.lane, mask=self.mask, other=other)
                    for b in self.parts[key]
                ]
                done[key] = self.combine(t, self.view(t), state)
            self.known[t.name] = self.e.finish(self.view(t), done[key])
        self.n = own
