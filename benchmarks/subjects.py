"""What `python -m opwright.benchmarks` measures: pairs of an operator and a shape, in the order of
their worth.

First the study's pairs (operators that people run, at sizes that they run them at), then the
workloads of the library, each forward and backward and at every element type that is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from opwright.compiler.autodiff_rules import NotDifferentiable
from opwright.compiler.autodiff_saved import saved_for
from opwright.compiler.backward import backward_operator, wanted
from opwright.compiler.elaborate import Spec, load_spec
from opwright.compiler.stored import stored_form
from opwright.ir.op import Operator, Workload

SPECS = Path(__file__).resolve().parent.parent / "specs"
FORWARD, BACKWARD = "forward", "backward"
DIRECTIONS = (FORWARD, BACKWARD)

# name of the pair: operator, sizes, params
STUDY: Mapping[str, tuple[str, Mapping[str, int], Mapping[str, Any]]] = {
    "softmax 4096x4096": ("softmax", {"B": 4096, "N": 4096}, {}),
    "softmax 128x50257": ("softmax", {"B": 128, "N": 50257}, {}),
    "layernorm 8192x1024": ("layernorm", {"B": 8192, "N": 1024}, {}),
    "rmsnorm 8192x4096": ("rmsnorm", {"B": 8192, "N": 4096}, {}),
    "gelu tanh 16M": ("gelu_tanh", {"N": 1 << 24}, {}),
    "gelu exact 16M": ("gelu", {"N": 1 << 24}, {}),
    "matmul 1024": ("matmul", {"M": 1024, "N": 1024, "K": 1024}, {}),
    "matmul 2048x2048x256": ("matmul", {"M": 2048, "N": 2048, "K": 256}, {}),
    "linear gelu 1024x4096x1024": ("matmul_bias_gelu", {"M": 1024, "N": 4096, "K": 1024}, {}),
    "linear gelu 2048x2048x256": ("matmul_bias_gelu", {"M": 2048, "N": 2048, "K": 256}, {}),
    "conv3x3 bias relu": (
        "conv2d_bias_relu",
        {"N": 8, "C": 64, "H": 56, "W": 56, "K": 64, "R": 3, "S": 3},
        {"pad": 1},
    ),
    "attention causal": ("causal_attention", {"B": 1, "H": 16, "S": 1024, "D": 64}, {}),
    "cross entropy 4096x32000": ("cross_entropy", {"B": 4096, "V": 32000}, {}),
    "cumsum 4096x4096": ("cumsum", {"B": 4096, "N": 4096}, {}),
    "sum dim 1": ("row_sum", {"B": 4096, "N": 4096}, {}),
    "sum dim 0": ("column_sum", {"M": 4096, "N": 4096}, {}),
    "argmax dim 1": ("argmax", {"B": 4096, "N": 4096}, {}),
}
# the part of an operator's operations that its answer depends on, where formulas count all
LIVE: Mapping[str, float] = {"causal_attention": 0.5, "alibi_attention": 0.5}
# inputs that a model holds fixed, of operators whose rivals lay them out ahead
WEIGHTS: Mapping[str, tuple[str, ...]] = {
    "matmul": ("b",),
    "matmul_bt": ("b",),
    "matmul_at": ("b",),
    "matmul_4d": ("w",),
    "batched_matmul": ("y",),
    "matmul_bias_gelu": ("w", "bias"),
    "conv2d_bias_relu": ("w", "bias"),
    "grouped_conv2d": ("w",),
    "gated_mlp": ("gate", "up", "down"),
}


@dataclass(frozen=True, slots=True)
class Pair:
    """One operator at one shape. `study` is its name in the study, empty for a workload of the
    library; `element` is what type variables are bound to where they allow it."""

    op: str
    direction: str
    element: str
    workload: str
    sizes: Mapping[str, int] = field(hash=False)
    params: Mapping[str, Any] = field(hash=False)
    study: str = ""

    @property
    def key(self) -> str:
        """Names the pair in results; the same in every run."""
        shape = ",".join(f"{k}={v}" for k, v in (*self.sizes.items(), *self.params.items()))
        return f"{self.op}/{self.direction}/{self.element}/{shape}"

    @property
    def title(self) -> str:
        """What a table calls it."""
        return self.study or f"{self.op} {self.workload}"

    def to_json(self) -> dict[str, Any]:
        return {n: getattr(self, n) for n in self.__slots__}


@cache
def library() -> dict[str, Path]:
    """Spec files of the library by operator."""
    return {p.stem: p for p in sorted(SPECS.rglob("*.op"))}


@cache
def spec_of(name: str) -> Spec:
    """The spec of an operator of the library."""
    return load_spec(library()[name])


def binding(spec: Spec, name: str, element: str) -> Mapping[str, str] | None:
    """Type variables with `element` for all of them; None where the spec has no such binding, and
    what it has for an operator without type variables at its own type."""
    found = spec.bindings(name)
    if found and not found[0]:
        return found[0] if element == "f32" else None
    return next((b for b in found if set(b.values()) == {element}), None)


def plan(
    elements: Sequence[str],
    directions: Sequence[str],
    only: Sequence[str] = (),
    rivals: Sequence[Container[str]] = (),
    study: bool = False,
) -> list[Pair]:
    """All pairs, most valuable first: the study forward and backward at each type, then, unless
    `study`, the library's workloads. `only` are operators; operators of the first of `rivals`
    come first, and what is in none of them is left out where it is not asked for.
    """
    order = {n: next((k for k, r in enumerate(rivals) if n in r), len(rivals)) for n in library()}
    names = [n for n in order if n in only or (not only and order[n] < max(len(rivals), 1))]
    names.sort(key=lambda n: order[n])
    first: list[Pair] = []
    rest: list[Pair] = []
    for element in elements:
        for direction in directions:
            first += _study(element, direction, only)
    for direction in () if study else directions:
        for element in elements:
            rest += _workloads(names, element, direction)
    seen: set[str] = set()
    out = []
    for p in (*first, *rest):
        if p.key not in seen:
            seen.add(p.key)
            out.append(p)
    return out


def _study(element: str, direction: str, only: Sequence[str]) -> Iterator[Pair]:
    for study, (name, sizes, params) in STUDY.items():
        if only and name not in only:
            continue
        spec = spec_of(name)
        if binding(spec, name, element) is None:
            continue
        if direction == BACKWARD and not wanted(spec, name):
            continue
        yield Pair(name, direction, element, "study", dict(sizes), dict(params), study)


def _workloads(names: Sequence[str], element: str, direction: str) -> Iterator[Pair]:
    for name in names:
        spec = spec_of(name)
        bound = binding(spec, name, element)
        if bound is None or (direction == BACKWARD and not wanted(spec, name)):
            continue
        op = spec.operator(name, bound)
        for w in op.workloads:
            yield Pair(name, direction, element, w.name, dict(w.sizes), dict(w.params))


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """An operator with the pair's shape as its only workload. `forward` is the operator that a
    gradient belongs to, and `wrt` what it is with respect to."""

    pair: Pair
    op: Operator
    forward: Operator
    wrt: tuple[str, ...] = ()


def subject(pair: Pair) -> Subject:
    """The operator of a pair. Raises DiagnosticError, NotDifferentiable, ValueError."""
    spec = spec_of(pair.op)
    bound = binding(spec, pair.op, pair.element)
    if bound is None:
        raise ValueError(f"{pair.op} has no binding to {pair.element}")
    op = stored_form(spec.operator(pair.op, bound))
    if pair.direction == FORWARD:
        return Subject(pair, at(op, pair), op)
    asked = wanted(spec, pair.op)
    if not asked:
        raise NotDifferentiable(f"{pair.op} asks for no gradient")
    names, written = asked[0]
    saved: tuple[str, ...] = () if written else saved_for(op, names)
    g, _ = backward_operator(spec, op, names, written, saved)
    return Subject(pair, at(g, pair), op, tuple(names))


def at(op: Operator, pair: Pair) -> Operator:
    """The operator with the pair's shape as its only workload, and a digest of its own."""
    own = next((w for w in op.workloads), None)
    values = dict(own.values) if own is not None else {}
    same = next((w for w in op.workloads if w.sizes == pair.sizes), None)
    values = dict(same.values) if same is not None else values
    names = {p.name for p in op.params}
    params = {k: v for k, v in pair.params.items() if k in names}
    w = Workload("pair", 1.0, dict(pair.sizes), params, dict(op.types), values)
    digest = hashlib.sha256(f"{op.digest} {pair.key}".encode()).hexdigest()
    return replace(op, workloads=(w,), digest=f"sha256:{digest}")
