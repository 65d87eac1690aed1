"""Functions that printed texts bring along: what they compute, and when they are taken for it."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support.cuda_judge import judge
from support.cuda_kernels import HEAD, Case, dense, launch

from opwright.backends.cuda.library import LOADED, TEXTS
from opwright.ir.dtypes import DTYPES, decode
from opwright.ir.philox import normal, uniform

WRAPPED = """
#include <math.h>
#define __device__
#define __forceinline__ static inline
{texts}
extern "C" float draw(long long s, long long p, long long t) {{ return random_uniform(s, p, t); }}
extern "C" float bell(long long s, long long p, long long t) {{ return random_normal(s, p, t); }}
extern "C" float small0(unsigned char b) {{ return load_f8e4m3(&b); }}
extern "C" float small1(unsigned char b) {{ return load_f8e5m2(&b); }}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("library")
    (folder / "a.cpp").write_text(WRAPPED.format(texts="".join(TEXTS.values())))
    command = ["g++", "-O1", "-shared", "-fPIC", "-o", str(folder / "a.so"), str(folder / "a.cpp")]
    subprocess.run(command, check=True, timeout=60)
    return ctypes.CDLL(str(folder / "a.so"))


def test_random_numbers_are_those_of_specs(library: ctypes.CDLL) -> None:
    for name, meant in (("draw", uniform), ("bell", normal)):
        made = getattr(library, name)
        made.restype, made.argtypes = ctypes.c_float, [ctypes.c_longlong] * 3
        for words in [(0, 0, 0), (7, 1, 2), (-3, 2**40 + 5, 9), (2**62, 12345678901, 2**33)]:
            assert made(*words) == np.float32(meant(*words))


def test_small_numbers_are_what_their_types_hold(library: ctypes.CDLL) -> None:
    for n, kind in enumerate(LOADED.values()):
        made = getattr(library, f"small{n}")
        made.restype, made.argtypes = ctypes.c_float, [ctypes.c_ubyte]
        codes = np.arange(256, dtype=np.uint8)
        found = np.array([made(int(c)) for c in codes], np.float32)
        meant = decode(codes, DTYPES[kind]).astype(np.float32)
        assert np.array_equal(found, meant, equal_nan=True), kind


SPEC = (
    HEAD
    + """
op noise @ 1.0 {
  dims  N
  where N >= 1
  param seed: i64 = 0
  input x: f32[N]
  output y: f32[N]
  def { y[i] = x[i] + rand(seed, i, 0) }
}
"""
)
KERNEL = """#include <stdint.h>
{text}
extern "C" __global__ void noise(const float *x, float *y, long long N, long long seed) {{
  const long long i = (long long)blockIdx.x * 64 + threadIdx.x;
  if (i < N) y[i] = x[i] + random_uniform(seed, i, 0);
}}
"""
OWN = TEXTS["random_uniform"]
WRONG = {
    "another constant": OWN.replace("2654435769u", "2654435768u"),
    "another space": OWN.replace("n < 10", "n <10"),
    "a macro": "#define unsigned short\n" + OWN,
    "a macro that ends later": "#define long \\\n  int\n" + OWN,
    "a condition": "#if 1\n" + OWN + "#endif\n",
    "a digraph": "%:define unsigned short\n" + OWN,
    "another line": '#line 100 "a"\n' + OWN,
}


def noise(text: str, folder: Path):
    plan = launch("noise", ["cdiv(N, 64)"], [64], "x", "y", "N", "seed")
    case = Case(SPEC, "", (plan,), dense(x="N", y="N"))
    return judge(case, folder, KERNEL.format(text=text))


def test_the_text_of_a_function_is_its_operation(tmp_path: Path) -> None:
    pytest.importorskip("clang.cindex", reason="libclang reads CUDA texts")
    assert all(r.status == "PROVED" for r in noise(OWN, tmp_path).records)


@pytest.mark.parametrize("how", list(WRONG))
def test_another_text_is_not(how: str, tmp_path: Path) -> None:
    pytest.importorskip("clang.cindex", reason="libclang reads CUDA texts")
    found = noise(WRONG[how], tmp_path).records
    assert any(r.status != "PROVED" for r in found)
    assert not any(r.kind == "G5" and r.status == "PROVED" for r in found)
