"""Looks for counterexamples to the clauses of a contract: small sizes, telling values, replayed.

A case that the float64 reference finds wrong is evaluated once more over the reals
(`opwright.verify.exact`): only what is false there is a counterexample, so that no claim fails by
rounding alone. Everything follows from the operator and a seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.ir.binding import InputError
from opwright.ir.clauses import bound_of, evaluate_clause
from opwright.ir.dtypes import decode, encode
from opwright.ir.expr import Expr, ExprError, conjuncts, read_parts, walk
from opwright.ir.laws import evaluate_law
from opwright.ir.op import Clause, Law, Operator, Param, Tensor
from opwright.ir.reference import reference
from opwright.verify.draw import draw_inputs, holds
from opwright.verify.exact import Exact, Judge, NotExact, Undefined
from opwright.verify.setting import Setting, setting
from opwright.verify.sizes import Limits, Number, Sampler, all_params

Array = NDArray[Any]
LIMITS = Limits(64, 1 << 13)
SMALL = (2, 1, 3, 4)
SIZES = 6  # combinations of sizes and params
CASES = 20
FAMILIES = ("small", "ties", "zero", "normal", "negative", "peak", "equal", "large", "uniform")


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """Legal sizes, params and decoded inputs, and the reference's outputs."""

    sizes: Mapping[str, int]
    params: Mapping[str, Number]
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Counterexample:
    """Where a claim is false: indices, both sides of the comparison, a law's arguments."""

    trial: Trial
    indices: Mapping[str, int]
    comparison: Expr
    sides: tuple[float, ...]
    arguments: Mapping[str, Array]


