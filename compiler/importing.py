"""Reading a candidate's text back: which importer, what it says, and the gates on what it read.

The proof's subject is the text. Where no importer understands it, a text that our printer makes of
the TileIR beside it stands on the printer; any other has UNKNOWN safety.
"""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from opwright.backends.triton.ttir import is_text
from opwright.compiler.candidates import Candidate
from opwright.compiler.causes import with_causes
from opwright.compiler.proof_cache import about, remembered
from opwright.compiler.signatures import check_expressions, check_signatures
from opwright.ir.delinearize import seen_flat
from opwright.ir.launch import BoundPlan, ImportRefusal, bind_plan
from opwright.ir.op import Operator
from opwright.ir.record import ORDER, Record, weakest
from opwright.ir.spent import part
from opwright.ir.tile import Atomic, Check, Def, Store, TileProgram, statements
from opwright.verify.context import Context
from opwright.verify.gates import safety
from opwright.verify.policy import Breach, policy_records, precision_records
from opwright.verify.tile_function import tile_function

SAFETY = ("G2", "G3")
# what a defect of an importer may look like: the text is then as good as not understood
FAILURES = (ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError,
            RuntimeError, OSError, MemoryError)  # fmt: skip
PASSED = {
    "cpp": "headers, calls, attributes and declarations are among those allowed; no state",
    "cuda": "kernels and what they call on the device; no host code, no state, no clocks",
    "triton": "nothing but imports of the language, constants and kernels at module level",
    "jax": "nothing but imports of the framework, constants and functions at module level",
    "pallas": "nothing but imports of the framework, constants and functions at module level",
}


@dataclass(frozen=True, slots=True, eq=False)
class Static:
    """What is known of a candidate before it runs: records of G0 to G3, the program that was read
    (None where none was), and the plan bound to the operator."""

    records: tuple[Record, ...]
    program: TileProgram | None
    bound: BoundPlan

    @property
    def refuted(self) -> bool:
        return any(r.status == "REFUTED" for r in self.records)

    @property
    def safe(self) -> bool:
        return all(self.gate(g) == "PROVED" for g in SAFETY)

    def gate(self, kind: str) -> str:
        return weakest(r.status for r in self.records if r.kind == kind)


def static_gates(
    c: Candidate,
    op: Operator,
    prove: bool = True,
    budget: float | None = None,
    early: Callable[[Static], list[Record]] | None = None,
    function: bool = True,
) -> Static:
    """G0 to G3 of a candidate; the first gate that refutes ends it. PlanError for a plan that does
    not fit its source or the operator. Without `prove` a text that reads back as its own TileIR is
    not proved again. `budget` bounds the questions of its proofs, in seconds. `early` is a gate on
    what was read that comes before proofs; where it refutes, it is the last. `function`: G5 too."""
    bound = bind_plan(c.plan, op)
    check_expressions(bound)
    check_signatures(c.plan, c.source, op)
    records = policy(c)
    if any(r.status == "REFUTED" for r in records):
        return Static(tuple(records), None, bound)
    if c.plan.backend == "jax":
        from opwright.compiler.functional import functional_gates

        return Static((*records, *functional_gates(c, op)), None, bound)
    context = Context.of(op)
    context = context if budget is None else replace(context, budget=budget)
    with about(c, op):
        return _tile_gates(c, op, bound, records, prove, context, early, function)


def compiled(c: Candidate) -> list[Record]:
    """G1 by the device's own compiler: whether a CUDA text compiles, where there is an nvcc."""
    if c.plan.backend != "cuda":
        return []
    from opwright.backends import isolation
    from opwright.backends.cpp.build import BuildError
    from opwright.backends.cuda.build import compiles

    begin = time.perf_counter()
    try:
        wrong = compiles(c.source, c.plan.source, c.plan.target)
    except (BuildError, isolation.Refused) as e:
        return [Record("G1.nvcc", "G1", "UNKNOWN", f"not compiled: {e}", own_subject(c))]
    spent = time.perf_counter() - begin
    status, reason = ("REFUTED", wrong) if wrong else ("PROVED", "nvcc compiles the text")
    return [Record("G1.nvcc", "G1", status, reason, own_subject(c), seconds=spent)]


