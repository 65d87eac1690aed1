"""What tests have to know of the sandbox of this machine."""

from __future__ import annotations

import pytest

from opwright.backends import isolation


def works(kind: str = "") -> bool:
    """Whether a kind of sandbox works here, or is the one in use."""
    if kind:
        return isinstance(isolation.usable(kind), isolation.Sandbox)
    try:
        return isolation.sandbox().kind != "none"
    except isolation.Refused:
        return False


def flags() -> tuple[str, ...]:
    """What a command line needs here, so that it runs candidates."""
    return () if works() else (isolation.FLAG,)


def need(kind: str = "") -> None:
    """Skip a test of the sandbox on a machine without it."""
    if not works(kind):
        pytest.skip(f"no sandbox{' of kind ' + kind if kind else ''} works on this machine")
