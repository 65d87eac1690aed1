"""C++ candidates under sanitizers: a program of its own that calls one on buffers of exactly their
size, with address and undefined-behaviour checks, or with a log of what every program touches.

The program runs in the sandbox, without a limit of its address space, which its shadow needs.
"""

from __future__ import annotations

import re
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from opwright.backends import isolation
from opwright.backends.cpp.build import TIME_LIMIT, compiler, run_compiler, toolchain
from opwright.backends.cpp.vocabulary import isa

COMMON = ("-std=gnu++17", "-O1", "-g", "-w", "-fno-exceptions", "-fno-rtti", "-fopenmp-simd",
          "-fno-omit-frame-pointer", "-ffp-contract=fast", "-fno-math-errno",
          "-DOPWRIGHT_PLAIN_MEMORY")  # fmt: skip
CHECKS = ("-fsanitize=address,undefined", "-fno-sanitize=vptr,shift-base,shift",
          "-fsanitize=shift-exponent", "-static-libasan", "-static-libubsan")  # fmt: skip
WRAPPED = ("-Wl,--wrap=memcpy", "-Wl,--wrap=memset")
HOOKS = """
extern "C" { void opwright_launch(); void opwright_program(long);
void opwright_watch(const void *, long, const char *); }
#define OPWRIGHT_LAUNCH() opwright_launch()
#define OPWRIGHT_PROGRAM(n) opwright_program(n)
#define OPWRIGHT_SHARED(p, bytes, name) opwright_watch(p, bytes, name)
"""
SETTINGS = {
    "ASAN_OPTIONS": "detect_leaks=0:symbolize=0:halt_on_error=1:exitcode=66:abort_on_error=0:"
    "allocator_may_return_null=1:max_allocation_size_mb=2048:hard_rss_limit_mb=4096:"
    "detect_stack_use_after_return=0:handle_segv=1:allow_user_segv_handler=0",
    "UBSAN_OPTIONS": "halt_on_error=1:exitcode=67:print_stacktrace=0:symbolize=0",
}
RACE = r"^opwright: (race|divergence): (.*?)(?: byte (\d+) of (\S+))?$"
OUTPUT = 1 << 20  # bytes that it may say
DATA = 0  # no limit: the shadow of memory is data


@dataclass(frozen=True, slots=True)
class Part:
    """One buffer of a call: its bytes, and the number of the one whose memory it shares."""

    name: str
    data: bytes
    item: int = 1
    twin: int = -1


