"""Element types: names, widths, kinds, and exact conversion between stored bits and float64.

Formats that numpy lacks (bf16, the f8 family, f4) are stored in unsigned integers of their width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Kind = str  # "real" | "int" | "bool"


@dataclass(frozen=True, slots=True)
class DType:
    """One element type; `mantissa` counts stored fraction bits, `storage` is the numpy type of its
    bits."""

    name: str
    kind: Kind
    bits: int
    storage: str
    mantissa: int = 0
    exponent: int = 0
    bias: int = 0
    # ieee: all-ones exponent is inf/nan | fn: only all ones is nan | fnuz: 0x80 is nan | none
    finite: str = "ieee"

    @property
    def bytes(self) -> int:
        """Bytes of one stored element (packed 4-bit types count one byte here)."""
        return max(1, self.bits // 8)

    @property
    def epsilon(self) -> float:
        """Distance from 1 to the next representable value; 0 for exact types."""
        return 2.0**-self.mantissa if self.kind == "real" else 0.0

    @property
    def is_native(self) -> bool:
        """Whether numpy computes in this type itself."""
        return self.name in NATIVE

    def __str__(self) -> str:
        return self.name


def _real(
    name: str, bits: int, mantissa: int, exponent: int, bias: int, finite: str = "ieee"
) -> DType:
    storage = name.replace("f", "float") if name in ("f64", "f32", "f16") else f"uint{max(bits, 8)}"
    return DType(name, "real", bits, storage, mantissa, exponent, bias, finite)


def _int(name: str) -> DType:
    bits = int(name[1:])
    return DType(name, "int", bits, ("int" if name[0] == "i" else "uint") + str(max(bits, 8)))


DTYPES: dict[str, DType] = {
    d.name: d
    for d in (
        _real("f64", 64, 52, 11, 1023),
        _real("f32", 32, 23, 8, 127),
        _real("f16", 16, 10, 5, 15),
        _real("bf16", 16, 7, 8, 127),
        _real("f8e4m3", 8, 3, 4, 7, "fn"),
        _real("f8e5m2", 8, 2, 5, 15),
        _real("f8e4m3fnuz", 8, 3, 4, 8, "fnuz"),
        _real("f8e5m2fnuz", 8, 2, 5, 16, "fnuz"),
        _real("f4e2m1", 4, 1, 2, 1, "none"),
        *(_int(f"{s}{b}") for s in "iu" for b in (64, 32, 16, 8, 4)),
        DType("bool", "bool", 8, "bool"),
    )
}
# tf32 is a precision of f32 operands, stored as f32
DTYPES["tf32"] = DType("tf32", "real", 32, "float32", 10, 8, 127)
NATIVE = frozenset("f64 f32 f16 i64 i32 i16 i8 u64 u32 u16 u8 bool".split())
F64, F32, F16, BF16 = (DTYPES[n] for n in ("f64", "f32", "f16", "bf16"))
I64, I32, BOOL = (DTYPES[n] for n in ("i64", "i32", "bool"))


def dtype(name: str) -> DType:
    """The type of that name; KeyError for an unknown one."""
    return DTYPES[name]


def integer_range(d: DType) -> tuple[int, int]:
    """Inclusive bounds of an integer type."""
    return (-(2 ** (d.bits - 1)), 2 ** (d.bits - 1) - 1) if d.name[0] == "i" else (0, 2**d.bits - 1)


@cache
def _table(name: str) -> NDArray[np.float64]:
    """Value of every bit pattern of a type of at most 8 bits."""
    d = DTYPES[name]
    out = np.empty(2**d.bits)
    for code in range(2**d.bits):
        sign = -1.0 if code >> (d.bits - 1) else 1.0
        exponent = (code >> d.mantissa) & (2**d.exponent - 1)
        fraction = code & (2**d.mantissa - 1)
        top = exponent == 2**d.exponent - 1
        if d.finite == "fnuz" and code == 2 ** (d.bits - 1):
            out[code] = np.nan
        elif d.finite == "ieee" and top:
            out[code] = np.nan if fraction else sign * np.inf
        elif d.finite == "fn" and top and fraction == 2**d.mantissa - 1:
            out[code] = np.nan
        elif exponent == 0:
            out[code] = sign * fraction * 2.0 ** (1 - d.bias - d.mantissa)
        else:
            out[code] = sign * (1 + fraction * 2.0**-d.mantissa) * 2.0 ** (exponent - d.bias)
    return out


def decode(bits: NDArray[Any], d: DType) -> NDArray[Any]:
    """Stored elements as float64 (real types), int64 (integers) or bool; exact."""
    if d.kind == "bool":
        return bits.astype(bool)
    if d.kind == "int":
        return bits.astype(np.int64)
    if d.name == "bf16":
        return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return bits.astype(np.float64) if d.is_native or d.name == "tf32" else _table(d.name)[bits]


def encode(values: NDArray[Any], d: DType) -> NDArray[Any]:
    """Nearest representable elements (ties to even, NaN kept), in the storage type."""
    if d.kind != "real" or d.is_native or d.name == "tf32":
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(values).astype(d.storage)
    if d.name == "bf16":
        bits = _odd_rounded_f32(values).view(np.uint32)
        nan = np.isnan(values)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return np.where(nan, 0x7FC0, rounded).astype(np.uint16)
    return _encode_small(np.asarray(values, np.float64), d)


def _odd_rounded_f32(values: NDArray[Any]) -> NDArray[np.float32]:
    """float64 to float32 rounded to odd, so that a second rounding is still correct."""
    wide = np.array(values, np.float64)
    with np.errstate(over="ignore"):
        near = wide.astype(np.float32)
    exact = near.astype(np.float64) == wide
    bits = near.view(np.uint32).copy()
    finite = np.isfinite(wide) & np.isfinite(near)
    away = finite & ~exact & (np.abs(near.astype(np.float64)) > np.abs(wide))
    bits = np.where(away, bits - 1, bits)
    bits = np.where(finite & ~exact, bits | 1, bits)
    return bits.astype(np.uint32).view(np.float32)


def _encode_small(values: NDArray[np.float64], d: DType) -> NDArray[Any]:
    table = _table(d.name)
    codes = np.flatnonzero(np.isfinite(table) & ~np.signbit(table))
    codes = codes[np.argsort(table[codes], kind="stable")]
    points = table[codes]
    magnitude = np.abs(values)
    high = np.clip(np.searchsorted(points, magnitude), 1, len(points) - 1)
    low = high - 1
    below, above = magnitude - points[low], points[high] - magnitude
    pick = np.where((above < below) | ((above == below) & (codes[high] % 2 == 0)), high, low)
    out = codes[pick]
    limit = points[-1] + (points[-1] - points[-2]) / 2
    if d.finite == "ieee":
        infinite = int(np.flatnonzero(np.isposinf(table))[0])
        out = np.where(magnitude >= limit, infinite, out)
    elif d.finite != "none":
        nan = int(np.flatnonzero(np.isnan(table))[0])
        out = np.where(magnitude >= limit, nan, out)
    out = np.where(
        np.signbit(values) & (out > 0 if d.finite == "fnuz" else True),
        out | (1 << (d.bits - 1)),
        out,
    )
    if d.finite != "none":
        out = np.where(np.isnan(values), int(np.flatnonzero(np.isnan(table))[0]), out)
    return out.astype(d.storage)