def own_subject(c: Candidate) -> str:
    """The text as the subject of a record."""
    return f"{c.plan.source} {c.digest}"


# -- policy ----------------------------------------------------------------------------------------


@part("G0")
def policy(c: Candidate) -> list[Record]:
    """G0 on the text."""
    begin = time.perf_counter()
    subject = own_subject(c)
    try:
        module = importlib.import_module(f"opwright.backends.{c.plan.backend}.policy")
    except ModuleNotFoundError:
        why = f"this version has no policy for {c.plan.backend} texts"
        return [Record("G0.policy", "G0", "UNKNOWN", why, subject)]
    found: list[Breach] = []
    try:
        module.check_policy(c.source, c.plan.source)
    except ImportRefusal as e:
        found = [Breach(e.what, f"{e.file}:{e.line}" if e.line else e.file)]
    passed = PASSED.get(c.plan.backend, "the text")
    if c.plan.backend == "triton" and is_text(c.plan.source):
        passed = "an intermediate form, which is read and not executed"
    return policy_records("policy", found, passed, subject, time.perf_counter() - begin)


# -- programs --------------------------------------------------------------------------------------


def _tile_gates(
    c: Candidate,
    op: Operator,
    bound: BoundPlan,
    records: list[Record],
    prove: bool,
    context: Context,
    early: Callable[[Static], list[Record]] | None = None,
    function: bool = True,
) -> Static:
    subject = own_subject(c)
    begin = time.perf_counter()
    views: dict[str, Any] = {}
    if c.program is not None and (flat := seen_flat(c.program, bound.buffers)):
        views = {"flat": flat} if c.plan.backend == "cpp" else {}
    if c.plan.backend == "pallas":
        views = {"op": op}
    program, why = read_back(c, bound, **views)
    spent = time.perf_counter() - begin
    if program is None and c.program is None:
        records.append(Record("G1.import", "G1", "UNKNOWN", why, subject, seconds=spent))
        text = "the source was not read, so nothing is known about its accesses"
        records += [Record(f"{g}.import", g, "UNKNOWN", text, subject) for g in SAFETY]
        return Static(tuple(records), None, bound)
    if program is None:
        assert c.program is not None
        reason = f"{c.plan.source} is what the printer makes of the TileIR; not read back: {why}"
        records.append(Record("G1.import", "G1", "PROVED", reason, c.subject, seconds=spent))
        proved = _prove(c.program, context, c.subject)
        return Static((*records, *proved), c.program, bound)
    same = c.program is not None and (_same(program, c.program) or _same_pieces(c, bound))
    count = len(program.kernels)
    reason = (
        f"{c.plan.source} reads back as the TileIR that it was printed from"
        if same
        else f"read back: {count} kernel" + ("" if count == 1 else "s")
    )
    records.append(Record("G1.import", "G1", "PROVED", reason, subject, seconds=spent))
    records += writes_to_inputs(program, subject)
    with part("G0"):
        records += precision_records(program, op, subject)
    if any(r.status == "REFUTED" for r in records):
        return Static(tuple(records), program, bound)
    if same and not prove:
        return Static(tuple(records), program, bound)
    if early is not None:
        records += early(Static(tuple(records), program, bound))
        if any(r.status == "REFUTED" for r in records):
            return Static(tuple(records), program, bound)
    # a normal form leaves out hints of placement, which are obligations of what was printed, and
    # checks (wraps of a text's integers), which are obligations of what was read
    own = _prove(c.program, context, subject) if same and c.program is not None else []
    refuted = any(r.status == "REFUTED" for r in own)
    if same and c.program is not None and (refuted or not _stated(program)):
        judged, proved = c.program, own
    else:
        judged, proved = _foreign(c, bound, program, context, subject)
        if any(r.status == "REFUTED" for r in proved):
            proved = with_causes(c, bound, judged, context, proved)
        checks = _checks(program, proved)
        if same and c.program is not None and not _weak(checks):
            judged, proved = c.program, [*own, *checks]
    known = _function(judged, op, proved, subject) if function else []
    return Static((*records, *proved, *known), judged, bound)


