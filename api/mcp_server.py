"""`opwright mcp`: a server of the Model Context Protocol, for a coding agent that writes kernels.

Tools alone; what they do lives in `api/mcp_sessions.py`. A candidate goes in, a verdict comes out;
nothing here writes a verdict, and nothing tells what the reference computes.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

import opwright
from opwright.mcp_client import required
from opwright.mcp_sessions import (
    LONGEST_WAIT,
    SUBMISSION,
    Refusal,
    Session,
    Sessions,
    Specs,
    candidate_text,
    full,
    known,
    named,
    profiled,
    ranks,
    row,
    status,
    task,
    told,
    verdict,
)
from opwright.outcome import HOLDS, Problem
from opwright.search.archive import ArchiveError

if TYPE_CHECKING:
    from mcp.server import MCPServer

INSTRUCTIONS = """Opwright compiles operator specs into kernels that are proved and measured. You \
write candidates; a machine judges them, and nothing that you say about them counts.

1. list_specs, then describe_operator (and check_spec for a spec of your own).
2. start_search: the built-in proposer tries some candidates first, then yours are taken.
3. next_task: contract, spec, hardware, the best candidate so far with text and times, moves.
4. submit_candidate, then get_verdict: gates, counterexamples, times, rank. Repeat 3 and 4.
5. finish_search: finalists are measured side by side and the best becomes a package.

