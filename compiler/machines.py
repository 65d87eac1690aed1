"""Rates of what candidates are timed or modelled on: this machine's as measured once, a GPU's from
its table."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from opwright.backends.cpp.build import host_isa
from opwright.backends.cpp.probe import SIZES, Probed, probe
from opwright.backends.cpp.vocabulary import ISAS
from opwright.compiler.devices import DEVICES
from opwright.compiler.exchange_texts import target_facts
from opwright.compiler.paths import cache_folder
from opwright.search.loads import host

OVERHEAD = 2e-5  # seconds of a call below which starting it is most of it
LINE = 64  # bytes of a line of a cache
KEPT = 2  # version of the file of what was measured
NEAREST = 128  # bytes a cycle that a core moves to and from its first cache, at most


@dataclass(frozen=True, slots=True)
class Machine:
    """`rates`: (bytes that a workload touches at most, bytes a second then), the nearest first;
    `peak`: operations a second; `overhead`: seconds of a call below which starting it is most of
    it; `rows` are for prompts. Of a processor also its threads, cycles a second and seconds until
    a line of memory is there; 0 elsewhere. `measured`: none of it is from a table."""

    name: str
    rates: tuple[tuple[float, float], ...]
    peak: float
    overhead: float
    rows: tuple[tuple[str, str], ...]
    threads: int = 0
    clock: float = 0.0
    latency: float = 0.0
    measured: bool = False

    def rate(self, size: float) -> float:
        """Bytes a second that a workload of so many bytes moves at best."""
        return next((r for limit, r in self.rates if size <= limit), self.rates[-1][1])

    @property
    def memory(self) -> float:
        return self.rates[-1][1]

    def streams(self, size: float) -> bool:
        """Whether a workload of so many bytes comes from beyond the caches of one core."""
        own = self.rates[-3][0] if len(self.rates) > 2 else self.rates[0][0]
        return size > own


def machine_of(backend: str, targets: tuple[str, ...]) -> Machine:
    """The machine of a backend's first target."""
    if backend in ("triton", "cuda"):
        d = DEVICES[targets[0]]
        facts = target_facts("triton", targets[:1])[targets[0]]
        rows = tuple((k.replace("_", " "), _shown(v)) for k, v in facts.items())
        peak = max([*d.rates.values(), *d.products.values()]) * 1e12
        rates = ((float(d.cache), d.cache_rate * 1e12), (math.inf, d.memory * 1e12))
        return Machine(f"{targets[0]} ({d.part})", rates, peak, 3e-6, rows)
    level = targets[0].removeprefix("cpu(").removesuffix(")")
    return _host(level if level in ISAS else host_isa())  # array code names no instruction set


def _shown(v: Any) -> str:
    if isinstance(v, dict):
        return ", ".join(f"{k} {_shown(x)}" for k, x in v.items())
    return f"{v:.3g}" if isinstance(v, float) else str(v)


def _host(level: str) -> Machine:
    """This machine, by what it did at its best."""
    lanes = {"x86-64-v4": 16, "x86-64-v3": 8}.get(level, 4)
    p = _probed(level)
    measured = p is not None
    if p is None:  # no compiler: what its clock promises
        clock, cores = _clock(), os.cpu_count() or 1
        rates = (cores * clock * 32.0, cores * clock * 8.0, cores * clock * 4.0)
        p = Probed(cores, clock, cores * clock * lanes * 4, rates, 1e-7)
    caches = _caches()
    how = "measured here once, each at its best" if measured else "from the clock"
    steps = [(2.0 * size * p.threads, rate) for size, rate in zip(SIZES, p.rates, strict=True)]
    nearest = (float(p.threads * caches.get("L1", 32 << 10)), p.threads * p.clock * NEAREST)
    table = (nearest, *steps[:-1], (math.inf, steps[-1][1]))
    rows = [
        ("processor", host()),
        ("threads that share the grid", str(p.threads)),
        ("clock", f"{p.clock / 1e9:.2g} GHz"),
        ("vector registers", f"{32 if lanes == 16 else 16} of {lanes} f32 ({level})"),
        *((f"{name} cache", f"{size >> 10} KiB") for name, size in caches.items()),
        *(
            (
                f"read and written, {int(2 * size) >> 10} KiB a thread",
                f"{rate:.2g} bytes/s, all threads",
            )
            for size, rate in zip(SIZES, p.rates, strict=True)
        ),
        ("a line of memory", f"{p.latency * 1e9:.0f} ns until it is there"),
        (
            "f32 peak",
            f"{p.peak:.2g} operations/s, all threads (a multiply-add is two)",
        ),
        ("these rates", how),
    ]
    return Machine(
        host(), table, p.peak, OVERHEAD, tuple(rows), p.threads, p.clock, p.latency, measured
    )


def _probed(level: str) -> Probed | None:
    """What was measured, from this cache folder where it is kept."""
    kept = cache_folder() / "machine.json"
    try:
        held = json.loads(kept.read_text())
        if held["version"] == KEPT and held["host"] == host():
            found = held["levels"][level]
            return Probed(**{**found, "rates": tuple(found["rates"])})
    except (OSError, ValueError, KeyError, TypeError):
        held = {}
    made = probe(cache_folder() / "build", level)
    if made is None:
        return None
    shown = Probed(made.threads, _two(made.clock), _two(made.peak),
                   tuple(map(_two, made.rates)), _two(made.latency))  # fmt: skip
    levels = held.get("levels", {}) if held.get("version") == KEPT else {}
    entry = {"version": KEPT, "host": host(), "levels": {**levels, level: asdict(shown)}}
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(entry) + "\n")
    except OSError:
        pass
    return shown


def _two(x: float) -> float:
    return float(f"{x:.2g}")


def _clock() -> float:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        rates = [float(x.partition(":")[2]) for x in lines if x.startswith("cpu MHz")]
        return round(max(rates) * 1e6, -8)
    except (OSError, ValueError):
        return 2.5e9


def _caches() -> dict[str, int]:
    """Bytes of the data caches that one core sees."""
    found: dict[str, int] = {}
    for at in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind, level = (at / "type").read_text().strip(), (at / "level").read_text().strip()
            size = (at / "size").read_text().strip()
        except OSError:
            continue
        if kind != "Instruction" and size.endswith("K"):
            found[f"L{level}"] = int(size[:-1]) << 10
    return found
