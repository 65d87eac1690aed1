"""Certificates: what was proved for all shapes, tested, assumed or left open, about which text.

A certificate says of each gate what its records establish and of what. Statements about TileIR are
not statements about the source printed from it: as long as the printer is trusted instead of its
text being read back, they count as assumed for the package.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opwright.ir.record import ORDER, Record, Verdict, weakest

FORMAT = 1
TRUSTED_PRINTER = "printer trusted"
SAFETY = ("G2", "G3")
GATES = {
    "G0": "policy",
    "G1": "structure and identity of the text",
    "G2": "memory safety",
    "G3": "every output element written, once, without races",
    "G4": "equality in a finite field",
    "G5": "equality to the spec over the reals",
    "G6": "numbers against the float64 reference",
    "G7": "laws",
    "G8": "sanitizers",
    "G9": "mutation score",
}
SPOKEN = {
    "PROVED": "proved for all shapes that the spec allows",
    "TESTED": "tested, not proved",
    "ASSUMED": "assumed",
    "UNKNOWN": "not established",
    "REFUTED": "refuted",
}


@dataclass(frozen=True, slots=True)
class Certified:
    """One variant of a package: its verdict, the element types bound in it, its guards."""

    name: str
    verdict: Verdict
    types: Mapping[str, str] = field(default_factory=dict)
    guards: Sequence[str] = ()
    proofs: Mapping[str, str] = field(default_factory=dict)  # file and sha256 of their record


def of_package(records: Iterable[Record]) -> tuple[str, str]:
    """Status of a gate for what ships, and why: PROVED of TileIR is ASSUMED of the printed text."""
    known = list(records)
    status = weakest(r.status for r in known)
    through = any(TRUSTED_PRINTER in r.subject for r in known if r.status == "PROVED")
    if status == "PROVED" and through:
        return "ASSUMED", "proved of the TileIR; that the printed text means the same is assumed"
    return status, SPOKEN[status]


def certificate(
    operator: str,
    spec: str,
    variants: Sequence[Certified],
    trusted: Mapping[str, str],
    assumed: Sequence[str] = (),
) -> dict[str, Any]:
    """The certificate as data. `operator` is name@version, `spec` the hash of its canonical text,
    `assumed` what holds of the inputs without being checked at run time."""
    return {
        "format": FORMAT,
        "operator": operator,
        "spec": spec,
        "variants": [_variant(v) for v in variants],
        "assumed": list(assumed),
        "trusted": dict(trusted),
    }


def _variant(v: Certified) -> dict[str, Any]:
    records = v.verdict.records
    kinds = sorted({r.kind for r in records} | set(v.verdict.required))
    gates = {}
    for k in kinds:
        own = [r for r in records if r.kind == k]
        package, why = of_package(own)
        gates[k] = {
            "name": GATES.get(k, k),
            "status": weakest(r.status for r in own),
            "package": package,
            "why": why if own else "nothing was recorded",
            "counts": {s: n for s, n in sorted(Counter(r.status for r in own).items())},
        }
    return {
        "name": v.name,
        "types": dict(v.types),
        "guards": list(v.guards),
        **({"proofs": dict(v.proofs)} if v.proofs else {}),
        "subjects": sorted({r.subject for r in records if r.subject}),
        "verdict": {k: gates[k]["status"] for k in kinds},
        "gates": gates,
        "assumptions": sorted({a for r in records for a in r.assumptions}),
        "records": [_record(r) for r in records],
    }


def _record(r: Record) -> dict[str, Any]:
    """A record without the assumptions that its variant lists once."""
    return {**r.to_json(), "assumptions": []}


def certificate_text(data: Mapping[str, Any]) -> str:
    """The certificate as a page of text."""
    lines = [str(data["operator"]), f"spec {data['spec']}", ""]
    for v in data["variants"]:
        lines += _variant_text(v)
    lines.append("Assumed of the inputs and not checked at run time:")
    lines += [f"  {text}" for text in data["assumed"]] or ["  nothing"]
    lines += ["", "To be trusted besides:"]
    lines += [f"  {name}: {text}" for name, text in data["trusted"].items()]
    return "\n".join(lines) + "\n"


def _variant_text(v: Mapping[str, Any]) -> list[str]:
    types = ", ".join(f"{k} = {t}" for k, t in v["types"].items())
    lines = [f"Variant {v['name']}" + (f" ({types})" if types else "")]
    lines.append(f"  guards: {'; '.join(v['guards']) or 'none, it takes every call'}")
    lines += [f"  about {s}" for s in v["subjects"]]
    if "proofs" in v:
        lines.append(f"  proofs: {v['proofs']['file']} sha256:{v['proofs']['sha256']}")
    for kind, gate in v["gates"].items():
        counted = ", ".join(f"{n} {s}" for s, n in gate["counts"].items()) or "no record"
        line = f"  {kind} {gate['name']}: {gate['status']} ({counted})"
        if gate["package"] != gate["status"]:
            line += f"; of the package {gate['package']}: {gate['why']}"
        lines.append(line)
    for status in ORDER:
        own = [r for r in v["records"] if r["status"] == status]
        if status == "PROVED" or not own:
            continue
        lines.append(f"  {SPOKEN[status]}:")
        for r in own:
            lines.append(f"    {r['id']}: {r['reason']}".rstrip(": "))
    proved = Counter(
        ".".join(r["id"].split(".")[:2]) for r in v["records"] if r["status"] == "PROVED"
    )
    if proved:
        lines.append(f"  {SPOKEN['PROVED']}, under the assumptions below:")
        lines += [f"    {what} ({n})" for what, n in sorted(proved.items())]
    lines.append("  assumptions, each a guard or a limit:")
    lines += [f"    {a}" for a in v["assumptions"]] or ["    none"]
    return [*lines, ""]
