"""Which pieces are one value: followed from one tuple of them through operands and uses.

Everything joins or nothing does: operands at one place are one value or pieces themselves, every
use of a piece is the same use of the others or a reduction of all of them, and no access passes
another one that may touch the same element.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from opwright.backends.cpp.importer_blocks import Block, accesses, conflict
from opwright.backends.cpp.importer_polynomials import canonical
from opwright.backends.cpp.importer_rewrite import read
from opwright.backends.cpp.importer_seeds import Tuple, seeds_of
from opwright.ir.expr import (
    TRUE,
    Expr,
    call,
    conjuncts,
    const,
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
    Stmt,
    Store,
    Value,
    lanes,
)


class No(Exception):
    """These pieces are no pieces of one whole."""


class Stuck(No):
    """Joining would take an access past another one."""

    def __init__(self, value: Value | None) -> None:
        super().__init__()
        self.value = value


class Clash(Exception):
    """The new axis is in use where it would stand."""


@dataclass(slots=True)
class Plan:
    """What to join: values, stores and checks, reductions of pieces, and over which axis."""

    old: Axis | None  # that is extended; None makes a new axis
    axis: Axis
    values: dict[Value, Tuple] = field(default_factory=dict)  # each member -> its tuple
    stores: dict[Stmt, tuple[Stmt, ...]] = field(default_factory=dict)
    sums: dict[Value, tuple[str, Tuple, tuple[Value, ...]]] = field(default_factory=dict)


_COMBINE = {m.row: m.name for m in MONOIDS.values()}


class Finder:
    """Follows operands and uses from one tuple; `plan` is what was found."""

    def __init__(self, k: Kernel, labels: dict[Value, str]) -> None:
        self.k, self.labels = k, labels
        self.home: dict[Value, Block] = {}  # the block that defines a value
        self.uses: dict[Value, list[tuple[Stmt, Block]]] = {}
        self.loops: dict[Value, tuple[For, str, int]] = {}
        self.blocks: list[Block] = []
        self.late = False  # whether loads go to their last piece
        self.plan = Plan(None, Axis("c", 1))
        self.todo: list[Tuple] = []
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
                raise Clash
        if axis in lanes(*(e for s in self.plan.stores for e in _exprs(s))):
            raise Clash

    def want(self, t: Tuple) -> None:
        """These values are the pieces of one."""
        known = [self.plan.values.get(v) for v in t]
        if all(x == t for x in known):
            return
        if any(x is not None for x in known) or len(set(t)) != len(t):
            raise No
        if len({(v.op, v.dtype, v.axes) for v in t}) != 1:
            raise No
        if self.plan.old is not None and self.plan.old not in t[0].axes:
            raise No
        for v in t:
            self.plan.values[v] = t
        self.todo.append(t)

    def alike(self, t: Tuple) -> None:
        """Operands at one place: one value for all pieces, or pieces themselves."""
        if all(v is t[0] for v in t):
            if self.plan.old is not None and self.plan.old in t[0].axes:
                raise No
            return
        self.want(t)

    def operands(self, t: Tuple) -> None:
        first = t[0]
        if first.op in ("param", "result"):
            self.state(t)
            return
        if len({id(self.home[v]) for v in t}) != 1:
            raise No
        for n in range(len(first.args)):
            if any(len(v.args) != len(first.args) for v in t):
                raise No
            self.alike(tuple(v.args[n] for v in t))
        self.attribute(t)
        if self.plan.old is None and not self.varies(t):
            raise No

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
                raise No
        elif first.op == "full":
            if len({repr(v.attr) for v in t}) != 1:
                raise No
        elif first.op in ("cast", "round") or first.op in ROWS:
            return
        elif first.op in ("reduce", "opaque"):
            if any(v.attr != first.attr for v in t):
                raise No
        else:
            raise No

    def state(self, t: Tuple) -> None:
        """Carried state: initial, inner, next and final pieces of one loop."""
        places = [self.loops[v] for v in t]
        loop, kind, _ = places[0]
        if any(p[0] is not loop or p[1] != kind for p in places):
            raise No
        at = [p[2] for p in places]
        for part in (loop.inits, loop.params, loop.yields, loop.results):
            self.want(tuple(part[n] for n in at))

    def users(self, t: Tuple) -> None:
        """Every use of a piece is the same use of the others, or a reduction of all of them."""
        rows = [self.uses.get(v, []) for v in t]
        sums = self.reduction(t)
        kept = [[u for u in row if u[0] not in sums] for row in rows]
        if len({len(row) for row in kept}) != 1:
            raise No
        for users in zip(*kept, strict=True):
            stmts = tuple(s for s, _ in users)
            if len({id(b) for _, b in users}) != 1:
                raise No
            first = stmts[0]
            if isinstance(first, For) and all(s is first for s in stmts):
                self.in_loop(first, t)
            elif isinstance(first, Def) and all(isinstance(s, Def) for s in stmts):
                self.want(tuple(s.value for s in stmts if isinstance(s, Def)))
            elif isinstance(first, Store | Check):
                self.together(stmts)
            else:
                raise No

    def in_loop(self, s: For, t: Tuple) -> None:
        found = False
        if any(v in leaves_of(s.lo, s.hi) for v in t):
            raise No
        for part in (s.inits, s.yields):
            at = [[n for n, x in enumerate(part) if x is v] for v in t]
            if len({len(a) for a in at}) != 1:
                raise No
            for places in zip(*at, strict=True):
                found = True
                self.want(tuple(s.params[n] for n in places))
        if not found:
            raise No

    def together(self, stmts: tuple[Stmt, ...]) -> None:
        """Stores (or checks) that are one store over the whole axis."""
        first = stmts[0]
        if self.plan.stores.get(first) == stmts:
            return
        if any(s in self.plan.stores for s in stmts) or len(set(stmts)) != len(stmts):
            raise No
        if any(type(s) is not type(first) for s in stmts):
            raise No
        for s in stmts:
            self.plan.stores[s] = stmts
        if isinstance(first, Check):
            if any(s.kind != first.kind for s in stmts):  # type: ignore[union-attr]
                raise No
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
            raise No
        for d in range(len(first.index)):
            self.rolled(tuple(m.index[d] for m in found))
        self.rolled_mask(tuple(m.mask for m in found))

    def rolled(self, es: tuple[Expr, ...]) -> Expr:
        """One expression that is each of these at its piece; values in them are pieces, too."""
        if self.plan.axis in lanes(*es):
            raise Clash
        inner = [leaves(e, "value") for e in es]
        if len({len(x) for x in inner}) != 1:
            raise No
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
                    raise No
            return whole
        if all(f is forms[0] for f in forms):
            return plain[0]
        whole = between(plain[0], plain[1], axis)
        for n, f in enumerate(forms):
            if canonical(substitute(whole, {axis.lane: const(n)})) is not f:
                raise No
        return whole

    def rolled_mask(self, es: tuple[Expr, ...]) -> Expr:
        """The same of conjunctions, whose parts may stand in any order."""
        try:
            return self.rolled(es)
        except No:
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
                except (No, StopIteration):
                    continue
                found = form
                for row, x in zip(parts[1:], chosen[1:], strict=True):
                    row.remove(x)
                break
            if found is None:
                raise No
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
        for t, axis in seeds_of(self.k, self.labels):
            if axis == old and len(t) == count:
                rows |= dict.fromkeys(t, t)
        for late in (False, True, True, True):
            self.late = late
            try:
                for b in self.blocks:
                    self.movable(b)
                return
            except Stuck as e:
                row = rows.get(e.value) if e.value is not None else None
                if late and row is not None and e.value not in self.plan.values:
                    self.want(row)
                    self.follow()
                    self.free()
                elif late:
                    raise
        raise No

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
                    raise Stuck(next((u_value(x) for x in (o, s) if self.group(x) is None), None))

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


def between(a: Expr, b: Expr, axis: Axis) -> Expr:
    """An expression that is `a` at lane 0 and `b` at lane 1, if there is an evident one."""
    if a is b:
        return a
    if a.kind == b.kind == "int":
        step = polynomial(canonical(b) - canonical(a))
        if not set(step) - {()}:
            return a + axis.lane * step.get((), 0)
    if a.op != b.op or a.attr != b.attr or len(a.args) != len(b.args) or not a.args:
        raise No
    return rebuild(a, tuple(between(x, y, axis) for x, y in zip(a.args, b.args, strict=True)))
