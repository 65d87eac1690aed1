"""The Triton backend: block programs for GPUs, judged without one.

Every candidate is printed, read back (that text is what the proofs are about), proved, compiled for
its targets and run by the language's interpreter. Nothing is timed: candidates are ranked by a
model, and every figure of it is labelled so.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from opwright.backends.cpp import scalar
from opwright.backends.triton import text
from opwright.backends.triton.plan import make_plan, print_for
from opwright.compiler.architectures import Shipped, shipped, taken
from opwright.compiler.backend import (
    CompileError,
    Effort,
    Found,
    reference_cases,
    refusal,
)
from opwright.compiler.block_spaces import spaces
from opwright.compiler.buffers import takes_dense
from opwright.compiler.candidates import Candidate
from opwright.compiler.devices import DEVICES
from opwright.compiler.execution import execute
from opwright.compiler.importing import Static, static_gates
from opwright.compiler.known import Known
from opwright.compiler.modelled import modelled
from opwright.compiler.package_spec import PackagedVariant
from opwright.compiler.paths import cache_folder
from opwright.compiler.reproving import packed
from opwright.compiler.timing import OWN, ZERO, shape_text
from opwright.ir.dtypes import DTYPES
from opwright.ir.expr import evaluate, leaves
from opwright.ir.launch import BoundPlan, bind_plan
from opwright.ir.op import Operator
from opwright.ir.plan import PlanError
from opwright.ir.record import ORDER, weakest
from opwright.ir.tile import TileProgram, row_major
from opwright.ir.tiletext import show_program
from opwright.search.archive import Archive, archive_path
from opwright.search.events import Choice
from opwright.search.results import Confirmation, Emitted, Evaluation, Incumbent, Job
from opwright.search.run import search

TARGETS = ("sm_90", "sm_80", "sm_100", "gfx942")  # the first one ranks unless one is named
ANYTHING = 1 << 40  # bytes and steps of a workload that is only modelled
CASES = 6
NO_GPU = (
    "on a GPU: there was none; kernels were {compiled}read back, proved, and run by Triton's "
    "interpreter on the CPU, and times for {targets} are modelled"
)
UNCOMPILED = "through the compilers of {targets}: {why}"
UNPRINTED = (text.PrintError, scalar.PrintError)
Resources = dict[str, dict[str, dict[str, Any]]]  # target -> kernel -> registers, spills, shared


def targets_of(target: str, known: tuple[str, ...] = TARGETS) -> tuple[str, ...]:
    """The architectures of `--target`: one, several with commas, or all."""
    if target in ("", "all"):
        return known
    named = tuple(dict.fromkeys(part.strip() for part in target.split(",")))
    unknown = [n for n in named if n not in known]
    if unknown:
        cure = f"targets: {', '.join(sorted(known))}, several with commas, or all"
        what = "the Triton backend" if known is TARGETS else "this backend"
        raise CompileError(f"target {unknown[0]}: {what} compiles for GPUs", cure)
    return named


class Language(Protocol):
    """What block programs are written in: how they are printed, compiled, and named."""

    name: str
    unrun: str  # what of it was not run, with {compiled} and {targets}

    def prepare(self) -> None:
        """CompileError when a tool that this needs is missing."""
        ...

    def identity(self) -> str: ...

    def printed(self, program: TileProgram, op: Operator, target: str) -> Candidate:
        """PrintError, PlanError."""
        ...

    def compiled(
        self, c: Candidate, op: Operator, targets: Sequence[str]
    ) -> tuple[Resources, dict[str, str]]:
        """(resources by target and kernel, why a target has none)."""
        ...

    def binaries(self, c: Candidate, targets: Sequence[str]) -> Mapping[str, bytes]:
        """What ships beside the source, by architecture."""
        ...


class Triton:
    """Triton's own language: its compiler is there where the package runs."""

    name = "triton"
    unrun = NO_GPU

    def prepare(self) -> None:
        if importlib.util.find_spec("triton") is None:
            raise CompileError("Triton is not installed", "pip install triton (Linux only)")

    def identity(self) -> str:
        return f"triton {importlib.metadata.version('triton')}"

    def printed(self, program: TileProgram, op: Operator, target: str) -> Candidate:
        return printed(program, op, target)

    def compiled(
        self, c: Candidate, op: Operator, targets: Sequence[str]
    ) -> tuple[Resources, dict[str, str]]:
        return compiled(c, op, targets)

    def binaries(self, c: Candidate, targets: Sequence[str]) -> Mapping[str, bytes]:
        return {}


