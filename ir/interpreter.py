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
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.ir.interpreter_memory import Accesses
from opwright.ir.interpreter_state import NOBODY, Tile, Trap
from opwright.ir.readings import Floats
from opwright.ir.tile import (
    Atomic,
    Barrier,
    Buffer,
    Check,
    Def,
    For,
    Kernel,
    Scan,
    Stmt,
    Store,
    TileProgram,
    Value,
    lanes,
    written_at,
)
from opwright.ir.tileops import (
    holes,
    opaque,
    running,
    spread,
)

STEP_LIMIT = 2_000_000


def run(
    program: TileProgram,
    sizes: Mapping[str, int],
    arrays: Mapping[str, NDArray[Any]],
    params: Mapping[str, float | int | bool] | None = None,
    strides: Mapping[tuple[str, int], int] | None = None,
    *,
    order: int | None = None,
    limit: int = STEP_LIMIT,
    reals: Floats | None = None,
) -> dict[str, NDArray[Any]]:
    """Outputs (and state) of a program as float64, int64 or bool arrays; raises Trap.

    `arrays` holds inputs and state; `strides` what `stride(x, n)` stands for, in elements
    (row-major when absent); `order` is a seed that shuffles the programs of every launch; `limit`
    bounds the number of executed statements, `reals` is what real numbers are.
    """

    def stop(trap: Trap) -> None:
        raise trap

    machine = Machine(program, sizes, arrays, params or {}, strides or {}, stop, limit, reals=reals)
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

    machine = Machine(program, sizes, arrays, params or {}, strides or {}, note, limit, homes)
    try:
        machine.run(None)
    except _Stop:
        pass
    return found


class _Stop(Exception):
    pass


class Machine(Accesses):
    """Runs the statements of a program."""

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
        self.order, self.threads = k.order, k.threads
        self.begin_threads()
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
            line = written_at(self.program.kernels, b.name)
            trap = Trap("missing", what, buffer=b.name, index=where, whole=self.whole, line=line)
            trap.guessed = self.guessed
            self.trap(trap)
        if m.owner is not None:
            for at in np.argwhere(m.owner >= 0)[:1]:
                where = _ints(at)
                what = f"{b.name}{list(where)} holds scratch at the end"
                self.trap(Trap("home", what, buffer=b.name, index=where))

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
            elif isinstance(s, Barrier):
                self.tick(s.name)
                self.barrier(s)
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

    def check(self, s: Check) -> None:
        axes = lanes(s.cond)
        self.decides(s.cond)
        bad = ~self.lanes(s.cond, axes).astype(bool) & ~self.poison(s.cond, axes)
        if bad.any():
            lane = np.argwhere(bad)[0]
            named = {a.name: int(x) for a, x in zip(axes, lane, strict=True)}
            self.fail(s.kind, s.reason, lane=named)

    def define(self, v: Value) -> Tile:
        shape = [a.extent for a in v.axes]
        kind = v.dtype.kind
        clean = np.zeros(shape, bool)
        if v.op == "full":
            return self.reals.full(shape, v.attr, kind), clean
        if v.op == "index":
            return self.reals.typed(self.lanes(v.attr, v.axes), kind), self.poison(v.attr, v.axes)
        if v.op == "load":
            return self.load(v)
        if v.op == "reduce":
            monoid, axis = v.attr
            data = self.whole_of(v.args[0])
            with np.errstate(all="ignore"):
                out = self.reals.reduce(monoid, data, v.args[0].axes.index(axis))
            rest = tuple(a for a in v.args[0].axes if a != axis)
            order = [rest.index(a) for a in v.axes]
            return self.reals.typed(out, kind).transpose(order), clean
        if v.op in ("dot", "argreduce"):
            a, b = (self.whole_of(x) for x in v.args)
            return (self.reals.dot if v.op == "dot" else self.reals.argreduce)(v, a, b), clean
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
            return np.broadcast_to(self.reals.typed(args[0][0], kind), shape), poison
        if v.op == "round":
            nearest = self.reals.rounded(np.asarray(args[0][0]), v.dtype)
            return np.broadcast_to(nearest, shape), poison
        if v.op in ("floordiv", "mod"):  # lanes of poison divide by nothing in particular
            args[1] = (np.where(args[1][1], 1, args[1][0]), args[1][1])
        out = self.row(v.op, [a for a, _ in args], v.dtype.kind == "int", v.name)
        return np.broadcast_to(self.reals.typed(out, kind), shape), poison

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
        out = self.reals.running(v.attr, data, arg.axes)
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


def _ints(at: NDArray[Any]) -> tuple[int, ...]:
    return tuple(int(x) for x in at)


__all__ = ["STEP_LIMIT", "Trap", "run", "traps"]
