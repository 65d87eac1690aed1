"""The literal meaning, one element at a time: what the vectorised evaluator is tested against.

Nothing is recognised, reordered or vectorised here; it is slow by design and meant for small sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np

from opwright.ir.binding import InputError, bind, prepare
from opwright.ir.dtypes import decode, encode
from opwright.ir.evaluator import MeaningError
from opwright.ir.expr import LEAVES, Expr, Fold, read_parts, show
from opwright.ir.frames import NUMPY_KIND
from opwright.ir.labelled import Array
from opwright.ir.op import Operator, Tensor
from opwright.ir.semantics import ROWS


def evaluate_scalar(
    op: Operator,
    inputs: Mapping[str, Any],
    params: Mapping[str, Any] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> dict[str, Array]:
    """The outputs as `opwright.ir.reference.reference` returns them, element by element."""
    arrays = prepare(op, inputs)
    run = _Scalar(op, bind(op, arrays, params or {}, sizes or {}), arrays)
    out = {}
    try:
        with np.errstate(all="ignore"):
            for t in op.outputs:
                ranges = run.ranges(t)
                value: Array = np.empty([hi - lo for lo, hi in ranges], NUMPY_KIND[t.kind])
                for at in product(*(range(lo, hi) for lo, hi in ranges)):
                    place = tuple(i - lo for i, (lo, _) in zip(at, ranges, strict=True))
                    value[place] = run.element(t, at)
                out[t.name] = value
    except MeaningError as e:
        raise InputError(f"{op.name}: {e}") from None
    return out


class _Scalar:
    def __init__(self, op: Operator, env: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        self.op, self.env, self.arrays = op, env, arrays
        self.tensors = {t.name: t for t in (*op.inputs, *op.tensors)}
        self.known: dict[tuple[str, tuple[int, ...]], Any] = {}

    def ranges(self, t: Tensor) -> list[tuple[int, int]]:
        return [(int(self.value(a.lo, {})), int(self.value(a.hi, {}))) for a in t.axes]

    def element(self, t: Tensor, at: tuple[int, ...]) -> Any:
        if t.body is None:
            return self.arrays[t.name][at]
        key = (t.name, at)
        if key not in self.known:
            env = {a.name: i for a, i in zip(t.axes, at, strict=True)}
            self.known[key] = self.value(t.body, env)
        return self.known[key]

    def value(self, e: Expr, env: Mapping[str, Any]) -> Any:
        if e.op == "const":
            return NUMPY_KIND[e.kind](e.attr)
        if e.op in LEAVES:
            found = env[e.attr] if e.op in ("var", "state") else self.env[e.attr]
            return NUMPY_KIND[e.kind](found)
        if e.op == "read":
            return self.read(e, env)
        if e.op == "fold":
            return self.fold(Fold(e), env)
        if e.op == "select":
            return self.value(e.args[1 if self.value(e.args[0], env) else 2], env)
        if e.op == "cast":
            return self.value(e.args[0], env)
        if e.op == "round":
            x = np.asarray(self.value(e.args[0], env))
            return decode(encode(x, e.attr), e.attr).reshape(())[()]
        out = ROWS[e.op].concrete(*(np.asarray(self.value(a, env)) for a in e.args))
        return np.asarray(out)[()]

    def read(self, e: Expr, env: Mapping[str, Any]) -> Any:
        name, index, fill = read_parts(e)
        t = self.tensors[name]
        at = tuple(int(self.value(i, env)) for i in index)
        ranges = self.ranges(t)
        if t.recurrence is not None:
            when = [a.name for a in t.axes].index(t.recurrence.axis)
            if at[when] == ranges[when][0] - 1:
                own = {a.name: i for a, i in zip(t.axes, at, strict=True)}
                return self.value(t.recurrence.init, own)
        if all(lo <= i < hi for i, (lo, hi) in zip(at, ranges, strict=True)):
            return self.element(t, tuple(at))
        if fill is None:
            raise MeaningError(f"read {name}{list(at)} outside {ranges} (in {show(e)})")
        return self.value(fill, env)

    def points(self, f: Fold, env: Mapping[str, Any], k: int = 0) -> Iterator[dict[str, Any]]:
        if k == len(f.binders):
            if self.value(f.guard, env):
                yield dict(env)
            return
        lo, hi = (int(self.value(b, env)) for b in f.ranges[k])
        for i in range(lo, hi):
            yield from self.points(f, {**env, f.binders[k]: i}, k + 1)

    def fold(self, f: Fold, env: Mapping[str, Any]) -> Any:
        state = {s: self.value(i, env) for s, i in zip(f.attr.states, f.init, strict=True)}
        for here in self.points(f, env):
            scope = {**here, **state}
            state = {
                s: self.value(step, scope) for s, step in zip(f.attr.states, f.step, strict=True)
            }
        return self.value(f.finish, {**env, **state})
