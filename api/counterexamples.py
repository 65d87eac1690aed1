"""Counterexamples in words: where, in which program and lane, at which sizes, and how to see it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opwright.ir.record import Record

LONGEST = 400  # characters of a list of numbers


def told(record: Record) -> list[str]:
    """Lines about a record's counterexample; none where it has none."""
    found = record.counterexample
    if not found:
        return []
    lines = [_place(found), _call(found), *_data(found), _seen(found)]
    return [line for line in lines if line]


def _place(found: Mapping[str, Any]) -> str:
    """The source line, the statement, the program and the lane."""
    parts = [str(found["line"])] if found.get("line") else []
    if found.get("statement"):
        parts.append(f"statement {found['statement']}")
    if found.get("kernel"):
        parts.append(f"kernel {found['kernel']}")
    if found.get("program"):
        ids = ", ".join(f"pid{n} = {v}" for n, v in enumerate(found["program"]))
        parts.append(f"program {ids}")
    if found.get("lane"):
        parts.append("lane " + ", ".join(f"{k} = {v}" for k, v in found["lane"].items()))
    return "at: " + ", ".join(parts) if parts else ""


def _call(found: Mapping[str, Any]) -> str:
    """What to call it with."""
    parts = [f"{k} = {v}" for k, v in (found.get("sizes") or {}).items()]
    parts += [f"{k} = {v}" for k, v in (found.get("params") or {}).items()]
    parts += [f"stride({k}) = {v}" for k, v in (found.get("strides") or {}).items()]
    if found.get("layout") not in (None, "dense"):
        parts.append(f"memory layout {found['layout']}")
    return "call it with: " + ", ".join(parts) if parts else ""


def _data(found: Mapping[str, Any]) -> list[str]:
    """Inputs, where they are few enough to be typed in."""
    lines = []
    for name, values in (found.get("inputs") or {}).items():
        text = json.dumps(values)
        if len(text) <= LONGEST:
            lines.append(f"with {name} = {text}")
    return lines


def _seen(found: Mapping[str, Any]) -> str:
    """What happens then."""
    if found.get("output") and "expected" in found:
        at = ", ".join(map(str, found.get("index", ())))
        said = f"see: {found['output']}[{at}] is {found['found']}, expected {found['expected']}"
        if "allowed" in found:
            said += f" within {found['allowed']:.3g}"
        return f"{said}; {found['wrong']} of {found['of']} elements are wrong"
    if found.get("buffer") and found.get("index") is not None:
        at = f"{found['buffer']}[{', '.join(map(str, found['index']))}]"
        message = str(found.get("message") or at)
        return f"see: {message}" if found["buffer"] in message else f"see: {at}: {message}"
    return f"see: {found['message']}" if found.get("message") else ""
