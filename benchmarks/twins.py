"""Operators of the library as people write them: PyTorch's own, written out in PyTorch, in numpy.

Every operator has three right functions, `NAME`, `NAME_plain` and `NAME_numpy`; wrong ones are made
of their texts. The texts are run where `torch` and `F` have a meaning (`world`), so that importing
this module imports no framework.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F

Array = Any
KINDS = ("torch", "plain", "numpy")


@dataclass(frozen=True, slots=True)
class Twin:
    """One operator; `sizes` are those of the random calls that a plain comparison makes."""

    spec: str
    sizes: Mapping[str, int]

    @property
    def name(self) -> str:
        return self.spec.rpartition("/")[2]

    def text(self, kind: str) -> str:
        """The text of one of its functions, which is called `NAME` or `NAME_KIND`."""
        return inspect.getsource(getattr(sys.modules[__name__], self.function(kind)))

    def function(self, kind: str) -> str:
        return self.name if kind == "torch" else f"{self.name}_{kind}"


def world() -> dict[str, Any]:
    """What the texts mean by their names."""
    import torch
    import torch.nn.functional as F

    space = {"np": np, "math": math, "Any": Any, "Array": Any, "torch": torch, "F": F}
    space["__name__"] = "opwright_twins"
    for twin in TWINS:
        for kind in KINDS:
            exec(compile(twin.text(kind), f"<{twin.function(kind)}>", "exec"), space)
    return space


def made(twin: Twin, kind: str, space: Mapping[str, Any]) -> Callable[..., Any]:
    """One of the functions of an operator, in a world."""
    function: Callable[..., Any] = space[twin.function(kind)]
    return function


# -- rows ------------------------------------------------------------------------------------------


def softmax(x: Array) -> Array:
    return F.softmax(x, -1)


def softmax_plain(x: Array) -> Array:
    m = x.amax(1, keepdim=True)
    e = torch.exp(x - m)
    return e / e.sum(1, keepdim=True)


def softmax_numpy(x: Array) -> Array:
    e = np.exp(x - np.max(x, axis=1, keepdims=True))
    return e / np.sum(e, axis=1, keepdims=True)


def log_softmax(x: Array) -> Array:
    return F.log_softmax(x, -1)


def log_softmax_plain(x: Array) -> Array:
    d = x - x.amax(1, keepdim=True)
    return d - torch.log(torch.exp(d).sum(1, keepdim=True))


def log_softmax_numpy(x: Array) -> Array:
    d = x - np.max(x, axis=1, keepdims=True)
    return d - np.log(np.sum(np.exp(d), axis=1, keepdims=True))


def layernorm(x: Array, gamma: Array, beta: Array, eps: float = 1e-5) -> Array:
    var, mean = torch.var_mean(x, 1, correction=0)
    return F.layer_norm(x, [x.shape[1]], gamma, beta, eps), mean, torch.rsqrt(var + eps)


def layernorm_plain(x: Array, gamma: Array, beta: Array, eps: float = 1e-5) -> Array:
    mean = x.mean(1, keepdim=True)
    d = x - mean
    rstd = torch.rsqrt((d * d).mean(1, keepdim=True) + eps)
    return d * rstd * gamma + beta, mean[:, 0], rstd[:, 0]


def layernorm_numpy(x: Array, gamma: Array, beta: Array, eps: float = 1e-5) -> Array:
    wide = x.astype(np.float64)
    mean = np.mean(wide, axis=1, keepdims=True)
    d = wide - mean
    rstd = 1 / np.sqrt(np.mean(d * d, axis=1, keepdims=True) + eps)
    parts = (d * rstd * gamma + beta, mean[:, 0], rstd[:, 0])
    return tuple(p.astype(np.float32) for p in parts)


def rmsnorm(x: Array, gamma: Array, eps: float = 1e-6) -> Array:
    return F.rms_norm(x, [x.shape[1]], gamma, eps)


def rmsnorm_plain(x: Array, gamma: Array, eps: float = 1e-6) -> Array:
    return x * torch.rsqrt((x * x).mean(1, keepdim=True) + eps) * gamma


def rmsnorm_numpy(x: Array, gamma: Array, eps: float = 1e-6) -> Array:
    ms = np.mean(x.astype(np.float64) ** 2, axis=1, keepdims=True)
    return (x / np.sqrt(ms + eps) * gamma).astype(np.float32)


def l2norm(x: Array, eps: float = 1e-12) -> Array:
    return F.normalize(x, eps=eps)


def l2norm_plain(x: Array, eps: float = 1e-12) -> Array:
    length = torch.sqrt((x * x).sum(1, keepdim=True))
    return x / torch.clamp(length, min=eps)


def l2norm_numpy(x: Array, eps: float = 1e-12) -> Array:
    length = np.sqrt(np.sum(x.astype(np.float64) ** 2, axis=1, keepdims=True))
    return (x / np.maximum(length, eps)).astype(np.float32)


def cross_entropy(x: Array, target: Array) -> Array:
    return F.cross_entropy(x, target, reduction="none")


def cross_entropy_plain(x: Array, target: Array) -> Array:
    m = x.amax(1, keepdim=True)
    s = torch.exp(x - m).sum(1)
    return torch.log(s) + m[:, 0] - x.gather(1, target[:, None])[:, 0]


def cross_entropy_numpy(x: Array, target: Array) -> Array:
    d = x - np.max(x, axis=1, keepdims=True)
    return np.log(np.sum(np.exp(d), axis=1)) - d[np.arange(len(d)), target]


# -- normalisation over other axes -----------------------------------------------------------------


def groupnorm(x: Array, gamma: Array, beta: Array, G: int, eps: float = 1e-5) -> Array:
    var, mean = torch.var_mean(x.reshape(x.shape[0], G, -1), 2, correction=0)
    return F.group_norm(x, G, gamma, beta, eps), mean, torch.rsqrt(var + eps)


def groupnorm_plain(x: Array, gamma: Array, beta: Array, G: int, eps: float = 1e-5) -> Array:
    n, c, s = x.shape
    g = x.reshape(n, G, c // G * s)
    mean = g.mean(2)
    d = g - mean[:, :, None]
    rstd = torch.rsqrt((d * d).mean(2) + eps)
    y = (d * rstd[:, :, None]).reshape(n, c, s)
    return y * gamma[None, :, None] + beta[None, :, None], mean, rstd


def groupnorm_numpy(x: Array, gamma: Array, beta: Array, G: int, eps: float = 1e-5) -> Array:
    n, c, s = x.shape
    g = x.reshape(n, G, c // G * s).astype(np.float64)
    mean = np.mean(g, axis=2, keepdims=True)
    rstd = 1 / np.sqrt(np.mean((g - mean) ** 2, axis=2, keepdims=True) + eps)
    y = ((g - mean) * rstd).reshape(n, c, s) * gamma[None, :, None] + beta[None, :, None]
    parts = (y, mean[:, :, 0], rstd[:, :, 0])
    return tuple(p.astype(np.float32) for p in parts)


def batchnorm_inference(
    x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, eps: float = 1e-5
) -> Array:
    return F.batch_norm(x, mean, variance, gamma, beta, eps=eps)


def batchnorm_inference_plain(
    x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, eps: float = 1e-5
) -> Array:
    scale = gamma * torch.rsqrt(variance + eps)
    return (x - mean[:, None]) * scale[:, None] + beta[:, None]


def batchnorm_inference_numpy(
    x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, eps: float = 1e-5
) -> Array:
    scale = gamma / np.sqrt(variance.astype(np.float64) + eps)
    y = (x - mean[:, None]) * scale[:, None] + beta[:, None]
    return y.astype(np.float32)


# -- pointwise -------------------------------------------------------------------------------------


def gelu(x: Array) -> Array:
    return F.gelu(x)


def gelu_plain(x: Array) -> Array:
    return 0.5 * x * (1 + torch.erf(x * 0.7071067811865476))


def gelu_numpy(x: Array) -> Array:
    erf = np.vectorize(math.erf, otypes=[np.float64])
    y = 0.5 * x * (1 + erf(x.astype(np.float64) * 0.7071067811865476))
    return y.astype(np.float32)


def silu(x: Array) -> Array:
    return F.silu(x)


def silu_plain(x: Array) -> Array:
    return x * torch.sigmoid(x)


def silu_numpy(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def hardswish(x: Array) -> Array:
    return F.hardswish(x)


def hardswish_plain(x: Array) -> Array:
    return x * torch.clamp(x + 3, 0, 6) / 6


def hardswish_numpy(x: Array) -> Array:
    return x * np.minimum(np.maximum(x + 3, 0), 6) / 6


def leaky_relu(x: Array, slope: float = 0.01) -> Array:
    return F.leaky_relu(x, slope)


def leaky_relu_plain(x: Array, slope: float = 0.01) -> Array:
    return torch.where(x < 0, slope * x, x)


def leaky_relu_numpy(x: Array, slope: float = 0.01) -> Array:
    return np.where(x < 0, np.float32(slope) * x, x)


def prelu(x: Array, slope: Array) -> Array:
    return F.prelu(x, slope)


def prelu_plain(x: Array, slope: Array) -> Array:
    return torch.where(x < 0, slope[None, :, None] * x, x)


def prelu_numpy(x: Array, slope: Array) -> Array:
    return np.where(x < 0, slope[None, :, None] * x, x)


def embedding(table: Array, ids: Array) -> Array:
    return F.embedding(ids, table)


def embedding_plain(table: Array, ids: Array) -> Array:
    return table.index_select(0, ids)


def embedding_numpy(table: Array, ids: Array) -> Array:
    return table[ids, :]


def quantize_rows(x: Array) -> Array:
    scale = x.abs().amax(1).clamp_min(1e-12) / 127
    return torch.round(x / scale[:, None]).to(torch.int8), scale


def quantize_rows_plain(x: Array) -> Array:
    top = torch.maximum(x.amax(1), -x.amin(1))
    scale = torch.clamp(top, min=1e-12) / 127
    return (x / scale[:, None]).round().to(torch.int8), scale


def quantize_rows_numpy(x: Array) -> Array:
    scale = np.maximum(np.max(np.abs(x), axis=1), np.float32(1e-12)) / np.float32(127)
    return np.rint(x / scale[:, None]).astype(np.int8), scale


# -- reductions ------------------------------------------------------------------------------------


def row_sum(x: Array) -> Array:
    return x.sum(1)


def row_sum_plain(x: Array) -> Array:
    return torch.einsum("bn->b", x)


def row_sum_numpy(x: Array) -> Array:
    return np.sum(x, axis=1)


def column_sum(x: Array) -> Array:
    return x.sum(0)


def column_sum_plain(x: Array) -> Array:
    total = torch.zeros(x.shape[1], dtype=torch.float32)
    for i in range(0, x.shape[0], 32):
        total = total + x[i : i + 32].sum(0)
    return total


def column_sum_numpy(x: Array) -> Array:
    return np.sum(x, axis=0)


def row_mean(x: Array) -> Array:
    return x.mean(1)


def row_mean_plain(x: Array) -> Array:
    return x.sum(1) / x.shape[1]


def row_mean_numpy(x: Array) -> Array:
    return np.sum(x, axis=1) / np.float32(x.shape[1])


def row_max(x: Array) -> Array:
    return x.amax(1)


def row_max_plain(x: Array) -> Array:
    best = x[:, 0].clone()
    for j in range(1, x.shape[1]):
        best = torch.maximum(best, x[:, j])
    return best


def row_max_numpy(x: Array) -> Array:
    return np.max(x, axis=1)


def logsumexp(x: Array) -> Array:
    return x.logsumexp(1)


def logsumexp_plain(x: Array) -> Array:
    m = x.amax(1)
    return m + torch.log(torch.exp(x - m[:, None]).sum(1))


def logsumexp_numpy(x: Array) -> Array:
    m = np.max(x, axis=1)
    return m + np.log(np.sum(np.exp(x - m[:, None]), axis=1))


def variance(x: Array, correction: int = 1) -> Array:
    return torch.var_mean(x, 1, correction=correction)


def variance_plain(x: Array, correction: int = 1) -> Array:
    mean = x.mean(1)
    d = x - mean[:, None]
    return (d * d).sum(1) / (x.shape[1] - correction), mean


def variance_numpy(x: Array, correction: int = 1) -> Array:
    wide = x.astype(np.float64)
    var = np.var(wide, axis=1, ddof=correction)
    return var.astype(np.float32), np.mean(wide, axis=1).astype(np.float32)


def argmax(x: Array) -> Array:
    return x.argmax(1)


def argmax_plain(x: Array) -> Array:
    best, at = x[:, 0], torch.zeros(x.shape[0], dtype=torch.int64)
    for j in range(1, x.shape[1]):
        more = (x[:, j] > best) | (torch.isnan(x[:, j]) & ~torch.isnan(best))
        best = torch.where(more, x[:, j], best)
        at = torch.where(more, j, at)
    return at


def argmax_numpy(x: Array) -> Array:
    return np.argmax(x, axis=1)


def argmin(x: Array) -> Array:
    return x.argmin(1)


def argmin_plain(x: Array) -> Array:
    return (-x).argmax(1)


def argmin_numpy(x: Array) -> Array:
    return np.argmin(x, axis=1)


def column_max(x: Array) -> Array:
    return tuple(x.max(0))


def column_max_plain(x: Array) -> Array:
    at = x.argmax(0)
    return x.gather(0, at[None, :])[0], at


def column_max_numpy(x: Array) -> Array:
    at = np.argmax(x, axis=0)
    return x[at, np.arange(x.shape[1])], at


def histogram(x: Array, K: int) -> Array:
    return torch.bincount(x, minlength=K)


def histogram_plain(x: Array, K: int) -> Array:
    return (x[:, None] == torch.arange(K)[None, :]).sum(0)


def histogram_numpy(x: Array, K: int) -> Array:
    return np.bincount(x, minlength=K)


# -- scans -----------------------------------------------------------------------------------------


def cumsum(x: Array) -> Array:
    return x.cumsum(1)


def cumsum_plain(x: Array) -> Array:
    out, total = torch.empty_like(x), torch.zeros(x.shape[0], dtype=torch.float32)
    for t in range(x.shape[1]):
        total = total + x[:, t]
        out[:, t] = total
    return out


def cumsum_numpy(x: Array) -> Array:
    return np.cumsum(x.astype(np.float64), axis=1).astype(np.float32)


def reverse_cumsum(x: Array) -> Array:
    return x.flip(1).cumsum(1).flip(1)


def reverse_cumsum_plain(x: Array) -> Array:
    out, total = torch.empty_like(x), torch.zeros(x.shape[0], dtype=torch.float32)
    for t in range(x.shape[1] - 1, -1, -1):
        total = total + x[:, t]
        out[:, t] = total
    return out


def reverse_cumsum_numpy(x: Array) -> Array:
    wide = x[:, ::-1].astype(np.float64)
    return np.cumsum(wide, axis=1)[:, ::-1].astype(np.float32)


def cummax(x: Array) -> Array:
    return x.cummax(1)[0]


def cummax_plain(x: Array) -> Array:
    out = x.clone()
    for t in range(1, x.shape[1]):
        out[:, t] = torch.maximum(out[:, t - 1], x[:, t])
    return out


def cummax_numpy(x: Array) -> Array:
    return np.maximum.accumulate(x, axis=1)


# -- contractions ----------------------------------------------------------------------------------


def matmul(a: Array, b: Array) -> Array:
    return torch.matmul(a, b)


def matmul_plain(a: Array, b: Array) -> Array:
    total = torch.zeros((a.shape[0], b.shape[1]), dtype=torch.float32)
    for k in range(0, a.shape[1], 32):
        total = total + a[:, k : k + 32] @ b[k : k + 32, :]
    return total


def matmul_numpy(a: Array, b: Array) -> Array:
    return np.matmul(a, b)


def matvec(a: Array, x: Array) -> Array:
    return torch.mv(a, x)


def matvec_plain(a: Array, x: Array) -> Array:
    return (a * x[None, :]).sum(1)


def matvec_numpy(a: Array, x: Array) -> Array:
    return np.dot(a, x)


def transpose(x: Array) -> Array:
    return x.T.contiguous()


def transpose_plain(x: Array) -> Array:
    return x.permute(1, 0).clone()


def transpose_numpy(x: Array) -> Array:
    return np.array(x.T)


def matmul_bias_gelu(x: Array, w: Array, bias: Array) -> Array:
    return F.gelu(x @ w + bias)


def matmul_bias_gelu_plain(x: Array, w: Array, bias: Array) -> Array:
    a = torch.matmul(x, w) + bias[None, :]
    return 0.5 * a * (1 + torch.erf(a * 0.7071067811865476))


def matmul_bias_gelu_numpy(x: Array, w: Array, bias: Array) -> Array:
    erf = np.vectorize(math.erf, otypes=[np.float64])
    a = np.matmul(x.astype(np.float64), w) + bias
    return (0.5 * a * (1 + erf(a * 0.7071067811865476))).astype(np.float32)


def conv1d(
    x: Array, w: Array, bias: Array, stride: int = 1, pad: int = 0, dilation: int = 1
) -> Array:
    return F.conv1d(x, w, bias, stride, pad, dilation)


def conv1d_plain(
    x: Array, w: Array, bias: Array, stride: int = 1, pad: int = 0, dilation: int = 1
) -> Array:
    x = F.pad(x, (pad, pad))
    count = (x.shape[2] - dilation * (w.shape[2] - 1) - 1) // stride + 1
    y = bias[None, :, None].expand(x.shape[0], -1, count).clone()
    for r in range(w.shape[2]):
        at = r * dilation
        y += torch.einsum("ncp,kc->nkp", x[:, :, at:][:, :, ::stride][:, :, :count], w[:, :, r])
    return y


def conv1d_numpy(
    x: Array, w: Array, bias: Array, stride: int = 1, pad: int = 0, dilation: int = 1
) -> Array:
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad, pad)))
    count = (x.shape[2] - dilation * (w.shape[2] - 1) - 1) // stride + 1
    at = np.arange(count)[:, None] * stride + np.arange(w.shape[2])[None, :] * dilation
    y = np.einsum("ncpr,kcr->nkp", x[:, :, at], w) + bias[None, :, None]
    return y.astype(np.float32)


def max_pool1d(x: Array, R: int, stride: int = 2, pad: int = 0) -> Array:
    return F.max_pool1d(x, R, stride, pad)


def max_pool1d_plain(x: Array, R: int, stride: int = 2, pad: int = 0) -> Array:
    x = F.pad(x, (pad, pad), value=float("-inf"))
    count = (x.shape[2] - R) // stride + 1
    y = x[:, :, ::stride][:, :, :count].clone()
    for r in range(1, R):
        y = torch.maximum(y, x[:, :, r:][:, :, ::stride][:, :, :count])
    return y


def max_pool1d_numpy(x: Array, R: int, stride: int = 2, pad: int = 0) -> Array:
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad)), constant_values=-np.inf)
    count = (x.shape[2] - R) // stride + 1
    at = np.arange(count)[:, None] * stride + np.arange(R)[None, :]
    return np.max(x[:, :, at], axis=3)


# -- losses ----------------------------------------------------------------------------------------


def mse(x: Array, target: Array) -> Array:
    return F.mse_loss(x, target)


def mse_plain(x: Array, target: Array) -> Array:
    d = x - target
    return (d * d).mean()


def mse_numpy(x: Array, target: Array) -> Array:
    return np.mean((x - target) ** 2)


def huber(x: Array, target: Array, delta: float = 1.0) -> Array:
    return F.huber_loss(x, target, delta=delta)


def huber_plain(x: Array, target: Array, delta: float = 1.0) -> Array:
    d = torch.abs(x - target)
    return torch.where(d <= delta, 0.5 * d * d, delta * (d - 0.5 * delta)).mean()


def huber_numpy(x: Array, target: Array, delta: float = 1.0) -> Array:
    d = np.abs(x.astype(np.float64) - target)
    return np.float32(np.mean(np.where(d <= delta, 0.5 * d * d, delta * (d - 0.5 * delta))))


def bce_with_logits(x: Array, target: Array) -> Array:
    return F.binary_cross_entropy_with_logits(x, target)


def bce_with_logits_plain(x: Array, target: Array) -> Array:
    return (torch.relu(x) - x * target + torch.log1p(torch.exp(-torch.abs(x)))).mean()


def bce_with_logits_numpy(x: Array, target: Array) -> Array:
    return np.mean(np.maximum(x, 0) - x * target + np.log1p(np.exp(-np.abs(x))))


def _twin(spec: str, **sizes: int) -> Twin:
    return Twin(spec, sizes)


TWINS = (
    _twin("nn/softmax", B=32, N=128),
    _twin("nn/log_softmax", B=32, N=128),
    _twin("nn/layernorm", B=32, N=128),
    _twin("nn/rmsnorm", B=32, N=128),
    _twin("nn/l2norm", B=32, N=128),
    _twin("nn/groupnorm", N=4, C=16, S=32, G=4),
    _twin("nn/batchnorm_inference", N=4, C=16, S=32),
    _twin("nn/gelu", N=4096),
    _twin("nn/silu", N=4096),
    _twin("nn/hardswish", N=4096),
    _twin("nn/leaky_relu", N=4096),
    _twin("nn/prelu", B=4, C=16, S=32),
    _twin("nn/embedding", V=128, D=64, N=256),
    _twin("nn/matmul_bias_gelu", M=32, N=64, K=128),
    _twin("reduce/row_sum", B=32, N=128),
    _twin("reduce/column_sum", M=128, N=32),
    _twin("reduce/row_mean", B=32, N=128),
    _twin("reduce/row_max", B=32, N=128),
    _twin("reduce/logsumexp", B=32, N=128),
    _twin("reduce/variance", B=32, N=128),
    _twin("reduce/argmax", B=32, N=128),
    _twin("reduce/argmin", B=32, N=128),
    _twin("reduce/column_max", M=128, N=32),
    _twin("reduce/histogram", N=4096, K=64),
    _twin("reduce/cumsum", B=32, N=128),
    _twin("scan/reverse_cumsum", B=32, N=128),
    _twin("scan/cummax", B=32, N=128),
    _twin("linalg/matmul", M=32, N=64, K=128),
    _twin("linalg/matvec", M=32, K=128),
    _twin("linalg/transpose", M=32, N=64),
    _twin("loss/cross_entropy", B=32, V=128),
    _twin("loss/mse", N=4096),
    _twin("loss/huber", N=4096),
    _twin("loss/bce_with_logits", N=4096),
    _twin("conv/conv1d", N=4, C=8, L=64, K=16, R=3),
    _twin("pool/max_pool1d", N=4, C=8, L=64, R=2),
    _twin("quant/quantize_rows", B=32, N=128),
)
