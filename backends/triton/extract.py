"""Runs in a process of its own: imports a checked Triton source and prints the TTIR of kernels.

Reads one request as JSON from standard input and writes one answer to the file it names. Nothing
of opwright is imported here, nor is this file imported by opwright.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
import traceback
from typing import Any

# what a candidate may say of a constant that is no number: a type of the language
TYPES = "tl."


def load(path: str) -> Any:
    """The candidate's module; functions need a file for their source text."""
    spec = importlib.util.spec_from_file_location("candidate", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["candidate"] = module
    spec.loader.exec_module(module)
    return module


def gpu_target(name: str) -> Any:
    from triton.backends.compiler import GPUTarget

    if name.startswith("gfx"):
        return GPUTarget("hip", name, 64)
    digits = name.removeprefix("sm_").rstrip("af")
    return GPUTarget("cuda", int(digits) if digits.isdigit() else 80, 32)


def constant(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(TYPES):
        import triton.language as tl

        return getattr(tl, value[len(TYPES) :])
    return value


def accepted(function: Any, offered: dict[str, Any]) -> dict[str, Any]:
    """The offered arguments that this version's function has."""
    return {k: v for k, v in offered.items() if k in inspect.signature(function).parameters}


def signature(kernel: Any, request: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Types of parameters in order, and constants; ValueError where the plan does not fit."""
    given = dict(request["const"])
    types: dict[str, str] = {}
    constants: dict[str, Any] = {}
    rest = list(request["args"])
    parameters = inspect.signature(kernel.fn).parameters
    fixed = {p.name for p in getattr(kernel, "params", ()) if p.is_constexpr}
    for name, p in parameters.items():
        if name in given:
            constants[name] = constant(given.pop(name))
        elif name not in fixed and rest:
            types[name] = rest.pop(0)
            continue
        elif p.default is not inspect.Parameter.empty:
            constants[name] = getattr(p.default, "value", p.default)
        else:
            kind = "constant" if name in fixed else "argument"
            raise ValueError(f"the plan gives no {kind} {name} of {request['kernel']}")
        types[name] = "constexpr"
    if rest:
        raise ValueError(f"the plan gives {request['kernel']} {len(rest)} arguments too many")
    if given:
        raise ValueError(f"{request['kernel']} has no parameter {sorted(given)[0]}")
    return types, constants


def ttir(module: Any, request: dict[str, Any]) -> str:
    from triton._C.libtriton import ir
    from triton.compiler import ASTSource
    from triton.compiler.compiler import make_backend

    kernel: Any = getattr(module, request["kernel"], None)
    while type(kernel).__name__ in ("Autotuner", "Heuristics"):  # the plan gives all constants
        kernel = kernel.fn
    if kernel is None or not hasattr(kernel, "fn"):
        raise ValueError(f"the source has no kernel {request['kernel']}")
    types, constants = signature(kernel, request)
    target = gpu_target(request["target"])
    backend = make_backend(target)
    options = backend.parse_options({"debug": False, **request["options"]})
    names = list(types)
    places = {(names.index(n),): v for n, v in constants.items()}
    source = ASTSource(kernel, signature=types, constexprs=places, attrs={})
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    generators = backend.get_codegen_implementation(options)
    offered = {
        "target": target,
        "options": options,
        "codegen_fns": generators,
        "module_map": backend.get_module_map(),
        "context": context,
    }
    made = source.make_ir(**accepted(source.make_ir, offered))
    arch = target.arch if isinstance(target.arch, int) else 0
    more = {"mod": made, "metadata": {}, "opt": options, "options": options, "capability": arch}
    return str(backend.make_ttir(**accepted(backend.make_ttir, more)))


def reason(error: BaseException, path: str) -> dict[str, Any]:
    """What went wrong and on which line of the candidate."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    line, text = (lines[-1] if lines else 0) or 0, ""
    at: BaseException | None = error
    while at is not None:  # the innermost place and the innermost message
        node: Any = getattr(at, "node", None)
        source = getattr(at, "src", None)
        if hasattr(node, "lineno") and isinstance(source, str):
            with open(path, encoding="utf-8") as f:
                before, found, _ = f.read().partition(source.splitlines()[0])
            line = before.count("\n") + node.lineno if found else line
        own = getattr(at, "error_message", None) or ("" if node is not None else str(at))
        text = own or text
        at = at.__cause__
    return {"error": text or type(error).__name__, "line": line}


def main() -> None:
    import warnings

    warnings.simplefilter("ignore")
    request = json.load(sys.stdin)
    path = request["source"]
    answers: list[dict[str, Any]] = []
    try:
        import triton

        version = triton.__version__
        module = load(path)
        for kernel in request["kernels"]:
            try:
                answers.append({"ttir": ttir(module, kernel)})
            except BaseException as e:  # whatever the front end raises is the answer
                answers.append(reason(e, path))
        out: dict[str, Any] = {"version": version, "answers": answers}
    except BaseException as e:
        out = reason(e, path)
    with open(request["answer"], "w", encoding="utf-8") as f:
        json.dump(out, f)


if __name__ == "__main__":
    main()
