"""Generated tests: they pass on right functions, fail on wrong ones, and stand alone."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.shipped import SPECS, some  # type: ignore[import-not-found]

from opwright.backends.jax.plain import module_text, print_plain
from opwright.compiler.elaborate import load_spec
from opwright.compiler.testgen import generate_suite, write_suite
from opwright.ir.dtypes import decode
from opwright.ir.op import Operator
from opwright.ir.reference import reference
from opwright.verify.inputs import generate
from opwright.verify.sizes import Limits

ALL = sorted(SPECS.rglob("*.op"))
RIGHT = """
import numpy as np

def total(x):
    return np.sum(x, axis=1, dtype=np.float64).astype(x.dtype)
"""
WRONG = {
    "tail": "n = x.shape[1] // 4 * 4\n    return np.sum(x[:, :n], axis=1, dtype=x.dtype)",
    "axis": "return np.sum(x, axis=0 if x.shape[0] == x.shape[1] else 1, dtype=x.dtype)",
    "half": "return np.sum(x.astype(np.float16), axis=1).astype(x.dtype)",
    "cached": "k = x.ctypes.data\n    return CACHE.setdefault((k, x.shape), np.sum(x, axis=1))",
    "flat": "return x.ravel(order='K').reshape(x.shape).sum(axis=1)",
    "writes": "x[:, :1] = 0\n    return np.sum(x, axis=1)",
    "shared": "KEPT[x.shape] = out = KEPT.get(x.shape, np.zeros(len(x), x.dtype))\n"
    "    np.sum(x, axis=1, out=out)\n    return out",
}  # fmt: skip


def operators(path: Path) -> list[Operator]:
    spec = load_spec(path)
    name = spec.names[0]
    return [spec.operator(name, types) for types in spec.bindings(name)]


@pytest.mark.parametrize("path", some(ALL, 6), ids=lambda p: p.stem)
def test_the_printed_reference_is_the_reference(path: Path) -> None:
    op = operators(path)[0]
    printed = print_plain(op, "function")
    space: dict[str, object] = {}
    exec(module_text("", [printed]), space)
    function = space["function"]
    assert callable(function)
    for case in generate(op, 3, 6, limits=Limits(1 << 11, 1 << 17)).cases:
        inputs = {t.name: decode(case.inputs[t.name], t.dtype) for t in op.inputs}
        free = {s: case.sizes[s] for s in op.free_sizes}
        rest = [case.params[p.name] for p in op.params] + list(free.values())
        with np.errstate(all="ignore"):
            found = function(*inputs.values(), *rest)
        parts = found if isinstance(found, tuple) else (found,)
        wanted = reference(op, inputs, case.params, free)
        for t, x in zip(op.outputs, parts, strict=True):
            np.testing.assert_allclose(
                np.asarray(x, float), np.asarray(wanted[t.name], float), rtol=1e-9, atol=1e-9
            )


def run(folder: Path, module: Path, *more: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=line", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(module.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [*line, str(folder), "--framework", "numpy", *more],
        env=environment, capture_output=True, text=True, timeout=120, cwd=module.parent,
    )  # fmt: skip


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("suite")
    write_suite(generate_suite(operators(SPECS / "reduce" / "row_sum.op")), folder)
    return folder


def test_the_files_import_nothing_of_this_project(suite: Path) -> None:
    for path in suite.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(n.startswith("opwright") for n in names), path


def test_a_right_function_passes(suite: Path, tmp_path: Path) -> None:
    module = tmp_path / "right.py"
    module.write_text(RIGHT)
    done = run(suite, module, "--against", "right:total")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", some(list(WRONG), 2))
def test_a_wrong_function_fails(suite: Path, tmp_path: Path, name: str) -> None:
    module = tmp_path / f"wrong_{name}.py"
    head = "import numpy as np\nCACHE, KEPT = {}, {}\n"
    module.write_text(f"{head}\ndef total(x):\n    {WRONG[name]}\n")
    done = run(suite, module, "--against", f"wrong_{name}:total")
    assert done.returncode == 1, done.stdout
