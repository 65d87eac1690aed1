"""Faults seeded into C++ at the places that libclang finds."""

from __future__ import annotations

from collections import Counter

import pytest

from opwright.backends.cpp.mutate import cpp_mutants
from opwright.ir.launch import ImportRefusal
from opwright.ir.mutant import difference

KERNEL = """#include <cstdint>
#include <cmath>
extern "C" void rows(const float *x, float *y, int64_t B, int64_t N, int64_t pid0, int64_t pid1,
                     int64_t pid2) {
  float s = 0.0f;
  for (int64_t j = 0; j < N; j++) s += expf(x[pid0 * N + j]);
  for (int64_t j = 0; j < N; j++) y[pid0 * N + j] = x[pid0 * N + j] - s / (float)N;
}
"""


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("comparison", "j < N -> j <= N"),
        ("bound", "j < N -> j < B"),
        ("stride", "pid0 * N -> pid0 * B"),
        ("offset", "x[pid0 * N + j] -> x[pid0 * N + j + 1]"),
        ("loop", "j++ -> j += 2"),
        ("accumulator", "s += expf(x[pid0 * N + j]) -> s = expf(x[pid0 * N + j])"),
        ("constant", "0.0f -> 1.0f"),
        ("term_dropped", "s / (float)N -> (s)"),
        ("narrow", "int64_t j = 0 -> int32_t j = 0"),
        ("precision", "0.0f -> (float)(__bf16)(0.0f)"),
        ("operation", "expf(x[pid0 * N + j]) -> exp2f(x[pid0 * N + j])"),
    ],
)
def test_a_fault(kind: str, what: str) -> None:
    found = [m for m in cpp_mutants(KERNEL) if m.kind == kind]
    assert what in [m.what for m in found], [m.what for m in found]
    assert all(len(difference(KERNEL, m.text)) == 2 for m in found)
    assert all(m.place.startswith("kernel.cpp:") and m.place.endswith(", rows") for m in found)


def test_the_number_of_faults() -> None:
    found = cpp_mutants(KERNEL)
    assert len({m.text for m in found}) == len(found) > 40
    assert Counter(m.kind for m in found)["stride"] == 3


def test_what_does_not_parse() -> None:
    with pytest.raises(ImportRefusal, match=r"kernel\.cpp:1"):
        cpp_mutants("int f( {")
