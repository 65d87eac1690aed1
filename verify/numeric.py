"""Gate G6: outputs against the float64 reference, corner values, untouched memory, determinism.

The caller runs the candidate (in another process) and hands observations in; nothing here executes
it. A record says on how many cases of what kind, or names the first failing case with sizes, index,
expected and found value.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.ir.binding import InputError
from opwright.ir.dtypes import DType, decode
from opwright.ir.expr import Fold, call, evaluate, walk
from opwright.ir.op import Operator, Tensor
from opwright.ir.record import Record
from opwright.ir.reference import reference as evaluate_reference
from opwright.ir.semantics import ROWS
from opwright.verify import cases as cases_kept
from opwright.verify.bounds import Errors, errors
from opwright.verify.draw import largest
from opwright.verify.inputs import Case
from opwright.verify.sizes import Params, Sizes

Array = NDArray[Any]
# decoded inputs, sizes, params -> decoded outputs (float64, int64, bool)
Reference = Callable[[Mapping[str, Array], Sizes, Params], Mapping[str, Array]]

SHOWN = 48  # elements of all inputs of a counterexample that are written out
NUDGE = 2.0**-26  # relative change of inputs that measures conditioning
SLACK = 2.0  # times the derived bound: what right kernels do that the operator does not say
FALSE_ALARMS = 1e-4  # of a run of this many calls, by the statistical limits
CALLS = 64
CHAOS = 64.0  # times a rounding of the largest result
REPEATED = ("ties", "constant")  # values whose roundings are all alike, so that they add up


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """What one output may be: `reference` +- `allowed`; None means exactly.

    `unclear` elements depend on rounding in a discrete way and are not compared, but for integers
    whose distance `apart` is known. `tolerance` is the unit of the metric `error`, `scale` that of
    the statistical limit, where it holds, `derived` the bound as it is, without slack.
    """

    reference: Array
    allowed: Array | None
    unclear: Array
    basis: str  # "written" or why a default is used
    tolerance: Array | None = None
    scale: Array | None = None
    apart: Array | None = None
    derived: Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What a run of a candidate did; outputs in stored form.

    `again` is a second run with other garbage in outputs, scratch and canaries. `failure` says why
    there is no result (crash, time limit), `mutated` and `damage` are sentences.
    """

    outputs: Mapping[str, Array] = field(default_factory=dict)
    again: Mapping[str, Array] | None = None
    mutated: tuple[str, ...] = ()
    damage: tuple[str, ...] = ()
    failure: str = ""


# (case, layout) -> observation, or None when the candidate's facts exclude this call
Run = Callable[[Case, str], Observation | None]


@dataclass(frozen=True, slots=True)
class Numeric:
    """Records of the gate and the largest error found, in units of the tolerance."""

    records: tuple[Record, ...]
    error: float = 0.0

    @property
    def refuted(self) -> Record | None:
        return next((r for r in self.records if r.status == "REFUTED"), None)


# -- tolerances ---------------------------------------------------------------------------------


def _precision(op: Operator) -> float:
    """Epsilon of the accumulation: f64 where any tensor or mark asks for it, else f32."""
    names = {t.dtype.name for t in (*op.inputs, *op.tensors)}
    for t in op.tensors:
        assert t.body is not None
        names |= {x.attr.name for x in walk(t.body) if x.op in ("cast", "round")}
    return 2.0**-52 if "f64" in names else 2.0**-23


def _roundings(op: Operator, case: Case) -> float:
    """How many units of rounding a sensible evaluation collects: one per operation, root of length
    per reduction."""
    total = 4.0
    env: dict[str, Any] = {**case.params, **case.sizes}
    for t in op.tensors:
        assert t.body is not None
        inner = {**env, **{a.name: 0 for a in t.axes}}
        if t.recurrence is not None:
            axis = next(a for a in t.axes if a.name == t.recurrence.axis)
            total += 2 * math.sqrt(max(int(evaluate(axis.hi, env)), 1))
        for x in walk(t.body):
            if x.op in ROWS and x.kind == "real":
                total += ROWS[x.op].ulp
            elif x.op == "fold":
                total += 2 * math.sqrt(_length(x, inner))
    return total


