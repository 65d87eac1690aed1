"""Sums whose inner range depends on their outer index: every space keeps them together."""

from __future__ import annotations

import pytest
from support import agreement
from support.random_specs import RandomSpec

TEXT = """opwright "0.1"
op nested @ 1.0 {{
  dims M, D
  input x: f32[D, D], z: f32[M, D]
  output y: f32[M]
  def {{ y[i] = sum[r: D, s: {range}](x[r, s] * z[i, {other}]) }}
}}
"""


@pytest.mark.parametrize("inner", ["0..r", "0..r + 1", "r..D", "0..min(r + 2, D)"])
@pytest.mark.parametrize("other", ["r", "s"])
def test_programs_of_every_space_agree(inner: str, other: str) -> None:
    text = TEXT.format(range=inner, other=other)
    spec = RandomSpec("nested", text, (), {"x": ("real",), "z": ("real",)})
    report = agreement.Report()
    runs = {"naive": agreement.literal, "cpp tile": lambda s: agreement.cpp_tiles(s, 1)}
    assert agreement._one(spec, 0, tuple(runs), {}, runs, report) == []
