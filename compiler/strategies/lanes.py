"""Folds and pointwise definitions over one shared index space, with lanes along a row or across
columns.

`row` lanes run along the folded axis: each pass over the row is a loop over full tiles and one
over the rest; what a pass establishes (a reduction) the next may use. `column` lanes run along the
last shared axis: every lane carries its own state down the folded axis. Which passes there are
follows from what reads what; nothing here knows what is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from opwright.compiler.buffers import Memory
from opwright.compiler.evaluate import Evaluator, Resolved, Unsupported, compute_dtype
from opwright.compiler.strategies.ahead import ahead
from opwright.compiler.strategies.fallback import scan_of
from opwright.compiler.strategies.group import (
    Group,
    fold_axis,
    free_name,
    inline,
    is_fold,
    is_pointwise,
    same_range,
    without_row,
)
from opwright.ir.dtypes import I64, DType
from opwright.ir.expr import (
    ONE,
    TRUE,
    ZERO,
    Expr,
    Fold,
    call,
    cdiv,
    const,
    free_vars,
    minimum,
    pid,
    read,
    read_parts,
    substitute,
    var,
    walk,
)
from opwright.ir.op import OpAxis, Tensor
from opwright.ir.semantics import ARG_FOLDS, MONOIDS, ROWS
from opwright.ir.tile import Axis, Buffer, Builder, Kernel, Placement, Value

COSTLY = 8  # flops of one operation from which a row value may be worth keeping


@dataclass(frozen=True, slots=True)
class Analysis:
    """Shared axes, the row (None for a pointwise group), and which pass every member belongs to."""

    group: Group
    shared: tuple[OpAxis, ...]
    row: OpAxis | None
    position: Mapping[str, int]  # member -> position of the row axis, -1 without
    phase: Mapping[str, int]  # fold -> pass that reduces it; output -> pass that writes it
    passes: int
    saveable: tuple[str, ...]  # costly row values that later passes use again
    inner: bool = False  # folds run inside every lane


def analyse_inner(group: Group) -> Analysis:
    """Folds of any kind as loops inside every lane; lanes run along the last axis of the result."""
    first = group.members[0]
    if not first.axes or any(a.lo is not ZERO or _dependent(a) for a in first.axes):
        raise Unsupported("an axis does not start at 0 or depends on another")
    seen: set[str] = set()
    for t in group.members:
        assert t.body is not None
        if t.recurrence is not None or without_row(t, first.axes, None) != -1:
            raise Unsupported(f"{t.name} has another index space")
        if scan_of(t) is not None:
            raise Unsupported(f"{t.name} is a scan")
        last = t.axes[-1].name
        for x in walk(group.expand(t.body)):
            own = tuple(var(a.name) for a in t.axes)
            if x.op == "read" and x.attr[0] in seen and read_parts(x)[1] != own:
                raise Unsupported(f"{t.name} reads {x.attr[0]} of another lane")
            if x.op == "fold" and any(last in free_vars(e) for r in Fold(x).ranges for e in r):
                raise Unsupported(f"{t.name} has a range that differs from lane to lane")
        seen.add(t.name)
    return Analysis(group, first.axes, None, dict.fromkeys(seen, -1), {}, 1, (), True)


def analyse(group: Group) -> Analysis:
    """Raises Unsupported with the reason when the members do not share an index space."""
    folds = [t for t in group.members if is_fold(t)]
    for t in group.members:
        if not is_fold(t) and not is_pointwise(t):
            raise Unsupported(f"{t.name} is neither pointwise nor one fold")
    shared: tuple[OpAxis, ...]
    if folds:
        shared, row = folds[0].axes, fold_axis(folds[0])
        for t in folds[1:]:
            if not same_range(fold_axis(t), row):
                raise Unsupported(f"{t.name} folds over another range")
    else:
        shared, row = group.members[0].axes, None
    if any(a.lo is not ZERO or _dependent(a) for a in shared):
        raise Unsupported("an axis does not start at 0 or depends on another")
    position = {}
    for t in group.members:
        where = without_row(t, shared, row)
        if where is None or (is_fold(t) and where != -1):
            raise Unsupported(f"{t.name} has another index space")
        position[t.name] = where
    phases = _phases(group, shared, row, position)
    passes = 1 + max(phases.values(), default=0)
    return Analysis(
        group, shared, row, position, phases, passes, _saveable(group, shared, row, phases)
    )


def _dependent(a: OpAxis) -> bool:
    return any(x.op in ("var", "read", "fold") for x in walk(a.hi))


def _phases(
    group: Group, shared: Sequence[OpAxis], row: OpAxis | None, position: Mapping[str, int]
) -> dict[str, int]:
    phases: dict[str, int] = {}
    for t in group.members:
        assert t.body is not None
        own = [a for n, a in enumerate(t.axes) if n != position[t.name]]
        e = group.expand(t.body)
        earliest = 0
        for x in walk(e):
            if x.op == "read" and x.attr[0] in phases:
                if read_parts(x)[1] != tuple(var(a.name) for a in own):
                    raise Unsupported(f"{t.name} reads {x.attr[0]} of another program")
                earliest = max(earliest, phases[x.attr[0]] + 1)
            elif x.op == "read" and x.attr[0] in {m.name for m in group.members}:
                raise Unsupported(f"{t.name} reads {x.attr[0]} before it is there")
        if is_fold(t) and any(x.op == "fold" and x is not e for x in walk(e)):
            raise Unsupported(f"{t.name} holds a fold inside another")
        phases[t.name] = earliest
    return phases


def _saveable(
    group: Group, shared: Sequence[OpAxis], row: OpAxis | None, phases: Mapping[str, int]
) -> tuple[str, ...]:
    """Local row values with a costly operation that are read in more than one pass."""
    if row is None:
        return ()
    found = []
    for t in group.normal.tensors:
        if t.role != "local" or not is_pointwise(t) or len(t.axes) != len(shared) + 1:
            continue
        assert t.body is not None
        cost = max((ROWS[x.op].flops for x in walk(t.body) if x.op in ROWS), default=0)
        at = without_row(t, shared, row)
        if cost < COSTLY or at is None or at < 0 or t.kind != "real":
            continue
        readers = set()
        for m in group.members:
            assert m.body is not None
            for x in walk(group.expand(m.body, stop=[t.name])):
                if x.op == "read" and x.attr[0] == t.name:
                    readers.add(phases[m.name])
        if len(readers) > 1:
            found.append(t.name)
    return tuple(found)


def has_home(a: Analysis) -> bool:
    """Whether the saved row value can live where an output row will be."""
    return len(a.saveable) == 1 and _host(a, compute_dtype(a.group.normal.op)) is not None


def _host(a: Analysis, real: DType) -> Tensor | None:
    if len(a.shared) > 3:
        return None
    for t in a.group.members:
        last = a.position[t.name] == len(t.axes) - 1 and a.phase[t.name] == a.passes - 1
        if last and not is_fold(t) and t.dtype is real:
            return t
    return None


@dataclass(frozen=True, slots=True)
class LaneSchedule:
    """Decisions. mode: row | column | pointwise; width lanes per step of `vec`-wide vectors; tail:
    lanes of the narrow rest; save: keep costly row values (no, in scratch, or at home in the output
    row); stream: bypass the cache on output; rows: rows that a program walks side by side; near:
    bytes that loads are asked for ahead, claim: bytes that stores are; next: later passes over a
    row ask for the next program's;
    block: elements per program (pointwise); level: rows per partial sum and unroll: copies of a row
    step (column)."""

    mode: str = "row"
    width: int = 32
    vec: int = 8
    tail: int = 8
    save: str = "no"
    stream: bool = False
    rows: int = 1
    near: int = 0
    claim: int = 0
    next: bool = False
    block: int = 32768
    level: int = 0
    unroll: int = 1
    threads: str = "static"


@dataclass(slots=True)
class _State:
    """What one emission carries: values of folds at hand, saved rows, the current lane index."""

    scalars: dict[str, Value] = field(default_factory=dict)
    saved: dict[str, Buffer] = field(default_factory=dict)
    pass_: int = 0
    lane: Expr = ZERO
    mask: Expr = TRUE
    stored: set[str] = field(default_factory=set)


def lower(
    name: str, a: Analysis, memory: Memory, s: LaneSchedule, real: DType
) -> tuple[Kernel, Placement]:
    """One kernel with its placement; Unsupported when the schedule does not fit the group."""
    emitter = Emitter(name, a, memory, s, real)
    kernel = emitter.kernel()
    place = emitter.placement()
    hints = ahead(kernel, s.near, s.next, s.claim, place.home)
    return kernel, replace(place, prefetch=hints)


class Emitter:
    """Emits one kernel over rows, columns or elements."""

    def __init__(
        self, name: str, a: Analysis, memory: Memory, s: LaneSchedule, real: DType
    ) -> None:
        self.name, self.a, self.memory, self.s, self.real = name, a, memory, s, real
        self.normal = a.group.normal
        self.folds = [t for t in a.group.members if is_fold(t) and not a.inner]
        self.outs = [t for t in a.group.members if t not in self.folds]
        if a.inner:
            self.outs = [t for t in self.outs if t.role == "output" or t.name in memory.kept]
        self.now = _State()
        self.axes: dict[str, str | tuple[str, int]] = {}
        self.homes: dict[str, tuple[str, tuple[Expr, ...]]] = {}
        self.side: tuple[Axis, ...] = ()  # rows side by side
        self.unrolled: list[str] = []
        if s.width % s.vec or s.tail % min(s.vec, s.tail):
            raise Unsupported("the width is not a multiple of the vector")

    def axis(self, hint: str, extent: int, width: int) -> Axis:
        axis = Axis(f"{hint}{extent}", extent)
        self.axes[axis.name] = ("vec", width)
        return axis

    def placement(self) -> Placement:
        stream = (
            tuple(f"st_{t.name.lower()}*" for t in self.outs if t.role == "output")
            if self.s.stream
            else ()
        )
        unroll = {n: self.s.unroll for n in self.unrolled} if self.s.unroll > 1 else {}
        return Placement(
            axes=self.axes, stream=stream, unroll=unroll, home=self.homes, threads=self.s.threads
        )

    # -- programs ----------------------------------------------------------------------------------

    def kernel(self) -> Kernel:
        mode = self.s.mode
        if mode == "pointwise":
            return self.flat()
        if self.a.row is None:
            raise Unsupported("there is no folded axis")
        if mode == "column":
            return self.column()
        return self.rows()

    def open(self, axes: Sequence[OpAxis], extra: Sequence[Expr] = ()) -> list[Expr]:
        """A builder whose grid is the leading axes and `extra`; returns the program's own
        indices."""
        room = 3 - len(extra)
        grid = [*(x.hi for x in axes[:room]), *extra]
        self.b = Builder(self.name, tuple(grid) or (ONE,))
        self.e = Evaluator(self.b, self.normal.op, self.resolve, self.real)
        return [pid(n) for n in range(min(room, len(axes)))]

    def over(
        self, axes: Sequence[OpAxis], point: list[Expr], body: Callable[[list[Expr]], None]
    ) -> None:
        """Loops over the shared axes that have no program id of their own."""
        if len(point) == len(axes):
            self.e.enter()
            body(point)
            self.e.leave()
            return
        axis = axes[len(point)]
        name = free_name(self.normal, axis.name)
        self.b.loop(name, ZERO, axis.hi, 1, (), lambda v: self.over(axes, [*point, v], body))

    def rows(self) -> Kernel:
        if self.s.rows > 1:
            return self.together()
        start = self.open(self.a.shared)
        self.over(self.a.shared, start, self.row)
        return self.b.kernel()

    def together(self) -> Kernel:
        """Neighbouring rows side by side; what is left at the end one by one."""
        if not self.a.shared or self.s.save == "home":
            raise Unsupported("there are no rows side by side")
        first, count = self.a.shared[0], self.s.rows
        start = self.open((OpAxis(first.name, ZERO, cdiv(first.hi, count)), *self.a.shared[1:]))
        side = Axis(f"r{count}", count)
        self.axes[side.name] = "unroll"
        base = pid(0) * count

        def several(point: list[Expr]) -> None:
            self.side = self.e.side = (side,)
            self.row([base + side.lane, *point[1:]])
            self.side = self.e.side = ()

        def single(point: list[Expr]) -> None:
            def one(v: Expr) -> None:
                self.e.enter()
                self.row([v, *point[1:]])
                self.e.leave()

            top = minimum(base + count, first.hi)
            self.b.loop(free_name(self.normal, first.name), base, top, 1, (), one)

        def program(point: list[Expr]) -> None:
            full = call("le", base + count, first.hi)
            self.b.branch(full, lambda: several(point), lambda: single(point))

        self.over(self.a.shared, start, program)
        return self.b.kernel()

    def row(self, point: list[Expr]) -> None:
        """All passes over the rows at a point."""
        self.e.enter()
        self.point = point
        self.now = _State()
        if self.s.save != "no":
            self.declare_saved()
        for n in range(self.a.passes):
            self.one_pass(n)
        self.e.leave()

    def declare_saved(self) -> None:
        row = self.a.row
        assert row is not None
        if len(self.a.saveable) != 1:
            raise Unsupported("there is not exactly one row value to save")
        name = self.a.saveable[0]
        rows = (const(self.s.rows),) if self.s.rows > 1 else ()
        self.now.saved[name] = Buffer(f"{name}_row", "program", self.real, (*rows, row.hi))
        if self.s.save == "home":
            host = _host(self.a, self.real)
            if host is None or self.memory.strided:
                raise Unsupported("no output row can hold the saved values")
            lead = tuple(pid(n) for n in range(len(self.a.shared)))
            self.homes[f"{name}_row"] = (host.name, lead)

    def one_pass(self, n: int) -> None:
        """Scalars that are ready, then one sweep of the row: full tiles, then the rest."""
        row = self.a.row
        assert row is not None
        folds = [t for t in self.folds if self.a.phase[t.name] == n]
        rows = [t for t in self.outs if self.a.phase[t.name] == n and self.a.position[t.name] >= 0]
        for t in self.outs:
            if self.a.phase[t.name] == n and self.a.position[t.name] < 0:
                self.write(t, self.point, TRUE)
        if not folds and not rows:
            return
        # a register has fewer lanes where a pass keeps integers: such a pass has axes of its own
        whole = any(i.kind == "int" for t in folds for i in self.fold_view(t).init)
        hints = ("w", "y") if whole and n else ("c", "z")
        wide = self.axis(hints[0], self.s.width, self.s.vec)
        narrow = self.axis(hints[1], self.s.tail, min(self.s.vec, self.s.tail))
        end = row.hi // wide.extent * wide.extent
        parts = [
            self.sweep(n, folds, rows, wide, ZERO, end, False),
            self.sweep(n, folds, rows, narrow, end, row.hi, True),
        ]
        for k, t in enumerate(folds):
            assert t.body is not None
            self.now.scalars[t.name] = self.e.finish(
                Fold(t.body), self.merge(Fold(t.body), parts[0][k], parts[1][k])
            )
            if t.role == "output" or self.is_kept(t):
                self.write_value(t, self.point, self.now.scalars[t.name], TRUE)

    def sweep(
        self,
        n: int,
        folds: Sequence[Tensor],
        rows: Sequence[Tensor],
        axis: Axis,
        lo: Expr,
        hi: Expr,
        ragged: bool,
    ) -> list[tuple[Value, ...]]:
        """One loop over tiles of `axis`; returns each fold's state, reduced over the lanes."""
        every = [self.fold_view(t) for t in folds]
        views = list({f.state_key: f for f in every}.values())
        inits = [self.start(f, axis) for f in views]
        counts = [len(i) for i in inits]

        def body(v: Expr, *flat: Value) -> list[Value]:
            self.e.enter()
            at = v + axis.lane
            mask = call("lt", at, hi) if ragged else TRUE
            self.now.pass_, self.now.lane, self.now.mask, self.now.stored = n, at, mask, set()
            out: list[Value] = []
            state = list(flat)
            for f, count in zip(views, counts, strict=True):
                own, state = tuple(state[:count]), state[count:]
                out += self.advance(f, at, own, mask)
            for t in rows:
                index = list(self.point)
                index.insert(self.a.position[t.name], at)
                self.write(t, index, mask)
            self.e.leave()
            return out

        name = free_name(self.normal, f"n{n}")
        final = list(self.b.loop(name, lo, hi, axis.extent, [x for i in inits for x in i], body))
        result = {}
        for f, count in zip(views, counts, strict=True):
            own, final = tuple(final[:count]), final[count:]
            result[f.state_key] = self.across(f, own, axis)
        return [result[f.state_key] for f in every]

    def start(self, f: Fold, axis: Axis) -> list[Value]:
        return [self.b.full(i.attr, self.e.dtype(i), *self.side, axis) for i in f.init]

    def fold_view(self, t: Tensor) -> Fold:
        """The member's fold at this program's indices."""
        assert t.body is not None
        f = Fold(
            substitute(t.body, {var(a.name): p for a, p in zip(t.axes, self.point, strict=True)})
        )
        if any(i.op != "const" for i in f.init):
            raise Unsupported(f"{t.name} starts from a value that is not constant")
        return f

    def advance(self, f: Fold, at: Expr, state: Sequence[Value], mask: Expr) -> list[Value]:
        new = self.e.step(f, {var(f.binders[0]): at}, state, mask)
        if mask is not TRUE:
            live = self.b.index(mask)
            new = tuple(self.e.pick(live, a, b) for a, b in zip(new, state, strict=True))
        return list(new)

    def across(self, f: Fold, state: Sequence[Value], axis: Axis) -> tuple[Value, ...]:
        """Partial states of the lanes combined into one."""
        if f.kind in MONOIDS:
            return (self.b.reduce(str(f.kind), state[0], axis),)
        if f.kind in ARG_FOLDS:
            return self.across_best(f, state, axis)
        return self.e.joined(
            f, state, lambda monoid, v: self.b.reduce(monoid, self.e.spread(v, (axis,)), axis)
        )

    def across_best(self, f: Fold, state: Sequence[Value], axis: Axis) -> tuple[Value, ...]:
        """Best value over the lanes and the least index that attains it; the first NaN wins."""
        best, at = state
        b = self.b
        seen = b.ew("le", 0, at)
        top = b.reduce(ARG_FOLDS[str(f.kind)], best, axis)
        hit = b.ew("eq", best, top)
        if best.dtype.kind == "real":
            wild = b.ew("isnan", best)
            odd = b.ew("isnan", top)
            hit = b.ew("or", hit, b.ew("and", odd, wild))
        hit = b.ew("and", hit, seen)
        least = b.reduce("min", b.ew("select", hit, at, b.full(2**63 - 1, I64)), axis)
        none = b.ew("eq", least, b.full(2**63 - 1, I64))
        return top, b.ew("select", none, b.full(-1, I64), least)

    def merge(self, f: Fold, one: Sequence[Value], two: Sequence[Value]) -> tuple[Value, ...]:
        if f.kind in MONOIDS:
            return (self.b.ew(MONOIDS[str(f.kind)].row, one[0], two[0]),)
        if f.kind is None:
            return self.e.merged(f, one, two)
        b = self.b
        a_best, a_at = one
        b_best, b_at = two
        better = b.ew("lt", a_best, b_best) if f.kind == "argmax" else b.ew("lt", b_best, a_best)
        if a_best.dtype.kind == "real":
            fresh = b.ew("not", b.ew("isnan", a_best))
            better = b.ew("or", better, b.ew("and", b.ew("isnan", b_best), fresh))
        take = b.ew("or", better, b.ew("lt", a_at, b.full(0, I64)))
        take = b.ew("and", take, b.ew("le", 0, b_at))
        return b.ew("select", take, b_best, a_best), b.ew("select", take, b_at, a_at)

    # -- columns -----------------------------------------------------------------------------------

    def column(self) -> Kernel:
        if not self.a.shared:
            raise Unsupported("there is no axis for the lanes")
        *outer, last = self.a.shared
        width = self.s.width
        wide = self.axis("c", width, self.s.vec)
        narrow = self.axis("z", self.s.tail, min(self.s.vec, self.s.tail))
        start = self.open(outer, (cdiv(last.hi, width),))
        if len(outer) > 2:
            raise Unsupported("more than two axes beside the lanes")
        base = pid(len(outer)) * width

        def full() -> None:
            self.strip(start, base + wide.lane, wide, TRUE)

        def rest() -> None:
            def narrow_strip(v: Expr) -> None:
                at = v + narrow.lane
                self.strip(start, at, narrow, call("lt", at, last.hi))

            self.b.loop(free_name(self.normal, "z"), base, last.hi, narrow.extent, (), narrow_strip)

        self.b.branch(call("le", base + width, last.hi), full, rest)
        return self.b.kernel()

    def strip(self, outer: list[Expr], at: Expr, axis: Axis, mask: Expr) -> None:
        """All passes for the lanes at `at`: each lane carries its own state down the folded
        axis."""
        row = self.a.row
        assert row is not None
        self.e.enter()
        self.point = [*outer, at]
        self.now = _State(mask=mask)
        for n in range(self.a.passes):
            self.now.pass_ = n
            for t in self.outs:
                if self.a.phase[t.name] == n and self.a.position[t.name] < 0:
                    self.write(t, self.point, mask)
            folds = [t for t in self.folds if self.a.phase[t.name] == n]
            rows = [
                t for t in self.outs if self.a.phase[t.name] == n and self.a.position[t.name] >= 0
            ]
            if not folds and not rows:
                continue
            views = [self.fold_view(t) for t in folds]
            distinct = list({f.state_key: f for f in views}.values())
            found = self.descend(n, distinct, rows, axis, mask)
            states = {f.state_key: own for f, own in zip(distinct, found, strict=True)}
            for t, f in zip(folds, views, strict=True):
                self.now.scalars[t.name] = self.e.finish(f, states[f.state_key])
                if t.role == "output" or self.is_kept(t):
                    self.write_value(t, self.point, self.now.scalars[t.name], mask)
        self.e.leave()

    def descend(
        self, n: int, views: Sequence[Fold], rows: Sequence[Tensor], axis: Axis, mask: Expr
    ) -> list[tuple[Value, ...]]:
        """Down the folded axis; with `level`, sums go by blocks of that many rows into a second
        sum."""
        row = self.a.row
        assert row is not None
        counts = [len(f.init) for f in views]

        def start() -> list[Value]:
            return [x for f in views for x in self.start(f, axis)]

        def body(v: Expr, *flat: Value) -> list[Value]:
            self.e.enter()
            out: list[Value] = []
            state = list(flat)
            for f, count in zip(views, counts, strict=True):
                own, state = tuple(state[:count]), state[count:]
                out += self.e.step(f, {var(f.binders[0]): v}, own, mask)
            for t in rows:
                index = list(self.point)
                index.insert(self.a.position[t.name], v)
                self.write(t, index, mask)
            self.e.leave()
            return out

        level, name = self.s.level, free_name(self.normal, f"n{n}")
        if not level or rows or any(f.kind != "sum" for f in views):
            if level:
                raise Unsupported("blocks of rows serve sums only")
            final = self.b.loop(name, ZERO, row.hi, 1, start(), body)
            self.unrolled.append(f"{name}*")
        else:

            def block(v: Expr, *total: Value) -> list[Value]:
                top = minimum(v + level, row.hi)
                part = self.b.loop(name, v, top, 1, start(), body)
                return [self.b.ew("add", x, y) for x, y in zip(total, part, strict=True)]

            self.unrolled.append(f"{name}*")
            final = self.b.loop(
                free_name(self.normal, f"b{n}"), ZERO, row.hi, level, start(), block
            )
        out, rest = [], list(final)
        for count in counts:
            own, rest = tuple(rest[:count]), rest[count:]
            out.append(own)
        return out

    # -- pointwise ---------------------------------------------------------------------------------

    def flat(self) -> Kernel:
        """No folds: blocks of the last axis, lanes along it."""
        if self.a.row is not None:
            raise Unsupported("the group has folds")
        if not self.a.shared:
            self.open(())
            self.point = []
            for t in self.outs:
                self.write(t, [], TRUE)
            return self.b.kernel()
        *outer, last = self.a.shared
        block = self.s.block
        wide = self.axis("c", self.s.width, self.s.vec)
        narrow = self.axis("z", self.s.tail, min(self.s.vec, self.s.tail))
        start = self.open(outer, (cdiv(last.hi, block),))
        base = pid(min(len(outer), 2)) * block
        top = minimum(base + block, last.hi)

        def part(axis: Axis, lo: Expr, hi: Expr, ragged: bool, point: list[Expr]) -> None:
            def body(v: Expr) -> None:
                self.e.enter()
                at = v + axis.lane
                mask = call("lt", at, hi) if ragged else TRUE
                self.now.mask = mask
                self.point = [*point, at]
                self.e.lanes = (axis,)
                for t in self.outs:
                    self.write(t, self.point, mask)
                self.e.leave()

            self.b.loop(free_name(self.normal, "n"), lo, hi, axis.extent, (), body)

        def program(point: list[Expr]) -> None:
            end = base + (top - base) // wide.extent * wide.extent
            part(wide, base, end, False, point)
            part(narrow, end, top, True, point)

        self.over(outer, start, program)
        return self.b.kernel()

    # -- reads and writes --------------------------------------------------------------------------

    def is_kept(self, t: Tensor) -> bool:
        """Whether a later group reads this fold from memory."""
        return t.name in self.memory.kept

    def resolve(self, name: str, index: tuple[Expr, ...], mask: Expr) -> Resolved:
        t = self.normal.tensor(name)
        if name in self.now.scalars:
            return self.now.scalars[name]
        if name in self.now.saved:
            return self.saved(t, index, mask)
        if t.role == "input" or name in self.a.group.earlier:
            return self.memory.of(name)
        return inline(t, read(name, index, t.kind), self.a.inner)

    def saved(self, t: Tensor, index: tuple[Expr, ...], mask: Expr) -> Resolved:
        """A row value: computed and stored in the first pass that needs it, loaded in later
        ones."""
        buffer = self.now.saved[t.name]
        side = [a.lane for a in self.side] or [ZERO] * (len(buffer.shape) - 1)
        assert t.body is not None
        reads = [x for x in walk(self.a.group.expand(t.body)) if x.op == "read"]
        first = max(
            (self.a.phase[x.attr[0]] + 1 for x in reads if x.attr[0] in self.a.phase), default=0
        )
        if self.now.pass_ > first:
            other = None if mask is TRUE else 0.0
            return self.b.load(buffer, *side, self.now.lane, mask=mask, other=other)
        v = self.e.value(inline(t, read(t.name, index, t.kind)), mask)
        if t.name not in self.now.stored:
            self.now.stored.add(t.name)
            self.b.store(buffer, *side, self.now.lane, v, mask=self.now.mask)
        return v

    def write(self, t: Tensor, index: Sequence[Expr], mask: Expr) -> None:
        assert t.body is not None
        body = substitute(t.body, {var(a.name): i for a, i in zip(t.axes, index, strict=True)})
        self.write_value(t, index, self.e.value(body, mask), mask)

    def write_value(self, t: Tensor, index: Sequence[Expr], v: Value, mask: Expr) -> None:
        buffer = self.memory.of(t.name)
        self.b.store(buffer, *index, self.b.cast(v, buffer.dtype), mask=mask)
