"""The proposer that works through files: a request folder goes out, answers come back as texts.

Whoever answers, a person or a program, writes candidates as plan and source. Answers are taken in
the order in which they were first seen, copied, and never change afterwards, so that a search can
be repeated. A text is judged like every other candidate; nothing in a folder is executed here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from opwright.ir.plan import Plan, PlanError, from_json
from opwright.ir.tile import TileProgram
from opwright.search.answers import AnswerError, candidate, parse
from opwright.search.files import Unreadable, read
from opwright.search.propose import Proposal, Proposer, View
from opwright.search.ranking import FREE
from opwright.search.results import Given
from opwright.search.space import IllegalSchedule, Schedule

NAME = "exchange"  # the strategy of schedules that stand for answers
JOURNAL = "journal.json"
FINAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
FORMS = (".json", ".md")  # of answers in one file
LARGEST = 1 << 20  # bytes of an answer's text
LARGEST_JOURNAL = 64 << 20
KEPT = re.compile(r"[0-9a-f]{12}")  # names of texts that were taken
ROUND = re.compile(r"round-([1-9][0-9]{0,5})")
VERSION = 1
Log = Callable[[str, Mapping[str, Any], Mapping[str, str]], None]  # kind, body, texts


class ExchangeError(RuntimeError):
    """The exchange folder cannot be used; the message says which file is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A candidate as a text. `name` is that of its file or folder, `note` what its author says."""

    round: int
    name: str
    plan: Plan
    source: str
    note: str = ""

    @property
    def digest(self) -> str:
        text = json.dumps(self.plan.to_json(), sort_keys=True) + "\0" + self.source
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    @property
    def schedule(self) -> Schedule:
        """What stands for it in tables and archives."""
        decisions = (("round", self.round), ("answer", self.name), ("text", self.digest[7:19]))
        return Schedule(NAME, decisions)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that could not be read, and why."""

    round: int
    name: str
    reason: str


