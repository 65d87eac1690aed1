"""Errors of folds: of sums in any order, extremes, products, places, and derived folds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opwright.ir.dtypes import F32
from opwright.ir.expr import (
    FALSE,
    ONE,
    TRUE,
    Expr,
    Fold,
    call,
    conjunction,
    conjuncts,
    const,
    fold,
    free_vars,
    leaf,
    reduction,
    rename,
    toreal,
    var,
    walk,
)
from opwright.ir.semantics import ARG_FOLDS
from opwright.verify.bounds_terms import (
    DEV,
    ERR,
    NOTHING,
    UNBOUNDED,
    NotDerivable,
    factors,
    plus,
    product,
    summands,
    times,
    unit,
)

if TYPE_CHECKING:
    from opwright.verify.bounds_rules import Rules


class Reduction:
    """The error of one fold in one mode."""

    def __init__(self, rules: Rules, f: Fold, mode: str) -> None:
        self.rules, self.fold, self.mode = rules, f, mode

    def error(self) -> Expr:
        kind = self.fold.kind
        if kind is None:
            return self.derived()
        if kind in ARG_FOLDS:
            return self.place(ARG_FOLDS[kind])
        unsure = self.rules.doubt(self.fold.guard)
        if kind == "sum":
            return plus([self.sum(), self.swing(unsure)])
        out = self.extreme() if kind in ("max", "min") else self.product()
        if unsure is FALSE:
            return out
        some = self.again("any", unsure, TRUE)
        return call("select", some, UNBOUNDED, out)

    def again(self, kind: str, term: Expr, guard: Expr | None = None) -> Expr:
        f = self.fold
        return reduction(kind, f.binders, f.ranges, term, f.guard if guard is None else guard)

    def total(self, x: Expr, guard: Expr | None = None) -> Expr:
        """The sum of an expression; what does not move with it goes in front."""
        out = []
        binders = set(self.fold.binders)
        for s in summands(x):
            still: list[Expr] = []
            moving: list[Expr] = []
            for part in factors(s):
                (moving if free_vars(part) & binders else still).append(part)
            front = product(still)
            if moving:
                out.append(times(front, self.again("sum", product(moving), guard)))
            else:
                out.append(times(front, self.length()))
        return plus(out)

    def length(self) -> Expr:
        """How many terms there are: conditions on different indices are counted apart."""
        f = self.fold
        ranges = dict(zip(f.binders, f.ranges, strict=True))
        if any((free_vars(lo) | free_vars(hi)) & set(ranges) for lo, hi in f.ranges):
            return toreal(self.again("sum", ONE))
        groups: list[tuple[set[str], list[Expr]]] = []
        for part in conjuncts(f.guard):
            used, parts = free_vars(part) & set(ranges), [part]
            for other in [g for g in groups if g[0] & used]:
                groups.remove(other)
                used, parts = used | other[0], [*other[1], *parts]
            groups.append((used, parts))
        free = [b for b in f.binders if not any(b in used for used, _ in groups)]
        counts = [toreal(span(*ranges[b])) for b in free]
        for used, parts in groups:
            own = tuple(b for b in f.binders if b in used)
            if own:
                met = reduction("sum", own, tuple(ranges[b] for b in own), ONE, conjunction(parts))
                counts.append(toreal(met))
        return product(counts)

    def sum(self) -> Expr:
        f, rules = self.fold, self.rules
        inner = self.total(rules.error(f.term, self.mode))
        if f.term.kind != "real":
            return inner
        additions = self.length() - 1.0
        u = unit(rules.precision(f.node) or F32)
        if additions.op == "const" and additions.attr <= 0:
            return inner
        terms = self.again("sum", rules.magnitude(f.term))
        few = call("max", additions, 0.0)
        if self.mode == DEV and self.moves():
            growth = times(const(u), call("sqrt", few))
        elif u > 2.0**-20:  # (1 + u)^n - 1
            growth = call("expm1", times(const(u), few))
        else:
            growth = times(const(u), few)
        return plus([inner, times(growth, terms)])

    def moves(self) -> bool:
        """Whether data decides the terms, so that their roundings have no common direction."""
        binders = set(self.fold.binders)
        return any(
            x.op == "read" and x.kind == "real" and free_vars(x) & binders
            for x in walk(self.fold.term)
        )

    def swing(self, unsure: Expr) -> Expr:
        """Terms that a guard may or may not take."""
        if unsure is FALSE:
            return NOTHING
        f = self.fold
        either = call("and", unsure, TRUE)
        size = toreal(call("abs", f.term))
        return self.again("sum", plus([size, self.rules.error(f.term, self.mode)]), either)

    def extreme(self) -> Expr:
        e = self.rules.error(self.fold.term, self.mode)
        if e is NOTHING:
            return e
        if not free_vars(e) & set(self.fold.binders):
            return e
        return call("max", NOTHING, self.again("max", e))

    def product(self) -> Expr:
        """(|t| + e) multiplied up with a rounding each, less the product itself."""
        f, rules = self.fold, self.rules
        e = rules.error(f.term, self.mode)
        if f.term.kind != "real" and e is NOTHING:
            return e
        if f.term.kind != "real":
            raise NotDerivable("a product of integers that hang on rounding")
        size = rules.magnitude(f.term)
        most = self.again("prod", plus([size, e]))
        exact = self.again("prod", size)
        count = call("max", self.length() - 1.0, 0.0)
        grown = count if self.mode == ERR else call("sqrt", count)
        u = const(unit(rules.precision(f.node) or F32))
        return plus([call("abs", most - exact), times(call("expm1", times(u, grown)), most)])

    def place(self, kind: str) -> Expr:
        """Where an extreme is: anywhere, if another element comes near."""
        f, rules = self.fold, self.rules
        e = rules.error(f.term, ERR)
        unsure = rules.doubt(f.guard)
        if e is NOTHING and unsure is FALSE:
            return NOTHING
        if unsure is not FALSE:
            raise NotDerivable("the place of an extreme under a guard that hangs on rounding")
        (binder,) = f.binders
        other = rules.fresh(binder)
        best = self.again(kind, f.term)
        most = self.again("max", e)
        term, mine, guard = (rename(p, {binder: other}) for p in (f.term, e, f.guard))
        reach = plus([mine, most])
        rival = call("and", call("ne", var(other), f.node),
                     call("le", toreal(call("abs", best - term)), reach))  # fmt: skip
        if e.op != "const":
            rival = call("and", rival, call("lt", 0.0, reach))
        found = reduction("any", (other,), f.ranges, rival, guard)
        return call("select", found, UNBOUNDED, NOTHING)

    def derived(self) -> Expr:
        """A fold of several states: their errors are further states."""
        f, rules = self.fold, self.rules
        if rules.doubt(f.guard) is not FALSE:
            raise NotDerivable("a fold under a guard that hangs on rounding")
        kinds = [i.kind for i in f.init]
        if any(k == "bool" for k in kinds):
            raise NotDerivable("a fold whose state is a truth value")
        modes = (ERR, DEV) if self.mode == DEV else (ERR,)
        names = {(m, s): f"{s}~{m}" for m in modes for s in f.attr.states}
        outer = dict(rules.states)
        for (m, s), n in names.items():
            rules.states[f"{m}:{s}"] = leaf("state", n, "real")
        memo, rules.memo = rules.memo, {}
        try:
            init = [rules.error(i, m) for m in modes for i in f.init]
            step = [rules.error(s, m) for m in modes for s in f.step]
            finish = rules.error(f.finish, self.mode)
        finally:
            rules.memo, rules.states = memo, outer
        states = (*f.attr.states, *names.values())
        return fold(
            f.binders, f.ranges, f.guard, states, (*f.init, *init), (*f.step, *step),
            (*f.merge, *step), finish, f.attr.acc,
        )  # fmt: skip


def span(lo: Expr, hi: Expr) -> Expr:
    return hi if lo.op == "const" and lo.attr == 0 else hi - lo
