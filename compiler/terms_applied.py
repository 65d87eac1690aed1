"""Applied names: functions, reductions, casts, random numbers, calls of operators."""

from __future__ import annotations

from opwright.compiler import codes
from opwright.compiler.codes import did_you_mean
from opwright.compiler.intrinsics import INTRINSICS, RANDOM
from opwright.compiler.scope import (
    Index,
    Interval,
    ModuleName,
    OperatorName,
    Results,
    Scope,
    Whole,
    bounding,
    role_of,
)
from opwright.compiler.terms_base import Value, counted, found
from opwright.compiler.terms_tensors import TensorValues
from opwright.grammar import ast
from opwright.grammar.format_expr import format_expr
from opwright.ir.dtypes import DTYPES
from opwright.ir.expr import (
    TRUE,
    ZERO,
    Expr,
    cast,
    const,
    reduction,
    rounded,
    toreal,
    var,
)
from opwright.ir.semantics import ROWS

# rows that are called by name; the others are written as operators
FUNCTIONS = tuple(
    sorted(
        r.name
        for r in ROWS.values()
        if r.symbol is None and r.name not in ("neg", "not", "select", "toreal", "rand", "randn")
    )
)


class Applications(TensorValues):
    """Lowers what is applied to operands."""

    def _call(self, node: ast.Call, scope: Scope) -> Value | None:
        operator = isinstance(scope.find(node.func), OperatorName)
        if node.is_reducer and (len(node.args) > 1 or not operator):
            return self._binary_reducer(node, scope)
        if operator and node.func in (*FUNCTIONS, *RANDOM) and not self._on_numbers(node, scope):
            target = self._operator(node, scope)
            return None if target is None else self.call_operator(node, target, scope)
        if node.func in FUNCTIONS:
            return self._function(node, scope)
        if node.func in RANDOM:
            return self._random(node, scope)
        target = self._operator(node, scope)
        if target is not None:
            return self.call_operator(node, target, scope)
        return None

    def _operator(self, node: ast.Call, scope: Scope) -> OperatorName | None:
        module, _, name = node.func.rpartition(".")
        if module:
            m = scope.find(module)
            if m is None:
                self.unknown(module, node.span, scope)
            elif not isinstance(m, ModuleName):
                self.findings.add(
                    codes.WRONG_ROLE, node.span, name=module, found=role_of(m), wanted="a module"
                )
            elif name not in m.operators:
                self.findings.add(
                    codes.UNKNOWN_OPERATOR,
                    node.span,
                    name=name,
                    place=f"module `{module}`",
                    known=", ".join(m.operators) or "none",
                    hint=did_you_mean(name, list(m.operators)),
                )
            else:
                return m.operators[name]
            return None
        b = scope.find(node.func)
        if isinstance(b, OperatorName):
            return b
        if b is not None:
            self.findings.add(
                codes.WRONG_ROLE, node.span, name=node.func, found=role_of(b), wanted="a function"
            )
        else:
            operators = [n for n in scope.all_names() if isinstance(scope.find(n), OperatorName)]
            self.findings.add(
                codes.UNKNOWN_FUNCTION,
                node.span,
                name=node.func,
                hint=did_you_mean(node.func, [*FUNCTIONS, *RANDOM, *operators]),
                known=", ".join((*FUNCTIONS, *RANDOM, *INTRINSICS)),
            )
        return None

    def _binary_reducer(self, node: ast.Call, scope: Scope) -> Expr | None:
        if node.func not in ("max", "min") or len(node.args) < 2 or node.kwargs:
            self.findings.add(
                codes.WRONG_ARITY,
                node.span,
                name=node.func,
                wanted="two or more" if node.func in ("max", "min") else "no",
                found=counted(len(node.args), "argument", "arguments"),
                cure=f"a reduction binds its index: `{node.func}[j: N](x[j])`",
            )
            return None
        args = [self.number(a, scope, f"`{node.func}`") for a in node.args]
        out = args[0]
        for a in args[1:]:
            out = self._apply(node.func, node.span, out, a)
        return out

    def _function(self, node: ast.Call, scope: Scope) -> Expr | None:
        row = ROWS[node.func]
        args = [self.number(a, scope, f"`{node.func}`") for a in node.args]
        if len(args) != row.arity or node.kwargs:
            self.findings.add(
                codes.WRONG_ARITY,
                node.span,
                name=node.func,
                wanted=row.arity,
                found=len(args) + len(node.kwargs),
                cure=f"write `{node.func}({', '.join('abc'[: row.arity])})`",
            )
            return None
        return self._apply(node.func, node.span, *args)

    def _on_numbers(self, node: ast.Call, scope: Scope) -> bool:
        """Whether a function that is also the name of an operator is called on single values."""
        before = len(self.findings.found)
        values = [self.value(a, scope) for a in node.args]
        del self.findings.found[before:]
        return not any((isinstance(v, Whole) and v.shape) or isinstance(v, Results) for v in values)

    def _random(self, node: ast.Call, scope: Scope) -> Expr | None:
        """A random number at a tuple of indices: its position is row-major."""
        stream: Expr | None = const(self.streams.get(node.span, 0))
        for named in node.kwargs:
            if named.name == "stream":
                stream = self.integer(named.value, scope, "`stream`")
        if len(node.args) < 2 or any(n.name != "stream" for n in node.kwargs):
            self.findings.add(
                codes.WRONG_ARITY,
                node.span,
                name=node.func,
                wanted="a seed and at least one index, 2 or more",
                found=len(node.args) + len(node.kwargs),
                cure=f"write `{node.func}(seed, i, j)`",
            )
            return None
        seed = self.integer(node.args[0], scope, "a seed")
        position: Expr | None = None
        for k, arg in enumerate(node.args[1:]):
            e = self.integer(arg, scope, "an index")
            if k == 0:
                position = e
                continue
            extent = self._extent(arg, scope)
            if e is None or position is None:
                return None
            if extent is None:
                self.findings.add(codes.UNKNOWN_EXTENT, arg.span, what=f"`{format_expr(arg)}`")
                return None
            position = position * extent + e
        return self._apply(node.func, node.span, seed, position, stream)

    def _extent(self, node: ast.Expr, scope: Scope) -> Expr | None:
        """One more than the largest value of an index expression."""
        alone = scope.find(node.name) if isinstance(node, ast.Name) else None
        if isinstance(alone, Index):
            return alone.extent
        ranges: dict[str, Interval | None] = {}
        inner = scope.inner()
        for n in ast.walk(node):
            b = scope.find(n.name) if isinstance(n, ast.Name | ast.Splat) else None
            if isinstance(n, ast.Splat):
                b = scope.find(n.name + "...")
            if isinstance(b, Index) and isinstance(n, ast.Name | ast.Splat):
                if b.extent is None:
                    return None
                name = n.name + ("..." if isinstance(n, ast.Splat) else "")
                inner.names[name] = Index(var(f"?{name}"))
                ranges[f"?{name}"] = (ZERO, b.extent)
        e = self.integer(node, inner, "an index")
        top = None if e is None else bounding(e, ranges, upper=True)
        return None if top is None else top + 1

    def _cast(self, node: ast.Cast, scope: Scope) -> Expr | None:
        e = self.scalar(node.x, scope)
        to = DTYPES[node.dtype]
        if e is None:
            return None
        if e.kind != to.kind and not (to.kind == "real" and e.kind == "int"):
            self.findings.add(codes.REAL_TO_INT, node.span, found=found(e)[2:].lstrip(), to=to)
            return None
        return cast(e, to)

    def _round(self, node: ast.Round, scope: Scope) -> Expr | None:
        e = self.number(node.x, scope, f"`round.{node.dtype}`")
        to = DTYPES[node.dtype]
        if to.kind != "real":
            self.findings.add(codes.ROUND_TO_INT, node.span, to=to)
            return None
        return None if e is None else rounded(e, to)

    # -- reductions -------------------------------------------------------------------------------

    def _reduce(self, node: ast.Reduce, scope: Scope) -> Expr | None:
        inner, names, ranges, good = self.binders(node.binders, scope)
        guard: Expr | None = TRUE
        if node.guard is not None:
            guard = self.condition(node.guard, inner, "the guard of a reduction")
        body = self.scalar(node.body, inner)
        if not good or guard is None or body is None:
            return None
        if node.kind in ("argmax", "argmin") and len(names) != 1:
            self.findings.add(codes.MANY_BINDERS, node.span, kind=node.kind, found=len(names))
            return None
        if (node.kind in ("any", "all")) != (body.kind == "bool"):
            self.findings.add(
                codes.WRONG_REDUCTION, node.body.span, kind=node.kind, found=found(body)
            )
            return None
        acc = None if node.acc is None else DTYPES[node.acc]
        if acc is not None:
            if acc.kind == "real" and body.kind == "int":
                body = toreal(body)
            if acc.kind != body.kind:
                self.findings.add(
                    codes.WRONG_ACCUMULATOR, node.span, kind=node.kind, acc=acc, found=found(body)
                )
                return None
        e = reduction(node.kind, tuple(names), tuple(ranges), body, guard, acc)
        self.record(e, node.span)
        return e