@part("G5")
def _function(
    program: TileProgram, op: Operator, proved: Sequence[Record], subject: str
) -> list[Record]:
    """G5 of a program that is safe and determined: what else it does is then what it stores."""
    weak = next((r for r in proved if r.kind in SAFETY and r.status != "PROVED"), None)
    if weak is not None:
        why = f"it stands on {weak.kind}, of which {weak.id} is {weak.status}"
        return [Record(f"G5.{t.name}", "G5", "UNKNOWN", why, subject) for t in op.outputs]
    return remembered("function", program, None, lambda: tile_function(program, op, subject))


def writes_to_inputs(program: TileProgram, subject: str) -> list[Record]:
    """G2.inputs of a program that stores to what it may only read; nothing else holds of it."""
    for k in program.kernels:
        for s in statements(k.body):
            if not isinstance(s, Store | Atomic) or s.buffer.role != "in":
                continue
            line = k.lines.get(s.name, "")
            what = f"kernel {k.name} writes to {s.buffer.name}, which is an input"
            example = {"kernel": k.name, "buffer": s.buffer.name, "statement": s.name}
            if line:
                example["line"] = line
            reason = f"{line}: {what}" if line else what
            return [Record("G2.inputs", "G2", "REFUTED", reason, subject, (), example)]
    return []


def _checks(program: TileProgram, records: Sequence[Record]) -> list[Record]:
    """The records of what a program states of itself."""
    stated = _stated(program)
    return [r for r in records if r.id.rpartition(".")[2] in stated]


def _stated(program: TileProgram) -> set[str]:
    """Names of what a program states of itself."""
    return {s.name for k in program.kernels for s in statements(k.body) if isinstance(s, Check)}


def _weak(records: Sequence[Record]) -> bool:
    return any(r.status != "PROVED" for r in records)


@part("G1")
def read_back(c: Candidate, bound: BoundPlan, **options: Any) -> tuple[TileProgram | None, str]:
    """The program of a text, or why there is none."""
    backend = c.plan.backend
    try:
        module = importlib.import_module(f"opwright.backends.{backend}.importer")
    except ModuleNotFoundError as e:
        own = (e.name or "").startswith("opwright.backends")
        return None, f"this version reads no {backend} texts back" if own else f"{e.msg}"
    try:
        return module.import_program(c.source, bound, c.plan.source, **options), ""
    except ImportRefusal as e:
        return None, str(e)
    except FAILURES as e:
        return None, f"the importer failed on this text ({type(e).__name__}: {_first(e)})"


def _first(e: Exception) -> str:
    return next(iter(str(e).splitlines()), "")[:300]


@part("G1")
def _same(a: TileProgram, b: TileProgram) -> bool:
    """Whether two programs are one up to names and order: what a text says, and what it was printed
    from."""
    try:
        module = importlib.import_module("opwright.ir.normal")
        return bool(module.normal_form(a) == module.normal_form(b))
    except (ModuleNotFoundError, *FAILURES):
        return False


@part("G1")
def _same_pieces(c: Candidate, bound: BoundPlan) -> bool:
    """The same, compared piece by piece as the printer unrolls a program."""
    try:
        module = importlib.import_module(f"opwright.backends.{c.plan.backend}.pieces")
        return bool(module.reads_back(c.source, bound, c.plan.source, c.program))
    except (ModuleNotFoundError, ImportRefusal, *FAILURES):
        return False


@part("G2")
def _prove(program: TileProgram, context: Context, subject: str) -> list[Record]:
    """G1.structure, G2 and G3 of one program."""
    try:
        found = remembered("safety", program, context, lambda: safety(program, context))
        return [replace(r, subject=subject) for r in found]
    except FAILURES as e:
        why = f"the prover failed on this program ({type(e).__name__}: {_first(e)})"
        return [Record(f"{g}.prover", g, "UNKNOWN", why, subject) for g in SAFETY]


