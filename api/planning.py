"""`opwright plan`: a candidate folder from a kernel's file, with holes where it says too little."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opwright.outcome import HOLDS, NO, Problem, print_json
from opwright.spec_files import open_spec, pick_operator, print_diagnostics, relative

if TYPE_CHECKING:
    from opwright.compiler.planning import Draft, Given
    from opwright.ir.signature import Signature

BACKENDS = {".py": "triton", ".cu": "cuda", ".cuh": "cuda", ".cpp": "cpp", ".cc": "cpp"}
TARGETS = {"triton": "sm_90", "cuda": "sm_90", "cpp": "cpu"}
FILES = {"triton": "kernel.py", "cuda": "kernel.cu", "cpp": "kernel.cpp"}


def plan(
    path: Path,
    kernel: str,
    out: Path,
    name: str | None,
    types: dict[str, str],
    target: str,
    given: Given,
    force: bool,
    as_json: bool,
) -> int:
    """Write candidate.json and the source; yes when nothing is missing."""
    from opwright.compiler.planning import draft
    from opwright.grammar.diagnostics import DiagnosticError

    file, entry = split(kernel)
    backend = BACKENDS.get(file.suffix)
    if backend is None:
        raise Problem(f"{file}: not a kernel's file", f"known: {', '.join(BACKENDS)}")
    try:
        spec = open_spec(path)
        op = spec.operator(pick_operator(spec, name), types)
    except DiagnosticError as error:
        if as_json:
            from opwright.grammar.diagnostics import to_json

            print_json({"diagnostics": [to_json(d) for d in error.diagnostics]})
        print_diagnostics(error.diagnostics)
        return NO
    signature, source, notes, hints = read(file, entry, backend, given)
    own = {p.name for p in signature.parameters}
    given = replace(given, const={k: v for k, v in given.const.items() if k in own})
    try:
        made = draft(op, signature, backend, target or TARGETS[backend], FILES[backend], given)
    except ValueError as error:
        names = ", ".join(p.name for p in signature.parameters)
        raise Problem(str(error), f"its parameters: {names}") from None
    text = json.dumps(made.document, indent=2) + "\n"
    for target_file, content in ((out / "candidate.json", text), (out / FILES[backend], source)):
        writable(target_file, content, file, force)
    out.mkdir(parents=True, exist_ok=True)
    (out / FILES[backend]).write_text(source, encoding="utf-8")
    (out / "candidate.json").write_text(text, encoding="utf-8")
    if as_json:
        print_json(
            {
                "folder": str(out),
                "candidate": made.document,
                "matched": [{"parameter": p, "is": v, "why": w} for p, v, w in made.told],
                "holes": [{"where": w, "what": h} for w, h in made.holes],
                "notes": list(notes),
                "tuned": hints,
            }
        )
    else:
        tell(made, notes, hints, out, path)
    return NO if made.holes else HOLDS


def writable(path: Path, content: str, file: Path, force: bool) -> None:
    """`Problem` for a file that is there and says something else, or is the kernel's own."""
    if not path.exists() or path.read_text(encoding="utf-8", errors="replace") == content:
        return
    if path.samefile(file):
        raise Problem(f"{path} is the kernel's own file", "name another folder: --out FOLDER")
    if not force:
        raise Problem(f"{path} exists", "add --force, or name another --out")


def split(kernel: str) -> tuple[Path, str | None]:
    """`file.py:name` as a path and a name."""
    head, colon, tail = kernel.rpartition(":")
    if colon and tail.isidentifier():
        return Path(head), tail
    return Path(kernel), None


def read(
    file: Path, entry: str | None, backend: str, given: Given
) -> tuple[Signature, str, Sequence[str], dict[str, str]]:
    """The kernel's signature, the source to ship, what was decided, and what a tuner would set."""
    from opwright.ir.launch import ImportRefusal

    if not file.is_file():
        raise Problem(f"{file}: no such file", "give FILE or FILE:KERNEL")
    try:
        if backend == "triton":
            from opwright.backends.triton.policy import check_policy
            from opwright.backends.triton.signature import signature
            from opwright.backends.triton.slicing import cut

            found = cut(file, entry, {k: repr(v) for k, v in given.const.items()})
            check_policy(found.source, file.name)
            made = signature(found.source, found.kernel, file.name)
            return made, found.source, found.notes, dict(found.constants)
        from opwright.compiler.c_signature import c_signature

        text = file.read_text(encoding="utf-8")
        return c_signature(text, entry, file.name, backend == "cuda"), text, (), {}
    except ImportRefusal as error:
        raise Problem(
            str(error), "docs/verifying.md says what a kernel's file may hold", NO
        ) from None


def tell(made: Draft, notes: Sequence[str], hints: dict[str, str], out: Path, spec: Path) -> None:
    """What stands for what, why, and what is missing."""
    width = max([len(p) for p, _, _ in made.told] + [len(w) for w, _ in made.holes] + [6])
    for p, value, why in made.told:
        print(f"{p:<{width}}  = {value:<24}  {why}")
    for fact in made.document.get("facts", []):
        print(f"{'fact':<{width}}  {fact}")
    for note in notes:
        print(f"{'note':<{width}}  {note}")
    for where, what in made.holes:
        said = f"; the file says {hints[where]}" if where in hints else ""
        print(f"{where:<{width}}  ? {what}{said}")
    print(f"\nwrote {relative(out / 'candidate.json')}")
    if made.holes:
        count = len(made.holes)
        print(
            f"{count} hole{'s' if count > 1 else ''} to fill, "
            "in the file or by --arg, --const, --grid"
        )
    else:
        print(f"next: opwright verify {relative(spec)} {relative(out)}")


def assignments(texts: Sequence[str], what: str) -> dict[str, str]:
    """`NAME=VALUE` options."""
    out = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier() or not value.strip():
            raise Problem(f"{text!r} is no {what}", f"write --{what} NAME=VALUE")
        out[name.strip()] = value.strip()
    return out


def constants(texts: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` of constants: numbers, truth values, strings."""
    out: dict[str, Any] = {}
    for name, value in assignments(texts, "const").items():
        if value in ("None", "null"):
            out[name] = None
            continue
        if value in ("True", "true", "False", "false"):
            out[name] = value.lower() == "true"
            continue
        try:
            out[name] = int(value, 0)
        except ValueError:
            try:
                out[name] = float(value)
            except ValueError:
                out[name] = value.strip("'\"")
    return out


def several(text: str) -> tuple[str, ...]:
    """Expressions between commas that no bracket holds."""
    out, depth, start = [], 0, 0
    for n, c in enumerate(text):
        depth += (c in "([") - (c in ")]")
        if c == "," and depth == 0:
            out.append(text[start:n].strip())
            start = n + 1
    out.append(text[start:].strip())
    return tuple(x for x in out if x)


def extents(text: str) -> tuple[int, ...]:
    """Whole numbers between commas."""
    try:
        return tuple(int(x) for x in text.split(",") if x.strip())
    except ValueError:
        raise Problem(f"{text!r} is no block", "write --block 256 or --block 32,8") from None
