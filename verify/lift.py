"""What a tile program computes, in index notation: an expression for every element that it stores.

The program is run once on symbols. Lanes, program ids and loop counters are index variables; a loop
that combines is a fold, and so is a reduction over lanes; what memory holds at an index is found
among the stores before, by solving for the variables that a store's index names. The result stands
on G2 and G3: nothing is read before it is written, poison decides nothing, writes agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from opwright.ir.expr import (
    FALSE,
    TRUE,
    ZERO,
    Expr,
    call,
    cdiv,
    conjunction,
    const,
    free_vars,
    leaf,
    read,
    reduction,
    substitute,
    toreal,
    transform,
    var,
    walk,
)
from opwright.ir.op import Operator, Tensor
from opwright.ir.semantics import MONOIDS
from opwright.ir.tile import (
    Atomic,
    Axis,
    Barrier,
    Buffer,
    Check,
    Def,
    For,
    If,
    Kernel,
    Stmt,
    Store,
    TileProgram,
    Value,
    access_axes,
    expressions,
    statements,
)
from opwright.verify.algebra import Poly, scaled
from opwright.verify.carried import (
    NotCarried,
    combined,
    guarded,
    guards,
    linear_in,
    masked,
    settled,
)
from opwright.verify.exchanged import UNKNOWN, gathered
from opwright.verify.given import pinned
from opwright.verify.nests import Index, Joiner
from opwright.verify.reals import Reals, equal_reals

ROUNDS = 3
LOOKUPS = 4_000  # reads of memory of one program

COMPARED = ("eq", "ne", "lt", "le")


class Unlifted(NotCarried):
    """What has no expression here, in words."""


@dataclass(frozen=True, slots=True)
class Written:
    """A store: what the element at `index` holds where `cond` does, for all `variables` (with how
    many values each has). `loops` are the loops around it, `kernel` the launch."""

    name: str
    index: tuple[Expr, ...]
    value: Expr
    cond: Expr
    variables: Mapping[str, Expr]
    loops: tuple[str, ...]
    kernel: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """What earlier iterations of a loop may have written."""

    loop: str


class Lift:
    """Runs a program; `memory` holds what was written to each buffer, the last one last."""

    def __init__(
        self,
        program: TileProgram,
        op: Operator,
        algebra: Reals,
        fixed: Mapping[Expr, Expr] | None = None,
    ) -> None:
        self.program, self.algebra = program, algebra
        self.fixed = dict(fixed or {})  # sizes and params that facts of the program settle
        self.join = Joiner(algebra)
        self.memory: dict[str, list[Written | Unknown]] = {}
        self.env: dict[Value, Expr] = {}
        self.inputs = {t.name: t for t in op.inputs}
        self.path: list[Expr] = []
        self.loops: list[tuple[str, Expr]] = []  # open ones: counter, how often
        self.at: dict[str, Expr] = {}  # loop variables by their counters
        self.looked = 0

    def run(self) -> None:
        """All launches, in order; Unlifted (or NotCarried) says what has no form."""
        for k in gathered(self.program).kernels:
            self.kernel = k
            self.env, self.at, self.path, self.loops = {}, {}, [], []
            self.lanes: dict[Axis, str] = {}
            self.pids: dict[str, Expr] = {}
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
            if x.op in COMPARED and (known := _decided(x.op, *x.args)) is not None:
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
            return _as(self.index(v.attr), kind)
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
            return _as(args[0], kind)
        if v.op == UNKNOWN:
            return self.unknown(v)
        if v.op in ("opaque", "param", "result"):
            raise Unlifted(f"{v.name} is not known ({v.op})")
        if v.op == "select":
            return chosen(*args)
        monoid = next((m.name for m in MONOIDS.values() if m.row == v.op), None)
        if monoid is not None and sum(a.op == "fold" for a in args) > 1:
            return self.join.combined(monoid, args, kind)
        return (_decided(v.op, *args) if v.op in COMPARED else None) or call(v.op, *args)

    def unknown(self, v: Value) -> Expr:
        """A value of which nothing is known but what it may depend on."""
        index = [self.lane(a) for a in v.axes]
        index += [var(n) for n in (*self.pids, *(n for n, _ in self.loops))]
        name = f"?{v.name}.{self.kernel.name}"
        self.algebra.tensors[name] = Tensor(name, v.dtype, ())
        return read(name, tuple(index), v.dtype.kind)

    def reduced(self, monoid: str, axis: Axis, e: Expr) -> Expr:
        self.lane(axis)
        return self.join.over(monoid, Index(self.lanes[axis], const(axis.extent)), e)

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

    # -- memory -----------------------------------------------------------------------------------

    def load(self, v: Value) -> Expr:
        what = v.attr
        index = tuple(self.index(i) for i in what.index)
        found = self.element(what.buffer, index, v.dtype.kind)
        mask = self.index(what.mask)
        if mask is TRUE or what.other is None:
            return found  # what masked-off lanes hold decides nothing
        other = const(float(what.other) if found.kind == "real" else what.other)
        return chosen(mask, found, other)

    def element(self, b: Buffer, index: tuple[Expr, ...], kind: str) -> Expr:
        """What memory holds at an index."""
        if b.role in ("in", "state") and b.name in self.inputs and b.name not in self.memory:
            return read(b.name, unflattened(self.inputs[b.name], b, index), kind)
        self.looked += 1
        if self.looked > LOOKUPS:
            raise Unlifted("memory is read too often")
        cases: list[tuple[Expr, Expr]] = []
        for w in reversed(self.memory.get(b.name, [])):
            if isinstance(w, Unknown):
                raise Unlifted(f"{b.name} is read across iterations of {w.loop}")
            found = self.match(w, index)
            if found is None:
                continue
            cases.append(found)
            if found[0] is TRUE:
                break
        else:
            if b.role == "plan" and b.init == "zero":
                cases.append((TRUE, _as(const(0), kind)))
            elif b.role == "state":
                cases.append((TRUE, read(b.name, unflattened(self.inputs[b.name], b, index), kind)))
        if not cases:
            raise Unlifted(f"{b.name} is read and nothing that is known was written")
        out = cases[-1][1]
        for cond, value in reversed(cases[:-1]):
            out = chosen(cond, value, out)
        return out

    def match(self, w: Written, index: tuple[Expr, ...]) -> tuple[Expr, Expr] | None:
        """Condition and value of a store at an index; None where it cannot be it."""
        open_ = {n for n, _ in self.loops} & set(w.loops)
        own = w.kernel == self.kernel.name
        kept = open_ | (set(self.pids) if own else set())
        wanted = {n: c for n, c in w.variables.items() if n not in kept}
        solved, conditions = self.solve(w.index, index, wanted)
        left = set(wanted) - set(solved)
        solved |= {n: e for n, e in pinned(self.algebra, w.cond).items() if n in left}
        at = {var(n): e for n, e in solved.items()}
        missing = set(wanted) - set(solved)
        ends = {v for e in wanted.values() for v in free_vars(e)}
        if missing & (free_vars(w.value) | free_vars(w.cond) | ends):
            raise Unlifted(f"{w.name}: the index does not tell which iteration wrote it")
        conditions += [substitute(w.cond, at)]
        # what every iteration writes alike is there if there is one
        conditions += [call("lt", ZERO, substitute(wanted[n], at)) for n in sorted(missing)]
        for n, e in solved.items():
            conditions += [call("le", ZERO, e), call("lt", e, substitute(wanted[n], at))]
        cond = self.join.tidy(conjunction(conditions))
        known = self.algebra.normal(cond)
        if known is FALSE:
            return None
        value = self.join.tidy(substitute(w.value, at))
        return (TRUE if known is TRUE else cond), value

    def solve(
        self, pattern: Sequence[Expr], index: Sequence[Expr], wanted: Mapping[str, Expr]
    ) -> tuple[dict[str, Expr], list[Expr]]:
        """Variables of a store by the index that they make, and what has to hold besides."""
        solved: dict[str, Expr] = {}
        conditions: list[Expr] = []
        for p, e in zip(pattern, index, strict=True):
            at = {var(n): x for n, x in solved.items()}
            terms, rest = self.linear(substitute(p, at), wanted)
            left = e - rest
            terms.sort(key=lambda t: t[1])
            for k, (name, c) in enumerate(terms):
                if k + 1 == len(terms):
                    if c == 1:
                        solved[name] = left
                    else:
                        solved[name] = call("floordiv", left, c)
                        conditions.append(call("eq", call("mod", left, c), ZERO))
                    continue
                if c != 1:
                    conditions.append(call("eq", call("mod", left, c), ZERO))
                    left = call("floordiv", left, c)
                    terms[k + 1 :] = [(n, d // c) for n, d in terms[k + 1 :]]
                above = terms[k + 1][1]
                most = self.algebra.normal(wanted[name])
                if not self.at_most(most, above):
                    raise Unlifted("an index mixes variables that run too far")
                solved[name] = call("mod", left, above)
                left = call("floordiv", left, above)
                terms[k + 1 :] = [(n, d // above) for n, d in terms[k + 1 :]]
            if not terms:
                conditions.append(call("eq", left, ZERO))
        return solved, conditions

    def at_most(self, e: Expr, bound: int) -> bool:
        """Whether a count is at most a number; a minimum that is added is at most each operand."""
        if e.op == "max":
            return all(self.at_most(x, bound) for x in e.args)
        p = self.algebra.poly(e)
        for m, c in p.items():
            if len(m) != 1 or m[0][0].op != "min" or m[0][1] != 1 or c < 0:
                continue
            rest = {n: d for n, d in p.items() if n != m}
            if any(a is m[0][0] for n in rest for a, _ in n):
                continue
            for y in m[0][0].args:
                more = self.algebra.add(rest, scaled(self.algebra.poly(y), c))
                if self.at_most(self.algebra.expression(more, "int"), bound):
                    return True
        return self.algebra.nonnegative(self.algebra.poly(bound - e))

    def linear(self, e: Expr, wanted: Mapping[str, Expr]) -> tuple[list[tuple[str, int]], Expr]:
        """Coefficients of variables in an index, and the rest."""
        p: Poly = self.algebra.poly(e)
        terms: list[tuple[str, int]] = []
        rest: Poly = {}
        for m, c in p.items():
            names = {n for a, _ in m for n in free_vars(a)} & set(wanted)
            if not names:
                rest[m] = c
                continue
            if len(m) != 1 or m[0][0].op != "var" or m[0][1] != 1 or c <= 0:
                raise Unlifted("an index is no sum of its variables")
            terms.append((m[0][0].attr, int(c)))
        return terms, self.algebra.expression(rest, "int")

    def store(self, s: Store) -> None:
        axes = access_axes(s)
        variables: dict[str, Expr] = dict(self.pids)
        variables |= dict(self.loops)
        for a in axes:
            self.lane(a)
            variables[self.lanes[a]] = const(a.extent)
        cond = conjunction([*self.path, self.index(s.mask)])
        w = Written(
            s.name,
            tuple(self.index(i) for i in s.index),
            _as(self.value(s.value), s.buffer.dtype.kind),
            cond,
            variables,
            tuple(n for n, _ in self.loops),
            self.kernel.name,
        )
        self.memory.setdefault(s.buffer.name, []).append(w)

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
                raise Unlifted(f"{s.name} combines into memory")
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

    def loop(self, s: For) -> None:
        lo, hi = self.index(s.lo), self.index(s.hi)
        extent = self.algebra.normal(hi - lo)
        ends = hi.args if hi.op == "min" else (hi,)
        if not all(self.algebra.nonnegative(self.algebra.poly(e - lo)) for e in ends):
            extent = call("max", extent, 0)
        count = self.algebra.normal(cdiv(extent, s.step))
        name = f"@{s.variable}.{self.kernel.name}"
        for b in _stored(s.body):
            self.memory.setdefault(b, []).append(Unknown(s.variable))
        marks = {b: len(self.memory[b]) for b in _stored(s.body)}
        states = [leaf("state", f"{p.name}.{self.kernel.name}", p.dtype.kind) for p in s.params]
        self.env |= dict(zip(s.params, states, strict=True))
        old = self.at.get(s.variable)
        self.at[s.variable] = self.algebra.normal(lo + s.step * var(name))
        self.loops.append((name, count))
        with self.algebra.binding(name, (ZERO, count)):
            self.block(s.body)
            yields = [self.value(y) for y in s.yields]
        self.algebra.ranges[name] = (ZERO, count)  # stores speak of it
        self.loops.pop()
        if old is not None:
            self.at[s.variable] = old
        for b, mark in marks.items():  # what the iterations wrote is known by its index now
            held = self.memory[b]
            if isinstance(held[mark - 1], Unknown):
                held.pop(mark - 1)
        inits = [self.value(i) for i in s.inits]
        index = Index(name, count, lo, s.step, extent)
        for r, e in zip(s.results, self.carried(s, index, states, inits, yields), strict=True):
            self.env[r] = e

    def carried(
        self,
        s: For,
        index: Index,
        states: Sequence[Expr],
        inits: Sequence[Expr],
        yields: Sequence[Expr],
    ) -> list[Expr]:
        """What a loop's state is after it."""
        out: list[Expr] = []
        anchored: list[int] = []
        every = set(states)
        for own, init, y in zip(states, inits, yields, strict=True):
            used = {x for x in walk(y) if x in every}
            if y is own:
                out.append(init)
            elif not used:
                last = {var(index.name): index.count - 1}
                some = self.algebra.normal(call("lt", 0, index.count))
                value = self.join.tidy(substitute(y, last))
                out.append(value if some is TRUE else chosen(some, value, init))
            elif used == {own}:
                kind, term = combined(y, own)
                folded = self.join.over(kind, index, term)
                out.append(self.join.combined(kind, [init, folded], y.kind))
            else:
                out.append(own)  # it reads other states: their ends are needed
                anchored.append(len(out) - 1)
        for n in anchored:
            known = {
                x: (yields[k], inits[k], out[k]) for k, x in enumerate(states) if k not in anchored
            }
            out[n] = self.anchored(index, states[n], yields[n], inits[n], known)
        return out

    def anchored(
        self,
        index: Index,
        own: Expr,
        y: Expr,
        init: Expr,
        known: Mapping[Expr, tuple[Expr, Expr, Expr]],
    ) -> Expr:
        """The end of a sum that is kept at anchors: y = own * c + d, where d is at the new anchors
        and c moves what is at the old ones there, so that the end is the sum of all d at the
        anchors' ends. `known` has what becomes of an anchor, how it begins and ends."""
        name = own.attr.partition(".")[0]
        if init.op != "const" or init.attr != 0:
            raise Unlifted(f"{name} reads other states and does not begin at 0")
        after = {a: leaf("state", f"{a.attr}!", a.kind) for a in known}
        moved = {settled(self.join.tidy(step)): after[a] for a, (step, _, _) in known.items()}
        by_condition, y = masked(moved), self.join.tidy(y)
        for _ in range(ROUNDS):  # what a new anchor makes of a choice may be one itself
            y = transform(settled(y, by_condition), moved.get)
        found = linear_in(y, own)
        if found is None:
            raise Unlifted(f"{name} is carried by no plain reduction")
        c, d = found
        if index.name in free_vars(c):
            raise Unlifted(f"{name} is moved by what is known of one element")
        if any(x.op == "state" and x not in after.values() for x in walk(d)):
            raise Unlifted(f"{name} takes elements at the anchors before them")
        algebra = self.algebra
        back = {new: old for old, new in after.items()}
        at_old = substitute(d, back)
        one, two = (algebra.normal(x) for x in (call("mul", c, at_old), d))
        if one is not two and not equal_reals(algebra, algebra.poly(one), algebra.poly(two)):
            raise Unlifted(f"{name}: what moves its sum was not shown to move every element")
        for a, (step, begin, _) in known.items():
            if after[a] not in set(walk(d)) or begin.op != "const" or math.isfinite(begin.attr):
                continue
            empty = algebra.normal(call("mul", substitute(c, {a: begin}), const(0.0)))
            if empty is not algebra.normal(const(0.0)):
                raise Unlifted(f"{name}: an empty sum may become something else")
            kind, block = combined(self.join.tidy(step), a)
            first = self.join.tidy(substitute(block, {var(index.name): ZERO}))
            if algebra.finite(guarded(first)):
                continue  # from the first iteration on the anchor is a number
            if not guards(kind, block) <= guards("sum", d):
                raise Unlifted(f"{name} takes elements that its anchor may have left out")
        ends = {after[a]: end for a, (_, _, end) in known.items()}
        return self.join.over("sum", index, substitute(d, ends))


