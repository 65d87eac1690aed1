"""Timing with a fake clock: interleaving, rejection, limits, statistics."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from opwright.search.measure import compare, geometric_mean, timing, timings
from opwright.search.rounds import Samples, Settings, interleave, median


class Machine:
    """A clock that contenders advance; `parallel` is how many CPU seconds pass in one of wall."""

    def __init__(self, parallel: float = 1.0) -> None:
        self.now, self.used, self.parallel = 0.0, 0.0, parallel
        self.order: list[str] = []

    def contender(self, name: str, cost: Callable[[int], float]) -> Callable[[int], None]:
        turn = 0

        def calls(count: int) -> None:
            nonlocal turn
            turn += 1
            self.order.append(name)
            self.now += count * cost(turn)
            self.used += count * cost(turn) * self.parallel

        return calls

    def run(
        self, costs: dict[str, Callable[[int], float]], settings: Settings
    ) -> dict[str, Samples]:
        contenders = {n: self.contender(n, c) for n, c in costs.items()}

        def sleep(seconds: float) -> None:
            self.now += seconds

        return interleave(contenders, settings, lambda: self.now, lambda: self.used, sleep)


def test_samples_are_per_call_and_interleaved() -> None:
    m = Machine()
    found = m.run({"a": lambda t: 1e-3, "b": lambda t: 2e-3}, Settings(rounds=4, block=0.01))
    assert all(len(s.wall) == 4 for s in found.values())
    assert found["a"].wall == pytest.approx([1e-3] * 4)
    assert found["b"].wall == pytest.approx([2e-3] * 4)
    # two warm calls each, then rounds of a warm call and a block that start with another contender
    assert m.order[4:12] == ["a", "a", "b", "b", "b", "b", "a", "a"]


def test_drift_hits_all_alike() -> None:
    m = Machine()
    drift = lambda base: lambda t: base * (1 + 0.2 * (m.now > 0.2))  # noqa: E731
    found = m.run({"a": drift(1e-3), "b": drift(1e-3)}, Settings(rounds=9, block=0.01))
    ratio = median(found["a"].wall) / median(found["b"].wall)
    assert 0.83 < ratio < 1.21


def test_samples_that_did_not_run_in_parallel_are_rejected() -> None:
    m = Machine()

    def cost(turn: int) -> float:
        # every second block both threads share one processor
        m.parallel = 1.0 if turn % 4 == 0 else 2.0
        return 2e-3 if turn % 4 == 0 else 1e-3

    found = m.run({"a": cost}, Settings(rounds=5, block=0.005, threads=2))["a"]
    assert found.rejected > 0 and not found.unparallel
    assert found.wall == pytest.approx([1e-3] * 5)


def test_what_never_runs_in_parallel_is_kept_and_said() -> None:
    m = Machine(1.0)
    found = m.run({"a": lambda t: 1e-3}, Settings(rounds=3, block=0.002, threads=2))["a"]
    assert found.unparallel and found.wall and found.rejected == 8
    t = timing("a", found, 2)
    assert t.median == pytest.approx(1e-3)
    assert "1.0 of 2 threads" in t.notes[0]


def test_slow_and_rare_contenders_get_few_samples() -> None:
    m = Machine()
    costs = {"slow": lambda t: 2.0, "rare": lambda t: 0.1, "fast": lambda t: 1e-3}
    found = m.run(costs, Settings(rounds=6, rare=("rare",)))
    assert len(found["slow"].wall) == 2
    assert len(found["rare"].wall) == 2
    assert len(found["fast"].wall) == 6


def test_the_limit_ends_the_rounds() -> None:
    m = Machine()
    found = m.run({"a": lambda t: 0.5}, Settings(rounds=100, limit=3.0))["a"]
    assert 1 <= len(found.wall) <= 5


def test_clearly_slower_ends_early_but_noise_does_not() -> None:
    m = Machine()
    stop = ("new", "old", 1.2)
    found = m.run({"new": lambda t: 3e-3, "old": lambda t: 1e-3}, Settings(rounds=20, stop=stop))
    assert len(found["new"].wall) == 3
    m = Machine()
    found = m.run({"new": lambda t: 1.1e-3, "old": lambda t: 1e-3}, Settings(rounds=20, stop=stop))
    assert len(found["new"].wall) == 20


def test_medians_ignore_an_outlier() -> None:
    t = timing("a", Samples([1.0, 1.1, 0.9, 1.0, 50.0], [1.0] * 5), 1)
    assert t.median == 1.0 and t.least == 0.9 and t.spread < 0.2
    assert median([3.0, 1.0]) == 2.0


def test_forged_samples_are_refused() -> None:
    for wall in ([-1.0], [0.0], [float("nan")], [float("inf")]):
        s = {"wall": wall, "share": [1.0], "rejected": 0, "unparallel": False}
        with pytest.raises(ValueError, match="no time"):
            timings({"load": 0.0, "samples": {"a": s}}, 1)


def test_compare_runs_callables_of_this_process() -> None:
    found = compare({"a": lambda: sum(range(100)), "b": lambda: sum(range(4000))}, 1, 3, 0.001)
    assert found["a"].median < found["b"].median


def test_geometric_mean() -> None:
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert geometric_mean([2.0, 8.0], [1.0, 0.0]) == pytest.approx(2.0)
    assert geometric_mean([]) == 1.0
