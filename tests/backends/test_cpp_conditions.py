"""A text means one program: nothing in it may ask who reads or compiles it."""

from __future__ import annotations

import pytest

from opwright.backends.cpp.policy import check_policy
from opwright.backends.cuda.policy import check_policy as check_cuda
from opwright.ir.launch import ImportRefusal

KERNEL = (
    'extern "C" void k(const float *x, float *y, long n, long p, long, long) { y[p] = W x[p]; }\n'
)
DEVICE = 'extern "C" __global__ void k(const float *x, float *y, long long n) { y[0] = W x[0]; }\n'


def two(condition: str) -> str:
    return f"#{condition}\n#define W 2.0f *\n#else\n#define W\n#endif\n"


WRONG = [
    two("ifdef __clang__"), two("ifndef __GNUC__"), two("if __GNUC__ > 4"),
    two("if 0\n#elif __AVX__"),
    two("ifdef __OPTIMIZE__"), two("if defined(_OPENMP)"), two("if __cplusplus > 201402L"),
    two("ifdef linux"), two("ifdef unix"), two("if __has_include(<vector>)"),
    two("ifdef INT64_MAX"),
    two("ifdef M_PI"), two("ifdef FLT_MAX"), two("ifdef NAN"), two("ifdef _CMATH_"), two("if A"),
    two("if __has_builtin(__builtin_expf)"), two("ifdef __CUDA_ARCH__"), two("ifdef __NVCC__"),
    two("ifdef assert"), two("ifdef bool"), two("ifdef W"), two("ifndef W\n#define W\n#define V"),
    "#ifndef M_PI\n#define M_PI 3.0\n#endif\n#define W M_PI *\n",
    "#ifndef FLT_MAX\n#define FLT_MAX 3.0f\n#endif\n#define W FLT_MAX *\n",
    "#ifndef A\n#define A 1\n#define W 2.0f *\n#endif\n",
    "#ifndef A\nstatic const float a = 1;\n#define A 1\n#endif\n#define W\n",
    "#ifndef __clang__\n#define __clang__ 1\n#endif\n#define W\n",
    "#define A 1\n#undef A\n#ifdef A\n#define W\n#else\n#define W 2.0f *\n#endif\n",
    "#undef __GNUC__\n#define W\n", "#define __GNUC__ 3\n#define W\n", "#define W __GNUC__ *\n",
    "#define W __LINE__ *\n", "#define W __COUNTER__ *\n",
    "#define W (__builtin_constant_p(p) + 1) *\n",
    "#define W (__builtin_is_constant_evaluated() + 1) *\n", "#define W sizeof(__FILE__) *\n",
    "#define W __FLT_MAX__ *\n", "#define W sizeof(__func__) *\n", "#define W __builtin_LINE() *\n",
    "#define W (__has_builtin(__builtin_expf) + 1) *\n", "#define W __SIZEOF_LONG_DOUBLE__ *\n",
]  # fmt: skip
RIGHT = [
    "#define W 2.0f *\n",
    "#define BLOCK 64\n" + two("if BLOCK > 32"),
    "#define FAST\n" + two("ifdef FAST"),
    "#ifndef TILE\n#define TILE 16\n#endif\n#define W TILE *\n",
    "#ifndef TILE\n#define TILE 16\n#endif\n" + two("if TILE == 16 && !defined(TILE)"),
    two("if 1"),
    "#define A(...) __VA_ARGS__\n#define W A(2.0f) *\n",
]


def refused(source: str, cuda: bool) -> str:
    try:
        (check_cuda if cuda else check_policy)(source, "kernel.cu" if cuda else "kernel.cpp")
    except ImportRefusal as e:
        return str(e)
    return ""


@pytest.mark.parametrize("cuda", [False, True], ids=["cpp", "cuda"])
@pytest.mark.parametrize("head", WRONG)
def test_what_compilers_differ_in_is_refused(head: str, cuda: bool) -> None:
    assert refused(head + (DEVICE if cuda else KERNEL), cuda)


@pytest.mark.parametrize("cuda", [False, True], ids=["cpp", "cuda"])
@pytest.mark.parametrize("head", RIGHT)
def test_what_a_text_defines_itself_is_not(head: str, cuda: bool) -> None:
    assert not refused(head + (DEVICE if cuda else KERNEL), cuda)
