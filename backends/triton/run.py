"""Runs Triton candidates: in Triton's interpreter, in a sandbox, and on a GPU through torch where
there is one.

Arrays are in stored form and of any strides; buffers lie between canaries, and what a kernel has
to write is poison before.
"""

from __future__ import annotations

import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.backends import isolation
from opwright.backends.triton.interpretable import interpretable
from opwright.backends.triton.text import signature
from opwright.ir.dtypes import DType
from opwright.ir.expr import Expr, ExprError, evaluate, leaves, show
from opwright.ir.launch import BoundLaunch, BoundPlan, Scalar
from opwright.ir.tile import Buffer, row_major

TIME_LIMIT = 60.0
ALIGNMENT, MARGIN = 256, 512  # bytes
REPLY_LIMIT = 1 << 16  # bytes of an answer, which is a line with an error
MOST = 4 << 30  # bytes of a call's buffers
CPU = 1200  # seconds of one process, over all its calls
MEMORY = 4 * isolation.share(4 << 30)  # bytes of address space, much of which is never used
POISON, CANARY = 0xFF, 0x5C  # poison is NaN in every float type

Array = NDArray[Any]
# a launch, its grid and arguments -> what launches it, where a text was compiled beforehand
Binaries = Callable[[BoundLaunch, tuple[int, ...], Sequence[Any]], Callable[[], None]]


class RunError(RuntimeError):
    """The call does not fit the plan, or the program failed, hung or wrote where it must not."""


class NotInterpreted(RunError):
    """The interpreter itself gave up: that says nothing about the kernel on a device."""


def interpret(
    source: str,
    bound: BoundPlan,
    arrays: Mapping[str, Array],
    sizes: Mapping[str, int],
    params: Mapping[str, float | int | bool] | None = None,
    limit: float = TIME_LIMIT,
) -> dict[str, Array]:
    """Outputs of one call, in stored form; RunError with the reason.

    `arrays` holds the inputs; an output that is in it gives its strides and stays as it is.
    """
    with Interpreter(source, bound) as runner:
        return runner.run(arrays, sizes, params, limit)


