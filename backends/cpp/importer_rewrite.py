"""Rewriting of imported kernels: values replaced, what nothing reads left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from opwright.ir.expr import Expr, leaf, leaves, substitute
from opwright.ir.tile import (
    Atomic,
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
    statements,
)

Change = Callable[[Value], Value | None]


class Rewriter:
    """Rebuilds a body; `changed` maps values to what stands for them."""

    def __init__(self, change: Change) -> None:
        self.change = change
        self.changed: dict[Value, Value] = {}

    def value(self, v: Value) -> Value:
        while v in self.changed:
            v = self.changed[v]
        return v

    def expr(self, e: Expr) -> Expr:
        if not self.changed:
            return e
        moved = {
            x: leaf("value", self.value(x.attr), x.kind)
            for x in leaves(e, "value")
            if x.attr in self.changed
        }
        return substitute(e, moved)

    def define(self, v: Value) -> Value | None:
        """The value with operands replaced and changed; None leaves it out."""
        args = tuple(self.value(a) for a in v.args)
        attr: Any = v.attr
        if v.op == "index":
            attr = self.expr(attr)
        elif v.op == "load":
            m: Load = attr
            index = tuple(self.expr(i) for i in m.index)
            mask = self.expr(m.mask)
            if index != m.index or mask is not m.mask:
                attr = Load(m.buffer, index, mask, m.other)
        new = v
        if args != v.args or attr is not v.attr:
            new = Value(v.name, v.op, args, v.axes, v.dtype, attr)
            self.changed[v] = new
        out = self.change(new)
        if out is not None and out is not new:
            self.changed[new] = out
        return out

    def body(self, body: Iterable[Stmt]) -> tuple[Stmt, ...]:
        return tuple(n for s in body for n in self.statement(s))

    def statement(self, s: Stmt) -> list[Stmt]:
        if isinstance(s, Def):
            v = self.define(s.value)
            return [] if v is None else [Def(v)]
        if isinstance(s, Store):
            index = tuple(self.expr(i) for i in s.index)
            return [replace(s, index=index, value=self.value(s.value), mask=self.expr(s.mask))]
        if isinstance(s, Atomic):
            index = tuple(self.expr(i) for i in s.index)
            return [replace(s, index=index, value=self.value(s.value), mask=self.expr(s.mask))]
        if isinstance(s, Check):
            return [replace(s, cond=self.expr(s.cond))]
        if isinstance(s, If):
            return [If(self.expr(s.cond), self.body(s.then), self.body(s.other))]
        if isinstance(s, Barrier):
            return [replace(s, mask=self.expr(s.mask))]
        lo, hi = self.expr(s.lo), self.expr(s.hi)
        inits = tuple(self.value(v) for v in s.inits)
        inner = self.body(s.body)
        yields = tuple(self.value(v) for v in s.yields)
        return [replace(s, lo=lo, hi=hi, inits=inits, body=inner, yields=yields)]


def read(s: Stmt) -> list[Value]:
    """Values that a statement itself reads, without what stands inside of it."""
    exprs: list[Expr] = []
    out: list[Value] = []
    if isinstance(s, Def):
        out += s.value.args
        if s.value.op == "index":
            exprs.append(s.value.attr)
        elif s.value.op == "load":
            exprs += [*s.value.attr.index, s.value.attr.mask]
    elif isinstance(s, Store | Atomic):
        out.append(s.value)
        exprs += [*s.index, s.mask]
    elif isinstance(s, Check | If):
        exprs.append(s.cond)
    elif isinstance(s, Barrier):
        exprs.append(s.mask)
    else:
        out += [*s.inits, *s.yields]
        exprs += [s.lo, s.hi]
    return out + [x.attr for e in exprs for x in leaves(e, "value")]


def used(body: Iterable[Stmt]) -> dict[Value, int]:
    """How often values are read."""
    out: dict[Value, int] = {}
    for s in statements(body):
        for v in read(s):
            out[v] = out.get(v, 0) + 1
    return out


class _Filler(Rewriter):
    """Gives loads what they hold where they do not read, before anything else is replaced."""

    def __init__(self, change: Change, fillers: Mapping[Value, Any]) -> None:
        super().__init__(change)
        self.fillers = fillers

    def define(self, v: Value) -> Value | None:
        m = v.attr
        if v in self.fillers and m.other != self.fillers[v]:
            filled = replace_attr(v, Load(m.buffer, m.index, m.mask, self.fillers[v]))
            self.changed[v] = filled
            v = filled
        return super().define(v)


def finished(
    k: Kernel, fillers: Mapping[Value, Any], named: set[Value], contract: bool
) -> tuple[Kernel, Callable[[Value], Value]]:
    """Loads with their fillers; a product inside a sum as one operation; nothing dead. Also what
    stands for the old values."""
    count = used(k.body)

    def join(v: Value) -> Value | None:
        if contract and v.op == "add" and v.dtype.kind == "real":
            x = v.args[0]
            if x.op == "mul" and x not in named and count.get(x) == 1:
                return Value(v.name, "fma", (*x.args, v.args[1]), v.axes, v.dtype, None)
        return v

    rewriter = _Filler(join, fillers)
    return alive(replace(k, body=rewriter.body(k.body))), rewriter.value


def replace_attr(v: Value, attr: Any) -> Value:
    return Value(v.name, v.op, v.args, v.axes, v.dtype, attr)


def alive(k: Kernel) -> Kernel:
    """Without pure values that nothing reads, and state that only carries itself."""
    while True:
        count = used(k.body)
        smaller = replace(k, body=_alive(k.body, count))
        if sum(1 for _ in statements(smaller.body)) == sum(
            1 for _ in statements(k.body)
        ) and _state(smaller) == _state(k):
            return k
        k = smaller


def _state(k: Kernel) -> int:
    return sum(len(s.params) for s in statements(k.body) if isinstance(s, For))


def _alive(body: Iterable[Stmt], count: Mapping[Value, int]) -> tuple[Stmt, ...]:
    out: list[Stmt] = []
    for s in body:
        if isinstance(s, Def):
            if s.value.op == "load" or s.value in count:
                out.append(s)
        elif isinstance(s, If):
            both = _alive(s.then, count), _alive(s.other, count)
            if any(both):
                out.append(If(s.cond, *both))
        elif isinstance(s, For):
            inner = _alive(s.body, count)
            rows = [
                n
                for n, (p, y, r) in enumerate(zip(s.params, s.yields, s.results, strict=True))
                if r in count or count.get(p, 0) > (y is p)
            ]
            parts = [tuple(x[n] for n in rows) for x in (s.inits, s.params, s.yields, s.results)]
            if inner or rows:
                out.append(
                    For(s.variable, s.lo, s.hi, s.step, parts[0], parts[1], inner, *parts[2:])
                )
        else:
            out.append(s)
    return tuple(out)
