"""What the model of block programs knows of the devices that it ranks for.

Vendors' data sheets: peak rates of the largest part of each architecture, dense, without sparsity.
Bandwidth of the last-level cache is what microbenchmarks of these parts report, rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Device:
    """Rates in units of 1e12 a second (bytes, operations); sizes in bytes.

    `rates` are of arithmetic by type, `products` of matrix units by operand type; a type without
    matrix units multiplies at its arithmetic rate. registers: 32-bit registers of a
    multiprocessor.
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
    warp: int = 32


def _half(rate: float) -> dict[str, float]:
    return {"f16": rate, "bf16": rate, "tf32": rate / 2, "f8e4m3": 2 * rate, "f8e5m2": 2 * rate,
            "i8": 2 * rate}  # fmt: skip


DEVICES = {
    "sm_80": Device(
        "A100 80GB SXM", 108, 2.04, 40 << 20, 5.0, {"f32": 19.5, "f64": 9.7},
        {"f16": 312.0, "bf16": 312.0, "tf32": 156.0, "i8": 624.0}, 65536, 164 << 10, 64,
    ),
    "sm_90": Device(
        "H100 SXM", 132, 3.35, 50 << 20, 7.0, {"f32": 66.9, "f64": 33.5}, _half(989.0), 65536,
        228 << 10, 64,
    ),
    "sm_100": Device(
        "B200", 148, 8.0, 126 << 20, 12.0, {"f32": 75.0, "f64": 37.0}, _half(2250.0), 65536,
        228 << 10, 64,
    ),
    "gfx942": Device(
        "MI300X", 304, 5.3, 256 << 20, 14.0, {"f32": 163.4, "f64": 81.7}, _half(1307.0), 131072,
        64 << 10, 32, 64,
    ),
}  # fmt: skip
