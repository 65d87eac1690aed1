"""What a JAX candidate may contain: imports of JAX, constants and functions at module level.

The check reads the source and executes nothing. It keeps honest candidates to one pure function;
it is no security boundary, and the function runs in a process of its own.
"""

from __future__ import annotations

import ast
from collections.abc import Collection

from opwright.ir.launch import ImportRefusal

MODULES = {"jax", "jax.numpy", "jax.lax", "jax.nn", "jax.scipy", "jax.scipy.special", "jax.ops",
           "functools", "math", "__future__"}  # fmt: skip
NAMES = {"functools": {"partial"}, "__future__": {"annotations"}}
FORBIDDEN_CALLS = {"exec", "eval", "compile", "open", "input", "breakpoint", "globals",
                   "locals", "vars", "setattr", "delattr", "getattr", "exit", "quit",
                   "memoryview", "print", "isinstance", "type", "hash", "id", "repr", "str",
                   "format", "hasattr", "callable", "dir"}  # fmt: skip
# parts of JAX that reach outside the computation
FORBIDDEN_PARTS = {"config", "debug", "pure_callback", "io_callback", "ffi", "dlpack",
                   "experimental", "extend", "distributed", "monitoring", "profiler", "export",
                   "stages", "tools", "interpreters", "custom_batching", "host_callback",
                   "random", "lib", "core", "errors", "live_arrays", "clear_caches",
                   "clear_backends", "disable_jit", "enable_x64", "log_compiles"}  # fmt: skip
# attributes of whatever they are taken from: files, memory, texts that reach attributes
FORBIDDEN_ATTRIBUTES = {"save", "savez", "load", "fromfile", "tofile", "dump", "dumps",
                        "from_dlpack", "printoptions", "set_printoptions", "format", "format_map",
                        "unsafe_buffer_pointer", "unsafe_raw_array", "delete", "setflags",
                        "live_arrays", "clear_caches", "ctypes", "flags", "aval",
                        # what differs between where it is tested and where it is used
                        "platform_dependent", "default_backend", "devices", "local_devices",
                        "device_count", "local_device_count", "process_index"}  # fmt: skip

# of Pallas: what describes grids, blocks and accesses of a kernel
PALLAS = frozenset("BlockSpec cdiv ds dslice num_programs pallas_call program_id when".split())


def check_policy(source: str, file: str, pallas: Collection[str] = ()) -> None:
    """Raise ImportRefusal with the line of the first thing that a candidate may not contain.

    `pallas` are the names of `jax.experimental.pallas` that it may use, under an alias of it."""
    try:
        _judge(source, file, frozenset(pallas))
    except (RecursionError, MemoryError):
        raise ImportRefusal("its expressions are nested too deeply", file) from None


def _judge(source: str, file: str, pallas: frozenset[str]) -> None:
    try:
        tree = ast.parse(source, file)
    except (SyntaxError, ValueError) as e:
        raise ImportRefusal(
            f"not Python: {e.args[0]}", file, getattr(e, "lineno", 0) or 0
        ) from None
    for n, statement in enumerate(tree.body):
        _module_level(statement, file, first=n == 0)
    known = _aliases(tree) if pallas else {}
    for node in ast.walk(tree):
        if node not in known.values():
            _anywhere(node, file)
    if known:
        _kernels(tree, frozenset(known), pallas, file)


def _aliases(tree: ast.Module) -> dict[str, ast.AST]:
    """Names that `from jax.experimental import pallas as NAME` at module level gives."""
    out: dict[str, ast.AST] = {}
    for s in tree.body:
        if isinstance(s, ast.ImportFrom) and s.module == "jax.experimental" and not s.level:
            if [a.name for a in s.names] == ["pallas"]:
                out[s.names[0].asname or "pallas"] = s
    return out


def _kernels(tree: ast.Module, aliases: frozenset[str], pallas: frozenset[str], file: str) -> None:
    """Of the language of kernels nothing is used but these names, and by its alias alone."""
    taken = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in aliases:
                taken.add(node.value)
                if node.attr not in pallas:
                    raise _refuse(f"{ast.unparse(node)} is not allowed", node, file)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in aliases and node not in taken:
            raise _refuse(f"{node.id} is used as a value", node, file)
        if isinstance(node, ast.arg) and node.arg in aliases:
            raise _refuse(f"{node.arg} is used as a value", node, file)


def _refuse(what: str, node: ast.AST, file: str) -> ImportRefusal:
    return ImportRefusal(what, file, getattr(node, "lineno", 0))


