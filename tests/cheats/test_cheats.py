"""Candidates that cheat are refused, each by the obligation that its note names; honest ones pass.

Those that a gate on texts refuses cost nothing and are all tried; of those that have to be read,
proved or run, every few, and all with OPWRIGHT_TEST_ALL.
"""

from __future__ import annotations

import importlib.util
import os

import pytest

from opwright.benchmarks.cheats import Cheat, corpus, judge

EVERY = list(corpus())
STEP = {"cpp": 3, "triton": 6, "jax": 6, "cuda": 5}  # of those that take time
NEEDED = {"cpp": "clang", "triton": "triton", "jax": "jax", "cuda": "clang"}


def chosen() -> list[Cheat]:
    if os.environ.get("OPWRIGHT_TEST_ALL"):
        return EVERY
    slow = [c for c in EVERY if not c.gate.startswith("G0.policy")]
    kept = [c for b, n in STEP.items() for c in [x for x in slow if x.backend == b][::n]]
    return [c for c in EVERY if c not in slow or c in kept]


@pytest.mark.parametrize("cheat", chosen(), ids=lambda c: f"{c.backend}-{c.name}")
def test_it_is_refused_for_what_it_does(cheat: Cheat) -> None:
    if importlib.util.find_spec(NEEDED[cheat.backend]) is None:
        pytest.skip(f"{NEEDED[cheat.backend]} is not installed")
    found = judge(cheat)
    assert found.as_expected, f"ships: {found.ships}; {found.refused_by}"


def test_the_corpus_has_every_class() -> None:
    classes = {part for c in EVERY for part in c.group.split(", ")}
    wanted = {f"S{n}" for n in (*range(1, 11), *range(12, 20))} | {f"T{n}" for n in range(1, 6)}
    assert classes >= wanted | {"T7", "T8"} | {f"H{n}" for n in range(1, 6)}
    assert {c.backend for c in EVERY} >= {"cpp", "triton", "jax", "cuda"}
    device = {part for c in EVERY if c.backend == "cuda" for part in c.group.split(", ")}
    assert device >= {f"S{n}" for n in (*range(1, 11), *range(12, 20))} | {"T8", "H2", "H3"}
    assert all(c.gate or c.honest for c in EVERY)
