"""What each rule of the grammar builds: nodes of `opwright.grammar.ast` from its children.

An action is the alias of a rule or its name; its children are nodes, tokens and None for an
absent optional part, as `opwright.grammar.build.rule_plan` chose them.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from opwright.grammar import ast
from opwright.grammar.ast import Span
from opwright.grammar.lalr import Rule, Token

Children: TypeAlias = list[Any]
Action: TypeAlias = Callable[["Builder", Children, Span], Any]

BINARY = {
    "or_": "or",
    "and_": "and",
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "floordiv": "//",
    "mod": "%",
}
# Far beyond any size or constant, and below the length that Python's own conversion refuses.
MAX_DIGITS = 400
BYTE_ORDER_MARK = "\ufeff"


class Lines:
    """Where the lines of a text start; a byte order mark takes no column."""

    def __init__(self, text: str) -> None:
        self._starts = [1 if text.startswith(BYTE_ORDER_MARK) else 0]
        self._starts.extend(i + 1 for i, char in enumerate(text) if char == "\n")

    def place(self, offset: int) -> tuple[int, int]:
        """Return the line and column of an offset, both from 1."""
        line = max(bisect_right(self._starts, offset), 1)
        return line, max(offset - self._starts[line - 1], 0) + 1

    def span(self, start: int, end: int) -> Span:
        """Return the span of a range of offsets."""
        line, col = self.place(start)
        end_line, end_col = self.place(end)
        return Span(start, end, line, col, end_line, end_col)


class Builder:
    """Builds the nodes of one text and collects what the grammar takes but no tree can hold."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.misplaced: list[Span] = []
        self.too_large: list[Span] = []

    def __call__(self, rule: Rule, children: Children, start: int, end: int) -> Any:
        return ACTIONS[rule.action](self, children, self.lines.span(start, end))

    def span(self, token: Token) -> Span:
        """Return the span of a token."""
        return self.lines.span(token.start, token.end)

    def name(self, token: Token) -> ast.Name:
        """Return a token as a name."""
        return ast.Name(token.text, span=self.span(token))

    def dtype(self, token: Token) -> ast.DtypeName:
        """Return a token as a dtype."""
        return ast.DtypeName(token.text, span=self.span(token))

    def number(self, token: Token) -> ast.Number:
        """Return a token as a number."""
        span = self.span(token)
        value: int | float = 0
        if token.text.isdigit():
            if len(token.text) > MAX_DIGITS:
                self.too_large.append(span)
            else:
                value = int(token.text)
        else:
            value = float(token.text)
            if math.isinf(value):
                self.too_large.append(span)
        return ast.Number(value, token.text, span=span)


def text_of(token: Token | None) -> str | None:
    """Return the text of an optional token."""
    return None if token is None else token.text


def texts(tokens: Sequence[Token]) -> tuple[str, ...]:
    """Return the texts of tokens."""
    return tuple(token.text for token in tokens)


def unquote(token: Token) -> str:
    """Return what stands between the quotes."""
    return token.text[1:-1]


def arguments(children: Children) -> tuple[tuple[ast.Expr, ...], tuple[ast.NamedArg, ...]]:
    """Split the arguments of a call into those by position and those by name."""
    by_name = tuple(arg for arg in children if isinstance(arg, ast.NamedArg))
    by_place = tuple(arg for arg in children if isinstance(arg, ast.Expr))
    return by_place, by_name


# ---- modules and interface ----------------------------------------------------------------------


def build_start(b: Builder, children: Children, span: Span) -> Any:
    version, *rest = children
    imports = tuple(node for node in rest if not isinstance(node, ast.Op))
    ops = tuple(node for node in rest if isinstance(node, ast.Op))
    return ast.Module(version, imports, ops, span=span)


def build_import_names(b: Builder, children: Children, span: Span) -> Any:
    path, *rest = children
    names: list[ast.ImportedName] = []
    for token, version in zip(rest[::2], rest[1::2], strict=True):
        end = version or token
        where = b.lines.span(token.start, end.end)
        names.append(ast.ImportedName(token.text, text_of(version), span=where))
    return ast.ImportNames(path, tuple(names), span=span)


def build_op(b: Builder, children: Children, span: Span) -> Any:
    name, version, doc, *items = children
    return ast.Op(
        name.text,
        version.text,
        None if doc is None else unquote(doc),
        tuple(items),
        span=span,
        name_span=b.span(name),
    )


def build_types(b: Builder, children: Children, span: Span) -> Any:
    name, *options = children
    return ast.TypeDecl(name.text, tuple(b.dtype(option) for option in options), span=span)


