"""What cannot hold together cannot hold with more; what may hold with less may not."""

from __future__ import annotations

from opwright.ir.tiletext import parse_program
from opwright.verify.context import Context
from opwright.verify.prove import Prover
from opwright.verify.terms import Poly

TEXT = """program p
sizes N
kernel k0
  grid N
  in x: f32[N]
  out y: f32[N]
  body
    x: f32 = load x[p0]
    st_y: store y[p0] = x
"""


def test_a_question_is_answered_by_one_about_a_part_of_it_alone() -> None:
    prover = Prover(parse_program(TEXT), Context())
    t, asker = prover.terms, prover.asker
    (n,) = [p for p in prover.encoder.scalars.values() if isinstance(p, Poly)][:1]
    high, low = t.raw_ge0(t.shift(n, -5)), t.raw_ge0(t.shift(t.scale(n, -1), 3))
    more = t.raw_ge0(t.shift(n, -4))
    assert asker.ask([high, low]).result == "unsat"
    asked = len(asker._answers)
    assert asker.ask([high, low, more]).result == "unsat"
    assert len(asker._answers) == asked
    assert asker.ask([high, more]).result == "sat"
    assert asker.ask([low]).result == "sat"
    assert asker.ask([low], rough=True).result == "sat"
