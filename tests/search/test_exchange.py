"""The exchange folder: what is read of it, what stays as it was, and in which order it is
proposed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from random import Random
from typing import Any

import jsonschema
import pytest

import opwright.ir
import opwright.search
from opwright.ir.plan import PlanError, from_json
from opwright.search.archive import Candidate
from opwright.search.exchange import (
    Answer,
    Exchange,
    ExchangeError,
    Folder,
    Texts,
    read_answer,
)
from opwright.search.propose import Proposal, View
from opwright.search.space import ChoiceSpace, IllegalSchedule, Schedule, parse

PLAN: dict[str, Any] = {
    "abi": 1,
    "op": "scaled@1.0",
    "target": "cpu",
    "backend": "cpp",
    "source": "kernel.cpp",
    "launches": [{"kernel": "k", "grid": ["N"], "args": ["x", "y", "N"]}],
}


def schema(package: Any, name: str) -> Any:
    return json.loads((Path(package.__file__).parent / name).read_text())


def answer(folder: Folder, name: str, source: str = "text", **changes: Any) -> None:
    at = folder.of(folder.round) / "answers" / name
    at.mkdir()
    (at / "candidate.json").write_text(json.dumps({**PLAN, **changes}))
    (at / "kernel.cpp").write_text(source)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    found = Folder.open(tmp_path / "exchange", "scaled@1.0 for cpu")
    found.ask({"request.md": "words", "parent/kernel.cpp": "text"})
    return found


def test_a_request_is_written_whole(folder: Folder) -> None:
    at = folder.of(1)
    assert (at / "request.md").read_text() == "words"
    assert (at / "parent" / "kernel.cpp").read_text() == "text"
    assert sorted(os.listdir(folder.path)) == ["journal.json", "round-1"]
    assert folder.round == 1


def test_only_final_names_are_read(folder: Folder) -> None:
    for name in (".hidden", "half.tmp", "a b", "-x"):
        answer(folder, name)
    for name in (".a.json", "b.json.tmp", "c.txt"):
        (folder.of(1) / "answers" / name).write_text("{")
    assert folder.collect() == 0
    assert folder.taken == [] and folder.refused == []
    os.rename(folder.of(1) / "answers" / ".hidden", folder.of(1) / "answers" / "shown")
    assert folder.collect() == 1
    assert [a.name for a in folder.taken] == ["shown"]


def test_answers_keep_their_order_and_their_text(folder: Folder) -> None:
    answer(folder, "second")
    folder.collect()
    answer(folder, "first", "other text")
    folder.collect()
    answer(folder, "third", "later")
    (folder.of(1) / "answers" / "second" / "kernel.cpp").write_text("edited")
    again = Folder.open(folder.path, "scaled@1.0 for cpu")
    assert [(a.name, a.source) for a in again.taken] == [
        ("second", "text"),
        ("first", "other text"),
    ]
    again.collect()
    names = [(a.name, a.source) for a in again.taken]
    assert names[2:] == [("second", "edited"), ("third", "later")]
    assert again.ident == folder.ident


def test_late_answers_are_taken_and_named(folder: Folder) -> None:
    folder.ask({})
    at = folder.of(1) / "answers" / "late.json"
    at.write_text(json.dumps({"answer": 1, "plan": PLAN, "source": "text", "note": "why"}))
    assert folder.collect() == 1
    assert folder.late == ["round-1/late"]
    assert folder.taken[0].note == "why"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("{", "answer.json:1:2: not JSON"),
        ([], "an answer is an object"),
        ({"answer": 1, "plan": PLAN, "source": "x", "extra": 1}, "unknown field 'extra'"),
        ({"answer": 2, "plan": PLAN, "source": "x"}, "answer must be 1"),
        ({"answer": 1, "plan": PLAN}, "source must hold the text"),
        ({"answer": 1, "plan": PLAN, "source": " "}, "source must hold the text"),
        ({"answer": 1, "plan": {**PLAN, "abi": 2}, "source": "x"}, "abi 2 is not known"),
        ({"answer": 1, "plan": {**PLAN, "wide": 2}, "source": "x"}, "unknown field 'wide'"),
        ({"answer": 1, "plan": {**PLAN, "launches": []}, "source": "x"}, "at least one"),
        ({"answer": 1, "plan": {**PLAN, "source": "../x"}, "source": "x"}, "beside candidate.json"),
        ({"answer": 1, "plan": None, "source": "x"}, "must hold an object"),
    ],
)
def test_refused_answers(folder: Folder, data: Any, words: str) -> None:
    at = folder.of(1) / "answers" / "answer.json"
    at.write_text(data if isinstance(data, str) else json.dumps(data))
    with pytest.raises(PlanError) as caught:
        read_answer(at, 1)
    assert words in str(caught.value)
    assert folder.collect() == 0
    assert [(r.name, words in r.reason) for r in folder.refused] == [("answer", True)]


def test_links_pipes_and_devices_are_not_read(folder: Folder, tmp_path: Path) -> None:
    at = folder.of(1) / "answers"
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps({"answer": 1, "plan": PLAN, "source": "secret"}))
    (at / "link.json").symlink_to(secret)
    (at / "zero.json").symlink_to("/dev/zero")
    os.mkfifo(at / "pipe.json")
    answer(folder, "elsewhere")
    os.rename(at / "elsewhere", tmp_path / "elsewhere")
    (at / "elsewhere").symlink_to(tmp_path / "elsewhere")
    for name, where in (("of-a-link", secret), ("of-a-device", Path("/dev/zero"))):
        answer(folder, name)
        (at / name / "kernel.cpp").unlink()
        (at / name / "kernel.cpp").symlink_to(where)
    answer(folder, "noted")
    os.mkfifo(at / "noted" / "note.txt")
    (at / "deep.json").write_text('{"answer": 1, "plan": ' + "[" * 100_000)
    (at / "halves.json").write_text(json.dumps({"answer": 1, "plan": PLAN, "source": "\ud800"}))
    (at / "halves-of-plan.json").write_text(
        json.dumps({"answer": 1, "plan": {**PLAN, "op": "\udfff"}, "source": "x"})
    )
    assert folder.collect() == 0 and folder.collect() == 0
    found = {r.name: r.reason for r in folder.refused}
    assert len(found) == len(folder.refused) == 9
    assert "links are not followed" in found["link"] and "no plain file" in found["pipe"]
    assert "secret" not in "".join(r.split(": ", 1)[1] for r in found.values())


def test_what_was_taken_is_not_changed_afterwards(folder: Folder) -> None:
    answer(folder, "one")
    folder.collect()
    (kept,) = (folder.path / "taken").iterdir()
    (kept / "kernel.cpp").write_text("another text under the same verdict")
    with pytest.raises(ExchangeError, match="changed after it was taken"):
        Folder.open(folder.path, "scaled@1.0 for cpu")
    journal = json.loads((folder.path / "journal.json").read_text())
    for taken in ([{**journal["taken"][0], "text": "../../x"}], [5], [{}], "x"):
        (folder.path / "journal.json").write_text(json.dumps({**journal, "taken": taken}))
        with pytest.raises(ExchangeError):
            Folder.open(folder.path, "scaled@1.0 for cpu")
    (folder.path / "round-99999999999").mkdir()
    (folder.path / "round-\u00b2").mkdir()
    assert folder.round == 1
    (folder.of(1) / "verdicts").symlink_to(folder.path)
    with pytest.raises(ExchangeError, match="is a link"):
        folder.tell(1, "one", {})


def test_schemas_say_what_the_readers_take() -> None:
    plans, answers = (
        schema(opwright.ir, "plan.schema.json"),
        schema(opwright.search, "answer.schema.json"),
    )
    jsonschema.validate(PLAN, plans)
    jsonschema.validate(from_json(PLAN).to_json(), plans)
    jsonschema.validate({"answer": 1, "plan": PLAN, "source": "x"}, answers)
    for wrong in ({"answer": 2, "plan": PLAN, "source": "x"}, {"answer": 1, "plan": PLAN}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, answers)


def test_folders_of_something_else(folder: Folder) -> None:
    with pytest.raises(ExchangeError, match=r"not of other@1\.0"):
        Folder.open(folder.path, "other@1.0 for cpu")
    (folder.path / "journal.json").write_text("[")
    with pytest.raises(ExchangeError, match="is damaged"):
        Folder.open(folder.path, "scaled@1.0 for cpu")
    blocked = folder.path / "file"
    blocked.write_text("")
    with pytest.raises(ExchangeError, match="choose another folder"):
        Folder.open(blocked, "scaled@1.0 for cpu")


def made(name: str) -> Answer:
    return Answer(1, name, from_json(PLAN), name)


class Inner:
    """Gives three schedules and then no more."""

    name = "inner"

    def propose(self, view: View, count: int, rng: Random) -> list[Proposal]:
        assert all(s.name == "own" for s in view.spaces)
        assert all(c.schedule.startswith("own(") for c in view.candidates)
        found = [Schedule("own", (("n", n),)) for n in range(3)]
        return [Proposal(s, "inner") for s in found if s.text not in view.tried][:count]


def test_answers_follow_the_other_proposer() -> None:
    answers = [made("b"), made("a")]
    own = ChoiceSpace("own", {"n": (0, 1, 2)}, lambda n: pytest.fail("not asked"))  # type: ignore[arg-type]
    space = Texts(answers, lambda a: pytest.fail("not asked"))
    proposer = Exchange(Inner(), 2, answers, "id")
    seen: list[Candidate] = []
    order: list[str] = []
    for _ in range(6):
        view = View([own, space], tuple(seen), {c.number: 1.0 for c in seen})
        found = proposer.propose(view, 1, Random(0))
        order += [p.schedule.text for p in found]
        seen += [Candidate(len(seen), 0, p.schedule.text, "ok", origin=p.origin) for p in found]
    assert order == ["own(n=0)", "own(n=1)", *(a.schedule.text for a in answers)]
    assert "inner" in proposer.name and "id" in proposer.name
    with pytest.raises(IllegalSchedule):
        space.instantiate(parse("exchange(round=1, answer=c, text=x)"))


def test_answers_as_text(folder: Folder) -> None:
    folder.fixed = {k: PLAN[k] for k in ("op", "target", "backend", "source")}
    text = "PLAN\nblocks\nLAUNCH\n```json\n{launch}\n```\nCODE\n```cpp\nint x = {{{{B}}}};\n```\n"
    text += 'HOLES\n{{"B": [8, 16]}}\n'
    at = folder.of(1) / "answers"
    (at / "good.md").write_text(text.format(launch=json.dumps({"launches": PLAN["launches"]})))
    (at / "bad.md").write_text(text.format(launch="{"))
    (at / "worse.md").write_text("I would rather not.")
    assert folder.collect() == 1
    (taken,) = folder.taken
    assert (taken.name, taken.source, taken.note) == ("good", "int x = 8;\n", "blocks")
    assert [r.name for r in folder.refused] == ["bad", "worse"]
    assert "no part CODE" in folder.refused[1].reason
