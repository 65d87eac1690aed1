"""Compiling by backend: what ships of array code, targets that there are not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from opwright.compiler import functional, native, pure
from opwright.compiler.backend import CompileError, Refused
from opwright.compiler.candidates import printed
from opwright.compiler.elaborate import load_spec
from opwright.compiler.normalize import normalize
from opwright.compiler.pipeline import backend_of, compile_spec
from opwright.compiler.strategies import fallback
from opwright.ir.record import Record

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


DEVICE_USE = """
import numpy as np, torch
import pair_k
print("gpu:", torch.cuda.is_available())
for kind, x in (("numpy", np.ones(5, np.float32)), ("torch", torch.ones(5))):
    try:
        pair_k.pair(x, x)
    except TypeError as error:
        print(f"{kind}: {error}".replace("pair: ", ""))
print(pair_k.explain(torch.ones(5), torch.ones(5)))
"""
INTERPRETED_USE = """
import torch, pair_k
x, y = torch.arange(40.0), torch.full((40,), 2.0)
strided = torch.arange(80.0)[::2]
compiled = torch.compile(lambda a, b: pair_k.pair(a, b), fullgraph=True, backend="aot_eager")
print(torch.equal(pair_k.pair(x, y), x * y + 1), torch.equal(pair_k.pair(strided, y),
      strided * y + 1), torch.equal(compiled(x, y), x * y + 1))
print(pair_k.explain(x, y))
"""


@pytest.mark.parametrize(
    ("name", "target", "text"),
    [
        ("cobol", "", "there is no backend cobol"),
        ("jax", "sm_90", "target sm_90: the JAX backend tests and times on the CPU"),
        ("triton", "sm_12", "target sm_12: the Triton backend compiles for GPUs"),
        ("cpp", "sm_90", r"target sm_90: the C\+\+ backend compiles for CPUs"),
    ],
)
def test_targets_of_other_backends_are_refused(name: str, target: str, text: str) -> None:
    with pytest.raises(CompileError, match=text) as caught:
        backend_of(name, target)
    assert caught.value.cure


def test_array_code_is_judged_and_packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    with pytest.raises(Refused, match=r"refuted: G\d\.\w+: z\["):
        compile_spec(path, backend="jax", out=tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_block_programs_are_judged_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPWRIGHT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "pair.op"
    path.write_text(PAIR)
    result = compile_spec(path, backend="triton", budget=2, out=tmp_path / "out")
    assert result.backend == "triton" and set(result.targets) >= {"sm_80", "sm_90"}
    assert result.wheel.name == "pair_k-1.0-py3-none-any.whl"
    for gate in ("G0", "G1", "G2", "G3"):
        assert result.verdict.gate(gate) == "PROVED"
    assert result.verdict.gate("G6") == "TESTED" and "there was none" in result.unrun[0]
    # what no compiler saw is not called compiled
    assert ("compiled for" in result.unrun[0]) == bool(result.resources)
    assert not result.rows and "modelled, not measured" in result.why
    assert {row["target"] for row in result.modelled} == set(result.targets)
    assert result.variants[-1]["guards"] == [] and result.variants[-1]["name"] == "candidate0"
    text = (result.package / "README.md").read_text()
    assert "**Not run**: on a GPU" in text and "never measured" in text
    data = json.loads((result.package / "metadata.json").read_text())
    assert data["backend"]["type"] == "triton" and not data["benchmarks"]["rows"]
    environment = {**os.environ, "PYTHONPATH": str(result.package / "src")}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(
        command, cwd=result.package, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_a_device_package_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPWRIGHT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "pair.op"
    path.write_text(PAIR)
    types = {"T": "f32"}
    result = compile_spec(
        path, backend="triton", target="sm_80,sm_90", types=types, budget=2, out=tmp_path / "out"
    )
    assert result.targets == ("sm_80", "sm_90")
    environment = {**os.environ, "PYTHONPATH": str(result.package / "src")}
    environment.pop("TRITON_INTERPRET", None)

    def said(code: str, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, **more},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    told = said(DEVICE_USE)
    assert "numpy: x must be a torch tensor; this package holds kernels for GPUs" in told
    if "gpu: False" in told:
        assert "x is on cpu; this package holds kernels for GPUs" in told
        assert "no GPU" in told and "TRITON_INTERPRET=1" in told
    interpreted = said(INTERPRETED_USE, TRITON_INTERPRET="1")
    assert interpreted.splitlines()[0] == "True True True"
    assert "candidate0: taken" in interpreted or "winner: taken" in interpreted


def test_the_text_that_ships_is_what_the_proof_is_about(tmp_path: Path) -> None:
    path = tmp_path / "pair.op"
    path.write_text(PAIR)
    op = load_spec(path).operator("pair", {"T": "f32"})
    text = printed(fallback.lower(normalize(op)), op, "portable")
    tested = Record("G6.error", "G6", "TESTED", "", "")
    old = Record("G2.old", "G2", "PROVED", "", "TileIR")
    made, proofs = native._of_text(text, op, [old, tested])
    assert proofs
    assert {r.kind for r in made} >= {"G0", "G1", "G2", "G3", "G6"} and tested in made
    assert all(r.subject == f"kernel.cpp {text.digest}" for r in made if r is not tested)
    shifted = text.source.replace("z[n_1 * z_stride0] =", "z[(n_1 + 1) * z_stride0] =")
    assert shifted != text.source
    with pytest.raises(CompileError, match=r"refuted: G[23]"):
        native._of_text(replace(text, source=shifted), op, [tested])
