"""Comparison with the reference values that were computed when the package was made."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from typing import Any

from .arrays import ELEMENTS, STORED_AS_BITS, family
from .describe import Binding
from .engine import Engine

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


def values_of(library: Any, x: Any, element: str, shape: Sequence[int]) -> list[float]:
    """Numbers of an output in row-major order, whatever stores them."""
    listed = library.to_values(x)
    if element in STORED_AS_BITS and library.exact(x) != element:
        return [decode(code, element) for code in listed]
    return [float(v) for v in listed]


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


def arguments(
    engine: Engine, library: Any, case: Case
) -> tuple[list[Any], tuple[Any, ...], Binding]:
    """(inputs, params and sizes, binding) of a case as arrays of a library."""
    binding = next(b for b in engine.spec.bindings if b.types == case.types)
    inputs = []
    for t, element in zip(engine.spec.inputs, binding.inputs):
        stored = case.inputs[t.name]
        values = stored["data"]
        if element not in STORED_AS_BITS:
            convert: Any = number if element[0] == "f" else bool if element == "bool" else int
            values = [convert(v) for v in values]
        inputs.append(library.from_values(values, stored["shape"], element))
    named = {**case.types, **case.given}
    return inputs, tuple(named.get(name) for name in engine.spec.given_names()), binding


def run(
    engine: Engine, library_name: str | None = None, implementation: str | None = None
) -> list[tuple[str, int, float]]:
    """Run every case: (case, elements compared, largest error over the tolerance) of each.

    AssertionError names the first element outside the tolerance. Without `implementation` every
    variant whose guards hold runs. Without `library_name`, numpy if installed, else torch.
    """
    if library_name is None:
        library = engine.default_family()
    else:
        library = family(library_name)
    results = []
    for case in load(engine.folder):
        inputs, given, binding = arguments(engine, library, case)
        call = engine.dispatcher.arrange(library, inputs, given, None)
        for variant in binding.variants:
            if implementation is not None and variant.name != implementation:
                continue
            if engine.dispatcher.choose(binding, call.env, variant.name)[0] is None:
                continue
            results.append(_compare(engine, library, case, binding, inputs, given, variant.name))
    return results


def _compare(
    engine: Engine,
    library: Any,
    case: Case,
    binding: Binding,
    inputs: Sequence[Any],
    given: tuple[Any, ...],
    variant: str,
) -> tuple[str, int, float]:
    result = engine.local(library, tuple(inputs), given, None, variant)
    outputs = (result,) if len(engine.spec.outputs) == 1 else tuple(result)
    label = f"{case.name} [{variant}]"
    compared, worst = 0, 0.0
    for t, element, x in zip(engine.spec.outputs, binding.outputs, outputs):
        wanted = case.outputs[t.name]
        got = values_of(library, x, element, wanted["shape"])
        shape = list(wanted["shape"])
        if list(x.shape) != shape:
            raise AssertionError(f"{label}: {t.name} has shape {list(x.shape)}, not {shape}")
        for n, (value, text) in enumerate(zip(got, wanted["data"])):
            expected = number(text)
            limit = wanted["abs"] + wanted["rel"] * abs(expected)
            compared += 1
            if value == expected or (math.isnan(value) and math.isnan(expected)):
                continue
            error = abs(value - expected)
            if not error <= limit:
                raise AssertionError(
                    f"{label}: {t.name} element {n} is {value!r}, the reference is {expected!r}, "
                    f"the tolerance {limit:.3g}"
                )
            worst = max(worst, error / limit) if limit else worst
    return label, compared, worst
