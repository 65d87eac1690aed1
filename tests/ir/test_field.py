"""Real numbers as elements of finite fields: which laws hold, and what is told apart."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from support.shipped import SPECS

from opwright.compiler.elaborate import load_spec
from opwright.ir.dtypes import decode
from opwright.ir.field import Reals
from opwright.ir.field_meaning import FieldEvaluator
from opwright.ir.interpreter import run
from opwright.ir.labelled import Array
from opwright.ir.readings import Fields
from opwright.ir.reference import reference
from opwright.ir.tiletext import parse_program
from opwright.verify.inputs import generate
from opwright.verify.sizes import Limits

R = Reals(1)
X, Y = (R.given(np.random.default_rng(n).uniform(0.2, 1.7, 40)) for n in (1, 2))


def lit(number: float) -> Array:
    return np.broadcast_to(R.literal(number), X.shape)


def f(name: str, x: Array) -> Array:
    return R.function(name, x)


LAWS: dict[str, Callable[[], tuple[Array, Array]]] = {
    "distributive": lambda: (R.mul(X, R.add(X, Y)), R.add(R.mul(X, X), R.mul(X, Y))),
    "quotient": lambda: (R.mul(R.div(X, Y), Y), X),
    "exp of a sum": lambda: (f("exp", R.sub(X, Y)), R.div(f("exp", X), f("exp", Y))),
    "log of a product": lambda: (f("log", R.mul(X, Y)), R.add(f("log", X), f("log", Y))),
    "log of exp": lambda: (f("log", f("exp", X)), X),
    "log of a quotient": lambda: (
        f("log", R.div(f("exp", X), R.add(X, Y))),
        R.sub(X, f("log", R.add(X, Y))),
    ),
    "roots": lambda: (R.mul(f("sqrt", X), f("sqrt", Y)), f("sqrt", R.mul(X, Y))),
    "rsqrt": lambda: (R.mul(X, f("rsqrt", Y)), R.div(X, f("sqrt", Y))),
    "tanh by exp": lambda: (
        f("tanh", X),
        R.sub(lit(1.0), R.div(lit(2.0), R.add(f("exp", R.add(X, X)), lit(1.0)))),
    ),
    "sigmoid by tanh": lambda: (
        f("sigmoid", X),
        R.mul(lit(0.5), R.add(lit(1.0), f("tanh", R.mul(lit(0.5), X)))),
    ),
    "exp2 with a literal": lambda: (f("exp2", R.mul(X, lit(1.4426950408889634))), f("exp", X)),
    "a literal in single precision": lambda: (R.mul(X, lit(1.4426950216293335)),
                                              R.mul(X, lit(math.log2(math.e)))),
    "root of a literal": lambda: (R.mul(X, lit(0.7071067811865476)), R.div(X, f("sqrt", lit(2.0)))),
    "a third": lambda: (R.mul(X, lit(0.3333333432674408)), R.div(X, lit(3.0))),
    "whole power": lambda: (R.pow(X, lit(3.0)), R.mul(X, R.mul(X, X))),
    "half power": lambda: (R.pow(X, lit(-0.5)), f("rsqrt", X)),
    "real power": lambda: (R.pow(X, Y), f("exp", R.mul(Y, f("log", X)))),
    "square of a root": lambda: (R.mul(f("sqrt", X), f("sqrt", X)), X),
    "exp of log": lambda: (f("exp", R.sub(X, f("log", Y))), R.div(f("exp", X), Y)),
    "odd": lambda: (f("erf", R.neg(X)), R.neg(f("erf", X))),
    "expm1 of log1p": lambda: (f("expm1", f("log1p", X)), X),
}  # fmt: skip


@pytest.mark.parametrize("name", LAWS)
def test_laws_of_the_reals_hold(name: str) -> None:
    a, b = LAWS[name]()
    same, unknown = R.agree(a, b)
    assert (same | unknown).all()
    assert unknown.mean() < 0.6  # roots and logarithms of what is no square modulo any prime
    assert np.allclose(R.shadow(a), R.shadow(b), rtol=1e-6)


UNLIKE: dict[str, Callable[[], tuple[Array, Array]]] = {
    "exp of a sum": lambda: (f("exp", R.add(X, Y)), f("exp", X)),
    "epsilon outside of the root": lambda: (
        f("sqrt", R.add(X, lit(1e-30))),
        R.add(f("sqrt", X), lit(1e-30)),
    ),
    "one less": lambda: (R.div(X, lit(7.0)), R.div(X, lit(6.0))),
    "functions": lambda: (f("sin", X), f("cos", X)),
    "nearly 1": lambda: (X, R.mul(X, lit(1.000001))),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_what_differs_a_little_differs(name: str) -> None:
    a, b = UNLIKE[name]()
    same, unknown = R.agree(a, b)
    assert not same.any()
    assert unknown.mean() < 0.6


def test_order_is_that_of_the_floats_and_equality_that_of_the_fields() -> None:
    assert (R.less(X, Y) == (X["v"] < Y["v"])).all()
    again = R.div(R.mul(X, Y), Y)
    assert R.equal(again, X).all()
    assert not R.less(again, X).any()
    top = R.reduce("max", X, 0)
    assert top["v"] == X["v"].max()


def test_infinities_and_what_is_undefined() -> None:
    minus, zero = R.given(np.array([-math.inf])), R.given(np.array([0.0]))
    assert R.shadow(f("exp", minus)) == [0.0]
    assert np.isnan(R.shadow(R.sub(minus, minus)))
    assert R.shadow(R.div(R.given(np.array([-2.5])), zero)) == [-math.inf]
    assert R.shadow(R.mul(minus, R.given(np.array([-0.3])))) == [math.inf]
    assert R.shadow(R.better("max", minus, zero)) == [0.0]
    assert R.shadow(f("log", zero)) == [-math.inf]


NAMES = ["softmax", "layernorm", "matmul", "cross_entropy", "cumsum", "causal_attention", "argmax"]


@pytest.mark.parametrize("name", NAMES)
def test_the_meaning_over_fields_is_the_meaning(name: str) -> None:
    found = sorted(SPECS.rglob(f"{name}.op"))
    op = load_spec(found[0]).operator()
    limits = Limits(elements=1 << 9)
    for case in generate(op, 0, 3, (4,), limits, families=("normal",), specials=False).cases:
        plain = {t.name: decode(case.inputs[t.name], t.dtype) for t in op.inputs}
        evaluator = FieldEvaluator(op, {**case.params, **case.sizes}, plain, R)
        evaluator.run()
        free = {s: case.sizes[s] for s in op.free_sizes}
        wanted = reference(op, plain, case.params, free)
        for t in op.outputs:
            x = evaluator.arrays[t.name]
            shadow = R.shadow(x) if t.kind == "real" else x
            assert np.allclose(shadow, wanted[t.name], rtol=1e-6, atol=1e-9, equal_nan=True)


SUMS = """program sums
sizes B, N
kernel k
  grid B
  in x: f32[B, N]
  out y: f32[B]
  axis n = 4
  body
    acc: f32 = full 0.0
    for i in 0 .. N by 4 carry a = acc -> r:
      v: f32[n] = load x[p0, i + n] if i + n < N else 0
      e: f32[n] = exp v
      z: f32 = full 0.0
      m: bool[n] = index i + n < N
      s: f32[n] = select m e z
      t: f32 = reduce sum s over n
      u: f32 = add a t
      next u
    st: store y[p0] = r
"""


def test_a_program_runs_over_fields_as_over_floats() -> None:
    x = np.random.default_rng(0).standard_normal((3, 9))
    program = parse_program(SUMS)
    floats = run(program, {"B": 3, "N": 9}, {"x": x})["y"]
    fields = run(program, {"B": 3, "N": 9}, {"x": x}, reals=Fields(R))["y"]
    assert np.allclose(R.shadow(fields), floats)
    given = R.function("exp", R.given(x))
    assert R.agree(R.reduce("sum", given, 1), fields)[0].all()
