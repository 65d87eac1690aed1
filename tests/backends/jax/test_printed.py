"""Printed functions agree with the reference under jit, and survive grad and vmap."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from opwright.backends.jax.plan import make_plan
from opwright.backends.jax.policy import check_policy
from opwright.backends.jax.printer import (
    function_name,
    needs_x64,
    print_operator,
    static_names,
)
from opwright.compiler.elaborate import Spec, load_spec
from opwright.ir.op import Operator
from opwright.ir.plan import from_json
from opwright.ir.reference import reference
from opwright.verify.inputs import Case, generate
from opwright.verify.numeric import bounds, wrong

jax = pytest.importorskip("jax")

ROOT = Path(__file__).resolve().parents[3]
FILES = [*sorted(ROOT.joinpath("specs").rglob("*.op")), ROOT / "tests/compiler/data/shapes.op"]
SPECS: dict[str, Spec] = {}
BINDINGS: list[tuple[str, str]] = []
for file in FILES:
    loaded = load_spec(file)
    for own in loaded.names:
        SPECS[own] = loaded
        every_binding = loaded.bindings(own)
        if file.stem != "shapes" and len(SPECS) % 4:
            continue  # a part of the library, one type each: all of it would take minutes
        chosen_binding = every_binding[len(SPECS) % len(every_binding)]
        BINDINGS.append((own, ",".join(chosen_binding.values())))
STORED = {
    "bf16": ml_dtypes.bfloat16,
    "f8e4m3": ml_dtypes.float8_e4m3fn,
    "f8e5m2": ml_dtypes.float8_e5m2,
}
EXCUSED = {("rounding", "nan")}  # NaN has no nearest integer


def operator(name: str, types: str = "") -> Operator:
    spec = SPECS[name]
    every = spec.bindings(name)
    chosen = next((b for b in every if ",".join(b.values()) == types), every[0])
    return spec.operator(name, chosen)


def function(op: Operator) -> Callable[..., Any]:
    jax.config.update("jax_enable_x64", needs_x64(op))
    names: dict[str, Any] = {}
    source = print_operator(op)
    check_policy(source, "kernel.py")
    exec(source, names)
    found: Callable[..., Any] = names[function_name(op)]
    return found


@pytest.fixture(autouse=True)
def narrow() -> Any:
    yield
    jax.config.update("jax_enable_x64", False)


def arguments(op: Operator, case: Case) -> tuple[list[Any], dict[str, Any]]:
    arrays = []
    for t in op.inputs:
        a = case.inputs[t.name]
        arrays.append(a.view(STORED[t.dtype.name]) if t.dtype.name in STORED else a)
    return arrays, {**case.params, **{s: case.sizes[s] for s in op.free_sizes}}


def call(op: Operator, f: Callable[..., Any], case: Case) -> dict[str, np.ndarray]:
    arrays, named = arguments(op, case)
    found = f(*arrays, **named)
    results = found if isinstance(found, tuple) else (found,)
    out = {}
    for t, x in zip(op.outputs, results, strict=True):
        a = np.asarray(x)
        out[t.name] = a.view(t.dtype.storage) if t.dtype.name in STORED else a
        assert out[t.name].dtype == np.dtype(t.dtype.storage), t.name
    return out


def meaning(op: Operator) -> Callable[..., Mapping[str, Any]]:
    return lambda inputs, sizes, params: reference(
        op, inputs, params, {k: v for k, v in sizes.items() if k in op.free_sizes}
    )


@pytest.mark.parametrize(("name", "types"), BINDINGS)
def test_agrees_with_the_reference(name: str, types: str) -> None:
    op = operator(name, types)
    f = function(op)
    ran = 0
    for case in generate(op, seed=1, count=3).cases:
        if (name, case.family) in EXCUSED or case.family == "denormal":  # XLA flushes those
            continue
        found = call(op, f, case)
        for t in op.outputs:
            b = bounds(op, case, meaning(op))[t.name]
            bad, share = wrong(t, found[t.name], b)
            # without a written tolerance the default one knows nothing of XLA's own functions
            assert not bad.any() or (t.dtype.name not in op.tolerance and share < 4), (
                f"{t.name} on {case}: {int(bad.sum())} wrong, {share:.2g} of the tolerance"
            )
        ran += 1
    assert ran >= 2


def test_the_plan_is_one_call_by_name() -> None:
    op = operator("masked_rows")
    plan = make_plan(op)
    assert from_json(plan.to_json()).launches[0].args == ("q", "k", "v", "causal", "scale")
    assert plan.backend == "jax" and plan.launches[0].kernel == "masked_rows"
    assert static_names(op) == ("causal",)
    assert static_names(operator("scattered")) == ("V",)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("batched_matmul", 'jnp.einsum("bik,bkj->bij"'),
        ("cumsum", "lax.cumsum(x, axis=1)"),
        ("window", "lax.conv_general_dilated(jnp.pad(x, ((0, 0), (0, 0), (pad, pad))), w"),
        ("conv2d_bias_relu", "padding=((pad, pad), (pad, pad)), rhs_dilation"),
        ("scattered", "jax.ops.segment_sum(g, ids, num_segments=V)"),
        ("scan_state", "lax.scan(step"),
        ("column_sum", "jnp.sum(x, axis=0"),
        ("turned", "x.T"),
        ("embedding", "table[jnp.clip(ids, 0, V - 1)]"),
        ("causal_attention", "jnp.where(keep, jnp.exp(jnp.where(keep, s - m"),
    ],
)
def test_forms_are_written_as_people_write_them(name: str, wanted: str) -> None:
    text = print_operator(operator(name))
    assert "".join(wanted.split()) in "".join(text.split())


DIFFERENTIABLE = ["softmax", "layernorm", "causal_attention", "conv2d_bias_relu", "entropy",
                  "scan_state", "masked_rows", "segments", "halves",
                  "matmul_bias_gelu"]  # fmt: skip


def small_case(op: Operator) -> Case:
    cases = generate(op, seed=5, count=8, specials=False, families=("normal",)).cases
    legal = [c for c in cases if min(c.sizes.values(), default=1) > 0]
    return min(legal, key=lambda c: sum(a.size for a in c.inputs.values()))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    op = operator(name)
    jax.config.update("jax_enable_x64", True)
    names: dict[str, Any] = {}
    source = print_operator(op)
    exec(source, names)
    step = 1e-3 if "float32" in source else 1e-6  # values inside may be computed in f32
    case = small_case(op)
    arrays, named = arguments(op, case)
    if "lax.scan" not in source:  # a carry keeps its type
        arrays = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays]
    reals = [k for k, t in enumerate(op.inputs) if t.kind == "real"]

    def total(*given: Any) -> Any:
        full = list(arrays)
        for k, x in zip(reals, given, strict=True):
            full[k] = x
        found = names[function_name(op)](*full, **named)
        first = found[0] if isinstance(found, tuple) else found
        weights = np.cos(np.arange(first.size)).reshape(first.shape)
        return (first * weights).sum()

    given = [arrays[k] for k in reals]
    found = jax.grad(total, argnums=tuple(range(len(given))))(*given)
    rng = np.random.default_rng(0)
    for k, (x, g) in enumerate(zip(given, found, strict=True)):
        assert np.isfinite(g).all(), op.inputs[reals[k]].name
        direction = rng.standard_normal(x.shape)
        ends = []
        for sign in (1, -1):
            moved = list(given)
            moved[k] = (x + sign * step * direction).astype(x.dtype)
            ends.append(float(total(*moved)))
        slope = (ends[0] - ends[1]) / (2 * step)
        assert abs(slope - float((g * direction).sum())) <= 2e-2 * (1 + abs(slope))


@pytest.mark.parametrize("name", ["layernorm", "embedding", "causal_attention", "cumsum", "argmax",
                                  "window", "scattered", "scan_state", "segments"])  # fmt: skip
def test_vmap_over_every_argument(name: str) -> None:
    op = operator(name)
    f = function(op)
    arrays, named = arguments(op, small_case(op))
    several = [np.stack([a, a[..., ::-1] if a.dtype.kind == "f" and a.ndim else a]) for a in arrays]

    def plain(*given: Any) -> tuple[Any, ...]:
        found = f(*given, **named)
        return found if isinstance(found, tuple) else (found,)

    for k in range(len(arrays)):
        axes = [0 if n == k else None for n in range(len(arrays))]
        given = [several[n] if n == k else a for n, a in enumerate(arrays)]
        found = jax.vmap(plain, in_axes=axes)(*given)
        for row in range(2):
            own = plain(*[several[n][row] if n == k else a for n, a in enumerate(arrays)])
            for a, b in zip(found, own, strict=True):
                np.testing.assert_allclose(
                    np.asarray(a[row], np.float64), np.asarray(b, np.float64), rtol=1e-4, atol=1e-5
                )
