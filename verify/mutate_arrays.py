"""What wrong kernels do to arrays, of numpy, torch or JAX: tails, rounding, order, memory.

Every change leaves its argument as it is. What a change asks for may be absent (no tail, no
square): then the array comes back as it was.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = Any  # of numpy, torch or JAX
Change = Callable[[Array], Array]


def library(x: Array) -> str:
    """torch | jax | numpy"""
    module = type(x).__module__.partition(".")[0]
    return module if module == "torch" else "jax" if module.startswith("jax") else "numpy"


def numbers(x: Array) -> NDArray[Any]:
    """The values in numpy: float64, int64 or bool."""
    if library(x) == "torch":
        x = x.detach()
        kind = x.dtype
        torch = sys.modules["torch"]
        if kind == torch.bool:
            return np.asarray(x.cpu().numpy())
        wide = torch.float64 if kind.is_floating_point else torch.int64
        return np.asarray(x.to(wide).cpu().numpy())
    a = np.asarray(x)
    if a.dtype == bool:
        return a
    return a.astype(np.int64 if a.dtype.kind in "iu" else np.float64)


def like(values: NDArray[Any], x: Array) -> Array:
    """Values as an array of the kind and element type of `x`."""
    if library(x) == "torch":
        torch = sys.modules["torch"]
        return torch.from_numpy(np.array(values)).to(x.dtype).to(x.device)
    with np.errstate(all="ignore"):
        made = np.asarray(values).astype(np.asarray(x).dtype)
    if library(x) == "jax":
        return sys.modules["jax"].numpy.asarray(made)
    return made


def writable(x: Array) -> Array:
    return x.detach().clone() if library(x) == "torch" else np.array(x)


def done(edited: Array, x: Array) -> Array:
    return sys.modules["jax"].numpy.asarray(edited) if library(x) == "jax" else edited


def shaped(x: Array) -> bool:
    return hasattr(x, "shape") and len(x.shape) > 0


# -- changes ---------------------------------------------------------------------------------------


def without_tail(x: Array, block: int, axis: int) -> Array:
    if not shaped(x) or x.shape[axis] <= block or x.shape[axis] % block == 0:
        return x
    out = writable(x)
    keep = x.shape[axis] // block * block
    if axis == 0:
        out[keep:] = 0
    else:
        out[..., keep:] = 0
    return done(out, x)


def repeated_last(x: Array) -> Array:
    if not shaped(x) or x.shape[-1] < 2:
        return x
    out = writable(x)
    out[..., -1] = out[..., -2]
    return done(out, x)


def without_last(x: Array) -> Array:
    if not shaped(x) or x.shape[-1] < 2:
        return x
    out = writable(x)
    out[..., -1] = 0
    return done(out, x)


def replaced(x: Array, test: Callable[[NDArray[Any]], NDArray[Any]], new: float) -> Array:
    values = numbers(x)
    mask = test(values)
    return like(np.where(mask, new, values), x) if mask.any() else x


def tiny(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray((np.abs(values) < 1e-3) & (values != 0))


def clipped(x: Array, top: float) -> Array:
    values = numbers(x)
    return like(np.clip(values, -top, top), x) if (np.abs(values) > top).any() else x


def zero(x: Array) -> Array:
    return like(np.zeros_like(numbers(x)), x)


def first_only(x: Array) -> Array:
    values = numbers(x)
    if not values.size:
        return x
    return like(np.broadcast_to(values[..., :1], values.shape), x)


def through(name: str) -> Change:
    """Values rounded to another format; its range counts for f16."""
    bits = {"f16": 10, "tf32": 10, "bf16": 7}[name]

    def change(x: Array) -> Array:
        values = numbers(x)
        if name == "f16":
            with np.errstate(all="ignore"):
                return like(values.astype(np.float16).astype(np.float64), x)
        fraction, exponent = np.frexp(values)
        with np.errstate(all="ignore"):
            rounded = np.ldexp(np.rint(fraction * 2.0 ** (bits + 1)), exponent - bits - 1)
        return like(np.where(np.isfinite(values), rounded, values), x)

    return change


def turned(x: Array) -> Array:
    if not shaped(x) or len(x.shape) < 2 or x.shape[-1] != x.shape[-2]:
        return x
    return like(np.swapaxes(numbers(x), -1, -2), x)


def reverse(x: Array, axis: int) -> Array:
    return like(np.flip(numbers(x), axis).copy(), x) if shaped(x) else x


def behind(x: NDArray[Any], block: int) -> NDArray[Any]:
    """What a state is off by that never left its first block."""
    if x.shape[-1] <= block:
        return np.ones(x.shape[:-1])
    first, top = x[..., :block].max(-1), x.max(-1)
    factor = np.exp(np.minimum(first - top, 0))
    return np.asarray(np.where(np.isfinite(factor), factor, 1.0))


def negative(x: NDArray[Any]) -> NDArray[Any]:
    top = x.max(-1)
    return np.asarray(np.where(top < 0, np.exp(np.maximum(top, -700)), 1.0))


def rising(x: NDArray[Any]) -> NDArray[Any]:
    """Rows of more than two whose last element is the only largest one."""
    if x.shape[-1] < 3:
        return np.ones(x.shape[:-1])
    rest = x[..., :-1].max(-1)
    return np.asarray(np.where(x[..., -1] > rest, 1.1, 1.0))


def as_dense(x: Array, start: bool = False) -> Array:
    """The memory at the array's address, or its storage's, read row by row."""
    if not shaped(x) or 0 in x.shape:
        return x
    if library(x) == "torch":
        torch = sys.modules["torch"]
        steps: list[int] = []
        step = 1
        for s in reversed(x.shape):
            steps.insert(0, step)
            step *= s
        offset = 0 if start else x.storage_offset()
        return torch.as_strided(x, x.shape, steps, offset)
    if library(x) != "numpy":
        return x
    base: NDArray[Any] = x
    while isinstance(base.base, np.ndarray):
        base = base.base
    if base is x or not base.flags.c_contiguous or base.dtype != x.dtype:
        return x
    address = x.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    first = 0 if start else address // x.itemsize
    flat = base.reshape(-1)
    if first < 0 or first + x.size > flat.size:
        raise ValueError("reads outside of its memory")
    return flat[first : first + x.size].reshape(x.shape)


def early(x: Array, count: int) -> Array:
    if not shaped(x) or math.prod(x.shape) <= count:
        return x
    values = numbers(x).copy()
    values.reshape(-1)[count:] = 0
    return like(values, x)


def single(x: Array) -> Array:
    if not shaped(x) or 1 not in x.shape or 0 in x.shape:
        return x
    return like(np.zeros_like(numbers(x)), x)
