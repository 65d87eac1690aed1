"""The table of wrong implementations: what generated tests kill, and a plain comparison beside it.

`python -m opwright.benchmarks.mutation [NAME ...]` seeds faults into right functions of the library
(PyTorch's own, one written out in PyTorch, one in numpy) and runs two judges on each: the tests
that `opwright test` writes, and `torch.allclose` on random normals.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from opwright.benchmarks.twins import KINDS, TWINS, Twin, made, world
from opwright.compiler.elaborate import load_spec
from opwright.compiler.mutating import KILLED, SURVIVED, UNDECIDED, Outcome, Score
from opwright.compiler.mutating_calls import (
    CallJudge,
    Wrong,
    chosen,
    from_text,
    make,
    quiet,
    results,
    score_calls,
    wrapped,
)
from opwright.compiler.mutating_generated import Generated
from opwright.ir.dtypes import decode
from opwright.ir.op import Operator
from opwright.verify.draw import draw_inputs
from opwright.verify.mutate_calls import Function
from opwright.verify.sizes import all_params

SPECS = Path(__file__).resolve().parent.parent / "specs"
RTOL, ATOL = 1e-4, 1e-5
DRAWS = 3
POOL = 96


class Plain:
    """`torch.allclose` with a right function on random normals, at one round size, three draws."""

    def __init__(self, op: Operator, twin: Twin, framework: str, right: Function) -> None:
        self.op, self.framework = op, framework
        sizes = dict(twin.sizes)
        self.params = all_params(op, sizes, {})
        named = {**self.params, **{s: sizes[s] for s in op.free_sizes}}
        self.named = named
        self.draws = []
        for seed in range(DRAWS):
            given = draw_inputs(op, sizes, self.params, "normal", 100 + seed)
            arrays = [decode(given[t.name], t.dtype) for t in op.inputs]
            self.draws.append((arrays, results(quiet(right, self.arrays(arrays), named), op)))

    def arrays(self, values: Sequence[Any]) -> list[Any]:
        return [
            make(self.framework, v, t.dtype.name)
            for v, t in zip(values, self.op.inputs, strict=True)
        ]

    def __call__(self, function: Function) -> bool:
        """Whether it is killed."""
        import torch

        for values, wanted in self.draws:
            try:
                found = results(quiet(function, self.arrays(values), self.named), self.op)
            except Exception:
                return True
            for y, w in zip(found, wanted, strict=True):
                if y.shape != w.shape:
                    return True
                mine, theirs = (torch.from_numpy(np.array(z, np.float64)) for z in (y, w))
                if not torch.allclose(mine, theirs, rtol=RTOL, atol=ATOL):
                    return True
        return False


@dataclass(slots=True)
class Line:
    """One operator: outcomes under the generated tests, and who of them the comparison kills."""

    spec: str
    score: Score
    compared: dict[int, bool] = field(default_factory=dict)  # by number of outcome
    right: dict[str, str] = field(default_factory=dict)  # by kind of function: "" or what failed
    seconds: float = 0.0

    def wrong(self, kind: str = "") -> list[int]:
        """Numbers of the mutants that are known to be wrong: by a test, the pool or the
        comparison."""
        return [
            n
            for n, o in enumerate(self.score.outcomes)
            if kind in ("", o.kind) and o.status in (KILLED, SURVIVED)
        ]

    def plain(self, kind: str = "") -> int:
        return sum(self.compared.get(n, False) for n in self.wrong(kind))

    def killed(self, kind: str = "") -> int:
        return self.score.count(KILLED, kind)


def run(twin: Twin, limit: int, seed: int, space: Mapping[str, Any]) -> Line:
    """One operator: its right functions, then wrong ones made of each."""
    begin = time.monotonic()
    path = SPECS / f"{twin.spec}.op"
    spec = load_spec(path)
    operators = [spec.operator(twin.name, types) for types in spec.bindings(twin.name)]
    op = operators[0]
    line = Line(twin.spec, Score(twin.spec))
    tests, pool = Generated(operators, "torch", seed), CallJudge(op, "torch", seed + 777, POOL)
    for kind in KINDS:
        framework = "numpy" if kind == "numpy" else "torch"
        judge = tests.on(framework)
        right = made(twin, kind, space)
        found = judge(right)
        line.right[kind] = "" if found is None else f"{found[1]}: {found[2]}"
        plain = Plain(op, twin, framework, right)
        wrong = mutants(op, twin, kind, right, space, limit)
        _scored(line, right, wrong, judge, pool.on(framework).passed_by(right), plain)
    line.seconds = time.monotonic() - begin
    return line


def mutants(
    op: Operator, twin: Twin, kind: str, right: Function, space: Mapping[str, Any], limit: int
) -> list[Wrong]:
    """Wrong functions: of the text, and around PyTorch's own."""
    found = from_text(twin.text(kind), twin.function(kind), space)
    if kind == "torch":
        found = [*found, *wrapped(op, right, twin.name)]
    return chosen(found, limit if kind == "torch" else limit // 2)


def _scored(
    line: Line,
    right: Function,
    wrong: Sequence[Wrong],
    tests: Generated,
    pool: CallJudge,
    plain: Plain,
) -> None:
    done: list[Outcome] = []
    score_calls(line.spec, right, wrong, tests, pool, done.append)
    for w, o in zip(wrong, done, strict=True):
        if o.status in (KILLED, SURVIVED, UNDECIDED):
            caught = plain(w.make())
            if caught and o.status == UNDECIDED:  # then it is wrong, and the tests missed it
                o = Outcome(o.kind, o.place, o.what, SURVIVED, "", "a comparison sees it", o.diff)
            line.compared[len(line.score.outcomes)] = caught
        line.score.outcomes.append(o)


# -- the page --------------------------------------------------------------------------------------


def page(lines: Sequence[Line], seconds: float) -> list[str]:
    """The table by operator and by class, and what survived."""
    head = f"{'operator':<26}{'wrong':>7}{'tests':>8}{'allclose':>10}{'left out':>10}"
    out = [f"{head}  right ones passed"]
    for x in lines:
        wrong, left = len(x.wrong()), x.score.count(UNDECIDED)
        passed = sum(not v for v in x.right.values())
        names = ", ".join(k for k, v in x.right.items() if v)
        out.append(
            f"{x.spec:<26}{wrong:>7}{_share(x.killed(), wrong):>8}{_share(x.plain(), wrong):>10}"
            f"{left:>10}  {passed} of {len(x.right)}{f' (not {names})' if names else ''}"
        )
    wrong = sum(len(x.wrong()) for x in lines)
    killed, plain = sum(x.killed() for x in lines), sum(x.plain() for x in lines)
    left = sum(x.score.count(UNDECIDED) for x in lines)
    passed = sum(not v for x in lines for v in x.right.values())
    total = sum(len(x.right) for x in lines)
    out.append(
        f"{f'all {len(lines)}':<26}{wrong:>7}{_share(killed, wrong):>8}{_share(plain, wrong):>10}"
        f"{left:>10}  {passed} of {total}"
    )
    out += ["", f"{'class':<26}{'wrong':>7}{'tests':>8}{'allclose':>10}"]
    kinds = sorted({k for x in lines for k in x.score.kinds})
    for kind in kinds:
        n = sum(len(x.wrong(kind)) for x in lines)
        k, p = sum(x.killed(kind) for x in lines), sum(x.plain(kind) for x in lines)
        if n:
            out.append(f"{kind:<26}{n:>7}{_share(k, n):>8}{_share(p, n):>10}")
    tests: dict[str, int] = {}
    for x in lines:
        for name, count in x.score.by.items():
            tests[name] = tests.get(name, 0) + count
    out += ["", "killed first by"]
    out += [f"  {n:<32}{c:>6}" for n, c in sorted(tests.items(), key=lambda t: -t[1])]
    survivors = [(x.spec, o) for x in lines for o in x.score.survivors]
    if survivors:
        out += ["", f"{len(survivors)} survivors of the tests"]
        out += [f"  {s}: {o.kind}, {o.place}: {o.what} ({o.reason})" for s, o in survivors]
    failed = [(x.spec, k, v) for x in lines for k, v in x.right.items() if v]
    if failed:
        out += ["", "right ones that a test fails"]
        out += [f"  {s} ({k}): {v}" for s, k, v in failed]
    out += ["", f"{seconds:.0f} s on {machine()}"]
    return out


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def machine() -> str:
    """What the numbers were made on."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(x.partition(":")[2].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        pass
    import torch

    return f"{name}, Python {platform.python_version()}, PyTorch {torch.__version__}"


def main(arguments: Sequence[str], say: Callable[[str], None] = print) -> int:
    """Print the table; 0 when the tests kill at least --require percent and pass what is right."""
    parser = argparse.ArgumentParser(prog="python -m opwright.benchmarks.mutation")
    parser.add_argument("names", nargs="*", help="operators; all if absent")
    parser.add_argument("--limit", type=int, default=32, help="mutants of PyTorch's own function")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--require", type=float, default=95.0)
    parser.add_argument("--json", metavar="FILE", help="write every mutant there")
    asked = parser.parse_args(list(arguments))
    twins = [t for t in TWINS if not asked.names or t.name in asked.names or t.spec in asked.names]
    if not twins:
        parser.error(f"no operator of the table is called {asked.names[0]}")
    import torch

    torch.manual_seed(asked.seed)
    torch.set_num_threads(1)  # calls are small
    space, lines, begin = world(), [], time.monotonic()
    for twin in twins:
        line = run(twin, asked.limit, asked.seed, space)
        lines.append(line)
        if sys.stderr.isatty():
            print(f"{line.spec}: {line.seconds:.0f} s", file=sys.stderr)
    say("\n".join(page(lines, time.monotonic() - begin)))
    if asked.json:
        data = [{**x.score.to_json(), "right": x.right} for x in lines]
        Path(asked.json).write_text(json.dumps(data, indent=1) + "\n")
    wrong, killed = sum(len(x.wrong()) for x in lines), sum(x.killed() for x in lines)
    passed = all(not v for x in lines for v in x.right.values())
    return 0 if passed and 100 * killed >= asked.require * wrong else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
