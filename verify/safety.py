"""Obligations of G2: in bounds, no wrap, positive divisors, no poison where it matters, nothing
read before it is written."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from opwright.ir.dtypes import integer_range
from opwright.ir.expr import Expr, call, conjunction, leaf, leaves, var, walk
from opwright.ir.semantics import ROWS
from opwright.ir.tile import Value
from opwright.verify import proofs
from opwright.verify.encode import Instance
from opwright.verify.obligation import Case, Collector, Obligation
from opwright.verify.point import Probe
from opwright.verify.terms import YES, Formula, Poly
from opwright.verify.walk import Access, Bound, Moved, Stated, Use
from opwright.verify.witness import Witness, proposals

TOP = 2**63
INT64 = (-TOP, TOP - 1)
HOST = "."  # where traps outside of every kernel show


class Safety(Collector):
    """Obligations of G2 but for hints."""

    def collect(self) -> Iterable[Obligation]:
        for n in range(len(self.program.kernels)):
            yield self.grid(n)
        yield from self.shapes()
        for a in self.seen.accesses:
            yield from self.access(a)
        for b in self.seen.bounds:
            yield self.bound(b)
        for u in self.seen.uses:
            yield self.use(u)
        for c in self.seen.checks:
            yield self.check(c)
        for m in self.seen.moves:
            yield from self.viewed(m) if m.value.op == "view" else self.scanned(m)
        for a in self.seen.accesses:
            if (
                (not a.store or a.monoid)
                and a.buffer.role in ("program", "plan", "out")
                and a.buffer.init == "none"
            ):
                yield self.written(a)
        yield from self.flattening()

    def grid(self, launch: int) -> Obligation:
        """Extents of a grid are computed without wrap; the driver checks their product."""
        at, kernel = Instance(launch, ""), self.program.kernels[launch]
        case: Case = ([], self.terms.all(self.sane(kernel.grid, at)))
        traps = ("wrap", "divisor")
        return self.make("G2", "grid", -1, kernel.name, traps, [case], statements=(HOST,))

    def shapes(self) -> Iterable[Obligation]:
        """Extents of buffers are computed without wrap; the driver checks what scratch needs."""
        at = Instance(0, "")
        for b in self.program.buffers():
            if goals := self.sane(b.shape, at):
                case: Case = ([], self.terms.all(goals))
                traps = ("wrap", "divisor")
                yield self.make("G2", "shape", -1, b.name, traps, [case], statements=(HOST,))

    def access(self, a: Access) -> Iterable[Obligation]:
        t, encoder = self.terms, self.encoder
        at = encoder.instance(a.launch, a.path)
        mask = encoder.formula(a.mask, at)
        under = [*at.facts, *t.parts(mask)]
        # a divisor of the index is evaluated for lanes that the mask leaves out, too
        if wrap := [*self.sane((a.mask,), at), *self.divisors(a.index, at)]:
            case = (at.facts, t.all(wrap))
            yield self.make("G2", "mask", a.launch, a.name, ("wrap", "divisor"), [case])
        case = (under, t.all(self.sane(a.index, at)))
        yield self.make("G2", "wrap", a.launch, a.name, ("wrap",), [case])
        inside = []
        for i, n in zip(a.index, a.buffer.shape, strict=True):
            x = encoder.term(i, at)
            inside += [t.ge0(x), t.lt(x, encoder.term(n, at))]
        case = (under, t.all(inside))
        o = self.make("G2", "bounds", a.launch, a.name, ("bounds",), [case])
        own = zip(a.index, a.buffer.shape, strict=True)
        limits = [c for i, n in own for c in (call("le", 0, i), call("lt", i, n))]
        o.probe = Probe(a.launch, a.path, at, a.mask, conjunction(limits), a.buffer, a.index)
        yield o

    def divisors(self, exprs: Iterable[Expr], at: Instance) -> list[Formula]:
        t = self.terms
        found = dict.fromkeys(
            x.args[1] for e in exprs for x in walk(e) if x.op in ("floordiv", "mod")
        )
        goals = [t.lt(t.const(0), self.encoder.term(d, at)) for d in found]
        return [g for g in goals if g is not YES]

    def sane(self, exprs: Iterable[Expr], at: Instance) -> list[Formula]:
        """No node of these expressions wraps, and every divisor is positive."""
        t, out = self.terms, []
        todo, done = list(exprs), set()
        while todo:
            e = todo.pop()
            for x in walk(e):
                if x in done:
                    continue
                done.add(x)
                if x.op == "value":
                    exprs_inside, own = self.inside(x.attr, at)
                    todo += exprs_inside
                    out += own
                    continue
                if not x.args or x.kind != "int" or any(a.kind == "real" for a in x.args):
                    continue
                out += self.fits(self.encoder.term(x, at), INT64)
                if x.op in ("floordiv", "mod"):
                    out.append(t.lt(t.const(0), self.encoder.term(x.args[1], at)))
        return [f for f in out if f is not YES]

    def inside(self, v: Value, at: Instance) -> tuple[list[Expr], list[Formula]]:
        """Index expressions that an integer value is made of, and that its arithmetic is exact."""
        exprs: list[Expr] = []
        out: list[Formula] = []
        todo, done = [v], {v}
        while todo:
            u = todo.pop()
            if u.op == "view":
                arg = leaf("value", u.args[0], u.args[0].dtype.kind)
                out += self.sane((arg,), self.encoder.moved(u, at))
                continue
            if u.op == "index":
                exprs.append(u.attr)
            exact = u.dtype.kind == "int" and (u.op in ROWS or u.op in ("cast", "index"))
            if exact and all(a.dtype.kind != "real" for a in u.args):
                p = self.encoder.wide(u, at)
                if isinstance(p, Poly):
                    out += self.fits(p, integer_range(u.dtype))
                if u.op in ("floordiv", "mod"):
                    divisor = self.encoder.value(u.args[1], at)
                    out.append(self.terms.lt(self.terms.const(0), divisor))
            new = [a for a in u.args if a not in done and (u.op in ROWS or u.op == "cast")]
            done |= set(new)
            todo += new
        return exprs, out

    def fits(self, p: Poly, bounds: tuple[int, int]) -> list[Formula]:
        t = self.terms
        lo, hi = t.interval(p)
        out = []
        if lo is None or lo < bounds[0]:
            out.append(t.ge0(t.shift(p, -bounds[0])))
        if hi is None or hi > bounds[1]:
            out.append(t.le(p, t.const(bounds[1])))
        return out

    def bound(self, b: Bound) -> Obligation:
        """Bounds, conditions and index values do not wrap; a loop's increment does not either."""
        t = self.terms
        at = self.encoder.instance(b.launch, b.path)
        goals = self.sane(b.exprs, at)
        if b.value is not None and b.value.dtype.kind == b.exprs[0].kind == "int":
            goals += self.fits(self.encoder.term(b.exprs[0], at), integer_range(b.value.dtype))
        cases: list[Case] = [(at.facts, t.all(goals))]
        if b.loop is not None:
            inner = self.encoder.instance(b.launch, (*b.path, b.step))
            last = inner.leaves[var(b.loop.variable)]
            hi = t.interval(self.encoder.term(b.loop.hi, at))[1]
            if hi is None or hi - 1 + b.loop.step >= TOP:
                step = t.lt(t.shift(last, b.loop.step), t.const(TOP))
                cases.append((inner.facts, step))
        where = (self.at(b.launch, "if" if b.name.startswith("if_") else b.name),)
        return self.make(
            "G2", "wrap", b.launch, b.name, ("wrap", "divisor"), cases, statements=where
        )

    def use(self, u: Use) -> Obligation:
        at = self.encoder.instance(u.launch, u.path)
        when = self.encoder.formula(u.when, at)
        goal = self.encoder.formula(u.defined, at)
        case = ([*at.facts, *self.terms.parts(when)], goal)
        where = (self.at(u.launch, u.statement),)
        return self.make("G2", "poison", u.launch, u.name, ("poison",), [case], statements=where)

    def check(self, c: Stated) -> Obligation:
        """What a program states holds for each lane that is no poison."""
        t, encoder, s = self.terms, self.encoder, c.check
        at = encoder.instance(c.launch, c.path)
        facts = [*at.facts, *t.parts(encoder.formula(c.defined, at))]
        goal = encoder.formula(s.cond, at)
        if goal.op == "or":  # an implication: what it stands under are facts
            parts = [x for x in goal.args if isinstance(x, Formula)]
            facts += [p for x in parts[:-1] for p in t.parts(t.no(x))]
            goal = parts[-1]
        o = self.make("G2", s.kind, c.launch, s.name, (s.kind,), [(facts, goal)])
        o.says = s.reason
        o.probe = Probe(c.launch, c.path, at, c.defined, s.cond)
        return o

    def viewed(self, m: Moved) -> Iterable[Obligation]:
        """Lanes that a view takes exist."""
        t, at = self.terms, self.encoder.instance(m.launch, m.path)
        inside = []
        for a, e in m.value.attr:
            x = self.encoder.term(e, at)
            inside += [t.ge0(x), t.lt(x, t.const(a.extent))]
        if (goal := t.all(inside)) is not YES:
            case = (at.facts, goal)
            yield self.make("G2", "view", m.launch, m.value.name, ("bounds",), [case])

    def scanned(self, m: Moved) -> Iterable[Obligation]:
        """Lanes before one that counts hold values, too."""
        t, encoder, what = self.terms, self.encoder, m.value.attr
        at = encoder.instance(m.launch, m.path)
        own = {a: encoder.term(a.lane, at) for a in m.value.axes}
        before = at.copy("b")
        earlier = t.fresh(f"{what.axis.name}before", 0, what.axis.extent - 1)
        before.bind(what.axis.lane, earlier)
        pair = (own[what.axis], earlier) if what.reverse else (earlier, own[what.axis])
        facts = [*at.facts, *t.parts(encoder.formula(m.defined, at)), *t.parts(t.lt(*pair))]
        case = (facts, encoder.formula(m.defined, before))
        yield self.make("G2", "poison", m.launch, m.value.name, ("poison",), [case])

    def written(self, r: Access) -> Obligation:
        """Some store of the same program, or of an earlier launch, wrote what is read."""
        t, encoder = self.terms, self.encoder
        at = encoder.instance(r.launch, r.path)
        target = [encoder.term(i, at) for i in r.index]
        ways: dict[Formula, None] = {}
        base = {x: p for x, p in at.leaves.items() if x.op == "pid"}
        for w in self.seen.accesses:
            if not w.plain or w.buffer.name != r.buffer.name:
                continue
            if w.launch != r.launch:
                if w.launch < r.launch and r.buffer.role != "program":
                    ways |= dict.fromkeys(proposals(encoder, w, target))
                continue
            shared = [p.loop for p, q in zip(w.path, r.path, strict=False) if p.loop and p is q]
            here = {var(s.variable): at.leaves[var(s.variable)] for s in shared}
            if w.order < r.order:  # the same iteration of every shared loop
                ways |= dict.fromkeys(proposals(encoder, w, target, {**base, **here}))
            for n, s in enumerate(shared):  # an earlier iteration of shared loop n
                v = var(s.variable)
                outer = {x: here[x] for x in (var(q.variable) for q in shared[:n])}
                before = t.shift(here[v], -s.step)
                ways |= dict.fromkeys(proposals(encoder, w, target, {**base, **outer, v: before}))
                ways |= dict.fromkeys(self.earlier(w, target, {**base, **outer}, v, here[v]))
        facts = [*at.facts, *t.parts(encoder.formula(r.mask, at))]
        case = (facts, t.any(ways))
        return self.make("G2", "init", r.launch, r.name, ("unwritten",), [case], proposed=True)

    def earlier(
        self, w: Access, target: list[Poly], fixed: dict[Expr, Poly], v: Expr, now: Poly
    ) -> Iterable[Formula]:
        """An iteration before `now` of the loop over v, which the index determines."""
        t, witness = self.terms, Witness(self.encoder, w, fixed)
        pairs = [(e, x) for e, x in zip(w.index, target, strict=True)]
        equations = witness.undivided(pairs)
        if not any(v in leaves(e, "var") for e, _ in pairs):
            return
        at = witness.solve(equations, False)
        yield t.all([witness.holds(at, target), t.lt(at.leaves[v], now)])

    def flattening(self) -> Iterable[Obligation]:
        """Row-major flattening of an index in bounds stays below the element count: one induction
        step."""
        o = Obligation("G2.flat", "G2", (), [])
        o.decide = partial(flattening, self.context.timeout, self.context.rlimit)
        yield o


_FLAT: dict[str, tuple[str, str]] = {}


def flattening(timeout: float, rlimit: int) -> tuple[str, str]:
    """The only nonlinear lemma, by induction on the rank: 0 <= o < c and 0 <= i < n give o*n + i <
    c*n."""
    if "flat" not in _FLAT or proofs.current() is not None:
        import z3

        o, c, i, n = z3.Ints("offset count index extent")
        s = z3.Solver()
        s.set("timeout", max(1, int(timeout * 1000)), "rlimit", rlimit, "random_seed", 1)
        inside = z3.And(o * n + i >= 0, o * n + i < c * n)
        asserted = [o >= 0, o < c, i >= 0, i < n, z3.Not(inside)]
        if (
            proofs.decide(s, asserted, "the flattening lemma, by induction on the rank")[0]
            != "unsat"
        ):
            return "UNKNOWN", "the flattening lemma was not proved in time"
        _FLAT["flat"] = (
            "PROVED",
            "row-major offsets of indices in bounds stay below the element count",
        )
    return _FLAT["flat"]
