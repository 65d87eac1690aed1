"""Safety of tile programs for all sizes at once: the obligations of G2 and G3 and how each is
discharged.

G2: in bounds, no wrap, positive divisors, no poison that is stored, reduced, carried or branched
on, nothing read before it is written, hints true. G3: every output element written, and written
once; no program touches what another one of its launch writes. An obligation is a formula over an
arbitrary instance of a statement; it is discharged by intervals, by the facts it stands under, or
by z3, where only `unsat` proves. What is not proved goes to `replay`, which alone may call it
refuted.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from opwright.ir.dtypes import integer_range
from opwright.ir.expr import Expr, leaves, param, pid, show, var, walk
from opwright.ir.record import Record
from opwright.ir.tile import Axis, Buffer, TileProgram, Value, lanes, matches, row_major
from opwright.verify.context import Context
from opwright.verify.encode import Encoder, Instance
from opwright.verify.small import Small
from opwright.verify.solver import Answer, Asker
from opwright.verify.terms import NO, YES, Formula, Poly
from opwright.verify.walk import Access, Bound, Use, Walk
from opwright.verify.witness import proposals

TOP = 2**63
INT64 = (-TOP, TOP - 1)
SUBJECT = "TileIR {} (printer trusted)"


Case = tuple[list[Formula], Formula]  # facts and goal


@dataclass(slots=True)
class Obligation:
    """Something to prove: in each case, under its facts, the goal holds.

    `traps` are the kinds of trap that refute it; `statements` ("kernel.name") are where such a trap
    shows, all of them involved (none: anywhere); `buffers` are those it may speak of (none: any).
    `proposed` marks goals that rest on a proposed witness.
    """

    id: str
    kind: str
    traps: tuple[str, ...]
    cases: list[Case]
    statements: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    proposed: bool = False
    status: str = ""
    reason: str = ""
    seconds: float = 0.0
    failed: Case | None = None
    answer: Answer | None = None


def prove(program: TileProgram, context: Context, subject: str = "") -> list[Record]:
    """One record per obligation of G2 and G3 of a program that `check_program` accepts.

    A status is PROVED, UNKNOWN with a reason, or REFUTED with a counterexample that the
    interpreter ran into. Raises nothing for a program that is wrong.
    """
    start = time.monotonic()
    prover = Prover(program, context)
    prover.run()
    if context.replay and any(o.status != "PROVED" for o in prover.obligations):
        from opwright.verify.replay import replay

        found = replay(prover, start + context.budget)
    else:
        found = {}
    return [
        Record(
            o.id,
            o.kind,
            "REFUTED" if n in found else o.status,
            found[n][0] if n in found else o.reason,
            subject,
            counterexample=found[n][1] if n in found else None,
            seconds=o.seconds,
        )
        for n, o in enumerate(prover.obligations)
    ]


class Prover:
    """Collects and discharges the obligations of one program."""

    def __init__(self, program: TileProgram, context: Context) -> None:
        self.program, self.context = program, context
        self.seen = Walk(program)
        self.encoder = Encoder(program, context, self.seen)
        self.terms = self.encoder.terms
        self.asker = Asker(
            self.terms, context.timeout, context.rlimit, time.monotonic() + context.budget
        )
        strides = [p for x, p in self.encoder.scalars.items() if x.op == "stride"]
        self.asker.assume(self.encoder.facts, frozenset(n for p in strides for n in p.atoms))
        self.small = Small(self.encoder)
        self.obligations: list[Obligation] = []
        self.contradiction = ""
        self._reach: dict[frozenset[Formula], tuple[str, str]] = {}

    # -- discharge
    def run(self) -> None:
        """Fill `obligations`; each has a status afterwards."""
        self.contradiction = self.consistent()
        for collect in (self.safety, self.determined, self.hints):
            for o in collect():
                self.discharge(o)
                self.obligations.append(o)

    def consistent(self) -> str:
        """Why the facts cannot be used, or "": facts that contradict each other prove anything."""
        t = self.terms
        bounds: list[Formula] = []
        for p in self.encoder.scalars.values():
            if isinstance(p, Poly):
                (n,) = p.atoms
                a = t.atoms[n]
                bounds += [t.raw_ge0(t.shift(p, -a.lo))] if a.lo is not None else []
                bounds += [t.raw_ge0(t.shift(t.scale(p, -1), a.hi))] if a.hi is not None else []
        if self.small.consistent():
            return ""
        answer = self.asker.ask([*bounds, *self.encoder.facts])
        if answer.result == "unsat":
            return "the facts contradict each other"
        if answer.result == "unknown":
            return f"the facts could not be shown consistent ({answer.reason})"
        return ""

    def discharge(self, o: Obligation) -> None:
        start = time.perf_counter()
        o.status, o.reason = self._decide(o)
        o.seconds = time.perf_counter() - start

    def _decide(self, o: Obligation) -> tuple[str, str]:
        if o.status:
            return o.status, o.reason
        if self.contradiction:
            return "UNKNOWN", self.contradiction
        reasons = []
        for case in o.cases:
            status, reason = self._settle(o, case)
            if status != "PROVED":
                o.failed = case
                return status, reason
            reasons.append(reason)
        return "PROVED", reasons[0] if reasons and all(reasons) else ""

    def _settle(self, o: Obligation, case: Case) -> tuple[str, str]:
        facts, goal = case
        t = self.terms
        if goal is YES or t.implied(facts, goal):
            return self._reached(facts)
        answer = self.asker.ask([*facts, t.no(goal)])
        if answer.result == "unsat":
            return self._reached(facts)
        o.answer = answer
        if answer.result == "unknown":
            return "UNKNOWN", answer.reason
        model = self.show_model(answer)
        if o.proposed:
            return "UNKNOWN", f"no witness found, for instance at {model}"
        return "UNKNOWN", f"a counterexample at {model} could not be replayed"

    def _reached(self, facts: list[Formula]) -> tuple[str, str]:
        """PROVED, unless what the proof stands on cannot happen for a reason that is not a fact."""
        key = frozenset(facts)
        if key not in self._reach:
            answer = self.asker.ask(facts)
            if answer.result != "unsat":
                self._reach[key] = "PROVED", ""
            elif self.asker.ask(facts, clauses=False).result != "unsat":
                self._reach[key] = "UNKNOWN", "the requirements on inputs contradict each other"
            else:
                self._reach[key] = "PROVED", "cannot happen under the facts"
        return self._reach[key]

    def show_model(self, answer: Answer) -> str:
        """Sizes, params and strides of a model, in the spec's names."""
        parts = []
        for x, p in self.encoder.scalars.items():
            if isinstance(p, Poly):
                (n,) = p.atoms
                parts.append(f"{show(x)} = {answer.model.get(n, 0)}")
        return ", ".join(parts) or "any size"

    # -- naming
    def name(self, gate: str, what: str, launch: int, statement: str) -> str:
        own = statement
        if len(self.program.kernels) > 1 and launch >= 0:
            own = f"{self.program.kernels[launch].name}.{statement}"
        return f"{gate}.{what}.{own}"

    def make(
        self,
        gate: str,
        what: str,
        launch: int,
        name: str,
        traps: tuple[str, ...],
        cases: list[Case],
        *,
        statements: tuple[str, ...] | None = None,
        buffers: tuple[str, ...] = (),
        proposed: bool = False,
    ) -> Obligation:
        """An obligation; `statements` default to the statement that gave it its name."""
        if statements is None:
            statements = (self.at(launch, name),)
        ident = self.name(gate, what, launch, name)
        return Obligation(ident, gate, traps, cases, statements, buffers, proposed)

    def at(self, launch: int, statement: str) -> str:
        return f"{self.program.kernels[launch].name}.{statement}"

    # -- G2
    def safety(self) -> Iterable[Obligation]:
        for n in range(len(self.program.kernels)):
            yield self.grid(n)
        yield from self.shapes()
        for a in self.seen.accesses:
            yield from self.access(a)
        for b in self.seen.bounds:
            yield self.bound(b)
        for u in self.seen.uses:
            yield self.use(u)
        for a in self.seen.accesses:
            if (
                not a.store
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
        return self.make("G2", "grid", -1, kernel.name, traps, [case], statements=())

    def shapes(self) -> Iterable[Obligation]:
        """Extents of buffers are computed without wrap; the driver checks what scratch needs."""
        at = Instance(0, "")
        for b in self.program.buffers():
            if goals := self.sane(b.shape, at):
                case: Case = ([], self.terms.all(goals))
                traps = ("wrap", "divisor")
                yield self.make("G2", "shape", -1, b.name, traps, [case], statements=())

    def access(self, a: Access) -> Iterable[Obligation]:
        t, encoder = self.terms, self.encoder
        at = encoder.instance(a.launch, a.path)
        mask = encoder.formula(a.mask, at)
        under = [*at.facts, *t.parts(mask)]
        if wrap := self.sane((a.mask,), at):
            case = (at.facts, t.all(wrap))
            yield self.make("G2", "mask", a.launch, a.name, ("wrap", "divisor"), [case])
        case = (under, t.all(self.sane(a.index, at)))
        yield self.make("G2", "wrap", a.launch, a.name, ("wrap", "divisor"), [case])
        inside = []
        for i, n in zip(a.index, a.buffer.shape, strict=True):
            x = encoder.term(i, at)
            inside += [t.ge0(x), t.lt(x, encoder.term(n, at))]
        case = (under, t.all(inside))
        yield self.make("G2", "bounds", a.launch, a.name, ("bounds",), [case])

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
            if u.op == "index":
                exprs.append(u.attr)
            exact = u.dtype.kind == "int" and (u.args or u.op == "index")
            if exact and u.op != "reduce" and all(a.dtype.kind != "real" for a in u.args):
                p = self.encoder.wide(u, at)
                if isinstance(p, Poly):
                    out += self.fits(p, integer_range(u.dtype))
                if u.op in ("floordiv", "mod"):
                    divisor = self.encoder.value(u.args[1], at)
                    out.append(self.terms.lt(self.terms.const(0), divisor))
            new = [a for a in u.args if a not in done and u.op != "reduce"]
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
        cases: list[Case] = [(at.facts, t.all(self.sane(b.exprs, at)))]
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

    def written(self, r: Access) -> Obligation:
        """Some store of the same program, or of an earlier launch, wrote what is read."""
        t, encoder = self.terms, self.encoder
        at = encoder.instance(r.launch, r.path)
        target = [encoder.term(i, at) for i in r.index]
        ways: dict[Formula, None] = {}
        base = {x: p for x, p in at.leaves.items() if x.op == "pid"}
        for w in self.seen.accesses:
            if not w.store or w.buffer.name != r.buffer.name:
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
        from opwright.verify.witness import Witness

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
        o.status, o.reason = flattening(self.context.timeout, self.context.rlimit)
        yield o

    # -- G3
    def determined(self) -> Iterable[Obligation]:
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

    def meeting(self, u: Access, e1: Instance, w: Access, e2: Instance) -> list[Formula]:
        """Facts of two accesses that touch one element."""
        t, encoder = self.terms, self.encoder
        same = [
            t.eq(encoder.term(i, e1), encoder.term(j, e2))
            for i, j in zip(u.index, w.index, strict=True)
        ]
        masks = [encoder.formula(u.mask, e1), encoder.formula(w.mask, e2)]
        out: dict[Formula, None] = {}
        for f in (*e1.facts, *e2.facts, *same, *masks):
            out |= dict.fromkeys(t.parts(f))
        return list(out)

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

    # -- hints of placements
    def hints(self) -> Iterable[Obligation]:
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


_FLAT: dict[str, tuple[str, str]] = {}


def flattening(timeout: float, rlimit: int) -> tuple[str, str]:
    """The only nonlinear lemma, by induction on the rank: 0 <= o < c and 0 <= i < n give o*n + i <
    c*n."""
    if "flat" not in _FLAT:
        import z3

        o, c, i, n = z3.Ints("offset count index extent")
        s = z3.Solver()
        s.set("timeout", max(1, int(timeout * 1000)), "rlimit", rlimit, "random_seed", 1)
        inside = z3.And(o * n + i >= 0, o * n + i < c * n)
        s.add(o >= 0, o < c, i >= 0, i < n, z3.Not(inside))
        if s.check() != z3.unsat:
            return "UNKNOWN", "the flattening lemma was not proved in time"
        _FLAT["flat"] = (
            "PROVED",
            "row-major offsets of indices in bounds stay below the element count",
        )
    return _FLAT["flat"]


def with_subject(records: Iterable[Record], subject: str) -> list[Record]:
    """Records about a named subject."""
    return [replace(r, subject=subject) for r in records]
