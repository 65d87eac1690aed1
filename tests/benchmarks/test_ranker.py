"""The table of predictors: blocks, agreement, what is kept of builds."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from opwright.benchmarks.ranker import Kept, Row, blocks, compare, main, of_author, pairs
from opwright.search.features import BUILT, FEATURES
from opwright.search.ranker import Known, available
from opwright.search.space import Schedule


def row(n: int, author: float | None = None, made: bool = True) -> Row:
    """Wider is faster; what was built says it alone."""
    width = (n * 7) % 40 + 1
    program = tuple(float(n % 3) for _ in FEATURES)
    built = tuple(float(width) if made else math.nan for _ in BUILT)
    known = Known(Schedule("s", (("a", n % 2),)), program, built, f"lanes w{width}")
    return Row(known, 100.0 / width, author)


def test_blocks_are_predicted_from_those_before() -> None:
    assert list(blocks(40)) == [(16, 32), (32, 40)] and list(blocks(20)) == [(8, 16), (16, 20)]
    assert pairs([1, 2, 2], [1, 2, 3]) == (2, 2) and pairs([2, 1], [1, 2]) == (-1, 1)


def test_predictors_are_compared_on_the_same_candidates() -> None:
    rows = [row(n, author=100.0 / ((n * 7) % 40 + 1)) for n in range(48)]
    agree, total = of_author(rows)
    assert agree == total > 0
    found = compare([rows], [rows[:20]])
    if available():
        shares = {who: a / n for who, (a, n) in found.items() if n}
        assert shares["built"] > 0.7 > shares["program"] and shares["others"] > 0.7
    blind = compare([[row(n, made=False) for n in range(48)]], [])
    assert blind["built"] == blind["author"] == (0, 0)


def test_numbers_are_kept(tmp_path: Path) -> None:
    kept = Kept.load(tmp_path / "f.json")
    k = row(3, made=False).known
    kept.keep("x", k)
    kept.save()
    again = Kept.load(tmp_path / "f.json").known("x", k)
    assert again is not None and again.program == k.program and math.isnan(again.built[0])
    assert Kept.load(tmp_path / "f.json").known("y", k) is None


def test_a_folder_without_ledgers_is_an_empty_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = ["--ledgers", str(tmp_path), "--transcripts", str(tmp_path)]
    assert main([*empty, "--features", str(tmp_path / "f.json")]) == 0
    assert "all schedules" in capsys.readouterr().out
