"""What a package of array code does besides calls: show-config, verify, reference values."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from typing import Any

from .cases import Case, compare, load, plain
from .describe import Spec
from .files import file_problems, metadata
from .jaxop import JaxOperator


def arguments(operator: JaxOperator, case: Case) -> tuple[list[Any], tuple[Any, ...]]:
    """(inputs, params and sizes) of a case; TypeError where JAX lacks a type as it is set."""
    spec = operator.spec
    binding = next(b for b in spec.bindings if b.types == case.types)
    inputs = []
    for t, element in zip(spec.inputs, binding.inputs):
        stored = case.inputs[t.name]
        inputs.append(operator.array(plain(stored["data"], element), stored["shape"], element))
    named = {**case.types, **case.given}
    return inputs, tuple(named.get(name) for name in spec.given_names())


def run(operator: JaxOperator) -> list[tuple[str, int, float]]:
    """Compare every case: (case, elements, largest error over the tolerance); AssertionError names
    the first element outside. Cases of types that JAX has only with 64 bits run with them."""
    results = []
    for case in load(operator.folder):
        with operator.wide(case.types):
            inputs, given = arguments(operator, case)
            result = operator.call(inputs, given)
            outs = (result,) if len(operator.spec.outputs) == 1 else tuple(result)
            found = [
                (t.name, list(y.shape), operator.numbers(y))
                for t, y in zip(operator.spec.outputs, outs)
            ]
        results.append(compare(f"{case.name} {case.types}", case, found))
    return results


def main(spec: Spec, package: str, folder: str, words: Sequence[str] | None = None) -> int:
    """The command line; 0 holds, 1 the answer is no, 2 usage."""
    parser = argparse.ArgumentParser(prog=f"python -m {package}")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("show-config", "what this package is and what it finds here"),
        ("verify", "compare file digests and the shipped reference values"),
    ):
        commands.add_parser(name, help=text).add_argument("--json", action="store_true")
    args = parser.parse_args(words)
    if args.command == "show-config":
        return _show(spec, package, folder, args.json)
    problems = file_problems(folder, metadata(folder)["files"])
    cases: list[dict[str, Any]] = []
    try:
        operator = importlib.import_module(f"{package}.jax").OPERATOR
        for case, count, worst in run(operator):
            cases.append({"case": case, "elements": count, "error_over_tolerance": worst})
    except (ImportError, AssertionError, TypeError) as error:
        problems.append(str(error))
    if args.json:
        print(json.dumps({"problems": problems, "cases": cases}, indent=2))
    else:
        for row in cases:
            print(
                f"jax: {row['case']}: {row['elements']} elements, largest error "
                f"{row['error_over_tolerance']:.3g} of the tolerance"
            )
        for problem in problems:
            print(f"PROBLEM {problem}")
        print(
            "not as certified" if problems else "as certified: the certificate is certificate.json"
        )
    return 1 if problems else 0


def _show(spec: Spec, package: str, folder: str, as_json: bool) -> int:
    data = metadata(folder)
    try:
        version = importlib.metadata.version("jax")
    except importlib.metadata.PackageNotFoundError:
        version = "not installed"
    config = {
        "package": package,
        "version": data["version"],
        "operator": f"{spec.name}@{spec.version}",
        "spec": data["spec"]["digest"],
        "folder": folder,
        "python": platform.python_version(),
        "jax": version,
        "bindings": [b.types for b in spec.bindings],
    }
    if as_json:
        print(json.dumps(config, indent=2))
    else:
        for key, value in config.items():
            print(f"{key:16} {value}")
    return 0
