"""Gradients of a spec: those it writes out are compared with those that are derived.

A comparison runs both in float64 on a few generated cases of small sizes. That they differ is shown
by an element; that they agree is TESTED, not proved.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.compiler import codes
from opwright.compiler.autodiff import gradient
from opwright.compiler.autodiff_rules import NotDifferentiable
from opwright.compiler.elaborate import Elaborated, Spec, written_gradient
from opwright.grammar import ast
from opwright.grammar.ast import Span
from opwright.grammar.diagnostics import Diagnostic, diagnose
from opwright.ir.binding import InputError
from opwright.ir.op import Operator
from opwright.ir.record import Record
from opwright.ir.reference import reference
from opwright.verify.draw import decoded
from opwright.verify.inputs import Case, generate
from opwright.verify.sizes import Limits

CASES = 4
SMALL = Limits(256, 1 << 13)
EXACT = 1e-9  # of the largest element: float64 against float64
Arrays = Mapping[str, NDArray[Any]]


def check_gradients(spec: Spec, e: Elaborated) -> tuple[list[Record], list[Diagnostic]]:
    """A record for every `grad` section, a diagnostic for what is wrong."""
    op, records, found = e.operator, [], []
    written = {w.name: w for w in written_gradient(spec.module, op.name, op.types)}
    for grad in e.syntax.grads:
        wanted = [n.name for n in grad.names]
        if isinstance(grad.body, ast.GradNone):
            continue
        begin = time.perf_counter()
        name = f"gradient.{'_'.join(wanted)}"
        other = written.get(f"{op.name}_grad_{'_'.join(wanted)}")
        try:
            derived = gradient(op, wanted)
        except NotDifferentiable as error:
            if other is None and isinstance(grad.body, ast.GradAuto):
                fields = {"name": ", ".join(wanted), "reason": str(error)}
                found.append(diagnose(codes.NO_GRADIENT, grad.span, e.filename, **fields))
            continue
        if other is None:
            continue
        difference, tried = _difference(op, other, derived)
        seconds = time.perf_counter() - begin
        if difference:
            fields = {"name": ", ".join(wanted), "values": difference}
            place = _equation(grad, difference)
            found.append(diagnose(codes.WRONG_GRADIENT, place, e.filename, **fields))
        status = "REFUTED" if difference else "TESTED" if tried else "UNKNOWN"
        reason = f"the derived gradient in float64 on {tried} generated cases"
        reason = f"differs from {reason}" if difference else f"agrees with {reason}"
        example = {"text": difference} if difference else None
        what = reason if tried else "no case could be generated"
        records.append(
            Record(name, "spec", status, what, op.digest, (), example, seconds)
        )  # fmt: skip
    return records, found


def _difference(op: Operator, written: Operator, derived: Operator) -> tuple[str, int]:
    """The first element that differs, in words, and the number of cases compared."""
    made = generate(op, 0, CASES, (), SMALL, (), ("normal", "uniform"), specials=False)
    tried = 0
    for n, case in enumerate(made.cases):
        try:
            inputs: dict[str, Any] = dict(decoded(op, case.inputs))
            outputs = reference(op, inputs, case.params, case.sizes)
            rng = np.random.default_rng(n)
            back = {f"d_{t.name}": rng.normal(size=outputs[t.name].shape) for t in op.outputs}
            right = _run(derived, {**inputs, **outputs, **back}, case)
        except InputError:
            continue
        tried += 1
        try:
            both = (_run(written, {**inputs, **outputs, **back}, case), right)
        except InputError as error:
            sizes = ", ".join(f"{k} = {v}" for k, v in case.sizes.items())
            return f"{sizes}: {error}", tried
        for t in derived.outputs:
            text = _first(t.name, both[0][t.name], both[1][t.name], case)
            if text:
                return text, tried
    return "", tried


def _equation(grad: ast.Grad, difference: str) -> Span:
    """The equation of the gradient that differs; the whole section where none is named."""
    body = grad.body
    for s in body.statements if isinstance(body, ast.GradDef) else ():
        left = [s.name] if isinstance(s, ast.Recurrence) else [x.name for x in s.lhs]  # type: ignore[attr-defined]
        if any(f" {name}[" in difference or f" {name} is" in difference for name in left):
            return s.span
    return grad.span


def _run(g: Operator, arrays: Arrays, case: Case) -> Arrays:
    return reference(g, {t.name: arrays[t.name] for t in g.inputs}, case.params, case.sizes)


def _first(name: str, written: NDArray[Any], derived: NDArray[Any], case: Case) -> str:
    if written.size == 0:
        return ""
    finite = derived[np.isfinite(derived)]
    allowed = EXACT * (1 + float(np.abs(finite).max(initial=0)))
    with np.errstate(invalid="ignore"):
        wrong = np.abs(written - derived) > allowed
    wrong |= np.isnan(written) & np.isfinite(derived)
    if not wrong.any():
        return ""
    at = tuple(int(i[0]) for i in np.nonzero(wrong)) if wrong.ndim else ()
    sizes = ", ".join(f"{k} = {v}" for k, v in case.sizes.items())
    place = f"{name}[{', '.join(map(str, at))}]" if at else name
    return f"{sizes}: {place} is {written[at]:.6g}, the derivative is {derived[at]:.6g}"
