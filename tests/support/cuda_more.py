"""More CUDA kernels of the tests: forms that kernels in the wild have. All are right."""

from __future__ import annotations

from support.cuda_kernels import (
    HEAD,
    MATMUL,
    POINTWISE,
    ROW_SUM,
    ROWS,
    SMALL,
    Case,
    dense,
    launch,
)

MORE: dict[str, Case] = {}

MORE["dyn_shared"] = Case(
    HEAD + ROW_SUM,
    """
extern "C" __global__ void row_sum(const float* __restrict__ x, float* __restrict__ y, int N) {
    extern __shared__ float sdata[];
    unsigned int tid = threadIdx.x;
    int row = blockIdx.x;
    float sum = 0.0f;
    for (unsigned int i = tid; i < N; i += blockDim.x) sum += x[(size_t)row * N + i];
    sdata[tid] = sum;
    __syncthreads();
    for (unsigned int s = blockDim.x / 2; s > 32; s >>= 1) {
        if (tid < s) { sdata[tid] += sdata[tid + s]; }
        __syncthreads();
    }
    if (tid < 32) {
        float v = sdata[tid] + sdata[tid + 32];
        #pragma unroll
        for (int offset = 16; offset > 0; offset /= 2) v += __shfl_down_sync(0xffffffff, v, offset);
        if (tid == 0) y[row] = v;
    }
}
""",
    ({**launch("row_sum", ["B"], [256], "x", "y", "i32(N)"), "shared_bytes": "1024"},),
    dense(x="B, N", y="B"),
)

MORE["size_t_stride"] = Case(
    HEAD
    + """
op gelu @ 1.0 {
  dims  N
  input x: f32[N]
  output y: f32[N]
  def { y[i] = 0.5 * x[i] * (1.0 + tanh(0.7978845608 * (x[i] + 0.044715 * x[i] * x[i] * x[i]))) }
}
""",
    """
#include <cuda_runtime.h>
__device__ __forceinline__ float gelu_fwd(float x) {
    const float k0 = 0.7978845608f;
    const float k1 = 0.044715f;
    float inner = k0 * (x + k1 * x * x * x);
    return 0.5f * x * (1.0f + tanhf(inner));
}
extern "C" __global__ void gelu(const float* __restrict__ x, float* __restrict__ y, size_t n) {
    size_t idx = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    size_t stride = (size_t)gridDim.x * blockDim.x;
    for (; idx < n; idx += stride) {
        y[idx] = gelu_fwd(x[idx]);
    }
}
""",
    (launch("gelu", ["min(cdiv(N, 256), 65535)"], [256], "x", "y", "N"),),
    dense(x="N", y="N"),
)

MORE["bf162"] = Case(
    HEAD
    + """
op addb @ 1.0 {
  dims  N
  where N % 2 == 0
  input a: bf16[N], b: bf16[N]
  output y: bf16[N]
  def { y[i] = f32(a[i]) + f32(b[i]) }
}
""",
    """
#include <cuda_bf16.h>
extern "C" __global__ void addb(const __nv_bfloat16* a, const __nv_bfloat16* b, __nv_bfloat16* y,
    int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i * 2 < n) {
    const __nv_bfloat162 p = reinterpret_cast<const __nv_bfloat162*>(a)[i];
    const __nv_bfloat162 q = reinterpret_cast<const __nv_bfloat162*>(b)[i];
    __nv_bfloat162 r;
    r.x = __float2bfloat16(__bfloat162float(p.x) + __bfloat162float(q.x));
    r.y = __float2bfloat16(__bfloat162float(p.y) + __bfloat162float(q.y));
    reinterpret_cast<__nv_bfloat162*>(y)[i] = r;
  }
}
""",
    (launch("addb", ["cdiv(N, 512)"], [256], "a", "b", "y", "i32(N)"),),
    (
        *dense(a="N", b="N", y="N"),
        "aligned(a, 4)",
        "aligned(b, 4)",
        "aligned(y, 4)",
        "N <= 1000000000",
    ),
)

