"""The command line: arguments in, exit codes out. What a command does lives in its own module.

Only what every command needs is imported here, so that help appears at once.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import opwright
from opwright import cli_search, cli_tests, exchanging, outcome
from opwright.options import (
    BASELINES,
    Against,
    Backend,
    BaseUrl,
    Effort,
    Evidence,
    Json,
    MaxCost,
    Model,
    OperatorName,
    Require,
    Sarif,
    Seeds,
    Spec,
    Specs,
    Types,
    Wait,
    Written,
    implementations,
    seeds,
)
from opwright.outcome import HOLDS, guarded

app = typer.Typer(
    name="opwright",
    help="From a declarative operator spec to a proved and measured library.",
    epilog="Exit codes: 0 it holds, 1 the answer is no, 2 usage, 3 internal error.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
UNSAFE = "--unsafe-no-sandbox"


class Proposing(StrEnum):
    """Who proposes candidates."""

    builtin = "builtin"
    exchange = "exchange"
    openai = "openai"
    anthropic = "anthropic"
    dialogue = "dialogue"
    replay = "replay"


class Executing(StrEnum):
    """Where candidates are judged."""

    local = "local"
    ray = "ray"


class Stage(StrEnum):
    """The stages that `show` knows."""

    ast = "ast"
    op = "op"
    grad = "grad"
    folds = "folds"
    bounds = "bounds"
    schedules = "schedules"
    tile = "tile"
    source = "source"
    plan = "plan"
    ttir = "ttir"
    ptx = "ptx"
    resources = "resources"


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    # accepted anywhere before `--`, as people add it to the end of a command that failed
    end = arguments.index("--") if "--" in arguments else len(arguments)
    if "--debug" in arguments[:end]:
        outcome.debug = True
        arguments = [a for a in arguments[:end] if a != "--debug"] + arguments[end:]
        end = arguments.index("--") if "--" in arguments else len(arguments)
    if UNSAFE in arguments[:end]:
        from opwright.backends.isolation import permit_unsafe

        permit_unsafe()
        arguments = [a for a in arguments[:end] if a != UNSAFE] + arguments[end:]
    try:
        app(arguments, prog_name="opwright")
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else outcome.INTERNAL
    return HOLDS


def show_version(wanted: bool) -> None:
    if wanted:
        print(f"opwright {opwright.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Print the version."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks of internal errors.")
    ] = False,
    unsafe: Annotated[
        bool,
        typer.Option(UNSAFE, help="Run candidates also where no sandbox works; records say so."),
    ] = False,
) -> None:
    """From a declarative operator spec to a proved and measured library."""
    outcome.debug = outcome.debug or debug


@app.command()
@guarded
def check(
    specs: Specs,
    as_json: Json = False,
    summary: Annotated[
        bool,
        typer.Option(
            "--summary", help="Print how many obligations are settled, by kind; takes folders too."
        ),
    ] = False,
    sarif: Sarif = None,
) -> int:
    """Parse and check specs, and prove their own obligations."""
    from opwright.check import check as check_files

    return check_files(specs, as_json, summary, sarif)


@app.command("compile")
@guarded
def compile_(
    spec: Spec,
    op: OperatorName = None,
    backend: Written = Backend.cpp,
    target: Annotated[
        str,
        typer.Option(
            help="cpu or cpu(x86-64-v3); of triton: sm_80, sm_90, sm_100, gfx942 or all; "
            "cpu,sm_90,gfx942 for one package with all of them.",
            show_default=False,
        ),
    ] = "",
    types: Types = None,
    budget: Annotated[int, typer.Option(min=1, help="Candidates to evaluate.")] = 12,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Stop searching after.", show_default=False)
    ] = None,
    seed: Seeds = None,
    require: Require = Evidence.proved,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the package goes.")] = Path("out"),
    against: Against = BASELINES,
    proposer: Annotated[
        Proposing, typer.Option(help="Who proposes candidates beside the built-in search.")
    ] = Proposing.builtin,
    exchange: Annotated[
        Path | None,
        typer.Option(
            help="The folder of --proposer exchange or dialogue.",
            show_default=False,
            metavar="DIR",
        ),
    ] = None,
    model: Model = "",
    base_url: BaseUrl = "",
    effort: Effort = "",
    max_cost: MaxCost = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens in and out at most.", show_default=False)
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(min=0, help="Minutes at most.", show_default=False)
    ] = None,
    cassette: Annotated[
        Path | None,
        typer.Option(
            help="The ledger to write, or with --proposer replay to read.",
            show_default=False,
            metavar="FILE",
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Replay: a prompt that is not as recorded is refused.")
    ] = False,
    best_of: Annotated[
        bool, typer.Option("--best-of-n", help="Independent samples alone, as a control.")
    ] = False,
    wait: Wait = 0.0,
    backward: Annotated[
        bool,
        typer.Option(
            "--backward/--no-backward", help="Put gradients that the spec asks for in the package."
        ),
    ] = False,
    executor: Annotated[
        Executing, typer.Option(help="Where candidates are judged: here, or on a Ray cluster.")
    ] = Executing.local,
    learn_from: Annotated[
        list[Path] | None,
        typer.Option(
            help="Archives of operators of the same form: what was good there comes first.",
            show_default=False,
            metavar="ARCHIVE",
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Search, prove, measure, and emit an installable package."""
    from opwright.compiling import Request, compile_command, learned
    from opwright.spec_files import parse_types

    chosen = parse_types(types or [])
    folder = proposer in (Proposing.exchange, Proposing.dialogue)
    if folder is not (exchange is not None):
        raise outcome.Problem(
            "--proposer exchange (or dialogue) and --exchange DIR go together",
            "name the folder through which requests and answers go: --proposer exchange "
            "--exchange DIR",
        )
    if learn_from and proposer is not Proposing.builtin:
        raise outcome.Problem(
            "--learn-from informs the built-in proposer", "leave --proposer or --learn-from out"
        )
    guide = None
    if proposer not in (Proposing.builtin, Proposing.exchange):
        from opwright.compiler.guiding import Guide
        from opwright.search.accounts import Caps

        guide = Guide(
            proposer.value,
            model,
            base_url,
            effort,
            Caps(max_cost, max_tokens, max_minutes),
            cassette,
            exchange,
            wait,
            strict,
            best_of,
        )
        exchange = None
    if max_minutes is not None:
        seconds = min(seconds or 60 * max_minutes, 60 * max_minutes)
    number, kernel = seeds(seed)
    request = Request(
        spec,
        op,
        target,
        chosen,
        budget,
        seconds,
        number,
        require.value,
        out,
        implementations(against),
        exchange,
        backend=backend.value,
        backward=backward,
        executor=executor.value,
        guide=guide,
        learned=learned(learn_from or []),
        kernel=kernel,
    )
    return compile_command(request, as_json)


