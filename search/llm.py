"""What is asked of a language model and what it answers, as plain data; nothing of any vendor.

A client turns a `Request` into a `Response` or raises `LLMError`. Everything that a network and a
model can do wrong is a kind of error or of ending, and an ordinary event.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

LARGEST_TEXT = 1 << 20  # characters of an answer that are kept

# what may come right when it is asked again
TRANSIENT = ("rate_limit", "timeout", "server", "connection", "malformed")
# what ends a run: no further request can succeed
FATAL = ("auth", "missing", "request", "drift")


def printable(text: str) -> str:
    """A stranger's text without what a terminal would obey."""
    return "".join(c if c.isprintable() or c in "\n\t" else " " for c in text)


class LLMError(Exception):
    """No answer. kind: rate_limit | timeout | server | connection | malformed | auth | request |
    missing (a client, a key or a recorded answer) | drift (a recorded answer is to another prompt).

    `retry_after` are seconds that the server asks to wait; `billed` says that it may have worked;
    `final` that asking again gives the same.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        retry_after: float | None = None,
        billed: bool = False,
        final: bool = False,
    ) -> None:
        super().__init__(printable(message))
        self.kind, self.retry_after, self.billed = kind, retry_after, billed
        self.final = final
        self.wasted: Usage | None = None  # of tries before this one, as it was recorded

    @property
    def transient(self) -> bool:
        return self.kind in TRANSIENT


@dataclass(frozen=True, slots=True)
class Message:
    """One turn; role: user | assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked. `logical` (op/phase/node/attempt) and `ordinal`, the how manieth equal request
    it is, tell equal requests apart and are never sent."""

    system: str
    messages: tuple[Message, ...]
    model: str = ""
    max_tokens: int = 16384
    effort: str = ""
    temperature: float | None = None
    logical: str = ""
    ordinal: int = 0

    @property
    def sent(self) -> dict[str, Any]:
        """What an answer depends on."""
        return {
            "model": self.model,
            "system": self.system,
            "messages": [{"role": m.role, "content": m.content} for m in self.messages],
            "max_tokens": self.max_tokens,
            "effort": self.effort,
            "temperature": self.temperature,
        }

    @property
    def key(self) -> str:
        """sha256 of the canonical text of what is sent."""
        text = json.dumps(self.sent, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def text(self) -> str:
        """The whole prompt, for people, diffs and counting."""
        return "\n\n".join([self.system, *(f"[{m.role}]\n{m.content}" for m in self.messages)])

    @property
    def worst(self) -> Usage:
        """The most that it can cost."""
        return Usage(count_tokens(self.text), self.max_tokens)

    @staticmethod
    def from_json(data: Mapping[str, Any], logical: str = "", ordinal: int = 0) -> Request:
        messages = tuple(Message(m["role"], m["content"]) for m in data["messages"])
        return Request(
            data["system"],
            messages,
            data["model"],
            data["max_tokens"],
            data["effort"],
            data["temperature"],
            logical,
            ordinal,
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens; `cached` are input tokens of a lower price, `estimated` says that nobody counted."""

    input: int = 0
    output: int = 0
    cached: int = 0
    estimated: bool = False

    @property
    def total(self) -> int:
        return self.input + self.output

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input + other.input,
            self.output + other.output,
            self.cached + other.cached,
            self.estimated or other.estimated,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "input": self.input,
            "output": self.output,
            "cached": self.cached,
            "estimated": self.estimated,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Usage:
        """TypeError or ValueError for what counts no tokens."""
        found = Usage(**data)
        numbers = (found.input, found.output, found.cached)
        if any(type(n) is not int or n < 0 for n in numbers):
            raise ValueError("tokens are counted from 0")
        return found


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. finish: stop | length (cut off) | refusal; `model` is what the server says."""

    text: str
    finish: str = "stop"
    model: str = ""
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "text": self.text,
            "finish": self.finish,
            "model": self.model,
            "usage": self.usage.to_json(),
            "seconds": round(self.seconds, 3),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Response:
        return Response(
            str(data["text"]).encode("utf-8", "replace").decode(),  # no halves of characters
            str(data["finish"]),
            str(data["model"]),
            Usage.from_json(data["usage"]),
            float(data["seconds"]),
        )


class LLMClient(Protocol):
    """Answers requests, from several threads at once. `name` says who: it goes into ledgers."""

    @property
    def name(self) -> str: ...

    def complete(self, request: Request) -> Response:
        """The answer; raises LLMError."""
        ...


def count_tokens(text: str) -> int:
    """An estimate from above for text and code: a token for every three bytes."""
    return len(text.encode("utf-8", "replace")) // 3 + 1


def estimated(request: Request, text: str) -> Usage:
    """The usage of an answer whose server did not count."""
    return Usage(count_tokens(request.text), count_tokens(text), 0, True)


@dataclass(slots=True)
class Scripted:
    """A client for tests: answers from a list in order, or from a function of the request.

    A list entry that is an exception is raised.
    """

    answers: Sequence[str | Response | Exception] | Callable[[Request], str | Response]
    model: str = "scripted"
    asked: list[Request] = field(default_factory=list)

    @property
    def name(self) -> str:
        return "scripted"

    def complete(self, request: Request) -> Response:
        at = len(self.asked)
        self.asked.append(request)
        if callable(self.answers):
            found: str | Response | Exception = self.answers(request)
        elif at < len(self.answers):
            found = self.answers[at]
        else:
            raise LLMError("missing", f"the script has {len(self.answers)} answers")
        if isinstance(found, Exception):
            raise found
        if isinstance(found, Response):
            return found
        return Response(found, "stop", self.model, estimated(request, found))
