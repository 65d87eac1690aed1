"""Sums over groups as sums of sums: on a CPU, gradients with shared keys keep no entries."""

from __future__ import annotations

import numpy as np
import pytest
from support.shipped import SPECS

from opwright.compiler.autodiff import gradient
from opwright.compiler.autodiff_saved import saved_for
from opwright.compiler.elaborate import elaborate, load_spec
from opwright.compiler.grouped import grouped
from opwright.compiler.spaces import spaces
from opwright.grammar.parser import parse
from opwright.ir.expr import evaluate
from opwright.ir.interpreter import run
from opwright.ir.op import Operator
from opwright.ir.reference import reference
from opwright.verify.context import Context
from opwright.verify.gates import safety

FORMS = """
opwright "0.1"
op sums @ 1.0 {
  dims G, H, N, D
  where G >= 1, H %% G == 0
  input x: f32[H, N, D], w: f32[H, N]
  output y: f32[G, D]
  def { y[g, d] = %s }
}
"""


def sums(body: str) -> Operator:
    text = FORMS % body
    return elaborate(parse(text, "sums.op"), "sums", filename="sums.op", source=text)


def test_a_gradient_with_shared_keys_is_made_of_walks():
    (path,) = SPECS.rglob("attention.op")
    op = load_spec(path).operator()
    g = gradient(op, ["q", "k", "v"], saved_for(op, ["q", "k", "v"]))
    (space,) = [s for s in spaces(g, 8) if "walk" in s.name]
    program = space.instantiate(space.preferred()[0])
    for b in program.buffers():
        if b.role in ("plan", "program"):
            assert not {"Sq", "Skv"} <= {e.attr for e in b.shape if e.op == "size"}
    assert {r.status for r in safety(program, Context.of(g))} == {"PROVED"}
    sizes = {"B": 1, "Hq": 4, "Hkv": 2, "Sq": 5, "Skv": 9, "D": 6}
    rng = np.random.default_rng(0)
    arrays = {
        t.name: rng.standard_normal([int(evaluate(e, sizes)) for e in t.shape]) for t in g.inputs
    }
    arrays["z"] = np.abs(arrays["z"]) + 1
    params = {"causal": True, "scale": 0.25}
    got = run(program, sizes, arrays, params)
    for n, want in reference(g, arrays, params, sizes).items():
        np.testing.assert_allclose(got[n], want, rtol=1e-9, atol=1e-9)


def test_both_sums_give_what_the_one_gives():
    op = sums("sum.f32[h: H // G, i: N](w[g * (H // G) + h, i] * x[g * (H // G) + h, i, d])")
    two = grouped(op)
    assert two is not None and len(two.tensors) == 2
    sizes = {"G": 2, "H": 6, "N": 5, "D": 3}
    rng = np.random.default_rng(1)
    arrays = {"x": rng.standard_normal((6, 5, 3)), "w": rng.standard_normal((6, 5))}
    one, other = (reference(o, arrays, {}, sizes)["y"] for o in (op, two))
    np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize(
    "body",
    [
        "sum.f32[i: N](x[g, i, d])",
        "sum.f32[h: H // G, i: N](x[g * (H // G) + h, i, d] * f32(h))",  # not by one index alone
        "sum.f32[h: H // G, i: N | i <= h](x[g * (H // G) + h, i, d])",
        "max[h: H // G, i: N](x[g * (H // G) + h, i, d])",
    ],
)
def test_other_sums_stay(body):
    assert grouped(sums(body)) is None
