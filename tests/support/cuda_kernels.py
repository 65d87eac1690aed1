"""CUDA kernels of the tests: specs, plans and texts, right ones and what mutants change in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

HEAD = 'opwright "0.1"\n\n'


@dataclass(frozen=True, slots=True)
class Case:
    """A spec and a candidate for it."""

    spec: str
    source: str
    launches: tuple[dict[str, Any], ...]
    facts: tuple[str, ...] = ()
    scratch: dict[str, Any] = field(default_factory=dict)

    @property
    def op(self) -> str:
        return self.spec.split("\nop ")[1].split(" @")[0]

    def plan(self) -> dict[str, Any]:
        return {
            "abi": 1, "op": f"{self.op}@1.0", "target": "sm_90", "backend": "cuda",
            "source": "kernel.cu", "facts": list(self.facts), "scratch": dict(self.scratch),
            "launches": [dict(x) for x in self.launches],
        }  # fmt: skip


def launch(kernel: str, grid: list[str], block: list[int], *args: str) -> dict[str, Any]:
    return {"kernel": kernel, "grid": grid, "block": block, "args": list(args)}


def dense(**shapes: str) -> tuple[str, ...]:
    """Facts of row-major tensors: x="M, N"."""
    out = []
    for name, shape in shapes.items():
        sizes = [s.strip() for s in shape.split(",")]
        for n in range(len(sizes)):
            rest = " * ".join(sizes[n + 1 :]) or "1"
            out.append(f"stride({name}, {n}) == {rest}")
    return tuple(out)


POINTWISE = """
op relu_bias @ 1.0 {
  dims  M, N
  input x: f32[M, N]
  input b: f32[N]
  output y: f32[M, N]
  def { y[i, j] = max(x[i, j] + b[j], 0.0) }
}
"""
ROWS = """
op row_softmax @ 1.0 {
  dims  B, N
  where N >= 1
  input x: f32[B, N]
  output y: f32[B, N]
  def {
    top[b] = max[j: N](x[b, j])
    total[b] = sum.f32[j: N](exp(x[b, j] - top[b]))
    y[b, j] = exp(x[b, j] - top[b]) / total[b]
  }
}
"""
ROW_SUM = """
op row_sum @ 1.0 {
  dims  B, N
  input x: f32[B, N]
  output y: f32[B]
  def { y[b] = sum.f32[j: N](x[b, j]) }
}
"""
TOTAL = """
op total @ 1.0 {
  dims  N
  input x: f32[N]
  output y: f32[1]
  def { y[k] = sum.f32[j: N](x[j]) }
}
"""
NORM = """
op norm @ 1.0 {
  dims  B, N
  where N >= 1
  input x: f32[B, N], g: f32[N], c: f32[N]
  output y: f32[B, N]
  def {
    mean[b] = sum.f32[j: N](x[b, j]) / N
    var[b] = sum.f32[j: N]((x[b, j] - mean[b]) * (x[b, j] - mean[b])) / N
    y[b, j] = (x[b, j] - mean[b]) * rsqrt(var[b] + 1e-5) * g[j] + c[j]
  }
}
"""
MATMUL = """
op mm @ 1.0 {
  dims  M, N, K
  input a: f32[M, K], b: f32[K, N]
  output c: f32[M, N]
  def { c[i, j] = sum.f32[p: K](a[i, p] * b[p, j]) }
}
"""
SMALL = ("M <= 1000000", "N <= 1000000", "K <= 1000000")

CASES: dict[str, Case] = {
    "guarded": Case(
        HEAD + POINTWISE,
        """
extern "C" __global__ void relu_bias(const float *__restrict__ x, const float *__restrict__ b,
                                     float *__restrict__ y, long long m, long long n) {
  const long long j = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  const long long i = (long long)blockIdx.y * blockDim.y + threadIdx.y;
  if (i >= m || j >= n) return;
  y[i * n + j] = fmaxf(x[i * n + j] + __ldg(b + j), 0.0f);
}
""",
        (launch("relu_bias", ["cdiv(N, 32)", "cdiv(M, 8)"], [32, 8], "x", "b", "y", "M", "N"),),
        (*dense(x="M, N", b="N", y="M, N"), "M <= 524280"),
    ),
    "grid_stride": Case(
        HEAD
        + """
op axpy @ 1.0 {
  dims  N
  input x: f32[N], z: f32[N]
  output y: f32[N]
  def { y[i] = 3.0 * x[i] + z[i] }
}
""",
        """
extern "C" __global__ __launch_bounds__(256) void axpy(const float *x, const float *z, float *y,
                                                       int n) {
  const int step = gridDim.x * blockDim.x;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
    y[i] = fmaf(3.0f, x[i], z[i]);
  }
}
""",
        (launch("axpy", ["min(cdiv(N, 256), 1024)"], [256], "x", "z", "y", "i32(N)"),),
        (*dense(x="N", z="N", y="N"), "N <= 2000000000"),
    ),
    "vector_copy": Case(
        HEAD
        + """
op half_of @ 1.0 {
  dims  N
  input x: f32[N]
  output y: f32[N]
  def { y[i] = 0.5 * x[i] }
}
""",
        """
