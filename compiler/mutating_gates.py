"""The gates judged one by one: what each of them says of a seeded fault, and what the fault does.

A mutant's effect is found apart from all gates, by running what was read of it beside the original
over the reals. So a gate that lets a fault pass is seen, and a proof that is wrong is, too: one
of safety where a run traps, one of the function where a value differs. Gates are asked in order of
what they cost, and no more of them once one has refused, except where all are asked for.
"""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

from opwright.backends.triton.frontend import to_ttir_many
from opwright.backends.triton.ttir import is_text
from opwright.compiler.candidates import Candidate
from opwright.compiler.functional import Readings, array_gates
from opwright.compiler.importing import FAILURES, Static, policy, read_back, static_gates
from opwright.compiler.later_gates import field_records
from opwright.compiler.mutating import source_mutants
from opwright.compiler.mutating_plans import plan_mutants, plan_text
from opwright.compiler.mutating_runs import Runs
from opwright.compiler.mutating_truth import DIFFERS, SAME, TRAPS, UNREAD, ArrayTruth, Truth
from opwright.compiler.signatures import check_signatures
from opwright.ir.expr import ExprError, evaluate
from opwright.ir.launch import ImportRefusal, bind_plan
from opwright.ir.mutant import Mutant
from opwright.ir.normal import normal_form
from opwright.ir.op import Operator
from opwright.ir.plan import PlanError, from_json
from opwright.ir.record import ORDER, Record, weakest
from opwright.ir.tile import TileProgram
from opwright.ir.tilecheck import TileError
from opwright.ir.tiletext import parse_program, show_program
from opwright.verify import proofs
from opwright.verify.context import Context
from opwright.verify.gates import safety
from opwright.verify.mutate_tiles import tile_mutants
from opwright.verify.policy import precision_records
from opwright.verify.tile_function import tile_function

PROOFS = ("G0", "G1", "G2", "G3", "G4", "G5")
TESTS = ("G6", "G7", "G8")
GATES = (*PROOFS, *TESTS)
SHIPPING = ("G0", "G1", "G2", "G3", "G6")  # what has to be as good as the original's
LEAST, EFFORT, MOST = 2.0, 3.0, 10.0  # seconds of a mutant's proofs; EFFORT in the original's
OWN = 30.0  # seconds of the original's proofs
LIMIT = 60.0  # seconds of one mutant

NO_TEXT = r"does not parse|NameError|is not defined"  # of a mutant that is none
DENIED = ("dummy", "contradiction")  # classes whose mutants are wrong whatever they compute

# classes in which equal functions may differ as floats
ROUNDED = ("accumulator", "epilogue", "fill", "init", "nan", "operation", "precision", "reduction",
           "rescale", "stale", "state", "term_dropped")  # fmt: skip

Statuses = dict[str, str]
Printer = Callable[[TileProgram], Candidate]


class OutOfTime(BaseException):
    """A mutant that took too long; no handler of errors takes it for one."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one mutant.

    `gates` is the status that each gate gave (a gate that was not reached is absent), `killers`
    those that say less than of the original; `refused` the first one that keeps it from shipping;
    `effect` what running it shows; `unsound` a proof that a run contradicts; `same` says that its
    normal form is the original's, `forced` what its proofs say with a solver that knows nothing.
    """

    mutant: Mutant
    gates: Statuses
    killers: tuple[str, ...]
    refused: str
    effect: str
    reason: str = ""
    unsound: str = ""
    same: bool = False
    every: bool = False
    forced: str = ""
    seconds: float = 0.0
    records: tuple[Record, ...] = ()


class Unknowing(proofs.Book):
    """Answers no question."""

    def decide(self, solver: Any, assertions: Sequence[Any], purpose: str) -> tuple[str, str]:
        return "unknown", "nothing is known"


