"""Expressions of a spec as typed expressions of the IR.

One `Terms` serves one operator. Every mistake becomes a finding and the value None, which every
caller passes on without a second finding. Calls of operators are left to the handler that the
elaborator sets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from opwright.compiler import codes
from opwright.compiler.codes import KINDS, Findings, did_you_mean
from opwright.compiler.intrinsics import INTRINSICS, RANDOM, RESULTS
from opwright.compiler.scope import (
    Index,
    Interval,
    ModuleName,
    OperatorName,
    Quantity,
    Results,
    Scope,
    TensorName,
    Whole,
    bounding,
    role_of,
    same_extent,
)
from opwright.grammar import ast
from opwright.grammar.ast import Span
from opwright.grammar.format_expr import format_expr
from opwright.ir.dtypes import DTYPES
from opwright.ir.expr import (
    FALSE,
    INF,
    TRUE,
    ZERO,
    Expr,
    ExprError,
    call,
    cast,
    conjunction,
    const,
    read,
    reduction,
    rounded,
    show,
    toreal,
    var,
)
from opwright.ir.semantics import ROWS

Value = Expr | Whole | Results
CallHandler = Callable[[ast.Call, OperatorName, Scope], Results | None]

# rows that are called by name; the others are written as operators
FUNCTIONS = tuple(
    sorted(
        r.name
        for r in ROWS.values()
        if r.symbol is None and r.name not in ("neg", "not", "select", "toreal", "rand", "randn")
    )
)
ARITHMETIC = {"+": "add", "-": "sub", "*": "mul", "/": "div", "//": "floordiv", "%": "mod"}
COMPARISONS = {"==": "eq", "!=": "ne", "~=": "approx", "<=": "le", "<": "lt", ">": "lt", ">=": "le"}


def found(e: Expr) -> str:
    return KINDS[e.kind]


class Terms:
    """Lowers expressions. `record` is told the place of every node that may carry an obligation."""

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

    def value(self, node: ast.Expr, scope: Scope) -> Value | None:
        match node:
            case ast.Number():
                if isinstance(node.value, int) and node.value >= 2**63:
                    self.findings.add(codes.LARGE_INTEGER, node.span, text=node.text)
                    return None
                return const(node.value)
            case ast.Bool():
                return TRUE if node.value else FALSE
            case ast.Inf():
                return INF
            case ast.Name():
                return self._name(node, scope)
            case ast.Unary():
                return self._unary(node, scope)
            case ast.Binary():
                return self._binary(node, scope)
            case ast.Compare():
                return self._compare(node, scope)
            case ast.Member():
                return self._member(node, scope)
            case ast.Cond():
                return self._conditional(node, scope)
            case ast.Read():
                return self._read(node, scope)
            case ast.Field():
                return self._field(node, scope)
            case ast.Call():
                return self._call(node, scope)
            case ast.Cast():
                return self._cast(node, scope)
            case ast.Round():
                return self._round(node, scope)
            case ast.Reduce():
                return self._reduce(node, scope)
            case ast.TensorLambda():
                return self._lambda(node, scope)
        raise AssertionError(f"unknown expression {type(node).__name__}")

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

    def _name(self, node: ast.Name, scope: Scope) -> Value | None:
        b = scope.find(node.name)
        if b is None:
            self.unknown(node.name, node.span, scope)
            return None
        if isinstance(b, Index | Quantity):
            return b.expr
        if isinstance(b, TensorName):
            return self.whole(b, node.span)
        self.findings.add(
            codes.WRONG_ROLE, node.span, name=node.name, found=role_of(b), wanted="a value"
        )
        return None

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

    def _unary(self, node: ast.Unary, scope: Scope) -> Expr | None:
        if node.op == "not":
            e = self.condition(node.x, scope, "the operand of `not`")
            return None if e is None else call("not", e)
        e = self.number(node.x, scope, "`-`")
        if e is not None and e.op == "const":
            return const(-e.attr)
        return self._apply("neg", node.span, e)

    def _binary(self, node: ast.Binary, scope: Scope) -> Expr | None:
        if node.op in ("and", "or"):
            a = self.condition(node.a, scope, f"the left side of `{node.op}`")
            b = self.condition(node.b, scope, f"the right side of `{node.op}`")
            return self._apply(node.op, node.span, a, b)
        side = self.integer if node.op in ("//", "%") else self.number
        a = side(node.a, scope, f"`{node.op}`" if side == self.number else "the left side")
        b = side(node.b, scope, f"`{node.op}`" if side == self.number else "the right side")
        return self._apply(ARITHMETIC[node.op], node.span, a, b)

    def _compare(self, node: ast.Compare, scope: Scope) -> Expr | None:
        values = [self.value(x, scope) for x in node.operands]
        values = [
            self.single(v, x) if isinstance(v, Results) else v
            for v, x in zip(values, node.operands, strict=True)
        ]
        if any(isinstance(v, Whole) for v in values) and self.whole_comparisons:
            return self._compare_whole(node, values)
        parts: list[Expr] = []
        scalars: list[Expr | None] = []
        for v, x in zip(values, node.operands, strict=True):
            scalars.append(self.scalar(x, scope) if isinstance(v, Whole) else v)  # type: ignore[arg-type]
        for op, a, b in zip(node.ops, scalars, scalars[1:], strict=False):
            if a is None or b is None:
                return None
            part = self._relation(op, a, b, node.span)
            if part is None:
                return None
            parts.append(part)
        return conjunction(parts)

    def _relation(self, op: str, a: Expr, b: Expr, span: Span) -> Expr | None:
        if (a.kind == "bool") != (b.kind == "bool"):
            self.findings.add(codes.MIXED_KINDS, span, what=f"`{op}`", a=found(a), b=found(b))
            return None
        if a.kind == "bool":
            if op not in ("==", "!=", "~="):
                self.findings.add(
                    codes.WRONG_KIND,
                    span,
                    what=f"`{op}`",
                    wanted="numbers",
                    found=found(a),
                    cure="compare truth values with `==` and `!=`",
                )
                return None
            same = (a & b) | (~a & ~b)
            return ~same if op == "!=" else same
        if op in (">", ">="):
            a, b = b, a
        return call(COMPARISONS[op], a, b)

    def _compare_whole(self, node: ast.Compare, values: Sequence[Value | None]) -> Expr | None:
        """A comparison of tensors holds at every element."""
        if len(values) != 2 or any(v is None for v in values):
            return None
        a, b = values
        first, second = (v for v in (a, b))
        shape = next(v.shape for v in (first, second) if isinstance(v, Whole))
        for v, x in zip((first, second), node.operands, strict=True):
            if isinstance(v, Whole) and not self.fits(v, shape, x):
                return None
        if any(s is None for s in shape):
            return None
        names = [self.index(f"i{k}", (ZERO, s)) for k, s in enumerate(shape) if s is not None]
        at = tuple(var(n) for n in names)
        sides = [
            v.at(at, None, x.span) if isinstance(v, Whole) else v
            for v, x in zip((first, second), node.operands, strict=True)
        ]
        if not isinstance(sides[0], Expr) or not isinstance(sides[1], Expr):
            return None
        body = self._relation(node.ops[0], sides[0], sides[1], node.span)
        if body is None:
            return None
        ranges = tuple((ZERO, s) for s in shape if s is not None)
        return reduction("all", tuple(names), ranges, body)

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

    def _member(self, node: ast.Member, scope: Scope) -> Expr | None:
        x = self.scalar(node.x, scope)
        out = FALSE
        for option in node.options:
            o = self.scalar(option, scope)
            if x is None or o is None:
                return None
            part = self._relation("==", x, o, option.span)
            if part is None:
                return None
            out = out | part
        return out

    def _conditional(self, node: ast.Cond, scope: Scope) -> Expr | None:
        c = self.condition(node.c, scope, "the condition of `if`")
        a, b = self.scalar(node.a, scope), self.scalar(node.b, scope)
        if c is None or a is None or b is None:
            return None
        if (a.kind == "bool") != (b.kind == "bool"):
            self.findings.add(codes.MIXED_KINDS, node.span, what="`if`", a=found(a), b=found(b))
            return None
        if a.kind == "bool":
            return (c & a) | (~c & b)
        return call("select", c, a, b)

    # -- reads ------------------------------------------------------------------------------------

    def _read(self, node: ast.Read, scope: Scope) -> Value | None:
        base = self.value(node.base, scope)
        if isinstance(base, Results):
            base = self.single(base, node.base)
        index: list[Expr | None] = []
        whole: list[int] = []
        broken = base is None
        for k, part in enumerate(node.indices):
            if isinstance(part, ast.All):
                whole.append(k)
                index.append(None)
                continue
            e = self._splat(part, scope) if isinstance(part, ast.Splat) else self.integer(
                part, scope, "an index"
            )  # fmt: skip
            broken = broken or e is None
            index.append(e)
        fill = None if node.fill is None else self.scalar(node.fill, scope)
        if broken or (node.fill is not None and fill is None):
            return None
        if isinstance(base, Expr):
            self.findings.add(codes.NUMBER_AS_TENSOR, node.span, what=f"`{format_expr(node.base)}`")
            return None
        assert isinstance(base, Whole)
        if len(index) != len(base.shape):
            self.findings.add(
                codes.WRONG_RANK,
                node.span,
                name=format_expr(node.base),
                rank=len(base.shape),
                found=_count(len(index), "index", "indices"),
            )
            return None
        if fill is not None and not self._fill_fits(base, fill, node):
            return None
        if not whole:
            return base.at(tuple(e for e in index if e is not None), fill, node.span)
        inner = base

        def at(rest: tuple[Expr, ...], other: Expr | None, span: Span) -> Expr | None:
            full = list(index)
            for k, e in zip(whole, rest, strict=True):
                full[k] = e
            return inner.at(
                tuple(e for e in full if e is not None), fill if other is None else other, span
            )

        shape = tuple(base.shape[k] for k in whole)
        return Whole(f"`{format_expr(node)}`", shape, base.kind, base.dtype, at)

    def _splat(self, node: ast.Splat, scope: Scope) -> Expr | None:
        b = scope.find(node.name + "...")
        if isinstance(b, Index):
            return b.expr
        self.unknown(node.name + "...", node.span, scope)
        return None

    def _fill_fits(self, base: Whole, fill: Expr, node: ast.Read) -> bool:
        assert node.fill is not None
        if base.kind is None or fill.kind == base.kind or (base.kind, fill.kind) == ("real", "int"):
            return True
        self.findings.add(
            codes.WRONG_KIND,
            node.fill.span,
            what=f"the fill of {base.what}",
            wanted=KINDS[base.kind],
            found=found(fill),
            cure="give a value of the tensor's kind",
        )
        return False

    def _field(self, node: ast.Field, scope: Scope) -> Value | None:
        base = self.value(node.base, scope)
        if base is None:
            return None
        if isinstance(base, Results):
            name = RESULTS.get(node.name, node.name) if base.op in INTRINSICS else node.name
            if node.name in base.outputs or name in base.outputs:
                return base.outputs.get(node.name) or base.outputs[name]
            known = ", ".join(base.outputs)
            self.findings.add(
                codes.UNKNOWN_RESULT, node.span, op=base.op, name=node.name, known=known
            )
            return None
        self.findings.add(
            codes.WRONG_ROLE,
            node.base.span,
            name=format_expr(node.base),
            found="a value",
            wanted="a call with named results",
        )
        return None

    def _lambda(self, node: ast.TensorLambda, scope: Scope) -> Whole | None:
        shape: list[Expr | None] = []
        ends: list[Interval] = []
        inner = scope.inner()
        inner.literal = True
        for b in node.binders:
            hi = self.integer(b.hi, inner, f"the bound of `{b.name}`")
            lo = ZERO if b.lo is None else self.integer(b.lo, inner, f"the bound of `{b.name}`")
            if hi is None or lo is None:
                return None
            shape.append(hi - lo)
            ends.append((lo, hi))
            name = self.index(b.name, (lo, hi))
            inner.names[b.name] = Index(var(name), hi)
        body = self.scalar(node.body, inner)
        if body is None:
            return None

        def at(index: tuple[Expr, ...], fill: Expr | None, span: Span) -> Expr | None:
            # the body is elaborated anew, so that the indices it binds stay unique
            names = {
                b.name: Index(lo + e, hi)
                for b, e, (lo, hi) in zip(node.binders, index, ends, strict=True)
            }
            own = scope.inner(names)
            own.literal = True
            e = self.scalar(node.body, own)
            if e is None or fill is None:
                return e
            inside = [
                call("le", 0, i) & call("lt", i, s)
                for i, s in zip(index, shape, strict=True)
                if s is not None
            ]
            return call("select", conjunction(inside), e, fill)

        return Whole("the tensor literal", tuple(shape), body.kind, None, at)

    # -- calls ------------------------------------------------------------------------------------

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
                found=_count(len(node.args), "argument", "arguments"),
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

    def binders(
        self, nodes: Sequence[ast.Binder], scope: Scope
    ) -> tuple[Scope, list[str], list[Interval], bool]:
        """Bind indices, later ones seeing earlier ones: (scope, names, ranges, all good)."""
        inner = scope.inner()
        names: list[str] = []
        ranges: list[Interval] = []
        good = True
        for b in nodes:
            hi = self.integer(b.hi, inner, f"the bound of `{b.name}`")
            lo = ZERO if b.lo is None else self.integer(b.lo, inner, f"the bound of `{b.name}`")
            interval = None if lo is None or hi is None else (lo, hi)
            if interval is None:
                good = False
            else:
                ranges.append(interval)
            hidden = inner.nearby(b.name)
            size = isinstance(hidden, Quantity) and hidden.role in ("size", "derived size")
            if isinstance(hidden, Index) or size:
                what = "the index" if isinstance(hidden, Index) else "the size"
                self.findings.add(codes.SHADOWED, b.span, name=b.name, what=what)
                good = False
            name = self.index(b.name, interval)
            names.append(name)
            inner.names[b.name] = Index(var(name), hi)
        return inner, names, ranges, good


def _count(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"
