"""Concrete reading of the semantics table: runs tile programs on numpy.

Reals are float64, integers exact. Every element of memory carries what safety is about: whether it
holds a value, which program of the running launch wrote it, which one read it, how often an output
was written. What a correct program never does is a trap: an index out of bounds, a read before a
write, poison that is stored, reduced, carried or used as an index, a second write of an output
element in one launch, an output element without a write, an element that two programs of one launch
touch (one of them writing, not both by the same atomic), an integer that wraps, a check that fails.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.ir.dtypes import decode, encode, integer_range
from opwright.ir.expr import LEAVES, ZERO, Expr, leaves, show
from opwright.ir.semantics import MONOIDS, ROWS
from opwright.ir.tile import (
    Atomic,
    Axis,
    Buffer,
    Check,
    Def,
    For,
    Kernel,
    Load,
    Scan,
    Stmt,
    Store,
    TileProgram,
    Value,
    access_axes,
    lanes,
)
from opwright.ir.tileops import (
    KINDS,
    argreduce,
    dot,
    guesses,
    holes,
    opaque,
    running,
    signature,
    spread,
)

STEP_LIMIT = 2_000_000
NOBODY, MANY = -1, -2

Index = tuple[NDArray[np.int64], ...]
Tile = tuple[NDArray[Any], NDArray[np.bool_]]  # data and poison, one entry per lane


class Trap(Exception):
    """A forbidden thing a program did, where, and on what; `kind` is bounds, unwritten, poison,
    twice, race, missing, wrap, divisor, align, mask, home or limit."""

    def __init__(
        self,
        kind: str,
        what: str,
        kernel: str = "",
        statement: str = "",
        program: tuple[int, ...] = (),
        buffer: str = "",
        index: tuple[int, ...] = (),
        lane: Mapping[str, int] | None = None,
        other: str = "",
        whole: bool = True,
        guessed: bool = False,
        line: str = "",
    ) -> None:
        place = [x for x in (line, statement, kernel and f"kernel {kernel}") if x]
        if kernel:
            place.append(f"program {program}")
        super().__init__(f"{', '.join(place)}: {what}" if place else what)
        self.kind, self.what, self.kernel, self.statement = kind, what, kernel, statement
        self.program, self.buffer, self.index = program, buffer, index
        self.lane = dict(lane or {})
        self.other = other  # the statement that touched the element before
        self.whole = whole  # no lane was left out before, so that this is no consequence of that
        self.guessed = guessed  # a value of which nothing is known decided something before
        self.line = line  # of the source of an imported program

    def to_json(self) -> dict[str, Any]:
        return {
            "trap": self.kind,
            "message": self.what,
            "kernel": self.kernel,
            "statement": self.statement,
            "program": list(self.program),
            "buffer": self.buffer,
            "index": list(self.index),
            "lane": self.lane,
            "other": self.other,
        } | ({"line": self.line} if self.line else {})


def run(
    program: TileProgram,
    sizes: Mapping[str, int],
    arrays: Mapping[str, NDArray[Any]],
    params: Mapping[str, float | int | bool] | None = None,
    strides: Mapping[tuple[str, int], int] | None = None,
    *,
    order: int | None = None,
    limit: int = STEP_LIMIT,
) -> dict[str, NDArray[Any]]:
    """Outputs (and state) of a program as float64, int64 or bool arrays; raises Trap.

    `arrays` holds inputs and state; `strides` what `stride(x, n)` stands for, in elements
    (row-major when absent); `order` is a seed that shuffles the programs of every launch; `limit`
    bounds the number of executed statements.
    """

    def stop(trap: Trap) -> None:
        raise trap

    machine = _Machine(program, sizes, arrays, params or {}, strides or {}, stop, limit)
    machine.run(order)
    return machine.results()


def traps(
    program: TileProgram,
    sizes: Mapping[str, int],
    arrays: Mapping[str, NDArray[Any]],
    params: Mapping[str, float | int | bool] | None = None,
    strides: Mapping[tuple[str, int], int] | None = None,
    *,
    homes: bool = True,
    limit: int = STEP_LIMIT,
    most: int = 64,
) -> list[Trap]:
    """Every trap of a run, which goes on with the guilty lanes left out; at most `most` of them.

    With `homes`, scratch shares the memory of its host as the placement says.
    """
    found: list[Trap] = []
    seen: set[tuple[str, ...]] = set()

    def note(trap: Trap) -> None:
        key = (trap.kind, trap.kernel, trap.statement, trap.buffer, trap.other)
        if key not in seen:
            seen.add(key)
            found.append(trap)
        if len(found) >= most or trap.kind == "limit":
            raise _Stop

    machine = _Machine(program, sizes, arrays, params or {}, strides or {}, note, limit, homes)
    try:
        machine.run(None)
    except _Stop:
        pass
    return found


class _Stop(Exception):
    pass


@dataclass(slots=True)
class _Memory:
    """One buffer's elements and what is known of each."""

    data: NDArray[Any]
    ready: NDArray[np.bool_]  # holds a value
    writes: NDArray[np.int64]  # by stores, over all launches
    writer: NDArray[np.int64]  # program of the running launch, or NOBODY
    reader: NDArray[np.int64]  # program of the running launch, NOBODY or MANY
    wrote: NDArray[np.int32]  # statement of the last write
    looked: NDArray[np.int32]  # statement of the last read
    lane: NDArray[np.int64]  # signature of the lane that wrote last
    adder: NDArray[np.int64]  # program of the running launch with atomics, NOBODY or MANY
    adds: NDArray[np.int8]  # number of its monoid
    owner: NDArray[np.int64] | None = None  # of a host: who wrote the memory last

    def begin(self) -> None:
        """Nothing was touched yet by this launch (by this program, if it is scratch of one)."""
        for x in (self.writer, self.reader, self.adder):
            x.fill(NOBODY)


