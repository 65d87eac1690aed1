"""Candidate folders: candidate.json, the source, and the TileIR text that our own sources were
printed from.

A folder is read back as what it claims to be: the text form must parse, and printing it must give
the source and the plan that lie beside it. Where it does not, the source is a stranger's and no
statement about the TileIR is one about the source.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from opwright.backends.cpp.plan import make_plan, print_for
from opwright.ir.expr import ExprError
from opwright.ir.launch import with_room
from opwright.ir.op import Operator
from opwright.ir.plan import Plan, PlanError, load
from opwright.ir.tile import TileProgram
from opwright.ir.tiletext import ParseError, digest, parse_program, show_program

TILE_FILE = "kernel.tile"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A folder's content. `program` is the TileIR that its source was printed from, when it was;
    `stranger` says why there is none; `fault` why the TileIR text itself is wrong."""

    plan: Plan
    source: str
    program: TileProgram | None = None
    stranger: str = ""
    fault: str = ""

    @property
    def digest(self) -> str:
        """The hash of the source, as verdicts name it."""
        return "sha256:" + hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def subject(self) -> str:
        """What verdicts name that stand on the printer; without a TileIR, the source."""
        own = f"{self.plan.source} {self.digest}"
        if self.program is None:
            return own
        return f"TileIR {digest(self.program)}, printer trusted for {own}"


def printed(program: TileProgram, op: Operator, isa: str) -> Candidate:
    """The candidate that our printer makes of a program."""
    plan = make_plan(program, op, target=f"cpu({isa})")
    return Candidate(plan, print_for(program, op, isa), program)


def write(candidate: Candidate, folder: Path) -> None:
    """The folder, written whole: to a temporary name beside it, then renamed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        os.chmod(temporary, 0o755)
        (temporary / candidate.plan.source).write_text(candidate.source)
        text = json.dumps(candidate.plan.to_json(), indent=2) + "\n"
        (temporary / "candidate.json").write_text(text)
        if candidate.program is not None:
            (temporary / TILE_FILE).write_text(show_program(candidate.program))
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def read(folder: Path, op: Operator) -> Candidate:
    """The candidate of a folder, for one binding of the operator's types.

    Raises PlanError for a plan or source that cannot be read at all.
    """
    plan = load(folder)
    name, _, version = plan.op.partition("@")
    if name != op.name or version != op.version:
        raise PlanError(
            f"{folder}: the candidate is for {plan.op}, the spec defines {op.name}@{op.version}"
        )
    try:
        source = (folder / plan.source).read_text()
    except OSError as e:
        raise PlanError(f"{folder / plan.source}: cannot be read: {e.strerror or e}") from None
    except UnicodeDecodeError:
        raise PlanError(f"{folder / plan.source}: not UTF-8") from None
    if not source.strip():
        raise PlanError(f"{folder / plan.source}: the file is empty")
    tile = folder / TILE_FILE
    if plan.backend != "cpp":
        plan = with_room(plan, op)
        return Candidate(plan, source, None, f"{plan.backend} texts are read back as they are")
    if not tile.exists():
        plan = with_room(plan, op)
        return Candidate(plan, source, None, f"there is no {TILE_FILE} beside {plan.source}")
    try:
        program = parse_program(tile.read_text())
    except (ParseError, UnicodeDecodeError, OSError) as e:
        return Candidate(plan, source, None, f"{TILE_FILE} does not parse", f"{TILE_FILE}:{e}")
    return _compared(plan, source, program, op)


def _compared(plan: Plan, source: str, program: TileProgram, op: Operator) -> Candidate:
    """Keep the TileIR only if it is what the source and the plan say."""
    isa = plan.target.removeprefix("cpu(").removesuffix(")") if "(" in plan.target else ""
    try:
        own = printed(program, op, isa)
    except (ExprError, ValueError, KeyError) as e:
        return Candidate(plan, source, None, "", f"{TILE_FILE} cannot be printed: {e}")
    line = _first_difference(source, own.source)
    if line is not None:
        reason = f"{plan.source}:{line} is not what {TILE_FILE} prints there"
        return Candidate(plan, source, None, reason)
    mine, theirs = own.plan.to_json(), plan.to_json()
    for field in sorted(set(mine) | set(theirs)):
        if field not in ("origin", "spec", "types") and mine.get(field) != theirs.get(field):
            reason = f"candidate.json: {field} is not that of {TILE_FILE}"
            return Candidate(plan, source, None, reason)
    return Candidate(plan, source, program)


def _first_difference(a: str, b: str) -> int | None:
    if a == b:
        return None
    left, right = a.splitlines(), b.splitlines()
    for n, (x, y) in enumerate(zip(left, right, strict=False), 1):
        if x != y:
            return n
    return min(len(left), len(right)) + 1
