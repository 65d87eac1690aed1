"""A client of `opwright mcp`, with the official SDK: `connected` for programs, and `opwright mcp
call` for whoever has a shell and no SDK.

A server of one's own speaks over standard input and output and ends with the client. Calls from a
shell are a process each, so that they need a server that stays: one that listens on a socket.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from opwright.outcome import HOLDS, NO, Problem, guarded

Call = Callable[..., Awaitable[dict[str, Any]]]
TIMEOUT = 120.0  # seconds without any answer; tools wait 60 at most
app = typer.Typer(
    help="Serve a coding agent (Model Context Protocol), or call a server's tools.",
    rich_markup_mode=None,
)
Socket = Annotated[
    Path | None,
    typer.Option(
        help="A Unix socket; the one in the cache folder if absent.",
        show_default=False,
        metavar="PATH",
    ),
]


@app.callback(invoke_without_command=True)
def serve_command(
    context: typer.Context,
    root: Annotated[
        Path, typer.Option(help="The folder whose specs may be named.", metavar="DIR")
    ] = Path("."),
    sessions: Annotated[int, typer.Option(min=1, help="Searches at a time.")] = 2,
    listen: Annotated[
        bool, typer.Option("--listen", help="Serve on a socket, for `opwright mcp call`.")
    ] = False,
    socket: Socket = None,
) -> None:
    """Serve a coding agent over standard input and output (Model Context Protocol)."""
    if context.invoked_subcommand is None:
        guarded(_serve)(root, sessions, socket or default_socket() if listen or socket else None)


def _serve(root: Path, sessions: int, socket: Path | None) -> int:
    from opwright.mcp_server import serve

    return serve(root, sessions, socket)


@app.command("call")
@guarded
def call_command(
    tool: Annotated[str, typer.Argument(help="The tool's name, as `tools` lists them.")],
    arguments: Annotated[
        str, typer.Argument(help="Its arguments as a JSON object; - reads them from a pipe.")
    ] = "{}",
    files: Annotated[
        list[str] | None,
        typer.Option(
            "--file",
            help="An argument from a file: its text, or of a .json file its content.",
            metavar="NAME=PATH",
        ),
    ] = None,
    socket: Socket = None,
) -> int:
    """Call a tool of a server that was started with `opwright mcp --listen`; prints JSON."""
    given = read_arguments(sys.stdin.read() if arguments == "-" else arguments, files or [])
    found = _ask(socket, tool, given)
    print(json.dumps(found, indent=1))
    return NO if "refused" in found else HOLDS


@app.command("tools")
@guarded
def tools_command(socket: Socket = None) -> int:
    """List the tools of a server with what they take."""
    for tool in _ask(socket, "", {})["tools"]:
        print(f"{tool['name']}({', '.join(tool['arguments'])})\n    {tool['description']}")
    return HOLDS


def read_arguments(text: str, files: Sequence[str]) -> dict[str, Any]:
    """A tool's arguments from a JSON object and `NAME=PATH` texts; Problem for what is neither."""
    try:
        given = json.loads(text)
    except ValueError as e:
        raise Problem(
            f"the arguments are no JSON: {e}", "give an object: '{\"wait\": 5}'"
        ) from None
    if not isinstance(given, dict):
        raise Problem("the arguments are no JSON object", "give an object: '{\"wait\": 5}'")
    for one in files:
        name, sign, path = one.partition("=")
        if not sign:
            raise Problem(f"--file {one} names no argument", "write --file source=kernel.cpp")
        try:
            content = Path(path).read_text(encoding="utf-8")
            given[name] = json.loads(content) if path.endswith(".json") else content
        except (OSError, ValueError) as e:
            raise Problem(f"{path} cannot be read: {e}", "name a readable file") from None
    return given


def default_socket() -> Path:
    from opwright.compiler.paths import cache_folder

    return cache_folder() / "mcp.socket"


def _ask(socket: Path | None, tool: str, given: dict[str, Any]) -> dict[str, Any]:
    """What a tool of the server at a socket answers; of no tool, the list of them."""
    import anyio

    path = socket or default_socket()

    async def main() -> dict[str, Any]:
        async with listening(path) as (client, call):
            if tool:
                return await call(tool, **given)
            found = (await client.list_tools()).tools
            return {
                "tools": [
                    {
                        "name": t.name,
                        "arguments": list(t.input_schema.get("properties", {})),
                        "description": " ".join((t.description or "").split()),
                    }
                    for t in found
                ]
            }

    if not path.exists():
        raise Problem(f"nobody listens at {path}", "start a server: opwright mcp --listen &")
    return anyio.run(main)


def required() -> None:
    """Problem without the SDK."""
    if importlib.util.find_spec("mcp") is None:
        raise Problem("the MCP SDK is not installed", "pip install opwright[mcp]")


def _calls(client: Any) -> Call:
    async def call(tool: str, **arguments: Any) -> dict[str, Any]:
        """A tool's answer; `refused` holds the reason where it gives none."""
        found = await client.call_tool(tool, arguments)
        text = found.content[0].text
        return {"refused": text} if found.is_error else dict(json.loads(text))

    return call


@asynccontextmanager
async def connected(root: Path, *more: str) -> AsyncIterator[tuple[Any, Call]]:
    """A server of one's own on specs below `root`: the SDK's client, and a function that calls
    tools. `more` are further words of its command line."""
    required()
    import os

    import mcp

    words = ["-m", "opwright", "mcp", "--root", str(root), *more]
    parameters = mcp.StdioServerParameters(command=sys.executable, args=words, env=dict(os.environ))
    async with mcp.Client(parameters, read_timeout_seconds=TIMEOUT) as client:
        yield client, _calls(client)


@asynccontextmanager
async def listening(socket: Path) -> AsyncIterator[tuple[Any, Call]]:
    """The server that listens at a socket; Problem where none does."""
    required()
    import httpx2
    import mcp
    from mcp.client.streamable_http import streamable_http_client

    wire = httpx2.AsyncHTTPTransport(uds=str(socket))
    problem: Problem | None = None
    async with httpx2.AsyncClient(transport=wire, timeout=TIMEOUT) as http:
        try:
            await http.get("http://localhost/")
        except httpx2.TransportError as e:
            cure = "start a server: opwright mcp --listen &"
            problem = Problem(f"nobody listens at {socket}: {e}", cure)
        if problem is not None:
            raise problem
        wires = streamable_http_client("http://localhost/mcp", http_client=http)
        async with mcp.Client(wires, read_timeout_seconds=TIMEOUT) as client:
            yield client, _calls(client)
