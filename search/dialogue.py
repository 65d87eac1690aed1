"""A model behind files: prompts go out as texts, answers come back as texts.

Whoever answers, a person or a program, reads `requests/NAME.md` and writes `answers/NAME.md`. The
search is the same as with a server, and its ledger a cassette like any other.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from opwright.search.exchange import LARGEST, ExchangeError, write
from opwright.search.files import read
from opwright.search.llm import LLMError, Request, Response, estimated

HEAD = """<!-- Answer in {answer}; write it under another name first and rename it. -->

"""


@dataclass(slots=True)
class Dialogue:
    """A client over a folder. An answer that is not there within `wait` seconds is an LLMError
    `waiting`: the same command goes on once it is."""

    folder: Path
    model: str = ""
    wait: float = 0.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    unanswered: list[Path] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        try:
            for name in ("requests", "answers"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise ExchangeError(f"{self.folder}: {e.strerror or e}; choose another one") from None

    @property
    def name(self) -> str:
        return f"dialogue:{self.model}"

    def complete(self, request: Request) -> Response:
        name = re.sub(r"[^A-Za-z0-9]+", "-", request.logical).strip("-") or "request"
        name = f"{name}-{request.key[:8]}" + (f"-{request.ordinal}" if request.ordinal else "")
        asked = self.folder / "requests" / f"{name}.md"
        answer = self.folder / "answers" / f"{name}.md"
        begin = self.clock()
        if not os.path.lexists(answer) and not asked.exists():
            head = HEAD.format(answer=os.path.join("answers", answer.name))
            write(asked, head + _text(request))
        while not os.path.lexists(answer):
            if self.clock() - begin >= self.wait:
                with self._lock:
                    self.unanswered.append(asked)
                raise LLMError("waiting", f"no answer to {asked}", final=True)
            self.sleep(0.2)
        try:
            text = read(answer, LARGEST, "replace")
        except OSError as e:
            raise LLMError("malformed", f"{answer}: {e.strerror or e}", final=True) from None
        seconds = self.clock() - begin
        return Response(text, "stop", self.model, estimated(request, text), seconds)


def _text(request: Request) -> str:
    """The request for a reader: the contract, then the turns."""
    turns = []
    for m in request.messages:
        title = "Your earlier answer" if m.role == "assistant" else "Request"
        turns.append(f"# {title}\n\n{m.content}" if len(request.messages) > 1 else m.content)
    return "\n\n".join([f"# Contract\n\n{request.system}", *turns]) + "\n"
