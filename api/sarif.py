"""What gates and checks found as SARIF 2.1.0, the form that review tools read.

REFUTED and errors are errors; an obligation that is UNKNOWN is a warning where shipping needs it,
else a note. What holds is counted in the properties of the run, not listed.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from opwright.counterexamples import told
from opwright.explain import GATES
from opwright.outcome import plain, print_json, write_atomically

if TYPE_CHECKING:
    from opwright.compiler.check import CheckResult
    from opwright.grammar.diagnostics import Diagnostic
    from opwright.ir.record import Record

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
NEEDED = ("G0", "G2", "G3", "G6")  # to ship
PLACE = re.compile(r"(?P<file>[\w./+-]+\.\w+):(?P<line>\d+)(?::(?P<col>\d+))?")
Finding = dict[str, Any]


def uri_of(path: Path) -> str:
    """A file relative to where the command runs, else in full."""
    whole = path.resolve()
    try:
        return quote(whole.relative_to(Path.cwd().resolve()).as_posix())
    except ValueError:
        return whole.as_uri()


def of_verdict(
    records: Sequence[Record], source: Path, trusted: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A log of what the gates say of one candidate; `source` is its text."""
    found = [_of_record(r, source) for r in records if r.status in ("REFUTED", "UNKNOWN")]
    counts = Counter(r.status for r in records)
    properties: dict[str, Any] = {"statuses": dict(sorted(counts.items()))}
    if trusted:
        properties["trusted"] = dict(trusted)
    return _log(found, [source], properties)


def of_checks(results: Sequence[CheckResult]) -> dict[str, Any]:
    """A log of what is wrong with specs, and of their own obligations that are not settled."""
    found: list[Finding] = []
    counts: Counter[str] = Counter()
    for result in results:
        found += [of_diagnostic(d) for d in result.diagnostics]
        told_of = {(d.span.line, d.severity) for d in result.diagnostics}
        for record, place in zip(result.obligations, result.places, strict=True):
            counts[record.status] += 1
            refuted = record.status == "REFUTED"
            if record.status not in ("REFUTED", "UNKNOWN"):
                continue
            if refuted and (place.line, "error") in told_of:
                continue  # its diagnostic says it, with a cure
            found.append(_of_obligation(record, place, Path(result.filename)))
    files = [Path(r.filename) for r in results]
    return _log(found, files, {"statuses": dict(sorted(counts.items()))})


def write(log: Mapping[str, Any], path: Path) -> None:
    """The log as a file, written whole; `-` is the standard output."""
    import json

    if str(path) == "-":
        print_json(log)
        return
    write_atomically(path, json.dumps(log, indent=2) + "\n")


# -- findings --------------------------------------------------------------------------------------


def of_diagnostic(d: Diagnostic) -> Finding:
    """A mistake in a spec."""
    level = {"error": "error", "warning": "warning"}.get(d.severity, "note")
    message = d.message + (f"\ncure: {d.cure}" if d.cure else "")
    region = {"startLine": d.span.line, "startColumn": d.span.col}
    return _finding(d.code, level, message, Path(d.filename), region, {})


def _of_record(r: Record, source: Path) -> Finding:
    level = "error" if r.status == "REFUTED" else "warning" if r.kind in NEEDED else "note"
    message = ": ".join(x for x in (f"{r.id} is {r.status}", r.reason) if x)
    message = "\n".join([message, *told(r)])
    example = dict(r.counterexample or {})
    properties = {
        "obligation": r.id,
        "status": r.status,
        "subject": r.subject,
        "assumptions": list(r.assumptions),
        "seconds": round(r.seconds, 6),
    }
    if example:
        properties["counterexample"] = plain(example)
    rule = ".".join(r.id.split(".")[:2]) if r.kind in ("G0", "G1", "G2", "G3", "G6") else r.kind
    region = _region(str(example.get("line", "")), source) or _region(r.reason, source)
    out = _finding(rule, level, message, source, region, properties)
    kernel = example.get("kernel")
    if kernel:
        out["locations"][0]["logicalLocations"] = [{"name": str(kernel), "kind": "function"}]
    return out


