"""What losses and pooling mean in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from support.torch_cases import row  # type: ignore[import-not-found]

F = torch.nn.functional
PAIRS = ("301 301", "1 1", "64 64")
QUARTER, TINY, TENTH = (float(np.float32(x)) for x in (0.25, 1e-6, 0.1))


def probabilities(rng: torch.Generator) -> list[Any]:
    """Log-probabilities and probabilities, some of them zero."""
    x, y = (torch.randn(5, 9, dtype=torch.float64, generator=rng) for _ in range(2))
    p = y.relu() / y.relu().sum(1, keepdim=True)
    return [x.log_softmax(1), p]


def signs(rng: torch.Generator) -> list[Any]:
    x = torch.randn(40, dtype=torch.float64, generator=rng)
    return [x, torch.randn(40, dtype=torch.float64, generator=rng).sign()]


def certain(rng: torch.Generator) -> list[Any]:
    """Probabilities with zeros and ones among them."""
    p = torch.rand(40, dtype=torch.float64, generator=rng)
    p[:3], p[3:6] = 0, 1
    return [p, torch.rand(40, dtype=torch.float64, generator=rng).round()]


def hinge(x: Any, sign: Any) -> Any:
    return (1 - sign * x).clamp_min(0).mean()


def cosine(x: Any, y: Any, like: Any) -> Any:
    return F.cosine_embedding_loss(x, y, 2.0 * like - 1, reduction="none")


def focal(x: Any, yes: Any) -> Any:
    t = yes.double()
    ce = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    p = torch.where(yes, x.sigmoid(), 1 - x.sigmoid())
    return torch.where(yes, QUARTER, 1 - QUARTER) * (1 - p) ** 2 * ce


def each(function: Any, **given: Any) -> Any:
    """A loss of PyTorch without its mean."""
    return lambda *tensors: function(*tensors, reduction="none", **given)


def pooled(function: Any) -> Any:
    """A pooling of PyTorch that takes our names."""

    def call(x: Any, R: int, S: int = 0, stride: int = 2, pad: int = 0, dilation: int = 1) -> Any:
        more = {"dilation": dilation} if dilation > 1 else {}
        return function(x, (R, S) if S else R, stride, pad, **more)

    return call


CASES = [
    row("loss/mse", F.mse_loss, *PAIRS),
    row("loss/mae", F.l1_loss, *PAIRS),
    row("loss/huber", F.huber_loss, *PAIRS),
    row("loss/huber", F.huber_loss, "33 33", delta=0.5),
    row("loss/smooth_l1", F.smooth_l1_loss, *PAIRS),
    row("loss/smooth_l1", F.smooth_l1_loss, "33 33", beta=0.5),
    row("loss/kl_div", lambda q, p: F.kl_div(q, p, reduction="none").sum(1), "5x9 5x9+", "1x1 1x1+",
        probabilities),
    row("loss/hinge", hinge, signs),
    row("loss/cosine_embedding", cosine, "5x9 5x9 5?", "1x1 1x1 1?"),
    row("loss/triplet_margin", each(F.triplet_margin_loss, eps=TINY), "5x9 5x9 5x9", "1x1 1x1 1x1"),
    row("loss/nll", F.nll_loss, "9x5 9<5 5+", "1x1 1<1 1+"),
    row("loss/cross_entropy", each(F.cross_entropy), "9x41 9<41", "1x1 1<1"),
    row("fused/linear_cross_entropy", lambda x, w, t: F.cross_entropy(x @ w.T, t, reduction="none"),
        "9x5 41x5 9<41", "1x1 1x1 1<1"),
    row("loss/label_smoothing", each(F.cross_entropy, label_smoothing=TENTH), "9x41 9<41",
        "1x1 1<1"),
    row("loss/bce", F.binary_cross_entropy, "33+ 33+", "1+ 1+", certain),
    row("loss/bce_with_logits", F.binary_cross_entropy_with_logits, "33 33+", "1 1+"),
    row("loss/focal", focal, "33 33?", "1 1?"),
    row("pool/max_pool1d", pooled(F.max_pool1d), "2x3x11", "1x1x3", R=3),
    row("pool/max_pool1d", pooled(F.max_pool1d), "2x3x11", R=4, stride=3, pad=2),
    row("pool/max_pool2d", pooled(F.max_pool2d), "2x3x11x9", "1x1x3x2", R=3, S=2),
    row("pool/max_pool2d", pooled(F.max_pool2d), "2x3x11x9", R=3, S=2, stride=1, pad=1, dilation=2),
    row("pool/max_pool3d", pooled(F.max_pool3d), "2x3x5x6x7", "1x1x3x3x3", R=3, stride=1, pad=1),
    row("pool/avg_pool1d", pooled(F.avg_pool1d), "2x3x11", "1x1x3", R=3),
    row("pool/avg_pool1d", pooled(F.avg_pool1d), "2x3x11", R=4, stride=3, pad=2),
    row("pool/avg_pool2d", pooled(F.avg_pool2d), "2x3x11x9", "1x1x3x2", R=3, S=2),
    row("pool/avg_pool2d", pooled(F.avg_pool2d), "2x3x11x9", R=3, S=2, stride=1, pad=1),
    row("pool/avg_pool3d", pooled(F.avg_pool3d), "2x3x5x6x7", "1x1x3x3x3", R=3, stride=1, pad=1),
    row("pool/adaptive_avg_pool2d", lambda x, P, Q: F.adaptive_avg_pool2d(x, (P, Q)), "2x3x11x9",
        "1x1x1x1", P=4, Q=5),
    row("pool/global_avg_pool", lambda x: x.mean((2, 3)), "2x3x11x9", "1x1x1x1"),
]  # fmt: skip
