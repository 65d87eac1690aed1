"""Folders may import only what the table allows, and no operator is named in the code generator.

Sources are parsed, not imported, so the whole file costs well under a second.
"""

from __future__ import annotations

import ast
import pathlib
import re
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BELOW_COMPILER = {"grammar", "ir", "verify", "backends", "search"}
MAY_IMPORT: dict[str, set[str]] = {
    "grammar": set(),
    "ir": {"grammar"},
    "verify": {"ir"},
    "backends": {"ir"},
    "search": {"ir", "verify", "backends"},
    "compiler": BELOW_COMPILER | {"runtime", "specs"},
    "runtime": set(),
    "specs": set(),
    "benchmarks": BELOW_COMPILER | {"compiler", "runtime", "specs"},
    "api": BELOW_COMPILER | {"compiler", "runtime", "specs", "benchmarks"},
}
# modules that a folder may not import while it is itself imported, whoever owns them
HEAVY = {"torch", "jax", "sympy", "z3", "triton"}
# where generated code comes from: operators appear here as forms, never by name
NAMELESS = ("compiler", "backends", "search", "verify")
OPERATOR_NAMES = re.compile(r"soft_?max|gelu|attention|layer_?norm", re.IGNORECASE)
FILES = sorted(p for folder in MAY_IMPORT for p in (ROOT / folder).rglob("*.py"))


def label(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


def folder_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).parts[0]


def imported_names(tree: ast.AST) -> list[tuple[int, str]]:
    """Every imported module as (line, dotted name); names taken from the root are joined to it."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            if module == "opwright":
                found += [(node.lineno, f"opwright.{alias.name}") for alias in node.names]
            else:
                found.append((node.lineno, module))
    return found


def folder_imports(source: str, folder: str) -> list[tuple[int, str]]:
    """The imports in `source` that a file of `folder` may not make."""
    wrong: list[tuple[int, str]] = []
    for line, name in imported_names(ast.parse(source)):
        head, _, rest = name.partition(".")
        top = rest.split(".")[0]
        # what is copied into emitted packages finds its own files relatively, wherever it lies
        bare = head in MAY_IMPORT or (head == "" and (folder != "runtime" or name[:2] == ".."))
        foreign = head == "opwright" and (
            top not in MAY_IMPORT[folder] | {folder} if top in MAY_IMPORT else folder != "api"
        )
        if bare or foreign:
            wrong.append((line, name))
    return wrong


@pytest.mark.parametrize("path", FILES, ids=label)
def test_layering(path: pathlib.Path) -> None:
    assert folder_imports(path.read_text(encoding="utf-8"), folder_of(path)) == []


@pytest.mark.parametrize(
    ("folder", "line", "legal"),
    [
        ("verify", "from opwright.ir import tile", True),
        ("verify", "from opwright.backends import cpp", False),
        ("verify", "import opwright.backends.cpp.printer", False),
        ("grammar", "from opwright.ir.expr import Expr", False),
        ("compiler", "from opwright import api", False),
        ("compiler", "import ir", False),
        ("compiler", "from . import strategies", False),
        ("runtime", "import opwright", False),
        ("runtime", "from .engine import Engine", True),
        ("runtime", "from ..ir import tile", False),
        ("api", "from opwright.compiler import pipeline", True),
        ("search", "import numpy", True),
    ],
)
def test_the_check_itself(folder: str, line: str, legal: bool) -> None:
    assert (folder_imports(line, folder) == []) is legal


def top_level_imports(source: str) -> set[str]:
    """The heads of what runs on import: statements outside functions and type-checking blocks."""
    found: set[str] = set()
    stack: list[ast.stmt] = list(ast.parse(source).body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            stack += node.orelse
            continue
        found |= (
            {name.split(".")[0] for _, name in imported_names(ast.Module([node], []))}
            if (isinstance(node, ast.Import | ast.ImportFrom))
            else set()
        )
        stack += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return found


@pytest.mark.parametrize("path", FILES, ids=label)
def test_heavy_modules_are_imported_on_use(path: pathlib.Path) -> None:
    assert top_level_imports(path.read_text(encoding="utf-8")) & HEAVY == set()


@pytest.mark.parametrize("path", [p for p in FILES if folder_of(p) == "runtime"], ids=label)
def test_the_runtime_needs_the_standard_library_alone(path: pathlib.Path) -> None:
    source = path.read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 9))
    heads = {name.split(".")[0] for _, name in imported_names(ast.parse(source))}
    assert heads - {"", "torch", "jax", "numpy", "triton"} <= set(sys.stdlib_module_names)
    assert top_level_imports(source) - {""} <= set(sys.stdlib_module_names)


def test_no_operator_is_named_in_the_code_generator() -> None:
    hits = [
        f"{label(path)}:{number}: {line.strip()}"
        for folder in NAMELESS
        for path in sorted((ROOT / folder).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
        for number, line in enumerate(
            path.read_text(encoding="utf-8", errors="replace").splitlines(), 1
        )
        if OPERATOR_NAMES.search(line)
    ]
    assert hits == []


def test_every_package_is_shipped() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    mounted = {folder: name for name, folder in config["package-dir"].items()}
    assert set(mounted) == set(MAY_IMPORT)
    found = set()
    for folder in MAY_IMPORT:
        for init in (ROOT / folder).rglob("__init__.py"):
            top, *rest = init.parent.relative_to(ROOT).parts
            found.add(".".join([mounted[top], *rest]))
    assert found == set(config["packages"])


def test_every_python_file_is_in_a_package() -> None:
    orphans = [label(path) for path in FILES if not (path.parent / "__init__.py").exists()]
    assert orphans == []


def test_the_type_checker_sees_every_folder() -> None:
    linked = {p.name for p in (ROOT / ".types" / "opwright").iterdir() if p.is_dir()}
    assert linked == set(MAY_IMPORT) - {"api"}


def test_one_identity() -> None:
    # a folder imported under its bare name would be a second copy of every class
    import opwright.ir.tile

    assert opwright.ir.tile.__name__ == "opwright.ir.tile"
    assert [name for name in MAY_IMPORT if name in sys.modules] == []
