import triton
import triton.language as tl


@triton.jit
def rope_kernel(x, c, s, y, S, D, xb, xs, xh, yb, ys, yh, cs, ss, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    b = token // S
    t = token % S
    d = tl.arange(0, BLOCK)
    m = d < D
    x0 = x + b * xb + t * xs + head * xh
    y0 = y + b * yb + t * ys + head * yh
    cos = tl.load(c + t * cs + d, mask=m, other=0.0)
    sin = tl.load(s + t * ss + d, mask=m, other=0.0)
    a1 = tl.load(x0 + d, mask=m, other=0.0).to(tl.float32)
    a2 = tl.load(x0 + D + d, mask=m, other=0.0).to(tl.float32)
    tl.store(y0 + d, a1 * cos - a2 * sin, mask=m)
    tl.store(y0 + D + d, a2 * cos + a1 * sin, mask=m)
