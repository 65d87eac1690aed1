"""Arrays of numpy and torch behind one small interface; neither is imported before it is needed.

An element type is named as in the spec (`f32`, `bf16`...). Types that numpy lacks are taken as
`ml_dtypes` arrays or as raw unsigned integers of the same width.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any

# element: (bits, type of a raw numpy array, type of ml_dtypes, type of torch)
ELEMENTS: dict[str, tuple[int, str, str | None, str | None]] = {
    "f64": (64, "float64", None, "float64"),
    "f32": (32, "float32", None, "float32"),
    "f16": (16, "float16", None, "float16"),
    "bf16": (16, "uint16", "bfloat16", "bfloat16"),
    "f8e4m3": (8, "uint8", "float8_e4m3fn", "float8_e4m3fn"),
    "f8e5m2": (8, "uint8", "float8_e5m2", "float8_e5m2"),
    "f8e4m3fnuz": (8, "uint8", "float8_e4m3fnuz", "float8_e4m3fnuz"),
    "f8e5m2fnuz": (8, "uint8", "float8_e5m2fnuz", "float8_e5m2fnuz"),
    "i64": (64, "int64", None, "int64"),
    "i32": (32, "int32", None, "int32"),
    "i16": (16, "int16", None, "int16"),
    "i8": (8, "int8", None, "int8"),
    "u64": (64, "uint64", None, "uint64"),
    "u32": (32, "uint32", None, "uint32"),
    "u16": (16, "uint16", None, "uint16"),
    "u8": (8, "uint8", None, "uint8"),
    "bool": (8, "bool", None, "bool"),
}
# elements whose values a numpy array of the raw type does not show as numbers of that value
STORED_AS_BITS = frozenset(n for n in ELEMENTS if n == "bf16" or n.startswith("f8"))

_addressof, _from_buffer = ctypes.addressof, ctypes.c_char.from_buffer
ALIGNMENT = 64  # bytes; of outputs that a variant wants aligned, and the largest that is told apart


def item_bytes(element: str) -> int:
    return ELEMENTS[element][0] // 8


def row_major(shape: Sequence[int]) -> list[int]:
    """Strides of a dense array; an empty axis counts as one element."""
    out: list[int] = []
    step = 1
    for extent in reversed(shape):
        out.insert(0, step)
        step = step * max(extent, 1) if isinstance(extent, int) else step * extent
    return out


class Family:
    """What the engine needs from one array library."""

    name = ""
    plain: tuple[type, ...] = ()

    def owns(self, x: Any) -> bool:
        raise TypeError("a family names its arrays")

    def exact(self, x: Any) -> str | None:
        """The element type that the array's own type names, if any."""
        return self._exact.get(x.dtype)

    def raw(self, x: Any) -> tuple[str, ...]:
        """Element types whose raw storage the array may be."""
        return self._raw.get(x.dtype, ())

    _exact: dict[Any, str]
    _raw: dict[Any, tuple[str, ...]]

    def _register(self, exact: Iterable[tuple[Any, str]], raw: Iterable[tuple[Any, str]]) -> None:
        self._exact = dict(exact)
        gathered: dict[Any, tuple[str, ...]] = {}
        for dtype, element in raw:
            gathered[dtype] = (*gathered.get(dtype, ()), element)
        self._raw = gathered


