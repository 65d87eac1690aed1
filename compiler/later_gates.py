"""Gates between proofs and tests, on what was read of a candidate: G4, which executes nothing."""

from __future__ import annotations

from dataclasses import replace

from opwright.compiler.candidates import Candidate
from opwright.compiler.execution import literals
from opwright.compiler.importing import FAILURES, Static, own_subject
from opwright.ir.op import Operator
from opwright.ir.record import Record
from opwright.search.calls import edges
from opwright.verify.field_gate import field_gate


def field_records(c: Candidate, static: Static, op: Operator) -> list[Record]:
    """G4 of a program that was read; nothing about array code, which is compared as a whole."""
    if c.plan.backend == "jax":
        return []
    subject = own_subject(c)
    if static.program is None:
        why = "the source was not read, so there is nothing to evaluate"
        return [Record(f"G4.{t.name}", "G4", "UNKNOWN", why, subject) for t in op.outputs]
    near = tuple(dict.fromkeys((*edges(static.program), *literals(c))))
    try:
        found = field_gate(static.program, op, subject, near, _unordered(static))
        assumed = static.program.assumes  # such as the fill of masked loads
        return [replace(r, assumptions=(*r.assumptions, *assumed)) for r in found]
    except FAILURES as e:
        why = f"the evaluation failed on this program ({type(e).__name__}: {str(e)[:200]})"
        return [Record(f"G4.{t.name}", "G4", "UNKNOWN", why, subject) for t in op.outputs]


def early_records(c: Candidate, static: Static, op: Operator) -> list[Record]:
    """G4 before G2 and G3: of programs that do one statement after the other, nothing has to be
    proved before lockstep is what they do."""
    assert static.program is not None
    if any(k.order != "statement" or k.threads for k in static.program.kernels):
        return []
    return field_records(c, static, op)


def _unordered(static: Static) -> str:
    """Why lanes that run on their own may not do what they do in lockstep; nothing where they run
    one statement after the other, or where it is proved that it makes no difference."""
    assert static.program is not None
    if all(k.order == "statement" and not k.threads for k in static.program.kernels):
        return ""
    weak = next((r for r in static.records if r.kind == "G3" and r.status != "PROVED"), None)
    if weak is None or weak.status == "ASSUMED":
        return ""
    return f"{weak.id} is {weak.status}"
