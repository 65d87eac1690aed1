"""Statements of an imported kernel: declarations, branches, loops, functions of the text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from opwright.backends.cpp.clang import CType, Function, Node
from opwright.backends.cpp.importer_calls import Calls
from opwright.backends.cpp.importer_loops import Counter, counted, increment, times_of
from opwright.backends.cpp.importer_polynomials import exact, tidy
from opwright.backends.cpp.importer_structure import (
    STEPS,
    assigned,
    holds,
    last_returns,
    names,
    plain,
    statements,
    steps_apart,
    stops_at,
    straighten,
    without_break,
)
from opwright.backends.cpp.importer_trips import Trip
from opwright.backends.cpp.importer_values import WIDE, C, Place, Pointer, dtype_of
from opwright.ir.dtypes import BOOL
from opwright.ir.expr import FALSE, TRUE, ZERO, Expr, call, const, leaves
from opwright.ir.tile import Builder, Load, Value

UNROLL = 64  # trips of a loop that is read step by step
DEPTH = 16  # calls inside calls


@dataclass(slots=True)
class _Loop:
    """A loop that is being read: its counter, carried variables and closed forms."""

    counter: Counter
    carried: list[int]
    closed: dict[int, Expr]


class Statements(Calls):
    """Reads the body of a kernel into its builder; `env` holds the variables."""

    def __init__(
        self,
        builder: Builder,
        file: str,
        functions: Mapping[int, Function],
        known: Mapping[Expr, Expr],
        facts: frozenset[Expr],
        trusted: bool,
    ) -> None:
        super().__init__(builder, file, known)
        self.functions, self.facts, self.trusted = functions, facts, trusted
        self.contract = trusted
        self.env: dict[int, C] = {}
        self.labels: dict[Value, str] = {}  # what the text calls a tile
        self.titles: dict[int, str] = {}  # of variables
        self.calls: list[int] = []
        self.flags = -1
        self.frozen: set[int] = set()

    def run(self, f: Function) -> None:
        """The body of a kernel."""
        body = straighten(statements(f.body), "return", self.refuse, lambda s: [])
        body = last_returns(body)
        if (found := holds(body, ("return",), True)) is not None:
            raise self.refuse("a return inside a loop", found.line)
        self.block(body)

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
        elif s.op == "asm":
            if not s.attr.replace("volatile", "").startswith('asm("":'):
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

    def settled(self, c: C, name: str) -> C:
        """A variable holds reals as tiles, vectors in all their lanes."""
        if c.what is None or isinstance(c.what, Pointer | Node):
            return c
        if c.type.scalar.kind == "real" and isinstance(c.what, Expr):
            self.hint = name
            fresh = c.what.op == "const"  # a constant of its own for every variable
            full = self.k.full(c.what.attr, dtype_of(c.type), name=name) if fresh else None
            c = C(c.type, full or self.real(c))
            self.hint = ""
        if isinstance(c.what, Value):
            v = c.what
            if c.type.kind == "vector":
                v = self.spread(v, self.axis(c.type.count))
            self.kept.add(v)
            self.labels.setdefault(v, name)
            return C(c.type, v)
        if c.what.op == "value":
            self.kept.add(c.what.attr)
            self.labels.setdefault(c.what.attr, name)
        return c

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

    # -- expressions
    def expression(self, n: Node) -> C:
        if n.line:
            self.at(n.line)
        if n.op == "paren":
            return self.expression(n.args[0])
        if n.op in ("int", "real"):
            return C(n.type, const(n.attr))
        if n.op == "name":
            return self.variable(n)
        if n.op == "cast":
            return self.cast(n)
        if n.op == "binary":
            return self.binary_node(n)
        if n.op == "unary":
            return self.unary_node(n)
        if n.op == "cond":
            return self.conditional(n)
        if n.op == "assign":
            return self.assign(n)
        if n.op == "index":
            if plain(n.args[0]).type.kind == "vector":
                return self.lane_of(n)
            return self.fetch(self.place(n), n.type)
        if n.op == "call":
            return self.calling(n)
        if n.op == "invoke":
            return self.invoke(n)
        if n.op == "init" and n.type.kind == "vector" and not n.args:
            return C(n.type, const(0.0 if n.type.scalar.kind == "real" else 0))
        if n.op == "init" and len(n.args) == 1:
            return self.convert(self.expression(n.args[0]), n.type)
        raise self.refuse(f"the expression {n.op} is not understood here")

    def variable(self, n: Node) -> C:
        ident, name = n.attr
        if ident not in self.env:
            raise self.refuse(f"the variable {name} is not known here")
        c = self.env[ident]
        if isinstance(c.what, Place):
            return self.fetch(c.what, n.type)
        return c

    def cast(self, n: Node) -> C:
        inner = n.args[0]
        if inner.type.kind == "array" and n.type.kind == "pointer":
            p = (
                self.expression(inner).what
                if plain(inner).op == "name"
                else self.place(inner).pointer
            )
            return C(n.type, p)
        return self.convert(self.expression(inner), n.type)

    def binary_node(self, n: Node) -> C:
        if n.attr == ",":
            self.expression(n.args[0])
            return self.expression(n.args[1])
        a = self.expression(n.args[0])
        if n.attr in ("&&", "||"):
            first = self.truth(a)
            with self.arm(first if n.attr == "&&" else call("not", first)):
                b = self.expression(n.args[1])
                second = self.truth(b)
            return C(n.type, call("and" if n.attr == "&&" else "or", first, second))
        b = self.expression(n.args[1])
        self.at(n.line)
        return self.binary(n.attr, a, b, n.type)

    def unary_node(self, n: Node) -> C:
        if n.attr in STEPS:
            where = self.place(n.args[0])
            old = self.fetch(where, n.args[0].type)
            one = C(CType("int", 32), const(1))
            if old.type.scalar.kind == "real":
                one = self.convert(one, old.type)
            new = self.binary(n.attr[-1], old, one, old.type)
            self.put(where, new)
            return old if n.attr.startswith("p") else new
        if n.attr == "*":
            return self.fetch(self.place(n), n.type)
        if n.attr == "&":
            p = self.place(n.args[0]).pointer
            if p is None:
                raise self.refuse("the address of a variable")
            if len(p.lead) == len(p.buffer.shape) and p.lead:
                p = Pointer(p.buffer, p.lead[:-1], p.lead[-1] + p.offset)
            return C(n.type, p)
        return self.unary(n.attr, self.expression(n.args[0]), n.type)

    def conditional(self, n: Node) -> C:
        cond = self.truth(self.expression(n.args[0]))
        if n.args[0].type.kind == "vector":
            x, y = (self.expression(a) for a in n.args[1:])
            return self.choose(cond, x, y, n.type)
        with self.arm(cond):
            a = self.expression(n.args[1])
        with self.arm(call("not", cond)):
            b = self.expression(n.args[2])
        self.at(n.line)
        v = self.loaded(a.what)
        if isinstance(v, Value) and v.op == "load" and v not in self.kept:
            other = self.filler(b, v.dtype)
            m: Load = v.attr
            if other is not None and (
                self.joined(m, cond) or self.fillers.get(v, m.other) == other
            ):
                self.fillers[v] = other
                return C(n.type, a.what)
        return self.choose(cond, self.convert(a, n.type), self.convert(b, n.type), n.type)

    def loaded(self, what: Any) -> Any:
        """The tile that a C++ value is; a truth value also where it counts as 0 and 1."""
        e = what
        if isinstance(e, Expr) and e.op == "select" and e.args[1:] == (const(1), ZERO):
            e = e.args[0] if e.args[0].op == "value" else e
        return e.attr if isinstance(e, Expr) and e.op == "value" else e

    @contextmanager
    def arm(self, cond: Expr) -> Iterator[None]:
        """An arm of an expression: it may not assign what lives outside of it."""
        old = self.frozen
        self.frozen = old | set(self.env)
        try:
            with self.under(cond):
                yield
        finally:
            self.frozen = old

    def joined(self, m: Load, cond: Expr) -> bool:
        """Whether a load is masked by the condition alone."""
        return m.mask is call("and", self.path, cond)

    def lane_of(self, n: Node) -> C:
        """An element of a vector: the lane that is being read."""
        c = self.expression(n.args[0])
        i = self.number(self.expression(n.args[1]))
        axis = self.axis(plain(n.args[0]).type.count)
        if i is axis.lane:
            return C(n.type, c.what)
        if i.op != "const" or not 0 <= i.attr < axis.extent:
            raise self.refuse("a lane of a vector other than the current one")
        whole = self.spread(self.value(c), axis)
        return C(n.type, self.held(self.k.view(whole, [(axis, i)])))

    # -- places
    def place(self, n: Node) -> Place:
        n = plain(n)
        if n.op == "name":
            c = self.env.get(n.attr[0])
            if c is None:
                raise self.refuse(f"the variable {n.attr[1]} is not known here")
            if isinstance(c.what, Place):
                return c.what
            if c.type.kind == "array":
                return Place(pointer=c.what)
            return Place(variable=n.attr[0])
        if n.op == "index":
            base, i = n.args
            if not base.type.kind == "pointer":
                base, i = i, base
            at = self.expression(base).what
            e = self.number(self.expression(i))
            if not isinstance(at, Pointer):
                raise self.refuse("a subscript of something that is no pointer")
            return Place(pointer=self.subscript(at, e, base))
        if n.op == "unary" and n.attr == "*":
            at = self.expression(n.args[0]).what
            if isinstance(at, Pointer):
                return Place(pointer=self.subscript(at, ZERO, n.args[0]))
        if n.op == "cast":
            return self.place(n.args[0])
        raise self.refuse(f"an assignment to {n.op} is not understood")

    def subscript(self, p: Pointer, e: Expr, base: Node) -> Pointer:
        """One step into an array of arrays, or `e` elements further."""
        inner = base.type.of
        if inner is not None and inner.kind == "array":
            return Pointer(p.buffer, (*p.lead, p.offset + e), ZERO)
        b = p.buffer
        if b.role == "program" and len(p.lead) == len(b.shape) - 1:
            return Pointer(b, (*p.lead, p.offset + e), ZERO)
        return Pointer(b, p.lead, p.offset + e)

    def fetch(self, where: Place, t: CType) -> C:
        if where.pointer is not None:
            if t.kind == "array":
                return C(t, where.pointer)
            return self.load(where.pointer, t)
        c = self.env[where.variable]
        return c

    def put(self, where: Place, c: C) -> None:
        if where.pointer is not None:
            self.store(where.pointer, c)
            return
        if where.variable in self.frozen:
            raise self.refuse("an assignment inside a conditional expression")
        old = self.env[where.variable]
        self.env[where.variable] = C(old.type, c.what)

    def assign(self, n: Node) -> C:
        left, right = n.args
        where = self.place(left)
        kind = plain(left).type
        if where.pointer is None:
            kind = self.env[where.variable].type
            self.hint = "" if right.op in ("name", "cast") else self.hint
        value = self.expression(right)
        self.at(n.line)
        if n.attr:
            old = self.fetch(where, kind)
            if isinstance(old.what, Pointer):
                value = self.binary(n.attr, old, value, kind)
            else:
                wide = kind if n.attr in ("<<", ">>") else usual(kind, value.type)
                value = self.binary(
                    n.attr, self.convert(old, wide), self.convert(value, wide), wide
                )
        value = self.convert(value, kind)
        if where.pointer is None:
            name = plain(left).attr[1] if plain(left).op == "name" else ""
            value = self.settled(value, name)
        self.put(where, value)
        return value

    def moves(self, *roots: Node | None) -> set[int]:
        """Variables that a text may assign, through references and lambdas too."""
        found = assigned(*roots)
        seen: set[int] = set()
        todo = names(*roots) | found
        while todo:
            v = todo.pop()
            seen.add(v)
            c = self.env.get(v)
            more: set[int] = set()
            if c is not None and isinstance(c.what, Node):  # a lambda that is mentioned may be run
                inner = assigned(c.what)
                found |= inner
                more = names(c.what) | inner
            elif c is not None and isinstance(c.what, Place) and v in found:
                if c.what.pointer is None:
                    more = {c.what.variable}
                    found |= more
            todo |= more - seen
        return found

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
    def while_loop(self, s: Node) -> None:
        """A while whose last statement steps its counter is a for."""
        cond, body = s.args
        inner = statements(body)
        if inner and inner[-1].op == "expr":
            last = plain(inner[-1].args[0])
            moved = self.moves(last)
            if len(moved) == 1 and moved <= names(cond) and not moved & self.moves(*inner[:-1]):
                if holds(inner, ("continue",), False) is None:
                    block = Node("block", s.type, tuple(inner[:-1]), None, s.line)
                    step = inner[-1]
                    self.for_loop(Node("for", s.type, (None, cond, step, block), None, s.line))
                    return
        raise self.refuse("a while loop without a counter that its last statement steps", s.line)

    def for_loop(self, s: Node) -> None:
        init, cond, step, body = s.args
        before = set(self.env)
        for x in statements(init):
            self.statement(x)
        self.at(s.line)
        inner = statements(body)
        if cond is None:
            raise self.refuse("a loop without a condition", s.line)
        inner = [y for x in inner for y in steps_apart(x)]
        changing = self.moves(*inner)
        while (early := stops_at(inner)) is not None and not names(early) & changing:
            going = Node("unary", early.type, (early,), "!", early.line)
            cond = Node("binary", cond.type, (cond, going), "&&", cond.line)
            inner = inner[1:]
        if holds(inner, ("break",), False) is not None:
            self.flags -= 1
            self.env[self.flags] = C(CType("bool", 8), FALSE)
            inner = without_break(inner, self.flags, s.line)
        inner = straighten(inner, "continue", self.refuse, lambda x: [])
        steps = comma(step)
        counter = counted(self, cond, steps, inner, s.line)
        if counter is None:
            self.step_by_step(s, cond, steps, inner)
        else:
            rest = [x for x in steps if x is not counter.statement]
            whole = [*inner, *(Node("expr", s.type, (x,), None, x.line) for x in rest)]
            self.counted_loop(counter, whole, s.line)
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
            if old.what is None or isinstance(old.what, Pointer | Node):
                if old.what is not None:
                    raise self.refuse("a pointer that a loop changes without a closed form", line)
                continue
            inits.append(self.state(old))
            carried.append(v)
        undefined = [v for v in rest if v not in carried]
        start = {v: self.env[v] for v in closed}
        types = {v: self.env[v].type for v in changed}
        trips = times_of(c)
        lo, hi, stride_ = c.lo, c.hi, c.step
        as_count = c.down or c.by is not None
        for by in closed.values():
            if not as_count and stride_ > 1 and exact(by, stride_) is None:
                as_count = True
        if as_count:
            lo, hi, stride_ = ZERO, trips, 1
        before = dict(self.env)

        def inside(v: Expr, *state: Value) -> list[Value]:
            low = self.interval(lo)[0]
            self.bounds[v] = (low, max(self.interval(hi)[1] - 1, low))
            self.trips.append(Trip(v, lo, hi))
            with self.scope():
                now = c.at(v) if as_count else v
                self.env[c.variable] = C(c.type, now)
                if not as_count:
                    self.counter_fits(c, now)
                passed = tidy(v - lo) if lo is not ZERO else v
                for x, by in closed.items():
                    moved = by * passed if stride_ == 1 else (exact(by, stride_) or ZERO) * passed
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
        self.env[c.variable] = C(c.type, c.at(trips))

    def counter_fits(self, c: Counter, now: Expr) -> None:
        """The step after the last trip keeps within the counter's type."""
        if c.type == WIDE or c.down:
            return
        self.fits(now + c.step, c.type, f"the counter {c.name}")

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

    # -- functions of the text
    def calling(self, n: Node) -> C:
        name, ident, _, _ = n.attr
        if ident is not None and not self.trusted:
            f = self.functions.get(ident)
            if f is None:
                raise self.refuse(f"the function {name} has no body here")
            return self.inline(f.parameters, f.body, n, name, ident)
        if name == "swap":
            a, b = (self.place(x) for x in n.args)
            x, y = (self.fetch(p, v.type) for p, v in ((a, n.args[0]), (b, n.args[1])))
            self.put(a, y)
            self.put(b, x)
            return C(n.type, None)
        if name in ("memset", "memcpy", "fill", "fill_n"):
            return self.bulk(name, n)
        return self.call(n)

    def invoke(self, n: Node) -> C:
        f = self.expression(plain_callee(n.args[0])).what
        if not isinstance(f, Node):
            raise self.refuse("the call of something that is no function")
        params, body = f.attr
        whole = Node("call", n.type, n.args[1:], ("lambda", None, (), ()), n.line)
        return self.inline(params, body, whole, "lambda", id(f))

    def inline(
        self, params: tuple[tuple[int, str, CType], ...], body: Node, n: Node, name: str, ident: int
    ) -> C:
        if ident in self.calls or len(self.calls) > DEPTH:
            raise self.refuse(f"{name} calls itself")
        for (p, label, t), a in zip(params, n.args, strict=True):
            if t.kind == "reference" and plain(a).op in ("name", "index"):
                self.env[p] = C(t, self.place(a))
            else:
                kind = t.of if t.kind == "reference" and t.of is not None else t
                self.env[p] = self.settled(self.convert(self.expression(a), kind), label)
        self.calls.append(ident)
        out = self.result(body, n.type, name)
        self.calls.pop()
        return out

    def result(self, body: Node, t: CType, name: str) -> C:
        """What a function returns; its variables are new in every call."""
        self.flags -= 1
        flag = self.flags

        def end(s: Node) -> list[Node]:
            if not s.args:
                return []
            where = Node("name", t, (), (flag, "result"), s.line)
            setting = Node("assign", t, (where, s.args[0]), "", s.line)
            return [Node("expr", t, (setting,), None, s.line)]

        inner = straighten(statements(body), "return", self.refuse, end)
        if (found := holds(inner, ("return",), True)) is not None:
            raise self.refuse(f"{name}: a return inside a loop", found.line)
        self.env[flag] = C(t, None)
        self.block(inner)
        return self.env.pop(flag)

    def by_lane(self, name: str, n: Node, numbers: tuple[int, ...]) -> C:
        f = n.args[-1]
        if f.op != "lambda":
            raise self.refuse(f"{name} without a lambda")
        params, body = f.attr
        if name == "v_map":
            for (p, _, t), a in zip(params, n.args[:-1], strict=True):
                self.env[p] = C(t, self.value(self.expression(a)))
        else:
            count = n.type.count if name == "v_lanes" else numbers[0]
            self.env[params[0][0]] = C(params[0][2], self.axis(count).lane)
        if name == "v_each":
            self.block(statements(body))
            return C(n.type, None)
        inner = statements(body)
        if len(inner) != 1 or inner[0].op != "return":
            raise self.refuse(f"{name}: a lambda that is more than a return")
        c = self.expression(inner[0].args[0])
        if isinstance(c.what, Expr) and c.what.kind == "int":
            return C(n.type, self.mask_of(c.what))
        return C(n.type, c.what)

    def mask_of(self, e: Expr) -> Expr:
        """-(i32)c is the truth value c in a vector."""
        if e.op == "neg" and e.args[0].op == "select":
            a, b = e.args[0].args[1:]
            if a is const(1) and b is ZERO:
                return e.args[0].args[0]
        return e

    def bulk(self, name: str, n: Node) -> C:
        """memset with zero, memcpy and std::fill as loops over elements."""
        args = [self.expression(a) for a in n.args]
        p = args[0].what
        if not isinstance(p, Pointer):
            raise self.refuse(f"{name} of something that is no pointer")
        b = p.buffer
        t = element_type(b.dtype)
        if name in ("fill", "fill_n"):
            count = self.number(args[1]) if name == "fill_n" else None
            if count is None:
                q = args[1].what
                if not isinstance(q, Pointer) or q.buffer != b or q.lead != p.lead:
                    raise self.refuse("std::fill between pointers of two buffers")
                count = tidy(q.offset - p.offset)
        else:
            found = exact(self.number(args[2]), b.dtype.bytes)
            if found is None:
                raise self.refuse(f"{name} of a number of bytes that is no number of elements")
            count = found
            if name == "memset" and args[1].what is not ZERO:
                raise self.refuse("memset with another byte than zero")

        def one(v: Expr) -> None:
            with self.scope():
                here = Pointer(b, p.lead, p.offset + v)
                if name == "memcpy":
                    q = args[1].what
                    if not isinstance(q, Pointer):
                        raise self.refuse("memcpy from something that is no pointer")
                    c = self.load(Pointer(q.buffer, q.lead, q.offset + v), t)
                elif name == "memset":
                    c = C(t, const({"real": 0.0, "int": 0, "bool": False}[b.dtype.kind]))
                else:
                    c = self.convert(args[2], t)
                self.store(here, c, t=t)

        self.k.loop("i", 0, count, 1, [], one)
        return C(n.type, None)


