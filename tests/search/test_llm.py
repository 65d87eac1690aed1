"""Asking models: clients against a server that misbehaves, cassettes, limits, accounts."""

from __future__ import annotations

import json
import os
import threading
import tomllib
from importlib import resources
from pathlib import Path

import pytest

from opwright.benchmarks.model_server import serving
from opwright.search.accounts import Accounts, Caller, Caps, Exhausted, Price, estimate, price_of
from opwright.search.cassette import Cassette, CassetteError, scrubbed
from opwright.search.clients import PROVIDERS, Settings, connect, settings
from opwright.search.dialogue import Dialogue
from opwright.search.llm import LLMError, Message, Request, Response, Scripted, Usage

PRICE = Price(1.0, 10.0, 0.1)


def ask(text: str = "hello", logical: str = "op/plan/0/0", **more: object) -> Request:
    return Request("system", (Message("user", text),), "toy", logical=logical, **more)  # type: ignore[arg-type]


def naps_of(client: object, caps: Caps | None = None, **more: object) -> tuple[Caller, list[float]]:
    naps: list[float] = []
    accounts = Accounts(caps or Caps(), PRICE)
    return Caller(client, accounts, sleep=naps.append, **more), naps  # type: ignore[arg-type]


# -- clients --------------------------------------------------------------------------------------


def test_a_server_that_answers() -> None:
    with serving(lambda n, text: f"answer {n} to {text}") as server:
        client = connect(Settings("openai", "toy", server.url))
        found = client.complete(ask(effort="low"))
    assert found.text == "answer 0 to hello" and found.finish == "stop" and found.model == "toy-1"
    assert found.usage == Usage(100, 50)
    body = server.asked[0]
    assert body["model"] == "toy" and body["max_tokens"] == 16384
    assert body["reasoning_effort"] == "low"
    assert [m["role"] for m in body["messages"]] == ["system", "user"]


def test_a_server_of_the_other_protocol() -> None:
    with serving(lambda n, text: f"answer {n} to {text}") as server:
        client = connect(Settings("anthropic", "toy", server.root))
        found = client.complete(ask(effort="low", temperature=0.5))
    assert found.text == "answer 0 to hello" and found.finish == "stop" and found.model == "toy-1"
    assert found.usage == Usage(100, 50, 40)
    body = server.asked[0]
    assert body["model"] == "toy" and body["max_tokens"] == 16384 and not body.get("stream")
    assert body["system"] == "system" and [m["role"] for m in body["messages"]] == ["user"]
    assert body["output_config"] == {"effort": "low"} and body["temperature"] == 0.5


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("act", "kind", "billed"),
    [
        ("!429", "rate_limit", False),
        ("!500", "server", False),
        ("!503", "server", False),
        ("!529", "server", False),
        ("!400", "request", False),
        ("!401", "auth", False),
        ("!drop", "connection", True),
        ("!garbage", "malformed", True),
        ("!empty", "malformed", True),
        ("!nested", "malformed", True),
        ("!half", "connection", True),
        ("!hang", "timeout", True),
        ("!drip", "timeout", True),
        ("!flood", "malformed", True),
        ("!packed", "malformed", True),
        ("!later", "rate_limit", False),
    ],
)
def test_what_servers_do_wrong(provider: str, act: str, kind: str, billed: bool) -> None:
    with serving(lambda n, text: act) as server:
        client = connect(Settings(provider, "toy", server.base(provider), timeout=0.5))
        with pytest.raises(LLMError) as caught:
            client.complete(ask())
    assert (caught.value.kind, caught.value.billed) == (kind, billed)
    if kind == "rate_limit":
        wait = caught.value.retry_after
        assert wait is not None and (wait == 0.05 or 20 < wait <= 30)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_answers_that_are_not_as_they_should_be(provider: str, tmp_path: Path) -> None:
    acts = ["!cut PLAN\nhalf of", "!refuse", "!count many", "half \ud800 of a character"]
    with serving(lambda n, text: acts[n]) as server:
        client = connect(Settings(provider, "toy", server.base(provider)))
        assert client.complete(ask()).finish == "length"
        refused = client.complete(ask())
        counted = client.complete(ask())
        half = client.complete(ask())
    assert refused.finish == "refusal" and "will not" in refused.text
    assert counted.text == "many" and counted.usage.estimated and counted.usage.total < 100
    with Cassette(tmp_path / "tape", "record", client) as tape:
        tape.keep(ask(), half)
    again = Cassette(tmp_path / "tape", "replay").find(ask())
    assert again is not None and again.text == half.text == "half ? of a character"