class _Machine:
    def __init__(
        self,
        program: TileProgram,
        sizes: Mapping[str, int],
        arrays: Mapping[str, NDArray[Any]],
        params: Mapping[str, float | int | bool],
        strides: Mapping[tuple[str, int], int],
        trap: Callable[[Trap], None],
        limit: int,
        homes: bool = False,
    ) -> None:
        self.program, self.trap, self.limit, self.homes = program, trap, limit, homes
        self.env: dict[Any, Any] = {**{("size", n): int(v) for n, v in sizes.items()}}
        self.env |= {("param", n): v for n, v in params.items()}
        self.env |= {("stride", at): int(v) for at, v in strides.items()}
        self.memory: dict[str, _Memory] = {}
        self.kernel, self.number, self.statement = "", 0, ""
        self.pid: tuple[int, ...] = ()
        self.whole, self.guessed = True, False
        self.lines: Mapping[str, str] = {}
        self.order = "statement"
        self.guesses = guesses(program)
        self.home: dict[str, tuple[str, tuple[int, ...]]] = {}
        self.names: list[str] = [""]
        self.numbers: dict[str, int] = {"": 0}
        self.inside: dict[Expr, list[Value]] = {}
        for b in program.buffers():
            self.allocate(b, arrays)

    # -- memory
    def allocate(self, b: Buffer, arrays: Mapping[str, NDArray[Any]]) -> None:
        shape = tuple(int(self.expr(s)) for s in b.shape)
        if b.strides is None:  # what `stride` means of a dense buffer
            step = 1
            for n in reversed(range(len(shape))):
                self.env.setdefault(("stride", (b.name, n)), step)
                step *= max(shape[n], 1)
        else:
            for n, e in enumerate(b.strides):
                if e.op != "stride":
                    self.env.setdefault(("stride", (b.name, n)), int(self.expr(e)))
        kind = KINDS[b.dtype.kind]
        given = b.role in ("in", "state")
        shape = tuple(max(n, 0) for n in shape)
        if given:
            if b.name not in arrays:
                raise ValueError(f"no array for the {b.role} buffer {b.name}")
            data = np.array(arrays[b.name]).astype(kind)
            if data.shape != shape:
                raise ValueError(f"{b.name} has the shape {data.shape}, the program says {shape}")
        else:
            data = np.zeros(shape, kind) if b.init == "zero" else _rubbish(shape, kind)
        if not shape:  # one element of a buffer without axes
            shape, data = (1,), data.reshape(1)
        self.memory[b.name] = _Memory(
            data,
            np.full(shape, given or b.init == "zero"),
            np.zeros(shape, np.int64),
            np.full(shape, NOBODY),
            np.full(shape, NOBODY),
            np.zeros(shape, np.int32),
            np.zeros(shape, np.int32),
            np.zeros(shape, np.int64),
            np.full(shape, NOBODY),
            np.zeros(shape, np.int8),
        )

    def results(self) -> dict[str, NDArray[Any]]:
        roles = ("out", "state")
        found = [b for b in self.program.buffers() if b.role in roles]
        data = [(b, self.memory[b.name].data) for b in found]
        return {b.name: x if b.shape else x.reshape(()) for b, x in data}

    # -- running
    def run(self, order: int | None) -> None:
        shuffle = None if order is None else random.Random(order)
        for n, k in enumerate(self.program.kernels):
            grid = [range(int(self.expr(g))) for g in k.grid]
            programs: Iterable[tuple[int, ...]] = itertools.product(*grid)
            if shuffle is not None:
                programs = list(programs)
                shuffle.shuffle(programs)
            for m in self.memory.values():
                m.begin()
            for self.number, p in enumerate(programs):
                self.one(k, p, self.program.placements[n].home if self.homes else {})
            self.leave()
        for b in self.program.buffers():
            if b.role == "out":
                self.finish(b)

    def one(self, k: Kernel, p: tuple[int, ...], home: Mapping[str, Any]) -> None:
        self.kernel, self.pid, self.statement, self.lines = k.name, p, "", k.lines
        self.order = k.order
        for d, x in enumerate(p):
            self.env["pid", d] = x
        self.home = {}
        for b in k.buffers:
            if b.role == "program":
                m = self.memory[b.name]
                m.ready.fill(False)
                m.begin()
            if b.name in home:
                host, lead = home[b.name]
                self.home[b.name] = (host, tuple(int(self.expr(e)) for e in lead))
                target = self.memory[host]
                if target.owner is None:
                    target.owner = np.full(target.data.shape, NOBODY)
        self.block(k.body)

    def leave(self) -> None:
        self.kernel, self.pid, self.statement = "", (), ""

    def finish(self, b: Buffer) -> None:
        m = self.memory[b.name]
        for at in np.argwhere(m.writes == 0)[:1]:
            where, count = _ints(at), int((m.writes == 0).sum())
            what = f"{b.name}{list(where)} is not written ({count} elements)"
            trap = Trap("missing", what, buffer=b.name, index=where, whole=self.whole)
            trap.guessed = self.guessed
            self.trap(trap)
        if m.owner is not None:
            for at in np.argwhere(m.owner >= 0)[:1]:
                where = _ints(at)
                what = f"{b.name}{list(where)} holds scratch at the end"
                self.trap(Trap("home", what, buffer=b.name, index=where))

    def tick(self, name: str) -> None:
        self.statement = name
        self.limit -= 1
        if self.limit < 0:
            self.fail("limit", "the step limit is reached")

    def fail(
        self,
        kind: str,
        what: str,
        buffer: str = "",
        index: Any = (),
        lane: Any = None,
        other: str = "",
    ) -> None:
        at = tuple(index)
        where = (self.kernel, self.statement, self.pid, buffer, at)
        line = self.lines.get(self.statement, "")
        self.trap(Trap(kind, what, *where, lane, other, self.whole, self.guessed, line))

    def me(self) -> int:
        """A number for the running statement."""
        name = f"{self.kernel}.{self.statement}"
        if name not in self.numbers:
            self.numbers[name] = len(self.names)
            self.names.append(name)
        return self.numbers[name]

    def block(self, body: Iterable[Stmt]) -> None:
        for s in body:
            if isinstance(s, Def):
                self.tick(s.value.name)
                self.env[s.value] = self.define(s.value)
            elif isinstance(s, Store):
                self.tick(s.name)
                self.store(s)
            elif isinstance(s, Atomic):
                self.tick(s.name)
                self.atomic(s)
            elif isinstance(s, Check):
                self.tick(s.name)
                self.check(s)
            elif isinstance(s, For):
                self.loop(s)
            else:
                self.tick("if")
                self.block(s.then if self.uniform(s.cond) else s.other)

    def loop(self, s: For) -> None:
        self.tick(s.variable)
        lo, hi = int(self.uniform(s.lo)), int(self.uniform(s.hi))
        state = [self.carried(i, p) for i, p in zip(s.inits, s.params, strict=True)]
        for n in range(lo, hi, s.step):
            self.tick(s.variable)
            self.env["var", s.variable] = n
            self.env |= dict(zip(s.params, state, strict=True))
            self.block(s.body)
            self.statement = s.variable
            state = [self.carried(y, p) for y, p in zip(s.yields, s.params, strict=True)]
        self.env |= dict(zip(s.results, state, strict=True))

    def carried(self, v: Value, p: Value) -> Tile:
        data, poison = self.aligned(v, p.axes)
        if poison.any():
            self.fail("poison", f"{v.name} holds poison and is carried as {p.name}")
        return data, np.zeros_like(poison)

    # -- expressions
    def expr(self, e: Expr) -> Any:
        """A uniform expression as a Python number."""
        out = self.index(e, ())
        return out.item() if isinstance(out, np.ndarray | np.generic) else out

    def check(self, s: Check) -> None:
        axes = lanes(s.cond)
        self.decides(s.cond)
        bad = ~self.lanes(s.cond, axes).astype(bool) & ~self.poison(s.cond, axes)
        if bad.any():
            lane = np.argwhere(bad)[0]
            named = {a.name: int(x) for a, x in zip(axes, lane, strict=True)}
            self.fail(s.kind, s.reason, lane=named)

    def decides(self, *es: Expr) -> None:
        """These expressions decide what is touched; from here on a run may be a guess."""
        if self.guesses and not self.guessed:
            self.guessed = any(v in self.guesses for e in es for v in self.values(e))

    def uniform(self, e: Expr) -> Any:
        """A condition or the bound of a loop."""
        self.decides(e)
        for v in self.poisoned(e):
            self.fail("poison", f"{v.name} holds poison and decides what runs")
        return self.expr(e)

    def values(self, e: Expr) -> list[Value]:
        if e not in self.inside:
            self.inside[e] = [x.attr for x in leaves(e, "value")]
        return self.inside[e]

    def poisoned(self, e: Expr) -> list[Value]:
        """Values in an expression that hold poison at some lane."""
        return [v for v in self.values(e) if self.env[v][1].any()]

    def poison(self, e: Expr, axes: tuple[Axis, ...]) -> NDArray[np.bool_]:
        """Lanes at which an expression depends on poison."""
        out = np.zeros([a.extent for a in axes], bool)
        for v in self.poisoned(e):
            out |= self.aligned(v, axes)[1]
        return out

    def index(self, e: Expr, axes: tuple[Axis, ...]) -> Any:
        """An index expression at every lane of a tile with these axes."""
        memo: dict[Expr, Any] = {}

        def go(x: Expr) -> Any:
            if x not in memo:
                memo[x] = self.node(x, [go(a) for a in x.args], axes)
            return memo[x]

        return go(e)

    def node(self, x: Expr, args: list[Any], axes: tuple[Axis, ...]) -> Any:
        if x.op == "const":
            return x.attr
        if x.op == "lane":
            at = axes.index(x.attr)
            shape = [-1 if n == at else 1 for n in range(len(axes))]
            return np.arange(x.attr.extent).reshape(shape)
        if x.op == "value":
            return self.aligned(x.attr, axes)[0]
        if x.op in LEAVES:
            found = self.env.get((x.op, x.attr))
            if found is None:
                raise ValueError(f"no value for {x.op} {show(x)}")
            return found
        if x.op == "cast":
            return args[0]
        return self.row(x.op, args, x.kind == "int", show(x))

    def row(self, op: str, args: list[Any], exact: bool, text: str) -> Any:
        if op in ("floordiv", "mod") and (np.asarray(args[1]) <= 0).any():
            self.fail("divisor", f"{text}: the divisor is {int(np.min(args[1]))}")
            args = [args[0], np.maximum(args[1], 1)]
        if exact and op in ("add", "sub", "mul", "neg", "abs"):
            small = all(isinstance(a, int | np.integer) for a in args)
            if small:
                out: Any = ROWS[op].concrete(*(int(a) for a in args))
                if not -(2**63) <= out < 2**63:
                    self.fail("wrap", f"{text} is {out}, which wraps")
                    out = (out + 2**63) % 2**64 - 2**63
                return int(out)
            rough = ROWS[op].concrete(*(np.asarray(a, np.float64) for a in args))
            if (np.abs(rough) >= 2.0**63).any():
                self.fail("wrap", f"{text} wraps")
        with np.errstate(all="ignore"):
            return ROWS[op].concrete(*args)

    # -- tiles
    def aligned(self, v: Value, axes: tuple[Axis, ...]) -> Tile:
        """A value transposed and expanded to these axes (extent 1 where it has none)."""
        data, poison = self.env[v]
        return spread(data, v.axes, axes), spread(poison, v.axes, axes)

    def lanes(self, e: Expr, axes: tuple[Axis, ...]) -> NDArray[Any]:
        return np.broadcast_to(np.asarray(self.index(e, axes)), [a.extent for a in axes])

    def access(
        self, b: Buffer, index: tuple[Expr, ...], mask: Expr, axes: tuple[Axis, ...]
    ) -> tuple[NDArray[np.bool_], tuple[NDArray[np.int64], ...]]:
        """Lanes that touch memory, and the index of each; lanes out of bounds are dropped."""
        self.decides(mask, *index)
        on = self.lanes(mask, axes).astype(bool)
        bad = self.poison(mask, axes)
        if bad.any():
            self.fail("poison", f"poison decides the mask {show(mask)}", b.name)
            on, self.whole = on & ~bad, False
        for e in index:
            bad = on & self.poison(e, axes)
            if bad.any():
                self.fail("poison", f"poison is in the index {show(e)}", b.name)
                on, self.whole = on & ~bad, False
        at = [self.lanes(i, axes) for i in index or (ZERO,)]
        shape = self.memory[b.name].data.shape
        for d, (i, n) in enumerate(zip(at, shape, strict=True)):
            bad = on & ((i < 0) | (i >= n))
            if bad.any():
                lane = np.argwhere(bad)[0]
                where = tuple(int(j[tuple(lane)]) for j in at)
                named = {a.name: int(x) for a, x in zip(axes, lane, strict=True)}
                what = f"{b.name}{list(where)}: {where[d]} is outside [0, {n}) of dimension {d}"
                self.fail("bounds", what, b.name, where, named)
                on, self.whole = on & ~bad, False
        return on, tuple(np.asarray(i[on], np.int64) for i in at)

    def first(self, bad: NDArray[np.bool_], at: Index) -> tuple[int, ...]:
        n = int(np.flatnonzero(bad)[0])
        return tuple(int(i[n]) for i in at)

    def races(
        self, b: Buffer, bad: NDArray[np.bool_], at: Index, text: str, names: NDArray[np.int32]
    ) -> None:
        """A trap where two unordered accesses meet; `names` has the other statement."""
        if bad.any():
            where = self.first(bad, at)
            what = text.format(f"{b.name}{list(where)}")
            self.fail("race", what, b.name, where, other=self.names[names[where]])

    def unordered(self, m: _Memory, at: Index, lanes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Lanes at elements that another lane of this program wrote, where lanes are unordered."""
        if self.order == "statement":
            return np.zeros(lanes.shape, bool)
        return np.asarray((m.writer[at] == self.number) & (m.lane[at] != lanes))

    def store(self, s: Store) -> None:
        b, m, axes = s.buffer, self.memory[s.buffer.name], access_axes(s)
        on, at = self.access(b, s.index, s.mask, axes)
        data, lanes = self.fits(b, self.stored(s, on, at, axes)), self.signed(axes, on)
        self.collide(s, at, data, m)
        same = _same(m.data[at], data)
        other = (m.writer[at] != NOBODY) & (m.writer[at] != self.number)
        lost = (other & ~(same & (self.order == "lane"))) | (self.unordered(m, at, lanes) & ~same)
        if b.role in ("out", "state") and lost.any():
            where = self.first(lost, at)
            what = f"{b.name}{list(where)} is written a second time"
            self.fail("twice", what, b.name, where, other=self.names[m.wrote[where]])
        if b.role not in ("in", "program"):
            text = "writes {}, which another program of this launch "
            self.races(b, lost & other, at, text + "wrote", m.wrote)
            other = (m.reader[at] != NOBODY) & (m.reader[at] != self.number)
            self.races(b, other, at, text + "read", m.looked)
            other = (m.adder[at] != NOBODY) & (m.adder[at] != self.number)
            self.races(b, other, at, text + "combines into", m.wrote)
        elif b.role == "program":
            self.races(b, lost, at, "writes {}, which another lane wrote", m.wrote)
        m.data[at] = data
        m.ready[at] = True
        m.writes[at] += 1
        m.writer[at] = self.number
        m.lane[at] = lanes
        m.wrote[at] = self.me()
        self.share(b, m, at)

    def stored(
        self, s: Store | Atomic, on: NDArray[np.bool_], at: Index, axes: tuple[Axis, ...]
    ) -> NDArray[Any]:
        """What the lanes that are on write."""
        b, shape = s.buffer, [a.extent for a in axes]
        data, poison = (np.broadcast_to(t, shape) for t in self.aligned(s.value, axes))
        if poison[on].any():
            where = self.first(poison[on], at)
            self.fail("poison", f"poison is stored to {b.name}{list(where)}", b.name, where)
        return data[on]

    def signed(self, axes: tuple[Axis, ...], on: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Signatures of the lanes that are on."""
        if self.order == "statement":
            return np.zeros(int(on.sum()), np.int64)
        return np.broadcast_to(signature(axes), on.shape)[on]

    def collide(self, s: Store, at: Index, data: NDArray[Any], m: _Memory) -> None:
        """Two lanes of one store at one element: forbidden, unless lanes run on their own and
        agree."""
        if not data.size:
            return
        flat = np.ravel_multi_index(at, m.data.shape)
        order = np.argsort(flat, kind="stable")
        flat, data = flat[order], data[order]
        agree = _same(data[1:], data[:-1]) & (self.order == "lane")
        bad = (flat[1:] == flat[:-1]) & ~agree
        if bad.any():
            where = self.first(bad, np.unravel_index(flat[1:], m.data.shape))
            name = f"{self.kernel}.{s.name}"
            what = f"two lanes write {s.buffer.name}{list(where)}"
            self.fail("twice", what, s.buffer.name, where, other=name)

    def atomic(self, s: Atomic) -> None:
        b, m, axes = s.buffer, self.memory[s.buffer.name], access_axes(s)
        on, at = self.access(b, s.index, s.mask, axes)
        data, lanes = self.stored(s, on, at, axes), self.signed(axes, on)
        self.ready(b, m, at)
        if b.role != "program":
            text = "combines into {}, which another program of this launch "
            other = (m.writer[at] != NOBODY) & (m.writer[at] != self.number)
            self.races(b, other, at, text + "wrote", m.wrote)
            other = (m.reader[at] != NOBODY) & (m.reader[at] != self.number)
            self.races(b, other, at, text + "read", m.looked)
        text = "combines into {}, which another lane of this program wrote"
        self.races(b, self.unordered(m, at, lanes), at, text, m.wrote)
        code = list(MONOIDS).index(s.monoid)
        alone = (m.adder[at] == self.number) & (self.order == "statement")
        mixed = (m.adder[at] != NOBODY) & ~alone & (m.adds[at] != code)
        self.races(b, mixed, at, "combines into {} in two ways", m.wrote)
        with np.errstate(all="ignore"):
            MONOIDS[s.monoid].ufunc.at(m.data, at, data)
        self.fits(b, m.data[at])
        first = (m.adder[at] == NOBODY) | (m.adder[at] == self.number)
        m.adder[at] = np.where(first, self.number, MANY)
        m.adds[at] = code
        m.writes[at] += 1
        m.wrote[at] = self.me()
        self.share(b, m, at)

    def ready(self, b: Buffer, m: _Memory, at: Index) -> None:
        unready = ~m.ready[at]
        if unready.any():
            where = self.first(unready, at)
            what = f"{b.name}{list(where)} is read before it is written"
            self.fail("unwritten", what, b.name, where)

    def share(self, b: Buffer, m: _Memory, at: Index) -> None:
        """Keep track of who last wrote memory that scratch shares with an output."""
        if m.owner is not None:
            m.owner[at] = NOBODY
        if b.name in self.home:
            owner, where, _ = self.housed(b, at)
            owner[where] = self.number

    def housed(
        self, b: Buffer, at: Index
    ) -> tuple[NDArray[np.int64], tuple[NDArray[np.int64], ...], NDArray[np.bool_]]:
        """Owners of the host's memory, where scratch lies in it, and which lanes stay inside."""
        host, lead = self.home[b.name]
        owner = self.memory[host].owner
        assert owner is not None
        count = at[0].shape
        full = (*(np.full(count, x) for x in lead), *(at if b.shape else ()))
        good = np.ones(count, bool)
        for i, n in zip(full, self.memory[host].data.shape, strict=True):
            good &= (i >= 0) & (i < n)
        if not good.all():
            where = self.first(~good, full)
            self.fail("home", f"{b.name} leaves {host}{list(where)}", host, where)
        return owner, tuple(i[good] for i in full), good

    def fits(self, b: Buffer, data: NDArray[Any]) -> NDArray[Any]:
        if b.dtype.kind == "int" and data.size:
            lo, hi = integer_range(b.dtype)
            if int(data.min()) < lo or int(data.max()) > hi:
                self.fail("wrap", f"an element of {b.name} does not fit {b.dtype}", b.name)
        return data

    def reads(self, b: Buffer, m: _Memory, at: Index, lanes: NDArray[np.int64]) -> None:
        if b.role != "program":
            text = "reads {}, which another program of this launch "
            other = (m.writer[at] != NOBODY) & (m.writer[at] != self.number)
            self.races(b, other, at, text + "wrote", m.wrote)
            other = (m.adder[at] != NOBODY) & (m.adder[at] != self.number)
            self.races(b, other, at, text + "combines into", m.wrote)
        late = self.unordered(m, at, lanes)
        if self.order == "lane":
            late = late | (m.adder[at] == self.number)
        self.races(b, late, at, "reads {}, which another lane of this program wrote", m.wrote)

    def load(self, v: Value) -> Tile:
        what: Load = v.attr
        b, m = what.buffer, self.memory[what.buffer.name]
        on, at = self.access(b, what.index, what.mask, v.axes)
        self.ready(b, m, at)
        if b.role != "in":
            self.reads(b, m, at, self.signed(v.axes, on))
        if b.role not in ("in", "program"):
            free = m.reader[at] == NOBODY
            m.reader[at] = np.where(free | (m.reader[at] == self.number), self.number, MANY)
            m.looked[at] = self.me()
        if b.name in self.home:
            owner, full, good = self.housed(b, at)
            lost = (owner[full] != self.number) & m.ready[at][good]
            if lost.any():
                where = self.first(lost, tuple(i[good] for i in at))
                text = f"{b.name}{list(where)} was overwritten in its home"
                self.fail("home", text, b.name, where)
        shape = [a.extent for a in v.axes]
        data = np.full(shape, 0 if what.other is None else what.other, m.data.dtype)
        data[on] = m.data[at]
        return data, (~on if what.other is None else np.zeros(shape, bool))

    def define(self, v: Value) -> Tile:
        shape = [a.extent for a in v.axes]
        kind = KINDS[v.dtype.kind]
        clean = np.zeros(shape, bool)
        if v.op == "full":
            return np.full(shape, v.attr, kind), clean
        if v.op == "index":
            return self.lanes(v.attr, v.axes).astype(kind), self.poison(v.attr, v.axes)
        if v.op == "load":
            return self.load(v)
        if v.op == "reduce":
            monoid, axis = v.attr
            data = self.whole_of(v.args[0])
            with np.errstate(all="ignore"):
                out = MONOIDS[monoid].concrete(data, axis=v.args[0].axes.index(axis))
            rest = tuple(a for a in v.args[0].axes if a != axis)
            order = [rest.index(a) for a in v.axes]
            return np.asarray(out, kind).transpose(order), clean
        if v.op in ("dot", "argreduce"):
            a, b = (self.whole_of(x) for x in v.args)
            return (dot if v.op == "dot" else argreduce)(v, a, b), clean
        if v.op == "scan":
            return self.scan(v)
        if v.op == "view":
            return self.view(v)
        args = [self.aligned(a, v.axes) for a in v.args]
        poison = clean
        if v.op == "select":
            (c, pc), (_, pa), (_, pb) = args
            poison = np.broadcast_to(pc | np.where(c, pa, pb), shape)
        else:
            for _, p in args:
                poison = poison | p
        if v.op == "opaque":
            return opaque(v.attr, v.dtype, shape, [a for a, _ in args]), poison
        if v.op == "cast":
            return np.broadcast_to(args[0][0], shape).astype(kind), poison
        if v.op == "round":
            nearest = decode(encode(np.asarray(args[0][0]), v.dtype), v.dtype)
            return np.broadcast_to(nearest, shape), poison
        if v.op in ("floordiv", "mod"):  # lanes of poison divide by nothing in particular
            args[1] = (np.where(args[1][1], 1, args[1][0]), args[1][1])
        out = self.row(v.op, [a for a, _ in args], v.dtype.kind == "int", v.name)
        return np.broadcast_to(out, shape).astype(kind), poison

    def whole_of(self, v: Value) -> NDArray[Any]:
        """All lanes of a value that is combined over them."""
        data, poison = self.env[v]
        if poison.any():
            self.fail("poison", f"{v.name} holds poison and is reduced")
        return data  # type: ignore[no-any-return]

    def scan(self, v: Value) -> Tile:
        arg = v.args[0]
        data, poison = self.env[arg]
        if holes(v.attr, poison, arg.axes).any():
            self.fail("poison", f"{arg.name} holds poison and is scanned")
        after = running(Scan("any", v.attr.axis, v.attr.reverse), poison, arg.axes)
        out = running(v.attr, data, arg.axes)
        return spread(out, arg.axes, v.axes), spread(after, arg.axes, v.axes)

    def view(self, v: Value) -> Tile:
        arg, places = v.args[0], dict(v.attr)
        shape = [a.extent for a in v.axes]
        at = []
        for a in arg.axes:
            i = self.lanes(places.get(a, a.lane), v.axes)
            if ((i < 0) | (i >= a.extent)).any():
                self.fail("bounds", f"a lane of {arg.name} along {a.name} is outside its axis")
            at.append(np.clip(i, 0, a.extent - 1))
        data, poison = self.env[arg]
        if not at:
            return np.broadcast_to(data, shape), np.broadcast_to(poison, shape)
        return data[tuple(at)], poison[tuple(at)]


def _same(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.bool_]:
    """Where elements are equal, NaN to NaN."""
    return np.asarray((a == b) | ((a != a) & (b != b)))


def _rubbish(shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
    """What memory holds before anything is written; never looked at without a trap."""
    return np.full(shape, np.nan if kind is np.float64 else 1, kind)


def _ints(at: NDArray[Any]) -> tuple[int, ...]:
    return tuple(int(x) for x in at)
