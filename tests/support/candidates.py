"""Candidates as C++ texts built with g++, one per program name, for y[b, n] = 2 x[b, n] + 1."""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from support import runs

from opwright.ir.plan import Launch, Plan
from opwright.ir.record import Record
from opwright.ir.tile import TileProgram
from opwright.search.results import Built, Emitted, Job, Tools
from opwright.search.space import Schedule

HEAD = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <unistd.h>
#include <signal.h>
extern "C" int32_t opwright_abi() { return 1; }
extern "C" int32_t opwright_run(void *const *buffers, const int64_t *ints, const double *,
                                int32_t threads) {
  const float *x = (const float *)buffers[0];
  float *y = (float *)buffers[1];
  const int64_t B = ints[0], N = ints[1];
  const int64_t x0 = ints[2], x1 = ints[3], y0 = ints[4], y1 = ints[5];
  (void)threads;
"""
LOOP = """
  for (int64_t b = 0; b < B; b++)
    for (int64_t n = 0; n < N; n++)
      y[b * y0 + n * y1] = 2 * x[b * x0 + n * x1] + 1;
"""
TAIL = "\n  return 0;\n}\n"

BODIES = {
    "good": LOOP,
    # the same, several times over: right and slow
    "slow": 'for (int r = 0; r < 8; r++) { asm volatile("" ::: "memory");' + LOOP + "}",
    "slower": 'for (int r = 0; r < 16; r++) { asm volatile("" ::: "memory");' + LOOP + "}",
    "stale": "",
    "mutates": LOOP + "if (B && N) ((float *)x)[0] = 3;",
    "canary": LOOP + "if (B && N) y[(B - 1) * y0 + (N - 1) * y1 + 1] = 7;",
    "leaves_nan": LOOP + "if (B * N > 5) y[0] = NAN;",
    "last_wrong": LOOP + "if (B * N > 1) y[(B - 1) * y0 + (N - 1) * y1] += 1;",
    # right on all that the numeric gate tries, wrong beyond
    "large_wrong": LOOP + "if (B * N > 50000) y[0] += 1;",
    "crashes": "*(volatile int *)16 = 1;",
    "exits": "_exit(0);",
    "hangs": "for (;;) pause();",
    "spins": "for (volatile int i = 0;; i++) {}",
    "floods": 'for (;;) puts("flood flood flood flood flood flood flood flood");',
    "raises": "raise(SIGTERM);",
    "eats": """
  for (;;) {
    char *p = (char *)malloc(1 << 24);
    if (!p) abort();
    memset(p, 1, 1 << 24);
  }
""",
    "fails": "return 1;",
    # answers the second and later calls from memory
    "replays": """
  static int calls; static int64_t before;
  if (calls > 3 && before == B * N) { calls++; return 0; }
  before = B * N; calls++;
"""
    + LOOP,
    "unset_scratch": """
  float *t = (float *)malloc(sizeof(float) * 64);
"""
    + LOOP
    + """
  if (B * N) y[0] += t[17] == 0 ? 0 : t[17];
  free(t);
""",
}


def text(name: str) -> str:
    return HEAD + BODIES[name] + TAIL


def program(name: str) -> TileProgram:
    return TileProgram(name, (), ())


def job(number: int, name: str) -> Job:
    digest = "sha256:" + hashlib.sha256(name.encode()).hexdigest()
    return Job(number, Schedule("written", (("name", name),)), program(name), digest)


def tools(folder: Path, unsafe: Mapping[str, str] | None = None) -> Tools:
    """Builds the texts above; `unsafe` gives the status of G2 for programs by name."""

    def safety(p: TileProgram) -> list[Record]:
        status = (unsafe or {}).get(p.name, "PROVED")
        return [
            Record("G2.bounds", "G2", status, "said the test"),
            Record("G3.cover", "G3", "PROVED"),
        ]

    def emit(p: TileProgram) -> Emitted:
        if p.name not in BODIES:
            raise ValueError(f"no text for {p.name}")
        plan = Plan("scaled@1.0", "cpu", "cpp", "kernel.cpp", (Launch("k", ("x", "y")),))
        return Emitted(text(p.name), "", plan)

    def build(e: Emitted) -> Built:
        target = folder / (hashlib.sha256(e.source.encode()).hexdigest()[:16] + ".so")
        begin = time.perf_counter()
        if not target.exists():
            source = target.with_suffix(".cpp")
            source.write_text(e.source)
            flags = ["-O2", "-shared", "-fPIC", "-w"]
            done = subprocess.run(
                ["g++", *flags, str(source), "-o", str(target)], capture_output=True, text=True
            )
            if done.returncode:
                raise RuntimeError(done.stderr.splitlines()[0])
        return Built(target, time.perf_counter() - begin, target.stat().st_size)

    return Tools("test", safety, emit, build, runs.scaled_reference)
