import triton
import triton.language as tl


@triton.jit
def clear(y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.zeros([BLOCK], tl.float32), mask=i < n)


@triton.jit
def add_parts(x, y, n, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    part = tl.load(x + row * stride + cols, mask=cols < n, other=0.0)
    tl.atomic_add(y + row, tl.sum(part, axis=0))
