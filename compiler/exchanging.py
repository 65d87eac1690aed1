"""The exchange at work: what a request holds, how answers are judged, what is told back.

`search/exchange.py` owns the folder; here are the contract, the gates and the texts of the
operator.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from random import Random
from typing import Any

from opwright.backends.cpp.driver import DriverError
from opwright.backends.cpp.importer_prelude import completed, without_vocabulary
from opwright.compiler.backend import CompileError, Refused
from opwright.compiler.candidates import Candidate, printed
from opwright.compiler.exchange_texts import LANGUAGES, Language, target_facts
from opwright.compiler.importing import FAILURES, static_gates
from opwright.compiler.toolbox import evaluation_tools
from opwright.ir.op import Operator
from opwright.ir.plan import Plan, PlanError
from opwright.ir.record import Record
from opwright.ir.tile import TileProgram
from opwright.search.answers import SOURCES
from opwright.search.archive import Candidate as Tried
from opwright.search.events import Choice, Evaluated, SearchResult
from opwright.search.exchange import NAME, Answer, Exchange, Folder, Texts
from opwright.search.experience import Bandit
from opwright.search.moves import fitting
from opwright.search.prompts import Memory, Parent, kernel, system, unexpected
from opwright.search.propose import Builtin
from opwright.search.results import Emitted, Given
from opwright.search.run import Budget
from opwright.search.space import IllegalSchedule

WORDS = """# Request {round}: {operator} in {language} for {targets}

{title}

A faster candidate than the parent is wanted. Times are {timed}. Files here:

- `request.json`: this request for a program; the contract, what is known of the targets, what was
  tried, times, verdicts.
- `spec.op`: what the operator means; nothing else defines it.
- `prompt.md`: the same as one prompt for a language model, with one move to try.
- `parent/`: the best candidate so far, as plan and source.
- `plan.schema.json`, `answer.schema.json`: the forms of candidate.json and of an answer in a file.

## Contract

{contract}

{allowed}

## How to answer

Put candidates into `answers/`, as many as you like; a NAME has letters, digits, `-` and `_`:

- a folder `answers/NAME/` with `candidate.json`, the source that it names, perhaps `note.txt`; or
- one file `answers/NAME.json` of the form of `answer.schema.json`; or
- one file `answers/NAME.md` of the form that `prompt.md` asks for.

Write an answer under another name first (`answers/.NAME` or `answers/NAME.tmp`) and rename it
when it is complete: only final names are read. `candidate.json` needs
`"abi": 1, "op": "{operator}", "target": "{target}", "backend": "{backend}"{types}`.

Then run the same `opwright compile` command again. Verdicts appear in `verdicts/NAME.json`, and the
next request in `round-{next}/`.

## The parent

{parent}

## Tried so far

