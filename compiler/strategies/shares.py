"""A single folded row in several programs: every one folds a block, one more merges their states.

For operators whose result is one number, which would keep a single thread busy otherwise.
"""

from __future__ import annotations

from opwright.compiler.buffers import Memory
from opwright.compiler.evaluate import Unsupported
from opwright.compiler.strategies.group import is_fold
from opwright.compiler.strategies.lanes import Analysis, Emitter, LaneSchedule
from opwright.ir.dtypes import DType
from opwright.ir.expr import TRUE, ZERO, Expr, call, cdiv, pid
from opwright.ir.tile import Axis, Buffer, Kernel, Placement, Value


def lower(
    name: str, a: Analysis, memory: Memory, s: LaneSchedule, real: DType, block: int
) -> list[tuple[Kernel, Placement]]:
    """Two kernels; Unsupported where there is more than one row, or more than its folds."""
    if a.row is None or a.shared or a.inner:
        raise Unsupported("there is not one row")
    if a.passes != 1 + any(not is_fold(t) for t in a.group.members):
        raise Unsupported("a fold waits for another one")
    if any(p >= 0 for p in a.position.values()):
        raise Unsupported("elements of the row are written")
    if block % s.width:
        raise Unsupported("a block is not made of whole steps")
    emitter = _Shares(name, a, memory, s, real, block)
    parts = emitter.parts()
    placement = emitter.placement()
    return [(parts, placement), (emitter.merged(), Placement())]


class _Shares(Emitter):
    def __init__(
        self, name: str, a: Analysis, memory: Memory, s: LaneSchedule, real: DType, block: int
    ) -> None:
        super().__init__(name, a, memory, s, real)
        self.block, self.label = block, name
        self.buffers: dict[str, list[Buffer]] = {}

    def parts(self) -> Kernel:
        """The states of all blocks; the last one may be short."""
        row = self.a.row
        assert row is not None
        self.name = f"{self.label}_parts"
        count = cdiv(row.hi, self.block)
        self.point = self.open((), (count,))
        base = pid(0) * self.block
        wide = self.axis("c", self.s.width, self.s.vec)
        narrow = self.axis("z", self.s.tail, min(self.s.vec, self.s.tail))

        def fold(axis: Axis, hi: Expr, ragged: bool) -> None:
            self.e.enter()
            states = self.sweep(0, self.folds, [], axis, base, hi, ragged)
            for t, state in zip(self.folds, states, strict=True):
                if t.name not in self.buffers:
                    self.buffers[t.name] = [
                        Buffer(f"{t.name}_part{k}", "plan", v.dtype, (count,))
                        for k, v in enumerate(state)
                    ]
                for b, v in zip(self.buffers[t.name], state, strict=True):
                    self.b.store(b, pid(0), v)
            self.e.leave()

        whole = call("le", base + self.block, row.hi)
        self.b.branch(
            whole,
            lambda: fold(wide, base + self.block, False),
            lambda: fold(narrow, row.hi, True),
        )
        return self.b.kernel()

    def merged(self) -> Kernel:
        """One program that takes the states one after the other."""
        row = self.a.row
        assert row is not None
        self.name = self.label
        self.point = self.open(())
        views = [self.fold_view(t) for t in self.folds]
        counts = [len(f.init) for f in views]
        starts = [self.b.full(i.attr, self.e.dtype(i)) for f in views for i in f.init]

        def body(v: Expr, *flat: Value) -> list[Value]:
            self.e.enter()
            out: list[Value] = []
            carried = list(flat)
            for t, f, count in zip(self.folds, views, counts, strict=True):
                own, carried = tuple(carried[:count]), carried[count:]
                other = tuple(self.b.load(b, v) for b in self.buffers[t.name])
                out += self.merge(f, own, other)
            self.e.leave()
            return out

        final = list(self.b.loop("part", ZERO, cdiv(row.hi, self.block), 1, starts, body))
        for t, f, count in zip(self.folds, views, counts, strict=True):
            own, final = tuple(final[:count]), final[count:]
            self.now.scalars[t.name] = self.e.finish(f, own)
            if t.role == "output" or self.is_kept(t):
                self.write_value(t, self.point, self.now.scalars[t.name], TRUE)
        for t in self.outs:
            self.write(t, self.point, TRUE)
        return self.b.kernel()
