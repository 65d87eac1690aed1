"""Folds and pointwise definitions over one shared index space as tiles of block programs.

A tile has rows (lanes along the last shared axis) and a block along the folded axis. The folded
axis lies in one block (persistent, under a fact) or in a loop, in which every lane carries its own
state; lanes are combined once, after the loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opwright.compiler.buffers import Memory
from opwright.compiler.evaluate import Unsupported
from opwright.compiler.strategies.block_tiles import Tiles, alignment
from opwright.compiler.strategies.group import is_fold
from opwright.compiler.strategies.lanes import Analysis
from opwright.ir.dtypes import BOOL, I64, DType
from opwright.ir.expr import TRUE, ZERO, Expr, Fold, call, conjuncts, substitute, var
from opwright.ir.op import Tensor
from opwright.ir.semantics import ARG_FOLDS, MONOIDS
from opwright.ir.tile import Axis, Kernel, Placement, Value

Made = tuple[list[Kernel], Placement, list[Expr]]  # with the facts that they rely on


@dataclass(frozen=True, slots=True)
class RowSchedule:
    """Decisions: rows and block of a tile; persistent: the folded axis fits the block; even: tiles
    divide their ranges; aligned: rows start at full vectors of memory."""

    rows: int = 1
    block: int = 1024
    persistent: bool = False
    even: bool = False
    aligned: bool = False
    warps: int = 4
    stages: int = 2


def lower(name: str, a: Analysis, memory: Memory, s: RowSchedule, real: DType) -> Made:
    """One kernel with its placement and facts; Unsupported when the schedule does not fit."""
    emitter = Rows(name, a, memory, s, real)
    kernel = emitter.flat() if a.row is None else emitter.folds_kernel()
    facts = list(emitter.facts)
    if s.aligned:
        op = a.group.normal.op
        facts += alignment((*op.inputs, *op.outputs), 16)
    return [kernel], Placement(launch={"num_warps": s.warps, "num_stages": s.stages}), facts


class Rows(Tiles):
    """Emits programs over rows, each with one sweep a pass."""

    def __init__(self, name: str, a: Analysis, memory: Memory, s: RowSchedule, real: DType) -> None:
        super().__init__(name, a.group, memory, real, s.even)
        self.a, self.s = a, s
        self.m = Axis("m", s.rows) if s.rows > 1 else None
        self.n = Axis("n", s.block)
        self.folds = [t for t in a.group.members if is_fold(t) and not a.inner]
        self.outs = [t for t in a.group.members if t not in self.folds and self.is_kept(t)]

    # -- without folds between lanes ---------------------------------------------------------------

    def flat(self) -> Kernel:
        """Tiles of the last one or two axes."""
        *outer, last = self.a.shared or (None,)
        if last is None:
            if self.s.rows > 1 or self.s.even:
                raise Unsupported("a scalar has no tile")
            self.open((), ())
        elif self.m is None or not outer:
            if self.m is not None:
                raise Unsupported("there are no rows")
            self.open([(last, self.n)], outer)
        else:
            *outer, rows = outer
            self.open([(rows, self.m), (last, self.n)], outer)
        if self.a.inner and last is not None:
            self.e.lanes = (self.n,) if self.m is None else (self.m, self.n)
        names = [x.name for x in self.a.shared]
        index = [self.point[n] for n in names]
        for t in self.outs:
            assert t.body is not None
            at = dict(zip((var(x.name) for x in t.axes), index, strict=True))
            self.write(t, index, self.e.value(substitute(t.body, at), self.mask), self.mask)
        return self.b.kernel()

    def resolve(self, name: str, index: tuple[Expr, ...], mask: Expr):  # type: ignore[no-untyped-def]
        if self.a.inner and name not in self.group.earlier:
            from opwright.compiler.strategies.group import inline
            from opwright.ir.expr import read

            t = self.group.normal.tensor(name)
            if t.role != "input":
                return inline(t, read(name, index, t.kind), True)
        return super().resolve(name, index, mask)

    # -- folds -------------------------------------------------------------------------------------

    def folds_kernel(self) -> Kernel:
        row = self.a.row
        assert row is not None
        if self.m is not None and not self.a.shared:
            raise Unsupported("there are no rows")
        *outer, last = self.a.shared or (None,)
        self.open([] if last is None else [(last, self.m)], [x for x in outer if x is not None])
        self.index = [self.point[x.name] for x in self.a.shared]
        if self.s.persistent:
            self.facts.append(call("le", row.hi, self.n.extent))
        for n in range(self.a.passes):
            self.one_pass(n)
        return self.b.kernel()

    def one_pass(self, n: int) -> None:
        """Scalars that are ready, then one sweep of the row."""
        row = self.a.row
        assert row is not None
        position = self.a.position
        now = [t for t in self.outs if self.a.phase[t.name] == n]
        folds = [t for t in self.folds if self.a.phase[t.name] == n]
        rows = [t for t in now if position[t.name] >= 0]
        for t in now:
            if position[t.name] < 0:
                self.finish_row(t)
        views = [self.view(t) for t in folds]
        if self.s.persistent:
            lane = self.n.lane
            masks = [] if self.s.even else [call("lt", lane, row.hi)]
            if self.s.even:
                self.facts.append(call("eq", row.hi, self.n.extent))
            self.b.ragged |= set(masks)
            mask = call("and", self.mask, masks[0]) if masks else self.mask
            live = masks[0] if masks else TRUE
            ends = [
                self.combine(t, f, self.once(f, lane, mask, live))
                for t, f in zip(folds, views, strict=True)
            ]
            self.rows_at(rows, lane, mask)
        else:
            ends = self.sweep(folds, views, rows)
        for t, f, state in zip(folds, views, ends, strict=True):
            self.known[t.name] = self.e.finish(f, state)
            if self.is_kept(t):
                self.write(t, self.index, self.known[t.name], self.mask)

    def view(self, t: Tensor) -> Fold:
        """The member's fold at this program's indices."""
        assert t.body is not None
        at = {var(a.name): i for a, i in zip(t.axes, self.index, strict=True)}
        f = Fold(substitute(t.body, at))
        if any(i.op != "const" for i in f.init) or (f.kind is None and not f.attr.joins):
            raise Unsupported(f"{t.name} has no combination across lanes")
        return f

    def finish_row(self, t: Tensor) -> None:
        assert t.body is not None
        at = {var(a.name): i for a, i in zip(t.axes, self.index, strict=True)}
        self.write(t, self.index, self.e.value(substitute(t.body, at), self.mask), self.mask)

    def rows_at(self, rows: Sequence[Tensor], lane: Expr, mask: Expr) -> None:
        for t in rows:
            assert t.body is not None
            index = list(self.index)
            index.insert(self.a.position[t.name], lane)
            at = {var(a.name): i for a, i in zip(t.axes, index, strict=True)}
            self.write(t, index, self.e.value(substitute(t.body, at), mask), mask)

    def sweep(
        self, folds: Sequence[Tensor], views: Sequence[Fold], rows: Sequence[Tensor]
    ) -> list[list[Value]]:
        """One loop over blocks of the row; each fold's state, combined over the lanes."""
        row = self.a.row
        assert row is not None
        if not views and not rows:
            return []
        distinct = list({f.state_key: f for f in views}.values())
        inits = [self.start(f) for f in distinct]

        def body(v: Expr, *flat: Value) -> list[Value]:
            self.e.enter()
            lane = v + self.n.lane
            masks = self.inside(lane, row.hi, self.n)
            self.b.ragged |= set(masks)
            live = masks[0] if masks else TRUE
            mask = call("and", self.mask, live)
            out: list[Value] = []
            state = list(flat)
            for f, init in zip(distinct, inits, strict=True):
                own, state = state[: len(init)], state[len(init) :]
                out += self.step(f, lane, own, mask, live)
            self.rows_at(rows, lane, mask)
            self.e.leave()
            return out

        flat = [x for i in inits for x in i]
        lo, hi, step = self.walk()
        final = list(self.b.loop("start", lo, hi, step, flat, body))
        ends: dict[object, list[Value]] = {}
        for f, init in zip(distinct, inits, strict=True):
            own, final = final[: len(init)], final[len(init) :]
            t = next(t for t, g in zip(folds, views, strict=True) if g.state_key == f.state_key)
            ends[f.state_key] = self.combine(t, f, own)
        return [ends[f.state_key] for f in views]

    def walk(self) -> tuple[Expr, Expr, int]:
        """Where this program's blocks of the row begin."""
        row = self.a.row
        assert row is not None
        return ZERO, row.hi, self.n.extent

    @property
    def tile(self) -> tuple[Axis, ...]:
        return (self.n,) if self.m is None else (self.m, self.n)

    def neutral(self, f: Fold) -> Value:
        first = f.init[0]
        return self.b.full(first.attr, self.e.dtype(first), *self.tile, name="acc")

    def start(self, f: Fold) -> list[Value]:
        if f.kind is None:
            return [self.b.full(i.attr, self.e.dtype(i), *self.tile, name="acc") for i in f.init]
        if f.kind in ARG_FOLDS:
            # a lane that sees nothing better points at its first element
            first = self.b.index(self.n.lane, name="first")
            return [self.neutral(f), self.e.spread(first, self.tile)]
        return [self.neutral(f)]

    def term(self, f: Fold, lane: Expr, mask: Expr, live: Expr) -> Value:
        """The element that is folded, neutral outside the row and the guard."""
        guard = substitute(f.guard, {var(f.binders[0]): lane})
        under, keep = mask, live
        if guard is not TRUE:
            inside = self.e.index(guard, mask)
            under, keep = call("and", mask, inside), call("and", live, inside)
        v = self.e.value(substitute(f.term, {var(f.binders[0]): lane}), under)
        if keep is not TRUE and not self.is_neutral_outside(f, v, keep):
            v = self.e.pick(self.b.index(keep), v, self.outside(f, v))
        return v

    def is_neutral_outside(self, f: Fold, v: Value, keep: Expr) -> bool:
        """Whether what is loaded outside of a range changes nothing."""
        while v.op == "cast":
            v = v.args[0]
        if v.op != "load" or v.attr.other != f.init[0].attr:
            return False
        return set(conjuncts(keep)) <= set(conjuncts(v.attr.mask))

    def outside(self, f: Fold, v: Value) -> Value:
        return self.b.full(f.init[0].attr, v.dtype)

    def once(self, f: Fold, lane: Expr, mask: Expr, live: Expr) -> list[Value]:
        """The state of lanes that see one element each."""
        if f.kind is None:
            return self.step(f, lane, self.start(f), mask, live)
        v = self.e.spread(self.term(f, lane, mask, live), self.tile)
        if f.kind in ARG_FOLDS:
            return [v, self.e.spread(self.b.index(lane), self.tile)]
        return [v]

    def step(
        self, f: Fold, lane: Expr, state: Sequence[Value], mask: Expr, live: Expr
    ) -> list[Value]:
        if f.kind is None:
            return self.derived(f, lane, state, mask, live)
        v = self.term(f, lane, mask, live)
        b = self.b
        if f.kind in MONOIDS:
            return [b.ew(MONOIDS[str(f.kind)].row, state[0], v)]
        best, at = state
        better = b.ew("lt", best, v) if f.kind == "argmax" else b.ew("lt", v, best)
        if v.dtype.kind == "real":
            fresh = b.ew("and", b.ew("isnan", v), b.ew("not", b.ew("isnan", best)))
            better = b.ew("or", better, fresh)
        return [b.ew("select", better, v, best), b.ew("select", better, b.index(lane), at)]

    def derived(
        self, f: Fold, lane: Expr, state: Sequence[Value], mask: Expr, live: Expr
    ) -> list[Value]:
        """The state of a derived fold after an element of every lane."""
        new = self.e.step(f, {var(f.binders[0]): lane}, state, mask)
        if live is not TRUE:
            keep = self.b.index(live)
            new = tuple(self.e.pick(keep, a, b) for a, b in zip(new, state, strict=True))
        return [self.e.spread(v, self.tile) for v in new]

    def combine(self, t: Tensor, f: Fold, state: Sequence[Value]) -> list[Value]:
        """The states of the lanes of a row as one."""
        b = self.b
        if f.kind is None:
            return list(
                self.e.joined(
                    f, state, lambda m, v: b.reduce(m, self.e.spread(v, self.tile), self.n)
                )
            )
        if f.kind in MONOIDS:
            return [b.reduce(str(f.kind), state[0], self.n, name=t.name)]
        best, at = state
        top = b.reduce(ARG_FOLDS[str(f.kind)], best, self.n, name=f"{t.name}_best")
        hit = b.ew("eq", best, top)
        if best.dtype.kind == "real":
            odd = b.ew("and", b.ew("isnan", best), b.ew("isnan", top))
            hit = b.ew("or", hit, odd)
        where = b.ew("select", hit, at, b.full(2**63 - 1, I64))
        return [top, b.reduce("min", where, self.n, name=t.name)]


__all__ = ["BOOL", "RowSchedule", "lower"]
