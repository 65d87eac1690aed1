"""The smallest operator that is worth a search, and a right C++ candidate of it."""

from __future__ import annotations

from typing import Any

SPEC = """opwright "0.1"

op halved @ 1.0 {
  dims  N
  input x: f32[N]
  output y: f32[N]
  def { y[i] = 0.5 * x[i] }
  workload one weight 1.0 { N = 3000, x ~ normal(0, 1) }
}
"""


def source(block: int = 1000, factor: str = "0.5f", simd: bool = True) -> str:
    """A program for every `block` elements."""
    pragma = "#pragma omp simd\n" if simd else ""
    return f"""#include <stdint.h>

extern "C" void halve(const float *x, float *y, int64_t n, int64_t pid0, int64_t, int64_t) {{
  const int64_t begin = pid0 * {block};
  const int64_t end = begin + {block} < n ? begin + {block} : n;
{pragma}  for (int64_t i = begin; i < end; ++i) {{
    y[i] = {factor} * x[i];
  }}
}}
"""


def plan(block: int = 1000) -> dict[str, Any]:
    """What would be its candidate.json."""
    return {
        "abi": 1,
        "op": "halved@1.0",
        "target": "cpu",
        "backend": "cpp",
        "source": "kernel.cpp",
        "facts": ["stride(x, 0) == 1", "stride(y, 0) == 1"],
        "launches": [{"kernel": "halve", "grid": [f"cdiv(N, {block})"], "args": ["x", "y", "N"]}],
    }


SOURCE, PLAN = source(), plan()
