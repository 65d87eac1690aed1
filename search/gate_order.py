"""Which gate looks at a candidate first: the one that refutes most per second, by what an
operator's searches and earlier searches recorded.

Only what executes nothing is ordered: proofs of safety and determinacy (G2 and G3, one prover) and
evaluation over a finite field (G4). G0 and G1 come before, since they make what the others read;
G5 after G2 and G3, on which it stands; what executes a candidate comes last, whatever was learnt.
Every gate runs on what is not refuted: the order costs or saves time, and changes no verdict of
what holds.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from opwright.ir.record import Record
from opwright.search.archive import Archive, ArchiveError

Group = tuple[str, ...]
PROOFS: Group = ("G2", "G3")
FIELD: Group = ("G4",)
DEFAULT: tuple[Group, ...] = (PROOFS, FIELD)
LEAST = 20  # candidates that each of both must have seen before anything is learnt
MOST = 64  # archives that are read, the newest ones
PRIOR = 0.5  # refutations in one second that each is given beforehand


@dataclass(frozen=True, slots=True)
class Tally:
    """What a group of gates did: candidates that it saw, refuted, and its seconds."""

    seen: int = 0
    refuted: int = 0
    seconds: float = 0.0

    def rate(self) -> float:
        """Refutations per second."""
        return (self.refuted + PRIOR) / (self.seconds + 1.0)

    def plus(self, refuted: bool, seconds: float) -> Tally:
        return Tally(self.seen + 1, self.refuted + refuted, self.seconds + seconds)


@dataclass(frozen=True, slots=True)
class Order:
    """Groups of gates in the order in which they run, and what that rests on."""

    groups: tuple[tuple[str, ...], ...] = DEFAULT
    tallies: Mapping[tuple[str, ...], Tally] | None = None
    learned: bool = False

    @property
    def field_first(self) -> bool:
        return self.groups[0] == FIELD

    def text(self) -> str:
        """One line: the order, and why."""
        names = " ".join("+".join(g) for g in self.groups)
        line = f"G0 G1 {names} G5, then what executes"
        if not self.learned:
            return f"{line} (the default: fewer than {LEAST} candidates in the ledger for each)"
        assert self.tallies is not None
        said = ", ".join(
            f"{'+'.join(g)} refuted {t.refuted} of {t.seen} in {t.seconds:.1f} s"
            for g, t in sorted(self.tallies.items())
        )
        return f"{line} (learned: {said})"


def learn(candidates: Iterable[Iterable[Record]]) -> Order:
    """The order by records of candidates; equal records in any order give an equal answer."""
    tallies = {g: Tally() for g in DEFAULT}
    rows: list[tuple[tuple[str, ...], bool, float]] = []
    for records in candidates:
        listed = list(records)
        for g in DEFAULT:
            own = [r for r in listed if r.kind in g and not r.cached]
            if own:
                refuted = any(r.status == "REFUTED" for r in own)
                rows.append((g, refuted, sum(r.seconds for r in own)))
    for g, refuted, seconds in sorted(rows):  # sums do not depend on who was read first
        tallies[g] = tallies[g].plus(refuted, seconds)
    if any(t.seen < LEAST for t in tallies.values()):
        return Order(DEFAULT, tallies)
    # the default wins a draw
    groups = tuple(sorted(DEFAULT, key=lambda g: (-tallies[g].rate(), DEFAULT.index(g))))
    return Order(groups, tallies, True)


def learned(folder: Path, operator: str = "") -> Order:
    """The order by the archives in a folder: those of an operator (name@version or name) where they
    suffice, else all."""
    try:
        found = sorted(folder.rglob("*.sqlite"), key=lambda p: (-p.stat().st_mtime, str(p)))
    except OSError:
        return Order()
    name = "".join(c if c.isalnum() or c in "-._" else "-" for c in operator)
    own = [p for p in found if name and p.name.startswith(f"{name}-")]
    for paths in (own, found):
        order = learn(r for p in paths[:MOST] for r in _records(p))
        if order.learned:
            return order
    return Order()


def _records(path: Path) -> list[tuple[Record, ...]]:
    """Records of the candidates of an archive; none where it cannot be read."""
    out: list[tuple[Record, ...]] = []
    with contextlib.suppress(ArchiveError, sqlite3.Error, OSError, ValueError, KeyError, TypeError):
        with Archive(path) as archive:
            for run in archive.runs():
                out += [c.records for c in archive.candidates(run["id"]) if c.records]
    return out
