"""How a requires or ensures clause is judged on concrete arrays: truth, worst violation, place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from opwright.ir.binding import InputError, bind, prepare
from opwright.ir.dtypes import DTYPES
from opwright.ir.evaluator import Evaluator, MeaningError
from opwright.ir.expr import Expr, Fold, call, conjunction, conjuncts, read_parts, var, walk
from opwright.ir.frames import NUMPY_KIND, Frame, Range, blocks
from opwright.ir.labelled import Array, Labelled, apply, expand, union
from opwright.ir.op import Clause, Operator
from opwright.ir.semantics import ROWS


@dataclass(frozen=True, slots=True)
class ClauseResult:
    """Whether a clause holds, by how much its worst place misses it (0 if it holds), where."""

    holds: bool
    violation: float
    where: Mapping[str, int]
    detail: str = ""


def evaluate_clause(
    op: Operator,
    clause: Clause,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    sizes: Mapping[str, int] | None = None,
    tensors: Mapping[str, Any] | None = None,
) -> ClauseResult:
    """Judge a requires or ensures clause on decoded values; outputs not given are the reference's.

    `a ~= b` allows the clause's `within`, else the tolerance of the outputs compared; `within` also
    widens `<`, `<=` and `==`. A NaN breaks every comparison. `tensors` adds named arrays that the
    clause reads besides (a law's calls). Raises InputError as `reference` does.
    """
    if clause.expr is None:
        raise InputError(f"{op.name}: {clause.name} has no expression to judge")
    arrays = prepare(op, inputs)
    env = bind(op, arrays, params or {}, sizes or {})
    for name, value in {**(outputs or {}), **(tensors or {})}.items():
        arrays[name] = np.asarray(value)
    for t in op.outputs:
        if t.name in arrays:
            rank = len(t.axes)
            lead = arrays[t.name].ndim - rank
            if lead > 0:
                arrays[t.name] = arrays[t.name].reshape(-1, *arrays[t.name].shape[lead + 1 :])
            arrays[t.name] = arrays[t.name].astype(NUMPY_KIND[t.kind], copy=False)
    evaluator = Evaluator(op, env, arrays)
    reads = {read_parts(x)[0] for x in walk(clause.expr) if x.op == "read"}
    for name in reads - set(evaluator.box):
        evaluator.add(name, arrays[name])
    try:
        if not reads <= set(arrays):
            evaluator.run()
        return _Judge(op, clause, evaluator).judge()
    except MeaningError as e:
        raise InputError(f"{op.name}: {clause.name}: {e}") from None


def _strip(e: Expr) -> tuple[list[tuple[str, Expr, Expr]], list[Expr], Expr]:
    """Binders and guards of the outermost `all`s and what they range over."""
    binders: list[tuple[str, Expr, Expr]] = []
    guards: list[Expr] = []
    while e.op == "fold" and Fold(e).kind == "all":
        f = Fold(e)
        binders += [(b, lo, hi) for b, (lo, hi) in zip(f.binders, f.ranges, strict=True)]
        guards += conjuncts(f.guard)
        e = f.term
    return binders, guards, e


class _Judge:
    """Truth and excess of a claim: how far each place is from holding."""

    def __init__(self, op: Operator, clause: Clause, evaluator: Evaluator) -> None:
        self.op, self.clause, self.evaluator = op, clause, evaluator

    def judge(self) -> ClauseResult:
        assert self.clause.expr is not None
        with np.errstate(all="ignore"):
            worst: tuple[float, dict[str, int]] | None = None
            for part in conjuncts(self.clause.expr) or [self.clause.expr]:
                found = self._claim(part)
                if found is not None and (worst is None or found[0] > worst[0]):
                    worst = found
        if worst is None:
            return ClauseResult(True, 0.0, {})
        at = ", ".join(f"{k} = {v}" for k, v in worst[1].items())
        text = f"{self.clause.name} misses by {worst[0]:.3g}" + (f" at {at}" if at else "")
        return ClauseResult(False, worst[0], worst[1], text)

    def _claim(self, e: Expr) -> tuple[float, dict[str, int]] | None:
        binders, guards, body = _strip(e)
        ranges: list[tuple[int, int]] = []
        bound: dict[str, Range | Labelled] = {}
        for name, lo, hi in binders:
            low = self.evaluator.evaluate(lo, Frame(dict(bound)))
            high = self.evaluator.evaluate(hi, Frame(dict(bound)))
            if low.names or high.names:
                guards += [call("le", lo, var(name)), call("lt", var(name), hi)]
            if not low.data.size or not high.data.size:
                return None
            ranges.append((int(low.data.min()), int(high.data.max())))
            bound[name] = Range(*ranges[-1])
        guard = conjunction(guards)
        names = [b for b, _, _ in binders]
        worst: tuple[float, dict[str, int]] | None = None
        for box in blocks(ranges, 4):
            path = tuple((g, True) for g in guards)
            frame = Frame({n: Range(*r) for n, r in zip(names, box, strict=True)}, path)
            truth, excess = self._truth(body, frame)
            bad = apply(np.logical_not, truth)
            if guards:
                plain = Frame(frame.variables)
                bad = apply(np.logical_and, bad, self.evaluator.evaluate(guard, plain))
            if not bad.data.any():
                continue
            amount = apply(lambda b, x: np.where(b, x, -math.inf), bad, excess)
            place = np.unravel_index(int(np.argmax(amount.data)), amount.data.shape)
            value = float(amount.data[place])
            if worst is None or value > worst[0]:
                index = dict(zip(amount.names, map(int, place), strict=True))
                worst = value, {n: lo + index.get(n, 0)
                                for n, (lo, _) in zip(names, box, strict=True)}  # fmt: skip
        return worst

    def _truth(self, e: Expr, frame: Frame) -> tuple[Labelled, Labelled]:
        """(holds, excess): how far it fails, infinite for what has no measure."""
        if e.op in ("and", "or"):
            (t, x), (u, y) = (self._truth(a, frame) for a in e.args)
            pick = np.maximum if e.op == "and" else np.minimum
            return apply(ROWS[e.op].concrete, t, u), apply(pick, x, y)
        if e.op in ("lt", "le", "eq", "approx"):
            return self._compare(e, frame)
        if e.op == "fold" and Fold(e).kind in ("any", "all"):
            f = Fold(e)
            bounds = [self.evaluator.evaluate(b, frame) for r in f.ranges for b in r]
            if not any(b.names for b in bounds):
                return self._quantifier(f, frame, [int(b.data) for b in bounds])
        truth = self.evaluator.evaluate(e, frame)
        return truth, apply(lambda t: np.where(t, 0.0, math.inf), truth)

    def _quantifier(self, f: Fold, frame: Frame, flat: list[int]) -> tuple[Labelled, Labelled]:
        whole = {
            b: Range(flat[2 * k], max(flat[2 * k : 2 * k + 2])) for k, b in enumerate(f.binders)
        }
        inner = frame.bind(whole, f.guard)
        truth, excess = self._truth(f.term, inner)
        universal = f.kind == "all"
        mask = self.evaluator.evaluate(f.guard, Frame(inner.variables, frame.path))
        truth = apply(lambda m, t: np.where(m, t, universal), mask, truth)
        skip = -math.inf if universal else math.inf
        excess = apply(lambda m, x: np.where(m, x, skip), mask, excess)
        names = [n for n in union((truth, excess)) if n not in f.binders]
        order = [*names, *f.binders]
        axes = tuple(range(len(names), len(order)))
        t, x = expand(truth, order), expand(excess, order)
        if any(r.hi <= r.lo for r in whole.values()):
            shape = np.broadcast_shapes(t.shape, x.shape)[: len(names)]
            measure = 0.0 if universal else math.inf
            return (
                Labelled(tuple(names), np.full(shape, universal)),
                Labelled(tuple(names), np.full(shape, measure)),
            )
        reduce_truth = np.all if universal else np.any
        reduce_excess = np.max if universal else np.min
        return (Labelled(tuple(names), np.asarray(reduce_truth(t, axis=axes))),
                Labelled(tuple(names), np.asarray(reduce_excess(x, axis=axes))))  # fmt: skip

    def _compare(self, e: Expr, frame: Frame) -> tuple[Labelled, Labelled]:
        a, b = (self.evaluator.evaluate(x, frame) for x in e.args)
        allowed = _allowance(bound_of(self.op, self.clause, e), b, e, self.op)
        distance: dict[str, Any] = {
            "lt": lambda x, y: np.where(x == y, 0.0, x - y),
            "le": lambda x, y: np.where(x == y, 0.0, x - y),
        }

        def both(x: Array, y: Array) -> Array:
            return np.where(x == y, 0.0, np.abs(np.subtract(x, y, dtype=np.float64)))

        gap = apply(distance.get(e.op, both), a, b)
        excess = apply(lambda g, t: np.where(np.isnan(g), math.inf, g - t), gap, allowed)
        strict = e.op == "lt"
        truth = apply(lambda x: (x < 0) if strict else (x <= 0), excess)
        if strict:
            excess = apply(lambda x: np.where(x == 0, np.finfo(np.float64).tiny, x), excess)
        return truth, excess


def bound_of(op: Operator, clause: Clause, e: Expr) -> Mapping[str, float]:
    """What widens a comparison of a clause: its `within`; for `~=` else the written tolerance of
    the outputs compared, else 64 units in their last place."""
    if clause.within is not None or e.op != "approx":
        return clause.within or {}
    outputs = {t.name: t for t in op.outputs}
    found = []
    for x in walk(e):
        if x.op == "read":
            t = outputs.get(read_parts(x)[0].rpartition(".")[2])
            if t is not None:
                found.append(t.dtype)
    best: dict[str, float] = {}
    for d in found or [DTYPES["f32"]]:
        rule = op.tolerance.get(d.name)
        if rule is None:
            rule = {"abs": 64 * d.epsilon, "rel": 64 * d.epsilon}
        for k, v in rule.items():
            best[k] = max(best.get(k, 0.0), v)
    return best


def _allowance(bound: Mapping[str, float], b: Labelled, e: Expr, op: Operator) -> Labelled:
    """abs + rel * |b| (+ ulp of the widest float output)."""
    rel = bound.get("rel", 0.0)
    if "ulp" in bound:
        widths = [t.dtype.epsilon for t in op.outputs if t.kind == "real"] or [2.0**-23]
        rel += bound["ulp"] * max(widths)

    def amount(y: Array) -> Array:
        size = np.where(np.isfinite(y), np.abs(np.asarray(y, np.float64)), 0.0)
        return bound.get("abs", 0.0) + (rel * size if rel else 0.0 * size)

    return apply(amount, b)
