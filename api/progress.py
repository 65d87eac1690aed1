"""How a search shows itself: a line that redraws on a terminal, plain lines elsewhere.

Everything goes to standard error, so that standard output holds the result alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from opwright.search.events import (
    Confirmed,
    Confirming,
    Evaluated,
    Event,
    Finished,
    Note,
    Proposed,
    Started,
)


class Progress(Protocol):
    """What listens to a search."""

    def __call__(self, event: Event) -> None: ...


@contextmanager
def progress(quiet: bool = False) -> Iterator[Progress | None]:
    """The display that fits standard error; None when nothing shall be shown."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with Terminal() as terminal:
            yield terminal
    else:
        yield Lines()


def result_line(event: Evaluated) -> str:
    """One candidate: number, outcome, schedule."""
    c = event.candidate
    score = f"{event.score:.3f} of candidate 0's objective" if event.score is not None else c.reason
    mark = "*" if event.improved else " "
    again = " (from the archive)" if event.replayed else ""
    return f"{mark}{c.number:>4}  {c.status:<9}  {c.schedule}  {score}{again}"


class Lines:
    """One line for what happened, for logs."""

    def __init__(self) -> None:
        self.begin = time.monotonic()

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.begin:6.1f} s] {text}", file=sys.stderr, flush=True)

    def __call__(self, event: Event) -> None:
        match event:
            case Started():
                self.say(
                    f"search over {', '.join(event.spaces)}; budget {event.budget}"
                    + (f"; {event.replayed} from the archive" if event.replayed else "")
                )
            case Evaluated():
                if not event.replayed or event.improved:
                    self.say(result_line(event))
            case Confirming():
                self.say(f"confirming {', '.join(map(str, event.numbers))} side by side")
            case Note():
                self.say(f"note: {event.text}")
            case Finished():
                if event.why:
                    self.say(event.why)
            case Proposed() | Confirmed():
                pass


class Terminal:
    """A bar with the best so far, redrawn in place; improvements stay above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        self.console = Console(stderr=True)
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )
        self.task: Any = None
        self.budget = 0

    def __enter__(self) -> Terminal:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, event: Event) -> None:
        match event:
            case Started():
                if self.task is not None:
                    self.bar.remove_task(self.task)
                self.budget = event.budget
                self.task = self.bar.add_task("searching", total=event.budget)
            case Proposed():
                self.bar.update(self.task, description=f"trying {event.number}")
            case Evaluated():
                if event.candidate.status not in ("illegal", "duplicate"):
                    self.bar.advance(self.task)
                if event.improved:
                    self.console.print(result_line(event), highlight=False, markup=False)
            case Confirming():
                self.bar.update(self.task, description=f"confirming {len(event.numbers)}")
            case Note():
                self.console.print(f"note: {event.text}", highlight=False, markup=False)
            case Confirmed() | Finished():
                pass
