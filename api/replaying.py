"""`opwright verify --replay`: whether a proof file convinces, of this candidate, now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opwright.outcome import HOLDS, NO, Problem, print_json


def replay(
    path: Path,
    candidate: Path,
    name: str | None,
    types: dict[str, str],
    file: Path,
    solver_name: str,
    as_json: bool,
) -> int:
    """Check every obligation of a proof file again; yes where nothing is wrong with it."""
    from opwright.backends.cpp.build import host_isa
    from opwright.compiler.reproving import ProofError, check, read
    from opwright.compiler.verification import open_candidate
    from opwright.grammar.diagnostics import DiagnosticError
    from opwright.spec_files import print_diagnostics
    from opwright.verify.recheck import NoSolver, solver
    from opwright.verifying import operator_for

    try:
        op = operator_for(path, candidate, name, types)
        data = read(file)
        report = check(data, open_candidate(candidate, op, host_isa()), op, solver(solver_name))
    except DiagnosticError as error:
        print_diagnostics(error.diagnostics)
        return NO
    except (ProofError, NoSolver) as error:
        raise Problem(str(error), "make a record with `opwright verify --proofs FILE`") from None
    if as_json:
        print_json(_data(report))
    else:
        print("\n".join(lines(report)))
    return HOLDS if report.convinces else NO


def lines(report: Any) -> list[str]:
    """A report as text: an obligation a line, what is wrong at the end."""
    out = []
    for o in report.obligations:
        how = f"WRONG: {o.wrong}" if o.wrong else o.how
        out.append(f"{o.id:<28} {o.status:<8} {how}")
    out += [f"note: {text}" for text in report.notes]
    out.append(f"{report.asked} questions were put to {report.solver} again")
    out += [f"wrong: {text}" for text in dict.fromkeys(report.wrong)]
    held = sum(o.status == "PROVED" and not o.wrong for o in report.obligations)
    verdict = "the proof file convinces" if report.convinces else "the proof file does NOT convince"
    out.append(f"{verdict}: {held} of {len(report.obligations)} obligations are PROVED again")
    return out


def _data(report: Any) -> dict[str, Any]:
    return {
        "convinces": report.convinces,
        "solver": report.solver,
        "questions": report.asked,
        "obligations": [
            {"id": o.id, "kind": o.kind, "status": o.status, "how": o.how, "wrong": o.wrong}
            for o in report.obligations
        ],
        "wrong": list(dict.fromkeys(report.wrong)),
        "notes": report.notes,
    }
