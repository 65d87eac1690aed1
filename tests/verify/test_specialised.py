"""What facts say of sizes that others of them fix; and what does not follow from them."""

from __future__ import annotations

import pytest

from opwright.ir.dtypes import F32
from opwright.ir.expr import call, const, pid, show, size
from opwright.ir.tile import Buffer, Builder, Placement, TileProgram
from opwright.verify.context import Context
from opwright.verify.encode import specialised
from opwright.verify.gates import safety

C, G = size("C"), size("G")
WHOLE = (call("le", 1, C), call("le", 1, G), call("eq", C % G, 0))


def _verdict(offset: int, *fixed: int) -> str:
    """Of the program that writes every fourth element of C and one that is `offset` behind it."""
    b = Builder("k", ((C + 3) // 4,))
    y = b.buffer(Buffer("y", "out", F32, (C,)))
    b.store(y, pid(0) * 4 + offset, b.full(0.0, F32))
    facts = tuple(call("eq", G, n) for n in fixed)
    program = TileProgram("groups", (b.kernel(),), (Placement(),), facts)
    found = [r for r in safety(program, Context(WHOLE)) if "y" in r.id and r.kind == "G2"]
    assert found
    return min((r.status for r in found), key=("REFUTED", "UNKNOWN", "PROVED").index)


def test_facts_are_said_again_with_fixed_values() -> None:
    said = specialised([*WHOLE, call("eq", G, 4)])
    assert [show(f) for f in said] == ["C % 4 == 0"]
    assert specialised(WHOLE) == []
    assert specialised([call("eq", G, C), call("eq", const(4), G), call("le", 1, C)])


def test_a_group_ends_within_what_is_a_multiple_of_it() -> None:
    assert _verdict(3, 4) == "PROVED"


@pytest.mark.parametrize(
    ("offset", "fixed"),
    [(4, (4,)), (3, (2,)), (3, ()), (3, (4, 5))],  # behind it; of another; of none; impossible
)
def test_what_does_not_follow_is_not_proved(offset: int, fixed: tuple[int, ...]) -> None:
    assert _verdict(offset, *fixed) != "PROVED"
