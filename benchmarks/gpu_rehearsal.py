"""A device that pretends, so that all of `make gpu` runs on a machine without a GPU.

Candidates are computed by Triton's interpreter. Times and energies are made up from the model, with
a little noise that is the same in every run; the document says that they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from numpy.typing import NDArray

from opwright.backends.triton.run import interpret
from opwright.benchmarks.gpu_jobs import Call, Made
from opwright.benchmarks.gpu_nvml import energy
from opwright.compiler.modelled import modelled
from opwright.ir.op import Operator
from opwright.verify.inputs import Case

SAMPLES = 5


def _noise(name: str, number: int) -> float:
    """Between 0.8 and 1.2, by name."""
    found = hashlib.sha256(f"{name} {number}".encode()).digest()[0]
    return 0.8 + 0.4 * found / 255


class _Meter:
    """The rehearsal's counter of energy."""

    def __init__(self, device: Rehearsal) -> None:
        self.device = device

    def joules(self) -> float:
        return self.device.used


class Rehearsal:
    """What `Gpu` is where there is one."""

    target = "sm_90"
    languages = ("triton",)

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.used = 0.0
        self.now = 0.0

    def describe(self) -> dict[str, Any]:
        return {"name": "rehearsal", "pretended": True, "target": self.target}

    def ceilings(self) -> dict[str, float]:
        return {"copy_bytes_per_s": 4e12, "matmul_bfloat16_flops": 7e14}

    def run(
        self,
        made: Made,
        arrays: Mapping[str, NDArray[Any]],
        sizes: Mapping[str, int],
        params: Mapping[str, Any],
    ) -> Mapping[str, NDArray[Any]]:
        return interpret(made.source, made.bound, arrays, sizes, params)

    def calls(self, op: Operator, case: Case, made: Sequence[Made]) -> dict[str, Call | str]:
        """Calls that let a clock of their own go on."""
        self.seconds = {}
        for m in made:
            assert m.program is not None
            best = modelled(op, m.program, case.sizes, case.params, self.target, {})
            self.seconds[m.name] = best * _noise(m.name, 0)
        slowest = max(self.seconds.values(), default=1e-5)
        self.seconds |= {"torch": 1.5 * slowest, "torch.compile": 1.1 * slowest}
        return {n: partial(self._went, n) for n in self.seconds}

    def _went(self, name: str) -> None:
        self.now += self.seconds[name]
        self.used += 500.0 * self.seconds[name]

    def samples(self, calls: Mapping[str, Call], seconds: float) -> dict[str, list[float]]:
        return {
            name: [self.seconds[name] * _noise(name, n) for n in range(SAMPLES)] for name in calls
        }

    def joules(self, calls: Mapping[str, Call], seconds: float) -> dict[str, dict[str, Any]]:
        window = 50 * max((self.seconds[n] for n in calls), default=1e-3)
        found = energy(calls, _Meter(self), lambda: None, window, clock=self.clock)
        return {n: e.row() for n, e in found.items()}

    def clock(self) -> float:
        """Its own seconds; looking takes some, or a window would never end."""
        self.now += 1e-7
        return self.now
