"""The tables: modes apart, ratios to the package, missing numbers with their reasons."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opwright.benchmarks.__main__ import main, record, slug
from opwright.benchmarks.report import implementations, ratios, table, text
from opwright.compiler.timing import Row


def _row(op: str, impl: str, mode: str, seconds: float | None, note: str = "") -> Row:
    return Row(op, "w", "N=1", impl, mode, seconds, 0.0, note)


ROWS = [
    _row("a", "opwright", "out", 1e-3),
    _row("a", "torch", "out", 2e-3),
    _row("a", "opwright", "fresh", 2e-3),
    _row("a", "torch", "fresh", 3e-3),
    _row("a", "jax", "fresh", None, "jax: no such type"),
    _row("b", "opwright", "out", 1e-3),
    _row("b", "torch", "out", 0.5e-3),
]


def test_ratios_are_over_the_package_and_modes_stay_apart() -> None:
    assert implementations(ROWS) == ["torch", "jax"]
    assert ratios(ROWS, "out") == {"torch": pytest.approx([2.0, 0.5])}
    assert ratios(ROWS, "fresh") == {"torch": pytest.approx([1.5])}


def test_tables() -> None:
    lines = [line.split() for line in table(ROWS, "out")]
    assert lines[0] == ["operator", "workload", "opwright", "ms", "torch"]
    assert lines[1] == ["a", "w", "1", "2.00x"]
    assert lines[2] == ["b", "w", "1", "0.50x"]
    assert lines[3] == ["geometric", "mean", "1.00x"]
    fresh = [line.split() for line in table(ROWS, "fresh")]
    assert fresh[1] == ["a", "w", "2", "1.50x", "-"]
    assert table([], "out") == []


def test_reasons_are_printed() -> None:
    printed = text(ROWS)
    assert "outputs given" in printed and "outputs allocated" in printed
    assert "a w, jax (fresh): jax: no such type" in printed
    assert "doubtful" not in printed
    busy = [*ROWS, _row("c", "opwright", "out", 1e-3, "the machine's load was 9.0")]
    assert "1 of 8 numbers are doubtful" in text(busy)


def test_an_unknown_operator_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no_such"]) == 2
    assert "no operator no_such" in capsys.readouterr().err


def test_results_of_a_machine_are_kept_by_operator(tmp_path: Path) -> None:
    file = tmp_path / "some-machine" / "f32.json"
    record(file, ROWS, "first")
    record(file, [_row("b", "opwright", "out", 2e-3)], "second")
    rows = json.loads(file.read_text())["rows"]
    assert [r["when"] for r in rows if r["op"] == "a"] == ["first"] * 5
    assert [(r["median_s"], r["when"]) for r in rows if r["op"] == "b"] == [(2e-3, "second")]
    file.write_text("damaged")
    record(file, ROWS[:1], "third")
    assert len(json.loads(file.read_text())["rows"]) == 1


def test_what_does_not_fit_in_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    given = ["silu", "--minutes", "0", "--results", str(tmp_path)]
    assert main(given) == 1
    assert "silu: not measured" in capsys.readouterr().out
    assert main(["silu", "--against", "abacus"]) == 2


def test_names_of_folders() -> None:
    assert slug("Some(R) CPU @ 2.0GHz x2") == "some-r-cpu-2-0ghz-x2"
