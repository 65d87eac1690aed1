"""The process in which a suite of pytest meets wrong functions, one after the other.

Reads one request from standard input, writes one line of JSON for every number in it: the first
test that failed, or none. What the suite itself prints is dropped.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

from opwright.compiler.elaborate import load_spec
from opwright.compiler.mutating_calls import (
    Wrong,
    chosen,
    framework_of,
    from_source,
    reference_function,
    wrapped,
)
from opwright.compiler.stored import stored_form
from opwright.ir.op import Operator
from opwright.verify.mutate_calls import Function

STAND_IN = "opwright_mutant"


def named_function(name: str) -> Function:
    """The function of `module:function`; ImportError or AttributeError if there is none."""
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    function: Function = found
    return function


def mutants_of(op: Operator, function: Function, name: str, limit: int) -> list[Wrong]:
    """Mutants of a function of arrays: of its own text, and around it."""
    return chosen([*from_source(function), *wrapped(op, function, name)], limit)


class _Collector:
    """A plugin that keeps the first failure."""

    def __init__(self) -> None:
        self.test = ""
        self.reason = ""
        self.ran = 0

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.ran += report.when == "call"
        if report.failed and not self.test:
            self.test = report.nodeid.rpartition("::")[2].partition("[")[0]
            self.reason = _last(str(report.longrepr))

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.test:
            self.test, self.reason = "collection", _last(str(report.longrepr))


def _last(text: str) -> str:
    lines = [x.strip() for x in text.splitlines() if x.strip()]
    errors = [x for x in lines if x.startswith("E ")]
    return (errors[0][2:].strip() if errors else lines[-1] if lines else "")[:200]


class _Suite:
    def __init__(self, suite: Path, own: bool, name: str, right: Function) -> None:
        self.suite, self.own, self.name, self.right = suite, own, name, right
        self.before = set(sys.modules)

    def run(self, function: Function) -> tuple[str, str, int]:
        """(first test that failed, why, how many ran)."""
        import pytest

        options = ["-x", "-q", "-p", "no:cacheprovider", str(self.suite)]
        if self.own:
            stand_in = ModuleType(STAND_IN)
            stand_in.function = function  # type: ignore[attr-defined]
            sys.modules[STAND_IN] = stand_in
            options += ["--against", f"{STAND_IN}:function"]
            options += ["--framework", framework_of(self.right)]
            restore: list[tuple[ModuleType, str]] = []
        else:
            restore = self.exchanged(self.right, function)
        collector = _Collector()
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                pytest.main(options, plugins=[collector])
        finally:
            for module, name in restore:
                setattr(module, name, self.right)
            self.forget()
        return collector.test, collector.reason, collector.ran

    def exchanged(self, old: Function, new: Function) -> list[tuple[ModuleType, str]]:
        """Every name of a module that is the right function becomes the wrong one."""
        found = []
        for module in list(sys.modules.values()):
            if not isinstance(module, ModuleType) or module.__name__.startswith("opwright"):
                continue
            for name, value in list(vars(module).items()):
                if value is old:
                    setattr(module, name, new)
                    found.append((module, name))
        return found

    def forget(self) -> None:
        """Modules of the suite are read again for the next function."""
        folder = str(self.suite if self.suite.is_dir() else self.suite.parent)
        for name in set(sys.modules) - self.before:
            file = getattr(sys.modules[name], "__file__", None) or ""
            if file.startswith(folder) and name != self.name.partition(":")[0]:
                del sys.modules[name]


def main() -> int:
    request = json.loads(sys.stdin.read())
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.path.insert(0, os.getcwd())
    spec = load_spec(request["spec"])
    op = stored_form(spec.operator(request["op"], dict(request["types"])))
    name = request["function"]
    right = named_function(name) if name else reference_function(op)
    label = name.rpartition(":")[2] or op.name
    mutants = mutants_of(op, right, label, request["limit"])
    suite = _Suite(Path(request["suite"]).resolve(), request["own"], name, right)
    for n in request["numbers"]:
        try:
            function = right if n < 0 else mutants[n].make()
        except Exception as e:
            answer = {"n": n, "test": "import", "reason": f"{type(e).__name__}: {e}"}
        else:
            test, reason, ran = suite.run(function)
            answer = {"n": n, "test": test, "reason": reason}
            if n < 0 and not ran and not test:
                answer["error"] = f"no test of {request['suite']} ran"
        answers.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
