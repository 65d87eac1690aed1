"""nvcc as a witness that a text compiles; what it makes is thrown away."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from opwright.backends.cpp.build import BuildError, run_compiler

LIMIT = 60.0  # seconds
OLDEST = "sm_80"


def compiler() -> str:
    """The path of nvcc, "" where there is none."""
    return shutil.which("nvcc") or ""


def compiles(source: str, file: str, target: str) -> str:
    """What nvcc says against a text, "" where it compiles. BuildError where nvcc cannot be run."""
    command = compiler()
    if not command:
        raise BuildError("there is no nvcc on this machine")
    arch = target if re.fullmatch(r"sm_\d+[af]?", target) else OLDEST
    with tempfile.TemporaryDirectory(prefix="opwright-") as folder:
        path = Path(folder) / "kernel.cu"
        path.write_text(source)
        flags = ["-ptx", f"-arch={arch}", "-std=c++17", "-o", str(Path(folder) / "kernel.ptx")]
        try:
            run_compiler([command, *flags, str(path)], folder, LIMIT)
        except BuildError as e:
            found = re.search(r"kernel\.cu\((\d+)\): (error[^\n]*)", e.log)
            if found is None:
                raise
            return f"{file}:{found[1]}: {found[2]}"
    return ""