def build_tensor(b: Builder, children: Children, span: Span) -> Any:
    name, scalar, shape, layout = children
    return ast.TensorDecl(name.text, scalar, shape or (), layout, span=span)


def build_out(b: Builder, children: Children, span: Span) -> Any:
    tensor, updates = children
    return ast.TensorDecl(
        tensor.name, tensor.type, tensor.shape, tensor.layout, text_of(updates), span=span
    )


# ---- meaning and contract -----------------------------------------------------------------------


def build_equation(b: Builder, children: Children, span: Span) -> Any:
    return ast.Equation(tuple(children[:-1]), children[-1], span=span)


def build_recurrence(b: Builder, children: Children, span: Span) -> Any:
    axis, name, *indices, rhs, init = children
    return ast.Recurrence(axis.text, name.text, tuple(indices), rhs, init, span=span)


def build_ensures(b: Builder, children: Children, span: Span) -> Any:
    name, claim, within, by = children
    return ast.Ensures(name.text, claim, within or (), by, span=span)


def build_law(b: Builder, children: Children, span: Span) -> Any:
    name, *args, claim, within, by = children
    args = [arg for arg in args if arg is not None]
    return ast.Law(name.text, tuple(args), claim, within or (), by, span=span)


def build_sample_arg(b: Builder, children: Children, span: Span) -> Any:
    name, scalar, shape, lo, hi = children
    return ast.SampleArg(name.text, scalar, shape or (), lo, hi, span=span)


def build_grad(b: Builder, children: Children, span: Span) -> Any:
    *names, body = children
    return ast.Grad(tuple(b.name(name) for name in names), body, span=span)


# ---- what "best" means --------------------------------------------------------------------------


def build_workload(b: Builder, children: Children, span: Span) -> Any:
    name, weight, *bindings = children
    return ast.Workload(name.text, b.number(weight), tuple(bindings), span=span)


def build_bind_random(b: Builder, children: Children, span: Span) -> Any:
    name, distribution, *args = children
    args = [arg for arg in args if arg is not None]
    return ast.BindRandom(name.text, distribution.text, tuple(args), span=span)


def build_objective(b: Builder, children: Children, span: Span) -> Any:
    terms = tuple(node for node in children if isinstance(node, ast.Term))
    bounds = tuple(node for node in children if isinstance(node, ast.Bound))
    return ast.Objective(terms, bounds, span=span)


def build_term(b: Builder, children: Children, span: Span) -> Any:
    weight, metric = children
    return ast.Term(None if weight is None else b.number(weight), metric.text, span=span)


def build_quantity(b: Builder, children: Children, span: Span) -> Any:
    value, unit = children
    return ast.Quantity(b.number(value), text_of(unit), span=span)


def build_target(b: Builder, children: Children, span: Span) -> Any:
    name, arch, *backends = children
    return ast.Target(name.text, text_of(arch), texts(backends), span=span)


# ---- expressions --------------------------------------------------------------------------------


def build_binary(op: str) -> Action:
    """Return the action of a binary operator."""

    def build(b: Builder, children: Children, span: Span) -> Any:
        left, right = children
        return ast.Binary(op, left, right, span=span)

    return build


def build_compare(b: Builder, children: Children, span: Span) -> Any:
    return ast.Compare(texts(children[1::2]), tuple(children[::2]), span=span)


def build_read(b: Builder, children: Children, span: Span) -> Any:
    base, *indices, fill = children
    return ast.Read(base, tuple(indices), fill, span=span)


def build_call(b: Builder, children: Children, span: Span) -> Any:
    func, *args = children
    by_place, by_name = arguments(args)
    return ast.Call(func.text, by_place, by_name, func.type == "REDUCER", span=span)


def build_qualified_call(b: Builder, children: Children, span: Span) -> Any:
    module, name, *args = children
    if not isinstance(module, ast.Name):
        b.misplaced.append(module.span.to(b.span(name)))
        return module
    by_place, by_name = arguments(args)
    return ast.Call(f"{module.name}.{name.text}", by_place, by_name, span=span)


def build_reduce(b: Builder, children: Children, span: Span) -> Any:
    kind, acc, *binders, guard, body = children
    return ast.Reduce(kind.text, text_of(acc), tuple(binders), guard, body, span=span)


def build_binder(b: Builder, children: Children, span: Span) -> Any:
    name, first, second = children
    lo, hi = (None, first) if second is None else (first, second)
    return ast.Binder(name.text, lo, hi, span=span)


