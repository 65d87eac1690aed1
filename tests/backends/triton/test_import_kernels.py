"""Right kernels in everyday style: all import, mean what their operator says, and are safe."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from support import imported as candidates

from opwright.ir.tilecheck import check_program
from opwright.ir.tiletext import parse_program, show_program
from opwright.verify.context import Context
from opwright.verify.gates import safety


@pytest.mark.parametrize("name", candidates.NAMES)
def test_an_imported_kernel_computes_its_operator(name: str) -> None:
    program = candidates.program_of(name)
    check_program(program)
    op = candidates.operator_of(name, candidates.plan_of(name))
    for sizes in candidates.SIZES[name]:
        assert candidates.differences(program, op, sizes) == [], sizes


@pytest.mark.parametrize("name", candidates.NAMES)
def test_an_imported_kernel_is_safe_for_all_shapes(name: str) -> None:
    program = candidates.program_of(name)
    op = candidates.operator_of(name, candidates.plan_of(name))
    records = safety(program, Context.of(op))
    assert [(r.id, r.status, r.reason) for r in records if r.status != "PROVED"] == []


@pytest.mark.parametrize("name", candidates.NAMES)
def test_an_imported_kernel_has_a_text_and_lines(name: str) -> None:
    program = candidates.program_of(name)
    text = show_program(program)
    assert show_program(parse_program(text)) == text
    for k in program.kernels:
        assert k.order == "lane"
        assert all(v.startswith("kernel.py:") for v in k.lines.values())
