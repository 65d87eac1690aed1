"""`python -m opwright.benchmarks`: operators against torch, torch.compile, JAX and ONNX Runtime.

Pairs of an operator and a shape are measured in the order of their worth (`subjects.py`), each in a
process of its own where everybody runs interleaved, for `--minutes` in all. What was measured is
written after every pair, so that the next run goes on where this one was cut off.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from opwright.backends.cpp.build import BuildError, host_isa
from opwright.benchmarks.baselines import BASELINES
from opwright.benchmarks.library_baselines import LIBRARY
from opwright.benchmarks.limits import LimitError, measure
from opwright.benchmarks.pairs import STAGE, Settings
from opwright.benchmarks.plots import write_plots
from opwright.benchmarks.report import into_readme, markdown, text
from opwright.benchmarks.results_file import RESULTS, Results, slug, version
from opwright.benchmarks.subjects import DIRECTIONS, Pair, library, plan
from opwright.search.loads import host

FRAMEWORKS = ("torch", "torch.compile", "jax", "onnxruntime")
ELEMENTS = ("f32", "bf16", "f16")
# nobody's numbers are those of page faults: blocks are kept, and pages of outputs are large
DISCIPLINE = {
    "GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184",
    "THP_MEM_ALLOC_ENABLE": "1",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
}
GRACE = 240.0  # seconds that measuring may take beside the search
LEAST = 25.0  # seconds left, below which no pair is begun


def arguments(given: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(prog="python -m opwright.benchmarks", description=__doc__)
    p.add_argument("operators", nargs="*", help="names; all that have rivals if absent")
    p.add_argument("--minutes", type=float, default=60.0, help="time for all of them together")
    p.add_argument("--budget", type=int, default=16, help="candidates evaluated per pair")
    p.add_argument("--search", type=float, default=60.0, help="seconds of a pair's search at most")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--types", default="f32,bf16", help="element types, by comma")
    p.add_argument("--directions", default=",".join(DIRECTIONS), help="forward, backward or both")
    p.add_argument("--study", action="store_true", help="the study's pairs only")
    p.add_argument("--against", default=",".join(FRAMEWORKS), help="rivals, by comma")
    p.add_argument("--again", action="store_true", help="measure what was measured, too")
    p.add_argument("--keep", action="store_true", help="keep what another version measured")
    p.add_argument("--list", action="store_true", help="print the pairs in order and stop")
    p.add_argument("--results", type=Path, default=RESULTS, help="folder with one per machine")
    p.add_argument("--tables", action="store_true", help="make tables and plots anew and stop")
    p.add_argument("--readme", type=Path, help="with --tables: put the table between its marks")
    return p.parse_args(given)


def chosen(options: argparse.Namespace) -> list[Pair] | str:
    """What to measure, in order; or what is wrong with the options."""
    known = library()
    asked = {
        "operator": (options.operators, tuple(known)),
        "rival": (options.against.split(","), FRAMEWORKS),
        "type": (options.types.split(","), ELEMENTS),
        "direction": (options.directions.split(","), DIRECTIONS),
    }
    for what, (names, there) in asked.items():
        strange = [n for n in names if n and n not in there]
        if strange:
            return f"no {what} {strange[0]}; there are {', '.join(there)}"
    types = [x for x in options.types.split(",") if x]
    directions = [x for x in options.directions.split(",") if x]
    return plan(types, directions, options.operators, (BASELINES, LIBRARY), options.study)


def one(pair: Pair, settings: Settings, seconds: float) -> dict[str, Any]:
    """A pair measured in a process of its own; what went wrong otherwise."""
    asked = {"pair": pair.to_json(), "settings": asdict(settings)}
    environment = {**os.environ, **DISCIPLINE}
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "opwright.benchmarks.pairs"],
            input=json.dumps(asked), capture_output=True, text=True,
            timeout=seconds, env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired as e:
        said = e.stderr.decode(errors="replace") if isinstance(e.stderr, bytes) else e.stderr or ""
        stages = [x.removeprefix(STAGE) for x in said.splitlines() if x.startswith(STAGE)]
        where = f" (it was {stages[-1]})" if stages else ""
        return {**pair.to_json(), "failed": f"not measured within {seconds:.0f} s{where}"}
    try:
        result: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
        return result
    except (IndexError, ValueError):
        last = (ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"])[-1]
        return {**pair.to_json(), "failed": f"the process ended: {last[:300]}"}


def _said(result: dict[str, Any], done: Results, key: str) -> str:
    if "failed" in result:
        return f"  {result['failed']}"
    (entry,) = [e for e in done.entries() if e.body is done.pairs[key]]
    mine = entry.own("out")
    worst = entry.worst()
    rival = f"; nearest rival {worst[0]} ({worst[1]}) {worst[2]:.2f}x" if worst else ""
    share = f"; {entry.share[0]:.0%} of {entry.share[1]}" if entry.share else ""
    noise = f"; A/A {entry.noise - 1:.1%}" if entry.noise else ""
    return f"  {(mine or 0.0) * 1e3:.3g} ms{share}{rival}{noise}"


def run(options: argparse.Namespace, pairs: Sequence[Pair], results: Results) -> list[str]:
    """Measure what is not there yet; reasons for what was not measured."""
    end = time.monotonic() + 60 * options.minutes
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    try:
        limits = asdict(measure()) if options.minutes > 0 else None
    except (BuildError, LimitError) as e:
        limits = None
        print(e, file=sys.stderr)
    results.runs[started] = {
        "limits": limits,
        "isa": host_isa(),
        "load": os.getloadavg()[0],
        "environment": DISCIPLINE,
        "budget": options.budget,
        "seed": options.seed,
    }
    failed: list[str] = []
    skipped = 0
    for n, pair in enumerate(pairs):
        code = version(library()[pair.op])
        known = results.pairs.get(pair.key, {})
        if not options.again and (
            results.done(pair.key, code)
            or (options.keep and known and "failed" not in known)
        ):  # fmt: skip
            skipped += 1
            continue
        left = end - time.monotonic()
        if left < LEAST:
            failed.append(f"{len(pairs) - n} pairs from {pair.title} on: {options.minutes:g}"
                          " minutes were over")  # fmt: skip
            break
        settings = Settings(
            options.budget,
            options.seed,
            max(5.0, min(options.search, left / 3)),
            tuple(x for x in options.against.split(",") if x),
        )
        print(f"{pair.title}, {pair.element}, {pair.direction}", file=sys.stderr, flush=True)
        try:
            result = one(pair, settings, min(settings.seconds + GRACE, left))
        except KeyboardInterrupt:
            failed.append(f"{pair.title}: interrupted")
            break
        if "failed" in result and known and "failed" not in known:
            failed.append(f"{pair.title}: {result['failed']}; an earlier run's numbers stay")
            continue
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        results.pairs[pair.key] = {**result, "run": started, "when": when, "code": code}
        results.write()
        print(_said(result, results, pair.key), file=sys.stderr, flush=True)
        if "failed" in result:
            failed.append(f"{pair.title}, {pair.element}, {pair.direction}: {result['failed']}")
    if skipped:
        print(f"{skipped} pairs were measured before (--again measures them anew)", file=sys.stderr)
    return failed


def write_tables(results: Results) -> list[Path]:
    """The table and the plots beside the results."""
    table = results.path.with_suffix(".md")
    table.write_text(markdown(results), encoding="utf-8")
    return [table, *write_plots(results, results.path.parent)]


def main(given: list[str] | None = None) -> int:
    """Measure, then print the tables; 1 when something was not measured."""
    options = arguments(given)
    pairs = chosen(options)
    if isinstance(pairs, str):
        print(pairs, file=sys.stderr)
        return 2
    if options.list:
        for p in pairs:
            print(p.key)
        return 0
    results = Results.of(options.results / slug(host()) / "bench.json", host())
    failed: list[str] = []
    if not options.tables:
        failed = run(options, pairs, results)
        results.write()
    if not results.pairs:
        print("nothing was measured yet", file=sys.stderr)
        return 1
    print(text(results))
    for path in write_tables(results):
        print(f"wrote {path}")
    readme = options.readme
    if readme is not None and not into_readme(results, readme):
        print(f"{readme} has no marks for the table", file=sys.stderr)
        return 1
    for line in failed:
        print(f"not measured: {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
