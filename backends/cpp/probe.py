"""What this machine does at its best, measured once: clock, arithmetic, copies by size, the latency
of memory. A text of our own runs in this process, on all processors at the same time.

The best of several short samples counts, so that other load makes numbers lower, rarely wrong.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from opwright.backends.cpp.build import BuildError, build

SIZES = (1 << 18, 1 << 22, 1 << 25)  # bytes of one buffer of one thread: L2, last level, memory
CHASED = 1 << 26  # bytes of a chain of places
SAMPLES, SHORT = 8, 60  # of memory; of one thread's arithmetic, a few dozen microseconds each
CLOCK, TRIPS, STEPS = 20_000, 20_000, 100_000


@dataclass(frozen=True, slots=True)
class Probed:
    """Cycles a second; f32 operations a second, one thread's times threads; bytes a second that
    all threads read and write together, by SIZES; seconds until a line of memory is there."""

    threads: int
    clock: float
    peak: float
    rates: tuple[float, ...]
    latency: float


def probe(folder: Path, isa_name: str, threads: int = 0) -> Probed | None:
    """Measure; `folder` keeps the library. None where it cannot be built or loaded."""
    threads = threads or os.cpu_count() or 1
    text = (resources.files("opwright.backends.cpp") / "probe.cpp").read_text()
    try:
        library = ctypes.CDLL(str(build(text, "", folder, isa_name).path))
        lanes, chains = int(library.probe_lanes()), int(library.probe_chains())
    except (BuildError, OSError, AttributeError):
        return None
    library.probe_arithmetic.restype = ctypes.c_double
    library.probe_read.restype = ctypes.c_double
    number = ctypes.c_int64
    with ThreadPoolExecutor(threads) as pool:

        def fastest(calls: list[Callable[[], Any]], samples: int = SAMPLES) -> float:
            """Seconds of the calls side by side, the best of some samples."""
            best = float("inf")
            for _ in range(samples):
                begin = time.perf_counter()
                if len(calls) == 1:
                    calls[0]()
                else:
                    list(pool.map(lambda call: call(), calls))
                best = min(best, time.perf_counter() - begin)
            return best

        clock = 8 * CLOCK / fastest([lambda: library.probe_clock(number(CLOCK))], SHORT)
        work = fastest([lambda: library.probe_arithmetic(number(TRIPS))], SHORT)
        peak = threads * TRIPS * chains * lanes * 2 / work
        rates = []
        for size in SIZES:
            pairs = [(_aligned(size), _aligned(size)) for _ in range(threads)]
            again = max(1, (1 << 24) // size)
            rates.append(max(
                2 * size * threads * again / fastest(_repeated(library.probe_copy, pairs, again)),
                2 * size * threads * again / fastest(_repeated(library.probe_stream, pairs, again)),
                size * threads * again / fastest(_reading(library.probe_read, pairs, again)),
            ))  # fmt: skip
        for n in range(len(rates) - 2, -1, -1):  # what is nearer is no slower
            rates[n] = max(rates[n], rates[n + 1])
        chain = _chain(CHASED // 8)
        where = ctypes.c_void_p(chain.ctypes.data)
        wait = fastest([lambda: library.probe_chase(where, number(STEPS))]) / STEPS
    return Probed(threads, clock, peak, tuple(rates), wait)


def _aligned(size: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    whole = np.ones(size // 4 + 16, np.float32)
    skip = (-whole.ctypes.data % 64) // 4
    return whole[skip : skip + size // 4]


def _repeated(function: Any, pairs: list[Any], again: int) -> list[Callable[[], Any]]:
    def one(y: Any, x: Any) -> Callable[[], Any]:
        to, source = ctypes.c_void_p(y.ctypes.data), ctypes.c_void_p(x.ctypes.data)
        count = ctypes.c_int64(x.size)

        def calls() -> None:
            for _ in range(again):
                function(to, source, count)

        return calls

    return [one(y, x) for y, x in pairs]


def _reading(function: Any, pairs: list[Any], again: int) -> list[Callable[[], Any]]:
    def one(x: Any) -> Callable[[], Any]:
        source, count = ctypes.c_void_p(x.ctypes.data), ctypes.c_int64(x.size)

        def calls() -> None:
            for _ in range(again):
                function(source, count)

        return calls

    return [one(x) for _, x in pairs]


def _chain(count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """A chain through all lines of a block, in an order that no hardware foresees."""
    lines = count // 8
    order = np.random.default_rng(0).permutation(lines) * 8
    chain = np.zeros(count, np.int64)
    chain[order] = np.roll(order, -1)
    return chain
