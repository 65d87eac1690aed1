"""`opwright test`: write tests from a spec, and run them on any function."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from opwright.keeping import keep_recorded, recorded
from opwright.outcome import HOLDS, NO, USAGE, Problem
from opwright.spec_files import open_spec, pick_operator, print_diagnostics

FRAMEWORKS = ("torch", "jax", "numpy")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command line asked for; `out` is None where the tests are run and thrown away."""

    spec: Path
    name: str | None
    out: Path | None
    against: str
    framework: str
    types: str
    deep: bool
    smoke: bool
    seed: int
    record: bool = True
    rest: tuple[str, ...] = ()


def test_command(asked: Asked) -> int:
    """Write the tests of one operator; with `against`, run them: yes when all of them hold."""
    from opwright.backends.jax.plain import PrintError
    from opwright.compiler.testgen import generate_suite, write_suite
    from opwright.grammar.diagnostics import DiagnosticError

    if asked.out is None and not asked.against:
        raise Problem(
            "nothing is asked for: neither a folder nor a function",
            "write the tests with -o DIR, or run them with --against module:function",
        )
    if asked.against and ":" not in asked.against:
        raise Problem(
            f"--against {asked.against} names no function",
            f"write module:function, for example {asked.against}:name",
        )
    if asked.framework and asked.framework not in FRAMEWORKS:
        raise Problem(f"there is no framework {asked.framework}", f"one of {', '.join(FRAMEWORKS)}")
    try:
        spec = open_spec(asked.spec)
        name = pick_operator(spec, asked.name)
        operators = [spec.operator(name, types) for types in spec.bindings(name)]
    except DiagnosticError as error:
        print_diagnostics(error.diagnostics)
        return NO
    try:
        kept = recorded(asked.spec, operators[0])
        suite = generate_suite(operators, asked.framework, asked.seed, kept)
    except PrintError as error:
        raise Problem(
            f"no tests can be written for {name}: {error}",
            "`opwright compile` tests candidates of such an operator itself",
            NO,
        ) from None
    if asked.out is not None:
        if asked.out.exists() and not asked.out.is_dir():
            raise Problem(f"{asked.out} is not a folder", "name another one")
        write_suite(suite, asked.out)
        print(f"tests of {name}: {len(suite.files)} files in {asked.out}")
        for note in suite.notes:
            print(f"  left out: {note}")
        if asked.against:
            return run_suite(asked.out, asked)
        print(f"run them: pytest {asked.out} --against module:function")
        return HOLDS
    with tempfile.TemporaryDirectory(prefix="opwright-test-") as folder:
        write_suite(suite, Path(folder))
        return run_suite(Path(folder), asked)


def run_suite(folder: Path, asked: Asked) -> int:
    """Run generated tests with pytest in a process of its own."""
    try:
        import hypothesis  # noqa: F401
        import pytest  # noqa: F401
    except ImportError as error:
        raise Problem(
            f"{error.name} is missing, and generated tests need it",
            "pip install pytest hypothesis",
        ) from None
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    line += ["--against", asked.against]
    line += ["--framework", asked.framework] if asked.framework else []
    line += ["--types", asked.types] if asked.types else []
    line += ["--deep"] if asked.deep else []
    line += ["-m", "smoke"] if asked.smoke else []
    sys.stdout.flush()
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryDirectory(prefix="opwright-cases-") as own:
        found = Path(own) / "failed.jsonl"
        line += ["--record", str(found)] if asked.record else []
        code = subprocess.run([*line, *asked.rest], env=environment, check=False).returncode
        for said in keep_recorded(asked.spec, found) if asked.record else []:
            print(said)
    return {0: HOLDS, 1: NO}.get(code, USAGE)