extern "C" __global__ void half_of(const float *x, float *y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  int n4 = n / 4;
  if (i < n4) {
    float4 v = reinterpret_cast<const float4 *>(x)[i];
    v.x *= 0.5f; v.y *= 0.5f; v.z *= 0.5f; v.w *= 0.5f;
    reinterpret_cast<float4 *>(y)[i] = v;
  }
  int rest = n4 * 4 + i;
  if (i < 4 && rest < n) y[rest] = x[rest] * 0.5f;
}
""",
        (launch("half_of", ["cdiv(N, 1024) + 1"], [256], "x", "y", "i32(N)"),),
        (*dense(x="N", y="N"), "aligned(x, 16)", "aligned(y, 16)", "N <= 1000000000"),
    ),
    "warp_softmax": Case(
        HEAD + ROWS,
        """
#include <math.h>
__device__ __forceinline__ float warp_max(float v) {
  #pragma unroll
  for (int d = 16; d > 0; d >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffff, v, d));
  return v;
}
__device__ __forceinline__ float warp_sum(float v) {
  #pragma unroll
  for (int d = 16; d > 0; d >>= 1) v += __shfl_xor_sync(0xffffffff, v, d);
  return v;
}
extern "C" __global__ void __launch_bounds__(128) row_softmax(const float *x, float *y,
                                                             int rows, int n) {
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int row = blockIdx.x * 4 + warp;
  if (row >= rows) return;
  const float *in = x + (size_t)row * n;
  float *out = y + (size_t)row * n;
  float m = -INFINITY;
  for (int j = lane; j < n; j += 32) m = fmaxf(m, in[j]);
  m = warp_max(m);
  float s = 0.f;
  for (int j = lane; j < n; j += 32) s += __expf(in[j] - m);
  s = warp_sum(s);
  const float inv = 1.f / s;
  for (int j = lane; j < n; j += 32) out[j] = __expf(in[j] - m) * inv;
}
""",
        (launch("row_softmax", ["cdiv(B, 4)"], [128], "x", "y", "i32(B)", "i32(N)"),),
        (*dense(x="B, N", y="B, N"),),
    ),
    "block_softmax": Case(
        HEAD + ROWS,
        """
template <int THREADS, bool MAX>
__device__ float block_reduce(float v) {
  __shared__ float part[32];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  for (int o = 16; o > 0; o /= 2) {
    float u = __shfl_down_sync(0xffffffffu, v, o);
    v = MAX ? fmaxf(v, u) : v + u;
  }
  __syncthreads();
  if (lane == 0) part[warp] = v;
  __syncthreads();
  constexpr int WARPS = THREADS / 32;
  v = threadIdx.x < WARPS ? part[lane] : (MAX ? -INFINITY : 0.0f);
  if (warp == 0) {
    for (int o = 16; o > 0; o /= 2) {
      float u = __shfl_down_sync(0xffffffffu, v, o);
      v = MAX ? fmaxf(v, u) : v + u;
    }
    if (lane == 0) part[0] = v;
  }
  __syncthreads();
  return part[0];
}
extern "C" __global__ void row_softmax(const float *x, float *y, long long n, long long xs,
                                       long long ys) {
  const float *in = x + blockIdx.x * xs;
  float *out = y + blockIdx.x * ys;
  float m = -INFINITY;
  for (long long j = threadIdx.x; j < n; j += 256) m = fmaxf(m, in[j]);
  m = block_reduce<256, true>(m);
  float s = 0.0f;
  for (long long j = threadIdx.x; j < n; j += 256) s += expf(in[j] - m);
  s = block_reduce<256, false>(s);
  for (long long j = threadIdx.x; j < n; j += 256) out[j] = expf(in[j] - m) / s;
}
""",
        (launch("row_softmax", ["B"], [256], "x", "y", "N", "stride(x, 0)", "stride(y, 0)"),),
        ("stride(x, 1) == 1", "stride(y, 1) == 1"),
    ),
    "online_rows": Case(
        HEAD + ROWS,
        """
extern "C" __global__ void row_softmax(const float *x, float *y, int rows, int n) {
  const int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row < rows) {
    const float *p = x + (long long)row * n;
    float m = p[0], s = 1.0f;
    for (int j = 1; j < n; ++j) {
      const float v = p[j];
      if (v > m) { s = s * expf(m - v) + 1.0f; m = v; }
      else s += expf(v - m);
    }
    for (int j = 0; j < n; ++j) y[(long long)row * n + j] = expf(p[j] - m) / s;
  }
}
""",
        (launch("row_softmax", ["cdiv(B, 64)"], [64], "x", "y", "i32(B)", "i32(N)"),),
        (*dense(x="B, N", y="B, N"),),
    ),
    "tree_sum": Case(
        HEAD + ROW_SUM,
        """
