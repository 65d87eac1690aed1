"""The spaces of schedules that an operator has: its definitions in groups, each group a strategy
with holes.

Candidate 0 is the fallback over the whole operator. Everything else lowers dense arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from opwright.compiler.apart import apart
from opwright.compiler.buffers import Memory, dense_facts
from opwright.compiler.cascade.rewrite import Derivation, single_pass
from opwright.compiler.evaluate import Unsupported, compute_dtype
from opwright.compiler.flatten import flatten
from opwright.compiler.grouped import grouped
from opwright.compiler.normalize import Normal, normalize, reads_of
from opwright.compiler.placed import placed
from opwright.compiler.strategies import (
    contraction,
    fallback,
    lanes,
    recurrence,
    scan,
    shares,
    staged,
    streams,
    turn,
    window,
)
from opwright.compiler.strategies import walk as walk_
from opwright.compiler.strategies.group import Group, is_fold, members
from opwright.compiler.strategies.in_place import overwritten
from opwright.ir.expr import Expr, ExprError, Fold, call, leaf, read_parts, var, walk
from opwright.ir.op import Operator, Tensor
from opwright.ir.tile import Kernel, Placement, TileProgram
from opwright.search.space import ChoiceSpace, Decision, IllegalSchedule, Space

Holes = dict[str, tuple[Decision, ...]]
Starts = list[dict[str, Decision]]


@dataclass(frozen=True, slots=True)
class Part:
    """One group with the strategy that lowers it."""

    group: Group
    strategy: str  # contraction | window | turn | walk | lanes | scan | recurrence | scalar
    form: Any = None

    @property
    def kind(self) -> str:
        """Strategy, with folds inside the lanes told from folds along or across them."""
        return "inner" if self.strategy == "lanes" and self.form.inner else self.strategy


Strategies = tuple[tuple[str, Callable[[Group], Any]], ...]
_STRATEGIES: Strategies = (
    ("contraction", contraction.recognise),
    ("window", window.recognise),
    ("lanes", lanes.analyse),
    ("lanes", lanes.analyse_inner),
    ("scan", scan.recognise),
    ("recurrence", recurrence.recognise),
)


def partition(normal: Normal, strategies: Strategies = _STRATEGIES) -> list[Part]:
    """Consecutive definitions that one strategy lowers together, in dependency order."""
    parts: list[Part] = []
    earlier: frozenset[str] = frozenset()
    current: list[Tensor] = []

    def fit(tensors: list[Tensor]) -> Part | None:
        group = Group(normal, tuple(tensors), earlier)
        for strategy, test in strategies:
            try:
                return Part(group, strategy, test(group))
            except Unsupported:
                continue
        return None

    found: Part | None = None
    taken: set[str] = set()
    for t in members(normal):
        if t.name in taken:
            continue
        alone = _joint(normal, t)
        if current and len(alone) == 1 and _stays(found, fit([t])):
            more = fit([*current, t])
            if more is not None and found is not None and more.kind == found.kind:
                current.append(t)
                found = more
                continue
        if found is not None:
            parts.append(found)
        earlier = earlier | {u.name for p in parts[-1:] for u in p.group.members if _kept(u)}
        taken |= {u.name for u in alone}
        current = alone
        found = fit(alone) if len(alone) == 1 else _jointly(normal, alone, earlier)
        if found is None:
            found = Part(Group(normal, tuple(alone), earlier), "scalar")
    if found is not None:
        parts.append(found)
    return parts


def walked(
    normal: Normal,
    parts: Sequence[Part],
    found: Sequence[Derivation] | None = None,
    strategy: str = "walk",
) -> list[Part] | None:
    """The parts with contractions that folds walk over made anew by these, and not kept; None where
    there is none. With derivations a part is one pass over blocks."""
    inner = {
        p.form.result.name: p.form
        for p in parts
        if p.strategy == "contraction" and len(p.group.members) == 1
        if p.form.result.role == "local"
    }
    kept = {t.name for p in parts for t in p.group.members}
    while inner:
        out = _walks(normal, parts, inner, found, strategy)
        bodies = [(p, t.body) for p in out if p.strategy != strategy for t in p.group.members]
        reads = (x for p, e in bodies if e is not None for x in walk(p.group.expand(e, kept)))
        needed = {x.attr[0] for x in reads if x.op == "read"}
        if not needed & set(inner):
            return out
        inner = {n: f for n, f in inner.items() if n not in needed}
    return None


def _walks(
    normal: Normal,
    parts: Sequence[Part],
    inner: Mapping[str, contraction.Form],
    found: Sequence[Derivation] | None,
    strategy: str,
) -> list[Part]:
    out: list[Part] = []
    for p in parts:
        if p.strategy == "contraction" and p.form.result.name in inner:
            continue
        before = out[-1] if out and out[-1].strategy == strategy else None
        for q in (before, None) if before else (None,):
            members = (*q.group.members, *p.group.members) if q else p.group.members
            group = Group(normal, members, q.group.earlier if q else p.group.earlier)
            try:
                form = streams.recognise(group, inner, found)
            except Unsupported:
                continue
            if q and len(form.owner) > sum(t.name in form.columns for t in form.folds):
                continue  # one walk more costs less than one more sum with columns
            if q:
                out.pop()
            out.append(Part(group, strategy, form))
            break
        else:
            out += _runs(normal, p, inner, found, strategy)
    return out


def _runs(
    normal: Normal,
    p: Part,
    inner: Mapping[str, contraction.Form],
    found: Sequence[Derivation] | None,
    strategy: str,
) -> list[Part]:
    """A group of lanes in which some neighbours walk, as runs of those and of the rest; the group
    itself where none do."""
    analyse = lanes.analyse_inner if p.kind == "inner" else lanes.analyse
    out: list[Part] = []
    earlier, rest = p.group.earlier, list(p.group.members)

    def first(at: int) -> Part | None:
        for end in range(len(rest), at, -1):
            group = Group(normal, tuple(rest[at:end]), earlier)
            try:
                return Part(group, strategy, streams.recognise(group, inner, found))
            except Unsupported:
                continue
        return None

    while rest and p.strategy == "lanes":
        run = first(0)
        if run is None:
            end = next((n for n in range(1, len(rest)) if first(n)), len(rest))
            group = Group(normal, tuple(rest[:end]), earlier)
            try:
                run = Part(group, "lanes", analyse(group))
            except Unsupported:
                return [p]
        out.append(run)
        del rest[: len(run.group.members)]
        earlier |= {t.name for t in run.group.members if _kept(t)}
    return out if len(out) > 1 else [p]


def _jointly(normal: Normal, alone: Sequence[Tensor], earlier: frozenset[str]) -> Part | None:
    """Tensors that recur together."""
    group = Group(normal, tuple(alone), earlier)
    try:
        return Part(group, "recurrence", recurrence.recognise(group))
    except Unsupported:
        return None


def _joint(normal: Normal, t: Tensor) -> list[Tensor]:
    if t.recurrence is None:
        return [t]
    return [u for n in t.recurrence.group for u in normal.tensors if u.name == n]


def _stays(current: Part | None, alone: Part | None) -> bool:
    """A contraction always starts a group of its own."""
    if current is None or current.strategy == "scalar":
        return False
    return alone is None or alone.strategy not in ("contraction", "window")


def _kept(t: Tensor) -> bool:
    return is_fold(t) or t.recurrence is not None


def spaces(op: Operator, lanes_native: int = 8) -> list[Space]:
    """The searchable spaces; the first one is candidate 0's. `lanes_native`: f32 lanes of a
    vector."""
    normal = normalize(op)
    out: list[Space] = [
        ChoiceSpace("fallback", {"schedule": ("plain",)}, lambda schedule: fallback.lower(normal))
    ]
    try:
        parts = partition(normal)
    except ExprError:
        return out
    whole, along = normal, walked(normal, parts)
    for rewritten in (apart, grouped):
        if along is None and (other := rewritten(op)) is not None:
            other_normal = normalize(other)
            along = walked(other_normal, partition(other_normal))
            normal = other_normal if along is not None else normal
    if along is not None and any(p.strategy == "walk" and p.form.owner for p in along):
        parts, along = along, None  # what is walked over twice had better not be in memory
        whole = normal
    if any(p.strategy != "scalar" for p in parts):
        out.append(_composed(op, whole, parts, lanes_native))
        if len(parts) == 1 and parts[0].strategy == "lanes" and len(_modes(parts[0].form)) > 1:
            out.append(_composed(op, whole, parts, lanes_native, mode=1))
    if along is not None:
        out.append(_composed(op, normal, along, lanes_native))
    if any(p.strategy == "lanes" and p.form.inner for p in parts):
        slid = partition(whole, (("window", window.recognise_rowless), *_STRATEGIES))
        if any(p.strategy == "window" and p.form.rows < 0 for p in slid):
            out.append(_composed(op, whole, slid, lanes_native))
    turned = partition(whole, (("turn", turn.recognise), *_STRATEGIES))
    if any(p.strategy == "turn" for p in turned):
        out.append(_composed(op, whole, turned, lanes_native))
    flat = flatten(op)
    if flat is not None:
        flat_normal = normalize(flat)
        flat_parts = partition(flat_normal)
        if all(p.strategy == "lanes" for p in flat_parts):
            out.append(_composed(op, flat_normal, flat_parts, lanes_native, "dense"))
    apart_ = placed(op)
    if apart_ is not None:
        pair_normal = normalize(apart_)
        pair_parts = partition(pair_normal)
        if all(p.strategy == "lanes" for p in pair_parts):
            out.insert(1, _composed(op, pair_normal, pair_parts, lanes_native, "placed"))
    once = single_pass(op)
    if once is not None:
        once_normal = normalize(once)
        once_parts = partition(once_normal)
        if any(p.strategy != "scalar" for p in once_parts):
            space = _composed(op, once_normal, once_parts, lanes_native, "once")
            out.append(replace(space, starts=()))
    return out


def _composed(
    op: Operator,
    normal: Normal,
    parts: list[Part],
    native: int,
    prefix: str = "",
    mode: int = 0,
) -> ChoiceSpace:
    holes: Holes = {}
    starts: Starts = []
    for n, p in enumerate(parts):
        own, further = _holes(p, native, mode)
        holes |= {f"{_label(parts, n)}{k}": v for k, v in own.items()}
        starts += [{f"{_label(parts, n)}{k}": v for k, v in s.items()} for s in further]
    kinds = [_kind(p, mode) for p in parts]
    name = "_".join([*([prefix] if prefix else []), *kinds])
    build = partial(_build, op, normal, parts, mode)
    return ChoiceSpace(name, holes or {"schedule": ("plain",)}, build, tuple(starts))


def _label(parts: list[Part], n: int) -> str:
    return "" if len(parts) == 1 else f"g{n}."


def _kind(p: Part, mode: int) -> str:
    if p.strategy != "lanes":
        return p.strategy
    return "inner" if p.form.inner else _modes(p.form)[mode]


def _holes(p: Part, native: int, mode: int) -> tuple[Holes, Starts]:
    if p.strategy == "contraction":
        return _contraction_holes(native)
    if p.strategy == "window":
        return _window_holes(p.form, native)
    if p.strategy == "turn":
        return _turn_holes(native)
    if p.strategy == "walk":
        return _walk_holes(native)
    if p.strategy == "scan":
        return _scan_holes(p.form, native)
    if p.strategy == "recurrence":
        return _recurrence_holes(p.form, native)
    if p.strategy == "lanes":
        return _LANE_HOLES[_modes(p.form)[mode]](p.form, native)
    return {}, []


def _contraction_holes(native: int) -> tuple[Holes, Starts]:
    tiles: tuple[Decision, ...]
    if native >= 16:
        tiles = ((14, 32), (12, 32), (8, 48), (8, 32), (6, 64), (28, 16), (6, 32), (6, 16))
    else:
        tiles = ((6, 16), (4, 24), (12, 8), (4, 16))
    holes: Holes = {
        "tile": tiles,
        "vec": (native,) if native == 8 else (native, 8),
        "kc": (256, 384, 512, 1024, 128),
        "row_tiles": (16, 8, 32, 4),
        "panels": (16, 32, 8, 64),  # narrow blocks, so that threads end at about the same time
        "pin": (False, True),
        "deep": (True, False),
        "unroll": (2, 1, 4),
        "threads": ("dynamic", "static"),
        "lies": ("neither", "both", "right", "left"),
    }
    starts: Starts = [{"kc": 512}, {"tile": tiles[3], "lies": "both"}, {"tile": tiles[2]}]
    starts += [{"tile": tiles[3], "lies": "right"}, {"kc": 384}, {"tile": tiles[1]}]
    return holes, [*starts, {"panels": 32}, {"row_tiles": 8}]


def _walk_holes(native: int) -> tuple[Holes, Starts]:
    tiles: tuple[Decision, ...] = ((8, 32), (16, 32), (4, 64), (16, 16))
    widths, ups = (32, 16, 48), (8, 14, 12)
    if native < 16:
        tiles, widths, ups = ((4, 16), (8, 8), (4, 24)), (16, 32, 8), (6, 4, 8)
    holes: Holes = {
        "width": widths,
        "up": ups,
        "tile": tiles,
        "vec": _vectors(native),
        "pin": (False, True),
        "unroll": (2, 1),
        "threads": ("dynamic", "static"),
    }
    return holes, [{"width": widths[1], "up": ups[1]}, {"tile": tiles[1]}, {"up": ups[1]}]


def _window_holes(form: window.Form, native: int) -> tuple[Holes, Starts]:
    wide: tuple[Decision, ...] = ((6, 64), (14, 32), (8, 32), (4, 64), (8, 48), (16, 16), (28, 16))
    narrow: tuple[Decision, ...] = ((4, 16), (6, 16), (8, 8), (4, 24))
    if form.rows < 0:
        wide, narrow = ((1, 64), (1, 128), (1, 32), (1, 16)), ((1, 32), (1, 64), (1, 16), (1, 8))
    tiles = wide if native >= 16 else narrow
    holes: Holes = {"tile": tiles, "vec": _vectors(native)}
    op = form.group.normal.op
    usual = {
        p.name: p.default.attr
        for p in op.params
        if p.default is not None and p.default.op == "const"
    }
    every = [
        tuple((p.attr, int(x[p.attr])) for p in form.scales if p.attr in x)
        for w in op.workloads
        for x in [{**usual, **w.sizes, **w.params}]
    ]
    fixed: tuple[Decision, ...] = tuple(dict.fromkeys(x for x in every if x))
    reads: tuple[Decision, ...] = ("staged", "direct") if form.rows >= 0 else ("staged",)
    holes |= {"reads": reads, "fixed": (*fixed, ()), "threads": ("dynamic", "static")}
    starts: Starts = [{"fixed": x, "tile": t} for x in fixed for t in tiles[:3]]
    if form.rows >= 0:
        starts += [{"reads": "direct", "tile": tiles[2]}]
        starts += [{"reads": "direct", "fixed": (), "tile": tiles[2]}]
    return holes, starts[1:]


def _turn_holes(native: int) -> tuple[Holes, Starts]:
    holes: Holes = {
        "block": ((64, 64), (32, 64), (128, 32), (32, 32), (64, 16), (16, 64)),
        "vec": _vectors(native),
        "stream": (False, True),
        "threads": ("static", "dynamic"),
    }
    return holes, [{"stream": True}, {"block": (128, 32)}, {"block": (32, 32), "stream": True}]


def _scan_holes(form: scan.Form, native: int) -> tuple[Holes, Starts]:
    modes: tuple[Decision, ...] = ("along", "across") if form.contiguous else ("across",)
    holes: Holes = {
        "lanes": modes if form.other is not None else modes[:1],
        "width": (native, 8) if native != 8 else (8, 4),
        "vec": _vectors(native),
        "wide": (True, False),
        "stream": (False, True),
        "threads": ("static", "dynamic"),
    }
    return holes, [{k: v[1]} for k, v in holes.items() if k in ("stream", "lanes") and len(v) > 1]


def _recurrence_holes(form: recurrence.Form, native: int) -> tuple[Holes, Starts]:
    widths: tuple[Decision, ...] = (native, 2 * native, 4 * native)
    holes: Holes = {"vec": _vectors(native), "unroll": (4, 1, 2), "near": (0, 512, 2048)}
    holes["threads"] = ("static", "dynamic")
    if form.contiguous:
        return {"width": widths, **holes}, [{"width": widths[1]}, {"near": 512}]
    holes = {"width": (4, 8, 16), **holes}
    if form.time < len(form.axes) - 1:
        return holes, [{"width": 8}]
    holes |= {"tile": (0, native, 2 * native, 4 * native)}
    tiled: dict[str, Decision] = {"tile": native, "width": 8}
    starts: Starts = [tiled, {**tiled, "near": 512}, {"width": 8}]
    if all(t.role == "output" for t in form.group.members):
        holes["stream"] = (False, True)
        past: dict[str, Decision] = {**tiled, "stream": True}
        starts = [past, {**past, "near": 512}, *starts]
    return holes, starts


def _vectors(native: int) -> tuple[Decision, ...]:
    return (native,) if native == 8 else (native, 8)


def _pointwise_holes(a: lanes.Analysis, native: int) -> tuple[Holes, Starts]:
    holes: Holes = {
        "width": (2 * native, 4 * native, native),
        "vec": _vectors(native),
        "tail": (native, 8) if native != 8 else (8,),
        "block": (16384, 4096, 65536),
        "near": (0, 1024, 4096),
        "stream": (False, True),
        "threads": ("static", "dynamic"),
    }
    return holes, [{"stream": True}, {"width": 4 * native}]


def _row_holes(a: lanes.Analysis, native: int) -> tuple[Holes, Starts]:
    """Results along the row are written from a row that a cache holds, or past the cache; where
    there are none, several rows side by side keep more of memory's lines under way."""
    written = any(p >= 0 for p in a.position.values())
    again = a.passes > 1
    wide: dict[str, Decision] = {"width": 4 * native, "rows": 1}
    several: dict[str, Decision] = {"width": native, "rows": 4}
    alone = not a.shared
    # rows of the first axis are neighbours where there is no other
    first = wide if written or len(a.shared) != 1 else several
    widths = (4 * native, 2 * native, 8 * native, native)
    holes: Holes = {
        "width": (first["width"], *(w for w in widths if w != first["width"])),
        "vec": _vectors(native),
        "tail": (8, native) if native != 8 else (8, 4),
    }
    starts: Starts = []
    if not alone:
        holes["rows"] = (first["rows"], *(n for n in (1, 2, 4) if n != first["rows"]))
        holes["near"] = (0, 2048, 1024, 4096)
        if again:
            holes["next"] = (True, False)
    saved: Decision = "no"
    saves = len(a.saveable) == 1
    if saves:
        saved = "home" if lanes.has_home(a) else "scratch"
        holes["save"] = (saved, *(x for x in ("home", "scratch", "no") if x != saved))
    if written:
        holes["claim"] = (1024, 0)
        holes["stream"] = (False, True)
        streamed: dict[str, Decision] = {"stream": True, "claim": 0}
        if saves:
            streamed["save"] = "scratch"
        if not alone:
            starts += [{**streamed, **several}, {**several, **({"save": "no"} if saves else {})}]
        starts += [streamed]
        if saves:
            starts += [{"save": "scratch"}]
    elif not alone:
        starts += [{"width": 2 * native, "rows": 2}, wide]
    holes["threads"] = ("dynamic", "static")
    if alone and not written:
        holes["split"] = (0, 65536, 16384)  # one row: programs of so many elements
        starts.insert(0, {"split": 65536})
    return holes, [*starts, {"width": 2 * native}]


