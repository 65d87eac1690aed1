"""`compile --proposer exchange` on Triton and JAX texts: right ones, wrong ones, and cheats."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.sandboxed import flags

SPEC = """opwright "0.1"

op row_total @ 1.0 "Sums of rows." {
  dims  B, N
  input x: f32[B, N]
  output y: f32[B]
  def { y[b] = sum[j: N](x[b, j]) }
  tolerance versus f64 { f32: abs 1e-4 rel 1e-4 }
  workload one weight 1.0 { B = 64, N = 500, x ~ normal(0, 1) }
}
"""
TRITON = """import triton
import triton.language as tl


@triton.jit
def total(x, y, B, N, sx0, sx1, sy, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, BLOCK)
    found = tl.zeros([BLOCK], tl.float32)
    for start in range(0, N, BLOCK):
        at = start + lanes
        found += tl.load(x + row * sx0 + at * sx1, mask=at < N, other=0.0)
    tl.store(y + row * sy, tl.sum(found, 0))
"""
WHOLE = """import triton
import triton.language as tl


@triton.jit
def total(x, y, B, N, sx0, sx1, sy, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    found = tl.load(x + row * sx0 + at * sx1, mask=at < N, other=0.0)
    tl.store(y + row * sy, tl.sum(found, 0))
"""
TALL = """import triton
import triton.language as tl


@triton.jit
def total(x, y, B, N, sx0, sx1, sy, BLOCK: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * 4 + tl.arange(0, 4)
    found = tl.zeros([4], tl.float32)
    for start in range(0, N, BLOCK):
        at = start + tl.arange(0, BLOCK)
        live = (rows < B)[:, None] & (at < N)[None, :]
        part = tl.load(x + rows[:, None] * sx0 + at[None, :] * sx1, mask=live, other=0.0)
        found += tl.sum(part, 1)
    tl.store(y + rows * sy, found, mask=rows < B)
"""
ARGS = ["x", "y", "B", "N", "stride(x, 0)", "stride(x, 1)", "stride(y, 0)"]
LAUNCH: dict[str, Any] = {
    "kernel": "total", "grid": ["B"], "args": ARGS, "const": {"BLOCK": 256}, "num_warps": 4,
}  # fmt: skip
TRITON_PLAN: dict[str, Any] = {
    "abi": 1, "op": "row_total@1.0", "target": "sm_90", "backend": "triton", "source": "kernel.py",
    "launches": [LAUNCH],
}  # fmt: skip
JAX = """import jax
import jax.numpy as jnp


@jax.jit
def total(x):
    return jnp.sum(x, axis=1)
"""
JAX_PLAN: dict[str, Any] = {
    "abi": 1, "op": "row_total@1.0", "target": "cpu(jax)", "backend": "jax", "source": "kernel.py",
    "launches": [{"kernel": "total", "args": ["x"]}],
}  # fmt: skip
CPP = 'extern "C" void total(const float *x, float *y, long p, long q, long r) { y[p] = x[p]; }\n'


def changed(plan: dict[str, Any], **launch: Any) -> dict[str, Any]:
    return {**plan, "launches": [{**plan["launches"][0], **launch}]}


def answer(plan: object, source: str) -> str:
    return json.dumps({"answer": 1, "plan": plan, "source": source})


def stored(text: str) -> str:
    """The kernel with another value stored."""
    return TRITON.replace("tl.store(y + row * sy, tl.sum(found, 0))", text)


# name -> (file, status of its verdict, words of its reason)
TRITON_ANSWERS = {
    "loop": (answer(TRITON_PLAN, TRITON), "ok", ""),
    "whole": (
        answer({**changed(TRITON_PLAN, const={"BLOCK": 1024}), "facts": ["N <= 1024"]}, WHOLE),
        "ok",
        "",
    ),
    "tall": (answer(changed(TRITON_PLAN, grid=["cdiv(B, 4)"]), TALL), "ok", ""),
    "language": (
        answer({**TRITON_PLAN, "backend": "cpp", "source": "kernel.cpp"}, CPP),
        "illegal",
        "triton is asked for",
    ),
    "misnamed": (answer(TRITON_PLAN, CPP), "illegal", "not Python"),
    "broken": (answer(TRITON_PLAN, TRITON)[:-9], "refused", "not JSON"),
    "truncated": (answer(TRITON_PLAN, TRITON[:-20]), "illegal", "not Python"),
    "unfit": (answer(changed(TRITON_PLAN, args=ARGS[:-1]), TRITON), "illegal", "takes 7"),
    "borrowed": (
        answer(TRITON_PLAN, "import torch\n" + TRITON),
        "refuted",
        "import of torch",
    ),
    "reader": (
        answer(TRITON_PLAN, stored("tl.store(y + row * sy, float(open('/etc/hostname').read()))")),
        "refuted",
        "open",
    ),
    "constant": (answer(TRITON_PLAN, stored("tl.store(y + row * sy, 0.0)")), "wrong", "expected"),
    "past": (
        answer(TRITON_PLAN, TRITON.replace("at < N", "at <= N")),
        "refuted",
        "G2",
    ),
}  # fmt: skip
JAX_ANSWERS = {
    "plain": (answer(JAX_PLAN, JAX), "ok", ""),
    "product": (
        answer(JAX_PLAN, JAX.replace("jnp.sum(x, axis=1)", "x @ jnp.ones(x.shape[1:], x.dtype)")),
        "ok",
        "",
    ),
    "eager": (answer(JAX_PLAN, JAX.replace("@jax.jit\n", "")), "ok", ""),
    "language": (
        answer({**JAX_PLAN, "backend": "cpp", "source": "kernel.cpp"}, CPP),
        "illegal",
        "jax is asked for",
    ),
    "broken": (answer(JAX_PLAN, JAX)[:-9], "refused", "not JSON"),
    "truncated": (answer(JAX_PLAN, JAX[:-10]), "illegal", "not Python"),
    "unfit": (answer(changed(JAX_PLAN, args=["x", "z"]), JAX), "illegal", "z"),
    "borrowed": (
        answer(JAX_PLAN, JAX.replace("import jax\n", "import jax\nimport torch\n")),
        "refuted",
        "import of torch",
    ),
    "reader": (
        answer(JAX_PLAN, JAX.replace("x, axis", "x * float(open('/etc/hostname').read()), axis")),
        "refuted",
        "open",
    ),
    "constant": (
        answer(JAX_PLAN, JAX.replace("jnp.sum(x, axis=1)", "jnp.zeros(x.shape[:1], x.dtype)")),
        "refuted",  # over the reals, before it is run
        "",
    ),
    "shape": (answer(JAX_PLAN, JAX.replace(", axis=1", "")), "crashed", "shape"),
    "facts": (answer({**JAX_PLAN, "facts": ["N <= 8"]}, JAX), "unbuilt", "facts"),
}
CASES = {
    "triton": (TRITON_ANSWERS, ("--target", "sm_90")),
    "jax": (JAX_ANSWERS, ()),
}


def opwright(*arguments: object, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "opwright", *map(str, arguments), *flags()],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OPWRIGHT_CACHE": str(cache)},
    )


@pytest.mark.parametrize("backend", ["triton", "jax"])
def test_answers_in_another_language(tmp_path: Path, backend: str) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    answers, more = CASES[backend]
    spec, desk = tmp_path / "row_total.op", tmp_path / "desk"
    spec.write_text(SPEC)
    command = ["compile", spec, "--backend", backend, *more, "--budget", 1, "--against", "none"]
    command += ["-o", tmp_path / "out", "--proposer", "exchange", "--exchange", desk]
    first = opwright(*command, cache=tmp_path / "cache")
    assert first.returncode == 1, first.stderr
    assert "no answer yet" in first.stderr
    request = json.loads((desk / "round-1" / "request.json").read_text())
    assert request["backend"] == backend and request["targets"] and request["contract"]
    parent = json.loads((desk / "round-1" / "parent" / "candidate.json").read_text())
    assert parent["backend"] == backend
    assert (desk / "round-1" / "parent" / parent["source"]).stat().st_size > 0

    for name, (text, _, _) in answers.items():
        (desk / "round-1" / "answers" / f"{name}.json").write_text(text)
    second = opwright(*command, "--json", cache=tmp_path / "cache")
    assert second.returncode == 0, second.stderr
    assert "Traceback" not in second.stderr
    told = {p.stem: json.loads(p.read_text()) for p in (desk / "round-1" / "verdicts").iterdir()}
    assert {n: v["status"] for n, v in told.items()} == {n: a[1] for n, a in answers.items()}
    for name, (_, status, words) in answers.items():
        assert words in told[name]["reason"], told[name]
        if status == "ok":
            assert told[name]["times"]["one"] > 0
            assert not any(r["status"] == "REFUTED" for r in told[name]["records"])
    document = json.loads(second.stdout)
    assert Path(document["wheel"]).exists()
    rows = {row["schedule"]: row for row in document["table"]}
    assert sum(row["status"] == "ok" for row in rows.values()) >= 4
    assert (desk / "round-2" / "request.json").exists()

    third = opwright(*command, "--json", cache=tmp_path / "cache")
    assert third.returncode == 0, third.stderr
    winner = json.loads(third.stdout)["winner"]["schedule"]
    assert winner == document["winner"]["schedule"]
