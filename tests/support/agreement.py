"""Random valid specs on every backend, against the float64 reference and a literal reading.

    make agreement ARGS="--count 300 --seed 0"

Every spec is checked, formatted and read again, elaborated, and called with extents of 0, 1 and
ragged ones. The reference is compared with `support.naive`, which reads the text alone; candidate 0
and the first schedules of every space, of C++ and of Triton, run as TileIR; the array code runs in
JAX; the printed Triton runs in Triton's interpreter; the printed C++ is compiled and run. Counts
are printed by construct and by backend; the exit code is 1 where anything differs.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from support.naive import Naive, Whole, indices
from support.random_specs import CONSTRUCTS, RandomSpec, make

from opwright.compiler.block_spaces import spaces as block_spaces
from opwright.compiler.check import check_text
from opwright.compiler.elaborate import parse_spec
from opwright.compiler.evaluate import Unsupported
from opwright.compiler.spaces import spaces
from opwright.grammar import ast
from opwright.grammar.format import format_module
from opwright.grammar.parser import parse
from opwright.ir.dtypes import decode, encode
from opwright.ir.expr import evaluate
from opwright.ir.interpreter import Trap
from opwright.ir.interpreter import run as interpret
from opwright.ir.op import Operator
from opwright.ir.reference import reference
from opwright.ir.tile import TileProgram
from opwright.search.space import IllegalSchedule, Space
from opwright.verify.inputs import Case
from opwright.verify.memory import facts_hold, slots
from opwright.verify.numeric import Bound, bounds, wrong

BACKENDS = ("check", "naive", "cpp tile", "triton tile", "jax", "triton", "cpp")
SIZES = ((0,), (1,), (2, 3, 5), (3, 4, 7, 2), (1, 2, 9, 17))
Arrays = Mapping[str, Any]


class Disagreement(Exception):
    """Two readings of one text differ; the message says where."""


@dataclass(slots=True)
class Subject:
    """A spec with its operator and its calls."""

    spec: RandomSpec
    module: ast.Module
    op: Operator
    cases: list[Case] = field(default_factory=list)
    bounds: list[Mapping[str, Bound]] = field(default_factory=list)


# -- calls ----------------------------------------------------------------------------------------


def prepared(spec: RandomSpec) -> Subject:
    """The spec as the front end reads it; Disagreement where it is refused."""
    found = check_text(spec.text, f"{spec.name}.op")
    if found.diagnostics:
        d = found.diagnostics[0]
        raise Disagreement(f"refused: {d.code} line {d.span.line}: {d.message}")
    bad = [r for r in found.obligations if r.status not in ("PROVED", "UNKNOWN", "TESTED")]
    if bad:
        raise Disagreement(f"{bad[0].id} is {bad[0].status}: {bad[0].reason}")
    module = parse(spec.text, f"{spec.name}.op")
    again = parse(format_module(spec.text), f"{spec.name}.op")
    if again != module:
        raise Disagreement("formatting changes what the text says")
    return Subject(spec, module, parse_spec(spec.text, f"{spec.name}.op").operator(spec.name))


def with_cases(s: Subject, seed: int = 0) -> None:
    """Calls with extents of 0, of 1 and ragged ones, as far as `where` allows."""
    rng = Random(f"cases:{s.spec.name}:{seed}")
    syntax = next(o for o in s.module.ops if o.name == s.spec.name)
    for n, values in enumerate(SIZES):
        sizes = _sizes(s, syntax, values, rng)
        if sizes is None:
            continue
        params = {}
        for p in s.op.params:
            if p.dtype.kind == "bool":
                params[p.name] = rng.random() < 0.5
        inputs = _inputs(s, sizes, params, np.random.default_rng([seed, n, s.spec.seed]))
        full = {**_defaults(s, sizes), **params}
        s.cases.append(Case(f"case{n}", "normal", sizes, full, inputs))


def _defaults(s: Subject, sizes: Mapping[str, int]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for p in s.op.params:
        if p.default is not None:
            out[p.name] = evaluate(p.default, {**sizes, **out})
    return out


def _sizes(s: Subject, syntax: ast.Op, values: Sequence[int], rng: Random) -> dict[str, int] | None:
    """Extents from these, larger ones where `where` asks for that; None if none were found."""
    for attempt in range(120):
        allowed = (*values, *range(1, 1 + attempt // 4))
        sizes = {d.name: rng.choice(allowed) for d in syntax.dims}
        naive = Naive(s.module, syntax.name, sizes, {}, {})
        if all(naive.value(w, {}) for w in syntax.wheres):
            work = math.prod(max(v, 1) for v in sizes.values())
            if work <= 3000:
                return sizes
    return None


def _inputs(
    s: Subject, sizes: Mapping[str, int], params: Mapping[str, Any], rng: np.random.Generator
) -> dict[str, Any]:
    env = {**_defaults(s, sizes), **params, **sizes}
    out = {}
    for t in s.op.inputs:
        shape = tuple(int(evaluate(x, env)) for x in t.shape)
        kind, *rest = s.spec.domains[t.name]
        if kind == "real":
            a: Any = rng.choice([rng.standard_normal(shape), rng.integers(-2, 3, shape) * 0.5])
        elif kind == "truth":
            a = rng.integers(0, 2, shape).astype(bool)
        elif kind == "whole":
            a = rng.integers(rest[0], rest[1] + 1, shape)
        elif kind == "index":
            a = rng.integers(0, max(sizes[rest[0]], 1), shape)
        else:
            inner = np.sort(rng.integers(0, sizes[rest[0]] + 1, shape[0] - 1))
            a = np.concatenate([[0], inner])
        out[t.name] = encode(np.asarray(a), t.dtype)
    return out


# -- readings -------------------------------------------------------------------------------------


def meaning(s: Subject, case: Case) -> Arrays:
    plain = {t.name: decode(case.inputs[t.name], t.dtype) for t in s.op.inputs}
    free = {k: v for k, v in case.sizes.items() if k in s.op.free_sizes}
    return reference(s.op, plain, case.params, free)


def judge(s: Subject, n: int, found: Arrays) -> None:
    """Disagreement where results (in stored form) are not within the bounds of a case."""
    for t in s.op.outputs:
        b = s.bounds[n][t.name]
        if found[t.name].shape != b.reference.shape:
            raise Disagreement(f"{t.name} has shape {found[t.name].shape}, not {b.reference.shape}")
        bad, _ = wrong(t, found[t.name], b)
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            got = decode(found[t.name], t.dtype)[at]
            sizes = dict(s.cases[n].sizes)
            raise Disagreement(
                f"{t.name}{list(at)} is {got}, not {b.reference[at]} at {sizes}, "
                f"params {dict(s.cases[n].params)}"
            )


def literal(s: Subject) -> int:
    """The reference against the literal reading."""
    for case in s.cases:
        views = {}
        for t in s.op.inputs:
            a = decode(case.inputs[t.name], t.dtype)
            views[t.name] = Whole(a.shape, lambda at, a=a: a[at].item())
        env = {**case.params, **case.sizes}
        extents = {
            t.name: tuple(int(evaluate(x, env)) for x in t.shape)
            for t in s.op.tensors if t.role == "local"
        }  # fmt: skip
        naive = Naive(s.module, s.spec.name, case.sizes, case.params, views, extents)
        naive.ranges = _ranges(naive)
        mine, theirs = naive.run(), meaning(s, case)
        for t in s.op.outputs:
            if set(mine[t.name]) != set(indices(theirs[t.name].shape)):
                raise Disagreement(f"{t.name} has shape {theirs[t.name].shape} in the reference")
            for at, x in mine[t.name].items():
                y = theirs[t.name][at]
                if not _same(x, y, t.dtype.kind == "real"):
                    raise Disagreement(f"{t.name}{list(at)} is {y}, literally {x} at {case}")
    return len(s.cases)


def _ranges(naive: Naive) -> dict[str, int]:
    """Extents of the free indices of outputs, which place random numbers."""
    out = {}
    for t in naive.op.outputs:
        left = naive.equations[t.name][0]
        if isinstance(left, ast.Equation) and left.lhs[0].indices:
            own = (i.name for i in left.lhs[0].indices)
            out |= dict(zip(own, naive.shape(t.shape), strict=True))
    return out


def _same(x: Any, y: Any, real: bool) -> bool:
    if not real:
        return bool(x == y)
    x = float(x)
    if math.isnan(x) or math.isinf(x):
        return bool(math.isnan(x) and np.isnan(y)) or x == y
    return bool(abs(x - y) <= 1e-9 * max(1.0, abs(x)))


def programs(found: Sequence[Space], rng: Random, each: int) -> Iterator[tuple[str, TileProgram]]:
    """Programs of the first schedules of every space and of a random one."""
    for k, space in enumerate(found):
        tried = space.preferred()[: each if k else 1]
        if k:
            tried += [space.sample(rng)]
        for schedule in dict.fromkeys(tried):
            try:
                yield schedule.text, space.instantiate(schedule)
            except IllegalSchedule:
                continue


def tiles(s: Subject, found: Sequence[Space], each: int) -> int:
    """TileIR programs through our interpreter, on the calls that they take."""
    ran, first = 0, None
    for label, program in programs(found, Random(s.spec.seed), each):
        first = first or program
        for n, case in enumerate(s.cases):
            try:
                if not _takes(s, case, program):
                    continue
                judge(s, n, _interpreted(s, case, program))
            except Disagreement as e:
                raise Disagreement(f"{label}: {e}") from None
            except Trap as e:
                # what is unsafe must not pass the gates; candidate 0 must be safe
                if program is first or not refused(s.op, program):
                    raise Disagreement(f"{label}: {e} at {case}") from e
                break
            except Exception as e:
                raise Disagreement(f"{label}: {type(e).__name__}: {e} at {case}") from e
            ran += 1
    if not ran:
        raise Disagreement("no program took any call")
    return ran


def refused(op: Operator, program: TileProgram) -> bool:
    """Whether the gates of safety keep a program from being executed."""
    from opwright.verify.context import Context
    from opwright.verify.gates import safety

    return any(r.status != "PROVED" for r in safety(program, Context.of(op)))


def _takes(s: Subject, case: Case, program: TileProgram) -> bool:
    where, _ = slots(s.op, case)
    return facts_hold(case, where, program.facts)


def _interpreted(s: Subject, case: Case, program: TileProgram) -> Arrays:
    where, _ = slots(s.op, case)
    strides = {(x.name, a): n for x in where for a, n in enumerate(x.strides)}
    buffers = {b.name: b for b in program.buffers()}
    env = {**case.params, **case.sizes}
    arrays = {}
    for t in s.op.inputs:
        plain = decode(case.inputs[t.name], t.dtype)
        if t.name in buffers:  # a view of dense memory may have other axes
            shape = tuple(int(evaluate(e, {**env, **strides})) for e in buffers[t.name].shape)
            plain = plain.reshape(shape)
        arrays[t.name] = plain
    made = interpret(program, case.sizes, arrays, case.params, strides)
    out = {}
    for n, t in enumerate(s.op.outputs):
        del n
        shape = tuple(int(evaluate(x, env)) for x in t.shape)
        out[t.name] = encode(made[t.name], t.dtype).reshape(shape)
    return out


def cpp_tiles(s: Subject, each: int = 2) -> int:
    return tiles(s, spaces(s.op), each)


def triton_tiles(s: Subject, each: int = 2) -> int:
    return tiles(s, block_spaces(s.op), each)


def in_jax(s: Subject) -> int:
    """The printed function of arrays, under jit."""
    import jax
    import ml_dtypes

    from opwright.backends.jax.policy import check_policy
    from opwright.backends.jax.printer import function_name, needs_x64, print_operator

    jax.config.update("jax_enable_x64", needs_x64(s.op))
    try:
        source = print_operator(s.op)
        check_policy(source, "kernel.py")
        names: dict[str, Any] = {}
        exec(source, names)
        for n, case in enumerate(s.cases):
            arrays = [
                a.view(ml_dtypes.bfloat16) if t.dtype.name == "bf16" else a
                for t, a in ((t, case.inputs[t.name]) for t in s.op.inputs)
            ]
            named = {**case.params, **{k: case.sizes[k] for k in s.op.free_sizes}}
            made = names[function_name(s.op)](*arrays, **named)
            results = made if isinstance(made, tuple) else (made,)
            out = {}
            for t, x in zip(s.op.outputs, results, strict=True):
                a = np.asarray(x)
                out[t.name] = a.view(t.dtype.storage) if t.dtype.name == "bf16" else a
                if out[t.name].dtype != np.dtype(t.dtype.storage):
                    raise Disagreement(f"{t.name} is {a.dtype} in JAX, not {t.dtype}")
            judge(s, n, out)
    finally:
        jax.config.update("jax_enable_x64", False)
        if len(_JITTED) > 20:  # compiled functions of specs that are done
            jax.clear_caches()
            _JITTED.clear()
        _JITTED.append(s.spec.name)
    return len(s.cases)


_JITTED: list[str] = []


class Triton:
    """One process of Triton's interpreter for many candidates."""

    def __init__(self) -> None:
        self.runner: Any = None
        self.count = 0
        self.file = Path()

    def __call__(self, s: Subject) -> int:
        from opwright.backends.triton.plan import make_plan, print_for
        from opwright.backends.triton.run import Interpreter, NotInterpreted
        from opwright.ir.launch import bind_plan

        ran = 0
        for label, program in itertools.islice(
            programs(block_spaces(s.op), Random(s.spec.seed), 1), 3
        ):
            source = print_for(program, s.op)
            bound = bind_plan(make_plan(program, s.op), s.op)
            if self.runner is None or self.count > 400:
                self.close()
                self.runner, self.count = Interpreter(source, bound), 0
                self.file = Path(str(self.runner.path))
            # the process may read this one file; another path to it is another module
            self.file.write_text(source)
            self.count += 1
            self.runner.bound = bound
            self.runner.path = f"{self.file.parent}/{'./' * self.count}{self.file.name}"
            for n, case in enumerate(s.cases[:4]):
                if not _takes(s, case, program):
                    continue
                try:
                    judge(s, n, self.runner.run(case.inputs, case.sizes, case.params, 20.0))
                except NotInterpreted:
                    if label.startswith("fallback"):
                        raise
                    break  # large blocks take an interpreter too long
                except Disagreement as e:
                    raise Disagreement(f"{label}: {e}") from None
                except Exception as e:
                    raise Disagreement(f"{label}: {type(e).__name__}: {e} at {case}") from e
                ran += 1
        return ran

    def close(self) -> None:
        if self.runner is not None:
            self.runner.close()


