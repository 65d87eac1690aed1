"""From syntax to OpIR: one operator of a spec, at one binding of its type variables.

All mistakes of a file are collected and raised together. The parts are in `interface` (what is
declared), `ranges` and `definitions` (what is computed), `calls` (composition) and `contract` (what
must hold); `library` finds files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from opwright.compiler import codes
from opwright.compiler.blame import blamed
from opwright.compiler.call_parts import CallSite
from opwright.compiler.call_parts import Interface as CallInterface
from opwright.compiler.calls import Calls
from opwright.compiler.codes import Findings, did_you_mean
from opwright.compiler.contract import Contract
from opwright.compiler.definitions import Body, prune
from opwright.compiler.interface import Reader, bindings
from opwright.compiler.intrinsics import declare, streams
from opwright.compiler.library import Key, Library
from opwright.compiler.ranges import Origin
from opwright.compiler.scope import Interval, Scope
from opwright.compiler.terms import Terms
from opwright.grammar import ast
from opwright.grammar.ast import Span
from opwright.grammar.diagnostics import Diagnostic, DiagnosticError, diagnose, in_order
from opwright.grammar.format import ModulePrinter
from opwright.grammar.parser import parse_bytes
from opwright.ir.dtypes import DTYPES
from opwright.ir.expr import ZERO, Expr
from opwright.ir.op import OpAxis, Operator, Tensor

__all__ = [
    "Elaborated",
    "Spec",
    "bindings",
    "elaborate",
    "elaborate_full",
    "load_spec",
    "parse_spec",
    "written_gradient",
]


@dataclass(frozen=True, slots=True, eq=False)
class Elaborated:
    """An operator with what a later stage needs to speak of its text.

    `spans` place the nodes that carry obligations, by owner (a tensor or a clause) and expression;
    `display` maps unique index names to those of the spec; `origin` says which call made a tensor.
    """

    operator: Operator
    syntax: ast.Op
    filename: str
    spans: Mapping[tuple[str, Expr], Span]
    calls: tuple[CallSite, ...]
    display: Mapping[str, str]
    ranges: Mapping[str, Interval | None]
    origin: Mapping[str, tuple[Span, str]]
    places: Mapping[str, Span]  # of declarations and equations
    origins: Mapping[tuple[str, int], Origin] = field(default_factory=dict)  # of locals' ranges


def elaborate(
    module: ast.Module,
    op_name: str | None = None,
    types: Mapping[str, str] | None = None,
    *,
    filename: str | None = None,
    source: str | None = None,
) -> Operator:
    """One operator at one binding; type variables not given take the first of their types.

    `op_name` may be None in a file with one operator. Raises DiagnosticError with every mistake.
    """
    return elaborate_full(module, op_name, types, filename=filename, source=source).operator


def elaborate_full(
    module: ast.Module,
    op_name: str | None = None,
    types: Mapping[str, str] | None = None,
    *,
    filename: str | None = None,
    source: str | None = None,
    library: Library | None = None,
) -> Elaborated:
    """As `elaborate`, with the places of what may carry an obligation."""
    name = filename if filename is not None else module.filename
    library = library or new_library()
    if name != module.filename:
        module = ast.Module(
            module.version, module.imports, module.ops, module.comments, name, span=module.span
        )
    library.add(module, source or "")
    op = choose(module, op_name)
    key = Key(module.filename, op.name)
    library.pending.append(key)
    try:
        return _elaborate(library, module, op, types or {}, key)
    finally:
        library.pending.pop()


def new_library() -> Library:
    return Library(_build)


def _build(
    library: Library, module: ast.Module, op: ast.Op, types: Mapping[str, str], filename: str
) -> Operator:
    return _elaborate(library, module, op, types, Key(filename, op.name)).operator


def choose(module: ast.Module, name: str | None) -> ast.Op:
    """The operator of that name, or the only one."""
    known = [o.name for o in module.ops]
    for o in module.ops:
        if o.name == name or (name is None and len(known) == 1):
            return o
    hint = "name one of them: " if name is None else did_you_mean(name, known)
    raise DiagnosticError([
        diagnose(
            codes.NO_SUCH_OPERATOR,
            module.span,
            module.filename,
            name=name or "?",
            hint=hint,
            known=", ".join(known),
        )
    ])  # fmt: skip


def _elaborate(
    library: Library, module: ast.Module, op: ast.Op, types: Mapping[str, str], key: Key
) -> Elaborated:
    findings = Findings(module.filename)
    builtin = Scope()
    declare(builtin, library)
    outer = Scope(builtin)
    library.bind_imports(module, outer, findings)
    terms = Terms(findings)
    terms.streams = streams(op)
    reader = Reader(op, terms, Scope(outer), findings)
    interface = reader.read(types)
    calls = Calls(terms, library, findings)
    terms.call_operator = calls
    calls.equal = equalities(interface.facts)
    body = Body(interface, terms, calls, findings, quiet(library, module.filename, calls))
    tensors = body.elaborate(op.defs)
    sites = tuple(calls.sink.sites)
    origin = dict(calls.sink.origin)
    outputs = tuple(output_tensor(d, n, s, terms) for n, d, s in interface.outputs)
    calls.own = (
        key,
        CallInterface(
            op.name,
            tuple(interface.sizes),
            tuple(interface.params),
            tuple(interface.inputs),
            outputs,
        ),
    )
    contract = Contract(op, interface, terms, calls, findings, body)
    clauses = contract.clauses()
    tolerance, workloads = reader.tolerance(), reader.workloads(module.filename)
    objective, targets = reader.objective(), reader.targets()
    gradients = contract.gradients()
    if not findings.found:
        for grad in op.grads:
            if isinstance(grad.body, ast.GradDef):
                findings.found += gradient_findings(library, module, op, grad, types)
    findings.found[:] = blamed(op, findings.found, module.imports)
    findings.raise_all()
    named = {name: None for name in body.definitions}
    kept = prune(tensors, named, {d.name for d, _, _ in interface.outputs})
    text = canonical(module.version, op)
    used = sorted(calls.digests)
    operator = Operator(
        op.name,
        op.version,
        op.doc,
        dict(interface.types),
        tuple(interface.sizes),
        dict(interface.lets),
        tuple(interface.params),
        tuple(interface.facts),
        tuple(interface.inputs),
        tuple(kept),
        clauses,
        tolerance,
        workloads,
        objective,
        targets,
        gradients,
        tuple(interface.variadic),
        text,
        "sha256:" + hashlib.sha256("\n".join([text, *used]).encode()).hexdigest(),
        tuple(d.name for d, _, _ in interface.outputs),
    )
    places = {**reader.places, **{n: d.span for n, d in body.definitions.items()}}
    places |= {f"shape of {d.name}": d.span for d, _, _ in interface.outputs}
    return Elaborated(
        operator,
        op,
        module.filename,
        {**body.spans, **contract.spans},
        sites,
        terms.display,
        terms.ranges,
        origin,
        places,
        body.origins,
    )


def quiet(library: Library, filename: str, loud: Calls) -> tuple[Terms, Calls]:
    """Terms whose findings nobody sees: for questions asked before the answer can be right."""
    unseen = Findings(filename)
    terms = Terms(unseen)
    calls = Calls(terms, library, unseen)
    calls.equal = loud.equal
    terms.streams = loud.terms.streams
    terms.call_operator = calls
    return terms, calls


def output_tensor(
    dtype: Any, decl: ast.TensorDecl, shape: tuple[Expr, ...], terms: Terms
) -> Tensor:
    axes = tuple(
        OpAxis(terms.index(f"{decl.name}_{k}", (ZERO, s)), ZERO, s) for k, s in enumerate(shape)
    )
    return Tensor(decl.name, dtype, axes, role="output")


def equalities(facts: list[Expr]) -> dict[Expr, Expr]:
    """Sizes that facts equate with an expression over others."""
    out: dict[Expr, Expr] = {}
    for f in facts:
        if f.op == "eq":
            for a, b in (f.args, f.args[::-1]):
                if a.op == "size" and a not in out and b not in out:
                    out[a] = b
                    break
    return out


def repeated(module: ast.Module) -> list[Diagnostic]:
    """A mistake for every operator that has the name of an earlier one."""
    seen: set[str] = set()
    findings = Findings(module.filename)
    for o in module.ops:
        if o.name in seen:
            first = "an operator"
            findings.add(codes.DECLARED_TWICE, o.name_span, name=o.name, first=first)
        seen.add(o.name)
    return findings.found


# -- canonical text -------------------------------------------------------------------------------


def canonical(version: str, op: ast.Op) -> str:
    """An operator's text in the one way to write it: no comments, no layout of its own."""
    return ModulePrinter(ast.Module(version, (), (_bare(op),))).text()


