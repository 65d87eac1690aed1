"""The spaces of schedules of block programs (a program computes a tile, as on a GPU).

Candidate 0 is the fallback over the whole operator. Everything else lowers dense arrays. A decision
that needs a fact (a row that fits a block, tiles that divide their ranges, aligned rows) states it;
the fact becomes a guard.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from typing import Any

from opwright.backends.triton.targets import TARGETS as TRITON_TARGETS
from opwright.compiler.apart import apart
from opwright.compiler.buffers import Memory, dense_facts
from opwright.compiler.cascade.rewrite import derivations, single_pass
from opwright.compiler.devices import DEVICES
from opwright.compiler.evaluate import Unsupported, compute_dtype
from opwright.compiler.flatten import flatten
from opwright.compiler.normalize import Normal, normalize, reads_of
from opwright.compiler.spaces import Part, Strategies, _read_names, partition, walked
from opwright.compiler.strategies import (
    block_dot,
    block_fallback,
    block_join,
    block_rows,
    block_scan,
    block_split,
    block_stream,
    contraction,
    lanes,
    streams,
)
from opwright.compiler.strategies.fallback import kept
from opwright.compiler.strategies.group import is_fold
from opwright.compiler.strategies.in_place import overwritten
from opwright.compiler.threads import in_rounds
from opwright.ir.expr import ExprError
from opwright.ir.op import Operator
from opwright.ir.tile import Def, For, Kernel, Placement, TileProgram, statements
from opwright.search.space import ChoiceSpace, Decision, IllegalSchedule, Space
from opwright.verify.policy import Asked

LAUNCHED = ("rounds", "ahead", "specialise")  # decisions on what was lowered
Holes = dict[str, tuple[Decision, ...]]
Starts = list[dict[str, Decision]]

_STRATEGIES: Strategies = (
    ("contraction", contraction.recognise),
    ("scan", block_scan.recognise),
    ("lanes", lanes.analyse),
    ("lanes", lanes.analyse_inner),
)


def spaces(op: Operator, target: str = "sm_90") -> list[Space]:
    """The searchable spaces; the first one is candidate 0's."""
    normal = normalize(op)
    out: list[Space] = [
        ChoiceSpace(
            "fallback", {"schedule": ("plain",)}, lambda schedule: block_fallback.lower(normal)
        )
    ]
    flat = flatten(op)
    if flat is not None:
        flat_normal = normalize(flat)
        flat_parts = partition(flat_normal, _STRATEGIES)
        if all(p.strategy == "lanes" for p in flat_parts):
            out.append(_composed(op, flat_normal, flat_parts, "dense", target=target))
    try:
        parts = partition(normal, _STRATEGIES)
    except ExprError:
        return out
    found = []
    if any(p.strategy == "contraction" for p in parts):
        # under the names that groups have
        found = derivations(replace(op, tensors=normal.tensors), True)
    whole, along = normal, walked(normal, parts, found, "stream")
    if along is None and (other := apart(op)) is not None:
        whole = normalize(other)
        found = derivations(replace(other, tensors=whole.tensors), True)
        along = walked(whole, partition(whole, _STRATEGIES), found, "stream")
    if along is not None:
        out.append(_composed(op, whole, along, target=target))
    if any(p.strategy != "scalar" for p in parts):
        out.append(_composed(op, normal, parts, target=target))
        if any(_is_row(p) for p in parts):
            out.append(_composed(op, normal, parts, persistent=True, target=target))
    once = single_pass(op)
    if once is not None:
        once_normal = normalize(once)
        once_parts = partition(once_normal, _STRATEGIES)
        if any(p.strategy != "scalar" for p in once_parts):
            made = _composed(op, once_normal, once_parts, "once", target=target)
            out.append(replace(made, starts=()))
    return out


def _may_round(op: Operator) -> bool:
    """Whether casts in the definitions allow what is computed the precision of the inputs."""
    return Asked.of(op).marked.mantissa <= min(
        t.dtype.mantissa for t in op.inputs if t.kind == "real"
    )


def _extents(form: streams.Form) -> tuple[int, ...]:
    """Powers of two that depths and columns may fit into."""
    known = [c.depth.hi for c in form.inner.values()] + [c.hi for c in form.columns.values()]
    least = max([16, *(int(e.attr) for e in known if e.op == "const")])
    sizes = tuple(n for n in (64, 128, 32, 16, 256) if n >= least)
    return sizes or (1 << (least - 1).bit_length(),)


def _is_row(p: Part) -> bool:
    return p.strategy == "lanes" and p.form.row is not None


def _apart(p: Part, q: Part) -> bool:
    """Whether a group reads nothing that the one before it makes."""
    own = {t.name for t in p.group.members}
    return "scalar" not in (p.strategy, q.strategy) and not own & _read_names(q)


def _kind(p: Part, persistent: bool) -> str:
    if p.strategy != "lanes":
        return {"contraction": "dot"}.get(p.strategy, p.strategy)
    if p.form.row is None:
        return "inner" if p.form.inner else "pointwise"
    return "persistent" if persistent else "loop"


