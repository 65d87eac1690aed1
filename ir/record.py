"""The one record of an obligation, of check, verify, certificates and every machine interface."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# weakest first: a verdict is the minimum over the required obligations
ORDER = ("REFUTED", "UNKNOWN", "ASSUMED", "TESTED", "PROVED")


@dataclass(frozen=True, slots=True)
class Record:
    """What was established about one obligation and about which subject.

    `id` is "G2.bounds.ld_x", `kind` the gate ("G2"), `status` one of ORDER, `reason` why or on
    what, `subject` "TileIR sha256:... (printer trusted)" or the source's hash.
    """

    id: str
    kind: str
    status: str
    reason: str = ""
    subject: str = ""
    assumptions: tuple[str, ...] = ()
    counterexample: Mapping[str, Any] | None = None
    seconds: float = 0.0
    cached: bool = False  # it was established before, of the same texts by the same verifier

    def __post_init__(self) -> None:
        if self.status not in ORDER:
            raise ValueError(f"unknown status {self.status}")

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "kind": self.kind,
            "status": self.status,
            "reason": self.reason,
            "subject": self.subject,
            "assumptions": list(self.assumptions),
            "counterexample": dict(self.counterexample)
            if self.counterexample is not None
            else None,
            "seconds": round(self.seconds, 6),
            **({"cached": True} if self.cached else {}),
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """All records of a candidate; `status` is their minimum, UNKNOWN when a required kind lacks."""

    records: tuple[Record, ...]
    required: tuple[str, ...] = ("G2", "G3", "G6")
    extra: Mapping[str, Any] = field(default_factory=dict)

    def gate(self, kind: str) -> str:
        return weakest(r.status for r in self.records if r.kind == kind)

    @property
    def status(self) -> str:
        """REFUTED as soon as anything is, required or not."""
        if any(r.status == "REFUTED" for r in self.records):
            return "REFUTED"
        return weakest(self.gate(k) for k in self.required)


def weakest(statuses: Iterable[str]) -> str:
    """The minimum in REFUTED < UNKNOWN < ASSUMED < TESTED < PROVED; UNKNOWN of nothing."""
    ranks = [ORDER.index(s) for s in statuses]
    return ORDER[min(ranks)] if ranks else "UNKNOWN"
