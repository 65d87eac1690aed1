"""Derived gradients against central differences of the float64 reference."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.shipped import SPECS  # type: ignore[import-not-found]

from opwright.compiler.autodiff import gradient
from opwright.compiler.autodiff_rules import NotDifferentiable
from opwright.compiler.elaborate import load_spec, parse_spec
from opwright.compiler.spec_text import spec_text
from opwright.ir.dtypes import decode
from opwright.ir.expr import evaluate
from opwright.ir.op import Operator
from opwright.ir.reference import reference
from opwright.verify.draw import draw_inputs

DATA = Path(__file__).parent / "data"


def sizes_of(op: Operator, wanted: Mapping[str, int], rng: Any) -> tuple[dict[str, int], Any]:
    """Small sizes and params that the operator's facts allow."""
    for _ in range(3000):
        sizes = {s: int(rng.integers(2, 9)) for s in op.sizes} | dict(wanted)
        params: dict[str, Any] = {}
        for p in op.params:
            params[p.name] = 1 if p.default is None else evaluate(p.default, {**sizes, **params})
        if all(evaluate(f, {**sizes, **params}) for f in op.facts):
            return sizes, params
    raise AssertionError(f"no small sizes for {op.name}")


def agrees(op: Operator, wanted: Mapping[str, int] = {}) -> None:
    rng = np.random.default_rng(7)
    sizes, params = sizes_of(op, wanted, rng)
    inputs: dict[str, Any] = {}
    drawn = draw_inputs(op, sizes, params, "normal", 7) if op.requires else {}
    for t in op.inputs:
        if t.name in drawn:
            inputs[t.name] = decode(drawn[t.name], t.dtype)
            continue
        shape = tuple(evaluate(s, {**sizes, **params}) for s in t.shape)
        draw = rng.normal(size=shape) if t.kind == "real" else rng.integers(0, 2, size=shape)
        inputs[t.name] = draw.astype(bool) if t.kind == "bool" else draw
    back = gradient(op, asked(op))
    outputs = reference(op, inputs, params, sizes)
    weights = {
        t.name: rng.normal(size=np.shape(outputs[t.name])) for t in op.outputs if t.kind == "real"
    }
    given = {**inputs, **outputs, **{f"d_{k}": v for k, v in weights.items()}}
    found = reference(back, {t.name: given[t.name] for t in back.inputs}, params, sizes)
    written = parse_spec(spec_text(back)).operator(back.name, {})
    again = reference(written, {t.name: given[t.name] for t in written.inputs}, params, sizes)
    for t in back.outputs:
        np.testing.assert_allclose(again[t.name], found[t.name], rtol=1e-12, atol=1e-12)

    def value(changed: Mapping[str, Any]) -> float:
        out = reference(op, changed, params, sizes)
        return float(sum(np.sum(np.asarray(out[k], np.float64) * w) for k, w in weights.items()))

    step = 1e-5
    for t in back.outputs:
        x = inputs[t.name[2:]]
        for at in list(np.ndindex(x.shape))[:40]:
            up, down = x.copy(), x.copy()
            up[at] += step
            down[at] -= step
            name = t.name[2:]
            slope = (value({**inputs, name: up}) - value({**inputs, name: down})) / (2 * step)
            assert found[t.name][at] == pytest.approx(slope, rel=1e-6, abs=1e-6), (t.name, at)


def asked(op: Operator) -> list[str]:
    """The inputs that have a gradient; none where the spec asks for none."""
    none = {name for name, how in op.gradients if how == "none"}
    return [t.name for t in op.inputs if t.kind == "real" and t.name not in none] if none else []


def operators(path: Path) -> list[Any]:
    spec = load_spec(path)
    return [pytest.param(spec, n, id=n) for n in spec.names]


NONE = ("argmax", "integers")  # nothing real goes in, or nothing real comes out


def differentiable(path: Path) -> list[Any]:
    """The operators of a shipped spec that ask for a gradient."""
    return [
        p for p in operators(path)
        if any(how != "none" for _, how in p.values[0].operator(p.id).gradients)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "name"), [p for path in sorted(SPECS.rglob("*.op")) for p in differentiable(path)]
)
def test_library(spec: Any, name: str) -> None:
    agrees(spec.operator(name, spec.bindings(name)[0]))


