"""What an operator is made of, in the words that moves and experience use: `forms_of`; and what
limits a candidate: `Limits`, from its times, the operator's formulas and numbers of the machine.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opwright.compiler.devices import DEVICES
from opwright.compiler.evaluate import Unsupported
from opwright.compiler.exchange_texts import target_facts
from opwright.compiler.normalize import normalize
from opwright.compiler.paths import cache_folder
from opwright.compiler.spaces import partition, walked
from opwright.compiler.strategies.scatter import scatter_of
from opwright.ir.expr import ExprError, affine, evaluate, read_parts, walk
from opwright.ir.formulas import compulsory_bytes, flops
from opwright.ir.op import Operator
from opwright.search.archive import Candidate
from opwright.search.loads import memory_limit, workloads

_MODES = {"pointwise": "map", "row": "rows", "column": "columns"}
OVERHEAD = 2e-5  # seconds of a call below which starting it is most of it
NEAR = 2.5  # times what is possible, within which a candidate counts as limited by it
COPIED = 64 << 20  # bytes that the bandwidth is measured on


def forms_of(op: Operator) -> tuple[str, ...]:
    """The forms of an operator, sorted: words of `search.moves.FORMS`."""
    found: set[str] = set()
    folds = {x for t in op.tensors if t.body is not None for x in walk(t.body) if x.op == "fold"}
    if folds:
        found.add("fold")
    if len(folds) > 1:
        found.add("folds")
    try:
        normal = normalize(op)
        parts = partition(normal)
        for p in parts:
            if p.strategy == "lanes":
                row = p.form.row is not None
                found |= {"inner"} if p.form.inner else {"rows"} if row else {"map"}
                found |= {"columns"} if row and p.form.shared and not p.form.inner else set()
            elif p.strategy != "scalar":
                found.add(p.strategy)
        if walked(normal, parts) is not None:
            found.add("walk")
    except (ExprError, Unsupported):
        pass
    for t in op.tensors:
        if t.recurrence is not None:
            found.add("recurrence")
        if t.body is None:
            continue
        if scatter_of(t) is not None:
            found.add("scatter")
        reads = (x for x in walk(t.body) if x.op == "read")
        if any(affine(i) is None for x in reads for i in read_parts(x)[1]):
            found.add("gather")
    return tuple(sorted(found)) or ("map",)


@dataclass(frozen=True, slots=True)
class Machine:
    """Rates of what candidates are timed or modelled on: bytes and operations a second.
    `cache_rate` holds for what fits into `cache` bytes; `rows` are for prompts."""

    name: str
    memory: float
    cache: int
    cache_rate: float
    peak: float
    overhead: float
    rows: tuple[tuple[str, str], ...]


def machine_of(backend: str, targets: tuple[str, ...]) -> Machine:
    """The machine of a backend's first target."""
    if backend in ("triton", "cuda"):
        d = DEVICES[targets[0]]
        facts = target_facts("triton", targets[:1])[targets[0]]
        rows = tuple((k.replace("_", " "), _shown(v)) for k, v in facts.items())
        peak = max([*d.rates.values(), *d.products.values()]) * 1e12
        return Machine(
            f"{targets[0]} ({d.part})",
            d.memory * 1e12,
            d.cache,
            d.cache_rate * 1e12,
            peak,
            3e-6,
            rows,
        )
    return _host(targets[0])


def _shown(v: Any) -> str:
    if isinstance(v, dict):
        return ", ".join(f"{k} {_shown(x)}" for k, x in v.items())
    return f"{v:.3g}" if isinstance(v, float) else str(v)


def _host(target: str) -> Machine:
    """This machine: its clock and caches as the system tells them, its bandwidth as measured once
    and kept."""
    from opwright.search.loads import host

    cores = os.cpu_count() or 1
    level = target.removeprefix("cpu(").removesuffix(")")
    lanes = {"x86-64-v4": 16, "x86-64-v3": 8}.get(level, 4)
    clock = _clock()
    peak = cores * clock * lanes * 2 * 2
    caches = _caches()
    bandwidth = _bandwidth()
    most = max(bandwidth, cores * clock * 4)
    last = max(caches.values(), default=8 << 20)
    rows = [
        ("processor", host()),
        ("cores", str(cores)),
        ("vector registers", f"{32 if lanes == 16 else 16} of {lanes} f32 ({level})"),
        *((f"{name} cache", f"{size >> 10} KiB") for name, size in caches.items()),
        (
            "memory",
            f"{bandwidth:.2g} bytes/s read and written, one thread's copy times cores; "
            f"what a workload needs at least is modelled with {most:.2g}",
        ),
        ("f32 peak", f"{peak:.2g} operations/s, from clock and lanes"),
    ]
    own = caches.get("L2", 1 << 20) * cores
    return Machine(host(), bandwidth, min(last, max(own, 1 << 20)), cores * clock * 32.0, peak,
                   OVERHEAD, tuple(rows))  # fmt: skip


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


