"""`python -m opwright.benchmarks`: compile operators of the library and measure them.

Every operator is compiled at one element type with a bounded search (archives are kept, so a second
run goes on where the first was), then the package's kernel and the baselines run side by side. The
whole takes `--minutes`; what did not fit in is said, and what was measured is written after each
operator, so that a run that is cut off leaves its rows.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from opwright.benchmarks.baselines import BASELINES, COMPILE_LIMIT, baselines
from opwright.benchmarks.report import text
from opwright.compiler.elaborate import load_spec
from opwright.compiler.pipeline import CompileError, compile_spec
from opwright.compiler.timing import Row
from opwright.grammar.diagnostics import DiagnosticError
from opwright.search.loads import host

HERE = Path(__file__).resolve().parent
SPECS, RESULTS = HERE.parent / "specs", HERE / "results"
FRAMEWORKS = ("torch", "torch.compile", "jax", "onnxruntime")


def arguments(given: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(prog="python -m opwright.benchmarks", description=__doc__)
    p.add_argument("operators", nargs="*", help="names; those with baselines if absent")
    p.add_argument("--budget", type=int, default=12, help="candidates evaluated per operator")
    p.add_argument("--minutes", type=float, default=15.0, help="time for all of them together")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--type", default="f32", help="element type that type variables are bound to")
    p.add_argument("--against", default=",".join(FRAMEWORKS), help="baselines, by comma")
    p.add_argument("--results", type=Path, default=RESULTS, help="folder with one per machine")
    p.add_argument("--json", type=Path, help="also write the rows of this run as JSON lines")
    return p.parse_args(given)


def run(
    path: Path, budget: int, seed: int, element: str, seconds: float, against: tuple[str, ...]
) -> list[Row]:
    """Timing rows of one operator; its type variables are bound to `element` where they allow
    it. Half of `seconds` is for the search; the first call of a compiled baseline has a tenth.
    """
    spec = load_spec(path)
    (name,) = spec.names
    bindings = spec.bindings(name)
    wanted = next((b for b in bindings if set(b.values()) <= {element}), bindings[0])
    limit = min(COMPILE_LIMIT, max(5.0, seconds / 10))
    with tempfile.TemporaryDirectory(prefix="opwright-bench-") as out:
        made = compile_spec(
            path,
            budget=budget,
            seed=seed,
            out=Path(out),
            types=dict(wanted) or None,
            baselines=partial(baselines, only=against, limit=limit),
            seconds=max(1.0, seconds / 2),
        )
    print(f"  {made.speedup:.2f}x candidate 0: {made.why}", file=sys.stderr, flush=True)
    return list(made.rows)


def slug(name: str) -> str:
    """The name of a machine as that of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def record(file: Path, rows: Sequence[Row], when: str) -> None:
    """The results of this machine, written whole: other operators' rows stay."""
    before: list[dict[str, Any]] = []
    try:
        before = list(json.loads(file.read_text())["rows"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # there is none yet, or it is damaged: this run starts it anew
    named = [{**r.to_json(), "when": when} for r in rows]
    fresh = {x["op"] for x in named}
    kept = [x for x in before if isinstance(x, dict) and x.get("op") not in fresh]
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".part")
    text_ = json.dumps({"machine": host(), "rows": [*kept, *named]}, indent=1)
    temporary.write_text(text_ + "\n")
    os.replace(temporary, file)


def main(given: list[str] | None = None) -> int:
    """Print the tables; 1 when an operator was not measured."""
    options = arguments(given)
    known = {p.stem: p for p in sorted(SPECS.rglob("*.op"))}
    unknown = [n for n in options.operators if n not in known]
    if unknown:
        print(f"no operator {unknown[0]}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    against = tuple(x for x in options.against.split(",") if x)
    strange = [x for x in against if x not in FRAMEWORKS]
    if strange:
        print(f"no baseline {strange[0]}; there are {', '.join(FRAMEWORKS)}", file=sys.stderr)
        return 2
    file = options.results / slug(host()) / f"{options.type}.json"
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    rows: list[Row] = []
    failed: list[str] = []
    names = list(dict.fromkeys(options.operators)) or [n for n in known if n in BASELINES]
    end = time.monotonic() + 60 * options.minutes
    for n, name in enumerate(names):
        left = end - time.monotonic()
        if left <= 0:
            failed.append(f"{name}: not measured, {options.minutes:g} minutes were over")
            continue
        print(name, file=sys.stderr, flush=True)
        try:
            share = left / (len(names) - n)
            rows += run(known[name], options.budget, options.seed, options.type, share, against)
            record(file, rows, when)
        except KeyboardInterrupt:
            failed.append(f"{name}: interrupted")
            break
        except (CompileError, DiagnosticError, RuntimeError, ValueError, OSError) as e:
            failed.append(f"{name}: {(str(e).splitlines() or [type(e).__name__])[0]}")
            print(f"  {failed[-1]}", file=sys.stderr, flush=True)
    print(f"{host()}, load {os.getloadavg()[0]:.1f}")
    print(text(rows))
    for line in failed:
        print(line)
    if rows:
        print(f"rows: {file}")
    if options.json is not None:
        lines = [json.dumps({"machine": host(), **r.to_json()}) for r in rows]
        options.json.write_text("".join(x + "\n" for x in lines))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
