"""Kernels of a compiled CUDA text on the GPU that torch uses, launched as a plan says.

The driver's functions are those that packages call. No test covers a launch: it needs a GPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from opwright.ir.launch import BoundLaunch, Scalar

PARTS = {
    "f32": ctypes.c_float, "f64": ctypes.c_double, "bool": ctypes.c_bool,
    "i64": ctypes.c_int64, "i32": ctypes.c_int32,
}  # fmt: skip


def values_of(c: BoundLaunch, args: Sequence[Any]) -> list[Any]:
    """The arguments of a launch as the driver takes them; tensors by their address."""
    out: list[Any] = []
    for a, x in zip(c.args, args, strict=True):
        if isinstance(a, Scalar):
            out.append(PARTS[a.dtype.name](x))
        else:
            out.append(ctypes.c_void_p(x.data_ptr()))
    return out


class Binaries:
    """A binary, loaded once."""

    def __init__(self, code: bytes) -> None:
        self.code = code + b"\0"
        self.known: dict[str, Any] = {}

    def __call__(
        self, c: BoundLaunch, grid: tuple[int, ...], args: Sequence[Any]
    ) -> Callable[[], None]:
        """A launch with its arguments made once, on torch's current stream."""
        import torch

        from opwright.runtime.driver import driver

        if c.kernel not in self.known:
            self.known[c.kernel] = driver().function(self.code, c.kernel)
        function, values = self.known[c.kernel], values_of(c, args)
        block = tuple(int(n) for n in c.extra.get("block", [1]))
        shared = int(c.extra.get("shared_bytes", 0))

        def launch() -> None:
            stream = torch.cuda.current_stream().cuda_stream
            driver().launch(function, grid, block, shared, stream, values)

        return launch
