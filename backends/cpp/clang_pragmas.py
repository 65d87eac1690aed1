"""Pragmas of a candidate's C++: hints that are skipped, and parallel loops."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from opwright.ir.launch import ImportRefusal

Refuse = Callable[[str, int], ImportRefusal]

PARALLEL = "omp parallel for"
CLAUSES = frozenset("schedule num_threads default shared proc_bind if simd firstprivate".split())
ACCEPTED = ("omp simd", "GCC ivdep", "GCC unroll", "unroll", "clang loop", "STDC FP_CONTRACT")


@dataclass(frozen=True, slots=True)
class Parallel:
    """`omp parallel for`: over how many nested loops, variables that every trip has of its own, and
    those that trips reduce into."""

    loops: int = 1
    private: tuple[str, ...] = ()
    reduced: tuple[str, ...] = ()

    @property
    def inner(self) -> Parallel:
        """What it says to the loop inside."""
        return Parallel(self.loops - 1, self.private, self.reduced)


def parallel_loops(source: str, refuse: Refuse) -> dict[int, Parallel]:
    """Parallel loops by the lines of their `for`. Hints without meaning are skipped; what else
    changes meaning is refused."""
    found: dict[int, Parallel] = {}
    lines = source.replace("\\\n", " \v").split("\n")
    number = 1
    dealt: Parallel | None = None
    for text in lines:
        words = text.strip()
        if words.startswith("#pragma"):
            rest = " ".join(words.removeprefix("#pragma").split())
            if rest.startswith(PARALLEL):
                dealt = _dealt(rest.removeprefix(PARALLEL), number, refuse)
            elif rest != "once" and not rest.startswith(ACCEPTED):
                hint = " (programs already run in parallel)" if rest.startswith("omp") else ""
                raise refuse(f"#pragma {rest} inside a candidate{hint}", number)
        elif dealt is not None and words and not words.startswith("//"):
            if not words.startswith("for"):
                raise refuse(f"#pragma {PARALLEL} before something else", number)
            found[number] = dealt
            dealt = None
        number += 1 + text.count("\v")
    return found


def _dealt(clauses: str, line: int, refuse: Refuse) -> Parallel:
    """What the clauses of a parallel loop say."""
    loops = 1
    private: list[str] = []
    reduced: list[str] = []
    for m in re.finditer(r"(\w+)\s*(?:\(([^()]*)\))?", clauses):
        word, given = m[1], m[2] or ""
        if word == "collapse" and given.strip().isdigit():
            loops = int(given)
        elif word == "private":
            private += [x.strip() for x in given.split(",")]
        elif word == "reduction":
            reduced += [x.strip() for x in given.partition(":")[2].split(",")]
        elif word not in CLAUSES:
            raise refuse(f"the clause {m[0].strip()} of a parallel loop", line)
    return Parallel(loops, tuple(private), tuple(reduced))
