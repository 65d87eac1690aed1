"""The operator library of this tree."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

SPECS = Path(__file__).resolve().parents[2] / "specs"
NAMES = sorted(p.stem for p in SPECS.rglob("*.op"))
T = TypeVar("T")


def some(items: Sequence[T], every: int) -> list[T]:
    """Every so-manieth item, so that a run stays short; all with OPWRIGHT_TEST_ALL=1."""
    return list(items if os.environ.get("OPWRIGHT_TEST_ALL") else items[::every])