@pytest.mark.parametrize(
    ("spec", "name"),
    [p for p in operators(DATA / "shapes.op") if p.id not in ("rounding", *NONE)],
)
def test_shapes(spec: Any, name: str) -> None:
    agrees(spec.operator(name, spec.bindings(name)[0]))


FORMS = """opwright "0.1"
op joint @ 1.0 "two recurrences with initial values and a contraction inside" {
  dims B, T, H
  input wi: f32[H, H], wf: f32[H, H], x: f32[B, T, H], c0: f32[B, H], h0: f32[B, H]
  output h: f32[B, T, H], c: f32[B, T, H]
  def {
    rec t: c[b, t, i] = sigmoid(sum[k: H](wf[i, k] * h[b, t - 1, k])) * c[b, t - 1, i]
                        + tanh(x[b, t, i] + sum[k: H](wi[i, k] * h[b, t - 1, k])) init c0[b, i]
    rec t: h[b, t, i] = tanh(c[b, t, i]) * 0.5 init h0[b, i]
  }
}
op digits @ 1.0 "divided, reversed and repeated indices" {
  dims B, N
  where N % 4 == 0
  input x: f32[B, N]
  output y: f32[B, N // 4], z: f32[B, N]
  def {
    y[b, i] = max[q: 4](x[b, 4 * i + q])
    z[b, j] = x[b, (j // 4) * 4] * x[b, N - 1 - j] + y[b, j // 4]
  }
}
op padded @ 1.0 {
  dims N, R
  where R >= 1
  input x: f32[N], w: f32[R]
  output y: f32[N]
  def { y[i] = sum[r: R](w[r] * (x[i + r - R // 2] ?? 0)) }
}
op strided @ 1.0 {
  dims N, R
  where R >= 1, N >= R
  input x: f32[N], w: f32[R]
  output y: f32[(N - R) // 3 + 1]
  def { y[i] = sum[r: R](w[r] * x[3 * i + r]) }
}
op products @ 1.0 "products, running minima, powers" {
  dims B, N
  where N >= 1
  input x: f32[B, N]
  output y: f32[B], z: f32[B, N]
  def {
    y[b] = prod[i: N](x[b, i])
    z[b, i] = min[j: i..N](x[b, j]) + pow(abs(x[b, i]) + 1, 2.5)
  }
}
op pooled @ 1.0 "the extreme of two indices" {
  dims H, W
  where H % 2 == 0, W % 2 == 0
  input x: f32[H, W]
  output y: f32[H // 2, W // 2]
  def { y[i, j] = max[p: 2, q: 2](x[2 * i + p, 2 * j + q]) }
}
"""


@pytest.mark.parametrize("name", ["joint", "digits", "padded", "strided", "products", "pooled"])
def test_forms(name: str) -> None:
    agrees(parse_spec(FORMS).operator(name, {}))


def test_a_prefix_sum_turns_round() -> None:
    spec = load_spec(SPECS / "reduce" / "cumsum.op")
    text = repr(gradient(spec.operator("cumsum", {"T": "f32"})).outputs[0].body)
    assert re.fullmatch(r"sum.f32\[(t\d+): (s\d+)..N\]\(f32\(d_y\[b\d+, \1\]\)\)", text)


def test_rounding_passes_straight_through() -> None:
    text = (
        'opwright "0.1"\nop r @ 1.0 { dims N input x: f32[N] output y: f32[N] '
        "def { y[i] = 2 * round.bf16(x[i]) } }"
    )
    back = gradient(parse_spec(text).operator("r", {}))
    assert reference(back, {"d_y": np.array([1.0, 3.0])}, {}, {"N": 2})["d_x"].tolist() == [2, 6]


def test_integers_have_no_gradient() -> None:
    op = load_spec(SPECS / "nn" / "embedding.op").operator("embedding", {"T": "f32"})
    with pytest.raises(NotDifferentiable, match="ids is no real input"):
        gradient(op, ["ids"])
