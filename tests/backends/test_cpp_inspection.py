"""What is read of a disassembly, and of what the compiler says about loops."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from opwright.backends.cpp.build import build
from opwright.backends.cpp.disassembly import read
from opwright.backends.cpp.inspection import count, inspect, instructions, notes, vectorised

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
    loops = inspect(made.path)["loops"]
    assert loops[0]["function"] == "k" and loops[0]["width"] == 32 and loops[0]["stores"] >= 1
    assert vectorised(LOOP, "x86-64-v3")[0].startswith("line 3: loop vectorized")
    assert vectorised(LOOP.replace("#pragma omp simd", "").replace("2.0f * x[i]", "y[i - 1]"),
                      "x86-64-v3") == []  # fmt: skip


NESTED = """
0000000000001100 <k>:
    1100:\txor    %eax,%eax
    1104:\tvxorps %xmm0,%xmm0,%xmm0
    1108:\tvaddps (%rdi,%rax,4),%zmm0,%zmm0
    110c:\tvfmadd231ps 0x40(%rdi,%rax,4){1to16},%zmm1,%zmm2
    1110:\tvmovups %zmm2,(%rsi,%rax,4)
    1114:\tvmovaps %zmm3,-0x40(%rsp)
    1118:\tprefetcht0 0x400(%rdi,%rax,4)
    111c:\tadd    $0x10,%rax
    1120:\tjne    1108 <k+0x8>
    1124:\tadd    $0x10,%rdi
    1128:\tjne    1104 <k+0x4>
    112c:\tret
0000000000001130 <_ZN12_GLOBAL__N_15shareEPNS_4teamEll>:
    1130:\tvaddps %zmm0,%zmm0,%zmm0
    1134:\tjmp    1130 <_ZN12_GLOBAL__N_15shareEPNS_4teamEll>
"""


def test_a_trip_of_the_innermost_loop() -> None:
    found = read(NESTED)
    assert found.counts["packed"] == 2, "what launches kernels is not counted"
    (loop,) = found.loops
    assert (loop.function, loop.depth, loop.width, loop.elements) == ("k", 2, 64, 17)
    assert (loop.loads, loop.stores, loop.load_bytes, loop.store_bytes) == (2, 1, 68, 64)
    assert (loop.fma, loop.operations, loop.spills, loop.prefetches) == (1, 48, 1, 1)
    assert loop.cycles["dependence"] == 4 and loop.bound == "dependence"


def test_independent_trips_wait_for_nothing() -> None:
    (loop,) = read(NESTED.replace("%zmm0,%zmm0\n    110c", "%zmm0,%zmm4\n    110c").replace(
        "vfmadd231ps 0x40(%rdi,%rax,4){1to16},%zmm1,%zmm2", "vmulps %zmm1,%zmm4,%zmm2"
    )).loops  # fmt: skip
    assert "dependence" not in loop.cycles


@pytest.mark.parametrize("text", ["", "k:", "0000 <k>:\n  10:\tjmp 10 <k>", "  1:\tjne (bad)"])
def test_any_text_is_read(text: str) -> None:
    assert set(read(text).counts) == {"all", "float", "packed", "gathers", "calls", "spills"}


def test_what_the_compiler_says() -> None:
    log = """kernel.cpp:3:5: optimized: loop vectorized using 64 byte vectors
kernel.cpp:4:5: missed: couldn't vectorize loop
kernel.cpp:4:5: missed: not vectorized: number of iterations cannot be computed.
kernel.cpp:5:5: missed: not vectorized: no vectype for stmt: _9 = *_8;
other.h:4:5: missed: not vectorized: number of iterations cannot be computed.
"""
    found = notes(log)
    assert found.vectorised == ("line 3: loop vectorized using 64 byte vectors",)
    assert found.scalar == ("line 4: number of iterations cannot be computed.",)
