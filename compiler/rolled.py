"""Block programs as programs of a CPU: tiles become loops over vectors of a few lanes.

A block program holds whole tiles (a thousand lanes, a square of products) and says nothing of where
they live. Here statements over the same axes become one nest of loops; what another nest needs is
kept in scratch of the program, what none needs stays a vector. A contraction is a nest with a tile
of sums in registers, a running combination carries its last lane, moved lanes are reads of scratch.
The meaning of statements is kept, one after the other: what threads of a block wait for is over.
Nothing here is trusted: what comes out is proved like any program.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from opwright.ir.dtypes import BOOL, DType, integer_range
from opwright.ir.expr import Expr, const, leaf, leaves, substitute, var
from opwright.ir.semantics import ARG_FOLDS, MONOIDS, ROWS
from opwright.ir.tile import (
    Atomic,
    Axis,
    Barrier,
    Buffer,
    Builder,
    Check,
    Def,
    Dot,
    For,
    If,
    Kernel,
    Load,
    Placement,
    Scan,
    Stmt,
    Store,
    TileProgram,
    Value,
    access_axes,
    statements,
)
from opwright.ir.tileops import inside, operands, shared

CHEAP = 1.0  # operations that are done again rather than kept
_LATE = ("reduce", "argreduce", "scan", "dot")  # values that are there when their nest is over


class Unrollable(ValueError):
    """A statement that has no form here; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a schedule decides: lanes of a vector, vectors that a loop takes at once, and rows of a
    contraction in registers."""

    lanes: int = 8
    vectors: int = 2
    rows: int = 4
    threads: str = "static"


def rolled(program: TileProgram, shape: Shape) -> TileProgram:
    """The program of a CPU that does what a block program does; Unrollable."""
    made = [_Roller(k, shape).kernel() for k in program.kernels]
    kernels, placements = tuple(k for k, _ in made), tuple(p for _, p in made)
    return TileProgram(program.name, kernels, placements, program.facts, program.assumes)


# -- nests -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Copy:
    """A value goes where a loop keeps its state."""

    value: Value
    state: Value


_Work = Def | Store | Atomic | _Copy


@dataclass(slots=True, eq=False)
class _Nest:
    """Statements in one nest of loops. `alone`: nothing else may join."""

    axes: frozenset[Axis]
    work: list[_Work] = field(default_factory=list)
    over: Axis | None = None  # the axis that is reduced
    alone: bool = False


@dataclass(slots=True, eq=False)
class _Loop:
    source: For
    body: list[_Part]


@dataclass(slots=True, eq=False)
class _Branch:
    source: If
    then: list[_Part]
    other: list[_Part]


_Part = _Nest | _Loop | _Branch


class _Planner:
    """Which statements share a nest, and which values are kept."""

    def __init__(self, kernel: Kernel) -> None:
        self.home: dict[Value, _Nest] = {}
        self.free: set[Value] = set()
        self.kept: set[Value] = set()
        self.inner: set[Value] = set()  # read along an axis that a contraction sums over
        self.touchy = set(shared(kernel))
        self.state: dict[Value, Value] = {}  # result or param of a loop -> its param

    def block(self, body: Iterable[Stmt], ends: Sequence[tuple[Value, Value]] = ()) -> list[_Part]:
        parts: list[_Part] = []
        start = 0  # nests before this one are closed: a loop or a branch followed
        for s in body:
            if isinstance(s, For):
                for i, p, r in zip(s.inits, s.params, s.results, strict=True):
                    self.state[p] = self.state[r] = p
                    if p.axes:
                        self.kept |= {p, r}
                        self.place(parts, start, _Copy(i, p), last=True)
                self.uses(inside(s.lo, s.hi), None)
                inner = self.block(s.body, list(zip(s.yields, s.params, strict=True)))
                parts.append(_Loop(s, inner))
                start = len(parts)
            elif isinstance(s, If):
                self.uses(inside(s.cond), None)
                parts.append(_Branch(s, self.block(s.then), self.block(s.other)))
                start = len(parts)
            elif isinstance(s, Def | Store | Atomic):
                self.place(parts, start, s)
            elif not isinstance(s, Check | Barrier):
                raise Unrollable(f"a statement of type {type(s).__name__} has no form here")
        self.finish(parts, start, ends)
        return parts

    def finish(self, parts: list[_Part], start: int, ends: Sequence[tuple[Value, Value]]) -> None:
        """The next state of a loop; one that is made of another entry's goes by way of scratch."""
        moving = [(y, p) for y, p in ends if y is not p]
        if any(self.reads_state(y, {p for _, p in ends} - {p}) for y, p in moving):
            for y, p in moving:
                if p.axes:
                    self.kept.add(y)
                    self.free.discard(y)
                    if y not in self.home and self.state.get(y) is None:
                        raise Unrollable(f"{p.name}: its next value is not made in this loop")
            swapped = [y for y, p in moving if p.axes and y in self.state]
            if swapped:
                raise Unrollable(f"{swapped[0].name}: the states of a loop change places")
        for y, p in moving:
            if p.axes:
                self.place(parts, start, _Copy(y, p), last=True)
            else:
                self.uses([y], None)

    def reads_state(self, v: Value, states: set[Value]) -> bool:
        """Whether a value that is made where it is used is made of other states."""
        if v in states:
            return True
        return v in self.free and any(self.reads_state(x, states) for x in operands(v))

    def place(self, parts: list[_Part], start: int, s: _Work, last: bool = False) -> None:
        axes = self.axes_of(s)
        reads = self.reads(s)
        v = s.value if isinstance(s, Def) else None
        if v is not None and v.op in ("dot", "scan", "argreduce", "view"):
            self.kept |= {x for x in v.args if x.axes and x not in self.free}
        if v is not None and self.is_free(v):
            self.free.add(v)
            return
        first = start
        for x in self.through(reads):
            nest = self.home.get(x)
            if nest is None or nest not in parts[start:]:
                continue
            at = parts.index(nest)
            late = x.op in _LATE and bool(nest.axes)
            moved = v is not None and v.op in ("view", "dot", "scan", "argreduce")
            first = max(first, at + (late or moved or nest.alone))
        alone = v is not None and v.op in ("dot", "scan", "argreduce")
        touched = self.touches(s)
        if touched or isinstance(s, Atomic):
            first, alone = len(parts), True
        elif last or not isinstance(s, Def):
            first = max(first, len(parts) - 1, start)
        over = v.attr[1] if v is not None and v.op == "reduce" else None
        found: _Nest | None = None
        for part in parts[first:] if not alone else ():
            if not isinstance(part, _Nest) or part.alone or part.axes != axes:
                continue
            if over is not None and part.over not in (None, over):
                continue
            if isinstance(s, _Copy) and any(map(_moves, part.work)):
                continue  # what is read at other lanes is not overwritten in between
            found = part
            break
        if found is None:
            found = _Nest(axes, alone=alone)
            early = v is not None and not axes and not alone
            parts.insert(first if early else len(parts), found)
        found.work.append(s)
        found.over = found.over or over
        if v is not None:
            self.home[v] = found
        self.uses(reads, found)

    def touches(self, s: _Work) -> bool:
        """Whether the order of this access and others may matter."""
        if isinstance(s, Def) and isinstance(s.value.attr, Load):
            return s.value.attr.buffer.name in self.touchy
        return isinstance(s, Store) and s.buffer.name in self.touchy

    def uses(self, values: Iterable[Value], where: _Nest | None) -> None:
        """A value that is read in another nest than its own is kept."""
        for x in self.through(values):
            if x.axes and x not in self.state and self.home.get(x) is not where:
                self.kept.add(x)

    def through(self, values: Iterable[Value]) -> list[Value]:
        """The values behind those that are made where they are used."""
        out: list[Value] = []
        for x in values:
            out += self.through(operands(x)) if x in self.free else [x]
        return out

    def is_free(self, v: Value) -> bool:
        if not v.axes or v in self.kept:
            return False
        if v.op in ("full", "index"):
            return all(not x.axes or x in self.free for x in operands(v))
        cheap = v.op == "cast" or (v.op in ROWS and ROWS[v.op].flops <= CHEAP)
        return cheap and all(not x.axes or x in self.free for x in v.args)

    @staticmethod
    def axes_of(s: _Work) -> frozenset[Axis]:
        if isinstance(s, _Copy):
            return frozenset(s.state.axes)
        if isinstance(s, Def):
            if s.value.op in ("reduce", "argreduce", "dot"):
                return frozenset(a for x in s.value.args for a in x.axes)
            return frozenset(s.value.axes)
        return frozenset(access_axes(s))

    @staticmethod
    def reads(s: _Work) -> list[Value]:
        if isinstance(s, _Copy):
            return [s.value]
        if isinstance(s, Def):
            more = inside(*(e for _, e in s.value.attr)) if s.value.op == "view" else []
            return [*operands(s.value), *more]
        return [s.value, *inside(*s.index, s.mask)]