@app.command()
@guarded
def verify(
    spec: Spec,
    candidate: Annotated[
        Path,
        typer.Argument(help="A folder with candidate.json, or a .tile file.", metavar="CANDIDATE"),
    ],
    op: OperatorName = None,
    types: Types = None,
    require: Require = Evidence.proved,
    seed: Annotated[int, typer.Option(help="Of test inputs.")] = 0,
    record: Annotated[
        bool, typer.Option("--record/--no-record", help="Keep refuting calls beside the spec.")
    ] = True,
    proofs: Annotated[
        Path | None,
        typer.Option(help="Write the record of all proofs.", show_default=False, metavar="FILE"),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            help="Check such a record instead, question by question.",
            show_default=False,
            metavar="FILE",
        ),
    ] = None,
    solver: Annotated[
        str,
        typer.Option(help="With --replay: a solver on PATH.", show_default=False, metavar="NAME"),
    ] = "",
    sarif: Sarif = None,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Take proofs of before, of the same texts.")
    ] = True,
    as_json: Json = False,
) -> int:
    """Run the gates on a candidate, whoever wrote it."""
    from opwright.spec_files import parse_types
    from opwright.verifying import verify as run_gates

    chosen = parse_types(types or [])
    if replay is not None:
        from opwright.replaying import replay as check_again

        return check_again(spec, candidate, op, chosen, replay, solver, as_json)
    return run_gates(
        spec, candidate, op, chosen, require.value, seed, as_json, record, proofs, sarif, cache
    )


