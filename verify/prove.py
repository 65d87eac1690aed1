"""Safety of tile programs for all sizes at once: how the obligations of G2 and G3 are discharged.

G2: in bounds, no wrap, positive divisors, no poison that is stored, reduced, carried or branched
on, nothing read before it is written, hints true. G3: every output element written, and written
once; no program touches what another one of its launch writes. An obligation is a formula over an
arbitrary instance of a statement; it is discharged by intervals, by the facts it stands under, or
by z3, where only `unsat` proves. What is not proved goes to `replay`, which alone may call it
refuted.
"""

from __future__ import annotations

import time

from opwright.ir.expr import show
from opwright.ir.record import Record
from opwright.ir.spent import part
from opwright.ir.tile import TileProgram
from opwright.ir.tiletext import digest
from opwright.verify import proofs
from opwright.verify.context import Context
from opwright.verify.determined import Determined
from opwright.verify.encode import Encoder
from opwright.verify.hints import Hints
from opwright.verify.obligation import Case, Obligation
from opwright.verify.safety import Safety
from opwright.verify.small import Small
from opwright.verify.solver import Answer, Asker
from opwright.verify.terms import YES, Formula, Poly
from opwright.verify.walk import Walk


def prove(program: TileProgram, context: Context, subject: str = "") -> list[Record]:
    """One record per obligation of G2 and G3 of a program that `check_program` accepts.

    A status is PROVED, UNKNOWN with a reason, or REFUTED with a counterexample that the
    interpreter ran into. Raises nothing for a program that is wrong.
    """
    start = time.monotonic()
    if (book := proofs.current()) is not None:
        book.program(digest(program))
    prover = Prover(program, context)
    prover.run()
    if context.replay and any(o.status != "PROVED" for o in prover.obligations):
        from opwright.verify.replay import replay

        with part("replay"):
            found = replay(prover, start + context.budget)
    else:
        found = {}
    return [
        Record(
            o.id,
            o.kind,
            "REFUTED" if n in found else o.status,
            found[n][0] if n in found else o.reason,
            subject,
            counterexample=found[n][1] if n in found else None,
            seconds=o.seconds,
        )
        for n, o in enumerate(prover.obligations)
    ]


def _found(wrong: str) -> tuple[str, str]:
    return ("UNKNOWN", wrong) if wrong else ("PROVED", "")


