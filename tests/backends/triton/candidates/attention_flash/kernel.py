import triton
import triton.language as tl


@triton.jit
def flash_fwd(
    Q,
    K,
    V,
    Out,
    scale,
    sqb,
    sqh,
    sqs,
    skb,
    skh,
    sks,
    svb,
    svh,
    svs,
    sob,
    soh,
    sos,
    H,
    S,
    D,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    start_m = tl.program_id(0)
    off_bh = tl.program_id(1)
    off_b = (off_bh // H).to(tl.int64)
    off_h = (off_bh % H).to(tl.int64)
    offs_m = start_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    q_ptrs = Q + off_b * sqb + off_h * sqh + offs_m[:, None] * sqs + offs_d[None, :]
    k_ptrs = K + off_b * skb + off_h * skh + offs_n[None, :] * sks + offs_d[:, None]
    v_ptrs = V + off_b * svb + off_h * svh + offs_n[:, None] * svs + offs_d[None, :]
    m_i = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    l_i = tl.zeros([BLOCK_M], dtype=tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    q = tl.load(q_ptrs, mask=(offs_m[:, None] < S) & (offs_d[None, :] < D), other=0.0)
    hi = tl.minimum((start_m + 1) * BLOCK_M, S)
    for start_n in range(0, hi, BLOCK_N):
        cols = start_n + offs_n
        k = tl.load(
            k_ptrs + start_n * sks, mask=(cols[None, :] < S) & (offs_d[:, None] < D), other=0.0
        )
        qk = tl.dot(q, k, input_precision="ieee") * scale
        qk = tl.where((offs_m[:, None] >= cols[None, :]) & (cols[None, :] < S), qk, float("-inf"))
        m_ij = tl.maximum(m_i, tl.max(qk, 1))
        p = tl.exp(qk - m_ij[:, None])
        alpha = tl.exp(m_i - m_ij)
        l_i = l_i * alpha + tl.sum(p, 1)
        acc = acc * alpha[:, None]
        v = tl.load(
            v_ptrs + start_n * svs, mask=(cols[:, None] < S) & (offs_d[None, :] < D), other=0.0
        )
        acc = tl.dot(p.to(v.dtype), v, acc, input_precision="ieee")
        m_i = m_ij
    acc = acc / l_i[:, None]
    o_ptrs = Out + off_b * sob + off_h * soh + offs_m[:, None] * sos + offs_d[None, :]
    tl.store(
        o_ptrs, acc.to(Out.dtype.element_ty), mask=(offs_m[:, None] < S) & (offs_d[None, :] < D)
    )
