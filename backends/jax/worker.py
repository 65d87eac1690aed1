"""The process that runs JAX candidates: loads one module, calls its function, traces it.

Standard library and JAX only; started by path in a sandbox with a clean environment. A request is
a line of JSON, its arrays follow as raw bytes; replies have the same form.
"""

from __future__ import annotations

import ctypes
import inspect
import json
import os
import sys
from typing import Any, BinaryIO

import jaxpr_json  # type: ignore[import-not-found]  # beside this file

Reply = tuple[dict[str, Any], list[bytes]]


def numpy_type(name: str) -> Any:
    """The numpy type that JAX computes with for a type name of specs."""
    import ml_dtypes
    import numpy as np

    narrow = {
        "bf16": "bfloat16", "f8e4m3": "float8_e4m3fn", "f8e5m2": "float8_e5m2",
        "f8e4m3fnuz": "float8_e4m3fnuz", "f8e5m2fnuz": "float8_e5m2fnuz",
        "f4e2m1": "float4_e2m1fn", "i4": "int4", "u4": "uint4",
    }  # fmt: skip
    wide = {"f": "float", "i": "int", "u": "uint"}
    if name in narrow:
        return np.dtype(getattr(ml_dtypes, narrow[name]))
    if name == "tf32":
        return np.dtype("float32")
    return np.dtype("bool" if name == "bool" else wide[name[0]] + name[1:])


def _interpret_kernels() -> None:
    """Let Pallas compute kernels by its interpreter: on a CPU there is nothing else."""
    import functools

    from jax.experimental import pallas

    pallas.pallas_call = functools.partial(pallas.pallas_call, interpret=True)


class Candidate:
    """The loaded module and its function."""

    def __init__(self) -> None:
        self.function: Any = None
        self.file = ""
        self.kernels = False
        self.compiled: dict[tuple[str, ...], Any] = {}
        self.own: dict[str, list[Any]] = {}  # functions that a call may stand for

    def load(self, request: dict[str, Any], _: list[bytes]) -> Reply:
        import jax

        config: Any = jax.config
        config.update("jax_enable_x64", bool(request["x64"]))
        self.file = request["file"]
        self.kernels = bool(request["kernels"])
        if request["kernels"] and jax.default_backend() == "cpu":
            _interpret_kernels()
        names: dict[str, Any] = {"__name__": "kernel", "__file__": self.file}
        exec(compile(request["source"], self.file, "exec"), names)
        self.function = names.get(request["function"])
        if not callable(self.function):
            return {"error": f"{self.file} defines no function {request['function']}"}, []
        for name, texts in request["own"].items():
            found: list[dict[str, Any]] = [{} for _ in texts]
            for text, module in zip(texts, found, strict=True):
                exec(text, module)
            self.own[name] = [module[name] for module in found]
        parameters = inspect.signature(self.function).parameters
        return {"parameters": list(parameters), "jax": jax.__version__}, []

    def _arguments(self, request: dict[str, Any], data: list[bytes]) -> dict[str, Any]:
        import numpy as np

        out: dict[str, Any] = dict(request["values"])
        for a, raw in zip(request["arrays"], data, strict=True):
            out[a["name"]] = np.frombuffer(raw, numpy_type(a["dtype"])).reshape(a["shape"])
        return out

    def call(
        self, request: dict[str, Any], data: list[bytes]
    ) -> tuple[dict[str, Any], list[bytes]]:
        import numpy as np

        function = self.function
        if self.kernels:  # an interpreted kernel is compiled anew by every call that is not
            import jax

            fixed = [k for k, v in request["values"].items() if isinstance(v, int)]
            if tuple(fixed) not in self.compiled:
                self.compiled[tuple(fixed)] = jax.jit(function, static_argnames=fixed)
            function = self.compiled[tuple(fixed)]
        found = function(**self._arguments(request, data))
        results = list(found) if isinstance(found, tuple | list) else [found]
        arrays = [np.ascontiguousarray(np.asarray(x)) for x in results]
        shapes = [{"dtype": str(np.asarray(x).dtype), "shape": list(np.shape(x))} for x in results]
        return {"results": shapes}, [a.tobytes() for a in arrays]

    def time(
        self, request: dict[str, Any], data: list[bytes]
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Seconds of repeated calls after one that compiles."""
        import time

        import jax

        ready: Any = jax.block_until_ready
        arguments = self._arguments(request, data)
        arguments = {k: jax.numpy.asarray(v) if hasattr(v, "dtype") else v
                     for k, v in arguments.items()}  # fmt: skip
        ready(self.function(**arguments))
        samples = []
        for _ in range(request["repeats"]):
            begin = time.perf_counter()
            ready(self.function(**arguments))
            samples.append(time.perf_counter() - begin)
        return {"seconds": samples}, []

    def trace(self, request: dict[str, Any], _: list[bytes]) -> Reply:
        """The jaxpr at the given shapes, whose entries are numbers or formulas in sizes."""
        return {
            "jaxpr": jaxpr_json.trace(self.function, request, self.file, numpy_type, self.own)
        }, []


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    candidate = Candidate()
    handlers = {"load": candidate.load, "call": candidate.call, "trace": candidate.trace,
                "time": candidate.time}  # fmt: skip
    while line := requests.readline():
        request = json.loads(line)
        data = [requests.read(n) for n in request.get("bytes", [])]
        try:
            reply, blocks = handlers[request["do"]](request, data)
        except jaxpr_json.Refusal as e:
            reply, blocks = {"refused": e.what, "line": e.line}, []
        except Exception as e:  # whatever a candidate raises is its result
            line_number = jaxpr_json.line_of(e.__traceback__, candidate.file)
            text = f"{type(e).__name__}: {str(e).strip().splitlines()[0] if str(e).strip() else ''}"
            reply, blocks = {"error": text[:500], "line": line_number}, []
        reply["bytes"] = [len(b) for b in blocks]
        replies.write(json.dumps(reply).encode() + b"\n")
        for b in blocks:
            replies.write(b)
        replies.flush()


def main() -> None:
    options = json.loads(sys.argv[1])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: no ptrace, no core
    requests = os.fdopen(options["requests"], "rb")
    replies = os.fdopen(options["replies"], "wb")
    serve(requests, replies)


if __name__ == "__main__":
    main()
