"""`python -m benchmarks`: compile the operator library and measure it against its baselines.

Every operator is compiled at f32 with a bounded search (archives are kept, so a second run goes on
where the first was), then the package's kernel and the baselines run side by side.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from opwright.benchmarks.baselines import baselines
from opwright.benchmarks.report import text
from opwright.compiler.elaborate import load_spec
from opwright.compiler.pipeline import CompileError, compile_spec
from opwright.compiler.timing import Row
from opwright.grammar.diagnostics import DiagnosticError
from opwright.search.evaluate import host

SPECS = Path(__file__).resolve().parent.parent / "specs"


def arguments(given: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    p.add_argument("operators", nargs="*", help="names of operators; all of them if absent")
    p.add_argument("--budget", type=int, default=16, help="candidates evaluated per operator")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--type", default="f32", help="element type that type variables are bound to")
    p.add_argument("--json", type=Path, help="also write all rows as JSON lines")
    return p.parse_args(given)


def run(path: Path, budget: int, seed: int, element: str) -> list[Row]:
    """Timing rows of one operator; its type variables are bound to `element` where they allow
    it.
    """
    spec = load_spec(path)
    (name,) = spec.names
    bindings = spec.bindings(name)
    wanted = next((b for b in bindings if set(b.values()) <= {element}), bindings[0])
    with tempfile.TemporaryDirectory(prefix="opwright-bench-") as out:
        made = compile_spec(
            path,
            budget=budget,
            seed=seed,
            out=Path(out),
            types=dict(wanted) or None,
            baselines=baselines,
        )
    print(f"  {made.speedup:.2f}x candidate 0: {made.why}", file=sys.stderr, flush=True)
    return list(made.rows)


def main(given: list[str] | None = None) -> int:
    """Print the tables; 1 when an operator could not be compiled."""
    options = arguments(given)
    paths = sorted(SPECS.rglob("*.op"))
    known = {p.stem: p for p in paths}
    unknown = [n for n in options.operators if n not in known]
    if unknown:
        print(f"no operator {unknown[0]}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    rows: list[Row] = []
    failed: list[str] = []
    for name in options.operators or known:
        print(name, file=sys.stderr, flush=True)
        try:
            rows += run(known[name], options.budget, options.seed, options.type)
        except (CompileError, DiagnosticError, RuntimeError) as e:
            failed.append(f"{name}: {str(e).splitlines()[0]}")
            print(f"  {failed[-1]}", file=sys.stderr, flush=True)
    print(f"{host()}, load {os.getloadavg()[0]:.1f}")
    print(text(rows))
    for line in failed:
        print(line)
    if options.json is not None:
        lines = [json.dumps({"machine": host(), **r.to_json()}) for r in rows]
        options.json.write_text("".join(x + "\n" for x in lines))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
