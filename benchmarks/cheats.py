"""Candidates that cheat, and what each is refused by: `python -m opwright.benchmarks.cheats`.

A corpus is a folder of backends, whose folders are candidates with a `cheat.json` beside the plan:
the spec, what it does, its class (rows of the table of known tricks), and its defence: the
obligation, and words of the reason. A few are honest, and have to pass. Everything is run, also
where safety is not proved (`--require tested`), and has to be refused by the rule for shipping; the
table marks what the weaker rule would let pass with `~`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from opwright.backends.cpp.build import host_isa
from opwright.compiler.elaborate import load_spec
from opwright.compiler.stored import stored_form
from opwright.compiler.verification import verify_operator
from opwright.ir.op import Operator
from opwright.ir.plan import PlanError
from opwright.ir.record import ORDER, Record, Verdict

CORPUS = Path(__file__).resolve().parent.parent / "tests" / "cheats"
BACKENDS = ("cpp", "triton", "jax", "cuda")


@dataclass(frozen=True, slots=True)
class Cheat:
    """One candidate of the corpus. `gate` is an obligation (G2.bounds), or two of which the first
    may run out of time (G4 or G6.error), and `reason` a pattern; both are empty where it is
    honest."""

    backend: str
    name: str
    folder: Path
    spec: str
    what: str
    group: str
    gate: str = ""
    reason: str = ""

    @property
    def honest(self) -> bool:
        return not self.gate


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of one: whether it may ship, the record that refuses it, and whether tested
    safety would be enough for it to ship."""

    cheat: Cheat
    ships: bool
    defence: Record | None
    loosely: bool = False

    @property
    def refused_by(self) -> str:
        r = self.defence
        return f"{r.id} {r.status}: {r.reason}" if r is not None else ""

    @property
    def as_expected(self) -> bool:
        """Refused, and by what the corpus says; or passed, where it is honest."""
        c, r = self.cheat, self.defence
        if c.honest:
            return self.ships
        if self.ships or r is None:
            return False
        inside = any(r.id == g or r.id.startswith(g + ".") for g in c.gate.split(" or "))
        return inside and re.search(c.reason, r.reason) is not None


def corpus(root: Path = CORPUS) -> Iterator[Cheat]:
    """All candidates, by backend and name."""
    for backend in BACKENDS:
        for note in sorted(root.glob(f"{backend}/*/cheat.json")):
            said = json.loads(note.read_text())
            yield Cheat(
                backend, note.parent.name, note.parent, said["spec"], said["what"], said["class"],
                said.get("gate", ""), said.get("reason", ""),
            )  # fmt: skip


@cache
def operator(root: Path, name: str) -> Operator:
    return stored_form(load_spec(root / "specs" / f"{name}.op").operator(name))


def judge(cheat: Cheat, root: Path = CORPUS) -> Judged:
    """All gates on one candidate."""
    op = operator(root, cheat.spec)
    try:
        verdict = verify_operator(op, cheat.folder, host_isa(), "tested")
    except PlanError as e:
        return Judged(cheat, False, Record("G1.plan", "G1", "REFUTED", str(e)))
    return Judged(cheat, ships(verdict), defence(verdict), ships(verdict, "TESTED"))


def ships(verdict: Verdict, least: str = "PROVED") -> bool:
    """The rule for shipping; `least` is what safety has to be."""
    kept = verdict.gate("G0") == "PROVED"
    refuted = any(r.status == "REFUTED" for r in verdict.records)
    safe = all(ORDER.index(verdict.gate(g)) >= ORDER.index(least) for g in ("G2", "G3"))
    numbers = ORDER.index(verdict.gate("G6")) >= ORDER.index("TESTED")
    return kept and safe and numbers and not refuted


def defence(verdict: Verdict) -> Record | None:
    """The first record that refutes; without one the first that says what is not known."""
    for statuses in (("REFUTED",), ("UNKNOWN", "ASSUMED")):
        for r in verdict.records:
            if r.status in statuses:
                return r
    weak = (r for r in verdict.records if r.kind in ("G2", "G3") and r.status != "PROVED")
    return next(weak, None)


def learn(cheat: Cheat, obligation: str) -> None:
    note = cheat.folder / "cheat.json"
    said = {**json.loads(note.read_text()), "gate": obligation}
    note.write_text(json.dumps(said, indent=1) + "\n")


def main(arguments: Sequence[str]) -> int:
    """Print the table; arguments are backends or names to judge alone; `--learn` writes down
    the obligation by which each is refused."""
    every = list(corpus())
    names = set(arguments) - {"--learn"}
    chosen = [c for c in every if not names or {c.backend, c.name} & names]
    wrong = 0
    for c in chosen:
        found = judge(c)
        if "--learn" in arguments and not found.ships and found.defence is not None:
            learn(c, ".".join(found.defence.id.split(".")[:2]))
        wrong += not found.as_expected
        mark = "!" if not found.as_expected else "~" if found.loosely and not c.honest else " "
        how = "ships" if found.ships else found.refused_by
        line = f"{mark} {c.backend:<6} {c.name:<22} {c.group:<9} {' '.join(how.split())}"
        print(line[:200], flush=True)
    cheats = sum(not c.honest for c in chosen)
    print(f"{cheats} cheats, {len(chosen) - cheats} honest ones; not as expected: {wrong}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
