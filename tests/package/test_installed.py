"""Emitted packages, installed without Opwright: what inside.py checks with numpy and with torch."""

from __future__ import annotations

import pytest
from package import inside


@pytest.mark.parametrize("name", inside.CHECKS["numpy"])
def test_numpy(numpy_report: dict[str, str | None], name: str) -> None:
    assert numpy_report[name] is None, numpy_report[name]


@pytest.mark.parametrize("name", inside.CHECKS["torch"])
def test_torch(torch_report: dict[str, str | None], name: str) -> None:
    assert torch_report[name] is None, torch_report[name]
