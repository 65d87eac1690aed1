"""Whether a plan's launches fit the kernels of its source: names, numbers of arguments.

Texts are only looked at here, so that a slip in a plan gets one clear message before any gate runs.
"""

from __future__ import annotations

import ast
import difflib
import re

from opwright.ir.op import Operator
from opwright.ir.plan import Launch, Plan, PlanError

PROGRAM_IDS = 3  # trailing parameters of a C++ kernel


def check_signatures(plan: Plan, source: str, op: Operator) -> None:
    """PlanError for a kernel that the source does not define, or that takes other arguments."""
    if plan.backend in ("cpp", "cuda"):
        found = cpp_kernels(source)
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
        elif plan.backend == "triton":
            _keywords(at, plan.source, launch, found[launch.kernel])


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


def _keywords(at: str, source: str, launch: Launch, parameters: list[str]) -> None:
    strange = [k for k in launch.const if k not in parameters]
    if strange:
        raise PlanError(
            f"{at}.const: {launch.kernel} in {source} has no parameter {strange[0]!r}"
            f"{_meant(strange[0], parameters)}"
        )
    free = [p for p in parameters if p not in launch.const]
    if len(free) != len(launch.args):
        raise PlanError(
            f"{at}.args: {len(launch.args)} arguments, but {launch.kernel} in {source} takes "
            f"{len(free)} besides its constants: {', '.join(free)}"
        )


def cpp_kernels(source: str) -> dict[str, list[str]]:
    """Functions that a C++ text defines with C linkage, with the texts of their parameters."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", " ", source, flags=re.S)
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


def python_functions(plan: Plan, source: str) -> dict[str, list[str]]:
    """Functions at module level with the names of their parameters; PlanError for no Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as e:
        line = getattr(e, "lineno", None) or 1
        raise PlanError(f"{plan.source}:{line}: not Python: {getattr(e, 'msg', e)}") from None
    out = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            a = node.args
            out[node.name] = [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            out.setdefault(node.targets[0].id, [])  # a jitted function under another name
    return out