#define BLOCK 128
extern "C" __global__ void row_sum(const float *x, float *y, int n) {
  __shared__ float s[BLOCK];
  const float *row = x + (long long)blockIdx.x * n;
  float acc = 0.0f;
  int j = threadIdx.x;
  while (j < n) {
    acc += row[j];
    j += BLOCK;
  }
  s[threadIdx.x] = acc;
  __syncthreads();
  for (unsigned int o = BLOCK / 2; o > 0; o >>= 1) {
    if (threadIdx.x < o) s[threadIdx.x] += s[threadIdx.x + o];
    __syncthreads();
  }
  if (threadIdx.x == 0) y[blockIdx.x] = s[0];
}
""",
        (launch("row_sum", ["B"], [128], "x", "y", "i32(N)"),),
        (*dense(x="B, N", y="B"),),
    ),
    "two_launches": Case(
        HEAD + TOTAL,
        """
__device__ float block_sum(float v) {
  __shared__ float s[8];
  for (int d = 16; d > 0; d >>= 1) v += __shfl_down_sync(~0u, v, d);
  if (threadIdx.x % 32 == 0) s[threadIdx.x / 32] = v;
  __syncthreads();
  float t = 0.0f;
  if (threadIdx.x == 0)
    for (int k = 0; k < 8; ++k) t += s[k];
  return t;
}
extern "C" __global__ void partial(const float *x, float *part, long long n) {
  const long long i = blockIdx.x * 256LL + threadIdx.x;
  const float v = block_sum(i < n ? x[i] : 0.0f);
  if (threadIdx.x == 0) part[blockIdx.x] = v;
}
extern "C" __global__ void last(const float *part, float *y, long long blocks) {
  float v = 0.0f;
  for (long long i = threadIdx.x; i < blocks; i += 256) v += part[i];
  v = block_sum(v);
  if (threadIdx.x == 0) *y = v;
}
""",
        (
            launch("partial", ["cdiv(N, 256)"], [256], "x", "part", "N"),
            launch("last", ["1"], [256], "part", "y", "cdiv(N, 256)"),
        ),
        (*dense(x="N"),),
        {"part": {"dtype": "f32", "shape": ["cdiv(N, 256)"], "scope": "plan"}},
    ),
    "atomic_total": Case(
        HEAD + TOTAL,
        """
extern "C" __global__ void clear(float *y) { if (threadIdx.x == 0) y[0] = 0.0f; }
extern "C" __global__ void total(const float *x, float *y, int n) {
  __shared__ float sum;
  if (threadIdx.x == 0) sum = 0.0f;
  __syncthreads();
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) atomicAdd(&sum, x[i]);
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(y, sum);
}
""",
        (
            launch("clear", ["1"], [32], "y"),
            launch("total", ["cdiv(N, 512)"], [512], "x", "y", "i32(N)"),
        ),
        (*dense(x="N"),),
    ),
    "block_norm": Case(
        HEAD + NORM,
        """
extern "C" __global__ void norm_rows(const float *x, const float *g, const float *c, float *y,
                                     int n) {
  __shared__ float red[4];
  __shared__ float mu, rs;
  const int t = threadIdx.x, lane = t & 31, warp = t >> 5;
  const float *row = x + (long long)blockIdx.x * n;
  float s = 0.0f;
  for (int j = t; j < n; j += blockDim.x) s += row[j];
  for (int o = 16; o; o >>= 1) s += __shfl_xor_sync(0xffffffffu, s, o);
  if (lane == 0) red[warp] = s;
  __syncthreads();
  if (t == 0) mu = (red[0] + red[1] + red[2] + red[3]) / n;
  __syncthreads();
  float q = 0.0f;
  for (int j = t; j < n; j += blockDim.x) {
    const float d = row[j] - mu;
    q += d * d;
  }
  for (int o = 16; o; o >>= 1) q += __shfl_xor_sync(0xffffffffu, q, o);
  if (lane == 0) red[warp] = q;
  __syncthreads();
  if (t == 0) rs = rsqrtf((red[0] + red[1] + red[2] + red[3]) / (float)n + 1e-5f);
  __syncthreads();
  for (int j = t; j < n; j += blockDim.x)
    y[(long long)blockIdx.x * n + j] = (row[j] - mu) * rs * g[j] + c[j];
}
""",
        (launch("norm_rows", ["B"], [128], "x", "g", "c", "y", "i32(N)"),),
        (*dense(x="B, N", g="N", c="N", y="B, N"),),
    ),
    "tiled_matmul": Case(
        HEAD + MATMUL,
        """
#define TILE 16
extern "C" __global__ void mm(const float *a, const float *b, float *c, int m, int n, int k) {
  __shared__ float as[TILE][TILE];
  __shared__ float bs[TILE][TILE];
  const int row = blockIdx.y * TILE + threadIdx.y;
  const int col = blockIdx.x * TILE + threadIdx.x;
  float sum = 0.0f;
  for (int t = 0; t < (k + TILE - 1) / TILE; ++t) {
    const int ka = t * TILE + threadIdx.x, kb = t * TILE + threadIdx.y;
    as[threadIdx.y][threadIdx.x] = (row < m && ka < k) ? a[(long long)row * k + ka] : 0.0f;
    bs[threadIdx.y][threadIdx.x] = (kb < k && col < n) ? b[(long long)kb * n + col] : 0.0f;
    __syncthreads();
    #pragma unroll
    for (int p = 0; p < TILE; ++p) sum += as[threadIdx.y][p] * bs[p][threadIdx.x];
    __syncthreads();
  }
  if (row < m && col < n) c[(long long)row * n + col] = sum;
}
""",
        (
            launch(
                "mm",
                ["cdiv(N, 16)", "cdiv(M, 16)"],
                [16, 16],
                "a",
                "b",
                "c",
                "i32(M)",
                "i32(N)",
                "i32(K)",
            ),
        ),
        (*dense(a="M, K", b="K, N", c="M, N"), *SMALL),
    ),
    "register_matmul": Case(
        HEAD + MATMUL,
        """
