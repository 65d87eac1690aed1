"""Whether a plan's launches fit the kernels of its source: names, numbers of arguments.

Texts are only looked at here, so that a slip in a plan gets one clear message before any gate runs.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator

from opwright.backends.triton.signature import signature
from opwright.backends.triton.ttir import is_text, parse
from opwright.ir.expr import Expr, walk
from opwright.ir.launch import BoundPlan, ImportRefusal, Scalar
from opwright.ir.op import Operator
from opwright.ir.plan import Launch, Plan, PlanError

ALIGNED = re.compile(r"aligned\((\w+), (\d+)\)")
PROGRAM_IDS = 3  # trailing parameters of a C++ kernel


def check_signatures(plan: Plan, source: str, op: Operator) -> None:
    """PlanError for a kernel that the source does not define, or that takes other arguments."""
    if plan.backend in ("cpp", "cuda"):
        found = cpp_kernels(source)
    elif plan.backend == "triton" and is_text(plan.source):
        found = ttir_functions(plan, source)
    else:
        found = python_functions(plan, source)
    for n, launch in enumerate(plan.launches):
        at = f"candidate.json: launches[{n}]"
        if launch.kernel not in found:
            raise PlanError(f"{at}.kernel: {plan.source} defines no {launch.kernel!r}"
                            f"{_meant(launch.kernel, list(found))}")  # fmt: skip
        if plan.backend == "cpp":
            _count(at, plan.source, launch, len(found[launch.kernel]) - PROGRAM_IDS)
        elif plan.backend == "cuda":
            _count(at, plan.source, launch, len(found[launch.kernel]))
        elif plan.backend == "triton" and is_text(plan.source):
            _fixed(at, plan.source, launch, len(found[launch.kernel]))
        elif plan.backend == "triton":
            own = found[launch.kernel]
            left = left_out(source, launch)
            _keywords(at, plan.source, launch, own, [p for p in own if p not in left])


def check_expressions(bound: BoundPlan) -> None:
    """PlanError for a stride or an alignment of what the operator does not have."""
    for at, e in _expressions(bound):
        for x in walk(e):
            if x.op == "stride":
                name, axis = x.attr
            elif x.op == "param" and (m := ALIGNED.fullmatch(str(x.attr))):
                name, axis = m[1], 0
                if int(m[2]) < 1 or int(m[2]) & (int(m[2]) - 1):
                    raise PlanError(f"candidate.json: {at}: {x.attr}: no power of two")
            else:
                continue
            buffer = bound.buffers.get(name)
            if buffer is None:
                known = ", ".join(n for n, b in bound.buffers.items() if b.role in ("in", "out"))
                raise PlanError(
                    f"candidate.json: {at}: there is no tensor {name!r}; tensors: {known}"
                )
            if x.op == "stride" and not 0 <= axis < len(buffer.shape):
                raise PlanError(
                    f"candidate.json: {at}: stride({name}, {axis}): {name} has axes 0 to "
                    f"{len(buffer.shape) - 1}"
                    if buffer.shape
                    else f"candidate.json: {at}: stride({name}, {axis}): {name} has no axes"
                )


def _expressions(bound: BoundPlan) -> Iterator[tuple[str, Expr]]:
    for n, e in enumerate(bound.facts):
        yield f"facts[{n}]", e
    for b in bound.buffers.values():
        if b.name in bound.plan.scratch:
            yield from ((f"scratch.{b.name}.shape", e) for e in b.shape)
    for n, c in enumerate(bound.launches):
        yield from ((f"launches[{n}].grid", e) for e in c.grid)
        yield from ((f"launches[{n}].args", a.expr) for a in c.args if isinstance(a, Scalar))


def _meant(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; it defines {', '.join(known[:6])}" if known else ""


def _count(at: str, source: str, launch: Launch, wanted: int) -> None:
    given = len(launch.args)
    if wanted < 0:
        raise PlanError(
            f"{at}: {source}: {launch.kernel} must end in the three program ids: "
            "int64_t pid0, int64_t pid1, int64_t pid2"
        )
    if given != wanted:
        raise PlanError(
            f"{at}.args: {given} arguments, but {launch.kernel} in {source} takes {wanted}"
            " before its program ids"
        )


def _fixed(at: str, source: str, launch: Launch, wanted: int) -> None:
    """The constants of a launch are part of such a text already."""
    if len(launch.args) != wanted:
        raise PlanError(
            f"{at}.args: {len(launch.args)} arguments, but {launch.kernel} in {source} takes "
            f"{wanted}"
        )


def _keywords(
    at: str, source: str, launch: Launch, parameters: list[str], taken: list[str]
) -> None:
    strange = [k for k in launch.const if k not in parameters]
    if strange:
        raise PlanError(
            f"{at}.const: {launch.kernel} in {source} has no parameter {strange[0]!r}"
            f"{_meant(strange[0], parameters)}"
        )
    free = [p for p in taken if p not in launch.const]
    if len(free) != len(launch.args):
        raise PlanError(
            f"{at}.args: {len(launch.args)} arguments, but {launch.kernel} in {source} takes "
            f"{len(free)} besides its constants: {', '.join(free)}"
        )


def left_out(source: str, launch: Launch) -> list[str]:
    """Constants of a Triton kernel that have a default, and that a launch says nothing of."""
    try:
        found = signature(source, launch.kernel)
    except ImportRefusal:
        return []  # a jitted function under another name
    return [
        p.name
        for p in found.parameters
        if p.kind == "constant" and p.default and p.name not in launch.const
    ]


def cpp_kernels(source: str) -> dict[str, list[str]]:
    """Functions that a C++ text defines with C linkage, with the texts of their parameters."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", " ", source, flags=re.S)
    text = re.sub(r"__(launch_bounds|maxnreg)__\s*\([^()]*(\([^()]*\)[^()]*)*\)", " ", text)
    out: dict[str, list[str]] = {}
    blocks = [m.end() for m in re.finditer(r'extern\s*"C"\s*\{', text)]
    for m in re.finditer(r'(extern\s*"C"[^;{}()]*?|[^;{}()\n]*?)\b(\w+)\s*\(', text):
        linked = m[1].lstrip().startswith("extern") or any(
            b <= m.start() and text.count("{", b, m.start()) == text.count("}", b, m.start())
            for b in blocks
        )
        if not linked or "void" not in m[1].split():
            continue
        end = _closing(text, m.end() - 1)
        if text[end + 1 :].lstrip()[:1] != "{":
            continue
        out[m[2]] = _split(text[m.end() : end])
    return out


