"""`opwright search`: what a run tried as table, tree and folder, and going on with it."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from support import operators as ops
from support.simulated import Simulated, spaces

from opwright import archives
from opwright.outcome import NO, Problem
from opwright.search.archive import Archive
from opwright.search.run import Budget, search

SPEC = """opwright "0.1"

op halved @ 1.0 {
  dims  N
  input x: f32[N]
  output y: f32[N]
  def { y[i] = 0.5 * x[i] }
  workload one weight 1.0 { N = 3000, x ~ normal(0, 1) }
}
"""


@pytest.fixture
def searched(tmp_path: Path) -> Path:
    path = tmp_path / "a.sqlite"
    with Archive(path, "op@1.0") as a:
        search(spaces(), ops.scaled(), Simulated(), Budget(14), 0, a)
    return path


def test_the_tree(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert archives.tree(searched, None, False) == 0
    text = capsys.readouterr().out
    assert "`-- " in text and text.count("*") >= 1
    assert archives.tree(searched, None, True) == 0
    found = json.loads(capsys.readouterr().out)

    def count(nodes: list[dict[str, object]]) -> int:
        return sum(1 + count(n["children"]) for n in nodes)  # type: ignore[arg-type]

    with Archive(searched) as a:
        assert count(found["roots"]) == len(a.candidates(1))


def test_the_log_and_a_damaged_one(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert archives.log(searched, None, "verdict", False) == 0
    assert "every entry is as it was written" in capsys.readouterr().out
    with pytest.raises(Problem, match="no entries of kind gossip"):
        archives.log(searched, None, "gossip", False)
    db = sqlite3.connect(searched)
    db.execute("drop trigger ledger_is_not_changed")
    db.execute("update ledger set run = 2 where id = 2")
    db.commit()
    db.close()
    assert archives.log(searched, None, "", True) == NO
    assert archives.show(searched, None, True) == NO


def test_what_cannot_be_exported_or_resumed(searched: Path, tmp_path: Path) -> None:
    with pytest.raises(Problem, match="has no candidate 99"):
        archives.export(searched, tmp_path / "c", None, "99", False)
    with pytest.raises(Problem, match="no text to export"):
        archives.export(searched, tmp_path / "c", None, "best", False)
    with pytest.raises(Problem, match="does not say what was asked for"):
        archives.resume(searched, None, None, None, False)


def test_a_run_goes_on_as_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from opwright.compiling import Request, compile_command

    monkeypatch.setenv("OPWRIGHT_CACHE", str(tmp_path / "cache"))
    spec = tmp_path / "halved.op"
    spec.write_text(SPEC)
    request = Request(spec, None, "", {}, 2, None, 0, "proved", tmp_path / "out", ())
    assert compile_command(request, True) == 0
    first = json.loads(capsys.readouterr().out)
    (path,) = (tmp_path / "cache" / "archive").glob("*.sqlite")
    spec.unlink()  # the ledger has its text
    assert archives.resume(path, None, 3, None, True) == 0
    second = json.loads(capsys.readouterr().out)
    assert [r["schedule"] for r in second["table"]][:2] == [r["schedule"] for r in first["table"]]
    assert len(second["table"]) > len(first["table"])
    with Archive(path) as a:
        assert len(a.runs()) == 1
        kinds = [e.kind for e in a.ledger(1)]
    assert kinds.count("verdict") == len(second["table"]) and kinds.count("finished") == 2
    spec.write_text(SPEC.replace("0.5 *", "0.25 *"))
    with pytest.raises(Problem, match="is not what it was"):
        archives.resume(path, None, None, None, True)
    capsys.readouterr()
    folder = tmp_path / "candidate"
    assert archives.export(path, folder, None, "best", True) == 0
    assert {"candidate.json", "kernel.cpp", "spec.op", "verdict.json"} <= {
        p.name for p in folder.iterdir()
    }
