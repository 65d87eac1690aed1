"""What attention, sparse products and mixtures of experts mean in PyTorch."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from support.torch_cases import row  # type: ignore[import-not-found]

F = torch.nn.functional


def normal(rng: Any, *shape: int) -> Any:
    return torch.randn(shape, dtype=torch.float64, generator=rng)


def below(rng: Any, limit: int, *shape: int) -> Any:
    return torch.randint(limit, shape, generator=rng)


def offsets(*lengths: int) -> Any:
    return torch.tensor([0, *np.cumsum(lengths)])


def scale(q: Any) -> float:
    """1 / sqrt(D) as the f32 that a param holds."""
    return float(np.float32(q.shape[-1] ** -0.5))


def attend(q: Any, k: Any, v: Any, bias: Any) -> Any:
    return ((q @ k.mT) * scale(q) + bias).softmax(-1) @ v


def attention(q: Any, k: Any, v: Any, causal: bool = True) -> Any:
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    n, m = q.shape[2], k.shape[2]
    see = torch.ones(n, m).tril(m - n).bool() if causal else torch.ones(n, m).bool()
    s = ((q @ k.mT) * scale(q)).masked_fill(~see, -torch.inf)
    return s.softmax(-1) @ v, s.logsumexp(-1)


def distance(n: int) -> Any:
    at = torch.arange(n)
    return at[:, None] - at


def alibi(q: Any, k: Any, v: Any, slope: Any) -> Any:
    d = distance(q.shape[2])
    return attend(q, k, v, torch.where(d < 0, -torch.inf, -slope[:, None, None] * d))


def window(q: Any, k: Any, v: Any, window: int) -> Any:
    d = distance(q.shape[2])
    return attend(q, k, v, torch.where((d < 0) | (d >= window), -torch.inf, 0.0))


def packed(*lengths: int) -> Any:
    def make(rng: Any) -> list[Any]:
        n, counts, ends = sum(lengths), torch.tensor(lengths), offsets(*lengths)
        first, last = (torch.repeat_interleave(e, counts) for e in (ends[:-1], ends[1:]))
        return [*(normal(rng, n, 2, 4) for _ in "qkv"), first, last]

    return make


def varlen(q: Any, k: Any, v: Any, first: Any, last: Any) -> Any:
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    at = torch.arange(len(first))
    see = (first[:, None] <= at) & (at < last[:, None])
    return attend(q, k, v, torch.where(see, 0.0, -torch.inf)).transpose(0, 1)


def blocks(rng: Any) -> list[Any]:
    listed = torch.tensor([0, 2, 1, 2, 0, 1])
    return [*(normal(rng, 2, 3, 4, 5) for _ in "qkv"), offsets(2, 1, 3), listed]


def block_sparse(q: Any, k: Any, v: Any, ptr: Any, block: Any) -> Any:
    _, rows, size, _ = q.shape
    see = torch.zeros(rows, rows, dtype=torch.bool)
    for r in range(rows):
        see[r, block[ptr[r] : ptr[r + 1]]] = True
    see = see.repeat_interleave(size, 0).repeat_interleave(size, 1)
    flat = attend(*(x.flatten(1, 2) for x in (q, k, v)), torch.where(see, 0.0, -torch.inf))
    return flat.reshape(q.shape)


def pages(rng: Any) -> list[Any]:
    return [normal(rng, 3, 4, 8), normal(rng, 7, 5, 2, 8), normal(rng, 7, 5, 2, 8),
            below(rng, 7, 3, 4), torch.tensor([1, 20, 7])]  # fmt: skip


def paged(q: Any, keys: Any, values: Any, table: Any, length: Any) -> Any:
    out = []
    for b in range(len(q)):
        k, v = (x[table[b]].flatten(0, 1)[: length[b]] for x in (keys, values))
        k, v = (x.transpose(0, 1).repeat_interleave(q.shape[1] // x.shape[1], 0) for x in (k, v))
        out.append(attend(q[b, :, None], k, v, 0.0)[:, 0])
    return torch.stack(out)


def rope(x: Any, c: Any, s: Any) -> Any:
    a, b = x.chunk(2, -1)
    return torch.cat([a * c - b * s, b * c + a * s], -1)


def linear_attention(q: Any, k: Any, v: Any) -> Any:
    return (q @ k.mT).tril() @ v


def csr(*rest: int) -> Any:
    def make(rng: Any) -> list[Any]:
        return [offsets(2, 0, 3, 1), below(rng, 5, 6), normal(rng, 6), normal(rng, 5, *rest)]

    return make


def sparse(ptr: Any, column: Any, value: Any, x: Any) -> Any:
    size = (len(ptr) - 1, len(x))
    rows = torch.repeat_interleave(torch.arange(size[0]), ptr.diff())
    dense = torch.zeros(size, dtype=x.dtype).index_put((rows, column), value, accumulate=True)
    return dense @ x


def bags(rng: Any) -> list[Any]:
    return [normal(rng, 11, 3), below(rng, 11, 7), normal(rng, 7), offsets(2, 0, 4, 1)]


def bag(table: Any, ids: Any, weight: Any, start: Any) -> Any:
    return F.embedding_bag(
        ids, table, start, mode="sum", per_sample_weights=weight, include_last_offset=True
    )


def segment_mean(x: Any, start: Any) -> Any:
    runs = [x[a:b] for a, b in pairwise(start)]
    return torch.stack([r.mean(0) if len(r) else torch.zeros(x.shape[1]) for r in runs])


def router(x: Any, K: int) -> Any:
    found = x.topk(K, -1)
    return found.indices, found.values.softmax(-1)


def grouped(x: Any, w: Any, start: Any) -> Any:
    return torch.cat([x[a:b] @ w[g] for g, (a, b) in enumerate(pairwise(start))])


CASES = [
    row("attention/attention", attention, "2x4x5x8 2x2x9x8 2x2x9x8", "1x1x1x1 1x1x1x1 1x1x1x1",
        "1x6x7x3 1x2x7x3 1x2x7x3"),
    row("attention/attention", attention, "2x4x5x8 2x2x9x8 2x2x9x8", causal=False),
    row("attention/alibi_attention", alibi, "2x3x9x8 2x3x9x8 2x3x9x8 3+",
        "1x1x1x1 1x1x1x1 1x1x1x1 1+"),
    row("attention/window_attention", window, "2x3x9x8 2x3x9x8 2x3x9x8",
        "1x1x1x1 1x1x1x1 1x1x1x1", window=3),
    row("attention/varlen_attention", varlen, packed(3, 1, 5), packed(1)),
    row("attention/block_sparse_attention", block_sparse, blocks),
    row("attention/paged_decode", paged, pages),
    row("attention/rope", rope, "2x3x5x8 5x4+ 5x4+", "1x1x1x2 1x1+ 1x1+"),
    row("attention/linear_attention", linear_attention, "2x7x3 2x7x3 2x7x5", "1x1x1 1x1x1 1x1x1"),
    row("sparse/spmv", sparse, csr()),
    row("sparse/spmm", sparse, csr(3), csr(1)),
    row("sparse/sddmm", lambda a, b, i, j: (a @ b.T)[i, j], "5x3 7x3 9<5 9<7", "1x1 1x1 1<1 1<1"),
    row("sparse/scatter_add", lambda t, i, r: t.index_add(0, i, r), "5x3 9<5 9x3", "1x1 1<1 1x1"),
    row("sparse/segment_mean", segment_mean,
        lambda rng: [normal(rng, 7, 3), offsets(2, 0, 4, 1)]),
    row("sparse/embedding_bag", bag, bags),
    row("moe/router", router, "5x9", "1x3", K=3),
    row("moe/router", router, "1x1", K=1),
    row("moe/expert_matmul", lambda x, w, e: torch.einsum("nd,ndf->nf", x, w[e]),
        "7x3 4x3x5 7<4", "1x1 1x1x1 1<1"),
    row("moe/grouped_matmul", grouped,
        lambda rng: [normal(rng, 7, 3), normal(rng, 4, 3, 5), offsets(2, 0, 4, 1)]),
    row("moe/combine", lambda y, p, s: (s[..., None] * y[p]).sum(1), "9x3 4x2<9 4x2",
        "1x1 1x1<1 1x1"),
]  # fmt: skip
