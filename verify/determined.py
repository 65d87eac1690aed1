"""Obligations of G3: outputs written everywhere and once, no two programs of a launch at one
element."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from opwright.ir.expr import leaves, pid
from opwright.ir.tile import Axis, Buffer, lanes
from opwright.verify.encode import Instance
from opwright.verify.obligation import Collector, Obligation
from opwright.verify.terms import NO, YES, Formula, Poly
from opwright.verify.walk import Access
from opwright.verify.witness import proposals


class Determined(Collector):
    """Obligations of G3."""

    def collect(self) -> Iterable[Obligation]:
        stores: dict[str, list[Access]] = {}
        for a in self.seen.accesses:
            if a.store:
                stores.setdefault(a.buffer.name, []).append(a)
        for b in self.program.buffers():
            own = stores.get(b.name, [])
            if b.role == "out":
                yield self.covered(b, own)
            if b.role in ("out", "state"):
                for u, w in itertools.combinations_with_replacement(own, 2):
                    yield self.once(b, u, w)
            else:
                for u in own:
                    yield self.apart(u)
            if b.role in ("out", "state", "plan"):
                yield from self.races(b, own)

    def covered(self, b: Buffer, stores: list[Access]) -> Obligation:
        t, encoder = self.terms, self.encoder
        at = Instance(0, "")
        element = [t.fresh(f"e{d}", 0, None) for d in range(len(b.shape))]
        facts = []
        for x, n in zip(element, b.shape, strict=True):
            size = encoder.term(n, at)
            (number,) = x.atoms
            hi = t.interval(size)[1]
            t.atoms[number].hi = None if hi is None else hi - 1
            facts += t.parts(t.lt(x, size))
        ways: dict[Formula, None] = {}
        for w in stores:
            ways |= dict.fromkeys(proposals(encoder, w, element))
        case = (facts, t.any(ways))
        return self.make(
            "G3",
            "cover",
            -1,
            b.name,
            ("missing",),
            [case],
            statements=(),
            buffers=(b.name,),
            proposed=True,
        )

    def once(self, b: Buffer, u: Access, w: Access) -> Obligation:
        """Two instances that write one element are one and the same."""
        t, encoder = self.terms, self.encoder
        e1 = encoder.instance(u.launch, u.path, "'")
        e2 = encoder.instance(w.launch, w.path, '"')
        facts = self.meeting(u, e1, w, e2)
        goal = NO
        if u is w:
            facts_of = [
                t.eq(e1.leaves[x], e2.leaves[x]) for x in e1.leaves if x.op in ("pid", "var")
            ]
            own = [t.eq(encoder.term(a.lane, e1), encoder.term(a.lane, e2)) for a in u.axes]
            goal = t.all([*facts_of, *own])
        name = u.name if u is w else f"{u.name}.{w.name}"
        if u is not w and u.launch != w.launch:
            name = f"{u.name}.{self.program.kernels[w.launch].name}.{w.name}"
        where = tuple(dict.fromkeys((self.at(u.launch, u.name), self.at(w.launch, w.name))))
        own_buffer = (b.name,)
        return self.make(
            "G3",
            "once",
            u.launch,
            name,
            ("twice",),
            [(facts, goal)],
            statements=where,
            buffers=own_buffer,
        )

    def apart(self, u: Access) -> Obligation:
        """The lanes of one store to scratch write different elements."""
        t, encoder = self.terms, self.encoder
        at = encoder.instance(u.launch, u.path)
        if self.separate(u, at):
            facts, goal = list(at.facts), YES
        else:
            other = at.copy('"', lanes=False)
            facts = self.meeting(u, at, u, other)
            goal = t.all(
                t.eq(encoder.term(a.lane, at), encoder.term(a.lane, other)) for a in u.axes
            )
        return self.make("G3", "lanes", u.launch, u.name, ("twice",), [(facts, goal)])

    def separate(self, u: Access, at: Instance) -> bool:
        """Whether each lane axis moves, alone, one index of its own."""
        left: set[Axis] = set(u.axes)
        for e in u.index:
            own = lanes(e)
            if len(own) == 1 and own[0] in left and not leaves(e, "value"):
                p = self.encoder.term(e, at)
                (n,) = self.encoder.term(own[0].lane, at).atoms
                if [m for m, _ in p.items if n in m] == [(n,)] and not self._hidden(p, n):
                    left.discard(own[0])
        return not left

    def _hidden(self, p: Poly, n: int) -> bool:
        """Whether a lane also occurs inside a quotient, minimum or choice of the term."""
        return any(self.terms.atoms[m].axioms for m in p.atoms if m != n)

    def races(self, b: Buffer, stores: list[Access]) -> Iterable[Obligation]:
        """No two programs of a launch meet at an element that one of them writes."""
        t, encoder = self.terms, self.encoder
        for w in stores:
            others = [
                a
                for a in self.seen.accesses
                if a.buffer.name == b.name
                and a.launch == w.launch
                and (not a.store or (b.role == "plan" and stores.index(a) >= stores.index(w)))
            ]
            for r in others:
                e1 = encoder.instance(w.launch, w.path, "'")
                e2 = encoder.instance(r.launch, r.path, '"')
                grid = range(len(self.program.kernels[w.launch].grid))
                goal = t.all(t.eq(e1.leaves[pid(d)], e2.leaves[pid(d)]) for d in grid)
                name = f"{w.name}.{r.name}"
                case = (self.meeting(w, e1, r, e2), goal)
                where = tuple(dict.fromkeys((self.at(w.launch, w.name), self.at(w.launch, r.name))))
                yield self.make("G3", "race", w.launch, name, ("race",), [case], statements=where)
