"""Generated tests in this process: the functions of the file are called as pytest calls them.

A suite is written and imported once; a function under test is put behind its fixtures. So a
thousand wrong functions cost a thousand runs of the tests and not of an interpreter.
"""

from __future__ import annotations

import importlib
import itertools
import sys
import tempfile
import unittest
import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from opwright.compiler.mutating import KILLED, Found
from opwright.compiler.testgen import generate_suite, write_suite
from opwright.ir.op import Operator
from opwright.verify.mutate_calls import Function
from opwright.verify.testkit_checks import Subject
from opwright.verify.testkit_frames import frame
from opwright.verify.testkit_spec import load_cases

EXAMPLES = 40  # of Hypothesis, as in the generated conftest


class Generated:
    """The generated tests of one operator, for functions of one framework's arrays.

    `operators` are its bindings, the one under test first. `__call__` names the first test that a
    function fails.
    """

    def __init__(self, operators: Sequence[Operator], framework: str, seed: int = 0) -> None:
        self.framework = framework
        self.folder = tempfile.TemporaryDirectory(prefix="opwright-tests-")
        suite = generate_suite(operators, framework, seed)
        write_suite(suite, Path(self.folder.name))
        self.notes = suite.notes
        self.tests = _imported(Path(self.folder.name))
        self.spec = self.tests.SPEC.typed(self.tests.SPEC.bindings[0])
        self.recorded = Path(self.folder.name) / f"{suite.name}_cases.jsonl"

    def on(self, framework: str) -> Generated:
        """The same tests, for functions of another framework's arrays."""
        other = copy(self)
        other.framework = framework
        return other

    def __call__(self, function: Function) -> Found | None:
        given = {
            "subject": Subject(function, self.spec, frame(self.framework)),
            "deep": False,
            "recorded": load_cases(self.recorded, self.spec),
        }
        for name, test, values in self.calls():
            named = {k: v for k, v in given.items() if k in _wanted(test)}
            try:
                with warnings.catch_warnings(), np.errstate(all="ignore"):
                    warnings.simplefilter("ignore")
                    test(**named, **values)
            except unittest.SkipTest:
                continue
            except Exception as e:
                said = next(iter(str(e).splitlines()), "")[:200]
                return KILLED, name, said if isinstance(e, AssertionError) else f"raises {e!r}"
        return None

    def calls(self) -> Iterator[tuple[str, Callable[..., Any], dict[str, Any]]]:
        """(name, test, values of its parameters) in the order of the file; what Hypothesis makes up
        comes last, since it takes longest."""
        tests = [(n, t) for n, t in vars(self.tests).items() if n.startswith("test_")]
        for name, test in sorted(tests, key=lambda pair: hasattr(pair[1], "hypothesis")):
            marks = [m for m in getattr(test, "pytestmark", []) if m.name == "parametrize"]
            axes = [[(m.args[0], getattr(v, "values", (v,))) for v in m.args[1]] for m in marks]
            for row in itertools.product(*axes):
                values: dict[str, Any] = {}
                for names, parts in row:
                    own = [n.strip() for n in names.split(",")] if isinstance(names, str) else names
                    values.update(zip(own, parts, strict=False))
                yield name, test, values


def _wanted(test: Callable[..., Any]) -> set[str]:
    inner = getattr(getattr(test, "hypothesis", None), "inner_test", test)
    return set(inner.__code__.co_varnames[: inner.__code__.co_argcount])


def _imported(folder: Path) -> ModuleType:
    """The tests of a folder; modules that another suite also has are its own afterwards."""
    from hypothesis import HealthCheck, Phase, settings

    settings.register_profile(
        "opwright-mutants",
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=EXAMPLES,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate),
    )
    settings.load_profile("opwright-mutants")
    names = {p.stem for p in folder.glob("*.py")}
    kept = {n: sys.modules.pop(n) for n in names & set(sys.modules)}
    # one kit for all suites: the installed one, which is what was copied
    for n in names:
        if n.startswith("testkit_"):
            sys.modules[n] = importlib.import_module(f"opwright.verify.{n}")
    sys.path.insert(0, str(folder))
    try:
        importlib.invalidate_caches()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # marks that its own pytest.ini knows
            return importlib.import_module(next(n for n in names if n.startswith("test_")))
    finally:
        sys.path.remove(str(folder))
        for n in names:
            sys.modules.pop(n, None)
        sys.modules.update(kept)
