"""A contraction, folds over its columns, and a second contraction over them: one kernel by rows.

A program takes a few rows of the result. The first contraction's entries for these rows stay in
the program's scratch, columns by rows, so that lanes run over rows: folds over the columns need no
combination across lanes, and the second contraction reads its row factor in place. Guards end the
loops over columns where no row of the program needs more of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from opwright.compiler.buffers import Memory
from opwright.compiler.evaluate import Evaluator, Resolved, Unsupported
from opwright.compiler.strategies import bounds, contraction, lanes
from opwright.compiler.strategies.group import inline, is_fold, same_range
from opwright.ir.dtypes import DType
from opwright.ir.expr import (
    TRUE,
    ZERO,
    Expr,
    Fold,
    call,
    cdiv,
    const,
    free_vars,
    maximum,
    minimum,
    pid,
    read,
    read_parts,
    substitute,
    var,
    walk,
)
from opwright.ir.op import OpAxis, Tensor
from opwright.ir.tile import Axis, Buffer, Builder, Kernel, Placement, Value


@dataclass(frozen=True, slots=True)
class Form:
    """`first` gives entries by rows and columns, `middle` folds them over the columns, `last`
    contracts them over the columns; `phase` is the pass in which its row factor is ready."""

    first: contraction.Form
    middle: lanes.Analysis
    last: contraction.Form
    phase: int

    @property
    def rows(self) -> int:
        return self.first.rows


def recognise(
    first: contraction.Form, middle: lanes.Analysis, last: contraction.Form, later: set[str]
) -> Form:
    """Raises Unsupported with the reason when the three do not make a chain; `later` are tensors
    that other groups read."""
    t, u = first.result, last.result
    if first.epilogue or t.role == "output" or t.name in later:
        raise Unsupported(f"{t.name} is needed in memory")
    same = len(t.axes) == len(u.axes) and first.rows == last.rows
    if not same or not all(map(same_range, t.axes[:-1], u.axes[:-1])):
        raise Unsupported(f"{t.name} and {u.name} have other rows")
    columns = t.axes[first.columns]
    if middle.row is None or middle.inner or any(p >= 0 for p in middle.position.values()):
        raise Unsupported("what stands between is not folds over the columns")
    if not same_range(middle.row, columns) or not same_range(last.depth, columns):
        raise Unsupported("the folds run over something else than the columns")
    if len(middle.shared) != len(t.axes) - 1:
        raise Unsupported("the folds have other rows")
    if not all(map(same_range, middle.shared, t.axes[:-1])):
        raise Unsupported("the folds have other rows")
    names = {m.name for m in middle.group.members}
    for m in middle.group.members:
        assert m.body is not None
        _check_reads(t, m, middle.group.expand(m.body))
    own = [var(a.name) for a in u.axes[:-1]]
    for x in walk(last.left):
        if x.op == "read" and x.attr[0] == t.name:
            if list(read_parts(x)[1]) != [*own, var(last.depth.name)]:
                raise Unsupported(f"{u.name} reads {t.name} elsewhere")
        elif x.op == "read" and x.attr[0] in names and list(read_parts(x)[1]) != own:
            raise Unsupported(f"{u.name} reads {x.attr[0]} of another row")
    if not any(x.op == "read" and x.attr[0] == t.name for x in walk(last.left)):
        raise Unsupported(f"{u.name} does not read {t.name}")
    for e in (
        last.right,
        *(last.group.expand(v.body) for v in last.epilogue if v.body is not None),
    ):
        for x in walk(e):
            if x.op == "read" and x.attr[0] == t.name:
                raise Unsupported(f"{t.name} is read after the second contraction")
    for x in walk(last.right):
        if x.op == "read" and x.attr[0] in names:
            raise Unsupported(f"the second factor reads {x.attr[0]}")
    for v in last.epilogue:
        here = [var(a.name) for a in v.axes[:-1]]
        assert v.body is not None
        for x in walk(last.group.expand(v.body)):
            if x.op == "read" and x.attr[0] == t.name:
                raise Unsupported(f"{v.name} reads {t.name}")
            if x.op == "read" and x.attr[0] in names and list(read_parts(x)[1]) != here:
                raise Unsupported(f"{v.name} reads {x.attr[0]} of another row")
    return Form(first, middle, last, _ready(t, middle, last))


def _check_reads(t: Tensor, m: Tensor, e: Expr) -> None:
    own = [var(a.name) for a in m.axes]
    for x in walk(e):
        if x.op == "read" and x.attr[0] == t.name:
            if not is_fold(m) or list(read_parts(x)[1]) != [*own, var(Fold(e).binders[0])]:
                raise Unsupported(f"{m.name} reads {t.name} elsewhere")


def _ready(t: Tensor, middle: lanes.Analysis, last: contraction.Form) -> int:
    """The pass that may replace the entries: no later one reads them, and what the row factor reads
    is there."""
    reads = {x.attr[0] for x in walk(last.left) if x.op == "read"}
    out = 0
    for m in middle.group.members:
        assert m.body is not None
        phase = middle.phase[m.name]
        if m.name in reads:
            out = max(out, phase + 1)
        body = walk(middle.group.expand(m.body))
        if any(x.op == "read" and x.attr[0] == t.name for x in body):
            out = max(out, phase)
    return out


@dataclass(frozen=True, slots=True)
class ChainSchedule:
    """Rows of a program `width`; register tiles: `up` columns of the first contraction at once,
    `mr` rows by `nr` columns of the second; vectors of `vec` lanes."""

    width: int = 32
    up: int = 14
    mr: int = 8
    nr: int = 32
    vec: int = 16
    pin: bool = False
    unroll: int = 2
    threads: str = "dynamic"


def lower(
    name: str, form: Form, memory: Memory, s: ChainSchedule, real: DType
) -> list[tuple[Kernel, Placement]]:
    """Two launches: pack the first contraction's column factor; then programs of rows."""
    if s.width % s.mr or s.nr % s.vec or s.width % s.vec:
        raise Unsupported("tiles are not multiples of each other or of a vector")
    emitter = _Emitter(name, form, memory, s, real)
    return [emitter.pack(), emitter.rows()]


