"""Loads a built candidate and calls it through ctypes: strided arrays as they are, no copies."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.ir.expr import ExprError, evaluate, show
from opwright.ir.op import Operator, Tensor

ABI = 1
LINE = 64  # bytes at whose multiples scratch begins


class RunError(RuntimeError):
    """The library cannot be loaded, the arguments do not fit the operator, or the call failed."""


class Library:
    """A shared library with `opwright_run` for one operator; safe to load many times."""

    def __init__(self, path: Path, op: Operator) -> None:
        self.path, self.op = path, op
        try:
            library = ctypes.CDLL(str(path))
            self._library = library
            self._run = library.opwright_run
            version = library.opwright_abi()
        except (OSError, AttributeError) as e:
            raise RunError(f"{path} is no candidate library: {e}") from None
        if version != ABI:
            raise RunError(f"{path} has abi {version}; this version calls abi {ABI}")
        self._run.restype = ctypes.c_int32
        self._run.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int32]

    def run(
        self,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Mapping[str, NDArray[Any]],
        params: Mapping[str, float | int | bool] | None = None,
        sizes: Mapping[str, int] | None = None,
        threads: int = 0,
    ) -> None:
        """Fill `outputs`; arrays are in stored form, of any strides that are whole elements.

        Sizes come from shapes; those that no shape fixes, and params without a default, are passed
        by name. Raises RunError.
        """
        status = self.bind(inputs, outputs, params, sizes, threads)()
        if status:
            raise RunError(f"{self.op.name}: scratch memory could not be allocated")

    def bind(
        self,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Mapping[str, NDArray[Any]],
        params: Mapping[str, float | int | bool] | None = None,
        sizes: Mapping[str, int] | None = None,
        threads: int = 0,
    ) -> Callable[[], int]:
        """A call with its arguments made once, for timing; it returns 0, or 1: no memory."""
        held, buffers, integers, numbers = self._arguments(inputs, outputs, params, sizes)
        function = self._run
        count = ctypes.c_int32(threads)

        def call(_held: object = held) -> int:
            return int(function(buffers, integers, numbers, count))

        return call

    def bind_kept(
        self,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Mapping[str, NDArray[Any]],
        constant: Sequence[str],
        params: Mapping[str, float | int | bool] | None = None,
        sizes: Mapping[str, int] | None = None,
        threads: int = 0,
    ) -> Callable[[], int] | None:
        """A call like that of `bind`, with what these inputs determine made now and kept; None
        where they determine nothing of this library. RunError."""
        part = getattr(self._library, "opwright_part", None)
        if part is None:
            return None
        part.restype = ctypes.c_int64
        part.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int32] * 2
        part.argtypes += [ctypes.c_uint64, ctypes.c_void_p]
        arrays, buffers, integers, numbers = self._arguments(inputs, outputs, params, sizes)
        mask = sum(1 << n for n, t in enumerate(self.op.inputs) if t.name in constant)
        given = (buffers, integers, numbers, threads)
        bytes_ = part(*given, 3, mask, None)
        head = part(*given, 3, 0, None)  # of nothing but the numbers that it is made for
        if bytes_ <= head:
            return None
        memory = np.empty(bytes_ + LINE, np.uint8)
        held = ctypes.c_void_p(memory.ctypes.data + -memory.ctypes.data % LINE)
        if part(*given, 1, mask, held):
            raise RunError(f"{self.op.name}: scratch memory could not be allocated")
        count, phase, which = ctypes.c_int32(threads), ctypes.c_int32(2), ctypes.c_uint64(mask)

        def call(_held: object = (arrays, memory)) -> int:
            return int(part(buffers, integers, numbers, count, phase, which, held))

        return call

    def _arguments(
        self,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Mapping[str, NDArray[Any]],
        params: Mapping[str, float | int | bool] | None,
        sizes: Mapping[str, int] | None,
    ) -> tuple[list[NDArray[Any]], Any, Any, Any]:
        """(arrays to keep alive, addresses, integers, reals) of a call."""
        op = self.op
        pairs = [(t, _array(inputs, t, op)) for t in op.inputs]
        pairs += [(t, _array(outputs, t, op)) for t in op.outputs]
        known = bind_sizes(op, {t.name: a.shape for t, a in pairs}, sizes, params)
        values = bind_params(op, known, params)
        ints = [known[s] for s in op.sizes]
        ints += [int(values[p.name]) for p in op.params if p.dtype.kind != "real"]
        reals = [float(values[p.name]) for p in op.params if p.dtype.kind == "real"]
        for t, a in pairs:
            ints += _strides(t, a)
        for t, a in pairs[len(op.inputs) :]:
            if not a.flags.writeable:
                raise RunError(f"output {t.name} is not writeable")
        buffers = (ctypes.c_void_p * max(1, len(pairs)))(*(a.ctypes.data for _, a in pairs))
        integers = (ctypes.c_int64 * max(1, len(ints)))(*ints)
        numbers = (ctypes.c_double * max(1, len(reals)))(*reals)
        return [a for _, a in pairs], buffers, integers, numbers


def _array(arrays: Mapping[str, NDArray[Any]], t: Tensor, op: Operator) -> NDArray[Any]:
    if t.name not in arrays:
        raise RunError(f"{op.name}: {t.role} {t.name} is missing")
    a = arrays[t.name]
    if a.dtype != np.dtype(t.dtype.storage):
        raise RunError(f"{t.name} is stored as {t.dtype.storage} ({t.dtype}), not {a.dtype}")
    if a.ndim != len(t.axes):
        raise RunError(f"{t.name} has {len(t.axes)} axes, not {a.ndim}")
    return a


def _strides(t: Tensor, a: NDArray[Any]) -> list[int]:
    out = []
    for s in a.strides:
        if s % a.itemsize:
            raise RunError(f"{t.name}: a stride of {s} bytes is no whole number of elements")
        out.append(s // a.itemsize)
    return out


def bind_sizes(
    op: Operator,
    shapes: Mapping[str, tuple[int, ...]],
    given: Mapping[str, int] | None = None,
    params: Mapping[str, float | int | bool] | None = None,
) -> dict[str, int]:
    """Every size of the operator, from shapes and by name; RunError on conflict."""
    known: dict[str, int] = {}
    for name, n in (given or {}).items():
        if name not in op.sizes:
            raise RunError(f"{op.name} has no size {name}")
        known[name] = int(n)
    tensors = [t for t in (*op.inputs, *op.outputs) if t.name in shapes]
    for t in tensors:
        for axis, (e, n) in enumerate(zip(t.shape, shapes[t.name], strict=True)):
            if e.op == "size" and known.setdefault(e.attr, n) != n:
                raise RunError(f"{t.name}: axis {axis} is {n}, but {e.attr} = {known[e.attr]}")
    missing = [s for s in op.sizes if s not in known]
    if missing:
        raise RunError(f"{op.name}: size {missing[0]} is fixed by no shape; pass it by name")
    # an extent may depend on params, as the output of a strided window does
    values = {**known, **bind_params(op, known, params)}
    for t in tensors:
        for axis, (e, n) in enumerate(zip(t.shape, shapes[t.name], strict=True)):
            if evaluate(e, values) != n:
                raise RunError(
                    f"{t.name}: axis {axis} is {n}, not {show(e)} = {evaluate(e, values)}"
                )
    return known


def bind_params(
    op: Operator, sizes: Mapping[str, int], given: Mapping[str, float | int | bool] | None = None
) -> dict[str, float | int | bool]:
    """Every param's value: the one given, else its default over sizes and earlier params."""
    values: dict[str, float | int | bool] = {}
    given = given or {}
    for name in given:
        if name not in {p.name for p in op.params}:
            raise RunError(f"{op.name} has no param {name}")
    for p in op.params:
        if p.name in given:
            values[p.name] = given[p.name]
        elif p.default is None:
            raise RunError(f"{op.name}: param {p.name} has no default")
        else:
            try:
                values[p.name] = evaluate(p.default, {**sizes, **values})
            except ExprError as e:
                raise RunError(f"{op.name}: param {p.name}: {e}") from None
    return values
