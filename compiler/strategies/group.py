"""What strategies share: a group of definitions lowered together, and what its reads mean.

Pointwise definitions are recomputed where they are read; folds, recurrences and outputs have
memory. A group's folds run over one axis each; the indices all its members share are the program's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from opwright.compiler.evaluate import Unsupported
from opwright.compiler.normalize import Normal
from opwright.ir.expr import ZERO, Expr, Fold, call, read_parts, rebuild, substitute, var, walk
from opwright.ir.op import OpAxis, Tensor


def is_fold(t: Tensor) -> bool:
    return t.body is not None and t.body.op == "fold"


def is_pointwise(t: Tensor) -> bool:
    """No fold anywhere in the definition, no recurrence."""
    return (
        t.body is not None
        and t.recurrence is None
        and not any(x.op == "fold" for x in walk(t.body))
    )


def members(normal: Normal) -> list[Tensor]:
    """Definitions that must be computed and kept; local pointwise ones are recomputed by their
    readers."""
    return [t for t in normal.tensors if t.role == "output" or not is_pointwise(t)]


@dataclass(frozen=True, slots=True)
class Group:
    """Members lowered together. `earlier` are kept tensors of groups before this one, read from
    memory."""

    normal: Normal
    members: tuple[Tensor, ...]
    earlier: frozenset[str]

    def expand(self, e: Expr, stop: Iterable[str] = ()) -> Expr:
        """The expression with pointwise definitions replaced by their bodies, except those in
        `stop`."""
        keep = {t.name for t in self.members if is_fold(t)} | self.earlier | set(stop)
        memo: dict[Expr, Expr] = {}

        def go(x: Expr) -> Expr:
            if x not in memo:
                out = rebuild(x, tuple(go(a) for a in x.args))
                if out.op == "read" and out.attr[0] not in keep:
                    t = self.normal.tensor(out.attr[0])
                    if t.role != "input":
                        out = go(inline(t, out))
                memo[x] = out
            return memo[x]

        return go(e)


def inline(t: Tensor, reading: Expr, folds: bool = False) -> Expr:
    """The body of a pointwise definition (with `folds`, of any) at the indices of a read of it."""
    if not is_pointwise(t) and not (folds and t.recurrence is None):
        raise Unsupported(f"{t.name} is not at hand")
    assert t.body is not None
    _, index, _ = read_parts(reading)
    return substitute(t.body, {var(a.name): i for a, i in zip(t.axes, index, strict=True)})


def same_range(a: OpAxis, b: OpAxis) -> bool:
    return a.lo is b.lo and a.hi is b.hi


def without_row(t: Tensor, shared: Sequence[OpAxis], row: OpAxis | None) -> int | None:
    """Position of the row axis in a member's axes when the others are the shared ones; -1 if it has
    none; None if it fits neither way."""
    if len(t.axes) == len(shared) and all(map(same_range, t.axes, shared)):
        return -1
    if row is None or len(t.axes) != len(shared) + 1:
        return None
    for n in reversed(range(len(t.axes))):
        rest = [a for k, a in enumerate(t.axes) if k != n]
        if same_range(t.axes[n], row) and all(map(same_range, rest, shared)):
            return n
    return None


def fold_axis(t: Tensor) -> OpAxis:
    """The single axis a member folds over, from 0 to an extent that no index changes."""
    assert t.body is not None
    f = Fold(t.body)
    if len(f.binders) != 1:
        raise Unsupported(f"{t.name} reduces over {len(f.binders)} axes")
    (lo, hi), binder = f.ranges[0], f.binders[0]
    if lo is not ZERO or any(x.op in ("var", "read", "fold") for x in walk(hi)):
        raise Unsupported(f"{t.name} has a dependent range")
    return OpAxis(binder, lo, hi)


def before_first(normal: Normal, names: Collection[str], u: Tensor, e: Expr) -> Expr:
    """The expression with reads of a group of recurrences at the step before the first as `init`
    of who is read."""
    if e.op == "read" and e.attr[0] in names:
        other = normal.tensor(e.attr[0])
        assert other.recurrence is not None
        time = [a.name for a in other.axes].index(other.recurrence.axis)
        _, index, _ = read_parts(e)
        own = next(a for a in u.axes if u.recurrence and a.name == u.recurrence.axis)
        if index[time] is var(own.name):
            return e
        inside = call("le", own.lo, index[time])
        point = {var(a.name): i for a, i in zip(other.axes, index, strict=True)}
        return call("select", inside, e, substitute(other.recurrence.init, point))
    return rebuild(e, tuple(before_first(normal, names, u, a) for a in e.args))


def bound_names(normal: Normal) -> frozenset[str]:
    """The indices that some fold binds."""
    bodies = [t.body for t in normal.tensors if t.body is not None]
    folds = [Fold(x) for e in bodies for x in walk(e) if x.op == "fold"]
    return frozenset(b for f in folds for b in f.binders)


def free_name(normal: Normal, name: str) -> str:
    """A name for a loop that no fold binds: what is put into a fold may speak of the loop."""
    bound = bound_names(normal)
    while name in bound:
        name = f"{name}_at"
    return name
