"""Going on after an error that no repair mends: the next place where the text starts afresh.

Such a place is a statement on a line of its own, a section keyword on a line of its own, the brace
that closes the block or the operator, and the next operator.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile
from typing import TYPE_CHECKING

from opwright.grammar.lalr import Frame
from opwright.grammar.syntax_errors import SECTIONS, VERSIONS

if TYPE_CHECKING:
    from opwright.grammar.engine import Run

OPENERS = ("LPAR", "LSQB", "LBRACE")
CLOSERS = ("RPAR", "RSQB", "RBRACE")
PIECE = re.compile(r'#[^\n]*|"[^"\n]*"|\w+|\S')
SIDE = r"\w+\s*(?:\[[^\[\]\n=]*\])?\s*"
STATEMENT = re.compile(rf"rec\s+\w+|{SIDE}(?:,\s*{SIDE})*=(?![=>])")
OPERATOR = re.compile(r"op\s+\w+\s*[@{]")


def open_brackets(frame: Frame) -> Iterator[Frame]:
    """Yield the opening brackets on the stack that are not closed, the innermost first."""
    closed = 0
    for below in frame.down():
        if below.symbol in CLOSERS:
            closed += 1
        elif below.symbol in OPENERS:
            if closed:
                closed -= 1
            else:
                yield below


def innermost_open(frame: Frame) -> Frame | None:
    """Return the innermost bracket that is not closed, braces apart."""
    bracket = next(open_brackets(frame), None)
    return None if bracket is None or bracket.symbol == "LBRACE" else bracket


def under(run: Run, frame: Frame, terminal: str) -> Frame | None:
    """Return the stack down to where a terminal begins something new.

    `DIMS` stands for the body of an operator, `REC` for a list of statements, `OP` for the file.
    """
    for below in frame.down():
        if run.tables.shifts(below, terminal):
            return below
    return None


def statements(run: Run, frame: Frame) -> Frame | None:
    """Return the list of statements that a stack is in, if it is in one."""
    for below in frame.down():
        if run.tables.shifts(below, "REC"):
            return below
        if run.tables.shifts(below, "DIMS"):
            return None
    return None


def module(run: Run, frame: Frame, position: int) -> Frame | None:
    """Return the stack at the level of the file, with a version line if the text has none."""
    if run.tables.accepts(frame, "OP"):
        return frame
    base = under(run, frame, "OP")
    if base is None:
        start = run.insert(run.tables.first("start"), "OPWRIGHT", position)
        return start and run.insert(start, "STRING", position, f'"{VERSIONS[-1]}"')
    return base


def settle(run: Run, frame: Frame, base: Frame, terminal: str) -> Frame:
    """Return a stack before something new, with what stands before it if that is whole."""
    return frame if run.tables.accepts(frame, terminal) else base


def resync(run: Run, frame: Frame, position: int) -> tuple[Frame | None, int]:
    """Return the stack and the position to go on with; no stack at the end of the text."""
    if run.start != "start":
        return None, position
    body = under(run, frame, "DIMS")
    block = statements(run, frame)
    base = block or body
    # Braces opened since the base: those of a list of dtypes, workload or tolerance.
    above = list(takewhile(lambda below: below is not base, frame.down()))
    inner = sum(bracket.symbol == "LBRACE" and bracket in above for bracket in open_brackets(frame))
    if body is None:
        header = operator_header(run, frame, position)
        if header is not None:
            return header
    depth = 0
    for piece in PIECE.finditer(run.text, position):
        word, start = piece.group(), piece.start()
        fresh = run.first_on_line(start)
        if fresh and OPERATOR.match(run.text, start):
            return module(run, frame, start), start
        if fresh and word in ("import", "from"):
            imports = under(run, frame, "IMPORT")
            if imports is not None:
                return settle(run, frame, imports, "IMPORT"), start
        if word == "{":
            depth += 1
        elif word == "}" and depth:
            depth -= 1
        elif word == "}" and inner:
            inner -= 1
        elif word == "}" and block is not None:
            block = settle(run, frame, block, "RBRACE")
            if run.tables.accepts(block, "RBRACE"):
                return block, start
            return body, piece.end()
        elif word == "}" and body is not None:
            return settle(run, frame, body, "RBRACE"), start
        if depth or not fresh:
            continue
        if block is not None and STATEMENT.match(run.text, start):
            return settle(run, frame, block, "REC"), start
        if body is not None and word in SECTIONS:
            return settle(run, frame, body, "DIMS"), start
    return None, len(run.text)


def operator_header(run: Run, frame: Frame, position: int) -> tuple[Frame, int] | None:
    """Go on behind a broken `op ... {`, as if its name and version were there."""
    base = under(run, frame, "OP")
    if base is None:
        return None
    symbols = [below.symbol for below in takewhile(lambda below: below is not base, frame.down())]
    if "OP" not in symbols or "LBRACE" in symbols:
        return None
    end = run.text.find("\n", position)
    brace = run.text.find("{", position, len(run.text) if end < 0 else end)
    if brace < 0:
        return None
    header: Frame | None = base
    for terminal, text in (("OP", ""), ("NAME", "unnamed"), ("AT", ""), ("SEMVER", "0.0")):
        header = header and run.insert(header, terminal, brace, text)
    return None if header is None else (header, brace)


def force_on(run: Run, frame: Frame, position: int) -> tuple[Frame, int] | None:
    """Return where to go on, further on than the last time if parsing stood here before."""
    resumed: tuple[Frame | None, int] = (frame, position)
    while resumed[0] is not None:
        frame, position = resumed[0], run.tables.after_space(run.text, resumed[1])
        if (frame.state, position) not in run.visited:
            run.visited.add((frame.state, position))
            return frame, position
        resumed = resync(run, frame, position + 1)
        if position >= len(run.text):
            return None
    return None
