"""CUDA candidates executed on a CPU: the text built against the shim of `backends/cuda`, called in
a worker as every library is, and what its results can and cannot say.

Inputs, references and verdicts stay in this process. What the shim cannot run says nothing of the
candidate.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from opwright.backends.cpp.build import BuildError, build
from opwright.backends.cpp.driver import DriverError
from opwright.backends.cuda.shim import FLAGS, NAN_MET, STATUS, library_text
from opwright.compiler.candidates import Candidate
from opwright.compiler.paths import cache_folder
from opwright.ir.dtypes import decode
from opwright.ir.expr import walk
from opwright.ir.op import Operator
from opwright.ir.tile import TileProgram
from opwright.search.calls import Runner
from opwright.search.results import Built, Options
from opwright.search.sandbox import Died, Shared, Worker
from opwright.verify.inputs import Case
from opwright.verify.memory import Frame, slots
from opwright.verify.numeric import Bound, Observation, wrong

SHIMMED = (
    "executed on the CPU by a shim: rounding of device functions, real scheduling and performance "
    "not observed"
)
NAN = "an extreme of a number and NaN was taken, which a device and the spec take to be different"
NAN_IN = "a comparison with NaN, which this spec does not speak of, made the results differ"
RANGE = "a number became an integer that does not hold it, which a device does in a way of its own"


class NotRun(Exception):
    """The shim cannot run it; nothing follows about the candidate."""


class _Left(Exception):
    """One call is no test of the candidate."""


@dataclass(eq=False)
class _Owner:
    """What a runner of calls asks of its evaluator."""

    op: Operator
    options: Options
    live: set[Worker] = field(default_factory=set)
    stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def threads(self) -> int:
        return 1


class _Calls(Runner):
    """Calls that tell a failure of the candidate from one of the shim."""

    safe = True

    def _call(self, frame: Frame, poison: str, perturb: int, forbidden: list[int]) -> int:
        try:
            status = super()._call(frame, poison, perturb, forbidden)
        except Died as e:
            if "(SIGILL)" in str(e):
                raise _Left(RANGE) from None
            if "(SIGSEGV)" in str(e) and not self.safe:
                raise  # an access that nothing proved
            raise NotRun(f"the CPU's shim was ended: {e}") from None
        if status == NAN_MET:
            raise _Left(NAN)
        if status in STATUS:
            raise NotRun(STATUS[status])
        return status


class Shim:
    """Runs a candidate's calls; `left` counts those that were no tests, by reason."""

    def __init__(self, calls: _Calls, seconds: float) -> None:
        self.calls, self.seconds = calls, seconds
        self.begin = time.monotonic()
        self.left: dict[str, int] = {}
        self.unable = ""

    def __call__(self, case: Case, layout: str) -> Observation | None:
        if self.unable:
            return None
        if time.monotonic() - self.begin > self.seconds:
            self.leave(f"{self.seconds:g} s were over")
            return None
        self.make_room(case, layout)
        try:
            return self.calls(case, layout)
        except _Left as e:
            self.leave(str(e))
            return None
        except NotRun as e:
            self.unable = f"{e} on {case}"
            return None

    def leave(self, why: str) -> None:
        self.left[why] = self.left.get(why, 0) + 1

    def unless_nan(
        self, found: Observation | None, case: Case, bound: Callable[[Case], Mapping[str, Bound]]
    ) -> Observation | None:
        """A run, unless it differs on inputs with NaN and the spec does not speak of NaN: how a
        language compares with it is no defect of a kernel."""
        op = self.calls.owner.op
        if found is None or found.failure or _speaks_of_nan(op) or not _has_nan(op, case):
            return found
        limits = bound(case)
        if any(wrong(t, found.outputs[t.name], limits[t.name])[0].any() for t in op.outputs):
            self.leave(NAN_IN)
            return None
        return found

    def make_room(self, case: Case, layout: str) -> None:
        need = slots(self.calls.owner.op, case, layout)[1]
        if need > self.calls.shared.size:
            self.calls.close()  # a worker does not see memory that comes later
            self.calls.worker = None
            self.calls.shared.grow(need)

    @property
    def said(self) -> str:
        """What was left out, as the end of a reason."""
        return "".join(f"; {n} calls left out: {why}" for why, n in self.left.items())


def _speaks_of_nan(op: Operator) -> bool:
    return any(x.op == "isnan" for t in op.tensors if t.body is not None for x in walk(t.body))


def _has_nan(op: Operator, case: Case) -> bool:
    real = [t for t in op.inputs if t.kind == "real"]
    return any(bool(np.isnan(decode(case.inputs[t.name], t.dtype)).any()) for t in real)


@contextmanager
def shimmed(
    c: Candidate,
    op: Operator,
    program: TileProgram,
    isa: str,
    options: Options,
    safe: bool,
    seconds: float,
    cases: Sequence[Case] = (),
) -> Iterator[Shim]:
    """A candidate ready to be called; NotRun where it does not build. `safe`: its accesses are
    proved to be in bounds."""
    try:
        source, driver = library_text(c.source, c.plan, op)
        made = build(source, driver, cache_folder() / "build", isa, more=FLAGS)
    except (BuildError, DriverError, ValueError) as e:
        raise NotRun(f"not built for the CPU: {' '.join(str(e).split())[:300]}") from None
    room = max((slots(op, x, k)[1] for x in cases for k in ("rows", "gapped")), default=1 << 16)
    shared = Shared(room)
    owner = _Owner(op, options)
    calls = _Calls(owner, program, c.plan, Built(made.path, made.seconds, made.size), shared)
    calls.safe = safe
    try:
        yield Shim(calls, seconds)
    finally:
        calls.close()
        shared.close()
