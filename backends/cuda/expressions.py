"""Expressions of CUDA kernels: names, addresses, arithmetic, assignments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from opwright.backends.cpp.clang import CType, Node
from opwright.backends.cuda.calls import ATOMICS, Calls
from opwright.backends.cuda.frontend import PLACES
from opwright.backends.cuda.stub import FIELDS
from opwright.backends.cuda.values import Cells, Lost, Pointer, Sym, Vector, dtype_of
from opwright.ir.expr import Expr, call, const
from opwright.ir.tile import Value

COMPARISONS = {"<": "lt", "<=": "le", "==": "eq", "!=": "ne"}
SWAPPED = {">": "<", ">=": "<="}
EFFECTS = ("assign", "invoke")


class Expressions(Calls):
    """Evaluates expressions under the path; variables are by declaration."""

    env: dict[int, Sym]
    types: dict[int, CType]
    places: dict[str, dict[str, Expr]]
    shared: dict[int, Pointer]
    outer: Mapping[int, Node]
    declare_shared: Callable[[Node], None]

    def expression(self, n: Node) -> Sym:
        self.at(n.line)
        made = getattr(self, f"on_{n.op}", None)
        if made is None:
            raise self.refuse(f"the expression {n.op} is not understood", n.line)
        return made(n)  # type: ignore[no-any-return]

    def on_int(self, n: Node) -> Sym:
        return const(n.attr)

    def on_real(self, n: Node) -> Sym:
        return self.builder.full(float(n.attr), dtype_of(n.type))

    def on_paren(self, n: Node) -> Sym:
        return self.expression(n.args[0])

    def on_name(self, n: Node) -> Sym:
        number, name = n.attr
        if number not in self.env and number in self.outer:
            self.declare_shared(self.outer[number])
        if number not in self.env:
            raise self.refuse(f"the name {name}", n.line)
        if (place := self.shared_scalar(n)) is not None:
            return self.load(place)
        if isinstance(self.env[number], Lost):
            raise self.refuse(f"{name} after a loop that threads leave early", n.line)
        return self.read(self.env[number], self.types.get(number, n.type))

    def shared_scalar(self, n: Node) -> Pointer | None:
        """The place of a variable in shared memory that is no array."""
        number = n.attr[0]
        shared = number in self.shared and self.types[number].kind != "array"
        return self.shared[number] if shared else None

    def on_place(self, n: Node) -> Sym:
        if n.attr == "warpSize":
            return const(32)
        raise self.refuse(f"{n.attr} as a whole", n.line)

    def on_member(self, n: Node) -> Sym:
        base = n.args[0]
        while base.op == "paren":
            base = base.args[0]
        if base.op == "place" and base.attr in PLACES:
            return self.places[base.attr][n.attr]
        if base.op in ("index", "unary") and (field := self.component(base, n.attr)):
            return self.load(field)
        x = self.expression(base)
        if not isinstance(x, Vector) or x.raw or n.attr not in FIELDS[: len(x.parts)]:
            raise self.refuse(f"the member {n.attr}", n.line)
        return self.read(x.parts[FIELDS.index(n.attr)], n.type)

    def component(self, base: Node, name: str) -> Pointer | None:
        """The address of one component of a vector in memory."""
        p = self.place_of(base)
        if not isinstance(p, Pointer) or p.unit.kind != "vector" or name not in FIELDS:
            return None
        count, raw = self.count(p)
        if raw:
            raise self.refuse(f"the member {name} of something seen as another type")
        self.aligned(p, count)
        return replace(p, offset=p.offset + FIELDS.index(name), unit=p.unit.of or p.unit)

    def on_cast(self, n: Node) -> Sym:
        inner = n.args[0]
        x = self.expression(inner)
        if n.type.kind == "void":
            return None
        return self.convert(x, inner.type, n.type)

    def on_init(self, n: Node) -> Sym:
        if n.type.kind == "vector":
            of = n.type.of or n.type
            parts = [self.convert(self.expression(a), a.type, of) for a in n.args]
            parts += [self.zero(of)] * (n.type.count - len(parts))
            return Vector(tuple(parts), n.type)
        if n.type.kind == "array":
            return self.filled(n.type, n)
        if len(n.args) == 1:
            return self.convert(self.expression(n.args[0]), n.args[0].type, n.type)
        if not n.args and n.type.kind in ("real", "int", "uint", "bool"):
            return self.zero(n.type)
        raise self.refuse("an initialiser", n.line)

    def zero(self, t: CType) -> Sym:
        if t.kind == "real":
            return self.builder.full(0.0, dtype_of(t))
        return const(False) if t.kind == "bool" else const(0)

    def filled(self, t: CType, n: Node | None) -> Sym:
        """A local array; what an initialiser leaves out is zero."""
        of = t.of or t
        parts: list[Sym] = []
        for k in range(t.count):
            given = n.args[k] if n is not None and k < len(n.args) else None
            if of.kind == "array":
                parts.append(self.filled(of, given or (n and Node("init", of, (), None, n.line))))
            elif given is not None:
                parts.append(self.convert(self.expression(given), given.type, of))
            else:
                parts.append(None if n is None else self.zero(of))
        return Cells(tuple(parts), of)

    # -- arithmetic
    def on_binary(self, n: Node) -> Sym:
        op = str(n.attr)
        if op in ("&&", "||"):
            return self.logical(n, op)
        if op == ",":
            self.expression(n.args[0])
            return self.expression(n.args[1])
        a, b = (self.expression(x) for x in n.args)
        return self.binary(op, a, n.args[0].type, b, n.args[1].type, n.type, n.line)

    def binary(self, op: str, a: Sym, ta: CType, b: Sym, tb: CType, t: CType, line: int) -> Sym:
        a, b = self.read(a, ta), self.read(b, tb)
        if isinstance(a, Pointer) or isinstance(b, Pointer):
            return self.pointers(op, a, b)
        if op in SWAPPED:
            return self.binary(SWAPPED[op], b, tb, a, ta, t, line)
        if op in COMPARISONS:
            return self.compared(COMPARISONS[op], a, b)
        if t.kind == "real":
            to = dtype_of(t)
            return self.reals(op, self.value(a, to), self.value(b, to))
        if isinstance(a, Expr) and isinstance(b, Expr):
            if a.kind == b.kind == "bool" and op in ("&", "|", "^"):
                return (
                    call({"&": "and", "|": "or"}.get(op, "or"), a, b)
                    if op != "^"
                    else call("or", call("and", a, ~b), call("and", ~a, b))
                )
            a, b = self.counted(a), self.counted(b)
            return self.integers(op, a, b, t)
        raise self.refuse(f"the operator {op}", line)

    def counted(self, e: Expr) -> Expr:
        return call("select", e, 1, 0) if e.kind == "bool" else e

    def compared(self, op: str, a: Sym, b: Sym) -> Expr:
        if isinstance(a, Expr) and isinstance(b, Expr):
            if a.kind == b.kind == "bool":
                same = call("or", call("and", a, b), call("and", ~a, ~b))
                if op not in ("eq", "ne"):
                    raise self.refuse("an order of truth values")
                return same if op == "eq" else ~same
            return call(op, self.counted(a), self.counted(b))
        like = a if isinstance(a, Value) else b
        if not isinstance(like, Value):
            raise self.refuse("a comparison")
        x, y = self.value(a, like.dtype), self.value(b, like.dtype)
        return self.leaf(self.builder.ew(op, x, y))

    def pointers(self, op: str, a: Sym, b: Sym) -> Sym:
        if op == "+" and isinstance(b, Pointer):
            a, b = b, a
        if op in ("+", "-") and isinstance(a, Pointer) and isinstance(b, Expr):
            return self.moved(a, b if op == "+" else -b)
        raise self.refuse(f"the operator {op} on addresses")

    def logical(self, n: Node, op: str) -> Sym:
        left = self.settled(self.truth(self.expression(n.args[0]), n.args[0].type))
        if any(has_effects(x) for x in n.args[1:]):
            raise self.refuse(f"an effect behind {op}", n.line)
        self.path.append(left if op == "&&" else ~left)
        right = self.settled(self.truth(self.expression(n.args[1]), n.args[1].type))
        self.path.pop()
        return call("and" if op == "&&" else "or", left, right)

    def on_cond(self, n: Node) -> Sym:
        cond = self.settled(self.truth(self.expression(n.args[0]), n.args[0].type))
        if cond.op == "const":
            chosen = n.args[1 if cond.attr else 2]
            return self.convert(self.expression(chosen), chosen.type, n.type)
        sides: list[Sym] = []
        for x, path in zip(n.args[1:], (cond, ~cond), strict=True):
            if has_effects(x):
                raise self.refuse("an effect inside of ?:", n.line)
            self.path.append(path)
            sides.append(self.convert(self.expression(x), x.type, n.type))
            self.path.pop()
        return self.choose(cond, sides[0], sides[1], n.type)

    def on_unary(self, n: Node) -> Sym:
        op = str(n.attr)
        arg = n.args[0]
        if op in ("++", "--", "p++", "p--"):
            old = self.expression(arg)
            one: Sym = const(1)
            if n.type.kind == "real":
                one = self.builder.full(1.0, dtype_of(n.type))
            new = self.binary("+" if "+" in op else "-", old, arg.type, one, arg.type,
                              arg.type, n.line)  # fmt: skip
            self.assign(arg, new, arg.type)
            return old if op.startswith("p") else new
        if op == "&":
            p = self.place_of(arg)
            if not isinstance(p, Pointer):
                raise self.refuse("the address of a variable", n.line)
            return p
        if op == "*":
            return self.load(self.address(arg))
        x = self.read(self.expression(arg), arg.type)
        if op == "!":
            return ~self.truth(x, arg.type)
        if op == "+":
            return x
        if op == "-" and isinstance(x, Value):
            if x.op == "full":
                return self.builder.full(-x.attr, x.dtype)
            return self.builder.ew("neg", x)
        if op == "-" and isinstance(x, Expr):
            return self.fitting(-self.counted(x), n.type)
        if op == "~" and isinstance(x, Expr):
            top = const((1 << n.type.bits) - 1 if n.type.kind == "uint" else -1)
            return top - self.counted(x)
        raise self.refuse(f"the operator {op}", n.line)

    # -- places
    def on_index(self, n: Node) -> Sym:
        p = self.place_of(n)
        if isinstance(p, Pointer):
            if p.unit.kind == "array":
                return p
            return self.load(p)
        return self.read(p, n.type)

    def on_call(self, n: Node) -> Sym:
        if n.attr[0] in (*ATOMICS, "atomicSub"):
            raise self.refuse(f"the value that {n.attr[0]} gives back", n.line)
        return self.call(n)

    def place_of(self, n: Node) -> Sym:
        """An address, where an expression is an element of memory; else its value."""
        while n.op == "paren":
            n = n.args[0]
        if n.op == "unary" and n.attr == "*":
            return self.address(n.args[0])
        if n.op == "name" and (place := self.shared_scalar(n)) is not None:
            return place
        if n.op != "index":
            return self.expression(n)
        base, at = n.args
        while base.op in ("paren", "cast") and not (base.op == "cast" and base.attr):
            base = base.args[0]
        x = self.place_of(base) if base.op == "index" else self.expression(base)
        i = self.expression(at)
        if not isinstance(i, Expr) or i.kind != "int":
            raise self.refuse("an index that is no integer", n.line)
        if isinstance(x, Pointer):
            return self.further(x, i)
        if isinstance(x, Cells):
            if i.op != "const":
                return self.any_cell(x, i)
            if not 0 <= i.attr < len(x.parts):
                self.check(const(False), "mask", f"{i.attr} is an index of {len(x.parts)} elements")
                return None
            return x.parts[int(i.attr)]
        raise self.refuse("an index of something that is no memory", n.line)

    def further(self, x: Pointer, i: Expr) -> Pointer:
        """Element i of what an address points to."""
        rank = len(x.buffer.shape)
        if x.unit.kind == "array" and x.buffer.role == "program":
            if len(x.prefix) + 1 < rank:
                return replace(x, prefix=(*x.prefix, x.offset + i), offset=const(0),
                               unit=x.unit.of or x.unit)  # fmt: skip
            unit = x.unit.of or x.unit
            n = unit.count if unit.kind == "vector" else 1
            return replace(x, offset=x.offset + (i * n if n > 1 else i), unit=unit)
        return self.moved(x, i)

    def any_cell(self, x: Cells, i: Expr) -> Sym:
        """An element of a local array at an index that differs between threads."""
        inside = call("and", call("le", 0, i), call("lt", i, len(x.parts)))
        self.check(inside, "mask", f"an index of {len(x.parts)} elements is in bounds")
        out = x.parts[-1]
        for k in range(len(x.parts) - 2, -1, -1):
            out = self.choose(call("eq", i, k), x.parts[k], out, x.type)
        return out

    def on_assign(self, n: Node) -> Sym:
        target, given = n.args
        x = self.expression(given)
        if n.attr:
            old = self.expression(target)
            wide = common(target.type, given.type) if n.attr not in ("<<", ">>") else target.type
            if isinstance(old, Pointer):
                x = self.pointers(str(n.attr), old, x)
            else:
                a, b = self.convert(old, target.type, wide), self.convert(x, given.type, wide)
                x = self.binary(str(n.attr), a, wide, b, wide, wide, n.line)
            x = self.convert(x, wide, target.type)
        else:
            x = self.convert(x, given.type, target.type)
        self.assign(target, x, target.type)
        return x

    def assign(self, n: Node, x: Sym, t: CType) -> None:
        while n.op == "paren":
            n = n.args[0]
        if n.op == "name" and (place := self.shared_scalar(n)) is not None:
            self.store(place, x, t)
            return
        if n.op == "name":
            self.env[n.attr[0]] = x
            return
        if n.op == "member":
            base = n.args[0]
            if base.op in ("index", "unary") and (field := self.component(base, n.attr)):
                self.store(field, x, t)
                return
            old = self.expression(base)
            if isinstance(old, Vector) and n.attr in FIELDS[: len(old.parts)]:
                parts = list(old.parts)
                parts[FIELDS.index(n.attr)] = x
                self.assign(base, replace(old, parts=tuple(parts)), base.type)
                return
        if n.op == "index":
            base, at = n.args
            while base.op in ("paren", "cast") and not (base.op == "cast" and base.attr):
                base = base.args[0]
            whole = self.place_of(base) if base.op == "index" else self.expression(base)
            if isinstance(whole, Cells):
                self.assign(base, self.with_cell(whole, self.expression(at), x), base.type)
                return
        p = self.place_of(n)
        if not isinstance(p, Pointer):
            raise self.refuse("an assignment to something that is no place", n.line)
        self.store(p, x, t)

    def with_cell(self, whole: Cells, i: Sym, x: Sym) -> Cells:
        if not isinstance(i, Expr):
            raise self.refuse("an index that is no integer")
        parts = list(whole.parts)
        if i.op == "const":
            if not 0 <= i.attr < len(parts):
                self.check(const(False), "mask", f"{i.attr} is an index of {len(parts)} elements")
                return whole
            parts[i.attr] = x
            return replace(whole, parts=tuple(parts))
        inside = call("and", call("le", 0, i), call("lt", i, len(parts)))
        self.check(inside, "mask", f"an index of {len(parts)} elements is in bounds")
        for k, old in enumerate(parts):
            parts[k] = self.choose(call("eq", i, k), x, old, whole.type)
        return replace(whole, parts=tuple(parts))


def common(a: CType, b: CType) -> CType:
    """The type in which two operands are combined."""
    if a.kind == "pointer" or b.kind not in ("int", "uint", "bool", "real"):
        return a
    if "real" in (a.kind, b.kind):
        found = [t for t in (a, b) if t.kind == "real"]
        return max(found, key=lambda t: t.bits)
    wide = [t for t in (a, b) if t.kind != "bool" and t.bits >= 32]
    if not wide:
        return CType("int", 32)
    bits = max(t.bits for t in wide)
    unsigned = any(t.kind == "uint" and t.bits == bits for t in wide)
    return CType("uint" if unsigned else "int", bits)


def has_effects(n: Node) -> bool:
    """Whether an expression writes, or exchanges values with other threads."""
    if n.op in EFFECTS or (n.op == "unary" and n.attr in ("++", "--", "p++", "p--")):
        return True
    if n.op == "call":
        name, declared, _, changed = n.attr
        if declared is not None and changed:
            return True
        if name.startswith(("__shfl", "atomic", "__sync", "__st", "__any", "__all")):
            return True
    return any(has_effects(a) for a in n.args if isinstance(a, Node))
