import triton
import triton.language as tl


@triton.jit
def bmm(
    x,
    y,
    z,
    M,
    N,
    K,
    xb,
    xm,
    xk,
    yb,
    yk,
    yn,
    zb,
    zm,
    zn,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    batch = tl.program_id(1).to(tl.int64)
    pid = tl.program_id(0).to(tl.int64)
    tiles_n = (N + BN - 1) // BN
    rm = (pid // tiles_n) * BM + tl.arange(0, BM)
    rn = (pid % tiles_n) * BN + tl.arange(0, BN)
    rk = tl.arange(0, BK)
    xp = x + batch * xb + rm[:, None] * xm + rk[None, :] * xk
    yp = y + batch * yb + rk[:, None] * yk + rn[None, :] * yn
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for k in range(0, K, BK):
        a = tl.load(xp, mask=(rm[:, None] < M) & (rk[None, :] + k < K), other=0.0)
        b = tl.load(yp, mask=(rk[:, None] + k < K) & (rn[None, :] < N), other=0.0)
        acc = tl.dot(a, b, acc, input_precision="ieee")
        xp += BK * xk
        yp += BK * yk
    tl.store(
        z + batch * zb + rm[:, None] * zm + rn[None, :] * zn,
        acc,
        mask=(rm[:, None] < M) & (rn[None, :] < N),
    )
