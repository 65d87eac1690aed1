"""The search loop on a simulated machine: order, resuming, noise, failures, interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from support import operators as ops
from support.simulated import Simulated, spaces

from opwright.ir.op import Objective, Operator
from opwright.search.archive import Archive, ArchiveError
from opwright.search.events import Confirmed, Evaluated, Finished, Proposed, SearchResult, Started
from opwright.search.objective import Scorer
from opwright.search.propose import Builtin, Proposal, View
from opwright.search.results import Confirmation, Evaluation, Incumbent, Job
from opwright.search.run import Budget, search
from opwright.search.space import ChoiceSpace


def _op(**more: object) -> Operator:
    return ops.scaled(**more)


def _proposals(result: SearchResult) -> list[tuple[int, str, str, int | None]]:
    return [
        (e.number, e.schedule, e.origin, e.parent) for e in result.events if isinstance(e, Proposed)
    ]


def test_candidate_0_comes_first_then_preferences() -> None:
    found = search(spaces(), _op(), Simulated(), Budget(10))
    made = _proposals(found)
    assert made[0] == (0, "fallback(schedule=plain)", "fallback", None)
    assert [m[1] for m in made[1:4]] == [
        "tiled(width=16, depth=1, order=a)",
        "tiled(width=32, depth=1, order=a)",
        "tiled(width=16, depth=4, order=a)",
    ]
    assert isinstance(found.events[0], Started) and isinstance(found.events[-1], Finished)
    assert found.baseline is not None and found.baseline.candidate.number == 0


def test_it_finds_the_best_and_says_why() -> None:
    found = search(spaces(), _op(), Simulated(), Budget(60))
    assert found.winner is not None
    assert found.winner.schedule.text == "tiled(width=64, depth=4, order=b)"
    assert found.winner.confirmed and found.winner.score == pytest.approx(0.1, rel=0.01)
    assert "10.00x candidate 0" in found.why and "->" in found.why
    assert found.winner.program.name == "tiled_b_4"
    assert found.evaluations <= 60
    assert [r["number"] for r in found.table] == list(range(len(found.table)))
    assert "simulated" in found.notes


def test_it_beats_random_sampling_at_an_equal_budget() -> None:
    class Blind(Builtin):
        def propose(self, view: View, count: int, rng: Random) -> list[Proposal]:
            p = self._sample(view, view.tried, rng)
            return [p] if p else []

    def best(proposer: Builtin, seed: int) -> float:
        r = search(spaces(), _op(), Simulated(0.02), Budget(20), seed, proposer=proposer)
        assert r.winner is not None
        return r.winner.score

    guided = sum(best(Builtin(), s) for s in range(8))
    blind = sum(best(Blind(), s) for s in range(8))
    assert guided < blind


def test_nothing_is_evaluated_twice() -> None:
    machine = Simulated()
    found = search(spaces(), _op(), machine, Budget(200))
    digests = [j.digest for j in machine.evaluated]
    assert len(set(digests)) == len(digests)
    schedules = [r["schedule"] for r in found.table]
    assert len(set(schedules)) == len(schedules)
    statuses = {r["status"] for r in found.table}
    assert {"ok", "illegal", "duplicate"} <= statuses
    # it ends by itself when every schedule was tried
    assert len(schedules) <= 106


def test_illegal_ones_and_duplicates_are_free() -> None:
    machine = Simulated()
    found = search(spaces(), _op(), machine, Budget(50))
    assert len(machine.evaluated) == found.evaluations == 50
    assert len(found.table) > 50


@pytest.mark.parametrize("at", [0, 1, 3, 7, 12])
def test_ctrl_c_keeps_what_is_done_and_resuming_goes_on(tmp_path: Path, at: int) -> None:
    whole = search(spaces(), _op(), Simulated(0.1), Budget(20), 5)
    path = tmp_path / "a.sqlite"
    with Archive(path) as a:
        cut = search(spaces(), _op(), Simulated(0.1, interrupt_at=at), Budget(20), 5, a)
        assert cut.stopped and (cut.winner is not None) == (at > 0)
        assert "not confirmed" in cut.why or at == 0
    machine = Simulated(0.1)
    with Archive(path) as a:
        done = search(spaces(), _op(), machine, Budget(20), 5, a)
        assert a.runs()[0]["outcome"]["outcome"] == "finished"
    assert len(machine.evaluated) == 20 - at
    assert _proposals(done) == _proposals(whole)
    assert done.why == whole.why
    assert [e.replayed for e in done.events if isinstance(e, Evaluated)].count(True) >= at


def test_a_finished_run_is_replayed_whole_and_grows_with_its_budget(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with Archive(path) as a:
        first = search(spaces(), _op(), Simulated(0.05), Budget(9), 1, a)
    machine = Simulated(0.05)
    with Archive(path) as a:
        again = search(spaces(), _op(), machine, Budget(9), 1, a)
    assert not machine.evaluated and not machine.confirmed
    assert again.why == first.why
    with Archive(path) as a:
        more = search(spaces(), _op(), machine, Budget(25), 1, a)
    whole = search(spaces(), _op(), Simulated(0.05), Budget(25), 1)
    assert len(machine.evaluated) == 16
    assert _proposals(more) == _proposals(whole)


def test_another_seed_reuses_verdicts_of_the_same_context(tmp_path: Path) -> None:
    with Archive(tmp_path / "a.sqlite") as a:
        search(spaces(), _op(), Simulated(), Budget(20), 1, a)
        machine = Simulated()
        search(spaces(), _op(), machine, Budget(20), 2, a)
        assert len(machine.evaluated) < 20
        other = Simulated(context="another machine")
        search(spaces(), _op(), other, Budget(20), 2, a)
        assert len(other.evaluated) == 20


def test_a_run_of_other_spaces_is_not_continued(tmp_path: Path) -> None:
    with Archive(tmp_path / "a.sqlite") as a:
        search(spaces(), _op(), Simulated(), Budget(8), 1, a)
        run = a.runs()[0]["id"]
        a._db.execute("update candidates set schedule = 'x()' where number = 2")
        with pytest.raises(ArchiveError, match="another version wrote it"):
            search(spaces(), _op(), Simulated(), Budget(8), 1, a)
        changed = spaces()
        changed[1] = replace(changed[1], starts=())
        search(changed, _op(), Simulated(), Budget(8), 1, a)
        assert len(a.runs()) == 2 and run == 1


def test_a_lucky_outlier_does_not_win() -> None:
    slow = "tiled(width=16, depth=1, order=a)"
    machine = Simulated(0.01, lucky=lambda j: j.schedule.text == slow)
    found = search(spaces(), _op(), machine, Budget(60))
    assert found.winner is not None and found.winner.schedule.text != slow
    assert found.winner.score < 0.2


def test_many_lucky_outliers_are_worked_through() -> None:
    lucky = {"tiled(width=16, depth=1, order=a)", "tiled(width=32, depth=1, order=a)",
             "tiled(width=16, depth=4, order=a)"}  # fmt: skip
    machine = Simulated(0.0, lucky=lambda j: j.schedule.text in lucky)
    found = search(spaces(), _op(), machine, Budget(60))
    assert found.winner is not None and found.winner.schedule.text not in lucky
    assert found.winner.score < 0.15
    assert any(isinstance(e, Confirmed) for e in found.events)


def test_a_winner_within_noise_of_candidate_0_is_not_taken() -> None:
    class Flat(Simulated):
        def _time(self, job, salt):  # type: ignore[no-untyped-def]
            return 1e-3 if job.schedule.strategy == "fallback" else 0.97e-3

    found = search(spaces(), _op(), Flat(noise=0.05), Budget(10))
    assert found.winner is not None and found.winner.candidate.number == 0
    assert "beyond noise" in found.why


@pytest.mark.parametrize(
    "status", ["wrong", "crashed", "timeout", "refuted", "unbuilt", "unproved"]
)
def test_failing_candidates_never_win(status: str) -> None:
    best = "tiled(width=64, depth=4, order=b)"
    machine = Simulated(broken=lambda j: status if j.schedule.text == best else None)
    found = search(spaces(), _op(), machine, Budget(70))
    assert found.winner is not None and found.winner.schedule.text != best
    assert any(r["schedule"] == best and r["status"] == status for r in found.table)


def test_when_candidate_0_fails_the_first_that_passes_is_the_base() -> None:
    machine = Simulated(broken=lambda j: "wrong" if j.number == 0 else None)
    found = search(spaces(), _op(), machine, Budget(20))
    assert found.baseline is not None and found.baseline.candidate.number == 1
    assert found.winner is not None
    nothing = search(spaces(), _op(), Simulated(broken=lambda j: "wrong"), Budget(8))
    assert nothing.winner is None and "no candidate passed" in nothing.why


def test_hard_bounds_cannot_be_bought() -> None:
    op = _op(objective=Objective((("latency", 1.0),), (("memory", "<=", 1000.0),)))
    found = search(spaces(), op, Simulated(), Budget(20))
    assert found.winner is not None and found.winner.candidate.number == 0
    assert any("memory on w is 4096" in str(r["reason"]) for r in found.table)


def test_a_stand_in_serves_what_the_facts_of_the_winner_exclude() -> None:
    class Choosy(Simulated):
        """Order b excludes the workload `odd`: what runs there is what takes every call."""

        def evaluate(
            self, jobs: Sequence[Job], incumbent: Incumbent | None
        ) -> Iterator[tuple[Job, Evaluation]]:
            for job, e in super().evaluate(jobs, incumbent):
                if "tiled_b" in job.program.name and incumbent is not None:
                    odd = {**incumbent.base_metrics["odd"], "delegated": 1.0}
                    e = replace(e, metrics={**e.metrics, "odd": odd})
                yield job, e

    machine = Choosy(weights={"even": 0.5, "odd": 0.5})
    found = search(spaces(), _op(), machine, Budget(60), general=lambda p: "tiled_b" not in p.name)
    assert found.winner is not None and found.general is not None and found.baseline is not None
    assert found.winner.program.name == "tiled_b_4"
    assert found.general.schedule["order"] == "a" and found.general.confirmed
    mine, other = found.winner.metrics, found.general.metrics
    assert mine["odd"]["latency"] == other["odd"]["latency"] > mine["even"]["latency"]
    alone = search(spaces(), _op(), Simulated(), Budget(60), general=lambda p: True)
    assert alone.general is None, "the winner takes every call itself"


def test_what_serves_no_workload_is_neither_winner_nor_finalist() -> None:
    class Choosy(Simulated):
        """Order b excludes every workload, so that its times are those of what runs instead."""

        def evaluate(
            self, jobs: Sequence[Job], incumbent: Incumbent | None
        ) -> Iterator[tuple[Job, Evaluation]]:
            for job, e in super().evaluate(jobs, incumbent):
                if "tiled_b" in job.program.name and incumbent is not None:
                    other = {**incumbent.base_metrics["w"], "delegated": 1.0}
                    e = replace(e, metrics={"w": other})
                yield job, e

    found = search(spaces(), _op(), Choosy(), Budget(60), general=lambda p: "tiled_b" not in p.name)
    assert found.winner is not None and found.winner.schedule["order"] == "a"
    idle = [r for r in found.table if "exclude every workload" in str(r["reason"])]
    assert idle and all(r["score"] is None for r in idle)
    finalists = {n for e in found.events if isinstance(e, Confirmed) for n in e.scores}
    assert not finalists & {r["number"] for r in idle}


def test_finalists_are_measured_again_on_a_busy_machine() -> None:
    class Busy(Simulated):
        """The same text is ten times as fast as itself, then twice, until the machine is calm."""

        def __init__(self, *noise: float) -> None:
            super().__init__()
            self.apart = iter(noise)

        def confirm(self, jobs: Sequence[Job], baseline: Job | None) -> Confirmation:
            return replace(super().confirm(jobs, baseline), noise=next(self.apart, 0.01))

    found = search(spaces(), _op(), Busy(2.3, 0.7), Budget(20))
    assert found.winner is not None and found.winner.candidate.number != 0
    assert found.noise == pytest.approx(0.01)
    found = search(spaces(), _op(), Busy(*[2.3] * 40), Budget(20))
    assert found.winner is not None and found.winner.candidate.number != 0, found.why
    assert "whenever it was timed" in found.why


def test_new_candidates_are_timed_against_the_best_so_far() -> None:
    machine = Simulated()
    search(spaces(), _op(), machine, Budget(30))
    assert machine.incumbents[0] is None
    assert machine.incumbents[1] == 0 and machine.incumbents[-1] not in (None, 0)


def test_a_single_space_of_one_point() -> None:
    found = search(spaces()[:1], _op(), Simulated(), Budget(5))
    assert found.winner is not None and found.winner.candidate.number == 0
    assert found.evaluations == 1
    with pytest.raises(ValueError, match="candidate 0"):
        search([], _op(), Simulated())


def _score(objective: Objective, mine: Mapping[str, float], base: Mapping[str, float]) -> float:
    return Scorer(objective, {"w": 1.0}).score({"w": mine}, {"w": base}).value


def test_scores() -> None:
    zero = {"latency": 2.0, "memory": 0.0, "error": 0.5, "compile_time": 1.0, "code_size": 1e4}
    assert _score(Objective(), zero, zero) == pytest.approx(1.0)
    assert _score(Objective(), {**zero, "latency": 1.0}, zero) == pytest.approx(0.5)
    both = Objective((("latency", 0.8), ("memory", 0.2)))
    more = {**zero, "latency": 1.0, "memory": 65536.0}
    assert _score(both, more, zero) == pytest.approx(0.8 * 0.5 + 0.2 * 2)
    scorer = Scorer(Objective((("latency", 0.5), ("energy", 0.5))), {"a": 3.0, "b": 1.0})
    assert "energy is not measured" in scorer.notes[0]
    found = scorer.score(
        {"a": {"latency": 1.0}, "b": {"latency": 4.0}},
        {"a": {"latency": 2.0}, "b": {"latency": 2.0}},
    )
    assert found.value == pytest.approx(0.5 ** (3 / 4) * 2 ** (1 / 4))


_SCRIPT = """
import sys
from opwright.search.archive import Archive
from opwright.search.run import Budget, search
from support import operators as ops
from support.simulated import Simulated, spaces
with Archive(sys.argv[1]) as a:
    print("ready", flush=True)
    search(spaces(), ops.scaled(), Simulated(0.1, pause=0.02), Budget(24), 11, a)
