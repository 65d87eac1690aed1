"""A given function of arrays in a package: called by position, whatever its own order."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from opwright.compiler.candidates import Candidate
from opwright.compiler.elaborate import load_spec
from opwright.compiler.functional import ENTRY, arrays_from
from opwright.ir.plan import from_json

SPEC = """opwright "0.1"

op shifted @ 1.0 {
  dims  N
  param gain: f32 = 2.0
  param steps: i32 = 1
  input x: f32[N]
  input w: f32[N]
  output y: f32[N]
  def { y[i] = gain * x[i] + steps * w[i] }
}
"""
SOURCE = """import jax.numpy as jnp


def anything(w, steps, *, x, gain):
    return gain * x + jnp.stack([w] * steps).sum(0)
"""


def test_it_is_called_by_position(tmp_path: Path) -> None:
    jax = pytest.importorskip("jax")
    (tmp_path / "shifted.op").write_text(SPEC)
    op = load_spec(tmp_path / "shifted.op").operator("shifted", {})
    launch = {"kernel": "anything", "args": ["w", "x", "gain", "steps"]}
    plan = from_json(
        {"abi": 1, "op": "shifted@1.0", "target": "cpu", "backend": "jax", "source": "kernel.py",
         "launches": [launch]}
    )  # fmt: skip
    found = arrays_from(Candidate(plan, SOURCE), op)
    assert found.function == ENTRY and found.source.startswith(SOURCE)
    ast.parse(found.source, feature_version=(3, 9))
    names: dict[str, object] = {}
    exec(compile(found.source, "kernel.py", "exec"), names)
    x, w = jax.numpy.ones(3), jax.numpy.arange(3.0)
    entry = names[ENTRY]
    assert callable(entry)
    assert entry(x, w, 2.0, 3).tolist() == [2.0, 5.0, 8.0]
