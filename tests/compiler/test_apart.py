"""Elements of a contraction at places that data gives: made where they are read, so that walks are
all that is left of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest

from opwright.compiler import block_spaces
from opwright.compiler import spaces as cpu
from opwright.compiler.apart import apart
from opwright.compiler.autodiff import gradient
from opwright.compiler.elaborate import parse_spec
from opwright.compiler.strategies.group import is_fold
from opwright.ir.interpreter import run
from opwright.ir.op import Operator
from opwright.ir.reference import reference
from opwright.ir.tile import TileProgram
from opwright.search.space import Space
from opwright.verify.context import Context
from opwright.verify.gates import safety

TEXT = """opwright "0.1"
op chosen @ 1.0 {
  dims B, V, D
  where V >= 1
  input x: f32[B, D], w: f32[V, D], t: i64[B]
  output loss: f32[B]
  requires in_range: all[b: B](0 <= t[b] and t[b] < V)
  requires finite: all[v: V, d: D](-inf < w[v, d] < inf)
  requires limited: all[b: B, d: D](-inf < x[b, d] < inf)
  def {
    s[b, v] = sum[d: D](x[b, d] * w[v, d])
    m[b] = max[v: V](s[b, v])
    z[b] = sum[v: V](exp(s[b, v] - m[b]))
    loss[b] = %s
  }
}"""
PLAIN = "m[b] + log(z[b]) - s[b, t[b]]"
SIZES = [{"B": 7, "V": 33, "D": 5}, {"B": 16, "V": 16, "D": 16}, {"B": 1, "V": 1, "D": 1}]


def operator(loss: str = PLAIN, wanted: str = "") -> Operator:
    op = parse_spec(TEXT % loss).operator("chosen", {})
    return gradient(op, wanted.split()) if wanted else op


def values(op: Operator, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    shapes = {t.name: [sizes[a.hi.attr] for a in t.axes] for t in op.inputs}
    made = {n: rng.standard_normal(s) for n, s in shapes.items()}
    return made | {"t": rng.integers(0, sizes["V"], shapes["t"])}


def walks(op: Operator) -> Iterator[tuple[Space, TileProgram]]:
    for found in (cpu.spaces(op, 8), block_spaces.spaces(op)):
        (space,) = [s for s in found if s.name.startswith(("walk", "stream"))]
        schedule = space.preferred()[0]
        small = {"rows": 16, "block": 16, "hold": 32, "even": False}
        chosen = {k: small.get(k.rpartition(".")[2], v) for k, v in schedule.decisions}
        if space.name.startswith("walk"):
            chosen = dict(schedule.decisions)
        yield space, space.instantiate(replace(schedule, decisions=tuple(chosen.items())))


@pytest.mark.parametrize("wanted", ["", "x w"])
def test_no_kernel_keeps_the_contraction(wanted: str) -> None:
    op = operator(wanted=wanted)
    for space, program in walks(op):
        assert {r.status for r in safety(program, Context.of(op))} == {"PROVED"}, space.name
        for k in program.kernels:
            for b in k.buffers:
                sizes = [e.attr for e in b.shape if e.op == "size"]
                assert b.role != "plan" or not {"B", "V"} <= set(sizes), (space.name, b)
        for given in SIZES:
            arrays = values(op, given)
            got = run(program, given, arrays, {})
            for n, want in reference(op, arrays, {}, {}).items():
                np.testing.assert_allclose(got[n], want, rtol=1e-9, atol=1e-9, err_msg=space.name)


def test_elements_read_at_one_place_are_made_once() -> None:
    made = apart(operator("m[b] + s[b, t[b]] - s[b, t[b]] * s[b, t[b]]"))
    assert made is not None
    assert sum(is_fold(t) and t.name.startswith("s_at") for t in made.tensors) == 1


@pytest.mark.parametrize(
    "loss", ["m[b] + z[b]", "if t[b] < 2 then s[b, t[b]] else m[b] + z[b]", "m[b] * s[b, 0]"]
)
def test_what_no_data_places_or_a_condition_guards_stays(loss: str) -> None:
    assert apart(operator(loss)) is None
