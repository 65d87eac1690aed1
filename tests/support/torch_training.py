"""What quantised products, sampling, optimiser steps and recurrent cells mean in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from support.torch_cases import row  # type: ignore[import-not-found]

F = torch.nn.functional
STEPS = 7  # of which an optimiser's corrections are those


def f32(x: float) -> float:
    """A param as the f32 that it is."""
    return float(np.float32(x))


def below(rng: Any, limit: int, *shape: int) -> Any:
    """Integers from -limit."""
    return torch.randint(-limit, limit, shape, generator=rng)


def uniform(rng: Any, *shape: int) -> Any:
    return torch.rand(shape, dtype=torch.float64, generator=rng)


def normal(rng: Any, *shape: int) -> Any:
    return torch.randn(shape, dtype=torch.float64, generator=rng)


def w8a8(rng: Any) -> list[Any]:
    return [below(rng, 128, 7, 13), below(rng, 128, 13, 5), uniform(rng, 7) + 0.1,
            uniform(rng, 5) + 0.1]  # fmt: skip


def w8(rng: Any) -> list[Any]:
    return [normal(rng, 7, 13), below(rng, 128, 13, 5), uniform(rng, 5) + 0.1]


def fp8(rng: Any) -> list[Any]:
    """Eighths are exact in every fp8 type."""
    a, b = below(rng, 8, 7, 13) / 8, below(rng, 8, 13, 5) / 8
    return [a.double(), b.double(), torch.tensor(0.5).double(), torch.tensor(2.0).double()]


def quantized(x: Any) -> Any:
    scale = x.abs().amax(1) / 127
    return (x / scale[:, None]).round().long(), scale


def groups(rng: Any) -> list[Any]:
    return [below(rng, 128, 3, 12), uniform(rng, 3, 3) + 0.1, below(rng, 128, 3, 3)]


def dequantized(q: Any, scale: Any, zero: Any, Group: int) -> Any:
    return scale.repeat_interleave(Group, 1) * (q - zero.repeat_interleave(Group, 1))


def gumbel(x: Any, u: Any) -> Any:
    return (x - (-u.log()).log()).argmax(1)


def shares(rng: Any) -> list[Any]:
    return [normal(rng, 9, 5).softmax(1), uniform(rng, 9)]


def inverse(p: Any, u: Any) -> Any:
    return torch.searchsorted(p.cumsum(1), u[:, None], right=True)[:, 0].clamp_max(p.shape[1] - 1)


def top_p(x: Any, u: Any, p: float = 0.9) -> Any:
    q, at = x.softmax(1).sort(1, descending=True)
    q = torch.where(q.cumsum(1) - q < f32(p), q, 0)
    place = torch.searchsorted(q.cumsum(1), (u * q.sum(1))[:, None], right=True)
    return at.gather(1, place.clamp_max((q > 0).sum(1, keepdim=True) - 1))[:, 0]


def penalised(x: Any, history: Any) -> Any:
    seen = x.gather(1, history)
    factor = f32(1.2)
    return x.scatter(1, history, torch.where(seen > 0, seen / factor, seen * factor))


def momentum(w: Any, m: Any, g: Any, rate: float, momentum: float, decay: float) -> Any:
    w = torch.nn.Parameter(w.clone())
    w.grad = g
    optimiser = torch.optim.SGD([w], f32(rate), f32(momentum), weight_decay=f32(decay))
    optimiser.state[w]["momentum_buffer"] = m.clone()
    optimiser.step()
    return w.detach(), optimiser.state[w]["momentum_buffer"]


def adaptive(kind: Any) -> Any:
    """A step of one of PyTorch's optimisers, its seventh."""

    def step(w: Any, m: Any, v: Any, g: Any, **given: float) -> Any:
        w = torch.nn.Parameter(w.clone())
        w.grad = g
        betas = f32(0.9), f32(0.999)
        decay = {"weight_decay": f32(0.01)} if kind is torch.optim.AdamW else {}
        optimiser = kind([w], f32(1e-3), betas, f32(1e-8), **decay)
        optimiser.state[w] |= {"step": torch.tensor(float(STEPS - 1)), "exp_avg": m.clone(),
                               "exp_avg_sq": v.clone()}  # fmt: skip
        optimiser.step()
        return w.detach(), optimiser.state[w]["exp_avg"], optimiser.state[w]["exp_avg_sq"]

    return step


CORRECTIONS = {
    "correction1": 1 - f32(0.9) ** STEPS,
    "correction2": 1 - f32(0.999) ** STEPS,
}


def lion(w: Any, m: Any, g: Any) -> Any:
    rate, b1, b2 = f32(1e-4), f32(0.9), f32(0.99)
    return w - rate * (b1 * m + (1 - b1) * g).sign(), b2 * m + (1 - b2) * g


def rmsprop(w: Any, v: Any, g: Any) -> Any:
    w = torch.nn.Parameter(w.clone())
    w.grad = g
    optimiser = torch.optim.RMSprop([w], f32(0.01), f32(0.99), f32(1e-8))
    optimiser.state[w] |= {"step": torch.tensor(1.0), "square_avg": v.clone()}
    optimiser.step()
    return w.detach(), optimiser.state[w]["square_avg"]


def rnn(x: Any, wi: Any, wh: Any, bias: Any, h0: Any) -> Any:
    weights = [wi, wh, bias, torch.zeros_like(bias)]
    return torch.rnn_tanh(x, h0[None], weights, True, 1, 0.0, False, False, True)[0]


