"""Functions that people write: wrong ones are refused with a call that shows it, right ones are
not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opwright.backends.jax.plan import make_plan
from opwright.backends.jax.policy import check_policy
from opwright.compiler.candidates import Candidate
from opwright.compiler.elaborate import load_spec
from opwright.compiler.functional import functional_gates, functional_numeric
from opwright.ir.launch import ImportRefusal
from opwright.ir.op import Operator
from opwright.ir.record import Record
from opwright.ir.reference import reference
from opwright.verify.inputs import Case, generate
from opwright.verify.numeric import Bound, bounds

jax = pytest.importorskip("jax")

ROOT = Path(__file__).resolve().parents[3]
HEAD = "import jax\nimport jax.numpy as jnp\nfrom jax import lax\n\n"


def operator(path: str, name: str) -> Operator:
    spec = load_spec(ROOT / path)
    return spec.operator(name, spec.bindings(name)[0])


def candidate(op: Operator, body: str) -> Candidate:
    return Candidate(make_plan(op), HEAD + body)


def judged(op: Operator, c: Candidate) -> list[Record]:
    known: dict[int, Any] = {}

    def bound(case: Case) -> dict[str, Bound]:
        if id(case) not in known:
            known[id(case)] = bounds(op, case, lambda x, s, p: reference(op, x, p, s))
        found: dict[str, Bound] = known[id(case)]
        return found

    return list(functional_numeric(c, op, generate(op, 0, 14).cases, bound).records)


SHAPES = "tests/compiler/data/shapes.op"
SOFTMAX, SUM = "specs/nn/softmax.op", "specs/reduce/row_sum.op"
# the spec, its operator, a wrong function and the gate that refuses it
WRONG = [
    (SOFTMAX, "softmax", "return jax.nn.softmax(x, axis=0)", "G4"),
    (SUM, "row_sum", "return jnp.sum(x[:, : x.shape[1] - 1], axis=1)", "G4"),
    ("specs/reduce/cumsum.op", "cumsum", "return jnp.cumsum(x, axis=1) - x", "G4"),
    ("specs/reduce/argmax.op", "argmax",
     "return x.shape[1] - 1 - jnp.argmax(x[:, ::-1], axis=1)", "G4"),
    ("specs/nn/gelu.op", "gelu", "return jax.nn.gelu(x, approximate=True)", "G4"),
    (SOFTMAX, "softmax", "e = jnp.exp(x)\n    return e / jnp.sum(e, axis=1, keepdims=True)", "G6"),
    ("specs/reduce/argmax.op", "argmax",
     "return jnp.argmax(jnp.where(jnp.isnan(x), -jnp.inf, x), axis=1)", "G6"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "name", "body", "gate"), WRONG)
def test_wrong_functions_are_refused_with_a_call(
    path: str, name: str, body: str, gate: str
) -> None:
    op = operator(path, name)
    c = candidate(op, f"def {name}(x):\n    {body}\n")
    records = functional_gates(c, op)
    if gate == "G6":  # right over the real numbers, or on all that are none
        assert not any(r.status == "REFUTED" for r in records)
        records = judged(op, c)
    refused = next(r for r in records if r.status == "REFUTED")
    assert refused.kind == gate
    shown = refused.counterexample
    assert shown is not None and shown["found"] != shown["expected"]
    if "inputs" in shown and gate == "G4":
        names: dict[str, Any] = {}
        exec(c.source, names)
        again = names[name](np.asarray(shown["inputs"]["x"], np.float32).reshape(
            [shown["sizes"][s] for s in op.sizes]))  # fmt: skip
        value = float(np.asarray(again)[tuple(shown["index"])])
        assert value == pytest.approx(float(shown["found"]), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        "jax.debug.print('{}', x)\n    return jnp.sum(x, axis=1)",
        "return jax.pure_callback(lambda x: x.sum(1), x[:, 0], x)",
        "row_sum.calls = 1\n    return jnp.sum(x, axis=1)",
        "jnp.sum = jnp.max\n    return jnp.sum(x, axis=1)",
        "try:\n        return x[:, 7]\n    except IndexError:\n        return jnp.sum(x, axis=1)",
    ],
)
def test_what_reaches_outside_is_refused_unread(body: str) -> None:
    with pytest.raises(ImportRefusal):
        check_policy(f"{HEAD}def row_sum(x):\n    {body}\n", "kernel.py")


def test_a_default_that_calls_change_is_refused() -> None:
    with pytest.raises(ImportRefusal, match="default"):
        check_policy(f"{HEAD}def f(x, seen=[]):\n    return x\n", "kernel.py")


def test_what_depends_on_a_certain_size_is_not_proved_for_all() -> None:
    op = operator(SUM, "row_sum")
    body = "def row_sum(x):\n    y = jnp.sum(x, 1)\n    return y * 2 if x.shape[1] == 128 else y\n"
    found = {r.id: r for r in functional_gates(candidate(op, body), op)}
    assert found["G5.y"].status == "UNKNOWN" and "pinned" in found["G5.y"].reason


RIGHT = [
    (SOFTMAX, "softmax", "def row(r):\n    e = jnp.exp(r - r.max())\n    return e / e.sum()\n\n"
     "def softmax(x):\n    return jax.vmap(row)(x)\n"),
    ("specs/linalg/matmul.op", "matmul",
     "def matmul(a, b):\n    return jnp.einsum('ik,kj->ij', a, b, precision='highest')\n"),
    ("specs/nn/gelu.op", "gelu", "@jax.custom_jvp\ndef act(x):\n    return jax.nn.gelu(x, "
     "approximate=False)\n\n@act.defjvp\ndef slope(primals, tangents):\n    x, = primals\n"
     "    return act(x), tangents[0]\n\ndef gelu(x):\n    return act(x)\n"),
    ("specs/reduce/cumsum.op", "cumsum", "def cumsum(x):\n    def step(c, r):\n"
     "        return c + r, c + r\n    return lax.scan(step, jnp.zeros(x.shape[0]), x.T)[1].T\n"),
    (SHAPES, "scattered", "def scattered(g, ids, V):\n"
     "    return jnp.zeros((V, g.shape[1]), g.dtype).at[ids].add(g)\n"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "name", "source"), RIGHT)
def test_right_functions_are_not_refuted(path: str, name: str, source: str) -> None:
    op = operator(path, name)
    c = candidate(op, source)
    found = {r.id: r.status for r in functional_gates(c, op)}
    assert found["G1.import"] == "PROVED" and found["G4.values"] == "TESTED"
    assert not any(r.status in ("REFUTED", "UNKNOWN") for r in judged(op, c))