class Judge:
    """Judges mutants of one candidate's text, of its plan, or of the program it was printed from.

    `level` is "source", "plan" or "tile". ValueError where the original itself is not safe.
    """

    def __init__(
        self, c: Candidate, op: Operator, isa: str, level: str, printer: Printer | None = None
    ) -> None:
        self.candidate, self.op, self.isa, self.level = c, op, isa, level
        self.printer = printer
        begin = time.monotonic()
        self.budget = OWN
        static, records = self.proofs(self.text)
        self.budget = min(MOST, max(LEAST, EFFORT * (time.monotonic() - begin)))
        self.original = statuses(records)
        self.static = self.checked(static, records)
        self.prepare()
        self.runs = Runs(op, isa, self.static.program)
        self.seconds = LIMIT  # of one mutant
        self.ran = False  # whether the tests of the original are among its statuses

    def checked(self, static: Static | None, records: Sequence[Record]) -> Static:
        weak = [g for g in ("G0", "G2", "G3") if self.original.get(g) != "PROVED"]
        if static is None or static.program is None or weak:
            why = next((r.reason for r in records if r.kind in weak), "it was not read")
            raise ValueError(f"the original's {', '.join(weak) or 'G1'} is not proved: {why}")
        return static

    def prepare(self) -> None:
        """What mutants are compared with."""
        assert self.static.program is not None
        self.form = normal_form(self.static.program)
        self.truth = Truth(self.static.program, self.op)

    def close(self) -> None:
        """End what was started."""
        self.runs.close()

    @property
    def text(self) -> str:
        if self.level == "tile":
            assert self.candidate.program is not None
            return show_program(self.candidate.program)
        return plan_text(self.candidate) if self.level == "plan" else self.candidate.source

    def mutants(self) -> list[Mutant]:
        if self.level == "tile":
            assert self.candidate.program is not None
            return tile_mutants(self.candidate.program)
        if self.level == "plan":
            return list(plan_mutants(self.candidate))
        return source_mutants(self.candidate)

    # -- gates ------------------------------------------------------------------------------------

    def proofs(self, text: str) -> tuple[Static | None, list[Record]]:
        """Records of G0 to G3 and G5."""
        if self.level == "tile":
            return self.tile_proofs(parse_program(text))
        c = self.changed(text)
        static = static_gates(c, self.op, budget=self.budget)
        return static, list(static.records)

    def tile_proofs(self, program: TileProgram) -> tuple[Static, list[Record]]:
        bound = bind_plan(self.candidate.plan, self.op)
        records = precision_records(program, self.op, "")
        if not any(r.status != "PROVED" for r in records):
            records += safety(program, replace(Context.of(self.op), budget=self.budget))
            found = statuses(records)
            if found.get("G2") == found.get("G3") == "PROVED":
                records += tile_function(program, self.op, "")
        return Static(tuple(records), program, bound), records

    def changed(self, text: str) -> Candidate:
        c = self.candidate
        if self.level == "plan":
            return Candidate(from_json(json.loads(text)), c.source, None, "a changed plan")
        return Candidate(c.plan, text, None, "a changed text")

    def runnable(self, text: str, static: Static | None) -> tuple[Candidate, Static] | None:
        """What is run of a mutant; None where there is nothing to run."""
        if self.level == "tile":
            if self.printer is None:
                return None
            c = self.printer(parse_program(text))
            records = static.records if static is not None else ()
            return c, Static(records, c.program, bind_plan(c.plan, self.op))
        if static is None:
            return None
        c = self.changed(text)
        program = static.program or self.read(c)
        return c, Static(static.records, program, static.bound)

    def compiles(self, text: str) -> bool:
        """Whether the language's own front end takes a text, as far as that is known."""
        c = self.candidate
        if self.level != "source" or c.plan.backend != "triton" or is_text(c.plan.source):
            return True
        bound = bind_plan(c.plan, self.op)
        try:
            to_ttir_many(text, c.plan.source, bound.launches, c.plan.target)
        except ImportRefusal:
            return False
        return True

    def read(self, c: Candidate) -> TileProgram | None:
        if c.plan.backend == "jax":
            return None
        try:
            return read_back(c, bind_plan(c.plan, self.op))[0]
        except PlanError:
            return None

    def field(self, text: str, static: Static) -> list[Record]:
        """G4."""
        c = self.candidate if self.level == "tile" else self.changed(text)
        return field_records(c, static, self.op)

    def effect(self, static: Static | None, rest: bool = False) -> tuple[str, str]:
        """What running it over the reals shows."""
        program = static.program if static is not None else None
        return self.truth.effect(program, rest) if program is not None else (UNREAD, "")

    def same(self, static: Static | None) -> bool:
        """Whether its text means what the original's does, up to what proofs have to say."""
        try:
            program = static.program if static is not None else None
            return program is not None and normal_form(program) == self.form
        except FAILURES:
            return False

    # -- verdicts ---------------------------------------------------------------------------------

    def __call__(self, m: Mutant, every: bool = False, forced: bool = False) -> Fate | None:
        """The fate of a mutant, None where it is none: it does not parse, or no plan fits it.

        `every` asks all gates, whatever one of them has said; `forced` asks the proofs of a wrong
        one again, of a solver that knows nothing. OutOfTime."""
        begin = time.monotonic()
        with limit(self.seconds):
            found = self.judged(m, every, forced)
        return replace(found, seconds=time.monotonic() - begin) if found is not None else None

    def judged(self, m: Mutant, every: bool, forced: bool) -> Fate | None:
        static: Static | None = None
        try:
            static, records = self.proofs(m.text)
        except (PlanError, SyntaxError, TileError, ExprError):
            return None
        except FAILURES as e:
            records = [Record("G2.prover", "G2", "UNKNOWN", f"the prover failed: {e}")]
        if any(re.search(NO_TEXT, r.reason) for r in records if r.kind == "G1"):
            return None
        if static is None and self.level == "plan":
            return None
        if static is not None and static.program is None and not self.compiles(m.text):
            return None
        same = self.same(static)
        effect, reason = self.effect(static)
        wrong = effect in (TRAPS, DIFFERS)
        gates = statuses(records)
        if static is not None and static.program is not None and not same:
            if every or not (self.refusal(gates) or gates.get("G5") == "PROVED"):
                records += self.field(m.text, static)
        if every or not (same or self.refusal(statuses(records)) or self.exact(m, gates)):
            records += self.tested(m.text, static, every, wrong or m.kind in ("precision", "nan"))
        if not wrong and not same and not self.refusal(statuses(records)) and effect == SAME:
            effect, reason = self.effect(static, rest=True)  # all that is known against it
            if effect in (TRAPS, DIFFERS):
                records = [r for r in records if r.kind in PROOFS]
                records += self.tested(m.text, static, every, True)
        gates = statuses(records)
        refused = self.refusal(gates)
        killers = tuple(g for g in GATES if g in gates and self.less(g, gates[g]))
        known = ""
        if forced and refused in PROOFS and effect in (TRAPS, DIFFERS):
            known = self.knowing_nothing(m.text, effect)
        if refused and (not reason or effect == SAME):
            weak = [r for r in records if r.kind == refused and r.status != "PROVED"]
            reason = next((r.reason for r in sorted(weak, key=rank)), reason)
        unsound = self.unsound(gates, effect, reason) or known.removeprefix("refused")
        return Fate(
            m, gates, killers, refused, effect, reason, unsound, same, every, known[:7],
            records=tuple(records),
        )  # fmt: skip

    def tested(self, text: str, static: Static | None, every: bool, full: bool) -> list[Record]:
        """G6, and G7 and G8 where it passes a wrong one."""
        try:
            found = self.runnable(text, static)
            if found is None:
                return []
            self.original_tests()
            c, read = found
            out = self.runs.numeric(c, read, not full)
            if every or (full and not refutes(out)):
                out += self.runs.laws(c, read)
            if every or (full and not refutes(out)):
                out += self.runs.sanitized(c, read)
            return out
        except (PlanError, ImportRefusal, ExprError):
            return []
        except FAILURES as e:
            return [Record("G6.runs", "G6", "UNKNOWN", f"the run failed: {e}")]

    def exact(self, m: Mutant, gates: Mapping[str, str]) -> bool:
        """Whether a run in an interpreter would say what is proved: the function is the spec's, and
        the fault is none that only floats show."""
        compiled = self.candidate.plan.backend == "cpp"
        return gates.get("G5") == "PROVED" and m.kind not in ROUNDED and not compiled

    def original_tests(self) -> None:
        """What G6 says of the original, once."""
        if not self.ran:
            self.ran = True
            found = self.runnable(self.text, self.static)
            if found is not None:
                self.original |= statuses(self.runs.numeric(*found, True))

    def less(self, gate: str, status: str) -> bool:
        """Whether a gate says less than of the original."""
        if status == "REFUTED":
            return True
        return ORDER.index(status) < ORDER.index(self.original.get(gate, "REFUTED"))

    def refusal(self, gates: Mapping[str, str]) -> str:
        """The first gate that keeps a mutant from shipping. A function that is neither proved nor
        tested is none that ships."""
        for g in GATES:
            if gates.get(g) == "REFUTED" or (
                g in SHIPPING and g in gates and self.less(g, gates[g])
            ):
                return g
        if "G6" in gates and gates["G6"] != "TESTED" and self.less("G5", gates.get("G5", "PROVED")):
            return "G5"
        return ""

    def unsound(self, gates: Mapping[str, str], effect: str, reason: str) -> str:
        """A proof that a run contradicts."""
        if effect == TRAPS and gates.get("G2") == gates.get("G3") == "PROVED":
            return f"G2 and G3 are PROVED, but {reason}"
        if effect == DIFFERS and gates.get("G5") == "PROVED":
            return f"G5 is PROVED, but {reason}"
        if gates.get("G5") == "PROVED" and gates.get("G4") == "REFUTED":
            return f"G5 is PROVED, G4 REFUTED: {reason}"
        if gates.get("G2") == gates.get("G3") == "PROVED" and gates.get("G8") == "REFUTED":
            return f"G2 and G3 are PROVED, G8 REFUTED: {reason}"
        return ""

    def knowing_nothing(self, text: str, effect: str) -> str:
        """What the proofs of a wrong mutant say with a solver that answers no question: "refused",
        or what is wrong with them."""
        with proofs.open_book(Unknowing()):
            try:
                gates = statuses(self.proofs(text)[1])
            except (*FAILURES, SyntaxError):
                return "refused"
        wrong = self.unsound(gates, effect, "it is wrong")
        return f"with a solver that knows nothing, {wrong}" if wrong else "refused"


