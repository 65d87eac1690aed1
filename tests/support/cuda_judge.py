"""The gates on CUDA candidates of tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from support.cuda_kernels import Case

from opwright.compiler.candidates import read
from opwright.compiler.execution import execute
from opwright.compiler.importing import static_gates
from opwright.compiler.stored import stored_form
from opwright.ir.expr import evaluate
from opwright.ir.record import Record
from opwright.ir.tile import TileProgram
from opwright.spec_files import open_spec


@dataclass(frozen=True)
class Judged:
    records: tuple[Record, ...]
    program: TileProgram | None

    def inputs(self, example: dict[str, Any]) -> dict[str, Any]:
        """Arrays of a counterexample; real ones are all 1."""
        out: dict[str, Any] = {}
        env = {**example["sizes"], **example.get("params", {})}
        for b in self.program.buffers() if self.program else ():
            if b.role == "in":
                shape = [int(evaluate(e, env)) for e in b.shape]
                given = example.get("inputs", {}).get(b.name)
                kind = np.float64 if b.dtype.kind == "real" else np.int64
                out[b.name] = np.ones(shape, kind) if given is None else np.array(given, kind)
                out[b.name] = out[b.name].reshape(shape)
        return out


def judge(
    case: Case,
    folder: Path,
    source: str = "",
    plan: dict[str, Any] | None = None,
    run: bool = False,
) -> Judged:
    """What is known of a candidate; with `run`, of what it computes, too."""
    (folder / "spec.op").write_text(case.spec)
    (folder / "candidate.json").write_text(json.dumps({**case.plan(), **(plan or {})}))
    (folder / "kernel.cu").write_text(source or case.source)
    op = stored_form(open_spec(folder / "spec.op").operator(case.op, {}))
    candidate = read(folder, op)
    static = static_gates(candidate, op)
    records = static.records
    if run and not static.refuted:
        records += tuple(execute(candidate, static, op, "x86-64-v3", 0))
    return Judged(records, static.program)
