"""Takes kernels out of a file of a project: the functions, and the constants and helpers they use.

A project's module imports the project and its frameworks, and is not executed here: it is parsed.
What a kernel does not need is left out; what it needs from other modules of the project is found
by path and added at the end. Lines of the file keep their numbers, so that whatever is said later
of `kernel.py:18` is true of the project's file as well.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from opwright.ir.launch import ImportRefusal

LARGEST = 1 << 22  # bytes of a file
DEEPEST = 12  # imports of imports
FROM_OUTSIDE = ("triton", "triton.language", "math")
CONSTEXPR = "constexpr"


@dataclass(frozen=True, slots=True)
class Cut:
    """A source with nothing in it but a kernel and what it uses, and what was decided for it."""

    kernel: str
    source: str
    notes: tuple[str, ...]
    constants: Mapping[str, str]  # what autotune and heuristics would have set, as they say it


def cut(path: Path, kernel: str | None, given: Mapping[str, str] | None = None) -> Cut:
    """The slice of a file that a kernel needs; without a name, of its only kernel.

    `given` are values of module constants that the file computes; a kernel's own are left alone.
    ImportRefusal says what is not found, or could not be decided without running the module.
    """
    module = _Module.read(path)
    names = module.kernels()
    if kernel is None:
        entries = module.entries()
        if len(entries) != 1:
            found = ", ".join(entries or names) or "none"
            raise ImportRefusal(
                f"name a kernel as {path.name}:NAME; kernels here: {found}", path.name
            )
        kernel = entries[0]
    if kernel not in names:
        near = ", ".join(names) or "none"
        raise ImportRefusal(f"no function {kernel} under triton.jit; there are: {near}", path.name)
    f = module.found[kernel][-1].node
    own = {a.arg for a in ast.walk(f) if isinstance(a, ast.arg)}
    values = {k: v for k, v in (given or {}).items() if k not in own}
    return _Slicer(module, values).cut(kernel)


def kernels_of(path: Path) -> list[str]:
    """Names of the functions under triton.jit."""
    return _Module.read(path).kernels()


@dataclass(frozen=True, slots=True, eq=False)
class _Definition:
    """A statement of a module that binds a name."""

    name: str
    node: ast.FunctionDef | ast.Assign | ast.AnnAssign | ast.Import | ast.ImportFrom
    alias: ast.alias | None = None
    under: bool = False  # an if or a try


@dataclass(slots=True, eq=False)
class _Module:
    path: Path
    text: str
    lines: list[bytes]
    found: dict[str, list[_Definition]] = field(default_factory=dict)

    @staticmethod
    def read(path: Path) -> _Module:
        try:
            raw = path.read_bytes()
            if len(raw) > LARGEST:
                raise ImportRefusal(f"{len(raw)} bytes", path.name)
            text = raw.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
            tree = ast.parse(text)
        except OSError as e:
            raise ImportRefusal(f"cannot be read: {e.strerror}", str(path)) from None
        except (SyntaxError, ValueError, RecursionError) as e:
            line = getattr(e, "lineno", 0) or 0
            raise ImportRefusal(f"not Python: {e}", path.name, line) from None
        out = _Module(path, text, text.encode().split(b"\n"))
        out.collect(tree.body, False)
        return out

    def collect(self, body: Sequence[ast.stmt], under: bool) -> None:
        for n in body:
            if isinstance(n, ast.FunctionDef):
                self.add(_Definition(n.name, n, None, under))
            elif isinstance(n, ast.Assign):
                for t in n.targets:
                    if isinstance(t, ast.Name):
                        self.add(_Definition(t.id, n, None, under))
            elif isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name):
                if n.value is not None:
                    self.add(_Definition(n.target.id, n, None, under))
            elif isinstance(n, ast.Import | ast.ImportFrom):
                for a in n.names:
                    name = a.asname or a.name.split(".")[0]
                    self.add(_Definition(name, n, a, under))
            elif isinstance(n, ast.If):
                self.collect(n.body, True)
                self.collect(n.orelse, True)
            elif isinstance(n, ast.Try):
                self.collect(n.body, True)
                for h in n.handlers:
                    self.collect(h.body, True)
                self.collect(n.orelse, True)
                self.collect(n.finalbody, True)
            elif isinstance(n, ast.With):
                self.collect(n.body, True)

    def add(self, d: _Definition) -> None:
        self.found.setdefault(d.name, []).append(d)

    def route(self, e: ast.expr) -> str | None:
        """The dotted name that an expression stands for, imports resolved."""
        if isinstance(e, ast.Attribute):
            head = self.route(e.value)
            return None if head is None else f"{head}.{e.attr}"
        if not isinstance(e, ast.Name):
            return None
        for d in reversed(self.found.get(e.id, [])):
            if isinstance(d.node, ast.Import) and d.alias is not None:
                return d.alias.name if d.alias.asname else e.id
            if isinstance(d.node, ast.ImportFrom) and d.alias is not None:
                return f"{'.' * d.node.level}{d.node.module or ''}.{d.alias.name}"
        return e.id

    def jit(self, f: ast.FunctionDef) -> ast.expr | None:
        """The decorator that makes a function one of the device."""
        for d in f.decorator_list:
            if self.route(d.func if isinstance(d, ast.Call) else d) == "triton.jit":
                return d
        return None

    def kernels(self) -> list[str]:
        return [
            n
            for n, ds in self.found.items()
            if isinstance(f := ds[-1].node, ast.FunctionDef) and self.jit(f) is not None
        ]

    def entries(self) -> list[str]:
        """Kernels that no other kernel calls."""
        names = self.kernels()
        called = set()
        for n in names:
            f = self.found[n][-1].node
            called |= {x.id for x in ast.walk(f) if isinstance(x, ast.Name) and x.id != n}
        return [n for n in names if n not in called]

    def root(self) -> Path:
        """The folder that holds the project's package."""
        folder = self.path.resolve().parent
        for _ in range(DEEPEST):
            if not (folder / "__init__.py").is_file():
                break
            folder = folder.parent
        return folder

    def module(self, dotted: str, level: int) -> Path | None:
        """The file of a module of the same project."""
        if level:
            start = self.path.resolve().parent
            for _ in range(level - 1):
                start = start.parent
        else:
            start = self.root()
        at = start.joinpath(*[p for p in dotted.split(".") if p])
        for found in (at.with_name(at.name + ".py"), at / "__init__.py"):
            if dotted and found.is_file():
                return found
        init = at / "__init__.py"
        return init if init.is_file() else None