MORE["argmax"] = Case(
    HEAD
    + """
op top @ 1.0 {
  dims  B, N
  where N >= 1
  input x: f32[B, N]
  output y: i32[B]
  def { y[b] = argmax[j: N](x[b, j]) }
}
""",
    """
extern "C" __global__ void top(const float* x, int* y, int n) {
  __shared__ float vals[128];
  __shared__ int idxs[128];
  int tid = threadIdx.x;
  float best = -INFINITY; int bi = 0x7fffffff;
  for (int j = tid; j < n; j += 128) {
    float v = x[(size_t)blockIdx.x * n + j];
    if (v > best || (v == best && j < bi)) { best = v; bi = j; }
  }
  vals[tid] = best; idxs[tid] = bi;
  __syncthreads();
  for (int s = 64; s > 0; s >>= 1) {
    if (tid < s) {
      float v = vals[tid + s]; int i = idxs[tid + s];
      if (v > vals[tid] || (v == vals[tid] && i < idxs[tid])) { vals[tid] = v; idxs[tid] = i; }
    }
    __syncthreads();
  }
  if (tid == 0) y[blockIdx.x] = idxs[0];
}
""",
    (launch("top", ["B"], [128], "x", "y", "i32(N)"),),
    dense(x="B, N", y="B"),
)

