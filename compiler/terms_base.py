"""What lowering expressions rests on: fresh names, single values of a wanted kind, findings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

from opwright.compiler import codes
from opwright.compiler.codes import KINDS, Findings, did_you_mean
from opwright.compiler.scope import (
    Interval,
    OperatorName,
    Results,
    Scope,
    TensorName,
    Whole,
    same_extent,
)
from opwright.grammar import ast
from opwright.grammar.ast import Span
from opwright.grammar.format_expr import format_expr
from opwright.ir.expr import (
    Expr,
    ExprError,
    call,
    read,
    show,
)

Value = Expr | Whole | Results
CallHandler = Callable[[ast.Call, OperatorName, Scope], Results | None]


def found(e: Expr) -> str:
    return KINDS[e.kind]


def counted(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


class SingleValues(ABC):
    """Names and values. `record` is told the place of every node that may carry an obligation."""

    def __init__(self, findings: Findings) -> None:
        self.findings = findings
        self.used: set[str] = set()
        self.display: dict[str, str] = {}  # unique name of an index -> name in the spec
        self.ranges: dict[str, Interval | None] = {}
        self.record: Callable[[Expr, Span], None] = lambda e, span: None
        self.call_operator: CallHandler = lambda node, op, scope: None
        self.whole_comparisons = False  # `~=` between tensors: contracts only
        self.streams: Mapping[Span, int] = {}  # of calls of `rand` and `randn`

    # -- names ------------------------------------------------------------------------------------

    def fresh(self, hint: str) -> str:
        """A name that nothing else in this operator has."""
        name, n = hint, 0
        while name in self.used:
            n += 1
            name = f"{hint}_{n}"
        self.used.add(name)
        return name

    def index(self, hint: str, interval: Interval | None) -> str:
        """A fresh index variable with its range."""
        name = self.fresh(hint)
        self.display[name] = hint
        self.ranges[name] = interval
        return name

    def unknown(self, name: str, span: Span, scope: Scope) -> None:
        again = (f for f in self.findings.found if f.code == codes.UNKNOWN_NAME)
        if any(f.span.line == span.line and f"`{name}`" in f.message for f in again):
            return
        hint = did_you_mean(name, scope.all_names())
        self.findings.add(codes.UNKNOWN_NAME, span, name=name, hint=hint)

    # -- single values ----------------------------------------------------------------------------

    def scalar(self, node: ast.Expr, scope: Scope) -> Expr | None:
        """A single value; a tensor in its place is a finding."""
        v = self.value(node, scope)
        if isinstance(v, Results):
            v = self.single(v, node)
        if isinstance(v, Whole):
            if not v.shape:
                return v.at((), None, node.span)
            marks = ", ".join("ijklmn"[: len(v.shape)]) if len(v.shape) <= 6 else "..."
            text = format_expr(node)
            self.findings.add(
                codes.TENSOR_AS_NUMBER,
                node.span,
                what=f"`{text}`",
                rank=len(v.shape),
                example=f"{text}[{marks}]",
            )
            return None
        return v

    def single(self, v: Results, node: ast.Expr) -> Whole | None:
        """The only result of a call."""
        if len(v.outputs) == 1:
            return next(iter(v.outputs.values()))
        known = ", ".join(v.outputs)
        first = next(iter(v.outputs), "y")
        self.findings.add(
            codes.MANY_RESULTS, node.span, op=v.op, known=known, example=f"{v.op}(...).{first}"
        )
        return None

    def condition(self, node: ast.Expr, scope: Scope, what: str) -> Expr | None:
        e = self.scalar(node, scope)
        if e is not None and e.kind != "bool":
            self.findings.add(codes.NOT_CONDITION, node.span, what=what, found=found(e))
            return None
        return e

    def integer(self, node: ast.Expr, scope: Scope, what: str) -> Expr | None:
        e = self.scalar(node, scope)
        if e is not None and e.kind != "int":
            self.findings.add(codes.NOT_INTEGER, node.span, what=what, found=found(e))
            return None
        return e

    def number(self, node: ast.Expr, scope: Scope, what: str) -> Expr | None:
        e = self.scalar(node, scope)
        if e is not None and e.kind == "bool":
            self.findings.add(
                codes.WRONG_KIND,
                node.span,
                what=what,
                wanted="a number",
                found=found(e),
                cure="write `if c then 1 else 0`",
            )
            return None
        return e

    # -- any value --------------------------------------------------------------------------------

    @abstractmethod
    def value(self, node: ast.Expr, scope: Scope) -> Value | None:
        """What an expression is: a value, a tensor, or the results of a call."""

    def _apply(self, name: str, span: Span, *args: Expr | None) -> Expr | None:
        """A row of the semantics table on operands whose kinds were checked."""
        if any(a is None for a in args):
            return None
        try:
            e = call(name, *(a for a in args if a is not None))
        except ExprError as error:
            self.findings.add(
                codes.WRONG_KIND,
                span,
                what=f"`{name}`",
                wanted="other operands",
                found=str(error),
                cure="see the table of functions in docs/language.md",
            )
            return None
        if name in ("floordiv", "mod", "div", "log", "log2", "log1p", "sqrt", "rsqrt", "pow"):
            self.record(e, span)
        return e

    def whole(self, t: TensorName, span: Span) -> Value | None:
        """A tensor as a value; a scalar one as its element."""
        if t.kind is None:
            return None
        kind = t.kind
        if t.rank == 0:
            return read(t.name, (), kind)

        def at(index: tuple[Expr, ...], fill: Expr | None, where: Span) -> Expr | None:
            e = read(t.name, index, kind, fill)
            self.record(e, where)
            return e

        shape = tuple(r[1] if r is not None else None for r in t.ranges)
        return Whole(f"`{t.name}`", shape, kind, t.dtype, at, t.name)

    def fits(self, v: Whole, shape: Sequence[Expr | None], node: ast.Expr) -> bool:
        """Whether a tensor has this shape; a finding when it does not."""
        known = list(zip(v.shape, shape, strict=False))
        if len(v.shape) == len(shape) and all(
            a is None or b is None or same_extent(a, b) for a, b in known
        ):
            return True
        text = [", ".join("?" if s is None else show(s) for s in x) for x in (v.shape, shape)]
        self.findings.add(
            codes.WRONG_SHAPE,
            node.span,
            what=f"`{format_expr(node)}`",
            found=text[0],
            wanted=text[1],
        )
        return False
