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
        return self.spec.split("op ")[1].split(" @")[0]

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


POINTWISE = (
    HEAD
    + """
op relu_bias @ 1.0 {
  dims  M, N
  input x: f32[M, N]
  input b: f32[N]
  output y: f32[M, N]
  def { y[i, j] = max(x[i, j] + b[j], 0.0) }
}
"""
)

CASES: dict[str, Case] = {
    "guarded": Case(
        POINTWISE,
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
}
