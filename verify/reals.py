"""Normal form of index notation over the reals: the whole of it, with infinities, comparisons and
recurrences.

What is known of values and functions is in `real_functions`, folds are in `real_folds`.
"""

from __future__ import annotations

from fractions import Fraction

from opwright.ir.expr import (
    FALSE,
    LEAVES,
    TRUE,
    Expr,
    call,
    const,
    read,
    read_parts,
    rebuild,
    substitute,
    transform,
    var,
    walk,
)
from opwright.ir.op import Tensor
from opwright.verify.algebra import (
    Poly,
    TooLarge,
    as_real,
    finite_number,
    infinite,
    scaled,
)
from opwright.verify.real_folds import Folds
from opwright.verify.real_functions import piecewise


class Reals(Folds):
    """The real half of the normal form."""

    def _real(self, e: Expr) -> Poly:
        if e.op == "const":
            return self.number(e.attr) if finite_number(e) else self.atom(e)
        if e.op == "toreal":
            return self.sorted(as_real(self.poly(e.args[0])))
        if e.op in LEAVES:
            return self.atom(e)
        if e.op == "cast":
            return self.poly(e.args[0])
        if e.op == "read":
            return self.element(e)
        if e.op == "fold":
            return self.fold(e)
        if e.op == "select":
            return self.choice(e)
        args = [self.normal(a) for a in e.args]
        lifted = self._lifted(e, args)
        if lifted is not None:
            return lifted
        return self._function(e.op, args, e)

    # -- infinities -------------------------------------------------------------------------------

    def mixed(self, c: Expr, a: Expr, b: Expr) -> Poly:
        if a.kind == "real" and (infinite(a) or infinite(b) or piecewise(a) or piecewise(b)):
            if c.op == "not":
                c, a, b = c.args[0], b, a
            return self.atom(call("select", c, a, b))
        return super().mixed(c, a, b)

    def _lifted(self, e: Expr, args: list[Expr]) -> Poly | None:
        """A function of a choice with an infinite branch is a choice of its values."""
        for n, a in enumerate(args):
            if piecewise(a):
                c, yes, no = a.args
                sides = [rebuild(e, (*args[:n], x, *args[n + 1 :])) for x in (yes, no)]
                return self.choice_of(c, *sides)
        return None

    def special(self, e: Expr) -> Expr:
        x = self.normal(e.args[0])
        return FALSE if e.op == "isnan" or self.finite(x) else call(e.op, x)

    def compared_reals(self, e: Expr) -> Expr:
        a, b = (self.normal(x) for x in e.args)
        for n, x in enumerate((a, b)):
            if piecewise(x):
                c, yes, no = x.args
                sides = [rebuild(e, (y, b) if n == 0 else (a, y)) for y in (yes, no)]
                return self.normal((c & sides[0]) | (~c & sides[1]))
        op = "eq" if e.op == "approx" else e.op
        left, right = infinite(a), infinite(b)
        if (left or self.finite(a)) and (right or self.finite(b)) and (left or right):
            holds = {"lt": left < right, "le": left <= right, "eq": left == right,
                     "ne": left != right}[op]  # fmt: skip
            return TRUE if holds else FALSE
        p = self.add(self.poly(b), self.poly(a), -1)
        if op in ("eq", "ne"):
            p = self._unit(p)
            if all(not m for m in p):
                same = TRUE if not p else FALSE
            elif self._all_positive(p) or self._all_positive(scaled(p, Fraction(-1))):
                same = FALSE
            else:
                same = call("eq", const(0.0), self.expression(p, "real"))
            return same if op == "eq" else self._negated(same)
        if op == "le":
            return self._negated(self._positive(scaled(p, Fraction(-1))))
        return self._positive(p)

    # -- recurrences ------------------------------------------------------------------------------

    def element(self, e: Expr) -> Poly:
        name, index, fill = read_parts(e)
        t = self.tensors[name]
        if t.recurrence is None or fill is not None or self._inside(t):
            return super().element(e)
        known = self.recurrence(t)
        when = [a.name for a in t.axes].index(t.recurrence.axis)
        at = [self.normal(i) for i in index]
        order = [at[when], *at[:when], *at[when + 1 :]]
        return self.atom(read(known, tuple(order), e.kind))

    def _inside(self, t: Tensor) -> bool:
        return getattr(self, "_running", None) is not None and t.name in self._running

    _running: frozenset[str] = frozenset()

    def recurrence(self, t: Tensor) -> str:
        """A name made of what the recurrence computes, the same for equal ones."""
        assert t.recurrence is not None
        group = [self.tensors[n] for n in t.recurrence.group]
        signatures: dict[str, str] = {}
        self._running = frozenset(u.name for u in group)
        try:
            for u in group:
                signatures[u.name] = self._signature(u, group, signatures)
        finally:
            self._running = frozenset()
        name = f"%{signatures[t.name][:24]}"
        if name not in self.tensors:
            when = [a.name for a in t.axes].index(t.recurrence.axis)
            axes = (t.axes[when], *t.axes[:when], *t.axes[when + 1 :])
            self.tensors[name] = Tensor(name, t.dtype, axes)
        return name

    def _signature(self, t: Tensor, group: list[Tensor], done: dict[str, str]) -> str:
        assert t.recurrence is not None and t.body is not None
        when = [a.name for a in t.axes].index(t.recurrence.axis)
        order = [t.axes[when], *t.axes[:when], *t.axes[when + 1 :]]
        names = {var(a.name): var(f"@{k}") for k, a in enumerate(order)}
        body = substitute(self._presents(t, group), names)
        init = substitute(t.recurrence.init, names)
        olds = dict(self.ranges)
        for k, a in enumerate(order):
            self.ranges[f"@{k}"] = (a.lo, a.hi)
        try:
            found = self.normal(body)
            start = self.normal(init)
            extents = [self.normal(a.hi - a.lo) for a in order]
        finally:
            self.ranges = olds
        bodies = {u.name: u for u in group}

        def rule(x: Expr) -> Expr | None:
            if x.op != "read" or x.attr[0] not in bodies:
                return None
            u = bodies[x.attr[0]]
            assert u.recurrence is not None
            where = [a.name for a in u.axes].index(u.recurrence.axis)
            _, index, _ = read_parts(x)
            moved = (index[where], *index[:where], *index[where + 1 :])
            own = "@self" if u.name == t.name or self._alike(u, t) else f"@{u.name}"
            return read(own, moved, x.kind)

        found = transform(found, rule)
        uses_itself = any(x.op == "read" and x.attr[0] == "@self" for x in walk(found))
        parts = [self.key(found), *(self.key(x) for x in extents)]
        parts += [self.key(start)] if uses_itself or not extents else []
        from hashlib import sha256

        return sha256("\0".join(parts).encode()).hexdigest()

    def _presents(self, t: Tensor, group: list[Tensor]) -> Expr:
        """The body with reads at the same step replaced by what they read."""
        assert t.body is not None and t.recurrence is not None
        bodies = {u.name: u for u in group}
        step = var(t.recurrence.axis)

        def rule(x: Expr) -> Expr | None:
            if x.op != "read" or x.attr[0] not in bodies:
                return None
            u = bodies[x.attr[0]]
            assert u.recurrence is not None
            where = [a.name for a in u.axes].index(u.recurrence.axis)
            _, index, _ = read_parts(x)
            if self.poly(index[where] - step):
                return None
            mapping = {var(a.name): i for a, i in zip(u.axes, index, strict=True)}
            return substitute(self._presents(u, group), mapping)

        return transform(t.body, rule)

    def _alike(self, u: Tensor, t: Tensor) -> bool:
        """Two members of a group with one body hold the same values."""
        assert u.recurrence is not None and t.recurrence is not None
        if u.body is None or t.body is None or len(u.axes) != len(t.axes):
            return False
        names = {var(a.name): var(b.name) for a, b in zip(u.axes, t.axes, strict=True)}
        return substitute(u.body, names) is t.body


def equal_reals(algebra: Reals, a: Poly, b: Poly) -> bool:
    """Whether a - b vanishes once denominators are multiplied out."""
    difference = algebra.add(a, b, -1)
    for _ in range(6):
        if not difference:
            return True
        below = [
            (x, n) for m in difference for x, n in m
            if x.op == "div" and x.args[0].op == "const" and n > 0
        ]  # fmt: skip
        if not below:
            return False
        atom = max(below, key=lambda r: algebra.key(r[0]))[0]
        power = max(n for x, n in below if x is atom)
        bottom = algebra.poly(atom.args[1])
        out: Poly = {}
        for m, c in difference.items():
            powers = dict(m)
            n = powers.pop(atom, 0)
            term: Poly = {algebra.monomial(powers): c}
            for _ in range(power - n):
                term = algebra.multiply(term, bottom)
            out = algebra.add(out, term)
        difference = out
    return not difference


__all__ = ["Reals", "TooLarge", "equal_reals", "piecewise"]
