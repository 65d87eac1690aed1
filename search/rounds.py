"""Interleaved timing rounds over contenders in one process. Standard library only: the worker of an
evaluation loads this file by path, without the package.

Every contender is a callable that performs `n` calls. Wall and CPU time are taken around blocks of
calls; a block whose CPU time says that the threads did not run in parallel is no sample.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Calls = Callable[[int], object]


@dataclass
class Settings:
    """How to measure: `block` seconds a sample, `pause` before it, `limit` seconds in all.

    `rare` contenders get two samples only: they are slow and nobody waits for their third digit.
    `stop` (contender, rival, factor) ends the rounds once the contender is clearly slower.
    """

    rounds: int = 9
    block: float = 0.01
    pause: float = 0.004
    limit: float = 60.0
    threads: int = 1
    least_share: float = 0.8
    rare: tuple[str, ...] = ()
    stop: tuple[str, str, float] | None = None


@dataclass
class Samples:
    """Seconds per call of accepted samples, CPU over wall of each, and how many were rejected.

    `unparallel` says that no sample ever had the CPU time of all threads, so that all were kept.
    """

    wall: list[float] = field(default_factory=list)
    share: list[float] = field(default_factory=list)
    rejected: int = 0
    unparallel: bool = False


def median(values: list[float]) -> float:
    """The median; nan of nothing."""
    if not values:
        return float("nan")
    v = sorted(values)
    n = len(v)
    return v[n // 2] if n % 2 else (v[n // 2 - 1] + v[n // 2]) / 2


def interleave(
    contenders: Mapping[str, Calls],
    settings: Settings,
    wall: Callable[[], float] = time.perf_counter,
    cpu: Callable[[], float] = time.process_time,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Samples]:
    """Rounds of one sample each, in rotating order, so that drift and neighbours hit all alike.

    Ends after the rounds (up to twice as many where samples were rejected), at the limit, or
    when `stop` says so. Every contender gets at least one sample.
    """
    begin = wall()
    names = list(contenders)
    out = {n: Samples() for n in names}
    dropped: dict[str, Samples] = {n: Samples() for n in names}
    calls: dict[str, int] = {}
    long: set[str] = set()  # a call that takes several blocks warms itself up
    slow: set[str] = set()
    for n in names:  # warm up: pages, caches, thread pool; the second call is an estimate
        first = _timed(contenders[n], 1, wall, cpu)
        if first[0] > 1.0:  # no second call just to learn what is known
            slow.add(n)
            calls[n] = 1
            out[n].wall.append(first[0])
            out[n].share.append(first[1] / first[0])
            continue
        second = _timed(contenders[n], 1, wall, cpu)[0]
        calls[n] = max(1, int(settings.block / max(min(first[0], second), 1e-9)))
        if min(first[0], second) > 5 * settings.block:
            long.add(n)
    for turn in range(2 * settings.rounds + 2):
        wanting = [n for n in names if len(out[n].wall) < _wanted(n, settings, n in slow)]
        if not wanting or (turn and wall() - begin > settings.limit):
            break
        shift = turn % len(names)
        for n in names[shift:] + names[:shift]:
            if n not in wanting:
                continue
            if settings.pause:
                sleep(settings.pause)
            if n not in slow and n not in long:
                contenders[n](1)
            elapsed, used = _timed(contenders[n], calls[n], wall, cpu)
            share = used / elapsed if elapsed > 0 else 0.0
            accepted = settings.threads == 1 or share >= settings.least_share * settings.threads
            target = out[n] if accepted else dropped[n]
            target.wall.append(elapsed / calls[n])
            target.share.append(share)
            out[n].rejected += not accepted
        if settings.stop is not None and _clear(out, settings.stop):
            break
    for n in names:
        if not out[n].wall:
            out[n].wall, out[n].share = dropped[n].wall, dropped[n].share
            out[n].unparallel = True
        elif n in slow:
            low = settings.least_share * settings.threads
            out[n].unparallel = settings.threads > 1 and max(out[n].share) < low
    return out


def _wanted(name: str, settings: Settings, slow: bool) -> int:
    few = name in settings.rare or slow
    return min(2, settings.rounds) if few else settings.rounds


def _timed(
    calls: Calls, count: int, wall: Callable[[], float], cpu: Callable[[], float]
) -> tuple[float, float]:
    used, begin = cpu(), wall()
    calls(count)
    return wall() - begin, cpu() - used


def _clear(out: Mapping[str, Samples], stop: tuple[str, str, float]) -> bool:
    """At least three samples each, and even the contender's best is beyond the rival's median."""
    name, rival, factor = stop
    mine, theirs = out[name].wall, out[rival].wall
    return len(mine) >= 3 and len(theirs) >= 3 and min(mine) > factor * median(theirs)
