"""Recurrences whose step reads its own index alone: every lane carries a state along the axis.

Lanes run over another axis: as vectors where memory is contiguous along it, else as copies side by
side, so that one step need not wait for the step before it in the same row. Rows that are far apart
in memory are read and written in tiles, whole lines at a time; the steps run in scratch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opwright.compiler.buffers import Memory
from opwright.compiler.evaluate import Resolved, Unsupported
from opwright.compiler.strategies.ahead import ahead
from opwright.compiler.strategies.emitter import Emitter
from opwright.compiler.strategies.group import Group, free_name
from opwright.ir.dtypes import BOOL, I64, DType
from opwright.ir.expr import (
    ZERO,
    Expr,
    affine,
    call,
    cdiv,
    const,
    minimum,
    pid,
    read_parts,
    substitute,
    var,
    walk,
)
from opwright.ir.op import OpAxis
from opwright.ir.tile import Axis, Buffer, Kernel, Placement, Value
from opwright.ir.tile import lanes as lanes_of


@dataclass(frozen=True, slots=True)
class Form:
    """The position of the axis that runs in order, and of the one with lanes."""

    group: Group
    time: int
    lanes: int

    @property
    def axes(self) -> tuple[OpAxis, ...]:
        return self.group.members[0].axes

    @property
    def contiguous(self) -> bool:
        """Whether the lanes of results are neighbours in memory."""
        return self.lanes == len(self.axes) - 1


def recognise(group: Group) -> Form:
    """Raises Unsupported with the reason when the group is no recurrence of single elements."""
    first = group.members[0]
    if first.recurrence is None or {t.name for t in group.members} != {*first.recurrence.group}:
        raise Unsupported(f"{first.name} is not one recurrence")
    time = [a.name for a in first.axes].index(first.recurrence.axis)
    names = {t.name for t in group.members}
    if any(
        a.lo is not ZERO or any(x.op in ("var", "read") for x in walk(a.hi)) for a in first.axes
    ):
        raise Unsupported(f"{first.name} has an axis that depends on another")
    for t in group.members:
        assert t.recurrence is not None and t.body is not None
        same = len(t.axes) == len(first.axes) and t.axes[time].name == t.recurrence.axis
        if not same or any(a.hi is not b.hi for a, b in zip(t.axes, first.axes, strict=True)):
            raise Unsupported(f"{t.name} has another index space")
        if any(a.lo is not ZERO for a in t.axes):
            raise Unsupported(f"{t.name} has an axis that does not start at 0")
        for e in (group.expand(t.body, names), group.expand(t.recurrence.init, names)):
            if any(x.op == "fold" for x in walk(e)):
                raise Unsupported(f"{t.name} holds a fold")
            for x in walk(e):
                if x.op == "read" and x.attr[0] in names and _back(x, t.axes, time) is None:
                    raise Unsupported(f"{t.name} reads {x.attr[0]} of another lane")
    others = [n for n in range(len(first.axes)) if n != time]
    if not others:
        raise Unsupported(f"{first.name} has no axis beside the one that runs")
    return Form(group, time, others[-1])


def _back(x: Expr, axes: Sequence[OpAxis], time: int) -> int | None:
    """How many steps back (0 or 1) a read of the same lane looks; None for another lane."""
    _, index, fill = read_parts(x)
    if fill is not None or len(index) != len(axes):
        return None
    for n, (i, a) in enumerate(zip(index, axes, strict=True)):
        if n != time and i is not var(a.name):
            return None
    form = affine(index[time] - var(axes[time].name))
    if form is None or any(k is not None for k, c in form.items() if c):
        return None
    return {0: 0, -1: 1}.get(form.get(None, 0))


@dataclass(frozen=True, slots=True)
class RecurrenceSchedule:
    """width lanes, as vectors of `vec` where they are contiguous; tile: steps whose elements are
    copied to scratch together (0: none); unroll: copies of a step; near: bytes that loads are asked
    for ahead; stream: bypass the cache on output, of tiles."""

    width: int = 4
    vec: int = 16
    tile: int = 0
    unroll: int = 1
    near: int = 0
    stream: bool = False
    threads: str = "static"


def lower(
    name: str, form: Form, memory: Memory, s: RecurrenceSchedule, real: DType
) -> tuple[Kernel, Placement]:
    """One kernel with its placement; Unsupported when the schedule does not fit the form."""
    return _Emitter(name, form, memory, s, real).kernel()


class _Emitter(Emitter):
    def __init__(
        self, name: str, form: Form, memory: Memory, s: RecurrenceSchedule, real: DType
    ) -> None:
        super().__init__(form.group, memory, real)
        self.name, self.f, self.s = name, form, s
        self.now: Expr = ZERO
        self.current: dict[str, Value] = {}
        self.carried: dict[str, Value] = {}
        self.held_at: dict[tuple[str, tuple[Expr, ...]], Value] = {}
        self.loops: list[str] = []
        if s.width % s.vec if form.contiguous else s.tile % s.vec:
            raise Unsupported("the width is not a multiple of the vector")
        if s.tile and form.time != len(form.axes) - 1:
            raise Unsupported("tiles serve steps that are neighbours in memory")
        if s.stream and (not s.tile or any(t.role != "output" for t in form.group.members)):
            raise Unsupported("only tiles of outputs are stored past the cache")

    def kernel(self) -> tuple[Kernel, Placement]:
        f, width = self.f, self.s.width
        lane = f.axes[f.lanes]
        others = [a for n, a in enumerate(f.axes) if n not in (f.time, f.lanes)]
        self.open(self.name, [cdiv(lane.hi, width), *(a.hi for a in others[:2])])
        x = Axis("x", width)
        at = {var(a.name): pid(1 + n) for n, a in enumerate(others[:2])}
        left = pid(0) * width

        def strip(at: dict[Expr, Expr]) -> None:
            def one(v: Expr) -> None:
                self.e.enter()
                self.run({**at, var(lane.name): v})
                self.e.leave()

            top = minimum(left + width, lane.hi)
            name = free_name(self.group.normal, lane.name)

            def rest() -> None:
                self.b.loop(name, left, top, 1, (), one)

            self.b.branch(
                call("le", left + width, lane.hi),
                lambda: self.run({**at, var(lane.name): left + x.lane}, x),
                rest,
            )

        self.over(others[2:], at, strip)
        kernel = self.b.kernel()
        place: dict[str, str | tuple[str, int]] = {
            x.name: ("vec", self.s.vec) if f.contiguous else "unroll"
        }
        if self.s.tile:
            place["c"] = ("vec", self.s.vec)
        unroll = {n: self.s.unroll for n in self.loops} if self.s.unroll > 1 else {}
        hints = ahead(kernel, self.s.near, False) if f.contiguous or self.s.tile else {}
        stream = ("whole*",) if self.s.stream else ()
        return kernel, Placement(
            axes=place, unroll=unroll, prefetch=hints, stream=stream, threads=self.s.threads
        )

    def resolve(self, name: str, index: tuple[Expr, ...], mask: Expr) -> Resolved:
        """A member's value at this step, or at the one before."""
        if any(name == t.name for t in self.group.members):
            held = self.current if index[self.f.time] is self.now else self.carried
            return held[name]
        found = self.held_at.get((name, index))
        return super().resolve(name, index, mask) if found is None else found

    def run(self, at: dict[Expr, Expr], *lanes: Axis) -> None:
        """All steps for the lanes at a point."""
        members = self.group.members
        self.e.enter()
        point = tuple(at.get(var(a.name), ZERO) for a in self.f.axes)
        starts = []
        for t in members:
            assert t.recurrence is not None
            here = {var(a.name): i for a, i in zip(t.axes, point, strict=True)}
            init = self.e.value(substitute(t.recurrence.init, here))
            starts.append(self.e.spread(self.b.cast(init, self.kind(t.kind)), lanes))

        axis = self.f.axes[self.f.time]
        name = free_name(self.group.normal, axis.name)

        def step(v: Expr, *before: Value) -> list[Value]:
            self.e.enter()
            made = self.step(self.at(point, v), v, before, lanes)
            for t, value in zip(members, made, strict=True):
                buffer = self.memory.of(t.name)
                self.b.store(buffer, *self.at(point, v), self.b.cast(value, buffer.dtype))
            self.e.leave()
            return made

        begin: Expr = ZERO
        state: Sequence[Value] = starts
        if self.s.tile and lanes:
            begin = axis.hi // self.s.tile * self.s.tile
            state = self.b.loop(
                f"{name}_tile", ZERO, begin, self.s.tile, state,
                lambda v, *before: self.tiled(point, v, before, lanes[0]),
            )  # fmt: skip
        self.b.loop(name, begin, axis.hi, 1, state, step)
        if not self.s.tile:
            self.loops.append(f"{name}*")
        self.e.leave()

    def at(self, point: Sequence[Expr], v: Expr) -> tuple[Expr, ...]:
        return tuple(v if n == self.f.time else i for n, i in enumerate(point))

    def step(
        self, index: tuple[Expr, ...], v: Expr, before: Sequence[Value], lanes: Sequence[Axis]
    ) -> list[Value]:
        """The members at a step from their values at the one before."""
        members = self.group.members
        self.now = v
        self.carried = dict(zip((t.name for t in members), before, strict=True))
        self.current = {}
        for t in members:
            assert t.body is not None
            here = {var(a.name): i for a, i in zip(t.axes, index, strict=True)}
            self.current[t.name] = self.e.spread(self.e.value(substitute(t.body, here)), lanes)
        return [self.current[t.name] for t in members]

    def tiled(
        self, point: Sequence[Expr], left: Expr, before: Sequence[Value], lane: Axis
    ) -> list[Value]:
        """A tile of steps: what they read is copied as it lies, and so is what they made."""
        members, c = self.group.members, Axis("c", self.s.tile)
        shape = (const(lane.extent), const(c.extent))
        self.e.enter()
        sources = self.walked(point, left)
        scratch = []
        for n, (name, index) in enumerate(sources):
            buffer = self.memory.of(name)
            found = self.b.load(buffer, *index, left + c.lane)
            scratch.append(Buffer(f"read_{n}", "program", buffer.dtype, shape))
            self.b.store(scratch[n], lane.lane, c.lane, found)
        kinds = [self.memory.of(t.name).dtype for t in members]
        results = [Buffer(f"made_{n}", "program", d, shape) for n, d in enumerate(kinds)]

        def step(k: Expr, *carried: Value) -> list[Value]:
            self.e.enter()
            v = left + k
            for buffer, (name, index) in zip(scratch, sources, strict=True):
                self.held_at[name, (*index, v)] = self.widened(
                    self.b.load(buffer, lane.lane, k), name
                )
            made = self.step(self.at(point, v), v, carried, (lane,))
            for buffer, value in zip(results, made, strict=True):
                self.b.store(buffer, lane.lane, k, self.b.cast(value, buffer.dtype))
            self.held_at.clear()
            self.e.leave()
            return made

        name = f"{free_name(self.group.normal, self.f.axes[self.f.time].name)}_step"
        after = self.b.loop(name, ZERO, const(self.s.tile), 1, before, step)
        self.loops.append(f"{name}*")
        for t, buffer in zip(members, results, strict=True):
            whole = self.b.load(buffer, lane.lane, c.lane)
            index = self.at(point, left + c.lane)
            self.b.store(self.memory.of(t.name), *index, whole, name="whole")
        self.e.leave()
        return list(after)

    def walked(self, point: Sequence[Expr], left: Expr) -> list[tuple[str, tuple[Expr, ...]]]:
        """Reads of other tensors at the lanes' own rows, one element a step, without the step."""
        found: dict[tuple[str, tuple[Expr, ...]], None] = {}
        names = {t.name for t in self.group.members}
        for t in self.group.members:
            assert t.body is not None
            axes = {var(a.name): (i, a.hi) for a, i in zip(t.axes, point, strict=True)}
            time = t.axes[self.f.time]
            for x in walk(self.group.expand(t.body, names)):
                if x.op != "read" or x.attr[0] in names:
                    continue
                name, index, fill = read_parts(x)
                source = self.group.normal.tensor(name)
                if fill is not None or index[-1] is not var(time.name) or len(index) < 2:
                    continue
                whole = all(
                    i in axes and a.hi is axes[i][1] and a.lo is ZERO
                    for i, a in zip(index, source.axes, strict=True)
                )
                if whole and any(lanes_of(axes[i][0]) for i in index[:-1]):
                    found[name, tuple(axes[i][0] for i in index[:-1])] = None
        return list(found)

    def widened(self, v: Value, name: str) -> Value:
        return self.b.cast(v, self.kind(self.group.normal.tensor(name).kind))

    def kind(self, kind: str) -> DType:
        return {"real": self.real, "int": I64, "bool": BOOL}[kind]
