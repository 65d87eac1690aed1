"""What this machine can do, measured: multiply-adds, reading and copying, with all its threads.

A small C++ program is built and run; the best of several repetitions counts, since a limit is
what nothing exceeds. `share` says how near to these limits an operator's time is.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from opwright.backends.cpp.build import compiler
from opwright.ir.expr import ExprError, evaluate
from opwright.ir.formulas import compulsory_bytes, flops
from opwright.ir.op import Operator

SECONDS = 120.0
SOURCE = r"""
#include <immintrin.h>
#include <omp.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#if defined(__AVX512F__)
using V = __m512; enum { W = 16 };
static inline V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
static inline V load(const float* p) { return _mm512_load_ps(p); }
static inline V add(V a, V b) { return _mm512_add_ps(a, b); }
static inline V all(float x) { return _mm512_set1_ps(x); }
static inline void stream(float* p, V v) { _mm512_stream_ps(p, v); }
static inline void store(float* p, V v) { _mm512_storeu_ps(p, v); }
#elif defined(__AVX2__)
using V = __m256; enum { W = 8 };
static inline V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
static inline V load(const float* p) { return _mm256_load_ps(p); }
static inline V add(V a, V b) { return _mm256_add_ps(a, b); }
static inline V all(float x) { return _mm256_set1_ps(x); }
static inline void stream(float* p, V v) { _mm256_stream_ps(p, v); }
static inline void store(float* p, V v) { _mm256_storeu_ps(p, v); }
#endif
static volatile float sink;

static double fmas(long steps) {
  double begin = omp_get_wtime();
  #pragma omp parallel
  {
    V a = all(1.0f + 1e-9f * omp_get_thread_num()), b = all(1e-9f);
    // chains that were equal would be computed once
    V c0 = all(0), c1 = all(1), c2 = all(2), c3 = all(3), c4 = all(4), c5 = all(5);
    V c6 = all(6), c7 = all(7), c8 = all(8), c9 = all(9), ca = all(10), cb = all(11);
    for (long i = 0; i < steps; ++i) {
      c0 = fma(a, b, c0); c1 = fma(a, b, c1); c2 = fma(a, b, c2); c3 = fma(a, b, c3);
      c4 = fma(a, b, c4); c5 = fma(a, b, c5); c6 = fma(a, b, c6); c7 = fma(a, b, c7);
      c8 = fma(a, b, c8); c9 = fma(a, b, c9); ca = fma(a, b, ca); cb = fma(a, b, cb);
      asm volatile("" : "+x"(a), "+x"(b));
    }
    V s = add(add(add(c0, c1), add(c2, c3)), add(add(c4, c5), add(c6, c7)));
    s = add(s, add(add(c8, c9), add(ca, cb)));
    float out[W];
    store(out, s);
    sink = out[0];
  }
  return omp_get_wtime() - begin;
}

static double reads(const float* x, long n, int streams) {
  double begin = omp_get_wtime();
  #pragma omp parallel
  {
    long threads = omp_get_num_threads(), part = n / threads / W / streams * W;
    const float* at = x + (long)omp_get_thread_num() * part * streams;
    V s[8];
    for (int k = 0; k < 8; ++k) s[k] = all(0.0f);
    if (streams == 8) {
      for (long i = 0; i < part; i += W)
        for (int k = 0; k < 8; ++k) s[k] = add(s[k], load(at + k * part + i));
    } else {
      for (long i = 0; i + 8 * W <= part; i += 8 * W) {
        _mm_prefetch((const char*)(at + i + 1024), _MM_HINT_T0);
        for (int k = 0; k < 8; ++k) s[k] = add(s[k], load(at + i + k * W));
      }
    }
    V t = add(add(add(s[0], s[1]), add(s[2], s[3])), add(add(s[4], s[5]), add(s[6], s[7])));
    float out[W];
    store(out, t);
    sink = out[0];
  }
  return omp_get_wtime() - begin;
}

