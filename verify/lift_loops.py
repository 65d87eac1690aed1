"""Loops of a tile program: what their state and the memory that they write are, at the end and
when an iteration begins.

An iteration reads states and memory of which only the ones before it tell. What they hold is a
reduction over these; memory that they did not write is what it was before the loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations, product

from opwright.ir.expr import (
    FALSE,
    ONE,
    TRUE,
    ZERO,
    Expr,
    Fold,
    call,
    cdiv,
    conjunction,
    const,
    free_vars,
    leaf,
    read_parts,
    rebuild,
    rename,
    substitute,
    transform,
    var,
    walk,
)
from opwright.ir.tile import Atomic, Buffer, For, Stmt, Store, statements
from opwright.verify.algebra import infinite
from opwright.verify.anchors import Anchors, asks_if_empty
from opwright.verify.carried import (
    NotCarried,
    combined,
    guarded,
    guards,
    linear_in,
    masked,
    settled,
)
from opwright.verify.contribution import Contribution
from opwright.verify.lift_memory import Memory, Unknown, Unlifted, Written, chosen
from opwright.verify.nests import Index, nonzero
from opwright.verify.places import Places
from opwright.verify.reals import Reals, equal_reals

ROUNDS = 3
MASKS = 3  # conditions of an element that are looked at one by one


@dataclass(frozen=True, slots=True)
class Turn:
    """A loop whose body was run once: its index, its states, and for every buffer that it writes
    how much of what was written is from before it."""

    index: Index
    states: tuple[Expr, ...]
    inits: tuple[Expr, ...]
    yields: tuple[Expr, ...]
    marks: Mapping[str, int]

    def memory(self, b: str) -> str:
        """The name of the tensor that stands for a buffer when an iteration begins."""
        return f"{b}@{self.index.name}"


class Loops(Memory):
    """Loops, over what `Memory` knows."""

    @cached_property
    def places(self) -> Places:
        """Places of extremes that loops keep."""
        return Places(self.join)

    @cached_property
    def anchors(self) -> Anchors:
        """Sums that are kept at extremes."""
        return Anchors(self.join)

    def block(self, body: Iterable[Stmt]) -> None:
        """The statements of a body, in order."""
        raise AssertionError(f"{type(self).__name__} has no statements")

    def loop(self, s: For) -> None:
        lo, hi = self.index(s.lo), self.index(s.hi)
        extent = self.algebra.normal(hi - lo)
        ends = hi.args if hi.op == "min" else (hi,)
        if not all(self.algebra.nonnegative(self.algebra.poly(e - lo)) for e in ends):
            extent = call("max", extent, 0)
        count = self.algebra.normal(cdiv(extent, s.step))
        name = f"@{s.variable}.{self.kernel.name}"
        marks = {}
        for b in _stored(s.body):
            marks[b] = len(self.memory.setdefault(b, []))
            self.memory[b].append(Unknown(s.variable, name))
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
        inits = [self.value(i) for i in s.inits]
        index = Index(name, count, lo, s.step, extent)
        turn = Turn(index, tuple(states), tuple(inits), tuple(yields), marks)
        for r, e in zip(s.results, self.after(turn), strict=True):
            self.env[r] = e

    def after(self, turn: Turn) -> list[Expr]:
        """What a loop's states are after it; what its stores hold is in terms of its counter."""
        before = {b: self.memory[b][:mark] for b, mark in turn.marks.items()}
        written = {b: list(self.memory[b][mark + 1 :]) for b, mark in turn.marks.items()}
        for b in turn.marks:
            self.memory[b] = [*before[b], *written[b]]
        known: dict[str, Callable[[tuple[Expr, ...]], Expr]] = {}
        for k in self.kernel.buffers:
            if k.name in turn.marks:
                known[turn.memory(k.name)] = self.holder(turn, k, before[k.name], written[k.name])
        turn = replace(turn, yields=tuple(self.told(y, known) for y in turn.yields))
        ends = self.carried(turn.index, turn.states, turn.inits, turn.yields)
        starts: dict[Expr, Expr] | str | None = None
        once = self.at_most(turn.index.count, 1)
        for b, stores in written.items():
            made: list[Written | Unknown | Contribution] = []
            for w in stores:
                if isinstance(w, Contribution):
                    if any(_reads(e, set(known)) for e in (*w.index, w.value, w.cond)):
                        raise Unlifted(f"{w.name} combines what earlier iterations wrote")
                    if set(turn.states) & {x for e in (w.value, w.cond) for x in walk(e)}:
                        raise Unlifted(f"{w.name} combines a state of its loop")
                    made.append(w)
                    continue
                assert isinstance(w, Written)
                if once:
                    w = self.first(w, turn.index.name)
                try:
                    w = self.rewritten(w, known)
                    if set(turn.states) & set(walk(w.value)) | set(turn.states) & set(walk(w.cond)):
                        if starts is None:
                            starts = self.starts(turn)
                        if isinstance(starts, str):
                            raise Unlifted(starts)
                        value, cond = (transform(e, starts.get) for e in (w.value, w.cond))
                        w = self.regrouped(replace(w, value=value, cond=cond))
                except NotCarried as e:
                    w = replace(w, why=w.why or str(e))
                made.append(w)
            self.memory[b] = [*before[b], *made]
        return ends

    def first(self, w: Written, counter: str) -> Written:
        """A store of a loop that runs once, if at all."""
        at = {var(counter): ZERO}
        index = tuple(self.join.tidy(substitute(i, at)) for i in w.index)
        value, cond = (self.join.tidy(substitute(e, at)) for e in (w.value, w.cond))
        return replace(w, index=index, value=value, cond=cond)

    def rewritten(
        self, w: Written, known: Mapping[str, Callable[[tuple[Expr, ...]], Expr]]
    ) -> Written:
        """A store with what memory held when its iteration began."""
        names = set(known)
        if not any(_reads(e, names) for e in (w.value, w.cond, *w.index, *w.variables.values())):
            return w
        if any(_reads(e, names) for e in (*w.index, *w.variables.values())):
            raise Unlifted(f"{w.name}: where it stores is in memory that its loop writes")
        w = replace(w, value=self.told(w.value, known), cond=self.told(w.cond, known))
        return self.regrouped(w)

    def told(self, e: Expr, known: Mapping[str, Callable[[tuple[Expr, ...]], Expr]]) -> Expr:
        """An expression with reads of memory replaced, each where what folds bind is known."""
        names = set(known)

        def go(x: Expr, memo: dict[Expr, Expr]) -> Expr:
            if x not in memo:
                if not _reads(x, names):
                    memo[x] = x
                elif x.op == "read" and x.attr[0] in known:
                    memo[x] = known[x.attr[0]](tuple(go(a, memo) for a in read_parts(x)[1]))
                elif x.op == "fold":
                    f = Fold(x)
                    with ExitStack() as inside:
                        for name, span in zip(f.binders, f.ranges, strict=True):
                            inside.enter_context(self.algebra.binding(name, span))
                        own: dict[Expr, Expr] = {}
                        memo[x] = rebuild(x, tuple(go(a, own) for a in x.args))
                else:
                    memo[x] = rebuild(x, tuple(go(a, memo) for a in x.args))
            return memo[x]

        return go(e, {})

    def holder(
        self,
        turn: Turn,
        b: Buffer,
        before: Sequence[Written | Unknown | Contribution],
        written: Sequence[Written | Unknown | Contribution],
    ) -> Callable[[tuple[Expr, ...]], Expr]:
        """What a buffer holds at an index when an iteration begins."""
        memo: dict[tuple[object, ...], Expr] = {}

        def at(index: tuple[Expr, ...]) -> Expr:
            names = sorted({v for i in index for v in free_vars(i)})
            key = (*index, *(self.algebra.ranges.get(v) for v in names))
            if key not in memo:
                memo[key] = self.held(turn, b, index, before, written)
            return memo[key]

        return at

    def held(
        self,
        turn: Turn,
        b: Buffer,
        index: tuple[Expr, ...],
        before: Sequence[Written | Unknown | Contribution],
        written: Sequence[Written | Unknown | Contribution],
    ) -> Expr:
        """What a buffer holds at an index when iteration `var(turn.index.name)` begins."""
        name, kind = turn.index.name, b.dtype.kind
        earlier = {name: var(name)}
        stores = [w for w in written if isinstance(w, Written)]
        if len(stores) < len(written):
            raise Unlifted(f"{b.name} is combined into and read across iterations")
        try:
            touching = [w for w in stores if self.match(w, index, earlier) is not None]
        except Unlifted:
            touching = stores  # where no index tells the iteration it may be any
        if not touching:
            return self.found(b, index, kind, before)
        if len(touching) != 1:
            raise Unlifted(f"{b.name} is read across iterations of {_short(name)}")
        m = self.join.fresh("m")
        (w,) = touching
        counter = {name: m}
        w = replace(
            w,
            value=rename(w.value, counter),
            cond=rename(w.cond, counter),
            index=tuple(rename(i, counter) for i in w.index),
            variables={n: rename(e, counter) for n, e in w.variables.items() if n != name},
        )
        with self.algebra.binding(m, (ZERO, var(name))):
            found = self.match(w, index, kept=frozenset((m,)))
            if found is None or found.cond is not TRUE:
                raise Unlifted(f"{b.name} is not written by every iteration of {_short(name)}")
            own = leaf("state", f"{turn.memory(b.name)}", kind)
            here = [self.algebra.normal(i) for i in index]

            def rule(x: Expr) -> Expr | None:
                if x.op != "read" or x.attr[0] != turn.memory(b.name):
                    return None
                if [self.algebra.normal(i) for i in read_parts(x)[1]] != here:
                    raise Unlifted(f"{b.name} is read across iterations of {_short(name)}")
                return own

            value = transform(found.value, rule)
            others = {turn.memory(c) for c in turn.marks}
            if _reads(value, others) or set(turn.states) & set(walk(value)):
                raise Unlifted(f"{b.name} is written by what other memory held before")
            return self.accumulated(turn, b, index, value, own, m, before)

    def accumulated(
        self,
        turn: Turn,
        b: Buffer,
        index: tuple[Expr, ...],
        value: Expr,
        own: Expr,
        m: str,
        before: Sequence[Written | Unknown | Contribution],
    ) -> Expr:
        """An element that every iteration m before this one set to `value`, of what it held."""
        n, step = var(turn.index.name), turn.index.unit
        first: Expr | None = None
        if any(not isinstance(w, Written) or self.match(w, index) is not None for w in before):
            first = self.found(b, index, b.dtype.kind, before)
        elif b.role != "program":
            first = self.found(b, index, b.dtype.kind, before)
        algebra, part = self.algebra, Index(m, n, turn.index.first, step, step * n)
        with algebra.binding(m, (ONE, n)):
            later = self.join.tidy(value)
            kind, term = combined(later, own)
        start = self.join.tidy(substitute(value, {var(m): ZERO}))
        if own not in set(walk(start)):  # the first one sets what others add to
            same = algebra.normal(substitute(term, {var(m): ZERO}))
            if same is not algebra.normal(start):
                raise Unlifted(f"{b.name} begins with what its other iterations do not add")
            folded = self.join.over(kind, part, term)
            return folded if first is None else chosen(call("lt", ZERO, n), folded, first)
        with algebra.binding(m, (ZERO, n)):
            kind, term = combined(self.join.tidy(value), own)
        if first is None:
            raise Unlifted(f"{b.name} is added to and nothing that is known was written")
        return self.join.combined(kind, [first, self.join.over(kind, part, term)], value.kind)

    def starts(self, turn: Turn) -> dict[Expr, Expr] | str:
        """States when an iteration begins, or why they are not known."""
        name, step = turn.index.name, turn.index.unit
        if self.at_most(turn.index.count, 1):
            return dict(zip(turn.states, turn.inits, strict=True))
        m = self.join.fresh("m")
        counter = {name: m}
        part = Index(m, var(name), turn.index.first, step, step * var(name))
        yields = [rename(y, counter) for y in turn.yields]
        with self.algebra.binding(m, (ZERO, var(name))):
            try:
                found = self.carried(part, turn.states, turn.inits, yields)
            except NotCarried as e:
                return str(e)
        return dict(zip(turn.states, found, strict=True))

    def carried(
        self,
        index: Index,
        states: Sequence[Expr],
        inits: Sequence[Expr],
        yields: Sequence[Expr],
    ) -> list[Expr]:
        """What a loop's state is after it."""
        out: list[Expr] = []
        anchored: list[int] = []
        every = set(states)
        pairs = self.pairs(index, states, inits, yields)
        for own, init, y in zip(states, inits, yields, strict=True):
            used = {x for x in walk(y) if x in every}
            if own in pairs:
                out.append(pairs[own])
            elif y is own:
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

    def pairs(
        self,
        index: Index,
        states: Sequence[Expr],
        inits: Sequence[Expr],
        yields: Sequence[Expr],
    ) -> dict[Expr, Expr]:
        """The ends of states that are an extreme and its place."""
        out: dict[Expr, Expr] = {}
        for n, m in permutations(range(len(states)), 2):
            both = {states[n], states[m]}
            if states[m].kind != "int" or both & set(out) or states[n] not in set(walk(yields[m])):
                continue
            of = [(v[n], v[m]) for v in (states, inits, yields)]
            if (made := self.places.ends(index, of[0], of[1], of[2])) is not None:
                out |= zip(of[0], made, strict=True)
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
        mask, y, steps = kept_back(own, settled(y), {a: settled(k[0]) for a, k in known.items()})
        known = {a: (steps[a], *k[1:]) for a, k in known.items()}
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
            if mask is TRUE and algebra.finite(guarded(first)):
                continue  # from the first iteration on the anchor is a number
            if not guards(kind, block) <= guards("sum", d):
                raise Unlifted(f"{name} takes elements that its anchor may have left out")
            if all(asked_before(e, after[a]) for e in (c, d)):
                continue
            taken = nonzero(kind, block)
            if is_number(algebra, block) and stays_nothing(algebra, y, own, taken, after, known):
                # where an element counts, its anchor is a number
                d = call("select", conjunction(taken), numbers(d, after[a]), const(0.0))
            else:
                raise Unlifted(f"{name}: its anchor may be infinite, and is not asked if it is")
        ends = {after[a]: end for a, (_, _, end) in known.items()}
        d = d if mask is TRUE else call("select", mask, d, const(0.0))
        with algebra.binding(index.name, (ZERO, index.count)):
            d = self.anchors.opened(substitute(d, ends))
        return self.join.over("sum", index, d)


