"""Evaluating candidates: safety gate, build, numeric gate, timing; each in its own process or
killed.

The order is cheap first and stops at the first failure. Builds and tests run two at a time, timing
runs alone. Inputs, references and verdicts stay in this process; a worker sees buffers only.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from opwright.ir.binding import InputError
from opwright.ir.op import Operator, Workload
from opwright.ir.record import ORDER, weakest
from opwright.ir.tile import TileProgram
from opwright.search import quiet
from opwright.search.calls import (
    Runner,
    arguments,
    buffers,
    edges,
    floor,
    scratch_bytes,
    strided,
)
from opwright.search.measure import Timing, timings
from opwright.search.results import (
    Built,
    Confirmation,
    Emitted,
    Evaluation,
    Incumbent,
    Job,
    Options,
    Tools,
)
from opwright.search.sandbox import Died, Shared, Worker
from opwright.verify.inputs import Case, generate, workload_case
from opwright.verify.memory import GUARDED, Frame, facts_hold, slots
from opwright.verify.numeric import (
    Bound,
    Known,
    Numeric,
    Peer,
    bounds,
    numeric,
)
from opwright.verify.policy import tested_instead
from opwright.verify.sizes import Scaled, default_workload, scale, work

LONG = 0.1  # seconds of a call beyond which candidate 0 or an incumbent is not timed again
# said in every record of something that was executed
CONFINED = "run in a killable process of the same user, which is no security boundary"


def host() -> str:
    """The processor by its model name, and how many of them."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{name} x{os.cpu_count()}"


