"""Values of input tensors: drawn by family, built to obey `requires`, checked against it.

Also the evaluator of closed contract expressions over small arrays. Sizes come from
`verify/sizes.py`, whole cases are put together in `verify/inputs.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.ir.binding import InputError
from opwright.ir.clauses import evaluate_clause
from opwright.ir.dtypes import DType, decode, encode, integer_range
from opwright.ir.expr import Expr, ExprError, Fold, free_vars, read_parts, show, walk
from opwright.ir.op import Operator, Tensor
from opwright.ir.semantics import ARG_FOLDS, MONOIDS, ROWS
from opwright.verify.sizes import Params, Sizes, shape_of

Array = NDArray[Any]


# -- evaluating closed expressions over small arrays ----------------------------------------------


TINY = 2.0**-126  # below the smallest normal number of f32


class Values:
    """Evaluates expressions with reads and folds over whole index grids of small arrays.

    `peak` is the largest finite magnitude of any real subexpression so far, inf when finite
    operands gave an infinity, or a divisor or the operand of a logarithm or root is so small that
    it is zero in f32.
    """

    def __init__(self, arrays: Mapping[str, Array], sizes: Sizes, params: Params) -> None:
        self.arrays = dict(arrays)
        self.scalars: dict[str, Any] = {**sizes, **params}
        self.peak = 0.0

    def __call__(self, e: Expr, env: Mapping[str, Any] | None = None) -> Any:
        out = self._value(e, env or {}, {})
        return out

    def _value(self, e: Expr, env: Mapping[str, Any], memo: dict[Expr, Any]) -> Any:
        if e in memo:
            return memo[e]
        if e.op == "const":
            out: Any = e.attr
        elif e.op in ("size", "param"):
            out = self.scalars[e.attr]
        elif e.op in ("var", "state"):
            out = env[e.attr]
        elif e.op == "read":
            out = self._read(e, env, memo)
        elif e.op == "fold":
            out = self._fold(e, env)
        else:
            args = [self._value(a, env, memo) for a in e.args]
            if e.op in ("cast", "round"):
                out = args[0]
            else:
                out = ROWS[e.op].concrete(*args)
                if e.kind == "real" and (_made_infinite(out, args) or _vanishes(e.op, args)):
                    self.peak = math.inf
        if e.kind == "real":
            self._note(out)
        memo[e] = out
        return out

    def _note(self, out: Any) -> None:
        magnitude = np.abs(np.asarray(out, np.float64))
        finite = magnitude[np.isfinite(magnitude)]
        if finite.size:
            self.peak = max(self.peak, float(finite.max()))

    def _read(self, e: Expr, env: Mapping[str, Any], memo: dict[Expr, Any]) -> Any:
        name, index, fill = read_parts(e)
        array = self.arrays[name]
        at = [np.asarray(self._value(i, env, memo)) for i in index]
        inside: Any = True
        clipped = []
        for i, n in zip(at, array.shape, strict=True):
            inside = np.logical_and(inside, np.logical_and(i >= 0, i < n))
            clipped.append(np.clip(i, 0, max(n - 1, 0)))
        if array.size == 0:
            shape = np.broadcast_shapes(*(c.shape for c in clipped))
            found: Any = np.zeros(shape, array.dtype)
        else:
            found = array[tuple(np.broadcast_arrays(*clipped))] if clipped else array[()]
        if fill is None:
            return found
        return np.where(inside, found, self._value(fill, env, memo))

    def _fold(self, e: Expr, env: Mapping[str, Any]) -> Any:
        f = Fold(e)
        if f.kind is None:
            raise ExprError("a derived fold is not part of a contract")
        inner: dict[str, Any] = {k: np.asarray(v) for k, v in env.items()}
        mask: Any = np.asarray(True)
        for binder, (lo, hi) in zip(f.binders, f.ranges, strict=True):
            low, high = (np.asarray(self._value(x, inner, {})) for x in (lo, hi))
            low, high = np.broadcast_arrays(low, high)
            count = max(int((high - low).max(initial=0)), 0)
            inner = {k: v[..., None] for k, v in inner.items()}
            inner[binder] = low[..., None] + np.arange(count)
            mask = mask[..., None] & (inner[binder] < high[..., None])
        memo: dict[Expr, Any] = {}
        mask = mask & self._value(f.guard, inner, memo)
        term = self._value(f.term, inner, memo)
        mask, term = np.broadcast_arrays(mask, term)
        missing = len(f.binders) - mask.ndim
        if missing > 0:  # a term that does not depend on its binders
            mask, term = (x[(None,) * missing] for x in (mask, term))
        axes = tuple(range(mask.ndim - len(f.binders), mask.ndim))
        if f.kind in ARG_FOLDS:
            worst = -math.inf if f.kind == "argmax" else math.inf
            pick = np.argmax if f.kind == "argmax" else np.argmin
            return pick(np.where(mask, term.astype(float), worst), axis=-1)
        monoid = MONOIDS[f.kind]
        neutral: Any = monoid.neutral
        if term.dtype.kind in "iu" and isinstance(neutral, float):
            neutral = np.iinfo(np.int64).min if neutral < 0 else np.iinfo(np.int64).max
        with np.errstate(all="ignore"):
            filled = np.where(mask, term, neutral)
            if filled.size == 0 and f.kind in ("max", "min"):
                return monoid.concrete(filled, axis=axes, initial=neutral)
            return monoid.concrete(filled, axis=axes)


def _made_infinite(out: Any, args: Sequence[Any]) -> bool:
    new = np.isinf(np.asarray(out, np.float64))
    return bool(np.any(new & np.all([np.isfinite(a) for a in np.broadcast_arrays(*args)], axis=0)))


def decoded(op: Operator, inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {t.name: decode(inputs[t.name], t.dtype) for t in op.inputs if t.name in inputs}


def holds(op: Operator, inputs: Mapping[str, Array], sizes: Sizes, params: Params) -> list[str]:
    """The `requires` clauses that stored inputs break, as text; none when they are legal."""
    plain = decoded(op, inputs)
    out = []
    for c in op.requires:
        if c.expr is None:
            continue
        try:
            judged = evaluate_clause(op, c, plain, None, params, sizes)
        except InputError as e:
            out.append(str(e))
        else:
            if not judged.holds:
                out.append(f"{c.name}: {show(c.expr)}")
    return out


# -- values ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Rule:
    """What `requires` says of one input: bounds (expression, strict), order, symmetry, fixed
    elements.
    """

    low: list[tuple[Expr, bool, tuple[str, ...]]] = field(default_factory=list)
    high: list[tuple[Expr, bool, tuple[str, ...]]] = field(default_factory=list)
    ascending: list[tuple[int, bool]] = field(default_factory=list)  # (axis, strict)
    fixed: list[tuple[tuple[Expr, ...], Expr]] = field(default_factory=list)
    symmetric: list[tuple[int, ...]] = field(default_factory=list)
    distinct: bool = False
    total: list[tuple[int, Expr]] = field(default_factory=list)  # (axis, sum along it)


def _rules(op: Operator) -> dict[str, _Rule]:
    """Patterns of `requires` that values are built to obey; the rest is left to checking."""
    rules = {t.name: _Rule() for t in op.inputs}
    for c in op.requires:
        if c.expr is not None:
            _collect(op, c.expr, rules)
    return rules


def _collect(op: Operator, e: Expr, rules: dict[str, _Rule]) -> None:
    if e.op == "and":
        for a in e.args:
            _collect(op, a, rules)
    elif e.op == "fold" and Fold(e).kind == "all":
        _collect(op, Fold(e).term, rules)
    elif e.op == "or":  # `i == j or x[i] != x[j]`: only its sense of distinctness is used
        for a in e.args:
            if a.op == "ne":
                _collect(op, a, rules)
    elif e.op == "not" and e.args[0].op == "eq":
        _pair(e.args[0].args, "ne", rules)
    elif e.op in ("lt", "le", "eq", "ne", "approx"):
        if not _pair(e.args, e.op, rules):
            _bound(e, rules)


def _pair(args: Sequence[Expr], op: str, rules: dict[str, _Rule]) -> bool:
    """Relations between two elements of one tensor: order along an axis, symmetry, distinctness."""
    a, b = args
    if a.op != "read" or b.op != "read" or a.attr != b.attr:
        return False
    name, left, _ = read_parts(a)
    _, right, _ = read_parts(b)
    rule = rules.get(name)
    if rule is None:
        return False
    if op == "ne":
        rule.distinct = True
        return True
    if op == "eq":
        where = {x: n for n, x in enumerate(left)}
        if set(left) == set(right) and len(where) == len(left):
            rule.symmetric.append(tuple(where[x] for x in right))
            return True
        return False
    moved = [n for n in range(len(left)) if left[n] is not right[n]]
    if len(moved) == 1 and right[moved[0]] is left[moved[0]] + 1:
        rule.ascending.append((moved[0], op == "lt"))
        return True
    return False


def _bound(e: Expr, rules: dict[str, _Rule]) -> None:
    """`lhs < rhs` solved for every read that stands alone on one side, up to sums and abs."""
    strict = e.op == "lt"
    for mine, other, is_low in ((e.args[0], e.args[1], False), (e.args[1], e.args[0], True)):
        if e.op == "le" and mine.op == "abs" and mine.args[0].op == "sub" and not is_low:
            _sum_rule(mine.args[0].args[0], mine.args[0].args[1], rules)
            continue
        if mine.op == "abs" and not is_low:
            _isolate(mine.args[0], other, False, strict, rules)
            _isolate(mine.args[0], -other, True, strict, rules)
        elif e.op in ("eq", "approx"):
            if mine.op == "read" and not free_vars(mine):
                name, index, _ = read_parts(mine)
                if name in rules:
                    rules[name].fixed.append((index, other))
            elif mine.op == "fold":
                _sum_rule(mine, other, rules)
        elif e.op in ("lt", "le"):
            _isolate(mine, other, is_low, strict, rules)


def _sum_rule(total: Expr, value: Expr, rules: dict[str, _Rule]) -> None:
    """`sum[j: N](x[b, j]) == value`."""
    if total.op != "fold" or Fold(total).kind != "sum" or len(Fold(total).binders) != 1:
        return
    f = Fold(total)
    term = f.term
    while term.op == "cast":
        term = term.args[0]
    if term.op == "read":
        name, index, _ = read_parts(term)
        axes = [n for n, i in enumerate(index) if i.op == "var" and i.attr == f.binders[0]]
        if name in rules and len(axes) == 1 and not free_vars(value):
            rules[name].total.append((axes[0], value))


def _isolate(mine: Expr, other: Expr, low: bool, strict: bool, rules: dict[str, _Rule]) -> None:
    """Record `other` as a bound of the reads inside `mine` (low: other <= mine)."""
    if mine.op in ("cast", "toreal"):
        _isolate(mine.args[0], other, low, strict, rules)
    elif mine.op == "neg":
        _isolate(mine.args[0], -other, not low, strict, rules)
    elif mine.op in ("add", "sub"):
        a, b = mine.args
        if mine.op == "add":
            _isolate(a, other - b, low, strict, rules)
            _isolate(b, other - a, low, strict, rules)
        else:
            _isolate(a, other + b, low, strict, rules)
            _isolate(b, a - other, not low, strict, rules)
    elif mine.op == "read":
        name, index, _ = read_parts(mine)
        names = tuple(str(i.attr) if i.op == "var" else "" for i in index)
        if name not in rules or "" in names or len(set(names)) != len(names):
            return
        if any(x.op == "fold" for x in walk(other)) or not free_vars(other) <= set(names):
            return
        side = rules[name].low if low else rules[name].high
        side.append((other, strict, names))


@dataclass(slots=True)
class _Range:
    low: Array
    high: Array
    open_low: bool
    open_high: bool


def _range(t: Tensor, rule: _Rule, values: Values, shape: tuple[int, ...]) -> _Range:
    """Bounds that broadcast to the shape, from those rules whose other tensors are known
    already.
    """
    out = _Range(np.asarray(-np.inf), np.asarray(np.inf), False, False)
    for is_low, side in ((True, rule.low), (False, rule.high)):
        for e, strict, names in side:
            if any(read_parts(x)[0] not in values.arrays for x in walk(e) if x.op == "read"):
                continue
            env = {
                n: np.arange(shape[k]).reshape([-1 if i == k else 1 for i in range(len(shape))])
                for k, n in enumerate(names)
            }
            bound = np.asarray(values(e, env), np.float64)
            if is_low:
                # -inf < x forbids -inf, and any comparison forbids NaN
                out.open_low |= strict and bool(np.any(bound >= out.low))
                out.low = np.maximum(out.low, bound)
            else:
                out.open_high |= strict and bool(np.any(bound <= out.high))
                out.high = np.minimum(out.high, bound)
    ends = [float(values(e)) for _, e in rule.fixed if not _reads(e)]
    if rule.ascending and ends:  # what is sorted lies between its fixed ends
        out.low = np.maximum(out.low, min(ends))
        out.high = np.minimum(out.high, max(ends))
    return out


def _vanishes(op: str, args: Sequence[Any]) -> bool:
    """Whether an operation that is not defined at zero has an operand that f32 flushes to it."""
    if op not in ("div", "log", "log2", "rsqrt"):
        return False
    size = np.abs(np.asarray(args[-1], np.float64))
    return bool(np.any((size > 0) & (size < TINY)))


def _reads(e: Expr) -> bool:
    return any(x.op == "read" for x in walk(e))


def _real_values(
    family: str, shape: tuple[int, ...], rng: np.random.Generator, d: DType
) -> NDArray[np.float64]:
    n = math.prod(shape)
    if family == "uniform":
        v = rng.uniform(-1, 1, n)
    elif family == "ties":
        v = rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0, 2.0], n)
    elif family == "constant":
        v = np.full(n, rng.choice([-1.5, 0.0, 0.375, 2.0]))
    elif family == "wide":
        v = rng.choice([-1.0, 1.0], n) * 2.0 ** rng.uniform(-12, 6, n)
    elif family == "cancel":
        v = rng.normal(0, 1, n) * np.where(np.arange(n) % 7 == 0, 256.0, 1.0)
        v[1::2] = -v[: len(v[1::2]) * 2 : 2] * (1 + 2.0**-9 * rng.normal(0, 1, len(v[1::2])))
    elif family == "low":
        v = rng.uniform(-200, -120, n)
    elif family == "extreme":
        top = min(1e4, largest(d) / 8)
        v = rng.choice([-1.0, 1.0, 1e-3, -1e-3], n) * top * rng.uniform(0.5, 1, n)
    else:
        v = rng.normal(0, 1, n)
        if family == "sorted":
            v = np.sort(v.reshape(shape), axis=-1) if shape else v
            if len(shape) > 1 and shape[0] > 1:  # rows that rise and rows that fall
                v[1::2] = v[1::2, ..., ::-1].copy()
            elif shape and rng.random() < 0.5:
                v = v[..., ::-1]
    return np.ascontiguousarray(v, np.float64).reshape(shape)


def largest(d: DType) -> float:
    """The largest finite value of a real type."""
    if d.finite == "ieee":
        return float((2 - 2.0**-d.mantissa) * 2.0 ** (2**d.exponent - 2 - d.bias))
    probe = decode(np.arange(2**d.bits, dtype=d.storage), d)
    return float(np.nanmax(np.where(np.isfinite(probe), probe, 0)))


def _into(v: Array, r: _Range) -> Array:
    """Values moved into their bounds, spread as they were where only one side is bounded."""
    low, high = r.low, r.high
    inside = (v >= low) & (v <= high)
    if inside.all():
        return v
    both = np.isfinite(low) & np.isfinite(high)
    with np.errstate(all="ignore"):
        # a smooth map keeps ties tied and order in order
        squeezed = low + (high - low) * (0.5 + np.arctan(v) / math.pi * 0.98)
        above = low + np.abs(v) + np.where(np.isfinite(low), 2.0**-10, 0)
        below = high - np.abs(v) - np.where(np.isfinite(high), 2.0**-10, 0)
    out = np.where(inside, v, np.where(both, squeezed, v))
    out = np.where(np.isfinite(low) & ~np.isfinite(high) & ~inside, above, out)
    return np.where(np.isfinite(high) & ~np.isfinite(low) & ~inside, below, out)


def _stored(v: Array, d: DType, r: _Range) -> Array:
    """Encode; an element that rounding moved out of its bounds becomes the nearest inside them."""
    bits = encode(v, d)
    back = bits if d.is_native else decode(bits, d)
    with np.errstate(invalid="ignore"):
        wrong = (back < r.low) | (back > r.high)
        wrong |= r.open_low & (back == r.low)
        wrong |= r.open_high & (back == r.high)
        wrong &= ~np.isnan(v)
    if np.any(wrong):
        low = np.where(np.isfinite(r.low), r.low, r.high - 1)
        high = np.where(np.isfinite(r.high), r.high, r.low + 1)
        middle = np.where(wrong, low + (high - low) / 2, 0.0)
        bits = np.where(wrong, encode(middle, d), bits)
    return bits.astype(d.storage)


def _integers(
    t: Tensor, family: str, shape: tuple[int, ...], rng: np.random.Generator, r: _Range, rule: _Rule
) -> Array:
    least, most = integer_range(t.dtype)
    span = 1000 if family in ("wide", "extreme") else 8
    default = (max(least, -span if least < 0 else 0), min(most, span))
    low = np.where(np.isfinite(r.low), np.ceil(r.low + (1 if r.open_low else 0)), default[0])
    high = np.where(np.isfinite(r.high), np.floor(r.high - (1 if r.open_high else 0)), default[1])
    low = np.where(np.isfinite(r.high) & ~np.isfinite(r.low), np.minimum(low, high - span), low)
    high = np.where(np.isfinite(r.low) & ~np.isfinite(r.high), np.maximum(high, low + span), high)
    low, high = np.maximum(low, least), np.minimum(high, most)
    if math.prod(shape) and np.any(low > high):
        raise InputError(f"no value of {t.name} satisfies its bounds")
    n = math.prod(shape)
    strict = rule.distinct or any(s for _, s in rule.ascending)
    if strict and n:
        first, last = int(low.min()), int(high.max())
        if last - first + 1 < n:
            raise InputError(f"{t.name} cannot hold {n} distinct values in {first}..{last}")
        return rng.permutation(last - first + 1)[:n].reshape(shape) + first
    if family == "constant":
        u = np.full(shape, rng.random())
    elif family == "ties":
        u = rng.choice([0.0, 0.5, 1.0], n).reshape(shape)  # the bounds themselves and the middle
    else:
        u = rng.random(n).reshape(shape)
    v = np.floor(low + u * (high - low + 1)).astype(np.int64)
    v = np.minimum(v, high.astype(np.int64))
    return np.sort(v, axis=-1) if family == "sorted" and v.ndim else v


def _tensor(
    t: Tensor,
    rule: _Rule,
    family: str,
    values: Values,
    shape: tuple[int, ...],
    rng: np.random.Generator,
    distribution: tuple[str, tuple[float, ...]] | None,
) -> Array:
    """Stored elements of one input."""
    if t.kind == "bool":
        share = {"constant": float(rng.integers(2)), "ties": 0.9}.get(family, 0.5)
        return rng.random(shape) < share
    r = _range(t, rule, values, shape)
    if t.kind == "int":
        v = _integers(t, family, shape, rng, r, rule)
        if distribution is not None:
            drawn = np.rint(_distribution(distribution, shape, rng))
            v = np.clip(drawn, v.min(initial=0), v.max(initial=0)).astype(np.int64)
    elif distribution is not None:
        v = _into(_distribution(distribution, shape, rng), r)
    else:
        v = _into(_real_values(family, shape, rng, t.dtype), r)
    for axis, _ in rule.ascending:
        v = np.sort(v, axis=axis)
    for index, e in rule.fixed:
        if not _reads(e) and v.size:
            at = tuple(int(values(i)) for i in index)
            if all(-n <= i < n for i, n in zip(at, shape, strict=True)):
                v[at] = values(e)
    for axis, e in rule.total:
        with np.errstate(all="ignore"):
            whole = np.abs(v).sum(axis=axis, keepdims=True)
            v = np.where(whole > 0, np.abs(v) / whole, 1 / max(shape[axis], 1)) * float(values(e))
    for order in rule.symmetric:
        if shape == tuple(shape[i] for i in order):
            other = np.transpose(v, order)
            v = np.maximum(v, other) if t.kind == "int" else (v + other) / 2
    if t.kind == "int":
        return v.astype(t.dtype.storage)
    return _stored(v, t.dtype, r)


def _distribution(
    d: tuple[str, tuple[float, ...]], shape: tuple[int, ...], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Values of a workload's distribution; InputError for a family that is not known."""
    family, numbers = d
    a, b = (*numbers, 0.0, 1.0)[:2] if len(numbers) < 2 else numbers[:2]
    if family == "normal":
        return rng.normal(a, b if len(numbers) > 1 else 1.0, shape)
    if family == "uniform":
        return rng.uniform(a, b, shape)
    if family == "constant":
        return np.full(shape, numbers[0] if numbers else 0.0)
    raise InputError(f"unknown distribution {family}; known are normal, uniform and constant")