constexpr int BM = 32, BN = 32, BK = 8, TM = 4, TN = 4;
extern "C" __global__ void mm(const float *a, const float *b, float *c, int m, int n, int k) {
  __shared__ float as[BK][BM];
  __shared__ float bs[BK][BN];
  const int tid = threadIdx.x;
  const int tx = tid % 8, ty = tid / 8;
  const int row0 = blockIdx.y * BM, col0 = blockIdx.x * BN;
  float acc[TM][TN] = {};
  for (int k0 = 0; k0 < k; k0 += BK) {
    for (int e = tid; e < BM * BK; e += 64) {
      const int i = e / BK, p = e % BK;
      as[p][i] = (row0 + i < m && k0 + p < k) ? a[(long long)(row0 + i) * k + k0 + p] : 0.0f;
    }
    for (int e = tid; e < BK * BN; e += 64) {
      const int p = e / BN, j = e % BN;
      bs[p][j] = (k0 + p < k && col0 + j < n) ? b[(long long)(k0 + p) * n + col0 + j] : 0.0f;
    }
    __syncthreads();
    for (int p = 0; p < BK; ++p) {
      float ra[TM], rb[TN];
      for (int i = 0; i < TM; ++i) ra[i] = as[p][ty * TM + i];
      for (int j = 0; j < TN; ++j) rb[j] = bs[p][tx * TN + j];
      for (int i = 0; i < TM; ++i)
        for (int j = 0; j < TN; ++j) acc[i][j] += ra[i] * rb[j];
    }
    __syncthreads();
  }
  for (int i = 0; i < TM; ++i)
    for (int j = 0; j < TN; ++j) {
      const int row = row0 + ty * TM + i, col = col0 + tx * TN + j;
      if (row < m && col < n) c[(long long)row * n + col] = acc[i][j];
    }
}
""",
        (
            launch(
                "mm",
                ["cdiv(N, 32)", "cdiv(M, 32)"],
                [64],
                "a",
                "b",
                "c",
                "i32(M)",
                "i32(N)",
                "i32(K)",
            ),
        ),
        (*dense(a="M, K", b="K, N", c="M, N"), *SMALL),
    ),
    "padded_transpose": Case(
        HEAD
        + """
op flip @ 1.0 {
  dims  M, N
  input x: f32[M, N]
  output y: f32[N, M]
  def { y[j, i] = x[i, j] }
}
""",
        """
extern "C" __global__ void flip(const float *x, float *y, int m, int n) {
  __shared__ float tile[32][33];
  int j = blockIdx.x * 32 + threadIdx.x;
  int i = blockIdx.y * 32 + threadIdx.y;
  for (int k = 0; k < 32; k += 8)
    if (i + k < m && j < n) tile[threadIdx.y + k][threadIdx.x] = x[(size_t)(i + k) * n + j];
  __syncthreads();
  j = blockIdx.y * 32 + threadIdx.x;
  i = blockIdx.x * 32 + threadIdx.y;
  for (int k = 0; k < 32; k += 8)
    if (i + k < n && j < m) y[(size_t)(i + k) * m + j] = tile[threadIdx.x][threadIdx.y + k];
}
""",
        (launch("flip", ["cdiv(N, 32)", "cdiv(M, 32)"], [32, 8], "x", "y", "i32(M)", "i32(N)"),),
        (*dense(x="M, N", y="N, M"), "M <= 1000000", "N <= 1000000"),
    ),
    "shared_histogram": Case(
        HEAD
        + """
op counts @ 1.0 {
  dims  N
  input keys: i32[N]
  output h: i32[64]
  def { h[k] = sum[i: N](if keys[i] == k then 1 else 0) }
}
""",
        """
extern "C" __global__ void zero(int *h) { h[threadIdx.x] = 0; }
extern "C" __global__ void counts(const int *keys, int *h, int n) {
  __shared__ int bins[64];
  for (int b = threadIdx.x; b < 64; b += blockDim.x) bins[b] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    const int k = keys[i];
    if (k >= 0 && k < 64) atomicAdd(&bins[k], 1);
  }
  __syncthreads();
  for (int b = threadIdx.x; b < 64; b += blockDim.x)
    if (bins[b] != 0) atomicAdd(&h[b], bins[b]);
}
""",
        (
            launch("zero", ["1"], [64], "h"),
            launch("counts", ["min(cdiv(N, 256), 512)"], [256], "keys", "h", "i32(N)"),
        ),
        (*dense(keys="N", h="64"), "N <= 1000000000"),
    ),
    "gather": Case(
        HEAD
        + """
