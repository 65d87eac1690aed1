"""Functions of arrays judged by a spec's own cases, and faults seeded into such functions.

The judge calls a function in this process: values of every family, corner values, memory that is
not dense, the same memory with other numbers, inputs that must stay as they are. What it cannot
tell from the original on a larger pool of calls is reported apart.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial, update_wrapper
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.compiler.mutating import (
    BROKEN,
    KILLED,
    SURVIVED,
    UNDECIDED,
    Found,
    Outcome,
    Score,
    Seen,
)
from opwright.compiler.testgen import moves
from opwright.ir.binding import InputError
from opwright.ir.dtypes import decode, encode
from opwright.ir.mutant import Mutant, difference, spread
from opwright.ir.op import Operator
from opwright.ir.reference import reference
from opwright.verify.draw import draw_inputs
from opwright.verify.inputs import Case, generate, hosts_of
from opwright.verify.mutate_arrays import numbers
from opwright.verify.mutate_calls import CallMutant, Function, call_mutants, legal_specials
from opwright.verify.mutate_python import python_mutants
from opwright.verify.numeric import Bound, bounds, elements, wrong
from opwright.verify.sizes import Limits

Array = Any
Judge = Callable[[Function], Found | None]  # who kills it, or None

NUMPY = {"f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "bool": "bool",
         "f8e4m3": "float8_e4m3fn", "f8e5m2": "float8_e5m2"}  # fmt: skip
LAYOUTS = ("transposed", "gaps", "offset")
NEAR = (4, 8, 16, 32, 64, 128)
BIG = Limits(elements=1 << 16, work=1 << 25)


# -- arrays ----------------------------------------------------------------------------------------


def element_type(framework: str, name: str) -> Any:
    """The framework's element type of a name of ours; LookupError if it has none."""
    word = NUMPY.get(name)
    if word is None:
        word = f"{'u' if name[0] == 'u' else ''}int{name[1:]}"
    if framework == "torch":
        import torch

        found = getattr(torch, word, None)
    elif hasattr(np, word) and framework == "numpy":
        found = np.dtype(word)
    else:
        import ml_dtypes

        found = np.dtype(getattr(ml_dtypes, word, word))
    if found is None:
        raise LookupError(f"{framework} has no {name}")
    return found


def make(framework: str, values: NDArray[Any], dtype: str, layout: str = "dense") -> Array:
    """An array of a framework with these values, in memory that is laid out as asked."""
    kind = element_type(framework, dtype)
    values = np.asarray(values)
    if framework == "jax":
        import jax.numpy as jnp

        return jnp.asarray(values.astype(kind))
    if framework == "torch":
        import torch

        dense: Any = torch.from_numpy(np.array(values)).to(kind)
        empty: Any = torch.zeros
    else:
        dense = np.array(values.astype(kind))
        empty = np.zeros
    shape = tuple(values.shape)
    if layout == "dense" or not shape or 0 in shape:
        return dense
    if layout == "transposed" and len(shape) > 1:
        view = empty((*shape[:-2], shape[-1], shape[-2]), dtype=kind)
        view = view.swapaxes(-1, -2)
    elif layout == "offset":
        view = empty((dense.size if framework == "numpy" else dense.numel()) + 3, dtype=kind)
        view = view[3:].reshape(shape)
    else:
        view = empty((*shape[:-1], 2 * shape[-1] + 1), dtype=kind)[..., : 2 * shape[-1] : 2]
    view[...] = dense
    return view


def results(found: Any, op: Operator) -> list[NDArray[Any]]:
    """The outputs as numpy values; ValueError where they are not the operator's."""
    if isinstance(found, Mapping):
        found = [found[t.name] for t in op.outputs]
    outs = list(found) if isinstance(found, tuple | list) else [found]
    if len(outs) != len(op.outputs):
        raise ValueError(f"{len(outs)} results, not {len(op.outputs)}")
    return [numbers(y) for y in outs]


