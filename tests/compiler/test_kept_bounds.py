"""Hard bounds of an objective on memory and error: in verdicts and in the scores of a search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from opwright.cli import app
from opwright.compiler.candidates import Candidate, printed, write
from opwright.compiler.elaborate import parse_spec
from opwright.compiler.kept_bounds import bound_records
from opwright.compiler.spaces import spaces
from opwright.ir.op import Objective, Operator
from opwright.ir.plan import Scratch
from opwright.search.objective import Scorer

TEXT = """opwright "0.1"

op total @ 1.0 {
  dims  B, N
  input x: f32[B, N]
  output y: f32[B]
  def { y[b] = sum.f32[k: N](x[b, k]) }
  tolerance versus f64 { f32: abs 1e-4 rel 1e-5 }
  workload rows weight 1.0 { B = 64, N = 128, x ~ normal(0, 1) }
  minimize latency subject to BOUNDS
  target cpu(x86_64) via cpp
}
"""


def spec(bounds: str) -> Operator:
    return parse_spec(TEXT.replace("BOUNDS", bounds), "total.op").operator("total", {})


def candidate(op: Operator) -> Candidate:
    space = spaces(op, 8)[0]
    return printed(space.instantiate(space.preferred()[0]), op, "x86-64-v3")


def statuses(op: Operator, c: Candidate, error: float | None) -> dict[str, str]:
    return {r.id.rpartition(".")[2]: r.status for r in bound_records(c, op, error)}


def test_bounds_are_records() -> None:
    op = spec("error <= 0.5, memory <= 1 MiB")
    c = candidate(op)
    assert statuses(op, c, 0.4) == {"error": "TESTED", "memory": "TESTED"}
    assert statuses(op, c, 0.6) == {"error": "REFUTED", "memory": "TESTED"}
    assert statuses(op, c, None)["error"] == "UNKNOWN"
    large = replace(c.plan, scratch={"t": Scratch("f32", ("B", "N * 64"))})
    (record,) = [r for r in bound_records(replace(c, plan=large), op, 0.1) if "memory" in r.id]
    assert record.status == "REFUTED" and "2097152 bytes on rows" in record.reason
    assert record.counterexample == {"workload": "rows", "memory": 2097152, "limit": 2.0**20}


def test_what_a_plan_does_not_say_is_unknown() -> None:
    op = spec("memory <= 1 MiB")
    c = candidate(op)
    other = replace(c, plan=replace(c.plan, backend="jax"))
    assert statuses(op, other, 0.1) == {"memory": "UNKNOWN"}


@pytest.mark.parametrize(("limit", "ships"), [("1", True), ("1e-9", False)])
def test_verify_keeps_the_bound(limit: str, ships: bool, tmp_path: Path) -> None:
    text = TEXT.replace("BOUNDS", f"error <= {limit}")
    path = tmp_path / "total.op"
    path.write_text(text)
    op = parse_spec(text, str(path)).operator("total", {})
    write(candidate(op), tmp_path / "made")
    found = CliRunner().invoke(app, ["verify", str(path), str(tmp_path / "made")])
    assert (found.exit_code == 0) is ships, found.output
    assert "G6.objective.error" in found.output


def test_a_metric_that_is_missing_is_said() -> None:
    objective = Objective((("latency", 0.5), ("error", 0.5)), (("memory", "<=", 10.0),))
    scorer = Scorer(objective, {"w": 1.0})
    score = scorer.score({"w": {"latency": 1.0}}, {"w": {"latency": 2.0}})
    assert score.value == pytest.approx(0.5)
    assert scorer.notes == [
        "memory is not measured here: its bound <= 10 is not checked",
        "error is not measured here: its term is dropped, others grow",
    ]
    over = scorer.score({"w": {"latency": 1.0, "memory": 11.0}}, {"w": {"latency": 2.0}})
    assert not over.feasible and "the bound is <= 10" in over.reason
