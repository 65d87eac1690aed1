"""Backward operators of a package: which gradients a spec asks for, compiled like any operator.

A gradient is an operator of inputs, outputs and output gradients `d_y`; it passes the same gates
by the same backend and becomes a package inside the package. Where none can be made, the package
says so and refuses tensors that require grad.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from opwright.backends.cpp.build import BuildError
from opwright.compiler.autodiff import gradient
from opwright.compiler.autodiff_rules import NotDifferentiable
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


def backward_operator(
    spec: Spec, op: Operator, names: Sequence[str], written: bool
) -> tuple[Operator, str]:
    """(the gradient at one binding of the types, its text); NotDifferentiable where there is
    none."""
    if written:
        own = f"{op.name}_grad_{'_'.join(names)}"
        found = [g for g in written_gradient(spec.module, op.name, op.types) if g.name == own]
        if not found:
            raise NotDifferentiable(f"{own} has no definition at {dict(op.types)}")
        g = found[0]
    else:
        g = gradient(op, names)
    known = {t.name for t in (*op.inputs, *op.outputs)}
    grads = {f"{PREFIX}{t.name}" for t in op.outputs}
    strange = [t.name for t in g.inputs if t.name not in known | grads]
    strange += [t.name for t in g.outputs if t.name not in {f"{PREFIX}{n}" for n in names}]
    if strange:
        raise NotDifferentiable(f"{strange[0]} is no gradient by name")
    try:
        text = spec_text(g)
    except ValueError:
        text = show_operator(g)
    digest = "sha256:" + hashlib.sha256(f"{op.digest}\n{text}".encode()).hexdigest()
    return replace(g, digest=digest, workloads=_workloads(g, op)), text


def _workloads(g: Operator, op: Operator) -> tuple[Workload, ...]:
    """The operator's own, with its distributions of what the gradient takes as well."""
    if g.workloads or set(g.sizes) != set(op.sizes):
        return g.workloads
    names = {t.name for t in g.inputs}
    return tuple(
        replace(w, values={n: v for n, v in w.values.items() if n in names}) for w in op.workloads
    )


def roles(g: Operator, op: Operator) -> tuple[tuple[str, str], ...]:
    """(what it is, name) of every input of a gradient: input, output or grad of the operator."""
    inputs = {t.name for t in op.inputs}
    outputs = {t.name for t in op.outputs}
    out = []
    for t in g.inputs:
        if t.name in inputs:
            out.append(("input", t.name))
        elif t.name in outputs:
            out.append(("output", t.name))
        else:
            out.append(("grad", t.name.removeprefix(PREFIX)))
    return tuple(out)


def compile_backward(
    spec: Spec, name: str, found: Sequence[Found], backend: Backend, effort: Effort
) -> tuple[list[tuple[list[Found], str]], list[str]]:
    """(each gradient at all bindings with its text, notes on those that there are none of)."""
    out: list[tuple[list[Found], str]] = []
    notes: list[str] = []
    for names, written in wanted(spec, name):
        made: list[Found] = []
        first = ""
        own = replace(effort, budget=Budget(effort.budget.evaluations), primary=False)
        try:
            for f in found:
                g, text = backward_operator(spec, f.op, names, written)
                first = first or text
                made.append(_compiled(g, f.op, backend, carry(made[0], own) if made else own))
        except FAILURES as e:
            lines = str(e).splitlines() or [type(e).__name__]
            reason = "; ".join(lines[:2])[:300]
            notes.append(f"no backward with respect to {', '.join(names)}: {reason}")
            continue
        out.append((made, first))
    return out, notes


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
