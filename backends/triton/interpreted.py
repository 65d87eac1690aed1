"""The child that runs Triton kernels in Triton's interpreter; started as a script by `run.py`.

It imports numpy and Triton only. A request is one line of JSON on standard input: the module, a
file with the memory of all buffers, and the launches; the answer is one line on standard output.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import traceback
from types import ModuleType
from typing import Any

import numpy as np


def main() -> None:
    """Serve requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a kernel prints is no answer
    np.seterr(all="ignore")
    correct_the_interpreter()
    modules: dict[str, ModuleType] = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            path = request["source"]
            if path not in modules:
                modules[path] = load(path)
            serve(modules[path], request)
            answer = {"error": ""}
        except BaseException as e:
            answer = {"error": reason(e, request["source"])}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def correct_the_interpreter() -> None:
    """Triton's interpreter cuts floats to bf16, and reads the bits of one as an integer when it is
    widened to f64; devices round to the nearest and widen the value. It also spreads a truth value
    over a tile as the integers that were compared."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    plain = InterpreterBuilder.cast_impl

    def cast_impl(self: Any, source: Any, to: Any) -> Any:
        old, new = source.dtype.scalar, to.scalar
        if old == tl.bfloat16 and new != tl.bfloat16:
            wide = (source.data.astype(np.uint32) << 16).view(np.float32)
            return plain(self, TensorHandle(wide, tl.float32), to)
        if new == tl.bfloat16 and old != tl.bfloat16:
            wide = np.ascontiguousarray(source.data.astype(np.float32))
            bits = wide.view(np.uint32)
            near = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
            return TensorHandle(np.where(np.isnan(wide), 0x7FC0, near).astype(np.uint16), new)
        return plain(self, source, to)

    def create_splat(self: Any, kind: Any, value: Any) -> Any:
        number = value.data.reshape(-1)[0]
        return TensorHandle(np.full(kind.shape, number, value.data.dtype), value.dtype.scalar)

    InterpreterBuilder.cast_impl = cast_impl
    InterpreterBuilder.create_splat = create_splat


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("kernels", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reason(e: BaseException, path: str) -> str:
    """The error in a line, with the last line of the kernel that is on the stack."""
    seen: BaseException | None = e
    where = 0
    while seen is not None:
        for frame in traceback.extract_tb(seen.__traceback__):
            if frame.filename == path and frame.lineno:
                where = frame.lineno
        last, seen = seen, seen.__cause__
    text = f"{type(last).__name__}: {last}".splitlines()[0]
    return f"{os.path.basename(path)}:{where}: {text}" if where else text


def serve(module: ModuleType, request: dict[str, Any]) -> None:
    memory = np.memmap(request["memory"], np.uint8, "r+")
    start = memory.ctypes.data
    for launch in request["launches"]:
        kernel = getattr(module, launch["kernel"])
        args = [argument(kind, value, start) for kind, value in launch["args"]]
        kernel[tuple(launch["grid"])](*args, **launch["const"])
    memory.flush()


def argument(kind: str, value: Any, start: int) -> Any:
    """A scalar or pointer of exactly this type: Triton would choose one by the value."""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    if kind.startswith("*"):
        to = tl.pointer_type(tl.str_to_ty(kind[1:], None))
        return tl.tensor(TensorHandle(np.array([start + value], np.uint64), to), to)
    scalar = tl.str_to_ty(kind, None)
    names = {"i1": "bool", "fp64": "float64", "fp32": "float32", "i64": "int64", "i32": "int32"}
    return tl.tensor(TensorHandle(np.array([value], np.dtype(names[kind])), scalar), scalar)


if __name__ == "__main__":
    main()
