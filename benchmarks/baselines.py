"""What people would write instead: torch eager, torch.compile, jax.jit and ONNX Runtime for the
shipped specs.

With `onnx_models.py` the one place besides the specs where operators have names. A baseline that
cannot run is a reason, never an error: the framework is missing, has no such type, or takes too
long to compile.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.benchmarks.library_baselines import LIBRARY, printed
from opwright.benchmarks.onnx_models import onnx_calls
from opwright.ir.op import Operator

Call = Callable[[], object]
Tensors = Mapping[str, Any]
COMPILE_LIMIT = 60.0  # seconds for the first call of a compiled baseline


@dataclass(frozen=True, slots=True)
class Baseline:
    """One operator in the words of a framework.

    `torch(torch, x, p)` and `jax(jnp, jax, x, p)` take tensors and params by name and return the
    output, or outputs by name. `out(torch, x, p)` prepares outputs once and returns a call that
    fills them; None where the framework has no such form.
    """

    torch: Callable[[Any, Tensors, Mapping[str, Any]], Any]
    out: Callable[[Any, Tensors, Mapping[str, Any]], Call] | None = None
    jax: Callable[[Any, Any, Tensors, Mapping[str, Any]], Any] | None = None


def _into(function: str, *names: str, **options: Any) -> Callable[..., Call]:
    """A torch function with `out=`, called on named inputs."""

    def prepare(torch: Any, x: Tensors, p: Mapping[str, Any]) -> Call:
        call = torch
        for part in function.split("."):
            call = getattr(call, part)
        args = [x[n] for n in names]
        out = call(*args, **options)
        return lambda: call(*args, **options, out=out)

    return prepare


def _layernorm_out(torch: Any, x: Tensors, p: Mapping[str, Any]) -> Call:
    a, g, b = x["x"], x["gamma"], x["beta"]
    shape = (a.shape[-1],)
    out = [torch.empty_like(a), torch.empty(len(a), 1), torch.empty(len(a), 1)]
    call = torch.ops.aten.native_layer_norm.out
    return lambda: call(a, shape, g, b, p["eps"], out0=out[0], out1=out[1], out2=out[2])


def _layernorm(torch: Any, x: Tensors, p: Mapping[str, Any]) -> Any:
    a = x["x"]
    y, mean, rstd = torch.native_layer_norm(a, (a.shape[-1],), x["gamma"], x["beta"], p["eps"])
    return {"y": y, "mean": mean, "rstd": rstd}


def _layernorm_jax(jnp: Any, jax: Any, x: Tensors, p: Mapping[str, Any]) -> Any:
    a = x["x"].astype(jnp.float32)
    mean = a.mean(-1, keepdims=True)
    rstd = jax.lax.rsqrt(((a - mean) ** 2).mean(-1, keepdims=True) + p["eps"])
    y = (a - mean) * rstd * x["gamma"] + x["beta"]
    return {"y": y.astype(x["x"].dtype), "mean": mean[:, 0], "rstd": rstd[:, 0]}


def _rmsnorm_jax(jnp: Any, jax: Any, x: Tensors, p: Mapping[str, Any]) -> Any:
    a = x["x"].astype(jnp.float32)
    y = a * jax.lax.rsqrt((a * a).mean(-1, keepdims=True) + p["eps"]) * x["gamma"]
    return y.astype(x["x"].dtype)


def _linear_gelu_out(torch: Any, x: Tensors, p: Mapping[str, Any]) -> Call:
    between = torch.addmm(x["bias"], x["x"], x["w"])
    out = torch.empty_like(between)

    def call() -> object:
        torch.addmm(x["bias"], x["x"], x["w"], out=between)
        return torch.ops.aten.gelu.out(between, out=out)

    return call


def _gelu_out(approximate: str) -> Callable[..., Call]:
    def prepare(torch: Any, x: Tensors, p: Mapping[str, Any]) -> Call:
        a = x["x"]
        out = torch.empty_like(a)
        return lambda: torch.ops.aten.gelu.out(a, approximate=approximate, out=out)

    return prepare


def _silu_out(torch: Any, x: Tensors, p: Mapping[str, Any]) -> Call:
    out = torch.empty_like(x["x"])
    return lambda: torch.ops.aten.silu.out(x["x"], out=out)


def _copy_out(torch: Any, x: Tensors, p: Mapping[str, Any]) -> Call:
    a = x["x"]
    out = torch.empty(a.shape[1], a.shape[0], dtype=a.dtype)
    return lambda: out.copy_(a.T)


def _attention(torch: Any, x: Tensors, p: Mapping[str, Any]) -> Any:
    attend = torch.nn.functional.scaled_dot_product_attention
    return attend(x["q"], x["k"], x["v"], is_causal=True, scale=p["scale"])


def _attention_jax(jnp: Any, jax: Any, x: Tensors, p: Mapping[str, Any]) -> Any:
    # jax takes (batch, sequence, heads, depth)
    q, k, v = (jnp.swapaxes(x[n], 1, 2) for n in "qkv")
    out = jax.nn.dot_product_attention(q, k, v, is_causal=True, scale=p["scale"])
    return jnp.swapaxes(out, 1, 2)


def _conv(torch: Any, x: Tensors, p: Mapping[str, Any]) -> Any:
    conv = torch.nn.functional.conv2d
    return conv(x["x"], x["w"], x["bias"], p["stride"], p["pad"], p["dilation"]).relu_()


def _conv_jax(jnp: Any, jax: Any, x: Tensors, p: Mapping[str, Any]) -> Any:
    strides, step = (p["stride"],) * 2, (p["dilation"],) * 2
    pads = [(p["pad"],) * 2] * 2
    y = jax.lax.conv_general_dilated(x["x"], x["w"], strides, pads, rhs_dilation=step)
    return jnp.maximum(y + x["bias"][:, None, None], 0)


def _loss(torch: Any, x: Tensors, p: Mapping[str, Any]) -> Any:
    logits = x["x"].float()
    return torch.nn.functional.cross_entropy(logits, x["target_class"], reduction="none")


def _loss_jax(jnp: Any, jax: Any, x: Tensors, p: Mapping[str, Any]) -> Any:
    log = jax.nn.log_softmax(x["x"].astype(jnp.float32), -1)
    return -jnp.take_along_axis(log, x["target_class"][:, None], 1)[:, 0]


def _sum(axis: int) -> Baseline:
    return Baseline(
        lambda torch, x, p: x["x"].sum(axis, dtype=torch.float32),
        lambda torch, x, p: _into("sum", "x", dim=axis, dtype=torch.float32)(torch, x, p),
        lambda jnp, jax, x, p: x["x"].astype(jnp.float32).sum(axis),
    )


BASELINES: dict[str, Baseline] = {
    "softmax": Baseline(
        lambda torch, x, p: torch.softmax(x["x"], -1),
        _into("softmax", "x", dim=-1),
        lambda jnp, jax, x, p: jax.nn.softmax(x["x"], -1),
    ),
    "log_softmax": Baseline(
        lambda torch, x, p: torch.log_softmax(x["x"], -1),
        _into("log_softmax", "x", dim=-1),
        lambda jnp, jax, x, p: jax.nn.log_softmax(x["x"], -1),
    ),
    "layernorm": Baseline(_layernorm, _layernorm_out, _layernorm_jax),
    "rmsnorm": Baseline(
        lambda torch, x, p: torch.nn.functional.rms_norm(
            x["x"], (x["x"].shape[-1],), x["gamma"], p["eps"]
        ),
        None,
        _rmsnorm_jax,
    ),
    "gelu": Baseline(
        lambda torch, x, p: torch.nn.functional.gelu(x["x"]),
        _gelu_out("none"),
        lambda jnp, jax, x, p: jax.nn.gelu(x["x"], approximate=False),
    ),
    "gelu_tanh": Baseline(
        lambda torch, x, p: torch.nn.functional.gelu(x["x"], approximate="tanh"),
        _gelu_out("tanh"),
        lambda jnp, jax, x, p: jax.nn.gelu(x["x"], approximate=True),
    ),
    "silu": Baseline(
        lambda torch, x, p: torch.nn.functional.silu(x["x"]),
        _silu_out,
        lambda jnp, jax, x, p: jax.nn.silu(x["x"]),
    ),
    "matmul": Baseline(
        lambda torch, x, p: x["a"] @ x["b"],
        _into("mm", "a", "b"),
        lambda jnp, jax, x, p: x["a"] @ x["b"],
    ),
    "batched_matmul": Baseline(
        lambda torch, x, p: torch.bmm(x["x"], x["y"]),
        _into("bmm", "x", "y"),
        lambda jnp, jax, x, p: x["x"] @ x["y"],
    ),
    "matmul_bias_gelu": Baseline(
        lambda torch, x, p: torch.nn.functional.gelu(torch.addmm(x["bias"], x["x"], x["w"])),
        _linear_gelu_out,
        lambda jnp, jax, x, p: jax.nn.gelu(x["x"] @ x["w"] + x["bias"], approximate=False),
    ),
    "transpose": Baseline(
        lambda torch, x, p: x["x"].T.contiguous(),
        _copy_out,
        lambda jnp, jax, x, p: jnp.copy(x["x"].T),
    ),
    "causal_attention": Baseline(_attention, None, _attention_jax),
    "conv2d_bias_relu": Baseline(_conv, None, _conv_jax),
    "embedding": Baseline(
        lambda torch, x, p: torch.nn.functional.embedding(x["ids"], x["table"]),
        lambda torch, x, p: _rows_out(torch, x),
        lambda jnp, jax, x, p: x["table"][x["ids"]],
    ),
    "cross_entropy": Baseline(_loss, None, _loss_jax),
    "argmax": Baseline(
        lambda torch, x, p: x["x"].argmax(-1),
        _into("argmax", "x", dim=-1),
        lambda jnp, jax, x, p: x["x"].argmax(-1),
    ),
    "cumsum": Baseline(
        lambda torch, x, p: x["x"].cumsum(-1, dtype=torch.float32),
        lambda torch, x, p: _into("cumsum", "x", dim=-1, dtype=torch.float32)(torch, x, p),
        lambda jnp, jax, x, p: jnp.cumsum(x["x"].astype(jnp.float32), -1),
    ),
    "row_sum": _sum(-1),
    "column_sum": _sum(0),
}


def baseline_of(op: Operator) -> Baseline | None:
    """The operator in the words of frameworks; None where nobody wrote it."""
    found = BASELINES.get(op.name)
    if found is None and op.name in LIBRARY:
        try:
            in_jax = printed(op)
        except ValueError:
            return Baseline(LIBRARY[op.name])
        return Baseline(LIBRARY[op.name], None, in_jax)
    return found


def with_sizes(params: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    """Params, and sizes as `size:NAME` for what no shape says."""
    return {**params, **{f"size:{k}": v for k, v in sizes.items()}}


def _rows_out(torch: Any, x: Tensors) -> Call:
    out = torch.index_select(x["table"], 0, x["ids"])
    return lambda: torch.index_select(x["table"], 0, x["ids"], out=out)


# -- frameworks ----------------------------------------------------------------------------------


def to_torch(torch: Any, stored: NDArray[Any], dtype: str) -> Any:
    """A torch tensor over the same memory; ValueError for a type that torch lacks here."""
    views = {"bf16": ("bfloat16", np.int16), "f8e5m2": ("float8_e5m2", np.uint8)}
    views["f8e4m3"] = ("float8_e4m3fn", np.uint8)
    if dtype in views:
        name, plain = views[dtype]
        return torch.from_numpy(stored.view(plain)).view(getattr(torch, name))
    if stored.dtype in (np.uint16, np.uint32, np.uint64):
        raise ValueError(f"torch has no {dtype}")
    return torch.from_numpy(stored)


def to_jax(jnp: Any, stored: NDArray[Any], dtype: str) -> Any:
    if dtype == "bf16":
        return jnp.asarray(stored.view(jnp.bfloat16))
    return jnp.asarray(stored)


class _TooSlow(BaseException):
    """Not an Exception: a framework must not swallow it."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise _TooSlow inside after `seconds`; in other threads than the main one there is no
    limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise _TooSlow

    before = signal.signal(signal.SIGALRM, ring)
    # again and again: an exception that is raised in a callback of the interpreter is lost
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def first_line(e: BaseException) -> str:
    lines = str(e).strip().splitlines() or [type(e).__name__]
    return lines[0][:120]


