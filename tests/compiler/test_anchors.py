"""Maxima that only keep exponentials small carry no gradient; others do."""

from __future__ import annotations

import pytest
from support.shipped import SPECS  # type: ignore[import-not-found]

from opwright.compiler.autodiff import gradient
from opwright.compiler.autodiff_anchors import anchors
from opwright.compiler.elaborate import load_spec, parse_spec
from opwright.compiler.normalize import extract_folds
from opwright.ir.expr import walk
from opwright.ir.op import Operator

SHIPPED = {
    "attention/attention": {"m"},
    "attention/alibi_attention": {"m"},
    "attention/block_sparse_attention": {"m"},
    "attention/varlen_attention": {"m"},
    "loss/cross_entropy": {"m"},
    "loss/label_smoothing": {"m"},
    "nn/log_softmax": {"m"},
    "nn/softmax": {"m"},
    "reduce/logsumexp": {"m"},
    "scan/logcumsumexp": {"m"},  # by induction over a recurrence
    "quant/quantize_rows": set(),
    "reduce/row_max": set(),
    "nn/layernorm": set(),
}
HEAD = """opwright "0.1"
op f @ 1.0 {
  dims B, N
  where N >= 1
  param t: f32 = 0.5
  where t > 0
  input x: f32[B, N], v: f32[B, N]
  output y: f32[B]
  def {
"""
FREE = {
    "of another base": "m[b] = max[j: N](x[b, j])\n"
    "y[b] = m[b] + log2(sum[j: N](exp2(x[b, j] - m[b])))",
    "tempered": "m[b] = max[j: N](x[b, j])\ne[b, j] = exp((x[b, j] - m[b]) / t)\n"
    "y[b] = sum[j: N](e[b, j] * v[b, j]) / sum[j: N](e[b, j])",
    "guarded rows": "k[b] = max[j: N | v[b, j] > 0](x[b, j])\n"
    "e[b, j] = if v[b, j] > 0 then exp(x[b, j] - k[b]) else 0\n"
    "y[b] = sqrt(sum[j: N](e[b, j] * e[b, j])) / sum[j: N](e[b, j])",
    "of any size": "m[b] = max[j: N](abs(x[b, j])) + 1\n"
    "y[b] = m[b] * sqrt(sum[j: N]((x[b, j] / m[b]) * (x[b, j] / m[b])))",
    "a minimum": "m[b] = min[j: N](x[b, j])\n"
    "y[b] = log(sum[j: N](exp(m[b] - x[b, j]))) - m[b]",
    "of two steps": "m[b] = max[j: N](x[b, j])\nk[b] = if m[b] > 0 then m[b] else 0\n"
    "y[b] = k[b] + log(sum[j: N](exp(x[b, j] - k[b])))",
}  # fmt: skip
BOUND = {
    "another scale": "m[b] = max[j: N](x[b, j])\n"
    "y[b] = m[b] + log(sum[j: N](exp((x[b, j] - m[b]) / t)))",
    "one too many": "m[b] = max[j: N](x[b, j])\n"
    "y[b] = m[b] + m[b] + log(sum[j: N](exp(x[b, j] - m[b])))",
    "a sum of two kinds": "m[b] = max[j: N](x[b, j])\n"
    "y[b] = sum[j: N]((1 + exp(x[b, j] - m[b])) * v[b, j]) / sum[j: N](exp(x[b, j] - m[b]))",
    "another row": "m[b] = max[j: N](x[b, j])\n"
    "y[b] = m[B - 1 - b] + log(sum[j: N](exp(x[b, j] - m[b])))",
    "of each element": "m[b, j] = max(x[b, j], v[b, j])\n"
    "y[b] = sum[j: N](exp(x[b, j] - m[b, j]) * v[b, j]) / sum[j: N](exp(x[b, j] - m[b, j]))",
}


def found(op: Operator) -> set[str]:
    return anchors(extract_folds(op), {t.name for t in op.outputs})


def written(body: str) -> Operator:
    return parse_spec(f"{HEAD}{body}\n}}\n}}\n").operator("f", {})


def extremes(op: Operator) -> int:
    """How many definitions look for the place of an extreme."""
    bodies = [t.body for t in op.tensors if t.body is not None]
    return sum(x.op == "fold" and x.attr.kind.startswith("arg") for b in bodies for x in walk(b))


@pytest.mark.parametrize("path", list(SHIPPED))
def test_library(path: str) -> None:
    spec = load_spec(SPECS / f"{path}.op")
    (name,) = spec.names
    op = spec.operator(name, spec.bindings(name)[0])
    assert found(op) == SHIPPED[path]
    if SHIPPED[path]:
        wanted = [n for n, how in op.gradients if how != "none"]
        assert not extremes(gradient(op, wanted))


@pytest.mark.parametrize("name", list(FREE))
def test_what_no_result_depends_on(name: str) -> None:
    op = written(FREE[name])
    assert found(op) & {"m", "k"}
    assert not extremes(gradient(op, ["x"]))


@pytest.mark.parametrize("name", list(BOUND))
def test_what_a_result_depends_on(name: str) -> None:
    assert not found(written(BOUND[name]))


def test_an_anchor_that_is_a_result_keeps_its_own_gradient() -> None:
    op = parse_spec(
        HEAD.replace("output y: f32[B]", "output y: f32[B], m: f32[B]")
        + "m[b] = max[j: N](x[b, j])\ny[b] = m[b] + log(sum[j: N](exp(x[b, j] - m[b])))\n}\n}\n"
    ).operator("f", {})
    assert found(op) == {"m"}
    back = gradient(op, ["x"])
    assert extremes(back) == 1 and "d_m" in {t.name for t in back.inputs}
