"""Which schedule to try next. A proposer sees results and gives schedules; it trusts and runs
nothing.

The built-in one takes every space's preferred schedules first, then neighbours of good candidates
(upper confidence bounds over ranks, mostly the best four) and random samples.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from opwright.search.archive import Candidate
from opwright.search.space import Schedule, Space, parse, space_of


@dataclass(frozen=True, slots=True)
class Proposal:
    """A schedule, where it comes from, and the number of the candidate that it varies."""

    schedule: Schedule
    origin: str
    parent: int | None = None


@dataclass(frozen=True, slots=True)
class View:
    """What a proposer may know: candidates so far and the scores of those that passed."""

    spaces: Sequence[Space]
    candidates: Sequence[Candidate]
    scores: Mapping[int, float]

    @property
    def tried(self) -> set[str]:
        return {c.schedule for c in self.candidates}


class Proposer(Protocol):
    """Gives up to `count` distinct untried schedules, by `view` and `rng` alone; none: it is
    done.
    """

    @property
    def name(self) -> str: ...

    def propose(self, view: View, count: int, rng: Random) -> list[Proposal]: ...


@dataclass(frozen=True, slots=True)
class Builtin:
    """The proposer that needs no model; `explore` is the share of random samples."""

    explore: float = 0.2
    top: int = 4
    restricted: float = 0.7

    @property
    def name(self) -> str:
        return "builtin"

    def propose(self, view: View, count: int, rng: Random) -> list[Proposal]:
        tried = view.tried
        out: list[Proposal] = []

        def take(p: Proposal | None) -> bool:
            if p is None or p.schedule.text in tried:
                return False
            tried.add(p.schedule.text)
            out.append(p)
            return True

        for p in self._preferred(view):
            if len(out) < count:
                take(p)
        children = Counter(c.parent for c in view.candidates if c.parent is not None)
        for _ in range(count * 8):
            if len(out) >= count:
                break
            if rng.random() >= self.explore and take(self._neighbour(view, children, tried, rng)):
                continue
            take(self._sample(view, tried, rng))
        return out

    @staticmethod
    def _preferred(view: View) -> list[Proposal]:
        """The spaces' preferences, the first of each space before the second of any."""
        lists = [s.preferred() for s in view.spaces]
        depth = max((len(x) for x in lists), default=0)
        return [Proposal(x[n], "preferred") for n in range(depth) for x in lists if n < len(x)]

    def _neighbour(
        self, view: View, children: Counter[int], tried: set[str], rng: Random
    ) -> Proposal | None:
        """An untried neighbour of a candidate chosen by rank and by how often it was varied."""
        ranked = sorted(view.scores, key=lambda n: (view.scores[n], n))
        by_number = {c.number: c for c in view.candidates}
        total = sum(children.values())
        # exploration fades with the number of candidates, not with a budget, so that a run goes on
        # the same way when its budget grows
        weight = 0.3 + 0.7 * math.exp(-len(view.candidates) / 20)
        pool = ranked[: self.top] if rng.random() < self.restricted else ranked
        last = max(len(ranked) - 1, 1)

        def value(rank: int) -> float:
            varied = children[ranked[rank]]
            return (last - rank) / last + weight * math.sqrt(math.log(total + 1) / (varied + 1))

        for number in sorted(pool, key=lambda n: (-value(ranked.index(n)), n)):
            schedule = parse(by_number[number].schedule)
            near = space_of(view.spaces, schedule).neighbours(schedule)
            fresh = [s for s in near if s.text not in tried]
            if fresh:
                children[number] += 1
                return Proposal(fresh[rng.randrange(len(fresh))], "neighbour", number)
        return None

    @staticmethod
    def _sample(view: View, tried: set[str], rng: Random) -> Proposal | None:
        for _ in range(30):
            space = view.spaces[rng.randrange(len(view.spaces))]
            schedule = space.sample(rng)
            if schedule.text not in tried:
                return Proposal(schedule, "sample")
        return None
