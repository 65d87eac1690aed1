"""Derived passes for tiles: what a block of elements does to a state that is shared by its rows.

A fold of OpIR takes one element at a time. Here an entry of the state takes a whole block: its own
sum is moved to the new anchors once, and the block's share is reduced (or, where a factor varies
over columns, contracted) at these anchors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from opwright.compiler.cascade.chain import Sympy, symbol
from opwright.compiler.cascade.derive import Accumulator, NotFusable, Plan, moved
from opwright.compiler.cascade.rewrite import Pass
from opwright.ir.expr import Expr, leaf, neutral

NEW = "!"  # marks the state after the block


def state(name: str) -> Expr:
    """What stands for an entry in expressions."""
    return leaf("state", name, "real")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: `share` is an element's part under `guard`, `carried` the old sum at the new
    anchors (None: as it stands). States are `name`, and `name!` after the block."""

    name: str
    monoid: str
    share: Expr
    carried: Expr | None
    guard: Expr

    @property
    def start(self) -> float:
        value = neutral(self.monoid, "real").attr
        return float(value)


@dataclass(frozen=True, slots=True)
class Stream:
    """The entries of one pass in the order in which they can be made, and the results that they
    read out, over the indices of the chain's last definition."""

    binders: tuple[str, ...]
    entries: tuple[Entry, ...]
    results: Mapping[str, Expr]


def stream(plan: Plan) -> Stream:
    """The pass of a plan over blocks of elements; NotFusable where it keeps an index."""
    made = _Blocks(plan)
    return Stream(plan.chain.binders, made.entries(), made.results())


class _Blocks(Pass):
    def entries(self) -> tuple[Entry, ...]:
        out: list[Entry] = []
        known: dict[Sympy, Expr] = {}
        pending = list(self.plan.accumulators.values())
        while pending:
            ready = [x for x in pending if all(symbol(a) in known for a in x.anchors)]
            if not ready:
                raise NotFusable(f"{self.chain.name}: its anchors depend on each other")
            for x in ready:
                out.append(self._entry(x, known))
                known[symbol(x.name)] = state(x.name + NEW)
                self._results(known)
            pending = [x for x in pending if x not in ready]
        return tuple(out)

    def _entry(self, x: Accumulator, known: Mapping[Sympy, Expr]) -> Entry:
        if x.monoid.startswith("arg"):
            raise NotFusable(f"{self.chain.name}: an index has no share of a block")
        if not x.anchors:
            return Entry(x.name, x.monoid, self.value(x.body, {}), None, x.guard)
        after = {moved(symbol(a)): self._anchor(a, known[symbol(a)]) for a in x.anchors}
        after |= self._elsewhere(x, known)
        at = {symbol(a): moved(symbol(a)) for a in x.anchors}
        share = self.value(x.body.subs(at, simultaneous=True), after)
        return Entry(x.name, x.monoid, share, self._carried(x, "", after), x.guard)

    def results(self) -> dict[str, Expr]:
        """Every stage as a value of the final state."""
        known = self._final()
        out = {}
        for s in self.chain.stages:
            e = self.plan.defs[s.name]
            out[s.name] = known[e] if e in known else self.value(e, known)
        return out
