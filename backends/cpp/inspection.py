"""What a built kernel consists of: instructions of its library by kind, what a trip of its hot
loops does, what the compiler says of loops. Tools read the library and the text in the sandbox;
nothing is executed.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opwright.backends.cpp.build import FLAGS, BuildError, compiler, run_compiler
from opwright.backends.cpp.disassembly import read
from opwright.backends.cpp.vocabulary import isa

LIMIT = 20.0
VERSION = 2  # of what is kept beside a library
REASONS = 8  # of loops that stay scalar, in one report
_NOTE = re.compile(r"^kernel\.cpp:(\d+):\d+: (optimized|missed): +(.*)$", re.MULTILINE)


def inspect(library: Path) -> Mapping[str, Any]:
    """`instructions`: counts of the kernels' own (all, float arithmetic, packed: those of them on
    vectors, gathers, calls of math functions, spills of vectors); `loops`: rows of
    `disassembly.Loop`, the hottest first. Empty where there is no disassembler."""
    kept = library.with_suffix(".loops.json")
    try:
        held = json.loads(kept.read_text())
        if held["version"] == VERSION:
            return {"instructions": dict(held["instructions"]), "loops": list(held["loops"])}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    tool = shutil.which("objdump")
    if tool is None:
        return {}
    try:
        with tempfile.TemporaryDirectory(prefix="look-", dir=library.parent) as folder:
            command = [tool, "-d", "--no-show-raw-insn", "-j", ".text", str(library)]
            text = run_compiler(command, folder, LIMIT, [library])
    except (BuildError, OSError):
        return {}
    made = read(text)
    found = {"instructions": dict(made.counts), "loops": [x.to_json() for x in made.loops]}
    try:
        kept.write_text(json.dumps({"version": VERSION, **found}))
    except OSError:
        pass
    return found


def instructions(library: Path) -> Mapping[str, int]:
    """The counts alone."""
    return dict(inspect(library).get("instructions", {}))


def count(text: str) -> dict[str, int]:
    """The counts of a disassembly."""
    return dict(read(text).counts)


@dataclass(frozen=True, slots=True)
class Report:
    """What the compiler says of a text's loops, each as `line N: what`: those that became vector
    code, and why others did not."""

    vectorised: tuple[str, ...] = ()
    scalar: tuple[str, ...] = ()


def report(source: str, isa_name: str) -> Report | None:
    """The compiler's notes on a text (-fopt-info-vec); None where it does not compile."""
    with tempfile.TemporaryDirectory(prefix="look-") as folder:
        (Path(folder) / "kernel.cpp").write_text(source)
        keep = [f for f in FLAGS if not f.startswith(("-Wl", "-shared"))]
        command = [compiler(), *keep, *isa(isa_name).flags, "-fopt-info-vec-optimized-missed", "-c",
                   "kernel.cpp", "-o", "kernel.o"]  # fmt: skip
        try:
            log = run_compiler(command, folder, LIMIT)
        except (BuildError, OSError):
            return None
    return notes(log)


def notes(log: str) -> Report:
    """What a compiler's log says of loops. Reasons come for a loop and for the statement in it that
    is in the way; of each line the first is kept. That code on vectors has no type to be made
    vector code of says nothing."""
    done: dict[str, None] = {}
    bad: dict[int, str] = {}
    lines: set[int] = set()
    for number, kind, what in _NOTE.findall(log):
        n = int(number)
        if kind == "optimized" and "vectorized" in what:
            done[f"line {n}: {what}"] = None
            lines.add(n)
        elif what.startswith("not vectorized: ") and "no vectype" not in what:
            bad.setdefault(n, what.removeprefix("not vectorized: ").strip())
    told = [f"line {n}: {what}" for n, what in bad.items() if n not in lines]
    return Report(tuple(done), tuple(told[:REASONS]))


def vectorised(source: str, isa_name: str) -> list[str]:
    """`line N: ...` for each loop that the compiler says it turned into vector code."""
    found = report(source, isa_name)
    return list(found.vectorised) if found is not None else []