class ArrayJudge(Judge):
    """Judges mutants of a text of arrays, which has no memory of its own."""

    def checked(self, static: Static | None, records: Sequence[Record]) -> Static:
        if static is None or self.original.get("G1") != "PROVED":
            why = next((r.reason for r in records if r.kind == "G1"), "")
            raise ValueError(f"the original's G1 is not proved: {why}")
        return static

    def prepare(self) -> None:
        self.arrays = ArrayTruth(self.op)

    def proofs(self, text: str) -> tuple[Static | None, list[Record]]:
        c = self.changed(text)
        bound = bind_plan(c.plan, self.op)
        check_signatures(c.plan, c.source, self.op)
        self.readings: Readings = []
        records = policy(c)
        if not refutes(records):
            found, self.readings = array_gates(c, self.op)
            records += found
        return Static(tuple(records), None, bound), records

    def effect(self, static: Static | None, rest: bool = False) -> tuple[str, str]:
        return array_effect(self.arrays, self.readings)

    def same(self, static: Static | None) -> bool:
        return False


def array_effect(truth: ArrayTruth, readings: Readings) -> tuple[str, str]:
    """What evaluating the readings of a text shows: each at the params that it was read for."""
    last = UNREAD, "nothing was read"
    for read, pins in readings:

        def fits(env: Mapping[str, Any], pins: Sequence[Any] = pins) -> bool:
            try:
                return all(bool(evaluate(f, env)) for f in pins)
            except (ExprError, KeyError):
                return False

        last = truth.effect(read, fits)
        if last[0] == DIFFERS:
            return last
    return last


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """OutOfTime in what takes longer; nothing but the main thread has such a clock."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def refutes(records: Sequence[Record]) -> bool:
    return any(r.status == "REFUTED" for r in records)


def rank(r: Record) -> int:
    return ORDER.index(r.status)


def statuses(records: Sequence[Record]) -> Statuses:
    """The weakest status of each gate."""
    kinds = dict.fromkeys(r.kind for r in records)
    return {k: weakest(r.status for r in records if r.kind == k) for k in kinds}
