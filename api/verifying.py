"""`opwright verify`: the gates on any candidate, also a hand-written one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from opwright.compiling import gates, verdict_lines
from opwright.counterexamples import told
from opwright.keeping import keep_replays, keeping
from opwright.outcome import HOLDS, NO, Problem, print_json
from opwright.spec_files import open_spec, pick_operator, print_diagnostics

if TYPE_CHECKING:
    from opwright.ir.op import Operator
    from opwright.ir.record import Verdict


def verify(
    path: Path,
    candidate: Path,
    name: str | None,
    types: dict[str, str],
    require: str,
    seed: int,
    as_json: bool,
    keep: bool = True,
    proofs: Path | None = None,
    sarif: Path | None = None,
    cached: bool = True,
) -> int:
    """Print every record; yes when the candidate may ship. `proofs`: a file or folder that the
    record of the proofs goes to; `sarif`: a file for review tools; `cached`: proofs of before, of
    the same texts, count."""
    from opwright.backends.cpp.build import host_isa
    from opwright.compiler.trusted import assumptions
    from opwright.compiler.trusted import text as base_lines
    from opwright.compiler.verification import verify_operator
    from opwright.grammar.diagnostics import DiagnosticError

    try:
        op = operator_for(path, candidate, name, types)
    except DiagnosticError as error:
        if as_json:
            from opwright.grammar.diagnostics import to_json

            print_json({"diagnostics": [to_json(d) for d in error.diagnostics]})
        print_diagnostics(error.diagnostics)
        return NO
    trusted: dict[str, str]
    with keeping(path, keep) as kept:
        verdict = verify_operator(op, candidate, host_isa(), require, seed, proofs, cached)
        keep_replays(path, op, verdict, keep, kept)
    trusted = verdict.extra.get("trusted", {})
    if sarif is not None:
        from opwright.sarif import of_verdict, write

        write(of_verdict(verdict.records, text_of(candidate, verdict), trusted), sarif)
    ships = may_ship(verdict, require)
    if as_json:
        records = [record.to_json() for record in verdict.records]
        print_json(
            {
                "verdict": verdict.status,
                "ships": ships,
                **({"proofs": verdict.extra["proofs"]} if "proofs" in verdict.extra else {}),
                "gates": gates(verdict),
                "records": records,
                "trusted": trusted,
                "assumptions": assumptions(verdict.records),
            }
        )
    else:
        for record in verdict.records:
            reason = f": {record.reason}" if record.reason else ""
            reason += " [cached]" * record.cached
            print(f"{record.id:<28} {record.status:<8}{reason}")
            for line in told(record):
                print(f"{'':<10}{line}")
        print()
        print("\n".join(verdict_lines(verdict)))
        for line in sorted({a for r in verdict.records for a in r.assumptions if how_run(a)}):
            print(f"{'':<4}executed: {line}")
        if "order" in verdict.extra:
            print(f"{'':<4}gate order: {verdict.extra['order']}")
        print("\n".join(base_lines(trusted, assumptions(verdict.records))))
        for line in kept:
            print(line)
        if "proofs" in verdict.extra:
            print(f"proofs in {verdict.extra['proofs']}")
        print(f"verdict  {verdict.status}; it {'may' if ships else 'may not'} ship ({require})")
    return HOLDS if ships else NO


def text_of(candidate: Path, verdict: Verdict) -> Path:
    """The file with the candidate's text."""
    folder = candidate.parent if candidate.name == "candidate.json" else candidate
    name = verdict.extra.get("source")
    return folder / str(name) if folder.is_dir() and name else candidate


def operator_for(
    path: Path, candidate: Path, name: str | None, types: Mapping[str, str]
) -> Operator:
    """The operator that a candidate is for, at the types that it was made for."""
    from opwright.compiler.stored import stored_form

    spec = open_spec(path)
    operator = pick_operator(spec, name or claimed(candidate, spec.names))
    own = claimed_types(candidate)
    known_types(own, spec.bindings(operator))
    return stored_form(spec.operator(operator, {**own, **types}))


def how_run(assumption: str) -> bool:
    """Whether an assumption says what a candidate was run in."""
    return assumption.startswith(("run in a sandbox", "run WITHOUT"))


def may_ship(verdict: Verdict, require: str) -> bool:
    """The shipping rule: policy kept, nothing refuted, safety as required, numbers tested."""
    from opwright.ir.record import ORDER

    at_least = ORDER.index("PROVED" if require == "proved" else "TESTED")
    safe = all(ORDER.index(verdict.gate(kind)) >= at_least for kind in ("G2", "G3"))
    numbers = ORDER.index(verdict.gate("G6")) >= ORDER.index("TESTED")
    policy = verdict.gate("G0") == "PROVED"
    refuted = any(record.status == "REFUTED" for record in verdict.records)
    return policy and safe and numbers and not refuted


def claimed(candidate: Path, names: list[str]) -> str | None:
    """The operator that a candidate says it is for, where that helps to choose among several."""
    if len(names) == 1:
        return None
    if candidate.is_dir():
        found = plan_of(candidate).get("op", "")
        return str(found).partition("@")[0] or None
    match = re.search(r"^program (\w+)", read_candidate(candidate), re.M)
    return match[1] if match else None


def claimed_types(candidate: Path) -> dict[str, str]:
    """The types that a plan was made for."""
    if not candidate.is_dir():
        return {}
    found = plan_of(candidate).get("types", {})
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def known_types(claimed: Mapping[str, str], bindings: Sequence[Mapping[str, str]]) -> None:
    """`Problem` for types of a plan that the spec does not have."""
    if any(all(b.get(k) == v for k, v in claimed.items()) for b in bindings):
        return
    text = ", ".join(f"{k} = {v}" for k, v in claimed.items())
    known = "; ".join(", ".join(f"{k} = {v}" for k, v in b.items()) for b in bindings if b)
    raise Problem(
        f"candidate.json: types: the spec has no binding {text}",
        f"bindings of the spec: {known}" if known else "leave types out: the spec has no variables",
    )


def plan_of(folder: Path) -> dict[str, object]:
    """candidate.json as it is; what is wrong with it is for the gates to say."""
    try:
        found = json.loads((folder / "candidate.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_candidate(path: Path) -> str:
    """The text of a TileIR file; `Problem` for a path without one."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(
            f"{path}: no such candidate: {error}",
            "give a folder with candidate.json or a .tile file",
        ) from None
