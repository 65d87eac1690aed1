"""`opwright mutate`: seed faults into something right, and say who finds how many of them."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from opwright.outcome import HOLDS, NO, Problem, print_json
from opwright.spec_files import open_spec, pick_operator, print_diagnostics

if TYPE_CHECKING:
    from opwright.compiler.mutating import Outcome, Score
    from opwright.ir.op import Operator
    from opwright.verify.mutate_calls import Function

SHOWN = 20  # survivors that are printed with their lines
POOL, FEW = 96, 32  # calls that tell a mutant from the original; where each shape is compiled


@dataclass(frozen=True, slots=True)
class Request:
    """What is mutated, who judges, and what is asked of the score."""

    spec: Path
    name: str | None = None
    types: dict[str, str] = field(default_factory=dict)
    candidate: Path | None = None
    implementation: str = ""
    suite: Path | None = None
    limit: int = 60
    require: float | None = None
    seed: int = 0
    timeout: float = 120.0


def mutate(request: Request, as_json: bool) -> int:
    """Print the score; yes when it is at least what was asked for."""
    from opwright.compiler.stored import stored_form
    from opwright.grammar.diagnostics import DiagnosticError

    if request.candidate is not None and (request.implementation or request.suite):
        raise Problem(
            "--candidate goes without --implementation and --suite",
            "a candidate is judged by the gates, a function by the spec's cases or by a suite",
        )
    begin = time.monotonic()
    try:
        spec = open_spec(request.spec)
        operator = pick_operator(spec, request.name)
        op = stored_form(spec.operator(operator, request.types))
    except DiagnosticError as error:
        print_diagnostics(error.diagnostics)
        return NO
    seen = None if as_json else _progress
    if request.implementation or request.suite:
        score = of_function(request, op, operator, seen)
    else:
        score = of_candidate(request, op, operator, seen)
    seconds = time.monotonic() - begin
    holds = request.require is None or score.share >= request.require
    if as_json:
        print_json({**score.to_json(), "op": op.name, "seconds": round(seconds, 1), "holds": holds})
    else:
        if sys.stderr.isatty():
            print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
        print("\n".join(lines(score, seconds)))
    return HOLDS if holds else NO


_done = [0]


def _progress(one: Outcome) -> None:
    """A counter on a terminal."""
    _done[0] += 1
    if sys.stderr.isatty():
        print(f"\r{_done[0]} mutants, the last one {one.status}   ", end="", file=sys.stderr)


def of_candidate(request: Request, op: Operator, name: str, seen: object) -> Score:
    """The gates on mutants of a candidate, or of a program that our own schedules make."""
    from opwright.backends.cpp.build import host_isa
    from opwright.compiler.mutating import NotRight, score_candidate, score_program

    isa = host_isa()
    limit, seed = request.limit, request.seed
    try:
        if request.candidate is not None:
            found = score_candidate(request.candidate, op, isa, limit, seed, seen)  # type: ignore[arg-type]
        else:
            from opwright.show import View, lowered

            program = lowered(op, View(request.spec, "tile", name, request.types))
            found = score_program(program, op, isa, limit, seed, seen)  # type: ignore[arg-type]
    except NotRight as e:
        cure = "only what passes every gate is worth a fault; `opwright verify` says more"
        raise Problem(str(e), cure, NO) from None
    if not found.outcomes:
        raise Problem(f"{found.subject}: nothing in it could be mutated")
    return found


def of_function(request: Request, op: Operator, name: str, seen: object) -> Score:
    """The spec's own cases, or a suite, on mutants of a function of arrays."""
    from opwright.compiler.mutating_calls import (
        CallJudge,
        framework_of,
        reference_function,
        score_calls,
    )
    from opwright.compiler.mutating_worker import mutants_of

    right = resolved(request.implementation) if request.implementation else reference_function(op)
    framework = framework_of(right) if request.implementation else "numpy"
    label = request.implementation.rpartition(":")[2] or op.name
    slow = framework == "jax"
    pool = CallJudge(op, framework, request.seed + 777, FEW if slow else POOL, not slow)
    if not pool.plain:
        raise Problem(f"{op.name}: no ordinary call of it could be drawn")
    pool = pool.passed_by(right)
    if not pool.plain:
        raise Problem(f"{label} itself is not right on any call", "name a function that is", NO)
    mutants = mutants_of(op, right, label, request.limit)
    if request.suite is None:
        judge = CallJudge(op, framework, request.seed, 12 if slow else 24, not slow)
        found = judge(right)
        if found is not None:
            raise Problem(f"{label} itself is not right: {found[2]}", "name a function that is", NO)
        subject = f"cases of the spec on {label} ({framework})"
        return score_calls(subject, right, mutants, judge, pool, seen)  # type: ignore[arg-type]
    return _of_suite(request, op, name, right, mutants, pool, seen)