op lookup @ 1.0 {
  dims  V, D, N
  input table: f32[V, D], ids: i64[N]
  output y: f32[N, D]
  def { y[n, d] = table[ids[n], d] }
  requires in_range: all[n: N](0 <= ids[n] and ids[n] < V)
}
""",
        """
extern "C" __global__ void lookup(const float *table, const long long *ids, float *y, int d) {
  const long long id = ids[blockIdx.x];
  for (int k = threadIdx.x; k < d; k += blockDim.x)
    y[(long long)blockIdx.x * d + k] = table[id * d + k];
}
""",
        (launch("lookup", ["N"], [64], "table", "ids", "y", "i32(D)"),),
        (*dense(table="V, D", ids="N", y="N, D"),),
    ),
    "halo": Case(
        HEAD
        + """
op blur @ 1.0 {
  dims  N
  input x: f32[N]
  output y: f32[N]
  def {
    left[i] = if i >= 1 then x[i - 1] else 0.0
    right[i] = if i + 1 < N then x[i + 1] else 0.0
    y[i] = 0.25 * left[i] + 0.5 * x[i] + 0.25 * right[i]
  }
}
""",
        """
#define BLOCK 128
extern "C" __global__ void blur(const float *x, float *y, int n) {
  __shared__ float s[BLOCK + 2];
  const int t = threadIdx.x;
  const int i = blockIdx.x * BLOCK + t;
  s[t + 1] = i < n ? x[i] : 0.0f;
  if (t == 0) s[0] = i > 0 ? x[i - 1] : 0.0f;
  if (t == BLOCK - 1) s[BLOCK + 1] = i + 1 < n ? x[i + 1] : 0.0f;
  __syncthreads();
  if (i < n) y[i] = 0.25f * s[t] + 0.5f * s[t + 1] + 0.25f * s[t + 2];
}
""",
        (launch("blur", ["cdiv(N, 128)"], [128], "x", "y", "i32(N)"),),
        (*dense(x="N", y="N"),),
    ),
    "scan_block": Case(
        HEAD
        + """
op prefix @ 1.0 {
  dims  B
  input x: f32[B, 128]
  output y: f32[B, 128]
  def { y[b, i] = sum.f32[j: 0..i + 1](x[b, j]) }
}
""",
        """
extern "C" __global__ void prefix(const float *x, float *y) {
  __shared__ float s[2][128];
  const int t = threadIdx.x;
  int cur = 0;
  s[cur][t] = x[blockIdx.x * 128LL + t];
  __syncthreads();
  for (int o = 1; o < 128; o *= 2) {
    const int next = 1 - cur;
    s[next][t] = t >= o ? s[cur][t] + s[cur][t - o] : s[cur][t];
    cur = next;
    __syncthreads();
  }
  y[blockIdx.x * 128LL + t] = s[cur][t];
}
""",
        (launch("prefix", ["B"], [128], "x", "y"),),
        (*dense(x="B, 128", y="B, 128"),),
    ),
    "matvec": Case(
        HEAD
        + """
op mv @ 1.0 {
  dims  M, N
  where N % 4 == 0
  input a: f32[M, N], x: f32[N]
  output y: f32[M]
  def { y[i] = sum.f32[j: N](a[i, j] * x[j]) }
}
""",
        """
extern "C" __global__ void mv(const float *a, const float *x, float *y, int m, int n) {
  const int row = blockIdx.x * blockDim.y + threadIdx.y;
  if (row >= m) return;
  const float4 *r = reinterpret_cast<const float4 *>(a + (size_t)row * n);
  const float4 *v = reinterpret_cast<const float4 *>(x);
  float s = 0.0f;
  for (int j = threadIdx.x; j < n / 4; j += 32) {
    const float4 p = r[j], q = v[j];
    s += p.x * q.x + p.y * q.y + p.z * q.z + p.w * q.w;
  }
  for (int o = 16; o > 0; o >>= 1) s += __shfl_down_sync(0xffffffff, s, o);
  if (threadIdx.x == 0) y[row] = s;
}
""",
        (launch("mv", ["cdiv(M, 4)"], [32, 4], "a", "x", "y", "i32(M)", "i32(N)"),),
        (*dense(a="M, N", x="N", y="M"), "aligned(a, 16)", "aligned(x, 16)"),
    ),
    "column_sum": Case(
        HEAD
        + """
op columns @ 1.0 {
  dims  M, N
  input x: f32[M, N]
  output y: f32[N]
  def { y[j] = sum.f32[i: M](x[i, j]) }
}
""",
        """
extern "C" __global__ void columns(const float *x, float *y, int m, int n) {
  __shared__ float s[8][32];
  const int j = blockIdx.x * 32 + threadIdx.x;
  float acc = 0.f;
  if (j < n)
    for (int i = threadIdx.y; i < m; i += 8) acc += x[(long long)i * n + j];
  s[threadIdx.y][threadIdx.x] = acc;
  __syncthreads();
  if (threadIdx.y == 0 && j < n) {
    for (int k = 1; k < 8; k++) acc += s[k][threadIdx.x];
    y[j] = acc;
  }
}
""",
        (launch("columns", ["cdiv(N, 32)"], [32, 8], "x", "y", "i32(M)", "i32(N)"),),
        (*dense(x="M, N", y="N"),),
    ),
    "half_rows": Case(
        HEAD
        + """
