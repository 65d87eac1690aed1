"""Jobs on their way to workers, and a search on a local Ray cluster that loses one."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.simulated import program
from support.simulated import spaces as simulated

from opwright.backends.cpp.build import host_isa
from opwright.compiler.elaborate import parse_spec
from opwright.compiler.native import F32_LANES, evaluator_of
from opwright.compiler.spaces import spaces
from opwright.compiler.stored import stored_form
from opwright.compiler.toolbox import evaluation_tools
from opwright.ir.plan import from_json
from opwright.ir.record import Record
from opwright.ir.tile import TileProgram
from opwright.ir.tiletext import digest
from opwright.search.archive import Archive
from opwright.search.executors import (
    Distributed,
    RayExecutor,
    Recipe,
    packed,
    recipe_options,
    unpacked,
)
from opwright.search.results import Emitted, Evaluation, Given, Job, Options
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
PLAN: dict[str, Any] = {
    "abi": 1,
    "op": "halved@1.0",
    "target": "cpu",
    "backend": "cpp",
    "source": "kernel.cpp",
    "launches": [{"kernel": "halve", "grid": ["1"], "args": ["x", "y", "N"]}],
}


def test_jobs_travel_as_texts() -> None:
    schedule = simulated()[1].preferred()[0]
    job = Job(3, schedule, program("tiled", 8), "sha256:x")
    data = packed(job)
    assert data is not None
    back = unpacked(data)
    assert (back.number, back.schedule, back.digest) == (3, schedule, "sha256:x")
    assert digest(back.program) == digest(job.program)


def test_given_texts_travel_with_their_records() -> None:
    record = Record("G1.import", "G1", "UNKNOWN", "an unknown call", assumptions=("a",))
    given = Given("sha256:t", Emitted("text", "driver", from_json(PLAN)), (record,))
    job = Job(0, simulated()[1].preferred()[0], TileProgram("halved", (), ()), "sha256:t", given)
    data = packed(job)
    assert data is not None
    back = unpacked(data).given
    assert back is not None and back.records == (record,)
    assert back.emitted.plan.to_json() == from_json(PLAN).to_json()
    assert packed(Job(0, job.schedule, job.program, "sha256:t")) is None  # nothing to read it from


def test_a_search_on_a_cluster_that_loses_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setenv("OPWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    level = host_isa()
    op = stored_form(parse_spec(SPEC, "halved.op").operator("halved", {}))
    options = Options(rounds=1, confirm_rounds=1, cases=2, block=0.001)
    arguments = {
        "text": SPEC,
        "file": "halved.op",
        "name": "halved",
        "types": {},
        "level": level,
        "options": recipe_options(options),
    }
    recipe = Recipe("opwright.compiler.native:evaluator_of", arguments)
    ray.init(
        num_cpus=2,
        resources={"opwright_device": 1},
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 << 20,
    )
    workers: list[int] = []
    try:
        executor = RayExecutor(recipe, workers=1)
        workers = executor.processes()
        assert len(set(workers)) == 2 and os.getpid() not in workers
        killed = threading.Event()
        judged = executor.judge

        def judge(job: Job) -> Evaluation:
            if not killed.is_set():
                killed.set()
                threading.Timer(0.2, os.kill, (workers[0], signal.SIGKILL)).start()
            return judged(job)

        executor.judge = judge  # type: ignore[method-assign]
        tools = evaluation_tools(op, level).tools
        with (
            Distributed(op, tools, options, executor) as evaluator,
            Archive(tmp_path / "a.sqlite") as archive,
        ):
            found = search(spaces(op, F32_LANES[level]), op, evaluator, Budget(2), 0, archive)
            tried = archive.candidates(1)
        assert executor.lost >= 1
        assert found.evaluations == 2 and len(tried) >= 2
        assert found.winner is not None and found.winner.confirmed
        assert all(c.status == "ok" for c in tried if c.status not in ("illegal", "duplicate"))
        local = evaluator_of(**arguments)
        assert evaluator.context == local.context  # results belong to the same archive
        local.close()
    finally:
        ray.shutdown()
    for _ in range(50):
        left = [p for p in workers if Path(f"/proc/{p}").exists()]
        if not left:
            break
        time.sleep(0.1)
    assert left == []
