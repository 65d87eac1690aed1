"""An operator as generated tests see it: what may be passed, what comes out, how far it may be off.

Stands alone on NumPy and Hypothesis. The functions that a `Spec` holds are printed beside it.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from opwright.verify.testkit_values import (
    HARD,
    ORDINARY,
    REALS,
    Array,
    Input,
    NoValues,
    draw,
    kind_of,
    plant,
    spacing,
    store,
)

WORK = 1 << 22  # elements of the largest array that the reference may make
SLACK = 4.0  # times the derived bound: functions of libraries are off by a few units more
FALSE_ALARMS = 1e-4  # of this many calls, by the statistical limits
CALLS = 256
LIKELY = 1.5  # times the statistical limit: functions of a library are off in one direction
USUAL = 4.0  # scales that roundings reach now and then
REPEATED = ("ties", "equal", "zeros", "ones", "two values", "ramp", "powers of two")
NUDGE = 2.0**-26  # relative change of inputs that measures conditioning


@dataclass(frozen=True)
class Output:
    """A result; `updates` names the input whose memory it may take, `moves` says that it may be
    a view of an input."""

    name: str
    dtype: str
    updates: str = ""
    moves: bool = False


@dataclass(frozen=True)
class Param:
    """A run-time attribute; `default` is a number, a function of sizes and params, or None."""

    name: str
    kind: str
    default: Any = None


@dataclass(frozen=True)
class Errors:
    """What rounding may do to results, as a printed function: `gives` names what it returns.

    `bound` names, by result, how far any order of evaluation may be off, `scale` the scale of
    errors whose signs are independent, `doubt` truth values that hang on rounding.
    """

    function: Callable[..., Any]
    gives: tuple[str, ...]
    bound: Mapping[str, str]
    scale: Mapping[str, str]
    doubt: Mapping[str, str]


@dataclass(frozen=True)
class Claim:
    """A printed condition and the names that it reads."""

    name: str
    holds: Callable[..., Any]
    reads: tuple[str, ...]
    text: str = ""


@dataclass(frozen=True)
class Argument:
    """What a law is stated for: a sample, a permutation, or an index; ends are functions."""

    name: str
    kind: str
    dtype: str
    shape: Any
    low: Any = None
    high: Any = None


@dataclass(frozen=True)
class LawCall:
    """A call inside a law: the function of every input with what it reads; params and sizes."""

    name: str
    inputs: tuple[tuple[Callable[..., Any], tuple[str, ...]], ...]
    scalars: Mapping[str, tuple[Callable[..., Any], tuple[str, ...]]]


@dataclass(frozen=True)
class Law:
    name: str
    text: str
    arguments: tuple[Argument, ...]
    calls: tuple[LawCall, ...]
    claim: Claim


@dataclass(frozen=True)
class Case:
    """One call, drawn by family and seed; `special` is planted at `place`.

    `values` are recorded inputs, which are taken as they are.
    """

    family: str
    seed: int
    sizes: Mapping[str, int]
    params: Mapping[str, Any] = field(default_factory=dict)
    special: str = ""
    place: str = ""
    values: Mapping[str, Any] | None = None
    note: str = ""
    binding: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        what = f"{self.special} {self.place}" if self.special else self.note or self.family
        return f"{_pairs(self.sizes)} {_pairs(self.params)} {what}".replace("  ", " ").strip()

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.family, self.seed, *sorted(self.sizes.items()), *sorted(self.params.items()),
                self.special, self.place, id(self.values) if self.values else 0)  # fmt: skip


def _pairs(values: Mapping[str, Any]) -> str:
    return ",".join(f"{k}={v}" for k, v in values.items())


@dataclass(frozen=True, eq=False)
class Spec:
    """Everything that tests know of an operator."""

    name: str
    bindings: tuple[Mapping[str, str], ...]
    sizes: tuple[str, ...]
    free: tuple[str, ...]
    params: tuple[Param, ...]
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    legal: Callable[..., Any]
    shapes: Callable[..., Mapping[str, tuple[int, ...]]]
    reference: Callable[..., Any]
    references: tuple[Callable[..., Any], ...] = ()
    requires: tuple[Claim, ...] = ()
    ensures: tuple[Claim, ...] = ()
    laws: tuple[Law, ...] = ()
    table: tuple[tuple[str, int, Mapping[str, int], Mapping[str, Any]], ...] = ()
    more: tuple[Mapping[str, int], ...] = ()
    derived: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    pools: Mapping[str, Sequence[int]] = field(default_factory=dict)
    independent: tuple[str, ...] = ()
    tolerance: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    roundings: Callable[..., float] = lambda *_: 16.0
    moved: Callable[..., Any] | None = None
    wide: bool = False
    work: Callable[..., float] = lambda *_: 0.0
    errors: tuple[Errors, ...] = ()
    gradient: Callable[..., Any] | None = None
    gradient_reads: tuple[str, ...] = ()
    gradient_of: tuple[str, ...] = ()
    binding: Mapping[str, str] = field(default_factory=dict)

    # -- element types ----------------------------------------------------------------------------

    def typed(self, binding: Mapping[str, str]) -> Spec:
        """The operator with its type variables bound."""

        def fixed(t: Any) -> Any:
            return replace(t, dtype=binding.get(t.dtype, t.dtype))

        own = dict(zip((tuple(b.items()) for b in self.bindings), self.references, strict=False))
        reference = own.get(tuple(binding.items()), self.reference)
        errors = dict(zip((tuple(b.items()) for b in self.bindings), self.errors, strict=False))
        mine = errors.get(tuple(binding.items()))
        inputs, outputs = tuple(map(fixed, self.inputs)), tuple(map(fixed, self.outputs))
        return replace(
            self, binding=dict(binding), reference=reference, inputs=inputs, outputs=outputs,
            errors=(mine,) if mine is not None else (),
        )  # fmt: skip

    @property
    def epsilon(self) -> float:
        """Of what sums are kept in."""
        names = {*(t.dtype for t in self.inputs), *(t.dtype for t in self.outputs)}
        return 2.0**-52 if self.wide or "f64" in names else 2.0**-23

    # -- sizes and params -------------------------------------------------------------------------

    def all_params(self, sizes: Mapping[str, int], given: Mapping[str, Any]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for p in self.params:
            value = given.get(p.name)
            if value is None:
                value = 1 if p.default is None else p.default
                if callable(value):
                    value = value(*(sizes[s] for s in self.sizes), *out.values())
            if p.kind == "real":
                value = float(store(np.asarray(float(value)), "f32"))
            out[p.name] = {"bool": bool, "int": int}.get(p.kind, float)(value)
        return out

    def scalars(self, case: Case) -> dict[str, Any]:
        return {**case.sizes, **self.all_params(case.sizes, case.params)}

    def _plain(self, f: Callable[..., Any], env: Mapping[str, Any]) -> Any:
        names = (*self.sizes, *(p.name for p in self.params))
        with np.errstate(all="ignore"):
            return f(*(env[n] for n in names))

    def is_legal(self, sizes: Mapping[str, int], params: Mapping[str, Any], most: int) -> bool:
        """Whether sizes satisfy `where` and no array has more than so many elements."""
        env = {**sizes, **self.all_params(sizes, params)}
        try:
            if min(sizes.values(), default=0) < 0 or not self._plain(self.legal, env):
                return False
            shapes = self._plain(self.shapes, env)
            if self._plain(self.work, env) > WORK:
                return False
        except (ArithmeticError, ValueError):
            return False
        return all(min(s, default=0) >= 0 and math.prod(s) <= most for s in shapes.values())

    # -- values -----------------------------------------------------------------------------------

    def broken(self, env: Mapping[str, Any]) -> list[str]:
        """The preconditions that values break."""
        with np.errstate(all="ignore"):
            return [c.name for c in self.requires if not np.all(c.holds(*_args(c.reads, env)))]

    def draw(self, case: Case) -> Drawn:
        """The inputs of a case; NoValues where its sizes allow none."""
        return _drawn(self, case.key, _Box(case))

    def computed(
        self,
        inputs: Mapping[str, Array],
        scalars: Mapping[str, Any],
        meaning: Callable[..., Any] | None = None,
    ) -> dict[str, Array]:
        """What the reference, or another meaning, makes of inputs."""
        arrays = [inputs[t.name] for t in self.inputs]
        rest = [scalars[p.name] for p in self.params] + [scalars[s] for s in self.free]
        with np.errstate(all="ignore"):
            found = (meaning or self.reference)(*arrays, *rest)
        parts = found if isinstance(found, tuple) else (found,)
        shapes = self._plain(self.shapes, scalars)
        wide = {"real": np.float64, "int": np.int64, "bool": np.bool_}
        return {
            t.name: np.broadcast_to(np.asarray(x, wide[kind_of(t.dtype)]), shapes[t.name])
            for t, x in zip(self.outputs, parts, strict=False)
        }


class _Box:
    """A case in a cache key: equal to every other one."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Box)


