"""What is read of a disassembly, and of what the compiler says about loops."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from opwright.backends.cpp.build import build
from opwright.backends.cpp.inspection import count, instructions, vectorised

TEXT = """
0000000000001100 <k>:
    1100:\tvaddps (%rdi),%ymm0,%ymm0
    1104:\tvfmadd231ss %xmm1,%xmm2,%xmm3
    1108:\tcall   1030 <expf@plt>
    110d:\tcall   1040 <free@plt>
    1112:\tvmovaps %ymm0,-0x20(%rsp)
    1118:\tvgatherdps %ymm1,(%rax,%ymm2,4),%ymm3
    111e:\tadd    $0x1,%rax
"""
LOOP = """extern "C" void k(const float *x, float *y, long n) {
#pragma omp simd
  for (long i = 0; i < n; ++i) y[i] = 2.0f * x[i] + 1.0f;
}
"""


def test_counts_of_a_disassembly() -> None:
    found = count(TEXT)
    wanted = {"all": 7, "float": 2, "packed": 1, "gathers": 1, "calls": 1, "spills": 1}
    assert found == wanted


@pytest.mark.skipif(shutil.which("objdump") is None, reason="there is no disassembler here")
def test_a_library_and_its_loops(tmp_path: Path) -> None:
    made = build(LOOP, "", tmp_path, "x86-64-v3")
    found = instructions(made.path)
    assert found["packed"] > 0 and found == instructions(made.path)
    assert vectorised(LOOP, "x86-64-v3")[0].startswith("line 3: loop vectorized")
    assert vectorised(LOOP.replace("#pragma omp simd", "").replace("2.0f * x[i]", "y[i - 1]"),
                      "x86-64-v3") == []  # fmt: skip
