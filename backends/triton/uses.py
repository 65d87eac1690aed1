"""What the printer must know of a kernel before it prints: who uses a value, in which order the
axes of tensors stand, which index expressions deserve a name and where they can have one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from opwright.ir.expr import TRUE, Expr, leaves, walk
from opwright.ir.tile import (
    Atomic,
    Axis,
    Buffer,
    Check,
    Def,
    For,
    If,
    Kernel,
    Load,
    Stmt,
    Store,
    Value,
    lanes,
    row_major,
    statements,
)
from opwright.ir.tiletext import axes_of

_MADE_UP = re.compile(r"t(_\d+)?")


def has_own_name(v: Value) -> bool:
    """Whether somebody chose the value's name; `t` and `t_3` are the builder's."""
    return _MADE_UP.fullmatch(v.name) is None


def accesses(body: Iterable[Stmt]) -> Iterator[tuple[Buffer, tuple[Expr, ...], Expr]]:
    """Buffer, index tuple and mask of every access, inner ones included."""
    for s in statements(body):
        if isinstance(s, Def) and s.value.op == "load":
            what: Load = s.value.attr
            yield what.buffer, what.index, what.mask
        elif isinstance(s, Store | Atomic):
            yield s.buffer, s.index, s.mask


@dataclass(slots=True)
class Uses:
    """Of each value: how often it is used, and the block that holds all its uses (by identity of
    the statement list, 0 for several blocks)."""

    count: Counter[Value] = field(default_factory=Counter)
    block: dict[Value, int] = field(default_factory=dict)
    made: dict[Value, int] = field(default_factory=dict)

    def once(self, v: Value) -> bool:
        """Used once, in the block that defines it."""
        return self.count[v] == 1 and self.block.get(v) == self.made.get(v)


def uses_of(kernel: Kernel) -> Uses:
    out = Uses()

    def use(v: Value, where: int) -> None:
        out.count[v] += 1
        out.block[v] = where if out.block.get(v, where) == where else 0

    def expr(e: Expr, where: int) -> None:
        for x in walk(e):
            for a in x.args:
                if a.op == "value":
                    use(a.attr, where)
        if e.op == "value":
            use(e.attr, where)

    def block(body: tuple[Stmt, ...], where: int) -> None:
        for n, s in enumerate(body):
            inner = where * 1000 + 2 * n + 1
            if isinstance(s, Def):
                v = s.value
                out.made[v] = where
                for a in v.args:
                    use(a, where)
                if v.op == "index":
                    expr(v.attr, where)
                elif v.op == "load":
                    for e in (*v.attr.index, v.attr.mask):
                        expr(e, where)
                elif v.op == "view":
                    for _, e in v.attr:
                        expr(e, where)
            elif isinstance(s, Store | Atomic):
                use(s.value, where)
                for e in (*s.index, s.mask):
                    expr(e, where)
            elif isinstance(s, For):
                for e in (s.lo, s.hi):
                    expr(e, where)
                for v in s.inits:
                    use(v, where)
                for v in s.params:
                    out.made[v] = inner
                for v in s.results:
                    out.made[v] = where
                block(s.body, inner)
                for v in s.yields:
                    use(v, inner)
            elif isinstance(s, If):
                expr(s.cond, where)
                block(s.then, inner)
                block(s.other, inner + 1)
            elif not isinstance(s, Check):
                raise TypeError(f"unknown statement {s}")

    block(kernel.body, 1)
    return out


def axis_order(kernel: Kernel) -> dict[Axis, int]:
    """The order of dimensions in every tensor: rows of a dot before its depth before its columns,
    otherwise as the axes first appear."""
    axes = axes_of(kernel)
    before: dict[Axis, set[Axis]] = {a: set() for a in axes}
    for s in statements(kernel.body):
        if isinstance(s, Def) and s.value.op == "dot":
            a, b = (set(x.axes) for x in s.value.args)
            depth = s.value.attr.axis
            batch, left, right = (a & b) - {depth}, a - b, b - a
            for first, then in ((batch, left), (left, {depth}), ({depth}, right)):
                for x in then:
                    if all(not _reaches(before, x, y) for y in first):
                        before[x] |= first
    order: dict[Axis, int] = {}

    def place(a: Axis) -> None:
        if a not in order:
            for b in axes:
                if b in before[a]:
                    place(b)
            order[a] = len(order)

    for one in axes:
        place(one)
    return order


def _reaches(before: dict[Axis, set[Axis]], a: Axis, b: Axis) -> bool:
    """Whether a must come before b already."""
    todo, seen = [b], set()
    while todo:
        x = todo.pop()
        if x is a or x == a:
            return True
        if x not in seen:
            seen.add(x)
            todo += before[x]
    return False


def is_plain(e: Expr) -> bool:
    """Nothing that a name would make shorter."""
    return not e.args


def free_at(e: Expr, loops: set[str]) -> bool:
    """Whether the expression has a value where these loops are around, whatever was computed."""
    return not leaves(e, "value") and all(x.attr in loops for x in leaves(e, "var"))


def named_at(body: tuple[Stmt, ...], loops: set[str], done: set[Expr]) -> list[tuple[Expr, str]]:
    """Index expressions below that get a name at the head of this block: (expression, what for).

    Offsets of a tile and masks when they are composed, and uniform parts that occur repeatedly.
    """
    count: Counter[Expr] = Counter()
    above: dict[Expr, set[Expr]] = {}
    offsets: dict[Expr, None] = {}
    masks: dict[Expr, None] = {}
    for b, index, mask in accesses(body):
        strides = b.strides if b.strides is not None else row_major(b.shape)
        for e in (*index, mask, *strides):
            for x in walk(e):
                count[x] += 1
                for y in x.args:
                    above.setdefault(y, set()).add(x)
        for e in index:
            if e.args and lanes(e):
                offsets[e] = None
        if mask is not TRUE and mask.args and lanes(mask):
            masks[mask] = None
    for s in statements(body):
        for e in (s.lo, s.hi) if isinstance(s, For) else ():
            for x in walk(e):
                count[x] += 1
    wanted = [(e, "offsets") for e in offsets] + [(e, "mask") for e in masks]
    shared = [
        (e, "start")
        for e, n in count.items()
        if n > 1
        and e.kind == "int"
        and e.args
        and not lanes(e)
        and _heavy(e)
        and all(count[x] < n for x in above.get(e, ()))
    ]
    found = [(e, what) for e, what in (*shared, *wanted) if e not in done and free_at(e, loops)]
    return list(dict.fromkeys(found))


def _heavy(e: Expr) -> bool:
    return sum(1 for x in walk(e) if x.args) > 1 or e.op in ("floordiv", "mod", "min", "max")
