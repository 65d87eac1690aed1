"""How well something judges: faults seeded into what is right, and who found which of them.

A mutant that is shown to mean the same is discarded. One that only computed the same wherever it
was tried is reported apart and counts neither way; one that does not build is no mutant.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from opwright.backends.triton.ttir import is_text
from opwright.compiler.candidates import Candidate
from opwright.compiler.importing import FAILURES, read_back
from opwright.compiler.verification import open_candidate, verify_operator
from opwright.ir.dtypes import decode
from opwright.ir.expr import ExprError
from opwright.ir.interpreter import Trap
from opwright.ir.interpreter import run as interpret
from opwright.ir.launch import ImportRefusal, bind_plan
from opwright.ir.mutant import Mutant, difference, spread
from opwright.ir.normal import normal_form
from opwright.ir.op import Operator
from opwright.ir.plan import PlanError
from opwright.ir.record import ORDER, Record, Verdict
from opwright.ir.tile import TileProgram, alignments
from opwright.ir.tiletext import parse_program, show_program
from opwright.verify.context import Context
from opwright.verify.gates import safety
from opwright.verify.inputs import generate
from opwright.verify.mutate_python import python_mutants
from opwright.verify.mutate_tiles import tile_mutants
from opwright.verify.sizes import Limits

KILLED, SURVIVED = "killed", "survived"
EQUAL, UNDECIDED, BROKEN = "equivalent", "undecided", "broken"
TRIED = Limits(elements=1 << 9)
TRIES = 10
EFFORT, LEAST_EFFORT = 4.0, 10.0  # seconds of proofs, in units of the original's, and at least
NEAR = 1e-9  # two evaluations over the reals that agree


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one mutant. `by` is who killed it, `reason` what was said, `diff` its lines.

    status: killed, survived, equivalent (proved), undecided (nothing tells it from the original:
    `reason` says on what), broken (it does not build or never answers).
    """

    kind: str
    place: str
    what: str
    status: str
    by: str = ""
    reason: str = ""
    diff: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        names = ("kind", "place", "what", "status", "by", "reason")
        return {**{n: getattr(self, n) for n in names}, "diff": list(self.diff)}


@dataclass(slots=True)
class Score:
    """Outcomes of all mutants of one subject."""

    subject: str
    outcomes: list[Outcome] = field(default_factory=list)

    def count(self, status: str, kind: str = "") -> int:
        return sum(o.status == status and kind in ("", o.kind) for o in self.outcomes)

    @property
    def kinds(self) -> list[str]:
        return sorted({o.kind for o in self.outcomes})

    @property
    def by(self) -> dict[str, int]:
        found = Counter(o.by for o in self.outcomes if o.status == KILLED)
        return dict(sorted(found.items()))

    @property
    def judged(self) -> int:
        """Mutants that are known to be wrong."""
        return self.count(KILLED) + self.count(SURVIVED)

    @property
    def share(self) -> float:
        """Killed of those that are known to be wrong, in percent; 100 of none."""
        return 100.0 * self.count(KILLED) / self.judged if self.judged else 100.0

    @property
    def survivors(self) -> list[Outcome]:
        return [o for o in self.outcomes if o.status == SURVIVED]

    def to_json(self) -> dict[str, Any]:
        statuses = (KILLED, SURVIVED, EQUAL, UNDECIDED, BROKEN)
        return {
            "subject": self.subject,
            "score": round(self.share, 2),
            **{s: self.count(s) for s in statuses},
            "by": self.by,
            "classes": {k: {s: self.count(s, k) for s in statuses} for k in self.kinds},
            "mutants": [o.to_json() for o in self.outcomes],
        }


class NotRight(Exception):
    """What was to be mutated is not right, so that a score of it would say nothing."""


Seen = Callable[[Outcome], None]


# -- candidates ------------------------------------------------------------------------------------