class _Emitter:
    def __init__(
        self, name: str, form: Form, memory: Memory, s: ChainSchedule, real: DType
    ) -> None:
        self.name, self.f, self.memory, self.s, self.real = name, form, memory, s, real
        self.group = form.last.group
        first, last = form.first, form.last
        t = first.result
        self.columns, self.depth = t.axes[first.columns].hi, first.depth.hi
        self.m, self.n = t.axes[form.rows].hi, last.result.axes[last.columns].hi
        over = free_vars(first.right)
        self.shared = [b for b in first.batch if t.axes[b].name in over]
        lead = tuple(t.axes[b].hi for b in self.shared)
        groups = cdiv(self.columns, s.up)
        role, up, width = "program", const(s.up), const(s.width)
        self.packed = Buffer(f"{t.name}_pb", "plan", real, (*lead, groups, self.depth, up))
        self.row_factor = Buffer(f"{t.name}_pa", role, real, (self.depth, width))
        self.entries = Buffer(f"{t.name}_rows", role, real, (groups * s.up, width))
        self.x, self.u = Axis("x", s.width), Axis("u", s.up)
        self.r, self.c = Axis("r", s.mr), Axis("c", s.nr)
        self.kept: dict[str, Buffer] = {}  # results of folds, by row, for the epilogue
        self.scalars: dict[str, Value] = {}
        self.entry: Value | None = None
        self.acc: Value | None = None
        self.row: Expr | None = None  # of the epilogue's tile, within the program

    def open(self, name: str, grid: Sequence[Expr]) -> None:
        self.b = Builder(name, tuple(grid))
        self.e = Evaluator(self.b, self.group.normal.op, self.resolve, self.real)

    def resolve(self, name: str, index: tuple[Expr, ...], mask: Expr) -> Resolved:
        t = self.group.normal.tensor(name)
        if name == self.f.first.result.name:
            assert self.entry is not None
            return self.entry
        if name == self.f.last.result.name and self.acc is not None:
            return self.acc
        if name in self.scalars:
            return self.scalars[name]
        if name in self.kept and self.row is not None:
            return self.b.load(self.kept[name], self.row + self.r.lane)
        if t.role == "input" or name in self.f.first.group.earlier:
            return self.memory.of(name)
        return inline(t, read(name, index, t.kind))

    def loop(
        self,
        hint: str,
        hi: Expr,
        step: int,
        state: Sequence[Value],
        body: Callable[..., Iterable[Value] | None],
    ) -> tuple[Value, ...]:
        def inner(v: Expr, *carried: Value) -> list[Value]:
            self.e.enter()
            out = list(body(v, *carried) or ())
            self.e.leave()
            return out

        return self.b.loop(hint, ZERO, hi, step, state, inner)

    def spread(self, v: Value, *axes: Axis) -> Value:
        missing = [a for a in axes if a not in v.axes]
        return v if not missing else self.b.ew("add", v, self.b.full(0.0, self.real, *missing))

    def live(self, v: Value, mask: Expr) -> Value:
        """The value where the mask holds, 0 elsewhere."""
        if mask is TRUE:
            return v
        return self.b.ew("select", self.b.index(mask), v, self.b.full(0.0, self.real))

    # -- the first contraction's columns -----------------------------------------------------------

    def pack(self) -> tuple[Kernel, Placement]:
        """The column factor by groups of columns, 0 beyond the last column."""
        f, s, u = self.f.first, self.s, self.u
        t = f.result
        self.open(f"{self.name}_pack", [cdiv(self.columns, s.up), *self.extents(self.shared)])

        def one(at: dict[int, Expr]) -> None:
            lead = [at[b] for b in self.shared]
            column = pid(0) * s.up + u.lane

            def copy(mask: Expr) -> None:
                def step(k: Expr) -> None:
                    point = {var(t.axes[b].name): x for b, x in at.items()}
                    point |= {var(t.axes[f.columns].name): column, var(f.depth.name): k}
                    v = self.live(self.e.value(substitute(f.right, point), mask), mask)
                    self.b.store(self.packed, *lead, pid(0), k, u.lane, self.spread(v, u))

                self.loop("k", self.depth, 1, (), step)

            whole = call("le", pid(0) * s.up + s.up, self.columns)
            inside = call("lt", column, self.columns)
            self.b.branch(whole, lambda: copy(TRUE), lambda: copy(inside))

        self.batches(self.shared, t, one)
        return self.b.kernel(), Placement(axes={"u": "unroll"})

    def extents(self, which: Sequence[int]) -> list[Expr]:
        return [self.f.first.result.axes[b].hi for b in which[:2]]

    def batches(
        self, which: Sequence[int], t: Tensor, body: Callable[[dict[int, Expr]], None]
    ) -> None:
        """The first two batch axes are program ids, further ones are loops."""

        def nest(at: dict[int, Expr]) -> None:
            if len(at) == len(which):
                self.e.enter()
                body(at)
                self.e.leave()
                return
            n = which[len(at)]
            self.b.loop(t.axes[n].name, ZERO, t.axes[n].hi, 1, (), lambda v: nest({**at, n: v}))

        nest({b: pid(1 + k) for k, b in enumerate(which[:2])})

    # -- rows --------------------------------------------------------------------------------------

    def rows(self) -> tuple[Kernel, Placement]:
        f, s = self.f, self.s
        t = f.first.result
        self.open(self.name, [cdiv(self.m, s.width), *self.extents(f.first.batch)])
        self.top = pid(0) * s.width
        self.here = self.top + self.x.lane
        self.mask = call("lt", self.here, self.m)

        def one(at: dict[int, Expr]) -> None:
            self.scalars, self.kept, self.row = {}, {}, None
            self.at = {**at, f.rows: self.here}
            self.point = [self.at[n] for n in range(len(t.axes) - 1)]
            self.limit = self.ends()
            whole = call("le", self.top + s.width, self.m)
            self.b.branch(whole, lambda: self.pack_rows(TRUE), lambda: self.pack_rows(self.mask))
            self.entries_of_rows(at)
            self.e.enter()
            for n in range(max(self.f.phase + 1, self.f.middle.passes)):
                self.one_pass(n)
            self.keep_results()
            self.e.leave()
            self.second(at)

        self.batches(f.first.batch, t, one)
        place: dict[str, str | tuple[str, int]] = {"u": "unroll", "r": "unroll"}
        place |= {"x": ("vec", s.vec), "c": ("vec", s.vec)}
        pin = ("panel*",) if s.pin else ()
        unroll = {"depth*": s.unroll, "j*": s.unroll} if s.unroll > 1 else {}
        placement = Placement(axes=place, deep=("*",), pin=pin, unroll=unroll, threads=s.threads)
        return self.b.kernel(), placement

    def ends(self) -> Expr:
        """How many columns some row of the program needs."""
        first, last = self.f.first.result, self.f.last
        bottom = minimum(self.top + self.s.width, self.m) - 1
        row = self.f.rows
        found = []
        for m in self.f.middle.group.members:
            assert m.body is not None
            e = self.f.middle.group.expand(m.body)
            if any(x.op == "read" and x.attr[0] == first.name for x in walk(e)):
                fold = Fold(e)
                axis = OpAxis(fold.binders[0], *fold.ranges[0])
                found.append(bounds.end(axis, bounds.conditions(fold), m.axes[row].name, bottom))
        under = bounds.nonzero(last.left)
        found.append(bounds.end(last.depth, under, last.result.axes[row].name, bottom))
        out = found[0]
        for e in found[1:]:
            out = maximum(out, e)
        return out

    def pack_rows(self, mask: Expr) -> None:
        f = self.f.first
        names = [a.name for a in f.result.axes]

        def step(k: Expr) -> None:
            point = {var(names[n]): x for n, x in self.at.items()} | {var(f.depth.name): k}
            v = self.live(self.e.value(substitute(f.left, point), mask), mask)
            self.b.store(self.row_factor, k, self.x.lane, self.spread(v, self.x))

        self.loop("k", self.depth, 1, (), step)

    def entries_of_rows(self, at: Mapping[int, Expr]) -> None:
        b, s = self.b, self.s
        lead = [at[n] for n in self.shared]

        def group(g: Expr) -> None:
            def step(k: Expr, acc: Value) -> list[Value]:
                y = b.load(self.row_factor, k, self.x.lane, name="panel")
                x = b.load(self.packed, *lead, g, k, self.u.lane, name="a")
                return [b.ew("fma", x, y, acc)]

            zero = b.full(0.0, self.real, self.u, self.x, name="acc")
            (acc,) = self.loop("depth", self.depth, 1, [zero], step)
            b.store(self.entries, g * s.up + self.u.lane, self.x.lane, acc)

        self.loop("g", cdiv(self.limit, s.up), 1, (), group)

    def view(self, m: Tensor) -> Fold:
        """A member's fold at this program's rows."""
        assert m.body is not None
        point = {var(a.name): x for a, x in zip(m.axes, self.point, strict=True)}
        f = Fold(substitute(m.body, point))
        if any(i.op != "const" for i in f.init):
            raise Unsupported(f"{m.name} starts from a value that is not constant")
        return f

    def one_pass(self, n: int) -> None:
        """Down the columns: the folds of this pass; in the last one the second contraction's row
        factor takes the place of the entries."""
        middle, last = self.f.middle, self.f.last
        members = [m for m in middle.group.members if middle.phase[m.name] == n]
        for m in members:
            if not is_fold(m):
                self.write(m)
        folds = [m for m in members if is_fold(m)]
        final = n == self.f.phase
        if not folds and not final:
            return
        views = [self.view(m) for m in folds]
        counts = [len(f.init) for f in views]
        start = [self.b.full(i.attr, self.e.dtype(i), self.x) for f in views for i in f.init]

        def body(j: Expr, *flat: Value) -> list[Value]:
            self.entry = self.b.load(self.entries, j, self.x.lane, name="entry")
            out: list[Value] = []
            state = list(flat)
            for f, count in zip(views, counts, strict=True):
                own, state = tuple(state[:count]), state[count:]
                out += self.e.step(f, {var(f.binders[0]): j}, own, self.mask)
            if final:
                axes = last.result.axes
                point = {var(a.name): x for a, x in zip(axes, self.point, strict=False)}
                point[var(last.depth.name)] = j
                v = self.e.value(substitute(last.left, point), self.mask)
                self.b.store(self.entries, j, self.x.lane, self.spread(v, self.x))
            self.entry = None
            return out

        rest = list(self.loop(f"n{n}", self.limit, 1, start, body))
        for m, f, count in zip(folds, views, counts, strict=True):
            own, rest = tuple(rest[:count]), rest[count:]
            self.scalars[m.name] = self.e.finish(f, own)
            if m.role == "output" or m.name in self.memory.kept:
                self.put(m, self.scalars[m.name])

    def write(self, m: Tensor) -> None:
        assert m.body is not None
        point = {var(a.name): x for a, x in zip(m.axes, self.point, strict=True)}
        self.put(m, self.e.value(substitute(m.body, point), self.mask))

    def put(self, m: Tensor, v: Value) -> None:
        buffer = self.memory.of(m.name)
        v = self.b.cast(v, buffer.dtype)
        self.b.store(buffer, *self.point, v, mask=self.mask)

    def keep_results(self) -> None:
        """Results of folds that the epilogue reads, in scratch: its rows are no lanes."""
        last = self.f.last
        wanted: dict[str, None] = {}
        for v in last.epilogue:
            assert v.body is not None
            for x in walk(last.group.expand(v.body)):
                if x.op == "read" and x.attr[0] in self.scalars:
                    wanted[x.attr[0]] = None
        for name in wanted:
            held = self.scalars[name]
            buffer = Buffer(f"{name}_kept", "program", held.dtype, (const(self.s.width),))
            self.kept[name] = buffer
            self.b.store(buffer, self.x.lane, self.spread(held, self.x))
        self.scalars = {}

    # -- the second contraction --------------------------------------------------------------------

    def second(self, at: Mapping[int, Expr]) -> None:
        """Register tiles over the program's rows; its column factor is read as it lies."""
        s = self.s

        def columns(left: Expr) -> None:
            def tile(row: Expr) -> None:
                column = left + self.c.lane
                whole = call("le", left + s.nr, self.n)
                below = call("le", self.top + row + s.mr, self.m)
                inside = call("lt", column, self.n)
                under = call("lt", self.top + row + self.r.lane, self.m)

                def run(columns: Expr) -> None:
                    acc = self.multiply(at, row, column, columns)
                    self.b.branch(
                        below,
                        lambda: self.finish(at, row, column, acc, columns),
                        lambda: self.finish(at, row, column, acc, call("and", under, columns)),
                    )

                self.b.branch(whole, lambda: run(TRUE), lambda: run(inside))

            self.loop("row", minimum(s.width, self.m - self.top), s.mr, (), tile)

        self.loop("left", self.n, s.nr, (), columns)

    def multiply(self, at: Mapping[int, Expr], row: Expr, column: Expr, mask: Expr) -> Value:
        b, f = self.b, self.f.last
        axes = f.result.axes
        point = {var(axes[n].name): x for n, x in at.items()} | {var(axes[f.columns].name): column}

        def step(j: Expr, acc: Value) -> list[Value]:
            here = {**point, var(f.depth.name): j}
            y = self.live(self.e.value(substitute(f.right, here), mask), mask)
            x = b.load(self.entries, j, row + self.r.lane, name="a")
            return [b.ew("fma", x, self.spread(y, self.c), acc)]

        zero = b.full(0.0, self.real, self.r, self.c, name="acc")
        (acc,) = self.loop("j", self.limit, 1, [zero], step)
        return acc

    def finish(
        self, at: Mapping[int, Expr], row: Expr, column: Expr, acc: Value, mask: Expr
    ) -> None:
        f, t = self.f.last, self.f.last.result
        where = {**at, f.rows: self.top + row + self.r.lane, f.columns: column}
        index = [where[n] for n in range(len(t.axes))]
        self.e.enter()
        self.acc, self.row = acc, row
        if t.role == "output" or t.name in self.memory.kept:
            buffer = self.memory.of(t.name)
            self.b.store(buffer, *index, self.b.cast(acc, buffer.dtype), mask=mask)
        for u in f.epilogue:
            assert u.body is not None
            point = {var(a.name): x for a, x in zip(u.axes, index, strict=True)}
            buffer = self.memory.of(u.name)
            v = self.spread(self.e.value(substitute(u.body, point), mask), self.r, self.c)
            self.b.store(buffer, *index, self.b.cast(v, buffer.dtype), mask=mask)
        self.acc = self.row = None
        self.e.leave()
