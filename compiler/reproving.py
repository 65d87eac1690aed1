"""Proof files of candidates: made by the static gates, and checked against a candidate.

Nothing that a file says is believed. What has to be proved is found again, by running the gates on
the candidate with the file as the source of answers; each answer is then asked for again, from its
text, in another process. A file can thus fail to convince, but not convince of what does not hold.
"""

from __future__ import annotations

import gzip
import json
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opwright.compiler.candidates import Candidate
from opwright.compiler.importing import Static, static_gates
from opwright.ir.launch import with_room
from opwright.ir.op import Operator
from opwright.ir.record import Record
from opwright.verify.context import Context
from opwright.verify.identity import plan_digest, spec_digest, verifier_digest, z3_version
from opwright.verify.proofs import ANSWERS, FORMAT, Book, Query, Rereading, digest, open_book
from opwright.verify.recheck import Solver, ask_all

KIND = "opwright proof record"
LARGEST = 256 << 20  # bytes of a file, unpacked


class ProofError(Exception):
    """A file is no proof record, or one that this version cannot read."""


def prove(c: Candidate, op: Operator) -> tuple[Static, dict[str, Any]]:
    """The static gates of a candidate, and the record of all that their answers stand on."""
    with open_book(Book()) as book:
        static = static_gates(c, op)
    return static, record(c, op, static.records, book)


def packed(c: Candidate, op: Operator) -> bytes:
    """The record as a package carries it: of a candidate as it is read from its folder."""
    return to_bytes(prove(Candidate(with_room(c.plan, op), c.source), op)[1], True)


def record(c: Candidate, op: Operator, records: Sequence[Record], book: Book) -> dict[str, Any]:
    """The content of a proof file."""
    context = Context.of(op)
    return {
        "kind": KIND,
        "format": FORMAT,
        "made_with": {
            "z3": z3_version(),
            "verifier": verifier_digest(c.plan.backend),
            "python": platform.python_version(),
        },
        **identity(c, op),
        "facts": list(c.plan.facts),
        "assumptions": sorted({a for r in records for a in r.assumptions}),
        "limits": {
            "dim_limit": context.dim_limit,
            "param_limit": context.param_limit,
            "element_limit": context.element_limit,
            "rlimit": context.rlimit,
            "seconds": context.timeout,
        },
        "records": [_lasting(r) for r in records],
        **book.to_json(),
    }


def identity(c: Candidate, op: Operator) -> dict[str, Any]:
    """What a proof is about."""
    return {
        "operator": f"{op.name}@{op.version}",
        "types": dict(op.types),
        "spec": spec_digest(op),
        "plan": plan_digest(c.plan),
        "source": c.digest,
    }


def _lasting(r: Record) -> dict[str, Any]:
    """A record without what differs from run to run, and what it stands on."""
    found = r.to_json()
    del found["seconds"]
    if r.status == "PROVED" and r.kind not in ("G2", "G3"):
        found["argument"] = "no solver was asked; whoever checks makes the argument again"
    return found


# -- files -----------------------------------------------------------------------------------------


def to_bytes(data: Mapping[str, Any], packed: bool) -> bytes:
    """A file's content, equal for equal data."""
    text = (json.dumps(data, indent=1, sort_keys=False) + "\n").encode()
    return gzip.compress(text, 9, mtime=0) if packed else text


def file_for(path: Path, c: Candidate, op: Operator) -> Path:
    """Where a record goes: the file that was named, or one in the folder that was."""
    if path.is_dir() or not path.name.endswith((".json", ".gz")):
        return path / f"{op.name}-{c.digest.removeprefix('sha256:')[:12]}.proofs.json"
    return path