def reference_function(op: Operator) -> Function:
    """A right function over numpy: the meaning, rounded to the types of the outputs."""

    def right(*arrays: Any, **named: Any) -> Any:
        inputs = {t.name: numbers(x) for t, x in zip(op.inputs, arrays, strict=True)}
        params = {k: v for k, v in named.items() if k not in op.sizes}
        sizes = {k: v for k, v in named.items() if k in op.sizes}
        found = reference(op, inputs, params, sizes)
        outs = []
        for t in op.outputs:
            with np.errstate(all="ignore"):
                stored = decode(encode(found[t.name], t.dtype), t.dtype)
                outs.append(stored.astype(element_type("numpy", t.dtype.name)))
        return tuple(outs) if len(outs) > 1 else outs[0]

    return right


# -- judging ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One call with what its outputs may be."""

    case: Case
    bound: Mapping[str, Bound]


class CallJudge:
    """Calls of one operator in one framework; `__call__` says what kills a function, if anything.

    The same for the same seed. `layouts` are tried where arrays can have them.
    """

    def __init__(
        self, op: Operator, framework: str, seed: int = 0, count: int = 24, big: bool = True
    ) -> None:
        self.op, self.framework = op, framework
        self.trials: list[Trial] = []
        self.pairs: list[tuple[Trial, Trial]] = []
        made = [*generate(op, seed, count, NEAR).cases]
        if big:
            made += generate(op, seed + 1, 3, (4096, 20000), BIG, specials=False,
                             families=("normal", "sorted"), beyond=(2048,)).cases  # fmt: skip
        for case in sorted(made, key=elements):
            if (trial := self.trial(case)) is not None:
                self.trials.append(trial)
        plain = [t for t in self.trials if not t.case.special and elements(t.case) > 1]
        self.plain = plain
        for first in plain[len(plain) // 2 :][:2]:
            with contextlib.suppress(InputError):
                case = first.case
                other = draw_inputs(op, case.sizes, case.params, "uniform", seed + 99)
                name = f"{case.name}.again"
                second = self.trial(replace(case, name=name, inputs=other, hard=False))
                if second is not None:
                    self.pairs.append((first, second))

    def on(self, framework: str) -> CallJudge:
        """The same calls, for functions of another framework's arrays."""
        other = copy(self)
        other.framework = framework
        return other

    def trial(self, case: Case) -> Trial | None:
        def meaning(arrays: Mapping[str, Any], sizes: Any, params: Any) -> Mapping[str, Any]:
            free = {s: sizes[s] for s in self.op.free_sizes}
            return reference(self.op, arrays, params, free)

        try:
            return Trial(case, bounds(self.op, case, meaning))
        except InputError:
            return None

    def arrays(self, case: Case, layout: str = "dense") -> list[Array]:
        return [
            make(self.framework, decode(case.inputs[t.name], t.dtype), t.dtype.name, layout)
            for t in self.op.inputs
        ]

    def named(self, case: Case) -> dict[str, Any]:
        given: dict[str, Any] = {p.name: case.params[p.name] for p in self.op.params}
        return {**given, **{s: case.sizes[s] for s in self.op.free_sizes}}

    def alive(self, function: Function) -> str:
        """Why a function fails on every ordinary call; "" if it does not."""
        why = ""
        for t in self.plain[:4]:
            why = self.once(function, t)[1]
            if not why.startswith("raises"):
                return ""
        return why

    def once(self, function: Function, t: Trial, layout: str = "dense") -> tuple[str, str]:
        """(kind of test, what is wrong), both empty where all is right."""
        case = t.case
        kind = layout if layout != "dense" else case.family
        arrays = self.arrays(case, layout)
        before = [numbers(x).copy() for x in arrays]
        try:
            found = results(quiet(function, arrays, self.named(case)), self.op)
        except Exception as e:
            if not all(x.size for x in before):
                return "", ""  # a call without elements may be refused
            return kind, f"raises {type(e).__name__}: {_first(e)} on {case}"
        said = self.compared(found, t)
        if said:
            return kind, f"{said} on {case}"
        for n, (x, old) in enumerate(zip(arrays, before, strict=True)):
            if not np.array_equal(numbers(x), old, equal_nan=old.dtype.kind == "f"):
                return "inputs", f"{self.op.inputs[n].name} was written to on {case}"
        return "", ""

    def compared(self, found: Sequence[NDArray[Any]], t: Trial) -> str:
        for y, tensor in zip(found, self.op.outputs, strict=True):
            b = t.bound[tensor.name]
            if y.shape != b.reference.shape:
                return f"{tensor.name} has shape {y.shape}, expected {b.reference.shape}"
            if tensor.kind == "real":
                y = y.astype(np.float64)
            with np.errstate(all="ignore"):
                bad, _ = wrong(tensor, encode(y, tensor.dtype), b)
            if bad.any():
                at = tuple(int(i) for i in np.argwhere(bad)[0])
                return f"{tensor.name}{list(at)} is {y[at]}, expected {b.reference[at]}"
        return ""

    def passed_by(self, function: Function) -> CallJudge:
        """This judge without the calls that a right function fails: they tell nothing of others."""
        other = copy(self)
        other.trials = [t for t in self.trials if not self.once(function, t)[1]]
        other.plain = [t for t in self.plain if t in other.trials]
        other.pairs = [p for p in self.pairs if not self.repeated(function, *p)[1]]
        return other

    def __call__(self, function: Function) -> Found | None:
        for t in self.trials:
            kind, said = self.once(function, t)
            if said:
                return KILLED, kind, said
        if self.framework != "jax":
            for layout in LAYOUTS:
                for t in [*self.plain[-3:], *self.plain[len(self.plain) // 2 :][:2]]:
                    kind, said = self.once(function, t, layout)
                    if said:
                        return KILLED, kind, said
        for one, two in self.pairs:
            kind, said = self.repeated(function, one, two)
            if said:
                return KILLED, kind, said
        return None

    def repeated(self, function: Function, one: Trial, two: Trial) -> tuple[str, str]:
        """The same memory with other numbers, and the first numbers again."""
        named = self.named(one.case)
        arrays = self.arrays(one.case)
        try:
            first = quiet(function, arrays, named)
            kept = [y.copy() for y in results(first, self.op)]
            for x, t in zip(arrays, self.op.inputs, strict=True):
                if self.framework != "jax":
                    new = make(
                        self.framework, decode(two.case.inputs[t.name], t.dtype), t.dtype.name
                    )
                    x[...] = new
            if self.framework == "jax":
                arrays = self.arrays(two.case)
            found = results(quiet(function, arrays, named), self.op)
            said = self.compared(found, two)
            if said:
                return "again", f"{said} on {two.case}, in the memory of another call"
            for y, old, t in zip(results(first, self.op), kept, self.op.outputs, strict=True):
                if moves(self.op, t):
                    continue  # it may be a view of what was written meanwhile
                if not np.array_equal(y, old, equal_nan=y.dtype.kind == "f"):
                    return "again", f"{t.name} of an earlier call changed, {two.case}"
            for _ in range(3):
                again = results(quiet(function, self.arrays(one.case), named), self.op)
                for y, old, t in zip(again, kept, self.op.outputs, strict=True):
                    if not np.array_equal(y, old, equal_nan=y.dtype.kind == "f"):
                        return "again", f"{t.name} differs between two runs, {one.case}"
        except Exception as e:
            return "again", f"raises {type(e).__name__}: {_first(e)} on {one.case}"
        return "", ""

    def same(self, a: Function, b: Function) -> str:
        """Where `b` gives other bits than `a`; "" where it never does. What fails in both is the
        same."""
        for t in self.trials:
            x, y = (self._bits(f, t) for f in (a, b))
            if x != y:
                return str(t.case)
        return ""

    def _bits(self, function: Function, t: Trial) -> list[bytes]:
        try:
            found = quiet(function, self.arrays(t.case), self.named(t.case))
            return [np.ascontiguousarray(y).tobytes() for y in results(found, self.op)]
        except Exception as e:
            return [type(e).__name__.encode()]


def quiet(function: Function, arrays: Sequence[Array], named: Mapping[str, Any]) -> Any:
    """A call with what the function takes of the named arguments, without warnings."""
    known = accepted(function)
    given = {k: v for k, v in named.items() if known is None or k in known}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return function(*arrays, **given)


def _first(e: Exception) -> str:
    return next(iter(str(e).splitlines()), "")[:160]


# -- mutants ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Wrong:
    """A wrong function: `make` gives a fresh one."""

    kind: str
    place: str
    what: str
    make: Callable[[], Function]
    diff: tuple[str, ...] = ()


def wrapped(op: Operator, function: Function, name: str) -> list[Wrong]:
    """Wrong functions around a right one."""
    made = generate(op, 5, 6, families=("normal", "uniform"), specials=False)
    legal = legal_specials(op, hosts_of(made.cases))
    return [
        Wrong(m.kind, f"around {name}", m.what, partial(_around, m, function))
        for m in call_mutants(op, legal, framework_of(function) != "jax")
    ]


def _around(m: CallMutant, function: Function) -> Function:
    """The wrong function, which says of itself what the right one says."""
    return update_wrapper(m.wrap(function), function)


def accepted(function: Function) -> set[str] | None:
    """Names that a function takes; None where it takes any, nothing where it does not say."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return set()
    if any(p.kind is p.VAR_KEYWORD for p in found):
        return None
    return {p.name for p in found if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}


def from_source(function: Function) -> list[Wrong]:
    """Wrong functions made of a function's own text; empty where it has none that stands alone."""
    if "<locals>" in getattr(function, "__qualname__", ""):
        return []
    try:
        found, first = inspect.getsourcelines(function)
    except (OSError, TypeError):
        return []
    text, name = "".join(found), getattr(function, "__name__", "")
    text = inspect.cleandoc("\n" + text) + "\n" if text[:1].isspace() else text
    if "def " not in text.splitlines()[0] and "@" not in text[:1]:
        return []
    return from_text(text, name, sys.modules[function.__module__].__dict__, first)


def from_text(text: str, name: str, world: Mapping[str, Any], first: int = 1) -> list[Wrong]:
    """Wrong functions made of a text that defines a function in a world of names."""

    def make(m: Mutant) -> Function:
        space = dict(world)
        exec(compile(m.text, f"<mutant of {name}>", "exec"), space)
        made: Function = space[name]
        return made

    return [
        Wrong(m.kind, m.place, m.what, partial(make, m), tuple(difference(text, m.text)))
        for m in python_mutants(text, name, first)
    ]


def chosen(found: Sequence[Wrong], limit: int) -> list[Wrong]:
    """At most `limit` mutants, every kind among them."""
    plain = [Mutant(w.kind, str(n), w.place + w.what) for n, w in enumerate(found)]
    return [found[int(m.place)] for m in spread(plain, limit)]


def score_calls(
    subject: str,
    right: Function,
    mutants: Iterable[Wrong],
    judge: Judge,
    pool: CallJudge,
    seen: Seen | None = None,
) -> Score:
    """How many wrong functions a judge kills. Those that survive are called on the pool: what is
    wrong there is a survivor, what is not is undecided."""
    score = Score(subject)
    for w in mutants:
        out = _outcome(w, right, judge, pool)
        score.outcomes.append(out)
        if seen is not None:
            seen(out)
    return score


def _outcome(w: Wrong, right: Function, judge: Judge, pool: CallJudge) -> Outcome:
    try:
        why = pool.alive(w.make())
    except Exception as e:
        why = f"raises {type(e).__name__}: {_first(e)}"
    if why:
        return Outcome(w.kind, w.place, w.what, BROKEN, "", why)
    found = judge(w.make())
    if found is None:
        found = undecided(w, right, pool)
    status, by, reason = found
    diff = w.diff if status in (SURVIVED, UNDECIDED) else ()
    return Outcome(w.kind, w.place, w.what, status, by, reason, diff)


def undecided(w: Wrong, right: Function, pool: CallJudge) -> Found:
    """A survivor, or a mutant that the pool does not tell from what is right."""
    found = pool(w.make())
    if found is not None:
        return SURVIVED, "", found[2]
    where = pool.same(right, w.make())
    count = len(pool.trials)
    if where:
        return UNDECIDED, "", f"other bits on {where}, but within what is allowed on {count} calls"
    return UNDECIDED, "", f"the same bits on {count} calls"


def framework_of(function: Function) -> str:
    """The arrays that a function is written for: by what its module imports, else numpy."""
    module = sys.modules.get(getattr(function, "__module__", ""), None)
    names = set(getattr(module, "__dict__", {}))
    source = {getattr(v, "__name__", "").partition(".")[0] for k, v in vars(module).items()
              if inspect.ismodule(v)} if module else set()  # fmt: skip
    own = getattr(function, "__module__", "").partition(".")[0]
    for one in ("torch", "jax"):
        if own == one or one in source or (one == "jax" and "jnp" in names):
            return one
    return "numpy"
