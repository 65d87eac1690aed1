"""Test cases derived from an operator: legal sizes and params, stored values that obey `requires`.

Everything follows from the operator and a seed. What could not be produced is said in `notes`,
never left out silently. The verdict over the cases is in `verify/numeric.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from opwright.ir.binding import InputError, prepare
from opwright.ir.dtypes import DType, decode, encode
from opwright.ir.evaluator import Evaluator, MeaningError
from opwright.ir.expr import Expr, ExprError, evaluate, show
from opwright.ir.op import Operator, Workload
from opwright.verify.cases import CaseError, call_of, known_cases
from opwright.verify.draw import Array, Values, decoded, draw_inputs, holds
from opwright.verify.sizes import (
    TEST_LIMITS,
    Limits,
    Params,
    Sampler,
    Scaled,
    Sizes,
    extent,
    work,
)

ORDINARY = ("normal", "uniform", "ties", "sorted", "constant")
HARD = ("wide", "cancel", "extreme")
KEPT = "recorded"  # the family of cases that are kept beside the spec
SPECIALS = {
    "nan": math.nan,
    "inf": math.inf,
    "negative_inf": -math.inf,
    "negative_zero": -0.0,
    "denormal": 0.0,
}
OVERFLOW_WORK = 1 << 22  # scalar steps of a definition that are taken to see whether it overflows
OVERFLOW = 3.0e38  # intermediates beyond this leave f32, the narrowest accumulator of the printers


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One call. Inputs are in stored form, dense in logical order; `family` names how they were
    drawn.

    `hard` inputs lose precision in any evaluation order, so that their error is judged by their
    conditioning; `special` ones hold NaN, infinities, -0 or denormals at a few places.
    """

    name: str
    family: str
    sizes: Sizes
    params: Params
    inputs: Mapping[str, Array]
    hard: bool = False
    special: bool = False

    def __str__(self) -> str:
        sizes = ", ".join(f"{k} = {v}" for k, v in self.sizes.items())
        return f"{self.name} ({self.family}; {sizes})"


@dataclass(frozen=True, slots=True)
class Cases:
    """Generated cases and, in sentences, what could not be generated and why."""

    cases: tuple[Case, ...]
    notes: tuple[str, ...] = ()


def overflows(op: Operator, case: Case) -> bool | None:
    """Whether a finite intermediate of the definition, taken literally, leaves the range of f32.

    None when the definition has a form that is not evaluated here: a derived fold, or a recurrence
    whose elements all stay within that range.
    """
    values = Values(decoded(op, case.inputs), case.sizes, case.params)
    if any(t.recurrence is not None for t in op.tensors):
        return True if _recurs_beyond(op, case) else None
    try:
        with np.errstate(all="ignore"):
            for t in op.tensors:
                if t.body is None:
                    return None
                env: dict[str, Any] = {}
                shape = [extent(s, case.sizes, case.params) for s in t.shape]
                for n, a in enumerate(t.axes):
                    lo = int(evaluate(a.lo, values.scalars))
                    grid = lo + np.arange(shape[n])
                    env[a.name] = grid.reshape([-1 if i == n else 1 for i in range(len(shape))])
                if any(a.lo.op != "const" or a.lo.attr != 0 for a in t.axes):
                    return None
                found = values(t.body, env)
                values.arrays[t.name] = np.broadcast_to(found, shape)
                if values.peak > OVERFLOW:
                    return True
    except (ExprError, MemoryError, KeyError):
        return None
    return values.peak > OVERFLOW


def _recurs_beyond(op: Operator, case: Case) -> bool:
    """Whether an element of a definition is beyond f32, or so near that its terms may be."""
    inputs = decoded(op, case.inputs)
    evaluator = Evaluator(op, {**case.sizes, **case.params}, prepare(op, inputs))
    try:
        with np.errstate(all="ignore"):
            evaluator.run()
    except (ArithmeticError, ExprError, InputError, LookupError, MeaningError, TypeError):
        return False
    for t in op.tensors:
        made = evaluator.arrays.get(t.name)
        if made is not None and made.dtype.kind == "f" and made.size:
            if not np.isfinite(made).all() or float(np.abs(made).max()) > OVERFLOW / 4:
                return True
    return False


def plant(op: Operator, case: Case, special: str, seed: int) -> Case | None:
    """The case with one special value at a few places of its real inputs; None where none is
    legal.
    """
    rng = np.random.default_rng([seed & 0xFFFFFFFF, 77])
    inputs = dict(case.inputs)
    planted = False
    for t in op.inputs:
        if t.kind != "real" or not inputs[t.name].size:
            continue
        value = SPECIALS[special]
        if special == "denormal":
            value = _denormal(t.dtype)
        bits = encode(np.full(1, value), t.dtype)
        back = float(decode(bits, t.dtype)[0])
        if not (back == value or (math.isnan(value) and math.isnan(back))):
            continue  # the type has no such value
        changed = inputs[t.name].copy()
        flat = changed.reshape(-1)
        count = min(flat.size, 1 + int(rng.integers(3)))
        flat[rng.choice(flat.size, count, replace=False)] = bits[0]
        trial = {**inputs, t.name: changed}
        if not holds(op, trial, case.sizes, case.params):
            inputs, planted = trial, True
            if rng.random() < 0.5:
                break  # also leave cases where one input alone holds the value
    if not planted:
        return None
    return Case(f"{case.name}.{special}", special, case.sizes, case.params, inputs, case.hard, True)


def _denormal(d: DType) -> float:
    return 3 * 2.0 ** (1 - d.bias - d.mantissa) if d.mantissa > 1 else 0.0


