"""Walks and their gradients in Triton's interpreter: one kernel each way, against PyTorch and the
float64 reference, where masks, ragged ends, few bits and rows without elements are traps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from support.shipped import SPECS

from opwright.backends.triton.run import interpret
from opwright.compiler.autodiff import gradient
from opwright.compiler.autodiff_saved import saved_for, saving
from opwright.compiler.block_spaces import spaces
from opwright.compiler.blocks import printed
from opwright.compiler.elaborate import elaborate, load_spec
from opwright.compiler.importing import static_gates
from opwright.grammar.parser import parse
from opwright.ir.dtypes import decode, encode
from opwright.ir.launch import bind_plan
from opwright.ir.op import Operator
from opwright.ir.reference import reference

torch = pytest.importorskip("torch")
WANTED = ("q", "k", "v")
MASKED = """
opwright "0.1"
op masked @ 1.0 {
  dims B, H, M, N, K
  where N >= 1, K >= 1
  type T in {f32, f16, bf16}
  input q: T[B, H, M, K], k: T[B, H, N, K], v: T[B, H, N, K], see: bool[B, M, N]
  output o: T[B, H, M, K]
  def {
    s[b, h, i, j] = rsqrt(f32(K)) * sum.f32[d: K](q[b, h, i, d] * k[b, h, j, d])
    m[b, h, i] = max[j: N | see[b, i, j]](s[b, h, i, j])
    p[b, h, i, j] = if see[b, i, j] then exp(s[b, h, i, j] - m[b, h, i]) else 0
    z[b, h, i] = sum.f32[j: N](p[b, h, i, j])
    t[b, h, i, d] = sum.f32[j: N](bf16(p[b, h, i, j]) * v[b, h, j, d])
    o[b, h, i, d] = if z[b, h, i] > 0 then t[b, h, i, d] / z[b, h, i] else 0
  }
  requires qf: all[b: B, h: H, i: M, d: K](-inf < q[b, h, i, d] < inf)
  requires kf: all[b: B, h: H, i: N, d: K](-inf < k[b, h, i, d] < inf)
  requires vf: all[b: B, h: H, i: N, d: K](-inf < v[b, h, i, d] < inf)
}
"""
Arrays = Mapping[str, Any]


def shipped(name: str, t: str = "f32") -> Operator:
    (path,) = SPECS.rglob(f"{name}.op")
    return load_spec(path).operator(name, {"T": t})


def masked(t: str) -> Operator:
    tree = parse(MASKED, "masked.op")
    return elaborate(tree, "masked", {"T": t}, filename="masked.op", source=MASKED)


class Ways:
    """The first programs of an operator and its gradient, proved."""

    def __init__(self, op: Operator, **decisions: Any) -> None:
        self.op, saved = op, saved_for(op, WANTED)
        self.forward, self.back = saving(op, saved), gradient(op, WANTED, saved)
        self.runs = {g.name: self._candidate(g, decisions) for g in (self.forward, self.back)}

    def _candidate(self, op: Operator, decisions: Mapping[str, Any]) -> Any:
        space = next(s for s in spaces(op) if "stream" in s.name)
        schedule = space.preferred()[0].changed("aligned", False)
        own = {"rows": 16, "block": 16, "hold": 32, "even": False, **decisions}
        for key in [k for k in space.holes if k.rpartition(".")[2] == "hold"]:
            for n, v in own.items():
                name = f"{key.removesuffix('hold')}{n}"
                if name in space.holes:
                    schedule = schedule.changed(name, v)
        program = space.instantiate(schedule)
        # forward: one kernel; backward: a sum over columns, then one kernel
        assert len(program.kernels) == (1 if op is self.forward else 2)
        c = printed(program, op, "sm_90")
        records = [r for r in static_gates(c, op).records if r.kind != "G5"]
        assert {r.status for r in records} == {"PROVED"}, [
            r for r in records if r.status != "PROVED"
        ]
        return c.source, bind_plan(c.plan, op), op

    def call(self, op: Operator, values: Arrays, sizes: Mapping[str, int], params: Arrays) -> Any:
        """Outputs in float64, of inputs that are rounded to what they are stored in."""
        source, bound, _ = self.runs[op.name]
        arrays = {t.name: stored(values[t.name], t.dtype) for t in op.inputs}
        made = interpret(source, bound, arrays, sizes, params)
        return {t.name: np.asarray(decode(made[t.name], t.dtype), np.float64) for t in op.outputs}

    def both(
        self, values: Arrays, back_of: Arrays, sizes: Mapping[str, int], params: Arrays
    ) -> tuple[Any, Any]:
        """(outputs, gradients) of one call each way."""
        made = self.call(self.forward, values, sizes, params)
        return made, self.call(self.back, {**values, **made, **back_of}, sizes, params)


def stored(x: Any, d: Any) -> Any:
    return encode(np.asarray(x, np.float64), d) if d.kind == "real" else np.asarray(x, d.storage)


def rounded(x: Any, d: Any) -> Any:
    return np.asarray(decode(stored(x, d), d), np.float64)


def by_torch(o: Any, tensors: Any, back: Any) -> list[Any]:
    found = torch.autograd.grad((o * torch.tensor(back)).sum(), tensors)
    return [x.numpy() for x in found]


@pytest.mark.parametrize(("queries", "keys", "depth"), [(5, 21, 5), (17, 17, 24)])
def test_shared_keys_and_ragged_ends(queries, keys, depth):
    ways = Ways(shipped("attention"))
    sizes = {"B": 1, "Hq": 4, "Hkv": 2, "Sq": queries, "Skv": keys, "D": depth}
    rng = np.random.default_rng(1)
    shapes = {"q": (1, 4, queries, depth), "k": (1, 2, keys, depth), "v": (1, 2, keys, depth)}
    values = {n: rng.standard_normal(s) for n, s in shapes.items()}
    back = {"d_o": rng.standard_normal(shapes["q"]), "d_lse": np.zeros((1, 4, queries))}
    made, got = ways.both(values, back, sizes, {"causal": True, "scale": 0.4})
    q, k, v = tensors = [torch.tensor(values[n], requires_grad=True) for n in WANTED]
    see = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    wide = (x.repeat_interleave(2, 1) for x in (k, v))
    o = torch.nn.functional.scaled_dot_product_attention(q, *wide, attn_mask=see, scale=0.4)
    np.testing.assert_allclose(made["o"], o.detach().numpy(), rtol=1e-4, atol=1e-5)
    for n, want in zip(WANTED, by_torch(o, tensors, back["d_o"]), strict=True):
        np.testing.assert_allclose(got[f"d_{n}"], want, rtol=1e-4, atol=2e-5, err_msg=n)


def test_runs_of_different_lengths():
    op = shipped("varlen_attention")
    ends = [0, 1, 18, 23]
    count, heads, depth = 23, 2, 6
    sizes = {"N": count, "H": heads, "D": depth}
    rng = np.random.default_rng(2)
    values: dict[str, Any] = {n: rng.standard_normal((count, heads, depth)) for n in WANTED}
    runs = np.searchsorted(ends, np.arange(count), "right") - 1
    values["first"] = np.array([ends[r] for r in runs])
    values["last"] = np.array([ends[r + 1] for r in runs])
    back = {"d_o": rng.standard_normal((count, heads, depth))}
    made, got = Ways(op).both(values, back, sizes, {"scale": 0.5})
    tensors = [torch.tensor(values[n], requires_grad=True) for n in WANTED]
    see = torch.tensor(runs[:, None] == runs[None, :])
    across = [x.transpose(0, 1) for x in tensors]
    o = torch.nn.functional.scaled_dot_product_attention(*across, attn_mask=see, scale=0.5)
    o = o.transpose(0, 1)
    np.testing.assert_allclose(made["o"], o.detach().numpy(), rtol=1e-4, atol=1e-5)
    for n, want in zip(WANTED, by_torch(o, tensors, back["d_o"]), strict=True):
        np.testing.assert_allclose(got[f"d_{n}"], want, rtol=1e-4, atol=2e-5, err_msg=n)


@pytest.mark.parametrize("t", ["f32", "f16", "bf16"])
def test_rows_without_elements_and_large_scores(t):
    op = masked(t)
    ways = Ways(op, narrow=t != "f32")
    dots = [line for line in ways.runs[op.name + "_saving_m_z"][0].splitlines() if "tl.dot" in line]
    short = {"f16": "tl.float16", "bf16": "tl.bfloat16"}.get(t, "ieee")
    assert any(short in line for line in dots)  # the second product is one of the inputs' type
    sizes = {"B": 2, "H": 1, "M": 19, "N": 18, "K": 7}
    rng = np.random.default_rng(3)
    d = op.inputs[0].dtype
    shapes = {"q": (2, 1, 19, 7), "k": (2, 1, 18, 7), "v": (2, 1, 18, 7)}
    values: dict[str, Any] = {n: rounded(rng.standard_normal(s), d) for n, s in shapes.items()}
    values["q"] = rounded(values["q"] * 60, d)  # scores whose exponentials overflow every type
    see = rng.random((2, 19, 18)) < 0.4
    see[0, 3] = see[1, 18] = False
    see[0, :, 17] = see[1, :, 0] = False
    values["see"] = see
    back = {"d_o": rounded(rng.standard_normal(shapes["q"]), d)}
    made, got = ways.both(values, back, sizes, {})
    want = reference(op, values, {}, sizes)["o"]
    loose = {"f32": (1e-4, 1e-4), "f16": (2e-3, 1e-2), "bf16": (2e-2, 6e-2)}[t]
    np.testing.assert_allclose(made["o"], want, rtol=loose[0], atol=loose[0])
    assert not made["o"][0, 0, 3].any() and not made["o"][1, 0, 18].any()
    assert made["m"][0, 0, 3] == -np.inf and made["z"][0, 0, 3] == 0
    plain = gradient(op, WANTED)
    every = {**values, **back, "o": made["o"]}
    exact = reference(plain, {t.name: every[t.name] for t in plain.inputs}, {}, sizes)
    for n, a in exact.items():
        assert np.isfinite(got[n]).all(), n
        size = np.abs(a).max()
        np.testing.assert_allclose(got[n] / size, a / size, atol=loose[1], err_msg=n)
    assert not got["d_q"][0, 0, 3].any() and not got["d_k"][0, 0, 17].any()
