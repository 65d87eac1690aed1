import triton
import triton.language as tl


@triton.jit
def cross_entropy(x, target, loss, V, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    x += row * stride
    y = tl.load(target + row)
    m = float("-inf")
    d = 0.0
    x_y = tl.load(x + y).to(tl.float32)
    for i in range(0, V, BLOCK):
        offs = i + tl.arange(0, BLOCK)
        block = tl.load(x + offs, mask=offs < V, other=float("-inf")).to(tl.float32)
        block_max = tl.max(block)
        m_new = tl.maximum(m, block_max)
        d = d * tl.exp(m - m_new) + tl.sum(tl.exp(block - m_new))
        m = m_new
    tl.store(loss + row, tl.log(d) + (m - x_y))
