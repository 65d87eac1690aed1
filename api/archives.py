"""Reading search archives: `opwright search show | tree | best | export | log | resume`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from opwright.compiler.paths import cache_folder
from opwright.explain import archives
from opwright.outcome import HOLDS, NO, Problem, file_problem, print_json, several
from opwright.search.archive import Archive
from opwright.search.history import History, Node


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


def history(archive: Archive, number: int | None) -> History:
    """The run with that number, or the last."""
    return History.of(archive, run_id(archive, number))


def heading(found: History, path: Path | str) -> str:
    """What was searched, where it lies, how it ended."""
    what = found.subject or str(path)
    operator = found.operator.get("operator", "")
    types = ", ".join(f"{k} = {v}" for k, v in found.operator.get("types", {}).items())
    name = f"{operator} ({types})" if types else operator
    outcome = (found.run["outcome"] or {}).get("outcome", "not finished")
    return (
        f"{name or what}, run {found.id} of {path}: {several(len(found.nodes), 'candidate')}, "
        + (f"{outcome}")
    )


def show(path: Path | None, number: int | None, as_json: bool) -> int:
    """Print one line a candidate."""
    with open_archive(path) as archive:
        found = history(archive, number)
        rows = archive.table(found.id)
        wrong = archive.broken()
    if as_json:
        document = {
            "archive": path or archive.path,
            "run": found.id,
            "operator": found.operator,
            "outcome": found.run["outcome"],
            "ledger": wrong or "whole",
            "rows": rows,
            "candidates": [n.to_json() for n in found.nodes],
        }
        print_json(document)
        return NO if wrong else HOLDS
    print(heading(found, archive.path))
    for node in found.nodes:
        print(
            f"{node.number:>5}  {node.candidate.status:<9}  {node.candidate.schedule}  {said(node)}"
        )
    if wrong:
        print(f"the ledger is damaged: {wrong}")
    return NO if wrong else HOLDS


def said(node: Node) -> str:
    """Times of a candidate, or why it has none."""
    times = [f"{w} {v['latency'] * 1e3:.4g} ms" for w, v in node.metrics.items() if "latency" in v]
    if node.score is not None:
        sure = "" if node.confirmed else ", not confirmed"
        return f"{', '.join(times)} ({node.score:.3f} of candidate 0{sure})"
    return node.candidate.reason or ", ".join(times)


def tree(path: Path | None, number: int | None, as_json: bool) -> int:
    """Print candidates below those that they vary."""
    with open_archive(path) as archive:
        found = history(archive, number)
    winner = found.winner
    if as_json:
        roots = [branch(found, n) for n in found.children(None)]
        best_number = winner.number if winner else None
        print_json({"run": found.id, "winner": best_number, "roots": roots})
        return HOLDS
    print(heading(found, archive.path))
    for line in branches(found, found.children(None), "", winner.number if winner else None):
        print(line)
    return HOLDS


def branch(found: History, node: Node) -> dict[str, Any]:
    """A candidate with what varies it, for a machine."""
    below = [branch(found, n) for n in found.children(node.number) if n.number > node.number]
    return {**node.to_json(), "children": below}


def branches(found: History, nodes: Sequence[Node], lead: str, winner: int | None) -> list[str]:
    """Lines of a tree."""
    lines = []
    for place, node in enumerate(nodes):
        last = place == len(nodes) - 1
        top = not lead and node.candidate.parent is None
        stem = "" if top else ("`-- " if last else "|-- ")
        mark = "*" if node.number == winner else " "
        score = f"{node.score:.3f}" if node.score is not None else node.candidate.status
        how = node.candidate.origin
        lines.append(f"{lead}{stem}{mark}{node.number} {score}  {how}: {node.candidate.schedule}")
        below = [n for n in found.children(node.number) if n.number > node.number]
        inner = "  " if top else lead + ("    " if last else "|   ")
        lines += branches(found, below, inner, winner)
    return lines


def best(path: Path | None, count: int, metric: str, number: int | None, as_json: bool) -> int:
    """Print the best candidates, by the objective unless a metric is named; the answer is no when
    none passed."""
    with open_archive(path) as archive:
        run = history(archive, number)
        if metric:
            order = [c.number for c in archive.best(run.id, len(run.nodes), metric)]
            found = [n for m in order for n in run.nodes if n.number == m][:count]
        else:
            found = run.ranked[:count]
    if as_json:
        print_json({"run": run.id, "rows": [n.to_json() for n in found]})
    else:
        for one in found:
            print(f"{one.number:>5}  {one.candidate.schedule}  {said(one)}")
        if not found:
            print(f"run {run.id} has no candidate that passed")
    return HOLDS if found else NO


def log(path: Path | None, number: int | None, kind: str, as_json: bool) -> int:
    """Print the ledger; the answer is no where it is damaged."""
    from opwright.search.ledger import KINDS

    if kind and kind not in KINDS:
        raise Problem(f"the ledger has no entries of kind {kind}", f"kinds: {', '.join(KINDS)}")
    with open_archive(path) as archive:
        run = run_id(archive, number) if number is not None else None
        entries = archive.ledger(run, kind)
        wrong = archive.broken()
    if as_json:
        print_json({"ledger": wrong or "whole", "entries": [e.to_json() for e in entries]})
        return NO if wrong else HOLDS
    for e in entries:
        text = json.dumps({k: v for k, v in e.body.items() if k not in ("records", "text")})
        short = text if len(text) <= 160 else f"{text[:157]}..."
        print(f"{e.id:>5}  run {e.run}  {e.kind:<12}  {e.hash[7:19]}  {short}")
    print(f"the ledger is damaged: {wrong}" if wrong else "every entry is as it was written")
    return NO if wrong else HOLDS


def export(path: Path | None, target: Path, number: int | None, what: str, as_json: bool) -> int:
    """Write an archive as JSON lines, or one candidate as a folder."""
    if what:
        return export_candidate(path, target, number, what, as_json)
    if not target.name or target.is_dir():
        raise Problem(f"{target} is a folder, not a file", "name the file of JSON lines to write")
    with open_archive(path) as archive:
        lines = archive.export(target)
    if as_json:
        print_json({"file": target, "lines": lines})
    else:
        print(f"{target}: {several(lines, 'line')}")
    return HOLDS


def export_candidate(
    path: Path | None, folder: Path, number: int | None, what: str, as_json: bool
) -> int:
    """Write a candidate (`best` or a number) as the folder that `opwright verify` takes."""
    with open_archive(path) as archive:
        found = history(archive, number)
        node = found.winner if what == "best" else None
        if what.isdigit():
            node = found.node(int(what))
        if node is None:
            numbers = ", ".join(str(n.number) for n in found.ranked[:5]) or "none passed"
            raise Problem(f"run {found.id} has no candidate {what}", f"the best are: {numbers}", NO)
        texts = archive.texts(found.id, node.number)
    if "candidate.json" not in texts:
        why = node.candidate.reason or "it was never printed"
        raise Problem(
            f"candidate {node.number} has no text to export: {why}",
            "choose one that passed: `opwright search best`",
            NO,
        )
    folder.mkdir(parents=True, exist_ok=True)
    verdict = {**node.to_json(), "records": [r.to_json() for r in node.candidate.records]}
    texts["verdict.json"] = json.dumps(verdict, indent=2, default=str) + "\n"
    spec = found.command.get("text")
    if isinstance(spec, str):
        texts["spec.op"] = spec
    for name, text in texts.items():
        # a plan names its source as a plain file name; whatever else came in stays in the archive
        if Path(name).name == name:
            (folder / name).write_text(text, encoding="utf-8")
    if as_json:
        print_json({"folder": folder, "candidate": node.to_json(), "files": sorted(texts)})
    else:
        print(f"{folder}: candidate {node.number}, {', '.join(sorted(texts))}")
    return HOLDS


def resume(
    path: Path | None, number: int | None, budget: int | None, out: Path | None, as_json: bool
) -> int:
    """Go on with a run as its ledger says it was asked for: what was evaluated is not again."""
    from opwright.compiling import Request, compile_command

    with open_archive(path) as archive:
        found = history(archive, number)
    if not found.command:
        raise Problem(
            f"run {found.id} of {archive.path} does not say what was asked for",
            "an older version wrote it: give the same `opwright compile` command again",
        )
    request = _known(Request.from_json(found.command), found.command)
    if budget is not None:
        request = replace(request, budget=budget)
    if out is not None:
        request = replace(request, out=out)
    return compile_command(request, as_json)


def _known(request: Any, command: Mapping[str, Any]) -> Any:
    """The request with its spec where it was; Problem where that is gone or another one now."""
    text = command.get("text")
    try:
        now = request.path.read_text(encoding="utf-8")
    except OSError:
        if not isinstance(text, str):
            raise Problem(
                f"{request.path} is gone", "put the spec back and run this again"
            ) from None
        kept = cache_folder() / "specs" / request.path.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(text, encoding="utf-8")
        return replace(request, path=kept)
    if isinstance(text, str) and now != text:
        raise Problem(
            f"{request.path} is not what it was when this run began",
            "put the old text back, or start anew with `opwright compile`",
            NO,
        )
    return request
