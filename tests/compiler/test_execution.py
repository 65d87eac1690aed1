"""What runs a candidate keeps apart: reference values belong to the case that they were made of."""

from __future__ import annotations

from support.operators import row_sum

from opwright.compiler.execution import _Cases
from opwright.ir.tile import TileProgram
from opwright.verify.inputs import generate


def test_reference_values_stay_with_their_case():
    """A case that is dropped may leave its identity to the next one that is made."""
    op = row_sum()
    cases = _Cases.of(op, "portable", 0, TileProgram(op.name, (), (), ()), 4)
    for seed in range(6):
        for case in generate(op, seed, 6).cases:
            assert cases.bound(case)["y"].reference.shape == (case.sizes["B"],)
