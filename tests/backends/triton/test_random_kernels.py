"""Random kernels mean the same to Triton's interpreter and to ours; `support.random_triton` tries
more of them."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from support.random_triton import differences

SEEDS = [5, 7, 9, 11, 13, 14, 16, 21, 24, 29, 33, 41, 42, 47, 50, 53, 57, 61, 66, 70]


def test_both_interpreters_agree():
    found = differences(SEEDS)
    assert {s: said for s, said in found.items() if said} == {}
