"""Vectors in shared memory: rows of an array may put them where no vector starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.cuda_judge import judge
from support.cuda_kernels import HEAD, Case, dense, launch

pytest.importorskip("clang.cindex", reason="libclang reads CUDA texts")

COPY = (
    HEAD
    + """
op copy @ 1.0 {
  dims  N
  where N >= 1
  input x: f32[N]
  output y: f32[N]
  def { y[i] = x[i] }
}
"""
)
KERNEL = """
extern "C" __global__ void copy(const float* x, float* y) {
  __shared__ ALIGN float s[8][WIDTH];
  const int t = threadIdx.x;
  const long long first = (long long)blockIdx.x * 128;
  for (int k = 0; k < 4; ++k) s[k * 2 + t / 16][t % 16] = x[first + k * 32 + t];
  __syncthreads();
  const float4 v = *reinterpret_cast<const float4*>(&s[t / 4][t % 4 * 4]);
  y[first + t * 4] = v.x;
  y[first + t * 4 + 1] = v.y;
  y[first + t * 4 + 2] = v.z;
  y[first + t * 4 + 3] = v.w;
}
"""


def found(width: int, tmp_path: Path, align: str = "__align__(16)"):
    plan = launch("copy", ["N // 128"], [32], "x", "y")
    case = Case(COPY, "", (plan,), (*dense(x="N", y="N"), "N % 128 == 0"))
    text = KERNEL.replace("WIDTH", str(width)).replace("ALIGN", align)
    return judge(case, tmp_path, text, run=False)


@pytest.mark.parametrize("width, said", [(16, "PROVED"), (20, "PROVED"), (17, ""), (18, "")])
def test_rows_of_shared_arrays_start_at_vectors(width: int, said: str, tmp_path: Path) -> None:
    records = found(width, tmp_path).records
    aligned = [r for r in records if r.id.startswith("G2.align")]
    assert aligned
    assert all(r.status == "PROVED" for r in aligned) == (said == "PROVED")
    assert all(r.status == "PROVED" for r in records if r.kind in ("G1", "G3"))


def test_an_alignment_that_is_not_declared_is_assumed(tmp_path: Path) -> None:
    said = "shared arrays start at multiples of 16 bytes"
    assert said not in found(16, tmp_path).program.assumes
    assert said in found(16, tmp_path, "").program.assumes
    assert said in found(16, tmp_path, "__align__(8)").program.assumes
