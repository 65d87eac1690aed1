"""C++ and CUDA texts read through libclang, in a process of its own and in the sandbox.

A text is a stranger's, and libclang is a large program: what a text makes it do (templates and
macros without end, memory, a defect of its own) happens to a process that has one text, no files,
no network, and limits. What comes back is a tree of plain values.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from opwright.backends import isolation
from opwright.backends.cpp.clang import CURE, CType, Function, Node, Unit
from opwright.backends.cpp.clang_pragmas import Parallel
from opwright.backends.cuda.frontend import Text
from opwright.ir.launch import ImportRefusal
from opwright.ir.mutant import Mutant

WALL = 30.0  # seconds for one text on a busy machine
CPU = 20  # seconds
MEMORY = 4 << 30  # bytes of address space
OUTPUT = 1 << 26  # bytes of a tree
ROOT = Path(__file__).resolve().parents[2]
_PARTS = ("ir", "backends/cpp", "backends/cuda")


def parse(source: str, file: str, stub: str = "") -> Unit:
    """The functions of a C++ text; `stub` is declared before its first line. ImportRefusal with
    the line of what does not parse, is outside of the subset, or takes too long."""
    return _tree("cpp", source, file, stub).unit


def parse_cuda(source: str, file: str) -> Text:
    """The same of a CUDA text."""
    found = _tree("cuda", source, file, "")
    return Text(found.unit, found.outer)


def mutants(kind: str, source: str, file: str, kept: str, stub: str) -> list[Mutant]:
    """Faults that the reader of a language (`cpp`, `cuda`) finds places for."""
    request = {"kind": f"{kind} faults", "kept": kept, "stub": stub}
    answer = _ask({**request, "source": source, "file": file}, file)
    return [Mutant(*map(str, m)) for m in answer["mutants"]]


class _Tree:
    """What the child wrote, as nodes."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.made: list[Any] = []
        for row in data["rows"]:
            word, *rest = row
            if word == "t":
                kind, bits, of, count, name = rest
                self.made.append(CType(kind, bits, self.get(of), count, name))
            else:
                op, kind, args, attr, line = rest
                node = Node(op, self.get(kind), self.get(args), self.get(attr), line)
                self.made.append(node)
        functions = {int(n): self.function(f) for n, f in data["functions"]}
        self.unit = Unit(functions)
        self.outer: dict[int, Node] = {int(n): self.get(x) for n, x in data["outer"]}

    def get(self, x: Any) -> Any:
        if not isinstance(x, list):
            return x
        word, *rest = x
        if word == "r":
            return self.made[rest[0]]
        if word == "p":
            return Parallel(rest[0], tuple(rest[1]), tuple(rest[2]))
        return tuple(map(self.get, rest))

    def function(self, x: Any) -> Function:
        _, name, parameters, result, body, line = x
        given = self.get(parameters)
        return Function(name, given, self.get(result), self.get(body), line)


# -- the process -----------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def _tree(kind: str, source: str, file: str, stub: str) -> _Tree:
    """The tree of a text; one that was refused is asked for again."""
    return _Tree(_ask({"kind": kind, "source": source, "file": file, "stub": stub}, file))


class _Child:
    """A process that waits for one text."""

    def __init__(self) -> None:
        try:
            clang = isolation.packages("clang")[0]
        except IndexError:
            raise ImportRefusal(CURE) from None
        script = Path(__file__).with_name("reader.py").resolve()
        allowance = isolation.Allowance(
            [script, clang, *(ROOT / p for p in _PARTS)], memory=MEMORY, cpu=CPU, file=OUTPUT
        )
        self.answer: IO[bytes] = tempfile.TemporaryFile()
        try:
            self.process = isolation.start(
                [sys.executable, "-I", "-S", str(script), str(ROOT), str(clang)],
                allowance,
                stdin=subprocess.PIPE,
                stdout=self.answer,
                stderr=subprocess.DEVNULL,
            )
        except BaseException:
            self.answer.close()
            raise

    def ask(self, request: dict[str, Any], file: str) -> dict[str, Any]:
        try:
            self.process.communicate(json.dumps(request).encode() + b"\n", timeout=WALL)
        except subprocess.TimeoutExpired:
            raise ImportRefusal(f"reading it takes more than {WALL:.0f} s", file) from None
        finally:
            self.process.end()
        self.answer.seek(0)
        text = self.answer.read(OUTPUT + 1)
        if self.process.status() != 0 or not text or len(text) > OUTPUT:
            code = self.process.status()
            why = f"reading it ended with {code}" if code else "reading it gives too large a tree"
            raise ImportRefusal(f"{why}: libclang failed, or took more than its limits", file)
        found: dict[str, Any] = json.loads(text)
        return found

    def close(self) -> None:
        self.process.end()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.answer.close()


_spare: list[_Child] = []
_lock = threading.Lock()
_count = 0


def _ask(request: dict[str, Any], file: str) -> dict[str, Any]:
    """One text for one process. From the second text on the next process is started before it is
    needed, so that nobody waits for it to start."""
    global _count
    with _lock:
        child = _spare.pop() if _spare else None
        _count += 1
        ahead = _count > 1
    if child is not None and child.process.poll() is not None:
        child.close()
        child = None
    child = child or _Child()
    try:
        answer = child.ask(request, file)
    finally:
        child.close()
        if ahead:
            with _lock:
                if not _spare:
                    _spare.append(_Child())
    if "refused" in answer:
        what, where, line = answer["refused"]
        if what == "libclang cannot be loaded":
            raise ImportRefusal(CURE)
        raise ImportRefusal(str(what), str(where), int(line))
    return answer


def _forget() -> None:
    with _lock:
        while _spare:
            _spare.pop().close()


atexit.register(_forget)
