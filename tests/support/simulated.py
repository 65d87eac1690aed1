"""A search without machine: programs that only have names, costs by formula, failures by plan."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random

from opwright.ir.dtypes import F32
from opwright.ir.expr import const
from opwright.ir.record import Record
from opwright.ir.tile import Axis, Buffer, Builder, Placement, TileProgram
from opwright.search.results import Confirmation, Evaluation, Incumbent, Job
from opwright.search.space import ChoiceSpace, IllegalSchedule


def program(name: str, number: int) -> TileProgram:
    """A small real program that differs with its arguments."""
    b = Builder(name, (1,))
    lane = Axis("c", number)
    y = Buffer("y", "out", F32, (const(1024),))
    b.store(y, lane.lane, b.full(1.0, F32, lane))
    return TileProgram(name, (b.kernel(),), (Placement({"c": "unroll"}),))


def spaces() -> list[ChoiceSpace]:
    """A fallback of one point and a grid of 7 * 5 * 3, a corner of it illegal."""

    def plain(schedule: str) -> TileProgram:
        return program("plain", 1)

    def tiled(width: int, depth: int, order: str) -> TileProgram:
        if width * depth > 512:
            raise IllegalSchedule(f"{width * depth} lanes do not fit")
        # the order does nothing at depth 1: equal programs
        return program(f"tiled_{order if depth > 1 else 'a'}_{depth}", width)

    holes = {
        "width": (16, 2, 4, 8, 32, 64, 128),
        "depth": (1, 2, 4, 8, 16),
        "order": ("a", "b", "c"),
    }
    starts = ({"width": 32}, {"depth": 4})
    return [
        ChoiceSpace("fallback", {"schedule": ("plain",)}, plain),
        ChoiceSpace("tiled", holes, tiled, starts),
    ]


def cost(job: Job) -> float:
    """Seconds: best at width 64, depth 4, order b."""
    if job.schedule.strategy == "fallback":
        return 1e-2
    w, d, o = (job.schedule[n] for n in ("width", "depth", "order"))
    assert isinstance(w, int) and isinstance(d, int)
    far = abs(math.log2(w) - 6) + abs(math.log2(d) - 2) + {"a": 0.5, "b": 0.0, "c": 1.0}[str(o)]
    return 1e-3 * (1 + 0.3 * far)


class Simulated:
    """An evaluator by formula. `noise` is the relative width of timing errors, seeded by the job;
    `lucky` jobs look ten times as fast once; `broken` maps a digest test to a status."""

    def __init__(
        self,
        noise: float = 0.0,
        lucky: Callable[[Job], bool] = lambda j: False,
        broken: Callable[[Job], str | None] = lambda j: None,
        pause: float = 0.0,
        interrupt_at: int | None = None,
        weights: Mapping[str, float] | None = None,
        context: str = "simulated",
    ) -> None:
        self.noise, self.lucky, self.broken, self.pause = noise, lucky, broken, pause
        self.interrupt_at = interrupt_at
        self._weights = weights or {"w": 1.0}
        self._context = context
        self.evaluated: list[Job] = []
        self.confirmed: list[int] = []
        self.incumbents: list[int | None] = []

    @property
    def context(self) -> str:
        return self._context

    @property
    def notes(self) -> Sequence[str]:
        return ("simulated",)

    @property
    def weights(self) -> Mapping[str, float]:
        return self._weights

    def _time(self, job: Job, salt: str) -> float:
        rng = Random(hashlib.sha256(f"{job.digest}{salt}".encode()).hexdigest())
        return cost(job) * math.exp(self.noise * rng.gauss(0, 1))

    def evaluate(
        self, jobs: Sequence[Job], incumbent: Incumbent | None
    ) -> Iterator[tuple[Job, Evaluation]]:
        self.incumbents.append(incumbent.job.number if incumbent else None)
        for job in reversed(jobs):  # results come in any order
            if self.interrupt_at is not None and len(self.evaluated) >= self.interrupt_at:
                raise KeyboardInterrupt
            time.sleep(self.pause)
            self.evaluated.append(job)
            status = self.broken(job)
            records = (Record("G2.bounds", "G2", "PROVED"),)
            if status is not None:
                yield job, Evaluation(status, f"made {status}", "", records)
                continue
            latency = self._time(job, "quick") / (10 if self.lucky(job) else 1)
            values = {
                "latency": latency,
                "memory": 0.0 if job.schedule.strategy == "fallback" else 4096.0,
                "error": 0.5,
                "compile_time": 0.1,
                "code_size": 16384.0,
            }
            metrics = {w: dict(values) for w in self.weights}
            yield job, Evaluation("ok", "", job.digest, records, {"size": 16384}, metrics)

    def confirm(self, jobs: Sequence[Job], baseline: Job | None) -> Confirmation:
        self.confirmed += [j.number for j in jobs]
        everyone = [*jobs, *([baseline] if baseline else [])]
        found = {
            j.number: {w: {"latency": self._time(j, "confirm")} for w in self.weights}
            for j in everyone
        }
        return Confirmation(found, self.noise)

    def close(self) -> None:
        pass
