"""What threads make of each other's values: trees, butterflies and shares in memory as reductions.

A block of threads is run on symbols with its lanes counted out. A value that is moved between lanes
and summed there (or made an extreme of) is, for every lane, a row of numbers: how often it holds
the seed of each lane. Moves, sums, selections by lanes and memory of the program at indices that
lanes make are rows again, so that a tree in whatever order comes out as one row of ones. Where such
a value is used otherwise, its rows are written down as a reduction over lanes, with the lanes for
which that is so; of any other lane nothing is said. The result is a program with the same outputs;
like all that is proved of a program's function it stands on G2 and G3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from opwright.ir.dtypes import BOOL
from opwright.ir.expr import (
    Expr,
    ExprError,
    call,
    conjunction,
    conjuncts,
    const,
    evaluate,
    leaf,
    leaves,
    transform,
)
from opwright.ir.tile import (
    Atomic,
    Axis,
    Barrier,
    Buffer,
    Check,
    Def,
    For,
    If,
    Kernel,
    Load,
    Stmt,
    Store,
    TileProgram,
    Value,
    expressions,
    lanes,
    statements,
)
from opwright.verify.pruned import pruned

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Reals = NDArray[np.float64]
Key = frozenset[tuple[Expr, tuple[int, ...]]]  # conditions at lanes

THREADS = 1024
ENTRIES = 1 << 22  # of one matrix
TRIPS = 64  # of a loop that is followed trip by trip
PIECES = 4  # ways of writing one value
WAYS = 64  # that are compared for one piece
UNKNOWN = "unknown"  # a value of which nothing is said: different for all lanes and programs
NOTHING = {"sum": 0.0, "max": -np.inf, "min": np.inf}
ROWS = {"add": "sum", "max": "max", "min": "min"}


class Apart(Exception):
    """A value is no combination of seeds."""


@dataclass(slots=True)
class Form:
    """For every row (a lane, or an element of memory) how often it has the seed of each lane.

    kind is the operation that combines; "" where every row is one seed or one literal (`lit`).
    Nothing is asked of rows that are `free`: they hold poison."""

    kind: str
    parts: dict[Value, Ints]
    const: Reals
    lit: Flags
    free: Flags
    moved: bool = False  # whether a lane may have the seed of another one

    def rows(self, at: Ints) -> Form:
        """The rows at these places."""
        parts = {v: m[at] for v, m in self.parts.items()}
        return Form(self.kind, parts, self.const[at], self.lit[at], self.free[at], True)

    def to(self, kind: str) -> Form:
        """The same as a combination of this kind."""
        if self.kind == kind or kind == "":
            if self.kind != kind:
                raise Apart
            return self
        if self.kind:
            raise Apart
        if kind == "sum" and not np.isfinite(self.const[self.lit & ~self.free]).all():
            raise Apart
        const = np.where(self.lit, self.const, NOTHING[kind])
        return Form(kind, self.parts, const, np.zeros_like(self.lit), self.free, self.moved)


def _joined(a: Mapping[Value, Ints], b: Mapping[Value, Ints], sign: int, top: bool) -> dict[
        Value, Ints]:  # fmt: skip
    out = dict(a)
    for v, m in b.items():
        if v in out:
            out[v] = np.maximum(out[v], m) if top else out[v] + sign * m
        else:
            out[v] = m if top else sign * m
    return out


@dataclass(slots=True)
class Cells:
    """Memory of the program: what each element holds, and under which conditions."""

    form: Form
    known: Flags
    keys: list[Key]


@dataclass(frozen=True, slots=True)
class Piece:
    """For lanes in a box, for each seed and axis of it, "all" | "own" | (lo, hi) lanes of it, or a
    run of lanes in their order up to the own one; and how often."""

    box: tuple[tuple[int, int], ...]
    parts: tuple[tuple[Value, tuple[object, ...], int], ...]
    const: float


@dataclass(slots=True)
class Scope:
    """Statements of a block, and values written down in it."""

    out: list[Stmt] = field(default_factory=list)
    written: dict[Value, Value] = field(default_factory=dict)


class Exchanged:
    """Rewrites one kernel."""

    def __init__(self, kernel: Kernel, wanted: frozenset[str]) -> None:
        self.kernel, self.wanted = kernel, wanted
        self.threads = kernel.threads
        shape = [a.extent for a in self.threads]
        self.count = int(np.prod(shape))
        grid = np.indices(shape).reshape(len(shape), -1).astype(np.int64)
        self.at: dict[Axis, Ints] = dict(zip(self.threads, grid, strict=True))
        self.env: dict[Expr, Ints] = {a.lane: x for a, x in self.at.items()}
        self.forms: dict[Value, Form] = {}
        self.bools: dict[Value, Flags] = {}
        self.memory: dict[str, Cells] = {}
        self.buffers = {b.name: b for b in kernel.buffers if b.role == "program"}
        for b in self.buffers.values():
            size = self.size(b)
            if size:
                everywhere = np.ones(size, bool)
                form = Form("", {}, np.zeros(size), ~everywhere, everywhere)
                self.memory[b.name] = Cells(form, everywhere.copy(), [frozenset()] * size)
        self.scopes: list[Scope] = []
        self.instead: dict[Value, Value] = {}
        self.number = 0
        self.trial = False

    def size(self, b: Buffer) -> int:
        n = 1
        for e in b.shape:
            if e.op != "const":
                return 0
            n *= int(e.attr)
        return n if n <= ENTRIES // 64 else 0

    # -- lanes counted out ------------------------------------------------------------------------

    def numbers(self, e: Expr) -> Ints | None:
        """The numbers of an expression for all threads; None where more than lanes make it."""
        if e.op == "const":
            return np.full(self.count, e.attr)
        if any(x not in self.env for x in leaves(e, "lane", "size", "param", "stride", "var", "pid",
                                                 "value", "state")):  # fmt: skip
            return None
        try:
            found = np.asarray(evaluate(e, self.env))
        except (ExprError, KeyError, TypeError):
            return None
        return np.broadcast_to(found, (self.count,)) if found.ndim < 2 else None

    def split(self, mask: Expr) -> tuple[Flags, list[Expr]]:
        """A condition as the lanes for which it may hold, and what it asks besides."""
        on, rest = np.ones(self.count, bool), []
        for c in conjuncts(mask):
            found = self.numbers(c)
            if found is None:
                rest.append(c)
            else:
                on = on & found.astype(bool)
        return on, rest

    def keys(self, rest: Sequence[Expr]) -> list[Key]:
        """Conditions as they are for each thread: a condition and the lanes that it speaks of."""
        columns = []
        for c in rest:
            own = [a for a in lanes(c) if a in self.at]
            columns.append((c, [self.at[a] for a in own]))
        return [frozenset((c, tuple(int(x[t]) for x in xs)) for c, xs in columns)
                for t in range(self.count)]  # fmt: skip

    def place(self, b: Buffer, index: Sequence[Expr]) -> Ints | None:
        """Elements of memory that all threads speak of; -1 where outside."""
        flat = np.zeros(self.count, np.int64)
        inside = np.ones(self.count, bool)
        for e, extent in zip(index, b.shape, strict=True):
            found = self.numbers(e)
            if found is None:
                return None
            n = int(extent.attr)
            inside &= (found >= 0) & (found < n)
            flat = flat * n + found
        return np.where(inside, flat, -1)

    # -- forms ------------------------------------------------------------------------------------

    def seed(self, v: Value) -> Form:
        """A value as the seed of itself."""
        if v.dtype.kind != "real" or not set(v.axes) <= set(self.threads):
            raise Apart
        size = int(np.prod([a.extent for a in v.axes], dtype=np.int64))
        if size * self.count > ENTRIES:
            raise Apart
        own = np.zeros(self.count, np.int64)
        for a in v.axes:
            own = own * a.extent + self.at[a]
        matrix = np.zeros((self.count, size), np.int64)
        matrix[np.arange(self.count), own] = 1
        none = np.zeros(self.count, bool)
        return Form("", {v: matrix}, np.zeros(self.count), none, none)

    def form(self, v: Value) -> Form:
        v = self.instead.get(v, v)
        return self.forms[v] if v in self.forms else self.seed(v)

    def literal(self, x: float) -> Form:
        all_ = np.ones(self.count, bool)
        return Form("", {}, np.full(self.count, x), all_, ~all_)

    def absorb(self, v: Value) -> Form:
        """The rows of a value that moves or combines others; Apart for any other."""
        if v.dtype.kind != "real":
            raise Apart
        if v.op == "full":
            return self.literal(float(v.attr))
        if v.op == "cast" and v.args[0].dtype.kind == "real":
            return self.form(v.args[0])
        if v.op == "view":
            return self.moved(v)
        if v.op == "select":
            on = self.bools.get(v.args[0])
            if on is None:
                raise Apart
            return self.chosen(on, self.form(v.args[1]), self.form(v.args[2]))
        if v.op in ("add", "sub", "max", "min"):
            a, b = (self.form(x) for x in v.args)
            return self.combined(ROWS.get(v.op, "sum"), a, b, -1 if v.op == "sub" else 1)
        if v.op == "load":
            return self.loaded(v)
        if v.op == "reduce" and v.args[0] in self.forms and v.attr[0] in NOTHING:
            return self.reduced(v)
        raise Apart

    def moved(self, v: Value) -> Form:
        to = dict(self.at)
        for a, e in v.attr:
            found = self.numbers(e)
            if found is None or a not in to:
                raise Apart
            to[a] = found
        flat = np.zeros(self.count, np.int64)
        inside = np.ones(self.count, bool)
        for a in self.threads:
            inside &= (to[a] >= 0) & (to[a] < a.extent)
            flat = flat * a.extent + to[a]
        if not inside.all():
            raise Apart
        return self.form(v.args[0]).rows(flat)

    def chosen(self, on: Flags, a: Form, b: Form) -> Form:
        kind = a.kind or b.kind
        if not (a.moved or b.moved):
            raise Apart
        if kind:
            a, b = a.to(kind), b.to(kind)
        parts: dict[Value, Ints] = {}
        for s in dict.fromkeys((*a.parts, *b.parts)):
            one, two = a.parts.get(s), b.parts.get(s)
            size = (one if one is not None else two).shape[1]  # type: ignore[union-attr]
            zero = np.zeros((1, size), np.int64)
            parts[s] = np.where(on[:, None], zero if one is None else one,
                                zero if two is None else two)  # fmt: skip
        pick = [np.where(on, x, y) for x, y in ((a.const, b.const), (a.lit, b.lit),
                                                (a.free, b.free))]  # fmt: skip
        return Form(kind, parts, pick[0], pick[1], pick[2], True)

    def combined(self, kind: str, a: Form, b: Form, sign: int = 1) -> Form:
        if not (a.moved or b.moved):
            raise Apart
        a, b = a.to(kind), b.to(kind)
        if kind == "sum":
            const = a.const + sign * b.const
            used = ~(a.free | b.free)
            whole = np.abs(const) < 2**40
            exact = (a.const == 0) | (b.const == 0) | (np.floor(a.const) == a.const) & (
                np.floor(b.const) == b.const)  # fmt: skip
            if not (whole & exact)[used].all():
                raise Apart
        else:
            const = np.maximum(a.const, b.const) if kind == "max" else np.minimum(a.const, b.const)
        parts = _joined(a.parts, b.parts, sign, kind != "sum")
        if any(np.abs(m).max(initial=0) > 2**40 for m in parts.values()):
            raise Apart
        return Form(kind, parts, const, np.zeros_like(a.lit), a.free | b.free, True)

    def reduced(self, v: Value) -> Form:
        """A reduction over an axis of threads of rows that are known."""
        kind, axis = v.attr
        if axis not in self.at:
            raise Apart
        whole = self.form(v.args[0]).to(kind)
        order = {a: self.at[a].copy() for a in self.threads}
        out: Form | None = None
        for n in range(axis.extent):
            order[axis] = np.full(self.count, n)
            flat = np.zeros(self.count, np.int64)
            for a in self.threads:
                flat = flat * a.extent + order[a]
            part = whole.rows(flat)
            out = part if out is None else self.combined(kind, out, part)
        assert out is not None
        return out

    # -- memory -----------------------------------------------------------------------------------

    def loaded(self, v: Value) -> Form:
        what: Load = v.attr
        cells = self.memory.get(what.buffer.name)
        place = self.place(what.buffer, what.index) if cells is not None else None
        if cells is None or place is None:
            raise Apart
        on, rest = self.split(what.mask)
        if rest and what.other is not None:
            raise Apart
        if (place[on] < 0).any():
            raise Apart
        at = np.where(on, place, 0)
        if not cells.known[at[on]].all():
            raise Apart
        here: list[Key] | None = None
        for t in np.flatnonzero(on):
            key = cells.keys[at[t]]
            if key:
                here = self.keys(rest) if here is None else here
                if not key <= here[t]:
                    raise Apart
        found = cells.form.rows(at)
        if what.other is not None:
            return self.chosen(on, found, self.literal(float(what.other)))
        return replace(found, free=found.free | ~on)

    def stored(self, s: Store) -> None:
        """What a store leaves in memory."""
        cells = self.memory.get(s.buffer.name)
        if cells is None:
            return
        place = self.place(s.buffer, s.index)
        on, rest = self.split(s.mask)
        try:
            if place is None or (place[on] < 0).any():
                raise Apart
            self.write(cells, place, on, self.form(s.value), self.keys(rest) if rest else None)
        except Apart:
            cells.known[:] = False

    def write(
        self, cells: Cells, place: Ints, on: Flags, new: Form, keys: list[Key] | None
    ) -> None:
        threads = np.flatnonzero(on)
        first: dict[int, int] = {}
        doubtful: set[int] = set()
        for t in map(int, threads):
            p = int(place[t])
            u = first.setdefault(p, t)
            if u == t:
                continue
            same = keys is None or keys[u] == keys[t]
            if not (same and _same_row(new, u, t)):
                doubtful.add(p)
        size = len(cells.known)
        if size * max((m.shape[1] for m in new.parts.values()), default=1) > ENTRIES:
            raise Apart
        source = np.zeros(size, np.int64)
        hit = np.zeros(size, bool)
        for p, t in first.items():
            source[p], hit[p] = t, True
        old, nothing = cells.form, np.ones(size, bool)
        if old.kind and not new.kind and (hit | old.free).all():  # nothing of the old use is left
            old = Form("", {}, np.zeros(size), ~nothing, nothing)
        kind = old.kind or new.kind
        try:
            old, new = (old.to(kind), new.to(kind)) if kind else (old, new)
        except Apart:  # another use of the same memory: what is not written now is forgotten
            kind = new.kind
            old = Form(kind, {}, np.zeros(size), ~nothing, nothing)
            cells.known[:] = False
        fresh = new.rows(source)
        parts: dict[Value, Ints] = {}
        for v in dict.fromkeys((*old.parts, *fresh.parts)):
            one, two = fresh.parts.get(v), old.parts.get(v)
            width = (one if one is not None else two).shape[1]  # type: ignore[union-attr]
            zero = np.zeros((1, width), np.int64)
            m = np.where(hit[:, None], zero if one is None else one, zero if two is None else two)
            if m.any():
                parts[v] = m
        pairs = ((fresh.const, old.const), (fresh.lit, old.lit), (fresh.free, old.free))
        const, lit, free = (np.where(hit, x, y) for x, y in pairs)
        cells.form = Form(kind, parts, const, lit, free)
        for p, t in first.items():
            cells.known[p] = p not in doubtful
            cells.keys[p] = keys[t] if keys is not None else frozenset()

    def forget(self, body: Iterable[Stmt]) -> None:
        """What a body may write is not known."""
        for s in statements(body):
            if isinstance(s, Store | Atomic) and s.buffer.name in self.memory:
                self.memory[s.buffer.name].known[:] = False

    # -- statements -------------------------------------------------------------------------------

    def run(self) -> Kernel:
        return replace(self.kernel, body=tuple(self.block(self.kernel.body)))

    def block(self, body: Iterable[Stmt]) -> list[Stmt]:
        self.scopes.append(Scope())
        for s in body:
            self.statement(s)
        return self.scopes.pop().out

    def emit(self, s: Stmt) -> None:
        self.scopes[-1].out.append(s)

    def statement(self, s: Stmt) -> None:
        if isinstance(s, Def):
            self.define(s.value)
        elif isinstance(s, Store):
            if s.buffer.name in self.memory and s.buffer.name not in self.wanted:
                value = self.instead.get(s.value, s.value)
            else:
                value = self.plain(s.value)
            self.emit(replace(s, value=value, mask=self.within(s.mask),
                              index=tuple(self.within(i) for i in s.index)))  # fmt: skip
            self.stored(s)
        elif isinstance(s, Atomic):
            self.emit(replace(s, value=self.plain(s.value), mask=self.within(s.mask),
                              index=tuple(self.within(i) for i in s.index)))  # fmt: skip
            self.forget([s])
        elif isinstance(s, For):
            self.loop(s)
        elif isinstance(s, If):
            self.forget(s.then)
            self.forget(s.other)
            then = self.block(s.then)
            self.forget(s.then)  # nothing of it has happened on the other side
            other = self.block(s.other)
            self.emit(If(self.within(s.cond), tuple(then), tuple(other)))
            self.forget(s.then)
            self.forget(s.other)
        else:
            assert isinstance(s, Check | Barrier)

    def define(self, v: Value) -> None:
        """A value: rows where it has some, else as it is, of what it is made of written down."""
        if v.dtype.kind == "bool" and v.op == "index":
            found = self.numbers(v.attr)
            if found is not None:
                self.bools[v] = found.astype(bool)
        try:
            self.forms[v] = self.absorb(v)
            if self.trial:
                return
            self.emit(Def(self.remade(v, {})))
        except Apart:
            if self.trial and v not in self.bools:
                raise
            args = {a: self.plain(a) for a in v.args}
            self.emit(Def(self.remade(v, args)))

    def remade(self, v: Value, args: Mapping[Value, Value]) -> Value:
        """The value over other operands."""
        attr = v.attr
        if v.op == "index":
            attr = self.within(v.attr)
        elif v.op == "load":
            mask, index = (self.within(v.attr.mask),
                           tuple(self.within(i) for i in v.attr.index))  # fmt: skip
            if mask is not v.attr.mask or index != v.attr.index:
                attr = replace(v.attr, mask=mask, index=index)
        new = tuple(args.get(a, self.instead.get(a, a)) for a in v.args)
        if attr is v.attr and new == v.args:
            return v
        made = replace(v, args=new, attr=attr)
        self.instead[v] = made
        if v in self.forms:
            self.forms[made] = self.forms[v]
        if v in self.bools:
            self.bools[made] = self.bools[v]
        return made

    def within(self, e: Expr) -> Expr:
        """An index expression over values that are written down."""
        if not leaves(e, "value"):
            return e

        def rule(x: Expr) -> Expr | None:
            if x.op != "value":
                return None
            made = self.plain(x.attr)
            return x if made is x.attr else leaf("value", made, x.kind)

        return transform(e, rule)

    def loop(self, s: For) -> None:
        if self.trial:
            raise Apart
        inits = tuple(self.plain(i) for i in s.inits)
        lo, hi = self.within(s.lo), self.within(s.hi)
        known = self.followed(s)
        self.forget(s.body)
        self.scopes.append(Scope())
        for x in s.body:
            self.statement(x)
        yields = tuple(self.plain(y) for y in s.yields)
        body = tuple(self.scopes.pop().out)
        self.emit(replace(s, lo=lo, hi=hi, inits=inits, body=body, yields=yields))
        self.forget(s.body)
        for r, f in zip(s.results, known or (), strict=False):
            self.forms[r] = f

    def followed(self, s: For) -> list[Form] | None:
        """The state after a loop of few trips that moves and combines alone."""
        if s.lo.op != "const" or s.hi.op != "const" or not s.results:
            return None
        trips = range(int(s.lo.attr), int(s.hi.attr), s.step)
        if len(trips) > TRIPS or any(isinstance(x, For | If | Store | Atomic) for x in s.body):
            return None
        loads = [x.value for x in s.body if isinstance(x, Def) and x.value.op == "load"]
        if not any(v.attr.buffer.name in self.memory for v in loads):
            return None
        forms, bools = dict(self.forms), dict(self.bools)
        counter = next((x for e in expressions(s.body) for x in leaves(e, "var")
                        if x.attr == s.variable), None)  # fmt: skip
        self.trial = True
        try:
            state = [self.form(i) for i in s.inits]
            for n in trips:
                if counter is not None:
                    self.env[counter] = np.full(self.count, n, np.int64)
                self.forms.update(zip(s.params, state, strict=True))
                for x in s.body:
                    if isinstance(x, Def):
                        self.define(x.value)
                state = [self.form(y) for y in s.yields]
            return state
        except Apart:
            return None
        finally:
            self.trial = False
            self.forms, self.bools = forms, bools
            if counter is not None:
                self.env.pop(counter, None)

    # -- writing rows down ------------------------------------------------------------------------

    def plain(self, v: Value) -> Value:
        """The value, its rows written as reductions."""
        if self.trial:
            raise Apart
        v = self.instead.get(v, v)
        f = self.forms.get(v)
        if f is None or (not f.kind and v.op in ("full", "cast")):
            return v
        for scope in self.scopes:
            if v in scope.written:
                return scope.written[v]
        made = self.written(v, f)
        self.scopes[-1].written[v] = made
        return made

    def written(self, v: Value, f: Form) -> Value:
        left = ~f.free
        pieces: list[Piece] = []
        while left.any() and len(pieces) < PIECES:
            found = self.piece(f, int(np.flatnonzero(left)[0]), left)
            if found is None:
                break
            pieces.append(found)
            left = left & ~self.inside(found.box)
        if not pieces or (not f.kind and left.any()):
            return v  # as it is: lanes moved about
        out: Value | None = None
        if left.any():
            out = self.make(UNKNOWN, (), self.threads, v)
        for p in reversed(pieces):
            made = self.spelled(p, f.kind or "sum", v)
            cond = self.condition(p.box)
            out = made if out is None else self.select(cond, made, out, v)
        assert out is not None
        return out

    def inside(self, box: Sequence[tuple[int, int]]) -> Flags:
        on = np.ones(self.count, bool)
        for a, (lo, hi) in zip(self.threads, box, strict=True):
            on &= (self.at[a] >= lo) & (self.at[a] < hi)
        return on

    def condition(self, box: Sequence[tuple[int, int]]) -> Expr:
        parts = []
        for a, (lo, hi) in zip(self.threads, box, strict=True):
            if (lo, hi) == (0, a.extent):
                continue
            if hi == lo + 1:
                parts.append(call("eq", a.lane, lo))
                continue
            if lo:
                parts.append(call("le", lo, a.lane))
            if hi < a.extent:
                parts.append(call("lt", a.lane, hi))
        return conjunction(parts)

    def piece(self, f: Form, t: int, left: Flags) -> Piece | None:
        """A way to write the row of a thread that is the way of as many others as possible."""
        options: list[list[tuple[Value, tuple[object, ...], int]]] = []
        for v, m in f.parts.items():
            found = self.ways(v, m[t], t)
            if found is None:
                return None
            options.append(found)
        const = float(f.const[t])
        if not f.kind and not f.lit[t]:
            const = 0.0
        alike = f.const == const if f.kind or f.lit[t] else ~f.lit
        if not f.kind and f.lit[t]:
            alike &= f.lit
        best: tuple[int, Piece] | None = None
        if math.prod(len(x) for x in options) > WAYS:
            options = [x[:1] for x in options]
        for ways in product(*options):
            on = alike | f.free
            for v, how, times in ways:
                on = on & (self.expected(v, how, times) == f.parts[v]).all(axis=1) | f.free
            box = self.box(on, t)
            size = int((self.inside(box) & left).sum())
            kept = tuple(w for w in ways if w[2])
            if best is None or size > best[0]:
                best = size, Piece(box, kept, const)
        return best[1] if best else None

    def box(self, on: Flags, t: int) -> tuple[tuple[int, int], ...]:
        """A box of threads around one, all of which are on."""
        shape = [a.extent for a in self.threads]
        flags = on.reshape(shape)
        here = [int(self.at[a][t]) for a in self.threads]
        best: list[tuple[int, int]] = []
        for order in (range(len(shape)), range(len(shape) - 1, -1, -1)):
            box = [(h, h + 1) for h in here]
            for k in order:
                lo, hi = box[k]
                while lo > 0 and flags[_slices(box, k, lo - 1)].all():
                    lo -= 1
                    box[k] = (lo, hi)
                while hi < shape[k] and flags[_slices(box, k, hi)].all():
                    hi += 1
                    box[k] = (lo, hi)
            if not best or _volume(box) > _volume(best):
                best = box
        return tuple(best)

    def ways(
        self, v: Value, row: Ints, t: int
    ) -> list[tuple[Value, tuple[object, ...], int]] | None:
        """How a row of one seed can be written: along each axis all lanes, the own, some."""
        if not row.any():
            return [(v, (), 0)]
        used = row != 0
        times = int(row[used][0])
        if (row[used] != times).any():
            return None
        out: list[tuple[Value, tuple[object, ...], int]] = []
        shape = [a.extent for a in v.axes]
        grid = used.reshape(shape) if shape else used
        spans: list[list[object]] = []
        volume = 1
        for k, a in enumerate(v.axes):
            line = np.flatnonzero(grid.any(axis=tuple(n for n in range(len(shape)) if n != k)))
            lo, hi = int(line[0]), int(line[-1]) + 1
            volume *= hi - lo
            own = int(self.at[a][t])
            if hi == lo + 1:
                spans.append(["own", (lo, hi)] if lo == own else [(lo, hi)])
                if a.extent == 1:
                    spans[-1] = ["all"]
            else:
                spans.append(["all"] if (lo, hi) == (0, a.extent) else [(lo, hi)])
        if volume == int(used.sum()):
            out += [(v, how, times) for how in product(*spans)]
        for how in self.runs(v):
            if (self.expected(v, how, times)[t] == row).all():
                out.append((v, how, times))
        return out or None

    def runs(self, v: Value) -> list[tuple[object, ...]]:
        """Runs of lanes up to the own one: along the last axis, or along all."""
        out: list[tuple[object, ...]] = []
        for n in range(1, len(v.axes) + 1):
            for strict in ("upto", "below"):
                out.append((*["own"] * (len(v.axes) - n), *[strict] * n))
        return out

    def expected(self, v: Value, how: tuple[object, ...], times: int) -> Ints:
        """The rows of all threads if they were written like this."""
        shape = [a.extent for a in v.axes]
        size = int(np.prod(shape, dtype=np.int64))
        if not times:
            return np.zeros((self.count, size), np.int64)
        grid = np.indices(shape).reshape(len(shape), size)
        on = np.ones((self.count, size), bool)
        mine = np.zeros(self.count, np.int64)
        their = np.zeros(size, np.int64)
        strict = False
        for a, g, what in zip(v.axes, grid, how, strict=True):
            if what == "own":
                on &= self.at[a][:, None] == g[None, :]
            elif what in ("upto", "below"):
                mine, their = mine * a.extent + self.at[a], their * a.extent + g
                strict = what == "below"
            elif isinstance(what, tuple):
                on &= ((g >= what[0]) & (g < what[1]))[None, :]
        if any(w in ("upto", "below") for w in how):
            on &= their[None, :] < mine[:, None] + (0 if strict else 1)
        return on * np.int64(times)

    # -- new values -------------------------------------------------------------------------------

    def make(self, op: str, args: tuple[Value, ...], axes: Iterable[Axis], like: Value,
             attr: object = None) -> Value:  # fmt: skip
        self.number += 1
        v = Value(f"{like.name}~{self.number}", op, args, tuple(axes), like.dtype, attr)
        self.emit(Def(v))
        return v

    def select(self, cond: Expr, a: Value, b: Value, like: Value) -> Value:
        self.number += 1
        c = Value(f"{like.name}~{self.number}", "index", (), lanes(cond), BOOL, cond)
        self.emit(Def(c))
        axes = dict.fromkeys((*c.axes, *a.axes, *b.axes))
        return self.make("select", (c, a, b), axes, like)

    def spelled(self, p: Piece, kind: str, like: Value) -> Value:
        """A piece as reductions over lanes."""
        row = next(r for r, k in ROWS.items() if k == kind)
        out: Value | None = None
        for v, how, times in p.parts:
            part = self.part(v, how, kind, like)
            if times != 1 and kind == "sum":
                number = self.make("full", (), (), like, float(times))
                part = self.make("mul", (number, part), part.axes, like)
            axes = part.axes if out is None else tuple(dict.fromkeys((*out.axes, *part.axes)))
            out = part if out is None else self.make(row, (out, part), axes, like)
        if out is None or p.const != NOTHING[kind]:
            number = self.make("full", (), (), like, p.const)
            out = number if out is None else self.make(row, (out, number), out.axes, like)
        return out

    def part(self, v: Value, how: tuple[object, ...], kind: str, like: Value) -> Value:
        out = v
        runs = [a for a, w in zip(v.axes, how, strict=True) if w in ("upto", "below")]
        for a, what in zip(v.axes, how, strict=True):
            if not isinstance(what, tuple):
                continue
            lo, hi = what
            if hi == lo + 1:
                rest = tuple(x for x in out.axes if x is not a)
                out = self.make("view", (out,), rest, like, ((a, const(lo)),))
            else:
                cond = conjunction([call("le", lo, a.lane), call("lt", a.lane, hi)])
                nothing = self.make("full", (), (), like, NOTHING[kind])
                out = self.select(cond, out, nothing, like)
        if runs:
            out = self.run_of(out, runs, "below" in how, kind, like)
        for a, what in zip(v.axes, how, strict=True):
            if what == "all" or (isinstance(what, tuple) and what[1] != what[0] + 1):
                rest = tuple(x for x in out.axes if x is not a)
                out = self.make("reduce", (out,), rest, like, (kind, a))
        return out

    def run_of(self, v: Value, axes: Sequence[Axis], strict: bool, kind: str, like: Value) -> Value:
        """The lanes up to the own one in their order."""
        self.number += 1
        moved = {a: Axis(f"{a.name}~{self.number}", a.extent) for a in axes}
        rest = [a for a in v.axes if a not in moved]
        places = tuple((a, b.lane) for a, b in moved.items())
        out = self.make("view", (v,), (*rest, *moved.values()), like, places)
        mine: Expr = const(0)
        their: Expr = mine
        for a, b in moved.items():
            mine, their = mine * a.extent + a.lane, their * a.extent + b.lane
        nothing = self.make("full", (), (), like, NOTHING[kind])
        out = self.select(call("lt" if strict else "le", their, mine), out, nothing, like)
        for b in reversed(moved.values()):
            left = tuple(x for x in out.axes if x is not b)
            out = self.make("reduce", (out,), left, like, (kind, b))
        return out


def _same_row(f: Form, a: int, b: int) -> bool:
    alike = f.const[a] == f.const[b] and f.lit[a] == f.lit[b] and f.free[a] == f.free[b]
    return bool(alike and all((m[a] == m[b]).all() for m in f.parts.values()))


def _slices(box: Sequence[tuple[int, int]], k: int, at: int) -> tuple[slice, ...]:
    return tuple(slice(at, at + 1) if n == k else slice(*s) for n, s in enumerate(box))


def _volume(box: Sequence[tuple[int, int]]) -> int:
    n = 1
    for lo, hi in box:
        n *= hi - lo
    return n


def gathered(program: TileProgram) -> TileProgram:
    """The program with exchanges between threads as reductions over lanes."""
    out = []
    for k in program.kernels:
        if not k.threads or math.prod(a.extent for a in k.threads) > THREADS:
            out.append(k)
            continue
        made, read = pruned(Exchanged(k, frozenset()).run())
        if read:
            made, _ = pruned(Exchanged(k, read).run())
        out.append(made)
    return replace(program, kernels=tuple(out))


__all__ = ["UNKNOWN", "gathered"]
