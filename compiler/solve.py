"""Solves `index == element` for indices, so that a sum over everything that hits an element becomes
a sum over what is left.

Each solution is exact: what it takes for granted (ranges, divisibility) becomes a condition, unless
it holds as written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from opwright.ir.expr import (
    TRUE,
    ZERO,
    Expr,
    affine,
    call,
    conjunction,
    conjuncts,
    const,
    free_vars,
    maximum,
    minimum,
    substitute,
    transform,
    var,
)
from opwright.ir.op import OpAxis


@dataclass(frozen=True, slots=True)
class Index:
    """An index with its half-open range; later ranges of a scope may use earlier indices."""

    name: str
    lo: Expr
    hi: Expr


@dataclass(frozen=True, slots=True)
class Solved:
    """Values of solved indices, the indices that are left, and the condition that remains."""

    values: Mapping[Expr, Expr]
    scope: tuple[Index, ...]
    guard: Expr


class Equations:
    """One system: `axes` are the element's own indices, `scope` the unknowns."""

    def __init__(
        self, axes: Sequence[OpAxis], scope: Sequence[Index], fresh: Callable[[str], str]
    ) -> None:
        self.axes, self.fresh = axes, fresh
        self.known = {a.name: Index(a.name, a.lo, a.hi) for a in axes}
        self.left: dict[str, Index] = {i.name: i for i in scope}
        self.values: dict[Expr, Expr] = {}
        self.conditions: list[Expr] = []

    def solve(self, at: Sequence[Expr], guard: Expr) -> Solved:
        """The system `at[n] == axes[n]` under a guard."""
        self.conditions = conjuncts(guard)
        open_ = [(e, var(a.name)) for e, a in zip(at, self.axes, strict=True)]
        for step in (self._plain, self._unit, self._digits):
            moved = True
            while moved:
                moved = False
                for pair in list(open_):
                    if step(*self._now(*pair)):
                        open_.remove(pair)
                        moved = True
        for e, t in open_:
            left, right = self._now(e, t)
            self.conditions.insert(0, call("eq", left, right))
        self.conditions = [self._fold(self._put(c)) for c in self.conditions]
        self._tighten()
        rest = [c for c in dict.fromkeys(self.conditions) if c is not TRUE]
        ordered = self._ordered()
        return Solved(self.values, tuple(ordered), conjunction(rest))

    # -- substitution

    def _put(self, e: Expr) -> Expr:
        return substitute(e, self.values)

    def _now(self, e: Expr, t: Expr) -> tuple[Expr, Expr]:
        return self._fold(self._put(e)), t

    def _bind(self, name: str, value: Expr) -> None:
        index = self.left.pop(name)
        one = {var(name): value}
        self.values = {k: self._fold(substitute(v, one)) for k, v in self.values.items()}
        self.values[var(name)] = value
        self.left = {
            n: Index(n, self._fold(substitute(i.lo, one)), self._fold(substitute(i.hi, one)))
            for n, i in self.left.items()
        }
        lo, hi = self._put(index.lo), self._put(index.hi)
        if not self._within(value, lo, hi):
            if not self._at_least(value, lo):
                self.conditions.append(call("le", lo, value))
            if not self._below(value, hi):
                self.conditions.append(call("lt", value, hi))

    def _within(self, value: Expr, lo: Expr, hi: Expr) -> bool:
        own = self.known.get(value.attr) if value.op == "var" else None
        return own is not None and own.lo is lo and own.hi is hi

    def _at_least(self, value: Expr, lo: Expr) -> bool:
        if lo is not ZERO:
            return value.op == "var" and self._known(value) and self.known[value.attr].lo is lo
        return self._natural(value)

    def _known(self, v: Expr) -> bool:
        return v.op == "var" and v.attr in self.known

    def _natural(self, e: Expr) -> bool:
        """Whether an expression is plainly not negative."""
        if e.op == "const":
            return bool(e.attr >= 0)
        if e.op == "size":
            return True
        if e.op == "var":
            index = self.known.get(e.attr) or self.left.get(e.attr)
            return index is not None and self._natural(index.lo)
        if e.op in ("add", "mul", "floordiv", "min", "max"):
            return all(self._natural(a) for a in e.args)
        return e.op == "mod"

    def _below(self, value: Expr, hi: Expr) -> bool:
        index = self.known.get(value.attr) if value.op == "var" else None
        return index is not None and index.hi is hi

    # -- the three ways to solve

    def _plain(self, e: Expr, t: Expr) -> bool:
        if e.op == "var" and e.attr in self.left:
            self._bind(e.attr, t)
            return True
        return False

    def _unit(self, e: Expr, t: Expr) -> bool:
        """An index with coefficient 1 or -1, the shortest range first."""
        form = affine(e)
        if form is None:
            return False
        units = [k for k, c in form.items() if k is not None and self._unknown(k) and abs(c) == 1]
        if not units:
            return False
        stepped = any(k is not None and self._unknown(k) and abs(c) != 1 for k, c in form.items())
        pick = units[-1] if stepped else units[0]
        sign = form[pick]
        rest = e - pick if sign == 1 else e + pick
        rest = _linear(rest)
        value = t - rest if sign == 1 else rest - t
        self._bind(pick.attr, _linear(value))
        return True

    def _unknown(self, k: Expr) -> bool:
        return k.op == "var" and k.attr in self.left

    def _digits(self, e: Expr, t: Expr) -> bool:
        """v // c, v % c, and c * v + rest with a positive constant c."""
        if e.op in ("floordiv", "mod") and self._unknown(e.args[0]):
            v, divisor = e.args
            if free_vars(divisor) & set(self.left):
                return False
            q = self.fresh("q")
            old = self.left[v.attr]
            if e.op == "floordiv":
                self._insert(v.attr, Index(q, ZERO, divisor))
                value = t * divisor + var(q)
            else:
                if old.lo is not ZERO:
                    return False
                self._insert(v.attr, Index(q, ZERO, (old.hi + divisor - 1) // divisor))
                value = var(q) * divisor + t
            self._bind(v.attr, value)
            return True
        form = affine(e)
        if form is None:
            return False
        for k, c in form.items():
            if k is not None and self._unknown(k) and c > 1:
                rest = _linear(t - (e - const(c) * k))
                self._bind(k.attr, rest // c)
                self.conditions.append(call("eq", rest % c, 0))
                return True
        return False

    def _insert(self, before: str, index: Index) -> None:
        out: dict[str, Index] = {}
        for n, i in self.left.items():
            if n == before:
                out[index.name] = index
            out[n] = i
        self.left = out

    # -- simplification

    def _fold(self, e: Expr) -> Expr:
        """(c * a + q) // c and % c where 0 <= q < c."""

        def rule(x: Expr) -> Expr | None:
            if x.op not in ("floordiv", "mod") or x.args[0].op != "add":
                return None
            for a, q in (x.args[0].args, x.args[0].args[::-1]):
                if a.op == "mul" and x.args[1] in a.args and self._digit(q, x.args[1]):
                    other = a.args[0] if a.args[1] is x.args[1] else a.args[1]
                    return other if x.op == "floordiv" else q
            return None

        return transform(e, rule)

    def _digit(self, q: Expr, c: Expr) -> bool:
        if q.op != "var":
            return False
        index = self.left.get(q.attr) or self.known.get(q.attr)
        return index is not None and index.lo is ZERO and index.hi is c

    def _tighten(self) -> None:
        """Conditions that bound one remaining index become its range."""
        for name in reversed(list(self.left)):
            later = self._later(name)
            for c in list(self.conditions):
                bound = self._bound(c, name, later)
                if bound is None:
                    continue
                side, value = bound
                i = self.left[name]
                if side == "lo":
                    low = value if i.lo is ZERO and self._natural(value) else maximum(i.lo, value)
                    self.left[name] = Index(name, low, i.hi)
                else:
                    high = value if self._reaches(value, i.hi) else minimum(i.hi, value)
                    self.left[name] = Index(name, i.lo, high)
                self.conditions.remove(c)

    def _later(self, name: str) -> set[str]:
        names = list(self.left)
        return set(names[names.index(name) + 1 :])

    def _reaches(self, value: Expr, hi: Expr) -> bool:
        """Whether value <= hi, as `v + 1 <= hi` for an element's index below hi."""
        if value.op == "add" and value.args[1] is const(1):
            value = value.args[0]
        return self._known(value) and self.known[value.attr].hi is hi

    def _bound(self, c: Expr, name: str, later: set[str]) -> tuple[str, Expr] | None:
        if c.op not in ("lt", "le"):
            return None
        form = affine(call("sub", c.args[1], c.args[0]))
        v = var(name)
        if form is None or abs(form.get(v, 0)) != 1:
            return None
        rest = {k: n for k, n in form.items() if k is not v}
        if any(k is not None and free_vars(k) & (later | {name}) for k in rest):
            return None
        strict = c.op == "lt"
        if form[v] == 1:  # v + rest > 0
            return "lo", _of({k: -n for k, n in rest.items()}, 1 if strict else 0)
        return "hi", _of(rest, 0 if strict else 1)

    def _ordered(self) -> list[Index]:
        """Indices after those that their ranges use."""
        out: list[Index] = []
        todo = dict(self.left)
        while todo:
            ready = [
                n for n, i in todo.items() if not (free_vars(i.lo) | free_vars(i.hi)) & set(todo)
            ]
            for n in ready or list(todo)[:1]:
                out.append(todo.pop(n))
        return out


def _linear(e: Expr) -> Expr:
    form = affine(e)
    return e if form is None else _of(form, 0)


def _of(form: Mapping[Expr | None, int], more: int) -> Expr:
    """The expression of an affine form, positive terms first."""
    constant = form.get(None, 0) + more
    terms = [(k, c) for k, c in form.items() if k is not None and c]
    out: Expr | None = None
    for k, c in sorted(terms, key=lambda p: p[1] < 0):
        part = k if abs(c) == 1 else const(abs(c)) * k
        if out is None:
            out = part if c > 0 else -part
        else:
            out = out + part if c > 0 else out - part
    if out is None:
        return const(constant)
    return out + constant if constant >= 0 else out - (-constant)
