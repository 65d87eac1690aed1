"""Candidates as Python functions over a frame's views, run in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from opwright.ir.dtypes import decode, encode
from opwright.ir.op import Operator
from opwright.verify.inputs import Case
from opwright.verify.memory import Frame
from opwright.verify.numeric import Observation

Body = Callable[[Mapping[str, Any], Frame], None]


def runner(op: Operator, body: Body) -> Callable[[Case, str], Observation]:
    """Runs a body twice with different garbage, as an evaluator does."""

    def run(case: Case, layout: str) -> Observation:
        frame = Frame(op, case, layout)
        views = {s.name: frame.array(s.name) for s in frame.slots}
        outputs = []
        mutated: list[str] = []
        damage: list[str] = []
        for seed, poison in ((1, "nan"), (2, "a5")):
            frame.fill(seed, poison)
            body(views, frame)
            outputs.append(frame.outputs())
            m, d = frame.damage()
            mutated, damage = mutated + m, damage + d
        return Observation(outputs[0], outputs[1], tuple(mutated), tuple(damage))

    return run


def scaled(views: Mapping[str, Any], frame: Frame) -> None:
    """y = 2 x + 1 in f32, rounded to the output's type."""
    x, y = (frame.slot(n) for n in "xy")
    value = decode(views["x"], x.dtype).astype(np.float32) * np.float32(2) + np.float32(1)
    views["y"][...] = encode(value.astype(np.float64), y.dtype)


def scaled_reference(inputs: Any, sizes: Any, params: Any) -> Any:
    return {"y": 2 * inputs["x"] + 1}


def sum_reference(inputs: Any, sizes: Any, params: Any) -> Any:
    return {"y": inputs["x"].sum(axis=1)}
