"""Emitted packages from Python: importing one without installing it, and the callable around it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opwright.compiler.pipeline import CompileResult
    from opwright.ir.record import Verdict


class PackageError(ValueError):
    """A folder that is no emitted package."""


def import_package(folder: Path) -> ModuleType:
    """Import the package in an emitted folder, replacing one of its name imported before."""
    found = sorted((folder / "src").glob("*/__init__.py"))
    if len(found) != 1:
        raise PackageError(f"{folder} is no emitted package: it has no src/NAME/__init__.py")
    name = found[0].parent.name
    spec = importlib.util.spec_from_file_location(
        name, found[0], submodule_search_locations=[str(found[0].parent)]
    )
    assert spec is not None and spec.loader is not None
    for loaded in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
        del sys.modules[loaded]
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def function_of(module: ModuleType) -> Any:
    """The operator's function in an emitted package."""
    return getattr(module, module._ENGINE.spec.function)


class Compiled:
    """The emitted function, with what the compile established.

    Call it with numpy arrays or torch tensors by input name; it returns an array, or a named tuple
    for several outputs.
    """

    def __init__(self, result: CompileResult) -> None:
        self.result = result
        self.module = import_package(result.package)
        self._function = function_of(self.module)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<opwright compiled {self._function.__name__}: {self.verdict.status}>"

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return str(self._function.__doc__)

    def explain(self, *args: Any, **kwargs: Any) -> Any:
        """Which variant a call takes, and why the others do not."""
        return self.module.explain(*args, **kwargs)

    @property
    def package(self) -> Path:
        """The source folder."""
        return self.result.package

    @property
    def wheel(self) -> Path:
        """The wheel in it."""
        return self.result.wheel

    @property
    def verdict(self) -> Verdict:
        """All records of what ships."""
        return self.result.verdict

    @property
    def winner(self) -> Mapping[str, Any]:
        """The schedule that won, with its metrics."""
        return self.result.winner

    @property
    def speedup(self) -> float:
        """Over candidate 0, by the objective."""
        return self.result.speedup