op rms @ 1.0 {
  dims  B, N
  where N >= 1
  input x: f16[B, N], g: f16[N]
  output y: f16[B, N]
  def {
    ms[b] = sum.f32[j: N](f32(x[b, j]) * f32(x[b, j])) / N
    y[b, j] = f32(x[b, j]) * rsqrt(ms[b] + 1e-6) * f32(g[j])
  }
}
""",
        """
#include <cuda_fp16.h>
extern "C" __global__ void rms(const __half *x, const __half *g, __half *y, int n) {
  __shared__ float part[4];
  const __half *row = x + (size_t)blockIdx.x * n;
  float q = 0.0f;
  for (int j = threadIdx.x; j < n; j += 128) {
    const float v = __half2float(row[j]);
    q += v * v;
  }
  for (int o = 16; o > 0; o >>= 1) q += __shfl_down_sync(0xffffffff, q, o);
  if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = q;
  __syncthreads();
  const float total = part[0] + part[1] + part[2] + part[3];
  const float r = rsqrtf(total / n + 1e-6f);
  for (int j = threadIdx.x; j < n; j += 128)
    y[(size_t)blockIdx.x * n + j] = __float2half(__half2float(row[j]) * r * __half2float(g[j]));
}
""",
        (launch("rms", ["B"], [128], "x", "g", "y", "i32(N)"),),
        (*dense(x="B, N", g="N", y="B, N"),),
    ),
    "sparse_rows": Case(
        HEAD
        + """
op spmv @ 1.0 {
  dims  M, N, Z
  input start: i32[M + 1], col: i32[Z], val: f32[Z], x: f32[N]
  output y: f32[M]
  def { y[i] = sum.f32[k: start[i]..start[i + 1]](val[k] * x[col[k]]) }
  requires order: all[i: M](0 <= start[i] and start[i] <= start[i + 1])
  requires ends: all[i: M + 1](start[i] <= Z)
  requires places: all[k: Z](0 <= col[k] and col[k] < N)
}
""",
        """
extern "C" __global__ void spmv(const int *start, const int *col, const float *val, const float *x,
                                float *y, int m) {
  const int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= m) return;
  float s = 0.0f;
  for (int k = start[row]; k < start[row + 1]; ++k) s += val[k] * x[col[k]];
  y[row] = s;
}
""",
        (launch("spmv", ["cdiv(M, 128)"], [128], "start", "col", "val", "x", "y", "i32(M)"),),
        (*dense(start="M + 1", col="Z", val="Z", x="N", y="M"),),
    ),
    "pool": Case(
        HEAD
        + """
op pool @ 1.0 {
  dims  C, H, W
  input x: f32[C, 2 * H, 2 * W]
  output y: f32[C, H, W]
  def { y[c, i, j] = max[p: 2, q: 2](x[c, 2 * i + p, 2 * j + q]) }
}
""",
        """