def _foreign(
    c: Candidate, bound: BoundPlan, program: TileProgram, context: Context, subject: str
) -> tuple[TileProgram, list[Record]]:
    """The best of what can be said of a text, and of which reading: as it is read, and, where that
    falls short, under zero fill of masked loads."""
    plain = _understood(_prove(program, context, subject), subject)
    if not _weak(plain) or c.plan.backend not in ("triton", "cuda"):
        return program, plain
    program, plain = _flattened(c, bound, program, context, subject, plain)
    if c.plan.backend != "triton":
        return program, plain
    if not any(_about_poison(r) for r in plain if r.status != "PROVED"):
        return program, plain
    filled, _ = read_back(c, bound, zero_fill=True)
    if filled is None:
        return program, plain
    assumed = assuming(_understood(_prove(filled, context, subject), subject), plain, filled)
    return (filled, assumed) if _rank(assumed) > _rank(plain) else (program, plain)


def _flattened(
    c: Candidate,
    bound: BoundPlan,
    program: TileProgram,
    context: Context,
    subject: str,
    plain: list[Record],
) -> tuple[TileProgram, list[Record]]:
    """The same with dense buffers as one axis, where an index that was read out of addresses was
    not shown to be in bounds: better, or what there was."""
    open_ = {r.id.rpartition(".")[2] for r in plain if r.status == "UNKNOWN" and ".bounds." in r.id}
    touched: set[str] = set()
    for s in (s for k in program.kernels for s in statements(k.body)):
        if isinstance(s, (Store, Atomic)) and s.name in open_:
            touched.add(s.buffer.name)
        elif isinstance(s, Def) and s.value.op == "load" and s.value.name in open_:
            touched.add(s.value.attr.buffer.name)
    if not touched or any(r.status == "REFUTED" for r in plain):
        return program, plain
    flat, _ = read_back(c, bound, flat=sorted(touched))
    if flat is None or _same(flat, program):
        return program, plain
    found = _understood(_prove(flat, context, subject), subject)
    return (flat, found) if _rank(found) > _rank(plain) else (program, plain)


def _about_poison(r: Record) -> bool:
    return re.search(r"poison|undefined|masked|other|fill", f"{r.id} {r.reason}") is not None


def assuming(
    records: Sequence[Record], plain: Sequence[Record], program: TileProgram
) -> list[Record]:
    """What is proved only under an assumption of the program is ASSUMED, and says so."""
    words = "; ".join(program.assumes) or "zero fill of masked loads"
    proved = {r.id for r in plain if r.status == "PROVED"}
    out = []
    for r in records:
        if r.status == "PROVED" and r.kind in SAFETY and r.id not in proved:
            reason = f"PROVED (assuming {words})" + (f"; {r.reason}" if r.reason else "")
            r = replace(r, status="ASSUMED", reason=reason)
        if r.kind in SAFETY:
            r = replace(r, assumptions=(*r.assumptions, words))
        out.append(r)
    kept = {r.id for r in out}
    for r in plain:  # with a fill there is no poison to speak of: that is what is assumed
        if r.kind in SAFETY and r.status != "PROVED" and r.id not in kept:
            reason = f"PROVED (assuming {words}); without it: {r.reason}"
            out.append(
                replace(
                    r,
                    status="ASSUMED",
                    reason=reason,
                    assumptions=(*r.assumptions, words),
                    counterexample=None,
                )
            )
    return out


def _rank(records: Sequence[Record]) -> tuple[int, int]:
    """How good a set of records is: its weakest first, then how many are as weak."""
    worst = weakest(r.status for r in records)
    return ORDER.index(worst), -sum(r.status == worst for r in records)


def _understood(records: Sequence[Record], subject: str) -> list[Record]:
    """A program without a meaning says that the text was not understood, not that it is wrong."""
    if not any(r.kind == "G1" and r.status == "REFUTED" for r in records):
        return list(records)
    out = [replace(r, status="UNKNOWN") if r.status == "REFUTED" else r for r in records]
    why = "what was read has no meaning as a program"
    return [*out, *(Record(f"{g}.import", g, "UNKNOWN", why, subject) for g in SAFETY)]