def test_a_client_without_a_key() -> None:
    with pytest.raises(LLMError, match="OPENAI_API_KEY"):
        connect(Settings("openai", "toy"))
    with pytest.raises(LLMError, match="there is no provider"):
        connect(Settings("other", "toy"))


def test_settings_come_from_the_command_line_the_environment_a_file(tmp_path: Path) -> None:
    file = tmp_path / "opwright.toml"
    file.write_text(
        '[llm]\nmodel = "of-the-file"\ntimeout = 7.0\n[llm.openai]\nbase_url = "http://x"\n'
        '[llm.prices."of-"]\ninput = 1.0\noutput = 2.0\n'
    )
    found = settings("openai", environment={}, config=file)
    assert (found.model, found.base_url, found.timeout) == ("of-the-file", "http://x", 7.0)
    price = price_of(found.model, found.prices)
    assert price == Price(1.0, 2.0, 1.0, "the configuration")
    found = settings(
        "openai", environment={"OPENAI_MODEL": "e", "OPENAI_API_KEY": "secret"}, config=file
    )
    assert found.model == "e" and "secret" not in repr(found)
    assert settings("openai", "c", environment={"OPENAI_MODEL": "e"}, config=file).model == "c"
    with pytest.raises(LLMError, match="no model is named"):
        settings("anthropic", environment={}, config=tmp_path / "absent.toml")
    file.write_text("[llm]\nmodle = 1\n")
    with pytest.raises(LLMError, match="unknown setting 'modle'"):
        settings("openai", environment={}, config=file)


# -- limits and accounts --------------------------------------------------------------------------


def test_asking_again_waits_as_long_as_the_server_says() -> None:
    wait = LLMError("rate_limit", "not now", 7.0)
    made, naps = naps_of(Scripted([wait, LLMError("server", "503"), "yes"]))
    (reply,) = made.ask([ask()])
    assert reply.response is not None and reply.response.text == "yes"
    assert 7.0 <= naps[0] <= 7.7 and 2.0 <= naps[1] <= 2.2
    assert made.accounts.retries == 2 and made.accounts.requests == 1


def test_what_cannot_be_cured_ends_the_asking() -> None:
    made, _ = naps_of(Scripted([LLMError("auth", "no such key")]))
    (reply,) = made.ask([ask(), ask("more")][:1])
    assert reply.error is not None and made.stopped == "no such key"
    assert made.ask([ask()]) == []


def test_a_silent_server_is_given_up() -> None:
    made, naps = naps_of(Scripted(lambda r: (_ for _ in ()).throw(LLMError("server", "down"))))
    replies = made.ask([ask(str(n)) for n in range(8)])
    assert len(replies) == 4 and "4 requests in a row had no answer" in made.stopped
    assert len(naps) == 16


