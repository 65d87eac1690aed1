"""Calls of Triton kernels on a GPU: the same admission and dispatch, another way to launch.

A variant is a module of kernels with the plan of its launches. Triton compiles them at the first
call, for the GPU that is there; nothing is tuned. With TRITON_INTERPRET=1 in the environment, set
before Triton is imported, they run in Triton's interpreter on CPU tensors: slow, for tests.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Callable

from .arrays import TorchFamily, family
from .binding import Choice, Dispatcher
from .describe import Env, Spec, Variant
from .engine import Bound, Engine
from .kept import Kept

ANY = "any"  # the level of a variant that takes whatever GPU there is
INTERPRETER = "interpreter"


def interpreting() -> bool:
    """Whether Triton interprets kernels in this process."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


class DeviceFamily(TorchFamily):
    """Dense torch tensors on the current GPU; `instead` says what else a package can do."""

    def __init__(self, instead: str = "") -> None:
        super().__init__()
        self.instead = instead

    def trouble(self, x: Any) -> str | None:
        if x.layout is not self.torch.strided:
            return f"has the layout {x.layout}; pass a dense tensor (x.to_dense())"
        if x.device.type != "cuda":
            return (
                f"is on {x.device}; this package holds kernels for GPUs (x.cuda())" + self.instead
            )
        return None

    def signature(self, inputs: Sequence[Any], inside: bool = False) -> list[Any] | None:
        plain, grad = self.plain, not inside and self.torch.is_grad_enabled()
        strided = self.torch.strided
        parts: list[Any] = []
        for x in inputs:
            if type(x) not in plain or not x.is_cuda or x.layout is not strided:
                return None
            if (grad and x.requires_grad) or x.is_neg():
                return None
            parts += (x.device.index, x.dtype, x.shape, x.stride())
        return None if not inside and self._interposed() else parts

    def empty(self, shape: Sequence[int], dtype: Any, order: tuple[int, ...] | None = None) -> Any:
        if order is None:
            return self.torch.empty(shape, dtype=dtype, device="cuda")
        moved = self.torch.empty([shape[a] for a in order], dtype=dtype, device="cuda")
        return moved.permute([order.index(a) for a in range(len(order))])

    def aligned(self, shape: Sequence[int], dtype: Any, order: tuple[int, ...] | None) -> Any:
        return self.empty(shape, dtype, order)  # allocations of CUDA start on 512 bytes

    def scalar(self, value: Any, element: str) -> Any:
        return self.torch.tensor(value, dtype=self.native[element], device="cuda")

    def axis(self, lo: int, hi: int, shape: Sequence[int]) -> Any:
        return super().axis(lo, hi, shape).cuda()

    def from_values(self, values: Sequence[Any], shape: Sequence[int], element: str) -> Any:
        return super().from_values(values, shape, element).cuda()

    def to_values(self, x: Any) -> list[Any]:
        return super().to_values(x.cpu())

    def random(self, shape: Sequence[int], element: str, seed: int) -> Any:
        return super().random(shape, element, seed).cuda()


class Launcher:
    """The kernels of one variant; its module is imported when the first call needs it."""

    def __init__(self, package: str, variant: Variant, module: str) -> None:
        self.variant = variant
        try:
            importlib.import_module("triton")
        except ImportError as error:
            raise RuntimeError(
                f"Triton is not installed ({error}): pip install "
                f"{package.replace('_', '-')}[triton]"
            ) from None
        if interpreting():
            from .interpreter import correct_the_interpreter

            correct_the_interpreter()
        home = __name__.rpartition(".")[0].rpartition(".")[
            0
        ]  # also where a package lies in another
        self.module = importlib.import_module(f"{home}.{module}")

    def prepare(self, env: Env) -> tuple[list[Any], list[Any]]:
        """(launches with their numbers, scratch) for the sizes, params and strides of a call."""
        launches = []
        for launch in self.variant.launches:
            grid = tuple(max(int(g(env)), 0) for g in launch.grid)
            args = [a if isinstance(a, str) else a(env) for a in launch.args]
            if all(grid):
                kernel = getattr(self.module, launch.kernel)
                if interpreting():
                    from .interpreter import declared

                    args = [declared(kernel, n, a) for n, a in enumerate(args)]
                launches.append((kernel[grid], args, {**launch.const, **launch.options}))
        scratch = [
            (s.name, [max(int(n(env)), 0) for n in s.shape], s.element, s.zero)
            for s in self.variant.scratch
        ]
        return launches, scratch


