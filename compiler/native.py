"""The C++ backend: candidates become libraries that are proved, tested and timed on this machine.

Every library in a package is built from a text whose verdicts it carries, also at the lesser
instruction-set levels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from opwright.backends.cpp.build import compiler, host_isa
from opwright.compiler.backend import (
    CompileError,
    Effort,
    Found,
    reference_cases,
    refusal,
    ships,
)
from opwright.compiler.buffers import takes_dense
from opwright.compiler.candidates import Candidate, printed
from opwright.compiler.elaborate import parse_spec
from opwright.compiler.importing import static_gates
from opwright.compiler.later_gates import field_records
from opwright.compiler.package_spec import PackagedVariant
from opwright.compiler.paths import cache_folder
from opwright.compiler.reproving import prove, to_bytes
from opwright.compiler.spaces import spaces
from opwright.compiler.stored import stored_form
from opwright.compiler.timing import OWN, ZERO, Row, rows, shape_text
from opwright.compiler.toolbox import evaluation_tools
from opwright.ir.op import Operator
from opwright.ir.record import Record
from opwright.ir.tiletext import show_program
from opwright.search.archive import Archive, archive_path
from opwright.search.evaluate import CandidateEvaluator, Load
from opwright.search.events import Choice
from opwright.search.loads import host
from opwright.search.results import Built, Emitted, Job, Options, Tools
from opwright.search.run import search
from opwright.search.sandbox import Limits
from opwright.verify.cases import know

LEVELS = ("x86-64-v4", "x86-64-v3", "portable")  # best first
F32_LANES = {"x86-64-v4": 16, "x86-64-v3": 8, "portable": 8}
SMALLER = 16 << 20  # bytes of workloads at a binding that is not searched: enough to rank two
SLOW = 0.1  # seconds of a call of candidate 0 beyond which it is not timed again


def isa_of(target: str) -> str:
    """The instruction-set level of `cpu`, `cpu(x86-64-v3)` or a level by itself."""
    inner = target.removeprefix("cpu").strip("()") if target.startswith("cpu") else target
    host_level = host_isa()
    if inner in ("", "x86_64"):
        return host_level
    if inner not in LEVELS:
        cure = f"compile for cpu, or cpu(LEVEL) with a level of {', '.join(LEVELS)}"
        raise CompileError(f"target {target}: the C++ backend compiles for CPUs", cure)
    if LEVELS.index(inner) < LEVELS.index(host_level):
        cure = f"compile for cpu({host_level}), or on a machine that runs {inner}"
        raise CompileError(f"target {target}: this machine cannot run what it would test", cure)
    return inner


def evaluator_of(
    text: str,
    file: str,
    name: str,
    types: Mapping[str, str],
    level: str,
    options: Mapping[str, Any],
) -> CandidateEvaluator:
    """The evaluator of an operator from plain data, for a process that has nothing else."""
    spec = parse_spec(text, file)
    know(Path(file), spec.names)
    op = stored_form(spec.operator(name, dict(types)))
    own = Options(**{**options, "limits": Limits(**options["limits"])})
    return CandidateEvaluator(op, evaluation_tools(op, level).tools, own)


@dataclass(frozen=True, slots=True)
class _Text:
    """What ships at one level: the candidate that was printed (none for a text that was given) and
    its library, under way."""

    printed: Candidate | None
    emitted: Emitted
    tools: Tools
    built: Future[Built]

    def settled(self, records: Sequence[Record]) -> Tools:
        """Tools that judge this text. Safety is as it was proved before: it is a statement about
        the TileIR, not about a level."""
        return replace(
            self.tools,
            safety=lambda program: records,
            emit=lambda program: self.emitted,
            build=lambda emitted: self.built.result(),
        )


@contextmanager
def _builds() -> Iterator[Executor]:
    """Compilers at work beside this process; what has not begun is dropped at the end."""
    pool = ThreadPoolExecutor(os.cpu_count() or 1, "build")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class Native:
    """Compiles for one instruction-set level of this machine and the lesser ones."""

    level: str

    @property
    def name(self) -> str:
        return "cpp"

    @property
    def targets(self) -> tuple[str, ...]:
        return (f"cpu({self.level})",)

    def prepare(self) -> None:
        compiler()

    def machine(self) -> Mapping[str, Any]:
        return {"processor": host(), "isa": self.level, "threads": os.cpu_count() or 1}

    def identity(self, op: Operator) -> str:
        return evaluation_tools(op, self.level).tools.identity

    def compile(self, op: Operator, effort: Effort) -> Found:
        """Search, then build what ships and time it beside the baselines."""
        toolbox = evaluation_tools(op, self.level)
        options = Options(
            require=effort.require.upper(), seed=effort.seed, rounds=3, confirm_rounds=7
        )
        if not effort.primary:
            options = replace(options, cases=8, confirm_rounds=3, bytes_limit=SMALLER)
        choices = [*spaces(op, F32_LANES[self.level]), *effort.more]
        path = archive_path(cache_folder() / "archive", op.name, op.types, self.level)
        judging = self._evaluator(op, toolbox.tools, options, effort)
        with judging as evaluator, Archive(path) as archive:
            result = search(
                choices,
                op,
                evaluator,
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
            if result.baseline is None or result.baseline.program.facts:
                raise refusal(op, result)  # what takes every call is not among what passed
            chosen = ships(result)
            with _builds() as pool:
                texts = [self._texts(op, c, pool) for _, c in chosen]
                variants = tuple(
                    self._variant(n, op, c, options, found)
                    for (n, c), found in zip(chosen, texts, strict=True)
                )
            table: list[Row] = []
            if effort.primary and not result.stopped:
                table = self._timings(op, evaluator, chosen, variants, effort)
            cases = reference_cases(op, evaluator.cases, evaluator.bound)
            serving = {
                x.scaled.name: chosen[_serving(evaluator, chosen, x)][0] for x in evaluator.loads
            }
        return Found(op, result, variants, cases, tuple(table), serving)

    def _evaluator(
        self, op: Operator, tools: Tools, options: Options, effort: Effort
    ) -> CandidateEvaluator:
        """The evaluator that works here, or hands its work to a cluster."""
        if effort.executor == "local" or not effort.primary:
            return CandidateEvaluator(op, tools, options)
        from opwright.backends.isolation import unsafe_permitted
        from opwright.search.executors import (
            Distributed,
            ExecutorError,
            RayExecutor,
            Recipe,
            recipe_options,
        )

        text, file = effort.spec
        arguments = {
            "text": text,
            "file": file,
            "name": op.name,
            "types": dict(op.types),
            "level": self.level,
            "options": recipe_options(options),
        }
        recipe = Recipe("opwright.compiler.native:evaluator_of", arguments)
        try:
            executor = RayExecutor(recipe, unsafe=unsafe_permitted())
        except ExecutorError as e:
            raise CompileError(str(e), "or leave --executor out") from None
        return Distributed(op, tools, options, executor)

    def _texts(self, op: Operator, c: Choice, pool: Executor) -> Mapping[str, _Text]:
        """What ships of a choice at this level and the lesser ones, with the libraries under way. A
        text that was given is the same at all of them."""
        out: dict[str, _Text] = {}
        for level in LEVELS[LEVELS.index(self.level) :]:
            toolbox = evaluation_tools(op, level)
            if c.given:
                own, emitted = None, c.given.emitted
            else:
                own = printed(c.program, op, level)
                emitted = toolbox.emit_plan(own.plan, own.source, own.program)
            built = pool.submit(toolbox.tools.build, emitted)
            out[level] = _Text(own, emitted, toolbox.tools, built)
        return out

    def _variant(
        self, label: str, op: Operator, c: Choice, options: Options, texts: Mapping[str, _Text]
    ) -> PackagedVariant:
        """Libraries for this level and the lesser ones, each tested as built."""
        given = c.given
        own = texts[self.level]
        records, proofs = list(c.candidate.records), b""
        if own.printed is not None:
            records, proofs = _of_text(own.printed, op, records)
        libraries: dict[str, Path] = {}
        sources: dict[str, str] = {}
        for level, text in texts.items():
            if level != self.level:
                few = replace(options, cases=6)
                known = [r for r in c.candidate.records if r.kind in ("G1", "G2", "G3")]
                with CandidateEvaluator(op, text.settled(known), few) as evaluator:
                    job = Job(0, c.schedule, c.program, c.candidate.program, given)
                    judged = evaluator.judge(job)
                if judged.status != "ok":
                    continue  # a level that fails its tests is not shipped
                records += [_at_level(r, level) for r in judged.records if r.kind == "G6"]
                if text.printed is not None:
                    again = static_gates(text.printed, op, prove=False)
                    read = [r for r in again.records if r.id == "G1.import"]
                    records += [_at_level(r, level) for r in read]
            libraries[level] = text.built.result().path
            sources[level] = text.emitted.source
        plan = replace(
            own.emitted.plan,
            spec=op.digest,
            types=dict(op.types),
            origin={
                "proposer": c.candidate.origin,
                "schedule": c.schedule.text,
                **({"text": given.digest, **own.emitted.plan.origin} if given else {}),
            },
        )
        tile = "" if given else show_program(c.program)
        return PackagedVariant(
            label,
            plan,
            libraries,
            own.emitted.source,
            tile,
            records=tuple(records),
            sources=sources,
            proofs=proofs,
        )

    def _timings(
        self,
        op: Operator,
        evaluator: CandidateEvaluator,
        chosen: Sequence[tuple[str, Choice]],
        variants: Sequence[PackagedVariant],
        effort: Effort,
    ) -> list[Row]:
        """What the package runs at each workload, candidate 0 and the baselines."""
        out: list[Row] = []
        slow = chosen[-1][1].metrics
        for load in evaluator.loads:
            taken = _serving(evaluator, chosen, load)
            own = {OWN: variants[taken].libraries[self.level]}
            latency = slow.get(load.scaled.name, {}).get("latency", 0.0)
            if taken == len(chosen) - 1:
                pass
            elif latency > SLOW:  # known from the search; it would dominate the run
                shape = shape_text(op, load.scaled.sizes)
                note = "measured during the search"
                name = load.scaled.name
                out.append(Row(op.name, name, shape, ZERO, "out", latency, 0.0, note))
            else:
                own[ZERO] = variants[-1].libraries[self.level]
            out += rows(op, load.scaled.name, load.timed, own, effort.baselines, evaluator.threads)
        return out


def _serving(
    evaluator: CandidateEvaluator, chosen: Sequence[tuple[str, Choice]], load: Load
) -> int:
    """The variant that dispatch takes for a workload in dense, aligned memory."""
    fits = (n for n, (_, c) in enumerate(chosen) if evaluator.serves(c.program, load))
    return next(fits, len(chosen) - 1)


def _of_text(own: Candidate, op: Operator, records: Sequence[Record]) -> tuple[list[Record], bytes]:
    """The records of a printed candidate with the text that ships as the subject of G0 to G3, where
    it reads back and is proved, and the packed record of its proofs; those of its TileIR otherwise.
    CompileError for a text that reads back as a program that is refuted."""
    found, data = prove(own, op)
    bad = next((r for r in found.records if r.status == "REFUTED"), None)
    if bad is not None:
        raise CompileError(
            f"the text printed for {op.name} is refuted: {bad.id}: {bad.reason}",
            "this is a defect of opwright; report it with the spec",
        )
    fields = field_records(own, found, op)
    bad = next((r for r in fields if r.status == "REFUTED"), None)
    if bad is not None:
        raise CompileError(
            f"the text printed for {op.name} is refuted: {bad.id}: {bad.reason}",
            "this is a defect of opwright; report it with the spec",
        )
    if not found.safe:
        return [*records, *fields], b""
    kept = (r for r in records if r.kind not in ("G0", "G1", "G2", "G3"))
    return [*found.records, *fields, *kept], to_bytes(data, True)


def _at_level(r: Record, level: str) -> Record:
    return replace(r, id=f"{r.id}@{level}", reason=f"{level}: {r.reason}")
