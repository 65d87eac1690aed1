"""What moves gained, measured, over all searches: it steers the choice of the next move and is told
to the next prompt, also of other operators.

A file of JSON lines that is only appended to. A row is about a form, never about an operator's
name alone: (form, bottleneck, move, device) -> logarithm of the parent's time over the child's.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from opwright.search.moves import Move

FAILED = -0.05  # what a move that gave nothing measurable counts as
CLIP = (-1.0, 2.0)
SPREAD = 0.35  # standard deviation of one measured gain, in logarithms
TOLD = 4  # lines about other operators in a prompt
LEARNED = 3  # schedules of other operators that are tried first


@dataclass(frozen=True, slots=True)
class Gain:
    """One child: what it was made by, from what, and log(parent's time / its time); None where it
    was not measured. `move` is empty for a schedule that won a search; `schedule` is then it."""

    forms: tuple[str, ...]
    bottleneck: str
    move: str
    device: str
    backend: str
    operator: str
    gain: float | None
    status: str = "ok"
    plan: tuple[str, ...] = ()
    schedule: str = ""
    run: str = ""

    @property
    def form(self) -> str:
        return "+".join(sorted(self.forms))


@dataclass(slots=True)
class Experience:
    """The rows of a file and those added since; nothing is kept without a path."""

    path: Path | None = None
    rows: list[Gain] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    @staticmethod
    def load(path: Path) -> Experience:
        """All readable rows; a damaged or half-written line is left out, nothing is repaired."""
        found = Experience(path)
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        for line in lines:
            try:
                found.rows.append(gain_from(json.loads(line)))
            except (ValueError, KeyError, TypeError):
                continue
        found._seen = {_text(r) for r in found.rows}
        return found

    def add(self, row: Gain) -> None:
        """Keep a row; a second one that is equal (a repeated run) changes nothing."""
        text = _text(row)
        if text in self._seen:
            return
        self._seen.add(text)
        self.rows.append(row)
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.write(handle, (text + "\n").encode())
        finally:
            os.close(handle)

    def without(self, run: str) -> Experience:
        """What was known before a run, kept nowhere."""
        return Experience(None, [r for r in self.rows if r.run != run])

    def evidence(
        self, move: str, forms: Sequence[str], bottleneck: str, device: str, backend: str
    ) -> list[tuple[float, float]]:
        """(gain, weight) of measured children by a move, the more alike their case the more."""
        out = []
        for r in self.rows:
            if r.move != move or r.backend != backend or not set(r.forms) & set(forms):
                continue
            weight = 1.0 if set(r.forms) == set(forms) else 0.5
            weight *= 1.0 if r.bottleneck == bottleneck else 0.5
            weight *= 1.0 if r.device == device else 0.5
            out.append((FAILED if r.gain is None else _clipped(r.gain), weight))
        return out

    def told(
        self, forms: Sequence[str], device: str, backend: str, operator: str
    ) -> tuple[str, ...]:
        """Lines for prompts: what gained most on other operators of this form."""
        fit = [
            r
            for r in self.rows
            if r.gain is not None
            and r.gain > 0.05
            and r.move
            and r.backend == backend
            and r.operator != operator
            and set(r.forms) & set(forms)
        ]
        fit.sort(
            key=lambda r: (-len(set(r.forms) & set(forms)), r.device != device, -(r.gain or 0))
        )
        lines: dict[str, str] = {}
        for r in fit:
            what = "; ".join(r.plan[:2])
            text = f"{r.move}: {math.exp(r.gain or 0):.2f} times as fast ({r.bottleneck})"
            lines.setdefault(r.move, f"{text}: {what}" if what else text)
        return tuple(lines.values())[:TOLD]

    def schedules(self, forms: Sequence[str], backend: str, device: str) -> list[str]:
        """Schedules that won on operators of exactly this form, the latest first."""
        fit = [
            r
            for r in reversed(self.rows)
            if r.schedule and not r.move and r.backend == backend and set(r.forms) == set(forms)
        ]
        fit.sort(key=lambda r: r.device != device)
        return list(dict.fromkeys(r.schedule for r in fit))[:LEARNED]

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(r) for r in self.rows]


def gain_from(data: Mapping[str, Any]) -> Gain:
    gain = data["gain"]
    if gain is not None and not math.isfinite(float(gain)):
        raise ValueError("a gain is a number")
    held = {**data, "forms": tuple(data["forms"]), "plan": tuple(data.get("plan", ()))}
    return Gain(**{**held, "gain": None if gain is None else float(gain)})


def _text(row: Gain) -> str:
    return json.dumps(asdict(row), sort_keys=True, ensure_ascii=False)


def _clipped(gain: float) -> float:
    return min(max(gain, CLIP[0]), CLIP[1])


@dataclass(slots=True)
class Bandit:
    """Chooses a move by Thompson sampling of its expected gain over the parent."""

    experience: Experience
    forms: tuple[str, ...]
    device: str
    backend: str
    own: dict[str, list[float]] = field(default_factory=dict)

    def learn(self, move: str, gain: float | None) -> None:
        """What a child of this search gained; None where it failed."""
        self.own.setdefault(move, []).append(FAILED if gain is None else _clipped(gain))

    def belief(self, move: Move, bottleneck: str) -> tuple[float, float]:
        """Mean and standard deviation of what is expected of a move."""
        low, high = move.gain
        prior = 0.5 * (math.log(low) + math.log(high)) / 2
        weight, total = 0.5, 0.5 * prior
        found = self.experience.evidence(
            move.name, self.forms, bottleneck, self.device, self.backend
        )
        elsewhere = min(sum(w for _, w in found), 4.0)  # however much there is: this one may differ
        if found:
            mean = sum(g * w for g, w in found) / sum(w for _, w in found)
            total += elsewhere * mean
            weight += elsewhere
        mine = self.own.get(move.name, [])
        total += sum(mine)
        weight += len(mine)
        return total / weight, SPREAD / math.sqrt(weight)

    def choose(
        self, moves: Iterable[Move], bottleneck: str, rng: Random, unused: bool = False
    ) -> Move | None:
        """A move; `unused`: among those that this search tried least."""
        pool = list(moves)
        if unused and pool:
            least = min(len(self.own.get(m.name, ())) for m in pool)
            pool = [m for m in pool if len(self.own.get(m.name, ())) == least]
        drawn = []
        for m in pool:
            mean, deviation = self.belief(m, bottleneck)
            drawn.append((rng.gauss(mean, deviation), m))
        return max(drawn, key=lambda d: (d[0], d[1].name))[1] if drawn else None
