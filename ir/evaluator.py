"""Vectorised float64 meaning of expressions and tensor definitions over concrete sizes.

Expressions become arrays whose axes are index variables; `opwright.ir.folding` computes the folds,
and everything runs in blocks within a memory budget. Nothing is read out of range: a read with a
fill gets the fill, any other one raises `MeaningError` where its path holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any

import numpy as np

from opwright.ir.dtypes import DType, decode, encode
from opwright.ir.expr import LEAVES, Expr, read_parts, show, substitute, var
from opwright.ir.folding import Folds
from opwright.ir.frames import NUMPY_KIND, RESIDENT, Frame, Range, blocks
from opwright.ir.labelled import Array, Labelled, apply, expand, scalar, union
from opwright.ir.op import Operator, Tensor
from opwright.ir.semantics import ROWS


class MeaningError(ValueError):
    """The operator has no value for these inputs: a read out of range, an impossible size."""


class Evaluator(Folds):
    """Evaluates one operator's tensors on concrete inputs; `arrays` holds what is known so far."""

    kinds: Mapping[str, Any] = NUMPY_KIND  # numpy types of the data

    def __init__(self, op: Operator, env: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        super().__init__()
        self.op, self.env = op, dict(env)
        self.arrays: dict[str, Array] = dict(arrays)
        self.tensors = {t.name: t for t in (*op.inputs, *op.tensors)}
        self.box: dict[str, tuple[tuple[int, int], ...]] = {}
        self._regions: dict[tuple[Any, ...], Array] = {}
        self._running: dict[str, int] = {}  # tensors of the recurrence in progress -> t
        with np.errstate(all="ignore"):
            for t in self.tensors.values():
                self.box[t.name] = tuple((self.number(a.lo), self.number(a.hi)) for a in t.axes)

    # -- tensors ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Compute every tensor, large locals excepted."""
        with np.errstate(all="ignore"):
            for t in self.op.tensors:
                if t.name in self.arrays:
                    continue
                if t.recurrence:
                    self._recur([self.tensors[n] for n in t.recurrence.group])
                elif t.role == "output" or self._count(t) <= RESIDENT:
                    self.arrays[t.name] = self._whole(t)

    def add(self, name: str, array: Array) -> None:
        """Make an array readable under a name that the operator does not have."""
        self.arrays[name] = array
        self.box[name] = tuple((0, s) for s in array.shape)

    def define(self, t: Tensor) -> Array:
        """Compute a definition that is not part of the operator and make it readable."""
        with np.errstate(all="ignore"):
            self.tensors[t.name] = t
            self.box[t.name] = tuple((self.number(a.lo), self.number(a.hi)) for a in t.axes)
            self.arrays[t.name] = self._whole(t)
        return self.arrays[t.name]

    def number(self, e: Expr) -> int:
        """The value of an integer expression over sizes and params."""
        return int(self.evaluate(e, Frame({})).data)

    def _count(self, t: Tensor) -> int:
        n = 1
        for lo, hi in self.box[t.name]:
            n *= max(0, hi - lo)
        return n

    def _whole(self, t: Tensor) -> Array:
        box = self.box[t.name]
        if any(hi < lo for lo, hi in box):
            raise MeaningError(f"{t.name} has a negative extent: {box}")
        return self._region(t, box)

    def _region(self, t: Tensor, box: tuple[tuple[int, int], ...]) -> Array:
        """The elements of a definition in a box, computed in chunks of its leading axes."""
        assert t.body is not None
        out: Array = np.empty([hi - lo for lo, hi in box], self.kinds[t.kind])
        names = [a.name for a in t.axes]
        self._folds.clear()
        for chunk in blocks(list(box), 1):
            frame = Frame({n: Range(*r) for n, r in zip(names, chunk, strict=True)})
            value = expand(self.evaluate(t.body, frame), names)
            at = tuple(slice(a - lo, b - lo) for (a, b), (lo, _) in zip(chunk, box, strict=True))
            out[at] = value
        return out

    def _recur(self, group: list[Tensor]) -> None:
        """Run a recurrence step by step, vectorised over the other axes."""
        steps = set()
        for t in group:
            self.arrays[t.name] = np.zeros(
                [h - lo for lo, h in self.box[t.name]], self.kinds[t.kind]
            )
            steps.add(self.box[t.name][_time_axis(t)])
        if len(steps) != 1:
            raise MeaningError("tensors that recur together run over different ranges")
        first, last = steps.pop()
        for step in range(first, last):
            self._folds.clear()
            for t in group:
                self._running[t.name] = step
            for t in group:
                assert t.body is not None and t.recurrence is not None
                when = _time_axis(t)
                frame = Frame(
                    {
                        a.name: scalar(step) if k == when else Range(*r)
                        for k, (a, r) in enumerate(zip(t.axes, self.box[t.name], strict=True))
                    }
                )
                names = [a.name for k, a in enumerate(t.axes) if k != when]
                value = expand(self.evaluate(t.body, frame), names)
                at = tuple(step - first if k == when else slice(None) for k in range(len(t.axes)))
                self.arrays[t.name][at] = value
        for t in group:
            self._running.pop(t.name, None)

    # -- expressions ------------------------------------------------------------------------------

    def evaluate(self, e: Expr, frame: Frame) -> Labelled:
        """The value of an expression over the axes of its free variables."""
        if e.args:
            frame.shared |= _shared(e)
        return self._eval(e, frame)

    def _eval(self, e: Expr, frame: Frame) -> Labelled:
        if e.op == "const":
            return Labelled((), self.literal(e.attr, e.kind))
        if e.op == "var":
            v = frame.variables[e.attr]
            return Labelled((e.attr,), np.arange(v.lo, v.hi)) if isinstance(v, Range) else v
        if e.op == "state":
            return frame.states[e.attr]
        if e.op in LEAVES:
            return Labelled((), self.literal(self.env[e.attr], e.kind))
        key = (e, frame.path)
        if key in frame.memo:
            return frame.memo[key]
        out = self._node(e, frame)
        if e in frame.shared:
            frame.memo[key] = out
        return out

    def _node(self, e: Expr, frame: Frame) -> Labelled:
        if e.op == "read":
            return self._read(e, frame)
        if e.op == "fold":
            return self.fold(e, frame)
        if e.op == "select":
            return self._select(e, frame)
        if e.op == "cast":
            return self._eval(e.args[0], frame)
        if e.op == "round":
            x = self._eval(e.args[0], frame)
            return Labelled(x.names, self.rounded(x.data, e.attr))
        return self.row(e.op, [self._eval(a, frame) for a in e.args])

    # -- numbers ----------------------------------------------------------------------------------

    def literal(self, value: Any, kind: str) -> Array:
        return np.asarray(value, NUMPY_KIND[kind])

    def row(self, op: str, args: list[Labelled]) -> Labelled:
        return apply(ROWS[op].concrete, *args)

    def rounded(self, x: Array, to: DType) -> Array:
        return decode(encode(x, to), to).reshape(x.shape)

    def _select(self, e: Expr, frame: Frame) -> Labelled:
        condition, then, other = e.args
        c = self._eval(condition, frame)
        sides = []
        for branch, truth in ((then, True), (other, False)):
            if c.data.size and not np.any(c.data == truth):
                continue
            inner = Frame(
                frame.variables, (*frame.path, (condition, truth)), frame.states,
                frame.memo, frame.shared,
            )  # fmt: skip
            sides.append(self._eval(branch, inner))
        return sides[0] if len(sides) == 1 else apply(np.where, c, *sides)

    # -- reads ------------------------------------------------------------------------------------

    def _read(self, e: Expr, frame: Frame) -> Labelled:
        name, index, fill = read_parts(e)
        tensor = self.tensors.get(name)
        if name in self._running and tensor is not None:
            initial = self._initial(tensor, index, frame)
            if initial is not None:
                return initial
        positions = [self._position(i, frame) for i in index]
        box = self.box[name]
        if name not in self.arrays:
            assert tensor is not None
            box = self._demand(box, positions)
            key = (name, box)
            if key not in self._regions:
                if len(self._regions) >= 4:
                    self._regions.pop(next(iter(self._regions)))
                self._regions[key] = self._lazy(tensor, box)
            data = self._regions[key]
        else:
            data = self.arrays[name]
        inside = [
            None if _within(p, lo, hi) else _inside(p, *whole)
            for p, (lo, hi), whole in zip(positions, box, self.box[name], strict=True)
        ]
        outside = [i for i in inside if i is not None]
        if outside and fill is None:
            self._refuse(e, positions, outside, frame)
        if 0 in data.shape:
            names = union([_labelled(p) for p in positions])
            extents = {n: s for p in map(_labelled, positions)
                       for n, s in zip(p.names, p.data.shape, strict=True)}  # fmt: skip
            value = Labelled(names, np.zeros([extents[n] for n in names], self.kinds[e.kind]))
        else:
            value = _gather(data, positions, box)
        if outside and fill is not None:
            ok = apply(lambda *a: reduce(np.logical_and, a), *outside)
            value = apply(np.where, ok, value, self._eval(fill, frame))
        return value

    def _position(self, e: Expr, frame: Frame) -> Range | Labelled:
        """A plain variable stays a range, so that its axis is sliced and not gathered."""
        if e.op == "var":
            v = frame.variables[e.attr]
            return _Named(v.lo, v.hi, e.attr) if isinstance(v, Range) else v
        return self._eval(e, frame)

    def _lazy(self, t: Tensor, box: tuple[tuple[int, int], ...]) -> Array:
        folds, self._folds = self._folds, {}
        out = self._region(t, box)
        self._folds = folds
        return out

    def _demand(
        self, whole: tuple[tuple[int, int], ...], positions: list[Range | Labelled]
    ) -> tuple[tuple[int, int], ...]:
        """The smallest box of a tensor that holds every position read, cut to its range."""
        out = []
        for (lo, hi), p in zip(whole, positions, strict=True):
            if isinstance(p, Range):
                a, b = p.lo, p.hi
            else:
                a, b = (int(p.data.min()), int(p.data.max()) + 1) if p.data.size else (lo, lo)
            a = min(max(a, lo), hi)
            out.append((a, max(a, min(b, hi))))
        return tuple(out)

    def _initial(self, t: Tensor, index: tuple[Expr, ...], frame: Frame) -> Labelled | None:
        """The `init` of a recurrence when a read at t - 1 stands at the first step."""
        assert t.recurrence is not None
        when = _time_axis(t)
        at = self._eval(index[when], frame)
        if at.data.size and int(at.data.min()) >= self.box[t.name][when][0]:
            return None
        mapping = {var(a.name): i for a, i in zip(t.axes, index, strict=True)}
        return self._eval(substitute(t.recurrence.init, mapping), frame)

    def _refuse(
        self,
        e: Expr,
        positions: list[Range | Labelled],
        outside: list[Labelled],
        frame: Frame,
    ) -> None:
        """Raise when a read leaves its tensor where its path condition holds."""
        bad = apply(lambda *a: ~reduce(np.logical_and, a), *outside)
        if not np.any(bad.data):
            return
        for condition, truth in frame.path:
            inner = Frame(frame.variables, (), frame.states)
            bad = apply(lambda b, c, t=truth: b & (c == t), bad, self.evaluate(condition, inner))
            if not np.any(bad.data):
                return
        where = np.unravel_index(int(np.argmax(bad.data)), bad.data.shape)
        at = []
        for p in positions:
            lab = _labelled(p)
            pick = tuple(where[bad.names.index(n)] if n in bad.names else 0 for n in lab.names)
            at.append(int(lab.data[pick]) if lab.data.size else 0)
        name, _, _ = read_parts(e)
        shape = ", ".join(f"{lo}..{hi}" for lo, hi in self.box[name])
        raise MeaningError(f"read {name}[{', '.join(map(str, at))}] outside {shape} (in {show(e)})")


@dataclass(frozen=True, slots=True)
class _Named(Range):
    """A range together with the variable that runs over it."""

    name: str = ""


def _labelled(p: Range | Labelled) -> Labelled:
    if isinstance(p, Labelled):
        return p
    assert isinstance(p, _Named)
    return Labelled((p.name,), np.arange(p.lo, p.hi))


def _within(p: Range | Labelled, lo: int, hi: int) -> bool:
    if isinstance(p, Range):
        return p.lo >= p.hi or (lo <= p.lo and p.hi <= hi)
    return not p.data.size or bool(lo <= p.data.min() and p.data.max() < hi)


def _inside(p: Range | Labelled, lo: int, hi: int) -> Labelled:
    return apply(lambda i: (lo <= i) & (i < hi), _labelled(p))


def _gather(
    data: Array, positions: list[Range | Labelled], box: tuple[tuple[int, int], ...]
) -> Labelled:
    """Elements at the positions, which are clipped into the box; plain ranges become slices."""
    uses: dict[str, int] = {}
    for p in positions:
        for n in (p.name,) if isinstance(p, _Named) else p.names if isinstance(p, Labelled) else ():
            uses[n] = uses.get(n, 0) + 1
    sliced: list[int] = []
    cut: list[Any] = [slice(None)] * len(positions)
    for k, (p, (lo, hi)) in enumerate(zip(positions, box, strict=True)):
        if isinstance(p, _Named) and uses[p.name] == 1 and lo <= p.lo and max(p.lo, p.hi) <= hi:
            cut[k] = slice(p.lo - lo, max(p.lo, p.hi) - lo)
            sliced.append(k)
    view = data[tuple(cut)]
    names = [p.name for k in sliced if isinstance(p := positions[k], _Named)]
    gathered = [k for k in range(len(positions)) if k not in sliced]
    if not gathered:
        return Labelled(tuple(names), view)
    parts = []
    for k in gathered:
        lab, (lo, hi) = _labelled(positions[k]), box[k]
        parts.append(Labelled(lab.names, np.clip(lab.data, lo, hi - 1) - lo))
    at = union(parts)
    view = view.transpose([*sliced, *gathered])
    index = tuple(expand(p, at) for p in parts)
    return Labelled((*names, *at), view[(..., *index)])


def _time_axis(t: Tensor) -> int:
    assert t.recurrence is not None
    return next(k for k, a in enumerate(t.axes) if a.name == t.recurrence.axis)


@lru_cache(maxsize=4096)
def _shared(root: Expr) -> frozenset[Expr]:
    """Inner nodes outside folds that occur more than once, and so are worth keeping."""
    seen: dict[Expr, int] = {}
    stack = [root]
    while stack:
        e = stack.pop()
        if not e.args:
            continue
        seen[e] = seen.get(e, 0) + 1
        if seen[e] == 1 and e.op != "fold":
            stack += e.args
    return frozenset(e for e, n in seen.items() if n > 1)
