import triton
import triton.language as tl


@triton.jit
def soft(x, y, B, N, sx0, sx1, sy0, sy1, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, N, BLOCK):
        at = start + tl.arange(0, BLOCK)
        v = tl.load(x + row * sx0 + at * sx1, mask=at < N, other=-float("inf"))
        total += tl.exp(v)
    s = tl.sum(total, 0)
    for start in range(0, N, BLOCK):
        at = start + tl.arange(0, BLOCK)
        v = tl.load(x + row * sx0 + at * sx1, mask=at < N, other=0.0)
        tl.store(y + row * sy0 + at * sy1, tl.exp(v) / s, mask=at < N)
