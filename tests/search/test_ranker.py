"""Ranking before measuring: features, learning, what happens where the model is no good."""

from __future__ import annotations

import math
from random import Random

import pytest
from support.operators import scaled
from support.simulated import Simulated, spaces

from opwright.search.features import BUILT, FEATURES, built, features, hashed
from opwright.search.propose import Builtin
from opwright.search.ranker import (
    Calibration,
    Known,
    Learned,
    Ranked,
    Worded,
    available,
    kendall,
)
from opwright.search.run import Budget, search

learns = pytest.mark.skipif(not available(), reason="LightGBM is not installed")


def test_features_are_numbers_of_the_program() -> None:
    plain, tiled = spaces()
    first = features(plain.instantiate(plain.preferred()[0]))
    assert len(first) == len(FEATURES) and first[FEATURES.index("stores")] == 1
    wide = features(tiled.instantiate(tiled.preferred()[0].changed("width", 64)))
    assert wide[FEATURES.index("widest")] == 64 > first[FEATURES.index("widest")]


def test_rank_correlation() -> None:
    assert kendall([1, 2, 3], [10, 20, 30]) == 1 and kendall([1, 2, 3], [3, 2, 1]) == -1
    assert math.isnan(kendall([1.0], [1.0]))


def test_the_table_names_who_predicted() -> None:
    found = Calibration()
    for n in range(5):
        found.note("its author", n, n * n)
    lines = found.table()
    assert "rank correlation" in lines[0] and lines[1].split()[-1] == "1.00"
    assert Calibration().table() == []


@learns
def test_it_learns_what_is_fast() -> None:
    space = spaces()[1]
    rng = Random(3)
    drawn = {s.text: s for s in (space.sample(rng) for _ in range(120))}.values()
    rows = []
    for s in drawn:
        w, d = s["width"], s["depth"]
        assert isinstance(w, int) and isinstance(d, int)
        if w * d <= 512:
            time = 1 + abs(math.log2(w) - 6) + abs(math.log2(d) - 2)
            rows.append((Known(s, tuple(features(space.instantiate(s)))), time))
    model = Learned()
    model.fit([rows[:30]])
    rest = rows[30:]
    found = model.scores([k for k, _ in rest])
    assert kendall([-x for x in found], [t for _, t in rest]) > 0.4


def test_words_are_learned_from() -> None:
    schedule = spaces()[0].preferred()[0]
    rows = [(Known(schedule, text=f"loop {n} of {w}"), 2.0 + (w == "gathers"))
            for n in range(12) for w in ("gathers", "vectors")]  # fmt: skip
    model = Worded()
    model.fit([rows])
    slow, fast = model.scores(
        [Known(schedule, text=f"loop 99 of {w}") for w in ("gathers", "vectors")]
    )
    assert fast > slow and hashed("a b") == hashed("a  b") != hashed("b a")


def test_what_was_built_is_numbers_or_nothing() -> None:
    assert len(built({})) == len(BUILT) and all(map(math.isnan, built({})))
    loop = dict.fromkeys(
        "instructions packed scalar fma divisions operations loads stores gathers scatters spills "
        "reloads shuffles converts prefetches streams calls".split(), 2
    )  # fmt: skip
    loop |= {"width": 64, "depth": 1, "elements": 16.0, "cycles": {"front": 8.0}}  # type: ignore[dict-item]
    found = dict(zip(BUILT, built({"loops": [loop], "instructions": {"all": 7}}), strict=True))
    assert found["fma_each"] == 1 / 8 and found["cycles"] == found["cycles_front"] == 0.5


@learns
def test_a_search_with_it_is_the_same_every_time() -> None:
    made = [
        search(spaces(), scaled(), Simulated(), Budget(48), 3, proposer=Ranked(Builtin()))
        for _ in range(2)
    ]
    first, second = ([r["schedule"] for r in m.table] for m in made)
    assert first == second and len(set(map(str, first))) == len(first)
    assert made[0].winner is not None and made[0].winner.score < 0.2


@learns
def test_a_model_that_is_wrong_is_not_asked() -> None:
    proposer = Ranked(Builtin())
    for n in range(40):
        proposer.calibration.note("learned model", n, -n)
    with_bad = search(spaces(), scaled(), Simulated(), Budget(40), 1, proposer=proposer)
    assert proposer.calibration.tau("learned model") < 0.2 or proposer.asked
    assert with_bad.winner is not None
