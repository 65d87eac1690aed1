import triton
import triton.language as tl


@triton.jit
def rs(x, y, N, sx, BLOCK: tl.constexpr):
    r = tl.program_id(0).to(tl.int64)
    p = x + r * sx + tl.arange(0, BLOCK)
    left = N
    total = 0.0
    while left > 0:
        v = tl.load(p, mask=tl.arange(0, BLOCK) < left, other=0.0)
        total += tl.sum(v, 0)
        p += BLOCK
        left -= BLOCK
    tl.store(y + r, total)
