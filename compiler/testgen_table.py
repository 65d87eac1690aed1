"""The table of cases of generated tests: boundary sizes that `where` allows, families of values.

Sizes come from the facts by sampling and z3; a family that the definition itself takes out of f32
at some sizes is left out there. Uses the printed contract, so that values are those of the tests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from opwright.ir.dtypes import encode
from opwright.ir.op import Operator
from opwright.verify.inputs import Case as Drawable
from opwright.verify.inputs import overflows
from opwright.verify.sizes import Limits, Params, Sampler, Sizes, shape_of, work
from opwright.verify.testkit_spec import Case, Drawn, Spec
from opwright.verify.testkit_values import HARD, ORDINARY, NoValues

# extents around the blocks that programs are made of, the telling ones first
EXTENTS = (17, 1, 33, 65, 0, 129, 257, 16, 128, 31, 64, 127, 255, 2, 63, 256, 15, 32, 3, 509, 7,
           1000, 1025, 2049, 4099)  # fmt: skip
LIMITS = Limits(1 << 14, 1 << 20)
LARGE = Limits(1 << 16, 1 << 22)
LONG, SHORTER = 20011, 4099
Row = tuple[str, int, dict[str, int], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of (family, seed, sizes, params), further sizes, and pools of extents by size."""

    rows: tuple[Row, ...]
    pools: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...] = ()