class Falsifier:
    """Tries the clauses of one operator on the same cases."""

    def __init__(self, op: Operator, seed: int = 0) -> None:
        self.op, self.seed = op, seed
        self._trials: list[Trial] | None = None
        self._inputs: list[Trial] | None = None
        self.undefined = ""  # a case of the last clause where a side of it has no value

    # -- cases ------------------------------------------------------------------------------------

    def trials(self) -> list[Trial]:
        """The cases, smallest first; none when no sizes or values are legal."""
        if self._trials is None:
            self._trials = self._made(outputs=True)
        return self._trials

    def inputs(self) -> list[Trial]:
        """As `trials`, of an operator that may have no outputs there."""
        if self._inputs is None:
            self._inputs = self._made(outputs=False)
        return self._inputs

    def _made(self, outputs: bool) -> list[Trial]:
        made: list[Trial] = []
        for n, (sizes, params) in enumerate(self._sizes()):
            for k, family in enumerate(FAMILIES):
                if (len(made) >= CASES and k >= 3) or (k and 0 in sizes.values()):
                    break
                seed = self.seed * 977 + n * 31 + k
                trial = self._trial(sizes, params, family, seed, outputs)
                if trial is not None:
                    made.append(trial)
        return made

    def _sizes(self) -> list[tuple[Mapping[str, int], Mapping[str, Number]]]:
        """Legal sizes from one to four, all alike first, then what a sampler finds."""
        rng = Random(f"{self.seed}:{self.op.name}:{self.op.digest}")
        sampler = Sampler(self.op, rng, (), LIMITS)
        names = list(self.op.sizes)
        wanted: list[dict[str, int]] = [dict.fromkeys(names, n) for n in SMALL]
        for _ in range(24):
            wanted.append({n: rng.choice((1, 2, 2, 3, 4)) for n in names})
        for name in names:  # nothing along one axis
            wanted.append({**dict.fromkeys(names, 2), name: 0})
        found: dict[tuple[Any, ...], tuple[Mapping[str, int], Mapping[str, Number]]] = {}
        options = list(self._params(rng))
        for n, sizes in enumerate(wanted):
            if len(found) >= SIZES and 0 not in sizes.values():
                continue
            for given in (options[0], options[n % len(options)]):
                try:
                    params = all_params(self.op, sizes, given)
                    legal = sampler.legal(sizes, params) and sampler.fits(sizes, params)
                except (ExprError, KeyError, ZeroDivisionError, ValueError):
                    continue
                if legal:
                    found.setdefault((*sizes.values(), *params.values()), (sizes, params))
        if len(found) < 4:
            for s, p in sampler.many(4):
                found.setdefault((*s.values(), *p.values()), (s, p))
        whole = [x for x in found.values() if 0 not in x[0].values()][:SIZES]
        return whole + [x for x in found.values() if 0 in x[0].values()][:4]

    def _params(self, rng: Random) -> Iterator[dict[str, Number]]:
        """Params by default, then at other values of the same sign."""
        must: dict[str, Number] = {}
        for p in self.op.params:
            if p.default is None:
                must[p.name] = {"bool": True, "int": 1}.get(p.dtype.kind, 1.0)
        yield must
        free = list(self.op.params)
        for _ in range(6 if free else 0):
            chosen = [p for p in free if p.default is None or rng.random() < 0.6]
            yield must | {p.name: rng.choice(_pool(p)) for p in chosen}

    def _trial(
        self,
        sizes: Mapping[str, int],
        params: Mapping[str, Number],
        family: str,
        seed: int,
        run: bool,
    ) -> Trial | None:
        base = {"normal": "normal", "uniform": "uniform", "ties": "ties"}.get(family, "normal")
        try:
            stored = draw_inputs(self.op, sizes, params, base, seed)
        except (ArithmeticError, ExprError, LookupError, TypeError, ValueError):
            return None  # no legal values, or a form that evaluation does not know
        rng = np.random.default_rng([seed, 5])
        if family not in ("normal", "uniform"):
            for t in self.op.inputs:
                if t.kind != "real" or not stored[t.name].size:
                    continue
                changed = _telling(family, decode(stored[t.name], t.dtype), rng)
                trial = {**stored, t.name: encode(changed, t.dtype).reshape(changed.shape)}
                if not holds(self.op, trial, sizes, params):
                    stored = trial
        inputs = {t.name: decode(stored[t.name], t.dtype) for t in self.op.inputs}
        if not run:
            return Trial(sizes, params, inputs, {})
        free = {s: sizes[s] for s in self.op.free_sizes}
        try:
            outputs = reference(self.op, inputs, params, free)
        except (ArithmeticError, ExprError, LookupError, TypeError, ValueError):
            return None
        return Trial(sizes, params, inputs, outputs)

    # -- clauses ----------------------------------------------------------------------------------

    def falsify(self, clause: Clause) -> tuple[Counterexample | None, int]:
        """A counterexample that replays over the reals, and the number of cases tried."""
        tried = 0
        checked = 0
        self.undefined = ""
        where = setting(self.op, clause)
        for n, trial in enumerate(self.trials()):
            for arguments in self._arguments(clause, trial, n):
                verdict = self._float(clause, trial, arguments)
                if verdict is None:
                    continue
                tried += 1
                if verdict or checked >= 12:
                    continue
                checked += 1
                found = self.replay(clause, where, trial, arguments)
                if found is not None:
                    return found, tried
        return None, tried

    def _float(
        self, clause: Clause, trial: Trial, arguments: Mapping[str, Array] | None
    ) -> bool | None:
        """Whether the claim holds in float64 but for rounding; None when it is not stated there."""
        free = {s: trial.sizes[s] for s in self.op.free_sizes}
        try:
            if isinstance(clause.source, Law):
                made = evaluate_law(
                    self.op, clause, trial.inputs, self._run, np.random.default_rng(0),
                    trial.params, free, arguments, trial.outputs, rounded=False,
                )  # fmt: skip
                found = made.result
            else:
                found = evaluate_clause(
                    self.op, clause, trial.inputs, trial.outputs, trial.params, free
                )
        except (InputError, ExprError):
            return None
        if found is None:
            return None
        return found.holds

    def _run(
        self, inputs: Mapping[str, Array], params: Mapping[str, Any], sizes: Mapping[str, int]
    ) -> Mapping[str, Array]:
        free = {s: sizes[s] for s in self.op.free_sizes}
        return reference(self.op, inputs, params, free)

    def _arguments(
        self, clause: Clause, trial: Trial, n: int
    ) -> Iterator[Mapping[str, Array] | None]:
        form = clause.source
        if not isinstance(form, Law) or not form.args:
            yield None
            return
        rng = np.random.default_rng([self.seed, n, 11])
        for k in range(2 if n < 8 else 1):
            out: dict[str, Array] = {}
            exact = Exact(setting(self.op).tensors, {**trial.sizes, **trial.params}, trial.inputs)
            try:
                for arg in form.args:
                    shape = tuple(int(exact.value(s, {})) for s in arg.shape)
                    lo, hi = (
                        None if x is None else float(exact.value(x, {})) for x in (arg.lo, arg.hi)
                    )
                    drawn = _argument(arg.kind, arg.dtype.kind, shape, lo, hi, n + k, rng)
                    if drawn is None:
                        return
                    if arg.kind == "sample" and arg.dtype.kind == "real":
                        drawn = decode(encode(drawn, arg.dtype), arg.dtype).reshape(shape)
                    out[arg.name] = drawn
            except (NotExact, KeyError):
                return
            yield out

    def replay(
        self,
        clause: Clause,
        where: Setting,
        trial: Trial,
        arguments: Mapping[str, Array] | None,
    ) -> Counterexample | None:
        """The claim over the reals on one case."""
        assert clause.expr is not None
        given = dict(arguments or {})
        scalars = {**trial.sizes, **trial.params}
        exact = Exact(where.tensors, scalars, {**trial.inputs, **given})
        bounds = {
            x: flat_bound(self.op, bound_of(self.op, clause, x))
            for x in walk(clause.expr)
            if x.op in ("lt", "le", "eq", "approx") and x.args[0].kind != "bool"
        }
        judge = Judge(exact, bounds)
        try:
            if not self._legal(exact, where):
                return None
            place = judge.place(clause.expr, {})
            if place is None:
                return None
            sides = []
            if place[0] in bounds:
                sides = [float(exact.value(x, place[1])) for x in place[0].args]
        except Undefined as e:
            self.undefined = str(e)
            return None
        except (NotExact, OverflowError, KeyError, IndexError):
            return None
        return Counterexample(trial, place[1], place[0], tuple(sides), given)

    def breaks(
        self,
        ranges: Mapping[str, tuple[Expr, Expr]],
        assume: Sequence[Expr],
        goal: Expr,
        trials: Sequence[Trial] | None = None,
    ) -> tuple[Counterexample | None, bool]:
        """Where a condition on `def` fails over the reals, and whether it fails everywhere."""
        first: Counterexample | None = None
        held = False
        where = setting(self.op)
        for trial in (self.trials() if trials is None else trials)[:16]:
            exact = Exact(where.tensors, {**trial.sizes, **trial.params}, trial.inputs)
            try:
                for at in _points(exact, list(ranges.items()), {}):
                    if not all(exact.value(a, at) for a in assume):
                        continue
                    if exact.value(goal, at):
                        held = True
                    elif first is None and self._legal(exact, where):
                        number = goal.op in ("lt", "le", "eq", "ne") and goal.args[0].kind != "bool"
                        sides = tuple(float(exact.value(x, at)) for x in goal.args if number)
                        first = Counterexample(trial, at, goal, sides, {})
            except (NotExact, OverflowError, KeyError, IndexError):
                continue
            if held and first is not None:
                break
        return first, first is not None and not held

    def _legal(self, exact: Exact, where: Setting) -> bool:
        """Whether facts and preconditions hold exactly, a call's included."""
        plain = Judge(exact, {})
        for f in self.op.facts:
            if not all(plain.truth(part, {}) for part in conjuncts(f)):
                return False
        return all(
            plain.truth(c.expr, {}) is not False
            for c in (*where.requires, *where.called)
            if c.expr is not None
        )


