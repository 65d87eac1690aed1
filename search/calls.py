"""Calls of built candidates: arguments in the driver's order, test calls in a worker, scratch
bytes.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections.abc import Sequence
from random import Random
from typing import Any, Protocol

from opwright.ir.dtypes import DTYPES
from opwright.ir.expr import Expr, affine, evaluate, leaves, param, size, walk
from opwright.ir.op import Operator
from opwright.ir.plan import Plan
from opwright.ir.text import parse_expr
from opwright.ir.tile import For, TileProgram, expressions, lanes, statements
from opwright.search.results import Built, Options
from opwright.search.sandbox import Died, Shared, Worker
from opwright.verify.inputs import Case
from opwright.verify.memory import PAGE, Frame, guards
from opwright.verify.numeric import Observation

LARGEST_EDGE = 8192  # of a block that test sizes straddle
LARGEST_SIZE = 1 << 18  # that a test has because a program asks for it by number
MOST_AT_ONCE = 9  # of numbers of several sizes
MOST_SCRATCH = 1 << 30  # bytes that a call on test sizes may ask for


def arguments(op: Operator, frame: Frame) -> tuple[list[int], list[float]]:
    """Integers and reals of a call: sizes, params, then strides, as the driver takes them."""
    case = frame.case
    ints = [case.sizes[s] for s in op.sizes]
    ints += [int(case.params[p.name]) for p in op.params if p.dtype.kind != "real"]
    reals = [float(case.params[p.name]) for p in op.params if p.dtype.kind == "real"]
    for s in frame.slots:
        ints += s.strides
    return ints, reals


def buffers(frame: Frame, base: int) -> list[dict[str, Any]]:
    """A frame's buffers as a worker takes them; the frame starts at byte `base` of shared
    memory.
    """
    return [
        {"name": s.name, "role": s.role, "offset": base + s.offset, "bytes": max(s.span, s.item)}
        for s in frame.slots
    ]


def floor(frame: Frame, threads: int) -> float:
    """Seconds that writing the outputs takes at 64 bytes a cycle and 6 GHz on every thread."""
    written = sum(s.span for s in frame.slots if s.role == "out")
    return written / (64 * 6e9 * threads)


def strided(f: Expr) -> bool:
    """Whether a fact speaks of memory, not of sizes alone."""
    if leaves(f, "stride"):
        return True
    return any(str(x.attr).startswith("aligned(") for x in leaves(f, "param"))


def scratch_bytes(plan: Plan, op: Operator, case: Case, threads: int) -> int:
    """Bytes of scratch that a call allocates."""
    names = {s: size(s) for s in op.sizes} | dict(op.lets)
    names |= {p.name: param(p.name, p.dtype.kind) for p in op.params}
    env: dict[str, Any] = {**case.params, **case.sizes}
    total = 0
    for s in plan.scratch.values():
        count = math.prod(max(int(evaluate(parse_expr(t, names), env)), 0) for t in s.shape)
        total += (
            count
            * DTYPES[op.types.get(s.dtype, s.dtype)].bytes
            * (threads if s.scope == "program" else 1)
        )
    return total


def edges(program: TileProgram) -> tuple[int, ...]:
    """Tile extents, loop steps and block sizes of a program: sizes next to them are tested."""
    found: set[int] = set()
    for k in program.kernels:
        roots = [*k.grid, *expressions(k.body)]
        found |= {x.attr for e in roots for x in walk(e) if x.op == "const" and x.kind == "int"}
        found |= {a.extent for a in lanes(*roots)}
        found |= {s.step for s in statements(k.body) if isinstance(s, For)}
    # a block of 16 and the 15 that rounds up to it are one edge
    return tuple(sorted(n for n in found if 2 <= n <= LARGEST_EDGE and n + 1 not in found))


def singled_out(program: TileProgram) -> tuple[tuple[str, int], ...]:
    """Sizes with numbers that a program compares them with, in order; beside a limit also the
    numbers next to it, where they are beyond what `edges` covers."""
    found: dict[tuple[str, int], None] = {}
    for k in program.kernels:
        for x in (x for e in (*k.grid, *expressions(k.body)) for x in walk(e)):
            if x.op not in ("eq", "ne", "lt", "le") or x.args[0].kind != "int":
                continue
            form = affine(x.args[0] - x.args[1]) or {}
            atoms = [(a, n) for a, n in form.items() if a is not None]
            rest = -form.get(None, 0)
            if len(atoms) != 1 or rest % atoms[0][1]:
                continue
            at, v = atoms[0][0], rest // atoms[0][1]
            if at.op == "mod":
                at = at.args[0]
            if at.op == "pid" and at.attr < len(k.grid):  # the program of that number
                at, v = k.grid[at.attr], v + 1
            near = (v,) if x.op in ("eq", "ne") else (v - 1, v, v + 1) if v > LARGEST_EDGE else ()
            if at.op == "size":
                found |= {(str(at.attr), n): None for n in near if 0 <= n <= LARGEST_SIZE}
    return tuple(found)


def at_once(apart: Sequence[tuple[str, int]]) -> list[dict[str, int]]:
    """Numbers of several sizes together, as a text that knows one call compares with them."""
    by_name: dict[str, list[int]] = {}
    for name, n in apart:
        by_name.setdefault(name, []).append(n)
    if len(by_name) < 2:
        return []
    ways = itertools.product(*(numbers[:3] for numbers in by_name.values()))
    return [dict(zip(by_name, way, strict=True)) for way in itertools.islice(ways, MOST_AT_ONCE)]


class Owner(Protocol):
    """What a runner needs of its evaluator; `live` workers are killed after Ctrl-C."""

    op: Operator
    options: Options
    live: set[Worker]
    stopped: threading.Event

    @property
    def threads(self) -> int: ...


class Runner:
    """Runs a candidate's test calls in a worker, twice each with different garbage."""

    def __init__(
        self, evaluator: Owner, program: TileProgram, plan: Plan, built: Built, shared: Shared
    ) -> None:
        self.owner, self.program, self.plan = evaluator, program, plan
        self.built, self.shared = built, shared
        self.worker: Worker | None = None
        self.rng = Random(evaluator.options.seed)

    def close(self) -> None:
        if self.worker is not None:
            self.worker.kill()
            self.owner.live.discard(self.worker)

    def __call__(self, case: Case, layout: str) -> Observation | None:
        frame = Frame(self.owner.op, case, layout, self.shared.bytes)
        if not frame.satisfies(self.program.facts):
            return None
        room = scratch_bytes(self.plan, self.owner.op, case, self.owner.threads)
        if room > MOST_SCRATCH:
            what = f"the plan asks for {room:.3g} bytes of scratch"
            return Observation(failure=f"{what}; a call on test sizes may have {MOST_SCRATCH:.3g}")
        forbidden = [at for s in frame.slots for at in guards(s, layout).values()]
        outputs = []
        mutated: list[str] = []
        damage: list[str] = []
        try:
            # fresh heap memory holds the complement: 0x7f (huge numbers), 0xc0 (around -6)
            for poison, perturb in (("nan", 0x80), ("a5", 0x3F)):
                status = self._call(frame, poison, perturb, forbidden)
                if status != 0:
                    why = ": no memory for its scratch, or a grid beyond 64 bits" * (status == 1)
                    return Observation(failure=f"returned status {status}{why}")
                outputs.append(frame.outputs())
                more_mutated, more_damage = frame.damage()
                mutated += more_mutated
                damage += more_damage
        except Died as e:
            where = self._touched(frame, layout) if "signal 11" in str(e) else ""
            return Observation(failure=f"{where} ({e})" if where else str(e))
        return Observation(outputs[0], outputs[1], tuple(mutated), tuple(damage))

    def _call(self, frame: Frame, poison: str, perturb: int, forbidden: list[int]) -> int:
        """The status of one call on a freshly filled frame; after `Died` there is no worker."""
        owner = self.owner
        limit = owner.options.call_limit
        ints, reals = arguments(owner.op, frame)
        try:
            if self.worker is None:
                path = self.built.path
                self.worker = Worker(self.shared, owner.threads, owner.options.limits, [path])
                owner.live.add(self.worker)
                if owner.stopped.is_set():
                    raise Died("crashed", "the search was stopped")
                self.worker.request("load", limit, path=os.path.abspath(path))
            frame.fill(self.rng.randrange(2**32), poison)
            reply = self.worker.request(
                "call",
                limit,
                library=0,
                offsets=[s.offset for s in frame.slots],
                ints=ints,
                reals=reals,
                threads=owner.threads,
                perturb=perturb,
                guards=[[at, PAGE] for at in forbidden],
            )
        except Died:
            self.close()
            self.worker = None
            raise
        return int(reply["status"])

    def _touched(self, frame: Frame, layout: str) -> str:
        """Which buffer's border a call crosses that died with all of them forbidden."""
        words = {"start": "before the start", "end": "past the end"}
        for s in frame.slots:
            for side, page in guards(s, layout).items():
                try:
                    self._call(frame, "nan", 0x80, [page])
                except Died as e:
                    if "signal 11" in str(e):
                        return f"an access {words[side]} of {s.name}"
                    return ""
        return ""
