"""Which result indices a plain loop nest computes several of at a time, and in what order it folds.

Decided by how reads move: along the index that most reads are contiguous in there are lanes, and a
second index that some of those reads do not depend on makes rows of lanes, so that what is read
serves several results. Contiguous means the last index of a read; strides are not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opwright.ir.expr import Expr, Fold, free_vars, read_parts, reduction, transform, walk
from opwright.ir.op import OpAxis
from opwright.ir.semantics import MONOIDS, ROWS

COSTLY = 8  # flops of one operation from which evaluating it again for every lane block hurts


@dataclass(frozen=True, slots=True)
class Tile:
    """`width` lanes along the axis at position `lanes`; `height` rows of them along the axis at
    position `rows`, if there is one; a program does `block` of that axis (or of the lanes)."""

    lanes: int
    width: int
    rows: int | None = None
    height: int = 1
    block: int = 1024


def choose(axes: Sequence[OpAxis], body: Expr) -> Tile | None:
    """The tile for a definition with all pointwise definitions expanded; None where no index can
    have lanes."""
    folds = [Fold(x) for x in walk(body) if x.op == "fold"]
    moving = {v for f in folds for r in f.ranges for e in r for v in free_vars(e)}
    open_ = [n for n, a in enumerate(axes) if a.name not in moving]
    reads = [x for x in walk(body) if x.op == "read" and free_vars(x)]
    if not open_:
        return None

    def along(n: int) -> int:
        """How many accesses are contiguous along an axis; a store counts half a read."""
        last = sum(axes[n].name in free_vars(read_parts(x)[1][-1]) for x in reads)
        return 2 * last + (n == len(axes) - 1)

    lanes = max(open_, key=lambda n: (along(n), n))
    name = axes[lanes].name
    if not folds:
        if along(lanes) > 1 and lanes != len(axes) - 1:
            # read along one axis, written along another: whole cache lines of both
            return Tile(lanes, 16, len(axes) - 1, 16, 256)
        return Tile(lanes, 16)
    wide = [x for x in reads if name in free_vars(x)]

    def shared(n: int) -> int:
        return sum(axes[n].name not in free_vars(x) for x in wide)

    others = [n for n in open_ if n != lanes]
    rows = max(others, key=lambda n: (shared(n), n), default=None)
    if rows is None or not shared(rows):
        width = 32 if along(lanes) > 1 else 8
        return Tile(lanes, width, block=width)
    again = any(
        x.op in ROWS and ROWS[x.op].flops >= COSTLY and name not in free_vars(x)
        for f in folds
        for e in f.step
        for x in walk(e)
    )
    return Tile(lanes, 32, rows, 2, 32) if again else Tile(lanes, 8, rows, 4, 64)


def in_order(body: Expr) -> Expr:
    """Folds over several independent ranges with the index innermost that most reads are
    contiguous in; the combination must not care for order."""

    def rule(e: Expr) -> Expr | None:
        if e.op != "fold" or e.attr.kind not in MONOIDS or len(e.attr.binders) < 2:
            return None
        f = Fold(e)
        own = set(f.binders)
        if any(own & free_vars(x) for r in f.ranges for x in r):
            return None
        last = [free_vars(read_parts(x)[1][-1]) for x in walk(f.term) if x.op == "read" and x.args]

        def score(n: int) -> int:
            return sum(f.binders[n] in v for v in last)

        order = sorted(range(len(own)), key=score)
        binders = tuple(f.binders[n] for n in order)
        ranges = tuple(f.ranges[n] for n in order)
        return reduction(e.attr.kind, binders, ranges, f.term, f.guard, e.attr.acc)

    return transform(body, rule)
