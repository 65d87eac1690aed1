"""The meaning: equations and recurrences of a `def` become tensors in dependency order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opwright.compiler import codes
from opwright.compiler.call_parts import local_dtype
from opwright.compiler.calls import Calls
from opwright.compiler.codes import KINDS, Findings
from opwright.compiler.dependencies import (
    Definition,
    axis_position,
    components,
    graph,
    in_step_order,
    steps_back,
    uses,
)
from opwright.compiler.interface import Interface
from opwright.compiler.ranges import Origin, Ranges
from opwright.compiler.scope import (
    Index,
    OperatorName,
    Quantity,
    Results,
    Scope,
    TensorName,
    TypeName,
    role_of,
)
from opwright.compiler.terms import Terms
from opwright.grammar import ast
from opwright.grammar.ast import Span
from opwright.ir.dtypes import BOOL, F32, I64
from opwright.ir.expr import ONE, ZERO, Expr, call, toreal, var
from opwright.ir.op import OpAxis, Recurrence, Tensor

KIND_DTYPE = {"int": I64, "real": F32, "bool": BOOL}
CONVERSIONS = {
    ("int", "real"): "take `floor`, `trunc` or `nearest` of it",
    ("int", "bool"): "write `if c then 1 else 0`",
    ("real", "bool"): "write `if c then 1 else 0`",
    ("bool", "int"): "compare it, as in `x != 0`",
    ("bool", "real"): "compare it, as in `x != 0`",
}


class Body:
    """Elaborates the statements of one `def`."""

    def __init__(
        self,
        interface: Interface,
        terms: Terms,
        calls: Calls,
        findings: Findings,
        quiet: tuple[Terms, Calls],
    ) -> None:
        self.interface, self.terms, self.calls = interface, terms, calls
        self.findings, self.quiet = findings, quiet
        self.scope = interface.scope
        self.definitions: dict[str, Definition] = {}
        self.tensors: list[Tensor] = []
        self.outputs = {decl.name: (decl, d, shape) for decl, d, shape in interface.outputs}
        self.spans: dict[tuple[str, Expr], Span] = {}
        self.owner = ""
        self.origins: dict[tuple[str, int], Origin] = {}

    def elaborate(self, statements: Sequence[ast.Stmt]) -> list[Tensor]:
        """The tensors in dependency order; findings say what is wrong."""
        for s in statements:
            for d in _definitions(s, self.findings):
                self._declare(d)
        self._promote()
        misled = any(f.code == codes.DEFINED_INPUT for f in self.findings.found)
        for decl, _, shape in self.interface.outputs:
            if misled:
                break  # an equation of an input may be meant for an output
            if decl.name not in self.definitions:
                marks = f"[{', '.join('ijklmn'[: len(shape)])}]" if shape else ""
                self.findings.add(codes.UNDEFINED_OUTPUT, decl.span, name=decl.name, index=marks)
        self._infer()
        self.terms.record = self._record
        edges = graph(self.definitions)
        for group in components(edges):
            name = group[0]
            if len(group) == 1 and name not in edges[name]:
                self._group([name])
            else:
                self._recurrence(sorted(group, key=list(self.definitions).index))
        return self.tensors

    def _record(self, e: Expr, span: Span) -> None:
        self.spans.setdefault((self.owner, e), span)

    # -- declarations -----------------------------------------------------------------------------

    def _declare(self, d: Definition) -> None:
        known = self.scope.names.get(d.name)
        if d.name in self.definitions:
            self.findings.add(
                codes.DECLARED_TWICE, d.span, name=d.name, first="an equation of `def`"
            )
            return
        if isinstance(known, TensorName) and known.role == "output":
            if known.rank != len(d.indices) and (d.indices or not known.rank):
                self.findings.add(
                    codes.WRONG_RANK,
                    d.span,
                    name=d.name,
                    rank=known.rank,
                    found=f"{len(d.indices)}",
                )
                known.kind = None
                known.ranges = [None] * len(d.indices)
        elif isinstance(known, TensorName | Quantity | TypeName):
            self.findings.add(codes.DEFINED_INPUT, d.span, name=d.name, found=role_of(known))
            return
        elif isinstance(known, OperatorName) or known is None:
            ranges: list[tuple[Expr, Expr] | None] = [None] * len(d.indices)
            self.scope.names[d.name] = TensorName(
                d.name, len(d.indices), None, None, "local", ranges, span=d.span
            )
            self.terms.used.add(d.name)
        seen: set[str] = set()
        for name, span in d.indices:
            if name in seen:
                self.findings.add(codes.REPEATED_INDEX, span, index=name, name=d.name)
            seen.add(name)
            hidden = self.scope.names.get(name)
            if isinstance(hidden, Quantity) and hidden.role in ("size", "derived size"):
                what = f"the {hidden.role}"
                self.findings.add(codes.SHADOWED, span, name=name, what=what)
        self.definitions[d.name] = d

    def _promote(self) -> None:
        """Equations that a recurrence needs within one step join it, if they have its axis."""
        edges = graph(self.definitions)
        for group in components(edges):
            axes = {self.definitions[n].axis for n in group} - {None}
            if len(axes) != 1:
                continue
            (axis,) = axes
            for name in group:
                d = self.definitions[name]
                if d.axis is None and axis_position(d, axis) is not None:
                    self.definitions[name] = Definition(
                        d.name, d.span, d.indices, d.rhs, d.part, axis, None
                    )

    def _infer(self) -> None:
        terms, calls = self.quiet
        scope = self.scope
        for d in self.definitions.values():
            t = scope.names[d.name]
            assert isinstance(t, TensorName)
            if t.role == "local":
                # a provisional kind, so that calls on locals have shapes before locals have types
                t.kind = "bool" if _truth(d.rhs) else "real"
        terms.used = set(self.terms.used)
        del calls
        ranges = Ranges(self.definitions, scope, terms, self.interface.facts)
        ranges.infer(self.findings)
        self.origins = ranges.origins
        for d in self.definitions.values():
            t = scope.names[d.name]
            assert isinstance(t, TensorName)
            if t.role == "local":
                t.kind = None
                t.rank = len(t.ranges)

    # -- equations --------------------------------------------------------------------------------

    def _tensor(self, name: str) -> TensorName:
        t = self.scope.names[name]
        assert isinstance(t, TensorName)
        return t

    def _group(self, names: Sequence[str]) -> None:
        """One equation, or a recurrence that no other tensor is part of."""
        d = self.definitions[names[0]]
        if d.axis is not None:
            self._recurrence(list(names))
            return
        t = self._tensor(d.name)
        if any(r is None for r in t.ranges):
            t.kind = None
            return
        self.owner = d.name
        made = self._equation(d, t)
        self.tensors += self.calls.sink.tensors
        self.calls.sink.tensors = []
        if made is not None:
            self.tensors.append(made)

    def _axes(self, d: Definition, t: TensorName) -> tuple[list[OpAxis], Scope]:
        axes: list[OpAxis] = []
        inner = self.scope.inner()
        named = d.indices or tuple((f"i{k}", d.span) for k in range(t.rank))
        for (name, _), interval in zip(named, t.ranges, strict=True):
            assert interval is not None
            unique = self.terms.index(name.removesuffix("..."), interval)
            axes.append(OpAxis(unique, *interval))
            inner.names[name] = Index(var(unique), interval[1])
            if name.endswith("..."):
                inner.names.pop(name.removesuffix("..."), None)
        return axes, inner

    def _equation(self, d: Definition, t: TensorName) -> Tensor | None:
        axes, inner = self._axes(d, t)
        at = tuple(var(a.name) for a in axes)
        body = self._right(d, t, inner if d.indices else self.scope, at)
        return self._finish(d, t, axes, body)

    def _right(
        self, d: Definition, t: TensorName, scope: Scope, at: tuple[Expr, ...]
    ) -> Expr | None:
        """The value of the right side at the left side's indices."""
        whole = d.part is not None or (not d.indices and t.rank > 0)
        if not whole:
            return self.terms.scalar(d.rhs, scope)
        v = self.terms.value(d.rhs, scope if d.part is None else self.scope)
        if isinstance(v, Results) and d.part is not None:
            outputs = list(v.outputs.values())
            count = 1 + max(o.part or 0 for o in self.definitions.values() if o.rhs is d.rhs)
            if len(outputs) != count:
                if d.part == 0:
                    self.findings.add(
                        codes.WRONG_ARITY,
                        d.rhs.span,
                        name=v.op,
                        wanted=f"{len(outputs)} names on the left, not {count}; it",
                        found="that",
                        cure=f"its results are {', '.join(v.outputs)}",
                    )
                return None
            v = outputs[d.part]
        elif d.part is not None and v is not None:
            self.findings.add(
                codes.WRONG_ROLE,
                d.rhs.span,
                name="the right side",
                found="one value",
                wanted="a call with several results",
            )
            return None
        if isinstance(v, Results):
            v = self.terms.single(v, d.rhs)
        if v is None or isinstance(v, Expr):
            return v
        shape = [None if r is None else r[1] for r in t.ranges]
        return v.at(at, None, d.rhs.span) if self.terms.fits(v, shape, d.rhs) else None

    def _finish(
        self, d: Definition, t: TensorName, axes: list[OpAxis], body: Expr | None
    ) -> Tensor | None:
        """The tensor of a checked body; an output's declared type decides its kind."""
        if body is None:
            t.kind = None if t.role == "local" else t.kind
            return None
        if t.role == "output":
            if t.kind is None:
                return None
            decl, dtype, _ = self.outputs[d.name]
            if dtype.kind == "real" and body.kind == "int":
                body = toreal(body)
            if body.kind != dtype.kind:
                self.findings.add(
                    codes.WRONG_DEFINITION,
                    d.rhs.span,
                    name=d.name,
                    declared=str(dtype),
                    found=KINDS[body.kind],
                    cure=CONVERSIONS[dtype.kind, body.kind],
                )
                return None
            return Tensor(
                d.name,
                dtype,
                tuple(axes),
                body,
                "output",
                updates=decl.updates,
                layout=decl.layout,
            )
        t.kind, t.dtype = body.kind, local_dtype(body)
        return Tensor(d.name, t.dtype, tuple(axes), body)

    # -- recurrences ------------------------------------------------------------------------------

    def _recurrence(self, group: list[str]) -> None:
        axis = self._common_axis(group)
        order = None if axis is None else in_step_order(group, self.definitions, axis)
        if axis is not None and order is None:
            names = ", ".join(f"`{n}`" for n in group)
            self._bad(
                self._closing(group, axis),
                f"within one step {names} need each other",
                f"read one of them at `{axis} - 1`",
            )
        good = axis is not None and order is not None and self._reads_one_step(group, axis)
        known = all(None not in self._tensor(n).ranges for n in group)
        if not good or not known or axis is None or order is None:
            for n in group:
                t = self._tensor(n)
                t.kind = t.kind if t.role == "output" else None
            return
        self.calls.sink.busy = frozenset(group)
        made = self._attempts(order, axis)
        self.calls.sink.busy = frozenset()
        self.tensors += self.calls.sink.tensors
        self.calls.sink.tensors = []
        self.tensors += made

    def _bad(self, span: Span, what: str, cure: str) -> None:
        self.findings.add(codes.BAD_RECURRENCE, span, what=what, cure=cure)

    def _closing(self, group: Sequence[str], axis: str | None = None) -> Span:
        """Where a definition reads one of its group that is not defined above it.

        With an axis, such a read at the present step.
        """
        above: set[str] = set()
        for n, d in self.definitions.items():
            if n not in group:
                continue
            for use in uses(d.rhs, frozenset(i for i, _ in d.indices)):
                if use.name not in group or use.name in above:
                    continue
                where = axis_position(self.definitions[use.name], axis)
                now = axis is None or (
                    where is not None and steps_back(d, axis, use, where) == 0
                )  # fmt: skip
                if now:
                    return (use.read or use.node).span
            above.add(n)
        return self.definitions[group[0]].span

    def _common_axis(self, group: Sequence[str]) -> str | None:
        axes = {self.definitions[n].axis for n in group}
        first = self.definitions[group[0]]
        if None in axes:
            names = " and ".join(f"`{n}`" for n in sorted(group))
            self.findings.add(codes.CYCLE, self._closing(group), names=names)
            return None
        if len(axes) > 1:
            self._bad(
                first.span,
                f"one recurrence runs over {' and '.join(sorted(f'`{a}`' for a in axes if a))}",
                "let all its tensors run over one axis",
            )
            return None
        (axis,) = axes
        for n in group:
            d = self.definitions[n]
            if axis_position(d, axis) is None:
                self._bad(
                    d.span, f"`{n}` has no index `{axis}`", f"write `rec {axis}: {n}[.., {axis}]`"
                )
                return None
        return axis

    def _reads_one_step(self, group: Sequence[str], axis: str) -> bool:
        """Every read inside a recurrence is at the present step or the one before."""
        good = True
        for n in group:
            d = self.definitions[n]
            for use in uses(d.rhs, frozenset(i for i, _ in d.indices)):
                if use.name not in group:
                    continue
                other = self.definitions[use.name]
                where = axis_position(other, axis)
                back = None if where is None else steps_back(d, axis, use, where)
                if back is None:
                    self._bad(
                        (use.read or use.node).span,
                        f"a recurrence reads `{use.name}` at neither `{axis}` nor `{axis} - 1`",
                        f"carry what lies further back in a tensor of its own, with `rec {axis}`",
                    )
                    good = False
                elif back == 1 and other.init is None:
                    self._bad(
                        (use.read or use.node).span,
                        f"`{use.name}` is read at `{axis} - 1`, but has no `init`",
                        f"define it with `rec {axis}: {use.name}[..] = ... init ...`",
                    )
                    good = False
        return good

    def _attempts(self, order: Sequence[str], axis: str) -> list[Tensor]:
        """Locals of a recurrence take the kind of their `init`, else what their equation needs."""
        kinds = {n: self._start(n) for n in order}
        before = list(self.findings.found)
        for _ in range(3):
            self.findings.found[:] = before
            for n, kind in kinds.items():
                t = self._tensor(n)
                if t.role == "local":
                    t.kind, t.dtype = kind, None if kind is None else KIND_DTYPE[kind]
            made = [m for m in (self._step(n, axis, tuple(order)) for n in order) if m is not None]
            new = {m.name: m.kind for m in made}
            if all(new.get(n, kinds[n]) == kinds[n] for n in order):
                return made
            kinds |= new
        return made

    def _start(self, name: str) -> str | None:
        d, t = self.definitions[name], self._tensor(name)
        if t.role == "output":
            return t.kind
        if d.init is None:
            return "bool" if _truth(d.rhs) else "real"
        terms = self.quiet[0]
        e = terms.scalar(d.init, self._axes(d, t)[1])
        return "real" if e is None else e.kind

    def _step(self, name: str, axis: str, group: tuple[str, ...]) -> Tensor | None:
        d, t = self.definitions[name], self._tensor(name)
        self.owner = name
        axes, inner = self._axes(d, t)
        where = axis_position(d, axis)
        assert where is not None
        body = self.terms.scalar(d.rhs, inner)
        init: Expr | None = ZERO
        if d.init is not None:
            first = Scope(inner)
            first.names[axis] = Index(axes[where].lo - ONE, axes[where].hi)
            init = self.terms.scalar(d.init, first)
        if body is not None and t.role == "local" and t.kind == "int" and body.kind == "real":
            t.kind = "real"
        made = self._finish(d, t, axes, body)
        if made is None or init is None:
            return None
        if made.kind == "real" and init.kind == "int":
            init = toreal(init)
        if made.kind != init.kind:
            if d.init is None:
                init = {"bool": call("lt", 1, 0), "int": ZERO, "real": toreal(ZERO)}[made.kind]
            else:
                self.findings.add(
                    codes.WRONG_DEFINITION,
                    d.init.span,
                    name=f"init of {name}",
                    declared=KINDS[made.kind],
                    found=KINDS[init.kind],
                    cure="give the start value the kind of the recurrence",
                )
                return None
        recurrence = Recurrence(axes[where].name, init, group)
        return Tensor(
            made.name, made.dtype, made.axes, made.body, made.role, recurrence, made.updates,
            made.layout,
        )  # fmt: skip


