"""The parameters of `extern "C"` functions of C++ and CUDA texts, as they are spelled."""

from __future__ import annotations

import re

from opwright.ir.launch import ImportRefusal
from opwright.ir.signature import Parameter, Signature

_FUNCTION = re.compile(
    r'(?:extern\s+"C"\s*)(?P<head>[\w\s:]*?)\bvoid\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?'
    r"(?P<name>\w+)\s*\((?P<args>[^)]*)\)\s*\{"
)
_WIDTHS = {"int": "i32", "int32_t": "i32", "unsigned": "u32", "uint32_t": "u32"}
_WIDTHS |= {"int64_t": "i64", "long": "i64", "size_t": "u64", "uint64_t": "u64"}
_WIDTHS |= {"float": "f32", "double": "f64", "bool": "bool"}
PIDS = 3  # of a C++ kernel, after its arguments


def c_signature(text: str, kernel: str | None, file: str, device: bool) -> Signature:
    """What a kernel takes; without a name, the only one. ImportRefusal says which there are."""
    bare = re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.S)
    found = {
        m["name"]: m for m in _FUNCTION.finditer(bare) if not device or "__global__" in m["head"]
    }
    names = ", ".join(found) or "none"
    if kernel is None:
        if len(found) != 1:
            raise ImportRefusal(f"name a kernel as FILE:NAME; kernels here: {names}", file)
        kernel = next(iter(found))
    if kernel not in found:
        raise ImportRefusal(f'no extern "C" kernel {kernel}; there are: {names}', file)
    texts = [a.strip() for a in found[kernel]["args"].split(",") if a.strip()]
    if not device:
        texts = texts[:-PIDS]
    return Signature(kernel, tuple(_parameter(t) for t in texts), _axes(bare, device))


def _parameter(text: str) -> Parameter:
    name = re.findall(r"\w+", text)[-1]
    if "*" in text:
        only = re.search(r"\bconst\b", text.split("*")[0]) is not None
        return Parameter(name, "pointer", True, not only)
    words = re.findall(r"\w+", text)[:-1]
    kinds = [_WIDTHS[w] for w in words if w in _WIDTHS]
    return Parameter(name, "scalar", dtype=kinds[-1] if kinds else "")


def _axes(text: str, device: bool) -> int:
    used = re.findall(
        r"\b(?:blockIdx|gridDim)\s*\.\s*([xyz])" if device else r"\bpid([012])\b", text
    )
    order = "xyz" if device else "012"
    return max((order.index(u) for u in used), default=0) + 1
