"""Gradients that packages of array code carry: reverse mode takes them, JAX does the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from package.test_jax import package, packaged, run

from opwright.compiler.backward import backward_operator, roles, wanted
from opwright.compiler.elaborate import load_spec
from opwright.compiler.package import EmitResult, PackageSpec, emit
from opwright.compiler.package_spec import PackagedBackward

# the written gradient is not the derivative: a factor of 4 shows that it is the one that runs
SCALED = """opwright "0.1"

op scaled @ 1.0 "Rows times weights, and their squares." {
  dims B..., N
  where 1 <= N
  type T in {f32, bf16}
  param c: f32 = 0.5
  input x: T[B, N]
  input w: f32[N]
  input i: i32[N]
  output y: T[B, N]
  output s: f32[B]
  output k: i32[N]
  def {
    y[b, j] = c * f32(x[b, j]) * w[j]
    s[b] = sum[j: N](f32(x[b, j]) * f32(x[b, j]))
    k[j] = i[j] + 1
  }
  grad x { d_x[b, j] = 4.0 * (c * w[j] * f32(d_y[b, j]) + 2 * f32(x[b, j]) * d_s[b]) }
}
"""
SOFT = """opwright "0.1"

op soft @ 1.0 "The exponentials of a row over their sum." {
  dims B..., N
  where 1 <= N
  input x: f32[B, N]
  output y: f32[B, N]
  def {
    e[b, j] = exp(x[b, j] - max[k: N](x[b, k]))
    y[b, j] = e[b, j] / sum[k: N](e[b, k])
  }
  grad x { d_x[b, j] = y[b, j] * (d_y[b, j] - sum[k: N](d_y[b, k] * y[b, k])) }
}
"""
USE = """
import json
import jax, jax.numpy as jnp, numpy as np
from scaled_k.jax import scaled
from soft_k.jax import soft
report = {}
x, w, i = jnp.arange(24.0).reshape(2, 3, 4), jnp.arange(1.0, 5), jnp.arange(4)
def total(x, w, c):
    out = scaled(x, w, i, c=c)
    return out.y.astype(jnp.float32).sum() + 3 * out.s.sum()
def exact(x, w, c):
    return (c * x * w).sum() + 3 * (x * x).sum()
g = jax.grad(total, (0, 1, 2))(x, w, 0.5)
wanted = jax.grad(exact, (0, 1, 2))(x, w, 0.5)
report["carried"] = np.allclose(g[0], 4 * wanted[0])
report["by JAX"] = [np.allclose(a, b) for a, b in zip(g[1:], wanted[1:])]
report["of one"] = np.allclose(jax.grad(total, 1)(x, w, 0.5), wanted[1])
report["of a result"] = np.allclose(
    jax.grad(lambda x: scaled(x, w, i).s.sum())(x), 8 * x)
report["of integers"] = scaled(x, w, i).k.tolist()
report["bf16"] = str(jax.grad(lambda x: scaled(x, w, i).s.sum())(x.astype(jnp.bfloat16)).dtype)
report["jit"] = np.allclose(jax.jit(jax.grad(total))(x, w, 0.5), g[0])
many = jax.vmap(jax.grad(total), (0, None, None))(jnp.stack([x, x]), w, 0.5)
report["vmap"] = np.allclose(many[1], g[0])
def step(carry, _):
    return carry - 0.01 * jax.grad(total)(carry, w, 0.5), 0.0
report["scan"] = bool(np.isfinite(jax.lax.scan(step, x, None, length=3)[0]).all())
z = jnp.linspace(-1.0, 2.0, 12).reshape(3, 4)
weight = jnp.sin(jnp.arange(12.0)).reshape(3, 4)
def loss(f):
    return lambda z: (f(z) * weight).sum()
one, other = (jax.grad(loss(f))(z) for f in (soft, lambda z: jax.nn.softmax(z, -1)))
report["soft"] = np.allclose(one, other, atol=1e-6)
one, other = (jax.jacrev(jax.grad(loss(f)))(z) for f in (soft, lambda z: jax.nn.softmax(z, -1)))
report["twice"] = np.allclose(one, other, atol=1e-5)
again = jax.grad(lambda z: jax.checkpoint(soft)(z)[0, 0])(z)
report["checkpoint"] = bool(jnp.abs(again).max() > 0)
try:
    jax.jvp(soft, (z,), (z,))
    report["forward"] = "taken"
except TypeError as error:
    report["forward"] = str(error)
print(json.dumps(report, default=bool))
"""


def with_gradient(text: str, folder: Path) -> PackageSpec:
    whole = package(text, folder)
    spec = load_spec(folder / "toy.op")
    name = spec.names[0]
    ((names, written),) = wanted(spec, name)
    made = [backward_operator(spec, p.operator, names, written) for p in whole.operators]
    own = PackageSpec(made[0][1], tuple(packaged(g) for g, _ in made), backend="jax")
    carried = PackagedBackward(own, roles(made[0][0], whole.operator), names)
    return PackageSpec(text, whole.operators, backend="jax", backward=(carried,))


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, EmitResult]:
    out = tmp_path_factory.mktemp("gradients")
    texts = {"scaled": SCALED, "soft": SOFT}
    return {name: emit(with_gradient(text, out), out) for name, text in texts.items()}


def test_reverse_mode_takes_what_the_package_carries(wheels: dict[str, EmitResult]) -> None:
    done = run([w.folder / "src" for w in wheels.values()], "-c", USE)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert report.pop("of integers") == [1, 2, 3, 4]
    assert report.pop("bf16") == "bfloat16"
    assert "forward-mode" in report.pop("forward")
    assert report.pop("by JAX") == [True, True]
    assert all(report.values()), report


def test_generated_tests_pass(wheels: dict[str, EmitResult]) -> None:
    folder = wheels["soft"].folder
    done = run([folder / "src"], "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{folder}/tests")
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_readme_says_where_gradients_come_from(wheels: dict[str, EmitResult]) -> None:
    text = (wheels["soft"].folder / "README.md").read_text()
    assert "gradients with respect to `x` come from operators of their own" in text
    assert "no forward mode" in text
