"""A small operator and a kernel of it that a person wrote: right, for faults to be seeded into."""

from __future__ import annotations

from typing import Any

SPEC = """opwright "0.1"

op centred @ 1.0 "Rows less their mean." {
  dims B, N
  where 1 <= N
  input x: f32[B, N]
  output y: f32[B, N]
  def { y[b, j] = x[b, j] - sum[k: N](x[b, k]) / N }
  tolerance versus f64 { f32: abs 1e-5 rel 1e-5 }
}
"""
KERNEL = """#include <cstdint>
extern "C" void rows(const float *x, float *y, int64_t B, int64_t N, int64_t pid0, int64_t pid1,
                     int64_t pid2) {
  float s = 0.0f;
  for (int64_t j = 0; j < N; j++) s += x[pid0 * N + j];
  for (int64_t j = 0; j < N; j++) y[pid0 * N + j] = x[pid0 * N + j] - s / (float)N;
}
"""
PLAN: dict[str, Any] = {
    "abi": 1,
    "op": "centred@1.0",
    "target": "cpu(x86_64)",
    "backend": "cpp",
    "source": "kernel.cpp",
    "facts": [f"stride({t}, 0) == N" for t in "xy"] + [f"stride({t}, 1) == 1" for t in "xy"],
    "launches": [{"kernel": "rows", "grid": ["B"], "args": ["x", "y", "B", "N"]}],
}
