"""One pass over blocks of contracted entries as block programs.

A program has a tile of rows and walks over blocks of the folded axis. The entries of a block are
contracted where they are used and are never in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from opwright.compiler.buffers import Memory
from opwright.compiler.cascade.streams import NEW, Entry, state
from opwright.compiler.evaluate import Resolved, Unsupported
from opwright.compiler.strategies import contraction
from opwright.compiler.strategies.block_rows import Made
from opwright.compiler.strategies.block_tiles import Tiles, alignment
from opwright.compiler.strategies.streams import Form, column_of, split
from opwright.ir.dtypes import F32, DType
from opwright.ir.expr import (
    TRUE,
    ZERO,
    Expr,
    call,
    conjuncts,
    const,
    free_vars,
    leaf,
    maximum,
    minimum,
    neutral,
    read_parts,
    rebuild,
    substitute,
    var,
    walk,
)
from opwright.ir.op import OpAxis, Tensor
from opwright.ir.semantics import MONOIDS
from opwright.ir.tile import Axis, Buffer, Dot, Kernel, Placement, Value, lanes


@dataclass(frozen=True, slots=True)
class StreamSchedule:
    """Decisions: rows of a tile and elements of a block; hold: an extent that every depth and every
    result's columns fit into (a fact), or with even that they have; split: programs that share the
    walk of a tile, whose states a second kernel merges; narrow: what is made in a block is rounded
    to the type of the factor that it is multiplied with, where that is narrower; aligned: rows
    start at full vectors of memory."""

    rows: int = 64
    block: int = 64
    hold: int = 64
    split: int = 1
    narrow: bool = False
    even: bool = False
    aligned: bool = False
    warps: int = 4
    stages: int = 2


def lower(name: str, form: Form, memory: Memory, s: StreamSchedule, real: DType) -> Made:
    """One kernel, or two of a walk that is split, with placement and facts; Unsupported when the
    schedule does not fit."""
    if real is not F32:
        raise Unsupported("a contraction accumulates in f32")
    emitter = _Stream(name, form, memory, s, real)
    kernels = [emitter.kernel()] if s.split == 1 else [emitter.partial(), emitter.merged()]
    facts = list(dict.fromkeys(emitter.facts))
    if s.aligned:
        op = form.group.normal.op
        facts += alignment((*op.inputs, *op.outputs), 16)
    return kernels, Placement(launch={"num_warps": s.warps, "num_stages": s.stages}), facts


@dataclass(slots=True)
class _Held:
    """A range that lies in one tile, with the condition of its lanes."""

    axis: Axis
    inside: Expr


@dataclass(slots=True)
class _Block:
    """Where the walk is."""

    at: Expr = ZERO
    inside: Expr = TRUE
    entries: dict[str, Value] = field(default_factory=dict)
    chosen: dict[tuple[Expr, Value, float], Value] = field(default_factory=dict)


class _Stream(Tiles):
    def __init__(
        self, name: str, form: Form, memory: Memory, s: StreamSchedule, real: DType
    ) -> None:
        super().__init__(name, form.group, memory, real, False)
        self.f, self.s = form, s
        self.m, self.n = Axis("m", s.rows), Axis("n", s.block)
        self.held: dict[Expr, _Held] = {}
        self.fixed: dict[str, Value] = {}  # factors over rows, by entry tensor
        self.block = _Block()
        self.states: dict[Expr, Expr] = {}

    def kernel(self) -> Kernel:
        self.begin(self.name, 1)
        self.finish(self.walk())
        return self.b.kernel()

    def begin(self, name: str, split: int) -> None:
        """A builder at a tile of rows, in `split` programs each."""
        outer = [a for a in self.f.shared if a is not self.f.rows]
        part = [OpAxis("@part", ZERO, const(split))] if split > 1 else []
        self.name, self.known, self.states = name, {}, {}
        self.open([(self.f.rows, self.m)], [*part, *outer])
        self.part = self.point["@part"] if split > 1 else ZERO
        self.rows = self.mask
        self.index = [self.point[a.name] for a in self.f.shared]
        self.here: dict[Expr, Expr] = {var(a.name): self.point[a.name] for a in self.f.shared}
        for c in self.f.columns.values():
            self.here[var(column_of(c))] = self.hold(c.hi).axis.lane

    def walk(self) -> tuple[Value, ...]:
        """The final state of the rows."""
        self.fixed = {}
        self.shares = {e.name: e.share for e in self.f.entries}
        self.reach = self.reached()
        self.guards = {e.name: call("and", self.reach, e.guard) for e in self.f.entries}
        starts = [self.b.full(e.start, F32, *self.axes(e), name="acc") for e in self.f.entries]
        return self.walks(self.f.outer, starts)

    def walks(self, outer: Sequence[OpAxis], starts: Sequence[Value]) -> tuple[Value, ...]:
        """The state after a walk for every index of the outer axes."""
        self.settle([a.name for a in outer])
        if not outer:
            return self.one_walk(starts)
        axis, *rest = outer
        kept = self.fixed, self.shares, self.guards
        lo, hi = (self.e.index(substitute(x, self.here), TRUE) for x in (axis.lo, axis.hi))
        if lanes(lo, hi):
            raise Unsupported("a range differs from lane to lane")

        def body(v: Expr, *carried: Value) -> tuple[Value, ...]:
            self.e.enter()
            self.here[var(axis.name)] = v
            self.fixed, self.shares, self.guards = (dict(kept[0]), dict(kept[1]), dict(kept[2]))
            out = self.walks(rest, carried)
            self.e.leave()
            return out

        return self.b.loop(axis.name, lo, hi, 1, starts, body)

    def settle(self, later: Sequence[str]) -> None:
        """Evaluate what the walks ahead do not change; `later` are indices that are still open."""
        for name, inner in self.f.inner.items():
            over = {n for i in self.f.index_of(name) for n in free_vars(i)}
            if name not in self.fixed and not over & set(later):
                self.fixed[name] = self.row_factor(name, inner)
        moving = {self.f.walked.name, *later}
        self.shares = {n: self.settled(e, moving) for n, e in self.shares.items()}
        self.guards = {n: self.settled(e, moving) for n, e in self.guards.items()}

    def one_walk(self, starts: Sequence[Value]) -> tuple[Value, ...]:
        """The state after the blocks of one walk."""
        lo, hi = self.ends()
        step = self.n.extent
        if self.s.split > 1:
            lo, step = lo + self.part * step, self.s.split * step
        return self.b.loop("start", lo, hi, step, starts, self.step)

    # -- a walk that several programs share --------------------------------------------------------

    def partial(self) -> Kernel:
        """Every program takes every so-manieth block, and its state goes to memory."""
        self.begin(f"{self.name}_parts", self.s.split)
        for e, v, b in zip(self.f.entries, self.walk(), self.parts(), strict=True):
            self.b.store(b, *self.place(e), v, mask=self.inside_of(e))
        return self.b.kernel()

    def parts(self) -> list[Buffer]:
        out = []
        for e in self.f.entries:
            shape = [*(a.hi for a in self.f.shared), const(self.s.split)]
            owner = self.f.owner.get(e.name)
            shape += [] if owner is None else [self.f.columns[owner].hi]
            out.append(Buffer(f"{e.name}_part", "plan", F32, tuple(shape)))
        return out

    def place(self, e: Entry) -> list[Expr]:
        """Where this part of an entry lies."""
        owner = self.f.owner.get(e.name)
        own = [] if owner is None else [self.here[var(column_of(self.f.columns[owner]))]]
        return [*self.index, self.part, *own]

    def inside_of(self, e: Entry) -> Expr:
        owner = self.f.owner.get(e.name)
        held = TRUE if owner is None else self.hold(self.f.columns[owner].hi).inside
        return call("and", self.rows, held)

    def merged(self) -> Kernel:
        """The parts of a tile one after the other: both sides move to the anchors of both."""
        self.begin(self.name.removesuffix("_parts"), 1)
        starts = [self.b.full(e.start, F32, *self.axes(e), name="acc") for e in self.f.entries]
        final = self.b.loop("part", ZERO, const(self.s.split), 1, starts, self.merge)
        self.finish(final)
        return self.b.kernel()

    def merge(self, part: Expr, *carried: Value) -> list[Value]:
        b, self.part = self.b, part
        self.e.enter()
        sides: list[dict[Expr, Expr]] = [{}, {}]
        for e, old, buffer in zip(self.f.entries, carried, self.parts(), strict=True):
            mask = self.inside_of(e)
            other = b.load(buffer, *self.place(e), mask=mask, other=None if mask is TRUE else 0)
            for side, v in zip(sides, (old, other), strict=True):
                side[state(e.name)] = leaf("value", v, "real")
        new: dict[Expr, Expr] = {}
        out = []
        for e in self.f.entries:
            moved = []
            for side in sides:
                self.states = {**side, **new}
                kept = state(e.name) if e.carried is None else e.carried
                moved.append(self.e.spread(self.placed(kept, self.here), self.axes(e)))
            out.append(b.ew(MONOIDS[e.monoid].row, *moved))
            new[state(e.name + NEW)] = leaf("value", out[-1], "real")
        self.e.leave()
        return out

    def hold(self, hi: Expr) -> _Held:
        """The lanes of a range that fits into one tile, by a fact."""
        if hi not in self.held:
            axis = Axis(f"d{len(self.held)}", self.s.hold)
            fits = call("eq" if self.s.even else "le", hi, self.s.hold)
            if hi.op != "const":
                self.facts.append(fits)
            elif (hi.attr != self.s.hold) if self.s.even else (hi.attr > self.s.hold):
                raise Unsupported("a range does not fit")
            inside = TRUE if self.s.even else call("lt", axis.lane, hi)
            self.b.ragged |= set(conjuncts(inside))
            self.held[hi] = _Held(axis, inside)
        return self.held[hi]

    def axes(self, e: Entry) -> tuple[Axis, ...]:
        owner = self.f.owner.get(e.name)
        if owner is None:
            return (self.m,)
        return (self.m, self.hold(self.f.columns[owner].hi).axis)

    # -- entries -----------------------------------------------------------------------------------

    def places(self, name: str) -> tuple[dict[Expr, Expr], bool]:
        """What the axes of an entry are in the first fold's terms, and whether the walk is over
        its columns."""
        index = self.f.index_of(name)
        c = self.f.inner[name]
        at = {var(a.name): i for a, i in zip(c.result.axes, index, strict=True)}
        walked, rows = var(self.f.walked.name), var(self.f.rows.name)
        by_columns = index[c.columns] is walked and index[c.rows] is rows
        if not by_columns and not (index[c.rows] is walked and index[c.columns] is rows):
            raise Unsupported(f"{name} is read along other axes")
        return at, by_columns

    def row_factor(self, name: str, c: contraction.Form) -> Value:
        """The factor of an entry that stays for the whole walk."""
        at, by_columns = self.places(name)
        held = self.hold(c.depth.hi)
        e = substitute(c.left if by_columns else c.right, at)
        return self.factor(e, c, held, self.here, call("and", self.rows, held.inside), self.m)

    def factor(
        self,
        e: Expr,
        c: contraction.Form,
        held: _Held,
        here: Mapping[Expr, Expr],
        mask: Expr,
        other: Axis,
    ) -> Value:
        e = substitute(e, {**here, var(c.depth.name): held.axis.lane})
        v = self.e.value(e, mask)
        if set(v.axes) != {other, held.axis}:
            raise Unsupported("a factor does not vary over its rows and the depth")
        return self.zero_outside(v, held.inside)

    def zero_outside(self, v: Value, inside: Expr) -> Value:
        """The value, 0 in lanes outside, as masked loads have it already."""
        if inside is TRUE or _zero_outside(v, inside):
            return v
        return self.b.ew("select", self.b.index(inside), v, self.b.full(0.0, v.dtype))

    def entry(self, name: str) -> Value:
        """The tile of a contraction at this block."""
        if name not in self.block.entries:
            c = self.f.inner[name]
            at, by_columns = self.places(name)
            held = self.hold(c.depth.hi)
            e = substitute(c.right if by_columns else c.left, at)
            here = {**self.here, var(self.f.walked.name): self.block.at}
            mask = call("and", self.block.inside, held.inside)
            other = self.factor(e, c, held, here, mask, self.n)
            own = self.fixed[name]
            one, two = _narrow(own), _narrow(other)
            if one.dtype == two.dtype:
                own, other = one, two
            self.block.entries[name] = self.b.dot(own, other, Dot(held.axis), F32)
        return self.block.entries[name]

    def resolve(self, name: str, index: tuple[Expr, ...], mask: Expr) -> Resolved:
        if name in self.f.inner:
            return self.entry(name)
        return super().resolve(name, index, mask)

    # -- the walk ----------------------------------------------------------------------------------

    def settled(self, e: Expr, over: Collection[str]) -> Expr:
        """An expression with what no index of `over` changes evaluated here."""
        known: dict[Expr, Expr] = {}

        def still(x: Expr) -> bool:
            reads = [y for y in walk(x) if y.op == "read"]
            moving = any(y.op == "state" for y in walk(x)) or set(over) & free_vars(x)
            if not reads or moving or _columned(free_vars(x)):
                return False
            return (x.kind == "real" or x.op == "read") and all(map(self.is_plain, reads))

        def go(x: Expr) -> Expr:
            if x not in known and still(x):
                v = self.e.value(substitute(x, self.here), self.rows)
                known[x] = leaf("value", v, x.kind)
            elif x not in known:
                known[x] = rebuild(x, tuple(go(a) for a in x.args)) if x.args else x
            return known[x]

        return go(e)

    def at_block(self, e: Expr) -> Expr:
        """The expression with what varies along the walk alone loaded once, not by rows."""
        walked, rows = self.f.walked.name, self.f.rows.name
        here = {**self.here, var(walked): self.block.at}

        def go(x: Expr) -> Expr:
            if x.op == "read" and x.attr[0] not in self.f.inner and self.is_plain(x):
                free = free_vars(x)
                if walked in free and rows not in free and not _columned(free):
                    v = self.e.value(substitute(x, here), self.block.inside)
                    return leaf("value", v, x.kind)
            return rebuild(x, tuple(go(a) for a in x.args)) if x.args else x

        return go(e)

    def is_plain(self, x: Expr) -> bool:
        """Whether a read is in range wherever the program is."""
        name, index, fill = read_parts(x)
        known = {(var(a.name), a.hi) for a in (*self.f.shared, self.f.walked)}
        for n, c in self.f.inner.items():  # entries are made under no condition
            ends = (a.hi for a in c.result.axes)
            known |= set(zip(self.f.index_of(n), ends, strict=True))
        axes = self.group.normal.tensor(name).axes
        return fill is None and all((i, a.hi) in known for i, a in zip(index, axes, strict=True))

    def reached(self) -> Expr:
        """The condition that an element is in the range that its row asks for."""
        if self.f.reach is None:
            return TRUE
        lo, hi = (self.settled(e, {self.f.walked.name}) for e in self.f.reach)
        at = var(self.f.walked.name)
        return call("and", call("le", lo, at), call("lt", at, hi))

    def asked(self) -> tuple[Expr, Expr]:
        """What the rows of the tile ask for together."""
        assert self.f.reach is not None
        b, found = self.b, []
        for e, kind in zip(self.f.reach, ("min", "max"), strict=True):
            v = self.placed(self.settled(e, {self.f.walked.name}), self.here, self.rows)
            v = self.e.spread(v, (self.m,))
            if self.rows is not TRUE:
                outside = b.full(neutral(kind, "int").attr, v.dtype)
                v = b.ew("select", b.index(self.rows), v, outside)
            found.append(leaf("value", b.reduce(kind, v, self.m), "int"))
        return maximum(ZERO, found[0]), minimum(self.f.walked.hi, found[1])

    def ends(self) -> tuple[Expr, Expr]:
        """The part of the walk in which some row of the tile has elements that count."""
        rows = self.f.rows
        if self.f.reach is not None:
            lo, hi = self.asked()
            return lo // self.n.extent * self.n.extent, hi
        first = self.index_of_tile() * self.m.extent
        last = minimum(first + self.m.extent, rows.hi) - 1
        lo, hi = self.f.span(first, last)
        here = {k: v for k, v in self.here.items() if k != var(rows.name)}
        lo, hi = substitute(lo, here), substitute(hi, here)
        return (lo if lo is ZERO else lo // self.n.extent * self.n.extent), hi

    def index_of_tile(self) -> Expr:
        """The program index along the rows."""
        return next(x for x in walk(self.point[self.f.rows.name]) if x.op == "pid")

    def step(self, v: Expr, *carried: Value) -> list[Value]:
        self.e.enter()
        at = v + self.n.lane
        inside = call("lt", at, self.f.walked.hi)
        self.b.ragged |= set(conjuncts(inside))
        self.block = _Block(at, inside)
        for e, old in zip(self.f.entries, carried, strict=True):
            self.states[state(e.name)] = leaf("value", old, "real")
        out = [self.after(e, old) for e, old in zip(self.f.entries, carried, strict=True)]
        self.e.leave()
        return out

    def placed(self, e: Expr, here: Mapping[Expr, Expr], mask: Expr = TRUE) -> Value:
        """An expression at this program's place, over the states as they are now."""
        return self.e.value(substitute(substitute(e, here), self.states), mask)

    def after(self, e: Entry, old: Value) -> Value:
        """An entry after the block."""
        b, axes = self.b, self.axes(e)
        kept = old if e.carried is None else self.placed(e.carried, self.here)
        share = self.share(e)
        new = b.ew(MONOIDS[e.monoid].row, self.e.spread(kept, axes), self.e.spread(share, axes))
        self.states[state(e.name + NEW)] = leaf("value", new, "real")
        return new

    def share(self, e: Entry) -> Value:
        """What the elements of the block add to a row."""
        here = {**self.here, var(self.f.walked.name): self.block.at}
        guard = substitute(self.at_block(self.guards[e.name]), here)
        keep = call("and", guard, self.block.inside)
        mask = call("and", self.rows, self.block.inside)
        owner = self.f.owner.get(e.name)
        if owner is not None:
            return self.contracted(e, here, keep, mask, self.f.columns[owner])
        v = self.placed(self.at_block(self.shares[e.name]), here, mask)
        v = self.e.spread(v, (self.m, self.n))
        v = self.where(keep, v, e.start, mask)
        return self.b.reduce(e.monoid, v, self.n, name=e.name)

    def contracted(
        self, e: Entry, here: Mapping[Expr, Expr], keep: Expr, mask: Expr, column: OpAxis
    ) -> Value:
        held = self.hold(column.hi)
        left, right = split(self.at_block(self.shares[e.name]), column_of(column))
        two = self.placed(right, here, call("and", self.block.inside, held.inside))
        if set(two.axes) != {self.n, held.axis}:
            raise Unsupported("a factor does not vary over its columns")
        two = self.zero_outside(two, self.block.inside)
        one = self.b.full(1.0, F32) if left is None else self.placed(left, here, mask)
        one = self.where(keep, self.e.spread(one, (self.m, self.n)), 0.0, mask)
        if self.s.narrow and _narrow(two).dtype is not two.dtype:
            two = _narrow(two)
            one = self.b.cast(one, two.dtype)
        return self.b.dot(one, two, Dot(self.n), F32, name=e.name)

    def where(self, keep: Expr, v: Value, other: float, mask: Expr) -> Value:
        """The value where the condition holds, once for all that ask."""
        if keep is TRUE:
            return v
        key = keep, v, other
        if key not in self.block.chosen:
            chosen = self.e.value(keep, mask)
            self.block.chosen[key] = self.b.ew("select", chosen, v, self.b.full(other, v.dtype))
        return self.block.chosen[key]

    # -- results -----------------------------------------------------------------------------------

    def finish(self, final: Sequence[Value]) -> None:
        for e, v in zip(self.f.entries, final, strict=True):
            self.states[state(e.name)] = leaf("value", v, "real")
        for t in self.f.folds:
            self.known[t.name] = self.placed(self.f.read[t.name], self.here)
            if self.is_kept(t):
                self.store(t, self.known[t.name])
        for t in self.f.after:
            assert t.body is not None
            at = {var(a.name): self.axis_of(t, n) for n, a in enumerate(t.axes)}
            self.store(t, self.e.value(substitute(t.body, at), self.mask_of(t)))

    def axis_of(self, t: Tensor, n: int) -> Expr:
        return self.here[self.f.points[t.name][n]]

    def mask_of(self, t: Tensor) -> Expr:
        c = self.f.columns.get(t.name)
        return self.rows if c is None else call("and", self.rows, self.hold(c.hi).inside)

    def store(self, t: Tensor, v: Value) -> None:
        index = [self.axis_of(t, n) for n in range(len(t.axes))]
        c = self.f.columns.get(t.name)
        axes = (self.m,) if c is None else (self.m, self.hold(c.hi).axis)
        self.write(t, index, self.e.spread(v, axes), self.mask_of(t))


def _columned(names: Iterable[str]) -> bool:
    return any(n.endswith("@columns") for n in names)


def _narrow(v: Value) -> Value:
    """What a factor was before it was widened: its products are exact in f32."""
    if v.op == "cast" and v.args[0].dtype.name in ("bf16", "f16"):
        return v.args[0]
    return v


def _zero_outside(v: Value, inside: Expr) -> bool:
    """Whether lanes outside hold 0 already, as masked loads do."""
    while v.op == "cast":
        v = v.args[0]
    if v.op != "load" or v.attr.other != 0:
        return False
    return set(conjuncts(inside)) <= set(conjuncts(v.attr.mask))
