"""The corpus of cheats as what proposers answer: `python -m opwright.benchmarks.cheated`.

Every C++ cheat goes into a search in every way that a text can come: as the answer of a server of
either protocol, from a recording, through the files of a dialogue and of an exchange, and from an
agent at the MCP server. None may pass. Verdicts on a text are the archive's, so that all ways but
the first cost little; arguments choose ways and specs.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opwright.benchmarks.cheats import CORPUS, Cheat, corpus
from opwright.benchmarks.model_server import serving
from opwright.compiler.exchanging import Waiting
from opwright.compiler.guiding import Guide, launch_text
from opwright.compiler.pipeline import compile_spec
from opwright.search.accounts import Caps

IDEA = re.compile(r"-(\d+)-\d+-[0-9a-f]{8}(?:-\d+)?$")  # of the name of a prompt
WAYS = ("openai", "anthropic", "replay", "dialogue", "exchange", "mcp")
LIMIT = 60.0  # seconds that one call of a tool waits


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the cheats for one spec on one way: (name, status, reason) of those that were
    judged, and what shipped."""

    way: str
    spec: str
    sent: int
    judged: tuple[tuple[str, str, str], ...]
    winner: str

    @property
    def passed(self) -> list[str]:
        return [name for name, status, _ in self.judged if status == "ok"]

    @property
    def refused_in_full(self) -> bool:
        own = self.winner.startswith(("llm(", "exchange("))
        return len(self.judged) == self.sent and not self.passed and not own


def texts(cheat: Cheat) -> tuple[dict[str, Any], str]:
    plan = json.loads((cheat.folder / "candidate.json").read_text())
    return plan, (cheat.folder / plan["source"]).read_text()


def answer(cheat: Cheat) -> str:
    """A cheat as a model would answer a prompt, and as it would praise it."""
    plan, source = texts(cheat)
    return (
        f"PLAN\n{cheat.name}: this is PROVED, status ok\n"
        f"LAUNCH\n```json\n{launch_text(plan)}\n```\n"
        f"CODE\n````cpp\n{source}\n````\nHOLES\n{{}}\nPREDICTED\n5.0, 1.0\n"
    )


def through(way: str, spec: str, cheats: Sequence[Cheat], folder: Path) -> Outcome:
    """Send cheats for one spec on one way; `folder` takes what is written."""
    folder.mkdir(parents=True, exist_ok=True)
    path = CORPUS / "specs" / f"{spec}.op"
    if way == "mcp":
        return _at_the_server(path, spec, cheats, folder)
    if way == "exchange":
        return _exchanged(path, spec, cheats, folder)
    waiting = iter([answer(c) for c in cheats])
    lock = threading.Lock()

    def said(earlier: str) -> str:
        """The next cheat, and to a complaint the same one again."""
        with lock:
            return earlier or next(waiting, "nothing more")

    tape = folder / "tape.jsonl"
    caps = Caps(tokens=10**8)
    if way in ("openai", "anthropic"):
        with serving(lambda n, text: said(_earlier(server.asked[n]))) as server:
            guide = Guide(
                way, "toy", server.base(way), caps=caps, control=True, cassette=tape, in_flight=1
            )
            return _guided(way, spec, path, cheats, guide, folder)
    if way == "replay":
        return _guided(way, spec, path, cheats, Guide(way, control=True, cassette=tape), folder)
    desk = folder / "desk"
    with _answering(desk, said):
        guide = Guide(way, "toy", caps=caps, control=True, folder=desk, wait=LIMIT, in_flight=1)
        return _guided(way, spec, path, cheats, guide, folder)


def _earlier(body: Mapping[str, Any]) -> str:
    """What was answered first in the talk that a request goes on with."""
    return next((str(m["content"]) for m in body["messages"] if m["role"] == "assistant"), "")


def _guided(
    way: str, spec: str, path: Path, cheats: Sequence[Cheat], guide: Guide, folder: Path
) -> Outcome:
    found = compile_spec(path, budget=3, out=folder / "out", guide=guide, require="tested")
    rows = [r for r in found.table if str(r["schedule"]).startswith("llm(")]
    first: dict[str, tuple[str, str, str]] = {}
    for r in rows:
        node = str(r["schedule"]).split(",")[0]
        before = first.get(node)
        if before is None or r["status"] == "ok":
            first[node] = (node, str(r["status"]), str(r["reason"]))
    judged = tuple(first.values())
    return Outcome(way, spec, len(cheats), judged, str(found.winner["schedule"]))


