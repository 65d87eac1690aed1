import triton
import triton.language as tl


@triton.jit
def stage1(x_ptr, part_ptr, N, stride, BLOCK: tl.constexpr, SPLIT: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    s = tl.program_id(1)
    chunk = tl.cdiv(N, SPLIT)
    lo = s * chunk
    hi = tl.minimum(lo + chunk, N)
    acc = tl.zeros([BLOCK], tl.float32)
    for c in range(lo, hi, BLOCK):
        cols = c + tl.arange(0, BLOCK)
        acc += tl.load(x_ptr + row * stride + cols, mask=cols < hi, other=0.0)
    tl.store(part_ptr + row * SPLIT + s, tl.sum(acc))


@triton.jit
def stage2(part_ptr, y_ptr, B, ROWS: tl.constexpr, SPLIT: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    s = tl.arange(0, SPLIT)
    p = tl.load(part_ptr + rows[:, None] * SPLIT + s[None, :], mask=(rows < B)[:, None], other=0.0)
    tl.store(y_ptr + rows, tl.sum(p, axis=1), mask=rows < B)
