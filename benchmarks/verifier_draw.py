"""Which faults are judged, in which order, and what is kept of it.

The order is a function of the seed: one turn of every group (a backend and a level) after the
other, in a group one turn of every family of operators, in a family one of every kernel; a turn
draws a few mutants, of the classes of which the group had the fewest so far. A run that is cut
short has so seen a fair sample, and one that goes on draws what the first one would have drawn.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from opwright.benchmarks.verifier_subjects import Subject
from opwright.compiler.mutating_gates import DENIED, LIMIT, PROOFS, Fate, Judge, OutOfTime, limit
from opwright.compiler.mutating_truth import DIFFERS, TRAPS
from opwright.ir.mutant import Mutant
from opwright.verify.identity import verifier_digest

FORMAT = 2
TURN = 8  # mutants of a turn
GRACE = 5.0  # seconds for the mutant that is judged when the time is over


@dataclass(frozen=True, slots=True)
class Row:
    """One mutant, judged; `fault` is its name in this subject."""

    subject: str
    group: str
    family: str
    fault: str
    kind: str
    place: str
    what: str
    gates: dict[str, str]
    killers: list[str]
    refused: str
    effect: str
    reason: str
    unsound: str
    same: bool
    every: bool
    forced: str
    seconds: float
    verifier: str

    @classmethod
    def of(cls, s: Subject, f: Fate) -> Row:
        m = f.mutant
        return cls(
            s.text, s.group, s.family, name_of(m), m.kind, m.place, m.what, f.gates,
            list(f.killers), f.refused, f.effect, f.reason[:300], f.unsound[:400], f.same, f.every,
            f.forced, round(f.seconds, 2), verifier_digest()[:12],
        )  # fmt: skip

    @property
    def wrong(self) -> bool:
        """Whether something shows that it is: a run, or a refutation with its counterexample."""
        shown = self.effect in (TRAPS, DIFFERS) or "REFUTED" in self.gates.values()
        return shown or self.kind in DENIED

    @property
    def survived(self) -> bool:
        return self.wrong and not self.refused

    @property
    def equivalent(self) -> bool:
        """Whether it is shown to mean the same: by its normal form, or by a proof."""
        return not self.refused and (self.same or self.gates.get("G5") == "PROVED")

    @property
    def proved(self) -> bool:
        """Whether a gate that executes nothing says less of it."""
        return any(k in PROOFS for k in self.killers)

    @property
    def tested(self) -> bool:
        """Whether a gate that executes it does."""
        return any(k not in PROOFS for k in self.killers)


def name_of(m: Mutant) -> str:
    return f"{m.kind}-{hashlib.sha256(m.text.encode()).hexdigest()[:10]}"


@dataclass(slots=True)
class State:
    """What was judged so far; written whole after every turn, under another name first."""

    seed: int
    rows: dict[str, Row] = field(default_factory=dict)
    turns: dict[str, list[str]] = field(default_factory=dict)  # names of what was drawn
    fates: dict[str, str] = field(default_factory=dict)  # of what has no row: broken, late
    left: dict[str, str] = field(default_factory=dict)  # subjects that cannot be judged
    seconds: float = 0.0
    path: Path | None = None

    @classmethod
    def read(cls, path: Path, seed: int) -> State:
        if not path.exists():
            return cls(seed, path=path)
        data = json.loads(path.read_text())
        if data.get("format") != FORMAT or data.get("seed") != seed:
            raise ValueError(f"{path}: made by another version, or with another seed")
        rows = {key(r["subject"], r["fault"]): Row(**r) for r in data["rows"]}
        return cls(seed, rows, data["turns"], data["fates"], data["left"], data["seconds"], path)

    def write(self) -> None:
        if self.path is None:
            return
        data: dict[str, Any] = {"format": FORMAT, "seed": self.seed, "seconds": self.seconds}
        data |= {"left": self.left, "fates": self.fates, "turns": self.turns}
        data["rows"] = [asdict(r) for r in self.rows.values()]
        new = self.path.with_name(self.path.name + ".new")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(json.dumps(data, indent=0))
        os.replace(new, self.path)

    def known(self, name: str) -> bool:
        return name in self.rows or name in self.fates


def key(subject: str, fault: str) -> str:
    return f"{subject} {fault}"


def order(chosen: Sequence[Subject], seed: int, each: int) -> Iterator[tuple[Subject, int]]:
    """Subjects with the number of their turn, so many turns as `each` mutants take."""
    groups: dict[str, dict[str, list[Subject]]] = {}
    for s in chosen:
        groups.setdefault(s.group, {}).setdefault(s.family, []).append(s)
    lines = []
    for name, families in groups.items():
        rng = random.Random(f"{seed} {name}")
        names = sorted(families)
        rng.shuffle(names)
        for n in names:
            rng.shuffle(families[n])
        lines.append(_line([families[n] for n in names], -(-each // TURN)))
    while lines:
        for line in list(lines):
            found = next(line, None)
            if found is None:
                lines.remove(line)
            else:
                yield found


def _line(families: Sequence[Sequence[Subject]], rounds: int) -> Iterator[tuple[Subject, int]]:
    """Of every family in turn."""
    for turn in range(rounds):
        for n in range(max(map(len, families))):
            yield from ((f[n], turn) for f in families if n < len(f))


class Run:
    """Judges mutants in that order, until all are judged or the time is over."""

    def __init__(
        self, chosen: Sequence[Subject], state: State, each: int, sample: int, until: float
    ) -> None:
        self.chosen, self.state, self.each = chosen, state, each
        self.sample, self.until = sample, until
        self.drawn: dict[str, Counter[str]] = {}  # classes, by group
        self.had: dict[str, set[str]] = {}  # names, by subject
        self.count = 0

    def over(self) -> bool:
        return time.monotonic() > self.until

    def patience(self, seconds: float) -> float:
        """So many seconds, but not long after the end."""
        return max(1.0, min(seconds, self.until + GRACE - time.monotonic()))

    def __call__(self, seen: Callable[[Subject, Row], None]) -> bool:
        """Whether all were judged."""
        begin, before = time.monotonic(), self.state.seconds
        for s, turn in order(self.chosen, self.state.seed, self.each):
            if self.over():
                return False
            if s.text in self.state.left:
                continue
            complete = self.turn(s, turn, seen)
            self.state.seconds = round(before + time.monotonic() - begin, 1)
            if not complete:
                self.state.write()
                return False
        self.state.write()
        return True

    def turn(self, s: Subject, turn: int, seen: Callable[[Subject, Row], None]) -> bool:
        """One turn of a subject; False where the time did not suffice."""
        name = f"{s.text} {turn}"
        known = self.state.turns.get(name)
        had = self.had.setdefault(s.text, set())
        if known is not None:
            had |= set(known)
            self.drawn.setdefault(s.group, Counter()).update(x.rpartition("-")[0] for x in known)
            self.count += len(known)
            if all(self.state.known(key(s.text, x)) for x in known):
                return True
        judge = None
        try:
            with limit(self.patience(2 * LIMIT)):
                judge = s.make()
            mutants = {name_of(m): m for m in judge.mutants()}
            if known is None:
                self.state.turns[name] = known = self.draw(s, turn, mutants)
                had |= set(known)
                self.count += len(known)
            return self.judged(s, judge, [mutants[x] for x in known if x in mutants], seen)
        except OutOfTime:
            if self.over():
                return False
            self.state.left[s.text] = "it takes too long"
        except Exception as e:  # a subject that is not right says nothing about the gates
            self.state.left[s.text] = f"{type(e).__name__}: {str(e)[:200]}"
        finally:
            if judge is not None:
                judge.close()
            self.state.write()
        return True

    def draw(self, s: Subject, turn: int, mutants: dict[str, Mutant]) -> list[str]:
        """Names of a few mutants: of the classes first of which the group had the fewest."""
        drawn = self.drawn.setdefault(s.group, Counter())
        rng = random.Random(f"{self.state.seed} {s.text} {turn}")
        kinds: dict[str, list[str]] = {}
        for name, m in mutants.items():
            if name not in self.had[s.text]:
                kinds.setdefault(m.kind, []).append(name)
        out: list[str] = []
        while kinds and len(out) < TURN:
            least = min(drawn[k] for k in kinds)
            kind = rng.choice(sorted(k for k in kinds if drawn[k] == least))
            drawn[kind] += 1
            name = kinds[kind].pop(rng.randrange(len(kinds[kind])))
            out.append(name)
            if not kinds[kind]:
                del kinds[kind]
        return out

    def judged(
        self,
        s: Subject,
        judge: Judge,
        mutants: Sequence[Mutant],
        seen: Callable[[Subject, Row], None],
    ) -> bool:
        for m in mutants:
            name = key(s.text, name_of(m))
            if self.state.known(name):
                continue
            if self.over():
                return False
            number = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
            every = bool(self.sample) and number % self.sample == 0
            judge.seconds = self.patience(LIMIT)
            try:
                fate = judge(m, every, bool(self.sample) and number % self.sample == 1)
            except OutOfTime:
                if self.over():
                    return False
                self.state.fates[name] = "late"
                continue
            except Exception as e:  # a mistake of the judge's, which says nothing about gates
                self.state.fates[name] = f"failed: {type(e).__name__}: {str(e)[:200]}"
                continue
            if fate is None:
                self.state.fates[name] = "broken"
                continue
            row = self.state.rows[name] = Row.of(s, fate)
            seen(s, row)
        return True
