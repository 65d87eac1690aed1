"""The exchange at work: what a request holds, how answers are judged, what is told back.

`search/exchange.py` owns the folder; here are the contract, the gates and the texts of the
operator.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from opwright.backends.cpp.driver import DriverError
from opwright.backends.cpp.policy import CALLS, HEADERS, PRAGMAS
from opwright.compiler.backend import Refused
from opwright.compiler.candidates import Candidate, printed
from opwright.compiler.importing import static_gates
from opwright.compiler.toolbox import Toolbox, evaluation_tools
from opwright.ir.op import Operator
from opwright.ir.plan import PlanError
from opwright.ir.record import Record
from opwright.ir.tile import TileProgram
from opwright.search.evaluate import host
from opwright.search.exchange import Answer, Exchange, Folder, Texts
from opwright.search.propose import Builtin
from opwright.search.results import Given
from opwright.search.run import Budget, Choice, SearchResult
from opwright.search.space import IllegalSchedule

CONTRACT = (
    "A candidate is a launch plan (candidate.json) and one C++ source. Launching and allocation "
    "are generated from the plan; the source holds kernels alone.",
    'A kernel is extern "C" void NAME(ARGS, int64_t pid0, int64_t pid1, int64_t pid2), called once '
    "for every point of its grid, from several threads, in any order.",
    "ARGS are those of the plan, in order: a buffer's name is a pointer to its first element, any "
    "other text an expression over sizes, params and stride(x, axis), passed as int64_t; i32(expr) "
    "is an int32_t and needs a fact that bounds it; a real param is float or double as declared.",
    "Element [i, j] of x lies at x[i * stride(x, 0) + j * stride(x, 1)]. What is assumed of "
    "strides, sizes and alignment is a fact of the plan: it becomes a guard, and calls that it "
    "excludes go to another candidate.",
    "Inputs are read only; every element of every output is written, by one program; programs of a "
    "launch share nothing. Launches run in order. Scratch of scope plan lives across launches, of "
    "scope program it belongs to one program at a time; both hold garbage at first.",
    "No state, no allocation, no threads, no input or output, no calls but those allowed.",
    "Results are judged against the spec in float64 within its tolerances, on boundary sizes and "
    "special values, in memory with guards; accesses are proved to be in bounds for all sizes that "
    "the spec allows. Plain loops with affine indices are what the prover understands best.",
)
WORDS = """# Request {round}: {operator} for {target}

{title}

A faster candidate than the parent is wanted. Files here:

- `request.json`: this request for a program; the contract, what was tried, times, verdicts.
- `spec.op`: what the operator means; nothing else defines it.
- `parent/`: the best candidate so far, as plan and source.
- `plan.schema.json`, `answer.schema.json`: the forms of candidate.json and of an answer in a file.

## Contract

{contract}

Headers: {headers}. Pragmas: {pragmas}. Functions of <math.h> and their std:: forms, intrinsics and
`__builtin_` functions may be called, and what the source itself defines.

## How to answer

Put candidates into `answers/`, as many as you like; a NAME has letters, digits, `-` and `_`:

- a folder `answers/NAME/` with `candidate.json`, the source that it names, perhaps `note.txt`; or
- one file `answers/NAME.json` of the form of `answer.schema.json`.

Write an answer under another name first (`answers/.NAME` or `answers/NAME.tmp`) and rename it
when it is complete: only final names are read. `candidate.json` needs
`"abi": 1, "op": "{operator}", "target": "{target}", "backend": "cpp"{types}`.

Then run the same `opwright compile` command again. Verdicts appear in `verdicts/NAME.json`, and the
next request in `round-{next}/`.

## The parent

{parent}

## Tried so far

