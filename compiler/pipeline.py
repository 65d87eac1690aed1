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
from typing import TYPE_CHECKING, Any

from opwright.compiler import universal
from opwright.compiler.backend import (
    Backend,
    CompileError,
    Effort,
    Found,
    Refused,
    carry,
    ships,
)
from opwright.compiler.candidates import Candidate
from opwright.compiler.check import check
from opwright.compiler.elaborate import Spec, load_spec
from opwright.compiler.functional import arrays_from, arrays_of
from opwright.compiler.package import (
    Arrays,
    Measurement,
    PackagedOperator,
    PackageSpec,
    emit,
)
from opwright.compiler.package import check as check_package
from opwright.compiler.package_folder import EmitError
from opwright.compiler.package_spec import PackagedBackward, types_label
from opwright.compiler.paths import cache_folder
from opwright.compiler.stored import stored_form
from opwright.compiler.timing import OWN, Baselines, Row
from opwright.grammar.diagnostics import DiagnosticError
from opwright.ir.op import Operator
from opwright.ir.record import Verdict
from opwright.search.accounts import Unanswered
from opwright.search.events import Choice, Event, Note
from opwright.search.propose import Proposer
from opwright.search.run import Budget

if TYPE_CHECKING:
    from opwright.compiler.exchanging import Desk
    from opwright.compiler.guiding import Guide, Guiding
    from opwright.compiler.transfer import Transfer
    from opwright.compiler.universal import Beside

BACKENDS = ("cpp", "triton", "cuda", "jax", "pallas")
BACKWARD_BUDGET = 2  # candidates of a gradient, candidate 0 among them
FREE_BYTES = 64 << 20  # what a package and its temporary files may need

__all__ = ["BACKENDS", "CompileError", "CompileResult", "Refused", "compile_spec"]


@dataclass(frozen=True, slots=True, eq=False)
class CompileResult:
    """What was emitted and why. `speedup` is over candidate 0, by the objective.

    `variants` are those of the searched binding in order of dispatch; `resources` are what
    compilers report of the winner, by target; `unrun` says what was not executed, and why.
    `modelled` are times that nobody measured, never mixed with `rows`.
    """

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
    backend: str = "cpp"
    targets: tuple[str, ...] = ()
    variants: tuple[Mapping[str, Any], ...] = ()
    resources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unrun: tuple[str, ...] = ()
    modelled: tuple[Mapping[str, Any], ...] = ()
    searches: tuple[Found, ...] = field(repr=False, default=())
    transfer: Mapping[str, Any] = field(default_factory=dict)  # with a kernel as seed, and without
    device: Mapping[str, Any] = field(default_factory=dict)  # the part for GPUs of one for CPUs


