"""Recorded searches with a language model: what won in a cassette, as a candidate again.

A transcript is the ledger of a guided search, as it was written, with the true origin of its
answers in its first line (client, model, operator, spec, types, targets). The spec is the library's
of that digest, or `NAME.op` beside `NAME.jsonl`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opwright.compiler.elaborate import load_spec
from opwright.compiler.exchanging import fixed_of
from opwright.ir.op import Operator
from opwright.ir.plan import Plan
from opwright.search.answers import AnswerError, candidate, parse
from opwright.search.cassette import Cassette, CassetteError
from opwright.search.drafts import FIXED, dealt_as
from opwright.search.space import parse as parse_schedule

ORIGIN = ("client", "model", "operator", "spec", "backend", "targets", "types")


@dataclass(frozen=True, slots=True)
class Text:
    """A text of a transcript that passed, with its score in that search (1 is candidate 0)."""

    schedule: str
    score: float
    plan: Plan
    source: str


@dataclass(frozen=True, slots=True)
class Lost:
    """A text that was not accepted: what it tried (plan or move), its status and the reason."""

    schedule: str
    idea: str
    status: str
    reason: str


@dataclass(frozen=True, slots=True)
class Transcript:
    """One recorded search: where it comes from, its operator, how many candidates were measured,
    what passed (the best first) and what did not."""

    path: Path
    origin: Mapping[str, Any]
    op: Operator
    measured: int
    passed: tuple[Text, ...]
    lost: tuple[Lost, ...]

    @property
    def refused(self) -> Mapping[str, int]:
        """How many texts were lost, by status."""
        return Counter(x.status for x in self.lost)


def read(path: Path, specs: Path | None = None) -> Transcript:
    """A transcript; CassetteError where the file, its origin or its spec is not as it should be."""
    tape = Cassette(path, "replay")
    try:
        origin = tape.origin
        missing = [k for k in ORIGIN if k not in origin]
        if missing:
            raise CassetteError(f"{path}: its origin does not say {missing[0]}")
        op = _operator(path, origin, specs)
        fixed = fixed_of(op, str(origin["backend"]), tuple(origin["targets"]))
        answers = {c["logical"]: c["response"] for c in tape.entries("call") if c["response"]}
        nodes = {n["node"]: n for n in tape.entries("node")}
        verdicts = list(tape.entries("verdict"))
    finally:
        tape.close()
    passed = []
    lost = []
    for v in verdicts:
        node = nodes.get(v["node"], {})
        if v["status"] != "ok" or v["score"] is None:
            idea = node.get("move") or next(iter(node.get("plan", ())), "")
            lost.append(Lost(v["schedule"], idea.rstrip("*"), v["status"], v.get("reason", "")))
            continue
        kind = node.get("idea", "move")
        logical = f"{op.name}@{op.version}/{kind}/{v['node']}/{v['attempt']}"
        response = answers.get(logical)
        if response is None:
            raise CassetteError(f"{path}: candidate {v['candidate']} has no answer {logical}")
        try:
            answer = parse(response["text"], str(origin["backend"]))
        except AnswerError as e:
            raise CassetteError(f"{path}: {logical}: {e}") from None
        schedule = parse_schedule(v["schedule"])
        values = {n: str(x) for n, x in schedule.decisions if n not in FIXED}
        plan, source = candidate(answer, values, fixed)
        plan = dealt_as(plan, schedule)
        passed.append(Text(v["schedule"], float(v["score"]), plan, source))
    passed.sort(key=lambda t: (t.score, t.schedule))
    return Transcript(path, origin, op, len(passed), tuple(passed), tuple(lost))


def _operator(path: Path, origin: Mapping[str, Any], specs: Path | None) -> Operator:
    name = str(origin["operator"]).partition("@")[0]
    seen = []
    for file in _specs(path, specs):
        spec = load_spec(file)
        if name in spec.names:
            op = spec.operator(name, dict(origin["types"]))
            if op.digest == origin["spec"]:
                return op
            seen.append(str(file))
    what = f"{', '.join(seen)} says something else now" if seen else "no spec has that name"
    raise CassetteError(f"{path} is about {origin['operator']} ({origin['spec'][:19]}...): {what}")


def _specs(path: Path, specs: Path | None) -> Iterator[Path]:
    beside = path.with_suffix(".op")
    if beside.exists():
        yield beside
    root = specs or Path(__file__).resolve().parents[1] / "specs"
    if root.is_file():
        yield root
    elif root.is_dir():
        yield from sorted(root.rglob("*.op"))
