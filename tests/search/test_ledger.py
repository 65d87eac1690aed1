"""The ledger: everything is written down, in order, and nothing of it can change unseen."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from support import operators as ops
from support.simulated import Simulated, spaces

from opwright.search import ledger
from opwright.search.archive import Archive, Candidate
from opwright.search.history import History
from opwright.search.run import Budget, search


def _searched(path: Path, budget: int = 12) -> None:
    with Archive(path, "op@1.0") as a:
        command = {"path": "op.op", "budget": budget}
        search(spaces(), ops.scaled(), Simulated(), Budget(budget), 0, a, command=command)


def test_a_search_writes_down_what_happened(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    _searched(path)
    with Archive(path) as a:
        kinds = [e.kind for e in a.ledger(1)]
        assert kinds[:2] == ["operator", "command"] and kinds[-1] == "finished"
        assert kinds.count("verdict") == len(a.candidates(1))
        assert kinds.count("timing") == sum(bool(c.metrics) for c in a.candidates(1))
        assert "confirmation" in kinds and a.broken() == ""
        assert "tile" in a.texts(1, 1)["program.tile"]
        found = History.of(a)
        assert found.command["budget"] == 12 and found.operator["measured"]
        assert found.winner is not None and found.winner.number == found.ranked[0].number
        assert found.winner.score is not None and found.winner.score < 1
    before = kinds
    _searched(path)  # the same again: replayed, with nothing evaluated
    with Archive(path) as a:
        again = [e.kind for e in a.ledger(1)]
        assert again.count("verdict") == before.count("verdict")
        assert again.count("command") == 1 and a.broken() == ""


def test_a_twin_has_the_texts_of_what_it_repeats(tmp_path: Path) -> None:
    with Archive(tmp_path / "a.sqlite") as a:
        run = a.run(0, {}, "")
        a.add(run, Candidate(0, 0, "a()", "ok", program="p"), "", {"program.tile": "text"})
        a.add(run, Candidate(1, 0, "b()", "duplicate", program="p"), "")
        assert a.texts(run, 1) == {"program.tile": "text"}
        assert a.texts(run, 7) == {}


def test_the_database_refuses_to_change_it(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    _searched(path)
    db = sqlite3.connect(path)
    for statement in (
        "update ledger set body = '{}' where id = 3",
        "delete from ledger where id = 3",
        "update texts set text = ''",
        "delete from texts",
    ):
        with pytest.raises(sqlite3.DatabaseError):
            db.execute(statement)
    db.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("update ledger set body = replace(body, 'ok', 'no') where id = 3", "entry 3 is not"),
        ("delete from ledger where id = 4", "entry 5 does not follow"),
        ("update texts set text = text || ' '", "text sha256:"),
    ],
)
def test_what_was_changed_is_seen(change: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    _searched(path)
    db = sqlite3.connect(path)
    for trigger in ("ledger_is_not_changed", "ledger_is_not_shortened", "texts_are_not_changed"):
        db.execute(f"drop trigger {trigger}")
    db.execute(change)
    db.commit()
    db.close()
    with Archive(path) as a:
        assert said in a.broken()


def test_an_archive_without_ledger_gets_one(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with Archive(path, "op@1.0") as a:
        a.add(a.run(0, {}, ""), Candidate(0, 0, "a()", "ok"), "")
    db = sqlite3.connect(path)
    db.executescript("drop table ledger; drop table texts; pragma user_version = 1")
    db.close()
    with Archive(path) as a:
        assert a.ledger() == [] and len(a.candidates(1)) == 1
        a.log(1, "request", {"prompt": a.keep("what is wanted")})
        assert a.text(str(a.ledger()[0].body["prompt"])) == "what is wanted"
        assert a.broken() == ""


def test_kinds_are_few() -> None:
    db = sqlite3.connect(":memory:")
    with pytest.raises(ValueError, match="no kind"):
        ledger.append(db, 1, "gossip", {})


def test_texts_that_are_no_unicode_are_kept(tmp_path: Path) -> None:
    with Archive(tmp_path / "a.sqlite") as a:
        name = a.keep("\ud800 half a pair")
        assert a.text(name) == a.text(name) and "half a pair" in (a.text(name) or "")
        assert json.dumps(a.text(name))
