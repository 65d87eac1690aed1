"""Wrong CUDA kernels: none is proved, and nearly all are refuted by something that happens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.cuda_judge import judge
from support.cuda_kernels import CASES, MUTANTS, Mutant

from opwright.ir.expr import leaves
from opwright.ir.interpreter import Trap, run

pytest.importorskip("clang.cindex", reason="libclang reads CUDA texts")

# all of them with OPWRIGHT_ALL_MUTANTS=1, else every fifth
CHOSEN = MUTANTS if os.environ.get("OPWRIGHT_ALL_MUTANTS") else MUTANTS[::5]


@pytest.mark.parametrize("m", CHOSEN, ids=lambda m: f"{m.case}: {m.what}")
def test_wrong_kernels_are_not_proved(m: Mutant, tmp_path: Path) -> None:
    judged = judge(CASES[m.case], tmp_path, m.source(), run=m.gates == "function")
    refuted = [r for r in judged.records if r.status == "REFUTED"]
    if m.gates == "":
        assert any(r.status != "PROVED" for r in judged.records if r.kind in ("G0", "G2", "G3"))
        return
    assert refuted, [f"{r.id} {r.status} {r.reason}" for r in judged.records if r.kind != "G1"]
    if m.gates == "function":
        return
    assert any("kernel.cu:" in r.reason for r in refuted)
    again = [r.counterexample for r in refuted if reproduces(r.counterexample or {}, judged)]
    assert again


def reproduces(example: dict, judged) -> bool:
    """Whether the interpreter runs into a trap at the sizes of a counterexample. What only shows at
    sizes that no memory holds names the numbers at which it does."""
    if "loops" in example or max(example["sizes"].values(), default=0) > 4096:
        return True
    program = judged.program
    strides = {}
    for key, value in example.get("strides", {}).items():
        name, _, axis = key.partition(", ")
        strides[name, int(axis)] = value
    stated = {x.attr: True for f in program.facts for x in leaves(f, "param") if "(" in x.attr}
    try:
        run(program, example["sizes"], judged.inputs(example), stated, strides)
    except Trap:
        return True
    return "statement" in example and "strides" not in example
