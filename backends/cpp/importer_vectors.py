"""Vectors of a text that nobody printed: elements one by one, shuffles, bytes copied to and from
memory, arrays of vectors, pointers to vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

from opwright.backends.cpp.clang import CType, Node
from opwright.backends.cpp.importer_expressions import Expressions
from opwright.backends.cpp.importer_structure import names, nodes, plain
from opwright.backends.cpp.importer_values import C, Elements, Place, Pointer
from opwright.ir.dtypes import BOOL
from opwright.ir.expr import Expr, call, const


class Vectors(Expressions):
    """Vector values from their elements, and from bytes."""

    # -- elements
    def vector_of(self, given: Sequence[C], t: CType) -> C:
        """A vector of these elements, zero behind them."""
        if len(given) > t.count:
            raise self.refuse(f"{len(given)} elements for a {t}")
        zero = C(t.scalar, const(0.0 if t.scalar.kind == "real" else 0))
        items = [self.convert(c, t.scalar) for c in given]
        items += [zero] * (t.count - len(items))
        if any(c.what is None for c in items):
            raise self.refuse("a value that was never assigned is used")
        if all(c.what is items[0].what for c in items):
            return self.convert(items[0], t)
        lane = self.axis(t.count).lane
        numbers = [c.what.attr for c in items if isinstance(c.what, Expr) and c.what.op == "const"]
        if t.scalar.is_integer and len(numbers) == t.count:
            return C(t, piecewise(lane, [int(n) for n in numbers]))
        found = items[-1]
        for n in reversed(range(t.count - 1)):
            if items[n].what is not found.what:
                found = self.choose(call("le", lane, n), items[n], found, t.scalar)
        return C(t, found.what)

    def initial(self, n: Node) -> C:
        """`{a, b}` as a vector."""
        given = [self.expression(a) for a in n.args]
        if len(given) == 1 and given[0].type.kind == "vector":
            return self.convert(given[0], n.type)
        return self.vector_of(given, n.type)

    def element_of(self, c: C, i: Expr, t: CType) -> C:
        """One element of a vector."""
        if isinstance(c.what, Elements):
            held = dict(c.what.known).get(int(i.attr)) if i.op == "const" else None
            if held is None:
                raise self.refuse("a value that was never assigned is used")
            return C(t, held.what)
        if c.what is None:
            raise self.refuse("a value that was never assigned is used")
        axis = self.axis(c.type.count)
        if i is axis.lane:
            return C(t, c.what)
        if i.op != "const" or not 0 <= i.attr < axis.extent:
            raise self.refuse("a lane of a vector other than the current one")
        if isinstance(c.what, Expr) and c.what.op == "const":
            return C(t, c.what)
        whole = self.spread(self.value(c), axis)
        return C(t, self.held(self.k.view(whole, [(axis, i)])))

    def with_element(self, old: C, i: Expr, c: C) -> C:
        """A vector with one element changed."""
        t = old.type
        if i.op != "const" or not 0 <= i.attr < t.count:
            raise self.refuse("an element of a vector that is no known number is assigned")
        at, c = int(i.attr), self.convert(c, t.scalar)
        if old.what is None or isinstance(old.what, Elements):
            known = dict(old.what.known) if old.what is not None else {}
            known[at] = c
            if len(known) == t.count:
                return self.vector_of([known[n] for n in range(t.count)], t)
            return C(t, Elements(tuple(sorted(known.items(), key=lambda x: x[0]))))
        here = call("eq", self.axis(t.count).lane, at)
        return C(t, self.choose(here, c, C(t.scalar, old.what), t.scalar).what)

    def shuffle(self, n: Node) -> C:
        """Elements of two vectors in a new order; -1 asks for any."""
        a, b = (self.expression(x) for x in n.args)
        count = a.type.count
        lane = self.axis(n.type.count).lane
        at = [max(int(x), 0) for x in n.attr]
        if any(x >= 2 * count for x in at):
            raise self.refuse("a shuffle of an element that there is not")
        sides = [x >= count for x in at]

        def side(c: C, second: bool) -> C:
            own = [x % count if s is second else 0 for x, s in zip(at, sides, strict=True)]
            return self.moved(c, own, n.type)

        if not any(sides) or all(sides):
            return side(b, True) if all(sides) else side(a, False)
        of = n.type.scalar
        first, other = (C(of, side(c, second).what) for c, second in ((a, False), (b, True)))
        return C(n.type, self.choose(false_runs(lane, sides), first, other, of).what)

    def moved(self, c: C, at: Sequence[int], t: CType) -> C:
        """The vector of the elements at these places of another one."""
        if c.what is None:
            raise self.refuse("a value that was never assigned is used")
        if isinstance(c.what, Expr) and c.what.op == "const":
            return C(t, c.what)
        axis = self.axis(c.type.count)
        if t.count == c.type.count and list(at) == list(range(t.count)):
            return C(t, c.what)
        truth = isinstance(c.what, Expr) and c.what.kind == "bool"
        v = self.materialise(c.what, BOOL) if truth else self.value(c)
        whole = self.spread(v, axis)
        place = piecewise(self.axis(t.count).lane, at)
        return C(t, self.held(self.k.view(whole, [(axis, place)])))

    # -- bytes
    def copied(self, n: Node) -> C | None:
        """memcpy to or from a variable: all of its bytes; None where both sides are memory."""
        to, source = (self.named_variable(a) for a in n.args[:2])
        if to is None and source is None:
            return None
        count = self.number(self.expression(n.args[2]))
        kinds = [self.env[v].type for v in (to, source) if v is not None]
        if any(count is not const(size_of(t)) for t in kinds):
            raise self.refuse(f"memcpy of other bytes than those of a {kinds[0]}")
        if source is None:
            assert to is not None
            t = self.env[to].type
            p = self.expression(n.args[1]).what
            if not isinstance(p, Pointer):
                raise self.refuse("memcpy from something that is no pointer")
            held = self.memory_kind(p, t)
            c = self.reinterpret(self.load(p, held), t)
            self.put(Place(variable=to), self.settled(c, self.titles.get(to, "")))
        elif to is None:
            c = self.assigned_value(self.env[source])
            p = self.expression(n.args[0]).what
            if not isinstance(p, Pointer):
                raise self.refuse("memcpy to something that is no pointer")
            held = self.memory_kind(p, c.type)
            self.store(p, self.reinterpret(c, held), t=held)
        else:
            t = self.env[to].type
            c = self.reinterpret(self.assigned_value(self.env[source]), t)
            self.put(Place(variable=to), self.settled(c, self.titles.get(to, "")))
        return C(n.type, None)

    def named_variable(self, n: Node) -> int | None:
        """The variable of which this is the address."""
        n = plain(n)
        if n.op == "cast":
            return self.named_variable(n.args[0])
        if n.op != "unary" or n.attr != "&" or plain(n.args[0]).op != "name":
            return None
        where = self.place(n.args[0])
        return where.variable if where.pointer is None and where.lane is None else None

    def memory_kind(self, p: Pointer, t: CType) -> CType:
        """The type in which memory holds what a variable of type `t` has."""
        d = p.buffer.dtype
        kind = {"real": "real", "int": "uint" if d.name[0] == "u" else "int"}.get(d.kind, "bool")
        if d.kind == "real" and d.name not in ("f32", "f64", "tf32"):
            kind = "uint"
        of = CType(kind, max(8, d.bits))
        if of.bits != t.scalar.bits or kind == "bool" or t.scalar.kind == "bool":
            return t
        return CType("vector", of=of, count=t.count) if t.kind == "vector" else of

    def assigned_value(self, c: C) -> C:
        if c.what is None or isinstance(c.what, Elements):
            raise self.refuse("a value that was never assigned is used")
        return c

    # -- loops over lanes
    def over_lanes(self, variable: int, body: Sequence[Node]) -> bool:
        """Whether a loop's counter is a place in a vector."""
        for s in body:
            for x in nodes(s):
                if x.op == "index" and plain(x.args[0]).type.kind == "vector":
                    if variable in names(x.args[1]):
                        return True
        return False