def score_program(
    program: TileProgram,
    op: Operator,
    isa: str,
    limit: int,
    seed: int = 0,
    seen: Seen | None = None,
) -> Score:
    """The gates on mutants of a tile program, which our printer turns into C++."""
    text = show_program(program)
    score = Score(f"TileIR {program.name}")
    judge = _Programs(program, op, isa, seed)
    _right(judge.original(), score.subject)
    for m in spread(tile_mutants(program), limit):
        _add(score, m, text, judge(m.text), seen)
    return score


def score_candidate(
    folder: Path, op: Operator, isa: str, limit: int, seed: int = 0, seen: Seen | None = None
) -> Score:
    """The gates on mutants of a candidate's text."""
    c = open_candidate(folder, op, isa)
    if c.program is not None:
        return score_program(c.program, op, isa, limit, seed, seen)
    score = Score(f"{c.plan.backend} {c.plan.source}")
    judge = _Sources(folder if folder.is_dir() else folder.parent, c, op, isa, seed)
    _right(judge.original(), score.subject)
    for m in spread(source_mutants(c), limit):
        _add(score, m, c.source, judge(m.text), seen)
    return score


def source_mutants(c: Candidate) -> list[Mutant]:
    """Mutants of a candidate's text in its language; PlanError where the text is not read."""
    try:
        if c.plan.source.endswith(".py"):
            return python_mutants(c.source)
        if c.plan.backend == "cpp":
            from opwright.backends.cpp.mutate import cpp_mutants

            return cpp_mutants(c.source, c.plan.source)
        if c.plan.backend == "cuda":
            from opwright.backends.cuda.mutate import cuda_mutants

            return cuda_mutants(c.source, c.plan.source)
        if is_text(c.plan.source):
            from opwright.backends.triton.mutate import ttir_mutants

            return ttir_mutants(c.source)
    except (ImportRefusal, SyntaxError) as e:
        raise PlanError(f"{c.plan.source}: faults cannot be seeded: {e}") from None
    raise PlanError(f"{c.plan.source}: no faults are known for {c.plan.backend} texts of this kind")


Found = tuple[str, str, str]  # status, by, reason


def _right(found: Found | None, subject: str) -> None:
    """NotRight for what the gates do not pass without any fault."""
    if found is not None:
        raise NotRight(f"{subject} itself does not pass {found[1]}: {found[2]}")


def _add(score: Score, m: Mutant, original: str, found: Found, seen: Seen | None) -> None:
    status, by, reason = found
    lines = tuple(difference(original, m.text)) if status in (SURVIVED, UNDECIDED) else ()
    out = Outcome(m.kind, m.place, m.what, status, by, reason, lines)
    score.outcomes.append(out)
    if seen is not None:
        seen(out)


def by_gates(records: Iterable[Record], safe: Sequence[str] = ("G2", "G3")) -> Found | None:
    """Who kills: a gate that refutes, else one of safety that does not prove; None if none does."""
    found = list(records)
    for r in found:
        if r.status == "REFUTED":
            return KILLED, r.kind, f"{r.id}: {r.reason}"
    for r in found:
        if r.kind in safe and ORDER.index(r.status) < ORDER.index("PROVED"):
            return KILLED, f"{r.kind} (not proved)", f"{r.id} is {r.status}: {r.reason}"
    for r in found:
        if r.kind == "G0" and r.status != "PROVED":
            return KILLED, "G0", f"{r.id} is {r.status}: {r.reason}"
    return None


def _after(verdict: Verdict) -> Found | None:
    found = by_gates(verdict.records)
    if found is None and ORDER.index(verdict.gate("G6")) < ORDER.index("TESTED"):
        why = next((r.reason for r in verdict.records if r.kind == "G6"), "nothing was run")
        return KILLED, "G6 (not tested)", why
    return found


