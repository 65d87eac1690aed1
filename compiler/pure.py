"""The JAX backend: one pure function of arrays, printed from the operator, tested and timed on the
CPU."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from opwright.compiler.backend import (
    CompileError,
    Effort,
    Found,
    Refused,
    reference_cases,
    refusal,
)
from opwright.compiler.candidates import Candidate
from opwright.compiler.functional import arrays_of, functional_numeric
from opwright.compiler.importing import static_gates
from opwright.compiler.known import Known
from opwright.compiler.package_spec import PackagedVariant
from opwright.compiler.paths import cache_folder
from opwright.compiler.timing import OWN, Row, rows, shape_text
from opwright.ir.op import Operator
from opwright.ir.tile import TileProgram
from opwright.search.archive import Archive, archive_path
from opwright.search.events import Choice
from opwright.search.loads import host, memory_limit
from opwright.search.results import Confirmation, Emitted, Evaluation, Incumbent, Job
from opwright.search.run import search
from opwright.search.space import ChoiceSpace
from opwright.verify.inputs import workload_case

TARGET = "cpu(jax)"
CASES = 14
SMALLER = 8 << 20  # bytes of workloads at a binding that is not searched
REPEATS = 15
ROUNDS = 4  # of confirmation
CALL_LIMIT = 60.0  # seconds
UNRUN = "on an accelerator: the function was tested and timed by XLA on the CPU"


def check_target(target: str) -> None:
    if target not in ("", "cpu", TARGET):
        cure = "leave --target out; XLA compiles the function for the device it is called on"
        raise CompileError(f"target {target}: the JAX backend tests and times on the CPU", cure)


@dataclass(frozen=True, slots=True)
class Pure:
    """Array code under jit: XLA decides how it runs."""

    @property
    def name(self) -> str:
        return "jax"

    @property
    def targets(self) -> tuple[str, ...]:
        return (TARGET,)

    def prepare(self) -> None:
        if importlib.util.find_spec("jax") is None:
            raise CompileError("JAX is not installed", "pip install jax")

    def machine(self) -> Mapping[str, Any]:
        return {"processor": host(), "threads": os.cpu_count() or 1, "runs": "XLA on the CPU"}

    def identity(self, op: Operator) -> str:
        return f"jax {importlib.metadata.version('jax')}"

    def compile(self, op: Operator, effort: Effort) -> Found:
        """Judge and time the printed function, and what else is proposed."""
        c = arrays_candidate(op)
        program = TileProgram(op.name, (), ())  # there is no tile program behind array code
        space = ChoiceSpace("arrays", {"form": ("printed",)}, lambda form: program)
        path = archive_path(cache_folder() / "archive", op.name, op.types, "jax")
        judge = _Evaluator(op, c, effort, self.identity(op))
        with Archive(path) as archive:
            result = search(
                [space, *effort.more],
                op,
                judge,
                effort.budget,
                effort.seed,
                archive,
                effort.progress,
                effort.proposer,
                digest=lambda _: c.digest,
                general=lambda _: True,
                command=effort.command,
            )
        if effort.searched is not None and not result.stopped:
            effort.searched(result)
        if result.baseline is None:
            raise refusal(op, result)
        chosen = result.winner or result.baseline  # it takes every call: there are no guards
        variants = (_variant(chosen, c, op),)
        table = judge.rows(chosen.metrics, effort) if effort.primary else []
        cases = reference_cases(op, judge.cases, judge.bound)
        serving = {name: "arrays" for name in judge.weights}
        return Found(op, result, variants, cases, tuple(table), serving, unrun=(UNRUN,))


def arrays_candidate(op: Operator) -> Candidate:
    """The function that the printer makes, with its plan; Refused where there is none."""
    from opwright.backends.jax.plan import make_plan

    arrays, why = arrays_of(op)
    if arrays is None:
        raise Refused(f"{op.name}: {why}", "compile it with --backend cpp")
    plan = make_plan(op, target=TARGET)
    plan = replace(plan, origin={"proposer": "printer", "schedule": "arrays(form=printed)"})
    return Candidate(plan, arrays.source)


def _text(c: Choice | Job, own: Candidate) -> Candidate:
    """The text of a candidate: the one that was given, else what was printed."""
    return Candidate(c.given.emitted.plan, c.given.emitted.source) if c.given else own


def _variant(c: Choice, printed: Candidate, op: Operator) -> PackagedVariant:
    own = _text(c, printed)
    plan = own.plan
    if c.given is not None:
        origin = {"proposer": c.candidate.origin, "schedule": c.schedule.text}
        origin |= {"text": c.given.digest, **plan.origin}
        plan = replace(plan, spec=op.digest, types=dict(op.types), origin=origin)
    return PackagedVariant(
        "arrays", plan, {}, own.source, records=c.candidate.records, targets=("cpu",)
    )


class _Evaluator(Known):
    """Judges functions of arrays; the evaluator protocol of the search."""

    def __init__(self, op: Operator, c: Candidate, effort: Effort, identity: str) -> None:
        self.candidate, self.identity = c, identity
        limit = memory_limit() if effort.primary else SMALLER
        super().__init__(op, effort.seed, CASES if effort.primary else CASES // 2, limit)

    @property
    def context(self) -> str:
        return f"1 {self.op.digest} {self.identity} {host()} {self.seed} {len(self.cases)}"

    def evaluate(
        self, jobs: Sequence[Job], incumbent: Incumbent | None
    ) -> Iterator[tuple[Job, Evaluation]]:
        for job in jobs:
            yield job, self._judge(job)

    def emitted(self, job: Job) -> Emitted:
        """The text of a candidate and its plan."""
        c = _text(job, self.candidate)
        return Emitted(c.source, "", c.plan)

    def _judge(self, job: Job) -> Evaluation:
        c = _text(job, self.candidate)
        if c.plan.facts or c.plan.scratch:
            what = "facts" if c.plan.facts else "scratch"
            return Evaluation("unbuilt", f"candidate.json: {what}: a function of arrays has none")
        records = job.given.records if job.given else static_gates(c, self.op).records
        bad = next((r for r in records if r.status == "REFUTED"), None)
        if bad is not None:
            return Evaluation("refuted", f"{bad.id}: {bad.reason}", c.digest, records)
        found = functional_numeric(c, self.op, self.cases, self.bound, self._notes, CALL_LIMIT)
        records = (*records, *found.records)
        size = len(c.source.encode())
        failed = found.refuted
        if failed is not None:
            kind = "crashed" if failed.id == "G6.runs" else "wrong"
            return Evaluation(kind, failed.reason, c.digest, records, {"size": size})
        metrics = {}
        for name, seconds in self._times(c).items():
            metrics[name] = {
                "latency": seconds,
                "error": found.error,
                "compile_time": 0.0,
                "code_size": float(size),
            }
        if not metrics:
            return Evaluation("timeout", "no workload could be timed", c.digest, records)
        return Evaluation("ok", "", c.digest, records, {"size": size}, metrics)

    def _times(self, c: Candidate) -> dict[str, float]:
        """Median seconds of every workload, in a process of the function's own."""
        from opwright.backends.jax.run import Process, RunError

        out = {}
        with Process(c.source, c.plan, self.op) as process:
            for w, scaled in self.loads:
                case = workload_case(self.op, w, scaled, self.seed * 1009 + 1)
                try:
                    found = process.seconds(case.inputs, case.params, case.sizes, REPEATS)
                except RunError as e:
                    self.note(f"{scaled.name} was not timed: {e}")
                    continue
                out[scaled.name] = statistics.median(found)
        return out

    def rows(self, metrics: Mapping[str, Mapping[str, float]], effort: Effort) -> list[Row]:
        """The function's times and those of the baselines; every call allocates its results."""
        out: list[Row] = []
        for w, scaled in self.loads:
            name, shape = scaled.name, shape_text(self.op, scaled.sizes)
            if name not in metrics:
                continue
            note = "timed in a process of its own, before the baselines"
            seconds = metrics[name]["latency"]
            out.append(Row(self.op.name, name, shape, OWN, "fresh", seconds, 0.0, note))
            if effort.baselines is not None:
                case = workload_case(self.op, w, scaled, self.seed * 1009 + 1)
                others = rows(self.op, name, case, {}, effort.baselines, os.cpu_count() or 1)
                out += [r for r in others if r.mode == "fresh"]
        return out

    def confirm(self, jobs: Sequence[Job], baseline: Job | None) -> Confirmation:
        """All of them in turn, each in its process; noise is how far two halves differ."""
        from opwright.backends.jax.run import Process, RunError

        every = [*jobs, *([baseline] if baseline is not None else [])]
        texts = {j.number: _text(j, self.candidate) for j in every}
        out: dict[int, dict[str, dict[str, float]]] = {n: {} for n in texts}
        notes, noise = [], 0.0
        with ExitStack() as stack:
            processes = {
                n: stack.enter_context(Process(c.source, c.plan, self.op)) for n, c in texts.items()
            }
            for w, scaled in self.loads:
                case = workload_case(self.op, w, scaled, self.seed * 1009 + 1)
                seen: dict[int, list[float]] = {n: [] for n in texts}
                try:
                    for _ in range(ROUNDS):
                        for n, p in processes.items():
                            seen[n] += p.seconds(case.inputs, case.params, case.sizes, REPEATS // 2)
                except RunError as e:
                    notes.append(f"{scaled.name} was not confirmed: {e}")
                    continue
                for n, found in seen.items():
                    half = len(found) // 2
                    first, second = statistics.median(found[:half]), statistics.median(found[half:])
                    noise = max(noise, abs(first - second) / max(first, second))
                    out[n][scaled.name] = {"latency": statistics.median(found)}
        return Confirmation(out, noise, tuple(notes))

    def close(self) -> None:
        """Every process ended with the call that started it."""
