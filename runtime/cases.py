"""The reference values that were computed when the package was made, and comparison with them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from typing import Any

from .arrays import ELEMENTS, STORED_AS_BITS

# of small floats: stored fraction bits, exponent bits, bias, and which codes are not finite
_SMALL = {
    "bf16": (7, 8, 127, "ieee"),
    "f8e4m3": (3, 4, 7, "fn"),
    "f8e5m2": (2, 5, 15, "ieee"),
    "f8e4m3fnuz": (3, 4, 8, "fnuz"),
    "f8e5m2fnuz": (2, 5, 16, "fnuz"),
}


def decode(code: int, element: str) -> float:
    """The value of the bits of an element that numpy has no type for."""
    bits = ELEMENTS[element][0]
    mantissa, exponent_bits, bias, special = _SMALL[element]
    sign = -1.0 if code >> (bits - 1) else 1.0
    exponent = (code >> mantissa) & ((1 << exponent_bits) - 1)
    fraction = code & ((1 << mantissa) - 1)
    top = exponent == (1 << exponent_bits) - 1
    if special == "fnuz" and code == 1 << (bits - 1):
        return math.nan
    if special == "ieee" and top:
        return math.nan if fraction else sign * math.inf
    if special == "fn" and top and fraction == (1 << mantissa) - 1:
        return math.nan
    if exponent == 0:
        return sign * fraction * 2.0 ** (1 - bias - mantissa)
    return sign * (1 + fraction * 2.0**-mantissa) * 2.0 ** (exponent - bias)


def number(text: Any) -> float:
    return float(text)


class Case:
    """One case of reference.json."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.name: str = data["name"]
        self.types: dict[str, str] = data["types"]
        self.given: dict[str, Any] = data["given"]
        self.inputs: dict[str, Any] = data["inputs"]
        self.outputs: dict[str, Any] = data["outputs"]


def load(folder: str) -> list[Case]:
    with open(os.path.join(folder, "reference.json"), encoding="utf-8") as file:
        return [Case(c) for c in json.load(file)["cases"]]


def plain(values: Sequence[Any], element: str) -> list[Any]:
    """Stored numbers as Python values; bits stay bits."""
    if element in STORED_AS_BITS:
        return list(values)
    convert: Any = number if element[0] == "f" else bool if element == "bool" else int
    return [convert(v) for v in values]


def compare(
    label: str, case: Case, found: Sequence[tuple[str, Sequence[int], Sequence[float]]]
) -> tuple[str, int, float]:
    """(label, elements compared, largest error over the tolerance) of (output, shape, values) each.

    AssertionError names the first element outside the tolerance.
    """
    compared, worst = 0, 0.0
    for name, got_shape, got in found:
        wanted = case.outputs[name]
        shape = list(wanted["shape"])
        if list(got_shape) != shape:
            raise AssertionError(f"{label}: {name} has shape {list(got_shape)}, not {shape}")
        for n, (value, text) in enumerate(zip(got, wanted["data"])):
            expected = number(text)
            limit = wanted["abs"] + wanted["rel"] * abs(expected)
            compared += 1
            if value == expected or (math.isnan(value) and math.isnan(expected)):
                continue
            error = abs(value - expected)
            if not error <= limit:
                raise AssertionError(
                    f"{label}: {name} element {n} is {value!r}, the reference is {expected!r}, "
                    f"the tolerance {limit:.3g}"
                )
            worst = max(worst, error / limit) if limit else worst
    return label, compared, worst