@app.command("plan")
@guarded
def plan_(
    spec: Spec,
    kernel: Annotated[
        str, typer.Argument(help="A file, or FILE:KERNEL.", metavar="KERNEL", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The candidate's folder.")] = Path(
        "candidate"
    ),
    op: OperatorName = None,
    types: Types = None,
    target: Annotated[str, typer.Option(help="sm_90 or cpu if absent.", show_default=False)] = "",
    args: Annotated[
        list[str] | None,
        typer.Option("--arg", help="What a parameter gets: NAME=EXPR.", metavar="NAME=EXPR"),
    ] = None,
    const: Annotated[
        list[str] | None,
        typer.Option(help="A constant, of the kernel or its module.", metavar="NAME=VALUE"),
    ] = None,
    grid: Annotated[
        str, typer.Option(help="Programs: one to three expressions.", metavar="EXPR,...")
    ] = "",
    block: Annotated[str, typer.Option(help="Threads of a block, of CUDA.", metavar="N,...")] = "",
    fact: Annotated[
        list[str] | None, typer.Option(help="What the kernel may assume.", metavar="EXPR")
    ] = None,
    wide: Annotated[
        bool, typer.Option("--i64", help="Pass integers in 64 bits, not as i32(...).")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite candidate.json.")] = False,
    as_json: Json = False,
) -> int:
    """Draft candidate.json for a kernel of any file, with holes where its names say too little."""
    from opwright import planning
    from opwright.compiler.planning import Given
    from opwright.spec_files import parse_types

    given = Given(
        planning.assignments(args or [], "arg"),
        planning.constants(const or []),
        planning.several(grid),
        planning.extents(block),
        tuple(fact or ()),
        wide,
    )
    chosen = parse_types(types or [])
    return planning.plan(spec, kernel, out, op, chosen, target, given, force, as_json)


@app.command()
@guarded
def show(
    spec: Spec,
    stage: Annotated[Stage, typer.Option(help="How far down.")] = Stage.op,
    op: OperatorName = None,
    types: Types = None,
    schedule: Annotated[
        str | None,
        typer.Option(help="Of tile and all below; a good default if absent.", show_default=False),
    ] = None,
    backend: Written = Backend.cpp,
    target: Annotated[
        str,
        typer.Option(help="Of ttir, ptx, resources: sm_80, sm_90, ... or all.", show_default=False),
    ] = "",
) -> int:
    """Print a spec at one stage.

    Its tree, OpIR, gradient, folds, schedules, TileIR, source, plan; of Triton also TTIR, assembly,
    and the resources that compilers report."""
    from opwright.show import View
    from opwright.show import show as show_stage
    from opwright.spec_files import parse_types

    chosen = parse_types(types or [])
    return show_stage(View(spec, stage.value, op, chosen, schedule, backend.value, target))


@app.command()
@guarded
def fmt(
    specs: Specs,
    check_only: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 if a file would change.")
    ] = False,
) -> int:
    """Format specs in place."""
    from opwright.formatting import fmt as format_files

    return format_files(specs, check_only)


@app.command()
@guarded
def diff(
    old: Annotated[
        Path, typer.Argument(help="The spec as it was.", show_default=False, metavar="OLD")
    ],
    new: Annotated[
        Path, typer.Argument(help="The spec as it is.", show_default=False, metavar="NEW")
    ],
    as_json: Json = False,
) -> int:
    """Say what a change of a spec means, and the version that it needs."""
    from opwright.differing import diff_command

    return diff_command(old, new, as_json)


@app.command()
@guarded
def explain(
    name: Annotated[
        str,
        typer.Argument(
            help="E0101, G2, G2.bounds.x, PROVED, or a candidate (3.17, 1f2e3d).", metavar="NAME"
        ),
    ],
    as_json: Json = False,
) -> int:
    """Explain a diagnostic code, a gate, a status, or a candidate."""
    from opwright.explain import explain_command

    return explain_command(name, as_json)


@app.command()
@guarded
def doctor(as_json: Json = False) -> int:
    """Say what this machine has, and the cure for what is missing."""
    from opwright.doctor import doctor_command

    return doctor_command(as_json)


# without a name, their commands stand beside those above
app.add_typer(cli_tests.app)
app.add_typer(cli_search.app)
app.add_typer(exchanging.app, name="exchange")
