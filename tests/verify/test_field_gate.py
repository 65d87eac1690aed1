"""Gate G4: right programs are TESTED, seeded faults are REFUTED, approximations are neither."""

from __future__ import annotations

import pytest
from support.shipped import SPECS

from opwright.compiler import block_spaces, spaces
from opwright.compiler.elaborate import load_spec, parse_spec
from opwright.ir.op import Operator
from opwright.ir.record import Record
from opwright.ir.tile import TileProgram
from opwright.ir.tiletext import parse_program, show_program
from opwright.search.calls import edges
from opwright.verify.field_gate import field_gate


def operator(name: str) -> Operator:
    (path,) = SPECS.rglob(f"{name}.op")
    return load_spec(path).operator()


def program(op: Operator, backend: str, space: str) -> TileProgram:
    found = spaces.spaces(op, 8) if backend == "cpp" else block_spaces.spaces(op)
    (one,) = [s for s in found if s.name == space]
    return one.instantiate(one.preferred()[0])


def judged(p: TileProgram, op: Operator, weak: str = "") -> list[Record]:
    return field_gate(p, op, "kernel.x", edges(p), weak)


RIGHT = [
    ("softmax", "cpp", "row"),
    ("softmax", "triton", "once_loop"),
    ("layernorm", "triton", "loop"),
    ("matmul", "cpp", "fallback"),
    ("causal_attention", "triton", "stream"),
]


@pytest.mark.parametrize(("name", "backend", "space"), RIGHT)
def test_right_programs_are_tested(name: str, backend: str, space: str) -> None:
    op = operator(name)
    records = judged(program(op, backend, space), op)
    assert [r.id for r in records] == [f"G4.{t.name}" for t in op.outputs]
    assert {r.status for r in records} == {"TESTED"}, records[0].reason
    assert "error probability" in records[0].reason


WRONG = [
    # a sum that is not moved to the new anchor: right where the extreme is in the first block
    ("softmax", "triton", "once_loop", "t_16: f32[n] = add t_9 t_15",
     "t_16: f32[n] = add acc_1_c t_15"),
    ("softmax", "triton", "once_loop", "t_27: f32[n] = mul acc_1_r t_26",
     "t_27: f32[n] = mul acc_1_r acc_1_r"),
    ("softmax", "triton", "once_loop", "start_1 + n < N else 0",
     "start_1 + n < N - 1 else 0"),
    # accumulators: not what a sum starts from
    ("layernorm", "triton", "loop", "acc_1: f32[n] = full 0.0",
     "acc_1: f32[n] = full 1.0"),
    # epsilon beside the root
    ("layernorm", "triton", "loop", "t_18: f32 = rsqrt t_17", "t_18: f32 = add t_13 t_11"),
    # masked lanes without a value
    ("layernorm", "triton", "loop", "x: f32[n] = load x[p0, start + n] if start + n < N else 0",
     "x: f32[n] = load x[p0, start + n] if start + n < N"),
    ("causal_attention", "triton", "stream", "t_13: f32[m] = mul acc_1_c t_12",
     "t_13: f32[m] = add acc_1_c t_12"),
    ("causal_attention", "triton", "stream", "t_11: f32[m] = sub acc_c t_10",
     "t_11: f32[m] = sub t_10 acc_c"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "backend", "space", "right", "wrong"), WRONG)
def test_faults_are_refuted_with_a_call_that_shows_them(
    name: str, backend: str, space: str, right: str, wrong: str
) -> None:
    op = operator(name)
    text = show_program(program(op, backend, space))
    assert right in text
    records = judged(parse_program(text.replace(right, wrong, 1)), op)
    (refuted,) = [r for r in records if r.status == "REFUTED"]
    assert refuted.counterexample is not None
    assert refuted.counterexample["sizes"]


SPEC = """opwright "0.1"
op told @ 1.0 {
  dims N
  where N >= 1
  input x: f32[N]
  output y: f32[N]
  requires finite: all[j: N](-10 < x[j] < 10)
  tolerance versus f64 { f32: abs 1e-3 }
  def { y[i] = %s }
}"""
PROGRAM = """program told
sizes N
kernel k0
  grid (N + 7) // 8
  in x: f32[N]
  out y: f32[N]
  axis n = 8
  body
    v: f32[n] = load x[p0 * 8 + n] if p0 * 8 + n < N else 0
%s
    st: store y[p0 * 8 + n] if p0 * 8 + n < N = r
"""


def told(meaning: str, *lines: str, weak: str = "") -> Record:
    op = parse_spec(SPEC % meaning).operator()
    text = PROGRAM % "\n".join(f"    {line}" for line in lines)
    (record,) = judged(parse_program(text), op, weak)
    return record


def test_a_difference_within_the_tolerance_is_unknown_and_said() -> None:
    found = told("exp(x[i])", "c: f32 = full 1.0000002", "e: f32[n] = exp v", "r: f32[n] = mul e c")
    assert found.status == "UNKNOWN"
    assert "differs over the reals" in found.reason
    assert told("x[i]", "c: f32 = full 1.01", "r: f32[n] = mul v c").status == "REFUTED"


def test_a_branch_that_only_negative_numbers_take() -> None:
    right = ("z: f32 = full 0.0", "r: f32[n] = max v z")
    assert told("max(x[i], 0.0)", *right).status == "TESTED"
    assert told("max(x[i], 0.0)", "r: f32[n] = abs v").status == "REFUTED"


def test_lanes_that_run_on_their_own_are_not_vouched_for() -> None:
    found = told("2.0 * x[i]", "r: f32[n] = add v v", weak="G3.races.k0 is UNKNOWN")
    assert found.status == "UNKNOWN"
    assert "G3.races.k0" in found.reason


def test_what_is_not_known_of_a_function_is_not_guessed() -> None:
    found = told("2.0 * x[i]", 'r: f32[n] = opaque "f" v')
    assert found.status == "UNKNOWN"
    assert "nothing is known" in found.reason


def test_an_element_that_is_left_out_is_refuted() -> None:
    op = parse_spec(SPEC % "x[i]").operator()
    text = (PROGRAM % "    r: f32[n] = add v v").replace("(N + 7) // 8", "N // 8")
    (found,) = judged(parse_program(text), op)
    assert found.status == "REFUTED"