@dataclass(frozen=True, slots=True)
class Blocks:
    """Compiles for a few architectures of GPUs; the first one is what candidates are ranked for."""

    targets: tuple[str, ...]
    language: Language = field(default_factory=Triton)

    @property
    def name(self) -> str:
        return self.language.name

    def prepare(self) -> None:
        self.language.prepare()

    def machine(self) -> Mapping[str, Any]:
        parts = ", ".join(f"{t} as {DEVICES[t].part}" for t in self.targets)
        return {"modelled for": parts, "executed on": "no GPU"}

    def identity(self, op: Operator) -> str:
        return self.language.identity()

    @property
    def place(self) -> str:
        """Where an archive keeps what was tried."""
        own = () if self.language.name == "triton" else (self.language.name,)
        return "-".join((*own, *self.targets))

    def compile(self, op: Operator, effort: Effort) -> Found:
        """Search by the model, then compile and judge what ships for every target."""
        choices = [*spaces(op, self.targets[0]), *effort.more]
        path = archive_path(cache_folder() / "archive", op.name, op.types, self.place)
        judge = _Evaluator(op, self.targets, effort, self.identity(op), self.language)
        with Archive(path) as archive:
            result = search(
                choices,
                op,
                judge,
                effort.budget,
                effort.seed,
                archive,
                effort.progress,
                effort.proposer,
                batch=4,
                general=lambda program: takes_dense(op, program.facts),
                command=effort.command,
            )
        if effort.searched is not None and not result.stopped:
            effort.searched(result)
        if result.baseline is None:
            raise refusal(op, result)
        chosen = shipped(result, choices, op, judge.weights, self.targets)
        variants = tuple(self._variant(s, op) for s in chosen)
        found: Resources = {}
        for t in self.targets:
            own = taken(chosen, t).choice.candidate.build.get("resources", {})
            if t in own:
                found[t] = {k: dict(v) for k, v in own[t].items()}
        targets = ", ".join(self.targets)
        said = self.language.unrun
        unrun = [said.format(targets=targets, compiled=f"compiled for {targets}, " * bool(found))]
        lacking = ", ".join(t for t in self.targets if t not in found)
        if lacking:
            why = "no resources were reported; the last variant is what they take"
            unrun.append(UNCOMPILED.format(targets=lacking, why=why))
        estimates, serving = judge.estimates(chosen) if effort.primary else ([], {})
        cases = reference_cases(op, judge.cases, judge.bound)
        return Found(
            op,
            result,
            variants,
            cases,
            (),
            serving,
            found,
            tuple(unrun),
            tuple(estimates),
            tuple(s.choice.schedule.text for s in chosen[:-1]),
        )

    def _variant(self, s: Shipped, op: Operator) -> PackagedVariant:
        c = s.choice
        own = _text(c, op, self.targets[0], self.language)
        origin = {"proposer": c.candidate.origin, "schedule": c.schedule.text}
        if c.given is not None:
            origin |= {"text": c.given.digest, **own.plan.origin}
        plan = replace(own.plan, spec=op.digest, types=dict(op.types), origin=origin)
        return PackagedVariant(
            s.label,
            plan,
            {},
            own.source,
            "" if c.given else show_program(c.program),
            records=c.candidate.records,
            targets=s.targets,
            proofs=packed(own, op),
            binaries=self.language.binaries(own, s.targets),
        )


def _text(c: Choice | Job, op: Operator, target: str, language: Language) -> Candidate:
    """The text of a candidate: the one that was given, else what the printer makes."""
    if c.given is not None:
        return Candidate(c.given.emitted.plan, c.given.emitted.source)
    return language.printed(c.program, op, target)


