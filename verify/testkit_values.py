"""Numbers for tests: element types as float64, families of values, and inputs that obey a contract.

Stands alone on NumPy, so that it can be copied beside generated tests. Real numbers are float64
arrays that hold exact values of their element type, integers int64, truth values bool.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = Any  # a NumPy array
Env = Mapping[str, Any]  # sizes, params and arrays by name


class NoValues(Exception):
    """No inputs satisfy the contract at these sizes."""


# -- element types ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Type:
    """A real element type: fraction bits, least normal exponent, largest value, what is beyond."""

    name: str
    mantissa: int
    least: int
    top: float
    beyond: float = math.inf

    @property
    def epsilon(self) -> float:
        return 2.0**-self.mantissa

    @property
    def tiny(self) -> float:
        """The smallest normal number."""
        return 2.0**self.least


REALS = {
    t.name: t
    for t in (
        Type("f64", 52, -1022, float(np.finfo(np.float64).max)),
        Type("f32", 23, -126, float(np.finfo(np.float32).max)),
        Type("f16", 10, -14, 65504.0),
        Type("bf16", 7, -126, 2.0**128 - 2.0**120),
        Type("f8e4m3", 3, -6, 448.0, math.nan),
        Type("f8e5m2", 2, -14, 57344.0),
        Type("f8e4m3fnuz", 3, -7, 240.0, math.nan),
        Type("f8e5m2fnuz", 2, -15, 57344.0, math.nan),
        Type("f4e2m1", 1, 0, 6.0, 6.0),
    )
}


def kind_of(dtype: str) -> str:
    return "bool" if dtype == "bool" else "real" if dtype in REALS else "int"


def integer_range(dtype: str) -> tuple[int, int]:
    bits = int(dtype[1:])
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dtype[0] == "i" else (0, 2**bits - 1)


def spacing(x: Array, dtype: str) -> Array:
    """The distance of neighbours of a type at x."""
    t = REALS[dtype]
    finite = np.where(np.isfinite(x), x, 0)
    power = np.where(finite == 0, t.least, np.frexp(finite)[1] - 1)
    return np.ldexp(1.0, np.maximum(power, t.least) - t.mantissa)


def store(x: Array, dtype: str) -> Array:
    """x as a value of the type: nearest, ties to even."""
    kind = kind_of(dtype)
    if kind != "real":
        return np.asarray(x, bool if kind == "bool" else np.int64)
    x, t = np.asarray(x, float), REALS[dtype]
    if dtype == "f64":
        return x
    with np.errstate(all="ignore"):
        unit = spacing(x, dtype)
        out = np.where(np.isfinite(x), np.rint(x / unit) * unit, x)
        out = np.where((out == 0) & (x != 0), np.copysign(0.0, x), out)
        return np.where(np.abs(out) > t.top, np.copysign(t.beyond, x), out)


# -- contracts -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bound:
    """What a value may not cross: a number, or a function of the named sizes, params, arrays."""

    value: Any
    strict: bool = False
    reads: tuple[str, ...] = ()

    def of(self, env: Env) -> Array:
        if not callable(self.value):
            return np.asarray(self.value, float)
        with np.errstate(all="ignore"):
            return np.asarray(self.value(*(env[n] for n in self.reads)), float)


@dataclass(frozen=True)
class Input:
    """An input and what the contract says of its values.

    `ascending` are (axis, strict), `fixed` are (index, value), `total` are (axis, sum along it);
    `symmetric` are orders of the axes in which the array is the same.
    """

    name: str
    dtype: str
    low: tuple[Bound, ...] = ()
    high: tuple[Bound, ...] = ()
    ascending: tuple[tuple[int, bool], ...] = ()
    fixed: tuple[tuple[tuple[Bound, ...], Bound], ...] = ()
    total: tuple[tuple[int, Bound], ...] = ()
    symmetric: tuple[tuple[int, ...], ...] = ()
    distinct: bool = False


@dataclass
class Limits:
    low: Array = field(default_factory=lambda: np.asarray(-np.inf))
    high: Array = field(default_factory=lambda: np.asarray(np.inf))
    open_low: bool = False
    open_high: bool = False


def limits_of(t: Input, env: Env) -> Limits:
    """The interval of every element, from those bounds that are known already."""
    out = Limits()
    for b in t.low:
        if all(n in env for n in b.reads):
            value = b.of(env)
            out.open_low |= b.strict and bool(np.any(value >= out.low))
            out.low = np.maximum(out.low, value)
    for b in t.high:
        if all(n in env for n in b.reads):
            value = b.of(env)
            out.open_high |= b.strict and bool(np.any(value <= out.high))
            out.high = np.minimum(out.high, value)
    ends = [float(b.of(env)) for _, b in t.fixed if all(n in env for n in b.reads)]
    if t.ascending and ends:
        out.low, out.high = np.maximum(out.low, min(ends)), np.minimum(out.high, max(ends))
    return out


# -- families of values ----------------------------------------------------------------------------

EDGES = (0, -1, 15, 16, 31, 32, 63, 64, 127, 128, 255, 256)


def _along(shape: tuple[int, ...]) -> Array:
    """The position along the last axis, for every element."""
    return np.broadcast_to(np.arange(shape[-1]) if shape else np.asarray(0), shape)


def _rows(shape: tuple[int, ...]) -> Array:
    """The number of the row that an element is in."""
    count = math.prod(shape[:-1]) if shape else 1
    return np.broadcast_to(np.arange(count).reshape(*shape[:-1], 1) if shape else 0, shape)


def _spikes(shape: tuple[int, ...], rng: Any, places: Sequence[int]) -> Array:
    """Small values with one hot element a row, at the places in turn."""
    v = rng.normal(0, 0.5, shape)
    if not v.size or not shape:
        return v
    n = shape[-1]
    fit = [p for p in places if -n <= p < n]
    wanted = np.asarray([p % n for p in fit])[_rows(shape) % len(fit)]
    return np.where(_along(shape) == wanted, 9.0, v)


FAMILIES: dict[str, Callable[[tuple[int, ...], Any], Array]] = {
    "normal": lambda shape, rng: rng.normal(0, 1, shape),
    "uniform": lambda shape, rng: rng.uniform(-1, 1, shape),
    "positive": lambda shape, rng: rng.uniform(0.5, 2, shape),
    "ties": lambda shape, rng: rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0, 2.0], shape),
    "two values": lambda shape, rng: np.where(rng.random(shape) < 0.5, 1.0, -1.0),
    "rising": lambda shape, rng: np.sort(rng.normal(0, 2, shape), axis=-1) if shape else 0.5,
    "falling": lambda shape, rng: -np.sort(rng.normal(0, 2, shape), axis=-1) if shape else -0.5,
    "equal": lambda shape, rng: np.full(shape, rng.choice([-1.5, 0.375, 2.0])),
    "zeros": lambda shape, rng: np.zeros(shape),
    "ones": lambda shape, rng: np.ones(shape),
    "first is largest": lambda shape, rng: _spikes(shape, rng, (0,)),
    "last is largest": lambda shape, rng: _spikes(shape, rng, (-1,)),
    "largest at block edges": lambda shape, rng: _spikes(shape, rng, EDGES),
    "smallest at block edges": lambda shape, rng: -_spikes(shape, rng, EDGES),
    "blocks rise": lambda shape, rng: 3.0 * (_along(shape) // 16 % 8) + rng.normal(0, 1, shape),
    "blocks fall": lambda shape, rng: -3.0 * (_along(shape) // 16 % 8) + rng.normal(0, 1, shape),
    "signs alternate": lambda shape, rng: (
        np.where(_along(shape) % 2, -1.0, 1.0) * rng.uniform(0.5, 1.5, shape)
    ),
    "powers of two": lambda shape, rng: (
        rng.choice([-1.0, 1.0], shape) * 2.0 ** rng.integers(-6, 5, shape)
    ),
    "ramp": lambda shape, rng: np.arange(math.prod(shape)).reshape(shape) % 97 / 16.0 - 3.0,
    "shifted": lambda shape, rng: 6.0 + rng.normal(0, 1, shape),
    "wide": lambda shape, rng: rng.choice([-1.0, 1.0], shape) * 2.0 ** rng.uniform(-12, 6, shape),
    "cancelling": lambda shape, rng: _cancelling(shape, rng),
    "large": lambda shape, rng: rng.choice([-1.0, 1.0, 1e-3], shape) * rng.uniform(1e3, 1e4, shape),
    "far below zero": lambda shape, rng: rng.uniform(-200, -120, shape),
    "far above zero": lambda shape, rng: rng.uniform(120, 200, shape),
    "tiny": lambda shape, rng: rng.normal(0, 1, shape) * 1e-6,
}
ORDINARY = tuple(FAMILIES)[:19]  # exact to the last rounding in any order of evaluation
HARD = tuple(FAMILIES)[19:]  # what cancels or overflows: checked when the tests were written

SPECIALS = {
    "nan": math.nan, "inf": math.inf, "-inf": -math.inf, "-0": -0.0, "denormal": 0.0,
}  # fmt: skip
PLACES = ("first", "last", "middle", "row")


def _cancelling(shape: tuple[int, ...], rng: Any) -> Array:
    n = math.prod(shape)
    v = rng.normal(0, 1, n) * np.where(np.arange(n) % 7 == 0, 64.0, 1.0)
    half = v[1::2].size
    v[1::2] = -v[: 2 * half : 2] * (1 + 2.0**-8 * rng.normal(0, 1, half))
    return v.reshape(shape)


def _into(v: Array, r: Limits) -> Array:
    """Values moved into their bounds; ties stay tied and order stays order."""
    low, high = r.low, r.high
    inside = (v >= low) & (v <= high)
    if np.all(inside):
        return v
    both = np.isfinite(low) & np.isfinite(high)
    with np.errstate(all="ignore"):
        squeezed = low + (high - low) * (0.5 + np.arctan(v) / math.pi * 0.98)
        above = low + np.abs(v) + np.where(np.isfinite(low), 2.0**-10, 0)
        below = high - np.abs(v) - np.where(np.isfinite(high), 2.0**-10, 0)
    out = np.where(inside, v, np.where(both, squeezed, v))
    out = np.where(np.isfinite(low) & ~np.isfinite(high) & ~inside, above, out)
    return np.where(np.isfinite(high) & ~np.isfinite(low) & ~inside, below, out)


def _kept_inside(v: Array, dtype: str, r: Limits) -> Array:
    """Values of the type; one that rounding moved out of its bounds goes to their middle."""
    out = store(v, dtype)
    with np.errstate(invalid="ignore"):
        wrong = (out < r.low) | (out > r.high) | (r.open_low & (out == r.low))
        wrong |= r.open_high & (out == r.high)
    if not np.any(wrong):
        return out
    low = np.where(np.isfinite(r.low), r.low, np.where(np.isfinite(r.high), r.high - 1, -1))
    high = np.where(np.isfinite(r.high), r.high, low + 1)
    return np.where(wrong, store(low + (high - low) / 2, dtype), out)


def _integers(t: Input, family: str, shape: tuple[int, ...], rng: Any, r: Limits) -> Array:
    least, most = integer_range(t.dtype)
    low = np.where(np.isfinite(r.low), np.ceil(r.low + (1 if r.open_low else 0)), max(least, -8))
    high = np.where(np.isfinite(r.high), np.floor(r.high - (1 if r.open_high else 0)), min(most, 8))
    low = np.where(np.isfinite(r.high) & ~np.isfinite(r.low), np.minimum(low, high - 8), low)
    high = np.where(np.isfinite(r.low) & ~np.isfinite(r.high), np.maximum(high, low + 8), high)
    low, high = np.maximum(low, least), np.minimum(high, most)
    n = math.prod(shape)
    if n and np.any(low > high):
        raise NoValues(f"no value of {t.name} satisfies its bounds")
    if n and (t.distinct or any(strict for _, strict in t.ascending)):
        first, last = int(np.min(low)), int(np.max(high))
        if last - first + 1 < n:
            raise NoValues(f"{t.name} cannot hold {n} distinct values in {first}..{last}")
        return rng.permutation(last - first + 1)[:n].reshape(shape) + first
    if family in ("equal", "zeros", "ones"):
        u: Array = np.full(shape, {"zeros": 0.0, "ones": 0.999}.get(family, rng.random()))
    elif family in ("ties", "two values", "first is largest", "last is largest"):
        u = rng.choice([0.0, 0.5, 0.999], shape)  # the ends and the middle
    else:
        u = rng.random(shape)
    v = np.floor(low + u * (high - low + 1)).astype(np.int64)
    v = np.minimum(v, np.asarray(high).astype(np.int64))
    if not shape:
        return v
    if family == "falling":
        return -np.sort(-v)
    return np.sort(v) if family == "rising" else v


def draw_one(t: Input, family: str, shape: tuple[int, ...], env: Env, rng: Any) -> Array:
    """Values of one input."""
    kind = kind_of(t.dtype)
    if kind == "bool":
        share = {"zeros": 0.0, "ones": 1.0, "equal": float(rng.integers(2)), "ties": 0.9}
        return rng.random(shape) < share.get(family, 0.5)
    r = limits_of(t, env)
    if kind == "int":
        v = _integers(t, family, shape, rng, r)
    else:
        v = _into(np.asarray(FAMILIES[family](shape, rng), float), r)
    for axis, _ in t.ascending:
        v = np.sort(v, axis=axis)
    for index, bound in t.fixed:
        at = tuple(int(i.of(env)) for i in index)
        if v.size and all(-n <= i < n for i, n in zip(at, shape, strict=False)):
            if all(n in env for n in bound.reads):
                v[at] = bound.of(env)
    for axis, bound in t.total:
        whole = np.abs(v).sum(axis=axis, keepdims=True)
        even = 1 / max(shape[axis], 1)
        with np.errstate(all="ignore"):
            v = np.where(whole > 0, np.abs(v) / whole, even) * float(bound.of(env))
    for order in t.symmetric:
        if shape == tuple(shape[i] for i in order):
            other = np.transpose(v, order)
            v = np.maximum(v, other) if kind == "int" else (v + other) / 2
    return v if kind == "int" else _kept_inside(v, t.dtype, r)


def draw(
    inputs: Sequence[Input],
    shapes: Mapping[str, tuple[int, ...]],
    scalars: Env,
    family: str,
    seed: int,
    broken: Callable[[Env], Sequence[str]],
) -> dict[str, Array]:
    """Inputs of one family that satisfy the contract; NoValues says what stands in the way."""
    reason = ""
    for attempt in range(6):
        rng = np.random.default_rng([seed & 0xFFFFFFFF, attempt, len(family)])
        env: dict[str, Any] = dict(scalars)
        try:
            for t in in_order(inputs):
                env[t.name] = draw_one(t, family, tuple(shapes[t.name]), env, rng)
        except NoValues as e:
            reason = str(e)
            continue
        wrong = broken(env)
        if not wrong:
            return {t.name: env[t.name] for t in inputs}
        reason = f"drawn values break {', '.join(wrong)}"
    raise NoValues(reason)


def in_order(inputs: Sequence[Input]) -> list[Input]:
    """What a bound reads comes before what it bounds, cycles as they were declared."""
    left, done = list(inputs), []
    while left:
        names = {t.name for t in left}

        def waits(t: Input, names: set[str] = names) -> bool:
            return any(n in names - {t.name} for b in (*t.low, *t.high) for n in b.reads)

        ready = [t for t in left if not waits(t)] or left[:1]
        done += ready
        left = [t for t in left if t not in ready]
    return done


def plant(
    inputs: Sequence[Input],
    values: Mapping[str, Array],
    special: str,
    place: str,
    scalars: Env,
    broken: Callable[[Env], Sequence[str]],
) -> dict[str, Array] | None:
    """The inputs with a special value in every real input that may hold it; None where none may."""
    out, planted = dict(values), False
    for t in inputs:
        if kind_of(t.dtype) != "real" or not out[t.name].size:
            continue
        kind = REALS[t.dtype]
        value = 3 * kind.tiny * kind.epsilon if special == "denormal" else SPECIALS[special]
        if kind.mantissa < 2 or (math.isinf(value) and not math.isinf(kind.beyond)):
            continue
        changed = out[t.name].copy()
        rows = changed.reshape(-1, changed.shape[-1]) if changed.ndim else changed.reshape(1, 1)
        if place == "row":
            rows[-1, :] = value
        else:
            at = {"first": 0, "last": rows.shape[1] - 1, "middle": rows.shape[1] // 2}[place]
            rows[len(rows) // 2, at] = value
        trial = {**out, t.name: changed}
        if not broken({**scalars, **trial}):
            out, planted = trial, True
    return out if planted else None
