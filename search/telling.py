"""What a prompt of the guided search is told of candidates: a parent with its times and what other
values of its holes gave, what was tried from it and from others, what is wrong with a text.

`search/prompts.py` owns the words around; nothing here asks or decides.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from opwright.search import prompts
from opwright.search.answers import shortened
from opwright.search.archive import Candidate
from opwright.search.artefacts import Keeper
from opwright.search.drafts import NAME, Attempt, Drafts, Node
from opwright.search.experience import Experience
from opwright.search.prompts import Context, Memory, Parent
from opwright.search.propose import View
from opwright.search.space import IllegalSchedule, Space
from opwright.search.space import parse as parse_schedule

SHOWN = ("G0", "G1", "G2", "G3", "G4", "G6")  # gates of which a repair is told all that is wrong
FAULTS = 8  # messages in one repair
EXCERPTS = 4  # lines of the text in one repair
TUNED = 5  # other values of a parent's holes
OTHERS = 6  # results from other parents
INSPIRING = 6000  # characters of another kernel, at most
UNSHOWN = re.compile(r"a counterexample at (.*?) could not be replayed")


class Workshop(Protocol):
    """What the layers around know of candidates."""

    @property
    def keeper(self) -> Keeper: ...

    def text_of(self, c: Candidate, spaces: Sequence[Space]) -> tuple[str, str]:
        """Launch plan (as JSON, without what the machine fills in) and source."""
        ...

    def look(self, c: Candidate, spaces: Sequence[Space]) -> tuple[str, str, tuple[str, ...]]:
        """The class of its bottleneck (moves.BOTTLENECKS), a sentence with numbers, and lines about
        what was built of it."""
        ...

    def faults(self, c: Candidate) -> list[str]:
        """All that is wrong with a text before it is read, where more than one thing is."""
        ...

    def profile(self, c: Candidate) -> None:
        """Keep what is known of a candidate that passed."""
        ...


@dataclass(slots=True)
class Teller:
    """Puts together what is known, from the candidates so far. `blocked`: why (move, parent) is not
    tried again."""

    context: Context
    drafts: Drafts
    workshop: Workshop
    experience: Experience
    device: str
    candidates: Mapping[int, Candidate] = field(default_factory=dict)
    blocked: Mapping[tuple[str, int | None], str] = field(default_factory=dict)

    # -- parents -----------------------------------------------------------------------------

    def parent(self, number: int, view: View) -> Parent:
        c = self.candidates[number]
        launch, code = self.workshop.text_of(c, view.spaces)
        label, why, built = self.workshop.look(c, view.spaces)
        own = {w: m for w, m in c.metrics.items() if "latency" in m}
        plan: tuple[str, ...] = ()
        if drafted(c):
            plan = self.drafts.find(parse_schedule(c.schedule))[0].plan
        return Parent(
            c.schedule,
            launch,
            code,
            {w: m["latency"] for w, m in own.items()},
            view.scores[number],
            label,
            why,
            plan,
            {w: m["spread"] for w, m in own.items() if "spread" in m},
            tuple(w for w, m in own.items() if m.get("delegated")),
            tuple(self._tuned(c, view)),
            built,
        )

    def _tuned(self, c: Candidate, view: View) -> list[str]:
        """The same text, or strategy, with other decisions: how fast, in units of this one."""
        mine = parse_schedule(c.schedule)
        found = []
        for other in self.candidates.values():
            if other.number == c.number or other.number not in view.scores:
                continue
            theirs = parse_schedule(other.schedule)
            if theirs.strategy != mine.strategy:
                continue
            if drafted(c) and _text(theirs.decisions) != _text(mine.decisions):
                continue
            how = theirs.differences(mine)
            ratio = view.scores[other.number] / view.scores[c.number]
            found.append((len(how), ratio, f"{'; '.join(how)}: {ratio:.2f} times its time"))
        found.sort()
        return [text for _, _, text in found[:TUNED]]

    # -- memory ------------------------------------------------------------------------------

    def memory(
        self, number: int | None, view: View | None = None, other: int | None = None
    ) -> Memory:
        """What is worth telling: what was tried from a parent (from any, where none is named) and
        from others, what to avoid, what gained elsewhere. `other`: a kernel to be shown."""
        siblings, others = [], []
        for node in self.drafts.nodes:
            for a in node.attempts[-1:]:
                line = self._line(node, a, view)
                if line is None:
                    continue
                gain, text = line
                if number is None or node.parent == number:
                    siblings.append(text)
                else:
                    others.append((gain, node.number, text))
        avoid = [
            f"{move}: {short(prompts.unexpected(why))}"
            for (move, parent), why in self.blocked.items()
            if number is None or parent == number
        ]
        # the best of what gained, then the latest of what failed
        won = sorted((o for o in others if o[0] > 0), key=lambda o: (-o[0], o[1]))
        lost = sorted((o for o in others if o[0] <= 0), key=lambda o: -o[1])
        told = self.experience.told(
            self.context.forms, self.device, self.context.backend, self.context.operator
        )
        return Memory(
            tuple(siblings),
            tuple(avoid),
            told,
            self._inspiration(other, view) if other is not None and view is not None else "",
            tuple(text for _, _, text in [*won, *lost][:OTHERS]),
        )

    def _line(self, node: Node, a: Attempt, view: View | None) -> tuple[float, str] | None:
        """What came of an idea: log of its gain over its parent, and a line."""
        what = node.move or "; ".join(node.plan[:1])
        c = self.candidates.get(a.candidate) if a.candidate is not None else None
        if c is None or not c.ok:
            if not (a.problem or a.status):
                return None
            why = prompts.unexpected(_plain(a.problem or a.reason))
            return -1.0, f"{what} | {a.status or a.kind} | {short(why)}"
        times = ", ".join(
            prompts.time(m["latency"]) + (" (another candidate's)" if m.get("delegated") else "")
            for m in c.metrics.values()
            if "latency" in m
        )
        gain, parts = 0.0, [what]
        before = self.candidates.get(node.parent) if node.parent is not None else None
        scores = view.scores if view is not None else {}
        if before is not None and before.number in scores and c.number in scores:
            gain = math.log(scores[before.number] / scores[c.number])
            delta = self.delta(before, c, view)
            parts += [delta] if delta else []
            parts.append(f"{times}, {math.exp(gain):.2f} times as fast as its parent")
        else:
            parts.append(times)
        return gain, " | ".join([*parts, "passed"])

    def delta(self, before: Candidate, after: Candidate, view: View | None) -> str:
        """How the launch of a candidate differs from another's."""
        if view is None:
            return ""
        try:
            old, new = (
                json.loads(self.workshop.text_of(c, view.spaces)[0]) for c in (before, after)
            )
        except (ValueError, KeyError, IllegalSchedule):
            return ""
        return launch_delta(old, new)

    def _inspiration(self, number: int, view: View) -> str:
        """Another kernel with its times and what limits it."""
        c = self.candidates[number]
        _, code = self.workshop.text_of(c, view.spaces)
        if len(code) >= INSPIRING:
            return ""
        label, why, _ = self.workshop.look(c, view.spaces)
        times = ", ".join(
            f"{w} {prompts.time(m['latency'])}" for w, m in c.metrics.items() if "latency" in m
        )
        score = view.scores.get(number)
        head = f"`{c.schedule}`: {score:.3f} {self.context.unit}; {times}. " if score else ""
        return f"{head}What limits it ({label}): {why}\n```\n{code.strip()}\n```"

    # -- what is wrong -----------------------------------------------------------------------

    def error(self, attempt: Attempt) -> str:
        """What is wrong, all that the machine found of it: reasons, counterexamples that were seen
        to fail, and the lines of the text that are meant."""
        lines = [_plain(attempt.reason)]
        c = self.candidates.get(attempt.candidate) if attempt.candidate is not None else None
        if c is not None:
            lines += [x for x in self.workshop.faults(c) if x not in attempt.reason]
            worst = "REFUTED" if any(r.status == "REFUTED" for r in c.records) else "UNKNOWN"
            for r in c.records:
                told = _plain(r.reason) in "\n".join(lines)
                if r.status != worst or r.kind not in SHOWN or r.id.endswith(".import"):
                    continue
                if not told:
                    lines.append(f"{r.id} is {r.status}: {_plain(r.reason)}")
                if r.counterexample and r.status == "REFUTED" and r.kind != "G0":
                    lines.append(f"counterexample: {dict(r.counterexample)}")
        return "\n".join([*lines[:FAULTS], *self._excerpts(lines[:FAULTS], attempt)])[:4000]

    def _excerpts(self, said: Sequence[str], attempt: Attempt) -> list[str]:
        """The lines of a text that messages name by their numbers."""
        node = next(n for n in self.drafts.nodes if attempt in n.attempts)
        try:
            _, source = self.drafts.text_of(node.schedule(attempt))
        except (ValueError, IllegalSchedule):
            return []
        text = source.splitlines()
        numbers = [int(n) for n in re.findall(r"kernel\.\w+:(\d+)", "\n".join(said))]
        out = []
        for n in list(dict.fromkeys(numbers))[:EXCERPTS]:
            if 0 < n <= len(text):
                out.append(f"line {n}: {shortened(text[n - 1].strip(), 200)}")
        return out


