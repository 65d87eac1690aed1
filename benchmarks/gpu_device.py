"""One NVIDIA GPU through torch and Triton: runs candidates, times calls, measures its ceilings.

Times are those of CUDA events around single calls, in turns over all contenders, with the second
level cache overwritten before each. The tests of this project have no GPU and do not cover it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.backends.cpp.build import BuildError
from opwright.backends.cuda import build
from opwright.backends.triton.run import RunError, prepare_on_gpu, run_on_gpu
from opwright.benchmarks.baselines import BASELINES, to_torch
from opwright.benchmarks.gpu_binaries import Binaries
from opwright.benchmarks.gpu_jobs import Made
from opwright.benchmarks.gpu_nvml import Absent, Nvml, energy
from opwright.benchmarks.public_kernels import public_calls
from opwright.ir.op import Operator, Tensor
from opwright.verify.inputs import Case
from opwright.verify.sizes import shape_of

TARGETS = {8: "sm_80", 9: "sm_90", 10: "sm_100", 12: "sm_100"}
ROUNDS = 31
SLOW = 0.5  # seconds of a first call beyond which it is timed once
Call = Callable[[], object]


class Gpu:
    """The first GPU that torch sees."""

    def __init__(self, folder: Path) -> None:
        import torch

        self.torch, self.folder = torch, folder
        properties = torch.cuda.get_device_properties(0)
        self.cache = int(getattr(properties, "L2_cache_size", 0) or 64 << 20)
        self.loaded: dict[str, Binaries] = {}
        self.flush = torch.empty(2 * self.cache, dtype=torch.int8, device="cuda")

    @property
    def target(self) -> str:
        return TARGETS.get(self.torch.cuda.get_device_capability(0)[0], "sm_80")

    def describe(self) -> dict[str, Any]:
        """Name, capability, memory, and versions of what matters."""
        torch = self.torch
        properties = torch.cuda.get_device_properties(0)
        try:
            state = Nvml().describe()
        except Absent as e:
            state = {"nvml": str(e)}
        return {
            **state,
            "name": torch.cuda.get_device_name(0),
            "capability": list(torch.cuda.get_device_capability(0)),
            "processors": properties.multi_processor_count,
            "memory": properties.total_memory,
            "cache": self.cache,
            "target": self.target,
        }

    def run(
        self,
        made: Made,
        arrays: Mapping[str, NDArray[Any]],
        sizes: Mapping[str, int],
        params: Mapping[str, Any],
    ) -> Mapping[str, NDArray[Any]]:
        if made.language == "triton":
            return run_on_gpu(made.source, made.bound, arrays, sizes, params)
        return run_on_gpu(made.source, made.bound, arrays, sizes, params, self.binaries(made))

    def binaries(self, made: Made) -> Binaries:
        """The kernels of a CUDA text, compiled by nvcc and loaded by the driver."""
        if made.source not in self.loaded:
            if not build.compiler():
                raise RunError("there is no nvcc: pip install nvidia-cuda-nvcc")
            try:
                code = build.compile_for(made.source, self.target).code
            except BuildError as e:
                raise RunError(str(e).splitlines()[0]) from None
            self.loaded[made.source] = Binaries(code)
        return self.loaded[made.source]

    def joules(self, calls: Mapping[str, Call], seconds: float) -> dict[str, dict[str, Any]]:
        """By NVML; a row with a reason where it counts nothing."""
        try:
            meter = Nvml()
            found = energy(calls, meter, self.torch.cuda.synchronize, seconds)
        except Absent as e:
            raise RunError(str(e)) from None
        return {n: e.row() for n, e in found.items()}

    # -- times ----------------------------------------------------------------------------------

    def calls(self, op: Operator, case: Case, made: Sequence[Made]) -> dict[str, Call | str]:
        """Candidates, eager and compiled calls on one set of inputs, each called once."""
        torch = self.torch
        inputs = {
            t.name: to_torch(torch, case.inputs[t.name], t.dtype.name).cuda() for t in op.inputs
        }
        out: dict[str, Call | str] = {}
        baseline = BASELINES.get(op.name)
        expected: dict[str, Any] = {}
        if baseline is not None:
            b = baseline

            def eager() -> Any:
                with torch.no_grad():
                    return b.torch(torch, inputs, case.params)

            names = list(inputs)
            torch._dynamo.reset()
            function = torch.compile(
                lambda *args: b.torch(torch, dict(zip(names, args, strict=True)), case.params)
            )

            def compiled() -> Any:
                with torch.no_grad():
                    return function(*inputs.values())

            out["torch"] = self._tried(eager)
            out["torch.compile"] = self._tried(compiled)
            if not isinstance(out["torch"], str):
                found = eager()
                expected = found if isinstance(found, dict) else {op.outputs[0].name: found}
        with torch.no_grad():
            for label, found in public_calls(op.name, inputs, case.params).items():
                out[label] = found if isinstance(found, str) else self._tried(found)
        for m in made:
            outputs = {t.name: self._output(t, case) for t in op.outputs}
            try:
                binaries = self.binaries(m) if m.language == "cuda" else None
                call = prepare_on_gpu(
                    m.source, m.bound, {**inputs, **outputs}, case.sizes, case.params, self.folder,
                    binaries,
                )  # fmt: skip
            except Exception as e:  # a candidate that does not compile has no time
                out[m.name] = _first(e)
                continue
            out[m.name] = self._tried(call)
            wrong = self._differs(outputs, expected) if not isinstance(out[m.name], str) else ""
            if wrong:
                out[m.name] = wrong
        return out

    def _output(self, t: Tensor, case: Case) -> Any:
        shape = shape_of(t, case.sizes, case.params)
        return to_torch(self.torch, np.zeros(shape, t.dtype.storage), t.dtype.name).cuda()

    def _differs(self, outputs: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
        """A coarse look at the timed results: the differential tests are the judge."""
        torch = self.torch
        for name, found in outputs.items():
            other = expected.get(name)
            if other is None or tuple(other.shape) != tuple(found.shape):
                continue
            scale = float(other.double().abs().mean()) + 1e-6
            worst = float((found.double() - other.double()).abs().max())
            if not worst <= 0.05 * scale + 0.05 * float(other.double().abs().max()):
                return f"{name} differs from torch's by up to {worst:.3g}"
        torch.cuda.synchronize()
        return ""

    def _tried(self, call: Call) -> Call | str:
        try:
            call()
            self.torch.cuda.synchronize()
        except Exception as e:
            return _first(e)
        return call

    def samples(self, calls: Mapping[str, Call], seconds: float) -> dict[str, list[float]]:
        """CUDA-event times of single calls in turns, until the rounds or the seconds are over."""
        torch = self.torch
        out: dict[str, list[float]] = {n: [] for n in calls}
        deadline = time.monotonic() + seconds
        for number in range(ROUNDS):
            events: dict[str, tuple[Any, Any]] = {}
            for name, call in calls.items():
                if number and out[name] and out[name][0] > SLOW:
                    continue
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                self.flush.zero_()  # also keeps the device busy while the call is enqueued
                begin.record()
                call()
                end.record()
                events[name] = (begin, end)
            torch.cuda.synchronize()
            for name, (begin, end) in events.items():
                out[name].append(begin.elapsed_time(end) / 1e3)
            if time.monotonic() > deadline:
                break
        return {n: v[1:] if len(v) > 3 else v for n, v in out.items()}

    # -- ceilings -------------------------------------------------------------------------------

    def ceilings(self) -> dict[str, float]:
        """Bytes a second of a copy, floating-point operations a second of square products."""
        torch = self.torch
        out: dict[str, float] = {}
        size = min(1 << 30, torch.cuda.get_device_properties(0).total_memory // 8)
        a = torch.empty(size, dtype=torch.int8, device="cuda").zero_()
        b = torch.empty_like(a)
        found = self.samples({"copy": partial(b.copy_, a)}, 5.0)
        out["copy_bytes_per_s"] = 2 * size / min(found["copy"])
        n = 4096
        for kind in ("float32", "tfloat32", "float16", "bfloat16"):
            torch.backends.cuda.matmul.allow_tf32 = kind == "tfloat32"
            dtype = torch.float32 if kind == "tfloat32" else getattr(torch, kind)
            x, y = (torch.randn(n, n, device="cuda").to(dtype) for _ in range(2))
            z = torch.empty(n, n, dtype=dtype, device="cuda")
            found = self.samples({"mm": partial(torch.mm, x, y, out=z)}, 3.0)
            out[f"matmul_{kind}_flops"] = 2 * n**3 / min(found["mm"])
        torch.backends.cuda.matmul.allow_tf32 = False
        return out


def _first(e: BaseException) -> str:
    lines = str(e).strip().splitlines() or [""]
    return f"{type(e).__name__}: {lines[0][:160]}"
