"""Evaluating candidates: safety gate, build, numeric gate, timing; each in its own process or
killed.

The order is cheap first and stops at the first failure. Builds and tests run two at a time, timing
runs alone. Inputs, references and verdicts stay in this process; a worker sees buffers only.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from opwright.ir.op import Workload
from opwright.ir.tile import TileProgram
from opwright.search import quiet
from opwright.search.calls import (
    arguments,
    buffers,
    floor,
    scratch_bytes,
)
from opwright.search.counters import PREFIX, Counters
from opwright.search.judging import Judge
from opwright.search.loads import host, workloads
from opwright.search.measure import Timing, timings
from opwright.search.results import (
    Confirmation,
    Evaluation,
    Incumbent,
    Job,
)
from opwright.search.sandbox import Died, Worker
from opwright.verify.inputs import Case, workload_case
from opwright.verify.memory import Frame, facts_hold, slots
from opwright.verify.numeric import (
    Known,
    Peer,
    bounds,
)
from opwright.verify.sizes import Scaled, work

SPREAD = 0.1  # half of the samples' range over the median, above which they are taken again
SURPRISING = 0.8  # of the incumbent's time: a gain that is measured twice
COUNTED = 1000  # calls that events are counted over, at most
LONG = 0.1  # seconds of a call beyond which candidate 0 or an incumbent is not timed again


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """A workload ready to measure: timed inputs, other inputs of the same shape to check with."""

    scaled: Scaled
    timed: Case
    check: Case


class CandidateEvaluator(Judge):
    """The evaluator for C++ candidates on this machine; use it as a context manager."""

    @property
    def context(self) -> str:
        o = self.options
        judged = f"3 {o.threads} {o.require} {o.cases} {o.seed} {o.bytes_limit} {o.work_limit}"
        parts = (self.op.digest, sorted(self.op.types.items()), self.tools.identity, host(), judged)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    @property
    def weights(self) -> Mapping[str, float]:
        return {x.scaled.name: x.scaled.weight for x in self.loads}

    # -- workloads --------------------------------------------------------------------------------

    def _workloads(self) -> list[tuple[Workload | None, Scaled]]:
        found, notes = workloads(self.op, self.options.bytes_limit, self.options.work_limit)
        self._notes += notes
        return found

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
            yield job, self.timed(job, result, incumbent)

    # -- timing -----------------------------------------------------------------------------------

    def timed(self, job: Job, result: Evaluation, incumbent: Incumbent | None) -> Evaluation:
        """The evaluation of a candidate that passed, with metrics; the results of timed calls are
        compared as well."""
        emitted, built = self._library(job)
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
                found = self._measured(load, contenders, stop)
            except Died as e:
                status = e.kind if e.kind in ("timeout", "crashed") else "crashed"
                return replace(result, status=status, reason=f"while timing {name}: {e}")
            if found.wrong:
                return replace(result, status="wrong", reason=f"workload {name}: {found.wrong}")
            mine = found.timings["candidate"]
            notes += [f"timed again on {name}: {found.again}"] if found.again else []
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
                "load": os.getloadavg()[0],
                "memory": float(scratch_bytes(emitted.plan, self.op, load.timed, self.threads)),
                "error": float(result.build.get("error", 0.0)),
                "compile_time": built.seconds,
                "code_size": float(built.size),
                **{PREFIX + event: value for event, value in found.counts.items()},
            }
        return replace(result, metrics=metrics, reason="; ".join(dict.fromkeys(notes)))

    def _measured(
        self, load: Load, contenders: Mapping[str, Path], stop: tuple[str, str, float] | None
    ) -> _Measured:
        """A measurement, and another one where it is doubtful: what is slower of the two counts, so
        that no accident of the machine looks like a gain."""
        rounds = self.options.rounds
        found = self._measure(load, contenders, rounds, "candidate", stop)
        doubt = "" if found.wrong else doubtful(found.timings)
        if not doubt or found.timings["candidate"].median > LONG:
            return found
        again = self._measure(load, contenders, rounds, "candidate", stop)
        if again.wrong:
            return again
        worse = max(found, again, key=lambda m: ratio(m.timings))
        if "incumbent" not in contenders:  # in seconds: what load adds is no property of a kernel
            worse = min(found, again, key=lambda m: m.timings["candidate"].median)
        return replace(worse, again=doubt)

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
        files = list(libraries.values())
        with (
            self._alone(),
            Counters.open() if check is not None else Counters() as counters,
            Worker(shared, o.threads, o.limits, files) as worker,
        ):
            for name, path in libraries.items():
                loaded = worker.request("load", o.call_limit, path=os.path.abspath(path))
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
            counts = {}
            if check is not None and counters.handles and found[check].median < LONG:
                calls = max(1, min(COUNTED, int(o.block / found[check].median)))
                counters.start()
                worker.request("again", patience, contender=check, calls=calls)
                counts = counters.stop(calls)
        least = floor(timed, o.threads)
        for t in found.values():
            if t.median < least:
                return _Measured(found, f"{t.median:.3g} s is below what the hardware can write")
        problem = ""
        if check is not None:
            problem = self._compare(load, other)
        return _Measured(found, problem, counts=counts)

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
        with Worker(shared, self.threads, self.options.limits, [path]) as worker:
            worker.request("load", limit, path=os.path.abspath(path))
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


@dataclass(frozen=True, slots=True, eq=False)
class _Measured:
    timings: Mapping[str, Timing]
    wrong: str
    again: str = ""
    counts: Mapping[str, float] = field(default_factory=dict)


def ratio(found: Mapping[str, Timing]) -> float:
    """A candidate's time over its rival's, or its time alone."""
    rival = found.get("incumbent")
    return found["candidate"].median / (rival.median if rival is not None else 1.0)


def doubtful(found: Mapping[str, Timing]) -> str:
    """Why a measurement is not to be believed at once; empty where it may be."""
    for t in found.values():
        if t.notes:
            return t.notes[0]
        if t.spread > SPREAD:
            return f"its samples were {t.spread:.0%} apart"
    if "incumbent" in found and ratio(found) < SURPRISING:
        return "it was much faster than the best so far"
    return ""
