"""G7 of a candidate: the runner of its backend, the cases, and the laws of its operator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from opwright.backends import isolation
from opwright.backends.cpp.driver import DriverError
from opwright.compiler.candidates import Candidate
from opwright.compiler.execution import (
    CALL_LIMIT,
    NEAR,
    SECONDS,
    Arrays,
    executes,
    interpreted,
    literals,
    observed,
    program_of,
)
from opwright.compiler.importing import FAILURES, Static, own_subject
from opwright.compiler.shimmed import SHIMMED, NotRun, shimmed
from opwright.compiler.toolbox import evaluation_tools
from opwright.ir.op import Operator
from opwright.ir.record import Record
from opwright.ir.tileops import guesses
from opwright.search.calls import Runner, edges, strided
from opwright.search.evaluate import CandidateEvaluator
from opwright.search.results import Given, Job, Options
from opwright.search.space import Schedule
from opwright.verify.inputs import Case, generate
from opwright.verify.law_gate import law_gate
from opwright.verify.memory import slots
from opwright.verify.numeric import Run
from opwright.verify.sizes import Limits

SMALL = Limits(elements=1 << 12, work=1 << 16)
TINY = Limits(elements=1 << 9, work=1 << 15)  # where an interpreter runs it
COUNT = 8
FAMILIES = ("normal", "uniform", "ties", "normal")
READ = "what was read of the text was run over the reals"


class _NotRun(Exception):
    """Nothing here runs it."""


def law_records(
    c: Candidate, static: Static, op: Operator, isa: str, seed: int, permitted: bool = True
) -> list[Record]:
    """G7 of a candidate; of one that nothing here executes, or that is not `permitted` to run, what
    is wrong of the program that was read of it."""
    ran = permitted and executes(c)
    subject = own_subject(c)
    program = program_of(c, static, op)
    facts = [f for f in program.facts if not strided(f)]
    near = tuple(dict.fromkeys((*edges(program), *literals(c)))) or NEAR
    limits = SMALL if c.plan.backend == "cpp" else TINY
    made = generate(op, seed + 5, COUNT, near, limits, facts, FAMILIES, False, beyond=near[:2])
    try:
        if ran and c.plan.backend == "cuda":
            found = _in_shim(c, static, op, isa, seed, made.cases)
        else:
            with _runner(c, static, op, isa, seed, made.cases, ran) as run:
                found = law_gate(op, made.cases, run, subject)
    except (_NotRun, NotRun) as e:
        return [Record("G7.runs", "G7", "UNKNOWN", str(e), subject)]
    except (*FAILURES, DriverError) as e:
        why = f"it could not be run ({type(e).__name__}: {str(e)[:200]})"
        return [Record("G7.runs", "G7", "UNKNOWN", why, subject)]
    if ran:
        how = isolation.describe()
        return [replace(r, assumptions=(*r.assumptions, how)) for r in found]
    return [_read_only(r) for r in found]


def _read_only(r: Record) -> Record:
    """What holds of a program that was read is not tested of a text that nothing executes."""
    status = "UNKNOWN" if r.status == "TESTED" else r.status
    return replace(r, status=status, reason=f"{r.reason}; {READ}", assumptions=(READ,))


def _in_shim(
    c: Candidate, static: Static, op: Operator, isa: str, seed: int, cases: tuple[Case, ...]
) -> list[Record]:
    """The laws of a CUDA text on the CPU."""
    program = program_of(c, static, op)
    options = Options(require="TESTED", seed=seed, call_limit=CALL_LIMIT, cases=1)
    with shimmed(c, op, program, isa, options, static.safe, SECONDS, cases) as run:
        found = law_gate(op, cases, run, own_subject(c))
        if run.unable:
            raise NotRun(run.unable)
    return [replace(r, assumptions=(*r.assumptions, SHIMMED)) for r in found]


@contextmanager
def _runner(
    c: Candidate,
    static: Static,
    op: Operator,
    isa: str,
    seed: int,
    cases: tuple[Case, ...],
    ran: bool = True,
) -> Iterator[Run]:
    program = program_of(c, static, op)
    if not ran:
        if not program.kernels or guesses(program):
            raise _NotRun(f"nothing here executes {c.plan.source}")
        yield interpreted(op, program)
    elif c.plan.backend == "triton":
        yield from _in_triton(c, static, op)
    elif c.plan.backend == "cpp":
        tools = evaluation_tools(op, isa)
        emitted = tools.emit_plan(c.plan, c.source)
        given = Given(c.digest, emitted, (Record("G2.given", "G2", "TESTED"),))
        options = Options(require="TESTED", seed=seed, call_limit=CALL_LIMIT, cases=1)
        with CandidateEvaluator(op, tools.tools, options, ()) as owner:
            job = Job(0, Schedule("given"), program, c.digest, given)
            emitted, built = owner._library(job)
            room = [slots(op, x, layout)[1] for x in cases for layout in ("dense", "gapped")]
            shared = owner._arena(4 * max(room, default=0) + (1 << 16))
            run = Runner(owner, program, emitted.plan, built, shared)
            try:
                yield run
            finally:
                run.close()
    else:
        raise _NotRun(f"this version does not run the laws of {c.plan.backend} candidates")


def _in_triton(c: Candidate, static: Static, op: Operator) -> Iterator[Run]:
    from importlib.util import find_spec

    if find_spec("triton") is None:
        raise _NotRun("this installation runs no Triton kernels; pip install triton")
    from opwright.backends.triton import run

    with run.Interpreter(c.source, static.bound) as interpreter:

        def call(case: Case, views: Arrays) -> Arrays:
            found: Arrays = interpreter.run(views, case.sizes, case.params, CALL_LIMIT * 3)
            return found

        yield observed(op, program_of(c, static, op).facts, call, (run.RunError,))