class DeviceDispatcher(Dispatcher):
    """Picks variants by the architecture of the GPU."""

    interpreted = True  # whether an interpreter may stand in for one

    def __init__(self, spec: Spec, folder: str) -> None:
        super().__init__(spec, folder)
        self.package = spec.package

    def levels(self) -> tuple[str, ...]:
        """The architecture of the current GPU, then any; RuntimeError without a GPU."""
        if self._isa:
            return (self._isa, ANY)  # for tests of what another GPU would take
        if self.interpreted and interpreting():
            return (INTERPRETER,)
        torch: Any = sys.modules.get("torch") or importlib.import_module("torch")
        if not torch.cuda.is_available():
            cure = (
                "; TRITON_INTERPRET=1 in the environment runs the kernels in "
                "Triton's interpreter on CPU tensors"
            )
            raise RuntimeError("there is no GPU here" + cure * self.interpreted)
        if torch.version.hip:
            properties = torch.cuda.get_device_properties(torch.cuda.current_device())
            arch: str = properties.gcnArchName.partition(":")[0]
            return (arch, ANY)
        major, minor = torch.cuda.get_device_capability()
        return (f"sm_{major}{minor}", ANY)

    def file(self, variant: Variant) -> tuple[str, str]:
        """(level, module) of a variant on this GPU; RuntimeError if it was not made for it."""
        here = self.levels()
        if here == (INTERPRETER,):
            return INTERPRETER, next(iter(variant.libraries.values()))
        for level in here:
            if level in variant.libraries:
                return level, variant.libraries[level]
        made = ", ".join(variant.libraries)
        raise RuntimeError(f"made for {made}; this GPU is {here[0]}")

    def entry(self, variant: Variant) -> Callable[..., Any]:
        """The launcher of a variant."""
        module = self.file(variant)[1]
        if module not in self._loaded:
            self._loaded[module] = Launcher(self.package, variant, module)
        found: Callable[..., Any] = self._loaded[module]
        return found


class DeviceEngine(Engine):
    """The callable behind a function whose kernels run on a GPU."""

    native = False
    libraries = ("torch",)
    keys: tuple[str, ...] = ("CUDA",)
    strangers: tuple[str, ...] = ("XPU", "MPS", "HPU")
    where = "GPUs (x.cuda())"
    interpreted = True  # whether Triton's interpreter may stand in for one

    def __init__(self, spec: Spec, folder: str, results: Callable[..., Any] | None = None) -> None:
        super().__init__(spec, folder, results)
        self.dispatcher = DeviceDispatcher(spec, folder)
        self._family: Any = None
        if self.interpreted and interpreting():
            self.keys = ("CPU", "CUDA")
        else:
            self.strangers = ("CPU", *self.strangers)

    def family(self, name: str) -> Any:
        """Tensors on the GPU; on the CPU while Triton interprets."""
        if name != "torch":
            raise ImportError(f"{self.spec.name} takes torch tensors, not {name}")
        if self.interpreted and interpreting():
            return family("torch")
        if self._family is None:
            instead = (
                ", which run on the CPU only in Triton's interpreter (TRITON_INTERPRET=1 in the "
                "environment)"
            )
            self._family = DeviceFamily(instead * self.interpreted)
        return self._family

    def _guarded(self, library: Any, inputs: Sequence[Any]) -> Any:
        """The GPU of the inputs is the current one during a call."""
        torch = library.torch
        found = next((x for x in inputs if x.device.type == "cuda"), None)
        return torch.cuda.device(found.device if found is not None else -1)

    def _bind(self, library: Any, inputs: Any, given: Any, outs: Any, choice: Choice) -> Bound:
        with self._guarded(library, inputs):
            return super()._bind(library, inputs, given, outs, choice)

    def _execute(
        self,
        library: Any,
        bound: Bound,
        inputs: Any,
        outs: Any,
        pack: bool = True,
        kept: Kept | None = None,
    ) -> Any:
        with self._guarded(library, inputs):
            return super()._execute(library, bound, inputs, outs, pack, kept)

    def launch(
        self, library: Any, bound: Bound, inputs: Sequence[Any], results: Sequence[Any]
    ) -> None:
        """Scratch, then the launches in order, on the current stream."""
        torch, spec = library.torch, self.spec
        if bound.prepared is None:
            bound.prepared = bound.run.prepare(bound.env)
        launches, scratch = bound.prepared
        tensors = {t.name: x for t, x in zip((*spec.inputs, *spec.outputs), (*inputs, *results))}
        for name, shape, element, zero in scratch:
            make = torch.zeros if zero else torch.empty
            device = results[0].device
            tensors[name] = make(shape, dtype=library.native[element], device=device)
        for kernel, args, named in launches:
            kernel(*[tensors[a] if isinstance(a, str) else a for a in args], **named)