def boundary_sizes(op: Operator, seed: int, most: int) -> list[tuple[dict[str, int], Params]]:
    """Legal sizes: every size at every telling extent in turn, then what sampling finds, then the
    largest that the budget allows."""
    rng = Random(f"{seed}:{op.digest}:{op.name}")
    sampler = Sampler(op, rng, (16, 32, 64, 128, 256), LIMITS)
    found: dict[tuple[Any, ...], tuple[dict[str, int], Params]] = {}

    def keep(drawn: tuple[Sizes, Params] | None) -> None:
        if drawn is not None:
            sizes, params = drawn
            found.setdefault((*sizes.values(), *params.values()), (dict(sizes), params))

    for v in EXTENTS:
        for s in op.sizes:
            if len(found) < most * 2 // 3 and v in sampler.pools[s]:
                keep(sampler.beside(s, v, (2, 3, 5, 8)) or sampler.beside(s, v))
    for drawn in sampler.many(max(6, most // 3)):
        keep(drawn)
    for fixed in square(op):  # what is turned shows nowhere else
        some = (sampler.draw(fixed, tries=30) for _ in range(4))
        keep(next((d for d in some if d is None or 0 not in d[0].values()), None))
    large = Sampler(op, rng, (), LARGE)
    best = [d for d in (large.draw({}, tries=60) for _ in range(24)) if d is not None]
    best.sort(key=lambda d: -sum(math.prod(shape_of(t, *d)) for t in (*op.inputs, *op.outputs)))
    for drawn in best[:3]:
        keep(drawn)
    for s in op.sizes:  # what ends early, or counts in 16 bits less the sign, shows beyond these
        keep(large.beside(s, LONG, (2, 3)) or large.beside(s, SHORTER, (2, 3, 5)))
    return list(found.values())


def square(op: Operator) -> list[dict[str, int]]:
    """Equal extents for every two sizes that are the last axes of a tensor."""
    out: dict[tuple[str, ...], dict[str, int]] = {}
    for t in (*op.inputs, *op.outputs):
        names = [e.attr for e in t.shape[-2:] if e.op == "size"]
        if len(set(names)) == 2:
            out.setdefault(tuple(sorted(names)), dict.fromkeys(names, 5 + len(out)))
    return list(out.values())


def make_table(op: Operator, spec: Spec, seed: int = 0, most: int = 48) -> Table:
    """Cases that the contract allows and that the definition computes within f32."""
    sizes = boundary_sizes(op, seed, most)
    rows: list[Row] = []
    notes: dict[str, None] = {}
    real = any(t.kind == "real" for t in op.inputs)

    def add(family: str, chosen: tuple[dict[str, int], Params], n: int) -> bool:
        given = {
            p.name: chosen[1][p.name]
            for p in op.params
            if chosen[1][p.name] != spec.all_params(chosen[0], {}).get(p.name) or p.default is None
        }
        case = Case(family, n, chosen[0], given)
        if not spec.is_legal(chosen[0], given, LARGE.elements):
            return False
        try:
            drawn = spec.draw(case)
        except (NoValues, ArithmeticError, ValueError, IndexError) as e:
            notes[f"{family}: {e}"] = None
            return False
        if (family in HARD or real) and not _tame(op, drawn, family):
            return False
        rows.append((family, n, chosen[0], given))
        return True

    def amount(chosen: tuple[dict[str, int], Params]) -> int:
        return sum(math.prod(shape_of(t, *chosen)) for t in (*op.inputs, *op.outputs))

    for n, chosen in enumerate(sizes):
        # rare values occur among many; what equals its transpose tells nothing of a square
        plain = max(chosen[0].values(), default=0) >= SHORTER
        plain |= any(f.items() <= chosen[0].items() for f in square(op))
        first = "normal" if plain else ORDINARY[n % len(ORDINARY)]
        for family in (first, "normal", "uniform", "zeros"):
            if add(family, chosen, n + 1):
                break
    whole = [c for c in sizes if 0 not in c[0].values() and max(c[0].values(), default=0) < SHORTER]
    whole.sort(key=amount)
    middle = [c for c in whole[len(whole) // 3 :] if max(c[0].values(), default=9) > 16]
    middle = middle or whole
    for n, family in enumerate((*ORDINARY, *HARD) if real else ORDINARY[:5]):
        done = 0
        for k in range(min(len(middle), 8)):
            chosen = middle[(5 * n + 3 * k) % len(middle)]
            done += add(family, chosen, 100 + n)
            if done == 2:
                break
    sampler = Sampler(op, Random(0), (), LIMITS)
    pools = {s: tuple(v for v in sampler.pools[s] if v <= 300) for s in op.sizes}
    return Table(tuple(rows), pools, tuple(notes))


def _tame(op: Operator, drawn: Drawn, family: str) -> bool:
    """Whether the definition, taken literally, stays within f32 on these inputs."""
    sizes = dict(drawn.case.sizes)
    params = {p.name: drawn.scalars[p.name] for p in op.params}
    if work(op, {k: max(v, 1) for k, v in sizes.items()}, params) > LARGE.work:
        return family not in HARD
    stored = {
        t.name: encode(np.asarray(drawn.inputs[t.name]), t.dtype).reshape(
            drawn.inputs[t.name].shape
        )
        for t in op.inputs
    }
    case = Drawable("", family, sizes, params, stored)
    return overflows(op, case) is not True


def independent_sizes(op: Operator, spec: Spec) -> dict[str, dict[str, list[int]]]:
    """Sizes along whose axes the results do not care for the order of entries, or follow it: shown
    on the reference; {size: {tensor: axes}}."""
    out: dict[str, dict[str, list[int]]] = {}
    rng = np.random.default_rng(7)
    cases = [Case("normal", n, sizes, params) for n, (_, _, sizes, params) in enumerate(spec.table)
             if min(sizes.values(), default=0) > 1][:4]  # fmt: skip
    for s in op.sizes:
        axes = {
            t.name: [k for k, e in enumerate(t.shape) if e.op == "size" and e.attr == s]
            for t in (*op.inputs, *op.outputs)
        }
        mentions = [
            t.name
            for t in (*op.inputs, *op.outputs)
            if any(x.op == "size" and x.attr == s for e in t.shape for x in _walk(e))
        ]
        real = {t.name for t in op.inputs if t.kind == "real"}
        if not any(axes[n] for n in real) or any(not axes[n] for n in mentions):
            continue
        held = 0
        for case in cases:
            verdict = _follows(spec, case, s, axes, rng)
            if verdict is False:
                held = -1
                break
            held += verdict is True
        if held > 1:
            out[s] = {n: k for n, k in axes.items() if k}
    return out


def _walk(e: Any) -> Any:
    from opwright.ir.expr import walk

    return walk(e)


def _follows(
    spec: Spec, case: Case, size: str, axes: Mapping[str, list[int]], rng: Any
) -> bool | None:
    try:
        drawn = spec.draw(case)
    except NoValues:
        return None
    order = rng.permutation(case.sizes[size])
    if np.array_equal(order, np.arange(len(order))):
        order = order[::-1]

    def turned(name: str, x: Any) -> Any:
        for axis in axes.get(name, ()):
            x = np.take(x, order, axis=axis)
        return x

    inputs = {n: turned(n, x) for n, x in drawn.inputs.items()}
    if spec.broken({**drawn.scalars, **inputs}):
        return None
    plain = spec.computed(drawn.inputs, drawn.scalars)
    other = spec.computed(inputs, drawn.scalars)
    return all(
        np.allclose(turned(n, plain[n]), other[n], rtol=1e-8, atol=1e-10, equal_nan=True)
        for n in plain
    )


__all__ = ["Table", "boundary_sizes", "independent_sizes", "make_table"]
