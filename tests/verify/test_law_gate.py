"""Gate G7: laws of a spec on results of candidates, right ones and ones that break a law."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.shipped import SPECS

from opwright.compiler.elaborate import load_spec
from opwright.ir.dtypes import decode, encode
from opwright.ir.op import Operator
from opwright.ir.record import Record
from opwright.verify.inputs import Case, generate
from opwright.verify.law_gate import independent, law_gate, separable
from opwright.verify.numeric import Observation
from opwright.verify.sizes import Limits

Array = NDArray[Any]
(PATH,) = SPECS.rglob("softmax.op")
OP = load_spec(PATH).operator()
FAMILIES = ("normal", "uniform", "ties")
CASES = generate(OP, 3, 8, (4,), Limits(elements=1 << 9), (), FAMILIES, specials=False).cases


def right(x: Array) -> Array:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def judged(function: Callable[[Array], Array], takes: tuple[str, ...] = ("dense",)) -> list[Record]:
    def run(case: Case, layout: str) -> Observation | None:
        if layout not in takes:
            return None
        (t,) = OP.outputs
        y = function(decode(case.inputs["x"], OP.inputs[0].dtype))
        return Observation({t.name: encode(y, t.dtype).reshape(y.shape)})

    return law_gate(OP, CASES, run, "kernel.x")


def test_laws_hold_of_what_is_right() -> None:
    found = {r.id: r.status for r in judged(right, ("dense", "gapped"))}
    assert set(found.values()) == {"TESTED"}
    assert {"G7.ensures.range", "G7.law.shift", "G7.reordered.N", "G7.slices.B", "G7.padding"} <= (
        found.keys()
    )
    assert "G7.slices.N" not in found


def first_row(x: Array) -> Array:
    """All rows by the extreme of the first one's sum."""
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return np.asarray(e / e[:1].sum())


def shifted(x: Array) -> Array:
    e = np.exp(x / 2)
    return np.asarray(e / e.sum(axis=1, keepdims=True) * (1 + 0.05 * np.sin(x.sum())))


def placed(x: Array) -> Array:
    y = right(x)
    y[:, 0] *= 0.9
    return y


WRONG = [(first_row, "G7.ensures.mass"), (shifted, "G7.law.shift"), (placed, "G7.law.equivariant")]


@pytest.mark.parametrize(("function", "law"), WRONG)
def test_a_law_that_is_broken_is_refuted_by_a_call(
    function: Callable[[Array], Array], law: str
) -> None:
    found = {r.id: r for r in judged(function)}
    assert found[law].status == "REFUTED", found[law].reason
    assert found[law].counterexample is not None
    assert found[law].counterexample["sizes"]


def test_what_does_not_fail_again_is_not_refuted() -> None:
    calls = iter(range(1000))

    def once(x: Array) -> Array:
        return right(x) * (1.5 if next(calls) == 0 else 1.0)

    found = {r.id: r for r in judged(once)}
    assert found["G7.ensures.range"].status != "REFUTED"


def test_a_miss_within_the_numeric_limit_is_unknown() -> None:
    found = {r.id: r for r in judged(lambda x: right(x) + 1.2e-7)}
    assert not [r.id for r in found.values() if r.status == "REFUTED"]


def test_a_candidate_that_takes_no_call_is_unknown() -> None:
    found = judged(right, ())
    assert {r.status for r in found} == {"UNKNOWN"}


def test_relations_come_from_the_reference() -> None:
    free = independent(OP, CASES)
    assert set(free) == {"B", "N"}
    assert separable(OP, CASES, "B", free["B"])
    assert not separable(OP, CASES, "N", free["N"])
    other: Operator = load_spec(next(SPECS.rglob("cumsum.op"))).operator()
    cases = generate(other, 3, 8, (4,), Limits(elements=1 << 9), specials=False).cases
    assert "N" not in independent(other, cases)