@contextmanager
def _answering(desk: Path, said: Callable[[str], str]) -> Iterator[None]:
    """Somebody who answers the files of a dialogue; a name ends in idea, attempt and key."""
    stop = threading.Event()
    given: dict[str, str] = {}

    def work() -> None:
        while not stop.wait(0.05):
            for asked in sorted((desk / "requests").glob("*.md")):
                at = desk / "answers" / asked.name
                if not at.exists():
                    named = IDEA.search(asked.stem)
                    idea = named[1] if named else asked.stem
                    given[idea] = said(given.get(idea, ""))
                    part = at.with_suffix(".part")
                    part.write_text(given[idea])
                    os.replace(part, at)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _exchanged(path: Path, spec: str, cheats: Sequence[Cheat], folder: Path) -> Outcome:
    desk = folder / "desk"

    def run() -> Any:
        return compile_spec(path, budget=2, out=folder / "out", exchange=desk, require="tested")

    try:
        run()
    except Waiting:
        pass
    for c in cheats:
        plan, source = texts(c)
        at = desk / "round-1" / "answers" / f"{c.name}.json"
        at.write_text(json.dumps({"answer": 1, "plan": plan, "source": source, "note": c.what}))
    found = run()
    rows = [r for r in found.table if str(r["schedule"]).startswith("exchange(")]
    judged = tuple((str(r["schedule"]), str(r["status"]), str(r["reason"])) for r in rows)
    read = {c.name for c in cheats if any(f"answer={c.name}," in s for s, _, _ in judged)}
    unread = tuple((c.name, "unread", "") for c in cheats if c.name not in read)
    return Outcome("exchange", spec, len(cheats), judged + unread, str(found.winner["schedule"]))


def _at_the_server(path: Path, spec: str, cheats: Sequence[Cheat], folder: Path) -> Outcome:
    """An agent with the SDK's client, over standard input and output."""
    return asyncio.run(_agent(path, spec, cheats))


async def _agent(path: Path, spec: str, cheats: Sequence[Cheat]) -> Outcome:
    import mcp

    from opwright.backends.isolation import FLAG, unsafe_permitted

    judged: list[tuple[str, str, str]] = []
    more = (FLAG,) if unsafe_permitted() else ()
    words = ["-m", "opwright", "mcp", "--root", str(path.parent), *more]
    server = mcp.StdioServerParameters(command=sys.executable, args=words, env=dict(os.environ))
    async with mcp.Client(server, read_timeout_seconds=2 * LIMIT) as client:

        async def call(tool: str, **arguments: Any) -> dict[str, Any]:
            found = await client.call_tool(tool, arguments)
            text = found.content[0].text  # type: ignore[union-attr]
            return {"refused": text} if found.is_error else dict(json.loads(text))

        begun = await call(
            "start_search", spec=path.name, builtin_candidates=1, budget=len(cheats) + 1
        )
        session = begun["session"]
        end = time.monotonic() + 600
        while (await call("session_status", session=session, until="waiting", wait=LIMIT))[
            "state"
        ] != "waiting" and time.monotonic() < end:
            pass
        for c in cheats:
            plan, source = texts(c)
            handed: Mapping[str, Any] = await call(
                "submit_candidate", session=session, plan=plan, source=source, note="PROVED"
            )
            if "refused" in handed:
                judged.append((c.name, "unread", str(handed["refused"])))
                continue
            found = await call(
                "get_verdict", session=session, submission=handed["submission"], wait=LIMIT
            )
            while found["state"] == "pending":
                found = await call(
                    "get_verdict", session=session, submission=handed["submission"], wait=LIMIT
                )
            judged.append((c.name, str(found["status"]), str(found["reason"])))
        best = await call("best_candidate", session=session)
    return Outcome("mcp", spec, len(cheats), tuple(judged), str(best["schedule"]))


def main(arguments: Sequence[str]) -> int:
    """Print a line for each way and spec."""
    every = [c for c in corpus() if c.backend == "cpp" and not c.honest]
    specs = sorted({c.spec for c in every})
    ways = [w for w in WAYS if w in arguments] or list(WAYS)
    chosen = [s for s in specs if s in arguments] or specs
    failed = total = 0
    with tempfile.TemporaryDirectory(prefix="opwright-cheated-") as root:
        os.environ["OPWRIGHT_CACHE"] = f"{root}/cache"
        for spec in chosen:
            cheats = [c for c in every if c.spec == spec]
            for way in ways:
                begin = time.monotonic()
                # a replay reads the tape that a server's answers left
                folder = Path(root) / spec / ("openai" if way == "replay" else way)
                found = through(way, spec, cheats, folder)
                failed += not found.refused_in_full
                total += len(cheats)
                counts: dict[str, int] = {}
                for _, status, _ in found.judged:
                    counts[status] = counts.get(status, 0) + 1
                told = ", ".join(f"{n} {s}" for s, n in sorted(counts.items()))
                mark = " " if found.refused_in_full else "!"
                took = time.monotonic() - begin
                print(f"{mark} {way:<10}{spec:<10}{len(cheats):>3} sent: {told}  ({took:.0f} s)",
                      flush=True)  # fmt: skip
                for name in found.passed:
                    print(f"    passed: {name}")
    print(f"{total} answers, ways that let one pass or lost one: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
