import triton
import triton.language as tl


@triton.jit
def ln_welford(x_ptr, g_ptr, b_ptr, y_ptr, mean_ptr, rstd_ptr, n, sx, sy, eps, BLOCK: tl.constexpr):
    pid = tl.program_id(axis=0).to(tl.int64)
    base = x_ptr + pid * sx
    lane = tl.arange(0, BLOCK)
    mean = 0.0
    m2 = 0.0
    count = 0.0
    for k in range(0, tl.cdiv(n, BLOCK)):
        idx = k * BLOCK + lane
        ok = idx < n
        v = tl.load(base + idx, mask=ok, other=0.0)
        here = tl.sum(ok.to(tl.float32), 0)
        local = tl.sum(v, 0) / here
        d = tl.where(ok, v - local, 0.0)
        local2 = tl.sum(d * d, 0)
        total = count + here
        delta = local - mean
        mean += delta * (here / total)
        m2 += local2 + delta * delta * (count * here / total)
        count = total
    inv = tl.rsqrt(m2 / n + eps)
    tl.store(mean_ptr + pid, mean)
    tl.store(rstd_ptr + pid, inv)
    for k in range(0, tl.cdiv(n, BLOCK)):
        idx = k * BLOCK + lane
        ok = idx < n
        v = tl.load(base + idx, mask=ok, other=0.0)
        g = tl.load(g_ptr + idx, mask=ok, other=1.0)
        b = tl.load(b_ptr + idx, mask=ok, other=0.0)
        tl.store(y_ptr + pid * sy + idx, (v - mean) * inv * g + b, mask=ok)