extern "C" __global__ void pool(const float *x, float *y, int c, int h, int w) {
  const int j = blockIdx.x * blockDim.x + threadIdx.x;
  const int i = blockIdx.y * blockDim.y + threadIdx.y;
  const int k = blockIdx.z;
  if (i >= h || j >= w) return;
  float m = -INFINITY;
  for (int p = 0; p < 2; ++p)
    for (int q = 0; q < 2; ++q)
      m = fmaxf(m, x[((long long)k * 2 * h + 2 * i + p) * 2 * w + 2 * j + q]);
  y[((long long)k * h + i) * w + j] = m;
}
""",
        (
            launch(
                "pool",
                ["cdiv(W, 16)", "cdiv(H, 16)", "C"],
                [16, 16],
                "x",
                "y",
                "i32(C)",
                "i32(H)",
                "i32(W)",
            ),
        ),
        (*dense(x="C, 2 * H, 2 * W", y="C, H, W"), "C <= 65535", "H <= 100000", "W <= 100000"),
    ),
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """A change of a right kernel; `gates` are those that must refute it, "function" if only what it
    computes is wrong, "" if nobody has to (but nothing may prove it)."""

    case: str
    what: str
    old: str
    new: str
    gates: str = "G2 G3"
    nth: int = 0

    def source(self) -> str:
        parts = CASES[self.case].source.split(self.old)
        assert len(parts) > self.nth + 1, (self.case, self.old)
        left, right = parts[: self.nth + 1], parts[self.nth + 1 :]
        return self.old.join(left) + self.new + self.old.join(right)


MUTANTS: tuple[Mutant, ...] = (
    Mutant("guarded", "no guard on columns", "i >= m || j >= n", "i >= m"),
    Mutant("guarded", "guard lets one more in", "j >= n", "j > n"),
    Mutant("guarded", "guards are exchanged", "i >= m || j >= n", "i >= n || j >= m"),
    Mutant("guarded", "row stride of the other extent", "y[i * n + j]", "y[i * m + j]"),
    Mutant("guarded", "drops the last column", "j >= n", "j + 1 >= n"),
    Mutant("guarded", "minimum for maximum", "fmaxf", "fminf", "function"),
    Mutant("guarded", "bias of the row", "__ldg(b + j)", "__ldg(b + i)"),
    Mutant("grid_stride", "starts at the block", " * blockDim.x + threadIdx.x; i", "; i"),
    Mutant("grid_stride", "reads its neighbour", "z[i])", "z[i + 1])"),
    Mutant("grid_stride", "one more", "i < n", "i <= n"),
    Mutant("vector_copy", "no tail", "i < 4 && rest < n", "i < 2 && rest < n"),
    Mutant("vector_copy", "one vector too many", "n / 4", "(n + 3) / 4"),
    Mutant("vector_copy", "a component is lost", "v.w *= 0.5f;", "", "function"),
    Mutant("warp_softmax", "no guard", "if (row >= rows) return;", ""),
    Mutant("warp_softmax", "lanes step too far", "j += 32) s", "j += 64) s", "function"),
    Mutant(
        "warp_softmax",
        "not all distances",
        "d = 16; d > 0; d >>= 1) v +=",
        "d = 16; d > 1; d >>= 1) v +=",
        "function",
    ),
    Mutant(
        "warp_softmax",
        "barrier after a return of some warps",
        "  float m = -INF",
        "  __syncthreads(); float m = -INF",
    ),
    Mutant("warp_softmax", "five warps of rows", "blockIdx.x * 4", "blockIdx.x * 5"),
    Mutant(
        "block_softmax",
        "no barrier before the shares are read",
        "part[warp] = v;\n  __syncthreads();",
        "part[warp] = v;",
    ),
    Mutant(
        "block_softmax",
        "no barrier before the result is read",
        "  __syncthreads();\n  return",
        "  return",
    ),
    Mutant("block_softmax", "shares of nobody", "threadIdx.x < WARPS ?", "threadIdx.x < 32 ?"),
    Mutant(
        "block_softmax",
        "barrier inside of a condition",
        "  if (lane == 0) part[warp] = v;\n  __syncthreads();",
        "  if (lane == 0) { part[warp] = v; __syncthreads(); }",
    ),
    Mutant(
        "block_softmax", "sum of the inputs", "s += expf(in[j] - m)", "s += in[j] - m", "function"
    ),
    Mutant(
        "online_rows",
        "the sum is not scaled",
        "s = s * expf(m - v) + 1.0f",
        "s = s + 1.0f",
        "function",
    ),
    Mutant("online_rows", "one row too many", "row < rows", "row <= rows"),
    Mutant("online_rows", "one column too many", "j = 1; j < n", "j = 1; j <= n"),
    Mutant(
        "tree_sum",
        "no barrier in the tree",
        "threadIdx.x + o];\n    __syncthreads();",
        "threadIdx.x + o];",
    ),
    Mutant("tree_sum", "no barrier before the tree", "= acc;\n  __syncthreads();", "= acc;"),
    Mutant("tree_sum", "threads beyond the half", "threadIdx.x < o)", "threadIdx.x <= o)"),
    Mutant("tree_sum", "starts too far", "o = BLOCK / 2", "o = BLOCK"),
    Mutant("tree_sum", "starts too near", "o = BLOCK / 2", "o = BLOCK / 4", "function"),
    Mutant(
        "tree_sum",
        "everybody stores its own",
        "if (threadIdx.x == 0) y[blockIdx.x] = s[0]",
        "y[blockIdx.x] = s[threadIdx.x]",
    ),
    Mutant("tree_sum", "a result of nobody", "threadIdx.x == 0) y", "threadIdx.x == 128) y"),
    Mutant("tree_sum", "32-bit rows", "(long long)blockIdx.x * n", "blockIdx.x * n"),
    Mutant("two_launches", "no barrier", "= v;\n  __syncthreads();", "= v;"),
    Mutant(
        "two_launches",
        "parts of nobody",
        "if (threadIdx.x == 0) part",
        "if (threadIdx.x == 300) part",
    ),
    Mutant("two_launches", "a part too many", "i < blocks", "i <= blocks"),
    Mutant("two_launches", "a share is missing", "k < 8", "k < 7", "function"),
    Mutant("atomic_total", "a plain sum", "atomicAdd(&sum, x[i])", "sum += x[i]"),
    Mutant("atomic_total", "nobody clears", "sum = 0.0f", "sum += 0.0f"),
    Mutant(
        "atomic_total",
        "no barrier after clearing",
        "sum = 0.0f;\n  __syncthreads();",
        "sum = 0.0f;",
    ),
    Mutant(
        "atomic_total",
        "no barrier before the end",
        "  __syncthreads();\n  if (threadIdx.x == 0) atomic",
        "  if (threadIdx.x == 0) atomic",
    ),
    Mutant(
        "atomic_total",
        "every thread adds",
        "if (threadIdx.x == 0) atomicAdd(y, sum)",
        "atomicAdd(y, sum)",
        "function",
    ),
    Mutant("block_norm", "the mean is read early", "/ n;\n  __syncthreads();", "/ n;"),
    Mutant(
        "block_norm",
        "shares are overwritten early",
        "if (t == 0) mu = (red[0] + red[1] + red[2] + red[3]) / n;\n  __syncthreads();",
        "mu = 0.0f; if (t == 0) mu = red[0] / n;",
    ),
    Mutant(
        "block_norm",
        "eps outside of the root",
        "/ (float)n + 1e-5f)",
        "/ (float)n) + 1e-5f",
        "function",
    ),
    Mutant("block_norm", "five shares", "red[3]) / n", "red[3] + red[4]) / n"),
    Mutant(
        "tiled_matmul",
        "no barrier before the products",
        "    __syncthreads();\n    #pragma",
        "    #pragma",
    ),
    Mutant(
        "tiled_matmul",
        "no barrier after the products",
        "[threadIdx.x];\n    __syncthreads();",
        "[threadIdx.x];",
    ),
    Mutant("tiled_matmul", "no guard of the tail", "(row < m && ka < k)", "(row < m)"),
    Mutant(
        "tiled_matmul", "steps are rounded down", "(k + TILE - 1) / TILE", "k / TILE", "function"
    ),
    Mutant("tiled_matmul", "no guard of the store", "row < m && col < n) c", "row < m) c"),
    Mutant(
        "tiled_matmul", "a transposed tile", "bs[p][threadIdx.x]", "bs[threadIdx.x][p]", "function"
    ),
    Mutant("tiled_matmul", "tiles of another size", "as[TILE][TILE]", "as[TILE][TILE - 1]"),
    Mutant("register_matmul", "half of a tile is loaded", "e < BM * BK", "e < BM * BK / 2"),
    Mutant(
        "register_matmul",
        "no barrier after loading",
        "    __syncthreads();\n    for (int p",
        "    for (int p",
    ),
    Mutant(
        "register_matmul",
        "row guard at the wrong row",
        "row < m && col < n) c",
        "row0 < m && col < n) c",
    ),
    Mutant("padded_transpose", "no barrier", "  __syncthreads();", ""),
    Mutant("padded_transpose", "tile too narrow", "tile[32][33]", "tile[32][31]"),
    Mutant("padded_transpose", "store without a guard", "i + k < n && j < m", "i + k < n"),
    Mutant(
        "padded_transpose",
        "rows step too far",
        "k += 8)\n    if (i + k < n",
        "k += 16)\n    if (i + k < n",
    ),
    Mutant(
        "padded_transpose",
        "not transposed",
        "tile[threadIdx.x][threadIdx.y + k];",
        "tile[threadIdx.y + k][threadIdx.x];",
    ),
    Mutant("shared_histogram", "keys are not checked", "k >= 0 && k < 64", "k >= 0"),
    Mutant("shared_histogram", "a plain sum", "atomicAdd(&bins[k], 1)", "bins[k] += 1"),
    Mutant("shared_histogram", "bins are not cleared", "bins[b] = 0", "bins[b] += 0"),
    Mutant("shared_histogram", "no barrier before counting", "= 0;\n  __syncthreads();", "= 0;"),
    Mutant("shared_histogram", "a plain merge", "atomicAdd(&h[b], bins[b])", "h[b] += bins[b]"),
    Mutant("gather", "a row too far", "id * d + k", "id * d + k + 1"),
    Mutant("gather", "its own row", "table[id * d + k]", "table[(long long)blockIdx.x * d + k]"),
    Mutant("halo", "no left neighbour", "if (t == 0) s[0] = i > 0 ? x[i - 1] : 0.0f;", ""),
    Mutant("halo", "no check of the left end", "i > 0 ? x[i - 1] : 0.0f", "x[i - 1]"),
    Mutant("halo", "a halo of one", "s[BLOCK + 2]", "s[BLOCK + 1]"),
    Mutant("halo", "no barrier", "  __syncthreads();", ""),
    Mutant("scan_block", "a single buffer", "const int next = 1 - cur", "const int next = cur"),
    Mutant("scan_block", "no barrier", "    __syncthreads();\n  }", "  }"),
    Mutant("scan_block", "distances of three", "o *= 2", "o *= 3", "function"),
    Mutant("matvec", "no guard", "if (row >= m) return;", ""),
    Mutant("matvec", "a vector too many", "j < n / 4", "j <= n / 4"),
    Mutant("matvec", "a component is missing", " + p.w * q.w", "", "function"),
    Mutant("column_sum", "no barrier", "  __syncthreads();", ""),
    Mutant("column_sum", "seven rows", "k < 8", "k < 7", "function"),
    Mutant("half_rows", "no barrier", "  __syncthreads();", ""),
    Mutant("half_rows", "shares of a warp are stored by all", "if ((threadIdx.x & 31) == 0) ", ""),
    Mutant("half_rows", "sums in half precision", "q += v * v", "q = __float2half(q + v * v)", ""),
    Mutant("sparse_rows", "no guard", "if (row >= m) return;", ""),
    Mutant("sparse_rows", "one element too many", "k < start[row + 1]", "k <= start[row + 1]"),
    Mutant("pool", "a window of three", "p < 2", "p < 3"),
    Mutant("pool", "no guard", "i >= h || j >= w", "i >= h"),
)
