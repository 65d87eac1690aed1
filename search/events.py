"""What a search reports while it runs, and what it found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from opwright.ir.tile import TileProgram
from opwright.search.archive import Candidate
from opwright.search.objective import Metrics
from opwright.search.results import (
    Given,
)
from opwright.search.space import Schedule


@dataclass(frozen=True, slots=True)
class Started:
    """`replayed` candidates come from the archive."""

    spaces: tuple[str, ...]
    budget: int
    replayed: int


@dataclass(frozen=True, slots=True)
class Proposed:
    number: int
    schedule: str
    origin: str
    parent: int | None


@dataclass(frozen=True, slots=True)
class Evaluated:
    """`score` is relative to candidate 0 (smaller is better), None when the candidate did not
    pass.
    """

    candidate: Candidate
    score: float | None
    improved: bool
    replayed: bool


@dataclass(frozen=True, slots=True)
class Confirming:
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Confirmed:
    scores: Mapping[int, float]
    noise: float


@dataclass(frozen=True, slots=True)
class Note:
    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    winner: int | None
    stopped: bool
    why: str


Event = Started | Proposed | Evaluated | Confirming | Confirmed | Note | Finished


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """A candidate of the result with its program, final metrics and score."""

    candidate: Candidate
    schedule: Schedule
    program: TileProgram
    metrics: Metrics
    score: float
    confirmed: bool
    given: Given | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SearchResult:
    """What a search found. `baseline` is candidate 0; `winner` is None when no candidate passed.

    `why` says by how much the winner leads, over whom, and which decisions differ. `table` has the
    archive's rows with scores. `stopped` is true after Ctrl-C; then nothing was confirmed.
    `general` is the best candidate that takes what the winner's facts exclude, None when the winner
    takes it itself or candidate 0 is as good.
    """

    winner: Choice | None
    baseline: Choice | None
    table: tuple[Mapping[str, object], ...]
    events: tuple[Event, ...]
    why: str
    notes: tuple[str, ...]
    noise: float
    stopped: bool
    run: int
    evaluations: int
    general: Choice | None = None
