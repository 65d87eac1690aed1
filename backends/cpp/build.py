"""Builds shared libraries from C++ text with g++: flags, time limit, atomic results, a cache."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from opwright.backends import isolation
from opwright.backends.cpp.vocabulary import isa

FLAGS = (
    "-std=gnu++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math",
    "-fopenmp-simd", "-fno-exceptions", "-fno-rtti", "-fvisibility=hidden", "-shared", "-fPIC",
    "-w", "-Wl,--build-id=none", "-Wl,-z,defs",
)  # fmt: skip
EXTENSION_FLAGS = (
    "-O2", "-fvisibility=hidden", "-shared", "-fPIC", "-w", "-Wl,--build-id=none",
    "-Wl,--as-needed",
)  # fmt: skip
TIME_LIMIT = 120.0
MEMORY = 16 << 30  # bytes of address space of a compiler
OUTPUT = 256 << 20  # bytes that it may write
PROCESSES = 32  # driver, compiler proper, assembler, linker and its helper


class BuildError(RuntimeError):
    """No compiler, or the compiler refused; `log` holds what it said."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


@dataclass(frozen=True, slots=True)
class BuildResult:
    """A shared library; `seconds` of compiling (0 when it was cached), `size` in bytes."""

    path: Path
    seconds: float
    size: int
    log: str


@cache
def compiler_version(compiler: str) -> str:
    try:
        done = subprocess.run(
            [compiler, "--version"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError) as e:
        raise BuildError(f"{compiler} does not run: {e}") from None
    return done.stdout.splitlines()[0]


def compiler() -> str:
    """The C++ compiler: $CXX, else g++ on the path. BuildError says how to get one."""
    wanted = os.environ.get("CXX", "g++")
    found = shutil.which(wanted)
    if found is None:
        cure = "install g++ 12 or newer (Debian: apt install g++), or set CXX to its path"
        raise BuildError(f"no C++ compiler: {wanted!r} is not on the path; {cure}")
    return found


def host_isa() -> str:
    """The highest instruction-set level that this machine runs."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return "portable"
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "portable"
    line = re.search(r"^flags\s*:(.*)$", text, re.M)
    flags = set(line[1].split()) if line else set()
    if not {"avx2", "fma", "f16c", "bmi1", "bmi2", "movbe"} <= flags:
        return "portable"
    wide = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"} <= flags
    return "x86-64-v4" if wide else "x86-64-v3"


def build(
    source: str,
    driver: str,
    out: Path,
    isa_name: str,
    limit: float = TIME_LIMIT,
    more: Sequence[str] = (),
) -> BuildResult:
    """Compile and link kernel and driver text.

    `out` ending in .so is written as such; otherwise it is a cache folder, in which equal text,
    flags and compiler find their library again; `more` flags come last. Raises BuildError with the
    compiler's first error.
    """
    level = isa(isa_name)
    command = [compiler(), *FLAGS, *level.flags, *more]
    if out.suffix == ".so":
        target = out
    else:
        parts = [compiler_version(command[0]), *command[1:], source, driver]
        key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        target = out / f"{key[:32]}.so"
        if target.exists():
            return BuildResult(target, 0.0, target.stat().st_size, "")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=target.parent) as folder:
        kernel, launch, made = (Path(folder) / n for n in ("kernel.cpp", "driver.cpp", "made.so"))
        kernel.write_text(source)
        launch.write_text(driver)
        begin = time.perf_counter()
        log = run_compiler(
            [*command, kernel.name, launch.name, "-o", made.name, "-ldl"], folder, limit
        )
        seconds = time.perf_counter() - begin
        size = made.stat().st_size
        os.replace(made, target)
    return BuildResult(target, seconds, size, log)


def toolchain(program: str) -> list[Path]:
    """Folders that a compiler needs beside the system's: those around where it really lies."""
    return [Path(program).absolute().parent, Path(program).resolve().parent.parent]


def build_extension(source: str, name: str, out: Path) -> Path | None:
    """Compile C text into an extension module of Python's stable interface in a cache folder, or
    find it there; None where Python's headers are not installed. BuildError as for kernels."""
    include = Path(sysconfig.get_path("include"))
    if not (include / "Python.h").is_file():
        return None
    command = [compiler(), "-x", "c", *EXTENSION_FLAGS]
    parts = [compiler_version(command[0]), *command[1:], sys.version, source]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    target = out / f"{key[:32]}.so"
    if target.exists():
        return target
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=out) as folder:
        (Path(folder) / f"{name}.c").write_text(source)
        made = [f"{name}.c", f"-I{include}", "-o", "made.so"]
        run_compiler([*command, *made], folder, TIME_LIMIT, [include])
        os.replace(Path(folder) / "made.so", target)
    return target


def run_compiler(
    command: list[str], folder: str, limit: float, reading: Sequence[Path] = ()
) -> str:
    """Run in the sandbox, which is ended as a whole at the limit; it writes to the folder only."""
    allowance = isolation.Allowance(
        [*toolchain(command[0]), *reading],
        [Path(folder)],
        memory=MEMORY,
        cpu=int(limit) + 1,
        file=OUTPUT,
        temporary=OUTPUT,
        processes=PROCESSES,
    )
    process = isolation.start(
        command, allowance, cwd=Path(folder).absolute(), text=True, errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        log, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        raise BuildError(f"the compiler was stopped after {limit:g} s") from None
    finally:
        process.end()
        if process.stdout is not None:
            process.stdout.close()
    if process.status():
        first = next(
            (x for x in log.splitlines() if "error" in x or "undefined reference" in x), ""
        )
        raise BuildError(f"the compiler failed: {first or log.strip()[:300]}", log)
    return str(log)
