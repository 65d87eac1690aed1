"""Calls of built candidates: arguments in the driver's order, test calls in a worker, scratch
bytes.
"""

from __future__ import annotations

import math
import threading
from random import Random
from typing import Any, Protocol

from opwright.ir.dtypes import DTYPES
from opwright.ir.expr import Expr, evaluate, leaves, param, size, walk
from opwright.ir.op import Operator
from opwright.ir.plan import Plan
from opwright.ir.text import parse_expr
from opwright.ir.tile import For, TileProgram, expressions, lanes, statements
from opwright.search.results import Built, Options
from opwright.search.sandbox import Died, Shared, Worker
from opwright.verify.inputs import Case
from opwright.verify.memory import PAGE, Frame, guards
from opwright.verify.numeric import Observation


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
        count = math.prod(int(evaluate(parse_expr(t, names), env)) for t in s.shape)
        total += count * DTYPES[s.dtype].bytes * (threads if s.scope == "program" else 1)
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
    return tuple(sorted(n for n in found if 2 <= n <= 8192 and n + 1 not in found))


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
        self, evaluator: Owner, program: TileProgram, built: Built, shared: Shared
    ) -> None:
        self.owner, self.program, self.built, self.shared = evaluator, program, built, shared
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
        forbidden = [at for s in frame.slots for at in guards(s, layout).values()]
        outputs = []
        mutated: list[str] = []
        damage: list[str] = []
        try:
            # fresh heap memory holds the complement: 0x7f (huge numbers), 0xc0 (around -6)
            for poison, perturb in (("nan", 0x80), ("a5", 0x3F)):
                status = self._call(frame, poison, perturb, forbidden)
                if status != 0:
                    return Observation(failure=f"returned status {status}")
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
                self.worker = Worker(self.shared, owner.threads, owner.options.limits)
                owner.live.add(self.worker)
                if owner.stopped.is_set():
                    raise Died("crashed", "the search was stopped")
                self.worker.request("load", limit, path=str(self.built.path))
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
