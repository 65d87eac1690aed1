"""CUDA texts read back and judged: right kernels are proved, wrong ones are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.cuda_kernels import CASES, Case

from opwright.compiler.candidates import read
from opwright.compiler.importing import static_gates
from opwright.compiler.stored import stored_form
from opwright.ir.record import Record, weakest
from opwright.ir.tiletext import parse_program, show_program
from opwright.spec_files import open_spec

pytest.importorskip("clang.cindex", reason="libclang reads CUDA texts")


def judge(case: Case, folder: Path, source: str = "", plan: dict[str, object] | None = None):
    """What is known of a candidate without running it."""
    (folder / "spec.op").write_text(case.spec)
    (folder / "candidate.json").write_text(json.dumps({**case.plan(), **(plan or {})}))
    (folder / "kernel.cu").write_text(source or case.source)
    spec = open_spec(folder / "spec.op")
    op = stored_form(spec.operator(case.op, {}))
    return static_gates(read(folder, op), op)


def gate(records: tuple[Record, ...], kind: str) -> str:
    return weakest(r.status for r in records if r.kind == kind)


@pytest.mark.parametrize("name", list(CASES))
def test_right_kernels_are_proved(name: str, tmp_path: Path) -> None:
    static = judge(CASES[name], tmp_path)
    weak = [f"{r.id} {r.status} {r.reason}" for r in static.records if r.status != "PROVED"]
    assert not weak
    text = show_program(static.program)
    assert show_program(parse_program(text)) == text
