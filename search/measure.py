"""What samples say: medians, spreads, noise, and contenders of this process measured side by side.

The loop itself is in `search/rounds.py`. `out` mode reuses outputs, `fresh` allocates them in every
call; the two are never mixed in one comparison.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opwright.search.rounds import Samples, Settings, interleave, median


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds per call: median, smallest, half the interquartile range over the median.

    `share` is CPU time over wall time; `notes` say what makes the number doubtful.
    """

    median: float
    least: float
    spread: float
    samples: int
    share: float
    notes: tuple[str, ...] = ()


def timing(name: str, s: Samples, threads: int, load: float = 0.0) -> Timing:
    """The statistics of one contender's samples."""
    wall = sorted(s.wall)
    if not wall:
        raise ValueError(f"{name} has no samples")
    middle = median(wall)
    n = len(wall)
    spread = (wall[(3 * n - 1) // 4] - wall[n // 4]) / (2 * middle) if middle > 0 else 0.0
    share = median(s.share)
    notes = []
    if s.unparallel and threads > 1:
        notes.append(f"{name} used {share:.1f} of {threads} threads in every sample")
    if s.rejected > 2 * n:
        notes.append(f"{name}: {s.rejected} samples were rejected, the machine was busy")
    if load > threads + 1.5:
        notes.append(f"the machine's load was {load:.1f}")
    return Timing(middle, wall[0], spread, n, share, tuple(notes))


def timings(reply: Mapping[str, Any], threads: int) -> dict[str, Timing]:
    """Timings from a worker's reply; ValueError when its numbers are no times."""
    out = {}
    for name, s in reply["samples"].items():
        wall = [float(x) for x in s["wall"]]
        if not all(math.isfinite(x) and x > 0 for x in wall):
            raise ValueError(f"{name}: a sample is no time")
        samples = Samples(wall, [float(x) for x in s["share"]], int(s["rejected"]))
        samples.unparallel = bool(s["unparallel"])
        out[name] = timing(name, samples, threads, float(reply["load"]))
    return out


def compare(
    contenders: Mapping[str, Callable[[], object]],
    threads: int,
    rounds: int = 9,
    block: float = 0.01,
    limit: float = 60.0,
    rare: Sequence[str] = (),
) -> dict[str, Timing]:
    """Time callables of this process side by side, in interleaved rounds."""

    def repeated(call: Callable[[], object]) -> Callable[[int], None]:
        def repeat(count: int) -> None:
            for _ in range(count):
                call()

        return repeat

    settings = Settings(rounds, block, limit=limit, threads=threads, rare=tuple(rare))
    found = interleave({n: repeated(c) for n, c in contenders.items()}, settings)
    load = os.getloadavg()[0]
    return {n: timing(n, s, threads, load) for n, s in found.items()}


def noise_floor(call: Callable[[], object], threads: int, rounds: int = 9) -> float:
    """How far apart two measurements of one contender lie: |log ratio| of an A/A comparison."""
    found = compare({"a": call, "b": call}, threads, rounds)
    return abs(math.log(found["a"].median / found["b"].median))


def geometric_mean(values: Sequence[float], weights: Sequence[float] | None = None) -> float:
    """Weighted geometric mean; 1 of nothing."""
    weights = weights if weights is not None else [1.0] * len(values)
    total = sum(weights)
    if not values or total <= 0:
        return 1.0
    logs = [w * math.log(max(v, 1e-300)) for v, w in zip(values, weights, strict=True)]
    return math.exp(sum(logs) / total)
