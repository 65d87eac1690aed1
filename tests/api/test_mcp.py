"""`opwright mcp`: a client of the SDK over standard input and output, and callers who mean ill."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.halved import PLAN, SOURCE, SPEC
from support.sandboxed import flags

from opwright.compiler.attending import LOCK, main
from opwright.mcp_client import Call, connected, listening, read_arguments
from opwright.mcp_sessions import Session
from opwright.outcome import Problem

mcp = pytest.importorskip("mcp", reason="the MCP SDK is not installed")


def with_server(root: Path, act: Callable[[Any, Call], Awaitable[None]]) -> None:
    """Run `act` with a client of a server in a process of its own."""

    async def main() -> None:
        async with connected(root, *flags()) as (client, call):
            await act(client, call)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPWRIGHT_CACHE", str(root / "cache"))
        asyncio.run(main())


@contextmanager
def at_a_socket(root: Path) -> Iterator[Path]:
    """A server that stays, and where it listens."""
    at = root / "socket"
    words = [sys.executable, "-m", "opwright", "mcp", "--root", str(root), "--socket", str(at)]
    env = {**os.environ, "OPWRIGHT_CACHE": str(root / "cache")}
    process = subprocess.Popen([*words, *flags()], stdout=subprocess.PIPE, text=True, env=env)
    try:
        assert process.stdout is not None and "listening" in process.stdout.readline()
        yield at
    finally:
        process.terminate()
        process.wait(30)


def test_a_candidate_on_its_way(tmp_path: Path) -> None:
    (tmp_path / "halved.op").write_text(SPEC)

    async def act(client: Any, call: Call) -> None:
        tools = {t.name: t for t in (await client.list_tools()).tools}
        assert {"check_spec", "next_task", "submit_candidate", "get_verdict"} <= set(tools)
        assert not any("write" in n or "set" in n.split("_") for n in tools)
        assert "halved.op" in (await call("list_specs"))["specs"]
        told = await call("describe_operator", spec="halved.op", wait=60)
        assert told["result"]["operator"] == "halved@1.0"
        assert "0.5 * x[i" in told["result"]["index_notation"]
        begun = await call("start_search", spec="halved.op", builtin_candidates=2, budget=6)
        session = begun["session"]
        task = await call("next_task", session=session, wait=60)
        while task["state"] not in ("waiting", "failed"):
            task = await call("next_task", session=session, wait=60)
        assert task["parent"]["source"] and task["parent"]["plan"]["backend"] == "cpp"
        assert task["spec"] == SPEC and task["contract"] and task["profile"]["workloads"]["one"]

        advice = task["advice"]
        assert advice["parent"] == task["parent"]["number"] and advice["move"]["name"]
        assert task["profile"]["report"]["readings"]["one.latency"]["basis"] == "measured"
        if shutil.which("objdump"):
            assert task["profile"]["report"]["readings"]["loop0.width"]["basis"] == "compiled"

        async def judged(source: str, plan: dict[str, Any] = PLAN) -> dict[str, Any]:
            handed = await call(
                "submit_candidate", session=session, plan=plan, source=source, note="in blocks"
            )
            found: dict[str, Any] = {"state": "pending"}
            while found["state"] == "pending":
                found = await call(
                    "get_verdict", session=session, submission=handed["submission"], wait=60
                )
            return found

        good = await judged(SOURCE)
        assert good["status"] == "ok" and good["rank"] >= 1 and good["times"]["one"] > 0
        assert good["gates"]["G2"] == {"PROVED": good["gates"]["G2"]["PROVED"]}
        wrong = await judged(SOURCE.replace("0.5f", "0.6f"))
        assert wrong["status"] in ("wrong", "refuted") and wrong["rank"] is None
        assert "expected" not in json.dumps(wrong)
        outside = await judged(SOURCE.replace("i < end;", "i <= end;"))
        assert outside["status"] == "refuted"
        assert any(r.get("counterexample") for r in outside["records"])
        listed = (await call("list_candidates", session=session))["candidates"]
        assert [c["status"] for c in listed][-3:] == [good["status"], wrong["status"], "refuted"]
        mine = await call("get_candidate", session=session, number=good["number"])
        assert mine["source"] == SOURCE and mine["profile"]["workloads"]["one"]["latency_s"]
        best = await call("best_candidate", session=session)
        assert best["rank"] == 1
        await call("finish_search", session=session)
        end = await call("session_status", session=session, until="end", wait=60)
        while end["state"] not in ("finished", "failed", "stopped", "lost"):
            end = await call("session_status", session=session, until="end", wait=60)
        assert end["state"] == "finished" and Path(end["wheel"]).exists()
        late = await call("submit_candidate", session=session, plan=PLAN, source=SOURCE)
        assert "takes no candidates" in late["refused"]

    with_server(tmp_path, act)


def test_a_session_that_was_killed_goes_on(tmp_path: Path) -> None:
    (tmp_path / "halved.op").write_text(SPEC)

    async def waiting(call: Call, session: str) -> dict[str, Any]:
        found = await call("session_status", session=session, until="waiting", wait=60)
        while found["state"] not in ("waiting", "failed", "lost", "stopped", "finished"):
            found = await call("session_status", session=session, until="waiting", wait=60)
        return found

    kept: dict[str, Any] = {}

    async def first(client: Any, call: Call) -> None:
        begun = await call("start_search", spec="halved.op", builtin_candidates=2, budget=4)
        kept["session"] = begun["session"]
        assert (await waiting(call, begun["session"]))["evaluated"] == 2
        folder = tmp_path / "cache" / "sessions" / begun["session"]
        os.kill(json.loads((folder / "state.json").read_text())["process"], signal.SIGKILL)
        lost = await call("session_status", session=begun["session"], until="end", wait=30)
        assert lost["state"] == "lost"

    async def second(call: Call) -> None:
        session = kept["session"]
        assert session in [s["session"] for s in (await call("list_sessions"))["sessions"]]
        await call("resume_search", session=session)
        again = await waiting(call, session)
        assert again["state"] == "waiting" and again["evaluated"] == 2
        listed = (await call("list_candidates", session=session))["candidates"]
        assert [c["number"] for c in listed] == list(range(len(listed)))

    async def again(at: Path, act: Callable[[Call], Awaitable[None]]) -> None:
        async with listening(at) as (_, call):
            await act(call)

    async def third(call: Call) -> None:  # sessions outlive who began them
        assert (await call("session_status", session=kept["session"]))["state"] == "waiting"

    with_server(tmp_path, first)
    with at_a_socket(tmp_path) as at:
        assert stat.S_IMODE(at.stat().st_mode) == 0o600
        asyncio.run(again(at, second))
        asyncio.run(again(at, third))
        words = [sys.executable, "-m", "opwright", "mcp", "call", "--socket", str(at)]
        said = subprocess.run([*words, "list_specs"], capture_output=True, text=True)
        assert said.returncode == 0 and "halved.op" in json.loads(said.stdout)["specs"]
        no = subprocess.run([*words, "next_task", '{"session": "00000000"}'], capture_output=True)
        assert no.returncode == 1 and b"refused" in no.stdout
    with pytest.raises(Problem, match="nobody listens"):
        asyncio.run(again(at, third))


def test_a_session_that_another_server_judges(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"state": "waiting"}')
    session = Session("00000000", tmp_path)
    assert session.state()["state"] == "lost"
    code = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(1)"
    words = [sys.executable, "-c", code + "; sys.stdout.flush(); sys.stdin.read()"]
    with subprocess.Popen(
        [*words, str(tmp_path / LOCK)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline()
        assert session.running and session.state()["state"] == "waiting"
        assert main([str(tmp_path)]) == 1  # nor does a second process judge
    assert not session.running


def test_arguments_of_a_shell(tmp_path: Path) -> None:
    (tmp_path / "kernel.cpp").write_text(SOURCE)
    (tmp_path / "candidate.json").write_text(json.dumps(PLAN))
    files = [f"source={tmp_path / 'kernel.cpp'}", f"plan={tmp_path / 'candidate.json'}"]
    found = read_arguments('{"session": "01234567"}', files)
    assert found == {"session": "01234567", "source": SOURCE, "plan": PLAN}
    for text, more in (("[1]", []), ("{", []), ("{}", ["source"]), ("{}", ["a=/no/such"])):
        with pytest.raises(Problem):
            read_arguments(text, more)


def test_callers_who_mean_ill(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.op").write_text(SPEC)
    (root / "link.op").symlink_to(tmp_path / "secret.op")
    (root / "huge.op").write_text("#" * (300 << 10))
    (root / "halved.op").write_text(SPEC)

    async def act(client: Any, call: Call) -> None:
        specs = (await call("list_specs"))["specs"]
        assert "halved.op" in specs and "link.op" not in specs
        for spec in (
            *("../secret.op", "/etc/passwd", str(tmp_path / "secret.op"), "link.op", "huge.op"),
            *("halved.txt", "", "a\0b.op", "library:../../etc/passwd.op", "x" * 300_000),
            "op f {\n" + "x" * 280_000,
        ):
            assert "refused" in await call("describe_operator", spec=spec), spec[:40]
        for arguments in (
            *({"spec": 7}, {"spec": ["halved.op"]}, {}, {"spec": "halved.op", "budget": 0}),
            {"spec": "halved.op", "budget": 10**9},
            {"spec": "halved.op", "builtin_candidates": 9, "budget": 3},
            {"spec": "halved.op", "backend": "../cpp"},
            {"spec": "halved.op", "target": "cpu; rm -rf /"},
            {"spec": "halved.op", "types": {"T": "f32; drop"}},
            {"spec": "halved.op", "operator": "halved --out /"},
            {"spec": "halved.op", "seed": "no number"},
        ):
            assert "refused" in await call("start_search", **arguments), arguments
        for session in ("../../etc", "deadbeef", "", "0" * 9, "a" * 5000):
            for tool in ("session_status", "next_task", "list_candidates", "finish_search"):
                assert "refused" in await call(tool, session=session)
            assert "refused" in await call("get_verdict", session=session, submission="s0001")
        assert "refused" in await call("get_job", job="../x")
        assert "refused" in await call("no_such_tool")

    with_server(root, act)


def test_candidates_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from opwright.mcp_sessions import Refusal, Session, Sessions, Specs

    monkeypatch.setenv("OPWRIGHT_CACHE", str(tmp_path / "cache"))
    sessions = Sessions(Specs(tmp_path))
    path = sessions.folder / "0123abcd"
    answers = path / "desk" / "round-1" / "answers"
    answers.mkdir(parents=True)
    (path / "session.json").write_text(json.dumps({"budget": 3, "backend": "cpp"}))
    session = sessions.get("0123abcd")

    class Alive:
        def poll(self) -> None: ...

    (path / "state.json").write_text(json.dumps({"state": "waiting"}))

    monkeypatch.setattr(session, "process", Alive())
    for plan, source in (
        *((None, SOURCE), ([], SOURCE), ("{}", SOURCE), ({}, SOURCE), (PLAN, ""), (PLAN, 7)),
        (PLAN, "x" * ((1 << 20) + 1)),
        (PLAN, "\0"),
        (PLAN, "\ud800"),
        ({**PLAN, "source": "../../kernel.cpp"}, SOURCE),
        ({**PLAN, "source": "/etc/passwd"}, SOURCE),
        ({**PLAN, "source": "candidate.json"}, SOURCE),
        ({**PLAN, "verdict": "PROVED"}, SOURCE),
        ({**PLAN, "note": "x" * (3 << 20)}, SOURCE),
    ):
        with pytest.raises(Refusal):
            sessions.submit("0123abcd", plan, source, "")
    assert list(answers.iterdir()) == []
    assert sessions.submit("0123abcd", PLAN, SOURCE, "n" * 9000) == "s0001"
    assert sessions.submit("0123abcd", PLAN, SOURCE, "") == "s0002"
    assert sorted(p.name for p in answers.iterdir()) == ["s0001.json", "s0002.json"]
    assert isinstance(session, Session)
