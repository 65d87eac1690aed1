"""A suite of pytest against wrong functions: what it kills, test by test.

The suite runs in a process of its own, once for each mutant, with the mutant where the right
function was: behind `--against` for generated suites, else under the name that the suite imports.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from opwright.compiler.mutating import BROKEN, KILLED, Found, Outcome, Score, Seen
from opwright.compiler.mutating_calls import CallJudge, Wrong, undecided
from opwright.verify.mutate_calls import Function

WORKER = "opwright.compiler.mutating_worker"


class SuiteError(Exception):
    """A suite that cannot be scored: it does not run, or fails on the right function."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a worker needs to make the same mutants: paths, names, numbers. `limit` is that of the
    mutants, `own` says that the suite was generated and takes `--against`."""

    suite: str
    spec: str
    op: str
    types: tuple[tuple[str, str], ...]
    function: str  # module:function, "" for the meaning itself
    limit: int
    own: bool


def is_generated(suite: Path) -> bool:
    """Whether a suite takes `--against`: its conftest adds that option."""
    folder = suite if suite.is_dir() else suite.parent
    for place in (folder, *folder.parents):
        found = place / "conftest.py"
        if found.exists():
            text = found.read_text(errors="replace")
            return re.search(r"addoption\(\s*[\"']--against[\"']", text) is not None
    return False


def score_suite(
    request: Request,
    right: Function,
    mutants: Sequence[Wrong],
    pool: CallJudge,
    timeout: float,
    seen: Seen | None = None,
) -> Score:
    """Every mutant under the suite; SuiteError where the right function does not pass it."""
    score = Score(f"suite {request.suite}")
    for n, found in _answers(request, len(mutants), timeout):
        if n < 0:
            if found is not None:
                raise SuiteError(f"the right function fails {found[1]}: {found[2]}")
            continue
        w = mutants[n]
        result = _judged(w, right, pool, found)
        diff = () if result[0] == KILLED else w.diff
        out = Outcome(w.kind, w.place, w.what, *result, diff)
        score.outcomes.append(out)
        if seen is not None:
            seen(out)
    return score


def _judged(w: Wrong, right: Function, pool: CallJudge, found: Found | None) -> Found:
    try:
        why = pool.alive(w.make())
    except Exception as e:
        why = f"{type(e).__name__}: {e}"
    if why:
        return BROKEN, "", why
    return found if found is not None else undecided(w, right, pool)


def _answers(request: Request, count: int, timeout: float) -> Iterator[tuple[int, Found | None]]:
    """(number, who kills) of the right function (-1) and of every mutant, in order."""
    left = list(range(-1, count))
    while left:
        with _Worker(request, left) as worker:
            while left:
                answer = worker.next(timeout)
                if answer is None:
                    n = left.pop(0)
                    why = worker.why()
                    if n < 0:
                        raise SuiteError(f"the suite does not run: {why}")
                    yield n, (KILLED, "no answer", why)
                    break
                n = left.pop(0)
                if answer.get("error"):
                    raise SuiteError(str(answer["error"]))
                test = answer["test"]
                yield n, ((KILLED, test, answer["reason"]) if test else None)


class _Worker:
    """A process that runs the suite; every answer is a line of JSON."""

    def __init__(self, request: Request, numbers: Sequence[int]) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="opwright-suite-")
        self.said = Path(self.folder.name) / "said"
        whole = {**asdict(request), "numbers": list(numbers)}
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        with open(self.said, "wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=out,
                env=env,
                text=True,
            )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(whole))
        self.process.stdin.close()
        self.lines: Queue[str | None] = Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                self.lines.put(line)
        self.lines.put(None)

    def next(self, timeout: float) -> dict[str, Any] | None:
        try:
            line = self.lines.get(timeout=timeout)
        except Empty:
            return None
        return json.loads(line) if line else None

    def why(self) -> str:
        if self.process.poll() is None:
            return "it took too long"
        text = self.said.read_text(errors="replace").strip().splitlines()
        return f"the process ended with {self.process.returncode}: {text[-1] if text else ''}"

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()