@lru_cache(maxsize=256)
def _drawn(spec: Spec, key: tuple[Any, ...], box: _Box) -> Drawn:
    case = box.case
    env = spec.scalars(case)
    shapes = spec._plain(spec.shapes, env)
    if case.values is not None:
        values = {k: np.asarray(v) for k, v in case.values.items()}
    else:
        values = draw(spec.inputs, shapes, env, case.family, case.seed, spec.broken)
    if case.special:
        planted = plant(spec.inputs, values, case.special, case.place, env, spec.broken)
        if planted is None:
            raise NoValues(f"no input of {spec.name} may hold {case.special} here")
        values = planted
    return Drawn(spec, case, values, env)


def _args(reads: Sequence[str], env: Mapping[str, Any]) -> list[Any]:
    return [env[n] for n in reads]


@dataclass(eq=False)
class Drawn:
    """The inputs of one call, and what should come out."""

    spec: Spec
    case: Case
    inputs: Mapping[str, Array]
    scalars: Mapping[str, Any]
    _expected: dict[str, Allowed] | None = None

    @property
    def expected(self) -> dict[str, Allowed]:
        """The reference's results with their tolerance."""
        if self._expected is None:
            self._expected = allowed(self)
        return self._expected

    def __str__(self) -> str:
        binding = _pairs(self.spec.binding)
        return f"{self.case}{f' with {binding}' if binding else ''} (seed {self.case.seed})"


