"""`opwright check`: what is wrong with specs, and what of their own obligations is settled."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from opwright.outcome import HOLDS, NO, print_json, several
from opwright.spec_files import print_diagnostics, read_text

if TYPE_CHECKING:
    from opwright.compiler.check import CheckResult


def check(paths: list[Path], as_json: bool) -> int:
    """Check every file; the answer is no if one has an error."""
    from opwright.compiler.check import check_text

    results = [check_text(read_text(path), str(path)) for path in paths]
    if as_json:
        print_results(results)
    else:
        for result in results:
            print_diagnostics(result.diagnostics, sys.stdout)
            print(("\n" if result.diagnostics else "") + summary(result))
    return HOLDS if all(result.ok for result in results) else NO


def print_results(results: list[CheckResult]) -> None:
    """All files in one document."""
    from opwright.grammar.diagnostics import to_json

    print_json(
        {
            "ok": all(result.ok for result in results),
            "files": [result.filename for result in results],
            "diagnostics": [to_json(d) for result in results for d in result.diagnostics],
            "obligations": [
                {
                    "file": result.filename,
                    **record.to_json(),
                    "operator": place.operator,
                    "name": place.name,
                    "kind": place.kind,
                    "line": place.line,
                }
                for result in results
                for record, place in zip(result.obligations, result.places, strict=True)
            ],
        }
    )


def summary(result: CheckResult) -> str:
    """One line a file, and one for every obligation that nothing settled."""
    errors = sum(d.severity == "error" for d in result.diagnostics)
    warnings = len(result.diagnostics) - errors
    counts = Counter(record.status for record in result.obligations)
    parts = []
    if errors or warnings:
        text = several(errors, "error")
        parts.append(text + (f", {several(warnings, 'warning')}" if warnings else ""))
    total = len(result.obligations)
    settled = ", ".join(f"{n} {status.lower()}" for status, n in sorted(counts.items()))
    parts.append(several(total, "obligation") + (f" ({settled})" if settled else ""))
    lines = [f"{result.filename}: {'; '.join(parts)}"]
    for record in result.obligations:
        if record.status == "UNKNOWN":
            lines.append(f"  {record.id}: UNKNOWN: {record.reason}")
    return "\n".join(lines)
