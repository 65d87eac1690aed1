"""Where the seconds of judging go: by part, for whoever listens; nothing is kept otherwise.

Parts nest, and the seconds of an inner one are not the outer one's, so that all of them add up to
the time that passed in any.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)
    since: float = 0.0
    now: Callable[[], float] = time.perf_counter

    def turn(self) -> None:
        """Book what passed since the last turn on the innermost open part."""
        now = self.now()
        if self.open:
            part = self.open[-1]
            self.seconds[part] = self.seconds.get(part, 0.0) + now - self.since
        self.since = now


_clock: ContextVar[_Clock | None] = ContextVar("opwright-spent", default=None)


@contextmanager
def listening(now: Callable[[], float] = time.perf_counter) -> Iterator[dict[str, float]]:
    """Seconds by part of what happens inside; complete when it is left. `now` may be another clock,
    `time.process_time` where other work keeps the machine busy."""
    clock = _Clock(now=now)
    token = _clock.set(clock)
    try:
        yield clock.seconds
    finally:
        clock.turn()
        _clock.reset(token)


@contextmanager
def part(name: str) -> Iterator[None]:
    """What happens inside belongs to a part, but for what belongs to parts inside it."""
    clock = _clock.get()
    if clock is None:
        yield
        return
    clock.turn()
    clock.open.append(name)
    try:
        yield
    finally:
        clock.turn()
        clock.open.pop()
