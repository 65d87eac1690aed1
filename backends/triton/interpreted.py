"""The child that runs Triton kernels in Triton's interpreter; started as a script by `run.py`.

It imports numpy and Triton only. A request is one line of JSON on standard input: the module, the
descriptor of the memory of all buffers, and the launches; one line on standard output is
the answer.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import math
import os
import sys
import traceback
from collections.abc import Iterator
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
    """Triton's interpreter cuts floats to bf16, and computes with the bits of one as an integer;
    devices round to the nearest and compute with the value. It reads no NaN among floats of eight
    bits. It also spreads a truth value over a tile as the integers that were compared, and knows no
    functions of libdevice."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    plain = InterpreterBuilder.cast_impl
    convert = InterpreterBuilder.create_fp_to_fp
    eights = {tl.float8e4nv: eight_bits(4, False), tl.float8e5: eight_bits(5, True)}

    def create_fp_to_fp(self: Any, source: Any, to: Any, mode: Any) -> Any:
        if source.dtype.scalar in eights:
            return cast_impl(self, source, to)
        return convert(self, source, to, mode)

    def cast_impl(self: Any, source: Any, to: Any) -> Any:
        old, new = source.dtype.scalar, to.scalar
        if old in eights and new != old:
            decoded = TensorHandle(eights[old][source.data.astype(np.uint8)], tl.float32)
            return decoded if new == tl.float32 else cast_impl(self, decoded, to)
        if old == tl.bfloat16 and new != tl.bfloat16:
            wide = (source.data.astype(np.uint32) << 16).view(np.float32)
            return plain(self, TensorHandle(wide, tl.float32), to)
        if new == tl.bfloat16 and old != tl.bfloat16:
            wide = np.ascontiguousarray(source.data.astype(np.float32))
            bits = wide.view(np.uint32)
            near = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
            return TensorHandle(np.where(np.isnan(wide), 0x7FC0, near).astype(np.uint16), new)
        return plain(self, source, to)

    def wide(x: Any) -> Any:
        """A tile of bf16 as one of f32; any other as it is."""
        if x.dtype.scalar != tl.bfloat16:
            return x
        return TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def computed(name: str) -> Any:
        inner = getattr(InterpreterBuilder, name)

        def operation(self: Any, *given: Any) -> Any:
            if all(not hasattr(x, "dtype") or x.dtype.scalar != tl.bfloat16 for x in given):
                return inner(self, *given)
            made = inner(self, *(wide(x) if hasattr(x, "dtype") else x for x in given))
            if made.dtype.scalar != tl.float32 or made.data.dtype == np.bool_:
                return made
            return cast_impl(self, made, tl.bfloat16)

        return operation

    multiply = InterpreterBuilder.create_dot

    def create_dot(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        return multiply(self, wide(a), wide(b), d, *rest)

    def create_extern_elementwise(
        self: Any, library: str, path: str, symbol: str, args: Any, kind: Any, pure: bool
    ) -> Any:
        name = symbol.removeprefix("__nv_")
        function = LIBRARY.get(name) or LIBRARY.get(name.removesuffix("f"))
        if function is None:
            raise LookupError(f"the interpreter has no function {symbol}")
        made = np.asarray(function(*(np.asarray(x.data) for x in args)))
        plain_type = kind.scalar
        if plain_type.is_floating():
            made = made.astype(np.float64 if plain_type == tl.float64 else np.float32)
        else:
            made = made.astype(np.int64 if plain_type == tl.int64 else np.int32)
        return TensorHandle(made, plain_type)

    def create_splat(self: Any, kind: Any, value: Any) -> Any:
        number = value.data.reshape(-1)[0]
        return TensorHandle(np.full(kind.shape, number, value.data.dtype), value.dtype.scalar)

    InterpreterBuilder.cast_impl = cast_impl
    InterpreterBuilder.create_fp_to_fp = create_fp_to_fp
    InterpreterBuilder.create_splat = create_splat
    InterpreterBuilder.create_dot = create_dot
    InterpreterBuilder.create_extern_elementwise = create_extern_elementwise
    for name in ("binary_op", "unary_op", "ternary_op"):
        setattr(InterpreterBuilder, name, computed(name))
    open_the_library()


def eight_bits(width: int, infinite: bool) -> Any:
    """The values of all floats of eight bits with an exponent of that width, as f32."""
    codes = np.arange(256)
    mantissa = 7 - width
    exponent = codes >> mantissa & (1 << width) - 1
    part = (codes & (1 << mantissa) - 1) / (1 << mantissa)
    bias = (1 << width - 1) - 1
    sized = np.where(exponent > 0, (1 + part) * 2.0 ** (exponent - bias), part * 2.0 ** (1 - bias))
    top = exponent == (1 << width) - 1
    if infinite:
        sized = np.where(top, np.where(part == 0, np.inf, np.nan), sized)
    else:
        sized = np.where(codes & 127 == 127, np.nan, sized)
    return np.where(codes < 128, sized, -sized).astype(np.float32)


def open_the_library() -> None:
    """Kernels see the names of libdevice without bodies; here they get those of one device."""
    import triton.language.extra.libdevice as names
    from triton.language.extra.cuda import libdevice
    from triton.runtime.interpreter import interpreter_semantic

    def bound(function: Any) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            more.pop("_semantic", None)
            return function(*args, **more, _semantic=interpreter_semantic)

        return call

    for name in dir(libdevice):
        function = getattr(libdevice, name)
        if callable(function) and getattr(function, "__module__", "") == libdevice.__name__:
            setattr(libdevice, name, bound(function))
            setattr(names, name, getattr(libdevice, name))


def each(function: Any) -> Any:
    """A function of numbers on tiles, computed in f64."""

    def guarded(*numbers: float) -> float:
        try:
            return float(function(*numbers))
        except (ValueError, OverflowError):
            return math.nan

    spread = np.vectorize(guarded, otypes=[np.float64])
    return lambda *tiles: spread(*tiles)


# functions of libdevice by what is between __nv_ and the f of f32
LIBRARY: dict[str, Any] = {
    **{
        n: getattr(np, n)
        for n in "exp exp2 expm1 log log2 log10 log1p sqrt sin cos tan sinh cosh tanh cbrt floor "
        "ceil trunc rint hypot nextafter fmod copysign".split()
    },
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "atan2": np.arctan2,
    "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "pow": np.power,
    "fast_pow": np.power, "powi": lambda x, n: np.power(x, n.astype(x.dtype)),
    "exp10": lambda x: np.power(10.0, x.astype(np.float64)),
    "fast_exp10": lambda x: np.power(10.0, x.astype(np.float64)),
    "fast_exp": np.exp, "fast_log": np.log, "fast_log2": np.log2, "fast_log10": np.log10,
    "fast_sin": np.sin, "fast_cos": np.cos, "fast_tan": np.tan, "fast_fdivide": np.divide,
    "rsqrt": lambda x: 1 / np.sqrt(x), "frsqrt_rn": lambda x: 1 / np.sqrt(x),
    "rcbrt": lambda x: 1 / np.cbrt(x), "fabs": np.abs, "abs": np.abs, "llabs": np.abs,
    "nearbyint": np.rint, "llrint": np.rint, "lrint": np.rint,
    "round": lambda x: np.copysign(np.floor(np.abs(x) + 0.5), x),
    "llround": lambda x: np.copysign(np.floor(np.abs(x) + 0.5), x),
    "fma": lambda x, y, z: x.astype(np.float64) * y + z, "remainder": each(math.remainder),
    "fma_rn": lambda x, y, z: x.astype(np.float64) * y + z,
    "erf": each(math.erf), "erfc": each(math.erfc), "lgamma": each(math.lgamma),
    "tgamma": each(math.gamma), "normcdf": each(lambda x: math.erfc(-x / math.sqrt(2)) / 2),
    "saturate": lambda x: np.clip(np.nan_to_num(x), 0, 1), "fdim": lambda x, y: np.fmax(x - y, 0),
    "isnan": np.isnan, "isnand": np.isnan, "isinf": np.isinf, "isinfd": np.isinf,
    "finite": np.isfinite, "isfinited": np.isfinite, "signbit": np.signbit,
    "signbitd": np.signbit, "fdiv_rn": np.divide, "ddiv_rn": np.divide, "fmul_rn": np.multiply,
    "dmul_rn": np.multiply, "fadd_rn": np.add, "dadd_rn": np.add, "fsub_rn": np.subtract,
    "fsqrt_rn": np.sqrt, "dsqrt_rn": np.sqrt, "frcp_rn": np.reciprocal, "drcp_rn": np.reciprocal,
}  # fmt: skip


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("kernels", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if "range" not in vars(module):
        vars(module)["range"] = counted
    vars(module).update(_lanes_and=lanes_and, _lanes_or=lanes_or, _lanes_not=lanes_not)
    return module


def lanes_and(*parts: Any) -> Any:
    """`and` as the compiler has it: truth values of tiles lane by lane, others before them."""
    return joined(parts, False, lambda a, b: a & b)


def lanes_or(*parts: Any) -> Any:
    return joined(parts, True, lambda a, b: a | b)


def joined(parts: Any, decides: bool, join: Any) -> Any:
    import triton.language as tl

    held, last = None, None
    for part in parts:
        last = part()
        if isinstance(last, tl.tensor):
            truth = last if last.dtype == tl.int1 else last != 0
            held = truth if held is None else join(held, truth)
        elif bool(last) is decides:
            return last
    return last if held is None else held


def lanes_not(x: Any) -> Any:
    import triton.language as tl

    return x == 0 if isinstance(x, tl.tensor) else not x


def counted(*bounds: Any) -> Iterator[Any]:
    """What a loop counts, as tensors: devices know no other numbers, and convert them."""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    wide = any(getattr(b, "dtype", tl.int32) == tl.int64 for b in bounds)
    kind, own = (tl.int64, np.int64) if wide else (tl.int32, np.int32)
    for i in range(*(int(b) for b in bounds)):
        yield tl.tensor(TensorHandle(np.array([i], own), kind), kind)


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
    with os.fdopen(os.dup(request["memory"]), "r+b") as file:
        memory = np.memmap(file, np.uint8, "r+")
    start = memory.ctypes.data
    for launch in request["launches"]:
        kernel = getattr(module, launch["kernel"])
        while type(kernel).__name__ in ("Autotuner", "Heuristics"):  # the plan gives all constants
            kernel = kernel.fn
        args = [argument(kind, value, start) for kind, value in launch["args"]]
        names = [n for n in inspect.signature(kernel.fn).parameters if n not in launch["const"]]
        named = dict(zip(names, args, strict=False))  # constants may stand between them
        kernel[tuple(launch["grid"])](**named, **launch["const"])
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