class NumpyFamily(Family):
    """numpy arrays; subclasses of ndarray are refused because their meaning may differ."""

    name = "numpy"

    def __init__(self) -> None:
        import numpy

        self.np = numpy
        self.plain = (numpy.ndarray,)
        self.native = {e: numpy.dtype(row[1]) for e, row in ELEMENTS.items()}
        exact = [(self.native[e], e) for e in ELEMENTS if e not in STORED_AS_BITS]
        raw = [(self.native[e], e) for e in STORED_AS_BITS]
        self.wide: dict[str, Any] = {}
        self._tables = (exact, sorted(raw, key=lambda p: p[1]))
        self._register(*self._tables)

    def with_ml_dtypes(self, load: bool) -> None:
        """Learn the types of ml_dtypes when it is imported, or importable and `load` is set."""
        module = sys.modules.get("ml_dtypes")
        if module is None and load:
            try:
                module = importlib.import_module("ml_dtypes")
            except ImportError:
                return
        if module is None or self.wide:
            return
        for element, row in ELEMENTS.items():
            if row[2] is not None and hasattr(module, row[2]):
                self.wide[element] = self.np.dtype(getattr(module, row[2]))
        exact, raw = self._tables
        self._register([*exact, *((d, e) for e, d in self.wide.items())], raw)

    def owns(self, x: Any) -> bool:
        return isinstance(x, self.np.ndarray) or isinstance(x, self.np.generic)

    def exact(self, x: Any) -> str | None:
        found = self._exact.get(x.dtype)
        if found is None and not self.wide:
            self.with_ml_dtypes(load=False)
            found = self._exact.get(x.dtype)
        return found

    def prepare(self, x: Any) -> Any:
        return self.np.asarray(x) if isinstance(x, self.np.generic) else x

    def trouble(self, x: Any) -> str | None:
        """Why an array cannot be used, in words for after its name."""
        if type(x) is not self.np.ndarray:
            kind = type(x).__module__ + "." + type(x).__qualname__
            return f"is a {kind}; pass a plain numpy array (numpy.asarray(...))"
        return None

    def signature(self, inputs: Sequence[Any], inside: bool = False) -> list[Any] | None:
        """What a cached call depends on, or None when an input needs a closer look.

        `inside` says that torch's dispatcher has already seen the call.
        """
        ndarray = self.np.ndarray
        parts: list[Any] = []
        for x in inputs:
            if type(x) is not ndarray:
                return None
            parts += (x.dtype, x.shape, x.strides)
        return parts

    def layout(self, x: Any, element: str) -> tuple[int, ...] | None:
        """Strides in items, or None when they are not whole."""
        size = item_bytes(element)
        if any(s % size for s in x.strides):
            return None
        return tuple(s // size for s in x.strides)

    def pointer(self, x: Any) -> int:
        flags = x.flags
        if flags.c_contiguous and flags.writeable and x.size and x.dtype.kind in "fiub":
            return _addressof(_from_buffer(x))  # twice as fast as the array interface
        address: int = x.__array_interface__["data"][0]
        return address

    def dense(self, x: Any) -> Any:
        """A fresh row-major copy."""
        return self.np.array(x, order="C", copy=True)

    def aligned_copy(self, x: Any) -> Any:
        """As `dense`, on a boundary of ALIGNMENT bytes."""
        out = self.aligned(x.shape, x.dtype, None)
        out[...] = x
        return out

    def scalar(self, value: Any, element: str) -> Any:
        if element in STORED_AS_BITS:
            self.with_ml_dtypes(load=True)
            if element not in self.wide:
                raise TypeError(f"a Python number cannot become {element} without ml_dtypes")
            return self.np.asarray(value, self.wide[element])
        return self.np.asarray(value, self.native[element])

    def output_type(self, element: str, inputs: Sequence[Any], elements: Sequence[str]) -> Any:
        """Raw when an input of such a type is raw, else the type of ml_dtypes when installed."""
        if element not in STORED_AS_BITS:
            return self.native[element]
        given_raw = any(
            e in STORED_AS_BITS and x.dtype == self.native[e] for x, e in zip(inputs, elements)
        )
        if not given_raw:
            self.with_ml_dtypes(load=True)
        return self.native[element] if given_raw else self.wide.get(element, self.native[element])

    def empty(self, shape: Sequence[int], dtype: Any, order: tuple[int, ...] | None = None) -> Any:
        """A new array whose axes lie in memory in the given order."""
        if order is None:
            return self.np.empty(shape, dtype)
        moved = self.np.empty([shape[a] for a in order], dtype)
        return moved.transpose([order.index(a) for a in range(len(order))])

    def aligned(self, shape: Sequence[int], dtype: Any, order: tuple[int, ...] | None) -> Any:
        """As `empty`, on a boundary of ALIGNMENT bytes."""
        count = 1
        for extent in shape:
            count *= extent
        size = count * dtype.itemsize
        memory = self.np.empty(size + ALIGNMENT, self.np.uint8)
        start = -self.pointer(memory) % ALIGNMENT
        flat = memory[start : start + size].view(dtype)
        if order is None:
            return flat.reshape(shape)
        moved = flat.reshape([shape[a] for a in order])
        return moved.transpose([order.index(a) for a in range(len(order))])

    def writable(self, x: Any) -> bool:
        return bool(x.flags.writeable)

    def copy_into(self, target: Any, source: Any) -> None:
        target[...] = source

    def device(self, x: Any) -> str:
        return "cpu"

    def same_type(self, x: Any, dtype: Any, element: str) -> bool:
        return bool(x.dtype == dtype or x.dtype in (self.native[element], self.wide.get(element)))

    def threads(self, default: int) -> int:
        return default

    def entry(self) -> tuple[Any, ...] | None:
        """What the compiled call needs to know of this library."""
        return self.np.ndarray, self.np.ndarray, self.np.empty

    def making(self, shape: Sequence[int], dtype: Any) -> tuple[Any, ...]:
        """The arguments with which the compiled call makes an output."""
        return (tuple(shape), dtype), None

    # -- for the checks of values, the shipped reference values and the benchmark ---------------

    def integers(self, x: Any) -> Any:
        return x if x.dtype.kind == "b" else x.astype(self.np.int64)

    def axis(self, lo: int, hi: int, shape: Sequence[int]) -> Any:
        return self.np.arange(lo, hi, dtype=self.np.int64).reshape(shape)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        return self.np.where(condition, a, b)

    def minimum(self, a: Any, b: Any) -> Any:
        return self.np.minimum(a, b)

    def maximum(self, a: Any, b: Any) -> Any:
        return self.np.maximum(a, b)

    def from_values(self, values: Sequence[Any], shape: Sequence[int], element: str) -> Any:
        """An array from numbers, or from bits where the element is stored as bits."""
        return self.np.array(values, self.native[element]).reshape(shape)

    def to_values(self, x: Any) -> list[Any]:
        """Numbers in row-major order; the bits of raw arrays."""
        kind = x.dtype.kind
        flat = x.reshape(-1)
        listed = flat.astype(self.np.float64) if kind not in "biuf" else flat
        return list(listed.tolist())

    def random(self, shape: Sequence[int], element: str, seed: int) -> Any:
        generator = self.np.random.default_rng(seed)
        if element == "bool" or element[0] in "iu":
            return self.np.zeros(shape, self.native[element])
        values = generator.standard_normal(shape, self.np.float32)
        if element in STORED_AS_BITS:
            self.with_ml_dtypes(load=True)
            if element not in self.wide:
                # a raw type without ml_dtypes: bits of small normal numbers
                top = 0x3F80 if element == "bf16" else 0x38
                return self.np.full(shape, top, self.native[element])
            return values.astype(self.wide[element])
        return values.astype(self.native[element])


class TorchFamily(Family):
    """Dense torch tensors on the CPU."""

    name = "torch"

    def __init__(self) -> None:
        import torch

        self.torch = torch
        self.plain = (torch.Tensor, torch.nn.Parameter)
        self.native = {
            e: getattr(torch, row[3])
            for e, row in ELEMENTS.items()
            if row[3] and hasattr(torch, row[3])
        }
        self._register(((d, e) for e, d in self.native.items()), ())
        functorch = getattr(torch._C, "_functorch", None)
        self._modes: Any = getattr(torch._C, "_len_torch_dispatch_stack", None)
        self._transforms: Any = getattr(functorch, "peek_interpreter_stack", None)
        self._tracing: Any = getattr(torch._C, "_get_tracing_state", None)
        self._known = None not in (self._modes, self._transforms, self._tracing)

    def owns(self, x: Any) -> bool:
        return isinstance(x, self.torch.Tensor)

    def prepare(self, x: Any) -> Any:
        return x.resolve_neg() if x.is_neg() else x

    def _interposed(self) -> bool:
        """Whether a mode, a functorch transform, a trace or forward-mode AD must see the call."""
        return bool(
            not self._known
            or self._modes()
            or self._transforms() is not None
            or self._tracing() is not None
            or self.torch.autograd.forward_ad._current_level >= 0
        )

    def foreign(self, tensors: Sequence[Any]) -> bool:
        """Whether torch's own machinery must see the call: a subclass, a mode, a meta tensor."""
        return self._interposed() or any(
            type(x) not in self.plain or x.device.type == "meta" for x in tensors
        )

    def grad_wanted(self, inputs: Iterable[Any]) -> bool:
        return self.torch.is_grad_enabled() and any(x.requires_grad for x in inputs)

    def trouble(self, x: Any) -> str | None:
        if x.layout is not self.torch.strided:
            return f"has the layout {x.layout}; pass a dense tensor (x.to_dense())"
        if x.device.type != "cpu":
            return f"is on {x.device}; this package holds kernels for the CPU (x.cpu())"
        return None

    def signature(self, inputs: Sequence[Any], inside: bool = False) -> list[Any] | None:
        plain, grad = self.plain, not inside and self.torch.is_grad_enabled()
        strided = self.torch.strided
        parts: list[Any] = []
        for x in inputs:
            if type(x) not in plain or not x.is_cpu or x.layout is not strided:
                return None
            if (grad and x.requires_grad) or x.is_neg():
                return None
            parts += (x.dtype, x.shape, x.stride())
        return None if not inside and self._interposed() else parts

    def layout(self, x: Any, element: str) -> tuple[int, ...] | None:
        return tuple(x.stride())

    def pointer(self, x: Any) -> int:
        address: int = x.data_ptr()
        return address

    def dense(self, x: Any) -> Any:
        return x.detach().clone(memory_format=self.torch.contiguous_format)

    def aligned_copy(self, x: Any) -> Any:
        return self.aligned(x.shape, x.dtype, None).copy_(x.detach())

    def scalar(self, value: Any, element: str) -> Any:
        return self.torch.tensor(value, dtype=self.native[element])

    def output_type(self, element: str, inputs: Sequence[Any], elements: Sequence[str]) -> Any:
        if element not in self.native:
            raise TypeError(f"this torch ({self.torch.__version__}) has no type for {element}")
        return self.native[element]

    def empty(self, shape: Sequence[int], dtype: Any, order: tuple[int, ...] | None = None) -> Any:
        if order is None:
            return self.torch.empty(shape, dtype=dtype, device="cpu")
        moved = self.torch.empty([shape[a] for a in order], dtype=dtype, device="cpu")
        return moved.permute([order.index(a) for a in range(len(order))])

    def aligned(self, shape: Sequence[int], dtype: Any, order: tuple[int, ...] | None) -> Any:
        out = self.empty(shape, dtype, order)
        if not out.data_ptr() % ALIGNMENT:
            return out
        size = out.numel() * out.element_size()
        memory = self.torch.empty(size + ALIGNMENT, dtype=self.torch.uint8, device="cpu")
        start = -memory.data_ptr() % ALIGNMENT
        flat = memory[start : start + size].view(dtype)
        if order is None:
            return flat.view(tuple(shape))
        moved = flat.view([shape[a] for a in order])
        return moved.permute([order.index(a) for a in range(len(order))])

    def writable(self, x: Any) -> bool:
        return True

    def copy_into(self, target: Any, source: Any) -> None:
        target.copy_(source)

    def device(self, x: Any) -> str:
        return str(x.device)

    def same_type(self, x: Any, dtype: Any, element: str) -> bool:
        return bool(x.dtype == dtype)

    def threads(self, default: int) -> int:
        return int(self.torch.get_num_threads())

    def entry(self) -> tuple[Any, ...] | None:
        torch = self.torch
        table = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
        if table is None or not self._known:
            return None
        busy = (self._modes, self._transforms, self._tracing)
        enabled, threads = torch.is_grad_enabled, torch.get_num_threads
        forward = torch.autograd.forward_ad
        return (*self.plain, torch.empty, busy, forward, enabled, threads, table)

    def making(self, shape: Sequence[int], dtype: Any) -> tuple[Any, ...]:
        return (tuple(shape),), {"dtype": dtype, "device": "cpu"}

    def integers(self, x: Any) -> Any:
        return x if x.dtype == self.torch.bool else x.to(self.torch.int64)

    def axis(self, lo: int, hi: int, shape: Sequence[int]) -> Any:
        flat = self.torch.arange(lo, max(lo, hi), dtype=self.torch.int64, device="cpu")
        return flat.reshape(tuple(shape))

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        return self.torch.where(self.torch.as_tensor(condition), a, b)

    def minimum(self, a: Any, b: Any) -> Any:
        return self.torch.minimum(self.torch.as_tensor(a), self.torch.as_tensor(b))

    def maximum(self, a: Any, b: Any) -> Any:
        return self.torch.maximum(self.torch.as_tensor(a), self.torch.as_tensor(b))

    def from_values(self, values: Sequence[Any], shape: Sequence[int], element: str) -> Any:
        torch, dtype = self.torch, self.native[element]
        if element not in STORED_AS_BITS:
            return torch.tensor(list(values), dtype=dtype, device="cpu").reshape(tuple(shape))
        signed = torch.int16 if item_bytes(element) == 2 else torch.int8
        half = 1 << (ELEMENTS[element][0] - 1)
        bits = [v - 2 * half if v >= half else v for v in values]
        return torch.tensor(bits, dtype=signed, device="cpu").view(dtype).reshape(tuple(shape))

    def to_values(self, x: Any) -> list[Any]:
        flat = x.detach().reshape(-1)
        return list((flat.double() if flat.dtype.is_floating_point else flat).tolist())

    def random(self, shape: Sequence[int], element: str, seed: int) -> Any:
        torch = self.torch
        generator = torch.Generator().manual_seed(seed)
        if element == "bool" or element[0] in "iu":
            return torch.zeros(tuple(shape), dtype=self.native[element])
        values = torch.randn(tuple(shape), generator=generator, device="cpu")
        return values.to(self.native[element])


_FAMILIES: dict[str, Any] = {}


def family(name: str) -> Any:
    """The family of that name, imported now; ImportError when the library is missing."""
    if name not in _FAMILIES:
        _FAMILIES[name] = {"numpy": NumpyFamily, "torch": TorchFamily}[name]()
    return _FAMILIES[name]


def family_of(x: Any) -> Any:
    """The family that owns an object, or None; imports nothing but the object's own library."""
    for name in ("torch", "numpy"):
        if name in sys.modules and (
            name in _FAMILIES
            or any(c.__module__.partition(".")[0] == name for c in type(x).__mro__)
        ):
            found = family(name)
            if found.owns(x):
                return found
    return None
