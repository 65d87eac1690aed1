"""What limits a candidate: `Limits`, from its times, what its hot loops do (by disassembly), the
operator's formulas and the machine's rates.

Classes are words of `search.moves.BOTTLENECKS`. Bandwidth, latency, threads and overhead are told
from measured numbers, which unit a loop waits for from a model of a core.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opwright.compiler.machines import LINE, Machine, machine_of
from opwright.ir.expr import ExprError, evaluate
from opwright.ir.formulas import compulsory_bytes, flops
from opwright.ir.op import Operator
from opwright.search.archive import Candidate
from opwright.search.loads import memory_limit, workloads

NEAR = 1.6  # times what is possible, within which a candidate counts as limited by it
WAITING = 1.25  # times what units need, beyond which a loop waits for its own results
OTHERS = 1.0  # processes more than threads, from which on times say little of threads
IDLE = 0.7  # of the threads, below which they are what is missing
UNITS = {
    "front": "starting its instructions",
    "arithmetic": "its arithmetic units",
    "loads": "its loads",
    "stores": "its stores",
    "shuffles": "its shuffles",
    "divisions": "its divisions and roots",
    "dependence": "results of the trip before",
}


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
    """What limits candidates of one operator on one machine."""

    machine: Machine
    loads: tuple[Load, ...]

    @staticmethod
    def of(op: Operator, backend: str, targets: tuple[str, ...]) -> Limits:
        return Limits(machine_of(backend, targets), tuple(loads_of(op)))

    def traffic(self, load: Load) -> float:
        """Seconds of the compulsory traffic at the best rate for so many bytes."""
        return load.bytes / self.machine.rate(load.bytes)

    def arithmetic(self, load: Load) -> float:
        """Seconds of the definition's operations at the peak. Functions are weighted as in the
        semantics table and may be cheaper, so that this is no floor by itself."""
        return load.flops / self.machine.peak

    def floor(self, load: Load) -> float:
        """Seconds that no implementation should be below: traffic, or half of the arithmetic. Half,
        for the definition's operations are weighted (a function counts as the operations of a
        usual one) and an algorithm may need fewer."""
        return max(self.traffic(load), self.arithmetic(load) / 2)

    @property
    def floors(self) -> dict[str, float]:
        return {x.name: self.floor(x) for x in self.loads if self.floor(x) > 0}

    def diagnose(self, c: Candidate) -> tuple[str, str]:
        """The class of a candidate's bottleneck and why, from its slowest workload among those that
        it runs itself."""
        worst: tuple[float, str, str] = (0.0, "unknown", "nothing was measured")
        for load in self.loads:
            values = c.metrics.get(load.name, {})
            seconds = values.get("latency", 0.0)
            if not seconds or values.get("delegated"):
                continue
            least = max(self.traffic(load), self.arithmetic(load), 1e-12)
            if seconds / least > worst[0]:
                label, why = self._class(load, seconds, values, loops_of(c.build))
                worst = (seconds / least, label, f"{load.name}: {why}")
        label, why = worst[1], worst[2]
        return label, "; ".join([why, *_mix(c.build)])

    def _class(
        self,
        load: Load,
        seconds: float,
        values: Mapping[str, float],
        loops: Sequence[Mapping[str, Any]],
    ) -> tuple[str, str]:
        m = self.machine
        memory, compute = self.traffic(load), self.arithmetic(load)
        rate = load.bytes / seconds
        alone = (
            f"compulsory traffic alone takes {memory / seconds:.0%} of its time, the definition's "
            f"arithmetic at peak {compute / seconds:.0%}"
        )
        if seconds < m.overhead:
            return "overhead", f"a call takes {seconds * 1e6:.3g} us, most of it to start it"
        share = values.get("share", 0.0)
        busy = values.get("load", 0.0) > m.threads + OTHERS  # others had the processor
        if m.threads > 1 and 0 < share < IDLE * m.threads and not busy:
            return "threads", (
                f"{share:.1f} of {m.threads} threads work (processor time over wall time); {alone}"
            )
        scratch = values.get("memory", 0.0)
        if scratch > load.bytes / 4 and seconds > 1.3 * max(memory, compute):
            return "traffic", f"{scratch:.2g} bytes of intermediates pass through memory; {alone}"
        if memory >= compute and seconds < NEAR * memory:
            best = m.rate(load.bytes)
            return "memory", (
                f"bandwidth: compulsory traffic moves at {rate:.2g} bytes/s; the best copy or read "
                f"of as much reaches {best:.2g}"
            )
        if compute > memory and seconds < NEAR * compute:
            return "compute", f"arithmetic runs at {compute / seconds:.0%} of the peak"
        hot = loops[0] if loops else None
        cycles = dict(hot["cycles"]) if hot is not None else {}
        others = max((v for k, v in cycles.items() if k != "dependence"), default=0.0)
        chain = cycles.get("dependence", 0.0)
        if hot is not None and chain > WAITING * others:
            return "latency", (
                f"dependent operations: a trip of its hot loop waits {chain:g} cycles for the "
                f"results of the trip before, its units need {others:g}; {alone}"
            )
        if m.clock and m.streams(load.bytes) and memory > compute / 2:
            flight = rate / m.threads * m.latency / LINE
            units = self._busy(load, loops)
            if units is not None and seconds > WAITING * units:
                return "latency", (
                    f"misses in flight: {rate:.2g} bytes/s of {m.rate(load.bytes):.2g} that copies "
                    f"reach, as if {flight:.0f} lines were under way for each thread; the units "
                    f"need {units / seconds:.0%} of its time, as modelled; {alone}"
                )
        if cycles:
            unit = max(cycles, key=lambda k: (cycles[k], k))
            return "instructions", (
                f"ports: a trip of its hot loop waits for {UNITS[unit]} ({cycles[unit]:g} cycles "
                f"as modelled); {alone}"
            )
        what = "traffic" if memory >= compute else "arithmetic"
        return "instructions", (
            f"{seconds / max(memory, compute, 1e-12):.3g} times what {what} alone would take: "
            "scalar or dependent instructions, strided accesses, or repeated passes"
        )

    def _busy(self, load: Load, loops: Sequence[Mapping[str, Any]]) -> float | None:
        """Seconds that the units of all cores need for the hot loops, were each to pass over all
        compulsory bytes once."""
        m, total = self.machine, 0.0
        deepest = max((x["depth"] for x in loops), default=0)
        for x in loops:
            moved = x["load_bytes"] + x["store_bytes"]
            if x["depth"] == deepest and moved and x["cycles"]:
                total += max(x["cycles"].values()) / moved
        if not total or not m.clock:
            return None
        return total * load.bytes / (m.clock * m.threads)


def loops_of(build: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The hot loops that a candidate's disassembly showed."""
    found = build.get("loops", [])
    return [x for x in found if isinstance(x, Mapping) and "cycles" in x]


