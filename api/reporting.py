"""`opwright report`: one page about a search, with everything in it and nothing from elsewhere.

What candidates and their authors wrote is data: the template escapes it, and the page has no
script.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opwright import charts
from opwright.archives import history, open_archive
from opwright.charts import Leaf, Mark
from opwright.outcome import HOLDS, Problem, print_json, write_atomically
from opwright.search.archive import Archive
from opwright.search.history import History, Node
from opwright.search.ledger import Entry

MOST_ROWS = 400
MOST_LINES = 800  # of a diff or a text
MOST_CHARACTERS = 60_000
SECOND = ("memory", "error", "code_size", "compile_time")  # metrics beside time, by interest


def report(path: Path | None, number: int | None, out: Path, as_json: bool) -> int:
    """Write the page of a run."""
    if out.is_dir():
        raise Problem(f"{out} is a folder, not a file", "name the page to write with -o")
    with open_archive(path) as archive:
        found = history(archive, number)
        page = render(facts_of(archive, found))
    out.parent.mkdir(parents=True, exist_ok=True)
    if not out.exists():
        out.touch()
    write_atomically(out, page)
    if as_json:
        print_json({"report": out, "run": found.id, "candidates": len(found.nodes)})
    else:
        print(f"{out}: run {found.id}, {len(found.nodes)} candidates, {len(page) >> 10} KiB")
    return HOLDS


def render(facts: Mapping[str, Any]) -> str:
    """The page; charts are markup of ours, everything else is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("opwright.compiler", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    drawn = {k: Markup(facts[k]) for k in ("progress", "tree", "pareto", "roofline")}
    text = environment.get_template("report.html.jinja").render({**facts, **drawn})
    return text.encode("utf-8", "replace").decode("utf-8")


def facts_of(archive: Archive, found: History) -> dict[str, Any]:
    """All that the page says."""
    operator = found.operator
    winner = found.winner
    measured = bool(operator.get("measured", True))
    entries = archive.ledger(found.id)
    loads = sorted({w for n in found.nodes for w in n.metrics})
    outcome = (found.run["outcome"] or {}).get("outcome", "not finished")
    types = ", ".join(f"{k} = {v}" for k, v in operator.get("types", {}).items())
    name = str(operator.get("operator") or found.subject or archive.path)
    pareto, second = _pareto(found, winner)
    roof, roof_note = _roofline(found, winner, measured)
    diff, diff_title = _diff(archive, found, winner)
    return {
        "title": f"{name}: report of a search",
        "operator": name,
        "types": types,
        "run": found.id,
        "outcome": outcome,
        "doc": "",
        "machine": operator.get("machine", "machine unknown"),
        "cards": _cards(found, winner),
        "damage": archive.broken(),
        "progress": charts.progress(_progress(found)),
        "basis": "Times were measured." if measured else "Times are modelled; nothing was run.",
        "tree": charts.tree(_leaves(found, winner)),
        "pareto": pareto,
        "pareto_note": f"Time against {second.replace('_', ' ')}; the line joins what nothing "
        "beats in both.",
        "roofline": roof,
        "roofline_note": roof_note,
        "loads": loads,
        "gates": (gates := _gates(found)),
        "rows": [_row(n, loads, gates, winner) for n in found.nodes[:MOST_ROWS]],
        "diff": diff,
        "diff_title": diff_title,
        "winner": _winner(archive, found, winner),
        "spec": _cut(str(found.command.get("text", ""))),
        "notes": _notes(entries),
        "facts": _machine(found, entries),
        "trusted": _trusted(winner, found),
        "costs": _costs(found, entries),
    }


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + "\n… (cut)"


def _cards(found: History, winner: Node | None) -> list[tuple[str, str]]:
    passed = sum(n.score is not None for n in found.nodes)
    free = sum(n.candidate.status in ("illegal", "duplicate") for n in found.nodes)
    noise = (found.run["outcome"] or {}).get("noise")
    cards = []
    if winner is not None and winner.score:
        cards.append((f"{1 / winner.score:.2f}×", "over candidate 0, by the objective"))
        cards.append((f"no. {winner.number}", f"the winner, by {winner.candidate.origin[:60]}"))
    cards.append((str(len(found.nodes) - free), "candidates evaluated"))
    cards.append((str(passed), "passed every required gate"))
    if isinstance(noise, int | float) and noise:
        cards.append((f"{noise:.1%}", "noise: two measurements of one candidate"))
    return cards


def _progress(found: History) -> list[Mark]:
    marks = []
    for n in found.nodes:
        if n.candidate.status in ("illegal", "duplicate"):
            continue
        if n.score is None:
            label = f"{n.number}: {n.candidate.status}: {n.candidate.reason}"
            marks.append(Mark(n.number, 0.0, "failed", label))
        else:
            label = f"{n.number}: {n.score:.3f}, {n.candidate.schedule}"
            marks.append(Mark(n.number, n.score, "ok", label))
    return marks


def _kind(n: Node, winner: Node | None) -> str:
    if winner is not None and n.number == winner.number:
        return "won"
    if n.score is not None:
        return "ok"
    return "free" if n.candidate.status in ("illegal", "duplicate") else "dead"


def _leaves(found: History, winner: Node | None) -> list[Leaf]:
    out = []
    for n in found.nodes[:MOST_ROWS]:
        what = f"{n.score:.3f}" if n.score is not None else n.candidate.status
        name = f"{n.number}  {what}  {n.candidate.schedule}"
        label = f"{n.candidate.origin}: {n.candidate.schedule}\n{n.candidate.reason}"
        out.append(Leaf(n.number, name, _kind(n, winner), label, n.candidate.parent))
    return out


def _mean(n: Node, metric: str) -> float | None:
    values = [v[metric] for v in n.metrics.values() if metric in v]
    if not values or any(not math.isfinite(v) for v in values):
        return None
    if metric == "latency":
        return math.exp(sum(math.log(max(v, 1e-12)) for v in values) / len(values))
    return sum(values) / len(values)


def _pareto(found: History, winner: Node | None) -> tuple[str, str]:
    """Time against the first other metric in which candidates differ."""
    good = [n for n in found.nodes if n.score is not None]
    for metric in SECOND:
        points = [(n, _mean(n, "latency"), _mean(n, metric)) for n in good]
        whole = [(n, a, b) for n, a, b in points if a is not None and b is not None and a > 0]
        if len({b for _, _, b in whole}) > 1:
            marks = [
                Mark(a * 1e3, b, _kind(n, winner), f"{n.number}: {n.candidate.schedule}")
                for n, a, b in whole
            ]
            unit = {"memory": "bytes of scratch", "error": "largest error over tolerance",
                    "code_size": "bytes of code", "compile_time": "seconds to compile"}  # fmt: skip
            return charts.pareto(marks, "milliseconds (geometric mean)", unit[metric]), metric
    return "", ""


def _roofline(found: History, winner: Node | None, measured: bool) -> tuple[str, str]:
    loads = found.operator.get("workloads", {})
    marks, labels = [], {}
    for n in found.nodes:
        for name, values in n.metrics.items():
            work, moved = loads.get(name, {}).get("flops"), loads.get(name, {}).get("bytes")
            seconds = values.get("latency", 0.0)
            if n.score is None or not work or not moved or seconds <= 0:
                continue
            labels[name] = work / moved
            label = f"{n.number} on {name}: {charts.short(work / seconds)} op/s, " + (
                f"{charts.short(moved / seconds)}B/s"
            )
            marks.append(Mark(work / moved, work / seconds, _kind(n, winner), label))
    if not marks:
        return "", ""
    bandwidth, peak, how = _ceilings(found, measured)
    note = (
        f"Operations of the spec over the bytes that it must move, both counted by formula. {how}"
    )
    return charts.roofline(marks, bandwidth, peak, labels), note


def _ceilings(found: History, measured: bool) -> tuple[float | None, float | None, str]:
    """Bytes and operations per second that the machine can do, and where the numbers are from."""
    if not measured:
        from opwright.compiler.devices import DEVICES

        target = str(found.command.get("target") or "sm_90").split(",")[0]
        device = DEVICES.get(target)
        if device is None:
            return None, None, "No ceilings are known."
        peak = max(device.rates.values(), default=0.0) * 1e12
        how = f"Ceilings are the data sheet's of {device.part}, without matrix units."
        return device.memory * 1e12, peak or None, how
    from opwright.search.loads import host

    if found.operator.get("machine") != host():
        return None, None, "The search ran on another machine: no ceilings are drawn."
    bandwidth, peak = _probe()
    how = "The ceilings were measured on this machine now, by numpy's copy and matrix product."
    return bandwidth, peak, how


def _probe() -> tuple[float, float]:
    """Bytes per second of a copy and f32 operations per second of a product, here and now."""
    import time

    import numpy as np

    a = np.ones(1 << 24, np.float32)
    b = np.empty_like(a)
    m = np.ones((512, 512), np.float32)
    copy = product = math.inf
    for _ in range(4):
        begin = time.perf_counter()
        np.copyto(b, a)
        copy = min(copy, time.perf_counter() - begin)
        begin = time.perf_counter()
        m @ m
        product = min(product, time.perf_counter() - begin)
    return 2 * a.nbytes / copy, 2 * 512**3 / product


def _gates(found: History) -> list[str]:
    return sorted({r.kind for n in found.nodes for r in n.candidate.records})


def _row(
    n: Node, loads: Sequence[str], gates: Sequence[str], winner: Node | None
) -> dict[str, Any]:
    from opwright.ir.record import weakest

    by_gate: dict[str, list[str]] = {}
    for r in n.candidate.records:
        by_gate.setdefault(r.kind, []).append(r.status)
    latency = [n.metrics.get(w, {}).get("latency") for w in loads]
    return {
        "number": n.number,
        "won": winner is not None and n.number == winner.number,
        "status": n.candidate.status,
        "score": f"{n.score:.3f}" if n.score is not None else "",
        "confirmed": n.confirmed,
        "times": [f"{t * 1e3:.4g} ms" if t is not None else "" for t in latency],
        "gates": [weakest(by_gate[g]) if g in by_gate else "" for g in gates],
        "schedule": n.candidate.schedule[:300],
        "reason": n.candidate.reason[:400],
    }


def _source(texts: Mapping[str, str]) -> tuple[str, str]:
    """The name and text of what a candidate is compared by."""
    try:
        name = str(json.loads(texts["candidate.json"])["source"])
        return name, texts[name]
    except (KeyError, ValueError, TypeError):
        return "program.tile", texts.get("program.tile", "")


def _diff(
    archive: Archive, found: History, winner: Node | None
) -> tuple[list[tuple[str, str]], str]:
    """The winner's text against that of what it varies, else of candidate 0."""
    if winner is None:
        return [], ""
    above = winner.candidate.parent
    base = found.node(above) if above is not None else next(iter(found.nodes), None)
    if base is None or base.number == winner.number:
        return [], ""
    name, new = _source(archive.texts(found.id, winner.number))
    old = _source(archive.texts(found.id, base.number))[1]
    if not new or not old:
        return [], ""
    sides = f"{base.number}/{name}", f"{winner.number}/{name}"
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), *sides, lineterm="")
    kinds = {"+": "add", "-": "cut", "@": "hunk"}
    out = [(kinds.get(line[:1], "same"), line[:400]) for line in lines]
    what = "its parent" if above is not None else "candidate 0"
    title = f"The winner ({winner.number}) against {what} ({base.number})"
    if len(out) > MOST_LINES:
        out = [*out[:MOST_LINES], ("hunk", f"… {len(out) - MOST_LINES} more lines")]
    return out, title


