"""Expressions of an imported kernel: variables, places, assignments."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opwright.backends.cpp.clang import CType, Function, Node
from opwright.backends.cpp.importer_calls import SILENT, Calls, plain_name
from opwright.backends.cpp.importer_structure import (
    STEPS,
    assigned,
    names,
    plain,
)
from opwright.backends.cpp.importer_values import C, Elements, Place, Pointer, dtype_of
from opwright.ir.expr import ZERO, Expr, call, const
from opwright.ir.tile import Builder, Load, Value


class Expressions(Calls):
    """Reads expressions; `env` holds the variables."""

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

    @abstractmethod
    def calling(self, n: Node) -> C:
        """The call of a function."""

    @abstractmethod
    def invoke(self, n: Node) -> C:
        """The call of a lambda."""

    @abstractmethod
    def initial(self, n: Node) -> C:
        """`{a, b}` as a vector."""

    @abstractmethod
    def shuffle(self, n: Node) -> C:
        """Elements of two vectors in a new order."""

    @abstractmethod
    def element_of(self, c: C, i: Expr, t: CType) -> C:
        """One element of a vector."""

    @abstractmethod
    def with_element(self, old: C, i: Expr, c: C) -> C:
        """A vector with one element changed."""

    def settled(self, c: C, name: str) -> C:
        """A variable holds reals as tiles, vectors in all their lanes."""
        if c.what is None or isinstance(c.what, Pointer | Node | Elements):
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
        if n.op == "init" and n.type.kind == "vector":
            return self.initial(n)
        if n.op == "shuffle":
            return self.shuffle(n)
        if n.op == "bits":
            return self.reinterpret(self.expression(n.args[0]), n.type)
        if n.op == "init" and len(n.args) == 1:
            return self.convert(self.expression(n.args[0]), n.type)
        raise self.refuse(f"the expression {n.op} is not understood here")

    def silent(self, n: Node) -> bool:
        """Whether evaluating an expression can do nothing but give a number or an address, so that
        leaving it out leaves nothing unproved."""
        if n.op in ("int", "real"):
            return True
        if n.op == "name":
            held = self.env.get(n.attr[0])
            return held is not None and not isinstance(held.what, Place)
        if n.op == "unary" and n.attr == "&":
            inner = plain(n.args[0])
            if inner.op == "index" or (inner.op == "unary" and inner.attr == "*"):
                return all(map(self.silent, inner.args))
            return bool(inner.op == "name")
        if n.op == "unary":
            return n.attr in ("+", "-", "~", "!") and self.silent(n.args[0])
        named = plain_name(n.attr[0]) if n.op == "call" else ""
        if (n.op == "binary" and n.attr in ("/", "%")) or named in ("i_div", "i_mod"):
            divisor = n.args[1]
            while divisor.op in ("paren", "cast"):
                divisor = divisor.args[0]
            by = divisor.op == "int" and int(divisor.attr) > 0
            return by and self.silent(n.args[0])
        if named and named not in SILENT:
            return False
        if n.op in ("paren", "cast", "binary", "cond", "call"):
            return all(map(self.silent, n.args))
        return False

    def variable(self, n: Node) -> C:
        ident, name = n.attr
        if ident not in self.env:
            raise self.refuse(f"the variable {name} is not known here")
        c = self.env[ident]
        if isinstance(c.what, Place):
            return self.fetch(c.what, n.type)
        if isinstance(c.what, Elements):
            raise self.refuse(f"{name} is used before all of its elements are assigned")
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
        c = self.expression(inner)
        if n.type.kind == c.type.kind == "vector" and n.attr != "convert":
            return self.reinterpret(c, n.type)
        return self.convert(c, n.type)

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
        inner = plain(n.args[0])
        c = self.env.get(inner.attr[0]) if inner.op == "name" else None
        if c is None or not isinstance(c.what, Elements):
            c = self.expression(n.args[0])
        return self.element_of(c, self.number(self.expression(n.args[1])), n.type)

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
            if plain(base).type.kind == "vector":
                return self.element_place(base, self.number(self.expression(i)))
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

    def element_place(self, base: Node, i: Expr) -> Place:
        """An element of a vector that is a variable or lies in memory."""
        where = self.place(base)
        if where.lane is not None:
            raise self.refuse("an element of an element")
        if where.pointer is None:
            return Place(variable=where.variable, lane=i)
        inside = call("and", call("le", 0, i), call("lt", i, plain(base).type.count))
        self.check(inside, "mask", "the place in a vector is one of its elements")
        p = where.pointer
        if len(p.lead) == len(p.buffer.shape) and p.lead:
            return Place(pointer=Pointer(p.buffer, (*p.lead[:-1], p.lead[-1] + i), ZERO))
        return Place(pointer=Pointer(p.buffer, p.lead, p.offset + i))

    def subscript(self, p: Pointer, e: Expr, base: Node) -> Pointer:
        """One step into an array of arrays, or `e` elements further."""
        inner = base.type.of
        if (inner is not None and inner.kind == "array") or self.holds_vectors(p):
            return Pointer(p.buffer, (*p.lead, p.offset + e), ZERO)
        if inner is not None and inner.kind == "vector":
            found = Pointer(p.buffer, p.lead, p.offset + e * inner.count)
            self.aligned_vector(found, base.type)
            return found
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
        return c if where.lane is None else self.element_of(c, where.lane, t)

    def put(self, where: Place, c: C) -> None:
        if where.pointer is not None:
            self.store(where.pointer, c)
            return
        if where.variable in self.frozen:
            raise self.refuse("an assignment inside a conditional expression")
        old = self.env[where.variable]
        if where.lane is not None:
            c = self.settled(self.with_element(old, where.lane, c), "")
        self.env[where.variable] = C(old.type, c.what)

    def assign(self, n: Node) -> C:
        left, right = n.args
        where = self.place(left)
        kind = plain(left).type
        if where.pointer is None and where.lane is None:
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
        if where.pointer is None and where.lane is None:
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


def usual(a: CType, b: CType) -> CType:
    """The type in which two numbers meet."""
    if a.kind == "vector" or b.kind == "vector":
        return a if a.kind == "vector" else b
    if "real" in (a.kind, b.kind):
        return max((t for t in (a, b) if t.kind == "real"), key=lambda t: t.bits)
    sides = [CType("int", 32) if t.bits < 32 or t.kind == "bool" else t for t in (a, b)]
    return max(sides, key=lambda t: (t.bits, t.kind == "uint"))
