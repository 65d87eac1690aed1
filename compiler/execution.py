"""G6 on any candidate: what runs it, on which cases, and the records of the numeric gate.

Inputs, references and verdicts stay in this process. A library runs in a worker that can be killed,
a Triton kernel in the interpreter of the language, a function of arrays in a process of its own.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.backends import isolation
from opwright.backends.cpp.driver import DriverError
from opwright.backends.triton.ttir import is_text
from opwright.compiler.candidates import Candidate
from opwright.compiler.functional import functional_numeric
from opwright.compiler.importing import Static
from opwright.compiler.kept_bounds import bound_records
from opwright.compiler.shimmed import SHIMMED, NotRun, shimmed
from opwright.compiler.toolbox import Toolbox, evaluation_tools
from opwright.ir.binding import InputError
from opwright.ir.dtypes import decode, encode
from opwright.ir.expr import Expr, ExprError, evaluate, pid
from opwright.ir.interpreter import Trap
from opwright.ir.interpreter import run as interpret
from opwright.ir.op import Operator
from opwright.ir.plan import PlanError
from opwright.ir.record import Record
from opwright.ir.tile import Def, For, If, Stmt, TileProgram, alignments, row_major
from opwright.ir.tileops import guesses
from opwright.search.calls import LARGEST_SIZE, at_once, edges, singled_out, strided
from opwright.search.evaluate import CandidateEvaluator
from opwright.search.results import Given, Job, Options
from opwright.search.space import Schedule
from opwright.verify.draw import holds
from opwright.verify.inputs import Case, generate
from opwright.verify.memory import GUARDED, Frame
from opwright.verify.numeric import Bound, Observation, bounds, numeric
from opwright.verify.sizes import Limits
from opwright.verify.told import planted

NEAR = (8, 16, 32, 64)
LARGEST = 8192  # of a block that test sizes straddle
CASES = 18
CALL_LIMIT = 10.0  # seconds for one test call of a small case
INTERPRETED = "run by the language's interpreter on the CPU, not on a GPU"
READ = "what was read of the text was run over the reals"
# an interpreter takes milliseconds for every operation of every program
SLOW_LIMITS = Limits(elements=1 << 13)
SLOW_CASES = 10
KERNEL_CASES = 6  # each is compiled anew
FULL_CASES = 3  # with elements: fewer are too few
RISING = (
    "normal",
    "sorted",
    "uniform",
    "ties",
)  # what one block hands to the next differs in these
APART = 8  # sizes of a text's own that are tested
SECONDS = 30.0  # of all calls of a CUDA text
MOST_THREADS = 1 << 26  # statements of threads in one call of it
MOST_STEPS = 4000  # of statements that a case runs there, over all programs


def execute(
    c: Candidate, static: Static, op: Operator, isa: str, seed: int, permitted: bool = True
) -> list[Record]:
    """Records of G6 about a candidate; without `permitted` about what was read of it alone."""
    begin = time.perf_counter()
    ran = permitted and executes(c)
    if not ran:
        found = _understood(c, static, op, isa, seed, permitted)
    elif c.plan.backend == "cuda":
        found, ran = _in_shim(c, static, op, isa, seed)
    elif c.plan.backend == "cpp":
        found = _library(c, static, op, isa, seed)
    elif c.plan.backend == "triton":
        found = _interpreted(c, static, op, isa, seed)
    elif c.plan.backend in ("jax", "pallas"):
        found = _functional(c, static, op, isa, seed)
    else:
        why = f"this version does not run {c.plan.backend} candidates"
        found = [Record("G6.runs", "G6", "UNKNOWN", why)]
    spent = time.perf_counter() - begin
    if ran:
        how = isolation.describe()
        said = [(*r.assumptions, *(() if how in r.assumptions else (how,))) for r in found]
        found = [replace(r, assumptions=a) for r, a in zip(found, said, strict=True)]
    found = [replace(r, subject=f"{c.plan.source} {c.digest}") for r in found]
    return [replace(found[0], seconds=spent), *found[1:]] if found else []


def executes(c: Candidate) -> bool:
    """Whether code of a candidate runs here; else only what was read of it is computed."""
    return not (c.plan.backend == "triton" and is_text(c.plan.source))


def readable(c: Candidate) -> bool:
    """Whether what was read of a candidate is computed where the candidate is not run."""
    return c.plan.backend == "cuda" or not executes(c)


def literals(c: Candidate) -> tuple[int, ...]:
    """Numbers in a text and its plan that may be blocks: sizes next to them are tested."""
    plan = [*(g for launch in c.plan.launches for g in launch.grid)]
    text = "\n".join([re.sub(r"//[^\n]*|/\*.*?\*/", " ", c.source, flags=re.S), *plan])
    found = {int(n) for n in re.findall(r"(?<![\w.])(\d{1,4})(?:[uUlL]*)(?![\w.])", text)}
    found |= {n for x in c.plan.launches for n in x.const.values() if isinstance(n, int)}
    return tuple(sorted(n for n in found if 2 <= n <= LARGEST and n not in NEAR))[:12]


def branches(source: str) -> tuple[int, ...]:
    """Whole numbers of a text of arrays, and the next ones: a size may be compared with them."""
    found = {int(n) for n in re.findall(r"(?<![\w.])(\d{1,6})(?![\w.])", source)}
    near = (m for n in sorted(found) if n > 2 for m in (n, n + 1))
    return tuple(m for m in near if m <= LARGEST_SIZE)[: 2 * APART]


def program_of(c: Candidate, static: Static, op: Operator) -> TileProgram:
    """What was read of a candidate; without that a program that holds its facts alone."""
    return static.program or TileProgram(op.name, (), (), static.bound.facts)


# -- libraries -------------------------------------------------------------------------------------


def _library(c: Candidate, static: Static, op: Operator, isa: str, seed: int) -> list[Record]:
    """A worker process calls it on guarded buffers; a crash or a hang is a refutation."""
    tools = evaluation_tools(op, isa)
    try:
        emitted = tools.emit_plan(c.plan, c.source)
    except DriverError as e:
        raise PlanError(f"candidate.json: {e}") from None
    given = Given(c.digest, emitted, (Record("G2.given", "G2", "TESTED"),))
    # what is proved stays inside its buffers; what is not is watched at every border
    options = Options(
        require="TESTED", seed=seed, call_limit=CALL_LIMIT, guarded=not static.safe, cases=CASES
    )
    program = program_of(c, static, op)
    with CandidateEvaluator(op, tools.tools, options, NEAR, literals(c)) as evaluator:
        judged = evaluator.judge(Job(0, Schedule("given"), program, c.digest, given))
    found = [r for r in judged.records if r.kind == "G6"]
    if found:
        error = judged.build.get("error")
        return found + bound_records(c, op, None if error is None else float(error))
    status = "UNKNOWN" if judged.status == "unbuilt" else "REFUTED"
    return [Record("G6.runs", "G6", status, judged.reason)]


# -- other runners ---------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Cases:
    """Test cases of an operator and their reference values."""

    op: Operator
    tools: Toolbox
    cases: list[Case]
    notes: list[str]
    known: dict[int, tuple[Case, Mapping[str, Bound]]]  # with the case, whose identity is the key

    @staticmethod
    def of(
        op: Operator,
        isa: str,
        seed: int,
        program: TileProgram,
        count: int,
        near: Sequence[int] = (),
        text: str = "",
        sizes: Sequence[int] = (),
    ) -> _Cases:
        facts = [f for f in program.facts if not strided(f)]
        near = tuple(dict.fromkeys((*edges(program), *near))) or NEAR
        made = generate(op, seed, count, near, SLOW_LIMITS)
        own = generate(
            op,
            seed + 1,
            count // 2 + 1,
            near,
            SLOW_LIMITS,
            facts,
            RISING,
            specials=False,
            beyond=near,
        )
        apart = singled_out(program)[:APART] or tuple((s, n) for n in sizes for s in op.sizes)
        limits = Limits(LARGEST_SIZE) if sizes else SLOW_LIMITS
        families = ("normal", "uniform")
        alone = generate(
            op, seed + 2, len(apart), (), limits, facts, families, False, exactly=apart,
            together=at_once(apart[:APART]),
        ).cases if apart else ()  # fmt: skip
        out = _Cases(op, evaluation_tools(op, isa), [], [*made.notes], {})
        told = planted(op, (*made.cases, *own.cases), text, seed)
        for case in (*made.cases, *_small(op, made.cases), *_turned(op, own.cases), *alone, *told):
            if out.has_bound(case):
                out.cases.append(case)
        return out

    def has_bound(self, case: Case) -> bool:
        """Whether a case has reference values; a note where it has none."""
        try:
            self.bound(case)
        except InputError as e:
            self.notes.append(f"{case} left out: {e}")
            return False
        return True

    def keep(self, program: TileProgram, seed: int, steps: Callable[[Case], float]) -> None:
        """Those that take few steps; smaller ones beside them until some have elements, and the
        cheapest one at any cost: a test of nothing tells nothing."""
        every = self.cases
        self.cases = [x for x in every if steps(x) <= MOST_STEPS]
        facts = [f for f in program.facts if not strided(f)]
        for size in (10, 8, 6):
            if sum(map(_full, self.cases)) >= FULL_CASES:
                return
            limits = Limits(elements=1 << size)
            made = generate(
                self.op, seed + size, SLOW_CASES, (), limits, facts, RISING, specials=False
            )
            self.cases += [
                x for x in made.cases if _full(x) and steps(x) <= MOST_STEPS and self.has_bound(x)
            ]
        if not any(map(_full, self.cases)):
            self.cases += sorted(filter(_full, every), key=steps)[:1]

    def again(self, program: TileProgram, seed: int, bearable: Callable[[Case], bool]) -> None:
        """Cases in which loops run again that no case so far runs more than once."""
        idle = {s.variable for k in program.kernels for s in _loops(k.body)}
        for case in self.cases:
            idle -= _repeated(program, {**case.params, **case.sizes})
        facts = [f for f in program.facts if not strided(f)]
        for n in (256, 512, 1024, 1536, 2560):
            far = 2 * n + n // 2 + 1
            params = self.cases[0].params if self.cases else {}
            reached = [
                s
                for s in self.op.sizes
                if idle & _repeated(program, {**params, **dict.fromkeys(self.op.sizes, 1), s: far})
            ]
            if not idle or not reached:
                continue
            count = len(self.op.sizes)
            limits, near = SLOW_LIMITS, (n,)
            made = generate(self.op, seed + n, count, (), limits, facts, RISING, False, near)
            for case in _turned(self.op, made.cases):
                found = idle & _repeated(program, {**case.params, **case.sizes})
                if not found or not bearable(case) or not self.has_bound(case):
                    continue
                self.cases.append(case)
                idle -= found

    def bound(self, case: Case) -> Mapping[str, Bound]:
        if id(case) not in self.known:
            self.known[id(case)] = case, bounds(self.op, case, self.tools.tools.reference)
        return self.known[id(case)][1]


def _full(case: Case) -> bool:
    """Whether every input has elements."""
    return all(x.size for x in case.inputs.values())


def _turned(op: Operator, cases: Sequence[Case]) -> Iterator[Case]:
    """Cases, and those of one sorted row in the other order, too: what rises tells what falls
    does not."""
    real = {t.name for t in op.inputs if t.kind == "real"}
    for case in cases:
        yield case
        rows = {n: x for n, x in case.inputs.items() if n in real and x.ndim}
        if (
            case.family != "sorted"
            or not rows
            or any(x.shape[0] > 1 < x.ndim for x in rows.values())
        ):
            continue
        turned = {n: np.ascontiguousarray(x[..., ::-1]) for n, x in rows.items()}
        inputs = {**case.inputs, **turned}
        if not holds(op, inputs, case.sizes, case.params):
            yield replace(case, name=f"{case.name}.turned", inputs=inputs)


def _small(op: Operator, cases: Sequence[Case]) -> Iterator[Case]:
    """A case with numbers of a thousandth: what is added to keep a divisor from zero shows."""
    real = [t for t in op.inputs if t.dtype.kind == "real"]
    wide = all(t.dtype.exponent >= 8 for t in (*real, *op.outputs) if t.dtype.kind == "real")
    if not real or not wide:
        return  # a product of such numbers may be below the least one of the type
    for case in cases:
        if case.family == "normal" and all(case.inputs[t.name].size for t in real):
            scaled = {
                t.name: encode(decode(case.inputs[t.name], t.dtype) * 2.0**-10, t.dtype)
                for t in real
            }
            inputs = {**case.inputs, **scaled}
            if not holds(op, inputs, case.sizes, case.params):
                yield replace(case, name=f"{case.name}.small", inputs=inputs)
            return


Arrays = Mapping[str, NDArray[Any]]
Call = Callable[[Case, Arrays], Arrays]  # inputs and poisoned outputs -> outputs, stored form


def observed(
    op: Operator, facts: Sequence[Expr], call: Call, failures: tuple[type[Exception], ...]
) -> Callable[[Case, str], Observation | None]:
    """Runs on buffers laid out like those of a library; the runner guards its own memory."""

    def run(case: Case, layout: str) -> Observation | None:
        frame = Frame(op, case, layout)
        if not frame.satisfies(facts):
            return None
        frame.fill(0)
        views = {s.name: frame.array(s.name) for s in frame.slots}
        try:
            found = call(case, views)
        except failures as e:
            return Observation(failure=str(e))
        # a number stays one: ascontiguousarray would make an axis
        return Observation({t.name: np.array(found[t.name], order="C") for t in op.outputs})

    return run


def _interpreted(c: Candidate, static: Static, op: Operator, isa: str, seed: int) -> list[Record]:
    try:
        run = importlib.import_module("opwright.backends.triton.run")
        importlib.import_module("triton")
    except ModuleNotFoundError as e:
        why = f"this installation runs no Triton kernels ({e.msg}); pip install triton"
        return [Record("G6.runs", "G6", "UNKNOWN", why)]
    program = program_of(c, static, op)
    cases = _Cases.of(op, isa, seed, program, SLOW_CASES, literals(c), c.source)
    cases.keep(program, seed, lambda x: _steps(static, x))
    cases.again(program, seed, lambda x: _steps(static, x) <= MOST_STEPS)
    unable: list[str] = []
    with run.Interpreter(c.source, static.bound) as interpreter:

        def call(case: Case, views: Arrays) -> Arrays:
            try:
                found: Arrays = interpreter.run(views, case.sizes, case.params, CALL_LIMIT * 3)
            except run.NotInterpreted as e:
                unable.append(str(e))
                raise
            return found

        judge = observed(op, program.facts, call, (run.RunError,))
        found = numeric(op, cases.cases, judge, cases.bound, "", cases.notes, ("offset", "rows"))
    if unable:
        why = f"the interpreter of the language cannot run it: {unable[0]}"
        return [Record("G6.runs", "G6", "UNKNOWN", why)]
    records = [*found.records, *bound_records(c, op, found.error)]
    return [_said(r, INTERPRETED) for r in records]


def _in_shim(
    c: Candidate, static: Static, op: Operator, isa: str, seed: int
) -> tuple[list[Record], bool]:
    """A CUDA text on the CPU; what was read of it where that cannot be. Whether it ran."""
    program = program_of(c, static, op)
    cases = _Cases.of(op, isa, seed, program, CASES, literals(c), c.source)
    cases.cases = [x for x in cases.cases if _threads(static, x) <= MOST_THREADS]
    options = Options(
        require="TESTED", seed=seed, call_limit=CALL_LIMIT, guarded=not static.safe, cases=1
    )
    guarded = () if static.safe else GUARDED
    try:
        with shimmed(c, op, program, isa, options, static.safe, SECONDS, cases.cases) as run:

            def call(case: Case, layout: str) -> Observation | None:
                return run.unless_nan(run(case, layout), case, cases.bound)

            found = numeric(op, cases.cases, call, cases.bound, "", cases.notes, everywhere=guarded)
            if run.unable:
                raise NotRun(run.unable)
            said = run.said
    except NotRun as e:
        return _understood(c, static, op, isa, seed, True, str(e)), False
    records = [*found.records, *bound_records(c, op, found.error)]
    tested = next((n for n, r in enumerate(records) if r.status == "TESTED"), None)
    if tested is not None and said:
        records[tested] = replace(records[tested], reason=records[tested].reason + said)
    return [_said(r, SHIMMED) for r in records], True


def _threads(static: Static, case: Case) -> float:
    """About how many statements the threads of a call run in all its launches."""
    block = max((math.prod(x.extra.get("block", (1,))) for x in static.bound.launches), default=1)
    return _steps(static, case) * block


def _understood(
    c: Candidate,
    static: Static,
    op: Operator,
    isa: str,
    seed: int,
    permitted: bool = True,
    unable: str = "",
) -> list[Record]:
    """Runs what was read of a text that nothing here executes: over the reals, so that it may be
    wrong, but is never tested. `unable` says why it is not executed."""
    program = program_of(c, static, op)
    nothing = f"nothing here executes {c.plan.source}" + (f" ({unable})" if unable else "")
    if not permitted:
        nothing = "not executed: safety is not PROVED (--require tested runs it)"
    if not program.kernels or guesses(program):
        why = nothing
        return [Record("G6.runs", "G6", "UNKNOWN", f"{why}, nor all that was read of it")]
    cases = _Cases.of(op, isa, seed, program, SLOW_CASES, literals(c), c.source)
    cases.keep(program, seed, lambda x: _steps(static, x))
    judge = interpreted(op, program)
    found = numeric(op, cases.cases, judge, cases.bound, "", cases.notes, ())
    wrong = [_said(r, READ) for r in found.records if r.status == "REFUTED"]
    if wrong:
        return wrong
    why = f"{nothing}; what was read of it, run over the reals, agrees"
    return [
        Record("G6.runs", "G6", "UNKNOWN", f"{why} with the reference on {len(cases.cases)} cases")
    ]


def interpreted(op: Operator, program: TileProgram) -> Callable[[Case, str], Observation | None]:
    """Runs a program over the reals."""
    buffers = {b.name: b for b in program.buffers()}
    aligned = alignments(program)

    def call(case: Case, views: Arrays) -> Arrays:
        strides: dict[tuple[str, int], int] = {}
        arrays: dict[str, NDArray[Any]] = {}
        for t in (*op.inputs, *op.outputs):
            x = views[t.name]
            strides |= {(t.name, n): s // x.itemsize for n, s in enumerate(x.strides)}
            if t.name in buffers:
                env = {**case.params, **case.sizes}
                shape = tuple(int(evaluate(e, env)) for e in buffers[t.name].shape)
                arrays[t.name] = decode(x, t.dtype).reshape(shape)
        made = interpret(program, case.sizes, arrays, {**case.params, **aligned}, strides)
        return {t.name: encode(made[t.name], t.dtype).reshape(views[t.name].shape)
                for t in op.outputs}  # fmt: skip

    return observed(op, program.facts, call, (Trap,))


def _steps(static: Static, case: Case) -> int:
    """About how many statements the programs of a call run in all its launches."""
    env: dict[Any, Any] = {**case.params, **case.sizes}
    shapes = {
        b.name: b for k in (static.program.kernels if static.program else ()) for b in k.buffers
    }
    for b in shapes.values():
        steps = row_major(b.shape)
        env |= {(b.name, n): int(evaluate(s, env)) for n, s in enumerate(steps)}
    total = 0
    for n, x in enumerate(static.bound.launches):
        programs = math.prod(max(int(evaluate(g, env)), 0) for g in x.grid)
        body = static.program.kernels[n].body if static.program else ()
        total += programs * (1 + _length(body, {**env, **{pid(d): 0 for d in range(3)}}))
    return total


def _loops(body: Iterable[Stmt]) -> Iterable[For]:
    """Loops of a program, inner ones too."""
    for s in body:
        if isinstance(s, If):
            yield from _loops((*s.then, *s.other))
        elif isinstance(s, For):
            yield s
            yield from _loops(s.body)


def _repeated(program: TileProgram, sizes: Mapping[str, Any]) -> set[str]:
    """Variables of loops that run more than once in a program's first ids, as far as known."""
    out = set()
    for k in program.kernels:
        env: dict[Any, Any] = {**sizes, **{pid(d): 0 for d in range(3)}}
        for b in k.buffers:
            with contextlib.suppress(ExprError, KeyError, ValueError, ZeroDivisionError):
                steps = row_major(b.shape)
                env |= {(b.name, n): int(evaluate(e, env)) for n, e in enumerate(steps)}
        for s in _loops(k.body):
            try:
                lo, hi = int(evaluate(s.lo, env)), int(evaluate(s.hi, env))
            except (ExprError, KeyError, ValueError, ZeroDivisionError):
                out.add(s.variable)  # bounds that are not known
                continue
            env[s.variable] = lo
            if hi - lo > s.step:
                out.add(s.variable)
    return out


