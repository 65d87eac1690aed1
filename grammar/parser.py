"""Text to syntax tree: the public entry of the front end.

`parse` raises every syntax error of a file at once; `analyse` returns them beside what could be
read, for an editor. The automaton is `opwright.grammar.lalr`, the repairs after an error are
`opwright.grammar.recovery`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from opwright.grammar import ast
from opwright.grammar import syntax_errors as errors
from opwright.grammar.ast import NO_SPAN, Span
from opwright.grammar.builder import BYTE_ORDER_MARK, Builder, Lines
from opwright.grammar.diagnostics import Diagnostic, DiagnosticError, diagnose, in_order
from opwright.grammar.engine import Run

MAX_DEPTH = 200


def parse(text: str, filename: str = "<string>") -> ast.Module:
    """Return the tree of a file; raises `DiagnosticError` with every syntax error in it."""
    module, found = analyse(text, filename)
    if found or module is None:
        raise DiagnosticError(found)
    return module


def analyse(text: str, filename: str = "<string>") -> tuple[ast.Module | None, list[Diagnostic]]:
    """Return the tree, as far as it can be repaired, and every syntax error."""
    run = Run(text, filename, "start")
    module = run.value()
    found = list(run.diagnostics)
    if isinstance(module, ast.Module):
        found.extend(check(module, run.builder, filename))
        span = version_span(run)
        if module.version not in errors.VERSIONS and span is not NO_SPAN:
            found.append(diagnose(errors.UNKNOWN_VERSION, span, filename, version=module.version))
        comments = tuple(comments_of(text, run))
        module = replace(module, comments=comments, filename=filename, span=module.span)
        return module, in_order(found)
    return None, in_order(found)


def parse_expression(text: str, filename: str = "<string>") -> ast.Expr:
    """Return the tree of one expression; raises `DiagnosticError`."""
    run = Run(text, filename, "expr")
    value = run.value()
    found = list(run.diagnostics)
    if isinstance(value, ast.Expr):
        found.extend(check(value, run.builder, filename))
        if not found:
            return value
    raise DiagnosticError(in_order(found))


def parse_bytes(data: bytes, filename: str = "<string>") -> ast.Module:
    """Parse the bytes of a file, which must be UTF-8; raises `DiagnosticError`."""
    return parse(decode(data, filename), filename)


def parse_file(path: str | Path) -> ast.Module:
    """Parse a file; raises `OSError` if it cannot be read and `DiagnosticError`."""
    return parse_bytes(Path(path).read_bytes(), str(path))


def decode(data: bytes, filename: str = "<string>") -> str:
    """Return UTF-8 bytes as text; raises `DiagnosticError` at the first byte that is not."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        text = data[: error.start].decode("utf-8")
        place = Lines(text).span(len(text), len(text))
        byte = f"0x{data[error.start]:02x}"
        found = diagnose(errors.NOT_TEXT, place, filename, byte=byte, offset=error.start)
        raise DiagnosticError([found]) from None


def check(root: ast.Node, builder: Builder, filename: str) -> Iterator[Diagnostic]:
    """Report what the grammar takes but no later stage could."""
    for span in builder.misplaced:
        yield diagnose(errors.NOT_MODULE, span, filename)
    for span in builder.too_large:
        yield diagnose(errors.TOO_LARGE, span, filename)
    deep = too_deep(root)
    if deep is not None:
        yield diagnose(errors.TOO_DEEP, deep, filename, limit=MAX_DEPTH)


def too_deep(root: ast.Node) -> Span | None:
    """Return the place of the first expression below the depth that recursion can follow."""
    stack = [(root, 0)]
    while stack:
        node, depth = stack.pop()
        if depth > MAX_DEPTH:
            return node.span
        stack.extend((child, depth + 1) for child in reversed(list(ast.children(node))))
    return None


def version_span(run: Run) -> Span:
    """Return the place of the text of the version line; `NO_SPAN` where it had to be repaired."""
    for _, token in run.history[:2]:
        if token.type == "STRING":
            return run.span(token.start, token.end)
    return NO_SPAN


def comments_of(text: str, run: Run) -> Iterator[ast.Comment]:
    """Yield the comments between the tokens of a text."""
    position = int(text.startswith(BYTE_ORDER_MARK))
    ends = [(token.start, token.end) for _, token in run.history]
    for start, end in [*ends, (len(text), len(text))]:
        while (hash_at := text.find("#", position, start)) >= 0:
            stop = text.find("\n", hash_at, start)
            stop = start if stop < 0 else stop
            comment = text[hash_at:stop].rstrip()
            line_start = text.rfind("\n", 0, hash_at) + 1
            own = not text[line_start:hash_at].strip(" \t" + BYTE_ORDER_MARK)
            span = run.span(hash_at, hash_at + len(comment))
            yield ast.Comment(comment, own, span=span)
            position = stop
        position = max(position, end)
