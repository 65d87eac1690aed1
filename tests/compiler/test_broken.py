"""Specs with one mistake each: every one is refused, once, on its line, with a cure.

The cases are in data/broken.txt: a name after `===`, then a file whose wrong line says `#! CODE`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from opwright.compiler.check import check_text

TEXT = (Path(__file__).parent / "data" / "broken.txt").read_text(encoding="utf-8")
CASES = {name: text for name, _, text in (part.partition("\n") for part in TEXT.split("=== ")[1:])}


def marked(text: str) -> tuple[int, str]:
    """The line of the mistake and the code it has."""
    found = [(n, m[1]) for n, line in enumerate(text.splitlines(), 1)
             if (m := re.search(r"#! (E\d+)", line))]  # fmt: skip
    (one,) = found
    return one


@pytest.mark.parametrize("name", CASES)
def test_one_mistake_is_one_error_on_its_line(name: str) -> None:
    (found,) = check_text(CASES[name], f"{name}.op").diagnostics
    assert (found.span.line, found.code) == marked(CASES[name]), found.message
    assert found.severity == "error" and found.message and found.cure


def test_enough_is_tried() -> None:
    assert len(CASES) > 100
    assert len({marked(t)[1] for t in CASES.values()}) > 50
