"""The search: proposals in generations, cheap checks first, everything archived, the best
confirmed.

Proposals depend on the seed and on earlier results alone. A run that was stopped or killed goes on
where it was: what the archive holds is replayed, not evaluated again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from opwright.ir.op import Operator
from opwright.ir.tile import TileProgram
from opwright.ir.tiletext import digest as program_digest
from opwright.search.archive import Archive, ArchiveError, Candidate
from opwright.search.events import (
    Confirmed,
    Confirming,
    Evaluated,
    Event,
    Finished,
    Note,
    Proposed,
    SearchResult,
    Started,
)
from opwright.search.objective import Metrics
from opwright.search.propose import Proposal, Proposer, View
from opwright.search.ranking import FREE, NOISY, Ranking
from opwright.search.results import (
    Confirmation,
    Evaluation,
    Evaluator,
    Job,
)
from opwright.search.space import IllegalSchedule, Space

REPEATS = 2  # of a confirmation on a busy machine
REUSED = (
    "ok",
    "refuted",
    "unproved",
    "unbuilt",
    "wrong",
)  # verdicts that another run may take over


@dataclass(frozen=True, slots=True)
class Budget:
    """When to stop: candidates evaluated and seconds. Candidates with a status in `free` do not
    count."""

    evaluations: int = 24
    seconds: float | None = None
    free: tuple[str, ...] = FREE


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
    command: Mapping[str, Any] | None = None,
) -> SearchResult:
    """Search the spaces; the first preferred schedule of the first space is candidate 0.

    `command` is what was asked for; the ledger keeps it, so that the run can be resumed. `general`
    tells programs that stand in for a candidate wherever its facts exclude a call.
    Ctrl-C ends it with the best so far and the archive intact. Raises ArchiveError when the archive
    holds a run with this seed whose proposals were others.
    """
    own = archive is None
    archive = archive or Archive(":memory:")
    try:
        run = _Search(
            spaces, op, evaluator, seed, archive, on_event, proposer, digest, batch, general
        )
        run.introduce(command or {})
        return run.go(budget or Budget())
    finally:
        if own:
            archive.close()


class _Search(Ranking):
    """The loop over generations."""

    def go(self, budget: Budget) -> SearchResult:
        self.free = budget.free
        deadline = math.inf if budget.seconds is None else time.monotonic() + budget.seconds
        stopped = False
        self.emit(Started(tuple(s.name for s in self.spaces), budget.evaluations, len(self.stored)))
        told = len(self.scorer.notes)
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
        for note in self.scorer.notes[told:]:
            self.emit(Note(note))
        number = result.winner.candidate.number if result.winner else None
        outcome = {"outcome": "stopped" if stopped else "finished", "winner": number}
        self.archive.finish(self.run, {**outcome, "noise": self.noise})
        self.emit(Finished(number, stopped, result.why))
        return replace(result, events=tuple(self.events))

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
            counted = sum(c.status not in self.free for c in known.values())
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
                self.archive.add(self.run, made, self.evaluator.context, self.answered(p))
            else:
                jobs[number] = (made, p)
                fresh[made.digest] = number
        incumbent = self._incumbent()
        try:
            for job, e in self.evaluator.evaluate([j for j, _ in jobs.values()], incumbent):
                c = _candidate(job, e, generation, jobs[job.number][1])
                self.archive.add(self.run, c, self.evaluator.context, self.texts(job))
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
        first = sorted(confirmed, key=lambda n: (self._final(n, confirmed), n))
        own = [n for n in ranked if n != zero and not self._told(n)]
        if first and self._told(first[0]) and own and own[0] not in confirmed:
            self._side_by_side([first[0], own[0]], zero, stored, confirmed)
        best_general = self._best_general({})
        leader = sorted(confirmed, key=lambda n: (self._final(n, confirmed), n))
        unlike = bool(leader) and not self._is_general(leader[0])
        if unlike and best_general is not None and best_general not in confirmed:
            self._side_by_side([best_general, leader[0]], zero, stored, confirmed)
        return confirmed

    def _told(self, number: int) -> bool:
        """Whether a candidate's text was written by somebody else."""
        return self.state.candidates[number].origin.startswith(("llm", "exchange"))

    def _quiet(self, jobs: Sequence[Job], zero: Job) -> Confirmation:
        """A confirmation; measured again, a few times, while one text differs from itself by more
        than candidates do."""
        found = self.evaluator.confirm(jobs, zero)
        for _ in range(REPEATS):
            if found.noise <= NOISY:
                break
            apart = f"one text differs from itself by {math.expm1(found.noise):.0%}"
            self.emit(Note(f"{apart} side by side; the finalists are measured again"))
            again = self.evaluator.confirm(jobs, zero)
            if again.noise < found.noise:
                found = again
        return found

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
            found = self._quiet([self._job(n) for n in numbers], self._job(zero))
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