def test_no_limit_is_ever_exceeded() -> None:
    for caps in (Caps(tokens=5000), Caps(cost=0.02), Caps(tokens=9000, cost=0.05)):
        client = Scripted(
            lambda r: Response("x", "stop", "", Usage(len(r.text) // 3, r.max_tokens))
        )
        made, _ = naps_of(client, caps)
        replies = made.ask([ask("word " * 20, max_tokens=1500) for _ in range(60)])
        assert 0 < len(replies) < 60 and made.stopped
        assert made.accounts.flying.total == 0
        if caps.tokens is not None:
            assert made.accounts.usage.total <= caps.tokens
        if caps.cost is not None:
            assert (made.accounts.cost or 0) <= caps.cost


def test_answers_that_may_be_billed_count() -> None:
    made, _ = naps_of(Scripted([LLMError("timeout", "late", billed=True)]), Caps(tokens=20000))
    made.ask([ask(max_tokens=1000)])
    assert made.accounts.usage.total > 1000 and made.accounts.assumed == made.accounts.usage.total
    lost = LLMError("connection", "lost", billed=True)
    made, _ = naps_of(Scripted([lost, "yes"]), Caps(tokens=20000))
    made.ask([ask(max_tokens=1000)])
    assert made.accounts.usage.total > 1000 and made.accounts.failed == 0


def test_a_server_that_drips_is_left() -> None:
    stop = threading.Event()

    class Slow:
        name = "slow"

        def complete(self, request: Request) -> Response:
            stop.wait(20)
            return Response("late")

    made, _ = naps_of(Slow(), timeout=0.1)
    (reply,) = made.ask([ask()])
    stop.set()
    assert reply.error is not None and reply.error.kind == "timeout"


def test_time_is_a_limit() -> None:
    now = [0.0]
    accounts = Accounts(Caps(minutes=1), None, lambda: now[0])
    made = Caller(Scripted(lambda r: "x"), accounts)
    assert made.ask([ask()])[0].response is not None
    now[0] = 61.0
    assert made.ask([ask()]) == [] and "minutes are over" in made.stopped


def test_a_cost_needs_a_price() -> None:
    with pytest.raises(Exhausted, match="price of this model is not known"):
        Accounts(Caps(cost=1.0), None)
    assert price_of("a-model-that-nobody-has") is None
    shipped = tomllib.loads((resources.files("opwright.search") / "prices.toml").read_text())
    for name, row in shipped.items():
        found = price_of(f"{name}-20260101")
        assert found is not None and row["source"] in found.origin and row["date"] in found.origin
        assert 0 < found.cached <= found.input < found.output
        assert price_of(f"{name}-other") is None  # a model with a longer name is another one
        assert any(row["source"] in line for line in estimate(5, 100, 100, found, Caps()))
    mine = price_of("gpt-5-mini", {"gpt-5": {"input": 1, "output": 2, "date": "2026-01-01"}})
    assert mine == Price(1.0, 2.0, 1.0, "the configuration, 2026-01-01")
    summary = Accounts(Caps(), None).summary()
    assert "cost: unknown price" in summary


def test_the_estimate_warns() -> None:
    lines = estimate(60, 5000, 16384, PRICE, Caps(tokens=30000))
    assert "60 to 122 requests" in lines[0] and "USD" in lines[0]
    assert "room for 1 requests" in lines[-1]
    assert "unknown price" in estimate(1, 10, 10, None, Caps())[0]


# -- cassettes ------------------------------------------------------------------------------------


def recorded(path: Path, answers: list[str | Exception], texts: list[str]) -> Caller:
    client = Scripted(answers)
    with Cassette(path, "record", client, {"client": "scripted", "model": "toy"}) as tape:
        made, _ = naps_of(client, tape=tape, in_flight=1)
        made.ask([ask(t, f"op/plan/{n}/0") for n, t in enumerate(texts)])
    return made


def test_a_cassette_answers_as_recorded(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    before = recorded(path, ["one", LLMError("rate_limit", "x"), "two", "again"], ["a", "b", "a"])
    tape = Cassette(path, "strict")
    assert (tape.name, tape.model) == ("scripted", "toy")
    made, naps = naps_of(tape, tape=tape)
    replies = made.ask([ask(t, f"op/plan/{n}/0") for n, t in enumerate(["a", "b", "a"])])
    assert [r.response.text for r in replies if r.response] == ["one", "two", "again"]
    assert made.accounts.usage == before.accounts.usage and naps == []


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    recorded(path, ["one", "two"], ["a", "b"])
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])  # in the middle of the last line
    client = Scripted(["two anew", "three"])
    with Cassette(path, "record", client, {"model": "toy"}) as tape:
        made, _ = naps_of(client, tape=tape, in_flight=1)
        replies = made.ask([ask(t, f"op/plan/{n}/0") for n, t in enumerate("abc")])
    assert [r.response.text for r in replies if r.response] == ["one", "two anew", "three"]
    assert [json.loads(line)["kind"] for line in path.read_text().splitlines()].count("call") == 3


def test_failures_at_the_end_are_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    down = LLMError("timeout", "late", billed=True)
    recorded(path, [down, "two", down], ["a", "b", "c"])
    client = Scripted(["three"])
    with Cassette(path, "record", client) as tape:
        made, _ = naps_of(client, tape=tape, in_flight=1)
        replies = made.ask([ask(t, f"op/plan/{n}/0") for n, t in enumerate("abc")])
    assert [r.response.text if r.response else r.error.kind for r in replies] == [  # type: ignore[union-attr]
        "timeout",
        "two",
        "three",
    ]


def test_what_was_asked_again_after_a_failure_is_what_came_of_it(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    recorded(path, ["one", LLMError("server", "503")], ["a", "b"])
    recorded(path, ["two", "three"], ["a", "b", "c"])
    client = Scripted(["four"])
    with Cassette(path, "record", client) as tape:
        made, _ = naps_of(client, tape=tape, in_flight=1)
        replies = made.ask([ask(t, f"op/plan/{n}/0") for n, t in enumerate("abcd")])
    said = [r.response.text if r.response else "" for r in replies]
    assert said == ["one", "two", "three", "four"]


@pytest.mark.parametrize("kind", ["auth", "server"])
def test_a_run_that_went_on_without_the_model_does_so_again(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "c.jsonl"

    def run(answers: list[str | Exception]) -> tuple[Caller, list[str], int]:
        client = Scripted(answers)
        with Cassette(path, "record", client) as tape:
            made, _ = naps_of(client, tape=tape, in_flight=1)
            replies = made.ask([ask(t, f"op/plan/{n}/0") for n, t in enumerate("abcde")])
            if "now" in answers:
                made.without()
        said = [r.response.text if r.response else r.error.kind for r in replies]  # type: ignore[union-attr]
        return made, said, len(client.asked)

    down: list[str | Exception] = ["one", *([LLMError(kind, "no")] * 15)]
    first, said, _ = run(down)
    assert said == (["one", "auth"] if kind == "auth" else ["one", "server", "server", "server"])
    # killed before it went on: the model is asked again
    again, said, asked = run([LLMError(kind, "no")] * 15 + ["now"])
    assert said[0] == "one" and again.stopped == first.stopped and asked > 0
    # it went on: what was found without the model stays found without it
    last, same, asked = run(["too late"] * 5)
    assert same == said and last.stopped == first.stopped and asked == 0


def test_what_was_under_way_when_a_run_was_killed_counts(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"

    class Paid(Scripted):
        paid = True

    class Killed(Exception):
        pass

    def run(answers: list[str | Exception], tokens: int) -> Caller:
        client = Paid(answers)
        with Cassette(path, "record", client) as tape:
            made, _ = naps_of(client, Caps(tokens=tokens), tape=tape, in_flight=1)
            made.ask([ask(t, f"op/plan/{n}/0", max_tokens=2000) for n, t in enumerate("ab")])
        return made

    run(["one", LLMError("rate_limit", "wait"), "two"], 9000)
    whole = path.read_text().splitlines()
    kinds = [json.loads(x)["kind"] for x in whole]
    assert kinds == ["cassette", "sent", "call", "sent", "returned", "sent", "call"]
    path.write_text("\n".join(whole[:-1]) + "\n")  # killed before the second answer
    more = run(["two"], 9000)
    assert more.accounts.failed == 0 and 2000 < more.accounts.usage.total < 3000
    again = run([], 9000)
    assert again.accounts.usage == more.accounts.usage  # the ledger has it
    path.write_text("\n".join(whole[:-1]) + "\n")
    short = run(["two"], 3000)  # nothing is left for asking again
    assert short.accounts.failed == 1 and short.accounts.usage.total <= 3000


def test_two_processes_do_not_write_one_ledger(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with Cassette(path, "record", Scripted([])):
        child = os.fork()
        if child == 0:
            try:
                Cassette(path, "record", Scripted([]))
            except CassetteError as e:
                os._exit(7 if "another process" in str(e) else 1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_server_that_says_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_API_KEY", "sk-0123456789")
    for _ in range(2):  # as it is said, and as it was recorded
        with Cassette(tmp_path / "c", "record", Scripted(["key sk-0123456789"])) as tape:
            made, _ = naps_of(tape.inner, tape=tape)
            (reply,) = made.ask([ask("my key is sk-0123456789")])
        assert reply.response is not None and reply.response.text == "key <TOY_API_KEY>"


def test_changed_prompts_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    recorded(path, ["one"], ["the old words"])
    tape = Cassette(path, "replay")
    assert tape.complete(ask("the new words")).text == "one"
    (drift,) = tape.drifts
    assert drift.logical == "op/plan/0/0"
    assert "-the old words" in drift.diff and "+the new words" in drift.diff
    with pytest.raises(LLMError, match="not as recorded") as caught:
        Cassette(path, "strict").complete(ask("the new words"))
    assert caught.value.kind == "drift"
    with pytest.raises(LLMError) as caught:
        Cassette(path, "strict").complete(ask("other", "op/plan/9/0"))
    assert caught.value.kind == "missing"


def test_damaged_cassettes(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with pytest.raises(CassetteError, match="does not exist"):
        Cassette(path)
    recorded(path, ["one"], ["a"])
    path.write_text(path.read_text().replace('"user"', '"other"'))
    with pytest.raises(CassetteError, match=r":2 is damaged \(the key is not that of"):
        Cassette(path)
    path.unlink()
    recorded(path, ["one"], ["a"])
    whole = path.read_text()
    changes = [
        ('"ordinal": 0', '"ordinal": []'),
        ('"output": ', '"output": -'),
        ('"response": {', '"response": [[], {'),
        ('"kind": "call"', '"kind": "stopped"'),
    ]
    for old, new in changes:
        assert old in whole
        path.write_text(whole.replace(old, new))
        with pytest.raises(CassetteError, match=":2 is damaged"):
            Cassette(path)
    path.write_text(whole + "[" * 100_000 + "\n")
    with pytest.raises(CassetteError, match=":3 is damaged"):
        Cassette(path)


def test_no_key_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_API_KEY", "sk-0123456789")
    path = tmp_path / "c.jsonl"
    with Cassette(path, "record", Scripted(["x"])) as tape:
        tape.note("trouble", message="bad key sk-0123456789")
    assert "sk-0123456789" not in path.read_text() and "<TOY_API_KEY>" in path.read_text()
    assert scrubbed("abc", {"KEY": "abc"}) == "abc"  # too short to be one


def test_a_dialogue_waits_for_files(tmp_path: Path) -> None:
    client = Dialogue(tmp_path, "somebody")
    with pytest.raises(LLMError) as caught:
        client.complete(ask())
    assert caught.value.kind == "waiting"
    (asked,) = (tmp_path / "requests").iterdir()
    assert "hello" in asked.read_text() and "# Contract" in asked.read_text()
    (tmp_path / "answers" / asked.name).write_text("an answer")
    found = client.complete(ask())
    assert found.text == "an answer" and found.model == "somebody" and found.usage.estimated
    second = ask("more", "../../x/../\x1b[31m/0")
    with pytest.raises(LLMError):
        client.complete(second)
    (path,) = [p for p in (tmp_path / "requests").iterdir() if p.name != asked.name]
    assert path.name.startswith("x-31m-0-")
    at = tmp_path / "answers" / path.name
    at.symlink_to("/dev/zero")
    with pytest.raises(LLMError, match="links are not followed"):
        client.complete(second)
    at.unlink()
    os.mkfifo(at)
    with pytest.raises(LLMError, match="no plain file"):
        client.complete(second)
