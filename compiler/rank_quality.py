"""How good predicted ranks are: of the candidates of one task, on times that were measured.

A task is an operator at one workload on one device; ranks across tasks say nothing, since larger
calls take longer whatever is predicted. A prediction is used to choose where measurements say that
it may be; where there are none, or too few, it is "not usable", and says so.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STATIC = 0.4  # rank correlation of predictions that nothing was measured for
LEARNED = 0.8  # of those that knew some measurements
KNOWN = 64  # how many they knew
TOP = 0.2  # the share of candidates that would be measured
NEAR = 1.2  # how far from the optimum their best may be
LEAST = 16  # candidates of a task below which nothing is said
MEASURED = Path(__file__).resolve().parent.parent / "benchmarks" / "results"


@dataclass(frozen=True, slots=True)
class Measured:
    """A candidate: what was predicted before it was measured, and its time. `features` are what a
    model may learn from."""

    task: str
    predicted: float
    seconds: float
    features: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Quality:
    """Of one task: rank correlations (nan where there is none), the best of the predicted top over
    the optimum, and why it is not usable ("" if it is)."""

    task: str
    count: int
    static: float
    learned: float
    near: float
    why: str

    @property
    def usable(self) -> bool:
        return not self.why

    @property
    def text(self) -> str:
        if not self.count:
            return f"not usable: {self.why}"
        known = "" if math.isnan(self.learned) else f", {self.learned:.2f} after {KNOWN}"
        said = f"rank correlation {self.static:.2f}{known} on {self.count} measured"
        said += f", best of the top fifth {self.near:.2f} of the optimum"
        return said if self.usable else f"not usable: {self.why} ({said})"


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation with mean ranks for ties; nan where either is constant."""
    import numpy as np

    if len(a) < 2:
        return math.nan
    x, y = (_ranks(np.asarray(v, float)) for v in (a, b))
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float((x * x).sum()) * float((y * y).sum()))
    return float((x * y).sum()) / scale if scale else math.nan


def _ranks(v: Any) -> Any:
    import numpy as np

    _, inverse, counts = np.unique(v, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


def regret(predicted: Sequence[float], seconds: Sequence[float], share: float = TOP) -> float:
    """The best time of the share that is predicted to be fastest, over the best of all."""
    count = max(1, math.ceil(share * len(seconds)))
    first = sorted(range(len(seconds)), key=lambda n: (predicted[n], n))[:count]
    return min(seconds[n] for n in first) / min(seconds)


def quality(task: str, rows: Sequence[Measured]) -> Quality:
    """How good predictions were on one task's candidates."""
    good = [r for r in rows if r.seconds > 0 and math.isfinite(r.predicted)]
    if len(good) < LEAST:
        held = f"{len(good)} candidates were measured" if good else "nothing was measured"
        why = f"{held}, {LEAST} are needed" if good else held
        return Quality(task, 0, math.nan, math.nan, math.nan, why)
    predicted, seconds = [r.predicted for r in good], [r.seconds for r in good]
    static, near = spearman(predicted, seconds), regret(predicted, seconds)
    learned = after(good)
    why = ""
    if not static >= STATIC:
        why = f"a rank correlation below {STATIC:g}"
    elif not math.isnan(learned) and learned < LEARNED:
        why = f"a rank correlation below {LEARNED:g} with {KNOWN} measurements"
    elif not near <= NEAR:
        why = f"the best of the top fifth is more than {NEAR:g} of the optimum"
    return Quality(task, len(good), static, learned, near, why)


def after(rows: Sequence[Measured], seed: int = 0) -> float:
    """Rank correlation on the rest of a model that learned from some of the measurements; nan
    where there are too few for both, or what learns is not installed."""
    import numpy as np

    if len(rows) < KNOWN + LEAST or not importlib.util.find_spec("lightgbm"):
        return math.nan
    order = np.random.default_rng(seed).permutation(len(rows))
    x = np.array([[*r.features, math.log(max(r.predicted, 1e-30))] for r in rows])
    y = np.log([r.seconds for r in rows])
    first, rest = order[:KNOWN], order[KNOWN:]
    import lightgbm

    settings = {
        "objective": "regression", "num_leaves": 7, "min_data_in_leaf": 2, "num_threads": 1,
        "learning_rate": 0.08, "seed": seed, "deterministic": True, "verbose": -1,
        "force_row_wise": True, "min_data_in_bin": 1,
    }  # fmt: skip
    data = lightgbm.Dataset(x[first], label=y[first] - y[first].mean())
    model = lightgbm.train(settings, data, num_boost_round=120)
    return spearman([float(v) for v in np.asarray(model.predict(x[rest]))], list(y[rest]))


def measured(target: str, folder: Path = MEASURED) -> dict[str, list[Measured]]:
    """Committed measurements of a target by task: `model.json` of each device's results, with
    `{"target": ..., "rows": [{"task", "predicted_s", "seconds", "features"}]}`."""
    out: dict[str, list[Measured]] = {}
    for path in sorted(folder.glob("*/model.json")):
        data: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if data.get("target") != target:
            continue
        for r in data.get("rows", []):
            row = Measured(
                str(r["task"]),
                float(r["predicted_s"]),
                float(r["seconds"]),
                tuple(float(v) for v in r.get("features", ())),
            )
            out.setdefault(row.task, []).append(row)
    return out
