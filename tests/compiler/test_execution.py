"""What runs a candidate keeps apart: reference values belong to the case that they were made of."""

from __future__ import annotations

import numpy as np
from support.operators import row_sum

from opwright.compiler.execution import _Cases, _small, _turned
from opwright.ir.tile import TileProgram
from opwright.verify.inputs import generate


def test_reference_values_stay_with_their_case():
    """A case that is dropped may leave its identity to the next one that is made."""
    op = row_sum()
    cases = _Cases.of(op, "portable", 0, TileProgram(op.name, (), (), ()), 4)
    for seed in range(6):
        for case in generate(op, seed, 6).cases:
            assert cases.bound(case)["y"].reference.shape == (case.sizes["B"],)


def test_one_sorted_row_is_tried_in_both_orders():
    op = row_sum()
    seen = 0
    for seed in range(8):
        made = generate(op, seed, 8, families=("sorted",), specials=False).cases
        for case in (c for c in made if c.inputs["x"].shape[0] == 1 and c.inputs["x"].size > 1):
            one, other = _turned(op, [case])
            assert np.array_equal(one.inputs["x"], other.inputs["x"][:, ::-1])
            seen += 1
    assert seen


def test_small_numbers_are_tried_where_their_type_has_room_for_products():
    op = row_sum()
    made = generate(op, 0, 6).cases
    (small,) = _small(op, made)
    plain = next(c for c in made if c.family == "normal" and c.inputs["x"].size)
    assert np.array_equal(small.inputs["x"] * 1024, plain.inputs["x"])