def _bare(node: Any) -> Any:
    if isinstance(node, tuple):
        return tuple(_bare(x) for x in node)
    if not isinstance(node, ast.Node):
        return node
    return type(node)(
        **{
            f.name: _bare(getattr(node, f.name))
            for f in fields(node)
            if f.name not in ("span", "name_span")
        }
    )


# -- gradients as operators -----------------------------------------------------------------------


def gradient_syntax(op: ast.Op, grad: ast.Grad, types: Mapping[str, str]) -> ast.Op | None:
    """A written gradient as an operator: inputs, outputs and the outputs' gradients `d_y` in.

    None where the types bound here leave nothing real to differentiate.
    """
    assert isinstance(grad.body, ast.GradDef)
    bound = {t.name: types.get(t.name, t.options[0].name) for t in op.types}

    def real(t: ast.TensorDecl) -> bool:
        name = bound.get(t.type.name, t.type.name)
        return name in DTYPES and DTYPES[name].kind == "real"

    kept = [i for i in op.items if isinstance(i, ast.Dims | ast.Where | ast.TypeDecl | ast.Let
                                              | ast.Param | ast.Inputs | ast.Requires)]  # fmt: skip
    wanted = {n.name for n in grad.names}
    known = tuple(
        ast.TensorDecl(prefix + t.name, t.type, t.shape, span=t.span)
        for prefix in ("", "d_")
        for t in op.outputs
        if not prefix or real(t)
    )
    at = {n.name: n.span for n in grad.names}
    results = tuple(
        ast.TensorDecl("d_" + t.name, t.type, t.shape, span=at[t.name])
        for t in op.inputs
        if t.name in wanted and real(t)
    )
    if len(results) < len(wanted):
        return None
    items = (*kept, ast.Inputs(known), ast.Outputs(results), ast.Def(grad.body.statements))
    name = f"{op.name}_grad_{'_'.join(n.name for n in grad.names)}"
    return ast.Op(name, op.version, None, items, span=grad.span, name_span=grad.span)