def _of_suite(
    request: Request,
    op: Operator,
    name: str,
    right: Function,
    mutants: object,
    pool: object,
    seen: object,
) -> Score:
    from opwright.compiler.mutating_suite import Request as SuiteRequest
    from opwright.compiler.mutating_suite import SuiteError, is_generated, score_suite

    assert request.suite is not None
    if not request.suite.exists():
        raise Problem(f"{request.suite}: no such file or folder", "name a pytest file or folder")
    own = is_generated(request.suite)
    if not own and not request.implementation:
        raise Problem(
            f"{request.suite} is no generated suite, so what it tests is not known",
            "name the function that it tests: --implementation module:function",
        )
    inner = SuiteRequest(
        str(request.suite),
        str(request.spec),
        name,
        tuple(sorted(request.types.items())),
        request.implementation,
        request.limit,
        own,
    )
    try:
        return score_suite(inner, right, mutants, pool, request.timeout, seen)  # type: ignore[arg-type]
    except SuiteError as e:
        cure = "run it with pytest by itself first; a score needs a suite that passes"
        raise Problem(f"{request.suite}: {e}", cure, NO) from None


def resolved(name: str) -> Function:
    """The function of `module:function`, the current folder's modules among them."""
    from opwright.compiler.mutating_worker import named_function

    if ":" not in name:
        raise Problem(f"{name!r} names no function", "write module:function")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = named_function(name)
    except (ImportError, AttributeError) as e:
        raise Problem(f"{name}: {e}", "write module:function, importable from here") from None
    if not callable(found):
        raise Problem(f"{name} is no function", "write module:function")
    return found


def lines(score: Score, seconds: float) -> list[str]:
    """The score as a page: classes, who killed, survivors with place and lines."""
    head = f"{'class':<16}{'seeded':>7}{'killed':>8}{'survived':>10}{'equivalent':>12}"
    out = [f"faults seeded into {score.subject}", "", f"{head}{'undecided':>11}"]
    for kind in score.kinds:
        row = [score.count(s, kind) for s in ("killed", "survived", "equivalent", "undecided")]
        seeded = sum(row)
        if seeded:
            k, s, e, u = row
            out.append(f"{kind:<16}{seeded:>7}{k:>8}{s:>10}{e:>12}{u:>11}")
    out += ["", "killed by"]
    out += [f"  {by:<30}{n:>5}" for by, n in sorted(score.by.items(), key=lambda x: -x[1])]
    survivors = score.survivors
    if survivors:
        out += ["", "survivors"]
    for o in survivors[:SHOWN]:
        out.append(f"  {o.kind}, {o.place}: {o.what}")
        out.append(f"    {o.reason}")
        out += [f"    {line}" for line in o.diff[:8]]
    if len(survivors) > SHOWN:
        out.append(f"  and {len(survivors) - SHOWN} more (--json has all)")
    undecided = [o for o in score.outcomes if o.status == "undecided"]
    if undecided:
        out += ["", "undecided: nothing tells them from the original; they count neither way"]
        out += [f"  {o.kind}, {o.place}: {o.what} ({o.reason})" for o in undecided[:SHOWN]]
        if len(undecided) > SHOWN:
            out.append(f"  and {len(undecided) - SHOWN} more (--json has all)")
    out.append("")
    broken = score.count("broken")
    left = f"; {broken} that do not build or answer are left out" if broken else ""
    out.append(
        f"score {score.share:.1f} %: {score.count('killed')} of {score.judged} killed{left}"
        f" ({seconds:.0f} s)"
    )
    return out