def size_of(t: CType) -> int:
    """Bytes of a number or vector."""
    return t.scalar.bits // 8 * (t.count if t.kind == "vector" else 1)


def piecewise(lane: Expr, at: Sequence[int]) -> Expr:
    """The integers `at` as a function of the lane: runs of equal steps."""
    runs: list[tuple[int, int, int]] = []  # (end, first value minus first * step, step)
    begin = 0
    while begin < len(at):
        step = at[begin + 1] - at[begin] if begin + 1 < len(at) else 0
        end = begin + 1
        while end < len(at) and at[end] - at[end - 1] == step:
            end += 1
        if end == begin + 1:
            step = 0
        runs.append((end, at[begin] - begin * step, step))
        begin = end
    found: Expr = lane * runs[-1][2] + runs[-1][1] if runs[-1][2] else const(runs[-1][1])
    for end, base, step in reversed(runs[:-1]):
        here = lane * step + base if step else const(base)
        found = call("select", call("lt", lane, end), here, found)
    return found


def false_runs(lane: Expr, sides: Sequence[bool]) -> Expr:
    """Where a list of truth values is false, as a condition on the lane."""
    found: Expr | None = None
    for n, side in enumerate(sides):
        if side or (n and not sides[n - 1]):
            continue
        end = next((m for m in range(n, len(sides)) if sides[m]), len(sides))
        run = call("and", call("le", n, lane), call("lt", lane, end))
        found = run if found is None else call("or", found, run)
    assert found is not None
    return found