def _of_obligation(record: Record, place: Any, file: Path) -> Finding:
    level = "error" if record.status == "REFUTED" else "note"
    said = ": ".join(x for x in (f"{record.id} is {record.status}", record.reason) if x)
    properties: dict[str, Any] = {
        "obligation": record.id, "status": record.status, "operator": place.operator,
    }  # fmt: skip
    if record.counterexample is not None:
        properties["counterexample"] = plain(dict(record.counterexample))
    region = {"startLine": place.line} if place.line else {}
    return _finding(f"spec.{place.kind}", level, said, file, region, properties)


def _region(text: str, source: Path) -> dict[str, int]:
    """The first place of the source that a text names."""
    for m in PLACE.finditer(text):
        if Path(m["file"]).name == source.name and int(m["line"]) > 0:
            col = {"startColumn": int(m["col"])} if m["col"] and int(m["col"]) else {}
            return {"startLine": int(m["line"]), **col}
    return {}


def _finding(
    rule: str,
    level: str,
    message: str,
    file: Path,
    region: Mapping[str, int],
    properties: Mapping[str, Any],
) -> Finding:
    uri = uri_of(file)
    where: dict[str, Any] = {"artifactLocation": {"uri": uri}}
    if region:
        where["region"] = dict(region)
    name = str(properties.get("obligation", rule))
    mark = hashlib.sha256(f"{rule} {name} {uri}".encode()).hexdigest()
    return {
        "ruleId": rule,
        "level": level,
        "message": {"text": message},
        "locations": [{"physicalLocation": where}],
        "partialFingerprints": {"obligation/v1": mark},
        "properties": dict(properties),
    }


# -- the log ---------------------------------------------------------------------------------------


def _log(
    found: Sequence[Finding], files: Iterable[Path], properties: Mapping[str, Any]
) -> dict[str, Any]:
    names = sorted({f["ruleId"] for f in found})
    for f in found:
        f["ruleIndex"] = names.index(f["ruleId"])
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "opwright",
                        "version": _version(),
                        "rules": [_rule(n) for n in names],
                    }
                },
                "artifacts": [_artifact(p) for p in dict.fromkeys(files)],
                "results": list(found),
                "invocations": [{"executionSuccessful": True}],
                "columnKind": "unicodeCodePoints",
                "properties": dict(properties),
            }
        ],
    }


def _artifact(path: Path) -> dict[str, Any]:
    out: dict[str, Any] = {"location": {"uri": uri_of(path)}}
    try:
        out["hashes"] = {"sha-256": hashlib.sha256(path.read_bytes()).hexdigest()}
    except OSError:
        pass  # a file that cannot be read has no hash
    return out


def _rule(name: str) -> dict[str, Any]:
    gate, _, what = name.partition(".")
    if gate in GATES:
        from opwright.verify.proofs import STANDS_FOR

        title, text = GATES[gate]
        short = STANDS_FOR.get(what, f"{gate}: {title}")
        return {
            "id": name,
            "name": _camel(f"{title} {what}"),
            "shortDescription": {"text": short},
            "fullDescription": {"text": text},
            "help": {"text": f"opwright explain {name}"},
        }
    if gate == "spec":
        text = f"an obligation of the spec: {what}"
        return {"id": name, "name": _camel(name), "shortDescription": {"text": text}}
    from opwright.explain import explain_code

    row = explain_code(name)
    return {
        "id": name,
        "name": _camel(name),
        "shortDescription": {"text": row["text"]},
        "help": {"text": row.get("cure") or f"opwright explain {name}"},
    }


def _camel(text: str) -> str:
    return "".join(w[:1].upper() + w[1:] for w in re.findall(r"\w+", text))


def _version() -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version("opwright")
    except importlib.metadata.PackageNotFoundError:
        return "0"
