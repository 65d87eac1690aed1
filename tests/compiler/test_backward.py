"""Gradients in packages: torch's autograd through them, against torch's own and differences."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from opwright.compiler.backward import backward_operator, roles, wanted
from opwright.compiler.elaborate import load_spec
from opwright.compiler.pipeline import compile_spec

SPEC = """opwright "0.1"

op soft @ 1.0 {
  dims  B, N
  where N >= 1
  input x: f64[B, N]
  output y: f64[B, N]
  def {
    m[b] = max[j: N](x[b, j])
    e[b, j] = exp(x[b, j] - m[b])
    y[b, j] = e[b, j] / sum[k: N](e[b, k])
  }
  requires finite: all[b: B, j: N](-inf < x[b, j] < inf)
  tolerance versus f64 { f64: abs 1e-9 rel 1e-9 }
  grad x { d_x[b, j] = y[b, j] * (d_y[b, j] - sum[k: N](d_y[b, k] * y[b, k])) }
}

op weighed @ 1.0 {
  dims  M, N, K
  param scale: f32 = 1.0
  input a: f64[M, K], b: f64[K, N], bias: f64[N]
  output c: f64[M, N]
  def { c[i, j] = scale * sum[k: K](a[i, k] * b[k, j]) + bias[j] }
  tolerance versus f64 { f64: abs 1e-9 rel 1e-9 }
  grad a, b auto
  grad bias auto
}

op normed @ 1.0 {
  dims  B, N
  where N >= 1
  param eps: f32 = 1e-5
  where eps > 0
  input x: f32[B, N], gamma: f32[N]
  output y: f32[B, N]
  def {
    mean[b] = sum[j: N](x[b, j]) / N
    var[b] = sum[j: N]((x[b, j] - mean[b]) * (x[b, j] - mean[b])) / N
    y[b, j] = (x[b, j] - mean[b]) * rsqrt(var[b] + eps) * gamma[j]
  }
  tolerance versus f64 { f32: abs 1e-4 rel 1e-3 }
  grad x, gamma auto
}

op mixed @ 1.0 {
  dims  B, S, D
  where S >= 1
  param scale: f32 = 0.5
  input q: f32[B, S, D], k: f32[B, S, D], v: f32[B, S, D]
  output o: f32[B, S, D]
  def {
    s[b, i, j] = scale * sum[d: D](q[b, i, d] * k[b, j, d])
    m[b, i] = max[j: S | j <= i](s[b, i, j])
    p[b, i, j] = if j <= i then exp(s[b, i, j] - m[b, i]) else 0
    z[b, i] = sum[j: S](p[b, i, j])
    o[b, i, d] = sum[j: S](p[b, i, j] * v[b, j, d]) / z[b, i]
  }
  tolerance versus f64 { f32: abs 1e-4 rel 1e-3 }
  grad q, k, v auto
}

op taken @ 1.0 "Rows by number: no input of the gradient shows how many there are." {
  dims  V, D, N
  input table: f32[V, D], ids: i64[N]
  output y: f32[N, D]
  def { y[n, d] = table[ids[n], d] }
  requires in_range: all[n: N](0 <= ids[n] and ids[n] < V)
  tolerance versus f64 { f32: abs 1e-5 rel 1e-5 }
  grad table auto
}

op place @ 1.0 "No real result, so no gradient to lose." {
  dims  B, N
  where N >= 1
  input x: f32[B, N]
  output i: i64[B]
  def { i[b] = argmax[j: N](x[b, j]) }
}
"""
USES = {
    "soft": """
x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
assert torch.autograd.gradcheck(f, (x,), nondet_tol=0)
y = f(x)
y.sum().backward()  # a gradient whose elements share memory
assert float(x.grad.abs().max()) < 1e-12
w = torch.randn(4, 6, dtype=torch.float64)
x.grad = None
(f(x) * w).sum().backward()
(wanted,) = torch.autograd.grad((torch.softmax(x, 1) * w).sum(), x)
assert torch.allclose(x.grad, wanted, rtol=1e-12)
with torch.no_grad():
    assert torch.equal(f(x), y)
try:
    f(x, out=torch.empty_like(x))
    raise SystemExit("out took a tensor that requires grad")
except RuntimeError as e:
    assert "out" in str(e), e
torch.library.opcheck(torch.ops.soft_k.soft.default, (x,))
z = x.detach()
forward, reverse = (lambda: torch.func.jvp(f, (z,), (z,))), torch.func.grad(lambda t: f(t).sum())
for call in (forward, lambda: reverse(z)):
    try:
        call()
        raise SystemExit("a transform of torch.func was taken")
    except RuntimeError as e:
        assert "forward-mode" in str(e) or "torch.func" in str(e), e
with torch.autograd.forward_ad.dual_level():
    try:
        f(torch.autograd.forward_ad.make_dual(z, z))
        raise SystemExit("a tangent was lost")
    except RuntimeError as e:
        assert "forward-mode" in str(e), e
many = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
(found,) = torch.autograd.grad((torch.vmap(f)(many) * w).sum(), many)
(wanted,) = torch.autograd.grad((torch.softmax(many, 2) * w).sum(), many)
assert torch.allclose(found, wanted)
step = torch.compile(lambda t: (f(t) * w).sum(), fullgraph=True, backend="aot_eager")
(found,) = torch.autograd.grad(step(x), x)
(wanted,) = torch.autograd.grad((torch.softmax(x, 1) * w).sum(), x)
assert torch.allclose(found, wanted, rtol=1e-9)
""",
    "weighed": """
