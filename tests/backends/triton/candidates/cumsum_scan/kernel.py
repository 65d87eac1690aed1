import triton
import triton.language as tl


@triton.jit
def cumsum_rows(x, y, N, sx, sy, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    offs = tl.arange(0, BLOCK)
    mask = offs < N
    v = tl.load(x + row * sx + offs, mask=mask, other=0.0)
    tl.store(y + row * sy + offs, tl.cumsum(v, axis=0), mask=mask)
