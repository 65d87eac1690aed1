"""Candidate folders as solutions: sources, and an entry that launches what the plan says.

The entry is generated from the plan, as the launch code of packages is; candidate.json travels
beside it, so that the solution is a candidate again when it comes back.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from opwright.backends.cpp.driver import driver_source
from opwright.compiler.candidates import TILE_FILE, Candidate
from opwright.compiler.flashinfer_schema import (
    Definition,
    FormatError,
    Solution,
    SolutionSpec,
    SourceFile,
)
from opwright.compiler.torch_reference import TORCH, PrintError, number_text, python_name
from opwright.ir.expr import Expr, leaves
from opwright.ir.launch import BoundPlan, Scalar, bind_plan
from opwright.ir.op import Operator
from opwright.ir.tiletext import show_program

AUTHOR = "opwright"


def solution_of(c: Candidate, op: Operator, d: Definition) -> Solution:
    """The solution of a candidate; FormatError for a backend without an entry."""
    plan = c.plan
    files = {plan.source: c.source}
    hardware = "cuda"
    style = True
    binding = None
    if plan.backend == "cpp":
        files["driver.cpp"] = driver_source(plan, op)
        files["main.cpp"] = _torch_binding(op, d)
        entry, language, binding, hardware = "main.cpp::run", "cpp", "torch", "cpu"
    elif plan.backend == "triton" and plan.source.endswith(".py"):
        entry, language = "main.py::run", "triton"
        files["main.py"] = c.source.rstrip("\n") + "\n\n\n" + _launches(bind_plan(plan, op), op, d)
    elif plan.backend == "jax":
        entry, language, style, hardware = "main.py::run", "python", False, "cpu"
        files["main.py"] = c.source.rstrip("\n") + "\n\n\n" + _arrays(c, op, d)
    else:
        raise FormatError(f"{plan.source}: a {plan.backend} candidate has no entry as a solution")
    files["candidate.json"] = json.dumps(plan.to_json(), indent=2) + "\n"
    if c.program is not None:
        files[TILE_FILE] = show_program(c.program)
    needs = {"triton": ["triton"], "python": ["jax"]}.get(language, [])
    return Solution(
        name=f"{d.name}_{plan.backend}_{c.digest.removeprefix('sha256:')[:8]}",
        definition=d.name,
        author=AUTHOR,
        spec=SolutionSpec(
            language=language,  # type: ignore[arg-type]
            target_hardware=[hardware],
            entry_point=entry,
            dependencies=needs,
            destination_passing_style=style,
            binding=binding,  # type: ignore[arg-type]
        ),
        sources=[SourceFile(path=k, content=v) for k, v in files.items()],
    )


# -- Python entries --------------------------------------------------------------------------------


def _sizes(op: Operator, given: Sequence[str]) -> list[str]:
    """Statements that name every size."""
    out, known = [], set(given)
    for t in op.inputs:
        for n, a in enumerate(t.axes):
            if a.hi.op == "size" and a.hi.attr not in known:
                known.add(a.hi.attr)
                out.append(f"    {python_name(a.hi.attr)} = {python_name(t.name)}.shape[{n}]")
    return out


def _text(e: Expr) -> str:
    if any(str(x.attr).startswith("aligned(") for x in leaves(e, "param")):
        name, _, size = str(next(iter(leaves(e, "param"))).attr)[8:-1].partition(",")
        return f"{python_name(name.strip())}.data_ptr() % {int(size)} == 0"
    try:
        return number_text(e)
    except PrintError as error:
        raise FormatError(f"a launch: {error}") from None


def _launches(bound: BoundPlan, op: Operator, d: Definition) -> str:
    """`run` with outputs as last arguments, which launches every kernel in order."""
    names = [python_name(n) for n in (*d.inputs, *d.outputs)]
    lines = [f"def run({', '.join(names)}):", *_sizes(op, list(d.inputs))]
    for f in bound.facts:
        lines.append(f"    if not ({_text(f)}):")
        lines.append('        raise ValueError("this solution does not take such a call")')
    first = python_name(next(iter(d.inputs), next(iter(d.outputs))))
    for b in bound.buffers.values():
        if b.role == "plan":
            shape = ", ".join(_text(e) for e in b.shape)
            comma = "," if len(b.shape) == 1 else ""
            make = "zeros" if b.init == "zero" else "empty"
            lines.append(
                f"    {python_name(b.name)} = torch.{make}(({shape}{comma}), "
                f"dtype=torch.{TORCH[b.dtype.name]}, device={first}.device)"
            )
    for c in bound.launches:
        grid = ", ".join(_text(g) for g in c.grid)
        args = [_text(a.expr) if isinstance(a, Scalar) else python_name(a.name) for a in c.args]
        args += [f"{k}={v!r}" for k, v in c.const.items()]
        args += [f"{k}={c.extra[k]!r}" for k in ("num_warps", "num_stages") if k in c.extra]
        lines.append(f"    grid = ({grid},)")
        lines.append("    if all(grid):")
        lines.append(f"        {c.kernel}[grid]({', '.join(args)})")
    return "import torch\n\n\n" + "\n".join(lines) + "\n"


def _arrays(c: Candidate, op: Operator, d: Definition) -> str:
    """`run` that hands PyTorch's tensors to a function of JAX and its results back."""
    from opwright.compiler.functional import arrays_from

    made = arrays_from(c, op)
    own = made.source[len(c.source.rstrip("\n")) + 1 :].strip("\n")
    order = [t.name for t in op.inputs] + [p.name for p in op.params] + list(op.free_sizes)
    inputs = {t.name for t in op.inputs}
    args = [f"jnp.from_dlpack({python_name(n)})" if n in inputs else python_name(n) for n in order]
    wide = ['jax.config.update("jax_enable_x64", True)', ""] if made.wide else []
    lines = [
        *wide,
        f"def run({', '.join(python_name(n) for n in d.inputs)}):",
        f"    made = {made.function}({', '.join(args)})",
        "    results = made if isinstance(made, tuple) else (made,)",
        "    found = tuple(torch.from_dlpack(x) for x in results)",
        "    return found if len(found) > 1 else found[0]",
    ]
    return f"import torch\n\n{own}\n\n\n" + "\n".join(lines) + "\n"


