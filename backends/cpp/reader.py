"""The child that reads C++ and CUDA texts through libclang; started as a script by `reading.py`.

A request is one line of JSON on standard input: the kind of answer, the text, its file, and what is
declared before it. The answer is JSON on standard output. Of opwright only the readers are
imported, from their files: they need nothing but libclang.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from typing import Any

DEEP = 20_000  # nested expressions; what is deeper is refused


class ImportRefusal(ValueError):
    """Stands for the one of `opwright.ir.launch`, which the parent raises in its place."""

    def __init__(self, what: str, file: str = "", line: int = 0) -> None:
        super().__init__(what)
        self.what, self.file, self.line = what, file, line


def prepare(root: str, clang: str) -> None:
    """Names of packages without what their files import."""
    sys.path.append(clang)
    for name in ("", ".ir", ".backends", ".backends.cpp", ".backends.cuda"):
        module = types.ModuleType(f"opwright{name}")
        module.__path__ = [root + name.replace(".", "/")]
        sys.modules[module.__name__] = module
    launch: Any = types.ModuleType("opwright.ir.launch")
    launch.ImportRefusal = ImportRefusal
    sys.modules["opwright.ir.launch"] = launch


class Writer:
    """Trees as a table: a node names its parts by their numbers."""

    def __init__(self, clang: Any, parallel: Any) -> None:
        self.clang, self.parallel = clang, parallel
        self.rows: list[Any] = []
        self.known: dict[int, int] = {}
        self.kept: list[Any] = []  # what `known` has numbers of stays alive
        self.types: dict[Any, int] = {}

    def put(self, x: Any) -> Any:
        if x is None or isinstance(x, bool | int | float | str):
            return x
        if isinstance(x, tuple | list):
            return ["l", *map(self.put, x)]
        if isinstance(x, self.clang.CType):
            return ["r", self.type(x)]
        if isinstance(x, self.clang.Node):
            return ["r", self.node(x)]
        if isinstance(x, self.parallel):
            return ["p", x.loops, list(x.private), list(x.reduced)]
        if isinstance(x, self.clang.Function):
            body, result = self.put(x.body), self.put(x.result)
            return ["f", x.name, self.put(x.parameters), result, body, x.line]
        raise TypeError(f"a {type(x).__name__} in a tree")

    def row(self, *parts: Any) -> int:
        self.rows.append(parts)
        return len(self.rows) - 1

    def type(self, t: Any) -> int:
        if t not in self.types:
            of = self.put(t.of)
            self.types[t] = self.row("t", t.kind, t.bits, of, t.count, t.name)
        return self.types[t]

    def node(self, x: Any) -> int:
        if id(x) not in self.known:
            kind, args, attr = self.put(x.type), self.put(x.args), self.put(x.attr)
            self.known[id(x)] = self.row("n", x.op, kind, args, attr, x.line)
            self.kept.append(x)
        return self.known[id(x)]


def tree(request: dict[str, Any]) -> dict[str, Any]:
    clang = importlib.import_module("opwright.backends.cpp.clang")
    writer = Writer(clang, importlib.import_module("opwright.backends.cpp.clang_pragmas").Parallel)
    outer: dict[int, Any] = {}
    if request["kind"] == "cuda":
        found = importlib.import_module("opwright.backends.cuda.frontend")
        text = found.parse(request["source"], request["file"])
        unit, outer = text.unit, text.outer
    else:
        unit = clang.parse(request["source"], request["file"], request["stub"])
    functions = [[n, writer.put(f)] for n, f in unit.functions.items()]
    shared = [[n, writer.put(x)] for n, x in outer.items()]
    return {"rows": writer.rows, "functions": functions, "outer": shared}


def faults(request: dict[str, Any]) -> dict[str, Any]:
    word = "cuda" if request["kind"].startswith("cuda") else "cpp"
    module = importlib.import_module(f"opwright.backends.{word}.mutate")
    found = module.found(request["source"], request["file"], request["kept"], request["stub"])
    return {"mutants": [[m.kind, m.place, m.text, m.what] for m in found]}


def main() -> None:
    sys.setrecursionlimit(DEEP)
    prepare(sys.argv[1], sys.argv[2])
    importlib.import_module("opwright.backends.cuda.frontend")
    from clang import cindex

    with_library = True
    try:
        _ = cindex.conf.lib
    except cindex.LibclangError:
        with_library = False
    line = sys.stdin.readline()
    if not line:
        return
    request = json.loads(line)
    try:
        if not with_library:
            raise ImportRefusal("libclang cannot be loaded")
        answer = faults(request) if "faults" in request["kind"] else tree(request)
    except ImportRefusal as e:
        answer = {"refused": [e.what, e.file, e.line]}
    except RecursionError:
        answer = {"refused": ["its expressions are nested too deeply", request["file"], 0]}
    except Exception as e:
        said = f"the reader failed on this text ({type(e).__name__}: {e})"
        answer = {"refused": [said[:300], request["file"], 0]}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
