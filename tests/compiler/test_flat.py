"""Operators over whole arrays as ones over a single axis, whose fold several programs share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from opwright.backends.cpp.run import Library
from opwright.compiler import block_spaces, spaces
from opwright.compiler.candidates import printed
from opwright.compiler.elaborate import elaborate
from opwright.compiler.flatten import flatten
from opwright.compiler.importing import static_gates
from opwright.compiler.toolbox import evaluation_tools
from opwright.grammar.parser import parse
from opwright.ir.interpreter import run
from opwright.ir.op import Operator
from opwright.ir.reference import reference
from opwright.ir.tile import TileProgram
from opwright.verify.context import Context
from opwright.verify.gates import safety

HEAD = """
opwright "0.1"
op whole @ 1.0 {
  dims B, N
  where B >= 1, N >= 1
  input x: f32[B, N], y: f32[B, N]
  output %s
  def {
%s
  }
}
"""
CASES = {
    "loss": (
        "t: f32",
        "t = sum.f32[b: B, j: N]((x[b, j] - y[b, j]) * (x[b, j] - y[b, j])) / f32(B * N)",
    ),
    "scaled": (
        "z: f32[B, N]",
        "n = sqrt(sum.f32[b: B, j: N](x[b, j] * x[b, j]))\nz[b, j] = x[b, j] / (n + 1) + y[b, j]",
    ),
    "guarded": ("t: f32", "t = max[b: B, j: N | x[b, j] > 0](y[b, j])"),
}
SHAPED = {
    "rows": ("t: f32[B]", "t[b] = sum.f32[j: N](x[b, j])"),
    "first": ("t: f32", "t = sum.f32[b: B, j: N](x[b, j] * y[0, j])"),
    "place": ("t: f32", "t = sum.f32[b: B, j: N](x[b, j] * f32(j))"),
    "best": ("t: i64", "t = argmax[j: N](x[0, j])"),
}
SIZES = [{"B": 3, "N": 41}, {"B": 7, "N": 9001}, {"B": 1, "N": 1}]


def operator(outputs: str, body: str) -> Operator:
    text = HEAD % (outputs, body)
    return elaborate(parse(text, "whole.op"), "whole", filename="whole.op", source=text)


def programs(op: Operator) -> Iterator[TileProgram]:
    for space in (*spaces.spaces(op, 8), *block_spaces.spaces(op)):
        schedule = space.preferred()[0]
        if not space.name.startswith("dense"):
            continue
        for name, values in space.holes.items():
            if name.endswith("split"):
                schedule = schedule.changed(name, 16384 if 0 in values else 8)
            elif name == "aligned":
                schedule = schedule.changed(name, False)
        yield space.instantiate(schedule)


def arrays(sizes: dict[str, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {n: rng.standard_normal((sizes["B"], sizes["N"])) for n in "xy"}


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_fold_of_all_elements_is_flat_and_means_the_same(name):
    op = operator(*CASES[name])
    ran = 0
    for program in programs(op):
        assert {r.status for r in safety(program, Context.of(op))} == {"PROVED"}
        for sizes in SIZES:
            given = arrays(sizes)
            got = run(program, sizes, given)
            for n, want in reference(op, given, {}, {}).items():
                found = np.asarray(got[n]).reshape(np.shape(want))
                np.testing.assert_allclose(found, want, rtol=1e-9, atol=1e-9)
        ran += 1
    assert ran == 2


@pytest.mark.parametrize("name", sorted(SHAPED))
def test_what_depends_on_the_shape_stays(name):
    assert flatten(operator(*SHAPED[name])) is None


def test_one_row_is_shared_by_programs_and_reads_back():
    op = operator(*CASES["loss"])
    program = next(programs(op))
    assert [k.name for k in program.kernels] == ["k0_parts", "k0"]
    found = static_gates(printed(program, op, "x86-64-v3"), op)
    assert {r.status for r in found.records if r.kind != "G5"} == {"PROVED"}
    kit = evaluation_tools(op, "x86-64-v3").tools
    library = Library(kit.build(kit.emit(program)).path, op)
    for sizes in SIZES:
        given = {n: a.astype(np.float32) for n, a in arrays(sizes).items()}
        got = {"t": np.full((), np.nan, np.float32)}
        library.run(given, got)
        np.testing.assert_allclose(got["t"], reference(op, given, {}, {})["t"], rtol=1e-5)
