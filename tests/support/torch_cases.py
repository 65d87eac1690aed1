"""A table of what operators mean in PyTorch: how inputs are drawn, and how a row is judged.

A row names a spec, a function of its inputs in order, and shapes to try. A shape lists one word per
input: `7x13` is drawn from a normal distribution, `7x13+` from 0.1..0.9, `33<19` holds integers
below 19, `33?` truth values, `-` is a number. A shape may also be a function that makes the inputs
from a generator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import opwright

SPECS = Path(__file__).resolve().parents[2] / "specs"


@dataclass(frozen=True)
class Row:
    """One spec against one function; `given` are params and sizes that both sides take by name."""

    spec: str
    function: Callable[..., Any]
    shapes: tuple[Any, ...]
    given: dict[str, Any] = field(default_factory=dict)
    rtol: float = 1e-9
    atol: float = 1e-11

    @property
    def label(self) -> str:
        given = ",".join(f"{k}={v}" for k, v in self.given.items())
        return f"{self.spec}({given})" if given else self.spec


def row(spec: str, function: Callable[..., Any], *shapes: Any, **given: Any) -> Row:
    return Row(spec, function, shapes, given)


def draw(shape: Any, seed: int) -> list[Any]:
    """The inputs of one shape as tensors."""
    import torch

    rng = torch.Generator().manual_seed(seed)
    if callable(shape):
        return list(shape(rng))
    out = []
    for word in shape.split():
        word, _, limit = word.partition("<")
        kind = word[-1] if word[-1] in "+?" else ""
        size = [] if word == "-" else [int(n) for n in word.rstrip("+?").split("x") if n]
        if limit:
            out.append(torch.randint(int(limit), size, generator=rng))
        elif kind == "?":
            out.append(torch.rand(size, generator=rng) < 0.5)
        elif kind == "+":
            out.append(0.1 + 0.8 * torch.rand(size, generator=rng, dtype=torch.float64))
        else:
            out.append(torch.randn(size, generator=rng, dtype=torch.float64))
    return out


def judge(one: Row) -> None:
    """The reference agrees with the function at every shape."""
    path = SPECS / f"{one.spec}.op"
    operation = opwright.load(path)[path.stem]
    names = [t.name for t in operation.operator().inputs]
    for seed, shape in enumerate(one.shapes):
        inputs = draw(shape, seed)
        found = operation.reference(**dict(zip(names, inputs, strict=True)), **one.given)
        wanted = one.function(*inputs, **one.given)
        if not isinstance(wanted, tuple):
            wanted = (wanted,)
        assert len(found) == len(wanted)
        for (name, value), other in zip(found.items(), wanted, strict=True):
            assert value.shape == tuple(other.shape), (name, shape)
            np.testing.assert_allclose(
                value, other.numpy(), rtol=one.rtol, atol=one.atol, err_msg=f"{name} at {shape}"
            )
