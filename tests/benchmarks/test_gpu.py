"""`make gpu` without a GPU: its jobs, its judgement through Triton's interpreter, its children, its
page."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from opwright.backends.triton.run import interpret
from opwright.benchmarks import gpu, gpu_jobs
from opwright.benchmarks.gpu_jobs import Call, Job, Made
from opwright.ir.launch import BoundPlan
from opwright.ir.op import Operator
from opwright.verify.inputs import Case

ROOT = Path(__file__).resolve().parents[2]
SMALL = Job("test", "nn/silu.op", (("T", "f32"),))


class Interpreted:
    """A device that interprets, with times that are made up."""

    target = "sm_90"

    def run(
        self,
        source: str,
        bound: BoundPlan,
        arrays: Mapping[str, Any],
        sizes: Mapping[str, int],
        params: Mapping[str, Any],
    ) -> Mapping[str, Any]:
        return interpret(source, bound, arrays, sizes, params)

    def calls(self, op: Operator, case: Case, made: Sequence[Made]) -> Mapping[str, Call | str]:
        assert all(case.inputs[t.name].size for t in op.inputs)
        return {"torch": lambda: None, "torch.compile": "no compiler", made[0].name: lambda: None}

    def samples(self, calls: Mapping[str, Call], seconds: float) -> Mapping[str, list[float]]:
        assert 0 < seconds <= 1
        return {name: [1e-3, 2e-3, 3e-3, 4e-3, 5e-3] for name in calls}


def test_jobs_cover_the_library() -> None:
    found = gpu_jobs.jobs()
    specs = {str(p.relative_to(ROOT / "specs")) for p in (ROOT / "specs").rglob("*.op")}
    assert {j.spec for j in found if j.kind == "test"} == specs
    assert {j.spec for j in found if j.kind == "time"} == specs
    assert len({j.label for j in found}) == len(found)
    kinds = [j.kind for j in found]
    assert kinds == sorted(kinds)  # all tests before any times
    assert {j.spec for j in gpu_jobs.jobs(["silu"])} == {"nn/silu.op"}


def test_every_operator_has_candidates() -> None:
    for job in gpu_jobs.jobs():
        if job.kind == "time":
            found = list(gpu_jobs.candidates(gpu_jobs.operator(job), "sm_90", 1))
            assert any(isinstance(m, Made) for m in found), job


def test_a_candidate_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_jobs, "CASES", 2)
    op = gpu_jobs.operator(SMALL)
    made = next(m for m in gpu_jobs.candidates(op, "sm_90", 1) if isinstance(m, Made))
    row = gpu_jobs.test(op, made, Interpreted())
    assert row["status"] == "TESTED", row
    json.dumps(row)
    wrong = Made(made.name, _negated(made.source), made.bound)
    row = gpu_jobs.test(op, wrong, Interpreted())
    assert row["status"] == "REFUTED"
    assert row["counterexample"]["sizes"]
    row = gpu_jobs.test(op, Made(made.name, "raise ValueError('no')", made.bound), Interpreted())
    assert row["status"] == "REFUTED"
    assert gpu_jobs.test(op, "row: too wide", Interpreted())["status"] == "unmade"


def _negated(source: str) -> str:
    """The kernel with what it loads negated."""
    lines = source.splitlines()
    at = next(n for n, line in enumerate(lines) if "= tl.load(" in line)
    name, _, rest = lines[at].partition(" = ")
    return "\n".join([*lines[:at], f"{name} = -{rest}", *lines[at + 1 :], ""])


def test_times_are_medians() -> None:
    job = Job("time", SMALL.spec, SMALL.types)
    rows = gpu_jobs.do(job, Interpreted(), 1.0).times
    by_name = {r["impl"]: r for r in rows}
    assert by_name["torch"]["median_s"] == 3e-3
    assert by_name["torch"]["spread"] > 0
    assert by_name["torch.compile"]["median_s"] is None
    assert by_name["torch.compile"]["note"] == "no compiler"
    assert len(by_name) == 3


# ---- supervision --------------------------------------------------------------------------------

CHILD = """
import json, os, sys, time
for label in {labels}:
    print(json.dumps({{"begin": label}}), flush=True)
    if label == "crash": os.abort()
    if label == "hang": time.sleep(60)
    test = {{"op": label, "types": {{}}, "candidate": "c", "status": "TESTED"}}
    print("noise", flush=True)
    print(json.dumps({{"end": label, "tests": [test], "ceilings": {{label: 1.5}}}}), flush=True)
"""


def start(labels: Sequence[str], until: float) -> subprocess.Popen[str]:
    code = CHILD.format(labels=list(labels))
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def test_a_crash_and_a_hang_cost_their_own_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PER_TEST", 1.5)
    document = gpu.supervise(["a", "crash", "b", "hang", "c"], 30, start)
    assert [t["op"] for t in document["tests"]] == ["a", "b", "c"]
    assert [x["job"] for x in document["lost"]] == ["crash", "hang"]
    assert "ended with -6" in document["lost"][0]["reason"]
    assert "no end in 1.5 s" in document["lost"][1]["reason"]
    assert document["skipped"] == []
    assert document["ceilings"] == {"a": 1.5, "b": 1.5, "c": 1.5}


def test_what_there_is_no_time_for_is_named() -> None:
    document = gpu.supervise(["hang", "a"], gpu.ENDING + 1, start)
    assert [x["job"] for x in document["lost"]] == ["hang"]
    assert document["skipped"] == ["a"]
    lines = gpu.page({**document, "times": [], "tests": []})
    assert any("no time for 1: a" in line for line in lines)


def test_a_child_that_never_starts() -> None:
    def broken(labels: Sequence[str], until: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "raise SystemExit(7)"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)

    document = gpu.supervise(["a", "b"], 30, broken)
    assert [x["job"] for x in document["lost"]] == ["a", "b"]


def test_the_page() -> None:
    times = [
        {"op": "o", "workload": "w", "impl": i, "median_s": s}
        for i, s in (("torch", 2e-3), ("fallback()", 1e-3), ("torch.compile", None))
    ]
    tests = [{"op": "o", "types": {}, "candidate": "c", "status": "REFUTED", "reason": "why"}]
    rest = {"ceilings": {"copy": 1e12}, "lost": [], "skipped": []}
    lines = gpu.page({"tests": tests, "times": times, **rest})
    assert lines[0] == "1 candidates: 1 REFUTED"
    assert any("why" in line for line in lines)
    own = [line for line in lines if " ms  " in line]
    assert own[0].endswith("fallback()") and own[1].endswith("torch")
    assert gpu.slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


def test_without_a_gpu_it_says_so() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    command = [sys.executable, "-m", "opwright.benchmarks.gpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 2 and "no NVIDIA GPU" in lines[0] and "cure:" in lines[1]
