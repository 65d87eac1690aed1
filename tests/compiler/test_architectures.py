"""Which candidate each architecture takes, from one search."""

from __future__ import annotations

from pathlib import Path

import pytest

from opwright.compiler.architectures import built_for, shipped, taken
from opwright.compiler.elaborate import load_spec
from opwright.ir.tile import TileProgram
from opwright.search.archive import Candidate
from opwright.search.events import Choice, Evaluated, SearchResult
from opwright.search.space import ChoiceSpace, Schedule, parse

SPEC = """opwright "0.1"

op halved @ 1.0 {
  dims  N
  input x: f32[N]
  output y: f32[N]
  def { y[i] = 0.5 * x[i] }
  workload small weight 1.0 { N = 30, x ~ normal(0, 1) }
  workload large weight 1.0 { N = 3000, x ~ normal(0, 1) }
}
"""
TARGETS = ("sm_90", "sm_80", "gfx942")
SPACE = ChoiceSpace("k", {"n": (0, 1, 2, 3)}, lambda n: TileProgram(f"p{n}", (), ()))


def candidate(number: int, times: dict[str, tuple[float, float]], excluded: str = "") -> Candidate:
    metrics = {}
    for n, w in enumerate(("small", "large")):
        metrics[w] = {
            "latency": times[TARGETS[0]][n],
            **{f"latency@{t}": s[n] for t, s in times.items()},
            **({"delegated": 1.0} if w == excluded else {}),
        }
    build = {"resources": {t: {"k": {"registers": 1}} for t in times}}
    text = Schedule("k", (("n", number),)).text
    return Candidate(number, 0, text, "ok", program=f"p{number}", build=build, metrics=metrics)


def found(candidates: list[Candidate], winner: int) -> SearchResult:
    def choice(n: int) -> Choice:
        c = candidates[n]
        schedule = parse(c.schedule)
        return Choice(c, schedule, SPACE.instantiate(schedule), c.metrics, 1.0, False)

    events = tuple(Evaluated(c, 1.0, False, False) for c in candidates)
    return SearchResult(choice(winner), choice(0), (), events, "", (), 0.0, False, 1, 4, None)


ZERO = {"sm_90": (9.0, 9.0), "sm_80": (9.0, 9.0), "gfx942": (9.0, 9.0)}


@pytest.fixture
def ships(tmp_path: Path) -> object:
    (tmp_path / "halved.op").write_text(SPEC)
    op = load_spec(tmp_path / "halved.op").operator("halved", {})
    weights = {"small": 1.0, "large": 1.0}
    return lambda result: shipped(result, [SPACE], op, weights, TARGETS)


def test_another_one_is_best_elsewhere(ships: object) -> None:
    assert callable(ships)
    one = candidate(1, {"sm_90": (1.0, 1.0), "sm_80": (4.0, 4.0), "gfx942": (2.0, 2.0)})
    two = candidate(2, {"sm_90": (2.0, 2.0), "sm_80": (2.0, 2.0)})
    out = ships(found([candidate(0, ZERO), one, two], 1))
    assert [(s.label, s.choice.candidate.number, s.targets) for s in out] == [
        ("winner_sm_80", 2, ("sm_80",)),
        ("winner", 1, TARGETS),
        ("candidate0", 0, TARGETS),
    ]
    assert [taken(out, t).label for t in TARGETS] == ["winner", "winner_sm_80", "winner"]
    assert taken(out, "sm_120").label == "candidate0"
    assert built_for(two, TARGETS) == ("sm_90", "sm_80")


def test_near_ties_and_one_kernel_for_all(ships: object) -> None:
    assert callable(ships)
    one = candidate(1, {"sm_90": (1.0, 1.0), "sm_80": (2.01, 2.0), "gfx942": (2.0, 2.0)})
    two = candidate(2, {"sm_90": (2.0, 2.0), "sm_80": (2.0, 2.0), "gfx942": (2.0, 2.0)})
    out = ships(found([candidate(0, ZERO), one, two], 1))
    assert [s.label for s in out] == ["winner", "candidate0"]


def test_a_stand_in_is_that_of_the_architecture(ships: object) -> None:
    """What one's facts exclude is counted at the best time of another there, and that one ships."""
    assert callable(ships)
    one = candidate(1, {"sm_90": (1.0, 1.0), "sm_80": (4.0, 4.0), "gfx942": (1.0, 1.0)})
    narrow = candidate(2, {t: (2.0, 9.0) for t in TARGETS}, "large")
    broad = candidate(3, {"sm_90": (3.0, 3.0), "sm_80": (3.0, 3.0), "gfx942": (3.0, 3.0)})
    out = ships(found([candidate(0, ZERO), one, narrow, broad], 1))
    assert [(s.label, s.choice.candidate.number) for s in out] == [
        ("winner_sm_80", 2),
        ("dense_sm_80", 3),
        ("winner", 1),
        ("candidate0", 0),
    ]


def test_what_an_architecture_cannot_hold_is_not_for_it(ships: object) -> None:
    assert callable(ships)
    one = candidate(1, {"sm_90": (1.0, 1.0), "sm_80": (1.0, 1.0)})
    out = ships(found([candidate(0, ZERO), one], 1))
    assert [(s.label, s.targets) for s in out] == [
        ("winner", ("sm_90", "sm_80")),
        ("candidate0", TARGETS),
    ]
    assert taken(out, "gfx942").label == "candidate0"
