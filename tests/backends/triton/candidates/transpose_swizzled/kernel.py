import triton
import triton.language as tl


@triton.jit
def tr(x, y, M, N, sx, sy, BM: tl.constexpr, BN: tl.constexpr, GROUP: tl.constexpr):
    pid = tl.program_id(0)
    nm = tl.cdiv(M, BM)
    nn = tl.cdiv(N, BN)
    pm, pn = tl.swizzle2d(pid // nn, pid % nn, nm, nn, GROUP)
    i = (pm * BM + tl.arange(0, BM)).to(tl.int64)
    j = (pn * BN + tl.arange(0, BN)).to(tl.int64)
    inside = (i < M)[:, None] & (j < N)[None, :]
    v = tl.load(x + i[:, None] * sx + j[None, :], mask=inside, other=0)
    tl.store(y + j[None, :] * sy + i[:, None], v, mask=inside)
