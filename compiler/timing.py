"""What ships against what people have: the emitted kernel and baselines, side by side in one
run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.backends.cpp.run import Library
from opwright.ir.expr import evaluate
from opwright.ir.op import Operator
from opwright.search.measure import compare
from opwright.verify.inputs import Case

Call = Callable[[], object]
# (operator, sizes, params, inputs in stored form) -> {(implementation, mode): call, or why not}
Baselines = Callable[
    [Operator, Mapping[str, int], Mapping[str, Any], Mapping[str, NDArray[Any]]],
    Mapping[tuple[str, str], Call | str],
]
OWN = "opwright"
ZERO = "candidate 0"


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One line of a timing table: median seconds of an implementation at a workload.

    mode: `out` reuses outputs, `fresh` allocates them in every call. `note` says why there is no
    number, or what makes it doubtful.
    """

    op: str
    workload: str
    shape: str
    impl: str
    mode: str
    median_s: float | None
    spread: float = 0.0
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def shape_text(op: Operator, sizes: Mapping[str, int]) -> str:
    """The sizes of a workload as a person writes them: `B=32, N=4096; T=f32`."""
    text = ", ".join(f"{k}={v}" for k, v in sizes.items())
    types = ", ".join(f"{k}={v}" for k, v in op.types.items())
    return f"{text}; {types}" if types else text


def rows(
    op: Operator,
    workload: str,
    case: Case,
    libraries: Mapping[str, Path],
    baselines: Baselines | None,
    threads: int,
    rounds: int = 9,
) -> list[Row]:
    """Time libraries (by label) and baselines at one case; `out` and `fresh` in runs of their
    own."""
    inputs = {k: aligned_copy(v) for k, v in case.inputs.items()}
    calls: dict[str, dict[str, Call]] = {"out": {}, "fresh": {}}
    notes: dict[tuple[str, str], str] = {}
    for label, path in libraries.items():
        library = Library(path, op)
        calls["out"][label] = library.bind(
            inputs, outputs(op, case, aligned), case.params, case.sizes, threads
        )
        calls["fresh"][label] = _fresh(library, op, case, inputs, threads)
    if baselines is not None:
        for (name, mode), call in baselines(op, case.sizes, case.params, inputs).items():
            if isinstance(call, str):
                notes[name, mode] = call
            else:
                calls[mode][name] = call
    shape = shape_text(op, case.sizes)
    out = []
    for mode, contenders in calls.items():
        rare = [n for n in contenders if n == ZERO]  # slow, and nobody waits for its third digit
        found = compare(contenders, threads, rounds, rare=rare) if contenders else {}
        for name, t in found.items():
            note = "; ".join(t.notes)
            out.append(Row(op.name, workload, shape, name, mode, t.median, t.spread, note))
        for (name, of), why in notes.items():
            if of == mode:
                out.append(Row(op.name, workload, shape, name, mode, None, 0.0, why))
    return out


def _fresh(
    library: Library, op: Operator, case: Case, inputs: Mapping[str, NDArray[Any]], threads: int
) -> Call:
    def call() -> object:
        made = outputs(op, case, aligned)  # a variant may rely on alignment
        library.bind(inputs, made, case.params, case.sizes, threads)()
        return made

    return call


def outputs(
    op: Operator, case: Case, make: Callable[[Sequence[int], str], NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Storage for every output of a case."""
    env = {**case.sizes, **case.params}
    return {
        t.name: make([int(evaluate(s, env)) for s in t.shape], t.dtype.storage) for t in op.outputs
    }


def aligned(shape: Sequence[int], dtype: str) -> NDArray[Any]:
    """An array whose first element lies on a cache line, as large allocations of frameworks do."""
    item = np.dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64))
    raw = np.empty(count * item.itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count * item.itemsize].view(item).reshape(shape)


def aligned_copy(a: NDArray[Any]) -> NDArray[Any]:
    out = aligned(a.shape, a.dtype.name)
    out[...] = a
    return out