class Interpreter:
    """A process that runs one candidate in Triton's interpreter, call after call."""

    def __init__(self, source: str, bound: BoundPlan) -> None:
        self.bound = bound
        self.folder = tempfile.TemporaryDirectory(prefix="triton-")
        self.path = Path(self.folder.name) / bound.plan.source
        self.path.write_text(interpretable(source))
        shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.memory = tempfile.TemporaryFile(dir=shm)  # of the calls' buffers; it has no name
        self.process: isolation.Confined | None = None

    def __enter__(self) -> Interpreter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process and drop its files."""
        self._stop()
        self.memory.close()
        self.folder.cleanup()

    def run(
        self,
        arrays: Mapping[str, Array],
        sizes: Mapping[str, int],
        params: Mapping[str, float | int | bool] | None = None,
        limit: float = TIME_LIMIT,
    ) -> dict[str, Array]:
        """One call; the process is started anew after one that was killed."""
        call = Call.of(self.bound, arrays, sizes, params or {})
        self.memory.seek(0)
        self.memory.truncate(0)
        self.memory.write(call.memory.tobytes())
        self.memory.flush()
        launches = [
            {"kernel": c.kernel, "grid": call.grid(c), "args": call.arguments(c), "const": c.const}
            for c in self.bound.launches
        ]
        request = {
            "source": str(self.path),
            "memory": self.memory.fileno(),
            "launches": [c for c in launches if all(c["grid"])],
        }
        error = self._ask(json.dumps(request), limit)
        if error:
            raise RunError(error)
        self.memory.seek(0)
        after = np.frombuffer(self.memory.read(len(call.memory)), np.uint8)
        if len(after) != len(call.memory):
            raise RunError("the memory of the call was cut")
        return call.outputs(after)

    def _start(self) -> isolation.Confined:
        if self.process is None or self.process.poll() is not None:
            self._stop()
            child = Path(__file__).with_name("interpreted.py").absolute()
            allowance = isolation.Allowance(
                [child, self.path, *isolation.packages("triton", "numpy")],
                memory=MEMORY,
                cpu=CPU,
                file=MOST,
            )
            hidden = {"TRITON_INTERPRET": "1", "TRITON_DEFAULT_FP_FUSION": "1"}
            self.process = isolation.start(
                [sys.executable, "-I", str(child)],
                allowance,
                env=isolation.environment(hidden),
                pass_fds=(self.memory.fileno(),),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
            )
        return self.process

    def _stop(self) -> None:
        if self.process is not None:
            self.process.end()
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    stream.close()
            self.process = None

    def _ask(self, request: str, limit: float) -> str:
        process = self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(request.encode() + b"\n")
            answer = self._answer(process, limit)
        except BrokenPipeError:
            answer = b""
        except BaseException:
            self._stop()
            raise
        if answer is None:
            self._stop()
            raise NotInterpreted(f"the interpreter was stopped after {limit:g} s")
        if not answer:
            process.wait()
            code = process.status() or 0
            self._stop()
            died = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            return f"the interpreter died: {died}"
        try:
            error = str(json.loads(answer)["error"])
        except (ValueError, KeyError, TypeError):
            self._stop()
            return "the interpreter's answer is none"
        if error:
            raise NotInterpreted(error)
        return ""

    def _answer(self, process: isolation.Confined, limit: float) -> bytes | None:
        """A line; nothing of it where the process ended, None where it took too long."""
        assert process.stdout is not None
        deadline = time.monotonic() + limit
        said = b""
        while not said.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                return None
            more = os.read(process.stdout.fileno(), 1 << 16)
            said += more
            if not more:
                return b""
            if len(said) > REPLY_LIMIT:
                raise RunError("the interpreter's answer is too long")
        return said


# -- one call --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a buffer lies in the memory of a call."""

    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements
    start: int  # of its first element, in bytes
    low: int  # of all its bytes
    high: int


