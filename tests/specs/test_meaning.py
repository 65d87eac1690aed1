"""What every spec of the library means, against PyTorch in float64 on shapes of no special form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opwright

torch = pytest.importorskip("torch")
F = torch.nn.functional
ROOT = Path(__file__).resolve().parents[2]
Inputs = dict[str, Any]
Shape = tuple[int, ...]


def normal(*shape: int) -> Any:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def ids(limit: int, count: int) -> Any:
    return torch.randint(limit, (count,), generator=torch.Generator().manual_seed(7))


def layernorm(i: Inputs) -> Inputs:
    n = i["x"].shape[-1]
    y, mean, rstd = torch.native_layer_norm(i["x"], [n], i["gamma"], i["beta"], 1e-5)
    return {"y": y, "mean": mean[:, 0], "rstd": rstd[:, 0]}


Case = tuple[Callable[[], Inputs], Callable[[Inputs], Any]]
CASES: dict[str, Case] = {
    "nn/softmax": (lambda: {"x": 9 * normal(5, 77)}, lambda i: F.softmax(i["x"], -1)),
    "nn/log_softmax": (lambda: {"x": 9 * normal(5, 77)}, lambda i: F.log_softmax(i["x"], -1)),
    "nn/layernorm": (
        lambda: {"x": normal(6, 51) + 3, "gamma": normal(51), "beta": normal(51)},
        layernorm,
    ),
    "nn/rmsnorm": (
        lambda: {"x": normal(6, 51), "gamma": normal(51)},
        lambda i: F.rms_norm(i["x"], [51], i["gamma"], 1e-6),
    ),
    "nn/gelu": (lambda: {"x": 3 * normal(301)}, lambda i: F.gelu(i["x"])),
    "nn/gelu_tanh": (
        lambda: {"x": 3 * normal(301)},
        lambda i: F.gelu(i["x"], approximate="tanh"),
    ),
    "nn/silu": (lambda: {"x": 3 * normal(301)}, lambda i: F.silu(i["x"])),
    "nn/matmul_bias_gelu": (
        lambda: {"x": normal(7, 13), "w": normal(13, 11), "bias": normal(11)},
        lambda i: F.gelu(i["x"] @ i["w"] + i["bias"]),
    ),
    "nn/embedding": (
        lambda: {"table": normal(19, 5), "ids": ids(19, 33)},
        lambda i: F.embedding(i["ids"], i["table"]),
    ),
    "nn/conv2d_bias_relu": (
        lambda: {"x": normal(2, 3, 11, 9), "w": normal(4, 3, 3, 2), "bias": normal(4)},
        lambda i: F.relu(F.conv2d(i["x"], i["w"], i["bias"])),
    ),
    "nn/causal_attention": (
        lambda: {"q": normal(2, 3, 17, 8), "k": normal(2, 3, 17, 8) + 1, "v": normal(2, 3, 17, 8)},
        lambda i: F.scaled_dot_product_attention(
            # the param is f32, so its default is the f32 nearest to 1 / sqrt(8)
            i["q"],
            i["k"],
            i["v"],
            is_causal=True,
            scale=float(np.float32(8**-0.5)),
        ),
    ),
    "linalg/matmul": (
        lambda: {"a": normal(7, 13), "b": normal(13, 11)},
        lambda i: i["a"] @ i["b"],
    ),
    "linalg/batched_matmul": (
        lambda: {"x": normal(3, 7, 13), "y": normal(3, 13, 11)},
        lambda i: i["x"] @ i["y"],
    ),
    "linalg/transpose": (lambda: {"x": normal(7, 13)}, lambda i: i["x"].T),
    "reduce/row_sum": (lambda: {"x": normal(7, 133)}, lambda i: i["x"].sum(-1)),
    "reduce/column_sum": (lambda: {"x": normal(133, 7)}, lambda i: i["x"].sum(0)),
    "reduce/argmax": (
        lambda: {"x": torch.round(2 * normal(7, 133))},
        lambda i: i["x"].argmax(-1),
    ),
    "reduce/cumsum": (lambda: {"x": normal(7, 133)}, lambda i: i["x"].cumsum(-1)),
    "loss/cross_entropy": (
        lambda: {"x": 5 * normal(9, 41), "target_class": ids(41, 9)},
        lambda i: F.cross_entropy(i["x"], i["target_class"], reduction="none"),
    ),
}


def test_every_spec_has_a_case() -> None:
    specs = {str(p.relative_to(ROOT / "specs").with_suffix("")) for p in
             (ROOT / "specs").rglob("*.op")}  # fmt: skip
    assert specs == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_reference_agrees_with_torch(name: str) -> None:
    make, function = CASES[name]
    inputs = make()
    wanted = function(inputs)
    operation = opwright.load(ROOT / "specs" / f"{name}.op")[name.split("/")[1]]
    found = operation.reference(**inputs)
    if not isinstance(wanted, dict):
        wanted = {next(iter(found)): wanted}
    assert set(found) == set(wanted)
    for output, value in wanted.items():
        np.testing.assert_allclose(found[output], value.numpy(), rtol=1e-9, atol=1e-11)


def test_params_and_strides_of_a_convolution() -> None:
    operation = opwright.load(ROOT / "specs/nn/conv2d_bias_relu.op")["conv2d_bias_relu"]
    x, w, bias = normal(2, 3, 14, 11), normal(4, 3, 3, 2), normal(4)
    found = operation.reference(x=x, w=w, bias=bias, stride=2, pad=1, dilation=3)["y"]
    wanted = F.relu(F.conv2d(x, w, bias, stride=2, padding=1, dilation=3))
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", CASES)
def test_every_binding_elaborates(name: str) -> None:
    operation = opwright.load(ROOT / "specs" / f"{name}.op")[name.split("/")[1]]
    for types in operation.bindings:
        assert operation.operator(types).types == types
