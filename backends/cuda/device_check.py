"""CUDA candidates under compute-sanitizer, where this machine has a GPU, nvcc and the tool.

nvcc builds the text with a program that reads one call as `sanitize_main.cpp` does, into memory of
exactly each buffer's size on the device. Only the reading of the tool's reports and the building
are covered by tests.
"""

from __future__ import annotations

import glob
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opwright.backends import isolation
from opwright.backends.cpp.build import BuildError, run_compiler
from opwright.backends.cpp.sanitize import Finding, Invocation
from opwright.backends.cuda.build import LIMIT, OLDEST, compiler
from opwright.ir.launch import BoundPlan
from opwright.ir.tile import Buffer

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
SHAPE = 7  # grid, block, and bytes of dynamic shared memory
OUTPUT = 1 << 20  # bytes of a report that are read
FOUND = re.compile(
    r"^=+ (?:Error: |ERROR: |Warning: )?((?:Invalid|Misaligned|Uninitialized|Race reported|"
    r"Potential|Barrier error|Out-of-range|Illegal|Access)[^\n]*)$",
    re.M,
)
SILENT = re.compile(r"^=+ (?:ERROR|RACECHECK) SUMMARY: (\d+)", re.M)
_MAIN = """
#include <stdint.h>
#include <stdio.h>
#include <vector>
static bool take(void *to, size_t n) { return !n || fread(to, 1, n, stdin) == n; }
static int failed(const char *what, cudaError_t e) {
  fprintf(stderr, "opwright: %s: %s\\n", what, cudaGetErrorString(e));
  return 4;
}
struct argument {
  int64_t i; double r; void *p;
  template <class T> operator T() const { return of((T *)nullptr); }
  template <class T> T *of(T **) const { return (T *)p; }
  float of(float *) const { return (float)r; }
  double of(double *) const { return r; }
  template <class T> T of(T *) const { return (T)i; }
};
int main() {
  int64_t counts[4];
  if (!take(counts, sizeof counts)) return 3;
  std::vector<int64_t> ints(counts[1] + 1);
  std::vector<double> reals(counts[2] + 1);
  if (!take(ints.data(), 8 * counts[1]) || !take(reals.data(), 8 * counts[2])) return 3;
  std::vector<void *> buffers(counts[0] + 1);
  for (int64_t n = 0; n < counts[0]; n++) {
    int64_t about[2];
    if (!take(about, sizeof about)) return 3;
    std::vector<char> own(about[0] + 1);
    if (!take(own.data(), about[0])) return 3;
    if (about[1] >= 0) { buffers[n] = buffers[about[1]]; continue; }
    cudaError_t e = cudaMalloc(&buffers[n], about[0] ? about[0] : 1);
    if (e == cudaSuccess && FILLED[n])
      e = cudaMemcpy(buffers[n], own.data(), about[0], cudaMemcpyHostToDevice);
    if (e != cudaSuccess) return failed("memory", e);
  }
  cudaError_t e = cudaSuccess;
LAUNCHES
  return 0;
}
"""


def missing() -> str:
    """What this machine lacks for it, "" where it has everything."""
    if not compiler():
        return "there is no nvcc on this machine"
    if shutil.which("compute-sanitizer") is None:
        return "there is no compute-sanitizer on this machine"
    if not glob.glob("/dev/nvidia[0-9]*"):
        return "there is no GPU of NVIDIA on this machine"
    return ""


