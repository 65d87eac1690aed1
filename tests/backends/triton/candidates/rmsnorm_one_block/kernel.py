import triton
import triton.language as tl


@triton.jit
def rms_norm(X, W, Y, N, x_row, y_row, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    mask = cols < N
    x = tl.load(X + row * x_row + cols, mask=mask, other=0.0).to(tl.float32)
    w = tl.load(W + cols, mask=mask)
    mean_square = tl.sum(x * x, axis=0) / N
    rstd = tl.math.rsqrt(mean_square + eps)
    tl.store(Y + row * y_row + cols, x * rstd * w, mask=mask)