def launch_delta(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs between two launch plans, in a few words."""
    parts = []
    dealt = [
        "/".join(dict.fromkeys(str(x.get("schedule", "static")) for x in p.get("launches", [])))
        for p in (old, new)
    ]
    if dealt[0] != dealt[1]:
        parts.append(f"{dealt[0]} -> {dealt[1]}")
    counts = [len(p.get("launches", [])) for p in (old, new)]
    if counts[0] != counts[1]:
        parts.append(f"{counts[1]} launches for {counts[0]}")
    grids = [", ".join(map(str, x.get("grid", ["1"]))) for p in (old, new)
             for x in p.get("launches", [])[:1]]  # fmt: skip
    if len(grids) == 2 and grids[0] != grids[1]:
        parts.append(f"grid [{grids[0]}] -> [{grids[1]}]")
    facts = [set(map(str, p.get("facts", []))) for p in (old, new)]
    more, fewer = sorted(facts[1] - facts[0]), sorted(facts[0] - facts[1])
    if more or fewer:
        parts.append("facts " + ", ".join([*(f"+{x}" for x in more), *(f"-{x}" for x in fewer)]))
    return shortened("; ".join(parts), 160)


def dealt(launch: str) -> tuple[str, ...]:
    """How the launches of a plan deal programs to threads."""
    try:
        return tuple(str(x.get("schedule", "static")) for x in json.loads(launch)["launches"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return ()


def drafted(c: Candidate) -> bool:
    """Whether a model wrote it."""
    return c.schedule.startswith(f"{NAME}(")


def short(text: str) -> str:
    return shortened(" ".join(text.split()), 240)


def _plain(text: str) -> str:
    """A reason without what a prover proposed and no run confirmed: it is no advice."""
    return UNSHOWN.sub("not proved; nothing was seen to fail, the prover could not decide it", text)


def _text(decisions: Sequence[tuple[str, Any]]) -> tuple[Any, Any]:
    held = dict(decisions)
    return held.get("node"), held.get("text")
