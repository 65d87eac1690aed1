"""Clauses that are put into operators of the library: false ones are refuted and never proved,
true ones are never refuted and mostly proved."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from opwright.compiler.check import CheckResult, check_text
from opwright.compiler.check_claims import prove
from opwright.verify.setting import setting

ROOT = Path(__file__).resolve().parents[2]
SEEDED = Path(__file__).with_name("claims") / "seeded.txt"


def table() -> dict[str, list[tuple[bool, str]]]:
    """Clauses by operator, whether each is true."""
    out: dict[str, list[tuple[bool, str]]] = {}
    own: list[tuple[bool, str]] = []
    for line in SEEDED.read_text().splitlines():
        if line.startswith(("!", "=")):
            own.append((line[0] == "=", line[2:]))
        elif line and not line.startswith("#"):
            own = out.setdefault(line, [])
    return out


TABLE = table()


@cache
def seeded(name: str) -> tuple[CheckResult, dict[str, int]]:
    """The check of an operator with its clauses alone, and their lines."""
    text = (ROOT / "specs" / f"{name}.op").read_text()
    lines: list[str] = []
    copying = True
    for line in text.rstrip().removesuffix("}").rstrip().split("\n"):
        starts = line.startswith("  ") and not line.startswith("   ")
        word = line.split()[0] if starts else ""
        if word not in ("", "}"):
            copying = word not in ("ensures", "law", "grad", "workload")
        if copying:
            lines.append(line)
    at: dict[str, int] = {}
    for _, clause in TABLE[name]:
        lines.append(f"  {clause}")
        at[clause.split()[1].split("(")[0].rstrip(":")] = len(lines)
    return check_text("\n".join([*lines, "}", ""]), f"{name}.op"), at


@pytest.mark.parametrize("name", TABLE)
def test_false_clauses_are_refuted_in_their_place_and_never_proved(name: str) -> None:
    result, lines = seeded(name)
    truth = {c.split()[1].split("(")[0].rstrip(":"): t for t, c in TABLE[name]}
    found = {p.name: r for r, p in zip(result.obligations, result.places, strict=True)
             if p.kind in ("ensures", "law")}  # fmt: skip
    assert set(found) == set(truth), result.diagnostics
    for clause, true in truth.items():
        status = found[clause].status
        assert status != ("REFUTED" if true else "PROVED"), (clause, found[clause].reason)
    refuted = {k for k, r in found.items() if r.status == "REFUTED"}
    for d in result.diagnostics:
        assert d.code in ("E0421", "E0422")
        assert d.span.line in {lines[k] for k in refuted} and "is false" in d.message
    for k in refuted:
        example = found[k].counterexample
        assert example is not None and example["values"] and example["text"]


def test_how_many_are_settled() -> None:
    refuted = proved = false = true = 0
    for name, clauses in TABLE.items():
        result, _ = seeded(name)
        status = {p.name: r.status for r, p in zip(result.obligations, result.places, strict=True)}
        for is_true, clause in clauses:
            own = status[clause.split()[1].split("(")[0].rstrip(":")]
            true += is_true
            false += not is_true
            refuted += own == "REFUTED"
            proved += own == "PROVED"
    assert false >= 60 and refuted >= 0.9 * false
    assert true >= 38 and proved >= 0.75 * true


@pytest.mark.parametrize("name", list(TABLE)[:9])
def test_the_prover_alone_proves_no_false_clause(name: str) -> None:
    (e,) = seeded(name)[0].operators
    for is_true, clause in TABLE[name]:
        own = clause.split()[1].split("(")[0].rstrip(":")
        made = next(c for c in e.operator.clauses if c.name == own)
        if not is_true:
            assert prove(e, made, setting(e.operator, made))[1], clause
