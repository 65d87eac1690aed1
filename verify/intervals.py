"""What barriers order: when two accesses of one program may happen without one between them.

Positions in the text decide it: a barrier that is certainly reached after the one access and before
the other. What is left is a condition on the variables of the loops that both are in: equal ones,
neighbouring iterations of a loop whose body holds a barrier, any iterations where it holds none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from opwright.ir.expr import Expr, conjuncts, leaves, var
from opwright.ir.tile import Axis, For
from opwright.verify.encode import Instance
from opwright.verify.terms import NO, Formula, Terms
from opwright.verify.walk import Access, Fence, Walk


class Intervals:
    """Barriers of one program, asked about pairs of accesses."""

    def __init__(self, seen: Walk, terms: Terms) -> None:
        self.terms = terms
        self.fences: dict[int, list[Fence]] = {}
        for f in seen.fences:
            if f.barrier.fence:
                self.fences.setdefault(f.launch, []).append(f)

    def scopes(self, launch: int) -> tuple[tuple[Axis, ...], ...]:
        """The sets of axes over which barriers of a kernel act, the widest one first."""
        found = {f.barrier.axes: None for f in self.fences.get(launch, ())}
        return tuple(sorted(found, key=lambda a: -len(a)))

    def apart(
        self, u: Access, e1: Instance, w: Access, e2: Instance, scope: Iterable[Axis]
    ) -> Formula:
        """A condition under which barriers over at least `scope` may leave the two unordered."""
        axes = set(scope)
        known = [f for f in self.fences.get(u.launch, ()) if axes <= set(f.barrier.axes)]
        shared: list[tuple[For, int]] = []  # loops around both, and the length of their path
        for n, (p, q) in enumerate(zip(u.path, w.path, strict=False)):
            if p is not q:
                break
            if p.loop is not None:
                shared.append((p.loop, n + 1))
        t = self.terms
        ways: list[Formula] = []
        equal: list[Formula] = []
        for loop, depth in shared:
            v = var(loop.variable)
            i, j = e1.leaves[v], e2.leaves[v]
            for a, x, b, y in ((u, i, w, j), (w, j, u, i)):  # a comes first
                if any(self.after(f, a, depth) or self.before(f, b, depth) for f in known):
                    continue
                if any(self.each(f, u, w, depth, v) for f in known):
                    ways.append(t.all([*equal, t.eq(y, t.shift(x, loop.step))]))
                else:
                    ways.append(t.all([*equal, t.lt(x, y)]))
            equal.append(t.eq(i, j))
        if not self.between(known, u, w):
            ways.append(t.all(equal))
        return t.any(ways) if ways else NO

    def never(self, u: Access, w: Access, scope: Iterable[Axis]) -> bool:
        """Whether a barrier is between the two whatever the loops around both are at."""
        axes = set(scope)
        known = [f for f in self.fences.get(u.launch, ()) if axes <= set(f.barrier.axes)]
        if not self.between(known, u, w):
            return False
        for n, (p, q) in enumerate(zip(u.path, w.path, strict=False)):
            if p is not q:
                break
            if p.loop is not None:
                for a, b in ((u, w), (w, u)):
                    held = (self.after(f, a, n + 1) or self.before(f, b, n + 1) for f in known)
                    if not any(held):
                        return False
        return True

    def after(self, f: Fence, a: Access, depth: int) -> bool:
        """Whether the barrier is reached after `a` in the same iteration of the loop there."""
        inside = len(f.path) >= depth and f.path == a.path[: len(f.path)]
        return inside and f.order > a.order and met(f, a)

    def before(self, f: Fence, b: Access, depth: int) -> bool:
        inside = len(f.path) >= depth and f.path == b.path[: len(f.path)]
        return inside and f.order < b.order and met(f, b)

    def each(self, f: Fence, u: Access, w: Access, depth: int, v: Expr) -> bool:
        """Whether every iteration of the loop there meets the barrier."""
        if len(f.path) != depth or f.path != u.path[:depth]:
            return False
        steady = all(_steady(c, v) for c in conjuncts(f.barrier.mask))
        return steady and met(f, u) and met(f, w)

    def between(self, known: Sequence[Fence], u: Access, w: Access) -> bool:
        """Whether a barrier lies between two accesses in equal iterations of shared loops."""
        if u.order > w.order:
            u, w = w, u
        for f in known:
            if not u.order < f.order < w.order:
                continue
            if any(f.path == a.path[: len(f.path)] and met(f, a) for a in (u, w)):
                return True
        return False


def met(f: Fence, a: Access) -> bool:
    """Whether whoever does an access goes through a barrier of its block."""
    return set(conjuncts(f.barrier.mask)) <= set(conjuncts(a.mask))


def _steady(c: Expr, v: Expr) -> bool:
    """Whether a condition is the same in every iteration of a loop."""
    return not leaves(c, "value") and v not in leaves(c, "var")