ACTIONS: dict[str, Action] = {
    "start": build_start,
    "version": lambda b, c, span: unquote(c[0]),
    "import_module": lambda b, c, span: ast.ImportModule(c[0], text_of(c[1]), span=span),
    "import_names": build_import_names,
    "path": lambda b, c, span: texts(c),
    "op": build_op,
    "dims": lambda b, c, span: ast.Dims(tuple(c), span=span),
    "dim": lambda b, c, span: ast.Dim(c[0].text, c[1] is not None, span=span),
    "where": lambda b, c, span: ast.Where(tuple(c), span=span),
    "types": build_types,
    "let_": lambda b, c, span: ast.Let(c[0].text, c[1], span=span),
    "param": lambda b, c, span: ast.Param(c[0].text, c[1], c[2], span=span),
    "input_": lambda b, c, span: ast.Inputs(tuple(c), span=span),
    "output": lambda b, c, span: ast.Outputs(tuple(c), span=span),
    "out": build_out,
    "tensor": build_tensor,
    "shape": lambda b, c, span: tuple(c),
    "splat": lambda b, c, span: ast.Splat(c[0].text, span=span),
    "layout": lambda b, c, span: c[0].text,
    "dtype": lambda b, c, span: ast.DtypeName(c[0].text, span=span),
    "type_var": lambda b, c, span: ast.TypeRef(c[0].text, span=span),
    "def_": lambda b, c, span: ast.Def(tuple(c), span=span),
    "equation": build_equation,
    "recurrence": build_recurrence,
    "lhs": lambda b, c, span: ast.Lhs(
        c[0].text, tuple(index for index in c[1:] if index is not None), span=span
    ),
    "lhs_index": lambda b, c, span: ast.LhsIndex(c[0].text, c[1] is not None, span=span),
    "requires": lambda b, c, span: ast.Requires(text_of(c[0]), c[1], span=span),
    "ensures": build_ensures,
    "law": build_law,
    "sample_arg": build_sample_arg,
    "perm_arg": lambda b, c, span: ast.PermArg(c[0].text, c[1], span=span),
    "index_arg": lambda b, c, span: ast.IndexArg(c[0].text, c[1], span=span),
    "within": lambda b, c, span: tuple(c),
    "by": lambda b, c, span: c[0].text,
    "tolerance": lambda b, c, span: ast.Tolerance(b.dtype(c[0]), tuple(c[1:]), span=span),
    "tol_rule": lambda b, c, span: ast.TolRule(c[0], tuple(c[1:]), span=span),
    "tol": lambda b, c, span: ast.Tol(c[0].text, b.number(c[1]), span=span),
    "grad": build_grad,
    "grad_auto": lambda b, c, span: ast.GradAuto(span=span),
    "grad_none": lambda b, c, span: ast.GradNone(span=span),
    "grad_def": lambda b, c, span: ast.GradDef(tuple(c), span=span),
    "workload": build_workload,
    "trace_workload": lambda b, c, span: ast.TraceWorkload(
        unquote(c[0]), b.number(c[1]), span=span
    ),
    "bind_value": lambda b, c, span: ast.BindValue(c[0].text, c[1], span=span),
    "bind_dtype": lambda b, c, span: ast.BindDtype(c[0].text, b.dtype(c[1]), span=span),
    "bind_random": build_bind_random,
    "objective": build_objective,
    "term": build_term,
    "bound": lambda b, c, span: ast.Bound(c[0].text, c[1].text, c[2], span=span),
    "quantity": build_quantity,
    "target": build_target,
    "cond": lambda b, c, span: ast.Cond(c[0], c[1], c[2], span=span),
    **{action: build_binary(op) for action, op in BINARY.items()},
    "not_": lambda b, c, span: ast.Unary("not", c[0], span=span),
    "neg": lambda b, c, span: ast.Unary("-", c[0], span=span),
    "compare": build_compare,
    "member": lambda b, c, span: ast.Member(c[0], tuple(c[1:]), span=span),
    "read": build_read,
    "field": lambda b, c, span: ast.Field(c[0], c[1].text, span=span),
    "all_": lambda b, c, span: ast.All(span=span),
    "number": lambda b, c, span: b.number(c[0]),
    "name": lambda b, c, span: b.name(c[0]),
    "bool_": lambda b, c, span: ast.Bool(c[0].text == "true", span=span),
    "inf": lambda b, c, span: ast.Inf(span=span),
    "call": build_call,
    "qualified_call": build_qualified_call,
    "named_arg": lambda b, c, span: ast.NamedArg(c[0].text, c[1], span=span),
    "cast": lambda b, c, span: ast.Cast(c[0].text, c[1], span=span),
    "round_": lambda b, c, span: ast.Round(c[0].text, c[1], span=span),
    "reduce": build_reduce,
    "tensor_lambda": lambda b, c, span: ast.TensorLambda(tuple(c[:-1]), c[-1], span=span),
    "binder": build_binder,
}