def in_cpp(s: Subject) -> int:
    """Candidate 0, compiled."""
    from opwright.backends.cpp.run import Library
    from opwright.compiler.toolbox import evaluation_tools

    kit = evaluation_tools(s.op, "x86-64-v3").tools
    space = spaces(s.op)[0]
    library = Library(kit.build(kit.emit(space.instantiate(space.preferred()[0]))).path, s.op)
    for n, case in enumerate(s.cases):
        out = {
            t.name: np.full(s.bounds[n][t.name].reference.shape, 7).astype(t.dtype.storage)
            for t in s.op.outputs
        }
        library.run(case.inputs, out, case.params, case.sizes, 1)
        judge(s, n, out)
    return len(s.cases)


# -- many -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Report:
    """What was run, by backend, and what differed."""

    agreed: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    by_construct: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str, str]] = field(default_factory=list)
    seconds: Counter[str] = field(default_factory=Counter)


def agree(
    seeds: Sequence[int],
    backends: Sequence[str] = BACKENDS,
    every: Mapping[str, int] | None = None,
    said: Callable[[str], None] | None = None,
) -> Report:
    """Run the specs of these seeds; `every` is how seldom a slow backend takes part."""
    out = Report()
    every = every or {}
    triton = Triton()
    runs: dict[str, Callable[[Subject], int]] = {
        "naive": literal, "cpp tile": cpp_tiles, "triton tile": triton_tiles, "jax": in_jax,
        "triton": triton, "cpp": in_cpp,
    }  # fmt: skip
    try:
        for k, seed in enumerate(seeds):
            spec = make(seed)
            failed = _one(spec, k, backends, every, runs, out)
            for name, why in failed:
                out.failures.append((seed, name, why))
                if said:
                    said(f"seed {seed} ({', '.join(spec.constructs)}): {name}: {why}")
            if not failed:
                out.by_construct.update(spec.constructs)
    finally:
        triton.close()
    return out


