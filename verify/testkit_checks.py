"""The checks that generated tests make: one function a property, each raises a sentence.

Stands alone on NumPy and Hypothesis. `Subject` is the function under test with the framework whose
arrays it takes.
"""

from __future__ import annotations

import math
import unittest
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from opwright.verify.testkit_frames import Made, NoSuchType, has_layout, make, spread
from opwright.verify.testkit_spec import (
    Case,
    Claim,
    Drawn,
    Law,
    Spec,
    accepted,
    allowance,
    array_json,
    nudged,
    table,
    typical,
    typical_error,
    wrong,
)
from opwright.verify.testkit_values import (
    FAMILIES,
    HARD,
    ORDINARY,
    REALS,
    Array,
    NoValues,
    kind_of,
    store,
)

REFUSALS = (RuntimeError, ValueError, IndexError, NotImplementedError, ZeroDivisionError)


class Skipped(unittest.SkipTest):
    """There is nothing to check: why."""


@dataclass(eq=False)
class Result:
    """What a call gave: arrays of the framework by name, and as float64."""

    arrays: Mapping[str, Any]
    values: Mapping[str, Array]


class Subject:
    """The function under test. Inputs go by position, then params and free sizes by name."""

    def __init__(
        self, function: Callable[..., Any], spec: Spec, frame: Any, views: bool = False,
        repeatable: bool = True, refusals: bool = False,
    ) -> None:  # fmt: skip
        self.function, self.spec, self.frame = function, spec, frame
        self.views, self.repeatable, self.refusals = views, repeatable, refusals
        self.names = accepted(function)
        self.failed: Drawn | None = None

    # -- calls ------------------------------------------------------------------------------------

    def takes(self, name: str) -> bool:
        return self.names is None or name in self.names

    def usable(self, case: Case) -> bool:
        """Whether the function can be told the params of a case."""
        return all(self.takes(n) for n in case.params)

    def keywords(self, scalars: Mapping[str, Any]) -> dict[str, Any]:
        names = [*(p.name for p in self.spec.params), *self.spec.free]
        return {n: scalars[n] for n in names if self.takes(n)}

    def make(self, drawn: Drawn, layout: str = "dense") -> list[Made]:
        return [make(self.frame, drawn.inputs[t.name], t.dtype, layout) for t in self.spec.inputs]

    def call(self, drawn: Drawn, layout: str = "dense", made: list[Made] | None = None,
             **more: Any) -> Result:  # fmt: skip
        """Call the function on fresh arrays; its inputs stay as they were."""
        self.failed = drawn
        made = self.make(drawn, layout) if made is None else made
        before = [self.frame.raw(m.base) for m in made]
        self._dirty(drawn)
        found = self.run(drawn, [m.array for m in made], **more)
        result = self.result(drawn, found, made)
        updated = {t.updates for t in self.spec.outputs if t.updates}
        for t, m, old in zip(self.spec.inputs, made, before, strict=False):
            if t.name not in updated:
                assert self.frame.raw(m.base) == old, f"{t.name} was written on {drawn}"
        return result

    def run(self, drawn: Drawn, arrays: list[Any], **more: Any) -> Any:
        """What the function returns. It may refuse calls without elements, or say that it is not
        made for a call by raising SkipTest; with `refusals` any exception says so."""
        try:
            return self.function(*arrays, **self.keywords(drawn.scalars), **more)
        except REFUSALS as e:
            if self.refusals or 0 in drawn.case.sizes.values():
                raise Skipped(f"refused: {e}") from e
            raise

    def _dirty(self, drawn: Drawn) -> None:
        """Leave garbage where the allocator takes memory for results from."""
        if not self.frame.mutable:
            return
        shapes = self.spec._plain(self.spec.shapes, drawn.scalars)
        for t in self.spec.outputs:
            value = math.nan if kind_of(t.dtype) == "real" else 1
            blocks = [self.frame.full(shapes[t.name], value, t.dtype) for _ in range(3)]
            del blocks

    def result(self, drawn: Drawn, found: Any, made: list[Made]) -> Result:
        outputs = self.spec.outputs
        if isinstance(found, Mapping):
            parts = [found[t.name] for t in outputs]
        elif isinstance(found, (tuple, list)):
            parts = list(found)
        else:
            parts = [] if found is None else [found]
        if len(parts) != len(outputs):  # what updates an input may lie there
            own = iter(parts)
            fresh = [t for t in outputs if not t.updates]
            assert len(parts) == len(fresh), (
                f"{len(outputs)} results are declared, {len(parts)} were returned on {drawn}"
            )
            places = {t.name: n for n, t in enumerate(self.spec.inputs)}
            parts = [made[places[t.updates]].array if t.updates else next(own) for t in outputs]
        shapes = self.spec._plain(self.spec.shapes, drawn.scalars)
        values = {}
        for t, x in zip(outputs, parts, strict=False):
            assert self.frame.is_array(x), f"{t.name} is a {type(x).__name__}, not an array"
            kind = self.frame.dtype_of(x)
            assert kind == t.dtype, f"{t.name} has elements of type {kind}, not {t.dtype}"
            shape = tuple(x.shape)
            assert shape == tuple(shapes[t.name]), (
                f"{t.name} has shape {shape}, not {tuple(shapes[t.name])}, on {drawn}"
            )
            values[t.name] = self.frame.values(x)
        return Result(dict(zip((t.name for t in outputs), parts, strict=False)), values)

    # -- comparing --------------------------------------------------------------------------------

    def compare(self, drawn: Drawn, values: Mapping[str, Array], what: str = "") -> None:
        """Every element is what the reference says, within its tolerance."""
        self.failed = drawn
        for t in self.spec.outputs:
            want = drawn.expected[t.name]
            bad = wrong(values[t.name], want, t.dtype)
            if bad.any():
                at = tuple(int(i) for i in np.argwhere(bad)[0])
                margin = "" if want.error is None else f" +- {want.error[at]:.3g}"
                raise AssertionError(
                    f"{t.name}{list(at)} is {values[t.name][at]}, expected {want.value[at]}"
                    f"{margin} ({int(bad.sum())} of {bad.size} elements wrong) on {drawn}"
                    f"{', ' + what if what else ''}"
                )
            usual, most = typical_error(values[t.name], want, t.dtype)
            if usual > most:
                raise AssertionError(
                    f"errors of {t.name} are typically {usual:.3g} times what roundings "
                    f"give, the limit is {most:.3g}, on {drawn}{', ' + what if what else ''}"
                )


