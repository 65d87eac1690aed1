"""The knowledge base: moves that may make a kernel faster, one plain file each, with preconditions.

A file says what the move is, why it helps, for which forms, backends and bottlenecks (none named:
all), what a parent's text has to hold (`needs`) and may not hold (`unless`), the range of gains to
expect before anything was measured, and a snippet for a backend. Forms and bottlenecks are words of
`compiler/forms.py`; no operator is named here.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

FORMS = ("map", "rows", "columns", "inner", "fold", "folds", "contraction", "window", "scan",
         "recurrence", "scatter", "gather", "walk")  # fmt: skip
BACKENDS = ("cpp", "triton", "cuda", "jax")
BOTTLENECKS = ("memory", "latency", "compute", "instructions", "threads", "traffic", "overhead",
               "unknown")  # fmt: skip
_FIELDS = {"title", "why", "forms", "backends", "bottlenecks", "needs", "unless", "gain", "snippet"}


class MoveError(ValueError):
    """A file of the knowledge base is wrong; the message says which and where."""


@dataclass(frozen=True, slots=True)
class Move:
    """One move; `gain` is the range of speed-ups over the parent that its author expects. `needs`
    and `unless` are regular expressions on the parent's launch plan and code."""

    name: str
    title: str
    why: str
    forms: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    bottlenecks: tuple[str, ...] = ()
    gain: tuple[float, float] = (1.0, 1.5)
    snippet: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()

    def fits(self, forms: Sequence[str], backend: str, bottleneck: str, text: str = "") -> bool:
        """Whether its preconditions hold; an unknown bottleneck or text excludes nothing."""
        if text and not all(re.search(x, text) for x in self.needs):
            return False
        if text and any(re.search(x, text) for x in self.unless):
            return False
        return (
            (not self.forms or bool(set(self.forms) & set(forms)))
            and (not self.backends or backend in self.backends)
            and (not self.bottlenecks or bottleneck == "unknown" or bottleneck in self.bottlenecks)
        )


@cache
def moves(folder: Path | None = None) -> tuple[Move, ...]:
    """The moves of a folder, by name; those that are shipped where none is named. MoveError."""
    if folder is not None:
        files = {p.name: p.read_text() for p in sorted(folder.glob("*.toml"))}
    else:
        inside = resources.files("opwright.search.moves").iterdir()
        files = {p.name: p.read_text() for p in inside if p.name.endswith(".toml")}
    return tuple(_move(name.removesuffix(".toml"), files[name]) for name in sorted(files))


def _move(name: str, text: str) -> Move:
    try:
        data: dict[str, Any] = tomllib.loads(text)
        unknown = sorted(set(data) - _FIELDS)
        if unknown:
            raise ValueError(f"unknown field {unknown[0]!r}")
        for key, known in (("forms", FORMS), ("backends", BACKENDS), ("bottlenecks", BOTTLENECKS)):
            other = [w for w in data.get(key, []) if w not in known]
            if other:
                raise ValueError(f"{key}: {other[0]!r} is none of {', '.join(known)}")
        for key in ("needs", "unless"):
            for expression in data.get(key, []):
                re.compile(expression)
        low, high = data.get("gain", (1.0, 1.5))
        if not 0 < low <= high:
            raise ValueError("gain is [least, most], above 0")
        return Move(
            name,
            str(data["title"]),
            " ".join(str(data["why"]).split()),
            tuple(data.get("forms", ())),
            tuple(data.get("backends", ())),
            tuple(data.get("bottlenecks", ())),
            (float(low), float(high)),
            {k: str(v).strip("\n") for k, v in data.get("snippet", {}).items()},
            tuple(data.get("needs", ())),
            tuple(data.get("unless", ())),
        )
    except (ValueError, KeyError, TypeError, re.error) as e:
        raise MoveError(f"{name}.toml: {e}") from None


def fitting(
    forms: Sequence[str],
    backend: str,
    bottleneck: str,
    known: Sequence[Move] | None = None,
    text: str = "",
) -> list[Move]:
    """The moves whose preconditions hold, also of a parent's launch plan and code."""
    return [m for m in known or moves() if m.fits(forms, backend, bottleneck, text)]
