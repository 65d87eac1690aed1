"""What is printed reads back as what it was printed from, up to its normal form: shipped programs
of the spaces, and random ones. OPWRIGHT_RANDOM_PROGRAMS sets how many of those (default 25)."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest
from support.operators import row_sum
from support.random_tiles import joined, random_program, the_operator
from support.shipped import SPECS

from opwright.backends.triton.importer import import_program
from opwright.backends.triton.plan import make_plan, print_for
from opwright.backends.triton.text import PrintError
from opwright.compiler.block_spaces import spaces
from opwright.compiler.elaborate import load_spec
from opwright.ir.expr import leaves
from opwright.ir.launch import bind_plan
from opwright.ir.normal import normal_form
from opwright.ir.op import Operator
from opwright.ir.tile import Check, TileProgram, statements
from opwright.verify.context import Context
from opwright.verify.gates import safety

COUNT = int(os.environ.get("OPWRIGHT_RANDOM_PROGRAMS", "25"))
BATCH = 25  # programs that one process compiles
SHAPES = SPECS.parent / "tests" / "compiler" / "data" / "shapes.op"
FILES = {p.stem: p for p in SPECS.rglob("*.op")}
# one or two for each kind of space
SOME = ("argmax", "causal_attention", "cross_entropy", "cumsum", "matmul", "rope", "softmax")


def read_back(program: TileProgram, op: Operator) -> TileProgram:
    bound = bind_plan(make_plan(program, op, "sm_90"), op)
    return import_program(print_for(program, op), bound, "kernel.py")


def first_of_spaces(op: Operator) -> Iterable[TileProgram]:
    for space in spaces(op):
        yield space.instantiate(space.preferred()[0])


@pytest.mark.parametrize("name", SOME)
def test_programs_of_spaces_read_back(name):
    op = load_spec(FILES[name]).operator()
    for program in first_of_spaces(op):
        assert normal_form(read_back(program, op)) == normal_form(program)


@pytest.mark.parametrize("name", ["scan_state", "rounding", "integers", "window"])
def test_programs_of_shapes_read_back(name):
    op = load_spec(SHAPES).operator(name)
    for program in first_of_spaces(op):
        assert normal_form(read_back(program, op)) == normal_form(program)


@pytest.mark.parametrize("start", range(0, COUNT, BATCH))
def test_random_programs_read_back(start):
    op = the_operator()
    groups: dict[object, list[TileProgram]] = {}
    for seed in range(start, min(start + BATCH, COUNT)):
        program = random_program(seed, op)
        try:
            print_for(program, op)
        except PrintError:  # asks for what the language has not
            continue
        groups.setdefault(program.facts, []).append(program)
    assert groups
    for programs in groups.values():
        whole = joined(programs)
        assert normal_form(read_back(whole, op)) == normal_form(whole)


def test_a_number_that_memory_narrows_needs_no_check():
    """What is stored is the number modulo 2^bits, in the text as in the program."""
    op = load_spec(FILES["quantize_rows"]).operator()
    for program in first_of_spaces(op):
        found = read_back(program, op)
        assert normal_form(found) == normal_form(program)
        checks = [s for k in found.kernels for s in statements(k.body) if isinstance(s, Check)]
        assert not any(leaves(s.cond, "value") for s in checks)


def test_dense_buffers_are_seen_as_one_axis_on_request():
    op = row_sum()
    program = list(first_of_spaces(op))[1]
    bound = bind_plan(make_plan(program, op, "sm_90"), op)
    found = import_program(print_for(program, op), bound, "kernel.py", flat=["x"])
    (x,) = (b for b in found.buffers() if b.name == "x")
    assert len(x.shape) == 1
    assert {r.status for r in safety(found, Context.of(op))} == {"PROVED"}


def test_different_programs_read_back_as_different_ones():
    op = row_sum()
    forms = {normal_form(read_back(p, op)) for p in first_of_spaces(op)}
    assert len(forms) == len(list(first_of_spaces(op)))
