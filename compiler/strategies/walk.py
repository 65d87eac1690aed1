"""Folds over entries that are contractions themselves: one kernel by rows, with lanes along them.

A program takes a few rows. The entries that its rows walk over are contracted into the program's
scratch, by rows, so that folds over them need no combination across lanes and a second contraction
reads its row factor in place. Guards bound the walk where no row of the program needs more of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from opwright.compiler.buffers import Memory
from opwright.compiler.evaluate import Resolved, Unsupported
from opwright.compiler.strategies.emitter import Emitter
from opwright.compiler.strategies.group import free_name
from opwright.compiler.strategies.streams import Form, column_of, split
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
    minimum,
    pid,
    substitute,
    var,
    walk,
)
from opwright.ir.op import OpAxis, Tensor
from opwright.ir.tile import Axis, Buffer, Kernel, Placement, Value

Made = list[tuple[Kernel, Placement]]


@dataclass(frozen=True, slots=True)
class WalkSchedule:
    """Rows of a program `width`; register tiles: `up` entries of a row at once, `mr` rows by `nr`
    columns of a second contraction; vectors of `vec` lanes."""

    width: int = 32
    up: int = 14
    mr: int = 8
    nr: int = 32
    vec: int = 16
    pin: bool = False
    unroll: int = 2
    threads: str = "dynamic"


def lower(name: str, form: Form, memory: Memory, s: WalkSchedule, real: DType) -> Made:
    """A launch that packs the factor of every kind of entry, then programs of rows."""
    if s.width % s.mr or s.nr % s.vec or s.width % s.vec:
        raise Unsupported("tiles are not multiples of each other or of a vector")
    if form.reach is not None:
        raise Unsupported("a range differs from lane to lane")
    emitter = _Emitter(name, form, memory, s, real)
    return [*(emitter.pack(n) for n in form.inner), emitter.program()]


class _Entries:
    """One kind of entry: a contraction, which of its factors the walk varies, and its scratch."""

    def __init__(self, kernel: str, name: str, f: Form, s: WalkSchedule, real: DType) -> None:
        c = self.c = f.inner[name]
        index = f.index_of(name)
        at = {var(a.name): i for a, i in zip(c.result.axes, index, strict=True)}
        by_columns = index[c.columns] is var(f.walked.name)
        own, other = (c.left, c.right) if by_columns else (c.right, c.left)
        self.of_row, self.of_walk = substitute(own, at), substitute(other, at)
        over = free_vars(self.of_walk)
        self.lead = [a for a in f.shared if a is not f.rows and a.name in over]
        groups = cdiv(f.walked.hi, s.up)
        lead = tuple(a.hi for a in self.lead)
        up, width = const(s.up), const(s.width)
        depth = c.depth.hi
        self.packed = Buffer(f"{kernel}_{name}_pb", "plan", real, (*lead, groups, depth, up))
        self.row = Buffer(f"{kernel}_{name}_pa", "program", real, (depth, width))
        self.tile = Buffer(f"{kernel}_{name}_rows", "program", real, (groups * s.up, width))


class _Emitter(Emitter):
    def __init__(self, name: str, form: Form, memory: Memory, s: WalkSchedule, real: DType) -> None:
        super().__init__(form.group, memory, real)
        self.name, self.f, self.s = name, form, s
        self.entries = {n: _Entries(name, n, form, s, real) for n in form.inner}
        self.batch = [a for a in form.shared if a is not form.rows]
        self.n, self.m = form.walked.hi, form.rows.hi
        self.x, self.u = Axis("x", s.width), Axis("u", s.up)
        self.r, self.c = Axis("r", s.mr), Axis("c", s.nr)
        self.wide = [t for t in form.folds if t.name in form.owner.values()]
        self.narrow = [t for t in form.folds if t not in self.wide]
        self.phase = self.phases()
        self.factors = {t.name: self.scratch_of(t) for t in self.wide}
        self.kept: dict[str, Buffer] = {}  # results by row, for tiles whose rows are no lanes
        self.scalars: dict[str, Value] = {}
        self.at_hand: dict[str, Value] = {}  # entries of the current element
        self.acc: tuple[str, Value] | None = None
        self.row: Expr | None = None  # of a register tile, within the program
        self.walking: Expr | None = None

    def phases(self) -> dict[str, int]:
        """The pass over the entries in which a fold, or its row factor, is made."""
        out: dict[str, int] = {}
        for t in self.f.folds:
            e = self.f.entry(t.name)
            reads = {x.attr[0] for x in walk(e.share) if x.op == "read"}
            if reads & {w.name for w in self.wide}:
                raise Unsupported(f"{t.name} reads a result that has columns")
            out[t.name] = 1 + max((out[n] for n in reads if n in out), default=-1)
        return out

    def scratch_of(self, t: Tensor) -> Buffer:
        """Where the row factor of a second contraction lies: in the place of the entries if nobody
        reads them afterwards."""
        last = max(self.phase.values())
        alone = len(self.wide) == len(self.entries) == 1
        if alone and self.phase[t.name] == last:
            return next(iter(self.entries.values())).tile
        shape = (cdiv(self.n, self.s.up) * self.s.up, const(self.s.width))
        return Buffer(f"{self.name}_{t.name}_factor", "program", self.real, shape)

    # -- what strategies share ---------------------------------------------------------------------

    def resolve(self, name: str, index: tuple[Expr, ...], mask: Expr) -> Resolved:
        if name in self.entries:
            if name not in self.at_hand:
                assert self.walking is not None
                tile = self.entries[name].tile
                self.at_hand[name] = self.b.load(tile, self.walking, self.x.lane, name="entry")
            return self.at_hand[name]
        if self.acc is not None and name == self.acc[0]:
            return self.acc[1]
        if name in self.scalars:
            return self.scalars[name]
        if name in self.kept and self.row is not None:
            return self.b.load(self.kept[name], self.row + self.r.lane)
        return super().resolve(name, index, mask)

    def loop(
        self,
        hint: str,
        lo: Expr,
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

        return self.b.loop(free_name(self.group.normal, hint), lo, hi, step, state, inner)

    def spread(self, v: Value, *axes: Axis) -> Value:
        missing = [a for a in axes if a not in v.axes]
        return v if not missing else self.b.ew("add", v, self.b.full(0.0, self.real, *missing))

    def live(self, v: Value, mask: Expr) -> Value:
        """The value where the mask holds, 0 elsewhere."""
        if mask is TRUE:
            return v
        return self.b.ew("select", self.b.index(mask), v, self.b.full(0.0, self.real))

    def batches(self, axes: Sequence[OpAxis], body: Callable[[dict[Expr, Expr]], None]) -> None:
        """The first two batch axes are program ids, further ones are loops."""

        at: dict[Expr, Expr] = {var(a.name): pid(1 + k) for k, a in enumerate(axes[:2])}
        self.over(axes[2:], at, body)

    # -- the factor that the walk varies -----------------------------------------------------------

    def pack(self, name: str) -> tuple[Kernel, Placement]:
        """By groups of entries, 0 beyond the last one."""
        own, s, u = self.entries[name], self.s, self.u
        grid = [cdiv(self.n, s.up), *(a.hi for a in own.lead[:2])]
        alone = len(self.entries) == 1
        self.open(f"{self.name}_pack" if alone else f"{self.name}_pack_{name}", grid)

        def one(at: dict[Expr, Expr]) -> None:
            place = pid(0) * s.up + u.lane

            def copy(mask: Expr) -> None:
                def step(k: Expr) -> None:
                    here = {**at, var(self.f.walked.name): place, var(own.c.depth.name): k}
                    v = self.live(self.e.value(substitute(own.of_walk, here), mask), mask)
                    self.b.store(own.packed, *at.values(), pid(0), k, u.lane, self.spread(v, u))

                self.loop("k", ZERO, own.c.depth.hi, 1, (), step)

            whole = call("le", pid(0) * s.up + s.up, self.n)
            inside = call("lt", place, self.n)
            self.b.branch(whole, lambda: copy(TRUE), lambda: copy(inside))

        self.batches(own.lead, one)
        return self.b.kernel(), Placement(axes={"u": "unroll"})

    # -- rows --------------------------------------------------------------------------------------

    def program(self) -> tuple[Kernel, Placement]:
        s = self.s
        self.open(self.name, [cdiv(self.m, s.width), *(a.hi for a in self.batch[:2])])
        self.top = pid(0) * s.width
        self.mask = call("lt", self.top + self.x.lane, self.m)

        def one(at: dict[Expr, Expr]) -> None:
            self.scalars, self.kept, self.row = {}, {}, None
            self.batch_at = at
            self.here = {**at, var(self.f.rows.name): self.top + self.x.lane}
            self.lo, self.hi = self.ends()
            for own in self.entries.values():
                self.pack_rows(own)
                self.entries_of_rows(own)
            self.e.enter()
            for n in range(1 + max(self.phase.values())):
                self.one_pass(n)
            for t in self.f.after:
                if t.name not in self.f.columns:
                    self.put(t, self.e.value(self.at_row(t), self.mask))
            self.keep_results()
            self.e.leave()
            for t in self.wide:
                self.second(t)

        self.batches(self.batch, one)
        place: dict[str, str | tuple[str, int]] = {"u": "unroll", "x": ("vec", s.vec)}
        if self.wide:
            place |= {"r": "unroll", "c": ("vec", s.vec)}
        pin = ("panel*",) if s.pin else ()
        loops = ("depth*", "j*") if self.wide else ("depth*",)
        unroll = dict.fromkeys(loops, s.unroll) if s.unroll > 1 else {}
        placement = Placement(axes=place, deep=("*",), pin=pin, unroll=unroll, threads=s.threads)
        return self.b.kernel(), placement

    def ends(self) -> tuple[Expr, Expr]:
        """The part of the walk that some row of the program needs."""
        last = minimum(self.top + self.s.width, self.m) - 1
        lo, hi = self.f.span(self.top, last)
        return substitute(lo, self.batch_at), substitute(hi, self.batch_at)

    def pack_rows(self, own: _Entries) -> None:
        """The factor of the program's rows, 0 beyond the last one."""

        def copy(mask: Expr) -> None:
            def step(k: Expr) -> None:
                here = {**self.here, var(own.c.depth.name): k}
                v = self.live(self.e.value(substitute(own.of_row, here), mask), mask)
                self.b.store(own.row, k, self.x.lane, self.spread(v, self.x))

            self.loop("k", ZERO, own.c.depth.hi, 1, (), step)

        whole = call("le", self.top + self.s.width, self.m)
        self.b.branch(whole, lambda: copy(TRUE), lambda: copy(self.mask))

    def entries_of_rows(self, own: _Entries) -> None:
        b, s = self.b, self.s
        lead = [self.batch_at[var(a.name)] for a in own.lead]

        def group(g: Expr) -> None:
            def step(k: Expr, acc: Value) -> list[Value]:
                y = b.load(own.row, k, self.x.lane, name="panel")
                x = b.load(own.packed, *lead, g, k, self.u.lane, name="a")
                return [b.ew("fma", x, y, acc)]

            zero = b.full(0.0, self.real, self.u, self.x, name="acc")
            (acc,) = self.loop("depth", ZERO, own.c.depth.hi, 1, [zero], step)
            b.store(own.tile, g * s.up + self.u.lane, self.x.lane, acc)

        first = ZERO if self.lo is ZERO else self.lo // s.up
        self.loop("g", first, cdiv(self.hi, s.up), 1, (), group)

    def at_row(self, t: Tensor) -> Expr:
        """A member's definition at this program's rows."""
        assert t.body is not None
        names = zip(t.axes, self.f.shared, strict=False)
        return substitute(t.body, {var(a.name): self.here[var(b.name)] for a, b in names})

    def one_pass(self, n: int) -> None:
        """Along the walk: folds of this pass, and row factors of second contractions."""
        folds = [t for t in self.narrow if self.phase[t.name] == n]
        wide = [t for t in self.wide if self.phase[t.name] == n]
        views = [Fold(self.at_row(t)) for t in folds]
        if any(i.op != "const" for f in views for i in f.init):
            raise Unsupported("a fold starts from a value that is not constant")
        counts = [len(f.init) for f in views]
        start = [self.b.full(i.attr, self.e.dtype(i), self.x) for f in views for i in f.init]

        def body(j: Expr, *flat: Value) -> list[Value]:
            self.at_hand, self.walking = {}, j
            out: list[Value] = []
            state = list(flat)
            for f, count in zip(views, counts, strict=True):
                own, state = tuple(state[:count]), state[count:]
                new = self.e.step(f, {var(f.binders[0]): j}, own, self.mask)
                out += [self.e.spread(v, (self.x,)) for v in new]
            for t in wide:
                v = self.spread(self.row_factor(t, j), self.x)
                self.b.store(self.factors[t.name], j, self.x.lane, v)
            self.at_hand, self.walking = {}, None
            return out

        rest = list(self.loop(f"n{n}", self.lo, self.hi, 1, start, body))
        for t, f, count in zip(folds, views, counts, strict=True):
            own, rest = tuple(rest[:count]), rest[count:]
            self.scalars[t.name] = self.e.finish(f, own)
            if t.role == "output" or t.name in self.memory.kept:
                self.put(t, self.scalars[t.name])

    def row_factor(self, t: Tensor, j: Expr) -> Value:
        """What a row multiplies the columns of one element by; 0 where it leaves it out."""
        e = self.f.entry(t.name)
        left, _ = split(e.share, column_of(self.f.columns[t.name]))
        here = {**self.here, var(self.f.walked.name): j}
        guard = substitute(e.guard, here)
        under = call("and", self.mask, self.e.index(guard, self.mask))
        v = self.b.full(1.0, self.real)
        if left is not None:
            v = self.e.value(substitute(left, here), under)
        if guard is TRUE:
            return v
        return self.e.pick(self.e.value(guard, self.mask), v, self.b.full(0.0, v.dtype))

    def put(self, t: Tensor, v: Value) -> None:
        buffer = self.memory.of(t.name)
        index = [self.here[var(a.name)] for a in self.f.shared]
        self.b.store(buffer, *index, self.b.cast(v, buffer.dtype), mask=self.mask)

    def keep_results(self) -> None:
        """Results that readers with columns want, in scratch: their rows are no lanes."""
        wanted: dict[str, None] = {}
        for t in self.f.after:
            if t.name in self.f.columns:
                assert t.body is not None
                reads = (x for x in walk(self.group.expand(t.body)) if x.op == "read")
                wanted |= dict.fromkeys(x.attr[0] for x in reads if x.attr[0] in self.scalars)
        for name in wanted:
            held = self.scalars[name]
            buffer = Buffer(
                f"{self.name}_{name}_kept", "program", held.dtype, (const(self.s.width),)
            )
            self.kept[name] = buffer
            self.b.store(buffer, self.x.lane, self.e.spread(held, (self.x,)))
        self.scalars = {}

    # -- second contractions -----------------------------------------------------------------------

    def second(self, t: Tensor) -> None:
        """Register tiles over the program's rows; the column factor is read as it lies."""
        s = self.s
        own = self.f.columns[t.name]
        n = own.hi
        readers = [v for v in self.f.after if t.name in self.read_by(v)]
        if any(set(self.read_by(v)) != {t.name} for v in readers):
            raise Unsupported(f"{readers[0].name} reads several results with columns")

        def columns(left: Expr) -> None:
            def tile(row: Expr) -> None:
                column = left + self.c.lane
                whole = call("le", left + s.nr, n)
                below = call("le", self.top + row + s.mr, self.m)
                inside = call("lt", column, n)
                under = call("lt", self.top + row + self.r.lane, self.m)

                def run(mask: Expr) -> None:
                    acc = self.multiply(t, row, column, mask)
                    self.b.branch(
                        below,
                        lambda: self.finish(t, readers, row, column, acc, mask),
                        lambda: self.finish(t, readers, row, column, acc, call("and", under, mask)),
                    )

                self.b.branch(whole, lambda: run(TRUE), lambda: run(inside))

            self.loop("row", ZERO, minimum(s.width, self.m - self.top), s.mr, (), tile)

        self.loop("left", ZERO, n, s.nr, (), columns)

    def read_by(self, v: Tensor) -> list[str]:
        assert v.body is not None
        wide = {t.name for t in self.wide}
        reads = [x.attr[0] for x in walk(self.group.expand(v.body)) if x.op == "read"]
        return [n for n in reads if n in wide]

    def multiply(self, t: Tensor, row: Expr, column: Expr, mask: Expr) -> Value:
        b, e = self.b, self.f.entry(t.name)
        name = column_of(self.f.columns[t.name])
        _, right = split(e.share, name)

        def step(j: Expr, acc: Value) -> list[Value]:
            here = {**self.batch_at, var(self.f.walked.name): j, var(name): column}
            y = self.live(self.e.value(substitute(right, here), mask), mask)
            x = b.load(self.factors[t.name], j, row + self.r.lane, name="a")
            return [b.ew("fma", x, self.spread(y, self.c), acc)]

        zero = b.full(0.0, self.real, self.r, self.c, name="acc")
        (acc,) = self.loop("j", self.lo, self.hi, 1, [zero], step)
        return acc

    def finish(
        self,
        t: Tensor,
        readers: Sequence[Tensor],
        row: Expr,
        column: Expr,
        acc: Value,
        mask: Expr,
    ) -> None:
        rows = self.top + row + self.r.lane
        index = [rows if a is self.f.rows else self.batch_at[var(a.name)] for a in self.f.shared]
        index.append(column)
        self.e.enter()
        self.acc, self.row = (t.name, acc), row
        if t.role == "output" or t.name in self.memory.kept:
            self.store(t, index, acc, mask)
        for u in readers:
            assert u.body is not None
            at: Mapping[Expr, Expr] = {var(a.name): x for a, x in zip(u.axes, index, strict=True)}
            self.store(u, index, self.e.value(substitute(u.body, at), mask), mask)
        self.acc = self.row = None
        self.e.leave()

    def store(self, t: Tensor, index: Sequence[Expr], v: Value, mask: Expr) -> None:
        buffer = self.memory.of(t.name)
        v = self.b.cast(self.e.spread(v, (self.r, self.c)), buffer.dtype)
        self.b.store(buffer, *index, v, mask=mask)
