import triton
import triton.language as tl


@triton.jit
def argmax_kernel(x, out, N, sx, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    best = -float("inf")
    where = 0
    for off in range(0, N, BLOCK):
        c = off + tl.arange(0, BLOCK)
        v = tl.load(x + row * sx + c, mask=c < N, other=-float("inf")).to(tl.float32)
        m, j = tl.max(v, axis=0, return_indices=True)
        where = tl.where(m > best, off + j, where)
        best = tl.maximum(best, m)
    tl.store(out + row, where.to(tl.int64))
