"""Arrays of any library as decoded numpy arrays, and the name of the type their elements have.

numpy, torch and anything numpy can view are understood; formats that numpy lacks (bf16, the f8
family) come as torch tensors, as `ml_dtypes` arrays, or as their bits in unsigned integers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.ir.dtypes import DTYPES, decode

# names that numpy, ml_dtypes and torch give to element types
NAMES = {
    "float64": "f64",
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "int4": "i4",
    "uint4": "u4",
    "float4_e2m1fn": "f4e2m1",
    "float8_e4m3fn": "f8e4m3",
    "float8_e5m2": "f8e5m2",
    "float8_e4m3fnuz": "f8e4m3fnuz",
    "float8_e5m2fnuz": "f8e5m2fnuz",
    **{f"int{bits}": f"i{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"u{bits}" for bits in (8, 16, 32, 64)},
    "bool": "bool",
}


def element_type(array: Any) -> str | None:
    """The language's name of an array's element type; None where the language has none.

    A Python number or list has the type that numpy gives it.
    """
    dtype = getattr(array, "dtype", None)
    if dtype is None:
        dtype = np.asarray(array).dtype
    return NAMES.get(str(dtype).removeprefix("torch."))


def is_torch(array: Any) -> bool:
    """Whether this is a torch tensor; torch is not imported to find out."""
    return type(array).__module__.partition(".")[0] == "torch" or hasattr(array, "detach")


def stored(array: Any) -> tuple[NDArray[Any], str | None]:
    """The elements as numpy stores them, and their type; types that numpy lacks as their bits."""
    name = element_type(array)
    if is_torch(array):
        array = array.detach().cpu().contiguous()
        if name is not None and not DTYPES[name].is_native:
            import torch

            array = array.view(getattr(torch, DTYPES[name].storage))
        return np.asarray(array.numpy()), name
    plain = np.asarray(array)
    if name is not None and not DTYPES[name].is_native:
        plain = np.ascontiguousarray(plain).view(DTYPES[name].storage)
    return plain, name


def unpacked(plain: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The elements of bytes that hold two each, the low one first, along the last axis."""
    pairs = np.stack([plain % 16, plain // 16], axis=-1).astype(np.int64)
    flat = pairs.reshape(*plain.shape[:-1], -1) if plain.ndim else pairs[..., 0]
    return (flat + 8) % 16 - 8


def decoded(array: Any, wanted: str) -> NDArray[Any]:
    """The elements as float64, int64 or bool, exact.

    `wanted` is the declared type: where numpy lacks it, elements of its storage type are its bits.
    Bytes that are given for `i4` hold two elements each.
    """
    plain, name = stored(array)
    declared = DTYPES[wanted]
    if name is not None and not DTYPES[name].is_native:
        return decode(plain, DTYPES[name])
    if wanted == "i4" and plain.dtype == np.uint8:
        return unpacked(plain)
    if not declared.is_native and plain.dtype == np.dtype(declared.storage):
        return decode(plain, declared)
    if declared.kind == "real":
        return np.asarray(plain, np.float64)
    return plain
