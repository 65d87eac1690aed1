"""Tiles in shared memory and vectors of memory, as they are printed, and near misses of them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from opwright.backends.cuda.build import compile_for, compiler
from opwright.backends.cuda.importer import import_program
from opwright.backends.cuda.layout import layout_of
from opwright.backends.cuda.staging import slots_of, staged_of
from opwright.backends.cuda.vectors import Vectors
from opwright.compiler import block_spaces
from opwright.compiler.candidates import Candidate
from opwright.compiler.cuda_blocks import printed
from opwright.compiler.elaborate import load_spec
from opwright.compiler.execution import execute
from opwright.compiler.importing import static_gates
from opwright.compiler.stored import stored_form
from opwright.compiler.transfer import load_seed, seed_space
from opwright.ir.dtypes import F32
from opwright.ir.expr import call, const, param, size, var
from opwright.ir.launch import bind_plan
from opwright.ir.op import Operator
from opwright.ir.plan import load
from opwright.ir.record import Record
from opwright.ir.tile import Axis, Buffer, Builder, TileProgram
from opwright.ir.tiletext import axes_of
from opwright.search.space import parse
from opwright.spec_files import open_spec, pick_operator
from opwright.verify.context import Context
from opwright.verify.prove import prove

pytest.importorskip("clang.cindex", reason="libclang reads CUDA texts")

LIBRARY = Path(__file__).parents[3] / "specs"
DOT = "dot(tile=(32, 32, 32), group=0, even=false, warps=4, stages=2, aligned={})"
WALK = "stream(rows=16, block=16, hold=16, even=false, split=1, warps=4, stages=2, aligned=true)"
PRODUCT = """opwright "0.1"

op product @ 1.0 {
  dims  M, N, K
  where M <= 40, N <= 40, K >= 1, K <= 48
  input a: f32[M, K], b: f32[K, N]
  output c: f32[M, N]
  def { c[i, j] = sum.f32[k: K](a[i, k] * b[k, j]) }
}
"""
WIDE = "pointwise(rows=1, block=1024, even=false, warps=4, aligned=true)"


@cache
def operator(name: str) -> Operator:
    spec = open_spec(LIBRARY / f"{name}.op")
    return stored_form(spec.operator(pick_operator(spec, None), {}))


@cache
def program(name: str, schedule: str) -> TileProgram:
    wanted = parse(schedule)
    found = next(
        s for s in block_spaces.spaces(operator(name)) if s.name == schedule.partition("(")[0]
    )
    return found.instantiate(wanted)


@cache
def candidate(name: str, schedule: str) -> Candidate:
    return printed(program(name, schedule), operator(name), "sm_90")


def proved(c: Candidate, op: Operator) -> list[Record]:
    """G2 and G3 of what is read of a text."""
    found = import_program(c.source, bind_plan(c.plan, op), "kernel.cu")
    return prove(found, replace(Context.of(op), replay=False))


def judged(name: str, schedule: str, old: str = "", new: str = "") -> list[Record]:
    """The same with the last `old` of its text replaced."""
    c = candidate(name, schedule)
    head, found, tail = c.source.rpartition(old) if old else (c.source, "", "")
    assert not old or found
    return proved(Candidate(c.plan, head + new + tail), operator(name))


def weak(found: list[Record]) -> list[str]:
    return [f"{r.id} {r.status} {r.reason}" for r in found if r.status != "PROVED"]


def test_factors_lie_in_shared_memory() -> None:
    text = candidate("linalg/matmul", DOT.format("true")).source
    assert "__shared__ __align__(16) float tile_a[32][36]" in text  # written across: padded
    assert "__shared__ __align__(16) float tile_b[32][32]" in text
    assert "*reinterpret_cast<const float4 *>(&b[" in text
    assert text.count("__syncthreads();") == 2
    plain = candidate("linalg/matmul", DOT.format("false")).source
    assert "reinterpret_cast<const float4 *>(&b[" not in plain


def test_contractions_are_proved() -> None:
    assert not weak(judged("linalg/matmul", DOT.format("false")))


def test_contractions_run(tmp_path: Path) -> None:
    """What the processor's shim computes with shared tiles and vectors."""
    (tmp_path / "product.op").write_text(PRODUCT)
    op = load_spec(tmp_path / "product.op").operator(None, None)
    space = next(s for s in block_spaces.spaces(op) if s.name == "dot")
    c = printed(space.instantiate(parse(DOT.format("true"))), op, "sm_90")
    found = static_gates(c, op)
    assert found.safe, found.records
    ran = execute(c, found, op, "x86-64-v3", 0)
    assert {r.status for r in ran if r.kind == "G6"} == {"TESTED"}, ran


