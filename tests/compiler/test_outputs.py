"""Outputs keep the order of the text, whatever the order in which they can be computed."""

from __future__ import annotations

from opwright.compiler.elaborate import parse_spec

TEXT = """opwright "0.1"
op centred @ 1.0 {
  dims B, N
  where N >= 1
  input x: f32[B, N]
  output y: f32[B, N], mean: f32[B]
  def {
    mean[b] = sum.f32[j: N](x[b, j]) / N
    y[b, j] = x[b, j] - mean[b]
  }
}
"""


def test_outputs_come_in_declared_order() -> None:
    op = parse_spec(TEXT).operator("centred")
    assert [t.name for t in op.outputs] == ["y", "mean"]
    assert [t.name for t in op.tensors if t.role == "output"] == ["mean", "y"]
