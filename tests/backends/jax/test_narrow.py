"""Roundings that are meant and integer contractions: as printed, read back, and run."""

from __future__ import annotations

import numpy as np
import pytest

from opwright.compiler.elaborate import parse_spec
from opwright.compiler.importing import static_gates
from opwright.compiler.pure import arrays_candidate
from opwright.ir.dtypes import decode, encode
from opwright.ir.op import Operator
from opwright.ir.reference import reference

pytest.importorskip("jax")
from opwright.backends.jax.printer import print_operator
from opwright.backends.jax.run import Process

SPEC = """opwright "0.1"
op rounded @ 1.0 {
  dims N
  input x: f32[N], s: f32
  output a: f32[N], b: f32[N], c: f32[N], d: f16[N], e: f8e4m3[N]
  def {
    a[i] = round.f16(x[i]) * 3
    b[i] = round.f8e4m3(x[i] / s) * s
    c[i] = x[i] - round.f8e5m2(x[i] * 2)
    d[i] = round.bf16(x[i]) + 1
    e[i] = x[i] * 2
  }
  requires small: all[i: N](-100 < x[i] < 100)
  requires scale: 0.5 < s < 4
}
op counts @ 1.0 {
  dims M, N, K
  input a: i8[M, K], b: u8[K, N], ids: i64[M]
  output y: i32[M, N], z: i64[M]
  def {
    y[i, j] = sum.i32[k: K](a[i, k] * b[k, j])
    z[i] = sum.i64[k: K](a[i, k] * ids[i])
  }
  requires small: all[i: M](-1000 < ids[i] and ids[i] < 1000)
}
"""
RNG = np.random.default_rng(3)
INPUTS = {
    "rounded": {"x": RNG.standard_normal(400) * np.exp(RNG.uniform(-12, 4, 400)), "s": 1.5},
    "counts": {
        "a": RNG.integers(-128, 128, (5, 7)),
        "b": RNG.integers(0, 256, (7, 3)),
        "ids": RNG.integers(-999, 1000, 5),
    },
}


def operator(name: str) -> Operator:
    return parse_spec(SPEC).operator(name, {})


@pytest.mark.parametrize("name", list(INPUTS))
def test_results_are_those_of_the_reference(name: str) -> None:
    op = operator(name)
    c = arrays_candidate(op)
    stored = {
        t.name: encode(np.clip(np.asarray(INPUTS[name][t.name]), -999, 999), t.dtype)
        for t in op.inputs
    }
    wanted = reference(op, {t.name: decode(stored[t.name], t.dtype) for t in op.inputs}, {}, {})
    with Process(c.source, c.plan, op) as process:
        sizes = {s: 0 for s in op.free_sizes}
        found = process.call(stored, {}, sizes)
    for t in op.outputs:
        value = encode(np.asarray(wanted[t.name]), t.dtype)
        a, b = (decode(x, t.dtype) for x in (found[t.name], value))
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6, err_msg=t.name)


@pytest.mark.parametrize("name", list(INPUTS))
def test_the_text_reads_back_as_what_it_means(name: str) -> None:
    op = operator(name)
    found = static_gates(arrays_candidate(op), op)
    assert {r.status for r in found.records} <= {"PROVED", "TESTED"}, found.records
    if name == "rounded":
        assert found.gate("G5") == "PROVED"


WIDE = """opwright "0.1"
op wide @ 1.0 {
  dims M, N
  input x: f32[M, N], z: f32[N], w: f64[M]
  output p: f64[M, N], s: f64[M], d: f64[M], q: f32[M, N]
  def {
    p[i, j] = x[i, j] * z[j]
    s[i] = sum[j: N](x[i, j])
    d[i] = sum[j: N](x[i, j] * z[j])
    q[i, j] = -(2 + x[i, j]) * 0.5 + w[i]
  }
}
"""


def test_operands_of_32_bits_are_widened_where_a_result_has_64() -> None:
    op = parse_spec(WIDE).operator()
    x, z = RNG.standard_normal((5, 33)).astype(np.float32), RNG.standard_normal(33)
    inputs = {"x": x, "z": z.astype(np.float32), "w": RNG.standard_normal(5)}
    want = reference(op, inputs)
    c = arrays_candidate(op)
    with Process(c.source, c.plan, op) as process:
        got = process.call(inputs, {}, {"M": 5, "N": 33})
    for name in "psd":
        np.testing.assert_allclose(got[name], want[name], rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(got["q"], want["q"].astype(np.float32))


def test_masked_sums_of_narrow_numbers_are_wide() -> None:
    op = parse_spec("""opwright "0.1"
    op corner @ 1.0 {
      dims L
      input x: bf16[L, L]
      output y: f32
      def { y = sum[r: L, s: r..L](x[r, s]) }
    }""").operator("corner", {})
    assert ".astype(jnp.float32)" in print_operator(op)