def _column_holes(a: lanes.Analysis, native: int) -> tuple[Holes, Starts]:
    holes: Holes = {
        "width": (8 * native, 4 * native, 16 * native, 2 * native),
        "vec": _vectors(native),
        "tail": (8, native) if native != 8 else (8, 4),
        "level": (0, 64, 256),
        "unroll": (1, 4, 2),
        "near": (0, 4096, 16384),
        "threads": ("dynamic", "static"),
    }
    return holes, [{"level": 64}, {"level": 64, "unroll": 4}, {"unroll": 4}]


_LANE_HOLES = {"pointwise": _pointwise_holes, "row": _row_holes, "column": _column_holes}


def _modes(a: lanes.Analysis) -> tuple[str, ...]:
    """Where the lanes may run, the better guess first."""
    if a.row is None:
        return ("pointwise",)
    if not a.shared:
        return ("row",)
    return ("column", "row") if _steps_by_column(a) else ("row", "column")


def _steps_by_column(a: lanes.Analysis) -> bool:
    """Whether more arrays are contiguous along the last shared axis than along the folded one."""
    assert a.row is not None
    score = 0
    for t in a.group.members:
        assert t.body is not None
        shared = [x.name for n, x in enumerate(t.axes) if n != a.position[t.name]]
        along = Fold(t.body).binders[0] if is_fold(t) else t.axes[a.position[t.name]].name
        for x in walk(a.group.expand(t.body)):
            if x.op == "read" and len(read_parts(x)[1]) > 1:
                last = read_parts(x)[1][-1]
                score += int(last is var(shared[-1])) - int(last is var(along))
    return score > 0


