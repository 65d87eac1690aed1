"""A gate that comes before the proofs saves them where it refutes, and changes no verdict else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opwright.compiler import importing
from opwright.compiler.candidates import Candidate, read
from opwright.compiler.elaborate import load_spec
from opwright.compiler.importing import static_gates
from opwright.compiler.later_gates import early_records
from opwright.compiler.verification import verify_operator
from opwright.ir.op import Operator
from opwright.search.gate_order import FIELD, PROOFS, Order

SPEC = """opwright "0.1"

op tripled @ 1.0 {
  dims  N
  where N >= 1
  input x: f32[N]
  output y: f32[N]
  def { y[i] = x[i] * 3.0 }
  tolerance versus f64 { f32: abs 1e-6 rel 1e-6 }
  target cpu(x86_64) via cpp
}
"""
KERNEL = """#include <cstdint>
extern "C" void k(const float *x, float *y, int64_t pid0, int64_t pid1, int64_t pid2) {
  y[pid0] = x[pid0] * FACTOR;
}
"""


def folder(at: Path, factor: str) -> tuple[Operator, Path]:
    (at / "tripled.op").write_text(SPEC)
    (at / "kernel").mkdir(exist_ok=True)
    plan = {
        "abi": 1, "op": "tripled@1.0", "target": "cpu(portable)", "backend": "cpp",
        "source": "kernel.cpp", "facts": ["stride(x, 0) == 1", "stride(y, 0) == 1"],
        "launches": [{"kernel": "k", "grid": ["N"], "args": ["x", "y"]}],
    }  # fmt: skip
    (at / "kernel" / "candidate.json").write_text(json.dumps(plan))
    (at / "kernel" / "kernel.cpp").write_text(KERNEL.replace("FACTOR", factor))
    return load_spec(at / "tripled.op").operator("tripled", {}), at / "kernel"


def gates(c: Candidate, op: Operator) -> dict[str, str]:
    static = static_gates(c, op, early=lambda s: early_records(c, s, op))
    return {r.kind: static.gate(r.kind) for r in static.records}


def test_a_right_text_goes_on_to_the_proofs(tmp_path: Path) -> None:
    op, at = folder(tmp_path, "3.0f")
    found = gates(read(at, op), op)
    assert found["G4"] == "TESTED" and found["G2"] == found["G3"] == "PROVED"


def test_a_wrong_text_is_refuted_before_anything_is_proved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    op, at = folder(tmp_path, "2.0f")

    def never(*_: object) -> None:
        raise AssertionError("proved")

    monkeypatch.setattr(importing, "safety", never)
    found = gates(read(at, op), op)
    assert found["G4"] == "REFUTED" and "G2" not in found


def test_the_verdict_is_one_in_either_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for factor, status in (("3.0f", "TESTED"), ("2.0f", "REFUTED")):
        op, at = folder(tmp_path, factor)
        for groups in ((PROOFS, FIELD), (FIELD, PROOFS)):
            monkeypatch.setattr(
                "opwright.compiler.verification.learned", lambda *_, g=groups: Order(g)
            )
            verdict = verify_operator(op, at, "portable", "proved")
            assert verdict.status == status
            assert verdict.gate("G4") == ("TESTED" if status == "TESTED" else "REFUTED")
            assert "G4" in verdict.extra["order"]
            assert sum(r.id == "G4.y" for r in verdict.records) == 1
