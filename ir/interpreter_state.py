"""The state of a running tile program: memory, values, and what its expressions are at every lane.

What a program must not do is a `Trap`; it goes to whoever runs the machine, and lanes at fault are
left out where a run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.ir.expr import LEAVES, Expr, leaves, show
from opwright.ir.readings import Floats
from opwright.ir.semantics import ROWS
from opwright.ir.tile import (
    Axis,
    Buffer,
    TileProgram,
    Value,
)
from opwright.ir.tileops import (
    guesses,
    spread,
)

NOBODY, MANY = -1, -2

Index = tuple[NDArray[np.int64], ...]
Tile = tuple[NDArray[Any], NDArray[np.bool_]]  # data and poison, one entry per lane


class Trap(Exception):
    """A forbidden thing a program did, where, and on what; `kind` is bounds, unwritten, poison,
    twice, race, missing, wrap, divisor, align, mask, diverge, home or limit."""

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


@dataclass(slots=True)
class Memory:
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
    when: NDArray[np.int64]  # time of the last write (threads)
    seer: NDArray[np.int64]  # thread of the last reads since what orders them, NOBODY or MANY
    saw: NDArray[np.int64]  # time of the last read
    began: NDArray[np.int32]  # statement of the first of those reads
    plain: NDArray[np.int32]  # statement of the last write that is no atomic
    owner: NDArray[np.int64] | None = None  # of a host: who wrote the memory last

    def begin(self) -> None:
        """Nothing was touched yet by this launch (by this program, if it is scratch of one)."""
        for x in (self.writer, self.reader, self.adder, self.seer):
            x.fill(NOBODY)


class State:
    """Memory, values and expressions of one run."""

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
        reals: Floats | None = None,
    ) -> None:
        self.reals = reals or Floats()
        self.program, self.trap, self.limit, self.homes = program, trap, limit, homes
        self.env: dict[Any, Any] = {**{("size", n): int(v) for n, v in sizes.items()}}
        self.env |= {("param", n): v for n, v in params.items()}
        self.env |= {("stride", at): int(v) for at, v in strides.items()}
        self.memory: dict[str, Memory] = {}
        self.kernel, self.number, self.statement = "", 0, ""
        self.pid: tuple[int, ...] = ()
        self.whole, self.guessed = True, False
        self.lines: Mapping[str, str] = {}
        self.order = "statement"
        self.threads: tuple[Axis, ...] = ()
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
        kind = b.dtype.kind
        given = b.role in ("in", "state")
        shape = tuple(max(n, 0) for n in shape)
        if given:
            if b.name not in arrays:
                raise ValueError(f"no array for the {b.role} buffer {b.name}")
            data = self.reals.given(arrays[b.name], kind)
            if len(shape) == 1 and data.size == shape[0]:
                data = data.ravel()  # dense memory that the program sees as one axis
            if data.shape != shape:
                raise ValueError(f"{b.name} has the shape {data.shape}, the program says {shape}")
        else:
            zero = b.init == "zero"
            data = self.reals.full(shape, 0, kind) if zero else self.reals.rubbish(shape, kind)
        if not shape:  # one element of a buffer without axes
            shape, data = (1,), data.reshape(1)
        self.memory[b.name] = Memory(
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
            np.zeros(shape, np.int64),
            np.full(shape, NOBODY),
            np.zeros(shape, np.int64),
            np.zeros(shape, np.int32),
            np.zeros(shape, np.int32),
        )

    def results(self) -> dict[str, NDArray[Any]]:
        roles = ("out", "state")
        found = [b for b in self.program.buffers() if b.role in roles]
        data = [(b, self.memory[b.name].data) for b in found]
        return {b.name: x if b.shape else x.reshape(()) for b, x in data}

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

    # -- expressions
    def expr(self, e: Expr) -> Any:
        """A uniform expression as a Python number."""
        out = self.index(e, ())
        return out.item() if isinstance(out, np.ndarray | np.generic) else out

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
            return self.reals.number(x.attr, x.kind)
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
            return self.reals.number(found, x.kind)
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
            return self.reals.row(op, args)

    # -- tiles
    def aligned(self, v: Value, axes: tuple[Axis, ...]) -> Tile:
        """A value transposed and expanded to these axes (extent 1 where it has none)."""
        data, poison = self.env[v]
        return spread(data, v.axes, axes), spread(poison, v.axes, axes)

    def lanes(self, e: Expr, axes: tuple[Axis, ...]) -> NDArray[Any]:
        return np.broadcast_to(np.asarray(self.index(e, axes)), [a.extent for a in axes])
