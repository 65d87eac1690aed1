"""What the model of block programs knows of the devices that it ranks for, number by number.

Every number has a unit, a source and a status: `spec` (a vendor's data sheet or guide), `reported`
(published by others, not checked here), `assumed` (a round guess that a calibration replaces).
Nothing here was measured by this project.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Number:
    """A number of a table, where it comes from, and what that is worth."""

    value: float
    unit: str
    source: str
    status: str = "spec"


@dataclass(frozen=True, slots=True)
class Device:
    """Rates in units of 1e12 a second (bytes, operations); sizes in bytes; times in seconds.

    `rates` are of arithmetic by type, `products` of matrix units by operand type; a type without
    matrix units multiplies at its arithmetic rate. registers: 32-bit registers of a
    multiprocessor. `issue`: instructions of warps that a multiprocessor begins in a cycle,
    `clock` in 1e9 a second. `latency` is from a request to memory to its answer, `launch` of a
    kernel. `numbers` has every one of them with its source.
    """

    part: str
    multiprocessors: int
    memory: float
    cache: int
    cache_rate: float
    rates: Mapping[str, float]
    products: Mapping[str, float]
    registers: int
    shared: int
    warps: int
    warp: int
    clock: float
    issue: float
    latency: float
    launch: float
    numbers: Mapping[str, Number] = field(repr=False)


def _device(
    part: str, rates: tuple[str, ...], products: tuple[str, ...], numbers: Mapping[str, Number]
) -> Device:
    def at(name: str) -> float:
        return numbers[name].value

    return Device(
        part,
        int(at("multiprocessors")),
        at("memory"),
        int(at("cache")) << 20,
        at("cache_rate"),
        {r: at(f"{r} rate") for r in rates},
        {p: at(f"{p} products") for p in products},
        int(at("registers")),
        int(at("shared")) << 10,
        int(at("warps")),
        int(at("warp")),
        at("clock"),
        at("issue"),
        at("latency") * 1e-6,
        at("launch") * 1e-6,
        numbers,
    )


_ROUND = "a round guess"
_BENCHMARKS = "microbenchmarks of this part, as published, rounded"


def _usual(latency: float) -> dict[str, Number]:
    """What is guessed of every device until it is calibrated."""
    return {
        "latency": Number(latency, "us", _ROUND, "assumed"),
        "launch": Number(3.0, "us", _ROUND, "assumed"),
    }


def _nvidia(
    sheet: str, guide: str, clock: Number, cache_rate: float, values: Mapping[str, float]
) -> dict[str, Number]:
    """The table of an NVIDIA part: rates of its data sheet, limits of the programming guide."""
    out = {
        "multiprocessors": Number(values["multiprocessors"], "", sheet),
        "memory": Number(values["memory"], "TB/s", sheet),
        "cache": Number(values["cache"], "MiB", sheet),
        "cache_rate": Number(cache_rate, "TB/s", _BENCHMARKS, "reported"),
        "registers": Number(65536, "of 32 bits", guide),
        "shared": Number(values["shared"], "KiB", guide),
        "warps": Number(64, "", guide),
        "warp": Number(32, "lanes", guide),
        "clock": clock,
        "issue": Number(4, "instructions a cycle", guide),
        **_usual(0.6),
    }
    for name, value in values.items():
        if name.endswith((" rate", " products")):
            out[name] = Number(value, "T/s", sheet)
    return out


def _half(rate: float, *, eight: bool = True) -> dict[str, float]:
    """Rates of matrix units from that of 16 bits, dense, without sparsity."""
    out = {"f16": rate, "bf16": rate, "tf32": rate / 2, "i8": 2 * rate}
    if eight:
        out |= {"f8e4m3": 2 * rate, "f8e5m2": 2 * rate}
    return {f"{k} products": v for k, v in out.items()}


_GUIDE = "CUDA C++ programming guide, compute capability "
_BOTH = ("f32", "f64")
_ALL = ("f16", "bf16", "tf32", "f8e4m3", "f8e5m2", "i8")
DEVICES = {
    "sm_80": _device(
        "A100 80GB SXM",
        _BOTH,
        ("f16", "bf16", "tf32", "i8"),
        _nvidia(
            "NVIDIA A100 data sheet, 80 GB SXM",
            _GUIDE + "8.0",
            Number(1.41, "GHz", "NVIDIA A100 data sheet, boost"),
            5.0,
            {"multiprocessors": 108, "memory": 2.04, "cache": 40, "shared": 164,
             "f32 rate": 19.5, "f64 rate": 9.7, **_half(312.0, eight=False)},
        ),
    ),
    "sm_90": _device(
        "H100 SXM",
        _BOTH,
        _ALL,
        _nvidia(
            "NVIDIA H100 data sheet, SXM",
            _GUIDE + "9.0",
            Number(1.83, "GHz", "what rates and units of the data sheet imply", "reported"),
            7.0,
            {"multiprocessors": 132, "memory": 3.35, "cache": 50, "shared": 228,
             "f32 rate": 66.9, "f64 rate": 33.5, **_half(989.0)},
        ),
    ),
    "sm_100": _device(
        "B200",
        _BOTH,
        _ALL,
        _nvidia(
            "NVIDIA HGX B200 data sheet, one part",
            _GUIDE + "10.0",
            Number(1.9, "GHz", "published by others", "reported"),
            12.0,
            {"multiprocessors": 148, "memory": 8.0, "cache": 126, "shared": 228,
             "f32 rate": 75.0, "f64 rate": 37.0, **_half(2250.0)},
        ),
    ),
    "gfx942": _device(
        "MI300X",
        _BOTH,
        _ALL,
        {
            "multiprocessors": Number(304, "", "AMD Instinct MI300X data sheet"),
            "memory": Number(5.3, "TB/s", "AMD Instinct MI300X data sheet"),
            "cache": Number(256, "MiB", "AMD Instinct MI300X data sheet"),
            "cache_rate": Number(14.0, "TB/s", _BENCHMARKS, "reported"),
            "registers": Number(131072, "of 32 bits", "ROCm, table of GPU specifications"),
            "shared": Number(64, "KiB", "ROCm, table of GPU specifications"),
            "warps": Number(32, "", "ROCm, table of GPU specifications"),
            "warp": Number(64, "lanes", "ROCm, table of GPU specifications"),
            "clock": Number(2.1, "GHz", "AMD Instinct MI300X data sheet, peak"),
            "issue": Number(4, "instructions a cycle", "one of each of four units", "assumed"),
            "f32 rate": Number(163.4, "T/s", "AMD Instinct MI300X data sheet"),
            "f64 rate": Number(81.7, "T/s", "AMD Instinct MI300X data sheet"),
            **{
                k: Number(v, "T/s", "AMD Instinct MI300X data sheet")
                for k, v in _half(1307.0).items()
            },
            **_usual(0.8),
        },
    ),
}  # fmt: skip
