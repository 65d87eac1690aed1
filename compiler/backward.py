"""Backward operators of a package: which gradients a spec asks for, compiled like any operator.

A gradient is an operator of inputs, outputs and output gradients `d_y`; it passes the same gates
by the same backend and becomes a package inside the package. Where none can be made, the package
says so and refuses tensors that require grad.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from opwright.backends.cpp.build import BuildError
from opwright.compiler.autodiff import gradient
from opwright.compiler.autodiff_rules import NotDifferentiable
from opwright.compiler.autodiff_saved import saved_for, saving
from opwright.compiler.backend import Backend, CompileError, Effort, Found, Refused, carry
from opwright.compiler.elaborate import Spec, written_gradient
from opwright.compiler.spec_text import spec_text
from opwright.grammar import ast
from opwright.ir.expr import ExprError
from opwright.ir.op import Operator, Workload, show_operator
from opwright.search.run import Budget

PREFIX = "d_"  # of gradients, as the language names them
# what a gradient that cannot be compiled may raise: the forward operator ships without it
FAILURES = (CompileError, BuildError, NotDifferentiable, ExprError, ValueError, LookupError)


def wanted(spec: Spec, name: str) -> list[tuple[tuple[str, ...], bool]]:
    """(inputs, whether the spec writes it out) of every gradient that a spec asks for; all that
    are to be derived are one."""
    op = next(o for o in spec.module.ops if o.name == name)
    written = [
        (tuple(n.name for n in g.names), True) for g in op.grads if isinstance(g.body, ast.GradDef)
    ]
    derived = tuple(n.name for g in op.grads if isinstance(g.body, ast.GradAuto) for n in g.names)
    return [*written, *([(derived, False)] if derived else [])]


@dataclass(frozen=True, slots=True)
class Compiled:
    """An operator at all bindings, with its text."""

    found: list[Found]
    text: str


@dataclass(frozen=True, slots=True)
class Gradient:
    """A compiled gradient. What it reads of the forward pass beside inputs and outputs is `saved`:
    further outputs of `saving`, the operator that then takes the place of the forward pass."""

    own: Compiled
    saved: tuple[str, ...] = ()
    saving: Compiled | None = None


def backward_operator(
    spec: Spec, op: Operator, names: Sequence[str], written: bool, saved: Sequence[str] = ()
) -> tuple[Operator, str]:
    """(the gradient at one binding of the types, its text); NotDifferentiable where there is
    none. `saved`: what it reads of the forward pass beside inputs and outputs."""
    if written:
        own = f"{op.name}_grad_{'_'.join(names)}"
        found = [g for g in written_gradient(spec.module, op.name, op.types) if g.name == own]
        if not found:
            raise NotDifferentiable(f"{own} has no definition at {dict(op.types)}")
        g = found[0]
    else:
        g = gradient(op, names, saved)
    known = {t.name for t in (*op.inputs, *op.outputs)} | set(saved)
    grads = {f"{PREFIX}{t.name}" for t in op.outputs}
    strange = [t.name for t in g.inputs if t.name not in known | grads]
    strange += [t.name for t in g.outputs if t.name not in {f"{PREFIX}{n}" for n in names}]
    if strange:
        raise NotDifferentiable(f"{strange[0]} is no gradient by name")
    text = _text(g)
    return replace(g, digest=_digest(op, text), workloads=_workloads(g, op)), text


def saving_operator(op: Operator, saved: Sequence[str]) -> tuple[Operator, str]:
    """(the operator with what a gradient reads besides as further outputs, its text)."""
    s = saving(op, saved)
    text = _text(s)
    return replace(s, digest=_digest(op, text)), text


def _text(op: Operator) -> str:
    try:
        return spec_text(op)
    except ValueError:
        return show_operator(op)


def _digest(op: Operator, text: str) -> str:
    return "sha256:" + hashlib.sha256(f"{op.digest}\n{text}".encode()).hexdigest()


def _workloads(g: Operator, op: Operator) -> tuple[Workload, ...]:
    """The operator's own, with its distributions of what the gradient takes as well."""
    if g.workloads or set(g.sizes) != set(op.sizes):
        return g.workloads
    names = {t.name for t in g.inputs}
    return tuple(
        replace(w, values={n: v for n, v in w.values.items() if n in names}) for w in op.workloads
    )


def roles(g: Operator, op: Operator) -> tuple[tuple[str, str], ...]:
    """(what it is, name) of every input of a gradient: input, output, grad of an output, or what is
    saved beside them."""
    inputs = {t.name for t in op.inputs}
    outputs = {t.name for t in op.outputs}
    grads = {f"{PREFIX}{n}" for n in outputs}
    out = []
    for t in g.inputs:
        if t.name in inputs:
            out.append(("input", t.name))
        elif t.name in outputs:
            out.append(("output", t.name))
        elif t.name in grads:
            out.append(("grad", t.name.removeprefix(PREFIX)))
        else:
            out.append(("saved", t.name))
    return tuple(out)


def compile_backward(
    spec: Spec, name: str, found: Sequence[Found], backend: Backend, effort: Effort
) -> tuple[list[Gradient], list[str]]:
    """(each gradient at all bindings, notes on those that there are none of)."""
    out: list[Gradient] = []
    notes: list[str] = []
    own = replace(effort, budget=Budget(effort.budget.evaluations), primary=False)

    def bindings(make: Callable[[Operator], tuple[Operator, str]]) -> Compiled:
        made: list[Found] = []
        first = ""
        for f in found:
            g, text = make(f.op)
            first = first or text
            made.append(_compiled(g, f.op, backend, carry(made[0], own) if made else own))
        return Compiled(made, first)

    for names, written in wanted(spec, name):
        for saved in dict.fromkeys((() if written else _saved(found, names), ())):
            try:
                g = bindings(lambda op: backward_operator(spec, op, names, written, saved))  # noqa: B023
                extra = bindings(lambda op: saving_operator(op, saved)) if saved else None  # noqa: B023
            except FAILURES as e:
                lines = str(e).splitlines() or [type(e).__name__]
                reason = "; ".join(lines[:2])[:300]
                what = f"that reads {', '.join(saved)} " if saved else ""
                notes.append(f"no backward {what}with respect to {', '.join(names)}: {reason}")
                continue
            out.append(Gradient(g, saved, extra))
            break
    return out, notes


def _saved(found: Sequence[Found], names: Sequence[str]) -> tuple[str, ...]:
    """What the gradient reads beside inputs and outputs, the same at all bindings."""
    try:
        each = {saved_for(f.op, names) for f in found}
    except (NotDifferentiable, ExprError):
        return ()
    return each.pop() if len(each) == 1 else ()


def _compiled(g: Operator, op: Operator, backend: Backend, effort: Effort) -> Found:
    """One gradient at one binding: by the bound that is derived for it, else by the operator's
    written tolerance, where cancellation is more than that bound knows of."""
    try:
        found = backend.compile(g, effort)
    except Refused:
        if g.tolerance or not op.tolerance:
            raise
        digest = hashlib.sha256(f"{g.digest} {dict(op.tolerance)}".encode()).hexdigest()
        wider = replace(g, tolerance=op.tolerance, digest=f"sha256:{digest}")
        found = backend.compile(wider, effort)
    if found.result.stopped:
        raise KeyboardInterrupt
    return found
