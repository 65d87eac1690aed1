"""Statements of an imported kernel: declarations, branches, loops, functions of the text."""

from __future__ import annotations

from opwright.backends.cpp.clang import CType, Function, Node
from opwright.backends.cpp.importer_loops import (
    Counter,
    comma,
    counted,
    increment,
    symbolic,
    times_of,
)
from opwright.backends.cpp.importer_parallel import ParallelLoops
from opwright.backends.cpp.importer_polynomials import exact, tidy
from opwright.backends.cpp.importer_structure import (
    holds,
    last_returns,
    moved_name,
    names,
    nodes,
    plain,
    statements,
    step_within,
    steps_apart,
    stops_at,
    straighten,
    target,
    without_break,
)
from opwright.backends.cpp.importer_trips import Trip, stays
from opwright.backends.cpp.importer_values import WIDE, C, Elements, Place, Pointer, dtype_of
from opwright.backends.cpp.policy import FENCE
from opwright.ir.dtypes import BOOL
from opwright.ir.expr import FALSE, TRUE, ZERO, Expr, call, const, leaves
from opwright.ir.tile import Value

UNROLL = 64  # trips of a loop that is read step by step


class Statements(ParallelLoops):
    """Reads the body of a kernel into its builder."""

    def run(self, f: Function) -> None:
        """The body of a kernel."""
        body = straighten(statements(f.body), "return", self.refuse, lambda s: [])
        body = last_returns(body)
        if (found := holds(body, ("return",), True)) is not None:
            raise self.refuse("a return inside a loop", found.line)
        self.kernel_body(body)

    def block(self, body: list[Node]) -> None:
        for s in body:
            self.statement(s)

    def statement(self, s: Node) -> None:
        self.at(s.line)
        if s.op == "declare":
            self.declare(s)
        elif s.op == "expr":
            self.expression(s.args[0])
        elif s.op == "if":
            self.branch(s)
        elif s.op == "for":
            self.for_loop(s)
        elif s.op == "while":
            self.while_loop(s)
        elif s.op == "do":
            self.do_loop(s)
        elif s.op == "asm":
            if not FENCE.fullmatch(s.attr.rstrip(";")):
                raise self.refuse("inline assembly")
        elif s.op in ("block", "group"):
            self.block(statements(s))
        elif s.op == "break":
            raise self.refuse("a break outside of a loop's own branches")
        elif s.op != "empty":
            raise self.refuse(f"{s.op} is not understood here")

    def declare(self, s: Node) -> None:
        ident, name = s.attr
        self.titles[ident] = name
        if s.type.kind == "array":
            where = self.array(name, s.type, bool(s.args))
            self.env[ident] = C(s.type, where)
            if s.args:
                self.fill(where, s.args[0])
            return
        if s.type.kind == "reference":
            self.env[ident] = C(s.type, self.place(s.args[0]))
            return
        if not s.args:
            self.env[ident] = C(s.type, None)
            return
        self.hint = name
        if s.args[0].op == "lambda":
            self.env[ident] = C(s.type, s.args[0])
        else:
            c = self.expression(s.args[0])
            kind = s.type if s.type.kind != "other" else c.type
            self.env[ident] = self.settled(self.convert(c, kind), name)
        self.hint = ""

    def fill(self, where: Pointer, init: Node) -> None:
        """`= {a, b}`: zero, then the elements that are given."""
        b = where.buffer
        given = init.args if init.op == "init" else ()
        if init.op != "init" or (len(b.shape) > 1 and any(a.op != "init" for a in given)):
            raise self.refuse("the initial value of an array")
        self.clear(where)
        if len(b.shape) > 1:
            if any(x.op != "int" or x.attr for a in given for x in a.args):
                raise self.refuse("the initial values of an array of arrays")
            return
        for n, a in enumerate(given):
            c = self.expression(a)
            if isinstance(c.what, Expr) and c.what.op == "const" and not c.what.attr:
                continue
            self.store(Pointer(b, (const(n),), ZERO), c)

    # -- branches
    def branch(self, s: Node) -> None:
        cond = self.truth(self.expression(s.args[0]))
        self.sound(cond)
        sides = [statements(a) for a in s.args[1:]] + [[]] * (3 - len(s.args))
        if cond is TRUE or cond is FALSE:
            self.block(sides[0] if cond is TRUE else sides[1])
            return
        moved = self.moves(*s.args[1:])
        changed = [v for v in self.env if v in moved]
        short = s.args[1].op == "expr" and len(s.args) == 2
        by_lane = any(x.op == "lane" or x.attr.axes for x in leaves(cond, "lane", "value"))
        if not changed and not short and not by_lane and self.path is TRUE:
            self.two_sides(cond, sides)
            return
        before = dict(self.env)
        after: list[dict[int, C]] = []
        for side, when in zip(sides, (cond, call("not", cond)), strict=True):
            self.env = dict(before)
            if side:
                with self.under(when):
                    self.block(side)
            after.append(self.env)
        self.env = dict(before)
        self.at(s.line)
        for v in changed:
            a, b = (e[v] for e in after)
            self.env[v] = self.settled(self.choose(cond, a, b, before[v].type), "")

    def two_sides(self, cond: Expr, sides: list[list[Node]]) -> None:
        before = dict(self.env)

        def side(body: list[Node]) -> None:
            with self.scope():
                self.block(body)
            self.env = dict(before)

        other = (lambda: side(sides[1])) if sides[1] else None
        self.k.branch(cond, lambda: side(sides[0]), other)

    # -- loops
    def do_loop(self, s: Node) -> None:
        """The body once, then a while."""
        body, cond = s.args
        inner = statements(body)
        if holds(inner, ("break", "continue", "return"), False) is not None:
            raise self.refuse("a do loop that its body ends or goes on", s.line)
        with self.scope():
            self.block(inner)
        self.at(s.line)
        self.while_loop(Node("while", s.type, (cond, body), None, s.line))

    def while_loop(self, s: Node) -> None:
        """A while that steps its counter, in the condition or in the body, is a for."""
        cond, body = s.args
        inner = [y for x in statements(body) for y in steps_apart(x)]
        if cond is None or (cond.op == "int" and cond.attr):
            stop = stops_at(inner)
            if stop is None or stop[2] or names(stop[0]) & self.moves(*inner[: stop[1]]):
                raise self.refuse("a loop without a condition", s.line)
            cond = Node("unary", stop[0].type, (stop[0],), "!", stop[0].line)
            inner = [*inner[: stop[1]], *inner[stop[1] + 1 :]]
        early = step_within(cond)
        if early is not None:
            self.stepping_while(s, *early, inner)
            return
        found = self.stepped(cond, inner)
        if found is None:
            raise self.refuse("a while loop without a counter that its body steps", s.line)
        block = Node("block", s.type, (*inner[:found], *inner[found + 1 :]), None, s.line)
        self.for_loop(Node("for", s.type, (None, cond, inner[found], block), None, s.line))

    def stepped(self, cond: Node, inner: list[Node]) -> int | None:
        """The statement that steps the counter and may as well be the last one."""
        if holds(inner, ("continue",), False) is not None:
            return None
        for k, s in enumerate(inner):
            moved = self.moves(plain(s.args[0])) if s.op == "expr" else set()
            rest = (*inner[:k], *inner[k + 1 :])
            if len(moved) == 1 and moved <= names(cond) and not moved & self.moves(*rest):
                after = inner[k + 1 :]
                if not moved & names(*after) and holds(after, ("break", "return"), True) is None:
                    return k
        return None

    def stepping_while(self, s: Node, cond: Node, step: Node, inner: list[Node]) -> None:
        """`while (++p != end)` steps once before, then after each trip; `while (n-- > 0)` holds the
        value before its step in the condition, the one after it in the body."""
        v = target(step.args[0])
        assert v is not None
        if v in self.moves(*inner):
            raise self.refuse("a loop whose counter its condition and its body step", s.line)
        late = step.attr in ("p++", "p--")
        if late:
            if holds(inner, ("break", "return"), False) is not None:
                raise self.refuse("a loop that may end after its condition took a step", s.line)
            sign = "+" if step.attr == "p++" else "-"
            inner = [moved_name(x, v, sign) for x in inner]
        else:
            self.expression(step)
        block = Node("block", s.type, tuple(inner), None, s.line)
        self.for_loop(Node("for", s.type, (None, cond, step, block), None, s.line))
        if late:
            self.expression(step)

    def for_loop(self, s: Node) -> None:
        init, cond, step, body = s.args
        before = set(self.env)
        for x in statements(init):
            self.statement(x)
        self.at(s.line)
        inner = statements(body)
        if step is None:
            self.while_loop(Node("while", s.type, (cond, body), None, s.line))
            self.forget(before)
            return
        if cond is None:
            cond = Node("int", CType("bool", 8), (), True, s.line)
        inner = [y for x in inner for y in steps_apart(x)]
        changing = self.moves(*inner)
        while (early := stops_at(inner)) is not None and not names(early[0]) & changing:
            stop, at, whole = early
            if whole and not self.stays(stop, cond, comma(step), inner, s.line):
                raise self.refuse("a return inside a loop", stop.line)
            going = Node("unary", stop.type, (stop,), "!", stop.line)
            cond = Node("binary", cond.type, (cond, going), "&&", stop.line)
            inner = [*inner[:at], *inner[at + 1 :]]
        if (found := holds(inner, ("break",), False)) is not None:
            if found.attr == "return":
                raise self.refuse("a return inside a loop", found.line)
            self.flags -= 1
            self.env[self.flags] = C(CType("bool", 8), FALSE)
            inner = without_break(inner, self.flags, s.line)
        inner = straighten(inner, "continue", self.refuse, lambda x: [])
        steps = comma(step)
        counter = counted(self, cond, steps, inner, s.line)
        if s.attr is not None:
            if counter is None or len(steps) != 1:
                raise self.refuse("a parallel loop without a counter", s.line)
            reduces = bool(s.attr.reduced)
            (self.reducing_loop if reduces else self.parallel_loop)(counter, inner, s)
        elif counter is None or (
            self.over_lanes(counter.variable, inner)
            and times_of(counter, self.natural).op == "const"
        ):
            self.step_by_step(s, cond, steps, inner)
        else:
            rest = [x for x in steps if x is not counter.statement]
            trip = [*inner, *(Node("expr", s.type, (x,), None, x.line) for x in rest)]
            self.counted_loop(counter, trip, s.line)
        self.forget(before)

    def stays(
        self, stop: Node, cond: Node, steps: list[Node], inner: list[Node], line: int
    ) -> bool:
        """Whether what ends this loop would end all later trips of the loops around it."""
        self.quiet += 1
        try:
            c = counted(self, cond, steps, inner, line)
            if c is None or c.down or c.by is not None or c.base is not None:
                return False
            old = self.env[c.variable]
            self.env[c.variable] = symbolic(old)
            e = self.truth(self.expression(stop))
            self.env[c.variable] = old
        finally:
            self.quiet -= 1
        own = Trip(symbolic(old).what, c.lo, c.hi, c.step)
        return stays(e, [*self.trips, own], self.natural)

    def forget(self, before: set[int]) -> None:
        """Variables of a loop's own are not seen after it."""
        for v in set(self.env) - before:
            del self.env[v]

    def step_by_step(self, s: Node, cond: Node, steps: list[Node], inner: list[Node]) -> None:
        """A loop whose trips are known numbers."""
        for _ in range(UNROLL):
            going = self.truth(self.expression(cond))
            if going is FALSE:
                return
            if going is not TRUE:
                break
            self.block(inner)
            for x in steps:
                self.expression(x)
        raise self.refuse("a loop without a closed form of its counter", s.line)

    def counted_loop(self, c: Counter, body: list[Node], line: int) -> None:
        moved = self.moves(*body)
        changed = [  # in the order of their declarations; references stay what they are
            v for v, old in self.env.items() if v in moved and not isinstance(old.what, Place)
        ]
        if c.variable in changed:
            raise self.refuse(f"the counter {c.name} is assigned in its loop", line)
        closed: dict[int, Expr] = {}
        for v in changed:
            by = increment(self, v, body, set(changed) | {c.variable})
            if by is not None:
                closed[v] = by
        rest = [v for v in changed if v not in closed]
        inits, carried = [], []
        for v in rest:
            old = self.env[v]
            if isinstance(old.what, Elements):
                raise self.refuse("a vector of which a loop assigns the other elements", line)
            if old.what is None or isinstance(old.what, Pointer | Node):
                if old.what is not None:
                    raise self.refuse("a pointer that a loop changes without a closed form", line)
                continue
            inits.append(self.state(old))
            carried.append(v)
        undefined = [v for v in rest if v not in carried]
        start = {v: self.env[v] for v in closed}
        types = {v: self.env[v].type for v in changed}
        trips = times_of(c, self.natural)
        lo, hi, stride_ = c.lo, c.hi, c.step
        as_count = c.down or c.by is not None or c.base is not None
        for by in closed.values():
            if not as_count and stride_ > 1 and exact(by, stride_) is None:
                as_count = True
        if as_count:
            lo, hi, stride_ = ZERO, trips, 1
        before = dict(self.env)

        def inside(v: Expr, *state: Value) -> list[Value]:
            low = self.interval(lo)[0]
            self.bounds[v] = (low, max(self.interval(hi)[1] - 1, low))
            self.trips.append(Trip(v, lo, hi, stride_))
            with self.scope():
                now = c.at(v) if as_count else v
                self.counter_fits(c, now, c.at(v + 1) if as_count else v + c.step)
                self.env[c.variable] = C(c.type, c.holds(now))
                passed = tidy(v - lo) if lo is not ZERO else v
                for x, by in closed.items():
                    share = exact(by, stride_)
                    moved = (by if share is None else share) * passed
                    self.env[x] = moved_by(start[x], moved)
                for x, p in zip(carried, state, strict=True):
                    self.labels[p] = self.titles.get(x, "")
                    self.env[x] = C(types[x], self.held(p))
                for x in undefined:
                    self.env[x] = C(types[x], None)
                self.block(body)
                self.at(line)
                self.trips.pop()
                return self.yielded([self.state(self.env[x]) for x in carried], state)

        results = self.k.loop(c.name, lo, hi, stride_, inits, inside)
        self.env = before
        for x, by in closed.items():
            self.env[x] = moved_by(start[x], by * trips)
        for x, r in zip(carried, results, strict=True):
            self.labels[r] = f"{line}:{self.titles.get(x, '')}"
            self.env[x] = C(types[x], self.held(r))
        for x in undefined:
            self.env[x] = C(types[x], None)
        self.env[c.variable] = C(c.type, c.holds(c.at(trips)))

    def counter_fits(self, c: Counter, now: Expr, following: Expr) -> None:
        """The counter after a trip keeps within its type, and so does what the condition computes
        of it before and after."""
        if c.base is None and c.type != WIDE:
            self.fits(following, c.type, f"the counter {c.name}")
        if c.narrow:
            if any(n.op in ("index", "assign", "invoke") for n in nodes(c.cond)):
                raise self.refuse(f"a condition that does more than compare {c.name}")
            for e in (now, following):
                self.env[c.variable] = C(c.type, c.holds(e))
                self.truth(self.expression(c.cond))

    def state(self, c: C) -> Value:
        """What a loop carries of a variable."""
        if c.what is None:
            raise self.refuse("a value that was never assigned is carried by a loop")
        if isinstance(c.what, Value) or c.type.scalar.kind == "real":
            return self.value(c)
        if isinstance(c.what, Expr) and c.what.kind == "bool":
            v = self.materialise(c.what, BOOL)
        else:
            v = self.materialise(self.number(c), dtype_of(c.type))
        return self.spread(v, self.axis(c.type.count)) if c.type.kind == "vector" else v

    def yielded(self, ends: list[Value], state: tuple[Value, ...]) -> list[Value]:
        """The next state in the form of the carried one."""
        out = []
        for y, p in zip(ends, state, strict=True):
            if y.dtype != p.dtype:
                if p.dtype.kind != y.dtype.kind:
                    raise self.refuse(f"a loop carries {p.dtype} and leaves {y.dtype}")
                y = self.k.cast(y, p.dtype)
            for a in p.axes:
                y = self.spread(y, a)
            out.append(y)
        return out


def moved_by(c: C, by: Expr) -> C:
    if isinstance(c.what, Pointer):
        return C(c.type, Pointer(c.what.buffer, c.what.lead, c.what.offset + by))
    return C(c.type, c.what + by)