def _label(parts: list[Part], n: int) -> str:
    return "" if len(parts) == 1 else f"g{n}."


def _composed(
    op: Operator,
    normal: Normal,
    parts: list[Part],
    prefix: str = "",
    persistent: bool = False,
    target: str = "sm_90",
) -> ChoiceSpace:
    holes: Holes = {}
    starts: Starts = []
    for n, p in enumerate(parts):
        own, further = _holes(op, p, persistent)
        holes |= {f"{_label(parts, n)}{k}": v for k, v in own.items()}
        starts += [{f"{_label(parts, n)}{k}": v for k, v in s.items()} for s in further]
    if any(p.strategy != "scalar" for p in parts):
        holes["aligned"] = (True, False)
        starts.insert(0, {"aligned": False})
        holes |= _launched(parts, persistent, target)
        if len(parts) == 1 and "rounds" in holes:
            starts.append({"rounds": 4})
    if any(map(_apart, parts, parts[1:])):
        holes["joined"] = (True, False)
        starts.append({"joined": False})
    kinds = [_kind(p, persistent) for p in parts]
    name = "_".join([*([prefix] if prefix else []), *kinds])
    build = partial(_build, op, normal, parts, persistent, target)
    optional = tuple(h for h in holes if h in LAUNCHED or h in _shared_depths(parts))
    return ChoiceSpace(name, holes or {"schedule": ("plain",)}, build, tuple(starts), optional)


def _shared_depths(parts: list[Part]) -> set[str]:
    return {f"{_label(parts, n)}split" for n, p in enumerate(parts) if p.strategy == "contraction"}


def _launched(parts: list[Part], persistent: bool, target: str) -> Holes:
    """How programs are launched, and what runs ahead in their loops. `rounds`: 0 for a program each
    tile; else so many programs on each multiprocessor, which go round. `ahead`: loads of so many
    further iterations are under way. `specialise`: some warps load, others multiply."""
    holes: Holes = {"rounds": (0, 1, 2, 4, 8)}
    products = any(p.strategy in ("contraction", "stream") for p in parts)
    loops = [p for p in parts if p.strategy in ("lanes", "scan") and _kind(p, persistent) == "loop"]
    if loops or any(p.strategy == "scan" for p in parts):
        holes["ahead"] = (0, 2, 1, 3)
    if products and TRITON_TARGETS[target].specialises:
        holes["specialise"] = (False, True)
    return holes


def _holes(op: Operator, p: Part, persistent: bool) -> tuple[Holes, Starts]:
    """The decisions of one group, the better guesses first."""
    holes: Holes
    if p.strategy == "contraction":
        holes = {
            "tile": ((64, 64, 32), (128, 128, 32), (128, 64, 32), (64, 128, 64), (32, 32, 32),
                     (128, 256, 64), (16, 64, 64)),
            "group": (0, 8, 4),
            "split": (1, 4, 16),
            "even": (False, True),
            "warps": (4, 8),
            "stages": (3, 4, 2),
        }  # fmt: skip
        return holes, [
            {"tile": (128, 128, 32), "warps": 8},
            {"tile": (32, 32, 32)},
            {"split": 4},
        ]
    if p.strategy == "stream":
        # tiles of f32 are multiplied in registers: smaller ones do not spill
        products = len(p.form.inner) + len(p.form.owner)
        narrow = any(t.dtype.bits < 32 for t in op.inputs if t.kind == "real")
        rounds = narrow and bool(p.form.owner) and _may_round(op)
        narrow &= rounds or products < 3
        holes = {
            "rows": (64, 128, 32, 16) if narrow else (32, 64, 16, 128),
            "block": (64, 32, 128, 16) if narrow else (32, 64, 16),
            "hold": _extents(p.form),
            "even": (True, False),
            "split": (1, 8, 32),
            "warps": (4, 8),
            "stages": (2, 3, 4, 1),
        }
        if rounds:
            holes["narrow"] = (True, False)
        return holes, [
            {"even": False},
            {"warps": 8},
            {"rows": 128, "warps": 8} if narrow else {"rows": 64},
            {"rows": 16, "split": 8},
        ]
    if p.strategy == "scan":
        holes = {
            "rows": (1, 4, 16),
            "block": (1024, 2048, 512, 256, 64),
            "even": (False, True),
            "warps": (4, 8, 2),
        }
        return holes, [{"rows": 4, "block": 256}]
    if p.strategy != "lanes":
        return {}, []
    if p.form.row is None:
        holes = {
            "rows": (1, 16, 32, 64),
            "block": (1024, 512, 2048, 256, 128, 64, 32, 4096),
            "even": (False, True),
            "warps": (4, 8, 2),
        }
        starts: Starts = [{"block": 2048}]
        if len(p.form.shared) > 1:
            starts += [{"rows": 32, "block": 32}, {"rows": 16, "block": 64}]
        return holes, starts
    holes = {
        "rows": (1, 4, 16, 64, 128, 2),
        "block": (1024, 2048, 4096, 512, 256, 128, 64, 32, 16, 8192),
        "even": (False, True),
        "warps": (4, 8, 16, 2, 1),
        "stages": (2, 3, 4, 1),
    }
    if not persistent and not any(p.form.phase[t.name] for t in p.group.members if is_fold(t)):
        holes["split"] = (1, 32, 8, 128)
    if persistent:
        del holes["stages"]
        return holes, [{"block": 4096, "warps": 8}, {"rows": 4, "block": 256}]
    if not p.form.shared:
        return holes, [{"split": 128} if "split" in holes else {"block": 4096, "warps": 8}]
    tall: dict[str, Decision] = {"rows": 64, "block": 32}
    return holes, [tall, {"rows": 128, "block": 16}, {"block": 4096}]


