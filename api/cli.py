"""The command line: arguments in, exit codes out. What a command does lives in its own module.

Only what every command needs is imported here, so that help appears at once.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import opwright
from opwright import exchanging, outcome
from opwright.outcome import HOLDS, NO, guarded, print_json

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
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document for a machine.")]
Specs = Annotated[
    list[Path], typer.Argument(help="Spec files (.op).", show_default=False, metavar="SPEC")
]
Spec = Annotated[
    Path, typer.Argument(help="A spec file (.op).", show_default=False, metavar="SPEC")
]
OperatorName = Annotated[
    str | None,
    typer.Option(
        "--op",
        help="The operator, where a file has several.",
        show_default=False,
        metavar="NAME",
    ),
]
Types = Annotated[
    list[str] | None,
    typer.Option("--type", help="A type variable's type.", show_default=False, metavar="T=TYPE"),
]


Sarif = Annotated[
    Path | None,
    typer.Option(help="Also write SARIF for review tools.", show_default=False, metavar="FILE"),
]


UNSAFE = "--unsafe-no-sandbox"


class Evidence(StrEnum):
    """What safety must be, for a candidate to ship."""

    proved = "proved"
    tested = "tested"


Require = Annotated[Evidence, typer.Option(help="What safety must be.")]
BASELINES = "torch,torch.compile,jax"
Against = Annotated[
    str, typer.Option(help="Baselines to time in the same run, or none.", metavar="NAMES")
]


def implementations(text: str) -> tuple[str, ...]:
    """The baselines of an `--against` option."""
    names = {"inductor": "torch.compile"}
    wanted = [names.get(part.strip(), part.strip()) for part in text.split(",") if part.strip()]
    unknown = [one for one in wanted if one not in (*BASELINES.split(","), "none")]
    if unknown:
        raise outcome.Problem(
            f"there is no baseline {unknown[0]}", f"baselines: {BASELINES}, or none"
        )
    return tuple(one for one in wanted if one != "none")


class Proposing(StrEnum):
    """Who proposes candidates."""

    builtin = "builtin"
    exchange = "exchange"
    openai = "openai"
    anthropic = "anthropic"
    dialogue = "dialogue"
    replay = "replay"


class Backend(StrEnum):
    """What candidates are written in."""

    cpp = "cpp"
    triton = "triton"
    jax = "jax"


Written = Annotated[Backend, typer.Option("--backend", help="What candidates are written in.")]


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
            help="cpu or cpu(x86-64-v3); of triton: sm_80, sm_90, sm_100, gfx942 or all.",
            show_default=False,
        ),
    ] = "",
    types: Types = None,
    budget: Annotated[int, typer.Option(min=1, help="Candidates to evaluate.")] = 12,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Stop searching after.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of proposals and test inputs.")] = 0,
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
    model: Annotated[str, typer.Option(help="Of openai, anthropic; a name for a dialogue.")] = "",
    base_url: Annotated[str, typer.Option(help="A server other than the vendor's.")] = "",
    effort: Annotated[str, typer.Option(help="How hard the model thinks: low ... max.")] = "",
    max_cost: Annotated[
        float | None, typer.Option(min=0, help="USD at most.", show_default=False)
    ] = None,
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
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds that a dialogue waits for an answer.")
    ] = 0.0,
    backward: Annotated[
        bool,
        typer.Option(
            "--backward/--no-backward", help="Put gradients that the spec asks for in the package."
        ),
    ] = False,
    executor: Annotated[
        Executing, typer.Option(help="Where candidates are judged: here, or on a Ray cluster.")
    ] = Executing.local,
    as_json: Json = False,
) -> int:
    """Search, prove, measure, and emit an installable package."""
    from opwright.compiling import Request, compile_command
    from opwright.spec_files import parse_types

    chosen = parse_types(types or [])
    folder = proposer in (Proposing.exchange, Proposing.dialogue)
    if folder is not (exchange is not None):
        raise outcome.Problem(
            "--proposer exchange (or dialogue) and --exchange DIR go together",
            "name the folder through which requests and answers go: --proposer exchange "
            "--exchange DIR",
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
    request = Request(
        spec,
        op,
        target,
        chosen,
        budget,
        seconds,
        seed,
        require.value,
        out,
        implementations(against),
        exchange,
        backend=backend.value,
        backward=backward,
        executor=executor.value,
        guide=guide,
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


@app.command("test")
@guarded
def test_(
    spec: Spec,
    op: OperatorName = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Where the tests go.", show_default=False, metavar="DIR"),
    ] = None,
    against: Annotated[
        str,
        typer.Option(
            help="A function to run them on.", show_default=False, metavar="MODULE:FUNCTION"
        ),
    ] = "",
    framework: Annotated[
        str,
        typer.Option(help="torch, jax or numpy; guessed from the function.", show_default=False),
    ] = "",
    types: Annotated[
        str,
        typer.Option(help="Types to run with, as T=f32, or all.", show_default=False),
    ] = "",
    deep: Annotated[bool, typer.Option("--deep", help="Run more examples, all types.")] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="Run a few seconds' worth.")] = False,
    seed: Annotated[int, typer.Option(help="Of sizes.")] = 0,
    record: Annotated[
        bool, typer.Option("--record/--no-record", help="Keep failing calls beside the spec.")
    ] = True,
) -> int:
    """Write pytest and Hypothesis tests from a spec, and run them on a function."""
    from opwright.testing import Asked, test_command

    return test_command(Asked(spec, op, out, against, framework, types, deep, smoke, seed, record))


@app.command()
@guarded
def mutate(
    spec: Spec,
    op: OperatorName = None,
    types: Types = None,
    candidate: Annotated[
        Path | None,
        typer.Option(
            help="A folder with candidate.json, or a .tile file; else a program of ours.",
            show_default=False,
        ),
    ] = None,
    implementation: Annotated[
        str,
        typer.Option(
            help="A right function of numpy, torch or JAX arrays.",
            show_default=False,
            metavar="MODULE:FUNCTION",
        ),
    ] = "",
    suite: Annotated[
        Path | None,
        typer.Option(
            help="Tests to be scored, ours or anyone's; else the gates, or the spec's cases.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Mutants to try, of every class some.")] = 60,
    require: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="Percent to be killed; else exit 1.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of test inputs.")] = 0,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for one run of a suite.")] = 120,
    as_json: Json = False,
) -> int:
    """Seed faults into what is right, and say how many are found, and by what."""
    from opwright.mutating import Request
    from opwright.mutating import mutate as run_mutants
    from opwright.spec_files import parse_types

    chosen = parse_types(types or [])
    wanted = Request(
        spec, op, chosen, candidate, implementation, suite, limit, require, seed, timeout
    )
    return run_mutants(wanted, as_json)


@app.command()
@guarded
def bench(
    subject: Annotated[
        Path, typer.Argument(metavar="SPEC|PACKAGE", help="A spec, or a folder that compile wrote.")
    ],
    op: OperatorName = None,
    budget: Annotated[
        int, typer.Option(min=1, help="Candidates to evaluate, for a spec not compiled before.")
    ] = 24,
    against: Against = BASELINES,
    as_json: Json = False,
) -> int:
    """Time the best candidate beside its baselines, in one run."""
    from opwright.benching import bench as run_bench

    return run_bench(subject, op, budget, implementations(against), as_json)


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
    from opwright.explain import explain as look_up

    facts = look_up(name)
    if as_json:
        print_json({"id": name, **facts})
        return HOLDS
    print(facts["title"])
    print(f"  {facts['text']}")
    if facts.get("cure"):
        print(f"  cure: {facts['cure']}")
    for kind, text in facts.get("example", {}).items():
        print(f"\n  {kind}:")
        print("\n".join(f"    {line}" for line in text.rstrip().splitlines()))
    if "order" in facts:
        print(f"  order of gates: {facts['order']}")
    if "schedule" in facts:
        print(f"  schedule: {facts['schedule']}")
    for workload, values in facts.get("metrics", {}).items():
        print(f"  {workload}: " + ", ".join(f"{k} {v:.6g}" for k, v in values.items()))
    for record in facts.get("records", []):
        reason = f": {record['reason']}" if record.get("reason") else ""
        print(f"  {record.get('id')}: {record.get('status')}{reason}")
    for entry, said in facts.get("trusted", {}).items():
        print(f"  trusted: {entry}: {said}")
    return HOLDS


@app.command()
@guarded
def doctor(as_json: Json = False) -> int:
    """Say what this machine has, and the cure for what is missing."""
    from opwright.doctor import examine

    found = examine()
    if as_json:
        print_json({"findings": [vars_of(one) for one in found]})
    else:
        width = max(len(one.name) for one in found)
        for one in found:
            mark = "ok" if one.ok else "MISSING" if one.required else "absent"
            print(f"{one.name:<{width}}  {mark:<7}  {one.value}")
            if not one.ok and one.cure:
                print(f"{'':<{width}}           cure: {one.cure}")
    return NO if any(one.required and not one.ok for one in found) else HOLDS


def vars_of(record: object) -> dict[str, object]:
    """A slots dataclass as a dict."""
    names: tuple[str, ...] = getattr(type(record), "__slots__", ())
    return {name: getattr(record, name) for name in names}


cases_app = typer.Typer(
    help="What once showed a wrong implementation.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(cases_app, name="cases")


@cases_app.command("list")
@guarded
def cases_list(spec: Spec, op: OperatorName = None, as_json: Json = False) -> int:
    """Print the cases that are kept for an operator."""
    from opwright.keeping import list_cases

    return list_cases(spec, op, as_json)


@cases_app.command("add")
@guarded
def cases_add(
    spec: Spec,
    file: Annotated[Path, typer.Argument(help="JSON lines, one case a line.", metavar="FILE")],
    op: OperatorName = None,
) -> int:
    """Keep the cases of a file, as generated tests record them."""
    from opwright.keeping import add_cases

    return add_cases(spec, file, op)


@cases_app.command("remove")
@guarded
def cases_remove(
    spec: Spec,
    case: Annotated[str, typer.Argument(help="The case, or how its id begins.", metavar="ID")],
    op: OperatorName = None,
) -> int:
    """Forget a case."""
    from opwright.keeping import remove_case

    return remove_case(spec, case, op)


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
    model: Annotated[str, typer.Option(help="A model of the provider.")] = "",
    base_url: Annotated[str, typer.Option(help="A server other than the vendor's.")] = "",
    effort: Annotated[str, typer.Option(help="How hard the model thinks: low ... max.")] = "",
    requests: Annotated[int, typer.Option(min=2, help="Requests at most.")] = 8,
    max_cost: Annotated[
        float | None, typer.Option(min=0, help="USD at most.", show_default=False)
    ] = None,
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
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds that a dialogue waits for an answer.")
    ] = 0.0,
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
    run_number: Annotated[
        int | None, typer.Option("--run", help="The run; the last if absent.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> int:
    """Write one self-contained page about a search: tree, plots, verdicts, diff, costs."""
    from opwright.reporting import report as write_report

    return write_report(archive, run_number, out, as_json)


@app.command()
@guarded
def mcp(
    root: Annotated[
        Path, typer.Option(help="The folder whose specs may be named.", metavar="DIR")
    ] = Path("."),
    sessions: Annotated[int, typer.Option(min=1, help="Searches at a time.")] = 2,
) -> int:
    """Serve a coding agent over standard input and output (Model Context Protocol)."""
    from opwright.mcp_server import serve

    return serve(root, sessions)


search_app = typer.Typer(
    help="Look into what a search tried.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(search_app, name="search")
app.add_typer(exchanging.app, name="exchange")
Archived = Annotated[
    Path | None,
    typer.Argument(help="An archive file; the newest one if absent.", show_default=False),
]


Run = Annotated[
    int | None, typer.Option("--run", help="The run; the last if absent.", show_default=False)
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