def drawn_or_skip(subject: Subject, case: Case) -> Drawn:
    """The inputs of a case that the function can be called on."""
    if not subject.usable(case):
        raise Skipped(f"the function takes no {', '.join(case.params)}")
    try:
        drawn = subject.spec.draw(case)
        for t in subject.spec.inputs:
            subject.frame.dtype(t.dtype)
    except (NoValues, NoSuchType) as e:
        raise Skipped(str(e)) from None
    return drawn


def check_values(subject: Subject, case: Case, layout: str = "dense") -> None:
    drawn = drawn_or_skip(subject, case)
    subject.compare(drawn, subject.call(drawn, layout).values)


def check_layout(subject: Subject, layout: str, case: Case) -> None:
    """Values do not depend on where arrays lie, and nothing beside them is read."""
    drawn = drawn_or_skip(subject, case)
    if layout == "broadcast":
        inputs = {
            t.name: spread(drawn.inputs[t.name]) if kind_of(t.dtype) == "real"
            else drawn.inputs[t.name] for t in subject.spec.inputs
        }  # fmt: skip
        if subject.spec.broken({**drawn.scalars, **inputs}):
            raise Skipped("equal rows are against the contract")
        alike = replace(drawn.case, family="equal")  # equal rows have equal roundings
        drawn = replace(drawn, case=alike, inputs=inputs, _expected=None)
    shapes = [tuple(drawn.inputs[t.name].shape) for t in subject.spec.inputs]
    if not any(has_layout(subject.frame, layout, s) for s in shapes):
        raise Skipped(f"no input can lie {layout}")
    made = [
        make(subject.frame, drawn.inputs[t.name], t.dtype,
             "dense" if layout == "broadcast" and kind_of(t.dtype) != "real" else layout)
        for t in subject.spec.inputs
    ]  # fmt: skip
    subject.compare(drawn, subject.call(drawn, layout, made).values, layout)


