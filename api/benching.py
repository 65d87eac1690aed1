"""`opwright bench`: an emitted kernel and what people would write instead, side by side."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opwright.compiling import baselines, timing_lines
from opwright.outcome import HOLDS, NO, Problem, print_json
from opwright.spec_files import open_spec, pick_operator, print_diagnostics

if TYPE_CHECKING:
    from opwright.compiler.timing import Row


def bench(path: Path, name: str | None, budget: int, against: Sequence[str], as_json: bool) -> int:
    """Time a spec's best candidate, or an emitted package, at the workloads of the spec."""
    from opwright.grammar.diagnostics import DiagnosticError

    try:
        if (path / "metadata.json").is_file():
            rows: Sequence[Row] = package_rows(path, against)
        else:
            rows = spec_rows(path, name, budget, against, quiet=as_json)
    except DiagnosticError as error:
        print_diagnostics(error.diagnostics)
        return NO
    if as_json:
        print_json({"rows": [row.to_json() for row in rows]})
    else:
        print("\n".join(timing_lines(rows)))
    return HOLDS


def spec_rows(
    path: Path, name: str | None, budget: int, against: Sequence[str], quiet: bool
) -> Sequence[Row]:
    """Rows of the best candidate of a spec; what an earlier compile found is taken from its
    archive."""
    from opwright.compiler.pipeline import compile_spec
    from opwright.progress import progress

    spec = open_spec(path)
    chosen = pick_operator(spec, name)
    first = spec.operator(chosen).types
    with tempfile.TemporaryDirectory() as folder, progress(quiet) as listener:
        result = compile_spec(
            path,
            chosen,
            budget=budget,
            out=Path(folder),
            types=first or None,
            progress=listener,
            baselines=baselines(against),
        )
        return result.rows


def kind_of(folder: Path) -> str:
    """The backend of an emitted package; `Problem` for metadata that is not of one."""
    try:
        text = (folder / "metadata.json").read_text(encoding="utf-8")
        return str(json.loads(text)["backend"]["type"])
    except (ValueError, LookupError, TypeError) as error:
        raise Problem(
            f"{folder / 'metadata.json'} is not that of a package: {error}",
            "name a folder that `opwright compile` wrote",
        ) from None


def package_rows(folder: Path, against: Sequence[str]) -> list[Row]:
    """Rows of an emitted package at its spec's workloads, by its public function."""
    from opwright.compiler.stored import stored_form
    from opwright.compiler.timing import Row, shape_text
    from opwright.packages import function_of, import_package
    from opwright.runtime.describe import argument
    from opwright.search.loads import memory_limit
    from opwright.search.measure import compare
    from opwright.search.results import Options
    from opwright.verify.inputs import workload_case
    from opwright.verify.sizes import scale

    specs = sorted((folder / "spec").glob("*.op"))
    if len(specs) != 1:
        raise Problem(f"{folder} has no spec/*.op", "name a folder that `compile` wrote")
    kind = kind_of(folder)
    if kind != "cpu":
        raise Problem(
            f"{folder} is a package for {kind}; bench times C++ packages",
            "name a spec, or a package that was compiled with --backend cpp",
        )
    module = import_package(folder)
    engine, function = module._ENGINE, function_of(module)
    op = stored_form(open_spec(specs[0]).operator(engine.spec.name))
    options = Options()
    find = baselines(against)
    rows: list[Row] = []
    for workload in op.workloads:
        if any(op.types.get(k, v) != v for k, v in workload.types.items()):
            continue
        scaled = scale(op, workload, memory_limit(), options.work_limit)
        case = workload_case(op, workload, scaled, 1)
        inputs = {argument(n): x for n, x in case.inputs.items()}
        params = {argument(n): x for n, x in case.params.items()}
        params |= {argument(n): case.sizes[n] for n in op.free_sizes}
        out = function(**inputs, **params)
        calls: dict[str, dict[str, Any]] = {
            "out": {"opwright": lambda: function(**inputs, **params, out=out)},  # noqa: B023
            "fresh": {"opwright": lambda: function(**inputs, **params)},  # noqa: B023
        }
        missing: list[Row] = []
        shape = shape_text(op, case.sizes)
        if find is not None:
            for (impl, mode), call in find(op, case.sizes, case.params, case.inputs).items():
                if isinstance(call, str):
                    missing.append(Row(op.name, workload.name, shape, impl, mode, None, note=call))
                else:
                    calls[mode][impl] = call
        for mode, contenders in calls.items():
            for impl, t in compare(contenders, os.cpu_count() or 1).items():
                note = "; ".join(t.notes)
                rows.append(
                    Row(op.name, workload.name, shape, impl, mode, t.median, t.spread, note)
                )
        rows += missing
    return rows
