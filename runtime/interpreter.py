"""What Triton's interpreter does otherwise than devices, corrected while it stands in for one."""

from __future__ import annotations

from typing import Any

_DONE: list[bool] = []


def declared(kernel: Any, position: int, value: Any) -> Any:
    """A real number in the type that the kernel declares: devices convert what they are given, the
    interpreter hands a Python number on, which has no methods of a scalar."""
    if not isinstance(value, float):
        return value
    import numpy as np
    import triton.language as module
    from triton.runtime.interpreter import TensorHandle

    tl: Any = module
    handle: Any = TensorHandle
    kind = kernel.fn.__annotations__.get(kernel.arg_names[position], tl.float32)
    kind = getattr(tl, kind.rpartition(".")[2]) if isinstance(kind, str) else kind
    stored = np.float64 if kind == tl.float64 else np.float32
    return tl.tensor(handle(np.array([value], stored), kind), kind)


def correct_the_interpreter() -> None:
    """It cuts floats to bf16, and reads the bits of one as an integer when it is widened to f64;
    devices round to the nearest and widen the value. It also spreads a truth value over a tile as
    the integers that were compared."""
    if _DONE:
        return
    _DONE.append(True)
    import numpy as np
    import triton.language as module
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    tl: Any = module
    builder: Any = InterpreterBuilder
    handle: Any = TensorHandle
    plain = builder.cast_impl

    def cast_impl(self: Any, source: Any, to: Any) -> Any:
        old, new = source.dtype.scalar, to.scalar
        if old == tl.bfloat16 and new != tl.bfloat16:
            wide = (source.data.astype(np.uint32) << 16).view(np.float32)
            return plain(self, handle(wide, tl.float32), to)
        if new == tl.bfloat16 and old != tl.bfloat16:
            wide = np.ascontiguousarray(source.data.astype(np.float32))
            bits = wide.view(np.uint32)
            near = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
            return handle(np.where(np.isnan(wide), 0x7FC0, near).astype(np.uint16), new)
        return plain(self, source, to)

    def create_splat(self: Any, kind: Any, value: Any) -> Any:
        number = value.data.reshape(-1)[0]
        return handle(np.full(kind.shape, number, value.data.dtype), value.dtype.scalar)

    builder.cast_impl = cast_impl
    builder.create_splat = create_splat
