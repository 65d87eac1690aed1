"""One pass of the automaton over a text: tokens in, tree and diagnostics out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from opwright.grammar import syntax_errors as errors
from opwright.grammar.ast import Span
from opwright.grammar.builder import BYTE_ORDER_MARK, Builder, Lines
from opwright.grammar.diagnostics import Diagnostic, diagnose
from opwright.grammar.lalr import END, Frame, Tables, Token, load_tables
from opwright.grammar.recovery import recover

# How many tokens a repair is tried on before it is believed.
LOOK_AHEAD = 12


@dataclass(slots=True)
class Run:
    """The state of a pass; `history` pairs every token with the stack before it."""

    text: str
    filename: str
    start: str
    tables: Tables = field(default_factory=load_tables)
    builder: Builder = field(init=False)
    diagnostics: list[Diagnostic] = field(default_factory=list)
    history: list[tuple[Frame, Token]] = field(default_factory=list)
    visited: set[tuple[int, int]] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)  # where failures were reported

    def __post_init__(self) -> None:
        self.builder = Builder(Lines(self.text))

    def value(self) -> Any:
        """Return what the start symbol builds, or None where no repair leads to the end."""
        frame = self.tables.first(self.start)
        position = int(self.text.startswith(BYTE_ORDER_MARK))
        while True:
            token = self.tables.scan(self.text, position, frame.state)
            following = None if token is None else self.tables.step(frame, token, self.builder)
            if token is None or following is None:
                resumed = recover(self, frame, position)
                if resumed is None:
                    return None
                frame, position = resumed
                continue
            if token.type == END:
                return following.value
            self.history.append((frame, token))
            frame, position = following, token.end

    def span(self, start: int, end: int) -> Span:
        """Return the span of a range of offsets."""
        return self.builder.lines.span(start, end)

    def report(
        self, code: str, start: int, end: int, /, at: int | None = None, **fields: object
    ) -> None:
        """Add a diagnostic, unless one at the same place says why parsing went wrong there. `at`
        is where it did, if what is shown is what stands before."""
        at = start if at is None else at
        if at in self.failed or any(found.span.start == start for found in self.diagnostics):
            return
        self.failed.add(at)
        span = self.span(start, end)
        stray = (f.span.line for f in self.diagnostics if f.code == errors.STRAY)
        if code == errors.UNEXPECTED and span.line in stray:
            return  # what stands after a character that means nothing
        self.diagnostics.append(diagnose(code, span, self.filename, **fields))

    def insert(self, frame: Frame, terminal: str, position: int, text: str = "") -> Frame | None:
        """Shift a token that the text lacks; it has no width."""
        text = text or self.tables.fixed.get(terminal, "")
        return self.tables.step(frame, Token(terminal, text, position, position), self.builder)

    def progress(self, frame: Frame | None, position: int) -> int:
        """Return how many tokens from a position follow without an error, up to a limit."""
        if frame is None:
            return -1
        for count in range(LOOK_AHEAD):
            token = self.tables.scan(self.text, position, frame.state)
            following = None if token is None else self.tables.step(frame, token)
            if token is None or following is None:
                return count
            if token.type == END:
                return LOOK_AHEAD
            frame, position = following, token.end
        return LOOK_AHEAD

    def first_on_line(self, position: int) -> bool:
        """Whether only white space stands before a position on its line."""
        start = self.text.rfind("\n", 0, position) + 1
        return not self.text[start:position].strip(BYTE_ORDER_MARK + " \t\r")
