"""Functions and lambdas of an imported text, read where they are called."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from opwright.backends.cpp.clang import CType, Node
from opwright.backends.cpp.importer_calls import mask_of
from opwright.backends.cpp.importer_loops import further
from opwright.backends.cpp.importer_polynomials import exact, tidy
from opwright.backends.cpp.importer_structure import (
    holds,
    plain,
    statements,
    straighten,
)
from opwright.backends.cpp.importer_values import C, Pointer
from opwright.backends.cpp.importer_vectors import Vectors
from opwright.ir.expr import ZERO, Expr, const

DEPTH = 16  # calls inside calls


class Functions(Vectors):
    """Reads calls of what the text defines."""

    @abstractmethod
    def block(self, body: list[Node]) -> None:
        """Statements one after the other."""

    def calling(self, n: Node) -> C:
        name, ident, _, _ = n.attr
        if ident is not None:
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
        name = name.removeprefix("__builtin_") if name[10:] in ("memcpy", "memset") else name
        if name in ("memset", "memcpy", "fill", "fill_n", "copy", "copy_n"):
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
            return C(n.type, mask_of(c.what))
        return C(n.type, c.what)

    def bulk(self, name: str, n: Node) -> C:
        """memset with zero, memcpy and those of <algorithm> as loops over elements."""
        if name == "memcpy" and (done := self.copied(n)) is not None:
            return done
        args = [self.expression(a) for a in n.args]
        copies = name in ("copy", "copy_n", "memcpy")
        to = args[2 if name in ("copy", "copy_n") else 0].what
        first = args[1 if name == "memcpy" else 0].what
        if not isinstance(to, Pointer) or not isinstance(first, Pointer):
            raise self.refuse(f"{name} of something that is no pointer")
        b = to.buffer
        t = element_type(b.dtype)
        if name in ("fill", "copy"):
            last = args[1].what
            if not isinstance(last, Pointer) or (last.buffer, last.lead) != (
                first.buffer,
                first.lead,
            ):
                raise self.refuse(f"std::{name} between pointers into different memory")
            count = tidy(last.offset - first.offset)
        elif name in ("fill_n", "copy_n"):
            count = self.number(args[1])
        else:
            found = exact(self.number(args[2]), b.dtype.bytes)
            if found is None:
                raise self.refuse(f"{name} of a number of bytes that is no number of elements")
            count = found
            if name == "memset" and args[1].what is not ZERO:
                raise self.refuse("memset with another byte than zero")

        def one(v: Expr) -> None:
            with self.scope():
                if copies:
                    c = self.load(further(first, v), t)
                elif name == "memset":
                    c = C(t, const({"real": 0.0, "int": 0, "bool": False}[b.dtype.kind]))
                else:
                    c = self.convert(args[2], t)
                self.store(further(to, v), c, t=t)

        self.k.loop("i", 0, count, 1, [], one)
        return C(n.type, further(to, count) if name in ("copy", "copy_n") else None)


def element_type(d: Any) -> CType:
    if d.kind == "bool":
        return CType("bool", 8)
    if d.kind == "real":
        return CType("real", d.bits) if d.name in ("f32", "f64") else CType("uint", max(8, d.bits))
    return CType("int" if d.name[0] == "i" else "uint", d.bits)


def plain_callee(n: Node) -> Node:
    n = plain(n)
    return plain_callee(n.args[0]) if n.op == "cast" else n
