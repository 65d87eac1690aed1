"""Operators evaluated as kernels do: every operation rounded, sums in a chosen order, with or
without a precision fault. What the numeric gate's limits are calibrated and measured with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from opwright.ir.binding import InputError, bind, prepare
from opwright.ir.dtypes import BF16, F16, F32, F64, DType, decode, encode
from opwright.ir.evaluator import Evaluator, MeaningError
from opwright.ir.expr import TRUE, Expr, Fold, free_vars
from opwright.ir.frames import Frame, Range, blocks
from opwright.ir.labelled import ACCUMULATE, Array, Labelled, apply, expand, neutral_value, take
from opwright.ir.op import Operator, Tensor
from opwright.ir.semantics import MONOIDS
from opwright.verify.bounds_rules import Rules

ORDERS = ("sequential", "reversed", "pairwise", "lanes", "fused")
FAULTS = ("f16 accumulator", "bf16 accumulator", "tf32 operands", "dropped term", "early cast")
LANES = 8
LONG = 12  # terms of a sum that may miss one
TF32 = 10  # fraction bits


def chop(x: Array, bits: int) -> Array:
    """Rounded to nearest even with this many fraction bits."""
    with np.errstate(invalid="ignore", over="ignore"):
        fraction, exponent = np.frexp(x)
        scaled = np.rint(np.ldexp(fraction, bits + 1))
        return np.where(np.isfinite(x), np.ldexp(scaled, exponent - bits - 1), x)


def nearest(x: Array, d: DType) -> Array:
    """Rounded to a type, as float64."""
    if d is F64:
        return x
    if d in (F32, F16):
        with np.errstate(over="ignore"):
            return np.asarray(x.astype(d.storage).astype(np.float64))
    return decode(encode(x, d), d).reshape(x.shape)


@dataclass(frozen=True, slots=True)
class Way:
    """How an evaluation rounds: the order of its sums, and a fault or none."""

    order: str = "sequential"
    fault: str = ""

    def __str__(self) -> str:
        return self.fault or self.order


def evaluate(
    op: Operator,
    inputs: Mapping[str, Array],
    params: Mapping[str, Any],
    sizes: Mapping[str, int],
    way: Way,
) -> tuple[dict[str, Array], bool]:
    """Outputs in stored form, and whether the fault had a place."""
    arrays = prepare(op, inputs)
    run = _Rounded(op, bind(op, arrays, params, sizes), arrays, way)
    try:
        run.run()
    except MeaningError as e:
        raise InputError(f"{op.name}: {e}") from None
    out = {}
    with np.errstate(all="ignore"):
        for t in op.outputs:
            found = run.arrays[t.name]
            out[t.name] = encode(found, t.dtype).reshape(found.shape)
    return out, run.faulty


class _Rounded(Evaluator):
    def __init__(
        self, op: Operator, env: Mapping[str, Any], arrays: Mapping[str, Array], way: Way
    ) -> None:
        self.way, self.faulty = way, False
        self.precise = Rules({t.name: t for t in (*op.inputs, *op.tensors)}).precision
        super().__init__(op, env, arrays)

    def _region(self, t: Tensor, box: tuple[tuple[int, int], ...]) -> Array:
        out = super()._region(t, box)
        if t.kind != "real":
            return out
        if self.way.fault == "early cast" and t.role == "local" and out.size:
            self.faulty = True
            return nearest(out, BF16)
        return nearest(out, t.dtype)

    def _node(self, e: Expr, frame: Frame) -> Labelled:
        x = super()._node(e, frame)
        if e.kind != "real" or e.op in ("read", "select", "round", "toreal"):
            return x
        return Labelled(x.names, nearest(x.data, self.precise(e) or F32))

    def _eval(self, e: Expr, frame: Frame) -> Labelled:
        if e.op == "const" and e.kind == "real":
            return Labelled((), np.asarray(np.float64(np.float32(e.attr))))
        return super()._eval(e, frame)

    # -- sums -------------------------------------------------------------------------------------

    def _contraction(self, *given: Any) -> Labelled | None:
        return None

    def _dense(
        self,
        kind: str,
        binders: tuple[str, ...],
        ranges: list[tuple[int, int]],
        guard: Expr,
        term: Expr,
        frame: Frame,
    ) -> Labelled:
        if kind not in ("sum", "prod") or term.kind != "real":
            return super()._dense(kind, binders, ranges, guard, term, frame)
        outer = frame.extents(guard, term, without=binders)
        total: Labelled | None = None
        for box in blocks(ranges, int(np.prod(list(outer.values()), dtype=np.float64))):
            inner = frame.bind({b: Range(*r) for b, r in zip(binders, box, strict=True)}, guard)
            value = self._terms(term, set(binders), inner)
            if guard is not TRUE:
                value = self._guarded(kind, guard, value, inner)
            rest = tuple(n for n in value.names if n not in binders)
            data = expand(value, (*rest, *binders))
            shape = [hi - lo for lo, hi in box]
            data = np.broadcast_to(data, (*data.shape[: len(rest)], *shape))
            if not data.size:
                return super()._dense(kind, binders, ranges, guard, term, frame)
            flat = np.ascontiguousarray(data).reshape(*data.shape[: len(rest)], int(np.prod(shape)))
            part = Labelled(rest, self._added(kind, flat))
            combine = MONOIDS[kind].ufunc
            total = part if total is None else apply(combine, total, part)
        assert total is not None
        return total

    def _terms(self, term: Expr, binders: set[str], frame: Frame) -> Labelled:
        bare = term
        while bare.op == "cast":
            bare = bare.args[0]
        if bare.op != "mul" or (self.way.order != "fused" and self.way.fault != "tf32 operands"):
            return self.evaluate(term, frame)
        a, b = (self.evaluate(x, frame) for x in bare.args)
        moving = [x for x in bare.args if free_vars(x) & binders]
        if self.way.fault == "tf32 operands" and len(moving) == 2:
            coarse = [Labelled(x.names, chop(x.data, TF32)) for x in (a, b)]
            pairs = zip((a, b), coarse, strict=True)
            self.faulty |= not all(np.array_equal(x.data, y.data, True) for x, y in pairs)
            a, b = coarse
        return apply(np.multiply, a, b)  # not rounded on its own

    def _added(self, kind: str, terms: Array) -> Array:
        """The last axis in the order of this way, every step rounded."""
        fault, order = self.way.fault, self.way.order
        add = MONOIDS[kind].ufunc
        count = terms.shape[-1]
        if fault == "dropped term" and kind == "sum" and count >= LONG:
            self.faulty = True
            terms = terms[..., :-1]
        if fault in ("f16 accumulator", "bf16 accumulator") and count > 2 and terms.size:
            self.faulty = True
            narrow = F16 if fault[0] == "f" else BF16
            out = np.zeros(terms.shape[:-1]) if kind == "sum" else np.ones(terms.shape[:-1])
            for k in range(terms.shape[-1]):
                out = nearest(add(out, terms[..., k]), narrow)
            return out
        if order == "fused":
            out = np.zeros(terms.shape[:-1]) if kind == "sum" else np.ones(terms.shape[:-1])
            for k in range(terms.shape[-1]):
                out = nearest(add(out, terms[..., k]), F32)
            return out
        x = terms.astype(np.float32)
        if order == "reversed":
            x = x[..., ::-1]
        if order == "pairwise":
            found = add.reduce(np.ascontiguousarray(x), axis=-1)
        elif order == "lanes":
            spare = -x.shape[-1] % LANES
            fill = np.full((*x.shape[:-1], spare), 0 if kind == "sum" else 1, np.float32)
            x = np.concatenate([x, fill], axis=-1).reshape(*x.shape[:-1], -1, LANES)
            found = add.reduce(add.accumulate(x, axis=-2)[..., -1, :], axis=-1)
        else:
            found = add.accumulate(x, axis=-1)[..., -1]
        return np.asarray(found, np.float64)

    def _scan(
        self, kind: str, name: str, lo: Labelled, hi: Labelled, f: Fold, frame: Frame
    ) -> Labelled:
        if kind not in ("sum", "prod") or f.term.kind != "real":
            return super()._scan(kind, name, lo, hi, f, frame)
        if not lo.data.size or not hi.data.size:
            return super()._scan(kind, name, lo, hi, f, frame)
        first, last = int(lo.data.min()), max(int(lo.data.min()), int(hi.data.max()))
        inner = frame.bind({name: Range(first, last)}, f.guard)
        value = self.evaluate(f.term, inner)
        if f.guard is not TRUE:
            value = self._guarded(kind, f.guard, value, inner)
        rest = tuple(n for n in value.names if n != name)
        data = expand(value, (name, *rest))
        data = np.broadcast_to(data, (last - first, *data.shape[1:])).astype(np.float32)
        moving, reverse = (hi, False) if hi.names else (lo, True)
        if reverse:
            data = data[::-1]
        start = np.full((1, *data.shape[1:]), neutral_value(kind, data.dtype), np.float32)
        table = np.concatenate([start, ACCUMULATE[kind].accumulate(data, axis=0)])
        if reverse:
            table = table[::-1]
        at = Labelled(moving.names, np.clip(moving.data - first, 0, last - first))
        return take(Labelled((name, *rest), table.astype(np.float64)), name, at)