def _length(fold: Any, env: Mapping[str, Any]) -> int:
    count = 1
    for lo, hi in Fold(fold).ranges:
        try:
            count *= max(int(evaluate(hi, env)) - int(evaluate(lo, env)), 1)
        except (ValueError, KeyError):
            count *= 64  # a range that depends on data or on an outer index
    return max(count, 64) if count == 1 else count


def _nudged(op: Operator, inputs: Mapping[str, Array], way: int) -> dict[str, Array]:
    """Real inputs moved by a tiny share that is a function of the value, so that ties stay ties:
    all up (0), all down (1), or every value its own way, which shows what cancels otherwise."""
    out = {}
    for t in op.inputs:
        x = inputs[t.name]
        if t.kind == "real":
            bits = np.ascontiguousarray(x, np.float64).view(np.uint64)
            with np.errstate(over="ignore"):
                mixed = (bits ^ (bits >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)
                if way > 1:
                    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(2 * way + 1)
            share = (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
            sign = (
                np.where((mixed >> np.uint64(9)) & np.uint64(1), 1, -1) if way > 1 else 1 - 2 * way
            )
            factor = 1 + NUDGE * (0.25 + 0.75 * share) * sign
            with np.errstate(invalid="ignore", over="ignore"):
                x = np.where(np.isfinite(x), x * factor.reshape(x.shape), x)
        out[t.name] = x
    return out


def _inner_moved(op: Operator) -> Operator | None:
    """The operator with every intermediate real tensor moved by a tiny share: what a rounding of
    it alone does to the results, which no change of the inputs may show."""
    read = {x.attr[0] for t in op.tensors if t.body is not None for x in walk(t.body)
            if x.op == "read"}  # fmt: skip
    tensors, ways = [], 0
    for t in op.tensors:
        if t.kind == "real" and t.name in read and t.recurrence is None and t.body is not None:
            ways += 1
            share = 1 + NUDGE * (1 if ways % 2 else -1)
            tensors.append(replace(t, body=call("mul", t.body, share)))
        else:
            tensors.append(t)
    return replace(op, tensors=tuple(tensors)) if ways else None


def _spacing(reference: Array, d: DType) -> Array:
    with np.errstate(all="ignore"):
        exponent = np.floor(np.log2(np.abs(reference)))
    exponent = np.where(np.isfinite(exponent), exponent, 1 - d.bias)
    return np.asarray(2.0 ** (np.maximum(exponent, 1 - d.bias) - d.mantissa))


def bounds(op: Operator, case: Case, reference: Reference) -> dict[str, Bound]:
    """Reference values and tolerances of a case; independent of any candidate, so compute it once.

    What is allowed is the bound derived from the operator (see `verify/bounds.py`) and, but on
    `hard` inputs, no more than the written tolerance; where roundings are independent, no more
    than their number explains either. Where no bound is derived, a default follows the type, the
    magnitude of the output, the number of roundings and the conditioning.
    """
    plain = {t.name: decode(case.inputs[t.name], t.dtype) for t in op.inputs}
    exact = {n: np.asarray(v) for n, v in reference(plain, case.sizes, case.params).items()}
    derived = errors(op, plain, case.params, case.sizes)
    moves = _Moves(op, case, reference, plain)
    return {t.name: _judged(op, t, case, exact[t.name], derived, moves) for t in op.outputs}


class _Moves:
    """Results on inputs that were moved a little, computed when they are asked for."""

    def __init__(
        self, op: Operator, case: Case, reference: Reference, plain: Mapping[str, Array]
    ) -> None:
        self.op, self.case, self.reference, self.plain = op, case, reference, plain
        self.found: list[Mapping[str, Array]] | None = None

    def of(self, name: str) -> list[Array]:
        if self.found is None:
            self.found = []
            op, case = self.op, self.case
            if any(t.kind == "real" for t in op.inputs):
                for way in range(4 if case.hard else 2):
                    moved = _nudged(op, self.plain, way)
                    self.found.append(self.reference(moved, case.sizes, case.params))
            inner = _inner_moved(op) if case.hard else None
            if inner is not None:
                free = {s: case.sizes[s] for s in op.free_sizes}
                with contextlib.suppress(InputError):
                    self.found.append(evaluate_reference(inner, self.plain, case.params, free))
        return [m[name] for m in self.found]


def _judged(
    op: Operator, t: Tensor, case: Case, exact: Array, derived: Errors, moves: _Moves
) -> Bound:
    if t.kind != "real":
        if derived.reason or case.special:
            return _bound(op, t, case, exact, moves.of(t.name), 0.0, 0.0)
        apart = derived.bound.get(t.name)
        none = np.zeros(exact.shape, bool)
        if apart is None:
            return Bound(exact, None, none, "exact")
        if t.kind == "bool":
            return Bound(exact, None, np.broadcast_to(apart, exact.shape), "exact")
        return Bound(exact, None, ~(apart == 0), "exact", apart=apart)
    limit = None if derived.reason else derived.bound.get(t.name, np.zeros(exact.shape))
    if case.special and case.family == "denormal":
        limit = None  # results may be flushed, and what follows of them
    written = op.tolerance.get(t.dtype.name)
    plain = limit is not None and np.isfinite(limit).all() and not case.special
    if plain and (case.hard or written is None):
        usual = _bound(op, t, case, exact, (), 0.0, 0.0)
    else:
        moved = moves.of(t.name) if case.hard or written is None else ()
        usual = _bound(op, t, case, exact, moved, _roundings(op, case), _precision(op))
    if limit is None:
        why = f", no bound is derived: {derived.reason}" if derived.reason else ""
        return replace(usual, basis=usual.basis + why, tolerance=usual.allowed)
    assert usual.allowed is not None
    known = np.isfinite(limit)
    room = SLACK * (2 if t.dtype.name == "f64" else 1) * limit + _least(t.dtype)
    scale = derived.scale.get(t.name)
    steady = scale is not None and not (case.special or case.hard or case.family in REPEATED)
    if steady and scale is not None:
        likely = farthest(exact.size) * scale * (2 if t.dtype.name == "f64" else 1)
        room = np.where(np.isfinite(likely), np.minimum(room, likely + _least(t.dtype)), room)
    basis = "the derived bound"
    tolerance = usual.allowed
    if written is None:
        allowed = np.where(known, room, usual.allowed)
        tolerance = allowed
    elif case.hard:
        allowed = tolerance = np.where(known, usual.allowed + room, usual.allowed)
        basis = f"{usual.basis} and the derived bound"
    else:
        free = np.minimum(room, _chaos(op, t, case, exact, usual.allowed, scale, moves))
        allowed = np.where(known, np.minimum(usual.allowed + free, room), usual.allowed)
        basis = f"{usual.basis}, within the derived bound"
    # a number that a text spells may lie where roundings decide whether there is a result at all
    edge = ~known if case.family == "told" else np.zeros(exact.shape, bool)
    return replace(
        usual,
        allowed=allowed,
        unclear=usual.unclear | edge,
        basis=basis,
        tolerance=tolerance,
        scale=scale if steady else None,
        derived=limit,
    )


def _chaos(
    op: Operator,
    t: Tensor,
    case: Case,
    exact: Array,
    allowed: Array,
    scale: Array | None,
    moves: _Moves,
) -> Array:
    """What is granted beside the written tolerance where inputs that differ by one rounding give
    results much further apart than that, and about as far as the tolerance: no evaluation can keep
    to it there. 0 wherever roundings do not explain more than the tolerance."""
    nothing = np.zeros(exact.shape)
    if scale is None or not (scale > allowed).any():
        return nothing
    step = nothing
    with np.errstate(invalid="ignore"):
        for m in moves.of(t.name):
            moved = np.abs(np.asarray(m, np.float64) - exact) * (2.0**-23 / NUDGE)
            step = np.maximum(step, np.where(np.isfinite(moved), moved, 0))
    finite = np.abs(exact[np.isfinite(exact)])
    much = CHAOS * 2.0**-23 * float(finite.max(initial=0.0))
    if not ((step > much) & (step > allowed / 16)).any():
        return nothing
    return np.where(scale > allowed, float(step.max()) * _roundings(op, case), 0.0)


def _least(d: DType) -> float:
    """What may be lost below the smallest normal number: all of it, where that is next to
    nothing."""
    return 2.0 ** (1 - d.bias) if d.exponent >= 8 else 2.0 ** (1 - d.bias - d.mantissa)


def _bound(
    op: Operator,
    t: Tensor,
    case: Case,
    exact: Array,
    moved: Sequence[Array],
    roundings: float,
    epsilon: float,
    magnitude: float | None = None,
) -> Bound:
    if t.kind != "real":
        unclear = np.zeros(exact.shape, bool)
        if case.special and t.kind == "int":
            unclear |= exact == np.iinfo(np.int64).min  # NaN and infinities are near no integer
        for m in moved:
            unclear |= np.asarray(m) != exact
        return Bound(exact, None, unclear, "exact")
    spread = np.zeros(exact.shape)
    with np.errstate(invalid="ignore"):
        for m in moved:
            step = np.abs(np.asarray(m, np.float64) - exact)
            spread = np.maximum(spread, np.where(np.isfinite(step), step, 0))
    conditioned = spread * (epsilon / NUDGE) * roundings
    if magnitude is None:
        finite = np.abs(exact[np.isfinite(exact)])
        magnitude = float(finite.max()) if finite.size else 0.0
    size = np.where(np.isfinite(exact), np.abs(exact), 0)
    written = op.tolerance.get(t.dtype.name)
    if written is not None:
        allowed = written.get("abs", 0.0) + written.get("rel", 0.0) * size
        if "ulp" in written:
            allowed = allowed + written["ulp"] * _spacing(exact, t.dtype)
        text = " ".join(f"{k} {v:g}" for k, v in written.items())
        basis = f"the written tolerance {text}"
        if case.hard:
            allowed = allowed + conditioned
    else:
        tiny = 2.0 ** (1 - t.dtype.bias)  # results below the smallest normal number may be flushed
        allowed = 4 * t.dtype.epsilon * size + epsilon * roundings * magnitude + conditioned + tiny
        basis = f"a default tolerance, since none is written for {t.dtype.name}"
    return Bound(exact, np.asarray(allowed), np.zeros(exact.shape, bool), basis)


# -- comparing ----------------------------------------------------------------------------------


def _saturated(found: Array, reference: Array, d: DType) -> Array:
    """Where the exact value exceeds the type and the result stands for that: infinity of its sign,
    or NaN or the largest number in a type that has no infinity."""
    top = largest(d)
    beyond = np.abs(reference) > top
    same = np.sign(found) == np.sign(reference)
    if d.finite == "ieee":
        return np.asarray(beyond & np.isinf(found) & same)
    return np.asarray(beyond & (np.isnan(found) | (same & (np.abs(found) == top))))


def wrong(t: Tensor, stored: Array, bound: Bound) -> tuple[Array, float]:
    """Elements that are not what the bound allows, and the largest error in units of tolerance."""
    found = decode(stored, t.dtype)
    if found.shape != bound.reference.shape:
        raise ValueError(f"{t.name} has shape {found.shape}, wanted {bound.reference.shape}")
    ref = bound.reference
    if bound.allowed is None:
        bad = (found != ref) & ~bound.unclear
        if bound.apart is not None:
            with np.errstate(invalid="ignore", over="ignore"):
                gap = np.abs(found.astype(np.float64) - ref.astype(np.float64))
                bad |= np.isfinite(bound.apart) & (gap > bound.apart)
        return bad, 0.0
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        error = np.abs(found - ref)
        plain = np.isfinite(ref) & np.isfinite(found)
        bad = plain & ~(error <= bound.allowed)
        bad |= np.isnan(ref) != np.isnan(found)
        bad |= np.isinf(ref) & (found != ref)
        bad |= np.isinf(found) & np.isfinite(ref)
        bad &= ~_saturated(found, ref, t.dtype)
        unit = bound.allowed if bound.tolerance is None else bound.tolerance
        share = np.where(plain & (unit > 0), error / unit, 0.0)
    return bad & ~bound.unclear, float(share.max(initial=0.0))


def farthest(count: int) -> float:
    """How many scales one of so many errors may be away from 0. Sums of independent roundings of
    mean 0 stay within l scales but with probability 2 exp(-l^2 / 2) (Higham and Mary 2019)."""
    return math.sqrt(2 * math.log(2 * max(count, 1) * CALLS / FALSE_ALARMS))


def spread(t: Tensor, stored: Array, bound: Bound) -> tuple[float, float]:
    """(root mean square of the errors in units of the scale, its limit); (0, 1) where there is
    none. As many values count as independent as the reference has different ones."""
    if bound.scale is None:
        return 0.0, 1.0
    found = decode(stored, t.dtype)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        error = np.maximum(np.abs(found - bound.reference) - _least(t.dtype), 0)
        share = error / bound.scale
        share = share[np.isfinite(share) & (bound.scale > 0)]
    if not share.size:
        return 0.0, 1.0
    different = len(np.unique(bound.reference))
    return float(np.sqrt(np.mean(share**2))), 1 + farthest(1) / math.sqrt(different)


BLOCK = 1 << 18  # elements compared at a time: what fits a cache


def _parts(size: int) -> Iterable[slice]:
    return (slice(at, min(at + BLOCK, size)) for at in range(0, size, BLOCK))


class Known:
    """Reference values of a large call, compared in blocks."""

    def __init__(self, op: Operator, found: Mapping[str, Bound]) -> None:
        self.op, self.bounds = op, found

    def disagreement(self, stored: Mapping[str, Array]) -> str:
        """What is wrong with these results, as a sentence; empty when they agree."""
        for t in self.op.outputs:
            b = self.bounds[t.name]
            mine = np.ascontiguousarray(stored[t.name]).reshape(-1)
            exact, unclear = b.reference.reshape(-1), b.unclear.reshape(-1)
            allowed = None if b.allowed is None else b.allowed.reshape(-1)
            for part in _parts(mine.size):
                limit = None if allowed is None else allowed[part]
                piece = Bound(exact[part], limit, unclear[part], b.basis)
                bad, _ = wrong(t, mine[part], piece)
                if bad.any():
                    return _differs(t, stored[t.name], part.start + int(np.argmax(bad)), exact)
        return ""


def _differs(t: Tensor, stored: Array, place: int, exact: Array, start: int = 0) -> str:
    """`exact` begins at flat place `start`."""
    index = ", ".join(str(int(i)) for i in np.unravel_index(place, stored.shape))
    found = decode(np.ascontiguousarray(stored).reshape(-1)[place : place + 1], t.dtype)[0]
    return f"{t.name}[{index}] is {found}, expected {exact[place - start]}"


class Peer:
    """Another tested candidate's results as the reference, for calls that the operator's own takes
    too long for: twice the tolerance, since both may be off; compared in blocks."""

    def __init__(self, op: Operator, case: Case, outputs: Mapping[str, Array]) -> None:
        self.op, self.case = op, case
        self.outputs = {n: np.ascontiguousarray(a).reshape(-1) for n, a in outputs.items()}
        self.roundings, self.epsilon = _roundings(op, case), _precision(op)

    def _magnitude(self, t: Tensor) -> float:
        largest = 0.0
        for part in _parts(self.outputs[t.name].size):
            values = np.abs(decode(self.outputs[t.name][part], t.dtype))
            largest = max(largest, float(np.max(values, initial=0, where=np.isfinite(values))))
        return largest

    def _close(self, t: Tensor, mine: Array, theirs: Array, magnitude: float) -> bool:
        """Whether a block agrees by a cheaper and stricter test than `_bound`'s."""
        if t.kind != "real" or t.dtype.name not in ("f32", "f64"):
            return bool(np.array_equal(mine, theirs))
        written = self.op.tolerance.get(t.dtype.name)
        if written is not None:
            least, share = written.get("abs", 0.0), written.get("rel", 0.0)
        else:
            least, share = self.epsilon * self.roundings * magnitude, 4 * t.dtype.epsilon
        with np.errstate(invalid="ignore", over="ignore"):
            allowed = np.abs(theirs)
            allowed *= mine.dtype.type(share)
            allowed += mine.dtype.type(least)
            # NaN and infinities fail here and are judged by the full rule
            return bool((np.abs(mine - theirs) <= allowed).all())

    def disagreement(self, stored: Mapping[str, Array]) -> str:
        """What is wrong with these results, as a sentence; empty when they agree."""
        for t in self.op.outputs:
            mine = np.ascontiguousarray(stored[t.name]).reshape(-1)
            magnitude = self._magnitude(t) if t.kind == "real" else 0.0
            for part in _parts(self.outputs[t.name].size):
                if self._close(t, mine[part], self.outputs[t.name][part], magnitude):
                    continue
                exact = decode(self.outputs[t.name][part], t.dtype)
                b = _bound(
                    self.op, t, self.case, exact, (), self.roundings, self.epsilon, magnitude
                )
                if b.allowed is not None:
                    b = replace(b, allowed=2 * b.allowed)
                bad, _ = wrong(t, mine[part], b)
                if bad.any():
                    place = part.start + int(np.argmax(bad))
                    return _differs(t, stored[t.name], place, exact, part.start)
        return ""


def _number(v: Any) -> Any:
    if isinstance(v, bool | np.bool_):
        return bool(v)
    if isinstance(v, int | np.integer):
        return int(v)
    return float(v) if math.isfinite(v) else str(float(v))


def _counterexample(
    t: Tensor, case: Case, layout: str, stored: Array, bound: Bound, bad: Array
) -> dict[str, Any]:
    at = tuple(int(i) for i in np.argwhere(bad)[0])
    out: dict[str, Any] = {
        "case": case.name,
        "family": case.family,
        "layout": layout,
        "sizes": dict(case.sizes),
        "params": {k: _number(v) for k, v in case.params.items()},
        "output": t.name,
        "index": list(at),
        "expected": _number(bound.reference[at]),
        "found": _number(decode(stored, t.dtype)[at]),
        "wrong": int(bad.sum()),
        "of": int(bad.size),
    }
    if bound.allowed is not None:
        out["allowed"] = _number(bound.allowed[at])
    return out


def _times(example: Mapping[str, Any]) -> str:
    """How far off the first wrong element is, in errors that are allowed."""
    found, expected, allowed = (example.get(k) for k in ("found", "expected", "allowed"))
    numbers = [float(x) for x in (found, expected, allowed) if isinstance(x, int | float)]
    if len(numbers) < 3 or not np.isfinite(numbers).all() or numbers[2] <= 0:
        return ""
    return f"; {abs(numbers[0] - numbers[1]) / numbers[2]:.3g} times the limit"


def _inputs(op: Operator, case: Case) -> dict[str, Any]:
    """Inputs of a call as nested lists, where they are few enough to be typed in."""
    if sum(x.size for x in case.inputs.values()) > SHOWN:
        return {}
    return {"inputs": {t.name: _nested(decode(case.inputs[t.name], t.dtype)) for t in op.inputs}}


def _nested(a: Array) -> Any:
    return [_nested(x) for x in a] if a.ndim else _number(a.item())


def _sizes(cases: Iterable[Case]) -> str:
    spans: dict[str, tuple[int, int]] = {}
    for c in cases:
        for k, v in c.sizes.items():
            low, high = spans.get(k, (v, v))
            spans[k] = (min(low, v), max(high, v))
    return ", ".join(f"{k} {a}..{b}" for k, (a, b) in spans.items())


def _families(cases: Iterable[Case]) -> str:
    return ", ".join(f"{n} {f}" for f, n in sorted(Counter(c.family for c in cases).items()))


def elements(case: Case) -> int:
    """Elements of all inputs: small cases come first, so that a counterexample is small."""
    return sum(int(x.size) for x in case.inputs.values())


class _Gate:
    def __init__(self, op: Operator, subject: str) -> None:
        self.op, self.subject = op, subject
        self.done: list[tuple[Case, str]] = []
        self.filled = False  # some output had an element
        self.error = {t.name: 0.0 for t in op.outputs}
        self.basis = {t.name: "" for t in op.outputs}
        self.unclear = 0
        self.spread = {t.name: 0.0 for t in op.outputs}  # of the statistical limit
        self.runs_twice = 0
        self.failed: list[Record] = []

    def refute(self, name: str, reason: str, example: Mapping[str, Any]) -> None:
        self.failed.append(Record(f"G6.{name}", "G6", "REFUTED", reason, self.subject, (), example))

    def see(self, case: Case, layout: str, seen: Observation, bound: Mapping[str, Bound]) -> None:
        where: dict[str, Any] = {"case": case.name, "family": case.family, "layout": layout}
        where |= _inputs(self.op, case)
        where["sizes"] = dict(case.sizes)
        where["params"] = {k: _number(v) for k, v in case.params.items()}
        if seen.failure:
            self.refute("runs", f"{seen.failure} on {case}", where)
            return
        if seen.mutated:
            self.refute("inputs", f"{seen.mutated[0]} on {case}", where)
        if seen.damage:
            self.refute("memory", f"{seen.damage[0]} on {case}", where)
        for t in self.op.outputs:
            b = bound[t.name]
            bad, share = wrong(t, seen.outputs[t.name], b)
            self.error[t.name] = max(self.error[t.name], share)
            self.basis[t.name] = self.basis[t.name] or b.basis
            self.unclear += int(b.unclear.sum())
            if bad.any():
                example = _counterexample(t, case, layout, seen.outputs[t.name], b, bad)
                example |= _inputs(self.op, case)
                kind = "corners" if case.special else "error" if b.allowed is not None else "exact"
                at = ", ".join(map(str, example["index"]))
                how = f"{example['wrong']} of {example['of']} elements wrong{_times(example)}"
                self.refute(
                    f"{kind}.{t.name}",
                    f"{t.name}[{at}] is {example['found']}, expected {example['expected']}"
                    f" ({how}) on {case}",
                    example,
                )
                continue
            typical, most = spread(t, seen.outputs[t.name], b)
            self.spread[t.name] = max(self.spread[t.name], typical / most)
            if typical > most:
                self.refute(
                    f"typical.{t.name}",
                    f"errors of {t.name} are typically {typical:.3g} times what independent "
                    f"roundings give, the limit is {most:.3g}, on {case}",
                    {**where, "output": t.name, "typical": typical, "limit": most},
                )
            elif seen.again is not None and _bits(seen.again[t.name]) != _bits(
                seen.outputs[t.name]
            ):
                self.refute(
                    "determined",
                    f"{t.name} differs between two runs on the same inputs, {case}",
                    {**where, "output": t.name},
                )
        self.runs_twice += seen.again is not None
        self.filled |= any(a.size for a in seen.outputs.values())
        self.done.append((case, layout))

    def records(self, notes: Sequence[str]) -> list[Record]:
        if self.failed:
            return self.failed
        if not self.done:
            why = notes[0] if notes else "no case satisfies the candidate's facts"
            return [Record("G6.error", "G6", "UNKNOWN", f"nothing was run: {why}", self.subject)]
        cases = list({id(c): c for c, _ in self.done}.values())
        ordinary = [c for c in cases if not c.special]
        special = [c for c in cases if c.special]
        layouts = Counter(layout for _, layout in self.done)
        what = f"{len(cases)} cases ({_families(cases)}; {_sizes(cases)})"
        found: list[tuple[str, str]] = []
        for t in self.op.outputs:
            if self.basis[t.name] == "exact":
                reason = f"equal on {what}"
                if self.unclear:
                    reason += f"; {self.unclear} elements hang on rounding and were left out"
                found.append((f"exact.{t.name}", reason))
            else:
                share = f"largest error {self.error[t.name]:.2g} of {self.basis[t.name]}"
                if self.spread[t.name]:
                    share += f", typical error {self.spread[t.name]:.2g} of the statistical limit"
                found.append((f"error.{t.name}", f"{what}, {share}"))
        if special:
            found.append(("corners", f"as the reference on {_families(special)}"))
        found.append(
            ("memory", "nothing but outputs was written, layouts " + ", ".join(sorted(layouts)))
        )
        found.append(("inputs", f"unchanged on {len(self.done)} calls"))
        if self.runs_twice:
            found.append(("determined", f"equal bits with other garbage, {self.runs_twice} cases"))
        if not ordinary or not self.filled:
            why = "only corner values ran" if self.filled else "only calls without elements ran"
            return [Record("G6.error", "G6", "UNKNOWN", why, self.subject)]
        return [Record(f"G6.{n}", "G6", "TESTED", r, self.subject) for n, r in found]


def _bits(a: Array) -> bytes:
    return np.ascontiguousarray(a).tobytes()


def _refuted(
    op: Operator,
    case: Case,
    layout: str,
    run: Run,
    first: Record,
) -> cases_kept.Refuted:
    """The failing call, for those who keep such cases."""

    def exact(plain: Mapping[str, Array], sizes: Sizes, params: Params) -> Mapping[str, Array]:
        return evaluate_reference(op, plain, params, {s: sizes[s] for s in op.free_sizes})

    def fails(sizes: Sizes, params: Params, inputs: Mapping[str, Array]) -> bool:
        trial = replace(case, sizes=sizes, params=params, inputs=inputs)
        gate = _Gate(op, "")
        seen = run(trial, layout)
        if seen is not None:
            gate.see(trial, layout, seen, {} if seen.failure else bounds(op, trial, exact))
        return bool(gate.failed)

    return cases_kept.Refuted(
        op, case.sizes, case.params, case.inputs, fails, f"{first.id}: {first.reason}",
        first.subject, case.hard,
    )  # fmt: skip


def numeric(
    op: Operator,
    cases: Sequence[Case],
    run: Run,
    bound: Callable[[Case], Mapping[str, Bound]],
    subject: str = "",
    notes: Sequence[str] = (),
    layouts: Sequence[str] = ("offset", "rows", "gapped", "aliased"),
    everywhere: Sequence[str] = (),
) -> Numeric:
    """Run all cases dense and in the layouts of `everywhere`, two of them in every other layout,
    small ones first; stop at a failure.

    `bound` gives a case's reference values (see `bounds`, best cached). A layout that the
    candidate's facts exclude is left out. What could not be generated is passed as `notes`.
    """
    gate = _Gate(op, subject)
    ordered = sorted(cases, key=elements)
    plain = [c for c in ordered if not c.special and elements(c) > 1]
    updates = any(t.updates for t in op.outputs)
    calls = [(c, layout) for c in ordered for layout in ("dense", *everywhere)]
    for layout in layouts:
        if layout != "aliased" or updates:
            calls += [(c, layout) for c in plain[len(plain) // 2 :][:2]]
    for case, layout in calls:
        seen = run(case, layout)
        if seen is not None:
            gate.see(case, layout, seen, {} if seen.failure else bound(case))
        if gate.failed:
            cases_kept.tell(partial(_refuted, op, case, layout, run, gate.failed[0]))
            break
    return Numeric(tuple(gate.records(notes)), max(gate.error.values(), default=0.0))