def check_same_bits(subject: Subject, case: Case) -> None:
    """Two runs on equal inputs give equal bits."""
    if not subject.repeatable:
        raise Skipped("the function is allowed to be off by the order of its sums")
    drawn = drawn_or_skip(subject, case)
    first, second = subject.call(drawn), subject.call(drawn)
    for name, array in first.arrays.items():
        a, b = (subject.frame.raw(x) for x in (array, second.arrays[name]))
        assert a == b, f"{name} differs between two runs on {drawn}"


def check_stale(subject: Subject, first: Case, second: Case) -> None:
    """A call leaves nothing behind that another one sees, and earlier results stay."""
    a, b = drawn_or_skip(subject, first), drawn_or_skip(subject, second)
    kept = subject.call(a)
    subject.compare(b, subject.call(b).values, f"after a call on {a}")
    again = {n: subject.frame.values(x) for n, x in kept.arrays.items()}
    subject.compare(a, again, f"looked at after a call on {b}")
    subject.compare(a, subject.call(a).values, f"after a call on {b}")


def check_same_memory(subject: Subject, first: Case, second: Case) -> None:
    """What lies at an address may change between two calls."""
    if not subject.frame.mutable:
        raise Skipped("arrays of this framework do not change")
    a, b = drawn_or_skip(subject, first), drawn_or_skip(subject, second)
    made = subject.make(a)
    subject.compare(a, subject.call(a, made=made).values)
    for t, m in zip(subject.spec.inputs, made, strict=False):
        subject.frame.write(m.array, b.inputs[t.name])
    subject.compare(b, subject.call(b, made=made).values, "on memory that held other values")


def check_own_memory(subject: Subject, case: Case) -> None:
    """Results lie neither in each other nor in inputs that they do not update."""
    drawn = drawn_or_skip(subject, case)
    made = subject.make(drawn)
    found = subject.call(drawn, made=made)
    outputs = list(subject.spec.outputs)
    for n, t in enumerate(outputs):
        for u in outputs[n + 1 :]:
            shared = subject.frame.overlap(found.arrays[t.name], found.arrays[u.name])
            assert not shared, f"{t.name} and {u.name} share memory"
        for i, m in zip(subject.spec.inputs, made, strict=False):
            if t.updates != i.name and not (t.moves or subject.views):
                shared = subject.frame.overlap(found.arrays[t.name], m.array)
                assert not shared, f"{t.name} lies in the memory of {i.name}"


def check_out(subject: Subject, case: Case) -> None:
    """Every element of buffers that are handed in as `out=` is written."""
    if (subject.names is not None and "out" not in subject.names) or not subject.frame.mutable:
        raise Skipped("the function takes no out=")
    if subject.names is None:
        raise Skipped("the function does not say that it takes out=")
    drawn = drawn_or_skip(subject, case)
    shapes = subject.spec._plain(subject.spec.shapes, drawn.scalars)
    for value in (math.nan, 77.0):
        buffers = [
            subject.frame.full(shapes[t.name], value if kind_of(t.dtype) == "real" else 77, t.dtype)
            for t in subject.spec.outputs
        ]
        made = subject.make(drawn)
        given = tuple(buffers) if len(buffers) > 1 else buffers[0]
        subject.run(drawn, [m.array for m in made], out=given)
        values = {
            t.name: subject.frame.values(x)
            for t, x in zip(subject.spec.outputs, buffers, strict=False)
        }
        subject.compare(drawn, values, f"in a buffer that held {value}")


