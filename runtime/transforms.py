"""What the smoke tests of a package ask of JAX's transformations, on the reference cases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .cases import load
from .jaxmain import arguments
from .jaxop import JaxOperator


def _examples(operator: JaxOperator) -> Iterator[tuple[Any, list[Any], tuple[Any, ...]]]:
    """(case, inputs, params and sizes), one for each binding."""
    seen: list[Any] = []
    for case in load(operator.folder):
        if case.types not in seen:
            seen.append(case.types)
            with operator.wide(case.types):
                yield (case, *arguments(operator, case))


def _same(operator: JaxOperator, got: Any, wanted: Any) -> None:
    jax = operator.jax
    for a, b in zip(jax.tree_util.tree_leaves(got), jax.tree_util.tree_leaves(wanted)):
        assert a.shape == b.shape and a.dtype == b.dtype
        x, y = operator.numbers(a), operator.numbers(b)
        largest = max((abs(v) for v in y if v == v and abs(v) != float("inf")), default=0.0)
        for v, w in zip(x, y):
            same = v == w or (v != v and w != w)
            assert same or abs(v - w) <= 1e-2 * largest, f"{v} is not {w}"


def jit(operator: JaxOperator) -> None:
    """Calls under an outer jit give what plain calls give."""
    for _, inputs, given in _examples(operator):
        traced = operator.jax.jit(lambda *xs, g=given: operator.call(xs, g))
        _same(operator, traced(*inputs), operator.call(inputs, given))


def grad(operator: JaxOperator) -> None:
    """Derivatives by every real input exist in its shape and type, where a result is real."""
    jax, spec = operator.jax, operator.spec
    for case, inputs, given in _examples(operator):
        binding = next(b for b in spec.bindings if b.types == case.types)
        real = tuple(n for n, e in enumerate(binding.inputs) if e[0] == "f" and e[1] != "8")
        if not real or not any(e[0] == "f" for e in binding.outputs):
            continue

        def total(*xs: Any, g: Any = given) -> Any:
            leaves = jax.tree_util.tree_leaves(operator.call(xs, g))
            kept = [y for y in leaves if jax.numpy.issubdtype(y.dtype, jax.numpy.floating)]
            return sum(y.astype(jax.numpy.float32).sum() for y in kept)

        for n, d in zip(real, jax.grad(total, argnums=real)(*inputs)):
            assert d.shape == inputs[n].shape and d.dtype == inputs[n].dtype


def vmap(operator: JaxOperator) -> None:
    """Mapping over each argument by itself gives what a loop over it gives."""
    jax = operator.jax
    for _, inputs, given in _examples(operator):
        for n, x in enumerate(inputs):
            stacked = jax.numpy.stack([x, x[::-1] if x.ndim and x.shape[0] > 1 else x])
            axes = [0 if m == n else None for m in range(len(inputs))]
            mapped = jax.vmap(lambda *xs, g=given: operator.call(xs, g), in_axes=axes)
            batch = mapped(*[stacked if m == n else y for m, y in enumerate(inputs)])
            for k in range(2):
                one = operator.call([stacked[k] if m == n else y for m, y in enumerate(inputs)],
                                    given)  # fmt: skip
                _same(operator, jax.tree_util.tree_map(lambda y, k=k: y[k], batch), one)
