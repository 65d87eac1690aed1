"""The road from a spec to a package: check, elaborate, search, prove, measure, emit.

`compile_spec` searches at one binding of the type variables and carries the winner's decisions
over to the others, where they pass the same gates again. What ships is what was judged: every
library in the package is built from a text whose verdicts it carries.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from opwright.backends.cpp.build import compiler, host_isa
from opwright.compiler.candidates import printed
from opwright.compiler.check import check
from opwright.compiler.elaborate import Spec, load_spec
from opwright.compiler.package import (
    Measurement,
    PackagedOperator,
    PackagedVariant,
    PackageSpec,
    ReferenceCase,
    emit,
)
from opwright.compiler.paths import cache_folder
from opwright.compiler.spaces import spaces
from opwright.compiler.timing import OWN, ZERO, Baselines, Row, rows, shape_text
from opwright.compiler.toolbox import evaluation_tools
from opwright.grammar.diagnostics import DiagnosticError
from opwright.ir.op import Operator
from opwright.ir.record import Record, Verdict
from opwright.ir.tile import TileProgram
from opwright.ir.tiletext import show_program
from opwright.search.archive import Archive, archive_path
from opwright.search.evaluate import CandidateEvaluator, host
from opwright.search.propose import Proposal, Proposer, View
from opwright.search.results import Job, Options
from opwright.search.run import Budget, Choice, Event, SearchResult, search
from opwright.search.space import parse
from opwright.verify.inputs import Case

LEVELS = ("x86-64-v4", "x86-64-v3", "portable")  # best first
F32_LANES = {"x86-64-v4": 16, "x86-64-v3": 8, "portable": 8}
CARRIED = 1  # schedules tried at a binding that was not searched, besides candidate 0
SMALLER = 16 << 20  # bytes of workloads at such a binding: enough to rank two candidates
SLOW = 0.1  # seconds of a call of candidate 0 beyond which it is not timed again
FREE_BYTES = 64 << 20  # what a package and its temporary files may need


class CompileError(Exception):
    """The compile cannot go on; `cure` is what the user can do."""

    def __init__(self, message: str, cure: str = "") -> None:
        super().__init__(message)
        self.cure = cure


class Refused(CompileError):
    """No candidate passed the gates: the answer is no, with reasons."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The search at one binding of the types, and what its candidates were judged with."""

    op: Operator
    result: SearchResult
    variants: tuple[PackagedVariant, ...]
    cases: tuple[ReferenceCase, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, eq=False)
