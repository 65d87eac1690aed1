"""Sums that lie between two multiples of a number are never 0, and no other ones are said to be."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from opwright.verify.terms import NO, Terms


def equation(coefficients: tuple[int, ...], constant: int, bounds: tuple[tuple[int, int], ...]):
    """Whether a sum over one free number, and others within bounds, is said to be never 0."""
    t = Terms()
    p = t.scale(t.fresh("free", None, None), coefficients[0])
    for n, (c, (lo, hi)) in enumerate(zip(coefficients[1:], bounds, strict=True)):
        p = t.add(p, t.scale(t.fresh(f"x{n}", lo, hi), c))
    return t.eq0(t.shift(p, constant)) is NO


@pytest.mark.parametrize(
    ("coefficients", "constant", "bounds", "never"),
    [
        ((64, 4), 32, ((0, 7),), True),
        ((64, 4), 32, ((0, 8),), False),  # 4 * 8 + 32 is 64
        ((64, 4, -4), 32, ((0, 7), (0, 7)), True),
        ((64, 4, -4), 32, ((0, 8), (0, 8)), False),
        ((64, 8, 4), -1, ((0, 3), (0, 1)), True),
        ((64, 4), 0, ((0, 15),), False),
        ((64, 4), 0, ((1, 15),), True),
        ((64, 4), 128, ((1, 15),), True),
        ((-64, 4), 128, ((1, 16),), False),
        ((1, 4), 2, ((0, 3),), False),
    ],
)
def test_what_lies_between_multiples(coefficients, constant, bounds, never: bool) -> None:
    assert equation(coefficients, constant, bounds) is never


def test_a_sum_that_can_be_0_is_never_excluded() -> None:
    draw = Random(3)
    excluded = 0
    for _ in range(400):
        coefficients = tuple(draw.choice((-24, -12, -8, -4, -3, -1, 1, 2, 4, 6, 16)) for _ in "abc")
        bounds = tuple((low := draw.randint(-3, 3), low + draw.randint(0, 4)) for _ in "bc")
        constant = draw.randint(-40, 40)
        if not equation(coefficients, constant, bounds):
            continue
        excluded += 1
        for values in itertools.product(*(range(lo, hi + 1) for lo, hi in bounds)):
            rest = constant + sum(c * v for c, v in zip(coefficients[1:], values, strict=True))
            assert rest % coefficients[0], (coefficients, constant, values)
    assert excluded > 50
