"""Public GPU kernels of operators of the library, where their packages can be imported.

With `baselines.py` and `onnx_models.py` a place besides the specs where operators have names.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Tensors = Mapping[str, Any]
Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Public:
    """A function of a package: `call(module, x, p)` takes tensors and params by name."""

    label: str
    module: str
    call: Callable[[Any, Tensors, Mapping[str, Any]], Any]

    def here(self) -> bool:
        """Whether the package is installed."""
        return importlib.util.find_spec(self.module.partition(".")[0]) is not None


def _heads_last(x: Any) -> Any:
    """[B, H, S, D] as [B, S, H, D]."""
    return x.transpose(1, 2)


PUBLIC: dict[str, tuple[Public, ...]] = {
    "softmax": (
        Public("liger", "liger_kernel.ops.softmax",
               lambda m, x, p: m.LigerSoftmaxFunction.apply(x["x"])),
    ),
    "rmsnorm": (
        Public("liger", "liger_kernel.ops.rms_norm",
               lambda m, x, p: m.LigerRMSNormFunction.apply(x["x"], x["gamma"], p["eps"])),
        Public("flashinfer", "flashinfer.norm",
               lambda m, x, p: m.rmsnorm(x["x"], x["gamma"], p["eps"])),
    ),
    "layernorm": (
        Public("liger", "liger_kernel.ops.layer_norm",
               lambda m, x, p: m.LigerLayerNormFunction.apply(x["x"], x["gamma"], x["beta"],
                                                              p["eps"])),
    ),
    "swiglu": (
        Public("liger", "liger_kernel.ops.swiglu",
               lambda m, x, p: m.LigerSiLUMulFunction.apply(x["gate"], x["up"])),
    ),
    "causal_attention": (
        Public("flash-attn", "flash_attn",
               lambda m, x, p: m.flash_attn_func(
                   *(_heads_last(x[n]) for n in "qkv"), softmax_scale=p["scale"], causal=True)),
    ),
    "attention": (
        Public("flash-attn", "flash_attn",
               lambda m, x, p: m.flash_attn_func(
                   *(_heads_last(x[n]) for n in "qkv"), softmax_scale=p["scale"],
                   causal=bool(p["causal"]))),
    ),
}  # fmt: skip


def public_calls(name: str, x: Tensors, p: Mapping[str, Any]) -> dict[str, Call | str]:
    """Calls of what is installed for an operator, or why there is none."""
    out: dict[str, Call | str] = {}
    for one in PUBLIC.get(name, ()):
        if not one.here():
            continue
        try:
            module = importlib.import_module(one.module)
        except Exception as e:  # an import of a foreign package may fail in any way
            out[one.label] = f"{type(e).__name__}: {str(e).splitlines()[:1]}"
            continue
        out[one.label] = lambda one=one, module=module: one.call(module, x, p)  # type: ignore[misc]
    return out