def _length(body: Iterable[Stmt], env: Mapping[Any, Any]) -> int:
    """Statements that a program runs, taken at its first id; unknown bounds count one iteration."""
    total = 0
    for s in body:
        total += 1
        if isinstance(s, Def) and s.value.op == "scan":  # may be run lane by lane
            total += math.prod(a.extent for a in s.value.axes) // 4
        if isinstance(s, If):
            total += max(_length(s.then, env), _length(s.other, env))
        elif isinstance(s, For):
            try:
                lo, hi = int(evaluate(s.lo, env)), int(evaluate(s.hi, env))
                count = max(-(-(hi - lo) // s.step), 0)
            except (ExprError, KeyError, ValueError, ZeroDivisionError):
                lo, count = 0, 1
            total += count * _length(s.body, {**env, s.variable: lo})
    return total


def _said(r: Record, how: str) -> Record:
    """A record that says what ran it."""
    return replace(r, reason=f"{r.reason}; {how}", assumptions=(*r.assumptions, how))


def _functional(c: Candidate, static: Static, op: Operator, isa: str, seed: int) -> list[Record]:
    if importlib.util.find_spec("jax") is None:
        why = "this installation runs no array code (JAX is missing); pip install jax"
        return [Record("G6.runs", "G6", "UNKNOWN", why)]
    facts = TileProgram(op.name, (), (), static.bound.facts)
    count = KERNEL_CASES if c.plan.backend == "pallas" else CASES
    sizes = branches(c.source) if count == CASES else ()
    cases = _Cases.of(op, isa, seed, facts, count, (), c.source, sizes)
    if facts.facts:  # a guard keeps other calls away
        cases.cases = [
            x
            for x in cases.cases
            if all(evaluate(f, {**x.sizes, **x.params}) for f in facts.facts if not strided(f))
        ]
    if count < CASES:
        cases.cases = sorted(cases.cases, key=_full, reverse=True)[: 2 * count]
    found = functional_numeric(c, op, cases.cases, cases.bound, cases.notes, CALL_LIMIT * 6)
    return [*found.records, *bound_records(c, op, found.error)]