@dataclass(slots=True, eq=False)
class _Piece:
    """What is taken over: a definition of a module, and edits of its text."""

    module: _Module
    definition: _Definition
    name: str  # in the slice
    text: str | None = None  # in place of the original


@dataclass(slots=True, eq=False)
class _Slicer:
    main: _Module
    given: dict[str, str]
    pieces: dict[tuple[Path, str], _Piece] = field(default_factory=dict)
    edits: dict[Path, list[tuple[tuple[int, int], tuple[int, int], str]]] = field(
        default_factory=dict
    )
    notes: dict[str, None] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)
    modules: dict[Path, _Module] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    imports: dict[str, None] = field(default_factory=dict)
    names: dict[tuple[Path, str], str] = field(default_factory=dict)

    def cut(self, kernel: str) -> Cut:
        self.modules[self.main.path.resolve()] = self.main
        self.taken = {n for n in self.main.found}
        for ds in self.main.found.values():
            for d in ds:
                if isinstance(d.node, ast.FunctionDef):
                    self.taken |= {x.id for x in ast.walk(d.node) if isinstance(x, ast.Name)}
                    self.taken |= {a.arg for a in ast.walk(d.node) if isinstance(a, ast.arg)}
        self.need(self.main, kernel, 0)
        for name in self.given:
            if not any(p.definition.name == name for p in self.pieces.values()):
                raise self.refuse(f"{name} was given a value, and nothing here reads it", None)
        return Cut(kernel, self.written(), tuple(self.notes), self.constants)

    def refuse(
        self, what: str, node: ast.AST | None, module: _Module | None = None
    ) -> ImportRefusal:
        at = module or self.main
        return ImportRefusal(what, at.path.name, getattr(node, "lineno", 0) if node else 0)

    # -- what is needed
    def need(self, m: _Module, name: str, depth: int, wish: str = "") -> str | None:
        """The name in the slice of what a module calls `name`, `wish` if that is free; None if
        it stands for a module, whose parts are resolved where they are used."""
        key = (m.path.resolve(), name)
        if key in self.pieces:
            return self.pieces[key].name
        if depth > DEEPEST:
            raise self.refuse(f"{name} is imported through too many modules", None, m)
        d = self.choose(m, name)
        if isinstance(d.node, ast.Import | ast.ImportFrom):
            return self.imported(m, d, depth)
        used = {p.name for p in self.pieces.values()}
        own = name if m is self.main else self.fresh(m, name) if wish in ("", *used) else wish
        piece = _Piece(m, d, own)
        self.pieces[key] = piece
        if own != name:
            self.rename(m, d, own)
        if isinstance(d.node, ast.FunctionDef):
            self.function(m, d.node, depth)
        else:
            self.constant(m, piece, d.node, depth)
        return own

    def choose(self, m: _Module, name: str) -> _Definition:
        """The definition that holds; among several by condition, the first that can be read."""
        found = m.found.get(name)
        if not found:
            raise self.refuse(f"{name} is not defined in {m.path.name}", None, m)
        sure = [n for n, d in enumerate(found) if not d.under]
        live = found[sure[-1] :] if sure else found
        if len(live) == 1 or name in self.given:
            return live[-1]
        readable = [d for d in live if self.readable(m, d)]
        if not readable:
            raise self.refuse(
                f"{name} has {len(live)} definitions, none of which is readable", None, m
            )
        chosen = readable[0]
        self.notes[
            f"{name}: the definition on line {chosen.node.lineno} of {m.path.name} was taken, out "
            f"of {len(live)} under conditions"
        ] = None
        return chosen

    def readable(self, m: _Module, d: _Definition) -> bool:
        """Whether a definition needs nothing that this machine's Triton or the project lacks."""
        if isinstance(d.node, ast.ImportFrom) and d.alias is not None and not d.node.level:
            where = d.node.module or ""
            if where.split(".")[0] == "triton":
                return _offers(where, d.alias.name)
            return where == "math" or m.module(where, 0) is not None
        if isinstance(d.node, ast.Import) and d.alias is not None:
            return d.alias.name.split(".")[0] in ("triton", "math")
        if isinstance(d.node, ast.FunctionDef):
            return m.jit(d.node) is not None
        if isinstance(d.node, ast.Assign | ast.AnnAssign) and d.node.value is not None:
            where, _, name = (m.route(d.node.value) or "").rpartition(".")
            if where.startswith("triton.language"):
                return _offers(where, name)
        return True

    def imported(self, m: _Module, d: _Definition, depth: int) -> str | None:
        assert d.alias is not None
        if isinstance(d.node, ast.Import):
            if d.alias.name in FROM_OUTSIDE or d.alias.name.startswith("triton.language."):
                return self.outside(m, d)
            raise self.refuse(f"the kernel uses the module {d.alias.name}", d.node, m)
        assert isinstance(d.node, ast.ImportFrom)
        where = d.node.module or ""
        if not d.node.level and (where in FROM_OUTSIDE or where.startswith("triton.language.")):
            return self.outside(m, d)
        path = m.module(where, d.node.level)
        if path is None:
            dots = "." * d.node.level
            raise self.refuse(
                f"{d.name} comes from {dots}{where}, which is not in this project: copy it into "
                f"the file, or give its value",
                d.node,
                m,
            )
        other = self.other(path)
        if d.alias.name not in other.found:
            inner = m.module(f"{where}.{d.alias.name}".lstrip("."), d.node.level)
            if inner is not None and inner != path:
                return None  # a module: its parts are resolved where they are used
            raise self.refuse(f"{where} has no {d.alias.name}", d.node, m)
        return self.need(other, d.alias.name, depth + 1, d.name if m is self.main else "")

    def other(self, path: Path) -> _Module:
        key = path.resolve()
        if key not in self.modules:
            self.modules[key] = _Module.read(key)
        return self.modules[key]

    def outside(self, m: _Module, d: _Definition) -> str:
        """An import of the language; of another module it goes to the head under its own name."""
        key = (m.path.resolve(), d.name)
        if m is self.main:
            self.pieces[key] = _Piece(m, d, d.name, _import(d, d.name))
            return d.name
        if key not in self.names:
            name, own = d.name, ast.Name(d.name, ast.Load())
            if name in self.main.found and self.main.route(own) == m.route(own):
                self.need(self.main, name, 0)
            else:
                name = self.fresh(m, name)
                self.imports[_import(d, name)] = None
            self.names[key] = name
        return self.names[key]

    def fresh(self, m: _Module, name: str) -> str:
        out = name
        stem = re.sub(r"\W", "_", m.path.stem if m.path.stem != "__init__" else m.path.parent.name)
        number = 1
        while out in self.taken or hasattr(builtins, out):
            out = f"{stem}_{name}" if number == 1 else f"{stem}_{name}_{number}"
            number += 1
        self.taken.add(out)
        return out

    # -- functions
    def function(self, m: _Module, f: ast.FunctionDef, depth: int) -> None:
        jit = m.jit(f)
        if jit is None:
            raise self.refuse(
                f"{f.name} is no function under triton.jit: what it does is Python", f, m
            )
        self.decorators(m, f, jit)
        arguments = [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs]
        local = {a.arg for a in arguments} | {x.arg for x in (f.args.vararg, f.args.kwarg) if x}
        local |= {
            x.id for x in ast.walk(f) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)
        }
        for a in arguments:
            if a.annotation is not None and not self.language(m, a.annotation):
                self.edit(m, _end(a, a.arg), _finish(a.annotation), "")
        if f.returns is not None:
            self.unreturn(m, f)
        for e in (*f.args.defaults, *(x for x in f.args.kw_defaults if x is not None)):
            self.expression(m, e, set(), depth)
        for a in arguments:
            if a.annotation is not None and self.language(m, a.annotation):
                self.expression(m, a.annotation, set(), depth)
        self.expression(m, jit.func if isinstance(jit, ast.Call) else jit, set(), depth)
        for s in f.body:
            self.expression(m, s, local, depth)

    def language(self, m: _Module, e: ast.expr) -> bool:
        """Whether an annotation is one of the language."""
        if isinstance(e, ast.Constant):
            return isinstance(e.value, str) and e.value.endswith(CONSTEXPR)
        route = m.route(e)
        return route is not None and route.split(".")[0] == "triton"

    def decorators(self, m: _Module, f: ast.FunctionDef, jit: ast.expr) -> None:
        for d in f.decorator_list:
            if d is jit:
                if isinstance(d, ast.Call):
                    self.edit(m, _finish(d.func), _finish(d), "")
                continue
            self.edit(m, (d.lineno, _line(m, d.lineno).find(b"@")), _finish(d), "")
            route = m.route(d.func if isinstance(d, ast.Call) else d) or ""
            said = " ".join(ast.unparse(d).split())
            short = said if len(said) <= 60 else said[:57] + "..."
            self.notes[f"{f.name}: @{short} is left out; the plan gives all constants"] = None
            if route in ("triton.autotune", "triton.heuristics") and isinstance(d, ast.Call):
                self.tuned(d)

    def tuned(self, d: ast.Call) -> None:
        """What a tuner or a heuristic sets, for whoever has to choose."""
        for e in (*d.args, *(k.value for k in d.keywords)):
            dicts = [e] if isinstance(e, ast.Dict) else []
            dicts += [
                x.args[0]
                for x in ast.walk(e)
                if isinstance(x, ast.Call) and x.args and isinstance(x.args[0], ast.Dict)
            ]
            for one in dicts:
                for k, v in zip(one.keys, one.values, strict=True):
                    if isinstance(k, ast.Constant) and isinstance(k.value, str):
                        self.constants.setdefault(k.value, " ".join(ast.unparse(v).split()))

    def unreturn(self, m: _Module, f: ast.FunctionDef) -> None:
        assert f.returns is not None
        at = (f.returns.lineno, f.returns.col_offset)
        line = _line(m, at[0])
        arrow = line.rfind(b"->", 0, at[1])
        if arrow >= 0:
            self.edit(m, (at[0], arrow), _finish(f.returns), "")

    def expression(self, m: _Module, root: ast.AST, local: set[str], depth: int) -> None:
        """Everything that an expression or a statement names is taken over."""
        inner = set()
        for x in ast.walk(root):
            if isinstance(x, ast.Attribute) and x not in inner and self.part(m, x, local, depth):
                inner |= set(ast.walk(x))
        for x in ast.walk(root):
            if x in inner or not isinstance(x, ast.Name) or x.id in local:
                continue
            if x.id not in m.found:
                if hasattr(builtins, x.id):
                    continue
                raise self.refuse(f"{x.id} is not defined in {m.path.name}", x, m)
            name = self.need(m, x.id, depth)
            if name is None:
                raise self.refuse(f"the kernel uses the module {x.id} as a value", x, m)
            if name != x.id:
                self.edit(m, (x.lineno, x.col_offset), _finish(x), name)

    def part(self, m: _Module, x: ast.Attribute, local: set[str], depth: int) -> bool:
        """`module.name` of a module of the project becomes a name of the slice."""
        if not isinstance(x.value, ast.Name) or x.value.id in local:
            return False
        found = m.found.get(x.value.id)
        if not found or not isinstance(found[-1].node, ast.ImportFrom | ast.Import):
            return False
        d = found[-1]
        assert d.alias is not None
        if isinstance(d.node, ast.ImportFrom):
            where = f"{d.node.module or ''}.{d.alias.name}".lstrip(".")
            path, level = m.module(where, d.node.level), d.node.level
            outer = m.module(d.node.module or "", level)
            if path is None or path == outer or where.startswith("triton"):
                return False
        else:
            if not d.alias.asname or d.alias.name.split(".")[0] in ("triton", "math"):
                return False
            path = m.module(d.alias.name, 0)
            if path is None:
                return False
        name = self.need(self.other(path), x.attr, depth + 1)
        if name is None:
            raise self.refuse(f"{ast.unparse(x)} is a module", x, m)
        self.edit(m, (x.lineno, x.col_offset), _finish(x), name)
        return True

    # -- constants
    def constant(self, m: _Module, piece: _Piece, n: ast.stmt, depth: int) -> None:
        assert isinstance(n, ast.Assign | ast.AnnAssign) and n.value is not None
        if piece.definition.name in self.given:
            value = self.given[piece.definition.name]
            where, _, part = value.strip("'\"").rpartition(".")
            if where.startswith("triton.language"):  # a module or function of the language
                piece.text = f"from {where} import {part} as {piece.name}"
            else:
                piece.text = f"{piece.name} = {self.spelled(m)}({value})"
            self.notes[f"{piece.definition.name} = {value}, as given"] = None
            return
        try:
            plain = ast.literal_eval(n.value)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            plain = None
        if isinstance(plain, int | float | str) and not (
            isinstance(n, ast.AnnAssign) and self.language(m, n.annotation)
        ):
            # kernels may read a module's number only as one of the language
            piece.text = f"{piece.name} = {self.spelled(m)}({ast.unparse(n.value)})"
            return
        if plain is None and not self.simple(m, n.value):
            raise self.refuse(
                f"{piece.definition.name} is computed by the module: say what it is, "
                f"--const {piece.definition.name}=VALUE",
                n,
                m,
            )
        self.expression(m, n.value, set(), depth)
        targets = n.targets if isinstance(n, ast.Assign) else [n.target]
        if len(targets) > 1:
            raise self.refuse("several names are assigned at once", n, m)
        if isinstance(n, ast.AnnAssign) and not self.language(m, n.annotation):
            self.edit(m, _finish(n.target), _finish(n.annotation), "")
        elif isinstance(n, ast.AnnAssign):
            self.expression(m, n.annotation, set(), depth)

    def spelled(self, m: _Module) -> str:
        """How the slice writes the language's constants."""
        for name, ds in self.main.found.items():
            if isinstance(ds[-1].node, ast.Import | ast.ImportFrom):
                if self.main.route(ast.Name(name)) == "triton.language" and not ds[-1].under:
                    self.need(self.main, name, 0)
                    return f"{name}.{CONSTEXPR}"
        self.imports[f"from triton.language import {CONSTEXPR}"] = None
        return CONSTEXPR

    def simple(self, m: _Module, e: ast.expr) -> bool:
        """Whether a constant's expression is one that the policy lets a candidate compute."""
        for x in ast.walk(e):
            if isinstance(x, ast.Call):
                route = m.route(x.func) or ""
                if route.split(".")[0] not in ("triton", "math", "float", "int", "min", "max"):
                    return False
            elif isinstance(x, ast.Lambda | ast.Subscript | ast.ListComp | ast.DictComp | ast.Set):
                return False
        return True

    # -- text
    def edit(self, m: _Module, start: tuple[int, int], end: tuple[int, int], text: str) -> None:
        self.edits.setdefault(m.path.resolve(), []).append((start, end, text))

    def rename(self, m: _Module, d: _Definition, own: str) -> None:
        if isinstance(d.node, ast.FunctionDef):
            line = _line(m, d.node.lineno)
            at = line.find(d.name.encode(), line.find(b"def ", d.node.col_offset) + 4)
            self.edit(m, (d.node.lineno, at), (d.node.lineno, at + len(d.name.encode())), own)
        elif not isinstance(d.node, ast.Import | ast.ImportFrom):
            targets = d.node.targets if isinstance(d.node, ast.Assign) else [d.node.target]
            for t in targets:
                self.edit(m, (t.lineno, t.col_offset), _finish(t), own)

    def written(self) -> str:
        """Lines of the file at their own numbers, then what other modules gave."""
        out = [b""] * len(self.main.lines)
        rest: list[bytes] = []
        for p in self.pieces.values():
            first, lines = self.lines(p)
            if p.module is self.main:
                for n, line in enumerate(lines):
                    old = out[first - 1 + n]
                    joined = old + b"; " + line if old and line and old != line else old or line
                    out[first - 1 + n] = joined
            else:
                rest += [b"", b"", f"# {p.module.path.name}, line {first}".encode(), *lines]
        heads = [t.encode() for t in self.imports]
        if heads:
            out = self.headed(out, heads)
        while out and not out[-1].strip():
            out.pop()
        text = b"\n".join([*out, *rest]).decode() + "\n"
        ast.parse(text)
        return text

    def headed(self, out: list[bytes], heads: list[bytes]) -> list[bytes]:
        """Imports of other modules in the first free line, so that no line moves."""
        free = next((n for n, line in enumerate(out) if not line), None)
        first = next((n for n, line in enumerate(out) if line and not line.startswith(b"import")
                      and not line.startswith(b"from")), len(out))  # fmt: skip
        if free is None or free > first:
            raise self.refuse("no line is free for imports of helpers", None)
        out[free] = b"; ".join(heads)
        return out

    def lines(self, p: _Piece) -> tuple[int, list[bytes]]:
        n = p.definition.node
        first = n.lineno
        if isinstance(n, ast.FunctionDef) and n.decorator_list:
            first = min(d.lineno for d in n.decorator_list)
        last = n.end_lineno or n.lineno
        if p.text is not None:
            return first, [p.text.encode(), *[b""] * (last - first if p.module is self.main else 0)]
        lines = [p.module.lines[k - 1] for k in range(first, last + 1)]
        edits = [
            e
            for e in dict.fromkeys(self.edits.get(p.module.path.resolve(), []))
            if first <= e[0][0] and e[1][0] <= last
        ]
        for (row, column), (erow, ecolumn), text in sorted(edits, reverse=True):
            head = lines[row - first][:column]
            tail = lines[erow - first][ecolumn:]
            lines[row - first] = head + text.encode() + tail
            for k in range(row + 1, erow + 1):
                lines[k - first] = b""
        indent = n.col_offset
        if indent:
            lines = [line[indent:] if not line[:indent].strip() else line for line in lines]
        return first, lines


