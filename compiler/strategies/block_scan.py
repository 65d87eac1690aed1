"""Prefix folds as blockwise scans: a scan of each block, joined with what came before it."""

from __future__ import annotations

from dataclasses import dataclass

from opwright.compiler.buffers import Memory
from opwright.compiler.evaluate import Unsupported
from opwright.compiler.strategies.block_rows import Made
from opwright.compiler.strategies.block_tiles import Tiles, alignment
from opwright.compiler.strategies.fallback import scan_of
from opwright.compiler.strategies.group import Group
from opwright.ir.dtypes import DType
from opwright.ir.expr import TRUE, ZERO, Expr, Fold, call, free_vars, substitute, var, walk
from opwright.ir.op import OpAxis, Tensor
from opwright.ir.semantics import MONOIDS
from opwright.ir.tile import Axis, Kernel, Placement, Scan, Value


@dataclass(frozen=True, slots=True)
class Form:
    """The recognised form: `tensor[.., i, ..]` folds a plain monoid over the elements before i."""

    group: Group
    tensor: Tensor
    axis: int
    reverse: bool
    inclusive: bool


def recognise(group: Group) -> Form:
    """Raises Unsupported with the reason when the group is not one prefix fold."""
    (t, *rest) = group.members
    found = scan_of(t)
    if rest or found is None or t.body is None:
        raise Unsupported(f"{t.name} is no prefix fold by itself")
    f = Fold(t.body)
    if f.kind not in MONOIDS or t.kind == "bool":
        raise Unsupported(f"{t.name} is no prefix fold of a plain reduction")
    own = {a.name for a in t.axes} | {b for b in f.binders}
    for a in t.axes:
        if a.lo is not ZERO or free_vars(a.hi) & own:
            raise Unsupported(f"{t.name} has an axis that depends on another")
    if any(x.op == "fold" for x in walk(group.expand(f.term))):
        raise Unsupported(f"{t.name} holds a fold inside another")
    return Form(group, t, found.axis, found.reverse, found.inclusive)


@dataclass(frozen=True, slots=True)
class ScanSchedule:
    """Decisions: rows and block of a tile; even: tiles divide their ranges; aligned: rows start at
    full vectors of memory."""

    rows: int = 1
    block: int = 1024
    even: bool = False
    aligned: bool = False
    warps: int = 4
    stages: int = 2


def lower(name: str, form: Form, memory: Memory, s: ScanSchedule, real: DType) -> Made:
    """One kernel with its placement and facts; Unsupported when the schedule does not fit."""
    emitter = _Blocks(name, form, memory, s, real)
    kernel = emitter.kernel()
    facts = list(emitter.facts)
    if s.aligned:
        op = form.group.normal.op
        facts += alignment((*op.inputs, *op.outputs), 16)
    return [kernel], Placement(launch={"num_warps": s.warps, "num_stages": s.stages}), facts


class _Blocks(Tiles):
    def __init__(self, name: str, form: Form, memory: Memory, s: ScanSchedule, real: DType) -> None:
        super().__init__(name, form.group, memory, real, s.even)
        self.form, self.s = form, s
        self.m = Axis("m", s.rows) if s.rows > 1 else None
        self.n = Axis("n", s.block)

    def kernel(self) -> Kernel:
        t, form = self.form.tensor, self.form
        along = t.axes[form.axis]
        others = [a for k, a in enumerate(t.axes) if k != form.axis]
        if self.m is not None and not others:
            raise Unsupported("there are no rows")
        *outer, last = others or (None,)
        self.open([] if last is None else [(last, self.m)], [x for x in outer if x is not None])
        self.b.loop("start", ZERO, along.hi, self.n.extent, [self.before()], self.block(along))
        return self.b.kernel()

    def before(self) -> Value:
        f = Fold(self.form.tensor.body)  # type: ignore[arg-type]
        first = f.init[0]
        own = () if self.m is None else (self.m,)
        return self.b.full(first.attr, self.e.dtype(first), *own, name="before")

    def block(self, along: OpAxis):  # type: ignore[no-untyped-def]
        t, form = self.form.tensor, self.form
        assert t.body is not None
        at = {var(a.name): self.point[a.name] for a in t.axes if a is not along}
        f = Fold(substitute(t.body, at))
        monoid, tile = str(f.kind), (self.n,) if self.m is None else (self.m, self.n)

        def body(v: Expr, before: Value) -> list[Value]:
            self.e.enter()
            lane = v + self.n.lane
            masks = self.inside(lane, along.hi, self.n)
            self.b.ragged |= set(masks)
            live = masks[0] if masks else TRUE
            mask = call("and", self.mask, live)
            place = along.hi - 1 - lane if form.reverse else lane
            # what a position adds: its own element, or the one that precedes it
            source, has = place, live
            if not form.inclusive:
                source = place + 1 if form.reverse else place - 1
                ahead = call("lt", source, along.hi) if form.reverse else call("le", 0, source)
                has = call("and", live, ahead)
            here = {var(f.binders[0]): source}
            if f.guard is not TRUE:
                under = call("and", self.mask, has)
                has = call("and", has, self.e.index(substitute(f.guard, here), under))
            term = self.e.value(substitute(f.term, here), call("and", self.mask, has))
            if has is not TRUE:
                term = self.e.pick(self.b.index(has), term, self.b.full(f.init[0].attr, term.dtype))
            term = self.e.spread(term, tile)
            row = MONOIDS[monoid].row
            shown = self.b.ew(row, before, self.b.scan(term, Scan(monoid, self.n), name="running"))
            index = [place if a is along else self.point[a.name] for a in t.axes]
            self.write(t, index, self.e.finish(f, [shown]), mask)
            after = self.b.ew(row, before, self.b.reduce(monoid, term, self.n, name="total"))
            self.e.leave()
            return [after]

        return body
