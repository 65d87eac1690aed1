"""Texts that nobody would write: never a traceback, always a diagnostic that helps.

A few hundred here; `make fuzz` runs 10,000 and more.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import fuzz
from support.random_specs import make

RANDOM = st.randoms(use_true_random=False)
FEW = settings(
    derandomize=True,
    max_examples=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)
REFUSED = {
    "a version without quotes, then a text": 'opwright from\nop f @ 1.0 "doc" { dims N }',
}


def test_texts_of_every_kind_get_an_answer() -> None:
    kinds = set()
    for seed in range(10_000, 10_120):
        kind, data = fuzz.inputs(seed)
        kinds.add(kind)
        with fuzz.limited():
            fuzz.examine(data, checked=1500)
    assert kinds == set(fuzz.KINDS)


@FEW
@given(RANDOM)
def test_what_the_grammar_derives_parses_or_is_diagnosed(rng: Random) -> None:
    fuzz.examine(fuzz.derived(rng, budget=8).encode(), checked=0)


@FEW
@given(RANDOM, st.integers(0, 99))
def test_edits_of_valid_texts_are_diagnosed(rng: Random, seed: int) -> None:
    fuzz.examine(fuzz.edited(rng, make(seed).text).encode(), checked=0)


@FEW
@given(st.binary(max_size=200))
def test_bytes_are_diagnosed(data: bytes) -> None:
    fuzz.examine(data)


@pytest.mark.parametrize("name", REFUSED)
def test_found_before(name: str) -> None:
    assert fuzz.examine(REFUSED[name].encode()) == "refused"


def test_bent_plans_are_refused_by_name() -> None:
    found = {fuzz.examine_plan(seed) for seed in range(60)}
    assert found == {"refused", "valid"}


def test_bent_documents_are_refused_by_place() -> None:
    found = {fuzz.examine_document(seed) for seed in range(60)}
    assert found == {"refused", "valid"}


def test_strange_arguments_end_with_a_message(tmp_path: Path) -> None:
    words = fuzz.strange_files(tmp_path)
    for seed in range(40):
        with fuzz.limited():
            fuzz.examine_command(seed, tmp_path, words)


def test_a_defect_is_noticed() -> None:
    """What the fuzzer asks of a diagnostic can fail."""
    from dataclasses import replace

    from opwright.grammar.parser import analyse

    text = 'opwright "0.1"\nop f @ 1.0 { dims N, }'
    _, (first, *_) = analyse(text, "f.op")
    fuzz.diagnosed([first], text)
    for broken in (replace(first, cure=""), replace(first, code="E9999")):
        with pytest.raises(fuzz.Bad):
            fuzz.diagnosed([broken], text)