def write(data: Mapping[str, Any], path: Path) -> None:
    """The file, written whole; packed where its name ends with .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(to_bytes(data, path.suffix == ".gz"))
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read(path: Path) -> dict[str, Any]:
    """The content of a file; ProofError where it is none."""
    try:
        with path.open("rb") as f:
            packed = f.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as g:
            text = g.read(LARGEST + 1)
    except (OSError, EOFError) as e:
        raise ProofError(f"{path}: cannot be read: {e}") from None
    if len(text) > LARGEST:
        raise ProofError(f"{path}: more than {LARGEST >> 20} MiB")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ProofError(f"{path}: not JSON: {e}") from None
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise ProofError(f"{path}: not a proof record")
    if data.get("format") != FORMAT:
        raise ProofError(f"{path}: format {data.get('format')!r}; this version reads {FORMAT}")
    for name in ("records", "programs", "queries"):
        if not isinstance(data.get(name), list):
            raise ProofError(f"{path}: {name} is not a list")
    return data


# -- checking --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checked:
    """One obligation that the candidate demands: what it is, and how it was found to hold."""

    id: str
    kind: str
    status: str
    how: str
    wrong: str = ""


@dataclass(slots=True)
class Report:
    """What checking found. `wrong` is empty exactly where the file convinces."""

    solver: str
    obligations: list[Checked] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    asked: int = 0

    @property
    def convinces(self) -> bool:
        return not self.wrong


def check(data: Mapping[str, Any], c: Candidate, op: Operator, who: Solver) -> Report:
    """Check a record against a candidate, obligation by obligation."""
    report = Report(f"{who.name} ({who.version})")
    _identity(report, data, c, op)
    known = _questions(report, data)
    with open_book(Rereading(known)) as book:
        assert isinstance(book, Rereading)
        static = static_gates(c, op)
    answers = _ask_again(report, book, who)
    _programs(report, data, book, answers)
    _records(report, data, static.records)
    stale = [n for n in known if n not in book.queries]
    if stale:
        said = f"{len(stale)} questions of the file are not asked for this candidate"
        proved = [n for n in stale if known[n].result == "unsat"]
        (report.wrong if proved else report.notes).append(said)
    return report


def _identity(report: Report, data: Mapping[str, Any], c: Candidate, op: Operator) -> None:
    for name, own in identity(c, op).items():
        if data.get(name) != own:
            report.wrong.append(f"the record is about another {name}: {data.get(name)}, not {own}")
    made = data.get("made_with")
    made = made if isinstance(made, dict) else {}
    now = {"z3": z3_version(), "verifier": verifier_digest(c.plan.backend)}
    for name, own in now.items():
        if made.get(name) != own:
            report.notes.append(f"made with {name} {made.get(name)}, checked with {own}")
    if data.get("facts") != list(c.plan.facts):
        report.wrong.append("the record lists other facts than the plan")


def _questions(report: Report, data: Mapping[str, Any]) -> dict[str, Query]:
    """Questions by the hash of their text as it is, whatever the file says of it."""
    known: dict[str, Query] = {}
    for n, q in enumerate(data["queries"]):
        if not isinstance(q, dict) or not isinstance(q.get("text"), str):
            report.wrong.append(f"question {n} has no text")
            continue
        own = digest(q["text"])
        if q.get("sha256") != own:
            report.wrong.append(f"question {n}: its text is not the one that its hash names")
        result = q.get("result")
        if result not in ANSWERS:
            report.wrong.append(f"question {n}: {result!r} is no answer")
            continue
        if own in known and known[own].result != result:
            report.wrong.append(f"question {n} is there twice, with another answer")
        known[own] = Query(q["text"], result, str(q.get("purpose")), str(q.get("reason")))
    return known


def _ask_again(report: Report, book: Rereading, who: Solver) -> dict[str, str]:
    """What is wrong with an answer, by question; those that nothing stands on are left out."""
    needed: dict[str, None] = {}
    for _, entries in book.programs:
        for e in entries:
            if e.status == "PROVED":
                needed |= dict.fromkeys(e.queries())
    queries = [book.queries[n] for n in needed if n in book.queries]
    queries = [q for q in queries if q.result != "unknown"]
    out: dict[str, str] = {}
    for q, found in ask_all(who, queries):
        report.asked += 1
        claimed = book.known[q.digest].result if q.digest in book.known else q.result
        if found != claimed:
            out[q.digest] = f"the file says {claimed}, {who.name} says {found}"
    return out


def _programs(
    report: Report, data: Mapping[str, Any], book: Rereading, answers: Mapping[str, str]
) -> None:
    """Compare what every program demands with what the file has for it."""
    given = data["programs"]
    for n, (subject, entries) in enumerate(book.programs):
        own = given[n] if n < len(given) and isinstance(given[n], dict) else {}
        listed: dict[str, list[Any]] = {}
        for x in own.get("obligations", ()):
            if isinstance(x, dict):
                listed.setdefault(str(x.get("id")), []).append(x)
        if own.get("subject") != subject:
            report.wrong.append(f"program {n + 1} of the candidate ({subject}) is not in the file")
        for e in entries:
            wrong = ""
            claim = next(iter(listed.get(e.id, ())), None)
            listed[e.id] = listed.get(e.id, [])[1:]
            missing = [q for q in e.queries() if q in book.missing]
            bad = [answers[q] for q in e.queries() if q in answers]
            if claim is None:
                wrong = "the file does not have it"
            elif missing:
                wrong = f"{_count(missing)} not in the file, or not as they have to be asked"
            elif claim.get("status") != e.status:
                wrong = f"the file says {claim.get('status')}"
            elif bad:
                wrong = bad[0]
            report.obligations.append(Checked(e.id, e.kind, e.status, _how(e), wrong))
            if wrong:
                report.wrong.append(f"{e.id}: {wrong}")
        report.wrong += [f"{x}: the candidate does not demand it" for x in listed if listed[x]]
    if len(given) > len(book.programs):
        report.wrong.append("the file has programs that the candidate does not")


def _how(e: Any) -> str:
    asked, argued = len(e.queries()), sum(1 for s in dict.fromkeys(e.steps) if s.argument)
    parts = []
    if asked:
        parts.append(f"{asked} question" + "s" * (asked != 1))
    if argued:
        parts.append(f"{argued} argument" + "s" * (argued != 1))
    return ", ".join(parts) or "nothing was done"


def _count(found: Sequence[str]) -> str:
    return f"{len(found)} question" + ("s are" if len(found) != 1 else " is")


def _records(report: Report, data: Mapping[str, Any], records: Sequence[Record]) -> None:
    """The records that the gates come to now against those of the file."""
    listed: dict[tuple[str, str], list[Any]] = {}
    for x in data["records"]:
        if not isinstance(x, dict):
            report.wrong.append("a record is no record")
            continue
        listed.setdefault((str(x.get("id")), str(x.get("kind"))), []).append(x)
    for r in records:
        own = listed.get((r.id, r.kind))
        if not own:
            report.wrong.append(f"{r.id}: the file has no record of it")
            continue
        claim = own.pop(0)
        if claim.get("status") != r.status:
            report.wrong.append(f"{r.id}: the file says {claim.get('status')}, found {r.status}")
        elif claim.get("subject") != r.subject:
            report.wrong.append(f"{r.id}: the file says it of another text")
        if r.kind not in ("G2", "G3"):
            how = "argument, made again"
            report.obligations.append(Checked(r.id, r.kind, r.status, how))
    for (ident, _), rest in listed.items():
        if rest:
            report.wrong.append(f"{ident}: the file has a record that the gates do not come to")
