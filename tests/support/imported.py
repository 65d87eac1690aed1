"""Triton candidates of tests/backends/triton/candidates, their operators, and their runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from opwright.backends.triton.importer import import_program
from opwright.compiler.elaborate import load_spec
from opwright.ir.expr import evaluate
from opwright.ir.interpreter import run
from opwright.ir.launch import bind_plan, with_room
from opwright.ir.op import Operator
from opwright.ir.plan import Plan, load
from opwright.ir.reference import reference
from opwright.ir.tile import TileProgram, alignments

HERE = Path(__file__).parents[1] / "backends" / "triton" / "candidates"
SPECS = Path(__file__).parents[2] / "specs"
NAMES = sorted(p.name for p in HERE.iterdir() if p.is_dir())
# sizes around the tiles of each kernel
SIZES: dict[str, list[dict[str, int]]] = {
    "argmax_rows": [{"B": 2, "N": 1}, {"B": 3, "N": 65}],
    "argmax_loop": [{"B": 2, "N": 1}, {"B": 16, "N": 300}],
    "attention_flash": [
        {"B": 1, "H": 2, "S": 70, "D": 5},
        {"B": 2, "H": 1, "S": 3, "D": 1},
    ],
    "batched_matmul_grid": [{"B": 2, "M": 33, "N": 31, "K": 40}, {"B": 1, "M": 1, "N": 65, "K": 1}],
    "bias_residual": [{"B": 3, "N": 130}, {"B": 1, "N": 1}],
    "column_sum_loop": [{"M": 33, "N": 65}, {"M": 1, "N": 3}],
    "cross_entropy_row": [{"B": 3, "V": 1030}, {"B": 2, "V": 5}],
    "cumsum_blocks": [{"B": 2, "N": 1025}, {"B": 3, "N": 5}],
    "cumsum_scan": [{"B": 2, "N": 17}],
    "embedding_2d": [{"V": 5, "D": 70, "N": 17}, {"V": 1, "D": 3, "N": 1}],
    "embedding_gather": [{"V": 5, "D": 70, "N": 17}, {"V": 1, "D": 3, "N": 1}],
    "gelu_flat": [{"N": 1025}, {"N": 3}],
    "gelu_libdevice": [{"N": 1025}, {"N": 3}],
    "layernorm_three_loops": [{"B": 3, "N": 1030}, {"B": 2, "N": 7}],
    "layernorm_welford": [{"B": 3, "N": 300}, {"B": 2, "N": 7}],
    "linear_gelu": [{"M": 33, "N": 65, "K": 40}, {"M": 3, "N": 2, "K": 1}],
    "matmul_descriptors": [{"M": 33, "N": 40, "K": 40}, {"M": 1, "N": 8, "K": 8}],
    "matmul_epilogue": [{"M": 65, "N": 33, "K": 40}, {"M": 3, "N": 2, "K": 1}],
    "matmul_grouped": [{"M": 600, "N": 65, "K": 3}, {"M": 70, "N": 66, "K": 33}],
    "matmul_tutorial": [{"M": 600, "N": 33, "K": 3}, {"M": 70, "N": 66, "K": 33}],
    "rmsnorm_one_block": [{"B": 3, "N": 20}],
    "row_sum_atomic": [{"B": 130, "N": 257}, {"B": 2, "N": 3}],
    "rope_halves": [{"B": 2, "S": 3, "H": 2, "D": 5}, {"B": 1, "S": 1, "H": 1, "D": 1}],
    "row_sum_loop": [{"B": 17, "N": 65}, {"B": 2, "N": 3}],
    "row_sum_split": [{"B": 65, "N": 300}, {"B": 2, "N": 3}],
    "row_sum_while": [{"B": 2, "N": 1025}, {"B": 1, "N": 3}],
    "silu_autotuned": [{"N": 1025}, {"N": 3}],
    "softmax_one_block": [{"B": 3, "N": 9}, {"B": 260, "N": 2}],
    "softmax_persistent": [{"B": 257, "N": 2}, {"B": 3, "N": 9}],
    "softmax_two_loops": [{"B": 2, "N": 1025}, {"B": 1, "N": 1}],
    "transpose_swizzled": [{"M": 330, "N": 65}, {"M": 1, "N": 3}],
    "transpose_tiles": [{"M": 33, "N": 65}, {"M": 1, "N": 3}],
}


def plan_of(name: str) -> Plan:
    return load(HERE / name)


def operator_of(name: str, plan: Plan) -> Operator:
    own = HERE / name / "spec.op"
    op = plan.op.split("@")[0]
    path = own if own.exists() else next(SPECS.rglob(f"{op}.op"))
    return load_spec(path).operator(None, plan.types or None)


def source_of(name: str) -> str:
    return (HERE / name / "kernel.py").read_text(encoding="utf-8")


def program_of(name: str, source: str | None = None, plan: Plan | None = None) -> TileProgram:
    plan = plan or plan_of(name)
    op = operator_of(name, plan)
    bound = bind_plan(with_room(plan, op), op)
    return import_program(source or source_of(name), bound, "kernel.py")


def inputs_of(op: Operator, sizes: dict[str, int], seed: int = 0) -> dict[str, Any]:
    """Values around zero; integers below the least extent, so that they index anything."""
    rng = np.random.default_rng(seed)
    out: dict[str, Any] = {}
    for t in op.inputs:
        shape = tuple(int(evaluate(e, sizes)) for e in t.shape)
        if t.dtype.kind == "real":
            out[t.name] = rng.normal(0, 1, shape)
        else:
            out[t.name] = rng.integers(0, min(sizes.get("V", 1), 2**20), shape)
    return out


def differences(program: TileProgram, op: Operator, sizes: dict[str, int]) -> list[str]:
    """Outputs of a run in the interpreter that are not those of the reference."""
    inputs = inputs_of(op, sizes)
    params = {p.name: evaluate(p.default, sizes) for p in op.params if p.default is not None}
    aligned = alignments(program)
    shapes = {b.name: tuple(int(evaluate(e, sizes)) for e in b.shape) for b in program.buffers()}
    given = {n: x.reshape(shapes[n]) for n, x in inputs.items() if n in shapes}
    got = run(program, sizes, given, {**params, **aligned}, order=1)
    wanted = reference(op, inputs, params, sizes)
    return [
        n
        for n, w in wanted.items()
        if not np.allclose(got[n].reshape(w.shape), w, rtol=1e-6, atol=1e-6)
    ]
