"""`opwright verify`: the gates on a candidate folder or a TileIR file, whoever wrote it.

G1 says what the statements are about. Where the source is not what our printer makes of the TileIR
beside it, no proof about the TileIR is one about the source; without an importer its safety is
UNKNOWN, and it is executed only when TESTED safety was asked for, in a process that can be killed.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace
from pathlib import Path

from opwright.compiler.candidates import Candidate, printed, read
from opwright.compiler.toolbox import evaluation_tools
from opwright.ir.expr import Expr, ExprError
from opwright.ir.launch import operator_names
from opwright.ir.op import Operator
from opwright.ir.plan import PlanError
from opwright.ir.record import Record, Verdict
from opwright.ir.text import parse_expr
from opwright.ir.tile import TileProgram
from opwright.ir.tiletext import ParseError, parse_program
from opwright.search.evaluate import CandidateEvaluator
from opwright.search.results import Evaluation, Job, Options
from opwright.search.space import Schedule
from opwright.verify.context import Context
from opwright.verify.gates import safety

CALL_LIMIT = 10.0  # seconds for one test call of a small case


@dataclass(frozen=True, slots=True)
class Given:
    """A candidate as handed in, and the records of G1 about it."""

    candidate: Candidate
    records: tuple[Record, ...]


def open_candidate(path: Path, op: Operator, isa: str) -> Given:
    """Read a folder, or a `.tile` file, which our printer turns into a source. PlanError if
    neither."""
    if path.is_dir():
        candidate = read(path, op)
        return Given(candidate, (_identity(candidate),))
    if not path.exists():
        raise PlanError(
            f"{path}: no such candidate; give a folder with candidate.json or a .tile file"
        )
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise PlanError(f"{path}: cannot be read: {e}") from None
    try:
        candidate = printed(parse_program(text), op, isa)
    except ParseError as e:
        raise PlanError(f"{path}:{e}") from None
    except (ExprError, ValueError, KeyError) as e:
        raise PlanError(f"{path}: the program cannot be printed: {e}") from None
    return Given(candidate, (_identity(candidate),))


def _identity(c: Candidate) -> Record:
    """G1: which text the other gates speak about."""
    if c.fault:
        return Record("G1.parse", "G1", "REFUTED", c.fault, c.subject)
    if c.program is not None:
        reason = f"{c.plan.source} is what the printer makes of the TileIR"
        return Record("G1.import", "G1", "PROVED", reason, c.subject)
    reason = f"{c.stranger}; this version imports no foreign {c.plan.backend} text"
    return Record("G1.import", "G1", "UNKNOWN", reason, c.subject)


def verify_operator(op: Operator, path: Path, isa: str, require: str, seed: int = 0) -> Verdict:
    """All gates for one binding of the types. `require`: proved | tested (safety, before
    execution)."""
    given = open_candidate(path, op, isa)
    c = given.candidate
    records = list(given.records)
    tested = require == "tested"
    if c.program is not None:
        records += _safety(c.program, op, c.subject)
    elif c.fault:
        return Verdict(tuple(records), ("G1", "G2", "G3", "G6"))
    else:
        why = "the source was not imported, so nothing is known about its accesses"
        records += [Record(f"{g}.import", g, "UNKNOWN", why, c.subject) for g in ("G2", "G3")]
    if any(r.status == "REFUTED" for r in records):
        return Verdict(tuple(records))
    unsafe = any(r.kind in ("G2", "G3") and r.status != "PROVED" for r in records)
    if unsafe and not tested:
        why = "not executed: safety is not proved (--require tested runs it in a killable process)"
        records.append(Record("G6.runs", "G6", "UNKNOWN", why, c.subject))
        return Verdict(tuple(records))
    records += _execute(c, op, isa, seed)
    if unsafe:
        records = [_tested_instead(r, records) for r in records]
    return Verdict(tuple(records))


def _safety(program: TileProgram, op: Operator, subject: str) -> list[Record]:
    context = Context.of(op)
    return [replace(r, subject=subject) for r in safety(program, context)]


def _tested_instead(r: Record, records: list[Record]) -> Record:
    """Safety that could not be proved is as good as the test runs that watched for damage."""
    if r.kind not in ("G2", "G3") or r.status != "UNKNOWN":
        return r
    runs = [x for x in records if x.kind == "G6"]
    if any(x.status == "REFUTED" for x in runs):
        return r
    reason = f"{r.reason}; no damage to guarded buffers in the runs of G6"
    return replace(r, status="TESTED", reason=reason)


def _execute(c: Candidate, op: Operator, isa: str, seed: int) -> list[Record]:
    """G6 in a worker process; a crash or a hang is a refutation with the case that caused it."""
    program = c.program or TileProgram(op.name, (), (), _facts(c, op))
    tools = evaluation_tools(op, isa)
    driver = tools.emit_plan(c.plan, c.source)
    judged = replace(
        tools.tools, safety=lambda _: [Record("G2.given", "G2", "TESTED")], emit=lambda _: driver
    )
    digest = "sha256:" + hashlib.sha256(c.source.encode()).hexdigest()
    options = Options(require="TESTED", seed=seed, call_limit=CALL_LIMIT)
    begin = time.perf_counter()
    with CandidateEvaluator(op, judged, options) as evaluator:
        evaluation = evaluator.judge(Job(0, Schedule("given"), program, digest))
    return _numeric_records(evaluation, c, time.perf_counter() - begin)


def _numeric_records(e: Evaluation, c: Candidate, seconds: float) -> list[Record]:
    found = [replace(r, subject=c.subject) for r in e.records if r.kind == "G6"]
    if found:
        return found
    status = "UNKNOWN" if e.status == "unbuilt" else "REFUTED"
    return [Record("G6.runs", "G6", status, e.reason, c.subject, seconds=seconds)]


def _facts(c: Candidate, op: Operator) -> tuple[Expr, ...]:
    names = operator_names(op)
    out = []
    for text in c.plan.facts:
        try:
            out.append(parse_expr(text, names))
        except ExprError as e:
            raise PlanError(f"candidate.json: fact {text!r}: {e}") from None
    return tuple(out)
