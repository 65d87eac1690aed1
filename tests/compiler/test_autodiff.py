"""Derived gradients against central differences of the float64 reference."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.shipped import SPECS, some  # type: ignore[import-not-found]

from opwright.compiler.autodiff import gradient
from opwright.compiler.autodiff_rules import NotDifferentiable
from opwright.compiler.elaborate import load_spec, parse_spec
from opwright.compiler.spec_text import spec_text
from opwright.ir.op import Operator
from opwright.ir.reference import reference
from opwright.verify.draw import decoded
from opwright.verify.inputs import generate
from opwright.verify.sizes import Limits

DATA = Path(__file__).parent / "data"


def case_of(op: Operator) -> tuple[dict[str, Any], dict[str, Any], dict[str, int]]:
    """(inputs in float64, params, sizes): the largest of a few small cases."""
    made = generate(op, 7, 8, (), Limits(256, 1 << 12), (), ("normal",), specials=False)
    case = max(made.cases, key=lambda c: sum(x.size for x in c.inputs.values()))
    inputs = {k: np.asarray(x, dtype=x.dtype) for k, x in decoded(op, case.inputs).items()}
    return inputs, dict(case.params), dict(case.sizes)


def agrees(op: Operator) -> None:
    """The derived gradient, and its text, against differences along a few directions."""
    rng = np.random.default_rng(7)
    inputs, params, sizes = case_of(op)
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

    step = 1e-6
    for t in back.outputs:
        name = t.name[2:]
        x = np.asarray(inputs[name], np.float64)
        single = [np.zeros(x.shape) for _ in range(min(x.size, 6))]
        for one, n in zip(single, rng.permutation(x.size), strict=False):
            one.flat[n] = 1.0
        for way in [*single, rng.normal(size=x.shape)]:
            ends = [value({**inputs, name: x + sign * step * way}) for sign in (1, -1)]
            slope = (ends[0] - ends[1]) / (2 * step)
            told = float(np.sum(np.asarray(found[t.name], np.float64) * way))
            scale = 1 + float(np.abs(np.asarray(found[t.name])).max(initial=0))
            assert told == pytest.approx(slope, rel=1e-5, abs=1e-6 * scale), (t.name, way)


def asked(op: Operator) -> list[str]:
    """The inputs that have a gradient; all of them where the spec leaves none out."""
    none = {name for name, how in op.gradients if how == "none"}
    return [t.name for t in op.inputs if t.kind == "real" and t.name not in none] if none else []


def differentiable(op: Operator) -> bool:
    """Whether something real goes in that has a gradient, and something real comes out."""
    real = {t.name for t in op.inputs if t.kind == "real"}
    none = {name for name, how in op.gradients if how == "none"}
    return bool(real - none) and any(t.kind == "real" for t in op.outputs)


def operators(path: Path) -> list[Any]:
    spec = load_spec(path)
    return [pytest.param(spec, n, id=n) for n in spec.names]


@pytest.mark.parametrize(
    ("spec", "name"), [p for path in some(sorted(SPECS.rglob("*.op")), 3) for p in operators(path)]
)
def test_library(spec: Any, name: str) -> None:
    op = spec.operator(name, spec.bindings(name)[0])
    if differentiable(op):
        agrees(op)
    elif not op.gradients:
        with pytest.raises(NotDifferentiable):
            gradient(op)


@pytest.mark.parametrize(
    ("spec", "name"), [p for p in operators(DATA / "shapes.op") if p.id != "rounding"]
)
def test_shapes(spec: Any, name: str) -> None:
    op = spec.operator(name, spec.bindings(name)[0])
    if differentiable(op):
        agrees(op)


@pytest.mark.parametrize(("spec", "name"), operators(DATA / "models.op"))
def test_models(spec: Any, name: str) -> None:
    agrees(spec.operator(name, {}))


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
