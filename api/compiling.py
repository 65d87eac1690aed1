"""`opwright compile`: the whole road, and the page that says how it went."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opwright.outcome import HOLDS, INTERRUPTED, NO, print_json, several
from opwright.spec_files import open_spec, pick_operator, print_diagnostics

if TYPE_CHECKING:
    from opwright.compiler.guiding import Guide
    from opwright.compiler.pipeline import CompileResult
    from opwright.compiler.timing import Row
    from opwright.ir.record import Record, Verdict
    from opwright.search.propose import Proposer


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asked for."""

    path: Path
    op: str | None
    target: str
    types: Mapping[str, str]
    budget: int
    seconds: float | None
    seed: int
    require: str
    out: Path
    against: tuple[str, ...]
    exchange: Path | None = None
    backend: str = "cpp"
    backward: bool = False
    executor: str = "local"
    guide: Guide | None = None
    learned: Sequence[Sequence[tuple[str, float]]] = ()  # (schedule, score) of other ledgers
    kernel: Path | None = None  # a candidate for another target, to start from

    def to_json(self, op: str) -> dict[str, Any]:
        """The request as the ledger keeps it, with the text of the spec; paths are absolute."""
        out: dict[str, Any] = {}
        for part in fields(self):
            value = getattr(self, part.name)
            out[part.name] = str(value.absolute()) if isinstance(value, Path) else value
        if self.guide is not None:
            out["guide"] = self.guide.to_json()
        with contextlib.suppress(OSError, ValueError):
            out["text"] = self.path.read_text(encoding="utf-8")
        return {**out, "op": op, "types": dict(self.types), "against": list(self.against)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Request:
        """The request that a ledger holds; TypeError for one that this version does not know."""
        known = {part.name: part for part in fields(Request)}
        kept = {k: v for k, v in data.items() if k in known}
        for name, part in known.items():
            if "Path" in str(part.type) and kept.get(name) is not None:
                kept[name] = Path(kept[name])
        if kept.get("guide") is not None:
            from opwright.compiler.guiding import Guide

            kept["guide"] = Guide.from_json(kept["guide"])
        kept["against"] = tuple(kept.get("against", ()))
        return Request(**kept)


def compile_command(request: Request, as_json: bool) -> int:
    """Compile, print the page or the document; no when no candidate may ship."""
    from opwright.compiler.pipeline import compile_spec
    from opwright.grammar.diagnostics import DiagnosticError
    from opwright.progress import progress

    try:
        name = pick_operator(open_spec(request.path), request.op)
        with progress(quiet=as_json) as listener:
            result = compile_spec(
                request.path,
                name,
                target=request.target,
                backend=request.backend,
                budget=request.budget,
                out=request.out,
                seed=request.seed,
                types=request.types or None,
                require=request.require,
                progress=listener,
                baselines=baselines(request.against),
                seconds=request.seconds,
                exchange=request.exchange,
                backward=request.backward,
                command=request.to_json(name),
                executor=request.executor,
                guide=request.guide,
                proposer=informed(request.learned),
                kernel=request.kernel,
            )
    except DiagnosticError as error:
        if as_json:
            from opwright.grammar.diagnostics import to_json

            print_json({"diagnostics": [to_json(d) for d in error.diagnostics]})
        print_diagnostics(error.diagnostics)
        return NO
    if as_json:
        print_json(document(result))
    else:
        print("\n".join(page(name, result)))
    return INTERRUPTED if result.stopped else HOLDS


def learned(archives: Sequence[Path]) -> Sequence[Sequence[tuple[str, float]]]:
    """What the last runs of other operators' archives measured."""
    from opwright.search.informed import seen_in

    return [[(r.schedule, r.score) for r in seen_in(path)] for path in archives]


def informed(ledgers: Sequence[Sequence[tuple[str, float]]]) -> Proposer | None:
    """The proposer that knows other operators' ledgers; None where there are none."""
    from opwright.search.informed import Informed, Seen

    known = tuple(tuple(Seen(str(t), float(s)) for t, s in rows) for rows in ledgers)
    return Informed(known) if known else None


def baselines(against: Sequence[str]) -> Any:
    """The baselines by those names; None for none."""
    if not against:
        return None
    from functools import partial

    from opwright.benchmarks.baselines import baselines as find

    return partial(find, only=tuple(against))


def document(result: CompileResult) -> dict[str, Any]:
    """The result for a machine."""
    return {
        "package": result.package,
        "wheel": result.wheel,
        "winner": dict(result.winner),
        "baseline": dict(result.baseline),
        "backend": result.backend,
        "targets": list(result.targets),
        "speedup": result.speedup,
        "basis": basis(result),
        "why": result.why,
        "variants": [dict(variant) for variant in result.variants],
        "verdict": result.verdict.status,
        "gates": gates(result.verdict),
        "rows": [row.to_json() for row in result.rows],
        "modelled": [dict(row) for row in result.modelled],
        "resources": {target: dict(found) for target, found in result.resources.items()},
        "unrun": list(result.unrun),
        "table": [dict(row) for row in result.table],
        "notes": list(result.notes),
        "stopped": result.stopped,
        **({"device": dict(result.device)} if result.device else {}),
        **({"transfer": dict(result.transfer)} if result.transfer else {}),
    }


def basis(result: CompileResult) -> str:
    """What latencies are: measured here, or modelled because nothing ran."""
    return "modelled" if result.modelled else "measured"


def gates(verdict: Verdict) -> dict[str, str]:
    """The status of every gate that has a record or is required."""
    kinds = sorted({*verdict.required, *(record.kind for record in verdict.records)})
    return {kind: verdict.gate(kind) for kind in kinds}


def page(name: str, result: CompileResult) -> list[str]:
    """What was tried, what was established, how fast it is, where it lies."""
    lines = ["", *tried(result), ""]
    winner = result.winner
    lines.append(f"winner   {winner['schedule']} (candidate {winner['number']})")
    how = "by the model" if result.modelled else "by the objective"
    lines.append(f"         {result.speedup:.2f} times as fast as candidate 0, {how}")
    if result.why:
        lines.append(f"         {result.why}")
    lines += variant_lines(result)
    if result.device:
        from opwright.compiler.universal import device_lines

        lines += ["", *device_lines(dict(result.device))]
    if result.transfer:
        from opwright.compiler.transfer import report_lines

        lines += ["", *report_lines(result.transfer)]
    lines += ["", *verdict_lines(result.verdict)]
    if result.rows:
        lines += ["", *timing_lines(result.rows)]
    if result.resources:
        lines += ["", *resource_lines(result)]
    if result.modelled:
        lines += ["", *modelled_lines(result)]
    lines += ["", *(f"not run: {text}" for text in result.unrun)] if result.unrun else []
    lines += [f"note: {note}" for note in result.notes]
    if result.stopped:
        lines += ["", "stopped before the end: this is the best so far, unconfirmed"]
    lines += ["", f"package  {result.package}", f"wheel    {result.wheel}"]
    return lines


def variant_lines(result: CompileResult) -> list[str]:
    """The variants beside the winner and candidate 0, and when they are taken."""
    lines = []
    for other in result.variants[:-1]:
        if other["schedule"] == result.winner["schedule"]:
            continue
        narrow = set(result.targets) - set(other.get("targets", ())) if result.modelled else set()
        when = f"on {', '.join(other['targets'])}" if narrow else "where its facts do not hold"
        lines.append(f"         {when}: {other['name']} {other['schedule']}")
    return lines


def tried(result: CompileResult) -> list[str]:
    """One line a candidate, best first; those that failed with their reasons below."""
    rows = sorted(result.table, key=lambda row: (row.get("score") is None, row.get("score") or 0))
    lines = [f"{'candidate':>9}  {'status':<9}  {'time':>6}  schedule"]
    for row in rows:
        score = row.get("score")
        share = f"{score:6.3f}" if isinstance(score, float) else " " * 6
        reason = f"  ({row['reason']})" if row.get("reason") and score is None else ""
        lines.append(
            f"{row['number']!s:>9}  {row['status']!s:<9}  {share}  {row['schedule']}{reason}"
        )
    lines.append(f"time is {basis(result)}, in units of candidate 0's")
    return lines


def resource_lines(result: CompileResult) -> list[str]:
    """What the compilers report of the kernels that each target takes first."""
    head = "resources of what each target takes first, as compiled; nothing was executed"
    return [head, *(f"  {line}" for line in resource_table(result.resources))]


# what a compiler reports -> how a table calls it
COLUMNS = {
    "registers": "registers/thread",
    "spill_stores": "spilled B",
    "spill_loads": "reloaded B",
    "stack": "stack B",
    "shared": "shared B",
    "num_warps": "warps",
    "code_bytes": "code B",
}


def resource_table(resources: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """A line for each target and kernel under the names of what is reported."""
    rows = [(t, k, found) for t, kernels in resources.items() for k, found in kernels.items()]
    keys = list(dict.fromkeys(key for _, _, found in rows for key in found))
    keys.sort(key=lambda key: list(COLUMNS).index(key) if key in COLUMNS else len(COLUMNS))
    table = [["target", "kernel", *(COLUMNS.get(key, key) for key in keys)]]
    table += [[t, k, *(str(found.get(key, "-")) for key in keys)] for t, k, found in rows]
    widths = [max(len(line[n]) for line in table) for n in range(len(table[0]))]
    return [
        "  ".join(
            cell.ljust(w) if n < 2 else cell.rjust(w)
            for n, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]


def modelled_lines(result: CompileResult) -> list[str]:
    """Estimates by workload and target, never beside measured times."""
    lines = ["modelled times: estimates from traffic, arithmetic and data sheets, never measured"]
    shown = ""
    for row in result.modelled:
        head = f"{row['op']} {row['workload']}: {row['shape']}"
        if head != shown:
            lines.append(f"  {head}")
            shown = head
        if row["modelled_s"] is not None:
            seconds = f"{row['modelled_s'] * 1e3:10.4f} ms modelled"
            lines.append(f"    {row['target']:<7} {row['impl']:<12} {seconds}")
    return lines


def verdict_lines(verdict: Verdict) -> list[str]:
    """The status of every gate with what its weakest record says."""
    from opwright.explain import GATES

    lines = []
    for kind, status in gates(verdict).items():
        records = [record for record in verdict.records if record.kind == kind]
        title = GATES[kind][0] if kind in GATES else kind
        lines.append(f"{kind}  {status:<8}  {title}: {weakest_reason(records, status)}")
    subjects = dict.fromkeys(r.subject for r in verdict.records if r.subject)
    lines += [f"    subject: {subject}" for subject in list(subjects)[:2]]
    return lines


def weakest_reason(records: Iterable[Record], status: str) -> str:
    """How many obligations there are, and the reason of the first that has the gate's status."""
    records = list(records)
    worst = [record for record in records if record.status == status]
    reason = next((record.reason for record in worst if record.reason), "")
    return several(len(records), "obligation") + (f"; {reason}" if reason else "")


def timing_lines(rows: Sequence[Row]) -> list[str]:
    """Medians of one run by workload and mode, with the ratio to the emitted kernel."""
    if not rows:
        return ["nothing was timed"]
    own = {(r.op, r.shape, r.mode): r.median_s for r in rows if r.impl == "opwright"}
    lines = ["median times, interleaved in one run (`out` reuses outputs, `fresh` allocates them)"]
    width = max(len(r.impl) for r in rows)
    doubts: dict[str, int] = {}
    shown = ""
    for row in sorted(rows, key=table_order(rows)):
        head = f"{row.op} {row.workload}: {row.shape}"
        if head != shown:
            lines.append(f"  {head}")
            shown = head
        name = f"    {row.impl:<{width}}  {row.mode:<5}"
        if row.median_s is None:
            lines.append(f"{name}  {row.note}")
            continue
        mine = own.get((row.op, row.shape, row.mode))
        ratio = f"  {row.median_s / mine:6.2f}x" if mine else ""
        marks = [doubts.setdefault(note, len(doubts) + 1) for note in notes_of(row)]
        note = f"  [{', '.join(map(str, marks))}]" if marks else ""
        lines.append(f"{name}  {row.median_s * 1e3:10.4f} ms{ratio}{note}")
    lines += [f"  [{number}] {note}" for note, number in doubts.items()]
    return lines


def table_order(rows: Sequence[Row]) -> Callable[[Row], tuple[int, bool, bool]]:
    """By workload and then mode as they came, the emitted kernel first and missing ones last."""
    groups = list(dict.fromkeys((r.op, r.workload, r.shape, r.mode) for r in rows))
    place = {group: number for number, group in enumerate(groups)}
    return lambda r: (
        place[r.op, r.workload, r.shape, r.mode],
        r.median_s is None,
        r.impl != "opwright",
    )


def notes_of(row: Row) -> list[str]:
    """What makes a number doubtful, without the name of the implementation."""
    parts = [part.strip() for part in row.note.split(";") if part.strip()]
    return [re.sub(rf"^{re.escape(row.impl)}:? ", "", part) for part in parts]
