"""Running mutants: what G6, G7 and G8 say, with the cases and expected values of the original.

Whatever does not depend on a mutant is made once: cases, their reference values, the process that
evaluates libraries. A mutant costs one compilation, or one process of the interpreter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from opwright.backends import isolation
from opwright.backends.cpp.driver import DriverError
from opwright.compiler.candidates import Candidate
from opwright.compiler.execution import (
    CALL_LIMIT,
    NEAR,
    SLOW_CASES,
    Arrays,
    _Cases,
    _steps,
    execute,
    executes,
    literals,
    observed,
)
from opwright.compiler.importing import Static
from opwright.compiler.law_gates import law_records
from opwright.compiler.sanitizer_gates import sanitizer_records
from opwright.compiler.toolbox import evaluation_tools
from opwright.ir.op import Operator
from opwright.ir.record import Record
from opwright.ir.tile import TileProgram
from opwright.search.evaluate import CandidateEvaluator
from opwright.search.results import Given, Job, Options
from opwright.search.space import Schedule
from opwright.verify.inputs import Case
from opwright.verify.numeric import numeric

T = TypeVar("T")
FEW, LIGHT = 5, 600  # calls of a short run in an interpreter, and statements of one


class Runs:
    """Runs mutants of one subject; close it afterwards."""

    def __init__(self, op: Operator, isa: str, program: TileProgram | None) -> None:
        self.op, self.isa, self.program = op, isa, program
        self.evaluators: dict[bool, CandidateEvaluator] = {}
        self.cases: _Cases | None = None

    def close(self) -> None:
        """End what was started."""
        for e in self.evaluators.values():
            e.__exit__(None, None, None)
        self.evaluators.clear()

    def numeric(self, c: Candidate, static: Static, short: bool) -> list[Record]:
        """G6. A short run in an interpreter is one of few and small calls."""
        if c.plan.backend == "cpp":
            return self._library(c, static)
        if c.plan.backend == "triton" and executes(c) and short and static.program is not None:
            return self._interpreted(c, static)
        return execute(c, static, self.op, self.isa, 0)

    def laws(self, c: Candidate, static: Static) -> list[Record]:
        """G7."""
        if c.plan.backend == "jax":
            return []
        return law_records(c, static, self.op, self.isa, 0)

    def sanitized(self, c: Candidate, static: Static) -> list[Record]:
        """G8, where no proof is a proof of safety yet or nothing else runs."""
        return sanitizer_records(c, static, self.op, self.isa, 0)

    # -- libraries --------------------------------------------------------------------------------

    def _library(self, c: Candidate, static: Static) -> list[Record]:
        """As `execute` does, but with one evaluator for all mutants."""
        tools = evaluation_tools(self.op, self.isa)
        try:
            emitted = tools.emit_plan(c.plan, c.source)
        except DriverError as e:
            return [Record("G6.runs", "G6", "UNKNOWN", str(e))]
        given = Given(c.digest, emitted, (Record("G2.given", "G2", "TESTED"),))
        program = static.program or TileProgram(self.op.name, (), (), static.bound.facts)
        evaluator = self._evaluator(not static.safe)
        evaluator.blocks = literals(c)
        judged = evaluator.judge(Job(0, Schedule("given"), program, c.digest, given))
        found = [r for r in judged.records if r.kind == "G6"]
        if found:
            return found
        status = "UNKNOWN" if judged.status == "unbuilt" else "REFUTED"
        return [Record("G6.runs", "G6", status, judged.reason)]

    def _evaluator(self, guarded: bool) -> CandidateEvaluator:
        if guarded not in self.evaluators:
            tools = evaluation_tools(self.op, self.isa)
            options = Options(require="TESTED", call_limit=CALL_LIMIT, guarded=guarded)
            made = CandidateEvaluator(self.op, tools.tools, options, NEAR)
            self.evaluators[guarded] = made.__enter__()
        return self.evaluators[guarded]

    # -- the language's interpreter ---------------------------------------------------------------

    def _interpreted(self, c: Candidate, static: Static) -> list[Record]:
        from opwright.backends.triton import run

        assert static.program is not None
        if self.cases is None:
            program = self.program or static.program
            self.cases = _Cases.of(self.op, self.isa, 0, program, SLOW_CASES, literals(c), c.source)
        cases = sorted(self.cases.cases, key=lambda x: _steps(static, x))
        full = [x for x in cases if all(a.size for a in x.inputs.values())]
        light = [x for x in full if _steps(static, x) <= LIGHT]
        chosen = _spread(light or full[:1], FEW)
        unable: list[str] = []
        with run.Interpreter(c.source, static.bound) as interpreter:

            def call(case: Case, views: Arrays) -> Arrays:
                try:
                    found: Arrays = interpreter.run(views, case.sizes, case.params, CALL_LIMIT)
                    return found
                except run.NotInterpreted as e:
                    unable.append(str(e))
                    raise

            judge = observed(self.op, static.program.facts, call, (run.RunError,))
            found = numeric(self.op, chosen, judge, self.cases.bound, layouts=())
        if unable:
            return [Record("G6.runs", "G6", "UNKNOWN", f"not interpreted: {unable[0]}")]
        how = isolation.describe()
        return [replace(r, assumptions=(*r.assumptions, how)) for r in found.records]


def _spread(found: Sequence[T], count: int) -> list[T]:
    """At most so many, from the first to the last."""
    if len(found) <= count:
        return list(found)
    return [found[n * (len(found) - 1) // (count - 1)] for n in range(count)]
