"""G8 of a candidate: runs under sanitizers, on a few shapes, of what executes on this machine.

Nothing is proved by a run; it guards against mistakes of the models that proofs stand on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from opwright.backends import isolation
from opwright.backends.cpp import sanitize
from opwright.backends.cpp.build import BuildError
from opwright.backends.cpp.driver import DriverError
from opwright.backends.cpp.sanitize import Finding, Instrumented, Invocation, Part
from opwright.backends.cuda import device_check
from opwright.backends.cuda import sanitize as in_shim
from opwright.compiler.candidates import Candidate
from opwright.compiler.execution import NEAR, literals, program_of
from opwright.compiler.importing import FAILURES, Static, own_subject
from opwright.compiler.toolbox import evaluation_tools
from opwright.ir.expr import evaluate
from opwright.ir.launch import BoundPlan
from opwright.ir.op import Operator
from opwright.ir.record import Record
from opwright.search.calls import arguments, edges, strided
from opwright.verify.inputs import Case, generate
from opwright.verify.memory import Frame
from opwright.verify.sizes import Limits

SHIM = "run on a CPU, its threads as fibres, not on a GPU"
SHIMMED = 4
SMALL = Limits(elements=1 << 13, work=1 << 17)
COUNT = 8
CALLS = 6
LIMIT = 20.0  # seconds of one call
SECONDS = 25.0  # of all calls of one check
FAMILIES = ("normal", "uniform")
CHECKED = {
    "address": "no access outside of a buffer, on the stack or of freed memory",
    "undefined": "no undefined behaviour that the compiler can watch",
    "races": "nothing unordered in a launch touches what something writes",
}
KINDS = {"address": "address", "undefined": "undefined", "race": "races"}
DEVICE = {t: f"device.{t}" for t in device_check.TOOLS}
CHECKED |= {n: f"compute-sanitizer's {t} finds nothing" for t, n in DEVICE.items()}
KINDS |= DEVICE

Built = AbstractContextManager[Instrumented] | AbstractContextManager[device_check.Checker]


def sanitizer_records(
    c: Candidate, static: Static, op: Operator, isa: str, seed: int
) -> list[Record]:
    """G8 of a C++ or CUDA candidate: addresses, undefined behaviour, races."""
    if c.plan.backend == "cuda":
        return _cuda(c, static, op, seed)
    if c.plan.backend != "cpp":
        return []
    subject = own_subject(c)
    try:

        def call(frame: Frame) -> Invocation:
            return _invocation(op, frame)

        emitted = evaluation_tools(op, isa).emit_plan(c.plan, c.source)
        cases = _cases(c, static, op, seed)
        texts = emitted.source, emitted.driver, isa
        out = _checked(
            ("address", "undefined"), lambda: sanitize.checked(*texts), cases, call, subject
        )
        if not any(r.status == "REFUTED" for r in out):
            out += _checked(("races",), lambda: sanitize.logged(*texts), cases, call, subject)
    except (*FAILURES, DriverError) as e:
        why = f"not run under sanitizers ({type(e).__name__}: {str(e)[:200]})"
        return [Record("G8.runs", "G8", "UNKNOWN", why, subject)]
    how = isolation.describe()
    return [replace(r, assumptions=(*r.assumptions, how)) for r in out]


def _cuda(c: Candidate, static: Static, op: Operator, seed: int) -> list[Record]:
    """The text on a CPU, threads of a block as fibres."""
    subject, bound = own_subject(c), static.bound

    def call(frame: Frame) -> Invocation:
        return _launched(bound, frame)

    try:
        cases = _cases(c, static, op, seed)[-SHIMMED:]
        texts = c.source, bound
        out = _checked(
            ("address", "undefined"), lambda: in_shim.checked(*texts), cases, call, subject
        )
        if not any(r.status == "REFUTED" for r in out):
            out += _checked(("races",), lambda: in_shim.logged(*texts), cases, call, subject)
        on_device = [] if device_check.missing() else _on_device(c, bound, cases, call, subject)
    except (*FAILURES, DriverError) as e:
        why = f"not run on a CPU ({type(e).__name__}: {str(e)[:200]})"
        return [Record("G8.runs", "G8", "UNKNOWN", why, subject)]
    how = isolation.describe()
    out = [replace(r, assumptions=(*r.assumptions, SHIM, how)) for r in out]
    return [*out, *(replace(r, assumptions=(*r.assumptions, how)) for r in on_device)]


def _on_device(
    c: Candidate,
    bound: BoundPlan,
    cases: Sequence[tuple[Case, Frame]],
    call: Callable[[Frame], Invocation],
    subject: str,
) -> list[Record]:
    """compute-sanitizer's tools on the same calls, on the GPU of this machine."""
    out: list[Record] = []
    try:
        with device_check.built(c.source, bound, c.plan.target) as program:
            for tool, name in DEVICE.items():
                checker = device_check.Checker(program.path, tool)
                held = partial(_held, checker)
                out += _checked((name,), held, cases, call, subject)
    except BuildError as e:
        why = f"not built for the device: {str(e)[:300]}"
        return [Record("G8.device", "G8", "UNKNOWN", why, subject)]
    return out


