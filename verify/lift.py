"""What a tile program computes, in index notation: an expression for every element that it stores.

The program is run once on symbols. Lanes, program ids and loop counters are index variables; a loop
that combines is a fold, and so is a reduction over lanes; what memory holds at an index is found
among the stores before, by solving for the variables that a store's index names. The result stands
on G2 and G3: nothing is read before it is written, poison decides nothing, writes agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from opwright.ir.expr import (
    FALSE,
    ZERO,
    Expr,
    call,
    const,
    free_vars,
    read,
    reduction,
    substitute,
    transform,
    var,
    walk,
)
from opwright.ir.op import Tensor
from opwright.ir.semantics import MONOIDS
from opwright.ir.tile import (
    Atomic,
    Axis,
    Barrier,
    Check,
    Def,
    For,
    If,
    Kernel,
    Stmt,
    Store,
    Value,
    expressions,
)
from opwright.verify.algebra import infinite
from opwright.verify.contribution import contribution
from opwright.verify.exchanged import UNKNOWN, gathered
from opwright.verify.lift_loops import Loops
from opwright.verify.lift_memory import (
    Unknown,
    Unlifted,
    Written,
    as_kind,
    chosen,
    decided,
    unflattened,
)
from opwright.verify.masked import masked_extreme
from opwright.verify.nests import JOINED, Index

COMPARED = ("eq", "ne", "lt", "le")


class Lift(Loops):
    """Runs a program; `memory` holds what was written to each buffer, the last one last."""

    def run(self) -> None:
        """All launches, in order; Unlifted (or NotCarried) says what has no form."""
        for k in gathered(self.program).kernels:
            self.kernel = k
            self.env, self.at, self.path, self.loops = {}, {}, [], []
            self.lanes, self.pids = {}, {}
            for b in k.buffers:
                if b.role == "program":
                    self.memory.pop(b.name, None)
            self.programs = [self.digits(k, d, g) for d, g in enumerate(k.grid)]
            self.block(k.body)

    def digits(self, k: Kernel, d: int, grid: Expr) -> Expr:
        """A program id as a number whose digits are variables, by what the program divides it
        with."""
        algebra = self.algebra
        name, count = f"@p{d}.{k.name}", algebra.normal(grid)
        divisors = {
            algebra.normal(x.args[1])
            for e in expressions(k.body)
            for x in walk(e)
            if x.op in ("floordiv", "mod") and x.args[0].op == "pid" and x.args[0].attr == d
        }
        for c in sorted(divisors, key=algebra.key):
            p, q = algebra.poly(count), algebra.poly(c)
            if len(p) != 1 or len(q) != 1 or c.op == "const":
                continue
            ((m, f),), ((n, g),) = p.items(), q.items()
            rest = algebra.without(m, n)
            if rest is None or f % g:
                continue
            high, low = f"{name}h", f"{name}l"
            self.pids[high] = algebra.expression({rest: f / g}, "int")
            self.pids[low] = c
            for v in (high, low):
                algebra.ranges[v] = (ZERO, self.pids[v])
            return algebra.normal(var(high) * c + var(low))
        self.pids[name] = count
        algebra.ranges[name] = (ZERO, count)
        return var(name)

    # -- expressions ------------------------------------------------------------------------------

    def lane(self, a: Axis) -> Expr:
        """The variable of a tile axis in this kernel."""
        if a not in self.lanes:
            name = f"@{a.name}:{a.extent}.{self.kernel.name}"
            self.lanes[a] = name
            self.algebra.ranges[name] = (ZERO, const(a.extent))
        return var(self.lanes[a])

    def index(self, e: Expr) -> Expr:
        """An expression of the program over index variables."""

        def rule(x: Expr) -> Expr | None:
            if x.op == "lane":
                return self.lane(x.attr)
            if x.op == "pid":
                return self.programs[int(x.attr)]
            if x.op == "var":
                return self.at.get(x.attr)
            if x.op == "value":
                return self.value(x.attr)
            if x.op in COMPARED and (known := decided(x.op, *x.args)) is not None:
                return known
            found: Expr | None = self.fixed.get(x)
            return found

        return self.join.tidy(transform(e, rule))

    def value(self, v: Value) -> Expr:
        if v not in self.env:
            raise Unlifted(f"{v.name} is made in a branch")
        return self.env[v]

    def define(self, v: Value) -> Expr:
        kind = v.dtype.kind
        if v.op == "full":
            return const(float(v.attr) if kind == "real" else bool(v.attr) if kind == "bool"
                         else int(v.attr))  # fmt: skip
        if v.op == "index":
            return as_kind(self.index(v.attr), kind)
        if v.op == "load":
            return self.load(v)
        args = [self.value(a) for a in v.args]
        if v.op == "reduce":
            monoid, axis = v.attr
            return self.reduced(monoid, axis, args[0])
        if v.op == "dot":
            return self.reduced("sum", v.attr.axis, call("mul", *args))
        if v.op == "scan":
            return self.scanned(v, args[0])
        if v.op == "argreduce":
            return self.extreme(v, *args)
        if v.op == "view":
            moved = {self.lane(a): self.index(e) for a, e in v.attr}
            return substitute(args[0], moved)
        if v.op in ("cast", "round"):
            return as_kind(args[0], kind)
        if v.op == UNKNOWN:
            return self.unknown(v)
        if v.op in ("opaque", "param", "result"):
            raise Unlifted(f"{v.name} is not known ({v.op})")
        if v.op == "exp":
            return self.anchors.opened(call("exp", *args))
        if v.op == "mul" and (product := self.anchors.moved(*args)) is not None:
            return product
        if v.op == "select":
            best = None if args[1].kind == "bool" else self.places.chosen(*args)
            best = sometimes_more(*args) if best is None else best
            return chosen(*args) if best is None else best
        if v.op in ("add", "sub") and (found := self.shifted(v.op, *args)) is not None:
            return found
        monoid = next((m.name for m in MONOIDS.values() if m.row == v.op), None)
        parts = [] if monoid is None else [x for a in args for x in self.join.parts(monoid, a)]
        if monoid is not None and len(parts) <= JOINED and sum(a.op == "fold" for a in parts) > 1:
            return self.join.combined(monoid, args, kind)
        known = decided(v.op, *args) if v.op in COMPARED else None
        return call(v.op, *args) if known is None else known

    def unknown(self, v: Value) -> Expr:
        """A value of which nothing is known but what it may depend on."""
        index = [self.lane(a) for a in v.axes]
        index += [var(n) for n in (*self.pids, *(n for n, _ in self.loops))]
        name = f"?{v.name}.{self.kernel.name}"
        self.algebra.tensors[name] = Tensor(name, v.dtype, ())
        return read(name, tuple(index), v.dtype.kind)

    def shifted(self, op: str, a: Expr, b: Expr) -> Expr | None:
        """A number and a choice that is infinite on one side as the choice of both."""
        for n, (x, other) in enumerate(((a, b), (b, a))):
            if x.op != "select" or x.kind != "real" or not any(map(infinite, x.args[1:])):
                continue
            if any(y.op == "state" for y in walk(other)) or not self.algebra.finite(other):
                continue
            if any(y.op in ("max", "min") for y in walk(other)):
                continue
            sides = []
            for y in x.args[1:]:
                if infinite(y):
                    sides.append(const(-y.attr) if n and op == "sub" else y)
                else:
                    sides.append(call(op, y, other) if not n else call(op, other, y))
            return call("select", x.args[0], *sides)
        return None

    def reduced(self, monoid: str, axis: Axis, e: Expr) -> Expr:
        self.lane(axis)
        lanes = Index(self.lanes[axis], const(axis.extent))
        if monoid == "min" and (place := self.places.least(lanes, e)) is not None:
            return place
        left = masked_extreme(monoid, e)
        if left is not None:  # there are lanes, so that 0 is one of the terms or no harm
            parts = [const(0.0), self.reduced(monoid, axis, left)]
            return self.join.combined(monoid, parts, e.kind)
        return self.join.over(monoid, lanes, e)

    def scanned(self, v: Value, e: Expr) -> Expr:
        what = v.attr
        own, name = self.lane(what.axis), self.join.fresh()
        span = (own, const(what.axis.extent)) if what.reverse else (ZERO, own + 1)
        return reduction(what.monoid, (name,), (span,), substitute(e, {own: var(name)}))

    def extreme(self, v: Value, best: Expr, places: Expr) -> Expr:
        """The lane of an extreme, where places are lanes in their order."""
        fold, axis = v.attr
        own, name = self.lane(axis), self.join.fresh()
        offset = self.algebra.normal(places - own)
        if own.attr in free_vars(offset):
            raise Unlifted(f"{v.name} takes places that are not its lanes in order")
        span = ((ZERO, const(axis.extent)),)
        return reduction(fold, (name,), span, substitute(best, {own: var(name)})) + offset

    # -- statements -------------------------------------------------------------------------------

    def block(self, body: Iterable[Stmt]) -> None:
        for s in body:
            if isinstance(s, Def):
                self.env[s.value] = self.define(s.value)
            elif isinstance(s, Store):
                self.store(s)
            elif isinstance(s, For):
                self.loop(s)
            elif isinstance(s, If):
                self.branch(s)
            elif isinstance(s, Atomic):
                value = as_kind(self.value(s.value), s.buffer.dtype.kind)
                made = contribution(self, s, value)
                self.memory.setdefault(s.buffer.name, []).append(made)
            else:
                assert isinstance(s, Check | Barrier)

    def branch(self, s: If) -> None:
        cond = self.algebra.normal(self.index(s.cond))
        for side, holds in ((s.then, cond), (s.other, self.algebra.normal(~cond))):
            if holds is FALSE:
                continue
            with self.under(holds):
                self.block(side)

    @contextmanager
    def under(self, cond: Expr) -> Iterator[None]:
        self.path.append(cond)
        try:
            yield
        finally:
            self.path.pop()


def sometimes_more(cond: Expr, a: Expr, b: Expr) -> Expr | None:
    """A number with another one added where a condition holds."""
    if a.kind != "real" or a.op != "add" or infinite(b):
        return None
    for one, other in (a.args, a.args[::-1]):
        if one is b and not any(map(infinite, walk(other))):
            return call("add", b, call("select", cond, other, const(0.0)))
    return None


__all__ = ["Lift", "Unknown", "Unlifted", "Written", "chosen", "unflattened"]
