"""Recurrences whose step reads its own index alone: every lane carries a state along the axis.

Lanes run over another axis: as vectors where memory is contiguous along it, else as copies side by
side, so that one step need not wait for the step before it in the same row.
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
    minimum,
    pid,
    read_parts,
    substitute,
    var,
    walk,
)
from opwright.ir.op import OpAxis
from opwright.ir.tile import Axis, Kernel, Placement, Value


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
    if any(a.lo is not ZERO or any(x.op in ("var", "read") for x in walk(a.hi)) for a in first.axes):
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
    ahead_ = affine(index[time] - var(axes[time].name))
    return {(): 0, ((None, 0),): 0, ((None, -1),): 1}.get(tuple((ahead_ or {"": 1}).items()))


@dataclass(frozen=True, slots=True)
class RecurrenceSchedule:
    """width lanes, as vectors of `vec` where they are contiguous; unroll: copies of a step; near:
    bytes that loads are asked for ahead."""

    width: int = 4
    vec: int = 16
    unroll: int = 1
    near: int = 0
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
        self.loops: list[str] = []
        if form.contiguous and s.width % s.vec:
            raise Unsupported("the width is not a multiple of the vector")

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
        unroll = {n: self.s.unroll for n in self.loops} if self.s.unroll > 1 else {}
        hints = ahead(kernel, self.s.near, False)
        return kernel, Placement(
            axes=place, unroll=unroll, prefetch=hints, threads=self.s.threads
        )

    def resolve(self, name: str, index: tuple[Expr, ...], mask: Expr) -> Resolved:
        """A member's value at this step, or at the one before."""
        if any(name == t.name for t in self.group.members):
            back = affine(index[self.f.time] - self.now)
            held = self.carried if back == {None: -1} else self.current
            return held[name]
        return super().resolve(name, index, mask)

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

        def step(v: Expr, *before: Value) -> list[Value]:
            self.e.enter()
            self.now = v
            self.carried = dict(zip((t.name for t in members), before, strict=True))
            self.current = {}
            for t in members:
                assert t.body is not None
                index = tuple(v if n == self.f.time else i for n, i in enumerate(point))
                here = {var(a.name): i for a, i in zip(t.axes, index, strict=True)}
                value = self.e.spread(self.e.value(substitute(t.body, here)), lanes)
                self.current[t.name] = value
                buffer = self.memory.of(t.name)
                self.b.store(buffer, *index, self.b.cast(value, buffer.dtype))
            self.e.leave()
            return [self.current[t.name] for t in members]

        axis = self.f.axes[self.f.time]
        name = free_name(self.group.normal, axis.name)
        self.b.loop(name, ZERO, axis.hi, 1, starts, step)
        self.loops.append(f"{name}*")
        self.e.leave()

    def kind(self, kind: str) -> DType:
        return {"real": self.real, "int": I64, "bool": BOOL}[kind]
