"""`opwright bench --model`: what bounds an operator on devices that are not here, by estimate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opwright.outcome import HOLDS, NO, print_json
from opwright.spec_files import open_spec, pick_operator, print_diagnostics

UNITS = ("tensor", "float", "double", "special", "integer", "memory", "shared", "local", "shuffle",
         "barrier", "control")  # fmt: skip

PREFERRED = 8  # schedules of a space that are looked at for one that takes a workload


def model(path: Path, name: str | None, backend: str, target: str, as_json: bool) -> int:
    """Print bound, bottleneck and headroom of a spec's default candidate at every workload and
    device."""
    from opwright.grammar.diagnostics import DiagnosticError

    try:
        document = modelled(path, name, backend, target)
    except DiagnosticError as error:
        print_diagnostics(error.diagnostics)
        return NO
    if as_json:
        print_json(document)
    else:
        print("\n".join(page(document)))
    return HOLDS


def modelled(path: Path, name: str | None, backend: str, target: str) -> dict[str, Any]:
    """The document: a row for each workload and device, and what the estimates are worth."""
    from opwright.compiler.backend import CompileError
    from opwright.compiler.block_spaces import spaces
    from opwright.compiler.blocks import ANYTHING, Blocks
    from opwright.compiler.devices import DEVICES
    from opwright.compiler.modelled import estimate
    from opwright.compiler.pipeline import backend_of
    from opwright.compiler.rank_quality import measured, quality
    from opwright.compiler.stored import stored_form
    from opwright.compiler.timing import shape_text
    from opwright.search.loads import workloads

    spec = open_spec(path)
    op = stored_form(spec.operator(pick_operator(spec, name)))
    chosen = backend_of(backend, target)
    if not isinstance(chosen, Blocks):
        raise CompileError(f"there is no model of {backend}", "--backend triton, or cuda")
    chosen.prepare()
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    known = {t: measured(t) for t in chosen.targets}
    loads, said = workloads(op, ANYTHING, ANYTHING)
    notes += said
    every = spaces(op, chosen.targets[0])
    for t in chosen.targets:
        for _, scaled in loads:
            sizes, params = scaled.sizes, scaled.params
            best: tuple[float, dict[str, Any]] | None = None
            for space in reversed(every):
                schedule = _default(op, space, sizes, params)
                if schedule is None:
                    continue
                found = _one(chosen, op, space, schedule, t, sizes, params, notes)
                if found is None:
                    continue
                program, resources, units = found
                e = estimate(op, program, sizes, params, t, resources)
                if best is not None and best[0] <= e.seconds:
                    continue
                main = max(e.parts, key=lambda p: p.seconds)
                row = {
                    "op": op.name,
                    "workload": scaled.name,
                    "shape": shape_text(op, sizes),
                    "target": t,
                    "part": DEVICES[t].part,
                    "schedule": schedule.text,
                    "estimate_s": e.seconds,
                    "floor_s": e.floor,
                    "headroom": e.headroom,
                    "bound": e.bound,
                    "bottleneck": e.bottleneck,
                    "terms_s": {p.kernel: dict(p.terms) for p in e.parts},
                    "waves": main.waves,
                    "programs": main.resident,
                    "occupancy": main.occupancy,
                    "limit": main.limit,
                    "resources": {k: _plain(v) for k, v in resources.items()},
                    "instructions": units,
                }
                best = e.seconds, row
            if best is None:
                notes.append(f"{t}, {scaled.name}: no default candidate takes this workload")
                continue
            task = f"{op.name} {scaled.name} {t}"
            worth = quality(task, known[t].get(task, []))
            best[1]["usable"], best[1]["worth"] = worth.usable, worth.text
            rows.append(best[1])
    table = {
        t: {
            n: {"value": x.value, "unit": x.unit, "status": x.status, "source": x.source}
            for n, x in DEVICES[t].numbers.items()
        }
        for t in chosen.targets
    }
    return {
        "label": "estimates: nothing here was executed or measured",
        "backend": chosen.name,
        "rows": rows,
        "devices": table,
        "notes": list(dict.fromkeys(notes)),
    }


def _default(
    op: Any, space: Any, sizes: Mapping[str, int], params: Mapping[str, Any]
) -> Any | None:
    """The first of a space's preferred schedules whose facts hold at these sizes."""
    from opwright.compiler.blocks import serves
    from opwright.search.space import IllegalSchedule

    for schedule in space.preferred()[:PREFERRED]:
        try:
            if serves(op, space.instantiate(schedule), sizes, params):
                return schedule
        except IllegalSchedule:
            continue
    return None


