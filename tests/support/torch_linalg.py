"""What products, convolutions, pooling and attention mean in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from support.torch_cases import row  # type: ignore[import-not-found]

F = torch.nn.functional


def conv2d_bias_relu(
    x: Any, w: Any, bias: Any, stride: int = 1, pad: int = 0, dilation: int = 1
) -> Any:
    return F.relu(F.conv2d(x, w, bias, stride, pad, dilation))


def scale(q: Any) -> float:
    """1 / sqrt(D) as the f32 that a param holds."""
    return float(np.float32(q.shape[-1] ** -0.5))


def causal_attention(q: Any, k: Any, v: Any) -> Any:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale(q))


CASES = [
    row("linalg/matmul", torch.matmul, "7x13 13x11", "1x1 1x1", "64x3 3x1"),
    row("linalg/batched_matmul", torch.matmul, "3x7x13 3x13x11", "1x1x1 1x1x1"),
    row("linalg/transpose", lambda x: x.T, "7x13", "1x1"),
    row(
        "nn/matmul_bias_gelu",
        lambda x, w, b: F.gelu(x @ w + b),
        "7x13 13x11 11",
        "1x1 1x1 1",
    ),
    row("nn/conv2d_bias_relu", conv2d_bias_relu, "2x3x11x9 4x3x3x2 4", "1x1x1x1 1x1x1x1 1"),
    row("nn/conv2d_bias_relu", conv2d_bias_relu, "2x3x14x11 4x3x3x2 4",
        stride=2, pad=1, dilation=3),
    row(
        "nn/causal_attention",
        causal_attention,
        "2x3x17x8 2x3x17x8 2x3x17x8",
        "1x1x1x1 1x1x1x1 1x1x1x1",
    ),
]  # fmt: skip
