"""What a C++ candidate's text may hold: right texts pass, every trick has its line."""

from __future__ import annotations

import pytest

from opwright.backends.cpp.policy import breaches, check_policy
from opwright.ir.launch import ImportRefusal

RIGHT = """
#include <math.h>
#include <stdint.h>
#include <algorithm>
#define INLINE static inline __attribute__((always_inline))

namespace {
constexpr int64_t block = 256;  // system("no comment is code")
const float table[2] = {0.5f, 1.0f};
typedef float wide __attribute__((vector_size(32)));
template <class T> INLINE T twice(T x) { return x + x; }
struct pair { float a, b; };
}

extern "C" void scale(const float *x, float *y, int64_t n, int64_t pid0, int64_t, int64_t) {
  const int64_t end = std::min<int64_t>((pid0 + 1) * block, n);
  auto half = [](float v) { return 0.5f * v; };
  [[maybe_unused]] pair p = {table[0], table[1]};
#pragma omp simd
  for (int64_t i = pid0 * block; i < end; ++i) y[i] = half(twice(tanhf(x[i])) * float(p.a));
}
"""


def test_right_text() -> None:
    assert breaches(RIGHT) == []


def fenced(text: str) -> list[tuple[int, str]]:
    return breaches(
        RIGHT.replace("const int64_t end", f"float a = 1, b = 2; {text} const int64_t end")
    )


def test_fences_that_keep_their_values() -> None:
    assert fenced('asm("" : "+x"(a));') == fenced('asm volatile("" : "+x"(a), "+x"(b));') == []


@pytest.mark.parametrize(
    "text",
    [
        'asm("" : "=x"(a));',  # what it holds afterwards is anything
        'asm("nop" : "+x"(a));',
        'asm("" : "+x"(a) : : "memory");',
        'asm("" : "+x"(a) : "x"(b));',
        'asm("" "int3" : "+x"(a));',
        'asm("" : "+x"(twice(a)));',
    ],
)
def test_other_assembler(text: str) -> None:
    assert [what for _, what in fenced(text)] == ["asm: assembler"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("#include <math.h>", "#include <stdio.h>", "#include <stdio.h>"),
        ("#include <math.h>", '#include "math.h"', "#include"),
        ("#include <math.h>", "#include_next <math.h>", "#include_next"),
        ("const int64_t end", 'system("true"); const int64_t end', "system"),
        ("const int64_t end", 'asm volatile(""); const int64_t end', "assembler"),
        ("const int64_t end", "static int calls; const int64_t end", "outlives a call"),
        ("const int64_t end", "helper(n); const int64_t end", "helper(...) is neither"),
        ("const int64_t end", "float *t = new float[4]; const int64_t end", "memory of its own"),
        ("const int64_t end", "std::thread t; const int64_t end", "thread"),
        ("const int64_t end", "std::vector<int> t; const int64_t end", "std::vector"),
        ("const int64_t end", "auto f = getenv; const int64_t end", "getenv"),
        ("constexpr int64_t block", "int64_t calls; constexpr int64_t block", "calls: state"),
        ("constexpr int64_t block", "thread_local int c; constexpr int64_t block", "thread-local"),
        ("constexpr int64_t block", "float once = tanhf(1); constexpr int64_t block", "once"),
        ("constexpr int64_t block", "int puts(const char *); constexpr int64_t block", "puts"),
        ("constexpr int64_t block", "long sysconf(int); constexpr int64_t block", "elsewhere"),
        ("constexpr int64_t block", "extern int e; constexpr int64_t block", "extern"),
        ("struct pair", "__attribute__((constructor)) void f() {} struct pair", "constructor"),
        ("#define INLINE", "#define GLUE(a, b) a##b\n#define INLINE", "pastes"),
        ("#define INLINE", "#define static\n#define INLINE", "has a meaning already"),
        ("#pragma omp simd", "#pragma omp target", "#pragma omp target"),
        ("#pragma omp simd", "#pragma GCC optimize", "#pragma GCC optimize"),
        ("[](float v)", "[](float v) mutable", None),
        ("// system", "/* x */ // system", None),
    ],
)
def test_breaches(old: str, new: str, words: str | None) -> None:
    assert RIGHT.count(old) == 1
    text = RIGHT.replace(old, new)
    found = breaches(text)
    if words is None:
        assert found == []
        return
    assert any(words in what for _, what in found), found
    line = text[: text.index(new)].count("\n") + 1
    assert {n for n, _ in found} <= set(range(line, line + 3))
    with pytest.raises(ImportRefusal, match=r"^kernel.cpp:\d+: "):
        check_policy(text, "kernel.cpp")


def test_spliced_lines_keep_their_numbers() -> None:
    found = breaches("#define A \\\n  1\n\nint64_t calls;\n")
    assert found == [(4, "calls: state that outlives a call")]
