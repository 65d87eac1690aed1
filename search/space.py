"""Schedules and the spaces they come from: frozen, ordered, printable decisions with a text form.

A space knows which decisions exist and how to turn them into a `TileProgram`; strategies in
`compiler/` implement it. An illegal schedule is an ordinary result with a reason, never an error
of the search.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Protocol, TypeAlias, runtime_checkable

from opwright.ir.tile import TileProgram

Decision: TypeAlias = int | float | bool | str | tuple["Decision", ...] | None

_WORD = re.compile(r"[A-Za-z_][\w.]*\Z")
_TOKEN = re.compile(
    r'\s*(?:(?P<number>-?(?:\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|inf)\b)|(?P<text>"(?:[^"\\]|\\.)*")'
    r"|(?P<word>[A-Za-z_][\w.]*)|(?P<mark>[(),=]))"
)
_CONSTANTS: dict[str, Decision] = {"true": True, "false": False, "none": None}


class IllegalSchedule(Exception):
    """These decisions make no program; `reason` is one sentence for the table and for a
    proposer.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ScheduleError(ValueError):
    """A text that is not a schedule, or a decision that a schedule does not have."""


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """What was decided, in order: `strategy(name=value, ...)`. Equal texts are equal schedules."""

    strategy: str
    decisions: tuple[tuple[str, Decision], ...] = ()

    def __post_init__(self) -> None:
        names = [n for n, _ in self.decisions]
        if len(set(names)) != len(names):
            raise ScheduleError(f"{self.strategy}: a decision is named twice")
        for word in (self.strategy, *names):
            if not _WORD.match(word) or word in (*_CONSTANTS, "inf"):
                raise ScheduleError(f"{word!r} cannot name a strategy or a decision")

    @property
    def text(self) -> str:
        """The text form that `parse` reads back and that tables, archives and proposers use."""
        inside = ", ".join(f"{n}={_show(v)}" for n, v in self.decisions)
        return f"{self.strategy}({inside})"

    @property
    def digest(self) -> str:
        """sha256 of the text: stable over processes, machines and versions of Python."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def __str__(self) -> str:
        return self.text

    # by text, since 1 == 1.0 == True in Python
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __getitem__(self, name: str) -> Decision:
        for n, v in self.decisions:
            if n == name:
                return v
        raise ScheduleError(f"{self.strategy} has no decision {name!r}")

    def changed(self, name: str, value: Decision) -> Schedule:
        """The schedule with one decision replaced."""
        self[name]
        return Schedule(
            self.strategy, tuple((n, value if n == name else v) for n, v in self.decisions)
        )

    def differences(self, other: Schedule) -> list[str]:
        """What differs, one `name: theirs -> ours` a line; a different strategy is one line."""
        if self.strategy != other.strategy:
            return [f"strategy: {other.strategy} -> {self.strategy}"]
        mine, theirs = dict(self.decisions), dict(other.decisions)
        out = []
        for n in dict.fromkeys([*theirs, *mine]):
            if n not in theirs or n not in mine or _show(mine[n]) != _show(theirs[n]):
                before = _show(theirs[n]) if n in theirs else "absent"
                after = _show(mine[n]) if n in mine else "absent"
                out.append(f"{n}: {before} -> {after}")
        return out


def _show(v: Decision) -> str:
    if v is None or isinstance(v, bool):
        return {None: "none", True: "true", False: "false"}[v]
    if isinstance(v, tuple):
        return "(" + ", ".join(_show(x) for x in v) + ("," if len(v) == 1 else "") + ")"
    if isinstance(v, str):
        plain = _WORD.match(v) and v not in _CONSTANTS and v != "inf"
        return v if plain else json.dumps(v)
    return repr(v)


def parse(text: str) -> Schedule:
    """The schedule of a text; ScheduleError with the column of the mistake."""
    tokens: list[tuple[str, str, int]] = []
    at = 0
    while at < len(text.rstrip()):
        m = _TOKEN.match(text, at)
        if m is None:
            raise ScheduleError(f"unexpected {text[at:].strip()[:1]!r} at column {at + 1}")
        kind = str(m.lastgroup)
        tokens.append((kind, m[kind], m.start(kind)))
        at = m.end()
    tokens.append(("end", "", len(text)))
    position = 0

    def take(kind: str, value: str | None = None) -> str:
        nonlocal position
        k, v, column = tokens[position]
        if k != kind or (value is not None and v != value):
            wanted = repr(value) if value else f"a {kind}"
            raise ScheduleError(
                f"expected {wanted}, found {v or 'the end'!r} at column {column + 1}"
            )
        position += 1
        return v

    def value() -> Decision:
        kind, v, _ = tokens[position]
        if kind == "number":
            take("number")
            return float(v) if any(c in v for c in ".einf") else int(v)
        if kind == "text":
            return str(json.loads(take("text")))
        if kind == "word":
            word = take("word")
            return _CONSTANTS[word] if word in _CONSTANTS else word
        take("mark", "(")
        items: list[Decision] = []
        while tokens[position][1] != ")" or tokens[position][0] != "mark":
            items.append(value())
            if tokens[position][1] != ")":
                take("mark", ",")
        take("mark", ")")
        return tuple(items)

    strategy = take("word")
    take("mark", "(")
    decisions: list[tuple[str, Decision]] = []
    while tokens[position][1] != ")":
        name = take("word")
        take("mark", "=")
        decisions.append((name, value()))
        if tokens[position][1] != ")":
            take("mark", ",")
    take("mark", ")")
    take("end")
    return Schedule(strategy, tuple(decisions))


@runtime_checkable
class Space(Protocol):
    """The legal and illegal schedules of one strategy for one operator.

    `name` is the strategy of every schedule of the space.
    """

    @property
    def name(self) -> str: ...

    def preferred(self) -> list[Schedule]:
        """The schedules to try first, best guess first; at least one."""
        ...

    def sample(self, rng: Random) -> Schedule:
        """A schedule drawn by `rng` alone; it may be illegal."""
        ...

    def neighbours(self, schedule: Schedule) -> list[Schedule]:
        """Schedules that differ by one step, in a fixed order."""
        ...

    def instantiate(self, schedule: Schedule) -> TileProgram:
        """The program of a schedule; IllegalSchedule when there is none."""
        ...


@dataclass(frozen=True)
class ChoiceSpace:
    """A space given by ordered holes, each with its values: the first value is the preferred one.

    `build` gets the decisions as keywords and raises IllegalSchedule. Numbers are
    neighbours of the next and the previous value of their hole, other values of all of them.
    `starts` are further preferred points as partial decisions. A schedule may leave out the holes
    in `optional`, which then have their first values: it may be older than they are.
    """

    name: str
    holes: Mapping[str, tuple[Decision, ...]]
    build: Callable[..., TileProgram]
    starts: tuple[Mapping[str, Decision], ...] = ()
    optional: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for hole, values in self.holes.items():
            if not values:
                raise ScheduleError(f"{self.name}: hole {hole!r} has no values")
            if len({_show(v) for v in values}) != len(values):
                raise ScheduleError(f"{self.name}: hole {hole!r} has a value twice")
        for start in self.starts:
            for hole, value in start.items():
                if _show(value) not in map(_show, self.holes.get(hole, ())):
                    raise ScheduleError(f"{self.name}: {hole}={_show(value)} is not in the space")

    def __len__(self) -> int:
        n = 1
        for values in self.holes.values():
            n *= len(values)
        return n

    def _schedule(self, decisions: Mapping[str, Decision]) -> Schedule:
        return Schedule(self.name, tuple((h, decisions[h]) for h in self.holes))

    def preferred(self) -> list[Schedule]:
        first = {h: v[0] for h, v in self.holes.items()}
        found = [self._schedule(first), *(self._schedule({**first, **s}) for s in self.starts)]
        return list(dict.fromkeys(found))

    def sample(self, rng: Random) -> Schedule:
        return self._schedule({h: v[rng.randrange(len(v))] for h, v in self.holes.items()})

    def neighbours(self, schedule: Schedule) -> list[Schedule]:
        schedule = self._own(schedule)
        out = []
        for hole, values in self.holes.items():
            here = [_show(v) for v in values].index(_show(schedule[hole]))
            numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
            if numeric:
                order = sorted(range(len(values)), key=partial(_number, values))
                rank = order.index(here)
                near = [order[r] for r in (rank - 1, rank + 1) if 0 <= r < len(order)]
            else:
                near = [i for i in range(len(values)) if i != here]
            out += [schedule.changed(hole, values[i]) for i in near]
        return out

    def instantiate(self, schedule: Schedule) -> TileProgram:
        schedule = self._own(schedule)
        return self.build(**dict(schedule.decisions))

    def _own(self, schedule: Schedule) -> Schedule:
        """The schedule with every hole; IllegalSchedule for one of another space."""
        given = dict(schedule.decisions)
        missing = [h for h in self.optional if h not in given]
        if missing and schedule.strategy == self.name and set(given) <= set(self.holes):
            names = [n for n, _ in schedule.decisions]
            if names == [h for h in self.holes if h in given]:
                given |= {h: self.holes[h][0] for h in missing}
                if set(given) == set(self.holes):
                    schedule = self._schedule(given)
        if schedule.strategy != self.name or [n for n, _ in schedule.decisions] != list(self.holes):
            raise IllegalSchedule(f"{schedule} is not a schedule of {self.name}")
        for n, v in schedule.decisions:
            if _show(v) not in map(_show, self.holes[n]):
                raise IllegalSchedule(f"{n}={_show(v)} is not among the values of {self.name}")
        return schedule


def _number(values: tuple[Decision, ...], i: int) -> float:
    v = values[i]
    return float(v) if isinstance(v, int | float) else 0.0


def space_of(spaces: Iterable[Space], schedule: Schedule) -> Space:
    """The space that a schedule belongs to; IllegalSchedule when none has its name."""
    for s in spaces:
        if s.name == schedule.strategy:
            return s
    raise IllegalSchedule(f"no strategy {schedule.strategy} for this operator")
