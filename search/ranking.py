"""Where the candidates of a search stand: scores, the best, and the result with its reasons."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opwright.ir.expr import evaluate
from opwright.ir.formulas import compulsory_bytes, flops
from opwright.ir.op import Operator
from opwright.ir.tile import TileProgram
from opwright.ir.tiletext import show_program
from opwright.search.archive import Archive, Candidate
from opwright.search.events import (
    Choice,
    Event,
    Note,
    SearchResult,
)
from opwright.search.loads import host
from opwright.search.objective import Metrics, Score, Scorer, idle
from opwright.search.propose import Builtin, Proposal, Proposer
from opwright.search.results import (
    Evaluator,
    Given,
    Incumbent,
    Job,
    TextSpace,
)
from opwright.search.space import Schedule, Space, parse, space_of

FREE = ("illegal", "duplicate")  # not counted against the budget
NOISY = math.log(1.1)  # a machine on which one text differs from itself by more is busy
FAR = 1.5  # there, a candidate that is this much faster on every clock is not given up


@dataclass(slots=True)
class State:
    candidates: list[Candidate] = field(default_factory=list)
    scores: dict[int, float] = field(default_factory=dict)
    programs: dict[str, int] = field(default_factory=dict)  # digest -> number
    infeasible: dict[int, str] = field(default_factory=dict)


class Ranking:
    """The candidates of a run so far and what is known of them."""

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
        self.op = op
        self.logged: dict[str, set[str]] = {}
        self.scorer = Scorer(op.objective, evaluator.weights)
        self.state = State()
        self.jobs: dict[int, Job] = {}
        self.noise = 0.0
        self.free: tuple[str, ...] = FREE
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

    # -- the ledger -------------------------------------------------------------------------------

    def introduce(self, command: Mapping[str, Any]) -> None:
        """Write down what was asked for and what the operator is, where that is new; a proposer
        with an `attach` method is handed what it writes its requests and answers with."""
        self.log("operator", described(self.op, self.evaluator))
        if command:
            self.log("command", command)
        attach = getattr(self.proposer, "attach", None)
        if attach is not None:
            attach(self.log)

    def log(
        self, kind: str, body: Mapping[str, Any], texts: Mapping[str, str] | None = None
    ) -> None:
        """Add an entry to the run's ledger, with texts by name; what is there already is not
        repeated."""
        named = {name: self.archive.keep(text) for name, text in (texts or {}).items()}
        whole = json.loads(json.dumps({**body, **({"texts": named} if named else {})}, default=str))
        if kind not in self.logged:
            held = self.archive.ledger(self.run, kind)
            self.logged[kind] = {json.dumps(e.body, sort_keys=True) for e in held}
        key = json.dumps(whole, sort_keys=True)
        if key not in self.logged[kind]:
            self.logged[kind].add(key)
            self.archive.log(self.run, kind, whole)

    def texts(self, job: Job) -> dict[str, str]:
        """The texts of a candidate by file name: its program, and what is built of it."""
        out: dict[str, str] = {}
        if job.program.kernels:
            out["program.tile"] = show_program(job.program)
        emitted = job.given.emitted if job.given else None
        if emitted is None:
            find = getattr(self.evaluator, "emitted", None)
            emitted = find(job) if find is not None else None
        if emitted is not None:
            out["candidate.json"] = json.dumps(emitted.plan.to_json(), indent=2) + "\n"
            out[emitted.plan.source] = emitted.source
        return out

    def answered(self, p: Proposal) -> dict[str, str]:
        """The texts of a proposal that never became a program; none of a schedule."""
        find = getattr(space_of(self.spaces, p.schedule), "written", None)
        return dict(find(p.schedule)) if find is not None else {}

    def emit(self, event: Event) -> None:
        self.events.append(event)
        if self.on_event is not None:
            self.on_event(event)

    # -- generations ------------------------------------------------------------------------------

    def _spent(self) -> int:
        return sum(c.status not in self.free for c in self.state.candidates)

    def _made(self, schedule: Schedule) -> tuple[TileProgram, Given | None]:
        """The program of a schedule, and the text that it was read from where it stands for one."""
        space = space_of(self.spaces, schedule)
        program = space.instantiate(schedule)
        return program, space.given(schedule) if isinstance(space, TextSpace) else None

    def _score(self, metrics: Metrics) -> Score:
        """Relative to candidate 0, or to the first that passed when candidate 0 did not."""
        if idle(metrics):
            return Score(math.inf, "its facts exclude every workload")
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
            ours, theirs = self._final(winner, confirmed), self._final(zero, confirmed)
            if ours > math.exp(-margin) * theirs:
                told = f"{self._name(winner)} is no faster than candidate {zero} beyond noise; "
                clocks = (scores[winner] / scores[zero], ours / theirs)
                if margin > NOISY and max(clocks) <= 1 / FAR:
                    kept = f"{told}it was, by far, whenever it was timed; "
                else:
                    kept = told
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


def described(op: Operator, evaluator: Evaluator) -> dict[str, Any]:
    """An operator for the ledger: its name and objective, and sizes, operations and compulsory
    bytes of the workloads that are measured."""
    work, traffic = flops(op), compulsory_bytes(op)
    loads: dict[str, Any] = {}
    for name, weight in evaluator.weights.items():
        loads[name] = {"weight": weight}
    for load in getattr(evaluator, "loads", ()):
        scaled = load[1] if isinstance(load, tuple) else load.scaled
        env = {**scaled.params, **scaled.sizes}
        at: dict[str, Any] = {"sizes": dict(scaled.sizes), "params": dict(scaled.params)}
        for key, formula in (("flops", work), ("bytes", traffic)):
            try:
                at[key] = int(evaluate(formula, env))
            except (KeyError, ValueError, TypeError, ArithmeticError):
                continue  # a formula over what a workload does not name
        loads.setdefault(scaled.name, {}).update(at)
    return {
        "operator": f"{op.name}@{op.version}",
        "types": dict(op.types),
        "spec": op.digest,
        "objective": [list(t) for t in op.objective.terms],
        "bounds": [list(b) for b in op.objective.bounds],
        "measured": bool(getattr(evaluator, "measured", True)),
        "machine": host(),
        "workloads": loads,
    }


def _identity(spaces: Sequence[Space]) -> str:
    """A digest of what the spaces hold, so that another version's run is not continued."""
    parts = [(s.name, [p.text for p in s.preferred()]) for s in spaces]
    near = [[n.text for n in s.neighbours(s.preferred()[0])] for s in spaces if s.preferred()]
    return hashlib.sha256(repr((parts, near)).encode()).hexdigest()
