"""PyTorch's sample inputs (OpInfo) as calls of an operator: shapes and values people wrote down.

Only the inputs are taken; what is right is what the spec says. Samples come from a private part of
PyTorch, run in a process of its own; where it has another form, that is said, and nothing else
depends on it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opwright.compiler.torch_reference import TORCH
from opwright.ir.binding import InputError, bind
from opwright.ir.dtypes import decode, encode
from opwright.ir.expr import ExprError
from opwright.ir.op import Operator, Tensor
from opwright.verify.cases import Kept, keep
from opwright.verify.draw import holds
from opwright.verify.sizes import all_params

TIME_LIMIT = 180.0
SAMPLES = 200


class NoSamples(ValueError):
    """PyTorch gives no samples: the message says why."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Calls that fit, how many were offered, and why the others did not fit, counted."""

    cases: tuple[Kept, ...]
    offered: int
    reasons: Mapping[str, int]


def samples(op: Operator, name: str, most: int = SAMPLES) -> Samples:
    """Sample inputs of PyTorch's operator `name` as calls of this one; raises NoSamples."""
    real = next((t.dtype for t in op.inputs if t.kind == "real"), None)
    dtype = TORCH.get(real.name if real else op.inputs[0].dtype.name if op.inputs else "f32", "")
    if not dtype:
        raise NoSamples(f"PyTorch has no type for the inputs of {op.name}")
    rows = _drawn(name, dtype, most)
    found: dict[str, Kept] = {}
    reasons: dict[str, int] = {}
    for row in rows:
        try:
            case = fitted(op, row["tensors"], row["numbers"], name)
            found.setdefault(case.id, case)
        except InputError as e:
            reasons[str(e)] = reasons.get(str(e), 0) + 1
    return Samples(tuple(found.values()), len(rows), reasons)


def _drawn(name: str, dtype: str, most: int) -> list[dict[str, Any]]:
    worker = Path(__file__).with_name("opinfo_worker.py")
    try:
        done = subprocess.run(
            [sys.executable, str(worker), name, dtype, str(most)],
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NoSamples(f"PyTorch drew no samples within {TIME_LIMIT:g} s") from None
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    bad = next((r["error"] for r in rows if "error" in r), "")
    if bad or done.returncode:
        why = bad or done.stderr.strip().splitlines()[-1:]
        raise NoSamples(f"no samples of {name}: {why}; this reads a private part of PyTorch")
    return rows


def fitted(
    op: Operator, tensors: Sequence[Mapping[str, Any]], numbers: Mapping[str, Any], name: str
) -> Kept:
    """One sample as a call: tensors in order, numbers by the names of params; InputError where it
    does not fit or breaks what the spec requires."""
    if len(tensors) < len(op.inputs):
        raise InputError(f"{len(tensors)} tensors for {len(op.inputs)} inputs")
    stored = {}
    for t, x in zip(op.inputs, tensors, strict=False):
        stored[t.name] = _shaped(t, x)
    plain = {t.name: decode(stored[t.name], t.dtype) for t in op.inputs}
    given = {p.name: numbers[p.name] for p in op.params if p.name in numbers}
    sizes = {s: int(numbers[s]) for s in op.free_sizes if isinstance(numbers.get(s), int)}
    try:
        env = bind(op, plain, given, sizes)
        own = {s: int(env[s]) for s in op.sizes}
        params = all_params(op, own, given)
    except (ExprError, KeyError, TypeError, ArithmeticError) as e:
        raise InputError(f"{type(e).__name__}: {e}") from None
    broken = holds(op, stored, own, params)
    if broken:
        raise InputError(f"breaks {broken[0]}")
    return keep(op, own, params, stored, "opinfo", f"a sample input of PyTorch's {name}")


def _shaped(t: Tensor, x: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """The sample in stored form; leading axes beyond those of the input become one."""
    shape, rank = list(x["shape"]), len(t.axes)
    if len(shape) < rank:
        raise InputError(f"{t.name} has {rank} axes, the sample {len(shape)}")
    kind = "real" if x["real"] else "bool" if x["bool"] else "int"
    if kind != t.kind:
        raise InputError(f"{t.name} is {t.kind}, the sample {kind}")
    if len(shape) > rank:
        if not rank:
            raise InputError(f"{t.name} is a single value, the sample has {len(shape)} axes")
        lead = len(shape) - rank + 1
        shape = [int(np.prod(shape[:lead])), *shape[lead:]]
    a = np.asarray(x["data"], {"real": np.float64, "int": np.int64, "bool": bool}[kind])
    return encode(a.reshape(shape), t.dtype)
