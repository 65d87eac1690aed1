import triton
import triton.language as tl


@triton.jit
def pick(x, y, B, N, sx0, sx1, sy0, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    best = tl.full([1], -float("inf"), tl.float32)
    where = tl.zeros([1], tl.int64)
    for start in range(0, N):
        v = tl.load(x + row * sx0 + start * sx1 + tl.arange(0, 1))
        where = tl.where(v >= best, start, where)
        best = tl.maximum(best, v)
    tl.store(y + row * sy0 + tl.arange(0, 1), where)
