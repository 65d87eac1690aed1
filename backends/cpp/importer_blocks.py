"""Statements of one block: where they stand, and which accesses may meet in memory."""

from __future__ import annotations

from functools import lru_cache

from opwright.backends.cpp.importer_polynomials import canonical
from opwright.ir.expr import Expr, const, leaves, substitute
from opwright.ir.polynomial import polynomial
from opwright.ir.tile import Atomic, Def, For, If, Stmt, Store, Value, lanes, statements

Access = tuple[str, bool, tuple[Expr, ...]]  # buffer, whether it writes, index


class Block:
    """A list of statements with their places."""

    def __init__(self, body: tuple[Stmt, ...]) -> None:
        self.body = body
        self.at = {s: n for n, s in enumerate(body)}
        self.defs = {s.value: n for n, s in enumerate(body) if isinstance(s, Def)}

    def of(self, x: Stmt | Value) -> int:
        return self.defs[x] if isinstance(x, Value) else self.at[x]


def accesses(s: Stmt) -> list[Access]:
    """Memory that a statement touches, with what stands inside of it."""
    out: list[Access] = []
    for x in statements((s,)):
        if isinstance(x, Def) and x.value.op == "load":
            out.append((x.value.attr.buffer.name, False, x.value.attr.index))
        elif isinstance(x, Store | Atomic):
            out.append((x.buffer.name, True, x.index))
    return out


def conflict(s: Stmt, o: Stmt) -> bool:
    """Whether the order of two statements may matter."""
    inside = isinstance(s, For | If) or isinstance(o, For | If)
    for name, writes, index in accesses(s):
        for other, wrote, at in accesses(o):
            if name != other or not (writes or wrote):
                continue
            if inside or not apart(index, at):
                return True
    return False


def apart(a: tuple[Expr, ...], b: tuple[Expr, ...]) -> bool:
    """Whether two accesses of one iteration surely touch different elements."""
    for x, y in zip(a, b, strict=True):
        first, second = _run(x), _run(y)
        if first is None or second is None:
            continue
        d = canonical(first[0] - second[0])
        # one covers d .. d + span, the other 0 .. span
        if d.op == "const" and (d.attr > second[1] or d.attr + first[1] < 0):
            return True
    return False


@lru_cache(maxsize=4096)
def _run(e: Expr) -> tuple[Expr, int] | None:
    """(start, span) of an index that only grows with its lanes."""
    p = polynomial(canonical(e))
    span = 0
    for m, c in p.items():
        if any(x.op == "lane" for x in m):
            if len(m) > 1 or c < 0:
                return None
            span += c * (m[0].attr.extent - 1)
        elif lanes(*m):
            return None
    still = {x: const(0) for x in leaves(e, "lane")}
    return substitute(e, still), span
