"""Scratch that a text runs through in another shape than its plan declares."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("clang.cindex")

from support.written_cpp import COPY, FLAT, HEAD, IDS, operator, plan_of, statuses

from opwright.backends.cpp.importer import import_program
from opwright.ir.interpreter import run
from opwright.ir.launch import bind_plan
from opwright.ir.tilecheck import check_program

FILL = "for (int64_t e = 0; e < {fill}; e++) s[e] = 0.0f;"
USE = """
for (int64_t b = 0; b < n; b += 24)
  for (int64_t i = 0; i < 4; i++) for (int64_t j = 0; j < 6; j++)
  {{
    const int64_t at = b + i * 6 + j;
    if (at < n) {{ s[i * {row} + j] = x[at]; y[at] = s[i * {row} + j]; }}
  }}
"""


def through(shape, body):
    op = operator(COPY)
    scratch = {"s": {"dtype": "f32", "shape": shape, "scope": "program"}}
    bound = bind_plan(plan_of(op, ["1"], ["x", "y", "s", "N"], FLAT, scratch=scratch), op)
    head = f'extern "C" void k(const float *x, float *y, float *s, int64_t n{IDS})'
    program = import_program(f"{HEAD}{head} {{\n{body} }}", bound, "kernel.cpp")
    check_program(program)
    return op, program


@pytest.mark.parametrize(
    "shape, seen, body",
    [
        (["4", "6"], ["4", "6"], USE.format(row=6)),
        (["4", "6"], ["24"], FILL.format(fill=24) + USE.format(row=6)),
        (["2", "2", "6"], ["4", "6"], USE.format(row=6)),
        (["2", "2", "6"], ["24"], FILL.format(fill=24) + USE.format(row=6)),
        (["8", "4"], ["32"], FILL.format(fill=32) + USE.format(row=8)),
    ],
)
def test_axes_that_a_text_does_not_keep_apart_are_one(shape, seen, body):
    op, program = through(shape, body)
    (s,) = (b for b in program.kernels[0].buffers if b.name == "s")
    assert [str(n.attr) for n in s.shape] == seen
    assert statuses(op, program) == {}
    x = np.arange(50.0)
    assert np.array_equal(run(program, {"N": 50}, {"x": x})["y"], x)


@pytest.mark.parametrize(
    "shape, body",
    [
        (["4", "6"], FILL.format(fill=25) + USE.format(row=6)),
        (["2", "2", "6"], USE.format(row=7)),
        (["8", "4"], FILL.format(fill=32) + USE.format(row=9)),
    ],
)
def test_what_leaves_the_memory_is_refuted(shape, body):
    op, program = through(shape, body)
    assert "REFUTED" in statuses(op, program).values()
