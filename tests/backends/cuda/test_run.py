"""CUDA texts executed on the CPU: what is wrong is found by a run, what hangs is stopped, and what
the shim does not run is UNKNOWN with its reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.cuda_kernels import CASES

from opwright.backends import isolation
from opwright.compiler import execution
from opwright.compiler.candidates import read
from opwright.compiler.execution import execute
from opwright.compiler.importing import Static, static_gates
from opwright.compiler.shimmed import SHIMMED
from opwright.compiler.stored import stored_form
from opwright.ir.launch import bind_plan
from opwright.ir.record import Record
from opwright.spec_files import open_spec

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")


def ran(name: str, folder: Path, old: str = "", new: str = "", proved: bool = False) -> Record:
    """The first record of G6 of a text of which nothing is known before."""
    case = CASES[name]
    assert old in case.source
    (folder / "s.op").write_text(case.spec)
    (folder / "kernel.cu").write_text(case.source.replace(old, new, 1) if old else case.source)
    (folder / "candidate.json").write_text(json.dumps(case.plan()))
    op = stored_form(open_spec(folder / "s.op").operator(case.op))
    c = read(folder, op)
    static = static_gates(c, op) if proved else Static((), None, bind_plan(c.plan, op))
    return execute(c, static, op, "portable", 0)[0]


def test_a_right_one_says_what_was_not_observed(tmp_path: Path) -> None:
    found = ran("guarded", tmp_path, proved=True)
    assert found.status == "TESTED" and SHIMMED in found.assumptions
    assert any(a.startswith("run ") for a in found.assumptions)


WRONG = [
    ("guarded", "+ __ldg(b + j)", "- __ldg(b + j)", "G6.error.y"),
    ("half_rows", "__half2float(", "1.01f * __half2float(", "G6.error.y"),
    ("tree_sum", "__syncthreads();", "", "G6"),  # another order of threads shows it
    ("atomic_total", "sum = 0.0f", "", "G6"),  # shared memory begins as garbage
]


@pytest.mark.parametrize(("name", "old", "new", "gate"), WRONG)
def test_a_wrong_one_is_refuted_by_a_run(
    name: str, old: str, new: str, gate: str, tmp_path: Path
) -> None:
    found = ran(name, tmp_path, old, new)
    assert found.status == "REFUTED" and found.id.startswith(gate), found
    assert found.counterexample is not None and SHIMMED in found.assumptions


STOPPED = [
    ("  y[i", "  volatile int go = 1; while (go) { }\n  y[i", "no answer within"),
    ("  y[i", "  if (threadIdx.x == 0) __syncthreads();\n  y[i", "wait for others"),
    ("  y[i", "  if (threadIdx.x < 3) __syncwarp(7);\n  y[i", "part of a warp"),
    ("  y[i", '  asm volatile("bar.sync 0;");\n  y[i', "not built for the CPU"),
]


@pytest.mark.parametrize(("old", "new", "words"), STOPPED)
def test_what_does_not_run_is_unknown(
    old: str, new: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "CALL_LIMIT", 1.0)
    found = ran("guarded", tmp_path, old, new)
    assert found.status == "UNKNOWN" and words in found.reason, found


def test_nothing_runs_without_a_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(isolation.VARIABLE, "none")
    with pytest.raises(isolation.Refused):
        ran("guarded", tmp_path)


def test_shared_memory_is_a_device_s(tmp_path: Path) -> None:
    case = CASES["guarded"]
    (tmp_path / "s.op").write_text(case.spec)
    big = "  __shared__ float big[1 << 29];\n  big[threadIdx.x] = 1.0f;\n  y[i"
    (tmp_path / "kernel.cu").write_text(case.source.replace("  y[i", big, 1))
    (tmp_path / "candidate.json").write_text(json.dumps(case.plan()))
    op = stored_form(open_spec(tmp_path / "s.op").operator(case.op))
    found = static_gates(read(tmp_path, op), op).records
    first = next(r for r in found if r.id == "G1.import")
    assert first.status == "UNKNOWN" and "bytes of shared memory" in first.reason