def _closing(text: str, opening: int) -> int:
    depth = 0
    for n in range(opening, len(text)):
        depth += (text[n] == "(") - (text[n] == ")")
        if depth == 0:
            return n
    return len(text) - 1


def _split(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for n, c in enumerate(text):
        depth += (c in "(<[") - (c in ")>]")
        if c == "," and depth == 0:
            parts.append(text[start:n].strip())
            start = n + 1
    last = text[start:].strip()
    return [*parts, last] if last and last != "void" else parts


def ttir_functions(plan: Plan, source: str) -> dict[str, list[str]]:
    """Functions of a TTIR text with their parameters; PlanError for a text that is none."""
    try:
        return {f.name: [n for n, _ in f.params] for f in parse(source, plan.source, own=True)}
    except ImportRefusal as e:
        raise PlanError(str(e)) from None


def python_functions(plan: Plan, source: str) -> dict[str, list[str]]:
    """Functions at module level with the names of their parameters; PlanError for no Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        line = getattr(e, "lineno", None) or 1
        raise PlanError(f"{plan.source}:{line}: not Python: {getattr(e, 'msg', e)}") from None
    out = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            if node.name in out and any(c.kernel == node.name for c in plan.launches):
                raise PlanError(
                    f"{plan.source}:{node.lineno}: {node.name} is defined twice; give each kernel "
                    "a name of its own"
                )
            a = node.args
            out[node.name] = [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            out.setdefault(node.targets[0].id, [])  # a jitted function under another name
    return out
