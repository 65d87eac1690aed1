"""What the sandbox costs: `python -m opwright.benchmarks.isolation` prints how much later a process
starts in each kind, and a kernel's time in it beside its time without one."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from opwright.backends import isolation
from opwright.backends.cpp.build import build
from opwright.search.sandbox import Shared, Worker

ROUNDS = 15
COUNT = 1 << 20  # numbers that the kernel reads, several times over
KERNEL = r"""
#include <cstdint>
#define PUBLIC extern "C" __attribute__((visibility("default")))
PUBLIC int opwright_abi() { return 1; }
PUBLIC int opwright_run(void **buffers, int64_t *ints, double *, int) {
  const float *x = (const float *)buffers[0];
  float *y = (float *)buffers[1];
  float acc[16] = {};
  for (int64_t i = 0; i + 16 <= ints[0]; i += 16)
    for (int k = 0; k < 16; k++) acc[k] = acc[k] * 0.5f + x[i + k];
  for (int k = 0; k < 16; k++) y[k] = acc[k];
  return 0;
}
"""


def median_ms(action: Callable[[], object], rounds: int = ROUNDS) -> float:
    samples = []
    for _ in range(rounds):
        begin = time.perf_counter()
        action()
        samples.append(time.perf_counter() - begin)
    return statistics.median(samples) * 1e3


def started(kind: str) -> None:
    """A Python process that does nothing, from start to end."""
    command = [sys.executable, "-I", "-S", "-c", "pass"]
    process = isolation.start_in(kind, command, isolation.Allowance())
    process.wait()
    process.end()
    if process.status():
        raise RuntimeError(f"{kind}: exit status {process.status()}")


def kernel_us(library: Path, shared: Shared) -> float:
    """The kernel's median time in a worker of its own."""
    whole = COUNT * 4
    buffers = [
        {"name": "x", "role": "in", "offset": 0, "bytes": whole},
        {"name": "y", "role": "out", "offset": whole, "bytes": 64},
    ]
    with Worker(shared, 1, None, [library]) as worker:
        worker.request("load", 20.0, path=str(library))
        reply = worker.request(
            "time", 120.0, buffers=buffers, ints=[COUNT], reals=[], threads=1, mode="out",
            contenders=[{"name": "kernel", "library": 0}], settings={"rounds": 15},
        )  # fmt: skip
    walls: list[float] = reply["samples"]["kernel"]["wall"]
    return statistics.median(walls) * 1e6


def main() -> None:
    kinds = [k for k in isolation.KINDS if isinstance(isolation.usable(k), isolation.Sandbox)]
    print(f"{'kind':<11}  start [ms]  kernel [us]")
    shared = Shared(COUNT * 4 + 4096)
    shared.bytes[:] = 0
    isolation.permit_unsafe()
    times: dict[str, list[float]] = {kind: [] for kind in ("none", *kinds)}
    with tempfile.TemporaryDirectory() as folder:
        library = build(KERNEL, "", Path(folder), "portable").path
        for _ in range(5):  # in turns, so that drift of the machine meets all alike
            for kind, found in times.items():
                with isolation.only(kind):
                    found.append(kernel_us(library, shared))
    for kind, found in times.items():
        start = median_ms(lambda kind=kind: started(kind))  # type: ignore[misc]
        print(f"{kind:<11}  {start:10.1f}  {statistics.median(found):11.1f}")
    shared.close()


if __name__ == "__main__":
    main()
