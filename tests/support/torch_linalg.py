"""What products, convolutions and layers that fuse them mean in PyTorch."""

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


def convolved(function: Any) -> Any:
    """A convolution of PyTorch that takes our names."""

    def call(x: Any, w: Any, *bias: Any, stride: int = 1, pad: int = 0, dilation: int = 1) -> Any:
        return function(x, w, *bias, stride=stride, padding=pad, dilation=dilation)

    return call


def grouped(x: Any, w: Any, stride: int = 1, pad: int = 0) -> Any:
    return F.conv2d(x, w, None, stride, pad, groups=x.shape[1] // w.shape[1])


def depthwise(x: Any, w: Any, stride: int = 1, pad: int = 0) -> Any:
    return F.conv2d(x, w[:, None], None, stride, pad, groups=len(w))


def causal_conv1d(x: Any, w: Any, bias: Any) -> Any:
    r = w.shape[1]
    return F.silu(F.conv1d(F.pad(x, (r - 1, 0)), w[:, None], bias, groups=len(w)))


def logsumexp_mish(x: Any, w: Any, b: Any) -> Any:
    s = (2 * F.linear(x, w, b)).clamp(-10, 10).logsumexp(1)
    return s * F.mish(s)


def gated_mlp(x: Any, gate: Any, up: Any, down: Any) -> Any:
    return (F.silu(x @ gate) * (x @ up)) @ down


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
    row("conv/conv1d", convolved(F.conv1d), "2x3x11 4x3x3 4", "1x1x1 1x1x1 1"),
    row("conv/conv1d", convolved(F.conv1d), "2x3x14 4x3x2 4", stride=2, pad=3, dilation=2),
    row("conv/conv3d", convolved(F.conv3d), "2x3x4x5x6 4x3x2x2x2", "1x1x1x1x1 1x1x1x1x1"),
    row("conv/conv3d", convolved(F.conv3d), "1x2x4x5x6 3x2x3x3x3", stride=2, pad=1),
    row("conv/grouped_conv2d", grouped, "2x6x5x7 8x3x3x2", "1x1x1x1 1x1x1x1", "1x4x5x5 4x1x2x2"),
    row("conv/grouped_conv2d", grouped, "2x6x5x7 4x3x3x3", stride=2, pad=1),
    row("conv/depthwise_conv2d", depthwise, "2x5x5x7 5x3x2", "1x1x1x1 1x1x1"),
    row("conv/depthwise_conv2d", depthwise, "2x3x5x7 3x3x3", stride=2, pad=1),
    row(
        "conv/pointwise_conv2d",
        lambda x, w, b: F.conv2d(x, w[:, :, None, None], b),
        "2x5x3x7 4x5 4",
        "1x1x1x1 1x1 1",
    ),
    row("conv/causal_conv1d", causal_conv1d, "2x3x11 3x4 3", "1x1x1 1x1 1"),
    row("conv/conv_transpose1d", convolved(F.conv_transpose1d), "2x3x11 3x4x3", "1x1x1 1x1x1"),
    row("conv/conv_transpose1d", convolved(F.conv_transpose1d), "2x3x7 3x4x5", stride=3, pad=2),
    row(
        "conv/conv_transpose2d",
        convolved(F.conv_transpose2d),
        "2x3x5x7 3x4x3x2 4",
        "1x1x1x1 1x1x1x1 1",
    ),
    row("conv/conv_transpose2d", convolved(F.conv_transpose2d), "2x3x5x7 3x4x3x3 4",
        stride=2, pad=1, dilation=2),
    row("conv/conv_transpose3d", convolved(F.conv_transpose3d), "2x3x2x3x4 3x2x2x2x2"),
    row("conv/conv_transpose3d", convolved(F.conv_transpose3d), "1x2x2x3x4 2x3x3x3x3",
        stride=2, pad=1),
    row("linalg/matmul_at", lambda a, b: a.T @ b, "13x7 13x11", "1x1 1x1"),
    row("linalg/matmul_bt", lambda a, b: a @ b.T, "7x13 11x13", "1x1 1x1"),
    row("linalg/matmul_atbt", lambda a, b: a.T @ b.T, "13x7 11x13", "1x1 1x1"),
    row("linalg/matvec", torch.mv, "7x13 13", "1x1 1", "3x0 0"),
    row("linalg/outer", torch.outer, "7 13", "1 1"),
    row("linalg/dot", torch.dot, "77 77", "1 1", "0 0"),
    row("linalg/diag_matmul", lambda d, b: d.diag() @ b, "7 7x13", "1 1x1"),
    row("linalg/tril_matmul", lambda a, b: a.tril() @ b.tril(), "13x13 13x13", "1x1 1x1"),
    row("linalg/triu_matmul", lambda a, b: a.triu() @ b.triu(), "13x13 13x13", "1x1 1x1"),
    row("linalg/matmul_4d", torch.matmul, "2x3x4x5 5x7", "1x1x1x1 1x1"),
    row("linalg/bilinear", F.bilinear, "5x3 5x4 7x3x4 7", "1x1 1x1 1x1x1 1"),
    row("linalg/gram", lambda x: x.T @ x, "13x7", "1x1"),
    row("linalg/pairwise_distance", lambda x, y: torch.cdist(x, y) ** 2, "7x5 9x5", "1x1 1x1"),
    row(
        "fused/matmul_scale_residual",
        lambda x, w, b: 1.5 * F.linear(x, w, b),
        "7x13 11x13 11",
        "1x1 1x1 1",
    ),
    row(
        "fused/matmul_swish_scale",
        lambda x, w, b: 2 * F.silu(F.linear(x, w, b)),
        "7x13 11x13 11",
        "1x1 1x1 1",
    ),
    row(
        "fused/matmul_row_min",
        lambda x, w, b: F.linear(x, w, b).amin(1) - 2,
        "7x13 11x13 11",
        "1x1 1x1 1",
    ),
    row("fused/matmul_logsumexp_mish", logsumexp_mish, "7x13 11x13 11", "1x1 1x1 1"),
    row(
        "fused/conv2d_min_tanh",
        lambda x, w, b: F.conv2d(x, w, b).amin(1).tanh().tanh(),
        "2x3x6x7 4x3x3x2 4",
        "1x1x1x1 1x1x1x1 1",
    ),
    row("fused/gated_mlp", gated_mlp, "7x5 5x9 5x9 9x5", "1x1 1x1 1x1 1x1"),
    row(
        "nn/causal_attention",
        causal_attention,
        "2x3x17x8 2x3x17x8 2x3x17x8",
        "1x1x1x1 1x1x1x1 1x1x1x1",
    ),
]  # fmt: skip
