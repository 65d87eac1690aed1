"""Runs a JAX candidate in a sandbox: calls, times and traces of one function.

The source is checked before it is executed (`opwright.backends.jax.policy`). The parent owns clocks
and limits; a crash, hang or exit of the child is a `RunError`, and the next one starts fresh.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from opwright.backends import isolation
from opwright.backends.jax.policy import PALLAS, check_policy
from opwright.backends.jax.printer import needs_x64
from opwright.backends.jax.scalar import identifier, random_texts
from opwright.ir.op import Operator, Tensor
from opwright.ir.plan import Plan

FOLDER = Path(__file__).parent.absolute()
PASSED = ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES")
REPLY_LIMIT = 1 << 30  # bytes of one reply's arrays
HEAD_LIMIT = 64 << 20  # bytes of its line of JSON
MEMORY = 64 << 30  # bytes of address space, of which a runtime reserves a lot
DATA = isolation.share(12 << 30)  # bytes that it may allocate
START = 120.0  # seconds for the interpreter and JAX to start


class RunError(RuntimeError):
    """The candidate failed: `kind` is raised | crashed | timeout | shape; `line` of the source."""

    def __init__(self, kind: str, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.kind, self.line = kind, line


class TraceRefusal(RunError):
    """The trace holds something that has no form outside the process."""


class Process:
    """One candidate in a process of its own; use it as a context manager.

    `platform` is JAX's name of the device ("cpu", "cuda"); where it is empty the caller's
    environment decides.
    """

    def __init__(self, source: str, plan: Plan, op: Operator, platform: str = "cpu") -> None:
        self.kernels = plan.backend == "pallas"
        check_policy(source, plan.source, PALLAS if self.kernels else ())
        self.source, self.plan, self.op, self.platform = source, plan, op, platform
        self.parameters: tuple[str, ...] = ()
        self._process: isolation.Confined | None = None

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    # -- requests ---------------------------------------------------------------------------------

    def call(
        self,
        inputs: Mapping[str, NDArray[Any]],
        params: Mapping[str, float | int | bool],
        sizes: Mapping[str, int],
        limit: float = 60.0,
    ) -> dict[str, NDArray[Any]]:
        """The outputs in stored form; arrays are in stored form, sizes are all sizes by name."""
        request, blocks = self._request("call", inputs, params, sizes)
        reply, data = self._ask(request, blocks, limit)
        results = reply["results"]
        if len(results) != len(self.op.outputs):
            raise RunError("shape", f"{len(results)} results, {len(self.op.outputs)} outputs")
        return {
            t.name: self._stored(t, r, raw)
            for t, r, raw in zip(self.op.outputs, results, data, strict=True)
        }

    def seconds(
        self,
        inputs: Mapping[str, NDArray[Any]],
        params: Mapping[str, float | int | bool],
        sizes: Mapping[str, int],
        repeats: int = 10,
        limit: float = 120.0,
    ) -> list[float]:
        """Times of repeated calls on the device, after one that compiles."""
        request, blocks = self._request("time", inputs, params, sizes)
        reply, _ = self._ask({**request, "repeats": repeats}, blocks, limit)
        return [float(s) for s in reply["seconds"]]

    def trace(
        self,
        arrays: Sequence[Mapping[str, Any]],
        values: Mapping[str, Any],
        symbols: Sequence[str] = (),
        constraints: Sequence[str] = (),
        limit: float = 60.0,
    ) -> Mapping[str, Any]:
        """The jaxpr as JSON at shapes whose entries are numbers or formulas in `symbols`."""
        request = {
            "do": "trace", "arrays": list(arrays), "values": dict(values),
            "symbols": list(symbols), "constraints": list(constraints),
        }  # fmt: skip
        reply, _ = self._ask(request, [], limit)
        found: Mapping[str, Any] = reply["jaxpr"]
        return found

    def passes(self, name: str) -> bool:
        """Whether the function takes an argument: one that the plan names, or one of that name."""
        return name in self.plan.launches[0].args or identifier(name) in self.parameters

    def start(self) -> None:
        """Start the process and load the module, if that has not been done."""
        if self._process is None:
            self._spawn()
            kernel = self.plan.launches[0].kernel
            request = {
                "do": "load", "source": self.source, "file": self.plan.source,
                "function": identifier(kernel), "x64": needs_x64(self.op),
                "own": random_texts(), "kernels": self.kernels,
            }  # fmt: skip
            reply, _ = self._ask(request, [], START)
            self.parameters = tuple(reply["parameters"])

    def close(self) -> None:
        """End the process and everything that it started."""
        p, self._process = self._process, None
        if p is None:
            return
        p.end()
        for fd in (self._requests, self._replies):
            with contextlib.suppress(OSError):
                os.close(fd)

    # -- the pipe ---------------------------------------------------------------------------------

    def _request(
        self, do: str, inputs: Mapping[str, NDArray[Any]], params: Mapping[str, Any],
        sizes: Mapping[str, int],
    ) -> tuple[dict[str, Any], list[bytes]]:  # fmt: skip
        self.start()
        arrays, blocks = [], []
        for t in self.op.inputs:
            a = np.ascontiguousarray(inputs[t.name])
            arrays.append({"name": identifier(t.name), "dtype": t.dtype.name,
                           "shape": list(np.shape(inputs[t.name]))})  # fmt: skip
            blocks.append(a.tobytes())
        given = {**{k: sizes[k] for k in self.op.free_sizes if k in sizes}, **params}
        values = {identifier(k): _plain(v) for k, v in given.items() if self.passes(k)}
        return {"do": do, "arrays": arrays, "values": values}, blocks

    def _stored(self, t: Tensor, r: Mapping[str, Any], raw: bytes) -> NDArray[Any]:
        wanted = _names_of(t)
        if r["dtype"] not in wanted:
            raise RunError("shape", f"{t.name} is {r['dtype']}, not {wanted[0]}")
        return np.frombuffer(raw, np.dtype(t.dtype.storage)).reshape(r["shape"])

    def _spawn(self) -> None:
        down, self._requests = os.pipe()
        self._replies, up = os.pipe()
        options = {"requests": down, "replies": up}
        more = {k: os.environ[k] for k in PASSED if k in os.environ}
        if self.platform:
            more["JAX_PLATFORMS"] = self.platform
        gpu = more.get("JAX_PLATFORMS", "") not in ("cpu", "")
        more |= {"TF_CPP_MIN_LOG_LEVEL": "3", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        allowance = isolation.Allowance(
            [FOLDER, *isolation.packages("jax", "jaxlib", "numpy")],
            memory=0 if gpu else MEMORY,  # a driver reserves more than there is
            data=DATA,
            cpu=1200,
            gpu=gpu,
        )
        start = "import sys; sys.path.insert(0, sys.argv[2]); import worker; worker.main()"
        try:
            self._process = isolation.start(
                [sys.executable, "-I", "-c", start, json.dumps(options), str(FOLDER)],
                allowance,
                env=isolation.environment(more),
                pass_fds=(down, up),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except BaseException:
            os.close(self._requests)
            os.close(self._replies)
            raise
        finally:
            os.close(down)
            os.close(up)

    def _ask(
        self, request: dict[str, Any], blocks: Sequence[bytes], limit: float
    ) -> tuple[dict[str, Any], list[bytes]]:
        self.start()
        deadline = time.monotonic() + limit
        head = json.dumps({**request, "bytes": [len(b) for b in blocks]}).encode() + b"\n"
        self._send(b"".join([head, *blocks]), deadline, limit)
        buffer = bytearray()
        while b"\n" not in buffer:
            buffer += self._receive(deadline, limit)
            if len(buffer) > HEAD_LIMIT and b"\n" not in buffer:
                self._wrong("the reply is too large")
        line, _, rest = bytes(buffer).partition(b"\n")
        try:
            reply = json.loads(line)
            counts = [int(n) for n in reply["bytes"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            self._wrong("the reply is no reply")
        total = sum(counts)
        if total > REPLY_LIMIT or min(counts, default=0) < 0:
            self._wrong("the reply is too large")
        buffer = bytearray(rest)
        while len(buffer) < total:
            buffer += self._receive(deadline, limit)
        if "refused" in reply:
            raise TraceRefusal("refused", reply["refused"], reply.get("line", 0))
        if "error" in reply:
            raise RunError("raised", reply["error"], reply.get("line", 0))
        out, at = [], 0
        for n in counts:
            out.append(bytes(buffer[at : at + n]))
            at += n
        return reply, out

    def _send(self, data: bytes, deadline: float, limit: float) -> None:
        view = memoryview(data)
        while view:
            _, ready, _ = select.select(
                [], [self._requests], [], max(0, deadline - time.monotonic())
            )
            if not ready:
                self._timeout(limit)
            try:
                view = view[os.write(self._requests, view[: 1 << 16]) :]
            except BrokenPipeError:
                self._dead()

    def _receive(self, deadline: float, limit: float) -> bytes:
        ready, _, _ = select.select([self._replies], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            self._timeout(limit)
        data = os.read(self._replies, 1 << 20)
        if not data:
            self._dead()
        return data

    def _wrong(self, what: str) -> NoReturn:
        self.close()
        raise RunError("crashed", what)

    def _timeout(self, limit: float) -> None:
        self.close()
        raise RunError("timeout", f"no answer within {limit:g} s")

    def _dead(self) -> None:
        assert self._process is not None
        process = self._process
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        status = process.status()
        self.close()
        what = f"signal {-status}" if status is not None and status < 0 else f"exit status {status}"
        raise RunError("crashed", f"the process ended with {what}")


def _plain(v: Any) -> float | int | bool:
    out: float | int | bool = v.item() if isinstance(v, np.generic) else v
    return out


def _names_of(t: Tensor) -> tuple[str, ...]:
    """numpy's names of an output type."""
    narrow = {
        "bf16": "bfloat16", "f8e4m3": "float8_e4m3fn", "f8e5m2": "float8_e5m2",
        "f8e4m3fnuz": "float8_e4m3fnuz", "f8e5m2fnuz": "float8_e5m2fnuz",
        "f4e2m1": "float4_e2m1fn", "i4": "int4", "u4": "uint4",
    }  # fmt: skip
    return (narrow.get(t.dtype.name, t.dtype.storage),)
