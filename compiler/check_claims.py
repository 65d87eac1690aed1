"""The contract of a spec against its meaning: every `ensures` and `law` is proved, refuted or open.

A counterexample is looked for first, on small sizes and telling values, and replayed over the
reals before anything is called false. What survives is proved by normal forms or with z3. A proof
counts only where the definitions have values: where the obligations of `def` are proved and some
legal input was found.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opwright.compiler import codes
from opwright.compiler.elaborate import Elaborated
from opwright.grammar import ast
from opwright.grammar.ast import Span
from opwright.grammar.diagnostics import Diagnostic, diagnose
from opwright.ir.clauses import bound_of
from opwright.ir.expr import Expr, free_vars, show, substitute, var
from opwright.ir.op import Clause, Law
from opwright.ir.record import Record
from opwright.verify.claims import FINITE, by_normal_form, parts
from opwright.verify.falsify import (
    Counterexample,
    Falsifier,
    elements_text,
    flat_bound,
    used_inputs,
)
from opwright.verify.inequalities import Prover
from opwright.verify.setting import Setting, setting

SECONDS = 60.0  # of one clause, where the machine is slow; the steps of each question are counted
SYMBOLS = {"lt": "<", "le": "<=", "eq": "==", "ne": "!=", "approx": "~="}


@dataclass(frozen=True, slots=True)
class Claimed:
    """What was found about one clause."""

    clause: Clause
    record: Record
    place: Span
    wrong: Diagnostic | None = None


def check_claims(
    e: Elaborated, falsifier: Falsifier, open_obligations: Mapping[str, Sequence[str]]
) -> list[Claimed]:
    """Decide every `ensures` and `law` of an operator.

    `open_obligations` are those that are not proved, by owner; those of `def` stand under "".
    """
    out = []
    for clause in e.operator.clauses:
        if clause.kind == "requires" or clause.expr is None:
            continue
        waiting = [*open_obligations.get("", ()), *open_obligations.get(clause.name, ())]
        out.append(_claimed(e, clause, falsifier, waiting))
    return out


def _claimed(
    e: Elaborated, clause: Clause, falsifier: Falsifier, waiting: Sequence[str]
) -> Claimed:
    begin = time.perf_counter()
    op, place = e.operator, claim_span(clause)
    name = f"spec.{clause.kind}.{clause.name}"
    try:
        found, tried = falsifier.falsify(clause)
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        # a form that evaluation does not know: nothing was tried, so nothing is proved either
        found, tried = None, 0
        waiting = [*waiting, f"a form that is not evaluated ({error})"]
    if found is not None:
        text = counterexample_text(e, clause, found)
        code = codes.FALSE_LAW if clause.kind == "law" else codes.FALSE_ENSURES
        wrong = diagnose(code, place, e.filename, name=clause.name, witness=text)
        spent = time.perf_counter() - begin
        reason = f"false over the reals: {text}"
        example = {"text": text, "values": values(found)}
        record = Record(name, "spec", "REFUTED", reason, op.digest, (), example, spent)
        return Claimed(clause, record, place, wrong)
    if falsifier.undefined:
        waiting = [*waiting, f"a value that is not there ({falsifier.undefined})"]
    status, reason = _unrefuted(e, clause, tried, waiting)
    spent = time.perf_counter() - begin
    record = Record(name, "spec", status, reason, op.digest, (FINITE,), None, spent)
    return Claimed(clause, record, place)


def _unrefuted(
    e: Elaborated, clause: Clause, tried: int, waiting: Sequence[str]
) -> tuple[str, str]:
    """The status of a clause without a counterexample, and why."""
    held = f"no counterexample on {tried} generated cases in float64"
    tested = "TESTED" if tried and clause.by != "proof" else "UNKNOWN"
    if clause.by == "test":
        return tested, held if tried else "no legal case could be generated"
    where = setting(e.operator, clause)
    how, why = prove(e, clause, where)
    if why:
        return tested, f"not proved: {why}; {held}"
    if not tried and not waiting:
        return "UNKNOWN", "proved, but no legal input was found: the claim may be about nothing"
    if waiting:
        names = ", ".join(waiting[:3]) + (", ..." if len(waiting) > 3 else "")
        return tested, f"proved where every term has a value, which rests on {names}; {held}"
    return "PROVED", f"{how}; over the reals"


def prove(e: Elaborated, clause: Clause, where: Setting) -> tuple[str, str]:
    """(how it was proved, "") or ("", why it was not)."""
    assert clause.expr is not None
    op = e.operator
    claim = parts(clause.expr)
    same = by_normal_form(op, where, claim)
    prover = Prover(op, where)
    begin = time.monotonic()
    for part, done in zip(claim, same, strict=True):
        if not done:
            if time.monotonic() - begin > SECONDS:
                return "", "the time for this clause is used up"
            bound = flat_bound(op, bound_of(op, clause, part.goal))
            found, why = prover.claim(part, bound)
            if not found:
                return "", f"{_shown(e, part.goal)}: {why}"
    if all(same):
        return "both sides have one normal form, for all sizes", ""
    return "z3: unsat, for all sizes", ""


def _shown(e: Elaborated, goal: Expr) -> str:
    names = {v: e.display[v] for v in free_vars(goal) if v in e.display}
    return f"`{show(substitute(goal, {var(k): var(v) for k, v in names.items()}))}`"


def claim_span(clause: Clause) -> Span:
    """The claim itself; what it is compared with, where that stands on a line of its own."""
    node: Any = clause.source.ast if isinstance(clause.source, Law) else clause.source
    inner = node.claim
    while isinstance(inner, ast.Reduce):
        inner = inner.body
    last = inner.operands[-1] if isinstance(inner, ast.Compare) else node.claim
    span: Span = node.claim.span if last.span.line == node.claim.span.line else last.span
    return span


# -- counterexamples in the spec's own names ------------------------------------------------------


def counterexample_text(e: Elaborated, clause: Clause, found: Counterexample) -> str:
    """`N = 2, j = 0, x = [[1, 0]]: 0.731 <= 0.5 is false`."""
    text = trial_text(e, clause, found, clause.expr)
    if found.sides:
        left, right = map(plain, found.sides)
        return f"{text}: {left} {SYMBOLS[found.comparison.op]} {right} is false"
    return f"{text}: {_shown(e, found.comparison)} is false"


def trial_text(
    e: Elaborated, clause: Clause | None, found: Counterexample, about: Expr | None
) -> str:
    """Sizes, params, a law's arguments, indices and the inputs that matter, by their names."""
    trial = found.trial
    where = setting(e.operator, clause)
    said = [f"{k} = {v}" for k, v in trial.sizes.items()]
    said += [f"{k} = {plain(v)}" for k, v in trial.params.items()]
    for a in where.arguments:
        said.append(elements_text(where.tensors[a.name], found.arguments[a.name]))
    for k, v in found.indices.items():
        said.append(f"{e.display.get(k, k)} = {v}")
    if about is not None:
        for t in used_inputs(where, about):
            if t.name in trial.inputs:
                said.append(elements_text(t, trial.inputs[t.name]))
    return ", ".join(dict.fromkeys(s for s in said if s))


def values(found: Counterexample) -> dict[str, Any]:
    """The counterexample as plain data."""
    trial = found.trial
    out: dict[str, Any] = {**trial.sizes, **trial.params, **found.indices}
    out |= {k: v.tolist() for k, v in trial.inputs.items()}
    out |= {k: v.tolist() for k, v in found.arguments.items()}
    return out


def plain(x: Any) -> str:
    if isinstance(x, bool):
        return str(x).lower()
    return f"{x:.7g}" if isinstance(x, float) else str(x)
