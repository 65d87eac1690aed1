"""Gate G5 of rows as kernels of others have them: masked extremes, sums kept by lanes, shares,
tails, choices that are extremes; and the near misses, none of which is proved."""

from __future__ import annotations

import pytest
from support.tile_rows import HEAD, ROWS

from opwright.compiler.elaborate import parse_spec
from opwright.ir.expr import call, const, read
from opwright.ir.tile import TileProgram
from opwright.ir.tiletext import parse_program
from opwright.verify.masked import choice_as_extreme, masked_extreme
from opwright.verify.tile_function import tile_function

WRONG = [(name, *w) for name, row in ROWS.items() for w in row.wrong]


def statuses(name: str, text: str) -> set[str]:
    op = parse_spec(HEAD + ROWS[name].spec, name).operator()
    program = parse_program(text)
    assert isinstance(program, TileProgram)
    return {r.status for r in tile_function(program, op)}


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_proved(name: str) -> None:
    assert statuses(name, ROWS[name].program) == {"PROVED"}


@pytest.mark.parametrize(("name", "right", "wrong"), WRONG)
def test_near_misses_are_not_proved(name: str, right: str, wrong: str) -> None:
    text = ROWS[name].program
    assert right in text
    assert statuses(name, text.replace(right, wrong, 1)) == {"UNKNOWN"}


def test_choices_are_extremes_only_where_they_are() -> None:
    x, y = (read(n, (), "real") for n in "xy")
    for a, b, one, two, found in [
        (x, y, x, y, "min"), (x, y, y, x, "max"), (y, x, x, y, "max"), (y, x, y, x, "min"),
    ]:  # fmt: skip
        for op in ("lt", "le"):
            made = choice_as_extreme(call("select", call(op, a, b), one, two))
            assert made is not None
            assert made.op == found
    low, high = const(-1.0), const(1.0)
    inner = call("max", x, low)
    assert choice_as_extreme(call("select", call("lt", high, x), high, inner)) is not None
    assert choice_as_extreme(call("select", call("lt", low, x), low, call("max", x, high))) is None
    assert choice_as_extreme(call("select", call("lt", x, y), x, high)) is None


def test_masked_values_of_either_sign_are_left_alone() -> None:
    x, on = read("x", (), "real"), read("on", (), "bool")
    kept = call("select", on, x, const(0.0))
    assert masked_extreme("max", call("abs", kept)) is not None
    assert masked_extreme("max", kept) is None
    assert masked_extreme("min", call("abs", kept)) is None
    assert masked_extreme("min", call("neg", call("abs", kept))) is not None
    assert masked_extreme("sum", call("abs", kept)) is None
