"""The table of wrong implementations, on one small operator."""

from __future__ import annotations

import pytest

from opwright.benchmarks.mutation import main, page, run
from opwright.benchmarks.twins import KINDS, TWINS, made, world

pytest.importorskip("torch")
pytest.importorskip("hypothesis")


def test_the_table_of_one_operator() -> None:
    twin = next(t for t in TWINS if t.name == "row_max")
    line = run(twin, 16, 0, world())
    assert line.right == dict.fromkeys(KINDS, "")
    assert len(line.wrong()) >= 16 and line.killed() == len(line.wrong())
    assert line.plain() < line.killed()
    text = "\n".join(page([line], 1.0))
    assert "reduce/row_max" in text and "3 of 3" in text and "killed first by" in text


def test_every_operator_has_its_functions() -> None:
    space = world()
    assert len({t.spec for t in TWINS}) == len(TWINS) >= 30
    for twin in TWINS:
        assert all(callable(made(twin, kind, space)) for kind in KINDS)


def test_an_operator_that_is_not_there() -> None:
    with pytest.raises(SystemExit):
        main(["nothing"])
