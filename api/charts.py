"""Charts as SVG text, drawn here: no script, no font, no file from anywhere.

Colours are classes that the page's style gives light and dark values. Every text that comes from
outside passes `_text`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 44


@dataclass(frozen=True, slots=True)
class Mark:
    """A point of a chart: `kind` is its class, `label` what it says when one points at it."""

    x: float
    y: float
    kind: str
    label: str


def _text(value: object, limit: int = 200) -> str:
    """A stranger's text, cut and escaped, without characters that XML does not allow."""
    text = str(value)
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    clean = "".join(c if c.isprintable() else " " for c in text)
    return escape(clean, quote=True)


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def short(value: float) -> str:
    """A number in three digits with a magnitude."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "-"
    for unit, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class Axis:
    """A scale from values to pixels; logarithmic where `log`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        a, b, v = self.low, self.high, value
        if self.log:
            a, b, v = math.log(a), math.log(b), math.log(max(value, 1e-300))
        share = (v - a) / (b - a) if b > a else 0.5
        return self.start + min(max(share, -0.02), 1.02) * (self.end - self.start)

    def ticks(self) -> list[float]:
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            steps = (1, 2, 5) if last - first <= 2 else (1,)
            found = [m * 10.0**e for e in range(first, last + 1) for m in steps]
            inside = [v for v in found if self.low * 0.999 <= v <= self.high * 1.001]
            return inside if len(inside) > 1 else [self.low, self.high]
        span = self.high - self.low or 1.0
        step = 10.0 ** math.floor(math.log10(span))
        step *= next((f for f in (0.1, 0.2, 0.5, 1, 2) if span / (step * f) <= 6), 2)
        count = math.floor(self.high / step) - math.ceil(self.low / step)
        return [(math.ceil(self.low / step) + i) * step for i in range(count + 1)]


def scale(values: Iterable[float], start: float, end: float, log: bool) -> Axis:
    """An axis that holds the values with a little room."""
    found = [v for v in values if math.isfinite(v) and (not log or v > 0)]
    low, high = min(found, default=1.0), max(found, default=1.0)
    if log:
        low, high = (low / 2, high * 2) if low == high else (low / 1.15, high * 1.15)
    elif low == high:
        low, high = low - 1, high + 1
    else:
        room = (high - low) * 0.04
        low, high = low - room, high + room
    return Axis(low, high, start, end, log)


def _frame(x: Axis, y: Axis, x_name: str, y_name: str, height: float = HEIGHT) -> list[str]:
    out = []
    for v in y.ticks():
        at = _n(y.at(v))
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        out.append(
            f'<text class="tick" x="{LEFT - 6}" y="{at}" dy="4" text-anchor="end">{short(v)}</text>'
        )
    for v in x.ticks():
        at = _n(x.at(v))
        low = height - BOTTOM
        out.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{TOP}" y2="{low}"/>')
        out.append(
            f'<text class="tick" x="{at}" y="{low + 16}" text-anchor="middle">{short(v)}</text>'
        )
    middle = _n((TOP + height - BOTTOM) / 2)
    out.append(
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{height - 6}" '
        f'text-anchor="middle">{_text(x_name)}</text>'
    )
    out.append(
        f'<text class="axis" x="14" y="{middle}" text-anchor="middle" '
        f'transform="rotate(-90 14 {middle})">{_text(y_name)}</text>'
    )
    return out


def _dot(m: Mark, x: Axis, y: Axis, radius: float = 4.5) -> str:
    a, b = _n(x.at(m.x)), _n(y.at(m.y))
    title = f"<title>{_text(m.label)}</title>"
    if m.kind == "failed":
        return (
            f'<g class="failed" transform="translate({a} {b})">{title}'
            '<path d="M-3.5 -3.5L3.5 3.5M-3.5 3.5L3.5 -3.5"/></g>'
        )
    return f'<circle class="{m.kind}" cx="{a}" cy="{b}" r="{radius}">{title}</circle>'


def _line(points: Sequence[tuple[float, float]], kind: str) -> str:
    text = " ".join(f"{_n(a)},{_n(b)}" for a, b in points)
    return f'<polyline class="{kind}" points="{text}"/>' if len(points) > 1 else ""


def _svg(parts: Iterable[str], name: str, width: float = WIDTH, height: float = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {_n(width)} {_n(height)}" role="img" aria-label="{_text(name)}">'
        + "".join(parts)
        + "</svg>"
    )


def progress(marks: Sequence[Mark]) -> str:
    """Scores over evaluations with the best so far; failures lie at the top edge."""
    good = [m for m in marks if m.kind != "failed"]
    x = scale([0, *(m.x for m in marks)], LEFT, WIDTH - RIGHT, False)
    y = scale([m.y for m in good] or [1.0], HEIGHT - BOTTOM, TOP + 14, True)
    best = math.inf
    step: list[tuple[float, float]] = []
    for m in sorted(good, key=lambda m: m.x):
        if m.y < best:
            if step:
                step.append((x.at(m.x), step[-1][1]))
            best = m.y
            step.append((x.at(m.x), y.at(best)))
    if step:
        step.append((float(WIDTH - RIGHT), step[-1][1]))
    failed = [
        f'<g transform="translate(0 {_n(TOP + 4 - y.at(y.high))})">'
        + _dot(Mark(m.x, y.high, "failed", m.label), x, y)
        + "</g>"
        for m in marks
        if m.kind == "failed"
    ]
    body = [*_frame(x, y, "candidate", "score, 1 is candidate 0"), _line(step, "best")]
    return _svg([*body, *failed, *(_dot(m, x, y) for m in good)], "progress of the search")


