"""Commands about searches: archives, reports, and agents that draft specs or candidates."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from opwright import mcp_client
from opwright.options import BaseUrl, Effort, Json, MaxCost, Model, Wait
from opwright.outcome import guarded

app = typer.Typer()
Run = Annotated[
    int | None, typer.Option("--run", help="The run; the last if absent.", show_default=False)
]


class Drafting(StrEnum):
    """Who drafts a spec."""

    openai = "openai"
    anthropic = "anthropic"
    dialogue = "dialogue"
    replay = "replay"


@app.command()
@guarded
def draft(
    text: Annotated[
        str,
        typer.Argument(
            help="What the operator computes; @FILE, or FILE.py:FUNCTION for its docstring.",
            show_default=False,
            metavar="TEXT",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Where the spec goes; else printed.", show_default=False),
    ] = None,
    proposer: Annotated[Drafting, typer.Option(help="Who is asked.")] = Drafting.anthropic,
    exchange: Annotated[
        Path | None,
        typer.Option(help="The folder of a dialogue.", show_default=False, metavar="DIR"),
    ] = None,
    model: Model = "",
    base_url: BaseUrl = "",
    effort: Effort = "",
    requests: Annotated[int, typer.Option(min=2, help="Requests at most.")] = 8,
    max_cost: MaxCost = None,
    cassette: Annotated[
        Path | None,
        typer.Option(
            help="Where requests and answers are kept, or replayed from.",
            show_default=False,
            metavar="FILE",
        ),
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option(help="Calls that must come out (JSON).", show_default=False, metavar="FILE"),
    ] = None,
    wait: Wait = 0.0,
    as_json: Json = False,
) -> int:
    """Draft a spec from words; accepted only if it checks, is stated twice alike, and examples
    come out."""
    from opwright.compiler.guiding import Guide
    from opwright.drafting import draft_command
    from opwright.search.accounts import Caps

    caps = Caps(max_cost)
    guide = Guide(proposer.value, model, base_url, effort, caps, cassette, exchange, wait)
    return draft_command(text, out, guide, requests, examples, as_json)


@app.command()
@guarded
def report(
    archive: Annotated[
        Path | None,
        typer.Argument(
            help="An archive file; the newest one if absent.", show_default=False, metavar="RUN"
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path(
        "report.html"
    ),
    run_number: Run = None,
    as_json: Json = False,
) -> int:
    """Write one self-contained page about a search: tree, plots, verdicts, diff, costs."""
    from opwright.reporting import report as write_report

    return write_report(archive, run_number, out, as_json)


search_app = typer.Typer(
    help="Look into what a search tried.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(search_app, name="search")
app.add_typer(mcp_client.app, name="mcp")
Archived = Annotated[
    Path | None,
    typer.Argument(help="An archive file; the newest one if absent.", show_default=False),
]


@search_app.command("show")
@guarded
def search_show(archive: Archived = None, run_number: Run = None, as_json: Json = False) -> int:
    """Print the table of what a run tried."""
    from opwright.archives import show

    return show(archive, run_number, as_json)


@search_app.command("tree")
@guarded
def search_tree(archive: Archived = None, run_number: Run = None, as_json: Json = False) -> int:
    """Print candidates below those that they vary."""
    from opwright.archives import tree

    return tree(archive, run_number, as_json)


@search_app.command("best")
@guarded
def search_best(
    archive: Archived = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many.")] = 3,
    metric: Annotated[
        str, typer.Option(help="What counts; the objective if absent.", show_default=False)
    ] = "",
    run_number: Run = None,
    as_json: Json = False,
) -> int:
    """Print the best candidates of a run."""
    from opwright.archives import best

    return best(archive, count, metric, run_number, as_json)


@search_app.command("log")
@guarded
def search_log(
    archive: Archived = None,
    run_number: Run = None,
    kind: Annotated[
        str, typer.Option(help="Entries of one kind alone.", show_default=False, metavar="KIND")
    ] = "",
    as_json: Json = False,
) -> int:
    """Print the ledger, and say whether it is as it was written."""
    from opwright.archives import log

    return log(archive, run_number, kind, as_json)


@search_app.command("export")
@guarded
def search_export(
    target: Annotated[
        Path, typer.Argument(help="The file of JSON lines to write, or the candidate's folder.")
    ],
    archive: Archived = None,
    run_number: Run = None,
    candidate: Annotated[
        str,
        typer.Option(
            help="A candidate as a folder: best, or its number.",
            show_default=False,
            metavar="WHICH",
        ),
    ] = "",
    as_json: Json = False,
) -> int:
    """Write everything an archive holds as JSON lines, or one candidate as a folder."""
    from opwright.archives import export

    return export(archive, target, run_number, candidate, as_json)


@search_app.command("resume")
@guarded
def search_resume(
    archive: Archived = None,
    run_number: Run = None,
    budget: Annotated[
        int | None, typer.Option(min=1, help="Instead of the run's own.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Instead of the run's own.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> int:
    """Go on with a run that was stopped or killed, to the end it would have had."""
    from opwright.archives import resume

    return resume(archive, run_number, budget, out, as_json)
