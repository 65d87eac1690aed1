"""Unrolled pieces as one value over the whole axis.

`t__0`, `t__16`, `t__32` are taken for the pieces of one tile if all they are made of, and all that
is made of them, is the same statement at 0, 16 and 32: names only propose, structure decides. What
does not fit stays in pieces. A piece over a lane axis extends it; a piece without becomes a lane of
a new axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from opwright.backends.cpp.importer_joins import (
    Clash,
    Finder,
    No,
    Plan,
)
from opwright.backends.cpp.importer_rewrite import alive
from opwright.backends.cpp.importer_seeds import Tuple, parts_of, seeds_of
from opwright.ir.expr import (
    Expr,
    ExprError,
    leaf,
    leaves,
    substitute,
)
from opwright.ir.tile import (
    Axis,
    Barrier,
    Check,
    Def,
    For,
    If,
    Kernel,
    Load,
    Stmt,
    Store,
    Value,
    lanes,
)


def reroll(k: Kernel, labels: Mapping[Value, str]) -> Kernel:
    """The kernel with pieces joined as far as they fit."""
    names = dict(labels)
    failed: set[tuple[str, ...]] = set()
    while True:
        for seed in seeds_of(k, names):
            key = tuple(v.name for v in seed[0])
            if key in failed:
                continue
            try:
                k = _Joiner(k, names).join(*seed)
                failed.clear()
                break
            except (No, Clash, ExprError):
                failed.add(key)
        else:
            break
    return _uniform_stores(k, names)


class _Joiner(Finder):
    """Joins everything that one tuple leads to, or nothing."""

    def join(self, seed: Tuple, old: Axis | None) -> Kernel:
        """The kernel with these pieces joined, over the first axis that none of them has."""
        return self.over(old, len(seed), lambda: self.want(seed))

    def spread(self, run: tuple[Store, ...], axis: Axis | None) -> Kernel:
        """The kernel with stores of one value joined."""
        return self.over(axis, len(run), lambda: self.together(run))

    def over(self, old: Axis | None, count: int, begin: Callable[[], None]) -> Kernel:
        extent = (1 if old is None else old.extent) * count
        for n in range(1, 9):
            self.plan = Plan(old, Axis(f"c{extent}" if n == 1 else f"c{extent}_{n}", extent))
            self.todo = []
            try:
                begin()
                self.follow()
                self.free()
            except Clash:
                continue
            self.settle_order(old, count)
            return self.apply()
        raise No

    def apply(self) -> Kernel:
        self.new: dict[Value, Value] = {}
        body = self.rebuilt(self.k.body)
        return alive(replace(self.k, body=body))

    def swap(self, v: Value) -> Value:
        return self.new.get(v, v)

    def expr(self, e: Expr) -> Expr:
        moved = {
            x: leaf("value", self.new[x.attr], x.kind)
            for x in leaves(e, "value")
            if x.attr in self.new
        }
        return substitute(e, moved)

    def axes(self, found: tuple[Axis, ...]) -> tuple[Axis, ...]:
        if self.plan.old is None:
            return (self.plan.axis, *found)
        return tuple(self.plan.axis if a == self.plan.old else a for a in found)

    def made(self, t: Tuple, v: Value) -> None:
        for x in t:
            self.new[x] = v
        label = self.labels.get(t[0], "")
        found = [parts_of(self.labels.get(x, "")) for x in t[:2]]
        if found[0] is not None and found[1] is not None:
            (base, a), (_, b) = found  # type: ignore[misc]
            rest = [c for c, d in zip(a, b, strict=True) if c == d]
            label = "__".join([base, *map(str, rest)])
        self.labels[v] = label

    def rebuilt(self, body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        b = next(x for x in self.blocks if x.body is body)
        order = self.places(b)
        out: list[Stmt] = []
        done: set[int] = set()
        for s in sorted(b.body, key=lambda s: (order[s], b.at[s])):
            group = self.group(s)
            if group is not None:
                if id(group) in done:
                    continue
                done.add(id(group))
                s = group[0] if isinstance(group[0], Store | Check) else s
            out += self.statement(s, group)
        return tuple(out)

    def statement(self, s: Stmt, group: tuple[Any, ...] | None) -> list[Stmt]:
        if isinstance(s, Def):
            return [Def(self.define(s.value, group))]
        if isinstance(s, For):
            return [self.loop(s)]
        if isinstance(s, If):
            return [If(self.expr(s.cond), self.rebuilt(s.then), self.rebuilt(s.other))]
        if isinstance(s, Check):
            cond = s.cond if group is None else self.rolled(tuple(x.cond for x in group))
            return [replace(s, cond=self.expr(cond))]
        if isinstance(s, Barrier):
            return [replace(s, mask=self.expr(s.mask))]
        index, mask = s.index, s.mask
        if group is not None:
            index = self.joined_index(group)
            mask = self.rolled_mask(tuple(x.mask for x in group))
        index = tuple(self.expr(e) for e in index)
        return [replace(s, index=index, mask=self.expr(mask), value=self.swap(s.value))]

    def joined_index(self, found: tuple[Any, ...]) -> tuple[Expr, ...]:
        rank = range(len(found[0].index))
        return tuple(self.rolled(tuple(m.index[d] for m in found)) for d in rank)

    def define(self, v: Value, group: Tuple | None) -> Value:
        if v in self.plan.sums:
            monoid, t, _ = self.plan.sums[v]
            whole = self.new[t[0]]
            axes = tuple(a for a in whole.axes if a != self.plan.axis)
            made = Value(v.name, "reduce", (whole,), axes, v.dtype, (monoid, self.plan.axis))
            self.new[v] = made
            self.labels[made] = self.labels.get(v, "")
            return made
        first = v if group is None else group[0]
        attr = first.attr
        if v.op == "index":
            e = v.attr if group is None else self.rolled(tuple(x.attr for x in group))
            attr = self.expr(e)
        elif v.op == "load":
            m: Load = first.attr
            index, mask = m.index, m.mask
            if group is not None:
                index = self.joined_index(tuple(x.attr for x in group))
                mask = self.rolled_mask(tuple(x.attr.mask for x in group))
            index, mask = tuple(self.expr(e) for e in index), self.expr(mask)
            attr = Load(m.buffer, index, mask, m.other)
        args = tuple(self.swap(a) for a in first.args)
        if group is None:
            if args == v.args and (attr is v.attr or (v.op == "load" and same_load(attr, v.attr))):
                return v
            made = Value(v.name, v.op, args, v.axes, v.dtype, attr)
            self.new[v] = made
            self.labels[made] = self.labels.get(v, "")
            return made
        op = first.op
        if op == "index" and attr.op == "const":  # one number for all pieces
            op, attr = "full", attr.attr
        made = Value(first.name, op, args, self.axes(first.axes), first.dtype, attr)
        if set(expected_axes(made)) != set(made.axes) and made.op != "full":
            raise No
        self.made(group, made)
        return made

    def loop(self, s: For) -> For:
        inits, params, results, keep = [], [], [], []
        for n, (i, p, r) in enumerate(zip(s.inits, s.params, s.results, strict=True)):
            t = self.plan.values.get(p)
            if t is not None and t[0] is not p:
                continue
            keep.append(n)
            inits.append(self.swap(i))
            if t is None:
                params.append(p)
                results.append(r)
                continue
            whole = self.axes(p.axes)
            for x, kind, out in ((p, "param", params), (r, "result", results)):
                v = Value(x.name, kind, (), whole, x.dtype)
                self.made(self.plan.values[x], v)
                out.append(v)
        lo, hi = self.expr(s.lo), self.expr(s.hi)
        body = self.rebuilt(s.body)
        yields = tuple(self.swap(s.yields[n]) for n in keep)
        for i, p, y in zip(inits, params, yields, strict=True):
            if not set(i.axes) == set(p.axes) == set(y.axes):
                raise No
        parts = (tuple(inits), tuple(params), body, yields, tuple(results))
        return For(s.variable, lo, hi, s.step, *parts)


def same_load(a: Load, b: Load) -> bool:
    return a.index == b.index and a.mask is b.mask


def expected_axes(v: Value) -> tuple[Axis, ...]:
    """The axes that operands give a value."""
    if v.op == "index":
        return lanes(v.attr)
    if v.op == "load":
        return lanes(*v.attr.index, v.attr.mask)
    found = tuple(dict.fromkeys(a for x in v.args for a in x.axes))
    return tuple(a for a in found if a != v.attr[1]) if v.op == "reduce" else found


def _uniform_stores(k: Kernel, labels: dict[Value, str]) -> Kernel:
    """Neighbouring stores of one value, each a register further on, as one store."""
    tried: set[tuple[str, ...]] = set()
    while True:
        for run, axis in _runs(k):
            key = (axis.name if axis else "", *(s.name for s in run))
            if key in tried:
                continue
            tried.add(key)
            try:
                k = _Joiner(k, labels).spread(run, axis)
                break
            except (No, Clash, ExprError):
                continue
        else:
            return k


def _runs(k: Kernel) -> list[tuple[tuple[Store, ...], Axis | None]]:
    out: list[tuple[tuple[Store, ...], Axis | None]] = []

    def scan(body: tuple[Stmt, ...]) -> None:
        run: list[Store] = []
        for s in (*body, None):
            if isinstance(s, For):
                scan(s.body)
            elif isinstance(s, If):
                scan(s.then)
                scan(s.other)
            if (
                isinstance(s, Store)
                and run
                and s.buffer == run[0].buffer
                and s.value is run[0].value
            ):
                run.append(s)
                continue
            if len(run) > 1:
                axes = [a for a in lanes(*run[0].index) if a not in run[0].value.axes]
                out.extend((tuple(run), a) for a in axes)
                for size in range(len(run), 1, -1):
                    if len(run) % size == 0:
                        starts = range(0, len(run), size)
                        out.extend((tuple(run[n : n + size]), None) for n in starts)
            run = [s] if isinstance(s, Store) else []

    scan(k.body)
    return out
