"""The processor: instruction-set levels that may run here, and the default number of threads."""

from __future__ import annotations

import os
import platform
from functools import cache

PORTABLE = "portable"
# flags that the System V ABI demands of a level, in the names of /proc/cpuinfo; best level first
LEVELS = {
    "x86-64-v4": "avx512f avx512bw avx512cd avx512dq avx512vl",
    "x86-64-v3": "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave",
}


@cache
def cpu_flags() -> frozenset[str]:
    """Flags of the first processor; empty where /proc/cpuinfo says nothing."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("flags"):
                    return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()


def levels(wanted: str | None = None) -> tuple[str, ...]:
    """Levels that may run here, best first, `portable` last.

    `wanted` starts the list at that level; RuntimeError when this processor lacks it.
    """
    flags = cpu_flags() if platform.machine().lower() in ("x86_64", "amd64") else frozenset()
    found: list[str] = []
    have = True
    for name in reversed(list(LEVELS)):
        have = have and flags.issuperset(LEVELS[name].split())
        if have:
            found.insert(0, name)
    found.append(PORTABLE)
    if not wanted:
        return tuple(found)
    if wanted not in found:
        known = ", ".join((*LEVELS, PORTABLE))
        missing = sorted(set(LEVELS.get(wanted, "").split()) - flags)
        why = f"this processor lacks {', '.join(missing)}" if missing else f"levels are {known}"
        raise RuntimeError(f"the instruction-set level {wanted!r} cannot be used: {why}")
    return tuple(found[found.index(wanted) :])


@cache
def processors() -> int:
    """Processors that this process may use, by affinity and control group."""
    try:
        count = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        count = os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()[:2]
        if quota != "max":
            count = min(count, max(1, -(-int(quota) // int(period))))
    except (OSError, ValueError):
        pass
    return count


def default_threads(variable: str) -> tuple[int, bool]:
    """(threads, whether the environment fixed them): `variable`, else OMP_NUM_THREADS, else all."""
    for name in (variable, "OMP_NUM_THREADS"):
        text = os.environ.get(name, "").split(",")[0].strip()
        if text:
            if not text.isdigit() or int(text) < 1:
                raise RuntimeError(f"{name} must be a positive whole number, not {text!r}")
            return int(text), name == variable
    return processors(), False
