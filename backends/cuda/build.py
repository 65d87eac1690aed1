"""nvcc on CUDA texts: whether they compile, and binaries for devices that need not be there, with
what each kernel takes: registers, spills, stack, shared memory."""

from __future__ import annotations

import importlib.util
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from opwright.backends.cpp.build import BuildError, run_compiler

LIMIT = 60.0  # seconds
BINARY_LIMIT = 180.0
OLDEST = "sm_80"
TARGETS = ("sm_80", "sm_90", "sm_100")
_USED = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for '\w+'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.S,
)


@dataclass(frozen=True, slots=True)
class Artefact:
    """A text compiled for one architecture: the binary that a driver loads, what each kernel takes
    (registers of a thread; bytes of spills, of its stack, of shared memory of a block)."""

    target: str
    code: bytes = field(repr=False)
    resources: Mapping[str, Mapping[str, int]]
    seconds: float


def compiler() -> str:
    """The path of nvcc: on the path, else of the package nvidia-cuda-nvcc; "" where there is
    none."""
    found = shutil.which("nvcc")
    if found:
        return found
    spec = importlib.util.find_spec("nvidia")
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        for one in sorted(Path(place).glob("*/bin/nvcc")):
            return str(one)
    return ""


def version() -> str:
    """What nvcc says that it is, "" where there is none."""
    command = compiler()
    if not command:
        return ""
    with tempfile.TemporaryDirectory(prefix="opwright-") as folder:
        said = run_compiler([command, "--version"], folder, LIMIT)
    found = re.search(r"release [\d.]+, V([\d.]+)", said)
    return found[1] if found else ""


def compiles(source: str, file: str, target: str) -> str:
    """What nvcc says against a text, "" where it compiles. BuildError where nvcc cannot be run."""
    arch = target if re.fullmatch(r"sm_\d+[af]?", target) else OLDEST
    try:
        _made(source, "ptx", ["-ptx", f"-arch={arch}"], LIMIT)
    except BuildError as e:
        found = re.search(r"kernel\.cu\((\d+)\): (error[^\n]*)", e.log)
        if found is None:
            raise
        return f"{file}:{found[1]}: {found[2]}"
    return ""


def compile_for(source: str, target: str, limit: float = BINARY_LIMIT) -> Artefact:
    """A text compiled for an architecture (a cubin); BuildError with what nvcc says."""
    begin = time.perf_counter()
    flags = ["-cubin", f"-arch={target}", "-Xptxas", "-v"]
    code, log = _made(source, "cubin", flags, limit)
    return Artefact(target, code, resources_of(log), time.perf_counter() - begin)


def assembly(source: str, target: str = OLDEST, limit: float = LIMIT) -> str:
    """The PTX of a text, which drivers compile for devices as new as the architecture or newer."""
    return _made(source, "ptx", ["-ptx", f"-arch={target}"], limit)[0].decode()


def resources_of(log: str) -> dict[str, dict[str, int]]:
    """What the assembler reports of every kernel."""
    out: dict[str, dict[str, int]] = {}
    for m in _USED.finditer(log):
        shared = re.search(r"(\d+) bytes smem", m["rest"])
        out[m["name"]] = {
            "registers": int(m["registers"]),
            "stack": int(m["stack"]),
            "spill_stores": int(m["stores"]),
            "spill_loads": int(m["loads"]),
            "shared": int(shared[1]) if shared else 0,
        }
    return out


def _made(source: str, suffix: str, flags: list[str], limit: float) -> tuple[bytes, str]:
    """(what nvcc writes, what it says)."""
    command = compiler()
    if not command:
        raise BuildError("there is no nvcc on this machine; pip install nvidia-cuda-nvcc")
    with tempfile.TemporaryDirectory(prefix="opwright-") as folder:
        path, out = Path(folder) / "kernel.cu", Path(folder) / f"kernel.{suffix}"
        path.write_text(source)
        log = run_compiler(
            [command, *flags, "-std=c++17", "-o", str(out), str(path)], folder, limit
        )
        return out.read_bytes(), log
