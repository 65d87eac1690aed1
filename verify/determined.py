"""Obligations of G3: outputs written everywhere and once, no two programs of a launch at one
element."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from opwright.ir.expr import leaves, pid
from opwright.ir.tile import Axis, Buffer, lanes, written_at
from opwright.verify.counting import Counting
from opwright.verify.encode import Instance
from opwright.verify.intervals import Intervals
from opwright.verify.obligation import Case, Collector, Obligation
from opwright.verify.terms import NO, YES, Formula, Poly
from opwright.verify.walk import Access, Fence
from opwright.verify.witness import proposals

UNROLLED = 4  # stores side by side, beyond which they are taken together first
Otherwise = list[tuple[list[Case], str]]


class Determined(Collector):
    """Obligations of G3."""

    def collect(self) -> Iterable[Obligation]:
        self.intervals = Intervals(self.seen, self.terms)
        for f in self.seen.fences:
            yield self.reached(f)
        touched: dict[str, list[Access]] = {}
        for a in self.seen.accesses:
            touched.setdefault(a.buffer.name, []).append(a)
        for b in self.program.buffers():
            own = touched.get(b.name, [])
            stores = [a for a in own if a.plain]
            if b.role == "out":
                yield self.covered(b, stores)
            if b.role in ("out", "state"):
                for u, w in itertools.combinations_with_replacement(stores, 2):
                    if u.launch == w.launch:
                        yield self.once(b, u, w)
            else:
                for u in stores:
                    yield self.apart(u)
            for u in own:
                if u.monoid:
                    yield self.combined(u)
            yield from self.races(b, own)

    def lanes_ordered(self, launch: int) -> bool:
        return self.program.kernels[launch].order == "lane"

    def reached(self, f: Fence) -> Obligation:
        """A barrier is reached by all threads of its scope or by none."""
        t, encoder, s = self.terms, self.encoder, f.barrier
        at = encoder.instance(f.launch, f.path)
        other = at.copy('"', lanes=False)
        kernel = self.program.kernels[f.launch]
        same = [
            t.eq(encoder.term(a.lane, at), encoder.term(a.lane, other))
            for a in kernel.threads
            if a not in s.axes
        ]
        facts = [*at.facts, *same, *t.parts(encoder.formula(s.mask, at))]
        case: Case = (facts, encoder.formula(s.mask, other))
        o = self.make("G3", "uniform", f.launch, s.name, ("diverge",), [case])
        o.says = "all threads of its scope reach it, or none"
        return o

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
        joined: dict[Formula, None] = {}
        for w in stores:
            ways |= dict.fromkeys(proposals(encoder, w, element))
            joined |= dict.fromkeys(proposals(encoder, w, element, together=True))
        case, otherwise = (facts, t.any(ways)), self.counted(stores, element, facts, ways)
        if set(joined) != set(ways):
            # many stores of an unrolled loop: a division of each is more than a prover can join
            both: list[Case] = [(facts, t.any(joined)), case]
            first, second = both if len(stores) > UNROLLED else both[::-1]
            case, otherwise = first, [([second], "stores side by side"), *otherwise]
        out = self.make(
            "G3",
            "cover",
            -1,
            b.name,
            ("missing",),
            [case],
            statements=(),
            buffers=(b.name,),
            proposed=True,
            otherwise=otherwise,
        )
        out.line = written_at(self.program.kernels, b.name)
        return out

    def counted(
        self,
        stores: list[Access],
        element: list[Poly],
        facts: list[Formula],
        ways: Iterable[Formula],
    ) -> Otherwise:
        """The same with an order of tiles that is shown to reach all of them by counting."""
        found = [c for c in (Counting(self.encoder, w) for w in stores) if c.tiles]
        if not found:
            return []
        given, more = list(facts), list(ways)
        lemmas: list[Case] = []
        for c in found:
            known, way = c.witness(element)
            given, more, lemmas = [*given, *known], [*more, way], [*lemmas, *c.lemma()]
        why = "as many programs as tiles, no two of them at one tile"
        return [([*lemmas, (given, self.terms.any(more))], why)]

    def once(self, b: Buffer, u: Access, w: Access) -> Obligation:
        """Two instances that write one element are one and the same, or follow one another in one
        program; where lanes run on their own, they may also agree on the value."""
        t, encoder = self.terms, self.encoder
        e1 = encoder.instance(u.launch, u.path, "'")
        e2 = encoder.instance(w.launch, w.path, '"')
        facts = self.meeting(u, e1, w, e2)
        goal = NO
        if u is w:
            facts_of = [
                t.eq(e1.leaves[x], e2.leaves[x]) for x in e1.leaves if x.op in ("pid", "var")
            ]
            goal = t.all([*facts_of, self.same_lanes(u, e1, w, e2)])
        name = u.name if u is w else f"{u.name}.{w.name}"
        where = tuple(dict.fromkeys((self.at(u.launch, u.name), self.at(w.launch, w.name))))
        after = self.ordered(u, e1, w, e2)
        otherwise: Otherwise = [([(facts, after)], "writes of one program are ordered")]
        if self.lanes_ordered(u.launch):
            either = t.either(after, self.agree(u, e1, w, e2))
            otherwise.append(([(facts, either)], "all that write one element write the same value"))
        return self.make(
            "G3",
            "once",
            u.launch,
            name,
            ("twice",),
            [(facts, goal)],
            statements=where,
            buffers=(b.name,),
            otherwise=otherwise,
        )

    def same_program(self, u: Access, e1: Instance, e2: Instance) -> list[Formula]:
        grid = range(len(self.program.kernels[u.launch].grid))
        return [self.terms.eq(e1.leaves[pid(d)], e2.leaves[pid(d)]) for d in grid]

    def same_lanes(self, u: Access, e1: Instance, w: Access, e2: Instance) -> Formula:
        """Both are at equal lanes of equal axes."""
        t, encoder = self.terms, self.encoder
        if set(u.axes) != set(w.axes):
            return NO
        return t.all(t.eq(encoder.term(a.lane, e1), encoder.term(a.lane, e2)) for a in u.axes)

    def ordered(self, u: Access, e1: Instance, w: Access, e2: Instance) -> Formula:
        """The order of effects within a program decides between two accesses."""
        t = self.terms
        same = self.same_program(u, e1, e2)
        if self.lanes_ordered(u.launch):
            return t.all([*same, self.in_turn(u, e1, w, e2)])
        if u is w:  # lanes of one execution are not ordered
            another = [t.no(t.eq(e1.leaves[x], e2.leaves[x])) for x in e1.leaves if x.op == "var"]
            same.append(t.any([*another, self.same_lanes(u, e1, w, e2)]))
        return t.all(same)

    def in_turn(self, u: Access, e1: Instance, w: Access, e2: Instance) -> Formula:
        """Both are done by one thread, or a barrier is between them."""
        t, encoder = self.terms, self.encoder
        same = self.same_lanes(u, e1, w, e2)
        threads = self.program.kernels[u.launch].threads
        if not threads or not self.intervals.scopes(u.launch):
            return same
        ways = [same]
        for scope in self.intervals.scopes(u.launch):
            alike = [
                t.eq(encoder.term(a.lane, e1), encoder.term(a.lane, e2))
                for a in threads
                if a not in scope
            ]
            open_ = self.intervals.apart(u, e1, w, e2, scope)
            ways.append(t.all([*alike, t.no(open_)]))
        return t.any(ways)

    def agree(self, u: Access, e1: Instance, w: Access, e2: Instance) -> Formula:
        """Both write the same value."""
        assert u.value is not None and w.value is not None
        return self.terms.eq(self.encoder.data(u.value, e1), self.encoder.data(w.value, e2))

    def combined(self, u: Access) -> Obligation:
        """An atomic is commutative; that its element has an initial value is an obligation of G2,
        that nothing else meets it in its launch one of its races."""
        exact = u.buffer.dtype.kind != "real" or u.monoid in ("max", "min")
        how = "whatever the order" if exact else f"up to the order of the {u.monoid}"
        case: Case = ([], YES)
        note = f"atomic {u.monoid} on an initial value: determined {how}"
        return self.make("G3", "atomic", u.launch, u.name, (), [case], note=note)

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
        otherwise: Otherwise = []
        if self.lanes_ordered(u.launch) and goal is not YES:
            agreed = t.either(goal, self.agree(u, at, u, other))
            otherwise = [([(facts, agreed)], "lanes that write one element write the same value")]
        return self.make(
            "G3", "lanes", u.launch, u.name, ("twice",), [(facts, goal)], otherwise=otherwise
        )

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

    def races(self, b: Buffer, own: list[Access]) -> Iterable[Obligation]:
        """Two accesses of one launch that meet at an element, one of them writing, are ordered."""
        apart: dict[int, int] = {}  # pairs that a barrier of a launch always separates
        for n, w in enumerate(own):
            for m, r in enumerate(own):
                if not w.store or r.launch != w.launch or (r.store and m < n):
                    continue
                both = w.plain and r.plain
                if both and b.role in ("out", "state"):
                    continue  # told apart by `once`
                ordered = not self.lanes_ordered(w.launch)
                looped = w is r and bool(w.loops) and bool(self.program.kernels[w.launch].threads)
                if b.role == "program" and (ordered or (w is r and not looped)):
                    continue
                if w.monoid and w.monoid == r.monoid:
                    continue
                threads = self.program.kernels[w.launch].threads
                if b.role == "program" and threads and self.intervals.never(w, r, threads):
                    apart[w.launch] = apart.get(w.launch, 0) + 1
                    continue
                yield self.race(b, w, r, both)
        for launch, count in apart.items():
            note = f"a barrier is between {count} pairs of accesses"
            case: Case = ([], YES)
            yield self.make("G3", "barriers", launch, b.name, (), [case], note=note)

    def race(self, b: Buffer, w: Access, r: Access, both: bool) -> Obligation:
        t, encoder = self.terms, self.encoder
        e1 = encoder.instance(w.launch, w.path, "'")
        e2 = encoder.instance(r.launch, r.path, '"')
        facts = self.meeting(w, e1, r, e2)
        if b.role == "program":
            facts += self.same_program(w, e1, e2)
        goal = t.all(self.same_program(w, e1, e2))
        if self.lanes_ordered(w.launch):
            atomic = (w.monoid or r.monoid) and not self.program.kernels[w.launch].threads
            goal = t.both(goal, NO if atomic else self.in_turn(w, e1, r, e2))
        otherwise: Otherwise = []
        if both and self.lanes_ordered(w.launch):
            agreed = t.either(goal, self.agree(w, e1, r, e2))
            otherwise = [([(facts, agreed)], "all that write one element write the same value")]
        name = f"{w.name}.{r.name}"
        where = tuple(dict.fromkeys((self.at(w.launch, w.name), self.at(w.launch, r.name))))
        return self.make(
            "G3",
            "race",
            w.launch,
            name,
            ("race",),
            [(facts, goal)],
            statements=where,
            otherwise=otherwise,
        )
