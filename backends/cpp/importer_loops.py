"""Loops with a counter in closed form: which variable counts, between which bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from opwright.backends.cpp.clang import CType, Node
from opwright.backends.cpp.importer_structure import (
    STEPS,
    holds,
    names,
    nodes,
    plain,
    statements,
    steps_apart,
    still,
    target,
)
from opwright.backends.cpp.importer_values import WIDE, C, Pointer
from opwright.ir.expr import ZERO, Expr, call, cdiv, const, leaves, maximum, var
from opwright.ir.launch import ImportRefusal
from opwright.ir.polynomial import expression, polynomial

_SYMBOL = var("\0counter")


class Reader(Protocol):
    """What is needed of the reader of statements."""

    env: dict[int, C]
    quiet: int
    unknown: Expr | None

    def statement(self, s: Node) -> None: ...
    def expression(self, n: Node) -> C: ...
    def natural(self, e: Expr) -> bool: ...
    def moves(self, *roots: Node | None) -> set[int]: ...
    def truth(self, c: C) -> Expr: ...
    def check(self, cond: Expr, kind: str, reason: str) -> None: ...
    def refuse(self, what: str, line: int | None = None) -> ImportRefusal: ...


@dataclass(frozen=True, slots=True)
class Counter:
    """variable = lo, lo + step, ... below hi; `down`: = lo, lo - step, ... from hi on.

    `by` is a step that is no number; `statement` is the syntax that steps; a pointer counts the
    elements from `base` on.
    """

    variable: int
    name: str
    type: CType
    lo: Expr
    hi: Expr
    step: int
    down: bool
    by: Expr | None
    statement: Node
    cond: Node
    base: Pointer | None = None

    @property
    def narrow(self) -> bool:
        """Whether the condition computes with the counter in fewer than 64 bits."""
        return any(
            n.op in ("binary", "unary", "cast")
            and n.type.is_integer
            and n.type.bits < WIDE.bits
            and self.variable in names(n)
            for n in nodes(self.cond)
        )

    def holds(self, e: Expr) -> Any:
        """What the variable is where its count is `e`."""
        return e if self.base is None else further(self.base, e)

    def at(self, n: Expr) -> Expr:
        """The counter after so many steps."""
        one: Expr = const(self.step) if self.by is None else self.by
        return self.lo - n * one if self.down else self.lo + n * one


def times_of(c: Counter, natural: Callable[[Expr], bool]) -> Expr:
    """How often the body runs; `natural` says what is evidently not negative."""
    span = c.lo - c.hi + 1 if c.down else c.hi - c.lo
    if c.by is not None:
        count = (span + c.by - 1) // c.by
    else:
        count = span if c.step == 1 else cdiv(span, c.step)
    return count if natural(count) else maximum(count, 0)


def counted(
    m: Reader, cond: Node, steps: list[Node], body: list[Node], line: int
) -> Counter | None:
    """The counter of a loop, or None when there is none in closed form."""
    inside = m.moves(*body, *steps)
    for s in steps:
        moved = m.moves(s)
        if len(moved) != 1 or not moved <= names(cond):
            continue
        (v,) = moved
        if v not in m.env or v in m.moves(*body) or v in m.moves(*(x for x in steps if x is not s)):
            continue
        start = m.env[v]
        base = start.what if isinstance(start.what, Pointer) else None
        lo = start.what if base is None else ZERO
        if not isinstance(lo, Expr) or lo.kind != "int":
            continue
        if (names(cond) | names(s)) & inside - {v}:
            raise m.refuse("a loop whose bound or step its body assigns", line)
        moved_by = step_of(m, s, v)
        if moved_by is None:
            continue
        found = bound_of(m, cond, v, moved_by, line)
        if found is None:
            continue
        bound, down = found
        by = None if moved_by.op == "const" else moved_by
        if by is not None:
            m.check(call("lt", 0, by), "divisor", "the step of a loop is positive")
        number = 1 if by is not None else abs(int(moved_by.attr))
        label = next(n.attr[1] for n in nodes(s) if n.op == "name" and n.attr[0] == v)
        return Counter(v, label, start.type, lo, bound, number, down, by, s, cond, base)
    return None


def further(p: Pointer, by: Expr) -> Pointer:
    """The pointer so many elements further on."""
    return Pointer(p.buffer, p.lead, p.offset + by)


def symbolic(c: C) -> C:
    """A counter at any time; of a pointer the elements that it has passed."""
    return C(c.type, further(c.what, _SYMBOL) if isinstance(c.what, Pointer) else _SYMBOL)


def step_of(m: Reader, s: Node, v: int) -> Expr | None:
    """What one step adds to the variable."""
    n = plain(s)
    if n.op == "unary" and n.attr in STEPS:
        return const(1 if n.attr.endswith("+") else -1)
    old = m.env[v]
    m.quiet += 1
    try:
        m.env[v] = symbolic(old)
        m.expression(n)
        new = m.env[v].what
    finally:
        m.env[v] = old
        m.quiet -= 1
    if isinstance(new, Pointer) and isinstance(old.what, Pointer):
        if (new.buffer, new.lead) != (old.what.buffer, old.what.lead):
            return None
        new = new.offset - old.what.offset
    if not isinstance(new, Expr):
        return None
    p = polynomial(new - _SYMBOL)
    if any(_SYMBOL in leaves(x, "var") for k in p for x in k):
        return None
    by = expression(p)
    return None if by.op == "const" and not by.attr else by


def bound_of(m: Reader, cond: Node, v: int, by: Expr, line: int) -> tuple[Expr, bool] | None:
    """(hi, False) for a counter that runs below hi, (lo, True) for one that runs down to lo."""
    old = m.env[v]
    m.unknown = _SYMBOL
    try:
        m.env[v] = symbolic(old)
        e = m.truth(m.expression(cond))
    finally:
        m.env[v] = old
        m.unknown = None
    for x in leaves(e, "value"):
        load = x.attr
        if load.op != "load" or load.attr.buffer.role != "in":
            raise m.refuse("a loop whose bound is read from memory that may change", line)
    return bound_in(m, e, ZERO if isinstance(old.what, Pointer) else old.what, by)


def bound_in(m: Reader, e: Expr, start: Expr, by: Expr) -> tuple[Expr, bool] | None:
    """The bound that a condition over the counter sets; of two the one that is met first."""
    down = by.op == "const" and by.attr < 0
    if e.op == "and":
        sides = [bound_in(m, x, start, by) for x in e.args]
        if sides[0] is None or sides[1] is None:
            return None
        return call("max" if down else "min", sides[0][0], sides[1][0]), down
    if e.op == "not" and e.args[0].op in ("lt", "le"):
        a, b = e.args[0].args
        e = call("le" if e.args[0].op == "lt" else "lt", b, a)
    if e.op == "not" and e.args[0].op == "eq":
        e = call("ne", *e.args[0].args)
    if e.op not in ("lt", "le", "ne"):
        return None
    a, b = e.args
    if e.op == "ne":
        gap = polynomial(b - a)
        weight = gap.pop((_SYMBOL,), 0)
        one = abs(by.attr if by.op == "const" else 0) == 1
        if not one or abs(weight) != 1 or any(not _free(x) for k in gap for x in k):
            return None
        other = expression({k: -c * weight for k, c in gap.items()})
        reached = call("le", other, start) if down else call("le", start, other)
        m.check(reached, "wrap", "the counter reaches the bound that it is compared with")
        return (other + 1, True) if down else (other, False)
    if a is _SYMBOL and _free(b) and not down:
        return (b if e.op == "lt" else b + 1), False
    if b is _SYMBOL and _free(a) and down:
        return (a + 1 if e.op == "lt" else a), True
    p = polynomial(b - a)
    weight = p.pop((_SYMBOL,), 0)
    if any(not _free(x) for k in p for x in k) or weight == 0 or (weight > 0) != down:
        return None
    rest = expression(p)
    if e.op == "le":
        rest = rest + 1  # weight * i + rest > 0
    if down:  # i > -rest / weight
        return call("floordiv", call("neg", rest), weight) + 1, True
    return cdiv(rest, -weight), False


def _free(e: Expr) -> bool:
    return _SYMBOL not in leaves(e, "var")


def increment(m: Reader, v: int, body: list[Node], inside: set[int]) -> Expr | None:
    """What every trip adds to a variable that is stepped once, whatever happens."""
    own = [s for s in body if v in m.moves(s)]
    if len(own) == 1 and own[0].op == "for":
        return _inner_steps(m, v, body[: body.index(own[0])], own[0], inside)
    if len(own) != 1 or own[0].op != "expr":
        return None
    n = plain(own[0].args[0])
    c = m.env[v]
    steps = (n.op == "unary" and n.attr in STEPS) or n.op == "assign"
    if not steps or target(n.args[0]) != v or m.moves(*n.args):
        return None
    if isinstance(c.what, Pointer):
        pass
    elif not isinstance(c.what, Expr) or c.what.kind != "int":
        return None
    if names(own[0]) & inside - {v} or any(x.op in ("index", "call", "invoke") for x in nodes(n)):
        return None
    used = names(own[0])
    if n.op == "assign" and (n.attr not in ("+", "-", "") or not used <= set(m.env)):
        return None
    if n.op == "assign" and not n.attr and v not in names(n.args[1]):
        return None
    return step_of(m, n, v)


def _inner_steps(m: Reader, v: int, first: list[Node], s: Node, inside: set[int]) -> Expr | None:
    """What a loop inside adds to a variable, if it runs as often in every trip of the outer one."""
    init, cond, step, body = s.args
    if cond is None or step is None:
        return None
    inner = [y for x in statements(body) for y in steps_apart(x)]
    if holds(inner, ("break", "continue", "return"), False) is not None:
        return None
    before = dict(m.env)
    m.quiet += 1
    try:
        for u in inside - {v}:
            _vary(m, u)
        for x in (*(x for x in first if x.op == "declare"), *statements(init)):
            if x.op == "declare" and not (_counts(x.type) and still(x)):
                m.env.pop(x.attr[0], None)
            else:
                m.statement(x)
        steps = comma(step)
        c = counted(m, cond, steps, inner, s.line)
        if c is None or c.variable == v:
            return None
        rest = (Node("expr", s.type, (x,), None, s.line) for x in steps if x is not c.statement)
        whole = [*inner, *rest]
        by = increment(m, v, whole, inside | m.moves(*whole) | {c.variable})
        found = None if by is None else by * times_of(c, m.natural)
        varying = found is None or any("\0" in x.attr for x in leaves(found, "var"))
        return None if varying else found
    except ImportRefusal:
        return None
    finally:
        m.quiet -= 1
        m.env.clear()
        m.env.update(before)


def _counts(t: CType) -> bool:
    return t.is_integer or t.kind == "pointer"


def _vary(m: Reader, u: int) -> None:
    """A variable of which nothing is known but where it points."""
    c = m.env.get(u)
    unknown = var(f"\0{u}")
    if c is not None and isinstance(c.what, Pointer):
        m.env[u] = C(c.type, further(c.what, unknown))
    elif c is not None and isinstance(c.what, Expr) and c.what.kind == "int":
        m.env[u] = C(c.type, unknown)
    else:
        m.env.pop(u, None)


def comma(step: Node | None) -> list[Node]:
    """The expressions of a loop's step."""
    if step is None:
        return []
    n = plain(step.args[0]) if step.op == "expr" else plain(step)
    if n.op == "binary" and n.attr == ",":
        return [*comma(n.args[0]), *comma(n.args[1])]
    return [n]
