"""`python -m opwright.benchmarks.bounds`: what the numeric gate's limits let pass and what not.

Right evaluations of the library in several orders of summation must all pass; evaluations with a
precision fault must not. Prints both as a table, beside what one fixed tolerance stops.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from opwright.benchmarks.rounded import FAULTS, ORDERS, Way, evaluate
from opwright.compiler.elaborate import load_spec
from opwright.ir.binding import InputError
from opwright.ir.dtypes import decode
from opwright.ir.labelled import Array
from opwright.ir.op import Operator
from opwright.ir.reference import reference
from opwright.verify.inputs import Case, generate
from opwright.verify.numeric import Bound, bounds, spread, wrong
from opwright.verify.sizes import Limits

SPECS = Path(__file__).resolve().parent.parent / "specs"
LIMITS = Limits(1 << 10, 1 << 16)
# what torch.testing.assert_close takes by default: relative, absolute
CLOSE = {"f64": (1e-7, 1e-7), "f32": (1.3e-6, 1e-5), "f16": (1e-3, 1e-5), "bf16": (1.6e-2, 1e-5)}


@dataclass
class Tally:
    """What came of the runs of one way."""

    runs: int = 0
    rejected: int = 0
    close: int = 0  # rejected by the fixed tolerance
    largest: float = 0.0  # error in units of what is allowed
    worst: float = 0.0  # error in units of the derived bound
    typical: float = 0.0  # typical error in units of its limit
    operators: set[str] = field(default_factory=set)
    passed: set[str] = field(default_factory=set)
    reasons: Counter[str] = field(default_factory=Counter)


def operators() -> list[Operator]:
    """The library, each operator at every binding of its types."""
    out = []
    for path in sorted(SPECS.rglob("*.op")):
        spec = load_spec(path)
        for name in spec.names:
            for binding in spec.bindings(name):
                out.append(spec.operator(name, binding))
    return out


def judge(
    op: Operator, case: Case, found: Mapping[str, Array], known: Mapping[str, Bound]
) -> tuple[str, float, float, float]:
    """(why it is rejected, largest share of what is allowed, of the derived bound, of the
    statistical limit)."""
    why, largest, worst, typical = "", 0.0, 0.0, 0.0
    for t in op.outputs:
        b = known[t.name]
        bad, _ = wrong(t, found[t.name], b)
        if bad.any():
            kind = "corner" if case.special else "error"
            why = why or f"{kind} of {t.name} on {case}"
        if b.allowed is not None and not case.special:
            with np.errstate(all="ignore"):
                error = np.abs(decode(found[t.name], t.dtype) - b.reference)
                largest = max(largest, _most(error / b.allowed))
                if b.derived is not None:
                    normal = error > 2.0 ** (1 - t.dtype.bias)
                    worst = max(worst, _most(np.where(normal, error / b.derived, 0.0)))
        usual, most = spread(t, found[t.name], b)
        typical = max(typical, usual / most)
        if usual > most:
            why = why or f"typical error of {t.name} on {case}"
    return why, largest, worst, typical


def _most(share: Array) -> float:
    return float(np.max(share, initial=0.0, where=np.isfinite(share)))


def far(op: Operator, found: Mapping[str, Array], known: Mapping[str, Bound]) -> bool:
    """Whether the fixed tolerance rejects it."""
    for t in op.outputs:
        if t.kind != "real":
            continue
        relative, absolute = CLOSE.get(t.dtype.name, (2.0**-t.dtype.mantissa, 1e-5))
        x, y = decode(found[t.name], t.dtype), known[t.name].reference
        if not np.allclose(x, y, rtol=relative, atol=absolute, equal_nan=True):
            return True
    return False


def runs(op: Operator, seed: int, count: int) -> Iterator[tuple[Case, Mapping[str, Bound]]]:
    """Cases of an operator with what is allowed on them."""
    for case in generate(op, seed, count, limits=LIMITS).cases:
        try:
            yield case, bounds(op, case, lambda x, s, p: reference(
                op, x, p, {k: s[k] for k in op.free_sizes}))  # fmt: skip
        except InputError:
            continue


def one(op: Operator, seed: int, ways: list[Way], tallies: dict[str, Tally], count: int) -> None:
    """A run of every way on the same cases; a fault that changes no result does not count."""
    known = list(runs(op, seed, count))
    right: dict[str, Mapping[str, Array]] = {}
    for way in ways:
        tally = tallies[str(way)]
        why, close, faulty = "", False, not way.fault
        for case, b in known:
            plain = {t.name: decode(case.inputs[t.name], t.dtype) for t in op.inputs}
            free = {k: case.sizes[k] for k in op.free_sizes}
            found, felt = evaluate(op, plain, case.params, free, way)
            if felt and not faulty:
                if case.name not in right:
                    right[case.name] = evaluate(op, plain, case.params, free, Way())[0]
                usual = right[case.name]
                faulty = any(found[n].tobytes() != usual[n].tobytes() for n in usual)
            reason, largest, worst, typical = judge(op, case, found, b)
            tally.worst = max(tally.worst, worst)
            tally.largest, tally.typical = max(tally.largest, largest), max(tally.typical, typical)
            why = why or reason
            close |= case.family == "normal" and far(op, found, b)
        if not faulty:
            continue
        label = f"{op.name}({', '.join(f'{k}={v}' for k, v in op.types.items())})"
        tally.runs += 1
        tally.operators.add(label)
        tally.rejected += bool(why)
        tally.close += close
        if why:
            tally.reasons[f"{label}: {why}"] += 1
            if not way.fault:
                print(f"rejected: {way}: {label}: {why}", file=sys.stderr, flush=True)
        else:
            tally.passed.add(label)


def main(given: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m opwright.benchmarks.bounds", description=__doc__)
    p.add_argument("operators", nargs="*", help="names; the whole library if absent")
    p.add_argument("--runs", type=int, default=1000, help="seeded runs of right evaluations")
    p.add_argument("--faults", type=int, default=100, help="operators that faults are put into")
    p.add_argument(
        "--cases",
        type=int,
        default=5,
        help="cases of a run, special ones aside; twice as many with faults",
    )
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--json", type=Path, help="also write the table")
    p.add_argument("-v", "--verbose", action="store_true", help="say what was rejected or passed")
    asked = p.parse_args(given)
    chosen = [o for o in operators() if not asked.operators or o.name in asked.operators]
    tallies = {str(Way(o)): Tally() for o in ORDERS} | {f: Tally() for f in FAULTS}
    begin = time.perf_counter()
    for n in range(asked.runs):
        way = Way(ORDERS[n % len(ORDERS)])
        one(chosen[n * 7 % len(chosen)], asked.seed + n, [way], tallies, asked.cases)
    for n, op in enumerate(chosen[: asked.faults] if asked.operators else spaced(chosen, asked)):
        one(op, asked.seed + n, [Way(fault=f) for f in FAULTS], tallies, 2 * asked.cases)
    print(table(tallies, time.perf_counter() - begin, asked.verbose))
    if asked.json is not None:
        kept = ("runs", "rejected", "close", "largest", "worst", "typical")
        rows = {k: {name: getattr(t, name) for name in kept} for k, t in tallies.items()}
        asked.json.write_text(json.dumps(rows, indent=1) + "\n")
    return int(any(tallies[o].rejected for o in ORDERS))


def spaced(chosen: list[Operator], asked: argparse.Namespace) -> list[Operator]:
    step = max(1, len(chosen) // max(asked.faults, 1))
    return chosen[::step][: asked.faults]


def table(tallies: Mapping[str, Tally], seconds: float, verbose: bool) -> str:
    out = [f"{'way':18} {'runs':>5} {'rejected':>8} {'assert_close':>12} {'allowed':>8} "
           f"{'bound':>8} {'typical':>8}"]  # fmt: skip
    for name, t in tallies.items():
        out.append(f"{name:18} {t.runs:5} {t.rejected:8} {t.close:12} {t.largest:8.2g} "
                   f"{t.worst:8.2g} {t.typical:8.2g}")  # fmt: skip
    said = "largest error in units of what is allowed and of the derived bound; largest typical "
    out.append(f"{seconds:.0f} s; {said}error in units of its limit")
    if verbose:
        for name, t in tallies.items():
            told = t.reasons if name in ORDERS else dict.fromkeys(sorted(t.passed), 0)
            out += [f"  {name}: {what}" for what in told]
    return "\n".join(out)


if __name__ == "__main__":
    sys.exit(main())
