"""What tests have to know of the sandbox of this machine."""

from __future__ import annotations

import pytest

from opwright.backends import isolation


def works(kind: str = "") -> bool:
    """Whether a kind of sandbox, or any, works here."""
    kinds = (kind,) if kind else isolation.KINDS
    return any(isinstance(isolation.usable(one), isolation.Sandbox) for one in kinds)


def flags() -> tuple[str, ...]:
    """What a command line needs here, so that it runs candidates."""
    return () if works() else (isolation.FLAG,)


def need(kind: str = "") -> None:
    """Skip a test of the sandbox on a machine without it."""
    if not works(kind):
        pytest.skip(f"no sandbox{' of kind ' + kind if kind else ''} works on this machine")