Long work goes on behind an id: get_job, get_verdict and session_status wait up to `wait` seconds \
and are asked again. Lower scores are better; 1 is candidate 0."""

Spec = Annotated[
    str, Field(description="A name from list_specs, or the text of a spec.", max_length=300_000)
]
Types = Annotated[
    dict[str, str] | None, Field(description="Type variables, as {'T': 'f32'}; else the first.")
]
Ident = Annotated[str, Field(description="The session's id.", max_length=16)]
Wait = Annotated[
    float, Field(description="Seconds to wait before answering anyway.", ge=0, le=LONGEST_WAIT)
]


async def waited(
    look: Callable[[], dict[str, Any]], done: Callable[[dict[str, Any]], bool], wait: float
) -> dict[str, Any]:
    """What `look` says once it is done or the time is over."""
    import anyio

    end = time.monotonic() + wait
    while True:
        found = await anyio.to_thread.run_sync(look)
        if done(found) or time.monotonic() >= end:
            return found
        await anyio.sleep(0.2)


def server(sessions: Sessions, lasting: bool = False) -> MCPServer:
    """The server with its tools. Sessions end with the client, or with a `lasting` server."""
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError

    @asynccontextmanager
    async def lifespan(_: MCPServer[None]) -> AsyncIterator[None]:
        try:
            yield
        finally:
            if not lasting:
                sessions.close()

    app: MCPServer[None] = MCPServer(
        "opwright",
        instructions=INSTRUCTIONS,
        version=opwright.__version__,
        lifespan=lifespan,
        log_level="ERROR",
    )

    async def answer(call: Callable[[], Awaitable[Mapping[str, Any]]]) -> dict[str, Any]:
        """A reply, or an error that says what the caller may change."""
        try:
            return told(await call())
        except (Refusal, ArchiveError, Problem) as e:
            raise ToolError(str(e)) from None

    def one(session: str) -> Session:
        return sessions.get(session)

    @app.tool(structured_output=False)
    async def list_specs() -> dict[str, Any]:
        """Names of the specs that can be compiled."""

        async def call() -> Mapping[str, Any]:
            return {"specs": sessions.specs.listed()}

        return await answer(call)

    @app.tool(structured_output=False)
    async def check_spec(spec: Spec, wait: Wait = 30) -> dict[str, Any]:
        """Parse a spec and prove its own obligations: diagnostics with places, codes and cures."""

        async def call() -> Mapping[str, Any]:
            job = sessions.check(spec)
            return await waited(lambda: sessions.job(job), lambda f: f["state"] != "running", wait)

        return await answer(call)

    @app.tool(structured_output=False)
    async def describe_operator(
        spec: Spec,
        operator: Annotated[str, Field(description="Where a spec has several.")] = "",
        types: Types = None,
        wait: Wait = 30,
    ) -> dict[str, Any]:
        """What an operator is: index notation, interface, workloads, cost, tolerance, bindings."""

        async def call() -> Mapping[str, Any]:
            job = sessions.describe(spec, operator, types)
            return await waited(lambda: sessions.job(job), lambda f: f["state"] != "running", wait)

        return await answer(call)

    @app.tool(structured_output=False)
    async def get_job(
        job: Annotated[str, Field(description="The id.", max_length=16)], wait: Wait = 30
    ) -> dict[str, Any]:
        """What came of check_spec or describe_operator."""

        async def call() -> Mapping[str, Any]:
            return await waited(lambda: sessions.job(job), lambda f: f["state"] != "running", wait)

        return await answer(call)

    @app.tool(structured_output=False)
    async def start_search(
        spec: Spec,
        operator: Annotated[str, Field(description="Where a spec has several.")] = "",
        types: Types = None,
        backend: Annotated[str, Field(description="cpp, triton or jax.")] = "cpp",
        target: Annotated[str, Field(description="The backend's own default if empty.")] = "",
        builtin_candidates: Annotated[int, Field(description="Tried before yours.", ge=1)] = 6,
        budget: Annotated[int, Field(description="Candidates in all.", ge=1)] = 50,
        seed: Annotated[int, Field(description="Of test inputs.", ge=0, lt=2**31)] = 0,
    ) -> dict[str, Any]:
        """Begin a search that takes your candidates; gives the session's id at once."""

        async def call() -> Mapping[str, Any]:
            ident = sessions.start(
                spec, operator, types, backend, target, builtin_candidates, budget, seed
            )
            return {"session": ident, **status(one(ident))}

        return await answer(call)

    @app.tool(structured_output=False)
    async def list_sessions() -> dict[str, Any]:
        """All sessions, also those of an earlier server."""

        async def call() -> Mapping[str, Any]:
            return {"sessions": sessions.listed()}

        return await answer(call)

    @app.tool(structured_output=False)
    async def resume_search(session: Ident) -> dict[str, Any]:
        """Go on with a session that was stopped or lost; what was judged is not judged again."""

        async def call() -> Mapping[str, Any]:
            return {"session": session, **status(sessions.resume(session))}

        return await answer(call)

    @app.tool(structured_output=False)
    async def session_status(
        session: Ident,
        until: Annotated[str, Field(description="waiting: for your candidate; or end.")] = "",
        wait: Wait = 0,
    ) -> dict[str, Any]:
        """What a search is doing, what is left of its budget, where the package is at the end."""
        stages = {"": (), "waiting": ("waiting",), "end": ()}

        async def call() -> Mapping[str, Any]:
            if until not in stages:
                raise Refusal("until is waiting, end, or empty")
            ends = ("finished", "failed", "stopped", "lost", *stages[until])
            return await waited(
                lambda: {"session": session, **status(one(session))},
                lambda f: not until or f["state"] in ends,
                wait,
            )

        return await answer(call)

    @app.tool(structured_output=False)
    async def next_task(session: Ident, wait: Wait = 30) -> dict[str, Any]:
        """What to write next: contract, spec, hardware, the best so far with text, times and
        profile, moves, what was tried. Waits until there is a parent."""

        async def call() -> Mapping[str, Any]:
            return await waited(
                lambda: {"session": session, **task(one(session))},
                lambda f: f.get("state") in ("waiting", "finished", "failed", "stopped", "lost"),
                wait,
            )

        return await answer(call)

    @app.tool(structured_output=False)
    async def submit_candidate(
        session: Ident,
        plan: Annotated[dict[str, Any], Field(description="What would be candidate.json.")],
        source: Annotated[
            str, Field(description="The text of the file that the plan names.", max_length=1 << 20)
        ],
        note: Annotated[str, Field(description="What it does; kept with it.")] = "",
    ) -> dict[str, Any]:
        """Hand in a candidate: a launch plan and its source. Gives the submission's id at once."""

        async def call() -> Mapping[str, Any]:
            return {
                "session": session,
                "submission": sessions.submit(session, plan, source, note),
                "state": "pending",
            }

        return await answer(call)

    @app.tool(structured_output=False)
    async def get_verdict(
        session: Ident,
        submission: Annotated[str, Field(description="As submit_candidate gave it.")],
        wait: Wait = 30,
    ) -> dict[str, Any]:
        """What the gates and the clock say of a submission: status, obligations that are not
        proved, counterexamples, times, score and rank."""

        async def call() -> Mapping[str, Any]:
            named(submission, SUBMISSION, "submission")
            return await waited(
                lambda: verdict(one(session), submission), lambda f: f["state"] != "pending", wait
            )

        return await answer(call)

    @app.tool(structured_output=False)
    async def list_candidates(session: Ident) -> dict[str, Any]:
        """All candidates of a search, the built-in proposer's too, with scores and ranks."""

        async def call() -> Mapping[str, Any]:
            archive, history = known(one(session).history())
            archive.close()
            places = ranks(history)
            return {"candidates": [row(n, places) for n in history.nodes]}

        return await answer(call)

    @app.tool(structured_output=False)
    async def get_candidate(session: Ident, number: Annotated[int, Field(ge=0)]) -> dict[str, Any]:
        """Plan, source, verdict and profile of one candidate."""

        async def call() -> Mapping[str, Any]:
            archive, history = known(one(session).history())
            with archive:
                node = history.node(number)
                if node is None:
                    raise Refusal("the search has no candidate of that number")
                texts = archive.texts(history.id, number)
            more = {"profile": profiled(one(session), node, history)}
            return {**full(node, history), **candidate_text(texts), **more}

        return await answer(call)

    @app.tool(structured_output=False)
    async def get_profile(session: Ident, number: Annotated[int, Field(ge=0)]) -> dict[str, Any]:
        """What is known of a candidate's speed, each number as measured, compiled or modelled."""

        async def call() -> Mapping[str, Any]:
            archive, history = known(one(session).history())
            archive.close()
            node = history.node(number)
            if node is None:
                raise Refusal("the search has no candidate of that number")
            return profiled(one(session), node, history)

        return await answer(call)

    @app.tool(structured_output=False)
    async def best_candidate(session: Ident) -> dict[str, Any]:
        """The best candidate so far: plan, source, verdict."""

        async def call() -> Mapping[str, Any]:
            archive, history = known(one(session).history())
            with archive:
                places = ranks(history)
                node = next((n for n in history.nodes if places.get(n.number) == 1), None)
                if node is None:
                    raise Refusal("no candidate has passed yet")
                texts = archive.texts(history.id, node.number)
            return {**full(node, history), **candidate_text(texts)}

        return await answer(call)

    @app.tool(structured_output=False)
    async def finish_search(session: Ident) -> dict[str, Any]:
        """End a search: finalists are confirmed and the best is packaged; ask session_status."""

        async def call() -> Mapping[str, Any]:
            return {"session": session, **status(sessions.finish(session))}

        return await answer(call)

    return app


