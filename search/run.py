"""The search: proposals in generations, cheap checks first, everything archived, the best
confirmed.

Proposals depend on the seed and on earlier results alone. A run that was stopped or killed goes on
where it was: what the archive holds is replayed, not evaluated again.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from opwright.ir.op import Operator
from opwright.ir.tile import TileProgram
from opwright.ir.tiletext import digest as program_digest
from opwright.search.archive import Archive, ArchiveError, Candidate
from opwright.search.objective import Metrics, Score, Scorer
from opwright.search.propose import Builtin, Proposal, Proposer, View
from opwright.search.results import (
    Confirmation,
    Evaluation,
    Evaluator,
    Given,
    Incumbent,
    Job,
    TextSpace,
)
from opwright.search.space import IllegalSchedule, Schedule, Space, parse, space_of

REUSED = (
    "ok",
    "refuted",
    "unproved",
    "unbuilt",
    "wrong",
)  # verdicts that another run may take over
FREE = ("illegal", "duplicate")  # not counted against the budget


@dataclass(frozen=True, slots=True)
class Budget:
    """When to stop: candidates evaluated (illegal ones and duplicates are free) and seconds."""

    evaluations: int = 24
    seconds: float | None = None


# -- events ---------------------------------------------------------------------------------------


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


# -- results --------------------------------------------------------------------------------------


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


def search(
    spaces: Sequence[Space],
    op: Operator,
    evaluator: Evaluator,
    budget: Budget | None = None,
    seed: int = 0,
    archive: Archive | None = None,
    on_event: Callable[[Event], None] | None = None,
    proposer: Proposer | None = None,
    digest: Callable[[TileProgram], str] = program_digest,
    batch: int = 4,
    general: Callable[[TileProgram], bool] | None = None,
) -> SearchResult:
    """Search the spaces; the first preferred schedule of the first space is candidate 0.

    `general` tells programs that stand in for a candidate wherever its facts exclude a call.
    Ctrl-C ends it with the best so far and the archive intact. Raises ArchiveError when the archive
    holds a run with this seed whose proposals were others.
    """
    own = archive is None
    archive = archive or Archive(":memory:")
    try:
        run = _Search(
            spaces, op, evaluator, seed, archive, on_event, proposer, digest, batch, general
        )
        return run.go(budget or Budget())
    finally:
        if own:
            archive.close()


@dataclass(slots=True)
class _State:
    candidates: list[Candidate] = field(default_factory=list)
    scores: dict[int, float] = field(default_factory=dict)
    programs: dict[str, int] = field(default_factory=dict)  # digest -> number
    infeasible: dict[int, str] = field(default_factory=dict)


class _Search:
    def __init__(
        self,
        spaces: Sequence[Space],
        op: Operator,
        evaluator: Evaluator,
        seed: int,
        archive: Archive,
        on_event: Callable[[Event], None] | None,
        proposer: Proposer | None,
        digest: Callable[[TileProgram], str],
        batch: int,
        general: Callable[[TileProgram], bool] | None,
    ) -> None:
        if not spaces or not spaces[0].preferred():
            raise ValueError("a search needs a space with a preferred schedule: candidate 0")
        self.spaces, self.evaluator, self.seed, self.archive = spaces, evaluator, seed, archive
        self.on_event, self.digest, self.batch = on_event, digest, batch
        self.proposer: Proposer = proposer or Builtin()
        self.events: list[Event] = []
        self.scorer = Scorer(op.objective, evaluator.weights)
        self.state = _State()
        self.jobs: dict[int, Job] = {}
        self.noise = 0.0
        # an evaluator that models times has nothing to measure again
        self.measured = bool(getattr(evaluator, "measured", True))
        self._takes_all = general or (lambda program: False)
        self._general: dict[int, bool] = {}
        settings = {
            "spaces": _identity(spaces),
            "batch": batch,
            "proposer": self.proposer.name,
            "weights": dict(evaluator.weights),
        }
        self.run = archive.run(seed, settings, evaluator.context)
        self.stored = {c.number: c for c in archive.candidates(self.run)}

    def emit(self, event: Event) -> None:
        self.events.append(event)
        if self.on_event is not None:
            self.on_event(event)

    # -- generations ------------------------------------------------------------------------------

    def go(self, budget: Budget) -> SearchResult:
        deadline = math.inf if budget.seconds is None else time.monotonic() + budget.seconds
        stopped = False
        self.emit(Started(tuple(s.name for s in self.spaces), budget.evaluations, len(self.stored)))
        for note in (*self.evaluator.notes, *self.scorer.notes):
            self.emit(Note(note))
        confirmed: dict[int, Metrics] = {}
        try:
            generation = 0
            proposed_limit = 10 * budget.evaluations + 100
            while (
                self._spent() < budget.evaluations
                and len(self.state.candidates) < proposed_limit
                and time.monotonic() < deadline
            ):
                left = budget.evaluations - self._spent()
                if not self._generation(generation, left):
                    break
                generation += 1
            confirmed = self._confirm()
        except KeyboardInterrupt:
            stopped = True
        result = self._result(confirmed, stopped)
        number = result.winner.candidate.number if result.winner else None
        outcome = {"outcome": "stopped" if stopped else "finished", "winner": number}
        self.archive.finish(self.run, {**outcome, "noise": self.noise})
        self.emit(Finished(number, stopped, result.why))
        return replace(result, events=tuple(self.events))

    def _spent(self) -> int:
        return sum(c.status not in FREE for c in self.state.candidates)

    def _generation(self, generation: int, left: int) -> bool:
        """Propose and evaluate one generation; False when there is nothing left to propose."""
        rng = Random(f"{self.seed}:{generation}")
        if generation == 0:
            proposals = [Proposal(self.spaces[0].preferred()[0], "fallback")]
        else:
            view = View(self.spaces, tuple(self.state.candidates), dict(self.state.scores))
            proposals = self.proposer.propose(view, self.batch, rng)
        if not proposals:
            return False
        first = len(self.state.candidates)
        known: dict[int, Candidate] = {}
        jobs: dict[int, tuple[Job, Proposal]] = {}
        fresh: dict[str, int] = {}
        replayed: set[int] = set()
        for offset, p in enumerate(proposals):
            number = first + offset
            counted = sum(c.status not in FREE for c in known.values())
            if len(jobs) + counted >= left:
                # what the budget leaves out is proposed again, with the same number, when it grows
                proposals = proposals[:offset]
                break
            self.emit(Proposed(number, p.schedule.text, p.origin, p.parent))
            stored = self.stored.get(number)
            if stored is not None:
                self._same(stored, p)
                known[number] = stored
                replayed.add(number)
                if stored.program and stored.status not in FREE:
                    fresh.setdefault(stored.program, number)
                continue
            made = self._prepare(number, generation, p, fresh)
            if isinstance(made, Candidate):
                known[number] = made
                self.archive.add(self.run, made, self.evaluator.context)
            else:
                jobs[number] = (made, p)
                fresh[made.digest] = number
        incumbent = self._incumbent()
        try:
            for job, e in self.evaluator.evaluate([j for j, _ in jobs.values()], incumbent):
                c = _candidate(job, e, generation, jobs[job.number][1])
                self.archive.add(self.run, c, self.evaluator.context)
                known[job.number] = c
                self.jobs[job.number] = job
        finally:  # after Ctrl-C too, what is complete counts
            for number in range(first, first + len(proposals)):
                if number not in known:
                    break
                self._accept(known[number], number in replayed)
        return True

    def _same(self, stored: Candidate, p: Proposal) -> None:
        if stored.schedule != p.schedule.text:
            raise ArchiveError(
                f"{self.archive.path}: candidate {stored.number} of this run was {stored.schedule},"
                f" now it would be {p.schedule.text}: another version wrote it. Use another seed,"
                " or move the file away to start a new one."
            )

    def _prepare(
        self, number: int, generation: int, p: Proposal, fresh: Mapping[str, int]
    ) -> Candidate | Job:
        """A job, or the candidate when nothing needs to be evaluated."""
        text = p.schedule.text

        def settled(status: str, reason: str, digest: str = "") -> Candidate:
            return Candidate(
                number, generation, text, status, reason, digest, origin=p.origin, parent=p.parent
            )

        try:
            program, given = self._made(p.schedule)
            digest = given.digest if given else self.digest(program)
        except IllegalSchedule as e:
            return settled("illegal", e.reason)
        twin = self.state.programs.get(digest, fresh.get(digest))
        if twin is not None:
            return settled("duplicate", f"the same program as {twin}", digest)
        before = self.archive.known(digest, self.evaluator.context)
        if before is not None and before.status in REUSED:
            return Candidate(
                number,
                generation,
                text,
                before.status,
                before.reason,
                digest,
                before.source,
                before.records,
                before.build,
                before.metrics,
                p.origin,
                p.parent,
            )
        return Job(number, p.schedule, program, digest, given)

    def _made(self, schedule: Schedule) -> tuple[TileProgram, Given | None]:
        """The program of a schedule, and the text that it was read from where it stands for one."""
        space = space_of(self.spaces, schedule)
        program = space.instantiate(schedule)
        return program, space.given(schedule) if isinstance(space, TextSpace) else None

    def _note_program(self, c: Candidate) -> None:
        if c.program and c.status not in FREE:
            self.state.programs.setdefault(c.program, c.number)

    def _accept(self, c: Candidate, replayed: bool) -> None:
        state = self.state
        best = min(state.scores.values(), default=math.inf)
        state.candidates.append(c)
        self._note_program(c)
        score: float | None = None
        if c.ok:
            s = self._score(c.metrics)
            score = s.value
            if s.feasible:
                state.scores[c.number] = s.value
                self._rescore(c.number)
            else:
                state.infeasible[c.number] = s.reason
        improved = score is not None and score < best and math.isfinite(score)
        self.emit(Evaluated(c, score, improved, replayed))

    def _score(self, metrics: Metrics) -> Score:
        """Relative to candidate 0, or to the first that passed when candidate 0 did not."""
        base = next((c for c in self.state.candidates if c.ok), None)
        base_metrics = base.metrics if base is not None else metrics
        return self.scorer.score(self._delegated(metrics, {}), base_metrics)

    def _is_general(self, number: int) -> bool:
        if number not in self._general:
            self._general[number] = self._takes_all(self._job(number).program)
        return self._general[number]

    def _best_general(self, confirmed: Mapping[int, Metrics]) -> int | None:
        """The best candidate that takes every dense call, by confirmed scores where there are."""
        found = [n for n in self.state.scores if self._is_general(n)]
        pool = [n for n in found if n in confirmed] or found
        return min(pool, key=lambda n: (self._value(n, confirmed), n), default=None)

    def _delegated(self, metrics: Metrics, confirmed: Mapping[int, Metrics]) -> Metrics:
        """Metrics with what runs in a candidate's place where its facts exclude a workload."""
        excluded = [w for w, values in metrics.items() if values.get("delegated")]
        number = self._best_general(confirmed) if excluded else None
        if number is None:
            return metrics
        instead = self._own(number, confirmed)
        new = {w: {**instead[w], "delegated": 1.0} for w in excluded if w in instead}
        return {**metrics, **new}

    def _rescore(self, number: int) -> None:
        """A better stand-in makes better what it stands in for."""
        waiting = [
            c
            for c in self.state.candidates
            if c.number in self.state.scores
            and any(values.get("delegated") for values in c.metrics.values())
        ]
        if waiting and self._best_general({}) == number:
            for c in waiting:
                self.state.scores[c.number] = self._score(c.metrics).value

    def _best(self) -> int | None:
        scores = self.state.scores
        return min(scores, key=lambda n: (scores[n], n)) if scores else None

    def _incumbent(self) -> Incumbent | None:
        number = self._best()
        if number is None:
            number = next((c.number for c in self.state.candidates if c.ok), None)
        if number is None:
            return None
        zero = next(c.number for c in self.state.candidates if c.ok)
        metrics = self._metrics(number, {})
        general = self._best_general({})
        base = zero if general is None else general
        return Incumbent(self._job(number), metrics, self._job(base), self._own(base, {}))

    def _job(self, number: int) -> Job:
        """The job of a candidate, built again from its schedule when it comes from the archive."""
        if number not in self.jobs:
            c = self.state.candidates[number]
            schedule = parse(c.schedule)
            program, given = self._made(schedule)
            self.jobs[number] = Job(number, schedule, program, c.program, given)
        return self.jobs[number]

    # -- the end ----------------------------------------------------------------------------------

    def _confirm(self) -> dict[int, Metrics]:
        """Finalists side by side, the next ones too while one of them could still be better."""
        if not self.measured:
            return {}
        scores = self.state.scores
        ranked = sorted(scores, key=lambda n: (scores[n], n))
        zero = next((c.number for c in self.state.candidates if c.ok), None)
        if zero is None or ranked in ([], [zero]):
            return {}
        stored = self.archive.confirmations(self.run)
        confirmed: dict[int, Metrics] = {}
        for _ in range(4):
            best = min(
                (self._final(n, confirmed) for n in confirmed if n != zero), default=math.inf
            )
            waiting = [n for n in ranked if n not in confirmed and n != zero]
            if not waiting or scores[waiting[0]] >= best:
                break
            leader = [n for n in confirmed if n != zero and self._final(n, confirmed) == best]
            numbers = [*leader[:1], *waiting[: 2 if leader else 3]]
            if not self._side_by_side(numbers, zero, stored, confirmed):
                break
        best_general = self._best_general({})
        leader = sorted(confirmed, key=lambda n: (self._final(n, confirmed), n))
        unlike = bool(leader) and not self._is_general(leader[0])
        if unlike and best_general is not None and best_general not in confirmed:
            self._side_by_side([best_general, leader[0]], zero, stored, confirmed)
        return confirmed

    def _side_by_side(
        self,
        numbers: Sequence[int],
        zero: int,
        stored: Mapping[int, Metrics],
        confirmed: dict[int, Metrics],
    ) -> bool:
        """Confirm some candidates and candidate 0 in one measurement; False when nothing came."""
        if all(n in stored for n in (*numbers, zero)):
            found = Confirmation({n: stored[n] for n in (*numbers, zero)}, 0.0)
        else:
            self.emit(Confirming(tuple(numbers)))
            found = self.evaluator.confirm([self._job(n) for n in numbers], self._job(zero))
        for n, m in found.metrics.items():
            if m:
                if n == numbers[0] and found.noise:
                    m = {w: {**values, "noise": found.noise} for w, values in m.items()}
                confirmed[n] = m
                self.archive.confirm(self.run, n, m)
        told = [v.get("noise", 0.0) for m in found.metrics.values() for v in m.values()]
        self.noise = max(self.noise, found.noise, *told)
        for note in found.notes:
            self.emit(Note(note))
        finals = {n: self._final(n, confirmed) for n in found.metrics}
        self.emit(Confirmed(finals, found.noise))
        return any(found.metrics.values())

    def _own(self, number: int, confirmed: Mapping[int, Metrics]) -> Metrics:
        """Quick metrics with confirmed latencies in place of theirs."""
        quick = self.state.candidates[number].metrics
        new = confirmed.get(number, {})
        return {w: {**values, **new.get(w, {})} for w, values in quick.items()}

    def _metrics(self, number: int, confirmed: Mapping[int, Metrics]) -> Metrics:
        """Its own metrics, and those of its stand-in where its facts exclude a workload."""
        return self._delegated(self._own(number, confirmed), confirmed)

    def _value(self, number: int, confirmed: Mapping[int, Metrics]) -> float:
        zero = next(c.number for c in self.state.candidates if c.ok)
        own = self._own(number, confirmed)
        return self.scorer.score(own, self._own(zero, confirmed)).value

    def _final(self, number: int, confirmed: Mapping[int, Metrics]) -> float:
        zero = next(c.number for c in self.state.candidates if c.ok)
        base = self._own(zero, confirmed)
        return self.scorer.score(self._metrics(number, confirmed), base).value

    def _result(self, confirmed: Mapping[int, Metrics], stopped: bool) -> SearchResult:
        scores = self.state.scores
        zero = next((c.number for c in self.state.candidates if c.ok), None)
        pool = list(confirmed) if confirmed else list(scores)
        pool = [n for n in pool if n in scores]
        ranked = sorted(pool, key=lambda n: (self._final(n, confirmed), n))
        winner = ranked[0] if ranked else None
        margin = max(self.noise, 0.01) if confirmed else 0.0
        kept = ""
        if winner is not None and zero in scores and winner != zero and zero is not None:
            if self._final(winner, confirmed) > math.exp(-margin) * self._final(zero, confirmed):
                kept = f"{self._name(winner)} is no faster than candidate {zero} beyond noise; "
                winner = zero
        general = self._best_general(confirmed) if winner not in (None, zero) else None
        if winner is None or general in (None, zero) or self._is_general(winner):
            general = None
        choices = {n: self._choice(n, confirmed) for n in {winner, zero, general} if n is not None}
        why = kept + self._why(winner, ranked, confirmed, zero)
        return SearchResult(
            choices.get(winner) if winner is not None else None,
            choices.get(zero) if zero is not None else None,
            tuple(self._rows(confirmed)),
            tuple(self.events),
            why,
            tuple(
                dict.fromkeys([*(e.text for e in self.events if isinstance(e, Note)),
                               *self.evaluator.notes])
            ),
            self.noise,
            stopped,
            self.run,
            self._spent(),
            choices.get(general) if general is not None else None,
        )  # fmt: skip

    def _choice(self, number: int, confirmed: Mapping[int, Metrics]) -> Choice:
        job = self._job(number)
        metrics = self._metrics(number, confirmed)
        c = self.state.candidates[number]
        final = self._final(number, confirmed)
        return Choice(c, job.schedule, job.program, metrics, final, number in confirmed, job.given)

    def _name(self, number: int) -> str:
        return f"{number} {self.state.candidates[number].schedule}"

    def _why(
        self,
        winner: int | None,
        ranked: Sequence[int],
        confirmed: Mapping[int, Metrics],
        zero: int | None,
    ) -> str:
        if winner is None:
            failed = [c for c in self.state.candidates if not c.ok and c.status not in FREE]
            if self.state.infeasible:
                return (
                    f"no candidate keeps the bounds: {next(iter(self.state.infeasible.values()))}"
                )
            return f"no candidate passed: {failed[0].reason}" if failed else "nothing was evaluated"
        final = {n: self._final(n, confirmed) for n in {winner, *ranked}}
        parts = [f"candidate {self._name(winner)}"]
        if winner != zero:
            parts.append(f"{1 / final[winner]:.2f}x candidate {zero}")
        rival = next((n for n in ranked if n not in (winner, zero)), None)
        if rival is not None:
            lead = final[rival] / final[winner] - 1
            how = self._schedule(winner).differences(self._schedule(rival))
            text = "; ".join(how)
            word = "ahead of" if lead >= 0 else "behind"
            parts.append(f"{abs(lead):.1%} {word} {rival} ({text})")
        parent = self.state.candidates[winner].parent
        if parent is not None and parent != rival:
            how = self._schedule(winner).differences(self._schedule(parent))
            parts.append(f"from {parent} by {'; '.join(how)}")
        if confirmed:
            parts.append(f"noise {self.noise:.1%}")
        else:
            parts.append("not confirmed" if self.measured else "modelled, not measured")
        return ", ".join(parts)

    def _schedule(self, number: int) -> Schedule:
        return parse(self.state.candidates[number].schedule)

    def _rows(self, confirmed: Mapping[int, Metrics]) -> list[dict[str, object]]:
        out = []
        for c in self.state.candidates:
            score = self.state.scores.get(c.number)
            if c.number in confirmed and score is not None:
                score = self._final(c.number, confirmed)
            row: dict[str, object] = {
                "number": c.number,
                "schedule": c.schedule,
                "status": c.status,
                "reason": c.reason or self.state.infeasible.get(c.number, ""),
                "score": score,
                "confirmed": c.number in confirmed,
                "origin": c.origin,
                "parent": c.parent,
            }
            for w, values in self._metrics(c.number, confirmed).items():
                row |= {f"{w}.{m}": v for m, v in values.items()}
            out.append(row)
        return out


def _identity(spaces: Sequence[Space]) -> str:
    """A digest of what the spaces hold, so that another version's run is not continued."""
    parts = [(s.name, [p.text for p in s.preferred()]) for s in spaces]
    near = [[n.text for n in s.neighbours(s.preferred()[0])] for s in spaces if s.preferred()]
    return hashlib.sha256(repr((parts, near)).encode()).hexdigest()


def _candidate(job: Job, e: Evaluation, generation: int, p: Proposal) -> Candidate:
    return Candidate(
        job.number,
        generation,
        job.schedule.text,
        e.status,
        e.reason,
        job.digest,
        e.source,
        e.records,
        e.build,
        e.metrics,
        p.origin,
        p.parent,
    )