def compile_spec(
    path: Path,
    op: str | None = None,
    *,
    target: str = "",
    backend: str = "cpp",
    budget: int = 24,
    out: Path,
    seed: int = 0,
    types: Mapping[str, str] | None = None,
    require: str = "proved",
    progress: Callable[[Event], None] | None = None,
    baselines: Baselines | None = None,
    seconds: float | None = None,
    proposer: Proposer | None = None,
    exchange: Path | None = None,
    backward: bool = False,
    command: Mapping[str, Any] | None = None,
    guide: Guide | None = None,
    desk_of: Callable[[Operator, Spec, Backend, int], Desk] | None = None,
    executor: str = "local",
    kernel: Path | None = None,
) -> CompileResult:
    """Compile one operator of a spec into `out/<distribution>`.

    `types` chooses the binding that is searched (default: the first of every type variable); all
    bindings are compiled unless `types` names every variable. `budget` counts evaluated candidates.
    `target` is the backend's own default when empty. `exchange` is a folder through which texts
    are proposed from outside; Waiting when none has come yet. `desk_of` makes a desk at which they
    arrive while the search runs. `executor` says where candidates are judged: local or ray.
    `command` is kept in the ledger, so that the run can be resumed. `guide`: a language model
    proposes, within hard limits, and `budget` counts what was measured alone. `backward`: gradients
    that the spec asks for go into the package. `kernel` is the folder of a candidate for another
    target that the search starts from; what it finds without that is found first, and compared.
    Raises DiagnosticError for a wrong spec, CompileError, Refused, BuildError, ArchiveError,
    EmitError.
    """
    beside: Beside | None = None
    both = universal.parts(backend, target)
    if both is not None:
        beside = universal.Beside(backend_of(backend, both[1]))
        beside.backend.prepare()
        chosen = backend_of("cpp", both[0])
    else:
        chosen = backend_of(backend, target)
    if executor != "local" and chosen.name != "cpp":
        cure = "leave --executor out: nothing of this backend is timed on a device"
        raise CompileError(f"the {executor} executor judges C++ candidates", cure)
    chosen.prepare()
    writable(out)
    writable(
        cache_folder(), "the cache folder ", "set OPWRIGHT_CACHE to a folder that you may write to"
    )
    spec = load_spec(path)
    name = choose(spec, op)
    wrong = [d for d in check(path).diagnostics if d.severity == "error"]
    if wrong:
        raise DiagnosticError(wrong)
    bindings = order(spec.bindings(name), types)
    found: list[Found] = []
    desk: Desk | None = None
    guiding: Guiding | None = None
    transfer: Transfer | None = None
    if kernel is not None:
        from opwright.compiler.transfer import Transfer

        transfer = Transfer.open(kernel, name, chosen)
    for binding in bindings:
        operator = stored_form(spec.operator(name, binding))
        effort = Effort(
            Budget(max(1, budget), seconds),
            seed,
            require,
            proposer=proposer,
            progress=progress,
            baselines=baselines,
            command=None if found else command,
            executor=executor,
            spec=(spec.source, str(path)),
        )
        if found:
            effort = carry(found[0], effort)
        elif exchange is not None or desk_of is not None:
            own = effort.budget.evaluations
            if desk_of is not None:
                desk = desk_of(operator, spec, chosen, own)
            elif exchange is not None:
                desk = _desk(exchange, operator, spec, chosen, own)
            assert desk is not None
            effort = replace(
                effort,
                budget=desk.budget(seconds),
                proposer=desk.proposer,
                more=(desk.space,),
                searched=desk.searched,
            )
        elif guide is not None:
            guiding = _guiding(guide, operator, spec, chosen, effort)
            effort = guiding.effort(effort)
        if transfer is not None:
            effort = transfer.effort(operator, effort)
        one = _compiled(chosen, operator, effort, guide)
        found.append(one)
        if one.result.stopped:
            break
        if beside is not None:
            beside.compile(operator, effort)
    first = found[0].result
    if first.stopped and len(found) < len(bindings):
        raise KeyboardInterrupt
    package = _package(spec, name, spec.source, found, chosen)
    notes: list[str] = []
    if backward and not first.stopped:
        package, notes = _with_backward(package, spec, name, found, chosen, budget, seed, require)
    if beside is not None:
        if len(beside.found) < len(found):
            raise KeyboardInterrupt
        inner = _package(spec, name, spec.source, beside.found, beside.backend)
        package = beside.within(package, inner)
    emitted = emit(package, out)
    result = _result(emitted.folder, emitted.wheel, found, chosen)
    result = replace(result, notes=(*result.notes, *notes))
    if beside is not None:
        result = replace(result, device=beside.told())
    if transfer is not None:
        result = replace(result, transfer=transfer.report(first, emitted.folder))
    if guiding is not None:
        guiding.close()
        result = replace(result, notes=(*guiding.notes(), *result.notes))
    return replace(result, notes=(*result.notes, *desk.notes())) if desk else result


def _desk(path: Path, op: Operator, spec: Spec, backend: Backend, own: int) -> Desk:
    """The exchange of an operator."""
    from opwright.compiler.exchanging import Desk

    return Desk.open(path, op, spec.source, backend.name, backend.targets, own)


def _guiding(guide: Guide, op: Operator, spec: Spec, backend: Backend, effort: Effort) -> Guiding:
    """The guided search of an operator; says what it may cost before anything is asked."""
    from opwright.compiler.guiding import Guiding

    count = effort.budget.evaluations
    made = Guiding.open(guide, op, spec.source, backend.name, backend.targets, count, effort.seed)
    if effort.progress is not None:
        for line in made.estimate:
            effort.progress(Note(line))
    return made


def _compiled(backend: Backend, op: Operator, effort: Effort, guide: Guide | None) -> Found:
    """The backend's search; Waiting where prompts lie in a folder and nobody has answered yet."""
    try:
        return backend.compile(op, effort)
    except Unanswered as e:
        from opwright.compiler.guiding import unanswered

        assert guide is not None
        raise unanswered(e, guide) from None


# -- preparation -----------------------------------------------------------------------------------


def backend_of(name: str, target: str = "") -> Backend:
    """The backend of that name for a target; CompileError for one that there is not."""
    if name == "cpp":
        from opwright.compiler.native import Native, isa_of

        return Native(isa_of(target or "cpu"))
    if name == "jax":
        from opwright.compiler.pure import Pure, check_target

        check_target(target)
        return Pure()
    if name == "pallas":
        from opwright.compiler.pallas import Kernels
        from opwright.compiler.pure import check_target

        check_target("" if target == "pallas" else target)
        return Kernels()
    if name == "triton":
        from opwright.compiler.blocks import Blocks, targets_of

        return Blocks(targets_of(target))
    if name == "cuda":
        from opwright.compiler.cuda_blocks import cuda_backend

        return cuda_backend(target)
    raise CompileError(f"there is no backend {name}", f"backends: {', '.join(BACKENDS)}")


