"""The contract: requires, ensures and laws as clauses, and what is said about gradients."""

from __future__ import annotations

from opwright.compiler import codes
from opwright.compiler.call_parts import Sink
from opwright.compiler.calls import Calls
from opwright.compiler.codes import Findings
from opwright.compiler.definitions import Body, prune, reads
from opwright.compiler.interface import Interface, bounds
from opwright.compiler.scope import Hidden, Scope, TensorName, role_of
from opwright.compiler.terms import Terms
from opwright.grammar import ast
from opwright.grammar.ast import Span
from opwright.ir.dtypes import I64, DType
from opwright.ir.expr import ZERO, Expr, const, read_parts, toreal, walk
from opwright.ir.op import Clause, Law, LawArg


class Contract:
    """Elaborates the clauses of one operator after its meaning."""

    def __init__(
        self,
        op: ast.Op,
        interface: Interface,
        terms: Terms,
        calls: Calls,
        findings: Findings,
        body: Body,
    ) -> None:
        self.op, self.interface, self.terms = op, interface, terms
        self.calls, self.findings, self.body = calls, findings, body
        self.spans: dict[tuple[str, Expr], Span] = {}
        self.owner = ""
        terms.record = self._record

    def _record(self, e: Expr, span: Span) -> None:
        self.spans.setdefault((self.owner, e), span)

    def clauses(self) -> tuple[Clause, ...]:
        out: list[Clause] = []
        names: dict[str, Span] = {}
        for k, r in enumerate(self.op.requires):
            name = r.name or f"requires{k}"
            self._once(name, r.span, names)
            e = self._condition(name, r.condition, self._scope(outputs=False), "a precondition")
            out.append(Clause(name, "requires", e, source=r))
        for c in self.op.ensures:
            self._once(c.name, c.span, names)
            self.terms.whole_comparisons = True
            e = self._condition(c.name, c.claim, self._scope(), "a claim")
            self.terms.whole_comparisons = False
            within = bounds(c.within) or None
            out.append(Clause(c.name, "ensures", e, within, c.by or "proof_or_test", c))
        for law in self.op.laws:
            self._once(law.name, law.span, names)
            out.append(self._law(law))
        return tuple(out)

    def _once(self, name: str, span: Span, names: dict[str, Span]) -> None:
        if name in names:
            self.findings.add(codes.DECLARED_TWICE, span, name=name, first="a clause")
        names[name] = span

    def _scope(self, outputs: bool = True) -> Scope:
        """Contracts speak of inputs and outputs, preconditions of inputs alone."""
        scope = self.interface.scope.inner()
        for name, b in self.interface.scope.names.items():
            if isinstance(b, TensorName) and b.role == "local":
                scope.names[name] = Hidden("local of `def`, and a contract speaks of results")
            elif isinstance(b, TensorName) and b.role == "output" and not outputs:
                scope.names[name] = Hidden("output, and a precondition speaks of inputs")
        return scope

    def _condition(self, name: str, node: ast.Expr, scope: Scope, what: str) -> Expr | None:
        self.owner = name
        self.calls.sink = Sink()
        self.calls.writes = True
        e = self.terms.condition(node, scope, what)
        self.calls.writes = False
        if self.calls.sink.tensors or self.calls.sink.calls:
            self.findings.add(
                codes.UNSUPPORTED,
                node.span,
                what="a call of an operator itself outside `law`",
                cure="state it as a law",
            )
            return None
        return e

    # -- laws -------------------------------------------------------------------------------------

    def _law(self, law: ast.Law) -> Clause:
        self.owner = law.name
        scope = self._scope()
        args = [a for a in (self._argument(x, scope) for x in law.args) if a is not None]
        self.calls.sink = sink = Sink()
        self.calls.memo = {}
        self.terms.whole_comparisons = True
        claim = self.terms.condition(law.claim, scope, "a law")
        self.terms.whole_comparisons = False
        roots: set[str] = set()
        if claim is not None:
            roots = {read_parts(x)[0] for x in walk(claim) if x.op == "read"}
        live = set(roots)
        kept = []
        for c in reversed(sink.calls):
            if any(n.startswith(f"{c.name}.") for n in live):
                kept.append(c)
                live |= {n for t in c.inputs for n in reads(t)}
            live |= {n for t in prune(sink.tensors, {}, live) for n in reads(t)}
        tensors = tuple(prune(sink.tensors, {}, live))
        form = Law(tuple(args), tuple(kept[::-1]), tensors, law)
        within = bounds(law.within) or None
        return Clause(law.name, "law", claim, within, law.by or "proof_or_test", form)

    def _argument(self, node: ast.LawArg, scope: Scope) -> LawArg | None:
        known = self.interface.scope.names.get(node.name)
        if node.name in scope.names or isinstance(known, TensorName):
            first = role_of(known) if known is not None else "an argument of the law"
            self.findings.add(codes.DECLARED_TWICE, node.span, name=node.name, first=first)
            scope.names[node.name] = TensorName(node.name, 0, None, None, "argument")
            return None
        if isinstance(node, ast.SampleArg):
            return self._sample(node, scope)
        extent = self.terms.integer(node.size, scope, "a size")
        rank = 1 if isinstance(node, ast.PermArg) else 0
        t = TensorName(node.name, rank, "int", I64, "argument", span=node.span)
        t.ranges = [(ZERO, extent)] if rank and extent is not None else [None] * rank
        scope.names[node.name] = t
        if extent is None:
            return None
        kind = "perm" if rank else "index"
        return LawArg(node.name, kind, I64, (extent,) if rank else (), const(0), extent)

    def _sample(self, node: ast.SampleArg, scope: Scope) -> LawArg | None:
        d = self._dtype(node.type)
        shape = self._extents(node, scope)
        t = TensorName(
            node.name, len(node.shape), None if d is None else d.kind, d, "argument",
            span=node.span,
        )  # fmt: skip
        t.ranges = [None] * len(node.shape) if shape is None else [(ZERO, s) for s in shape]
        scope.names[node.name] = t
        ends: list[Expr | None] = []
        for edge in (node.lo, node.hi):
            e = None if edge is None else self.terms.number(edge, scope, "a bound")
            if e is not None and d is not None and d.kind == "real":
                e = toreal(e)
            ends.append(e)
        if d is None or shape is None:
            return None
        return LawArg(node.name, "sample", d, shape, ends[0], ends[1])

    def _dtype(self, node: ast.ScalarType) -> DType | None:
        from opwright.compiler.interface import Reader

        reader = Reader(self.op, self.terms, self.interface.scope, self.findings)
        return reader.dtype(node)

    def _extents(self, node: ast.SampleArg, scope: Scope) -> tuple[Expr, ...] | None:
        from opwright.compiler.interface import Reader

        reader = Reader(self.op, self.terms, self.interface.scope, self.findings)
        reader.out.variadic = self.interface.variadic
        return reader.shape(node.shape, scope)

    # -- gradients --------------------------------------------------------------------------------

    def gradients(self) -> tuple[tuple[str, str], ...]:
        out: list[tuple[str, str]] = []
        seen: set[str] = set()
        for grad in self.op.grads:
            body = grad.body
            how = {ast.GradAuto: "auto", ast.GradNone: "none"}.get(type(body), "def")
            for name in grad.names:
                b = self.interface.scope.find(name.name)
                if b is None:
                    self.terms.unknown(name.name, name.span, self.interface.scope)
                elif not isinstance(b, TensorName) or b.role != "input":
                    self.findings.add(
                        codes.WRONG_ROLE,
                        name.span,
                        name=name.name,
                        found=role_of(b),
                        wanted="an input",
                    )
                elif name.name in seen:
                    self.findings.add(
                        codes.SECTION_TWICE, name.span, section=f"the gradient of `{name.name}`"
                    )
                seen.add(name.name)
                out.append((name.name, how))
        return tuple(out)
