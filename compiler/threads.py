"""Block programs for devices whose grids have limits: what more programs than fit would do, each
program does in rounds.

A grid along its first dimension may be a product of sizes, which no width of a counter holds. Such
a kernel is launched with at most `ROUND` programs, and every one of them takes the tiles that are a
multiple of `ROUND` further, too. Nothing else of the program changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from opwright.ir.expr import Expr, call, const, leaf, leaves, pid, substitute, var, walk
from opwright.ir.tile import (
    Atomic,
    Check,
    Def,
    For,
    If,
    Kernel,
    Load,
    Stmt,
    Store,
    TileProgram,
    Value,
    statements,
)

ROUND = 1 << 22  # programs of a launch; more would gain nothing
NAME = "program"


def for_threads(program: TileProgram) -> TileProgram:
    """The program with every grid within the limits of a device."""
    return replace(program, kernels=tuple(map(within_limits, program.kernels)))


def within_limits(k: Kernel) -> Kernel:
    """A kernel whose programs go round, where the sizes do not bound how many there are."""
    if not k.grid or not unbounded(k.grid[0]):
        return k
    return in_rounds(k, ROUND)


def in_rounds(k: Kernel, programs: int) -> Kernel:
    """A kernel launched with at most so many programs along its first dimension; each of them takes
    the tiles that are a multiple of that further, too."""
    taken = {s.variable for s in statements(k.body) if isinstance(s, For)}
    name = NAME
    while name in taken:
        name += "_"
    body = _Moved({pid(0): var(name)}).block(k.body)
    around = For(name, pid(0), k.grid[0], programs, (), (), body, (), ())
    grid = (call("min", k.grid[0], const(programs)), *k.grid[1:])
    return replace(k, grid=grid, body=(around,))


def unbounded(extent: Expr) -> bool:
    """Whether several sizes are multiplied: one alone is below 2^31."""
    if extent.op == "min" and any(x.op == "const" for x in extent.args):
        return False
    return any(
        x.op == "mul" and sum(bool(leaves(a, "size", "param")) for a in x.args) > 1
        for x in walk(extent)
    )


class _Moved:
    """Statements with leaves of index expressions replaced, values made anew where they change."""

    def __init__(self, mapping: Mapping[Expr, Expr]) -> None:
        self.leaves = dict(mapping)
        self.values: dict[Value, Value] = {}

    def expr(self, e: Expr) -> Expr:
        for x in leaves(e, "value"):
            if x not in self.leaves and x.attr in self.values:
                self.leaves[x] = leaf("value", self.values[x.attr], x.kind)
        return substitute(e, self.leaves)

    def value(self, v: Value) -> Value:
        return self.values.get(v, v)

    def made(self, v: Value) -> Value:
        attr: Any = v.attr
        if v.op == "index":
            attr = self.expr(attr)
        elif isinstance(attr, Load):
            attr = replace(attr, index=tuple(map(self.expr, attr.index)), mask=self.expr(attr.mask))
        args = tuple(map(self.value, v.args))
        new = Value(v.name, v.op, args, v.axes, v.dtype, attr)
        self.values[v] = new
        return new

    def block(self, body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        return tuple(map(self.statement, body))

    def statement(self, s: Stmt) -> Stmt:
        if isinstance(s, Def):
            return Def(self.made(s.value))
        if isinstance(s, Store | Atomic):
            index = tuple(map(self.expr, s.index))
            return replace(s, index=index, value=self.value(s.value), mask=self.expr(s.mask))
        if isinstance(s, For):
            inits = tuple(map(self.value, s.inits))
            params = tuple(map(self.made, s.params))
            lo, hi = self.expr(s.lo), self.expr(s.hi)
            body = self.block(s.body)
            yields = tuple(map(self.value, s.yields))
            results = tuple(map(self.made, s.results))
            return For(s.variable, lo, hi, s.step, inits, params, body, yields, results)
        if isinstance(s, If):
            return If(self.expr(s.cond), self.block(s.then), self.block(s.other))
        if isinstance(s, Check):
            return replace(s, cond=self.expr(s.cond))
        return replace(s, mask=self.expr(s.mask))