def _points(
    exact: Exact, ranges: list[tuple[str, tuple[Expr, Expr]]], at: dict[str, int]
) -> Iterator[dict[str, int]]:
    if not ranges:
        yield at
        return
    (name, (lo, hi)), *rest = ranges
    for value in range(exact.value(lo, at), exact.value(hi, at)):
        yield from _points(exact, rest, {**at, name: value})


def flat_bound(op: Operator, bound: Mapping[str, float]) -> dict[str, float]:
    """A bound without units in the last place."""
    out = {k: v for k, v in bound.items() if k != "ulp"}
    if "ulp" in bound:
        widths = [t.dtype.epsilon for t in op.outputs if t.kind == "real"] or [2.0**-23]
        out["rel"] = out.get("rel", 0.0) + bound["ulp"] * max(widths)
    return out


def _pool(p: Param) -> Sequence[Number]:
    """Values of a param that are worth trying: a scale or an epsilon stays positive."""
    if p.dtype.kind == "bool":
        return (True, False)
    if p.dtype.kind == "int":
        return (0, 1, 2, 3)
    default = p.default.attr if p.default is not None and p.default.op == "const" else 1.0
    if default > 0:
        return (0.5, 1.0, 2.0, 0.25, float(default) * 2)
    return (0.0, 0.5, 1.0) if default == 0 else (-0.5, -1.0, -2.0, 0.5)


