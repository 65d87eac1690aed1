"""What the printer prints is read back as the program that it was printed from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("clang.cindex")

from support.shipped import some

from opwright.backends.cpp.importer import import_program
from opwright.backends.cpp.pieces import reads_back
from opwright.backends.cpp.plan import make_plan, print_for
from opwright.compiler.elaborate import elaborate
from opwright.compiler.spaces import spaces
from opwright.grammar.parser import parse
from opwright.ir.launch import bind_plan
from opwright.ir.normal import normal_form
from opwright.search.space import IllegalSchedule

ROOT = Path(__file__).parents[2]
SHAPES = ROOT / "tests" / "compiler" / "data" / "shapes.op"
NAMED = re.findall(r"^op (\w+)", SHAPES.read_text(), re.M)
FILES = [(f, None) for f in some(sorted((ROOT / "specs").rglob("*.op")), 16)]


@pytest.mark.parametrize(
    "file, name",
    [*FILES, *((SHAPES, n) for n in some(NAMED, 3))],
    ids=lambda x: getattr(x, "stem", x),
)
def test_printed_text_reads_back_as_its_program(file, name):
    text = file.read_text()
    op = elaborate(parse(text, str(file)), name, filename=str(file), source=text)
    for space in spaces(op, 16):
        starts = space.preferred()
        for schedule in dict.fromkeys((starts[0], starts[-1])):
            try:
                program = space.instantiate(schedule)
            except IllegalSchedule:
                continue
            source = print_for(program, op, "x86-64-v4")
            bound = bind_plan(make_plan(program, op), op)
            found = import_program(source, bound, "kernel.cpp")
            same = normal_form(found) == normal_form(program)
            assert same or reads_back(source, bound, "kernel.cpp", program), schedule.text
