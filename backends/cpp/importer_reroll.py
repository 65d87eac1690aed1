"""Unrolled pieces as one value over the whole axis.

`t__0`, `t__16`, `t__32` are taken for the pieces of one tile if all they are made of, and all that
is made of them, is the same statement at 0, 16 and 32: names only propose, structure decides. What
does not fit stays in pieces. A piece over a lane axis extends it; a piece without becomes a lane of
a new axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from opwright.backends.cpp.importer_blocks import Block, accesses, conflict
from opwright.backends.cpp.importer_polynomials import canonical
from opwright.backends.cpp.importer_rewrite import alive, read
from opwright.ir.expr import (
    TRUE,
    Expr,
    ExprError,
    call,
    conjuncts,
    const,
    leaf,
    leaves,
    rebuild,
    substitute,
)
from opwright.ir.polynomial import polynomial
from opwright.ir.semantics import MONOIDS, ROWS
from opwright.ir.tile import (
    Atomic,
    Axis,
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
    statements,
)

Tuple = tuple[Value, ...]


class _No(Exception):
    """These pieces are no pieces of one whole."""


class _Stuck(_No):
    """Joining would take an access past another one."""

    def __init__(self, value: Value | None) -> None:
        super().__init__()
        self.value = value


class _Clash(Exception):
    """The new axis is in use where it would stand."""


@dataclass(slots=True)
class Plan:
    """What to join: values, stores and checks, reductions of pieces, and over which axis."""

    old: Axis | None  # that is extended; None makes a new axis
    axis: Axis
    values: dict[Value, Tuple] = field(default_factory=dict)  # each member -> its tuple
    stores: dict[Stmt, tuple[Stmt, ...]] = field(default_factory=dict)
    sums: dict[Value, tuple[str, Tuple, tuple[Value, ...]]] = field(default_factory=dict)


def reroll(k: Kernel, labels: Mapping[Value, str]) -> Kernel:
    """The kernel with pieces joined as far as they fit."""
    names = dict(labels)
    failed: set[tuple[str, ...]] = set()
    while True:
        for seed in _seeds(k, names):
            key = tuple(v.name for v in seed[0])
            if key in failed:
                continue
            try:
                k = _Joiner(k, names).join(*seed)
                failed.clear()
                break
            except (_No, _Clash, ExprError):
                failed.add(key)
        else:
            break
    return _uniform_stores(k, names)


def parts_of(label: str) -> tuple[str, tuple[int, ...]] | None:
    """Base and coordinates of a name like `acc__3__16`."""
    base, *at = label.split("__")
    if not at or not base or not all(c.isdigit() for c in at):
        return None
    return base, tuple(int(c) for c in at)


def _seeds(k: Kernel, labels: Mapping[Value, str]) -> list[tuple[Tuple, Axis | None]]:
    """Tuples of values that names say are pieces; extensions of lane axes first."""
    families: dict[tuple[str, int], dict[tuple[int, ...], Value]] = {}
    for v in _values(k):
        found = parts_of(labels.get(v, ""))
        if found is not None:
            families.setdefault((found[0], len(found[1])), {}).setdefault(found[1], v)
    extended: list[tuple[Tuple, Axis | None]] = []
    new: list[tuple[Tuple, Axis | None]] = []
    for (_, rank), members in families.items():
        for d in reversed(range(rank)):
            rows: dict[tuple[int, ...], dict[int, Value]] = {}
            for at, v in members.items():
                rows.setdefault((*at[:d], *at[d + 1 :]), {})[at[d]] = v
            for row in rows.values():
                at_ = sorted(row)
                if len(at_) < 2 or at_ != list(range(0, len(at_) * (at_[1] or 1), at_[1] or 1)):
                    continue
                whole = tuple(row[c] for c in at_)
                axis = next((a for a in whole[0].axes if a.extent == at_[1]), None)
                if at_[1] > 1 and axis is not None:
                    extended.append((whole, axis))
                elif at_[1] == 1:
                    new.append((whole, None))
    return [*extended, *new]


def _values(k: Kernel) -> list[Value]:
    out: list[Value] = []
    for s in statements(k.body):
        if isinstance(s, Def):
            out.append(s.value)
        elif isinstance(s, For):
            out += [*s.params, *s.results]
    return out


class _Joiner:
    """Follows operands and uses from one tuple; joins everything or nothing."""

    def __init__(self, k: Kernel, labels: dict[Value, str]) -> None:
        self.k, self.labels = k, labels
        self.home: dict[Value, Block] = {}  # the block that defines a value
        self.uses: dict[Value, list[tuple[Stmt, Block]]] = {}
        self.loops: dict[Value, tuple[For, str, int]] = {}
        self.blocks: list[Block] = []
        self.late = False  # whether loads go to their last piece
        self.collect(k.body)

    def collect(self, body: tuple[Stmt, ...]) -> None:
        block = Block(body)
        self.blocks.append(block)
        for s in body:
            for v in dict.fromkeys(read(s)):
                self.uses.setdefault(v, []).append((s, block))
            if isinstance(s, Def):
                self.home[s.value] = block
            elif isinstance(s, For):
                for n, (p, r) in enumerate(zip(s.params, s.results, strict=True)):
                    self.loops[p], self.loops[r] = (s, "param", n), (s, "result", n)
                self.collect(s.body)
            elif isinstance(s, If):
                self.collect(s.then)
                self.collect(s.other)

    # -- the closure
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
            self.todo: list[Tuple] = []
            try:
                begin()
                self.follow()
                self.free()
            except _Clash:
                continue
            self.settle_order(old, count)
            return self.apply()
        raise _No

    def follow(self) -> None:
        while self.todo:
            t = self.todo.pop()
            self.operands(t)
            self.users(t)

    def free(self) -> None:
        """Nothing that is joined runs over the new axis already."""
        axis = self.plan.axis
        for v in self.plan.values:
            if axis in v.axes or any(axis in a.axes for a in v.args):
                raise _Clash
        if axis in lanes(*(e for s in self.plan.stores for e in _exprs(s))):
            raise _Clash

    def want(self, t: Tuple) -> None:
        """These values are the pieces of one."""
        known = [self.plan.values.get(v) for v in t]
        if all(x == t for x in known):
            return
        if any(x is not None for x in known) or len(set(t)) != len(t):
            raise _No
        if len({(v.op, v.dtype, v.axes) for v in t}) != 1:
            raise _No
        if self.plan.old is not None and self.plan.old not in t[0].axes:
            raise _No
        for v in t:
            self.plan.values[v] = t
        self.todo.append(t)

    def alike(self, t: Tuple) -> None:
        """Operands at one place: one value for all pieces, or pieces themselves."""
        if all(v is t[0] for v in t):
            if self.plan.old is not None and self.plan.old in t[0].axes:
                raise _No
            return
        self.want(t)

    def operands(self, t: Tuple) -> None:
        first = t[0]
        if first.op in ("param", "result"):
            self.state(t)
            return
        if len({id(self.home[v]) for v in t}) != 1:
            raise _No
        for n in range(len(first.args)):
            if any(len(v.args) != len(first.args) for v in t):
                raise _No
            self.alike(tuple(v.args[n] for v in t))
        self.attribute(t)
        if self.plan.old is None and not self.varies(t):
            raise _No

    def varies(self, t: Tuple) -> bool:
        """Whether pieces of a new axis differ at all."""
        first = t[0]
        if first.op in ("full", "index", "param", "result"):
            return True
        if first.op == "load":
            m = first.attr
            return any(v.attr.index != m.index or v.attr.mask is not m.mask for v in t)
        return any(v.args != first.args for v in t)

    def attribute(self, t: Tuple) -> None:
        first = t[0]
        if first.op == "index":
            self.rolled(tuple(v.attr for v in t))
        elif first.op == "load":
            self.rolled_access(tuple(v.attr for v in t))
            if len({repr(v.attr.other) for v in t}) != 1:
                raise _No
        elif first.op == "full":
            if len({repr(v.attr) for v in t}) != 1:
                raise _No
        elif first.op in ("cast", "round") or first.op in ROWS:
            return
        elif first.op in ("reduce", "opaque"):
            if any(v.attr != first.attr for v in t):
                raise _No
        else:
            raise _No

    def state(self, t: Tuple) -> None:
        """Carried state: initial, inner, next and final pieces of one loop."""
        places = [self.loops[v] for v in t]
        loop, kind, _ = places[0]
        if any(p[0] is not loop or p[1] != kind for p in places):
            raise _No
        at = [p[2] for p in places]
        for part in (loop.inits, loop.params, loop.yields, loop.results):
            self.want(tuple(part[n] for n in at))

    def users(self, t: Tuple) -> None:
        """Every use of a piece is the same use of the others, or a reduction of all of them."""
        rows = [self.uses.get(v, []) for v in t]
        sums = self.reduction(t)
        kept = [[u for u in row if u[0] not in sums] for row in rows]
        if len({len(row) for row in kept}) != 1:
            raise _No
        for users in zip(*kept, strict=True):
            stmts = tuple(s for s, _ in users)
            if len({id(b) for _, b in users}) != 1:
                raise _No
            first = stmts[0]
            if isinstance(first, For) and all(s is first for s in stmts):
                self.in_loop(first, t)
            elif isinstance(first, Def) and all(isinstance(s, Def) for s in stmts):
                self.want(tuple(s.value for s in stmts if isinstance(s, Def)))
            elif isinstance(first, Store | Check):
                self.together(stmts)
            else:
                raise _No

    def in_loop(self, s: For, t: Tuple) -> None:
        found = False
        if any(v in leaves_of(s.lo, s.hi) for v in t):
            raise _No
        for part in (s.inits, s.yields):
            at = [[n for n, x in enumerate(part) if x is v] for v in t]
            if len({len(a) for a in at}) != 1:
                raise _No
            for places in zip(*at, strict=True):
                found = True
                self.want(tuple(s.params[n] for n in places))
        if not found:
            raise _No

    def together(self, stmts: tuple[Stmt, ...]) -> None:
        """Stores (or checks) that are one store over the whole axis."""
        first = stmts[0]
        if self.plan.stores.get(first) == stmts:
            return
        if any(s in self.plan.stores for s in stmts) or len(set(stmts)) != len(stmts):
            raise _No
        if any(type(s) is not type(first) for s in stmts):
            raise _No
        for s in stmts:
            self.plan.stores[s] = stmts
        if isinstance(first, Check):
            if any(s.kind != first.kind for s in stmts):  # type: ignore[union-attr]
                raise _No
            self.rolled(tuple(s.cond for s in stmts))  # type: ignore[union-attr]
            return
        self.alike(tuple(s.value for s in stmts))  # type: ignore[union-attr]
        self.rolled_access(stmts)

    # -- reductions of pieces
    def reduction(self, t: Tuple) -> set[Stmt]:
        """Statements that combine all pieces of a tuple into one, and nothing else."""
        out: set[Stmt] = set()
        for s, _ in self.uses.get(t[0], []):
            if not isinstance(s, Def) or s.value.op not in _COMBINE or s in out:
                continue
            monoid = _COMBINE[s.value.op]
            inside: list[Value] = []
            top = self.climb(s.value, monoid)
            if sorted(self.under(top, monoid, inside, set(t)), key=id) != sorted(t, key=id):
                continue
            if any(self.labels.get(v) and v is not top for v in inside):
                continue
            if self.plan.old is not None:
                ends = self.uses.get(top, [])
                end = ends[0][0] if len(ends) == 1 else None
                if not isinstance(end, Def) or end.value.op != "reduce" or self.labels.get(top):
                    continue
                if end.value.attr != (monoid, self.plan.old):
                    continue
                self.plan.sums[end.value] = (monoid, t, tuple(inside))
            else:
                self.plan.sums[top] = (monoid, t, tuple(v for v in inside if v is not top))
            out |= {u for v in t for u, _ in self.uses[v] if u_value(u) in set(inside)}
        return out

    def climb(self, v: Value, monoid: str) -> Value:
        """The last of a chain of the same operation whose steps have one use each."""
        while True:
            found = self.uses.get(v, [])
            up = found[0][0] if len(found) == 1 else None
            if self.labels.get(v) or not isinstance(up, Def) or _COMBINE.get(up.value.op) != monoid:
                return v
            v = up.value

    def under(self, v: Value, monoid: str, inside: list[Value], stop: set[Value]) -> list[Value]:
        inside.append(v)
        out: list[Value] = []
        for a in v.args:
            deeper = _COMBINE.get(a.op) == monoid and a not in stop and not self.labels.get(a)
            out += self.under(a, monoid, inside, stop) if deeper else [a]
        return out

    # -- expressions
    def rolled_access(self, found: tuple[Any, ...]) -> None:
        first = found[0]
        if any(m.buffer != first.buffer for m in found):
            raise _No
        for d in range(len(first.index)):
            self.rolled(tuple(m.index[d] for m in found))
        self.rolled_mask(tuple(m.mask for m in found))

    def rolled(self, es: tuple[Expr, ...]) -> Expr:
        """One expression that is each of these at its piece; values in them are pieces, too."""
        if self.plan.axis in lanes(*es):
            raise _Clash
        inner = [leaves(e, "value") for e in es]
        if len({len(x) for x in inner}) != 1:
            raise _No
        moved: list[dict[Expr, Expr]] = [{} for _ in es]
        for row in zip(*inner, strict=True):
            self.alike(tuple(x.attr for x in row))
            for n, x in enumerate(row):
                moved[n][x] = row[0]
        plain = [substitute(e, m) for e, m in zip(es, moved, strict=True)]
        forms = [canonical(e) for e in plain]
        old, axis = self.plan.old, self.plan.axis
        if old is not None:
            if all(f is forms[0] for f in forms) and old not in own_lanes(plain[0]):
                return plain[0]
            whole = substitute(plain[0], {old.lane: axis.lane})
            for n, f in enumerate(forms):
                if canonical(substitute(plain[0], {old.lane: old.lane + n * old.extent})) is not f:
                    raise _No
            return whole
        if all(f is forms[0] for f in forms):
            return plain[0]
        whole = between(plain[0], plain[1], axis)
        for n, f in enumerate(forms):
            if canonical(substitute(whole, {axis.lane: const(n)})) is not f:
                raise _No
        return whole

    def rolled_mask(self, es: tuple[Expr, ...]) -> Expr:
        """The same of conjunctions, whose parts may stand in any order."""
        try:
            return self.rolled(es)
        except _No:
            parts = [conjuncts(e) for e in es]
            if len({len(x) for x in parts}) != 1 or any(leaves(e, "value") for e in es):
                raise
        whole: Expr = TRUE
        for first in parts[0]:
            found: Expr | None = None
            for second in parts[1]:
                try:
                    form = self.rolled((first, second))
                    chosen = [first, second]
                    for n, row in enumerate(parts[2:], 2):
                        chosen.append(next(x for x in row if self.is_at(form, n, x)))
                except (_No, StopIteration):
                    continue
                found = form
                for row, x in zip(parts[1:], chosen[1:], strict=True):
                    row.remove(x)
                break
            if found is None:
                raise _No
            whole = call("and", whole, found)
        return whole

    def is_at(self, whole: Expr, n: int, e: Expr) -> bool:
        """Whether an expression over the new axis is this one at its piece."""
        old, axis = self.plan.old, self.plan.axis
        here: Expr = const(n) if old is None else old.lane + n * old.extent
        return canonical(substitute(whole, {axis.lane: here})) is canonical(e)

    # -- order
    def settle_order(self, old: Axis | None, count: int) -> None:
        """Loads first or, where that is impossible, last; pieces that are in the way join in."""
        rows: dict[Value, Tuple] = {}
        for t, axis in _seeds(self.k, self.labels):
            if axis == old and len(t) == count:
                rows |= dict.fromkeys(t, t)
        for late in (False, True, True, True):
            self.late = late
            try:
                for b in self.blocks:
                    self.movable(b)
                return
            except _Stuck as e:
                row = rows.get(e.value) if e.value is not None else None
                if late and row is not None and e.value not in self.plan.values:
                    self.want(row)
                    self.follow()
                    self.free()
                elif late:
                    raise
        raise _No

    def movable(self, b: Block) -> None:
        """Joining must not take an access past another one of the same element."""
        order = self.places(b)
        touching = {s: found for s in b.body if (found := accesses(s))}
        writing = [s for s, found in touching.items() if any(w for _, w, _ in found)]
        for s, found in touching.items():
            if order[s] == b.at[s]:
                continue
            group = self.group(s)
            for o in touching if any(w for _, w, _ in found) else writing:
                flipped = (b.at[s] < b.at[o]) != (order[s] < order[o])
                same = group is not None and group == self.group(o)
                if o is not s and flipped and not same and conflict(s, o):
                    raise _Stuck(next((u_value(x) for x in (o, s) if self.group(x) is None), None))

    def group(self, s: Stmt) -> tuple[Any, ...] | None:
        if isinstance(s, Def):
            return self.plan.values.get(s.value)
        return self.plan.stores.get(s)

    def places(self, b: Block) -> dict[Stmt, int]:
        """Where statements stand afterwards: loads with their first piece (or all that do with the
        last, too), others with the last."""
        out: dict[Stmt, int] = {}
        for s in b.body:
            group = self.group(s)
            if group is None:
                out[s] = b.at[s]
                continue
            at = [b.of(x) for x in group]
            early = isinstance(s, Def) and s.value.op == "load" and not self.late
            early = early and self.early(s.value, b)  # type: ignore[union-attr]
            out[s] = min(at) if early else max(at)
        return out

    def early(self, v: Value, b: Block) -> bool:
        """Whether all that a load's place needs is known at its first piece."""
        t = self.plan.values[v]
        first = min(b.of(x) for x in t)
        for x in t:
            for need in read(Def(x)):
                whole = self.plan.values.get(need, (need,))
                if any(self.home.get(w) is b and b.of(w) >= first for w in whole):
                    return False
        return True

    # -- building
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
            raise _No
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
                raise _No
        parts = (tuple(inits), tuple(params), body, yields, tuple(results))
        return For(s.variable, lo, hi, s.step, *parts)


_COMBINE = {m.row: m.name for m in MONOIDS.values()}


def _exprs(s: Stmt) -> list[Expr]:
    if isinstance(s, Check):
        return [s.cond]
    return [*s.index, s.mask] if isinstance(s, Store | Atomic) else []


def u_value(s: Stmt) -> Value | None:
    return s.value if isinstance(s, Def) else None


def leaves_of(*es: Expr) -> set[Value]:
    return {x.attr for e in es for x in leaves(e, "value")}


def own_lanes(e: Expr) -> set[Axis]:
    return set(lanes(e))


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


def between(a: Expr, b: Expr, axis: Axis) -> Expr:
    """An expression that is `a` at lane 0 and `b` at lane 1, if there is an evident one."""
    if a is b:
        return a
    if a.kind == b.kind == "int":
        step = polynomial(canonical(b) - canonical(a))
        if not set(step) - {()}:
            return a + axis.lane * step.get((), 0)
    if a.op != b.op or a.attr != b.attr or len(a.args) != len(b.args) or not a.args:
        raise _No
    return rebuild(a, tuple(between(x, y, axis) for x, y in zip(a.args, b.args, strict=True)))


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
            except (_No, _Clash, ExprError):
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