@dataclass(slots=True)
class Call:
    """The concrete values of one call: memory of all buffers, scalars, grids."""

    bound: BoundPlan
    env: dict[Any, Any]
    places: dict[str, _Place] = field(default_factory=dict)
    memory: Array = field(default_factory=lambda: np.zeros(0, np.uint8))

    @staticmethod
    def of(
        bound: BoundPlan,
        arrays: Mapping[str, Array],
        sizes: Mapping[str, int],
        params: Mapping[str, float | int | bool],
    ) -> Call:
        """RunError when arrays do not fit the buffers of the plan or one of its facts fails."""
        call = Call(bound, {**sizes, **params})
        at = MARGIN
        for b in bound.buffers.values():
            given = arrays.get(b.name)
            if given is None and b.role in ("in", "state"):
                raise RunError(f"input {b.name} is missing")
            place = call.place(b, given, at)
            call.places[b.name] = place
            at = -(-(place.high + MARGIN) // ALIGNMENT) * ALIGNMENT
        call.facts()
        call.memory = np.full(at + MARGIN, CANARY, np.uint8)
        for b in bound.buffers.values():
            place = call.places[b.name]
            call.memory[place.low : place.high] = 0 if b.init == "zero" else POISON
            if b.role in ("in", "state"):
                call.view(call.memory, b.name)[...] = arrays[b.name]
        return call

    def place(self, b: Buffer, given: Array | None, at: int) -> _Place:
        shape = tuple(int(self.value(s)) for s in b.shape)
        steps: tuple[int, ...] = ()
        if given is not None:
            if given.dtype != np.dtype(b.dtype.storage) or given.shape != shape:
                raise RunError(
                    f"{b.name} is {b.dtype.storage}{list(shape)}, not {given.dtype}"
                    f"{list(given.shape)}"
                )
            steps = tuple(s // given.itemsize for s in given.strides)
        if given is None or not given.size:  # numpy gives an empty array strides of 0
            steps = tuple(int(evaluate(s, self.env)) for s in row_major(b.shape))
        for n, step in enumerate(steps):
            self.env[b.name, n] = step
        size = b.dtype.bytes
        empty = 0 in shape
        back = 0 if empty else sum(min(0, (n - 1) * s) for n, s in zip(shape, steps, strict=True))
        ahead = 0 if empty else sum(max(0, (n - 1) * s) for n, s in zip(shape, steps, strict=True))
        start = -(-(at - back * size) // ALIGNMENT) * ALIGNMENT
        end = start if empty else start + (ahead + 1) * size
        return _Place(b.dtype, shape, steps, start, start + back * size, end)

    def value(self, e: Expr) -> Any:
        try:
            return evaluate(e, self.env)
        except (ExprError, KeyError) as error:
            raise RunError(f"{show(e)} has no value in this call: {error}") from None

    def facts(self) -> None:
        facts = [
            f for f in self.bound.facts if not any("(" in str(x.attr) for x in leaves(f, "param"))
        ]
        if not all(self.value(f) for f in facts):
            self.empty_strides()
        for f in facts:
            if not self.value(f):
                raise RunError(f"the plan assumes {show(f)}")

    def empty_strides(self) -> None:
        """Strides of buffers without elements, as libraries choose them: never 0."""
        for name, place in self.places.items():
            if 0 in place.shape:
                step = 1
                for n in reversed(range(len(place.shape))):
                    self.env[name, n] = step
                    step *= max(place.shape[n], 1)

    def view(self, memory: Array, name: str) -> Array:
        """A buffer's elements in some memory of the call."""
        p = self.places[name]
        kind = np.dtype(p.dtype.storage)
        steps = tuple(s * kind.itemsize for s in p.strides)
        return np.ndarray(p.shape, kind, memory.data, p.start, steps)

    def grid(self, c: BoundLaunch) -> list[int]:
        return [max(0, int(self.value(g))) for g in c.grid]

    def arguments(self, c: BoundLaunch) -> list[tuple[str, Any]]:
        """Types as Triton's signatures name them, with offsets into the memory or numbers."""
        out: list[tuple[str, Any]] = []
        for a in c.args:
            if isinstance(a, Scalar):
                value = self.value(a.expr)
                plain = {"real": float, "int": int, "bool": bool}[a.dtype.kind](value)
                out.append((signature(a.dtype), plain))
            else:
                out.append((f"*{signature(a.dtype)}", self.places[a.name].start))
        return out

    def outputs(self, after: Array) -> dict[str, Array]:
        """What was written; RunError when anything else was."""
        free = np.ones(len(after), bool)
        for b in self.bound.buffers.values():
            p = self.places[b.name]
            if b.role in ("plan", "program"):
                free[p.low : p.high] = False
            elif b.role != "in":
                kind = np.dtype(p.dtype.storage)
                cells = np.ndarray(
                    (*p.shape, kind.itemsize),
                    bool,
                    free.data,
                    p.start,
                    (*(s * kind.itemsize for s in p.strides), 1),
                )
                cells[...] = False
        wrong = np.flatnonzero(free & (after != self.memory))
        if wrong.size:
            raise RunError(self.blame(int(wrong[0])))
        roles = {b.name: b.role for b in self.bound.buffers.values()}
        names = [n for n in self.places if roles[n] in ("out", "state")]
        return {n: self.view(after, n).copy() for n in names}

    def blame(self, at: int) -> str:
        name, p = min(self.places.items(), key=lambda x: max(x[1].low - at, at - x[1].high + 1, 0))
        if p.low <= at < p.high:
            return f"a byte of {name} was written that is not one of its elements to be written"
        size = p.dtype.bytes
        side = (
            f"{(p.low - at - 1) // size + 1} before"
            if at < p.low
            else (f"{(at - p.high) // size + 1} past")
        )
        return f"memory outside of {name} was written: an element {side} its end"


# -- a GPU -----------------------------------------------------------------------------------------


def prepare_on_gpu(
    source: str,
    bound: BoundPlan,
    tensors: Mapping[str, Any],
    sizes: Mapping[str, int],
    params: Mapping[str, float | int | bool] | None = None,
    folder: Path | None = None,
    binaries: Binaries | None = None,
) -> Callable[[], None]:
    """A call with arguments made once, for timing; `tensors` are torch tensors of inputs and
    outputs on the device. Scratch is allocated here. The module's code runs in this process; with
    `binaries` these are launched, and the source is not looked at.

    Triton's own launcher is used, so the kernels are compiled for the device that is there. Tests
    do not cover this function: it needs a GPU.
    """
    import torch

    call = Call(bound, {**sizes, **(params or {})})
    device = next(iter(tensors.values())).device
    held: dict[str, Any] = {}
    for b in bound.buffers.values():
        if b.name in tensors:
            held[b.name] = tensors[b.name]
            for n, step in enumerate(tensors[b.name].stride()):
                call.env[b.name, n] = int(step)
        elif b.role == "plan":
            shape = [int(call.value(s)) for s in b.shape]
            kind = getattr(torch, _TORCH[b.dtype.name])
            held[b.name] = torch.empty(shape, dtype=kind, device=device)
        else:
            raise RunError(f"{b.name} is missing")
    call.facts()
    module = None if binaries else _module(source, bound, folder)
    launches: list[Callable[[], Any]] = []
    for c in bound.launches:
        grid = tuple(call.grid(c))
        args = [held[a.name] if isinstance(a, Buffer) else call.value(a.expr) for a in c.args]
        hints = {k: v for k, v in c.extra.items() if k in ("num_warps", "num_stages")}
        if all(grid) and binaries:
            launches.append(binaries(c, grid, args))
        elif all(grid):
            launches.append(partial(getattr(module, c.kernel)[grid], *args, **c.const, **hints))
    zero = [held[b.name] for b in bound.buffers.values() if b.init == "zero"]

    def run() -> None:
        for t in zero:
            t.zero_()
        for launch in launches:
            launch()

    return run


def _module(source: str, bound: BoundPlan, folder: Path | None) -> Any:
    """The module of a Triton text."""
    with tempfile.TemporaryDirectory() as made:
        path = (folder or Path(made)) / bound.plan.source
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(f"kernels_{abs(hash(source))}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)  # Triton reads the text of each kernel here
    return module


_TORCH = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "i64": "int64",
    "i32": "int32", "i16": "int16", "i8": "int8", "u8": "uint8", "bool": "bool",
    "f8e4m3": "float8_e4m3fn", "f8e5m2": "float8_e5m2", "f8e4m3fnuz": "float8_e4m3fnuz",
    "f8e5m2fnuz": "float8_e5m2fnuz",
}  # fmt: skip


def run_on_gpu(
    source: str,
    bound: BoundPlan,
    arrays: Mapping[str, Array],
    sizes: Mapping[str, int],
    params: Mapping[str, float | int | bool] | None = None,
    binaries: Binaries | None = None,
) -> dict[str, Array]:
    """Outputs of one call on the first GPU that torch sees, in stored form; RunError without one.

    Like `interpret`, with poisoned outputs and the same memory layout, canaries included. Tests do
    not cover this function: it needs a GPU.
    """
    import torch

    if not torch.cuda.is_available():
        raise RunError("torch sees no GPU")
    call = Call.of(bound, arrays, sizes, params or {})
    memory = torch.from_numpy(call.memory).cuda()
    tensors: dict[str, Any] = {}
    for b in bound.buffers.values():
        p = call.places[b.name]
        kind = getattr(torch, _TORCH[b.dtype.name])
        size = b.dtype.bytes
        cells = memory[p.low : p.high].view(kind)
        tensors[b.name] = cells.as_strided(p.shape, p.strides, (p.start - p.low) // size)
    run = prepare_on_gpu(source, bound, tensors, sizes, params, None, binaries)
    try:
        run()
        torch.cuda.synchronize()
    except Exception as e:
        raise RunError(f"the program failed: {type(e).__name__}: {e}") from None
    return call.outputs(memory.cpu().numpy())
