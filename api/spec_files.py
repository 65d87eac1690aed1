"""Reading spec files for commands: every way a path can be wrong gets one message and its cure."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from opwright.outcome import USAGE, Problem, file_problem

if TYPE_CHECKING:
    from opwright.compiler.elaborate import Spec
    from opwright.grammar.diagnostics import Diagnostic


def read_bytes(path: Path) -> bytes:
    """The bytes of a spec; `Problem` for a path that is not a readable file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise Problem(f"{path}: no such file", suggestion(path)) from None
    except IsADirectoryError:
        inside = _first_spec(path)
        cure = f"name a spec in it, for example {inside}" if inside else "name a file in it"
        raise Problem(f"{path} is a folder, not a spec", cure) from None
    except OSError as error:
        raise file_problem(error, path) from None


def _first_spec(folder: Path) -> Path | None:
    """A spec of a folder or of those just below it; a whole disk is not searched."""
    for pattern in ("*.op", "*/*.op"):
        found = list(islice(folder.glob(pattern), 100))
        if found:
            return min(found)
    return None


def suggestion(path: Path) -> str:
    """What may have been meant by a path that does not exist."""
    folder = path.parent
    near = [p for p in folder.glob("*.op")] if folder.is_dir() else []
    library = library_folder()
    if library is not None:
        near += library.rglob("*.op")
    by_stem = {p.stem: p for p in reversed(near)}
    match = difflib.get_close_matches(path.stem, by_stem, 1, 0.7)
    return f"did you mean {relative(by_stem[match[0]])}?" if match else "check the path"


def library_folder() -> Path | None:
    """The folder of the operator library that this installation ships."""
    import opwright.specs

    return Path(opwright.specs.__file__).parent if opwright.specs.__file__ else None


def relative(path: Path) -> Path:
    """The path from the current folder where that is shorter."""
    try:
        return path.resolve().relative_to(Path.cwd())
    except ValueError:
        return path


def read_text(path: Path) -> str:
    """The text of a spec; `Problem` also for bytes that are not UTF-8."""
    from opwright.grammar.diagnostics import DiagnosticError
    from opwright.grammar.parser import decode

    try:
        return decode(read_bytes(path), str(path))
    except DiagnosticError as error:
        found = error.diagnostics[0]
        raise Problem(found.headline, found.cure, USAGE) from None


def open_spec(path: Path) -> Spec:
    """A parsed spec; `Problem` for a file that cannot be read, DiagnosticError for its syntax."""
    from opwright.compiler.elaborate import parse_spec
    from opwright.verify.cases import know

    spec = parse_spec(read_text(path), str(path))
    know(path, spec.names)
    return spec


def pick_operator(spec: Spec, name: str | None) -> str:
    """The named operator, or the only one; `Problem` with the names there are."""
    names = spec.names
    if name is None and len(names) == 1:
        return names[0]
    if name in names:
        return str(name)
    if name is None:
        raise Problem(
            f"{spec.filename} has {len(names)} operators", f"name one: --op {' | '.join(names)}"
        )
    near = difflib.get_close_matches(name, names, 1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise Problem(
        f"{spec.filename} has no operator {name}", f"{meant}its operators: {', '.join(names)}"
    )


def parse_types(texts: Iterable[str]) -> dict[str, str]:
    """`T=f32` options as a mapping; `Problem` for anything else."""
    from opwright.ir.dtypes import DTYPES

    out = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or value.strip() not in DTYPES:
            known = ", ".join(DTYPES)
            raise Problem(f"{text!r} binds no type", f"write T=f32; element types: {known}")
        out[name.strip()] = value.strip()
    return out


def print_diagnostics(found: Iterable[Diagnostic], file: TextIO | None = None) -> None:
    """Render diagnostics with their source lines (on standard error), a blank line between two."""
    from opwright.grammar.diagnostics import in_order, render

    sources: dict[str, str] = {}
    for number, one in enumerate(in_order(found)):
        if one.filename not in sources:
            try:
                raw = Path(one.filename).read_bytes()
            except OSError:
                raw = b""
            sources[one.filename] = raw.decode("utf-8", errors="replace")
        if number:
            print(file=file or sys.stderr)
        print(render(one, sources[one.filename]), file=file or sys.stderr)
