"""The written contract of every spec holds for its own meaning, on generated inputs.

`ensures` and `law` are a second statement of what an operator does; here the float64 reference,
rounded to the output's type, stands for a candidate.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opwright.compiler.elaborate import load_spec
from opwright.ir.clauses import evaluate_clause
from opwright.ir.dtypes import decode, encode
from opwright.ir.laws import evaluate_law
from opwright.ir.op import Operator
from opwright.ir.reference import reference
from opwright.verify.inputs import Case, generate

ROOT = Path(__file__).resolve().parents[2]
SPECS = sorted((ROOT / "specs").rglob("*.op"))
CASES = 3


def rounded(op: Operator, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs as a perfect candidate stores them."""
    return {t.name: decode(encode(np.asarray(outputs[t.name]), t.dtype), t.dtype)
            for t in op.outputs}  # fmt: skip


def cases_of(op: Operator) -> list[Case]:
    found = generate(op, seed=1, count=CASES, families=("normal",), specials=False).cases
    assert found
    return list(found)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_ensures(path: Path) -> None:
    spec = load_spec(path)
    for types in spec.bindings():
        op = spec.operator(None, types)
        for case in cases_of(op):
            inputs = {t.name: decode(case.inputs[t.name], t.dtype) for t in op.inputs}
            outputs = rounded(op, reference(op, inputs, case.params, case.sizes))
            for clause in op.clauses:
                if clause.kind in ("ensures", "requires"):
                    result = evaluate_clause(op, clause, inputs, outputs, case.params, case.sizes)
                    assert result.holds, (str(case), types, clause.name, result)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_laws(path: Path) -> None:
    op = load_spec(path).operator()  # laws run in the widest type, the first of every spec

    def run(inputs: Any, params: Any, sizes: Any) -> dict[str, Any]:
        return rounded(op, reference(op, inputs, params, sizes))

    rng = np.random.default_rng(3)
    tried = 0
    laws = [clause for clause in op.clauses if clause.kind == "law"]
    for case in cases_of(op):
        inputs = {t.name: decode(case.inputs[t.name], t.dtype) for t in op.inputs}
        for clause in laws:
            found = evaluate_law(op, clause, inputs, run, rng, case.params, case.sizes)
            if found.result is not None:
                tried += 1
                assert found.result.holds, (str(case), clause.name, found.result)
    assert tried or not laws
