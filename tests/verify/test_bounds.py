"""Bounds that follow from an operator: readable, finite, above what right kernels do."""

from __future__ import annotations

import numpy as np
import pytest
from support import operators as ops

from opwright.ir.op import show_operator
from opwright.verify.bounds import derive, error_operator, errors


def test_a_sum_is_bounded_by_its_terms() -> None:
    d = derive(ops.row_sum())
    assert set(d.bound) == set(d.scale) == {"y"}
    text = show_operator(d.op)
    assert "local y__0__1: f64[b: B] = sum[k: N](abs(x[b, k]))" in text
    assert "output y__err: f64[b: B] = y__0__err[b]" in text
    assert "max(real(N) - 1.0, 0.0)" in text and "sqrt(max(real(N) - 1.0, 0.0))" in text
    x = np.array([[1.0, -2.0, 3.0, 4.0]])
    found = errors(ops.row_sum(), {"x": x}, {}, {"B": 1, "N": 4})
    assert found.reason == ""
    assert found.bound["y"] == pytest.approx([3 * 10 * 2.0**-24])
    assert found.scale["y"] == pytest.approx([np.sqrt(3) * 10 * 2.0**-24])


def test_storing_rounds_to_the_type() -> None:
    x = np.array([[1.0, -2.0]])
    found = errors(ops.scaled("f16"), {"x": x}, {}, {"B": 1, "N": 2})
    # the doubling is exact, the sum rounds in f32, the result in f16
    wanted = 2.0**-24 * np.array([[3.0, 5.0]]) + 2.0**-11 * np.array([[3.0, 3.0]])
    assert found.bound["y"] == pytest.approx(wanted)


def test_what_is_read_exactly_has_no_error() -> None:
    d = derive(ops.row_argmax())
    assert not d.bound and not d.doubt
    assert [t.name for t in error_operator(ops.row_argmax()).outputs] == ["i"]
