"""Single passes over dependent reductions: derived, proved, refused, equal to what was written."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from support.shipped import SPECS  # type: ignore[import-not-found]

from opwright.compiler.cascade.chain import Chain, chains, symbol
from opwright.compiler.cascade.derive import Plan, derive, moved
from opwright.compiler.cascade.prove import equal_over_reals, prove
from opwright.compiler.cascade.rewrite import Derivation, derivations, single_pass
from opwright.compiler.cascade.text import derivation_text
from opwright.compiler.elaborate import load_spec, parse_spec
from opwright.compiler.spaces import spaces
from opwright.ir.expr import evaluate
from opwright.ir.interpreter import run
from opwright.ir.op import Operator
from opwright.ir.reference import reference
from opwright.ir.tile import row_major
from opwright.search.space import IllegalSchedule
from opwright.verify.context import Context
from opwright.verify.draw import decoded
from opwright.verify.gates import safety
from opwright.verify.inputs import Case, generate
from opwright.verify.sizes import Limits

DATA = Path(__file__).parent / "data" / "chains.op"
REFUSED = {  # what the refusal names, with the rank of the sample
    "rounded": ("floor", "rank 12"),
    "mean_deviation": ("Abs", "rank 11"),
    "logistic_sum": ("sigmoid", "rank 12"),
}
FUSED = (
    "temperature", "weighted_variance", "skewness", "pearson", "entropy", "divergence", "backward",
    "likeliest", "deviation", "normal_dot", "smooth_max", "masked", "bilinear", "covariance",
    "turned",
)  # fmt: skip


@cache
def operator(name: str) -> Operator:
    return load_spec(DATA).operator(name, {})


@cache
def found(name: str) -> tuple[Derivation, ...]:
    return tuple(derivations(operator(name)))


def cases(op: Operator) -> list[Case]:
    """Ordinary and special values: NaN, infinities, ties, forced places of the maximum."""
    return list(generate(op, 3, 4, (), Limits(64, 1 << 10)).cases)


def agree(op: Operator, one: Operator, case: Case) -> None:
    inputs = decoded(op, case.inputs)
    want = reference(op, inputs, case.params, case.sizes)
    got = reference(one, inputs, case.params, case.sizes)
    for name, value in want.items():
        # a row of nothing but -inf has no value by the text, and the limit of one in a single pass
        known = ~np.isnan(value) if case.family == "negative_inf" else np.ones_like(value, bool)
        passed, text = np.where(known, got[name], 0), np.where(known, value, 0)
        np.testing.assert_allclose(passed, text, 1e-9, 1e-9, err_msg=f"{name} at {case}")


@pytest.mark.parametrize("name", FUSED)
def test_what_fuses_is_proved_and_means_the_same(name: str) -> None:
    assert found(name) and all(d.holds for d in found(name)), found(name)
    one = single_pass(operator(name))
    assert one is not None
    for case in cases(operator(name)):
        if name == "likeliest" and case.family in ("nan", "inf", "negative_inf"):
            continue  # exp loses the place of an infinite element: the order of NaN is another
        agree(operator(name), one, case)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_does_not_fuse_is_refused_with_a_witness(name: str) -> None:
    (d,) = found(name)
    assert d.plan is None and not d.holds and single_pass(operator(name)) is None
    for part in REFUSED[name]:
        assert part in d.refusal
    assert "no single pass" in derivation_text(d)


def test_a_jump_is_refused_by_the_lemma() -> None:
    (d,) = found("below")
    assert d.plan is not None and not equal_over_reals(d.records) and not d.holds
    assert any(r.status == "REFUTED" and ".lemma." in r.id for r in d.records)


def test_equal_over_the_reals_is_not_stable() -> None:
    (d,) = found("about_mean")
    assert equal_over_reals(d.records) and not d.holds
    assert [r.status for r in d.records if ".stability." in r.id] == ["REFUTED"]
    assert single_pass(operator("about_mean")) is None


def anchored(name: str) -> list[tuple[Chain, str]]:
    out = []
    for c in chains(operator(name)):
        assert isinstance(c, Chain)
        out += [(c, x.name) for x in derive(c).accumulators.values() if x.anchors]
    return out


MUTANTS = {
    "no correction": lambda x: symbol(x.name),
    "half a correction": lambda x: (x.row + symbol(x.name)) / 2,
    "the wrong way": lambda x: x.row.subs(
        {symbol(a): moved(symbol(a)) for a in x.anchors}
        | {moved(symbol(a)): symbol(a) for a in x.anchors},
        simultaneous=True,
    ),
}


@pytest.mark.parametrize("kind", sorted(MUTANTS))
@pytest.mark.parametrize("name", ["entropy", "normal_dot", "masked"])
def test_mutants_of_corrections_are_refuted(name: str, kind: str) -> None:
    for c, label in anchored(name):
        plan: Plan = derive(c)
        x = plan.accumulators[label]
        changed: Any = MUTANTS[kind](x)
        if (changed - x.row).simplify() == 0:
            continue
        plan.accumulators[label] = replace(x, raw=changed, row=changed)
        assert any(r.status == "REFUTED" for r in prove(plan)), (name, label)


def test_rows_without_anything_keep_what_the_spec_says() -> None:
    text = """opwright "0.1"
    op lse @ 1.0 {
      dims B, N
      where N >= 1
      input x: f32[B, N], k: bool[B, N]
      output y: f32[B], v: f32[B]
      def {
        m[b] = max[j: N](x[b, j])
        z[b] = sum[j: N | k[b, j]](exp(x[b, j] - m[b]))
        y[b] = if z[b] > 0 then m[b] + log(z[b]) else -inf
        n[b] = sum[j: N | k[b, j]](1.0)
        mu[b] = sum[j: N | k[b, j]](x[b, j]) / n[b]
        v[b] = if n[b] > 0 then
          sum[j: N | k[b, j]]((x[b, j] - mu[b]) * (x[b, j] - mu[b])) / n[b] else 7.0
      }
    }"""
    op = parse_spec(text).operator("lse", {})
    one = single_pass(op)
    assert one is not None
    x = np.array([[-np.inf, -np.inf, -np.inf], [-np.inf, 2.0, 3.0], [5.0, -3e38, 3e38], [1, 2, 4]])
    k = np.array([[1, 1, 1], [0, 1, 1], [0, 0, 0], [0, 1, 1]], bool)
    sizes = {"B": 4, "N": 3}
    with np.errstate(all="ignore"):
        want = reference(op, {"x": x, "k": k}, {}, sizes)
        got = reference(one, {"x": x, "k": k}, {}, sizes)
    np.testing.assert_allclose(got["y"], want["y"], 1e-12)
    assert got["y"][2] == -np.inf and got["v"][2] == 7.0
    np.testing.assert_allclose(got["v"][1:], want["v"][1:], 1e-12)


def programs(op: Operator, prefix: str) -> list[Any]:
    out = []
    for space in spaces(op, 8):
        if space.name.startswith(prefix):
            rng = Random(3)
            for schedule in dict.fromkeys([*space.preferred()[:1], space.sample(rng)]):
                try:
                    out.append(space.instantiate(schedule))
                except IllegalSchedule:
                    continue
    return out


@pytest.mark.parametrize("name", ["temperature", "entropy", "masked"])
def test_passes_are_lowered_and_safe(name: str) -> None:
    op = operator(name)
    made = programs(op, "once")
    assert made
    rng = np.random.default_rng(0)
    for program in made:
        assert {r.status for r in safety(program, Context.of(op))} == {"PROVED"}
        for sizes in ({"B": 2, "N": 75}, {"B": 1, "N": 1}):
            env: dict[str, Any] = dict(sizes)
            params = {}
            for p in op.params:
                assert p.default is not None
                params[p.name] = env[p.name] = evaluate(p.default, env)
            arrays = {}
            for t in op.inputs:
                shape = tuple(int(evaluate(e, env)) for e in t.shape)
                drawn = rng.normal(0, 3, shape)
                arrays[t.name] = drawn > 0 if t.kind == "bool" else drawn
            strides = {
                (t.name, n): int(evaluate(e, env))
                for t in (*op.inputs, *op.outputs)
                for n, e in enumerate(row_major(t.shape))
            }
            got = run(program, sizes, arrays, params, strides)
            want = reference(op, arrays, params, {})
            for k, v in want.items():
                np.testing.assert_allclose(got[k], v, 1e-9, 1e-9, err_msg=f"{k} at {sizes}")


@pytest.mark.parametrize(
    "path", ["nn/softmax.op", "nn/layernorm.op", "nn/causal_attention.op", "loss/cross_entropy.op"]
)
def test_the_library_has_its_passes(path: str) -> None:
    spec = load_spec(SPECS / path)
    op = spec.operator(None, spec.bindings()[0])
    made = derivations(op)
    assert made and all(d.holds for d in made)
    assert all("obligations:" in derivation_text(d) for d in made)
    one = single_pass(op)
    assert one is not None
    for case in cases(op)[:6]:
        agree(op, one, case)
