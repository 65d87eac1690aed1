import triton
import triton.language as tl


@triton.jit
def softmax_rows(x, y, N, x_row, y_row, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, BLOCK)
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, N, BLOCK):
        live = start + lanes < N
        value = tl.load(x + row * x_row + start + lanes, mask=live, other=float("-inf"))
        higher = tl.maximum(best, value)
        anchor = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(best - anchor) + tl.exp(value - anchor)
        best = higher
    row_best = tl.max(best, 0)
    row_total = tl.sum(total * tl.exp(best - row_best), 0)
    for start in range(0, N, BLOCK):
        live = start + lanes < N
        value = tl.load(x + row * x_row + start + lanes, mask=live, other=float("-inf"))
        tl.store(y + row * y_row + start + lanes, tl.exp(value - row_best) / row_total, mask=live)
