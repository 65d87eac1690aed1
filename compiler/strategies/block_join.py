"""Kernels between which no data flows as one launch: the program index selects whose part runs.

The first dimension of the grid is the sum of theirs; another one is as long as the longest, and
programs that a part does not have do nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from functools import reduce
from typing import Any

from opwright.ir.expr import ONE, ZERO, Expr, call, conjunction, leaf, maximum, pid, substitute, var
from opwright.ir.tile import (
    Atomic,
    Axis,
    Barrier,
    Check,
    Def,
    Dot,
    For,
    If,
    Kernel,
    Load,
    Placement,
    Scan,
    Stmt,
    Store,
    Value,
    lanes,
    statements,
)

Made = tuple[Kernel, Placement]


def joined(made: Sequence[Made], loose: Collection[str] = ()) -> list[Made]:
    """The launches with neighbours that are independent of each other as one. Grids agree in all
    dimensions but the first; of kernels named in `loose`, they may differ in one more, which one
    of them may lack."""
    out: list[list[Made]] = []
    for one in made:
        if out and all(_together(other, one, loose) for other in out[-1]):
            out[-1].append(one)
        else:
            out.append([one])
    return [_one(group) if len(group) > 1 else group[0] for group in out]


def independent(a: Kernel, b: Kernel) -> bool:
    """Whether neither writes what the other one touches."""
    mine, theirs = (_written(k) for k in (a, b))
    return not (mine & {x.name for x in b.buffers} or theirs & {x.name for x in a.buffers})


def _written(k: Kernel) -> set[str]:
    return {s.buffer.name for s in statements(k.body) if isinstance(s, (Store, Atomic))}


def _together(a: Made, b: Made, loose: Collection[str]) -> bool:
    one, two = a[0], b[0]
    most = 1 if one.name in loose and two.name in loose else 0
    if abs(len(one.grid) - len(two.grid)) > most or one.order != two.order:
        return False
    whole = max(one.grid, two.grid, key=len)
    grids = [[n for n, _ in _placed(k.grid, whole)] for k in (one, two)]
    differ = sum(x is not y for x, y in zip(grids[0][1:], grids[1][1:], strict=True))
    return differ <= most and independent(one, two) and all(_bare(p) for _, p in (a, b))


def _placed(grid: Sequence[Expr], whole: Sequence[Expr]) -> list[tuple[Expr, int | None]]:
    """The extent along every dimension of a longer grid, and which dimension that was."""
    if len(grid) == len(whole):
        return [(n, d) for d, n in enumerate(grid)]
    rest = list(enumerate(grid))[1:]
    out: list[tuple[Expr, int | None]] = [(grid[0], 0)]
    for left, n in zip(range(len(whole) - 1, 0, -1), whole[1:], strict=True):
        if rest and (rest[0][1] is n or len(rest) == left):
            d, own = rest.pop(0)
            out.append((own, d))
        else:
            out.append((ONE, None))
    return out


def _bare(p: Placement) -> bool:
    """Whether a placement speaks of the launch alone."""
    empty = Placement()
    names = [f.name for f in fields(p) if f.name != "launch"]
    return all(getattr(p, n) == getattr(empty, n) for n in names)


def _one(parts: Sequence[Made]) -> Made:
    kernels = [k for k, _ in parts]
    first, longest = kernels[0], max((k.grid for k in kernels), key=len)
    grids = [_placed(k.grid, longest) for k in kernels]
    others = [reduce(_longer, (g[d][0] for g in grids)) for d in range(1, len(longest))]
    copy = _Copy()
    bodies, ends = [], []
    count: Expr = ZERO
    for k, grid in zip(kernels, grids, strict=True):
        at = {pid(old): pid(d) for d, (_, old) in enumerate(grid) if old is not None}
        at[pid(0)] = pid(0) - count if count is not ZERO else pid(0)
        body = copy.of(k, at)
        inside = [
            call("lt", pid(d), n)
            for d, ((n, _), most) in enumerate(zip(grid[1:], others, strict=True), 1)
            if n is not most
        ]
        bodies.append((If(conjunction(inside), body, ()),) if inside else body)
        count = count + k.grid[0]
        ends.append(count)
    whole: tuple[Stmt, ...] = ()
    for body, end in reversed(list(zip(bodies, ends, strict=True))):
        whole = (If(call("lt", pid(0), end), body, whole),) if whole else body
    buffers = {b.name: b for k in kernels for b in k.buffers}
    launch: dict[str, int] = {}
    for _, p in parts:
        launch |= {n: max(v, launch.get(n, 0)) for n, v in p.launch.items()}
    dims = (count, *others)
    kernel = Kernel(first.name, dims, tuple(buffers.values()), whole, {}, first.order)
    return kernel, Placement(launch=launch)


def _longer(a: Expr, b: Expr) -> Expr:
    return a if a is b else maximum(a, b)


class _Copy:
    """Bodies with names of their own in one kernel."""

    def __init__(self) -> None:
        self.axes: dict[str, Axis] = {}
        self.used: set[str] = set()

    def of(self, k: Kernel, at: Mapping[Expr, Expr]) -> tuple[Stmt, ...]:
        """The body with its program indices as these are."""
        self.own: dict[Axis, Axis] = {}
        self.values: dict[Value, Value] = {}
        self.known: dict[Expr, Expr] = dict(at)
        return self.body(k.body)

    def fresh(self, name: str) -> str:
        new, n = name, 1
        stem = re.sub(r"_\d+$", "", name)
        while new in self.used:
            n += 1
            new = f"{stem}_{n}"
        self.used.add(new)
        return new

    def axis(self, a: Axis) -> Axis:
        """The axis itself, or one of another name where another extent has the name."""
        if a not in self.own:
            name, n = a.name, 0
            while name in self.axes and self.axes[name] != replace(a, name=name):
                n += 1
                name = f"{a.name}{n}"
            self.own[a] = self.axes[name] = replace(a, name=name)
            self.known[a.lane] = self.own[a].lane
        return self.own[a]

    def expr(self, e: Expr) -> Expr:
        for a in lanes(e):
            self.axis(a)
        return substitute(e, self.known)

    def value(self, v: Value) -> Value:
        if v not in self.values:
            axes = tuple(self.axis(a) for a in v.axes)
            args = tuple(self.value(a) for a in v.args)
            new = Value(self.fresh(v.name), v.op, args, axes, v.dtype, self.attr(v.attr))
            self.values[v] = new
            self.known[leaf("value", v, v.dtype.kind)] = leaf("value", new, v.dtype.kind)
        return self.values[v]

    def attr(self, x: Any) -> Any:
        if isinstance(x, Expr):
            return self.expr(x)
        if isinstance(x, Axis):
            return self.axis(x)
        if isinstance(x, Load):
            index = tuple(map(self.expr, x.index))
            return Load(x.buffer, index, self.expr(x.mask), x.other)
        if isinstance(x, (Dot, Scan)):
            return replace(x, axis=self.axis(x.axis))
        return tuple(map(self.attr, x)) if isinstance(x, tuple) else x

    def body(self, body: Iterable[Stmt]) -> tuple[Stmt, ...]:
        return tuple(map(self.statement, body))

    def statement(self, s: Stmt) -> Stmt:
        if isinstance(s, Def):
            return Def(self.value(s.value))
        if isinstance(s, If):
            return If(self.expr(s.cond), self.body(s.then), self.body(s.other))
        if isinstance(s, Check):
            return replace(s, name=self.fresh(s.name), cond=self.expr(s.cond))
        if isinstance(s, (Store, Atomic)):
            index, mask = tuple(map(self.expr, s.index)), self.expr(s.mask)
            name, value = self.fresh(s.name), self.value(s.value)
            return replace(s, name=name, index=index, mask=mask, value=value)
        if isinstance(s, Barrier):
            return replace(s, name=self.fresh(s.name), mask=self.expr(s.mask))
        variable = self.fresh(s.variable)
        lo, hi, inits = self.expr(s.lo), self.expr(s.hi), tuple(map(self.value, s.inits))
        self.known[var(s.variable)] = var(variable)
        params = tuple(map(self.value, s.params))
        inner = self.body(s.body)
        yields = tuple(map(self.value, s.yields))
        results = tuple(map(self.value, s.results))
        return For(variable, lo, hi, s.step, inits, params, inner, yields, results)
