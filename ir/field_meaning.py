"""The meaning of an operator over finite fields: the evaluator with other numbers.

Only what a reading of real numbers changes is here. Reductions are literal: every index of the
smallest box around their ranges, what is outside of them or guarded away left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np

from opwright.ir.dtypes import DType, decode, encode
from opwright.ir.evaluator import Evaluator
from opwright.ir.expr import TRUE, Expr, Fold
from opwright.ir.field import REAL, Reals, is_real
from opwright.ir.folding import _factors
from opwright.ir.frames import NUMPY_KIND, Frame, Range
from opwright.ir.labelled import Array, Labelled, apply, expand, neutral_value, union
from opwright.ir.op import Operator
from opwright.ir.semantics import ARG_FOLDS, MONOIDS, ROWS

LARGEST = 1 << 20  # points of one reduction that are looked at together


class TooLarge(ValueError):
    """A reduction has more points than are looked at here."""


class FieldEvaluator(Evaluator):
    """Evaluates an operator's tensors; `arrays` holds inputs as numbers of `reals`."""

    kinds: Mapping[str, Any] = {**NUMPY_KIND, "real": REAL}

    def __init__(
        self, op: Operator, env: Mapping[str, Any], arrays: Mapping[str, Array], reals: Reals
    ) -> None:
        self.reals = reals
        given = {
            t.name: reals.given(arrays[t.name]) if t.kind == "real" else arrays[t.name]
            for t in op.inputs
        }
        super().__init__(op, env, given)

    def literal(self, value: Any, kind: str) -> Array:
        return self.reals.number(value) if kind == "real" else super().literal(value, kind)

    def row(self, op: str, args: list[Labelled]) -> Labelled:
        if not any(is_real(a.data) for a in args) and ROWS[op].result != "r":
            return super().row(op, args)
        return apply(lambda *data: self.reals.row(op, data), *args)

    def rounded(self, x: Array, to: DType) -> Array:
        shadow = self.reals.shadow(x)
        return self.reals.given(decode(encode(shadow, to), to).reshape(shadow.shape))

    # -- folds ------------------------------------------------------------------------------------

    def _monoid(self, f: Fold, frame: Frame) -> Labelled:
        assert f.kind is not None
        boxed = self._boxed(f, frame)
        if boxed is None:
            return Labelled((), self._neutral(f.kind, f.term.kind))
        inner, mask, extents = boxed
        if f.kind == "sum" and f.term.kind == "real" and mask is None:
            found = self._product(f, inner, extents)
            if found is not None:
                return found
        value = self._checked(self.evaluate(f.term, inner), mask, extents)
        neutral = Labelled((), self._neutral(f.kind, f.term.kind))
        if mask is not None:
            value = apply(np.where, mask, value, neutral)
        missing = {n: s for n, s in extents.items() if n not in value.names}
        if missing:
            lanes = Labelled(tuple(missing), np.ones(tuple(missing.values()), bool))
            value = apply(np.where, lanes, value, neutral)
        for n in extents:
            axis = value.names.index(n)
            if is_real(value.data):
                data = self.reals.reduce(f.kind, value.data, axis)
            else:
                data = np.asarray(MONOIDS[f.kind].concrete(value.data, axis=axis))
            value = Labelled(tuple(m for m in value.names if m != n), data)
        return value

    def _neutral(self, kind: str, of: str) -> Array:
        if of == "real":
            return self.reals.literal(float(MONOIDS[kind].neutral or 0))
        dtype = np.dtype(NUMPY_KIND[of])
        return np.asarray(neutral_value(kind, dtype), dtype)

    def _boxed(self, f: Fold, frame: Frame) -> tuple[Frame, Labelled | None, dict[str, int]] | None:
        """The box around a fold's ranges as variables, which of its points count (None: all), and
        its extents; nothing where no point does."""
        inner = frame
        masks: list[Labelled] = []
        extents: dict[str, int] = {}
        for b, ends in zip(f.binders, f.ranges, strict=True):
            lo, hi = (self._eval(e, inner) for e in ends)
            if not lo.data.size or not hi.data.size:
                return None
            first, last = int(lo.data.min()), int(hi.data.max())
            if last <= first:
                return None
            extents[b] = last - first
            inner = inner.bind({b: Range(first, last)})
            if lo.names or hi.names:
                at = Labelled((b,), np.arange(first, last))
                masks.append(apply(lambda i, a, z: (a <= i) & (i < z), at, lo, hi))
        if f.guard is not TRUE:
            # a guard may only be read where the ranges hold; values elsewhere are not looked at
            masks.append(self.evaluate(f.guard, inner))
            inner = inner.bind({}, f.guard)
        if not masks:
            return inner, None, extents
        return inner, apply(lambda *m: reduce(np.logical_and, m), *masks), extents

    def _checked(
        self, value: Labelled, mask: Labelled | None, extents: Mapping[str, int]
    ) -> Labelled:
        count = {n: s for n, s in zip(value.names, value.data.shape, strict=True)} | dict(extents)
        if mask is not None:
            count |= dict(zip(mask.names, mask.data.shape, strict=True))
        if int(np.prod(list(count.values()), dtype=np.float64)) > LARGEST:
            raise TooLarge("a reduction has too many points")
        return value

    def _product(self, f: Fold, inner: Frame, extents: Mapping[str, int]) -> Labelled | None:
        """A sum of a product of two parts as one contraction."""
        factors = _factors(f.term)
        if len(factors) < 2:
            return None
        values = [self.evaluate(x, inner) for x in factors]
        left, right = values[0], values[1]
        for v in values[2:]:  # what is left joins the part that it shares more with
            if set(v.names) <= set(left.names):
                left = self.row("mul", [left, v])
            else:
                right = self.row("mul", [right, v])
        names = union((left, right))
        if not set(extents) <= set(names):
            return None
        rest = tuple(n for n in names if n not in extents)
        letter = {n: chr(97 + k) for k, n in enumerate(names)}
        text = ["".join(letter[n] for n in x) for x in (left.names, right.names, rest)]
        out = self.reals.contract(f"{text[0]},{text[1]}->{text[2]}", left.data, right.data)
        return None if out is None else Labelled(rest, out)

    def _arg(self, f: Fold, frame: Frame) -> Labelled:
        boxed = self._boxed(f, frame)
        if boxed is None:
            return Labelled((), np.asarray(-1))
        inner, mask, extents = boxed
        name = f.binders[0]
        value = self._checked(self.evaluate(f.term, inner), mask, extents)
        parts = [value] if mask is None else [value, mask]
        names = (*(n for n in union(parts) if n != name), name)
        allowed = mask or Labelled((), np.asarray(True))
        x, ok = np.broadcast_arrays(expand(value, names), expand(allowed, names))
        lo = inner.variables[name]
        assert isinstance(lo, Range)
        full = (*x.shape[:-1], extents[name])
        x, ok = np.broadcast_to(x, full), np.broadcast_to(ok, full)
        at = np.broadcast_to(np.arange(lo.lo, lo.hi), full)
        fold = str(f.kind)
        if is_real(x):
            return Labelled(names[:-1], self.reals.extreme(fold, x, at, ok, -1))
        masked = np.where(ok, x, neutral_value(ARG_FOLDS[fold], x.dtype))
        pick = (np.argmax if fold == "argmax" else np.argmin)(masked, axis=-1)
        pick = np.where(np.take_along_axis(ok, pick[..., None], -1)[..., 0], pick, ok.argmax(-1))
        return Labelled(names[:-1], np.where(ok.any(-1), pick + lo.lo, -1))

    def fold(self, e: Expr, frame: Frame) -> Labelled:
        if not set(frame.variables) and not frame.states:
            return super().fold(e, frame)
        f = Fold(e)
        if f.kind is None:
            return self._derived(f, frame)
        return self._arg(f, frame) if f.kind in ARG_FOLDS else self._monoid(f, frame)


__all__ = ["FieldEvaluator", "TooLarge"]
