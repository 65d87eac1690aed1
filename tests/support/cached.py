"""Test files that passed before and depend on nothing that has changed since are left out, where
OPWRIGHT_TEST_CACHE names a folder.

What a file depends on: itself, `tests/support`, data beside the tests, the specs, and every folder
of the sources that is reached from it by imports, as a whole. A file is kept in the cache when all
of its tests ran and none failed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
IMPORT = re.compile(r"^\s*(?:from|import) opwright(?:\.(\w+))?", re.M)
IGNORED = {"__pycache__", "results"}


@cache
def folder_digest(folder: Path) -> str:
    """All files below a folder."""
    h = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not IGNORED & set(path.parts) and not path.name.endswith(".pyc"):
            h.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return h.hexdigest()


@cache
def reached(folder: str) -> frozenset[str]:
    """Folders that the files of a folder import, at any place."""
    found: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        found |= imported(path.read_text(encoding="utf-8"))
    return frozenset(found)


def imported(text: str) -> set[str]:
    """Top-level folders that a text imports; what is none of them is the import root."""
    names = {m or "api" for m in IMPORT.findall(text)}
    return {n if (ROOT / n).is_dir() else "api" for n in names}


def closure(text: str) -> list[str]:
    """Every folder that a test file rests on."""
    todo, done = imported(text) | reached("tests/support"), set()
    while todo:
        one = todo.pop()
        done.add(one)
        todo |= reached(one) - done
    if "compiler" in done:  # it loads backends by name, and templates for packages
        done |= {"backends", "runtime"}
    return sorted(done)


def key(path: Path) -> str:
    """What the results of a test file depend on."""
    text = path.read_text(encoding="utf-8")
    parts = [platform.python_version(), os.environ.get("OPWRIGHT_TEST_ALL", ""), text]
    parts += [folder_digest(ROOT / n) for n in (*closure(text), "specs", "tests/support")]
    parts += [folder_digest(d) for d in sorted(path.parent.iterdir()) if d.is_dir()]
    parts += [(ROOT / n).read_text() for n in ("requirements.lock", "pyproject.toml", "Makefile")]
    parts += [p.read_text() for p in sorted((ROOT / "tests").rglob("conftest.py"))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


class Cached:
    """The plugin: leaves out what is known, and remembers what passed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.whole: dict[Path, set[str]] = {}
        self.passed: dict[str, bool] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        """Files are left out as wholes; a selection (-k, ::) of a file is never remembered."""
        files = {Path(i.path) for i in items}
        known = {f for f in files if (self.folder / key(f)).exists()}
        out = [i for i in items if Path(i.path) in known]
        if out:
            config.hook.pytest_deselected(items=out)
            items[:] = [i for i in items if Path(i.path) not in known]
        for i in items:
            self.whole.setdefault(Path(i.path), set()).add(i.nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        good = bool(report.passed)  # what was skipped for want of a tool may run another time
        self.passed[report.nodeid] = self.passed.get(report.nodeid, True) and good

    def pytest_sessionfinish(self, session: Any) -> None:
        config = session.config
        if session.exitstatus == 5 and any(self.folder.iterdir()):
            session.exitstatus = 0  # nothing was left to run
        if hasattr(config, "workerinput") or config.option.keyword or config.option.markexpr:
            return
        if any("::" in str(a) for a in config.args):
            return
        found: dict[Path, list[bool]] = {}
        for node, good in self.passed.items():
            found.setdefault(ROOT / node.partition("::")[0], []).append(good)
        for path, results in found.items():
            wanted = self.whole.get(path)
            complete = wanted is None or len(results) >= len(wanted)
            ended = session.exitstatus in (0, 1) and not (session.shouldstop or session.shouldfail)
            if path.exists() and all(results) and complete and ended:
                (self.folder / key(path)).touch()
