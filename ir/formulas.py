"""Work and traffic of an operator as formulas in its sizes.

A subexpression counts once for every setting of the indices it depends on, as if nothing were
computed twice; a prefix reduction counts one step per element, a scatter one step per source.
Ranges that depend on an index count by their upper bound, ranges that depend on data by the extent
of what is read along them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from opwright.ir.expr import (
    TRUE,
    ZERO,
    Expr,
    Fold,
    affine,
    conjuncts,
    const,
    free_vars,
    minimum,
    read_parts,
    show,
    var,
    walk,
)
from opwright.ir.extents import Interval, bounding
from opwright.ir.op import Operator, Tensor
from opwright.ir.semantics import ARG_FOLDS, MONOIDS, ROWS

_Add = Callable[[Expr, float], None]


def flops(op: Operator) -> Expr:
    """Floating-point operations, weighted as in the semantics table: an integer over the sizes."""
    total: Expr = ZERO
    for t in op.tensors:
        total = _Counter(op, t).flops(total)
    return total


def compulsory_bytes(op: Operator) -> Expr:
    """Bytes that any implementation moves: what it must read of the inputs, and the outputs.

    Of an input no more is counted than its reads can reach, which is less than all of it for a
    gather.
    """
    total: Expr = ZERO
    reached: dict[str, list[Expr]] = {t.name: [] for t in op.inputs}
    for t in op.tensors:
        counter = _Counter(op, t)
        for x in counter.nodes():
            if x.op == "read" and read_parts(x)[0] in reached:
                _, index, _ = read_parts(x)
                names = set().union(*map(free_vars, index))
                reached[read_parts(x)[0]].append(counter.volume(names))
    for t in op.inputs:
        whole = _elements(t)
        if reached[t.name]:
            count = _sum(dict.fromkeys(reached[t.name]))
            plain = any(v is whole for v in reached[t.name])
            total = total + _bytes(t, whole if plain else minimum(whole, count))
    for t in op.outputs:
        total = total + _bytes(t, _elements(t))
    return total


def _elements(t: Tensor) -> Expr:
    return _product(t.shape)


def _product(extents: Iterable[Expr]) -> Expr:
    """A product whose factors stand in one order, so that equal ones are one expression."""
    n: Expr = const(1)
    for e in sorted(extents, key=show):
        n = n * e
    return n


def _bytes(t: Tensor, count: Expr) -> Expr:
    return (count * t.dtype.bits + 7) // 8 if t.dtype.bits < 8 else count * t.dtype.bytes


def _sum(parts: Iterable[Expr]) -> Expr:
    total: Expr = ZERO
    for p in parts:
        total = total + p
    return total


class _Counter:
    """Counts over one definition: the ranges of every index variable in it."""

    def __init__(self, op: Operator, t: Tensor) -> None:
        self.op, self.t = op, t
        self.ranges: dict[str, Interval] = {a.name: (a.lo, a.hi) for a in t.axes}
        self.joint: dict[str, tuple[set[str], Expr]] = {}  # binder -> outer indices, total extent
        for x in self.nodes():
            if x.op == "fold":
                f = Fold(x)
                self.ranges.update(zip(f.binders, f.ranges, strict=True))
        for x in self.nodes():
            if x.op == "fold":
                self._data_ranges(Fold(x))

    def nodes(self) -> list[Expr]:
        """Distinct nodes of the definition, its `init` included."""
        roots = [self.t.body] if self.t.body is not None else []
        if self.t.recurrence is not None:
            roots.append(self.t.recurrence.init)
        return list(dict.fromkeys(x for r in roots for x in walk(r)))

    def _data_ranges(self, f: Fold) -> None:
        """A range between two read values: all of them together cover one axis that is read."""
        for b, (lo, hi) in zip(f.binders, f.ranges, strict=True):
            if bounding(hi, self.ranges, upper=True) is not None:
                continue
            outer = free_vars(lo) | free_vars(hi)
            for x in walk(f.node):
                if x.op != "read":
                    continue
                name, index, _ = read_parts(x)
                if var(b) in index:
                    axis = self.op.tensor(name).axes[index.index(var(b))]
                    self.joint[b] = (outer, axis.hi - axis.lo)
                    break

    def extent(self, name: str) -> Expr:
        lo, hi = self.ranges[name]
        top, bottom = (
            bounding(hi, self.ranges, upper=True), bounding(lo, self.ranges, upper=False)
        )  # fmt: skip
        if top is None:
            return const(1)  # depends on data in a way that has no bound here
        return top if bottom is None or bottom is ZERO else top - bottom

    def volume(self, names: set[str]) -> Expr:
        """How many settings these indices have together."""
        factors: list[Expr] = []
        covered: set[str] = set()
        for b, (outer, extent) in self.joint.items():
            if b in names:
                factors.append(extent)
                covered |= outer | {b}
        rest = [n for n in self.ranges if n in names and n not in covered]
        return _product([*factors, *map(self.extent, rest)])

    def flops(self, total: Expr) -> Expr:
        work: dict[Expr, Expr] = {}

        def add(count: Expr, cost: float) -> None:
            if cost:
                work[count] = work.get(count, ZERO) + int(cost)

        for x in self.nodes():
            if x.op == "fold":
                self._steps(Fold(x), add)
            elif x.op in ROWS and ("real" in (x.kind, *(a.kind for a in x.args))):
                add(self.volume(free_vars(x)), ROWS[x.op].flops)
        for count, cost in work.items():
            total = total + count * cost
        return total

    def _steps(self, f: Fold, add: _Add) -> None:
        """The steps of a fold itself; a derived one counts the operations of its steps as nodes."""
        if f.kind is None:
            return
        if f.term.kind != "real":
            return
        row = MONOIDS[ARG_FOLDS.get(f.kind, f.kind)].row
        inner = (free_vars(f.term) | free_vars(f.guard) | set(f.binders)) - self._keyed(f)
        moving = set()
        for lo, hi in f.ranges:
            moving |= free_vars(lo) | free_vars(hi)
        if moving and not self._is_scan(f, moving):
            inner |= moving
        add(self.volume(inner), ROWS[row].flops)

    def _keyed(self, f: Fold) -> set[str]:
        """Outer indices that a guard `key == v` fixes: a scatter visits one of their values."""
        out = set()
        for part in conjuncts(f.guard) if f.guard is not TRUE else []:
            if part.op == "eq" and part.args[0].kind == "int":
                form: Mapping[Expr | None, int] = affine(part.args[0] - part.args[1]) or {}
                for leaf, factor in form.items():
                    if leaf is not None and leaf.op == "var" and abs(factor) == 1:
                        if leaf.attr not in f.binders and leaf.attr not in free_vars(f.term):
                            out.add(str(leaf.attr))
        return out

    def _is_scan(self, f: Fold, moving: set[str]) -> bool:
        """One bound moves along a sequence that does not depend on where it stands."""
        if len(f.binders) != 1 or moving & (free_vars(f.term) | free_vars(f.guard)):
            return False
        lo, hi = f.ranges[0]
        return not free_vars(lo) or not free_vars(hi)
