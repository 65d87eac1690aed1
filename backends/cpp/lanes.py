"""How index expressions and masks depend on one tile axis: slopes, contiguity, prefix masks."""

from __future__ import annotations

from opwright.ir.expr import Expr, conjuncts
from opwright.ir.tile import Axis, Buffer, Placement, lanes, row_major


def vector_width(placement: Placement, axis: Axis) -> int:
    """The vec width of an axis, 1 for an unrolled one."""
    place = placement.axes.get(axis.name, "unroll")
    return 1 if isinstance(place, str) else place[1]


def slope(e: Expr, axis: Axis) -> int | None:
    """Coefficient of a lane in an integer expression; None where it has no constant one."""
    if e.op == "lane":
        return int(e.attr == axis)
    if axis not in lanes(e):
        return 0
    if e.op in ("add", "sub"):
        a, b = slope(e.args[0], axis), slope(e.args[1], axis)
        if a is None or b is None:
            return None
        return a + b if e.op == "add" else a - b
    if e.op == "neg":
        a = slope(e.args[0], axis)
        return None if a is None else -a
    if e.op == "mul":
        for x, y in (e.args, e.args[::-1]):
            a = slope(y, axis)
            if x.op == "const" and a is not None:
                return int(x.attr) * a
    return None


def strides_of(buffer: Buffer) -> tuple[Expr, ...]:
    """Declared strides in elements, row-major ones otherwise."""
    return row_major(buffer.shape) if buffer.strides is None else buffer.strides


def run_kind(strides: tuple[Expr, ...], index: tuple[Expr, ...], axis: Axis) -> str:
    """How the address moves with the lane: "same", "next" (contiguous elements) or "other"."""
    moving = False
    for e, s in zip(index, strides, strict=True):
        step = slope(e, axis)
        if step == 0:
            continue
        if step != 1 or moving or s.op != "const" or s.attr != 1:
            return "other"
        moving = True
    return "next" if moving else "same"


def split_mask(mask: Expr, axis: Axis | None) -> tuple[list[Expr], list[Expr]]:
    """Conjuncts that are equal for all lanes, and those that are not."""
    uniform: list[Expr] = []
    varying: list[Expr] = []
    for part in conjuncts(mask):
        (varying if axis is not None and axis in lanes(part) else uniform).append(part)
    return uniform, varying


def lane_interval(e: Expr, axis: Axis) -> tuple[str, Expr] | None:
    """A comparison as a set of lanes: ("below", n) holds for lanes < n, ("from", n) for lanes >= n.

    n is an expression in which the lane still occurs; read it at lane 0. None for another form.
    """
    if e.op not in ("lt", "le") or any(a.kind != "int" for a in e.args):
        return None
    left, right = e.args
    a, b = slope(left, axis), slope(right, axis)
    if a is None or b is None or abs(a - b) != 1:
        return None
    strict = e.op == "lt"
    if a - b == 1:  # left0 + l < right0
        return "below", right - left + (0 if strict else 1)
    return "from", left - right + (1 if strict else 0)  # left0 < right0 + l
