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
from support.shipped import some

from opwright.backends.triton.run import interpret
from opwright.benchmarks import gpu, gpu_jobs
from opwright.benchmarks import gpu_nvml as nvml
from opwright.benchmarks import gpu_report as report
from opwright.benchmarks.gpu_jobs import Call, Job, Made
from opwright.ir.op import Operator
from opwright.verify.inputs import Case

ROOT = Path(__file__).resolve().parents[2]
TRITON = ("triton",)
SMALL = Job("test", "nn/silu.op", (("T", "f32"),))


class Interpreted:
    """A device that interprets, with times that are made up."""

    target = "sm_90"

    def run(
        self,
        made: Made,
        arrays: Mapping[str, Any],
        sizes: Mapping[str, int],
        params: Mapping[str, Any],
    ) -> Mapping[str, Any]:
        return interpret(made.source, made.bound, arrays, sizes, params)

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
    assert {j.spec for j in found if j.kind == "first"} == specs
    assert len({j.label for j in found}) == len(found)
    early = {j.kind for j in found[:40]}
    assert early == set(gpu_jobs.KINDS)  # a run that ends early has some of everything
    assert found[0].kind == "first" and len({j.spec.split("/")[0] for j in found[:12]}) > 3
    assert {j.spec for j in gpu_jobs.jobs(["silu"])} == {"nn/silu.op"}


def test_every_operator_has_candidates() -> None:
    for job in some([j for j in gpu_jobs.jobs() if j.kind == "time"], 9):
        if job.kind == "time":
            found = list(gpu_jobs.candidates(gpu_jobs.operator(job), "sm_90", 1, TRITON))
            assert any(isinstance(m, Made) for m in found), job


def test_a_candidate_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_jobs, "CASES", 2)
    op = gpu_jobs.operator(SMALL)
    made = next(m for m in gpu_jobs.candidates(op, "sm_90", 1, TRITON) if isinstance(m, Made))
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
    rows = gpu_jobs.do(job, Interpreted(), 1.0, TRITON).times
    by_name = {r["impl"]: r for r in rows}
    assert by_name["torch"]["median_s"] == 3e-3
    assert by_name["torch"]["spread"] > 0
    assert by_name["torch.compile"]["median_s"] is None
    assert by_name["torch.compile"]["note"] == "no compiler"
    assert len(by_name) == 3 and by_name["torch"]["own"] is False and by_name["torch"]["bytes"] > 0


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
    assert document["lost"] == []  # the next run begins it anew
    assert document["skipped"] == ["hang", "a"]
    lines = gpu.page({**document, "times": [], "tests": []})
    assert any("no time for 2: hang, a" in line for line in lines)


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


def test_a_run_goes_on_from_what_is_known() -> None:
    saved: list[int] = []
    first = gpu.supervise(["a", "crash"], 30, start, save=lambda d: saved.append(len(d["done"])))
    again = gpu.supervise(["a", "crash", "b"], 30, start, first)
    assert saved and again["done"] == ["a", "b"]
    assert [t["op"] for t in again["tests"]] == ["a", "b"] and len(again["lost"]) == 1


# ---- what is made of it --------------------------------------------------------------------------


def test_ranks_and_hashes() -> None:
    assert report.spearman([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(0.8)
    assert report.spearman([1, 1, 2], [3, 3, 9]) == pytest.approx(1.0)
    rows = [{"op": "a", "modelled_s": 1.0}, {"op": "b", "modelled_s": 2.0}]
    whole = report.chained(rows)
    assert whole == report.chained(rows[1:], report.chained(rows[:1]))
    assert whole != report.chained(rows[::-1])


class Clock:
    """A meter at 300 W of a device whose calls take a known time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now

    def joules(self) -> float:
        return 300.0 * self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def test_energy_is_counted_over_windows() -> None:
    clock = Clock()
    calls = {"a": lambda: clock.wait(1e-3), "b": lambda: clock.wait(2e-3)}
    found = nvml.energy(calls, clock, lambda: None, 1.0, clock=clock)
    assert found["a"].joules == pytest.approx(0.3, rel=0.02)
    assert found["b"].joules == pytest.approx(0.6, rel=0.02)
    assert found["a"].watts == pytest.approx(300, rel=0.02) and found["a"].calls >= 2000


def test_the_sanitizer_says_how_many_errors() -> None:
    assert gpu.summary("x\n========= ERROR SUMMARY: 3 errors\n") == "3 errors"
    assert gpu.summary("nothing") == "it gave no summary"


def test_a_rehearsal_runs_everything(tmp_path: Path) -> None:
    given = ["silu", "--rehearse", "--kinds", "first,time,energy", "--out", str(tmp_path)]
    assert gpu.main(given) == 0
    found = json.loads((tmp_path / "rehearsal" / "gpu.json").read_text())
    assert found["skipped"] == [] and found["lost"] == [], found["lost"]
    assert found["energy"] and found["predicted"] == report.chained(found["predictions"])
    assert {t["status"] for t in found["tests"]} == {"TESTED"}
    lines = "\n".join(report.tables(found))
    assert "made up" in lines and "Geometric mean against torch:" in lines
    assert "Spearman" in lines and "J a call" in lines
    done = len(found["done"])
    assert gpu.main(given) == 0  # at once: all of it is known
    assert len(json.loads((tmp_path / "rehearsal" / "gpu.json").read_text())["done"]) == done
