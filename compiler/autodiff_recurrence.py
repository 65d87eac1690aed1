"""Reverse mode through recurrences: the adjoint of a joint recurrence is one that runs the other
way, step by step from the last element to the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from opwright.compiler.autodiff_rules import Contribution, NotDifferentiable, time_axis, total
from opwright.compiler.solve import Index
from opwright.ir.expr import ZERO, Expr, call, const, read, read_parts, substitute, transform, var
from opwright.ir.op import OpAxis, Recurrence, Tensor

if TYPE_CHECKING:
    from opwright.compiler.autodiff import Reverse


def recurrence(r: Reverse, group: list[Tensor]) -> None:
    """Adjoints of a joint recurrence are one that runs the other way."""
    r.earlier = tuple(group)
    live = [t for t in group if t.name in r.active]
    names = {t.name: r.names.fresh(f"r_{t.name}") for t in live}
    position = {t.name: [a.name for a in t.axes].index(time_axis(t)) for t in live}
    step: dict[str, list[Expr]] = {t.name: [] for t in live}
    order = [t.name for t in group]
    axes: dict[str, tuple[OpAxis, ...]] = {}
    for t in live:
        axes[t.name] = tuple(replace(a, name=r.names.fresh(a.name)) for a in t.axes)
    outside = {t.name: r.found.pop(t.name, []) for t in live}
    for t in live:
        step[t.name] += _from_outside(r, t, axes[t.name], position[t.name], outside[t.name])
    for t in live:
        _inside(r, t, live, names, position, axes, step, order)
    inits = Recurrence("", const(0.0), tuple(names[n] for n in reversed(order) if n in names))
    for t in reversed(live):
        own, p = axes[t.name], position[t.name]
        rec = replace(inits, axis=own[p].name)
        body = total(step[t.name]) if step[t.name] else const(0.0)
        r.adjoints.append(Tensor(names[t.name], r.compute, own, body, recurrence=rec))
    for t in live:
        _leave(r, t, {u.name for u in live}, names[t.name], position[t.name])
    r.earlier = ()


def _mirror(a: OpAxis, t: Expr) -> Expr:
    """Steps from the other end."""
    return a.hi - 1 - (t - a.lo) if a.lo is not ZERO else a.hi - 1 - t


def _from_outside(
    r: Reverse, t: Tensor, axes: tuple[OpAxis, ...], p: int, parts: list[Contribution]
) -> list[Expr]:
    """What readers behind the recurrence and the given gradient add at each step."""
    given = t.name in {u.name for u in r.op.outputs}
    if not given and not parts:
        return []
    plain, values = r.gather(t, parts)
    at = tuple(var(a.name) for a in plain)
    if given:
        values = [r.read_adjoint(f"d_{t.name}", at), *values]
    if parts:
        name = r.names.fresh(f"g_{t.name}")
        r.adjoints.append(Tensor(name, r.compute, plain, total(values)))
    else:
        name = f"d_{t.name}"
    there = [var(a.name) for a in axes]
    there[p] = _mirror(axes[p], there[p])
    return [r.read_adjoint(name, tuple(there))]


def _inside(
    r: Reverse,
    t: Tensor,
    live: list[Tensor],
    names: Mapping[str, str],
    position: Mapping[str, int],
    axes: Mapping[str, tuple[OpAxis, ...]],
    step: dict[str, list[Expr]],
    order: list[str],
) -> None:
    """What t's definition passes to members of the group, now or one step later."""
    assert t.body is not None
    at = tuple(var(a.name) for a in t.axes)
    found = r.probe({u.name for u in live}, t, read(f"~{t.name}", at, "real"))
    axis = var(time_axis(t))
    for target in live:
        own, p = axes[target.name], position[target.name]
        for c in found.get(target.name, []):
            back = c.at[p]
            if back is axis:
                late = False
            elif back is axis - 1:
                late = True
            else:
                raise NotDifferentiable(f"{t.name} reads {target.name} at another step")
            step[target.name].append(_step(r, t, target, c, own, p, names, late))


def _step(
    r: Reverse,
    t: Tensor,
    target: Tensor,
    c: Contribution,
    own: tuple[OpAxis, ...],
    p: int,
    names: Mapping[str, str],
    late: bool,
) -> Expr:
    """One share of a step of the mirrored recurrence of `target`."""
    there = var(own[p].name)
    time = _mirror(own[p], there) + (1 if late else 0)
    axis = time_axis(t)
    others = tuple(a for n, a in enumerate(own) if n != p)
    rest = tuple(e for n, e in enumerate(c.at) if n != p)
    scope = tuple(i for i in c.scope if i.name != axis)
    mapping = {var(axis): time}
    moved = Contribution(
        tuple(substitute(e, mapping) for e in rest),
        substitute(c.value, mapping),
        tuple(Index(i.name, substitute(i.lo, mapping), substitute(i.hi, mapping)) for i in scope),
        substitute(c.guard, mapping),
    )
    value = r.collect(others, r.apart(moved))

    def place(x: Expr) -> Expr | None:
        if x.op == "read" and x.attr[0] == f"~{t.name}":
            _, index, _ = read_parts(x)
            at = list(index)
            k = [a.name for a in t.axes].index(axis)
            at[k] = there - 1 if late else there
            return read(names[t.name], tuple(at), "real")
        return None

    value = transform(value, place)
    if late:
        value = call("select", call("lt", own[p].lo, there), value, 0.0)
    return value


def _leave(r: Reverse, t: Tensor, group: set[str], name: str, p: int) -> None:
    """What t's definition and its initial value pass to tensors outside the group."""
    axis = t.axes[p]
    at = [var(a.name) for a in t.axes]
    at[p] = _mirror(axis, var(axis.name))
    before = r.active
    r.active = before - group
    r.walk(t, read(name, tuple(at), "real"))
    r.active = before
    _initial(r, t, group, name, p)


def _initial(r: Reverse, t: Tensor, group: set[str], name: str, p: int) -> None:
    """Initial values are read at the first step, where members are read one step before."""
    assert t.recurrence is not None
    readers = [u for u in r.forward if u.name in group]
    if not r.depends(t.recurrence.init):
        return
    for u in readers:
        k = [a.name for a in u.axes].index(time_axis(u))
        at = [var(a.name) for a in u.axes]
        at[k] = _mirror(u.axes[k], var(u.axes[k].name))
        mirrored = next(a.name for a in r.adjoints if a.name.startswith(f"r_{u.name}"))
        found = r.probe({t.name}, u, read(mirrored, tuple(at), "real"))
        for c in found.get(t.name, []):
            if c.at[p] is not var(time_axis(u)) - 1:
                continue
            first = {var(time_axis(u)): u.axes[k].lo}
            mapping = {
                var(a.name): substitute(e, first)
                for n, (a, e) in enumerate(zip(t.axes, c.at, strict=True))
                if n != p
            }
            mapping[var(t.axes[p].name)] = t.axes[p].lo
            r.descend(
                substitute(t.recurrence.init, mapping),
                substitute(c.value, first),
                tuple(
                    Index(i.name, substitute(i.lo, first), substitute(i.hi, first))
                    for i in c.scope
                    if i.name != time_axis(u)
                ),
                substitute(c.guard, first),
            )
