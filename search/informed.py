"""A search that knows what the search of another operator measured.

Only schedules travel, and what they cost there: a model of both operators (a Gaussian process: what
they share, what is each one's own, and a constant for each) says what to try next, and learns from
every candidate that is measured here. It is a guess about order alone; every candidate is judged
and timed as in any other search.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from opwright.search.archive import Archive, ArchiveError
from opwright.search.history import History
from opwright.search.propose import Builtin, Proposal, Proposer, View
from opwright.search.space import (
    Decision,
    IllegalSchedule,
    Schedule,
    ScheduleError,
    parse,
    space_of,
)

ORIGIN = "ledger"
TEXTS = ("llm(", "exchange(")  # schedules that name texts of their own run
SHARED, OWN, CONSTANT = 0.35, 0.15, 1.0  # deviations of logarithms of times
NOISE = 0.03
STEP, STEPS = 0.3, 0.5  # what a step of a decision changes, in logarithms, and how many say so
LEAST = 0.08  # what a step may change here although it changed nothing there
WORST = 1.0  # what is slower than the best by more, in logarithms, is not told apart
DRAWN = 48  # random schedules among those that are compared
UNLIKED = 0.04  # what schedules that their space does not prefer are expected to cost more
SURE = 0.002  # improvement to expect, in logarithms, below which the other proposer is asked


@dataclass(frozen=True, slots=True)
class Seen:
    """A schedule that passed, and its score relative to its search's candidate 0."""

    schedule: str
    score: float


def seen_in(path: Path) -> tuple[Seen, ...]:
    """What the last run of an archive measured; ArchiveError for a file that is none."""
    if not path.is_file():
        raise ArchiveError(f"there is no archive {path}")
    with Archive(path) as archive:
        nodes = History.of(archive).ranked
    return tuple(
        Seen(n.candidate.schedule, n.score)
        for n in nodes
        if n.score is not None and not n.candidate.schedule.startswith(TEXTS)
    )


@dataclass(frozen=True, slots=True)
class Informed:
    """Schedules by the improvement that is expected of them, while any is; then those of another
    proposer."""

    ledgers: tuple[tuple[Seen, ...], ...]
    inner: Proposer = field(default_factory=Builtin)

    @property
    def name(self) -> str:
        mark = hashlib.sha256(repr(self.ledgers).encode()).hexdigest()[:8]
        return f"informed({self.inner.name}, {mark})"

    def propose(self, view: View, count: int, rng: Random) -> list[Proposal]:
        pool = self._pool(view, rng)
        rows = self._rows(view)
        liked = {s.text: n for n, s in enumerate(_preferred(view))}
        out: list[Proposal] = []
        while pool and len(out) < count:
            more = [UNLIKED * (s.text not in liked) for s in pool]
            guesses = expected(rows, pool, more)
            order = sorted(
                (n for n in range(len(pool)) if guesses[n][0] >= SURE),
                key=lambda n: (-round(guesses[n][0], 6), liked.get(pool[n].text, len(liked)), n),
            )
            if not order:
                break
            # nothing is measured before all of them are named: the next one takes the guess for a
            # measurement, so that it asks for something else
            first = order[0]
            rows = [*rows, (pool[first], guesses[first][1], 0)]
            out.append(Proposal(pool.pop(first), ORIGIN))
        if len(out) < count:
            known = {p.schedule.text for p in out}
            others = self.inner.propose(view, count, rng)
            out += [p for p in others if p.schedule.text not in known][: count - len(out)]
        return out

    def _rows(self, view: View) -> list[tuple[Schedule, float, int]]:
        """(schedule, logarithm of its score over its ledger's best, ledger; 0 is this search)."""
        own = [Seen(c.schedule, s) for c in view.candidates if (s := view.scores.get(c.number))]
        out = []
        for n, ledger in enumerate((own, *self.ledgers)):
            best = min((r.score for r in ledger), default=1.0)
            for r in ledger:
                if not r.schedule.startswith(TEXTS):
                    out.append((parse(r.schedule), min(math.log(r.score / best), WORST), n))
        return out

    def _pool(self, view: View, rng: Random) -> list[Schedule]:
        """Untried schedules that are compared: of ledgers, preferred, near the best, at random."""
        found: dict[str, Schedule] = {}
        for ledger in self.ledgers:
            for r in ledger:
                if not r.schedule.startswith(TEXTS):
                    found[r.schedule] = parse(r.schedule)
        for space in view.spaces:
            found |= {s.text: s for s in space.preferred()}
        ranked = sorted(view.scores, key=lambda n: (view.scores[n], n))
        texts = {c.number: c.schedule for c in view.candidates}
        for number in ranked[:3]:
            schedule = parse(texts[number])
            if not schedule.text.startswith(TEXTS):
                near = space_of(view.spaces, schedule).neighbours(schedule)
                found |= {s.text: s for s in near}
        named = [s for s in view.spaces if not f"{s.name}(".startswith(TEXTS)]
        for _ in range(DRAWN):
            drawn = named[rng.randrange(len(named))].sample(rng)
            found[drawn.text] = drawn
        tried = view.tried
        return [s for t, s in found.items() if t not in tried and _fits(view, s)]


