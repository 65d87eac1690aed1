"""Loops of CUDA kernels.

A loop of few, known trips is read trip by trip. Any other counts up or down by a fixed amount: it
becomes a loop that all threads of a block run alike, as often as the one that runs it most, and
what a thread does in trips of its own that do not exist is masked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from opwright.backends.cpp.clang import CType, Node
from opwright.backends.cuda.numbers import ceiling
from opwright.backends.cuda.statements import Ends, Statements, nodes
from opwright.backends.cuda.values import LOST, Cells, Pointer, Sym, Vector, dtype_of
from opwright.ir.dtypes import I64
from opwright.ir.expr import FALSE, TRUE, ZERO, Expr, call, const, leaves, substitute, var
from opwright.ir.polynomial import Polynomial, add, expression, polynomial
from opwright.ir.tile import Axis, Check, Def, For, Stmt, Value, expressions, lanes

FEW = 4  # trips that are always read one by one
MANY = 1100  # trips of a loop that may be
BUDGET = 40_000  # statements of a kernel


class Trips(NamedTuple):
    """A counter that starts somewhere and moves by `step` while it is before `end`; `down` counts
    towards smaller numbers."""

    number: int  # the declaration of the counter
    start: Expr
    step: Expr  # its size, positive
    end: Expr  # first number that is not reached
    down: bool


@dataclass(slots=True)
class Cell:
    """One scalar that the body of a loop changes: where it is, and what it holds before."""

    number: int
    path: tuple[int, ...]
    before: Sym
    type: CType
    param: Value | None = None
    delta: Expr | None = None  # a fixed amount by which each trip moves it
    toggles: bool = False


class Loops(Statements):
    """Reads loops."""

    early = False  # whether threads leave the loop that is read

    def loop(self, n: Node) -> Ends:
        saved = dict(self.env)
        if n.op == "do":
            raise self.refuse("a do loop", n.line)
        if n.op == "for":
            init, cond, step, body = n.args
            if n.attr is not None:
                raise self.refuse("a parallel loop", n.line)
        else:
            (cond, whole), init = n.args, None
            inside = whole.args if whole.op == "block" else (whole,)
            if not inside or any(x.op == "continue" for x in nodes(whole)):
                raise self.refuse("a while loop that does not count", n.line)
            body, step = replace(whole, op="block", args=inside[:-1]), inside[-1]
        if init is not None:
            self.statement(init)
        if cond is None or step is None:
            raise self.refuse("a loop that does not count", n.line)
        known = self.static(cond, step, body)
        if known is not None:
            ends = self.unrolled(known, body, n)
        else:
            ends = self.counted_loop(cond, step, body, n)
        inner = {k: v for k, v in self.env.items() if k in saved}
        self.env = {**saved, **inner}
        return ends

    # -- trips that are known
    def counter(self, step: Node) -> int:
        """The declaration of the variable that the last part of a loop moves."""
        x = step.args[0] if step.op == "expr" else step
        while x.op == "paren":
            x = x.args[0]
        good = x.op == "assign" or (x.op == "unary" and str(x.attr).strip("p") in ("++", "--"))
        if not good or x.args[0].op != "name":
            raise self.refuse("a loop that does not count one variable", step.line)
        return int(x.args[0].attr[0])

    def probe(self, n: Node, number: int, at: Expr) -> Sym:
        """What a piece of syntax makes of a counter; nothing of it stays."""
        saved, line = dict(self.env), self.line
        self.builder._stack.append([])
        try:
            self.env[number] = at
            if n.op in ("expr", "assign", "unary") and n.op != "expr" and n.type.kind == "bool":
                return self.truth(self.expression(n), n.type)
            if n.op == "expr":
                self.expression(n.args[0])
                return self.env[number]
            return self.truth(self.expression(n), n.type)
        finally:
            self.builder._stack.pop()
            self.env = saved
            self.at(line)

    def bound(self, cond: Node, number: int, here: Expr) -> Sym:
        """The condition of a loop, with what it loads before the loop. What it must keep within
        its width is said inside, where the counter has a value."""
        saved = dict(self.env)
        self.builder._stack.append([])
        self.env[number] = here
        test = self.truth(self.expression(cond), cond.type)
        self.env = saved
        for s in self.builder._stack.pop():
            if not any(here in leaves(e, "var") for e in expressions([s])):
                self.builder._stack[-1].append(s)
                if isinstance(s, Def) and s.value.op == "load" and s.value.attr.buffer.role != "in":
                    raise self.refuse("a loop whose bound is in memory that may change")
            elif not isinstance(s, Check):
                raise self.refuse("a loop whose condition loads what its counter points to")
        return test

    def static(self, cond: Node, step: Node, body: Node) -> list[Expr] | None:
        """The numbers that a counter goes through, where they are known and few enough."""
        number = self.counter(step)
        now = self.env.get(number)
        moved = self.changed(body)
        if not isinstance(now, Expr) or now.op != "const" or number in moved:
            return None
        if any(x.op == "name" and x.attr[0] in moved for part in (cond, step) for x in nodes(part)):
            return None
        wanted = step if step.op == "expr" else Node("expr", step.type, (step,), None, step.line)
        out: list[Expr] = []
        while len(out) <= MANY:
            holds = self.probe(cond, number, now)
            if not isinstance(holds, Expr) or holds.op != "const":
                return None
            if not holds.attr:
                break
            out.append(now)
            after = self.probe(wanted, number, now)
            if not isinstance(after, Expr) or after.op != "const" or after is now:
                return None
            now = after
        if len(out) > MANY:
            return None
        steps = {b.attr - a.attr for a, b in pairwise(out)}
        if len(out) <= FEW or len(steps) > 1 or self.must_unroll(body, number):
            if len(out) * (1 + sum(1 for _ in nodes(body))) > BUDGET:
                return None
            return [*out, now]
        return None

    def must_unroll(self, body: Node, counter: int) -> bool:
        """Whether a loop's trips differ in more than a number: exchanges between threads at a
        distance, elements of local arrays, early ends, barriers of few trips."""
        for x in nodes(body):
            if x.op == "break":
                return True
            if x.op == "call":
                name, declared, _, _ = x.attr
                if name.startswith("__shfl"):
                    return True
                if declared is not None and self.must_unroll(
                    self.unit.functions[declared].body, -1
                ):
                    return True
            if x.op == "index" and x.args[1].op != "int":
                base = x.args[0]
                while base.op in ("cast", "paren", "index") and base.args:
                    base = base.args[0]
                if base.op == "name" and isinstance(self.env.get(base.attr[0]), Cells):
                    return True
        if any(x.op == "declare" and x.type.kind == "array" for x in nodes(body)):
            return True
        return False

    def unrolled(self, numbers: list[Expr], body: Node, n: Node) -> Ends:
        number = self.counter(n.args[2] if n.op == "for" else n.args[1].args[-1])
        ends = Ends()
        height = len(self.path)
        alive: Expr = TRUE  # threads that have not left
        for at in numbers[:-1]:
            self.env[number] = at
            before = dict(self.env)
            found = self.statement(body)
            inner = {k: v for k, v in self.env.items() if k in before}
            self.env = inner if alive is TRUE else self.joined(alive, inner, before, before)
            left = call("or", found.returns, found.breaks)
            if alive is not TRUE:
                left = call("and", alive, left)
            ends = ends.also(Ends(found.returns, FALSE, found.breaks).under(alive))
            if left is TRUE:
                break
            if left is not FALSE:
                alive = call("and", alive, self.settled(~left))
                self.path.append(self.settled(~left))
        else:
            if alive is TRUE:
                self.env[number] = numbers[-1]
            elif number in self.env:
                self.env[number] = LOST
        del self.path[height:]
        return Ends(ends.returns)

    # -- trips that are counted
    def counted_loop(self, cond: Node, step: Node, body: Node, n: Node) -> Ends:
        t = self.trips(cond, step, body, n)
        if not any(x.op in ("index", "call") for x in nodes(cond)):
            self.expression(cond)
        cells = self.cells(body, t.number)
        steady = self.lane_free(t)
        for _ in range(8):
            self.builder._stack.append([])
            places = {k: list(x) for k, x in self.offsets.items()}, dict(self.failed)
            made, again = self.attempt(t, cells, (cond, body), n, steady)
            stmts = self.builder._stack.pop()
            if not again:
                self.builder._stack[-1] += stmts
                return made
            self.offsets, self.failed = places  # of a reading that is taken back
        raise self.refuse("a loop whose state does not settle", n.line)

    def trips(self, cond: Node, step: Node, body: Node, n: Node) -> Trips:
        number = self.counter(step)
        start = self.env.get(number)
        changed = self.changed(body)
        if not isinstance(start, Expr) or start.kind != "int" or number in changed:
            raise self.refuse("a loop that does not count one integer", n.line)
        if any(x.op == "name" and x.attr[0] in changed for x in nodes(cond)) or any(
            x.op == "name" and x.attr[0] in changed for x in nodes(step)
        ):
            raise self.refuse("a loop whose bound changes inside of it", n.line)
        here = var(self.builder.fresh("i"))
        self.ranges[here] = (0, 2**31 - 1)  # only to read what moves it: said of its start below
        wanted = step if step.op == "expr" else Node("expr", step.type, (step,), None, step.line)
        after = self.probe(wanted, number, here)
        test = self.bound(cond, number, here)
        if not isinstance(after, Expr) or not isinstance(test, Expr):
            raise self.refuse("a loop that does not count", n.line)
        by = expression(add(polynomial(after), polynomial(here), -1))
        if here in leaves(by, "var") or lanes(by):
            raise self.refuse("a loop whose step changes", n.line)
        down = by.op == "neg" or (by.op == "const" and by.attr < 0)
        both = (*nodes(cond), *nodes(step))
        if any(x.op == "cast" and x.type.kind == "uint" and x.args[0].type.kind == "int"
               for x in both) and not self.natural(start):  # fmt: skip
            if down:
                raise self.refuse("a counter without sign that counts down", n.line)
            self.check(call("le", 0, start), "wrap", "a counter without sign is not negative")
        return self.bounded(number, start, -by if down else by, test, here, down, n)

    def bounded(
        self, number: int, start: Expr, by: Expr, test: Expr, here: Expr, down: bool, n: Node
    ) -> Trips:
        """The number at which the counter stops, read off the condition."""
        if test.op not in ("lt", "le"):
            raise self.refuse("a loop whose condition is no bound of its counter", n.line)
        a, b = test.args
        slack: Polynomial = add(polynomial(b), polynomial(a), -1)
        rest = {m: c for m, c in slack.items() if here not in m}
        own = {m: c for m, c in slack.items() if here in m}
        if own != {(here,): 1 if down else -1}:
            raise self.refuse("a loop whose condition is no bound of its counter", n.line)
        # i + rest > 0 (counting down), or rest - i > 0; with "or equal" one further
        if any(here in leaves(f, "var") for m in rest for f in m):
            raise self.refuse("a loop whose condition is no bound of its counter", n.line)
        more = 1 if test.op == "le" else 0
        end = expression(add(rest, {(): more} if more else {}))
        if down:
            end = -end
        if by.op == "const" and by.attr <= 0:
            raise self.refuse("a loop that does not end", n.line)
        if by.op != "const":
            self.check(call("lt", 0, by), "divisor", "the step of a loop is positive")
        return Trips(number, start, by, end, down)

    def lane_free(self, t: Trips) -> bool:
        """Whether all threads run a loop equally often."""
        return not lanes(t.start, t.end)

    def length(self, t: Trips) -> Expr:
        """How far a thread counts; its trips are this over the step."""
        far = t.start - t.end if t.down else t.end - t.start
        return expression(polynomial(far))

    def most(self, t: Trips) -> Expr:
        """The length of whoever counts furthest."""
        far = self.length(t)
        terms = polynomial(far)
        low: dict[Expr, Expr] = {}
        simple = True
        for m, c in terms.items():
            own = [f for f in m if lanes(f)]
            if own:
                if len(m) == 1 and m[0].op == "lane":
                    low[m[0]] = const(0 if c < 0 else m[0].attr.extent - 1)
                else:
                    simple = False
        if simple:
            return expression(polynomial(substitute(far, low)))
        v = self.builder.index(call("max", far, 0), I64)
        mask = self.mask()
        if mask is not TRUE:
            v = self.builder.ew("select", self.builder.index(mask), v, 0)
        for a in tuple(v.axes):
            v = self.builder.reduce("max", v, a)
        return self.leaf(v)

    def cells(self, body: Node, counter: int) -> list[Cell]:
        """Scalars that the body changes and that were there before."""
        out: list[Cell] = []
        for number in sorted(assigned(body) | self.through(body)):
            if number in self.env and number != counter and number not in self.shared:
                t = self.types.get(number, CType("real", 32))
                out += _scalars(number, (), self.env[number], t)
        return out

    def natural(self, e: Expr) -> bool:
        """Whether a number is seen not to be negative."""
        low = self.bounds(e)[0]
        return low is not None and low >= 0

    def changed(self, body: Node) -> set[int]:
        """Variables that a body writes to, itself or through what it calls."""
        return assigned(body) | self.through(body)

    def through(self, body: Node) -> set[int]:
        """Variables that called functions change."""
        out: set[int] = set()
        for x in nodes(body):
            if x.op == "call":
                for k in x.attr[3]:
                    if k < len(x.args) and (name := base_name(x.args[k])) is not None:
                        out.add(name)
        return out

    def attempt(
        self, t: Trips, cells: list[Cell], parts: tuple[Node, Node], n: Node, steady: bool
    ) -> tuple[Ends, bool]:
        """Read the loop once with the state as it is thought to be; whether it must be read
        again."""
        saved, line = dict(self.env), self.line
        cond, body = parts
        self.at(n.line)
        self.early = any(c.number < 0 for c in cells)
        if self.early:
            for c in cells:
                c.delta, c.toggles = None, False
        closed = any(c.delta is not None or c.toggles for c in cells)
        plain = t.step.op == "const" and not t.down and (not closed or t.step.attr == 1)
        plain = plain and not any(lanes(x) for x in leaves(t.start, "value"))
        if any(x.op == "binary" and x.attr in ("/", "%", ">>", "&") for x in nodes(body)):
            plain = plain and t.step.attr == 1  # a number of trips splits where it is divided
        far = self.length(t) if steady else self.most(t)
        far = self.settled_number(far)
        v = var(self.builder.fresh("i" if plain else "k"))
        if plain:
            low = t.start if steady else _without_lanes(t.start)
            lo, hi, by = low, low + far, int(t.step.attr)
            lo, hi = (expression(polynomial(e)) for e in (lo, hi))
            here = t.start + (v - low)
            trip = v - low
        else:
            lo, hi, by = ZERO, ceiling(far, t.step, self.ranges), 1
            here = t.start - v * t.step if t.down else t.start + v * t.step
            trip = v
        here = expression(polynomial(here))
        a, b = self.bounds(lo)[0], self.bounds(hi)[1]
        self.ranges[v] = (a, None if b is None else b - 1)
        if plain and steady and (top := self.bounds(hi)[1]) is not None:
            self.ranges[v] = (a, top - 1)
        carried = [c for c in cells if c.delta is None and not c.toggles]
        for c in carried:
            if c.param is None:
                first = self.entered(c)
                c.param = Value(self.builder.fresh(f"{first.name}_c"), "param", (), first.axes,
                                first.dtype)  # fmt: skip
        inits = [self.spread(self.entered(c), c.param.axes) for c in carried if c.param]
        active = TRUE
        if not steady:
            active = call("lt", t.end, here) if t.down else call("lt", here, t.end)
        self.builder._stack.append([])
        self.env[t.number] = here
        for c in cells:
            if c.number < 0:
                self.env[c.number], self.types[c.number] = c.before, c.type
            self.put_cell(c, self.inside(c, trip))
        height = len(self.path)
        if active is not TRUE:
            self.path.append(self.settled(active))
        left = next((c for c in cells if c.number < 0), None)
        if left is not None:
            stays = self.get_cell(left)
            assert isinstance(stays, Expr)
            self.path.append(call("eq", stays, 0))
        inner = self.mask()
        self.onwards(t, cond, here)
        ends = self.statement(body)
        del self.path[height:]
        again = False
        if ends.returns is not FALSE or ends.breaks is not FALSE:
            if ends.returns is not FALSE and self.result_type.kind != "void":
                raise self.refuse("a loop out of which a value is returned", n.line)
            if left is None:
                cells.append(self.leaving())
                self.env = saved
                self.builder._stack.pop()
                self.at(line)
                return Ends(), True
            old = self.get_cell(left)
            by_break = self.choose(ends.breaks, const(1), old, left.type)
            self.put_cell(left, self.choose(ends.returns, const(2), by_break, left.type))
        yields: list[Value] = []
        for c in cells:
            new = self.get_cell(c)
            again = self.judged(c, new, v) or again
        for c in carried:
            assert c.param is not None
            if c.delta is not None or c.toggles:
                continue
            y = self.next_value(c, inner)
            if not set(y.axes) <= set(c.param.axes):
                wide = tuple(a for a in self.threads if a in {*y.axes, *c.param.axes})
                c.param = Value(c.param.name, "param", (), wide, c.param.dtype)
                again = True
                continue
            yields.append(self.spread(y, c.param.axes))
        stmts = tuple(self.builder._stack.pop())
        if again:
            self.env = saved
            self.at(line)
            return Ends(), True
        self.finish(t, cells, carried, (v, lo, hi, by), inits, stmts, yields, saved, steady)
        if left is None:
            return Ends(), False
        self.env[t.number] = LOST
        how = self.get_cell(left)
        assert isinstance(how, Expr)
        del self.env[left.number]
        return Ends(returns=call("eq", how, 2) if ends.returns is not FALSE else FALSE), False

    def leaving(self) -> Cell:
        """Whether a thread has left a loop: 1 by a break, 2 by a return."""
        number = min([0, *self.env]) - 1
        return Cell(number, (), const(0), CType("int", 32))

    def settled_number(self, e: Expr) -> Expr:
        """A number that decides how often a loop runs: 0 where nobody is here."""
        mask = self.mask()
        if mask is TRUE or not leaves(e, "value") or lanes(mask):
            return e
        v = self.builder.ew("select", self.builder.index(mask), self.builder.index(e), 0)
        return self.leaf(v)

    def first(self, c: Cell) -> Value:
        return self.value(c.before, dtype_of(c.type))

    def entered(self, c: Cell) -> Value:
        """What a cell holds before the loop; where nobody is, a number that nobody sees."""
        v = self.first(c)
        return v if v.op in ("param", "result") else self.seen(v)

    def inside(self, c: Cell, trip: Expr) -> Sym:
        """What a cell holds when a trip begins."""
        if c.toggles:
            assert isinstance(c.before, Expr)
            return call("mod", c.before + trip, 2)
        if c.delta is not None:
            assert isinstance(c.before, Expr)
            return expression(polynomial(c.before + trip * c.delta))
        assert c.param is not None
        return c.param if c.type.kind == "real" else self.leaf(c.param)

    def judged(self, c: Cell, new: Sym, v: Expr) -> bool:
        """Look for a closed form of an integer; whether one was found, so that the loop is read
        again."""
        if c.param is None or c.delta is not None or c.toggles or not isinstance(new, Expr):
            return False
        if self.early:  # what a thread holds then is not a matter of how often a loop runs
            return False
        if new.kind != "int" or not isinstance(c.before, Expr):
            return False
        own = self.leaf(c.param)
        change = expression(add(polynomial(new), polynomial(own), -1))
        fixed = not leaves(change, "value", "var") or all(
            x in self.ranges and x is not v for x in leaves(change, "var")
        )
        if fixed and not leaves(change, "value") and v not in leaves(change, "var"):
            c.delta = change
            return True
        total = polynomial(new + own)
        if total == {(): 1} and c.before.op == "const" and c.before.attr in (0, 1):
            c.toggles = True
            return True
        return False

    def onwards(self, t: Trips, cond: Node, here: Expr) -> None:
        """Moving the counter, and asking the condition again, keeps within their widths."""
        after = self.fitting(here - t.step if t.down else here + t.step, self.types[t.number])
        if not any(x.op in ("index", "call") for x in nodes(cond)):
            self.env[t.number] = after
            self.expression(cond)
        self.env[t.number] = here

    def next_value(self, c: Cell, mask: Expr) -> Value:
        new = self.get_cell(c)
        assert c.param is not None
        y = self.value(new, c.param.dtype)
        if mask is TRUE or y is c.param:
            return y
        return self.picked(self.builder.index(mask), y, c.param)

    def finish(
        self,
        t: Trips,
        cells: list[Cell],
        carried: list[Cell],
        head: tuple[Expr, Expr, Expr, int],
        inits: list[Value],
        stmts: tuple[Stmt, ...],
        yields: list[Value],
        saved: dict[int, Sym],
        steady: bool,
    ) -> None:
        """The loop as a statement, and what is known after it."""
        v, lo, hi, by = head
        params = tuple(c.param for c in carried if c.param is not None)
        results = tuple(
            Value(self.builder.fresh(f"{p.name}_r"), "result", (), p.axes, p.dtype) for p in params
        )
        self.builder._stack[-1].append(
            For(str(v.attr), lo, hi, by, tuple(inits), params, stmts, tuple(yields), results)
        )
        self.env = saved
        trips = call("max", ceiling(self.length(t), t.step, self.ranges), 0)
        for c in cells:
            if c in carried:
                continue
            self.put_cell(c, self.inside(c, trips))
        for c in carried:
            if c.number < 0:
                self.env[c.number] = c.before
        for c, r in zip(carried, results, strict=True):
            self.put_cell(c, r if c.type.kind == "real" else self.leaf(r))
        end = t.start - trips * t.step if t.down else t.start + trips * t.step
        self.env[t.number] = end

    # -- cells
    def put_cell(self, c: Cell, x: Sym) -> None:
        self.env[c.number] = _with(self.env[c.number], c.path, x)

    def get_cell(self, c: Cell) -> Sym:
        return _part(self.env[c.number], c.path)


def _scalars(number: int, path: tuple[int, ...], x: Sym, t: CType) -> list[Cell]:
    """The scalars of a variable."""
    if isinstance(x, Cells):
        of = x.type
        return [c for k, p in enumerate(x.parts) for c in _scalars(number, (*path, k), p, of)]
    if isinstance(x, Vector):
        of = x.type.of or x.type
        return [c for k, p in enumerate(x.parts) for c in _scalars(number, (*path, k), p, of)]
    if isinstance(x, Pointer):
        return [Cell(number, (*path, -1), x.offset, CType("int", 64))]
    if x is None and t.kind not in ("real", "int", "uint", "bool"):
        return []
    return [Cell(number, path, x, t)]


def _part(x: Sym, path: tuple[int, ...]) -> Sym:
    for k in path:
        if isinstance(x, Pointer):
            return x.offset
        assert isinstance(x, Cells | Vector)
        x = x.parts[k]
    return x


def _with(x: Sym, path: tuple[int, ...], new: Sym) -> Sym:
    if not path:
        return new
    if isinstance(x, Pointer):
        assert isinstance(new, Expr)
        return replace(x, offset=new)
    assert isinstance(x, Cells | Vector)
    parts = list(x.parts)
    parts[path[0]] = _with(parts[path[0]], path[1:], new)
    return replace(x, parts=tuple(parts))


def _without_lanes(e: Expr) -> Expr:
    """The number for the first thread along every axis."""
    own: dict[Expr, Expr] = {a.lane: const(0) for a in _axes(e)}
    return expression(polynomial(substitute(e, own)))


def _axes(e: Expr) -> tuple[Axis, ...]:
    return lanes(e)


def base_name(n: Node) -> int | None:
    """The variable that an expression is a part of."""
    while n.op in ("paren", "index", "member", "cast") and n.args:
        n = n.args[0]
    return int(n.attr[0]) if n.op == "name" else None


def assigned(n: Node) -> set[int]:
    """Variables that a piece of syntax writes to."""
    out: set[int] = set()
    for x in nodes(n):
        written = x.op == "assign" or (x.op == "unary" and str(x.attr).strip("p") in ("++", "--"))
        if written and (name := base_name(x.args[0])) is not None:
            out.add(name)
    return out