def chosen(cond: Expr, a: Expr, b: Expr) -> Expr:
    """A choice of values of any kind."""
    return (cond & a) | (~cond & b) if a.kind == "bool" else call("select", cond, a, b)


def _as(e: Expr, kind: str) -> Expr:
    if e.kind == kind:
        return e
    if kind == "real":
        return toreal(e) if e.kind == "int" else call("select", e, 1.0, 0.0)
    if kind == "int":
        return call("select", e, 1, 0) if e.kind == "bool" else call("trunc", e)
    nothing = const(0 if e.kind == "int" else 0.0)
    return _decided("ne", e, nothing) or call("ne", e, nothing)


def _decided(op: str, a: Expr, b: Expr) -> Expr | None:
    """A comparison with an integer that stands for a truth value as that truth value."""
    if a.kind != "int" or b.op != "const":
        return None
    if a.op == "const":
        return call(op, a, b)
    if a.op != "select":
        return None
    yes, no = (_decided(op, x, b) for x in a.args[1:])
    if yes is None or no is None:
        return None
    return call("or", call("and", a.args[0], yes), call("and", call("not", a.args[0]), no))


def _stored(body: Iterable[Stmt]) -> list[str]:
    """Buffers that a body writes."""
    found = (s.buffer.name for s in statements(body) if isinstance(s, Store | Atomic))
    return list(dict.fromkeys(found))


def unflattened(t: Tensor, b: Buffer, index: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """An index of a buffer as one of its tensor, where the program sees it as one axis."""
    if len(index) == len(t.axes):
        return index
    if len(index) != 1:
        raise Unlifted(f"{b.name} is seen with {len(index)} axes")
    out: list[Expr] = []
    rest = index[0]
    for a in reversed(t.axes[1:]):
        out.append(call("mod", rest, a.hi))
        rest = call("floordiv", rest, a.hi)
    return (rest, *reversed(out))[: len(t.axes)] if t.axes else ()


__all__ = ["Lift", "Unknown", "Unlifted", "Written", "chosen", "unflattened"]
