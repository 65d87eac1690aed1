"""What is known of a candidate before it is timed, as numbers: of its program, of its schedule, and
of what was built of it. Rankers learn from them; nothing here is measured.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from opwright.ir.expr import TRUE, walk
from opwright.ir.tile import Def, For, Load, Store, TileProgram, Value, lanes, statements
from opwright.ir.tile import expressions as expressions_of
from opwright.search.space import Schedule

FEATURES = (
    "kernels", "loads", "stores", "loops", "depth", "dots", "arithmetic", "transcendental", "lanes",
    "widest", "unrolled", "vectors", "scratch", "grids", "masks", "facts",
)  # fmt: skip
_SLOW = frozenset("exp log tanh sin cos erf pow div sqrt rsqrt log1p expm1".split())


def features(program: TileProgram) -> list[float]:
    """Physical features of a program, in the order of FEATURES."""
    n: Counter[str] = Counter()
    n["kernels"], n["facts"] = len(program.kernels), len(program.facts)
    widest, widths = 1, 1.0
    for k in program.kernels:
        n["grids"] += len(k.grid)
        axes = lanes(*k.grid, *expressions_of(k.body))
        for a in axes:
            widest = max(widest, a.extent)
            widths *= a.extent
        for s in statements(k.body):
            if isinstance(s, For):
                n["loops"] += 1
            elif isinstance(s, Store):
                n["stores"] += 1
                n["masks"] += s.mask is not TRUE
            elif isinstance(s, Def):
                _count(s.value, n)
        n["scratch"] += sum(b.role not in ("in", "out") for b in k.buffers)
        n["depth"] += sum(1 for e in expressions_of(k.body) for _ in walk(e))
    for p in program.placements:
        n["unrolled"] += sum(v == "unroll" for v in p.axes.values())
        n["vectors"] += sum(v[1] for v in p.axes.values() if isinstance(v, tuple))
    n["lanes"] = round(math.log2(max(widths, 1.0)))
    n["widest"] = widest
    return [float(n[name]) for name in FEATURES]


def _count(v: Value, n: Counter[str]) -> None:
    if isinstance(v.attr, Load):
        n["loads"] += 1
        n["masks"] += v.attr.mask is not TRUE
    elif v.op == "dot":
        n["dots"] += 1
    else:
        n["transcendental" if v.op in _SLOW else "arithmetic"] += 1


def decisions(schedule: Schedule, names: Sequence[str]) -> list[float]:
    """A schedule's numbers under names; -1 where it has none."""
    held: dict[str, float] = {}
    for name, v in schedule.decisions:
        parts = v if isinstance(v, tuple) else (v,)
        for at, x in enumerate(parts):
            number = float(x) if isinstance(x, int | float) else float(sum(map(ord, str(x))) % 97)
            held[f"{schedule.strategy}.{name}.{at}"] = number
    return [held.get(name, -1.0) for name in names]


def names_of(schedules: Sequence[Schedule]) -> list[str]:
    found: dict[str, None] = {}
    for s in schedules:
        for name, v in s.decisions:
            for at in range(len(v) if isinstance(v, tuple) else 1):
                found[f"{s.strategy}.{name}.{at}"] = None
    return list(found)


# of the hottest loop, for each element that a trip moves; then of all of a kernel
EACH = (
    "instructions", "packed", "scalar", "fma", "divisions", "operations", "loads", "stores",
    "gathers", "scatters", "spills", "reloads", "shuffles", "converts", "prefetches", "streams",
    "calls",
)  # fmt: skip
CAUSES = ("front", "arithmetic", "loads", "stores", "shuffles", "divisions", "dependence")
BUILT = (
    "width", "depth", "elements", *(f"{n}_each" for n in EACH), *(f"cycles_{n}" for n in CAUSES),
    "cycles", "loops", "code", "all_packed", "all_spills", "all_calls",
)  # fmt: skip
WORDS = 256  # places that words of a text are hashed into


def built(build: Mapping[str, Any]) -> list[float]:
    """Numbers of what was built, in the order of BUILT; nan where a disassembly is absent."""
    loops = [x for x in build.get("loops", ()) if isinstance(x, Mapping) and "cycles" in x]
    mix = build.get("instructions", {})
    if not loops or not mix:
        return [math.nan] * len(BUILT)
    hot = loops[0]
    per = max(float(hot["elements"]), 1.0)
    cycles = [float(hot["cycles"].get(n, 0.0)) / per for n in CAUSES]
    # all passes over the elements: the loops that are as deep as the hottest one
    whole = sum(
        max(x["cycles"].values(), default=0.0) / max(float(x["elements"]), 1.0)
        for x in loops
        if x["depth"] == hot["depth"]
    )
    return [
        float(hot["width"]),
        float(hot["depth"]),
        float(hot["elements"]),
        *(float(hot[n]) / per for n in EACH),
        *cycles,
        whole,
        float(len(loops)),
        math.log2(1.0 + float(mix.get("all", 0))),
        float(mix.get("packed", 0)),
        float(mix.get("spills", 0)),
        float(mix.get("calls", 0)),
    ]


def hashed(text: str) -> list[float]:
    """A text as counts of its words and of pairs of them, hashed, in logarithms."""
    found = re.findall(r"[A-Za-z_]\w*|\d+|[^\s\w]", text)
    out = [0.0] * WORDS
    for word in [*found, *(f"{a} {b}" for a, b in pairwise(found))]:
        out[zlib.crc32(word.encode()) % WORDS] += 1.0
    return [math.log1p(x) for x in out]