"""


def test_kill_9_then_resume_equals_an_uninterrupted_run(tmp_path: Path) -> None:
    whole = search(spaces(), _op(), Simulated(0.1), Budget(24), 11)
    path = tmp_path / "a.sqlite"
    tests = str(Path(__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, *sys.path])}
    for wait in (0.05, 0.15):
        p = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, str(path)], stdout=subprocess.PIPE, env=env
        )
        assert p.stdout is not None and p.stdout.readline() == b"ready\n"
        time.sleep(wait)
        p.send_signal(signal.SIGKILL)
        p.wait()
        p.stdout.close()
    with Archive(path) as a:
        done = search(spaces(), _op(), Simulated(0.1), Budget(24), 11, a)
        assert [c.schedule for c in a.candidates(done.run)] == [r["schedule"] for r in whole.table]
    assert _proposals(done) == _proposals(whole)
    assert done.why == whole.why


def test_spaces_of_the_protocol_are_enough() -> None:
    class Tiny:
        name = "fallback"

        def __init__(self) -> None:
            self.inner = spaces()[0]

        def preferred(self):  # type: ignore[no-untyped-def]
            return self.inner.preferred()

        def sample(self, rng):  # type: ignore[no-untyped-def]
            return self.inner.sample(rng)

        def neighbours(self, schedule):  # type: ignore[no-untyped-def]
            return self.inner.neighbours(schedule)

        def instantiate(self, schedule):  # type: ignore[no-untyped-def]
            return self.inner.instantiate(schedule)

    assert search([Tiny()], _op(), Simulated(), Budget(3)).winner is not None
    assert isinstance(spaces()[0], ChoiceSpace)
