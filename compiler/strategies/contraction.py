"""Sums of products as blocked contractions: packed panels, register tiles, a prologue and an
epilogue.

A fold `sum[k](f * g)` where f varies over one result index (the rows), g over another (the
columns) and both over k. Factors are evaluated while packing, so any pointwise prologue is free of
temporaries; pointwise readers of the result are evaluated on the register tile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from opwright.compiler.buffers import Memory
from opwright.compiler.evaluate import Unsupported
from opwright.compiler.strategies.emitter import Emitter
from opwright.compiler.strategies.group import Group, fold_axis, free_name, is_fold, same_range
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
    read_parts,
    substitute,
    var,
    walk,
)
from opwright.ir.op import OpAxis, Tensor
from opwright.ir.tile import Axis, Buffer, Kernel, Placement, Value


@dataclass(frozen=True, slots=True)
class Form:
    """The recognised form. `rows` and `columns` are positions in the result's axes, `batch` the
    others; `left` varies over rows, `right` over columns (both may vary over k and the batch)."""

    group: Group
    result: Tensor
    depth: OpAxis
    rows: int
    columns: int
    batch: tuple[int, ...]
    left: Expr
    right: Expr
    epilogue: tuple[Tensor, ...]


def recognise(group: Group) -> Form:
    """Raises Unsupported with the reason when the group is not one contraction with pointwise
    readers."""
    t, *rest = group.members
    f = sum_of(t)
    depth = fold_axis(t)
    p = parts_of(group, t, f)
    columns = len(t.axes) - 1
    if depth.name not in p.inside or depth.name not in p.outside:
        raise Unsupported(f"{t.name} has no index that only one factor varies over")
    check_epilogue(group, t, rest)
    batch = tuple(n for n in range(columns) if n != p.rows)
    return Form(group, t, depth, p.rows, columns, batch, p.left, p.right, tuple(rest))


def sum_of(t: Tensor) -> Fold:
    """The fold of a tensor; Unsupported unless it is an unguarded sum of real numbers over indices
    whose bounds depend on no other."""
    if not is_fold(t):
        raise Unsupported(f"{t.name} is not a fold")
    assert t.body is not None
    f = Fold(t.body)
    if f.kind != "sum" or f.guard is not TRUE or t.kind != "real":
        raise Unsupported(f"{t.name} is not an unguarded sum of real numbers")
    for lo, hi in (*((a.lo, a.hi) for a in t.axes), *f.ranges):
        if lo is not ZERO or any(x.op in ("var", "read", "fold") for x in walk(hi)):
            raise Unsupported(f"{t.name} has an axis that depends on another")
    return f


@dataclass(frozen=True, slots=True)
class Parts:
    """A product as a factor that varies over the last axis and one that does not, the indices of
    each, and the last axis (by position) that the other alone varies over, -1 if there is none."""

    left: Expr
    right: Expr
    outside: frozenset[str]
    inside: frozenset[str]
    rows: int


def parts_of(group: Group, t: Tensor, f: Fold, rowless: bool = False) -> Parts:
    """The two factors of what is summed; Unsupported with the reason where there are none, or,
    unless `rowless`, where the first varies over no axis of its own."""
    factors = factors_of(group.expand(f.term))
    if any(x.op == "fold" for e in factors for x in walk(e)):
        raise Unsupported(f"{t.name} holds a fold inside another")
    if len(t.axes) < 2:
        raise Unsupported(f"{t.name} has fewer than two axes")
    column = t.axes[-1].name
    right = [e for e in factors if column in free_vars(e)]
    left = [e for e in factors if column not in free_vars(e)]
    if not right or not left:
        raise Unsupported(f"{t.name} is not a product of a row and a column factor")
    inside = frozenset().union(*(free_vars(e) for e in right))
    outside = frozenset().union(*(free_vars(e) for e in left))
    rows = [n for n, a in enumerate(t.axes) if a.name in outside and a.name not in inside]
    if not rows and not rowless:
        raise Unsupported(f"{t.name} has no index that only one factor varies over")
    return Parts(product_of(left), product_of(right), outside, inside, rows[-1] if rows else -1)


def factors_of(e: Expr) -> list[Expr]:
    """The factors of a product."""
    if e.op == "mul":
        return factors_of(e.args[0]) + factors_of(e.args[1])
    if e.op == "cast":
        inner = factors_of(e.args[0])
        return inner if len(inner) > 1 else [e]
    return [e]


def product_of(factors: Sequence[Expr]) -> Expr:
    """The product of factors."""
    out = factors[0]
    for e in factors[1:]:
        out = out * e
    return out


def check_epilogue(group: Group, t: Tensor, rest: Sequence[Tensor]) -> None:
    """Raises Unsupported when a member after t is no pointwise reader of it at its own index."""
    for u in rest:
        assert u.body is not None
        same = len(u.axes) == len(t.axes) and all(map(same_range, u.axes, t.axes))
        if is_fold(u) or u.recurrence or not same:
            raise Unsupported(f"{u.name} has another index space")
        for x in walk(group.expand(u.body)):
            if x.op == "fold":
                raise Unsupported(f"{u.name} holds a fold")
            own = tuple(var(a.name) for a in u.axes)
            if x.op == "read" and x.attr[0] == t.name and read_parts(x)[1] != own:
                raise Unsupported(f"{u.name} reads {t.name} elsewhere")


@dataclass(frozen=True, slots=True)
class TileSchedule:
    """Register tile `mr` x `nr` of `vec`-wide vectors; blocks of kc, mc, nc; hints. `lies`: which
    factors are read where they lie instead of being packed, neither | left | right | both."""

    mr: int = 6
    nr: int = 16
    vec: int = 8
    kc: int = 256
    mc: int = 96
    nc: int = 512
    pin: bool = False
    deep: bool = True
    unroll: int = 2
    threads: str = "dynamic"
    lies: str = "neither"


def lower(
    name: str, form: Form, memory: Memory, s: TileSchedule, real: DType
) -> list[tuple[Kernel, Placement]]:
    """Pack the column factor into panels, unless it is read where it lies; then blocks of register
    tiles."""
    if s.nr % s.vec or s.mc % s.mr or s.nc % s.nr:
        raise Unsupported("blocks are not multiples of the register tile")
    emitter = _Emitter(name, form, memory, s, real)
    if s.lies in ("right", "both"):
        return [emitter.multiply()]
    return [emitter.pack(), emitter.multiply()]


class _Emitter(Emitter):
    def __init__(self, name: str, form: Form, memory: Memory, s: TileSchedule, real: DType) -> None:
        super().__init__(form.group, memory, real)
        self.name, self.f, self.s = name, form, s
        t = form.result
        self.m, self.n, self.k = t.axes[form.rows].hi, t.axes[form.columns].hi, form.depth.hi
        self.panels, self.blocks = cdiv(self.n, s.nr), cdiv(self.k, s.kc)
        over = free_vars(form.right)
        self.shared = [b for b in form.batch if t.axes[b].name in over]
        extents = tuple(t.axes[b].hi for b in self.shared)
        shape = (*extents, self.blocks, self.panels, const(s.kc), const(s.nr))
        self.packed = Buffer(f"{t.name}_pb", "plan", real, shape)
        self.i, self.j = Axis("i", s.mr), Axis("j", s.nr)

    def batches(
        self, which: Sequence[int], first: Expr | None, body: Callable[[dict[int, Expr]], None]
    ) -> None:
        """The first batch axis is a program id, further ones are loops."""
        t = self.f.result

        def nest(at: dict[int, Expr]) -> None:
            if len(at) == len(which):
                self.e.enter()
                body(at)
                self.e.leave()
                return
            n = which[len(at)]
            axis = t.axes[n]
            name = free_name(self.group.normal, axis.name)
            self.b.loop(name, ZERO, axis.hi, 1, (), lambda v: nest({**at, n: v}))

        nest({} if first is None or not which else {which[0]: first})

    def factor(self, e: Expr, at: Mapping[int, Expr], k: Expr, mask: Expr) -> Value:
        """A factor at batch, row or column and depth indices; 0 outside the mask."""
        t = self.f.result
        point = {var(t.axes[n].name): x for n, x in at.items()}
        v = self.e.value(substitute(e, {**point, var(self.f.depth.name): k}), mask)
        if mask is TRUE:
            return v
        live = self.b.index(mask)
        return self.b.ew("select", live, v, self.b.full(0.0, self.real))

    def pack(self) -> tuple[Kernel, Placement]:
        s, j, f = self.s, self.j, self.f
        t = f.result
        grid = [self.panels, self.blocks, *(t.axes[b].hi for b in self.shared[:1])]
        self.open(f"{self.name}_pack", grid)
        panel, block = pid(0), pid(1)

        def one(at: dict[int, Expr]) -> None:
            lead = [at[b] for b in self.shared]
            column = panel * s.nr + j.lane

            def copy(full: bool) -> None:
                mask = TRUE if full else call("lt", column, self.n)

                def step(k: Expr) -> None:
                    self.e.enter()
                    v = self.factor(f.right, {**at, f.columns: column}, block * s.kc + k, mask)
                    self.b.store(self.packed, *lead, block, panel, k, j.lane, self.spread(v, j))
                    self.e.leave()

                self.b.loop("k", ZERO, minimum(s.kc, self.k - block * s.kc), 1, (), step)

            whole = call("le", panel * s.nr + s.nr, self.n)
            self.b.branch(whole, lambda: copy(True), lambda: copy(False))

        self.batches(self.shared, pid(2) if self.shared else None, one)
        return self.b.kernel(), Placement(axes={"j": ("vec", s.vec)})

    def spread(self, v: Value, *axes: Axis) -> Value:
        """A value that does not vary over the tile's lanes is stored to all of them."""
        missing = [a for a in axes if a not in v.axes]
        return v if not missing else self.b.ew("add", v, self.b.full(0.0, self.real, *missing))

    def multiply(self) -> tuple[Kernel, Placement]:
        s, f, t = self.s, self.f, self.f.result
        rows, wide = s.mc // s.mr, s.nc // s.nr
        grid = [cdiv(self.m, s.mc), cdiv(self.n, s.nc), *(t.axes[b].hi for b in f.batch[:1])]
        self.open(self.name, grid)
        self.pa = Buffer(
            f"{t.name}_pa", "program", self.real, (const(rows), const(s.kc), const(s.mr))
        )
        self.part = Buffer(
            f"{t.name}_part",
            "program",
            self.real,
            (const(wide), const(rows), const(s.mr), const(s.nr)),
        )
        top, left = pid(0) * s.mc, pid(1) * wide
        i_count = minimum(rows, cdiv(self.m - top, s.mr))
        j_count = minimum(wide, self.panels - left)

        def one(at: dict[int, Expr]) -> None:
            def k_block(k0: Expr) -> None:
                depth = minimum(s.kc, self.k - k0)
                if s.lies not in ("left", "both"):
                    self.b.loop(
                        "ip", ZERO, i_count, 1, (), lambda ip: self.copy(at, top, ip, k0, depth)
                    )

                def column(jp: Expr) -> None:
                    self.b.loop(
                        "iq",
                        ZERO,
                        i_count,
                        1,
                        (),
                        lambda iq: self.tile(at, top, left, iq, jp, k0, depth),
                    )

                self.b.loop("jp", ZERO, j_count, 1, (), column)

            self.b.loop("k0", ZERO, maximum(self.k, 1), s.kc, (), k_block)

        self.batches(f.batch, pid(2) if f.batch else None, one)
        placement = Placement(
            axes={"i": "unroll", "j": ("vec", s.vec)},
            pin=("panel*",) if s.pin and s.lies not in ("right", "both") else (),
            deep=("*",) if s.deep else (),
            unroll={"depth*": s.unroll} if s.unroll > 1 else {},
            threads=s.threads,
        )
        return self.b.kernel(), placement

    def copy(self, at: Mapping[int, Expr], top: Expr, ip: Expr, k0: Expr, depth: Expr) -> None:
        """Pack one panel of the row factor."""
        s, i, f = self.s, self.i, self.f
        row = top + ip * s.mr

        def run(mask: Expr) -> None:
            def step(k: Expr) -> None:
                self.e.enter()
                v = self.factor(f.left, {**at, f.rows: row + i.lane}, k0 + k, mask)
                self.b.store(self.pa, ip, k, i.lane, self.spread(v, i))
                self.e.leave()

            self.b.loop("k", ZERO, depth, 1, (), step)

        whole = call("le", row + s.mr, self.m)
        self.b.branch(whole, lambda: run(TRUE), lambda: run(call("lt", row + i.lane, self.m)))

    def tile(
        self,
        at: Mapping[int, Expr],
        top: Expr,
        left: Expr,
        ip: Expr,
        jp: Expr,
        k0: Expr,
        depth: Expr,
    ) -> None:
        """One register tile over one block of the depth; the last block runs the epilogue."""
        s, i, j = self.s, self.i, self.j
        row, col = top + ip * s.mr, (left + jp) * s.nr
        whole = call("le", row + s.mr, self.m) & call("le", col + s.nr, self.n)
        in_rows, in_columns = call("lt", row + i.lane, self.m), call("lt", col + j.lane, self.n)

        def run(inside: bool) -> None:
            rows, columns = (TRUE, TRUE) if inside else (in_rows, in_columns)
            acc = self.summed(at, row, col, (ip, jp), k0, depth, rows, columns)

            def finish() -> None:
                if inside:
                    self.write(at, row, col, acc, TRUE)
                    return
                self.b.branch(
                    whole,
                    lambda: self.write(at, row, col, acc, TRUE),
                    lambda: self.write(at, row, col, acc, in_rows & in_columns),
                )

            self.b.branch(
                call("le", self.k, k0 + s.kc),
                finish,
                lambda: self.b.store(self.part, jp, ip, i.lane, j.lane, acc),
            )

        if s.lies == "neither":
            run(False)
        else:
            self.b.branch(whole, lambda: run(True), lambda: run(False))

    def summed(
        self,
        at: Mapping[int, Expr],
        row: Expr,
        col: Expr,
        where: tuple[Expr, Expr],
        k0: Expr,
        depth: Expr,
        rows: Expr,
        columns: Expr,
    ) -> Value:
        """The sum up to the end of a block of the depth."""
        s, b, f, i, j = self.s, self.b, self.f, self.i, self.j
        lead = [at[n] for n in self.shared]
        ip, jp = where
        panel = pid(1) * (s.nc // s.nr) + jp

        def step(k: Expr, acc: Value) -> list[Value]:
            self.e.enter()
            if s.lies in ("left", "both"):
                x = self.factor(f.left, {**at, f.rows: row + i.lane}, k0 + k, rows)
                x = self.spread(x, i)
            else:
                x = b.load(self.pa, ip, k, i.lane, name="a")
            if s.lies in ("right", "both"):
                y = self.factor(f.right, {**at, f.columns: col + j.lane}, k0 + k, columns)
                y = self.spread(y, j)
            else:
                y = b.load(self.packed, *lead, k0 // s.kc, panel, k, j.lane, name="panel")
            self.e.leave()
            return [b.ew("fma", x, y, acc)]

        start = b.full(0.0, self.real, i, j, name="acc")
        (acc,) = b.loop("depth", ZERO, depth, 1, [start], step)
        before = b.load(
            self.part, jp, ip, i.lane, j.lane, mask=call("lt", 0, k0), other=0.0, name="part"
        )
        return b.ew("add", acc, before)

    def write(self, at: Mapping[int, Expr], row: Expr, col: Expr, acc: Value, mask: Expr) -> None:
        """Store the result, or what its pointwise readers make of it."""
        f, t = self.f, self.f.result
        where = {**at, f.rows: row + self.i.lane, f.columns: col + self.j.lane}
        index = [where[n] for n in range(len(t.axes))]
        self.e.enter()
        self.held[t.name] = acc
        if t.role == "output" or t.name in self.memory.kept:
            buffer = self.memory.of(t.name)
            self.b.store(buffer, *index, self.b.cast(acc, buffer.dtype), mask=mask)
        for u in f.epilogue:
            assert u.body is not None
            point = {var(a.name): x for a, x in zip(u.axes, index, strict=True)}
            buffer = self.memory.of(u.name)
            v = self.e.value(substitute(u.body, point), mask)
            v = self.spread(v, self.i, self.j)
            self.b.store(buffer, *index, self.b.cast(v, buffer.dtype), mask=mask)
        del self.held[t.name]
        self.e.leave()
