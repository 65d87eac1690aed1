"""What a loop of an imported kernel carries and adds the same amount to in every iteration
(addresses that advance, counters): its closed form in the loop variable."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from opwright.backends.triton.importer_folds import Folds
from opwright.backends.triton.importer_symbols import WIDE, Dims, Need, Sym, join, moved
from opwright.backends.triton.importer_values import Impure, Pointer, Thing
from opwright.backends.triton.ttir import Block, Op
from opwright.ir.expr import (
    TRUE,
    ZERO,
    Expr,
    ExprError,
    call,
    leaf,
    leaves,
    maximum,
    substitute,
)
from opwright.ir.polynomial import expression, polynomial

PURE = frozenset(
    "tt.splat tt.broadcast tt.expand_dims tt.addptr tt.make_range tt.trans tt.reshape "
    "arith.constant tt.get_program_id tt.get_num_programs".split()
)
MADE = "arith."


@dataclass(frozen=True, slots=True, eq=False)
class Steady:
    """A carried number: `first + count * more`, or, `lagging`, what the last iteration left."""

    first: Sym
    more: Expr
    needs: tuple[Need, ...]
    lagging: bool = False
    pointer: Pointer | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Range:
    """Bounds of a loop: the variable of the kernel is `lo`, `lo + step`, ... below `hi`; where
    the step is no number, `counted` counts iterations instead."""

    lo: Expr
    hi: Expr
    step: Expr
    bits: int

    @property
    def constant(self) -> int | None:
        return int(self.step.attr) if self.step.op == "const" else None

    def trips(self) -> Expr:
        length = maximum(self.hi - self.lo, ZERO)
        return (length + (self.step - 1)) // self.step

    def count(self, now: Expr) -> Expr:
        """How many iterations lie before the one in which the variable is `now`."""
        return (now - self.lo) // self.step

    def scaled(self, now: Expr, more: Expr) -> Expr:
        """count * more, without a division where `more` has the step as a factor."""
        n = self.constant
        if n is not None:
            terms = polynomial(more)
            if all(c % n == 0 for c in terms.values()):
                return (now - self.lo) * expression({m: c // n for m, c in terms.items()})
        return self.count(now) * more


class Steadiness(Folds):
    """Closed forms of carried numbers, and what they are after a loop."""

    @abstractmethod
    def operation(self, op: Op) -> list[Thing]:
        """The results of one operation."""

    def run(self, op: Op) -> None:
        """One operation with its results named."""
        if op.results and op.results[0] in self.idle:
            return
        try:
            made = self.operation(op)
        except ExprError as e:
            raise self.refuse(f"{op.name}: {e}") from None
        for name, x in zip(op.results, made, strict=True):
            self.env[name] = x

    def range(self, op: Op) -> Range:
        if "unsigned" in op.words or "unsignedCmp" in op.attrs:
            raise self.refuse("a loop that counts without a sign")
        parts = []
        for name in op.operands[:3]:
            x = self.env[name]
            assert isinstance(x, Sym)
            parts.append(x)
        lo, hi, step = (self.observe(x) for x in parts)
        if step.expr.op == "const" and step.expr.attr < 1:
            raise self.refuse(f"a loop with the step {step.expr.attr}")
        return Range(lo.expr, hi.expr, step.expr, lo.bits)

    def steady(self, op: Op, r: Range) -> list[Steady | None]:
        """For everything that a loop carries, its closed form, if it has one."""
        block = op.regions[0][0]
        (variable, _), *args = block.args
        out: list[Steady | None] = [None] * len(args)
        inits: list[Sym | None] = []
        holders: list[Pointer | None] = []
        for (name, _), source in zip(args, op.operands[3:], strict=True):
            x = self.env[source]
            holders.append(x if isinstance(x, Pointer) else None)
            inner = x.offset if isinstance(x, Pointer) else x
            good = isinstance(inner, Sym) and inner.bits > 1
            try:
                fit = self.fitted(inner, self.axes.of(name)) if good else None
            except Impure:
                fit = None
            inits.append(fit if isinstance(fit, Sym) else None)
        if not any(inits):
            return out
        now = leaf("state", f"iv {variable}")
        held = {n: leaf("state", f"carried {name}") for n, (name, _) in enumerate(args)}
        before, was = dict(self.env), self.dry
        self.dry = True
        try:
            self.env[variable] = Sym(now, (), r.bits)
            for n, (name, _) in enumerate(args):
                self.env.pop(name, None)
                init = inits[n]
                if init is not None:
                    sym = Sym(held[n], self.axes.of(name), init.bits)
                    p = holders[n]
                    self.env[name] = sym if p is None else Pointer(p.buffer, sym, p.bits)
            names = self.slice(block)
            for n, y in enumerate(names):
                init = inits[n]
                if init is not None and y in self.env:
                    out[n] = self.closed(self.env[y], init, holders[n], held, n, now)
        finally:
            self.env, self.dry = before, was
        return out

    def slice(self, block: Block) -> list[str]:
        """What can be computed of a body without a statement; the names it yields."""
        yields: list[str] = []
        for op in block.ops:
            for name in op.results:
                self.env.pop(name, None)
            if op.name == "scf.yield":
                yields = op.operands
            elif op.name == "scf.for" and op.results:
                self.slice_loop(op)
            elif op.name in PURE or op.name.startswith(MADE):
                if all(x in self.env for x in op.operands):
                    try:
                        self.run(op)
                    except Impure:
                        pass
        return yields

    def slice_loop(self, op: Op) -> None:
        """A loop inside a slice: the closed forms after it."""
        if not all(x in self.env for x in op.operands[:3]):
            return
        known = [x in self.env for x in op.operands[3:]]
        if not all(known):
            return
        r = self.range(op)
        for name, s in zip(op.results, self.steady(op, r), strict=True):
            if s is not None:
                self.env[name] = self.after(s, r, self.axes.of(name))

    def closed(
        self,
        end: Thing,
        init: Sym,
        holder: Pointer | None,
        held: dict[int, Expr],
        n: int,
        now: Expr,
    ) -> Steady | None:
        if isinstance(end, Pointer):
            if holder is None or end.buffer != holder.buffer:
                return None
            end = end.offset
        if not isinstance(end, Sym):
            return None
        end = Sym(end.expr, end.dims, end.bits, end.needs, end.raw, end.line)
        inner = set(held.values())
        own = held[n]
        used = set(leaves(end.expr, "state")) & inner
        asked = {x for d in end.needs for x in leaves_of(d)}
        if not used and not asked & inner:
            return Steady(init, end.expr, end.needs, True, holder)
        if used != {own} or asked & (inner | {now}):
            return None
        rest = polynomial(end.expr - own)
        if any(x in inner or x is now for m in rest for f in m for x in leaves(f, "state")):
            return None
        return Steady(init, expression(rest), end.needs, False, holder)

    def now(self, s: Steady, r: Range, now: Expr, dims: Dims) -> Thing:
        """A steady number in the iteration in which the variable is `now`."""
        if s.lagging:
            made = self.lagged(s, r, now - r.step)
            e = (
                made
                if made is s.first.expr
                else call("select", call("eq", now, r.lo), s.first.expr, made)
            )
        else:
            e = s.first.expr + r.scaled(now, s.more)
        later = call("lt", r.lo, now)  # what is added matters from the second iteration on
        return self.held(s, e, dims, tuple(_where(n, later) for n in s.needs))

    def lagged(self, s: Steady, r: Range, then: Expr) -> Expr:
        states = [x for x in leaves(s.more, "state") if str(x.attr).startswith("iv ")]
        return substitute(s.more, dict.fromkeys(states, then))

    def after(self, s: Steady, r: Range, dims: Dims) -> Thing:
        """A steady number after the loop."""
        if s.lagging:
            last = r.lo + (r.trips() - 1) * r.step
            made = self.lagged(s, r, last)
            e = call("select", call("lt", r.lo, r.hi), made, s.first.expr)
        else:
            e = s.first.expr + r.trips() * s.more
        return self.held(s, e, dims, s.needs)

    def held(self, s: Steady, e: Expr, dims: Dims, more: tuple[Need, ...]) -> Thing:
        raw = s.first.bits < WIDE and self.ranges.inside(e, s.first.bits) is not TRUE
        needs = s.first.needs if s.lagging else join(s.first.needs, more)
        sym = Sym(e, dims, s.first.bits, needs, raw, self.line)
        return sym if s.pointer is None else Pointer(s.pointer.buffer, sym, s.pointer.bits)


def leaves_of(n: Need) -> set[Expr]:
    out = set(leaves(moved(n.cond, n.moved), "state"))
    for d in n.deps:
        out |= leaves_of(d)
    return out


def _where(n: Need, c: Expr, pairs: tuple[tuple[Expr, Expr], ...] = ()) -> Need:
    """A need that exists only where a condition holds."""
    pairs = (*n.moved, *pairs)
    deps = tuple(_where(d, c, pairs) for d in n.deps)
    return Need(call("or", ~c, moved(n.cond, pairs)), n.kind, n.reason, n.line, deps)