def _one(
    spec: RandomSpec,
    k: int,
    backends: Sequence[str],
    every: Mapping[str, int],
    runs: Mapping[str, Callable[[Subject], int]],
    out: Report,
) -> list[tuple[str, str]]:
    failed = []
    begin = time.perf_counter()
    try:
        s = prepared(spec)
        with_cases(s)
        if not s.cases:
            raise Disagreement("no sizes found")
        for case in s.cases:
            s.bounds.append(
                bounds(
                    s.op,
                    case,
                    lambda x, sizes, params: reference(
                        s.op, x, params, {q: v for q, v in sizes.items() if q in s.op.free_sizes}
                    ),
                )
            )
    except Disagreement as e:
        return [("check", str(e))]
    out.agreed["check"] += 1
    out.calls["check"] += len(s.cases)
    out.seconds["check"] += time.perf_counter() - begin  # type: ignore[assignment]
    for name in backends:
        if name == "check" or (k % every.get(name, 1)):
            continue
        begin = time.perf_counter()
        try:
            calls = runs[name](s)
        except Disagreement as e:
            failed.append((name, str(e)))
        except Unsupported as e:
            failed.append((name, f"not supported: {e}"))
        except Exception as e:
            failed.append((name, f"{type(e).__name__}: {str(e).splitlines()[:1]}"))
        else:
            out.agreed[name] += 1
            out.calls[name] += calls
        out.seconds[name] += time.perf_counter() - begin  # type: ignore[assignment]
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backends", default=",".join(BACKENDS))
    parser.add_argument("--native-every", type=int, default=1, help="compile C++ for every n-th")
    parser.add_argument("--triton-every", type=int, default=1, help="run Triton for every n-th")
    parser.add_argument("--show", type=int, help="print the spec of a seed and stop")
    given = parser.parse_args()
    if given.show is not None:
        print(make(given.show).text)
        return 0
    names = [n.strip() for n in given.backends.split(",")]
    every = {"cpp": given.native_every, "triton": given.triton_every}
    begin = time.perf_counter()
    seeds = range(given.seed, given.seed + given.count)
    report = agree(seeds, names, every, lambda line: print(line, flush=True))
    print(f"\n{given.count} random specs, seeds {seeds.start}..{seeds.stop - 1}")
    for name in ("check", *(n for n in names if n != "check")):
        wrong_here = len({seed for seed, who, _ in report.failures if who == name})
        print(
            f"  {name:<12} {report.agreed[name]:>5} agree  {wrong_here:>3} differ  "
            f"{report.calls[name]:>6} calls  {report.seconds[name]:>7.1f} s"
        )
    print("\nspecs that agree everywhere, by construct")
    for name in sorted(CONSTRUCTS):
        print(f"  {name:<20} {report.by_construct[name]:>4}")
    bad = len({seed for seed, _, _ in report.failures})
    print(f"\n{given.count - bad} of {given.count} agree, {time.perf_counter() - begin:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
