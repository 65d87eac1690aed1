"""The tables of the grammar, the contextual lexer and the steps of the LALR automaton.

The stack is a linked list of frames, so that a stack kept from before a token stays valid: error
recovery goes back to one, tries a repair on it and drops it at no cost. What a rule builds is
`opwright.grammar.builder`; what happens after an error is `opwright.grammar.recovery`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FORMAT = 1
GRAMMAR = Path(__file__).with_name("opwright.lark")
TABLES = Path(__file__).with_name("tables.json")
STARTS = ("start", "expr")
END = "$END"
WORD = re.compile(r"\w+")


class StaleTables(RuntimeError):
    """The shipped tables were built from another text of the grammar."""


def grammar_hash(text: str) -> str:
    """Return the hash that ties tables to a grammar, whatever its line endings."""
    return hashlib.sha256(text.replace("\r\n", "\n").encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Token:
    """A terminal with its text and its half-open range of character offsets."""

    type: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of the grammar and how its children are chosen (see `build.rule_plan`)."""

    origin: str
    action: str
    length: int
    single: bool
    helper: bool
    plan: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Scanner:
    """The terminals that one parser state accepts, as one regular expression."""

    pattern: re.Pattern[str]
    renamed: Mapping[str, Mapping[str, str]]

    def match(self, text: str, position: int) -> Token | None:
        """Return the token at a position, or None."""
        found = self.pattern.match(text, position)
        if found is None or found.lastgroup is None:
            return None
        name, word = found.lastgroup, found.group()
        return Token(self.renamed.get(name, {}).get(word, name), word, position, found.end())


@dataclass(frozen=True, slots=True)
class Frame:
    """One symbol on the stack, the state after it, and the stack below."""

    state: int
    symbol: str
    value: Any
    start: int
    end: int
    below: Frame | None

    def down(self) -> Iterator[Frame]:
        """Yield this frame and every frame below it."""
        frame: Frame | None = self
        while frame is not None:
            yield frame
            frame = frame.below


Build = Callable[[Rule, list[Any], int, int], Any]


def build_nothing(rule: Rule, children: list[Any], start: int, end: int) -> Any:
    """Stand for a builder where only the states matter."""
    return None


class Tables:
    """The automaton: per state a scanner, the actions on terminals and the gotos on rules.

    An action is a state to shift to, or -1 - r to reduce by rule r.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.starts: dict[str, int] = data["starts"]
        self._end_states = frozenset(data["ends"].values())
        self.skip = re.compile("(?:" + "|".join(data["skip"]) + ")*")
        self.rules = [
            Rule(
                row["origin"],
                row["action"],
                row["length"],
                row["single"],
                row["helper"],
                tuple((index, spread, absent) for index, spread, absent in row["plan"]),
            )
            for row in data["rules"]
        ]
        self.terminals: dict[str, dict[str, Any]] = data["terminals"]
        self.fixed = {
            name: str(row["value"]) for name, row in self.terminals.items() if row["fixed"]
        }
        self.actions: list[dict[str, int]] = [row[1] for row in data["states"]]
        self.gotos: list[dict[str, int]] = [row[2] for row in data["states"]]
        self._scanner_of: list[int] = [row[0] for row in data["states"]]
        self._scanner_rows: list[dict[str, Any]] = [*data["scanners"], data["root"]]
        self._scanners: dict[int, Scanner] = {}

    def _scanner(self, index: int) -> Scanner:
        # Compiled on first use: one text meets few of them.
        scanner = self._scanners.get(index)
        if scanner is None:
            row = self._scanner_rows[index]
            parts = []
            for name in row["order"]:
                value = self.terminals[name]["value"]
                parts.append(f"(?P<{name}>{re.escape(value) if name in self.fixed else value})")
            # A state whose only terminal is the end of the text matches nothing.
            pattern = re.compile("|".join(parts) or r"(?!)")
            scanner = self._scanners[index] = Scanner(pattern, row["renamed"])
        return scanner

    def scan(self, text: str, position: int, state: int) -> Token | None:
        """Return the next token that a state accepts, `END` at the end, None if nothing fits."""
        position = self.after_space(text, position)
        if position >= len(text):
            return Token(END, "", len(text), len(text))
        return self._scanner(self._scanner_of[state]).match(text, position)

    def scan_any(self, text: str, position: int) -> Token | None:
        """Return the next token of any kind, `END` at the end, None on a stray character."""
        position = self.after_space(text, position)
        if position >= len(text):
            return Token(END, "", len(text), len(text))
        return self._scanner(len(self._scanner_rows) - 1).match(text, position)

    def after_space(self, text: str, position: int) -> int:
        """Return the position after white space and comments."""
        found = self.skip.match(text, position)
        assert found is not None
        return found.end()

    def first(self, start: str) -> Frame:
        """Return the stack before the first token of a start symbol."""
        return Frame(self.starts[start], "", None, 0, 0, None)

    def step(self, frame: Frame, token: Token, build: Build = build_nothing) -> Frame | None:
        """Reduce as the token asks and shift it; None if the automaton refuses the token.

        `END` is not shifted: the frame returned holds the value of the start symbol.
        """
        while True:
            if token.type == END and frame.state in self._end_states:
                return frame
            action = self.actions[frame.state].get(token.type)
            if action is None:
                return None
            if action >= 0:
                return Frame(action, token.type, token, token.start, token.end, frame)
            frame = self.reduce(frame, self.rules[-1 - action], build)

    def reduce(self, frame: Frame, rule: Rule, build: Build) -> Frame:
        """Replace the symbols of a rule on top of the stack by what the rule builds."""
        popped = []
        base = frame
        for _ in range(rule.length):
            popped.append(base)
            assert base.below is not None
            base = base.below
        popped.reverse()
        start, end = popped[0].start, popped[-1].end
        if build is build_nothing:
            value = None
        else:
            children: list[Any] = []
            for index, spread, absent in rule.plan:
                children.extend([None] * absent)
                if index >= 0:
                    if spread:
                        children.extend(popped[index].value)
                    else:
                        children.append(popped[index].value)
            if rule.helper:
                value = children
            elif rule.single and len(children) == 1:
                value = children[0]
            else:
                value = build(rule, children, start, end)
        target = self.gotos[base.state][rule.origin]
        return Frame(target, rule.origin, value, start, end, base)

    def accepts(self, frame: Frame, terminal: str) -> bool:
        """Whether the automaton takes a terminal next."""
        return self.step(frame, Token(terminal, "", frame.end, frame.end)) is not None

    def expected(self, frame: Frame) -> set[str]:
        """Return every terminal that the automaton takes next."""
        return {name for name in self.actions[frame.state] if self.accepts(frame, name)}

    def shifts(self, frame: Frame, terminal: str) -> bool:
        """Whether a terminal is shifted at once, without a reduction first."""
        return self.actions[frame.state].get(terminal, -1) >= 0


@cache
def load_tables() -> Tables:
    """Read the shipped tables; raises `StaleTables` if the grammar has changed since."""
    data = json.loads(TABLES.read_text(encoding="utf-8"))
    found = grammar_hash(GRAMMAR.read_text(encoding="utf-8"))
    if data.get("format") != FORMAT or data.get("grammar") != found:
        raise StaleTables(
            f"{TABLES.name} does not belong to {GRAMMAR.name}: run python -m opwright.grammar.build"
        )
    return Tables(data)
