"""The candidates that no other one beats in every respect. No weights."""

from __future__ import annotations

from collections.abc import Mapping


def dominates(a: Mapping[str, float], b: Mapping[str, float]) -> bool:
    """Whether `a` costs no more than `b` in every respect that `b` has, and less in one."""
    if not b or any(k not in a for k in b):
        return False
    return all(a[k] <= b[k] for k in b) and any(a[k] < b[k] for k in b)


def front(points: Mapping[int, Mapping[str, float]]) -> list[int]:
    """The numbers of the points that none dominates, in order."""
    return [
        n
        for n in sorted(points)
        if not any(dominates(points[m], points[n]) for m in points if m != n)
    ]
