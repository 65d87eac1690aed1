"""Factors of a contraction that are read where they lie: meaning at odd sizes, safety."""

from __future__ import annotations

import numpy as np
import pytest

from opwright.backends.cpp.run import Library
from opwright.compiler.elaborate import elaborate
from opwright.compiler.spaces import spaces
from opwright.compiler.toolbox import evaluation_tools
from opwright.grammar.parser import parse
from opwright.ir.op import Operator
from opwright.ir.reference import reference
from opwright.search.space import Schedule, Space
from opwright.verify.context import Context
from opwright.verify.gates import safety

SPEC = """
opwright "0.1"
op pairs @ 1.0 {
  dims B, M, N, K
  where K >= 1
  input x: f32[B, M, K], y: f32[K, N], v: f32[N]
  output z: f32[B, M, N]
  def {
    a[b, i, j] = sum[k: K](exp(x[b, i, k]) * y[k, j])
    z[b, i, j] = max(a[b, i, j] + v[j], 0)
  }
}
"""


def operator() -> Operator:
    return elaborate(parse(SPEC, "pairs.op"), "pairs", filename="pairs.op", source=SPEC)


def schedules(op: Operator) -> tuple[Space, list[Schedule]]:
    (space,) = [s for s in spaces(op, 8) if s.name == "contraction"]
    first = space.preferred()[0].changed("kc", 128)
    return space, [first.changed("lies", w) for w in ("both", "left", "right")]


def test_factors_that_lie_mean_the_spec() -> None:
    op = operator()
    space, every = schedules(op)
    kit = evaluation_tools(op, "x86-64-v3").tools
    rng = np.random.default_rng(5)
    for schedule in every:
        program = space.instantiate(schedule)
        packs = schedule["lies"] == "left"
        assert len(program.kernels) == 1 + packs
        library = Library(kit.build(kit.emit(program)).path, op)
        for b, m, n, k in [(2, 7, 17, 5), (1, 12, 32, 129), (3, 1, 1, 1)]:
            given = {
                "x": rng.standard_normal((b, m, k)).astype(np.float32),
                "y": rng.standard_normal((k, n)).astype(np.float32),
                "v": rng.standard_normal(n).astype(np.float32),
            }
            want = reference(op, given, {}, {})["z"]
            got = np.full(want.shape, np.nan, np.float32)
            library.run(given, {"z": got}, {})
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4, err_msg=str(schedule))


@pytest.mark.parametrize("which", range(3))
def test_factors_that_lie_are_safe_for_all_shapes(which: int) -> None:
    op = operator()
    space, every = schedules(op)
    program = space.instantiate(every[which])
    assert {r.status for r in safety(program, Context.of(op))} == {"PROVED"}
