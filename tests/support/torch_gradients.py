"""Derived gradients against PyTorch's autograd in float64, on the rows of `torch_cases`."""

from __future__ import annotations

from typing import Any

import numpy as np
from support.torch_cases import SPECS, Row, draw  # type: ignore[import-not-found]

from opwright.compiler.autodiff import gradient
from opwright.compiler.elaborate import load_spec
from opwright.ir.binding import bind, prepare
from opwright.ir.op import Operator
from opwright.ir.reference import reference

SHAPES = 2  # of each row


def wanted(op: Operator) -> list[str]:
    """Real inputs with a gradient, where something real comes out."""
    none = {name for name, how in op.gradients if how == "none"}
    real = [t.name for t in op.inputs if t.kind == "real" and t.name not in none]
    return real if any(t.kind == "real" for t in op.outputs) else []


def operator(row: Row) -> Operator:
    spec = load_spec(SPECS / f"{row.spec}.op")
    name = row.spec.split("/")[1]
    return spec.operator(name, spec.bindings(name)[0])


def judge_gradient(row: Row) -> int:
    """How many gradients were compared; AssertionError where one differs."""
    op = operator(row)
    names = wanted(op)
    back = gradient(op, names)
    compared = 0
    for seed, shape in enumerate(row.shapes[:SHAPES]):
        inputs = dict(zip([t.name for t in op.inputs], draw(shape, seed), strict=True))
        inputs = {k: x.detach() for k, x in inputs.items()}
        theirs, weights = _autograd(op, row, inputs, names, seed)
        arrays = {k: x.numpy() for k, x in inputs.items()}
        params = {p.name: row.given[p.name] for p in op.params if p.name in row.given}
        free = {s: row.given[s] for s in op.free_sizes if s in row.given}
        given = {**arrays, **reference(op, arrays, params, free), **weights}
        own = {t.name: given[t.name] for t in back.inputs}
        bound = bind(op, prepare(op, arrays), params, free)
        found = reference(back, own, params, {s: bound[s] for s in back.free_sizes})
        for name, value in theirs.items():
            mine = np.asarray(found[f"d_{name}"]).reshape(value.shape)
            scale = 1 + np.abs(value).max(initial=0)
            np.testing.assert_allclose(
                mine / scale, value / scale, rtol=0, atol=2e-8, err_msg=f"d_{name} at {shape}"
            )
            compared += 1
    return compared


def _autograd(
    op: Operator, row: Row, inputs: dict[str, Any], names: list[str], seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(gradients, output gradients) of PyTorch, for the inputs that it differentiates."""
    import torch

    leaves = {n: inputs[n].double().clone().requires_grad_(True) for n in names}
    while True:
        try:
            out = row.function(*[leaves.get(k, x) for k, x in inputs.items()], **row.given)
            break
        except RuntimeError as e:  # it names what it has no derivative for, by a name of its own
            if "not differentiable with respect to argument" not in str(e) or not leaves:
                raise
            leaves.popitem()
    results = out if isinstance(out, tuple) else (out,)
    rng = torch.Generator().manual_seed(seed)
    weights: dict[str, Any] = {}
    total = torch.zeros((), dtype=torch.float64)
    for t, y in zip(op.outputs, results, strict=True):
        if t.kind != "real":
            continue
        w = torch.randn(y.shape, generator=rng, dtype=torch.float64)
        w = w if y.requires_grad else torch.zeros_like(w)  # statistics that it takes for constants
        weights[f"d_{t.name}"] = w.numpy()
        total = total + (y * w).sum() if y.requires_grad else total
    if not leaves or not total.requires_grad:
        return {}, weights
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return {
        n: np.zeros(x.shape) if d is None else d.numpy()
        for (n, x), d in zip(leaves.items(), found, strict=True)
    }, weights