def draw_inputs(
    op: Operator,
    sizes: Sizes,
    params: Params,
    family: str,
    seed: int,
    distributions: Mapping[str, tuple[str, tuple[float, ...]]] | None = None,
) -> dict[str, Array]:
    """Stored inputs of one family that satisfy `requires`; InputError with the clause that
    stands out.
    """
    rules = _rules(op)
    reason = ""
    for attempt in range(8):
        rng = np.random.default_rng([seed & 0xFFFFFFFF, attempt, len(family)])
        values = Values({}, sizes, params)
        found: dict[str, Array] = {}
        try:
            for t in _order(op, rules):
                shape = shape_of(t, sizes, params)
                given = (distributions or {}).get(t.name)
                found[t.name] = _tensor(t, rules[t.name], family, values, shape, rng, given)
                values.arrays[t.name] = decode(found[t.name], t.dtype)
        except InputError as e:
            reason = str(e)
            continue
        broken = holds(op, found, sizes, params)
        if not broken:
            return {t.name: found[t.name] for t in op.inputs}
        reason = f"drawn values break {broken[0]}"
    raise InputError(reason)


def _order(op: Operator, rules: Mapping[str, _Rule]) -> list[Tensor]:
    """Inputs so that what a bound reads comes before what it bounds, cycles in declared order."""
    left = list(op.inputs)
    done: list[Tensor] = []
    while left:
        names = {t.name for t in left}

        def waits(t: Tensor, names: set[str] = names) -> bool:
            rule = rules[t.name]
            return any(
                read_parts(x)[0] in names - {t.name}
                for e, _, _ in (*rule.low, *rule.high)
                for x in walk(e)
                if x.op == "read"
            )

        ready = [t for t in left if not waits(t)] or left[:1]
        done += ready
        left = [t for t in left if t not in ready]
    return done
