"""Laws tried on data: with the reference they hold, with a wrong operator they do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from opwright.compiler.elaborate import parse_spec
from opwright.ir.binding import InputError
from opwright.ir.laws import LawResult, evaluate_law
from opwright.ir.op import Operator
from opwright.ir.reference import reference

TEXT = """opwright "0.1"
op half @ 1.0 {
  dims N
  input x: f32[N]
  output y: f32[N]
  def { y[i] = x[i] / 2 }
}
op f @ 1.0 {
  dims N
  where N >= 1
  param c: f32 = 1
  input x: f32[N]
  output y: f32[N], s: f32
  def { y[i] = c * x[i]  s = sum[i: N](y[i]) }
  requires small: all[i: N](-100 < x[i] < 100)
  law shift(d: f32 in -1..1): f([i: N => x[i] + d]).y ~= [i: N => y[i] + c * d]
  law mixed(p: perm(N), k: index(N)): f([i: N => x[p[i]]]).y[k] ~= y[p[k]]
  law twice: f(f(x).y, c = 2).s ~= 2 * c * s
  law other: f(half(x)).y ~= [i: N => half(y)[i]]
  law large: f([i: N => x[i] + 1000]).s ~= s
}"""


def tried(op: Operator, name: str, scale: float = 1.0, seed: int = 0) -> LawResult:
    clause = next(c for c in op.clauses if c.name == name)

    def run(inputs: Mapping[str, Any], params: Mapping[str, Any], sizes: Mapping[str, int]) -> Any:
        out = reference(op, inputs, params, sizes)
        # wrong by a term that is not linear
        return {k: v + (scale - 1) * np.square(v) for k, v in out.items()}

    rng = np.random.default_rng(seed)
    return evaluate_law(op, clause, {"x": rng.standard_normal(5)}, run, rng)


@pytest.mark.parametrize("name", ["shift", "mixed", "twice", "other"])
def test_laws_hold_of_the_meaning(name: str) -> None:
    op = parse_spec(TEXT).operator("f")
    found = tried(op, name)
    assert found.result is not None and found.result.holds


@pytest.mark.parametrize("name", ["shift", "twice", "other"])
def test_laws_fail_of_something_else(name: str) -> None:
    found = tried(parse_spec(TEXT).operator("f"), name, scale=1.5)
    assert found.result is not None and not found.result.holds
    assert found.result.violation > 1e-3


def test_a_law_says_nothing_of_inputs_outside_requires() -> None:
    found = tried(parse_spec(TEXT).operator("f"), "large")
    assert found.result is None and "small" in found.reason


def test_arguments_can_be_given() -> None:
    op = parse_spec(TEXT).operator("f")
    clause = next(c for c in op.clauses if c.name == "mixed")
    x = {"x": np.arange(3.0)}
    found = evaluate_law(
        op, clause, x, lambda i, p, s: reference(op, i, p, s), np.random.default_rng(0),
        arguments={"p": [2, 0, 1], "k": 1},
    )  # fmt: skip
    assert found.arguments["p"].tolist() == [2, 0, 1]
    assert found.calls["call0"]["x"].tolist() == [2, 0, 1]
    with pytest.raises(InputError):
        evaluate_law(op, op.clauses[0], x, lambda i, p, s: {}, np.random.default_rng(0))
