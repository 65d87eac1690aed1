"""Calls of compiled kernels: a driver's library is opened at the first call; the caller's stream.

A variant is a binary for each architecture (libcuda's or libamdhip64's), and a text (PTX) that
CUDA drivers compile for newer ones. The plan says how each kernel is launched, with what Triton's
compiler hands over besides. Nothing is compiled by the package, tuned or downloaded.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any, Callable

from .binding import Rows
from .describe import Env, Launch, Spec, Variant
from .device import DeviceDispatcher, DeviceEngine
from .engine import Explanation

TEXT = "ptx"  # the level of a variant that newer architectures take, too
OLDEST = 80  # of the architectures that take such a text
LIBRARY = "OPWRIGHT_CUDA_LIBRARY"  # of the environment: another library than the system's
HIP_LIBRARY = "OPWRIGHT_HIP_LIBRARY"
NAMES = ("libcuda.so.1", "libcuda.so")
HIP_NAMES = tuple(f"libamdhip64.so{n}" for n in ("", ".7", ".6", ".5"))
SHARED = 48 << 10  # bytes of shared memory that a launch may have without asking
MOST_SHARED = 8  # the attribute that asks for more
PARTS = {
    "f32": ctypes.c_float, "f64": ctypes.c_double, "bool": ctypes.c_bool,
    "i64": ctypes.c_int64, "i32": ctypes.c_int32, "i16": ctypes.c_int16, "i8": ctypes.c_int8,
    "u64": ctypes.c_uint64, "u32": ctypes.c_uint32, "u16": ctypes.c_uint16, "u8": ctypes.c_uint8,
}  # fmt: skip


class Driver:
    """The functions of libcuda that a launch needs; RuntimeError with what it says."""

    what, variable = "CUDA", LIBRARY
    names: tuple[str, ...] = NAMES
    init, load, get, start = "cuInit", "cuModuleLoadData", "cuModuleGetFunction", "cuLaunchKernel"

    def __init__(self) -> None:
        wanted = os.environ.get(self.variable)
        tried = [wanted] if wanted else list(self.names)
        self.library: Any = None
        for name in tried:
            try:
                self.library = ctypes.CDLL(name)
                break
            except OSError:
                continue
        if self.library is None:
            names = " or ".join(tried)
            raise RuntimeError(f"there is no {self.what} driver here: {names} does not load")
        self.check(self.init, ctypes.c_uint(0))

    def check(self, name: str, *args: Any) -> None:
        """Call a function; RuntimeError unless it succeeds."""
        status = int(getattr(self.library, name)(*args))
        if status:
            raise RuntimeError(f"{name} failed with {status}: {self.said(status) or 'no text'}")

    def said(self, status: int) -> str:
        """What a status means."""
        text = ctypes.c_char_p()
        self.library.cuGetErrorString(ctypes.c_int(status), ctypes.byref(text))
        return text.value.decode() if text.value else ""

    def function(self, code: bytes, name: str, shared: int = 0) -> ctypes.c_void_p:
        """A kernel of a binary or text, loaded into the current context; `shared` is the dynamic
        shared memory that its launches have."""
        module, found = ctypes.c_void_p(), ctypes.c_void_p()
        self.check(self.load, ctypes.byref(module), ctypes.c_char_p(code))
        self.check(self.get, ctypes.byref(found), module, name.encode())
        if shared > SHARED:
            self.allow(found, shared)
        return found

    def allow(self, function: ctypes.c_void_p, shared: int) -> None:
        """Let launches of a kernel have more shared memory than usual."""
        self.check("cuFuncSetAttribute", function, ctypes.c_int(MOST_SHARED), ctypes.c_int(shared))

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
        self.check(self.start, function, *sizes, ctypes.c_uint(shared), *end)


class HipDriver(Driver):
    """The same of libamdhip64."""

    what, variable, names = "AMD", HIP_LIBRARY, HIP_NAMES
    init, load, get = "hipInit", "hipModuleLoadData", "hipModuleGetFunction"
    start = "hipModuleLaunchKernel"

    def said(self, status: int) -> str:
        text = self.library.hipGetErrorString
        text.restype = ctypes.c_char_p
        found = text(ctypes.c_int(status))
        return found.decode() if found else ""

    def allow(self, function: ctypes.c_void_p, shared: int) -> None:
        """All that a compute unit has may be asked for."""


_DRIVERS: dict[bool, Driver] = {}


def driver(level: str = "") -> Driver:
    """The driver of this process for an architecture."""
    amd = level.startswith("gfx")
    if amd not in _DRIVERS:
        _DRIVERS[amd] = HipDriver() if amd else Driver()
    return _DRIVERS[amd]


class Kernel:
    """One launch with everything but its tensors; a function for each GPU."""

    def __init__(
        self, code: bytes, launch: Launch, grid: tuple[int, ...], args: list[Any], level: str = ""
    ) -> None:
        options = {**launch.options, **launch.options.get("levels", {}).get(level, {})}
        self.code, self.level, self.grid = code, level, grid
        self.name = options.get("symbol", launch.kernel)
        self.block = tuple(options["block"])
        self.shared = int(options.get("shared_bytes", 0))
        # what Triton's compiler adds: an address of scratch of its own, and one for profiles
        self.hidden: Any = options.get("hidden")
        kinds: list[str] = options["types"]
        self.fixed = [
            None if isinstance(a, str) else PARTS[kind](a) for a, kind in zip(args, kinds)
        ]
        self.functions: dict[int, ctypes.c_void_p] = {}

    def __call__(self, *given: Any) -> None:
        import torch

        device = torch.cuda.current_device()
        own = driver(self.level)
        if device not in self.functions:
            self.functions[device] = own.function(self.code, self.name, self.shared)
        values = [
            ctypes.c_void_p(x.data_ptr()) if value is None else value
            for x, value in zip(given, self.fixed)
        ]
        scratch: Any = None
        if self.hidden is not None:
            count = int(self.hidden)
            for n in self.grid:
                count *= n
            if count:  # of the caller's stream: it is not given to others before that is over
                scratch = torch.empty(count, dtype=torch.uint8, device="cuda")
            address = scratch.data_ptr() if count else 0
            values += [ctypes.c_void_p(address), ctypes.c_void_p(0)]
        stream = torch.cuda.current_stream().cuda_stream
        own.launch(self.functions[device], self.grid, self.block, self.shared, stream, values)


class BinaryLauncher:
    """The kernels of one variant, from files of the package."""

    def __init__(self, variant: Variant, folder: str, level: str) -> None:
        driver(level)
        self.variant, self.level = variant, level
        self.codes = []
        for launch in variant.launches:
            own = launch.options.get("levels", {}).get(level, {})
            path = own.get("file", variant.libraries[level])
            with open(os.path.join(folder, path), "rb") as file:
                self.codes.append(file.read() + b"\0")

    def prepare(self, env: Env) -> tuple[list[Any], list[Any]]:
        """(launches with their numbers, scratch) for the sizes, params and strides of a call."""
        launches: list[Any] = []
        for launch, code in zip(self.variant.launches, self.codes):
            grid = tuple(max(int(g(env)), 0) for g in launch.grid)
            args = [a if isinstance(a, str) else a(env) for a in launch.args]
            if all(grid):
                launches.append((Kernel(code, launch, grid, args, self.level), args, {}))
        scratch = [
            (s.name, [max(int(n(env)), 0) for n in s.shape], s.element, s.zero)
            for s in self.variant.scratch
        ]
        return launches, scratch


class BinaryDispatcher(DeviceDispatcher):
    """Picks the binary of the GPU's architecture, else the text."""

    interpreted = False

    def levels(self) -> tuple[str, ...]:
        """The architecture, older ones of its kind whose binaries it runs, the text."""
        arch = super().levels()[0]
        if not arch.startswith("sm_"):
            return (arch,)
        number = int(arch[3:])
        same = [f"sm_{n}" for n in range(number, number - number % 10 - 1, -1)]
        # what is compiled for 9.0 and later may use what no other architecture has
        found = same if number < 90 else [arch]
        return (*found, TEXT) if number >= OLDEST else tuple(found)

    def file(self, variant: Variant) -> tuple[str, str]:
        """(level, path) of a variant on this GPU; RuntimeError if it was not made for it."""
        here = self.levels()
        for level in here:
            if level in variant.libraries:
                return level, os.path.join(self.folder, variant.libraries[level])
        made = ", ".join(variant.libraries)
        raise RuntimeError(f"made for {made}; this GPU is {here[0]}")

    def entry(self, variant: Variant) -> Callable[..., Any]:
        """The launcher of a variant."""
        level, path = self.file(variant)
        if path not in self._loaded:
            self._loaded[path] = BinaryLauncher(variant, self.folder, level)
        found: Callable[..., Any] = self._loaded[path]
        return found

    def reasons(self, variant: Variant, env: Env | None = None) -> Rows:
        """(variant [level], taken, why not) of every binary of a variant, on this machine."""
        failed = [f for f in variant.facts if env is not None and not f.holds(env)]
        absent: dict[str, str] = {}
        for level in variant.libraries:
            try:
                driver(level)
            except RuntimeError as error:
                absent[level] = str(error)
        best, here = "", ""
        if len(absent) < len(variant.libraries):  # else no framework is asked for a GPU
            try:
                best = self.file(variant)[0]
            except (RuntimeError, ImportError) as error:
                here = str(error)
        rows: Rows = []
        for level in variant.libraries:
            why = absent.get(level, here)
            if not why and failed:
                why = "; ".join(f"{f.text} does not hold" for f in failed)
            if not why and level != best:
                why = f"this GPU takes {best}"
            rows.append((f"{variant.name} [{level}]", not why, why or "made for this GPU"))
        return rows


class BinaryEngine(DeviceEngine):
    """The callable behind a function whose kernels are binaries for GPUs."""

    interpreted = False

    def __init__(self, spec: Spec, folder: str, results: Callable[..., Any] | None = None) -> None:
        super().__init__(spec, folder, results)
        self.dispatcher: BinaryDispatcher = BinaryDispatcher(spec, folder)

    def explain(self, inputs: Any, given: Any, out: Any, choice: Any) -> Explanation:
        """Every variant, and every binary of it, with the reason why it would or would not run."""
        found = super().explain(inputs, given, out, choice)
        binding = next(b for b in self.spec.bindings if b.types == found.types)
        more: Rows = []
        for v in binding.variants:
            more += self.dispatcher.reasons(v)
        return found._replace(variants=[*found.variants, *more])
