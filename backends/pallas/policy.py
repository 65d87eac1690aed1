"""What a Pallas candidate may contain: what array code may, and kernels over blocks."""

from __future__ import annotations

from opwright.backends.jax import policy


def check_policy(source: str, file: str) -> None:
    """ImportRefusal with the line of what is not allowed; nothing is executed."""
    policy.check_policy(source, file, policy.PALLAS)
