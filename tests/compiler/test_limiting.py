"""What limits a candidate, from its times, its loops and the machine's rates."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from opwright.compiler.limiting import Limits, Load, described
from opwright.compiler.machines import Machine
from opwright.compiler.profiling import profile
from opwright.search.archive import Candidate
from opwright.search.counters import PREFIX
from opwright.search.moves import BOTTLENECKS, fitting

MACHINE = Machine(
    "m", ((1e5, 4e11), (1e6, 1e11), (1e7, 3e10), (math.inf, 2e10)), 4e11, 2e-5, (), 2, 3e9, 1e-7,
    True,
)  # fmt: skip
BIG = Load("w", "N = 1", 2e8, 1e8)  # 10 ms of traffic, 0.25 ms of arithmetic
LOOP: dict[str, Any] = {
    "function": "k", "depth": 1, "instructions": 9, "width": 64, "element": 4, "packed": 2,
    "scalar": 0, "fma": 1, "divisions": 0, "operations": 48, "loads": 1, "stores": 1,
    "load_bytes": 64, "store_bytes": 64, "gathers": 0, "scatters": 0, "spills": 0, "reloads": 0,
    "prefetches": 0, "streams": 0, "calls": 0, "math_calls": 0, "shuffles": 0, "converts": 0,
    "branches": 1, "cycles": {"front": 1.5, "arithmetic": 1.0, "stores": 1.0}, "elements": 16.0,
}  # fmt: skip


def candidate(loops: list[dict[str, Any]] | None = None, **values: float) -> Candidate:
    build = {"loops": loops} if loops is not None else {}
    return Candidate(1, 0, "row(width=8)", "ok", build=build, metrics={"w": dict(values)})


def told(need: Load, loops: list[dict[str, Any]] | None = None, **values: float) -> tuple[str, str]:
    return Limits(MACHINE, (need,)).diagnose(candidate(loops, **values))


def test_each_cause_is_told_by_its_number() -> None:
    slow = {**LOOP, "cycles": {"front": 2.0, "dependence": 16.0}}
    busy = {**LOOP, "cycles": {"divisions": 130.0}}
    small = replace(BIG, bytes=1e5, flops=4e7)  # 0.1 ms of arithmetic
    cases: list[tuple[str, str, tuple[str, str]]] = [
        ("overhead", "10 us", told(BIG, latency=1e-5)),
        ("threads", "1.1 of 2 threads", told(BIG, latency=0.02, share=1.1)),
        ("memory", "bandwidth", told(BIG, latency=0.015, share=1.1, load=9)),
        ("traffic", "1e+08 bytes of", told(BIG, latency=0.02, share=2, memory=1e8)),
        ("memory", "bandwidth", told(BIG, latency=0.012, share=2)),
        ("compute", "80% of the peak", told(small, latency=1.25e-4, share=2)),
        ("latency", "misses in flight", told(BIG, [LOOP], latency=0.03, share=2)),
        ("latency", "waits 16 cycles", told(BIG, [slow], latency=0.03, share=2)),
        ("instructions", "divisions and roots (130", told(BIG, [busy], latency=0.03, share=2)),
        ("instructions", "times what traffic alone", told(BIG, latency=0.03, share=2)),
        ("unknown", "nothing was measured", told(BIG)),
        ("unknown", "nothing was measured", told(BIG, latency=0.01, delegated=1)),
    ]
    for label, said, (found, why) in cases:
        assert found == label and said in why, (label, found, why)
        assert fitting(["rows"], "cpp", found)
    assert {x for x, _, _ in cases} <= set(BOTTLENECKS)


def test_the_floor_is_traffic_or_half_of_the_arithmetic() -> None:
    limits = Limits(MACHINE, (BIG,))
    assert limits.floor(BIG) == pytest.approx(0.01)
    assert limits.floor(replace(BIG, bytes=1e3, flops=4e9)) == pytest.approx(0.005)


def test_a_profile_says_where_each_number_is_from() -> None:
    c = candidate([LOOP], latency=0.03, share=2, spread=0.01, **{PREFIX + "page_faults": 3.0})
    found = profile(c, Limits(MACHINE, (BIG,)))
    basis = {name: r.basis for name, r in found.readings.items()}
    assert basis["w.page_faults"] == basis["w.latency"] == "measured"
    assert basis["loop0.loads_per_element"] == "compiled" and basis["loop0.width"] == "compiled"
    assert basis["loop0.cycles.front"] == basis["w.lines_in_flight"] == "modelled"
    assert found.readings["loop0.fma_per_element"].value == 1 / 16
    assert "instructions" in found.absent and "counters" not in found.absent
    assert "64-byte vectors" in described(c.build)[0]
