"""Reading search archives: `opwright search show | best | export`."""

from __future__ import annotations

from pathlib import Path

from opwright.compiler.paths import cache_folder
from opwright.explain import archives
from opwright.outcome import HOLDS, NO, Problem, file_problem, print_json, several
from opwright.search.archive import Archive


def open_archive(path: Path | None) -> Archive:
    """The named archive, or the newest of the cache folder; `Problem` if there is none."""
    if path is None:
        found = archives()
        if not found:
            raise Problem(f"{cache_folder()} holds no archive", "run `opwright compile SPEC` first")
        path = found[0]
    if not path.exists():
        # opening would create it
        raise file_problem(FileNotFoundError(), path)
    if path.is_dir():
        raise file_problem(IsADirectoryError(), path)
    if path.is_file() and path.stat().st_size == 0:
        # as would opening an empty file
        raise Problem(f"{path} is empty, and no archive", "run `opwright compile SPEC` first")
    return Archive(path)


def run_id(archive: Archive, number: int | None) -> int:
    """The run with that number, or the last."""
    runs = [run["id"] for run in archive.runs()]
    if not runs:
        raise Problem(f"{archive.path} holds no run", "run `opwright compile SPEC` first", NO)
    if number is not None and number not in runs:
        raise Problem(f"{archive.path} has no run {number}", f"it has {runs[0]} to {runs[-1]}")
    return runs[-1] if number is None else number


def show(path: Path | None, number: int | None, as_json: bool) -> int:
    """Print one line a candidate."""
    with open_archive(path) as archive:
        run = run_id(archive, number)
        rows = archive.table(run)
    if as_json:
        print_json({"archive": path or archive.path, "run": run, "rows": rows})
        return HOLDS
    print(f"{archive.path}, run {run}: {several(len(rows), 'candidate')}")
    for row in rows:
        times = [
            f"{name.removesuffix('.latency')} {float(value) * 1e3:.4g} ms"
            for name, value in row.items()
            if name.endswith(".latency")
        ]
        what = ", ".join(times) or row["reason"]
        print(f"{row['number']:>5}  {row['status']:<9}  {row['schedule']}  {what}")
    return HOLDS


def best(path: Path | None, count: int, metric: str, as_json: bool) -> int:
    """Print the best candidates; the answer is no when none passed."""
    with open_archive(path) as archive:
        run = run_id(archive, None)
        found = archive.best(run, count, metric)
    if as_json:
        rows = [{"number": c.number, "schedule": c.schedule, "metrics": c.metrics} for c in found]
        print_json({"run": run, "rows": rows})
    else:
        for one in found:
            values = ", ".join(
                f"{workload} {values[metric]:.6g}"
                for workload, values in one.metrics.items()
                if metric in values
            )
            print(f"{one.number:>5}  {one.schedule}  {values}")
        if not found:
            print(f"run {run} has no candidate that passed")
    return HOLDS if found else NO


def export(path: Path | None, target: Path) -> int:
    """Write JSON lines and say how many."""
    if not target.name or target.is_dir():
        raise Problem(f"{target} is a folder, not a file", "name the file of JSON lines to write")
    with open_archive(path) as archive:
        lines = archive.export(target)
    print(f"{target}: {several(lines, 'line')}")
    return HOLDS
