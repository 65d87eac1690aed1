"""Packages of array code: emission, calls on JAX arrays, transformations, refusals."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from opwright.compiler.backend import reference_cases
from opwright.compiler.elaborate import load_spec
from opwright.compiler.functional import arrays_of
from opwright.compiler.package import (
    EmitError,
    EmitResult,
    PackagedOperator,
    PackagedVariant,
    PackageSpec,
    emit,
)
from opwright.ir.op import Operator
from opwright.ir.plan import Launch, Plan
from opwright.ir.reference import reference
from opwright.verify.inputs import generate
from opwright.verify.numeric import bounds

ROWS = """opwright "0.1"

op rows @ 1.0 "Rows divided by their scaled sum of squares." {
  dims B..., N
  where 1 <= N
  type T in {f32, bf16}
  param eps: f32 = 1e-3 where 0 < eps
  input x: T[B, N]
  input w: f32[N]
  output y: T[B, N]
  output s: f32[B]
  def {
    s[b] = sum.f32[j: N](f32(x[b, j]) * f32(x[b, j])) + eps
    y[b, j] = f32(x[b, j]) * w[j] / s[b]
  }
}
"""
PICK = """opwright "0.1"

op pick @ 1.0 "Rows by number, and where the largest of each is." {
  dims V, D, N
  where 1 <= V, 1 <= D
  input a: f32[V, D]
  input i: i64[N]
  output y: f32[N, D]
  output top: i32[N]
  requires in_range: all[n: N](0 <= i[n] and i[n] < V)
  def {
    y[n, d] = a[i[n], d]
    top[n] = argmax[d: D](a[i[n], d])
  }
}
"""
USE = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
report = {}
def said(name, call):
    try:
        report[name] = str(call())
    except Exception as error:
        report[name] = f"{type(error).__name__}: {error}"
from rows_k.jax import rows
x, w = jnp.arange(24.0).reshape(2, 3, 4), jnp.ones(4)
out = rows(x, w)
report["shapes"] = [list(out.y.shape), list(out.s.shape), type(out).__name__]
report["numpy"] = np.allclose(rows(np.asarray(x), np.asarray(w)).y, out.y)
report["bf16"] = str(rows(x.astype(jnp.bfloat16), w).y.dtype)
report["jit"] = np.allclose(jax.jit(lambda x, w: rows(x, w, eps=0.5).s)(x, w),
                            (x * x).sum(-1) + 0.5)
slope = jax.grad(lambda e: rows(x, w, eps=e).s.sum())(0.25)
report["grad of a param"] = float(slope)
report["vmap of a param"] = jax.vmap(lambda e: rows(x, w, eps=e).s[0, 0])(jnp.ones(3)).tolist()
g = jax.grad(lambda x: rows(x, w).y.sum())(x)
exact = jax.grad(lambda x: (x / ((x * x).sum(-1, keepdims=True) + 1e-3)).sum())(x)
report["grad"] = np.allclose(g, exact, rtol=1e-4, atol=1e-6)
said("f16", lambda: rows(x.astype(jnp.float16), w))
said("shape", lambda: rows(x, w[:3]))
said("where", lambda: rows(x, w, eps=-1.0))
said("empty", lambda: rows(x[..., :0], w[:0]))
said("list", lambda: rows([1.0], w))
from pick_k.jax import pick
a = jnp.arange(12.0).reshape(3, 4)
report["narrow"] = pick(a, jnp.array([2, 0]))[0].tolist() == a[jnp.array([2, 0])].tolist()
with jax.enable_x64(True):
    report["x64"] = str(pick(a, jnp.array([1], jnp.int64)).top)
print(json.dumps(report, default=bool))
"""


def packaged(op: Operator) -> PackagedOperator:
    made = generate(op, 0, 6).cases

    def expected(inputs, sizes, params):  # type: ignore[no-untyped-def]
        return reference(op, inputs, params, sizes)

    cases = reference_cases(op, made, lambda c: bounds(op, c, expected))
    arrays, why = arrays_of(op)
    assert arrays is not None, why
    launch = Launch(arrays.function, tuple(t.name for t in op.inputs))
    plan = Plan(f"{op.name}@{op.version}", "cpu(jax)", "jax", "kernel.py", (launch,))
    variant = PackagedVariant("arrays", plan, {}, arrays.source, targets=("cpu",))
    return PackagedOperator(op, (variant,), cases, arrays)


def package(text: str, folder: Path) -> PackageSpec:
    path = folder / "toy.op"
    path.write_text(text)
    spec = load_spec(path)
    name = spec.names[0]
    found = tuple(packaged(spec.operator(name, b)) for b in spec.bindings(name))
    return PackageSpec(text, found, backend="jax", unrun=("on a GPU: there is none here",))


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, EmitResult]:
    out = tmp_path_factory.mktemp("jax")
    return {name: emit(package(text, out), out) for name, text in (("rows", ROWS), ("pick", PICK))}


def run(folders: list[Path], *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=300, env=env
    )


def test_the_wheel_is_pure_python_and_imports_no_framework(wheels: dict[str, EmitResult]) -> None:
    wheel = wheels["rows"].wheel
    assert wheel.name == "rows_k-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert "rows_k/_jnp/bf16.py" in names and not any(n.endswith(".so") for n in names)
        info = archive.read("rows_k-1.0.dist-info/WHEEL").decode()
    assert "Root-Is-Purelib: true" in info
    code = "import sys, rows_k; print({'jax', 'numpy', 'torch'} & set(sys.modules))"
    done = run([wheels["rows"].folder / "src"], "-c", code)
    assert done.stdout.strip() == "set()", done.stderr


def test_calls_and_transformations(wheels: dict[str, EmitResult]) -> None:
    done = run([w.folder / "src" for w in wheels.values()], "-c", USE)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["shapes"] == [[2, 3, 4], [2, 3], "RowsResult"]
    assert report["numpy"] and report["jit"] and report["grad"] and report["narrow"]
    assert report["bf16"] == "bfloat16"
    assert report["grad of a param"] == pytest.approx(6.0)
    assert report["vmap of a param"] == pytest.approx([15.0] * 3)
    assert "takes (x: f32, w: f32) or (x: bf16, w: f32), not (x: float16" in report["f16"]
    assert "w axis 0 must be N = 4 (from x axis 1), not 3" in report["shape"]
    assert "where 0.0 < eps does not hold (eps = -1.0)" in report["where"]
    assert "where 1 <= N does not hold (N = 0)" in report["empty"]
    assert "x must be a JAX array, not builtins.list" in report["list"]
    assert report["x64"] == "[3]"


@pytest.mark.parametrize("name", ["rows", "pick"])
def test_generated_tests_pass(wheels: dict[str, EmitResult], name: str) -> None:
    folder = wheels[name].folder
    done = run([folder / "src"], "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{folder}/tests")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "5 passed" in done.stdout
    shown = run([folder / "src"], "-m", f"{name}_k", "verify")
    assert shown.returncode == 0 and "as certified" in shown.stdout, shown.stdout


def test_readme_says_what_was_not_run(wheels: dict[str, EmitResult]) -> None:
    text = (wheels["rows"].folder / "README.md").read_text()
    assert "not run: on a GPU: there is none here" in text
    assert "from rows_k import rows" in text and "jnp.ones" in text


def test_without_array_code_nothing_is_emitted(tmp_path: Path) -> None:
    whole = package(PICK, tmp_path)
    bare = tuple(dataclasses.replace(p, arrays=None) for p in whole.operators)
    with pytest.raises(EmitError, match="no array code"):
        emit(dataclasses.replace(whole, operators=bare), tmp_path)