def _build(
    op: Operator, normal: Normal, parts: list[Part], mode: int, **decisions: Decision
) -> TileProgram:
    real = compute_dtype(op)
    memory = Memory(normal, False, real)
    kept = {n for t in normal.tensors for n in reads_of(t)}
    kernels: list[Kernel] = []
    placements: list[Placement] = []
    facts = list(dense_facts(op))
    try:
        for n, p in enumerate(parts):
            label = _label(parts, n)
            own = {k[len(label) :]: v for k, v in decisions.items() if k.startswith(label)}
            if p.strategy == "lanes":
                own["mode"] = _modes(p.form)[mode]
            later = {x for q in parts[n + 1 :] for x in _read_names(q)}
            memory.kept = frozenset(kept & later)
            made, extra = _lower(f"k{n}", p, memory, own, normal)
            kernels += [k for k, _ in made]
            placements += [x for _, x in made]
            facts += extra
    except (Unsupported, ExprError) as e:
        raise IllegalSchedule(str(e)) from None
    program = TileProgram(op.name, tuple(kernels), tuple(placements), tuple(dict.fromkeys(facts)))
    if why := overwritten(op, program):
        raise IllegalSchedule(why)
    return program


def _read_names(p: Part) -> set[str]:
    names: set[str] = set()
    for t in p.group.members:
        assert t.body is not None
        todo = [t]
        while todo:
            for n in reads_of(todo.pop()):
                if n not in names:
                    names.add(n)
                    u = p.group.normal.tensor(n)
                    if u.body is not None:
                        todo.append(u)
    return names


