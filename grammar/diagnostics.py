"""Diagnostics: one table row per mistake that can be named, with a code that never changes.

A module that finds mistakes registers its rows when it is imported: E01xx syntax, E02xx names,
E03xx types, E04xx shapes and obligations. This file owns the form of a diagnostic and how it is
printed, for people and as JSON.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any

from opwright.grammar.ast import Span

SEVERITIES = ("error", "warning", "note")
CODE = re.compile(r"[EWN]\d{4}")


@dataclass(frozen=True, slots=True)
class Template:
    """One row of the table: what is wrong and what would be right, with `{fields}`."""

    code: str
    message: str
    cure: str
    severity: str


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding at one place of one file."""

    code: str
    severity: str
    message: str
    cure: str
    span: Span
    filename: str

    @property
    def headline(self) -> str:
        """The first line: place, severity, code, message."""
        place = f"{self.filename}:{self.span.line}:{self.span.col}"
        return f"{place}: {self.severity}[{self.code}]: {self.message}"


class DiagnosticError(Exception):
    """Everything that was found wrong in a file, in the order of the text."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = list(diagnostics)
        super().__init__("\n".join(diagnostic.headline for diagnostic in self.diagnostics))


_TABLE: dict[str, Template] = {}


def register(code: str, message: str, cure: str, severity: str = "error") -> str:
    """Add a row to the table and return its code; raises `ValueError` on a code that is taken."""
    if not CODE.fullmatch(code):
        raise ValueError(f"{code!r} is not a code: E, W or N and four digits")
    if severity not in SEVERITIES:
        raise ValueError(f"{severity!r} is not one of {', '.join(SEVERITIES)}")
    if code in _TABLE:
        raise ValueError(f"{code} is registered already: {_TABLE[code].message}")
    _TABLE[code] = Template(code, message, cure, severity)
    return code


def template(code: str) -> Template:
    """Return the row of a code; raises `KeyError` for one that is not registered."""
    return _TABLE[code]


def codes(prefix: str = "") -> tuple[str, ...]:
    """Return the registered codes that start with a prefix such as `E01`, sorted."""
    return tuple(sorted(code for code in _TABLE if code.startswith(prefix)))


def fields_of(code: str) -> frozenset[str]:
    """Return the names of the fields that a code's message and cure need."""
    row = _TABLE[code]
    parts = [*Formatter().parse(row.message), *Formatter().parse(row.cure)]
    return frozenset(name for _, name, _, _ in parts if name)


def diagnose(code: str, span: Span, filename: str, /, **fields: object) -> Diagnostic:
    """Fill in the row of a code; raises `KeyError` when a field of the row is missing."""
    row = _TABLE[code]
    return Diagnostic(
        code,
        row.severity,
        row.message.format_map(fields),
        row.cure.format_map(fields),
        span,
        filename,
    )


def in_order(diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
    """Sort by file and place and drop repetitions."""
    unique = dict.fromkeys(diagnostics)
    return sorted(unique, key=lambda found: (found.filename, found.span.start, found.code))


def render(diagnostic: Diagnostic, source: str) -> str:
    """Return the headline, the source line, carets under the span, and the cure.

    The carets of a span over several lines run to the end of the first.
    """
    parts = [diagnostic.headline]
    span = diagnostic.span
    # Lines end at line feeds alone, as in the spans.
    lines = source.removeprefix("\ufeff").split("\n")
    if 1 <= span.line <= len(lines):
        line = lines[span.line - 1].rstrip("\r")
        end = span.end_col - 1 if span.end_line == span.line else len(line)
        before, under = line[: span.col - 1], line[span.col - 1 : end]
        padding = "".join("\t" if char == "\t" else " " * width(char) for char in before)
        carets = "^" * max(sum(width(char) for char in under), 1)
        parts += [f"  {line}", f"  {padding}{carets}"]
    if diagnostic.cure:
        parts.append(f"  cure: {diagnostic.cure}")
    return "\n".join(parts)


def width(char: str) -> int:
    """Return how many columns of a terminal a character takes."""
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def render_all(diagnostics: Iterable[Diagnostic], sources: Mapping[str, str]) -> str:
    """Render every diagnostic with the source of its file, in order, a blank line between two."""
    found = in_order(diagnostics)
    return "\n\n".join(render(one, sources.get(one.filename, "")) for one in found)


def to_json(diagnostic: Diagnostic) -> dict[str, Any]:
    """Return the diagnostic as plain data with the place of its first character."""
    return {
        "file": diagnostic.filename,
        "line": diagnostic.span.line,
        "col": diagnostic.span.col,
        "code": diagnostic.code,
        "severity": diagnostic.severity,
        "message": diagnostic.message,
        "cure": diagnostic.cure,
    }
