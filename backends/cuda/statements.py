"""Statements of CUDA kernels: branches and early ends as conditions of a path, functions where they
are called. Both sides of a branch are read; what they leave in variables is joined."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from opwright.backends.cpp.clang import CType, Node
from opwright.backends.cuda.expressions import Expressions
from opwright.backends.cuda.values import Pointer, Sym, Vector, dtype_of
from opwright.ir.expr import FALSE, TRUE, Expr, call, conjunction, conjuncts, const
from opwright.ir.tile import Buffer

DEPTH = 24  # of calls
SHARED = 227 << 10  # bytes that a block may have, on the devices that have most


def _bytes(b: Buffer) -> int:
    """Bytes of shared memory, as far as they are numbers."""
    return math.prod(int(e.attr) for e in b.shape if e.op == "const") * b.dtype.bytes


class Ends:
    """Where threads leave a block early: conditions relative to its beginning."""

    __slots__ = ("breaks", "continues", "returns")

    def __init__(self, returns: Expr = FALSE, continues: Expr = FALSE, breaks: Expr = FALSE):
        self.returns, self.continues, self.breaks = returns, continues, breaks

    @property
    def any(self) -> Expr:
        return call("or", call("or", self.returns, self.continues), self.breaks)

    def under(self, cond: Expr) -> Ends:
        """The same inside of a condition."""
        found = (self.returns, self.continues, self.breaks)
        return Ends(*(call("and", cond, x) if x is not TRUE else cond for x in found))

    def also(self, other: Ends) -> Ends:
        return Ends(
            call("or", self.returns, other.returns),
            call("or", self.continues, other.continues),
            call("or", self.breaks, other.breaks),
        )


class Statements(Expressions):
    """Executes statements; `loop` is that of the reader of loops."""

    shared: dict[int, Pointer]
    depth: int
    results: list[tuple[Expr, Sym]]  # of the function that is read: under which path, which value
    result_type: CType
    dynamic: Expr | None  # bytes of shared memory that the launch gives
    base: int  # length of the path where it began
    loop: Callable[[Node], Ends]

    def block(self, statements: tuple[Node, ...]) -> Ends:
        ends = Ends()
        height = len(self.path)
        gone: list[tuple[Expr, dict[int, Sym]]] = []  # who went on to the next trip, with what
        for s in statements:
            if ends.any is TRUE:
                break
            found = self.statement(s)
            ends = ends.also(found)
            if found.any not in (FALSE, TRUE):
                moved = call("or", found.continues, found.breaks)
                if moved is not FALSE:
                    gone.append((self.settled(moved), dict(self.env)))
                self.path.append(self.settled(~found.any))
        del self.path[height:]
        for cond, held in reversed(gone):
            self.env = self.joined(cond, held, self.env, held)
        return ends

    def statement(self, n: Node) -> Ends:
        self.at(n.line)
        op = n.op
        if op in ("block", "group"):
            return self.block(n.args)
        if op == "empty":
            return Ends()
        if op == "declare":
            self.declare(n)
            return Ends()
        if op == "shared":
            self.declare_shared(n)
            return Ends()
        if op == "expr":
            inner = n.args[0]
            while inner.op in ("paren", "cast") and inner.args:
                inner = inner.args[0]
            if inner.op == "call":
                self.call(inner)
            else:
                self.expression(n.args[0])
            return Ends()
        if op == "if":
            return self.branch(n)
        if op == "return":
            if n.args:
                given = n.args[0]
                self.returned(self.convert(self.expression(given), given.type, self.result_type))
            return Ends(returns=TRUE)
        if op == "continue":
            return Ends(continues=TRUE)
        if op == "break":
            return Ends(breaks=TRUE)
        if op in ("for", "while", "do"):
            return self.loop(n)
        if op == "asm":
            raise self.refuse("inline assembly is not read", n.line)
        raise self.refuse(f"the statement {op} is not understood", n.line)

    def declare(self, n: Node) -> None:
        number, _ = n.attr
        self.types[number] = n.type
        if n.type.kind == "array":
            self.env[number] = self.filled(n.type, n.args[0] if n.args else None)
            return
        if not n.args:
            self.env[number] = self.unset(n.type)
            return
        given = n.args[0]
        if n.type.kind == "reference":
            raise self.refuse("a reference", n.line)
        self.env[number] = self.convert(self.expression(given), given.type, n.type)

    def unset(self, t: CType) -> Sym:
        if t.kind == "vector":
            return Vector((None,) * t.count, t)
        return None

    def declare_shared(self, n: Node) -> None:
        number, name, starts = n.attr
        self.types[number] = n.type
        if number not in self.shared:
            shape, t = [], n.type
            while t.kind == "array":
                shape.append(const(t.count))
                t = t.of or t
            scalar = t.scalar
            if scalar.kind not in ("real", "int", "uint", "bool"):
                raise self.refuse(f"shared memory of {t}", n.line)
            wide = t.count if t.kind == "vector" else 1
            if any(s.attr == 0 for s in shape):
                if self.dynamic is None or len(shape) != 1:
                    raise self.refuse(f"{name}: the plan's launch has no shared_bytes", n.line)
                shape = [self.dynamic // (scalar.bits // 8)]
            elif wide > 1:
                shape = [*shape[:-1], (shape or [const(1)])[-1] * wide]
            label = f"{self.kernel}_{name}_{len(self.shared)}".replace("__", "_")
            b = Buffer(label, "program", dtype_of(scalar), tuple(shape) or (const(1),))
            held = [b, *(p.buffer for p in self.shared.values())]
            if sum(map(_bytes, held)) > SHARED:
                raise self.refuse(f"{name}: a device has {SHARED} bytes of shared memory", n.line)
            unit = n.type if n.type.kind == "array" else t
            aligned = max(starts, 16 if wide > 1 else 0)
            self.shared[number] = Pointer(b, const(0), unit, (), aligned)
            self.builder.buffer(b)
        self.env[number] = self.shared[number]

    def branch(self, n: Node) -> Ends:
        cond = self.settled(self.truth(self.expression(n.args[0]), n.args[0].type))
        sides = [n.args[1:2], n.args[2:3]]
        if cond.op == "const":
            return self.block(sides[0 if cond.attr else 1])
        before = dict(self.env)
        left: list[tuple[dict[int, Sym], Ends]] = []
        for side, path in zip(sides, (cond, ~cond), strict=True):
            self.env = dict(before)
            self.path.append(path)
            ends = self.block(side) if side else Ends()
            self.path.pop()
            left.append((self.env, ends.under(path)))
        (then, ends_then), (other, ends_other) = left
        self.env = self.joined(cond, then, other, before)
        return ends_then.also(ends_other)

    def joined(
        self, cond: Expr, a: dict[int, Sym], b: dict[int, Sym], known: dict[int, Sym]
    ) -> dict[int, Sym]:
        out = dict(known)
        for number in known:
            x, y = a.get(number), b.get(number)
            if x is not y:
                out[number] = self.choose(cond, x, y, self.types.get(number, CType("real", 32)))
        return out

    # -- functions
    def returned(self, x: Sym) -> None:
        own = [c for p in self.path[self.base :] for c in conjuncts(p)]
        self.results.append((conjunction(own), x))

    def inline(self, n: Node, declared: int) -> Sym:
        """A function of the text, read at this call."""
        f = self.unit.functions[declared]
        if self.depth >= DEPTH:
            raise self.refuse(f"calls of {f.name} that are too deep", n.line)
        for a, (_, name, t) in zip(n.args, f.parameters, strict=True):
            if t.kind == "reference" and isinstance(self.place_of(a), Pointer):
                raise self.refuse(f"{name}: a reference to memory", n.line)
        given = [self.expression(a) for a in n.args]
        saved = (self.results, self.result_type, self.base)
        for x, a, (number, _, t) in zip(given, n.args, f.parameters, strict=True):
            to = t.of if t.kind == "reference" and t.of else t
            self.types[number] = to
            self.env[number] = self.convert(x, a.type, to)
        self.results, self.result_type, self.base = [], f.result, len(self.path)
        self.depth += 1
        self.statement(f.body)
        self.depth -= 1
        out: Sym = self.results[-1][1] if self.results else None
        for cond, x in self.results[-2::-1]:
            out = self.choose(cond, x, out, f.result)
        self.results, self.result_type, self.base = saved
        for k in n.attr[3]:
            self.assign(n.args[k], self.env[f.parameters[k][0]], n.args[k].type)
        self.at(n.line)
        return out


def nodes(n: Node | None) -> Iterator[Node]:
    """Every node of a piece of syntax."""
    if n is None:
        return
    yield n
    for a in n.args:
        if isinstance(a, Node):
            yield from nodes(a)