def _winner(archive: Archive, found: History, winner: Node | None) -> dict[str, Any] | None:
    if winner is None:
        return None
    records = winner.candidate.records
    shown = [r for r in records if r.status != "PROVED"][:60]
    proved = [r for r in records if r.status == "PROVED"]
    first = {r.kind: r for r in reversed(proved)}
    shown += [first[k] for k in sorted(first)]
    texts = archive.texts(found.id, winner.number)
    return {
        "records": [{"id": r.id, "status": r.status, "reason": r.reason[:600]} for r in shown],
        "more": len(proved) - len(first),
        "texts": [(name[:120], _cut(text)) for name, text in sorted(texts.items())],
    }


def _notes(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """What authors said, by the name of the answer."""
    said = [e.body for e in entries if e.kind == "answer" and e.body.get("note")]
    return [(str(b.get("name", ""))[:80], str(b["note"])[:2000]) for b in said][:100]


def _machine(found: History, entries: Sequence[Entry]) -> list[tuple[str, str]]:
    import datetime

    began = datetime.datetime.fromtimestamp(found.run["started"], datetime.UTC)
    command = found.command
    out = [("processor", str(found.operator.get("machine", "unknown")))]
    out.append(("began", f"{began:%Y-%m-%d %H:%M} UTC"))
    for key in ("backend", "target", "proposer", "budget", "seed", "require"):
        if command.get(key) not in (None, ""):
            out.append((key, str(command[key])))
    settings = found.run["settings"]
    out.append(("proposer's own name", str(settings.get("proposer", "unknown"))))
    out.append(("spec", str(found.operator.get("spec", ""))))
    out.append(("ledger", f"{len(entries)} entries, {entries[-1].hash if entries else 'empty'}"))
    return out


def _trusted(winner: Node | None, found: History) -> list[tuple[str, str]]:
    """What a reader has to believe besides the records."""
    from opwright.compiler.trusted import trusted_base

    if winner is None:
        return []
    records = winner.candidate.records
    backend = str(found.command.get("backend", "cpp"))
    known = (backend,) if backend in ("cpp", "triton", "jax") else ()
    base = trusted_base(records, known, str(found.operator.get("operator", "")))
    return [(str(k), str(v)) for k, v in base.items()]


def _costs(found: History, entries: Sequence[Entry]) -> list[tuple[str, str]]:
    compiled = sum(float(n.candidate.build.get("seconds", 0.0) or 0.0) for n in found.nodes)
    proving = sum(r.seconds for n in found.nodes for r in n.candidate.records)
    last = max((e.at for e in entries), default=found.run["started"])
    out = [
        ("from the first entry to the last", f"{last - found.run['started']:.0f} s"),
        ("compiling", f"{compiled:.1f} s"),
        ("gates", f"{proving:.1f} s"),
    ]
    asked = [e.body for e in entries if e.kind == "request"]
    answers = [e.body for e in entries if e.kind == "answer"]
    if asked:
        usage = [b.get("usage") or {} for b in answers]
        counted = {k: sum(int(u.get(k, 0)) for u in usage) for k in ("input", "output", "cached")}
        out.append(("requests to a model", str(len(asked))))
        out.append(("answers", str(sum(not b.get("error") for b in answers))))
        out.append(
            (
                "tokens",
                f"{counted['input']} in ({counted['cached']} cached), {counted['output']} out",
            )
        )
        out.append(
            ("seconds of waiting", f"{sum(float(b.get('seconds', 0)) for b in answers):.0f}")
        )
    else:
        out.append(("requests to a model", "none"))
    return out
