import triton
import triton.language as tl


@triton.jit
def gelu(v):
    return 0.5 * v * (1.0 + tl.math.erf(v * 0.7071067811865476))


@triton.jit
def linear_act(
    x_ptr,
    w_ptr,
    bias_ptr,
    y_ptr,
    M,
    N,
    K,
    sxm,
    swk,
    sym,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    pid_n = tl.program_id(0)
    pid_m = tl.program_id(1)
    rm = pid_m * BM + tl.arange(0, BM)
    rn = pid_n * BN + tl.arange(0, BN)
    rk = tl.arange(0, BK)
    rn = tl.max_contiguous(tl.multiple_of(rn, BN), BN)
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    x_ptrs = x_ptr + rm[:, None] * sxm + rk[None, :]
    w_ptrs = w_ptr + rk[:, None] * swk + rn[None, :]
    for k in range(K, 0, -BK):
        xk = tl.load(x_ptrs, mask=(rm[:, None] < M) & (rk[None, :] < k), other=0.0)
        wk = tl.load(w_ptrs, mask=(rk[:, None] < k) & (rn[None, :] < N), other=0.0)
        acc += tl.dot(xk, wk)
        x_ptrs += BK
        w_ptrs += BK * swk
    if HAS_BIAS:
        bias = tl.load(bias_ptr + rn, mask=rn < N, other=0.0).to(tl.float32)
        acc += bias[None, :]
    if ACTIVATION == "gelu":
        acc = gelu(acc)
    y_ptrs = y_ptr + rm[:, None] * sym + rn[None, :]
    tl.store(y_ptrs, acc.to(y_ptr.dtype.element_ty), mask=(rm[:, None] < M) & (rn[None, :] < N))
