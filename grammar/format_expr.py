"""Expressions as text with as few parentheses as keep their meaning.

One exception serves the reader: a padded read is parenthesised under an operator, as in
`(x[i - 1] ?? 0) * w[i]`. Comments inside an expression stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from opwright.grammar import ast
from opwright.grammar.layout import (
    FRESH,
    HARD,
    SOFT,
    SPACE,
    Break,
    Doc,
    Remark,
    group,
    join,
    joined,
    nest,
    render,
)

# How tightly an expression binds: the rule of the grammar that it is an alternative of.
ANY, OR, AND, NOT, COMPARE, SUM, PRODUCT, UNARY, POSTFIX, ATOM = range(10)
BINARY = {
    "or": OR,
    "and": AND,
    "+": SUM,
    "-": SUM,
    "*": PRODUCT,
    "/": PRODUCT,
    "//": PRODUCT,
    "%": PRODUCT,
}
SHORT = (ast.Name, ast.Number, ast.All, ast.Splat)


def format_expr(expr: ast.Expr) -> str:
    """Return an expression on one line, so that parsing it gives the same tree."""
    return render(ExprPrinter().expr(expr), 1 << 30)


def binding(expr: ast.Expr) -> int:
    """Return how tightly an expression binds."""
    match expr:
        case ast.Cond():
            return ANY
        case ast.Binary(op=op):
            return BINARY[op]
        case ast.Unary(op=op):
            return NOT if op == "not" else UNARY
        case ast.Compare() | ast.Member():
            return COMPARE
        case ast.Read(fill=fill):
            return POSTFIX if fill is None else ANY
        case ast.Field():
            return POSTFIX
        case ast.Call(func=func):
            return POSTFIX if "." in func else ATOM
        case _:
            return ATOM


class ExprPrinter:
    """Prints expressions; takes the comments of the text up to each node as it meets it."""

    def __init__(self, comments: Sequence[ast.Comment] = ()) -> None:
        self._comments = comments
        self._next = 0

    # ---- comments -------------------------------------------------------------------------------

    def pending(self, before: int) -> list[ast.Comment]:
        """Return the comments before an offset that have not been printed."""
        stop = self._next
        while stop < len(self._comments) and self._comments[stop].span.start < before:
            stop += 1
        return list(self._comments[self._next : stop])

    def take(self, count: int) -> None:
        """Count comments as printed."""
        self._next += count

    def gap(self, before: ast.Node, space: Break = SPACE) -> Doc:
        """Return a break before a node, after the remarks that end the line before it."""
        remarks: list[Doc] = []
        for comment in self.pending(before.span.start):
            if comment.own_line:
                break
            remarks.append(Remark(comment.text))
        self.take(len(remarks))
        return join(*remarks, space)

    def leading(self, before: ast.Node) -> Doc:
        """Return the comments before a node that have lines of their own."""
        parts: list[Doc] = []
        comments = self.pending(before.span.start)
        for comment in comments:
            if comment.own_line:
                parts += [FRESH, comment.text, HARD]
            else:
                parts.append(Remark(comment.text))
        self.take(len(comments))
        return join(*parts)

    # ---- expressions ----------------------------------------------------------------------------

    def expr(self, expr: ast.Expr, least: int = ANY) -> Doc:
        """Return an expression, in parentheses if it binds less tightly than asked."""
        comments = self.leading(expr)
        inner = self._bare(expr)
        if binding(expr) < least:
            inner = join("(", inner, ")")
        return join(comments, inner)

    def _bare(self, expr: ast.Expr) -> Doc:
        match expr:
            case ast.Number(text=text):
                return text
            case ast.Name(name=name):
                return name
            case ast.Bool(value=value):
                return "true" if value else "false"
            case ast.Inf():
                return "inf"
            case ast.Unary(op="not", x=x):
                return join("not ", self.expr(x, NOT))
            case ast.Unary(x=x):
                return join("-", self.expr(x, UNARY))
            case ast.Binary():
                return self._chain(expr)
            case ast.Compare():
                return self._compare(expr)
            case ast.Member(x=x, options=options):
                left = self.expr(x, SUM)
                return group(left, " in {", nest(2, self.listed(options)), "}")
            case ast.Cond(c=c, a=a, b=b):
                condition = self.expr(c)
                gap = self.gap(a)
                then = self.expr(a)
                other = self.gap(b)
                parts = [gap, "then ", then, other, "else ", self.expr(b)]
                return group("if ", condition, nest(2, *parts))
            case ast.Read():
                return self._read(expr)
            case ast.Field(base=base, name=name):
                return join(self.expr(base, POSTFIX), ".", name)
            case ast.Call(func=func, args=args, kwargs=kwargs):
                ordered = sorted((*args, *kwargs), key=lambda arg: arg.span.start)
                return group(func, "(", nest(2, *self._opened(ordered)), ")")
            case ast.Cast(dtype=dtype, x=x):
                return self._wrapped(dtype, x)
            case ast.Round(dtype=dtype, x=x):
                return self._wrapped(f"round.{dtype}", x)
            case ast.Reduce():
                return self._reduce(expr)
            case ast.TensorLambda(binders=binders, body=body):
                head = self.listed(binders)
                gap = self.gap(body)
                return group("[", nest(2, head, " =>", gap, self.expr(body)), "]")
        raise TypeError(f"{type(expr).__name__} is not an expression of the language")

    def _opened(self, nodes: Sequence[ast.Node]) -> list[Doc]:
        """Print a list that may start on a line of its own."""
        gap = [self.gap(nodes[0], SOFT)] if nodes else []
        return [*gap, self.listed(nodes)]

    def _wrapped(self, head: str, x: ast.Expr) -> Doc:
        gap = self.gap(x, SOFT)
        return group(head, "(", nest(2, gap, self.expr(x)), ")")

    def _chain(self, expr: ast.Binary) -> Doc:
        """Print operators of one level as one group, so that they break together."""
        level = BINARY[expr.op]
        steps: list[ast.Binary] = []
        left: ast.Expr = expr
        while isinstance(left, ast.Binary) and BINARY[left.op] == level:
            steps.append(left)
            left = left.a
        parts = [self.expr(left, level)]
        for step in reversed(steps):
            gap = self.gap(step.b)
            parts.append(join(f" {step.op}", gap, self.expr(step.b, level + 1)))
        return group(parts[0], nest(2, *parts[1:]))

    def _compare(self, expr: ast.Compare) -> Doc:
        parts = [self.expr(expr.operands[0], SUM)]
        for op, operand in zip(expr.ops, expr.operands[1:], strict=True):
            gap = self.gap(operand)
            parts.append(join(f" {op}", gap, self.expr(operand, SUM)))
        return group(parts[0], nest(2, *parts[1:]))

    def _read(self, expr: ast.Read) -> Doc:
        base = self.expr(expr.base, POSTFIX)
        read = group(base, "[", nest(2, self.listed(expr.indices)), "]")
        if expr.fill is None:
            return read
        return join(read, " ?? ", self._fill(expr.fill))

    def _fill(self, fill: ast.Expr) -> Doc:
        """Print a fill: an atom or the negative of one."""
        match fill:
            case ast.Unary(op="-", x=x) if binding(x) == ATOM:
                return join(self.leading(fill), "-", self.expr(x, ATOM))
        return self.expr(fill, ATOM)

    def _reduce(self, expr: ast.Reduce) -> Doc:
        head = expr.kind if expr.acc is None else f"{expr.kind}.{expr.acc}"
        bound = [self.listed(expr.binders)]
        if expr.guard is not None:
            gap = self.gap(expr.guard)
            bound += [" |", gap, self.expr(expr.guard)]
        ranges = group("[", nest(2, *bound), "]")
        gap = self.gap(expr.body, SOFT)
        return join(head, ranges, group("(", nest(2, gap, self.expr(expr.body)), ")"))

    def element(self, node: ast.Node) -> Doc:
        """Print an expression or another element of a list."""
        if isinstance(node, ast.Expr):
            return self.expr(node)
        comments = self.leading(node)
        match node:
            case ast.All():
                return join(comments, ":")
            case ast.Splat(name=name):
                return join(comments, name, "...")
            case ast.NamedArg(name=name, value=value):
                return join(comments, name, " = ", self.expr(value))
            case ast.Binder(name=name, lo=None, hi=hi):
                return join(comments, name, ": ", self.expr(hi))
            case ast.Binder(name=name, lo=ast.Expr() as lo, hi=hi):
                return join(comments, name, ": ", self.expr(lo), "..", self.expr(hi))
        raise TypeError(f"{type(node).__name__} is not an element of a list")

    def listed(self, nodes: Sequence[ast.Node]) -> Doc:
        """Print elements with commas between them, as many on a line as fit."""
        parts: list[Doc] = []
        if all(isinstance(node, SHORT) for node in nodes) and nodes:
            if not self.pending(nodes[-1].span.start):
                # Breaking `[i, j]` would help no line.
                return joined((self.element(node) for node in nodes), ", ")
        for node in nodes:
            if parts:
                gap = self.gap(node)
                parts += [",", group(gap, self.element(node))]
            else:
                parts.append(self.element(node))
        return join(*parts)