def _lower(
    name: str, p: Part, memory: Memory, own: Mapping[str, Any], normal: Normal
) -> tuple[list[tuple[Kernel, Placement]], list[Expr]]:
    if p.strategy == "contraction":
        mr, nr = own["tile"]
        schedule = contraction.TileSchedule(
            mr,
            nr,
            own["vec"],
            own["kc"],
            mr * own["row_tiles"],
            nr * own["panels"],
            own["pin"],
            own["deep"],
            own["unroll"],
            own["threads"],
            own["lies"],
        )
        return contraction.lower(name, p.form, memory, schedule, memory.real), []
    if p.strategy == "window":
        mr, nr = own["tile"]
        form, told = window.fixed(p.form, dict(own["fixed"]))
        tiles = window.WindowSchedule(mr, nr, own["vec"], own["threads"])
        lower = staged.lower if own["reads"] == "staged" else window.lower
        return lower(name, form, memory, tiles, memory.real), told
    if p.strategy == "walk":
        mr, nr = own["tile"]
        plan = walk_.WalkSchedule(
            own["width"], own["up"], mr, nr, own["vec"], own["pin"], own["unroll"], own["threads"]
        )
        return walk_.lower(name, p.form, memory, plan, memory.real), []
    if p.strategy == "turn":
        up, along = own["block"]
        turning = turn.TurnSchedule(up, along, own["vec"], own["stream"], own["threads"])
        facts = _line_facts(p.group.members) if turning.stream else []
        return [turn.lower(name, p.form, memory, turning, memory.real)], facts
    if p.strategy == "scan":
        running = scan.ScanSchedule(**{"mode" if k == "lanes" else k: v for k, v in own.items()})
        if running.stream and p.form.result.role != "output":
            raise Unsupported("what is read again is not stored past the cache")
        facts = _line_facts([p.form.result]) if running.stream else []
        return [scan.lower(name, p.form, memory, running, memory.real)], facts
    if p.strategy == "recurrence":
        steps = recurrence.RecurrenceSchedule(**own)
        facts = _line_facts(p.group.members) if steps.stream else []
        return [recurrence.lower(name, p.form, memory, steps, memory.real)], facts
    if p.strategy == "lanes":
        known = {f.name for f in fields(lanes.LaneSchedule)}
        lane = lanes.LaneSchedule(**{k: v for k, v in own.items() if k in known})
        if own.get("split"):
            return shares.lower(name, p.form, memory, lane, memory.real, own["split"]), []
        made = [lanes.lower(name, p.form, memory, lane, memory.real)]
        return made, _stream_facts(p.form) if lane.stream else []
    keep = {t.name for t in members(normal) if _kept(t)}
    tensors = p.group.members
    return [fallback.launch(name, normal, memory, tensors, keep)], []


def _stream_facts(a: lanes.Analysis) -> list[Expr]:
    return _line_facts(
        [
            t
            for t in a.group.members
            if not is_fold(t) and not (a.row is not None and a.position[t.name] < 0)
            if t.role == "output"  # memory of a local is nobody's argument
        ]
    )


def _line_facts(tensors: Sequence[Tensor]) -> list[Expr]:
    """Rows of streamed outputs start on full cache lines."""
    out = []
    for t in tensors:
        if not t.axes:
            continue
        lanes_per_line = 64 // t.dtype.bytes
        if len(t.axes) > 1:
            out.append(call("eq", t.axes[-1].hi % lanes_per_line, 0))
        out.append(leaf("param", f"aligned({t.name}, 64)", "bool"))
    return out