def kept_back(
    own: Expr, y: Expr, steps: Mapping[Expr, Expr]
) -> tuple[Expr, Expr, dict[Expr, Expr]]:
    """A condition without which an iteration keeps a state and all others that it reads, and what
    becomes of them where it holds: an iteration that keeps everything is none."""
    out, made = TRUE, dict(steps)
    while y.op == "select" and y.args[2] is own:
        c, one, _ = y.args
        read = set(walk(y)) & set(steps)
        if any(x.op == "state" for x in walk(c)):
            break
        moved = {a: made[a] for a in read if made[a] is not a}
        if not all(s.op == "select" and s.args[0] is c and s.args[2] is a
                   for a, s in moved.items()):  # fmt: skip
            break
        out, y = out & c, settled(one, None)
        made |= {a: s.args[1] for a, s in moved.items()}
    return out, y, made


def asked_before(e: Expr, anchor: Expr) -> bool:
    """Whether an anchor is used only where it is not infinite."""

    def rule(x: Expr) -> Expr | None:
        if x.op == "select" and x.args[2] is anchor and asks_if_empty(x.args[0]) is anchor:
            return x.args[1]
        return None

    return anchor not in set(walk(transform(e, rule)))


def is_number(algebra: Reals, e: Expr) -> bool:
    """Whether a value is a number where its conditions hold, and infinite elsewhere."""
    while e.op == "select" and infinite(e.args[2]):
        e = e.args[1]
    return algebra.finite(e) and not any(x.op in ("max", "min") for x in walk(e))