class _Programs:
    """Tile programs: proved as such first, then printed, built and run."""

    def __init__(self, program: TileProgram, op: Operator, isa: str, seed: int) -> None:
        self.program, self.op, self.isa, self.seed = program, op, isa, seed
        self.context = Context.of(op)

    def original(self) -> Found | None:
        """Who kills the program itself; what its proofs take bounds those of its mutants."""
        begin = time.monotonic()
        found = by_gates(safety(self.program, self.context))
        effort = max(LEAST_EFFORT, EFFORT * (time.monotonic() - begin))
        self.context = replace(self.context, budget=min(effort, self.context.budget))
        return found or self.verified(show_program(self.program))

    def verified(self, text: str) -> Found | None:
        """Who kills a program that is printed, built and run."""
        with tempfile.TemporaryDirectory(prefix="opwright-mutant-") as folder:
            path = Path(folder) / "mutant.tile"
            path.write_text(text)
            return _after(verify_operator(self.op, path, self.isa, "proved", self.seed))

    def __call__(self, text: str) -> Found:
        mutant = parse_program(text)
        try:
            found = by_gates(safety(mutant, self.context))
        except FAILURES as e:
            return KILLED, "G2 (not proved)", f"the prover failed: {e}"
        try:
            found = found or self.verified(text)
        except PlanError as e:
            return BROKEN, "", str(e)
        return found or same_values(self.program, mutant, self.op)


class _Sources:
    """Texts of a candidate folder, each in a copy of it."""

    def __init__(self, folder: Path, c: Candidate, op: Operator, isa: str, seed: int) -> None:
        self.folder, self.candidate, self.op, self.isa, self.seed = folder, c, op, isa, seed
        self.bound = bind_plan(c.plan, op)
        self.program, _ = read_back(c, self.bound) if c.plan.backend != "jax" else (None, "")
        self.form = normal_form(self.program) if self.program is not None else ""

    def original(self) -> Found | None:
        """Who kills the text itself."""
        return _after(verify_operator(self.op, self.folder, self.isa, "proved", self.seed))

    def __call__(self, text: str) -> Found:
        c = Candidate(self.candidate.plan, text)
        program, why = (None, "")
        if c.plan.backend != "jax":
            program, why = read_back(c, self.bound)
            if program is None and "does not parse" in why:
                return BROKEN, "", why
            if program is not None and self.form and normal_form(program) == self.form:
                return EQUAL, "", "it reads back as the same program"
        with tempfile.TemporaryDirectory(prefix="opwright-mutant-") as root:
            copy = Path(root) / "candidate"
            shutil.copytree(self.folder, copy)
            (copy / c.plan.source).write_text(text)
            try:
                verdict = verify_operator(self.op, copy, self.isa, "proved", self.seed)
            except PlanError as e:
                return BROKEN, "", str(e)
        if any(r.kind == "G5" and r.status == "PROVED" for r in verdict.records):
            return EQUAL, "", "it is proved to be the operator"
        found = _after(verdict)
        if found is not None or program is None or self.program is None:
            return found or (SURVIVED, "", "every gate passed it")
        return same_values(self.program, program, self.op)


def same_values(a: TileProgram, b: TileProgram, op: Operator) -> Found:
    """Whether two programs differ over the reals on small calls; if not, nothing is known."""
    made = generate(op, 4242, TRIES, (2, 3, 8), TRIED, tuple(a.facts), specials=False)
    tried = 0
    for case in made.cases:
        arrays = {t.name: decode(case.inputs[t.name], t.dtype) for t in op.inputs}
        params: Mapping[str, Any] = {**case.params, **alignments(a, b)}
        try:
            first = interpret(a, case.sizes, arrays, params)
        except (Trap, *FAILURES):
            continue
        try:
            second = interpret(b, case.sizes, arrays, params)
        except (Trap, ExprError) as e:
            return SURVIVED, "", f"every gate passed it; on {case}: {e}"
        tried += 1
        for t in op.outputs:
            x, y = first[t.name], second[t.name]
            near = x == y
            if t.kind == "real":
                near = np.isclose(x, y, rtol=NEAR, atol=NEAR * 1e-3, equal_nan=True)
            if not np.all(near):
                return SURVIVED, "", f"every gate passed it; {t.name} differs on {case}"
    if not tried:
        return SURVIVED, "", "every gate passed it, and no small call compares it"
    return UNDECIDED, "", f"over the reals it agrees with the original on {tried} small calls"
