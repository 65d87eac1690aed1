"""Options that several commands share, and what their words mean."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from opwright import outcome

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


class Backend(StrEnum):
    """What candidates are written in."""

    cpp = "cpp"
    triton = "triton"
    cuda = "cuda"
    jax = "jax"
    pallas = "pallas"


Written = Annotated[Backend, typer.Option("--backend", help="What candidates are written in.")]


Model = Annotated[str, typer.Option(help="Of openai, anthropic; a name for a dialogue.")]
BaseUrl = Annotated[str, typer.Option(help="A server other than the vendor's.")]
Effort = Annotated[str, typer.Option(help="How hard the model thinks: low ... max.")]
MaxCost = Annotated[float | None, typer.Option(min=0, help="USD at most.", show_default=False)]
Wait = Annotated[float, typer.Option(min=0, help="Seconds that a dialogue waits for an answer.")]


Seeds = Annotated[
    list[str] | None,
    typer.Option(
        "--seed",
        help="A number: of proposals and inputs. A candidate's folder: the kernel to start from.",
        show_default="0",
        metavar="INT|FOLDER",
    ),
]


def seeds(given: list[str] | None) -> tuple[int, Path | None]:
    """The number and the kernel that `--seed` was given, in any order, each once at most."""
    numbers: list[int] = []
    folders: list[Path] = []
    for text in given or []:
        if text.lstrip("+-").isdigit():
            numbers.append(int(text))
        elif (Path(text) / "candidate.json").is_file():
            folders.append(Path(text))
        else:
            raise outcome.Problem(
                f"--seed {text}: neither a number nor a folder with candidate.json",
                "name a candidate's folder (./3 for one whose name is a number), or a number",
            )
    if len(numbers) > 1 or len(folders) > 1:
        raise outcome.Problem("--seed: one number and one folder at most", "leave the others out")
    return (numbers or [0])[0], folders[0] if folders else None