def gradient_findings(
    library: Library,
    module: ast.Module,
    op: ast.Op,
    grad: ast.Grad,
    types: Mapping[str, str],
) -> list[Diagnostic]:
    try:
        syntax = gradient_syntax(op, grad, types)
        if syntax is None:
            return []
        _elaborate(library, module, syntax, types, Key(module.filename, syntax.name))
    except DiagnosticError as error:
        return error.diagnostics
    return []


def written_gradient(
    module: ast.Module,
    op_name: str | None = None,
    types: Mapping[str, str] | None = None,
) -> list[Operator]:
    """The gradients that a spec writes out, each as an operator.

    Its inputs are the operator's inputs and outputs and, for every output y, the gradient `d_y`;
    its outputs are `d_x` for the inputs x it is written for.
    """
    library = new_library()
    library.add(module)
    op = choose(module, op_name)
    out = []
    for grad in op.grads:
        if isinstance(grad.body, ast.GradDef):
            syntax = gradient_syntax(op, grad, types or {})
            if syntax is None:
                continue
            key = Key(module.filename, syntax.name)
            out.append(_elaborate(library, module, syntax, types or {}, key).operator)
    return out


# -- files ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Spec:
    """A parsed file of operators."""

    module: ast.Module
    source: str
    library: Library = field(default_factory=new_library)

    @property
    def filename(self) -> str:
        return self.module.filename

    @property
    def names(self) -> list[str]:
        return [o.name for o in self.module.ops]

    def bindings(self, name: str | None = None) -> list[dict[str, str]]:
        """Every combination of an operator's type variables, the default one first."""
        return bindings(choose(self.module, name))

    def operator(self, name: str | None = None, types: Mapping[str, str] | None = None) -> Operator:
        """One operator at one binding; raises DiagnosticError."""
        return self.elaborated(name, types).operator

    def elaborated(
        self, name: str | None = None, types: Mapping[str, str] | None = None
    ) -> Elaborated:
        """As `operator`, with the places of what may carry an obligation."""
        return elaborate_full(self.module, name, types, source=self.source, library=self.library)

    def all_elaborated(self) -> list[Elaborated]:
        """Every operator at its default binding; raises DiagnosticError with all mistakes."""
        found: list[Diagnostic] = repeated(self.module)
        out = []
        for name in self.names:
            try:
                out.append(self.elaborated(name))
            except DiagnosticError as error:
                found += error.diagnostics
        if found:
            raise DiagnosticError(in_order(found))
        return out


def load_spec(path: str | Path) -> Spec:
    """Parse a file; raises OSError or DiagnosticError for its syntax."""
    data = Path(path).read_bytes()
    return Spec(parse_bytes(data, str(path)), data.decode("utf-8"))


def parse_spec(text: str, filename: str = "<string>") -> Spec:
    """As `load_spec`, of a text."""
    return Spec(parse_bytes(text.encode(), filename), text)
