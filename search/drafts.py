"""Candidates that a model wrote: ideas with their attempts, and the space of their texts.

An idea (a plan) has up to a few attempts at code, so that a good plan survives a buggy first text.
A schedule names an attempt and the values of its holes; it is judged like every other text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from opwright.ir.normal import normal_form
from opwright.ir.plan import Plan, PlanError
from opwright.ir.tile import TileProgram
from opwright.search import exchange
from opwright.search.answers import Answer, candidate
from opwright.search.cassette import Cassette
from opwright.search.llm import Request
from opwright.search.results import Given
from opwright.search.space import Decision, IllegalSchedule, Schedule

NAME = "llm"
ATTEMPTS = 3  # at one idea
DEALT = "dealt"  # how programs are dealt to threads, where it is not as the text says
FIXED = ("node", "attempt", "text", DEALT)


@dataclass(slots=True)
class Attempt:
    """One answer at an idea. `problem`: what is wrong with its form; `status`, `reason`: what the
    gates and the clock said of its preferred text."""

    number: int
    request: Request
    text: str
    answer: Answer | None = None
    problem: str = ""
    kind: str = ""  # of the problem
    status: str = ""
    reason: str = ""
    candidate: int | None = None

    @property
    def digest(self) -> str:
        held = self.answer
        text = "\0".join((held.launch, held.code, repr(dict(held.holes)))) if held else self.text
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(slots=True)
class Node:
    """An idea: a plan, or a move from a parent. kind: plan | move | paradigm | sample."""

    number: int
    kind: str
    parent: int | None = None
    move: str = ""
    bottleneck: str = ""
    plan: tuple[str, ...] = ()
    attempts: list[Attempt] = field(default_factory=list)
    closed: str = ""  # why nothing more is asked

    @property
    def last(self) -> Attempt | None:
        return self.attempts[-1] if self.attempts else None

    def schedule(self, attempt: Attempt, values: Mapping[str, str] | None = None) -> Schedule:
        """What stands for an attempt with these values of its holes (the first ones, where none
        are given)."""
        assert attempt.answer is not None
        chosen = values if values is not None else attempt.answer.first
        decisions: list[tuple[str, Decision]] = [
            ("node", self.number),
            ("attempt", attempt.number),
            ("text", f"t{attempt.digest}"),
        ]
        decisions += [(n, int(v) if re.fullmatch(r"\d+", v) else v) for n, v in chosen.items()]
        return Schedule(NAME, tuple(decisions))


Judge = Callable[[exchange.Answer], tuple[TileProgram, Given]]


def remembered(tape: Cassette) -> dict[str, str]:
    """What the programs of a run that goes on were, by schedule."""
    return {str(e["schedule"]): str(e["key"]) for e in tape.entries("novel")}


@dataclass(slots=True)
class Drafts:
    """The space of all texts of a search's ideas. `plan` is what an author does not choose of a
    launch plan; `judge` gives what was read of a text with what the gates before execution said.
    `keys` are kept in the ledger, as what an archive replays is not judged again."""

    plan: Mapping[str, Any]
    judge: Judge
    nodes: list[Node] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)  # schedule -> what its program is
    note: Callable[..., None] = lambda kind, **content: None
    _passed: dict[str, str] = field(default_factory=dict)  # what a program is -> its schedule
    _made: dict[str, tuple[TileProgram, Given]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return NAME

    def preferred(self) -> list[Schedule]:
        return []

    def sample(self, rng: Random) -> Schedule:
        return Schedule(NAME)

    def neighbours(self, schedule: Schedule) -> list[Schedule]:
        """The same text with one hole at its next or previous value, and with its programs dealt to
        threads the other way."""
        node, attempt = self.find(schedule)
        assert attempt.answer is not None
        own = {n: str(v) for n, v in schedule.decisions if n not in FIXED}
        out = []
        if self.plan.get("backend") == "cpp" and DEALT not in dict(schedule.decisions):
            try:
                launches = self.text_of(schedule)[0].launches
            except IllegalSchedule:
                launches = ()
            if launches and launches[0].grid != ("1",):
                other = "static" if launches[0].schedule == "dynamic" else "dynamic"
                out.append(Schedule(NAME, (*schedule.decisions, (DEALT, other))))
        for name, values in attempt.answer.holes.items():
            at = values.index(own[name])
            for n in (at + 1, at - 1):
                if 0 <= n < len(values):
                    near = node.schedule(attempt, {**own, name: values[n]})
                    kept = tuple(d for d in schedule.decisions if d[0] == DEALT)
                    out.append(Schedule(NAME, (*near.decisions, *kept)))
        return out

    def find(self, schedule: Schedule) -> tuple[Node, Attempt]:
        """Idea and attempt of a schedule; IllegalSchedule for one that names none."""
        found = dict(schedule.decisions)
        for node in self.nodes:
            if node.number != found.get("node"):
                continue
            for a in node.attempts:
                if a.number == found.get("attempt") and a.answer is not None:
                    if f"t{a.digest}" != found.get("text"):
                        break
                    return node, a
        raise IllegalSchedule(f"there is no text {schedule.text}")

    def text_of(self, schedule: Schedule) -> tuple[Plan, str]:
        """Plan and source; IllegalSchedule for a launch plan that is none."""
        _, attempt = self.find(schedule)
        assert attempt.answer is not None
        values = {n: str(v) for n, v in schedule.decisions if n not in FIXED}
        try:
            plan, source = candidate(attempt.answer, values, self.plan)
        except PlanError as e:
            raise IllegalSchedule(str(e)) from None
        return dealt_as(plan, schedule), source

    def passed(self, schedule: Schedule) -> None:
        """From now on texts of the same program are not tried. Those of a text that failed are:
        what mends it need not change the program."""
        key = self.keys.get(schedule.text)
        if key is not None:
            self._passed.setdefault(key, schedule.text)

    def instantiate(self, schedule: Schedule) -> TileProgram:
        return self._read(schedule)[0]

    def given(self, schedule: Schedule) -> Given:
        return self._read(schedule)[1]

    def _read(self, schedule: Schedule) -> tuple[TileProgram, Given]:
        if schedule.text not in self._made:
            plan, source = self.text_of(schedule)
            node, _ = self.find(schedule)
            made = self.judge(exchange.Answer(node.number, NAME, plan, source))
            key = novelty(made[0], made[1])
            self.keys[schedule.text] = key
            self.note("novel", key=key, schedule=schedule.text)
            twin = self._passed.get(key, schedule.text)
            if twin != schedule.text:
                raise IllegalSchedule(f"the same program as {twin}, up to names")
            self._made[schedule.text] = made
        return self._made[schedule.text]


def dealt_as(plan: Plan, schedule: Schedule) -> Plan:
    """A plan whose programs are dealt to threads as a schedule decides, where it does."""
    how = dict(schedule.decisions).get(DEALT)
    if how is None:
        return plan
    return replace(plan, launches=tuple(replace(x, schedule=str(how)) for x in plan.launches))


_MARKS = re.compile(
    r"^\s*#\s*pragma.*$|__restrict\w*|__builtin_prefetch[^;]*;|\bv_stream\b|__builtin_\w+|\b_mm\w+|\balignas\s*\([^)]*\)|\binline\b",
    re.MULTILINE,
)


def novelty(program: TileProgram, given: Given) -> str:
    """What makes a text another one: its normal form, with how it is launched and the hints that
    its compiler reads; the text itself where it was not read."""
    source = given.emitted.source
    launches = [
        (c.grid, sorted(c.const.items()), c.schedule, sorted(c.extra.items()))
        for c in given.emitted.plan.launches
    ]
    if program.kernels:
        try:
            core = normal_form(program)
        except (ValueError, KeyError, TypeError, AssertionError, RecursionError):
            core = source
        marks = [" ".join(m.group(0).split()) for m in _MARKS.finditer(source)]
    else:
        core, marks = re.sub(r"\s+", " ", source), []
    return hashlib.sha256(repr((core, marks, launches)).encode()).hexdigest()
