"""Spec files by path and operators by binding: what imports and calls of other operators refer to.

A module `nn.gain` is looked up as nn/gain.op beside the importing file, in the folders above it,
and then among the shipped specs. Every file is parsed once, every binding elaborated once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from opwright.compiler import codes
from opwright.compiler.codes import Findings, did_you_mean
from opwright.compiler.scope import ModuleName, OperatorName, Scope
from opwright.compiler.variadic import written_out
from opwright.grammar import ast
from opwright.grammar.diagnostics import DiagnosticError
from opwright.grammar.parser import parse_bytes
from opwright.ir.op import Operator

FOLDERS_ABOVE = 3


@dataclass(frozen=True, slots=True)
class Key:
    """One operator of one file."""

    filename: str
    op: str


Build = Callable[["Library", ast.Module, ast.Op, Mapping[str, str], str], Operator]


@dataclass(slots=True)
class Library:
    """Parsed modules and elaborated operators; `build` elaborates one."""

    build: Build
    modules: dict[str, ast.Module] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    operators: dict[tuple[Key, tuple[tuple[str, str], ...]], Operator] = field(default_factory=dict)
    pending: list[Key] = field(default_factory=list)

    def add(self, module: ast.Module, source: str = "") -> str:
        """Register a parsed module under its file name."""
        self.modules[module.filename] = module
        self.sources[module.filename] = source
        return module.filename

    def load(self, path: Path) -> ast.Module:
        """The module of a file; raises OSError or DiagnosticError."""
        name = str(path)
        if name not in self.modules:
            data = path.read_bytes()
            self.modules[name] = parse_bytes(data, name)
            self.sources[name] = data.decode("utf-8")
        return self.modules[name]

    def op(self, key: Key) -> ast.Op:
        """The syntax of a registered operator."""
        return next(o for o in self.modules[key.filename].ops if o.name == key.op)

    def operator(self, key: Key, types: Mapping[str, str]) -> Operator:
        """The operator at a binding; raises DiagnosticError with the mistakes of its own file."""
        at = (key, tuple(sorted(types.items())))
        if at not in self.operators:
            self.pending.append(key)
            try:
                module = self.modules[key.filename]
                self.operators[at] = self.build(self, module, self.op(key), types, key.filename)
            finally:
                self.pending.pop()
        return self.operators[at]

    def written_out(self, key: Key, count: int) -> Key:
        """The operator with `count` axes in the place of its group of leading axes."""
        name = f"{key.filename}#{key.op}#{count}"
        if name not in self.modules:
            module = self.modules[key.filename]
            ops = tuple(written_out(o, count) if o.name == key.op else o for o in module.ops)
            self.modules[name] = replace(module, ops=ops)
        return Key(name, key.op)

    # -- imports ----------------------------------------------------------------------------------

    def find(self, path: tuple[str, ...], filename: str) -> Path | None:
        """The file of a module as seen from another file."""
        relative = Path(*path).with_suffix(".op")
        folders: list[Path] = []
        here = Path(filename)
        if here.is_file():
            folder = here.resolve().parent
            folders += [folder, *list(folder.parents)[:FOLDERS_ABOVE]]
        folders.append(shipped())
        return next((f / relative for f in folders if (f / relative).is_file()), None)

    def bind_imports(self, module: ast.Module, scope: Scope, findings: Findings) -> None:
        """Declare the operators that a module imports and those that it has itself."""
        for item in module.imports:
            found = self._import(item, module.filename, findings)
            if found is None:
                continue
            operators = {o.name: OperatorName(o.name, Key(found.filename, o.name))
                         for o in found.ops}  # fmt: skip
            if isinstance(item, ast.ImportModule):
                name = item.alias or item.path[-1]
                scope.names[name] = ModuleName(name, operators)
                continue
            for wanted in item.names:
                target = next((o for o in found.ops if o.name == wanted.name), None)
                if target is None:
                    findings.add(
                        codes.UNKNOWN_OPERATOR,
                        wanted.span,
                        name=wanted.name,
                        place=f"module `{'.'.join(item.path)}`",
                        known=", ".join(operators),
                        hint=did_you_mean(wanted.name, list(operators)),
                    )
                elif wanted.version is not None and not serves(target.version, wanted.version):
                    findings.add(
                        codes.WRONG_VERSION,
                        wanted.span,
                        name=wanted.name,
                        wanted=wanted.version,
                        found=target.version,
                    )
                else:
                    scope.names[wanted.name] = operators[wanted.name]
        for o in module.ops:
            scope.names.setdefault(o.name, OperatorName(o.name, Key(module.filename, o.name)))

    def _import(self, item: ast.Import, filename: str, findings: Findings) -> ast.Module | None:
        name = ".".join(item.path)
        path = self.find(item.path, filename)
        if path is None:
            findings.add(
                codes.UNKNOWN_MODULE, item.span, name=name, path="/".join(item.path) + ".op"
            )
            return None
        if Path(filename).is_file() and path.samefile(filename):
            findings.add(codes.IMPORT_CYCLE, item.span, name=name)
            return None
        try:
            return self.load(path)
        except DiagnosticError as error:
            findings.found += error.diagnostics
            return None


def serves(version: str, wanted: str) -> bool:
    """Whether a version has the wanted major number and at least the wanted minor one."""
    have, want = ([int(p) for p in v.split(".")] for v in (version, wanted))
    return have[0] == want[0] and have[1:] >= want[1:]


def shipped() -> Path:
    """The folder of the specs that come with the package."""
    import opwright.specs

    return Path(next(iter(opwright.specs.__path__)))
