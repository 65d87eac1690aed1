"""Baselines are of shipped operators, and compute what the specs say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.shipped import NAMES, SPECS, some

from opwright.benchmarks.baselines import BASELINES, baselines, to_torch
from opwright.benchmarks.library_baselines import LIBRARY
from opwright.benchmarks.onnx_models import MODELS
from opwright.compiler.elaborate import elaborate
from opwright.grammar.parser import parse
from opwright.ir.op import Operator
from opwright.ir.reference import reference
from opwright.verify.draw import decoded, draw_inputs
from opwright.verify.sizes import Limits, default_workload

FRAMES = ("torch", "jax", "onnxruntime")


def _operator(name: str) -> Operator:
    (path,) = SPECS.rglob(f"{name}.op")
    text = Path(path).read_text()
    return elaborate(parse(text), None, filename=str(path), source=text)


def test_baselines_are_of_shipped_operators() -> None:
    assert set(BASELINES) <= set(NAMES)
    assert set(LIBRARY) <= set(NAMES) and not set(LIBRARY) & set(BASELINES)
    assert set(MODELS) <= set(BASELINES) | set(LIBRARY)


@pytest.mark.parametrize("name", [*sorted(BASELINES), *some(sorted(LIBRARY), 6)])
def test_baselines_agree_with_the_reference(name: str) -> None:
    torch = pytest.importorskip("torch")
    op = _operator(name)
    load = default_workload(op, Limits(1 << 12, 1 << 18))
    inputs = draw_inputs(op, load.sizes, load.params, "normal", 0)
    exact = reference(op, decoded(op, inputs), load.params, load.sizes)
    found = baselines(op, load.sizes, load.params, inputs, threads=1, only=FRAMES)
    assert ("torch", "fresh") in found
    ran = 0
    for (implementation, mode), call in found.items():
        if isinstance(call, str):
            assert "not installed" in call, call
            continue
        ran += 1
        if mode == "out":
            call()
            continue  # its outputs are not returned by every form
        _same(op, call(), exact, torch, implementation)
    assert ran


def _same(op: Operator, result: Any, exact: Any, torch: Any, who: str) -> None:
    results = result if isinstance(result, dict) else {op.outputs[0].name: result}
    # frameworks keep some results, as the log-sum-exp of an attention's rows, to themselves
    assert set(results) <= {t.name for t in op.outputs} and op.outputs[0].name in results
    for t in (t for t in op.outputs if t.name in results):
        r = results[t.name]
        got = r.detach().double().numpy() if isinstance(r, torch.Tensor) else np.asarray(r, float)
        want = np.asarray(exact[t.name], float)
        assert np.allclose(got.reshape(want.shape), want, rtol=2e-3, atol=2e-4), (who, t.name)


def test_an_unknown_operator_has_none() -> None:
    from support import operators as ops

    op = ops.scaled()
    assert baselines(op, {"B": 1, "N": 1}, {}, {"x": np.zeros((1, 1), np.float32)}) == {}


def test_a_first_call_that_takes_too_long_is_a_reason() -> None:
    pytest.importorskip("torch")
    op = _operator("silu")
    found = baselines(
        op, {"N": 64}, {}, {"x": np.zeros(64, np.float32)}, only=("torch.compile",), limit=0.01
    )
    assert found == {
        ("torch.compile", "fresh"): "torch.compile: the first call took more than 0.01 s"
    }


def test_stored_types_become_torch_types() -> None:
    torch = pytest.importorskip("torch")
    bits = np.array([0x3F80, 0xC000], np.uint16)
    assert to_torch(torch, bits, "bf16").tolist() == [1.0, -2.0]
    with pytest.raises(ValueError, match="no u32"):
        to_torch(torch, np.zeros(1, np.uint32), "u32")
