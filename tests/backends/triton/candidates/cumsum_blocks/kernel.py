import triton
import triton.language as tl


@triton.jit
def cumsum_loop(x, y, N, sx, sy, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    x += row * sx
    y += row * sy
    carry = 0.0
    for start in range(0, N, BLOCK):
        offs = start + tl.arange(0, BLOCK)
        mask = offs < N
        v = tl.load(x + offs, mask=mask, other=0.0)
        out = tl.cumsum(v, axis=0) + carry
        tl.store(y + offs, out, mask=mask)
        carry += tl.sum(v, axis=0)