def stays_nothing(
    algebra: Reals,
    y: Expr,
    own: Expr,
    conditions: Sequence[Expr],
    after: Mapping[Expr, Expr],
    known: Mapping[Expr, tuple[Expr, Expr, Expr]],
) -> bool:
    """Whether a sum of nothing, at anchors of nothing, stays 0 where an element is left out."""
    if not 0 < len(conditions) <= MASKS:
        return False
    at: dict[Expr, Expr] = {own: const(0.0)}
    for a, (_, begin, _) in known.items():
        at |= {a: begin, after[a]: begin}
    for values in product((TRUE, FALSE), repeat=len(conditions)):
        case = dict(zip(conditions, values, strict=True))
        found = algebra.normal(transform(transform(y, case.get), at.get))
        if FALSE in values and found is not algebra.normal(const(0.0)):
            return False
    return True


def numbers(e: Expr, anchor: Expr) -> Expr:
    """The expression where an anchor is a number: comparisons of it with infinities fail."""

    def rule(x: Expr) -> Expr | None:
        if x.op in ("eq", "ne") and anchor in x.args and any(map(infinite, x.args)):
            return TRUE if x.op == "ne" else FALSE
        return None

    return transform(e, rule)


def _reads(e: Expr, names: set[str]) -> bool:
    return any(x.op == "read" and x.attr[0] in names for x in walk(e))


def _short(counter: str) -> str:
    return counter[1:].partition(".")[0]


def _stored(body: Iterable[Stmt]) -> list[str]:
    """Buffers that a body writes."""
    found = (s.buffer.name for s in statements(body) if isinstance(s, Store | Atomic))
    return list(dict.fromkeys(found))
