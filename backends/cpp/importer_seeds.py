"""What names of a text say: which of its variables may be pieces of one value."""

from __future__ import annotations

from collections.abc import Mapping

from opwright.ir.tile import Axis, Def, For, Kernel, Value, statements

Tuple = tuple[Value, ...]


def parts_of(label: str) -> tuple[str, tuple[int, ...]] | None:
    """Base and coordinates of a name like `acc__3__16`."""
    base, *at = label.split("__")
    if not at or not base or not all(c.isdigit() for c in at):
        return None
    return base, tuple(int(c) for c in at)


def seeds_of(k: Kernel, labels: Mapping[Value, str]) -> list[tuple[Tuple, Axis | None]]:
    """Tuples of values that names say are pieces; extensions of lane axes first."""
    families: dict[tuple[str, int], dict[tuple[int, ...], Value]] = {}
    for v in _values(k):
        found = parts_of(labels.get(v, ""))
        if found is not None:
            families.setdefault((found[0], len(found[1])), {}).setdefault(found[1], v)
    extended: list[tuple[Tuple, Axis | None]] = []
    new: list[tuple[Tuple, Axis | None]] = []
    for (_, rank), members in families.items():
        for d in reversed(range(rank)):
            rows: dict[tuple[int, ...], dict[int, Value]] = {}
            for at, v in members.items():
                rows.setdefault((*at[:d], *at[d + 1 :]), {})[at[d]] = v
            for row in rows.values():
                at_ = sorted(row)
                if len(at_) < 2 or at_ != list(range(0, len(at_) * (at_[1] or 1), at_[1] or 1)):
                    continue
                whole = tuple(row[c] for c in at_)
                axis = next((a for a in whole[0].axes if a.extent == at_[1]), None)
                if at_[1] > 1 and axis is not None:
                    extended.append((whole, axis))
                elif at_[1] == 1:
                    new.append((whole, None))
    return [*extended, *new]


def _values(k: Kernel) -> list[Value]:
    out: list[Value] = []
    for s in statements(k.body):
        if isinstance(s, Def):
            out.append(s.value)
        elif isinstance(s, For):
            out += [*s.params, *s.results]
    return out
