"""How programs are launched and what runs ahead: printed, read back, proved, run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.shipped import SPECS

from opwright.backends.triton.plan import make_plan, print_for
from opwright.backends.triton.run import interpret
from opwright.compiler.block_spaces import spaces
from opwright.compiler.blocks import printed
from opwright.compiler.elaborate import load_spec
from opwright.compiler.importing import Static, static_gates
from opwright.compiler.threads import in_rounds
from opwright.ir.launch import bind_plan
from opwright.ir.op import Operator
from opwright.ir.tile import TileProgram
from opwright.search.space import parse


def operator(name: str) -> Operator:
    return load_spec(SPECS / f"{name}.op").operator()


def program(op: Operator, space: str, target: str = "sm_90", **decisions: object) -> TileProgram:
    found = next(s for s in spaces(op, target) if s.name == space)
    schedule = found.preferred()[0]
    for name, value in decisions.items():
        schedule = schedule.changed(name, value)
    return found.instantiate(schedule)


def judged(op: Operator, p: TileProgram) -> tuple[str, Static]:
    c = printed(p, op, "sm_90")
    return c.source, static_gates(c, op, budget=40)


@pytest.mark.parametrize(
    ("name", "space", "decisions", "said"),
    [
        ("nn/softmax", "loop", {"rounds": 4, "ahead": 2}, "num_stages=3"),
        ("nn/gelu", "pointwise", {"rounds": 4}, "528"),
        ("linalg/matmul", "dot", {"split": 4}, "c_parts"),
    ],
)
def test_variants_are_read_back_and_proved(name, space, decisions, said):
    op = operator(name)
    source, static = judged(op, program(op, space, **decisions))
    assert said in source
    assert "it was printed from" in next(r.reason for r in static.records if r.kind == "G1")
    gates = ("G1", "G2", "G3", "G5")
    assert {g: static.gate(g) for g in gates} == dict.fromkeys(gates, "PROVED")


def test_programs_go_round():
    op = operator("reduce/row_sum")
    p = program(op, "loop", block=64, aligned=False)
    few = replace(p, kernels=tuple(in_rounds(k, 2) for k in p.kernels))
    x = np.arange(7 * 70, dtype=np.float32).reshape(7, 70)
    arrays = {"x": x, op.outputs[0].name: np.zeros(7, np.float32)}
    bound = bind_plan(make_plan(few, op), op)
    sizes = {"B": 7, "N": 70}
    found = interpret(print_for(few, op), bound, arrays, sizes)
    assert np.allclose(found[op.outputs[0].name], x.sum(1))


def test_a_round_that_is_left_out_is_not_proved():
    op = operator("reduce/row_sum")
    c = printed(program(op, "loop", rounds=1), op, "sm_90")
    assert "pid, B, 132" in c.source
    for old, new in (("pid, B, 132", "pid, B, 133"), ("pid, B, 132", "pid + 1, B, 132")):
        static = static_gates(replace(c, source=c.source.replace(old, new)), op, budget=20)
        assert static.gate("G3") != "PROVED" and static.gate("G5") != "PROVED"


def test_warps_have_roles_where_the_target_has_them():
    op = operator("linalg/matmul")
    space = {t: next(s for s in spaces(op, t) if s.name == "dot") for t in ("sm_90", "sm_100")}
    assert "specialise" in space["sm_100"].holes and "specialise" not in space["sm_90"].holes
    source = print_for(program(op, "dot", "sm_100", specialise=True), op)
    assert "warp_specialize=True" in source


def test_schedules_that_are_older_than_a_decision_hold():
    op = operator("nn/softmax")
    space = next(s for s in spaces(op) if s.name == "loop")
    now = space.preferred()[0]
    then = parse(now.text.replace(", rounds=0, ahead=0", ""))
    assert then.text != now.text
    assert print_for(space.instantiate(then), op) == print_for(space.instantiate(now), op)
