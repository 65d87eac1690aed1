"""Random numbers in printed array code are read back as such, and nothing else is."""

from __future__ import annotations

import pytest

from opwright.compiler.candidates import Candidate
from opwright.compiler.elaborate import elaborate
from opwright.compiler.importing import static_gates
from opwright.compiler.pure import arrays_candidate
from opwright.grammar.parser import parse
from opwright.ir.op import Operator

TEXT = """
opwright "0.1"
op noisy @ 1.0 {
  dims B, N
  param seed: i64 = 7
  input x: f32[B, N]
  output y: f32[B, N]
  def { y[b, j] = x[b, j] + %s(seed, b * N + j, 3) }
}
"""


def operator(function: str) -> Operator:
    text = TEXT % function
    return elaborate(parse(text, "noisy.op"), "noisy", filename="noisy.op", source=text)


def imported(c: Candidate, op: Operator) -> str:
    (record,) = [r for r in static_gates(c, op).records if r.id == "G1.import"]
    return record.status


@pytest.mark.parametrize("function", ["rand", "randn"])
def test_printed_random_numbers_read_back(function):
    op = operator(function)
    c = arrays_candidate(op)
    assert imported(c, op) == "PROVED"


@pytest.mark.parametrize(
    ("old", "new"), [("range(10)", "range(9)"), ("0xD2511F53", "0xD2511F55"), (">> 8", ">> 9")]
)
def test_another_generator_is_not_taken_for_it(old, new):
    op = operator("rand")
    c = arrays_candidate(op)
    assert old in c.source
    assert imported(Candidate(c.plan, c.source.replace(old, new, 1)), op) == "UNKNOWN"