def _torch_calls(
    b: Baseline,
    op: Operator,
    params: Mapping[str, Any],
    inputs: Mapping[str, NDArray[Any]],
    threads: int,
    compiled: bool,
    limit: float,
) -> dict[tuple[str, str], Call | str]:
    try:
        import torch
    except ImportError:
        return {("torch", m): "torch is not installed" for m in ("out", "fresh")}
    torch.set_num_threads(threads)
    out: dict[tuple[str, str], Call | str] = {}
    try:
        x = {t.name: to_torch(torch, inputs[t.name], t.dtype.name) for t in op.inputs}
        with torch.no_grad():
            b.torch(torch, x, params)
    except (RuntimeError, TypeError, ValueError) as e:
        return {("torch", m): f"torch: {first_line(e)}" for m in ("out", "fresh")}

    def eager() -> object:
        with torch.no_grad():
            return b.torch(torch, x, params)

    out["torch", "fresh"] = eager
    if b.out is not None:
        try:
            with torch.no_grad():
                call = b.out(torch, x, params)
                call()
            out["torch", "out"] = call
        except (RuntimeError, TypeError) as e:
            out["torch", "out"] = f"torch: {first_line(e)}"
    if compiled:
        # one process: worker processes would outlive the limit
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        names = list(x)
        torch._dynamo.reset()
        made = torch.compile(
            lambda *args: b.torch(torch, dict(zip(names, args, strict=True)), params)
        )
        arguments = tuple(x.values())

        def inductor() -> object:
            with torch.no_grad():
                return made(*arguments)

        out["torch.compile", "fresh"] = tried(inductor, "torch.compile", limit)
    return out