MORE["mm_double"] = Case(
    HEAD + MATMUL,
    """
#define TS 16
extern "C" __global__ void mm(const float* A, const float* B, float* C, int M, int N, int K) {
  __shared__ float As[2][TS][TS], Bs[2][TS][TS];
  int tx = threadIdx.x, ty = threadIdx.y;
  int row = blockIdx.y * TS + ty, col = blockIdx.x * TS + tx;
  float acc = 0;
  int nt = (K + TS - 1) / TS;
  As[0][ty][tx] = (row < M && tx < K) ? A[(long)row * K + tx] : 0.f;
  Bs[0][ty][tx] = (ty < K && col < N) ? B[(long)ty * N + col] : 0.f;
  __syncthreads();
  for (int t = 0; t < nt; t++) {
    int cur = t & 1, nxt = cur ^ 1;
    if (t + 1 < nt) {
      int k0 = (t + 1) * TS;
      As[nxt][ty][tx] = (row < M && k0 + tx < K) ? A[(long)row * K + k0 + tx] : 0.f;
      Bs[nxt][ty][tx] = (k0 + ty < K && col < N) ? B[(long)(k0 + ty) * N + col] : 0.f;
    }
    for (int k = 0; k < TS; k++) acc += As[cur][ty][k] * Bs[cur][k][tx];
    __syncthreads();
  }
  if (row < M && col < N) C[(long)row * N + col] = acc;
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
)

MORE["attn"] = Case(
    HEAD
    + """
op attn @ 1.0 {
  dims  H, S
  where S >= 1
  input q: f32[H, S, 32], k: f32[H, S, 32], v: f32[H, S, 32]
  output o: f32[H, S, 32]
  def {
    s[h, i, j] = 0.17677669529 * sum.f32[d: 32](q[h, i, d] * k[h, j, d])
    m[h, i] = max[j: S](s[h, i, j])
    l[h, i] = sum.f32[j: S](exp(s[h, i, j] - m[h, i]))
    o[h, i, d] = sum.f32[j: S](exp(s[h, i, j] - m[h, i]) * v[h, j, d]) / l[h, i]
  }
}
""",
    """
#define D 32
extern "C" __global__ void attn(const float* q, const float* k, const float* v, float* o, int S) {
  __shared__ float ks[32][D + 1], vs[32][D + 1];
  const int h = blockIdx.y;
  const int i = blockIdx.x * 32 + threadIdx.x;
  const float scale = 0.17677669529f;
  const long long base = (long long)h * S * D;
  float qr[D], acc[D];
  for (int d = 0; d < D; ++d) { qr[d] = i < S ? q[base + (long long)i * D + d] : 0.f;
      acc[d] = 0.f; }
  float m = -INFINITY, l = 0.f;
  for (int j0 = 0; j0 < S; j0 += 32) {
    for (int r = 0; r < 32; ++r) {
      ks[r][threadIdx.x] = j0 + r < S ? k[base + (long long)(j0 + r) * D + threadIdx.x] : 0.f;
      vs[r][threadIdx.x] = j0 + r < S ? v[base + (long long)(j0 + r) * D + threadIdx.x] : 0.f;
    }
    __syncthreads();
    const int lim = min(32, S - j0);
    for (int r = 0; r < lim; ++r) {
      float s = 0.f;
      for (int d = 0; d < D; ++d) s += qr[d] * ks[r][d];
      s *= scale;
      const float mn = fmaxf(m, s);
      const float c = __expf(m - mn), p = __expf(s - mn);
      l = l * c + p;
      for (int d = 0; d < D; ++d) acc[d] = acc[d] * c + p * vs[r][d];
      m = mn;
    }
    __syncthreads();
  }
  if (i < S)
    for (int d = 0; d < D; ++d) o[base + (long long)i * D + d] = acc[d] / l;
}
""",
    (launch("attn", ["cdiv(S, 32)", "H"], [32], "q", "k", "v", "o", "i32(S)"),),
    (*dense(q="H, S, 32", k="H, S, 32", v="H, S, 32", o="H, S, 32"), "H <= 65535", "S <= 10000000"),
)

MORE["conv"] = Case(
    HEAD
    + """
op conv @ 1.0 {
  dims  C, O, L
  where L >= 3
  input x: f32[C, L], w: f32[O, C, 3]
  output y: f32[O, L - 2]
  def { y[o, i] = sum.f32[c: C, k: 3](x[c, i + k] * w[o, c, k]) }
}
""",
    """
extern "C" __global__ void conv(const float *x, const float *w, float *y, int C, int O, int L) {
  const int Lo = L - 2;
  int idx = blockIdx.x * blockDim.x + threadIdx.x;
  if (idx >= O * Lo) return;
  int o = idx / Lo, i = idx % Lo;
  float s = 0.f;
  for (int c = 0; c < C; ++c)
    for (int k = 0; k < 3; ++k)
      s += x[c * L + i + k] * w[(o * C + c) * 3 + k];
  y[o * Lo + i] = s;
}
""",
    (
        launch(
            "conv", ["cdiv(O * (L - 2), 256)"], [256], "x", "w", "y", "i32(C)", "i32(O)", "i32(L)"
        ),
    ),
    (
        *dense(x="C, L", w="O, C, 3", y="O, L - 2"),
        "C * L <= 1000000000",
        "O * C <= 500000000",
        "O * L <= 1000000000",
    ),
)

MORE["rope"] = Case(
    HEAD
    + """
op rope @ 1.0 {
  dims  S, D
  input x: f32[S, 2 * D], cs: f32[S, D], sn: f32[S, D]
  output y: f32[S, 2 * D]
  def { y[s, d] = if d < D then x[s, d] * cs[s, d] - x[s, d + D] * sn[s, d] else x[s, d] * cs[s,
      d - D] + x[s, d - D] * sn[s, d - D] }
}
""",
    """
extern "C" __global__ void rope(const float *x, const float *cs, const float *sn, float *y, int D) {
  const int s = blockIdx.x;
  for (int d = threadIdx.x; d < D; d += blockDim.x) {
    const float c = cs[(long long)s * D + d], t = sn[(long long)s * D + d];
    const float a = x[(long long)s * 2 * D + d], b = x[(long long)s * 2 * D + D + d];
    y[(long long)s * 2 * D + d] = a * c - b * t;
    y[(long long)s * 2 * D + D + d] = b * c + a * t;
  }
}
""",
    (launch("rope", ["S"], [64], "x", "cs", "sn", "y", "i32(D)"),),
    (*dense(x="S, 2 * D", cs="S, D", sn="S, D", y="S, 2 * D"), "D <= 1000000000"),
)

MORE["xent"] = Case(
    HEAD
    + """
op xent @ 1.0 {
  dims  B, V
  where V >= 1
  input x: f32[B, V], t: i32[B]
  output y: f32[B]
  def {
    m[b] = max[j: V](x[b, j])
    s[b] = sum.f32[j: V](exp(x[b, j] - m[b]))
    y[b] = log(s[b]) + m[b] - x[b, t[b]]
  }
  requires ok: all[b: B](0 <= t[b] and t[b] < V)
}
""",
    """
#include <cfloat>
template <typename T> __device__ T warpMax(T v) {
  for (int i = 16; i > 0; i >>= 1) v = max(v, __shfl_xor_sync(0xffffffff, v, i));
  return v;
}
template <typename T> __device__ T warpSum(T v) {
  for (int i = 16; i > 0; i >>= 1) v += __shfl_xor_sync(0xffffffff, v, i);
  return v;
}
extern "C" __global__ __launch_bounds__(256, 2) void xent(const float* logits,
    const int* targets, float* losses, int V) {
  __shared__ float shared_max[8];
  __shared__ float shared_sum[8];
  int b = blockIdx.x;
  int warpId = threadIdx.x / warpSize;
  int laneId = threadIdx.x % warpSize;
  const float* x = logits + static_cast<int64_t>(b) * V;
  float maxval = -FLT_MAX;
  for (int i = threadIdx.x; i < V; i += blockDim.x) maxval = fmaxf(maxval, x[i]);
  maxval = warpMax(maxval);
  if (laneId == 0) shared_max[warpId] = maxval;
  __syncthreads();
  if (threadIdx.x == 0) {
    float val = shared_max[0];
    for (int i = 1; i < 8; i++) val = fmaxf(val, shared_max[i]);
    shared_max[0] = val;
  }
  __syncthreads();
  float offset = shared_max[0];
  float sumval = 0.0f;
  for (int i = threadIdx.x; i < V; i += blockDim.x) sumval += expf(x[i] - offset);
  sumval = warpSum(sumval);
  if (laneId == 0) shared_sum[warpId] = sumval;
  __syncthreads();
  if (threadIdx.x == 0) {
    float sum = 0;
    for (int i = 0; i < 8; ++i) sum += shared_sum[i];
    losses[b] = logf(sum) + offset - x[targets[b]];
  }
}
""",
    (launch("xent", ["B"], [256], "x", "t", "y", "i32(V)"),),
    dense(x="B, V", t="B", y="B"),
)

MORE["shfl_scan"] = Case(
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
  __shared__ float sums[4];
  const int lane = threadIdx.x & 31, w = threadIdx.x >> 5;
  float v = x[(size_t)blockIdx.x * 128 + threadIdx.x];
  #pragma unroll
  for (int o = 1; o < 32; o <<= 1) {
    float u = __shfl_up_sync(0xffffffff, v, o);
    if (lane >= o) v += u;
  }
  if (lane == 31) sums[w] = v;
  __syncthreads();
  float add = 0.0f;
  for (int k = 0; k < w; ++k) add += sums[k];
  y[(size_t)blockIdx.x * 128 + threadIdx.x] = v + add;
}
""",
    (launch("prefix", ["B"], [128], "x", "y"),),
    dense(x="B, 128", y="B, 128"),
)

