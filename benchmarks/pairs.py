"""One pair of an operator and a shape, measured in a process of its own: `python -m
opwright.benchmarks.pairs` reads what to measure from standard input and writes what was found.

The operator is searched for this shape (archives are kept, so that a second run confirms what the
first one found), then the winner and all rivals run in one interleaved comparison: the winner twice
(A/A), outputs given, outputs allocated, weights laid out ahead.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.backends.cpp.build import BuildError, host_isa
from opwright.backends.cpp.run import Library
from opwright.benchmarks import subjects
from opwright.benchmarks.backward import backward_calls
from opwright.benchmarks.baselines import baseline_of, baselines, time_limit
from opwright.benchmarks.limits import need
from opwright.benchmarks.subjects import BACKWARD, Pair, Subject, subject
from opwright.compiler.autodiff_rules import NotDifferentiable
from opwright.compiler.buffers import takes_dense
from opwright.compiler.native import F32_LANES
from opwright.compiler.paths import cache_folder
from opwright.compiler.spaces import spaces
from opwright.compiler.timing import OWN, aligned, aligned_copy, outputs
from opwright.compiler.toolbox import evaluation_tools
from opwright.grammar.diagnostics import DiagnosticError
from opwright.ir.dtypes import decode
from opwright.ir.expr import ExprError
from opwright.ir.op import Operator
from opwright.ir.record import Verdict
from opwright.search.archive import Archive, ArchiveError, archive_path
from opwright.search.evaluate import CandidateEvaluator
from opwright.search.events import SearchResult
from opwright.search.loads import host
from opwright.search.measure import compare
from opwright.search.results import Options
from opwright.search.run import Budget, search
from opwright.verify.inputs import Case
from opwright.verify.sizes import work

TWIN = "opwright again"
STAGE = "stage: "  # of lines that say what is being done
SEEDS = 4  # tried in turn where an archive holds another version's run
ERROR_STEPS = 1 << 31  # scalar steps of a reference whose error is worth having
ERROR_BYTES = 80 << 20  # of its inputs
ERROR_SECONDS = 20.0
FAILURES = (
    ArchiveError, BuildError, DiagnosticError, ExprError, NotDifferentiable, LookupError,
    RuntimeError, ValueError, OSError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """How hard to look and how long to measure."""

    budget: int = 12
    seed: int = 0
    seconds: float = 60.0  # of the search
    against: tuple[str, ...] = ("torch", "torch.compile", "jax", "onnxruntime")
    rounds: int = 11
    limit: float = 60.0  # seconds of the first call of a compiled rival


@dataclass(frozen=True, slots=True, eq=False)
class Winner:
    """What was found for a shape: its library, and the inputs that it is timed on."""

    library: Path
    case: Case
    result: SearchResult
    op: Operator
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        r = self.result
        chosen = r.winner or r.baseline
        assert chosen is not None
        verdict = Verdict(chosen.candidate.records)
        return {
            "schedule": chosen.schedule.text,
            "gates": {k: verdict.gate(k) for k in ("G2", "G3", "G6")},
            "candidates": len(r.table),
            "noise": r.noise,
            "why": r.why,
            "notes": list(self.notes),
        }


def found(op: Operator, settings: Settings) -> Winner:
    """The best candidate for the only workload of an operator; by its written tolerance where the
    derived bound refuses all. Raises what a search raises."""
    level = host_isa()
    toolbox = evaluation_tools(op, level)
    options = Options(require="PROVED", seed=settings.seed, rounds=3, confirm_rounds=7)
    path = archive_path(cache_folder() / "archive", op.name, op.types, level)
    last: ArchiveError | None = None
    for seed in range(settings.seed, settings.seed + SEEDS):
        with CandidateEvaluator(op, toolbox.tools, options) as judge, Archive(path) as archive:
            try:
                result = search(
                    spaces(op, F32_LANES[level]),
                    op,
                    judge,
                    Budget(settings.budget, settings.seconds),
                    seed,
                    archive,
                    batch=4,
                    general=lambda program: takes_dense(op, program.facts),
                )
            except ArchiveError as e:
                last = e  # another version proposed other things with this seed
                continue
            chosen = result.winner or result.baseline
            if chosen is None:
                reasons = [f"{r['schedule']}: {r['reason']}" for r in result.table][:2]
                raise RuntimeError("no candidate passed: " + "; ".join(reasons))
            library = toolbox.tools.build(toolbox.tools.emit(chosen.program)).path
            return Winner(library, judge.loads[0].timed, result, op, tuple(judge.notes))
    assert last is not None
    raise last


def stage(text: str) -> None:
    """Say what is being done, for whoever ends this process."""
    print(f"{STAGE}{text}", file=sys.stderr, flush=True)


def measured(pair: Pair, settings: Settings) -> dict[str, Any]:
    """Everything about one pair, as plain data; `failed` says why there is nothing."""
    begin = time.monotonic()
    with contextlib.suppress(ImportError):
        import torch  # noqa: F401  # its threads are the ones that all kernels share
    try:
        s = subject(pair)
        stage("searching")
        try:
            won = found(s.op, settings)
        except RuntimeError:
            if s.op.tolerance or not s.forward.tolerance:
                raise
            won = found(replace(s.op, tolerance=s.forward.tolerance), settings)
        searched = time.monotonic() - begin
        rows, errors = timed(s, won, settings)
    except FAILURES as e:
        lines = str(e).splitlines() or [type(e).__name__]
        return {**pair.to_json(), "failed": lines[0][:300]}
    case = won.case
    amount = need(s.op, case.sizes, case.params)
    live = subjects.LIVE.get(pair.op, 1.0)
    if amount is not None:
        amount = replace(amount, operations=int(amount.operations * live))
    return {
        **pair.to_json(),
        "sizes": dict(case.sizes),
        "machine": host(),
        "winner": won.to_json(),
        "need": None if amount is None else asdict(amount),
        "rows": rows,
        "errors": errors,
        "seconds": {"search": searched, "whole": time.monotonic() - begin},
        "load": os.getloadavg()[0],
    }


def timed(
    s: Subject, won: Winner, settings: Settings
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """(rows of all contenders, largest errors against the reference in f64)."""
    op, case = won.op, won.case
    threads = os.cpu_count() or 1
    inputs = {k: aligned_copy(v) for k, v in case.inputs.items()}
    library = Library(won.library, op)
    calls: dict[str, Callable[[], object]] = {}
    notes: dict[str, str] = {}
    made = [outputs(op, case, aligned) for _ in range(2)]
    for label, buffers in zip((OWN, TWIN), made, strict=True):
        call = library.bind(inputs, buffers, case.params, case.sizes, threads)
        calls[f"{label}|out"] = call

    def fresh() -> object:
        buffers = outputs(op, case, aligned)
        library.bind(inputs, buffers, case.params, case.sizes, threads)()
        return buffers

    calls[f"{OWN}|fresh"] = fresh
    weights = subjects.WEIGHTS.get(op.name, ())
    if weights and s.pair.direction != BACKWARD:
        kept = library.bind_kept(
            inputs, outputs(op, case, aligned), weights, case.params, case.sizes, threads
        )
        if kept is not None:
            calls[f"{OWN}|packed"] = kept
    stage("preparing rivals")
    for (name, mode), rival in rivals(s, op, case, inputs, settings, threads).items():
        packed = name.endswith(" (packed)")
        key = f"{name.removesuffix(' (packed)')}|{'packed' if packed else mode}"
        if isinstance(rival, str):
            notes[key] = rival
        else:
            calls[key] = rival
    stage("errors against the reference")
    calls[f"{OWN}|out"]()
    errors: dict[str, float] = {}
    if s.pair.direction != BACKWARD:  # torch's own gradient is of outputs of its own
        errors = _errors(op, case, made[0], calls.get("torch|fresh"))
    stage("timing")
    timings = compare(calls, threads, settings.rounds, limit=120.0)
    rows = []
    for key, t in timings.items():
        name, _, mode = key.partition("|")
        rows.append({
            "impl": name, "mode": mode, "median_s": t.median, "least_s": t.least,
            "spread": t.spread, "share": t.share, "note": "; ".join(t.notes),
        })  # fmt: skip
    for key, why in notes.items():
        name, _, mode = key.partition("|")
        rows.append({"impl": name, "mode": mode, "median_s": None, "note": why})
    return rows, errors


def rivals(
    s: Subject,
    op: Operator,
    case: Case,
    inputs: Mapping[str, NDArray[Any]],
    settings: Settings,
    threads: int,
) -> Mapping[tuple[str, str], Callable[[], object] | str]:
    """Calls of what people have, or why there are none."""
    if s.pair.direction != BACKWARD:
        return baselines(
            op, case.sizes, case.params, inputs,
            threads=threads, only=settings.against, limit=settings.limit,
        )  # fmt: skip
    b = baseline_of(s.forward)
    if b is None:
        return {}
    return backward_calls(
        b, s.forward, op, s.wrt, case, inputs, settings.against, threads, settings.limit
    )


def _errors(
    op: Operator,
    case: Case,
    own: Mapping[str, NDArray[Any]],
    eager: Callable[[], object] | None,
) -> dict[str, float]:
    """The largest error against the f64 reference, as a share of the largest finite result, of this
    kernel and of torch's; nothing where the reference takes too long."""
    if work(op, case.sizes, case.params) > ERROR_STEPS:
        return {}
    tensors = [t for t in op.outputs if t.kind == "real"]
    if not tensors or sum(a.nbytes for a in case.inputs.values()) > ERROR_BYTES:
        return {}
    tools = evaluation_tools(op, host_isa()).tools
    plain = {t.name: decode(case.inputs[t.name], t.dtype) for t in op.inputs}
    try:
        with time_limit(ERROR_SECONDS):
            exact = tools.reference(plain, case.sizes, case.params)
    except BaseException as e:  # the limit is no Exception
        if isinstance(e, KeyboardInterrupt | SystemExit):
            raise
        return {}
    out: dict[str, float] = {}
    for t in tensors:
        want = np.asarray(exact[t.name], np.float64)
        scale = float(np.max(np.abs(want), initial=0.0, where=np.isfinite(want))) or 1.0
        out[OWN] = max(out.get(OWN, 0.0), _largest(decode(own[t.name], t.dtype), want) / scale)
        if eager is not None:
            result: Any = eager()
            results = result if isinstance(result, dict) else {op.outputs[0].name: result}
            r = results.get(t.name)
            if r is not None and hasattr(r, "double"):
                got = np.asarray(r.detach().double().numpy()).reshape(want.shape)
                out["torch"] = max(out.get("torch", 0.0), _largest(got, want) / scale)
    return out


def _largest(got: NDArray[Any], want: NDArray[Any]) -> float:
    with np.errstate(all="ignore"):
        error = np.abs(np.asarray(got, np.float64) - want)
    return float(np.max(error, initial=0.0, where=np.isfinite(error)))


def main(given: Sequence[str] | None = None) -> int:
    asked = json.loads(sys.stdin.read())
    # what frameworks print of themselves does not belong into the answer
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    settings = Settings(**{**asked["settings"], "against": tuple(asked["settings"]["against"])})
    result = measured(Pair(**asked["pair"]), settings)
    answer.write(json.dumps(result) + "\n")
    answer.flush()
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of frameworks are not waited for