def _mix(build: Mapping[str, Any]) -> list[str]:
    """What stands out in the instructions of all of a kernel."""
    mix, out = build.get("instructions"), []
    if isinstance(mix, Mapping) and mix.get("float"):
        if not mix.get("packed"):
            out.append("no floating-point instruction works on vectors")
        if mix.get("calls"):
            out.append(f"{mix['calls']} calls of math functions")
        if mix.get("spills", 0) > mix.get("packed", 0) / 4 > 0:
            out.append(f"{mix['spills']} vectors are spilled to the stack")
    return out


def described(build: Mapping[str, Any]) -> list[str]:
    """A line for each hot loop: what a trip does, and what it takes at least."""
    return [_loop(x) for x in loops_of(build)[:3]]


def _loop(x: Mapping[str, Any]) -> str:
    per = x["elements"]
    parts = [f"{x['instructions']} instructions"]
    if x["packed"]:
        parts.append(f"{x['packed']} arithmetic on {x['width']}-byte vectors ({x['fma']} fma)")
    if x["scalar"]:
        parts.append(f"{x['scalar']} scalar arithmetic")
    parts.append(f"{x['loads']} loads, {x['stores']} stores")
    for key, what in (
        ("divisions", "divisions or roots"), ("gathers", "gathers"), ("scatters", "scatters"),
        ("shuffles", "shuffles"), ("converts", "conversions"), ("spills", "spills"),
        ("reloads", "reloads"), ("calls", "calls"), ("prefetches", "prefetches"),
        ("streams", "stores past the caches"),
    ):  # fmt: skip
        if x[key]:
            parts.append(f"{x[key]} {what}")
    cycles = sorted(x["cycles"].items(), key=lambda kv: (-kv[1], kv[0]))[:3]
    least = ", ".join(f"{v:g} for {UNITS.get(k, k)}" for k, v in cycles)
    trip = f"a trip moves {per:g} elements: " if per else "a trip: "
    return f"`{x['function']}`: {trip}{', '.join(parts)}; cycles at least: {least}"
