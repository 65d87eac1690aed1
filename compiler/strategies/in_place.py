"""Outputs that take the memory of an input: nothing may be overwritten before all have read it.

Candidates 0 are put in an order in which that holds, through scratch where there is none. What
other strategies make is looked at when it is whole.
"""

from __future__ import annotations

from dataclasses import replace

from opwright.compiler.normalize import Normal
from opwright.compiler.strategies.group import Group
from opwright.ir.expr import read, read_parts, var, walk
from opwright.ir.op import Operator, Tensor
from opwright.ir.tile import Def, Load, Store, TileProgram, statements


def in_place_last(normal: Normal, keep: set[str]) -> tuple[Normal, set[str]]:
    """The tensors in order, but an output that may overwrite an input after all that read it; what
    is kept. Where outputs read what others overwrite, or one what it overwrites at other places,
    their values go through scratch."""
    late = [t for t in normal.tensors if t.updates and not t.recurrence]
    overwriting = {t.name for t in late}
    needs: dict[str, set[str]] = {}
    order: list[Tensor] = []
    apart: list[Tensor] = []
    for t in late:
        assert t.body is not None
        body = Group(normal, (t,), frozenset(keep)).expand(t.body)
        found = [read_parts(x) for x in walk(body) if x.op == "read"]
        needs[t.name] = {name for name, _, _ in found}
        own = tuple(var(a.name) for a in t.axes)
        if any(name == t.updates and index != own for name, index, _ in found):
            apart.append(t)
    while late:
        free = [
            t
            for t in late
            if not any(t.updates in needs[u.name] for u in late if u is not t and u not in apart)
        ]
        if free:
            order.append(free[0])
            late.remove(free[0])
        else:
            apart.append(next(t for t in late if t not in apart))
    used = {t.name for t in (*normal.op.inputs, *normal.tensors)}
    first: list[Tensor] = []
    for t in normal.tensors:
        if t not in apart:
            first += [] if t.name in overwriting else [t]
            continue
        name = next(n for n in (f"{t.name}_next{'_' * k}" for k in range(99)) if n not in used)
        used.add(name)
        copy = read(name, tuple(var(a.name) for a in t.axes), t.kind)
        order[order.index(t)] = replace(t, body=copy)
        first.append(replace(t, name=name, role="local", updates=None))
        keep = keep - {t.name} | {name}
    return Normal(normal.op, (*first, *order)), keep


def overwritten(op: Operator, program: TileProgram) -> str:
    """What a program reads after it may be overwritten, in words; empty where nothing is. Loads
    count as safe that stand before the store of the same element."""
    takes = {t.name: t.updates for t in op.outputs if t.updates}
    gone: set[str] = set()
    for k in program.kernels if takes else ():
        here = {takes[b.name] for b in k.buffers if b.role == "out" and b.name in takes}
        stored: set[tuple[str, object]] = set()
        loaded: set[tuple[str, object]] = set()
        for s in statements(k.body):
            if isinstance(s, Store) and s.buffer.name in takes:
                stored.add((str(takes[s.buffer.name]), s.index))
            if not isinstance(s, Def) or not isinstance(s.value.attr, Load):
                continue
            place = s.value.attr
            name = place.buffer.name
            if place.buffer.role != "in" or name not in gone | here:
                continue
            if name in gone or (name, place.index) in stored:
                return f"{name} is read after it is overwritten"
            loaded.add((name, place.index))
        if not loaded <= stored:
            name = min(n for n, _ in loaded - stored)
            return f"{name} is read at other places than those that are overwritten beside it"
        gone |= {str(n) for n in here}
    return ""
