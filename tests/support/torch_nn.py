"""What pointwise functions, normalisations, reductions, scans and losses mean in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from support.torch_cases import row  # type: ignore[import-not-found]

F = torch.nn.functional
# a param is an f32, and so is its default
EPS, TENTH, SLOPE, TINY = (float(np.float32(x)) for x in (1e-5, 0.1, 0.01, 1e-6))
POINTS = ("301", "1", "64")
ROWS = ("5x77", "1x1", "3x64")


def layernorm(x: Any, gamma: Any, beta: Any) -> Any:
    y, mean, rstd = torch.native_layer_norm(x, [x.shape[-1]], gamma, beta, EPS)
    return y, mean[:, 0], rstd[:, 0]


def batchnorm(x: Any, gamma: Any, beta: Any, mean: Any, var: Any) -> Any:
    mean, var = mean.clone(), var.clone()
    y = F.batch_norm(x, mean, var, gamma, beta, True, TENTH, EPS)
    return y, mean, var


def groupnorm(x: Any, gamma: Any, beta: Any, G: int) -> Any:
    n, c, s = x.shape
    return torch.native_group_norm(x, gamma, beta, n, c, s, G, EPS)


def linear_scan(a: Any, x: Any) -> Any:
    state, out = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        state = a[:, t] * state + x[:, t]
        out.append(state)
    return torch.stack(out, 1)


def glu(gate: Any, up: Any) -> Any:
    return F.silu(gate) * up


CASES = [
    row("nn/relu", F.relu, *POINTS),
    row("nn/relu6", F.relu6, *POINTS),
    row("nn/leaky_relu", lambda x: F.leaky_relu(x, SLOPE), *POINTS),
    row("nn/leaky_relu", lambda x, slope: F.leaky_relu(x, slope), "33", slope=0.25),
    row("nn/prelu", F.prelu, "2x5x7 5", "1x1x1 1", "3x8x1 8"),
    row("nn/elu", F.elu, *POINTS),
    row("nn/elu", F.elu, "33", alpha=0.5),
    row("nn/selu", F.selu, *POINTS),
    row("nn/celu", F.celu, *POINTS),
    row("nn/celu", F.celu, "33", alpha=2.0),
    row("nn/softplus", lambda x: F.softplus(x, threshold=1e9), *POINTS),
    row("nn/softsign", F.softsign, *POINTS),
    row("nn/mish", F.mish, *POINTS),
    row("nn/hardswish", F.hardswish, *POINTS),
    row("nn/hardsigmoid", F.hardsigmoid, *POINTS),
    row("nn/hardtanh", F.hardtanh, *POINTS),
    row("nn/hardtanh", lambda x, lo, hi: F.hardtanh(x, lo, hi), "33", lo=-0.5, hi=0.25),
    row("nn/logistic", torch.sigmoid, *POINTS),
    row("nn/log_sigmoid", F.logsigmoid, *POINTS),
    row("nn/tanh_act", torch.tanh, *POINTS),
    row("nn/softshrink", F.softshrink, *POINTS),
    row("nn/swiglu", glu, "5x7 5x7", "1 1", "2x3x4 2x3x4"),
    row("nn/geglu", lambda gate, up: F.gelu(gate) * up, "5x7 5x7", "1x1 1x1"),
    row("nn/glu", F.glu, "5x8", "1x2", "3x62"),
    row("nn/gelu", F.gelu, *POINTS),
    row("nn/gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), *POINTS),
    row("nn/silu", F.silu, *POINTS),
    row("nn/softmax", lambda x: F.softmax(x, -1), *ROWS),
    row("nn/log_softmax", lambda x: F.log_softmax(x, -1), *ROWS),
    row("nn/layernorm", layernorm, "6x51 51 51", "1x1 1 1", "2x64 64 64"),
    row("nn/rmsnorm", lambda x, g: F.rms_norm(x, [x.shape[1]], g, TINY), "6x51 51", "1x1 1"),
    row("nn/batchnorm", batchnorm, "4x5x7 5 5 5 5+", "2x1x1 1 1 1 1+", "1x3x9 3 3 3 3+"),
    row(
        "nn/batchnorm_inference",
        lambda x, g, b, m, v: F.batch_norm(x, m, v, g, b, eps=EPS),
        "4x5x7 5 5 5 5+",
        "1x1x1 1 1 1 1+",
    ),
    row("nn/groupnorm", groupnorm, "3x6x7 6 6", "1x3x1 3 3", G=3),
    row("nn/groupnorm", groupnorm, "2x5x4 5 5", G=1),
    row(
        "nn/instancenorm",
        lambda x, g, b: F.instance_norm(x, weight=g, bias=b, eps=EPS),
        "3x5x7 5 5",
        "1x1x2 1 1",
    ),
    row(
        "nn/add_rmsnorm",
        lambda x, r, g: (F.rms_norm(x + r, [x.shape[1]], g, TINY), x + r),
        "5x7 5x7 7",
        "1x1 1x1 1",
    ),
    row("nn/l2norm", F.normalize, *ROWS),
    row("nn/l1norm", lambda x: F.normalize(x, p=1), *ROWS),
    row(
        "nn/frobenius_norm",
        lambda x: x / x.norm(dim=(1, 2), keepdim=True),
        "3x5x7",
        "1x1x1",
    ),
    row("nn/embedding", lambda t, i: F.embedding(i, t), "19x5 33<19", "1x1 1<1", "4x8 0<4"),
    row("reduce/row_sum", lambda x: x.sum(1), "7x133", "1x1", "3x0"),
    row("reduce/column_sum", lambda x: x.sum(0), "133x7", "1x1", "0x3"),
    row("reduce/middle_sum", lambda x: x.sum(1), "3x5x7", "1x1x1", "2x0x3"),
    row("reduce/row_mean", lambda x: x.mean(1), *ROWS),
    row("reduce/row_max", lambda x: x.amax(1), *ROWS),
    row("reduce/row_min", lambda x: x.amin(1), *ROWS),
    row("reduce/row_prod", lambda x: x.prod(1), "7x13", "1x1", "3x0"),
    row("reduce/logsumexp", lambda x: x.logsumexp(1), *ROWS),
    row("reduce/variance", lambda x: torch.var_mean(x, 1), "5x77", "1x2"),
    row("reduce/variance", lambda x, correction: torch.var_mean(x, 1, correction=0), "5x7", "1x1",
        correction=0),
    row("reduce/argmax", lambda x: x.argmax(1), "7x133", "1x1"),
    row("reduce/argmax", lambda x: x.argmax(1), "7x133<5"),
    row("reduce/argmin", lambda x: x.argmin(1), "7x133", "1x1"),
    row("reduce/argmin", lambda x: x.argmin(1), "7x133<5"),
    row("reduce/row_any", lambda x: x.any(1), "9x2?", "1x1?", "2x0?"),
    row("reduce/row_all", lambda x: x.all(1), "9x2?", "1x1?", "2x0?"),
    row("reduce/column_max", lambda x: tuple(x.max(0)), "13x7", "1x1"),
    row("reduce/histogram", lambda x, K: torch.bincount(x, minlength=K), "99<7", "1<2", "0<3", K=9),
    row("reduce/cumsum", lambda x: x.cumsum(1), *ROWS),
    row("scan/cumprod", lambda x: x.cumprod(1), "5x17", "1x1", "3x64"),
    row("scan/cummax", lambda x: x.cummax(1)[0], *ROWS),
    row("scan/cummin", lambda x: x.cummin(1)[0], *ROWS),
    row("scan/reverse_cumsum", lambda x: x.flip(1).cumsum(1).flip(1), *ROWS),
    row("scan/exclusive_cumsum", lambda x: x.cumsum(1) - x, *ROWS),
    row("scan/masked_cumsum", lambda x, m: (x * m).cumsum(1), "5x77 5x77?", "1x1 1x1?"),
    row("scan/linear_scan", linear_scan, "5x77 5x77", "1x1 1x1"),
    row("scan/logcumsumexp", lambda x: x.logcumsumexp(1), *ROWS),
]  # fmt: skip
