"""What an archive says of one run: candidates with scores, what each varies, texts, requests.

Scores are computed here as the search computes them: by the operator's objective, relative to
candidate 0, with confirmed times in place of quick ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opwright.ir.op import Objective
from opwright.search.archive import Archive, ArchiveError, Candidate
from opwright.search.objective import Metrics, Scorer, idle


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A candidate with its score (smaller is better, 1 is candidate 0), its latest metrics, and
    when it was archived, in seconds since the run began."""

    candidate: Candidate
    score: float | None
    metrics: Metrics
    confirmed: bool
    seconds: float

    @property
    def number(self) -> int:
        return self.candidate.number

    def to_json(self) -> dict[str, Any]:
        c = self.candidate
        return {
            "number": c.number,
            "parent": c.parent,
            "status": c.status,
            "reason": c.reason,
            "score": self.score,
            "confirmed": self.confirmed,
            "schedule": c.schedule,
            "origin": c.origin,
            "metrics": {w: dict(v) for w, v in self.metrics.items()},
        }


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """One run. `operator` and `command` are what the ledger holds of them, empty for a run that an
    older version wrote."""

    run: Mapping[str, Any]
    subject: str
    operator: Mapping[str, Any]
    command: Mapping[str, Any]
    nodes: Sequence[Node]

    @staticmethod
    def of(archive: Archive, number: int | None = None) -> History:
        """The run with that number, or the last; ArchiveError where there is none."""
        runs = archive.runs()
        if not runs:
            raise ArchiveError(f"{archive.path} holds no run: run `opwright compile SPEC` first")
        ids = [r["id"] for r in runs]
        if number is not None and number not in ids:
            raise ArchiveError(f"{archive.path} has no run {number}; it has {ids[0]} to {ids[-1]}")
        run = runs[-1] if number is None else runs[ids.index(number)]
        entries = archive.ledger(run["id"])
        latest = {e.kind: e.body for e in entries}
        operator = latest.get("operator", {})
        command = dict(latest.get("command", {}))
        first = next((e.body for e in entries if e.kind == "command"), {})
        if "path" in first:  # a copy that a resumed run read is not where the spec is
            command["path"] = first["path"]
        times = {e.body["number"]: e.at for e in entries if e.kind == "verdict"}
        return History(
            run,
            archive.subject,
            operator,
            command,
            tuple(_nodes(archive, run, operator, times)),
        )

    @property
    def id(self) -> int:
        return int(self.run["id"])

    @property
    def ranked(self) -> list[Node]:
        """Candidates that passed, best first; confirmed ones before others where there are."""
        found = [n for n in self.nodes if n.score is not None and math.isfinite(n.score)]
        return sorted(found, key=lambda n: (not n.confirmed, n.score or 0.0, n.number))

    @property
    def winner(self) -> Node | None:
        """What the run ended with, else the best so far."""
        outcome = self.run["outcome"] or {}
        named = [n for n in self.nodes if n.number == outcome.get("winner")]
        return named[0] if named else next(iter(self.ranked), None)

    def node(self, number: int) -> Node | None:
        return next((n for n in self.nodes if n.number == number), None)

    def children(self, number: int | None) -> list[Node]:
        """What varies a candidate; of None, what varies none."""
        return [n for n in self.nodes if n.candidate.parent == number]


def _nodes(
    archive: Archive, run: Mapping[str, Any], operator: Mapping[str, Any], at: Mapping[int, float]
) -> list[Node]:
    confirmed = archive.confirmations(run["id"])
    tried = archive.candidates(run["id"])
    own = {
        c.number: {w: {**v, **confirmed.get(c.number, {}).get(w, {})} for w, v in c.metrics.items()}
        for c in tried
    }
    base = next((own[c.number] for c in tried if c.ok), None)
    terms = tuple((str(m), float(w)) for m, w in operator.get("objective", ()))
    bounds = tuple((str(m), str(c), float(v)) for m, c, v in operator.get("bounds", ()))
    names = base or {}
    weights = {
        str(w): float(v.get("weight", 1.0)) for w, v in operator.get("workloads", {}).items()
    } or {w: 1.0 for w in names}
    scorer = Scorer(Objective(terms, bounds), weights)
    out = []
    for c in tried:
        score = None
        if c.ok and base is not None and not idle(c.metrics):
            found = scorer.score(own[c.number], base)
            score = found.value if found.feasible else None
        seconds = max(at.get(c.number, run["started"]) - run["started"], 0.0)
        out.append(Node(c, score, own[c.number], c.number in confirmed, seconds))
    return out
