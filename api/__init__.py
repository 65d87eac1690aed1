"""The import root: public names, loaded on first use so that the command line starts quickly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opwright.compiler.pipeline import CompileError
    from opwright.grammar.diagnostics import DiagnosticError as SpecError
    from opwright.library import Module, Operation, compile, load
    from opwright.packages import Compiled

__version__ = "0.1.0"
__all__ = [
    "CompileError",
    "Compiled",
    "Module",
    "Operation",
    "SpecError",
    "__version__",
    "compile",
    "load",
]

_HOMES = {
    "CompileError": ("opwright.compiler.pipeline", "CompileError"),
    "Compiled": ("opwright.packages", "Compiled"),
    "Module": ("opwright.library", "Module"),
    "Operation": ("opwright.library", "Operation"),
    "SpecError": ("opwright.grammar.diagnostics", "DiagnosticError"),
    "compile": ("opwright.library", "compile"),
    "load": ("opwright.library", "load"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'opwright' has no attribute {name!r}")
    import importlib

    module, attribute = _HOMES[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
