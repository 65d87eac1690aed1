"""What best means for an operator: weighted terms relative to candidate 0, hard bounds, one number.

Score 1 is candidate 0, smaller is better. A metric that is not measured here is dropped with a note
and the other weights are scaled up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from opwright.ir.op import Objective
from opwright.search.measure import geometric_mean

Metrics = Mapping[str, Mapping[str, float]]
MEASURED = ("latency", "memory", "error", "compile_time", "code_size")
# a metric whose best value is 0 needs a unit for ratios: 64 KiB of scratch, a hundredth of
# tolerance
_UNIT = {"memory": 65536.0, "error": 0.01, "compile_time": 0.05, "code_size": 4096.0}
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
}


def within(value: float, comparison: str, limit: float) -> bool:
    """Whether a metric keeps a bound of `subject to`."""
    return COMPARISONS[comparison](value, limit)


@dataclass(frozen=True, slots=True)
class Score:
    """The value of the objective, inf when a hard bound is broken; `reason` names the bound."""

    value: float
    reason: str = ""

    @property
    def feasible(self) -> bool:
        return math.isfinite(self.value)


def idle(metrics: Metrics) -> bool:
    """Whether a candidate's facts exclude every workload: another one runs in its place, and its
    times would be those of the other."""
    return bool(metrics) and all(values.get("delegated") for values in metrics.values())


class Scorer:
    """Scores metrics against candidate 0's; `weights` are those of the measured workloads."""

    def __init__(self, objective: Objective, weights: Mapping[str, float]) -> None:
        self.weights = weights
        self.notes: list[str] = []
        terms = [(m, w) for m, w in objective.terms if m in MEASURED and w > 0]
        for m, _ in objective.terms:
            if m not in MEASURED:
                self.notes.append(f"{m} is not measured here: its term is dropped, others grow")
        self.terms = terms or [("latency", 1.0)]
        self.bounds = []
        for m, c, v in objective.bounds:
            if m in MEASURED and c in COMPARISONS:
                self.bounds.append((m, c, v))
            else:
                self.notes.append(f"{m} is not measured here: its bound {c} {v:g} is not checked")

    def note(self, text: str) -> None:
        """Say once what of the objective does not count."""
        if text not in self.notes:
            self.notes.append(text)

    def score(self, metrics: Metrics, base: Metrics) -> Score:
        """The objective of a candidate with these metrics, relative to candidate 0's."""
        names = [n for n in self.weights if n in metrics and n in base]
        if not names:
            return Score(math.inf, "nothing was measured")
        missing = [n for n in self.weights if n in base and n not in metrics]
        if missing:
            return Score(math.inf, f"nothing serves {missing[0]}: the facts exclude it")
        for name in names:
            for m, c, limit in self.bounds:
                value = metrics[name].get(m)
                if value is None:
                    self.note(f"{m} is not measured here: its bound {c} {limit:g} is not checked")
                elif not within(value, c, limit):
                    return Score(
                        math.inf, f"{m} on {name} is {value:g}, the bound is {c} {limit:g}"
                    )
        known = [(m, w) for m, w in self.terms if all(m in base[n] for n in names)]
        for m, _ in self.terms:
            if m not in dict(known):
                self.note(f"{m} is not measured here: its term is dropped, others grow")
        known = known or [("latency", 1.0)]
        total = sum(w for _, w in known)
        costs = []
        for name in names:
            cost = 0.0
            for m, w in known:
                unit = _UNIT.get(m, 0.0)
                ratio = (metrics[name][m] + unit) / (base[name][m] + unit)
                cost += w / total * ratio
            costs.append(cost)
        return Score(geometric_mean(costs, [self.weights[n] for n in names]))
