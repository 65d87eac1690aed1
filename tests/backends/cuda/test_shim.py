"""CUDA texts on a CPU under sanitizers: right ones, and faults that no result shows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.cuda_kernels import CASES

from opwright.compiler.candidates import read
from opwright.compiler.importing import Static
from opwright.compiler.sanitizer_gates import sanitizer_records
from opwright.compiler.stored import stored_form
from opwright.ir.launch import bind_plan
from opwright.ir.record import Record
from opwright.spec_files import open_spec

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")


def judged(name: str, folder: Path, old: str = "", new: str = "") -> dict[str, Record]:
    case = CASES[name]
    assert old in case.source
    (folder / "s.op").write_text(case.spec)
    (folder / "kernel.cu").write_text(case.source.replace(old, new, 1) if old else case.source)
    (folder / "candidate.json").write_text(json.dumps(case.plan()))
    op = stored_form(open_spec(folder / "s.op").operator(case.op))
    c = read(folder, op)
    static = Static((), None, bind_plan(c.plan, op))
    return {r.id: r for r in sanitizer_records(c, static, op, "portable", 0)}


@pytest.mark.parametrize("name", ["warp_softmax", "atomic_total"])
def test_right_texts_are_tested(name: str, tmp_path: Path) -> None:
    found = judged(name, tmp_path)
    assert {r.status for r in found.values()} == {"TESTED"}, found
    assert any("not on a GPU" in a for a in found["G8.races"].assumptions)


FAULTS = [
    ("atomic_total", "  __syncthreads();\n", "", "G8.races", "shared memory"),
    ("atomic_total", "atomicAdd(y, sum);", "y[0] += sum;", "G8.races", "y["),
    ("guarded", "if (i >= m || j >= n)", "if (i > m || j >= n)", "G8.address", "kernel.cu:"),
]


@pytest.mark.parametrize(("name", "old", "new", "gate", "words"), FAULTS)
def test_faults_are_refuted(
    name: str, old: str, new: str, gate: str, words: str, tmp_path: Path
) -> None:
    found = judged(name, tmp_path, old, new)
    assert found[gate].status == "REFUTED", found
    assert words in found[gate].reason
