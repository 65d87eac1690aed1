"""PyTorch's sample inputs as calls of an operator that fits them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opwright.cli import run as opwright
from opwright.compiler.elaborate import parse_spec
from opwright.compiler.opinfo import NoSamples, fitted, samples
from opwright.ir.binding import InputError
from opwright.ir.op import Operator
from opwright.verify.cases import call_of, read_cases

SPEC = """opwright "0.1"

op shares @ 1.0 {
  dims B, N
  where N >= 1
  param scale: f32 = 2.0
  input x: f32[B, N]
  output y: f32[B, N]
  def {
    e[b, j] = exp(scale * x[b, j])
    y[b, j] = e[b, j] / sum[k: N](e[b, k])
  }
  requires bounded: all[b: B, j: N](-20 <= x[b, j] <= 20)
}
"""


@pytest.fixture(scope="module")
def op() -> Operator:
    return parse_spec(SPEC).operator()


def tensor(*shape: int, value: float = 0.5, real: bool = True) -> dict[str, Any]:
    data = np.full(shape, value).reshape(-1).tolist()
    return {"shape": list(shape), "real": real, "bool": False, "data": data}


def test_leading_axes_become_one_and_numbers_go_by_name(op: Operator) -> None:
    case = fitted(op, [tensor(2, 3, 4)], {"scale": 0.5, "dim": -1}, "some")
    assert case.sizes == {"B": 6, "N": 4} and case.params == {"scale": 0.5}
    assert case.source == "opinfo" and call_of(op, case).inputs["x"].shape == (6, 4)


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ([], "0 tensors for 1 inputs"),
        ([tensor(3)], "x has 2 axes, the sample 1"),
        ([tensor(3, 0)], "does not hold for N = 0"),
        ([tensor(2, 2, value=99.0)], "breaks"),
        ([tensor(2, 2, real=False)], "x is real, the sample int"),
    ],
)
def test_what_does_not_fit_is_left_out_with_a_reason(
    tensors: list[Any], why: str, op: Operator
) -> None:
    with pytest.raises(InputError, match=why):
        fitted(op, tensors, {}, "some")


def test_samples_of_pytorch_are_cases(tmp_path: Path, op: Operator) -> None:
    pytest.importorskip("torch")
    spec = tmp_path / "shares.op"
    spec.write_text(SPEC)
    out = tmp_path / "found.jsonl"
    assert opwright(["exchange", "opinfo", str(spec), "softmax", "-o", str(out)]) == 0
    found = read_cases(out)
    assert found and all(call_of(op, k).sizes["N"] >= 1 for k in found)
    with pytest.raises(NoSamples, match="PyTorch has no operator"):
        samples(op, "no_such_thing")
