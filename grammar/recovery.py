"""What happens after a syntax error: find its cause, report it once, go on as if it were mended.

The first repair of `opwright.grammar.repairs` that applies reports and says where to go on. Where
none applies the failure is reported as it is, and parsing goes on at the next statement, section,
closing brace or operator (`opwright.grammar.resync`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opwright.grammar import syntax_errors as errors
from opwright.grammar.failure import Failure, fail, report_unexpected
from opwright.grammar.lalr import WORD, Frame, Token
from opwright.grammar.repairs import REPAIRS, Repair
from opwright.grammar.resync import STATEMENT, force_on, resync, statements

if TYPE_CHECKING:
    from opwright.grammar.engine import Run


def recover(run: Run, frame: Frame, position: int) -> tuple[Frame, int] | None:
    """Report a failure and return where to go on, or None at the end of what can be read."""
    failure = blame(run, fail(run, frame, position))
    repair: Repair | None = None
    for attempt in REPAIRS:
        repair = attempt(run, failure)
        if repair is not None:
            break
    else:
        report_unexpected(run, failure)
        repair = resync(run, failure.frame, failure.position)
    if repair is None or repair[0] is None:
        return None
    return force_on(run, repair[0], repair[1])


def blame(run: Run, failure: Failure) -> Failure:
    """Move a failure back to the token that caused it.

    A keyword is read as a name where only a name can stand, and the beginning of a word as a
    keyword where no name can stand; either shows one or two tokens later.
    """
    count = len(run.history)
    for index in range(max(0, count - 3), count):
        frame, token = run.history[index]
        word = WORD.match(run.text, token.start)
        if token.text.isalpha() and token.type in run.tables.fixed and word:
            if word.end() > token.end:
                del run.history[index:]
                name = Token("NAME", word.group(), token.start, word.end())
                return fail(run, frame, token.start, name)
    if run.history:
        frame, token = run.history[-1]
        keyword = "OP" if token.text == "op" else errors.SECTIONS.get(token.text)
        if token.type == "NAME" and keyword and run.first_on_line(token.start):
            del run.history[-1:]
            return fail(run, frame, token.start, Token(keyword, token.text, token.start, token.end))
    if failure.type == "EQUAL" and statements(run, failure.frame):
        return blame_equation(run, failure)
    return failure


def blame_equation(run: Run, failure: Failure) -> Failure:
    """Move a failure at the `=` of an equation to its beginning.

    The left side was read as the end of an expression that the line before left open.
    """
    for index in range(len(run.history) - 1, -1, -1):
        frame, token = run.history[index]
        if run.first_on_line(token.start):
            found = STATEMENT.match(run.text, token.start)
            if found and found.end() == failure.end:
                del run.history[index:]
                return fail(run, frame, token.start)
            break
    return failure
