import triton
import triton.language as tl


@triton.jit
def product(a, b, c, M, N, K, sa0, sa1, sb0, sb1, sc0, sc1, BLOCK: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    cols = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros([BLOCK, BLOCK], tl.float32)
    for start in range(0, K, BLOCK):
        k = start + tl.arange(0, BLOCK)
        left = tl.load(a + rows[:, None] * sa0 + k[None, :] * sa1, mask=(rows < M)[:, None] & (k < K)[None, :], other=0.0)
        right = tl.load(b + k[:, None] * sb0 + cols[None, :] * sb1, mask=(k < K)[:, None] & (cols < N)[None, :], other=0.0)
        acc = tl.dot(left, right, acc, input_precision="tf32")
    tl.store(c + rows[:, None] * sc0 + cols[None, :] * sc1, acc, mask=(rows < M)[:, None] & (cols < N)[None, :])