def writable(
    out: Path, what: str = "", cure: str = "choose a folder that you may write to with -o"
) -> None:
    """CompileError when a folder cannot take what will go there; found before any work is done."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
        if not os.access(out, os.W_OK):
            raise PermissionError(13, "Permission denied")
        free = shutil.disk_usage(out).free
    except OSError as e:
        raise CompileError(f"{what}{out} cannot be written: {e.strerror}", cure) from None
    if free < FREE_BYTES:
        more = f"free {FREE_BYTES >> 20} MiB there, or {cure}"
        raise CompileError(f"{what}{out} has only {free >> 20} MiB left", more)


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


# -- the package -----------------------------------------------------------------------------------


def _with_backward(
    package: PackageSpec,
    spec: Spec,
    name: str,
    found: Sequence[Found],
    backend: Backend,
    budget: int,
    seed: int,
    require: str,
) -> tuple[PackageSpec, list[str]]:
    """The package with the gradients that the spec asks for, and notes on what there is not."""
    from opwright.compiler.backward import compile_backward, roles

    effort = Effort(Budget(min(budget, BACKWARD_BUDGET)), seed, require, primary=False)
    made, notes = compile_backward(spec, name, found, backend, effort)
    inner = []
    for one in made:
        results = one.own.found
        g = results[0].op
        own = _package(spec, g.name, one.own.text, results, backend)
        outputs = tuple(t.name.removeprefix("d_") for t in g.outputs)
        extra = None
        if one.saving is not None:
            kept = one.saving
            extra = _package(spec, kept.found[0].op.name, kept.text, kept.found, backend)
        try:
            for p in (own, extra):
                if p is not None:
                    check_package(p)
        except (EmitError, ValueError) as e:
            notes.append(f"no backward with respect to {', '.join(outputs)}: {e}")
            continue
        known = roles(g, found[0].op)
        inner.append(PackagedBackward(own, known, outputs, one.saved, extra))
        evaluated = len(results[0].result.table)
        notes.append(f"backward: {g.name} in {several(evaluated)} tried, on its own gates")
        if extra is not None:
            what = ", ".join(one.saved)
            notes.append(f"backward: reads {what}, which {extra.operator.name} saves")
    return replace(package, backward=tuple(inner)), notes


def several(count: int) -> str:
    return f"{count} candidate" + ("" if count == 1 else "s")


def _package(
    spec: Spec, name: str, source: str, found: Sequence[Found], backend: Backend
) -> PackageSpec:
    operators = tuple(
        PackagedOperator(f.op, f.variants, f.cases, _arrays(f, backend)) for f in found
    )
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
            served = f.serving.get(row.workload, f.variants[0].name)
            measured.append(
                Measurement(label, dict(f.op.types), served, row.median_s or 0.0, others)
            )
    return PackageSpec(
        source=source,
        operators=operators,
        benchmarks=tuple(measured),
        machine=backend.machine(),
        backend="jax" if backend.name == "pallas" else backend.name,  # what imports it
        unrun=tuple(dict.fromkeys(text for f in found for text in f.unrun)),
        modelled=tuple(row for f in found for row in f.modelled),
        resources={types_label(f.op): f.resources for f in found if f.resources},
        provenance={
            "spec": found[0].op.digest,
            "operator": name,
            "seed_run": found[0].result.run,
            "proposers": sorted({c.origin for c in _choices(found)}),
            "compiler": backend.identity(found[0].op),
            "emitted": time.strftime("%Y-%m-%d", time.gmtime(_source_date())),
        },
    )


def _arrays(f: Found, backend: Backend) -> Arrays | None:
    """What `<package>.jax` runs: the winner where it is array code, else what is printed."""
    v = f.variants[0]
    if backend.name == "pallas":
        from opwright.compiler.pallas import packaged

        return packaged(v, f.op)
    if backend.name == "jax" and "text" in v.plan.origin:
        return arrays_from(Candidate(v.plan, v.source), f.op)
    return arrays_of(f.op)[0]


def _source_date() -> float:
    """SOURCE_DATE_EPOCH where it is set, so that builds can be repeated."""
    return float(os.environ.get("SOURCE_DATE_EPOCH", time.time()))


def _choices(found: Sequence[Found]) -> list[Any]:
    return [c.candidate for f in found for _, c in ships(f.result)]


def _result(package: Path, wheel: Path, found: Sequence[Found], backend: Backend) -> CompileResult:
    first = found[0].result
    assert first.baseline is not None
    winner = first.winner or first.baseline
    verdict = Verdict(tuple(r for f in found for v in f.variants for r in v.records))
    lacking = [arrays_of(f.op)[1] for f in found]
    notes = tuple(
        dict.fromkeys([*(n for f in found for n in f.result.notes), *filter(None, lacking)])
    )
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
        backend=backend.name,
        targets=backend.targets,
        variants=tuple(
            {
                "name": v.name,
                "schedule": str(v.plan.origin.get("schedule", "")),
                "guards": list(v.guards),
                "targets": list(v.targets or v.libraries),
            }
            for v in found[0].variants
        ),
        resources=found[0].resources,
        unrun=tuple(dict.fromkeys(text for f in found for text in f.unrun)),
        modelled=tuple(row for f in found for row in f.modelled),
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
