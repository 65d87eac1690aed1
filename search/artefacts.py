"""The artefacts of a guided search by role, as files that schemas describe.

planner: tuning_plan.json; kernel writer: kernel.(cpp|py|cu); debugger: kernel_fixed.*; benchmark:
bench_results.csv; profiler: profile_report.json, each field measured, compiled or modelled; search
agent: candidate_variants/. A folder an idea; files are replaced whole.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from opwright.search.archive import Candidate
from opwright.search.drafts import Attempt, Node
from opwright.search.events import SearchResult
from opwright.search.exchange import write
from opwright.search.pareto import front


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TuningPlan(_Strict):
    """tuning_plan.json: an idea apart from its code."""

    version: Literal[1] = 1
    node: int
    kind: Literal["plan", "move", "paradigm", "sample"]
    parent: int | None
    move: str
    bottleneck: str
    plan: list[str]
    holes: dict[str, list[str]]
    predicted_speedup: float | None
    confidence: float | None
    attempts: int
    status: str
    reason: str


class Reading(_Strict):
    """One number of a profile and where it comes from."""

    value: float
    unit: str
    basis: Literal["measured", "compiled", "modelled"]
    source: str


class ProfileReport(_Strict):
    """profile_report.json: what is known of one candidate's run."""

    version: Literal[1] = 1
    candidate: int
    schedule: str
    bottleneck: str
    sentence: str
    readings: dict[str, Reading]
    absent: dict[str, str] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)  # what the compiler says of loops


class Variant(_Strict):
    """candidate_variants/NUMBER.json: one setting of an idea's holes that was measured."""

    schedule: str
    score: float | None
    metrics: dict[str, dict[str, float]]


class Front(RootModel[list[dict[str, float]]]):
    """front.json: candidates that none beats in every respect, each with what it costs."""


class Used(_Strict):
    """Tokens."""

    input: int
    output: int
    cached: int
    estimated: bool


class Account(_Strict):
    """accounts.json: what the model's part cost."""

    requests: int
    failed: int
    retries: int
    usage: Used
    assumed_tokens: int
    cost_usd: float | None


class Result(_Strict):
    """A line of bench_results.csv; fields that a candidate has no value of are empty."""

    candidate: int
    schedule: str
    status: str
    score: float | Literal[""] | None
    workload: str
    latency: float | Literal[""]
    spread: float | Literal[""]
    memory: float | Literal[""]
    error: float | Literal[""]
    code_size: float | Literal[""]
    compile_time: float | Literal[""]
    confirmed: bool


SCHEMAS: Mapping[str, type[BaseModel]] = {
    "tuning_plan.json": TuningPlan,
    "profile_report.json": ProfileReport,
    "candidate_variants": Variant,
    "bench_results.csv": Result,
    "front.json": Front,
    "accounts.json": Account,
}
COLUMNS = tuple(Result.model_fields)


def schema() -> dict[str, Any]:
    """The JSON schemas of the artefacts by file name, as `artefacts.schema.json` holds them."""
    return {name: made.model_json_schema() for name, made in SCHEMAS.items()}


@dataclass(slots=True)
class Keeper:
    """Writes the artefacts of a run into its folder."""

    folder: Path
    source: str  # kernel.cpp
    profiles: dict[int, ProfileReport] = field(default_factory=dict)

    def keep(self, node: Node, attempt: Attempt, c: Candidate | None, score: float | None) -> None:
        """Files of an attempt, and of what came of it."""
        at = self.folder / "nodes" / f"{node.number:03d}"
        answer = attempt.answer
        predicted = answer.predicted if answer is not None else None
        status = c.status if c is not None else ("unread" if attempt.problem else "written")
        reason = c.reason if c is not None else attempt.problem
        plan = TuningPlan(
            node=node.number,
            kind=node.kind,  # type: ignore[arg-type]
            parent=node.parent,
            move=node.move,
            bottleneck=node.bottleneck,
            plan=list(node.plan),
            holes={k: list(v) for k, v in answer.holes.items()} if answer else {},
            predicted_speedup=predicted.speedup if predicted else None,
            confidence=predicted.confidence if predicted else None,
            attempts=len(node.attempts),
            status=status,
            reason=reason,
        )
        self._write(at / "tuning_plan.json", plan.model_dump_json(indent=1) + "\n")
        if answer is None:
            return
        stem, _, suffix = self.source.partition(".")
        name = f"{stem}_fixed.{suffix}" if attempt.number else self.source
        self._write(at / name, answer.code)
        self._write(at / "launch.json", answer.launch)
        if c is not None and c.ok and answer.holes:
            metrics = {w: dict(m) for w, m in c.metrics.items()}
            row = Variant(schedule=c.schedule, score=score, metrics=metrics)
            text = row.model_dump_json(indent=1) + "\n"
            self._write(at / "candidate_variants" / f"{c.number}.json", text)

    def profile(self, report: ProfileReport) -> None:
        """Keep a candidate's profile."""
        self.profiles[report.candidate] = report
        at = self.folder / "profiles" / str(report.candidate)
        self._write(at / "profile_report.json", report.model_dump_json(indent=1) + "\n")

    def finish(self, result: SearchResult, accounts: Mapping[str, Any]) -> None:
        """bench_results.csv, front.json and accounts.json of the whole run."""
        self._write(self.folder / "bench_results.csv", table(result.table))
        points = {int(str(r["number"])): _point(r) for r in result.table if r["status"] == "ok"}
        shown = Front([{"candidate": float(n), **points[n]} for n in front(points)])
        self._write(self.folder / "front.json", shown.model_dump_json(indent=1) + "\n")
        held = Account.model_validate(dict(accounts))
        self._write(self.folder / "accounts.json", held.model_dump_json(indent=1) + "\n")

    def _write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, text)


def _point(row: Mapping[str, object]) -> dict[str, float]:
    """What a candidate costs, in each respect by its worst workload."""
    out: dict[str, float] = {}
    for key, value in row.items():
        metric = key.rpartition(".")[2]
        if "." in key and metric in ("latency", "memory", "error", "code_size"):
            name = metric if metric != "latency" else key
            out[name] = max(out.get(name, 0.0), float(str(value)))
    return out


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """bench_results.csv: a line a candidate and workload."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(COLUMNS)
    for r in rows:
        names = [k[: -len(".latency")] for k in r if k.endswith(".latency")]
        for w in names or [""]:
            values = [r.get(f"{w}.{c}", "") for c in COLUMNS[5:-1]]
            first = [r["number"], r["schedule"], r["status"], r["score"], w]
            row = Result.model_validate(
                dict(zip(COLUMNS, [*first, *values, r["confirmed"]], strict=True))
            )
            lines.writerow(row.model_dump().values())
    return out.getvalue()