def _held(checker: device_check.Checker) -> Built:
    return nullcontext(checker)


def _launched(bound: BoundPlan, frame: Frame) -> Invocation:
    """Buffers, scratch of the plan included, and the shapes and scalars of every launch."""
    case = frame.case
    env: dict[Any, Any] = {**case.params, **case.sizes}
    held = {s.name: s for s in frame.slots}
    for s in frame.slots:
        env |= {(s.name, n): step for n, step in enumerate(s.strides)}
    parts = []
    for b in bound.buffers.values():
        own = held.get(b.name)
        if own is not None:
            data = frame.memory[own.offset : own.offset + own.span].tobytes()
            parts.append(Part(b.name, data, own.item))
            continue
        count = math.prod(max(int(evaluate(e, env)), 0) for e in b.shape) * b.dtype.bytes
        filled = b"\0" if b.init == "zero" else b"\xa5"
        parts.append(Part(b.name, filled * count, b.dtype.bytes))
    ints: list[int] = []
    reals: list[float] = []
    for x in bound.launches:
        grid = [int(evaluate(g, env)) for g in x.grid]
        block = [int(n) for n in x.extra.get("block", (1,))]
        ints += [*grid, 1, 1][:3] + [*block, 1, 1][:3] + [int(x.extra.get("shared_bytes", 0) or 0)]
        for a in in_shim.scalars(x):
            v = evaluate(a.expr, env)
            if a.dtype.kind == "real":
                reals.append(float(v))
            else:
                ints.append(int(v))
    return Invocation(parts, ints, reals)


def _cases(c: Candidate, static: Static, op: Operator, seed: int) -> list[tuple[Case, Frame]]:
    """Calls in dense memory that the plan takes, small ones first."""
    program = program_of(c, static, op)
    facts = [f for f in program.facts if not strided(f)]
    near = tuple(dict.fromkeys((*edges(program), *literals(c)))) or NEAR
    made = generate(op, seed + 8, COUNT, near, SMALL, facts, FAMILIES, False, beyond=near[:2])
    found = []
    for case in sorted(made.cases, key=lambda x: sum(a.size for a in x.inputs.values())):
        frame = Frame(op, case, "dense")
        if frame.satisfies(program.facts):
            frame.fill(seed, "a5", watch=False)
            found.append((case, frame))
    return found[-CALLS:]


def _invocation(op: Operator, frame: Frame) -> Invocation:
    ints, reals = arguments(op, frame)
    parts = []
    for s in frame.slots:
        data = frame.memory[s.offset : s.offset + s.span].tobytes()
        parts.append(Part(s.name, data, s.item))
    return Invocation(parts, ints, reals)


def _checked(
    names: Sequence[str],
    build: Callable[[], Built],
    cases: Sequence[tuple[Case, Frame]],
    invocation: Callable[[Frame], Invocation],
    subject: str,
) -> list[Record]:
    begin = time.perf_counter()

    def all_of(status: str, reason: str) -> list[Record]:
        spent = (time.perf_counter() - begin) / len(names)
        return [Record(f"G8.{n}", "G8", status, reason, subject, seconds=spent) for n in names]

    if not cases:
        return all_of("UNKNOWN", "no small call in dense memory satisfies the facts")
    try:
        with build() as program:
            end = time.monotonic() + SECONDS
            done = 0
            for case, frame in cases:
                call = invocation(frame)
                found = program.run(call, LIMIT)
                done += 1
                if found is not None:
                    again = program.run(call, LIMIT) if found.kind in KINDS else None
                    told = [_told(found, again, case, subject)]
                    return [replace(r, seconds=time.perf_counter() - begin) for r in told]
                if time.monotonic() > end:
                    break
    except BuildError as e:
        return all_of("UNKNOWN", f"not built with sanitizers: {str(e)[:300]}")
    out = all_of("TESTED", "")
    return [replace(r, reason=f"{CHECKED[r.id[3:]]}, {done} calls") for r in out]


def _told(found: Finding, again: Finding | None, case: Case, subject: str) -> Record:
    """A finding: REFUTED where the same call shows it twice."""
    if found.kind not in KINDS:
        why = f"{found.what} on {case}: of which nothing follows"
        return Record("G8.runs", "G8", "UNKNOWN", why, subject)
    name = f"G8.{KINDS[found.kind]}"
    if again != found:
        why = f"{found.text} on {case}, but not a second time"
        return Record(name, "G8", "UNKNOWN", why, subject)
    example: dict[str, Any] = {
        "case": case.name,
        "sizes": dict(case.sizes),
        "params": dict(case.params),
        "message": found.what,
    }
    example |= {"line": found.line} if found.line else {}
    if found.buffer:
        example |= {"buffer": found.buffer}
        example |= {"index": [found.index]} if found.index is not None else {}
    return Record(name, "G8", "REFUTED", f"{found.text} on {case}", subject, (), example)
