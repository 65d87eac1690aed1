"""What the ledger of one operator is worth to the next: `python -m opwright.benchmarks.transfer`.

For pairs of operators of one form: a search of the first, as it is; then two of the second, one
that knows nothing and one that is given the first one's ledger. Printed is how many candidates each
evaluates until it is within two percent of the best that the ignorant one found with its whole
budget. Times are recorded ones (`benchmarks/ledgers.py`): the numbers are the same everywhere.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from opwright.benchmarks.ledgers import LEDGERS, Ledger
from opwright.search.events import Evaluated
from opwright.search.informed import Informed, Seen
from opwright.search.propose import Builtin, Proposer
from opwright.search.run import Budget, search

FORMS = (
    ("gelu", "silu"), ("softmax", "log_softmax", "layernorm"), ("l2norm", "rmsnorm"),
    ("cumsum", "cumprod"), ("mse", "mae"),
    ("variance", "logsumexp"), ("row_max", "row_min"),
)  # fmt: skip
PAIRS = tuple((a, b) for group in FORMS for a in group for b in group if a != b)
QUICKEST = 2
NEAR = 1.02  # times the best: recorded times are no more exact


@dataclass(frozen=True, slots=True)
class Course:
    """A search's scores in the order of evaluation, and what it measured."""

    scores: tuple[float, ...]
    seen: tuple[Seen, ...]

    def until(self, target: float) -> int:
        """Evaluations until a score is at most `target`; all and one more where none is."""
        at = (n for n, s in enumerate(self.scores, 1) if s <= target)
        return next(at, len(self.scores) + 1)


def course(ledger: Ledger, budget: int, seed: int, proposer: Proposer) -> Course:
    """One search on recorded times."""
    scores: list[float] = []
    seen: list[Seen] = []

    def heard(event: object) -> None:
        if isinstance(event, Evaluated) and event.candidate.status not in ("illegal", "duplicate"):
            scores.append(event.score if event.score is not None else math.inf)
            if event.score is not None:
                seen.append(Seen(event.candidate.schedule, event.score))

    search(
        ledger.spaces, ledger.op, ledger, Budget(budget), seed, on_event=heard, proposer=proposer,
        digest=ledger.digest,
    )  # fmt: skip
    return Course(tuple(scores), tuple(seen))


@dataclass(frozen=True, slots=True)
class Pair:
    """Evaluations of the second operator's searches, summed over seeds; `worse` is how often the
    informed one did not reach what the other had."""

    first: str
    second: str
    forms: tuple[str, ...]
    cold: float
    warm: float
    worse: int
    seeds: int

    @property
    def share(self) -> float:
        return self.warm / self.cold


def measure(first: Ledger, second: Ledger, budget: int, seeds: int) -> Pair:
    """Both searches of the second operator, for every seed."""
    cold = warm = worse = 0
    for seed in range(seeds):
        before = course(first, budget, seed, Builtin())
        ignorant = course(second, budget, seed + 1000, Builtin())
        target = NEAR * min(ignorant.scores)
        informed = course(second, budget, seed + 1000, Informed((before.seen,)))
        cold += ignorant.until(target)
        warm += informed.until(target)
        worse += min(informed.scores) > target
    forms = tuple(second.head["forms"])
    return Pair(first.name, second.name, forms, cold / seeds, warm / seeds, worse, seeds)


def main(given: Sequence[str] = ()) -> int:
    """Print the table; 1 where a pair needs more than `--most` of the evaluations."""
    p = argparse.ArgumentParser(prog="python -m opwright.benchmarks.transfer", description=__doc__)
    p.add_argument("--budget", type=int, default=24)
    p.add_argument("--seeds", type=int, default=20)
    p.add_argument("--most", type=float, default=0.7)
    p.add_argument("--folder", type=Path, default=LEDGERS)
    options = p.parse_args(given)
    known = {path.stem for path in options.folder.glob("*.jsonl")}
    pairs = [pair for pair in PAIRS if set(pair) <= known]
    ledgers = {n: Ledger.load(n, options.folder) for n in sorted({n for p in pairs for n in p})}
    print(f"{'ledger of':<14}{'search of':<14}{'without':>9}{'with':>7}{'share':>8}  not reached")
    room = missed = 0
    for name in [n for n, ledger in ledgers.items() if not ledger.current]:
        print(f"{name}: its spaces are not what was recorded, record it again")
        pairs = [p for p in pairs if name not in p]
    for first, second in pairs:
        found = measure(ledgers[first], ledgers[second], options.budget, options.seeds)
        # candidate 0 is the first of both, so that nothing is faster than the second
        room += found.cold > QUICKEST
        missed += found.cold > QUICKEST and found.share > options.most
        mark = "" if found.cold > QUICKEST else "  its first guess is the best"
        print(
            f"{first:<14}{second:<14}{found.cold:>9.1f}{found.warm:>7.1f}{found.share:>8.0%}"
            f"  {found.worse} of {found.seeds}{mark}",
            flush=True,
        )
    print(f"{room - missed} of {room} pairs within {options.most:.0%}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
