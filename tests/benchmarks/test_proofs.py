"""The benchmark of proofs over the library: what it counts, and what it says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opwright.benchmarks.proofs import Proved, causes, main, preferred, shares


def row(op: str, strategy: str, function: str = "PROVED", safety: str = "PROVED") -> Proved:
    status = {"G2": safety, "G3": "PROVED", "G5": function}
    why = {} if function == "PROVED" else {"G5": "G5.y: st_y_1: the normal forms differ"}
    return Proved(op, strategy, "", status, {"G2": 0.1, "G3": 0.1, "G5": 0.2}, why)


def test_operators_count_by_which_of_their_programs_is_asked_for() -> None:
    rows = [
        row("a", "fallback", "UNKNOWN"), row("a", "row"), row("a", "once_row", "UNKNOWN"),
        row("b", "fallback"),
    ]  # fmt: skip
    found = dict(shares(rows))
    assert found["fallback"]["G5"] == (1, 2)
    assert found["preferred"]["G5"] == (2, 2)
    assert found["some strategy"]["G5"] == (2, 2)
    assert found["every strategy"]["G5"] == (1, 2)
    assert found["programs"]["G5"] == (2, 4)
    assert preferred(rows[:3]).strategy == "row" and preferred(rows[3:]).strategy == "fallback"
    assert causes(rows) == ["   2  the normal forms differ  (a fallback)"]


def test_a_function_stands_on_safety() -> None:
    found = dict(shares([row("a", "fallback", safety="UNKNOWN")]))
    assert found["preferred"]["G2"] == found["preferred"]["G5"] == (0, 1)


def test_a_small_operator_is_looked_at_and_what_is_left_out_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.json"
    assert main(["--ops", "transpose", "--json", str(out), "--why"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows and all(r["status"]["G5"] == "PROVED" for r in rows)
    assert "of operators, whose" in capsys.readouterr().out
    assert main(["--ops", "transpose", "--seconds", "-1"]) == 1
    assert main(["--ops", "no_such_operator"]) == 2
