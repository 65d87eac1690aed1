"""Calls of compiled CUDA kernels: libcuda is opened at the first call, on the caller's stream.

A variant is a binary for each architecture, and a text (PTX) that drivers compile for newer ones.
The plan says how each kernel is launched. Nothing is compiled by the package, tuned or downloaded.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any, Callable

from .binding import Dispatcher
from .describe import Env, Launch, Spec, Variant
from .device import DeviceDispatcher, DeviceEngine

TEXT = "ptx"  # the level of a variant that newer architectures take, too
LIBRARY = "OPWRIGHT_CUDA_LIBRARY"  # of the environment: another library than the system's
NAMES = ("libcuda.so.1", "libcuda.so")
PARTS = {
    "f32": ctypes.c_float, "f64": ctypes.c_double, "bool": ctypes.c_bool,
    "i64": ctypes.c_int64, "i32": ctypes.c_int32,
}  # fmt: skip


class Driver:
    """The functions of libcuda that a launch needs; RuntimeError with what it says."""

    def __init__(self) -> None:
        wanted = os.environ.get(LIBRARY)
        tried = [wanted] if wanted else list(NAMES)
        self.library: Any = None
        for name in tried:
            try:
                self.library = ctypes.CDLL(name)
                break
            except OSError:
                continue
        if self.library is None:
            raise RuntimeError(f"there is no CUDA driver here: {' or '.join(tried)} does not load")
        self.check("cuInit", ctypes.c_uint(0))

    def check(self, name: str, *args: Any) -> None:
        """Call a function; RuntimeError unless it succeeds."""
        status = int(getattr(self.library, name)(*args))
        if status:
            text = ctypes.c_char_p()
            self.library.cuGetErrorString(ctypes.c_int(status), ctypes.byref(text))
            said = text.value.decode() if text.value else "no text"
            raise RuntimeError(f"{name} failed with {status}: {said}")

    def function(self, code: bytes, name: str) -> ctypes.c_void_p:
        """A kernel of a binary or text, loaded into the current context."""
        module, found = ctypes.c_void_p(), ctypes.c_void_p()
        self.check("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(code))
        self.check("cuModuleGetFunction", ctypes.byref(found), module, name.encode())
        return found

    def launch(
        self,
        function: ctypes.c_void_p,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        shared: int,
        stream: int,
        values: list[Any],
    ) -> None:
        """Launch on a stream; `values` are ctypes objects in the order of the parameters."""
        pointers = (ctypes.c_void_p * len(values))(
            *[ctypes.cast(ctypes.byref(v), ctypes.c_void_p) for v in values]
        )
        sizes = [ctypes.c_uint(n) for n in ((*grid, 1, 1)[:3] + (*block, 1, 1)[:3])]
        end = (ctypes.c_void_p(stream), pointers, None)
        self.check("cuLaunchKernel", function, *sizes, ctypes.c_uint(shared), *end)


_DRIVER: list[Driver] = []


def driver() -> Driver:
    """The driver of this process."""
    if not _DRIVER:
        _DRIVER.append(Driver())
    return _DRIVER[0]


class Kernel:
    """One launch with everything but its tensors; a function for each GPU."""

    def __init__(self, code: bytes, launch: Launch, grid: tuple[int, ...], args: list[Any]) -> None:
        self.code, self.name, self.grid = code, launch.kernel, grid
        self.block = tuple(launch.options["block"])
        self.shared = int(launch.options.get("shared_bytes", 0))
        kinds: list[str] = launch.options["types"]
        self.fixed = [
            None if isinstance(a, str) else PARTS[kind](a) for a, kind in zip(args, kinds)
        ]
        self.functions: dict[int, ctypes.c_void_p] = {}

    def __call__(self, *given: Any) -> None:
        import torch

        device = torch.cuda.current_device()
        if device not in self.functions:
            self.functions[device] = driver().function(self.code, self.name)
        values = [
            ctypes.c_void_p(x.data_ptr()) if value is None else value
            for x, value in zip(given, self.fixed)
        ]
        stream = torch.cuda.current_stream().cuda_stream
        driver().launch(self.functions[device], self.grid, self.block, self.shared, stream, values)


class BinaryLauncher:
    """The kernels of one variant, from a file of the package."""

    def __init__(self, variant: Variant, path: str) -> None:
        driver()
        self.variant = variant
        with open(path, "rb") as file:
            self.code = file.read() + b"\0"

    def prepare(self, env: Env) -> tuple[list[Any], list[Any]]:
        """(launches with their numbers, scratch) for the sizes, params and strides of a call."""
        launches: list[Any] = []
        for launch in self.variant.launches:
            grid = tuple(max(int(g(env)), 0) for g in launch.grid)
            args = [a if isinstance(a, str) else a(env) for a in launch.args]
            if all(grid):
                launches.append((Kernel(self.code, launch, grid, args), args, {}))
        scratch = [
            (s.name, [max(int(n(env)), 0) for n in s.shape], s.element, s.zero)
            for s in self.variant.scratch
        ]
        return launches, scratch


class BinaryDispatcher(DeviceDispatcher):
    """Picks the binary of the GPU's architecture, else the text."""

    interpreted = False

    def levels(self) -> tuple[str, ...]:
        return (*[x for x in super().levels() if x.startswith("sm_")], TEXT)

    def file(self, variant: Variant) -> tuple[str, str]:
        """(level, path) of a variant on this GPU; RuntimeError if it was not made for it."""
        return Dispatcher.file(self, variant)

    def entry(self, variant: Variant) -> Callable[..., Any]:
        """The launcher of a variant."""
        path = self.file(variant)[1]
        if path not in self._loaded:
            self._loaded[path] = BinaryLauncher(variant, path)
        found: Callable[..., Any] = self._loaded[path]
        return found


class BinaryEngine(DeviceEngine):
    """The callable behind a function whose kernels are binaries for GPUs."""

    interpreted = False

    def __init__(self, spec: Spec, folder: str, results: Callable[..., Any] | None = None) -> None:
        super().__init__(spec, folder, results)
        self.dispatcher = BinaryDispatcher(spec, folder)
