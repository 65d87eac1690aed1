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


# what a table of obligations counts together, by the kinds of their places
ROWS = {
    "where": ("where",),
    "reads in range": ("range",),
    "reductions not empty": ("empty",),
    "divisors": ("divisor", "real"),
    "domains of functions": ("domain",),
    "extents": ("extent",),
    "calls": ("call",),
    "ensures": ("ensures",),
    "law": ("law",),
    "gradient": ("gradient",),
}
COLUMNS = ("PROVED", "TESTED", "UNKNOWN", "REFUTED")


def check(
    paths: list[Path], as_json: bool, counted: bool = False, sarif: Path | None = None
) -> int:
    """Check every file; the answer is no if one has an error. `sarif`: a file for review tools."""
    from opwright.compiler.check import check_text

    if counted:
        paths = [inside for path in paths for inside in spec_files(path)]
    results = [check_text(read_text(path), str(path)) for path in paths]
    if sarif is not None:
        from opwright.sarif import of_checks, write

        write(of_checks(results), sarif)
    if counted:
        print_table(results, as_json)
    elif as_json:
        print_results(results)
    else:
        for result in results:
            print_diagnostics(result.diagnostics, sys.stdout)
            print(("\n" if result.diagnostics else "") + summary(result))
    return HOLDS if all(result.ok for result in results) else NO


def spec_files(path: Path) -> list[Path]:
    """A spec file, or those below a folder in the order of their names."""
    return sorted(path.rglob("*.op")) if path.is_dir() else [path]


def table(results: list[CheckResult]) -> dict[str, Counter[str]]:
    """Obligations by what they are about and by status."""
    rows: dict[str, Counter[str]] = {name: Counter() for name in ROWS}
    names = {kind: name for name, kinds in ROWS.items() for kind in kinds}
    for result in results:
        for record, place in zip(result.obligations, result.places, strict=True):
            rows[names[place.kind]][record.status] += 1
    return {name: counts for name, counts in rows.items() if counts}


def print_table(results: list[CheckResult], as_json: bool) -> None:
    """How many obligations of all files are settled, and each that is not proved."""
    rows = table(results)
    open_ones = [
        (result.filename, place, record)
        for result in results
        for record, place in zip(result.obligations, result.places, strict=True)
        if record.status != "PROVED" and place.kind != "gradient"
    ]
    wrong = [result.filename for result in results if not result.ok]
    if as_json:
        print_json(
            {
                "files": len(results),
                "wrong": wrong,
                "kinds": {
                    name: {status: counts[status] for status in COLUMNS}
                    for name, counts in rows.items()
                },
                "open": [
                    {
                        "file": file,
                        "line": place.line,
                        "name": place.name,
                        "kind": place.kind,
                        "status": record.status,
                        "reason": record.reason,
                    }
                    for file, place, record in open_ones
                ],
            }
        )
        return
    head = "".join(f"{status.lower():>9}" for status in COLUMNS)
    print(f"{'obligations of ' + several(len(results), 'file'):<24}{head}{'proved':>9}")
    for name, counts in rows.items():
        total = sum(counts.values())
        cells = "".join(f"{counts[status]:>9}" for status in COLUMNS)
        print(f"{name:<24}{cells}{100 * counts['PROVED'] / total:>8.1f}%")
    for file, place, record in open_ones:
        print(f"{file}:{place.line}: {place.kind} {place.name}: {record.status}: {record.reason}")
    for file in wrong:
        print(f"{file}: has errors")


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
