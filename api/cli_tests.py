"""Commands about tests: written from specs, kept cases, seeded faults, benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from opwright.options import BASELINES, Against, Json, OperatorName, Spec, Types, implementations
from opwright.outcome import guarded

app = typer.Typer()


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
    model: Annotated[
        bool,
        typer.Option("--model", help="Time nothing: estimate for GPUs what bounds the operator."),
    ] = False,
    backend: Annotated[str, typer.Option(help="Of --model: triton or cuda.")] = "triton",
    target: Annotated[
        str, typer.Option(help="Of --model: sm_90,gfx942 or all.", show_default=False)
    ] = "",
    as_json: Json = False,
) -> int:
    """Time the best candidate beside its baselines, in one run."""
    if model:
        from opwright.modelling import model as run_model

        return run_model(subject, op, backend, target, as_json)
    from opwright.benching import bench as run_bench

    return run_bench(subject, op, budget, implementations(against), as_json)


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