def _module_level(s: ast.stmt, file: str, first: bool) -> None:
    if isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant) and first:
        return  # the docstring
    if isinstance(s, ast.Import | ast.ImportFrom):
        return  # judged wherever it stands
    if isinstance(s, ast.FunctionDef):
        for d in s.decorator_list:
            if not _decorator(d):
                raise _refuse(f"the decorator {ast.unparse(d)} is not allowed", d, file)
        return
    if isinstance(s, ast.Assign | ast.AnnAssign):
        if s.value is not None and _constant(s.value):
            return
        raise _refuse("a module-level assignment must be a constant", s, file)
    raise _refuse(f"{type(s).__name__} is not allowed at module level", s, file)


def _dotted(e: ast.expr) -> str:
    if isinstance(e, ast.Name):
        return e.id
    return f"{_dotted(e.value)}.{e.attr}" if isinstance(e, ast.Attribute) else "?"


def _decorator(d: ast.expr) -> bool:
    """jax.jit, jax.custom_jvp, jax.checkpoint and partials of them with constant options."""
    allowed = {"jax.jit", "jit", "jax.checkpoint", "jax.remat", "jax.custom_jvp", "jax.custom_vjp",
               "partial", "functools.partial"}  # fmt: skip
    if isinstance(d, ast.Call):
        options = [*d.args, *(k.value for k in d.keywords)]
        return _dotted(d.func) in allowed and all(_dotted(o) in allowed or _constant(o)
                                                  for o in options)  # fmt: skip
    return _dotted(d) in allowed or (isinstance(d, ast.Attribute) and d.attr == "defjvp")


def _constant(e: ast.expr) -> bool:
    """Literals, tuples of them, arithmetic on them, and constants of math and jax.numpy."""
    if isinstance(e, ast.Constant):
        return True
    if isinstance(e, ast.Tuple):
        return all(_constant(x) for x in e.elts)
    if isinstance(e, ast.UnaryOp):
        return _constant(e.operand)
    if isinstance(e, ast.BinOp):
        return _constant(e.left) and _constant(e.right) and not isinstance(e.op, ast.Pow)
    if isinstance(e, ast.Call):
        return _dotted(e.func) in {"math.sqrt", "math.log", "math.exp", "float"} and all(
            _constant(a) for a in e.args
        )
    return isinstance(e, ast.Attribute) and _dotted(e).split(".")[0] in {
        "math",
        "jnp",
        "lax",
        "jax",
    }


def _anywhere(node: ast.AST, file: str) -> None:
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name not in MODULES:
                raise _refuse(f"import of {alias.name} is not allowed", node, file)
    elif isinstance(node, ast.ImportFrom):
        module = node.module or ""
        for alias in node.names:
            inside = f"{module}.{alias.name}" in MODULES
            if node.level or (module not in MODULES and not inside):
                raise _refuse(f"import from {module or '.'} is not allowed", node, file)
            if (
                alias.name in FORBIDDEN_PARTS
                or alias.name == "*"
                or (module in NAMES and alias.name not in NAMES[module])
            ):
                raise _refuse(f"{alias.name} of {module} is not allowed", node, file)
    elif isinstance(node, ast.Attribute):
        if node.attr.startswith("_"):
            raise _refuse(f"the private name {node.attr} is not allowed", node, file)
        if isinstance(node.ctx, ast.Store | ast.Del):
            raise _refuse(f"setting {ast.unparse(node)} is not allowed", node, file)
        if node.attr in FORBIDDEN_ATTRIBUTES:
            raise _refuse(f"{ast.unparse(node)} is not allowed", node, file)
        if node.attr in FORBIDDEN_PARTS and _dotted(node).split(".")[0] == "jax":
            raise _refuse(f"{_dotted(node)} is not allowed", node, file)
    elif isinstance(node, ast.FunctionDef | ast.Lambda):
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None and isinstance(
                default, ast.List | ast.Dict | ast.Set | ast.Call
            ):
                raise _refuse("a default that calls could change is not allowed", default, file)
    elif isinstance(node, ast.Name):
        if node.id.startswith("__") or node.id in FORBIDDEN_CALLS:
            raise _refuse(f"{node.id} is not allowed", node, file)
    elif isinstance(node, ast.Global | ast.Nonlocal | ast.AsyncFunctionDef | ast.ClassDef
                    | ast.Await | ast.Yield | ast.YieldFrom | ast.With | ast.Try):  # fmt: skip
        raise _refuse(f"{type(node).__name__} is not allowed", node, file)