a, b, bias = (torch.randn(*s, dtype=torch.float64) for s in ((3, 5), (5, 4), (4,)))
for grads in ((True, True, True), (True, False, False), (False, False, True)):
    for x, g in zip((a, b, bias), grads):
        x.requires_grad_(g)
    assert torch.autograd.gradcheck(lambda *t: f(*t, scale=0.5), (a, b, bias))
assert f(a.t().contiguous().t(), b, bias).requires_grad
""",
    "normed": """
x, gamma = torch.randn(5, 16, requires_grad=True), torch.randn(16, requires_grad=True)
w = torch.randn(5, 16)
found = torch.autograd.grad((f(x, gamma) * w).sum(), (x, gamma))
plain = torch.nn.functional.layer_norm(x, (16,), gamma)
for one, other in zip(found, torch.autograd.grad((plain * w).sum(), (x, gamma))):
    assert torch.allclose(one, other, rtol=1e-3, atol=1e-4), (one, other)
""",
    "mixed": """
import json, pathlib
data = json.loads((pathlib.Path(mixed_k.__file__).parent / "metadata.json").read_text())
assert data["backward"][0]["saved"] == ["m", "z"], data["backward"]
q, k, v = (torch.randn(2, 9, 4, requires_grad=True) for _ in range(3))
w = torch.randn(2, 9, 4)
plain = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)
wanted = torch.autograd.grad((plain * w).sum(), (q, k, v))
step = torch.compile(lambda *x: f(*x, scale=0.3), fullgraph=True, backend="aot_eager")
for g in (lambda *x: f(*x, scale=0.3), step):
    assert torch.allclose(g(q, k, v), plain, rtol=1e-3, atol=1e-4)
    found = torch.autograd.grad((g(q, k, v) * w).sum(), (q, k, v))
    for one, other in zip(found, wanted):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4), (one, other)
only = torch.autograd.grad((f(q, k.detach(), v.detach(), scale=0.3) * w).sum(), q)
assert torch.allclose(only[0], wanted[0], rtol=1e-3, atol=1e-4)
import jax
own = __import__("mixed_k.jax").jax
loss = lambda *x: (own.mixed(*x, scale=0.3) * w.numpy()).sum()
for n, g in enumerate(jax.grad(loss, (0, 1, 2))(*(x.detach().numpy() for x in (q, k, v)))):
    assert torch.allclose(torch.tensor(g.tolist()), wanted[n], rtol=1e-3, atol=1e-4)
""",
    "taken": """
table, ids, w = torch.randn(7, 3, requires_grad=True), torch.tensor([6, 0, 6]), torch.randn(3, 3)
(found,) = torch.autograd.grad((f(table, ids) * w).sum(), table)
(wanted,) = torch.autograd.grad((table[ids] * w).sum(), table)
assert torch.allclose(found, wanted)
(found,) = torch.autograd.grad(f(table, ids[:0]).sum(), table)
assert found.shape == (7, 3) and not found.any()
step = torch.compile(lambda t: (f(t, ids) * w).sum(), fullgraph=True, backend="aot_eager")
assert torch.allclose(torch.autograd.grad(step(table), table)[0], wanted)
import jax
grad = jax.grad(lambda t: (__import__("taken_k.jax").jax.taken(t, ids.numpy()) * w.numpy()).sum())
jax.config.update("jax_enable_x64", True)
assert torch.allclose(torch.tensor(grad(table.detach().numpy()).tolist()), wanted, atol=1e-6)
""",
}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spec") / "three.op"
    path.write_text(SPEC)
    return path


def test_results_that_are_not_real_take_tensors_that_require_grad(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("OPWRIGHT_CACHE", str(tmp_path / "cache"))
    result = compile_spec(spec, "place", budget=1, out=tmp_path / "out")
    code = """
import torch, place_k, place_k.torch
x = torch.randn(3, 5, requires_grad=True)
traced = torch.compile(place_k.place, fullgraph=True, backend="aot_eager")
for f in (place_k.place, torch.ops.place_k.place, traced):
    found = f(x)
    assert torch.equal(found, x.argmax(1)) and not found.requires_grad
"""
    environment = {**os.environ, "PYTHONPATH": str(result.package / "src")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=300)


def test_what_a_gradient_takes(spec: Path) -> None:
    loaded = load_spec(spec)
    for name, groups, inputs in (
        ("soft", [(("x",), True)], {("output", "y"), ("grad", "y")}),
        (
            "weighed",
            [(("a", "b", "bias"), False)],
            {("input", "a"), ("input", "b"), ("grad", "c")},
        ),
    ):
        assert wanted(loaded, name) == groups
        op = loaded.operator(name, {})
        g, text = backward_operator(loaded, op, *groups[0])
        assert inputs <= set(roles(g, op))
        assert g.digest.startswith("sha256:") and f"op {g.name}" in text


@pytest.mark.parametrize("name", list(USES))
def test_torch_differentiates_through_a_package(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("OPWRIGHT_CACHE", str(tmp_path / "cache"))
    result = compile_spec(spec, name, budget=1, out=tmp_path / "out", backward=True)
    assert any(note.startswith("backward: ") for note in result.notes), result.notes
    data = json.loads((result.package / "metadata.json").read_text())
    assert [b["package"] for b in data["backward"]] == ["_backward"]
    assert "A formula for autograd" in (result.package / "README.md").read_text()
    source = result.package / "src"
    assert (source / f"{name}_k" / "_backward" / "CERTIFICATE.txt").exists()
    code = f"import torch, {name}_k\ntorch.manual_seed(0)\nf = {name}_k.{name}\n{USES[name]}"
    environment = {**os.environ, "PYTHONPATH": str(source)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
