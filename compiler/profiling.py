"""The profile of a candidate: each number measured, compiled or modelled, with its source."""

from __future__ import annotations

from opwright.compiler.forms import Limits
from opwright.search.archive import Candidate
from opwright.search.artefacts import ProfileReport, Reading

_TIMING = "interleaved rounds in a worker of their own"
_MEASURED = {
    "latency": ("s", _TIMING),
    "spread": ("share of the median", _TIMING),
    "share": ("processor time over wall time", _TIMING),
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


def profile(
    c: Candidate, limits: Limits, modelled: bool = False, loops: int | None = None
) -> ProfileReport:
    """What is known of a candidate. `modelled`: its times were not measured. `loops`: how many the
    compiler says are vectorised."""
    readings: dict[str, Reading] = {}

    def note(name: str, value: float, unit: str, basis: str, source: str) -> None:
        readings[name] = Reading(value=value, unit=unit, basis=basis, source=source)  # type: ignore[arg-type]

    for load in limits.loads:
        values = c.metrics.get(load.name, {})
        for name, (unit, source) in _MEASURED.items():
            if name not in values:
                continue
            basis = "modelled" if modelled and name != "error" else "measured"
            source = "roofline over the program's traffic" if basis == "modelled" else source
            note(f"{load.name}.{name}", values[name], unit, basis, source)
        if "memory" in values:
            note(f"{load.name}.scratch", values["memory"], "bytes", "compiled", "launch plan")
        floor = limits.floor(load)
        note(f"{load.name}.bytes", load.bytes, "bytes", "modelled", "compulsory traffic")
        note(f"{load.name}.operations", load.flops, "operations", "modelled", "the definition")
        note(f"{load.name}.floor", floor, "s", "modelled", "traffic and arithmetic at peak rates")
        seconds = values.get("latency", 0.0)
        if seconds:
            share = floor / seconds
            note(f"{load.name}.of_possible", share, "share", "modelled", "floor over latency")
    build = c.build
    if "size" in build:
        note("code_size", float(build["size"]), "bytes", "compiled", "the built library")
    if "seconds" in build:
        note("compile_time", float(build["seconds"]), "s", "measured", "the build")
    mix = build.get("instructions", {})
    for name, unit in _KINDS.items():
        if name in mix:
            note(f"instructions.{name}", float(mix[name]), unit, "compiled", "disassembly")
    for target, kernels in build.get("resources", {}).items():
        for kernel, found in kernels.items():
            for name, value in found.items():
                if isinstance(value, int | float):
                    where = f"{target}.{kernel}.{name}"
                    note(where, float(value), name, "compiled", "the compiler's report")
    if loops is not None:
        note("vectorised_loops", float(loops), "loops", "compiled", "the compiler's report")
    absent = {"counters": "hardware counters are not read here"}
    if not mix:
        absent["instructions"] = "no disassembly of this candidate"
    label, sentence = limits.diagnose(c)
    return ProfileReport(
        candidate=c.number,
        schedule=c.schedule,
        bottleneck=label,
        sentence=sentence,
        readings=readings,
        absent=absent,
    )
