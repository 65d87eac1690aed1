"""Gradients as people have them: torch's autograd, what torch.compile makes of it, and JAX's
reverse mode. Each keeps what its forward pass saved, and the calls time the backward pass alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.benchmarks.baselines import (
    COMPILE_LIMIT,
    Baseline,
    Call,
    first_line,
    to_jax,
    to_torch,
    tried,
    with_sizes,
)
from opwright.ir.op import Operator
from opwright.verify.draw import draw_inputs
from opwright.verify.inputs import Case
from opwright.verify.sizes import all_params

PREFIX = "d_"


def backward_calls(
    b: Baseline,
    forward: Operator,
    gradient: Operator,
    wrt: Sequence[str],
    case: Case,
    inputs: Mapping[str, NDArray[Any]],
    only: Sequence[str],
    threads: int,
    limit: float = COMPILE_LIMIT,
) -> dict[tuple[str, str], Call | str]:
    """Calls by (implementation, mode) of the gradient of `forward` with respect to `wrt`, warmed
    up, or why there is none. `inputs` are those of `gradient`; what of the forward pass it does not
    take is drawn here, since no gradient depends on it in time.
    """
    params = with_sizes(case.params, case.sizes)
    dtypes = {t.name: t.dtype.name for t in (*forward.inputs, *gradient.inputs)}
    if any(t.name not in inputs for t in forward.inputs):
        # a gradient that reads outputs only, as that of a softmax does
        inputs = {**_drawn(forward, case), **inputs}
    out: dict[tuple[str, str], Call | str] = {}
    if "torch" in only or "torch.compile" in only:
        out |= _torch(b, forward, wrt, params, inputs, dtypes, only, threads, limit)
    if "jax" in only:
        out |= _jax(b, forward, wrt, params, inputs, dtypes, limit)
    if "onnxruntime" in only:
        out["onnxruntime", "fresh"] = "onnxruntime: runs no gradients without its training build"
    return out


def _drawn(forward: Operator, case: Case) -> dict[str, NDArray[Any]]:
    """Inputs of the forward pass at the sizes of a case of its gradient."""
    names = {p.name for p in forward.params}
    params = {k: v for k, v in case.params.items() if k in names}
    sizes = {k: v for k, v in case.sizes.items() if k in forward.sizes}
    return draw_inputs(forward, sizes, all_params(forward, sizes, params), "normal", 0)


def _torch(
    b: Baseline,
    forward: Operator,
    wrt: Sequence[str],
    params: Mapping[str, Any],
    inputs: Mapping[str, NDArray[Any]],
    dtypes: Mapping[str, str],
    only: Sequence[str],
    threads: int,
    limit: float,
) -> dict[tuple[str, str], Call | str]:
    names = [n for n in ("torch", "torch.compile") if n in only]
    try:
        import torch
    except ImportError:
        return {(n, "fresh"): "torch is not installed" for n in names}
    torch.set_num_threads(threads)
    try:
        x = {t.name: to_torch(torch, inputs[t.name], t.dtype.name) for t in forward.inputs}
    except (RuntimeError, TypeError, ValueError) as e:
        return {(n, "fresh"): f"torch: {first_line(e)}" for n in names}
    leaves = [x[n].detach().requires_grad_() for n in wrt]
    others = {n: v for n, v in x.items() if n not in wrt}
    outputs = [t.name for t in forward.outputs]

    def function(*given: Any) -> list[Any]:
        y = b.torch(torch, {**others, **dict(zip(wrt, given, strict=True))}, params)
        found = y if isinstance(y, dict) else {outputs[0]: y}
        return [found[n] for n in outputs]

    def backward(call: Any) -> Call:
        y = call(*leaves)
        moving = [(n, v) for n, v in zip(outputs, y, strict=True) if v.requires_grad]
        seeds = []
        for n, v in moving:
            g = inputs.get(PREFIX + n)
            made = torch.randn_like(v) if g is None else to_torch(torch, g, dtypes[PREFIX + n])
            seeds.append(made.reshape(v.shape).to(v.dtype))
        values = [v for _, v in moving]

        def again() -> object:
            return torch.autograd.grad(values, leaves, seeds, retain_graph=True, allow_unused=True)

        again()
        return again

    out: dict[tuple[str, str], Call | str] = {}
    if "torch" in names:
        try:
            out["torch", "fresh"] = backward(function)
        except (RuntimeError, TypeError, ValueError) as e:
            out["torch", "fresh"] = f"torch: {first_line(e)}"
    if "torch.compile" in names:
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        import torch._functorch.config as config

        config.donated_buffer = False  # the graph is kept, so that it can be timed again
        torch._dynamo.reset()
        made: list[Call] = []

        def first() -> object:
            if not made:
                made.append(backward(torch.compile(function)))
            return made[0]()

        out["torch.compile", "fresh"] = tried(first, "torch.compile", limit)
    return out


def _jax(
    b: Baseline,
    forward: Operator,
    wrt: Sequence[str],
    params: Mapping[str, Any],
    inputs: Mapping[str, NDArray[Any]],
    dtypes: Mapping[str, str],
    limit: float,
) -> dict[tuple[str, str], Call | str]:
    if b.jax is None:
        return {}
    try:
        import jax
        import jax.numpy as jnp
    except ImportError:
        return {("jax", "fresh"): "jax is not installed"}
    function = b.jax
    outputs = [t.name for t in forward.outputs]
    x = {t.name: to_jax(jnp, inputs[t.name], t.dtype.name) for t in forward.inputs}
    leaves = tuple(x[n] for n in wrt)
    kept: list[Any] = []

    def whole(given: Any, *moved: Any) -> Any:
        y = function(jnp, jax, {**given, **dict(zip(wrt, moved, strict=True))}, params)
        found = y if isinstance(y, dict) else {outputs[0]: y}
        return [found[n] for n in outputs]

    def prepare() -> None:
        y, pull = jax.jit(lambda g, v: jax.vjp(lambda *m: whole(g, *m), *v))(x, leaves)
        seeds = []
        for n, v in zip(outputs, y, strict=True):
            g = inputs.get(PREFIX + n)
            if g is None:
                g = np.ones(v.shape, np.float32)
                seeds.append(jnp.asarray(g).astype(v.dtype))
            else:
                seeds.append(to_jax(jnp, g, dtypes[PREFIX + n]).reshape(v.shape).astype(v.dtype))
        kept[:] = [jax.jit(lambda p, s: p(s)), pull, seeds]

    def call() -> object:
        if not kept:
            prepare()
        pulled: object = jax.block_until_ready(kept[0](kept[1], kept[2]))  # type: ignore[no-untyped-call]
        return pulled

    return {("jax", "fresh"): tried(call, "jax", limit)}