{tried}
"""


class Waiting(Refused):
    """The request is written; nothing can go on before an answer arrives."""


@dataclass(slots=True, eq=False)
class Desk:
    """One operator's exchange: its folder, the space and proposer of the search, and what follows
    it."""

    op: Operator
    text: str
    target: str
    folder: Folder
    toolbox: Toolbox
    own: int
    space: Texts
    proposer: Exchange

    @staticmethod
    def open(path: Path, op: Operator, text: str, level: str, own: int) -> Desk:
        """Take what has arrived. `own` is how many candidates the built-in proposer gives first."""
        types = "".join(f", {k} = {v}" for k, v in op.types.items())
        folder = Folder.open(path, f"{op.name}@{op.version}{types} for cpu({level})")
        folder.collect()
        toolbox = evaluation_tools(op, level)
        space = Texts(folder.taken, lambda a: judge(a, op, toolbox))
        proposer = Exchange(Builtin(), own, folder.taken, folder.ident)
        return Desk(op, text, f"cpu({level})", folder, toolbox, own, space, proposer)

    def budget(self, seconds: float | None) -> Budget:
        return Budget(self.own + len(self.folder.taken), seconds)

    def searched(self, result: SearchResult) -> None:
        """Tell verdicts, open the next round if this one was answered; Waiting where there is no
        answer to go on with."""
        rows = {str(r["schedule"]): r for r in result.table}
        for a in self.folder.taken:
            row = rows.get(a.schedule.text)
            if row is not None:
                self.folder.tell(a.round, a.name, self._verdict(a, row))
        for r in self.folder.refused:
            refused = {"answer": r.name, "status": "refused", "reason": r.reason}
            self.folder.tell(r.round, r.name, refused)
        current = self.folder.round
        if current == 0 or any(a.round == current for a in self.folder.taken):
            self.folder.ask(self._request(result, current + 1))
        where = self.folder.of(self.folder.round)
        if not self.folder.taken:
            wrong = "".join(f"\n{r.name}: {r.reason}" for r in self.folder.refused)
            message = f"no answer yet: the request is in {where}{wrong}"
            raise Waiting(message, f"put answers into {where / 'answers'} and run this again")

    def notes(self) -> list[str]:
        """What the page says of the exchange."""
        found = [f"answers to the next request go into {self.folder.of(self.folder.round)}/answers"]
        found += [f"{name} came after its round was over" for name in self.folder.late]
        found += [f"answer {r.name} was not read: {r.reason}" for r in self.folder.refused]
        return found

    # -- texts ----------------------------------------------------------------------------------

    def _verdict(self, a: Answer, row: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {
            "answer": a.name,
            "schedule": a.schedule.text,
            "text": a.digest,
            "status": row["status"],
            "reason": row["reason"],
            "score": row["score"],
            "times": _latencies(row),
        }
        try:
            records = self.space.given(a.schedule).records
        except IllegalSchedule:
            records = ()
        found["records"] = [_brief(r) for r in records if r.status != "PROVED"]
        return found

    def _request(self, result: SearchResult, number: int) -> dict[str, str]:
        """The files of a round."""
        best = result.winner or result.baseline
        tried = [_row(r) for r in result.table]
        operator = f"{self.op.name}@{self.op.version}"
        data: dict[str, Any] = {
            "exchange": 1,
            "round": number,
            "operator": operator,
            "spec": self.op.digest,
            "types": dict(self.op.types),
            "backend": "cpp",
            "target": self.target,
            "hardware": host(),
            "contract": list(CONTRACT),
            "allowed": {
                "headers": sorted(HEADERS),
                "pragmas": list(PRAGMAS),
                "calls": sorted(CALLS),
            },
            "answers": "answers/NAME/ with candidate.json and its source, or answers/NAME.json; "
            "written under another name and renamed",
            "tried": tried,
            "parent": None,
        }
        files: dict[str, str] = {}
        parent = "There is none: no candidate has passed the gates yet."
        if best is not None:
            plan, source = self._text_of(best)
            files["parent/candidate.json"] = json.dumps(plan, indent=2) + "\n"
            files[f"parent/{plan['source']}"] = source
            times = {w: m["latency"] for w, m in best.metrics.items() if "latency" in m}
            data["parent"] = {
                "schedule": best.schedule.text,
                "score": best.score,
                "times": times,
                "records": [_brief(r) for r in best.candidate.records],
            }
            lines = [f"- {w}: {t * 1e3:.4g} ms" for w, t in times.items()]
            head = f"`{best.schedule.text}`, {best.score:.3f} of candidate 0's time"
            parent = "\n".join([f"{head}; on {host()}:", "", *lines])
        types = "".join(f', "types": {json.dumps(dict(self.op.types))}' if self.op.types else "")
        words = WORDS.format(
            round=number,
            next=number + 1,
            operator=operator,
            target=self.target,
            title=f"Element types: {dict(self.op.types)}." if self.op.types else "",
            contract="\n".join(f"- {x}" for x in CONTRACT),
            headers=", ".join(f"<{h}>" for h in sorted(HEADERS)),
            pragmas=", ".join(PRAGMAS),
            types=types,
            parent=parent,
            tried="\n".join(_line(r) for r in tried),
        )
        schemas = {
            "plan.schema.json": resources.files("opwright.ir") / "plan.schema.json",
            "answer.schema.json": resources.files("opwright.search") / "answer.schema.json",
        }
        return {
            "request.md": words,
            "request.json": json.dumps(data, indent=2) + "\n",
            "spec.op": self.text,
            **{name: file.read_text() for name, file in schemas.items()},
            **files,
        }

    def _text_of(self, c: Choice) -> tuple[dict[str, Any], str]:
        if c.given is not None:
            return c.given.emitted.plan.to_json(), c.given.emitted.source
        own = printed(c.program, self.op, self.toolbox.isa)
        return own.plan.to_json(), own.source


def judge(a: Answer, op: Operator, toolbox: Toolbox) -> tuple[TileProgram, Given]:
    """G0 to G3 of an answer; IllegalSchedule for a plan that is not one for this operator."""
    plan = a.plan
    if plan.op != f"{op.name}@{op.version}":
        raise IllegalSchedule(f"the plan is for {plan.op}, not for {op.name}@{op.version}")
    if plan.backend != "cpp":
        raise IllegalSchedule(f"the plan's backend is {plan.backend}; cpp is asked for")
    other = [k for k, v in plan.types.items() if op.types.get(k) != v]
    if other:
        wanted = ", ".join(f"{k} = {v}" for k, v in op.types.items()) or "no type variable"
        raise IllegalSchedule(f"the plan binds {other[0]} otherwise; asked for: {wanted}")
    c = Candidate(plan, a.source)
    try:
        static = static_gates(c, op)
        emitted = toolbox.emit_plan(plan, a.source)
    except (PlanError, DriverError) as e:
        raise IllegalSchedule(str(e)) from None
    program = static.program or TileProgram(op.name, (), (), static.bound.facts)
    return program, Given(a.digest, emitted, static.records)


def _brief(r: Record) -> dict[str, Any]:
    found = r.to_json()
    return {k: found[k] for k in ("id", "status", "reason", "counterexample") if found[k]}


def _latencies(row: Mapping[str, Any]) -> dict[str, Any]:
    end = ".latency"
    return {k.removesuffix(end): v for k, v in row.items() if k.endswith(end)}


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = {k: row[k] for k in ("number", "schedule", "status", "reason", "score", "origin")}
    return {**kept, "times": _latencies(row)}


def _line(row: Mapping[str, Any]) -> str:
    score = f"{row['score']:.3f} of candidate 0" if row["score"] is not None else row["reason"]
    return f"- `{row['schedule']}`: {row['status']}, {score}"