@pytest.mark.parametrize(
    ("old", "new", "gate"),
    [
        ("    __syncthreads();\n", "", "G3"),  # before what others wrote is read
        ("at_k < 32", "at_k < 33", "G2"),
        ("tile_b[32][32]", "tile_b[32][33]", "G2"),  # rows that begin between vectors
        ("turn_2 < 2", "turn_2 < 1", "G2"),  # rows that nobody writes
    ],
)
def test_near_misses_are_not_proved(old: str, new: str, gate: str) -> None:
    found = judged("linalg/matmul", DOT.format("true"), old, new)
    assert gate in {r.kind for r in found if r.status != "PROVED"}


def test_a_walk_multiplies_twice_and_shares_its_threads() -> None:
    """Columns of both results are counted by the same threads."""
    p = program("attention/attention", WALK)
    staged = staged_of(p.kernels[0])
    names = [{a.name for a in slot} for slot in slots_of(staged, axes_of(p.kernels[0]))]
    assert {"m"} in names and {"n", "d0"} in names
    layout = layout_of(p.kernels[0], p.placements[0], axes_of(p.kernels[0]))
    n, d = (layout.digits[a] for a in sorted(layout.digits, key=lambda a: a.name) if a.name != "m")
    assert (n.step, n.threads) == (d.step, d.threads)
    assert len(staged.remade) == 3 and len(staged.factors) == 4  # one is what threads hold
    assert not weak(judged("attention/attention", WALK))


def test_a_kernel_from_elsewhere_has_its_tiles_in_shared_memory() -> None:
    pytest.importorskip("triton")
    folder = LIBRARY.parent / "tests" / "backends" / "triton" / "candidates" / "attention_flash"
    op = load_spec(LIBRARY / "nn" / "causal_attention.op").operator(None, load(folder).types)
    space = seed_space(load_seed(folder, op.name), op, "cuda", ("sm_90",))
    c = printed(space.instantiate(space.preferred()[0]), op, "sm_90")
    assert c.source.count("__shared__") == 4
    assert not weak(proved(c, op))


@pytest.mark.skipif(not compiler(), reason="no nvcc")
def test_vectors_of_memory_are_proved_and_take_no_more() -> None:
    c = candidate("nn/relu", WIDE)
    found = static_gates(c, operator("nn/relu"))
    assert found.safe and found.gate("G5") == "PROVED"
    assert "make_float4" in c.source and "N % 4 == 0" in c.plan.facts
    (made,) = compile_for(c.source, "sm_90").resources.values()
    assert made["spill_stores"] == 0 and made["registers"] <= 32


N, K = size("N"), size("K")
LANE = Axis("n", 64)
X = Buffer("x", "in", F32, (K, N))
ALIGNED = param("aligned(x, 16)", "bool")
FOURS = call("eq", N % 4, 0)


@pytest.mark.parametrize(
    ("facts", "column", "mask", "whole"),
    [
        ((ALIGNED, FOURS), LANE.lane, None, True),
        ((ALIGNED, FOURS), LANE.lane + var("i") * 8, None, True),
        ((ALIGNED, FOURS), LANE.lane, call("lt", LANE.lane, N), True),
        ((ALIGNED, FOURS), LANE.lane, call("lt", var("i"), K), True),
        ((FOURS,), LANE.lane, None, False),  # starts anywhere
        ((ALIGNED,), LANE.lane, None, False),  # rows start anywhere
        ((ALIGNED, call("eq", N % 6, 0)), LANE.lane, None, False),
        ((ALIGNED, FOURS), LANE.lane + 2, None, False),
        ((ALIGNED, FOURS), LANE.lane + var("i") * 2, None, False),
        ((ALIGNED, FOURS), LANE.lane * 2, None, False),
        ((ALIGNED, FOURS), 64 - LANE.lane, None, False),
        ((ALIGNED, FOURS), LANE.lane % 32, None, False),
        ((ALIGNED, FOURS), LANE.lane, call("lt", LANE.lane, K), False),  # ends within a vector
        ((ALIGNED, FOURS), LANE.lane, call("lt", LANE.lane * 2, N), False),
        ((ALIGNED, FOURS), LANE.lane, call("le", LANE.lane, N), False),
    ],
)
def test_what_is_a_vector(facts, column, mask, whole: bool) -> None:
    k = Builder("k", (const(1),))
    k.loop("i", 0, K, 1, [], lambda v: (k.load(X, v, LANE.lane), [])[1])
    vectors = Vectors(facts, {}, k.kernel())
    given = call("le", 0, 0) if mask is None else mask
    assert vectors.whole(X, (var("i"), column), given, LANE, 4) is whole
