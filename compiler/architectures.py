"""One package for several architectures: which candidate each of them takes.

A search ranks by one architecture. The same candidates are ranked again for every other one, by
what is known of them there; where another one is best it becomes a variant of that architecture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from opwright.compiler.backend import ships
from opwright.ir.op import Operator
from opwright.search.archive import Candidate
from opwright.search.events import Choice, Evaluated, SearchResult
from opwright.search.objective import Metrics, Scorer
from opwright.search.results import TextSpace
from opwright.search.space import Space, parse, space_of

CLEARLY = 1.02  # how much better a candidate must be on one architecture to be a variant of its own


@dataclass(frozen=True, slots=True, eq=False)
class Shipped:
    """A candidate of the package: its name there and the architectures that may take it."""

    label: str
    choice: Choice
    targets: tuple[str, ...]


def built_for(c: Candidate, targets: Sequence[str]) -> tuple[str, ...]:
    """The architectures that a candidate was compiled for; all where none was compiled."""
    found = c.build.get("resources") or {}
    return tuple(t for t in targets if t in found or not found)


def at(metrics: Metrics, target: str) -> Metrics | None:
    """Metrics with the latency on one architecture; None where a workload has none there."""
    out: dict[str, Mapping[str, float]] = {}
    for workload, values in metrics.items():
        own = values.get(f"latency@{target}")
        if own is None:
            return None
        out[workload] = {**values, "latency": own}
    return out


def shipped(
    result: SearchResult,
    spaces: Sequence[Space],
    op: Operator,
    weights: Mapping[str, float],
    targets: Sequence[str],
) -> list[Shipped]:
    """What goes into a package, in order of dispatch: variants of single architectures, then what
    the search chose for all."""
    common = ships(result)
    assert result.baseline is not None
    known = {c.candidate.program for _, c in common}
    usual = (result.winner or result.baseline).candidate
    out: list[Shipped] = []
    for t in targets[1:]:
        ranked = _Ranked.of(result, op, weights, targets, t)
        best = ranked.best(usual)
        first = next((c for _, c in common if t in built_for(c.candidate, targets)), None)
        if best is None or (first is not None and best.program == first.candidate.program):
            continue
        out.append(Shipped(f"winner_{t}", ranked.choice(best, spaces), (t,)))
        general = ranked.general
        if _delegates(best) and general is not None and general.program not in known:
            out.append(Shipped(f"dense_{t}", ranked.choice(general, spaces), (t,)))
    for label, choice in common:
        own = built_for(choice.candidate, targets)
        if own:
            out.append(Shipped(label, choice, own))
    return out


def _delegates(c: Candidate) -> bool:
    """Whether its facts exclude a workload."""
    return any(values.get("delegated") for values in c.metrics.values())


@dataclass(frozen=True, slots=True, eq=False)
class _Ranked:
    """Candidates with their scores on one architecture; `general` is the best that serves every
    workload and stands in where another one's facts exclude one."""

    scores: Mapping[int, float]
    tried: Sequence[Candidate]
    general: Candidate | None

    @staticmethod
    def of(
        result: SearchResult,
        op: Operator,
        weights: Mapping[str, float],
        targets: Sequence[str],
        target: str,
    ) -> _Ranked:
        assert result.baseline is not None
        scorer = Scorer(op.objective, weights)
        ok = [e.candidate for e in result.events if isinstance(e, Evaluated) and e.candidate.ok]
        tried = [c for c in ok if target in built_for(c, targets)]
        base = at(result.baseline.metrics, target)
        if base is None:
            return _Ranked({}, tried, None)
        scores: dict[int, float] = {}
        general: Candidate | None = None
        for c in sorted(tried, key=_delegates):
            own = at(c.metrics, target)
            if own is None:
                continue
            if general is not None and _delegates(c):
                instead = at(general.metrics, target) or {}
                own = {w: instead[w] if v.get("delegated") else v for w, v in own.items()}
            score = scorer.score(own, base)
            if score.feasible:
                scores[c.number] = score.value
                if not _delegates(c) and (general is None or score.value < scores[general.number]):
                    general = c
        return _Ranked(scores, tried, general)

    def best(self, usual: Candidate) -> Candidate | None:
        """The best candidate; the usual one while none is clearly better."""
        number = min(self.scores, key=lambda n: (self.scores[n], n), default=None)
        if number is None:
            return None
        own = self.scores.get(usual.number)
        if own is not None and own <= CLEARLY * self.scores[number]:
            return usual
        return next(c for c in self.tried if c.number == number)

    def choice(self, c: Candidate, spaces: Sequence[Space]) -> Choice:
        return _choice(c, spaces, self.scores[c.number])


def _choice(c: Candidate, spaces: Sequence[Space], score: float) -> Choice:
    schedule = parse(c.schedule)
    space = space_of(spaces, schedule)
    given = space.given(schedule) if isinstance(space, TextSpace) else None
    return Choice(c, schedule, space.instantiate(schedule), c.metrics, score, False, given)


def taken(chosen: Sequence[Shipped], target: str) -> Shipped:
    """The first variant for an architecture; the last one takes any."""
    return next((s for s in chosen if target in s.targets), chosen[-1])