MORE["pairs_in_shared"] = Case(
    HEAD + ROW_SUM,
    """
extern "C" __global__ void row_sum(const float *x, float *y, int n) {
  __shared__ float2 s[64];
  float a = 0.f, b = 0.f;
  for (int j = threadIdx.x * 2; j < n; j += 128) {
    a += x[(size_t)blockIdx.x * n + j];
    if (j + 1 < n) b += x[(size_t)blockIdx.x * n + j + 1];
  }
  s[threadIdx.x] = make_float2(a, b);
  __syncthreads();
  if (threadIdx.x < 32) {
    float2 p = s[threadIdx.x], q = s[threadIdx.x + 32];
    float v = p.x + p.y + q.x + q.y;
    for (int o = 16; o; o /= 2) v += __shfl_down_sync(0xffffffffu, v, o);
    if (!threadIdx.x) y[blockIdx.x] = v;
  }
}
""",
    (launch("row_sum", ["B"], [64], "x", "y", "i32(N)"),),
    (*dense(x="B, N", y="B"), "N <= 2000000000"),
)

MORE["means"] = Case(
    HEAD
    + """
op rm @ 1.0 {
  dims  B, C, H
  where H >= 1
  input x: f32[B, C, H]
  output y: f32[B, C]
  def { y[b, c] = sum.f32[h: H](x[b, c, h]) / H }
}
""",
    """
extern "C" __global__ void rm(const float* input, float* output, int B, int C, int H) {
    int idx = blockIdx.x * blockDim.x + threadIdx.x;
    if (idx >= B * C) return;
    int b = idx / C;
    int c = idx % C;
    float s = 0;
    for (int h = 0; h < H; h++) {
        s += input[b * C * H + c * H + h];
    }
    output[b * C + c] = s / H;
}
""",
    (launch("rm", ["cdiv(B * C, 128)"], [128], "x", "y", "i32(B)", "i32(C)", "i32(H)"),),
    (*dense(x="B, C, H", y="B, C"), "B * C * H <= 1000000000", "B * C <= 1000000000"),
)

