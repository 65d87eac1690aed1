"""The child that draws PyTorch's own sample inputs: run as a script, answers in JSON lines.

It imports a private part of PyTorch, which may have another form in another version: whatever goes
wrong is one line with `error`. Standard library and PyTorch only.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
import unittest
from typing import Any

ELEMENTS = 4096  # of one tensor: a sample with a larger one is left out


def main() -> None:
    """Print the samples of one operator: its name and the name of a type are the arguments."""
    name, dtype, most = sys.argv[1], sys.argv[2], int(sys.argv[3])
    sys.argv = sys.argv[:1]  # PyTorch's test utilities read it
    try:
        for row in samples(name, dtype, most):
            print(json.dumps(row))
    except BaseException as e:
        print(json.dumps({"error": f"{type(e).__name__}: {e}"}))


def samples(name: str, dtype: str, most: int) -> Any:
    """Every sample as tensors in order of the call and numbers by name."""
    import torch

    try:
        importlib.import_module("expecttest")
    except ModuleNotFoundError:  # only tests of PyTorch itself need what is in it
        stand_in = types.ModuleType("expecttest")
        stand_in.TestCase = unittest.TestCase  # type: ignore[attr-defined]
        stand_in.assert_expected_inline = None  # type: ignore[attr-defined]
        sys.modules["expecttest"] = stand_in
    private: Any = importlib.import_module("torch.testing._internal.common_methods_invocations")
    op_db: Any = private.op_db

    found = [o for o in op_db if name in (o.name, o.aten_name)]
    if not found:
        known = sorted({o.name for o in op_db})
        near = [n for n in known if name.lower() in n.lower()][:8]
        yield {"error": f"PyTorch has no operator {name}; near: {', '.join(near) or 'none'}"}
        return
    kind = getattr(torch, dtype)
    torch.manual_seed(0)
    info = next((o for o in found if kind in o.supported_dtypes("cpu")), found[0])
    count = 0
    for s in info.sample_inputs("cpu", kind, requires_grad=False):
        tensors: list[Any] = []
        numbers: dict[str, Any] = {}
        whole = _flat([s.input, *s.args], tensors)
        for k, v in s.kwargs.items():
            if isinstance(v, torch.Tensor):
                tensors.append(v)
            elif isinstance(v, (bool, int, float)):
                numbers[k] = v
        if not whole or any(t.numel() > ELEMENTS or t.is_sparse for t in tensors):
            continue
        yield {"tensors": [_json(t) for t in tensors], "numbers": numbers}
        count += 1
        if count >= most:
            return


def _flat(values: Any, out: list[Any]) -> bool:
    """Tensors among positional arguments, lists of them included; False for what is left out."""
    import torch

    for v in values:
        if isinstance(v, torch.Tensor):
            out.append(v)
        elif isinstance(v, (list, tuple)) and not _flat(v, out):
            return False
    return True


def _json(t: Any) -> dict[str, Any]:
    import torch

    plain = t.detach().to(torch.float64) if t.is_floating_point() else t.detach()
    return {"shape": list(t.shape), "real": t.is_floating_point(),
            "bool": t.dtype == torch.bool, "data": plain.reshape(-1).tolist()}  # fmt: skip


if __name__ == "__main__":
    main()