def serve(root: Path, most: int, socket: Path | None = None) -> int:
    """Serve over standard input and output until the client leaves; or to all who come to a
    socket, which this user alone can open, until the process is ended."""
    from opwright.backends.isolation import unsafe_permitted

    required()
    if not root.is_dir():
        raise Problem(f"{root} is no folder", "name the folder that holds your specs with --root")
    sessions = Sessions(Specs(root.resolve()), most, unsafe_permitted())
    try:
        if socket is None:
            server(sessions).run("stdio")
        else:
            _listen(server(sessions, lasting=True), socket)
    except KeyboardInterrupt:
        pass
    finally:
        sessions.close()
    return HOLDS


def _listen(app: MCPServer, path: Path) -> None:
    """Serve at a Unix socket."""
    import contextlib
    import os
    import socket

    import uvicorn
    from mcp.server.transport_security import TransportSecuritySettings

    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as known:
        with contextlib.suppress(OSError):
            known.connect(str(path))
            raise Problem(f"a server listens at {path} already", "use it, or end it first")
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as own:
        before = os.umask(0o177)
        try:
            own.bind(str(path))
            own.listen()  # who is told that it listens may call at once
        except OSError as e:
            raise Problem(f"{path}: {e}", "name another file with --socket") from None
        finally:
            os.umask(before)
        # no page in a browser reaches a socket of files
        secure = TransportSecuritySettings(enable_dns_rebinding_protection=False)
        site = app.streamable_http_app(json_response=True, transport_security=secure)
        config = uvicorn.Config(site, log_level="error")
        print(f"listening at {path}", flush=True)
        try:
            uvicorn.Server(config).run(sockets=[own])
        finally:
            path.unlink(missing_ok=True)
