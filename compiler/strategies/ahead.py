"""Which accesses of a kernel are asked for ahead of time, from where they stand alone.

The hardware fetches ahead along one stream of addresses and stops at the end of a page. A hint on a
load that is the first to touch its memory looks further along the same loop; one on a load that
comes back to a row, which a cache holds by then, asks for the row of the next program.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from opwright.ir.expr import TRUE, Expr, free_vars, pid, walk
from opwright.ir.tile import Def, For, If, Kernel, Load, Stmt, Store, lanes

NEXT = "pid0"  # programs that follow each other differ in it


def ahead(
    kernel: Kernel,
    near: int,
    following: bool = False,
    claim: int = 0,
    homes: Mapping[str, tuple[str, tuple[Expr, ...]]] | None = None,
) -> dict[str, tuple[str, int]]:
    """The prefetch hints of a kernel: `near` bytes ahead in loops that touch memory first, the next
    program's in the first loop that comes back to it with `following`; `claim` bytes ahead for what
    is stored, where a loop stores it first."""
    out: dict[str, tuple[str, int]] = {}
    touched: dict[str, int] = {}
    for loop in _innermost(kernel.body):
        here: set[str] = set()
        for s in loop.body:
            if isinstance(s, Store):
                name = (homes or {}).get(s.buffer.name, (s.buffer.name,))[0]
                own = s.buffer.role != "program" or s.buffer.name in (homes or {})
                if claim and own and name not in touched and _moves(s.index, loop):
                    step = loop.step * _width(s.index, loop) * s.buffer.dtype.bytes
                    if s.mask is TRUE:
                        out[s.name] = (loop.variable, max(1, -(-claim // step)))
                        here.add(name)
            if not isinstance(s, Def) or s.value.op != "load":
                continue
            m: Load = s.value.attr
            if m.mask is not TRUE or not _streams(m, loop):
                continue
            here.add(m.buffer.name)
            before = touched.get(m.buffer.name, 0)
            step = loop.step * _width(m.index, loop) * m.buffer.dtype.bytes
            if near and not before:
                out[s.value.name] = (loop.variable, max(1, -(-near // step)))
            if following and before == 1:
                out[s.value.name] = (NEXT, 1)
        for name in here:
            touched[name] = touched.get(name, 0) + 1
    return out


def _innermost(body: Iterable[Stmt]) -> Iterator[For]:
    for s in body:
        if isinstance(s, For):
            inside = list(_innermost(s.body))
            yield from inside or [s]
        elif isinstance(s, If):
            yield from _innermost(s.then)


def _streams(m: Load, loop: For) -> bool:
    """Whether a load walks with its loop over memory that programs do not share."""
    if m.buffer.role not in ("in", "plan") or not lanes(*m.index) or _given(m):
        return False
    own = any(x is pid(n) for e in m.index for x in walk(e) for n in range(3))
    return own and _moves(m.index, loop)


def _moves(index: tuple[Expr, ...], loop: For) -> bool:
    """Whether lanes side by side walk with the loop."""
    return bool(lanes(*index)) and any(loop.variable in free_vars(e) for e in index)


def _width(index: tuple[Expr, ...], loop: For) -> int:
    """Elements side by side that one step of the loop passes."""
    if loop.variable in free_vars(index[-1]):
        return 1
    return max((a.extent for a in lanes(index[-1])), default=1)


def _given(m: Load) -> bool:
    """Whether an index is read from memory: it cannot be told ahead."""
    return any(x.op == "value" for e in m.index for x in walk(e))
