"""Judging candidates: safety gate, build, numeric gate; each in its own process or killed.

The order is cheap first and stops at the first failure. Inputs, references and verdicts stay in
this process; a worker sees buffers only.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Self

from opwright.backends import isolation
from opwright.ir.binding import InputError
from opwright.ir.op import Operator
from opwright.ir.plan import Plan
from opwright.ir.record import ORDER, weakest
from opwright.ir.tile import TileProgram
from opwright.search import quiet
from opwright.search.calls import (
    LARGEST_SIZE,
    Runner,
    at_once,
    edges,
    singled_out,
    strided,
)
from opwright.search.loads import memory_limit
from opwright.search.results import (
    Built,
    Emitted,
    Evaluation,
    Job,
    Options,
    Tools,
)
from opwright.search.sandbox import Shared, Worker
from opwright.verify.inputs import Case, generate
from opwright.verify.memory import GUARDED, slots
from opwright.verify.numeric import (
    Bound,
    Known,
    Numeric,
    Peer,
    bounds,
    numeric,
)
from opwright.verify.policy import tested_instead
from opwright.verify.sizes import WORKLOAD_LIMITS, Limits
from opwright.verify.told import planted

LARGEST_REST = 32  # of a block all of whose rests are tested
FUNCTION = ("G4", "G5", "G7")  # gates that are not required before anything is executed
APART = 8  # sizes of a program's own that are tested


class Judge:
    """Judges C++ candidates on this machine; use it as a context manager.

    `near` are tile extents and vector widths that test sizes should straddle, `blocks` those of a
    text that was not read. What could not be tested or measured as declared is in `notes`.
    """

    def __init__(
        self,
        op: Operator,
        tools: Tools,
        options: Options | None = None,
        near: Sequence[int] = (8, 16, 32, 64),
        blocks: Sequence[int] = (),
    ) -> None:
        self.op, self.tools = op, tools
        options = options or Options()
        self.options = replace(
            options,
            threads=options.threads or os.cpu_count() or 1,
            bytes_limit=options.bytes_limit or memory_limit(),
        )
        made = generate(op, self.options.seed, self.options.cases, near)
        self.cases, self._notes = list(made.cases), list(made.notes)
        self.near, self.blocks = near, blocks
        # with the case itself: the id of one that is gone is given to another
        self._bounds: dict[int, tuple[Case, Mapping[str, Bound]]] = {}
        self._expected: dict[str, Known | Peer] = {}
        self._variants: dict[tuple[str, ...], tuple[Case, ...]] = {}
        self._built: dict[str, tuple[Emitted, Built]] = {}
        self._lock = threading.RLock()
        self._local = threading.local()
        self._arenas: list[Shared] = []
        self._long: dict[tuple[str, str], float] = {}  # (program, workload) -> known latency
        self.live: set[Worker] = set()
        self.stopped = threading.Event()  # after Ctrl-C no worker is started any more
        self._patience = quiet.PATIENCE
        self._pool = ThreadPoolExecutor(self.options.workers, "candidate")
        self.cases = [c for c in self.cases if self._has_reference(c)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        for a in self._arenas:
            a.close()
        self._arenas.clear()

    @property
    def threads(self) -> int:
        return self.options.threads

    @property
    def notes(self) -> Sequence[str]:
        return tuple(dict.fromkeys(self._notes))

    def _has_reference(self, case: Case) -> bool:
        try:
            self.bound(case)
        except InputError as e:
            self._notes.append(f"{case} left out: {e}")
            return False
        return True

    def judge(self, job: Job) -> Evaluation:
        """Everything but timing: safety, build, numeric gate."""
        with self._lock:  # the prover's terms belong to one thread at a time
            try:
                given = job.given
                records = given.records if given else tuple(self.tools.safety(job.program))
            except (ValueError, RuntimeError) as e:
                return Evaluation("unproved", f"the safety gate failed: {e}")
        bad = next((r for r in records if r.status == "REFUTED"), None)
        if bad is not None:
            return Evaluation("refuted", f"{bad.id}: {bad.reason}", "", records)
        # what a function computes is tested where it is not proved; safety is not
        needed = [r for r in records if r.kind not in FUNCTION]
        reached = weakest(r.status for r in needed)
        if self.options.require == "PROVED" and ORDER.index(reached) < ORDER.index("PROVED"):
            weak = next((r for r in needed if r.status == reached), None)
            why = f"{weak.id}: {weak.reason}" if weak else "no safety record"
            return Evaluation("unproved", f"safety is {reached}: {why}", "", records)
        try:
            emitted, built = self._library(job)
        except (ValueError, RuntimeError, OSError) as e:
            return Evaluation("unbuilt", str(e).splitlines()[0][:500], "", records)
        source = hashlib.sha256(emitted.source.encode()).hexdigest()
        facts: dict[str, Any] = {"seconds": built.seconds, "size": built.size}
        if job.given is not None and self.tools.inspect is not None:
            facts |= self.tools.inspect(built)
        found = self._numeric(job, emitted.plan, built, f"sha256:{source}")
        how = isolation.describe()
        executed = (replace(r, assumptions=(*r.assumptions, how)) for r in found.records)
        records = (*records, *executed)
        base = Evaluation("ok", "", source, records, {**facts, "error": found.error})
        failed = found.refuted
        if failed is not None:
            kind = "wrong"
            if failed.id == "G6.runs":
                kind = "timeout" if "no answer" in failed.reason else "crashed"
            return replace(base, status=kind, reason=failed.reason)
        if any(r.kind == "G6" and r.status == "UNKNOWN" for r in found.records):
            return replace(base, status="unproved", reason=found.records[0].reason)
        return replace(base, records=tuple(tested_instead(records))) if job.given else base

    def emitted(self, job: Job) -> Emitted | None:
        """What was built of a candidate, None for one that did not get that far."""
        with self._lock:
            known = self._built.get(job.digest)
        return known[0] if known else None

    def _library(self, job: Job) -> tuple[Emitted, Built]:
        """The built candidate, from memory or by building it (the builder has a cache of its
        own).
        """
        with self._lock:
            known = self._built.get(job.digest)
            if known is not None:
                return known
            emitted = job.given.emitted if job.given else self.tools.emit(job.program)
        built = _remembered(self.tools.build(emitted))
        with self._lock:
            return self._built.setdefault(job.digest, (emitted, built))

    # -- numeric gate -----------------------------------------------------------------------------

    def _numeric(self, job: Job, plan: Plan, built: Built, subject: str) -> Numeric:
        cases = [*self.cases, *self._own_sizes(job.program)]
        if job.given is not None:
            cases += self._remainders(job.program)
            text = job.given.emitted.source
            cases += [
                c
                for c in planted(self.op, self.cases, text, self.options.seed)
                if self._has_reference(c)
            ]
        watched = job.given is not None and any(r.status != "PROVED" for r in job.given.records)
        guarded = GUARDED if self.options.guarded or watched else ()
        layouts = ("rows", "gapped", *guarded)
        need = max((slots(self.op, c, k)[1] for c in cases for k in layouts), default=0)
        shared = self._arena(need)
        run = Runner(self, job.program, plan, built, shared)
        try:
            return numeric(
                self.op, cases, run, self.bound, subject, self._notes, everywhere=guarded
            )
        finally:
            run.close()

    def _own_sizes(self, program: TileProgram) -> tuple[Case, ...]:
        """Cases next to the program's own tiles and blocks, under the facts that it assumes."""
        facts = [f for f in program.facts if not strided(f)]
        blocks = [n for n in edges(program) or self.blocks if n not in self.near]
        apart = singled_out(program)[:APART]
        if not program.kernels:  # it was not read: any number in the text may be a size
            apart = tuple((s, n) for n in self.blocks for s in self.op.sizes)[: 2 * APART]
        key = (*sorted(map(repr, facts)), *map(str, (*blocks, *apart)))
        with self._lock:
            if key not in self._variants:
                o = self.options
                count = max(6, o.cases // 2) if facts else 6
                made = generate(
                    self.op,
                    o.seed + 1,
                    count,
                    blocks,
                    facts=facts,
                    specials=bool(facts),
                    beyond=blocks,
                )
                cases = list(made.cases)
                if apart:
                    cases += generate(
                        self.op,
                        o.seed + 2,
                        len(apart),
                        limits=Limits(LARGEST_SIZE, WORKLOAD_LIMITS.work),
                        facts=facts,
                        families=("normal", "uniform"),
                        specials=False,
                        exactly=apart,
                        together=at_once(apart),
                    ).cases
                self._variants[key] = tuple(c for c in cases if self._has_reference(c))
            return self._variants[key]

    def _remainders(self, program: TileProgram) -> list[Case]:
        """Cases with every rest of a small block in every dim: a text that a person wrote may treat
        each apart."""
        blocks = [n for n in edges(program) or self.blocks if n <= LARGEST_REST]
        rests = range(1, max(blocks, default=0) + 2)
        facts = tuple(f for f in program.facts if not strided(f))
        with self._lock:
            made = generate(
                self.op,
                self.options.seed + 3,
                0,
                facts=facts,
                families=("normal", "uniform"),
                specials=False,
                exactly=[(s, n) for n in rests for s in self.op.sizes],
            )
            return [c for c in made.cases if self._has_reference(c)]

    def bound(self, case: Case) -> Mapping[str, Bound]:
        """Reference values of a case, computed once."""
        with self._lock:
            if id(case) not in self._bounds:
                self._bounds[id(case)] = (case, bounds(self.op, case, self.tools.reference))
            return self._bounds[id(case)][1]

    def _arena(self, size: int) -> Shared:
        """This thread's block of shared memory, large enough."""
        shared: Shared | None = getattr(self._local, "shared", None)
        if shared is None:
            shared = Shared(size)
            self._local.shared = shared
            self._arenas.append(shared)
        shared.grow(size)
        return shared


def _remembered(built: Built) -> Built:
    """Seconds of compiling, also of a library that comes from the builder's cache."""
    note = built.path.with_suffix(".seconds")
    try:
        if built.seconds > 0:
            note.write_text(repr(built.seconds))
            return built
        return replace(built, seconds=float(note.read_text()))
    except (OSError, ValueError):
        return built
