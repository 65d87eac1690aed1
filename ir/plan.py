"""The launch plan as data: candidate.json, version 1, to and from frozen dataclasses.

Expressions are kept as text in the spec's grammar; `ir/text.py` turns them into Expr where needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class PlanError(ValueError):
    """candidate.json does not have the form of version 1; the message says where and what."""


@dataclass(frozen=True, slots=True)
class Scratch:
    """A buffer that the driver provides. scope plan: lives across launches; program: one per
    worker."""

    dtype: str
    shape: tuple[str, ...]
    init: str = "none"
    scope: str = "plan"


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel call over a grid; the end of a launch is the only grid-wide barrier."""

    kernel: str
    args: tuple[str, ...]
    grid: tuple[str, ...] = ("1",)
    const: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = "static"
    extra: Mapping[str, Any] = field(
        default_factory=dict
    )  # block, num_warps, num_stages, shared_bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """A candidate: device code in `source` plus how to launch it."""

    op: str  # name@version
    target: str
    backend: str
    source: str
    launches: tuple[Launch, ...]
    spec: str | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    facts: tuple[str, ...] = ()
    scratch: Mapping[str, Scratch] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)
    abi: int = 1

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"abi": self.abi, "op": self.op}
        if self.spec:
            out["spec"] = self.spec
        out |= {"target": self.target, "backend": self.backend, "source": self.source}
        if self.types:
            out["types"] = dict(self.types)
        if self.facts:
            out["facts"] = list(self.facts)
        if self.scratch:
            out["scratch"] = {
                n: {"dtype": s.dtype, "shape": list(s.shape), "init": s.init, "scope": s.scope}
                for n, s in self.scratch.items()
            }
        out["launches"] = [
            {"kernel": c.kernel, "grid": list(c.grid), "args": list(c.args)}
            | ({"const": dict(c.const)} if c.const else {})
            | ({"schedule": c.schedule} if self.backend == "cpp" else {})
            | dict(c.extra)
            for c in self.launches
        ]
        if self.origin:
            out["origin"] = dict(self.origin)
        return out


_TOP = {
    "abi",
    "op",
    "spec",
    "target",
    "backend",
    "source",
    "types",
    "facts",
    "scratch",
    "launches",
    "origin",
}
_LAUNCH = {
    "kernel",
    "grid",
    "block",
    "args",
    "const",
    "num_warps",
    "num_stages",
    "shared_bytes",
    "schedule",
}


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise PlanError(message)


def _strings(value: Any, where: str) -> tuple[str, ...]:
    _check(
        isinstance(value, list) and all(isinstance(v, str) for v in value),
        f"{where} must be a list of strings",
    )
    return tuple(value)


def from_json(data: Any) -> Plan:
    """A checked plan; PlanError names the first field that is wrong."""
    _check(isinstance(data, dict), "candidate.json must hold an object")
    unknown = sorted(set(data) - _TOP)
    _check(not unknown, f"unknown field {unknown[0]!r} in candidate.json" if unknown else "")
    for name in ("abi", "op", "target", "backend", "source", "launches"):
        _check(name in data, f"candidate.json lacks {name!r}")
    _check(data["abi"] == 1, f"abi {data['abi']!r} is not known; this version reads abi 1")
    _check(
        data["backend"] in ("cpp", "triton", "cuda", "jax"), f"unknown backend {data['backend']!r}"
    )
    source = data["source"]
    _check(
        isinstance(source, str) and source not in ("", ".", "..") and "/" not in source,
        "source must name a file beside candidate.json",
    )
    _check(
        isinstance(data["launches"], list) and bool(data["launches"]),
        "launches must be a list of at least one",
    )
    launches = []
    for n, c in enumerate(data["launches"]):
        at = f"launches[{n}]"
        _check(
            isinstance(c, dict) and isinstance(c.get("kernel"), str),
            f"{at} must be an object with a kernel name",
        )
        odd = sorted(set(c) - _LAUNCH)
        _check(not odd, f"unknown field {odd[0]!r} in {at}" if odd else "")
        grid = _strings(c.get("grid", ["1"]), f"{at}.grid")
        _check(1 <= len(grid) <= 3, f"{at}.grid must have one to three entries")
        _check(
            c.get("schedule", "static") in ("static", "dynamic"),
            f"{at}.schedule must be static or dynamic",
        )
        extra = {k: c[k] for k in ("block", "num_warps", "num_stages", "shared_bytes") if k in c}
        launches.append(
            Launch(
                c["kernel"],
                _strings(c.get("args"), f"{at}.args"),
                grid,
                c.get("const", {}),
                c.get("schedule", "static"),
                extra,
            )
        )
    scratch = {}
    for name, s in data.get("scratch", {}).items():
        _check(
            isinstance(s, dict) and isinstance(s.get("dtype"), str), f"scratch.{name} needs a dtype"
        )
        scratch[name] = Scratch(
            s["dtype"],
            _strings(s.get("shape"), f"scratch.{name}.shape"),
            s.get("init", "none"),
            s.get("scope", "plan"),
        )
    return Plan(
        data["op"],
        data["target"],
        data["backend"],
        source,
        tuple(launches),
        data.get("spec"),
        data.get("types", {}),
        _strings(data.get("facts", []), "facts"),
        scratch,
        data.get("origin", {}),
    )


def load(folder: Path) -> Plan:
    """The plan of a candidate folder; PlanError with the file and the place."""
    path = folder / "candidate.json"
    try:
        return from_json(json.loads(path.read_text()))
    except FileNotFoundError:
        raise PlanError(
            f"{path}: no such file; a candidate is a folder with candidate.json and a source"
        ) from None
    except json.JSONDecodeError as e:
        raise PlanError(f"{path}:{e.lineno}:{e.colno}: not JSON: {e.msg}") from None
    except PlanError as e:
        raise PlanError(f"{path}: {e}") from None
