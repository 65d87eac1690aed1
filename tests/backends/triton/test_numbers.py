"""Results without axes, as numbers that the interpreter of the language hands back."""

from __future__ import annotations

import numpy as np
import pytest

from opwright.backends.cpp.build import host_isa
from opwright.backends.triton.interpreted import eight_bits
from opwright.compiler.block_spaces import spaces
from opwright.compiler.blocks import printed
from opwright.compiler.elaborate import parse_spec
from opwright.compiler.execution import execute
from opwright.compiler.importing import static_gates
from opwright.ir.dtypes import DTYPES, decode

pytest.importorskip("triton")

SPEC = """opwright "0.1"
op totals @ 1.0 {
  dims N
  input x: f32[N], steps_in: i64
  output s: f32, steps: i64 updates steps_in, some: bool
  def {
    s = sum.f32[i: N](x[i])
    steps = steps_in + 1
    some = any[i: N](x[i] > 1)
  }
  requires few: -1000 < steps_in and steps_in < 1000
}
"""


def test_they_have_no_axis() -> None:
    op = parse_spec(SPEC).operator("totals", {})
    first = spaces(op)[0]
    c = printed(first.instantiate(first.preferred()[0]), op, "sm_90")
    found = execute(c, static_gates(c, op), op, host_isa(), 1)
    assert {r.status for r in found} == {"TESTED"}, found


def test_floats_of_eight_bits_are_what_their_codes_say() -> None:
    codes = np.arange(256, dtype=np.uint8)
    for name, made in (("f8e4m3", eight_bits(4, False)), ("f8e5m2", eight_bits(5, True))):
        np.testing.assert_array_equal(made, decode(codes, DTYPES[name]).astype(np.float32))
