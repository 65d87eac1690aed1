import triton
import triton.language as tl


@triton.jit
def row_sum(x_ptr, y_ptr, B, N, stride, BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr):
    rows = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    rows = rows.to(tl.int64)
    acc = tl.zeros([BLOCK_B, BLOCK_N], dtype=tl.float32)
    cols = tl.arange(0, BLOCK_N)
    ptrs = x_ptr + rows[:, None] * stride + cols[None, :]
    for n in range(0, N, BLOCK_N):
        mask = (rows[:, None] < B) & (cols[None, :] + n < N)
        acc += tl.load(ptrs, mask=mask, other=0.0)
        ptrs += BLOCK_N
    tl.store(y_ptr + rows, tl.sum(acc, axis=1), mask=rows < B)
