"""What is missing where a program is refuted: facts under which the same obligations are PROVED.

A refutation stands. Whoever launches the kernel may know more than its plan says: that tensors
stay below 2^31 elements, that no extent is zero, that tiles divide extents. Where such facts
suffice they are named, as few as were found in the time given.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import replace

from opwright.ir.delinearize import is_dense, stated_values
from opwright.ir.expr import Expr, call, const, leaves, size, substitute
from opwright.ir.tile import For, TileProgram, element_count, statements
from opwright.ir.tiletext import axes_of
from opwright.verify import proofs
from opwright.verify.context import Context
from opwright.verify.determined import Determined
from opwright.verify.hints import Hints
from opwright.verify.prove import Prover
from opwright.verify.safety import Safety

SECONDS = 8.0  # for all questions of one program
ONE = 3.0  # for one of them
TOP = 2**31 - 1


@proofs.unrecorded()  # what would hold under more facts is advice, and proves nothing
def lacking(
    program: TileProgram, context: Context, ids: Collection[str], wraps: bool
) -> tuple[Expr, ...] | None:
    """Facts that would make refuted obligations hold; None where none of the usual ones do."""
    end = time.monotonic() + SECONDS
    tried = _counts(program) if wraps else _extents(program)
    if not tried or not _holds(program, context, tried, ids, end):
        return None
    kept = list(tried)
    for f in tried:
        without = [x for x in kept if x is not f]
        if time.monotonic() < end and _holds(program, context, without, ids, end):
            kept = without
    return tuple(kept)


def _holds(
    program: TileProgram,
    context: Context,
    facts: Sequence[Expr],
    ids: Collection[str],
    end: float,
) -> bool:
    """Whether obligations are PROVED with more facts, which contradict nothing."""
    budget = min(ONE, end - time.monotonic())
    if budget <= 0:
        return False
    stronger = replace(program, facts=(*program.facts, *facts))
    prover = Prover(stronger, replace(context, budget=budget, replay=False))
    prover.contradiction = prover.consistent()
    if prover.contradiction:
        return False
    left = set(ids)
    for kind in (Safety, Determined, Hints):
        for o in kind(stronger, prover.context, prover.seen, prover.encoder).collect():
            if o.id in left:
                prover.discharge(o)
                if o.status != "PROVED":
                    return False
                left.discard(o.id)
                if not left:
                    return True
    return False


def _counts(program: TileProgram) -> list[Expr]:
    """No offset into a tensor exceeds 32 bits."""
    known = stated_values(program.facts)
    out: dict[Expr, None] = {}
    for b in program.buffers():
        if b.role not in ("in", "out", "state") or not b.shape:
            continue
        if b.strides is None or is_dense(b, program.facts):
            last = element_count(b.shape)
        else:
            last = const(0)
            for n, s in zip(b.shape, b.strides, strict=True):
                last = last + (n - 1) * substitute(s, known)
        fact = call("le", last, const(TOP))
        if fact.op != "const":
            out[fact] = None
    return list(out)


def _extents(program: TileProgram) -> list[Expr]:
    """No size is zero, and the largest tile divides each."""
    tiles = {a.extent for k in program.kernels for a in axes_of(k)}
    tiles |= {s.step for k in program.kernels for s in statements(k.body) if isinstance(s, For)}
    most = max((n for n in tiles if n > 1), default=1)
    names = [size(n) for n in dict.fromkeys(_sizes(program))]
    out: list[Expr] = [call("le", const(1), x) for x in names]
    if most > 1:
        out += [call("eq", x % most, const(0)) for x in names]
    return out


def _sizes(program: TileProgram) -> list[str]:
    roots = [e for b in program.buffers() for e in b.shape]
    roots += [e for k in program.kernels for e in k.grid]
    return [str(x.attr) for e in roots for x in leaves(e, "size")]