# -- claims of the spec ----------------------------------------------------------------------------


def _holds(claim: Claim, env: Mapping[str, Any]) -> bool:
    with np.errstate(all="ignore"):
        return bool(np.all(claim.holds(*(env[n] for n in claim.reads))))


def check_ensures(subject: Subject, claim: Claim, case: Case) -> None:
    """What the spec ensures of results holds."""
    drawn = drawn_or_skip(subject, case)
    if not _holds(claim, {**drawn.scalars, **drawn.inputs, **_stored(subject, drawn)}):
        raise Skipped("rounding alone breaks it here")
    values = subject.call(drawn).values
    assert _holds(claim, {**drawn.scalars, **drawn.inputs, **values}), (
        f"{claim.name} does not hold on {drawn}: {claim.text}"
    )


def _stored(subject: Subject, drawn: Drawn) -> dict[str, Array]:
    exact = {n: a.value for n, a in drawn.expected.items()}
    return {t.name: store(exact[t.name], t.dtype) for t in subject.spec.outputs}


def check_law(subject: Subject, law: Law, case: Case) -> None:
    """A law of the spec holds between results of the function."""
    drawn = drawn_or_skip(subject, case)
    try:
        if not _law(subject, law, drawn, lambda d: _stored(subject, d)):
            raise Skipped("rounding alone breaks it here")
        assert _law(subject, law, drawn, lambda d: subject.call(d).values), (
            f"{law.name} does not hold on {drawn}: {law.text}"
        )
    except NoValues as e:
        raise Skipped(str(e)) from None


def _law(
    subject: Subject, law: Law, drawn: Drawn, run: Callable[[Drawn], Mapping[str, Array]]
) -> bool:
    env: dict[str, Any] = {**drawn.scalars, **drawn.inputs, **run(drawn)}
    rng = np.random.default_rng([drawn.case.seed, 11])
    for a in law.arguments:
        env[a.name] = _argument(subject.spec, a, drawn.scalars, env, rng)
    for c in law.calls:
        with np.errstate(all="ignore"):
            made = [f(*(env[n] for n in reads)) for f, reads in c.inputs]
            scalars = {
                n: np.asarray(f(*(env[r] for r in reads))).item()
                for n, (f, reads) in c.scalars.items()
            }
        inputs = {
            t.name: store(np.asarray(x), t.dtype)
            for t, x in zip(subject.spec.inputs, made, strict=False)
        }
        if subject.spec.broken({**scalars, **inputs}):
            raise NoValues(f"{c.name} is called outside the contract")
        sizes = {s: int(scalars[s]) for s in subject.spec.sizes}
        params = {p.name: scalars[p.name] for p in subject.spec.params}
        if not all(subject.takes(p) for p in params if params[p] != drawn.scalars[p]):
            raise NoValues("the function cannot be told the params of the law")
        case = Case(f"{law.name} of {drawn.case.family}", drawn.case.seed, sizes, params)
        call = Drawn(subject.spec, case, inputs, {**sizes, **params})
        for name, value in run(call).items():
            env[f"{c.name}.{name}"] = value
    return _holds(law.claim, env)


def _argument(spec: Spec, a: Any, scalars: Mapping[str, Any], env: Mapping[str, Any],
              rng: Any) -> Array:  # fmt: skip
    shape = tuple(int(n) for n in spec._plain(a.shape, scalars))
    if a.kind == "perm":
        return rng.permutation(shape[0])
    low, high = (None if e is None else spec._plain(e, scalars) for e in (a.low, a.high))
    kind = kind_of(a.dtype)
    if kind == "bool":
        return rng.random(shape) < 0.5
    if kind == "int" or a.kind == "index":
        first = 0 if low is None else int(low)
        last = first + 8 if high is None else int(high)
        if last <= first:
            raise NoValues(f"{a.name} has no value")
        return np.asarray(rng.integers(first, last, shape))
    free = low is None or high is None
    values = rng.standard_normal(shape) if free else rng.uniform(low, high, shape)
    return store(np.asarray(values), a.dtype)


