"""Plots of what was measured, as SVG files that need nothing else: ratios to rivals, and shares of
the machine's limits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from opwright.benchmarks.report import COLUMNS, columns, floor_of, sections
from opwright.benchmarks.results_file import Entry, Results, slug

WIDTH, LEFT, RIGHT, ROW, TOP = 820, 230, 24, 26, 62
COLOURS = {
    ("torch", "out"): "#c0392b",
    ("torch", "fresh"): "#e08e79",
    ("torch.compile", "fresh"): "#d68910",
    ("jax", "fresh"): "#7d3c98",
    ("onnxruntime", "out"): "#1f618d",
    ("onnxruntime", "packed"): "#148f77",
    ("onnxruntime", "fresh"): "#85c1e9",
}
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#222}.t{font-size:14px;font-weight:600}"
    ".g{stroke:#ddd}.one{stroke:#222}.f{fill:#eee}.b{fill:#2e86c1}svg{background:#fff}"
)


def _n(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def _page(parts: Sequence[str], title: str, height: float) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {_n(height)}" role="img">'
    name = escape(title)
    top = f"<title>{name}</title><style>{STYLE}</style>"
    back = f'<rect width="{WIDTH}" height="{_n(height)}" fill="#fff"/>'
    label = f'<text class="t" x="12" y="20">{name}</text>'
    return "".join([head, top, back, label, *parts, "</svg>\n"])


def _name(e: Entry, y: float) -> str:
    return f'<text x="{LEFT - 10}" y="{_n(y + 4)}" text-anchor="end">{escape(e.title)}</text>'


def ratios(title: str, entries: Sequence[Entry], results: Results) -> str:
    """Every rival as a dot at its time over ours, on a logarithmic scale; the floor as a band."""
    found = [x for e in entries for _, _, x in e.rivals()]
    low, high = min([0.5, *found]) / 1.1, max([2.0, *found]) * 1.1
    span = math.log(high / low)

    def at(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(x / low) / span

    height = TOP + ROW * len(entries) + 30
    parts = []
    ticks = [x for x in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if low <= x <= high]
    for x in ticks:
        kind = "one" if x == 1 else "g"
        parts.append(
            f'<line class="{kind}" x1="{_n(at(x))}" x2="{_n(at(x))}" y1="{TOP - 8}" '
            f'y2="{height - 24}"/><text x="{_n(at(x))}" y="{height - 8}" '
            f'text-anchor="middle">{x:g}x</text>'
        )
    x = float(LEFT)
    for heading, impl, mode in columns(entries):
        parts.append(
            f'<circle cx="{_n(x)}" cy="40" r="5" fill="{COLOURS[impl, mode]}"/>'
            f'<text x="{_n(x + 9)}" y="44">{heading}</text>'
        )
        x += 9 + 6.3 * len(heading) + 14
    order = {(i, m): heading for heading, i, m in COLUMNS}
    for n, e in enumerate(entries):
        y = TOP + ROW * (n + 0.5)
        f = floor_of(e, results)
        width = at(f) - at(1 / f)
        band = f'x="{_n(at(1 / f))}" width="{_n(width)}" y="{_n(y - 10)}" height="20"'
        parts.append(f'<rect class="f" {band}/>{_name(e, y)}')
        for impl, mode, ratio in e.rivals():
            if (impl, mode) in order:
                label = escape(f"{e.title}: {order[impl, mode]} {ratio:.2f}x")
                parts.append(
                    f'<circle cx="{_n(at(ratio))}" cy="{_n(y)}" r="5" fill-opacity=".8" '
                    f'fill="{COLOURS[impl, mode]}"><title>{label}</title></circle>'
                )
    return _page(parts, f"time over ours: {title}", height)


def shares(title: str, entries: Sequence[Entry]) -> str:
    """A bar for every pair: what the machine's limits allow over what was measured."""
    known = [(e, e.share) for e in entries if e.share is not None]
    height = TOP + ROW * len(known) + 30
    most = max([1.0, *(s[0] for _, s in known)])

    def at(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT - 60) * x / most

    parts = []
    for x in (0, 0.25, 0.5, 0.75, 1):
        parts.append(
            f'<line class="{"one" if x == 1 else "g"}" x1="{_n(at(x))}" x2="{_n(at(x))}" '
            f'y1="{TOP - 8}" y2="{height - 24}"/><text x="{_n(at(x))}" y="{height - 8}" '
            f'text-anchor="middle">{x:.0%}</text>'
        )
    for n, (e, (share, limit)) in enumerate(known):
        y = TOP + ROW * (n + 0.5)
        width = at(share) - LEFT
        parts.append(
            f'{_name(e, y)}<rect class="b" x="{LEFT}" y="{_n(y - 8)}" width="{_n(width)}" '
            f'height="16"/><text x="{_n(at(share) + 6)}" y="{_n(y + 4)}">{share:.0%} {limit}</text>'
        )
    return _page(parts, f"share of the machine's limits: {title}", height)


def write_plots(results: Results, folder: Path) -> list[Path]:
    """Two files a section; their paths."""
    out = []
    for title, entries in sections(results):
        good = [e for e in entries if e.own("out")]
        files = {f"ratios-{slug(title)}.svg": ratios(title, good, results)}
        if any(e.share for e in good):
            files[f"limits-{slug(title)}.svg"] = shares(title, good)
        for name, page in files.items():
            path = folder / name
            path.write_text(page, encoding="utf-8")
            out.append(path)
    return out
