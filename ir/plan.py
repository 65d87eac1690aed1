"""The launch plan as data: candidate.json, version 1, to and from frozen dataclasses.

Expressions are kept as text in the spec's grammar; `ir/text.py` turns them into Expr where needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BACKENDS = ("cpp", "triton", "cuda", "jax", "pallas")
MOST_WARPS, MOST_STAGES = 32, 16


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


def _filled(value: Any, where: str) -> None:
    """Nothing is left of what a draft could not know: texts that begin with `?`."""
    if isinstance(value, str):
        what = value[1:].strip() or "nothing is said of it"
        _check(not value.startswith("?"), f"{where} is a hole: {what}")
    elif isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for k, v in pairs:
            _filled(v, f"{where}[{k}]" if isinstance(k, int) else f"{where}.{k}")


def _strings(value: Any, where: str) -> tuple[str, ...]:
    _check(
        isinstance(value, list) and all(isinstance(v, str) for v in value),
        f"{where} must be a list of strings",
    )
    return tuple(value)


def _object(value: Any, where: str) -> dict[str, Any]:
    _check(isinstance(value, dict), f"{where} must be an object")
    out: dict[str, Any] = value
    return out


def _text(value: Any, where: str) -> str:
    _check(isinstance(value, str) and bool(value), f"{where} must be a string")
    return str(value)


def _whole(value: Any, where: str, low: int, high: int) -> None:
    good = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    _check(good, f"{where} must be a whole number from {low} to {high}, not {value!r}")


def from_json(data: Any) -> Plan:
    """A checked plan; PlanError names the first field that is wrong."""
    _check(isinstance(data, dict), "candidate.json must hold an object")
    try:
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
    except (UnicodeEncodeError, ValueError, RecursionError) as e:
        raise PlanError(f"candidate.json cannot be written down: {str(e)[:120]}") from None
    _filled(data, "candidate.json")
    unknown = sorted(set(data) - _TOP)
    _check(not unknown, f"unknown field {unknown[0]!r} in candidate.json" if unknown else "")
    for name in ("abi", "op", "target", "backend", "source", "launches"):
        _check(name in data, f"candidate.json lacks {name!r}")
    _check(data["abi"] == 1, f"abi {data['abi']!r} is not known; this version reads abi 1")
    op, target, backend = (_text(data[k], k) for k in ("op", "target", "backend"))
    _check(backend in BACKENDS, f"unknown backend {backend!r}; backends: {', '.join(BACKENDS)}")
    source = data["source"]
    _check(
        isinstance(source, str)
        and source not in ("", ".", "..", "candidate.json")
        and not set(source) & {"/", "\\", "\0"},
        "source must name a file beside candidate.json",
    )
    _check(
        isinstance(data["launches"], list) and bool(data["launches"]),
        "launches must be a list of at least one",
    )
    launches = [_launch(c, f"launches[{n}]") for n, c in enumerate(data["launches"])]
    scratch = {}
    for name, s in _object(data.get("scratch", {}), "scratch").items():
        scratch[name] = _scratch(name, s)
    types = _object(data.get("types", {}), "types")
    for k, v in types.items():
        _text(v, f"types.{k}")
    if data.get("spec") is not None:
        _text(data["spec"], "spec")
    return Plan(
        op,
        target,
        backend,
        source,
        tuple(launches),
        data.get("spec"),
        types,
        _strings(data.get("facts", []), "facts"),
        scratch,
        _object(data.get("origin", {}), "origin"),
    )


def _launch(c: Any, at: str) -> Launch:
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
    const = _object(c.get("const", {}), f"{at}.const")
    for name, value in const.items():
        _check(
            value is None or isinstance(value, int | float | str),
            f"{at}.const.{name} must be a number, a truth value, a string or null, not {value!r}",
        )
    if "num_warps" in c:
        warps = c["num_warps"]
        _whole(warps, f"{at}.num_warps", 1, MOST_WARPS)
        _check(warps & (warps - 1) == 0, f"{at}.num_warps must be a power of two, not {warps}")
    if "num_stages" in c:
        _whole(c["num_stages"], f"{at}.num_stages", 0, MOST_STAGES)
    if "block" in c:
        _check(
            isinstance(c["block"], list) and 1 <= len(c["block"]) <= 3,
            f"{at}.block must be a list of one to three whole numbers",
        )
        for n, extent in enumerate(c["block"]):
            _whole(extent, f"{at}.block[{n}]", 1, 1024)
    if "shared_bytes" in c:
        _text(c["shared_bytes"], f"{at}.shared_bytes")
    extra = {k: c[k] for k in ("block", "num_warps", "num_stages", "shared_bytes") if k in c}
    args = _strings(c.get("args"), f"{at}.args")
    return Launch(c["kernel"], args, grid, const, c.get("schedule", "static"), extra)


def _scratch(name: str, s: Any) -> Scratch:
    at = f"scratch.{name}"
    _check(name.isidentifier(), f"{at}: {name!r} cannot name a buffer")
    _check(isinstance(s, dict) and isinstance(s.get("dtype"), str), f"{at} needs a dtype")
    odd = sorted(set(s) - {"dtype", "shape", "init", "scope"})
    _check(not odd, f"unknown field {odd[0]!r} in {at}" if odd else "")
    init, scope = s.get("init", "none"), s.get("scope", "plan")
    _check(init in ("none", "zero"), f"{at}.init must be none or zero, not {init!r}")
    _check(scope in ("plan", "program"), f"{at}.scope must be plan or program, not {scope!r}")
    return Scratch(s["dtype"], _strings(s.get("shape"), f"{at}.shape"), init, scope)


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
    except UnicodeDecodeError:
        raise PlanError(f"{path}: not UTF-8") from None
    except RecursionError:
        raise PlanError(f"{path}: nested too deeply") from None
    except PlanError as e:
        raise PlanError(f"{path}: {e}") from None