def _moves(s: _Work) -> bool:
    return isinstance(s, Def) and s.value.op == "view"


# -- building --------------------------------------------------------------------------------------

_Lanes = Mapping[Axis, Expr]


class _Roller:
    def __init__(self, kernel: Kernel, shape: Shape) -> None:
        self.source, self.shape = kernel, shape
        self.plan = _Planner(kernel)
        self.parts = self.plan.block(kernel.body)
        self.b = Builder(kernel.name, kernel.grid)
        for b in kernel.buffers:
            if b.role != "program":
                self.b.buffer(b)
        self.scalars: dict[Value, Value] = {}
        self.vars: dict[Expr, Expr] = {}
        self.buffers: dict[Value, Buffer] = {}
        self.layouts: dict[Value, tuple[Axis, ...]] = {}
        self.axes: dict[str, Axis] = {}
        self.widths: dict[str, int] = {}
        self.names = Counter({b.name: 1 for b in kernel.buffers})
        dots = [
            s.value
            for s in statements(kernel.body)
            if isinstance(s, Def) and s.value.op == "dot" and s.value.axes
        ]
        self.contracted = {x: v.attr.axis for v in dots for x in v.args if sides(v)[0] in x.axes}

    def kernel(self) -> tuple[Kernel, Placement]:
        self.block(self.parts)
        made = self.b.kernel()
        axes: dict[str, str | tuple[str, int]] = {
            n: ("vec", w) if w > 1 else "unroll" for n, w in self.widths.items()
        }
        return made, Placement(axes=axes, threads=self.shape.threads)

    # -- where values are kept --------------------------------------------------------------------

    def buffer(self, v: Value) -> Buffer:
        v = self.plan.state.get(v, v)
        if v not in self.buffers:
            self.names[v.name] += 1
            name = f"{v.name}_kept"
            while self.names[name]:
                name += "_"
            self.names[name] += 1
            order = tuple(v.axes)
            inner = self.contracted.get(v)
            if inner is not None:  # what a contraction sums over comes first: columns stay together
                order = (inner, *(a for a in order if a != inner))
            self.layouts[v] = order
            shape = tuple(const(a.extent) for a in order)
            self.buffers[v] = Buffer(name, "program", v.dtype, shape)
        return self.buffers[v]

    def place(self, v: Value, at: _Lanes) -> list[Expr]:
        self.buffer(v)
        return [at[a] for a in self.layouts[self.plan.state.get(v, v)]]

    def tile(self, axis: Axis, extent: int, vector: int) -> Axis:
        """A piece of an axis: its lanes and how many of them are a vector."""
        name = f"{axis.name.replace('__', '_')}_{extent}{'v' if vector > 1 else 'u'}"
        made = self.axes.setdefault(name, Axis(name, extent))
        self.widths[name] = vector
        return made

    # -- statements -------------------------------------------------------------------------------

    def block(self, parts: Sequence[_Part]) -> None:
        for part in parts:
            if isinstance(part, _Loop):
                self.loop(part)
            elif isinstance(part, _Branch):
                then, other = part.then, part.other
                cond = self.expr(part.source.cond, {}, {})
                self.b.branch(cond, partial(self.block, then), partial(self.block, other))
            elif not part.axes:
                for s in part.work:
                    self.straight(s)
            else:
                self.nest(part)

    def straight(self, s: _Work) -> None:
        """A statement without lanes."""
        if isinstance(s, Def):
            self.scalars[s.value] = self.made(s.value, {}, {})
        elif isinstance(s, Store | Atomic):
            self.write(s, {}, {})

    def loop(self, part: _Loop) -> None:
        s = part.source
        lo, hi = self.expr(s.lo, {}, {}), self.expr(s.hi, {}, {})
        plain = [
            (i, p, y, r)
            for i, p, y, r in zip(s.inits, s.params, s.yields, s.results, strict=True)
            if not p.axes
        ]

        def body(variable: Expr, *state: Value) -> list[Value]:
            self.vars[var(s.variable)] = variable
            self.scalars |= {p: x for (_, p, _, _), x in zip(plain, state, strict=True)}
            self.block(part.body)
            return [self.get(y, {}, {}) for _, _, y, _ in plain]

        inits = [self.get(i, {}, {}) for i, _, _, _ in plain]
        found = self.b.loop(s.variable, lo, hi, s.step, inits, body)
        self.scalars |= {r: x for (_, _, _, r), x in zip(plain, found, strict=True)}

    # -- nests ------------------------------------------------------------------------------------

    def nest(self, n: _Nest) -> None:
        first = n.work[0]
        if isinstance(first, Def) and first.value.op in ("dot", "scan", "argreduce"):
            {"dot": self.dot, "scan": self.scan, "argreduce": self.extreme}[first.value.op](
                first.value
            )
            return
        wide = n.over or self.widest(n)
        if n.over is not None and len(n.axes) > 1 and (other := self.contiguous(n)) is not None:
            wide = other
        outer = sorted((a for a in n.axes if a not in (wide, n.over)), key=lambda a: a.name)
        self.around(outer, {}, lambda at: self.rows(n, wide, at))

    def around(self, outer: Sequence[Axis], at: _Lanes, then: Callable[[_Lanes], None]) -> None:
        """Loops over single lanes of axes."""
        if not outer:
            then(at)
            return
        a, rest = outer[0], outer[1:]
        if a.extent == 1:
            self.around(rest, {**at, a: const(0)}, then)
            return

        def body(variable: Expr) -> None:
            self.around(rest, {**at, a: variable}, then)

        self.b.loop(a.name, const(0), const(a.extent), 1, (), body)

    def pieces(
        self,
        a: Axis,
        at: _Lanes,
        inits: Sequence[Value],
        then: Callable[..., Sequence[Value]],
        tile: Axis,
    ) -> tuple[Value, ...]:
        """A loop over pieces of an axis with some state."""
        if tile.extent == a.extent:
            return tuple(then({**at, a: tile.lane}, *inits))

        def body(variable: Expr, *state: Value) -> Sequence[Value]:
            return then({**at, a: variable + tile.lane}, *state)

        return self.b.loop(a.name, const(0), const(a.extent), tile.extent, inits, body)

    def piece(self, a: Axis, vectors: int) -> Axis:
        """The piece of an axis that a loop takes at once."""
        lanes = self.shape.lanes
        extent = a.extent & -a.extent  # the power of two in it
        extent = min(extent, lanes * vectors)
        return self.tile(a, extent, min(extent, lanes))

    def rows(self, n: _Nest, wide: Axis, at: _Lanes) -> None:
        """The innermost loops of a nest, and what it reduces."""
        folds = [s.value for s in n.work if isinstance(s, Def) and s.value.op == "reduce"]
        tile = self.piece(wide, 1 if len(n.work) > 12 else self.shape.vectors)
        inits = [
            self.b.full(neutral(v.attr[0], v.dtype), v.dtype, tile, name=f"{v.name}_part")
            for v in folds
        ]
        if n.over is None or n.over is wide:
            found = self.pieces(wide, at, inits, lambda here, *s: self.inner(n, here, s), tile)
            for v, x in zip(folds, found, strict=True):
                self.keep(v, self.b.reduce(v.attr[0], x, tile, v.name), at)
            return
        over = n.over

        def columns(here: _Lanes) -> tuple[()]:
            def body(variable: Expr, *state: Value) -> Sequence[Value]:
                return self.inner(n, {**here, over: variable}, state)

            own = [
                self.b.full(neutral(v.attr[0], v.dtype), v.dtype, tile, name=f"{v.name}_part")
                for v in folds
            ]
            found = self.b.loop(over.name, const(0), const(over.extent), 1, own, body)
            for v, x in zip(folds, found, strict=True):
                self.keep(v, x, here)
            return ()

        self.pieces(wide, at, (), columns, tile)

    def inner(self, n: _Nest, at: _Lanes, state: Sequence[Value]) -> Sequence[Value]:
        env: dict[Value, Value] = {}
        out = list(state)
        place = 0
        for s in n.work:
            if isinstance(s, Def) and s.value.op == "reduce":
                row = MONOIDS[s.value.attr[0]].row
                x = self.get(s.value.args[0], at, env)
                out[place] = self.row(row, out[place], x)
                place += 1
            elif isinstance(s, Def):
                env[s.value] = made = self.made(s.value, at, env)
                if s.value in self.plan.kept:
                    self.put(s.value, made, at)
            elif isinstance(s, _Copy):
                self.put(s.state, self.get(s.value, at, env), at)
            else:
                self.write(s, at, env)
        return out

    def keep(self, v: Value, x: Value, at: _Lanes) -> None:
        """What a nest leaves behind: a number, or a lane of what is kept."""
        if v.axes:
            self.put(v, x, at)
        else:
            self.scalars[v] = x

    def put(self, v: Value, x: Value, at: _Lanes) -> None:
        b = self.buffer(v)
        self.b.store(b, *self.place(v, at), x, name=f"st_{b.name}")

    # -- operations that are nests of their own ---------------------------------------------------

    def dot(self, v: Value) -> None:
        a, c = v.args
        inner: Dot = v.attr
        k = inner.axis
        if not v.axes:
            raise Unrollable(f"{v.name}: a contraction without rows and columns has no form here")
        wide, rows = sides(v)
        columns = self.piece(wide, self.shape.vectors)
        height = (
            self.tile(rows, min(rows.extent & -rows.extent, self.shape.rows), 1) if rows else None
        )
        outer = [x for x in v.axes if x not in (wide, rows)]

        def sums(at: _Lanes) -> tuple[()]:
            axes = [x for x in (height, columns) if x is not None]
            zero = self.b.full(0, v.dtype, *axes, name=f"{v.name}_sum")

            def body(variable: Expr, state: Value) -> list[Value]:
                here = {**at, k: variable}
                x, y = (self.as_type(self.get(u, here, {}), v.dtype) for u in (a, c))
                if v.dtype.kind == "real":
                    return [self.b.ew("fma", x, y, state)]
                return [self.b.ew("add", self.b.ew("mul", x, y), state)]

            (found,) = self.b.loop(k.name, const(0), const(k.extent), 1, (zero,), body)
            self.keep(v, found, at)
            return ()

        def high(at: _Lanes) -> tuple[()]:
            self.pieces(wide, at, (), sums, columns)
            return ()

        def start(at: _Lanes) -> None:
            if rows is None or height is None:
                high(at)
            else:
                self.pieces(rows, at, (), high, height)

        self.plan.kept.add(v)
        self.around(outer, {}, start)

    def scan(self, v: Value) -> None:
        what: Scan = v.attr
        (x,) = v.args
        a = what.axis
        tile = self.piece(a, 1)
        outer = [o for o in v.axes if o != a]
        row = MONOIDS[what.monoid].row
        self.plan.kept.add(v)

        def lines(at: _Lanes) -> None:
            zero = self.b.full(neutral(what.monoid, v.dtype), v.dtype, name=f"{v.name}_carry")

            def body(variable: Expr, carry: Value) -> list[Value]:
                first = const(a.extent - tile.extent) - variable if what.reverse else variable
                here = {**at, a: first + tile.lane}
                piece = self.get(x, here, {})
                if tile not in piece.axes:
                    piece = self.row(
                        row, self.b.full(neutral(what.monoid, v.dtype), v.dtype, tile), piece
                    )
                own = self.b.scan(piece, Scan(what.monoid, tile, what.reverse))
                self.put(v, self.row(row, carry, own), here)
                return [self.row(row, carry, self.b.reduce(what.monoid, piece, tile))]

            self.b.loop(a.name, const(0), const(a.extent), tile.extent, (zero,), body)

        self.around(outer, {}, lines)

    def extreme(self, v: Value) -> None:
        """The smallest index among extreme values: the extreme first, then the index."""
        fold, a = v.attr
        values, indices = v.args
        monoid = ARG_FOLDS[fold]
        tile = self.piece(a, 1)
        outer = [o for o in dict.fromkeys((*values.axes, *indices.axes)) if o != a]
        most = integer_range(v.dtype)[1]
        row = MONOIDS[monoid].row
        kind = values.dtype
        if v.axes:
            self.plan.kept.add(v)

        def lines(at: _Lanes) -> None:
            start = self.b.full(neutral(monoid, kind), kind, tile, name=f"{v.name}_most")

            def extremes(here: _Lanes, state: Value) -> list[Value]:
                return [self.row(row, state, self.get(values, here, {}))]

            (found,) = self.pieces(a, at, (start,), extremes, tile)
            best = self.b.reduce(monoid, found, tile)
            none = self.b.full(most, v.dtype, tile, name=f"{v.name}_first")

            def places(here: _Lanes, state: Value) -> list[Value]:
                x = self.get(values, here, {})
                hit = self.b.define(
                    "eq", (x, best), tuple(dict.fromkeys((*x.axes, *best.axes))), BOOL
                )
                if kind.kind == "real":
                    both = [self.b.define("isnan", (y,), y.axes, BOOL) for y in (x, best)]
                    hit = self.b.define(
                        "or", (hit, self.b.define("and", tuple(both), x.axes, BOOL)), hit.axes, BOOL
                    )
                at_ = self.get(indices, here, {})
                chosen = self.b.define(
                    "select",
                    (hit, at_, none),
                    tuple(dict.fromkeys((*hit.axes, *at_.axes, tile))),
                    v.dtype,
                )
                return [self.row("min", state, chosen)]

            (first,) = self.pieces(a, at, (none,), places, tile)
            self.keep(v, self.b.reduce("min", first, tile), at)

        self.around(outer, {}, lines)

    # -- values -----------------------------------------------------------------------------------

    def get(self, v: Value, at: _Lanes, env: dict[Value, Value]) -> Value:
        if v in env:
            return env[v]
        if not v.axes:
            if v not in self.scalars:
                raise Unrollable(f"{v.name} is used before it is made")
            return self.scalars[v]
        if v in self.plan.free and v not in self.plan.kept:
            env[v] = self.made(v, at, env)
        elif v in self.plan.kept or v in self.plan.state:
            env[v] = self.b.load(self.buffer(v), *self.place(v, at), name=v.name)
        else:
            raise Unrollable(f"{v.name} is used where it is not kept")
        return env[v]

    def made(self, v: Value, at: _Lanes, env: dict[Value, Value]) -> Value:
        if v.op == "full":
            return self.b.full(v.attr, v.dtype, name=v.name)
        if v.op == "index":
            return self.b.index(self.expr(v.attr, at, env), v.dtype, name=v.name)
        if v.op == "load":
            what: Load = v.attr
            index = [self.expr(e, at, env) for e in what.index]
            mask = self.expr(what.mask, at, env)
            other = what.other
            if other is None and mask.op != "const":
                other = 0  # what may be anything may be this
            return self.b.load(what.buffer, *index, mask=mask, other=other, name=v.name)
        if v.op == "view":
            (x,) = v.args
            moved = {a: self.expr(e, at, env) for a, e in v.attr}
            if x in self.plan.free:
                return self.get(x, {**at, **moved}, {})
            return self.b.load(self.buffer(x), *self.place(x, {**at, **moved}), name=v.name)
        if v.op in ("cast", "round") or v.op in ROWS:
            args = tuple(self.get(x, at, env) for x in v.args)
            axes = tuple(dict.fromkeys(a for x in args for a in x.axes))
            return self.b.define(v.op, args, axes, v.dtype, v.attr, v.name)
        raise Unrollable(f"{v.name}: the operation {v.op} has no form on a CPU")

    def row(self, op: str, *args: Value, dtype: DType | None = None) -> Value:
        axes = tuple(dict.fromkeys(a for x in args for a in x.axes))
        return self.b.define(op, args, axes, dtype or args[-1].dtype)

    def as_type(self, v: Value, d: DType) -> Value:
        return v if v.dtype is d else self.b.cast(v, d)

    def expr(self, e: Expr, at: _Lanes, env: dict[Value, Value]) -> Expr:
        mapping: dict[Expr, Expr] = {}
        for x in leaves(e, "lane", "value", "var"):
            if x.op == "lane":
                mapping[x] = at[x.attr]
            elif x.op == "var":
                mapping[x] = self.vars.get(x, x)
            else:
                mapping[x] = leaf("value", self.get(x.attr, at, env), x.kind)
        return substitute(e, mapping)

    def write(self, s: Store | Atomic | _Copy, at: _Lanes, env: dict[Value, Value]) -> None:
        assert not isinstance(s, _Copy)
        index = [self.expr(e, at, env) for e in s.index]
        mask = self.expr(s.mask, at, env)
        value = self.get(s.value, at, env)
        if isinstance(s, Atomic):
            self.b.atomic(s.monoid, s.buffer, *index, value, mask=mask)
        else:
            self.b.store(s.buffer, *index, value, mask=mask, name=s.name)

    # -- which axis is a vector -------------------------------------------------------------------

    def contiguous(self, n: _Nest) -> Axis | None:
        """The axis along which most accesses of a nest to tensors touch neighbours."""
        votes: Counter[Axis] = Counter()
        for s in n.work:
            index: tuple[Expr, ...] = ()
            if isinstance(s, Def) and isinstance(s.value.attr, Load):
                index = s.value.attr.index
            elif isinstance(s, Store | Atomic):
                index = s.index
            if index:
                votes.update(x.attr for x in leaves(index[-1], "lane") if x.attr in n.axes)
        return votes.most_common(1)[0][0] if votes else None

    def widest(self, n: _Nest) -> Axis:
        """The axis of a nest that becomes vectors: neighbours in memory, else where what is kept
        has its last axis, else the last one."""
        found = self.contiguous(n)
        if found is not None:
            return found
        votes: Counter[Axis] = Counter()
        for s in n.work:
            for x in (*_Planner.reads(s), *([s.value] if isinstance(s, Def) else ())):
                own = self.plan.state.get(x, x)
                if own in self.layouts and self.layouts[own][-1] in n.axes:
                    votes[self.layouts[own][-1]] += 1
        if votes:
            return votes.most_common(1)[0][0]
        values = [s.value for s in n.work if isinstance(s, Def) and s.value.axes]
        axes = values[-1].axes if values else tuple(sorted(n.axes, key=lambda a: a.name))
        return axes[-1]


def sides(v: Value) -> tuple[Axis, Axis | None]:
    """The axis of a contraction's result that is vectors, and the one that is rows of them: they
    belong to one operand each."""
    a, b = v.args
    own = [x for x in v.axes if (x in a.axes) != (x in b.axes)]
    wide = own[-1] if own else v.axes[-1]
    side = a if wide in a.axes else b
    return wide, next((x for x in own if x is not wide and x not in side.axes), None)


def neutral(monoid: str, d: DType) -> float | int | bool:
    """What a reduction of nothing is, as a number of the type."""
    number = MONOIDS[monoid].neutral
    if number is None:
        raise Unrollable(f"a reduction by {monoid} starts from no number")
    if d.kind == "int" and monoid in ("max", "min"):
        return integer_range(d)[0 if monoid == "max" else 1]
    return number


__all__ = ["Shape", "Unrollable", "rolled"]