# -- the folder ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Folder:
    """An exchange folder: rounds with requests and answers, and a journal of what was taken."""

    path: Path
    ident: str = ""
    taken: list[Answer] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    fixed: Mapping[str, Any] | None = None  # of plans of answers as text: op, target, backend, ...

    @staticmethod
    def open(path: Path, subject: str) -> Folder:
        """The folder with all answers that have arrived. `subject` is what it is about; a folder of
        something else, or one that is damaged, is an ExchangeError."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            journal = path / JOURNAL
            if not journal.exists():
                made = {"exchange": VERSION, "id": secrets.token_hex(4), "subject": subject}
                write(journal, json.dumps({**made, "taken": []}, indent=2) + "\n")
            data = json.loads(read(journal, LARGEST_JOURNAL))
            version, held = data["exchange"], data["subject"]
            entries, ident = list(data["taken"]), str(data["id"])
        except OSError as e:
            raise ExchangeError(f"{path}: {e.strerror or e}; choose another folder") from None
        except (ValueError, KeyError, TypeError, RecursionError) as e:
            raise ExchangeError(
                f"{path / JOURNAL} is damaged ({e}); choose another folder, or remove this one"
            ) from None
        if version != VERSION or held != subject:
            raise ExchangeError(
                f"{path} is the exchange folder of {held}, not of {subject}; choose another one"
            )
        folder = Folder(path, ident)
        folder.taken = [folder._kept(e) for e in entries]
        return folder

    @property
    def round(self) -> int:
        """The open round: answers to its request are awaited."""
        return max(self._rounds(), default=0)

    def _rounds(self) -> list[int]:
        found = [ROUND.fullmatch(p.name) for p in self.path.glob("round-*")]
        return sorted(int(m[1]) for m in found if m is not None)

    def of(self, number: int) -> Path:
        return self.path / f"round-{number}"

    def _kept(self, entry: Mapping[str, Any]) -> Answer:
        cure = f"choose another folder, or remove {self.path}"
        try:
            name, note = str(entry["text"]), str(entry["note"])
            if not KEPT.fullmatch(name):
                raise ValueError("no name of a text that was taken")
            at = self.path / "taken" / name
            plan = from_json(_json(at / "candidate.json"))
            source = _text(at / plan.source)
            found = Answer(int(entry["round"]), str(entry["name"]), plan, source, note)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            what = f"{self.path / JOURNAL}: {type(e).__name__}: {e}"
            raise ExchangeError(f"{what}; {cure}") from None
        if found.digest[7:19] != name:
            raise ExchangeError(f"{at} was changed after it was taken; {cure}")
        return found

    def collect(self) -> int:
        """Take what has arrived in any round, in order of round and name; how many are new."""
        known = {(a.round, a.name, a.digest) for a in self.taken}
        fresh: list[Answer] = []
        told = set(self.refused)
        for number in self._rounds():
            for path in self._final(number):
                try:
                    answer = read_answer(path, number, self.fixed)
                except PlanError as e:
                    refusal = Refusal(number, path.stem, str(e))
                    if refusal not in told:
                        self.refused.append(refusal)
                    continue
                if (answer.round, answer.name, answer.digest) not in known:
                    fresh.append(answer)
                    if number < self.round:
                        self.late.append(f"round-{number}/{answer.name}")
        for a in fresh:
            self._keep(a)
        if fresh:
            self.taken += fresh
            self._write()
        return len(fresh)

    def _final(self, number: int) -> list[Path]:
        """Answers under a final name; names with a dot in front or a suffix are being written."""
        try:
            inside = sorted(os.scandir(self.of(number) / "answers"), key=lambda e: e.name)
        except OSError:
            return []
        return [
            Path(e.path)
            for e in inside
            if (e.is_dir(follow_symlinks=False) and FINAL.fullmatch(e.name))
            or (e.name.endswith(FORMS) and FINAL.fullmatch(Path(e.name).stem) and not e.is_dir())
        ]

    def _keep(self, a: Answer) -> None:
        at = self.path / "taken" / a.digest[7:19]
        if at.exists():
            return
        at.parent.mkdir(exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=at.parent))
        (temporary / "candidate.json").write_text(json.dumps(a.plan.to_json(), indent=2) + "\n")
        (temporary / a.plan.source).write_text(a.source)
        os.replace(temporary, at)

    def _write(self) -> None:
        entries = [
            {"round": a.round, "name": a.name, "text": a.digest[7:19], "note": a.note}
            for a in self.taken
        ]
        journal = self.path / JOURNAL
        data = {**json.loads(read(journal, LARGEST_JOURNAL)), "taken": entries}
        write(journal, json.dumps(data, indent=2) + "\n")

    def ask(self, files: Mapping[str, str]) -> Path:
        """Open the next round with these files, written whole."""
        number = self.round + 1
        temporary = Path(tempfile.mkdtemp(prefix=".round-", dir=self.path))
        try:
            os.chmod(temporary, 0o755)
            (temporary / "answers").mkdir()
            for name, text in files.items():
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                (temporary / name).write_text(text)
            os.replace(temporary, self.of(number))
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return self.of(number)

    def tell(self, number: int, name: str, verdict: Mapping[str, Any]) -> None:
        """Write what came of an answer beside its round's request."""
        at = self.of(number) / "verdicts"
        if at.is_symlink() or self.of(number).is_symlink():
            raise ExchangeError(f"{at} is a link; verdicts are written into no other folder")
        at.mkdir(parents=True, exist_ok=True)
        write(at / f"{name}.json", json.dumps(verdict, indent=2) + "\n")