def _bandwidth() -> float:
    """Bytes a second that a copy reads and writes, measured once for this cache folder."""
    kept = cache_folder() / "machine.json"
    try:
        return float(json.loads(kept.read_text())["memory_bytes_per_second"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    x = np.ones(COPIED // 8)
    y = np.empty_like(x)
    best = 1e9
    for _ in range(4):
        begin = time.perf_counter()
        np.copyto(y, x)
        best = min(best, time.perf_counter() - begin)
    rate = float(f"{2 * COPIED / best * (os.cpu_count() or 1):.1g}")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({"memory_bytes_per_second": rate}))
    except OSError:
        pass
    return rate


@dataclass(frozen=True, slots=True)
class Load:
    """What a workload needs at least: bytes and operations; `text` says its sizes."""

    name: str
    text: str
    bytes: float
    flops: float


def loads_of(op: Operator) -> list[Load]:
    """The workloads as they are measured here."""
    moved, work = compulsory_bytes(op), flops(op)
    out = []
    for w, scaled in workloads(op, memory_limit())[0]:
        env = {**scaled.params, **scaled.sizes}
        try:
            need = float(evaluate(moved, env)), float(evaluate(work, env))
        except (ExprError, KeyError, TypeError):
            need = 0.0, 0.0
        sizes = ", ".join(f"{k} = {v}" for k, v in scaled.sizes.items())
        out.append(Load(scaled.name if w is None else w.name, sizes, *need))
    return out


@dataclass(frozen=True, slots=True)
class Limits:
    """What limits candidates of one operator on one machine; everything here is modelled but the
    candidate's own times."""

    machine: Machine
    loads: tuple[Load, ...]

    @staticmethod
    def of(op: Operator, backend: str, targets: tuple[str, ...]) -> Limits:
        return Limits(machine_of(backend, targets), tuple(loads_of(op)))

    def floor(self, load: Load) -> float:
        """Seconds that no implementation can be below, by compulsory traffic and arithmetic."""
        m = self.machine
        rate = m.cache_rate if load.bytes <= m.cache else max(m.memory, m.cache_rate / 8)
        return max(load.bytes / rate, load.flops / m.peak / 2)

    @property
    def floors(self) -> dict[str, float]:
        return {x.name: self.floor(x) for x in self.loads if self.floor(x) > 0}

    def diagnose(self, c: Candidate) -> tuple[str, str]:
        """The class of a candidate's bottleneck and why, from its slowest workload."""
        m = self.machine
        worst: tuple[float, str, str] = (0.0, "unknown", "nothing was measured")
        for load in self.loads:
            values = c.metrics.get(load.name, {})
            seconds = values.get("latency", 0.0)
            if not seconds:
                continue
            memory = load.bytes / (m.memory if load.bytes > m.cache else m.cache_rate)
            compute = load.flops / m.peak
            least = max(memory, compute, 1e-12)
            label, why = _class(load, seconds, memory, compute, values, m)
            if seconds / least > worst[0]:
                worst = (seconds / least, label, f"{load.name}: {why}")
        label, why = worst[1], worst[2]
        mix = c.build.get("instructions")
        if isinstance(mix, Mapping) and mix.get("float"):
            if not mix.get("packed"):
                why += "; no floating-point instruction works on vectors"
            if mix.get("calls"):
                why += f"; {mix['calls']} calls of math functions"
            if mix.get("spills", 0) > mix.get("packed", 0) / 4 > 0:
                why += f"; {mix['spills']} vectors are spilled to the stack"
        return label, why


def _class(
    load: Load,
    seconds: float,
    memory: float,
    compute: float,
    values: Mapping[str, float],
    m: Machine,
) -> tuple[str, str]:
    scratch = values.get("memory", 0.0)
    rate = load.bytes / seconds
    if seconds < m.overhead:
        return "overhead", f"a call takes {seconds * 1e6:.3g} us, most of it to start it"
    if scratch > load.bytes / 4 and seconds > 1.3 * max(memory, compute):
        return "traffic", f"{scratch:.2g} bytes of intermediates pass through memory"
    if memory >= compute and seconds < NEAR * memory:
        return (
            "memory",
            f"compulsory traffic moves at {rate:.2g} bytes/s; copies reach about {m.memory:.2g}",
        )
    if compute > memory and seconds < NEAR * compute:
        share = compute / seconds
        return "compute", f"arithmetic runs at {share:.0%} of the modelled peak"
    times = seconds / max(memory, compute, 1e-12)
    what = "traffic" if memory >= compute else "arithmetic"
    return "instructions", (
        f"{times:.3g} times what {what} alone would take: scalar or dependent instructions, "
        "strided accesses, or repeated passes"
    )
