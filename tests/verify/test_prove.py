"""The prover: correct programs are proved for all shapes, wrong ones are refuted by a replay."""

from __future__ import annotations

import pytest
import tile_kernels
from tile_kernels import buf

from opwright.ir.expr import (
    call,
    const,
    pid,
    read,
    reduction,
    size,
    var,
)
from opwright.ir.op import Clause
from opwright.ir.tile import Axis
from opwright.verify.context import Context
from opwright.verify.gates import safety

n, c, p = size("n"), Axis("c", 8), pid(0)
X, Y, S = buf("X", "in", n), buf("Y", "out", n), buf("S", "program", 8)
BIG = {
    "gelu_tanh": tile_kernels.gelu_tanh,
    "sum_dim0": tile_kernels.sum_dim0,
    "matmul": tile_kernels.matmul,
    "attention": tile_kernels.attention,
}
IN_RANGE = Clause(
    "in_range",
    "requires",
    reduction(
        "all",
        ("i",),
        ((const(0), size("N")),),
        call(
            "and",
            call("le", 0, read("IDS", (var("i"),), "int")),
            call("lt", read("IDS", (var("i"),), "int"), size("V")),
        ),
    ),
)
CONTEXTS = {"gather": Context(requires=(IN_RANGE,))}


def statuses(records):
    return {r.id: r.status for r in records if r.status != "PROVED"}


@pytest.mark.parametrize("name", [*tile_kernels.SMALL, *(f"{n}, full size" for n in BIG)])
def test_correct_programs_are_proved(name):
    base = name.removesuffix(", full size")
    make = BIG[base] if base != name else tile_kernels.SMALL[name]
    records = safety(make(), CONTEXTS.get(name, Context()))
    assert statuses(records) == {}
    kinds = {r.kind for r in records}
    assert kinds == {"G1", "G2", "G3"} and len({r.id for r in records}) == len(records)
    assert all("printer trusted" in r.subject for r in records)
