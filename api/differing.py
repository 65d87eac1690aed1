"""`opwright diff`: what a change of a spec means for its users, and the version that follows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from opwright.outcome import HOLDS, NO, print_json
from opwright.spec_files import open_spec, print_diagnostics

if TYPE_CHECKING:
    from opwright.compiler.diff import Change, Difference, Version


def diff_command(old: Path, new: Path, as_json: bool) -> int:
    """Compare two files; the answer is no where a version is lower than the changes ask for."""
    from opwright.compiler.diff import diff
    from opwright.grammar.diagnostics import DiagnosticError

    try:
        found = diff(open_spec(old), open_spec(new))
    except DiagnosticError as error:
        print_diagnostics(error.diagnostics)
        return NO
    if as_json:
        ok = all(d.ok for d in found)
        print_json({"ok": ok, "operators": [_as_json(d) for d in found]})
    else:
        print("\n\n".join(_text(d) for d in found))
    return HOLDS if all(d.ok for d in found) else NO


def _as_json(d: Difference) -> dict[str, Any]:
    return {
        "name": d.name,
        "old": _version(d.old),
        "new": _version(d.new),
        "effect": d.effect,
        "required": _version(d.required),
        "ok": d.ok,
        "changes": [
            {
                "part": c.part,
                "effect": c.effect,
                "text": c.text,
                "evidence": c.evidence,
                "reason": c.reason,
                "example": c.example,
                "types": list(c.types),
            }
            for c in d.changes
        ],
    }


def _version(v: Version | None) -> str | None:
    return None if v is None else f"{v[0]}.{v[1]}"


def _text(d: Difference) -> str:
    head = f"{d.name} {_version(d.old) or '(absent)'} -> {_version(d.new) or '(absent)'}"
    lines = [head, *(_line(c) for c in d.changes)]
    if not d.changes:
        lines.append("  nothing but names, comments and layout")
    if d.required is not None:
        verdict = "is enough" if d.ok else f"must be at least {_version(d.required)}"
        lines.append(f"  version {_version(d.new)} {verdict}")
    elif d.new is None:
        lines.append("  whoever calls it needs another operator; keep it, or say so")
    return "\n".join(lines)


def _line(c: Change) -> str:
    where = f" ({'; '.join(c.types)})" if c.types else ""
    why = f": {c.reason}" if c.reason and c.evidence != "proof" else ""
    return f"  {c.effect:<8} {c.part:<10} {c.evidence:<8} {c.text}{where}{why}"
