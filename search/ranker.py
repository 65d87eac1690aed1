"""Ranking schedules before they are measured: a learned model on physical features, and how good it
and other predictions were on candidates that came after they were made.

The model (LightGBM, an extra) learns again after every few measurements and is asked only while its
ranks of what came next agreed with the clock; otherwise order is by chance. It never excludes a
space. Where LightGBM is absent nothing is ranked.
"""

from __future__ import annotations

import importlib.util
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from opwright.ir.expr import TRUE, walk
from opwright.ir.tile import Def, For, Load, Store, TileProgram, Value, lanes, statements
from opwright.ir.tile import expressions as expressions_of
from opwright.search.propose import Proposal, Proposer, View
from opwright.search.space import IllegalSchedule, Schedule, parse, space_of

EVERY = 16  # measurements between two fits
LEAST = 16  # measurements before the first
WINDOW = 32  # latest predictions that decide whether the model is asked
GOOD = 0.2  # rank correlation below which it is not
MORE = 4  # schedules drawn for each that is measured
BY_CHANCE = 0.1
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


def kendall(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's rank correlation, pairs that are equal in either left out; nan of none."""
    agree = total = 0
    for i in range(len(a)):
        for j in range(i):
            x = (a[i] - a[j]) * (b[i] - b[j])
            if x:
                total += 1
                agree += 1 if x > 0 else -1
    return agree / total if total else math.nan


@dataclass(slots=True)
class Calibration:
    """Predictions made before a candidate was measured, and what was measured then."""

    rows: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def note(self, who: str, predicted: float, measured: float) -> None:
        self.rows.setdefault(who, []).append((predicted, measured))

    def tau(self, who: str) -> float:
        """How well the ranks of somebody's latest predictions agreed with the clock."""
        rows = self.rows.get(who, [])[-WINDOW:]
        return kendall([p for p, _ in rows], [m for _, m in rows])

    def table(self) -> list[str]:
        """A line for each who predicted."""
        if not self.rows:
            return []
        out = [f"{'predictions by':<16}{'count':>6}{'rank correlation':>18}"]
        for who in sorted(self.rows):
            out.append(f"{who:<16}{len(self.rows[who]):>6}{self.tau(who):>18.2f}")
        return out


def available() -> bool:
    """Whether the extra that learns is installed."""
    return importlib.util.find_spec("lightgbm") is not None


@dataclass(slots=True)
class Learned:
    """Gradient-boosted trees that rank candidates of one operator and device by their times."""

    seed: int = 0
    _model: Any = None
    _names: list[str] = field(default_factory=list)

    def fit(self, rows: Sequence[tuple[Schedule, TileProgram, float]]) -> None:
        """Learn ranks of measured times."""
        import lightgbm
        import numpy as np

        self._names = names_of([s for s, _, _ in rows])
        x = np.array([self._row(s, p) for s, p, _ in rows])
        order = np.argsort(np.argsort([-t for _, _, t in rows]))
        grades = (order * 31 // max(len(rows) - 1, 1)).astype(int)
        settings = {
            "objective": "lambdarank", "num_leaves": 7, "min_data_in_leaf": 2, "num_threads": 1,
            "learning_rate": 0.1, "seed": self.seed, "deterministic": True, "verbose": -1,
            "force_row_wise": True, "label_gain": list(range(32)), "min_data_in_bin": 1,
        }  # fmt: skip
        data = lightgbm.Dataset(x, label=grades, group=[len(rows)])
        model = lightgbm.train(settings, data, num_boost_round=60)
        self._model = model

    def _row(self, s: Schedule, p: TileProgram) -> list[float]:
        return [*features(p), *decisions(s, self._names)]

    def scores(self, rows: Sequence[tuple[Schedule, TileProgram]]) -> list[float]:
        """Higher is faster; only their order counts."""
        import numpy as np

        if self._model is None or not rows:
            return [0.0] * len(rows)
        found = self._model.predict(np.array([self._row(s, p) for s, p in rows]))
        return [float(v) for v in found]


@dataclass(slots=True)
class Ranked:
    """Another proposer's schedules, more of them, the ones that should be fastest first; a tenth by
    chance. Its order is that proposer's while the model is unproved."""

    inner: Proposer
    calibration: Calibration = field(default_factory=Calibration)
    seed: int = 0
    _model: Learned | None = None
    _fitted: int = 0
    _predicted: dict[str, float] = field(default_factory=dict)
    _noted: set[int] = field(default_factory=set)
    _programs: dict[str, TileProgram] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"ranked({self.inner.name})" if available() else self.inner.name

    def propose(self, view: View, count: int, rng: Random) -> list[Proposal]:
        if not available():
            return self.inner.propose(view, count, rng)
        self._learn(view)
        if self._model is None:
            return self.inner.propose(view, count, rng)
        drawn = self.inner.propose(view, count * MORE, rng)
        rows = [(p.schedule, made) for p in drawn if (made := self._program(view, p.schedule))]
        scores = dict(zip((s.text for s, _ in rows), self._model.scores(rows), strict=True))
        self._predicted |= scores
        tau = self.calibration.tau("learned model")
        if not tau >= GOOD:  # also where nothing is known yet
            return drawn[:count]
        best = sorted(drawn, key=lambda p: -scores.get(p.schedule.text, -math.inf))
        chance = [p for p in best[count:] if rng.random() < BY_CHANCE]
        return [*best[: count - 1], *chance[:1], *best[count - 1 :]][:count]

    def _program(self, view: View, schedule: Schedule) -> TileProgram | None:
        if schedule.text not in self._programs:
            try:
                made = space_of(view.spaces, schedule).instantiate(schedule)
            except (IllegalSchedule, ValueError):
                return None
            self._programs[schedule.text] = made
        return self._programs[schedule.text]

    def _learn(self, view: View) -> None:
        """Note what came of predictions; fit again where enough is new."""
        for number, score in view.scores.items():
            if number in self._noted:
                continue
            self._noted.add(number)
            text = next(c.schedule for c in view.candidates if c.number == number)
            if text in self._predicted:
                self.calibration.note("learned model", -self._predicted[text], score)
        measured = [c for c in view.candidates if c.number in view.scores]
        if len(measured) < LEAST or len(measured) - self._fitted < EVERY:
            return
        rows = []
        for c in measured:
            schedule = parse(c.schedule)
            made = self._program(view, schedule)
            if made is not None:
                rows.append((schedule, made, view.scores[c.number]))
        if len(rows) < LEAST:
            return
        self._model = Learned(self.seed)
        self._model.fit(rows)
        self._fitted = len(measured)
