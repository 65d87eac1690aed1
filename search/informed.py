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
REACH = 2.0  # steps over which schedules are alike
WORST = 1.0  # what is slower than the best by more, in logarithms, is not told apart
DRAWN = 48  # random schedules among those that are compared
TIE = 0.02  # closer guesses are not told apart: of those the space's own preference counts
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
        guesses = expected(rows, pool) if pool else []
        order = sorted(
            range(len(pool)),
            key=lambda n: (
                round(guesses[n][1] / TIE),
                liked.get(pool[n].text, len(liked)),
                guesses[n][1],
                n,
            ),
        )
        out = [Proposal(pool[n], ORIGIN) for n in order if guesses[n][0] >= SURE][:count]
        if len(out) < count:
            known = {p.schedule.text for p in out}
            more = self.inner.propose(view, count, rng)
            out += [p for p in more if p.schedule.text not in known][: count - len(out)]
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
    rows: Sequence[tuple[Schedule, float, int]], pool: Sequence[Schedule]
) -> list[tuple[float, float]]:
    """(improvement to expect over the best of this search, cost to expect) of each schedule of a
    pool, both in logarithms."""
    import numpy as np

    points = [(s, n) for s, _, n in rows] + [(s, 0) for s in pool]
    alike = _alike([s for s, _ in points])
    ledger = np.array([n for _, n in points])
    same = (ledger[:, None] == ledger[None, :]).astype(float)
    covariance = alike * (SHARED**2 + same * OWN**2) + same * CONSTANT**2
    n = len(rows)
    y = np.array([v for _, v, _ in rows])
    inner = covariance[:n, :n] + NOISE**2 * np.eye(n)
    weights = np.linalg.solve(inner, np.column_stack([y, covariance[:n, n:]]))
    mean = covariance[n:, :n] @ weights[:, 0]
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


def _alike(schedules: Sequence[Schedule]) -> Any:
    """How alike schedules are, 1 equal, 0 of different strategies: a decision that differs counts
    as a step, a number as the logarithm of the ratio."""
    import numpy as np

    out = np.zeros((len(schedules), len(schedules)))
    by_strategy: dict[str, list[int]] = {}
    for n, s in enumerate(schedules):
        by_strategy.setdefault(s.strategy, []).append(n)
    for members in by_strategy.values():
        held: list[Mapping[str, Decision]] = [dict(schedules[n].decisions) for n in members]
        distance = np.zeros((len(members), len(members)))
        for hole in dict.fromkeys(h for d in held for h in d):
            distance += _steps([d.get(hole) for d in held])
        out[np.ix_(members, members)] = np.exp(-distance / REACH)
    return out


def _steps(values: Sequence[Decision]) -> Any:
    """Distances between values of one hole."""
    import numpy as np

    kinds = {v: n for n, v in enumerate(dict.fromkeys(values))}
    code = np.array([kinds[v] for v in values])
    differ = (code[:, None] != code[None, :]).astype(float)
    if all(isinstance(v, int | float) and not isinstance(v, bool) and v >= 0 for v in values):
        logs = np.array([math.log2(1 + float(v)) for v in values])  # type: ignore[arg-type]
        return np.minimum(np.abs(logs[:, None] - logs[None, :]), 2.0)
    return differ