static double copies(float* y, const float* x, long n) {
  double begin = omp_get_wtime();
  #pragma omp parallel
  {
    long threads = omp_get_num_threads(), part = n / threads / (4 * W) * (4 * W);
    long from = (long)omp_get_thread_num() * part;
    for (long i = from; i < from + part; i += 4 * W)
      for (int k = 0; k < 4; ++k) stream(y + i + k * W, load(x + i + k * W));
    _mm_sfence();
  }
  return omp_get_wtime() - begin;
}

static float* pages(long bytes) {
  void* p = aligned_alloc(2 << 20, bytes);
  if (!p) exit(3);
  madvise(p, bytes, MADV_HUGEPAGE);
  memset(p, 0, bytes);
  return (float*)p;
}

int main() {
  long bytes = 256L << 20, n = bytes / 4, steps = 20000000;
  float *x = pages(bytes), *y = pages(bytes);
  double f = 1e9, r = 1e9, c = 1e9;
  for (int k = 0; k < 9; ++k) {
    double t = fmas(steps);
    f = t < f ? t : f;
    t = reads(x, n, 8);
    r = t < r ? t : r;
    t = reads(x, n, 1);
    r = t < r ? t : r;
    t = copies(y, x, n);
    c = t < c ? t : c;
  }
  int threads = 1;
  #pragma omp parallel
  #pragma omp single
  threads = omp_get_num_threads();
  printf("{\"fma\": %.6g, \"read\": %.6g, \"copy\": %.6g, \"threads\": %d}\n",
         2.0 * 12 * W * steps * threads / f, bytes / r, 2.0 * bytes / c, threads);
}
"""


class LimitError(RuntimeError):
    """The limits cannot be measured here."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Operations a second of f32 multiply-adds (two each), bytes a second read, and bytes a second
    read and written by a copy with streaming stores, by all threads."""

    fma: float
    read: float
    copy: float
    threads: int

    def __str__(self) -> str:
        parts = f"{self.fma / 1e9:.0f} GFLOP/s, read {self.read / 1e9:.1f} GB/s"
        return f"{parts}, copy {self.copy / 1e9:.1f} GB/s, {self.threads} threads"


def measure() -> Machine:
    """The limits of this machine, in about ten seconds. Raises BuildError, LimitError."""
    with tempfile.TemporaryDirectory(prefix="opwright-limits-") as folder:
        source, program = Path(folder) / "limits.cpp", Path(folder) / "limits"
        source.write_text(SOURCE)
        flags = ["-O3", "-march=native", "-fopenmp", "-funroll-loops"]
        made = subprocess.run(
            [compiler(), *flags, str(source), "-o", str(program)],
            capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip
        if made.returncode:
            raise LimitError(f"the program that measures limits does not build: {made.stderr}")
        try:
            ran = subprocess.run([str(program)], capture_output=True, text=True, timeout=SECONDS)
            return Machine(**json.loads(ran.stdout))
        except (OSError, subprocess.TimeoutExpired, ValueError, TypeError) as e:
            raise LimitError(f"the limits cannot be measured: {e}") from None


@dataclass(frozen=True, slots=True)
class Need:
    """Compulsory bytes read and written, and floating-point operations, of one call."""

    read: int
    written: int
    operations: int

    def floor(self, m: Machine) -> tuple[float, str]:
        """(seconds that the limits allow, which of them counts)."""
        total = self.read + self.written
        # what hardly writes is held to the rate of reading
        rate = m.read if self.written * 20 < total else m.copy
        times = {
            "read" if rate == m.read else "copy": total / rate,
            "fma": self.operations / m.fma,
        }
        name = max(times, key=lambda n: times[n])
        return times[name], name


def need(op: Operator, sizes: Mapping[str, int], params: Mapping[str, Any]) -> Need | None:
    """What a call needs; None where the formulas have no value."""
    env = {**sizes, **params}
    try:
        total = int(evaluate(compulsory_bytes(op), env))
        work = int(evaluate(flops(op), env))
        written = 0
        for t in op.outputs:
            count = 1
            for e in t.shape:
                count *= int(evaluate(e, env))
            written += count * t.dtype.bytes
    except (ExprError, KeyError, TypeError, ZeroDivisionError):
        return None
    return Need(max(total - written, 0), written, work)


def main() -> int:
    m = measure()
    print(m, file=sys.stderr)
    print(json.dumps(asdict(m)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
