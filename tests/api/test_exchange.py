"""`compile --proposer exchange` and `verify` from outside, on texts that people wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.halved import PLAN, SOURCE, SPEC
from support.sandboxed import flags


def opwright(*arguments: object, cache: Path | None = None) -> subprocess.CompletedProcess[str]:
    more = {"OPWRIGHT_CACHE": str(cache)} if cache else {}
    return subprocess.run(
        [sys.executable, "-m", "opwright", *map(str, arguments), *flags()],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, **more},
    )


def test_a_request_and_its_answers(tmp_path: Path) -> None:
    spec, desk = tmp_path / "halved.op", tmp_path / "desk"
    spec.write_text(SPEC)
    command = ["compile", spec, "--budget", 1, "--against", "none", "-o", tmp_path / "out"]
    command += ["--proposer", "exchange", "--exchange", desk, "--require", "tested"]
    first = opwright(*command, cache=tmp_path / "cache")
    assert first.returncode == 1, first.stderr
    assert "no answer yet" in first.stderr and "run this again" in first.stderr
    request = json.loads((desk / "round-1" / "request.json").read_text())
    assert request["operator"] == "halved@1.0"
    assert request["parent"]["times"]["one"] > 0
    assert {row["status"] for row in request["tried"]} == {"ok"}
    assert (desk / "round-1" / "spec.op").read_text() == SPEC
    prompt = (desk / "round-1" / "prompt.md").read_text()
    assert prompt.count("## MOVE: ") == 1 and "## THE PARENT'S TEXT" in prompt
    parent = json.loads((desk / "round-1" / "parent" / "candidate.json").read_text())
    assert (desk / "round-1" / "parent" / parent["source"]).stat().st_size > 0

    answers = desk / "round-1" / "answers"
    texts = {
        "good": SOURCE,
        "wrong": SOURCE.replace("0.5f", "0.25f"),
        "clock": SOURCE.replace("const int64_t end", "clock(); const int64_t end"),
        "past": SOURCE.replace(": n;", ": n + 1;"),
    }
    for name, text in texts.items():
        data = {"answer": 1, "plan": PLAN, "source": text, "note": name}
        (answers / f"{name}.json").write_text(json.dumps(data))
    (answers / "other.json").write_text(
        json.dumps({"answer": 1, "plan": {**PLAN, "op": "doubled@1.0"}, "source": SOURCE})
    )
    (answers / "half.json.tmp").write_text("{")
    (answers / "broken.json").write_text("{")
    second = opwright(*command, "--json", cache=tmp_path / "cache")
    assert second.returncode == 0, second.stderr
    told = {p.stem: json.loads(p.read_text()) for p in (desk / "round-1" / "verdicts").iterdir()}
    assert {n: v["status"] for n, v in told.items()} == {
        "good": "ok",
        "wrong": "wrong",
        "clock": "refuted",
        "past": told["past"]["status"],
        "other": "illegal",
        "broken": "refused",
    }
    assert told["past"]["status"] in ("refuted", "wrong", "crashed")
    assert "clock" in told["clock"]["reason"]
    assert "not JSON" in told["broken"]["reason"]
    assert told["good"]["times"]["one"] > 0
    document = json.loads(second.stdout)
    assert document["winner"]["schedule"].startswith("exchange(round=1, answer=good")
    assert document["gates"]["G6"] == "TESTED"
    package = Path(document["package"])
    (plan,) = package.rglob("sources/**/winner/candidate.json")
    origin = json.loads(plan.read_text())["origin"]
    assert origin["proposer"] == "exchange" and origin["text"].startswith("sha256:")
    assert (plan.parent / "kernel.cpp").read_text() == SOURCE
    again = json.loads((desk / "round-2" / "request.json").read_text())
    assert again["parent"]["schedule"] == document["winner"]["schedule"]

    third = opwright(*command, "--json", cache=tmp_path / "cache")
    assert third.returncode == 0, third.stderr
    assert json.loads(third.stdout)["winner"]["schedule"] == document["winner"]["schedule"]
    assert not (desk / "round-3").exists()


def test_requests_that_make_no_sense(tmp_path: Path) -> None:
    spec = tmp_path / "halved.op"
    spec.write_text(SPEC)
    for options in (("--proposer", "exchange"), ("--exchange", tmp_path / "desk")):
        done = opwright("compile", spec, *options)
        assert done.returncode == 2
        assert "go together" in done.stderr
    (tmp_path / "desk").mkdir()
    (tmp_path / "desk" / "journal.json").write_text("{")
    more = ("--proposer", "exchange", "--exchange", tmp_path / "desk", "-o", tmp_path / "out")
    done = opwright("compile", spec, *more, cache=tmp_path / "cache")
    assert done.returncode == 2
    assert "is damaged" in done.stderr


# ---- verify -------------------------------------------------------------------------------------


@pytest.fixture
def candidate(tmp_path: Path) -> Path:
    (tmp_path / "halved.op").write_text(SPEC)
    folder = tmp_path / "candidate"
    folder.mkdir()
    (folder / "candidate.json").write_text(json.dumps(PLAN))
    (folder / "kernel.cpp").write_text(SOURCE)
    return folder


def verify(folder: Path, *options: object) -> subprocess.CompletedProcess[str]:
    cache = folder.parent / "cache"
    return opwright("verify", folder.parent / "halved.op", folder, *options, cache=cache)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"op": "doubled@1.0"}, "is for doubled@1.0, the spec defines halved@1.0"),
        ({"shape": 1}, "unknown field 'shape'"),
        ({"source": "none.cpp"}, "none.cpp: cannot be read"),
        ({"facts": ["stride(x, 0) = 1"]}, "facts"),
        ({"facts": ["M == 1"]}, "facts"),
        ({"launches": [{**PLAN["launches"][0], "kernel": "halved"}]}, "did you mean 'halve'?"),
        ({"launches": [{**PLAN["launches"][0], "args": ["x", "y"]}]}, "takes 3"),
        ({"launches": [{**PLAN["launches"][0], "args": ["x", "z", "N"]}]}, "args"),
        ({"launches": [{**PLAN["launches"][0], "grid": ["x"]}]}, "grid"),
        ({"backend": "fortran"}, "unknown backend 'fortran'"),
    ],
)
def test_plans_that_do_not_fit(candidate: Path, changes: dict[str, Any], words: str) -> None:
    (candidate / "candidate.json").write_text(json.dumps({**PLAN, **changes}))
    done = verify(candidate)
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr and "cure:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_right_text(candidate: Path) -> None:
    done = verify(candidate, "--json", "--require", "tested")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["gates"]["G0"] == "PROVED"
    assert report["verdict"] == report["gates"]["G6"] == "TESTED"


@pytest.mark.parametrize(
    ("old", "new", "gates", "words"),
    [
        ("0.5f", "0.25f", ("G4", "G6"), "expected"),
        (": n;", ": n + 1;", ("G2", "G3", "G6"), ""),
        ("x[i];", "x[i] + (x[i + 1] == 7.25f ? 1e-30f : 0.0f);", ("G2", "G6"), ""),
        ("x[i];", "x[i] + (x[i - 1] == 7.25f ? 1e-30f : 0.0f);", ("G2", "G6"), ""),
        ("begin + 1000 < n ? begin + 1000", "begin + 1000 < n ? begin + 999", ("G3", "G6"), ""),
        ("<stdint.h>", "<stdio.h>", ("G0",), "kernel.cpp:1: #include <stdio.h>"),
    ],
)
def test_wrong_texts(
    candidate: Path, old: str, new: str, gates: tuple[str, ...], words: str
) -> None:
    assert SOURCE.count(old) == 1
    (candidate / "kernel.cpp").write_text(SOURCE.replace(old, new))
    done = verify(candidate, "--json", "--require", "tested")
    assert done.returncode == 1, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["verdict"] == "REFUTED" and not report["ships"]
    (refuted, *_) = [r for r in report["records"] if r["status"] == "REFUTED"]
    assert refuted["kind"] in gates
    assert refuted["counterexample"]
    assert words in refuted["reason"]
    said = verify(candidate, "--require", "tested").stdout
    assert "verdict  REFUTED; it may not ship" in said
