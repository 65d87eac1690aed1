"""A place where the automaton stopped, and how it is put in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from opwright.grammar import syntax_errors as errors
from opwright.grammar.lalr import END, Frame, Token
from opwright.grammar.resync import innermost_open

if TYPE_CHECKING:
    from opwright.grammar.engine import Run


# one of these can follow what is complete
COMPLETE = frozenset([*errors.SECTIONS.values(), "RBRACE", "OP", END])


@dataclass(frozen=True, slots=True)
class Failure:
    """Where the automaton stopped: the stack before the token that it refused."""

    frame: Frame
    position: int
    token: Token | None
    expected: frozenset[str]
    first_on_line: bool

    @property
    def end(self) -> int:
        """The end of what was refused."""
        return self.token.end if self.token else self.position + 1

    @property
    def type(self) -> str:
        """The kind of token that was refused; empty for a stray character."""
        return self.token.type if self.token else ""


def fail(run: Run, frame: Frame, position: int, token: Token | None = None) -> Failure:
    """Describe a failure at a position."""
    position = run.tables.after_space(run.text, position)
    token = token or run.tables.scan_any(run.text, position)
    expected = frozenset(run.tables.expected(frame))
    return Failure(frame, position, token, expected, run.first_on_line(position))


def describe(failure: Failure) -> str:
    """Say what was found."""
    if failure.token is None:
        return "a stray character"
    if failure.type == END:
        return "the end of the file"
    if failure.first_on_line and failure.token.text in errors.SECTIONS:
        return f"the section `{failure.token.text}`"
    return f"`{failure.token.text}`"


def report_unexpected(run: Run, failure: Failure, cure: str = "") -> None:
    """Report what was expected and what was found."""
    words = errors.expected_words(failure.expected, run.tables.fixed)
    expected = errors.one_of(words)
    if not cure:
        cure = "complete what stands before it"
        if len(words) <= 2:
            cure = f"write {expected} before {describe(failure)}"
        opener = innermost_open(failure.frame)
        if opener is not None:
            line, col = run.builder.lines.place(opener.start)
            cure += f"; `{opener.value.text}` at {line}:{col} is still open"
    start, end = failure.position, failure.end
    if failure.first_on_line and run.history and failure.expected.isdisjoint(COMPLETE):
        # what the line before has begun cannot end there
        last = run.history[-1][1]
        start, end = last.start, last.end
    run.report(
        errors.UNEXPECTED,
        start,
        end,
        at=failure.position,
        expected=expected,
        found=describe(failure),
        cure=cure,
    )