# -- C++ entries -----------------------------------------------------------------------------------


def _torch_binding(op: Operator, d: Definition) -> str:
    """`run` for PyTorch's extensions: pointers, sizes and strides as the driver takes them."""
    tensors = [t.name for t in (*op.inputs, *op.outputs)]
    known = {p.name: p.dtype.kind for p in op.params} | {s: "int" for s in op.free_sizes}
    kinds = {"real": "double", "int": "int64_t", "bool": "bool"}
    args = [f"torch::Tensor {n}" if n in tensors else f"{kinds[known[n]]} {n}"
            for n in (*d.inputs, *d.outputs)]  # fmt: skip
    sizes = []
    for s in op.sizes:
        at = next(
            (f"{t.name}.size({n})" for t in op.inputs for n, a in enumerate(t.axes)
             if a.hi.op == "size" and a.hi.attr == s),
            s,
        )  # fmt: skip
        sizes.append(at)
    ints = [*sizes, *(f"int64_t({p.name})" for p in op.params if p.dtype.kind != "real")]
    ints += [f"{t.name}.stride({n})" for t in (*op.inputs, *op.outputs)
             for n in range(len(t.axes))]  # fmt: skip
    reals = [f"double({p.name})" for p in op.params if p.dtype.kind == "real"]
    pointers = ", ".join(f"{n}.data_ptr()" for n in tensors)
    return f"""\
#include <torch/extension.h>

extern "C" int32_t opwright_run(void *const *, const int64_t *, const double *, int32_t);

void run({", ".join(args)}) {{
    void *buffers[] = {{{pointers}}};
    int64_t integers[] = {{{", ".join(ints or ["0"])}}};
    double numbers[] = {{{", ".join(reals or ["0"])}}};
    TORCH_CHECK(opwright_run(buffers, integers, numbers, 0) == 0, "no memory for scratch");
}}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {{ m.def("run", &run); }}
"""