def _build(
    op: Operator,
    normal: Normal,
    parts: list[Part],
    persistent: bool,
    target: str,
    **decisions: Decision,
) -> TileProgram:
    real = compute_dtype(op)
    memory = Memory(normal, False, real)
    all_read = {n for t in normal.tensors for n in reads_of(t)}
    made: list[tuple[Kernel, Placement]] = []
    lowered: list[list[Kernel]] = []
    facts = list(dense_facts(op))
    try:
        for n, p in enumerate(parts):
            label = _label(parts, n)
            own = {
                k[len(label) :]: v
                for k, v in decisions.items()
                if k.startswith(label) and k not in LAUNCHED
            }
            if p.strategy != "scalar":
                own["aligned"] = decisions["aligned"]
            later = {x for q in parts[n + 1 :] for x in _read_names(q)}
            memory.kept = frozenset(all_read & later)
            name = op.name if len(parts) == 1 else f"{op.name}_{n}"
            kernels, placement, extra = _lower(name, p, memory, own, normal, persistent)
            made += [(k, placement) for k in kernels]
            lowered.append(kernels)
            facts += extra
    except (Unsupported, ExprError) as e:
        raise IllegalSchedule(str(e)) from None
    if decisions.get("joined"):
        # rows of one walk and columns of another are as many, or groups of each other
        walks = {k.name for n, p in enumerate(parts) if p.strategy == "stream" for k in lowered[n]}
        made = block_join.joined(made, walks)
    ahead, rounds = decisions.get("ahead"), decisions.get("rounds")
    if isinstance(ahead, int) and ahead:
        made = [(k, replace(p, prefetch=_loads(k, ahead))) for k, p in made]
    if decisions.get("specialise"):
        made = [(k, replace(p, launch={**p.launch, "specialise": 1})) for k, p in made]
    if isinstance(rounds, int) and rounds:
        most = DEVICES[target].multiprocessors * rounds
        made = [(in_rounds(k, most) if k.grid else k, p) for k, p in made]
    every, placements = tuple(k for k, _ in made), tuple(p for _, p in made)
    program = TileProgram(op.name, every, placements, tuple(dict.fromkeys(facts)))
    if why := overwritten(op, program):
        raise IllegalSchedule(why)
    return program


def _loads(k: Kernel, ahead: int) -> dict[str, tuple[str, int]]:
    """Loads in innermost loops, under way so many iterations before they are used."""
    out: dict[str, tuple[str, int]] = {}
    for loop in statements(k.body):
        if isinstance(loop, For) and not any(isinstance(s, For) for s in statements(loop.body)):
            for s in statements(loop.body):
                if isinstance(s, Def) and s.value.op == "load":
                    out[s.value.name] = (loop.variable, ahead)
    return out


def _lower(
    name: str,
    p: Part,
    memory: Memory,
    own: Mapping[str, Any],
    normal: Normal,
    persistent: bool,
) -> block_rows.Made:
    if p.strategy == "contraction":
        rows, columns, depth = own["tile"]
        rest = {k: v for k, v in own.items() if k != "tile"}
        dot = block_dot.DotSchedule(rows, columns, depth, **rest)
        return block_dot.lower(name, p.form, memory, dot, memory.real)
    if p.strategy == "stream":
        walk = block_stream.StreamSchedule(**own)
        return block_stream.lower(name, p.form, memory, walk, memory.real)
    if p.strategy == "scan":
        scan = block_scan.ScanSchedule(**own)
        return block_scan.lower(name, p.form, memory, scan, memory.real)
    if p.strategy == "lanes":
        known = {f.name for f in fields(block_rows.RowSchedule)}
        given = {k: v for k, v in own.items() if k in known}
        row = block_rows.RowSchedule(persistent=persistent and _is_row(p), **given)
        if own.get("split", 1) > 1:
            return block_split.lower(name, p.form, memory, row, memory.real, own["split"])
        return block_rows.lower(name, p.form, memory, row, memory.real)
    kernel, placement = block_fallback.launch(name, normal, memory, p.group.members, kept(normal))
    return [kernel], placement, []