def _static(job: Job, c: Candidate, op: Operator) -> Static:
    """G0 to G3; of a given text they are known."""
    if job.given is None:
        return static_gates(c, op)
    program = job.program if job.program.kernels else None
    return Static(job.given.records, program, bind_plan(c.plan, op))


def printed(program: TileProgram, op: Operator, target: str) -> Candidate:
    """The candidate that the printer makes of a block program."""
    return Candidate(make_plan(program, op, target), print_for(program, op), program)


def compiled(
    c: Candidate, op: Operator, targets: Sequence[str]
) -> tuple[Resources, dict[str, str]]:
    """(resources by target and kernel, why a target has none)."""
    from opwright.backends.triton.build import BuildError, compile_all

    bound: BoundPlan = bind_plan(c.plan, op)
    out: Resources = {}
    refused: dict[str, str] = {}
    for target, made in compile_all(c.source, bound, targets).items():
        if isinstance(made, BuildError):
            refused[target] = str(made).splitlines()[0][:300]
        else:
            out[target] = {k: dict(v) for k, v in made.resources.items()}
    return out, refused


class _Evaluator(Known):
    """Judges block programs; the evaluator protocol of the search. Latencies are modelled."""

    measured = False

    def __init__(
        self,
        op: Operator,
        targets: tuple[str, ...],
        effort: Effort,
        identity: str,
        language: Language,
    ) -> None:
        self.targets, self.effort, self.identity = targets, effort, identity
        self.language = language
        super().__init__(op, effort.seed, CASES, ANYTHING, ANYTHING)

    @property
    def context(self) -> str:
        parts = (self.op.digest, self.identity, self.targets, self.effort.seed)
        return f"1 {parts} {self.effort.require}"

    def evaluate(
        self, jobs: Sequence[Job], incumbent: Incumbent | None
    ) -> Iterator[tuple[Job, Evaluation]]:
        for job in jobs:
            yield job, self._judge(job, incumbent)

    def emitted(self, job: Job) -> Emitted | None:
        """The text of a candidate and its plan, None for one that cannot be printed."""
        try:
            c = _text(job, self.op, self.targets[0], self.language)
        except (*UNPRINTED, PlanError):
            return None
        return Emitted(c.source, "", c.plan)

    def _judge(self, job: Job, incumbent: Incumbent | None) -> Evaluation:
        op = self.op
        try:
            c = _text(job, op, self.targets[0], self.language)
            static = _static(job, c, op)
        except (*UNPRINTED, PlanError) as e:
            return Evaluation("unbuilt", str(e).splitlines()[0][:300])
        records = static.records
        bad = next((r for r in records if r.status == "REFUTED"), None)
        if bad is not None:
            return Evaluation("refuted", f"{bad.id}: {bad.reason}", c.digest, records)
        safety = [r for r in records if r.kind in ("G2", "G3")]
        reached = weakest(r.status for r in safety)
        needed = self.effort.require.upper()
        if ORDER.index(reached) < ORDER.index("PROVED") and needed == "PROVED":
            weak = next((r for r in safety if r.status == reached), None)
            why = f"{weak.id}: {weak.reason}" if weak else "no safety record"
            return Evaluation("unproved", f"safety is {reached}: {why}", c.digest, records)
        if static.program is None and job.given is not None:
            why = next((r.reason for r in records if r.kind == "G1"), "")
            return Evaluation(
                "unproved", f"not read, so nothing is modelled: {why}", c.digest, records
            )
        begin = time.perf_counter()
        found, refused = self.language.compiled(c, op, self.targets)
        seconds = time.perf_counter() - begin
        if self.targets[0] in refused:
            return Evaluation("unbuilt", refused[self.targets[0]], c.digest, records)
        self._notes += [f"{job.schedule}: not for {t}: {why}" for t, why in refused.items()]
        records = (*records, *execute(c, static, op, "portable", self.effort.seed))
        size = len(c.source.encode())
        build = {"seconds": seconds, "size": size, "resources": found}
        failed = next((r for r in records if r.status == "REFUTED"), None)
        if failed is not None:
            kind = "crashed" if failed.id == "G6.runs" else "wrong"
            return Evaluation(kind, failed.reason, c.digest, records, build)
        untested = next((r for r in records if r.kind == "G6" and r.status == "UNKNOWN"), None)
        if untested is not None:
            return Evaluation("unproved", untested.reason, c.digest, records, build)
        metrics, notes = self._metrics(job, incumbent, found, seconds, size)
        return Evaluation("ok", "; ".join(notes), c.digest, records, build, metrics)

    def _metrics(
        self,
        job: Job,
        incumbent: Incumbent | None,
        found: Resources,
        seconds: float,
        size: int,
    ) -> tuple[dict[str, dict[str, float]], list[str]]:
        metrics: dict[str, dict[str, float]] = {}
        notes = []
        for _, scaled in self.loads:
            name = scaled.name
            if not serves(self.op, job.program, scaled.sizes, scaled.params):
                if incumbent is not None and name in incumbent.base_metrics:
                    metrics[name] = {**incumbent.base_metrics[name], "delegated": 1.0}
                notes.append(f"its facts exclude {name}: another variant runs there")
                continue
            times = {
                t: modelled(self.op, job.program, scaled.sizes, scaled.params, t, found[t])
                for t in found
            }
            metrics[name] = {
                "latency": times[self.targets[0]],
                "modelled": 1.0,
                **{f"latency@{t}": s for t, s in times.items()},
                "memory": scratch_bytes(job.program, scaled.sizes, scaled.params),
                "compile_time": seconds,
                "code_size": float(size),
            }
        return metrics, notes

    def estimates(
        self, chosen: Sequence[Shipped]
    ) -> tuple[list[Mapping[str, Any]], dict[str, str]]:
        """(modelled seconds of what ships at each workload and target, what serves a workload)."""
        out: list[Mapping[str, Any]] = []
        serving: dict[str, str] = {}
        for _, scaled in self.loads:
            fits = [
                s for s in chosen
                if serves(self.op, s.choice.program, scaled.sizes, scaled.params)
            ]  # fmt: skip
            for t in self.targets:
                own = taken([*fits, chosen[-1]], t)
                serving.setdefault(scaled.name, own.label)
                for impl, one in ((OWN, own), (ZERO, chosen[-1])):
                    known = one.choice.metrics.get(scaled.name, {})
                    out.append(
                        {
                            "op": self.op.name,
                            "workload": scaled.name,
                            "shape": shape_text(self.op, scaled.sizes),
                            "impl": impl,
                            "variant": one.label,
                            "target": t,
                            "modelled_s": known.get(f"latency@{t}"),
                        }
                    )
        return out, serving

    def confirm(self, jobs: Sequence[Job], baseline: Job | None) -> Confirmation:
        return Confirmation({}, 0.0)

    def close(self) -> None:
        """Every process ended with the call that started it."""


def serves(
    op: Operator, program: TileProgram, sizes: Mapping[str, int], params: Mapping[str, Any]
) -> bool:
    """Whether a program's facts hold for sizes in dense, aligned memory."""
    env: dict[Any, Any] = {**params, **sizes}
    for t in (*op.inputs, *op.outputs):
        for n, step in enumerate(row_major(t.shape)):
            env[t.name, n] = int(evaluate(step, env))
    for f in program.facts:
        aligned = {x: True for x in leaves(f, "param") if str(x.attr).startswith("aligned(")}
        if not bool(evaluate(f, {**env, **aligned})):
            return False
    return True


def scratch_bytes(
    program: TileProgram, sizes: Mapping[str, int], params: Mapping[str, Any]
) -> float:
    """Bytes of scratch that a call allocates."""
    env = {**params, **sizes}
    total = 0
    for b in program.buffers():
        if b.role == "plan":
            count = 1
            for s in b.shape:
                count *= int(evaluate(s, env))
            total += count * DTYPES[b.dtype.name].bytes
    return float(total)
