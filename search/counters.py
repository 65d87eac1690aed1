"""Counters of the processor and the system over calls of a candidate, where the machine has them:
Linux' perf_event_open, user code alone.

They are opened by the process that starts a worker, before it does: what is started inherits them,
sandboxed or not, and cannot reach them. A number is of one call, scaled where counters took turns.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

PREFIX = "count."  # before a counter's name among a workload's metrics
UNIT = "a call"
_CALL = {"x86_64": 298, "aarch64": 241}  # perf_event_open
_SIZE = 112  # bytes of the structure, version 5
_DISABLED, _INHERIT, _NO_KERNEL, _NO_HYPERVISOR = 1 << 0, 1 << 1, 1 << 5, 1 << 6
_TIMES = 3  # read the time enabled and the time running, too
_ENABLE, _DISABLE, _RESET = 0x2400, 0x2401, 0x2403
# name -> (type, config)
EVENTS: Mapping[str, tuple[int, int]] = {
    "cycles": (0, 0),
    "instructions": (0, 1),
    "cache_misses": (0, 3),
    "branch_misses": (0, 5),
    "first_level_misses": (3, 0 | 1 << 16),
    "page_walks": (3, 3 | 1 << 16),
    "page_faults": (1, 2),
    "context_switches": (1, 3),
    "migrations": (1, 4),
}
HARDWARE = tuple(n for n, (kind, _) in EVENTS.items() if kind != 1)


@dataclass(slots=True)
class Counters:
    """Open counters; nothing where there are none. Use as a context manager."""

    handles: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def open() -> Counters:
        """What this machine lets be counted of what is started from now on by this thread."""
        found = Counters()
        for name, (kind, config) in EVENTS.items():
            handle, _ = _open(kind, config)
            if handle >= 0:
                found.handles[name] = handle
        return found

    def start(self) -> None:
        for handle in self.handles.values():
            fcntl.ioctl(handle, _RESET, 0)
            fcntl.ioctl(handle, _ENABLE, 0)

    def stop(self, calls: int) -> dict[str, float]:
        """Counts of one of so many calls since the start."""
        for handle in self.handles.values():
            fcntl.ioctl(handle, _DISABLE, 0)
        out = {}
        for name, handle in self.handles.items():
            try:
                value, enabled, running = struct.unpack("QQQ", os.read(handle, 24))
            except (OSError, struct.error):
                continue
            if running:
                out[name] = value * (enabled / running) / calls
        return out

    def close(self) -> None:
        for handle in self.handles.values():
            os.close(handle)
        self.handles.clear()

    def __enter__(self) -> Counters:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@cache
def hardware() -> str:
    """Why the processor's own counters cannot be read here; empty where they can."""
    handle, why = _open(*EVENTS["cycles"])
    if handle < 0:
        return (
            f"the processor's counters cannot be read here: {why} (a virtual machine that passes "
            "none on, or kernel.perf_event_paranoid)"
        )
    os.close(handle)
    return ""


def _open(kind: int, config: int) -> tuple[int, str]:
    """A disabled counter of this thread and what it starts, or -1 and why not."""
    number = _CALL.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return -1, f"no perf_event_open on {sys.platform} {platform.machine()}"
    attributes = bytearray(_SIZE)
    struct.pack_into("IIQ", attributes, 0, kind, _SIZE, config)
    struct.pack_into("Q", attributes, 32, _TIMES)
    flags = _DISABLED | _INHERIT | _NO_HYPERVISOR | (_NO_KERNEL if kind != 1 else 0)
    for more in (0, _NO_KERNEL):
        struct.pack_into("Q", attributes, 40, flags | more)
        raw = (ctypes.c_char * _SIZE).from_buffer_copy(attributes)
        libc = ctypes.CDLL(None, use_errno=True)
        handle = int(libc.syscall(number, raw, 0, -1, -1, 1 << 3))  # closed when a program starts
        if handle >= 0:
            return handle, ""
    return -1, os.strerror(ctypes.get_errno())
