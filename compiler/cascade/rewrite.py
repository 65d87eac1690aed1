"""Derived passes as folds of OpIR: a state, one step, a merge and a readout for every result.

Two traps of real data are settled here. An empty side contributes nothing whatever its anchor is,
so a correction is selected by the count where it could meet one. An extreme that is still infinite
is replaced by 0 as a new anchor and kept as an old one: exp(-inf - a) is 0, exp(-inf + inf) is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from opwright.compiler.cascade.chain import COUNT, Chain, NotAChain, Sympy, chains, symbol
from opwright.compiler.cascade.derive import Accumulator, NotFusable, Plan, derive, moved
from opwright.compiler.cascade.prove import equal_over_reals, prove, stable_in_floats
from opwright.compiler.normalize import extract_folds
from opwright.ir.expr import (
    TRUE,
    Expr,
    call,
    conjunction,
    conjuncts,
    const,
    fold,
    leaf,
    neutral,
    substitute,
    var,
)
from opwright.ir.op import Operator, Tensor
from opwright.ir.record import Record
from opwright.ir.semantics import MONOIDS

Settled = tuple[Plan | None, tuple[Record, ...], str]
_KNOWN: dict[str, Settled] = {}  # by the chain's algebra: other types of one operator share it


@dataclass(frozen=True, slots=True, eq=False)
class Derivation:
    """What became of one chain: a plan with its obligations, or why there is none."""

    name: str
    chain: Chain | None
    plan: Plan | None
    records: tuple[Record, ...]
    refusal: str = ""

    @property
    def holds(self) -> bool:
        """Whether the pass is proved equal over the reals and stable in floats."""
        return (
            self.plan is not None
            and equal_over_reals(self.records)
            and stable_in_floats(self.records)
        )


def derivations(op: Operator, every: bool = False) -> list[Derivation]:
    """The chains of an operator (with `every`, also those within others), derived and proved, or
    refused with a reason."""
    out = []
    for c in chains(op, every):
        if isinstance(c, NotAChain):
            out.append(Derivation(str(c).partition(":")[0], None, None, (), str(c)))
            continue
        key = c.key
        if key not in _KNOWN:
            _KNOWN[key] = _settled(c)
        plan, records, refusal = _KNOWN[key]
        own = None if plan is None else replace(plan, chain=c)
        out.append(Derivation(c.name, c, own, records, refusal))
    return out


def _settled(c: Chain) -> Settled:
    try:
        plan = derive(c)
    except NotFusable as e:
        return None, (), str(e)
    return plan, tuple(prove(plan)), ""


def single_pass(op: Operator) -> Operator | None:
    """The operator with every chain that is proved as folds of one pass; None where there is
    none."""
    made = {t.name: t for t in extract_folds(op)}
    order = list(made)
    changed = False
    for d in derivations(op):
        if not d.holds or d.plan is None or d.chain is None:
            continue
        for name, body in folds(d.plan, made).items():
            made[name] = replace(made[name], body=body)
            changed = True
    return replace(op, tensors=tuple(made[n] for n in order)) if changed else None


def folds(plan: Plan, tensors: Mapping[str, Tensor]) -> dict[str, Expr]:
    """The fold of every reduction of the chain that stands at the chain's own place: the same
    state for all, so that they are one pass."""
    chain = plan.chain
    last = tensors[chain.tensors[chain.name][0]]
    out: dict[str, Expr] = {}
    for stage in chain.stages:
        name, index = chain.tensors[stage.name]
        t = tensors[name]
        if stage.name != chain.name and set(index) != {var(a.name) for a in last.axes}:
            continue
        pass_ = Pass(plan).fold(stage.name)
        back = {i: var(a.name) for a, i in zip(t.axes, index, strict=True)}
        out[name] = substitute(pass_, back)
    return out


class Pass:
    """The state of a plan and its expressions over OpIR."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.chain = plan, plan.chain
        self.leaves: dict[Sympy, Expr] = {**plan.chain.elements, **plan.chain.params}
        self.counts = self._counters()

    def fold(self, result: str) -> Expr:
        """The fold that reads out one result."""
        names: list[str] = []
        init: list[Expr] = []
        step: list[Expr] = []
        merge: list[Expr] = []
        after, joined = self._stepped(), self._merged()
        for x in self.plan.accumulators.values():
            if x.monoid.startswith("arg"):
                value, index = f"{x.name}_value", x.name
                names += [value, index]
                kind = "max" if x.monoid == "argmax" else "min"
                init += [neutral(kind, "real"), const(-1)]
            else:
                names.append(x.name)
                init.append(neutral(x.monoid, "real"))
        for n in names:
            step.append(after[n])
            merge.append(joined[n])
        known, read_out = self._final(), self.plan.defs[result]
        finish = known[read_out] if read_out in known else self.value(read_out, known)
        return fold(
            self.chain.binders,
            self.chain.ranges,
            self._guard(),
            tuple(names),
            tuple(init),
            tuple(step),
            tuple(merge),
            finish,
            self.chain.accumulator,
            *self._joined(),
        )

    def _joined(self) -> tuple[tuple[str, ...], tuple[Expr, ...]]:
        """How any number of partial states are joined at once; nothing where an index is kept."""
        every = list(self.plan.accumulators.values())
        if any(x.monoid.startswith("arg") for x in every):
            return (), ()
        joined: dict[Sympy, Expr] = {
            symbol(x.name): leaf("state", f"{x.name}!", "real") for x in every
        }
        self._results(joined)
        own = self._state()
        shift = []
        for x in every:
            if not x.anchors:
                shift.append(own[symbol(x.name)])
                continue
            after = {moved(symbol(a)): self._anchor(a, joined[symbol(a)]) for a in x.anchors}
            shift.append(self._carried(x, "", {**after, **self._elsewhere(x, joined)}))
        return tuple(x.monoid for x in every), tuple(shift)

    def _guard(self) -> Expr:
        """What every accumulator's elements have in common."""
        guards = [conjuncts(x.guard) for x in self.plan.accumulators.values()]
        return conjunction([c for c in guards[0] if all(c in g for g in guards)])

    def _counters(self) -> dict[str, str]:
        """The accumulator that says whether an anchored sum is empty, where the correction of an
        empty one is not 0 by itself."""
        import sympy

        out = {}
        for x in [x for x in self.plan.accumulators.values() if x.anchors]:
            by_itself = self._row_of_extreme(x)
            if by_itself:
                continue
            mine = next(
                (
                    y.name
                    for y in self.plan.accumulators.values()
                    if y.body == 1 and y.guard is x.guard and not y.anchors
                ),
                None,
            )
            if mine is None:
                mine = COUNT if x.guard is TRUE else f"{COUNT}_{x.name}"
                one = Accumulator(mine, "sum", sympy.Integer(1), x.guard)
                self.plan.accumulators = {mine: one, **self.plan.accumulators}
            out[x.name] = mine
        return out

    def _row_of_extreme(self, x: Accumulator) -> bool:
        """Whether a correction is the sum times exp(old - new) of extremes: 0 for an empty sum."""
        import sympy

        factor = x.row / symbol(x.name)
        extremes = all(
            a in self.plan.accumulators and self.plan.accumulators[a].monoid in ("max", "min")
            for a in x.anchors
        )
        return extremes and factor.func is sympy.exp

    # -- sides

    def _state(self, suffix: str = "") -> dict[Sympy, Expr]:
        """Accumulators as state, and the results that are anchors, as old ones."""
        out: dict[Sympy, Expr] = {}
        for x in self.plan.accumulators.values():
            kind = "int" if x.monoid.startswith("arg") else "real"
            out[symbol(x.name)] = leaf("state", x.name + suffix, kind)
        self._results(out)
        return out

    def _results(self, known: dict[Sympy, Expr]) -> None:
        """Results that anchors or readouts need, from the accumulators of one side."""
        for name, e in self.plan.defs.items():
            s = symbol(name)
            if s in known:
                continue
            if e.free_symbols <= {*known, *self.leaves}:
                known[s] = self._guarded(e, known)

    def _guarded(self, e: Sympy, known: Mapping[Sympy, Expr]) -> Expr:
        """A result that divides by what is 0 where there is nothing: 0 there."""
        import sympy

        below = sympy.fraction(sympy.together(e))[1]
        value = self.value(e, known)
        if below.free_symbols & set(known):
            return call("select", call("eq", self.value(below, known), 0.0), 0.0, value)
        return value

    def _final(self) -> dict[Sympy, Expr]:
        """Results as the spec has them: nothing is replaced where nothing was reduced."""
        known: dict[Sympy, Expr] = {}
        for x in self.plan.accumulators.values():
            kind = "int" if x.monoid.startswith("arg") else "real"
            known[symbol(x.name)] = leaf("state", x.name, kind)
        for name, e in self.plan.defs.items():
            if symbol(name) not in known:
                known[symbol(name)] = self.value(e, known)
        return known

    def _anchor(self, name: str, value: Expr) -> Expr:
        """A result as a new anchor."""
        x = self.plan.accumulators.get(name)
        if x is not None and x.monoid in ("max", "min"):
            empty = neutral(x.monoid, "real")
            return call("select", call("eq", value, empty), 0.0, value)
        return value

    def _carried(self, x: Accumulator, side: str, after: Mapping[Sympy, Expr]) -> Expr:
        """An anchored sum of one side, moved to the new anchors."""
        old = self._state(side)
        value = self.value(x.row, {**old, **after})
        if x.name not in self.counts:
            return value
        count = old[symbol(self.counts[x.name])]
        return call("select", call("eq", count, 0.0), 0.0, value)

    # -- step and merge

    def _stepped(self) -> dict[str, Expr]:
        old = self._state()
        return self._next(
            lambda x: self._taken(x, old),
            lambda x, after: self._carried(x, "", after) + self._share(x, after),
        )

    def _merged(self) -> dict[str, Expr]:
        one, two = self._state(), self._state("~")

        def plain(x: Accumulator) -> tuple[Expr, ...]:
            a, b = one[symbol(x.name)], two[symbol(x.name)]
            if x.monoid.startswith("arg"):
                v = leaf("state", f"{x.name}_value", "real")
                w = leaf("state", f"{x.name}_value~", "real")
                return _pick(x.monoid, v, a, w, b)
            return (call(MONOIDS[x.monoid].row, a, b),)

        return self._next(
            plain,
            lambda x, after: self._carried(x, "", after) + self._carried(x, "~", after),
        )

    def _next(self, plain, anchored) -> dict[str, Expr]:  # type: ignore[no-untyped-def]
        """New values of all entries: plain ones, the anchors they give, then anchored ones."""
        out: dict[str, Expr] = {}
        known: dict[Sympy, Expr] = {}
        pending = list(self.plan.accumulators.values())
        while pending:
            ready = [x for x in pending if all(symbol(a) in known for a in x.anchors)]
            if not ready:
                raise NotFusable(f"{self.chain.name}: its anchors depend on each other")
            for x in ready:
                if x.anchors:
                    after = {moved(symbol(a)): self._anchor(a, known[symbol(a)]) for a in x.anchors}
                    after |= self._elsewhere(x, known)
                    values = (anchored(x, after),)
                else:
                    values = plain(x)
                if len(values) == 2:
                    out[f"{x.name}_value"] = values[0]
                out[x.name] = values[-1]
                known[symbol(x.name)] = values[-1]
                self._results(known)
            pending = [x for x in pending if x not in ready]
        return out

    def _elsewhere(self, x: Accumulator, known: Mapping[Sympy, Expr]) -> dict[Sympy, Expr]:
        """New anchors that a correction reads beside the sum's own."""
        names = {str(s).removesuffix("'") for s in x.row.free_symbols if str(s).endswith("'")}
        more = names - set(x.anchors)
        return {moved(symbol(a)): self._anchor(a, known[symbol(a)]) for a in more}

    def _taken(self, x: Accumulator, old: Mapping[Sympy, Expr]) -> tuple[Expr, ...]:
        """A plain accumulator after one element."""
        value = old[symbol(x.name)]
        new = self.value(x.body, {})
        if x.monoid.startswith("arg"):
            best = leaf("state", f"{x.name}_value", "real")
            taken = _pick(x.monoid, best, value, new, var(self.chain.binders[0]))
            return tuple(self._where(x, a, b) for a, b in zip(taken, (best, value), strict=True))
        return (self._where(x, call(MONOIDS[x.monoid].row, value, new), value),)

    def _share(self, x: Accumulator, after: Mapping[Sympy, Expr]) -> Expr:
        """What one element adds to an anchored sum."""
        body = x.body.subs({symbol(a): moved(symbol(a)) for a in x.anchors}, simultaneous=True)
        return self._where(x, self.value(body, after), const(0.0))

    def _where(self, x: Accumulator, a: Expr, b: Expr) -> Expr:
        """`a` where the element counts for the accumulator, apart from the guard of all."""
        common = conjuncts(self._guard())
        own = [c for c in conjuncts(x.guard) if c not in common]
        return call("select", conjunction(own), a, b) if own else a

    # -- sympy to OpIR

    def value(self, e: Sympy, known: Mapping[Sympy, Expr]) -> Expr:
        """A sympy expression over OpIR."""
        import sympy

        if e.is_Symbol:
            found = known.get(e, self.leaves.get(e))
            if found is None:
                raise NotFusable(f"{self.chain.name}: {e} is not known in the pass")
            return found if found.kind == "real" else call("toreal", found)
        if e.is_Rational:
            return const(float(e))
        if e in (sympy.oo, -sympy.oo):
            return const(float(e))
        if e.is_Add:
            return self._sum(e, known)
        if e.is_Mul:
            return self._product(e, known)
        if e.is_Pow:
            return self._power(e, known)
        if isinstance(e, sympy.Piecewise):
            return self._cases(e, known)
        parts = [self.value(a, known) for a in e.args]
        names = {"exp": "exp", "log": "log", "Abs": "abs", "Max": "max", "Min": "min"}
        return call(names.get(e.func.__name__, e.func.__name__), *parts)

    def _sum(self, e: Sympy, known: Mapping[Sympy, Expr]) -> Expr:
        terms = sorted(e.args, key=lambda t: (t.could_extract_minus_sign(), str(t)))
        out = self.value(terms[0], known)
        for t in terms[1:]:
            if t.could_extract_minus_sign():
                out = out - self.value(-t, known)
            else:
                out = out + self.value(t, known)
        return out

    def _product(self, e: Sympy, known: Mapping[Sympy, Expr]) -> Expr:
        import sympy

        above, below = sympy.fraction(e, exact=True)
        if below != 1 and not below.is_Rational:
            return call("div", self.value(above, known), self.value(below, known))
        parts = list(e.args)
        out = self.value(parts[0], known)
        for p in parts[1:]:
            out = out * self.value(p, known)
        return out

    def _power(self, e: Sympy, known: Mapping[Sympy, Expr]) -> Expr:
        import sympy

        base = self.value(e.base, known)
        if e.exp == sympy.Rational(1, 2):
            return call("sqrt", base)
        if e.exp.is_Integer and abs(int(e.exp)) <= 8:
            out = base
            for _ in range(abs(int(e.exp)) - 1):
                out = out * base
            return out if e.exp > 0 else call("div", 1.0, out)
        if e.exp.is_Rational and e.exp < 0:
            return call("div", 1.0, self.value(e.base ** (-e.exp), known))
        return call("pow", base, self.value(e.exp, known))

    def _cases(self, e: Sympy, known: Mapping[Sympy, Expr]) -> Expr:
        out = self.value(e.args[-1][0], known)
        names = {"<": "lt", "<=": "le"}
        for v, c in reversed(e.args[:-1]):
            sides = [self.value(c.lhs, known), self.value(c.rhs, known)]
            if c.rel_op.startswith(">"):
                sides.reverse()
            test = call(names[c.rel_op.replace(">", "<")], *sides)
            out = call("select", test, self.value(v, known), out)
        return out


def _pick(kind: str, v: Expr, i: Expr, w: Expr, j: Expr) -> tuple[Expr, Expr]:
    """The better value with its index; the smaller index where two are equal."""
    better = w > v if kind == "argmax" else w < v
    first = call("and", call("eq", w, v), call("lt", j, i))
    nan = call("and", call("isnan", w), call("or", ~call("isnan", v), call("lt", j, i)))
    take = call("or", call("and", ~call("isnan", v), call("or", better, first)), nan)
    take = call("and", call("le", 0, j), call("or", call("lt", i, 0), take))
    return call("select", take, w, v), call("select", take, j, i)


__all__ = ["Derivation", "derivations", "folds", "single_pass"]