MORE["per_channel"] = Case(
    HEAD
    + """
op bn @ 1.0 {
  dims  N, C, L
  input x: f32[N, C, L], mu: f32[C], var: f32[C], g: f32[C], b: f32[C]
  output y: f32[N, C, L]
  def { y[n, c, l] = (x[n, c, l] - mu[c]) * rsqrt(var[c] + 1e-5) * g[c] + b[c] }
}
""",
    """
extern "C" __global__ void bn(const float* x, const float* mu, const float* var, const float* g,
    const float* b, float* y, int C, int L) {
  const int c = blockIdx.x, n = blockIdx.y;
  const float a = g[c] * rsqrtf(var[c] + 1e-5f);
  const float s = b[c] - mu[c] * a;
  const size_t off = ((size_t)n * C + c) * L;
  for (int l = threadIdx.x; l < L; l += blockDim.x) y[off + l] = x[off + l] * a + s;
}
""",
    (launch("bn", ["C", "N"], [128], "x", "mu", "var", "g", "b", "y", "i32(C)", "i32(L)"),),
    (*dense(x="N, C, L", mu="C", var="C", g="C", b="C", y="N, C, L"), "N <= 65535"),
)

MORE["scatter_add"] = Case(
    HEAD
    + """
op sadd @ 1.0 {
  dims  N, D, V
  input g: f32[N, D], ids: i32[N]
  output y: f32[V, D]
  def { y[v, d] = sum.f32[n: N](if ids[n] == v then g[n, d] else 0.0) }
  requires ok: all[n: N](0 <= ids[n] and ids[n] < V)
}
""",
    """
extern "C" __global__ void clear(float *y, long long n) {
  long long i = blockIdx.x * 256LL + threadIdx.x;
  if (i < n) y[i] = 0.0f;
}
extern "C" __global__ void sadd(const float *g, const int *ids, float *y, long long d) {
  const long long row = ids[blockIdx.x];
  for (long long k = threadIdx.x; k < d; k += 128) atomicAdd(&y[row * d + k], g[blockIdx.x * d
      + k]);
}
""",
    (
        launch("clear", ["cdiv(V * D, 256)"], [256], "y", "V * D"),
        launch("sadd", ["N"], [128], "g", "ids", "y", "D"),
    ),
    (*dense(g="N, D", ids="N", y="V, D"), "V * D <= 100000000"),
)

