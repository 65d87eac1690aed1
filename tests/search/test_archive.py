"""The archive: nothing is lost, nothing is repaired silently, a kill at any moment leaves it
usable.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from opwright.ir.record import Record
from opwright.search.archive import Archive, ArchiveError, Candidate, archive_path

ONE = Candidate(
    number=0,
    generation=0,
    schedule="fallback()",
    status="ok",
    program="p0",
    source="s0",
    records=(Record("G2.bounds.x", "G2", "PROVED", "z3", "sha256:0", ("a fact",), {"B": 1}, 0.25),),
    build={"seconds": 0.5, "size": 16000},
    metrics={"w": {"latency": 2e-3}},
    origin="fallback",
)


def test_a_candidate_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with Archive(path, "op@1.0") as a:
        run = a.run(3, {"batch": 4}, "c")
        a.add(run, ONE, "c")
    with Archive(path, "op@1.0") as a:
        assert a.run(3, {"batch": 4}, "c") == run
        assert a.candidates(run) == [ONE]
        assert a.known("p0", "c") == ONE
        assert a.known("p0", "another machine") is None
        assert a.run(4, {"batch": 4}, "c") != run


def test_the_first_record_of_a_number_wins(tmp_path: Path) -> None:
    with Archive(tmp_path / "a.sqlite") as a:
        run = a.run(0, {}, "")
        a.add(run, ONE, "")
        a.add(run, replace(ONE, status="wrong"), "")
        assert a.candidates(run) == [ONE]


def test_best_table_and_export(tmp_path: Path) -> None:
    with Archive(tmp_path / "a.sqlite", "op@1.0") as a:
        run = a.run(0, {}, "")
        a.add(run, ONE, "")
        a.add(run, replace(ONE, number=1, metrics={"w": {"latency": 1e-3}}, parent=0), "")
        a.add(run, replace(ONE, number=2, status="wrong", metrics={}), "")
        a.confirm(run, 1, {"w": {"latency": 1.5e-3}})
        a.finish(run, {"outcome": "finished", "winner": 1})
        assert [c.number for c in a.best(run, 5)] == [1, 0]
        rows = a.table(run)
        assert [r["number"] for r in rows] == [0, 1, 2]
        assert rows[1]["w.latency"] == 1.5e-3 and rows[1]["confirmed"]
        lines = a.export(tmp_path / "out.jsonl")
    read = [json.loads(x) for x in (tmp_path / "out.jsonl").read_text().splitlines()]
    kinds = [x["kind"] for x in read]
    assert len(read) == lines and read[0]["subject"] == "op@1.0"
    own = [k for k in kinds if k not in ("ledger", "text")]
    assert own == ["archive", "run", *["candidate"] * 3, "confirmation"]
    told = [x["entry"]["kind"] for x in read if x["kind"] == "ledger"]
    assert told == [
        *("verdict", "timing", "verdict", "timing", "verdict", "confirmation", "finished")
    ]


def _text(path: Path) -> None:
    path.write_text("this is no database, and long enough to be looked at" * 40)


def _foreign(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("create table t (x)")
    db.commit()
    db.close()


def _newer(path: Path) -> None:
    Archive(path, "op@1.0").close()
    db = sqlite3.connect(path)
    db.execute("pragma user_version = 99")
    db.close()


def _cut(path: Path) -> None:
    with Archive(path, "op@1.0") as a:
        run = a.run(0, {}, "")
        for n in range(200):
            a.add(run, replace(ONE, number=n), "")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_text, "not a usable archive"),
        (_foreign, "another program"),
        (_newer, "schema 99"),
        (_cut, "not a usable archive"),
    ],
)
def test_a_bad_file_is_one_clear_error_and_stays(tmp_path, spoil, message) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "a.sqlite"
    spoil(path)
    before = path.read_bytes()
    with pytest.raises(ArchiveError, match=message) as e:
        Archive(path, "op@1.0")
    assert "move" in str(e.value).lower()
    assert path.read_bytes() == before


def test_the_archive_of_another_operator_is_refused(tmp_path: Path) -> None:
    Archive(tmp_path / "a.sqlite", "op@1.0").close()
    with pytest.raises(ArchiveError, match=r"archive of op@1\.0, not of other@1\.0"):
        Archive(tmp_path / "a.sqlite", "other@1.0")


def test_paths_tell_types_and_targets_apart(tmp_path: Path) -> None:
    paths = {
        archive_path(tmp_path, "nn/op@1.0", t, target)
        for t in ({"T": "f32"}, {"T": "bf16"})
        for target in ("cpu", "sm_90")
    }
    assert len(paths) == 4
    assert all(p.parent == tmp_path for p in paths)


_WRITER = """
import sys
from opwright.ir.record import Record
from opwright.search.archive import Archive, Candidate
with Archive(sys.argv[1], "op@1.0") as a:
    run = a.run(0, {}, "")
    n = len(a.candidates(run))
    print("ready", flush=True)
    while True:
        a.add(run, Candidate(n, n, "s()", "ok", metrics={"w": {"latency": 1.0}}), "")
        n += 1
"""


def test_a_kill_leaves_a_usable_file(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    seen = 0
    for _ in range(3):
        p = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert p.stdout is not None and p.stdout.readline() == b"ready\n"
        time.sleep(0.1)
        p.send_signal(signal.SIGKILL)
        p.wait()
        p.stdout.close()
        with Archive(path, "op@1.0") as a:
            found = a.candidates(1)
            assert [c.number for c in found] == list(range(len(found)))
            assert len(found) > seen
            seen = len(found)