def host_text(source: str, bound: BoundPlan) -> str:
    """The candidate's text with a program that makes one call of it; BuildError."""
    order = {name: n for n, name in enumerate(bound.buffers)}
    lines = []
    ints = reals = 0
    for x in bound.launches:
        if x.const:
            raise BuildError("a launch with constants is not built")
        shape, given = ints, []
        ints += SHAPE
        for a in x.args:
            if isinstance(a, Buffer):
                given.append(f"argument{{0, 0, buffers[{order[a.name]}]}}")
            elif a.dtype.kind == "real":
                given.append(f"argument{{0, reals[{reals}], nullptr}}")
                reals += 1
            else:
                given.append(f"argument{{ints[{ints}], (double)ints[{ints}], nullptr}}")
                ints += 1
        s = [f"ints[{shape + n}]" for n in range(SHAPE)]
        several = " * ".join(s[:3])
        large = f"cudaFuncSetAttribute({x.kernel}, cudaFuncAttributeMaxDynamicSharedMemorySize, "
        lines += [
            f"  if ({s[6]} > 48 << 10) {large}(int){s[6]});",
            f"  if ({several} > 0)",
            f"    {x.kernel}<<<dim3({', '.join(s[:3])}), dim3({', '.join(s[3:6])}), {s[6]}>>>("
            f"{', '.join(given)});",
            "  if ((e = cudaGetLastError()) != cudaSuccess) return failed("
            f'"launch of {x.kernel}", e);',
            f'  if ((e = cudaDeviceSynchronize()) != cudaSuccess) return failed("{x.kernel}", e);',
        ]
    filled = [str(int(b.role == "in" or b.init == "zero")) for b in bound.buffers.values()]
    table = f"static const bool FILLED[] = {{{', '.join([*filled, '0'])}}};\n"
    head = '#line 1 "kernel.cu"\n' + source + '\n#line 1 "main.cu"\n' + table
    return head + _MAIN.replace("LAUNCHES\n", "\n".join(lines) + "\n")


class Checker:
    """A built program under one of TOOLS; it lives as long as its folder."""

    def __init__(self, path: Path, tool: str = TOOLS[0]) -> None:
        self.path, self.tool = path, tool

    def run(self, call: Invocation, limit: float) -> Finding | None:
        """One call; None where the tool found nothing."""
        program = shutil.which("compute-sanitizer") or "compute-sanitizer"
        toolkit = Path(program).resolve().parent
        allowance = isolation.Allowance(
            [self.path, toolkit, toolkit.parent], memory=0, cpu=int(limit) + 1, file=OUTPUT,
            processes=32, gpu=True,
        )  # fmt: skip
        command = [program, "--tool", self.tool, "--error-exitcode", "66", str(self.path)]
        with tempfile.TemporaryFile() as told:
            process = isolation.start(
                command, allowance, stdin=subprocess.PIPE, stdout=told, stderr=subprocess.STDOUT
            )
            try:
                process.communicate(call.text(), timeout=limit)
                status = process.status()
            except subprocess.TimeoutExpired:
                return Finding("crash", f"no answer within {limit:g} s")
            except BrokenPipeError:
                status = process.wait()
            finally:
                process.end()
            told.seek(0)
            said = told.read(OUTPUT).decode(errors="replace")
        found = reading(self.tool, said)
        if found is None and (status or SILENT.search(said) is None):
            last = (said.strip().splitlines() or ["nothing was said"])[-1]
            return Finding("crash", f"ended with status {status}: {last[:200]}", said=said)
        return found


def reading(tool: str, said: str) -> Finding | None:
    """The first finding of a report, with the candidate's line where it names one."""
    found = FOUND.search(said)
    if found is None:
        return None
    rest = said[found.start() :].split("\n=========\n", 1)[0]
    line = re.search(r"kernel\.cu:\d+", rest)
    what = re.sub(r" at 0x[0-9a-f]+ in .*$| at \S*\(.*$", "", found[1]).strip()
    return Finding(tool, what, line[0] if line else "", said=said)


@contextmanager
def built(source: str, bound: BoundPlan, target: str) -> Iterator[Checker]:
    """The program; BuildError."""
    arch = target if re.fullmatch(r"sm_\d+[af]?", target) else OLDEST
    with tempfile.TemporaryDirectory(prefix="sanitize-") as name:
        (Path(name) / "main.cu").write_text(host_text(source, bound))
        flags = ["-O1", "-lineinfo", "-std=c++17", f"-arch={arch}", "-o", "program"]
        run_compiler([compiler() or "nvcc", *flags, "main.cu"], name, LIMIT)
        yield Checker(Path(name) / "program")
