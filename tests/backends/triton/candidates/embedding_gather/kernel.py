import triton
import triton.language as tl


@triton.jit
def embedding(table, ids, y, D, N, st, sy, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    cols = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    idx = tl.load(ids + rows, mask=rows < N, other=0)
    mask = (rows[:, None] < N) & (cols[None, :] < D)
    v = tl.load(table + idx[:, None] * st + cols[None, :], mask=mask, other=0.0)
    tl.store(y + rows[:, None] * sy + cols[None, :], v, mask=mask)