def tried(call: Call, name: str, limit: float) -> Call | str:
    """The call after a first, timed one; why not otherwise."""
    try:
        with time_limit(limit):
            call()
            call()
    except _TooSlow:
        return f"{name}: the first call took more than {limit:g} s"
    except Exception as e:
        return f"{name}: {first_line(e)}"
    return call


def _jax_calls(
    b: Baseline,
    op: Operator,
    params: Mapping[str, Any],
    inputs: Mapping[str, NDArray[Any]],
    limit: float,
) -> dict[tuple[str, str], Call | str]:
    if b.jax is None:
        return {}
    try:
        import jax
        import jax.numpy as jnp
    except ImportError:
        return {("jax", "fresh"): "jax is not installed"}
    function = b.jax
    x = {t.name: to_jax(jnp, inputs[t.name], t.dtype.name) for t in op.inputs}
    # static params: strides and the like shape the program
    jitted = jax.jit(lambda given: function(jnp, jax, given, params))

    def call() -> object:
        result: object = jax.block_until_ready(jitted(x))  # type: ignore[no-untyped-call]
        return result

    return {("jax", "fresh"): tried(call, "jax", limit)}


def baselines(
    op: Operator,
    sizes: Mapping[str, int],
    params: Mapping[str, Any],
    inputs: Mapping[str, NDArray[Any]],
    *,
    threads: int = 0,
    only: tuple[str, ...] = ("torch", "torch.compile", "jax", "onnxruntime"),
    limit: float = COMPILE_LIMIT,
) -> dict[tuple[str, str], Call | str]:
    """Calls by (implementation, mode) on stored inputs, warmed up, or the reason why there is none.

    Mode `out` fills the same outputs again, `fresh` allocates them. Empty for an operator that has
    no baseline here. jax computes in 32 bits and has threads of its own.
    """
    b = baseline_of(op)
    if b is None:
        return {}
    params = with_sizes(params, sizes)
    out: dict[tuple[str, str], Call | str] = {}
    count = threads or os.cpu_count() or 1
    if "torch" in only or "torch.compile" in only:
        out |= _torch_calls(b, op, params, inputs, count, "torch.compile" in only, limit)
        if "torch" not in only:
            out = {k: v for k, v in out.items() if k[0] != "torch"}
    if "jax" in only:
        out |= _jax_calls(b, op, params, inputs, limit)
    if "onnxruntime" in only:
        out |= onnx_calls(op, sizes, params, inputs, count)
    return out
