"""Kernels in the style of projects, drafted from their module and judged for all shapes; each with
one small mistake that must not be proved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

from opwright.backends.triton.signature import signature
from opwright.backends.triton.slicing import cut
from opwright.compiler.candidates import Candidate
from opwright.compiler.elaborate import parse_spec
from opwright.compiler.importing import Static, static_gates
from opwright.compiler.later_gates import field_records
from opwright.compiler.planning import Given, draft
from opwright.ir.launch import with_room
from opwright.ir.op import Operator
from opwright.ir.plan import from_json

FILE = Path(__file__).parent / "project" / "kernels.py"
FLAT = "dims N\n input x: f32[N]\n output y: f32[N]\n def {{ y[i] = {} }}"
ROWS = (
    "dims B, N\n where 1 <= N, N <= 128\n input x: f32[B, N]{}\n output y: f32[{}]\n def {{ {} }}"
)


@dataclass(frozen=True)
class Case:
    """A kernel, what it computes, what the person says, and a mistake in it."""

    body: str
    args: dict[str, str]
    const: dict[str, Any]
    grid: tuple[str, ...]
    mistake: tuple[str, str]
    function: bool = True  # G5 is proved
    facts: tuple[str, ...] = ()


N1024 = {"n": "i32(N)"}
FLAT_GRID = ("(N + 1023) // 1024",)
CASES = {
    "scaled_tanh": Case(
        FLAT.format("0.5 * tanh(x[i])"), N1024, {"BLOCK": 1024}, FLAT_GRID,
        ("tl.program_id(axis).to(tl.int64)", "tl.program_id(axis) + 1"),
    ),
    "static_parts": Case(
        FLAT.format("x[i] * x[i]"), N1024, {"PARTS": 4, "BLOCK": 256}, FLAT_GRID,
        ("part * BLOCK", "part * (BLOCK - 1)"),
    ),
    "early_return": Case(
        ROWS.format("", "B", "y[b] = max[j: N](x[b, j])"),
        {"rows": "i32(B)", "cols": "i32(N)", "stride": "i32(stride(x, 0))"}, {"BLOCK": 128},
        ("B + 7",), ("if row >= rows", "if row > rows"),
        facts=("stride(x, 1) == 1",),
    ),
    "branch_values": Case(
        "dims N\n param mode: i32 = 0\n input x: f32[N]\n output y: f32[N]\n"
        " def { y[i] = if mode == 0 then x[i] + 1 else x[i] * 2 }",
        N1024, {"BLOCK": 1024}, FLAT_GRID, ("if mode == 0", "if mode != 0"),
    ),
    "tuple_helper": Case(
        ROWS.format(", w: f32[N]", "B, N", "y[b, j] = x[b, j] * w[j]"), {"width": "N"},
        {"BLOCK": 64}, ("B * ((N + 63) // 64)",), ("pid // blocks", "pid // (blocks + 1)"),
    ),
    "grid_stride": Case(
        ROWS.format("", "B", "y[b] = sum.f32[j: N](x[b, j])"), {"rows": "i32(B)", "cols": "i32(N)"},
        {"BLOCK": 128}, ("min(B, 64)",), ("(pl.wide_program_id(0), rows", "(1, rows"),
    ),
    "long_indexing": Case(
        FLAT.format("-x[i]"), {"n": "N"}, {"BLOCK": 1024, "LONG": True}, FLAT_GRID,
        ("pid.to(tl.int64) * BLOCK", "(pid * BLOCK * BLOCK).to(tl.int64) // BLOCK"),
    ),
    "optional_bias": Case(
        ROWS.format(", bias: f32[N]", "B, N", "y[b, j] = x[b, j] + bias[j]"),
        {"rows": "B", "cols": "i32(N)"}, {"BLOCK": 128, "gate_ptr": None}, ("B",),
        ("x += tl.load(bias_ptr + offs", "x += tl.load(bias_ptr + 1 + offs"),
    ),
    "spoken_masks": Case(
        "dims M, N\n input x: f32[M, N]\n output y: f32[M, N]\n"
        " def { y[i, j] = if i <= j then x[i, j] else 0 }",
        {"m": "i32(M)", "n": "i32(N)"}, {"TILE": 64}, ("(M + 3) // 4",),
        ("rows < m and cols < n", "rows < m or cols < n"),
    ),
    "chosen": Case(
        FLAT.format("x[i] * sigmoid(x[i])"), N1024, {"BLOCK": 512, "KIND": "silu"},
        ("(N + 511) // 512",), ("x * tl.sigmoid(x)", "tl.sigmoid(x)"),
    ),
}  # fmt: skip


def drafted(name: str, mistake: tuple[str, str] | None = None) -> tuple[Candidate, Operator]:
    case = CASES[name]
    found = cut(FILE, name, {})
    source = found.source
    if mistake is not None:
        old, new = mistake[0].replace("pl.", ""), mistake[1].replace("pl.", "")
        assert old in source
        source = source.replace(old, new, 1)
    tolerance = "tolerance versus f64 { f32: abs 1e-5 rel 1e-5 }"
    text = f'opwright "0.1"\n\nop {name} @ 1.0 "x" {{\n {case.body}\n {tolerance}\n}}\n'
    op = parse_spec(text).operator()
    given = Given(case.args, case.const, case.grid, (), case.facts)
    made = draft(op, signature(source, name), "triton", "sm_90", "kernel.py", given)
    assert made.holes == ()
    return Candidate(with_room(from_json(made.document), op), source), op


def judged(name: str, mistake: tuple[str, str] | None = None) -> Static:
    return static_gates(*drafted(name, mistake))


@pytest.mark.parametrize("name", CASES)
def test_a_right_kernel_is_proved(name: str) -> None:
    static = judged(name)
    weak = [(r.id, r.status, r.reason) for r in static.records if r.status != "PROVED"]
    assert [w for w in weak if CASES[name].function or not w[0].startswith("G5")] == []


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_not(name: str) -> None:
    static = judged(name, CASES[name].mistake)
    gates = {g: static.gate(g) for g in ("G2", "G3", "G5")}
    assert set(gates.values()) != {"PROVED"}, gates


def test_a_load_without_a_fill_is_no_mistake_of_its_own() -> None:
    """What rests on zeros in masked lanes says so, and no gate that poisons them refutes it."""
    c, op = drafted("grid_stride", ("mask=mask, other=0.0", "mask=mask"))
    static = static_gates(c, op)
    assert static.gate("G2") == "ASSUMED"
    (record,) = field_records(c, static, op)
    assert record.status != "REFUTED" and "zero fill of masked loads" in record.assumptions
