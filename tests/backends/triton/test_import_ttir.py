"""TTIR as the source of a candidate: right text is proved and never called tested; changed text is
refused with a counterexample that the formulas of the text reproduce in numpy."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("triton")

from support import imported as candidates

from opwright.backends.triton.frontend import to_ttir_many
from opwright.compiler.verification import verify_operator
from opwright.ir.launch import bind_plan, with_room
from opwright.ir.plan import PlanError
from opwright.ir.record import Record, Verdict


@cache
def text_of(name: str) -> str:
    plan = candidates.plan_of(name)
    op = candidates.operator_of(name, plan)
    bound = bind_plan(with_room(plan, op), op)
    source = candidates.source_of(name)
    return "\n".join(to_ttir_many(source, "kernel.py", bound.launches, plan.target))


def verdict(folder: Path, name: str, text: str) -> Verdict:
    plan = replace(candidates.plan_of(name), source="kernel.ttir")
    (folder / "candidate.json").write_text(json.dumps(plan.to_json()))
    (folder / "kernel.ttir").write_text(text)
    return verify_operator(candidates.operator_of(name, plan), folder, "portable", "proved")


def refuted(folder: Path, name: str, old: str, new: str) -> tuple[Record, dict[str, object], str]:
    """The first refutation of a changed text, its counterexample, and the line it names."""
    text = text_of(name)
    assert text.count(old) == 1
    changed = text.replace(old, new)
    found = verdict(folder, name, changed)
    assert found.status == "REFUTED"
    record = next(r for r in found.records if r.status == "REFUTED")
    assert record.counterexample is not None
    case = dict(record.counterexample)
    file, _, line = str(case.get("line", "")).partition(":")
    if line:
        assert file == "kernel.ttir" and f"kernel.ttir:{line}" in record.reason
    return record, case, changed.splitlines()[int(line) - 1] if line else ""


@pytest.mark.parametrize("name", ["row_sum_loop", "transpose_tiles", "softmax_two_loops"])
def test_right_text_is_proved_and_not_tested(tmp_path, name):
    found = verdict(tmp_path, name, text_of(name))
    assert {r.status for r in found.records if r.kind not in ("G4", "G5", "G6", "G7")} == {"PROVED"}
    (last,) = [r for r in found.records if r.kind == "G6"]
    assert last.status == "UNKNOWN" and "agrees with the reference" in last.reason


def test_a_mask_with_another_comparison(tmp_path):
    """The columns of a row up to and including N."""
    mask = "arith.cmpi slt, %mask_20"
    record, case, line = refuted(tmp_path, "row_sum_loop", mask, mask.replace("slt", "sle"))
    assert record.id.startswith("G2.bounds") and "tt.load" in line
    rows, columns = case["sizes"]["B"], case["sizes"]["N"]
    (program,), lane = case["program"], case["lane"]
    starts = np.arange(0, columns, 64)
    row, column = program * 16 + lane["rows"], starts + lane["cols"]
    read = column[(row < rows) & (column <= columns)]
    assert case["index"] == [row, read[-1]]
    x = np.zeros((rows, columns))
    with pytest.raises(IndexError):
        x[row, read[-1]]


def test_an_address_that_advances_too_far(tmp_path):
    """65 elements from one block of 64 to the next."""
    record, case, line = refuted(tmp_path, "row_sum_loop", "dense<64>", "dense<65>")
    assert record.id.startswith("G2.bounds") and "tt.load" in line
    rows, columns = case["sizes"]["B"], case["sizes"]["N"]
    (program,), lane = case["program"], case["lane"]
    row = program * 16 + lane["rows"]
    step = np.arange(len(range(0, columns, 64)))
    live = (row < rows) & (step * 64 + lane["cols"] < columns)
    read = (step * 65 + lane["cols"])[live]
    assert case["index"] == [row, read.max()] and read.max() >= columns


def test_an_address_that_advances_too_little(tmp_path):
    """Safe, and another sum."""
    record, case, _ = refuted(tmp_path, "row_sum_loop", "dense<64>", "dense<63>")
    assert record.kind in ("G4", "G6")
    assert case["sizes"]["N"] > 64 and case["found"] != pytest.approx(case["expected"])


def test_a_stride_of_the_other_axis(tmp_path):
    """Rows of the output lie apart, and what is written is between them."""
    record, case, line = refuted(tmp_path, "transpose_tiles", "tt.splat %sym", "tt.splat %syn")
    assert record.id.startswith("G2.bounds") and "tt.store" in line
    rows, columns = case["sizes"]["N"], case["sizes"]["M"]
    own, step = case["strides"]["y, 0"], case["strides"]["y, 1"]
    j, i = np.indices((rows, columns))
    elements = set((j * own + i * step).ravel().tolist())
    assert set((j * step + i * step).ravel().tolist()) - elements
    (p, q), lane = case["program"], case["lane"]
    at = (32 * q + lane["t_l"]) * step + (32 * p + lane["i"]) * step
    assert at not in elements and at == case["index"][0] * own + case["index"][1] * step


def test_a_reduction_with_another_combination(tmp_path):
    old = "arith.addf %arg5"
    record, case, _ = refuted(tmp_path, "row_sum_loop", old, "arith.maximumf %arg5")
    assert record.kind in ("G4", "G6")
    assert case["found"] != pytest.approx(case["expected"])


def test_a_tile_that_is_not_exchanged(tmp_path):
    """What the masks leave undefined keeps it from being proved; computing it shows it wrong."""
    old = "array<i32: 1, 0>"
    record, case, _ = refuted(tmp_path, "transpose_tiles", old, "array<i32: 0, 1>")
    assert record.kind in ("G2", "G4", "G6") and case["sizes"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("%x_ptr: !tt.ptr<f32>", "%x_ptr: !tt.ptr<f16>", "not as the plan has it"),
        ("%N: i64", "%N: i32", "not as the plan has it"),
    ],
)
def test_parameters_of_other_types_are_not_understood(tmp_path, old, new, said):
    found = verdict(tmp_path, "row_sum_loop", text_of("row_sum_loop").replace(old, new))
    record = next(r for r in found.records if r.id == "G1.import")
    assert record.status == "UNKNOWN" and said in record.reason


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("@row_sum", "@other", "defines no 'row_sum'"),
        (', %stride: i64 loc("stride"(#loc))', "", "5 arguments, but row_sum"),
        ("tt.func", "tt.fun", "no function"),
    ],
)
def test_a_text_that_does_not_fit_the_plan_is_a_clear_error(tmp_path, old, new, said):
    text = text_of("row_sum_loop")
    assert old in text
    with pytest.raises(PlanError, match=said):
        verdict(tmp_path, "row_sum_loop", text.replace(old, new))