MORE["mm_vec"] = Case(
    HEAD
    + MATMUL.replace(
        "dims  M, N, K", "dims  M, N, K\n  where K % 16 == 0, N % 64 == 0, M % 64 == 0"
    ),
    """
template <int BM, int BN, int BK, int TM, int TN>
__device__ __forceinline__ void gemm(const float* __restrict__ A, const float* __restrict__ B,
    float* __restrict__ C, int M, int N, int K) {
  __shared__ __align__(16) float As[BK * BM];
  __shared__ __align__(16) float Bs[BK * BN];
  const int cRow = blockIdx.y, cCol = blockIdx.x;
  const int threadCol = threadIdx.x % (BN / TN);
  const int threadRow = threadIdx.x / (BN / TN);
  A += (long long)cRow * BM * K;
  B += cCol * BN;
  C += (long long)cRow * BM * N + cCol * BN;
  const int innerRowA = threadIdx.x / (BK / 4), innerColA = threadIdx.x % (BK / 4);
  const int innerRowB = threadIdx.x / (BN / 4), innerColB = threadIdx.x % (BN / 4);
  float results[TM * TN] = {0.0f};
  float regM[TM] = {0.0f}, regN[TN] = {0.0f};
  for (int bk = 0; bk < K; bk += BK) {
    float4 tmp = reinterpret_cast<const float4*>(&A[innerRowA * K + innerColA * 4])[0];
    As[(innerColA * 4 + 0) * BM + innerRowA] = tmp.x;
    As[(innerColA * 4 + 1) * BM + innerRowA] = tmp.y;
    As[(innerColA * 4 + 2) * BM + innerRowA] = tmp.z;
    As[(innerColA * 4 + 3) * BM + innerRowA] = tmp.w;
    reinterpret_cast<float4*>(&Bs[innerRowB * BN
        + innerColB * 4])[0] = reinterpret_cast<const float4*>(&B[innerRowB * N
            + innerColB * 4])[0];
    __syncthreads();
    A += BK;
    B += BK * N;
    for (int dot = 0; dot < BK; ++dot) {
      for (int i = 0; i < TM; ++i) regM[i] = As[dot * BM + threadRow * TM + i];
      for (int i = 0; i < TN; ++i) regN[i] = Bs[dot * BN + threadCol * TN + i];
      for (int m = 0; m < TM; ++m)
        for (int n = 0; n < TN; ++n) results[m * TN + n] += regM[m] * regN[n];
    }
    __syncthreads();
  }
  for (int m = 0; m < TM; ++m)
    for (int n = 0; n < TN; n += 4) {
      float4 o;
      o.x = results[m * TN + n]; o.y = results[m * TN + n + 1]; o.z = results[m * TN + n + 2];
          o.w = results[m * TN + n + 3];
      reinterpret_cast<float4*>(&C[(threadRow * TM + m) * N + threadCol * TN + n])[0] = o;
    }
}
extern "C" __global__ void mm(const float* A, const float* B, float* C, int M, int N,
    int K) { gemm<64, 64, 16, 4, 4>(A, B, C, M, N, K); }
""",
    (
        launch(
            "mm", ["cdiv(N, 64)", "cdiv(M, 64)"], [256], "a", "b", "c", "i32(M)", "i32(N)", "i32(K)"
        ),
    ),
    (
        *dense(a="M, K", b="K, N", c="M, N"),
        *SMALL,
        "K <= 10000000",
        "N <= 10000000",
        "aligned(a, 16)",
        "aligned(b, 16)",
        "aligned(c, 16)",
    ),
)

MORE["break_search"] = Case(
    HEAD
    + """
op first @ 1.0 {
  dims  B, N
  input x: i32[B, N]
  output y: i32[B]
  def { y[b] = min(N, min[j: N](if x[b, j] > 0 then j else N)) }
}
""",
    """
extern "C" __global__ void first(const int *x, int *y, int b, int n) {
  int row = blockIdx.x * 64 + threadIdx.x;
  if (row >= b) return;
  int found = n;
  for (int j = 0; j < n; ++j) {
    if (x[(long long)row * n + j] > 0) { found = j; break; }
  }
  y[row] = found;
}
""",
    (launch("first", ["cdiv(B, 64)"], [64], "x", "y", "i32(B)", "i32(N)"),),
    dense(x="B, N", y="B"),
)

