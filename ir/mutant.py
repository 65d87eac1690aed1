"""Seeded faults: a changed copy of a text, what kind of mistake it is, and where.

Mutators exist for TileIR, for sources of backends and for functions in Python; what they have in
common is here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    """`kind` is the class of the mistake ("mask", "offset"), `place` where it is, `text` the whole
    changed text, `what` the change in words."""

    kind: str
    place: str
    text: str
    what: str = ""


def difference(original: str, mutant: str) -> list[str]:
    """The lines that differ, as a diff without headers."""
    lines = difflib.unified_diff(original.splitlines(), mutant.splitlines(), lineterm="", n=0)
    return [x for x in lines if not x.startswith(("---", "+++", "@@"))]


def different(mutants: Iterable[Mutant], original: str) -> list[Mutant]:
    """Mutants whose texts are not the original's and differ from each other."""
    seen = {original}
    out = []
    for m in mutants:
        if m.text not in seen:
            seen.add(m.text)
            out.append(m)
    return out


def spread(mutants: Sequence[Mutant], limit: int) -> list[Mutant]:
    """At most `limit` of them: each kind in turn, each kind's spread over the text."""
    if len(mutants) <= limit:
        return list(mutants)
    kinds: dict[str, list[Mutant]] = {}
    for m in mutants:
        kinds.setdefault(m.kind, []).append(m)
    quota = dict.fromkeys(kinds, 0)
    left = limit
    while left:
        for kind, found in kinds.items():
            if left and quota[kind] < len(found):
                quota[kind] += 1
                left -= 1
    keep: set[int] = set()
    for kind, found in kinds.items():
        n = quota[kind]
        keep |= {id(found[i * len(found) // n]) for i in range(n)}
    return [m for m in mutants if id(m) in keep]
