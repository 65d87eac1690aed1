"""Pointwise results with another axis contiguous in what they read: blocks through scratch."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from opwright.backends.cpp.run import Library
from opwright.compiler.elaborate import elaborate
from opwright.compiler.spaces import spaces
from opwright.compiler.toolbox import evaluation_tools
from opwright.grammar.parser import parse
from opwright.ir.op import Operator
from opwright.ir.reference import reference
from opwright.search.space import Space
from opwright.verify.context import Context
from opwright.verify.gates import safety

SPEC = """
opwright "0.1"
op turned @ 1.0 {
  dims B, M, N
  input x: f32[N, B, M], z: f32[B, M, N], v: f32[N]
  output y: f32[B, M, N], u: f32[B, M, N]
  def {
    a[b, i, j] = x[j, b, i] * 2.0 + v[j]
    y[b, i, j] = a[b, i, j] + z[b, i, j]
    u[b, k, l] = max(a[b, k, l], 0)
  }
  workload one weight 1.0 { B = 2, M = 32, N = 48 }
}
"""


def operator(source: str = SPEC) -> Operator:
    return elaborate(parse(source, "turned.op"), "turned", filename="turned.op", source=source)


def found(op: Operator, native: int) -> list[Space]:
    return [s for s in spaces(op, native) if s.name == "turn"]


def test_blocks_mean_the_spec() -> None:
    op = operator()
    (space,) = found(op, 8)
    kit = evaluation_tools(op, "x86-64-v3").tools
    rng = np.random.default_rng(3)
    plain, streamed = space.preferred()[0], space.preferred()[1]
    assert (plain["stream"], streamed["stream"]) == (False, True)
    for schedule, shapes in (
        (plain, [(1, 1, 1), (2, 65, 70), (3, 5, 130), (1, 64, 64)]),
        (streamed, [(2, 70, 64)]),
    ):
        library = Library(kit.build(kit.emit(space.instantiate(schedule))).path, op)
        for b, m, n in shapes:
            given = {
                "x": rng.standard_normal((n, b, m)).astype(np.float32),
                "z": rng.standard_normal((b, m, n)).astype(np.float32),
                "v": rng.standard_normal(n).astype(np.float32),
            }
            want = reference(op, given, {}, {})
            got = {k: _aligned((b, m, n)) for k in "yu"}
            library.run(given, got, {})
            for k in "yu":
                np.testing.assert_allclose(got[k], want[k], rtol=1e-6, atol=1e-6)


def _aligned(shape: tuple[int, ...]) -> NDArray[np.float32]:
    count = int(np.prod(shape))
    raw = np.full(count + 16, np.nan, np.float32)
    at = -raw.ctypes.data % 64 // 4
    return raw[at : at + count].reshape(shape)


@pytest.mark.parametrize("native", [8, 16])
def test_blocks_are_safe_for_all_shapes(native: int) -> None:
    op = operator()
    (space,) = found(op, native)
    for schedule in space.preferred():
        assert {r.status for r in safety(space.instantiate(schedule), Context.of(op))} == {"PROVED"}


def test_what_is_not_turned_has_no_blocks() -> None:
    along = SPEC.replace("x: f32[N, B, M]", "x: f32[B, M, N]").replace("x[j, b, i]", "x[b, i, j]")
    assert found(operator(along), 8) == []