def generate(
    op: Operator,
    seed: int = 0,
    count: int = 12,
    edges: Iterable[int] = (),
    limits: Limits = TEST_LIMITS,
    facts: Sequence[Expr] = (),
    families: Sequence[str] = (*ORDINARY, *HARD),
    specials: bool = True,
    beyond: Sequence[int] = (),
    exactly: Sequence[tuple[str, int]] = (),
    together: Sequence[Mapping[str, int]] = (),
) -> Cases:
    """Cases over boundary sizes, value families and special values; the same for the same
    arguments.

    `edges` are tile extents and vector widths whose neighbours are worth trying, `facts` what a
    variant assumes beyond the operator's own facts, `beyond` blocks that one dim should exceed,
    `exactly` extents that dims should have, one at a time, and `together` several at once.
    """
    rng = Random(f"{seed}:{op.digest}:{op.name}")
    sampler = Sampler(op, rng, edges, limits, facts)
    # a single element beside it may hide what is wrong: more where that fits
    found = [sampler.beside(s, v, (2, 3, 5, 8)) or sampler.beside(s, v) for s, v in exactly]
    found += [sampler.draw(several) for several in together]
    drawn = [x for x in found if x is not None]
    drawn += sampler.beyond(beyond, count) if beyond else []
    drawn += sampler.many(count - len(drawn)) if len(drawn) < count else []
    notes: dict[str, None] = {}
    if not drawn:
        shown = "; ".join(show(f) for f in sampler.facts) or "none"
        return Cases((), (f"no sizes within {limits.elements} elements satisfy the facts {shown}",))
    real = any(t.kind == "real" for t in op.inputs)
    out: list[Case] = []
    usable: list[str] = []
    for family in families if real else [f for f in families if f not in ("cancel", "extreme")]:
        usable.append(family)
    for n, (sizes, params) in enumerate(drawn):
        family = usable[n % len(usable)]
        reason = ""
        for _ in range(4):  # values may be impossible at some sizes: an index into nothing
            try:
                inputs = draw_inputs(op, sizes, params, family, rng.randrange(2**32))
                break
            except InputError as e:
                reason = reason or f"{family} inputs at {_sizes_text(sizes)} left out: {e}"
                sizes, params = sampler.draw({}) or (sizes, params)
        else:
            notes[reason] = None
            continue
        case = Case(f"case{n}", family, sizes, params, inputs, family in HARD)
        # an extent of 0 hides how large what does not depend on it is
        known = {k: max(v, 1) for k, v in sizes.items()}
        large = family in HARD and work(op, known, params) > OVERFLOW_WORK
        if large or (family in HARD and overflows(op, case)):
            why = "whether the definition overflows f32 takes long to see" if large else (
                "the definition itself overflows f32")  # fmt: skip
            notes[f"{family} inputs at {_sizes_text(sizes)} left out: {why}"] = None
            inputs = draw_inputs(op, sizes, params, "normal", rng.randrange(2**32))
            case = Case(f"case{n}", "normal", sizes, params, inputs)
        out.append(case)
    if specials and real:
        hosts = hosts_of(out)
        for n, special in enumerate(SPECIALS):
            made = (
                plant(op, hosts[n % len(hosts)], special, rng.randrange(2**32)) if hosts else None
            )
            if made is not None:
                out.append(made)
            else:
                notes[f"no input may hold {special.replace('_', ' ')}"] = None
    if specials and not facts:
        out += _kept(op, limits, notes)
    if real and hosts_of(out) and set(HARD) <= set(families):
        largest = max(hosts_of(out), key=lambda c: min(x.size for x in c.inputs.values()))
        low = _low(op, largest, rng.randrange(2**32))
        if low is not None:
            out.append(low)
        else:
            notes["inputs far below zero left out: the definition itself leaves f32"] = None
    return Cases(tuple(out), tuple(notes))


def _kept(op: Operator, limits: Limits, notes: dict[str, None]) -> list[Case]:
    """The cases that are kept for this operator, as far as they are calls of it."""
    out = []
    for kept in known_cases(op):
        try:
            c = call_of(op, kept)
        except CaseError as e:
            notes[str(e)] = None
            continue
        if sum(x.size for x in c.inputs.values()) > limits.elements:
            notes[f"case {kept.id} left out: it is too large here"] = None
            continue
        values = decoded(op, c.inputs).values()
        special = any(x.dtype.kind == "f" and not np.isfinite(x).all() for x in values)
        out.append(Case(f"kept.{kept.id}", KEPT, c.sizes, c.params, c.inputs, kept.hard, special))
    return out


def hosts_of(cases: Sequence[Case]) -> list[Case]:
    """Ordinary cases with something in them."""
    return [
        c
        for c in cases
        if not (c.hard or c.special or c.family == KEPT)
        and any(x.size > 1 for x in c.inputs.values())
    ]


def _low(op: Operator, host: Case, seed: int) -> Case | None:
    """The host's sizes with all inputs far below zero, where a maximum or an exponential that
    starts from zero shows; None where the definition leaves f32 there."""
    try:
        inputs = draw_inputs(op, host.sizes, host.params, "low", seed)
    except InputError:
        return None
    case = Case("low", "low", host.sizes, host.params, inputs, True)
    return case if overflows(op, case) is False else None


def _sizes_text(sizes: Sizes) -> str:
    return ", ".join(f"{k} = {v}" for k, v in sizes.items()) or "no sizes"


def workload_case(op: Operator, workload: Workload | None, scaled: Scaled, seed: int) -> Case:
    """Inputs of a workload at its (scaled) sizes, drawn from its distributions, else normal."""
    values = workload.values if workload is not None else {}
    inputs = draw_inputs(op, scaled.sizes, scaled.params, "normal", seed, values)
    return Case(scaled.name, "workload", scaled.sizes, scaled.params, inputs)
