"""The canonical form of a file: same tree, same comments, one way to write it.

Blank lines between items are kept, at most one; equations that follow each other are aligned at
their `=`; lines break at 100 columns. Expressions are `opwright.grammar.format_expr`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from opwright.grammar import ast
from opwright.grammar.format_expr import ExprPrinter, format_expr
from opwright.grammar.layout import (
    FRESH,
    HARD,
    SPACE,
    Doc,
    Remark,
    group,
    join,
    nest,
    render,
)
from opwright.grammar.parser import parse

__all__ = ["WIDTH", "format_expr", "format_module", "format_tree"]

WIDTH = 100
# Equations whose left sides differ more than this in length are not aligned.
ALIGNED = 16
# The words of the interface stand in one column.
COLUMN = 5
# A comment that moves may change where lines break; the second pass settles it.
PASSES = 5
# In place of the line before the first one, which has no blank line before it.
NO_LINE = 1 << 60


def format_module(text: str, filename: str = "<string>") -> str:
    """Return the canonical form of a file; raises `DiagnosticError` if it does not parse.

    Formatting the result again changes nothing.
    """
    for _ in range(PASSES):
        formatted = format_tree(parse(text, filename))
        if formatted == text:
            break
        text = formatted
    return text


NodeT = TypeVar("NodeT", bound=ast.Node)


def format_tree(module: ast.Module) -> str:
    """Return the text of a tree, which may come from anywhere; parsing it gives the same tree."""
    return ModulePrinter(module).text()


def scalar(node: ast.ScalarType) -> str:
    """Return a dtype or the name of a type variable."""
    return node.name


class ModulePrinter(ExprPrinter):
    """Prints one file."""

    def __init__(self, module: ast.Module) -> None:
        super().__init__(module.comments)
        self.module = module
        self._widths: dict[int, int] = {}

    def text(self) -> str:
        """Return the file as text."""
        parts = self._between(self.module, NO_LINE)
        parts += [f'opwright "{self.module.version}"', *self._remarks(self.module.span.start)]
        line = self.module.span.line
        for node in (*self.module.imports, *self.module.ops):
            # Operators stand apart; imports follow each other as they were written.
            before = self._between(node, line, apart=isinstance(node, ast.Op))
            doc = self._op(node) if isinstance(node, ast.Op) else self._import(node)
            parts += [HARD, *before, doc, *self._remarks(node.span.end, node)]
            line = node.span.end_line
        parts += self._rest(line)
        return render(join(*parts), WIDTH).strip("\n") + "\n"

    # ---- comments and blank lines ---------------------------------------------------------------

    def _between(self, node: ast.Node, line: int, *, apart: bool = False) -> list[Doc]:
        """Return what stands before a node on lines of its own, after a node that ends at `line`.

        The result starts at the beginning of a line and ends at the beginning of a line.
        """
        parts: list[Doc] = []
        comments = self.pending(node.span.start)
        for comment in comments:
            if comment.span.line > line + 1 or (apart and not parts):
                parts.append(HARD)
            parts += [comment.text, HARD]
            line = comment.span.line
        self.take(len(comments))
        if node.span.line > line + 1 or (apart and not comments):
            parts.append(HARD)
        return parts

    def _remarks(self, end: int, node: ast.Node | None = None) -> list[Doc]:
        """Return the comments inside a node that no part of it took, and the one behind it."""
        parts: list[Doc] = []
        for comment in self.pending(end):
            parts += [FRESH, comment.text] if comment.own_line else [Remark(comment.text)]
            self.take(1)
        behind = [
            comment
            for comment in self._comments[self._next : self._next + 1]
            if not comment.own_line and self._line_of(comment, node)
        ]
        self.take(len(behind))
        return [*parts, *(Remark(comment.text) for comment in behind)]

    def _line_of(self, comment: ast.Comment, node: ast.Node | None) -> bool:
        end = self.module.span.line if node is None else node.span.end_line
        return comment.span.line == end

    def _rest(self, line: int) -> list[Doc]:
        """Return the comments after the last node of a file."""
        parts: list[Doc] = []
        for comment in self._comments[self._next :]:
            parts.append(HARD)
            if comment.span.line > line + 1:
                parts.append(HARD)
            parts.append(comment.text)
            line = comment.span.line
            self.take(1)
        return parts

    # ---- modules and operators ------------------------------------------------------------------

    def _import(self, node: ast.Import) -> Doc:
        path = ".".join(node.path)
        if isinstance(node, ast.ImportModule):
            return f"import {path}" + (f" as {node.alias}" if node.alias else "")
        names: list[Doc] = []
        for name in node.names:
            if names:
                names += [",", self.gap(name)]
            version = f" @{name.version}" if name.version else ""
            names.append(join(self.leading(name), name.name + version))
        return group(f"from {path} import ", nest(2, *names))

    def _op(self, op: ast.Op) -> Doc:
        doc = f' "{op.doc}"' if op.doc is not None else ""
        head = f"op {op.name} @ {op.version}{doc} {{"
        if not op.items and not self.pending(op.span.end):
            return head + "}"
        return join(head, *self._block(op.items, op, self._item), "}")

    def _block(
        self, nodes: Sequence[ast.Node], owner: ast.Node, show: Callable[[ast.Node], Doc]
    ) -> list[Doc]:
        """Return the inside of braces, one node a line."""
        parts: list[Doc] = []
        remarks = []
        start = nodes[0].span if nodes else owner.span
        for comment in self.pending(start.start if nodes else owner.span.end):
            if comment.own_line:
                break
            remarks.append(Remark(comment.text))
        self.take(len(remarks))
        self._align(nodes)
        line = NO_LINE
        for node in nodes:
            parts += [HARD, *self._between(node, line), show(node)]
            parts += self._remarks(node.span.end, node)
            line = node.span.end_line
        for comment in self.pending(owner.span.end):
            parts.append(HARD)
            if comment.span.line > line + 1:
                parts.append(HARD)
            parts.append(comment.text)
            line = comment.span.line
            self.take(1)
        return [*remarks, nest(2, *parts), HARD]

    # ---- items ----------------------------------------------------------------------------------

    def _item(self, item: ast.Node) -> Doc:
        match item:
            case ast.Dims(dims=dims):
                return self._column("dims", self._plain(dims, self._variadic))
            case ast.Where(constraints=constraints):
                return self._column("where", [self.listed(constraints)])
            case ast.TypeDecl(name=name, options=options):
                names = self._plain(options, lambda option: option.name)
                return self._column("type", [f"{name} in {{", *names, "}"])
            case ast.Let(name=name, value=value):
                return self._column("let", [f"{name} = ", self.expr(value)])
            case ast.Param(name=name, type=kind, default=default):
                head = f"{name}: {scalar(kind)}"
                if default is None:
                    return self._column("param", [head])
                return self._column("param", [f"{head} = ", self.expr(default)])
            case ast.Inputs(tensors=tensors):
                return self._column("input", self._plain(tensors, self._tensor))
            case ast.Outputs(tensors=tensors):
                return self._column("output", self._plain(tensors, self._tensor))
            case ast.Def(statements=statements):
                return self._statements("def", statements, item)
            case ast.Requires(name=name, condition=condition):
                if name is None:
                    return group("requires ", nest(2, self.expr(condition)))
                return self._claim(f"requires {name}", condition)
            case ast.Ensures(name=name, claim=claim, within=within, by=by):
                return self._claim(f"ensures {name}", claim, self._discharge(within, by))
            case ast.Law():
                return self._law(item)
            case ast.Tolerance(versus=versus, rules=rules):
                parts: list[Doc] = []
                for rule in rules:
                    gap = self.gap(rule) if not parts else join(" ", self.gap(rule))
                    shown = f"{scalar(rule.type)}: {self._tols(rule.bounds)}"
                    parts += [gap, self.leading(rule), shown]
                head = f"tolerance versus {versus.name} {{"
                return group(head, nest(2, *parts), SPACE, "}")
            case ast.Grad(names=names, body=body):
                head = "grad " + ", ".join(name.name for name in names)
                if isinstance(body, ast.GradDef):
                    return self._statements(head, body.statements, item)
                return f"{head} auto" if isinstance(body, ast.GradAuto) else f"{head} none"
            case ast.Workload(weight=weight, bindings=bindings):
                parts = [self.gap(bindings[0]), *self._plain(bindings, self._binding)]
                head = f"workload {self._start(item)} weight {weight.text} {{"
                return group(head, nest(2, *parts), SPACE, "}")
            case ast.TraceWorkload(path=path, weight=weight):
                return f'workload "{path}" weight {weight.text}'
            case ast.Objective():
                return self._objective(item)
            case ast.Target(name=name, arch=arch, backends=backends):
                device = f"{name}({arch})" if arch is not None else name
                return f"target {device} via {', '.join(backends)}"
        raise TypeError(f"{type(item).__name__} is not an item of an operator")

    def _column(self, word: str, parts: Sequence[Doc]) -> Doc:
        return group(f"{word:<{COLUMN}} ", nest(2, *parts))

    def _plain(self, nodes: Sequence[NodeT], show: Callable[[NodeT], Doc]) -> list[Doc]:
        """Print elements that are not expressions with commas between them."""
        parts: list[Doc] = []
        for node in nodes:
            if parts:
                gap = self.gap(node)
                parts += [",", group(gap, self.leading(node), show(node))]
            else:
                parts += [self.leading(node), show(node)]
        return parts

    def _variadic(self, node: ast.Dim | ast.LhsIndex) -> str:
        return node.name + ("..." if node.variadic else "")

    def _tensor(self, tensor: ast.TensorDecl) -> Doc:
        tail = f" layout {tensor.layout}" if tensor.layout else ""
        tail += f" updates {tensor.updates}" if tensor.updates else ""
        return join(f"{tensor.name}: {scalar(tensor.type)}", self._shape(tensor.shape), tail)

    def _shape(self, shape: Sequence[ast.Extent]) -> Doc:
        return group("[", nest(2, self.listed(shape)), "]") if shape else ""

    def _tols(self, tols: Sequence[ast.Tol]) -> str:
        return " ".join(f"{tol.kind} {tol.value.text}" for tol in tols)

    def _discharge(self, within: Sequence[ast.Tol], by: str | None) -> str:
        parts = [f"within {self._tols(within)}"] if within else []
        return " ".join([*parts, f"by {by}"] if by is not None else parts)

    def _claim(self, head: Doc, claim: ast.Expr, tail: str = "") -> Doc:
        gap = self.gap(claim)
        body = [gap, self.expr(claim)]
        if tail:
            body += [SPACE, tail]
        return group(head, ":", nest(2, *body))

    def _law(self, law: ast.Law) -> Doc:
        head: Doc = f"law {law.name}"
        if law.args:
            args = self._plain(law.args, self._law_arg)
            head = group(head, "(", nest(4, *args), ")")
        return self._claim(head, law.claim, self._discharge(law.within, law.by))

    def _law_arg(self, arg: ast.LawArg) -> Doc:
        match arg:
            case ast.PermArg(name=name, size=size):
                return join(f"{name}: perm(", self.expr(size), ")")
            case ast.IndexArg(name=name, size=size):
                return join(f"{name}: index(", self.expr(size), ")")
        head = join(f"{arg.name}: {scalar(arg.type)}", self._shape(arg.shape))
        if arg.lo is None or arg.hi is None:
            return head
        return join(head, " in ", self.expr(arg.lo), "..", self.expr(arg.hi))

    def _binding(self, binding: ast.Binding) -> Doc:
        match binding:
            case ast.BindValue(name=name, value=value):
                return join(f"{name} = ", self.expr(value))
            case ast.BindDtype(name=name, dtype=dtype):
                return f"{name} = {dtype.name}"
        return group(
            f"{binding.name} ~ {binding.distribution}(", nest(2, self.listed(binding.args)), ")"
        )

    def _objective(self, objective: ast.Objective) -> Doc:
        parts: list[Doc] = []
        for term in objective.terms:
            if parts:
                parts += [" +", self.gap(term)]
            weight = "" if term.weight is None else f"{term.weight.text} * "
            parts += [self.leading(term), weight + term.metric]
        for index, bound in enumerate(objective.bounds):
            parts += [self.gap(bound), "subject to "] if not index else [",", self.gap(bound)]
            unit = f" {bound.quantity.unit}" if bound.quantity.unit else ""
            quantity = bound.quantity.value.text + unit
            parts += [self.leading(bound), f"{bound.metric} {bound.op} {quantity}"]
        return group("minimize ", nest(2, *parts))

    # ---- statements -----------------------------------------------------------------------------

    def _statements(self, head: str, statements: Sequence[ast.Stmt], owner: ast.Node) -> Doc:
        """Print a block of equations, a single one on the line of its braces if it fits."""
        if len(statements) == 1 and not self.pending(owner.span.end):
            return group(f"{head} {{", nest(2, SPACE, self._statement(statements[0])), SPACE, "}")
        return join(f"{head} {{", *self._block(statements, owner, self._statement), "}")

    def _statement(self, node: ast.Node) -> Doc:
        if isinstance(node, ast.Equation):
            return group(f"{self._start(node)} = ", self.expr(node.rhs))
        assert isinstance(node, ast.Recurrence)
        indices = group("[", nest(2, self.listed(node.indices)), "]")
        right = self.expr(node.rhs)
        gap = self.gap(node.init)
        head = join(f"rec {node.axis}: {node.name}", indices, " = ")
        return group(head, nest(2, right, gap, "init ", self.expr(node.init)))

    def _lhs(self, lhs: ast.Lhs) -> str:
        if not lhs.indices:
            return lhs.name
        return f"{lhs.name}[{', '.join(self._variadic(index) for index in lhs.indices)}]"

    def _left(self, node: ast.Node) -> str | None:
        """Return what a line starts with, where lines that follow each other are aligned."""
        if isinstance(node, ast.Equation):
            return ", ".join(self._lhs(lhs) for lhs in node.lhs)
        return node.name if isinstance(node, ast.Workload) else None

    def _align(self, nodes: Sequence[ast.Node]) -> None:
        """Choose the width of what each line starts with, by the offset of its node."""
        run: list[tuple[int, int]] = []
        line = 0

        def finish() -> None:
            lengths = [length for _, length in run]
            if run and max(lengths) - min(lengths) <= ALIGNED:
                self._widths.update({start: max(lengths) for start, _ in run})
            run.clear()

        for node in nodes:
            left = self._left(node)
            if left is None or node.span.line > line + 1:
                finish()
            if left is not None:
                run.append((node.span.start, len(left)))
            line = node.span.end_line
        finish()

    def _start(self, node: ast.Node) -> str:
        """Return what the line of a node starts with, at its width."""
        return f"{self._left(node):<{self._widths.get(node.span.start, 0)}}"