@dataclass(frozen=True, slots=True)
class Invocation:
    """A call in the order of the driver's arguments."""

    parts: Sequence[Part]
    ints: Sequence[int]
    reals: Sequence[float]
    threads: int = 1

    def text(self) -> bytes:
        head = struct.pack("=4q", len(self.parts), len(self.ints), len(self.reals), self.threads)
        out = [head, struct.pack(f"={len(self.ints)}q", *self.ints)]
        out.append(struct.pack(f"={len(self.reals)}d", *self.reals))
        for p in self.parts:
            out += [struct.pack("=2q", len(p.data), p.twin), p.data]
        return b"".join(out)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a run showed. kind: address, undefined, race, divergence, or crash, which says nothing
    of a cause."""

    kind: str
    what: str
    line: str = ""
    buffer: str = ""
    index: int | None = None
    said: str = field(default="", compare=False)

    @property
    def text(self) -> str:
        return f"{self.line}: {self.what}" if self.line else self.what


class Instrumented:
    """A built program; it lives as long as its folder."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.path, self.folder = path, folder

    def run(self, call: Invocation, limit: float) -> Finding | None:
        """One call; None where nothing was found."""
        allowance = isolation.Allowance(
            [self.path], memory=0, data=DATA, cpu=int(limit) + 1, file=OUTPUT, processes=1
        )
        with tempfile.TemporaryFile() as told:
            process = isolation.start(
                [str(self.path)],
                allowance,
                env=isolation.environment({**SETTINGS, "OMP_NUM_THREADS": str(call.threads)}),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=told,
            )
            try:
                process.communicate(call.text(), timeout=limit)
                status = process.status()
            except subprocess.TimeoutExpired:
                return Finding("crash", f"no answer within {limit:g} s")
            except BrokenPipeError:
                status = process.wait()
            finally:
                process.end()
            told.seek(0)
            said = told.read(OUTPUT).decode(errors="replace")
        found = self.reading(said, call.parts)
        if found is None and status:
            last = (said.strip().splitlines() or ["nothing was said"])[-1]
            return Finding("crash", f"ended with status {status}: {last[:200]}", said=said)
        return found

    def reading(self, said: str, parts: Sequence[Part]) -> Finding | None:
        """The first finding in what a run said."""
        race = re.search(RACE, said, re.M)
        if race is not None:
            name, index = race[4] or "", None
            text = race[2]
            if name.isdigit() and int(name) < len(parts):
                part = parts[int(name)]
                index, name = int(race[3]) // part.item, part.name
            if name:
                text += f" {name}[{index}]" if index is not None else f" {name}, byte {race[3]}"
            return Finding(race[1], text, "", name, index, said)
        undefined = re.search(r"^(\S+:\d+):\d+: runtime error: (.*)$", said, re.M)
        if undefined is not None:
            line = undefined[1].rpartition("/")[2]
            return Finding("undefined", _settled(undefined[2]), line, said=said)
        error = re.search(r"ERROR: AddressSanitizer: ([\w-]+)", said)
        if error is None:
            return None
        return self._address(error[1], said, parts)

    def _address(self, kind: str, said: str, parts: Sequence[Part]) -> Finding:
        access = re.search(r"^(READ|WRITE) of size (\d+) at (0x[0-9a-f]+)", said, re.M)
        what, buffer, index = kind, "", None
        if access is not None:
            how = "reads" if access[1] == "READ" else "writes"
            what = f"{how} {access[2]} bytes where there is no memory of it ({kind})"
            at, nearest = int(access[3], 16), 256
            for n, p in enumerate(parts):
                place = re.search(rf"buffer {n} at (0x[0-9a-f]+) of (\d+) bytes", said)
                if place is None or p.twin >= 0:
                    continue
                base, size = int(place[1], 16), int(place[2])
                gap = max(base - at, at - (base + size) + 1, 0)
                if gap <= nearest:
                    buffer, index, nearest = p.name, (at - base) // p.item, gap
                    what = f"{how} {p.name}[{index}], which has {size // p.item} elements"
        return Finding("address", what, self._line(said), buffer, index, said)

    def _line(self, said: str) -> str:
        """The source line of the innermost frame of the candidate's own text."""
        places = re.findall(r"#\d+ 0x[0-9a-f]+ .*?\(.*?\+(0x[0-9a-f]+)\)", said)[:6]
        if not places:
            return ""
        try:
            process = isolation.start(
                ["addr2line", "-e", str(self.path), *places],
                isolation.Allowance([self.path], processes=1),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                text=True,
            )  # fmt: skip
        except OSError:
            return ""
        try:
            told, _ = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            return ""
        finally:
            process.end()
        lines = [x.rpartition("/")[2].partition(" ")[0] for x in told.splitlines()]
        return next((x for x in lines if x.startswith("kernel.c") and not x.endswith(":?")), "")


def _settled(text: str) -> str:
    """A message without addresses, which differ from run to run."""
    return re.sub(r"0x[0-9a-f]{6,}", "an address", text)


@contextmanager
def checked(source: str, driver: str, level: str) -> Iterator[Instrumented]:
    """A program with address and undefined-behaviour checks; BuildError."""
    with tempfile.TemporaryDirectory(prefix="sanitize-") as name:
        folder = Path(name)
        _write(folder, {"kernel.cpp": source, "driver.cpp": driver, "main.cpp": text_of("main")})
        command = [compiler(), *COMMON, *CHECKS, *isa(level).flags]
        files = ["kernel.cpp", "driver.cpp", "main.cpp", "-o", "program", "-ldl"]
        run_compiler([*command, *files], name, TIME_LIMIT)
        yield Instrumented(folder / "program", folder)


@contextmanager
def logged(source: str, driver: str, level: str) -> Iterator[Instrumented]:
    """A program that knows which of its programs touched what; BuildError."""
    with tempfile.TemporaryDirectory(prefix="sanitize-") as name:
        folder = Path(name)
        _write(folder, {"kernel.cpp": source, "driver.cpp": HOOKS + driver,
                        "main.cpp": text_of("main"), "log.cpp": text_of("log")})  # fmt: skip
        command = [compiler(), *COMMON, *isa(level).flags]
        run_compiler(
            [*command, "-fsanitize=thread", "-c", "kernel.cpp", "-o", "kernel.o"], name, TIME_LIMIT
        )
        files = ["kernel.o", "driver.cpp", "main.cpp", "log.cpp", "-o", "program", "-ldl"]
        run_compiler([*command, *files, *WRAPPED], name, TIME_LIMIT)
        yield Instrumented(folder / "program", folder)


def text_of(part: str) -> str:
    """The texts that are built with a candidate."""
    name = {"main": "sanitize_main.cpp", "log": "access_log.cpp"}[part]
    return resources.files("opwright.backends.cpp").joinpath(name).read_text()


def _write(folder: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        (folder / name).write_text(text)


__all__ = ["Finding", "Instrumented", "Invocation", "Part", "checked", "logged", "toolchain"]
