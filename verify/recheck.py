"""Asks a solver again, from text alone, in a process of its own per question."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from opwright.verify.proofs import ANSWERS, Query

SECONDS = 20.0  # for one question
INSIDE = (
    "import sys, z3; s = z3.SimpleSolver(); s.set('timeout', int(sys.argv[2])); "
    "s.from_file(sys.argv[1]); print(s.check())"
)


class NoSolver(Exception):
    """There is no such solver on PATH."""


@dataclass(frozen=True, slots=True)
class Solver:
    """A program that reads SMT-LIB 2 from a file and prints what it found."""

    name: str
    command: tuple[str, ...]
    version: str

    def arguments(self, file: Path, seconds: float) -> list[str]:
        kind = Path(self.command[0]).name
        if self.command[0] == sys.executable:
            return [*self.command, str(file), str(int(seconds * 1000))]
        if kind == "z3":
            more = ["-smt2", f"-T:{max(1, int(seconds))}", "tactic.default_tactic=smt"]
            return [*self.command, *more, str(file)]
        if kind == "cvc5":
            return [*self.command, "--lang=smt2", f"--tlimit={int(seconds * 1000)}", str(file)]
        return [*self.command, str(file)]

    def ask(self, text: str, seconds: float = SECONDS) -> str:
        """unsat, sat, or what else it said."""
        with tempfile.TemporaryDirectory(prefix="opwright-") as folder:
            file = Path(folder, "query.smt2")
            file.write_text(text, encoding="utf-8")
            try:
                done = subprocess.run(
                    self.arguments(file, seconds),
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=seconds + 5,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return f"no answer after {seconds:.0f} s"
            except OSError as e:
                return f"it cannot be started: {e.strerror}"
        lines = done.stdout.decode(errors="replace").split("\n")
        first = next((x.strip() for x in lines if x.strip()), "")
        if first in ANSWERS:
            return first
        said = first or done.stderr.decode(errors="replace").strip()[:200]
        return said or f"exit status {done.returncode}"


def solver(name: str = "") -> Solver:
    """A solver by name or path; else z3's own program, else z3 in a Python process."""
    if name:
        found = shutil.which(name)
        if found is None:
            raise NoSolver(f"there is no program {name} on PATH")
        return Solver(name, (found,), _version(found))
    beside = Path(sys.executable).with_name("z3")
    own = str(beside) if os.access(beside, os.X_OK) else shutil.which("z3")
    if own is not None:
        return Solver("z3", (own,), _version(own))
    return Solver("z3", (sys.executable, "-I", "-c", INSIDE), "in a Python process")


def _version(program: str) -> str:
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, timeout=10, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return "unknown version"
    text = done.stdout.decode(errors="replace").strip()
    return text.splitlines()[0][:100] if text else "unknown version"


def ask_all(who: Solver, queries: Iterable[Query], workers: int = 0) -> Iterator[tuple[Query, str]]:
    """Each question with its answer, in order; several processes at a time."""
    given = list(queries)
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        yield from zip(given, pool.map(lambda q: who.ask(q.text), given), strict=True)