def memory_limit() -> int:
    """Bytes of one workload's buffers that this machine can hold several times."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        total = 4 << 30
    return min(512 << 20, total // 24)


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """A workload ready to measure: timed inputs, other inputs of the same shape to check with."""

    scaled: Scaled
    timed: Case
    check: Case


class CandidateEvaluator:
    """The evaluator for C++ candidates on this machine; use it as a context manager.

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
        self._bounds: dict[int, Mapping[str, Bound]] = {}
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

    def __enter__(self) -> CandidateEvaluator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        for a in self._arenas:
            a.close()
        self._arenas.clear()

    @property
    def notes(self) -> Sequence[str]:
        return tuple(dict.fromkeys(self._notes))

    @property
    def context(self) -> str:
        o = self.options
        judged = f"2 {o.threads} {o.require} {o.cases} {o.seed} {o.bytes_limit} {o.work_limit}"
        parts = (self.op.digest, sorted(self.op.types.items()), self.tools.identity, host(), judged)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    @property
    def weights(self) -> Mapping[str, float]:
        return {x.scaled.name: x.scaled.weight for x in self.loads}

    def _has_reference(self, case: Case) -> bool:
        try:
            self.bound(case)
        except InputError as e:
            self._notes.append(f"{case} left out: {e}")
            return False
        return True

    # -- workloads --------------------------------------------------------------------------------

    def _workloads(self) -> list[tuple[Workload | None, Scaled]]:
        out: list[tuple[Workload | None, Scaled]] = []
        bound = self.op.types
        own = [
            w for w in self.op.workloads if all(bound.get(k, v) == v for k, v in w.types.items())
        ]
        if self.op.workloads and not own:
            types = ", ".join(f"{k} = {v}" for k, v in bound.items())
            self._notes.append(f"no workload is declared for {types}: those of other types count")
        for w in own or self.op.workloads:
            try:
                scaled = scale(self.op, w, self.options.bytes_limit, self.options.work_limit)
            except InputError as e:
                self._notes.append(str(e))
                continue
            out.append((w, scaled))
        if not out:
            out.append((None, default_workload(self.op)))
        self._notes += [s.note for _, s in out if s.note]
        return out

    @cached_property
    def loads(self) -> Sequence[Load]:
        """The workloads with their inputs, drawn when they are first asked for."""
        return [self._load(w) for w in self._workloads()]

    def _load(self, found: tuple[Workload | None, Scaled]) -> Load:
        w, scaled = found
        timed, check = (
            workload_case(self.op, w, scaled, self.options.seed * 1009 + n) for n in (1, 2)
        )
        return Load(scaled, timed, check)

    # -- the cascade ------------------------------------------------------------------------------

    def evaluate(
        self, jobs: Sequence[Job], incumbent: Incumbent | None
    ) -> Iterator[tuple[Job, Evaluation]]:
        """Evaluations as they come: failures of gates and builds first, then timed candidates."""
        if incumbent is not None:
            self._library(incumbent.job)
        passed: list[tuple[Job, Evaluation]] = []
        futures: dict[Future[Evaluation], Job] = {}
        try:
            with quiet.busy(self.options.lock):
                for job in jobs:
                    futures[self._pool.submit(self.judge, job)] = job
                for done in _as_completed(futures):
                    job, result = futures[done], done.result()
                    if result.status == "ok":
                        passed.append((job, result))
                    else:
                        yield job, result
        except KeyboardInterrupt:
            self.stopped.set()
            raise
        finally:
            for f in futures:
                f.cancel()
            for w in list(self.live):  # after Ctrl-C: what still runs is not waited for
                w.interrupt()
        for job, result in sorted(passed, key=lambda p: p[0].number):
            yield job, self._timed(job, result, incumbent)

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
        reached = weakest(r.status for r in records)
        if self.options.require == "PROVED" and ORDER.index(reached) < ORDER.index("PROVED"):
            weak = next((r for r in records if r.status == reached), None)
            why = f"{weak.id}: {weak.reason}" if weak else "no safety record"
            return Evaluation("unproved", f"safety is {reached}: {why}", "", records)
        try:
            emitted, built = self._library(job)
        except (ValueError, RuntimeError, OSError) as e:
            return Evaluation("unbuilt", str(e).splitlines()[0][:500], "", records)
        source = hashlib.sha256(emitted.source.encode()).hexdigest()
        facts = {"seconds": built.seconds, "size": built.size}
        found = self._numeric(job, built, f"sha256:{source}")
        executed = (replace(r, assumptions=(*r.assumptions, CONFINED)) for r in found.records)
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

    def _numeric(self, job: Job, built: Built, subject: str) -> Numeric:
        cases = [*self.cases, *self._own_sizes(job.program)]
        watched = job.given is not None and any(r.status != "PROVED" for r in job.given.records)
        guarded = GUARDED if self.options.guarded or watched else ()
        layouts = ("rows", "gapped", *guarded)
        need = max((slots(self.op, c, k)[1] for c in cases for k in layouts), default=0)
        shared = self._arena(need)
        run = Runner(self, job.program, built, shared)
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
        key = (*sorted(map(repr, facts)), *map(str, blocks))
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
                self._variants[key] = tuple(c for c in made.cases if self._has_reference(c))
            return self._variants[key]

    def bound(self, case: Case) -> Mapping[str, Bound]:
        """Reference values of a case, computed once."""
        with self._lock:
            if id(case) not in self._bounds:
                self._bounds[id(case)] = bounds(self.op, case, self.tools.reference)
            return self._bounds[id(case)]

    def _arena(self, size: int) -> Shared:
        """This thread's block of shared memory, large enough."""
        shared: Shared | None = getattr(self._local, "shared", None)
        if shared is None:
            shared = Shared(size)
            self._local.shared = shared
            self._arenas.append(shared)
        shared.grow(size)
        return shared

    # -- timing -----------------------------------------------------------------------------------

    def _timed(self, job: Job, result: Evaluation, incumbent: Incumbent | None) -> Evaluation:
        emitted, built = self._built[job.digest]
        metrics: dict[str, dict[str, float]] = {}
        notes: list[str] = []
        for load in self.loads:
            name = load.scaled.name
            if not self.serves(job.program, load):  # the next variant of a package is taken
                if incumbent is not None and name in incumbent.base_metrics:
                    metrics[name] = {**incumbent.base_metrics[name], "delegated": 1.0}
                notes.append(f"its facts exclude {name}: another variant runs there")
                continue
            contenders = {"candidate": built.path}
            stop: tuple[str, str, float] | None = None
            rival_job = self._serving(incumbent, load)
            slow = incumbent is not None and incumbent.metrics[name]["latency"] > LONG
            if rival_job is not None and not slow:
                contenders["incumbent"] = self._library(rival_job)[1].path
                stop = ("candidate", "incumbent", self.options.slower)
            try:
                self._expect(load, rival_job)
                found = self._measure(load, contenders, self.options.rounds, "candidate", stop)
            except Died as e:
                status = e.kind if e.kind in ("timeout", "crashed") else "crashed"
                return replace(result, status=status, reason=f"while timing {name}: {e}")
            if found.wrong:
                return replace(result, status="wrong", reason=f"workload {name}: {found.wrong}")
            mine = found.timings["candidate"]
            latency = mine.median
            if incumbent is not None and "incumbent" in contenders:
                # in units of the incumbent's own number: drift cancels
                rival = found.timings["incumbent"].median
                latency = incumbent.metrics[name]["latency"] * mine.median / rival
                if mine.median > self.options.slower * rival:
                    notes.append(f"{mine.median / rival:.2f}x the incumbent's time on {name}")
            if incumbent is None and latency > LONG:
                self._long[job.digest, name] = latency
            metrics[name] = {
                "latency": latency,
                "spread": mine.spread,
                "share": mine.share,
                "memory": float(scratch_bytes(emitted.plan, self.op, load.timed, self.threads)),
                "error": float(result.build.get("error", 0.0)),
                "compile_time": built.seconds,
                "code_size": float(built.size),
            }
        return replace(result, metrics=metrics, reason="; ".join(dict.fromkeys(notes)))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """The machine without other work of ours; where that never ends, less and less
        patiently.
        """
        with quiet.alone(self.options.lock, self._patience) as still:
            self._patience = quiet.PATIENCE if still else max(self._patience / 4, 0.5)
            if not still:
                self._notes.append("other runs of this program were busy while something was timed")
            yield

    def serves(self, program: TileProgram, load: Load) -> bool:
        """Whether a candidate's facts hold for a workload in dense, aligned memory."""
        return facts_hold(load.timed, slots(self.op, load.timed)[0], program.facts)

    def _serving(self, incumbent: Incumbent | None, load: Load) -> Job | None:
        """What runs a workload when the incumbent is shipped: itself, else candidate 0."""
        if incumbent is None:
            return None
        for job in (incumbent.job, incumbent.base):
            if job is not None and self.serves(job.program, load):
                return job
        return None

    @property
    def threads(self) -> int:
        return self.options.threads

    def _measure(
        self,
        load: Load,
        libraries: Mapping[str, Path],
        rounds: int,
        check: str | None,
        stop: tuple[str, str, float] | None = None,
        rare: Sequence[str] = (),
        mode: str = "out",
    ) -> _Measured:
        """Rounds in a fresh worker; `check` names the contender whose timed results are
        compared.
        """
        _, timed_bytes = slots(self.op, load.timed)
        _, check_bytes = slots(self.op, load.check)
        shared = self._arena(timed_bytes + check_bytes)
        timed = Frame(self.op, load.timed, "dense", shared.bytes)
        timed.fill(self.options.seed, "nan", watch=False)
        other = Frame(self.op, load.check, "dense", shared.bytes[timed_bytes:])
        other.fill(self.options.seed, "a5", watch=False)
        ints, reals = arguments(self.op, timed)
        o = self.options
        settings = {
            "rounds": rounds,
            "block": o.block,
            "limit": o.time_limit,
            "threads": o.threads,
            "rare": list(rare),
            "stop": list(stop) if stop else None,
        }
        contenders: list[dict[str, Any]] = []
        patience = o.call_limit * 6 + o.time_limit * 3
        with self._alone(), Worker(shared, o.threads, o.limits) as worker:
            for name, path in libraries.items():
                loaded = worker.request("load", o.call_limit, path=str(path))
                entry: dict[str, Any] = {"name": name, "library": loaded["library"]}
                if name == check:
                    more_ints, more_reals = arguments(self.op, other)
                    mine = buffers(other, timed_bytes)
                    entry["check"] = {"buffers": mine, "ints": more_ints, "reals": more_reals}
                contenders.append(entry)
            reply = worker.request(
                "time",
                patience,
                buffers=buffers(timed, 0),
                ints=ints,
                reals=reals,
                threads=o.threads,
                contenders=contenders,
                settings=settings,
                mode=mode,
            )
        found = timings(reply, o.threads)
        least = floor(timed, o.threads)
        for t in found.values():
            if t.median < least:
                return _Measured(found, f"{t.median:.3g} s is below what the hardware can write")
        problem = ""
        if check is not None:
            problem = self._compare(load, other)
        return _Measured(found, problem)

    def _compare(self, load: Load, frame: Frame) -> str:
        """What is wrong with the outputs of a timed call."""
        stored = frame.outputs()
        name = load.scaled.name
        if name not in self._expected:  # the first candidate, tested on small sizes, sets the rule
            self._expected[name] = Peer(self.op, load.check, stored)
        return self._expected[name].disagreement(stored)

    def _expect(self, load: Load, rival: Job | None) -> None:
        """Expected results of a workload: the reference's, or the incumbent's where that takes too
        long."""
        name, case = load.scaled.name, load.check
        if name in self._expected:
            return
        if work(self.op, case.sizes, case.params) <= self.options.reference_limit:
            self._expected[name] = Known(self.op, bounds(self.op, case, self.tools.reference))
            return
        self._notes.append(
            f"results on {name} are compared with another candidate's: the reference takes too long"
        )
        if rival is None:
            return
        shared = self._arena(slots(self.op, case)[1])
        frame = Frame(self.op, case, "dense", shared.bytes)
        frame.fill(self.options.seed, watch=False)
        path = self._library(rival)[1].path
        ints, reals = arguments(self.op, frame)
        limit = self.options.call_limit
        with Worker(shared, self.threads, self.options.limits) as worker:
            worker.request("load", limit, path=str(path))
            offsets = [s.offset for s in frame.slots]
            worker.request(
                "call",
                6 * limit,
                library=0,
                offsets=offsets,
                ints=ints,
                reals=reals,
                threads=self.threads,
                perturb=0,
            )
        self._expected[name] = Peer(self.op, case, frame.outputs())

    def confirm(self, jobs: Sequence[Job], baseline: Job | None) -> Confirmation:
        """Measure finalists and the baseline side by side in fresh processes, the first one
        twice.
        """
        metrics: dict[int, dict[str, dict[str, float]]] = {j.number: {} for j in jobs}
        notes: list[str] = []
        noise = 0.0
        everyone = {f"c{j.number}": j for j in jobs}
        if baseline is not None and baseline.number not in metrics:
            everyone["baseline"] = baseline
            metrics[baseline.number] = {}
        for load in self.loads:
            name = load.scaled.name
            served = {n: j for n, j in everyone.items() if self.serves(j.program, load)}
            if not served:
                continue
            twin = next(iter(served))
            if baseline is not None and (baseline.digest, name) in self._long:
                # drift of the machine is nothing beside a call that takes this long
                known = self._long[baseline.digest, name]
                metrics[baseline.number][name] = {"latency": known, "spread": 0.0}
                if twin != "baseline":
                    served.pop("baseline", None)
            paths = {n: self._library(j)[1].path for n, j in served.items()}
            paths["twin"] = paths[twin]
            rare = ["baseline"] if "baseline" in paths else []
            try:
                found = self._measure(load, paths, self.options.confirm_rounds, None, rare=rare)
                fresh = self._measure(load, {twin: paths[twin]}, 3, None, mode="fresh")
            except Died as e:
                notes.append(f"confirmation on {name} failed: {e}")
                continue
            a, b = found.timings[twin].median, found.timings["twin"].median
            noise = max(noise, abs(math.log(a / b)))
            for label, j in everyone.items():
                t = found.timings.get(label) or found.timings.get("baseline")
                if t is None and label != "baseline" and baseline is not None:
                    metrics[j.number][name] = dict(metrics[baseline.number].get(name, {}))
                elif t is not None:
                    metrics[j.number][name] = {"latency": t.median, "spread": t.spread}
            doubts = [d for t in found.timings.values() for d in t.notes]
            if doubts:
                notes.append(f"timing on {name} is doubtful: {doubts[-1]}")
            first = metrics[served[twin].number][name]
            first["latency_fresh"] = fresh.timings[twin].median
        return Confirmation(metrics, noise, tuple(dict.fromkeys(notes)))


def _as_completed(futures: Mapping[Future[Evaluation], Job]) -> Iterator[Future[Evaluation]]:
    """Futures as they end, in waits short enough that this thread hears Ctrl-C in between, also
    when the signal was delivered to another one."""
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=0.25, return_when=FIRST_COMPLETED)
        yield from done


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


@dataclass(frozen=True, slots=True, eq=False)
class _Measured:
    timings: Mapping[str, Timing]
    wrong: str
