"""Reductions of the vectorised evaluator: which form a fold has, and how that form is computed.

A contraction becomes matrix products, a bound that moves over one sequence a scan, a guard
`key == v` a scatter, ranges that differ per element a ragged reduction; everything else is dense,
in blocks. Each form has the literal meaning and is tested against `opwright.ir.scalar`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from opwright.ir.expr import (
    TRUE,
    Expr,
    Fold,
    affine,
    call,
    conjunction,
    conjuncts,
    const,
    free_vars,
    reduction,
    var,
)
from opwright.ir.frames import BLOCK, NUMPY_KIND, Frame, Range, blocks
from opwright.ir.labelled import (
    ACCUMULATE,
    Array,
    Labelled,
    accumulate,
    apply,
    contract,
    expand,
    neutral_value,
    reduce_names,
    scalar,
    take,
    union,
)
from opwright.ir.ranking import ranks, recognise
from opwright.ir.semantics import ARG_FOLDS, MONOIDS, ROWS


class Folds:
    """The fold half of `opwright.ir.evaluator.Evaluator`, which supplies the values of terms."""

    def __init__(self) -> None:
        self._folds: dict[tuple[Any, ...], Labelled] = {}

    def evaluate(self, e: Expr, frame: Frame) -> Labelled:
        """The value of an expression over the axes of its free variables."""
        raise AssertionError(f"{type(self).__name__} evaluates nothing: {e}")

    def _eval(self, e: Expr, frame: Frame) -> Labelled:
        return self.evaluate(e, frame)

    def fold(self, e: Expr, frame: Frame) -> Labelled:
        key: tuple[Any, ...] | None = None
        ranges = []
        for name in sorted(free_vars(e)):
            v = frame.variables[name]
            if not isinstance(v, Range):
                break
            ranges.append((name, v.lo, v.hi))
        else:
            if not frame.states:
                key = (e, tuple(ranges))
        if key in self._folds and key is not None:
            return self._folds[key]
        f = Fold(e)
        if f.kind is None:
            out = self._derived(f, frame)
        elif f.kind in ARG_FOLDS:
            out = self._arg(f, frame)
        else:
            out = self._monoid(f, frame)
        if key is not None and out.data.size <= BLOCK // 16:
            if len(self._folds) >= 64:
                self._folds.clear()
            self._folds[key] = out
        return out

    def _monoid(self, f: Fold, frame: Frame) -> Labelled:
        kind = f.kind
        assert kind is not None
        for k, (low, high) in enumerate(f.ranges):
            if (free_vars(low) | free_vars(high)) & set(f.binders[:k]):
                return self._nested(f, tuple(range(k)), frame)
        bounds = [(self._eval(lo, frame), self._eval(hi, frame)) for lo, hi in f.ranges]
        varying = [k for k, (lo, hi) in enumerate(bounds) if lo.names or hi.names]
        if not varying:
            fixed = [(int(lo.data), int(hi.data)) for lo, hi in bounds]
            return self._fixed(kind, f.binders, fixed, f.guard, f.term, frame)
        if len(f.binders) > 1:
            return self._nested(f, (varying[0],), frame)
        lo, hi = bounds[0]
        name = f.binders[0]
        if not (free_vars(f.term) | free_vars(f.guard)) & self._names(frame, lo, hi):
            if not lo.names or not hi.names:
                return self._scan(kind, name, lo, hi, f, frame)
        gap = apply(np.subtract, hi, lo)
        lengths = np.maximum(gap.data, 0)
        if not lengths.any():
            dtype = NUMPY_KIND[f.term.kind]
            empty: Array = np.full(lengths.shape, neutral_value(kind, np.dtype(dtype)), dtype)
            return Labelled(gap.names, empty)
        first, last = int(lo.data.min()), int(hi.data.max())
        if last - first <= 4 * max(16, float(lengths.mean())):
            guard = conjunction([
                call("le", f.ranges[0][0], var(name)),
                call("lt", var(name), f.ranges[0][1]),
                *conjuncts(f.guard),
            ])  # fmt: skip
            return self._dense(kind, f.binders, [(first, last)], guard, f.term, frame)
        return self._ragged(kind, name, lo, hi, f, frame)

    def _names(self, frame: Frame, *parts: Labelled) -> set[str]:
        """Variables whose values run along an axis of these arrays."""
        names = set(union(parts))
        out = set()
        for n, v in frame.variables.items():
            if (n in names) if isinstance(v, Range) else (names & set(v.names)):
                out.add(n)
        return out

    def _nested(self, f: Fold, first: tuple[int, ...], frame: Frame) -> Labelled:
        """Split a reduction so that the binders `first` run outside the others."""
        assert f.kind is not None
        rest = [k for k in range(len(f.binders)) if k not in first]

        def pick(items: tuple[Any, ...], ks: Sequence[int]) -> tuple[Any, ...]:
            return tuple(items[k] for k in ks)

        inner = reduction(
            f.kind, pick(f.binders, rest), pick(f.ranges, rest), f.term, f.guard, f.attr.acc
        )
        outer = reduction(f.kind, pick(f.binders, first), pick(f.ranges, first), inner)
        return self._monoid(Fold(outer), frame)

    def _fixed(
        self,
        kind: str,
        binders: tuple[str, ...],
        ranges: list[tuple[int, int]],
        guard: Expr,
        term: Expr,
        frame: Frame,
    ) -> Labelled:
        """A reduction over ranges that no variable moves."""
        if any(hi <= lo for lo, hi in ranges):
            dtype = NUMPY_KIND[term.kind]
            return scalar(dtype(neutral_value(kind, np.dtype(dtype))))
        if guard is not TRUE:
            counted = self._rank(kind, binders, ranges, guard, term, frame)
            if counted is not None:
                return counted
            scattered = self._scatter(kind, binders, ranges, guard, term, frame)
            if scattered is not None:
                return scattered
        if kind == "sum" and term.kind != "bool":
            factors = _factors(term)
            if sum(1 for x in factors if free_vars(x) & set(binders)) > 1:
                product_sum = self._contraction(binders, ranges, guard, factors, frame)
                if product_sum is not None:
                    return product_sum
        return self._dense(kind, binders, ranges, guard, term, frame)

    def _rank(
        self,
        kind: str,
        binders: tuple[str, ...],
        ranges: list[tuple[int, int]],
        guard: Expr,
        term: Expr,
        frame: Frame,
    ) -> Labelled | None:
        """A count of what comes before an element in a sorted order."""
        if kind != "sum" or len(binders) != 1 or guard.op != "or":
            return None
        lo, hi = ranges[0]
        form = recognise(Fold(reduction(kind, binders, ((const(lo), const(hi)),), term, guard)))
        if form is None:
            return None
        place = frame.variables.get(form.element)
        if not isinstance(place, Range) or place.lo < lo or place.hi > hi:
            return None
        keys = self.evaluate(form.key, frame.bind({form.other: Range(lo, hi)}))
        if keys.data.size > 4 * BLOCK or form.other not in keys.names:
            return None
        found = ranks(keys, form.other, form.descending, form.nan)
        if found is None:
            return None
        names = tuple(n for n in keys.names if n != form.other)
        cut = found[..., place.lo - lo : max(place.lo, place.hi) - lo] * term.attr
        return Labelled((*names, form.element), cut)

    def _dense(
        self,
        kind: str,
        binders: tuple[str, ...],
        ranges: list[tuple[int, int]],
        guard: Expr,
        term: Expr,
        frame: Frame,
    ) -> Labelled:
        outer = frame.extents(guard, term, without=binders)
        combine = ROWS[MONOIDS[kind].row].concrete
        total: Labelled | None = None
        for box in blocks(ranges, int(np.prod(list(outer.values()), dtype=np.float64))):
            inner = frame.bind({b: Range(*r) for b, r in zip(binders, box, strict=True)}, guard)
            value = self.evaluate(term, inner)
            if guard is not TRUE:
                value = self._guarded(kind, guard, value, inner)
            extents = {b: hi - lo for b, (lo, hi) in zip(binders, box, strict=True)}
            part = reduce_names(kind, value, extents)
            total = part if total is None else apply(combine, total, part)
        assert total is not None
        return total

    def _guarded(self, kind: str, guard: Expr, value: Labelled, frame: Frame) -> Labelled:
        mask = self.evaluate(guard, Frame(frame.variables, frame.path[:-1], frame.states))
        empty = scalar(neutral_value(kind, value.data.dtype))
        return apply(np.where, mask, value, empty)

    def _contraction(
        self,
        binders: tuple[str, ...],
        ranges: list[tuple[int, int]],
        guard: Expr,
        factors: list[Expr],
        frame: Frame,
    ) -> Labelled | None:
        """A sum of a product; None where a guard would have to hide an infinity or a NaN."""
        outer = max(
            float(np.prod(list(frame.extents(x, without=binders).values()), dtype=np.float64))
            for x in factors
        )
        total: Labelled | None = None
        for box in blocks(ranges, int(outer)):
            inner = frame.bind({b: Range(*r) for b, r in zip(binders, box, strict=True)}, guard)
            values = [self.evaluate(x, inner) for x in factors]
            if guard is not TRUE:
                mask = self.evaluate(guard, Frame(inner.variables, frame.path, frame.states))
                if not all(np.isfinite(v.data).all() for v in values):
                    return None
                home = [k for k, v in enumerate(values) if set(mask.names) <= set(v.names)]
                if home:
                    values[home[0]] = apply(np.where, mask, values[home[0]], scalar(0.0))
                else:
                    values.append(Labelled(mask.names, mask.data.astype(values[0].data.dtype)))
            extents = {b: hi - lo for b, (lo, hi) in zip(binders, box, strict=True)}
            part = contract(values, extents)
            total = part if total is None else apply(np.add, total, part)
        return total

    def _scan(
        self, kind: str, name: str, lo: Labelled, hi: Labelled, f: Fold, frame: Frame
    ) -> Labelled:
        """A bound that moves over one fixed sequence: prefixes (or suffixes) are looked up."""
        if not lo.data.size or not hi.data.size:
            return apply(lambda a, b: np.zeros((a + b).shape, NUMPY_KIND[f.term.kind]), lo, hi)
        first, last = int(lo.data.min()), max(int(lo.data.min()), int(hi.data.max()))
        inner = frame.bind({name: Range(first, last)}, f.guard)
        value = self.evaluate(f.term, inner)
        if f.guard is not TRUE:
            value = self._guarded(kind, f.guard, value, inner)
        if name not in value.names:
            wide = np.broadcast_to(value.data, (last - first, *value.data.shape))
            value = Labelled((name, *value.names), wide)
        moving, reverse = (hi, False) if hi.names else (lo, True)
        table = accumulate(kind, value, name, reverse)
        at = Labelled(moving.names, np.clip(moving.data - first, 0, last - first))
        return take(table, name, at)

    def _ragged(
        self, kind: str, name: str, lo: Labelled, hi: Labelled, f: Fold, frame: Frame
    ) -> Labelled:
        """Ranges that differ per element, laid out one after the other and reduced by segment."""
        names = union((lo, hi))
        start = np.broadcast_arrays(expand(lo, names), expand(hi, names))
        shape = start[0].shape
        begin = start[0].reshape(-1)
        lengths = np.maximum(start[1].reshape(-1) - begin, 0)
        moved = {}
        for n in self._names(frame, lo, hi):
            lab = self._eval(var(n), frame)
            missing = [x for x in lab.names if x not in names]
            wide = expand(lab, (*names, *missing))
            tail = wide.shape[len(names) :]
            wide = np.broadcast_to(wide, (*shape, *tail)).reshape(-1, *tail)
            moved[n] = (wide, tuple(missing))
        flat = f"#{name}"
        outer = frame.extents(f.term, without=(name, *moved))
        room = max(1, BLOCK // max(1, int(np.prod(list(outer.values()), dtype=np.float64))))
        parts: list[Labelled] = []
        ends = np.cumsum(lengths)
        at = 0
        while at < len(begin):
            base = int(ends[at] - lengths[at])
            stop = max(at + 1, int(np.searchsorted(ends, base + room, side="right")))
            count = lengths[at:stop]
            owner = np.repeat(np.arange(at, stop), count)
            offsets = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
            variables: dict[str, Range | Labelled] = {
                n: Labelled((flat, *rest), wide[owner]) for n, (wide, rest) in moved.items()
            }
            variables[name] = Labelled((flat,), begin[owner] + offsets)
            inner = frame.bind(variables, f.guard)
            value = self.evaluate(f.term, inner)
            if f.guard is not TRUE:
                value = self._guarded(kind, f.guard, value, inner)
            others = tuple(n for n in value.names if n != flat)
            data = expand(value, (flat, *others))
            data = np.broadcast_to(data, (len(owner), *data.shape[1:]))
            empty = neutral_value(kind, data.dtype)
            out = np.full((len(count), *data.shape[1:]), empty, data.dtype)
            filled = np.flatnonzero(count)
            if len(filled):
                heads = (np.cumsum(count) - count)[filled]
                out[filled] = ACCUMULATE[kind].reduceat(data, heads, axis=0)
            parts.append(Labelled((flat, *others), out))
            at = stop
        data = np.concatenate([p.data for p in parts])
        return Labelled((*names, *parts[0].names[1:]), data.reshape(*shape, *data.shape[1:]))

    def _scatter(
        self,
        kind: str,
        binders: tuple[str, ...],
        ranges: list[tuple[int, int]],
        guard: Expr,
        term: Expr,
        frame: Frame,
    ) -> Labelled | None:
        """A guard `key == v` with an outer variable v: an element goes to the v that it names."""
        rest = conjuncts(guard)
        keys: dict[str, Expr] = {}
        for part in list(rest):
            found = _solve(part, binders, frame, keys)
            if found is not None:
                keys[found[0]] = found[1]
                rest.remove(part)
        if not keys:
            return None
        used = free_vars(term).union(*(free_vars(p) for p in rest), *map(free_vars, keys.values()))
        if used & set(keys):
            return None
        remaining = conjunction(rest)
        spans: dict[str, tuple[int, int]] = {}
        for v in keys:
            r = frame.variables[v]
            assert isinstance(r, Range)
            spans[v] = (r.lo, r.hi)
        outer = frame.extents(remaining, term, *keys.values(), without=binders)
        shape = [*outer.values(), *(hi - lo for lo, hi in spans.values())]
        dtype = NUMPY_KIND[term.kind]
        out: Array = np.full(shape, neutral_value(kind, np.dtype(dtype)), dtype)
        for box in blocks(ranges, int(np.prod(list(outer.values()), dtype=np.float64))):
            inner = frame.bind({b: Range(*r) for b, r in zip(binders, box, strict=True)}, remaining)
            names = (*binders, *outer)
            extent = [hi - lo for lo, hi in box] + list(outer.values())
            keep = np.ones(extent, bool)
            if remaining is not TRUE:
                plain = Frame(inner.variables, frame.path, frame.states)
                keep &= expand(self.evaluate(remaining, plain), names)
            index: list[Array] = [
                np.broadcast_to(np.arange(s).reshape([-1 if n == m else 1 for m in names]), extent)
                for n, s in outer.items()
            ]
            for v, key in keys.items():
                at = expand(self.evaluate(key, inner), names) - spans[v][0]
                keep &= (at >= 0) & (at < spans[v][1] - spans[v][0])
                index.append(np.broadcast_to(at, extent))
            value = np.broadcast_to(expand(self.evaluate(term, inner), names), extent)
            where = tuple(i[keep] for i in index)
            ACCUMULATE[kind].at(out, where, value[keep])
        return Labelled((*outer, *spans), out)

    def _arg(self, f: Fold, frame: Frame) -> Labelled:
        """argmax or argmin: the first NaN, else the smallest index of the best; -1 of nothing."""
        name = f.binders[0]
        low, high = (self._eval(b, frame) for b in f.ranges[0])
        if not low.names and not high.names:
            where = self._first_where(f, int(low.data), int(high.data), frame)
            if where is not None:
                return where
        if not low.data.size or not high.data.size:
            return apply(lambda a, b: np.full((a + b).shape, -1), low, high)
        lo, hi = int(low.data.min()), int(high.data.max())
        if low.names or high.names:
            # a moving range becomes a fixed one with a guard
            inside = [call("le", f.ranges[0][0], var(name)), call("lt", var(name), f.ranges[0][1])]
            guard = conjunction([*inside, *conjuncts(f.guard)])
            assert f.kind is not None
            wide = reduction(f.kind, f.binders, ((const(lo), const(hi)),), f.term, guard)
            return self._arg(Fold(wide), frame)
        kind = ARG_FOLDS[str(f.kind)]
        better = np.greater if kind == "max" else np.less
        best: Labelled | None = None
        at = scalar(np.int64(-1))
        outer = frame.extents(f.term, f.guard, without=(name,))
        for (box,) in blocks([(lo, hi)], int(np.prod(list(outer.values()), dtype=np.float64))):
            inner = frame.bind({name: Range(*box)}, f.guard)
            value = self.evaluate(f.term, inner)
            mask = self.evaluate(f.guard, Frame(inner.variables, frame.path, frame.states))
            names = tuple(n for n in union((value, mask)) if n != name)
            data, allowed = np.broadcast_arrays(
                expand(value, (*names, name)), expand(mask, (*names, name))
            )
            if name not in value.names and name not in mask.names:
                shape = (*data.shape[:-1], box[1] - box[0])
                data, allowed = np.broadcast_to(data, shape), np.broadcast_to(allowed, shape)
            masked = np.where(allowed, data, neutral_value(kind, data.dtype))
            pick = (np.argmax if kind == "max" else np.argmin)(masked, axis=-1)
            chosen = np.take_along_axis(allowed, pick[..., None], -1)[..., 0]
            pick = np.where(chosen, pick, np.argmax(allowed, axis=-1))
            found = np.take_along_axis(data, pick[..., None], -1)[..., 0]
            new = Labelled(names, found)
            place = Labelled(names, np.where(allowed.any(axis=-1), pick + box[0], -1))
            if best is None:
                best, at = new, place
                continue

            def replaces(old: Array, i: Array, fresh: Array, j: Array) -> Array:
                nan = np.isnan(fresh) & ~np.isnan(old) if fresh.dtype.kind == "f" else False
                return (j >= 0) & ((i < 0) | better(fresh, old) & ~_isnan(old) | nan)

            swap = apply(replaces, best, at, new, place)
            best, at = apply(np.where, swap, new, best), apply(np.where, swap, place, at)
        return at

    def _first_where(self, f: Fold, lo: int, hi: int, frame: Frame) -> Labelled | None:
        """The first index at which a key equals an outer variable, without trying all pairs."""
        term = f.term
        if f.guard is not TRUE or term.op != "select" or term.kind != "int" or hi <= lo:
            return None
        c, yes, no = term.args
        if yes.op != "const" or no.op != "const" or yes.attr == no.attr:
            return None
        if (yes.attr > no.attr) != (f.kind == "argmax"):
            return None
        found = _solve(c, f.binders, frame, {})
        if found is None:
            return None
        v, key = found
        span = frame.variables[v]
        outer = frame.extents(key, without=f.binders)
        if not isinstance(span, Range) or int(np.prod([hi - lo, *outer.values()])) > 4 * BLOCK:
            return None
        if v in outer or span.hi - span.lo < 8:
            return None
        names = (*outer, f.binders[0])
        keys = expand(self.evaluate(key, frame.bind({f.binders[0]: Range(lo, hi)})), names)
        keys = np.broadcast_to(keys, (*outer.values(), hi - lo)).reshape(-1, hi - lo)
        out: Array = np.full((keys.shape[0], span.hi - span.lo), hi, np.int64)
        row, column = np.nonzero((keys >= span.lo) & (keys < span.hi))
        np.minimum.at(out, (row, keys[row, column] - span.lo), column + lo)
        out = np.where(out == hi, lo, out).reshape(*outer.values(), -1)
        return Labelled((*outer, v), out)

    def _derived(self, f: Fold, frame: Frame) -> Labelled:
        """A fold with its own state: element after element, vectorised over the other axes."""
        start = f.init
        n = len(f.attr.states)
        states = {s: self._eval(i, frame) for s, i in zip(f.attr.states, start, strict=True)}

        def run(k: int, variables: dict[str, Range | Labelled]) -> None:
            here = frame.bind(variables)
            if k < len(f.binders):
                lo, hi = (self._eval(b, here) for b in f.ranges[k])
                if not lo.data.size or not hi.data.size:
                    return
                for value in range(int(lo.data.min()), int(hi.data.max())):
                    run(k + 1, {**variables, f.binders[k]: scalar(np.int64(value))})
                return
            conditions = [f.guard]
            for b, (lo_e, hi_e) in zip(f.binders, f.ranges, strict=True):
                conditions += [call("le", lo_e, var(b)), call("lt", var(b), hi_e)]
            guard = conjunction(conditions)
            inner = frame.bind(variables, guard)
            inner.states = {**frame.states, **states}
            take_step = self.evaluate(guard, Frame(inner.variables, frame.path, inner.states))
            if not np.any(take_step.data):
                return
            new = [self.evaluate(step, inner) for step in f.step[:n]]
            for s, value_ in zip(f.attr.states, new, strict=True):
                states[s] = apply(np.where, take_step, value_, states[s])

        run(0, {})
        last = Frame(frame.variables, frame.path, {**frame.states, **states})
        return self.evaluate(f.finish, last)


def _factors(e: Expr) -> list[Expr]:
    """The factors of a product; float casts are the identity."""
    while e.op == "cast" and e.kind == "real":
        e = e.args[0]
    return _factors(e.args[0]) + _factors(e.args[1]) if e.op == "mul" else [e]


def _solve(
    part: Expr, binders: tuple[str, ...], frame: Frame, taken: Mapping[str, Expr]
) -> tuple[str, Expr] | None:
    """(v, key) when the condition says v == key for an outer variable v and a key without it."""
    if part.op != "eq" or part.args[0].kind != "int":
        return None
    form = affine(part.args[0] - part.args[1])
    if form is None or not free_vars(part) & set(binders):
        return None
    for leaf, factor in form.items():
        if leaf is None or leaf.op != "var" or abs(factor) != 1 or leaf.attr in taken:
            continue
        v = leaf.attr
        rest = [x for x in form if x is not None and x is not leaf]
        if v in binders or not isinstance(frame.variables.get(v), Range):
            continue
        if any(v in free_vars(x) for x in rest):
            continue
        key: Expr = const(-factor * form.get(None, 0))
        for x in rest:
            key = key + x * (-factor * form[x])
        return v, key
    return None


def _isnan(x: Array) -> Array:
    return np.isnan(x) if x.dtype.kind == "f" else np.zeros(x.shape, bool)