{tried}
"""


class Waiting(Refused):
    """The request is written; nothing can go on before an answer arrives."""


@dataclass(frozen=True, slots=True, eq=False)
class Medium:
    """How one backend treats texts: what is built of one before it runs (PlanError, DriverError),
    and the text of a program of our own; `look` says what is built of one: instructions, hot loops.
    `targets` as the command line names them."""

    language: Language
    targets: tuple[str, ...]
    emit: Callable[[Plan, str], Emitted]
    own: Callable[[TileProgram], Candidate]
    look: Callable[[Emitted], Mapping[str, Any]] = lambda e: {}

    @property
    def backend(self) -> str:
        return self.language.backend


def medium_of(backend: str, targets: tuple[str, ...], op: Operator) -> Medium:
    """The medium of a backend; CompileError for one that takes no texts."""
    if backend == "cpp":
        level = targets[0].removeprefix("cpu(").removesuffix(")")
        tools = evaluation_tools(op, level)

        def look(e: Emitted) -> Mapping[str, Any]:
            try:
                inspect = tools.tools.inspect
                return inspect(tools.tools.build(e)) if inspect is not None else {}
            except (RuntimeError, ValueError, OSError):
                return {}

        return Medium(
            LANGUAGES["cpp"],
            targets,
            tools.emit_plan,
            lambda program: printed(program, op, level),
            look,
        )
    if backend == "triton":
        from opwright.compiler.blocks import printed as block_text

        return Medium(
            LANGUAGES["triton"],
            targets,
            lambda plan, source: Emitted(source, "", plan),
            lambda program: block_text(program, op, targets[0]),
        )
    if backend == "jax":
        from opwright.compiler.pure import arrays_candidate

        return Medium(
            LANGUAGES["jax"],
            targets,
            lambda plan, source: Emitted(source, "", plan),
            lambda program: arrays_candidate(op),
        )
    raise CompileError(
        f"the exchange proposer takes no {backend} texts", f"backends: {', '.join(LANGUAGES)}"
    )


@dataclass(slots=True, eq=False)
class Desk:
    """One operator's exchange: its folder, the space and proposer of the search, and what follows
    it."""

    op: Operator
    text: str
    folder: Folder
    medium: Medium
    own: int
    space: Texts
    proposer: Exchange
    tried: dict[str, Tried] = field(default_factory=dict)

    @staticmethod
    def open(
        path: Path, op: Operator, text: str, backend: str, targets: tuple[str, ...], own: int
    ) -> Desk:
        """Take what has arrived. `own` is how many candidates the built-in proposer gives first."""
        medium = medium_of(backend, targets, op)
        types = "".join(f", {k} = {v}" for k, v in op.types.items())
        folder = Folder.open(path, f"{op.name}@{op.version}{types} for {', '.join(targets)}")
        folder.fixed = fixed_of(op, backend, targets)
        folder.collect()
        space = Texts(folder.taken, lambda a: judge(a, op, medium))
        proposer = Exchange(Builtin(), own, folder.taken, folder.ident)
        return Desk(op, text, folder, medium, own, space, proposer)

    def budget(self, seconds: float | None) -> Budget:
        return Budget(self.own + len(self.folder.taken), seconds)

    def searched(self, result: SearchResult) -> None:
        """Tell verdicts, open the next round if this one was answered; Waiting where there is no
        answer to go on with."""
        rows = {str(r["schedule"]): r for r in result.table}
        events = (e for e in result.events if isinstance(e, Evaluated))
        self.tried = {e.candidate.schedule: e.candidate for e in events}
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
        tried = self.tried.get(a.schedule.text)
        found["records"] = [_brief(r) for r in self._records(a) if r.status != "PROVED"]
        if tried is not None and tried.build.get("resources"):
            found["resources"] = tried.build["resources"]
        return found

    def _records(self, a: Answer) -> tuple[Record, ...]:
        """All that the gates said of an answer."""
        tried = self.tried.get(a.schedule.text)
        if tried is not None and tried.records:
            return tried.records
        try:
            return self.space.given(a.schedule).records
        except IllegalSchedule:
            return ()

    def _request(self, result: SearchResult, number: int) -> dict[str, str]:
        """The files of a round."""
        best = result.winner or result.baseline
        tried = [_row(r) for r in result.table]
        operator = f"{self.op.name}@{self.op.version}"
        language, targets = self.medium.language, self.medium.targets
        data: dict[str, Any] = {
            "exchange": 1,
            "round": number,
            "operator": operator,
            "spec": self.op.digest,
            "types": dict(self.op.types),
            "backend": language.backend,
            "target": targets[0],
            "targets": target_facts(language.backend, targets),
            "times": language.timed,
            "contract": list(language.contract),
            "allowed": dict(language.allowed),
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
            if self.medium.backend == "cpp":  # the machine puts the vocabulary before it again
                source = without_vocabulary(source, level_of(self.medium.targets))
            files[f"parent/{plan['source']}"] = source
            times = {w: m["latency"] for w, m in best.metrics.items() if "latency" in m}
            data["parent"] = {
                "schedule": best.schedule.text,
                "score": best.score,
                "times": times,
                "records": [_brief(r) for r in best.candidate.records],
                "resources": dict(best.candidate.build.get("resources", {})),
            }
            lines = [f"- {w}: {t * 1e3:.4g} ms" for w, t in times.items()]
            head = f"`{best.schedule.text}`, {best.score:.3f} of candidate 0's objective"
            parent = "\n".join([f"{head}; {language.timed}:", "", *lines])
        types = "".join(f', "types": {json.dumps(dict(self.op.types))}' if self.op.types else "")
        bound = f"Element types: {dict(self.op.types)}." if self.op.types else ""
        words = WORDS.format(
            round=number,
            next=number + 1,
            operator=operator,
            backend=language.backend,
            language=language.title,
            target=targets[0],
            targets=", ".join(targets),
            timed=language.timed,
            title=" ".join(filter(None, (self.op.doc, bound))) or "`spec.op` says what it means.",
            contract="\n".join(f"- {x}" for x in language.contract),
            allowed=language.words,
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
            "prompt.md": self._prompt(best, number, tried),
            "request.json": json.dumps(data, indent=2) + "\n",
            "spec.op": self.text,
            **{name: file.read_text() for name, file in schemas.items()},
            **files,
        }

    def _prompt(self, best: Choice | None, number: int, tried: Sequence[Mapping[str, Any]]) -> str:
        """The prompt that a model gets in the guided search: the parent and exactly one move."""
        from opwright.compiler.guiding import context_of, launch_text, learned, limits_of
        from opwright.compiler.limiting import described

        medium = self.medium
        context = context_of(self.op, self.text, medium, medium.backend, medium.targets)
        parent, move = None, None
        label = "unknown"
        if best is not None:
            plan, source = self._text_of(best)
            limits = limits_of(self.op, medium.backend, medium.targets)
            seen = {**best.candidate.build, **self._seen(best)}
            label, why = limits.diagnose(replace(best.candidate, metrics=best.metrics, build=seen))
            own = {w: m for w, m in best.metrics.items() if "latency" in m}
            parent = Parent(
                best.schedule.text,
                launch_text(plan),
                source,
                {w: m["latency"] for w, m in own.items()},
                best.score,
                label,
                why,
                (),
                {w: m["spread"] for w, m in own.items() if "spread" in m},
                tuple(w for w, m in own.items() if m.get("delegated")),
                (),
                tuple(described(seen)),
            )
        machine = limits_of(self.op, medium.backend, medium.targets).machine.name
        known = learned()
        bandit = Bandit(known, context.forms, machine, medium.backend)
        fit = fitting(context.forms, medium.backend, label, None, parent.text if parent else "")
        move = bandit.choose(fit, label, Random(f"{self.folder.ident}:{number}"))
        answers = [r for r in tried if r["origin"] == NAME]
        told = known.told(context.forms, machine, medium.backend, context.operator)
        memory = Memory(tuple(unexpected(_line(r)[2:]) for r in answers), (), told)
        return f"{system(context)}\n\n{kernel(context, parent, move, '', memory)}"

    def _seen(self, c: Choice) -> Mapping[str, Any]:
        """What is built of a candidate, where the archive does not say."""
        if "loops" in c.candidate.build or self.medium.backend != "cpp":
            return {}
        if c.given is not None:
            return self.medium.look(c.given.emitted)
        own = self.medium.own(c.program)
        return self.medium.look(self.medium.emit(own.plan, own.source))

    def _text_of(self, c: Choice) -> tuple[dict[str, Any], str]:
        if c.given is not None:
            return c.given.emitted.plan.to_json(), c.given.emitted.source
        own = self.medium.own(c.program)
        return own.plan.to_json(), own.source


def fixed_of(op: Operator, backend: str, targets: tuple[str, ...]) -> dict[str, Any]:
    """What an author does not choose of a launch plan."""
    return {
        "op": f"{op.name}@{op.version}",
        "target": targets[0],
        "backend": backend,
        "source": SOURCES[backend],
        "types": dict(op.types),
    }


def level_of(targets: tuple[str, ...]) -> str:
    """The instruction set of a target of C++."""
    return targets[0].removeprefix("cpu(").removesuffix(")")


def judge(a: Answer, op: Operator, medium: Medium) -> tuple[TileProgram, Given]:
    """G0 to G3 of an answer; IllegalSchedule for a plan that is not one for this operator."""
    plan = a.plan
    if plan.op != f"{op.name}@{op.version}":
        raise IllegalSchedule(f"the plan is for {plan.op}, not for {op.name}@{op.version}")
    if plan.backend != medium.backend:
        why = f"the plan's backend is {plan.backend}; {medium.backend} is asked for"
        raise IllegalSchedule(why)
    other = [k for k, v in plan.types.items() if op.types.get(k) != v]
    if other:
        wanted = ", ".join(f"{k} = {v}" for k, v in op.types.items()) or "no type variable"
        raise IllegalSchedule(f"the plan binds {other[0]} otherwise; asked for: {wanted}")
    source = a.source
    if medium.backend == "cpp":
        source = completed(source, op.name, level_of(medium.targets))
    try:
        static = static_gates(Candidate(plan, source), op)
        emitted = medium.emit(plan, source)
    except (PlanError, DriverError) as e:
        raise IllegalSchedule(str(e)) from None
    except FAILURES as e:  # whatever an answer holds, the others go on
        first = next(iter(str(e).splitlines()), "")[:300]
        raise IllegalSchedule(f"cannot be judged ({type(e).__name__}: {first})") from None
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