def check_independent(subject: Subject, size: str, axes: Mapping[str, Sequence[int]],
                      case: Case) -> None:  # fmt: skip
    """Entries along an axis do not see each other: in another order, results are in that order."""
    drawn = drawn_or_skip(subject, case)
    order = np.random.default_rng(5).permutation(drawn.scalars[size])

    def turned(name: str, x: Array) -> Array:
        for axis in axes.get(name, ()):
            x = np.take(x, order, axis=axis)
        return x

    inputs = {n: turned(n, x) for n, x in drawn.inputs.items()}
    if subject.spec.broken({**drawn.scalars, **inputs}):
        raise Skipped("another order is against the contract")
    other = Drawn(subject.spec, replace(drawn.case, family="reordered"), inputs, drawn.scalars)
    subject.call(drawn)
    found = subject.call(other).values
    want = {n: a for n, a in drawn.expected.items()}
    for t in subject.spec.outputs:
        a = want[t.name]
        moved = replace(
            a, value=turned(t.name, a.value), unclear=turned(t.name, a.unclear),
            error=None if a.error is None else turned(t.name, a.error),
        )  # fmt: skip
        bad = wrong(found[t.name], moved, t.dtype)
        assert not bad.any(), (
            f"{t.name} is not reordered with {size}: {int(bad.sum())} of {bad.size} elements "
            f"differ on {drawn}"
        )


def check_gradient(subject: Subject, case: Case) -> None:
    """Gradients that the framework derives are the spec's."""
    spec = subject.spec
    drawn = drawn_or_skip(subject, case)
    assert spec.gradient is not None
    exact = spec.computed(drawn.inputs, drawn.scalars)
    rng = np.random.default_rng([case.seed, 3])
    # of the first result: what comes with it, as statistics do, often has no derivative
    real = [t for t in spec.outputs if kind_of(t.dtype) == "real"]
    weights = {
        t.name: store(rng.normal(0, 1 if t is real[0] else 0, exact[t.name].shape), t.dtype)
        for t in real
    }

    def wanted(inputs: Mapping[str, Array]) -> dict[str, Array]:
        outputs = spec.computed(inputs, drawn.scalars)
        env = {**drawn.scalars, **inputs, **outputs}
        env.update({f"d_{n}": w for n, w in weights.items()})
        assert spec.gradient is not None
        with np.errstate(all="ignore"):
            found = spec.gradient(*(env[n] for n in spec.gradient_reads))
        parts = found if isinstance(found, tuple) else (found,)
        return {
            n: np.broadcast_to(np.asarray(x, float), drawn.inputs[n].shape)
            for n, x in zip(spec.gradient_of, parts, strict=False)
        }

    subject.failed = drawn
    places = [n for n, t in enumerate(spec.inputs) if t.name in spec.gradient_of]
    arrays = [m.array for m in subject.make(drawn)]

    def call(given: list[Any]) -> list[Any]:
        found = subject.run(drawn, given)
        return list(found) if isinstance(found, (tuple, list)) else [found]

    own = [weights.get(t.name) for t in spec.outputs]
    try:
        found = subject.frame.gradient(call, arrays, places, own)
    except (RuntimeError, TypeError, NotImplementedError) as e:
        raise Skipped(f"the framework derives nothing here: {e}") from None
    if found is None:
        raise Skipped("the framework derives nothing here")
    theirs = wanted(drawn.inputs)
    moved = [wanted(nudged(spec, drawn.inputs, way)) for way in range(4)]
    roundings = 4 * float(spec._plain(spec.roundings, drawn.scalars))
    # what a framework keeps between the two passes is rounded to the types of results
    names = [*(t.dtype for t in spec.inputs), *(t.dtype for t in spec.outputs)]
    kept = [REALS[name].epsilon for name in names if name in REALS]
    epsilon = max(spec.epsilon, *kept) if max(kept) > 2.0**-20 else spec.epsilon
    for place, array in zip(places, found, strict=False):
        t = spec.inputs[place]
        value = theirs[t.name]
        values = np.zeros(value.shape) if array is None else subject.frame.values(array)
        floor = epsilon * roundings * max(float(np.abs(w).max(initial=0)) for w in weights.values())
        want = allowance(value, [m[t.name] for m in moved], t.dtype, roundings, epsilon)
        assert want.error is not None
        want = replace(want, error=want.error + floor)
        bad = wrong(values, want, t.dtype)
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            raise AssertionError(
                f"the gradient of {t.name}{list(at)} is {values[at]}, expected {value[at]} "
                f"({int(bad.sum())} of {bad.size} elements wrong) on {drawn}"
            )