def _definitions(s: ast.Stmt, findings: Findings) -> list[Definition]:
    if isinstance(s, ast.Recurrence):
        indices: list[tuple[str, Span]] = []
        for part in s.indices:
            if isinstance(part, ast.Name | ast.Splat):
                mark = "..." if isinstance(part, ast.Splat) else ""
                indices.append((part.name + mark, part.span))
            else:
                findings.add(
                    codes.BAD_RECURRENCE,
                    part.span,
                    what=f"the left side of `{s.name}` is not an index alone",
                    cure=f"write `rec {s.axis}: {s.name}[.., {s.axis}] = ...`",
                )
                return []
        return [Definition(s.name, s.span, tuple(indices), s.rhs, None, s.axis, s.init)]
    assert isinstance(s, ast.Equation)
    out = []
    for k, lhs in enumerate(s.lhs):
        named = tuple((i.name + ("..." if i.variadic else ""), i.span) for i in lhs.indices)
        number = k if len(s.lhs) > 1 else None
        out.append(Definition(lhs.name, lhs.span, named, s.rhs, number))
    return out


def _truth(node: ast.Expr) -> bool:
    """Whether an expression is a truth value by its outermost form."""
    match node:
        case ast.Compare() | ast.Member() | ast.Bool():
            return True
        case ast.Unary(op="not") | ast.Binary(op="and" | "or"):
            return True
        case ast.Reduce(kind="any" | "all"):
            return True
        case ast.Cond():
            return _truth(node.a)
    return False


def prune(tensors: Sequence[Tensor], keep: Mapping[str, object], roots: set[str]) -> list[Tensor]:
    """Drop the tensors outside `keep` that nothing reads."""
    live = set(roots) | set(keep)
    out: list[Tensor] = []
    for t in reversed(tensors):
        group = set(t.recurrence.group) if t.recurrence else {t.name}
        if group & live:
            out.append(t)
            live |= group | reads(t)
    return out[::-1]


def reads(t: Tensor) -> set[str]:
    """Names of the tensors a definition reads."""
    from opwright.ir.expr import walk

    roots = [t.body] if t.body is not None else []
    if t.recurrence is not None:
        roots.append(t.recurrence.init)
    return {x.attr[0] for r in roots for x in walk(r) if x.op == "read"}
