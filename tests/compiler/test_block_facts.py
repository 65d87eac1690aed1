"""What block programs assume: facts that can hold together."""

from __future__ import annotations

from support.shipped import SPECS

from opwright.compiler import block_spaces
from opwright.compiler.elaborate import load_spec
from opwright.verify.context import Context
from opwright.verify.gates import safety


def test_facts_of_alignment_do_not_contradict_each_other() -> None:
    """Rows of a window's result are no multiple of 16 where those of inputs and filters are."""
    (path,) = SPECS.rglob("conv2d_min_tanh.op")
    op = load_spec(path).operator()
    for space in block_spaces.spaces(op):
        program = space.instantiate(space.preferred()[0])
        records = safety(program, Context.of(op))
        assert {r.status for r in records} == {"PROVED"}, space.name