def pareto(marks: Sequence[Mark], x_name: str, y_name: str) -> str:
    """Two metrics of which both are better when smaller, with the front of the best."""
    y_log = bool(marks) and min(m.y for m in marks) > 0
    x = scale([m.x for m in marks], LEFT, WIDTH - RIGHT, True)
    y = scale([m.y for m in marks], HEIGHT - BOTTOM, TOP, y_log)
    front: list[Mark] = []
    for m in sorted(marks, key=lambda m: (m.x, m.y)):
        if not front or m.y < front[-1].y:
            front.append(m)
    line: list[tuple[float, float]] = []
    for m in front:
        if line:
            line.append((x.at(m.x), line[-1][1]))
        line.append((x.at(m.x), y.at(m.y)))
    body = [*_frame(x, y, x_name, y_name), _line(line, "front")]
    return _svg([*body, *(_dot(m, x, y) for m in marks)], "Pareto front")


def roofline(
    marks: Sequence[Mark], bandwidth: float | None, peak: float | None, labels: Mapping[str, float]
) -> str:
    """Operations per second over operations per compulsory byte, below the machine's ceilings."""
    xs = [m.x for m in marks]
    ys = [m.y for m in marks]
    if bandwidth and peak:
        xs.append(peak / bandwidth)
    if peak:
        ys.append(peak)
    x0 = scale(xs, LEFT, WIDTH - RIGHT, True)
    x = Axis(x0.low / 2, x0.high * 2, LEFT, WIDTH - RIGHT, True)
    if bandwidth:
        ys += [bandwidth * v for v in (min(m.x for m in marks),)] if marks else []
    y = scale(ys, HEIGHT - BOTTOM, TOP, True)
    roof: list[tuple[float, float]] = []
    if bandwidth:
        steps = [x.low * (x.high / x.low) ** (i / 60) for i in range(61)]
        top = peak or math.inf
        roof = [
            (x.at(v), y.at(min(bandwidth * v, top)))
            for v in steps
            if y.low <= min(bandwidth * v, top) <= y.high * 1.01
        ]
    body = _frame(x, y, "operations per compulsory byte", "operations per second")
    over = f'y="{TOP + 10}" text-anchor="middle"'
    names = [
        f'<text class="tick" x="{_n(x.at(at))}" {over}>{_text(n, 24)}</text>'
        for n, at in labels.items()
    ]
    return _svg([*body, _line(roof, "roof"), *names, *(_dot(m, x, y) for m in marks)], "roofline")


@dataclass(frozen=True, slots=True)
class Leaf:
    """A node of a tree: what it is called, its class, what it says, what is below it."""

    number: int
    name: str
    kind: str
    label: str
    parent: int | None


def tree(nodes: Sequence[Leaf]) -> str:
    """A tree from left to right; nodes without a parent hang at one root."""
    known = {n.number for n in nodes}
    below: dict[int | None, list[Leaf]] = {}
    for n in nodes:
        # a parent comes before what varies it, so that nothing hangs below itself
        above = n.parent if n.parent in known and (n.parent or 0) < n.number else None
        below.setdefault(above, []).append(n)
    place: dict[int, tuple[int, float]] = {}
    row = 0

    order: list[tuple[Leaf, int]] = []
    stack = [(n, 0) for n in reversed(below.get(None, []))]
    while stack:
        n, depth = stack.pop()
        order.append((n, depth))
        stack += [(m, depth + 1) for m in reversed(below.get(n.number, []))]
    for n, depth in order:
        place[n.number] = (depth, float(row))
        row += 1
    deep = max((d for d, _ in place.values()), default=0)
    gap, line = min(150.0, 460.0 / max(deep, 1)), 19.0
    height = row * line + 16

    def at(number: int) -> tuple[float, float]:
        depth, level = place[number]
        return 20 + depth * gap, 14 + level * line

    parts = []
    for n, depth in order:
        a, b = at(n.number)
        if depth and n.parent is not None:
            c, d = at(n.parent)
            parts.append(f'<path class="edge" d="M{_n(c)} {_n(d)}V{_n(b)}H{_n(a)}"/>')
    for n, _ in order:
        a, b = at(n.number)
        parts.append(
            f"<g><title>{_text(n.label, 400)}</title>"
            f'<circle class="{n.kind}" cx="{_n(a)}" cy="{_n(b)}" r="6"/>'
            f'<text class="node" x="{_n(a + 11)}" y="{_n(b)}" dy="4">{_text(n.name, 72)}</text></g>'
        )
    return _svg(parts, "search tree", WIDTH, height)
