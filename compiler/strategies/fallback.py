"""The fallback: lowers everything the language can express. Slow, right, candidate 0.

One launch per tensor that is kept in memory, any strides, f64 inside. A few results are computed at
a time where reads gain from it (`blocking.py`), each of them in the order of the definition; what
is left over is scalar code. A prefix reduction becomes a loop that carries its state; a recurrence
runs its axis in order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from opwright.compiler.buffers import Memory, offset
from opwright.compiler.evaluate import Evaluator, Resolved, Unsupported
from opwright.compiler.normalize import Normal
from opwright.compiler.strategies.blocking import Tile, choose, in_order
from opwright.compiler.strategies.group import Group, before_first, is_pointwise
from opwright.compiler.strategies.in_place import in_place_last
from opwright.compiler.strategies.scatter import Scatter, scatter_of, scattered
from opwright.ir.dtypes import F64
from opwright.ir.expr import (
    ONE,
    ZERO,
    Expr,
    Fold,
    affine,
    call,
    cdiv,
    free_vars,
    minimum,
    pid,
    read_parts,
    substitute,
    var,
    walk,
)
from opwright.ir.op import OpAxis, Tensor
from opwright.ir.tile import Axis, Builder, Kernel, Placement, TileProgram, Value

BLOCK = 1024  # elements per program where one axis is all there is
VECTOR = 8  # lanes of one vector at most


def kept(normal: Normal) -> set[str]:
    """Tensors that others read from memory: reductions and recurrences; the rest is recomputed."""
    return {t.name for t in normal.tensors if not is_pointwise(t)}


def lower(normal: Normal) -> TileProgram:
    """The whole operator, one launch per kept tensor (one per group of recurrences)."""
    normal, keep = in_place_last(normal, kept(normal))
    memory = Memory(normal, True, F64)
    kernels: list[tuple[Kernel, Placement]] = []
    done: set[str] = set()
    for t in normal.tensors:
        if (t.name in keep or t.role == "output") and t.name not in done:
            group = (
                [u for n in t.recurrence.group for u in normal.tensors if u.name == n]
                if t.recurrence
                else [t]
            )
            done |= {u.name for u in group}
            kernels.append(launch(f"k{len(kernels)}", normal, memory, group, keep))
    return TileProgram(normal.op.name, tuple(k for k, _ in kernels), tuple(p for _, p in kernels))


def launch(
    name: str, normal: Normal, memory: Memory, group: Sequence[Tensor], keep: set[str]
) -> tuple[Kernel, Placement]:
    """One kernel that computes the tensors of a group (several only for a joint recurrence)."""
    t = group[0]
    if t.recurrence is not None:
        return _Recurrence(name, normal, memory, group, keep).kernel(), Placement()
    scan = scan_of(t)
    form = scatter_of(t) if scan is None else None
    if form is not None:
        return _Scattered(name, normal, memory, t, keep, form).kernel(), Placement()
    if scan is None and t.body is not None:
        tile = choose(t.axes, Group(normal, (t,), frozenset(keep)).expand(t.body))
        if tile is not None:
            try:
                return _Tiled(name, normal, memory, t, keep, tile).kernel()
            except Unsupported:
                pass  # what has no form with lanes has one without
    return _Launch(name, normal, memory, t, keep, scan).kernel(), Placement()


@dataclass(frozen=True, slots=True)
class Running:
    """A fold whose range grows or shrinks with the last axis by one: `first` is the first index
    folded at that position, in the direction of travel."""

    axis: int
    reverse: bool
    inclusive: bool


def scan_of(t: Tensor) -> Running | None:
    """t[.., i, ..] = fold over lo..i+1, lo..i, i..hi or i+1..hi of a term free of i."""
    if t.body is None or t.body.op != "fold":
        return None
    f = Fold(t.body)
    if len(f.binders) != 1:
        return None
    (lo, hi), parts = f.ranges[0], [x for x in (f.guard, *t.body.args[2:])]
    for n, a in enumerate(t.axes):
        inner = any(a.name in free_vars(x) for x in parts)
        if inner or a.lo is not ZERO:
            continue
        ahead = affine(hi - var(a.name))
        if lo is ZERO and ahead in ({None: 1}, {None: 0}, {}):
            return Running(n, False, ahead == {None: 1})
        behind = affine(lo - var(a.name))
        if hi is a.hi and behind in ({None: 0}, {}, {None: 1}):
            return Running(n, True, behind != {None: 1})
    return None


class _Base:
    def __init__(self, name: str, normal: Normal, memory: Memory, keep: set[str]) -> None:
        self.name, self.normal, self.memory, self.keep = name, normal, memory, keep

    def open(self, grid: tuple[Expr, ...]) -> None:
        self.b = Builder(self.name, grid)
        self.e = Evaluator(self.b, self.normal.op, self.resolve, F64)

    def resolve(self, name: str, index: tuple[Expr, ...], mask: Expr) -> Resolved:
        t = self.normal.tensor(name)
        if name in self.keep or t.role == "input":
            return self.memory.of(name)
        assert t.body is not None
        return substitute(t.body, {var(a.name): i for a, i in zip(t.axes, index, strict=True)})

    def compute(self, t: Tensor, at: Mapping[Expr, Expr]) -> None:
        """The definition at a point, which may be one of lanes."""
        assert t.body is not None
        v = self.e.value(substitute(in_order(t.body), at))
        self.store(t, tuple(at[var(a.name)] for a in t.axes), v)

    def store(self, t: Tensor, index: tuple[Expr, ...], v: Value) -> None:
        buffer = self.memory.of(t.name)
        at = [offset(i, t, n) for n, i in enumerate(index)]
        self.b.store(buffer, *at, self.b.cast(v, buffer.dtype))


class _Launch(_Base):
    def __init__(
        self,
        name: str,
        normal: Normal,
        memory: Memory,
        t: Tensor,
        keep: set[str],
        scan: Running | None,
    ) -> None:
        super().__init__(name, normal, memory, keep)
        self.t, self.scan = t, scan

    def kernel(self) -> Kernel:
        axes = [a for n, a in enumerate(self.t.axes) if not self.scan or n != self.scan.axis]
        extents = [a.hi - a.lo for a in axes]
        blocked = len(axes) == 1 and self.scan is None
        grid = (cdiv(extents[0], BLOCK),) if blocked else tuple(extents[:2]) or (ONE,)
        self.open(grid)
        at: dict[Expr, Expr] = {}
        if not blocked:
            at = {var(a.name): a.lo + pid(n) for n, a in enumerate(axes[:2])}
        rest = axes if blocked else axes[2:]

        def nest(depth: int) -> None:
            if depth == len(rest):
                self.element(at)
                return
            a = rest[depth]
            lo, hi = a.lo, a.hi
            if blocked:
                lo, hi = a.lo + pid(0) * BLOCK, minimum(a.lo + pid(0) * BLOCK + BLOCK, a.hi)

            def body(v: Expr) -> None:
                self.e.enter()
                at[var(a.name)] = v
                nest(depth + 1)
                self.e.leave()

            self.b.loop(a.name, lo, hi, 1, (), body)

        nest(0)
        return self.b.kernel()

    def element(self, at: dict[Expr, Expr]) -> None:
        if self.scan is not None:
            self.prefix(at, self.scan)
        else:
            self.compute(self.t, at)

    def prefix(self, at: dict[Expr, Expr], scan: Running) -> None:
        """One pass along the axis: the carried state is stored after (inclusive) or before its
        step."""
        t, axis = self.t, self.t.axes[scan.axis]
        assert t.body is not None
        f = Fold(substitute(t.body, at))
        binder = f.binders[0]
        # the node with a one-element range: its step is what a position adds
        start = tuple(self.e.value(i) for i in f.init)

        def body(v: Expr, *state: Value) -> tuple[Value, ...]:
            self.e.enter()
            here = axis.hi - 1 - v if scan.reverse else v
            new = self.e.step(f, {var(binder): here}, state)
            index = tuple(here if n == scan.axis else at[var(a.name)] for n, a in enumerate(t.axes))
            shown = new if scan.inclusive else state
            self.store(t, index, self.e.finish(f, shown))
            self.e.leave()
            return new

        self.b.loop(axis.name, ZERO, axis.hi, 1, start, body)


class _Scattered(_Base):
    """Each element goes to the result that it names; the other axes run over the grid."""

    def __init__(
        self, name: str, normal: Normal, memory: Memory, t: Tensor, keep: set[str], form: Scatter
    ) -> None:
        super().__init__(name, normal, memory, keep)
        self.t, self.form = t, form

    def kernel(self) -> Kernel:
        others = [a for n, a in enumerate(self.t.axes) if n != self.form.axis]
        self.open(tuple(a.hi - a.lo for a in others[:3]) or (ONE,))
        at = {var(a.name): a.lo + pid(n) for n, a in enumerate(others[:3])}

        def nest(rest: Sequence[OpAxis], at: Mapping[Expr, Expr]) -> None:
            if rest:
                a = rest[0]

                def body(v: Expr) -> None:
                    self.e.enter()
                    nest(rest[1:], {**at, var(a.name): v})
                    self.e.leave()

                self.b.loop(a.name, a.lo, a.hi, 1, (), body)
                return

            def store(v: Expr, value: Value) -> None:
                axes = enumerate(self.t.axes)
                index = tuple(v if n == self.form.axis else at[var(a.name)] for n, a in axes)
                self.store(self.t, index, value)

            scattered(self.b, self.e, self.t, self.form, at, store)

        nest(others[3:], at)
        return self.b.kernel()


class _Tiled(_Base):
    """Whole tiles with lanes; where the axes end within a tile, its elements one after the
    other."""

    def __init__(
        self, name: str, normal: Normal, memory: Memory, t: Tensor, keep: set[str], tile: Tile
    ) -> None:
        super().__init__(name, normal, memory, keep)
        self.t, self.tile = t, tile
        self.x = Axis(f"x{tile.width}", tile.width)
        self.r = Axis(f"r{tile.height}", tile.height)

    def kernel(self) -> tuple[Kernel, Placement]:
        tile, axes = self.tile, self.t.axes
        own = [tile.lanes] if tile.rows is None else [tile.lanes, tile.rows]
        others = [a for n, a in enumerate(axes) if n not in own]
        blocks = [tile.block] if tile.rows is None else [tile.width, tile.block]
        grid = [cdiv(axes[n].hi - axes[n].lo, b) for n, b in zip(own, blocks, strict=True)]
        room = 3 - len(grid)
        grid += [a.hi - a.lo for a in others[:room]]
        self.open(tuple(grid))
        at = {var(a.name): a.lo + pid(len(own) + n) for n, a in enumerate(others[:room])}

        def nest(rest: Sequence[OpAxis], at: dict[Expr, Expr]) -> None:
            if not rest:
                self.block(at)
                return
            a = rest[0]
            self.along(a, a.lo, a.hi, 1, lambda v: nest(rest[1:], {**at, var(a.name): v}))

        nest(others[room:], at)
        place: dict[str, str | tuple[str, int]] = {
            self.x.name: ("vec", min(VECTOR, tile.width)),
            self.r.name: "unroll",
        }
        return self.b.kernel(), Placement(axes=place)

    def along(self, a: OpAxis, lo: Expr, hi: Expr, step: int, body: Callable[[Expr], None]) -> None:
        def inner(v: Expr) -> None:
            self.e.enter()
            body(v)
            self.e.leave()

        self.b.loop(a.name, lo, hi, step, (), inner)

    def block(self, at: Mapping[Expr, Expr]) -> None:
        """The tiles of one program."""
        tile, axes = self.tile, self.t.axes
        a = axes[tile.lanes]
        if tile.rows is None:
            lo = a.lo + pid(0) * tile.block
            hi = minimum(lo + tile.block, a.hi)
            if tile.block == tile.width:
                self.one(at, lo, None)
            else:
                self.along(a, lo, hi, tile.width, lambda v: self.one(at, v, None))
            return
        r = axes[tile.rows]
        left, top = a.lo + pid(0) * tile.width, r.lo + pid(1) * tile.block
        end = minimum(top + tile.block, r.hi)
        self.along(r, top, end, tile.height, lambda v: self.one(at, left, v))

    def one(self, at: Mapping[Expr, Expr], left: Expr, top: Expr | None) -> None:
        tile = self.tile
        a = self.t.axes[tile.lanes]
        fits = call("le", left + tile.width, a.hi)
        point = {**at, var(a.name): left + self.x.lane}
        held: tuple[Axis, ...] = (self.x,)
        if top is not None:
            assert tile.rows is not None
            r = self.t.axes[tile.rows]
            fits = call("and", fits, call("le", top + tile.height, r.hi))
            point[var(r.name)] = top + self.r.lane
            held = (self.r, self.x)

        def whole() -> None:
            self.e.enter()
            self.e.lanes = held
            self.compute(self.t, point)
            self.e.lanes = ()
            self.e.leave()

        def rest() -> None:
            def row(at: dict[Expr, Expr]) -> None:
                hi = minimum(left + tile.width, a.hi)
                self.along(a, left, hi, 1, lambda v: self.compute(self.t, {**at, var(a.name): v}))

            if top is None:
                row(dict(at))
                return
            assert tile.rows is not None
            r = self.t.axes[tile.rows]
            hi = minimum(top + tile.height, r.hi)
            self.along(r, top, hi, 1, lambda v: row({**at, var(r.name): v}))

        self.b.branch(fits, whole, rest)


class _Recurrence(_Base):
    """Tensors that recur together over one axis. Indices that every recurrent read passes through
    unchanged run over the grid; the others run inside, one step of the axis after the other."""

    def __init__(
        self, name: str, normal: Normal, memory: Memory, group: Sequence[Tensor], keep: set[str]
    ) -> None:
        super().__init__(name, normal, memory, keep)
        self.group = group
        self.names = {t.name for t in group}

    def kernel(self) -> Kernel:
        t = self.group[0]
        assert t.recurrence is not None
        self.time = [a.name for a in t.axes].index(t.recurrence.axis)
        shared = self.shared_axes()
        axis = t.axes[self.time]
        self.open(tuple(t.axes[n].hi - t.axes[n].lo for n in shared[:3]) or (ONE,))
        self.at = {n: t.axes[n].lo + pid(k) for k, n in enumerate(shared[:3])}

        def step(v: Expr) -> None:
            self.e.enter()
            self.now = v
            for u in self.group:
                self.tensor(u)
            self.e.leave()

        self.b.loop(axis.name, axis.lo, axis.hi, 1, (), step)
        return self.b.kernel()

    def shared_axes(self) -> list[int]:
        """Positions, from the left, at which all members and recurrent reads agree on the index."""
        t = self.group[0]
        out = []
        for n, a in enumerate(t.axes):
            same = n != self.time
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

    def tensor(self, u: Tensor) -> None:
        assert u.recurrence is not None and u.body is not None
        time = [a.name for a in u.axes].index(u.recurrence.axis)
        at: dict[int, Expr] = {**self.at, time: self.now}
        inner = [n for n in range(len(u.axes)) if n not in at]

        def nest(depth: int) -> None:
            if depth == len(inner):
                index = tuple(at[n] for n in range(len(u.axes)))
                point = {var(a.name): i for a, i in zip(u.axes, index, strict=True)}
                assert u.body is not None
                body = before_first(self.normal, self.names, u, u.body)
                self.store(u, index, self.e.value(substitute(body, point)))
                return
            a = u.axes[inner[depth]]

            def along(v: Expr) -> None:
                self.e.enter()
                at[inner[depth]] = v
                nest(depth + 1)
                self.e.leave()

            self.b.loop(a.name, a.lo, a.hi, 1, (), along)

        nest(0)
