"""`opwright verify`: the gates on a candidate folder or a TileIR file, whoever wrote it.

G0 and G1 say what the text is, G2 and G3 what holds of it for all shapes. Nothing runs before
they have passed, unless TESTED safety was asked for. G4 evaluates what was read. G6 runs it: a
library in a process that can be killed, a Triton kernel in the interpreter, a function of arrays on
the CPU.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from opwright.compiler.candidates import Candidate, printed, read
from opwright.compiler.execution import execute, readable
from opwright.compiler.importing import SAFETY, Static, compiled, static_gates
from opwright.compiler.later_gates import early_records, field_records
from opwright.compiler.law_gates import law_records
from opwright.compiler.paths import cache_folder
from opwright.compiler.proof_cache import default_store, remembering
from opwright.compiler.reproving import file_for, prove, write
from opwright.compiler.sanitizer_gates import sanitizer_records
from opwright.compiler.trusted import trusted_base
from opwright.ir.expr import ExprError
from opwright.ir.op import Operator
from opwright.ir.plan import PlanError
from opwright.ir.record import Record, Verdict
from opwright.ir.tiletext import ParseError, parse_program
from opwright.search.gate_order import learned
from opwright.verify.policy import tested_instead

ENDLESS = "no answer within"  # of a call that was stopped
REQUIRED = ("G0", "G2", "G3", "G6")


def open_candidate(path: Path, op: Operator, isa: str) -> Candidate:
    """Read a folder, or a `.tile` file, which our printer turns into a source. PlanError if
    neither."""
    if path.is_dir():
        return read(path, op)
    if not path.exists():
        raise PlanError(
            f"{path}: no such candidate; give a folder with candidate.json or a .tile file"
        )
    if path.name == "candidate.json":
        return read(path.parent, op)
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise PlanError(f"{path}: cannot be read: {e}") from None
    try:
        return printed(parse_program(text), op, isa)
    except ParseError as e:
        raise PlanError(f"{path}:{e}") from None
    except (ExprError, ValueError, KeyError) as e:
        raise PlanError(f"{path}: the program cannot be printed: {e}") from None


def verify_operator(
    op: Operator,
    path: Path,
    isa: str,
    require: str,
    seed: int = 0,
    proofs: Path | None = None,
    cached: bool = False,
) -> Verdict:
    """All gates for one binding of the types. `require`: proved | tested (safety, before
    execution). `proofs`: a file, or a folder for one, that keeps what the static gates asked; the
    verdict's `extra` then names it. `cached`: proofs of before, of the same texts, count."""
    c = open_candidate(path, op, isa)
    if c.fault:
        record = Record("G1.parse", "G1", "REFUTED", c.fault, c.subject)
        return Verdict((record,), ("G0", "G1", "G2", "G3", "G6"))
    order = learned(cache_folder() / "archive", op.name)
    extra: dict[str, Any] = {"order": order.text()}
    early = (lambda read: early_records(c, read, op)) if order.field_first else None
    if proofs is None:
        with remembering(default_store() if cached else None):
            static = static_gates(c, op, early=early)
    else:
        static, data = prove(c, op)
        file = file_for(proofs, c, op)
        write(data, file)
        extra["proofs"] = str(file)
    found = _verdict(c, op, isa, require, seed, static)
    spec = f"{op.name}@{op.version} {op.digest}"
    extra["trusted"] = trusted_base(found.records, (c.plan.backend,), spec, "", c.plan.facts)
    extra["source"] = c.plan.source
    return replace(found, extra={**found.extra, **extra})


def _verdict(
    c: Candidate, op: Operator, isa: str, require: str, seed: int, static: Static
) -> Verdict:
    records = list(static.records)
    if static.refuted:
        return Verdict(tuple(records), REQUIRED)
    records += compiled(c)
    if any(r.status == "REFUTED" for r in records):
        return Verdict(tuple(records), ("G1", *REQUIRED))
    if not any(r.kind == "G4" for r in records):
        records += field_records(c, static, op)
    if any(r.status == "REFUTED" for r in records):
        return Verdict(tuple(records), REQUIRED)
    permitted = static.safe or require == "tested"
    if not permitted and not readable(c):
        why = f"not executed: safety is {_safety(static)}, not PROVED (--require tested runs it)"
        records.append(Record("G6.runs", "G6", "UNKNOWN", why, c.subject))
        return Verdict(tuple(records), REQUIRED)
    records += execute(c, static, op, isa, seed, permitted)
    if any(r.kind == "G6" and ENDLESS in r.reason for r in records):
        return _told(records, static)  # what hangs once is not called again
    if not any(r.status == "REFUTED" for r in records):
        records += law_records(c, static, op, isa, seed, permitted)
    if permitted and not any(r.status == "REFUTED" for r in records):
        records += sanitizer_records(c, static, op, isa, seed)
    return _told(records, static)


def _told(records: list[Record], static: Static) -> Verdict:
    return Verdict(tuple(records if static.safe else tested_instead(records)), REQUIRED)


def _safety(static: Static) -> str:
    """The status of the weaker safety gate, with what a proof assumes."""
    for status in ("UNKNOWN", "ASSUMED"):
        found = [r for r in static.records if r.kind in SAFETY and r.status == status]
        if found and status == "ASSUMED":
            return found[0].reason.partition(";")[0]
        if found:
            return status
    return "PROVED"
