"""The parameters of a Triton kernel by its syntax: pointers, scalars, constants.

A parameter is a pointer if it stands for itself in a sum that is an address, here or in a helper
that it is handed to. Nothing is executed, and nothing is decided: the types of a launch come from
its plan.
"""

from __future__ import annotations

import ast

from opwright.ir.launch import ImportRefusal
from opwright.ir.signature import Parameter, Signature

READS, WRITES = ("load",), ("store",)
DEEPEST = 8


def signature(source: str, kernel: str, file: str = "") -> Signature:
    """What a kernel of a source takes; ImportRefusal where there is no such function."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        raise ImportRefusal(f"not Python: {e}", file) from None
    functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
    if kernel not in functions:
        raise ImportRefusal(f"no function {kernel}", file)
    f = functions[kernel]
    uses = _uses(f, functions, DEEPEST)
    out = []
    for name, default, constant in _parameters(f):
        reads, writes = uses.get(name, (False, False))
        kind = "constant" if constant else "pointer" if reads or writes else "scalar"
        out.append(Parameter(name, kind, reads, writes, "", default))
    return Signature(kernel, tuple(out), _axes(f, functions, DEEPEST))


def _parameters(f: ast.FunctionDef) -> list[tuple[str, str, bool]]:
    """Names with defaults, and whether they are constants."""
    a = f.args
    plain = [*a.posonlyargs, *a.args]
    defaults: list[ast.expr | None] = [None] * (len(plain) - len(a.defaults))
    pairs = [*zip(plain, [*defaults, *a.defaults], strict=True)]
    pairs += [*zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    out = []
    for p, d in pairs:
        said = "" if p.annotation is None else ast.unparse(p.annotation).strip("'\"")
        out.append((p.arg, "" if d is None else ast.unparse(d), said.endswith("constexpr")))
    return out


def _callee(x: ast.Call) -> str:
    return x.func.attr if isinstance(x.func, ast.Attribute) else getattr(x.func, "id", "")


def _uses(
    f: ast.FunctionDef, functions: dict[str, ast.FunctionDef], depth: int
) -> dict[str, tuple[bool, bool]]:
    """Which parameters are addresses that are read and written."""
    names = {n for n, _, _ in _parameters(f)}
    made: dict[str, list[ast.expr]] = {}
    for x in ast.walk(f):
        if isinstance(x, ast.Assign):
            for t in x.targets:
                if isinstance(t, ast.Name):
                    made.setdefault(t.id, []).append(x.value)
        elif isinstance(x, ast.AugAssign) and isinstance(x.target, ast.Name):
            made.setdefault(x.target.id, []).append(x.value)
        elif isinstance(x, ast.AnnAssign) and isinstance(x.target, ast.Name) and x.value:
            made.setdefault(x.target.id, []).append(x.value)
    counted = {
        y.id
        for x in ast.walk(f)
        if (isinstance(x, ast.Compare) and not isinstance(x.ops[0], ast.Is | ast.IsNot))
        or (isinstance(x, ast.BinOp) and not _sum(x))
        for y in _numbers(x)
    }
    found: dict[str, tuple[bool, bool]] = {}

    def note(e: ast.expr, reads: bool, writes: bool) -> None:
        for name in _leaves(e, made, names, set()):
            if name not in counted:
                old = found.get(name, (False, False))
                found[name] = (old[0] or reads, old[1] or writes)

    for x in ast.walk(f):
        if not isinstance(x, ast.Call):
            continue
        name = _callee(x)
        first = x.args[0] if x.args else next(
            (k.value for k in x.keywords if k.arg == "pointer"), None
        )  # fmt: skip
        if first is not None and isinstance(x.func, ast.Attribute):
            if name in READS or name == "make_tensor_descriptor":
                note(first, True, name not in READS)
            elif name in WRITES or name.startswith("atomic_"):
                note(first, name not in WRITES, True)
        elif name in functions and depth and functions[name] is not f:
            inner = _uses(functions[name], functions, depth - 1)
            handed = dict(
                zip([n for n, _, _ in _parameters(functions[name])], x.args, strict=False)
            )
            handed |= {k.arg: k.value for k in x.keywords if k.arg}
            for parameter, (reads, writes) in inner.items():
                if parameter in handed:
                    note(handed[parameter], reads, writes)
    return found


def _numbers(x: ast.AST) -> list[ast.Name]:
    """Names that are compared or multiplied: not what calls get, nor what a type is asked of."""
    if isinstance(x, ast.Name):
        return [x]
    if isinstance(x, ast.Call | ast.Attribute):
        return []
    return [y for c in ast.iter_child_nodes(x) for y in _numbers(c)]


def _sum(x: ast.BinOp) -> bool:
    return isinstance(x.op, ast.Add | ast.Sub)


def _leaves(
    e: ast.expr, made: dict[str, list[ast.expr]], names: set[str], seen: set[str]
) -> set[str]:
    """Parameters that are terms of a sum, through variables."""
    if isinstance(e, ast.BinOp) and _sum(e):
        return _leaves(e.left, made, names, seen) | _leaves(e.right, made, names, seen)
    if (
        isinstance(e, ast.Call)
        and isinstance(e.func, ast.Attribute)
        and e.func.attr in ("to", "cast")
    ):
        return _leaves(e.func.value, made, names, seen)
    if isinstance(e, ast.IfExp):
        return _leaves(e.body, made, names, seen) | _leaves(e.orelse, made, names, seen)
    if not isinstance(e, ast.Name) or e.id in seen:
        return set()
    seen = seen | {e.id}
    out = {e.id} & names
    for value in made.get(e.id, []):
        out |= _leaves(value, made, names, seen)
    return out


def _axes(f: ast.FunctionDef, functions: dict[str, ast.FunctionDef], depth: int) -> int:
    """The axes of the grid that a kernel asks for."""
    most = 0
    for x in ast.walk(f):
        if not isinstance(x, ast.Call):
            continue
        name = _callee(x)
        if name in ("program_id", "num_programs") or name.endswith("_program_id"):
            axis = x.args[0] if x.args else next((k.value for k in x.keywords), None)
            if isinstance(axis, ast.Constant) and isinstance(axis.value, int):
                most = max(most, axis.value + 1)
        elif name in functions and depth and functions[name] is not f:
            most = max(most, _axes(functions[name], functions, depth - 1))
    return max(most, 1)
