"""Random tile programs: what is printed is read back as what it was, and means the same."""

from __future__ import annotations

import os

import numpy as np
import pytest

pytest.importorskip("clang.cindex")

from support import random_cpp

from opwright.backends.cpp.importer import import_program
from opwright.backends.cpp.pieces import reads_back
from opwright.backends.cpp.plan import make_plan, print_for
from opwright.ir.expr import evaluate
from opwright.ir.interpreter import Trap, run
from opwright.ir.launch import bind_plan
from opwright.ir.normal import normal_form
from opwright.ir.tilecheck import check_program

COUNT = int(os.environ.get("OPWRIGHT_RANDOM", "10"))
SIZES = {"M": 3, "N": 5}


def back(program, op, seed):
    source = print_for(program, op, random_cpp.level(program, seed))
    found = import_program(source, bind_plan(make_plan(program, op), op), "kernel.cpp")
    check_program(found)
    return found


def results(program, seed):
    """What a program computes, or how it stops."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for b in program.buffers():
        shape = [evaluate(e, SIZES) for e in b.shape]
        if b.role == "in" and b.dtype.kind == "real":
            arrays[b.name] = rng.integers(-8, 9, shape) / 4
        elif b.role == "in":
            arrays[b.name] = rng.integers(0, 2 if b.dtype.kind == "bool" else 9, shape)
    try:
        with np.errstate(all="ignore"):
            return run(program, SIZES, arrays)
    except Trap as t:
        return t.kind


def test_random_programs_come_back_as_they_were(cpp):
    """As they are, or, where unrolled pieces leave nothing to join them by, piece by piece."""
    same = whole = 0
    for seed in range(COUNT):
        program = random_cpp.make(seed)
        op = cpp.operator(program)
        source = print_for(program, op, random_cpp.level(program, seed))
        bound = bind_plan(make_plan(program, op), op)
        joined = normal_form(back(program, op, seed)) == normal_form(program)
        whole += joined
        same += joined or reads_back(source, bound, "kernel.cpp", program)
    assert same >= COUNT * 98 // 100
    assert whole >= COUNT // 3


@pytest.mark.parametrize("seed", range(0, COUNT, 2))
def test_random_programs_mean_the_same_when_they_come_back(seed, cpp):
    program = random_cpp.make(seed, total=True)
    wanted = results(program, seed)
    got = results(back(program, cpp.operator(program), seed), seed)
    if isinstance(wanted, str):
        return
    for name, x in wanted.items():
        np.testing.assert_allclose(got[name], x, rtol=1e-6, atol=1e-6, err_msg=name)
