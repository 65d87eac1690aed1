"""A document algebra for line breaking: what may break, and text for a given width.

After Wadler, "A prettier printer" (2003): a group is printed on one line if it fits, else every
break of its own becomes a new line. A remark is printed at the end of the line that it falls on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias


@dataclass(frozen=True)
class Break:
    """A space (or nothing) that turns into a new line when its group does not fit."""

    flat: str = " "


@dataclass(frozen=True)
class NewLine:
    """A new line, always; a fresh one only where something stands on the line already."""

    fresh: bool = False


@dataclass(frozen=True)
class Remark:
    """A text to end its line with, wherever the line breaks next."""

    text: str


@dataclass(frozen=True)
class Join:
    """Documents one after the other."""

    parts: tuple[Doc, ...]

    @cached_property
    def breaks(self) -> bool:
        """Whether no single line can hold it."""
        return any(must_break(part) for part in self.parts)


@dataclass(frozen=True)
class Nest:
    """A document whose lines start further in."""

    depth: int
    doc: Doc

    @cached_property
    def breaks(self) -> bool:
        """Whether no single line can hold it."""
        return must_break(self.doc)


@dataclass(frozen=True)
class Group:
    """A document that is on one line, or has all its own breaks as new lines."""

    doc: Doc

    @cached_property
    def breaks(self) -> bool:
        """Whether no single line can hold it."""
        return must_break(self.doc)


Doc: TypeAlias = str | Break | NewLine | Remark | Join | Nest | Group
SOFT = Break("")
SPACE = Break(" ")
HARD = NewLine()
FRESH = NewLine(fresh=True)


def must_break(doc: Doc) -> bool:
    """Whether a document holds a new line or a remark, which no single line can hold."""
    if isinstance(doc, str | Break):
        return False
    return True if isinstance(doc, NewLine | Remark) else doc.breaks


def join(*parts: Doc) -> Doc:
    """Put documents one after the other."""
    return Join(parts)


def joined(parts: Iterable[Doc], *separator: Doc) -> Doc:
    """Put documents one after the other with a separator between two."""
    result: list[Doc] = []
    for part in parts:
        if result:
            result.extend(separator)
        result.append(part)
    return Join(tuple(result))


def group(*parts: Doc) -> Doc:
    """Put documents one after the other, on one line if that fits."""
    return Group(Join(parts))


def nest(depth: int, *parts: Doc) -> Doc:
    """Put documents one after the other, their new lines further in."""
    return Nest(depth, Join(parts))


class Lines:
    """The lines printed so far."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.current: list[str] = []
        self.column = 0
        self.remarks: list[str] = []

    def add(self, text: str) -> None:
        """Add text to the current line."""
        self.current.append(text)
        self.column += len(text)

    def end(self) -> None:
        """End the current line with the remarks that wait for its end."""
        line = "".join(self.current).rstrip()
        for index, remark in enumerate(self.remarks):
            # Two remarks cannot share a line: the later ones get lines of their own.
            if index:
                self.done.append(line)
                line = " " * (len(line) - len(line.lstrip()))
            line = f"{line}  {remark}" if line.strip() else line + remark
        self.remarks.clear()
        self.done.append(line)
        self.current.clear()
        self.column = 0


def fits(room: int, doc: Doc, rest: list[tuple[int, bool, Doc]]) -> bool:
    """Whether a document fits on one line, with what follows it up to the next new line."""
    stack: list[tuple[bool, Doc]] = [(True, doc)]
    following = len(rest)
    while room >= 0:
        if not stack:
            if not following:
                return True
            following -= 1
            _, flat, doc = rest[following]
            stack.append((flat, doc))
            continue
        flat, doc = stack.pop()
        if isinstance(doc, str):
            room -= len(doc)
        elif isinstance(doc, Break):
            if not flat:
                return True
            room -= len(doc.flat)
        elif isinstance(doc, NewLine):
            return True
        elif isinstance(doc, Join):
            stack.extend((flat, part) for part in reversed(doc.parts))
        elif isinstance(doc, Nest):
            stack.append((flat, doc.doc))
        elif isinstance(doc, Group):
            stack.append((flat and not doc.breaks, doc.doc))
    return False


def render(doc: Doc, width: int) -> str:
    """Return the text of a document in lines of a width where its breaks allow it."""
    lines = Lines()
    stack: list[tuple[int, bool, Doc]] = [(0, False, doc)]
    while stack:
        depth, flat, doc = stack.pop()
        if isinstance(doc, str):
            lines.add(doc)
        elif isinstance(doc, Remark):
            lines.remarks.append(doc.text)
        elif isinstance(doc, Join):
            stack.extend((depth, flat, part) for part in reversed(doc.parts))
        elif isinstance(doc, Nest):
            stack.append((depth + doc.depth, flat, doc.doc))
        elif isinstance(doc, Group):
            whole = flat or (not doc.breaks and fits(width - lines.column, doc.doc, stack))
            stack.append((depth, whole, doc.doc))
        elif isinstance(doc, Break) and flat:
            lines.add(doc.flat)
        else:
            if isinstance(doc, NewLine) and doc.fresh and not "".join(lines.current).strip():
                continue
            lines.end()
            lines.add(" " * depth)
    lines.end()
    return "\n".join(lines.done)
