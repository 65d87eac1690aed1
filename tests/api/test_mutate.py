"""`opwright mutate`: scores of gates, of a spec's cases and of suites."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.centred import KERNEL, PLAN, SPEC
from support.sandboxed import flags

OWN = """
import numpy as np


def centred(x):
    mean = x.astype(np.float64).mean(1, keepdims=True)
    return (x - mean).astype(np.float32)
"""
SUITE = """
import numpy as np
from own import centred


def test_a_few_rows():
    x = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)
    assert np.allclose(centred(x), x - x.mean(1, keepdims=True), atol=1e-5)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "centred.op").write_text(SPEC)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "test_own.py").write_text(SUITE)
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel" / "kernel.cpp").write_text(KERNEL)
    (tmp_path / "kernel" / "candidate.json").write_text(json.dumps(PLAN))
    return tmp_path


def mutate(
    folder: Path, *arguments: object, command: str = "mutate"
) -> subprocess.CompletedProcess[str]:
    paths = [str(Path(p).resolve()) for p in sys.path if p]
    return subprocess.run(
        [sys.executable, "-m", "opwright", command, "centred.op", *map(str, arguments), *flags()],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )


def scored(folder: Path, *arguments: object) -> dict[str, Any]:
    done = mutate(folder, *arguments, "--json")
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_gates_on_a_program_and_on_a_text(folder: Path) -> None:
    found = scored(folder, "--limit", 5)
    assert found["score"] == 100 and found["killed"] >= 4
    found = scored(folder, "--limit", 6, "--candidate", "kernel")
    assert found["survived"] == 0 and {by[:2] for by in found["by"]} <= {"G2", "G3", "G4", "G6"}


def test_a_suite_is_worse_than_the_cases_of_the_spec(folder: Path) -> None:
    done = mutate(folder, "--implementation", "own:centred", "--limit", 24, "--require", 90)
    assert done.returncode == 0 and "killed by" in done.stdout, done.stdout + done.stderr
    arguments = ("--implementation", "own:centred", "--suite", "theirs", "--limit", 24)
    theirs = scored(folder, *arguments, "--require", 90)
    assert theirs["score"] < 80 and theirs["holds"] is False
    assert set(theirs["by"]) == {"test_a_few_rows"}
    assert theirs["classes"]["stride"]["survived"] >= 1


def test_a_generated_suite(folder: Path) -> None:
    written = mutate(folder, "-o", "tests", command="test")
    assert written.returncode == 0, written.stderr
    found = scored(folder, "--suite", "tests", "--limit", 5)
    assert found["score"] == 100 and found["killed"] >= 3 and found["broken"] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--suite", "theirs"), "name the function that it tests"),
        (("--suite", "nowhere", "--implementation", "own:centred"), "no such file"),
        (("--implementation", "own:absent"), "absent"),
        (("--implementation", "own"), "write module:function"),
        (("--candidate", "kernel", "--suite", "theirs"), "goes without"),
    ],
)
def test_what_cannot_be_scored(folder: Path, arguments: tuple[str, ...], words: str) -> None:
    done = mutate(folder, *arguments)
    assert done.returncode == 2 and words in done.stderr


def test_a_wrong_function_is_no_subject(folder: Path) -> None:
    (folder / "own.py").write_text(OWN.replace("x - mean", "x + mean"))
    done = mutate(folder, "--implementation", "own:centred")
    assert done.returncode == 1 and "is not right" in done.stderr
    done = mutate(folder, "--implementation", "own:centred", "--suite", "theirs")
    assert done.returncode == 1 and "fails test_a_few_rows" in done.stderr