def _telling(family: str, x: Array, rng: np.random.Generator) -> Array:
    """Values at which a wrong claim shows, of the shape and nearly the range of `x`."""
    if family == "zero":
        return np.zeros_like(x)
    if family == "negative":
        return -np.abs(np.round(x * 2)) - 1
    if family == "equal":
        return np.full_like(x, float(rng.integers(-2, 3)))
    if family == "large":
        return np.round(x * 16)
    if family == "peak":
        out = np.zeros_like(x)
        out.reshape(-1)[int(rng.integers(x.size))] = 8.0
        return out
    return rng.integers(-3, 4, x.shape).astype(np.float64)


def _argument(
    kind: str,
    dtype: str,
    shape: tuple[int, ...],
    lo: float | None,
    hi: float | None,
    n: int,
    rng: np.random.Generator,
) -> Array | None:
    """A value of a law's argument; None when there is none."""
    if kind == "perm":
        size = shape[0]
        return np.roll(np.arange(size), 1) if n % 2 == 0 else rng.permutation(size)
    if dtype == "bool":
        return np.asarray(rng.random(shape) < 0.5)
    if lo is not None and hi is not None and lo > hi:
        return None
    if dtype == "int":
        first = 0 if lo is None else int(lo)
        last = first + 4 if hi is None else int(hi)
        return None if last <= first else np.asarray(rng.integers(first, last, shape))
    low, high = (-3.0 if lo is None else lo), (3.0 if hi is None else hi)
    if n % 3 == 0:
        whole = np.round(rng.uniform(low, high, shape))
        return np.clip(whole, low, high)
    if n % 3 == 1:
        return np.where(rng.random(shape) < 0.5, low, high)
    return np.asarray(rng.uniform(low, high, shape))


def elements_text(t: Tensor, values: Array, most: int = 12) -> str:
    """`x = [[1, 2], [0, -3]]`, or nothing for an array that is too large to show."""
    if values.size > most:
        return ""
    return f"{t.name} = {_nested(values.tolist())}"


def _nested(x: Any) -> str:
    if isinstance(x, list):
        return f"[{', '.join(_nested(y) for y in x)}]"
    if isinstance(x, bool):
        return str(x).lower()
    if isinstance(x, int):
        return str(x)
    return f"{x:.6g}"


def used_inputs(where: Setting, e: Expr) -> list[Tensor]:
    """Inputs that a claim depends on, in the order of the operator."""
    seen: set[str] = set()
    pending = [e]
    while pending:
        for x in walk(pending.pop()):
            if x.op == "read" and x.attr[0] not in seen:
                name = read_parts(x)[0]
                seen.add(name)
                t = where.tensors.get(name)
                if t is not None and t.body is not None:
                    pending.append(t.body)
                    if t.recurrence is not None:
                        pending.append(t.recurrence.init)
    return [t for t in where.tensors.values() if t.role == "input" and t.name in seen]


__all__ = ["Counterexample", "Falsifier", "Trial", "elements_text", "product", "used_inputs"]
