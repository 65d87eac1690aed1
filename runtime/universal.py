"""A package for CPUs and GPUs: it has kernels for CPU arrays; GPUs have a package inside.

The package inside (`_device`) holds binaries for GPUs and is imported when a call or `explain` asks
for it; without a GPU it says why nothing of it is taken.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from .binding import Rows
from .engine import Engine, Explanation
from .kept import Kept

INSIDE = "_device"
ON_CPU = "the arrays are on the CPU"


class UniversalEngine(Engine):
    """The callable behind a function with kernels for CPUs and for GPUs."""

    keys: tuple[str, ...] = ("CPU", "CUDA")
    strangers: tuple[str, ...] = ("XPU", "MPS", "HPU")
    where = "CPUs and GPUs (x.cpu(), x.cuda())"
    _device: Any = None

    def device(self) -> Any:
        """The engine of the package inside."""
        if self._device is None:
            home = __name__.rpartition(".")[0].rpartition(".")[0]
            engine = importlib.import_module(f"{home}.{INSIDE}")._ENGINE
            engine.results, engine.checking = self.results, self.checking
            self._device = engine
        return self._device

    def on_device(self, inputs: Any) -> bool:
        """Whether an input is a tensor on a GPU."""
        torch: Any = sys.modules.get("torch")
        return torch is not None and any(isinstance(x, torch.Tensor) and x.is_cuda for x in inputs)

    def call(
        self,
        inputs: tuple[Any, ...],
        given: tuple[Any, ...],
        out: Any = None,
        implementation: Any = None,
        check: bool | None = None,
        kept: Kept | None = None,
    ) -> Any:
        """As of any engine, where the arrays are."""
        if not self.on_device(inputs):
            return super().call(inputs, given, out, implementation, check, kept)
        device = self.device()
        library, inputs, outs = device.admit(inputs, out)
        tensors = (*inputs, *(outs or ()))
        if library.foreign(tensors):
            from .torchop import dispatch

            return dispatch(self, inputs, given, outs, implementation)
        if self.differentiable and library.grad_wanted(tensors):
            raise RuntimeError(device.no_gradient())
        return device.local(library, inputs, given, outs, implementation, check)

    def local(
        self,
        library: Any,
        inputs: tuple[Any, ...],
        given: tuple[Any, ...],
        outs: tuple[Any, ...] | None = None,
        choice: Any = None,
        check: bool | None = None,
        kept: Kept | None = None,
    ) -> Any:
        """The kernel on these arrays."""
        if library.name == "torch" and self.on_device(inputs):
            device = self.device()
            return device.local(device.family("torch"), inputs, given, outs, choice, check)
        return super().local(library, inputs, given, outs, choice, check, kept)

    def explain(self, inputs: Any, given: Any, out: Any, choice: Any) -> Explanation:
        """Every variant with its reason, the binaries for GPUs among them."""
        if self.on_device(inputs):
            own: Explanation = self.device().explain(inputs, given, out, choice)
            return own
        found = super().explain(inputs, given, out, choice)
        device = self.device()
        more: Rows = []
        for b in device.spec.bindings:
            if b.types == found.types:
                for v in b.variants:
                    for name, here, why in device.dispatcher.reasons(v):
                        more.append((f"gpu {name}", False, ON_CPU if here else why))
        return found._replace(variants=[*found.variants, *more])
