"""Tables of what was measured: one line a pair, one column a rival, ratios of its time to ours.

Modes stand apart: outputs given, outputs allocated in every call, weights laid out ahead. A ratio
inside the A/A floor is marked with `=` and counts for nothing but its mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from opwright.benchmarks.results_file import Entry, Results
from opwright.search.measure import geometric_mean

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
# (heading, implementation, mode)
COLUMNS = (
    ("eager, out", "torch", "out"),
    ("ONNX RT, out", "onnxruntime", "out"),
    ("ONNX RT, packed", "onnxruntime", "packed"),
    ("eager, fresh", "torch", "fresh"),
    ("compile, fresh", "torch.compile", "fresh"),
    ("JAX, fresh", "jax", "fresh"),
    ("ONNX RT, fresh", "onnxruntime", "fresh"),
)
KINDS = (("f32", "forward"), ("f32", "backward"), ("bf16", "forward"), ("bf16", "backward"),
         ("f16", "forward"), ("f16", "backward"))  # fmt: skip


def floor_of(e: Entry, results: Results) -> float:
    """The factor within which a ratio of this pair says nothing."""
    return max(results.floor(), e.noise or 1.0)


def ratio_text(ratio: float | None, floor: float) -> str:
    """`1.52`, or `1.01 =` inside the floor, or `-`."""
    if ratio is None:
        return "-"
    inside = 1 / floor <= ratio <= floor
    return f"{ratio:.2f}{' =' if inside else ''}"


def columns(entries: Iterable[Entry]) -> list[tuple[str, str, str]]:
    """Those columns that have a number somewhere."""
    held = list(entries)
    return [c for c in COLUMNS if any(e.ratio(c[1], c[2]) is not None for e in held)]


def lines(entries: Sequence[Entry], results: Results) -> list[list[str]]:
    """A header, a line for every pair that has a number, and the means."""
    good = [e for e in entries if e.own("out")]
    if not good:
        return []
    shown = columns(good)
    out = [["operator", "ms", "of limit", *(c[0] for c in shown), "nearest"]]
    for e in good:
        share = f"{e.share[0]:.0%} {e.share[1]}" if e.share else "-"
        worst = e.worst()
        floor = floor_of(e, results)
        line = [e.title, f"{(e.own('out') or 0.0) * 1e3:.3g}", share]
        line += [ratio_text(e.ratio(i, m), floor) for _, i, m in shown]
        out.append([*line, ratio_text(worst[2] if worst else None, floor)])
    last = ["geometric mean", "", ""]
    for _, i, m in shown:
        found = [x for e in good if (x := e.ratio(i, m)) is not None]
        last.append(f"{geometric_mean(found):.2f} ({len(found)})" if found else "-")
    near = [w[2] for e in good if (w := e.worst()) is not None]
    last.append(f"{geometric_mean(near):.2f} ({len(near)})" if near else "-")
    return [*out, last]


def grid(table: Sequence[Sequence[str]]) -> list[str]:
    """A table for a terminal."""
    widths = [max(len(line[n]) for line in table) for n in range(len(table[0]))]
    out = []
    for line in table:
        right = [cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True)]
        out.append("  ".join([line[0].ljust(widths[0]), *right]).rstrip())
    return out


def pipes(table: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    rows = ["| " + " | ".join(line) + " |" for line in table]
    return [rows[0], "|" + "---|" * len(table[0]), *rows[1:]]


def sections(results: Results) -> list[tuple[str, list[Entry]]]:
    """(title, pairs): the study and the library apart, every type and direction apart."""
    out = []
    for element, direction in KINDS:
        entries = results.entries(element, direction)
        for title, studied in (("the study's pairs", True), ("workloads of the library", False)):
            own = [e for e in entries if bool(e.study) == studied]
            if any(e.own("out") for e in own):
                out.append((f"{title}, {element}, {direction}", own))
    return out


def summary(results: Results) -> list[str]:
    """What the numbers come to, in words."""
    out = [f"{results.machine}; a ratio is a rival's time over ours, above 1 is a win"]
    newest = results.runs.get(max(results.runs, default=""), {})
    limits = newest.get("limits")
    if limits:
        rates = f"{limits['fma'] / 1e9:.0f} GFLOP/s of f32 multiply-adds"
        rates += f", read {limits['read'] / 1e9:.1f} GB/s, copy {limits['copy'] / 1e9:.1f} GB/s"
        out.append(f"limits of this machine, measured: {rates} with {limits['threads']} threads")
    floor = results.floor() - 1
    out.append(f"A/A floor: {floor:.1%}; ratios within it are marked = and nothing is claimed")
    return out


def lost(entries: Iterable[Entry], results: Results) -> list[str]:
    """Rivals that are ahead by more than the floor, the worst first."""
    found = []
    for e in entries:
        worst = e.worst()
        if worst is not None and worst[2] < 1 / floor_of(e, results):
            found.append((worst[2], f"{e.title}: {worst[0]} ({worst[1]}) {worst[2]:.2f}"))
    return [t for _, t in sorted(found)]


def errors(entries: Iterable[Entry]) -> tuple[int, int]:
    """(pairs whose error against f64 is at most PyTorch's, pairs that both are known of)."""
    known = [e.body.get("errors", {}) for e in entries]
    both = [x for x in known if "torch" in x and "opwright" in x]
    return sum(x["opwright"] <= x["torch"] * 1.0001 for x in both), len(both)


def reasons(results: Results) -> list[str]:
    """Why numbers are missing."""
    out = []
    for e in results.entries():
        where = f"{e.title}, {e.body['element']}, {e.body['direction']}"
        if e.failed:
            out.append(f"{where}: {e.failed}")
        for r in e.body.get("rows", ()):
            if r["median_s"] is None:
                out.append(f"{where}: {r['impl']} ({r['mode']}): {r['note']}")
    return out


def doubts(results: Results) -> list[str]:
    """Numbers that were taken under load, or by a rival that left threads idle."""
    out = []
    for e in results.entries():
        for r in e.body.get("rows", ()):
            if r["median_s"] is not None and r["note"]:
                out.append(f"{e.title}, {e.body['element']}, {e.body['direction']}: {r['note']}")
    return list(dict.fromkeys(out))


def text(results: Results) -> str:
    """All tables for a terminal."""
    parts = ["\n".join(summary(results))]
    for title, entries in sections(results):
        table = lines(entries, results)
        parts.append("\n".join([title, *grid(table), *_remarks(entries, results)]))
    missing = reasons(results)
    if missing:
        parts.append(f"{len(missing)} numbers are missing; bench.md says why")
    return "\n\n".join(parts)


def _remarks(entries: Sequence[Entry], results: Results) -> list[str]:
    out = []
    behind = lost(entries, results)
    if behind:
        out.append("ahead of us beyond the floor: " + "; ".join(behind))
    better, known = errors(entries)
    if known:
        out.append(f"error against f64 at most PyTorch's: {better} of {known}")
    return out


def markdown(results: Results) -> str:
    """The page beside the results."""
    out = ["# Operators against what people have", "", *_list(summary(results)), ""]
    out += ["`out` fills outputs that are given, `fresh` allocates them in every call, `packed` has"
            " weights laid out ahead.", ""]  # fmt: skip
    for title, entries in sections(results):
        out += [f"## {title[0].upper()}{title[1:]}", "", *pipes(lines(entries, results)), ""]
        remarks = _remarks(entries, results)
        out += [*_list(remarks), ""] if remarks else []
    chosen = [(e, e.body["winner"]) for e in results.entries() if "winner" in e.body]
    if chosen:
        out += ["## What ran", "", "| pair | schedule | G2 | G3 | G6 |", "|---|---|---|---|---|"]
        for e, w in chosen:
            name = f"{e.title}, {e.body['element']}, {e.body['direction']}"
            gates: Mapping[str, Any] = w["gates"]
            verdicts = " | ".join(str(gates[k]) for k in ("G2", "G3", "G6"))
            out.append(f"| {name} | `{w['schedule']}` | {verdicts} |")
        out.append("")
    for title, found in (("Not measured", reasons(results)), ("Doubtful", doubts(results))):
        out += [f"## {title}", "", *_list(found), ""] if found else []
    return "\n".join(out).rstrip() + "\n"


def _list(items: Iterable[str]) -> list[str]:
    return [f"- {x}" for x in items]


def readme_table(results: Results) -> str:
    """The study's pairs in f32, and one line for everything else."""
    out: list[str] = []
    rest: list[str] = []
    for title, entries in sections(results):
        table = lines(entries, results)
        if title == "the study's pairs, f32, forward":
            out += [*pipes(table), "", *_remarks(entries, results)]
        else:
            means = [f"{h} {v}" for h, v in zip(table[0], table[-1], strict=True) if v][1:]
            rest.append(f"- {title}: geometric means {', '.join(means)}")
    where = results.path.relative_to(results.path.parents[3])
    head = [*summary(results), f"All numbers: [{where.parent}]({where.with_suffix('.md')})."]
    return "\n".join([*_list(head), "", *out, "", *rest]).replace("\n\n\n", "\n\n").strip()


def into_readme(results: Results, path: Path) -> bool:
    """Put the table between its marks; False where there are none."""
    whole = path.read_text(encoding="utf-8")
    before, begin, rest = whole.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        return False
    table = readme_table(results)
    path.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")
    return True