# -- which cases -------------------------------------------------------------------------------


def every(check: Callable[..., None], subject: Subject, cases: Sequence[Any], *more: Any) -> None:
    """Make a check on every case that it can be made on; skipped when there is none."""
    reasons: list[str] = []
    for case in cases:
        try:
            check(subject, *more, *(case if isinstance(case, tuple) else (case,)))
        except unittest.SkipTest as e:
            reasons.append(str(e))
    if len(reasons) == len(cases):
        raise Skipped(reasons[0] if reasons else "there is no such case")


def marked(spec: Spec) -> list[Any]:
    """The table as pytest parameters, a few of them marked `smoke`."""
    import pytest

    few = {c.key for c in table(spec, smoke=True)}
    return [
        pytest.param(c, marks=[pytest.mark.smoke] if c.key in few else [], id=str(c))
        for c in table(spec)
    ]


def check_deep(subject: Subject, deep: bool) -> None:
    if not deep:
        raise Skipped("only with --deep")
    every(check_values, subject, table(subject.spec, deep=True))


def check_anywhere(subject: Subject, case: Case) -> None:
    """Values at a case that Hypothesis made up."""
    from hypothesis import reject

    try:
        check_values(subject, case)
    except unittest.SkipTest:
        reject()


def check_recorded(subject: Subject, case: Case) -> None:
    """Values on a recorded case, as far as its values are values of the types."""
    if case.values is not None:
        own = {t.name: store(case.values[t.name], t.dtype) for t in subject.spec.inputs}
        case = replace(case, values=own)
    broken = subject.spec.broken({**subject.spec.scalars(case), **(case.values or {})})
    if broken:
        raise Skipped(f"the recorded case {case.note} breaks {', '.join(broken)}")
    check_values(subject, case)


def check_special(subject: Subject, special: str, place: str) -> None:
    cases = [
        replace(c, special=special, place=place)
        for c in [*typical(subject.spec, 3), *smallest(subject.spec)]
    ]
    every(check_values, subject, cases)


def smallest(spec: Spec) -> list[Case]:
    """The least call that has elements."""
    rows = [r for r in spec.table if min(r[2].values(), default=1) > 0]
    rows.sort(key=lambda r: math.prod(r[2].values()))
    return [Case("normal", 1, sizes, params) for _, _, sizes, params in rows[:1]]


def for_claims(spec: Spec) -> list[Case]:
    """Calls on which ensures and laws are judged."""
    usual = typical(spec, 3)
    extra = [
        replace(c, family=f)
        for c, f in zip(usual, ("ties", "first is largest", "zeros"), strict=False)
    ]
    return [*usual, *extra, *smallest(spec)]


def framework_of(function: Any) -> str:
    """The framework whose arrays a function takes, guessed from where it is written."""
    import sys

    space = getattr(function, "__globals__", None)
    home = sys.modules.get(getattr(function, "__module__", "") or "")
    names = {str(getattr(function, "__module__", "")).partition(".")[0]}
    for value in (space if space is not None else vars(home) if home else {}).values():
        if getattr(value, "__file__", None) is not None and hasattr(value, "__name__"):
            names.add(str(value.__name__).partition(".")[0])
    return next((n for n in ("torch", "jax", "numpy") if n in names), "torch")


