"""Comparison with the reference values that were computed when the package was made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .arrays import STORED_AS_BITS
from .cases import Case, compare, decode, load, plain
from .describe import Binding
from .engine import Engine


def values_of(library: Any, x: Any, element: str, shape: Sequence[int]) -> list[float]:
    """Numbers of an output in row-major order, whatever stores them."""
    listed = library.to_values(x)
    if element in STORED_AS_BITS and library.exact(x) != element:
        return [decode(code, element) for code in listed]
    return [float(v) for v in listed]


def arguments(
    engine: Engine, library: Any, case: Case
) -> tuple[list[Any], tuple[Any, ...], Binding]:
    """(inputs, params and sizes, binding) of a case as arrays of a library."""
    binding = next(b for b in engine.spec.bindings if b.types == case.types)
    inputs = []
    for t, element in zip(engine.spec.inputs, binding.inputs):
        stored = case.inputs[t.name]
        values = plain(stored["data"], element)
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
        library = engine.family(library_name)
    engine.dispatcher.levels()  # RuntimeError where nothing can run here
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
    found = []
    for t, element, x in zip(engine.spec.outputs, binding.outputs, outputs):
        wanted = case.outputs[t.name]
        found.append((t.name, list(x.shape), values_of(library, x, element, wanted["shape"])))
    return compare(label, case, found)
