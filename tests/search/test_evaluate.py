"""Hostile and wrong candidates end as results with a reason, and never stop the others."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support import candidates
from support import operators as ops

from opwright.ir.expr import call, size
from opwright.ir.op import Workload
from opwright.search.evaluate import CandidateEvaluator
from opwright.search.results import Incumbent, Options
from opwright.search.sandbox import Limits

LOAD = Workload("w", 1.0, {"B": 300, "N": 200}, {}, {}, {})
TEMPORARY = tempfile.TemporaryDirectory()
OPTIONS = Options(
    threads=1,
    cases=8,
    call_limit=3.0,
    rounds=3,
    confirm_rounds=5,
    block=0.001,
    limits=Limits(memory=1 << 28),
    lock=Path(TEMPORARY.name) / "lock",  # other tests may be timing too
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("built")


@pytest.fixture
def evaluator(folder: Path) -> Iterator[CandidateEvaluator]:
    op = ops.scaled(workloads=[LOAD])
    with CandidateEvaluator(op, candidates.tools(folder), OPTIONS) as e:
        yield e


def _one(evaluator: CandidateEvaluator, name: str):  # type: ignore[no-untyped-def]
    ((_, result),) = evaluator.evaluate([candidates.job(0, name)], None)
    return result


def test_a_good_candidate_is_measured(evaluator: CandidateEvaluator) -> None:
    found = _one(evaluator, "good")
    assert found.status == "ok", found.reason
    assert {r.status for r in found.records} == {"PROVED", "TESTED"}
    assert {r.kind for r in found.records} == {"G2", "G3", "G6"}
    executed = [r for r in found.records if r.kind == "G6"]
    assert all("sandbox" in r.assumptions[-1] for r in executed)
    w = found.metrics["w"]
    assert 1e-7 < w["latency"] < 0.1
    assert w["code_size"] > 1000 and w["memory"] == 0 and 0 <= w["error"] <= 1
    assert found.source


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("stale", "wrong", "expected"),
        ("mutates", "wrong", "was changed"),
        ("canary", "wrong", "y"),
        ("leaves_nan", "wrong", "is nan"),
        ("last_wrong", "wrong", "1 of"),
        ("large_wrong", "wrong", "workload w"),
        ("unset_scratch", "wrong", "y[0, 0]"),
        ("crashes", "crashed", "SIGSEGV"),
        ("exits", "crashed", "exited with code 0"),
        ("raises", "crashed", "SIGTERM"),
        ("hangs", "timeout", "no answer within 3 s"),
        ("spins", "timeout", "no answer"),
        ("floods", "crashed", "printed more than"),
        ("eats", "crashed", "SIGABRT"),
        ("fails", "crashed", "status 1"),
        ("replays", "wrong", ""),
        ("absent", "unbuilt", "no text for absent"),
    ],
)
def test_cheats_and_accidents(
    evaluator: CandidateEvaluator, name: str, status: str, words: str
) -> None:
    begin = time.monotonic()
    found = _one(evaluator, name)
    assert found.status == status, found.reason
    assert words in found.reason
    assert not found.metrics
    assert time.monotonic() - begin < 20


def test_one_failure_never_stops_the_others(evaluator: CandidateEvaluator) -> None:
    names = ["good", "crashes", "hangs", "slow", "floods"]
    jobs = [candidates.job(n, name) for n, name in enumerate(names)]
    found = {job.number: r.status for job, r in evaluator.evaluate(jobs, None)}
    assert found == {0: "ok", 1: "crashed", 2: "timeout", 3: "ok", 4: "crashed"}


def test_nothing_unproved_is_executed(folder: Path) -> None:
    unsafe = {"crashes": "UNKNOWN", "hangs": "REFUTED", "absent": "ASSUMED"}
    op = ops.scaled(workloads=[LOAD])
    with CandidateEvaluator(op, candidates.tools(folder, unsafe), OPTIONS) as e:
        found = {n: _one(e, n) for n in unsafe}
    assert {n: r.status for n, r in found.items()} == {
        "crashes": "unproved",
        "hangs": "refuted",
        "absent": "unproved",
    }
    assert found["crashes"].reason == "safety is UNKNOWN: G2.bounds: said the test"
    assert not any(r.source for r in found.values())


def test_slower_candidates_stop_early_and_say_so(evaluator: CandidateEvaluator) -> None:
    good = candidates.job(0, "good")
    ((_, base),) = evaluator.evaluate([good], None)
    incumbent = Incumbent(good, base.metrics)
    ((_, found),) = evaluator.evaluate([candidates.job(1, "slow")], incumbent)
    assert found.status == "ok"
    assert "the incumbent's time on w" in found.reason
    assert found.metrics["w"]["latency"] > 2 * base.metrics["w"]["latency"]


def test_finalists_are_confirmed_side_by_side(evaluator: CandidateEvaluator) -> None:
    jobs = [candidates.job(n, name) for n, name in enumerate(("good", "slow", "slower"))]
    found = evaluator.confirm(jobs[:2], jobs[2])
    times = {n: m["w"]["latency"] for n, m in found.metrics.items()}
    assert times[0] < times[1] < times[2]
    assert "latency_fresh" in found.metrics[0]["w"]
    assert 0 <= found.noise < 2


def test_results_too_dear_for_the_reference_are_compared_with_the_first(folder: Path) -> None:
    op = ops.scaled(workloads=[LOAD])
    options = replace(OPTIONS, reference_limit=10)
    with CandidateEvaluator(op, candidates.tools(folder), options) as e:
        assert _one(e, "good").status == "ok"
        assert _one(e, "large_wrong").status == "wrong"
        assert any("compared with another candidate's" in n for n in e.notes)
    with CandidateEvaluator(op, candidates.tools(folder), options) as e:
        good = candidates.job(0, "good")
        incumbent = Incumbent(good, {"w": {"latency": 1e-5}})
        ((_, found),) = e.evaluate([candidates.job(1, "large_wrong")], incumbent)
        assert found.status == "wrong"


def test_the_context_names_what_results_depend_on(folder: Path) -> None:
    op = ops.scaled(workloads=[LOAD])
    tools = candidates.tools(folder)
    contexts = set()
    for o in (OPTIONS, replace(OPTIONS, threads=2), replace(OPTIONS, require="TESTED")):
        with CandidateEvaluator(op, tools, o) as e:
            contexts.add(e.context)
    assert len(contexts) == 3


def test_workloads_that_do_not_fit_are_scaled_with_a_note(folder: Path) -> None:
    big = Workload("big", 2.0, {"B": 4096, "N": 4096}, {}, {}, {})
    options = replace(OPTIONS, bytes_limit=1 << 20)
    with CandidateEvaluator(ops.scaled(workloads=[big]), candidates.tools(folder), options) as e:
        assert e.weights == {"big": 2.0}
        assert any("scaled down" in n for n in e.notes)


def test_a_workload_outside_the_facts_is_served_by_candidate_0(folder: Path) -> None:
    small = Workload("small", 1.0, {"B": 30, "N": 16}, {}, {}, {})
    op = ops.scaled(workloads=[LOAD, small])
    good, fast = candidates.job(0, "slow"), candidates.job(1, "good")
    fact = call("le", size("N"), 64)
    narrow = replace(fast, program=replace(fast.program, facts=(fact,)))
    with CandidateEvaluator(op, candidates.tools(folder), OPTIONS) as e:
        ((_, base),) = e.evaluate([good], None)
        zero = Incumbent(good, base.metrics, good, base.metrics)
        ((_, found),) = e.evaluate([narrow], zero)
        assert found.status == "ok" and "its facts exclude w" in found.reason
        assert found.metrics["w"] == {**base.metrics["w"], "delegated": 1.0}
        assert found.metrics["small"]["latency"] < base.metrics["small"]["latency"]
        confirmed = e.confirm([narrow], good)
        assert set(confirmed.metrics[1]) == {"w", "small"}
        assert confirmed.metrics[1]["w"]["latency"] == confirmed.metrics[0]["w"]["latency"]
        # and against such an incumbent, candidate 0 is the rival there
        best = Incumbent(narrow, found.metrics, good, base.metrics)
        ((_, other),) = e.evaluate([candidates.job(2, "slower")], best)
        assert other.metrics["w"]["latency"] > 1.3 * base.metrics["w"]["latency"]


def test_ctrl_c_does_not_wait_for_what_hangs(folder: Path) -> None:
    options = replace(OPTIONS, call_limit=60.0)
    op = ops.scaled(workloads=[LOAD])
    begin = time.monotonic()
    with CandidateEvaluator(op, candidates.tools(folder), options) as e:
        ring = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
        ring.start()
        with pytest.raises(KeyboardInterrupt):
            for _ in e.evaluate([candidates.job(n, "spins") for n in range(3)], None):
                pass
    assert time.monotonic() - begin < 20
