"""`opwright exchange flashinfer`: documents of flashinfer-bench from specs, and specs from them.

Nothing that is imported is executed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opwright.options import Json
from opwright.outcome import HOLDS, NO, Problem, guarded, print_json, several

if TYPE_CHECKING:
    from opwright.compiler.elaborate import Spec
    from opwright.compiler.flashinfer_export import Kept
    from opwright.compiler.flashinfer_schema import Definition, Trace

app = typer.Typer(
    help="Exchange operators and candidates with other tools.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
flashinfer = typer.Typer(
    help="Definitions, workloads, solutions and traces of flashinfer-bench.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(flashinfer, name="flashinfer")
Out = Annotated[Path, typer.Option("--out", "-o", help="The folder to write into.")]


@flashinfer.command("export")
@guarded
def export(
    spec: Annotated[Path, typer.Argument(help="A spec file (.op).", metavar="SPEC")],
    out: Out,
    op: Annotated[str | None, typer.Option("--op", metavar="NAME", show_default=False)] = None,
    types: Annotated[
        list[str] | None,
        typer.Option("--type", help="A type variable's type.", metavar="T=TYPE"),
    ] = None,
    candidate: Annotated[
        list[Path] | None,
        typer.Option(help="A folder with candidate.json, as a solution.", metavar="FOLDER"),
    ] = None,
    op_type: Annotated[
        str, typer.Option(help="Their class of operators.", show_default=False)
    ] = "",
    as_json: Json = False,
) -> int:
    """Write the definition of an operator with its workloads, and candidates as solutions."""
    from opwright.spec_files import parse_types

    return export_command(
        spec, out, op, parse_types(types or []), candidate or [], op_type, as_json
    )


@flashinfer.command("import")
@guarded
def import_(
    path: Annotated[
        Path, typer.Argument(help="A .json or .jsonl file, or the folder of a data set.")
    ],
    out: Out,
    as_json: Json = False,
) -> int:
    """Write specs, candidate folders and records of what documents say."""
    return import_command(path, out, as_json)


def export_command(
    path: Path,
    out: Path,
    name: str | None,
    types: dict[str, str],
    candidates: Sequence[Path],
    op_type: str,
    as_json: bool,
) -> int:
    """Write files in the layout of a data set, and say which."""
    from opwright.compiler.flashinfer_export import (
        definition_of,
        kept_beside,
        kept_definition,
        workload_of,
        write_definition,
    )
    from opwright.compiler.flashinfer_schema import FormatError, dump
    from opwright.grammar.diagnostics import DiagnosticError
    from opwright.spec_files import open_spec, pick_operator, print_diagnostics

    made: list[Path] = []
    notes: list[str] = []
    spec: Spec | None = None
    try:
        spec = open_spec(path)
        chosen = pick_operator(spec, name)
        syntax = next(o for o in spec.module.ops if o.name == chosen)
        group = op_type or (path.parent.name if _shipped(path) else "")
        for binding in bindings_of(spec, chosen, types):
            operator = spec.operator(chosen, binding)
            found = definition_of(operator, spec.source, len(syntax.wheres), group)
            d = kept_definition(path, found.definition, spec.source)
            notes += found.notes if d is found.definition else ()
            own = [w for w in operator.workloads if fits(w.types, operator.types)]
            loads = [workload_of(operator, found.definition, w) for w in own]
            if d is not found.definition:
                loads = renamed(loads, d, kept_beside(path, spec.source))
            made += write_definition(out, d, loads)
            for folder in candidates:
                from opwright.compiler import candidates as folders
                from opwright.compiler.flashinfer_solutions import AUTHOR, solution_of
                from opwright.compiler.stored import stored_form
                from opwright.ir.plan import load

                if not fits(load(folder).types, operator.types):
                    continue
                own_op = stored_form(operator)
                solution = solution_of(folders.read(folder, own_op), own_op, d)
                target = out / "solutions" / AUTHOR / d.op_type / d.name / f"{solution.name}.json"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(dump(solution), encoding="utf-8")
                made.append(target)
    except DiagnosticError as error:
        kept = kept_beside(path, spec.source) if spec is not None else None
        if kept is not None and kept.unchanged and not made:
            made = write_definition(out, kept.definition, [])
            return report(made, ["it is as it was imported: its spec has no meaning yet"], as_json)
        print_diagnostics(error.diagnostics)
        return NO
    except FormatError as error:
        raise Problem(str(error), "docs/exchange.md says what can be exchanged", NO) from None
    return report(made, list(dict.fromkeys(notes)), as_json)


def renamed(loads: Sequence[Trace], d: Definition, kept: Kept | None) -> list[Trace]:
    """Workloads of a spec in the names of the definition that it was imported from."""
    back = {v: k for k, v in (kept.names if kept else {}).items()}
    out = []
    for w in loads:
        own = w.workload.model_copy(
            update={
                "axes": {back.get(k, k): v for k, v in w.workload.axes.items()},
                "inputs": {back.get(k, k): v for k, v in w.workload.inputs.items()},
            }
        )
        if all(k in d.axes for k in own.axes):
            out.append(w.model_copy(update={"definition": d.name, "workload": own}))
    return out


def _shipped(path: Path) -> bool:
    from opwright.spec_files import library_folder

    folder = library_folder()
    return folder is not None and folder.resolve() in path.resolve().parents


def bindings_of(spec: Spec, name: str, types: dict[str, str]) -> list[dict[str, str]]:
    """Bindings that agree with what was asked for; `Problem` where there is none."""
    found = [dict(b) for b in spec.bindings(name) if fits(types, b)]
    if not found or any(k not in b for b in found for k in types):
        text = ", ".join(f"{k} = {v}" for k, v in types.items())
        raise Problem(f"the spec has no binding {text}", "see its `type` lines")
    return found


def fits(wanted: Any, types: Any) -> bool:
    return all(types.get(k, v) == v for k, v in wanted.items())


def import_command(path: Path, out: Path, as_json: bool) -> int:
    """Write what documents become; the answer is no where something has no form here."""
    from opwright.compiler.flashinfer_import import (
        documents,
        records_of,
        same_workload,
        spec_of,
        write_solution,
        write_spec,
    )
    from opwright.compiler.flashinfer_schema import FormatError

    made: list[Path] = []
    notes: list[str] = []
    records: list[dict[str, Any]] = []
    good = True
    try:
        definitions, traces, solutions = documents(path)
        for d in definitions:
            loads = [t for t in traces if t.definition == d.name and t.solution is None]
            found = spec_of(d, loads)
            kept = write_spec(out, d, found)
            made += kept
            notes += [f"{found.name}: {n}" for n in found.notes]
            if found.origin == "skeleton":
                good = False
            if found.origin == "carried":
                names = _workloads(found.text)
                extra = [t for t in loads if not same_workload(d, t.workload, names)]
                if extra:
                    notes.append(f"{found.name}: {several(len(extra), 'workload')} left out")
        for s in solutions:
            files, why = write_solution(out / s.name, s)
            made += files
            if why:
                notes.append(why)
                good = False
        for t in traces:
            records += [r.to_json() for r in records_of(t)]
        alone = [t for t in traces if all(t.definition != d.name for d in definitions)]
        if alone and not records:
            notes.append(
                f"{several(len(alone), 'workload')} of {alone[0].definition} without its "
                "definition left out: import the folder that holds both"
            )
    except FormatError as error:
        raise Problem(str(error), "correct the document, or leave it out") from None
    code = report(made, notes, as_json, records)
    return code if good else NO


def _workloads(text: str) -> list[str]:
    from opwright.grammar import ast
    from opwright.grammar.parser import parse

    found = (w for o in parse(text).ops for w in o.workloads)
    return [w.name for w in found if isinstance(w, ast.Workload)]


def report(
    made: list[Path], notes: list[str], as_json: bool, records: list[dict[str, Any]] | None = None
) -> int:
    """Say what was written and what was not said."""
    if as_json:
        print_json({"files": [str(p) for p in made], "notes": notes, "records": records or []})
        return HOLDS
    for p in made:
        print(p)
    for r in records or []:
        print(f"{r['id']:<16} {r['status']:<8} {r['subject']}: {r['reason']}")
    for n in notes:
        print(f"note: {n}")
    return HOLDS


@app.command("opinfo")
@guarded
def opinfo(
    spec: Annotated[Path, typer.Argument(help="A spec file (.op).", metavar="SPEC")],
    name: Annotated[str, typer.Argument(help="PyTorch's operator, as log_softmax.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file of cases to write.")],
    op: Annotated[str | None, typer.Option("--op", metavar="NAME", show_default=False)] = None,
) -> int:
    """Write PyTorch's sample inputs that fit an operator as cases, for `opwright cases add`."""
    return opinfo_command(spec, name, out, op)


def opinfo_command(path: Path, name: str, out: Path, op: str | None) -> int:
    """Write cases as JSON lines; the answer is no where no sample fits."""
    from opwright.compiler.opinfo import NoSamples, samples
    from opwright.grammar.diagnostics import DiagnosticError
    from opwright.spec_files import open_spec, pick_operator, print_diagnostics
    from opwright.verify.cases import write_cases

    try:
        spec = open_spec(path)
        chosen = pick_operator(spec, op)
        found = samples(spec.operator(chosen, spec.bindings(chosen)[0]), name)
    except DiagnosticError as error:
        print_diagnostics(error.diagnostics)
        return NO
    except NoSamples as error:
        raise Problem(str(error), "name an operator that PyTorch's OpInfo has", NO) from None
    for why, count in found.reasons.items():
        print(f"left out {count}: {why}")
    print(f"{len(found.cases)} of {several(found.offered, 'sample')} fit {chosen}")
    if not found.cases:
        return NO
    write_cases(out, found.cases)
    print(f"{out}: keep them with `opwright cases add {path} {out}`")
    return HOLDS
