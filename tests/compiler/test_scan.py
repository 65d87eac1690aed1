"""Running reductions by lanes along the axis and by lanes across another one."""

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
from opwright.search.space import IllegalSchedule, Schedule, Space
from opwright.verify.context import Context
from opwright.verify.gates import safety

HEAD = """
opwright "0.1"
op running @ 1.0 {
  dims A, N, C
  input x: f32[A, N, C], w: f32[C]
  output y: f32[A, N, C]
  def { %s }
}
"""
BODIES = {
    "last": "y[a, n, c] = sum[k: 0..c + 1](x[a, n, k] * w[k])",
    "largest": "y[a, n, c] = max[k: 0..c + 1](x[a, n, k])",
    "guarded": "y[a, n, c] = sum[k: 0..c + 1 | w[k] > 0](x[a, n, k])",
    "before": "y[a, n, c] = sum[k: 0..c](x[a, n, k])",
    "back": "y[a, n, c] = sum[k: c..C](x[a, n, k])",
    "down": "y[a, n, c] = sum[k: 0..n + 1](x[a, k, c] * w[c])",
    "first": "y[a, n, c] = min[k: a..A](x[k, n, c])",
}
SIZES = [{"A": 3, "N": 19, "C": 37}, {"A": 9, "N": 2, "C": 16}, {"A": 1, "N": 1, "C": 1}]


def operator(body: str) -> Operator:
    text = HEAD % body
    return elaborate(parse(text, "running.op"), "running", filename="running.op", source=text)


def schedules(op: Operator, native: int) -> list[tuple[Space, Schedule]]:
    (space,) = [s for s in spaces(op, native) if s.name == "scan"]
    return [(space, s) for s in space.preferred()]


@pytest.mark.parametrize("name", BODIES)
def test_scans_mean_the_spec(name: str) -> None:
    op = operator(BODIES[name])
    kit = evaluation_tools(op, "x86-64-v3").tools
    rng = np.random.default_rng(4)
    ran = 0
    for space, schedule in schedules(op, 8):
        if schedule["stream"]:
            continue  # needs aligned outputs
        library = Library(kit.build(kit.emit(space.instantiate(schedule))).path, op)
        for sizes in SIZES:
            shape = tuple(sizes.values())
            given = {
                "x": rng.standard_normal(shape).astype(np.float32),
                "w": rng.standard_normal(shape[-1]).astype(np.float32),
            }
            want = reference(op, given, {}, {})["y"]
            got = np.full(shape, np.nan, np.float32)
            library.run(given, {"y": got})
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5, err_msg=str(schedule))
        ran += 1
    assert ran == (2 if name in ("last", "largest", "guarded") else 1)


@pytest.mark.parametrize("name", ["last", "guarded", "back", "down"])
@pytest.mark.parametrize("native", [8, 16])
def test_scans_are_safe_for_all_shapes(name: str, native: int) -> None:
    op = operator(BODIES[name])
    for space, schedule in schedules(op, native):
        try:
            program = space.instantiate(schedule)
        except IllegalSchedule:
            continue
        assert {r.status for r in safety(program, Context.of(op))} == {"PROVED"}


RUNNING = """opwright "0.1"
op shares @ 1.0 {
  dims M
  input x: f32[M]
  output y: f32[M]
  def {
    m[t] = max[r: 0..t + 1](x[r])
    y[t] = sum[r: 0..t + 1](exp(x[r] - m[r]))
  }
}
"""


def test_facts_speak_of_what_a_caller_hands_over() -> None:
    """A local is nobody's argument: it is not stored past the cache under a guard on its memory."""
    from opwright.compiler.elaborate import parse_spec
    from opwright.compiler.spaces import spaces
    from opwright.ir.expr import leaves
    from opwright.search.space import IllegalSchedule

    op = parse_spec(RUNNING).operator()
    found = 0
    for space in spaces(op):
        for schedule in space.preferred():
            try:
                program = space.instantiate(schedule)
            except IllegalSchedule:
                continue
            found += 1
            names = [x.attr for f in program.facts for x in leaves(f, "param")]
            assert not any("aligned(m," in str(n) for n in names)
    assert found > 1
