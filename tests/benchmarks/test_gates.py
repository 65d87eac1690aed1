"""The benchmark of the static gates: what it times, and what it says of it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from opwright.benchmarks.gates import Measured, goals, main, percentile, specs, table
from opwright.ir.spent import listening, part


def test_nested_parts_add_up_to_the_time_that_passed() -> None:
    begin = time.perf_counter()
    with listening() as seconds, part("outer"):
        time.sleep(0.02)
        with part("inner"):
            time.sleep(0.03)
        time.sleep(0.01)
    passed = time.perf_counter() - begin
    assert seconds["inner"] >= 0.03
    assert 0.03 <= seconds["outer"] < passed - seconds["inner"] + 0.001
    assert sum(seconds.values()) == pytest.approx(passed, abs=0.01)


def test_parts_are_free_and_silent_where_nobody_listens() -> None:
    with part("outer"):
        pass
    with listening() as seconds:
        pass
    assert seconds == {}


def test_a_part_that_fails_is_closed() -> None:
    with listening() as seconds:
        with pytest.raises(ValueError), part("one"):
            raise ValueError
        time.sleep(0.01)
    assert seconds["one"] < 0.01


def test_percentiles_are_values_that_occur() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.95) == 3.0
    assert percentile([float(n) for n in range(1, 101)], 0.95) == 95.0
    assert percentile([7.0], 0.5) == 7.0


def test_the_table_counts_statuses_and_leaves_a_front_end_out() -> None:
    rows = [
        Measured("a", "cpp", "s", {"G0": 0.1, "G2": 0.2, "process": 9.0}, {"G2": "PROVED"}),
        Measured("b", "cpp", "s", {"G0": 0.1, "G2": 5.0}, {"G2": "UNKNOWN"}),
    ]
    lines = table(rows)
    (g2,) = (x for x in lines if x.startswith("G2 "))
    assert "50 % PROVED, 50 % UNKNOWN" in g2
    (whole,) = (x for x in lines if x.startswith("all"))
    assert "9." not in whole and "5.100" in whole
    assert any("MISSED" in x for x in goals(rows))


def test_a_small_operator_is_measured_through_all_gates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.json"
    given = ["--ops", "transpose", "--backends", "cpp", "--json", str(out), "--why"]
    assert main(given) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows and all(r["status"]["G2"] == "PROVED" for r in rows)
    assert {"G0", "G1", "G2", "G3", "G5"} <= set(rows[0]["seconds"])
    said = capsys.readouterr().out
    assert "G0-G2 95th percentile" in said and "slowest:" in said


def test_names_choose_files_and_folders_and_none_is_a_mistake() -> None:
    assert [p.stem for p in specs(["transpose"])] == ["transpose"]
    assert {p.parent.name for p in specs(["scan"])} == {"scan"}
    assert main(["--ops", "no_such_operator"]) == 2