class CompileResult:
    """What was emitted and why. `speedup` is over candidate 0, by the objective."""

    package: Path
    wheel: Path
    winner: Mapping[str, Any]
    baseline: Mapping[str, Any]
    speedup: float
    why: str
    verdict: Verdict
    table: tuple[Mapping[str, object], ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    stopped: bool
    searches: tuple[Found, ...] = field(repr=False, default=())


def compile_spec(
    path: Path,
    op: str | None = None,
    *,
    target: str = "cpu",
    budget: int = 24,
    out: Path,
    seed: int = 0,
    types: Mapping[str, str] | None = None,
    require: str = "proved",
    progress: Callable[[Event], None] | None = None,
    baselines: Baselines | None = None,
    seconds: float | None = None,
) -> CompileResult:
    """Compile one operator of a spec into `out/<distribution>`.

    `types` chooses the binding that is searched (default: the first of every type variable); all
    bindings are compiled unless `types` names every variable. `budget` counts evaluated candidates.
    Raises DiagnosticError for a wrong spec, CompileError, Refused, BuildError, ArchiveError,
    EmitError.
    """
    level = isa_of(target)
    compiler()
    writable(out)
    spec = load_spec(path)
    name = choose(spec, op)
    wrong = [d for d in check(path).diagnostics if d.severity == "error"]
    if wrong:
        raise DiagnosticError(wrong)
    bindings = order(spec.bindings(name), types)
    found: list[Found] = []
    for n, binding in enumerate(bindings):
        operator = spec.operator(name, binding)
        carried = _carried(found[0].result) if found else None
        effort = Budget(1 + CARRIED if n else max(1, budget), seconds)
        one = _compile_binding(
            operator, level, effort, seed, require, progress, carried, baselines, n == 0
        )
        found.append(one)
        if one.result.stopped:
            break
    first = found[0].result
    if first.stopped and len(found) < len(bindings):
        raise KeyboardInterrupt
    emitted = emit(_package(spec, name, found, level), out)
    return _result(emitted.folder, emitted.wheel, found)


# -- preparation -----------------------------------------------------------------------------------


def isa_of(target: str) -> str:
    """The instruction-set level of `cpu`, `cpu(x86-64-v3)` or a level by itself."""
    inner = target.removeprefix("cpu").strip("()") if target.startswith("cpu") else target
    host_level = host_isa()
    if inner in ("", "x86_64"):
        return host_level
    if inner not in LEVELS:
        cure = f"compile for cpu, or cpu(LEVEL) with a level of {', '.join(LEVELS)}"
        raise CompileError(f"target {target}: this version compiles for CPUs", cure)
    if LEVELS.index(inner) < LEVELS.index(host_level):
        cure = f"compile for cpu({host_level}), or on a machine that runs {inner}"
        raise CompileError(f"target {target}: this machine cannot run what it would test", cure)
    return inner


def writable(out: Path) -> None:
    """CompileError when the output folder cannot take a package; found before any work is done."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
        if not os.access(out, os.W_OK):
            raise PermissionError(13, "Permission denied")
        free = shutil.disk_usage(out).free
    except OSError as e:
        cure = "choose a folder that you may write to with -o"
        raise CompileError(f"{out} cannot be written: {e.strerror}", cure) from None
    if free < FREE_BYTES:
        cure = f"free {FREE_BYTES >> 20} MiB there, or choose another folder with -o"
        raise CompileError(f"{out} has only {free >> 20} MiB left", cure)


def choose(spec: Spec, op: str | None) -> str:
    names = spec.names
    if op is None and len(names) == 1:
        return names[0]
    if op in names:
        return str(op)
    what = f"there is no operator {op}" if op else f"the file defines {len(names)} operators"
    raise CompileError(f"{spec.filename}: {what}", f"name one with --op: {', '.join(names)}")


def order(
    bindings: Sequence[Mapping[str, str]], types: Mapping[str, str] | None
) -> list[Mapping[str, str]]:
    """Bindings that agree with `types` first; only they when every variable is named."""
    wanted = dict(types or {})
    variables = {k for b in bindings for k in b}
    unknown = sorted(set(wanted) - variables)
    if unknown:
        known = ", ".join(sorted(variables)) or "none"
        raise CompileError(f"there is no type variable {unknown[0]}", f"type variables: {known}")
    fit = [b for b in bindings if all(b[k] == v for k, v in wanted.items())]
    if not fit:
        text = ", ".join(f"{k} = {v}" for k, v in wanted.items())
        raise CompileError(f"the spec has no binding {text}", "see its `type` lines")
    return fit if wanted and set(wanted) == variables else [
        *fit, *(b for b in bindings if b not in fit)
    ]  # fmt: skip


# -- one binding -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Carried:
    """Proposes what won elsewhere, then the preferred schedules."""

    schedules: tuple[str, ...]

    @property
    def name(self) -> str:
        return "carried"

    def propose(self, view: View, count: int, rng: Random) -> list[Proposal]:
        known = {s.name for s in view.spaces}
        wanted = [parse(t) for t in self.schedules]
        wanted = [s for s in wanted if s.strategy in known]
        wanted += [s for space in view.spaces[1:] for s in space.preferred()[:1]]
        fresh = [s for s in dict.fromkeys(wanted) if s.text not in view.tried]
        return [Proposal(s, "carried") for s in fresh[:count]]


def _carried(first: SearchResult) -> Proposer:
    ranked = [first.winner] if first.winner else []
    return _Carried(tuple(c.schedule.text for c in ranked))


def _compile_binding(
    op: Operator,
    level: str,
    budget: Budget,
    seed: int,
    require: str,
    progress: Callable[[Event], None] | None,
    proposer: Proposer | None,
    baselines: Baselines | None,
    primary: bool,
) -> Found:
    toolbox = evaluation_tools(op, level)
    options = Options(require=require.upper(), seed=seed, rounds=3, confirm_rounds=7)
    if not primary:
        options = replace(options, cases=8, confirm_rounds=3, bytes_limit=SMALLER)
    choices = spaces(op, F32_LANES[level])
    path = archive_path(cache_folder() / "archive", op.name, op.types, level)
    with CandidateEvaluator(op, toolbox.tools, options) as evaluator, Archive(path) as archive:
        result = search(choices, op, evaluator, budget, seed, archive, progress, proposer, batch=4)
        if result.baseline is None:
            raise Refused(
                _refusal(op, result), "read the reasons above; `opwright show` prints them"
            )
        chosen = [result.winner or result.baseline]
        if chosen[0].candidate.program != result.baseline.candidate.program:
            chosen.append(result.baseline)
        variants = []
        libraries: dict[str, Path] = {}
        for n, c in enumerate(chosen):
            label = "candidate0" if n == len(chosen) - 1 else "winner"
            v = _variant(label, op, c, level, options)
            variants.append(v)
            libraries[OWN if n == 0 else ZERO] = v.libraries[level]
        table: list[Row] = []
        if primary and not result.stopped:
            table = _timings(op, evaluator, libraries, result, baselines)
        cases = _reference_cases(op, evaluator)
    return Found(op, result, tuple(variants), cases, tuple(table))


def _refusal(op: Operator, result: SearchResult) -> str:
    reasons = [f"{r['schedule']}: {r['status']}: {r['reason']}" for r in result.table]
    return f"{op.name}: no candidate passed the gates\n" + "\n".join(reasons[:8])


def _variant(label: str, op: Operator, c: Choice, level: str, options: Options) -> PackagedVariant:
    """Libraries for this level and the lesser ones, each tested as built."""
    own = printed(c.program, op, level)
    records = list(c.candidate.records)
    libraries: dict[str, Path] = {}
    sources = {level: own.source}
    for lesser in LEVELS[LEVELS.index(level) :]:
        toolbox = evaluation_tools(op, lesser)
        if lesser == level:
            libraries[lesser] = toolbox.tools.build(toolbox.tools.emit(c.program)).path
            continue
        few = replace(options, cases=6)
        known = [r for r in c.candidate.records if r.kind in ("G1", "G2", "G3")]
        tools = replace(toolbox.tools, safety=_settled(known))
        with CandidateEvaluator(op, tools, few) as evaluator:
            judged = evaluator.judge(Job(0, c.schedule, c.program, c.candidate.program))
        if judged.status != "ok":
            continue  # a level that fails its tests is not shipped
        emitted = toolbox.tools.emit(c.program)
        libraries[lesser] = toolbox.tools.build(emitted).path
        sources[lesser] = emitted.source
        records += [_at_level(r, lesser) for r in judged.records if r.kind == "G6"]
    plan = replace(
        own.plan,
        spec=op.digest,
        types=dict(op.types),
        origin={"proposer": c.candidate.origin, "schedule": c.schedule.text},
    )
    text = show_program(c.program)
    return PackagedVariant(
        label, plan, libraries, own.source, text, records=tuple(records), sources=sources
    )


def _settled(records: Sequence[Record]) -> Callable[[TileProgram], Sequence[Record]]:
    """Safety as it was proved before: it is a statement about the TileIR, not about a level."""
    return lambda program: records


def _at_level(r: Record, level: str) -> Record:
    return replace(r, id=f"{r.id}@{level}", reason=f"{level}: {r.reason}")


def _timings(
    op: Operator,
    evaluator: CandidateEvaluator,
    libraries: Mapping[str, Path],
    result: SearchResult,
    baselines: Baselines | None,
) -> list[Row]:
    out: list[Row] = []
    slow = result.baseline.metrics if result.baseline else {}
    for load in evaluator.loads:
        own = dict(libraries)
        if result.winner and ZERO in own and not evaluator.serves(result.winner.program, load):
            own = {OWN: own[ZERO]}  # the winner's facts exclude this call: what the package runs
        latency = slow.get(load.scaled.name, {}).get("latency", 0.0)
        if len(own) > 1 and latency > SLOW:
            del own[ZERO]  # its time is known from the search; it would dominate the run
            shape = shape_text(op, load.scaled.sizes)
            note = "measured during the search"
            out.append(Row(op.name, load.scaled.name, shape, ZERO, "out", latency, 0.0, note))
        out += rows(op, load.scaled.name, load.timed, own, baselines, evaluator.threads)
    return out


def _reference_cases(op: Operator, evaluator: CandidateEvaluator) -> tuple[ReferenceCase, ...]:
    """A few small generated cases with their reference values and tolerances, for the smoke
    tests."""
    small = sorted((c for c in evaluator.cases if not c.special and not c.hard), key=_elements)
    picked = [c for c in small if _elements(c) > 0][:3]
    out = []
    for n, c in enumerate(picked):
        bounds = evaluator.bound(c)
        tolerance = {}
        for t in op.outputs:
            rule = op.tolerance.get(t.dtype.name, {})
            allowed = bounds[t.name].allowed
            worst = float(allowed.max()) if allowed is not None and allowed.size else 0.0
            rel = float(rule.get("rel", 0.0))
            tolerance[t.name] = (max(float(rule.get("abs", 0.0)), 0.0 if rule else worst), rel)
        expected = {t.name: bounds[t.name].reference for t in op.outputs}
        out.append(
            ReferenceCase(
                f"case{n}", dict(c.sizes), dict(c.params), dict(c.inputs), expected, tolerance
            )
        )
    return tuple(out)


def _elements(c: Case) -> int:
    return sum(int(a.size) for a in c.inputs.values())


# -- the package -----------------------------------------------------------------------------------


def _package(spec: Spec, name: str, found: Sequence[Found], level: str) -> PackageSpec:
    operators = tuple(PackagedOperator(f.op, f.variants, f.cases) for f in found)
    measured = []
    for f in found:
        own = [r for r in f.rows if r.impl == OWN and r.median_s is not None]
        for row in own:
            others = {
                f"{r.impl} ({r.mode})": r.median_s
                for r in f.rows
                if r.workload == row.workload
                and r.mode == row.mode
                and r.impl != OWN
                and r.median_s is not None
            }
            label = f"{row.workload} ({row.mode})"
            measured.append(
                Measurement(
                    label, dict(f.op.types), f.variants[0].name, row.median_s or 0.0, others
                )
            )
    return PackageSpec(
        source=spec.source,
        operators=operators,
        benchmarks=tuple(measured),
        machine={"processor": host(), "isa": level, "threads": os.cpu_count() or 1},
        provenance={
            "spec": found[0].op.digest,
            "operator": name,
            "seed_run": found[0].result.run,
            "proposers": sorted({c.origin for c in _choices(found)}),
            "compiler": evaluation_tools(found[0].op, level).tools.identity,
            "emitted": time.strftime("%Y-%m-%d", time.gmtime(_source_date())),
        },
    )


def _source_date() -> float:
    """SOURCE_DATE_EPOCH where it is set, so that builds can be repeated."""
    return float(os.environ.get("SOURCE_DATE_EPOCH", time.time()))


def _choices(found: Sequence[Found]) -> list[Any]:
    return [c.candidate for f in found for c in (f.result.winner, f.result.baseline) if c]


def _result(package: Path, wheel: Path, found: Sequence[Found]) -> CompileResult:
    first = found[0].result
    assert first.baseline is not None
    winner = first.winner or first.baseline
    verdict = Verdict(tuple(r for f in found for v in f.variants for r in v.records))
    notes = tuple(dict.fromkeys(n for f in found for n in f.result.notes))
    return CompileResult(
        package=package,
        wheel=wheel,
        winner=_choice(winner),
        baseline=_choice(first.baseline),
        speedup=first.baseline.score / winner.score if winner.score else 1.0,
        why=first.why,
        verdict=verdict,
        table=first.table,
        rows=tuple(r for f in found for r in f.rows),
        notes=notes,
        stopped=first.stopped,
        searches=tuple(found),
    )


def _choice(c: Choice) -> dict[str, Any]:
    return {
        "number": c.candidate.number,
        "schedule": c.schedule.text,
        "program": c.candidate.program,
        "score": c.score,
        "confirmed": c.confirmed,
        "metrics": {k: dict(v) for k, v in c.metrics.items()},
        "verdict": {k: Verdict(c.candidate.records).gate(k) for k in ("G2", "G3", "G6")},
    }