def _preferred(view: View) -> list[Schedule]:
    """The spaces' preferences, the first of each space before the second of any."""
    lists = [s.preferred() for s in view.spaces]
    depth = max((len(x) for x in lists), default=0)
    return [x[n] for n in range(depth) for x in lists if n < len(x)]


def _fits(view: View, schedule: Schedule) -> bool:
    """Whether a schedule, perhaps of another operator, is one of this one's."""
    try:
        space_of(view.spaces, schedule).instantiate(schedule)
    except (IllegalSchedule, ScheduleError, ValueError):
        return False
    return True


def expected(
    rows: Sequence[tuple[Schedule, float, int]],
    pool: Sequence[Schedule],
    more: Sequence[float] = (),
) -> list[tuple[float, float]]:
    """(improvement to expect over the best of this search, cost to expect) of each schedule of a
    pool, both in logarithms; `more` is what each is expected to cost beyond the guess."""
    import numpy as np

    points = [(s, n) for s, _, n in rows] + [(s, 0) for s in pool]
    alike = _alike([s for s, _ in points], _weights(rows))
    ledger = np.array([n for _, n in points])
    same = (ledger[:, None] == ledger[None, :]).astype(float)
    covariance = alike * (SHARED**2 + same * OWN**2) + same * CONSTANT**2
    n = len(rows)
    y = np.array([v for _, v, _ in rows])
    inner = covariance[:n, :n] + NOISE**2 * np.eye(n)
    weights = np.linalg.solve(inner, np.column_stack([y, covariance[:n, n:]]))
    mean = covariance[n:, :n] @ weights[:, 0] + np.array(more or [0.0] * len(pool))
    explained = np.einsum("ij,ji->i", covariance[n:, :n], weights[:, 1:])
    deviation = np.sqrt(np.maximum(np.diag(covariance)[n:] - explained, 1e-12))
    best = min((v for _, v, at in rows if at == 0), default=0.0)
    out = []
    for m, d in zip(mean, deviation, strict=True):
        z = (best - m) / d
        below = 0.5 * math.erfc(-z / math.sqrt(2))
        density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        out.append((float((best - m) * below + d * density), float(m)))
    return out


Hole = tuple[str, str]  # strategy, decision


def _weights(rows: Sequence[tuple[Schedule, float, int]]) -> dict[Hole, float]:
    """How far a step of each decision takes schedules apart: what it changed, squared, over what
    schedules differ by at all. Told by pairs of one ledger that differ in one decision; of what
    was never varied a step is taken to change much, so that it is tried."""
    found: dict[Hole, list[float]] = {}
    by_rest: dict[tuple[Any, ...], list[tuple[Decision, float]]] = {}
    for schedule, value, ledger in rows:
        held = schedule.decisions
        for n, (hole, chosen) in enumerate(held):
            rest = (ledger, schedule.strategy, hole, held[:n], held[n + 1 :])
            by_rest.setdefault(rest, []).append((chosen, value))
    for (_, strategy, hole, *_), members in by_rest.items():
        told = found.setdefault((strategy, hole), [])
        for n, (one, first) in enumerate(members):
            told += [
                (first - second) ** 2 / max(_step(one, other), 0.5)
                for other, second in members[n + 1 :]
                if one != other
            ]
    whole = 2 * (SHARED**2 + OWN**2)
    out: dict[Hole, float] = {}
    for at, changes in found.items():
        squared = (STEPS * STEP**2 + sum(changes)) / (STEPS + len(changes))
        share = min(max(squared, LEAST**2) / whole, 0.9)
        out[at] = -math.log(1 - share)
    return out


def _alike(schedules: Sequence[Schedule], weights: Mapping[Hole, float]) -> Any:
    """How alike schedules are, 1 equal, 0 of different strategies."""
    import numpy as np

    usual = -math.log(1 - STEP**2 / (2 * (SHARED**2 + OWN**2)))
    out = np.zeros((len(schedules), len(schedules)))
    by_strategy: dict[str, list[int]] = {}
    for n, s in enumerate(schedules):
        by_strategy.setdefault(s.strategy, []).append(n)
    for strategy, members in by_strategy.items():
        held: list[Mapping[str, Decision]] = [dict(schedules[n].decisions) for n in members]
        distance = np.zeros((len(members), len(members)))
        for hole in dict.fromkeys(h for d in held for h in d):
            kinds = list(dict.fromkeys(d.get(hole) for d in held))
            steps = np.array([[_step(a, b) for b in kinds] for a in kinds])
            code = np.array([kinds.index(d.get(hole)) for d in held])
            weight = weights.get((strategy, hole), usual)
            distance += weight * steps[code[:, None], code[None, :]]
        out[np.ix_(members, members)] = np.exp(-distance)
    return out


def _step(one: Decision, other: Decision) -> float:
    """How far two values of a decision are apart: 1 where they differ, numbers by the logarithm of
    their ratio."""
    if one == other:
        return 0.0
    for v in (one, other):
        if isinstance(v, bool) or not isinstance(v, int | float) or v < 0:
            return 1.0
    ratio = abs(math.log2(1 + float(one)) - math.log2(1 + float(other)))  # type: ignore[arg-type]
    return min(ratio, 2.0)