@dataclass(frozen=True, eq=False)
class Allowed:
    """`value` +- `error` (None: exactly); `unclear` elements hang on rounding, but for integers
    that are at most `apart`. `scale` is that of the statistical limit."""

    value: Array
    error: Array | None
    unclear: Array
    scale: Array | None = None
    apart: Array | None = None


def nudged(spec: Spec, inputs: Mapping[str, Array], way: int) -> dict[str, Array]:
    """Real inputs moved by a tiny share that is a function of the value, so that ties stay ties."""
    out = {}
    for t in spec.inputs:
        x = inputs[t.name]
        if kind_of(t.dtype) == "real":
            bits = np.ascontiguousarray(x, np.float64).view(np.uint64).reshape(x.shape)
            with np.errstate(over="ignore"):
                mixed = (bits ^ (bits >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)
                if way > 1:
                    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(2 * way + 1)
            share = (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
            odd = (mixed >> np.uint64(9)) & np.uint64(1)
            sign = np.where(odd, 1, -1) if way > 1 else 1 - 2 * way
            with np.errstate(all="ignore"):
                moved = x * (1 + NUDGE * (0.25 + 0.75 * share) * sign)
            x = np.where(np.isfinite(x), moved, x)
        out[t.name] = x
    return out


def allowed(drawn: Drawn) -> dict[str, Allowed]:
    """The tolerance of every element: the bound derived from the spec and, but on hard inputs, no
    more than what is written; where roundings are independent, no more than their number explains.

    Without a derived bound a default follows the type, the magnitude of the result, the number of
    roundings and the conditioning.
    """
    spec, case = drawn.spec, drawn.case
    exact = spec.computed(drawn.inputs, drawn.scalars)
    derived = _derived(drawn) if case.special != "denormal" else {}
    moves = _Moves(drawn)
    return {t.name: _judged(drawn, t, exact[t.name], derived, moves) for t in spec.outputs}


def _derived(drawn: Drawn) -> dict[str, Array]:
    """What the printed error bounds give, by name."""
    spec = drawn.spec
    if not spec.errors:
        return {}
    arrays = [drawn.inputs[t.name] for t in spec.inputs]
    rest = [drawn.scalars[p.name] for p in spec.params] + [drawn.scalars[s] for s in spec.free]
    with np.errstate(all="ignore"):
        found = spec.errors[0].function(*arrays, *rest)
    return dict(zip(spec.errors[0].gives, found, strict=True))


class _Moves:
    """Results on inputs that were moved a little, computed when they are asked for."""

    def __init__(self, drawn: Drawn) -> None:
        self.drawn = drawn
        self.found: list[dict[str, Array]] | None = None

    def of(self, name: str) -> list[Array]:
        if self.found is None:
            spec, hard = self.drawn.spec, self.drawn.case.family in HARD
            self.found = [
                spec.computed(nudged(spec, self.drawn.inputs, way), self.drawn.scalars)
                for way in range(4 if hard else 2)
                if any(kind_of(t.dtype) == "real" for t in spec.inputs)
            ]
            if spec.moved is not None:
                drawn = self.drawn
                self.found.append(spec.computed(drawn.inputs, drawn.scalars, spec.moved))
        return [m[name] for m in self.found]


def _judged(
    drawn: Drawn, t: Output, exact: Array, derived: Mapping[str, Array], moves: _Moves
) -> Allowed:
    spec, case = drawn.spec, drawn.case
    hard, special = case.family in HARD, bool(case.special)
    names = spec.errors[0] if derived else None
    if kind_of(t.dtype) != "real":
        if names is None or special:
            return allowance(exact, moves.of(t.name), t.dtype, 0.0, 0.0, special=special)
        if t.name in names.doubt:
            doubt = np.asarray(derived[names.doubt[t.name]], bool)
            return Allowed(exact, None, np.broadcast_to(doubt, exact.shape))
        none = np.zeros(exact.shape, bool)
        if t.name not in names.bound:
            return Allowed(exact, None, none)
        apart = np.broadcast_to(np.asarray(derived[names.bound[t.name]], float), exact.shape)
        return Allowed(exact, None, ~(apart == 0), apart=apart)
    written = spec.tolerance.get(t.dtype)
    limit = None
    if names is not None:
        found = derived[names.bound[t.name]] if t.name in names.bound else 0.0
        limit = np.broadcast_to(np.asarray(found, float), exact.shape)
    plain = limit is not None and bool(np.isfinite(limit).all()) and not special
    if plain and (hard or written is None):
        usual = allowance(exact, (), t.dtype, 0.0, 0.0, written)
    else:
        moved = moves.of(t.name) if hard or written is None else ()
        roundings = float(spec._plain(spec.roundings, drawn.scalars))
        usual = allowance(exact, moved, t.dtype, roundings, spec.epsilon, written, hard)
    if limit is None or names is None:
        return usual
    assert usual.error is not None
    known, least = np.isfinite(limit), _least(t.dtype)
    twice = 2 if t.dtype == "f64" else 1
    room = SLACK * twice * limit + least
    scale = spread = None
    if t.name in names.scale:
        spread = np.broadcast_to(np.asarray(derived[names.scale[t.name]], float), exact.shape)
    if spread is not None and not (special or hard or case.family in REPEATED):
        scale = spread
        likely = LIKELY * farthest(exact.size) * scale * twice
        room = np.where(np.isfinite(likely), np.minimum(room, likely + least), room)
    if written is None:
        error = np.where(known, room, usual.error)
    elif hard:
        error = np.where(known, usual.error + room, usual.error)
    else:
        # what independent roundings give as a rule is allowed, also where less is written
        few = USUAL if scale is not None else 4 * USUAL  # roundings that are alike add up
        most = usual.error if spread is None else np.maximum(usual.error, few * spread)
        error = np.where(known, np.minimum(most, room), usual.error)
    return Allowed(exact, error, usual.unclear, scale)


def farthest(count: int) -> float:
    """How many scales one of so many errors may be away from 0 (Higham and Mary 2019)."""
    return math.sqrt(2 * math.log(2 * max(count, 1) * CALLS / FALSE_ALARMS))


def _least(dtype: str) -> float:
    """What may be lost below the smallest normal number."""
    t = REALS[dtype]  # what is flushed in between may be multiplied by something large
    return 1024 * t.tiny if t.least <= -126 else t.tiny * t.epsilon


def typical_error(found: Array, want: Allowed, dtype: str) -> tuple[float, float]:
    """(root mean square of the errors in units of their scale, its limit); (0, 1) without one."""
    if want.scale is None:
        return 0.0, 1.0
    with np.errstate(all="ignore"):
        error = np.maximum(np.abs(found - want.value) - _least(dtype), 0)
        share = error / want.scale
        share = share[np.isfinite(share) & (want.scale > 0)]
    if not share.size:
        return 0.0, 1.0
    different = len(np.unique(want.value))
    return float(np.sqrt(np.mean(share**2))), 1 + farthest(1) / math.sqrt(different)


def allowance(
    exact: Array,
    moved: Sequence[Array],
    dtype: str,
    roundings: float,
    epsilon: float,
    written: Mapping[str, float] | None = None,
    hard: bool = False,
    special: bool = False,
) -> Allowed:
    """How far values of one output may be from the exact ones."""
    unclear = np.zeros(exact.shape, bool)
    if kind_of(dtype) != "real":
        if special and kind_of(dtype) == "int":
            unclear |= exact == np.iinfo(np.int64).min
        for m in moved:
            unclear |= m != exact
        return Allowed(exact, None, unclear)
    spread = np.zeros(exact.shape)
    with np.errstate(all="ignore"):
        for m in moved:
            step = np.abs(m - exact)
            spread = np.maximum(spread, np.where(np.isfinite(step), step, 0))
        size = np.where(np.isfinite(exact), np.abs(exact), 0.0)
    conditioned = spread * (epsilon / NUDGE) * roundings
    magnitude = float(size.max(initial=0))
    t = REALS[dtype]
    if written is None:
        tiny = t.tiny
        error = 4 * t.epsilon * size + epsilon * roundings * magnitude + conditioned + tiny
    else:
        error = written.get("abs", 0.0) + written.get("rel", 0.0) * size
        if "ulp" in written:
            error = error + written["ulp"] * spacing(exact, dtype)
        if hard:
            error = error + conditioned
    return Allowed(exact, error, unclear)


def wrong(found: Array, want: Allowed, dtype: str) -> Array:
    """Elements that are not what is allowed."""
    ref = want.value
    if want.error is None:
        bad = (found != ref) & ~want.unclear
        if want.apart is not None:
            with np.errstate(all="ignore"):
                gap = np.abs(np.asarray(found, float) - np.asarray(ref, float))
                bad |= np.isfinite(want.apart) & (gap > want.apart)
        return bad
    t = REALS[dtype]
    with np.errstate(all="ignore"):
        plain = np.isfinite(ref) & np.isfinite(found)
        bad = plain & ~(np.abs(found - ref) <= want.error)
        bad |= np.isnan(ref) != np.isnan(found)
        bad |= np.isinf(ref) & (found != ref)
        bad |= np.isinf(found) & np.isfinite(ref)
        beyond = (np.abs(ref) + want.error > t.top) & np.isfinite(ref) | np.isinf(ref)
        same = np.sign(found) == np.sign(ref)
        if math.isinf(t.beyond):
            saturated = beyond & np.isinf(found) & same
        else:
            saturated = beyond & (np.isnan(found) | (same & (np.abs(found) == t.top)))
    return bad & ~saturated & ~want.unclear


# -- cases -----------------------------------------------------------------------------------------


def table(spec: Spec, smoke: bool = False, deep: bool = False) -> list[Case]:
    """The cases of the table: a few of them for smoke, with further seeds when deep."""
    rows = spec.table[:: max(1, len(spec.table) // 12)] if smoke else spec.table
    out = [Case(f, seed, sizes, params) for f, seed, sizes, params in rows]
    if deep:
        out += [Case(f, seed + n, sizes, params)
                for n in range(1, 5) for f, seed, sizes, params in rows]  # fmt: skip
    return out


def typical(spec: Spec, count: int = 1) -> list[Case]:
    """Ordinary cases with something in every array, neither the smallest nor the largest."""
    whole = [
        Case("normal", 7 * n + 1, sizes, params)
        for n, (_, _, sizes, params) in enumerate(spec.table)
        if min(sizes.values(), default=1) > 0
    ]
    whole.sort(key=lambda c: math.prod(c.sizes.values()))
    many = [c for c in whole if min(c.sizes.values(), default=2) > 1] or whole
    middle = many[len(many) // 2 :] or many
    return middle[:: max(1, len(middle) // count)][:count]


def load_cases(path: Path, spec: Spec) -> list[Case]:
    """Recorded cases, one JSON document a line."""
    out: list[Case] = []
    if not path.exists():
        return out
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
            values = {k: stored_array(v) for k, v in data["inputs"].items()}
            family = "cancelling" if data.get("hard") else "normal"
            out.append(Case(family, 0, data["sizes"], data.get("params", {}), values=values,
                            note=data.get("id", f"line {number}"),
                            binding=data.get("types", {})))  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise ValueError(f"{path}:{number}: this is no recorded case: {e}") from None
    return out


def stored_array(value: Mapping[str, Any]) -> Array:
    """An array from {"shape", "data"}; numbers that JSON has not are text."""
    data = [float(v) if isinstance(v, str) else v for v in value["data"]]
    array = np.asarray(data, {"real": float, "int": np.int64, "bool": bool}[value["kind"]])
    return array.reshape(value["shape"])


def array_json(values: Array) -> dict[str, Any]:
    """An array as {"shape", "kind", "data"}."""
    kind = {"b": "bool", "f": "real"}.get(values.dtype.kind, "int")

    def plain(v: Any) -> Any:
        return v if kind != "real" or math.isfinite(v) else str(v)

    data = [plain(v) for v in values.reshape(-1).tolist()]
    return {"shape": list(values.shape), "kind": kind, "data": data}


def accepted(function: Callable[..., Any]) -> set[str] | None:
    """Names of the keyword arguments of a function; None for one that takes any, or does not say.

    A function that does not say is taken to accept none.
    """
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return set()
    if any(p.kind is p.VAR_KEYWORD for p in found):
        return None
    return {p.name for p in found if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}


__all__ = ["HARD", "ORDINARY", "Allowed", "Case", "Claim", "Drawn", "Input", "Law", "Spec"]
