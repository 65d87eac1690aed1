"""Quotients and functions over the reals: divisors are not 0, logarithms and roots have values.

A counterexample is replayed over the reals on generated inputs; what has none is proved with z3. A
divisor that can be 0 for some input is a warning; one that always is, an error.
"""

from __future__ import annotations

from opwright.compiler import codes
from opwright.compiler.check_claims import plain, trial_text
from opwright.compiler.decide import Answer
from opwright.compiler.elaborate import Elaborated
from opwright.compiler.obligations import Obligation
from opwright.grammar.diagnostics import Diagnostic, diagnose
from opwright.ir.expr import call
from opwright.ir.op import Law
from opwright.verify.claims import Part, by_normal_form
from opwright.verify.falsify import Falsifier
from opwright.verify.inequalities import Prover
from opwright.verify.setting import setting

REAL = ("real", "domain")


class Domains:
    """Decides these obligations of one operator."""

    def __init__(self, e: Elaborated, falsifier: Falsifier) -> None:
        self.e, self.falsifier = e, falsifier
        self.provers: dict[str, Prover] = {}

    def prover(self, owner: str) -> Prover:
        op = self.e.operator
        clause = next((c for c in op.clauses if c.name == owner), None)
        key = owner if clause is not None and isinstance(clause.source, Law) else ""
        if key not in self.provers:
            self.provers[key] = Prover(op, setting(op, clause if key else None))
        return self.provers[key]

    def decide(self, o: Obligation) -> tuple[Answer, Diagnostic | None]:
        """The answer, and what is said about an obligation that does not hold."""
        inside = o.owner in {t.name for t in self.e.operator.tensors}
        if inside:
            found, always = self.falsifier.breaks(o.ranges, o.assume, o.goal)
            if found is not None:
                text = trial_text(self.e, None, found, o.goal)
                answer = Answer("REFUTED", f"replayed over the reals: {text}", found.indices)
                if always and self._never(o):
                    return answer, self._always(o)
                assert o.subject is not None
                side = 0 if o.goal.op == "ne" else 1  # a != 0, bound < a
                what = f"the argument of `{o.subject.op}`"
                fields = {
                    "witness": text,
                    "what": "the divisor of `/`" if o.subject.op == "div" else what,
                    "value": plain(found.sides[side]),
                }
                return answer, diagnose(codes.NO_VALUE, o.span, self.e.filename, **fields)
        prover = self.prover(o.owner)
        proved, why = prover.prove(o.goal, o.ranges, o.assume)
        if proved:
            return Answer("PROVED", "z3: unsat, over the reals"), None
        return Answer("UNKNOWN", why), None

    def _never(self, o: Obligation) -> bool:
        """Whether the opposite is proved: there is no input with a value."""
        opposite = call("eq", *o.goal.args) if o.goal.op == "ne" else ~o.goal
        part = Part(o.ranges, o.assume, opposite)
        prover = self.prover("")
        if by_normal_form(self.e.operator, prover.where, [part]) == [True]:
            return True
        return prover.prove(part.goal, o.ranges, o.assume)[0]

    def _always(self, o: Obligation) -> Diagnostic:
        assert o.subject is not None
        if o.subject.op == "div":
            return diagnose(codes.DIVISION_BY_ZERO, o.span, self.e.filename)
        return diagnose(codes.NEVER_IN_DOMAIN, o.span, self.e.filename, function=o.subject.op)
