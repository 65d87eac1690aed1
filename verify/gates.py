"""The gates that a tile program passes before anything of it runs: structure (G1), safety (G2) and
determinacy (G3), for all shapes."""

from __future__ import annotations

import time
from dataclasses import replace

from opwright.ir.expr import ExprError, show
from opwright.ir.record import Record
from opwright.ir.spent import part
from opwright.ir.tile import TileProgram
from opwright.ir.tilecheck import TileError, check_program
from opwright.ir.tiletext import digest
from opwright.verify.context import Context
from opwright.verify.prove import prove


def subject_of(program: TileProgram) -> str:
    """What a record of these gates is about: the TileIR text, not the source printed from it."""
    return f"TileIR {digest(program)} (printer trusted)"


def assumptions_of(program: TileProgram, context: Context) -> tuple[str, ...]:
    """Facts and requirements in the spec's words, the limits on sizes, each a guard of the
    package."""
    facts = [show(f) for f in (*context.facts, *program.facts)]
    facts += [f"requires {c.name}" for c in context.requires]
    limits = [
        f"a size without an upper bound is at most {context.dim_limit}",
        f"an integer param without bounds is at most {context.param_limit} in magnitude",
        f"an input or output has at most {context.element_limit} elements",
        "inputs, outputs and scratch do not overlap in memory",
        "the driver launches nothing if a grid or scratch has too many elements for 64 bits",
    ]
    return tuple(dict.fromkeys((*facts, *program.assumes, *limits)))


def safety(program: TileProgram, context: Context) -> list[Record]:
    """Records of G1, G2 and G3; a program without a meaning has one record, of G1, REFUTED."""
    start = time.perf_counter()
    try:
        with part("G1"):
            check_program(program)
        subject = subject_of(program)
    except (TileError, ExprError) as e:
        return [_malformed(program, e, time.perf_counter() - start)]
    assumed = assumptions_of(program, context)
    spent = time.perf_counter() - start
    first = Record("G1.structure", "G1", "PROVED", "structural check", subject, seconds=spent)
    out = [first]
    for r in prove(program, context, subject):
        said = r.reason
        if r.status == "PROVED" and program.assumes:
            said = "; ".join(x for x in (said, f"assuming {', '.join(program.assumes)}") if x)
        out.append(replace(r, assumptions=assumed, reason=said))
    return [*out, *_unwritten(program, context, subject)]


def _unwritten(program: TileProgram, context: Context, subject: str) -> list[Record]:
    """Outputs that no kernel so much as names: nothing above speaks of them."""
    named = {b.name for b in program.buffers()}
    return [
        Record(
            f"G3.cover.{name}", "G3", "REFUTED", f"no kernel writes {name}, which is an output",
            subject, counterexample={"buffer": name},
        )
        for name in context.outputs
        if name not in named
    ]  # fmt: skip


def _malformed(program: TileProgram, e: TileError | ExprError, seconds: float) -> Record:
    place = {}
    if isinstance(e, TileError):
        place = {"statement": e.statement, "kernel": e.kernel}
    subject = f"TileIR of {program.name}"
    return Record(
        "G1.structure", "G1", "REFUTED", str(e), subject, counterexample=place, seconds=seconds
    )