class Prover:
    """Collects and discharges the obligations of one program."""

    def __init__(self, program: TileProgram, context: Context) -> None:
        self.program, self.context = program, context
        self.seen = Walk(program)
        self.encoder = Encoder(program, context, self.seen)
        self.terms = self.encoder.terms
        self.asker = Asker(
            self.terms, context.timeout, context.rlimit, time.monotonic() + context.budget
        )
        strides = [p for x, p in self.encoder.scalars.items() if x.op == "stride"]
        self.asker.assume(self.encoder.facts, frozenset(n for p in strides for n in p.atoms))
        self.small = Small(self.encoder)
        self.obligations: list[Obligation] = []
        self.contradiction = ""
        self._reach: dict[tuple[frozenset[Formula], frozenset[int]], tuple[str, str]] = {}
        self._reach_steps: dict[object, list[proofs.Step]] = {}

    # -- discharge
    def run(self) -> None:
        """Fill `obligations`; each has a status afterwards."""
        with proofs.obligation("facts.consistent", "facts") as entry:
            self.contradiction = self.consistent()
            entry.status, entry.reason = _found(self.contradiction)
        for kind in (Safety, Determined, Hints):
            with part("G3" if kind is Determined else "G2"):
                for o in kind(self.program, self.context, self.seen, self.encoder).collect():
                    self.discharge(o)
                    self.obligations.append(o)

    def consistent(self) -> str:
        """Why the facts cannot be used, or "": facts that contradict each other prove anything."""
        t = self.terms
        bounds: list[Formula] = []
        for p in self.encoder.scalars.values():
            if isinstance(p, Poly):
                (n,) = p.atoms
                a = t.atoms[n]
                bounds += [t.raw_ge0(t.shift(p, -a.lo))] if a.lo is not None else []
                bounds += [t.raw_ge0(t.shift(t.scale(p, -1), a.hi))] if a.hi is not None else []
        if self.small.consistent():
            proofs.argue("all facts hold at a point with small sizes")
            return ""
        answer = self.asker.ask([*bounds, *self.encoder.facts])
        if answer.result == "unsat":
            return "the facts contradict each other"
        if answer.result == "unknown":
            return f"the facts could not be shown consistent ({answer.reason})"
        return ""

    def discharge(self, o: Obligation) -> None:
        start = time.perf_counter()
        with proofs.obligation(o.id, o.kind) as entry:
            o.status, o.reason = self._decide(o)
            entry.status, entry.reason = o.status, o.reason
        o.seconds = time.perf_counter() - start

    def _decide(self, o: Obligation) -> tuple[str, str]:
        if o.status:
            proofs.argue(o.reason or "by the form of the program")
            return o.status, o.reason
        if o.decide is not None:
            return o.decide()
        if self.contradiction:
            return "UNKNOWN", self.contradiction
        reasons = []
        for case in o.cases:
            status, reason = self._settle(o, case)
            if status != "PROVED":
                return self._instead(o, case, status, reason)
            reasons.append(reason)
        dead = reasons[0] if reasons and all(reasons) else ""
        return "PROVED", dead or o.note

    def _instead(self, o: Obligation, failed: Case, status: str, reason: str) -> tuple[str, str]:
        """Another way to prove an obligation whose first one failed."""
        o.failed, first = failed, o.answer
        for cases, why in o.otherwise:
            for case in cases:
                found, because = self._settle(o, case)
                if found != "PROVED":
                    break
            else:
                o.failed = o.answer = None
                proofs.argue(why)
                return "PROVED", why
            if len(cases) == 1:  # a weaker goal in place of the first
                o.failed, status, reason, first = case, found, because, o.answer
        o.answer = first
        return status, ": ".join(x for x in (o.line, o.says, reason) if x)

    def _settle(self, o: Obligation, case: Case) -> tuple[str, str]:
        facts, goal = case
        t = self.terms
        if goal is YES or t.implied(facts, goal):
            proofs.argue("the goal is true by normal form, intervals or one of its facts")
            return self._reached(facts, goal)
        # with products one dimension is asked after the other: each is a smaller question
        parts = [x for x in goal.args if isinstance(x, Formula)] if goal.op == "and" else []
        if not parts or not self.asker.products([goal, *facts]):
            parts = [goal]
        for conjunct in parts:
            answer = self.asker.ask([*facts, t.no(conjunct)])
            if answer.result != "unsat":
                break
        if answer.result == "unsat":
            return self._reached(facts, goal)
        o.answer = answer
        if answer.result == "unknown":
            return "UNKNOWN", answer.reason
        model = self.show_model(answer)
        data = self.asker.data([*facts, goal])
        because = f"; it depends on the data of {', '.join(data)}" if data else ""
        if o.proposed:
            return "UNKNOWN", f"no witness found, for instance at {model}{because}"
        return "UNKNOWN", f"a counterexample at {model} could not be replayed{because}"

    def _reached(self, facts: list[Formula], goal: Formula) -> tuple[str, str]:
        """PROVED, unless what the proof stands on cannot happen for a reason that is not a fact."""
        elements = self.asker.elements(goal)
        key = (frozenset(facts), elements)
        if key in self._reach:
            proofs.again(self._reach_steps[key])
            return self._reach[key]
        with proofs.steps() as made:
            answer = self.asker.ask(facts, rough=True, besides=elements)
            if answer.result != "unsat":
                self._reach[key] = "PROVED", ""
            else:
                bare = self.asker.ask(facts, clauses=False, rough=True)
                self._reach[key] = {
                    "unsat": ("PROVED", "cannot happen under the facts"),
                    "sat": ("UNKNOWN", "the requirements on inputs contradict each other"),
                }.get(bare.result, ("UNKNOWN", f"whether this can happen: {bare.reason}"))
        self._reach_steps[key] = made
        return self._reach[key]

    def show_model(self, answer: Answer) -> str:
        """Sizes, params and strides of a model, in the spec's names."""
        parts = []
        for x, p in self.encoder.scalars.items():
            if isinstance(p, Poly):
                (n,) = p.atoms
                parts.append(f"{show(x)} = {answer.model.get(n, 0)}")
        return ", ".join(parts) or "any size"