def minimised(subject: Subject, drawn: Drawn) -> Drawn | None:
    """A smaller and simpler call whose values are still wrong; None where those are right."""
    spec = subject.spec

    def fails(d: Drawn) -> bool:
        try:
            if spec.broken({**d.scalars, **d.inputs}):
                return False
            subject.compare(d, subject.call(d).values)
        except unittest.SkipTest:
            return False
        except (AssertionError, *REFUSALS):
            return True
        return False

    if not fails(drawn):
        return None
    rows = sorted((r[2] for r in spec.table), key=lambda s: math.prod(s.values()))
    family = drawn.case.family if drawn.case.family in FAMILIES else "normal"
    for sizes in rows:
        if drawn.case.special or math.prod(sizes.values()) >= math.prod(drawn.case.sizes.values()):
            break
        try:
            smaller = spec.draw(Case(family, drawn.case.seed, sizes, drawn.case.params))
        except (NoValues, ArithmeticError):
            continue
        if fails(smaller):
            drawn = smaller
            break
    for t in spec.inputs:
        x = np.asarray(drawn.inputs[t.name])
        simple = [np.zeros_like(x), np.ones_like(x)]
        if kind_of(t.dtype) == "real":
            whole = np.where(np.isfinite(x), x, 0)
            simple += [store(np.rint(whole * s) / s, t.dtype) for s in (1, 8, 1024)]
        for values in simple:
            if np.array_equal(values, x):
                break
            trial = replace(drawn, inputs={**drawn.inputs, t.name: values}, _expected=None)
            if fails(trial):
                drawn = trial
                break
    return drawn


def case_json(drawn: Drawn, source: str, shows: str) -> dict[str, Any]:
    """A call as it is recorded; `shows` says what it showed."""
    params = {p.name: drawn.scalars[p.name] for p in drawn.spec.params}
    return {
        "op": drawn.spec.name,
        "types": dict(drawn.spec.binding),
        "sizes": dict(drawn.case.sizes),
        "params": params,
        "inputs": {n: array_json(np.asarray(x)) for n, x in drawn.inputs.items()},
        "source": source,
        "shows": " ".join(shows.split())[:300],
        "hard": drawn.case.family in HARD,
    }


# -- hypothesis ------------------------------------------------------------------------------------


def calls(spec: Spec, most: int = 4096) -> Any:
    """A strategy of ordinary calls: sizes of the table, and others that `where` allows."""
    from hypothesis import strategies as st

    known = sorted({tuple(sorted(r[2].items())) for r in spec.table}
                   | {tuple(sorted(m.items())) for m in spec.more},
                   key=lambda row: (math.prod(v for _, v in row), row))  # fmt: skip
    rows = [dict(row) for row in known if spec.is_legal(dict(row), {}, most)] or [{}]
    single = [s for s in spec.sizes if s not in spec.derived]

    def changed(base: Mapping[str, int], name: str, value: int) -> dict[str, int] | None:
        sizes = {**base, name: value}
        for k, f in spec.derived.items():
            try:
                sizes[k] = int(spec._plain(f, {**sizes, **spec.all_params(sizes, {})}))
            except (ArithmeticError, ValueError):
                return None
        return sizes if spec.is_legal(sizes, {}, most) else None

    @st.composite
    def one(pick: Any) -> Case:
        sizes = pick(st.sampled_from(rows))
        for name in single:
            pool = [n for n in spec.pools.get(name, ()) if n <= 300]
            if pool and pick(st.booleans()):
                sizes = changed(sizes, name, pick(st.sampled_from(pool))) or sizes
        family = pick(st.sampled_from(ORDINARY))
        return Case(family, pick(st.integers(0, 999)), sizes)

    return one()


def pairs(spec: Spec) -> list[tuple[Case, Case]]:
    """Calls of the same sizes with other values, and of a large and a small call."""
    usual = typical(spec, 2)
    out = [(c, replace(c, seed=c.seed + 1)) for c in usual]
    if len(usual) > 1:
        out += [(usual[1], usual[0]), (usual[0], usual[1])]
    return out
