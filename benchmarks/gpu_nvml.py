"""What NVIDIA's management library says of the first GPU: its state, and the energy of calls.

Nothing is ever set: clocks, limits and modes are what they are. The counter of energy is refreshed
about ten times a second, so that a window has to be seconds long.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any, Protocol

LIBRARY = "libnvidia-ml.so.1"
WINDOW = 5.0  # seconds of back-to-back calls
BATCH = 0.2  # seconds between looks at the clock
REPEATS = 2  # windows of each contender, in the order A B B A


class Meter(Protocol):
    """A counter of energy."""

    def joules(self) -> float: ...


class Absent(RuntimeError):
    """There is no such library, or it does not count energy here."""


class Nvml:
    """The library, opened and asked about the first device."""

    def __init__(self) -> None:
        try:
            self.library: Any = ctypes.CDLL(LIBRARY)
        except OSError as e:
            raise Absent(f"{LIBRARY} does not load: {e}") from None
        self._ask("nvmlInit_v2")
        self.device = ctypes.c_void_p()
        self._ask("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(0), ctypes.byref(self.device))

    def _ask(self, name: str, *args: Any) -> None:
        status = int(getattr(self.library, name)(*args))
        if status:
            raise Absent(f"{name} answers {status}")

    def number(self, name: str, *args: Any, kind: Any = ctypes.c_uint) -> int:
        """One number of the device."""
        out = kind()
        self._ask(name, self.device, *args, ctypes.byref(out))
        return int(out.value)

    def joules(self) -> float:
        """Energy since the driver was loaded."""
        found = self.number("nvmlDeviceGetTotalEnergyConsumption", kind=ctypes.c_ulonglong)
        return found / 1e3

    def describe(self) -> dict[str, Any]:
        """Driver, limits and clocks as they are; what is not told is left out."""
        out: dict[str, Any] = {}
        text = ctypes.create_string_buffer(96)
        if not self.library.nvmlSystemGetDriverVersion(text, ctypes.c_uint(96)):
            out["driver"] = text.value.decode(errors="replace")
        asked: Mapping[str, tuple[Any, ...]] = {
            "power_limit_mw": ("nvmlDeviceGetEnforcedPowerLimit",),
            "power_mw": ("nvmlDeviceGetPowerUsage",),
            "temperature_c": ("nvmlDeviceGetTemperature", ctypes.c_int(0)),
            "sm_clock_mhz": ("nvmlDeviceGetClockInfo", ctypes.c_int(1)),
            "memory_clock_mhz": ("nvmlDeviceGetClockInfo", ctypes.c_int(2)),
        }
        for key, (name, *args) in asked.items():
            try:
                out[key] = self.number(name, *args)
            except (Absent, AttributeError):
                continue
        return out


@dataclass(frozen=True, slots=True)
class Energy:
    """Joules of one call: the mean over windows, how far they differ, and what was done."""

    joules: float
    spread: float
    watts: float
    calls: int
    window_s: float
    repeats: int

    def row(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in self.__slots__}


def energy(
    calls: Mapping[str, Callable[[], object]],
    meter: Meter,
    wait: Callable[[], None],
    window: float = WINDOW,
    repeats: int = REPEATS,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Energy]:
    """Every contender in windows of back-to-back calls, forwards and backwards in turn; `wait` ends
    when the device has done all that it was given."""
    seen: dict[str, list[tuple[float, float, int]]] = {name: [] for name in calls}
    names = list(calls)
    for turn in range(repeats):
        for name in names if turn % 2 == 0 else names[::-1]:
            seen[name].append(_window(calls[name], meter, wait, window, clock))
    out = {}
    for name, found in seen.items():
        each = [joules / count for joules, _, count in found]
        seconds = sum(s for _, s, _ in found)
        spread = stdev(each) / mean(each) if len(each) > 1 and mean(each) else 0.0
        watts = sum(j for j, _, _ in found) / seconds if seconds else 0.0
        total = sum(n for _, _, n in found)
        out[name] = Energy(mean(each), spread, watts, total, window, repeats)
    return out


def _window(
    call: Callable[[], object], meter: Meter, wait: Callable[[], None], window: float,
    clock: Callable[[], float],
) -> tuple[float, float, int]:  # fmt: skip
    """(joules, seconds, calls) of one window."""
    call()
    wait()
    begin = clock()
    call()
    wait()
    batch = max(1, int(BATCH / max(clock() - begin, 1e-6)))
    count, start, first = 0, clock(), meter.joules()
    while clock() - start < window:
        for _ in range(batch):
            call()
        wait()
        count += batch
    return meter.joules() - first, clock() - start, count
