"""One pass over a text, and what it does after an error."""

from __future__ import annotations

from typing import Any

from opwright.grammar import syntax_errors as errors
from opwright.grammar.ast import Span
from opwright.grammar.builder import BYTE_ORDER_MARK, Builder, Lines
from opwright.grammar.diagnostics import Diagnostic, diagnose
from opwright.grammar.lalr import END, Frame, Token, load_tables


class Run:
    """One pass of the automaton over a text."""

    def __init__(self, text: str, filename: str, start: str) -> None:
        self.tables = load_tables()
        self.text = text
        self.filename = filename
        self.start = start
        self.builder = Builder(Lines(text))
        self.diagnostics: list[Diagnostic] = []
        self.history: list[tuple[Frame, Token]] = []

    def span(self, start: int, end: int) -> Span:
        return self.builder.lines.span(start, end)

    def value(self) -> Any:
        frame = self.tables.first(self.start)
        position = int(self.text.startswith(BYTE_ORDER_MARK))
        while True:
            token = self.tables.scan(self.text, position, frame.state)
            following = None if token is None else self.tables.step(frame, token, self.builder)
            if token is None or following is None:
                break
            if token.type == END:
                return following.value
            self.history.append((frame, token))
            frame, position = following, token.end
        position = self.tables.after_space(self.text, position)
        found = self.tables.scan_any(self.text, position)
        text = (
            "the end of the file"
            if found and found.type == END
            else (f"`{found.text}`" if found else f"`{self.text[position]}`")
        )
        expected = errors.describe_expected(self.tables.expected(frame), self.tables.fixed)
        self.diagnostics.append(
            diagnose(
                errors.UNEXPECTED,
                self.span(position, found.end if found else position + 1),
                self.filename,
                expected=expected,
                found=text,
                cure=f"write {expected} here",
            )
        )
        return None