def element_type(d: Any) -> CType:
    if d.kind == "bool":
        return CType("bool", 8)
    if d.kind == "real":
        return CType("real", d.bits) if d.name in ("f32", "f64") else CType("uint", max(8, d.bits))
    return CType("int" if d.name[0] == "i" else "uint", d.bits)


def moved_by(c: C, by: Expr) -> C:
    if isinstance(c.what, Pointer):
        return C(c.type, Pointer(c.what.buffer, c.what.lead, c.what.offset + by))
    return C(c.type, c.what + by)


def usual(a: CType, b: CType) -> CType:
    """The type in which two numbers meet."""
    if a.kind == "vector" or b.kind == "vector":
        return a if a.kind == "vector" else b
    if "real" in (a.kind, b.kind):
        return max((t for t in (a, b) if t.kind == "real"), key=lambda t: t.bits)
    sides = [CType("int", 32) if t.bits < 32 or t.kind == "bool" else t for t in (a, b)]
    return max(sides, key=lambda t: (t.bits, t.kind == "uint"))


def comma(step: Node | None) -> list[Node]:
    """The expressions of a loop's step."""
    if step is None:
        return []
    n = plain(step.args[0]) if step.op == "expr" else plain(step)
    if n.op == "binary" and n.attr == ",":
        return [*comma(n.args[0]), *comma(n.args[1])]
    return [n]


def plain_callee(n: Node) -> Node:
    n = plain(n)
    return plain_callee(n.args[0]) if n.op == "cast" else n
