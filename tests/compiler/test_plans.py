"""Plans that are wrong in one place: each is refused with the place, before anything is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opwright.compiler.candidates import Candidate, read
from opwright.compiler.elaborate import load_spec
from opwright.compiler.importing import static_gates
from opwright.ir.op import Operator
from opwright.ir.plan import PlanError, from_json

SPEC = """opwright "0.1"

op scaled @ 1.0 {
  dims  B, N
  param gain: f32 = 2.0
  input x: f32[B, N]
  output y: f32[B, N]
  def { y[b, j] = gain * x[b, j] }
}
"""
SOURCE = """import triton
import triton.language as tl


@triton.jit
def scale(x, y, gain, N, BLOCK: tl.constexpr):
    tl.store(y, 0.0)
"""
LAUNCH: dict[str, Any] = {
    "kernel": "scale", "grid": ["B"], "args": ["x", "y", "gain", "N"], "const": {"BLOCK": 256},
    "num_warps": 4,
}  # fmt: skip
PLAN: dict[str, Any] = {
    "abi": 1, "op": "scaled@1.0", "target": "sm_90", "backend": "triton", "source": "kernel.py",
    "facts": ["stride(x, 1) == 1"], "launches": [LAUNCH],
}  # fmt: skip


def scratch(**fields: Any) -> dict[str, Any]:
    return {"scratch": {"t": {"dtype": "f32", "shape": ["B"], **fields}}}


FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"abi": 2}, "abi 2 is not known"),
    ({"abi": "1"}, "abi '1' is not known"),
    ({"op": 3}, "op must be a string"),
    ({"target": 90}, "target must be a string"),
    ({"target": ""}, "target must be a string"),
    ({"backend": ["triton"]}, "backend must be a string"),
    ({"backend": "fortran"}, "unknown backend 'fortran'; backends: cpp, triton, cuda, jax"),
    ({"source": "../kernel.py"}, "source must name a file beside"),
    ({"source": "a\0b"}, "source must name a file beside"),
    ({"source": 1}, "source must name a file beside"),
    ({"types": ["f32"]}, "types must be an object"),
    ({"types": {"T": 32}}, "types.T must be a string"),
    ({"spec": 1}, "spec must be a string"),
    ({"origin": "me"}, "origin must be an object"),
    ({"facts": "N == 1"}, "facts must be a list of strings"),
    ({"facts": [1]}, "facts must be a list of strings"),
    ({"facts": ["N ="]}, "facts: unexpected '='"),
    ({"facts": ["M == 1"]}, "facts: unknown name 'M'"),
    ({"facts": ["N + 1"]}, "facts: 'N + 1' is not a truth value"),
    ({"facts": ["stride(x, 7) == 1"]}, "facts[0]: stride(x, 7): x has axes 0 to 1"),
    ({"facts": ["stride(q, 0) == 1"]}, "facts[0]: there is no tensor 'q'; tensors: x, y"),
    ({"facts": ["aligned(q, 16)"]}, "q"),
    ({"scratch": []}, "scratch must be an object"),
    ({"scratch": {"t": 1}}, "scratch.t needs a dtype"),
    ({"scratch": {"1t": {"dtype": "f32", "shape": ["B"]}}}, "cannot name a buffer"),
    (scratch(dtype="f99"), "scratch.t: unknown dtype 'f99'"),
    (scratch(shape="B"), "scratch.t.shape must be a list of strings"),
    (scratch(shape=["Q"]), "scratch.t.shape: unknown name 'Q'"),
    (scratch(init="seven"), "scratch.t.init must be none or zero"),
    (scratch(scope="moon"), "scratch.t.scope must be plan or program"),
    (scratch(color="red"), "unknown field 'color' in scratch.t"),
    ({"scratch": {"x": {"dtype": "f32", "shape": ["B"]}}}, "has something of that name"),
    ({"launches": []}, "launches must be a list of at least one"),
    ({"launches": {"kernel": "scale"}}, "launches must be a list of at least one"),
    ({"launches": [1]}, "launches[0] must be an object with a kernel name"),
    ({"color": "red"}, "unknown field 'color'"),
]
LAUNCHES: list[tuple[dict[str, Any], str]] = [
    ({"color": 1}, "unknown field 'color' in launches[0]"),
    ({"kernel": 1}, "launches[0] must be an object with a kernel name"),
    ({"kernel": "scael"}, "did you mean 'scale'?"),
    ({"grid": "B"}, "launches[0].grid must be a list of strings"),
    ({"grid": []}, "launches[0].grid must have one to three entries"),
    ({"grid": ["B", "1", "1", "1"]}, "launches[0].grid must have one to three entries"),
    ({"grid": ["M"]}, "launches[0].grid: unknown name 'M'"),
    ({"grid": ["gain"]}, "launches[0].grid: 'gain' is not an integer"),
    ({"grid": ["stride(x, 2)"]}, "launches[0].grid: stride(x, 2): x has axes 0 to 1"),
    ({"args": None}, "launches[0].args must be a list of strings"),
    ({"args": [1, 2]}, "launches[0].args must be a list of strings"),
    ({"args": ["x", "y", "gain"]}, "launches[0].args: 3 arguments, but scale"),
    ({"args": ["x", "z", "gain", "N"]}, "launches[0].args: unknown name 'z'"),
    ({"args": ["x", "y", "gain", "stride(y, 2)"]}, "launches[0].args: stride(y, 2)"),
    ({"const": [1]}, "launches[0].const must be an object"),
    ({"const": {"BLOCK": [1]}}, "launches[0].const.BLOCK must be a number"),
    ({"const": {"BLOK": 256}}, "did you mean 'BLOCK'?"),
    ({"num_warps": "four"}, "launches[0].num_warps must be a whole number from 1 to 32"),
    ({"num_warps": True}, "launches[0].num_warps must be a whole number"),
    ({"num_warps": 3}, "launches[0].num_warps must be a power of two"),
    ({"num_warps": 64}, "launches[0].num_warps must be a whole number from 1 to 32"),
    ({"num_stages": -1}, "launches[0].num_stages must be a whole number from 0 to 16"),
    ({"block": "32"}, "launches[0].block must be a list"),
    ({"block": [0]}, "launches[0].block[0] must be a whole number"),
    ({"shared_bytes": 7}, "launches[0].shared_bytes must be a string"),
    ({"schedule": "random"}, "launches[0].schedule must be static or dynamic"),
]
ALL = [*FIELDS, *(({"launches": [{**LAUNCH, **c}]}, words) for c, words in LAUNCHES)]


@pytest.fixture(scope="module")
def op(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    path = tmp_path_factory.mktemp("spec") / "scaled.op"
    path.write_text(SPEC)
    return load_spec(path).operator("scaled", {})


@pytest.mark.parametrize(("changes", "words"), ALL)
def test_one_wrong_field(op: Operator, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanError) as caught:
        static_gates(Candidate(from_json({**PLAN, **changes}), SOURCE), op)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (SOURCE + SOURCE.partition("\n\n\n")[2], "kernel.py:9: scale is defined twice"),
        ("int main() {}", "kernel.py:1: not Python"),
        ("import triton\n", "kernel.py defines no 'scale'"),
    ],
)
def test_sources_without_the_kernel(op: Operator, source: str, words: str) -> None:
    with pytest.raises(PlanError) as caught:
        static_gates(Candidate(from_json(PLAN), source), op)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("plan", "source", "words"),
    [
        (b"\xff\xfe{}", b"", "not UTF-8"),
        (b"[]", b"", "must hold an object"),
        (b'{"abi": 1,', b"", "candidate.json:1:11: not JSON"),
        (b"[" * 100_000, b"", "nested too deeply"),
        (json.dumps(PLAN).encode(), None, "kernel.py: cannot be read: No such file"),
        (json.dumps(PLAN).encode(), b"\xff", "kernel.py: not UTF-8"),
        (json.dumps(PLAN).encode(), b" \n", "kernel.py: the file is empty"),
        (json.dumps({**PLAN, "op": "scaled@2.0"}).encode(), b"", "the candidate is for scaled@2.0"),
    ],
)
def test_folders(
    op: Operator, tmp_path: Path, plan: bytes, source: bytes | None, words: str
) -> None:
    (tmp_path / "candidate.json").write_bytes(plan)
    if source is not None:
        (tmp_path / "kernel.py").write_bytes(source)
    with pytest.raises(PlanError) as caught:
        read(tmp_path, op)
    assert words in str(caught.value)
