"""Arrays of NumPy, PyTorch and JAX for tests: made in any layout, read back as float64.

Stands alone on NumPy; the framework is imported by who asks for it. Memory around a strided or
shifted array is poisoned, so that a wrong read shows and a wrong write is found.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from opwright.verify.testkit_values import Array, integer_range, kind_of, store

NUMPY = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bool": "bool",
    **{f"{s}{b}": f"{'u' if s == 'u' else ''}int{b}" for s in "iu" for b in (8, 16, 32, 64)},
}  # fmt: skip
NARROW = {
    "bf16": "bfloat16", "f8e4m3": "float8_e4m3fn", "f8e5m2": "float8_e5m2",
    "f8e4m3fnuz": "float8_e4m3fnuz", "f8e5m2fnuz": "float8_e5m2fnuz",
}  # fmt: skip
LAYOUTS = ("transposed", "every second", "gaps between rows", "shifted", "broadcast", "backwards")


class NoSuchType(Exception):
    """The framework has no arrays of this element type."""


@dataclass
class Made:
    """An array in its memory: `array` is a view of `base`."""

    array: Any
    base: Any


def _poison(dtype: str) -> Any:
    kind = kind_of(dtype)
    return math.nan if kind == "real" else True if kind == "bool" else integer_range(dtype)[1]


class NumpyFrame:
    """NumPy arrays; element types of 16 bits and less need ml_dtypes."""

    name = "numpy"
    mutable = True
    backwards = True

    def dtype(self, name: str) -> Any:
        if name in NUMPY:
            return np.dtype(NUMPY[name])
        try:
            import ml_dtypes

            return np.dtype(getattr(ml_dtypes, NARROW[name]))
        except (ImportError, KeyError, AttributeError):
            raise NoSuchType(f"NumPy has no {name} here") from None

    def dtype_of(self, array: Any) -> str:
        wanted = str(getattr(array, "dtype", type(array).__name__))
        return next((k for k, v in {**NUMPY, **NARROW}.items() if v == wanted), wanted)

    def is_array(self, x: Any) -> bool:
        return isinstance(x, (np.ndarray, np.generic))

    def full(self, shape: tuple[int, ...], value: Any, dtype: str) -> Any:
        return np.full(shape, value, self.dtype(dtype))

    def view(self, base: Any, layout: str, shape: tuple[int, ...]) -> Any:
        if layout == "transposed":
            return base.transpose(tuple(range(len(shape)))[::-1])
        if layout == "every second":
            return base[..., 1::2]
        if layout == "gaps between rows":
            return base[..., : shape[-1]]
        if layout == "shifted":
            return base[3 : 3 + math.prod(shape)].reshape(shape)
        if layout == "broadcast":
            return np.broadcast_to(base, shape)
        if layout == "backwards":
            return base[..., ::-1]
        return base

    def write(self, array: Any, values: Array) -> None:
        array[...] = values.astype(array.dtype)

    def values(self, array: Any) -> Array:
        array = np.asarray(array)
        if array.dtype.kind in "fc" or array.dtype.kind == "V" or "float" in str(array.dtype):
            return array.astype(np.float64)
        return array.astype(bool if array.dtype.kind == "b" else np.int64)

    def raw(self, array: Any) -> bytes:
        return np.ascontiguousarray(array).tobytes()

    def overlap(self, a: Any, b: Any) -> bool:
        return bool(a.size and b.size and np.shares_memory(a, b))

    def gradient(self, call: Any, arrays: list[Any], wanted: list[int], weights: Any) -> Any:
        return None


class TorchFrame(NumpyFrame):
    """PyTorch tensors on a device."""

    name = "torch"
    backwards = False

    def __init__(self, device: str = "cpu") -> None:
        import torch

        self.torch, self.device = torch, device

    def dtype(self, name: str) -> Any:
        found = getattr(self.torch, {**NUMPY, **NARROW}.get(name, name), None)
        if found is None:
            raise NoSuchType(f"PyTorch has no {name}")
        return found

    def dtype_of(self, array: Any) -> str:
        wanted = str(getattr(array, "dtype", type(array).__name__)).replace("torch.", "")
        return next((k for k, v in {**NUMPY, **NARROW}.items() if v == wanted), wanted)

    def is_array(self, x: Any) -> bool:
        return isinstance(x, self.torch.Tensor)

    def full(self, shape: tuple[int, ...], value: Any, dtype: str) -> Any:
        try:
            return self.torch.full(shape, value, dtype=self.dtype(dtype), device=self.device)
        except (RuntimeError, NotImplementedError):
            wide = self.torch.full(shape, float(value), device=self.device)
            return wide.to(self.dtype(dtype))

    def view(self, base: Any, layout: str, shape: tuple[int, ...]) -> Any:
        if layout == "transposed":
            return base.permute(tuple(range(len(shape)))[::-1])
        if layout == "broadcast":
            return base.expand(shape)
        return super().view(base, layout, shape)

    def write(self, array: Any, values: Array) -> None:
        array.copy_(self.torch.from_numpy(np.array(values)).to(self.device).to(array.dtype))

    def values(self, array: Any) -> Array:
        array = array.detach().cpu()
        if array.dtype.is_floating_point:
            return np.asarray(array.to(self.torch.float64).numpy())
        return np.asarray(array.numpy()).astype(
            bool if array.dtype == self.torch.bool else np.int64
        )

    def raw(self, array: Any) -> bytes:
        array = array.detach().cpu().contiguous()
        if not array.numel():
            return b""
        return bytes(array.reshape(-1).view(self.torch.uint8).numpy().tobytes())

    def overlap(self, a: Any, b: Any) -> bool:
        if not a.numel() or not b.numel():
            return False
        (x, m), (y, n) = (_span(t) for t in (a, b))
        same = a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
        return bool(same and x < n and y < m)

    def gradient(self, call: Any, arrays: list[Any], wanted: list[int], weights: Any) -> Any:
        leaves = [a.detach().clone() for a in arrays]
        for k in wanted:
            leaves[k].requires_grad_(True)
        outputs = call(leaves)
        pairs = [
            (y, self.torch.from_numpy(np.array(w)).to(self.device).to(y.dtype))
            for y, w in zip(outputs, weights, strict=False)
            if w is not None and y.requires_grad
        ]
        if not pairs:
            return None
        return self.torch.autograd.grad(
            [y for y, _ in pairs], [leaves[k] for k in wanted], [w for _, w in pairs],
            allow_unused=True,
        )  # fmt: skip


def _span(t: Any) -> tuple[int, int]:
    """Bytes from the first to behind the last element of a tensor."""
    extent = sum((n - 1) * abs(s) for n, s in zip(t.shape, t.stride(), strict=False)) + 1
    start = t.data_ptr()
    return start, start + extent * t.element_size()


class JaxFrame(NumpyFrame):
    """JAX arrays: always dense and never written."""

    name = "jax"
    mutable = False
    backwards = False

    def __init__(self) -> None:
        import jax
        import jax.numpy

        self.jax = jax

    def dtype(self, name: str) -> Any:
        found = getattr(self.jax.numpy, {**NUMPY, **NARROW}.get(name, name), None)
        if found is None:
            raise NoSuchType(f"JAX has no {name}")
        return found

    def is_array(self, x: Any) -> bool:
        return isinstance(x, (self.jax.Array, np.ndarray, np.generic))

    def full(self, shape: tuple[int, ...], value: Any, dtype: str) -> Any:
        return self.jax.numpy.full(shape, value, self.dtype(dtype))

    def from_values(self, values: Array, dtype: str) -> Any:
        return self.jax.numpy.asarray(values).astype(self.dtype(dtype))

    def values(self, array: Any) -> Array:
        name = self.dtype_of(array)
        wide = array.astype(np.float64) if name == "f64" else array
        return super().values(np.asarray(wide))

    def raw(self, array: Any) -> bytes:
        return np.ascontiguousarray(np.asarray(array)).tobytes()

    def overlap(self, a: Any, b: Any) -> bool:
        return False

    def gradient(self, call: Any, arrays: list[Any], wanted: list[int], weights: Any) -> Any:
        def function(*chosen: Any) -> Any:
            given = list(arrays)
            for k, x in zip(wanted, chosen, strict=False):
                given[k] = x
            return [y for y, w in zip(call(given), weights, strict=False) if w is not None]

        outputs, back = self.jax.vjp(function, *(arrays[k] for k in wanted))
        own = [w for w in weights if w is not None]
        return back(
            [self.jax.numpy.asarray(w, y.dtype) for y, w in zip(outputs, own, strict=False)]
        )


def frame(name: str, device: str = "cpu") -> Any:
    """The arrays of a framework by its name."""
    return {"numpy": NumpyFrame, "jax": JaxFrame}[name]() if name != "torch" else TorchFrame(device)


def has_layout(frame: Any, layout: str, shape: tuple[int, ...]) -> bool:
    """Whether an array of that shape can lie in memory like that."""
    if layout == "dense":
        return True
    if not frame.mutable or (layout == "backwards" and not frame.backwards):
        return False
    least = 2 if layout in ("transposed", "gaps between rows") else 1
    return len(shape) >= least and math.prod(shape) > 1


def spread(values: Array) -> Array:
    """The values with every row of the first axis like the first one."""
    return np.broadcast_to(values[:1], values.shape).copy() if values.ndim else values


def make(frame: Any, values: Array, dtype: str, layout: str = "dense") -> Made:
    """An array of a framework that holds these values, in poisoned memory where there are gaps."""
    shape = tuple(values.shape)
    if not frame.mutable:
        array = frame.from_values(values, dtype)
        return Made(array, array)
    if not has_layout(frame, layout, shape):
        layout = "dense"
    n = shape[-1] if shape else 1
    around = {
        "transposed": shape[::-1],
        "every second": (*shape[:-1], 2 * n),
        "gaps between rows": (*shape[:-1], n + 3),
        "shifted": (math.prod(shape) + 5,),
        "broadcast": (1, *shape[1:]),
    }
    base = frame.full(around.get(layout, shape), _poison(dtype), dtype)
    if layout == "broadcast":
        frame.write(base, values[:1])
        return Made(frame.view(base, layout, shape), base)
    array = frame.view(base, layout, shape)
    frame.write(array, values)
    return Made(array, base)


def rounded(values: Array, dtype: str) -> Array:
    return store(values, dtype)