_MADE: dict[tuple[str, str, str], Any] = {}


def _one(
    backend: Any,
    op: Any,
    space: Any,
    schedule: Any,
    target: str,
    sizes: Mapping[str, int],
    params: Mapping[str, Any],
    notes: list[str],
) -> tuple[Any, dict[str, dict[str, Any]], dict[str, Any]] | None:
    """(program, resources with what is executed at these sizes, written instructions) of a
    schedule; None where there is none. What was compiled is compiled once."""
    from opwright.backends.cpp.build import BuildError as NvccError
    from opwright.backends.triton.build import BuildError
    from opwright.compiler.blocks import UNPRINTED
    from opwright.compiler.compiled_facts import executed, facts_of
    from opwright.compiler.modelled import dense
    from opwright.ir.plan import PlanError
    from opwright.search.space import IllegalSchedule

    key = (op.digest or op.name, schedule.text, target)
    if key not in _MADE:
        try:
            program = space.instantiate(schedule)
            c = backend.language.printed(program, op, target)
            _MADE[key] = program, *facts_of(backend, c, op, target)
        except (IllegalSchedule, PlanError, BuildError, NvccError, *UNPRINTED) as e:
            first = next(iter(str(e).splitlines()), "")[:160]
            notes.append(f"{schedule.text} for {target}: {first}")
            _MADE[key] = None
    if _MADE[key] is None:
        return None
    program, resources, kinds = _MADE[key]
    done = executed(program, dense(op, sizes, params), kinds)
    full = {k: {**v, **({"executed": done[k]} if k in done else {})} for k, v in resources.items()}
    return program, full, {k: m.units() for k, m in kinds.items()}


def _plain(found: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in found.items() if k != "executed"}


def page(document: Mapping[str, Any]) -> list[str]:
    """The estimates as a table, then what they rest on."""
    lines = [f"estimates by the model ({document['backend']}); nothing was executed or measured"]
    head = ["device", "workload", "estimate", "headroom", "bound", "bottleneck", "waves",
            "occupancy", "limited by"]  # fmt: skip
    table = [head]
    for r in document["rows"]:
        table.append(
            [
                f"{r['target']} {r['part']}",
                f"{r['workload']}: {r['shape']}",
                f"{r['estimate_s'] * 1e3:.4f} ms",
                f"{r['headroom']:.2f}",
                r["bound"],
                r["bottleneck"],
                f"{r['waves']:.2f}",
                f"{r['occupancy']:.0%}",
                r["limit"],
            ]
        )
    widths = [max(len(row[n]) for row in table) for n in range(len(head))]
    lines += ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
              for row in table]  # fmt: skip
    lines.append("headroom is the estimate over the least that the operator needs on the device")
    told: dict[str, None] = {}
    for r in document["rows"]:
        for kernel, found in r["resources"].items():
            told[f"{r['target']} {kernel}: " + ", ".join(f"{k} {v}" for k, v in found.items())] = (
                None
            )
            units = r["instructions"].get(kernel, {})
            text = ", ".join(f"{n} {units[n]}" for n in UNITS if n in units)
            told[f"{r['target']} {kernel}: instructions written: {text or 'unknown'}"] = None
    lines += told
    lines += [f"{r['target']} {r['workload']}: the order it gives is {r['worth']}"
              for r in document["rows"]]  # fmt: skip
    for target, numbers in document["devices"].items():
        parts = [
            f"{n} {x['value']:g}{' ' * bool(x['unit'])}{x['unit']} [{x['status']}: {x['source']}]"
            for n, x in numbers.items()
            if x["status"] != "spec"
        ]
        lines.append(f"{target}: of data sheets, but for {'; '.join(parts)}")
    lines += [f"note: {text}" for text in document["notes"]]
    return lines
