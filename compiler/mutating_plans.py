"""Faults seeded into plans: grids, arguments, constants, facts, launches, scratch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from opwright.compiler.candidates import Candidate
from opwright.ir.mutant import Mutant

NEVER = "1 <= 0"  # a fact that no call satisfies


def plan_text(c: Candidate) -> str:
    return json.dumps(c.plan.to_json(), indent=1)


def plan_mutants(c: Candidate) -> Iterator[Mutant]:
    """Mutants of a candidate's plan, in its order."""
    plan = c.plan.to_json()

    def made(kind: str, place: str, what: str, change: Callable[[Any], None]) -> Mutant:
        changed = json.loads(json.dumps(plan))
        change(changed)
        return Mutant(kind, f"candidate.json, {place}", json.dumps(changed, indent=1), what)

    def put(path: Sequence[Any], value: Any) -> Callable[[Any], None]:
        def change(data: Any) -> None:
            for key in path[:-1]:
                data = data[key]
            data[path[-1]] = value

        return change

    def without(path: Sequence[Any]) -> Callable[[Any], None]:
        def change(data: Any) -> None:
            for key in path[:-1]:
                data = data[key]
            del data[path[-1]]

        return change

    for n, fact in enumerate(plan.get("facts", [])):
        yield made("facts", "facts", f"without {fact}", without(["facts", n]))
    never = [*plan.get("facts", []), NEVER]
    yield made("contradiction", "facts", f"with {NEVER}", put(["facts"], never))
    launches = plan["launches"]
    for n, launch in enumerate(launches):
        place = f"launch {n} ({launch['kernel']})"
        for k, g in enumerate(launch["grid"]):
            for new in _grids(g):
                path = ["launches", n, "grid", k]
                yield made("grid", place, f"grid {g} -> {new}", put(path, new))
        args = launch["args"]
        for a in range(len(args)):
            for b in range(a + 1, len(args)):
                if _alike(args[a], args[b]):
                    swapped = [*args]
                    swapped[a], swapped[b] = args[b], args[a]
                    what = f"{args[a]} and {args[b]} exchanged"
                    yield made("arguments", place, what, put(["launches", n, "args"], swapped))
        for name, value in (launch.get("const") or {}).items():
            if isinstance(value, int) and not isinstance(value, bool) and value > 1:
                for other in (value * 2, value // 2):
                    path = ["launches", n, "const", name]
                    yield made("constant", place, f"{name} = {other}", put(path, other))
        if len(launches) > 1:
            yield made("store_missing", place, "the launch left out", without(["launches", n]))
    if len(launches) > 1:
        turned = [*launches[1:], launches[0]]
        yield made("launch_order", "launches", "the first launch last", put(["launches"], turned))
    for name, s in (plan.get("scratch") or {}).items():
        for k, extent in enumerate(s.get("shape", [])):
            path = ["scratch", name, "shape", k]
            what = f"{name} has {extent} - 1"
            yield made("shared", f"scratch {name}", what, put(path, f"{extent} - 1"))


def _grids(g: str) -> Iterator[str]:
    yield f"({g}) - 1"
    yield f"({g}) + 1"

    for m in re.finditer(r"cdiv\(([^,()]+), ([^,()]+)\)", g):
        yield f"{g[: m.start()]}({m[1]}) // ({m[2]}){g[m.end() :]}"
    for m in re.finditer(r"\((\w+) \+ (\d+)\) // (\d+)", g):
        yield f"{g[: m.start()]}{m[1]} // {m[3]}{g[m.end() :]}"


def _alike(a: str, b: str) -> bool:
    """Whether two arguments have one type, so that nothing but the meaning tells them apart."""
    if a == b:
        return False
    kinds = [
        "stride" if x.startswith("stride(") else "i32" if x.startswith("i32(") else
        "size" if x[:1].isupper() else "other"
        for x in (a, b)
    ]  # fmt: skip
    return kinds[0] == kinds[1] != "other"