def write(path: Path, text: str) -> None:
    """Replace a file in one step."""
    handle, name = tempfile.mkstemp(prefix=".", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


_FIELDS = {"answer", "plan", "source", "note"}


def read_answer(path: Path, number: int, fixed: Mapping[str, Any] | None = None) -> Answer:
    """An answer from a folder (candidate.json and its source), one JSON file (plan and source
    inside), or a text as a prompt asks for; PlanError says what is wrong where."""
    if path.suffix == ".md":
        if fixed is None:
            raise PlanError(f"{path}: answers as text are not taken here")
        try:
            said = parse(_text(path), str(fixed["backend"]))
            plan, code = candidate(said, said.first, fixed)
        except AnswerError as e:
            raise PlanError(f"{path}: {e}") from None
        except PlanError as e:
            raise PlanError(f"{path}: {e}") from None
        return Answer(number, path.stem, plan, code, "\n".join(said.plan))
    if path.is_dir():
        plan = _plan(path / "candidate.json", _json(path / "candidate.json"))
        note = path / "note.txt"
        about = _text(note) if os.path.lexists(note) else ""
        return Answer(number, path.name, plan, _text(path / plan.source), about[:2000])
    data = _json(path)
    if not isinstance(data, dict):
        raise PlanError(f"{path}: an answer is an object with the fields answer, plan, source")
    unknown = sorted(set(data) - _FIELDS)
    if unknown:
        raise PlanError(f"{path}: unknown field {unknown[0]!r}; fields: {', '.join(_FIELDS)}")
    if data.get("answer") != VERSION:
        raise PlanError(f"{path}: answer must be {VERSION}, the version of this format")
    source, note_text = data.get("source"), data.get("note", "")
    if not isinstance(source, str) or not source.strip():
        raise PlanError(f"{path}: source must hold the text of the candidate")
    if any(0xD800 <= ord(c) <= 0xDFFF for c in source):
        raise PlanError(f"{path}: source holds halves of characters")
    if not isinstance(note_text, str):
        raise PlanError(f"{path}: note must be a string")
    plan = _plan(path, data.get("plan"))
    note_text = note_text[:2000].encode("utf-8", "replace").decode()
    return Answer(number, path.name.removesuffix(".json"), plan, source, note_text)


def _text(path: Path) -> str:
    try:
        return read(path, LARGEST)
    except Unreadable as e:
        raise PlanError(f"{path}: cannot be read: {e}") from None


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as e:
        raise PlanError(f"{path}:{e.lineno}:{e.colno}: not JSON: {e.msg}") from None
    except (ValueError, RecursionError) as e:
        raise PlanError(f"{path}: not JSON that can be read: {str(e)[:200]}") from None


def _plan(path: Path, data: Any) -> Plan:
    try:
        return from_json(data)
    except PlanError as e:
        raise PlanError(f"{path}: {e}") from None
    except (TypeError, AttributeError, KeyError) as e:
        raise PlanError(f"{path}: the plan does not have the form of the schema: {e}") from None


# -- the search's side -----------------------------------------------------------------------------

# the program that was read of an answer with what is built of it; IllegalSchedule when the plan
# does not fit
Judge = Callable[[Answer], tuple[TileProgram, Given]]


@dataclass(slots=True)
class Texts:
    """The space of answers: a schedule names one of them, and there is nothing beside it."""

    answers: Sequence[Answer]
    judge: Judge
    _made: dict[str, tuple[TileProgram, Given]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return NAME

    def preferred(self) -> list[Schedule]:
        return []

    def sample(self, rng: Random) -> Schedule:
        return Schedule(NAME)

    def neighbours(self, schedule: Schedule) -> list[Schedule]:
        return []

    def instantiate(self, schedule: Schedule) -> TileProgram:
        return self._read(schedule)[0]

    def given(self, schedule: Schedule) -> Given:
        """The text of a schedule and what the gates before execution said of it."""
        return self._read(schedule)[1]

    def written(self, schedule: Schedule) -> dict[str, str]:
        """The texts of an answer by file name, whatever becomes of it."""
        for a in self.answers:
            if a.schedule == schedule:
                plan = json.dumps(a.plan.to_json(), indent=2) + "\n"
                note = {"note.txt": a.note} if a.note else {}
                return {"candidate.json": plan, a.plan.source: a.source, **note}
        return {}

    def _read(self, schedule: Schedule) -> tuple[TileProgram, Given]:
        if schedule.text not in self._made:
            for a in self.answers:
                if a.schedule == schedule:
                    self._made[schedule.text] = self.judge(a)
                    break
            else:
                raise IllegalSchedule(f"there is no answer {schedule.text}")
        return self._made[schedule.text]


@dataclass(frozen=True, slots=True)
class Exchange:
    """First `own` candidates of another proposer, then all answers in the order of the journal."""

    inner: Proposer
    own: int
    answers: Sequence[Answer]
    ident: str
    logs: list[Log] = field(default_factory=list, compare=False)

    def attach(self, log: Log) -> None:
        """Take what answers are written down with."""
        self.logs.append(log)

    @property
    def name(self) -> str:
        return f"exchange({self.inner.name}, {self.own}, {self.ident})"

    def propose(self, view: View, count: int, rng: Random) -> list[Proposal]:
        mine = [c for c in view.candidates if not c.schedule.startswith(f"{NAME}(")]
        left = self.own - sum(c.status not in FREE for c in mine)
        if left > 0 and len(mine) == len(view.candidates):
            numbers = {c.number for c in mine}
            scores = {n: s for n, s in view.scores.items() if n in numbers}
            spaces = [s for s in view.spaces if s.name != NAME]
            found = self.inner.propose(View(spaces, mine, scores), min(count, left), rng)
            if found:
                return found
        fresh = [a for a in self.answers if a.schedule.text not in view.tried]
        for a in fresh[:count]:
            note(self.logs, a)
        return [Proposal(a.schedule, NAME) for a in fresh[:count]]


def note(logs: Sequence[Log], a: Answer) -> None:
    """Write an answer down in the ledger."""
    plan = json.dumps(a.plan.to_json(), indent=2) + "\n"
    texts = {"candidate.json": plan, a.plan.source: a.source}
    body = {"round": a.round, "name": a.name, "digest": a.digest, "note": a.note}
    for log in logs:
        log("answer", body, texts)