def lstm_cell(x: Any, h: Any, c: Any, wi: Any, wh: Any, bias: Any) -> Any:
    return torch.lstm_cell(x, (h, c), wi, wh, bias, torch.zeros_like(bias))


def lstm(x: Any, wi: Any, wh: Any, bias: Any, h: Any, c: Any) -> Any:
    hs, cs = [], []
    for t in range(x.shape[1]):
        h, c = lstm_cell(x[:, t], h, c, wi, wh, bias)
        hs.append(h)
        cs.append(c)
    return torch.stack(hs, 1), torch.stack(cs, 1)


def gru_cell(x: Any, h: Any, wi: Any, wh: Any, bi: Any, bh: Any) -> Any:
    return torch.gru_cell(x, h, wi.flatten(0, 1), wh.flatten(0, 1), bi.flatten(), bh.flatten())


def mamba(rng: Any) -> list[Any]:
    return [normal(rng, 2, 7, 3), uniform(rng, 2, 7, 3), -uniform(rng, 3, 4), normal(rng, 2, 7, 4),
            normal(rng, 2, 7, 4), normal(rng, 3)]  # fmt: skip


def selective_scan(x: Any, delta: Any, a: Any, b: Any, c: Any, skip: Any) -> Any:
    h, out = torch.zeros(len(x), *a.shape, dtype=x.dtype), []
    for t in range(x.shape[1]):
        step = delta[:, t, :, None]
        h = (step * a).exp() * h + step * b[:, t, None] * x[:, t, :, None]
        out.append((h * c[:, t, None]).sum(-1) + skip * x[:, t])
    return torch.stack(out, 1)


def philox(seed: int, shape: tuple[int, ...]) -> Any:
    """Philox4x32-10 at every row-major index, as uniform numbers of 24 bits."""
    counts = np.arange(int(np.prod(shape)), dtype=np.uint64)
    low = np.uint64(0xFFFFFFFF)
    x = [counts & low, counts >> np.uint64(32), counts * 0, counts * 0]
    keys = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * x[0], np.uint64(0xCD9E8D57) * x[2]
        k = [np.uint64(key) for key in keys]
        x = [
            (b >> np.uint64(32)) ^ x[1] ^ k[0],
            b & low,
            (a >> np.uint64(32)) ^ x[3] ^ k[1],
            a & low,
        ]
        keys = [(keys[0] + 0x9E3779B9) & 0xFFFFFFFF, (keys[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return torch.tensor((x[0] >> np.uint64(8)).astype(np.float64) * 2.0**-24).reshape(shape)


def dropout(x: Any, p: float, seed: int) -> Any:
    return torch.where(philox(seed, x.shape) >= f32(p), x / (1 - f32(p)), 0)


def seeded(x: Any, seed: int) -> Any:
    return gumbel(x, philox(seed, x.shape).clamp(3e-8, 0.9999999))


CASES = [
    row("nn/dropout", dropout, "5x9", "1x1", p=0.25, seed=5),
    row("nn/dropout", dropout, "33x9", p=0.5, seed=2**40 + 7),
    row("sampling/sample_seeded", seeded, "33x9", "1x1", seed=11),
    row("quant/matmul_w8a8", lambda a, b, s, t: (a @ b) * s[:, None] * t, w8a8),
    row("quant/matmul_w8", lambda x, w, s: x @ (w * s), w8),
    row("quant/matmul_fp8", lambda a, b, s, t: s * t * (a @ b), fp8),
    row("quant/quantize_rows", quantized, "5x9", "1x1"),
    row("quant/dequantize", dequantized, groups, Group=4),
    row("sampling/topk", lambda x, K: tuple(x.topk(K)), "5x9", "1x4", K=4),
    row("sampling/topk", lambda x, K: tuple(x.topk(K)), "3x1", K=1),
    row("sampling/gumbel_max", gumbel, "5x9 5x9+", "1x1 1x1+"),
    row("sampling/inverse_cdf", inverse, shares, lambda rng: [torch.ones(1, 1), uniform(rng, 1)]),
    row("sampling/top_p", top_p, "9x7 9+", "1x1 1+"),
    row("sampling/top_p", top_p, "9x7 9+", p=0.5),
    row("sampling/repetition_penalty", penalised, "5x9 5x4<9", "1x1 1x1<1"),
    row("optim/sgd_momentum", momentum, "33 33 33", "1 1 1", rate=0.1, momentum=0.8, decay=0.01),
    row("optim/adam", adaptive(torch.optim.Adam), "33 33 33+ 33", "1 1 1+ 1", **CORRECTIONS),
    row("optim/adamw", adaptive(torch.optim.AdamW), "33 33 33+ 33", "1 1 1+ 1", **CORRECTIONS),
    row("optim/lion", lion, "33 33 33", "1 1 1"),
    row("optim/rmsprop", rmsprop, "33 33+ 33", "1 1+ 1"),
    row("recurrent/rnn", rnn, "2x5x3 4x3 4x4 4 2x4+", "1x1x1 1x1 1x1 1 1x1+"),
    row("recurrent/lstm_cell", lstm_cell, "2x3 2x4 2x4 16x3 16x4 16", "1x1 1x1 1x1 4x1 4x1 4"),
    row("recurrent/lstm", lstm, "2x5x3 16x3 16x4 16 2x4 2x4", "1x1x1 4x1 4x1 4 1x1 1x1"),
    row("recurrent/gru_cell", gru_cell, "2x3 2x4+ 3x4x3 3x4x4 3x4 3x4",
        "1x1 1x1+ 3x1x1 3x1x1 3x1 3x1"),
    row("recurrent/selective_scan", selective_scan, mamba),
]  # fmt: skip
