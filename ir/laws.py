"""How a law is tried on concrete data: draw its arguments, make its calls, judge its claim.

The operator itself is called through `run`, so that one law serves the reference and a candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from opwright.ir.binding import InputError, bind, prepare
from opwright.ir.clauses import ClauseResult, evaluate_clause
from opwright.ir.dtypes import DType, decode, encode
from opwright.ir.evaluator import Evaluator, MeaningError
from opwright.ir.expr import read_parts, walk
from opwright.ir.frames import Frame
from opwright.ir.labelled import Array
from opwright.ir.op import Clause, Law, LawArg, Operator, Tensor

# inputs, params, sizes -> outputs, all decoded
Run = Callable[[Mapping[str, Array], Mapping[str, Any], Mapping[str, int]], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class LawResult:
    """A judged claim; `result` is None when a transformed input breaks `requires`."""

    result: ClauseResult | None
    arguments: Mapping[str, Array]
    calls: Mapping[str, Mapping[str, Array]]  # transformed inputs by call
    reason: str = ""


def evaluate_law(
    op: Operator,
    clause: Clause,
    inputs: Mapping[str, Any],
    run: Run,
    rng: np.random.Generator,
    params: Mapping[str, Any] | None = None,
    sizes: Mapping[str, int] | None = None,
    arguments: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Any] | None = None,
    rounded: bool = True,
) -> LawResult:
    """Try a law once on decoded inputs; arguments not given are drawn.

    `inputs` are exact values of their types; transformed ones are `rounded` once to them, but for
    a claim over the reals. Raises InputError for inputs that do not fit the operator.
    """
    form = clause.source
    if not isinstance(form, Law) or clause.expr is None:
        raise InputError(f"{op.name}: {clause.name} is not a law that can be tried")
    arrays = prepare(op, inputs)
    env = bind(op, arrays, params or {}, sizes or {})
    setting = {p.name: env[p.name] for p in op.params}
    bound = {s: env[s] for s in op.sizes}
    # a leading size may stand for several axes of the arrays; results have it as one
    known = outputs if outputs is not None else run(arrays, setting, bound)
    evaluator = Evaluator(op, env, {**arrays, **_decoded(op, known)})
    drawn: dict[str, Array] = {}
    try:
        for arg in form.args:
            value = (arguments or {}).get(arg.name)
            drawn[arg.name] = _draw(evaluator, arg, rng) if value is None else np.asarray(value)
            evaluator.add(arg.name, drawn[arg.name])
        return _judge(op, clause, form, evaluator, run, arrays, drawn, setting, bound, rounded)
    except MeaningError as e:
        raise InputError(f"{op.name}: {clause.name}: {e}") from None


def _judge(
    op: Operator,
    clause: Clause,
    form: Law,
    evaluator: Evaluator,
    run: Run,
    arrays: Mapping[str, Array],
    drawn: Mapping[str, Array],
    setting: Mapping[str, Any],
    bound: Mapping[str, int],
    rounded: bool,
) -> LawResult:
    pending = list(form.tensors)
    calls: dict[str, Mapping[str, Array]] = {}
    for c in form.calls:
        pending = _define(evaluator, pending)
        made: dict[str, Array] = {}
        for t, target in zip(c.inputs, op.inputs, strict=True):
            whole = evaluator.define(t)
            made[target.name] = stored(whole, target.dtype) if rounded else whole
        with np.errstate(all="ignore"):
            given = {k: evaluator.evaluate(e, Frame({})).data[()] for k, e in c.params.items()}
        own = {k: evaluator.number(e) for k, e in c.sizes.items()}
        calls[c.name] = made
        for requirement in op.requires:
            found = evaluate_clause(op, requirement, made, {}, given, own)
            if not found.holds:
                return LawResult(None, drawn, calls, f"{c.name} breaks {found.detail}")
        for name, value in _decoded(op, run(made, given, own)).items():
            evaluator.add(f"{c.name}.{name}", value)
    _define(evaluator, pending)
    names = {t.name for t in op.inputs} | {t.name for t in op.outputs}
    extra = {n: a for n, a in evaluator.arrays.items() if n not in names}
    results = {t.name: evaluator.arrays[t.name] for t in op.outputs}
    result = evaluate_clause(op, clause, arrays, results, setting, bound, extra)
    return LawResult(result, drawn, calls)


def _define(evaluator: Evaluator, pending: list[Tensor]) -> list[Tensor]:
    """Compute the tensors that read nothing unknown; the rest waits for a call."""
    left = []
    for t in pending:
        assert t.body is not None
        needed = {read_parts(x)[0] for x in walk(t.body) if x.op == "read"} - {t.name}
        if t.recurrence is not None or not needed <= set(evaluator.arrays):
            left.append(t)
        else:
            evaluator.define(t)
    return left


def _decoded(op: Operator, outputs: Mapping[str, Any]) -> dict[str, Array]:
    """Outputs as arrays of the operator's rank."""
    out = {}
    for t in op.outputs:
        array = np.asarray(outputs[t.name])
        lead = array.ndim - len(t.axes)
        out[t.name] = array.reshape(-1, *array.shape[lead + 1 :]) if lead > 0 else array
    return out


def stored(values: Array, d: DType) -> Array:
    """Values as an input of that type can hold them."""
    if d.kind != "real":
        return values
    return decode(encode(np.asarray(values, np.float64), d), d).reshape(values.shape)


def _draw(evaluator: Evaluator, arg: LawArg, rng: np.random.Generator) -> Array:
    """A value of a law's argument: uniform between its bounds, else normal or a small integer."""
    shape = tuple(evaluator.number(s) for s in arg.shape)
    ends = [
        None if e is None else evaluator.evaluate(e, Frame({})).data[()] for e in (arg.lo, arg.hi)
    ]
    lo, hi = ends
    if arg.kind == "perm":
        return rng.permutation(shape[0])
    if arg.dtype.kind == "bool":
        return rng.random(shape) < 0.5
    if arg.dtype.kind == "int":
        first = 0 if lo is None else int(lo)
        last = first + 8 if hi is None else int(hi)
        if last <= first:
            raise MeaningError(f"{arg.name} has no value: its range {first}..{last} is empty")
        return np.asarray(rng.integers(first, last, shape))
    drawn = rng.standard_normal(shape) if lo is None or hi is None else rng.uniform(lo, hi, shape)
    return stored(np.asarray(drawn), arg.dtype)
