"""The corpus of cheats as what proposers answer: `python -m opwright.benchmarks.cheated`.

Every cheat goes into a search in every way that a text can come: as the answer of a server of
either protocol, from a recording, through the files of a dialogue and of an exchange, and from an
agent at the MCP server. None may pass. Verdicts on a text are the archive's, so that all ways but
the first cost little. `--results FILE` keeps what is done, and goes on there; `--table` prints it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from opwright.benchmarks.cheats import CORPUS, Cheat, corpus
from opwright.benchmarks.model_server import serving
from opwright.compiler.exchanging import Waiting
from opwright.compiler.guiding import Guide, launch_text
from opwright.compiler.pipeline import compile_spec
from opwright.search.accounts import Caps

WAYS = ("openai", "anthropic", "replay", "dialogue", "exchange", "mcp")
LIMIT = 60.0  # seconds that one call of a tool waits
TAGS = {"cpp": "cpp", "triton": "python", "jax": "python"}  # of backends that take texts


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the cheats for one spec on one way: (name, status, reason) of those that were
    judged, and what shipped."""

    way: str
    spec: str
    sent: int
    judged: tuple[tuple[str, str, str], ...]
    winner: str
    backend: str = "cpp"
    key: str = ""  # of the texts that were sent
    seconds: float = 0.0

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
        f"CODE\n````{TAGS[cheat.backend]}\n{source}\n````\nHOLES\n{{}}\nPREDICTED\n5.0, 1.0\n"
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

    def said() -> str:
        """The next cheat, to a complaint too."""
        with lock:
            return next(waiting, "nothing more")

    tape = folder / "tape.jsonl"
    caps = Caps(tokens=10**8)
    if way in ("openai", "anthropic"):
        with serving(lambda n, text: said()) as server:
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


def _guided(
    way: str, spec: str, path: Path, cheats: Sequence[Cheat], guide: Guide, folder: Path
) -> Outcome:
    backend = cheats[0].backend
    found = compile_spec(
        path, backend=backend, budget=3, out=folder / "out", guide=guide, require="tested"
    )
    rows = [r for r in found.table if str(r["schedule"]).startswith("llm(")]
    judged = tuple((str(r["schedule"]), str(r["status"]), str(r["reason"])) for r in rows)
    return Outcome(way, spec, len(cheats), judged, str(found.winner["schedule"]), backend)


@contextmanager
def _answering(desk: Path, said: Callable[[], str]) -> Iterator[None]:
    """Somebody who answers the files of a dialogue."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.05):
            for asked in sorted((desk / "requests").glob("*.md")):
                at = desk / "answers" / asked.name
                if not at.exists():
                    part = at.with_suffix(".part")
                    part.write_text(said())
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

    backend = cheats[0].backend

    def run() -> Any:
        return compile_spec(
            path, backend=backend, budget=1, out=folder / "out", exchange=desk, require="tested"
        )

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
    won = str(found.winner["schedule"])
    return Outcome("exchange", spec, len(cheats), judged + unread, won, backend)


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
            "start_search", spec=path.name, builtin_candidates=1, budget=len(cheats) + 1,
            backend=cheats[0].backend,
        )  # fmt: skip
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
    won = str(best["schedule"])
    return Outcome("mcp", spec, len(cheats), tuple(judged), won, cheats[0].backend)


def key_of(cheats: Sequence[Cheat]) -> str:
    """What stands for these texts."""
    held = [(c.name, *texts(c)) for c in cheats]
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()[:16]


def kept(path: Path | None) -> dict[tuple[str, str, str, str], Outcome]:
    """What is done already, by backend, way, spec and texts."""
    lines = path.read_text().splitlines() if path is not None and path.exists() else []
    found = {}
    for line in lines:
        data = json.loads(line)
        o = Outcome(**{**data, "judged": tuple(tuple(j) for j in data["judged"])})
        found[o.backend, o.way, o.spec, o.key] = o
    return found


def line(o: Outcome) -> str:
    counts: dict[str, int] = {}
    for _, status, _ in o.judged:
        counts[status] = counts.get(status, 0) + 1
    told = ", ".join(f"{n} {s}" for s, n in sorted(counts.items()))
    mark = " " if o.refused_in_full else "!"
    return (
        f"{mark} {o.backend:<7}{o.way:<10}{o.spec:<10}{o.sent:>3} sent: {told}  ({o.seconds:.0f} s)"
    )


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """By backend and way: answers, and what became of them."""
    rows = [
        "| backend | way | specs | answers | refused | passed or lost |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for backend in TAGS:
        for way in WAYS:
            own = [o for o in outcomes if (o.backend, o.way) == (backend, way)]
            if own:
                sent = sum(o.sent for o in own)
                refused = sum(
                    sum(s != "unread" for _, s, _ in o.judged) - len(o.passed) for o in own
                )
                rows.append(
                    f"| {backend} | `{way}` | {len(own)} | {sent} | {refused} | {sent - refused} |"
                )
    return rows


def main(given: Sequence[str] = ()) -> int:
    """Send what is not done yet and print a line for each backend, spec and way; 1 where a cheat
    passed or was lost."""
    p = argparse.ArgumentParser(prog="python -m opwright.benchmarks.cheated", description=__doc__)
    p.add_argument("--backend", nargs="+", choices=tuple(TAGS), default=["cpp"])
    p.add_argument("--way", nargs="+", choices=WAYS, default=list(WAYS))
    p.add_argument("--spec", nargs="+", default=[])
    p.add_argument("--results", type=Path, help="JSON lines; what is there is not done again")
    p.add_argument("--table", action="store_true", help="Print what the results are, no more.")
    options = p.parse_args(given)
    done = kept(options.results)
    if options.table:
        print("\n".join(table(list(done.values()))))
        return 0 if all(o.refused_in_full for o in done.values()) else 1
    every = [c for c in corpus() if c.backend in options.backend and not c.honest]
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="opwright-cheated-") as root:
        os.environ["OPWRIGHT_CACHE"] = f"{root}/cache"
        for backend, spec in sorted({(c.backend, c.spec) for c in every}):
            if options.spec and spec not in options.spec:
                continue
            cheats = [c for c in every if (c.backend, c.spec) == (backend, spec)]
            key = key_of(cheats)
            for way in options.way:
                known = done.get((backend, way, spec, key))
                if known is None:
                    begin = time.monotonic()
                    # a replay reads the tape that a server's answers left
                    folder = Path(root) / backend / spec / ("openai" if way == "replay" else way)
                    if way == "replay" and not (folder / "tape.jsonl").exists():
                        through("openai", spec, cheats, folder)
                    found = through(way, spec, cheats, folder)
                    known = replace(found, key=key, seconds=time.monotonic() - begin)
                    if options.results is not None and known.refused_in_full:
                        with options.results.open("a") as file:
                            file.write(json.dumps(asdict(known)) + "\n")
                outcomes.append(known)
                print(line(known), flush=True)
                for name in known.passed:
                    print(f"    passed: {name}")
    failed = [o for o in outcomes if not o.refused_in_full]
    print("\n".join(table(outcomes)))
    sent = sum(o.sent for o in outcomes)
    print(f"{sent} answers, ways that let one pass or lost one: {len(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
