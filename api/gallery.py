"""The gallery: one page that lists the operators of a folder, made from their specs alone.

`python -m opwright.gallery` writes docs/gallery.md of this tree from the shipped specs; with
arguments, `python -m opwright.gallery FOLDER PAGE`. A heading is a folder, an entry an operator:
what it computes, its interface, its contract, and what it is measured on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from opwright.grammar import ast
from opwright.grammar.format import scalar
from opwright.grammar.format_expr import format_expr
from opwright.grammar.parser import parse_file

FAMILIES = {
    "nn": "Activations, normalisation and layers",
    "reduce": "Reductions",
    "scan": "Scans",
    "linalg": "Products of matrices",
    "conv": "Convolutions",
    "pool": "Pooling",
    "attention": "Attention and positions",
    "fused": "Layers that are fused",
    "loss": "Losses",
    "moe": "Mixtures of experts",
    "sparse": "Sparse products, gathering and scattering",
    "quant": "Quantised products",
    "sampling": "Sampling",
    "optim": "Steps of optimisers",
    "recurrent": "Recurrent cells and state-space scans",
}
HEAD = """# The operator library

{count} operators in {families}. This page is made from the specs by `make gallery`; what it says is what they say.
Every entry has the operator's sizes and types, its definition, what it requires and promises, and its workloads.

"""  # noqa: E501


def gallery(folder: Path, link: str = "") -> str:
    """The page of every `.op` file below a folder; `link` leads from the page to the folder.

    Raises OSError, and DiagnosticError for a spec that does not parse.
    """
    families: dict[str, list[tuple[str, ast.Op, str]]] = {}
    for path in sorted(folder.rglob("*.op")):
        at = path.relative_to(folder)
        text = path.read_text(encoding="utf-8")
        for op in parse_file(path).ops:
            families.setdefault(at.parent.as_posix(), []).append((at.as_posix(), op, text))
    known = list(FAMILIES)
    order = sorted(families, key=lambda f: (known.index(f) if f in known else len(known), f))
    count = sum(len(one) for one in families.values())
    several = "1 family" if len(families) == 1 else f"{len(families)} families"
    parts = [HEAD.format(count=count, families=several)]
    for family in order:
        title = FAMILIES.get(family, family)
        names = ", ".join(f"[{op.name}](#{op.name})" for _, op, _ in families[family])
        parts.append(f"- **{title}**: {names}\n")
    for family in order:
        parts.append(f"\n## {FAMILIES.get(family, family)}\n")
        parts += [entry(op, text, f"{link}{at}") for at, op, text in families[family]]
    return "".join(parts)


def entry(op: ast.Op, text: str, link: str) -> str:
    """One operator of a spec as a section of a page."""
    shown: list[ast.Item] = []
    shown += [i for i in op.items if isinstance(i, ast.Dims | ast.Where | ast.TypeDecl)]
    shown += [i for i in op.items if isinstance(i, ast.Param | ast.Let | ast.Inputs | ast.Outputs)]
    shown.sort(key=lambda item: item.span.start)
    contract = (ast.Requires, ast.Ensures, ast.Law, ast.Tolerance, ast.Grad)
    promised = [item for item in op.items if isinstance(item, contract)]
    blocks = [
        source(text, shown),
        source(text, op.of(ast.Def)),
        source(text, promised),
    ]
    doc = f"{op.doc} " if op.doc else ""
    lines = [f"\n### {op.name}\n", f"\n{doc}[{Path(link).name}]({link})\n"]
    lines.append(f"\n`{signature(op)}`\n")
    lines.append("\n```text\n" + "\n\n".join(b for b in blocks if b) + "\n```\n")
    if op.workloads:
        lines.append("\n| workload | weight | at |\n|---|---|---|\n")
    for w in op.workloads:
        if isinstance(w, ast.TraceWorkload):
            lines.append(f"| `{w.path}` | {w.weight.text} | the shapes that it lists |\n")
        else:
            lines.append(f"| {w.name} | {w.weight.text} | {bindings(w)} |\n")
    return "".join(lines)


def signature(op: ast.Op) -> str:
    """What goes in and what comes out, with types and shapes."""
    ins, outs = (", ".join(map(_tensor, tensors)) for tensors in (op.inputs, op.outputs))
    return f"{op.name}({ins}) -> {outs}"


def _tensor(t: ast.TensorDecl) -> str:
    shape = ", ".join(_extent(e) for e in t.shape)
    return f"{t.name}: {scalar(t.type)}" + (f"[{shape}]" if shape else "")


def _extent(e: ast.Extent) -> str:
    return f"{e.name}..." if isinstance(e, ast.Splat) else format_expr(e)


def bindings(w: ast.Workload) -> str:
    """The sizes, types and distributions of a workload."""
    out = []
    for b in w.bindings:
        if isinstance(b, ast.BindValue):
            out.append(f"{b.name} = {format_expr(b.value)}")
        elif isinstance(b, ast.BindDtype):
            out.append(f"{b.name} = {b.dtype.name}")
        else:
            args = ", ".join(format_expr(a) for a in b.args)
            out.append(f"{b.name} ~ {b.distribution}({args})")
    return ", ".join(out)


def source(text: str, items: Iterable[ast.Node]) -> str:
    """The lines of items as they stand in the spec, moved to the left."""
    lines = text.splitlines()
    out: list[str] = []
    for item in items:
        first, last = item.span.line - 1, item.span.end_line
        out += [line.removeprefix("  ") for line in lines[first:last]]
    return "\n".join(out)


def main(arguments: Sequence[str]) -> int:
    """Write a page: `FOLDER PAGE`, by default those of this tree."""
    root = Path(__file__).resolve().parent.parent
    folder, page = map(Path, arguments) if arguments else (root / "specs", root / "docs/gallery.md")
    page.write_text(gallery(folder, relative(folder, page)), encoding="utf-8")
    return 0


def relative(folder: Path, page: Path) -> str:
    """How a page leads to a folder, with a slash at its end."""
    to, start = folder.resolve(), page.resolve().parent
    up = 0
    while not to.is_relative_to(start):
        start, up = start.parent, up + 1
    return "../" * up + f"{to.relative_to(start).as_posix()}/"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
