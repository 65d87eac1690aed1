"""Growing cases: files, minimising, and that gates run what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opwright.compiler.elaborate import parse_spec
from opwright.ir.op import Operator
from opwright.verify import cases
from opwright.verify.cases import CaseError, Kept
from opwright.verify.inputs import Case, generate
from opwright.verify.numeric import Observation, bounds, numeric

SPEC = """opwright "0.1"
op doubled @ 1.0 {
  dims B, N
  where N >= 1
  input x: f32[B, N], i: i64[B]
  output y: f32[B]
  def { y[b] = 2 * x[b, i[b]] }
  requires within: all[b: B](0 <= i[b] and i[b] < N)
}
"""


@pytest.fixture
def op(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    monkeypatch.delenv("OPWRIGHT_CASES")
    path = tmp_path / "doubled.op"
    path.write_text(SPEC)
    spec = parse_spec(SPEC, str(path))
    cases.know(path, spec.names)
    return spec.operator("doubled", {})


def kept(n: float = 1.0) -> Kept:
    inputs = {
        "x": {"shape": [1, 2], "kind": "real", "data": [n, "inf"]},
        "i": {"shape": [1], "kind": "int", "data": [1]},
    }
    return Kept("doubled", {"B": 1, "N": 2}, inputs, source="test", shows="it is wrong")


def test_a_case_is_kept_once_and_removed_by_its_id(tmp_path: Path) -> None:
    path = tmp_path / "cases" / "doubled.jsonl"
    assert cases.add_case(path, kept()) and cases.add_case(path, kept(2.0))
    assert not cases.add_case(path, kept())
    first, second = cases.read_cases(path)
    assert first.id == kept().id != second.id and first.date
    assert not cases.remove_case(path, "zz")
    assert cases.remove_case(path, first.id)
    assert [c.id for c in cases.read_cases(path)] == [second.id]
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # nothing is left beside it


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "Expecting property name"),
        ("[]", "a case is an object"),
        ('{"op": "a", "sizes": {"N": -1}, "inputs": {}}', "sizes are integers"),
        ('{"op": "a", "sizes": {}, "inputs": {"x": {"shape": [2]}}}', "inputs: x"),
    ],
)
def test_a_malformed_line_is_one_error_with_its_place(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"\n{line}\n")
    with pytest.raises(CaseError) as e:
        cases.read_cases(path)
    assert str(e.value).startswith(f"{path}:2: ") and why in str(e.value)


def test_gates_run_what_is_kept(op: Operator) -> None:
    path = cases.places(cases._SPECS["doubled"], "doubled")[0]
    cases.add_case(path, kept(7.0))
    made = generate(op, count=2)
    (case,) = [c for c in made.cases if c.family == "recorded"]
    assert case.special and case.inputs["x"].tolist() == [[7.0, np.inf]]
    illegal = Kept("doubled", {"B": 1, "N": 1}, {**kept().inputs})
    cases.add_case(path, illegal)
    assert any(illegal.id in note for note in generate(op, count=2).notes)


def test_a_refutation_is_minimised(op: Operator) -> None:
    def wrong(case: Case, layout: str) -> Observation:
        """Wrong where a row has more than four entries and the third is read."""
        x, i = case.inputs["x"], case.inputs["i"]
        y = 2 * x[np.arange(len(i)), i] if len(i) else np.zeros(0, np.float32)
        if x.shape[1] > 4:
            y = np.where(i == 2, y + 1, y)
        return Observation({"y": y.astype(np.float32)})

    def exact(plain: Any, sizes: Any, params: Any) -> Any:
        return {"y": 2 * plain["x"][np.arange(sizes["B"]), plain["i"]]}

    found: list[cases.Refuted] = []
    made = generate(op, seed=3, count=30).cases
    with cases.watching(found.append):
        judged = numeric(op, made, wrong, lambda c: bounds(op, c, exact))
    assert judged.refuted is not None and len(found) == 1
    one = found[0]
    sizes, inputs = cases.minimise(op, one.sizes, one.params, one.inputs, one.fails)
    assert sizes == {"B": 1, "N": 5}
    assert inputs["i"].tolist() == [2] and not inputs["x"].any()
