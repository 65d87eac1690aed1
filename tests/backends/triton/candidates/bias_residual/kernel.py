import triton
import triton.language as tl


@triton.jit
def bias_residual(x, bias, residual, y, rows, cols, stride, BLOCK: tl.constexpr):
    pid = tl.program_id(0)
    row = pid // tl.cdiv(cols, BLOCK)
    if row >= rows:
        return
    col = (pid % tl.cdiv(cols, BLOCK)) * BLOCK + tl.arange(0, BLOCK)
    mask = col < cols
    at = row * stride + col
    out = (
        tl.load(x + at, mask=mask)
        + tl.load(bias + col, mask=mask)
        + tl.load(residual + at, mask=mask)
    )
    tl.store(y + at, out, mask=mask)
