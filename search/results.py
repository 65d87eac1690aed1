"""What an evaluation is asked and what it answers: jobs, evaluations, confirmations, and the tools
that the layers around hand in. The evaluator itself is in `search/evaluate.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from opwright.ir.plan import Plan
from opwright.ir.record import Record
from opwright.ir.tile import TileProgram
from opwright.search.sandbox import Limits
from opwright.search.space import Schedule, Space
from opwright.verify.numeric import Reference

Metrics = Mapping[str, Mapping[str, float]]  # workload -> metric -> value


@dataclass(frozen=True, slots=True)
class Emitted:
    """Texts of a candidate and how it is launched."""

    source: str
    driver: str
    plan: Plan


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """A candidate that came as a text: its hash with that of the plan, what is built of it, and
    what the gates said that ran before anything is executed."""

    digest: str
    emitted: Emitted
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A candidate on its way: its number in the run, what was decided, and the program of that.

    Of a `given` text the program is what was read from it, and `digest` that of text and plan.
    """

    number: int
    schedule: Schedule
    program: TileProgram
    digest: str
    given: Given | None = None


@runtime_checkable
class TextSpace(Space, Protocol):
    """A space whose schedules stand for texts: `instantiate` gives what was read of one."""

    def given(self, schedule: Schedule) -> Given: ...


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What came of a candidate; the fields are those of `archive.Candidate`."""

    status: str
    reason: str = ""
    source: str = ""
    records: tuple[Record, ...] = ()
    build: Mapping[str, Any] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Incumbent:
    """The best so far: what new candidates are timed against. `base` takes every dense call: it
    serves those that a candidate's facts exclude."""

    job: Job
    metrics: Metrics
    base: Job | None = None
    base_metrics: Metrics = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Confirmation:
    """Metrics of finalists measured side by side, and how far two runs of one candidate
    differed.
    """

    metrics: Mapping[int, Metrics]
    noise: float
    notes: tuple[str, ...] = ()


class Evaluator(Protocol):
    """Turns jobs into evaluations. `context` names all that results depend on but the program."""

    @property
    def context(self) -> str: ...

    @property
    def notes(self) -> Sequence[str]: ...

    @property
    def weights(self) -> Mapping[str, float]:
        """Workload name -> weight, of the workloads that are measured."""
        ...

    def evaluate(
        self, jobs: Sequence[Job], incumbent: Incumbent | None
    ) -> Iterator[tuple[Job, Evaluation]]: ...

    def confirm(self, jobs: Sequence[Job], baseline: Job | None) -> Confirmation: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Built:
    """A shared library, seconds of compiling, size in bytes."""

    path: Path
    seconds: float
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class Tools:
    """What the layers around hand in. `safety` returns the records of G2 and G3; `emit` and `build`
    raise ValueError, RuntimeError or OSError with a reason. `identity` names compiler and
    target. `inspect` says what was built of a given text: instructions by kind, hot loops."""

    identity: str
    safety: Callable[[TileProgram], Sequence[Record]]
    emit: Callable[[TileProgram], Emitted]
    build: Callable[[Emitted], Built]
    reference: Reference
    inspect: Callable[[Built], Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """How candidates are judged here; part of the context that results belong to.

    `require`: "PROVED" or "TESTED", what safety must be before anything is executed. `bytes_limit`
    and `work_limit` (scalar steps) scale workloads down; up to `reference_limit` steps a
    workload's results are compared with the reference, beyond with another candidate's.
    `guarded` test calls lie against pages that fault, so that reads out of bounds show.
    `lock` is the file that keeps builds and timing apart, by default one for the user.
    """

    threads: int = 0
    require: str = "PROVED"
    cases: int = 14
    seed: int = 0
    bytes_limit: int = 0
    work_limit: int = 1 << 33
    reference_limit: int = 1 << 25
    call_limit: float = 20.0
    rounds: int = 5
    confirm_rounds: int = 9
    block: float = 0.01
    time_limit: float = 10.0
    slower: float = 1.2
    workers: int = 2
    guarded: bool = False
    lock: Path | None = None
    limits: Limits = field(default_factory=Limits)
