"""What was measured on a machine: one JSON file, written whole after every pair.

A pair is measured again when the code that its numbers depend on is another one, or when it is
asked for; what is there already is kept.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from opwright.benchmarks.limits import Machine, Need
from opwright.compiler.timing import OWN

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
FORMAT = 2
TWIN = "opwright again"
PARTS = ("compiler", "backends/cpp", "ir", "search", "runtime")
OWN_FILES = ("pairs", "baselines", "library_baselines", "backward", "onnx_models", "subjects")


def slug(name: str) -> str:
    """The name of a machine as that of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@cache
def _code() -> str:
    found = hashlib.sha256()
    files = [p for part in PARTS for p in sorted((ROOT / part).rglob("*.py"))]
    files += [ROOT / "benchmarks" / f"{n}.py" for n in OWN_FILES]
    for p in files:
        found.update(p.read_bytes())
    return found.hexdigest()


def version(spec: Path) -> str:
    """What the numbers of an operator depend on: this program and the text of the spec."""
    return hashlib.sha256(f"{_code()}{spec.read_text(encoding='utf-8')}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One pair of the file, with what it is compared by."""

    body: Mapping[str, Any]
    machine: Machine | None

    def __getattr__(self, name: str) -> Any:
        try:
            return self.body[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def failed(self) -> str:
        return str(self.body.get("failed", ""))

    @property
    def title(self) -> str:
        return str(self.body["study"] or f"{self.body['op']} {self.body['workload']}")

    def seconds(self, impl: str, mode: str) -> float | None:
        """Median of an implementation; None where there is no number."""
        for r in self.body.get("rows", ()):
            if r["impl"] == impl and r["mode"] == mode:
                return r["median_s"] if r["median_s"] is None else float(r["median_s"])
        return None

    def own(self, mode: str) -> float | None:
        """Our time that a rival's time of this mode is held against: weights laid out ahead only
        where we do that too, else the call that fills outputs that are given."""
        mine = self.seconds(OWN, mode)
        return self.seconds(OWN, "out") if mine is None and mode == "packed" else mine

    def ratio(self, impl: str, mode: str) -> float | None:
        """A rival's time over ours: above 1 is a win."""
        theirs, mine = self.seconds(impl, mode), self.own(mode)
        return theirs / mine if theirs and mine else None

    @property
    def noise(self) -> float | None:
        """How far apart two measurements of the same kernel lie, as a factor above 1."""
        a, b = self.seconds(OWN, "out"), self.seconds(TWIN, "out")
        return math.exp(abs(math.log(a / b))) if a and b else None

    @property
    def share(self) -> tuple[float, str] | None:
        """(time that the machine's limits allow over our time, which limit), of f32 operations."""
        mine, given = self.seconds(OWN, "out"), self.body.get("need")
        if not mine or given is None or self.machine is None:
            return None
        least, name = Need(**given).floor(self.machine)
        if name == "fma" and self.body["element"] != "f32":
            return None  # the units of matrices of narrow types are not measured
        return least / mine, name

    def rivals(self) -> Iterable[tuple[str, str, float]]:
        """(implementation, mode, ratio) of all that have one."""
        for r in self.body.get("rows", ()):
            if r["impl"] in (OWN, TWIN):
                continue
            found = self.ratio(r["impl"], r["mode"])
            if found is not None:
                yield r["impl"], r["mode"], found

    def worst(self) -> tuple[str, str, float] | None:
        """The rival that is nearest to winning, or wins."""
        return min(self.rivals(), key=lambda x: x[2], default=None)


@dataclass
class Results:
    """The file of one machine: runs by name, pairs by key."""

    path: Path
    machine: str = ""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    pairs: dict[str, dict[str, Any]] = field(default_factory=dict)

    @staticmethod
    def of(path: Path, machine: str = "") -> Results:
        """What the file holds; nothing of one that is missing, damaged or of another format."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["format"] == FORMAT:
                return Results(path, data["machine"], dict(data["runs"]), dict(data["pairs"]))
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return Results(path, machine)

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        used = {p.get("run") for p in self.pairs.values()}
        newest = max(self.runs, default="")
        runs = {k: v for k, v in self.runs.items() if k in used or k == newest}
        body = {"format": FORMAT, "machine": self.machine, "runs": runs, "pairs": self.pairs}
        temporary = self.path.with_suffix(".part")
        temporary.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, self.path)

    def done(self, key: str, code: str) -> bool:
        """Whether the pair was measured with this code."""
        known = self.pairs.get(key)
        return known is not None and known.get("code") == code and "failed" not in known

    def entries(self, element: str = "", direction: str = "") -> list[Entry]:
        """Pairs in the order in which they were written."""
        out = []
        for body in self.pairs.values():
            if element and body["element"] != element:
                continue
            if direction and body["direction"] != direction:
                continue
            run = self.runs.get(str(body.get("run")), {})
            limits = run.get("limits")
            out.append(Entry(body, Machine(**limits) if limits else None))
        return out

    def floor(self) -> float:
        """The A/A floor of all pairs, as a factor: nineteen of twenty lie within it."""
        found = sorted(x for e in self.entries() if (x := e.noise) is not None)
        return found[min(len(found) - 1, math.ceil(0.95 * len(found)) - 1)] if found else 1.0
