"""Programs without the values and the memory that nothing they store is made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from opwright.ir.tile import Atomic, Def, For, If, Kernel, Stmt, Store, Value, statements
from opwright.ir.tileops import inside, operands


def pruned(kernel: Kernel) -> tuple[Kernel, frozenset[str]]:
    """The kernel without what nothing else is made of, without checks and barriers; buffers of the
    program that are still read."""
    live: set[Value] = set()
    read: set[str] = set()

    def need(*wanted: Value) -> None:
        work = list(wanted)
        while work:
            v = work.pop()
            if v in live:
                continue
            live.add(v)
            if v.op == "load" and v.attr.buffer.role == "program":
                read.add(v.attr.buffer.name)
            work += operands(v)

    def stays(s: Stmt) -> bool:
        return isinstance(s, Store | Atomic) and (
            s.buffer.role != "program" or s.buffer.name in read
        )

    count = -1
    while count != len(live) + len(read):
        count = len(live) + len(read)
        for s in statements(kernel.body):
            if isinstance(s, Store | Atomic) and stays(s):
                need(s.value, *inside(*s.index, s.mask))
            elif isinstance(s, If):
                need(*inside(s.cond))
            elif isinstance(s, For):
                need(*inside(s.lo, s.hi))
                for i, p, y, r in zip(s.inits, s.params, s.yields, s.results, strict=True):
                    if r in live or p in live:
                        need(i, y)

    def keep(body: Iterable[Stmt]) -> tuple[Stmt, ...]:
        out: list[Stmt] = []
        for s in body:
            if isinstance(s, Def):
                out += [s] if s.value in live else []
            elif isinstance(s, For):
                made, rows = keep(s.body), _carried(s, live)
                if rows[0] or any(isinstance(x, Store | Atomic) for x in statements(made)):
                    inits, params, yields, results = rows
                    out.append(replace(s, inits=inits, params=params, yields=yields,
                                       results=results, body=made))  # fmt: skip
            elif isinstance(s, If):
                out.append(replace(s, then=keep(s.then), other=keep(s.other)))
            elif stays(s):
                out.append(s)
        return tuple(out)

    return replace(kernel, body=keep(kernel.body)), frozenset(read)


def _carried(s: For, live: set[Value]) -> tuple[tuple[Value, ...], ...]:
    """Where the state of a loop begins, what it is inside, next and after, as far as it is used."""
    rows = zip(s.inits, s.params, s.yields, s.results, strict=True)
    used = [row for row in rows if row[1] in live or row[3] in live]
    return tuple(tuple(row[n] for row in used) for n in range(4))
