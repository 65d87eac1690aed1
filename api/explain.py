"""What an identifier means: a diagnostic code, a gate, a status, or a candidate of an archive."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any

from opwright.compiler.paths import cache_folder
from opwright.outcome import HOLDS, Problem, print_json

if TYPE_CHECKING:
    from opwright.ir.record import Record

GATES: Mapping[str, tuple[str, str]] = {
    "G0": ("policy", "the source uses only what is allowed, and no less precision than the spec"),
    "G1": ("import", "the source becomes TileIR; an unknown operation is UNKNOWN, never skipped"),
    "G2": (
        "safety",
        "for all shapes that the spec allows: every access is in bounds, no address, mask or loop "
        "counter wraps, nothing divides by zero",
    ),
    "G3": (
        "determined",
        "for all shapes: every output element is written, all its writes agree, nothing races",
    ),
    "G4": ("finite field", "equal over the reals at adversarial small shapes"),
    "G5": ("function", "equal to the spec over the reals for all shapes"),
    "G6": (
        "numeric",
        "the error against the float64 reference stays within the tolerance and within the bound "
        "that follows from the operator (`opwright show --stage bounds`), on edge shapes, "
        "special values and the workloads, with poisoned outputs and canaries around them",
    ),
    "G7": ("laws", "`ensures`, `law` and derived relations between calls hold"),
    "G8": ("sanitizers", "no fault under the address and undefined-behaviour sanitizers"),
    "G9": ("mutation score", "the gates themselves refuse seeded defects"),
}
STATUSES: Mapping[str, str] = {
    "PROVED": "the solver answered unsat for the negation, for all shapes; nothing else proves",
    "TESTED": "it held in every test that ran; the record says how many and on what",
    "ASSUMED": "it rests on an opaque library call, named with its version",
    "UNKNOWN": "neither shown nor refuted; the record says why. A missing obligation is UNKNOWN",
    "REFUTED": "a counterexample was found and replayed",
}
GATE = re.compile(r"G\d(\.[\w.\-\[\]]+)?")
CODE = re.compile(r"[EWNewn]\d{4}")


def explain_command(name: str, as_json: bool) -> int:
    """Print what a name means."""
    facts = explain(name)
    if as_json:
        print_json({"id": name, **facts})
        return HOLDS
    print(facts["title"])
    print(f"  {facts['text']}")
    if facts.get("cure"):
        print(f"  cure: {facts['cure']}")
    for kind, text in facts.get("example", {}).items():
        print(f"\n  {kind}:")
        print("\n".join(f"    {line}" for line in text.rstrip().splitlines()))
    if "order" in facts:
        print(f"  order of gates: {facts['order']}")
    if "schedule" in facts:
        print(f"  schedule: {facts['schedule']}")
    for workload, values in facts.get("metrics", {}).items():
        print(f"  {workload}: " + ", ".join(f"{k} {v:.6g}" for k, v in values.items()))
    for record in facts.get("records", []):
        reason = f": {record['reason']}" if record.get("reason") else ""
        print(f"  {record.get('id')}: {record.get('status')}{reason}")
    for entry, said in facts.get("trusted", {}).items():
        print(f"  trusted: {entry}: {said}")
    return HOLDS


def explain(name: str) -> dict[str, Any]:
    """Facts about an identifier, as `title` and `text` with optional `example` and `records`.

    Raises `Problem` for a name that stands for nothing.
    """
    if CODE.fullmatch(name):
        return explain_code(name.upper())
    if GATE.fullmatch(name):
        return explain_gate(name)
    if name.upper() in STATUSES:
        return {"title": name.upper(), "text": STATUSES[name.upper()]}
    found = candidates(name)
    if found:
        return found
    raise Problem(
        f"{name!r} is no diagnostic code, gate, status or candidate in {cache_folder()}",
        "try a code such as E0101, a gate such as G2, PROVED, or a candidate as RUN.NUMBER "
        "from the table of `opwright search show`",
    )


def explain_code(code: str) -> dict[str, Any]:
    """The row of a diagnostic code."""
    from opwright.grammar.diagnostics import codes, template

    load_tables()
    try:
        row = template(code)
    except KeyError:
        near = [other for other in codes() if other[:3] == code[:3]]
        cure = f"known codes of this family: {', '.join(near)}" if near else "see docs/language.md"
        raise Problem(f"{code} is not a code of this version", cure) from None
    out: dict[str, Any] = {
        "title": f"{code} ({row.severity})",
        "text": readable(row.message),
        "cure": readable(row.cure),
    }
    from opwright.code_examples import EXAMPLES

    example = EXAMPLES.get(code)
    if example is not None:
        out["example"] = {"wrong": example.wrong, "right": example.right}
    return out


def readable(text: str) -> str:
    """A template as prose: a field becomes its name in angle brackets."""
    parts = []
    for literal, field, _, _ in Formatter().parse(text):
        parts.append(literal + (f"<{field}>" if field else ""))
    return "".join(parts)


def load_tables() -> None:
    """Import every module that registers diagnostics."""
    import opwright.compiler.codes
    import opwright.grammar.syntax_errors  # noqa: F401


def explain_gate(name: str) -> dict[str, Any]:
    """What a gate establishes; for an obligation such as G2.bounds.ld_x, of which gate it is."""
    gate, _, rest = name.partition(".")
    if gate not in GATES:
        raise Problem(f"there is no gate {gate}", f"gates are {', '.join(GATES)}")
    title, text = GATES[gate]
    out: dict[str, Any] = {"title": f"{gate}: {title}", "text": text}
    if gate in ("G2", "G3", "G4", "G5"):
        from opwright.search.gate_order import learned

        out["order"] = learned(cache_folder() / "archive").text()
    if rest:
        out["title"] = f"{name}: an obligation of {gate} ({title})"
        kind, _, place = rest.partition(".")
        out["cure"] = (
            f"`{kind}`" + (f" at `{place}` of the kernel" if place else "") + "; run "
            "`opwright verify SPEC CANDIDATE` for its status, and `opwright show --stage tile` "
            "for the kernel with the names that obligations use"
        )
    return out


def candidates(name: str) -> dict[str, Any] | None:
    """A candidate as RUN.NUMBER, or by the start of its program's digest, of any archive."""
    from opwright.search.archive import Archive

    numbered = re.fullmatch(r"(\d+)\.(\d+)", name)
    digest = re.fullmatch(r"(sha256:)?([0-9a-f]{6,64})", name)
    if not numbered and not digest:
        return None
    for path in archives():
        with Archive(path) as archive:
            for run in archive.runs():
                if numbered and run["id"] != int(numbered[1]):
                    continue
                for one in archive.candidates(run["id"]):
                    program = one.program.removeprefix("sha256:")
                    if (numbered and one.number == int(numbered[2])) or (
                        digest and program.startswith(digest[2])
                    ):
                        from opwright.compiler.trusted import trusted_base

                        return {
                            "title": f"candidate {run['id']}.{one.number} of {path.name}: "
                            f"{one.status}",
                            "text": one.reason or "no reason was recorded",
                            "schedule": one.schedule,
                            "metrics": one.metrics,
                            "records": [r.to_json() for r in one.records],
                            "trusted": trusted_base(one.records, _readers(one.records)),
                        }
    return None


def _readers(records: Sequence[Record]) -> list[str]:
    """Backends whose importers read what records are about, by the names of the texts."""
    kinds = {".cpp": "cpp", ".cu": "cuda", ".py": "triton", ".ttir": "triton"}
    named = {Path(r.subject.partition(" sha256:")[0]).suffix for r in records if r.kind == "G1"}
    return sorted({kinds[n] for n in named if n in kinds})


def archives() -> list[Path]:
    """Every archive in the cache folder, newest first."""
    found = list(cache_folder().rglob("*.sqlite"))
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
