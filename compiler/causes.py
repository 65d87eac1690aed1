"""More about refutations of a text that was read back: what the wrapped address touches when the
program runs, and the fact that is missing. Neither changes a verdict."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from opwright.compiler.candidates import Candidate
from opwright.ir.expr import Expr, show
from opwright.ir.launch import BoundPlan
from opwright.ir.record import Record
from opwright.ir.tile import TileProgram
from opwright.verify.context import Context

MOST = 6  # runs of one candidate


def with_causes(
    c: Candidate,
    bound: BoundPlan,
    program: TileProgram,
    context: Context,
    records: Sequence[Record],
) -> list[Record]:
    """The records, with what else was found out about those that are REFUTED."""
    out, left = [], MOST
    for r in records:
        if _wraps(r) and c.plan.backend == "triton" and left:
            left -= 1
            r = _executed(c, bound, r)
        out.append(r)
    for wraps in (True, False):
        chosen = [r for r in out if r.status == "REFUTED" and _wraps(r) is wraps and _known(r)]
        if chosen:
            out = _missing(program, context, out, chosen, wraps)
    return out


def _wraps(r: Record) -> bool:
    return r.status == "REFUTED" and (r.counterexample or {}).get("trap") == "wrap"


def _known(r: Record) -> bool:
    return r.kind in ("G2", "G3") and r.id != "G2.inputs"


def _executed(c: Candidate, bound: BoundPlan, r: Record) -> Record:
    """The program of a counterexample run with integers that wrap."""
    from opwright.backends.triton.concrete import run_launch

    example = dict(r.counterexample or {})
    numbers: dict[Any, Any] = {**example.get("params", {}), **example.get("sizes", {})}
    for text, v in example.get("strides", {}).items():
        name, _, axis = text.partition(", ")
        numbers[name, int(axis)] = v
    program = example.get("program")
    if program is None:
        return r
    kernel = str(example.get("kernel", ""))
    strays, untold = run_launch(c.source, bound, c.plan.source, kernel, program, numbers)
    line = int(str(example.get("line", "")).rpartition(":")[2] or 0)
    stray = next((s for s in strays if s.line >= line), strays[0] if strays else None)
    if stray is None:
        if untold:
            example["replay"] = f"not run with 32-bit integers: {untold}"
            return replace(r, counterexample=example)
        example["replay"] = "run with 32-bit integers, every access is inside of its buffer"
    else:
        told = stray.told(c.plan.source)
        example["replay"] = f"run with 32-bit integers, {told}"
        example["access"] = {"buffer": stray.buffer, "offset": stray.offset, "what": stray.what}
        example["access"] |= {"first": stray.extent.lo, "last": stray.extent.hi}
    return replace(r, reason=f"{r.reason}; {example['replay']}", counterexample=example)


def _missing(
    program: TileProgram,
    context: Context,
    records: list[Record],
    chosen: list[Record],
    wraps: bool,
) -> list[Record]:
    """Names the facts under which what is refuted would hold."""
    from opwright.verify.preconditions import lacking

    facts = lacking(program, context, {r.id for r in chosen}, wraps)
    if not facts:
        return records
    text = " and ".join(_said(f) for f in facts)
    more = f"; PROVED where {text}, which the plan does not say"
    ids = {r.id for r in chosen}
    return [
        replace(
            r,
            reason=f"{r.reason}{more}",
            counterexample={**(r.counterexample or {}), "missing_facts": [_said(f) for f in facts]},
        )
        if r.id in ids and r.status == "REFUTED"
        else r
        for r in records
    ]


def _said(f: Expr) -> str:
    """A fact as a plan writes it."""
    m = re.fullmatch(r"1 <= (\w+)", show(f))
    return f"{m[1]} >= 1" if m else show(f)
