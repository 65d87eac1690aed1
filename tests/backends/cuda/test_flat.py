"""CUDA kernels over whole buffers: vectors of four, and constants that headers define."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.cuda_judge import judge
from support.cuda_kernels import HEAD, Case, dense, launch

pytest.importorskip("clang.cindex", reason="libclang reads CUDA texts")

GATED = (
    HEAD
    + """op gated @ 1.0 {
  dims  M, N
  where N % 4 == 0
  input a: f32[M, N], b: f32[M, N]
  output y: f32[M, N]
  def { y[i, j] = a[i, j] / (1 + exp(-a[i, j])) * b[i, j] }
}
"""
)
FOUR = r"""
__device__ inline float gate(float v) { return v / (1.0f + __expf(-v)); }
extern "C" __global__ void gated(const float* a, const float* b, float* y, long long total) {
  long long i = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * 4;
  if (i >= total) return;
  float4 p = *reinterpret_cast<const float4*>(a + i);
  float4 q = *reinterpret_cast<const float4*>(b + i);
  *reinterpret_cast<float4*>(y + i) =
      make_float4(gate(p.x) * q.x, gate(p.y) * q.y, gate(p.z) * q.z, gate(p.w) * q.w);
}
"""
ALIGNED = tuple(f"aligned({x}, 16)" for x in "aby")
VECTORS = Case(
    GATED,
    FOUR,
    (launch("gated", ["cdiv(M * N, 1024)"], [256], "a", "b", "y", "M * N"),),
    (*dense(a="M, N", b="M, N", y="M, N"), *ALIGNED),
)
NEAR = (
    (GATED, FOUR.replace("i >= total", "i > total")),
    (GATED, FOUR.replace("(y + i)", "(y + i + 1)")),
    (GATED, FOUR.replace("gate(p.z) * q.z", "gate(p.z) * q.w")),
    (GATED.replace("N % 4", "N % 2"), FOUR),
)


def test_a_buffer_of_whole_vectors_is_proved(tmp_path: Path) -> None:
    records = judge(VECTORS, tmp_path).records
    assert {r.status for r in records} == {"PROVED"}, [r for r in records if r.status != "PROVED"]


@pytest.mark.parametrize(("spec", "text"), NEAR)
def test_what_is_almost_whole_vectors_is_not(spec: str, text: str, tmp_path: Path) -> None:
    case = Case(spec, text, VECTORS.launches, VECTORS.facts)
    assert {r.status for r in judge(case, tmp_path).records} != {"PROVED"}


def test_constants_of_a_header(tmp_path: Path) -> None:
    spec = (
        HEAD
        + """op top @ 1.0 {
  dims  M, N
  where N >= 1
  input x: f32[M, N]
  output y: f32[M]
  def { y[i] = max[j: N](x[i, j]) }
}
"""
    )
    text = r"""
#include <math_constants.h>
extern "C" __global__ void top(const float* x, float* y, long long m, long long n) {
  const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= m) return;
  float best = -CUDART_INF_F;
  for (long long j = 0; j < n; j++) best = fmaxf(best, x[i * n + j]);
  y[i] = best;
}
"""
    kernel = launch("top", ["cdiv(M, 128)"], [128], "x", "y", "M", "N")
    right = Case(spec, text, (kernel,), dense(x="M, N", y="M"))
    assert {r.status for r in judge(right, tmp_path).records} == {"PROVED"}
    wrong = text.replace("-CUDART_INF_F", "CUDART_ZERO_F")
    assert {r.status for r in judge(right, tmp_path, wrong).records} != {"PROVED"}