def _line(m: _Module, number: int) -> bytes:
    return m.lines[number - 1]


def _end(a: ast.arg, name: str) -> tuple[int, int]:
    return a.lineno, a.col_offset + len(name.encode())


def _finish(e: ast.expr | ast.stmt) -> tuple[int, int]:
    return e.end_lineno or e.lineno, e.end_col_offset or e.col_offset


def _import(d: _Definition, name: str) -> str:
    """The import that a definition is, of one name."""
    assert d.alias is not None
    if isinstance(d.node, ast.ImportFrom):
        text, plain = f"from {d.node.module} import {d.alias.name}", d.alias.name
    elif d.alias.asname or name != d.name:
        text, plain = f"import {d.alias.name}", ""
    else:
        return f"import {d.alias.name}"
    return text if name == plain else f"{text} as {name}"


def _offers(module: str, name: str) -> bool:
    """Whether the installed Triton has a name in a module, by its text."""
    spec = importlib.util.find_spec("triton")
    if spec is None or not spec.submodule_search_locations:
        return False
    at = Path(next(iter(spec.submodule_search_locations))).joinpath(*module.split(".")[1:])
    for found in (at.with_name(at.name + ".py"), at / "__init__.py"):
        if found.is_file():
            text = found.read_text(encoding="utf-8", errors="replace")
            return bool(re.search(rf"\b{re.escape(name)}\b", text))
    return False
