"""Kernels of one target as the start of a search for another: the algorithm stays, numbers change.

A candidate folder is read as TileIR. Its tile sizes (constants of a Triton text, threads of a CUDA
one) are holes, and so is what the new target decides: warps, stages, vectors, rows in registers.
What comes out is a space like any other; its programs pass the same gates or are refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from opwright.compiler.backend import Backend, CompileError, Effort
from opwright.compiler.rolled import Shape, Unrollable, rolled
from opwright.compiler.strategies.in_place import overwritten
from opwright.ir.binding import InputError
from opwright.ir.expr import Expr, ExprError, evaluate, leaves
from opwright.ir.launch import ImportRefusal, bind_plan, with_room
from opwright.ir.op import Operator
from opwright.ir.plan import Plan, PlanError, load
from opwright.ir.tile import Barrier, For, If, Placement, Stmt, TileProgram, alignments
from opwright.ir.tilecheck import TileError, check_program
from opwright.search.calls import edges
from opwright.search.events import SearchResult
from opwright.search.propose import Builtin, Proposal, View
from opwright.search.space import ChoiceSpace, Decision, IllegalSchedule, Schedule, Space

NAME = "seed"
LEAST, MOST = 8, 8192  # tile sizes that are tried
THREADS = (32, 1024)
PAST = 128  # the largest tile that a call goes past


@dataclass(frozen=True, slots=True)
class Seed:
    """A kernel from elsewhere: its plan and text."""

    plan: Plan
    source: str
    folder: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def words(self) -> str:
        return f"{self.plan.source} ({self.plan.backend} for {self.plan.target})"


def load_seed(folder: Path, op: str) -> Seed:
    """The kernel of a candidate folder; CompileError for one that is not of this operator."""
    try:
        plan = load(folder)
        source = (folder / plan.source).read_text(encoding="utf-8")
    except PlanError as e:
        raise CompileError(str(e), "a seed is a folder with candidate.json and a source") from None
    except (OSError, UnicodeDecodeError) as e:
        raise CompileError(f"{folder}: the seed's source cannot be read: {e}") from None
    if plan.op.partition("@")[0] != op:
        cure = f"name {op} in its candidate.json if that is what it computes"
        raise CompileError(f"the seed {folder} is for {plan.op}, not for {op}", cure)
    if plan.backend == "jax":
        cure = "a seed is a Triton, CUDA or C++ candidate"
        raise CompileError("array code has no tiles to keep: a JAX candidate is no seed", cure)
    return Seed(plan, source, str(folder))


# -- the space -------------------------------------------------------------------------------------


def seed_space(seed: Seed, op: Operator, backend: str, targets: Sequence[str]) -> Space:
    """What a seed may become for a backend at one binding of the operator's types."""
    reader = _Reader(seed, op)
    own = _source_holes(seed.plan)
    holes: dict[str, tuple[Decision, ...]] = {**own, **_target_holes(seed.plan, backend)}

    def build(**decisions: Decision) -> TileProgram:
        inner = {k: int(str(v)) for k, v in decisions.items() if k in own}
        rest = {k: v for k, v in decisions.items() if k not in own}
        program = reader.program(inner)
        made = _for_cpu(program, targets, rest) if backend == "cpp" else _blocks(program, rest)
        try:
            check_program(made)
        except TileError as e:
            raise IllegalSchedule(f"no program for {backend}: {e}") from None
        if why := overwritten(op, made):
            raise IllegalSchedule(why)
        return made

    first = _serving(reader, own)
    starts = [*([first] if first else []), *_starts(holes)]
    return ChoiceSpace(NAME, holes, build, tuple(starts))


def _serving(reader: _Reader, holes: Mapping[str, tuple[Decision, ...]]) -> dict[str, Decision]:
    """The tile size at which a seed's facts hold at more workloads than at its own; nothing where
    there is none. Only what the plan's words promise is read."""
    plan, op = reader.seed.plan, reader.op
    least = _served(plan, op)
    for name, values in holes.items():
        for v in values[1:]:
            size = {name: int(str(v))}
            changed = dict(_changes(plan, size))
            facts = tuple(_renumbered(f, changed) for f in plan.facts)
            if _served(replace(plan, facts=facts), op) <= least:
                continue
            own = {k: int(str(x[0])) for k, x in holes.items()}
            try:
                found = reader.program(own | size)
            except IllegalSchedule:
                continue
            if _holding(found.facts, op) > least:
                return {name: v}
    return {}