MORE["causal"] = Case(
    HEAD
    + """
op tri @ 1.0 {
  dims  B, N
  input x: f32[N, N], v: f32[N]
  output y: f32[N]
  def { y[i] = sum.f32[j: 0..i + 1](x[i, j] * v[j]) }
}
""".replace("dims  B, N", "dims  N"),
    """
extern "C" __global__ void tri(const float *x, const float *v, float *y, int n) {
  const int i = blockIdx.x;
  float s = 0.f;
  for (int j = threadIdx.x; j <= i; j += 32) s = fmaf(x[(size_t)i * n + j], v[j], s);
  for (int o = 16; o > 0; o >>= 1) s += __shfl_xor_sync(0xffffffff, s, o);
  y[i] = s;
}
""",
    (launch("tri", ["N"], [32], "x", "v", "y", "i32(N)"),),
    dense(x="N, N", v="N", y="N"),
)

MORE["two_strides"] = Case(
    HEAD + POINTWISE,
    """
extern "C" __global__ void relu_bias(const float *x, const float *b, float *y, int m, int n) {
  for (int i = blockIdx.y; i < m; i += gridDim.y) {
    for (int j = blockIdx.x * 64 + threadIdx.x; j < n; j += gridDim.x * 64) {
      float v = x[(long long)i * n + j] + b[j];
      if (v < 0.0f) { y[(long long)i * n + j] = 0.0f; continue; }
      y[(long long)i * n + j] = v;
    }
  }
}
""",
    (
        launch(
            "relu_bias",
            ["min(cdiv(N, 64), 128)", "min(M, 1000)"],
            [64],
            "x",
            "b",
            "y",
            "i32(M)",
            "i32(N)",
        ),
    ),
    (*dense(x="M, N", b="N", y="M, N"), "N <= 2000000000", "M <= 2000000000"),
)

MORE["warp_rows"] = Case(
    HEAD + ROW_SUM,
    """
extern "C" __global__ void row_sum(const float *x, float *y, int b, int n) {
  const int warps = gridDim.x * (blockDim.x / 32);
  const int w = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  for (int row = w; row < b; row += warps) {
    float s = 0.0f;
    for (int j = lane; j < n; j += 32) s += x[(size_t)row * n + j];
    for (int o = 16; o > 0; o /= 2) s += __shfl_xor_sync(0xffffffffu, s, o);
    if (lane == 0) y[row] = s;
  }
}
""",
    (launch("row_sum", ["min(cdiv(B, 8), 512)"], [256], "x", "y", "i32(B)", "i32(N)"),),
    (*dense(x="B, N", y="B"), "B <= 2000000000"),
)

MORE["row_in_shared"] = Case(
    HEAD + ROWS.replace("where N >= 1", "where N >= 1, N <= 1024"),
    """
extern "C" __global__ void row_softmax(const float *x, float *y, int n) {
  __shared__ float row[1024];
  __shared__ float red[8];
  const int t = threadIdx.x;
  float m = -INFINITY;
  for (int j = t; j < n; j += 256) { row[j] = x[(size_t)blockIdx.x * n + j]; m = fmaxf(m, row[j]); }
  for (int o = 16; o > 0; o >>= 1) m = fmaxf(m, __shfl_xor_sync(~0u, m, o));
  if (t % 32 == 0) red[t / 32] = m;
  __syncthreads();
  m = red[0];
  for (int k = 1; k < 8; ++k) m = fmaxf(m, red[k]);
  __syncthreads();
  float s = 0.f;
  for (int j = t; j < n; j += 256) { row[j] = expf(row[j] - m); s += row[j]; }
  for (int o = 16; o > 0; o >>= 1) s += __shfl_xor_sync(~0u, s, o);
  if (t % 32 == 0) red[t / 32] = s;
  __syncthreads();
  s = 0.f;
  for (int k = 0; k < 8; ++k) s += red[k];
  for (int j = t; j < n; j += 256) y[(size_t)blockIdx.x * n + j] = row[j] / s;
}
""",
    (launch("row_softmax", ["B"], [256], "x", "y", "i32(N)"),),
    dense(x="B, N", y="B, N"),
)

