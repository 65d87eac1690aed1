"""Compiling by backend: what ships of array code, targets that there are not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from opwright.compiler import functional, pure
from opwright.compiler.backend import CompileError, Refused
from opwright.compiler.pipeline import backend_of, compile_spec

PAIR = """opwright "0.1"

op pair @ 1.0 {
  dims N
  where 1 <= N
  type T in {f32, f16}
  input x: T[N]
  input y: T[N]
  output z: T[N]
  def { z[n] = f32(x[n]) * f32(y[n]) + 1.0 }
  workload one weight 1 { N = 4096, T = f32 }
}
"""


@pytest.mark.parametrize(
    ("name", "target", "text"),
    [
        ("cobol", "", "there is no backend cobol"),
        ("jax", "sm_90", "target sm_90: the JAX backend tests and times on the CPU"),
        ("cpp", "sm_90", r"target sm_90: the C\+\+ backend compiles for CPUs"),
    ],
)
def test_targets_of_other_backends_are_refused(name: str, target: str, text: str) -> None:
    with pytest.raises(CompileError, match=text) as caught:
        backend_of(name, target)
    assert caught.value.cure


def test_array_code_is_judged_and_packaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPWRIGHT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "pair.op"
    path.write_text(PAIR)
    result = compile_spec(path, backend="jax", out=tmp_path / "out")
    assert result.backend == "jax" and result.wheel.name == "pair_k-1.0-py3-none-any.whl"
    assert result.verdict.gate("G6") == "TESTED" and result.verdict.gate("G2") == "PROVED"
    assert [r.impl for r in result.rows] == ["opwright"] and result.rows[0].mode == "fresh"
    assert "accelerator" in result.unrun[0]
    data = json.loads((result.package / "metadata.json").read_text())
    assert data["backend"] == {"type": "jax", "archs": ["cpu"]}
    assert [b["types"] for b in data["bindings"]] == [{"T": "f32"}, {"T": "f16"}]
    text = (result.package / "README.md").read_text()
    assert "not run: on an accelerator" in text and "| one (fresh) |" in text


def test_a_function_that_is_wrong_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(op):  # type: ignore[no-untyped-def]
        arrays, why = functional.arrays_of(op)
        assert arrays is not None
        return replace(arrays, source=arrays.source.replace("+ 1", "+ 2")), why

    monkeypatch.setenv("OPWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pure, "arrays_of", wrong)
    path = tmp_path / "pair.op"
    path.write_text(PAIR)
    with pytest.raises(Refused, match="wrong: z\\["):
        compile_spec(path, backend="jax", out=tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
