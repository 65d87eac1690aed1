"""What a built kernel consists of: instructions of its library by kind, loops that the compiler
turned into vector code. Tools read the library and the text in the sandbox; nothing is executed.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from opwright.backends.cpp.build import FLAGS, BuildError, compiler, run_compiler
from opwright.backends.cpp.vocabulary import isa

LIMIT = 20.0
_LINE = re.compile(r"^\s*[0-9a-f]+:\s+(?:[0-9a-f]{2} )*\s*([a-z][a-z0-9.]*)\s*(.*)$")
_FLOAT = re.compile(r"v?(?:add|sub|mul|div|sqrt|max|min|fmadd\d*|fnmadd\d*|fmsub\d*|fnmsub\d*)"
                    r"([ps])[sdh]$")  # fmt: skip
_MATH = re.compile(r"<(?:exp|log|pow|a?tan|a?sin|a?cos|erf|cbrt|fmod|hypot|t?gamma)\w*@plt>")
_VECTORISED = re.compile(r"^kernel\.cpp:(\d+):\d+: optimized: (.*vectorized.*)$", re.MULTILINE)


def instructions(library: Path) -> Mapping[str, int]:
    """Counts of a library's instructions, its driver's too: float (arithmetic), packed (those of
    them on vectors), gathers, calls of math functions, spills of vectors, all. Empty where there is
    no disassembler."""
    kept = library.with_suffix(".mix.json")
    try:
        return {str(k): int(v) for k, v in json.loads(kept.read_text()).items()}
    except (OSError, ValueError, AttributeError):
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
    found = count(text)
    try:
        kept.write_text(json.dumps(found))
    except OSError:
        pass
    return found


def count(text: str) -> dict[str, int]:
    """The counts of a disassembly."""
    found = dict.fromkeys(("all", "float", "packed", "gathers", "calls", "spills"), 0)
    for line in text.splitlines():
        m = _LINE.match(line)
        if m is None:
            continue
        name, operands = m.groups()
        found["all"] += 1
        kind = _FLOAT.match(name)
        if kind is not None:
            found["float"] += 1
            found["packed"] += kind.group(1) == "p"
        found["gathers"] += "gather" in name
        found["calls"] += name.startswith("call") and _MATH.search(operands) is not None
        moved = name.startswith("vmov") and operands.rstrip().endswith("(%rsp)")
        found["spills"] += moved
    return found


def vectorised(source: str, isa_name: str) -> list[str]:
    """`line N: ...` for each loop that the compiler says it turned into vector code."""
    with tempfile.TemporaryDirectory(prefix="look-") as folder:
        (Path(folder) / "kernel.cpp").write_text(source)
        keep = [f for f in FLAGS if not f.startswith(("-Wl", "-shared"))]
        command = [compiler(), *keep, *isa(isa_name).flags, "-fopt-info-vec-optimized", "-c",
                   "kernel.cpp", "-o", "kernel.o"]  # fmt: skip
        try:
            log = run_compiler(command, folder, LIMIT)
        except (BuildError, OSError):
            return []
    return [f"line {n}: {what}" for n, what in dict.fromkeys(_VECTORISED.findall(log))]
