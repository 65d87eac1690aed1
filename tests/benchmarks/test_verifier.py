"""The verifier's score: which faults are drawn, what is kept of them, what gates say of some."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from opwright.benchmarks import verifier
from opwright.benchmarks.verifier_draw import Row, Run, State, order
from opwright.benchmarks.verifier_subjects import SAFETY, Subject, own
from opwright.compiler import mutating_gates
from opwright.compiler.mutating_gates import Fate, Judge, OutOfTime, limit
from opwright.ir.mutant import Mutant

ROW_SUM = Path(__file__).resolve().parents[2] / "specs/reduce/row_sum.op"


class Told:
    """A judge that says what it was told to, after so many seconds."""

    made: ClassVar[list[str]] = []

    def __init__(self, name: str, pause: float = 0.0) -> None:
        self.name, self.pause, self.seconds = name, pause, 60.0
        Told.made.append(name)

    def mutants(self) -> list[Mutant]:
        kinds = ("mask", "mask", "mask", "offset", "constant")
        return [Mutant(k, "line 1", f"{self.name} {n}") for n, k in enumerate(kinds)]

    def __call__(self, m: Mutant, every: bool = False, forced: bool = False) -> Fate | None:
        time.sleep(self.pause)
        if m.kind == "offset":
            return None
        gate = "G5" if m.kind == "constant" else "G2"
        return Fate(m, {gate: "REFUTED"}, (gate,), gate, "traps")

    def close(self) -> None:
        pass


def subjects(pause: float = 0.0) -> list[Subject]:
    return [
        Subject(f"{f}{n}", "tile", b, f, lambda f=f, n=n: Told(f"{f}{n}", pause))  # type: ignore
        for b in ("cpp", "triton")
        for f in ("a", "b")
        for n in range(2)
    ]


def judged(state: State, each: int = 2, until: float = 1e18, pause: float = 0.0) -> list[Row]:
    seen: list[Row] = []
    Run(subjects(pause), state, each, 0, until)(lambda s, row: seen.append(row))
    return seen


def test_groups_and_families_take_turns() -> None:
    found = [s.group + s.family for s, _ in order(subjects(), 0, 1)]
    assert [x.partition(",")[0] for x in found[:4]] == ["cpp", "triton", "cpp", "triton"]
    assert {x[-1] for x in found[:4]} == {"a", "b"}
    assert found == [s.group + s.family for s, _ in order(subjects(), 0, 1)]


def test_a_run_that_goes_on_judges_what_the_first_would_have(tmp_path: Path) -> None:
    whole = State(0)
    judged(whole)
    cut = State(0, path=tmp_path / "state.json")
    judged(cut, until=time.monotonic() + 0.6, pause=0.25)
    assert 0 < len(cut.rows) < len(whole.rows)
    again = State.read(tmp_path / "state.json", 0)
    before = dict(again.rows)
    judged(again)
    assert set(again.rows) == set(whole.rows) and before.keys() < again.rows.keys()
    assert again.fates == whole.fates and "broken" in again.fates.values()
    Told.made.clear()
    judged(State.read(tmp_path / "state.json", 0))
    assert Told.made == []  # what is known is not made again
    with pytest.raises(ValueError, match="seed"):
        State.read(tmp_path / "state.json", 1)


def test_the_limit_holds_within_a_subject() -> None:
    begin = time.monotonic()
    state = State(0)
    assert not Run(subjects(0.2), state, 24, 0, begin + 0.5)(lambda s, row: None)
    assert time.monotonic() - begin < 4.0 and 0 < len(state.rows) <= 4


def test_what_takes_too_long_is_given_up() -> None:
    with pytest.raises(OutOfTime), limit(0.05):
        while True:
            pass


def test_survivors_are_named_with_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    state = State(0)
    row = judged(state)[0]
    bad = replace(row, gates={"G2": "PROVED"}, killers=[], refused="", unsound="it traps")
    state.rows = {"x": bad}
    text = "\n".join(verifier.report(state, subjects(), ""))
    assert f"--only '{bad.subject}' --fault {bad.fault}" in text and "UNSOUND" in text
    assert verifier.below([bad], 100) and not verifier.below([row], 100)
    assert json.dumps(verifier.summary(state))


@pytest.fixture(scope="module")
def judge() -> Judge:
    return own(ROW_SUM, "cpp", "tile")


def test_faults_are_refused_by_the_gate_that_is_meant_to(judge: Judge) -> None:
    judge.printer = None  # nothing is compiled
    seen = {}
    for m in judge.mutants():
        if m.kind in ("mask", "mask_dropped", "contradiction", "offset") and m.kind not in seen:
            fate = judge(m, forced=True)
            assert fate is not None
            seen[m.kind] = fate
    assert all(f.refused in ("G2", "G3") and not f.unsound for f in seen.values())
    assert seen["mask"].effect == "traps" and seen["mask"].forced == "refused"
    assert "contradict" in seen["contradiction"].reason and set(seen) <= set(SAFETY)


def test_a_wrong_proof_is_said_to_be_unsound(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    judge.printer = None
    right = judge.static.records
    text = next(m for m in judge.mutants() if m.kind == "mask_dropped")
    real = mutating_gates.safety
    monkeypatch.setattr(
        mutating_gates, "safety",
        lambda program, context: [replace(r, status="PROVED") for r in real(program, context)],
    )  # fmt: skip
    fate = judge(text)
    assert right and fate is not None and "G2 and G3 are PROVED" in fate.unsound
