"""The profile of a candidate: each number measured, compiled or modelled, with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from opwright.backends.cpp.inspection import Report
from opwright.compiler.limiting import UNITS, Limits, loops_of
from opwright.search.archive import Candidate
from opwright.search.artefacts import ProfileReport, Reading
from opwright.search.counters import PREFIX, UNIT, hardware

_TIMING = "interleaved rounds in a worker of their own"
_MEASURED = {
    "latency": ("s", _TIMING),
    "spread": ("share of the median", _TIMING),
    "share": ("processor time over wall time", _TIMING),
    "load": ("processes that wanted to run", "the system's average over a minute"),
    "error": ("share of the tolerance", "largest over the test cases"),
}
_KINDS = {
    "all": "instructions",
    "float": "floating-point arithmetic",
    "packed": "of it on vectors",
    "gathers": "gathers",
    "calls": "calls of math functions",
    "spills": "vector spills",
}


_TRIP = {
    "width": "bytes of the widest vectors",
    "instructions": "a trip",
    "elements": "a trip",
    "spills": "vectors, a trip",
    "reloads": "vectors, a trip",
    "calls": "a trip",
    "gathers": "a trip",
    "scatters": "a trip",
    "shuffles": "a trip",
    "prefetches": "a trip",
    "streams": "stores past the caches, a trip",
}
_ELEMENT = ("loads", "stores", "packed", "scalar", "fma", "divisions", "operations")


def profile(
    c: Candidate,
    limits: Limits,
    modelled: bool = False,
    report: Report | None = None,
    build: Mapping[str, Any] | None = None,
) -> ProfileReport:
    """What is known of a candidate. `modelled`: its times were not measured. `report`: what the
    compiler says of its loops; `build`: what was built of it, where the archive has less."""
    readings: dict[str, Reading] = {}
    build = {**c.build, **(build or {})}

    def note(name: str, value: float, unit: str, basis: str, source: str) -> None:
        readings[name] = Reading(value=value, unit=unit, basis=basis, source=source)  # type: ignore[arg-type]

    counted = False
    for load in limits.loads:
        values = c.metrics.get(load.name, {})
        if values.get("delegated"):  # another candidate's times, where the facts exclude it
            continue
        for name, (unit, source) in _MEASURED.items():
            if name not in values:
                continue
            basis = "modelled" if modelled and name != "error" else "measured"
            source = "roofline over the program's traffic" if basis == "modelled" else source
            note(f"{load.name}.{name}", values[name], unit, basis, source)
        for name, value in values.items():
            if name.startswith(PREFIX):
                counted = True
                event = name.removeprefix(PREFIX)
                where = "the system's counters over calls in a row"
                note(f"{load.name}.{event}", value, UNIT, "measured", where)
        if "memory" in values:
            note(f"{load.name}.scratch", values["memory"], "bytes", "compiled", "launch plan")
        floor = limits.floor(load)
        note(f"{load.name}.bytes", load.bytes, "bytes", "modelled", "compulsory traffic")
        note(f"{load.name}.operations", load.flops, "operations", "modelled", "the definition")
        rates = "best rates measured here" if limits.machine.measured else "peak rates"
        note(f"{load.name}.floor", floor, "s", "modelled", f"traffic and arithmetic at {rates}")
        seconds = values.get("latency", 0.0)
        if seconds:
            basis = "modelled" if modelled else "measured"
            rate = load.bytes / seconds
            note(f"{load.name}.rate", rate, "bytes/s", basis, "compulsory bytes over latency")
            share = floor / seconds
            note(f"{load.name}.of_possible", share, "share", "modelled", "floor over latency")
            m = limits.machine
            if m.latency and m.threads and m.streams(load.bytes) and not modelled:
                lines = rate / m.threads * m.latency / 64
                note(f"{load.name}.lines_in_flight", lines, "a thread", "modelled",
                     "rate times the measured latency of a line of memory")  # fmt: skip
    if "size" in build:
        note("code_size", float(build["size"]), "bytes", "compiled", "the built library")
    if "seconds" in build:
        note("compile_time", float(build["seconds"]), "s", "measured", "the build")
    mix = build.get("instructions", {})
    for name, unit in _KINDS.items():
        if name in mix:
            note(f"instructions.{name}", float(mix[name]), unit, "compiled", "disassembly")
    for n, loop in enumerate(loops_of(build)):
        where = f"disassembly of {loop['function']}, a guess which loop is hot"
        at = f"loop{n}"
        for name, unit in _TRIP.items():
            note(f"{at}.{name}", float(loop[name]), unit, "compiled", where)
        for name in _ELEMENT:
            if loop["elements"]:
                each = loop[name] / loop["elements"]
                note(f"{at}.{name}_per_element", each, "an element", "compiled", where)
        for name, value in loop["cycles"].items():
            why = f"cycles for {UNITS.get(name, name)}"
            note(f"{at}.cycles.{name}", float(value), why, "modelled", "a core's resources")
    for target, kernels in build.get("resources", {}).items():
        for kernel, found in kernels.items():
            for name, value in found.items():
                if isinstance(value, int | float):
                    where = f"{target}.{kernel}.{name}"
                    note(where, float(value), name, "compiled", "the compiler's report")
    if report is not None:
        for name, told in (("vectorised", report.vectorised), ("scalar", report.scalar)):
            note(f"{name}_loops", float(len(told)), "loops", "compiled", "the compiler's report")
    absent = {} if modelled else {"hardware_counters": hardware()}
    absent = {k: v for k, v in absent.items() if v}
    if not counted and not modelled:
        absent["counters"] = "nothing was counted while this candidate ran"
    if not mix:
        absent["instructions"] = "no disassembly of this candidate"
    label, sentence = limits.diagnose(replace(c, build=build))
    return ProfileReport(
        candidate=c.number,
        schedule=c.schedule,
        bottleneck=label,
        sentence=sentence,
        readings=readings,
        absent=absent,
        notes=[*report.vectorised, *report.scalar] if report is not None else [],
    )
