"""The operator library of this tree."""

from __future__ import annotations

from pathlib import Path

SPECS = Path(__file__).resolve().parents[2] / "specs"
NAMES = sorted(p.stem for p in SPECS.rglob("*.op"))