MORE["row_in_registers"] = Case(
    HEAD + ROWS.replace("where N >= 1", "where N >= 1, N <= 256"),
    """
extern "C" __global__ void row_softmax(const float *x, float *y, int rows, int n) {
  const int row = blockIdx.x * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  float v[8];
  float m = -INFINITY;
  #pragma unroll
  for (int k = 0; k < 8; ++k) {
    const int j = k * 32 + threadIdx.x;
    v[k] = j < n ? x[(size_t)row * n + j] : -INFINITY;
    m = fmaxf(m, v[k]);
  }
  #pragma unroll
  for (int o = 16; o > 0; o >>= 1) m = fmaxf(m, __shfl_xor_sync(0xffffffff, m, o));
  float s = 0.f;
  #pragma unroll
  for (int k = 0; k < 8; ++k) { v[k] = expf(v[k] - m); s += v[k]; }
  #pragma unroll
  for (int o = 16; o > 0; o >>= 1) s += __shfl_xor_sync(0xffffffff, s, o);
  #pragma unroll
  for (int k = 0; k < 8; ++k) {
    const int j = k * 32 + threadIdx.x;
    if (j < n) y[(size_t)row * n + j] = v[k] / s;
  }
}
""",
    (launch("row_softmax", ["cdiv(B, 4)"], [32, 4], "x", "y", "i32(B)", "i32(N)"),),
    dense(x="B, N", y="B, N"),
)

MORE["window"] = Case(
    HEAD
    + """
op mp @ 1.0 {
  dims  H, W
  where H >= 1, W >= 1
  input x: f32[H, W]
  output y: f32[H, W]
  def {
    y[i, j] = max[p: 3, q: 3](if i + p >= 1 and i + p <= H and j + q >= 1 and j + q <= W
      then x[i + p - 1, j + q - 1] else -inf)
  }
}
""",
    """
extern "C" __global__ void mp(const float *x, float *y, int h, int w) {
  const int j = blockIdx.x * 16 + threadIdx.x, i = blockIdx.y * 16 + threadIdx.y;
  if (i >= h || j >= w) return;
  float m = -INFINITY;
  for (int dy = -1; dy <= 1; dy++) {
    int yy = i + dy;
    if (yy < 0 || yy >= h) continue;
    for (int dx = -1; dx <= 1; dx++) {
      int xx = j + dx;
      if (xx < 0 || xx >= w) continue;
      m = max(m, x[(long long)yy * w + xx]);
    }
  }
  y[(long long)i * w + j] = m;
}
""",
    (launch("mp", ["cdiv(W, 16)", "cdiv(H, 16)"], [16, 16], "x", "y", "i32(H)", "i32(W)"),),
    (*dense(x="H, W", y="H, W"), "H <= 1000000"),
)

MORE["downwards"] = Case(
    HEAD + ROW_SUM,
    """
extern "C" __global__ void row_sum(const float *x, float *y, int n) {
  __shared__ float s[256];
  int t = threadIdx.x;
  float a = 0.0f;
  for (int j = n - 1 - t; j >= 0; j -= 256) a += x[(size_t)blockIdx.x * n + j];
  s[t] = a;
  __syncthreads();
  int w = 128;
  while (w > 0) {
    if (t < w) s[t] = s[t] + s[t + w];
    __syncthreads();
    w = w / 2;
  }
  if (t == 0) y[blockIdx.x] = s[0];
}
""",
    (launch("row_sum", ["B"], [256], "x", "y", "i32(N)"),),
    dense(x="B, N", y="B"),
)

MORE["permuted"] = Case(
    HEAD
    + """
op avg @ 1.0 {
  dims  B, C, P
  where P >= 1
  input x: f32[B, P, C]
  output y: f32[B, C, P]
  def { y[b, c, p] = x[b, p, c] }
}
""",
    """
extern "C" __global__ void avg(const float *x, float *y, int c, int p, int total) {
  int e = blockIdx.x * blockDim.x + threadIdx.x;
  if (e < total) {
    int pp = e % p;
    int r = e / p;
    int cc = r % c;
    int b = r / c;
    y[e] = x[(b * p + pp) * c + cc];
  }
}
""",
    (
        launch(
            "avg", ["cdiv(B * C * P, 256)"], [256], "x", "y", "i32(C)", "i32(P)", "i32(B * C * P)"
        ),
    ),
    (*dense(x="B, P, C", y="B, C, P"), "B * C * P <= 2000000000", "C >= 1"),
)
