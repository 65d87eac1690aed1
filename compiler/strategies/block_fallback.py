"""The fallback of block targets: lowers everything the language can express. Slow, right,
candidate 0.

One launch per tensor that is kept in memory, any strides, f64 inside. A program computes a block of
results along the last axis, one lane each, in the order of the definition; what has no form with
lanes is one result per program. All programs lie along the first dimension of the grid, the only
one without a small limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from opwright.compiler.buffers import Memory, offset
from opwright.compiler.evaluate import Evaluator, Resolved, Unsupported
from opwright.compiler.normalize import Normal
from opwright.compiler.strategies.block_math import BlockBuilder
from opwright.compiler.strategies.fallback import kept, scan_of
from opwright.compiler.strategies.group import before_first
from opwright.compiler.strategies.in_place import in_place_last
from opwright.ir.dtypes import F64
from opwright.ir.expr import (
    ONE,
    TRUE,
    ZERO,
    Expr,
    Fold,
    call,
    cdiv,
    pid,
    read_parts,
    substitute,
    var,
    walk,
)
from opwright.ir.op import OpAxis, Tensor
from opwright.ir.tile import Axis, Kernel, Placement, TileProgram, Value

LANES = 128
PLACEMENT = Placement(launch={"num_warps": 4, "num_stages": 1})
SCALAR = Placement(launch={"num_warps": 1, "num_stages": 1})

Point = dict[Expr, Expr]


def lower(normal: Normal) -> TileProgram:
    """The whole operator, one launch per kept tensor (one per group of recurrences)."""
    normal, keep = in_place_last(normal, kept(normal))
    memory = Memory(normal, True, F64)
    made: list[tuple[Kernel, Placement]] = []
    done: set[str] = set()
    for t in normal.tensors:
        if (t.name in keep or t.role == "output") and t.name not in done:
            group = [t]
            if t.recurrence is not None:
                group = [u for n in t.recurrence.group for u in normal.tensors if u.name == n]
            done |= {u.name for u in group}
            made.append(launch(f"k{len(made)}", normal, memory, group, keep))
    return TileProgram(normal.op.name, tuple(k for k, _ in made), tuple(p for _, p in made))


def launch(
    name: str, normal: Normal, memory: Memory, group: Sequence[Tensor], keep: set[str]
) -> tuple[Kernel, Placement]:
    """One kernel that computes the tensors of a group (several only for a joint recurrence)."""
    for lanes in (LANES, 1):
        try:
            made = _Launch(name, normal, memory, group, keep, lanes).kernel()
            return made, PLACEMENT if lanes > 1 else SCALAR
        except Unsupported:
            if lanes == 1:
                raise
    raise AssertionError


@dataclass(frozen=True, slots=True)
class Grid:
    """Programs for the points of a product of ranges: one for each point of two of them, along the
    first dimension of the grid; the other ranges are loops."""

    axes: tuple[OpAxis, ...]

    def own(self) -> list[int]:
        """The axes of the grid: the inner one is a plain size, so that a remainder by it is bounded
        without arithmetic. A product of sizes is no factor of a grid: where another size is 0
        nothing bounds it as the elements of a tensor bound it."""
        count = len(self.axes)
        extents = [a.hi - a.lo for a in self.axes]
        plain = [n for n in range(1, count) if extents[n].op == "size"]
        if not plain:
            single = [n for n in range(count) if extents[n].op == "size"]
            product = count > 0 and is_product(extents[-1])
            return single[-1:] if product and single else list(range(count))[-1:]
        inner = plain[-1]
        outer = [n for n in range(inner) if not is_product(extents[n])]
        return [*outer[-1:], inner]

    def shape(self) -> tuple[Expr, ...]:
        count = ONE
        for n in self.own():
            count = (self.axes[n].hi - self.axes[n].lo) * count
        return (count,)

    def points(self, b: BlockBuilder, body: Callable[[list[Expr]], None]) -> None:
        """Run the body at every point of the running program."""
        own = self.own()
        numbers: list[Expr] = [pid(0)]
        if len(own) > 1:
            extent = self.axes[own[1]].hi - self.axes[own[1]].lo
            numbers = [pid(0) // extent, pid(0) % extent]
        at: dict[int, Expr] = {}
        for n, i in zip(own, numbers, strict=False):
            a = self.axes[n]
            at[n] = a.lo + i
            b.ranges |= {i: (ZERO, a.hi - a.lo), at[n]: (a.lo, a.hi)}

        def rest(n: int) -> None:
            if n == len(self.axes):
                body([at[k] for k in range(n)])
            elif n in own:
                rest(n + 1)
            else:
                a = self.axes[n]

                def along(v: Expr) -> None:
                    at[n] = v
                    rest(n + 1)

                b.loop(a.name, a.lo, a.hi, 1, (), along)

        rest(0)


def is_product(extent: Expr) -> bool:
    """Whether an extent multiplies sizes with each other."""
    return any(
        x.op == "mul" and all(a.op != "const" for a in x.args) for x in walk(extent)
    )  # fmt: skip


class _Launch:
    def __init__(
        self,
        name: str,
        normal: Normal,
        memory: Memory,
        group: Sequence[Tensor],
        keep: set[str],
        lanes: int,
    ) -> None:
        self.name, self.normal, self.memory, self.keep = name, normal, memory, keep
        self.group, self.lanes = group, lanes
        self.names = {t.name for t in group} if group[0].recurrence is not None else set()
        self.x = Axis("x", lanes)
        self.mask: Expr = TRUE

    def kernel(self) -> Kernel:
        t = self.group[0]
        if t.recurrence is not None:
            time = [a.name for a in t.axes].index(t.recurrence.axis)
            own = self.shared(time)

            def body(at: Point) -> None:
                self.recur(t.axes[time], at)

            return self.over([t.axes[n] for n in own], body)
        scan = scan_of(t)
        if scan is not None:
            axes = [a for n, a in enumerate(t.axes) if n != scan.axis]
            return self.over(axes, lambda at: self.prefix(t, scan, at))
        return self.over(list(t.axes), lambda at: self.element(t, at))

    def over(self, axes: Sequence[OpAxis], body: Callable[[Point], None]) -> Kernel:
        """Programs for all points, lanes along the last axis."""
        grid = Grid(tuple(axes))
        if self.lanes == 1 or not axes:
            self.open(grid.shape())

            def alone(at: list[Expr]) -> None:
                self.run({var(a.name): i for a, i in zip(axes, at, strict=True)}, body)

            grid.points(self.b, alone)
            return self.b.kernel()
        *outer, last = axes
        extent = last.hi - last.lo

        def block(start: Expr, at: list[Expr]) -> None:
            here = start + self.x.lane
            self.mask = call("lt", here, extent)
            self.b.ragged.add(self.mask)
            self.e.lanes = (self.x,)
            point = {var(a.name): i for a, i in zip(outer, at, strict=True)}
            self.run({**point, var(last.name): last.lo + here}, body)

        if not outer:
            self.open((cdiv(extent, self.lanes),))
            block(pid(0) * self.lanes, [])
            return self.b.kernel()
        grid = Grid(tuple(outer))
        self.open(grid.shape())
        grid.points(
            self.b,
            lambda at: self.over_lanes(extent, lambda v: block(v, at)),
        )
        return self.b.kernel()

    def over_lanes(self, extent: Expr, body: Callable[[Expr], None]) -> None:
        def step(v: Expr) -> None:
            self.e.enter()
            body(v)
            self.e.leave()

        self.b.loop("start", ZERO, extent, self.lanes, (), step)

    def open(self, grid: tuple[Expr, ...]) -> None:
        self.b = BlockBuilder(self.name, grid, self.normal.op.params)
        self.e = Evaluator(self.b, self.normal.op, self.resolve, F64)

    def run(self, at: Point, body: Callable[[Point], None]) -> None:
        self.e.enter()
        body(at)
        self.e.leave()

    def resolve(self, name: str, index: tuple[Expr, ...], mask: Expr) -> Resolved:
        t = self.normal.tensor(name)
        if name in self.keep or t.role == "input":
            return self.memory.of(name)
        assert t.body is not None
        return substitute(t.body, {var(a.name): i for a, i in zip(t.axes, index, strict=True)})

    def store(self, t: Tensor, at: Mapping[Expr, Expr], v: Value) -> None:
        buffer = self.memory.of(t.name)
        index = [offset(at[var(a.name)], t, n) for n, a in enumerate(t.axes)]
        self.b.store(buffer, *index, self.b.cast(v, buffer.dtype), mask=self.mask)

    # -- what a program computes ------------------------------------------------------------------

    def element(self, t: Tensor, at: Point) -> None:
        assert t.body is not None
        self.store(t, at, self.e.value(substitute(t.body, at), self.mask))

    def prefix(self, t: Tensor, scan: object, at: Point) -> None:
        """One pass along the axis: the carried state is stored after (inclusive) or before its
        step."""
        found = scan_of(t)
        assert t.body is not None and found is not None
        axis = t.axes[found.axis]
        f = Fold(substitute(t.body, at))
        start = tuple(self.e.spread(self.e.value(i, self.mask), self.e.lanes) for i in f.init)

        def body(v: Expr, *state: Value) -> tuple[Value, ...]:
            self.e.enter()
            here = axis.hi - 1 - v if found.reverse else v
            new = self.e.step(f, {var(f.binders[0]): here}, state, self.mask)
            shown = new if found.inclusive else state
            self.store(t, {**at, var(axis.name): here}, self.e.finish(f, shown, self.mask))
            self.e.leave()
            return new

        self.b.loop(axis.name, ZERO, axis.hi, 1, start, body)

    # -- recurrences ------------------------------------------------------------------------------

    def shared(self, time: int) -> list[int]:
        """Positions at which all members and recurrent reads agree on the index."""
        t = self.group[0]
        out = []
        for n, a in enumerate(t.axes):
            same = n != time
            for u in self.group:
                assert u.body is not None
                same = same and len(u.axes) > n and u.axes[n].hi is a.hi and u.axes[n].lo is a.lo
                for x in walk(u.body):
                    if same and x.op == "read" and x.attr[0] in self.names:
                        at = read_parts(x)[1]
                        same = n < len(at) and at[n] is var(u.axes[n].name)
            if same:
                out.append(n)
        return out

    def recur(self, axis: OpAxis, at: Point) -> None:
        """Step after step; in each, every member over the indices that are not shared."""
        t = self.group[0]
        fixed = {n: at[var(a.name)] for n, a in enumerate(t.axes) if var(a.name) in at}

        def step(v: Expr) -> None:
            self.e.enter()
            for u in self.group:
                assert u.recurrence is not None
                time = [a.name for a in u.axes].index(u.recurrence.axis)
                self.member(u, {**fixed, time: v})
            self.e.leave()

        self.b.loop(axis.name, axis.lo, axis.hi, 1, (), step)

    def member(self, u: Tensor, at: dict[int, Expr]) -> None:
        inner = [n for n in range(len(u.axes)) if n not in at]
        if not inner:
            point = {var(a.name): at[n] for n, a in enumerate(u.axes)}
            assert u.body is not None
            body = before_first(self.normal, self.names, u, u.body)
            self.store(u, point, self.e.value(substitute(body, point), self.mask))
            return
        a = u.axes[inner[0]]

        def along(v: Expr) -> None:
            self.e.enter()
            self.member(u, {**at, inner[0]: v})
            self.e.leave()

        self.b.loop(a.name, a.lo, a.hi, 1, (), along)


__all__ = ["LANES", "launch", "lower"]
