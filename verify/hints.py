"""Obligations of placements: hints that could make a program wrong (homes, streaming stores, the
order of copies)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from opwright.ir.expr import Expr, leaves, param, pid, var
from opwright.ir.tile import (
    Axis,
    Buffer,
    Def,
    For,
    If,
    Stmt,
    Store,
    lanes,
    matches,
    row_major,
)
from opwright.verify.encode import Instance
from opwright.verify.obligation import Case, Collector, Obligation
from opwright.verify.terms import NO, YES, Formula
from opwright.verify.walk import Access


class Hints(Collector):
    """Obligations of G2 that placements bring."""

    def collect(self) -> Iterable[Obligation]:
        for n, p in enumerate(self.program.placements):
            for scratch, (host, lead) in p.home.items():
                cases = [self.housed(n, scratch, host, lead)]
                for u in (a for a in self.seen.accesses if a.buffer.name == scratch):
                    for w in (a for a in self.seen.accesses if a.buffer.name == host):
                        if u.launch == n and w.launch <= n:
                            cases.append(self.dead(n, u, w, lead))
                own = f"{scratch}.{host}"
                yield self.make(
                    "G2", "home", n, own, ("home",), cases, statements=(), buffers=(scratch, host)
                )
            for w in self.seen.accesses:
                if w.launch == n and w.store and matches(p.stream, w.name):
                    yield self.aligned(n, w)
            if p.deep:
                yield from self.copies(n)

    def copies(self, n: int) -> Iterable[Obligation]:
        """A run that is printed copy by copy: no lane touches what another lane's copy does.

        Statement by statement is the meaning; copy by copy is the same if a later statement meets
        an earlier one of the run, at one element of memory, in the same lanes only.
        """
        touched = {a.name: a for a in self.seen.accesses if a.launch == n}
        for run in self.runs(self.program.kernels[n].body, self.program.placements[n].deep):
            known = [touched[name] for name in run if name in touched]
            for first, second in itertools.combinations(known, 2):
                a, b = self.memory(n, first), self.memory(n, second)
                if a[0] == b[0] and (first.store or second.store):
                    yield self.in_lane(n, first, second)

    def runs(self, body: Iterable[Stmt], deep: tuple[str, ...]) -> Iterable[list[str]]:
        """Names of statements that stand together and are printed copy by copy."""
        run: list[str] = []
        for s in body:
            name = s.value.name if isinstance(s, Def) else s.name if isinstance(s, Store) else ""
            if isinstance(s, Def) and s.value.op == "reduce":
                name = ""
            if name and matches(deep, name):
                run.append(name)
                continue
            if len(run) > 1:
                yield run
            run = []
            if isinstance(s, For):
                yield from self.runs(s.body, deep)
            elif isinstance(s, If):
                yield from self.runs(s.then, deep)
                yield from self.runs(s.other, deep)
        if len(run) > 1:
            yield run

    def memory(self, n: int, a: Access) -> tuple[str, tuple[Expr, ...]]:
        """Whose memory an access touches, and where: scratch in a home touches its host."""
        host, lead = self.program.placements[n].home.get(a.buffer.name, (a.buffer.name, ()))
        return host, (*lead, *a.index)

    def in_lane(self, n: int, first: Access, second: Access) -> Obligation:
        t, encoder = self.terms, self.encoder
        e1 = encoder.instance(n, first.path)
        e2 = e1.copy('"', lanes=False)
        (_, i), (_, j) = self.memory(n, first), self.memory(n, second)
        meet = [t.eq(encoder.term(x, e1), encoder.term(y, e2)) for x, y in zip(i, j, strict=True)]
        masks = [encoder.formula(first.mask, e1), encoder.formula(second.mask, e2)]
        facts = [p for f in (*e1.facts, *meet, *masks) for p in t.parts(f)]
        goal = NO
        if set(first.axes) <= set(second.axes):
            goal = t.all(
                t.eq(encoder.term(a.lane, e1), encoder.term(a.lane, e2)) for a in first.axes
            )
        name = f"{first.name}.{second.name}"
        return self.make("G2", "deep", n, name, (), [(facts, goal)])

    def housed(self, n: int, scratch: str, host: str, lead: tuple[Expr, ...]) -> Case:
        """The scratch fits into the slice of the output, whatever the program."""
        t, encoder = self.terms, self.encoder
        buffers = {b.name: b for b in self.program.buffers()}
        at = encoder.instance(n, ())
        goals = []
        for e, size in zip(lead, buffers[host].shape, strict=False):
            x = encoder.term(e, at)
            goals += [t.ge0(x), t.lt(x, encoder.term(size, at))]
        rest = buffers[host].shape[len(lead) :]
        for e, size in zip(buffers[scratch].shape, rest, strict=True):
            goals.append(t.le(encoder.term(e, at), encoder.term(size, at)))
        return at.facts, t.all(goals)

    def dead(self, n: int, u: Access, w: Access, lead: tuple[Expr, ...]) -> Case:
        """Scratch in a home is touched by its program only, and before the host's element is."""
        t, encoder = self.terms, self.encoder
        e1 = encoder.instance(u.launch, u.path, "'")
        e2 = encoder.instance(w.launch, w.path, '"')
        place = [*(encoder.term(e, e1) for e in lead), *(encoder.term(e, e1) for e in u.index)]
        meet = [t.eq(x, encoder.term(j, e2)) for x, j in zip(place, w.index, strict=True)]
        masks = [encoder.formula(u.mask, e1), encoder.formula(w.mask, e2)]
        facts = [p for f in (*e1.facts, *e2.facts, *meet, *masks) for p in t.parts(f)]
        if w.launch != n:
            return facts, NO
        grid = range(len(self.program.kernels[n].grid))
        same = t.all(t.eq(e1.leaves[pid(d)], e2.leaves[pid(d)]) for d in grid)
        shared = [
            var(p.loop.variable) for p, q in zip(u.path, w.path, strict=False) if p.loop and p is q
        ]
        both = [t.eq(e1.leaves[v], e2.leaves[v]) for v in shared]
        before = [t.all(both)] if u.order < w.order else []
        for k, v in enumerate(shared):
            before.append(t.all([*both[:k], t.lt(e1.leaves[v], e2.leaves[v])]))
        return facts, t.both(same, t.any(before))

    def aligned(self, n: int, w: Access) -> Obligation:
        """Each vector of a streaming store starts at a multiple of the vector's bytes.

        A store whose lanes are masked, or which has no vector axis, is not streamed.
        """
        t, encoder, b = self.terms, self.encoder, w.buffer
        at = encoder.instance(n, w.path).copy("a", lanes=False)
        placed = self.program.placements[n].axes
        wide = [(a, placed[a.name][1]) for a in w.axes if isinstance(placed[a.name], tuple)]
        goals: list[Formula] = []
        if wide and wide[0][0] not in lanes(w.mask) and self.contiguous(w, wide[0][0]):
            axis, width = wide[0][0], int(wide[0][1])
            first = t.fresh(f"{axis.name}first", 0, axis.extent // width - 1)
            at.bind(axis.lane, t.scale(first, width))
            each = t.const(width)
            goals.append(self.base(b, width * b.dtype.bytes))
            if w.index:
                goals.append(t.eq0(t.divide(encoder.term(w.index[-1], at), each)[1]))
            rows = b.strides[:-1] if b.strides else b.shape[-1:] if len(b.shape) > 1 else ()
            goals += [t.eq0(t.divide(encoder.term(r, at), each)[1]) for r in rows]
            if b.strides:
                goals.append(t.eq(encoder.term(b.strides[-1], at), t.const(1)))
        case = (at.facts, t.all(goals))
        return self.make("G2", "stream", n, w.name, (), [case], buffers=(b.name,))

    def contiguous(self, w: Access, axis: Axis) -> bool:
        """Whether lanes may lie side by side in memory; other stores are never streamed."""
        b, at = w.buffer, Instance(w.launch, "")
        steps = b.strides or row_major(b.shape)
        along = [s for e, s in zip(w.index, steps, strict=True) if axis in lanes(e)]
        return any(s.op == "stride" or self.encoder.term(s, at).constant == 1 for s in along)

    def base(self, b: Buffer, needed: int) -> Formula:
        """A fact says that the buffer's memory is aligned to that many bytes."""
        for f in (*self.program.facts, *self.context.facts):
            for x in leaves(f, "param"):
                name, _, at = str(x.attr).removeprefix("aligned(").removesuffix(")").partition(", ")
                if x is f and name == b.name and at.isdigit() and int(at) % needed == 0:
                    return YES
        missing = param(f"aligned({b.name}, {needed})", "bool")
        return self.encoder.formula(missing, Instance(0, ""))
