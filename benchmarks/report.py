"""Tables of timing rows: one line a workload, one column an implementation, ratios to the
package.
"""

from __future__ import annotations

from collections.abc import Sequence

from opwright.compiler.timing import OWN, Row
from opwright.search.measure import geometric_mean

MODES = {"out": "outputs given", "fresh": "outputs allocated in every call"}


def implementations(rows: Sequence[Row]) -> list[str]:
    """All of them but the package's own, in order of appearance."""
    return [i for i in dict.fromkeys(r.impl for r in rows) if i != OWN]


def ratios(rows: Sequence[Row], mode: str) -> dict[str, list[float]]:
    """Time of an implementation over the package's, workload by workload."""
    found: dict[str, list[float]] = {}
    own = {(r.op, r.workload): r.median_s for r in rows if r.impl == OWN and r.mode == mode}
    for r in rows:
        base = own.get((r.op, r.workload))
        if r.impl != OWN and r.mode == mode and base and r.median_s:
            found.setdefault(r.impl, []).append(r.median_s / base)
    return found


def table(rows: Sequence[Row], mode: str) -> list[str]:
    """Lines of one mode: milliseconds of the package, then every other as a ratio to it."""
    others = [i for i in implementations(rows) if any(r.impl == i and r.mode == mode for r in rows)]
    lines = [["operator", "workload", OWN + " ms", *others]]
    calls = {(r.op, r.workload, r.impl): r for r in rows if r.mode == mode}
    for op, workload in dict.fromkeys((r.op, r.workload) for r in rows):
        own = calls.get((op, workload, OWN))
        if own is None or own.median_s is None:
            continue
        line = [op, workload, f"{own.median_s * 1e3:.3g}"]
        for other in others:
            r = calls.get((op, workload, other))
            line.append(f"{r.median_s / own.median_s:.2f}x" if r and r.median_s else "-")
        lines.append(line)
    if len(lines) == 1:
        return []
    means = ratios(rows, mode)
    last = ["geometric mean", "", ""]
    last += [f"{geometric_mean(means[o]):.2f}x" if o in means else "-" for o in others]
    lines.append(last)
    widths = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]
    out = []
    for line in lines:
        left = [cell.ljust(w) for cell, w in zip(line[:2], widths[:2], strict=True)]
        right = [cell.rjust(w) for cell, w in zip(line[2:], widths[2:], strict=True)]
        out.append("  ".join([*left, *right]).rstrip())
    return out


def text(rows: Sequence[Row]) -> str:
    """Both modes, apart, and why numbers are missing or doubtful."""
    parts = []
    for mode, title in MODES.items():
        lines = table(rows, mode)
        if lines:
            head = f"{title}: time of others over the package's, larger is a win for the package"
            parts.append("\n".join([head, *lines]))
    missing = [f"{r.op} {r.workload}, {r.impl} ({r.mode}): {r.note}" for r in rows
               if r.note and r.median_s is None]  # fmt: skip
    if missing:
        parts.append("\n".join(["not measured", *dict.fromkeys(missing)]))
    doubtful = [r for r in rows if r.note and r.median_s is not None]
    if doubtful:
        worst = max(doubtful, key=lambda r: len(r.note))
        parts.append(
            f"{len(doubtful)} of {len(rows)} numbers are doubtful, measure again on a quiet"
            f" machine; for example {worst.op} {worst.workload}: {worst.note}"
        )
    return "\n\n".join(parts)
