"""Ranking candidates before they are measured: models that learn from numbers and from texts, and
how good these and other predictions were on candidates that came after they were made.

Models learn again after every few measurements. The best of them (LightGBM, an extra, on physical
features; a regression on words) is asked while its ranks of what came next agreed with the clock;
otherwise order is the proposer's. None excludes a space. Without LightGBM nothing is ranked.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from opwright.search.features import decisions, features, hashed, names_of
from opwright.search.propose import Proposal, Proposer, View
from opwright.search.space import IllegalSchedule, Schedule, parse, space_of

EVERY = 16  # measurements between two fits
LEAST = 16  # measurements before the first
WINDOW = 32  # latest predictions that decide whether the model is asked
GOOD = 0.2  # rank correlation below which it is not
MORE = 4  # schedules drawn for each that is measured
BY_CHANCE = 0.1


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


@dataclass(frozen=True, slots=True)
class Known:
    """A candidate as models see it: its schedule, numbers of its program and of what was built of
    it, its text."""

    schedule: Schedule
    program: tuple[float, ...] = ()
    built: tuple[float, ...] = ()
    text: str = ""


class Model(Protocol):
    """Learns from candidates with their times, in groups that are not compared with each other."""

    def fit(self, groups: Sequence[Sequence[tuple[Known, float]]]) -> None: ...

    def scores(self, rows: Sequence[Known]) -> list[float]:
        """Higher is faster; only their order counts."""
        ...


@dataclass(slots=True)
class Learned:
    """Gradient-boosted trees that rank candidates by their times, from numbers. `compiled`: also of
    what was built; `program`: also of the program and the schedule."""

    seed: int = 0
    compiled: bool = False
    program: bool = True
    _model: Any = None
    _names: list[str] = field(default_factory=list)

    def fit(self, groups: Sequence[Sequence[tuple[Known, float]]]) -> None:
        """Learn ranks of measured times."""
        import lightgbm
        import numpy as np

        self._names = names_of([k.schedule for rows in groups for k, _ in rows])
        x = np.array([self._row(k) for rows in groups for k, _ in rows])
        grades = [g for rows in groups for g in _grades([t for _, t in rows])]
        settings = {
            "objective": "lambdarank", "num_leaves": 7, "min_data_in_leaf": 2, "num_threads": 1,
            "learning_rate": 0.1, "seed": self.seed, "deterministic": True, "verbose": -1,
            "force_row_wise": True, "label_gain": list(range(32)), "min_data_in_bin": 1,
        }  # fmt: skip
        data = lightgbm.Dataset(x, label=np.array(grades), group=[len(rows) for rows in groups])
        self._model = lightgbm.train(settings, data, num_boost_round=60)

    def _row(self, k: Known) -> list[float]:
        program = [*k.program, *decisions(k.schedule, self._names)] if self.program else []
        return [*program, *(k.built if self.compiled else ())]

    def scores(self, rows: Sequence[Known]) -> list[float]:
        import numpy as np

        if self._model is None or not rows:
            return [0.0] * len(rows)
        return [float(v) for v in self._model.predict(np.array([self._row(k) for k in rows]))]


def _grades(times: Sequence[float]) -> list[int]:
    """Ranks in at most 32 steps, the fastest highest."""
    order = sorted(range(len(times)), key=lambda n: -times[n])
    out = [0] * len(times)
    for place, n in enumerate(order):
        out[n] = place * 31 // max(len(times) - 1, 1)
    return out


@dataclass(slots=True)
class Worded:
    """A ridge regression of the logarithm of times on the words of texts: what ranks where numbers
    of a program say little."""

    weight: float = 4.0
    _mean: Any = None
    _slope: Any = None

    def fit(self, groups: Sequence[Sequence[tuple[Known, float]]]) -> None:
        import numpy as np

        x, y = [], []
        for rows in groups:
            logs = [math.log(max(t, 1e-300)) for _, t in rows]
            middle = sum(logs) / len(logs)
            x += [hashed(_words(k)) for k, _ in rows]
            y += [v - middle for v in logs]
        xs = np.array(x)
        self._mean = xs.mean(axis=0)
        xs = xs - self._mean
        kernel = xs @ xs.T + self.weight * np.eye(len(xs))
        self._slope = xs.T @ np.linalg.solve(kernel, np.array(y))

    def scores(self, rows: Sequence[Known]) -> list[float]:
        import numpy as np

        if self._slope is None or not rows:
            return [0.0] * len(rows)
        x = np.array([hashed(_words(k)) for k in rows]) - self._mean
        return [-float(v) for v in x @ self._slope]


def _words(k: Known) -> str:
    return f"{k.schedule.text}\n{k.text}"


MODELS: Mapping[str, Callable[[int], Model]] = {
    "learned model": lambda seed: Learned(seed),
    "text model": lambda seed: Worded(),
}


@dataclass(slots=True)
class Ranked:
    """Another proposer's schedules, more of them, the ones that should be fastest first; a tenth by
    chance. Of several models the one is asked whose latest predictions ranked best; the order is
    the proposer's while none is good."""

    inner: Proposer
    calibration: Calibration = field(default_factory=Calibration)
    seed: int = 0
    _models: dict[str, Model] = field(default_factory=dict)
    _fitted: int = 0
    _predicted: dict[str, dict[str, float]] = field(default_factory=dict)
    _noted: set[int] = field(default_factory=set)
    _known: dict[str, Known] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"ranked({self.inner.name})" if available() else self.inner.name

    def propose(self, view: View, count: int, rng: Random) -> list[Proposal]:
        if not available():
            return self.inner.propose(view, count, rng)
        self._learn(view)
        if not self._models:
            return self.inner.propose(view, count, rng)
        drawn = self.inner.propose(view, count * MORE, rng)
        rows = [k for p in drawn if (k := self._seen(view, p.schedule)) is not None]
        for who, model in self._models.items():
            found = zip((k.schedule.text for k in rows), model.scores(rows), strict=True)
            self._predicted.setdefault(who, {}).update(found)
        who = self.asked
        if not who:
            return drawn[:count]
        scores = self._predicted[who]
        best = sorted(drawn, key=lambda p: -scores.get(p.schedule.text, -math.inf))
        chance = [p for p in best[count:] if rng.random() < BY_CHANCE]
        return [*best[: count - 1], *chance[:1], *best[count - 1 :]][:count]

    @property
    def asked(self) -> str:
        """The model whose order is followed: the best one, where it is good enough; else none."""
        taus = {who: self.calibration.tau(who) for who in self._models}
        good = {who: tau for who, tau in taus.items() if tau >= GOOD}  # nan where nothing is known
        return max(good, key=lambda who: (good[who], who), default="")

    def _seen(self, view: View, schedule: Schedule) -> Known | None:
        if schedule.text not in self._known:
            try:
                made = space_of(view.spaces, schedule).instantiate(schedule)
            except (IllegalSchedule, ValueError):
                return None
            self._known[schedule.text] = Known(schedule, tuple(features(made)))
        return self._known[schedule.text]

    def _learn(self, view: View) -> None:
        """Note what came of predictions; fit again where enough is new."""
        for number, score in view.scores.items():
            if number in self._noted:
                continue
            self._noted.add(number)
            text = next(c.schedule for c in view.candidates if c.number == number)
            for who, predicted in self._predicted.items():
                if text in predicted:
                    self.calibration.note(who, -predicted[text], score)
        measured = [c for c in view.candidates if c.number in view.scores]
        if len(measured) < LEAST or len(measured) - self._fitted < EVERY:
            return
        rows = []
        for c in measured:
            k = self._seen(view, parse(c.schedule))
            if k is not None:
                rows.append((k, view.scores[c.number]))
        if len(rows) < LEAST:
            return
        for who, make in MODELS.items():
            model = make(self.seed)
            model.fit([rows])
            self._models[who] = model
        self._fitted = len(measured)