def _served(plan: Plan, op: Operator) -> int:
    """How many workloads the facts of a plan hold at."""
    try:
        return _holding(bind_plan(plan, op).facts, op)
    except PlanError:
        return 0


def _holding(facts: Sequence[Expr], op: Operator) -> int:
    """At how many workloads the facts about sizes hold."""
    plain = [f for f in facts if not leaves(f, "stride", "param")]
    count = 0
    for w in op.workloads:
        try:
            count += all(bool(evaluate(f, dict(w.sizes))) for f in plain)
        except (ExprError, KeyError):
            continue
    return count


def _source_holes(plan: Plan) -> dict[str, tuple[Decision, ...]]:
    """Tile sizes of a text: powers of two among its constants, threads of its blocks."""
    out: dict[str, tuple[Decision, ...]] = {}
    for c in plan.launches:
        for name, v in c.const.items():
            if isinstance(v, int) and not isinstance(v, bool) and _is_tile(v) and name not in out:
                near = [v, v // 2, v * 2, v // 4, v * 4]
                out[name] = tuple(n for n in near if LEAST <= n <= MOST)
        block = c.extra.get("block")
        if plan.backend == "cuda" and block and len(block) == 1 and "threads" not in out:
            near = [block[0], block[0] // 2, block[0] * 2]
            out["threads"] = tuple(
                n for n in near if n == block[0] or THREADS[0] <= n <= THREADS[1]
            )
    return {k: v for k, v in out.items() if len(v) > 1}


def _is_tile(v: int) -> bool:
    return LEAST <= v <= MOST and v & (v - 1) == 0


def _target_holes(plan: Plan, backend: str) -> dict[str, tuple[Decision, ...]]:
    if backend == "cpp":
        return {"vectors": (2, 1, 4), "rows": (4, 2, 8), "dynamic": (False, True)}
    first = plan.launches[0]
    block = first.extra.get("block") or [128]
    warps = int(first.extra.get("num_warps", max(1, min(8, int(block[0]) // 32))))
    out: dict[str, tuple[Decision, ...]] = {
        "warps": tuple(dict.fromkeys((warps, 4, 8, 2, 16))),
    }
    if backend == "triton":
        stages = int(first.extra.get("num_stages", 3))
        out["stages"] = tuple(dict.fromkeys((stages, 3, 2, 4, 1)))
    return out


def _starts(holes: Mapping[str, tuple[Decision, ...]]) -> Iterator[dict[str, Decision]]:
    """Further points to begin with: every hole at its next value."""
    for name, values in holes.items():
        if len(values) > 1:
            yield {name: values[1]}


# -- reading ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Reader:
    """Programs of a seed by its tile sizes, each read once."""

    seed: Seed
    op: Operator
    known: dict[tuple[tuple[str, int], ...], TileProgram | str] = field(default_factory=dict)

    def program(self, sizes: Mapping[str, int]) -> TileProgram:
        key = tuple(sizes.items())
        if key not in self.known:
            try:
                self.known[key] = self.read(sizes)
            except IllegalSchedule as e:
                self.known[key] = e.reason
        found = self.known[key]
        if isinstance(found, str):
            raise IllegalSchedule(found)
        return found

    def read(self, sizes: Mapping[str, int]) -> TileProgram:
        """The program at other tile sizes. Numbers in grids and facts that a tile size explains
        change with it where the program then still computes the operator at small sizes."""
        why = ""
        for plan in self.plans(sizes):
            try:
                program = self.imported(plan)
            except IllegalSchedule as e:
                why = why or e.reason
                continue
            wrong = refuted(program, self.op)
            if not wrong:
                return program
            why = why or wrong
        raise IllegalSchedule(why)

    def imported(self, plan: Plan) -> TileProgram:
        from importlib import import_module

        try:
            bound = bind_plan(with_room(replace(plan, types=dict(self.op.types)), self.op), self.op)
            module = import_module(f"opwright.backends.{plan.backend}.importer")
            found: TileProgram = module.import_program(self.seed.source, bound, plan.source)
        except (ImportRefusal, PlanError) as e:
            raise IllegalSchedule(f"the seed was not read: {e}") from None
        except (ExprError, TileError, ValueError, RuntimeError, OSError, RecursionError) as e:
            first = next(iter(str(e).splitlines()), "")[:200]
            raise IllegalSchedule(f"the seed was not read ({type(e).__name__}: {first})") from None
        return found

    def plans(self, sizes: Mapping[str, int]) -> Iterator[Plan]:
        """The plan at these sizes; numbers of grid and facts follow all, some or no tile size."""
        plan = self.seed.plan
        changed = dict(_changes(plan, sizes))
        moved = _resized(plan, sizes)
        if not changed:
            yield moved
            return
        seen: set[str] = set()
        for grid, facts in ((True, True), (True, False), (False, True), (False, False)):
            made = replace(
                moved,
                launches=tuple(
                    replace(c, grid=tuple(_renumbered(g, changed) for g in c.grid)) if grid else c
                    for c in moved.launches
                ),
                facts=tuple(_renumbered(f, changed) for f in moved.facts) if facts else moved.facts,
            )
            text = str(made)
            if text not in seen:
                seen.add(text)
                yield made


def _changes(plan: Plan, sizes: Mapping[str, int]) -> Iterator[tuple[int, int]]:
    for c in plan.launches:
        for name, v in c.const.items():
            if sizes.get(name, v) != v:
                yield v, sizes[name]
        block = c.extra.get("block")
        if block and sizes.get("threads", block[0]) != block[0]:
            yield block[0], sizes["threads"]


def _resized(plan: Plan, sizes: Mapping[str, int]) -> Plan:
    launches = []
    for c in plan.launches:
        extra = dict(c.extra)
        if "threads" in sizes and extra.get("block"):
            extra["block"] = [sizes["threads"], *extra["block"][1:]]
        const = {k: sizes.get(k, v) for k, v in c.const.items()}
        launches.append(replace(c, const=const, extra=extra))
    return replace(plan, launches=tuple(launches))


def _renumbered(text: str, changed: Mapping[int, int]) -> str:
    """A formula with tile sizes, and what is one less, replaced."""
    near = {**{v - 1: n - 1 for v, n in changed.items()}, **changed}

    def number(m: re.Match[str]) -> str:
        return str(near.get(int(m[0]), int(m[0])))

    return re.sub(r"(?<![\w.])\d+(?![\w.])", number, text)


def refuted(program: TileProgram, op: Operator) -> str:
    """Why a program does not compute an operator, from a few small calls; "" where nothing was
    found. That chooses among readings, it judges none."""
    try:
        for sizes in _calls(program, op):
            if why := _wrong(program, op, sizes):
                return f"at {', '.join(f'{k} = {v}' for k, v in sizes.items())}: {why}"
    except (ExprError, ValueError, ArithmeticError, KeyError) as e:
        return f"it cannot be evaluated ({type(e).__name__})"
    return ""


def _calls(program: TileProgram, op: Operator) -> Iterator[dict[str, int]]:
    """Sizes to try: the most that a fact allows one of them, then one past a tile, the others
    small."""
    wanted: dict[tuple[str, int], None] = {}
    for f in program.facts:
        if f.op == "le" and f.args[0].op == "size" and f.args[1].op == "const":
            if int(f.args[1].attr) <= MOST:
                wanted[str(f.args[0].attr), int(f.args[1].attr)] = None
    past = max((e for e in edges(program) if e <= PAST), default=2) + 1
    for s in op.sizes:
        wanted[s, past] = None
    plain = [f for f in (*op.facts, *program.facts) if not leaves(f, "stride", "param")]
    for name, value in wanted:
        for small in (1, 2, 3, 4):
            sizes = {s: value if s == name else small for s in op.sizes}
            if all(bool(evaluate(f, sizes)) for f in plain):
                yield sizes
                break


def _wrong(program: TileProgram, op: Operator, sizes: Mapping[str, int]) -> str:
    """What is wrong with a call of a program, run step by step on the CPU."""
    import numpy as np

    from opwright.ir.dtypes import decode
    from opwright.ir.interpreter import run
    from opwright.ir.interpreter_state import Trap
    from opwright.ir.reference import reference
    from opwright.verify.draw import draw_inputs
    from opwright.verify.sizes import all_params

    params = all_params(op, sizes, {})
    try:
        stored = draw_inputs(op, sizes, params, "normal", 1)
        inputs = {
            t.name: decode(stored[t.name], t.dtype) if t.kind == "real" else stored[t.name]
            for t in op.inputs
        }
        used = {b.name for b in program.buffers() if b.role == "in"}
        given = {n: x for n, x in inputs.items() if n in used}
        got = run(program, sizes, given, {**params, **alignments(program)})
        wanted = reference(op, inputs, params, sizes)
    except Trap as e:
        return str(e)
    except InputError:
        return ""
    for n, w in wanted.items():
        close = np.allclose(got[n].reshape(w.shape), w, rtol=1e-4, atol=1e-6, equal_nan=True)
        if not close:
            return f"{n} is not what the operator says"
    return ""


# -- targets ---------------------------------------------------------------------------------------


def _for_cpu(
    program: TileProgram, targets: Sequence[str], rest: Mapping[str, Decision]
) -> TileProgram:
    lanes = 16 if any("v4" in t for t in targets) else 8
    threads = "dynamic" if rest["dynamic"] else "static"
    shape = Shape(lanes, int(str(rest["vectors"])), int(str(rest["rows"])), threads)
    try:
        return rolled(program, shape)
    except (Unrollable, ExprError) as e:
        raise IllegalSchedule(f"no form for a CPU: {e}") from None


def _blocks(program: TileProgram, rest: Mapping[str, Decision]) -> TileProgram:
    """A program as one of a GPU's blocks. Threads are lanes there: what they hand to each other
    through memory of their block has no form."""
    kernels = []
    for k in program.kernels:
        own = [b.name for b in k.buffers if b.role == "program"]
        if own:
            why = f"{k.name} hands values from thread to thread through {own[0]}"
            raise IllegalSchedule(f"{why}: a block program has no memory of its own")
        kernels.append(replace(k, body=_unfenced(k.body), order="lane", threads=()))
    launch = {"num_warps": int(str(rest["warps"]))}
    if "stages" in rest:
        launch["num_stages"] = int(str(rest["stages"]))
    placements = tuple(Placement(launch=launch) for _ in kernels)
    return replace(program, kernels=tuple(kernels), placements=placements)


def _unfenced(body: Sequence[Stmt]) -> tuple[Stmt, ...]:
    """Statements without barriers, which order nothing where no memory is shared."""
    out: list[Stmt] = []
    for s in body:
        if isinstance(s, Barrier):
            continue
        if isinstance(s, For):
            s = replace(s, body=_unfenced(s.body))
        elif isinstance(s, If):
            s = replace(s, then=_unfenced(s.then), other=_unfenced(s.other))
        out.append(s)
    return tuple(out)


# -- the search ------------------------------------------------------------------------------------


class _Searched(Exception):
    """A search is over, and nothing is built of it."""

    def __init__(self, result: SearchResult) -> None:
        super().__init__()
        self.result = result


@dataclass(slots=True, eq=False)
class Transfer:
    """A seed in a compile: what it adds to the search, and what the search finds without it."""

    seed: Seed
    backend: Backend
    without: SearchResult | None = None

    @staticmethod
    def open(folder: Path, op: str, backend: Backend) -> Transfer:
        if backend.name == "jax":
            raise CompileError("array code has no tiles that a seed could give", "leave --seed out")
        return Transfer(load_seed(folder, op), backend)

    def effort(self, op: Operator, effort: Effort) -> Effort:
        """The effort with the seed among the spaces. At the binding that is searched the same
        budget is spent without the seed first."""
        if effort.primary and self.without is None:
            self.without = self._alone(op, effort)
        space = seed_space(self.seed, op, self.backend.name, self.backend.targets)
        proposer = effort.proposer
        if effort.primary and (proposer is None or isinstance(proposer, Builtin)):
            proposer = Seeded()
        return replace(effort, more=(*effort.more, space), proposer=proposer)

    def _alone(self, op: Operator, effort: Effort) -> SearchResult | None:
        def stop(result: SearchResult) -> None:
            raise _Searched(result)

        try:
            self.backend.compile(op, replace(effort, searched=stop, more=(), command=None))
        except _Searched as e:
            return e.result
        except CompileError:  # nothing passed: that is what a seed may help with
            return None
        raise KeyboardInterrupt  # it was stopped before its end

    def report(self, found: SearchResult, folder: Path) -> dict[str, Any]:
        """The comparison, which also goes into the package's folder."""
        own = [r for r in found.table if str(r["schedule"]).startswith(f"{NAME}(")]
        good = [r for r in own if r["score"] is not None]
        out: dict[str, Any] = {
            "seed": {
                "folder": self.seed.folder,
                "source": self.seed.plan.source,
                "backend": self.seed.plan.backend,
                "target": self.seed.plan.target,
                "sha256": self.seed.digest,
            },
            "backend": self.backend.name,
            "targets": list(self.backend.targets),
            "with": course(found),
            "without": course(self.without) if self.without is not None else None,
            "candidates": [
                {k: r[k] for k in ("number", "schedule", "status", "reason", "score")} for r in own
            ],
            "won": found.winner is not None and found.winner.schedule.strategy == NAME,
            "best": min((float(str(r["score"])) for r in good), default=None),
        }
        (folder / "transfer.json").write_text(json.dumps(out, indent=1) + "\n")
        return out


def course(result: SearchResult) -> dict[str, Any]:
    """How a search went: candidates, those that passed, and every one that was the best so far. A
    score is a share of candidate 0's."""
    rows = sorted(result.table, key=lambda r: int(str(r["number"])))
    best: list[dict[str, Any]] = []
    for n, r in enumerate(rows):
        score = r["score"]
        if score is not None and (not best or float(str(score)) < best[-1]["score"]):
            best.append(
                {"after": n + 1, "score": float(str(score)), "schedule": str(r["schedule"])}
            )
    passed = sum(r["status"] == "ok" for r in rows)
    return {"candidates": len(rows), "passed": passed, "best": best}


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """The comparison in words."""
    seed = report["seed"]
    kind = f"{seed['backend']} for {seed['target']}"
    out = [f"seed     {seed['folder']} ({kind}), as {report['backend']}"]
    for name in ("without", "with"):
        found = report[name]
        if found is None or not found["best"]:
            out.append(f"         {name} the seed: no candidate passed")
            continue
        last = found["best"][-1]
        after = f"after {last['after']} of {found['candidates']} candidates, {last['schedule']}"
        out.append(f"         {name} the seed: {last['score']:.3f} of candidate 0 {after}")
    if report["best"] is None:
        reasons = dict.fromkeys(str(r["reason"]) for r in report["candidates"] if r["reason"])
        out += [f"         nothing of the seed passed: {why}" for why in list(reasons)[:3]]
    elif not report["won"]:
        out.append(f"         the seed's best is {report['best']:.3f}; another candidate is better")
    return out


@dataclass(frozen=True, slots=True)
class Seeded:
    """Proposes the seed's own numbers first, then as the built-in search does, the seed's space
    among the others."""

    inner: Builtin = field(default_factory=Builtin)

    @property
    def name(self) -> str:
        return NAME

    def propose(self, view: View, count: int, rng: Random) -> list[Proposal]:
        space = next((s for s in view.spaces if s.name == NAME), None)
        first: list[Schedule] = space.preferred()[:2] if space is not None else []
        own = [Proposal(s, NAME) for s in first if s.text not in view.tried]
        taken = {p.schedule.text for p in own[:count]}
        more = [p for p in self.inner.propose(view, count, rng) if p.schedule.text not in taken]
        return [*own[:count], *more][:count]
