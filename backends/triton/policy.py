"""What a Triton source may hold: checked on its syntax tree before any of it is executed.

At module level: imports of triton, triton.language and math; constants; functions under
`triton.jit`. Inside functions names reach those modules' public parts only, so that nothing a
kernel says can touch files, processes or the interpreter while its IR is made.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from opwright.backends.triton.ttir import is_text
from opwright.ir.launch import ImportRefusal

MODULES = ("triton", "triton.language", "math")
# parts of the language that may be imported by name
PARTS = ("triton.language.", "triton.language")
TOOLS = ("jit", "autotune", "heuristics", "Config", "cdiv", "next_power_of_2", "language")
DECORATORS = ("jit", "autotune", "heuristics")
BUILTINS = frozenset(
    "abs bool float int len max min print range str tuple list isinstance slice sum zip enumerate "
    "reversed any all True False None".split()
)
FORBIDDEN = frozenset(
    "eval exec compile open input getattr setattr delattr globals locals vars dir type super "
    "object memoryview classmethod staticmethod property breakpoint exit quit help".split()
)
ROUTES = frozenset(
    "os sys subprocess importlib builtins inspect ctypes runtime compiler backends knobs driver "
    "testing tools semantic builder core".split()
)
_LITERALS = (
    ast.Constant, ast.Name, ast.Load, ast.UnaryOp, ast.unaryop, ast.BinOp, ast.operator, ast.Tuple,
    ast.List, ast.Dict, ast.Attribute, ast.Call, ast.keyword, ast.Compare, ast.cmpop, ast.IfExp,
    ast.BoolOp, ast.boolop,
)  # fmt: skip
_OUTSIDE = (
    ast.Import, ast.ImportFrom, ast.ClassDef, ast.Global, ast.Nonlocal, ast.Try, ast.Await,
    ast.Yield, ast.YieldFrom, ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Delete,
    ast.Lambda, ast.NamedExpr,
)  # fmt: skip


def check_policy(source: str, file: str) -> ast.Module:
    """The syntax tree of a source that may be executed to obtain its IR.

    ImportRefusal names the line of the first thing that is not allowed. TTIR is only read: there
    is nothing in it to execute.
    """
    if is_text(file):
        return ast.Module([], [])
    try:
        tree = ast.parse(source)
        _Policy(file).module(tree)
    except ImportRefusal:
        raise
    except (SyntaxError, ValueError) as e:
        raise ImportRefusal(f"not Python: {e}", file, getattr(e, "lineno", 0) or 0) from None
    except (RecursionError, MemoryError):
        raise ImportRefusal("its expressions are nested too deeply", file) from None
    return tree


class _Policy:
    def __init__(self, file: str) -> None:
        self.file = file
        self.modules: dict[str, str] = {}  # local name -> module it stands for
        self.known: set[str] = set()

    def refuse(self, what: str, node: ast.AST) -> ImportRefusal:
        return ImportRefusal(what, self.file, getattr(node, "lineno", 0))

    def module(self, tree: ast.Module) -> None:
        for n in tree.body:
            if isinstance(n, ast.FunctionDef):
                self.known.add(n.name)
            elif isinstance(n, ast.Assign | ast.AnnAssign):  # kernels read them when compiled
                targets = n.targets if isinstance(n, ast.Assign) else [n.target]
                self.known |= {t.id for t in targets if isinstance(t, ast.Name)}
        for number, n in enumerate(tree.body):
            if isinstance(n, ast.Import | ast.ImportFrom):
                self.imports(n)
            elif isinstance(n, ast.Assign | ast.AnnAssign):
                self.constant(n)
            elif isinstance(n, ast.FunctionDef):
                self.function(n)
            elif isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant):
                if number and not isinstance(n.value.value, str):
                    raise self.refuse("a bare constant at module level", n)
            else:
                what = type(n).__name__
                raise self.refuse(f"{what} at module level: only imports, constants, kernels", n)

    def imports(self, n: ast.Import | ast.ImportFrom) -> None:
        if isinstance(n, ast.Import):
            for a in n.names:
                if a.name not in MODULES and not a.name.startswith("triton.language."):
                    raise self.refuse(f"import of {a.name}", n)
                self.public(a.name, n)
                root = a.name if a.asname else a.name.split(".")[0]
                self.modules[a.asname or root] = root
            return
        where = n.module or ""
        if where == "__future__":
            return
        if n.level or (where not in MODULES and not where.startswith("triton.language.")):
            raise self.refuse(f"import from {'.' * n.level}{where}", n)
        self.public(where, n)
        for a in n.names:
            if a.name == "*" or a.name.startswith("_"):
                raise self.refuse(f"import of {a.name} from {where}", n)
            if where == "triton" and a.name not in TOOLS:
                raise self.refuse(f"import of {a.name} from {where}", n)
            self.public(a.name, n)
            self.modules[a.asname or a.name] = f"{where}.{a.name}"

    def public(self, dotted: str, n: ast.AST) -> None:
        for part in dotted.split("."):
            if part.startswith("_") or part in ROUTES:
                raise self.refuse(f"{dotted}: {part} is not part of the language", n)

    def constant(self, n: ast.Assign | ast.AnnAssign) -> None:
        targets = n.targets if isinstance(n, ast.Assign) else [n.target]
        for t in targets:
            if not isinstance(t, ast.Name) or t.id.startswith("__"):
                raise self.refuse("only plain names are assigned at module level", n)
            if t.id in self.modules or t.id in BUILTINS:
                raise self.refuse(f"{t.id} is assigned anew", n)
            self.known.add(t.id)
        if n.value is not None:
            self.literal(n.value)
        if isinstance(n, ast.AnnAssign):
            self.literal(n.annotation)

    def literal(self, e: ast.expr) -> None:
        """An expression that is evaluated when the module is imported."""
        for x in ast.walk(e):
            if not isinstance(x, _LITERALS):
                raise self.refuse(f"{type(x).__name__} in a constant expression", e)
            if isinstance(x, ast.Call):
                self.callee(x)
        self.expressions(e, set())

    def callee(self, call: ast.Call) -> None:
        route = self.route(call.func)
        allowed = ("triton.cdiv", "triton.next_power_of_2", "triton.language.constexpr")
        if route in allowed or route in ("float", "int", "min", "max", "abs", "len"):
            return
        if route is not None and (route.startswith("math.") or route == "triton.Config"):
            return
        raise self.refuse("a call in a constant expression", call)

    def route(self, e: ast.expr) -> str | None:
        """The dotted name that an expression stands for, modules resolved."""
        if isinstance(e, ast.Name):
            return self.modules.get(e.id, e.id)
        if isinstance(e, ast.Attribute):
            head = self.route(e.value)
            return None if head is None else f"{head}.{e.attr}"
        return None

    def function(self, f: ast.FunctionDef) -> None:
        if f.name in self.modules or f.name in BUILTINS:
            raise self.refuse(f"{f.name} is defined anew", f)
        if not f.decorator_list:
            raise self.refuse(f"function {f.name} without triton.jit", f)
        names = [self.decorator(d) for d in f.decorator_list]
        if names[-1] != "triton.jit":
            raise self.refuse(f"the innermost decorator of {f.name} is not triton.jit", f)
        a = f.args
        for default in (*a.defaults, *(d for d in a.kw_defaults if d is not None)):
            if isinstance(default, ast.List | ast.Dict):
                raise self.refuse("a default that calls could change", default)
            self.literal(default)
        parameters = [*a.posonlyargs, *a.args, *a.kwonlyargs]
        for p in (*parameters, *(x for x in (a.vararg, a.kwarg) if x is not None)):
            if p.annotation is not None:
                self.literal(p.annotation)
        local = {p.arg for p in parameters} | {x.arg for x in (a.vararg, a.kwarg) if x}
        local |= {x.id for x in ast.walk(f) if isinstance(x, ast.Name) and _stored(x)}
        for name in sorted(local & set(self.modules)):
            raise self.refuse(f"{f.name} uses the module name {name} as a variable", f)
        for statement in f.body:
            self.expressions(statement, local)

    def decorator(self, d: ast.expr) -> str:
        name = self.route(d.func if isinstance(d, ast.Call) else d) or ""
        if name not in [f"triton.{x}" for x in DECORATORS]:
            raise self.refuse(f"decorator {ast.unparse(d)}: only triton.jit", d)
        if isinstance(d, ast.Call):
            for e in (*d.args, *(k.value for k in d.keywords)):
                for x in _without_lambdas(e):  # those are never called here
                    if not isinstance(x, (*_LITERALS, ast.Lambda)):
                        raise self.refuse(f"{type(x).__name__} in a decorator", d)
                    if isinstance(x, ast.Call):
                        self.callee(x)
                    self.name(x, set())
        return name

    def expressions(self, root: ast.AST, local: set[str]) -> None:
        for x in ast.walk(root):
            if isinstance(x, _OUTSIDE):
                raise self.refuse(f"{type(x).__name__} in a kernel", x)
            if isinstance(x, ast.FunctionDef):
                raise self.refuse("a function in a function", x)
            self.name(x, local)

    def name(self, x: ast.AST, local: set[str]) -> None:
        if isinstance(x, ast.Attribute):
            if x.attr in ("handle", "tofile"):  # an array in the interpreter, not on a device
                raise self.refuse(f"attribute {x.attr} is not part of the language", x)
            if x.attr.startswith("_") or (x.attr in ROUTES and self.route(x) is not None):
                raise self.refuse(f"attribute {x.attr} is not part of the language", x)
            route = self.route(x)
            if route is not None and route.startswith("triton."):
                part = route.split(".")[1]
                if part not in TOOLS:
                    raise self.refuse(f"{ast.unparse(x)} is not part of the language", x)
        elif isinstance(x, ast.Name):
            if x.id.startswith("__") or (x.id in FORBIDDEN and x.id not in local):
                raise self.refuse(f"the name {x.id} is not allowed", x)
            if x.id not in local | self.known | BUILTINS and x.id not in self.modules:
                raise self.refuse(f"{x.id} is not defined here", x)


def _stored(x: ast.Name) -> bool:
    return isinstance(x.ctx, ast.Store)


def _without_lambdas(e: ast.AST) -> Iterator[ast.AST]:
    yield e
    if not isinstance(e, ast.Lambda):
        for c in ast.iter_child_nodes(e):
            yield from _without_lambdas(c)
