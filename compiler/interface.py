"""The interface of an operator: sizes, types, params, derived sizes, facts, inputs and outputs.

Also what is carried over as it stands: tolerance, workloads, objective, targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from opwright.compiler import codes
from opwright.compiler.codes import KINDS, Findings
from opwright.compiler.scope import Quantity, Scope, TensorName, TypeName, role_of
from opwright.compiler.terms import Terms
from opwright.compiler.workloads import WorkloadReader
from opwright.grammar import ast
from opwright.grammar.ast import Span
from opwright.ir.dtypes import DTYPES, F32, DType, integer_range
from opwright.ir.expr import (
    ZERO,
    Expr,
    ExprError,
    call,
    conjuncts,
    const,
    evaluate,
    leaves,
    param,
    show,
    size,
    toreal,
    walk,
)
from opwright.ir.op import (
    DEFAULT_DIM_LIMIT,
    ELEMENT_LIMIT,
    Objective,
    OpAxis,
    Param,
    Target,
    Tensor,
    Workload,
)

UNITS = {None: 1.0, "us": 1e-6, "ms": 1e-3, "MiB": 2.0**20, "GiB": 2.0**30, "mJ": 1e-3, "J": 1.0}
GROUP = "size of a group of axes"
METRIC_UNITS = {
    "latency": ("us", "ms"),
    "compile_time": ("us", "ms"),
    "memory": ("MiB", "GiB"),
    "code_size": ("MiB", "GiB"),
    "energy": ("mJ", "J"),
    "error": (),
}


@dataclass(slots=True)
class Interface:
    """What was declared, in order; `scope` resolves it."""

    scope: Scope
    types: dict[str, str] = field(default_factory=dict)
    sizes: list[str] = field(default_factory=list)
    variadic: list[str] = field(default_factory=list)
    lets: dict[str, Expr] = field(default_factory=dict)
    params: list[Param] = field(default_factory=list)
    facts: list[Expr] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[tuple[ast.TensorDecl, DType, tuple[Expr, ...]]] = field(default_factory=list)
    broken: set[Expr] = field(default_factory=set)  # facts that no default obeys


class Reader:
    """Reads the interface part of one operator."""

    def __init__(self, op: ast.Op, terms: Terms, scope: Scope, findings: Findings) -> None:
        self.op, self.terms, self.findings = op, terms, findings
        self.out = Interface(scope)
        self.places: dict[str, Span] = {}

    def read(self, types: Mapping[str, str]) -> Interface:
        self._types(types)
        for d in self.op.dims:
            if self._declare(
                d.name, d.span, Quantity(size(d.name), GROUP if d.variadic else "size")
            ):
                self.out.sizes.append(d.name)
                if d.variadic:
                    self.out.variadic.append(d.name)
        if len(self.out.variadic) > 1:
            spans = [d.span for d in self.op.dims if d.variadic]
            what = "two sizes stand for any number of axes"
            self.findings.add(codes.BAD_VARIADIC, spans[1], what=what, name=self.out.variadic[1])
        # params, derived sizes and constraints may use each other in the order of the text
        for item in self.op.items:
            if isinstance(item, ast.Param):
                self._param(item)
            elif isinstance(item, ast.Let):
                self._let(item)
        for decl in self.op.inputs:
            self._input(decl)
        for decl in self.op.outputs:
            self._output(decl)
        for where in self.op.wheres:
            e = self.terms.condition(where, self.out.scope, "a constraint")
            if e is not None and self._size_only(e, where.span, "a constraint"):
                for fact in conjuncts(e) or [e]:
                    self.places[f"where {len(self.out.facts)}"] = where.span
                    self.out.facts.append(fact)
        self._defaults()
        shapes = [t.shape for t in self.out.inputs] + [shape for _, _, shape in self.out.outputs]
        self.out.facts += default_limits(self.out.sizes, self.out.facts, shapes)
        self.out.facts += [f for p in self.out.params for f in integer_limits(p)]
        return self.out

    def _declare(self, name: str, span: Span, binding: Any) -> bool:
        if name in self.places:
            before = self.out.scope.names[name]
            self.findings.add(codes.DECLARED_TWICE, span, name=name, first=role_of(before))
            return False
        self.places[name] = span
        self.out.scope.names[name] = binding
        self.terms.used.add(name)
        return True

    # -- types ------------------------------------------------------------------------------------

    def _types(self, given: Mapping[str, str]) -> None:
        for t in self.op.types:
            options = [o.name for o in t.options]
            chosen = given.get(t.name, options[0])
            if chosen not in options:
                self.findings.add(
                    codes.WRONG_BINDING,
                    t.span,
                    name=t.name,
                    given=chosen,
                    known=", ".join(options),
                )
                chosen = options[0]
            if self._declare(t.name, t.span, TypeName(t.name, DTYPES[chosen])):
                self.out.types[t.name] = chosen
        for name in given:
            if name not in self.out.types:
                self.findings.add(
                    codes.WRONG_BINDING,
                    self.op.name_span,
                    name=name,
                    given=given[name],
                    known=f"the operator's type variables: {', '.join(self.out.types) or 'none'}",
                )

    def dtype(self, node: ast.ScalarType) -> DType | None:
        if isinstance(node, ast.DtypeName):
            return DTYPES[node.name]
        b = self.out.scope.find(node.name)
        if isinstance(b, TypeName):
            return b.dtype
        if b is None:
            self.terms.unknown(node.name, node.span, self.out.scope)
        else:
            self.findings.add(
                codes.WRONG_ROLE, node.span, name=node.name, found=role_of(b), wanted="a type"
            )
        return None

    # -- sizes ------------------------------------------------------------------------------------

    def _size_only(self, e: Expr, span: Span, what: str) -> bool:
        for x in walk(e):
            if x.op == "read":
                self.findings.add(codes.NOT_A_SIZE, span, what=what, name=x.attr[0])
                return False
        return True

    def _let(self, item: ast.Let) -> None:
        e = self.terms.integer(item.value, self.out.scope, f"`{item.name}`")
        if e is not None and not self._size_only(e, item.value.span, f"`{item.name}`"):
            e = None
        binding = Quantity(ZERO if e is None else e, "derived size")
        if self._declare(item.name, item.span, binding) and e is not None:
            self.out.lets[item.name] = e

    def _param(self, item: ast.Param) -> None:
        d = self.dtype(item.type)
        if d is None:
            d = F32
        default: Expr | None = None
        if item.default is not None:
            default = self.terms.scalar(item.default, self.out.scope)
            if default is not None:
                if d.kind == "real" and default.kind == "int":
                    default = toreal(default)
                if default.kind != d.kind:
                    self.findings.add(
                        codes.WRONG_DEFAULT,
                        item.default.span,
                        name=item.name,
                        found=KINDS[default.kind],
                        declared=str(d),
                    )
                    default = None
                elif not self._size_only(default, item.default.span, "a default"):
                    default = None
        if self._declare(item.name, item.span, Quantity(param(item.name, d.kind), "param")):
            self.out.params.append(Param(item.name, d, default))

    def _defaults(self) -> None:
        """A default that a constraint on params alone excludes is a mistake."""
        env: dict[str, Any] = {}
        for p in self.out.params:
            if p.default is not None and not leaves(p.default, "size"):
                with suppress(ExprError, KeyError):
                    env[p.name] = evaluate(p.default, env)
        spans = {i.name: i.default.span for i in self.op.of(ast.Param) if i.default is not None}
        for fact in self.out.facts:
            names = [x.attr for x in leaves(fact, "size", "param")]
            if not names or any(n not in env for n in names):
                continue
            with suppress(ExprError, ZeroDivisionError):
                if not evaluate(fact, env):
                    values = ", ".join(f"{n} = {env[n]}" for n in names)
                    self.findings.add(
                        codes.BROKEN_DEFAULT,
                        spans[names[-1]],
                        name=names[-1],
                        fact=show(fact),
                        values=values,
                    )
                    self.out.broken.add(fact)

    # -- tensors ----------------------------------------------------------------------------------

    def shape(self, extents: Sequence[ast.Extent], scope: Scope) -> tuple[Expr, ...] | None:
        """Extents as integer expressions over sizes and params."""
        out: list[Expr] = []
        good = True
        for k, extent in enumerate(extents):
            if isinstance(extent, ast.Splat):
                e: Expr | None = size(extent.name)
                if extent.name not in self.out.variadic or k > 0:
                    what = (
                        f"`{extent.name}...` is not the first axis"
                        if extent.name in self.out.variadic
                        else f"`{extent.name}` is not declared as `{extent.name}...`"
                    )
                    self.findings.add(codes.BAD_VARIADIC, extent.span, what=what, name=extent.name)
                    e = None
            else:
                e = self.terms.integer(extent, scope, "an extent")
                if e is not None and not self._size_only(e, extent.span, "an extent"):
                    e = None
            if e is None:
                good = False
            else:
                out.append(e)
        return tuple(out) if good else None

    def _input(self, decl: ast.TensorDecl) -> None:
        d, shape = self.dtype(decl.type), self.shape(decl.shape, self.out.scope)
        kind = None if d is None or shape is None else d.kind
        t = TensorName(decl.name, len(decl.shape), kind, d, "input", span=decl.span)
        if not self._declare(decl.name, decl.span, t) or d is None or shape is None:
            t.ranges = [None] * len(decl.shape)
            return
        t.ranges = [(ZERO, s) for s in shape]
        axes = tuple(
            OpAxis(self.terms.index(f"{decl.name}_{k}", (ZERO, s)), ZERO, s)
            for k, s in enumerate(shape)
        )
        self.out.inputs.append(Tensor(decl.name, d, axes, role="input", layout=decl.layout))

    def _output(self, decl: ast.TensorDecl) -> None:
        d, shape = self.dtype(decl.type), self.shape(decl.shape, self.out.scope)
        kind = None if d is None or shape is None else d.kind
        t = TensorName(decl.name, len(decl.shape), kind, d, "output", span=decl.span)
        t.ranges = [None] * len(decl.shape) if shape is None else [(ZERO, s) for s in shape]
        if not self._declare(decl.name, decl.span, t) or d is None or shape is None:
            return
        if decl.updates is not None:
            self._updates(decl, d, shape)
        self.out.outputs.append((decl, d, shape))

    def _updates(self, decl: ast.TensorDecl, d: DType, shape: tuple[Expr, ...]) -> None:
        assert decl.updates is not None
        target = self.out.scope.find(decl.updates)
        if any(other.updates == decl.updates for other, _, _ in self.out.outputs):
            section = f"`updates {decl.updates}`"
            self.findings.add(codes.SECTION_TWICE, decl.span, section=section)
        if not isinstance(target, TensorName) or target.role != "input":
            found = "unknown" if target is None else role_of(target)
            self.findings.add(
                codes.WRONG_ROLE, decl.span, name=decl.updates, found=found, wanted="an input"
            )
            return
        known = [None if r is None else r[1] for r in target.ranges]
        if target.dtype is not d or list(shape) != known:
            text = ", ".join("?" if e is None else show(e) for e in known)
            self.findings.add(
                codes.WRONG_SHAPE,
                decl.span,
                what=f"`{decl.name}: {d}`, which takes the memory of `{target.name}`,",
                found=", ".join(show(s) for s in shape),
                wanted=f"{text}] of {target.dtype} [",
            )

    # -- what is carried over ---------------------------------------------------------------------

    def tolerance(self) -> dict[str, dict[str, float]]:
        out: dict[str, dict[str, float]] = {}
        self._once(ast.Tolerance, "`tolerance`")
        rules = self.op.tolerance.rules if self.op.tolerance is not None else ()
        for rule in rules:
            d = self.dtype(rule.type)
            if d is not None:
                out[d.name] = bounds(rule.bounds)
        return out

    def objective(self) -> Objective:
        self._once(ast.Objective, "`minimize`")
        node = self.op.objective
        if node is None:
            return Objective()
        terms = tuple(
            (t.metric, 1.0 if t.weight is None else float(t.weight.value)) for t in node.terms
        )
        for b in node.bounds:
            known = METRIC_UNITS[b.metric]
            if b.quantity.unit is not None and b.quantity.unit not in known:
                self.findings.add(
                    codes.WRONG_UNIT,
                    b.span,
                    metric=b.metric,
                    unit=b.quantity.unit,
                    known=", ".join(known) or "a plain number",
                )
        limits = tuple(
            (b.metric, b.op, float(b.quantity.value.value) * UNITS[b.quantity.unit])
            for b in node.bounds
        )
        return Objective(terms, limits)

    def targets(self) -> tuple[Target, ...]:
        out = []
        for t in self.op.targets:
            if t.name not in ("cpu", "gpu"):
                self.findings.add(codes.UNKNOWN_TARGET, t.span, name=t.name)
            out.append(Target(t.name, t.arch, tuple(t.backends)))
        return tuple(out)

    def _once(self, kind: type[ast.Item], name: str) -> None:
        found = self.op.of(kind)
        for extra in found[1:]:
            self.findings.add(codes.SECTION_TWICE, extra.span, section=name)

    def workloads(self, filename: str) -> tuple[Workload, ...]:
        reader = WorkloadReader(self.op, self.terms, self.out, self.findings, self.places)
        return reader.read(filename)


def default_limits(
    sizes: Sequence[str], facts: Sequence[Expr], shapes: Sequence[Sequence[Expr]]
) -> list[Expr]:
    """Bounds of sizes that no fact bounds by a constant, and of the elements of every tensor."""
    out = []
    for s in sizes:
        below = any(_bounds(f, size(s), upper=False) for f in facts)
        above = any(_bounds(f, size(s), upper=True) for f in facts)
        if not below:
            out.append(call("le", 0, size(s)))
        if not above:
            out.append(call("le", size(s), DEFAULT_DIM_LIMIT))
    seen: set[Expr] = set()
    for extent in dict.fromkeys(e for shape in shapes for e in shape):
        # a product of sizes that another axis without elements does not bound
        if any(x.op == "mul" and all(a.op != "const" for a in x.args) for x in walk(extent)):
            out.append(call("le", extent, ELEMENT_LIMIT))
            seen.add(extent)
    for shape in shapes:
        count: Expr = const(1)
        for extent in shape:
            count = count * extent
        if len(shape) > 1 and count not in seen and count.op != "const":
            seen.add(count)
            out.append(call("le", count, ELEMENT_LIMIT))
    return out


def integer_limits(p: Param) -> list[Expr]:
    """An integer param is a value of its type; wider than 62 bits nothing is worth saying."""
    if p.dtype.kind != "int" or p.dtype.bits > 62:
        return []
    lo, hi = integer_range(p.dtype)
    name = param(p.name, "int")
    return [call("le", lo, name), call("le", name, hi)]


def is_default_limit(fact: Expr) -> bool:
    """Whether a fact is one that `default_limits` or `integer_limits` adds."""
    if fact.op != "le":
        return False
    a, b = fact.args
    if "param" in (a.op, b.op) and "const" in (a.op, b.op):
        ends = {e for d in DTYPES.values() if d.kind == "int" for e in integer_range(d)} - {0, 1}
        return (a if a.op == "const" else b).attr in ends
    return (a is ZERO and b.op == "size") or b in (const(DEFAULT_DIM_LIMIT), const(ELEMENT_LIMIT))


def _bounds(fact: Expr, s: Expr, upper: bool) -> bool:
    """Whether a fact bounds a size by a constant on one side."""
    if fact.op in ("lt", "le"):
        small, large = fact.args
        return (small is s and large.op == "const") if upper else (
            large is s and small.op == "const" and small.attr >= (-1 if fact.op == "lt" else 0)
        )  # fmt: skip
    if fact.op == "eq":
        return any(a is s and b.op == "const" for a, b in (fact.args, fact.args[::-1]))
    if fact.op == "or":
        return all(_bounds(a, s, upper) for a in fact.args)
    return False


def bounds(nodes: Sequence[ast.Tol]) -> dict[str, float]:
    return {t.kind: float(t.value.value) for t in nodes}


def bindings(op: ast.Op) -> list[dict[str, str]]:
    """Every combination of an operator's type variables, the default one first."""
    names = [t.name for t in op.types]
    options = [[o.name for o in t.options] for t in op.types]
    return [dict(zip(names, pick, strict=True)) for pick in product(*options)]
